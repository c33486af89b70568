"""Forwarding between two or three nodes' insides, their links and clocks replaced by lists and a number."""

import pytest

from app.cluster.events import LOCAL, UNKNOWN
from app.net.forwarding import HOPS_MAX, PATIENCE_S, RESEND_S, Forwarder
from app.net.frames import ANSWER, FORWARD
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, REMOVE, SLOT_COUNT, SYS_OVERLOAD_ERR
from tests.parts import make_parts
from tests.wire.datagrams import request, response

CLIENT = b"client's address"
LATER = b"another address "
KEY = b"key"


class FakeMembership:
    def __init__(self, route: str) -> None:
        self.routes = [route] * SLOT_COUNT
        self.lease_until = 1e9


class Net:
    """Nodes by name; frames wait in `queue` until `deliver`."""

    def __init__(self, **routes: str) -> None:
        self.now = 0.0
        self.queue: list[tuple[str, str, int, bytes]] = []
        self.down: set[str] = set()
        self.nodes = {name: FakeNode(self, name, route) for name, route in routes.items()}

    def deliver(self) -> None:
        while self.queue:
            sender, receiver, kind, body = self.queue.pop(0)
            self.nodes[receiver].forwarder.on_frames(sender, [(kind, body)])


class FakeNode:
    def __init__(self, net: Net, name: str, route: str, max_in_flight: int = 3) -> None:
        self.parts = make_parts()
        self.membership = FakeMembership(route)
        self.client = CLIENT
        self.answers: list[tuple[bytes, bytes]] = []

        def send_frame(peer: str, kind: int, *parts: bytes) -> bool:
            if peer in net.down:
                return False
            net.queue.append((name, peer, kind, b"".join(parts)))
            return True

        self.forwarder = Forwarder(
            self.parts.commands,
            self.parts.counters,
            membership=self.membership,
            send_frame=send_frame,
            answer_client=lambda address, reply: self.answers.append((address, reply)),
            flush_clients=lambda: None,
            client_in_hand=lambda: self.client,
            max_in_flight=max_in_flight,
            clock=lambda: net.now,
        )

    def take(self, datagram: bytes) -> bytes | None:
        """A client's datagram arrives; what is answered at once."""
        self.forwarder.open_turn()
        return self.parts.handle(datagram)

    def answer(self, message_id: bytes) -> int:
        """The error code of the one answer that a client got later."""
        ((address, reply),) = self.answers
        assert address == self.client
        self.answers.clear()
        return response(reply, message_id).errCode


def test_a_request_goes_to_its_primary_and_the_answer_to_the_client() -> None:
    net = Net(front="owner", owner=LOCAL)
    front, owner = net.nodes["front"], net.nodes["owner"]
    datagram = request(b"1" * 16, command=PUT, key=KEY, value=b"v")
    assert front.take(datagram) is None
    ((_, _, kind, body),) = net.queue
    assert (kind, body[5:]) == (FORWARD, datagram), "the client's datagram travels as it came"
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR
    assert len(owner.parts.store) == 1
    assert len(front.parts.store) == front.forwarder.in_flight == 0


def test_a_retry_joins_the_request_in_flight_and_takes_effect_once() -> None:
    net = Net(front="owner", owner=LOCAL)
    front = net.nodes["front"]
    owner = net.nodes["owner"]
    assert owner.take(request(b"0" * 16, command=PUT, key=KEY, value=b"v")) is not None
    remove = request(b"1" * 16, command=REMOVE, key=KEY)
    front.take(remove)
    front.client = LATER
    front.take(remove)
    assert len(net.queue) == 1
    net.now += RESEND_S
    front.take(remove)
    assert len(net.queue) == 2, "an answer may have been lost"
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR
    assert owner.parts.counters.retries_answered == 1


def test_a_retry_through_another_node_gets_the_first_answer() -> None:
    net = Net(front="owner", other="owner", owner=LOCAL)
    net.nodes["owner"].take(request(b"0" * 16, command=PUT, key=KEY, value=b"v"))
    for name in ("front", "other"):
        net.nodes[name].take(request(b"1" * 16, command=REMOVE, key=KEY))
        net.deliver()
        assert net.nodes[name].answer(b"1" * 16) == NO_ERR


@pytest.mark.parametrize("cause", ["nobody", "link"])
def test_a_request_waits_for_its_primary(cause: str) -> None:
    net = Net(front=UNKNOWN if cause == "nobody" else "owner", owner=LOCAL)
    if cause == "link":
        net.down.add("owner")
    front = net.nodes["front"]
    assert front.take(request(b"1" * 16, command=GET, key=KEY)) is None
    front.forwarder.sweep()
    assert not net.queue
    assert not front.answers
    net.down.clear()
    front.membership.routes[:] = ["owner"] * SLOT_COUNT
    front.forwarder.sweep()
    net.deliver()
    assert front.answer(b"1" * 16) == KEY_DNE_ERR


def test_a_request_that_waited_is_executed_here_once_this_node_is_in_charge() -> None:
    net = Net(front=UNKNOWN)
    front = net.nodes["front"]
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    front.membership.routes[:] = [LOCAL] * SLOT_COUNT
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == NO_ERR
    assert len(front.parts.store) == 1


def test_what_was_sent_over_a_broken_link_is_sent_again() -> None:
    net = Net(front="owner", owner=LOCAL)
    front = net.nodes["front"]
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.queue.clear()
    front.forwarder.link_closed("owner")
    front.forwarder.sweep()
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR


def test_a_request_waits_for_a_bounded_time() -> None:
    net = Net(front=UNKNOWN)
    front = net.nodes["front"]
    front.take(request(b"1" * 16, command=GET, key=KEY))
    net.now += PATIENCE_S - 0.01
    front.forwarder.sweep()
    assert not front.answers
    net.now += 0.02
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == SYS_OVERLOAD_ERR
    assert front.forwarder.in_flight == 0


def test_too_many_in_flight_are_refused() -> None:
    net = Net(front="owner", owner=LOCAL)
    front = net.nodes["front"]
    for n in range(3):
        assert front.take(request(b"%016d" % n, command=GET, key=KEY)) is None
    refused = response(front.take(request(b"x" * 16, command=GET, key=KEY)), b"x" * 16)
    assert refused.errCode == SYS_OVERLOAD_ERR
    assert refused.overloadWaitTime > 0


def test_tables_that_disagree_send_a_request_round_no_more_than_so_often() -> None:
    net = Net(a="b", b="a")
    a = net.nodes["a"]
    a.take(request(b"1" * 16, command=GET, key=KEY))
    forwards = 0
    while net.queue:
        forwards += net.queue[0][2] == FORWARD
        frame = net.queue.pop(0)
        net.nodes[frame[1]].forwarder.on_frames(frame[0], [(frame[2], frame[3])])
    assert forwards <= HOPS_MAX
    a.membership.routes[:] = [LOCAL] * SLOT_COUNT
    a.forwarder.sweep()
    assert a.answer(b"1" * 16) == KEY_DNE_ERR


def test_nothing_is_answered_from_memory_that_the_lease_does_not_cover() -> None:
    net = Net(front="owner", owner=LOCAL)
    front, owner = net.nodes["front"], net.nodes["owner"]
    owner.membership.lease_until = 1.0
    net.now = 2.0
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.deliver()
    assert not front.answers
    assert len(owner.parts.store) == 0
    owner.membership.lease_until = 9.0
    owner.forwarder.sweep()
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR


def test_a_reply_is_held_back_when_the_lease_runs_out_during_the_work() -> None:
    net = Net(front="owner", owner=LOCAL)
    front, owner = net.nodes["front"], net.nodes["owner"]
    handle = owner.parts.commands.handle

    def slow(buffer: bytes, start: int, end: int) -> bytes | None:
        reply = handle(buffer, start, end)
        owner.membership.lease_until = -1.0
        return reply

    owner.parts.commands.handle = slow  # type: ignore[method-assign]
    front.take(request(b"1" * 16, command=GET, key=KEY))
    net.deliver()
    assert not front.answers
    assert owner.parts.counters.unfenced == 1


def test_junk_between_nodes_changes_nothing() -> None:
    net = Net(front="owner", owner=LOCAL)
    owner = net.nodes["owner"]
    owner.forwarder.on_frames(
        "front", [(FORWARD, b""), (FORWARD, b"12345"), (ANSWER, b"1234"), (99, b"x"), (ANSWER, b"")]
    )
    assert not net.queue
    assert not owner.answers
