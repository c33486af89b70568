"""The hot pieces, compiled: optional, and to everybody else the same as the Python that they stand in for.

What a piece does is said by its Python, which is what to read first: `app/wire/codec.py` has `@piece` above a function
or class, and `app/fast/codec.pyx` one of the same name. Which of the two the name means is decided once, when the
module is imported: the compiled one where it was built (`tools/build_fast.py`) and KV_FAST is not `off`. The tests run
against both, and hold them against each other (`tests/fast`).
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar

VARIABLE: Final = "KV_FAST"
CHOICES: Final = ("", "on", "off")  # where it was built; or nothing else will do; or never

_Piece = TypeVar("_Piece", bound=Callable[..., Any])

# By "module.name", of every piece: the Python, and what stands in for it (itself where nothing does).
PIECES: Final[dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = {}


def piece(pure: _Piece) -> _Piece:
    """What is compiled in place of a function or class of the same name, where there is such a thing; else itself."""
    module = pure.__module__.rpartition(".")[2]
    chosen = pure
    if os.environ.get(VARIABLE, "") != "off":
        try:
            chosen = getattr(import_module(f"app.fast.{module}"), pure.__name__)
        except ImportError:
            if os.environ.get(VARIABLE) == "on":
                raise
    PIECES[f"{module}.{pure.__name__}"] = pure, chosen
    return chosen


def is_compiled() -> bool:
    """Whether every piece that was imported so far is."""
    return bool(PIECES) and all(pure is not chosen for pure, chosen in PIECES.values())
