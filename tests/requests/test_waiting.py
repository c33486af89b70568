"""What requests that wait may keep: counted, bounded, and told as it grows."""

from typing import Any

import pytest

from app.requests.waiting import _SPEND_BYTES
from tests.support.pieces import WHICH, pieces


@pytest.fixture(params=WHICH)
def make(request: pytest.FixtureRequest) -> Any:
    """Waiting, of either kind."""
    return pieces("waiting", request.param).Waiting


def nobody(size_bytes: int) -> None:
    """Who is told of what is taken."""


def test_how_many_may_wait_is_bounded(make: Any) -> None:
    waiting = make(2, 1 << 20, nobody)
    for count in range(2):
        assert (waiting.count, waiting.full) == (count, False)
        waiting.add(100)
    assert (waiting.count, waiting.kept_bytes, waiting.full) == (2, 200, True)
    with pytest.raises(AssertionError, match="2 requests wait already"):
        waiting.add(100)
    assert (waiting.count, waiting.kept_bytes) == (2, 200)
    waiting.remove(100)
    assert (waiting.count, waiting.kept_bytes, waiting.full) == (1, 100, False)


def test_what_they_keep_is_bounded(make: Any) -> None:
    waiting = make(100, 1000, nobody)
    waiting.add(999)
    assert not waiting.full
    waiting.add(1)
    assert waiting.full


def test_it_stays_full_until_enough_is_given_back(make: Any) -> None:
    waiting = make(100, 1000, nobody)
    waiting.add(500)
    waiting.add(1500)
    waiting.remove(500)
    assert (waiting.kept_bytes, waiting.full) == (1500, True)
    waiting.remove(1500)
    assert (waiting.count, waiting.kept_bytes, waiting.full) == (0, 0, False)


def test_none_may_wait_where_the_bound_is_zero(make: Any) -> None:
    assert make(0, 1 << 20, nobody).full


def test_growth_is_told_once_it_has_come_to_so_much_and_again_only_beyond_that(make: Any) -> None:
    told: list[int] = []
    waiting = make(100, 1 << 30, told.append)
    waiting.add(_SPEND_BYTES - 1)
    assert told == []
    waiting.add(1)
    assert told == [_SPEND_BYTES]
    waiting.remove(1)
    waiting.add(_SPEND_BYTES)
    assert told == [_SPEND_BYTES], "one byte was told before"
    waiting.add(1)
    assert told == [_SPEND_BYTES, _SPEND_BYTES]


def test_what_was_given_back_for_a_while_is_told_anew(make: Any) -> None:
    told: list[int] = []
    waiting = make(100, 1 << 30, told.append)
    waiting.add(_SPEND_BYTES)
    waiting.remove(_SPEND_BYTES)
    waiting.look()
    waiting.add(_SPEND_BYTES)
    waiting.look()
    waiting.add(1)
    assert told == [_SPEND_BYTES, _SPEND_BYTES]
