"""The front: gevent's DatagramServer, draining its socket by the batch into recycled greenlets.

One readiness event receives one batch, handles each datagram in a greenlet and sends the replies together; then
the loop turns, so that timers, links and other greenlets have their share however hard the flood.

Every request runs in a greenlet that it may block, but a greenlet is not made, nor even switched to, for each:
a worker goes on to the next datagram of the batch when its request is answered without waiting, and only when a
request blocks does another worker take over the rest of the batch. The blocked one, once done, sends its own
reply and joins the idle ones. (A new greenlet costs 9 to 12 µs on CPython 3.11, a switch 0.3.)

The number of blocked requests is bounded; beyond it, requests are refused with SYS_OVERLOAD_ERR.

In a cluster a request must not be executed long after it arrived (origin.py), and a datagram does not say when it did.
But each came after the socket was last seen empty. After a full batch, which leaves that open, the kernel is asked when
the last one in it came: what is still in the socket is younger.
"""

import os
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from fcntl import ioctl
from functools import partial
from math import inf
from struct import Struct
from typing import Any, Final

from gevent.hub import get_hub
from gevent.server import DatagramServer
from greenlet import getcurrent, greenlet

from app.front.batch import DatagramBatch
from app.observe import logs
from app.observe.counters import IN_TURN, WAITED, Counters
from app.observe.slowlog import SlowLog
from app.requests.commands import Commands, Shutdown
from app.requests.request import Origin

# Datagrams per loop turn: 64 small requests are about 1 ms. More make no measurable difference to the rate and let
# other greenlets wait longer; 1 costs a quarter of it.
BATCH_SIZE: Final = 64
# After a batch the socket is asked again before the loop turns: at low load the next request is often there within
# microseconds, while going to sleep and being woken costs 20 to 60 µs. It is asked so often at most (1 to 1.5 µs each);
# if in vain, only once a turn for so many turns: a node that shares its core with others, or is idle, does not spin.
POLLS: Final = 100
POLL_PAUSE_TURNS: Final = 100

# How long a client is asked to wait when too many requests are blocked: about one loop turn at full rate each.
IN_FLIGHT_WAIT_MS: Final = 20

_SIOCGSTAMP: Final = 0x8906  # when the datagram last received came: a struct timeval of the wall clock
_TIMEVAL: Final = Struct("@ll")

EXIT_INVARIANT: Final = 70  # an invariant is broken (sysexits: internal software error)

_Handle = Callable[[bytearray, int, int], bytes | None]

_log = logs.logger("front")
_faults = logs.limited_logger("front")


def _always() -> bool:
    return True


class Front(DatagramServer):
    """Serves one bound UDP socket."""

    max_accept = 1  # one call of do_read a loop turn; the batch is inside it

    def __init__(
        self,
        sock: socket.socket,
        commands: Commands,
        counters: Counters,
        *,
        max_in_flight: int,
        patience_s: float = inf,
        clock: Callable[[], float] = time.monotonic,
        on_exit: Callable[[int], Any] = os._exit,
    ) -> None:
        """`patience_s`: a request is not executed so long after it arrived. `on_exit(status)` must end the process:
        after SHUTDOWN nothing more may be answered."""
        super().__init__(sock, handle=self._never)
        self.batch = DatagramBatch(sock, BATCH_SIZE)
        self._commands = commands
        self._counters = counters
        self._max_in_flight = max_in_flight
        self._on_exit = on_exit
        self._hub = get_hub()
        self._sock = sock
        self._patience_s = patience_s
        self._clock = clock
        self._empty_s = self._quiet_s = clock()  # what is in the socket came after the former
        self._is_backlogged = False
        self._stamp()  # from now on the kernel notes when datagrams come
        # Whether this node may serve its slots; asked before a batch is handled and again before replies are sent.
        self.open_turn: Callable[[], bool] = _always
        self.may_serve: Callable[[], bool] = _always
        # In a cluster replies leave at the end of the turn, which this is told to expect, together with those that came
        # over links: one system call instead of several.
        self.wake: Callable[[], object] | None = None
        # Who may send requests, by address (DatagramBatch.host); None: everybody.
        self.allowed: Mapping[bytes, bool] | None = None
        self._idle: list[greenlet] = []
        # The sender to answer, the datagram, and when it was received.
        self._blocked: dict[greenlet, tuple[bytes, bytes, float]] = {}
        self.slow_log = SlowLog()
        self._local_latency = counters.latency[IN_TURN]
        self._received_s = 0.0  # when the batch in hand was
        self._next = 0  # datagram of the batch in hand to be handled next
        self._count = 0  # datagrams in the batch in hand
        # What another node says about membership, and the address it came from.
        self.on_cluster: Callable[[bytes, bytes], object] = lambda payload, address: None
        commands.on_cluster = lambda payload: self.on_cluster(payload, self.sender_in_hand())
        self._turns_without_polls = 0

    def _never(self, *arguments: object) -> None:
        """What gevent would call for each datagram that `do_read` returned; it returns none."""
        raise AssertionError(f"not to be called: {arguments}")

    @property
    def in_flight(self) -> int:
        """Requests that are being waited for."""
        return len(self._blocked)

    def sender_in_hand(self) -> bytes:
        """The address that the datagram being handled came from."""
        return self.batch.sender(self._next - 1)

    def client_in_hand(self) -> Origin:
        """Who has sent the datagram being handled."""
        sender = self.batch.sender(self._next - 1)
        return Origin(sender, "", 0, self._empty_s + self._patience_s, self._received_s)

    def datagram_in_hand(self) -> bytes:
        """A copy of the datagram being handled."""
        start, end = self.batch.span(self._next - 1)
        return bytes(self.batch.buffer[start:end])

    def note_quiet(self) -> None:
        """To be called from a timer several times a second: an idle socket was empty the last time, too."""
        if not self._is_backlogged:
            self._empty_s = max(self._empty_s, self._quiet_s)
        self._quiet_s = self._clock()

    def _stamp(self) -> float:
        """When the datagram last received came, by our clock; long ago if that is not known."""
        try:
            seconds, microseconds = _TIMEVAL.unpack(ioctl(self._sock.fileno(), _SIOCGSTAMP, bytes(_TIMEVAL.size)))
        except OSError:
            return -inf
        age_s: float = time.time() - seconds - microseconds / 1e6
        return self._clock() - max(0.0, age_s)

    def do_read(self) -> None:  # type: ignore[override]
        """Receive, handle and answer datagrams until none is there or it is time for the loop to turn.

        (What gevent would spawn a greenlet for is done here.)
        """
        batch = self.batch
        self._count = handled = batch.receive()
        while self._count:
            self._handle_batch()
            if handled >= BATCH_SIZE or self.wake is not None:
                break
            self._count = self._ask_again()
            handled += self._count
        self._counters.send_errors = batch.send_errors

    def _ask_again(self) -> int:
        """Ask the socket again before the loop turns: how many datagrams were received."""
        receive = self.batch.receive
        if self._turns_without_polls:
            self._turns_without_polls -= 1
            return receive()
        for _ in range(POLLS):
            count = receive()
            if count:
                return count
        self._turns_without_polls = POLL_PAUSE_TURNS
        return 0

    def _handle_batch(self) -> None:
        """Handle the batch just received and send its replies."""
        batch = self.batch
        self._next = 0
        laid_out = batch.laid_out
        serving = self.open_turn()
        now_s = self._received_s = self._clock()
        if now_s - self._empty_s >= self._patience_s:
            self._counters.drops["too_old"] += self._count
            self._next = self._count
        while self._next < self._count:
            worker = self._idle.pop() if self._idle else greenlet(self._work, self._hub)
            worker.switch()
            if not self._idle or self._idle[-1] is not worker:  # it blocks in the request that it took last
                start, end = batch.span(self._next - 1)
                self._blocked[worker] = self.sender_in_hand(), bytes(batch.buffer[start:end]), now_s
        if serving and not self.may_serve():  # stopped or stalled since: others may serve our slots by now
            self._counters.unfenced += batch.discard()
        answered = max(0, batch.laid_out - laid_out)
        if self.wake is None:
            batch.flush()
        else:
            self.wake()
        # All of them leave now, so this is what each of them took: one measurement for the whole batch, 0.3 µs (twice
        # that through Histogram.add).
        duration_s = self._clock() - now_s
        latency = self._local_latency
        latency.counts[bisect_left(latency.edges_s, duration_s)] += answered
        latency.total_s += duration_s * answered
        if answered and duration_s >= self.slow_log.threshold_s:
            self._note_slow_batch(duration_s)
        self._is_backlogged = self._count == BATCH_SIZE
        self._empty_s = max(self._empty_s, self._stamp() if self._is_backlogged else now_s)

    def _note_slow_batch(self, duration_s: float) -> None:
        """The batch in hand took longer than a request should."""
        batch = self.batch
        spans = [batch.span(number) for number in range(self._count)]
        requests = [
            (bytes(batch.buffer[start:end]), batch.sender(n))
            for n, (start, end) in enumerate(spans)
            if self.allowed is None or self.allowed[batch.host(n)]
        ]
        self.slow_log.note_batch(requests, self._commands.is_local, duration_s, unix_s=time.time())

    def _work(self) -> None:
        """A worker: handles datagrams of the batch in hand until there is none left or one of them blocks."""
        me = getcurrent()
        batch = self.batch
        buffer = batch.buffer
        park = self._hub.switch
        while True:
            handle = self._commands.handle if len(self._blocked) < self._max_in_flight else self._refuse
            if self.allowed is not None:
                handle = partial(self._guard, self.allowed, handle)
            while (number := self._next) < self._count:
                self._next = number + 1
                start, end = batch.span(number)
                try:
                    reply = handle(buffer, start, end)
                except Shutdown as shutdown:
                    self._answer(me, number, shutdown.reply)
                    batch.flush()
                    self._on_exit(0)
                    return
                except AssertionError as error:  # an invariant is broken: what the node holds can't be trusted
                    _log.exception("invariant_broken", error)
                    self._on_exit(EXIT_INVARIANT)
                    return
                except Exception as error:  # noqa: BLE001 - the boundary: one request fails, the node goes on
                    _faults.exception("request_failed", error)
                    blocked = self._blocked.get(me)  # then other datagrams have come into the buffer since
                    reply = self._commands.fail(bytes(buffer[start:end]) if blocked is None else blocked[1])
                if self._blocked and me in self._blocked:
                    self._answer(me, number, reply)
                    batch.flush()
                    break
                if reply is not None:
                    batch.reply(number, reply)
            self._idle.append(me)
            park()

    def _answer(self, me: greenlet, number: int, reply: bytes | None) -> None:
        """Lay out the reply to a request that may have blocked, and so outlived its batch."""
        blocked = self._blocked.pop(me, None)
        if reply is None:
            return
        if blocked is None:
            self.batch.reply(number, reply)
        else:
            client, datagram, received_s = blocked
            self.batch.send(client, reply)
            duration_s = self._clock() - received_s
            self._counters.latency[WAITED].add(duration_s)
            if duration_s >= self.slow_log.threshold_s:
                self.slow_log.note(datagram, client, duration_s, WAITED, unix_s=time.time())

    def _guard(
        self, allowed: Mapping[bytes, bool], handle: _Handle, buffer: bytearray, start: int, end: int
    ) -> bytes | None:
        """`handle`, unless the sender may send no requests."""
        if allowed[self.batch.host(self._next - 1)]:
            return handle(buffer, start, end)
        self._commands.shut_out(bytes(buffer[start:end]))
        return None

    def _refuse(self, buffer: bytearray, start: int, end: int) -> bytes | None:
        return self._commands.refuse(bytes(buffer[start:end]), IN_FLIGHT_WAIT_MS)
