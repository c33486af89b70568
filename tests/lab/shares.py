"""Shares of the processor: a control group that lets a process run for so many per cent of each 20 ms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PERIOD_US: Final = 20_000
_ROOT: Final = Path("/sys/fs/cgroup")
_IS_FIRST_VERSION: Final = (_ROOT / "cpu" / "cpu.cfs_quota_us").exists()
_HERE: Final = _ROOT / "cpu" if _IS_FIRST_VERSION else _ROOT


def why_not() -> str:
    """Why no shares can be given on this machine; empty if they can."""
    if _IS_FIRST_VERSION:
        return "" if os.access(_HERE, os.W_OK) else "no right to make control groups"
    try:
        is_there = "cpu" in (_ROOT / "cgroup.subtree_control").read_text().split()
    except OSError:
        return "no control groups"
    return "" if is_there and os.access(_ROOT, os.W_OK) else "control groups can't share out the processor here"


@contextmanager
def share(pid: int, part: float) -> Iterator[None]:
    """For the time of the block the process has so much of one processor at most."""
    group = _HERE / f"kv-lab-{os.getpid()}-{pid}"
    group.mkdir()
    quota_us = round(part * _PERIOD_US)
    try:
        if _IS_FIRST_VERSION:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            (_HERE / "cgroup.procs").write_text(str(pid))
        group.rmdir()
