"""What flows into a store, one phase after the other, as text: `10000,64,random`, `10x1,1-32x0-16@7`.

A phase is the size of its values: a number of bytes, or `random` (0 to 10,000). The size of the keys may stand before
it, and behind it a slot that all keys are to fall into: `10x1`, `1-32x0-16`, `10x1@7`.
"""

import os
import random
import re
from collections.abc import Callable
from typing import Final

from app.config.numbers import number
from app.wire.protocol import VALUE_MAX_BYTES
from tools.bench.chosen import key_in_slot

# What an adversary sends, one after the other: by what it aims at.
ADVERSARY: Final = {
    "tiny entries, which are nearly all heap": "10x1",
    "the smallest and the largest keys by turns": "3x0,32x16,3x0,32x16",
    "every tiny size at once": "1-32x0-16",
    "tiny over large over tiny": "10000,10x1,10000,4x0",
    "over every other size and back": "10x1,64,900,3000,random,1-32x0-16,10x1",
    "everything in one slot": "10x1@7",
    "one slot after the other": "10x1@7,10x1@8,1-32x0-16@9,10000@10,10x1@11",
}
_KEY_BYTES: Final = 16  # where none are given
_VALUE: Final = os.urandom(VALUE_MAX_BYTES)
_PHASE: Final = re.compile(r"(?:(\d+)(?:-(\d+))?x)?(\d+)(?:-(\d+))?(?:@(\d+))?")
_size: Final = number(int, 0, VALUE_MAX_BYTES, what="a size")


def phases_of(text: str) -> list[str]:
    """The phases of a text, separated by commas. ValueError with a phrase that says what is wrong."""
    for part in text.split(","):
        if part != "random":
            match = _PHASE.fullmatch(part)
            if match is None:
                raise ValueError(f"is not a size or `random`: {part!r}")
            for size in match.groups()[2:4]:
                _size(size or "0")
    return text.split(",")


def entries_of(phase: str, rng: random.Random) -> Callable[[], tuple[bytes, bytes]]:
    """What makes a key and a value of a phase, always new ones."""
    if phase == "random":
        phase = f"{_KEY_BYTES}x0-{VALUE_MAX_BYTES}"
    match = _PHASE.fullmatch(phase)
    assert match is not None, phase
    sizes = [None if part is None else int(part) for part in match.groups()]
    key_least, key_most, value_least, value_most, slot = sizes
    if key_least is None:
        key_least = _KEY_BYTES
    key_sizes = range(key_least, (key_most or key_least) + 1)
    value_least = value_least or 0
    value_sizes = range(value_least, (value_most or value_least) + 1)

    def draw() -> tuple[bytes, bytes]:
        key = rng.randbytes(rng.choice(key_sizes))
        if slot is not None:
            key = key_in_slot(key[:-1], slot)
        return key, _VALUE[: rng.choice(value_sizes)]

    return draw
