"""`--on-partition serve`: when a side without a quorum goes on alone, into what, and what it takes from others."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster.membership import timing
from app.cluster.membership.detector import ALIVE, DEAD, FAILED, Detector
from app.cluster.membership.split import Split
from app.cluster.membership.state import NodeState
from app.cluster.view import View
from tests.cluster.membership.parts import INCARNATIONS, a_state, a_view, die, enter, wait

APART_S = timing.SPLIT_S


def a_side(me: str = "a", members: str = "abcde", failed: str = "cde", mode: str = "serve") -> tuple[NodeState, Split]:
    """A node that holds these members for silent, from its next look on."""
    state = a_state(me, members, on_partition=mode)
    detector = Detector(state)
    detector.set_members((member, INCARNATIONS[member]) for member in members if member != me)
    for name in failed:
        detector._members[name].state = FAILED
    return state, Split(state, detector)


def due_after(state: NodeState, split: Split, seconds: float, lease_until: float = -inf) -> View | None:
    assert split.due(lease_until) is None  # the first look begins the wait
    wait(state, seconds)
    return split.due(lease_until)


def test_its_first_member_makes_the_next_view_of_those_that_are_left() -> None:
    state, split = a_side()
    view = due_after(state, split, APART_S)
    assert view is not None
    assert (view.addresses, view.epoch) == (("a", "b"), 2)
    assert state.view is not None
    assert view.cluster_id > max(state.view.cluster_id, state.incarnation)
    assert view.nonce >= 1 << 32
    assert "c is cut off" in view.cause
    view.check()


@pytest.mark.parametrize(
    ("me", "failed", "mode", "seconds", "lease_s"),
    [
        ("a", "cde", "refuse", APART_S, -1.0),  # the default
        ("a", "cde", "serve", APART_S - 0.01, -1.0),
        ("a", "cde", "serve", APART_S, 0.01),  # its lease still runs
        ("b", "cde", "serve", APART_S, -1.0),  # a does
        ("a", "de", "serve", APART_S, -1.0),  # three of five are a quorum
    ],
)
def test_not_by_default_nor_too_soon_nor_by_another_nor_with_a_quorum(
    me: str, failed: str, mode: str, seconds: float, lease_s: float
) -> None:
    state, split = a_side(me, failed=failed, mode=mode)
    assert due_after(state, split, seconds, state.now + seconds + lease_s) is None


@pytest.mark.parametrize("why", ["leaving", "no member", "no view"])
def test_nor_by_one_that_has_nothing_to_go_on_with(why: str) -> None:
    state, split = a_side()
    state.leaving = why == "leaving"
    if why == "no member":
        state.is_member = False
    if why == "no view":
        state.view = None
    assert due_after(state, split, APART_S) is None


def test_a_lease_that_has_just_ended_does_not_hold_it_up() -> None:
    state, split = a_side()
    assert due_after(state, split, APART_S, state.now + APART_S) is not None


def test_a_quorum_in_between_begins_the_wait_anew() -> None:
    state, split = a_side()
    split.due(-inf)
    wait(state, APART_S - 0.1)
    split._detector._members["c"].state = ALIVE
    split.due(-inf)
    split._detector._members["c"].state = FAILED
    assert due_after(state, split, 0.2) is None
    wait(state, APART_S)
    assert split.due(-inf) is not None


def test_and_so_does_another_view() -> None:
    state, split = a_side()
    split.due(-inf)
    wait(state, APART_S)
    enter(state, a_view("abcde", nonce=9))
    assert split.due(-inf) is None


def test_who_has_left_for_another_cluster_is_not_of_this_side() -> None:
    state, split = a_side(failed="de")
    state.of("c").view_key = (99, 1, 1)
    split._detector._members["d"].state = DEAD
    view = due_after(state, split, APART_S)
    assert view is not None
    assert view.addresses == ("a", "b")
    assert "c has left for another cluster" in view.cause
    assert "d died" in view.cause


def test_the_dead_that_need_not_be_counted_leave_a_quorum() -> None:
    state, split = a_side(failed="")
    state.config = replace(state.config, bootstrap_patience_s=0.0)
    for name in "cde":
        split._detector._members[name].state = DEAD
    die(state, "c", "d", "e")
    assert due_after(state, split, APART_S) is None


@pytest.mark.parametrize(
    ("mode", "epoch", "members", "lease_s", "is_ours"),
    [
        ("serve", 2, "ab", 0.0, True),
        ("refuse", 2, "ab", 0.0, False),
        ("serve", 1, "ab", 0.0, False),  # not newer than ours
        ("serve", 2, "a", 0.0, False),  # without us
        ("serve", 2, "ab", 0.1, False),  # our lease still runs
    ],
)
def test_a_view_that_others_of_this_side_have_made(
    mode: str, epoch: int, members: str, lease_s: float, is_ours: bool
) -> None:
    state, split = a_side("b", mode=mode)
    view = replace(a_view(members), cluster_id=99, epoch=epoch)
    assert split.is_of_our_side(view, state.now + lease_s) == is_ours


def test_only_a_member_takes_it_over() -> None:
    state, split = a_side("b")
    view = replace(a_view("ab"), cluster_id=99, epoch=2)
    state.is_member = False
    assert not split.is_of_our_side(view, -inf)
    state.view = None
    assert not split.is_of_our_side(view, -inf)


def test_the_view_that_was_left_says_nothing_of_what_lives_now() -> None:
    _, split = a_side()
    left = replace(a_view("abcde"), epoch=5)
    assert not split.is_behind(left)
    split.note_split_from(left)
    for epoch, cluster_id, is_behind in ((5, 7, True), (4, 7, True), (6, 7, False), (5, 8, False)):
        assert split.is_behind(replace(left, epoch=epoch, cluster_id=cluster_id)) == is_behind
