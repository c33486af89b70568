"""Numbers as operators write them: decimal and within bounds, or one phrase that says which would do."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

_Kind = TypeVar("_Kind", int, float)

# What is taken for a number. Stricter than Python's int() and float(), which take "1_0", "inf" and digits of any
# script. A number with decimals is always a time in seconds here, so it may carry an s.
_WRITTEN: Final = {
    int: re.compile(r"([0-9]{1,9})", re.ASCII),
    float: re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)s?", re.ASCII),
}


def number(
    kind: type[_Kind], least: _Kind, most: _Kind, *, what: str = "a number", why: str = ""
) -> Callable[[str], _Kind]:
    """A parser of numbers from `least` to `most`, both included: whole ones, or with decimals, as `kind` says.

    It raises ValueError with a phrase that follows what was written: "isn't `what` from 1 to 8", and `why`.
    """
    pattern = _WRITTEN[kind]
    complaint = f"isn't {what} from {least:g} to {most:g}{f' ({why})' if why else ''}"

    def parse_number(text: str) -> _Kind:
        match = pattern.fullmatch(text)
        if match is not None:
            value = kind(match[1])
            if least <= value <= most:
                return value
        raise ValueError(complaint)

    return parse_number
