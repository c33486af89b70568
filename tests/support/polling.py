"""Waiting for what happens elsewhere: ask until it is so, or fail with a word on what did not happen."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import gevent

# Generous: what tests wait for takes milliseconds to a few seconds on an idle machine, and machines are not idle.
DEADLINE_S: Final = 30.0
# Between two questions. Short enough that the times which some tests print are true to about a percent.
PAUSE_S: Final = 0.005

_Found = TypeVar("_Found")


def poll(
    condition: Callable[[], object],
    deadline_s: float = DEADLINE_S,
    complaint: str | Callable[[], str] = "",
    *,
    pause: Callable[[float], object] = time.sleep,
) -> float:
    """Ask until it is so; how long that took (s).

    AssertionError after the deadline, with the complaint: what was waited for, or a function that says how things stand
    then. It is asked at least once, whatever the deadline.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started >= deadline_s:
            raise AssertionError(f"not within {deadline_s:g} s: {complaint() if callable(complaint) else complaint}")
        pause(PAUSE_S)
    return time.monotonic() - started


def awaited(look: Callable[[], _Found | None], complaint: str = "") -> _Found:
    """Look until there is something, and return that. AssertionError after the deadline."""
    found: list[_Found] = []

    def has_found() -> bool:
        one = look()
        if one is not None:
            found.append(one)
        return bool(found)

    poll(has_found, complaint=complaint)
    return found[0]


# `poll` where the other side runs in this process's gevent loop, which must turn meanwhile.
poll_in_loop: Final = partial(poll, pause=gevent.sleep)
