"""What one process counts while it runs: as cheaply as it can, and so that it can be put together afterwards.

A latency costs one dictionary update (0.15 µs). At the end of each slice of time the dictionaries are packed into
arrays, which takes some 0.1 ms; histograms are made of them after the run (tools/load/results.py).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from app.wire.protocol import KEY_DNE_ERR, NO_ERR

# How many wrong values are described in full.
BAD_VALUES_SHOWN: Final = 5

# What the series over time counts besides operations and latencies.
SERIES_COUNTS: Final = ("failed", "timeouts", "wrong", "stale", "missing", "retries", "overloads")


def rounded_us(latency_us: int) -> int:
    """A latency to three digits or better, so that few different ones are to be counted."""
    if latency_us < 10_000:
        return latency_us
    if latency_us < 100_000:
        return latency_us - latency_us % 10
    return latency_us - latency_us % (100 if latency_us < 1_000_000 else 1000)


class Slice(NamedTuple):
    """A piece of the run, from `start_s` after its begin. `latencies`: by operation, each in µs and how many."""

    start_s: float
    length_s: float
    finished: int
    counts: dict[str, int]
    latencies: dict[int, tuple[Sequence[int], Sequence[int]]]


@dataclass(slots=True)
class Tally:
    """What came of the requests. Latencies: from the first try, or in an open loop from when it was to be sent, to
    the answer, all retries and waits included.
    """

    latencies_us: dict[int, dict[int, int]] = field(default_factory=dict)  # by operation, since the last slice
    late_us: dict[int, int] = field(default_factory=dict)  # open loop: how late requests were sent
    slices: list[Slice] = field(default_factory=list)
    finished_in_time: int = 0  # answered before the time was over: what the rate is made of
    elapsed_s: float = 0.0
    processor_s: float = 0.0  # the generator's own
    waited_s: float = 0.0  # for answers, or for the time to send
    codes: dict[int, int] = field(default_factory=dict)  # final answers by errCode
    found: int = 0  # GETs that gave the right value
    missing: int = 0  # GETs of a key that was put and not removed: evicted, which is legal, or lost
    absent: int = 0  # GETs that rightly found nothing
    wrong: int = 0
    stale: int = 0
    failed: int = 0  # final answers other than NO_ERR and KEY_DNE_ERR
    timeouts: int = 0
    retries: int = 0
    overloads: int = 0
    refused: int = 0
    unsent: int = 0  # open loop: due before the end, but too many were in flight
    ignored: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    interrupted: bool = False
    _at_last_slice: dict[str, int] = field(default_factory=dict)
    _finished_at_last_slice: int = 0

    @property
    def answered(self) -> int:
        return sum(self.codes.values())

    @property
    def succeeded(self) -> int:
        """Operations that did what they are for; a GET that rightly finds nothing is one of them."""
        return self.codes.get(NO_ERR, 0) + self.codes.get(KEY_DNE_ERR, 0) - self.wrong - self.stale

    @property
    def bad_values(self) -> int:
        return self.wrong + self.stale

    @property
    def errors(self) -> int:
        """Requests that did not get what they asked for."""
        return self.failed + self.timeouts + self.bad_values

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def cut(self, start_s: float, end_s: float) -> None:
        """End a slice of the series."""
        latencies: dict[int, tuple[Sequence[int], Sequence[int]]] = {}
        for operation, counts in self.latencies_us.items():
            if counts:
                latencies[operation] = (array("I", counts), array("I", counts.values()))
                self.latencies_us[operation] = {}
        now = {name: getattr(self, name) for name in SERIES_COUNTS}
        before = self._at_last_slice
        counted = {name: count - before.get(name, 0) for name, count in now.items()}
        finished = self.finished_in_time - self._finished_at_last_slice
        self.slices.append(Slice(start_s, end_s - start_s, finished, counted, latencies))
        self._at_last_slice, self._finished_at_last_slice = now, self.finished_in_time

    def p99_us(self) -> int:
        """The 99th percentile of the latencies since the last slice, or in the last slice if that is longer."""
        pairs = [pair for counts in self.latencies_us.values() for pair in counts.items()]
        if self.slices and sum(count for _, count in pairs) < self.slices[-1].finished:
            pairs = [
                pair
                for latencies, counts in self.slices[-1].latencies.values()
                for pair in zip(latencies, counts, strict=True)
            ]
        pairs.sort(reverse=True)
        left = sum(count for _, count in pairs) // 100
        for latency_us, count in pairs:
            left -= count
            if left < 0:
                return latency_us
        return 0

    def take_bad_values(self, other: "Tally") -> None:
        """A wrong value counts also when nothing else does."""
        self.wrong += other.wrong
        self.stale += other.stale
        self.samples = (self.samples + other.samples)[:BAD_VALUES_SHOWN]
