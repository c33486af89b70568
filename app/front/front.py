"""The front: clients' datagrams, by the batch.

gevent's DatagramServer (app/sockets.py) calls `read` once in each turn of the loop that finds datagrams: one batch is
received, its requests are executed one after the other, and the replies leave together; then the loop turns, so that
timers, links and greenlets have their share however hard the flood. No request waits in here: what is kept of one that
can't be answered yet lies in a table (app/requests/request.py), so the loop itself executes them.

In a cluster a request must not be executed long after it arrived (app/requests/request.py), and a datagram does not say
when it did. But each came after the socket was last seen empty: by the clock as it was read before that look, since the
process may be stopped between the two. After a full batch, which leaves that open, the kernel is asked when the last
one in it came: what is still in the socket is younger.

**Overload.** A socket that fills faster than it is read holds what its clients have long given up: to answer the
oldest first is to answer nobody in time. So when the queue has not been short for a while, what has waited in it is
dropped unread (`shed`), and what is fresh is answered: a node at twice the rate that it can bear goes on answering
nearly as many as it can. What other nodes say is heard all the same, should it come this way (app/peers/datagrams.py).
"""

from bisect import bisect_left
from collections.abc import Mapping
from math import inf
from typing import Final, Protocol

from app.front.batch import BatchSocket, DatagramBatch
from app.front.rate import AnswerRate
from app.loop import Loop
from app.observe.counters import IN_TURN, Counters
from app.observe.slowlog import SlowLog
from app.requests.answers import Answers
from app.requests.commands import Commands, Shutdown
from app.requests.request import Request
from app.requests.turn import Turn
from app.wire.protocol import TYPE_CLUSTER

# Datagrams per loop turn: 64 small requests are about 1 ms. More make no measurable difference to the rate and let
# other greenlets wait longer; 1 costs a quarter of it.
BATCH_SIZE: Final = 64
# After a batch the socket is asked again before the loop turns: at low load the next request is often there within
# microseconds, while going to sleep and being woken costs 20 to 60 µs. It is asked so often at most (1 to 1.5 µs each);
# if in vain, only once a turn for so many turns: a node that shares its core with others, or is idle, does not spin.
POLLS: Final = 100
POLL_PAUSE_TURNS: Final = 100
# When datagrams are dropped for their age, as CoDel does (Nichols and Jacobson, 2012): if for OVERLOAD_S the last of
# each full batch has waited for QUEUE_S, this is overload, and not what a stall has left. Then whatever has waited for
# QUEUE_S is dropped, and more until it is as fresh as FRESH_S; so until OVERLOAD_S have passed without need.
QUEUE_S: Final = 0.02
OVERLOAD_S: Final = 0.1
FRESH_S: Final = 0.005
# Batches dropped before the loop turns: to receive 64 and look at none takes about 40 µs.
_SHED_BATCHES: Final = 32
# How a datagram of membership ends, as nodes encode it: its type.
_FROM_A_NODE: Final = bytes((0x28, TYPE_CLUSTER))
assert TYPE_CLUSTER < 0x80


class ServerSocket(BatchSocket, Protocol):
    """What is asked of a UDP socket besides."""

    def age_s(self) -> float:
        """How long ago the datagram last received came; infinite if that is not known."""


class Front:
    """Serves one UDP socket; a source of requests (app/requests/request.py)."""

    def __init__(
        self,
        loop: Loop,
        sock: ServerSocket,
        batch: DatagramBatch,
        turn: Turn,
        answers: Answers,
        commands: Commands,
        counters: Counters,
        slow_log: SlowLog,
        *,
        patience_s: float,
        allowed: Mapping[bytes, bool] | None,
        rate: AnswerRate,
        shares_turns: bool,
    ) -> None:
        """`patience_s`: a request is not executed so long after it arrived. `allowed`: who may send requests, by
        address (DatagramBatch.host); None: everybody. `rate`: the batch's meter. `shares_turns`: replies leave at the
        end of the loop's turn, together with what came of other nodes' frames; else at once, and the socket is asked
        again."""
        self._loop = loop
        self._now = loop.now
        self._sock = sock
        self._batch = batch
        self._turn = turn
        self._answers = answers
        self._commands = commands
        self._counters = counters
        self._slow_log = slow_log
        self._patience_s = patience_s
        self._allowed = allowed
        self._rate = rate
        self._shares_turns = shares_turns
        self._local_latency = counters.latency[IN_TURN]
        self._request = Request(self)
        self._empty_s = self._now()  # what is in the socket came after the former
        self._asked_s = self._empty_s  # when the socket was last looked into
        self._rest_s = self._empty_s  # what the batch in hand has left in the socket came after that
        self._turns_without_polls = 0
        self._wall_ahead_s = -inf  # of the loop's clock, when the socket was last seen empty
        self._age_s = 0.0  # of the last datagram of the last full batch
        self._queued_since_s = (
            inf  # when the first of the latest full batches was found whose last was as old as QUEUE_S
        )
        self._sheds_until_s = 0.0  # unless another such batch is found before
        # The batch in hand:
        self._received_s = 0.0
        self._count = 0
        self._number = 0  # of the datagram that is being handled

    def be_one_of_several(self, patience_s: float) -> None:
        """Other nodes are to come (`shares_turns`), where there were none; `patience_s` from now on."""
        self._patience_s = patience_s
        self._shares_turns = True

    def read(self) -> None:
        """Receive, handle and answer datagrams until none is there or it is time for the loop to turn.

        Also to be called several times a second where none come: a socket that nobody asked may have held some for
        long.
        """
        self._asked_s = self._now()
        handled = self._count = self._batch.receive()
        if not handled:
            self._empty_s = self._asked_s
            self._wall_ahead_s = self._loop.unix_s() - self._asked_s
        while self._count:
            if self._count == self._batch.size:
                self._look_at_age()
            else:
                self._rest_s = self._asked_s
            self._handle_batch()
            if handled >= BATCH_SIZE or self._shares_turns:
                break
            self._count = self._ask_again()
            handled += self._count

    def _ask_again(self) -> int:
        """Ask the socket again before the loop turns: how many datagrams were received."""
        receive = self._batch.receive
        if self._turns_without_polls:
            self._turns_without_polls -= 1
            return receive()
        for _ in range(POLLS):
            count = receive()
            if count:
                return count
        self._turns_without_polls = POLL_PAUSE_TURNS
        return 0

    def _look_at_age(self) -> None:
        """The batch in hand is full: find out how old what follows is, and in an overload drop what is too old."""
        now_s = self._age()
        if not QUEUE_S <= self._age_s < inf:
            self._queued_since_s = inf
            return
        self._queued_since_s = min(self._queued_since_s, now_s)
        if now_s < self._sheds_until_s or now_s - self._queued_since_s >= OVERLOAD_S:
            self._sheds_until_s = now_s + OVERLOAD_S
            for _ in range(_SHED_BATCHES):
                self._shed()
                self._empty_s = max(self._empty_s, self._rest_s)
                self._asked_s = self._rest_s = self._now()
                self._count = self._batch.receive()
                if self._count < self._batch.size:
                    break
                self._age()
                if self._age_s < FRESH_S:
                    break

    def _age(self) -> float:
        """Note how old the last datagram of the batch in hand is; the time now."""
        age_s = self._sock.age_s()
        wall_s = self._loop.unix_s()
        now_s = self._now()
        # The system dates datagrams by the wall clock: where that was set back since the socket was seen empty, they
        # are older than they look.
        self._age_s = age_s + max(0.0, self._wall_ahead_s - (wall_s - now_s))
        self._rest_s = now_s - self._age_s
        return now_s

    def _shed(self) -> None:
        """Drop the batch in hand, but for what other nodes say."""
        batch, buffer = self._batch, self._batch.buffer
        request = self._request
        for number in range(self._count):
            end = batch.span(number)[1]
            if buffer[end - 2 : end] == _FROM_A_NODE:
                self._number = number
                self._commands.shut_out(request, batch.datagram(number))
                request.release()
            else:
                self._counters.drops["shed"] += 1

    def _handle_batch(self) -> None:
        """Execute the requests of the batch just received, and send the replies to those that did not have to wait."""
        batch, turn = self._batch, self._turn
        laid_out = batch.laid_out
        turn.open()
        now_s = self._received_s = turn.now_s
        if now_s - self._empty_s >= self._patience_s:
            self._counters.drops["too_old"] += self._count
        else:
            self._execute()
        if self._shares_turns:
            turn.wake()
        else:
            turn.end()
        answered = max(0, batch.laid_out - laid_out)
        # All of them leave now, so this is what each of them took: one measurement for the whole batch, 0.3 µs (twice
        # that through Histogram.add).
        duration_s = self._now() - now_s
        latency = self._local_latency
        latency.counts[bisect_left(latency.edges_s, duration_s)] += answered
        latency.total_s += duration_s * answered
        if answered and duration_s >= self._slow_log.threshold_s:
            self._note_slow_batch(duration_s)
        self._empty_s = max(self._empty_s, self._rest_s)

    def _note_slow_batch(self, duration_s: float) -> None:
        """The batch in hand took longer than a request should."""
        batch = self._batch
        requests = [
            (batch.datagram(number), batch.sender(number))
            for number in range(self._count)
            if self._allowed is None or self._allowed[batch.host(number)]
        ]
        self._slow_log.note_batch(requests, self._commands.is_answered_at_once, duration_s, unix_s=self._loop.unix_s())

    # --- requests ----------------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        """Execute the batch in hand, and lay out what is answered at once."""
        batch, request = self._batch, self._request
        buffer, span, lay_out = batch.buffer, batch.span, batch.reply
        handle = self._commands.handle
        allowed = self._allowed
        is_limited = self._rate.limits_until_s > self._received_s
        for number in range(self._count):
            self._number = number
            start, end = span(number)
            if allowed is not None and not allowed[batch.host(number)]:
                self._commands.shut_out(request, batch.datagram(number))
                request.release()
                continue
            try:
                reply = handle(request, buffer, start, end)
            except Shutdown as shutdown:
                batch.reply(number, shutdown.reply)
                batch.flush()
                self._loop.exit(0)
            if reply is not None:
                if is_limited:
                    reply = self._answers.within_rate(batch.host(number), reply, end - start)
                lay_out(number, reply)
            if request.is_kept:
                request.release()

    def fill(self, request: Request) -> None:
        request.datagram, request.client, request.asked_at = self._batch.take(self._number)
        request.peer = ""
        request.hops = 0
        request.deadline_s = self._empty_s + self._patience_s
        request.received_s = self._received_s
