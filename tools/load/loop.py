"""The load generator behind tools/flood.py: very many requests in flight from one thread.

Requests are not threads, nor do they have a socket each: a few sockets carry them all (tools/load/lanes.py), answers
find their request by its id, and one select waits for everything. That leaves a Python process fast enough to load a
node on another core.

Closed loop: so many clients, each of which sends its next request when the last one is answered. A node that stalls
then stops the clients too, and what they would have sent meanwhile is never counted: the latencies look better than
any user's. Open loop (a rate): requests are due at fixed times, whatever becomes of those before, and a latency counts
from when its request was due (G. Tene, "How NOT to Measure Latency": coordinated omission). Between two of them the
generator sleeps: 200 requests a second cost 2 to 4 % of a core.

The answers are checked against what each key may give (tools/load/values.py). That only the key's own process knows, so
each process has keys that it alone writes.

Deadlines: nearly all requests are answered at the first try, and all first tries have the same timeout, so
these deadlines are a queue in which the next one is always in front; only what is tried again costs an
Attempts and a heap.
"""

import gc
import heapq
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from app.client.retry import TIMEOUT_S, Attempts
from app.wire.protocol import (
    ERROR_NAMES,
    GET,
    INVALID_KEY_ERR,
    INVALID_VAL_ERR,
    IS_ALIVE,
    KEY_DNE_ERR,
    NO_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
    SYS_OVERLOAD_ERR,
)
from tools.load.clock import exact_timers
from tools.load.faults import NO_FAULTS, FaultyPath
from tools.load.keys import keys_of
from tools.load.lanes import Lanes, NobodyThere
from tools.load.memcached import MemcachedTarget
from tools.load.plan import INSERT, Plan
from tools.load.sizes import sizes_of
from tools.load.tally import BAD_VALUES_SHOWN, Tally, rounded_us
from tools.load.targets import KvTarget, NotAnAnswer, Response, Target
from tools.load.values import RIGHT, STALE, WRONG, LegalVersions, value_of

TARGETS: Final[dict[str, Callable[[], Target]]] = {"kv": KvTarget, "memcached": MemcachedTarget}

# Requests sent in a row that are due.
SEND_MAX: Final = 64

# Operations are drawn in advance, this many, and gone round.
DRAWN_OPERATIONS: Final = 1 << 14

# How often progress is told (s), and how many times until its percentile is worked out anew (0.3 ms).
PROGRESS_S: Final = 0.25
TOLD_A_PERCENTILE: Final = 4

# Requests in flight while the keys are put before the run, or removed after it.
LOAD_CLIENTS: Final = 64

# Answers after which a write has certainly not happened.
_NOTHING_DONE: Final = (NO_SPC_ERR, INVALID_KEY_ERR, INVALID_VAL_ERR)

_NEVER: Final = float("inf")


class Progress(NamedTuple):
    phase: str  # "load", "warm-up", "run", "clean"
    elapsed_s: float  # of the run's time
    finished: int  # in this phase
    errors: int
    p99_us: int


class _Request:
    """A place for one request in flight; used again and again."""

    __slots__ = (
        "attempts",
        "datagram",
        "index",
        "key",
        "lane",
        "message_id",
        "operation",
        "sent",
        "server",
        "started",
        "tally",
        "version",
    )

    def __init__(self, server: int, lane: int, tally: Tally) -> None:
        self.server = server
        self.lane = lane
        self.operation = 0
        self.index = 0
        self.key = b""
        self.version = 0  # of a write; of a read: its floor
        self.message_id = b""
        self.datagram = b""
        self.sent = 0.0  # the first try
        self.started = 0.0  # the same, or in an open loop when it was due: what its latency counts from
        self.attempts: Attempts | None = None  # only once something went wrong
        self.tally = tally


class Flood:
    """One process's run: `greet()`, `load()` if the plan says so, `run()`, `clean()` if it says so; everything else is
    in their course."""

    def __init__(self, plan: Plan) -> None:
        """BadServer for a server that does not resolve, OSError when sockets are refused."""
        assert plan.clients > 0, f"{plan.clients} clients"
        assert sum(plan.mix.values()) > 0, f"a mix of nothing: {plan.mix}"
        self.plan = plan
        self.tally = Tally()
        self._before = Tally()  # load and warm-up
        for tally in (self.tally, self._before):
            tally.latencies_us = {operation: {} for operation in (*plan.mix, PUT, REMOVE)}
        self._current = self._before
        self._target = target = TARGETS[plan.target]()
        # What every request needs, within reach.
        self._message_id, self._request, self._answer = target.message_id, target.request, target.answer
        self._prefix, self._stride, self._number = plan.key_prefix, plan.processes, plan.number
        self._first_timeout_s = plan.timeouts_ms[0] / 1000
        self._rng = rng = random.Random(plan.seed)
        self._patience_s = max(TIMEOUT_S, sum(plan.timeouts_ms) / 1000)  # for a request and all its tries
        self._legal = LegalVersions(plan.keys, read_life_s=self._patience_s + 1)
        self._keys = keys_of(plan.law, plan.keys, rng, loaded=plan.load)
        self._size = sizes_of(plan.value_size, rng)
        self._operations = rng.choices(tuple(plan.mix), weights=tuple(plan.mix.values()), k=DRAWN_OPERATIONS)
        self._next_operation = 0
        self._faulty = FaultyPath(plan.faults, rng) if plan.faults != NO_FAULTS else None
        self._ids = 0
        self._waiting: dict[bytes, _Request] = {}  # by message id
        self._first_deadlines: deque[tuple[float, bytes]] = deque()
        self._deadlines: list[tuple[float, bytes]] = []  # heap of what is tried again
        self._phase = "load"
        self._in_order: Iterator[int] = iter(())  # keys to load, or to remove
        self._left = 0  # operations that may still be sent
        self._spacing_s = 1 / plan.rate if plan.rate else 0.0
        self._due = _NEVER  # when the open loop's next request is
        self._measured_from = self._end = self._boundary = _NEVER
        self._slice = 0  # the number of the slice under way
        self._processor_s = self._waited_s = 0.0
        self._lanes = Lanes(plan.servers, plan.clients, self._faulty)
        servers, lanes = len(plan.servers), self._lanes.lanes_a_server
        self._idle = deque(_Request(number % servers, number % lanes, self._before) for number in range(plan.clients))

    def close(self) -> None:
        self._lanes.close()

    def greet(self) -> None:
        """Find out whether there is anybody; NobodyThere if not."""
        self._lanes.greet(self._target, self._next_id)

    def silent(self) -> list[str]:
        """The servers that answer nothing now."""
        return self._lanes.silent(self._target, self._next_id)

    def _next_id(self) -> bytes:
        self._ids += 1
        return self._message_id(self._ids)

    # The course of a run.

    def load(self, progress: Callable[[Progress], object] | None = None) -> None:
        """Put every key once. KeyboardInterrupt passes through."""
        self._phase = "load"
        self._in_order = iter(range(self.plan.keys))
        self._left = self.plan.keys
        self._loop(progress)

    def clean(self, progress: Callable[[Progress], object] | None = None) -> None:
        """Remove what is left in the store, once `run` has returned: what came of that does not change any more. Ends
        early by Ctrl-C, and where nobody answers."""
        left = self._legal.perhaps_there()
        self._phase, self._current = "clean", self._before
        self._measured_from = self._end = self._boundary = self._due = _NEVER
        self._in_order, self._left = iter(left), len(left)
        with suppress(NobodyThere, KeyboardInterrupt):
            self.greet()
            self._loop(progress)

    @property
    def keys_left(self) -> int:
        """How many keys of this run may be in the store."""
        return len(self._legal.perhaps_there())

    def run(self, progress: Callable[[Progress], object] | None = None, begin: float | None = None) -> Tally:
        """Send, receive and check until the time is over; what came of it. `begin`: when (monotonic), if not now.

        Ctrl-C ends the run early. `progress` is called a few times a second, for as long as it lasts.
        """
        # A collection over the keys' versions and the queues would show up as a latency of the node's.
        gc.collect()
        plan, now = self.plan, time.monotonic()
        begin = now if begin is None else begin
        time.sleep(max(begin - now, 0.0))
        self._measured_from = begin + plan.warmup_s
        self._end = self._measured_from + plan.seconds
        self._boundary = self._measured_from
        self._phase = "warm-up"
        self._left = sys.maxsize
        # The processes of one run take turns.
        self._due = begin + self._spacing_s * (plan.number / plan.processes) if plan.rate else _NEVER
        gc.disable()
        try:
            with exact_timers():
                self._loop(progress)
        except KeyboardInterrupt:
            self.tally.interrupted = True
        finally:
            gc.enable()
        return self._finished()

    def _finished(self) -> Tally:
        tally, now = self.tally, time.monotonic()
        if now >= self._measured_from:
            tally.elapsed_s = min(now - self._measured_from, self.plan.seconds)
            if not tally.processor_s:  # ended before its time
                self._stop_clocks()
            if tally.elapsed_s > self._slice * self.plan.slice_s:
                tally.cut(self._slice * self.plan.slice_s, tally.elapsed_s)
        tally.take_bad_values(self._before)
        tally.refused = self._lanes.refused
        if self._lanes.not_sent:
            tally.ignored["not_sent"] = self._lanes.not_sent
        if self._faulty is not None:
            tally.faults = dict(self._faulty.counts)
        return tally

    def _loop(self, progress: Callable[[Progress], object] | None) -> None:
        """Until nothing more is to be sent and nothing is waited for."""
        next_told, told, p99_us = 0.0, 0, 0
        while True:
            now = time.monotonic()
            if now >= self._boundary:
                self._cross(now)
            if self._due != _NEVER:
                self._send_due(now)
            elif self._idle and self._left:
                self._fill()
            if not self._waiting and (not self._left or now >= self._end):
                return
            if progress is not None and now >= next_told:
                next_told = now + PROGRESS_S
                if told % TOLD_A_PERCENTILE == 0:
                    p99_us = self._current.p99_us()
                told += 1
                elapsed_s = min(max(now - self._measured_from, 0.0), self.plan.seconds)
                finished, errors = self._current.finished_in_time, self._current.errors
                progress(Progress(self._phase, elapsed_s, finished, errors, p99_us))
            self._expire(now)
            pause_s, before = self._pause_s(now), time.monotonic()
            ready = self._lanes.wait(pause_s)
            self._waited_s += time.monotonic() - before
            for lane in ready:
                for datagram in self._lanes.receive(lane):
                    self._arrived(datagram)

    def _pause_s(self, now: float) -> float:
        """How long to wait for answers: until something else is to be done."""
        due = min(now + PROGRESS_S, self._boundary)
        if self._first_deadlines:
            due = min(due, self._first_deadlines[0][0])
        if self._deadlines:
            due = min(due, self._deadlines[0][0])
        if self._idle and self._left:
            due = min(due, self._due)
        if self._faulty is not None:
            due = min(due, self._lanes.next_due)
        return max(due - now, 0.0)

    def _cross(self, now: float) -> None:
        """A boundary in time is reached: the warm-up's end, a slice's, the run's."""
        slice_s = self.plan.slice_s
        if self._phase == "warm-up":
            self._phase = "run"
            self._current = self.tally
            self._lanes.refused = self._lanes.not_sent = 0
            self._left = self.plan.operations
            self._processor_s, self._waited_s = time.process_time(), 0.0
        else:
            begin_s = self._slice * slice_s
            if now >= self._end:
                self._left_over()
                self.tally.cut(begin_s, self.plan.seconds)
                self._stop_clocks()
                self._slice = sys.maxsize
                self._boundary = _NEVER
                return
            self._slice = max(int((now - self._measured_from) / slice_s), self._slice + 1)
            self.tally.cut(begin_s, self._slice * slice_s)
        self._boundary = min(self._measured_from + (self._slice + 1) * slice_s, self._end)

    def _stop_clocks(self) -> None:
        self.tally.processor_s = time.process_time() - self._processor_s
        self.tally.waited_s = self._waited_s

    def _left_over(self) -> None:
        """The end: what was due a moment ago is still sent, what there is no place for is counted."""
        if self._due < self._end:
            while self._idle and self._left and self._due < self._end:
                self._start_due(time.monotonic())
            self.tally.unsent = min(max(0, -int((self._due - self._end) // self._spacing_s)), self._left)
        self._due = _NEVER
        self._left = 0

    def _fill(self) -> None:
        """Closed loop: send for every client that has nothing in flight."""
        most = LOAD_CLIENTS if self._phase in ("load", "clean") else sys.maxsize
        while self._idle and self._left and len(self._waiting) < most:
            self._start(self._idle.popleft(), None)

    # Sending.

    def _send_due(self, now: float) -> None:
        """Open loop: send what is due."""
        for _ in range(SEND_MAX):
            if self._due > now or not self._idle or not self._left or self._due >= self._end:
                return
            self._start_due(now)

    def _start_due(self, now: float) -> None:
        due = self._due
        if due >= self._measured_from:
            late, late_us = self.tally.late_us, rounded_us(int((now - due) * 1e6))
            late[late_us] = late.get(late_us, 0) + 1
        self._start(self._idle.popleft(), due)
        self._due = due + self._spacing_s

    def _start(self, request: _Request, due: float | None) -> None:
        """Send the next request in this place; open loop: the one that was `due` then."""
        self._left -= 1
        operation, index = self._drawn()
        request.operation, request.index = operation, index
        request.attempts = None
        legal = self._legal
        self._ids += 1
        message_id = self._message_id(self._ids)
        key, value = b"%b%09d" % (self._prefix, index * self._stride + self._number), b""
        if operation == GET:
            version = legal.floor(index)
        elif operation in (PUT, INSERT):
            version = legal.begin(index)
            value = value_of(key, version, self._size())
            self._keys.written(index)
            operation = PUT
        else:
            version = legal.begin_removal(index) if operation == REMOVE else 0
        request.version, request.key, request.message_id = version, key, message_id
        request.datagram = self._request(message_id, operation, key, value, version)
        self._waiting[message_id] = request
        request.sent = sent = time.monotonic()
        request.started = sent if due is None else due
        request.tally = self._current if request.started >= self._measured_from else self._before
        self._first_deadlines.append((sent + self._first_timeout_s, message_id))
        self._lanes.send(request.server, request.lane, request.datagram)

    def _drawn(self) -> tuple[int, int]:
        """The next operation, and the index of its key."""
        if self._phase == "load":
            return PUT, next(self._in_order)
        if self._phase == "clean":
            return REMOVE, next(self._in_order)
        operation = self._operations[self._next_operation]
        self._next_operation = (self._next_operation + 1) % DRAWN_OPERATIONS
        if operation == PUT:
            return operation, self._keys.update()
        if operation == INSERT:
            return operation, self._legal.add_key()
        return operation, self._keys.read() if operation != IS_ALIVE else 0

    def _expire(self, now: float) -> None:
        """Try again, or give up, what is overdue."""
        first = self._first_deadlines
        while first and first[0][0] <= now:
            _, message_id = first.popleft()
            request = self._waiting.get(message_id)
            if request is not None and request.attempts is None:
                request.attempts = self._attempts(request)
                self._again(request, now)
        while self._deadlines and self._deadlines[0][0] <= now:
            due, message_id = heapq.heappop(self._deadlines)
            request = self._waiting.get(message_id)
            # An overload wait has moved `due`, if they differ, and is in the heap itself.
            if request is not None and request.attempts is not None and request.attempts.due == due:
                self._again(request, now)
        if self._faulty is not None:
            for datagram in self._lanes.delayed(now):
                self._arrived(datagram)

    def _attempts(self, request: _Request) -> Attempts:
        return Attempts(request.sent, self.plan.timeouts_ms, request.sent + self._patience_s, self._rng)

    def _again(self, request: _Request, now: float) -> None:
        attempts = request.attempts
        assert attempts is not None
        if not attempts.again(now):
            request.tally.timeouts += 1
            del self._waiting[request.message_id]
            self._rest(request)
            return
        request.tally.retries += 1
        request.server = (request.server + 1) % len(self.plan.servers)
        if not self._target.at_most_once:
            self._rename(request)
        heapq.heappush(self._deadlines, (attempts.due, request.message_id))
        self._lanes.send(request.server, request.lane, request.datagram)

    def _rename(self, request: _Request) -> None:
        """Give a retry an id of its own (tools/load/memcached.py)."""
        del self._waiting[request.message_id]
        request.message_id = message_id = self._next_id()
        request.datagram = message_id + request.datagram[len(message_id) :]
        self._waiting[message_id] = request

    def _rest(self, request: _Request) -> None:
        """The request is over; closed loop: the next one."""
        if self._due == _NEVER and self._left and time.monotonic() < self._end:
            self._start(request, None)
        else:
            self._idle.append(request)

    # Receiving.

    def _arrived(self, datagram: bytes) -> None:
        try:
            answer = self._answer(datagram)
        except NotAnAnswer as fault:
            self._current.ignore(fault.reason)
            return
        if answer is None:
            return
        request = self._waiting.get(answer.message_id)
        if request is None:
            self._current.ignore("late_or_doubled")
        else:
            self._answered(request, answer, time.monotonic())

    def _answered(self, request: _Request, answer: Response, now: float) -> None:
        tally, code, operation = request.tally, answer.code, request.operation
        if code == SYS_OVERLOAD_ERR:
            tally.overloads += 1
            if request.attempts is None:
                request.attempts = self._attempts(request)
            if request.attempts.overloaded(now, answer.wait_ms):
                heapq.heappush(self._deadlines, (request.attempts.due, request.message_id))
                return
        del self._waiting[request.message_id]
        latencies = tally.latencies_us[operation]
        latency_us = rounded_us(int((now - request.started) * 1e6))
        latencies[latency_us] = latencies.get(latency_us, 0) + 1
        tally.codes[code] = tally.codes.get(code, 0) + 1
        if code not in (NO_ERR, KEY_DNE_ERR):
            tally.failed += 1
        if operation == GET:
            self._check_read(request, answer)
        elif operation != IS_ALIVE:
            self._check_write(request, code, now)
        if now < self._end:
            tally.finished_in_time += 1
        self._rest(request)

    def _check_write(self, request: _Request, code: int, now: float) -> None:
        """Note what became of it; what has no clear answer stays open."""
        legal, index = self._legal, request.index
        if code == NO_ERR or (request.operation == REMOVE and code == KEY_DNE_ERR):
            if self._target.at_most_once or (request.attempts is None and self._faulty is None):
                legal.done(index, request.version, now)
            else:
                legal.done_perhaps_again(index, request.version)
            if request.operation == INSERT:
                self._keys.inserted(index)
        elif code in _NOTHING_DONE and (self._target.at_most_once or request.attempts is None):
            legal.refused(index, request.version)

    def _check_read(self, request: _Request, answer: Response) -> None:
        tally, legal = request.tally, self._legal
        if answer.code == KEY_DNE_ERR:
            if legal.expects(request.index, request.version):
                tally.missing += 1
            else:
                tally.absent += 1
        elif answer.code == NO_ERR:
            value, version = answer.value, answer.version
            if value is None or version is None:
                verdict = WRONG
            else:
                verdict = legal.judge(request.index, request.key, value, version, request.version)
            if verdict == RIGHT:
                tally.found += 1
                return
            if verdict == STALE:
                tally.stale += 1
            else:
                tally.wrong += 1
            if len(tally.samples) < BAD_VALUES_SHOWN:
                shown = "no value" if value is None else f"{len(value)} bytes {value[:12].hex()}..."
                tally.samples.append(
                    f"{verdict}: {request.key.decode(errors='replace')} gave version {version}, {shown}; "
                    f"acknowledged when asked: {request.version or 'nothing'}, now: {legal.describe(request.index)}"
                )


def code_name(code: int) -> str:
    return ERROR_NAMES.get(code, f"code {code}")
