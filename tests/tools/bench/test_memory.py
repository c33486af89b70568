"""The benchmark of memory: its arguments."""

import pytest

from tools.bench.phases import phases_of


def test_phases_of_the_memory_benchmark() -> None:
    phases = ["10000", "0", "random", "4x0", "1-32x0-16@7"]
    assert phases_of(",".join(phases)) == phases
    for wrong in ("10001", "x", "", "-1", "4x10001"):
        with pytest.raises(ValueError, match=r"is not a size or `random`|isn't a size from 0 to 10000"):
            phases_of(wrong)
