"""The public client: one call for each command, and calls for many keys at once.

Calls may be made from any number of threads or greenlets. Each one under way has a Session of its own, with its
sockets; one that ends leaves it for the next call to take. So a client has as many sessions as it ever had calls at one
time, and no call waits for another. A lock around each call was rejected: with it, all wait for the slowest answer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from app.client import calls
from app.client.address import Endpoint, resolve
from app.client.batch import Batch
from app.client.calls import REQUIRED, Call, Versioned
from app.client.codec import KVRequest, KVResponse
from app.client.engine import Exchange
from app.client.errors import BadServer, Closed, InvalidValue, KeyNotFound, PartialFailure, Timeout
from app.client.session import Options, Session, taking
from app.client.stats import Stats
from app.wire import protocol

_Default = TypeVar("_Default")
_Result = TypeVar("_Result")


class Client:
    """A client of the store, for any number of threads or greenlets.

        with Client(["10.0.0.1:3331", "10.0.0.2:3331"]) as kv:
            kv.put(b"key", b"value", version=3)
            value, version = kv.get(b"key")
            found = kv.get_many([b"key", b"other"])

    `servers`: "host:port" each ("[::1]:3331" for IPv6); any node answers for the whole store. A client starts with one
    of them at random, goes on to the next when it does not answer, and stays with the one that did.
    `slot_aware`: learn from the nodes which of them is the primary of which keys, and send requests straight there:
    saves the node's detour. Where the nodes' own addresses can't be reached, requests go to `servers` as without it.
    `timeout_s`: how long a call takes at most, with all its tries, waits and keys; each call of the store takes one of
    its own in place of it. math.inf: no bound but that of the tries.
    `timeouts_ms`: how long each try is waited for; as many tries as there are entries. A request that nobody answers
    is given up after them, or when the call's time is over.
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

    @taking(Options)
    def __init__(self, options: Options) -> None:
        self._options = options
        self._sessions = [Session(self._options)]  # all there are
        self._idle = list(self._sessions)  # the one that was used last is taken first
        self._is_closed = False

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back. Whatever uses a closed client gets Closed, but closing twice does no harm."""
        self._is_closed = True
        for session in self._sessions:
            session.engine.sockets.close()

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """Those that were given, and where they were when the client was made."""
        return self._options.servers

    @property
    def stats(self) -> Stats:
        """What has been counted so far."""
        return Stats.of(session.stats for session in self._sessions)

    # The store. Any node will do; retries go round the list.

    def put(self, key: bytes, value: bytes, version: int = 0, *, timeout_s: float | None = None) -> None:
        """Store `value` (0 to 10,000 bytes) and `version` (32 bits, signed) under `key` (1 to 32 bytes).

        InvalidKey, InvalidValue, NoSpace; Timeout when the outcome is unknown.
        """
        self._do(calls.put(key, value, version), timeout_s=timeout_s)

    @overload
    def get(self, key: bytes, *, timeout_s: float | None = None) -> Versioned: ...
    @overload
    def get(self, key: bytes, default: _Default, *, timeout_s: float | None = None) -> Versioned | _Default: ...
    def get(self, key: bytes, default: Any = REQUIRED, *, timeout_s: float | None = None) -> Any:
        """The value and version stored under `key`; if it is not there, the default, or without one KeyNotFound."""
        try:
            return self._do(calls.get(key), timeout_s=timeout_s)
        except KeyNotFound:
            if default is REQUIRED:
                raise
            return default

    def remove(self, key: bytes, *, timeout_s: float | None = None) -> None:
        """Take `key` out of the store; KeyNotFound when it is not there."""
        self._do(calls.remove(key), timeout_s=timeout_s)

    # Many keys: as many single requests, up to a window of them in flight, in no order. A key that fails does not stop
    # the others; PartialFailure tells of all that failed and has the result for the rest. When nobody has answered
    # anything for a whole schedule of tries, or the call's time is over, what is left is not tried. A call of this kind
    # is no transaction.

    def get_many(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> dict[bytes, Versioned]:
        """What is stored under each of the keys; those that are not there are left out."""
        found: dict[bytes, Versioned] = {}
        self._many("get_many", ((key, calls.get(key)) for key in keys), found.__setitem__, found, timeout_s)
        return found

    def put_many(
        self,
        items: Mapping[bytes, bytes | Versioned] | Iterable[tuple[bytes, bytes | Versioned]],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Store each value under its key: a mapping, or pairs. A value alone has version 0.

        What get_many returned can be put back. Of pairs with the same key the last one stays.
        """
        self._many("put_many", calls.puts(items), lambda key, result: None, None, timeout_s)

    def remove_many(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> set[bytes]:
        """Take the keys out of the store; returned are those that were there."""
        removed: set[bytes] = set()
        requests = ((key, calls.remove(key)) for key in keys)
        self._many("remove_many", requests, lambda key, result: removed.add(key), removed, timeout_s)
        return removed

    # The nodes. These ask about, or change, the one node that answers; `server` names it, as it stands in
    # the list.

    def ping(self, server: str | None = None) -> None:
        """Ask IS_ALIVE; Timeout, with the reason in its text, when nobody answers."""
        self._do(calls.bare(protocol.IS_ALIVE), server)

    def is_alive(self, server: str | None = None) -> bool:
        """True when the node answers, false when it does not, after all tries, or its name does not resolve."""
        try:
            self.ping(server)
        except (Timeout, BadServer):
            return False
        return True

    def get_pid(self, server: str | None = None) -> int:
        """The node's process id."""
        return self._do(calls.get_pid(), server)

    def membership_count(self, server: str | None = None) -> int:
        """How many live members the node sees, itself included."""
        return self._do(calls.membership_count(), server)

    def status(self, server: str | None = None) -> dict[str, Any]:
        """What the node knows of its cluster; the fields are its own. UnknownCommand: it is another kind of node."""
        return self._told(protocol.STATUS, server)

    def found(self, server: str | None = None) -> dict[str, Any]:
        """Have a node found a cluster of those servers that it hears, fewer than one needs: whether it did (`founded`),
        why not (`why_not`), and the `members`. What the other servers hold is given up; see docs/operations.md."""
        return self._do(calls.report(protocol.FOUND, protocol.PADDING_MAX_BYTES), server)

    def vitals(self, server: str | None = None) -> dict[str, Any]:
        """The node's process and what it has counted, in numbers. UnknownCommand: as for status."""
        return self._told(protocol.VITALS, server)

    def config(self, changes: Mapping[str, str] | None = None, server: str | None = None) -> dict[str, Any]:
        """Change settings of the node (`log_level`, `slow_ms`, as its options are written), and tell all that can be
        changed; `why_not` says why nothing was done. For administrators only. UnknownCommand: as for status."""
        return self._do(calls.config(changes or {}), server)

    def change_servers(self, changes: Mapping[str, Any], server: str | None = None) -> dict[str, Any]:
        """Have a server belong to the cluster, `{"add": "host:port"}`, or no more, `{"remove": "host:port"}` (with
        `"force": True` at once, whatever is lost by that); for administrators only. Only the coordinator takes that;
        the answer names it. `done`: it is so; else `why_not`, which is empty while it is being done. Without changes it
        is only told which `servers` belong. UnknownCommand: as for status."""
        return self._do(calls.change_servers(changes), server)

    def slow_requests(self, server: str | None = None) -> dict[str, Any]:
        """The node's slow requests, newest first, as rows of `columns` in `entries`. UnknownCommand: as for status."""
        return self._told(protocol.SLOWLOG, server)

    def _told(self, command: int, server: str | None) -> dict[str, Any]:
        try:
            return self._do(calls.report(command, protocol.PADDING_BYTES), server)
        except InvalidValue:  # it has more to tell
            return self._do(calls.report(command, protocol.PADDING_MAX_BYTES), server)

    def wipeout(self, server: str | None = None) -> None:
        """Drop every key of the slots that the node is primary for: in a cluster, ask each node in turn.

        `server` may be left out only when the list has one: a retry must not wipe another node.
        """
        self._do(calls.bare(protocol.WIPEOUT), server or self._options.only_server())

    def shutdown(self, server: str | None = None) -> None:
        """Make the node answer and then exit at once, as in a crash. `server` as in wipeout().

        A Timeout may mean that the node is gone and only its answer was lost: is_alive() tells.
        """
        self._do(calls.bare(protocol.SHUTDOWN), server or self._options.only_server())

    # Requests, whatever they are.

    def call(
        self,
        request: KVRequest,
        *,
        message_id: bytes | None = None,
        server: str | None = None,
        wait_out_overload: bool = True,
        timeout_s: float | None = None,
    ) -> KVResponse:
        """Send any request, wait for its response, and return that as it is, whatever its errCode.

        `message_id`: 1 to 64 bytes that take the place of fresh random ones; an earlier call's make this a
        retry of it.
        `server`: ask this one only. `wait_out_overload` false: give SYS_OVERLOAD_ERR back at once; true:
        give it back when the time is over. Timeout when there is no answer, InvalidValue for a request too
        long for a datagram.
        """
        deadline = self._options.deadline(timeout_s)
        session = self._take()
        try:
            exchange = self._exchange(session, request, deadline, server, message_id, wait_out_overload)
            return session.answered(request, exchange)
        finally:
            self._give_back(session)

    def _do(self, call: Call[_Result], server: str | None = None, *, timeout_s: float | None = None) -> _Result:
        """The result of a call of one request."""
        deadline = self._options.deadline(timeout_s)
        session = self._take()
        try:
            return session.finished(call, self._exchange(session, call.request, deadline, server))
        finally:
            self._give_back(session)

    def _exchange(
        self,
        session: Session,
        request: KVRequest,
        deadline: float,
        server: str | None = None,
        message_id: bytes | None = None,
        wait_out_overload: bool = True,
    ) -> Exchange:
        """Send a request and wait until it is done."""
        index = None if server is None else session.number_of(server)
        if index is not None and not session.is_resolved(index):
            session.router.place(index, resolve(self.servers[index].name))
        exchange = session.start(request, deadline, message_id, index)
        exchange.waits_out_overload = wait_out_overload
        try:
            while not exchange.is_done:
                session.engine.turn()
        finally:
            session.engine.drop(exchange)
        return exchange

    def _many(
        self,
        what: str,
        requests: Iterator[tuple[bytes, Call[_Result]]],
        take: Callable[[bytes, _Result], object],
        result: object,
        timeout_s: float | None,
    ) -> None:
        deadline = self._options.deadline(timeout_s)
        session = self._take()
        batch = Batch(session, requests, take, deadline)
        try:
            while batch.go_on():
                session.engine.turn()
        finally:
            batch.drop()
            self._give_back(session)
        if batch.errors:
            raise PartialFailure(what, batch.errors, result)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Closed

    def _take(self) -> Session:
        """A session that nobody else uses until it is given back. A list's pop and append are one step to threads."""
        self._check_open()
        try:
            session = self._idle.pop()
        except IndexError:
            session = Session(self._options)
            self._sessions.append(session)
            if self._is_closed:  # meanwhile, by another thread
                session.engine.sockets.close()
        session.begin()
        return session

    def _give_back(self, session: Session) -> None:
        self._idle.append(session)
