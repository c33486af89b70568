"""The hot pieces, compiled: optional, and to everybody else the same as the Python that they stand in for.

What a piece does is said by its Python, which is what to read first: `app/wire/codec.py` has `@piece` above a function
or class, and `app/fast/codec.pyx` one of the same name. Which of the two the name means is decided once, when the
module is imported: the compiled one where it was built (`tools/build_fast.py`) and KV_FAST is not `off`. The tests run
against both, and hold them against each other (`tests/fast`).

A build is used only whole, and only if it was made of the very sources that lie here, for this Python: it leaves a
record of what it was made of.
"""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

VARIABLE: Final = "KV_FAST"
CHOICES: Final = ("", "on", "off")  # where it was built; or nothing else will do; or never
RECORD: Final = Path(__file__).with_name("built.txt")  # the fingerprint of what the last build was made of

# What became of it; the first two are KV_FAST's and the build's doing, STALE is to be built anew.
COMPILED: Final = "compiled"
PYTHON: Final = "python"
STALE: Final = "stale"

_Piece = TypeVar("_Piece", bound=Callable[..., Any])

# By "module.name", of every piece: the Python, and what stands in for it (itself where nothing does).
PIECES: Final[dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = {}


def fingerprint() -> str:
    """Of the sources of all compiled pieces, and the Python that they are compiled for.

    Against oversight, not malice: a CRC-32 will do, and hashlib would cost a node 4 MiB.
    """
    crc = crc32(EXTENSION_SUFFIXES[0].encode())
    for path in _sources():
        crc = crc32(b"\0%b\0%b" % (path.name.encode(), path.read_bytes()), crc)
    return f"{crc:08x}"


def _sources() -> list[Path]:
    return sorted(path for path in RECORD.parent.iterdir() if path.suffix in (".pyx", ".pxd"))


def _found() -> str:
    """COMPILED if it is to be used; else why not: PYTHON (there is none, or it is not wanted) or STALE."""
    if os.environ.get(VARIABLE) == "off":
        return PYTHON
    try:
        recorded = RECORD.read_text().strip()
    except OSError:
        return PYTHON
    if recorded != fingerprint():
        return STALE
    try:
        for path in _sources():
            if path.suffix == ".pyx":
                import_module(f"app.fast.{path.stem}")
    except ImportError:  # it was built where other libraries are, or part of it is gone
        return STALE
    return COMPILED


CORE: Final = _found()


def wrong() -> str | None:
    """What is wrong with KV_FAST, in a line; None: nothing."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in CHOICES:
        return f"{VARIABLE}: {wanted!r} is neither 'on' nor 'off'"
    if wanted == "on" and CORE != COMPILED:
        what = "was built of other sources, or for another Python" if CORE == STALE else "is not built"
        return f"{VARIABLE} is 'on', but app/fast {what}: run python tools/build_fast.py"
    return None


def piece(pure: _Piece) -> _Piece:
    """What is compiled in place of a function or class of the same name, where there is such a thing; else itself.

    Raises ImportError where KV_FAST wants what can't be had.
    """
    module = pure.__module__.rpartition(".")[2]
    chosen = pure
    if (problem := wrong()) is not None:
        raise ImportError(problem)
    if CORE == COMPILED:
        chosen = getattr(import_module(f"app.fast.{module}"), pure.__name__)
    PIECES[f"{module}.{pure.__name__}"] = pure, chosen
    return chosen
