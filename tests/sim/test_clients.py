"""What clients ask for."""

import pytest

from app.storage.store import slot_of
from app.wire.protocol import SLOT_COUNT
from tests.sim.clients import make_keys


@pytest.mark.parametrize("count", [0, 1, 10, 128, 129, 1000])
def test_there_are_as_many_keys_as_asked_for_in_a_quarter_of_the_slots(count: int) -> None:
    keys = make_keys(count)
    assert len(set(keys)) == count
    assert len({slot_of(key) for key in keys}) <= SLOT_COUNT // 4


def test_a_few_keys_are_the_same_however_many_more_there_are() -> None:
    assert make_keys(128)[:40] == make_keys(40)
