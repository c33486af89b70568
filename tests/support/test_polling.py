"""Waiting: it ends as soon as it is so, and fails with a word when it is not."""

from itertools import count

import gevent
import pytest

from tests.support.polling import awaited, poll, poll_in_loop


def test_it_asks_until_it_is_so() -> None:
    asked = count(1)
    assert poll(lambda: next(asked) == 3) > 0
    assert next(asked) == 4


def test_what_did_not_happen_is_told() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the sun rises"):
        poll(lambda: False, 0, "the sun rises")
    states = count(7)
    with pytest.raises(AssertionError, match="state 9"):
        poll(lambda: next(states) == 0, 0, lambda: f"state {next(states) + 1}")


def test_it_is_asked_once_even_with_no_time_at_all() -> None:
    assert poll(lambda: True, 0) < 1


def test_what_is_looked_for_is_returned_even_if_it_is_empty() -> None:
    looks = iter((None, None, "", "too late"))
    assert awaited(lambda: next(looks)) == ""
    assert next(looks) == "too late"


def test_the_loop_turns_meanwhile() -> None:
    done = gevent.event.Event()
    gevent.spawn(done.set)
    poll_in_loop(done.is_set)
