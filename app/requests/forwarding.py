"""Requests for slots that other nodes serve: relayed to their primary, and its answer to whoever asked.

A misrouted request travels as a frame FORWARD over the ordered link to the primary, the client's datagram in it as it
came (after its deadline, by the receiver's clock, and the number of hops); the answer comes back in a frame ANSWER, the
datagram to send to the client. Nothing is encoded anew, and what belongs together is told by the messageID in both. All
frames of one loop turn to one peer leave in one write, so at load a forwarded request costs each side a fraction of a
system call.

All that is left to do for such a request is to pass the answer on, so no greenlet waits for it: what is kept of it lies
in a table (`InFlight`), in which the answer finds whom it is for. What else happens to those in the table:

- A retry of a request that is in flight is not forwarded again at once; its answer goes to the retry's sender. After
  RESEND_S it is: an answer may have been lost with a link, and the primary answers a repeated request from its memory.
- When nobody serves the slot (its primary has just died), or our lease has run out and we may be the one who is cut
  off, the request waits for the next view, until its deadline (request.py). When the slot has come to be served here,
  it is executed here (resumed.py).
- When the link to the primary is down, it waits for that, too; after DETOUR_S, in which a dead primary's slots have as
  a rule gone to others, it goes by way of another member, the coordinator if that can be reached. One detour, by
  whoever has the request from its client: it never goes in circles.
- After HOPS_MAX hops a request is refused for a moment: the nodes' tables disagree, which passes.
- SYS_OVERLOAD_ERR says that nothing was done. A write that was sent and not answered, or sent twice, to two nodes
  perhaps, may have taken effect; it is never refused, but left to its client's next try.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final, Protocol
from zlib import crc32

from app.cluster.events import SELF, UNKNOWN
from app.cluster.limits import HOPS
from app.cluster.membership.timing import SAFE_SHARE
from app.cluster.view import View
from app.fast import piece
from app.observe.counters import FORWARDED, WAITED
from app.peers.frames import FORWARD, FORWARD_BYTES, pack_forward
from app.requests.answers import Answers
from app.requests.request import Request
from app.requests.turn import Turn
from app.requests.waiting import Kept, Waiting
from app.wire.codec import DecodeError, is_refusal, parse_msg
from app.wire.protocol import GET

HOPS_MAX: Final = HOPS.most
# A retry that comes this long after the last forwarding is forwarded again. Below the clients' first timeout (150 ms),
# so that every retry but one in a burst of duplicates has a chance.
RESEND_S: Final = 0.1
# A primary whose link has been down for so long is asked by way of another member.
DETOUR_S: Final = 0.3
# How often what waits is looked through for what can go on or has waited too long.
SWEEP_S: Final = 0.05
# What clients are told to wait: tables settle within a heartbeat or two; what is full drains within some loop turns.
_EXPIRED_WAIT_MS: Final = 50
_HOPS_WAIT_MS: Final = 50
FULL_WAIT_MS: Final = 20
# What is kept of a request besides its datagram: the object, what it refers to, its place in the table (some 400 bytes
# measured over 5,000 of them: docs/memory.md).
IN_FLIGHT_BYTES: Final = 512


class PeerLink(Protocol):
    """A link to a peer that is up: see app/peers/links.py."""

    @property
    def peer(self) -> str: ...
    @property
    def clock_base_s(self) -> float: ...
    def put(self, header: bytes, body: bytes) -> bool: ...


@piece
class InFlight(Kept):
    """A request that waits for its slot's primary, or for its answer."""

    __slots__ = ("command", "message_id", "sent_over", "sent_s", "sent_to", "slot", "was_sent")

    sent_s: float

    def __init__(self, request: Kept, command: int, message_id: bytes, slot: int) -> None:
        """`request`: that was kept."""
        self.datagram = request.datagram
        self.answer_to(request)
        self.is_uncertain = request.is_uncertain
        self.how = FORWARDED
        self.command = command
        self.message_id = message_id
        self.slot = slot
        self.was_sent = False  # to another node, at least once
        self.sent_to = ""  # the primary it was last forwarded to; empty: it is not under way
        self.sent_over = ""  # the peer over whose link

    @property
    def kept_bytes(self) -> int:
        """What it takes."""
        return IN_FLIGHT_BYTES + len(self.datagram)


class WholeForwarding:
    """One node's requests to other nodes. `Forwarding` is this one, with what is compiled of it."""

    def __init__(
        self,
        turn: Turn,
        waiting: Waiting,
        answers: Answers,
        links: Mapping[str, PeerLink],
        *,
        routes: list[str],
    ) -> None:
        """`links`: those that are up, by peer; `routes`: by slot. Both are changed in place by their owners."""
        self._turn = turn
        self._waiting = waiting
        self._answers = answers
        self._links = links
        self._routes = routes
        self._clock_share = SAFE_SHARE
        self._members: Sequence[str] = ()  # the coordinator first
        self._down_since_s: dict[str, float] = {}  # when each peer's last link ended
        self._requests: dict[bytes, InFlight] = {}  # by messageID
        self.forwarded = 0
        self.duplicates = 0  # retries that joined a request in flight
        self.abandoned = 0  # requests that waited in vain

    @property
    def in_flight(self) -> int:
        """Requests that wait for a primary or for its answer."""
        return len(self._requests)

    def relay(self, request: Request, command: int, message_id: bytes, id_crc: int, slot: int) -> bytes | None:
        """See to it that the request is answered where its slot is served: None, as a rule.

        Else what it is to be answered with at once: a refusal.
        """
        first = self._requests.get(message_id)
        if first is not None:
            request.keep()
            self._join(first, request)
            return None
        if self._waiting.full:
            return self._answers.refusal(request, command, message_id, id_crc, FULL_WAIT_MS)
        request.keep()
        if request.hops >= HOPS_MAX:
            return self._answers.refusal(request, command, message_id, id_crc, _HOPS_WAIT_MS)
        kept = self._requests[message_id] = InFlight(request, command, message_id, slot)
        self._waiting.add(kept.kept_bytes)
        self._send(kept)
        return None

    def _join(self, first: InFlight, retry: Kept) -> None:
        """A retry of a request in flight: the answer goes to whoever asked last."""
        self.duplicates += 1
        first.is_uncertain = first.is_uncertain or retry.is_uncertain
        if retry.hops <= first.hops:  # not our own forwarding, come back in a circle
            first.answer_to(retry)
        if first.sent_to and self._turn.now_s - first.sent_s >= RESEND_S:
            self._send(first)

    def _send(self, request: InFlight) -> None:
        """Forward a request to its slot's primary, or let it wait when there is none or no way to it.

        What it takes along is its deadline by the clock of whoever is to execute it: never later than ours.
        """
        route = self._routes[request.slot]
        if route != SELF and route != UNKNOWN and self._turn.may_forward:
            link = self._links.get(route) or self._detour(request, route)
            if link is not None:
                datagram = request.datagram
                deadline_s = request.deadline_s * self._clock_share + link.clock_base_s
                header = pack_forward(FORWARD_BYTES + len(datagram), FORWARD, deadline_s, request.hops + 1)
                if link.put(header, datagram):
                    if request.was_sent and request.command != GET:
                        request.is_uncertain = True
                    request.was_sent = True
                    request.sent_to = route
                    request.sent_over = link.peer
                    request.sent_s = self._turn.now_s
                    self.forwarded += 1
                    return
        request.sent_to = ""

    def _detour(self, request: InFlight, primary: str) -> PeerLink | None:
        """A way to a primary that we have no link to."""
        if request.hops or self._turn.now_s - self._down_since_s.get(primary, -inf) < DETOUR_S:
            return None
        ways = (self._links.get(member) for member in self._members)
        return next((link for link in ways if link is not None), None)

    def _take(self, request: InFlight) -> None:
        """It waits no more."""
        del self._requests[request.message_id]
        self._waiting.remove(request.kept_bytes)

    def give_up(self, request: InFlight) -> None:
        """It has waited for too long, and is in the table no more: refused, unless it may have taken effect."""
        self.abandoned += 1
        request.how = WAITED
        if not request.was_sent or request.command == GET:
            message_id = request.message_id
            refusal = self._answers.refusal(request, request.command, message_id, crc32(message_id), _EXPIRED_WAIT_MS)
            if refusal is not None:
                self._answers.deliver(request, refusal)

    # --- what happens around the node; called by the loop ------------------------------------------------------------

    def answer(self, peer: str, replies: Sequence[bytes]) -> None:
        """Pass on what a peer's frames ANSWER have brought. What nobody waits for, from this peer, is ignored."""
        for reply in replies:
            if reply[:2] == b"\n\x10":  # a messageID of 16 bytes, laid out by a node: see encode_response
                message_id = reply[2:18]
            else:
                try:
                    message_id = parse_msg(reply).messageID
                except DecodeError:
                    continue
            request = self._requests.get(message_id)
            if request is not None and request.sent_over == peer:
                self._take(request)
                if not (request.is_uncertain and is_refusal(reply)):
                    self._answers.deliver(request, reply)

    def link_down(self, peer: str) -> None:
        """What was sent over this link may be lost: it waits until there is a way again."""
        self._down_since_s[peer] = self._turn.read_clock()
        for request in self._requests.values():
            if request.sent_to and request.sent_over == peer:
                request.sent_to = ""

    def on_view(self, view: View) -> None:
        """This node goes by this view from now on."""
        self._members = view.addresses
        self._down_since_s = {peer: s for peer, s in self._down_since_s.items() if peer in view.incarnations}

    def sweep(self) -> list[InFlight]:
        """Send those for whom there is a way by now, also to a new primary what was sent to one that is it no more, and
        give up those who have waited for too long.

        Returns those whose slot has come to be served here: they are to be executed, and wait no more. To be called
        when a route has changed and every SWEEP_S, in a turn that was opened.
        """
        here: list[InFlight] = []
        turn, routes = self._turn, self._routes
        for request in list(self._requests.values()):
            route = routes[request.slot]
            if turn.now_s >= request.deadline_s:
                self._take(request)
                self.give_up(request)
            elif route == SELF:
                if turn.serving:
                    self._take(request)
                    # What was sent may have been executed there; the copies know, but a refusal here would be no proof.
                    if request.was_sent and request.command != GET:
                        request.is_uncertain = True
                    here.append(request)
            elif route != UNKNOWN and request.sent_to != route:
                self._send(request)
        return here


@piece
class ShortForwarding:
    """What is compiled of WholeForwarding, in place of its methods: `relay`, `_send` and `answer`. As Python it is
    nothing."""


class Forwarding(ShortForwarding, WholeForwarding):
    """The forwarding of a node: see WholeForwarding."""
