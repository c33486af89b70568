"""The bound of memory that the system has: read from copies of what Linux shows."""

from pathlib import Path

import pytest

from app.config.container import memory_limit_bytes

UNLIMITED = "9223372036854771712"  # how the first generation says it


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "167772160"}, 167772160),  # a container, seen from inside
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/system.slice/kv.service\n", {"system.slice/kv.service/memory.max": "1000"}, 1000),
        (
            "0::/system.slice/kv.service\n",
            {"system.slice/kv.service/memory.max": "2000", "system.slice/memory.max": "1000"},
            1000,
        ),
        ("0::/../../outside\n", {"memory.max": "1000"}, 1000),
        ("5:cpu,cpuacct:/x\n4:memory:/docker/f00\n", {"memory/memory.limit_in_bytes": "1000"}, 1000),
        (
            "4:memory:/docker/f00\n0::/\n",
            {"memory/docker/f00/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": UNLIMITED},
            1000,
        ),
        ("0::/a:b\n", {"a:b/memory.max": "1000"}, 1000),
        ("3:cpu:/x\n", {"x/memory.max": "1000", "memory/x/memory.limit_in_bytes": "1000"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_the_least_bound_of_all_groups(groups: str, files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert memory_limit_bytes(tmp_path) == limit


def test_a_system_without_groups_has_none(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None
