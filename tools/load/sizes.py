"""How long values are.

64                 always so many bytes
64-4096            uniform: every length from the first to the last with the same probability
zipfian:64-4096    short ones are popular: the r-th shortest length with a probability proportional to 1 / r^0.99,
                   the YCSB's law for field lengths
etc                a cache's values in production: generalized Pareto with location 15, scale 214.476 and shape
                   0.348238, cut at 10,000 bytes (median 183, mean 340): the law for values of 15 bytes and more in
                   the ETC pool of B. Atikoglu et al., "Workload Analysis of a Large-Scale Key-Value Store",
                   SIGMETRICS 2012
"""

import random
import re
from collections.abc import Callable
from typing import Final

from app.config.numbers import number
from app.wire.protocol import VALUE_MAX_BYTES
from tools.load.keys import Zipfian

ETC: Final = "etc"
ETC_LOCATION: Final = 15.0
ETC_SCALE: Final = 214.476
ETC_SHAPE: Final = 0.348238

_RANGE: Final = re.compile(r"(zipfian:)?([0-9]+)-([0-9]+)", re.ASCII)
_length: Final = number(int, 0, VALUE_MAX_BYTES, what="a length")


def sizes_of(text: str, rng: random.Random) -> Callable[[], int]:
    """Draws lengths by the law that `text` names; ValueError with a phrase that follows the text when there is none."""
    if text == ETC:
        return lambda: _etc(rng.random())
    if text.isascii() and text.isdigit():
        length = _length(text)
        return lambda: length
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError("isn't a size: 64, 64-4096, zipfian:64-4096 or etc")
    low, high = _length(match[2]), _length(match[3])
    if low > high:
        raise ValueError(f"begins with {low}, which is more than {high}")
    if match[1]:
        zipfian = Zipfian(high - low + 1, rng)
        return lambda: low + zipfian.draw()
    return lambda: rng.randint(low, high)


def _etc(share: float) -> int:
    length = ETC_LOCATION + ETC_SCALE * ((1 - share) ** -ETC_SHAPE - 1) / ETC_SHAPE
    return min(int(length), VALUE_MAX_BYTES)
