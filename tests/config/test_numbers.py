"""Numbers as operators write them, at, below and above their bounds."""

import re

import pytest

from app.config.numbers import number


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("8", 8), ("5", 5), ("08", 8), ("000000007", 7)])
def test_whole_numbers(text: str, value: int) -> None:
    found = number(int, 1, 8)(text)
    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize(
    "text", ["", "0", "9", "-1", "+1", " 1", "1 ", "1_0", "1.0", "1s", "0x1", "1e0", "x", "\u0661", "0000000001"]
)
def test_what_is_no_whole_number_within_the_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"^isn't a number from 1 to 8$"):
        number(int, 1, 8)(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("60", 60.0), ("7.25", 7.25), ("7s", 7.0), ("007.5s", 7.5), ("59.9", 59.9)],
)
def test_times(text: str, value: float) -> None:
    found = number(float, 0.5, 60.0)(text)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    "text", ["", "s", "0.499999", "60.000001", "inf", "nan", "-1", "1.", ".7", "1,5", "1e1", "1 s", "1ss", "1.0000000"]
)
def test_what_is_no_time_within_the_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"^isn't a number of seconds from 0\.5 to 60 \(so it is\)$"):
        number(float, 0.5, 60.0, what="a number of seconds", why="so it is")(text)


def test_below_zero_if_the_bounds_are() -> None:
    version = number(int, -(2**31), 2**31 - 1)
    assert [version(text) for text in ("-2147483648", "-1", "-0", "2147483647")] == [-(2**31), -1, 0, 2**31 - 1]
    for text in ("-2147483649", "2147483648", "--1", "- 1", "+1"):
        with pytest.raises(ValueError, match=re.escape("isn't a number from -2147483648 to 2147483647")):
            version(text)


@pytest.mark.parametrize(("unit", "taken"), [("ms", ["20", "20ms", "0.5ms"]), ("", ["20"])])
def test_other_units(unit: str, taken: list[str]) -> None:
    parse = number(float, 0.0, 1e6, what="a wait", unit=unit)
    assert [parse(text) for text in taken] == [20.0, 20.0, 0.5][: len(taken)]
    for text in ("20s", "20m", "ms", "1000001"):
        with pytest.raises(ValueError, match=r"^isn't a wait from 0 to 1000000$"):
            parse(text)


def test_large_bounds_are_shown_in_full() -> None:
    with pytest.raises(ValueError, match=re.escape("isn't a number from 0 to 65536")):
        number(int, 0, 65536)("x")
