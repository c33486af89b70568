"""Requests for slots that other nodes serve: relayed to their primary, and the answer to whoever asked.

A misrouted request travels as a frame FORWARD over the ordered link to the primary, the client's datagram in it as it
came (after an id of 4 bytes and the number of hops); the answer comes back as a frame ANSWER with the id and the
datagram to send to the client. Nothing is encoded anew. All frames of one loop turn to one peer leave in one write, so
at load a forwarded request costs each side a fraction of a system call.

A bounded pool of greenlets does this: each link's reader and writer. A request in flight is an entry in a table, not a
greenlet of its own; the table is bounded by `max_in_flight`, and what is over is refused with SYS_OVERLOAD_ERR.

- A retry of a request that is in flight is not forwarded again at once; its answer goes to the retry's sender. After
  RESEND_S it is: an answer may have been lost with a link, and the primary answers a repeated request from its memory.
- When nobody serves the slot (its primary has just died, or our lease has run out), the request waits for the next
  view, for a bounded time.
- After HOPS_MAX hops a request is refused for a moment: the nodes' tables disagree, which passes.

A reply leaves this node only if its lease still runs once the request has been executed: a node that was stopped in
between and woke up later answers nothing from its stale memory.
"""

from collections.abc import Callable, Iterable
from typing import Final

from app.cluster.events import LOCAL, UNKNOWN, Membership
from app.commands import Commands, Shutdown
from app.counters import Counters
from app.net.frames import ANSWER, FORWARD, Frame
from app.wire.protocol import CLIENT_TIMEOUTS_MS, SLOT_COUNT

HOPS_MAX: Final = 3
# A retry that comes this long after the last forwarding is forwarded again. Below the clients' first timeout (150 ms),
# so that every retry but one in a burst of duplicates has a chance.
RESEND_S: Final = 0.1
# How long a request may wait for a primary or for its answer. A client's last try leaves 4.45 s after its first, whose
# reply is remembered for 6 s or more: executed later than the difference, a retry could take effect once more. The
# next view is there within 1 s, and a client that is still waiting then tries again.
PATIENCE_S: Final = 1.4
assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 + PATIENCE_S < 6.0, (
    "a reply may be forgotten before its last retry is executed"
)
# How often the table is looked through for what waits or has waited too long.
SWEEP_S: Final = 0.05
# What clients are told to wait: tables settle within a heartbeat or two; a full table drains within some loop turns.
_HOPS_WAIT_MS: Final = 50
_FULL_WAIT_MS: Final = 20

_HOPS: Final = [b"%c" % hops for hops in range(HOPS_MAX + 1)]
_NOBODY: Final = [UNKNOWN] * SLOT_COUNT

Client = bytes  # socket address
Peer = tuple[str, bytes, int]  # a node, its id for the request, the hops so far


class _Request:
    """A request in flight or waiting."""

    __slots__ = ("datagram", "deadline_s", "message_id", "origin", "sent_s", "sent_to", "slot")

    def __init__(self, origin: Client | Peer, slot: int, message_id: bytes, datagram: bytes, deadline_s: float) -> None:
        self.origin = origin
        self.slot = slot
        self.message_id = message_id
        self.datagram = datagram
        self.deadline_s = deadline_s
        self.sent_to = ""  # the peer it was last forwarded to; empty while it waits
        self.sent_s = 0.0


class Forwarder:
    """Relays misrouted requests. All times are seconds of `clock`."""

    def __init__(
        self,
        commands: Commands,
        counters: Counters,
        *,
        membership: Membership,
        send_frame: Callable[..., bool],
        answer_client: Callable[[Client, bytes], None],
        flush_clients: Callable[[], None],
        client_in_hand: Callable[[], Client],
        max_in_flight: int,
        clock: Callable[[], float],
    ) -> None:
        """`send_frame(peer, kind, *parts)` queues a frame and returns whether the link took it."""
        self._commands = commands
        self._counters = counters
        self._routes = membership.routes  # changed in place
        self._membership = membership
        self._send_frame = send_frame
        self._answer_client = answer_client
        self._flush_clients = flush_clients
        self._client_in_hand = client_in_hand
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._peer_in_hand: Peer | None = None
        self._requests: dict[bytes, _Request] = {}  # by id
        self._ids: dict[bytes, bytes] = {}  # by messageID
        self._next_id = 0
        self.forwarded = 0
        self.duplicates = 0  # retries that joined a request in flight
        self.abandoned = 0  # requests that waited in vain
        commands.forward = self.forward

    @property
    def in_flight(self) -> int:
        """Requests that wait for a primary or for its answer."""
        return len(self._requests)

    def may_serve(self) -> bool:
        """Whether this node's lease runs."""
        return self._clock() < self._membership.lease_until

    def open_turn(self) -> bool:
        """Before requests are executed: serve own slots only if the lease runs; whether it does.

        If so, and it does not any more after the execution (`may_serve`), no reply may be sent.
        """
        serving = self._clock() < self._membership.lease_until
        self._commands.routes = self._routes if serving else _NOBODY
        return serving

    # --- towards the primary -------------------------------------------------------------------------------------

    def forward(self, slot: int, message_id: bytes, datagram: bytes) -> bytes | None:
        """See to a request for a slot that is not served here; the datagram that refuses it, or None."""
        origin: Client | Peer = self._peer_in_hand or self._client_in_hand()
        now = self._clock()
        known = self._ids.get(message_id)
        if known is not None:
            request = self._requests[known]
            if _hops(origin) <= _hops(request.origin):  # not our own forwarding, come back in a circle
                request.origin = origin
            self.duplicates += 1
            if request.sent_to and now - request.sent_s >= RESEND_S:
                self._send(known, request, now)
            return None
        if len(self._requests) >= self._max_in_flight:
            return self._commands.refuse(datagram, _FULL_WAIT_MS)
        if _hops(origin) >= HOPS_MAX:
            return self._commands.refuse(datagram, _HOPS_WAIT_MS)
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        number = self._next_id.to_bytes(4, "little")
        request = _Request(origin, slot, message_id, datagram, now + PATIENCE_S)
        self._requests[number] = request
        self._ids[message_id] = number
        self._send(number, request, now)
        return None

    def _send(self, number: bytes, request: _Request, now: float) -> None:
        """Forward a request to its slot's primary, or let it wait when there is none or its link is down."""
        route = self._routes[request.slot]
        hops = _HOPS[_hops(request.origin) + 1]
        if route != LOCAL and route != UNKNOWN and self._send_frame(route, FORWARD, number + hops, request.datagram):
            request.sent_to = route
            request.sent_s = now
            self.forwarded += 1
        else:
            request.sent_to = ""

    # --- frames --------------------------------------------------------------------------------------------------

    def on_frames(self, peer: str, frames: Iterable[Frame]) -> None:
        """Take the frames that a link has brought."""
        serving = self.open_turn()
        answers: list[tuple[bytes, bytes]] = []
        handle = self._commands.handle
        for kind, body in frames:
            number = body[:4]
            if kind == ANSWER:
                self._answered(number, body[4:])
            elif kind == FORWARD and len(body) > 5:
                self._peer_in_hand = (peer, number, body[4])
                try:
                    reply = handle(body, 5, len(body))
                except Shutdown:  # it has no key: no node forwards it
                    reply = None
                finally:
                    self._peer_in_hand = None
                if reply is not None:
                    answers.append((number, reply))
        if serving and not self.may_serve():
            self._counters.unfenced += len(answers)
        else:
            for number, reply in answers:
                self._send_frame(peer, ANSWER, number, reply)
        self._flush_clients()

    def _answered(self, number: bytes, reply: bytes) -> None:
        request = self._requests.pop(number, None)
        if request is not None:
            del self._ids[request.message_id]
            self._answer(request.origin, reply)

    def _answer(self, origin: Client | Peer, reply: bytes) -> None:
        if isinstance(origin, bytes):
            self._answer_client(origin, reply)
        else:
            peer, number, _ = origin
            self._send_frame(peer, ANSWER, number, reply)

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
        if not self._requests:
            return
        now = self._clock()
        serving = self.open_turn()
        for number, request in list(self._requests.items()):
            route = self._routes[request.slot]
            if route == LOCAL and not serving:
                route = UNKNOWN
            if request.sent_to and request.sent_to == route:
                if now < request.deadline_s:
                    continue
            elif route == LOCAL:
                self._execute(number, request)
                continue
            elif now < request.deadline_s:
                self._send(number, request, now)
                continue
            self.abandoned += 1
            reply = self._commands.refuse(request.datagram, _HOPS_WAIT_MS)
            if reply is not None:
                self._answered(number, reply)
        self._flush_clients()

    def _execute(self, number: bytes, request: _Request) -> None:
        """Execute a request that waited until this node became its slot's primary."""
        del self._requests[number]
        del self._ids[request.message_id]
        reply = self._commands.handle(request.datagram, 0, len(request.datagram))
        if reply is None:
            return
        if self.may_serve():
            self._answer(request.origin, reply)
        else:
            self._counters.unfenced += 1


def _hops(origin: Client | Peer) -> int:
    return 0 if isinstance(origin, bytes) else origin[2]
