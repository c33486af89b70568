"""The bound of memory that the system has for this process and others: a container's, or a service's (cgroups).

A node that is told more than its container has is killed when its store fills up, hours later and without a word. So
it looks when it starts. Both generations of cgroups are asked, and all groups that the process is in: a bound holds for
whatever is below it.
"""

from pathlib import Path
from typing import Final

# What a container is charged for besides the process: its sockets' buffers in the kernel, 16 MiB for what arrives and
# the links' (docs/operations.md).
SOCKETS_BYTES: Final = 32 << 20

# Where groups lie, and what they call their bound; by whether they are of the second generation.
_FILES: Final = {True: ("sys/fs/cgroup", "memory.max"), False: ("sys/fs/cgroup/memory", "memory.limit_in_bytes")}


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least of the bounds; None where there is none, or nothing says so. `root`: where /proc and /sys are."""
    limits: list[int] = []
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for group in groups:
        _, kinds, path = group.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        folder, name = _FILES[not kinds]
        own = Path(path.lstrip("/"))
        for above in (own, *own.parents):
            limits += _number_in(root / folder / above / name)
    return min(limits, default=None)


def _number_in(path: Path) -> list[int]:
    """None where the file has another word, "max", or is not there: in a container the outer groups are not."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return []
    return [int(text)] if text.isdecimal() else []
