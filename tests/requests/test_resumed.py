"""Requests that waited and are executed as if they had just come: each by itself, in time or not at all."""

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.cluster.membership.planner import first_view
from app.cluster.view import Member
from app.observe.counters import REPLICATED, WAITED
from app.requests.request import PATIENCE_S
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, SYS_OVERLOAD_ERR, slot_of
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, Parts
from tests.wire.datagrams import request, response

VIEW = first_view((Member("a", 1), Member("b", 2)), 7, 2)
KEY, OTHER_KEY = [key for n in range(99) if VIEW.primaries[slot_of(key := b"%d" % n)] == "a"][:2]
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16


def put(message_id: bytes) -> bytes:
    return request(message_id, command=PUT, key=KEY, value=b"v")


def get(message_id: bytes) -> bytes:
    return request(message_id, command=GET, key=KEY)


def codes(node: Parts) -> list[tuple[bytes, int]]:
    """MessageID and code of each answer that has left, in order."""
    return [(reply[2:18], response(reply, reply[2:18]).errCode) for _, reply in node.told()]


def test_they_are_executed_in_the_order_in_which_they_came_and_answered_to_their_clients() -> None:
    node = Parts()
    node.set_routes(UNKNOWN)
    for message_id, client in ((ONE, CLIENT), (TWO, OTHER_CLIENT), (THREE, CLIENT)):
        assert node.take(put(message_id) if message_id == TWO else get(message_id), client) is None
    assert (node.waiting.count, node.forwarding.in_flight) == (3, 3)
    node.set_routes(SELF)
    told = node.told()
    assert [address for address, _ in told] == [CLIENT, OTHER_CLIENT, CLIENT]
    assert [response(reply, reply[2:18]).errCode for _, reply in told] == [KEY_DNE_ERR, NO_ERR, NO_ERR]
    assert (node.waiting.count, node.waiting.kept_bytes, node.forwarding.in_flight) == (0, 0, 0)
    assert node.counters.latency[WAITED].count == 3
    assert node.resumed._request.datagram == b"", "nothing of the last one is kept"


def test_one_that_waits_for_copies_does_not_hold_up_the_rest() -> None:
    net = Net(VIEW)
    a = net["a"]
    a.set_routes(UNKNOWN)
    a.take(put(ONE))
    a.take(request(TWO, command=GET, key=OTHER_KEY))
    a.set_routes(*(SELF if primary == "a" else primary for primary in VIEW.primaries))
    assert codes(a) == [(TWO, KEY_DNE_ERR)]
    assert (a.forwarding.in_flight, a.waiting.count) == (0, 1)
    net.deliver()
    assert codes(a) == [(ONE, NO_ERR)]
    assert a.counters.latency[REPLICATED].count == 1
    assert a.waiting.count == 0


@pytest.mark.parametrize("is_late", [False, True])
def test_the_time_is_looked_at_before_each(is_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may be stopped between two of them."""
    node = Parts()
    node.loop.now_s = 0.0
    node.set_routes(UNKNOWN)
    node.take(put(ONE))
    node.take(put(TWO))
    node.loop.now_s = PATIENCE_S / 2
    node.take(put(THREE))
    handle = node.resumed._handle

    def stopped(*arguments: object) -> bytes | None:
        reply = handle(*arguments)  # type: ignore[arg-type]
        node.loop.now_s = PATIENCE_S if is_late else PATIENCE_S - 0.001
        return reply

    monkeypatch.setattr(node.resumed, "_handle", stopped)
    node.set_routes(SELF)
    assert codes(node) == [(ONE, NO_ERR), (TWO, SYS_OVERLOAD_ERR if is_late else NO_ERR), (THREE, NO_ERR)]
    assert node.forwarding.abandoned == is_late
    assert len(node.replies) == 3 - is_late


def test_nothing_of_one_is_left_for_the_next() -> None:
    net = Net(names=("front", "owner"))
    front = net["front"]
    front.set_routes("owner")
    front.take(put(ONE))  # it may take effect there
    front.set_routes(UNKNOWN)
    front.take(put(TWO))
    net.queue.clear()
    front.replies.full = True
    front.set_routes(SELF)
    assert codes(front) == [(TWO, SYS_OVERLOAD_ERR)], "only what was sent nowhere is refused"
    front.replies.full = False
    assert response(front.take(put(THREE)), THREE).errCode == NO_ERR
