"""Many seeds, spread over the processor's cores; each gives the same run wherever."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.sim.checks import Violation
from tests.sim.run import draw, run

# Those of CI with a register outside, and three that have found something.
WITH_REGISTER = (*range(2000, 2012), 23, 700010, 700200)
FIXED = (*range(1000, 1036), 501131, 600959, 700008)  # the seeds of CI, and three that have found something


@dataclass
class Outcome:
    seed: int
    steps: int = 0
    processor_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failure: str = ""  # the end of the trace and what was broken
    lines: dict[str, set[int]] = field(default_factory=dict)  # that were run, by file, if that was measured

    has_register: bool = False

    @property
    def repeat(self) -> str:
        """How to see it again."""
        return f"python -m tests.sim --seeds 1 --start {self.seed}{' --register' * self.has_register}"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def run_with_register(seed: int) -> Outcome:
    """One seed, with a register outside."""
    return run_one(seed, register=True)


def run_one(seed: int, *, register: bool = False) -> Outcome:
    """One seed."""
    outcome = Outcome(seed, has_register=register)
    began = time.process_time()
    try:
        result = run(seed, draw(seed, register=register))
        outcome.steps, outcome.counts = result.steps, result.counts
    except Violation as violation:
        outcome.failure = str(violation)
    outcome.processor_s = time.process_time() - began
    return outcome


def run_measured(seed: int) -> Outcome:
    """One seed, with the lines that it runs."""
    from tests.sim.lines import measured  # here, so that the simulator runs without the library that this takes

    with measured() as lines:
        outcome = run_one(seed)
    outcome.lines = lines
    return outcome


def run_all(seeds: Iterable[int], jobs: int, one: Callable[[int], Outcome] = run_one) -> Iterator[Outcome]:
    """The outcomes, in the order of the seeds, as they come. `jobs`: processes; with one, all happens in this one."""
    if jobs == 1:
        yield from map(one, seeds)
        return
    # Fresh interpreters: this one may have threads or event loops that a fork would copy half.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=2)
        finally:
            pool.shutdown(cancel_futures=True)
