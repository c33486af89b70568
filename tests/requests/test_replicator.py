"""The shell around replication: two nodes' insides, their links and clocks replaced by lists and a number."""

from collections.abc import Callable

import pytest

from app.cluster.events import LOCAL
from app.cluster.membership.planner import first_view
from app.cluster.replication.core import Replication
from app.cluster.view import Member
from app.requests.forwarding import Forwarder
from app.requests.replicator import Copies
from app.requests.request import PATIENCE_S, Origin
from app.requests.turn import Turn
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, REMOVE, SYS_OVERLOAD_ERR, WIPEOUT, slot_of
from tests.support.parts import make_parts
from tests.wire.datagrams import request, response

CLIENT = b"client's address"
VIEW = first_view((Member("a", 1), Member("b", 2)), 7, 2)
LED_BY_A, LED_BY_B = (
    [key for n in range(99) if VIEW.primaries[slot_of(key := b"%d" % n)] == name] for name in ("a", "b")
)
KEY = LED_BY_A[0]


class FakeLinks:
    """What Copies sees of Links; frames wait in `queue` until the net delivers them."""

    def __init__(self) -> None:
        self.on_up: list[Callable[[str], object]] = []
        self.on_down: list[Callable[[str], object]] = []
        self.on_incoming: list[Callable[[str], object]] = []
        self.before_flush: list[Callable[[], object]] = []
        self.queue: list[tuple[int, bytes]] = []
        self.severed: list[str] = []
        self.is_full = False

    def wake(self) -> None:
        """The net flushes by itself."""

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool:
        if not self.is_full:
            self.queue.append((kind, head + body))
        return not self.is_full

    def send_all(self, peer: str, kind: int, bodies: list[bytes]) -> bool:
        return all(self.send(peer, kind, body) for body in bodies)

    def sever(self, peer: str) -> None:
        self.severed.append(peer)
        for told in self.on_down:
            told(peer)


class FakeCore:
    def __init__(self, name: str) -> None:
        self.routes = [LOCAL if primary == name else primary for primary in VIEW.primaries]
        self.lease_until = 1e9
        self.is_member = True


class FakeMembership:
    def __init__(self, name: str) -> None:
        self.core = FakeCore(name)
        self.on_view: list[Callable[..., object]] = []
        self.on_reset: list[Callable[[], object]] = []
        self.on_step: list[Callable[[], object]] = []
        self.synced_slots: list[tuple[str, int, int]] = []

    def synced(self, learner: str, slots: int, epoch: int) -> None:
        self.synced_slots.append((learner, slots, epoch))


class Node:
    def __init__(self, net: "Net", name: str) -> None:
        self.name = name
        self.peer = "b" if name == "a" else "a"
        self.parts = parts = make_parts()
        self.links = FakeLinks()
        self.membership = FakeMembership(name)
        self.answers: list[bytes] = []
        self.in_hand = b""
        replication = Replication(name, parts.store, parts.replies)
        core = self.membership.core
        self.turn = Turn(parts.commands, core, replication.routes, lambda: net.now)  # type: ignore[arg-type]
        self.forwarder = Forwarder(
            parts.commands,
            parts.counters,
            routes=replication.routes,
            turn=self.turn,
            send_frame=self.links.send,
            send_frames=self.links.send_all,
            answer_client=lambda address, reply: self.answers.append(reply),
            wake=lambda: None,
            client_in_hand=lambda: Origin(CLIENT, "", 0, net.now + PATIENCE_S, net.now),
            max_in_flight=10,
        )
        self.copies = Copies(
            replication,
            parts.commands,
            parts.replies,
            parts.counters,
            membership=self.membership,  # type: ignore[arg-type]
            links=self.links,  # type: ignore[arg-type]
            forwarder=self.forwarder,
            turn=self.turn,
            datagram_in_hand=lambda: self.in_hand,
        )

    def install(self) -> None:
        for told in self.membership.on_view:
            told(VIEW, True)
        for step in self.membership.on_step:
            step()

    def take(self, datagram: bytes) -> bytes | None:
        """A client's datagram arrives; what is answered at once."""
        self.turn.open()
        self.in_hand = datagram
        reply = self.parts.handle(datagram)
        self.end_turn()
        return reply

    def end_turn(self) -> None:
        for told in self.links.before_flush:
            told()

    def code(self, message_id: bytes) -> int:
        """The code of the one answer that a client got later."""
        (reply,) = self.answers
        self.answers.clear()
        return response(reply, message_id).errCode


class Net:
    """Two nodes in one view, linked, all slots open."""

    def __init__(self) -> None:
        self.now = 100.0
        self.nodes = {name: Node(self, name) for name in "ab"}
        for node in self.nodes.values():
            node.install()
            for told in node.links.on_up:
                told(node.peer)
        self.deliver()

    def deliver_from(self, node: Node) -> None:
        node.end_turn()
        frames, node.links.queue = node.links.queue, []
        if frames:
            other = self.nodes[node.peer]
            other.forwarder.on_frames(node.name, frames)
            other.end_turn()

    def deliver(self) -> None:
        for _ in range(20):
            for node in self.nodes.values():
                self.deliver_from(node)
        assert not any(node.links.queue for node in self.nodes.values())


@pytest.fixture
def net() -> Net:
    return Net()


def put(number: int, value: bytes = b"v") -> bytes:
    return request(b"%016d" % number, command=PUT, key=KEY, value=value)


def test_a_write_is_answered_when_the_copy_has_it(net: Net) -> None:
    a, b = net.nodes["a"], net.nodes["b"]
    assert a.take(put(1)) is None
    assert not a.answers
    net.deliver_from(a)
    assert len(b.parts.store) == 1
    assert not a.answers, "its acknowledgement is under way"
    net.deliver()
    assert a.code(b"%016d" % 1) == NO_ERR
    assert a.parts.counters.by_command()["PUT"] == 1


def test_a_read_of_what_not_all_copies_have_waits_too(net: Net) -> None:
    a = net.nodes["a"]
    a.take(put(1))
    assert a.take(request(b"r" * 16, command=GET, key=KEY)) is None
    unwritten = a.take(request(b"s" * 16, command=GET, key=LED_BY_A[1]))
    assert response(unwritten, b"s" * 16).errCode == KEY_DNE_ERR, "others do not wait"
    net.deliver()
    write, read = a.answers
    assert response(write, b"%016d" % 1).errCode == NO_ERR
    assert response(read, b"r" * 16).errCode == NO_ERR


def test_a_retry_joins_the_write_and_a_later_one_is_answered_from_memory(net: Net) -> None:
    a, b = net.nodes["a"], net.nodes["b"]
    a.take(put(1))
    assert a.take(put(1)) is None
    net.deliver()
    assert len(a.answers) == 2
    assert response(a.take(put(1)), b"%016d" % 1).errCode == NO_ERR
    assert len(b.parts.replies) == 1


def test_a_relayed_write_is_answered_to_the_node_that_relays(net: Net) -> None:
    b = net.nodes["b"]
    assert b.take(put(1)) is None
    net.deliver()
    assert b.code(b"%016d" % 1) == NO_ERR
    assert len(net.nodes["a"].parts.store) == len(b.parts.store) == 1


def test_without_a_lease_nothing_is_released(net: Net) -> None:
    a = net.nodes["a"]
    a.take(put(1))
    a.membership.core.lease_until = -1.0
    for step in a.membership.on_step:
        step()
    net.deliver()
    assert not a.answers


def test_frames_of_a_link_that_is_no_more_are_not_taken(net: Net) -> None:
    a, b = net.nodes["a"], net.nodes["b"]
    a.take(put(1))
    a.end_turn()
    for told in b.links.on_incoming:
        told("a")
    net.deliver_from(a)
    assert len(b.parts.store) == 0


def test_a_peer_that_is_too_far_behind_is_cut_off(net: Net) -> None:
    a = net.nodes["a"]
    a.links.is_full = True
    a.take(put(1))
    assert a.links.severed == ["b"]
    assert a.links.queue == []


def test_a_wipeout_wipes_the_copies_of_what_this_node_leads(net: Net) -> None:
    a, b = net.nodes["a"], net.nodes["b"]
    a.take(put(1))
    net.deliver()
    a.answers.clear()
    other = LED_BY_B[0]
    b.take(request(b"o" * 16, command=PUT, key=other, value=b"v"))
    net.deliver()
    assert a.take(request(b"w" * 16, command=WIPEOUT)) is None
    refused = a.take(request(b"x" * 16, command=WIPEOUT))
    assert response(refused, b"x" * 16).errCode == SYS_OVERLOAD_ERR, "until all copies have it its slots are closed"
    net.deliver()
    assert a.code(b"w" * 16) == NO_ERR
    assert set(a.parts.content()) == set(b.parts.content()) == {other}
    assert response(a.take(request(b"w" * 16, command=WIPEOUT)), b"w" * 16).errCode == NO_ERR


def test_a_wipeout_without_a_lease_is_refused(net: Net) -> None:
    a = net.nodes["a"]
    a.membership.core.lease_until = -1.0
    assert response(a.take(request(b"w" * 16, command=WIPEOUT)), b"w" * 16).errCode == SYS_OVERLOAD_ERR


def test_a_remove_of_what_is_not_here_goes_to_the_copies(net: Net) -> None:
    """They may still have what was evicted here."""
    a, b = net.nodes["a"], net.nodes["b"]
    a.take(put(1))
    net.deliver()
    a.answers.clear()
    slot = slot_of(KEY)
    assert a.parts.store.remove(slot, KEY)
    assert a.take(request(b"d" * 16, command=REMOVE, key=KEY)) is None
    net.deliver()
    assert a.code(b"d" * 16) == KEY_DNE_ERR
    assert len(b.parts.store) == 0
