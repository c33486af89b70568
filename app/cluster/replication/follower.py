"""A backup's or learner's side: apply what the primary orders, exactly, or say what is there and get the slot again.

A *session* covers one slot under one primary's term. It begins with GO (the copy is where the primary wants it), PATCH
or BEGIN (what differs, or the whole slot, follows) in answer to our latest report (HAVE), and ends with the view that
names another primary, with the link, or with an op that does not follow. Within it ops come in order.

An example: b is a backup of slot 7, its copy at position (4, 20), that is, the 20th write, ordered in term 4.

    0.000  View 5 makes a the primary, in term 5. b reports: HAVE number 1, slot 7 at (4, 20).
    0.001  a's copy is there too, and two writes are in its log since: GO number 1 from (4, 20), and OPS 21 and 22.
    0.002  b applies them, and remembers their replies: its copy is at (5, 22). At the turn's end it sends an ACK of 22.
    0.100  a dies. View 6 makes c the primary, in term 6; only write 21 had reached c, whose copy is at (5, 21).
    0.101  b reports: HAVE number 2, slot 7 at (5, 22).
    0.102  c has no write 22 of term 5, so b's copy can't go on: PAST number 2, its copy was at 17 to 21 before.
    0.103  So was b's: TOUCHED number 2 from (5, 21), since when write 22 has set key x.
    0.104  PATCH number 2, and x as c has it: b gathers that beside its copy, which still counts as the one at (5, 22).
    0.105  END: b puts it in place and forgets the reply of write 22; it is at (5, 21), or further by the writes since.

Had b not known its last writes any more, or c its own, BEGIN would have come, and all entries.

A copy that is whole stays until its successor is: what PATCH or BEGIN announces is gathered beside it (staging.py)
and put in its place at END, replies included. For the view may make this node the primary at any moment, and a whole
copy has every write that was ever acknowledged; half a copy has not. Only a copy that is not whole is filled in place,
and one that is empty, if the view names this node a learner. Rejected: wiping first, which loses acknowledged writes
when the primary dies in that very moment.

What is gathered is bounded for the node, whatever is sent by however many primaries: past a quarter of the bound only
one of them gets credit for more chunks; past the bound the slots begun last wait for their turn. One that exceeds it
alone is *lost*: the node says so, keeps what it has, and waits for a view that names it a learner of the slot; from
then on the copy counts no more, and is filled in place.
"""

from typing import Final

from app.cluster.replication import frames
from app.cluster.replication.applying import Applying, Session
from app.cluster.replication.frames import NOWHERE, Patch
from app.cluster.replication.recent import Stretch
from app.cluster.replication.staging import Staging
from app.cluster.replication.state import Shared
from app.cluster.slots import slots_of
from app.storage.mutate import SET
from app.wire.protocol import SLOT_COUNT

# How long an unanswered report stands before it is sent again; the answer may be late because the primary is
# busy with other slots, which costs 13 bytes a slot.
RETRY_S: Final = 0.3

# Gathered beside whole copies, over all primaries. The governor takes it off what the store may hold. Only what differs
# from the copy in place is kept, so that the usual repair (a slot with a few writes that one copy lacks) takes little.
# A slot that needs more is dozens of times the usual size. Of little memory at most this part; past this part of the
# bound only one primary goes on.
STAGING_MAX_BYTES: Final = 8 * 1024 * 1024
STAGING_SHARE: Final = 16
_SOFT_PART: Final = 4

# When a copy that was filled in place has found no room, one is tried again after so long, twice as long each time.
ROOM_PAUSE_S: Final = 0.5
ROOM_PAUSE_MAX_S: Final = 30.0


class Follower(Applying):
    """All slots that this node holds for others."""

    def __init__(self, shared: Shared, staging_max_bytes: int = STAGING_MAX_BYTES) -> None:
        super().__init__(shared)
        self._mine: set[int] = set()  # slots we are backup or learner of
        self._reported: dict[int, tuple[int, float]] = {}  # slot without a session: number and time of our report
        self._number = 0
        self._waiting: dict[int, None] = {}  # reported once nothing is gathered any more, some at a time
        self._at_once = SLOT_COUNT  # how many of those
        self._lost: set[int] = set()  # of this view; see the module
        # Slots that did not fit when they were filled in place. While there is one, nothing else is filled in place
        # either: it would hardly fit, and be sent in vain. The longest-waiting is tried when its time has come.
        self._no_room: dict[int, None] = {}
        self._room_pause_s = ROOM_PAUSE_S
        self._room_at = 0.0
        self._credit: dict[str, int] = {}  # chunks taken, by link
        self._owed: set[str] = set()  # primaries that wait for their credit
        self.staging_soft_bytes = staging_max_bytes // _SOFT_PART
        self.staging_max_bytes = staging_max_bytes
        self._told: dict[str, int] = {}  # flags last told

    @property
    def short_of_room(self) -> int:
        """How many slots wait for room, to be filled."""
        return len(self._no_room)

    # Views and links.

    def entered(self, mine: set[int]) -> None:
        """A view was installed in which these slots are ours to follow."""
        self._mine = mine
        for slot, session in list(self.sessions.items()):
            if slot not in mine or not self._shared.leads(session.primary, slot):
                self._end(slot)
        self._reported.clear()
        self._waiting.clear()
        self._lost.clear()
        for slot in self._no_room.keys() - mine:
            del self._no_room[slot]
        shared = self._shared
        self._lose({slot for slot in mine if shared.positions[slot] is None and shared.holds(slot)})
        self.report(mine - self.sessions.keys())

    def link_up(self, peer: str) -> None:
        self._credit[peer] = 0
        self._owed.discard(peer)
        self._told.pop(peer, None)
        mine = {slot for slot in self._mine if self._shared.leads(peer, slot)}
        for slot in mine:
            self._reported.pop(slot, None)
        self.report(mine)

    def link_closed(self, peer: str) -> None:
        self.forget_process(peer)

    def forget_process(self, peer: str) -> None:
        """Nothing of what was agreed on with the peer counts any more. The link goes on, and so does its credit."""
        for slot, session in list(self.sessions.items()):
            if session.primary == peer:
                self._end(slot)

    def _end(self, slot: int) -> None:
        session = self.sessions.pop(slot)
        self._unstage(session)
        self._unacknowledged.get(session.primary, {}).pop(slot, None)

    def _unstage(self, session: Session) -> Staging | None:
        staging, session.staging = session.staging, None
        if staging is not None:
            self.staged_bytes -= staging.size_bytes
        return staging

    def report(self, slots: set[int]) -> None:
        """Tell the primaries what we have of these slots; whatever was agreed on before is void.

        A report that is sent again keeps its number: the primary that has taken it takes it once.
        """
        shared = self._shared
        self._number = self._number % 0xFFFFFFFF + 1
        by_report: dict[tuple[str, int], list[int]] = {}
        for slot in sorted(slots - self._waiting.keys() - self._lost - self._short_of_room(slots)):
            primary = shared.primary(slot)
            if primary in shared.links:
                assert primary is not None
                if slot in self.sessions:
                    self._end(slot)
                number = self._reported[slot][0] if slot in self._reported else self._number
                self._reported[slot] = (number, shared.now)
                by_report.setdefault((primary, number), []).append(slot)
        for (primary, number), some in by_report.items():
            rows = [(slot, shared.positions[slot] or NOWHERE) for slot in some]
            shared.send(primary, frames.HAVE, frames.encode_have(*shared.view_name, number, rows))

    def _short_of_room(self, slots: set[int]) -> set[int]:
        """Which of these slots are to wait for room."""
        if not self._no_room:
            return set()
        shared = self._shared
        short = {slot for slot in slots if shared.positions[slot] is None or not shared.holds(slot)}
        tried = next(iter(self._no_room))
        is_due = shared.now >= self._room_at
        return short - {tried} if is_due else short

    def tick(self) -> None:
        """Report again where nothing was agreed on; tell a change of our flags."""
        shared = self._shared
        self._resume()
        due = {
            slot
            for slot in self._mine - self.sessions.keys()
            if slot not in self._reported or shared.now - self._reported[slot][1] >= RETRY_S
        }
        self.report(due)
        self._give_credit()  # those who had it may have gone
        flags = shared.flags()
        for peer in sorted({session.primary for session in self.sessions.values()}):
            if self._told.get(peer, 0) != flags:
                self._unacknowledged.setdefault(peer, {})

    # Frames.

    def on_query(self, peer: str, body: bytes) -> None:
        epoch, nonce, slots = frames.decode_query(body)
        if (epoch, nonce) == self._shared.view_name:
            self.report({slot for slot in slots if slot in self._mine and self._shared.leads(peer, slot)})

    def on_go(self, peer: str, body: bytes) -> None:
        number, rows = frames.decode_start(body)
        for slot, term, position in rows:
            if self._answers(peer, slot, number) and self._shared.positions[slot] == position:
                del self._reported[slot]
                self.sessions[slot] = Session(peer, term, position, is_whole=True)
                self._note(peer, slot)

    def on_begin(self, peer: str, body: bytes) -> None:
        shared = self._shared
        number, rows = frames.decode_start(body)
        emptied = 0
        for slot, term, position in rows:
            if not self._answers(peer, slot, number):
                continue
            del self._reported[slot]
            session = Session(peer, term, position, is_whole=False)
            self.sessions[slot] = session
            if shared.positions[slot] is None or (shared.positions[slot] == (0, 0) and not shared.holds(slot)):
                shared.positions[slot] = None
                emptied |= 1 << slot
            else:
                session.staging = Staging(shared.store, slot)
        shared.store.wipe(slots_of(emptied))
        shared.replies.forget_slots(emptied)

    def on_past(self, peer: str, body: bytes) -> None:
        """Positions that the primary's copies have met: tell the last that ours have met, too, and what came since."""
        shared = self._shared
        number, rows = frames.decode_past(body)
        stretches: dict[int, list[Stretch]] = {}
        for slot, term, first, last in rows:
            if self._answers(peer, slot, number):
                stretches.setdefault(slot, []).append((term, first, last))
        at = {slot: position for slot in stretches if (position := shared.positions[slot]) is not None}
        met = shared.recent.met(at, stretches)
        touched = shared.recent.since({slot: at[slot] for slot in met}, met)
        part: list[Patch] = []
        size_bytes = 0
        for slot in stretches:
            patch = Patch(slot, 0, met[slot], *touched[slot]) if slot in met else _unknown(slot)
            if patch.size_bytes > frames.FRAME_FILL_BYTES:
                patch = _unknown(slot)
            if part and size_bytes + patch.size_bytes > frames.FRAME_FILL_BYTES:
                shared.send(peer, frames.TOUCHED, frames.encode_patches(number, part))
                part, size_bytes = [], 0
            part.append(patch)
            size_bytes += patch.size_bytes
        if part:
            shared.send(peer, frames.TOUCHED, frames.encode_patches(number, part))

    def on_patch(self, peer: str, body: bytes) -> None:
        """What follows is of these keys and messageIDs only: in all others the copy in place is as the primary's."""
        shared = self._shared
        number, patches = frames.decode_patches(body)
        for patch in patches:
            slot = patch.slot
            if self._answers(peer, slot, number) and shared.positions[slot] is not None:
                del self._reported[slot]
                staging = Staging(shared.store, slot, patch)
                self.sessions[slot] = Session(peer, patch.term, patch.position, is_whole=False, staging=staging)
                self.staged_bytes += staging.size_bytes
        self._bound_staging()

    def _answers(self, peer: str, slot: int, number: int) -> bool:
        """Whether this is the primary's answer to our latest report."""
        asked = self._reported.get(slot)
        return asked is not None and asked[0] == number and self._shared.leads(peer, slot)

    def on_ops(self, peer: str, body: bytes) -> None:
        gaps = self.apply_ops(peer, body)
        if gaps is None:
            raise frames.BadFrame(f"ops that are not sound, in {len(body)} bytes")
        if gaps:
            self.report({slot for slot in gaps if slot in self.sessions})
        self._bound_staging()

    def _had_no_room(self, slot: int, session: Session) -> None:
        if session.is_whole:
            self._end(slot)  # asked again by the next tick, when there may be
            self._shared.faults["no room"] += 1
        else:
            self._ran_out_of_room(slot)

    def _put(self, slot: int, key: bytes, blob: bytes) -> bool:
        return self._mutations.apply(SET, slot, key, blob)

    def _put_oldest(self, slot: int, key: bytes, blob: bytes) -> bool:
        """An entry that the primary has had: of a full store it goes before those that are written meanwhile."""
        store = self._shared.store
        if store.put_oldest(slot, key, blob):
            return True
        if store.evicts:
            store.remove(slot, key)
        return store.evicts

    def on_entries(self, peer: str, body: bytes) -> None:
        for slot, key, blob in frames.decode_entries(body):
            session = self._filling(peer, slot)
            if session is None:
                continue
            if session.staging is not None:
                self.staged_bytes += session.staging.put(key, blob)
            elif not self._put_oldest(slot, key, blob):
                self._ran_out_of_room(slot)
        self._took(peer)

    def on_replies(self, peer: str, body: bytes) -> None:
        for slot, code, message_id in frames.decode_replies(body):
            session = self._filling(peer, slot)
            if session is None:
                continue
            if session.staging is not None:
                self.staged_bytes += session.staging.remember(message_id, code)
            else:
                self._remember(message_id, slot, code)
        self._took(peer)

    def _filling(self, peer: str, slot: int) -> Session | None:
        session = self.sessions.get(slot)
        return session if session and session.primary == peer and not session.is_whole else None

    def _took(self, peer: str) -> None:
        self._bound_staging()
        self._credit[peer] = (self._credit.get(peer, 0) + 1) & 0xFFFFFFFF
        self._owed.add(peer)
        self._give_credit()

    def _give_credit(self) -> None:
        """Have those send more that may: past the soft bound only the first of those whose slots are gathered."""
        waiting: set[str] = set()
        if self.staged_bytes > self.staging_soft_bytes:
            gathered = dict.fromkeys(session.primary for session in self.sessions.values() if session.staging)
            waiting = set(list(gathered)[1:])
        for peer in sorted(self._owed - waiting):
            self._shared.send(peer, frames.CREDIT, frames.encode_credit(self._credit[peer]))
        self._owed &= waiting

    def _bound_staging(self) -> None:
        """Have slots wait for their turn, the ones begun last first, rather than exceed the bound: see the module."""
        while self.staged_bytes > self.staging_max_bytes:
            gathered = [slot for slot, session in self.sessions.items() if session.staging is not None]
            slot = gathered[-1]
            self._end(slot)
            if len(gathered) > 1:
                self._waiting[slot] = None
                self._at_once = max(1, len(gathered) // 2)
                self._shared.faults["staging full"] += 1
            else:
                self._can_not_stage(slot)

    def _can_not_stage(self, slot: int) -> None:
        """There is no room for the new copy beside the old one."""
        if self._shared.holds(slot):
            self._lose({slot})
        else:
            self._shared.positions[slot] = None  # filled in place, when it is reported the next time

    def _lose(self, slots: set[int]) -> None:
        """Say that this node should be a holder of these slots no more."""
        self._lost |= slots
        self._shared.lose(slots)

    def _resume(self) -> None:
        """Report those that have waited for long enough."""
        if self._waiting and not any(session.staging is not None for session in self.sessions.values()):
            for slot in list(self._waiting)[: self._at_once]:
                del self._waiting[slot]
            self._at_once = min(SLOT_COUNT, 2 * self._at_once)

    def _ran_out_of_room(self, slot: int) -> None:
        """A copy that is filled in place does not fit: what came of it makes room for others."""
        shared = self._shared
        self._end(slot)
        shared.faults["no room"] += 1
        shared.store.wipe((slot,))
        shared.replies.forget_slots(1 << slot)
        if slot in self._no_room:  # it was tried again
            del self._no_room[slot]
            self._room_pause_s = min(ROOM_PAUSE_MAX_S, 2 * self._room_pause_s)
        elif not self._no_room:
            self._room_pause_s = ROOM_PAUSE_S
        self._no_room[slot] = None
        self._room_at = shared.now + self._room_pause_s

    def on_end(self, peer: str, body: bytes) -> None:
        shared = self._shared
        for slot, term in frames.decode_end(body):
            session = self._filling(peer, slot)
            if session is None or session.term != term:
                continue
            staging = self._unstage(session)
            if staging is not None and not self._replace(slot, staging):
                continue
            if slot in self._no_room:  # there is room again: the next one is tried at once
                del self._no_room[slot]
                self._room_pause_s, self._room_at = ROOM_PAUSE_S, shared.now
            session.is_whole = True
            shared.positions[slot] = session.position
            self._note(peer, slot)
        self._give_credit()

    def _replace(self, slot: int, staging: Staging) -> bool:
        """Make the copy in place what was gathered; False, and its session is over, if there is no room for that."""
        shared, store = self._shared, self._shared.store
        if not store.evicts and staging.changed_bytes > store.room_bytes:
            shared.faults["no room"] += 1
            self._end(slot)
            self._can_not_stage(slot)
            return False
        staging.commit(shared.replies)
        for message_id, code in staging.replies.items():
            self._remember(message_id, slot, code)
        if all(self._put(slot, key, blob) for key, blob in staging.entries.items() if blob is not None):
            return True
        # There seemed to be room. What is left is neither the old copy nor the new one.
        shared.positions[slot] = None
        self._ran_out_of_room(slot)
        if shared.holds(slot):
            self._lose({slot})
        return False

    # Acknowledging.

    def _note(self, peer: str, slot: int) -> None:
        self._unacknowledged.setdefault(peer, {})[slot] = None

    def flush(self) -> None:
        """Acknowledge all that was applied: one frame a primary."""
        if not self._unacknowledged:
            return
        flags = self._shared.flags()
        for peer, slots in self._unacknowledged.items():
            rows = [(slot, session.term, session.position[1]) for slot in slots if (session := self.sessions.get(slot))]
            assert len(rows) <= SLOT_COUNT
            self._told[peer] = flags
            self._shared.send(peer, frames.ACK, frames.encode_ack(flags, rows))
        self._unacknowledged.clear()


def _unknown(slot: int) -> Patch:
    """That nobody can say, or it is too much, what a copy has that its primary has not."""
    return Patch(slot, 0, NOWHERE, [], [])
