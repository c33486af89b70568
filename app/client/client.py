"""The public client: one call for each command, and calls for many keys at once.

Everything on the wire is the engine's: a call of one request is an engine with one in flight. What is here turns keys
and values into requests, answers into results and exceptions, and brings router and engine together.
"""

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from app.client import clock, codec
from app.client.address import Endpoint, resolve, unresolved
from app.client.codec import KVRequest, KVResponse
from app.client.engine import Engine, Exchange
from app.client.errors import (
    BadAnswer,
    BadServer,
    Closed,
    InvalidValue,
    KeyNotFound,
    KVError,
    NotTried,
    Overloaded,
    PartialFailure,
    Timeout,
    WrongCluster,
    error_answer,
)
from app.client.retry import OVERLOAD_PATIENCE_S
from app.client.router import NOWHERE, PROBE_TIMEOUT_S, Router
from app.client.stats import Stats
from app.client.table import read_object, read_status
from app.wire import protocol

# Random bytes of a messageID: at 16, two requests of all clients ever never share one.
MESSAGE_ID_BYTES: Final = 16
assert MESSAGE_ID_BYTES <= protocol.MESSAGE_ID_MAX_BYTES

# Requests of one call in flight at most. Three nodes with three copies on two cores took 10, 14 and 16 thousand puts/s
# at 16, 64 and 256; at 10,000 bytes a value none was lost. More make a busy node's other clients wait.
WINDOW: Final = 64

# The commands that a node remembers, so that an ack for them frees memory.
_REMEMBERED: Final = frozenset((protocol.PUT, protocol.REMOVE, protocol.WIPEOUT))


class Versioned(NamedTuple):
    """What GET returns: the value, and the version that was stored with it."""

    value: bytes
    version: int


class Client:
    """A client of the store, for one thread or greenlet at a time.

        with Client(["10.0.0.1:3331", "10.0.0.2:3331"]) as kv:
            kv.put(b"key", b"value", version=3)
            value, version = kv.get(b"key")
            found = kv.get_many([b"key", b"other"])

    `servers`: "host:port" each ("[::1]:3331" for IPv6); any node answers for the whole store. A client starts with one
    of them at random, goes on to the next when it does not answer, and stays with the one that did.
    `slot_aware`: learn from the nodes which of them is the primary of which keys, and send requests straight there:
    saves the node's detour. Where the nodes' own addresses can't be reached, requests go to `servers` as without it.
    `timeouts_ms`: how long each try is waited for; as many tries as there are entries.
    `overload_patience_s`: how long a request bears being refused with SYS_OVERLOAD_ERR before it raises Overloaded.
    `ack`: tell the node when a PUT, REMOVE or WIPEOUT has been answered, so that it need not remember the answer for
    the whole 6 s. One datagram more for each, worth it for a client that writes a great deal.
    `give_up_when_refused`: raise Unreachable as soon as the machine of every server says that nothing listens there, or
    this one that there is no way there.
    False: try on until a Timeout, as a program may want that is to outlive the restart of its only node. While any
    server does not refuse, both try on.
    `window`: requests in flight at most, in the calls for many keys.
    `rng`: the source of the first choice and of the jitter.

    Raises BadServer when a server is malformed, or when the name of none resolves; one of several that does not is
    looked up again later, as is one whose server has failed. Calls raise what app.client.errors lists. After a fork
    parent and child can both use the client.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        slot_aware: bool = True,
        timeouts_ms: Sequence[int] = protocol.CLIENT_TIMEOUTS_MS,
        overload_patience_s: float = OVERLOAD_PATIENCE_S,
        ack: bool = False,
        give_up_when_refused: bool = True,
        window: int = WINDOW,
        rng: random.Random | None = None,
    ) -> None:
        if isinstance(servers, str) or not servers:
            raise ValueError(f"servers is a list of at least one host:port, not {servers!r}")
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        self._own_rng = random.Random()
        rng = rng or self._own_rng
        self.servers: tuple[Endpoint, ...] = _resolved(servers)
        self.stats = Stats()
        self._ack = ack
        start = rng.choice([index for index, server in enumerate(self.servers) if server.address])
        self._router = Router(self.servers, slot_aware=slot_aware, current=start)
        self._engine = Engine(
            self._router,
            self.stats,
            timeouts_ms=tuple(timeouts_ms),
            patience_s=overload_patience_s,
            give_up_when_refused=give_up_when_refused,
            window=window,
            rng=rng,
            now=clock.now,
        )
        self._status = _report(protocol.STATUS, protocol.PADDING_BYTES)
        self._in_call = False

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back. Whatever uses a closed client gets Closed, but closing twice does no harm."""
        self._engine.sockets.close()

    # The store. Any node will do; retries go round the list.

    def put(self, key: bytes, value: bytes, version: int = 0) -> None:
        """Store `value` (0 to 10,000 bytes) and `version` (32 bits, signed) under `key` (1 to 32 bytes).

        InvalidKey, InvalidValue, NoSpace; Timeout when the outcome is unknown.
        """
        self._checked(_put(key, value, version))

    def get(self, key: bytes) -> Versioned:
        """The value and version stored under `key`; KeyNotFound when it is not there."""
        return _versioned(key, self._checked(_get(key)))

    def remove(self, key: bytes) -> None:
        """Take `key` out of the store; KeyNotFound when it is not there."""
        self._checked(_remove(key))

    # Many keys: as many single requests, up to a window of them in flight, in no order. A key that fails does not stop
    # the others; PartialFailure tells of all that failed and has the result for the rest. When nobody has answered
    # anything for a whole schedule of tries, what is left is not tried. A call of this kind is no transaction.

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Versioned]:
        """What is stored under each of the keys; those that are not there are left out."""
        found: dict[bytes, Versioned] = {}

        def take(key: bytes, response: KVResponse) -> None:
            found[key] = _versioned(key, response)

        self._many("get_many", ((key, _get(key)) for key in keys), take, found)
        return found

    def put_many(self, items: Mapping[bytes, bytes | Versioned] | Iterable[tuple[bytes, bytes | Versioned]]) -> None:
        """Store each value under its key: a mapping, or pairs. A value alone has version 0.

        What get_many returned can be put back. Of pairs with the same key the last one stays.
        """
        pairs = items.items() if isinstance(items, Mapping) else items
        requests = ((key, _put(key, *(value if isinstance(value, tuple) else (value, 0)))) for key, value in pairs)
        self._many("put_many", requests, lambda key, response: None, None)

    def remove_many(self, keys: Iterable[bytes]) -> set[bytes]:
        """Take the keys out of the store; returned are those that were there."""
        removed: set[bytes] = set()
        requests = ((key, _remove(key)) for key in keys)
        self._many("remove_many", requests, lambda key, response: removed.add(key), removed)
        return removed

    # The nodes. These ask about, or change, the one node that answers; `server` names it, as it stands in
    # the list.

    def ping(self, server: str | None = None) -> None:
        """Ask IS_ALIVE; Timeout, with the reason in its text, when nobody answers."""
        self._checked(KVRequest(command=protocol.IS_ALIVE), server)

    def is_alive(self, server: str | None = None) -> bool:
        """True when the node answers, false when it does not, after all tries, or its name does not resolve."""
        try:
            self.ping(server)
        except (Timeout, BadServer):
            return False
        return True

    def get_pid(self, server: str | None = None) -> int:
        """The node's process id."""
        response = self._checked(KVRequest(command=protocol.GET_PID), server)
        if response.pid is None:
            raise BadAnswer("get_pid: NO_ERR without pid")
        return response.pid

    def membership_count(self, server: str | None = None) -> int:
        """How many live members the node sees, itself included."""
        response = self._checked(KVRequest(command=protocol.GET_MEMBERSHIP_CNT), server)
        if response.membershipCount is None:
            raise BadAnswer("membership_count: NO_ERR without membershipCount")
        return response.membershipCount

    def status(self, server: str | None = None) -> dict[str, Any]:
        """What the node knows of its cluster; the fields are its own. UnknownCommand: it is another kind of node."""
        return self._told(protocol.STATUS, server)

    def found(self, server: str | None = None) -> dict[str, Any]:
        """Have a node found a cluster of those servers that it hears, fewer than one needs: whether it did (`founded`),
        why not (`why_not`), and the `members`. What the other servers hold is given up; see docs/operations.md."""
        return self._told(protocol.FOUND, server, protocol.PADDING_MAX_BYTES)

    def vitals(self, server: str | None = None) -> dict[str, Any]:
        """The node's process and what it has counted, in numbers. UnknownCommand: as for status."""
        return self._told(protocol.VITALS, server)

    def config(self, changes: Mapping[str, str] | None = None, server: str | None = None) -> dict[str, Any]:
        """Change settings of the node (`log_level`, `slow_ms`, as its options are written), and tell all that can be
        changed; `why_not` says why nothing was done. For administrators only. UnknownCommand: as for status."""
        import json  # as in table.py

        return self._told(protocol.CONFIG, server, protocol.PADDING_MAX_BYTES, json.dumps(dict(changes or {})).encode())

    def slow_requests(self, server: str | None = None) -> dict[str, Any]:
        """The node's slow requests, newest first, as rows of `columns` in `entries`. UnknownCommand: as for status."""
        return self._told(protocol.SLOWLOG, server)

    def _told(
        self, command: int, server: str | None, padding: int = protocol.PADDING_BYTES, said: bytes = b""
    ) -> dict[str, Any]:
        """What a node tells of itself in a JSON object. `said`: what is to be filled up."""
        try:
            response = self._checked(_report(command, padding, said), server)
        except InvalidValue:
            if padding == protocol.PADDING_MAX_BYTES:
                raise
            response = self._checked(_report(command, protocol.PADDING_MAX_BYTES), server)
        return read_object(response.value or b"", protocol.COMMAND_NAMES[command].lower())

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

    # Requests, whatever they are.

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
        exchange = self._exchange(request, message_id, server, wait_out_overload)
        if exchange.error is not None:
            raise exchange.error
        assert exchange.answer is not None
        return exchange.answer

    def _checked(self, request: KVRequest, server: str | None = None) -> KVResponse:
        """The response when it says NO_ERR, else the exception for its code."""
        return _sound(request, self._exchange(request, server=server))

    def _exchange(
        self,
        request: KVRequest,
        message_id: bytes | None = None,
        server: str | None = None,
        wait_out_overload: bool = True,
    ) -> Exchange:
        """Send a request and wait until it is done."""
        self._enter()
        try:
            exchange = self._start(request, message_id, server)
            exchange.waits_out_overload = wait_out_overload
            try:
                while not exchange.is_done:
                    self._engine.turn()
            finally:
                self._engine.drop(exchange)
            self._acknowledge(request, exchange)
        finally:
            self._in_call = False
        return exchange

    def _many(
        self,
        what: str,
        requests: Iterable[tuple[bytes, KVRequest]],
        take: Callable[[bytes, KVResponse], object],
        result: object,
    ) -> None:
        """Requests for keys, a window of them in flight; `take` gets each key with its response if that says NO_ERR."""
        engine = self._engine
        in_flight: dict[bytes, Exchange] = {}
        errors: dict[bytes, KVError] = {}
        is_hopeless = False

        def finish(key: bytes, request: KVRequest, exchange: Exchange) -> None:
            nonlocal is_hopeless
            del in_flight[key]
            self._acknowledge(request, exchange)
            try:
                take(key, _sound(request, exchange))
            except KeyNotFound:
                pass
            except KVError as error:
                errors[key] = error
                is_hopeless = isinstance(error, Timeout) and engine.heard_at < exchange.started_at

        self._enter()
        try:
            for key, request in requests:
                while key in in_flight or len(in_flight) >= engine.window:
                    engine.turn()
                if key in errors:
                    continue  # what became of the key's last request is not known: the next could overtake it
                if is_hopeless:
                    errors[key] = NotTried("not tried: nobody answers")
                    continue
                try:
                    exchange = in_flight[key] = self._start(request)
                except (InvalidValue, WrongCluster) as error:
                    errors[key] = error
                else:
                    exchange.done = partial(finish, key, request)
            while in_flight:
                engine.turn()
        finally:
            for exchange in in_flight.values():
                engine.drop(exchange)
            self._in_call = False
        if errors:
            raise PartialFailure(what, errors, result)

    def _check_open(self) -> None:
        if self._engine.sockets.is_closed:
            raise Closed

    def _enter(self) -> None:
        self._check_open()
        if self._engine.sockets.is_inherited:
            self._forked()
        if self._in_call:
            raise RuntimeError("this Client is in the middle of a call: make one for each thread or greenlet")
        self._in_call = True
        self._engine.sockets.trouble = ""
        self._engine.collect()

    def _forked(self) -> None:
        """The first call in a forked child: what the client knows is the child's, too, the rest its parent's."""
        self._engine.forked()
        self._router.forked()
        self._in_call = False
        self._own_rng.seed()

    def _start(self, request: KVRequest, message_id: bytes | None = None, server: str | None = None) -> Exchange:
        """Send a request to the server that is named, else to its slot's primary, else to the current one."""
        if message_id is None:
            message_id = os.urandom(MESSAGE_ID_BYTES)
        datagram = codec.encode_request(message_id, request)
        if len(datagram) > protocol.DATAGRAM_MAX_BYTES:
            # A node drops it unanswered: all that sending it could bring is a Timeout.
            raise InvalidValue(
                protocol.INVALID_VAL_ERR, f"request of {len(datagram)} bytes, over what a datagram takes"
            )
        router, engine = self._router, self._engine
        if server is not None:
            return engine.start(message_id, datagram, self._named(server), only=True)
        if router.disputed:
            self._look_again()
        key = request.key
        primary = router.primary(protocol.slot_of(key)) if key else NOWHERE
        if primary == NOWHERE:
            exchange = engine.start(message_id, datagram, router.current)
            exchange.by_current = True
        else:
            self.stats.direct += 1
            exchange = engine.start(message_id, datagram, primary)
        if key and clock.now() >= router.wake_at:
            self._ask_for_tables()
        return exchange

    def _ask_for_tables(self) -> None:
        self._engine.collect()
        for index in self._router.targets(clock.now()):
            message_id = os.urandom(MESSAGE_ID_BYTES)
            datagram = codec.encode_request(message_id, self._status)
            self._engine.probe(message_id, datagram, index, PROBE_TIMEOUT_S).done = self._learn

    def _look_again(self) -> None:
        """The given servers are of different clusters. WrongCluster unless they say something else by now."""
        if clock.now() >= self._router.wake_at:
            self._ask_for_tables()
        self._engine.poll()
        if self._router.disputed:
            raise WrongCluster(self._router.dispute())

    def _learn(self, probe: Exchange) -> None:
        if probe.answer is None:
            return
        if probe.answer.code == protocol.INVALID_VAL_ERR:  # it has more to tell than fits; it is asked again anyway
            self._status = _report(protocol.STATUS, protocol.PADDING_MAX_BYTES)
        elif probe.answer.code == protocol.NO_ERR:
            self._router.learn(probe.answered_by, read_status(probe.answer.value or b""), clock.now())

    def _acknowledge(self, request: KVRequest, exchange: Exchange) -> None:
        """Tell the node that answered that its memory of the request may go, if this client does that.

        Only after a single try: were another one still under way, forgetting would let it take effect again.
        """
        if not self._ack or exchange.answer is None or exchange.attempts.tries != 1:
            return
        if request.command in _REMEMBERED and exchange.answer.code != protocol.SYS_OVERLOAD_ERR:
            index = exchange.answered_by
            self._engine.sockets.send(index, self._router.servers[index], codec.encode_ack(exchange.message_id))
            self.stats.acks += 1

    def _named(self, name: str) -> int:
        """The number of a server that the caller names. BadServer when it has no address yet, and does not get one."""
        for index, server in enumerate(self.servers):
            if server.name == name:
                if not self._router.servers[index].address:
                    self._router.place(index, resolve(name))
                return index
        raise ValueError(f"{name!r} is not among this client's servers")


def _resolved(servers: Sequence[str]) -> tuple[Endpoint, ...]:
    """Where the servers are. BadServer when one is malformed, or none resolves."""
    found = [unresolved(text) for text in servers]
    fault: BadServer | None = None
    for index, server in enumerate(found):
        try:
            found[index] = resolve(server.name)
        except BadServer as error:
            fault = fault or error
    if fault is not None and not any(server.address for server in found):
        raise fault
    return tuple(found)


def _put(key: bytes, value: bytes, version: int) -> KVRequest:
    return KVRequest(command=protocol.PUT, key=key, value=value, version=version)


def _get(key: bytes) -> KVRequest:
    return KVRequest(command=protocol.GET, key=key)


def _remove(key: bytes) -> KVRequest:
    return KVRequest(command=protocol.REMOVE, key=key)


def _report(command: int, padding: int, said: bytes = b"") -> KVRequest:
    """One for what a node tells of itself, filled up, since to a stranger it tells little more than it is sent."""
    return KVRequest(command=command, value=said.ljust(padding, b"\0"))


def _versioned(key: bytes, response: KVResponse) -> Versioned:
    if response.value is None or response.version is None:
        raise BadAnswer(f"get of {key!r}: NO_ERR without value and version")
    return Versioned(response.value, response.version)


def _sound(request: KVRequest, exchange: Exchange) -> KVResponse:
    """The response when it says NO_ERR, else the exception for what came of the request."""
    if exchange.error is not None:
        raise exchange.error
    response = exchange.answer
    assert response is not None, "neither answered nor given up"
    if response.code == protocol.NO_ERR:
        return response
    what = protocol.COMMAND_NAMES.get(request.command or 0, "").lower()
    if request.key is not None:
        what = f"{what} of {request.key!r}"
    error = error_answer(response.code, what)
    if isinstance(error, Overloaded):
        error.may_have_happened = exchange.attempts.unanswered
    raise error
