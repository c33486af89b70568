"""The two implementations of what app/fast compiles, for tests that are to hold for either."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.fast import PIECES

WHICH = ("pure", "compiled")


def pieces(module: str, which: str) -> Any:
    """All pieces of a module, by their names; skips where the compiled ones are wanted and not there.

    The module must have been imported.
    """
    pairs = {name.partition(".")[2]: pair for name, pair in PIECES.items() if name.startswith(module + ".")}
    assert pairs, f"{module} has no piece"
    if which == "compiled" and any(pure is chosen for pure, chosen in pairs.values()):
        pytest.skip("app/fast is not compiled, or KV_FAST is off")
    return SimpleNamespace(**{name: pair[WHICH.index(which)] for name, pair in pairs.items()})
