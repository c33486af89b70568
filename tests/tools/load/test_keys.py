"""The laws by which keys are chosen, held against their formulas."""

import math
import random
from collections import Counter

import pytest

from tools.load.keys import HEAD_RANKS, LATEST, THETA, UNIFORM, ZIPFIAN, Zipfian, keys_of

DRAWS = 100_000


def off_by(observed: int, probability: float, draws: int = DRAWS) -> float:
    """How many standard deviations an observed count is away from what is expected."""
    expected = draws * probability
    return abs(observed - expected) / math.sqrt(expected * (1 - probability))


@pytest.mark.parametrize("count", [1, 2, 3, 100, 10_000])
def test_each_rank_has_its_probability(count: int) -> None:
    zipfian = Zipfian(count, random.Random(1))
    weights = [1 / rank**THETA for rank in range(1, count + 1)]
    total = math.fsum(weights)
    for rank in range(min(count, 50)):
        assert zipfian.probability(rank) == pytest.approx(weights[rank] / total)
    drawn = Counter(zipfian.draw() for _ in range(DRAWS))
    assert set(drawn) <= set(range(count))
    for rank in range(min(count, 20)):
        if weights[rank] < total:
            assert off_by(drawn[rank], weights[rank] / total) < 5, f"rank {rank}"
    # The middle and the end of the law too, in thirds of its probability.
    for low, high in ((0, count // 100), (count // 100, count // 10), (count // 10, count)):
        share = math.fsum(weights[low:high]) / total
        if 0 < share < 1:
            assert off_by(sum(drawn[rank] for rank in range(low, high)), share) < 5, f"ranks {low} to {high}"


def test_ranks_beyond_the_table_follow_the_same_law() -> None:
    count = 4 * HEAD_RANKS
    weights = [1 / rank**THETA for rank in range(1, count + 1)]
    total = math.fsum(weights)
    zipfian = Zipfian(count, random.Random(2))
    assert zipfian.probability(0) == pytest.approx(1 / total, rel=1e-9)
    drawn = [zipfian.draw() for _ in range(DRAWS)]
    assert max(drawn) < count
    for low, high in ((HEAD_RANKS, 2 * HEAD_RANKS), (2 * HEAD_RANKS, count)):
        share = math.fsum(weights[low:high]) / total
        assert off_by(sum(low <= rank < high for rank in drawn), share) < 5


@pytest.mark.parametrize("steps", [(10, 1000), (HEAD_RANKS - 1, HEAD_RANKS, HEAD_RANKS + 5), (5, 2 * HEAD_RANKS)])
def test_growing_gives_the_same_law_as_starting_large(steps: tuple[int, ...]) -> None:
    grown = Zipfian(1, random.Random(3))
    for count in steps:
        grown.grow(count)
    whole = Zipfian(steps[-1], random.Random(3))
    assert grown.probability(0) == pytest.approx(whole.probability(0))
    assert [grown.draw() for _ in range(100)] == [whole.draw() for _ in range(100)]


def test_uniform_keys_are_all_alike() -> None:
    keys = keys_of(UNIFORM, 20, random.Random(4), loaded=True)
    drawn = Counter(keys.read() for _ in range(DRAWS))
    assert all(off_by(drawn[index], 1 / 20) < 5 for index in range(20))
    keys.inserted(20)
    assert 20 in {keys.read() for _ in range(1000)}


def test_unless_loaded_uniform_keys_are_read_among_those_put() -> None:
    keys = keys_of(UNIFORM, 1000, random.Random(5), loaded=False)
    assert keys.read() < 1000
    for index in (7, 7, 3, 1002):
        keys.written(index)
    drawn = Counter(keys.read() for _ in range(3000))
    assert set(drawn) == {3, 7, 1002}
    assert all(off_by(count, 1 / 3, 3000) < 5 for count in drawn.values())


def test_zipfian_keys_are_popular_by_their_number() -> None:
    keys = keys_of(ZIPFIAN, 100, random.Random(6), loaded=True)
    popular = [index for index, _ in Counter(keys.read() for _ in range(DRAWS)).most_common(3)]
    assert popular == [0, 1, 2]
    keys.inserted(150)
    assert max(keys.update() for _ in range(DRAWS)) > 100


def test_the_latest_keys_are_the_popular_ones_and_stay_so_while_keys_come() -> None:
    keys = keys_of(LATEST, 100, random.Random(7), loaded=True)
    for newest in (99, 120):
        keys.inserted(newest)
        keys.inserted(newest - 1)  # late
        drawn = Counter(keys.read() for _ in range(DRAWS))
        assert [index for index, _ in drawn.most_common(3)] == [newest, newest - 1, newest - 2]
        assert off_by(drawn[newest], Zipfian(newest + 1, random.Random(0)).probability(0)) < 5
        assert max(drawn) == newest
        assert min(drawn) >= 0
