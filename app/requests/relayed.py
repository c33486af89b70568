"""What peers send over their links: requests that they forward, answers to ours, and other things."""

from collections.abc import Callable, Iterable

from app.peers.frames import ANSWER, FORWARD, Frame
from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import HEADER_BYTES, Forwarding, unpack_header
from app.requests.request import PATIENCE_S, Request
from app.requests.turn import Turn
from app.requests.workers import Workers


class Relayed:
    """Takes the frames of one read after the other; a source of requests for the workers."""

    def __init__(
        self,
        turn: Turn,
        workers: Workers,
        answers: Answers,
        commands: Commands,
        *,
        forwarding: Forwarding,
        on_other: Callable[[str, int, bytes], object],
    ) -> None:
        """`on_other`: takes frames of other kinds: peer, kind, body."""
        self._turn = turn
        self._workers = workers
        self._answers = answers
        self._handle = commands.handle
        self._forwarding = forwarding
        self._on_other = on_other
        self._spare: Request | None = None
        # The requests of the read that is being worked off:
        self._peer = ""
        self._bodies: list[bytes] = []
        self._next = 0

    def on_frames(self, peer: str, frames: Iterable[Frame]) -> None:
        """Take what one read has brought, in order; requests come after the rest."""
        if not self._turn.open():  # they may be as old as the stall was long; their link was ended
            return
        bodies: list[bytes] = []
        for kind, body in frames:
            if kind == ANSWER:
                self._forwarding.on_answer(body)
            elif kind == FORWARD:
                if len(body) > HEADER_BYTES:
                    bodies.append(body)
            else:
                self._on_other(peer, kind, body)
        if bodies:
            self._peer, self._bodies, self._next = peer, bodies, 0
            self._workers.run(self)
        self._turn.wake()

    # --- a source of requests (request.py) ---------------------------------------------------------------------------

    def is_left(self) -> bool:
        return self._next < len(self._bodies)

    def work(self) -> None:
        request = self._spare or Request(self, self._workers)
        self._spare = None
        bodies = self._bodies
        peer = self._peer
        while self._next < len(bodies):
            body = bodies[self._next]
            self._next += 1
            reply = self._handle(request, body, HEADER_BYTES, len(body))
            if request.has_waited:
                if reply is not None:
                    self._answers.deliver(request, reply)
                return
            if reply is not None:
                self._answers.to_peer(peer, reply)
            request.release()
        self._spare = request

    def fill(self, request: Request) -> None:
        body = self._bodies[self._next - 1]
        hops, left_ms = unpack_header(body)
        request.client, request.peer = b"", self._peer
        request.hops = hops
        request.deadline_s = self._turn.now_s + min(left_ms / 1000, PATIENCE_S)
        request.received_s = self._turn.now_s
        request.datagram = body[HEADER_BYTES:]
