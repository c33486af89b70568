"""A backup's or learner's side: apply what the primary orders, exactly, or say what is there and get the slot again.

A *session* covers one slot under one primary's term. It begins with GO (the copy is where the primary wants it) or
BEGIN (the whole slot follows) in answer to our latest report (HAVE), and ends with the view that names another primary,
with the link, or with an op that does not follow. Within it ops come in order on an ordered link.

An example: b is a backup of slot 7, its copy at position (4, 20), that is, the 20th write, ordered in term 4.

    0.000  View 5 makes a the primary, in term 5. b reports: HAVE number 1, slot 7 at (4, 20).
    0.001  a's copy is there too, and two writes are in its log since: GO number 1 from (4, 20), and OPS 21 and 22.
    0.002  b applies them, and remembers their replies: its copy is at (5, 22). At the turn's end it sends an ACK of 22.
    0.100  a dies. View 6 makes c the primary, in term 6; only write 21 had reached c, whose copy is at (5, 21).
    0.101  b reports: HAVE number 2, slot 7 at (5, 22).
    0.102  c has no write 22 of term 5, so b's copy can't go on: BEGIN number 2 from (5, 21), and then all entries.
    0.103  b gathers them beside its copy, which still counts as the one at (5, 22).
    0.200  END: b puts what it has gathered in its copy's place; it is at (5, 21) now, or further by the writes since.

A copy that is whole stays until its successor is: what BEGIN announces is gathered beside it (staging.py)
and put in its place at END, replies included. For the view may make this node the primary at any moment, and a whole
copy has every write that was ever acknowledged; half a copy has not. Only a copy that is not whole, or empty, is filled
in place. Rejected: wiping first, which loses acknowledged writes when the primary dies in that very moment.

What is gathered is bounded for the node, whatever is sent by however many primaries: past STAGING_SOFT_BYTES only one
of them gets credit for more chunks; past STAGING_MAX_BYTES the largest copy goes on in place after all, one that has
another holder besides the primary before others.
"""

from dataclasses import dataclass
from typing import Final

from app.cluster.replication import frames
from app.cluster.replication.frames import NOWHERE, OpFields, Position
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
# A slot that needs more than the second is dozens of times the usual size.
STAGING_SOFT_BYTES: Final = 2 * 1024 * 1024
STAGING_MAX_BYTES: Final = 8 * 1024 * 1024
assert STAGING_SOFT_BYTES < STAGING_MAX_BYTES


@dataclass(slots=True)
class Session:
    """See the module."""

    primary: str
    term: int
    base: Position  # where it began
    seq: int
    is_whole: bool  # the copy in the store is whole and at (base or) seq
    staging: Staging | None = None

    @property
    def position(self) -> Position:
        return self.base if self.seq == self.base[1] else (self.term, self.seq)


class Follower:
    """All slots that this node holds for others."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.sessions: dict[int, Session] = {}
        self._mine: set[int] = set()  # slots we are backup or learner of
        self._reported: dict[int, tuple[int, float]] = {}  # slot: number and time of our report
        self._number = 0
        self._unacknowledged: dict[str, dict[int, None]] = {}
        self._credit: dict[str, int] = {}  # chunks taken, by link
        self._owed: set[str] = set()  # primaries that wait for their credit
        self.staged_bytes = 0  # gathered beside whole copies
        self.staging_soft_bytes = STAGING_SOFT_BYTES
        self.staging_max_bytes = STAGING_MAX_BYTES
        self._told: dict[str, int] = {}  # flags last told

    # Views and links.

    def entered(self, mine: set[int]) -> None:
        """A view was installed in which these slots are ours to follow."""
        self._mine = mine
        for slot, session in list(self.sessions.items()):
            if slot not in mine or not self._shared.leads(session.primary, slot):
                self._end(slot)
        self._reported.clear()
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
        self._owed.discard(peer)
        for slot, session in list(self.sessions.items()):
            if session.primary == peer:
                self._end(slot)

    def _end(self, slot: int) -> None:
        session = self.sessions.pop(slot)
        self._unstage(session)
        self._reported.pop(slot, None)
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
        for slot in sorted(slots):
            primary = shared.primary(slot)
            if primary in shared.links:
                assert primary is not None
                if slot in self.sessions:
                    self._end(slot)
                number, _ = self._reported.get(slot, (self._number, 0.0))
                self._reported[slot] = (number, shared.now)
                by_report.setdefault((primary, number), []).append(slot)
        for (primary, number), some in by_report.items():
            rows = [(slot, shared.positions[slot] or NOWHERE) for slot in some]
            shared.send(primary, frames.HAVE, frames.encode_have(*shared.view_name, number, rows))

    def tick(self) -> None:
        """Report again where nothing was agreed on; tell a change of our flags."""
        shared = self._shared
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
                self.sessions[slot] = Session(peer, term, position, position[1], is_whole=True)
                self._note(peer, slot)

    def on_begin(self, peer: str, body: bytes) -> None:
        shared = self._shared
        number, rows = frames.decode_start(body)
        emptied = 0
        for slot, term, position in rows:
            if not self._answers(peer, slot, number):
                continue
            del self._reported[slot]
            session = Session(peer, term, position, position[1], is_whole=False)
            self.sessions[slot] = session
            if shared.positions[slot] in (None, (0, 0)):
                shared.positions[slot] = None
                emptied |= 1 << slot
            else:
                session.staging = Staging(shared.store, slot)
        shared.store.wipe(slots_of(emptied))
        shared.replies.forget_slots(emptied)

    def _answers(self, peer: str, slot: int, number: int) -> bool:
        """Whether this is the primary's answer to our latest report."""
        asked = self._reported.get(slot)
        return asked is not None and asked[0] == number and self._shared.leads(peer, slot)

    def on_ops(self, peer: str, body: bytes) -> None:
        gaps = set()
        for op in frames.decode_ops(body):
            session = self.sessions.get(op.slot)
            if session is None or session.primary != peer or session.term != op.term:
                continue
            if not self._shared.leads(peer, op.slot):
                self._shared.faults["stale op"] += 1
            elif op.seq != session.seq + 1:
                gaps.add(op.slot)
            elif self._apply(session, op):
                session.seq = op.seq
                if session.is_whole:
                    self._shared.positions[op.slot] = session.position
                    self._note(peer, op.slot)
            else:
                self._end(op.slot)  # no room: asked again by the next tick, when there may be
                self._shared.faults["no room"] += 1
        self.report({slot for slot in gaps if slot in self.sessions})
        self._bound_staging()

    def _apply(self, session: Session, op: OpFields) -> bool:
        """Change the copy; False, nothing changed, if there is no room and nothing may be evicted."""
        if (staging := session.staging) is not None:
            self.staged_bytes += staging.apply(op)
            return True
        if not self._shared.mutations.apply(op.kind, op.slot, op.key, op.blob):
            return False
        self._remember(op.message_id, op.slot, op.code)
        return True

    def _put(self, slot: int, key: bytes, blob: bytes) -> bool:
        return self._shared.mutations.apply(SET, slot, key, blob)

    def _remember(self, message_id: bytes, slot: int, code: int) -> None:
        if message_id and self._shared.replies.get(message_id) is None:
            self._shared.replies.add(message_id, slot, code)

    def on_entries(self, peer: str, body: bytes) -> None:
        for slot, key, blob in frames.decode_entries(body):
            session = self._filling(peer, slot)
            if session is None:
                continue
            if session.staging is not None:
                self.staged_bytes += session.staging.put(key, blob)
            elif not self._put(slot, key, blob):
                self._end(slot)
                self._shared.faults["no room"] += 1
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
        if not self._owed:
            return
        waiting: set[str] = set()
        if self.staged_bytes > self.staging_soft_bytes:
            gathered = dict.fromkeys(session.primary for session in self.sessions.values() if session.staging)
            waiting = set(list(gathered)[1:])
        for peer in sorted(self._owed - waiting):
            self._shared.send(peer, frames.CREDIT, frames.encode_credit(self._credit[peer]))
        self._owed &= waiting

    def _bound_staging(self) -> None:
        """Fill the largest copies in place, rather than to exceed the bound: see the module."""
        shared = self._shared
        while self.staged_bytes > self.staging_max_bytes:
            _, _, slot = max(
                (self._is_held_elsewhere(slot, session), session.staging.size_bytes, slot)
                for slot, session in self.sessions.items()
                if session.staging
            )
            staging = self._unstage(self.sessions[slot])
            assert staging is not None
            shared.positions[slot] = None
            shared.faults["staging full"] += 1
            shared.replies.forget_slots(1 << slot)
            if not self._replace(slot, staging):
                self._end(slot)
                shared.faults["no room"] += 1

    def _is_held_elsewhere(self, slot: int, session: Session) -> bool:
        """Whether the view names another holder than the primary and us."""
        view = self._shared.view
        return view is not None and bool({*view.holders(slot)} - {session.primary, self._shared.address})

    def on_end(self, peer: str, body: bytes) -> None:
        shared = self._shared
        whole = []
        replaced = 0
        for slot, term in frames.decode_end(body):
            session = self._filling(peer, slot)
            if session is not None and session.term == term:
                whole.append((slot, session))
                replaced |= (session.staging is not None) << slot
        shared.replies.forget_slots(replaced)
        for slot, session in whole:
            if session.staging is not None and not self._replace(slot, session.staging):
                shared.positions[slot] = None
                self._end(slot)
                shared.faults["no room"] += 1
                continue
            self._unstage(session)
            session.is_whole = True
            shared.positions[slot] = session.position
            self._note(peer, slot)
        self._give_credit()

    def _replace(self, slot: int, staging: Staging) -> bool:
        """Make the copy in place what was gathered; False if there is no room for all of it."""
        store = self._shared.store
        for key in store.keys(slot):
            if key not in staging.entries:
                store.remove(slot, key)
        for message_id, code in staging.replies.items():
            self._remember(message_id, slot, code)
        return all(self._put(slot, key, blob) for key, blob in staging.entries.items() if blob is not None)

    # Acknowledging.

    def _note(self, peer: str, slot: int) -> None:
        self._unacknowledged.setdefault(peer, {})[slot] = None

    def flush(self) -> None:
        """Acknowledge all that was applied: one frame a primary."""
        if not self._unacknowledged:
            return
        flags = self._shared.flags()
        for peer, slots in self._unacknowledged.items():
            rows = [(slot, session.term, session.seq) for slot in slots if (session := self.sessions.get(slot))]
            assert len(rows) <= SLOT_COUNT
            self._told[peer] = flags
            self._shared.send(peer, frames.ACK, frames.encode_ack(flags, rows))
        self._unacknowledged.clear()
