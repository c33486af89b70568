"""What tools/testclient.py demands of a node, check by check.

A check compares two short texts, what the protocol demands and what was seen, and prints one line; so a
FAIL can be read without looking anything up here. Requests that a client would send go through the client;
what no proper client sends, and what a response looks like on the wire, goes through a bare socket.

Keys are random for each run: the tool may run against a store in use, leaves its keys removed, and never
meets those of an earlier run.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

from google.protobuf.message import DecodeError

from app.client import Client, Timeout, codec
from app.client.address import resolve
from app.fragments import allow_fragments
from app.wire.protocol import (
    COMMAND_NAMES,
    DATAGRAM_MAX_BYTES,
    ERROR_NAMES,
    GET,
    GET_MEMBERSHIP_CNT,
    GET_PID,
    IS_ALIVE,
    KEY_MAX_BYTES,
    MESSAGE_ID_MAX_BYTES,
    PUT,
    REMOVE,
    SHUTDOWN,
    TYPE_ACK,
    TYPE_REQUEST,
    TYPE_RESPONSE,
    VALUE_MAX_BYTES,
    WIPEOUT,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tools import cli

# How long (s) to listen for an answer that should not come, counted from the answer to the request sent
# after it. The node works datagrams off in order, so a wrong answer is due by then; the rest is for
# reordering.
QUIET_S: Final = 0.05

VERSION_MIN: Final = -(2**31)
VERSION_MAX: Final = 2**31 - 1


class NodeGone(Exception):
    """The node has stopped answering: what is left to check has nothing to be checked against."""


# Texts for what was seen.


def tell_value(value: bytes) -> str:
    """Short values in full, long ones by length and CRC-32."""
    return repr(value) if len(value) <= 16 else f"<{len(value)} bytes, crc {crc32(value):08x}>"


def tell(response: codec.KVResponse) -> str:
    """The error code's name and every field that is present, in the order of the protocol."""
    code = response.errCode
    parts = ["errCode absent" if code is None else ERROR_NAMES.get(code, f"errCode={code}")]
    if response.value is not None:
        parts.append(f"value={tell_value(response.value)}")
    for name in ("pid", "version", "overloadWaitTime", "membershipCount"):
        number = getattr(response, name)
        if number is not None:
            parts.append(f"{name}={number}")
    return " ".join(parts)


def found(value: bytes, version: int = 0) -> str:
    """What a GET that finds this should look like."""
    return f"NO_ERR value={tell_value(value)} version={version}"


def tell_datagram(datagram: bytes) -> str:
    try:
        return tell(codec.decode_response(datagram)[1])
    except codec.NotAnAnswer as fault:
        return f"a datagram of {len(datagram)} bytes ({fault.reason})"


# Datagrams.


def pack(
    message_id: bytes | None,
    payload: bytes | None,
    kind: int | None = TYPE_REQUEST,
    checksum_error: int = 0,
) -> bytes:
    """A Msg; None leaves a field out, `checksum_error` makes the checksum wrong by that much."""
    checksum = crc32((message_id or b"") + (payload or b"")) ^ checksum_error
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=kind).SerializeToString()


def fresh_id(length: int = 16) -> bytes:
    return os.urandom(length)


ALIVE_PAYLOAD: Final = KVRequest(command=IS_ALIVE).SerializeToString()


class BareSocket:
    """A bare UDP socket to the node, that sends anything and hides nothing of what comes back.

    Except late or doubled answers to requests that are done with: networks may do that, and another check
    looks.
    """

    def __init__(self, server: str, tries_ms: Sequence[int]) -> None:
        _, family, address = resolve(server)
        self._tries_ms = tries_ms
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        allow_fragments(self._socket)
        self._socket.connect(address)
        self._done_with: set[bytes] = set()  # messageIDs

    def close(self) -> None:
        self._socket.close()

    def send(self, datagram: bytes) -> None:
        self._socket.send(datagram)

    def receive(self, until: float) -> bytes | None:
        """The next datagram, or None when none has come by `until` (monotonic seconds)."""
        remaining_s = until - time.monotonic()
        if remaining_s <= 0:
            return None
        self._socket.settimeout(remaining_s)
        try:
            return self._socket.recv(65535)
        except (TimeoutError, ConnectionRefusedError):
            return None

    def exchange(self, datagram: bytes) -> bytes | None:
        """The first datagram that comes back, after as many tries as a client makes; None without any."""
        answer = None
        for timeout_ms in self._tries_ms:
            self.send(datagram)
            until = time.monotonic() + timeout_ms / 1000
            while (answer := self.receive(until)) is not None and message_id_of(answer) in self._done_with:
                pass
            if answer is not None:
                break
        self._done_with.update(filter(None, [message_id_of(datagram)]))
        return answer

    def after(self, datagrams: list[bytes]) -> list[bytes] | None:
        """Everything that comes back after these are sent, in order; None when the node is dead afterwards.

        Ends QUIET_S after the answer to an IS_ALIVE that is sent last, which is not in the list.
        """
        probes: list[bytes] = []
        came_back: list[bytes] = []
        alive = False
        for datagram in datagrams:
            self.send(datagram)
        for timeout_ms in self._tries_ms:
            probes.append(fresh_id())
            self.send(pack(probes[-1], ALIVE_PAYLOAD))
            until = time.monotonic() + timeout_ms / 1000
            while (answer := self.receive(until)) is not None:
                message_id = message_id_of(answer)
                if message_id not in probes:
                    if message_id not in self._done_with:
                        came_back.append(answer)
                elif not alive:
                    alive = True
                    until = time.monotonic() + QUIET_S
            if alive:
                break
        self._done_with.update(probes, filter(None, map(message_id_of, datagrams)))
        return came_back if alive else None


def message_id_of(datagram: bytes) -> bytes | None:
    """None when there is none, or no message."""
    try:
        return Msg.FromString(datagram).messageID or None
    except DecodeError:
        return None


class Suite:
    """The node under test, and the tally."""

    def __init__(self, server: str, quiet: bool, tries_ms: Sequence[int]) -> None:
        """`tries_ms`: how long each try of a request is waited for."""
        self.server = server
        # Two, for two local ports. Both give up when nothing listens: a node that dies is reported at once.
        self.client = Client([server], slot_aware=False, timeouts_ms=tries_ms)
        self.other = Client([server], slot_aware=False, timeouts_ms=tries_ms)
        self.bare = BareSocket(server, tries_ms)
        self.passed = 0
        self.failed = 0
        self._quiet = quiet
        self._run = os.urandom(6).hex()
        self._keys = 0

    def close(self) -> None:
        self.client.close()
        self.other.close()
        self.bare.close()

    def key(self) -> bytes:
        """A key that nobody has used."""
        self._keys += 1
        return f"test-{self._run}-{self._keys}".encode()

    def check(self, what: str, expected: str, seen: str, passes: bool | None = None) -> None:
        """Print and count one check. It passes when both texts are the same, unless `passes` says
        otherwise.
        """
        if passes is None:
            passes = expected == seen
        if passes:
            self.passed += 1
        else:
            self.failed += 1
        if not (passes and self._quiet):
            verdict = "PASS" if passes else "FAIL"
            cli.say(f"{verdict}  {what}: expected {expected}; seen {seen}", flush=True)

    def ask(
        self,
        command: int | None,
        key: bytes | None = None,
        value: bytes | None = None,
        version: int | None = None,
        *,
        message_id: bytes | None = None,
        client: Client | None = None,
    ) -> str:
        """The answer to a request, as text; None leaves a field out. NodeGone when nobody answers now."""
        request = codec.KVRequest(command, key, value, version)
        try:
            return tell((client or self.client).call(request, message_id=message_id))
        except Timeout as error:
            if not self.client.is_alive():
                raise NodeGone(str(error)) from None
            return "no answer"

    def silence(self, what: str, *datagrams: bytes) -> None:
        """Check that nothing is answered to these, and that the node answers the next request."""
        came_back = self.bare.after(list(datagrams))
        if came_back is None:
            self.check(what, "silence, then alive", "no answer to anything afterwards")
            raise NodeGone("IS_ALIVE is not answered any more")
        seen = ", ".join(map(tell_datagram, came_back)) if came_back else "silence"
        self.check(what, "silence, then alive", f"{seen}, then alive")


# The checks, in groups.


def about_the_node(suite: Suite) -> None:
    suite.check("IS_ALIVE", "NO_ERR", suite.ask(IS_ALIVE))
    first = suite.ask(GET_PID)
    pid = first.removeprefix("NO_ERR pid=")
    suite.check("GET_PID", "NO_ERR pid=(positive)", first, pid.isdigit() and int(pid) > 0)
    suite.check("GET_PID again", first, suite.ask(GET_PID))
    members = suite.ask(GET_MEMBERSHIP_CNT)
    count = members.removeprefix("NO_ERR membershipCount=")
    passes = count.isdigit() and int(count) > 0
    suite.check("GET_MEMBERSHIP_CNT", "NO_ERR membershipCount=(positive)", members, passes)


def invalid_requests(suite: Suite) -> None:
    long_key = bytes(KEY_MAX_BYTES + 1)
    for name, key in (("no key", None), ("an empty key", b""), ("a 33-byte key", long_key)):
        suite.check(f"PUT with {name}", "INVALID_KEY_ERR", suite.ask(PUT, key, b"value"))
        suite.check(f"GET with {name}", "INVALID_KEY_ERR", suite.ask(GET, key))
        suite.check(f"REMOVE with {name}", "INVALID_KEY_ERR", suite.ask(REMOVE, key))
    key = suite.key()
    too_long = bytes(VALUE_MAX_BYTES + 1)
    suite.check("PUT with a 10,001-byte value", "INVALID_VAL_ERR", suite.ask(PUT, key, too_long))
    suite.check("PUT without a value", "INVALID_VAL_ERR", suite.ask(PUT, key))
    suite.check("GET after the refused PUTs", "KEY_DNE_ERR", suite.ask(GET, key))
    suite.ask(PUT, key, b"first")
    suite.ask(PUT, key, too_long)
    suite.check("a refused PUT leaves the old value", found(b"first"), suite.ask(GET, key))
    suite.ask(REMOVE, key)
    for name, command in (("99", 99), ("0", 0), ("absent", None), ("the largest", 2**32 - 1)):
        suite.check(f"unknown command ({name})", "UNKNOWN_CMD_ERR", suite.ask(command, key, b"value"))


def missing_keys(suite: Suite) -> None:
    suite.check("GET of a missing key", "KEY_DNE_ERR", suite.ask(GET, suite.key()))
    suite.check("REMOVE of a missing key", "KEY_DNE_ERR", suite.ask(REMOVE, suite.key()))


def round_trips(suite: Suite) -> None:
    for length in (0, 1, 8, 32, 2048, 8192, VALUE_MAX_BYTES):
        key, value = suite.key(), os.urandom(length)
        article = "an" if str(length).startswith("8") else "a"
        name = f"{article} {length:,}-byte value" if length else "an explicit empty value"
        suite.check(f"PUT of {name}", "NO_ERR", suite.ask(PUT, key, value, length))
        suite.check(f"GET of {name}", found(value, length), suite.ask(GET, key))
        suite.check(f"REMOVE of {name}", "NO_ERR", suite.ask(REMOVE, key))
        suite.check(f"GET of {name} after REMOVE", "KEY_DNE_ERR", suite.ask(GET, key))
        suite.check(f"second REMOVE of {name}", "KEY_DNE_ERR", suite.ask(REMOVE, key))
    key = bytes([0, 255, 10]) + os.urandom(KEY_MAX_BYTES - 3)
    suite.check("PUT with a 32-byte key of any bytes", "NO_ERR", suite.ask(PUT, key, b"value"))
    suite.check("GET with a 32-byte key of any bytes", found(b"value"), suite.ask(GET, key))
    suite.check("GET with all but its last byte", "KEY_DNE_ERR", suite.ask(GET, key[:-1]))
    suite.ask(REMOVE, key)
    key = suite.key()
    suite.ask(PUT, key, b"a value that is longer", 1)
    suite.check("PUT over a value", "NO_ERR", suite.ask(PUT, key, b"short", 2))
    suite.check("GET of the newer value", found(b"short", 2), suite.ask(GET, key))
    suite.check("GET from another port", found(b"short", 2), suite.ask(GET, key, client=suite.other))
    suite.ask(REMOVE, key)


def versions(suite: Suite) -> None:
    key = suite.key()
    for version in (1, -1, VERSION_MIN, VERSION_MAX, 0):
        suite.check(f"PUT with version {version}", "NO_ERR", suite.ask(PUT, key, b"value", version))
        suite.check(f"GET of version {version}", found(b"value", version), suite.ask(GET, key))
    suite.ask(PUT, key, b"value", 5)
    suite.check("PUT without a version", "NO_ERR", suite.ask(PUT, key, b"value"))
    suite.check("GET of what has no version", found(b"value", 0), suite.ask(GET, key))
    suite.ask(REMOVE, key)


def at_most_once(suite: Suite) -> None:
    key, removal = suite.key(), fresh_id()
    suite.ask(PUT, key, b"value")
    suite.check("PUT, then REMOVE", "NO_ERR", suite.ask(REMOVE, key, message_id=removal))
    suite.check("the same REMOVE again", "NO_ERR", suite.ask(REMOVE, key, message_id=removal))
    again = suite.ask(REMOVE, key, message_id=removal, client=suite.other)
    suite.check("the same REMOVE from another port", "NO_ERR", again)
    suite.check("a new REMOVE of it", "KEY_DNE_ERR", suite.ask(REMOVE, key))

    key, removal = suite.key(), fresh_id()
    suite.check("REMOVE of nothing", "KEY_DNE_ERR", suite.ask(REMOVE, key, message_id=removal))
    suite.check("the same REMOVE of nothing again", "KEY_DNE_ERR", suite.ask(REMOVE, key, message_id=removal))
    suite.ask(PUT, key, b"value", 3)
    again = suite.ask(REMOVE, key, message_id=removal)
    suite.check("the same REMOVE of nothing after a PUT", "KEY_DNE_ERR", again)
    suite.check("GET of what it did not remove", found(b"value", 3), suite.ask(GET, key))

    put = fresh_id()
    suite.check("PUT of version 4", "NO_ERR", suite.ask(PUT, key, b"four", 4, message_id=put))
    suite.check("PUT of version 5", "NO_ERR", suite.ask(PUT, key, b"five", 5))
    again = suite.ask(PUT, key, b"four", 4, message_id=put, client=suite.other)
    suite.check("the PUT of version 4 again, from another port", "NO_ERR", again)
    suite.check("GET of version 5 still", found(b"five", 5), suite.ask(GET, key))
    suite.ask(REMOVE, key)

    key, get = suite.key(), fresh_id()
    suite.check("GET of a missing key", "KEY_DNE_ERR", suite.ask(GET, key, message_id=get))
    suite.ask(PUT, key, b"value")
    again = suite.ask(GET, key, message_id=get)
    suite.check("the same GET after a PUT (not remembered)", found(b"value"), again)
    burst_of_retries(suite, key)


def burst_of_retries(suite: Suite, key: bytes) -> None:
    """One REMOVE, three times without waiting: whatever is answered is answered alike, and at least once."""
    payload = KVRequest(command=REMOVE, key=key).SerializeToString()
    came_back = suite.bare.after([pack(fresh_id(), payload)] * 3)
    seen = sorted({tell_datagram(datagram) for datagram in came_back or []})
    suite.check("one REMOVE sent three times at once", "NO_ERR", " and ".join(seen) or "no answer")


def message_ids(suite: Suite) -> None:
    for length in (1, 15, 16, MESSAGE_ID_MAX_BYTES):
        seen = suite.ask(IS_ALIVE, message_id=fresh_id(length))
        suite.check(f"messageID length {length}", "NO_ERR", seen)
    key, longest = suite.key(), fresh_id(MESSAGE_ID_MAX_BYTES)
    suite.check("PUT with a 64-byte messageID", "NO_ERR", suite.ask(PUT, key, b"v", message_id=longest))
    removal = longest[:-1] + bytes([longest[-1] ^ 1])
    seen = suite.ask(REMOVE, key, message_id=removal)
    suite.check("REMOVE with one that differs in the last bit", "NO_ERR", seen)
    suite.check("GET after that", "KEY_DNE_ERR", suite.ask(GET, key))
    seen = suite.ask(REMOVE, key, message_id=removal)
    suite.check("the same REMOVE again, 64-byte messageID", "NO_ERR", seen)


def fields_of(datagram: bytes | None) -> str:
    """Which fields a response has on the wire, and which type."""
    if datagram is None:
        return "no answer"
    message = Msg.FromString(datagram)
    outer = [name for name in ("messageID", "payload", "checkSum") if message.HasField(name)]
    inner = [field.name for field, _ in KVResponse.FromString(message.payload).ListFields()]
    return f"{'+'.join(outer)} type={message.type} with {'+'.join(inner)}"


def explicit_presence(suite: Suite) -> None:
    """Clients built from the proto2 form of the messages reject a response that leaves a required field
    out.
    """
    key = suite.key()
    steps: list[tuple[str, KVRequest, str]] = [
        ("IS_ALIVE", KVRequest(command=IS_ALIVE), ""),
        ("PUT", KVRequest(command=PUT, key=key, value=b""), ""),
        ("GET of an empty value", KVRequest(command=GET, key=key), "+value+version"),
        ("REMOVE", KVRequest(command=REMOVE, key=key), ""),
        ("GET of a missing key", KVRequest(command=GET, key=key), ""),
        ("GET_PID", KVRequest(command=GET_PID), "+pid"),
        ("GET_MEMBERSHIP_CNT", KVRequest(command=GET_MEMBERSHIP_CNT), "+membershipCount"),
    ]
    for what, request, more in steps:
        message_id = fresh_id()
        answer = suite.bare.exchange(pack(message_id, request.SerializeToString()))
        expected = f"messageID+payload+checkSum type={TYPE_RESPONSE} with errCode{more}"
        suite.check(f"fields in the answer to {what}", expected, fields_of(answer))
        echoed = "no answer" if answer is None else str(message_id_of(answer) == message_id)
        suite.check(f"messageID echoed in the answer to {what}", "True", echoed)
        correct = "no answer" if answer is None else tell_datagram(answer)
        suite.check(f"checksum of the answer to {what}", "correct", "correct" if "(" not in correct else correct)


def kinds_of_envelope(suite: Suite) -> None:
    for name, kind in (("absent", None), ("0, explicit", TYPE_REQUEST)):
        answer = suite.bare.exchange(pack(fresh_id(), ALIVE_PAYLOAD, kind))
        seen = "no answer" if answer is None else tell_datagram(answer)
        suite.check(f"request with type {name}", "NO_ERR", seen)
    # A field that this version of the protocol does not know (number 15) must not disturb.
    answer = suite.bare.exchange(pack(fresh_id(), ALIVE_PAYLOAD) + bytes([15 << 3, 1]))
    seen = "no answer" if answer is None else tell_datagram(answer)
    suite.check("request with an unknown field in its envelope", "NO_ERR", seen)
    came_back = suite.bare.after([pack(fresh_id(), ALIVE_PAYLOAD)])
    count = "nothing" if came_back is None else str(len(came_back))
    suite.check("answers to one request", "1", count)


def dropped_datagrams(suite: Suite) -> None:
    whole = pack(fresh_id(), ALIVE_PAYLOAD, kind=None)  # the checksum comes last: no part of it is a message
    suite.silence("an empty datagram", b"")
    suite.silence("a datagram that does not parse", b"\xff\xff\xff\xff")
    suite.silence("random datagrams", *(os.urandom(length) for length in (1, 17, 100, 1400, 9000)))
    suite.silence("a request cut short, at every byte", *(whole[:cut] for cut in range(1, len(whole))))
    suite.silence("a checksum wrong in its last bit", pack(fresh_id(), ALIVE_PAYLOAD, checksum_error=1))
    suite.silence("a checksum wrong in its first bit", pack(fresh_id(), ALIVE_PAYLOAD, checksum_error=1 << 31))
    no_checksum = Msg(messageID=fresh_id(), payload=ALIVE_PAYLOAD).SerializeToString()
    suite.silence("no checksum", no_checksum)
    suite.silence("no messageID", pack(None, ALIVE_PAYLOAD))
    suite.silence("an empty messageID", pack(b"", ALIVE_PAYLOAD))
    suite.silence("a 65-byte messageID", pack(fresh_id(MESSAGE_ID_MAX_BYTES + 1), ALIVE_PAYLOAD))
    suite.silence("no payload", pack(fresh_id(), None))
    suite.silence("a payload that does not parse", pack(fresh_id(), b"\xff\xff\xff"))
    suite.silence("a response in place of a request", pack(fresh_id(), ALIVE_PAYLOAD, TYPE_RESPONSE))
    suite.silence("a type that does not exist", pack(fresh_id(), ALIVE_PAYLOAD, 9))
    suite.silence("a negative type", pack(fresh_id(), ALIVE_PAYLOAD, -1))
    suite.silence("an ack for nothing", pack(fresh_id(), b"", TYPE_ACK))
    oversized = KVRequest(command=PUT, key=suite.key(), value=bytes(DATAGRAM_MAX_BYTES))
    suite.silence("a datagram over 16 KiB", pack(fresh_id(), oversized.SerializeToString()))

    key = suite.key()
    put = KVRequest(command=PUT, key=key, value=b"value").SerializeToString()
    suite.silence("a PUT with a wrong checksum", pack(fresh_id(), put, checksum_error=1 << 7))
    suite.check("GET after the PUT with a wrong checksum", "KEY_DNE_ERR", suite.ask(GET, key))
    put_id = fresh_id()
    suite.check("PUT that is acked afterwards", "NO_ERR", suite.ask(PUT, key, b"v", message_id=put_id))
    suite.silence("the ack for it", pack(put_id, b"", TYPE_ACK))
    suite.check("GET of what was acked", found(b"v"), suite.ask(GET, key))
    suite.ask(REMOVE, key)


def wipeout(suite: Suite) -> None:
    keys, wipe = [suite.key() for _ in range(20)], fresh_id()
    for key in keys:
        suite.ask(PUT, key, b"value")
    suite.check(COMMAND_NAMES[WIPEOUT], "NO_ERR", suite.ask(WIPEOUT, message_id=wipe))
    if suite.ask(GET_MEMBERSHIP_CNT) != "NO_ERR membershipCount=1":
        return  # the rest of the keys are other members' to wipe
    seen = sorted({suite.ask(GET, key) for key in keys})
    suite.check("GET of 20 keys after it", "KEY_DNE_ERR", " and ".join(seen))
    suite.ask(PUT, keys[0], b"after")
    suite.check("the same WIPEOUT again", "NO_ERR", suite.ask(WIPEOUT, message_id=wipe))
    suite.check("GET of what was put in between", found(b"after"), suite.ask(GET, keys[0]))
    suite.ask(REMOVE, keys[0])


def shutdown(suite: Suite) -> None:
    """The last one: there is no node after it."""
    suite.check(COMMAND_NAMES[SHUTDOWN], "NO_ERR", suite.ask(SHUTDOWN))
    suite.bare.send(pack(fresh_id(), ALIVE_PAYLOAD))
    answer = suite.bare.receive(time.monotonic() + 0.5)
    seen = "silence" if answer is None else tell_datagram(answer)
    suite.check("IS_ALIVE after SHUTDOWN", "silence", seen)


GROUPS: Final[tuple[Callable[[Suite], None], ...]] = (
    about_the_node,
    invalid_requests,
    missing_keys,
    round_trips,
    versions,
    at_most_once,
    message_ids,
    explicit_presence,
    kinds_of_envelope,
    dropped_datagrams,
)
DESTRUCTIVE_GROUPS: Final[tuple[Callable[[Suite], None], ...]] = (wipeout, shutdown)
