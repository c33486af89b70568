"""What members say of themselves: what of it is kept, and what it comes to."""

from typing import Any

import pytest

from app.http import figures
from app.http.figures import Figures, Lately
from app.observe.histogram import REQUEST_EDGES_S

BUCKETS = len(REQUEST_EDGES_S) + 1


def durations(**counts: int) -> list[int]:
    """Counts by bucket: `b7=3` are three in the eighth."""
    return [counts.get(f"b{place}", 0) for place in range(BUCKETS)]


def said(**fields: Any) -> dict[str, Any]:
    return {"pid": 3, "commands": {"GET": 10, "PUT": 5, "VITALS": 900}, "durations": durations(b2=15)} | fields


def test_only_what_is_sound_is_kept() -> None:
    hostile = {"entries": 7, "http_port": "<script>", "resident_bytes": True, "hits": -1, "misses": 1 << 63, "x": 1}
    assert figures.read(hostile, 1.0) == Figures(1.0, {"entries": 7}, (0, 0, 0), ())


@pytest.mark.parametrize(
    ("version", "is_kept"), [("1.2.3", True), ("1" * 32, True), ("1" * 33, False), ("é", False), (5, False)]
)
def test_a_version_is_a_short_text(version: object, is_kept: bool) -> None:
    assert ("version" in figures.read({"version": version}, 1.0).vitals) == is_kept


@pytest.mark.parametrize("wrong", [None, 5, [], [0] * (BUCKETS - 1), [0] * (BUCKETS + 1), [*[0] * (BUCKETS - 1), -1]])
def test_durations_of_another_form_are_none(wrong: object) -> None:
    assert figures.read(said(durations=wrong), 1.0).durations == ()


@pytest.mark.parametrize("wrong", [None, [1], {"GET": -1, "PUT": "5", "REMOVE": True}])
def test_operations_of_another_form_are_none(wrong: object) -> None:
    assert figures.read(said(commands=wrong), 1.0).operations == (0, 0, 0)


def test_a_rate_is_of_operations_between_two_looks() -> None:
    before = figures.read(said(), 10.0)
    now = figures.read(
        said(commands={"GET": 30, "PUT": 5, "REMOVE": 2, "VITALS": 950}, durations=durations(b2=37)), 12.0
    )
    assert figures.between(before, now) == Lately((10.0, 0.0, 1.0), tuple(durations(b2=22)))


@pytest.mark.parametrize(
    "before",
    [
        None,
        figures.read(said(pid=4), 10.0),  # another process
        figures.read(said(), 12.0),  # the same instant
        figures.read(said(commands={"GET": 11}), 10.0),  # it counts anew
        figures.read(said(durations=durations(b3=1)), 10.0),
    ],
)
def test_without_a_look_at_the_same_process_before_there_is_no_rate(before: Figures | None) -> None:
    assert figures.between(before, figures.read(said(), 12.0)) is None


def test_a_row_without_an_answer_has_no_numbers() -> None:
    assert figures.row(None, None) == {"vitals": None, "hit_rate": None, "rate": None, "rates": None, "p99_ms": None}


def test_the_sum_counts_each_operation_once_and_is_no_mean_of_percentiles() -> None:
    fast = figures.read(said(entries=5, hits=9, misses=1), 1.0), Lately((98.0, 0.0, 0.0), tuple(durations(b1=9_900)))
    slow = figures.read(said(entries=6, hits=0, misses=10), 1.0), Lately((0.0, 1.5, 0.5), tuple(durations(b9=10)))
    silent = figures.read({}, 1.0), None
    row = figures.row(*slow)
    assert (row["hit_rate"], row["rate"], row["p99_ms"]) == (0.0, 2.0, pytest.approx(24.85))
    total = figures.total([fast, slow, silent])
    assert (total["answered"], total["rate"], total["hit_rate"]) == (3, 100.0, 0.45)
    assert total["rates"] == {"GET": 98.0, "PUT": 1.5, "REMOVE": 0.5}
    assert total["vitals"]["entries"] == 11
    assert total["p99_ms"] <= 0.05, "99 of 100 requests were among the fast ones"
    assert figures.total([])["rate"] is None
