"""The seeds that every change is tried on: fixed ones, and some that nobody has seen.

`python -m tests.sim --coverage` measures which lines the fixed ones run: it takes five times as long.
"""

import random

from tests.sim.lines import ROOT
from tests.sim.not_run import NOT_RUN
from tests.sim.pool import FIXED, WITH_REGISTER, Outcome, cores, run_all, run_with_register

FRESH = 12


def report(outcomes: list[Outcome]) -> str:
    """Empty if all is well; else the first that failed, with its trace, and how to repeat each."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    return "\n".join([failed[0].failure, *(outcome.repeat for outcome in failed)]) if failed else ""


def test_fixed_seeds() -> None:
    assert not report(list(run_all(FIXED, cores())))


def test_fixed_seeds_with_a_register_outside() -> None:
    assert not report(list(run_all(WITH_REGISTER, cores(), run_with_register)))


def test_what_is_listed_is_there() -> None:
    for name, reasons in NOT_RUN.items():
        source = {line.strip() for line in (ROOT / name).read_text().splitlines()}
        for reason, listed in reasons.items():
            assert reason
            assert set(listed) <= source, f"{name} has not: {set(listed) - source}"


def test_fresh_seeds() -> None:
    start = random.SystemRandom().randrange(1 << 31)
    print(f"python -m tests.sim --seeds {FRESH} --start {start}")
    assert not report(list(run_all(range(start, start + FRESH), cores())))


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    here = list(run_all([1003, 1014], 1))
    there = list(run_all([1014, 1003], 2))[::-1]
    assert [(one.seed, one.steps, one.counts) for one in here] == [(one.seed, one.steps, one.counts) for one in there]
