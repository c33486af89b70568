"""How durations are distributed: counts by bucket, cheap enough for the hot path.

Buckets with fixed edges, as Prometheus wants them: what several nodes counted can be added up, which no percentile
that a node computed by itself could. An addition is a bisection and two sums, and the front makes one a batch, not one
a request.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# Seconds. From less than an idle node takes for a request (25 to 50 µs) past the longest that one may wait (0.9 s).
REQUEST_EDGES_S: Final = (
    *(0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
# A healthy loop is late by less than a batch takes (1 ms); peers suspect a node that is late by some 500 ms.
LAG_EDGES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Histogram:
    """Durations in seconds. `edges_s` rise; a duration that equals an edge counts below it.

    `counts` has a place for each edge and one for what is longer than all of them.
    """

    edges_s: tuple[float, ...]
    counts: list[int] = field(init=False)
    total_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges_s) + 1)

    @property
    def count(self) -> int:
        """Events so far."""
        return sum(self.counts)

    def add(self, duration_s: float, count: int = 1) -> None:
        """Note `count` events (0 will do) that took so long each."""
        self.counts[bisect_left(self.edges_s, duration_s)] += count
        self.total_s += duration_s * count


def quantile_s(edges_s: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """An estimate of the duration that `share` (0 to 1) of the counted events stayed within; None if there are none.

    Evenly spread within a bucket, as Prometheus' histogram_quantile assumes; what is past the last edge counts as it.
    """
    assert len(counts) == len(edges_s) + 1, f"{len(counts)} counts for {len(edges_s)} edges"
    rank = share * sum(counts)
    if not rank:
        return None
    low_s = 0.0
    for edge_s, count in zip(edges_s, counts, strict=False):
        if count >= rank > 0:
            return low_s + (edge_s - low_s) * rank / count
        rank -= count
        low_s = edge_s
    return low_s
