"""Requests that have to do with copies: writes that wait until all copies have them, and reads of such writes.

The core (app/cluster/replication) decides everything and touches no socket. Here a write for a slot that other nodes
keep copies of is given to it, and what is kept of its request lies in a table (`Waiter`) until all copies have it; so
does what is kept of a read, with its answer. When a turn of the loop ends, `settle` carries out what the core wants:
frames leave for peers, and those who have waited are answered.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from app.cluster.events import SELF
from app.cluster.replication.core import Replication
from app.cluster.replication.writes import IGNORED, WAITS
from app.cluster.slots import slots_of
from app.cluster.view import View
from app.fast import piece
from app.observe import logs
from app.observe.counters import REPLICATED, WAITED, Counters
from app.requests.answers import Answers
from app.requests.forwarding import FULL_WAIT_MS, IN_FLIGHT_BYTES
from app.requests.request import Request
from app.requests.turn import Turn
from app.requests.waiting import Kept, Waiting
from app.wire.protocol import GET, SYS_OVERLOAD_ERR, WIPEOUT

_log = logs.logger("copies")

# What a client is told to wait when slots are not served for a moment.
_CLOSED_WAIT_MS: Final = 50

# What is returned in place of the code to answer with.
REFUSED: Final = -1  # nothing was done; `wait_ms` says how long the client is to wait
NO_ANSWER: Final = -2  # it is answered when all copies have it, or never


class PeerLinks(Protocol):
    """Links to peers."""

    def send(self, peer: str, kind: int, body: bytes) -> bool: ...
    def is_up(self, peer: str) -> bool: ...
    def sever(self, peer: str) -> None: ...


class CopiesListener(Protocol):
    """Membership: it is told which learners have caught up, and of which slots this node should be no holder."""

    def synced(self, learner: str, slots: int, epoch: int) -> None: ...
    def copies_lost(self, slots: int, epoch: int) -> None: ...


class Core(Protocol):
    """What is taken over from membership's core after each of its steps."""

    routes: list[str]
    lease_until: float


@piece
class Waiter(Kept):
    """A request whose answer waits until all copies have a write: a PUT, REMOVE or WIPEOUT its own, a GET the latest
    one of its key."""

    __slots__ = ("command", "id_crc", "message_id", "reply")

    def __init__(self, request: Kept, command: int, message_id: bytes, id_crc: int, reply: bytes = b"") -> None:
        """`request`: that was kept. `reply`: what a GET is to be answered with."""
        self.datagram = request.datagram
        self.answer_to(request)
        self.is_uncertain = request.is_uncertain
        self.how = WAITED if reply else REPLICATED
        self.command = command
        self.message_id = message_id
        self.id_crc = id_crc
        self.reply = reply

    @property
    def kept_bytes(self) -> int:
        """What it takes: of a write's value there is another one, on its way to the copies."""
        return IN_FLIGHT_BYTES + 2 * len(self.datagram) + len(self.reply)


class WholeReplicator:
    """One node's. `Replicator` is this one, with what is compiled of it."""

    def __init__(
        self,
        replication: Replication,
        turn: Turn,
        waiting: Waiting,
        answers: Answers,
        counters: Counters,
        links: PeerLinks,
        membership: CopiesListener,
    ) -> None:
        self._replication = replication
        self._turn = turn
        self._waiting = waiting
        self._answers = answers
        self._waiters: dict[Waiter, None] = {}  # the longest-waiting first
        self._dropped: list[Waiter] = []  # they are to be seen to anew
        self._counters = counters
        self._links = links
        self._membership = membership
        self._is_due = False  # the core has something to be carried out, perhaps
        self.followed: Sequence[object] = replication.followed  # by slot: not None where others keep copies
        self.unacked: Mapping[bytes, object] = replication.unacked  # by key: its latest write is not on all of them
        self.wait_ms = 0  # after REFUSED

    # --- requests; the slot's route is SELF and the lease runs -------------------------------------------------------

    def mutate(
        self, request: Request, command: int, message_id: bytes, id_crc: int, slot: int, key: bytes, blob: bytes
    ) -> int:
        """Execute PUT or REMOVE: the code to answer with, or what stands above; NO_ANSWER as a rule."""
        request.keep()
        waiter = Waiter(request, command, message_id, id_crc)
        code = self._replication.execute(command, slot, key, blob, message_id, waiter, not self._waiting.full)
        self._wake()
        return self._outcome(waiter, code)

    def wipe_out(self, request: Request, message_id: bytes, id_crc: int) -> int:
        """Wipe all slots that this node leads, or none: as `mutate`, all copies of all of them.

        `request`: that was kept.
        Not while one of them is closed, or without a lease: nor is it told then that it was done before, for a copy of
        the closed one may not have heard of it.
        """
        replication = self._replication
        slots = [slot for slot, route in enumerate(self._turn.routes) if route == SELF]
        if len(slots) < replication.leading and not replication.is_under_way(message_id):
            if replication.remembers(message_id):
                return NO_ANSWER
            return self._refused(_CLOSED_WAIT_MS)
        waiter = Waiter(request, WIPEOUT, message_id, id_crc)
        code = replication.wipe(slots, message_id, waiter, may_wait=not self._waiting.full)
        self._wake()
        return self._outcome(waiter, code)

    def hold_read(self, request: Request, message_id: bytes, id_crc: int, key: bytes, reply: bytes) -> int:
        """Answer a GET when all copies have the latest write of its key, one in `unacked`: NO_ANSWER, or REFUSED."""
        if not self._waiting.full:
            request.keep()
            waiter = Waiter(request, GET, message_id, id_crc, reply)
            if self._replication.hold_read(key, waiter):
                self._enter(waiter)
                return NO_ANSWER
        return self._refused(FULL_WAIT_MS)

    def _outcome(self, waiter: Waiter, code: int) -> int:
        """What the core has said of it."""
        if code == WAITS:
            self._enter(waiter)
            return NO_ANSWER
        if code == SYS_OVERLOAD_ERR:
            return self._refused(self._replication.wait_ms)
        if code == IGNORED:
            return NO_ANSWER
        if code < 0:
            self._counters.retries_answered += 1
            return ~code
        return code

    def _refused(self, wait_ms: int) -> int:
        self.wait_ms = wait_ms
        return REFUSED

    def _enter(self, waiter: Waiter) -> None:
        """It waits from now on."""
        self._waiting.add(waiter.kept_bytes)
        self._waiters[waiter] = None

    def _take(self, waiter: Waiter) -> None:
        """It waits no more."""
        del self._waiters[waiter]
        self._waiting.remove(waiter.kept_bytes)

    def give_up(self, waiter: Waiter) -> None:
        """It has waited for too long, and is in the table no more: a read is refused, while a write may have taken
        effect or not, so it gets no answer."""
        if waiter.command == GET:
            refusal = self._answers.refusal(waiter, GET, waiter.message_id, waiter.id_crc, FULL_WAIT_MS)
            if refusal is not None:
                self._answers.deliver(waiter, refusal)

    # --- what happens around the node; called by the loop ------------------------------------------------------------

    def on_view(self, view: View, is_member: bool) -> None:
        """This node goes by this view from now on."""
        self._replication.on_view(view, is_member, self._turn.read_clock())
        self._wake()

    def on_reset(self) -> None:
        """This node was expelled: it holds nothing any more."""
        self._replication.reset()
        self._wake()

    def refresh(self, core: Core) -> None:
        """Membership has taken a step."""
        self._replication.refresh(core.routes, core.lease_until)
        self._wake()

    def link_up(self, peer: str) -> None:
        """There is a link to the peer; one that it replaces was told as down."""
        self._replication.link_up(peer, self._turn.read_clock())
        self._wake()

    def link_down(self, peer: str) -> None:
        """The link has ended: what was in it is lost."""
        self._replication.link_closed(peer)
        self._wake()

    def tick(self) -> None:
        """To be called every app.cluster.replication.core.REPLICATION_TICK_S."""
        self._replication.tick(self._turn.read_clock())
        self._wake()

    def on_frame(self, peer: str, kind: int, body: bytes) -> None:
        """A frame of one of the core's kinds (app.cluster.replication.frames.KINDS)."""
        if self._links.is_up(peer):  # else what came before it in the same read has ended the link
            self._replication.on_frame(peer, kind, body, self._turn.now_s)
            self._wake()

    def _wake(self) -> None:
        """Have what came of an event carried out at the end of this turn."""
        self._is_due = True
        if not self._turn.is_ending:
            self._turn.wake()

    # --- the end of the turn -----------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Carry out what the turn has brought about; whether requests may go on: slots have opened, or some are to be
        seen to anew (`take_dropped`).

        What membership and links do with it may set off more.
        """
        opened = False
        while self._is_due:
            self._is_due = False
            out = self._replication.flush()
            behind = [peer for peer, kind, body in out.frames if not self._links.send(peer, kind, body)]
            for peer in dict.fromkeys((*out.closed, *behind)):  # one that is too far behind would lack a frame for good
                self._links.sever(peer)
            for learner, slots, epoch in out.synced:
                self._membership.synced(learner, slots, epoch)
            for slots, epoch in out.lost:
                _log.error("copies_lost", slots=slots_of(slots), epoch=epoch)
                self._membership.copies_lost(slots, epoch)
            if out.emptied:
                _log.error("slots_start_empty", slots=slots_of(out.emptied))
            self._release(out.released)
            self._drop(out.dropped)
            opened = opened or out.opened
        return opened or bool(self._dropped)

    def _release(self, released: list[tuple[Waiter, int]]) -> None:
        """All copies have what these have waited for: answer those who still wait."""
        answers = self._answers
        for waiter, code in released:
            if waiter in self._waiters:
                self._take(waiter)
                reply = waiter.reply or answers.code(waiter.command, waiter.message_id, waiter.id_crc, code)
                answers.deliver(waiter, reply)

    def _drop(self, dropped: list[Waiter]) -> None:
        """These can't be answered here any more: those who still wait are to be seen to anew.

        Whoever leads the slot now may have the write or not: it remembers the answer if it has. A node that relays
        notices itself who leads now. A WIPEOUT gets no answer: there may be several that lead its slots.
        """
        for waiter in dropped:
            if waiter in self._waiters:
                self._take(waiter)
                if waiter.client and waiter.command != WIPEOUT:
                    if waiter.command != GET:
                        waiter.is_uncertain = True
                    self._dropped.append(waiter)

    def take_dropped(self) -> list[Waiter]:
        """Those who are to be seen to anew; from now on there are none."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def expire(self, now_s: float) -> None:
        """Give up those who have waited for too long. To be called several times a second."""
        for waiter in [waiter for waiter in self._waiters if now_s >= waiter.deadline_s]:
            self._take(waiter)
            self.give_up(waiter)
            waiter.datagram = waiter.reply = b""  # its write may keep it for long yet

    def snapshot(self) -> dict[str, int]:
        """What is counted, by name, and the state in numbers."""
        replication = self._replication
        faults = {f"copies_fault_{reason.replace(' ', '_')}": n for reason, n in sorted(replication.faults.items())}
        return faults | {
            "copies_slots_led": replication.leading,
            "copies_waiting_for_room": replication.short_of_room,
            "copies_writes_in_flight": replication.pending,
        }


@piece
class ShortReplicator:
    """What is compiled of WholeReplicator, in place of its methods: `mutate` and `_release`. As Python it is
    nothing."""


class Replicator(ShortReplicator, WholeReplicator):
    """The replicator of a node: see WholeReplicator."""
