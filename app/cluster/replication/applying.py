"""What a backup or learner does with the writes that a primary has ordered: apply each that follows, and nothing else.

This is what happens for every write; how a session begins and ends is in follower.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from app.cluster.replication.frames import OpFields, Position, take_ops
from app.cluster.replication.staging import Staging
from app.cluster.replication.state import Shared
from app.fast import piece
from app.storage.mutate import REPLY_BYTES


@piece
@dataclass(slots=True)
class Session:
    """See follower.py."""

    primary: str
    term: int
    position: Position  # of the latest write that it has, or where it began
    is_whole: bool  # the copy in the store is whole and at that position
    staging: Staging | None = None


class WholeApplying(ABC):
    """The sessions of a follower, by slot, and what they have that was not acknowledged yet."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._mutations = shared.mutations
        self.sessions: dict[int, Session] = {}
        self._unacknowledged: dict[str, dict[int, None]] = {}  # slots, by primary
        self.staged_bytes = 0  # gathered beside whole copies

    def apply_ops(self, peer: str, body: bytes) -> set[int] | None:
        """Apply what a frame OPS orders: the slots of which an op does not follow; None, and nothing is done, if the
        frame is unsound."""
        ops = take_ops(body, OpFields)
        if ops is None:
            return None
        gaps: set[int] = set()
        self._take(peer, ops, gaps)
        return gaps

    def _take(self, peer: str, ops: Iterable[OpFields], gaps: set[int]) -> None:
        """Apply these; slots of which one does not follow are added to `gaps`."""
        shared = self._shared
        sessions, positions, note, apply = self.sessions, shared.positions, shared.recent.note, self._apply
        leads = shared.leads
        noted: dict[int, None] | None = None
        for op in ops:
            kind, slot, _, message_id, key, term, seq, _ = op
            session = sessions.get(slot)
            if session is None or session.primary != peer or session.term != term:
                continue
            before = session.position
            if not leads(peer, slot):
                shared.faults["stale op"] += 1
            elif seq != before[1] + 1:
                gaps.add(slot)
            elif apply(session, op):
                session.position = position = (term, seq)
                note((slot, kind, before, position, key, message_id))
                if session.is_whole:
                    positions[slot] = position
                    if noted is None:
                        noted = self._unacknowledged.setdefault(peer, {})
                    noted[slot] = None
            else:
                self._had_no_room(slot, session)

    def _apply(self, session: Session, op: OpFields) -> bool:
        """Change the copy; False, nothing changed, if there is no room and nothing may be evicted."""
        if (staging := session.staging) is not None:
            self.staged_bytes += staging.apply(op)
            return True
        kind, slot, code, message_id, key, _, _, blob = op
        if not self._mutations.apply(kind, slot, key, blob):
            return False
        self._remember(message_id, slot, code)
        return True

    def _remember(self, message_id: bytes, slot: int, code: int) -> None:
        if message_id:
            replies = self._shared.replies
            if replies.get(message_id) is None or not replies.slots_of(message_id) >> slot & 1:
                replies.add(message_id, slot, code)
                self._shared.store.spend(REPLY_BYTES)

    @abstractmethod
    def _had_no_room(self, slot: int, session: Session) -> None:
        """An op did not fit: see Follower."""


@piece
class ShortApplying:
    """What is compiled of WholeApplying, in place of `apply_ops`. As Python it is nothing."""


class Applying(ShortApplying, WholeApplying):
    """The sessions of a follower: see WholeApplying."""

    make_op = OpFields
