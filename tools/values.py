"""Values that prove where they belong, and a ledger of what the store has promised.

A load generator that only counts answers calls a store fast that returns rubbish. Here each value follows
from its key, version and length, so that a changed byte, a cut, a swapped key or a version that belongs to
another value shows, without the generator having to keep the values. The ledger holds the last acknowledged
state of every key, so that an older value shows too.
"""

import random
from array import array
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

_UNKNOWN: Final = 0
_REMOVED: Final = -1


class Ledger:
    """The last acknowledged state of each key, by its index; one writer a key, with rising versions from 1.

    A write without a proper answer stays in doubt for good: it may have happened, or may yet. Before the
    first acknowledged write of a key nothing is known of it, and any right value will do.
    """

    def __init__(self, keys: int) -> None:
        self._state = array("i", [_UNKNOWN]) * keys
        self._in_doubt: dict[int, set[int]] = {}

    def stored(self, index: int, version: int) -> None:
        """A PUT was acknowledged."""
        assert version > 0, f"version {version} of key {index}"
        self._state[index] = version

    def removed(self, index: int) -> None:
        """A REMOVE was acknowledged, or the key reported missing by one."""
        self._state[index] = _REMOVED

    def doubtful(self, index: int, version: int) -> None:
        """A PUT has failed in a way that leaves open whether it took effect."""
        self._in_doubt.setdefault(index, set()).add(version)

    def expects(self, index: int) -> bool:
        """True when the key was put and not removed since, so that only an eviction explains its absence."""
        return self._state[index] > 0

    def judge(self, index: int, key: bytes, value: bytes, version: int) -> str:
        """RIGHT, WRONG or STALE."""
        if value != value_of(key, version, len(value)):
            return WRONG
        state = self._state[index]
        if state in (_UNKNOWN, version) or version in self._in_doubt.get(index, ()):
            return RIGHT
        return STALE

    def describe(self, index: int) -> str:
        """The acknowledged state of a key, for a person."""
        state = self._state[index]
        if state == _UNKNOWN:
            return "nothing acknowledged"
        return "removed" if state == _REMOVED else f"version {state}"
