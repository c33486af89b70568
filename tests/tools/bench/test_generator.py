"""The compiled load generator: what it sends is the protocol's, and what comes back is checked."""

from collections.abc import Callable, Iterator

import pytest

from app.wire import protocol
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Address, Peer, before_the_answer, drop, lose_answer, overload
from tests.support.generator import generator
from tests.support.ports import free_port
from tools.bench import subjects

HOST = "127.0.0.1"
run = generator.run


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def test_its_numbers_are_the_protocols() -> None:
    assert {name: getattr(protocol, name) for name in generator.PROTOCOL} == generator.PROTOCOL
    assert generator.TIMEOUTS_MS == protocol.CLIENT_TIMEOUTS_MS


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 64, 127, 128, 10_000])
def test_each_key_is_put_and_then_got(peer: Peer, size: int) -> None:
    result = run([(HOST, peer.port)], clients=1, requests=20, value_bytes=size)
    assert result["answered"] == 20
    assert {result[what] for what in ("missing", "errors", "wrong", "timeouts")} == {0}  # type: ignore[literal-required]
    assert len(peer.store) == 10
    for key, (value, version) in peer.store.items():
        assert (len(key), len(value), version) == (16, size, 1)
        assert value[:16] == key[:size]


def test_keys_in_order_are_those_of_another_run(peer: Peer) -> None:
    servers = [(HOST, peer.port)]
    run(servers, clients=4, requests=100, kinds="put", in_order=True)
    assert len(peer.store) == 100
    assert run(servers, clients=4, requests=100, kinds="get", in_order=True)["missing"] == 0
    assert run(servers, clients=4, requests=50, kinds="get", in_order=True, first_key=100)["missing"] == 50


def test_sizes_are_drawn_from_the_range_and_stay_a_keys_own(peer: Peer) -> None:
    sizes = {"value_bytes": 3, "value_bytes_most": 5}
    servers = [(HOST, peer.port)]
    assert run(servers, clients=2, requests=200, keys=30, **sizes)["wrong"] == 0  # type: ignore[arg-type]
    assert {len(value) for value, _ in peer.store.values()} == {3, 4, 5}


def test_only_keys_of_the_route_are_asked_for_and_where_it_leads() -> None:
    route = [generator.NOWHERE] * protocol.SLOT_COUNT
    route[7], route[9] = 0, 1
    with Peer() as first, Peer() as second:
        run([(HOST, first.port), (HOST, second.port)], clients=3, requests=60, kinds="put", route=route)
        assert {protocol.slot_of(key) for key in first.store} == {7}
        assert {protocol.slot_of(key) for key in second.store} == {9}


class Lying(Peer):
    """Answers every GET with a value that it makes of the right one."""

    def __init__(self, make: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._make = make

    def execute(self, request: KVRequest) -> KVResponse:
        answer = super().execute(request)
        if request.command == protocol.GET:
            answer.value = self._make(answer.value)
        return answer


@pytest.mark.parametrize(
    "make",
    [lambda value: value[:-1], lambda value: value + b"x", lambda value: b"x" + value[1:], lambda value: b""],
    ids=["short", "long", "another key's", "empty"],
)
def test_a_value_that_is_not_the_keys_is_wrong(make: Callable[[bytes], bytes]) -> None:
    with Lying(make) as peer:
        result = run([(HOST, peer.port)], clients=1, requests=10)
    assert (result["answered"], result["wrong"]) == (10, 5)


def test_what_is_no_answer_is_wrong_and_anothers_answer_is_left_alone() -> None:
    def junk(peer: Peer, datagram: bytes, sender: Address) -> None:
        peer.send(b"\xff" * 20, sender)

    def with_another_id(message: Msg) -> bytes:
        message.messageID = bytes(16)
        return message.SerializeToString()

    def with_another_checksum(message: Msg) -> bytes:
        message.checkSum ^= 1
        return message.SerializeToString()

    with Peer([junk, before_the_answer(with_another_id), before_the_answer(with_another_checksum)]) as peer:
        result = run([(HOST, peer.port)], clients=1, requests=3, kinds="put")
    assert (result["answered"], result["wrong"]) == (3, 2)


def test_a_lost_request_is_sent_again_and_a_refused_one_is_an_error() -> None:
    with Peer([drop, lose_answer, overload(1)]) as peer:
        result = run([(HOST, peer.port)], clients=1, requests=2, kinds="put")
    assert (result["answered"], result["retries"], result["errors"]) == (2, 2, 1)
    assert len(peer.requests()) == 4
    assert len({message.messageID for message in peer.requests()}) == 2


@pytest.mark.parametrize("size", [0, 64, 1_300, 1_400, 10_000])
def test_memcached_whose_long_answers_come_in_several_datagrams(size: int) -> None:
    if subjects.MEMCACHED_PROGRAM is None:
        pytest.skip("memcached is not installed")
    with subjects.memcached(free_port()) as memcached:
        result = memcached.load(clients=2, requests=40, value_bytes=size).result
        assert (result["answered"], result["missing"], result["wrong"], result["errors"]) == (40, 0, 0, 0)
        assert (
            memcached.load(clients=1, requests=3, kinds="get", in_order=True, first_key=1 << 40).result["missing"] == 3
        )
        if size > 1:
            assert (
                memcached.load(clients=1, requests=9, kinds="put", in_order=True, value_bytes=size).result["wrong"] == 0
            )
            assert memcached.load(clients=1, requests=9, kinds="get", in_order=True, value_bytes=1).result["wrong"] == 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"keys": 0},
        {"value_bytes": 10_001},
        {"value_bytes": 2, "value_bytes_most": 1},
        {"kinds": "all"},
        {"route": [0]},
        {"route": [1] * 256},
        {"route": [generator.NOWHERE] * 256},
    ],
    ids=str,
)
def test_a_load_that_can_not_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"load of|is not put|route"):
        run([("127.0.0.1", 9)], **({"clients": 1} | wrong))  # type: ignore[arg-type]
