"""The table of answers, read by row and by column."""

from app.observe.counters import DROP_REASONS, Counters
from app.wire.protocol import COMMAND_NAMES, ERROR_NAMES


def test_fresh_counters_are_zero() -> None:
    counters = Counters()
    assert set(counters.by_command()) == {*COMMAND_NAMES.values(), "unknown"}
    assert set(counters.by_code()) == set(ERROR_NAMES.values())
    assert counters.drops == dict.fromkeys(DROP_REASONS, 0)
    assert not any(counters.by_command().values())
    assert not any(counters.by_code().values())
    assert (counters.retries_answered, counters.acks) == (0, 0)


def test_every_cell_counts_for_its_command_and_its_code_alone() -> None:
    for command in (0, *COMMAND_NAMES):
        for code in ERROR_NAMES:
            counters = Counters()
            counters.answers[command * 8 + code] += 1
            assert {name for name, count in counters.by_command().items() if count} == {
                COMMAND_NAMES.get(command, "unknown")
            }
            assert {name for name, count in counters.by_code().items() if count} == {ERROR_NAMES[code]}


def test_counters_are_apart() -> None:
    one, other = Counters(), Counters()
    one.drops["oversized"] += 1
    one.answers[0] += 1
    assert not any(other.drops.values())
    assert not any(other.answers)
