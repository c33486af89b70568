"""The memory that control groups leave a process: made-up /proc and /sys trees, as systems show them."""

import os
from pathlib import Path

import pytest

from app.config.cgroup import memory_limit

MIB = 1 << 20
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V1_NONE = "9223372036854771712\n"

V2 = "36 25 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "33 30 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 30 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
)


def a_system(root: Path, group: str, mounts: str, limits: dict[str, str]) -> str:
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(group)
    (proc / "mountinfo").write_text("25 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n" + mounts)
    for path, text in limits.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("group", "mounts", "limits", "expected_mib", "set_by"),
    [
        pytest.param(
            "0::/\n", V2, {"sys/fs/cgroup/memory.max": f"{64 * MIB}\n"}, 64, "sys/fs/cgroup/memory.max",
            id="a container with a namespace of its own, version 2",
        ),
        pytest.param(
            "0::/system.slice/kv.service\n", V2,
            {
                "sys/fs/cgroup/system.slice/kv.service/memory.max": f"{96 * MIB}\n",
                "sys/fs/cgroup/system.slice/memory.max": "max\n",
            },
            96, "sys/fs/cgroup/system.slice/kv.service/memory.max",
            id="a systemd unit",
        ),
        pytest.param(
            "0::/kubepods/pod1/kv\n", V2,
            {
                "sys/fs/cgroup/kubepods/pod1/kv/memory.max": f"{200 * MIB}\n",
                "sys/fs/cgroup/kubepods/pod1/memory.max": f"{100 * MIB}\n",
                "sys/fs/cgroup/kubepods/memory.max": f"{150 * MIB}\n",
            },
            100, "sys/fs/cgroup/kubepods/pod1/memory.max",
            id="the least of nested groups is in the middle",
        ),
        pytest.param(
            "5:cpu,cpuacct:/a\n4:memory:/docker/1\n0::/\n", V1,
            {
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": f"{80 * MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NONE,
                "sys/fs/cgroup/cpu/a/memory.limit_in_bytes": "1\n",
            },
            80, "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
            id="version 1",
        ),
        pytest.param(
            "4:memory:/docker/1\n", V1.replace("0:32 /", "0:32 /docker/1"),
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{70 * MIB}\n"},
            70, "sys/fs/cgroup/memory/memory.limit_in_bytes",
            id="version 1, in a container that sees its own group as the root",
        ),
        pytest.param(
            "0::/../outside\n", V2, {"sys/fs/cgroup/memory.max": f"{64 * MIB}\n"}, 64, "sys/fs/cgroup/memory.max",
            id="a group outside of what is mounted",
        ),
        pytest.param(
            "0::/a\n", V2.replace("/sys/fs/cgroup ", "/c\\040g "), {"c g/a/memory.max": f"{64 * MIB}\n"},
            64, "c g/a/memory.max",
            id="a mount point with a blank",
        ),
        pytest.param(
            "4:memory:/a\n0::/b\n", V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
            {
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{90 * MIB}\n",
                "sys/fs/cgroup/unified/b/memory.current": "1\n",
            },
            90, "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            id="both versions, memory in the first",
        ),
    ],
)  # fmt: skip
def test_the_least_limit_of_all_groups_around_it(
    tmp_path: Path, group: str, mounts: str, limits: dict[str, str], expected_mib: int, set_by: str
) -> None:
    limit = memory_limit(a_system(tmp_path, group, mounts, limits))
    assert limit == (expected_mib * MIB, str(tmp_path / set_by))


@pytest.mark.parametrize(
    ("group", "mounts", "limits"),
    [
        ("0::/a\n", V2, {"sys/fs/cgroup/a/memory.max": "max\n"}),
        ("4:memory:/a\n", V1, {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": V1_NONE}),
        ("0::/a\n", V2, {}),
        ("", "", {"sys/fs/cgroup/memory.max": "1\n"}),
        ("4:memory\n:\n0\n", V2, {"sys/fs/cgroup/memory.max": ""}),
    ],
)
def test_without_a_limit_it_is_the_machines_memory(
    tmp_path: Path, group: str, mounts: str, limits: dict[str, str]
) -> None:
    assert memory_limit(a_system(tmp_path, group, mounts, limits)) == (MACHINE, "this machine")


def test_a_system_without_proc_sets_no_limit(tmp_path: Path) -> None:
    assert memory_limit(str(tmp_path)) == (MACHINE, "this machine")


def test_what_this_very_system_allows_can_be_read() -> None:
    assert 0 < memory_limit().size_bytes <= MACHINE
