"""Numbers as operators write them: decimal and within bounds, or one phrase that says which would do."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

PORT_MAX: Final = 65535  # a port has 16 bits

_Kind = TypeVar("_Kind", int, float)


def number(
    kind: type[_Kind], least: _Kind, most: _Kind, *, what: str = "a number", why: str = "", unit: str = "s"
) -> Callable[[str], _Kind]:
    """A parser of numbers from `least` to `most`, both included: whole ones, or with decimals, as `kind` says.

    What is taken is stricter than Python's int() and float(), which take "1_0", "inf" and digits of any script. A
    number with decimals may carry its `unit`: nearly all are times, in seconds.

    It raises ValueError with a phrase that follows what was written: "isn't `what` from 1 to 8", and `why`.
    """
    sign = "-?" if least < 0 else ""
    whole = f"{sign}[0-9]{{1,{max(9, len(str(int(most))))}}}"
    decimals = rf"({sign}[0-9]{{1,9}}(?:\.[0-9]{{1,6}})?)(?:{re.escape(unit)})?"
    pattern = f"({whole})" if kind is int else decimals  # compiled when it is needed; a tool has many and needs few
    complaint = f"isn't {what} from {_shown(least)} to {_shown(most)}{f' ({why})' if why else ''}"

    def parse_number(text: str) -> _Kind:
        match = re.fullmatch(pattern, text, re.ASCII)
        if match is not None:
            value = kind(match[1])
            if least <= value <= most:
                return value
        raise ValueError(complaint)

    return parse_number


def _shown(bound: float) -> str:
    """In full: 60, 0.5, 2147483647, 1000000."""
    return str(bound) if isinstance(bound, int) else f"{bound:.15g}"
