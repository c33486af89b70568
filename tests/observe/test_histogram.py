"""Histograms: where a duration is counted, and what is estimated from the counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observe.histogram import LAG_EDGES_S, REQUEST_EDGES_S, Histogram, quantile_s
from tests.support.parts import examples

EDGES_S = (0.1, 0.2, 0.4)


@pytest.mark.parametrize(
    ("duration_s", "place"), [(0.0, 0), (0.0999, 0), (0.1, 0), (0.1001, 1), (0.4, 2), (0.4001, 3), (99.0, 3)]
)
def test_a_duration_counts_at_the_first_edge_that_is_not_below_it(duration_s: float, place: int) -> None:
    histogram = Histogram(EDGES_S)
    histogram.add(duration_s)
    assert [n for n, count in enumerate(histogram.counts) if count] == [place]


def test_a_batch_counts_as_often_as_it_has_requests() -> None:
    histogram = Histogram(EDGES_S)
    histogram.add(0.15, 64)
    histogram.add(0.3, 0)
    assert histogram.counts == [0, 64, 0, 0]
    assert histogram.count == 64
    assert histogram.total_s == pytest.approx(64 * 0.15)


@pytest.mark.parametrize("edges_s", [REQUEST_EDGES_S, LAG_EDGES_S])
def test_edges_rise(edges_s: tuple[float, ...]) -> None:
    assert list(edges_s) == sorted(set(edges_s))


@pytest.mark.parametrize(
    ("counts", "share", "expected_s"),
    [
        ([0, 0, 0, 0], 0.99, None),
        ([10, 0, 0, 0], 0.5, 0.05),
        ([10, 0, 0, 0], 1.0, 0.1),
        ([5, 5, 0, 0], 0.5, 0.1),
        ([5, 5, 0, 0], 0.75, 0.15),
        ([0, 0, 4, 0], 0.5, 0.3),
        ([1, 0, 0, 9], 0.99, 0.4),  # past the last edge: at least that
    ],
)
def test_a_quantile_is_spread_evenly_within_its_bucket(
    counts: list[int], share: float, expected_s: float | None
) -> None:
    found_s = quantile_s(EDGES_S, counts, share)
    assert found_s == (None if expected_s is None else pytest.approx(expected_s))


@given(
    durations_s=st.lists(st.floats(0.0, 0.4), min_size=1, max_size=50), share=st.sampled_from([0.01, 0.5, 0.99, 1.0])
)
@examples(200)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations_s: list[float], share: float) -> None:
    histogram = Histogram(EDGES_S)
    for duration_s in durations_s:
        histogram.add(duration_s)
    found_s = quantile_s(EDGES_S, histogram.counts, share)
    assert found_s is not None
    rank = -(-share * len(durations_s) // 1)
    true_s = sorted(durations_s)[max(0, int(rank) - 1)]
    low_s = max((edge_s for edge_s in (0.0, *EDGES_S) if edge_s < true_s), default=0.0)
    high_s = min(edge_s for edge_s in EDGES_S if edge_s >= true_s)
    assert low_s - 1e-9 <= found_s <= high_s + 1e-9
