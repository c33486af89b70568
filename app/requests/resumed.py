"""Requests that waited, and are executed as if they had just come.

They waited for another node, and their slot is served here by now; or for copies, and this node can't tell any more
what becomes of them.
"""

from collections.abc import Sequence

from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import Forwarding, InFlight
from app.requests.replicator import Replicator, WaitingWrite
from app.requests.request import Request
from app.requests.turn import Turn
from app.requests.workers import Workers


class Resumed:
    """One node's; a source of requests for the workers."""

    def __init__(
        self,
        turn: Turn,
        workers: Workers,
        answers: Answers,
        commands: Commands,
        forwarding: Forwarding,
        replicator: Replicator,
    ) -> None:
        self._turn = turn
        self._workers = workers
        self._answers = answers
        self._handle = commands.handle
        self._forwarding = forwarding
        self._replicator = replicator
        self._left: Sequence[InFlight | WaitingWrite] = ()
        self._next = 0

    def look(self) -> None:
        """Have those go on, wherever to, for whom there is a way by now: see Forwarding.sweep and Replicator.settle."""
        self._left, self._next = [*self._forwarding.sweep(), *self._replicator.take_dropped()], 0
        if self._left:
            self._workers.run(self)

    # --- a source of requests (request.py) ---------------------------------------------------------------------------

    def is_left(self) -> bool:
        return self._next < len(self._left)

    def work(self, request: Request) -> None:
        while self.is_left():
            kept = self._left[self._next]
            self._next += 1
            if self._turn.read_clock() >= kept.deadline_s:
                if isinstance(kept, InFlight):
                    self._forwarding.give_up(kept)
                continue
            request.resume(kept)
            reply = self._handle(request, kept.datagram, 0, len(kept.datagram))
            if reply is not None:
                self._answers.deliver(request, reply)
            if request.has_waited:
                return
            request.release()

    def fill(self, request: Request) -> None:
        """Nothing is left to be said: all of it is kept already."""
