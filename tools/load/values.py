"""Values that prove where they belong, and which of them a read may give.

A load generator that only counts answers calls a store fast that returns rubbish. Here each value follows
from its key, version and length, so that a changed byte, a cut, a swapped key or a version that belongs to
another value shows, without the generator having to keep the values. For every key it is known which versions
a read may still give, so that an older value shows too.
"""

import random
from array import array
from collections import deque
from typing import Final
from zlib import crc32

from app.wire.protocol import VALUE_MAX_BYTES

# Where in the pool a value may begin. A prime, so that all of the seed's bits have a say.
_OFFSETS: Final = 65_521
_POOL: Final = random.Random("values").randbytes(_OFFSETS + VALUE_MAX_BYTES)
_SEED_BYTES: Final = 4


def value_of(key: bytes, version: int, length: int) -> bytes:
    """The one right value: a 4-byte seed made of all three arguments, then the pool from where the seed
    points.

    Two versions or lengths of one key never share a seed (a CRC is one-to-one in its start). Values under 4
    bytes hold only the beginning of the seed, and prove that much less. Costs 0.5 µs at 64 bytes.
    """
    seed = crc32(key, (version * 0x9E3779B1 ^ length) & 0xFFFFFFFF)
    head = seed.to_bytes(_SEED_BYTES, "little")
    if length <= _SEED_BYTES:
        return head[:length]
    offset = seed % _OFFSETS
    return head + _POOL[offset : offset + length - _SEED_BYTES]


# What a value that was read turns out to be.
RIGHT: Final = "right"
WRONG: Final = "wrong"  # not what this key and version have: corrupted, cut, or another key's
STALE: Final = "stale"  # a right value of a state that a later acknowledged write has replaced

# The end of a write that nobody has acknowledged: later than any.
_OPEN: Final = 1 << 40

# Versions fit the protocol's int32.
_VERSION_BITS: Final = 31


class LegalVersions:
    """Which versions of each key a read may give, when any number of requests for a key are out at once.

    One process writes a key, so it can number the key's writes 1, 2, 3... in the order in which it begins them; the
    number is the version. A write W has certainly replaced a write V only if V had been acknowledged before W began,
    that is, if W's number is higher than every number given out when V was acknowledged: V's *end*. A read must not
    give V if such a W had been acknowledged when the read began; so for a read it is enough to know the highest
    acknowledged number at its beginning: its *floor*. V is stale when its end is below the floor, and everything else
    is legal, since writes that overlapped may have been done in either order.

    A write without a proper answer never ends: it may have happened, or may yet. Before the first acknowledged write
    of a key nothing is known of it, and any right value will do (an earlier run may have left it).

    Each read is judged by itself: two reads that give two overlapping writes' values in an impossible order are not
    noticed.
    """

    def __init__(self, keys: int, read_life_s: float) -> None:
        """`read_life_s`: a read that began longer ago is over, answered or not."""
        self._issued = array("i", bytes(4 * keys))
        self._acknowledged = array("i", bytes(4 * keys))
        # The end of a write where it is not its own number. Key: index, then version.
        self._ends: dict[int, int] = {}
        # What could be forgotten later: (time of the acknowledgement, key of _ends), in order.
        self._overlapped: deque[tuple[float, int]] = deque()
        self._removals: dict[int, list[int]] = {}  # versions that are REMOVEs, by index
        self._read_life_s = read_life_s

    def __len__(self) -> int:
        return len(self._issued)

    def add_key(self) -> int:
        """The index of one more key."""
        self._issued.append(0)
        self._acknowledged.append(0)
        return len(self._issued) - 1

    # Writes.

    def begin(self, index: int) -> int:
        """A PUT begins; its version."""
        version = self._issued[index] + 1
        self._issued[index] = version
        self._ends[index << _VERSION_BITS | version] = _OPEN
        return version

    def begin_removal(self, index: int) -> int:
        """A REMOVE begins; its number."""
        version = self.begin(index)
        removals = self._removals.setdefault(index, [])
        if len(removals) >= 16:
            floor = self._acknowledged[index]
            removals[:] = [number for number in removals if self._end(index, number) >= floor]
        removals.append(version)
        return version

    def done(self, index: int, version: int, now: float) -> None:
        """A PUT or REMOVE was acknowledged."""
        key = index << _VERSION_BITS | version
        issued = self._issued[index]
        if issued == version:
            del self._ends[key]
        else:
            self._ends[key] = issued
            self._overlapped.append((now, key))
            self._forget(now)
        if version > self._acknowledged[index]:
            self._acknowledged[index] = version

    def done_perhaps_again(self, index: int, version: int) -> None:
        """A write was acknowledged, but a copy of it that is still on its way may be done once more at any time."""
        if version > self._acknowledged[index]:
            self._acknowledged[index] = version

    def refused(self, index: int, version: int) -> None:
        """The store has answered that it did nothing."""
        del self._ends[index << _VERSION_BITS | version]

    def _forget(self, now: float) -> None:
        """Drop the ends that no read can ask for any more."""
        overlapped = self._overlapped
        for _ in range(2):
            when, key = overlapped[0]
            if when + self._read_life_s > now:
                return
            overlapped.popleft()
            if self._ends[key] < self._acknowledged[key >> _VERSION_BITS]:
                del self._ends[key]
            else:
                overlapped.append((now, key))

    # Reads.

    def floor(self, index: int) -> int:
        """What `judge` and `expects` need to know of the moment at which a read begins."""
        return self._acknowledged[index]

    def _end(self, index: int, version: int) -> int:
        return self._ends.get(index << _VERSION_BITS | version, version)

    def expects(self, index: int, floor: int) -> bool:
        """True when the key was put, and no REMOVE explains that a read with this floor has not found it."""
        if not floor:
            return False
        return all(self._end(index, number) < floor for number in self._removals.get(index, ()))

    def judge(self, index: int, key: bytes, value: bytes, version: int, floor: int) -> str:
        """RIGHT, WRONG or STALE, of what a read with this floor gave."""
        if value != value_of(key, version, len(value)):
            return WRONG
        if version == floor or not floor:
            return RIGHT
        if not 0 < version <= self._issued[index] or self._end(index, version) < floor:
            return STALE
        return RIGHT

    def perhaps_there(self) -> list[int]:
        """The keys that may hold a value: put, and not known to be removed since."""
        return [
            index
            for index, issued in enumerate(self._issued)
            if issued and not (issued == self._acknowledged[index] and issued in self._removals.get(index, ()))
        ]

    def describe(self, index: int) -> str:
        """The acknowledged state of a key, for a person."""
        version = self._acknowledged[index]
        if not version:
            return "nothing acknowledged"
        removed = version in self._removals.get(index, ())
        return f"{'removed by write' if removed else 'version'} {version} of {self._issued[index]}"
