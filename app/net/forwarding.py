"""Requests for slots that other nodes serve: relayed to their primary, and the answer to whoever asked.

A misrouted request travels as a frame FORWARD over the ordered link to the primary, the client's datagram in it as it
came (after an id, the number of hops and how long it may still wait); the answer comes back as a frame ANSWER with the
id and the datagram to send to the client. Nothing is encoded anew. All frames of one loop turn to one peer leave in one
write, so at load a forwarded request costs each side a fraction of a system call.

A bounded pool of greenlets does this: each link's reader and writer. A request in flight is an entry in a table, not a
greenlet of its own; the table is bounded by `max_in_flight`, and what is over is refused with SYS_OVERLOAD_ERR.

- A retry of a request that is in flight is not forwarded again at once; its answer goes to the retry's sender. After
  RESEND_S it is: an answer may have been lost with a link, and the primary answers a repeated request from its memory.
- When nobody serves the slot (its primary has just died, or our lease has run out), the request waits for the next
  view, until its deadline (origin.py).
- After HOPS_MAX hops a request is refused for a moment: the nodes' tables disagree, which passes.
- SYS_OVERLOAD_ERR says that nothing was done. A request that was sent twice, to two nodes perhaps, may have taken
  effect at one of them; it is never refused, but left to its client's next try.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from app.cluster.events import LOCAL, UNKNOWN
from app.commands import Commands, Shutdown
from app.counters import Counters
from app.net.frames import ANSWER, FORWARD, Frame
from app.net.origin import PATIENCE_S, Origin
from app.net.turn import Turn
from app.wire.codec import is_refusal

HOPS_MAX: Final = 3
# A retry that comes this long after the last forwarding is forwarded again. Below the clients' first timeout (150 ms),
# so that every retry but one in a burst of duplicates has a chance.
RESEND_S: Final = 0.1
# How often the table is looked through for what waits or has waited too long.
SWEEP_S: Final = 0.05
# What clients are told to wait: tables settle within a heartbeat or two; a full table drains within some loop turns.
_HOPS_WAIT_MS: Final = 50
_FULL_WAIT_MS: Final = 20

_HEADER: Final = Struct("<4sBH")  # id, hops, ms that it may still wait
HEADER_BYTES: Final = _HEADER.size
_pack_header: Final = _HEADER.pack
_ID_BYTES: Final = 4


class _Request:
    """A request in flight or waiting."""

    __slots__ = ("datagram", "is_uncertain", "message_id", "origin", "sent_s", "sent_to", "slot", "was_sent")

    def __init__(self, origin: Origin, slot: int, message_id: bytes, datagram: bytes) -> None:
        self.origin = origin
        self.slot = slot
        self.message_id = message_id
        self.datagram = datagram
        self.sent_to = ""  # the peer it was last forwarded to; empty while it waits
        self.sent_s = 0.0
        self.was_sent = False
        self.is_uncertain = origin.is_uncertain  # it may have taken effect where we have no answer from


class Forwarder:
    """Relays misrouted requests."""

    def __init__(
        self,
        commands: Commands,
        counters: Counters,
        *,
        routes: list[str],
        turn: Turn,
        send_frame: Callable[..., bool],
        answer_client: Callable[[bytes, bytes], None],
        wake: Callable[[], object],
        client_in_hand: Callable[[], Origin],
        max_in_flight: int,
    ) -> None:
        """`routes`: by slot, changed in place. `send_frame(peer, kind, *parts)` queues a frame and returns whether the
        link took it; `answer_client(address, reply)` lays out a datagram. `wake()` has both sent when the turn ends."""
        self._commands = commands
        self._counters = counters
        self._routes = routes
        self._turn = turn
        self._send_frame = send_frame
        self._answer_client = answer_client
        self._wake = wake
        self._client_in_hand = client_in_hand
        self._max_in_flight = max_in_flight
        self._in_hand: Origin | None = None  # whose request is being executed, if it does not come from the front
        self._requests: dict[bytes, _Request] = {}  # by id
        self._ids: dict[bytes, bytes] = {}  # by messageID
        self._next_id = 0
        # Frames of other kinds go there.
        self.on_frame: Callable[[str, int, bytes], object] = lambda peer, kind, body: None
        self.forwarded = 0
        self.duplicates = 0  # retries that joined a request in flight
        self.abandoned = 0  # requests that waited in vain
        commands.forward = self.forward

    @property
    def in_flight(self) -> int:
        """Requests that wait for a primary or for its answer."""
        return len(self._requests)

    def asking(self) -> Origin:
        """Who has sent the request that is being executed."""
        return self._in_hand or self._client_in_hand()

    # --- towards the primary -------------------------------------------------------------------------------------

    def forward(self, slot: int, message_id: bytes, datagram: bytes) -> bytes | None:
        """See to a request for a slot that is not served here; the datagram that refuses it, or None."""
        origin = self._in_hand or self._client_in_hand()
        now = self._turn.now_s
        known = self._ids.get(message_id)
        if known is not None:
            request = self._requests[known]
            if origin.hops <= request.origin.hops:  # not our own forwarding, come back in a circle
                request.origin = origin
            self.duplicates += 1
            if request.sent_to and now - request.sent_s >= RESEND_S:
                self._send(known, request, now)
            return None
        if len(self._requests) >= self._max_in_flight:
            return None if origin.is_uncertain else self._commands.refuse(datagram, _FULL_WAIT_MS)
        if origin.hops >= HOPS_MAX:
            return None if origin.is_uncertain else self._commands.refuse(datagram, _HOPS_WAIT_MS)
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        number = self._next_id.to_bytes(_ID_BYTES, "little")
        request = _Request(origin, slot, message_id, datagram)
        self._requests[number] = request
        self._ids[message_id] = number
        self._send(number, request, now)
        return None

    def _send(self, number: bytes, request: _Request, now: float) -> None:
        """Forward a request to its slot's primary, or let it wait when there is none or its link is down."""
        route = self._routes[request.slot]
        if route != LOCAL and route != UNKNOWN:
            origin = request.origin
            left_ms = int((origin.deadline_s - now) * 1000)
            header = _pack_header(number, origin.hops + 1, left_ms if left_ms > 0 else 0)
            if self._send_frame(route, FORWARD, header, request.datagram):
                request.is_uncertain = request.is_uncertain or request.was_sent
                request.was_sent = True
                request.sent_to = route
                request.sent_s = now
                self.forwarded += 1
                return
        request.sent_to = ""

    # --- frames --------------------------------------------------------------------------------------------------

    def on_frames(self, peer: str, frames: Iterable[Frame]) -> None:
        """Take the frames that a link has brought."""
        turn = self._turn
        stalls = turn.stalls
        serving = turn.open()
        if turn.stalls != stalls:  # they may be as old as the stall was long; their link was ended
            return
        answers: list[tuple[bytes, bytes]] = []
        handle = self._commands.handle
        for kind, body in frames:
            if kind == ANSWER:
                self._answered(body[:_ID_BYTES], body[_ID_BYTES:])
            elif kind == FORWARD:
                if len(body) <= HEADER_BYTES:
                    continue
                left_s = (body[5] | body[6] << 8) / 1000
                number = body[:_ID_BYTES]
                self._in_hand = Origin(b"", peer, number, body[4], turn.now_s + min(left_s, PATIENCE_S))
                try:
                    reply = handle(body, HEADER_BYTES, len(body))
                except Shutdown:  # it has no key: no node forwards it
                    reply = None
                finally:
                    self._in_hand = None
                if reply is not None:
                    answers.append((number, reply))
            else:
                self.on_frame(peer, kind, body)
        if answers:
            if serving and not turn.may_serve():
                self._counters.unfenced += len(answers)
            else:
                for number, reply in answers:
                    self._send_frame(peer, ANSWER, number, reply)
        self._wake()

    def _answered(self, number: bytes, reply: bytes) -> None:
        request = self._requests.pop(number, None)
        if request is not None:
            del self._ids[request.message_id]
            if not request.is_uncertain or not is_refusal(reply):
                self.answer(request.origin, reply)

    def answer(self, origin: Origin, reply: bytes) -> None:
        """Send the answer to whoever asked, when the turn ends."""
        if origin.client:
            self._answer_client(origin.client, reply)
        else:
            self._send_frame(origin.peer, ANSWER, origin.number, reply)

    # --- waiting -------------------------------------------------------------------------------------------------

    def link_closed(self, peer: str) -> None:
        """What was sent over this link may be lost: it waits until there is a way again."""
        for request in self._requests.values():
            if request.sent_to == peer:
                request.sent_to = ""

    def sweep(self) -> None:
        """Send or execute what waits, if that is possible by now; drop what has waited too long.

        To be called when a view is installed and every SWEEP_S. Also what was sent to a node that is not its slot's
        primary any more goes to the new one.
        """
        serving = self._turn.open()
        if not self._requests:
            return
        now = self._turn.now_s
        for number, request in list(self._requests.items()):
            route = self._routes[request.slot]
            if now >= request.origin.deadline_s:
                self._give_up(number, request)
            elif route == LOCAL and serving:
                del self._requests[number]
                del self._ids[request.message_id]
                request.origin.is_uncertain = request.is_uncertain or request.was_sent
                self.handle_again(request.origin, request.datagram)
            elif not request.sent_to or request.sent_to != route:
                self._send(number, request, now)
        self._wake()

    def _give_up(self, number: bytes, request: _Request) -> None:
        self.abandoned += 1
        del self._requests[number]
        del self._ids[request.message_id]
        if not request.was_sent and not request.is_uncertain:
            reply = self._commands.refuse(request.datagram, _HOPS_WAIT_MS)
            if reply is not None:
                self.answer(request.origin, reply)

    def handle_again(self, origin: Origin, datagram: bytes) -> None:
        """See to a request that waited, or whose execution here came to nothing."""
        if self._turn.now_s >= origin.deadline_s:
            return
        self._in_hand = origin
        try:
            reply = self._commands.handle(datagram, 0, len(datagram))
        finally:
            self._in_hand = None
        if reply is None or (origin.is_uncertain and is_refusal(reply)):
            return
        if self._turn.may_serve():
            self.answer(origin, reply)
        else:
            self._counters.unfenced += 1
