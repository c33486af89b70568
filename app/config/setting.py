"""How one setting is declared: as a field of Options (options.py) with all that is to be said of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one setting, kept with its field."""

    option: str  # empty: it is taken from the environment only
    parse: Callable[[str], Any]
    metavar: str
    default: str | None  # as one would type it; None: `default_words` says what then holds
    default_words: str
    group: str
    help: str
    variable: str  # of the environment
    is_secret: bool  # never to be shown


def variable_of(option: str) -> str:
    """The environment variable that is the option."""
    return "KV_" + option.removeprefix("--").replace("-", "_").upper()


def declare(
    option: str,
    parse: Callable[[str], Any],
    metavar: str,
    *,
    default: str | None,
    default_words: str = "",
    group: str,
    help: str,
    variable: str = "",
    is_secret: bool = False,
) -> Any:
    """A field of Options that is also an option, a variable and a paragraph of the manual."""
    variable = variable or variable_of(option)
    setting = Setting(option, parse, metavar, default, default_words or str(default), group, help, variable, is_secret)
    return field(default=None if default is None else parse(default), metadata={"setting": setting}, repr=not is_secret)
