"""Requests in flight: one or many, over one socket a server. Everything that a Client does goes through here.

A datagram can be lost, late, doubled or forged, so a request is a loop: send, wait for an answer that carries its
messageID and a right checksum, ignore everything else, send the same again when its Attempts says so. Each retry goes
to another server: every node answers for the whole store, and the messageID lets all of them see that it is the same
request. Requests do not wait for each other: each has its own schedule, and answers find theirs by messageID. A call of
one request is the case of one in flight.

How many are in flight is the caller's business, but `window` is how many are wise. A datagram that finds a full socket
buffer, here or at a node, is lost, and costs 150 ms; so the window is halved when a try is lost and grows by one for
each window of answers, as TCP does it.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from app.client import codec
from app.client.codec import KVResponse
from app.client.errors import KVError, Timeout, Unreachable
from app.client.retry import Attempts
from app.client.router import Router
from app.client.sockets import Sockets
from app.client.stats import Stats
from app.wire.protocol import SYS_OVERLOAD_ERR

# Answers taken from one socket before the deadlines' turn, when there may be more than one.
DRAIN_MAX: Final = 64

# The window never shrinks below this: at 150 ms a loss, fewer would not spare the nodes anything.
WINDOW_MIN: Final = 4


class Exchange:
    """One request under way, or done: then it has an `answer`, whatever its errCode, or an `error`."""

    __slots__ = (
        "answer",
        "answered_by",
        "asked",
        "attempts",
        "by_current",
        "complaints",
        "datagram",
        "done",
        "error",
        "is_impatient",
        "is_probe",
        "is_waiting",
        "message_id",
        "only",
        "refused",
        "sent_at",
        "started_at",
        "waits_out_overload",
    )

    def __init__(self, message_id: bytes, datagram: bytes, asked: int, attempts: Attempts, now: float) -> None:
        self.message_id = message_id
        self.datagram = datagram
        self.asked = asked  # the server that the last try went to
        self.attempts = attempts
        self.started_at = self.sent_at = now  # the first try, the last one
        self.only = False  # whether no other server may be asked
        self.complaints = 0  # of the sockets, before the first try
        self.by_current = False  # whether the router's current server was asked first
        self.is_impatient = False  # gives up as soon as every server is refused
        self.is_probe = False  # about the table, nobody's request
        self.is_waiting = False  # refused, until the next try
        self.waits_out_overload = True
        self.refused: set[int] = set()  # servers that can't be reached, as was said since the last try
        self.answer: KVResponse | None = None
        self.answered_by = asked
        self.error: KVError | None = None
        self.done: Callable[[Exchange], object] | None = None

    @property
    def is_done(self) -> bool:
        return self.answer is not None or self.error is not None


class Engine:
    """For one thread or greenlet at a time."""

    def __init__(
        self,
        router: Router,
        stats: Stats,
        *,
        timeouts_ms: Sequence[int],
        give_up_when_refused: bool,
        window: int,
        rng: random.Random,
        now: Callable[[], float],
    ) -> None:
        """`now`: see clock.py; the other arguments are those of Client."""
        self.sockets = Sockets(stats)
        self.window = float(window)
        self.heard_at = -inf  # when the last answer to a request came
        self._now = now
        self._router = router
        self._stats = stats
        self._timeouts_ms = timeouts_ms
        self._give_up_when_refused = give_up_when_refused
        self._window_max = window
        self._rng = rng
        self._in_flight: dict[bytes, Exchange] = {}
        self._dues: list[tuple[float, int, Exchange]] = []  # a heap; what is not an exchange's `due` any more is void
        self._busy = 0  # requests in flight, probes not counted
        self._count = 0  # keeps the heap from comparing exchanges
        self._heard: dict[int, float] = {}  # when each server's last answer came
        self._renewed_at: dict[int, float] = {}  # when each server was last given a new socket
        self._shrunk_at = -inf

    def forked(self) -> None:
        """This is another process from now on: what is in flight is its parent's, and so are the sockets."""
        self.sockets.close()
        self.sockets = Sockets(self._stats)
        self._in_flight.clear()
        self._busy = 0
        self._dues.clear()

    def collect(self) -> None:
        """Take what was looked up of the servers meanwhile."""
        for index in self._router.collect(self._now()):
            self.sockets.forget(index)

    @property
    def is_full(self) -> bool:
        """As many requests are in flight as are wise."""
        return self._busy >= self.window

    def start(self, message_id: bytes, datagram: bytes, asked: int, deadline: float, *, only: bool = False) -> Exchange:
        """Send a request to a server; `turn` does the rest. `only`: no other server may be asked."""
        assert message_id not in self._in_flight, f"{message_id!r} is in flight"
        now = self._now()
        attempts = Attempts(now, self._timeouts_ms, deadline, self._rng)
        exchange = Exchange(message_id, datagram, asked, attempts, now)
        exchange.only = only
        exchange.is_impatient = self._give_up_when_refused
        self._stats.requests += 1
        self._busy += 1
        self._begin(exchange)
        return exchange

    def probe(self, message_id: bytes, datagram: bytes, asked: int, wait_s: float) -> Exchange:
        """Send what nobody waits for: one try, to one server."""
        now = self._now()
        exchange = Exchange(message_id, datagram, asked, Attempts(now, (int(wait_s * 1000),)), now)
        exchange.only = exchange.is_impatient = exchange.is_probe = True
        self._stats.probes += 1
        self._begin(exchange)
        return exchange

    def drop(self, exchange: Exchange) -> None:
        """Wait no longer; does no harm to one that is done."""
        if self._in_flight.get(exchange.message_id) is exchange:
            self._end(exchange)

    def abandon(self, error: Callable[[], KVError]) -> None:
        """Give up all that is in flight, each request with an error of its own."""
        for exchange in list(self._in_flight.values()):
            self._fail(exchange, error())

    def turn(self) -> None:
        """Wait until something happens, and deal with it: answers, refusals, and tries that are due."""
        assert self._in_flight, "nothing to wait for"
        self._turn(max(self.next_due() - self._now(), 0.0))

    def poll(self) -> None:
        """Deal with what has happened."""
        self._turn(0.0)

    def _turn(self, wait_s: float) -> None:
        # With a single request in flight there is nothing to look for behind its answer.
        limit = DRAIN_MAX if len(self._in_flight) > 1 else 1
        for index, datagram in self.sockets.receive(wait_s, limit):
            if datagram is None:
                self._refused(index)
            else:
                self._received(index, datagram)
        now = self._now()
        while self.next_due() <= now:
            _, _, exchange = heapq.heappop(self._dues)
            self._due(exchange, now)

    # Clockwork.

    def _begin(self, exchange: Exchange) -> None:
        self._in_flight[exchange.message_id] = exchange
        exchange.complaints = self.sockets.complaints
        self._schedule(exchange)
        self._send(exchange)

    def _schedule(self, exchange: Exchange) -> None:
        self._count += 1
        heapq.heappush(self._dues, (exchange.attempts.due, self._count, exchange))

    def next_due(self) -> float:
        """When the first try is due; infinity when nothing is in flight."""
        dues = self._dues
        while dues:
            due, _, exchange = dues[0]
            # By identity: an earlier call's ID may be in flight again.
            if exchange.attempts.due == due and self._in_flight.get(exchange.message_id) is exchange:
                return due
            heapq.heappop(dues)
        return inf

    def _send(self, exchange: Exchange) -> None:
        if not exchange.is_probe:
            self._stats.sent += 1
        self.sockets.send(exchange.asked, self._router.servers[exchange.asked], exchange.datagram)

    # What happens.

    def _due(self, exchange: Exchange, now: float) -> None:
        was_waiting, exchange.is_waiting = exchange.is_waiting, False
        if not was_waiting and self._heard.get(exchange.asked, -inf) < exchange.sent_at:
            self._silent(exchange, now)
        if not was_waiting and not exchange.is_probe:
            self._shrink(exchange, now)
        if not exchange.attempts.again(now):
            why = self.sockets.trouble(self._servers(exchange), exchange.complaints)
            text = f"no answer from {self._names(exchange)} to {exchange.attempts.tries} tries{why and f' ({why})'}"
            self._fail(exchange, Timeout(text))
            return
        self._stats.retries += 1
        exchange.refused.clear()
        if not exchange.only:  # one for a certain server must not go to another machine because its name has moved
            self.collect()
            exchange.asked = self._router.next_after(exchange.asked)
        exchange.sent_at = now
        self._schedule(exchange)
        self._send(exchange)

    def _silent(self, exchange: Exchange, now: float) -> None:
        """Nothing at all has come from the server since the try left: not one lost datagram among many, but silence."""
        index = exchange.asked
        self._router.failed(index, now)
        if exchange.sent_at >= self._renewed_at.get(index, -inf):  # once for all tries that left by the same socket
            self._renewed_at[index] = now
            self.sockets.renew(index)

    def _received(self, index: int, datagram: bytes) -> None:
        try:
            message_id, response = codec.decode_response(datagram)
        except codec.NotAnAnswer as fault:
            self._stats.ignore(fault.reason)
            return
        exchange = self._in_flight.get(message_id)
        if exchange is None:
            self._stats.ignore("other_id")
            return
        now = self._heard[index] = self._now()
        if not exchange.is_probe:
            self.heard_at = now
        if response.code == SYS_OVERLOAD_ERR and not exchange.is_probe:
            self._stats.overloads += 1
            self._router.doubt(now)
            self._shrink(exchange, now)
            if exchange.waits_out_overload and exchange.attempts.overloaded(now, response.overloadWaitTime or 0):
                exchange.is_waiting = True
                self._schedule(exchange)
                return
        elif self.window < self._window_max:
            self.window = min(self.window + 1 / self.window, self._window_max)
        if exchange.by_current:
            self._router.answered(index)
        exchange.answer = response
        exchange.answered_by = index
        self._finish(exchange)

    def _refused(self, index: int) -> None:
        now = self._now()
        self._router.failed(index, now)
        for exchange in list(self._in_flight.values()):
            if exchange.only and exchange.asked != index:
                continue
            exchange.refused.add(index)
            others = [] if exchange.only else self._router.others(exchange.refused)
            if not others and exchange.is_impatient and not self._is_finding(exchange):
                why = self.sockets.trouble(self._servers(exchange), exchange.complaints) or "connection refused"
                self._fail(exchange, Unreachable(f"no answer from {self._names(exchange)}: {why}"))
            elif exchange.asked == index and others and exchange.attempts.moved(now):
                exchange.asked = self._router.next_after(index, exchange.refused)
                exchange.sent_at = now
                self._schedule(exchange)
                self._send(exchange)

    def _is_finding(self, exchange: Exchange) -> bool:
        """Whether a server that has not refused it is being asked who it is, and may answer for it then."""
        return not exchange.is_probe and any(
            probe.is_probe and probe.asked not in exchange.refused for probe in self._in_flight.values()
        )

    def _shrink(self, exchange: Exchange, now: float) -> None:
        """Halve the window, once for all tries that left before it was halved."""
        if exchange.sent_at >= self._shrunk_at:
            self._shrunk_at = now
            self.window = max(self.window / 2, min(WINDOW_MIN, self._window_max))

    def _fail(self, exchange: Exchange, error: KVError) -> None:
        if not exchange.is_probe:
            self._stats.timeouts += 1
        exchange.error = error
        self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        self._end(exchange)
        if exchange.done is not None:
            exchange.done(exchange)

    def _end(self, exchange: Exchange) -> None:
        del self._in_flight[exchange.message_id]
        self._busy -= not exchange.is_probe

    def _servers(self, exchange: Exchange) -> list[int]:
        """Those that it may have been sent to."""
        return [exchange.asked] if exchange.only else self._router.others()

    def _names(self, exchange: Exchange) -> str:
        return ", ".join(self._router.servers[index].name for index in self._servers(exchange))
