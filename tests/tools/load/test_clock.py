"""The thread's timer slack."""

import ctypes

from tools.load.clock import SLACK_NS, exact_timers

PR_GET_TIMERSLACK = 30


def slack_ns() -> int:
    return int(ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0))


def test_timers_are_exact_for_a_while() -> None:
    before = slack_ns()
    with exact_timers():
        assert slack_ns() == SLACK_NS
    assert slack_ns() == before
