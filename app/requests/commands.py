"""What a node does with one datagram: check, decode, execute, encode. No sockets, no waiting.

    datagram -> Msg -> KVRequest -> store and reply memory -> KVResponse -> Msg -> datagram

This is the hot path. A datagram of the ordinary form (app/wire/codec.py) takes the short way through `handle`, all
others the general one; both end in the same few methods that touch the store.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from zlib import crc32

from app.observe.counters import Counters
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.codec import (
    DecodeError,
    KVResponse,
    Msg,
    encode_error,
    encode_response,
    encode_value,
    error_payload,
    match_ordinary,
    parse_msg,
    parse_request,
)
from app.wire.protocol import (
    COMMAND_NAMES,
    DATAGRAM_MAX_BYTES,
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
    PUT,
    REMOVE,
    SHUTDOWN,
    SLOT_COUNT,
    SLOWLOG,
    STATUS,
    SYS_OVERLOAD_ERR,
    TYPE_ACK,
    TYPE_CLUSTER,
    TYPE_REQUEST,
    UNKNOWN_CMD_ERR,
    VALUE_MAX_BYTES,
    VITALS,
    WIPEOUT,
)

_OK: Final = error_payload(NO_ERR)
_GET_HIT: Final = GET * 8 + NO_ERR
_GET_MISS: Final = GET * 8 + KEY_DNE_ERR
_SLOT_MASK: Final = SLOT_COUNT - 1

# How long a client is asked to wait when a PUT found no room although entries may be evicted or have been wiped (the
# store was busy giving memory back, which it does in steps of a few ms).
ROOM_WAIT_MS: Final = 50


class Shutdown(Exception):
    """A SHUTDOWN was received: send `reply` to its sender, then exit at once with status 0."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


def _nowhere(slot: int, message_id: bytes, datagram: bytes) -> bytes | None:
    raise AssertionError(f"slot {slot} is routed elsewhere, and nothing forwards")


def _alone(*arguments: object) -> bytes | None:
    raise AssertionError(f"copies are kept, and nothing replicates: {arguments}")


class Commands:
    """Answers datagrams from one store and one reply memory."""

    def __init__(
        self,
        store: Store,
        replies: ReplyMemory,
        counters: Counters,
        *,
        pid: int,
        member_count: Callable[[], int],
        no_space_code: int = NO_SPC_ERR,
    ) -> None:
        """`no_space_code`: what a PUT that finds no room is answered: NO_SPC_ERR, or SYS_OVERLOAD_ERR where
        entries may be evicted, so that room comes with time."""
        self._store = store
        self._replies = replies
        self._counters = counters
        self._answers = counters.answers
        self._pid = pid
        self._member_count = member_count
        self._no_space_code = no_space_code
        # By slot: empty, it is served here; else `forward(slot, message_id, datagram)` must see to it, and may
        # answer later by itself. The list is shared with whoever decides, and changed in place.
        self.routes: list[str] = [""] * SLOT_COUNT
        self.forward: Callable[[int, bytes, bytes], bytes | None] = _nowhere
        # By slot: not None where other nodes keep copies, so that `replicate(message_id, id_crc, command, slot, key,
        # blob)` must execute what changes it. `unacked` has the keys whose latest write is not on all of them yet:
        # `hold(slot, key, reply)` sees to it that what was read is not told before. Either may answer later by itself.
        self.followed: Sequence[object] = [None] * SLOT_COUNT
        self.unacked: Mapping[bytes, object] = {}
        self.replicate: Callable[[bytes, int, int, int, bytes, bytes], bytes | None] = _alone
        self.hold: Callable[[int, bytes, bytes], bytes | None] = _alone
        # WIPEOUT goes there.
        self.wipe_out: Callable[[bytes, int], bytes | None] = self._wipe_out
        # Whether whoever sent the request in hand may have SHUTDOWN and WIPEOUT (the command is named) carried out.
        self.may_administer: Callable[[int], bool] = lambda command: True
        # What nodes say to each other goes there, as the payload of a sound Msg of their type.
        self.on_cluster: Callable[[bytes], object] = lambda payload: None
        # What STATUS, SLOWLOG and VITALS answer: JSON, at most VALUE_MAX_BYTES.
        self.status: Callable[[], bytes] = lambda: b"{}"
        self.slow_requests: Callable[[], bytes] = lambda: b"{}"
        self.vitals: Callable[[], bytes] = lambda: b"{}"

    def is_local(self, slot: int, command: int) -> bool:
        """Whether such a request is answered at once: neither by another node, nor when copies have it."""
        return not self.routes[slot] and (command == GET or self.followed[slot] is None)

    def handle(self, buffer: bytes | bytearray, start: int, end: int) -> bytes | None:
        """The datagram that answers the client's datagram `buffer[start:end]`; None when nothing is answered.

        Raises Shutdown when the datagram asks for it.
        """
        match = match_ordinary(buffer, start, end)
        if match is not None:
            message_id, length, payload, command, key_length, rest, checksum = match.groups()
            key_bytes = key_length[0]
            if length[0] == len(payload) < 0x80 and 0 < key_bytes <= KEY_MAX_BYTES:
                id_crc = crc32(message_id)
                if crc32(payload, id_crc).to_bytes(8, "little") == checksum:
                    if command == b"\x02":
                        if len(rest) == key_bytes:
                            slot = crc32(rest) & _SLOT_MASK
                            if self.routes[slot]:
                                return self.forward(slot, message_id, bytes(buffer[start:end]))
                            return self._get(message_id, id_crc, slot, rest)
                    # key, value with its length, version of one byte: but for its tag, what the store keeps
                    elif (
                        len(rest) >= key_bytes + 4
                        and rest[key_bytes] == 0x1A
                        and rest[key_bytes + 1] == len(rest) - key_bytes - 4
                        and rest[-2] == 0x20
                        and rest[-1] < 0x80
                    ):
                        key = rest[:key_bytes]
                        slot = crc32(key) & _SLOT_MASK
                        if self.routes[slot]:
                            return self.forward(slot, message_id, bytes(buffer[start:end]))
                        return self._mutate(message_id, id_crc, PUT, slot, key, b"\x12" + rest[key_bytes + 1 :])
        return self.handle_any(bytes(buffer[start:end]))

    def handle_any(self, data: bytes) -> bytes | None:
        """As `handle`, for every encoding and every command."""
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
                self._counters.acks += self._replies.forget(message_id, id_crc)
                return None
            if msg.type == TYPE_CLUSTER:
                self.on_cluster(payload)
                return None
            request = parse_request(payload)
        except DecodeError:
            self._drop("unparsable")
            return None
        command = request.command
        if command not in (PUT, GET, REMOVE):
            return self._handle_keyless(command, message_id, id_crc)
        key = request.key
        if not 0 < len(key) <= KEY_MAX_BYTES:
            return self.answer(command, message_id, id_crc, INVALID_KEY_ERR)
        value = request.value
        if command == PUT and (len(value) > VALUE_MAX_BYTES or (not value and not request.HasField("value"))):
            return self.answer(command, message_id, id_crc, INVALID_VAL_ERR)
        slot = crc32(key) & _SLOT_MASK
        if self.routes[slot]:
            return self.forward(slot, message_id, data)
        if command == GET:
            return self._get(message_id, id_crc, slot, key)
        blob = encode_value(value, request.version) if command == PUT else b""
        return self._mutate(message_id, id_crc, command, slot, key, blob)

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

    # --- reading and changing the store: slots are served here, keys and values are valid ------------------------

    def _get(self, message_id: bytes, id_crc: int, slot: int, key: bytes) -> bytes | None:
        blob = self._store.get(slot, key)
        if blob is None:
            self._answers[_GET_MISS] += 1
            reply = encode_error(message_id, id_crc, KEY_DNE_ERR)
        else:
            self._answers[_GET_HIT] += 1
            reply = encode_response(message_id, id_crc, _OK + blob)
        if self.unacked and key in self.unacked:
            return self.hold(slot, key, reply)
        return reply

    def _mutate(self, message_id: bytes, id_crc: int, command: int, slot: int, key: bytes, blob: bytes) -> bytes | None:
        """Execute PUT, REMOVE or WIPEOUT, unless this messageID has been executed: then answer as it was."""
        if self.followed[slot] is not None:
            return self.replicate(message_id, id_crc, command, slot, key, blob)
        replies = self._replies
        code = replies.get(message_id, id_crc)
        if code is not None:
            self._counters.retries_answered += 1
        elif replies.full:
            return self.overloaded(command, message_id, id_crc, replies.wait_ms)
        else:
            if command == PUT:
                if self._store.put(slot, key, blob):
                    code = NO_ERR
                elif self._no_space_code == SYS_OVERLOAD_ERR or self._store.wiping:
                    return self.overloaded(command, message_id, id_crc, ROOM_WAIT_MS)
                else:
                    code = NO_SPC_ERR
            elif command == REMOVE:
                code = NO_ERR if self._store.remove(slot, key) else KEY_DNE_ERR
            else:
                self._store.wipe(range(SLOT_COUNT))
                code = NO_ERR
            replies.add(message_id, id_crc, slot, code)
        self._answers[command * 8 + code] += 1
        return encode_error(message_id, id_crc, code)

    def _wipe_out(self, message_id: bytes, id_crc: int) -> bytes | None:
        """WIPEOUT where all slots are this node's, and no others keep copies."""
        return self._mutate(message_id, id_crc, WIPEOUT, 0, b"", b"")

    # --- the rest ------------------------------------------------------------------------------------------------

    def _handle_keyless(self, command: int, message_id: bytes, id_crc: int) -> bytes | None:
        if command in (SHUTDOWN, WIPEOUT) and not self.may_administer(command):
            self._drop("admin_not_allowed")
            return None
        if command == WIPEOUT:
            return self.wipe_out(message_id, id_crc)
        if command == GET_PID:
            payload = KVResponse(errCode=NO_ERR, pid=self._pid).SerializeToString()
        elif command == GET_MEMBERSHIP_CNT:
            payload = KVResponse(errCode=NO_ERR, membershipCount=self._member_count()).SerializeToString()
        elif command in (STATUS, SLOWLOG, VITALS):
            tell = self.status if command == STATUS else self.slow_requests if command == SLOWLOG else self.vitals
            payload = KVResponse(errCode=NO_ERR, value=tell()).SerializeToString()
        elif command in (IS_ALIVE, SHUTDOWN):
            reply = self.answer(command, message_id, id_crc, NO_ERR)
            if command == SHUTDOWN:
                raise Shutdown(reply)
            return reply
        else:
            return self.answer(0, message_id, id_crc, UNKNOWN_CMD_ERR)
        self._answers[command * 8 + NO_ERR] += 1
        return encode_response(message_id, id_crc, payload)

    def answer(self, command: int, message_id: bytes, id_crc: int, code: int) -> bytes:
        """Count and encode an answer that is an error code and nothing else."""
        self._answers[command * 8 + code] += 1
        return encode_error(message_id, id_crc, code)

    def overloaded(self, command: int, message_id: bytes, id_crc: int, wait_ms: int) -> bytes:
        """Count and encode a refusal for now, nothing done."""
        self._answers[command * 8 + SYS_OVERLOAD_ERR] += 1
        return encode_response(message_id, id_crc, error_payload(SYS_OVERLOAD_ERR, wait_ms))

    def refuse(self, data: bytes, wait_ms: int) -> bytes | None:
        """The datagram that refuses a request for now, nothing done; None when it is not a sound request.

        What a node says is not refused: a cluster must not lose a member for being busy.
        """
        return self._answer_unexecuted(data, error_payload(SYS_OVERLOAD_ERR, wait_ms), self.on_cluster)

    def fail(self, data: bytes) -> bytes | None:
        """The datagram that says that a request broke the node's code; None when it is not a sound request."""
        return self._answer_unexecuted(data, error_payload(INTERNAL_ERR), lambda payload: None)

    def shut_out(self, data: bytes) -> None:
        """Take a datagram from where no requests are allowed from: only what a node says is heard, and must prove
        itself; the rest is dropped."""
        with suppress(DecodeError):
            if len(data) <= DATAGRAM_MAX_BYTES:
                msg = parse_msg(data)
                message_id, payload = msg.messageID, msg.payload
                if msg.type == TYPE_CLUSTER and self._check(msg, message_id, payload, crc32(message_id)) is None:
                    self.on_cluster(payload)
                    return
        self._drop("not_allowed")

    def _answer_unexecuted(self, data: bytes, answer: bytes, on_cluster: Callable[[bytes], object]) -> bytes | None:
        if len(data) > DATAGRAM_MAX_BYTES:
            self._drop("oversized")
            return None
        try:
            msg = parse_msg(data)
            payload = msg.payload
            message_id = msg.messageID
            id_crc = crc32(message_id)
            verdict = self._check(msg, message_id, payload, id_crc)
            if verdict is None and msg.type != TYPE_REQUEST:
                if msg.type == TYPE_CLUSTER:
                    on_cluster(payload)
                return None
            request = parse_request(payload)
        except DecodeError:
            verdict = "unparsable"
        if verdict is not None:
            self._drop(verdict)
            return None
        command = request.command if request.command in COMMAND_NAMES else 0
        self._answers[command * 8 + answer[1]] += 1
        return encode_response(message_id, id_crc, answer)

    def _drop(self, reason: str) -> None:
        self._counters.drops[reason] += 1
