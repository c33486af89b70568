"""The checker itself: histories that are known to be good or bad."""

import random
from math import inf

import pytest

from tests.sim.history import DONE, GET, MISSING, PUT, REMOVE, Operation, is_linearizable


def put(value: str, called: float, returned: float = inf) -> Operation:
    return Operation(PUT, value, called, returned, None if returned == inf else DONE)


def get(value: str | None, called: float, returned: float) -> Operation:
    return Operation(GET, value, called, returned, MISSING if value is None else DONE)


def remove(result: str | None, called: float, returned: float = inf) -> Operation:
    return Operation(REMOVE, None, called, returned, result)


GOOD = {
    "nothing": [],
    "in order": [put("a", 0, 1), get("a", 2, 3), put("b", 4, 5), get("b", 6, 7)],
    "a read during a write sees either": [put("a", 0, 1), put("b", 2, 9), get("a", 3, 4), get("b", 5, 6)],
    "unanswered, took effect late": [put("a", 0, 1), put("b", 2), get("a", 3, 4), get("b", 5, 6)],
    "unanswered, never took effect": [put("a", 0, 1), put("b", 2), get("a", 3, 4), get("a", 5, 6)],
    "removed": [put("a", 0, 1), remove(DONE, 2, 3), get(None, 4, 5), remove(MISSING, 6, 7)],
    "two writers at once": [put("a", 0, 5), put("b", 0, 5), get("a", 6, 7), get("a", 8, 9)],
    "what an unanswered write put was removed": [put("a", 0), remove(DONE, 1, 2), get(None, 3, 4)],
}
BAD = {
    "lost": [put("a", 0, 1), get(None, 2, 3)],
    "stale": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "back and forth": [put("a", 0, 1), put("b", 2, 9), get("b", 3, 4), get("a", 5, 6)],
    "twice": [put("a", 0, 1), put("b", 2, 3), get("b", 4, 5), get("a", 6, 7)],
    "unanswered, vanished": [put("a", 0, 1), put("b", 2), get("b", 3, 4), get("a", 5, 6)],
    "risen": [put("a", 0, 1), remove(DONE, 2, 3), get("a", 4, 5)],
    "from nowhere": [put("a", 0, 1), get("x", 2, 3)],
    "before it was written": [get("a", 0, 1), put("a", 2, 3)],
    "removed twice": [put("a", 0, 1), remove(DONE, 2, 3), remove(DONE, 4, 5)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert is_linearizable(GOOD[name], forgets=False)
    assert is_linearizable(GOOD[name], forgets=True)


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    assert not is_linearizable(BAD[name], forgets=False)
    assert is_linearizable(BAD[name], forgets=True) == (name in ("lost", "removed twice"))


@pytest.mark.parametrize("seed", range(20))
def test_a_run_of_one_register_and_the_same_with_one_read_spoiled(seed: int) -> None:
    rng = random.Random(seed)
    operations, value, now = [], None, 0.0
    for number in range(300):
        now += rng.random()
        called, returned = now - rng.random(), now + rng.random()
        if rng.random() < 0.5:
            value = str(number)
            operations.append(put(value, called, returned))
        else:
            operations.append(get(value, called, returned))
    assert is_linearizable(operations, forgets=False)
    late = get("0" if operations[0].value == "0" else "nothing", now + 10, now + 11)
    assert not is_linearizable([*operations, late], forgets=False)
