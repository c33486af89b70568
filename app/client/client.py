"""The synchronous client: one request at a time over plain UDP sockets.

A datagram can be lost, late, doubled or forged, so a call is a loop: send, wait for an answer that carries
this call's messageID and a right checksum, ignore everything else, send the same again when Attempts says
so. Each retry goes to the next server of the list: every node answers for the whole store, and the
messageID lets all of them see that it is the same request.

Sockets are connected, one for each server that was tried: the kernel then tells us when nothing listens at
the other end (an unconnected one learns nothing of it) and drops datagrams from strangers. Waiting goes
through `selectors`, looked up at run time, so that under gevent's monkey-patching only the calling greenlet
waits.
"""

import json
import os
import random
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from app.client import codec
from app.client.address import Server, resolve
from app.client.errors import (
    BadAnswer,
    InvalidValue,
    Overloaded,
    Timeout,
    Unreachable,
    error_answer,
)
from app.client.retry import OVERLOAD_PATIENCE_S, Attempts
from app.wire import protocol
from proto_gen.key_value_pb2 import KVRequest, KVResponse

# Random bytes of a messageID: at 16, two requests of all clients ever never share one.
MESSAGE_ID_BYTES: Final = 16
assert MESSAGE_ID_BYTES <= protocol.MESSAGE_ID_MAX_BYTES

# Read from a socket at once (bytes). More than a legal answer, so that a longer datagram is not cut into one.
RECEIVE_BYTES: Final = 65535

# The commands that a node remembers, so that an ack for them frees memory.
_REMEMBERED: Final = frozenset((protocol.PUT, protocol.REMOVE, protocol.WIPEOUT))


class Versioned(NamedTuple):
    """What GET returns: the value, and the version that was stored with it."""

    value: bytes
    version: int


@dataclass(slots=True)
class Stats:
    """What happened on the wire since the client was made. Counts of datagrams, unless said otherwise."""

    requests: int = 0  # calls
    sent: int = 0  # tries, retries included
    retries: int = 0
    timeouts: int = 0  # calls that nobody answered
    overloads: int = 0  # SYS_OVERLOAD_ERR answers that were waited out or given back
    refused: int = 0  # times a server's machine said that nothing listens there
    acks: int = 0
    lost: int = 0  # datagrams that the socket did not take
    # Received and of no use, by reason: other_id (a late or doubled answer), wrong_checksum, unparsable, ...
    ignored: dict[str, int] = field(default_factory=dict)

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


class _Refused(NamedTuple):
    """Nothing listens at the server with this index, by word of its machine."""

    server: int


class Client:
    """A client of the store, for one thread or greenlet at a time.

        with Client(["10.0.0.1:3331", "10.0.0.2:3331"]) as kv:
            kv.put(b"key", b"value", version=3)
            value, version = kv.get(b"key")

    `servers`: "host:port" each ("[::1]:3331" for IPv6); any node answers for the whole store. A client
    starts with one of them at random, goes on to the next when it does not answer, and stays with the one
    that did.
    `timeouts_ms`: how long each try is waited for; as many tries as there are entries.
    `overload_patience_s`: how long a call bears being refused with SYS_OVERLOAD_ERR before it raises
    Overloaded.
    `ack`: tell the node when a PUT, REMOVE or WIPEOUT has been answered, so that it need not remember the
    answer for the whole 6 s. One datagram more for each, worth it for a client that writes a great deal.
    `give_up_when_refused`: raise Unreachable as soon as the machine of every server says that nothing
    listens there, instead of trying until a Timeout. For people at a terminal; a program outlives a node's
    restart without it.
    `rng`: the source of the first choice and of the jitter.

    Raises BadServer for a malformed or unknown server. Calls raise what app.client.errors lists.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        timeouts_ms: Sequence[int] = protocol.CLIENT_TIMEOUTS_MS,
        overload_patience_s: float = OVERLOAD_PATIENCE_S,
        ack: bool = False,
        give_up_when_refused: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        if isinstance(servers, str) or not servers:
            raise ValueError(f"servers is a list of at least one host:port, not {servers!r}")
        self.servers: tuple[Server, ...] = tuple(resolve(text) for text in servers)
        self.stats = Stats()
        self._timeouts_ms = tuple(timeouts_ms)
        self._patience_s = overload_patience_s
        self._ack = ack
        self._give_up_when_refused = give_up_when_refused
        self._rng = rng or random.Random()
        self._current = self._rng.randrange(len(self.servers))
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._in_call = False
        self._attempts = Attempts(0.0)  # of the last call, for what comes after its answer
        self._answered_by = self._current
        self._trouble = ""  # what the socket last complained of

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back. A closed client can't be used again; closing twice does no harm."""
        self._selector.close()
        for connected in self._sockets.values():
            connected.close()
        self._sockets.clear()

    # The store. Any node will do; retries go round the list.

    def put(self, key: bytes, value: bytes, version: int = 0) -> None:
        """Store `value` (0 to 10,000 bytes) and `version` (32 bits, signed) under `key` (1 to 32 bytes).

        InvalidKey, InvalidValue, NoSpace; Timeout when the outcome is unknown.
        """
        request = KVRequest(command=protocol.PUT, key=key, value=value, version=version)
        self._checked(request)

    def get(self, key: bytes) -> Versioned:
        """The value and version stored under `key`; KeyNotFound when it is not there."""
        response = self._checked(KVRequest(command=protocol.GET, key=key))
        if not (response.HasField("value") and response.HasField("version")):
            raise BadAnswer(f"get of {key!r}: NO_ERR without value and version")
        return Versioned(response.value, response.version)

    def remove(self, key: bytes) -> None:
        """Take `key` out of the store; KeyNotFound when it is not there."""
        self._checked(KVRequest(command=protocol.REMOVE, key=key))

    # The nodes. These ask about, or change, the one node that answers; `server` names it, as it stands in
    # the list.

    def ping(self, server: str | None = None) -> None:
        """Ask IS_ALIVE; Timeout, with the reason in its text, when nobody answers."""
        self._checked(KVRequest(command=protocol.IS_ALIVE), server)

    def is_alive(self, server: str | None = None) -> bool:
        """True when the node answers, false when it does not, after all tries."""
        try:
            self.ping(server)
        except Timeout:
            return False
        return True

    def get_pid(self, server: str | None = None) -> int:
        """The node's process id."""
        response = self._checked(KVRequest(command=protocol.GET_PID), server)
        if not response.HasField("pid"):
            raise BadAnswer("get_pid: NO_ERR without pid")
        return response.pid

    def membership_count(self, server: str | None = None) -> int:
        """How many live members the node sees, itself included."""
        response = self._checked(KVRequest(command=protocol.GET_MEMBERSHIP_CNT), server)
        if not response.HasField("membershipCount"):
            raise BadAnswer("membership_count: NO_ERR without membershipCount")
        return response.membershipCount

    def status(self, server: str | None = None) -> dict[str, Any]:
        """What the node knows of its cluster; the fields are its own. UnknownCommand: it is another kind of node."""
        response = self._checked(KVRequest(command=protocol.STATUS), server)
        try:
            status = json.loads(response.value)
        except ValueError:
            raise BadAnswer("status: not JSON") from None
        if not isinstance(status, dict):
            raise BadAnswer("status: not an object")
        return status

    def wipeout(self, server: str | None = None) -> None:
        """Drop every key of the slots that the node is primary for: in a cluster, ask each node in turn.

        `server` may be left out only when the list has one: a retry must not wipe another node.
        """
        self._checked(KVRequest(command=protocol.WIPEOUT), server or self._only_server())

    def shutdown(self, server: str | None = None) -> None:
        """Make the node answer and then exit at once, as in a crash. `server` as in wipeout().

        A Timeout may mean that the node is gone and only its answer was lost: is_alive() tells.
        """
        self._checked(KVRequest(command=protocol.SHUTDOWN), server or self._only_server())

    def _only_server(self) -> str:
        if len(self.servers) > 1:
            raise ValueError("name the server that is meant: this client knows several")
        return self.servers[0].name

    def _checked(self, request: KVRequest, server: str | None = None) -> KVResponse:
        """The response when it says NO_ERR, else the exception for its code."""
        response = self.call(request, server=server)
        if response.errCode == protocol.NO_ERR:
            return response
        what = protocol.COMMAND_NAMES[request.command].lower()
        if request.HasField("key"):
            what = f"{what} of {request.key!r}"
        error = error_answer(response.errCode, what)
        if isinstance(error, Overloaded):
            error.may_have_happened = self._attempts.unanswered
        raise error

    # One request, whatever it is.

    def call(
        self,
        request: KVRequest,
        *,
        message_id: bytes | None = None,
        server: str | None = None,
        wait_out_overload: bool = True,
    ) -> KVResponse:
        """Send any request, wait for its response, and return that as it is, whatever its errCode.

        `message_id`: 1 to 64 bytes that take the place of fresh random ones; an earlier call's make this a
        retry of it.
        `server`: ask this one only. `wait_out_overload` false: give SYS_OVERLOAD_ERR back at once; true:
        give it back when patience is over. Timeout when there is no answer, InvalidValue for a request too
        long for a datagram.
        """
        if message_id is None:
            message_id = os.urandom(MESSAGE_ID_BYTES)
        datagram = codec.encode_request(message_id, request)
        if len(datagram) > protocol.DATAGRAM_MAX_BYTES:
            # A node drops it unanswered: all that sending it could bring is a Timeout.
            raise InvalidValue(
                protocol.INVALID_VAL_ERR, f"request of {len(datagram)} bytes, over what a datagram takes"
            )
        if self._in_call:
            raise RuntimeError("this Client is in the middle of a call: make one for each thread or greenlet")
        self._in_call = True
        try:
            response = self._exchange(message_id, datagram, server, wait_out_overload)
        finally:
            self._in_call = False
        if self._ack and request.command in _REMEMBERED and response.errCode != protocol.SYS_OVERLOAD_ERR:
            self._send_ack(message_id)
        return response

    def _exchange(self, message_id: bytes, datagram: bytes, server: str | None, wait_out_overload: bool) -> KVResponse:
        """Tries until an answer is worth giving back; Timeout when the last one was in vain."""
        candidates = range(len(self.servers)) if server is None else (self._index_of(server),)
        asked = self._current if server is None else candidates[0]
        refused: set[int] = set()  # servers whose machine said since the last try that nothing listens there
        self.stats.requests += 1
        self._trouble = ""
        self._attempts = attempts = Attempts(time.monotonic(), self._timeouts_ms, self._patience_s, self._rng)
        self._send(asked, datagram)
        while True:
            event = self._next_event(message_id, attempts.due)
            now = time.monotonic()
            if event is None:
                if not attempts.again(now):
                    break
                self.stats.retries += 1
                refused.clear()
                asked = candidates[(candidates.index(asked) + 1) % len(candidates)]
                self._send(asked, datagram)
            elif isinstance(event, _Refused):
                refused.add(event.server)
                others = [index for index in candidates if index not in refused]
                if not others and self._give_up_when_refused:
                    self.stats.timeouts += 1
                    raise Unreachable(f"no answer from {self._names(candidates)}: connection refused")
                if event.server == asked and others and attempts.moved(now):
                    asked = others[0]
                    self._send(asked, datagram)
            else:
                response, answered_by = event
                if response.errCode == protocol.SYS_OVERLOAD_ERR:
                    self.stats.overloads += 1
                    if wait_out_overload and attempts.overloaded(now, response.overloadWaitTime):
                        continue
                if server is None:
                    self._current = answered_by
                self._answered_by = answered_by
                return response
        self.stats.timeouts += 1
        why = f" ({self._trouble})" if self._trouble else ""
        raise Timeout(f"no answer from {self._names(candidates)} to {attempts.tries} tries{why}")

    def _next_event(self, message_id: bytes, until: float) -> "tuple[KVResponse, int] | _Refused | None":
        """What comes first: the response to `message_id` with the index of the server it came from, the
        news that nothing listens at a server, or (None) the time `until`. Everything else is ignored and
        counted.
        """
        while True:
            remaining_s = until - time.monotonic()
            ready = self._selector.select(max(remaining_s, 0))
            for key, _ in ready:
                index: int = key.data
                try:
                    datagram = self._sockets[index].recv(RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                except ConnectionRefusedError:
                    self.stats.refused += 1
                    self._trouble = "connection refused"
                    return _Refused(index)
                except OSError as error:
                    self._trouble = str(error.strerror)
                    continue
                try:
                    answered_id, response = codec.decode_response(datagram)
                except codec.NotAnAnswer as fault:
                    self.stats.ignore(fault.reason)
                    continue
                if answered_id == message_id:
                    return response, index
                self.stats.ignore("other_id")
            if remaining_s <= 0:
                return None

    def _send(self, index: int, datagram: bytes) -> None:
        """One datagram to a server. What the socket won't take counts as lost: a retry mends it."""
        self.stats.sent += 1
        try:
            connected = self._sockets.get(index) or self._connect(index)
            try:
                connected.send(datagram)
            except ConnectionRefusedError:
                # The socket reports what became of an earlier datagram, and has not sent this one.
                connected.send(datagram)
        except OSError as error:
            self.stats.lost += 1
            self._trouble = str(error.strerror)

    def _connect(self, index: int) -> socket.socket:
        """A socket that speaks to this server only. OSError when its network can't be reached."""
        server = self.servers[index]
        connected = socket.socket(server.family, socket.SOCK_DGRAM)
        try:
            connected.setblocking(False)
            connected.connect(server.address)
        except OSError:
            connected.close()
            raise
        self._sockets[index] = connected
        self._selector.register(connected, selectors.EVENT_READ, index)
        return connected

    def _send_ack(self, message_id: bytes) -> None:
        """Tell the node that answered that its memory of the request may go.

        Only after a single try: were another one still under way, forgetting would let it take effect again.
        """
        if self._attempts.tries == 1:
            self._send(self._answered_by, codec.encode_ack(message_id))
            self.stats.acks += 1

    def _index_of(self, name: str) -> int:
        for index, server in enumerate(self.servers):
            if server.name == name:
                return index
        raise ValueError(f"{name!r} is not among this client's servers")

    def _names(self, indexes: Sequence[int]) -> str:
        return ", ".join(self.servers[index].name for index in indexes)
