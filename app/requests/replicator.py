"""Requests that have to do with copies: writes that wait until all copies have them, and reads of such writes.

The core (app/cluster/replication) decides everything and touches no socket. Here a write for a slot that other nodes
keep copies of is given to it, and what is kept of its request lies in a table until all copies have it; a read waits in
its greenlet, as does a WIPEOUT. When a turn of the loop ends, `settle` carries out what the core wants: frames leave
for peers, writes are answered, those who wait in greenlets go on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from app.cluster.events import SELF
from app.cluster.replication.core import Replication
from app.cluster.replication.writes import IGNORED, PARKED
from app.cluster.slots import slots_of
from app.cluster.view import View
from app.fast import piece
from app.observe import logs
from app.observe.counters import REPLICATED, WAITED, Counters
from app.requests.answers import Answers
from app.requests.forwarding import FULL_WAIT_MS, IN_FLIGHT_BYTES
from app.requests.request import Request
from app.requests.turn import Turn
from app.requests.waiting import Kept
from app.requests.workers import AGAIN, EXPIRED, Workers
from app.wire.protocol import NO_ERR, SYS_OVERLOAD_ERR

_log = logs.logger("copies")

# What a client is told to wait when slots are not served for a moment.
_CLOSED_WAIT_MS: Final = 50

# What is returned in place of the code to answer with.
REFUSED: Final = -1  # nothing was done; `wait_ms` says how long the client is to wait
NO_ANSWER: Final = -2  # it has waited too long, and may have taken effect or not
LOOK_AGAIN: Final = -3  # this node can't tell any more what becomes of it: see to the request anew


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
class WaitingWrite(Kept):
    """A PUT or REMOVE that waits until all copies have it."""

    __slots__ = ("command", "id_crc", "message_id")

    def __init__(self, request: Kept, command: int, message_id: bytes, id_crc: int) -> None:
        """`request`: that was kept."""
        self.datagram = request.datagram
        self.answer_to(request)
        self.is_uncertain = request.is_uncertain
        self.how = REPLICATED
        self.command = command
        self.message_id = message_id
        self.id_crc = id_crc

    @property
    def kept_bytes(self) -> int:
        """What it takes: of its value there is another one, on its way to the copies."""
        return IN_FLIGHT_BYTES + 2 * len(self.datagram)


class WholeReplicator:
    """One node's. `Replicator` is this one, with what is compiled of it."""

    def __init__(
        self,
        replication: Replication,
        turn: Turn,
        workers: Workers,
        answers: Answers,
        counters: Counters,
        links: PeerLinks,
        membership: CopiesListener,
    ) -> None:
        self._replication = replication
        self._turn = turn
        self._workers = workers
        self._waiting = workers.waiting
        self._answers = answers
        self._writes: dict[WaitingWrite, None] = {}  # the longest-waiting first
        self._dropped: list[WaitingWrite] = []  # they are to be seen to anew
        self._counters = counters
        self._links = links
        self._membership = membership
        self._is_due = False  # the core has something to be carried out, perhaps
        self.followed: Sequence[object] = replication.followed  # by slot: not None where others keep copies
        self.unacked: Mapping[bytes, object] = replication.unacked  # by key: its latest write is not on all of them
        self.wait_ms = 0  # after REFUSED

    # --- requests, each in its greenlet; the slot's route is SELF and the lease runs --------------------------------

    def mutate(
        self, request: Request, command: int, message_id: bytes, id_crc: int, slot: int, key: bytes, blob: bytes
    ) -> int:
        """Execute PUT or REMOVE: the code to answer with, or what stands above.

        NO_ANSWER as a rule: it is answered when all copies have it.
        """
        request.keep()
        write = WaitingWrite(request, command, message_id, id_crc)
        code = self._replication.execute(command, slot, key, blob, message_id, write, not self._waiting.full)
        self._wake()
        if code != PARKED:
            return self._outcome(request, code)
        self._waiting.add(write.kept_bytes)
        self._writes[write] = None
        return NO_ANSWER

    def _take(self, write: WaitingWrite) -> None:
        """It waits no more."""
        del self._writes[write]
        self._waiting.remove(write.kept_bytes)

    def wipe_out(self, request: Request, message_id: bytes) -> int:
        """Wipe all slots that this node leads, or none, and wait until all copies are wiped: as `mutate`.

        Not while one of them is closed, or without a lease: nor is it told then that it was done before, for a copy of
        the closed one may not have heard of it.
        """
        request.keep()
        replication = self._replication
        slots = [slot for slot, route in enumerate(self._turn.routes) if route == SELF]
        if len(slots) < replication.leading and not replication.is_under_way(message_id):
            if replication.remembers(message_id):
                return NO_ANSWER
            return self._refused(_CLOSED_WAIT_MS)
        code = replication.wipe(slots, message_id, request, may_wait=not self._waiting.full)
        self._wake()
        outcome = self._outcome(request, code)
        # What was not acknowledged is the next primaries' to decide on, and there may be several.
        return NO_ANSWER if outcome == LOOK_AGAIN else outcome

    def _outcome(self, request: Request, code: int) -> int:
        if code == SYS_OVERLOAD_ERR:
            return self._refused(self._replication.wait_ms)
        if code == IGNORED:
            return NO_ANSWER
        if code != PARKED:
            if code < 0:
                self._counters.retries_answered += 1
                return ~code
            return code
        request.how = REPLICATED
        outcome = self._workers.park(request)
        if outcome is EXPIRED:
            return NO_ANSWER
        if outcome is AGAIN:
            return LOOK_AGAIN
        assert isinstance(outcome, int), outcome
        return outcome

    def await_write(self, request: Request, key: bytes, answer_bytes: int) -> int:
        """Wait until all copies have the latest write of a key in `unacked`: NO_ERR, or what stands above.

        `answer_bytes`: of the answer that is kept meanwhile.
        """
        if self._waiting.full:
            return self._refused(FULL_WAIT_MS)
        request.keep()
        if not self._replication.hold_read(key, request):
            return self._refused(FULL_WAIT_MS)
        request.how = WAITED
        outcome = self._workers.park(request, answer_bytes)
        if outcome is EXPIRED:
            return self._refused(FULL_WAIT_MS)
        if outcome is AGAIN:
            return LOOK_AGAIN if request.client else NO_ANSWER
        return NO_ERR

    def _refused(self, wait_ms: int) -> int:
        self.wait_ms = wait_ms
        return REFUSED

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
        """Carry out what the turn has brought about; whether requests may go on: slots have opened, or writes are to be
        seen to anew (`take_dropped`).

        Those who waited go on in here, and what they do, or membership does, may set off more.
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
            woken = self._release(out.released)
            if out.dropped:
                woken += self._drop(out.dropped)
            if woken:
                self._workers.wake(woken)
            opened = opened or out.opened
        return opened or bool(self._dropped)

    def _release(self, released: list[tuple[Any, int]]) -> list[tuple[Request, object]]:
        """Answer the writes that all copies have. The others who have waited: they are to be woken."""
        others: list[tuple[Request, object]] = []
        for waiter, code in released:
            if not isinstance(waiter, WaitingWrite):
                others.append((waiter, code))
            elif waiter in self._writes:
                self._take(waiter)
                answers = self._answers
                reply = answers.code(waiter.command, waiter.message_id, waiter.id_crc, code)
                answers.deliver(waiter, reply)
        return others

    def _drop(self, dropped: list[Any]) -> list[tuple[Request, object]]:
        """These can't be answered here any more. Those who wait in greenlets: they are to be woken.

        Whoever leads the slot now may have the write or not: it remembers the answer if it has. A node that relays
        notices itself who leads now.
        """
        others: list[tuple[Request, object]] = []
        for waiter in dropped:
            if not isinstance(waiter, WaitingWrite):
                others.append((waiter, AGAIN))
            elif waiter in self._writes:
                self._take(waiter)
                if waiter.client:
                    waiter.is_uncertain = True
                    self._dropped.append(waiter)
        return others

    def take_dropped(self) -> list[WaitingWrite]:
        """The writes that are to be seen to anew; from now on there are none."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def expire(self, now_s: float) -> None:
        """Forget those who have waited too long: they may have taken effect or not, so they get no answer. To be called
        several times a second."""
        for write in [write for write in self._writes if now_s >= write.deadline_s]:
            self._take(write)

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
