"""Requests for slots that other nodes serve: relayed to their primary, and the answer to whoever asked.

A misrouted request travels as a frame FORWARD over the ordered link to the primary, the client's datagram in it as it
came (after the number of hops and how long it may still wait); the answer comes back in a frame ANSWER, the datagram to
send to the client. Nothing is encoded anew, and what belongs together is told by the messageID in both. All frames of
one loop turn to one peer leave in one write, so at load a forwarded request costs each side a fraction of a system
call.

A bounded pool of greenlets does this: each link's reader and writer. A request in flight is an entry in a table, not a
greenlet of its own; the table is bounded by `max_in_flight`, and what is over is refused with SYS_OVERLOAD_ERR.

- A retry of a request that is in flight is not forwarded again at once; its answer goes to the retry's sender. After
  RESEND_S it is: an answer may have been lost with a link, and the primary answers a repeated request from its memory.
- When nobody serves the slot (its primary has just died), or our lease has run out and we may be the one who is cut
  off, the request waits for the next view, until its deadline (origin.py).
- After HOPS_MAX hops a request is refused for a moment: the nodes' tables disagree, which passes.
- SYS_OVERLOAD_ERR says that nothing was done. A write that was sent and not answered, or sent twice, to two nodes
  perhaps, may have taken effect; it is never refused, but left to its client's next try.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from app.cluster.events import SELF, UNKNOWN
from app.observe import logs
from app.observe.counters import FORWARDED, WAITED, Counters
from app.observe.slowlog import SlowLog
from app.peers.frames import ANSWER, FORWARD, Frame
from app.requests.commands import Commands, Shutdown
from app.requests.request import PATIENCE_S, Origin
from app.requests.turn import Turn
from app.wire.codec import DecodeError, is_read, is_refusal, parse_msg

HOPS_MAX: Final = 3
# A retry that comes this long after the last forwarding is forwarded again. Below the clients' first timeout (150 ms),
# so that every retry but one in a burst of duplicates has a chance.
RESEND_S: Final = 0.1
# How often the table is looked through for what waits or has waited too long.
SWEEP_S: Final = 0.05
# What clients are told to wait: tables settle within a heartbeat or two; a full table drains within some loop turns.
_HOPS_WAIT_MS: Final = 50
_FULL_WAIT_MS: Final = 20

_faults = logs.limited_logger("forwarding")

_HEADER: Final = Struct("<BH")  # hops, ms that it may still wait
HEADER_BYTES: Final = _HEADER.size
_pack_header: Final = _HEADER.pack


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
        send_frames: Callable[[str, int, list[bytes]], bool],
        answer_client: Callable[[bytes, bytes], None],
        wake: Callable[[], object],
        client_in_hand: Callable[[], Origin],
        max_in_flight: int,
    ) -> None:
        """`routes`: by slot, changed in place. `send_frame(peer, kind, body, head)` queues a frame and returns whether
        the link took it, `send_frames(peer, kind, bodies)` several; `answer_client(address, reply)` lays out a
        datagram; `wake()` has all that sent when the turn ends."""
        self._commands = commands
        self._counters = counters
        self._routes = routes
        self._turn = turn
        self._send_frame = send_frame
        self._send_frames = send_frames
        self._answer_client = answer_client
        self._wake = wake
        self._client_in_hand = client_in_hand
        self._max_in_flight = max_in_flight
        # Whose request is being executed, if it does not come from the front: one that waited here, or a peer's frame.
        self._in_hand: Origin | None = None
        self._peer_in_hand = ""
        self._frame_in_hand = b""
        self._requests: dict[bytes, Origin] = {}  # by messageID
        # Frames of other kinds go there.
        self.on_frame: Callable[[str, int, bytes], object] = lambda peer, kind, body: None
        self.forwarded = 0
        self.duplicates = 0  # retries that joined a request in flight
        self.abandoned = 0  # requests that waited in vain
        self.slow_log = SlowLog()
        commands.forward = self.forward

    @property
    def in_flight(self) -> int:
        """Requests that wait for a primary or for its answer."""
        return len(self._requests)

    def asking(self) -> Origin:
        """Who has sent the request that is being executed."""
        peer = self._peer_in_hand
        if peer:
            hops, left_ms = _HEADER.unpack_from(self._frame_in_hand)
            return Origin(b"", peer, hops, self._turn.now_s + min(left_ms / 1000, PATIENCE_S))
        return self._in_hand or self._client_in_hand()

    # --- towards the primary -------------------------------------------------------------------------------------

    def forward(self, slot: int, message_id: bytes, datagram: bytes) -> bytes | None:
        """See to a request for a slot that is not served here; the datagram that refuses it, or None."""
        origin = self.asking()
        requests = self._requests
        if message_id in requests:
            self._join(requests[message_id], origin)
            return None
        if len(requests) >= self._max_in_flight:
            return None if origin.is_uncertain else self._commands.refuse(datagram, _FULL_WAIT_MS)
        if origin.hops >= HOPS_MAX:
            return None if origin.is_uncertain else self._commands.refuse(datagram, _HOPS_WAIT_MS)
        origin.slot = slot
        origin.datagram = datagram
        requests[message_id] = origin
        self._send(origin, self._turn.now_s)
        return None

    def _join(self, request: Origin, retry: Origin) -> None:
        """A retry of a request in flight: the answer goes to whoever asked last."""
        self.duplicates += 1
        if retry.hops <= request.hops:  # not our own forwarding, come back in a circle
            request.client, request.peer, request.hops = retry.client, retry.peer, retry.hops
            request.deadline_s, request.received_s = retry.deadline_s, retry.received_s
        now = self._turn.now_s
        if request.sent_to and now - request.sent_s >= RESEND_S:
            self._send(request, now)

    def _send(self, request: Origin, now: float) -> None:
        """Forward a request to its slot's primary, or let it wait when there is none or its link is down."""
        route = self._routes[request.slot]
        if route != SELF and route != UNKNOWN and self._turn.may_forward:
            left_ms = int((request.deadline_s - now) * 1000)
            header = _pack_header(request.hops + 1, left_ms if left_ms > 0 else 0)
            if self._send_frame(route, FORWARD, request.datagram, header):
                if request.was_sent:
                    request.is_uncertain = True
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
        answers: list[bytes] = []
        handle = self._commands.handle
        self._peer_in_hand = peer
        answered_s = 0.0
        try:
            for kind, body in frames:
                if kind == ANSWER:
                    answered_s = answered_s or turn.read_clock()
                    self._answered(body, answered_s)
                elif kind == FORWARD:
                    if len(body) > HEADER_BYTES:
                        self._frame_in_hand = body
                        try:
                            reply = handle(body, HEADER_BYTES, len(body))
                        except Shutdown:  # it has no key: no sound node forwards it
                            continue
                        except AssertionError:
                            raise
                        except Exception as error:  # noqa: BLE001 - the boundary: one request fails, what follows does not
                            _faults.exception("request_failed", error)
                            reply = self._commands.fail(body[HEADER_BYTES:])
                        if reply is not None:
                            answers.append(reply)
                else:
                    self.on_frame(peer, kind, body)
        finally:
            self._peer_in_hand = ""
        if answers:
            if serving and not turn.may_serve():
                self._counters.unfenced += len(answers)
            else:
                self._send_frames(peer, ANSWER, answers)
        self._wake()

    def _answered(self, reply: bytes, now_s: float) -> None:
        if reply[:2] == b"\n\x10":  # a messageID of 16 bytes, laid out by a node: see encode_response
            message_id = reply[2:18]
        else:
            try:
                message_id = parse_msg(reply).messageID
            except DecodeError:
                return
        request = self._requests.pop(message_id, None)
        if request is not None and not (request.is_uncertain and is_refusal(reply)):
            self.answer(request, reply, FORWARDED, now_s)

    def answer(self, origin: Origin, reply: bytes, how: str, now_s: float) -> None:
        """Send the answer to whoever asked, when the turn ends, and count what it took if that is a client."""
        if origin.client:
            self._answer_client(origin.client, reply)
            duration_s = now_s - origin.received_s
            latency = self._counters.latency[how]
            latency.counts[bisect_left(latency.edges_s, duration_s)] += 1
            latency.total_s += duration_s
            if duration_s >= self.slow_log.threshold_s:
                self.slow_log.note(origin.datagram, origin.client, duration_s, how, unix_s=time.time())
        else:
            self._send_frame(origin.peer, ANSWER, reply)

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
        for message_id, request in list(self._requests.items()):
            route = self._routes[request.slot]
            if now >= request.deadline_s:
                self._give_up(message_id, request)
            elif route == SELF and serving:
                del self._requests[message_id]
                request.is_uncertain = request.is_uncertain or request.was_sent
                self.handle_again(request)
            elif not request.sent_to or request.sent_to != route:
                self._send(request, now)
        self._wake()

    def _give_up(self, message_id: bytes, request: Origin) -> None:
        self.abandoned += 1
        del self._requests[message_id]
        if not (request.was_sent or request.is_uncertain) or is_read(request.datagram):
            reply = self._commands.refuse(request.datagram, _HOPS_WAIT_MS)
            if reply is not None:
                self.answer(request, reply, WAITED, self._turn.read_clock())

    def handle_again(self, origin: Origin) -> None:
        """See to a request that waited, or whose execution here came to nothing."""
        if self._turn.now_s >= origin.deadline_s:
            return
        self._in_hand = origin
        try:
            reply = self._commands.handle(origin.datagram, 0, len(origin.datagram))
        finally:
            self._in_hand = None
        if reply is None or (origin.is_uncertain and is_refusal(reply)):
            return
        if self._turn.may_serve():
            self.answer(origin, reply, WAITED, self._turn.read_clock())
        else:
            self._counters.unfenced += 1
