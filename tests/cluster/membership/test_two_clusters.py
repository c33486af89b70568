"""Two clusters that meet: neither takes in who is a member of the other, and they never serve at once."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster.events import LinkFailed, LinkRefused, LinkUp, Reset, ViewInstalled
from app.cluster.membership import timing
from app.cluster.view import View
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, a_view, sent_in
from tests.cluster.membership.test_views import Node, of_kind

OLD = a_view("a")  # the cluster of a node that was stopped for long
OTHER = replace(a_view("bc"), cluster_id=99_999, epoch=3)  # what the others have founded meanwhile
LARGER = replace(a_view("acd"), cluster_id=5, epoch=7, nonce=77)


def asked_to_take_in(by: View | None) -> list[object]:
    """What a coordinator alone does for one that asked to join, and whose latest word is that it goes by this view."""
    node = Node("a", "abc").join(OLD)
    node.step(LinkUp("c"))
    node.get("c", pb.HELLO, by=OLD)
    node.now += 0.01
    node.get("c", pb.ACK, by=by)
    return of_kind(node.tick(1.0), ViewInstalled)


def test_who_asks_to_join_is_taken_in() -> None:
    assert asked_to_take_in(OLD)


def test_who_is_a_member_elsewhere_by_now_is_not_taken_in_for_what_it_has_asked_before() -> None:
    assert not asked_to_take_in(OTHER)


def said(node: Node, peer: str, seconds: float) -> list[bool]:
    """Whether each of its messages to the peer, which goes on proving that it lives, supports it."""
    found = []
    until = node.now + seconds
    while node.now < until:
        node.get(peer, pb.PING, by=node.core.view)
        found += [one.message.supports for one in sent_in(node.tick()) if one.peer == peer]
    return found


def go_over(node: Node, view: View, after_s: float) -> None:
    """It meets another cluster, which prevails, and is taken in."""
    node.tick(after_s)
    node.get("d", pb.PING, by=view)
    assert of_kind(node.get("d", pb.VIEW, view=view, by=view), Reset)
    raised = [replace(member, incarnation=node.core.incarnation) if member.address == "b" else member
              for member in a_view("acdb").members]  # fmt: skip
    following = replace(a_view("acdb"), cluster_id=view.cluster_id, epoch=view.epoch + 1, members=tuple(raised))
    node.get("a", pb.VIEW, view=following, by=following)
    assert node.core.is_member


@pytest.mark.parametrize("is_coordinator", [False, True])
def test_whoever_goes_over_to_another_cluster_supports_no_coordinator_while_its_promises_may_count(
    is_coordinator: bool,
) -> None:
    mine = replace(a_view("bc" if is_coordinator else "cb"), cluster_id=9)
    node = Node("b", "abcd")
    node.get("c", pb.VIEW, view=mine, by=mine)
    assert node.core.view == mine
    node.tick(1.0)
    if is_coordinator:  # it grants c a lease
        node.get("c", pb.ASK, by=mine, supports=True)
        grants = [one.message for one in sent_in(node.get("c", pb.ASK, by=mine, supports=True)) if one.kind == "GRANT"]
        left_s = max(grant.span_us for grant in grants) / 1e6
        assert left_s > 0.5
    else:  # it supports c
        node.get("c", pb.PING, by=mine)
        assert any(said(node, "c", 0.1))
        left_s = timing.SUPPORT_S
    began = node.now
    go_over(node, LARGER, 0.05)
    assert not any(said(node, "a", began + left_s - node.now - 0.05))
    assert any(said(node, "a", 0.3))


def test_a_fresh_process_supports_no_coordinator_while_the_promises_of_the_one_before_may_count() -> None:
    view = replace(a_view("ab"), epoch=4)
    node = Node("b", "abc")  # half a second old
    node.get("a", pb.VIEW, view=view, by=view)
    assert not any(said(node, "a", timing.LAPSE_S - 0.5 - 0.05))
    assert any(said(node, "a", 0.2))
    assert INCARNATIONS["b"] == node.core.incarnation


def test_founders_wait_as_well() -> None:
    """There may be servers that are not in their file, and leases that rest on what was promised to those."""
    view = replace(a_view("ab"), epoch=1)
    node = Node("b", "abc")  # half a second old
    node.get("a", pb.VIEW, view=view, by=view)
    assert not any(said(node, "a", timing.LAPSE_S - 0.5 - 0.05))
    assert any(said(node, "a", 0.2))


def test_who_founds_waits_until_nothing_rests_on_the_absence_of_others() -> None:
    node = Node("a", "ab", age_s=10.0)
    node.step(LinkFailed("b"))
    for _ in range(3):  # the last time it has dialled since it proposed the view
        assert node.core.view is None
        node.tick(0.3)
        node.step(LinkRefused("b", 0, True))
    assert node.core.is_member
    assert node.core.lease_until == -inf
    node.tick(timing.LAPSE_S)
    assert node.core.lease_until > node.now


def test_one_whose_file_names_no_other_need_not_wait() -> None:
    node = Node("a", "a", age_s=0.0)
    assert (node.core.is_member, node.core.lease_until) == (True, inf)
