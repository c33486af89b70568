"""The servers that there are change while the core runs."""

import random

import pytest

from app.cluster.events import CloseLink, Datagram, LinkRefused, LinkUp, OpenLink, Reset, Send, ServersChanged, Tick
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import Member, View, to_message
from proto_gen import cluster_pb2 as pb


def a_core(*servers: str) -> ClusterCore:
    return ClusterCore(ClusterConfig("a:1", servers), 1000, 5.0, random.Random(1))


def a_member(*others: str) -> ClusterCore:
    """Of a view of a:1 and these, which are all servers."""
    core = a_core("a:1", *others)
    for peer in others:
        core.step(LinkUp(peer), 5.0)
    members = tuple(Member(name, 1000 if name == "a:1" else 20) for name in ("a:1", *others))
    names = tuple(member.address for member in members)
    view = View(1000, 2, members, ("a:1",) * 256, ((),) * 256, (names[:3],) * 256, "made up", 1)
    message = pb.ClusterMessage(kind=pb.VIEW, incarnation=20, cluster_id=1000, epoch=2, nonce=1, view=to_message(view))
    core.step(Datagram(others[0], message.SerializeToString()), 5.0)
    assert core.is_member
    return core


def opened(effects: list[object]) -> set[str]:
    return {effect.peer for effect in effects if isinstance(effect, OpenLink)}


def hello(core: ClusterCore, peer: str, now: float = 6.0) -> list[object]:
    message = pb.ClusterMessage(kind=pb.HELLO, incarnation=20, stamp_us=1)
    return list(core.step(Datagram(peer, message.SerializeToString()), now))


def test_a_server_that_is_added_is_listened_to_and_gets_a_link() -> None:
    core = a_member("b:1", "c:1")
    hello(core, "d:1")
    assert core.status().dropped == {"stranger": 1}
    assert opened(list(core.step(ServersChanged(("a:1", "b:1", "c:1", "d:1")), 6.0))) == {"d:1"}
    assert any(isinstance(effect, Send) and effect.peer == "d:1" for effect in hello(core, "d:1"))
    assert core.status().dropped == {"stranger": 1}


def test_a_server_that_belongs_no_more_is_a_stranger() -> None:
    core = a_member("b:1")
    core.step(ServersChanged(("a:1", "b:1", "c:1")), 6.0)
    hello(core, "c:1")
    effects = core.step(ServersChanged(("a:1", "b:1")), 6.1)
    assert CloseLink("c:1") in effects
    hello(core, "c:1", 6.2)
    assert core.status().dropped == {"stranger": 1}
    assert "c:1" not in core._state.known
    assert core._coordinator.joiners == {}


def test_absence_counts_only_of_servers_that_belong() -> None:
    """Or fewer than half would be enough to go on."""
    core = a_member("b:1")
    core.step(ServersChanged(("a:1", "b:1", "c:1", "d:1")), 6.0)
    core.step(LinkRefused("c:1", 0, True), 6.0)
    assert core._state.members_needed() == 2
    core.step(ServersChanged(("a:1", "b:1", "d:1")), 6.0)
    assert (core._state.absent, core._state.members_needed()) == (set(), 2)
    core.step(LinkRefused("c:1", 0, True), 6.0)
    assert (core._state.absent, core._state.members_needed()) == (set(), 2), "it was dialled when it belonged"


def test_a_newcomer_begins_anew_with_other_servers() -> None:
    """What it has promised counted among those that there were."""
    core = a_core("a:1", "b:1", "c:1")
    core.step(Tick(), 5.0)
    before = core.incarnation
    effects = core.step(ServersChanged(("a:1", "b:1", "c:1", "d:1")), 5.1)
    assert any(isinstance(effect, Reset) for effect in effects)
    assert core.incarnation > before
    effects = core.step(ServersChanged(("a:1", "b:1", "c:1", "d:1")), 5.2)
    assert not any(isinstance(effect, Reset) for effect in effects), "the same ones"


def test_a_cluster_of_one_can_grow() -> None:
    core = a_core("a:1")
    core.step(Tick(), 5.0)
    assert core.is_member
    effects = list(core.step(ServersChanged(("a:1", "b:1")), 6.0))
    assert (core.is_member, opened(effects)) == (True, {"b:1"})
    assert core.lease_until > 6.0, "half of the servers go on"


@pytest.mark.parametrize(
    ("members", "servers", "needed"),
    [(2, 4, 0), (2, 5, 3), (3, 6, 0), (3, 7, 4), (3, 20, 10), (3, 3, 0), (4, 2, 0)],
)
def test_so_many_at_once_that_too_few_are_left_to_go_on(members: int, servers: int, needed: int) -> None:
    """0: no objection. Twice as many as are members and up are the most."""
    names = [f"{letter}:1" for letter in "abcdefghijklmnopqrst"]
    core = a_member(*names[1:members])
    objection = core.objection_to(names[:servers])
    assert objection == (
        f"{needed} servers would be needed to go on, and {members} are members and up: add {members} at a time at most,"
        " and start them"
        if needed
        else ""
    )
    if not needed:
        core.step(ServersChanged(tuple(names[:servers])), 6.0)
        assert core._state.members_needed() <= members


def test_before_more_are_added_those_that_were_are_to_be_started() -> None:
    core = a_member("b:1")
    core.step(ServersChanged(("a:1", "b:1", "c:1", "d:1")), 6.0)
    assert core.objection_to([f"{letter}:1" for letter in "abcde"]) == (
        "3 servers would be needed to go on, and 2 are members and up: start those that there are first"
    )


def test_outside_anything_goes() -> None:
    core = a_core("a:1", "b:1", "c:1")
    core.step(Tick(), 5.0)
    assert core.objection_to([f"{n}:1" for n in range(20)]) == ""
