"""The last writes to this node's copies, of all slots together: what copies differ in that parted a moment ago.

When a primary dies, some copies have writes that others lack. From the last position that two of them have in common
each knows which keys it has touched since, and for which messageIDs: so much, and no whole slot, brings one of them to
where the other is, forward or back. Values are not kept: whoever leads has the present ones.

A write is kept with the position before it. What led to a position is found by going back from it, from each write to
the one before: whatever else is kept of the slot, of a branch that was given up, say, is passed over. As copies at one
position hold the same, a position that both have met is one at which both held the same.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.cluster.replication.frames import STRETCHES_MAX, Position
from app.fast import piece
from app.storage.mutate import WIPE

# Of the whole node; more than all the writes that three primaries may have in flight (PENDING_MAX). About 5 MB, or 2
# where it is compiled.
RECENT_MAX: Final = 16_384
RECENT_BYTES: Final = 300  # one of them: tuples, ints, key and messageID as objects (compiled: 128)


@dataclass(slots=True)
class Past:
    """What is known of how a copy came to where it is, the latest first."""

    positions: list[Position]  # that it has met, the present one first
    keys: list[bytes] = field(default_factory=list)  # of the write that led from the next position to this; perhaps b""
    message_ids: list[bytes] = field(default_factory=list)

    def stretches(self) -> list[tuple[int, int, int]]:
        """The positions: term, first and last seq."""
        found: list[tuple[int, int, int]] = []
        for term, seq in self.positions:
            if found and found[-1][0] == term:
                found[-1] = (term, seq, found[-1][2])
            elif len(found) == STRETCHES_MAX:
                break
            else:
                found.append((term, seq, seq))
        return found

    def since(self, position: Position) -> tuple[list[bytes], list[bytes]] | None:
        """Keys and messageIDs of the writes since a position; None if it is not known."""
        try:
            count = self.positions.index(position)
        except ValueError:
            return None
        keys = [key for key in dict.fromkeys(self.keys[:count]) if key]
        return keys, [message_id for message_id in dict.fromkeys(self.message_ids[:count]) if message_id]


# Slot, the kind of op, the position before it and after it, key, messageID.
RecentOp = tuple[int, int, Position, Position, bytes, bytes]


@piece
class Recent:
    """One node's. `note(op)` is to be called for each: the deque's own `append`, on the path of every write."""

    record_bytes = RECENT_BYTES

    def __init__(self, spend: Callable[[int], object], count: int = RECENT_MAX) -> None:
        """`spend`: is told of the bytes that it takes, by `settle`."""
        self._spend = spend
        self._ops: deque[RecentOp] = deque(maxlen=count)
        self._settled = 0
        self.note: Callable[[RecentOp], None] = self._ops.append

    def settle(self) -> None:
        """At the end of a turn."""
        count = len(self._ops)
        if count > self._settled:
            self._spend((count - self._settled) * self.record_bytes)
            self._settled = count

    def walk(self, at: dict[int, Position]) -> list[tuple[int, Position, bytes, bytes]]:
        """What led to these positions, by slot, the latest first: slot, the position before it, key and messageID.

        One walk for all of them (1 ms). `at` ends with the first positions that are known.
        """
        found = []
        for slot, kind, before, after, key, message_id in reversed(self._ops):
            if at.get(slot) == after:
                if kind == WIPE:
                    del at[slot]  # no list of keys says what was there before
                    continue
                at[slot] = before
                found.append((slot, before, key, message_id))
        return found

    def clear(self) -> None:
        """Of another cluster: its positions are others'."""
        self._ops.clear()


def pasts_of(recent: Recent, wanted: Mapping[int, Position]) -> dict[int, Past]:
    """What led to these positions, by slot."""
    found = {slot: Past([position]) for slot, position in wanted.items()}
    for slot, before, key, message_id in recent.walk(dict(wanted)):
        past = found[slot]
        past.positions.append(before)
        past.keys.append(key)
        past.message_ids.append(message_id)
    return found
