"""The seeds that every change is tried on: fixed ones, and some that nobody has seen; and which lines they run."""

import random

import pytest

from tests.sim.lines import ROOT, Lines, not_run
from tests.sim.not_run import NOT_RUN
from tests.sim.pool import Outcome, cores, run_all, run_measured

FIXED = range(1000, 1036)
FRESH = 12


def report(outcomes: list[Outcome]) -> str:
    """Empty if all is well; else the first that failed, with its trace, and how to repeat each."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    return "\n".join([failed[0].failure, *(outcome.repeat for outcome in failed)]) if failed else ""


@pytest.fixture(scope="module")
def fixed() -> list[Outcome]:
    return list(run_all(FIXED, cores(), run_measured))


def test_fixed_seeds(fixed: list[Outcome]) -> None:
    assert not report(fixed)


def test_every_line_is_run_or_listed_with_a_reason(fixed: list[Outcome]) -> None:
    """A line that is listed may be run all the same: which seeds reach a rare one changes with every change."""
    run: Lines = {}
    for outcome in fixed:
        for name, lines in outcome.lines.items():
            run.setdefault(name, set()).update(lines)
    unlisted = {
        f"{name}: {line}"
        for name, lines in not_run(run).items()
        for line in lines
        if not any(line in listed for listed in NOT_RUN.get(name, {}).values())
    }
    assert not unlisted


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
