"""What is answered to each datagram: every command, code, limit, drop and retry, without a socket."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from math import inf
from typing import Any
from zlib import crc32

import pytest

from app.cluster.events import SELF
from app.config.allowlist import host_of
from app.observe.counters import DROP_REASONS
from app.peers.frames import FORWARD, FORWARD_BYTES
from app.requests.commands import Shutdown
from app.requests.request import Request
from app.storage.arena import Arena
from app.storage.store import WholeStore
from app.wire.protocol import (
    COMMAND_NAMES,
    CONFIG,
    DATAGRAM_MAX_BYTES,
    ERROR_NAMES,
    FOUND,
    GET,
    GET_MEMBERSHIP_CNT,
    GET_PID,
    INTERNAL_ERR,
    INVALID_KEY_ERR,
    INVALID_VAL_ERR,
    IS_ALIVE,
    KEY_DNE_ERR,
    KEY_MAX_BYTES,
    MESSAGE_ID_MAX_BYTES,
    NO_ERR,
    NO_SPC_ERR,
    PADDING_BYTES,
    PADDING_MAX_BYTES,
    PUT,
    REMOVE,
    REPORTS,
    SERVERS,
    SHUTDOWN,
    SLOT_COUNT,
    SLOWLOG,
    STATUS,
    SYS_OVERLOAD_ERR,
    TYPE_ACK,
    TYPE_CLUSTER,
    TYPE_RESPONSE,
    UNKNOWN_CMD_ERR,
    VALUE_MAX_BYTES,
    VITALS,
    WIPEOUT,
    slot_of,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.support.loop import Exited
from tests.support.parts import CLIENT, MIB, PID, Net, Parts, forwarded
from tests.wire.datagrams import ack, envelope, request, response
from tests.wire.vectors import EMPTY_KEY, MESSAGE_ID, exchanges

KEY = b"key"
VALUE = b"value"
FIRST = b"first" * 3


@dataclasses.dataclass
class Asker:
    """Asks with a fresh messageID each time, unless one is given."""

    parts: Parts
    asked: int = 0

    def fresh_id(self) -> bytes:
        self.asked += 1
        return b"%016d" % self.asked

    def send(self, datagram: bytes) -> bytes | None:
        return self.parts.handle(datagram)

    def ask(self, command: int | None, message_id: bytes | None = None, **fields: object) -> KVResponse:
        message_id = message_id or self.fresh_id()
        return response(self.send(request(message_id, command=command, **fields)), message_id)

    def code(self, command: int | None, message_id: bytes | None = None, **fields: object) -> int:
        """The error code of an answer that carries nothing else."""
        answer = self.ask(command, message_id, **fields)
        assert answer == KVResponse(errCode=answer.errCode)
        return answer.errCode

    def holds(self, key: bytes = KEY) -> tuple[bytes, int] | None:
        """Value and version of a key, None when the node has none."""
        answer = self.ask(GET, key=key)
        if answer.errCode == KEY_DNE_ERR:
            assert answer == KVResponse(errCode=KEY_DNE_ERR)
            return None
        assert answer.HasField("value")
        assert answer.HasField("version")
        assert answer == KVResponse(errCode=NO_ERR, value=answer.value, version=answer.version)
        return answer.value, answer.version

    def drops(self) -> dict[str, int]:
        return self.parts.drops()

    def shut_out(self, datagram: bytes) -> bytes | None:
        """It comes from where no requests are allowed from."""
        commands = self.parts.commands
        return self.parts.handle_by(
            lambda asked, buffer, start, end: commands.shut_out(asked, bytes(buffer[start:end])), datagram
        )


@pytest.fixture
def node() -> Asker:
    return Asker(Parts(members=3))


def full_node() -> Asker:
    """One that may not evict and has no room for another value of 9,000 bytes."""
    node = Asker(Parts(arena_bytes=512 * 1024, evict=False))
    for n in range(100):
        if node.code(PUT, key=b"%d" % n, value=bytes(9_000)) != NO_ERR:
            return node
    raise AssertionError("the store does not get full")


def test_the_golden_vectors() -> None:
    """Byte for byte, on a node that is alone."""
    node = Asker(Parts(members=1))
    assert node.code(PUT, key=EMPTY_KEY, value=b"") == NO_ERR
    for exchange in exchanges():
        assert node.send(exchange.request) == exchange.response, exchange.name
        node.send(ack(MESSAGE_ID))


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 8, 79, 80, 127, 128, 2048, 9_999, VALUE_MAX_BYTES])
@pytest.mark.parametrize("version", [None, 0, 1, 127, 128, 2**31 - 1, -1, -(2**31)])
def test_put_then_get(node: Asker, length: int, version: int | None) -> None:
    value = bytes(n * 7 % 256 for n in range(length))
    assert node.code(PUT, key=KEY, value=value, version=version) == NO_ERR
    assert node.holds() == (value, version or 0)


def test_a_put_replaces_value_and_version(node: Asker) -> None:
    node.code(PUT, key=KEY, value=VALUE, version=5)
    node.code(PUT, key=KEY, value=b"")
    assert node.holds() == (b"", 0)


def test_remove(node: Asker) -> None:
    node.code(PUT, key=KEY, value=VALUE)
    assert node.code(REMOVE, key=KEY) == NO_ERR
    assert node.holds() is None
    assert node.code(REMOVE, key=KEY) == KEY_DNE_ERR


def test_get_of_a_missing_key(node: Asker) -> None:
    assert node.code(GET, key=KEY) == KEY_DNE_ERR


def test_every_get_is_counted_by_what_it_found(node: Asker) -> None:
    node.code(PUT, key=KEY, value=VALUE)
    for _ in range(2):
        assert node.holds() is not None
    for _ in range(3):
        assert node.holds(b"other") is None
    counts = node.parts.counters.answers
    assert (counts[GET * 8 + NO_ERR], counts[GET * 8 + KEY_DNE_ERR]) == (2, 3)
    assert node.parts.counters.by_command()["GET"] == 5


def test_wipeout(node: Asker) -> None:
    for n in range(300):
        node.code(PUT, key=b"%d" % n, value=VALUE)
    assert node.code(WIPEOUT) == NO_ERR
    assert all(node.holds(b"%d" % n) is None for n in range(300))
    assert len(node.parts.store) == 0


def test_the_rest(node: Asker) -> None:
    assert node.code(IS_ALIVE) == NO_ERR
    assert node.ask(GET_PID) == KVResponse(errCode=NO_ERR, pid=PID)
    assert node.ask(GET_MEMBERSHIP_CNT) == KVResponse(errCode=NO_ERR, membershipCount=3)


def test_shutdown_raises_with_the_reply(node: Asker) -> None:
    with pytest.raises(Shutdown) as caught:
        node.send(request(b"s" * 16, command=SHUTDOWN))
    assert response(caught.value.reply, b"s" * 16) == KVResponse(errCode=NO_ERR)
    assert node.parts.counters.by_command()["SHUTDOWN"] == 1


@pytest.mark.parametrize("command", [None, 0, 9, 10, 127, 128, 2**32 - 1])
def test_unknown_commands(node: Asker, command: int | None) -> None:
    assert node.code(command) == UNKNOWN_CMD_ERR
    assert node.code(command, key=KEY, value=VALUE) == UNKNOWN_CMD_ERR
    assert node.parts.counters.by_command()["unknown"] == 2


def test_an_explicitly_empty_payload_is_an_unknown_command(node: Asker) -> None:
    assert response(node.send(envelope(b"m", b"")), b"m").errCode == UNKNOWN_CMD_ERR


def test_ordinary_requests_take_the_short_way(node: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_decode", "_see_to"):
        monkeypatch.setattr(node.parts.commands, name, Broken(AssertionError("the general way")))
    for value, version in ((VALUE, 1), (VALUE, 127), (b"", 1)):
        assert node.code(PUT, key=KEY, value=value, version=version) == NO_ERR
        assert node.holds() == (value, version)
    assert node.holds(b"other") is None


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [PUT, GET, REMOVE])
@pytest.mark.parametrize("key", [None, b"", b"k" * (KEY_MAX_BYTES + 1), b"k" * 1000])
def test_invalid_keys(node: Asker, command: int, key: bytes | None) -> None:
    for value in (None, VALUE) if command == PUT else (None,):
        assert node.code(command, key=key, value=value) == INVALID_KEY_ERR
    assert node.parts.content() == {}


@pytest.mark.parametrize("length", [1, 2, KEY_MAX_BYTES - 1, KEY_MAX_BYTES])
@pytest.mark.parametrize("value_length", [1, 200])
def test_keys_of_legal_length(node: Asker, length: int, value_length: int) -> None:
    key = b"\x12" * length
    assert node.code(PUT, key=key, value=bytes(value_length), version=1) == NO_ERR
    assert node.holds(key) == (bytes(value_length), 1)
    assert node.code(REMOVE, key=key) == NO_ERR


@pytest.mark.parametrize("value", [None, bytes(VALUE_MAX_BYTES + 1), bytes(16_000)])
def test_invalid_values(node: Asker, value: bytes | None) -> None:
    assert node.code(PUT, key=KEY, value=value) == INVALID_VAL_ERR
    assert node.holds() is None


def test_an_invalid_put_leaves_the_old_value_and_is_not_remembered(node: Asker) -> None:
    node.code(PUT, key=KEY, value=VALUE)
    for fields in ({"key": KEY}, {"value": VALUE}):
        assert node.code(PUT, b"same" * 4, **fields) in (INVALID_KEY_ERR, INVALID_VAL_ERR)
    assert node.holds() == (VALUE, 0)
    assert node.code(PUT, b"same" * 4, key=KEY, value=b"new") == NO_ERR
    assert node.holds() == (b"new", 0)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, MESSAGE_ID_MAX_BYTES])
def test_message_ids_of_every_legal_length(node: Asker, length: int) -> None:
    message_id = bytes(range(length))
    assert node.code(PUT, message_id, key=KEY, value=VALUE) == NO_ERR
    assert node.code(GET, message_id, key=b"other") == KEY_DNE_ERR
    assert node.code(IS_ALIVE, message_id) == NO_ERR
    assert node.code(REMOVE, message_id + b"x" if length < 64 else b"x", key=KEY) == NO_ERR


@pytest.mark.parametrize("length", [DATAGRAM_MAX_BYTES, DATAGRAM_MAX_BYTES + 1])
def test_the_largest_datagram(node: Asker, length: int) -> None:
    """Padded with a field that this version does not know."""
    alive = envelope(b"m" * 16, KVRequest(command=IS_ALIVE).SerializeToString())
    padding = length - len(alive) - 4  # the tag of field 15 and a length of three bytes, the last of them zero
    datagram = alive + b"\x7a%c%c%c%b" % (
        padding & 0x7F | 0x80,
        padding >> 7 & 0x7F | 0x80,
        padding >> 14,
        bytes(padding),
    )
    assert len(datagram) == length
    reply = node.send(datagram)
    assert (reply is None) == (length > DATAGRAM_MAX_BYTES)
    assert node.drops() == ({"oversized": 1} if length > DATAGRAM_MAX_BYTES else {})


# --- drops ----------------------------------------------------------------------------------------------------------

ALIVE = KVRequest(command=IS_ALIVE).SerializeToString()
ORDINARY = KVRequest(command=PUT, key=KEY, value=VALUE, version=1).SerializeToString()

DROPPED = [
    ("oversized", bytes(DATAGRAM_MAX_BYTES + 1)),
    ("unparsable", b"\xff\xff\xff\xff"),
    ("unparsable", envelope(b"m" * 16, ORDINARY)[:-1]),
    ("unparsable", envelope(b"m" * 16, b"\xff\xff")),
    ("unparsable", envelope(b"m" * 16, ORDINARY[:-1] + b"\x80")),
    ("no_message_id", b""),
    ("no_message_id", envelope(None, ALIVE)),
    ("no_message_id", envelope(b"", ALIVE)),
    ("no_message_id", envelope(b"", b"", TYPE_ACK)),
    ("long_message_id", envelope(b"m" * (MESSAGE_ID_MAX_BYTES + 1), ALIVE)),
    ("long_message_id", envelope(b"m" * (MESSAGE_ID_MAX_BYTES + 1), b"", TYPE_ACK)),
    ("wrong_checksum", envelope(b"m" * 16, ORDINARY, flip=1)),
    ("wrong_checksum", envelope(b"m" * 16, ALIVE, flip=1 << 31)),
    ("wrong_checksum", envelope(b"m" * 16, ORDINARY, flip=1 << 32)),
    ("wrong_checksum", envelope(b"m" * 16, ALIVE, flip=1 << 63)),
    ("wrong_checksum", envelope(b"m" * 16, b"", TYPE_ACK, flip=2)),
    ("wrong_checksum", Msg(messageID=b"m" * 16, payload=ALIVE).SerializeToString()),
    ("no_payload", envelope(b"m" * 16, None)),
    ("unexpected_type", envelope(b"m" * 16, ORDINARY, TYPE_RESPONSE)),
    ("unexpected_type", envelope(b"m" * 16, ALIVE, 3)),
    ("unexpected_type", envelope(b"m" * 16, ALIVE, 15)),
    ("unexpected_type", envelope(b"m" * 16, ALIVE, 17)),
    ("wrong_checksum", envelope(b"m" * 16, ALIVE, TYPE_CLUSTER, flip=1)),
    ("no_message_id", envelope(b"", ALIVE, TYPE_CLUSTER)),
    ("unexpected_type", envelope(b"m" * 16, ALIVE, -1)),
]


@pytest.mark.parametrize(("reason", "datagram"), DROPPED)
def test_unsound_datagrams_are_dropped_and_counted_by_reason(
    node: Asker, reason: str, datagram: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = node.parts.held()
    for count in (1, 2):
        assert node.send(datagram) is None
        assert node.drops() == {reason: count}
    assert node.parts.held() == before
    assert caplog.records == [], "no fault of ours"
    assert not any(node.parts.counters.answers)


def test_every_reason_is_tried_above() -> None:
    elsewhere = {"too_old", "shed", "not_allowed", "admin_not_allowed"}  # the front's, and tried below
    assert {reason for reason, _ in DROPPED} == set(DROP_REASONS) - elsewhere


def test_what_is_dropped_keeps_nothing_from_the_next_request(node: Asker) -> None:
    for _, datagram in DROPPED:
        node.send(datagram)
    assert node.code(PUT, key=KEY, value=VALUE) == NO_ERR
    assert node.holds() == (VALUE, 0)


# --- who may send what ----------------------------------------------------------------------------------------------


class Administrators:
    """Those commands that whoever asks may have carried out."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.asked: list[tuple[bytes, int]] = []

    def may(self, request: Request, command: int) -> bool:
        self.asked.append((request.client, command))
        return command in self.allowed


@pytest.mark.parametrize("command", COMMAND_NAMES)
def test_only_administrators_stop_and_wipe(command: int) -> None:
    administrators = Administrators()
    node = Asker(Parts(administrators=administrators))
    node.code(PUT, key=KEY, value=VALUE)
    before = node.parts.held()
    reply = node.send(request(b"x" * 16, command=command, key=b"other"))
    if command in (SHUTDOWN, WIPEOUT, FOUND, CONFIG, SERVERS):
        assert reply is None
        assert (administrators.asked, node.drops()) == ([(CLIENT, command)], {"admin_not_allowed": 1})
        assert node.parts.held() == before
    else:
        assert reply is not None
        assert (administrators.asked, node.drops()) == ([], {})
    administrators.allowed = (WIPEOUT,)
    assert node.code(WIPEOUT) == NO_ERR
    assert node.holds() is None


@pytest.mark.parametrize("command", [SHUTDOWN, WIPEOUT, FOUND, CONFIG, SERVERS])
def test_a_peer_that_forwards_is_no_administrator(command: int) -> None:
    """What has no key is executed by the node that receives it: no sound node forwards it."""
    net = Net(names=("front", "owner"))
    owner = net["owner"]
    owner.handle(request(FIRST, command=PUT, key=KEY, value=VALUE))
    net.queue.append(("front", "owner", FORWARD, forwarded(request(b"x" * 16, command=command), net.loop.now_s + 0.5)))
    net.deliver()
    assert owner.drops() == {"admin_not_allowed": 1}
    assert len(owner.store) == 1
    assert net.queue == []


def test_who_is_shut_out_gets_no_answer_and_changes_nothing(node: Asker) -> None:
    assert node.code(PUT, FIRST, key=KEY, value=VALUE) == NO_ERR
    before = node.parts.held()
    datagrams = [request(b"x" * 16, command=command, key=KEY, value=b"y") for command in (0, *COMMAND_NAMES)]
    datagrams += [ack(FIRST), *(datagram for _, datagram in DROPPED)]
    for datagram in datagrams:
        assert node.shut_out(datagram) is None
    assert node.parts.held() == before
    assert node.drops() == {"not_allowed": len(datagrams)}
    assert node.parts.membership.heard == []


@pytest.mark.parametrize("length", [1, 16, MESSAGE_ID_MAX_BYTES])
def test_only_what_is_read_makes_an_answer_larger_than_the_question(length: int) -> None:
    """What a forged sender could have sent to its victim: docs/security.md."""
    node = node_that_tells(bytes(VALUE_MAX_BYTES), Known())
    node.code(PUT, key=b"k", value=bytes(VALUE_MAX_BYTES))
    answers, no_request = node.parts.answers, Request(node.parts.clients)
    gains: dict[str, int] = {}
    for command, name in (*COMMAND_NAMES.items(), (99, "unknown")):
        key = {"key": b"k"} if command in (PUT, GET, REMOVE) else {}
        datagram = request(bytes(length), command=command, **key)
        try:
            reply = node.send(datagram)
        except Shutdown as shutdown:
            reply = shutdown.reply
        assert reply is not None
        gains[name] = len(reply) - len(datagram)
        refusal = answers.refusal(no_request, command % 99, bytes(length), crc32(bytes(length)), 60_000)
        assert refusal is not None
        assert len(refusal) <= len(datagram) + 6, name
    assert VALUE_MAX_BYTES <= gains.pop("GET") <= VALUE_MAX_BYTES + 8
    assert max(gains.pop("SLOWLOG"), gains.pop("VITALS")) <= len(datagram)  # they have little to tell here
    assert max(gains.values()) <= 6, gains


# --- what a node tells of itself, to strangers -------------------------------------------------------------------


class Known(dict[bytes, bool]):
    """No address but these; which were asked about."""

    def __missing__(self, host: bytes) -> bool:
        self[host] = False
        return False


def node_that_tells(told: bytes, known: Mapping[bytes, bool] | None) -> Asker:
    node = Asker(Parts(known=known))
    node.parts.membership.status = told
    return node


def padded(command: int, length: int, message_id: bytes = FIRST) -> bytes:
    """A request of so many bytes."""
    bare = len(request(message_id, command=command, value=bytes(1000)))
    datagram = request(message_id, command=command, value=bytes(length - bare + 1000))
    assert len(datagram) == length
    return datagram


@pytest.mark.parametrize("length", [1, 16, MESSAGE_ID_MAX_BYTES])
@pytest.mark.parametrize("told", [0, 1, 200, 5000, VALUE_MAX_BYTES])
def test_a_stranger_is_told_twice_what_it_has_sent_at_most(length: int, told: int) -> None:
    message_id = bytes(length)
    node = node_that_tells(bytes(told), Known())
    most = response(node_that_tells(bytes(told), None).send(request(message_id, command=STATUS)), message_id)
    for size in (length + 150, PADDING_BYTES, PADDING_MAX_BYTES):
        datagram = request(message_id, command=STATUS, value=bytes(size))
        reply = node.send(datagram)
        assert reply is not None
        assert len(reply) <= 2 * len(datagram)
        answer = response(reply, message_id)
        assert answer in (most, KVResponse(errCode=INVALID_VAL_ERR))
        assert (answer == most) is (told + 45 + length <= 2 * len(datagram))


def test_a_report_that_just_fits_and_one_that_just_does_not() -> None:
    node = node_that_tells(bytes(1000), Known())
    whole = len(node_that_tells(bytes(1000), None).send(request(FIRST, command=STATUS)) or b"")
    assert whole % 2 == 0
    assert response(node.send(padded(STATUS, whole // 2)), FIRST).errCode == NO_ERR
    assert response(node.send(padded(STATUS, whole // 2 - 1)), FIRST) == KVResponse(errCode=INVALID_VAL_ERR)


def test_what_is_told_of_strangers_reports_in_the_counters() -> None:
    node = node_that_tells(bytes(1000), Known())
    assert node.code(STATUS) == INVALID_VAL_ERR
    assert node.ask(STATUS, value=bytes(PADDING_BYTES)).errCode == NO_ERR
    counts = node.parts.counters
    assert (counts.by_command()["STATUS"], counts.by_code()["INVALID_VAL_ERR"]) == (2, 1)


@pytest.mark.parametrize("command", REPORTS)
def test_the_longest_report_is_told_to_a_stranger_that_fills_its_request_up(command: int) -> None:
    node = node_that_tells(bytes(VALUE_MAX_BYTES), Known())
    answer = node.ask(command, bytes(MESSAGE_ID_MAX_BYTES), value=bytes(PADDING_MAX_BYTES))
    assert answer.errCode == NO_ERR


def test_a_cluster_is_not_founded_for_who_could_not_be_told() -> None:
    founded: list[bool] = []
    node = node_that_tells(b"", Known())
    node.parts.membership.found = lambda: founded.append(True) or b"{}"  # type: ignore[method-assign, func-returns-value]
    assert node.code(FOUND, value=bytes(PADDING_BYTES)) == INVALID_VAL_ERR
    assert founded == []
    assert node.ask(FOUND, value=bytes(PADDING_MAX_BYTES)).errCode == NO_ERR
    assert founded == [True]
    assert node.code(SERVERS, value=b'{"add":"a:1"}') == INVALID_VAL_ERR
    assert node.parts.membership.orders == []
    assert node.code(CONFIG, value=b'{"slow_ms":"7"}') == INVALID_VAL_ERR
    assert node.parts.slow_log.threshold_s == inf
    assert node.ask(CONFIG, value=b'{"slow_ms":"7"}'.ljust(PADDING_MAX_BYTES)).errCode == NO_ERR
    assert node.parts.slow_log.threshold_s == 0.007
    for length, expected in ((VALUE_MAX_BYTES // 2 - 1, 1), (VALUE_MAX_BYTES // 2, 2)):
        node.send(padded(FOUND, length, b"%d bytes" % length))
        assert len(founded) == expected


def test_who_is_known_is_told_all() -> None:
    node = node_that_tells(bytes(VALUE_MAX_BYTES), Known({host_of(CLIENT): True}))
    assert len(node.ask(STATUS).value) == VALUE_MAX_BYTES


def test_nodes_are_heard_from_wherever_they_are(node: Asker) -> None:
    node.shut_out(envelope(b"m" * 8, b"sealed", TYPE_CLUSTER))
    assert (node.parts.membership.heard, node.drops()) == ([(b"sealed", CLIENT)], {})
    longest = envelope(b"m" * 8, bytes(DATAGRAM_MAX_BYTES - 24), TYPE_CLUSTER)
    assert len(longest) == DATAGRAM_MAX_BYTES
    node.shut_out(longest)
    node.shut_out(envelope(b"m" * 8, bytes(DATAGRAM_MAX_BYTES - 23), TYPE_CLUSTER))
    assert (len(node.parts.membership.heard), node.drops()) == (2, {"not_allowed": 1})


# --- at most once ---------------------------------------------------------------------------------------------------


def test_a_retried_put_does_not_undo_what_came_after(node: Asker) -> None:
    assert node.code(PUT, FIRST, key=KEY, value=b"one", version=1) == NO_ERR
    assert node.code(PUT, key=KEY, value=b"two", version=2) == NO_ERR
    for retries in (1, 2):
        assert node.code(PUT, FIRST, key=KEY, value=b"one", version=1) == NO_ERR
        assert node.holds() == (b"two", 2)
        assert node.parts.counters.retries_answered == retries


def test_a_retried_put_does_not_bring_back_what_was_removed(node: Asker) -> None:
    node.code(PUT, FIRST, key=KEY, value=b"one")
    node.code(REMOVE, key=KEY)
    assert node.code(PUT, FIRST, key=KEY, value=b"one") == NO_ERR
    assert node.holds() is None


def test_a_retried_remove_gets_the_first_answer(node: Asker) -> None:
    node.code(PUT, key=KEY, value=VALUE)
    assert node.code(REMOVE, FIRST, key=KEY) == NO_ERR
    assert node.code(REMOVE, FIRST, key=KEY) == NO_ERR
    node.code(PUT, key=KEY, value=VALUE)
    assert node.code(REMOVE, FIRST, key=KEY) == NO_ERR
    assert node.holds() == (VALUE, 0)


def test_a_retried_remove_of_nothing_gets_the_first_answer(node: Asker) -> None:
    assert node.code(REMOVE, FIRST, key=KEY) == KEY_DNE_ERR
    node.code(PUT, key=KEY, value=VALUE)
    assert node.code(REMOVE, FIRST, key=KEY) == KEY_DNE_ERR
    assert node.holds() == (VALUE, 0)


def test_a_retried_wipeout_wipes_once(node: Asker) -> None:
    assert node.code(WIPEOUT, FIRST) == NO_ERR
    node.code(PUT, key=KEY, value=VALUE)
    assert node.code(WIPEOUT, FIRST) == NO_ERR
    assert node.holds() == (VALUE, 0)


def test_reads_are_not_remembered(node: Asker) -> None:
    assert node.code(GET, FIRST, key=KEY) == KEY_DNE_ERR
    node.code(PUT, key=KEY, value=VALUE)
    assert node.ask(GET, FIRST, key=KEY).value == VALUE
    assert node.code(IS_ALIVE, FIRST) == NO_ERR
    assert len(node.parts.replies) == 1


def test_a_retry_in_another_encoding_is_the_same_request(node: Asker) -> None:
    node.code(PUT, FIRST + b"m", key=KEY, value=b"one", version=1)
    node.code(PUT, key=KEY, value=b"two", version=2)
    msg = Msg.FromString(request(FIRST + b"m", command=PUT, key=KEY, value=b"one", version=1))
    shuffled = (
        Msg(payload=msg.payload, checkSum=msg.checkSum).SerializeToString()
        + Msg(messageID=msg.messageID).SerializeToString()
    )
    assert response(node.send(shuffled), FIRST + b"m").errCode == NO_ERR
    assert node.holds() == (b"two", 2)


def test_an_ack_frees_the_reply_and_is_not_answered(node: Asker) -> None:
    node.code(PUT, FIRST, key=KEY, value=b"one")
    assert node.send(ack(FIRST)) is None
    assert len(node.parts.replies) == 0
    assert node.parts.counters.acks == 1
    assert node.send(ack(FIRST)) is None  # of what is not remembered
    assert node.parts.counters.acks == 1
    assert node.drops() == {}
    node.code(PUT, key=KEY, value=b"two")
    assert node.code(PUT, FIRST, key=KEY, value=b"three") == NO_ERR
    assert node.holds() == (b"three", 0)


def test_an_ack_without_a_payload_field_counts(node: Asker) -> None:
    node.code(PUT, FIRST, key=KEY, value=b"one")
    assert node.send(Msg(messageID=FIRST, checkSum=crc32(FIRST), type=TYPE_ACK).SerializeToString()) is None
    assert node.parts.counters.acks == 1


# --- no room --------------------------------------------------------------------------------------------------------


def test_no_space_is_told_and_remembered() -> None:
    node = full_node()
    assert node.code(PUT, FIRST, key=KEY, value=bytes(9_000)) == NO_SPC_ERR
    assert node.code(REMOVE, key=b"0") == NO_ERR
    assert node.code(PUT, FIRST, key=KEY, value=bytes(9_000)) == NO_SPC_ERR
    assert node.holds() is None
    assert node.code(PUT, key=KEY, value=bytes(9_000)) == NO_ERR
    assert node.holds() == (bytes(9_000), 0)


def test_an_overwrite_by_something_smaller_works_on_a_full_node() -> None:
    node = full_node()
    assert node.code(PUT, key=b"0", value=b"small", version=3) == NO_ERR
    assert node.holds(b"0") == (b"small", 3)


def test_a_wipeout_makes_room_on_a_full_node() -> None:
    node = full_node()
    assert node.code(WIPEOUT) == NO_ERR
    assert node.code(PUT, key=KEY, value=bytes(10_000)) == NO_ERR


def test_a_store_that_is_still_wiping_is_overloaded_not_full() -> None:
    """Half of it is wiped: more than one PUT may clear away, and in every page records of the other half are left."""
    node = Asker(Parts(arena_bytes=2 << 20, evict=False))
    keys = iter(range(1 << 30))
    while node.parts.store.put(slot_of(key := b"%07d" % next(keys)), key, bytes(30)):
        pass
    node.parts.store.wipe(range(0, SLOT_COUNT, 2))
    answer = node.ask(PUT, FIRST, key=KEY, value=bytes(10_000))
    assert answer == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=answer.overloadWaitTime)
    while node.parts.store.drain_wiped():
        pass
    assert node.code(PUT, FIRST, key=KEY, value=bytes(10_000)) == NO_ERR


def test_where_room_comes_with_time_a_full_store_is_an_overload_and_not_remembered() -> None:
    node = Asker(Parts(evict=True))
    node.parts.arena.limit_bytes = 0
    answer = node.ask(PUT, FIRST, key=KEY, value=VALUE)
    assert answer == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=answer.overloadWaitTime)
    assert 1 <= answer.overloadWaitTime <= 1000
    assert len(node.parts.replies) == 0
    node.parts.arena.limit_bytes = 1 << 20
    assert node.code(PUT, FIRST, key=KEY, value=VALUE) == NO_ERR


def test_a_full_reply_memory_refuses_what_must_be_remembered_and_nothing_else() -> None:
    node = Asker(Parts(replies_bytes=20_000))
    node.parts.replies.advance(0.0)
    known = []
    while not node.parts.replies.full:
        known.append(node.fresh_id())
        assert node.code(PUT, known[-1], key=KEY, value=VALUE) == NO_ERR
    before = node.parts.content(), len(node.parts.replies)
    for command, fields in ((PUT, {"key": KEY, "value": b"new"}), (REMOVE, {"key": KEY}), (WIPEOUT, {})):
        answer = node.ask(command, FIRST, **fields)
        assert answer == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=answer.overloadWaitTime)
        assert answer.overloadWaitTime == node.parts.replies.wait_ms >= 1
    assert (node.parts.content(), len(node.parts.replies)) == before
    assert node.holds() == (VALUE, 0)
    assert node.code(IS_ALIVE) == NO_ERR
    assert node.code(PUT, key=None, value=VALUE) == INVALID_KEY_ERR
    for message_id in known:
        assert node.code(PUT, message_id, key=KEY, value=VALUE) == NO_ERR  # retries are answered as ever
    assert node.parts.counters.by_code()["SYS_OVERLOAD_ERR"] == 3
    node.send(ack(known[0]))
    assert node.parts.replies.full == (node.parts.replies.used_bytes >= 20_000)  # the Python passes it by a little
    for message_id in known[1:]:
        node.send(ack(message_id))
    assert node.code(PUT, FIRST, key=KEY, value=b"new") == NO_ERR  # refused, so not remembered
    assert node.holds() == (b"new", 0)


# --- faults of ours -------------------------------------------------------------------------------------------------


class Broken:
    """Raises whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *arguments: object) -> Any:
        raise self.error


# By command: where a store, or what the node tells of itself, may break.
BREAKS = {
    GET: "store.get",
    PUT: "store.put",
    REMOVE: "store.remove",
    WIPEOUT: "store.wipe",
    GET_MEMBERSHIP_CNT: "reports.member_count",
    STATUS: "reports.status",
    SLOWLOG: "reports.slow_requests",
    VITALS: "reports.vitals",
    CONFIG: "reports.config",
}


def broken_node(command: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Asker:
    """One in which this command, and no other, raises."""
    store = WholeStore(Arena(16 * MIB, 16 * MIB), evict=True, on_allowance_used=lambda: None)
    node = Asker(Parts(store=store))
    part, name = BREAKS[command].split(".")
    target = store if part == "store" else node.parts.commands._reports
    monkeypatch.setattr(target, name, Broken(error))
    return node


@pytest.mark.parametrize("value", [b"short", bytes(500)])
@pytest.mark.parametrize("error", [ValueError("x"), OSError(5), RuntimeError("x"), KeyError(1), struct.error("x")])
@pytest.mark.parametrize("command", BREAKS)
def test_a_fault_in_one_request_is_its_internal_error(
    command: int, error: Exception, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = broken_node(command, error, monkeypatch)
    assert node.code(command, FIRST, key=KEY, value=value) == INTERNAL_ERR
    assert len(node.parts.replies) == 0, "nothing is remembered"
    counters = node.parts.counters
    assert counters.by_command() == dict.fromkeys(counters.by_command(), 0) | {COMMAND_NAMES[command]: 1}
    assert counters.by_code()["INTERNAL_ERR"] == sum(counters.by_code().values()) == 1
    others = {PUT: NO_ERR, GET: KEY_DNE_ERR, REMOVE: KEY_DNE_ERR}
    for other, code in others.items():
        if other != command:
            assert node.code(other, key=b"%d" % other, value=value) == code


def test_a_fault_over_what_is_no_request_is_not_answered(node: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.parts.commands, "_replies", None)
    assert node.send(ack(FIRST)) is None
    monkeypatch.setattr(node.parts.commands, "_decode", Broken(ValueError()))
    assert node.send(b"\xff\xff") is None
    assert node.send(envelope(b"m" * 16, b"\xff\xff")) is None
    assert node.code(77) == INTERNAL_ERR
    assert node.parts.counters.by_command()["unknown"] == 1


@pytest.mark.parametrize("command", BREAKS)
def test_a_broken_assertion_ends_the_process(command: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the node holds can't be trusted any more."""
    node = broken_node(command, AssertionError("inconsistent"), monkeypatch)
    with pytest.raises(Exited) as ended:
        node.ask(command, key=KEY, value=VALUE)
    assert ended.value.status == 70


# --- more than one node ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"short", bytes(500)])
def test_what_another_node_serves_is_forwarded_whole(value: bytes) -> None:
    """By the short way and by the general one, and not a trace of it stays here."""
    net = Net(names=("me", "elsewhere"))
    node = Asker(net["me"])
    slot = slot_of(KEY)
    node.parts.set_routes(*("elsewhere" if number == slot else SELF for number in range(SLOT_COUNT)))
    datagrams = [
        request(FIRST + b"p", command=PUT, key=KEY, value=value, version=1),
        request(FIRST + b"g", command=GET, key=KEY),
        request(FIRST + b"r", command=REMOVE, key=KEY),
    ]
    assert [node.send(datagram) for datagram in datagrams] == [None] * 3
    assert [(receiver, body[FORWARD_BYTES:]) for _, receiver, _, body in net.queue] == [
        ("elsewhere", datagram) for datagram in datagrams
    ]
    assert node.parts.content() == {}
    assert len(node.parts.replies) == 0
    other = next(b"%d" % n for n in range(999) if slot_of(b"%d" % n) != slot)
    assert node.code(PUT, key=other, value=value) == NO_ERR
    assert len(net.queue) == 3
    net.deliver()
    ids = [FIRST + b"p", FIRST + b"g", FIRST + b"r"]
    answers = [response(reply, message_id) for (_, reply), message_id in zip(node.parts.told(), ids, strict=True)]
    assert [answer.errCode for answer in answers] == [NO_ERR] * 3
    assert (answers[1].value, answers[1].version) == (value, 1)


@pytest.mark.parametrize("fields", [{"key": b""}, {"key": bytes(33)}])
def test_what_is_invalid_is_refused_here(fields: dict[str, object]) -> None:
    node = Asker(Net(names=("me", "elsewhere"))["me"])
    node.parts.set_routes("elsewhere")
    assert node.code(GET, **fields) == INVALID_KEY_ERR
    assert node.code(PUT, key=KEY) == INVALID_VAL_ERR


def test_what_nodes_say_to_each_other_is_passed_on_and_never_answered(node: Asker) -> None:
    assert node.send(envelope(b"m" * 16, b"anything", TYPE_CLUSTER)) is None
    assert node.parts.membership.heard == [(b"anything", CLIENT)]
    assert node.send(envelope(b"m" * 16, b"anything", TYPE_CLUSTER, flip=1)) is None
    assert len(node.parts.membership.heard) == 1
    assert node.drops() == {"wrong_checksum": 1}


def test_what_a_node_tells_of_itself() -> None:
    node = Asker(Parts(vitals=lambda: {"pid": 3, "http_port": None}))
    node.parts.slow_log.threshold_s = 0.25
    assert node.ask(STATUS) == KVResponse(errCode=NO_ERR, value=node.parts.membership.status)
    assert node.ask(SLOWLOG) == KVResponse(errCode=NO_ERR, value=node.parts.slow_log.as_json())
    assert node.ask(VITALS) == KVResponse(errCode=NO_ERR, value=b'{"pid":3,"http_port":null}')
    assert node.ask(FOUND) == KVResponse(errCode=NO_ERR, value=b"{found}")
    assert node.ask(SERVERS, value=b"{add}") == KVResponse(errCode=NO_ERR, value=b"ordered {add}")
    assert json.loads(node.ask(CONFIG).value)["slow_ms"] == 250
    assert json.loads(node.ask(CONFIG, value=b'{"slow_ms":"7"}').value)["why_not"] == ""
    assert node.parts.slow_log.threshold_s == 0.007


# --- counters -------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_command_and_replies_by_code(node: Asker) -> None:
    node.code(PUT, FIRST, key=KEY, value=VALUE)
    node.code(PUT, FIRST, key=KEY, value=VALUE)
    node.code(PUT, key=KEY)
    node.code(GET, key=b"none")
    node.code(GET, key=bytes(33))
    node.holds()
    node.code(REMOVE, key=KEY)
    node.code(REMOVE, key=KEY)
    node.code(WIPEOUT)
    for command in (IS_ALIVE, GET_PID, GET_MEMBERSHIP_CNT, 99):
        node.ask(command)
    counters = node.parts.counters
    assert counters.by_command() == {
        "PUT": 3,
        "GET": 3,
        "REMOVE": 2,
        "SHUTDOWN": 0,
        "WIPEOUT": 1,
        "IS_ALIVE": 1,
        "GET_PID": 1,
        "GET_MEMBERSHIP_CNT": 1,
        "STATUS": 0,
        "SLOWLOG": 0,
        "VITALS": 0,
        "FOUND": 0,
        "CONFIG": 0,
        "SERVERS": 0,
        "unknown": 1,
    }
    counts = dict.fromkeys(ERROR_NAMES.values(), 0)
    counts |= {"NO_ERR": 8, "KEY_DNE_ERR": 2, "INVALID_VAL_ERR": 1, "INVALID_KEY_ERR": 1, "UNKNOWN_CMD_ERR": 1}
    assert counters.by_code() == counts
    assert counters.retries_answered == 1
    assert sum(counters.by_code().values()) == sum(counters.by_command().values())


@pytest.mark.parametrize("command", [GET_PID, GET_MEMBERSHIP_CNT, STATUS, VITALS, IS_ALIVE])
def test_each_that_is_asked_once_more_is_counted_once_more(node: Asker, command: int) -> None:
    for _ in range(3):
        node.ask(command)
    assert sum(node.parts.counters.by_command().values()) == node.parts.counters.answers[command * 8 + NO_ERR] == 3
