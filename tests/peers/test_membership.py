"""Membership over real sockets, several nodes in one loop; and with a scripted core: what becomes of each effect."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import gevent
import pytest

from app.cluster.events import (
    SELF,
    CloseLink,
    CopiesLost,
    Datagram,
    Effect,
    Event,
    FoundRequested,
    Introduced,
    LeaveRequested,
    Left,
    LinkUp,
    Log,
    OpenLink,
    Order,
    Reset,
    Send,
    ServerOrdered,
    ServersChanged,
    ServersKnown,
    SlotsSynced,
    Tick,
    ViewInstalled,
)
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import FOUNDERS_MAX, Member, View
from app.config.options import Options
from app.config.servers import Server
from app.front.batch import DatagramBatch
from app.loop import EXIT_FAULT, Loop
from app.observe import logs
from app.peers.addresses import Peers
from app.peers.datagram_auth import DatagramAuth
from app.peers.frames import CLUSTER, LIFE, Frame
from app.peers.links import Links
from app.peers.lookups import Lookups
from app.peers.membership import FOUND_RETRIES_S, UNCUT_MAX_BYTES, Membership
from app.process import fresh_incarnation
from app.sockets import Sockets
from app.wire.protocol import (
    ADDRESS_MAX_BYTES,
    DATAGRAM_MAX_BYTES,
    SERVERS_MAX,
    SLOT_COUNT,
    TYPE_CLUSTER,
    TYPE_REQUEST,
    VALUE_MAX_BYTES,
)
from proto_gen.message_pb2 import Msg
from tests.support.gevent_loop import watched_loop
from tests.support.loop import Exited, ManualLoop
from tests.support.polling import poll_in_loop as poll
from tests.support.ports import free_port

# --- over real sockets -----------------------------------------------------------------------------------------------


class Node:
    """A node reduced to its membership."""

    def __init__(self, loop: Loop, sockets: Sockets, me: Server, servers: list[Server], secret: bytes | None) -> None:
        self.name = str(me)
        self.loop = loop
        self.sockets = sockets
        peers = Peers(me, servers, socket.AF_INET)
        self.links = Links(
            loop,
            sockets,
            peers,
            secret,
            lookups=Lookups(loop, sockets.look_up, peers, lambda peer: None),
            trust_refusals=False,
            random_bytes=os.urandom,
            wake=self.wake,
        )
        self.links.start(self, lambda: self.membership.core.incarnation)
        self.membership = Membership(
            loop,
            ClusterConfig(self.name, tuple(map(str, servers))),
            peers,
            self.links,
            sockets.datagrams,
            secret,
            incarnation=fresh_incarnation(),
            random_bytes=os.urandom,
        )
        self.batch = DatagramBatch(sockets.datagrams, 8)
        sockets.datagrams.serve(self.receive)
        self.is_stopped = False
        self.has_left_ = False
        self.views: list[tuple[View, bool]] = []
        self.changes: list[list[str]] = []

    @property
    def core(self) -> Any:
        return self.membership.core

    def start(self) -> None:
        self.membership.start(self)

    def wake(self) -> None:
        self.loop.run_callback(self.links.flush)

    def receive(self) -> None:
        for number in range(self.batch.receive()):
            self.membership.take_datagram(self.batch.datagram(number), self.batch.sender(number))

    def stop(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.membership.stop()
            self.links.stop()
            self.sockets.datagrams.stop()

    # What it is told of.

    def view_installed(self, view: View, is_member: bool) -> None:
        self.views.append((view, is_member))

    def was_reset(self) -> None: ...

    def servers_known(self, servers: tuple[str, ...]) -> None: ...

    def stepped(self) -> None: ...

    def routes_changed(self) -> None:
        self.changes.append(list(self.core.routes))

    def has_left(self) -> None:
        self.has_left_ = True

    def link_event(self, event: Event) -> None:
        self.membership.take(event)

    def link_up(self, peer: str) -> None: ...

    def link_down(self, peer: str) -> None: ...

    def frames(self, peer: str, frames: list[Frame]) -> None:
        for kind, body in frames:
            if kind == LIFE:
                self.links.on_life(peer, body)
            else:
                assert kind == CLUSTER
                self.membership.handle_frame(peer, body)


@contextmanager
def nodes_of(count: int, secret: bytes | None = None) -> Iterator[list[Node]]:
    servers = [Server("127.0.0.1", free_port(), "127.0.0.1") for _ in range(count)]
    with watched_loop() as loop:
        nodes = []
        for me in servers:
            sockets = Sockets(Options(port=me.port, servers=tuple(servers), me=me, bind="127.0.0.1"))
            nodes.append(Node(loop, sockets, me, servers, secret))
        try:
            yield nodes
        finally:
            for node in nodes:
                node.stop()
            gevent.sleep(0)


def agree(nodes: list[Node]) -> bool:
    return all(
        node.core.view is not None and node.core.member_count == len(node.core.view.members) == len(nodes)
        for node in nodes
    )


def test_a_cluster_of_one_serves_when_start_returns_and_leaves_at_once() -> None:
    with nodes_of(1) as (node,):
        node.start()
        assert node.core.routes == [SELF] * SLOT_COUNT
        assert node.core.lease_until == inf
        assert node.membership.member_count() == 1
        assert [(view.addresses, is_member) for view, is_member in node.views] == [((node.name,), True)]
        node.membership.leave()
        assert node.has_left_


@pytest.mark.parametrize("secret", [None, b"a secret"])
def test_three_agree_lose_one_and_take_leave(secret: bytes | None) -> None:
    with nodes_of(3, secret) as nodes:
        for node in nodes:
            node.start()
        poll(lambda: agree(nodes))
        poll(lambda: nodes[0].core.view.is_balanced() and agree(nodes))
        poll(lambda: nodes[1].changes and nodes[1].changes[-1] == nodes[1].core.routes)
        poll(lambda: {node.core.served.bit_count() for node in nodes} <= {85, 86})
        poll(lambda: all(node.links.snapshot()["links_up"] == 2 for node in nodes))
        nodes[2].stop()
        started = time.monotonic()
        poll(lambda: agree(nodes[:2]))
        print(f"out of all counts after {time.monotonic() - started:.3f} s")
        assert "2 members" in nodes[0].core.view.describe()
        nodes[1].membership.leave()
        poll(lambda: nodes[1].has_left_)
        poll(lambda: agree(nodes[:1]))
        for node in nodes[:2]:
            counters = node.membership.snapshot()
            assert counters["cluster_views"] == len(node.views) >= 3
            assert counters["cluster_datagrams_received"] > 0
            assert not any("wrong_secret" in name or "unknown_sender" in name for name in counters)


def test_nodes_of_different_secrets_do_not_hear_each_other() -> None:
    with nodes_of(2, b"one") as nodes:
        nodes[1].membership._auth = DatagramAuth(b"other", nodes[1].name, [nodes[0].name], 1)
        for node in nodes:
            node.start()
        poll(lambda: all(node.membership.refused["wrong_secret"] > 2 for node in nodes))
        assert [node.core.view for node in nodes] == [None, None]


def test_a_view_of_many_members_comes_over_the_link() -> None:
    with nodes_of(8) as nodes:
        for node in nodes:
            node.start()
        poll(lambda: agree(nodes) and nodes[0].core.view.is_balanced())
        assert sum(node.membership.snapshot()["cluster_frames_received"] for node in nodes) >= 7


# --- with a scripted core, by hand -----------------------------------------------------------------------------------


class Core:
    """Answers each event with the effects that were laid out for it."""

    def __init__(self) -> None:
        self.script: list[list[Effect]] = []
        self.events: list[Event] = []
        self.times: list[float] = []
        self.routes = ["?"] * SLOT_COUNT
        self.lease_until = -inf
        self.wake_at = inf
        self.incarnation = 9
        self.view: View | None = None
        self.member_count = 3
        self.is_member = True
        self.epoch = 17
        self.is_done_ = False
        self.refuses_order = self.has_wait = ""
        self.fails: BaseException | None = None
        self.view: View | None = None
        self.refuses = ""

    def is_done(self, order: Order) -> bool:
        return self.is_done_

    def objection_to_order(self, order: Order) -> str:
        return self.refuses_order

    def must_wait(self, order: Order) -> str:
        return self.has_wait

    def objection(self) -> str:
        return self.refuses

    def step(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        self.times.append(now)
        if isinstance(event, Tick) and now >= self.wake_at:
            self.wake_at = inf
        if self.fails is not None:
            raise self.fails
        return self.script.pop(0) if self.script else []


A, B, C = "127.0.0.1:1001", "127.0.0.2:1002", "127.0.0.3:1003"
SERVERS = (Server("127.0.0.1", 1001, "127.0.0.1"), Server("127.0.0.2", 1002, "127.0.0.2"))
SIX = Server("::1", 1003, "::1")
SECRET = b"a secret"
B_ADDRESS = b"\x02\x00" + (1002).to_bytes(2) + bytes((127, 0, 0, 2)) + bytes(8)


class Rig:
    """Node a's membership; what it does is kept in one list, in order."""

    def __init__(self, *, secret: bytes | None = None, servers: tuple[Server, ...] = SERVERS) -> None:
        self.loop = ManualLoop()
        self.did: list[object] = []
        self.datagrams: list[tuple[tuple[str | int, ...], Msg]] = []
        self.takes = True
        self.has_link = False
        self.on_view: Callable[[], object] = lambda: None
        self.on_open: Callable[[], object] = lambda: None
        self.peers = Peers(servers[0], servers, socket.AF_INET)
        self.membership = Membership(
            self.loop,
            ClusterConfig(A, tuple(map(str, servers))),
            self.peers,
            self,
            self,
            secret,
            incarnation=100,
            random_bytes=bytes,
        )
        self.core = self.membership.core = Core()  # type: ignore[assignment]

    def start(self) -> "Rig":
        self.membership.start(self)
        assert self.core.events == [Tick()]
        self.core.events.clear()
        self.did.clear()
        return self

    # What it does.

    def send_to(self, data: bytes, target: tuple[str | int, ...]) -> bool:
        self.datagrams.append((target, Msg.FromString(data)))
        self.did.append(("send", target))
        return self.takes

    def open(self, peer: str, incarnation: int) -> None:
        self.did.append(("open", peer, incarnation))
        self.on_open()

    def close(self, peer: str) -> None:
        self.did.append(("close", peer))

    def send(self, peer: str, kind: int, body: bytes) -> bool:
        if self.has_link:
            self.did.append(("frame", peer, kind, body))
        return self.has_link

    def view_installed(self, view: View, is_member: bool) -> None:
        self.did.append(("view", view.epoch, is_member))
        self.on_view()

    def was_reset(self) -> None:
        self.did.append("reset")

    def servers_known(self, servers: tuple[str, ...]) -> None:
        self.did.append(("servers", servers))

    def stepped(self) -> None:
        self.did.append("stepped")

    def routes_changed(self) -> None:
        self.did.append(("routes", self.core.routes[0], self.core.lease_until))

    def has_left(self) -> None:
        self.did.append("left")

    def does(self) -> list[object]:
        """What was done since the last time, besides steps."""
        did = [one for one in self.did if one != "stepped"]
        self.did.clear()
        return did


@pytest.fixture
def rig() -> Rig:
    return Rig().start()


VIEW = View(
    5, 3, (Member("a:1", 7),), ("a:1",) * SLOT_COUNT, ((),) * SLOT_COUNT, (("a:1",),) * SLOT_COUNT, "a:1 founded it"
)


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize(("size", "over_the_link"), [(UNCUT_MAX_BYTES, False), (UNCUT_MAX_BYTES + 1, True)])
def test_what_is_large_goes_over_the_link_if_it_is_up(size: int, over_the_link: bool, secret: bytes | None) -> None:
    rig = Rig(secret=secret).start()
    rig.core.script = [[Send(B, bytes(size))], [Send(B, bytes(size))]]
    rig.membership.take(Tick())
    assert [did[0] for did in rig.does()] == ["send"]  # type: ignore[index]
    assert len(rig.datagrams[0][1].SerializeToString()) <= 1232 or over_the_link
    rig.has_link = True
    rig.membership.take(Tick())
    assert rig.does() == ([("frame", B, CLUSTER, bytes(size))] if over_the_link else [("send", ("127.0.0.2", 1002))])
    assert rig.membership.sent_over_links == over_the_link


def test_what_is_not_large_fits_a_packet_of_any_path_however_long_the_sender_is() -> None:
    sealed = DatagramAuth(SECRET, "a" * ADDRESS_MAX_BYTES, [B], 100).sign(B, bytes(UNCUT_MAX_BYTES))
    msg = Msg(messageID=bytes(8), payload=sealed, checkSum=1, type=TYPE_CLUSTER)
    assert len(msg.SerializeToString()) == 1280 - 48, "IPv6's least, less its header and UDP's"


def test_a_frame_is_the_links_peers_word(rig: Rig) -> None:
    rig.membership.handle_frame(B, b"said")
    assert rig.core.events == [Datagram(B, b"said")]
    assert rig.membership.received_over_links == 1


def test_copies_that_are_lost_are_told_to_the_core(rig: Rig) -> None:
    rig.membership.copies_lost(0b11, 4)
    assert rig.core.events == [CopiesLost(0b11, 4)]


def test_effects_are_carried_out_in_order(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.core.script = [
        [
            Send(B, b"x"),
            OpenLink(B, 3),
            Reset(10),
            ViewInstalled(VIEW, True),
            Log("info", VIEW.describe()),
            Log("warning", "mind this"),
            Log("info", "as it goes"),
            Log("error", "this is lost"),
            CloseLink(B),
            Send(B, b"y"),
            Left(),
        ]
    ]
    with caplog.at_level("INFO"):
        rig.membership.take(Tick())
    to_b = ("send", ("127.0.0.2", 1002))
    assert rig.did == [to_b, ("open", B, 3), "reset", ("view", 3, True), ("close", B), to_b, "left", "stepped"]
    # One line for the view, not two.
    assert [(record.levelname, record.msg) for record in caplog.records] == [
        ("WARNING", "cluster.reset"),
        ("INFO", "cluster.view"),
        ("WARNING", "cluster.note"),
        ("INFO", "cluster.note"),
        ("ERROR", "cluster.note"),
    ]
    assert caplog.records[1].__dict__["fields"] == {
        "epoch": 3,
        "members": 1,
        "is_member": True,
        "primaries": "a:1=256",
        "cause": "a:1 founded it",
    }


def test_the_core_is_told_the_time_of_the_loop(rig: Rig) -> None:
    rig.core.times.clear()
    rig.loop.now_s = 1234.5
    rig.membership.take(Tick())
    assert rig.core.times == [1234.5]


def test_what_an_effect_sets_off_waits_until_the_step_is_done(rig: Rig) -> None:
    rig.on_view = lambda: rig.membership.synced(B, 1, 3)
    rig.core.script = [[ViewInstalled(VIEW, True), OpenLink(B, 3)], [OpenLink(B, 4)]]
    rig.membership.leave()
    assert rig.core.events == [LeaveRequested(), SlotsSynced(B, 1, 3)]
    assert rig.did == [("view", 3, True), ("open", B, 3), "stepped", ("open", B, 4), "stepped"]


def test_changes_are_told_once_a_turn(rig: Rig) -> None:
    core, membership = rig.core, rig.membership
    membership.take(Tick())
    rig.loop.turn()
    assert rig.does() == []
    core.routes[0] = B
    membership.take(Tick())
    core.lease_until = inf
    membership.take(Tick())
    assert rig.does() == []
    rig.loop.turn()
    assert rig.does() == [("routes", B, inf)]
    membership.take(Tick())
    rig.loop.turn()
    assert rig.does() == []


def test_a_lease_that_runs_or_has_run_out_is_a_change(rig: Rig) -> None:
    core, membership = rig.core, rig.membership
    told = []
    for lease_until in (rig.loop.now_s, rig.loop.now_s + 1.0, rig.loop.now_s + 2.0, rig.loop.now_s):
        core.lease_until = lease_until
        membership.take(Tick())
        rig.loop.turn()
        told.append(len(rig.does()))
    assert told == [0, 1, 0, 1], "only whether it runs matters"


def test_a_lease_that_is_lost_is_told_with_who_is_silent(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.core.view = View(5, 3, (Member(B, 7), Member(A, 7)), (B,) * SLOT_COUNT, ((A,),) * SLOT_COUNT, ((B, A),) * 256)
    rig.core.contact = lambda server: (7, 999.0)  # type: ignore[attr-defined]
    rig.core.lease_until = rig.loop.now_s + 0.5
    rig.membership.take(Tick())
    rig.loop.now_s += 1.0
    rig.membership.take(Tick())
    rig.core.lease_until = rig.loop.now_s + 0.5
    rig.membership.take(Tick())
    lost, back = (record.__dict__["fields"] for record in caplog.records)
    assert (lost["for_s"], lost["coordinator"], lost["silent"]) == (0.5, B, B)
    assert back == {"after_s": 0.5}


def test_who_has_been_heard_just_now_is_not_silent(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.core.view = View(5, 3, (Member(B, 7), Member(A, 7)), (B,) * SLOT_COUNT, ((A,),) * SLOT_COUNT, ((B, A),) * 256)
    rig.core.contact = lambda server: (7, rig.loop.now_s - 0.25)  # type: ignore[attr-defined]
    rig.core.lease_until = rig.loop.now_s + 0.5
    rig.membership.take(Tick())
    rig.loop.now_s += 1.0
    rig.membership.take(Tick())
    assert [record.__dict__["fields"]["silent"] for record in caplog.records] == [""]


def test_the_timer_follows_the_core(rig: Rig) -> None:
    core, loop = rig.core, rig.loop
    start_s = loop.now_s
    core.wake_at = start_s + 1.0
    rig.membership.take(LinkUp(B))
    loop.advance(0.999)
    assert core.events == [LinkUp(B)]
    core.wake_at = start_s + 3.0
    rig.membership.take(LinkUp(B))
    loop.advance(2.0)
    assert core.events == [LinkUp(B), LinkUp(B)]
    loop.advance(0.001)
    assert core.events[2:] == [Tick()]
    assert core.times[-1] == start_s + 3.0
    core.wake_at = start_s  # is over already
    rig.membership.take(LinkUp(B))
    assert core.events[3:] == [LinkUp(B)]
    loop.advance(0.0)
    assert core.events[4:] == [Tick()]


def test_a_core_that_wants_the_same_time_again_is_called_again(rig: Rig) -> None:
    """After the timer has fired, the time it was set to says nothing."""
    rig.core.wake_at = rig.loop.now_s + 1.0
    rig.membership.take(LinkUp(B))
    seen: list[int] = []

    def step(event: Event, now: float) -> list[Effect]:
        seen.append(1)
        if len(seen) == 3:
            rig.core.wake_at = inf
        return []

    rig.core.step = step  # type: ignore[method-assign]
    rig.loop.advance(1.0)
    assert len(seen) == 3


@pytest.mark.parametrize("fault", [AssertionError("an invariant"), ValueError("made up"), OSError(5, "made up")])
def test_a_core_that_fails_ends_the_process(rig: Rig, fault: Exception) -> None:
    """Whatever request has brought it up: it is not that request's fault."""
    rig.core.fails = fault
    with pytest.raises(Exited) as exited:
        rig.membership.take(Tick())
    assert exited.value.status == EXIT_FAULT


def test_a_handler_that_fails_ends_the_process(rig: Rig) -> None:
    def breaks() -> None:
        raise KeyError("made up")

    rig.on_view = breaks
    rig.core.script = [[ViewInstalled(VIEW, True)]]
    with pytest.raises(Exited):
        rig.membership.take(Tick())


def test_after_stop_nothing_is_taken(rig: Rig) -> None:
    rig.core.wake_at = rig.loop.now_s + 1.0
    rig.membership.take(Tick())
    rig.membership.stop()
    rig.membership.take(Tick())
    assert rig.loop.timers_running == 0
    rig.loop.advance(2.0)
    assert rig.core.events == [Tick()]


def test_what_is_out_of_reach_is_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    Rig().start()
    assert caplog.records == []
    rig = Rig(servers=(*SERVERS, SIX)).start()
    assert [record.__dict__["fields"]["peers"] for record in caplog.records] == ["[::1]:1003"]
    rig.core.script = [[Send("[::1]:1003", b"x")]]
    rig.membership.take(Tick())
    assert (rig.datagrams, rig.membership.send_errors, rig.membership.sent) == ([], 1, 0)


# --- datagrams -------------------------------------------------------------------------------------------------------


def test_a_datagram_as_it_leaves(rig: Rig) -> None:
    rig.core.script = [[Send(B, b"body")]]
    rig.membership.take(Tick())
    ((target, msg),) = rig.datagrams
    assert target == ("127.0.0.2", 1002)
    assert (msg.type, msg.payload, msg.messageID) == (TYPE_CLUSTER, b"body", bytes(8))
    assert msg.checkSum == crc32(msg.messageID + msg.payload)
    rig.takes = False
    rig.core.script = [[Send(B, b"body"), Send(B, b"body"), Send("stranger:1", b"body"), Send("stranger:1", b"body")]]
    rig.membership.take(Tick())
    assert (rig.membership.sent, rig.membership.send_errors) == (1, 4)
    rig.takes = True
    rig.core.script = [[Send(B, b"body")]]
    rig.membership.take(Tick())
    assert (rig.membership.sent, rig.membership.send_errors) == (2, 4)


def test_a_datagram_over_the_bound_is_our_own_fault(rig: Rig) -> None:
    rig.core.script = [[Send(B, bytes(DATAGRAM_MAX_BYTES))]]
    with pytest.raises(Exited):
        rig.membership.take(Tick())


def test_without_a_secret_a_datagram_is_its_addresses(rig: Rig) -> None:
    rig.membership.handle_datagram(b"body", B_ADDRESS)
    assert rig.core.events == [Datagram(B, b"body")]
    rig.membership.handle_datagram(b"", B_ADDRESS)
    rig.membership.handle_datagram(b"body", bytes(16))
    assert len(rig.core.events) == 1
    assert (rig.membership.received, dict(rig.membership.refused)) == (1, {"unknown_sender": 1})


def test_who_is_refused_is_logged_as_people_write_addresses(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.peers.membership._faults", logs.logger("cluster"))
    rig.membership.handle_datagram(b"body", bytes.fromhex("02000d05 c0000207 0000000000000000"))
    ipv6 = bytes.fromhex("0a000d05 00000000 20010db8 0000000000000000 00000007 00000000")
    rig.membership.take_datagram(b"\xff", ipv6)
    told = [record.__dict__["fields"]["sender"] for record in caplog.records]
    assert told == ["192.0.2.7:3333", "[2001:db8::7]:3333"]


def test_of_what_comes_from_a_servers_address_only_what_is_sound_and_of_a_node_is_taken(rig: Rig) -> None:
    def msg(**changed: Any) -> bytes:
        fields = {
            "messageID": b"m" * 8,
            "payload": b"body",
            "checkSum": crc32(b"m" * 8 + b"body"),
            "type": TYPE_CLUSTER,
        }
        return Msg(**(fields | changed)).SerializeToString()

    unsound = [msg(type=TYPE_REQUEST), msg(checkSum=1), msg(messageID=b"n" * 8), msg()[:-1], b"\xff"]
    for count, data in enumerate(unsound, 1):
        rig.membership.take_datagram(data, B_ADDRESS)
        assert (rig.core.events, dict(rig.membership.refused)) == ([], {"unparsable": count})
    rig.membership.take_datagram(msg(), B_ADDRESS)
    assert rig.core.events == [Datagram(B, b"body")]
    rig.membership.take_datagram(msg(), bytes(16))
    assert (len(rig.core.events), rig.membership.refused["unknown_sender"]) == (1, 1)


def test_with_a_secret_a_datagram_is_who_has_signed_it() -> None:
    rig = Rig(secret=SECRET).start()
    membership, core = rig.membership, rig.core
    b = DatagramAuth(SECRET, B, [A], 200)
    membership.handle_datagram(b.sign(A, b"hello"), bytes(16))  # any address will do; it does not know us yet
    assert (core.events, dict(membership.refused)) == ([], {"other_incarnation": 1})
    ((target, introduction),) = rig.datagrams
    assert target == ("127.0.0.2", 1002)
    (again,) = b.verify(introduction.payload, 0.0).answers
    membership.handle_datagram(again, bytes(16))
    assert core.events == [Datagram(B, b"hello")]
    assert (membership.received, membership.sent) == (1, 1)
    membership.handle_datagram(again, bytes(16))
    membership.handle_datagram(b"\x08\x01", bytes(16))
    assert len(core.events) == 1
    assert dict(membership.refused) == {"other_incarnation": 1, "replayed": 1, "not_signed": 1}
    core.script = [[Send(B, b"back"), Send("stranger:1", b"x")]]
    membership.take(Tick())
    assert b.verify(rig.datagrams[-1][1].payload, 0.0).body == b"back"
    assert (membership.sent, membership.send_errors) == (2, 1)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_other_servers_are_told_to_the_core_and_heard(secret: bytes | None) -> None:
    third = Server("127.0.0.3", 1003, "127.0.0.3")
    rig = Rig(secret=secret).start()
    servers = (A, B, str(third))
    rig.servers_known = lambda known: rig.peers.change((*SERVERS, third))  # type: ignore[method-assign]
    rig.core.script = [[ServersKnown(servers)]]
    rig.membership.change_servers(servers)
    assert rig.core.events == [ServersChanged(servers)]
    if secret is not None:
        rig.membership.handle_datagram(DatagramAuth(secret, str(third), [A], 200).sign(A, b"hello"), bytes(16))
        assert dict(rig.membership.refused) == {"other_incarnation": 1}, "it is introduced"


@pytest.mark.parametrize(("is_new_used", "used"), [(True, b"another secret"), (False, SECRET)])
def test_another_secret_is_taken_where_there_was_one(is_new_used: bool, used: bytes) -> None:
    rig = Rig(secret=SECRET).start()
    rig.membership.take_secrets([b"another secret", SECRET], is_new_used=is_new_used)
    rig.membership.handle_datagram(DatagramAuth(SECRET, B, [A], 200).sign(A, b"hello"), bytes(16))
    ((_, introduction),) = rig.datagrams
    assert DatagramAuth(used, B, [A], 200).verify(introduction.payload, 0.0).sender == A
    rig = Rig().start()
    rig.membership.take_secrets([b"another secret"], is_new_used=True)
    rig.membership.handle_datagram(b"x", B_ADDRESS)
    assert rig.core.events == [Datagram(B, b"x")]


def test_introductions_are_few_by_the_clock_of_the_loop() -> None:
    rig = Rig(secret=SECRET).start()
    b = DatagramAuth(SECRET, B, [A], 200)
    for _ in range(10):
        rig.membership.handle_datagram(b.sign(A, b"hello"), bytes(16))
        rig.loop.now_s += 0.008
    assert len(rig.datagrams) == 4


def test_what_is_counted(rig: Rig) -> None:
    rig.core.status = lambda: SimpleNamespace(dropped={"old view": 4, "late": 2})  # type: ignore[attr-defined]
    rig.core.script = [[ViewInstalled(VIEW, False)], [ViewInstalled(VIEW, False)]]
    for _ in range(2):
        rig.membership.take(Tick())
    for _ in range(3):
        rig.membership.handle_datagram(b"x", bytes(16))
    for _ in range(4):
        rig.membership.handle_datagram(b"x", B_ADDRESS)
    for _ in range(5):
        rig.membership.handle_frame(B, b"x")
    assert rig.membership.snapshot() == {
        "cluster_refused_unknown_sender": 3,
        "cluster_dropped_old_view": 4,
        "cluster_dropped_late": 2,
        "cluster_members": 3,
        "cluster_is_member": 1,
        "cluster_epoch": 17,
        "cluster_incarnation": 9,
        "cluster_views": 2,
        "cluster_datagrams_received": 4,
        "cluster_datagrams_sent": 0,
        "cluster_send_errors": 0,
        "cluster_frames_received": 5,
        "cluster_frames_sent": 0,
        "cluster_register_requests": 0,
        "cluster_register_failures": 0,
    }
    assert rig.membership.member_count() == 3


# --- for people ------------------------------------------------------------------------------------------------------


def test_an_operator_founds_or_is_told_why_not(rig: Rig) -> None:
    rig.core.refuses = "the cluster goes on"
    assert json.loads(rig.membership.found()) == {"founded": False, "why_not": "the cluster goes on", "members": []}
    assert rig.core.events == []
    rig.core.refuses = "nicht gehört"
    assert "nicht gehört".encode() in rig.membership.found()
    rig.core.refuses = ""
    rig.core.view = VIEW
    assert json.loads(rig.membership.found()) == {"founded": True, "why_not": "", "members": ["a:1"]}
    assert rig.core.events == [FoundRequested()]


VIEW_OF_TWO = replace(VIEW, founders=(A,), others=(B,))


@pytest.mark.parametrize(
    ("said", "order"),
    [
        (b'{"add": "b:2"}', Order("b:2")),
        (b'{"add": "B.Example:2"}' + bytes(9), Order("b.example:2")),
        (b'{"add": "[::1]:2", "force": true}', Order("[::1]:2")),
        (b'{"remove": "b:2"}', Order("b:2", removes=True)),
        (b'{"remove": "b:2", "force": false}', Order("b:2", removes=True)),
        (b'{"remove": "b:2", "force": true}', Order("b:2", removes=True, is_forced=True)),
    ],
)
def test_an_administrators_order(rig: Rig, said: bytes, order: Order) -> None:
    rig.core.view = VIEW
    expected = {"done": False, "why_not": "", "passes": False, "address": A, "coordinator": "a:1"}
    expected |= {"servers": [], "founders": []}
    assert json.loads(rig.membership.order(said)) == expected
    assert rig.core.events == [ServerOrdered(order)]
    rig.core.is_done_ = True
    rig.core.view = VIEW_OF_TWO
    expected |= {"done": True, "servers": ["a:1", B], "founders": [A]}
    assert json.loads(rig.membership.order(said)) == expected
    assert rig.core.events == [ServerOrdered(order)], "it is done"


def test_an_order_that_is_declined(rig: Rig) -> None:
    rig.core.refuses_order = "one at a time"
    told = json.loads(rig.membership.order(b'{"add": "b:2"}'))
    assert (told["why_not"], told["passes"]) == ("one at a time", False)
    rig.core.has_wait = rig.core.refuses_order
    assert json.loads(rig.membership.order(b'{"add": "b:2"}'))["passes"] is True
    assert rig.core.events == []


@pytest.mark.parametrize("said", [b"", bytes(9)])
def test_no_order(rig: Rig, said: bytes) -> None:
    told = json.loads(rig.membership.order(said))
    assert (told["done"], told["why_not"], told["coordinator"], told["servers"]) == (False, "", "", [])
    assert rig.core.events == []


@pytest.mark.parametrize(
    ("said", "why_not"),
    [
        (b"add", "say which server to add or to remove"),
        (b"[]", "say which server to add or to remove"),
        (b"{}", "say which server to add or to remove"),
        (b'{"add": "b:2", "remove": "c:3"}', "say which server to add or to remove"),
        (b'{"add": "b"}', "the port is missing: write host:port"),
        (b'{"add": 7}', "the port is missing: write host:port"),
        (
            b'{"add": "' + b"b" * 63 + b"." + b"c" * 20 + b':2"}',
            "a server's name has at most 80 bytes, its port included",
        ),
        (b"\xff", "say which server to add or to remove"),
        (b'{"add": "0.0.0.0:2"}', "0.0.0.0:2 isn't one machine's address"),
        (b'{"add": "[ff02::1]:2"}', "[ff02::1]:2 isn't one machine's address"),
    ],
)
def test_what_is_no_order(rig: Rig, said: bytes, why_not: str) -> None:
    assert json.loads(rig.membership.order(said))["why_not"] == why_not
    assert rig.core.events == []


def test_nested_too_deep_is_no_order(rig: Rig) -> None:
    assert json.loads(rig.membership.order(b"[" * 5000))["why_not"] == "say which server to add or to remove"


def test_the_longest_answers_fit_a_datagram(rig: Rig) -> None:
    names = tuple(f"{number:02}{'x' * (ADDRESS_MAX_BYTES - 6)}:{number:03}" for number in range(100, 100 + SERVERS_MAX))
    members = tuple(Member(name, 1) for name in names)
    rig.core.view = replace(VIEW, members=members, founders=names[:FOUNDERS_MAX])
    rig.core.refuses = rig.core.refuses_order = " ".join(names)
    for answer in (rig.membership.order(b'{"remove": "b:2"}'), rig.membership.found()):
        assert len(answer) <= VALUE_MAX_BYTES
        assert json.loads(answer)["why_not"].startswith(names[0])


@pytest.mark.parametrize(
    ("name", "secret", "is_introduced"),
    [
        (C, SECRET, True),
        (C, b"another secret", False),
        ("no address", SECRET, False),
        ("C:3", SECRET, False),
        ("c" * 79 + ":3", SECRET, False),
        (A, SECRET, False),
    ],
)
def test_a_stranger_that_knows_the_secret_is_introduced(
    name: str, secret: bytes, is_introduced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(secret=SECRET).start()
    stranger = DatagramAuth(secret, name, [A, B], 7)
    rig.membership.handle_datagram(stranger.sign(A, b"body"), b"somewhere")
    assert rig.core.events == ([Introduced(C)] if is_introduced else [])
    assert rig.membership.refused == {"unknown_sender": 1}
    if is_introduced:
        assert "cluster.refused" not in caplog.messages, "each join would be a warning of every node"
    rig.membership.handle_datagram(stranger.sign(B, b"body"), b"somewhere")
    assert len(rig.core.events) == is_introduced, "it is for another one"


def test_servers_that_are_known_are_told_and_signed_for() -> None:
    rig = Rig(secret=b"a secret of sixteen or more").start()
    rig.core.script = [[Send(C, b"body")]]
    rig.membership.take(Tick())
    assert (rig.datagrams, rig.membership.send_errors) == ([], 1)

    def change(servers: tuple[str, ...]) -> None:
        rig.membership._peers.change([*SERVERS, Server("127.0.0.3", 1003, "127.0.0.3")])

    rig.servers_known = change  # type: ignore[method-assign]
    rig.core.script = [[ServersKnown((A, B, C)), Send(C, b"body")]]
    rig.membership.take(Tick())
    assert [target for target, _ in rig.datagrams] == [("127.0.0.3", 1003)]


def test_a_retry_of_what_has_founded_is_told_the_same_and_founds_nothing(rig: Rig) -> None:
    first = rig.membership.found()
    rig.core.refuses = "the cluster goes on"
    rig.loop.advance(FOUND_RETRIES_S - 0.1)
    assert rig.membership.found() == first
    rig.loop.advance(0.1)
    assert json.loads(rig.membership.found())["why_not"] == "the cluster goes on"
    assert rig.core.events.count(FoundRequested()) == 1
