"""The load generator behind tools/flood.py: a closed loop of many logical clients in one thread.

Each client has one request out at a time and sends the next as soon as it is answered. Clients are not
threads, nor do they have a socket each: a few connected sockets a server carry them all, answers find their
client by messageID, and one selector waits for everything. That leaves a Python process fast enough to load
a node on another core.

Every client writes keys of its own only, so that it knows what a read of them must give (tools/values.py).

Deadlines: nearly all requests are answered at the first try, and all first tries have the same timeout, so
these deadlines are a queue in which the next one is always in front; only what is tried again costs an
Attempts and a heap.
"""

import gc
import heapq
import os
import random
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.client.address import Server, resolve
from app.client.codec import NotAnAnswer, decode_response, encode_request
from app.client.retry import Attempts
from app.wire.protocol import (
    CLIENT_TIMEOUTS_MS,
    ERROR_NAMES,
    GET,
    IS_ALIVE,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SYS_OVERLOAD_ERR,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tools.values import RIGHT, STALE, WRONG, Ledger, value_of

# Sockets for each server. Each costs a wake-up of its own, while one that is shared finds many answers at
# once. The processor's time for an operation (23 to 26 µs) was the same at 1, 4 and 16 within what could be
# measured.
LANES_A_SERVER: Final = 4

# Receive buffer asked for (bytes): the answers to thousands of clients while this process is busy elsewhere.
RECEIVE_BUFFER_BYTES: Final = 4 << 20

# Answers taken from one socket before the next one's turn and the deadlines'.
DRAIN_MAX: Final = 64

# Operations are drawn in advance, this many; each client goes round them from a place of its own.
DRAWN_OPERATIONS: Final = 1 << 14

# The longest sleep (s), so that progress is shown while nothing is answered.
TICK_S: Final = 0.1

# How many wrong values are described in full.
SAMPLES_MAX: Final = 5

OPERATION_NAMES: Final = {PUT: "put", GET: "get", REMOVE: "remove", IS_ALIVE: "alive"}
OPERATIONS: Final = {name: operation for operation, name in OPERATION_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, for `seconds` or until so many `operations` are sent, whichever comes first.

    `mix`: weight of each operation. `keys` is rounded to the same number for each client.
    """

    servers: tuple[str, ...]
    clients: int = 16
    seconds: float = 5.0
    operations: int = sys.maxsize
    value_size: int = 64
    mix: dict[int, int] = field(default_factory=lambda: {PUT: 50, GET: 50})
    keys: int = 10_000
    key_prefix: bytes = b""
    timeouts_ms: Sequence[int] = CLIENT_TIMEOUTS_MS
    seed: int | None = None

    @property
    def keys_a_client(self) -> int:
        return max(1, self.keys // self.clients)


@dataclass(slots=True)
class Tally:
    """What came of it. Latencies: from the first try to the answer, all retries and waits included."""

    latencies_us: dict[int, dict[int, int]] = field(default_factory=dict)  # by operation: how many of each µs
    finished_in_time: int = 0  # answered before the time was over: what the rate is made of
    elapsed_s: float = 0.0
    codes: dict[int, int] = field(default_factory=dict)  # final answers by errCode
    found: int = 0  # GETs that gave the right value
    missing: int = 0  # GETs of a key that was put and not removed: evicted, which is legal, or lost
    absent: int = 0  # GETs that rightly found nothing
    wrong: int = 0
    stale: int = 0
    timeouts: int = 0
    retries: int = 0
    overloads: int = 0
    refused: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def answered(self) -> int:
        return sum(self.codes.values())

    @property
    def succeeded(self) -> int:
        """Operations that did what they are for; a GET that rightly finds nothing is one of them."""
        return self.codes.get(NO_ERR, 0) + self.codes.get(KEY_DNE_ERR, 0) - self.wrong - self.stale

    @property
    def bad_values(self) -> int:
        return self.wrong + self.stale

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


class _Client:
    """One logical client: its share of the keys, and the request that it has out."""

    __slots__ = (
        "attempts",
        "datagram",
        "first_key",
        "index",
        "key",
        "message_id",
        "next_operation",
        "operation",
        "server",
        "socket_index",
        "started",
        "version",
        "versions",
        "written",
    )

    def __init__(self, number: int, first_key: int, server: int, socket_index: int) -> None:
        self.first_key = first_key
        self.server = server
        self.socket_index = socket_index
        self.next_operation = number * 997 % DRAWN_OPERATIONS
        self.versions = 0  # the last version put
        self.written: list[int] = []  # keys put so far, by index
        self.operation = 0
        self.index = 0
        self.key = b""
        self.version = 0
        self.message_id = b""
        self.datagram = b""
        self.started = 0.0
        self.attempts: Attempts | None = None  # only once something went wrong


class Flood:
    """One run. `run()` returns the tally; everything else is in its course."""

    def __init__(self, plan: Plan) -> None:
        """BadServer for a server that does not resolve, OSError when sockets are refused."""
        assert plan.clients > 0, f"{plan.clients} clients"
        assert sum(plan.mix.values()) > 0, f"a mix of nothing: {plan.mix}"
        self.plan = plan
        self.tally = Tally(latencies_us={operation: {} for operation in plan.mix})
        self._rng = random.Random(plan.seed)
        self._ledger = Ledger(plan.keys_a_client * plan.clients)
        self._written = bytearray(plan.keys_a_client * plan.clients)
        self._operations = self._rng.choices(tuple(plan.mix), weights=tuple(plan.mix.values()), k=DRAWN_OPERATIONS)
        # A random half makes the messageIDs of this run its own, a counter makes each of them unique.
        self._id_head = os.urandom(8)
        self._ids = 0
        self._waiting: dict[bytes, _Client] = {}  # by messageID
        self._first_deadlines: deque[tuple[float, bytes]] = deque()
        self._deadlines: list[tuple[float, bytes]] = []  # heap of what is tried again
        self._end = 0.0
        self._selector = selectors.DefaultSelector()
        self._servers = [resolve(server) for server in plan.servers]
        lanes = min(LANES_A_SERVER, plan.clients)
        self._lanes = [[self._open(server) for _ in range(lanes)] for server in self._servers]
        self._clients = [
            _Client(number, number * plan.keys_a_client, number % len(self._servers), number % lanes)
            for number in range(plan.clients)
        ]

    def _open(self, server: Server) -> socket.socket:
        lane = socket.socket(server.family, socket.SOCK_DGRAM)
        lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        lane.setblocking(False)
        lane.connect(server.address)
        self._selector.register(lane, selectors.EVENT_READ)
        return lane

    def close(self) -> None:
        self._selector.close()
        for lanes in self._lanes:
            for lane in lanes:
                lane.close()

    def run(self, progress: Callable[[float, Tally], None] = lambda elapsed_s, tally: None) -> Tally:
        """Run for the plan's time, then until the last answer or timeout; stops early on KeyboardInterrupt.

        `progress` is called about ten times a second, with the seconds gone and the tally so far.
        """
        begin = time.monotonic()
        self._end = begin + self.plan.seconds
        # A collection over the ledger and the queues would show up as a latency of the node's.
        gc.collect()
        gc.disable()
        try:
            for client in self._clients[: self.plan.operations]:
                self._start(client)
            next_tick = begin
            while self._waiting:
                now = time.monotonic()
                if now >= next_tick:
                    progress(min(now - begin, self.plan.seconds), self.tally)
                    next_tick = now + TICK_S
                self._expire(now)
                for ready, _ in self._selector.select(self._pause_s(now)):
                    self._drain(ready.fileobj)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            self.tally.interrupted = True
        finally:
            gc.enable()
        self.tally.elapsed_s = min(time.monotonic() - begin, self.plan.seconds)
        return self.tally

    def _pause_s(self, now: float) -> float:
        """How long to wait for answers: until the next deadline or tick."""
        due = now + TICK_S
        if self._first_deadlines:
            due = min(due, self._first_deadlines[0][0])
        if self._deadlines:
            due = min(due, self._deadlines[0][0])
        return max(due - now, 0.0)

    # Sending.

    def _start(self, client: _Client) -> None:
        """Send the client's next request."""
        operation = self._operations[client.next_operation]
        client.next_operation = (client.next_operation + 1) % DRAWN_OPERATIONS
        client.operation = operation
        alive = operation == IS_ALIVE
        request = KVRequest(command=IS_ALIVE) if alive else self._request_for_key(client, operation)
        self._ids += 1
        message_id = self._id_head + self._ids.to_bytes(8, "little")
        client.message_id = message_id
        client.attempts = None
        client.datagram = encode_request(message_id, request)
        self._waiting[message_id] = client
        client.started = now = time.monotonic()
        self._first_deadlines.append((now + self.plan.timeouts_ms[0] / 1000, message_id))
        self._send(client)

    def _request_for_key(self, client: _Client, operation: int) -> KVRequest:
        """A PUT of any of the client's keys, or a GET or REMOVE of one that it has put (any, before the
        first).
        """
        written = client.written
        if operation == PUT or not written:
            index = client.first_key + int(self._rng.random() * self.plan.keys_a_client)
        else:
            index = written[int(self._rng.random() * len(written))]
        client.index = index
        client.key = key = b"%b%09d" % (self.plan.key_prefix, index)
        if operation != PUT:
            return KVRequest(command=operation, key=key)
        if not self._written[index]:
            self._written[index] = 1
            written.append(index)
        client.versions = client.version = version = client.versions + 1
        return KVRequest(command=PUT, key=key, value=value_of(key, version, self.plan.value_size), version=version)

    def _send(self, client: _Client) -> None:
        """One try. What the socket won't take counts as lost: the deadline brings the next one."""
        lane = self._lanes[client.server][client.socket_index]
        try:
            lane.send(client.datagram)
        except ConnectionRefusedError:
            # Says what became of an earlier datagram; this one has not been sent.
            self.tally.refused += 1
        except OSError:
            self.tally.ignore("not_sent")

    def _expire(self, now: float) -> None:
        """Try again, or give up, what is overdue."""
        first = self._first_deadlines
        while first and first[0][0] <= now:
            _, message_id = first.popleft()
            client = self._waiting.get(message_id)
            if client is not None and client.attempts is None:
                client.attempts = self._attempts(client)
                self._again(client, now)
        while self._deadlines and self._deadlines[0][0] <= now:
            due, message_id = heapq.heappop(self._deadlines)
            client = self._waiting.get(message_id)
            # An overload wait has moved `due`, if they differ, and is in the heap itself.
            if client is not None and client.attempts is not None and client.attempts.due == due:
                self._again(client, now)

    def _attempts(self, client: _Client) -> Attempts:
        return Attempts(client.started, self.plan.timeouts_ms, rng=self._rng)

    def _again(self, client: _Client, now: float) -> None:
        attempts = client.attempts
        assert attempts is not None
        if not attempts.again(now):
            self.tally.timeouts += 1
            self._give_up(client)
            return
        self.tally.retries += 1
        client.server = (client.server + 1) % len(self._servers)
        heapq.heappush(self._deadlines, (attempts.due, client.message_id))
        self._send(client)

    def _give_up(self, client: _Client) -> None:
        del self._waiting[client.message_id]
        if client.operation == PUT:
            self._ledger.doubtful(client.index, client.version)
        if time.monotonic() < self._end and self._ids < self.plan.operations:
            self._start(client)

    # Receiving.

    def _drain(self, lane: socket.socket) -> None:
        """Work off what one socket has received."""
        receive, waiting, tally = lane.recv, self._waiting, self.tally
        for _ in range(DRAIN_MAX):
            try:
                datagram = receive(65535)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                tally.refused += 1
                return
            try:
                message_id, response = decode_response(datagram)
            except NotAnAnswer as fault:
                tally.ignore(fault.reason)
                continue
            client = waiting.get(message_id)
            if client is None:
                tally.ignore("late_or_doubled")
            else:
                self._answered(client, response, time.monotonic())

    def _answered(self, client: _Client, response: KVResponse, now: float) -> None:
        tally, code, operation = self.tally, response.errCode, client.operation
        if code == SYS_OVERLOAD_ERR:
            tally.overloads += 1
            if client.attempts is None:
                client.attempts = self._attempts(client)
            if client.attempts.overloaded(now, response.overloadWaitTime):
                heapq.heappush(self._deadlines, (client.attempts.due, client.message_id))
                return
        del self._waiting[client.message_id]
        latencies = tally.latencies_us[operation]
        latency_us = int((now - client.started) * 1e6)
        latencies[latency_us] = latencies.get(latency_us, 0) + 1
        tally.codes[code] = tally.codes.get(code, 0) + 1
        if operation == GET:
            self._check_read(client, response)
        elif operation == PUT:
            if code == NO_ERR:
                self._ledger.stored(client.index, client.version)
            else:
                self._ledger.doubtful(client.index, client.version)
        elif operation == REMOVE and code in (NO_ERR, KEY_DNE_ERR):
            self._ledger.removed(client.index)
        if now < self._end:
            tally.finished_in_time += 1
            if self._ids < self.plan.operations:
                self._start(client)

    def _check_read(self, client: _Client, response: KVResponse) -> None:
        tally, ledger = self.tally, self._ledger
        if response.errCode == KEY_DNE_ERR:
            if ledger.expects(client.index):
                tally.missing += 1
            else:
                tally.absent += 1
        elif response.errCode == NO_ERR:
            value, version = response.value, response.version
            if response.HasField("value") and response.HasField("version"):
                verdict = ledger.judge(client.index, client.key, value, version)
            else:
                verdict = WRONG
            if verdict == RIGHT:
                tally.found += 1
                return
            if verdict == STALE:
                tally.stale += 1
            else:
                tally.wrong += 1
            if len(tally.samples) < SAMPLES_MAX:
                tally.samples.append(
                    f"{verdict}: {client.key.decode(errors='replace')} gave version {version}, {len(value)} "
                    f"bytes {value[:12].hex()}...; acknowledged: {ledger.describe(client.index)}"
                )


def code_name(code: int) -> str:
    return ERROR_NAMES.get(code, f"code {code}")
