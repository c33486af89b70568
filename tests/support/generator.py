"""The compiled load generator of tools/bench: built here, or the tests that import this are skipped."""

import pytest

from tools import build_fast

FOLDER = "tools/bench"

why = build_fast.lacking()
if why is not None:
    pytest.skip(f"the load generator can't be compiled here: {why}", allow_module_level=True)
build_fast.build(FOLDER, "")

from tools.bench import generator  # noqa: E402 - not before it is built

__all__ = ["generator"]
