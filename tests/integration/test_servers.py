"""Servers that are added and removed by commands, with whole nodes, while the cluster serves."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.integration.test_copies import await_ready
from tests.integration.traffic import Traffic
from tests.support.nodes import Node, await_count, cluster, run_python
from tests.support.polling import DEADLINE_S, poll

SECRET = {"KV_CLUSTER_SECRET": "a secret of sixteen or more"}


def kv(nodes: Sequence[Node], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("tools/kv.py", "-s", ",".join(node.name for node in nodes), *arguments)


def joining(node: Node, *seeds: Node) -> Node:
    """A node without a servers file, which asks these."""
    node.seeds = [seed.name for seed in seeds]
    return node


def test_three_become_five_and_three_again_without_a_line_in_any_file(tmp_path: Path) -> None:
    with cluster(tmp_path, 5, environment=SECRET) as nodes:
        three, more = nodes[:3], [joining(node, nodes[1], nodes[2]) for node in nodes[3:]]
        nodes[0].servers.write_text("".join(f"{node.name}\n" for node in three))
        for node in three:
            node.start()
        await_count(three, 3)
        await_ready(three)
        with Traffic(three, keys=300) as traffic:
            traffic.go_on(50)
            for node in more:
                told = kv(three, "add-server", node.name)
                assert (told.returncode, told.stderr) == (0, ""), told
                assert told.stdout == f"{node.name} belongs to the cluster: it can be started\n"
                node.start()
            await_count(nodes, 5)
            await_ready(nodes)
            assert all(node.status()["servers"] == 5 for node in nodes)
            assert "\n3 of 3 founders are up;" in kv(three, "servers").stdout
            traffic.ask(nodes)
            traffic.go_on(50)
            more[0].kill()
            more[0].start()
            await_count(nodes, 5)
            await_ready(nodes)
            traffic.ask(three)
            for node in more:
                told = kv(nodes[::-1], "remove-server", node.name)
                assert (told.returncode, told.stderr) == (0, ""), told
                assert node.name not in kv(three, "servers").stdout, "it is gone as soon as that is said"
                assert node.process.wait(DEADLINE_S) == 0
            await_count(three, 3)
            await_ready(three)
            traffic.go_on(50)
        traffic.check()
        assert not traffic.counts["unanswered"], traffic.counts
        poll(lambda: all(node.status()["servers"] == 3 for node in three), DEADLINE_S)
        assert kv(three, "servers").returncode == 0


def test_what_would_harm_is_declined(tmp_path: Path) -> None:
    with cluster(tmp_path, 3, environment=SECRET) as nodes:
        for node in nodes[:2]:
            node.start()
        await_count(nodes[:2], 2)
        poll(nodes[0].serves, DEADLINE_S)
        told = kv(nodes[:2], "remove-server", nodes[1].name)
        assert (told.returncode, told.stdout) == (1, "")
        assert "2 must be members and up" in told.stderr


def test_who_knows_the_secret_joins_without_a_command(tmp_path: Path) -> None:
    with cluster(tmp_path, 6, environment=SECRET) as nodes:
        three, more = nodes[:3], [joining(node, nodes[2]) for node in nodes[3:]]
        nodes[0].servers.write_text("".join(f"{node.name}\n" for node in three))
        for node in nodes:
            node.start()
        await_count(nodes, 6)
        await_ready(nodes)
        assert kv(three, "servers").returncode == 0
        for node in three[1:]:  # whoever comes back without a word finds its cluster, which goes on by the others
            node.kill()
            node.start()
        await_count(nodes, 6)
        await_ready(nodes)
        assert more[0].status()["servers"] == 6


def test_all_may_be_started_alike(tmp_path: Path) -> None:
    """With the founders' file, and told to join: whoever is in the file founds by it, any other joins."""
    with cluster(tmp_path, 5, environment=SECRET) as nodes:
        founders = nodes[:3]
        nodes[0].servers.write_text("".join(f"{node.name}\n" for node in founders))
        for node in nodes:
            node.options = ("--join", ",".join(founder.name for founder in founders), "--advertise", node.name)
            node.start()
        await_count(nodes, 5)
        await_ready(nodes)
        for node in (nodes[0], nodes[4]):
            node.kill()
            node.start()
        await_count(nodes, 5)
        await_ready(nodes)
        assert all(node.status()["servers"] == 5 for node in nodes)
        assert kv(founders, "servers").returncode == 0


def test_without_the_secret_nobody_does(tmp_path: Path) -> None:
    with cluster(tmp_path, 3, environment=SECRET) as nodes:
        two, other = nodes[:2], joining(nodes[2], *nodes[:2])
        nodes[0].servers.write_text("".join(f"{node.name}\n" for node in two))
        other.environment["KV_CLUSTER_SECRET"] = "another secret, of sixteen"
        for node in nodes:
            node.start()
        await_count(two, 2)
        await_ready(two)
        poll(lambda: two[0].counters().get("cluster_refused_unknown_sender", 0) > 5, DEADLINE_S)
        assert two[0].status()["servers"] == 2
        assert not other.status()["is_member"]
