"""From a request's bytes to the bytes that answer it, downwards: checked, decoded, seen to, answered.

`handle` is where every request comes in: a client's from the front, another client's that a peer has forwarded, one
that waited. What is most common takes a short way: a GET or a PUT in the encoding that nearly all requests have is
taken apart by a recognizer, and if the slot is served here and no copies are to be waited for, it is answered on the
spot. Everything else goes through protobuf and `_see_to`, which may have to leave it to a table: until another node has
answered (forwarding.py), until copies have a write (replicator.py). Nothing waits in here.

A fault in one request is that request's INTERNAL_ERR (app/loop.py has the whole policy).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Final, Protocol
from zlib import crc32

from app.cluster.events import SELF
from app.config.allowlist import host_of
from app.loop import Loop
from app.observe import logs
from app.observe.counters import Counters
from app.requests.answers import Answers
from app.requests.forwarding import Forwarding
from app.requests.replicator import NO_ANSWER, REFUSED, Replicator
from app.requests.request import Request
from app.requests.turn import Turn
from app.storage.mutate import Mutations
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.codec import (
    DecodeError,
    KVResponse,
    Msg,
    encode_error,
    encode_found,
    encode_response,
    encode_value,
    parse_msg,
    parse_request,
    take_ordinary,
)
from app.wire.protocol import (
    ADMINISTRATORS_ONLY,
    COMMAND_NAMES,
    CONFIG,
    DATAGRAM_MAX_BYTES,
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
    PUT,
    REMOVE,
    REPORTS,
    SERVERS,
    SHUTDOWN,
    SLOT_COUNT,
    SLOWLOG,
    STATUS,
    STRANGERS_SHARE,
    SYS_OVERLOAD_ERR,
    TYPE_ACK,
    TYPE_CLUSTER,
    TYPE_REQUEST,
    UNKNOWN_CMD_ERR,
    VALUE_MAX_BYTES,
    VITALS,
    WIPEOUT,
)

_GET_HIT: Final = GET * 8 + NO_ERR
_GET_MISS: Final = GET * 8 + KEY_DNE_ERR
_SLOT_MASK: Final = SLOT_COUNT - 1

# A request with a key: command, messageID and its CRC, slot, key, and for a PUT what the store is to keep.
_Keyed = tuple[int, bytes, int, int, bytes, bytes]

_faults = logs.limited_logger("requests")


class Shutdown(Exception):
    """A SHUTDOWN was received: send `reply` to its sender, then exit at once with status 0."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class ClusterDatagrams(Protocol):
    """Takes what nodes, and operators, say about membership."""

    def handle_datagram(self, payload: bytes, address: bytes) -> object: ...
    def found(self) -> bytes:
        """Found a cluster, as an operator orders; whether that was done, as JSON of at most VALUE_MAX_BYTES."""

    def order(self, said: bytes) -> bytes:
        """Have a server belong, or no more, as an administrator orders; how that stands, as JSON of at most
        VALUE_MAX_BYTES."""


class Administrators(Protocol):
    """Who may have what is in ADMINISTRATORS_ONLY carried out."""

    def may(self, request: Request, command: int) -> bool: ...


class Reports(Protocol):
    """What a node tells of itself; the JSON ones take at most VALUE_MAX_BYTES."""

    pid: int

    def member_count(self) -> int: ...
    def status(self) -> bytes: ...
    def slow_requests(self) -> bytes: ...
    def vitals(self) -> bytes: ...
    def config(self, wanted: bytes) -> bytes: ...


class Commands:
    """Answers one node's requests."""

    def __init__(
        self,
        loop: Loop,
        turn: Turn,
        store: Store,
        replies: ReplyMemory,
        mutations: Mutations,
        answers: Answers,
        counters: Counters,
        *,
        forwarding: Forwarding,
        replicator: Replicator,
        cluster: ClusterDatagrams,
        administrators: Administrators | None,
        known: Mapping[bytes, bool] | None,
        reports: Reports,
    ) -> None:
        """`administrators`: None: everybody is. `known`: who is no stranger, by address; None: nobody is."""
        self._loop = loop
        self._turn = turn
        self._store = store
        self._replies = replies
        self._mutate = mutations.execute
        self._mutations = mutations
        self._answer = answers
        self._counters = counters
        self._counts = counters.answers
        self._forwarding = forwarding
        self._replicator = replicator
        self._cluster = cluster
        self._administrators = administrators
        self._known = known
        self._reports = reports
        # By slot: not None where other nodes keep copies. By key: where a write is not on all of them yet. Both are
        # changed in place by their owner.
        self._followed: Sequence[object] = replicator.followed
        self._unacked: Mapping[bytes, object] = replicator.unacked

    def is_answered_at_once(self, slot: int, command: int) -> bool:
        """Whether such a request is: neither by another node, nor when copies have it."""
        return self._turn.routes[slot] == SELF and (command == GET or self._followed[slot] is None)

    def handle(self, request: Request, buffer: bytes | bytearray, start: int, end: int) -> bytes | None:
        """The datagram that answers the request in `buffer[start:end]`; None when nothing is to be answered, or later.

        The buffer need not outlast the call. Raises Shutdown when the request asks for it.
        """
        try:
            taken = take_ordinary(buffer, start, end)
            if taken is not None:
                command, message_id, id_crc, slot, key, blob = taken
                if self._turn.routes[slot]:  # not SELF, which is empty
                    return self._forwarding.relay(request, command, message_id, id_crc, slot)
                if command == GET:
                    if key not in self._unacked:
                        return self._get(message_id, id_crc, slot, key)
                elif self._followed[slot] is None:
                    return self._mutate_alone(request, PUT, message_id, id_crc, slot, key, blob)
                return self._see_to(request, *taken)
            # Decoded there, so that a request that waits keeps nothing of it but what is needed.
            decoded = self._decode(request, bytes(buffer[start:end]))
            return self._see_to(request, *decoded) if isinstance(decoded, tuple) else decoded
        except Shutdown:
            raise
        except AssertionError as error:
            self._loop.fail(error)
        except Exception as error:  # noqa: BLE001 - the boundary: one request fails, the node goes on
            _faults.exception("request_failed", error)
            return self._failed(bytes(buffer[start:end]))

    def _decode(self, request: Request, data: bytes) -> _Keyed | bytes | None:
        """As `handle`, for every encoding and every command; a sound request with a key is only taken apart."""
        if len(data) > DATAGRAM_MAX_BYTES:
            self._drop("oversized")
            return None
        try:
            msg = parse_msg(data)
            message_id = msg.messageID
            payload = msg.payload
            id_crc = crc32(message_id)
            verdict = self._check(msg, message_id, payload, id_crc)
            if verdict is not None:
                self._drop(verdict)
                return None
            if msg.type == TYPE_ACK:
                self._counters.acks += self._replies.forget(message_id)
                return None
            if msg.type == TYPE_CLUSTER:
                self._hand_to_cluster(request, payload)
                return None
            asked = parse_request(payload)
        except DecodeError:
            self._drop("unparsable")
            return None
        command = asked.command
        if command not in (PUT, GET, REMOVE):
            return self._handle_keyless(request, command, asked.value, message_id, id_crc)
        key = asked.key
        if not 0 < len(key) <= KEY_MAX_BYTES:
            return self._answer.code(command, message_id, id_crc, INVALID_KEY_ERR)
        value = asked.value
        if command == PUT and (len(value) > VALUE_MAX_BYTES or (not value and not asked.HasField("value"))):
            return self._answer.code(command, message_id, id_crc, INVALID_VAL_ERR)
        blob = encode_value(value, asked.version) if command == PUT else b""
        return command, message_id, id_crc, crc32(key) & _SLOT_MASK, key, blob

    def _check(self, msg: Msg, message_id: bytes, payload: bytes, id_crc: int) -> str | None:
        """Why a Msg must be dropped; None when it is sound."""
        if crc32(payload, id_crc) != msg.checkSum:
            return "wrong_checksum"
        if not message_id:
            return "no_message_id"
        if len(message_id) > MESSAGE_ID_MAX_BYTES:
            return "long_message_id"
        if msg.type in (TYPE_ACK, TYPE_CLUSTER):
            return None
        if msg.type != TYPE_REQUEST:
            return "unexpected_type"
        return None if payload or msg.HasField("payload") else "no_payload"

    def _hand_to_cluster(self, request: Request, payload: bytes) -> None:
        """What a node says of membership comes by itself, never as a request that a peer forwards."""
        request.keep()
        if request.client:
            self._cluster.handle_datagram(payload, request.client)
        else:
            self._drop("unexpected_type")

    # --- requests with a key: key and value are valid ------------------------------------------------------------

    def _see_to(
        self, request: Request, command: int, message_id: bytes, id_crc: int, slot: int, key: bytes, blob: bytes
    ) -> bytes | None:
        """Have the request answered where its slot is served: there, or here; as `handle`."""
        if self._turn.routes[slot] != SELF:
            return self._forwarding.relay(request, command, message_id, id_crc, slot)
        if command == GET:
            reply = self._get(message_id, id_crc, slot, key)
            if key not in self._unacked:
                return reply
            # What was read may still be undone: it is told once all copies have it.
            code = self._replicator.hold_read(request, message_id, id_crc, key, reply)
        elif self._followed[slot] is None:
            return self._mutate_alone(request, command, message_id, id_crc, slot, key, blob)
        else:
            code = self._replicator.mutate(request, command, message_id, id_crc, slot, key, blob)
        return self._told(request, command, message_id, id_crc, code)

    def _told(self, request: Request, command: int, message_id: bytes, id_crc: int, code: int) -> bytes | None:
        """The answer by what the replicator said."""
        if code == NO_ANSWER:
            return None
        if code == REFUSED:
            return self._answer.refusal(request, command, message_id, id_crc, self._replicator.wait_ms)
        return self._answer.code(command, message_id, id_crc, code)

    def _get(self, message_id: bytes, id_crc: int, slot: int, key: bytes) -> bytes:
        blob = self._store.get(slot, key)
        if blob is None:
            self._counts[_GET_MISS] += 1
            return encode_error(message_id, id_crc, KEY_DNE_ERR)
        self._counts[_GET_HIT] += 1
        return encode_found(message_id, id_crc, blob)

    def _mutate_alone(
        self, request: Request, command: int, message_id: bytes, id_crc: int, slot: int, key: bytes, blob: bytes
    ) -> bytes | None:
        """PUT or REMOVE where nobody else keeps a copy."""
        code = self._mutate(command, slot, key, blob, message_id)
        if code < 0:
            code = ~code
            self._counters.retries_answered += 1
        elif code == SYS_OVERLOAD_ERR:
            return self._answer.refusal(request, command, message_id, id_crc, self._mutations.wait_ms)
        self._counts[command * 8 + code] += 1
        return encode_error(message_id, id_crc, code)

    # --- requests without a key ----------------------------------------------------------------------------------

    def _handle_keyless(
        self, request: Request, command: int, value: bytes, message_id: bytes, id_crc: int
    ) -> bytes | None:
        if command in ADMINISTRATORS_ONLY and not self._may_administer(request, command):
            self._drop("admin_not_allowed")
            return None
        if command == WIPEOUT:
            code = self._replicator.wipe_out(request, message_id, id_crc)
            return self._told(request, WIPEOUT, message_id, id_crc, code)
        reports = self._reports
        if command == GET_PID:
            payload = KVResponse(errCode=NO_ERR, pid=reports.pid).SerializeToString()
        elif command == GET_MEMBERSHIP_CNT:
            payload = KVResponse(errCode=NO_ERR, membershipCount=reports.member_count()).SerializeToString()
        elif command in REPORTS:
            return self._report(request, command, value, message_id, id_crc)
        elif command in (IS_ALIVE, SHUTDOWN):
            reply = self._answer.code(command, message_id, id_crc, NO_ERR)
            if command == SHUTDOWN:
                raise Shutdown(reply)
            return reply
        else:
            return self._answer.code(0, message_id, id_crc, UNKNOWN_CMD_ERR)
        self._counts[command * 8 + NO_ERR] += 1
        return encode_response(message_id, id_crc, payload)

    def _report(self, request: Request, command: int, value: bytes, message_id: bytes, id_crc: int) -> bytes:
        """What the node tells of itself; INVALID_VAL_ERR to a stranger whose request is too short for that."""
        request.keep()
        room = inf
        if request.client and self._known is not None and not self._known[host_of(request.client)]:
            room = STRANGERS_SHARE * len(request.datagram)
        # What is done in order to tell of it must not be done in vain.
        if command not in (FOUND, CONFIG, SERVERS) or room >= VALUE_MAX_BYTES:
            reports = self._reports
            tell: dict[int, Callable[[], bytes]] = {
                STATUS: reports.status,
                SLOWLOG: reports.slow_requests,
                VITALS: reports.vitals,
                FOUND: self._cluster.found,
                CONFIG: lambda: reports.config(value),
                SERVERS: lambda: self._cluster.order(value),
            }
            told = KVResponse(errCode=NO_ERR, value=tell[command]())
            reply = encode_response(message_id, id_crc, told.SerializeToString())
            if len(reply) <= room:
                self._counts[command * 8 + NO_ERR] += 1
                return reply
        return self._answer.code(command, message_id, id_crc, INVALID_VAL_ERR)

    def _may_administer(self, request: Request, command: int) -> bool:
        """What has no key is executed by the node that receives it: no sound node forwards it."""
        request.keep()
        if not request.client:
            return False
        return self._administrators is None or self._administrators.may(request, command)

    # --- what is not executed ------------------------------------------------------------------------------------

    def shut_out(self, request: Request, data: bytes) -> None:
        """Take a datagram from where no requests are allowed from: only what a node says is heard, and must prove
        itself; the rest is dropped."""
        with suppress(DecodeError):
            if len(data) <= DATAGRAM_MAX_BYTES:
                msg = parse_msg(data)
                message_id, payload = msg.messageID, msg.payload
                if msg.type == TYPE_CLUSTER and self._check(msg, message_id, payload, crc32(message_id)) is None:
                    self._hand_to_cluster(request, payload)
                    return
        self._drop("not_allowed")

    def _failed(self, data: bytes) -> bytes | None:
        """The datagram that says that a request broke the node's code; None when it is not a sound request."""
        try:
            msg = parse_msg(data)
            if msg.type != TYPE_REQUEST:
                return None
            command = parse_request(msg.payload).command
        except DecodeError:
            return None
        return self._answer.code(
            command if command in COMMAND_NAMES else 0, msg.messageID, crc32(msg.messageID), INTERNAL_ERR
        )

    def _drop(self, reason: str) -> None:
        self._counters.drops[reason] += 1
