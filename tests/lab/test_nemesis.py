"""Two short runs of random faults; longer ones by hand: see __main__.py."""

from pathlib import Path

import pytest

from tests.lab.nemesis import run

SHORT_S = 15.0


@pytest.mark.parametrize("seed", [2, 28])
def test_random_faults(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, SHORT_S)
