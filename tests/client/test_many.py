"""Many requests in flight: what comes back, in what order they leave, and what happens when some fail."""

from collections.abc import Iterator
from functools import partial

import pytest

from app.client import (
    Client,
    InvalidKey,
    InvalidValue,
    NotTried,
    Overloaded,
    PartialFailure,
    Timeout,
    Versioned,
)
from app.client.address import Endpoint
from app.client.engine import WINDOW_MIN
from app.wire import protocol
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Address, Fault, Peer, answer_twice, drop, lose_answer, overload
from tests.client.test_engine import Clock, Wire, answer

plain = partial(Client, slot_aware=False)
QUICK = (20, 40, 5000)
PATIENT = (5000,)
ITEMS = {b"key %d" % n: b"value %d" % n for n in range(300)}


def test_put_get_remove_many() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put_many(ITEMS)
        assert peer.store == {key: (value, 0) for key, value in ITEMS.items()}
        found = client.get_many([*ITEMS, b"not there"])
        assert found == {key: Versioned(value, 0) for key, value in ITEMS.items()}
        client.put_many([(b"key 7", Versioned(b"seven", 7)), (b"new", b"")])
        assert client.get_many([b"key 7", b"new"]) == {b"key 7": (b"seven", 7), b"new": (b"", 0)}
        assert client.remove_many(iter([b"key 7", b"not there", b"key 8"])) == {b"key 7", b"key 8"}
        assert client.get_many([b"key 7", b"key 8"]) == {}
        client.put_many(found)
        assert client.get_many(ITEMS) == found
        assert client.stats.retries == 0


def test_nothing_to_do() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put_many({})
        assert client.get_many([]) == {}
        assert client.remove_many([]) == set()
        assert peer.received == []


class Hoarder(Peer):
    """Keeps requests until so many are there, and answers them last first."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.kept: list[tuple[bytes, Address]] = []
        self.script = [Hoarder.keep] * 100_000  # type: ignore[list-item]

    def keep(self, datagram: bytes, sender: Address) -> None:
        self.kept.append((datagram, sender))
        if len(self.kept) == self.count:
            for kept, its_sender in reversed(self.kept):
                answer = self.answer_to(kept)
                assert answer is not None
                self.send(answer, its_sender)
            self.kept.clear()


def test_a_window_of_requests_is_in_flight_over_one_socket_and_answers_come_in_any_order() -> None:
    with Hoarder(10) as peer, plain([peer.name], timeouts_ms=PATIENT, window=10) as client:
        client.put_many(ITEMS)  # would time out with less than 10 in flight
        assert client.stats.retries == 0
        assert len({sender for _, sender in peer.received}) == 1
        assert client.get_many(ITEMS) == {key: (value, 0) for key, value in ITEMS.items()}


def test_no_more_than_a_window() -> None:
    with Hoarder(11) as peer, plain([peer.name], timeouts_ms=(30,), window=10) as client:
        with pytest.raises(PartialFailure):
            client.put_many(ITEMS)
        assert client.stats.sent == 10  # and nothing after it, since nobody answered


@pytest.mark.parametrize("fault", [drop, lose_answer, overload(5), answer_twice])
def test_each_request_has_its_own_retries(fault: Fault) -> None:
    script: list[Fault | None] = [fault if n % 7 == 0 else None for n in range(len(ITEMS))]
    with Peer(script) as peer, plain([peer.name], timeouts_ms=QUICK) as client:
        client.put_many(ITEMS)
        assert peer.store == {key: (value, 0) for key, value in ITEMS.items()}
        assert client.remove_many(ITEMS) == ITEMS.keys()  # each removed once, whatever was lost


def test_the_window_shrinks_with_losses_and_grows_again() -> None:
    with Peer([drop] * 30) as peer, plain([peer.name], timeouts_ms=QUICK, window=32) as client:
        client.put_many(dict(list(ITEMS.items())[:32]))
        assert WINDOW_MIN <= client._sessions[0].engine.window < 32
        for _ in range(10):
            client.get_many(ITEMS)
        assert client._sessions[0].engine.window > 31


def test_requests_for_one_key_do_not_overtake_each_other() -> None:
    pairs = [(b"key", b"%d" % n) for n in range(50)]
    with Peer([drop]) as peer, plain([peer.name], timeouts_ms=QUICK) as client:
        client.put_many(pairs)
        assert peer.store[b"key"] == (b"49", 0)


def test_a_key_is_not_asked_for_again_once_what_became_of_it_is_unknown() -> None:
    """Its last request may still be executed, after the next."""
    pairs = [(b"key", b"first"), (b"other", b"1"), (b"key", b"second"), (b"other", b"2")]
    with Peer() as peer, plain([peer.name], timeouts_ms=(1000,)) as client:
        peer.script = [drop]
        with pytest.raises(PartialFailure) as caught:
            client.put_many(pairs)
        assert {key: type(error) for key, error in caught.value.errors.items()} == {b"key": Timeout}
        assert peer.store == {b"other": (b"2", 0)}


def test_what_fails_is_told_by_key_and_the_rest_is_done() -> None:
    items = dict(ITEMS)
    items[b"k" * 33] = b"value"
    items[b"long"] = bytes(protocol.VALUE_MAX_BYTES + 1)
    items[b"too long"] = bytes(protocol.DATAGRAM_MAX_BYTES + 1)
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        with pytest.raises(PartialFailure, match=r"^put_many: .* failed: .*, and 2 more keys failed$") as caught:
            client.put_many(items)
        errors = caught.value.errors
        assert errors.keys() == {b"k" * 33, b"long", b"too long"}
        assert [type(errors[key]) for key in (b"k" * 33, b"long", b"too long")] == [
            InvalidKey,
            InvalidValue,
            InvalidValue,
        ]
        assert len(peer.store) == len(ITEMS)
        with pytest.raises(PartialFailure) as caught:
            client.get_many([b"key 1", b""])
        assert str(caught.value) == f"get_many: b'' failed: {caught.value.errors[b'']}"
        assert caught.value.result == {b"key 1": (b"value 1", 0)}
        assert type(caught.value.errors[b""]) is InvalidKey


class Refusing(Peer):
    """Refuses one key for as long as anyone can bear, and never answers for another."""

    def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
        if request.key == b"key 3":
            return KVResponse(errCode=protocol.SYS_OVERLOAD_ERR, overloadWaitTime=6000)
        return super().response_to(message_id, request)

    def send(self, datagram: bytes, to: Address) -> None:
        if b"value 5" not in datagram:
            super().send(datagram, to)


def test_refused_and_unanswered_keys() -> None:
    with Refusing() as peer, plain([peer.name], timeouts_ms=(1500,), timeout_s=1) as client:
        for key, value in ITEMS.items():
            peer.store[key] = (value, 0)
        with pytest.raises(PartialFailure) as caught:
            client.get_many(list(ITEMS)[:10])
        assert {key: type(error) for key, error in caught.value.errors.items()} == {
            b"key 3": Overloaded,
            b"key 5": Timeout,
        }
        assert len(caught.value.result) == 8


def test_when_nobody_answers_the_rest_is_not_tried() -> None:
    with Peer([drop] * 100_000) as peer, plain([peer.name], timeouts_ms=(10, 10), window=8) as client:
        with pytest.raises(PartialFailure) as caught:
            client.get_many(ITEMS)
        kinds = [type(error) for error in caught.value.errors.values()]
        assert caught.value.errors.keys() == ITEMS.keys()
        assert set(kinds) == {Timeout, NotTried}
        assert kinds.count(Timeout) <= 16
        peer.script = []
        assert client.get_many(ITEMS) == {}  # it is not held against the next call


class Answering(Wire):
    """Answers at once, but for key 1 never, and for key 2 only after it has had it wait."""

    def send(self, index: int, server: Endpoint, datagram: bytes) -> None:
        super().send(index, server, datagram)
        message = Msg.FromString(datagram)
        key = KVRequest.FromString(message.payload).key
        if key == b"key 2" and len([sent for sent in self.sent if sent[1] == message.messageID]) == 1:
            self.coming.append((index, answer(message.messageID, protocol.SYS_OVERLOAD_ERR, 1000)))
        elif key != b"key 1":
            self.coming.append((index, answer(message.messageID, protocol.KEY_DNE_ERR)))


def test_one_key_that_nobody_answers_for_does_not_keep_the_others_from_being_tried() -> None:
    clock = Clock()
    with plain(["10.0.0.1:1"], timeouts_ms=(100,), window=2) as client:
        client._sessions[0].engine.sockets.close()
        client._sessions[0].engine._now = clock.now
        client._sessions[0].engine.sockets = wire = Answering(clock)  # type: ignore[assignment]
        with pytest.raises(PartialFailure) as caught:
            client.get_many([b"key 1", b"key 2", b"key 3", b"key 4"])
        assert {key: type(error) for key, error in caught.value.errors.items()} == {b"key 1": Timeout}
        assert len(wire.sent) == 5


def test_where_nothing_listens_the_whole_call_fails_at_once() -> None:
    with Peer() as peer:
        name = peer.name
    with plain([name]) as client:
        with pytest.raises(PartialFailure, match="connection refused"):
            client.get_many(ITEMS)
        assert client.stats.retries == 0


def test_a_key_of_the_wrong_type_leaves_nothing_in_flight() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        with pytest.raises(TypeError):
            client.get_many([b"key", "text"])  # type: ignore[list-item]
        assert client._sessions[0].engine._in_flight == {}
        client.put(b"key", b"value")
        assert client.get(b"key").value == b"value"


def test_a_call_from_within_the_callers_own_iterator() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:

        def keys() -> Iterator[bytes]:
            client.ping()
            yield b"key"

        assert client.get_many(keys()) == {}


def test_acks_follow_each_answer() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT, ack=True) as client:
        client.put_many(ITEMS)
        client.ping()
        assert client.stats.acks == len(ITEMS)
        assert peer.replies == {}


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_has_room_for_one(window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Client(["127.0.0.1:9"], window=window)
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT, window=1) as client:
        client.put_many(ITEMS)
