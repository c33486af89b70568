"""A request's object: what it takes along when it waits, and that nothing of one is left for the next."""

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.peers.frames import ANSWER, FORWARD, FORWARD_BYTES
from app.requests.request import PATIENCE_S, Request
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, SYS_OVERLOAD_ERR, TYPE_CLUSTER
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, Parts
from tests.wire.datagrams import envelope, request, response

KEY = b"key"
ONE, TWO = b"1" * 16, b"2" * 16


def put(message_id: bytes) -> bytes:
    return request(message_id, command=PUT, key=KEY, value=b"v")


@pytest.fixture
def net() -> Net:
    """Two nodes that forward to each other by hand."""
    return Net(names=("front", "owner"))


def test_a_request_that_does_not_wait_costs_no_copy() -> None:
    node = Parts()
    seen: list[Request] = []

    def handle(asked: Request, *arguments: object) -> bytes | None:
        seen.append(asked)
        reply = node.commands.handle(asked, *arguments)
        assert asked.datagram == b""
        return reply

    for number in range(3):
        assert node.handle_by(handle, put(b"%016d" % number)) is not None
    assert len(set(map(id, seen))) == 1, "one object serves all"


def test_one_that_waits_is_not_used_again(net: Net) -> None:
    front = net["front"]
    front.set_routes(UNKNOWN)
    for number in range(3):
        assert front.take(put(b"%016d" % number), b"%016d" % number) is None
    front.set_routes("owner")
    front.sweep()
    net.deliver()
    assert [(address, response(reply, address).errCode) for address, reply in front.told()] == [
        (b"%016d" % number, NO_ERR) for number in range(3)
    ]


def test_who_joined_another_leaves_nothing_to_the_next(net: Net) -> None:
    """A retry is kept and let go without having waited."""
    front = net["front"]
    front.set_routes("owner")
    front.take(put(ONE), CLIENT)
    front.take(put(ONE), CLIENT)
    front.take(put(TWO), OTHER_CLIENT)
    net.deliver()
    assert [
        (address, response(reply, message_id).errCode)
        for (address, reply), message_id in zip(front.told(), (ONE, TWO), strict=True)
    ] == [
        (CLIENT, NO_ERR),
        (OTHER_CLIENT, NO_ERR),
    ]


def test_who_was_let_go_is_a_new_request(net: Net) -> None:
    front = net["front"]
    asked = Request(front.clients)
    front.clients._datagram, front.clients._client = put(ONE), CLIENT
    asked.keep()
    assert (asked.datagram, asked.client, asked.peer, asked.hops) == (put(ONE), CLIENT, "", 0)
    asked.is_uncertain = True
    front.clients._datagram, front.clients._client = put(TWO), OTHER_CLIENT
    asked.keep()
    assert asked.client == CLIENT, "what is kept stays"
    asked.release()
    assert (asked.datagram, asked.is_uncertain) == (b"", False)
    asked.keep()
    assert (asked.datagram, asked.client) == (put(TWO), OTHER_CLIENT)


@pytest.mark.parametrize("where", ["one batch", "two batches"])
def test_what_a_node_said_leaves_nothing_to_the_next_request(net: Net, where: str) -> None:
    """Both come through the front, the first from where only nodes are heard."""
    node = net["front"]
    node.set_routes("owner")
    front = node.make_front(allowed={CLIENT[4:8]: False, OTHER_CLIENT[4:8]: True})
    node.outside.arrived.append((CLIENT, envelope(b"m" * 8, b"sealed", TYPE_CLUSTER)))
    if where == "two batches":
        front.read()
    node.outside.arrived.append((OTHER_CLIENT, put(ONE)))
    front.read()
    assert node.membership.heard == [(b"sealed", CLIENT)]
    net.loop.turn()
    ((_, _, kind, body),) = net.queue
    assert (kind, body[FORWARD_BYTES:]) == (FORWARD, put(ONE))
    net.deliver()
    assert node.code(ONE, OTHER_CLIENT) == NO_ERR
    assert len(net["owner"].store) == 1


def test_the_front_uses_none_again_that_waits(net: Net) -> None:
    node = net["front"]
    front = node.make_front()
    node.outside.arrived.append((CLIENT, put(ONE)))  # the object that served this one serves for the next
    front.read()
    net.loop.turn()
    assert node.code(ONE) == NO_ERR
    node.set_routes(UNKNOWN)
    clients = [b"%016d" % number for number in range(3)]
    node.outside.arrived = [(client, put(client)) for client in clients]
    front.read()
    assert node.waiting.count == 3
    node.set_routes(SELF)
    assert [(address, response(reply, address).errCode) for address, reply in node.told()] == [
        (client, NO_ERR) for client in clients
    ]


def test_requests_of_several_peers_and_clients_are_answered_each_to_its_own() -> None:
    net = Net(names=("owner", "one", "two"))
    owner = net["owner"]
    owner.set_routes(UNKNOWN)
    for number, name in enumerate(("one", "two")):
        net[name].set_routes("owner")
        net[name].take(request(b"%016d" % number, command=GET, key=KEY))
    owner.take(request(ONE, command=GET, key=KEY))
    net.deliver()
    assert owner.waiting.count == 3
    owner.set_routes(SELF)
    owner.sweep()
    assert owner.code(ONE) == KEY_DNE_ERR
    assert sorted((receiver, kind, body[2:18]) for _, receiver, kind, body in net.queue) == [
        ("one", ANSWER, b"%016d" % 0),
        ("two", ANSWER, b"%016d" % 1),
    ]


def test_the_deadline_counts_from_when_it_may_have_arrived() -> None:
    """The front may find what has lain in its socket for a while."""
    node = Parts()
    node.set_routes(UNKNOWN)
    front = node.make_front()
    lain_s = 0.25
    node.loop.now_s += lain_s
    node.outside.arrived.append((CLIENT, put(ONE)))
    front.read()
    node.loop.advance(PATIENCE_S - lain_s - 0.01)
    node.sweep()
    assert node.told() == []
    node.loop.advance(0.01)
    node.sweep()
    assert node.code(ONE) == SYS_OVERLOAD_ERR
