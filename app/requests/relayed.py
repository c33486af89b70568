"""What peers send over their links: requests that they forward, answers to ours, and other things."""

from collections.abc import Callable, Iterable

from app.observe.counters import Counters
from app.peers.frames import ANSWER, FORWARD, FORWARD_BYTES, Frame, unpack_forward
from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import HOPS_MAX, Forwarding
from app.requests.request import PATIENCE_S, Request
from app.requests.turn import Turn
from app.requests.waiting import Kept


class Relayed:
    """Takes the frames of one read after the other; a source of requests (request.py)."""

    def __init__(
        self,
        turn: Turn,
        answers: Answers,
        commands: Commands,
        counters: Counters,
        *,
        forwarding: Forwarding,
        on_other: Callable[[str, int, bytes], object],
    ) -> None:
        """`on_other`: takes frames of other kinds: peer, kind, body."""
        self._turn = turn
        self._answers = answers
        self._handle = commands.handle
        self._forwarding = forwarding
        self._counters = counters
        self._on_other = on_other
        self._request = Request(self)
        # Of the request that is being executed: who has sent it, in what.
        self._peer = ""
        self._body = b""

    def on_frames(self, peer: str, frames: Iterable[Frame]) -> None:
        """Take what one read has brought, in order; requests come after the rest."""
        turn = self._turn
        turn.open()
        bodies: list[bytes] = []
        answers: list[bytes] = []
        for kind, body in frames:
            if kind == ANSWER:
                answers.append(body)
            elif kind == FORWARD:
                deadline_s, hops = unpack_forward(body)
                if not 0 < hops <= HOPS_MAX:
                    self._counters.drops["unparsable"] += 1
                elif deadline_s > turn.now_s:
                    bodies.append(body)
                else:
                    self._counters.drops["too_old"] += 1
            else:
                self._on_other(peer, kind, body)
        if answers:
            self._forwarding.answer(peer, answers)
        if bodies:
            self._execute(peer, bodies)
        turn.wake()

    def _execute(self, peer: str, bodies: list[bytes]) -> None:
        handle, to_peer, request = self._handle, self._answers.to_peer, self._request
        self._peer = peer
        for body in bodies:
            self._body = body
            reply = handle(request, body, FORWARD_BYTES, len(body))
            if reply is not None:
                to_peer(peer, reply)
            if request.is_kept:
                request.release()

    def fill(self, kept: Kept) -> None:
        body = self._body
        now_s = self._turn.now_s
        deadline_s, kept.hops = unpack_forward(body)
        kept.client, kept.asked_at, kept.peer = b"", b"", self._peer
        kept.deadline_s = min(deadline_s, now_s + PATIENCE_S)
        kept.received_s = now_s
        kept.datagram = body[FORWARD_BYTES:]
