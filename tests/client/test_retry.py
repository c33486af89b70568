"""The clock of one request, ticked by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.retry import (
    LATE_TRY_S,
    OVERLOAD_JITTER,
    OVERLOAD_WAIT_MAX_MS,
    OVERLOAD_WAIT_MIN_MS,
    SAFE_RETRY_S,
    TIMEOUT_S,
    Attempts,
)
from app.config.values import REPLY_TTL_MIN_S
from app.storage.replies import ReplyMemory
from app.wire.protocol import NO_ERR


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class FullJitter(random.Random):
    def random(self) -> float:
        return 1.0


def send_times(attempts: Attempts, last_sent: float) -> list[float]:
    """When the tries leave if nobody ever answers, that of `last_sent` first."""
    times = [last_sent]
    while True:
        due = attempts.due
        if not attempts.again(due):
            return times
        times.append(due)


def test_silence_is_met_with_the_fields_schedule() -> None:
    attempts = Attempts(100.0)
    sent_at = send_times(attempts, 100.0)
    assert sent_at == pytest.approx([100.0, 100.15, 100.6, 101.95, 104.45])
    assert attempts.due == pytest.approx(106.45)
    assert attempts.tries == 5
    assert attempts.unanswered


def test_the_deadline_ends_silence() -> None:
    attempts = Attempts(100.0, deadline=101.0)
    assert send_times(attempts, 100.0) == pytest.approx([100.0, 100.15, 100.6])
    assert attempts.due == 101.0
    assert not attempts.moved(101.0)
    assert Attempts(0.0, deadline=0.1).due == 0.1


def test_a_single_timeout_means_a_single_try() -> None:
    attempts = Attempts(0.0, timeouts_ms=(20,))
    assert attempts.due == 0.02
    assert not attempts.again(0.02)
    assert attempts.tries == 1


@pytest.mark.parametrize(
    ("asked_ms", "waited_ms"),
    [
        (-5, OVERLOAD_WAIT_MIN_MS),
        (0, OVERLOAD_WAIT_MIN_MS),
        (OVERLOAD_WAIT_MIN_MS, OVERLOAD_WAIT_MIN_MS),
        (70, 70),
        (OVERLOAD_WAIT_MAX_MS, OVERLOAD_WAIT_MAX_MS),
        (OVERLOAD_WAIT_MAX_MS + 1, OVERLOAD_WAIT_MAX_MS),
        (2**31 - 1, OVERLOAD_WAIT_MAX_MS),
    ],
)
def test_an_overload_wait_is_honoured_within_bounds(asked_ms: int, waited_ms: int) -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.overloaded(1.0, asked_ms)
    assert attempts.due == pytest.approx(1.0 + waited_ms / 1000)


def test_the_longest_wait_that_a_node_asks_for_is_honoured() -> None:
    """By default: --reply-ttl can be more than clients wait for."""
    replies = ReplyMemory(REPLY_TTL_MIN_S, 10_000)
    replies.advance(0.0)
    number = 0
    while not replies.full:  # all at once, so the whole of it goes at once
        replies.add(b"%016d" % number, 0, NO_ERR)
        number += 1
    assert replies.wait_ms == OVERLOAD_WAIT_MAX_MS


def test_jitter_only_ever_lengthens_an_overload_wait() -> None:
    attempts = Attempts(0.0, rng=FullJitter())
    assert attempts.overloaded(0.0, 1000)
    assert attempts.due == pytest.approx(1 + OVERLOAD_JITTER)


def test_after_an_overload_without_silence_the_schedule_starts_anew() -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.overloaded(0.1, 2000)
    assert attempts.again(2.1)
    assert not attempts.unanswered
    assert send_times(attempts, 2.1) == pytest.approx([2.1, 2.25, 2.7, 4.05, 6.55])
    assert attempts.due == pytest.approx(8.55)
    assert attempts.tries == 6


def test_after_an_overload_that_follows_a_silence_the_schedule_goes_on() -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.again(0.15)
    assert attempts.overloaded(0.2, 100)
    assert attempts.again(attempts.due)
    assert send_times(attempts, 0.3) == pytest.approx([0.3, 0.75, 2.1, 4.6])
    assert attempts.tries == 6


def test_the_deadline_ends_overload() -> None:
    attempts = Attempts(0.0, deadline=TIMEOUT_S, rng=NoJitter())
    now = 0.0
    while attempts.overloaded(now, 900):
        now = attempts.due
        assert attempts.again(now)
    # The last try has the time for an answer that any first one has.
    assert TIMEOUT_S - 1.1 < now <= TIMEOUT_S - 0.1
    assert not attempts.unanswered


def test_after_a_silence_no_overload_wait_stretches_the_window() -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.again(0.15)
    assert not attempts.overloaded(0.2, int(SAFE_RETRY_S * 1000) - 199)
    assert attempts.overloaded(0.2, int(SAFE_RETRY_S * 1000) - 200)
    assert attempts.unanswered


def test_a_second_refusal_during_the_wait_changes_nothing() -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.again(0.15)
    assert attempts.overloaded(0.2, 500)
    assert attempts.overloaded(0.3, 5000)
    assert attempts.due == pytest.approx(0.7)


def test_a_machine_that_slept_through_the_window_does_not_send() -> None:
    attempts = Attempts(0.0)
    assert not attempts.again(SAFE_RETRY_S + LATE_TRY_S + 0.01)
    attempts = Attempts(0.0)
    assert attempts.again(SAFE_RETRY_S + LATE_TRY_S)


def test_a_turned_away_try_moves_on_without_advancing_the_schedule() -> None:
    attempts = Attempts(0.0)
    assert attempts.moved(0.001)
    assert attempts.due == pytest.approx(0.151)
    assert not attempts.unanswered
    assert attempts.again(0.151)
    assert attempts.due == pytest.approx(0.601)


def test_nothing_moves_during_an_overload_wait_or_past_the_window() -> None:
    attempts = Attempts(0.0, rng=NoJitter())
    assert attempts.overloaded(0.0, 100)
    assert not attempts.moved(0.05)
    attempts = Attempts(0.0)
    assert attempts.again(0.15)
    assert attempts.moved(SAFE_RETRY_S + LATE_TRY_S)
    assert not attempts.moved(SAFE_RETRY_S + LATE_TRY_S + 0.01)


@given(
    st.lists(
        st.tuples(st.sampled_from(["silence", "overload", "move"]), st.integers(-10, 8000), st.floats(0, 1)),
        max_size=60,
    ),
    st.integers(0, 1000),
)
def test_no_try_leaves_late_after_an_unanswered_one(events: list[tuple[str, int, float]], seed: int) -> None:
    """The law that at-most-once rests on, whatever the network and the nodes do."""
    attempts = Attempts(0.0, rng=random.Random(seed))
    now = 0.0
    first_unanswered: float | None = None
    last_sent = 0.0
    refused = False
    for kind, wait_ms, share in events:
        tries = attempts.tries
        if kind == "silence":
            now = max(now, attempts.due)
            if not refused and first_unanswered is None:
                first_unanswered = last_sent
            if not attempts.again(now):
                return
            refused = False
        elif kind == "overload":
            now = min(now + (attempts.due - now) * share, attempts.due)  # (a sum is rounded)
            if not attempts.overloaded(now, wait_ms):
                return
            refused = True
        else:
            now = min(now + (attempts.due - now) * share, attempts.due)
            attempts.moved(now)
        if attempts.tries > tries:
            last_sent = now
            if first_unanswered is not None:
                assert now <= first_unanswered + SAFE_RETRY_S + LATE_TRY_S
        assert attempts.due >= now


@pytest.mark.parametrize(("deadline", "is_time_left"), [(1.5, True), (1.4375, False)])
def test_after_an_overload_there_must_be_time_for_a_first_try(deadline: float, is_time_left: bool) -> None:
    attempts = Attempts(0.0, (500,), deadline, NoJitter())
    assert attempts.overloaded(0.0, 1000) == is_time_left
    assert attempts.due == (1.0 if is_time_left else 0.5)
