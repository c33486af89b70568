"""The attack on real nodes: its arguments, and what it complains of. It runs in tests/integration/test_memory.py."""

import random

import pytest

from tools.bench import attack
from tools.bench.phases import ADVERSARY, entries_of, phases_of


def test_ways_to_fail() -> None:
    assert attack.faults_of("kill,term,stop") == ["kill", "term", "stop"]
    for wrong in ("", "kill,", "sleep"):
        with pytest.raises(ValueError, match="isn't one of kill, term, stop"):
            attack.faults_of(wrong)


def test_so_much_of_a_phase_flows() -> None:
    found = list(attack.entries("10x1-5", 100_000, 1))
    assert {len(key) for key, _ in found} == {10}
    assert {len(value) for _, value in found} == {1, 2, 3, 4, 5}
    assert 100_000 <= sum(len(value) + 250 for _, value in found) < 100_000 + 255
    assert len({key for key, _ in found}) == len(found)


def test_the_adversarys_phases_are_phases() -> None:
    for text in ADVERSARY.values():
        for phase in phases_of(text):
            key, _ = entries_of(phase, random.Random(1))()
            assert 1 <= len(key) <= 32


@pytest.mark.parametrize(
    ("line", "is_bad"),
    [
        ("2026-01-02T03:04:05.678Z ERROR copies.copies_lost slots=[7]", True),
        ("2026-01-02T03:04:05.678Z INFO node.stopping cause=ERROR", False),
        ("2026-01-02T03:04:05.678Z WARNING links.silent peer=a", False),
    ],
)
def test_errors_in_a_nodes_log_are_found(line: str, is_bad: bool) -> None:
    found = attack._BAD_LINES.findall(f"one\n{line}\nthree\n")
    assert found == ([line] if is_bad else [])
