"""What a node holds under its memory bound: python -m tools.bench.memory 10000,64,random [--seconds S] [--rate N]
Or whether the bound holds against an adversary: python -m tools.bench.memory --adversary [--max-memory 128]

Fills a store, with its governor and reply memory, as a node has them, with values of one size after the other,
always new keys, and a third as many reads; prints after each size what is held and the process's peak. How sizes are
written is in phases.py. For each size, `held at first` is what a fresh process held when it began to evict: run with
one size to learn it, then with pairs to see what churn costs.

The adversary is a list of such runs, each in a process of its own; the program ends with 1 if one of them passes the
bound, or takes more than 5 ms of processor time in one step. attack.py sends the same list to real nodes.
"""

import sys

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.memory", "tools.bench.memory")

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
from app.storage.mutate import REPLY_BYTES
from app.storage.replies import ReplyMemory, buckets_for
from app.storage.store import Store
from app.wire.codec import encode_value
from app.wire.protocol import slot_of
from tools import cli
from tools.bench.allocator import use_system_allocator
from tools.bench.phases import ADVERSARY, entries_of, phases_of

_UPKEEP_S = 0.1
_mebibytes = number(int, 48, 1 << 20, what="a number of MiB")
_seconds = number(float, 0.0, 1e6, what="a number of seconds")
_milliseconds = number(float, 0.0, 1e6, what="a number of milliseconds")
_bounds = number(float, 0.0, 1e3, what="a number of bounds", unit="")
_rate = number(float, 0.0, 1e9, what="a rate", unit="")


class _Bench:
    def __init__(self, rate: float, max_bytes: int, flow: float = 3.0) -> None:
        tune_allocators()
        self._max_bytes = max_bytes
        self._rate = rate
        self._flow_bytes = flow * max_bytes
        self._rng = random.Random(1)
        self._arena = Arena(max_bytes, max_bytes)
        replies_bytes = replies_max_bytes(max_bytes)
        self._replies = ReplyMemory(6.0, replies_bytes, buckets=buckets_for(replies_bytes))
        self._store = Store(
            self._arena,
            evict=True,
            on_allowance_used=lambda: self._governor.look(),
            on_freed=lambda: self._governor.join_freed(),
        )
        self._governor = MemoryGovernor(
            self._arena,
            self._store,
            self._replies,
            max_bytes=max_bytes,
            evict=True,
            resident_bytes=ResidentSize(),
        )
        self._turn = 0
        self.slowest_s = 0.0
        gc.collect()
        gc.freeze()
        self._governor.look()

    def fill(self, size: str, seconds: float) -> str:
        """Put values of this size for so long, and at least as many as are to flow; a line of results."""
        store = self._store
        draw = entries_of(size, self._rng)
        started = next_upkeep = time.monotonic()
        puts = refused = flowed = stored_bytes = 0
        slowest = 0.0
        first = ""
        while True:
            key, value = draw()
            slot = slot_of(key)
            before = time.thread_time()
            stored = store.put(slot, key, encode_value(value, 1))
            message_id = os.urandom(16)
            if not self._replies.full:
                self._replies.add(message_id, slot, 0)
                store.spend(REPLY_BYTES)
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
                if now - started >= seconds and flowed > self._flow_bytes:
                    break
            if puts % 100 == 0 and self._rate:
                time.sleep(max(0.0, puts / self._rate - (time.monotonic() - started)))
        self.slowest_s = max(self.slowest_s, slowest)
        payload = store.entries * (stored_bytes / puts)
        return (
            f"{size:>9} B: {puts / (now - started):7,.0f} PUT/s; holds {store.entries:8,} entries"
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


def _run(phases: list[str], bench: _Bench, seconds: float, max_bytes: int, step_ms: float) -> bool:
    """Let these flow; whether the process kept its bound, and its steps short."""
    for phase in phases:
        cli.say(bench.fill(phase, seconds), flush=True)
    return peak_resident_bytes() < max_bytes and bench.slowest_s * 1000 <= step_ms


def _attack(arguments: list[str]) -> bool:
    """Run the adversary's list, each part in a process of its own; whether all of it was withstood."""
    import subprocess  # not above: what is imported counts against the bound

    failed = []
    for aim, phases in ADVERSARY.items():
        cli.say(f"{aim}:", flush=True)
        command = [sys.executable, "-m", "tools.bench.memory", phases, "--judge", *arguments]
        if subprocess.run(command, check=False).returncode:
            failed.append(aim)
    cli.say(f"not withstood: {'; '.join(failed)}" if failed else "all withstood")
    return not failed


def main() -> int:
    """Measure and print."""
    use_system_allocator()
    parser = cli.Parser(prog="tools.bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="?", help="value sizes in order, e.g. 10000,64,random,10x1,1-32x0-16@7")
    parser.add_argument("--adversary", action="store_true", help="what somebody would send to break the bound")
    parser.add_argument("--judge", action="store_true", help="end with 1 if the bound or --step-ms is passed")
    parser.add_argument("--step-ms", default="5", help="how long a step may take for --judge (default 5)")
    parser.add_argument("--seconds", default="15", help="how long each size flows at least (default 15)")
    parser.add_argument("--rate", default="20000", help="PUTs a second; 0: as fast as it goes")
    parser.add_argument("--flow", default="3", help="how much of each size flows at least, in bounds (default 3)")
    parser.add_argument("--max-memory", default="128", help="the bound, in MiB (default 128)")
    given = parser.parse_args()
    if (given.sizes is None) is not given.adversary:
        parser.error("give either sizes or --adversary")
    try:
        phases = [] if given.adversary else phases_of(given.sizes)
        seconds, rate, max_bytes = _seconds(given.seconds), _rate(given.rate), _mebibytes(given.max_memory) * MIB
        step_ms, flow = _milliseconds(given.step_ms), _bounds(given.flow)
    except ValueError as error:
        parser.error(f"an argument {error}")
    if given.adversary:
        told = {name: getattr(given, name.replace("-", "_")) for name in ("seconds", "rate", "flow", "max-memory")}
        withstood = _attack([f"--{name}={value}" for name, value in told.items()])
    else:
        withstood = _run(phases, _Bench(rate, max_bytes, flow), seconds, max_bytes, step_ms) or not given.judge
    return cli.OK if withstood else cli.FAILED
