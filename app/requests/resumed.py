"""Requests that waited, and are executed as if they had just come.

They waited for another node, and their slot is served here by now; or for copies, and this node can't tell any more
what becomes of them.
"""

from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import Forwarding, InFlight
from app.requests.replicator import Replicator, Waiter
from app.requests.request import Request
from app.requests.turn import Turn


class Resumed:
    """One node's; a source of requests (request.py)."""

    def __init__(
        self,
        turn: Turn,
        answers: Answers,
        commands: Commands,
        forwarding: Forwarding,
        replicator: Replicator,
    ) -> None:
        self._turn = turn
        self._answers = answers
        self._handle = commands.handle
        self._forwarding = forwarding
        self._replicator = replicator
        self._request = Request(self)

    def look(self) -> None:
        """Have those go on, wherever to, for whom there is a way by now: see Forwarding.sweep and Replicator.settle."""
        request = self._request
        left: list[InFlight | Waiter] = [*self._forwarding.sweep(), *self._replicator.take_dropped()]
        for kept in left:
            if self._turn.read_clock() >= kept.deadline_s:
                if isinstance(kept, InFlight):
                    self._forwarding.give_up(kept)
                else:
                    self._replicator.give_up(kept)
                continue
            request.resume(kept)
            reply = self._handle(request, kept.datagram, 0, len(kept.datagram))
            if reply is not None:
                self._answers.deliver(request, reply)
            request.release()

    def fill(self, request: Request) -> None:
        """Nothing is left to be said: all of it is kept already."""
