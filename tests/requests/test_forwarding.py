"""Forwarding between two or three nodes' insides, their links and clocks replaced by lists and a number."""

import json

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.observe.counters import FORWARDED, WAITED
from app.observe.slowlog import SlowLog
from app.peers.frames import ANSWER, FORWARD
from app.requests.forwarding import HEADER_BYTES, HOPS_MAX, RESEND_S, Forwarder
from app.requests.request import PATIENCE_S, STALL_S, Origin
from app.requests.turn import Turn
from app.wire.protocol import (
    GET,
    INTERNAL_ERR,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SHUTDOWN,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
)
from tests.support.parts import make_parts
from tests.wire.datagrams import request, response

CLIENT = b"client's address"
LATER = b"another address "
KEY = b"key"


class FakeMembership:
    def __init__(self, route: str) -> None:
        self.routes = [route] * SLOT_COUNT
        self.lease_until = 1e9
        self.is_member = True


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

    def wait(self, seconds: float) -> None:
        """Let time pass while every node's loop turns."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + STALL_S / 2)
            for node in self.nodes.values():
                node.turn.open()


class FakeNode:
    def __init__(self, net: Net, name: str, route: str, max_in_flight: int = 3) -> None:
        self.parts = make_parts()
        self.membership = FakeMembership(route)
        self.client = CLIENT
        self.answers: list[tuple[bytes, bytes]] = []

        def send_frame(peer: str, kind: int, body: bytes, head: bytes = b"") -> bool:
            if peer in net.down:
                return False
            net.queue.append((name, peer, kind, head + body))
            return True

        self.turn = Turn(self.parts.commands, self.membership, self.membership.routes, lambda: net.now)  # type: ignore[arg-type]
        self.forwarder = Forwarder(
            self.parts.commands,
            self.parts.counters,
            routes=self.membership.routes,
            turn=self.turn,
            send_frame=send_frame,
            send_frames=lambda peer, kind, bodies: all(send_frame(peer, kind, body) for body in bodies),
            answer_client=lambda address, reply: self.answers.append((address, reply)),
            wake=lambda: None,
            client_in_hand=lambda: Origin(self.client, "", 0, net.now + PATIENCE_S, net.now),
            max_in_flight=max_in_flight,
        )

    def take(self, datagram: bytes) -> bytes | None:
        """A client's datagram arrives; what is answered at once."""
        self.turn.open()
        return self.parts.handle(datagram)

    def answer(self, message_id: bytes) -> int:
        """The error code of the one answer that a client got later."""
        ((address, reply),) = self.answers
        assert address == self.client
        self.answers.clear()
        return response(reply, message_id).errCode


def test_a_request_goes_to_its_primary_and_the_answer_to_the_client() -> None:
    net = Net(front="owner", owner=SELF)
    front, owner = net.nodes["front"], net.nodes["owner"]
    datagram = request(b"1" * 16, command=PUT, key=KEY, value=b"v")
    assert front.take(datagram) is None
    ((_, _, kind, body),) = net.queue
    assert (kind, body[HEADER_BYTES:]) == (FORWARD, datagram), "the client's datagram travels as it came"
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR
    assert len(owner.parts.store) == 1
    assert len(front.parts.store) == front.forwarder.in_flight == 0


def test_a_retry_joins_the_request_in_flight_and_takes_effect_once() -> None:
    net = Net(front="owner", owner=SELF)
    front = net.nodes["front"]
    owner = net.nodes["owner"]
    assert owner.take(request(b"0" * 16, command=PUT, key=KEY, value=b"v")) is not None
    remove = request(b"1" * 16, command=REMOVE, key=KEY)
    front.take(remove)
    front.client = LATER
    front.take(remove)
    assert len(net.queue) == 1
    net.wait(RESEND_S)
    front.take(remove)
    assert len(net.queue) == 2, "an answer may have been lost"
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR
    assert owner.parts.counters.retries_answered == 1


def test_a_retry_through_another_node_gets_the_first_answer() -> None:
    net = Net(front="owner", other="owner", owner=SELF)
    net.nodes["owner"].take(request(b"0" * 16, command=PUT, key=KEY, value=b"v"))
    for name in ("front", "other"):
        net.nodes[name].take(request(b"1" * 16, command=REMOVE, key=KEY))
        net.deliver()
        assert net.nodes[name].answer(b"1" * 16) == NO_ERR


@pytest.mark.parametrize("cause", ["nobody", "link"])
def test_a_request_waits_for_its_primary(cause: str) -> None:
    net = Net(front=UNKNOWN if cause == "nobody" else "owner", owner=SELF)
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
    front.membership.routes[:] = [SELF] * SLOT_COUNT
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == NO_ERR
    assert len(front.parts.store) == 1


def test_what_was_sent_over_a_broken_link_is_sent_again() -> None:
    net = Net(front="owner", owner=SELF)
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
    net.wait(PATIENCE_S - 0.01)
    front.forwarder.sweep()
    assert not front.answers
    net.wait(0.02)
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == SYS_OVERLOAD_ERR
    assert front.forwarder.in_flight == 0


def test_a_read_without_an_answer_is_refused() -> None:
    net = Net(front="silent", silent=SELF)
    front = net.nodes["front"]
    front.take(request(b"1" * 16, command=GET, key=KEY))
    net.wait(PATIENCE_S)
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == SYS_OVERLOAD_ERR


def test_a_member_without_a_lease_forwards_nothing() -> None:
    """It may be the one who is cut off; an outsider has no lease by right."""
    net = Net(front="owner", owner=SELF)
    front = net.nodes["front"]
    front.membership.lease_until = -1.0
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    assert not net.queue
    net.wait(PATIENCE_S)
    front.forwarder.sweep()
    assert front.answer(b"1" * 16) == SYS_OVERLOAD_ERR
    front.membership.is_member = False
    front.take(request(b"2" * 16, command=PUT, key=KEY, value=b"v"))
    net.deliver()
    assert front.answer(b"2" * 16) == NO_ERR


def test_too_many_in_flight_are_refused() -> None:
    net = Net(front="owner", owner=SELF)
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
    a.membership.routes[:] = [SELF] * SLOT_COUNT
    a.forwarder.sweep()
    assert a.answer(b"1" * 16) == KEY_DNE_ERR


def test_nothing_is_answered_from_memory_that_the_lease_does_not_cover() -> None:
    net = Net(front="owner", owner=SELF)
    front, owner = net.nodes["front"], net.nodes["owner"]
    owner.membership.lease_until = 1.0
    net.wait(2.0)
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.deliver()
    assert not front.answers
    assert len(owner.parts.store) == 0
    owner.membership.lease_until = 9.0
    owner.forwarder.sweep()
    net.deliver()
    assert front.answer(b"1" * 16) == NO_ERR


def test_a_request_takes_along_how_long_it_may_still_wait() -> None:
    net = Net(front=UNKNOWN, owner=UNKNOWN)
    front, owner = net.nodes["front"], net.nodes["owner"]
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.wait(PATIENCE_S / 2)
    front.membership.routes[:] = ["owner"] * SLOT_COUNT
    front.forwarder.sweep()
    net.deliver()
    assert owner.forwarder.in_flight == 1
    net.wait(PATIENCE_S / 2)
    owner.membership.routes[:] = [SELF] * SLOT_COUNT
    owner.forwarder.sweep()
    assert len(owner.parts.store) == 0, "executed when its reply might be forgotten before its last retry"


def test_what_a_stopped_process_finds_in_its_links_is_not_executed() -> None:
    net = Net(front="owner", owner=SELF)
    front, owner = net.nodes["front"], net.nodes["owner"]
    severed: list[bool] = []
    owner.turn.on_stall.append(lambda: severed.append(True))
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.now += STALL_S
    net.deliver()
    assert severed == [True]
    assert len(owner.parts.store) == 0


def test_what_may_have_taken_effect_is_not_refused() -> None:
    """SYS_OVERLOAD_ERR says that nothing was done."""
    net = Net(front="gone", gone=SELF, owner=UNKNOWN)
    front = net.nodes["front"]
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.deliver()
    front.answers.clear()
    front.take(request(b"2" * 16, command=PUT, key=KEY, value=b"w"))
    net.queue.clear()  # it may have been executed before its node died
    front.membership.routes[:] = ["owner"] * SLOT_COUNT
    front.forwarder.sweep()
    net.deliver()
    net.wait(PATIENCE_S)
    net.nodes["owner"].forwarder.sweep()
    net.deliver()
    front.forwarder.sweep()
    assert front.forwarder.in_flight == net.nodes["owner"].forwarder.in_flight == 0
    assert not front.answers


def test_a_reply_is_held_back_when_the_lease_runs_out_during_the_work() -> None:
    net = Net(front="owner", owner=SELF)
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


def test_a_request_that_breaks_the_code_takes_nothing_along() -> None:
    """What follows it on the link may be writes that must not be missed."""
    net = Net(front="owner", owner=SELF)
    front, owner = net.nodes["front"], net.nodes["owner"]
    handle = owner.parts.commands.handle

    def broken(buffer: bytes, start: int, end: int) -> bytes | None:
        if b"break" in buffer:
            raise ValueError("broken")
        return handle(buffer, start, end)

    owner.parts.commands.handle = broken  # type: ignore[method-assign]
    datagrams = [request(b"1" * 16, command=GET, key=b"break"), request(b"2" * 16, command=PUT, key=KEY, value=b"v")]
    frames = [(FORWARD, b"\x01\xff\x00" + datagram) for datagram in datagrams]
    owner.forwarder.on_frames("front", [*frames, (FORWARD, b"\x01\xff\x00" + request(b"3" * 16, command=SHUTDOWN))])
    assert len(owner.parts.store) == 1
    codes = [
        response(body, number * 16).errCode for (_, _, _, body), number in zip(net.queue, (b"1", b"2"), strict=True)
    ]
    assert codes == [INTERNAL_ERR, NO_ERR]
    assert not front.answers


def test_junk_between_nodes_changes_nothing() -> None:
    net = Net(front="owner", owner=SELF)
    owner = net.nodes["owner"]
    owner.forwarder.on_frames(
        "front", [(FORWARD, b""), (FORWARD, b"12345"), (ANSWER, b"1234"), (99, b"x"), (ANSWER, b"")]
    )
    assert not net.queue
    assert not owner.answers


# --- how long requests took -----------------------------------------------------------------------------------------


def test_latency_is_counted_where_the_client_asked_and_by_how_it_was_answered() -> None:
    net = Net(front="owner", owner=SELF)
    front, owner = net.nodes["front"], net.nodes["owner"]
    front.forwarder.slow_log = SlowLog(0.2)
    net.wait(5.0)
    for message_id, command, wait_s in ((b"1" * 16, PUT, 0.2), (b"2" * 16, GET, 0.1)):
        front.take(request(message_id, command=command, key=KEY, value=b"v"))
        net.wait(wait_s)
        net.deliver()
    latency = front.parts.counters.latency
    assert latency[FORWARDED].count == 2
    assert latency[FORWARDED].total_s == pytest.approx(0.3)
    assert [row[1] for row in json.loads(front.forwarder.slow_log.as_json())["entries"]] == ["PUT"]
    assert all(histogram.count == 0 for histogram in owner.parts.counters.latency.values())


def test_what_waited_for_this_node_to_become_primary_has_waited() -> None:
    net = Net(front=UNKNOWN)
    front = net.nodes["front"]
    net.wait(5.0)
    front.take(request(b"1" * 16, command=PUT, key=KEY, value=b"v"))
    net.wait(0.5)
    front.membership.routes[:] = [SELF] * SLOT_COUNT
    front.forwarder.sweep()
    latency = front.parts.counters.latency
    assert (latency[WAITED].count, latency[FORWARDED].count) == (1, 0)
    assert latency[WAITED].total_s == pytest.approx(0.5)
