"""Nodes of different programs in one cluster: the last release beside this one, and one of another node protocol."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from app.client import Client
from app.version import NODE_PROTOCOL, VERSION
from tests.integration.test_copies import await_ready
from tests.integration.traffic import Traffic
from tests.support.nodes import MANY_KEYS_S, REPOSITORY, Node, await_count, cluster, run_python
from tests.support.polling import DEADLINE_S, poll

ITEMS = {b"item %d" % n: b"value %d" % n * 20 for n in range(300)}
OTHER_PROTOCOL = NODE_PROTOCOL + 1


def last_release() -> tuple[str, str]:
    """Its version and commit, as the changelog has them."""
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    for version, section in re.findall(r"^## \[(\d[^\]]*)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        if version != VERSION:
            commit = re.search(r"^Commit ([0-9a-f]{7,40})\b", section.strip())
            assert commit, f"the changelog does not name the commit of {version}"
            return version, commit[1]
    raise AssertionError("the changelog has no release")


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The program of the last release."""
    version, commit = last_release()
    tree = tmp_path / "released"
    tree.mkdir()
    archive = tmp_path / "released.tar"
    wanted = ["git", "archive", f"--output={archive}", commit, "app", "proto_gen"]
    done = subprocess.run(wanted, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        pytest.skip(f"release {version} is not in this clone's history ({commit}): {done.stderr.strip()}")
    shutil.unpack_archive(archive, tree, filter="data")
    return tree / "app" / "main.py"


def run_by(node: Node, main: Path) -> None:
    """Have the node handed over, and run by another program from now on."""
    assert node.stop() == 0
    assert "leave_timed_out" not in node.log
    node.main = main
    node.start()


def agree(nodes: Sequence[Node]) -> None:
    poll(lambda: all(node.member_count() == len(nodes) for node in nodes), DEADLINE_S)
    await_ready(nodes)


def test_a_rolling_upgrade_and_back_under_load_loses_nothing(tmp_path: Path, released: Path) -> None:
    with cluster(tmp_path, 3, environment={"KV_CLUSTER_SECRET": "of all releases alike"}) as nodes:
        ours = nodes[0].main
        for node in nodes:
            node.main = released
            node.start()
        agree(nodes)
        with Client([node.name for node in nodes], timeout_s=MANY_KEYS_S) as client:
            client.put_many(ITEMS)
            with Traffic(nodes, keys=500) as traffic:
                for node in nodes:
                    run_by(node, ours)
                    agree(nodes)
                    traffic.go_on(50)
                assert {node.status()["version"] for node in nodes} == {VERSION}
                run_by(nodes[1], released)
                agree(nodes)
                # Where it became the coordinator, the list of servers would be lost.
                told = run_python("tools/kv.py", "-s", nodes[0].name, "add-server", "127.0.0.1:1")
                assert told.returncode == 1, told
                assert f"{nodes[1].name} may run the last release" in told.stderr
                traffic.go_on(50)
            found = {key: item.value for key, item in client.get_many(ITEMS).items()}
        assert found == ITEMS
        traffic.check()
        assert not traffic.counts["unanswered"], traffic.counts


def test_who_speaks_another_protocol_is_refused_and_both_say_so(tmp_path: Path) -> None:
    tree = tmp_path / "tomorrow"
    for package in ("app", "proto_gen"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    version = tree / "app" / "version.py"
    ours, theirs = (f"\nNODE_PROTOCOL: Final = {number}\n" for number in (NODE_PROTOCOL, OTHER_PROTOCOL))
    assert ours in version.read_text()
    version.write_text(version.read_text().replace(ours, theirs))
    with cluster(tmp_path, 3) as nodes:
        *two, other = nodes
        other.main = tree / "app" / "main.py"
        for node in nodes:
            node.start()
        await_count(two, 2)
        for node, their, mine in ((two[0], OTHER_PROTOCOL, NODE_PROTOCOL), (other, NODE_PROTOCOL, OTHER_PROTOCOL)):
            refused = f"is refused: it speaks node protocol {their}, this node {mine}"
            poll(lambda: refused in node.log, DEADLINE_S, lambda: node.log)  # noqa: B023
        lines = [line for line in other.log.splitlines() if f"{two[0].name} is refused" in line]
        for one, later in pairwise(datetime.fromisoformat(line.split()[0]) for line in lines):
            assert (later - one).total_seconds() > 9.0, "once in ten seconds"
        # Of the two ends of a link only the one that is dialled sees the other's greeting.
        poll(lambda: any("links_refused_other_protocol" in node.counters() for node in nodes), DEADLINE_S)
        poll(lambda: other.status().get("ready") is False, DEADLINE_S)
        with Client([node.name for node in two]) as client:
            client.put(b"key", b"value")
            assert client.get(b"key").value == b"value"
