"""What a node holds under its memory bound: python -m tools.bench.memory 10000,64,random [--seconds S] [--rate N]

Fills a store, with its governor and reply memory, as a node has them, with values of one size after the other,
always new keys, and a third as many reads; prints after each size what is held and the process's peak. A size is
a number of bytes or `random` (0 to 10,000). For each size, `held at first` is what a fresh process held when it
began to evict: run with one size to learn it, then with pairs to see what churn costs.
"""

import argparse
import gc
import os
import random
import time

import app.node  # noqa: F401 - for its weight: what a node imports is part of what is bounded
from app.config.numbers import number
from app.storage.arena import Arena
from app.storage.governor import (
    MIB,
    MemoryGovernor,
    ResidentSize,
    peak_resident_bytes,
    replies_max_bytes,
    tune_allocators,
)
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.codec import encode_value
from app.wire.protocol import VALUE_MAX_BYTES, slot_of
from tools.bench.allocator import use_system_allocator

_MAX_BYTES = 128 * MIB
_UPKEEP_S = 0.1
_VALUE = os.urandom(VALUE_MAX_BYTES)
_size = number(int, 0, VALUE_MAX_BYTES, what="a size")
_seconds = number(float, 0.0, 1e6, what="a number of seconds")
_rate = number(float, 0.0, 1e9, what="a rate", unit="")


class _Bench:
    def __init__(self, rate: float) -> None:
        tune_allocators()
        self._rate = rate
        self._rng = random.Random(1)
        self._arena = Arena(_MAX_BYTES, _MAX_BYTES)
        self._replies = ReplyMemory(6.0, replies_max_bytes(_MAX_BYTES))
        self._store = Store(self._arena, evict=True, on_allowance_used=lambda: self._governor.look())
        self._governor = MemoryGovernor(
            self._arena,
            self._store,
            self._replies,
            max_bytes=_MAX_BYTES,
            evict=True,
            resident_bytes=ResidentSize(),
        )
        self._turn = 0
        gc.collect()
        gc.freeze()
        self._governor.look()

    def fill(self, size: str, seconds: float) -> str:
        """Put values of this size for so long, and at least three times what fits; a line of results."""
        store = self._store
        started = next_upkeep = time.monotonic()
        puts = refused = flowed = stored_bytes = 0
        slowest = 0.0
        first = ""
        while True:
            value = _VALUE[: self._rng.randrange(VALUE_MAX_BYTES + 1) if size == "random" else int(size)]
            key = os.urandom(16)
            slot = slot_of(key)
            before = time.thread_time()
            stored = store.put(slot, key, encode_value(value, 1))
            message_id = os.urandom(16)
            if not self._replies.full:
                self._replies.add(message_id, slot, 0)
            if puts % 3 == 0:
                store.get(slot, key)
            slowest = max(slowest, time.thread_time() - before)
            refused += not stored
            puts += 1
            flowed += len(value) + 250
            stored_bytes += len(value)
            if not first and store.evictions:
                first = f"held at first {store.entries:,}"
            now = time.monotonic()
            if now >= next_upkeep:
                next_upkeep = now + _UPKEEP_S
                slowest = max(slowest, self._upkeep(now))
                if now - started >= seconds and flowed > 3 * _MAX_BYTES:
                    break
            if puts % 100 == 0 and self._rate:
                time.sleep(max(0.0, puts / self._rate - (time.monotonic() - started)))
        payload = store.entries * (stored_bytes / puts)
        return (
            f"{size:>7} B: {puts / (now - started):7,.0f} PUT/s; holds {store.entries:8,} entries"
            f" = {payload / MIB:5.1f} MiB of values; heap {self._governor.heap_bytes / MIB:5.1f},"
            f" arena {self._arena.resident_bytes / MIB:5.1f} MiB; peak {peak_resident_bytes() / MIB:5.1f} MiB;"
            f" slowest step {slowest * 1e3:4.1f} ms; refused {refused}; {first}"
        )

    def _upkeep(self, now: float) -> float:
        """What the node does ten times a second; the processor seconds of its longest part."""
        self._turn += 1
        parts = [lambda: self._replies.advance(now), self._governor.look, self._governor.calibrate]
        if self._turn % 10 == 0:
            parts += [self._governor.trim, gc.freeze]
        slowest = 0.0
        for part in parts:
            before = time.thread_time()
            part()
            slowest = max(slowest, time.thread_time() - before)
        return slowest


def _sizes(text: str) -> list[str]:
    """Sizes of values, or `random`, separated by commas. ValueError."""
    return [part if part == "random" else str(_size(part)) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    use_system_allocator()
    # argparse alone, not tools/cli.py: what else is imported counts against the bound.
    parser = argparse.ArgumentParser(prog="tools.bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("sizes", help="value sizes in order, e.g. 10000,64,random")
    parser.add_argument("--seconds", default="15", help="how long each size flows at least (default 15)")
    parser.add_argument("--rate", default="20000", help="PUTs a second; 0: as fast as it goes")
    given = parser.parse_args()
    try:
        sizes, seconds, rate = _sizes(given.sizes), _seconds(given.seconds), _rate(given.rate)
    except ValueError as error:
        parser.error(f"an argument {error}")
    bench = _Bench(rate)
    for size in sizes:
        print(bench.fill(size, seconds), flush=True)


if __name__ == "__main__":
    main()
