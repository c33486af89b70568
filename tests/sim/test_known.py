"""The faults of the design that known.py names: each is still there, or its entry must go."""

import pytest

from tests.sim.checks import Violation
from tests.sim.known import KNOWN


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, raises=Violation, reason=known.promise))
        for name, known in KNOWN.items()
        if known.shows is not None
    ],
)
def test_the_design_keeps_the_promise(name: str) -> None:
    shows = KNOWN[name].shows
    assert shows is not None
    shows()
