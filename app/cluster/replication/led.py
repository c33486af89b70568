"""One slot as its primary sees it: the log of writes that wait, and how far each follower has come.

The log is Raft's idea without Raft's elections: each write has a number, each follower acknowledges up to a number,
and what all that are required have acknowledged leaves the log. `Progress` is what Raft implementations call by the
same name. Here nothing decides or sends; see primary.py.
"""

from collections import deque
from typing import Any

from app.cluster.replication.frames import Position
from app.fast import piece


class Joint:
    """One reply that waits for several writes, one a slot: a WIPEOUT's. `left`: how many are not done yet."""

    __slots__ = ("dropped", "left", "waiters")

    def __init__(self, waiter: Any) -> None:
        self.left = 0
        self.dropped = False
        self.waiters = [waiter]


@piece
class Op:
    """A write that some required follower has not acknowledged, as far as we know."""

    __slots__ = ("code", "data", "joint", "key", "message_id", "readers", "seq", "waiters", "wipes")

    def __init__(self, seq: int, code: int, message_id: bytes, key: bytes, data: bytes, wipes: bool) -> None:
        self.seq = seq
        self.code = code
        self.message_id = message_id
        self.key = key
        self.data = data
        self.wipes = wipes
        self.waiters: list[Any] = []
        self.readers: list[Any] | None = None  # None: there were none yet
        self.joint: Joint | None = None


@piece
class Outbox:
    """What a turn has ordered for one peer, of all slots. `flags`: what hinders writes there, or on the way."""

    __slots__ = ("flags", "ops", "size_bytes")

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.size_bytes = 0
        self.flags = 0

    def take(self) -> list[bytes]:
        """The ops; from now on there are none."""
        ops, self.ops = self.ops, []
        self.size_bytes = 0
        return ops


@piece
class Progress:
    """How far one follower of one slot is. `acked`: the seq up to which it has everything in this term, or -1."""

    __slots__ = ("acked", "is_streaming", "outbox", "report")

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.acked = -1
        self.is_streaming = False  # it is sent every op
        self.report = 0  # number of its latest HAVE; 0: it has not said what it has


@piece
class Led:
    """One slot that this node is primary of, with followers or without."""

    __slots__ = ("base", "committed", "is_open", "log", "progress", "required", "seq", "slot", "term", "wipes")

    def __init__(self, slot: int, term: int, base: Position) -> None:
        self.slot = slot
        self.term = term
        self.base = base
        self.seq = base[1]
        self.committed = base[1]
        self.log: deque[Op] = deque()  # not acknowledged by all required, oldest first
        self.progress: dict[str, Progress] = {}
        self.required: set[str] = set()
        self.is_open = False
        self.wipes = 0  # in the log

    @property
    def position(self) -> Position:
        """Of the latest write."""
        return self.position_at(self.seq)

    def position_at(self, seq: int) -> Position:
        return self.base if seq == self.base[1] else (self.term, seq)

    def can_resume_from(self, position: Position) -> bool:
        """Whether a copy at this position lacks nothing but what the log still has."""
        first = self.log[0].seq if self.log else self.seq + 1
        return first - 1 <= position[1] <= self.seq and self.position_at(position[1]) == position
