"""The seeds that every change is tried on: fixed ones, and some that nobody has seen."""

import random

from tests.sim.pool import Outcome, cores, run_all

FIXED = range(1000, 1100)
FRESH = 20


def report(outcomes: list[Outcome]) -> str:
    """Empty if all is well; else the first that failed, with its trace, and how to repeat each."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    return "\n".join([failed[0].failure, *(outcome.repeat for outcome in failed)]) if failed else ""


def test_fixed_seeds() -> None:
    assert not report(list(run_all(FIXED, cores())))


def test_fresh_seeds() -> None:
    start = random.SystemRandom().randrange(1 << 31)
    print(f"python -m tests.sim --seeds {FRESH} --start {start}")
    assert not report(list(run_all(range(start, start + FRESH), cores())))


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    here = list(run_all([1003, 1004], 1))
    there = list(run_all([1003, 1004], 2))
    assert [(one.seed, one.steps, one.counts) for one in here] == [(one.seed, one.steps, one.counts) for one in there]
