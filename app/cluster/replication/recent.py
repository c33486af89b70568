"""The last writes to this node's copies, of all slots together: what copies differ in that parted a moment ago.

When a primary dies, some copies have writes that others lack. From the last position that two of them have in common
each knows which keys it has touched since, and for which messageIDs: so much, and no whole slot, brings one of them to
where the other is, forward or back. Values are not kept: whoever leads has the present ones.

A write is kept with the position before it. What led to a position is found by going back from it, from each write to
the one before: whatever else is kept of the slot, of a branch that was given up, say, is passed over. As copies at one
position hold the same, a position that both have met is one at which both held the same.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from app.cluster.replication.frames import NOWHERE, STRETCHES_MAX, Position
from app.fast import piece
from app.storage.mutate import WIPE

# Of the whole node; more than all the writes that three primaries may have in flight (PENDING_MAX). About 5 MB, or 2
# where it is compiled.
RECENT_MAX: Final = 16_384
RECENT_BYTES: Final = 300  # one of them: tuples, ints, key and messageID as objects (compiled: 128)


# Positions of one term that a copy has been at: the term, first and last seq.
Stretch = tuple[int, int, int]
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

    # A walk back over all writes, of all the slots at once, 2 to 8 ms (compiled 0.1). It holds no more than it returns:
    # all positions, or all keys, would be 2 MB as objects (compiled 4), and nobody knows of them before they are there.

    def stretches(self, at: Mapping[int, Position]) -> dict[int, list[Stretch]]:
        """Where the copies have been that are at these positions, by slot: the latest first, STRETCHES_MAX at most."""
        found = {slot: [(term, seq, seq)] for slot, (term, seq) in at.items()}
        at = dict(at)
        for slot, (term, seq), _, _ in self._back(at):
            stretches = found[slot]
            if stretches[-1][0] == term:
                stretches[-1] = (term, seq, stretches[-1][2])
            elif len(stretches) < STRETCHES_MAX:
                stretches.append((term, seq, seq))
            else:
                del at[slot]
        return found

    def met(self, at: Mapping[int, Position], others: Mapping[int, Sequence[Stretch]]) -> dict[int, Position]:
        """Of the copies at these positions, the last position within `others` of the slot; without those that are
        not known to have been at one."""
        left = dict(at)
        found = {slot: position for slot, position in at.items() if _lies_in(position, others[slot])}
        for slot in found:
            del left[slot]
        for slot, position, _, _ in self._back(left):
            if _lies_in(position, others[slot]):
                found[slot] = position
                del left[slot]
        return found

    def since(
        self, at: Mapping[int, Position], positions: Mapping[int, Position]
    ) -> dict[int, tuple[list[bytes], list[bytes]]]:
        """Keys and messageIDs of the writes that led from `positions` to `at`, by slot, each once, the latest first;
        without the slots of which they are not known."""
        left = dict(at)
        found: dict[int, tuple[list[bytes], list[bytes]]] = {slot: ([], []) for slot in at}
        for slot, position in at.items():
            if position == positions[slot]:
                del left[slot]
        for slot, position, key, message_id in self._back(left):
            keys, message_ids = found[slot]
            keys.append(key)
            message_ids.append(message_id)
            if position == positions[slot]:
                del left[slot]
        return {slot: (_each(keys), _each(ids)) for slot, (keys, ids) in found.items() if slot not in left}

    def _back(self, at: dict[int, Position]) -> Iterator[tuple[int, Position, bytes, bytes]]:
        """What led to these positions, the latest first: slot, the position before it, key and messageID.

        `at` goes along; a slot that is taken out of it is passed over from there on.
        """
        for slot, kind, before, after, key, message_id in reversed(self._ops):
            if at.get(slot) == after:
                if kind == WIPE:
                    at[slot] = NOWHERE  # no list of keys says what was there before
                else:
                    at[slot] = before
                    yield slot, before, key, message_id

    def clear(self) -> None:
        """Of another cluster: its positions are others'."""
        self._ops.clear()


def _lies_in(position: Position, stretches: Sequence[Stretch]) -> bool:
    return any(term == position[0] and first <= position[1] <= last for term, first, last in stretches)


def _each(names: list[bytes]) -> list[bytes]:
    return [name for name in dict.fromkeys(names) if name]
