"""Which key is next: the laws by which keys are chosen.

The zipfian law is that of the YCSB (B. Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010): the
key of rank r = 1, 2, ... n is chosen with a probability proportional to 1 / r^theta, theta = 0.99. The YCSB draws by
the formula in J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994, which is exact for
the first two ranks and an approximation for the rest, and must sum up n terms when n changes. Here the first 65,536
ranks are drawn by inverting their exact cumulative sum (a binary search in C), and the ranks behind them by inverting
the integral from r - 1/2 to r + 1/2 that stands for the term of rank r; its relative error is below theta * (theta + 1)
/ (24 * 65,536^2), less than 1e-10. n may grow at any time for nothing. A draw costs 0.3 µs.

The YCSB scatters the popular ranks over the keyspace by a hash. A store that places keys by a checksum of their names
does that by itself, so rank r is simply key number r - 1 here.
"""

import random
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Final, Protocol

THETA: Final = 0.99

# Ranks with an exact term of their own: 2 MB of floats, and 16 steps of a binary search.
HEAD_RANKS: Final = 1 << 16


class Zipfian:
    """Draws ranks from 0, the most popular, to count - 1."""

    def __init__(self, count: int, rng: random.Random, theta: float = THETA) -> None:
        assert count > 0, f"{count} ranks"
        assert 0 < theta < 1, f"theta {theta}"
        self._random = rng.random
        self._theta = theta
        self._power = 1 - theta
        self._sums: list[float] = []
        # The integral of x^-theta up to the end of the head's last rank, times (1 - theta).
        self._head_end = (HEAD_RANKS + 0.5) ** self._power
        self.count = 0
        self.grow(count)

    def grow(self, count: int) -> None:
        """From now on there are `count` ranks."""
        assert count >= self.count, f"{count} ranks after {self.count}"
        sums, theta = self._sums, self._theta
        first = len(sums)
        if first < HEAD_RANKS:
            terms = (rank**-theta for rank in range(first + 1, min(count, HEAD_RANKS) + 1))
            total = sums[-1] if sums else 0.0
            sums.extend(list(accumulate(terms, initial=total))[1:])
        self._head = self._total = sums[-1]
        if count > HEAD_RANKS:
            self._total += ((count + 0.5) ** self._power - self._head_end) / self._power
        self.count = count

    def draw(self) -> int:
        x = self._random() * self._total
        if x < self._head:
            return bisect_right(self._sums, x)
        place = (self._head_end + (x - self._head) * self._power) ** (1 / self._power)
        return min(int(place - 0.5), self.count - 1)

    def probability(self, rank: int) -> float:
        """How probable a rank from 0 is."""
        return float((rank + 1) ** -self._theta) / self._total


class Keys(Protocol):
    """Chooses among the keys of one process, by index."""

    @property
    def read(self) -> Callable[[], int]:
        """Chooses a key to GET or REMOVE."""

    @property
    def update(self) -> Callable[[], int]:
        """Chooses a key to PUT."""

    def written(self, index: int) -> None:
        """A PUT of this key is on its way."""

    def inserted(self, index: int) -> None:
        """The key is new, and its first PUT was acknowledged. Indices may come out of order."""


class UniformKeys:
    """Every key with the same probability; unless all were `loaded`, GET and REMOVE keep to those put so far."""

    def __init__(self, count: int, rng: random.Random, loaded: bool) -> None:
        self._count = count
        self._random = rng.random
        self._seen = bytearray(0 if loaded else count)
        self._written: list[int] = []
        self.read: Callable[[], int] = self.update if loaded else self._read_written

    def update(self) -> int:
        return int(self._random() * self._count)

    def _read_written(self) -> int:
        written = self._written
        return written[int(self._random() * len(written))] if written else self.update()

    def written(self, index: int) -> None:
        if not self._seen:
            return
        if index >= len(self._seen):
            self._seen.extend(bytes(index + 1 - len(self._seen)))
        if not self._seen[index]:
            self._seen[index] = 1
            self._written.append(index)

    def inserted(self, index: int) -> None:
        self._count = max(self._count, index + 1)


class ZipfianKeys:
    """Few keys are popular: key number r - 1 has rank r."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._zipfian = Zipfian(count, rng)
        self.read = self.update = self._zipfian.draw

    def written(self, index: int) -> None:
        """Nothing to remember: all keys are there from the start."""

    def inserted(self, index: int) -> None:
        if index >= self._zipfian.count:
            self._zipfian.grow(index + 1)


class LatestKeys:
    """The newest acknowledged key is the most popular one: rank r is the r-th newest."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._zipfian = Zipfian(count, rng)

    def read(self) -> int:
        return self._zipfian.count - 1 - self._zipfian.draw()

    update = read

    def written(self, index: int) -> None:
        """Nothing to remember: all keys are there from the start."""

    def inserted(self, index: int) -> None:
        if index >= self._zipfian.count:
            self._zipfian.grow(index + 1)


UNIFORM: Final = "uniform"
ZIPFIAN: Final = "zipfian"
LATEST: Final = "latest"
LAWS: Final = (UNIFORM, ZIPFIAN, LATEST)


def keys_of(law: str, count: int, rng: random.Random, loaded: bool) -> Keys:
    """The chooser for one of LAWS."""
    if law == UNIFORM:
        return UniformKeys(count, rng, loaded)
    return ZipfianKeys(count, rng) if law == ZIPFIAN else LatestKeys(count, rng)
