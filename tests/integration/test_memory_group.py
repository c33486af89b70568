"""A real node in real control groups with a memory limit, where this process may make them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from app.config import cgroup
from tests.support.nodes import Node, environment
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import HOST, free_port
from tools import nodes

MIB = 1 << 20


class GroupedNode(Node):
    """A node that is started in a control group."""

    group: Path

    def command(self) -> list[str]:
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", script, str(self.group), *super().command()]


@contextmanager
def node_in_a_group(directory: Path, limit_bytes: int, *, nested: bool = False) -> Iterator[GroupedNode]:
    """A node, started, in a group of its own with that limit, or in one within that; all is gone at the end."""
    # Below this process's own, where a system lets processes make groups.
    limits = [Path(path) for path in cgroup._limit_files("/")]
    if not limits:
        pytest.skip("there are no memory control groups here")
    outer = limits[0].parent / f"kv-test-{uuid4().hex}"
    groups = [outer, outer / "inner"] if nested else [outer]
    port = free_port()
    node = GroupedNode(port, nodes.write_servers(directory, [port]), ("--bind", HOST), environment())
    node.group = groups[-1]
    try:
        for group in groups:
            group.mkdir()
        (outer / limits[0].name).write_text(str(limit_bytes))
    except OSError as error:
        _remove(groups)
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        node.start()
        yield node
    finally:
        node.close()
        _remove(groups)


def _remove(groups: list[Path]) -> None:
    for group in reversed(groups):
        if group.exists():
            group.rmdir()


@pytest.mark.parametrize("nested", [False, True])
def test_too_little_memory_is_told_before_it_starts(tmp_path: Path, nested: bool) -> None:
    with node_in_a_group(tmp_path, 100 * MIB, nested=nested) as node:
        assert node.process.wait(timeout=DEADLINE_S) == 2
        assert re.fullmatch(
            r"kv: --max-memory 128MiB is more than this process may take: 100MiB \(/\S+\):"
            r" lower it or raise the limit\n",
            node.log,
        )


@pytest.mark.parametrize(("limit_mib", "warnings"), [(140, 1), (160, 0)])
def test_too_little_for_the_kernel_is_warned_about(tmp_path: Path, limit_mib: int, warnings: int) -> None:
    with node_in_a_group(tmp_path, limit_mib * MIB) as node:
        poll(node.serves)
        assert node.log.count(f" WARNING node.memory_limit_tight limit_bytes={limit_mib * MIB} ") == warnings
