"""How much memory the kernel lets this process have: the machine's, or the least limit of its control groups.

The problem: a container, a pod and a systemd unit are limited by control groups, which are nested: the limit that ends
a process may be its own group's or that of any group around it, and neither the machine's memory nor the limit at the
root of the hierarchy tells. A node whose --max-memory is above it would be killed, without a word, when it fills.

The approach is the one of the JVM and of systemd: /proc/self/cgroup names the process's group, /proc/self/mountinfo
where the hierarchy is mounted and which part of it (a container sees its own group as the root), and every group from
there up to the mount is asked. Version 2 (memory.max) and version 1 (memory.limit_in_bytes) differ in names only; a
machine may have both mounted, with memory in one of them. docs.kernel.org: cgroup-v2, cgroup-v1/memory; cgroups(7).
"""

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

# What the kernel charges a group for beside the processes' resident sizes: sockets' buffers (16 MiB are a node's own,
# and links have theirs), pages of files, tables. A limit with less room than this above --max-memory is warned about.
KERNEL_ROOM_BYTES: Final = 32 << 20


class MemoryLimit(NamedTuple):
    """A number of bytes, and where it is set: a file, or "this machine"."""

    size_bytes: int
    source: str


def memory_limit(root: str = "/") -> MemoryLimit:
    """The most memory that this process may take. `root` is where /proc and /sys are found.

    What can't be read, as outside of Linux, sets no limit.
    """
    limit = MemoryLimit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine")
    for path in _limit_files(root):
        text = _read(path).strip()
        if text.isdecimal():  # else "max": none
            limit = min(limit, MemoryLimit(int(text), path))
    return limit


def _limit_files(root: str) -> Iterator[str]:
    """The files that may limit this process, its own group's first."""
    groups = list(_groups(_read(os.path.join(root, "proc/self/cgroup"))))
    for line in _read(os.path.join(root, "proc/self/mountinfo")).splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(" "), filesystem.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            controller, name = "", "memory.max"
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            controller, name = "memory", "memory.limit_in_bytes"
        else:
            continue
        mounted_part, mount_point = _unescaped(fields[3]), _unescaped(fields[4])
        for group in (path for of, path in groups if of == controller):
            for folder in _upwards(group, mounted_part):
                yield os.path.join(root, mount_point.lstrip("/"), folder, name)


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """The (controller, path) pairs of /proc/self/cgroup; version 2 has one line, whose controller is empty."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path:
            for controller in controllers.split(","):
                yield controller, path


def _upwards(group: str, mounted_part: str) -> Iterator[str]:
    """The folders from a group up to the one that is mounted, "", relative to the mount point.

    A group outside of the mounted part, as after a change of namespace, can't be seen: what is mounted is then asked.
    """
    relative = os.path.relpath(group, mounted_part)
    while relative not in (".", "") and not relative.startswith(".."):
        yield relative
        relative = os.path.dirname(relative)
    yield ""


def _unescaped(field: str) -> str:
    r"""A field of mountinfo: blanks in it are written as \040 and the like."""
    for char in " \t\n\\":
        field = field.replace(f"\\{ord(char):03o}", char)
    return field


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
