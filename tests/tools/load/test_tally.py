"""What is counted while it runs."""

from hypothesis import given
from hypothesis import strategies as st

from app.wire.protocol import GET, PUT
from tools.load.tally import Tally, rounded_us


@given(st.integers(0, 10**9))
def test_rounding_keeps_three_digits(latency_us: int) -> None:
    rounded = rounded_us(latency_us)
    assert 0 <= latency_us - rounded <= latency_us / 1000
    assert rounded_us(rounded) == rounded


def test_few_different_latencies_are_left() -> None:
    assert len({rounded_us(latency_us) for latency_us in range(0, 2_000_000, 7)}) < 30_000


def test_a_slice_holds_what_happened_in_it() -> None:
    tally = Tally(latencies_us={PUT: {100: 2}, GET: {}})
    tally.finished_in_time, tally.retries = 2, 1
    tally.cut(0.0, 1.0)
    tally.latencies_us[GET][50] = 3
    tally.finished_in_time, tally.timeouts = 5, 4
    tally.cut(1.0, 1.5)
    first, second = tally.slices
    assert (first.start_s, first.length_s, first.finished) == (0.0, 1.0, 2)
    assert (second.start_s, second.length_s, second.finished) == (1.0, 0.5, 3)
    assert (first.counts["retries"], second.counts["retries"]) == (1, 0)
    assert (first.counts["timeouts"], second.counts["timeouts"]) == (0, 4)
    assert {operation: [list(part) for part in parts] for operation, parts in first.latencies.items()} == {
        PUT: [[100], [2]]
    }
    assert set(second.latencies) == {GET}
    assert tally.latencies_us == {PUT: {}, GET: {}}


def test_the_percentile_of_the_moment() -> None:
    tally = Tally(latencies_us={PUT: {}})
    assert tally.p99_us() == 0
    tally.latencies_us[PUT] = {100: 989, 200: 10, 300: 1}
    assert tally.p99_us() == 200
    tally.finished_in_time = 1000
    tally.cut(0.0, 1.0)
    tally.latencies_us[PUT] = {5000: 3}
    assert tally.p99_us() == 200  # of the last slice: three are too few
