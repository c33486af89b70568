"""The public client for asyncio: the calls of Client, to be awaited, on the same Session.

All calls share one Session, since they run in one thread. It never waits here: the event loop watches the one
descriptor that stands for all its sockets, and has a timer for the try that is due next. A call is a future, which is
given what came of its request. A task for each call or for the client was rejected: there would be more to end.

Calls beyond the window wait for their turn, first come, first served; sent all at once, their answers would overflow
the socket's buffer. A call for many keys is another matter: it takes what room is left, but has always one request
in flight.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from app.client import calls, clock
from app.client.address import Endpoint, resolve
from app.client.batch import Batch
from app.client.calls import REQUIRED, Call, Versioned
from app.client.codec import KVRequest, KVResponse
from app.client.engine import Exchange
from app.client.errors import BadServer, Closed, InvalidValue, KeyNotFound, NotTried, PartialFailure, Timeout
from app.client.session import Options, Session, taking
from app.client.stats import Stats
from app.wire import protocol

_Default = TypeVar("_Default")
_Result = TypeVar("_Result")


class AsyncClient:
    """A client of the store for asyncio, for any number of tasks of one event loop.

        async with AsyncClient(["10.0.0.1:3331", "10.0.0.2:3331"]) as kv:
            await kv.put(b"key", b"value", version=3)
            value, version = await kv.get(b"key")
            values = await asyncio.gather(*(kv.get(key) for key in keys))

    The calls, arguments, results and exceptions are those of Client, but for these:

    `window`: requests in flight at most, of all calls. A call that finds no room waits for it, at most `timeout_s`:
    then it raises NotTried, a Timeout after which nothing was sent.

    It belongs to the event loop of its first call; calls from another one raise RuntimeError. A call that is cancelled
    is not waited for any longer; what was sent may still take effect. Making a client looks the servers' names up, and
    waits for that; no call does.
    """

    @taking(Options)
    def __init__(self, options: Options) -> None:
        self._options = options
        self._session = Session(self._options)
        self._waiters: deque[_Waiter[Any]] = deque()  # those that have no room yet, and some that were given up
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """As close(), for those who expect a coroutine."""
        self.close()

    def close(self) -> None:
        """Give the sockets back; calls under way raise Closed, as do those that come later. Twice does no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        engine = self._session.engine
        engine.abandon(Closed)
        for waiter in self._waiters:
            waiter.fail(Closed())
        self._waiters.clear()
        # A forked child must not end what its parent's loop watches.
        if self._loop is not None and not self._loop.is_closed() and not engine.sockets.is_inherited:
            self._loop.remove_reader(engine.sockets.fileno())
            if self._timer is not None:
                self._timer.cancel()
        engine.sockets.close()

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """Those that were given, and where they were when the client was made."""
        return self._options.servers

    @property
    def stats(self) -> Stats:
        """What has been counted so far."""
        return Stats.of((self._session.stats,))

    # The calls, each as in Client.

    async def put(self, key: bytes, value: bytes, version: int = 0, *, timeout_s: float | None = None) -> None:
        """Store `value` (0 to 10,000 bytes) and `version` (32 bits, signed) under `key` (1 to 32 bytes).

        InvalidKey, InvalidValue, NoSpace; Timeout when the outcome is unknown.
        """
        await self._do(calls.put(key, value, version), timeout_s=timeout_s)

    @overload
    async def get(self, key: bytes, *, timeout_s: float | None = None) -> Versioned: ...
    @overload
    async def get(self, key: bytes, default: _Default, *, timeout_s: float | None = None) -> Versioned | _Default: ...
    async def get(self, key: bytes, default: Any = REQUIRED, *, timeout_s: float | None = None) -> Any:
        """The value and version stored under `key`; if it is not there, the default, or without one KeyNotFound."""
        try:
            return await self._do(calls.get(key), timeout_s=timeout_s)
        except KeyNotFound:
            if default is REQUIRED:
                raise
            return default

    async def remove(self, key: bytes, *, timeout_s: float | None = None) -> None:
        """Take `key` out of the store; KeyNotFound when it is not there."""
        await self._do(calls.remove(key), timeout_s=timeout_s)

    async def get_many(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> dict[bytes, Versioned]:
        """What is stored under each of the keys; those that are not there are left out. PartialFailure."""
        found: dict[bytes, Versioned] = {}
        await self._many("get_many", ((key, calls.get(key)) for key in keys), found.__setitem__, found, timeout_s)
        return found

    async def put_many(
        self,
        items: Mapping[bytes, bytes | Versioned] | Iterable[tuple[bytes, bytes | Versioned]],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Store each value under its key: a mapping, or pairs. A value alone has version 0. PartialFailure.

        What get_many returned can be put back. Of pairs with the same key the last one stays.
        """
        await self._many("put_many", calls.puts(items), lambda key, result: None, None, timeout_s)

    async def remove_many(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> set[bytes]:
        """Take the keys out of the store; returned are those that were there. PartialFailure."""
        removed: set[bytes] = set()
        requests = ((key, calls.remove(key)) for key in keys)
        await self._many("remove_many", requests, lambda key, result: removed.add(key), removed, timeout_s)
        return removed

    async def ping(self, server: str | None = None) -> None:
        """Ask IS_ALIVE; Timeout, with the reason in its text, when nobody answers."""
        await self._do(calls.bare(protocol.IS_ALIVE), server)

    async def is_alive(self, server: str | None = None) -> bool:
        """True when the node answers, false when it does not, after all tries, or its name does not resolve."""
        try:
            await self.ping(server)
        except (Timeout, BadServer):
            return False
        return True

    async def get_pid(self, server: str | None = None) -> int:
        """The node's process id."""
        return await self._do(calls.get_pid(), server)

    async def membership_count(self, server: str | None = None) -> int:
        """How many live members the node sees, itself included."""
        return await self._do(calls.membership_count(), server)

    async def status(self, server: str | None = None) -> dict[str, Any]:
        """What the node knows of its cluster; the fields are its own. UnknownCommand: it is another kind of node."""
        return await self._told(protocol.STATUS, server)

    async def found(self, server: str | None = None) -> dict[str, Any]:
        """Have a node found a cluster of those servers that it hears, fewer than one needs: whether it did (`founded`),
        why not (`why_not`), and the `members`. What the other servers hold is given up; see docs/operations.md."""
        return await self._do(calls.report(protocol.FOUND, protocol.PADDING_MAX_BYTES), server)

    async def vitals(self, server: str | None = None) -> dict[str, Any]:
        """The node's process and what it has counted, in numbers. UnknownCommand: as for status."""
        return await self._told(protocol.VITALS, server)

    async def config(self, changes: Mapping[str, str] | None = None, server: str | None = None) -> dict[str, Any]:
        """Change settings of the node (`log_level`, `slow_ms`, as its options are written), and tell all that can be
        changed; `why_not` says why nothing was done. For administrators only. UnknownCommand: as for status."""
        return await self._do(calls.config(changes or {}), server)

    async def change_servers(self, changes: Mapping[str, Any], server: str | None = None) -> dict[str, Any]:
        """Have a server belong to the cluster, `{"add": "host:port"}`, or no more, `{"remove": "host:port"}` (with
        `"force": True` at once, whatever is lost by that); for administrators only. Only the coordinator takes that;
        the answer names it. `done`: it is so; else `why_not`, which is empty while it is being done. Without changes it
        is only told which `servers` belong. UnknownCommand: as for status."""
        return await self._do(calls.change_servers(changes), server)

    async def slow_requests(self, server: str | None = None) -> dict[str, Any]:
        """The node's slow requests, newest first, as rows of `columns` in `entries`. UnknownCommand: as for status."""
        return await self._told(protocol.SLOWLOG, server)

    async def _told(self, command: int, server: str | None) -> dict[str, Any]:
        try:
            return await self._do(calls.report(command, protocol.PADDING_BYTES), server)
        except InvalidValue:  # it has more to tell
            return await self._do(calls.report(command, protocol.PADDING_MAX_BYTES), server)

    async def wipeout(self, server: str | None = None) -> None:
        """Drop every key of the slots that the node is primary for: in a cluster, ask each node in turn.

        `server` may be left out only when the list has one: a retry must not wipe another node.
        """
        await self._do(calls.bare(protocol.WIPEOUT), server or self._options.only_server())

    async def shutdown(self, server: str | None = None) -> None:
        """Make the node answer and then exit at once, as in a crash. `server` as in wipeout().

        A Timeout may mean that the node is gone and only its answer was lost: is_alive() tells.
        """
        await self._do(calls.bare(protocol.SHUTDOWN), server or self._options.only_server())

    async def call(
        self,
        request: KVRequest,
        *,
        message_id: bytes | None = None,
        server: str | None = None,
        wait_out_overload: bool = True,
        timeout_s: float | None = None,
    ) -> KVResponse:
        """Send any request, wait for its response, and return that as it is, whatever its errCode.

        The arguments are those of Client.call. An earlier call's `message_id` may come again once that call has ended.
        """
        read = partial(self._session.answered, request)
        return await self._exchange(request, read, server, timeout_s, message_id, wait_out_overload)

    async def _do(self, call: Call[_Result], server: str | None = None, *, timeout_s: float | None = None) -> _Result:
        """The result of a call of one request."""
        return await self._exchange(call.request, partial(self._session.finished, call), server, timeout_s)

    async def _exchange(
        self,
        request: KVRequest,
        read: Callable[[Exchange], _Result],
        server: str | None,
        timeout_s: float | None,
        message_id: bytes | None = None,
        wait_out_overload: bool = True,
    ) -> _Result:
        """Send a request, wait until it is done, and `read` what came of it."""
        deadline = self._options.deadline(timeout_s)
        loop = self._begin()
        session = self._session
        index = None if server is None else session.number_of(server)
        if index is not None and not session.is_resolved(index):
            session.router.place(index, await asyncio.to_thread(resolve, self.servers[index].name))
            self._check_open()

        def start() -> Exchange:
            exchange = session.start(request, deadline, message_id, index)
            exchange.waits_out_overload = wait_out_overload
            return exchange

        waiter = _Waiter(loop, start, read)
        self._waiters.append(waiter)
        self._go_on()
        if waiter.is_queued:
            waiter.timer = loop.call_later(deadline - clock.now(), waiter.expire)
        try:
            return await waiter.future
        finally:
            if waiter.give_up(session):
                self._go_on()

    async def _many(
        self,
        what: str,
        requests: Iterator[tuple[bytes, Call[_Result]]],
        take: Callable[[bytes, _Result], object],
        result: object,
        timeout_s: float | None,
    ) -> None:
        deadline = self._options.deadline(timeout_s)
        self._begin()
        batch = Batch(self._session, requests, take, deadline)
        progress = asyncio.Event()
        batch.on_progress = progress.set
        try:
            while batch.go_on():
                self._go_on()
                await progress.wait()
                progress.clear()
                self._check_open()
        finally:
            batch.drop()
            self._go_on()
        if batch.errors:
            raise PartialFailure(what, batch.errors, result)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Closed

    def _begin(self) -> asyncio.AbstractEventLoop:
        """A call begins; the first one binds the client to its loop."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError("this AsyncClient belongs to another event loop: each needs one of its own")
        self._session.begin()
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._session.engine.sockets.fileno(), self._turn)
        return loop

    # What the loop calls.

    def _turn(self) -> None:
        """Something has come, or a try is due."""
        self._session.engine.poll()
        self._go_on()

    def _timed(self) -> None:
        self._timer_due = inf
        self._turn()

    def _go_on(self) -> None:
        """Start what there is room for, and have the loop call when the next try is due.

        To be called after all that may start or end a request.
        """
        if self._is_closed:
            return
        engine = self._session.engine
        while self._waiters and (not self._waiters[0].is_queued or not engine.is_full):
            self._waiters.popleft().begin()
        due = -inf if engine.sockets.is_cut_off else engine.next_due()
        if due < self._timer_due:  # else it comes early, and finds out then
            if self._timer is not None:
                self._timer.cancel()
            assert self._loop is not None, "no call has begun"
            self._timer_due = due
            self._timer = self._loop.call_later(max(due - clock.now(), 0.0), self._timed)


class _Waiter(Generic[_Result]):
    """A call of one request, before and after there is room for that.

    `future`: the call's result. `timer`: ends the wait for room when the call's time is over.
    """

    __slots__ = ("_exchange", "_read", "_start", "future", "timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, start: Callable[[], Exchange], read: Callable[[Exchange], _Result]
    ) -> None:
        self._start = start
        self._read = read
        self._exchange: Exchange | None = None
        self.future: asyncio.Future[_Result] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_queued(self) -> bool:
        """Its request has neither been sent nor given up."""
        return self._exchange is None and not self.future.done()

    def begin(self) -> None:
        """Send the request, if it is still wanted."""
        if not self.is_queued:
            return
        try:
            self._exchange = self._start()
        except Exception as error:  # noqa: BLE001  # the caller gets it, whatever it is
            self.future.set_exception(error)
        else:
            self._exchange.done = self._finish

    def expire(self) -> None:
        if self.is_queued:
            self.fail(NotTried("not tried: the time for the call is over"))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def give_up(self, session: Session) -> bool:
        """The call ends. Whether its request was in flight till now."""
        if self.timer is not None:
            self.timer.cancel()
        if self._exchange is None or self._exchange.is_done:
            return False
        session.engine.drop(self._exchange)
        return True

    def _finish(self, exchange: Exchange) -> None:
        if self.future.done():  # cancelled, and about to be given up
            return
        try:
            self.future.set_result(self._read(exchange))
        except Exception as error:  # noqa: BLE001  # as above
            self.future.set_exception(error)
