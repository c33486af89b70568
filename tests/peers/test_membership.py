"""Membership over real sockets, several nodes in one loop; and with a scripted core: what becomes of each effect."""

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from app.cluster.events import (
    SELF,
    CloseLink,
    Effect,
    Event,
    LeaveRequested,
    Left,
    LinkUp,
    Log,
    MemberStatus,
    OpenLink,
    Reset,
    Send,
    SlotsSynced,
    Status,
    Tick,
    ViewInstalled,
)
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import Member, View
from app.config.servers import Server
from app.front.batch import DatagramBatch
from app.peers.addresses import Peers
from app.peers.datagram_auth import Seals
from app.peers.links import Links
from app.peers.membership import Membership, fresh_incarnation, now
from app.wire.protocol import PLACE_DIGITS, SLOT_COUNT, TYPE_CLUSTER, VALUE_MAX_BYTES
from proto_gen.message_pb2 import Msg
from tests.support.polling import poll_in_loop as poll

DEADLINE_S = 20.0


class Node:
    """A node reduced to its membership."""

    def __init__(self, sockets: tuple[socket.socket, socket.socket], me: Server, servers: list[Server], secret: Any):
        datagrams, listener = sockets
        self.socket = datagrams
        self.name = str(me)
        self.exits: list[int] = []
        peers = Peers(me, servers, socket.AF_INET)
        self.links = Links(listener, peers, secret, incarnation=lambda: self.membership.core.incarnation)
        self.membership = Membership(
            ClusterConfig(self.name, tuple(map(str, servers))),
            peers,
            self.links,
            datagrams,
            secret,
            incarnation=fresh_incarnation(),
            on_exit=self.exits.append,
        )
        self.batch = DatagramBatch(datagrams, 8)
        self.watcher: Any = get_hub().loop.io(datagrams.fileno(), 1)
        self.watcher.start(self.receive)
        self.stopped = False

    @property
    def core(self) -> Any:
        return self.membership.core

    def receive(self) -> None:
        for number in range(self.batch.receive()):
            start, end = self.batch.span(number)
            message = Msg.FromString(bytes(self.batch.buffer[start:end]))
            assert message.type == TYPE_CLUSTER
            self.membership.handle_datagram(message.payload, self.batch.sender(number))

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.membership.stop()
            self.links.stop()
            self.watcher.stop()
            self.socket.close()


def bound() -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a TCP listener of one number."""
    for port in random.sample(range(20_000, 32_000), 100):
        datagrams, listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        try:
            datagrams.bind(("127.0.0.1", port))
            listener.bind(("127.0.0.1", port))
        except OSError:
            datagrams.close()
            listener.close()
            continue
        listener.listen(64)
        for sock in (datagrams, listener):
            sock.setblocking(False)
        return datagrams, listener
    raise RuntimeError("no free port")


@contextmanager
def nodes_of(count: int, secret: bytes | None = None) -> Iterator[list[Node]]:
    sockets = [bound() for _ in range(count)]
    servers = [Server("127.0.0.1", pair[0].getsockname()[1], "127.0.0.1") for pair in sockets]
    nodes = [Node(pair, server, servers, secret) for pair, server in zip(sockets, servers, strict=True)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.stop()
        gevent.sleep(0)
        assert all(not node.exits for node in nodes)


def agree(nodes: list[Node]) -> bool:
    return len({node.core.view.key if node.core.view else None for node in nodes}) == 1 and all(
        node.core.is_member and node.core.member_count == len(node.core.view.members) == len(nodes) for node in nodes
    )


def test_a_cluster_of_one_serves_when_start_returns_and_leaves_at_once() -> None:
    with nodes_of(1) as (node,):
        views: list[tuple[View, bool]] = []
        node.membership.on_view.append(lambda view, is_member: views.append((view, is_member)))
        node.membership.start()
        assert node.core.routes == [SELF] * SLOT_COUNT
        assert node.core.lease_until == inf
        assert [(view.addresses, is_member) for view, is_member in views] == [((node.name,), True)]
        node.membership.leave()
        assert node.membership.left.is_set()


@pytest.mark.parametrize("secret", [None, b"a secret"])
def test_three_agree_lose_one_and_take_leave(secret: bytes | None) -> None:
    with nodes_of(3, secret) as nodes:
        changes: list[list[str]] = []
        nodes[1].membership.on_change.append(lambda: changes.append(list(nodes[1].core.routes)))
        for node in nodes:
            node.membership.start()
        poll(lambda: agree(nodes))
        poll(lambda: nodes[0].core.view.is_balanced() and agree(nodes))
        poll(lambda: changes and changes[-1] == nodes[1].core.routes)
        poll(lambda: {node.core.served.bit_count() for node in nodes} <= {85, 86})
        poll(lambda: all(len(node.links._up) == 2 for node in nodes))
        nodes[2].stop()
        started = time.monotonic()
        poll(lambda: agree(nodes[:2]))
        assert time.monotonic() - started < 5
        assert "2 members" in nodes[0].core.view.describe()
        nodes[1].membership.leave()
        assert nodes[1].membership.left.wait(DEADLINE_S)
        poll(lambda: agree(nodes[:1]))
        for node in nodes[:2]:
            counters = node.membership.snapshot()
            assert counters["cluster_views"] >= 3
            assert counters["cluster_datagrams_received"] > 0
            assert not any("wrong_secret" in name or "unknown_sender" in name for name in counters)


def test_nodes_of_different_secrets_do_not_hear_each_other() -> None:
    with nodes_of(2, b"one") as nodes:
        nodes[1].membership._seals = Seals(b"other", nodes[1].name, [nodes[0].name], 1)
        for node in nodes:
            node.membership.start()
        poll(lambda: all(node.membership.refused["wrong_secret"] > 2 for node in nodes))
        assert [node.core.view for node in nodes] == [None, None]


@pytest.mark.parametrize("secret", [None, b"a secret"])
def test_a_datagram_of_a_stranger_is_refused(secret: bytes | None) -> None:
    with nodes_of(2, secret) as nodes:
        nodes[0].membership.handle_datagram(b"\x08\x01", bytes(16))
        assert nodes[0].membership.refused == {"not_sealed" if secret else "unknown_sender": 1}
        assert nodes[0].membership.received == 0
        assert f"cluster_refused_{'not_sealed' if secret else 'unknown_sender'}" in nodes[0].membership.snapshot()


# With a scripted core.


class Core:
    """Answers each event with the effects that were laid out for it."""

    def __init__(self) -> None:
        self.script: list[list[Effect]] = []
        self.events: list[Event] = []
        self.routes = ["?"] * SLOT_COUNT
        self.lease_until = -inf
        self.wake_at = inf
        self.incarnation = 9
        self.inside = False

    def step(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        return self.script.pop(0) if self.script else []


@pytest.fixture
def scripted() -> Iterator[tuple[Node, Core]]:
    with nodes_of(2) as (node, _):
        core = Core()
        node.membership.core = core  # type: ignore[assignment]
        yield node, core
        node.membership.core.wake_at = inf


VIEW = View(
    5, 3, (Member("a:1", 7),), ("a:1",) * SLOT_COUNT, ((),) * SLOT_COUNT, (("a:1",),) * SLOT_COUNT, "a:1 founded it"
)


def test_effects_are_carried_out_in_order(scripted: tuple[Node, Core], caplog: pytest.LogCaptureFixture) -> None:
    node, core = scripted
    membership = node.membership
    done: list[object] = []
    membership.on_view.append(lambda view, is_member: done.append(("view", view.epoch, is_member)))
    membership.on_reset.append(lambda: done.append("reset"))
    node.links.open = lambda peer, incarnation: done.append(("open", peer, incarnation))  # type: ignore[method-assign]
    node.links.close = lambda peer: done.append(("close", peer))  # type: ignore[method-assign]
    membership._send = lambda peer, payload: done.append(("send", peer, payload))  # type: ignore[method-assign]
    core.script = [
        [
            Send("b:1", b"x"),
            OpenLink("b:1", 3),
            Reset(10),
            ViewInstalled(VIEW, True),
            Log("info", VIEW.describe()),
            Log("warning", "mind this"),
            CloseLink("b:1"),
            Send("b:1", b"y"),
            Left(),
        ]
    ]
    with caplog.at_level("INFO"):
        membership.take(Tick())
    assert done == [
        ("send", "b:1", b"x"),
        ("open", "b:1", 3),
        "reset",
        ("view", 3, True),
        ("close", "b:1"),
        ("send", "b:1", b"y"),
    ]
    assert membership.left.is_set()
    # One line for the view, not two.
    assert [record.msg for record in caplog.records] == ["cluster.reset", "cluster.view", "cluster.note"]


def test_what_an_effect_sets_off_waits_until_the_step_is_done(scripted: tuple[Node, Core]) -> None:
    node, core = scripted
    order: list[str] = []
    node.membership.on_view.append(lambda view, is_member: node.membership.synced("b:1", 1, view.epoch))
    node.links.open = lambda peer, incarnation: order.append(f"open after {len(core.events)}")  # type: ignore[method-assign]
    core.script = [[ViewInstalled(VIEW, True), OpenLink("b:1", 3)], [OpenLink("b:1", 4)]]
    node.membership.leave()
    assert core.events == [LeaveRequested(), SlotsSynced("b:1", 1, 3)]
    assert order == ["open after 1", "open after 2"]


def test_changes_are_told_once_a_turn(scripted: tuple[Node, Core]) -> None:
    node, core = scripted
    told: list[tuple[str, float]] = []
    node.membership.on_change.append(lambda: told.append((core.routes[0], core.lease_until)))
    node.membership.take(Tick())
    gevent.sleep(0)
    assert told == []
    core.routes[0] = "b:1"
    node.membership.take(Tick())
    core.lease_until = inf
    node.membership.take(Tick())
    assert told == []
    gevent.sleep(0)
    assert told == [("b:1", inf)]
    node.membership.take(Tick())
    gevent.sleep(0)
    assert len(told) == 1


def test_the_timer_follows_the_core(scripted: tuple[Node, Core]) -> None:
    node, core = scripted
    core.wake_at = now() + 0.01
    node.membership.take(LinkUp("b:1"))
    assert core.events == [LinkUp("b:1")]
    poll(lambda: len(core.events) > 1)
    assert core.events[1] == Tick()
    assert now() >= core.wake_at


def test_a_core_that_fails_ends_the_process(scripted: tuple[Node, Core]) -> None:
    node, core = scripted

    def step(event: Event, now: float) -> list[Effect]:
        raise AssertionError("an invariant")

    core.step = step  # type: ignore[method-assign]
    node.membership.take(Tick())
    assert node.exits == [70]
    node.exits.clear()


def test_after_stop_nothing_is_taken(scripted: tuple[Node, Core]) -> None:
    node, core = scripted
    node.membership.stop()
    node.membership.take(Tick())
    assert core.events == []


@pytest.mark.parametrize(
    ("count", "absent", "is_cut"), [(3, 2, False), (64, 0, False), (10, 64, False), (50, 60, True)]
)
def test_the_status_fits_one_answer(scripted: tuple[Node, Core], count: int, absent: int, is_cut: bool) -> None:
    """With the longest addresses and numbers there are, every member has its row; only absent servers are left out."""
    node, core = scripted
    names = [f"{n:03}." + "é" * 38 for n in range(count + absent)]
    members = tuple(MemberStatus(name, 2**64 - 1, "suspect", False, 256, 256, 256) for name in names[:count])
    core.status = lambda: Status(  # type: ignore[attr-defined]
        names[0],
        2**64 - 1,
        2**64 - 1,
        1 << 40,
        True,
        names[1],
        0.51234,
        256,
        False,
        256 * 8,
        members,
        tuple(n % count for n in range(SLOT_COUNT)),
        {},
    )
    node.membership._config = SimpleNamespace(servers=names)  # type: ignore[assignment]
    text = node.membership.status_json()
    assert len(text) <= VALUE_MAX_BYTES
    status = json.loads(text)
    assert status.get("cut", False) == is_cut
    assert status["lease_s"] == 0.512
    assert status["copies_missing"] == 2048
    assert len(status["columns"]) == len(status["members"][0])
    rows = [row[0] for row in status["members"]]
    assert rows == names[: len(rows)]
    assert count <= len(rows) <= count + absent
    assert (len(rows) < count + absent) == is_cut
    assert {row[2] for row in status["members"][count:]} <= {"absent"}
    assert [PLACE_DIGITS.index(digit) for digit in status["primaries"]] == [n % count for n in range(SLOT_COUNT)]


def test_the_status_says_where_nobody_serves(scripted: tuple[Node, Core]) -> None:
    node, core = scripted
    member = MemberStatus("a:1", 1, "dead", False, 256, 0, 0)
    fields = ("a:1", 1, 1, 1, True, "a:1", 0.0, 0, True, 0, (member,))
    core.status = lambda: Status(*fields, (-1,) * SLOT_COUNT, {})  # type: ignore[attr-defined]
    assert json.loads(node.membership.status_json())["primaries"] == "." * SLOT_COUNT
    core.status = lambda: Status(*fields, (), {})  # type: ignore[attr-defined]
    assert json.loads(node.membership.status_json())["primaries"] == ""
