"""The benchmark of memory: its arguments."""

import pytest

from tools.bench import memory


def test_sizes_of_the_memory_benchmark() -> None:
    assert memory._sizes("10000,0,random") == ["10000", "0", "random"]
    for wrong in ("10001", "-1", "x", ""):
        with pytest.raises(ValueError, match="isn't a size from 0 to 10000"):
            memory._sizes(wrong)
