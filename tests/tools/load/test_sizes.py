"""How long values are."""

import random
import statistics
from collections import Counter

import pytest

from app.wire.protocol import VALUE_MAX_BYTES
from tools.load.keys import Zipfian
from tools.load.sizes import ETC_LOCATION, ETC_SCALE, ETC_SHAPE, sizes_of

DRAWS = 20_000


def drawn(text: str) -> list[int]:
    size = sizes_of(text, random.Random(1))
    return [size() for _ in range(DRAWS)]


@pytest.mark.parametrize("length", [0, 1, 64, VALUE_MAX_BYTES])
def test_a_fixed_size(length: int) -> None:
    assert set(drawn(str(length))) == {length}


def test_a_uniform_range_includes_both_ends_and_has_its_middle_in_the_middle() -> None:
    lengths = drawn("10-20")
    assert set(lengths) == set(range(10, 21))
    assert abs(statistics.mean(lengths) - 15) < 5 * 3.16 / DRAWS**0.5
    assert set(drawn("7-7")) == {7}


def test_zipfian_sizes_are_mostly_short() -> None:
    counts = Counter(drawn("zipfian:100-1000"))
    expected = DRAWS * Zipfian(901, random.Random(0)).probability(0)
    assert abs(counts[100] - expected) < 5 * expected**0.5
    assert [length for length, _ in counts.most_common(2)] == [100, 101]
    assert 100 <= min(counts) <= max(counts) <= 1000


def test_a_caches_sizes_have_the_papers_quantiles() -> None:
    lengths = sorted(drawn("etc"))
    for share in (0.1, 0.5, 0.9):
        exact = ETC_LOCATION + ETC_SCALE * ((1 - share) ** -ETC_SHAPE - 1) / ETC_SHAPE
        assert lengths[int(share * DRAWS)] == pytest.approx(exact, rel=0.1)
    assert lengths[0] >= ETC_LOCATION
    assert lengths[-1] <= VALUE_MAX_BYTES


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "10001", "1-10001", "9-8", "zipfian:64", "zipfian:9-8", "1-2-3", "etc:5"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        sizes_of(text, random.Random(1))
