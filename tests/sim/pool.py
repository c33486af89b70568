"""Many seeds, spread over the processor's cores; each is run without and with data, and gives the same run wherever."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.sim.copies_run import run_copies
from tests.sim.core_checks import Violation
from tests.sim.core_run import has_bursts, run_seed


@dataclass
class Outcome:
    seed: int
    steps: int = 0
    processor_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failure: str = ""  # the end of the trace and what was broken

    @property
    def repeat(self) -> str:
        """How to see it again."""
        return f"python -m tests.sim --seeds 1 --start {self.seed}"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def run_both(seed: int) -> Outcome:
    """One seed, without and with data."""
    outcome = Outcome(seed)
    began = time.process_time()
    try:
        bursts = has_bursts(seed)
        outcome.steps += run_seed(seed, bursts=bursts).steps
        result = run_copies(seed, bursts=bursts)
        outcome.steps += result.steps
        outcome.counts = result.counts
    except Violation as violation:
        outcome.failure = str(violation)
    outcome.processor_s = time.process_time() - began
    return outcome


def run_all(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """The outcomes, in the order of the seeds, as they come. `jobs`: processes; with one, all happens in this one."""
    if jobs == 1:
        yield from map(run_both, seeds)
        return
    # Fresh interpreters: this one may have threads or event loops that a fork would copy half.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(run_both, seeds, chunksize=2)
        finally:
            pool.shutdown(cancel_futures=True)
