"""Which connections are wanted, and when they are dialled."""

from math import inf

import pytest

from app.cluster.events import CloseLink, OpenLink
from app.cluster.membership import timing
from app.cluster.membership.dialling import Dialler
from app.cluster.membership.state import NodeState
from tests.cluster.membership.parts import INCARNATIONS, a_state, hear, wait


def effects(state: NodeState) -> list[object]:
    taken = list(state.effects)
    state.effects.clear()
    return taken


def opened(*peers: str) -> list[object]:
    return [OpenLink(peer, INCARNATIONS[peer]) for peer in peers]


def test_each_wanted_peer_is_dialled_once_and_what_is_not_wanted_any_more_closed() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("abc")
    assert effects(state) == opened("b", "c")  # never ourselves
    dialler.want("cb")
    assert effects(state) == []
    dialler.want("b")
    assert effects(state) == [CloseLink("c")]
    dialler.want("bc")
    assert effects(state) == opened("c")


def test_what_is_down_is_dialled_again_now_and_then() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("bc")
    effects(state)
    wait(state, timing.DIAL_S)
    dialler.tick()
    assert effects(state) == []  # both are up, or being dialled
    dialler.failed("b")
    dialler.failed("x")
    dialler.tick()
    assert effects(state) == opened("b")
    dialler.failed("b")
    wait(state, timing.DIAL_S - 0.001)
    dialler.tick()
    assert effects(state) == []
    wait(state, 0.002)
    dialler.tick()
    dialler.tick()
    assert effects(state) == opened("b")


def test_a_server_outside_the_view_is_dialled_less_often_unless_it_is_proven_absent() -> None:
    state = a_state("a", "ab", "abcd")
    dialler = Dialler(state)
    dialler.want("bcd")
    effects(state)
    for peer in "bcd":
        dialler.failed(peer)
    state.note_absent("d", state.now)
    wait(state, timing.DIAL_S)
    dialler.tick()
    assert effects(state) == [OpenLink("b", INCARNATIONS["b"]), OpenLink("d", 0)]
    wait(state, timing.DIAL_NON_MEMBER_S - timing.DIAL_S)
    dialler.tick()
    assert effects(state) == [OpenLink("c", 0)]


@pytest.mark.parametrize(("ago_s", "is_dialled"), [(timing.HEARD_S - 0.25, True), (timing.HEARD_S, False)])
def test_one_that_was_heard_just_now_is_dialled_as_a_member_is(ago_s: float, is_dialled: bool) -> None:
    state = a_state("a", "ab", "abc")
    dialler = Dialler(state)
    dialler.want("c")
    effects(state)
    dialler.failed("c")
    wait(state, timing.DIAL_S)
    hear(state, "c", ago_s=ago_s)
    dialler.tick()
    assert bool(effects(state)) == is_dialled


def test_who_asks_to_join_is_dialled_at_once_and_is_unlinked_only_from_then_on() -> None:
    state = a_state("a", "ab", "abc")
    dialler = Dialler(state)
    dialler.want("bc")
    effects(state)
    wait(state, 1.0)
    dialler.asked("c")
    assert effects(state) == []  # it is being dialled
    assert state.of("c").unlinked_at == state.now
    dialler.failed("c")
    dialler.asked("c")
    assert effects(state) == [OpenLink("c", 0)]
    dialler.up("c")
    dialler.asked("c")
    dialler.asked("x")
    assert effects(state) == []
    assert state.of("c").is_linked


def test_links_to_those_who_are_members_no_more_are_ended_and_dialled_anew() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("bc")
    dialler.up("c")
    effects(state)
    wait(state, 1.0)
    dialler.renew("cx")
    assert effects(state) == [CloseLink("c"), *opened("c")]
    assert (state.of("c").is_linked, state.of("c").unlinked_at) == (False, state.now)
    assert dialler.dialled_at("c") == state.now
    assert dialler.dialled_at("x") == -inf


def test_all_that_is_down_can_be_dialled_at_once() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("bc")
    dialler.failed("b")
    effects(state)
    dialler.dial_all()
    assert effects(state) == opened("b")


def test_since_when_a_link_is_wanted_and_down_is_known() -> None:
    state = a_state("a", "ab", "abc")
    dialler = Dialler(state)
    state.of("b").note_link(is_up=False)
    wait(state, 5.0)
    dialler.want("b")
    assert (state.of("b").is_linked, state.of("b").unlinked_awake_s) == (False, 5.0)
    assert state.of("b").unlinked_at == state.now
    wait(state, 1.0)
    dialler.failed("b")
    dialler.tick()
    dialler.want("bc")
    assert (state.of("b").unlinked_awake_s, state.of("c").unlinked_awake_s) == (5.0, 6.0)
    dialler.up("b")
    assert (state.of("b").is_linked, state.of("b").unlinked_awake_s) == (True, inf)
    wait(state, 1.0)
    dialler.closed("b")
    assert (state.of("b").is_linked, state.of("b").unlinked_awake_s) == (False, 7.0)
    dialler.up("b")
    dialler.want("c")
    assert (state.of("b").is_linked, state.of("b").unlinked_awake_s) == (False, inf)


def test_a_link_that_has_ended_is_dialled_at_once_to_learn_whether_the_process_has() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("b")
    effects(state)
    assert state.of("c").is_linked
    dialler.closed("b")
    dialler.closed("c")
    assert effects(state) == opened("b")
    assert not state.of("c").is_linked, "nobody wants that one"


def test_a_link_that_the_peer_has_dialled_is_not_dialled_as_well() -> None:
    state = a_state()
    dialler = Dialler(state)
    dialler.want("b")
    dialler.failed("b")
    dialler.up("b")
    dialler.up("stranger")
    effects(state)
    wait(state, 2 * timing.DIAL_S)
    dialler.tick()
    assert effects(state) == []
