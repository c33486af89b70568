"""The bad network in the client."""

import math
import random

import pytest

from tools.load.faults import DELAY_MAX_MS, NO_FAULTS, Faults, FaultyPath, faults_of

DATAGRAMS = 10_000


def test_faults_as_they_are_written() -> None:
    text = "drop=0.01,dup=0.02,delay=0.05:20ms"
    assert faults_of(text) == Faults(drop=0.01, dup=0.02, delay=0.05, delay_ms=20)
    assert str(faults_of(text)) == text
    assert faults_of("delay=1:5") == Faults(delay=1, delay_ms=5)
    assert faults_of("drop=0") == NO_FAULTS
    assert str(NO_FAULTS) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "drop",
        "drop=",
        "drop=x",
        "drop=1.1",
        "drop=-1",
        "drop=nan",
        "drop=0.1:5ms",
        "delay=0.1",
        "delay=0.1:",
        "drop=0.1,drop=0.2",
        "lose=0.1",
        f"delay=0.1:{DELAY_MAX_MS + 1}ms",
    ],
)
def test_what_are_no_faults(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        faults_of(text)


def expected(count: int, share: float) -> bool:
    return abs(count - DATAGRAMS * share) < 5 * math.sqrt(DATAGRAMS * share)


def test_each_fault_has_its_share_and_is_counted() -> None:
    path = FaultyPath(Faults(drop=0.1, dup=0.2, delay=0.3, delay_ms=20), random.Random(1))
    now = [path.copies(n, now=5.0) for n in range(DATAGRAMS)]
    assert path.next_due == 5.02
    assert path.due(5.019) == []
    later = path.due(5.02)
    assert path.next_due == math.inf
    assert expected(path.counts["dropped"], 0.1)
    assert expected(path.counts["doubled"], 0.9 * 0.2)
    assert expected(path.counts["delayed"], 0.9 * 0.3)
    assert set(now) == {0, 1, 2}
    assert sum(now) + len(later) == DATAGRAMS - path.counts["dropped"] + path.counts["doubled"]
    assert now.count(0) == path.counts["dropped"] + path.counts["delayed"]


def test_delayed_datagrams_come_out_in_the_order_of_their_times() -> None:
    path = FaultyPath(Faults(delay=1, delay_ms=10), random.Random(1))
    for n, now in enumerate((1.0, 1.0, 1.005)):
        assert path.copies(f"datagram {n}", now) == 0
    assert path.due(1.01) == ["datagram 0", "datagram 1"]
    assert path.due(2.0) == ["datagram 2"]
