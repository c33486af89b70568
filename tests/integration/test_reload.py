"""SIGHUP, with whole nodes: servers are added and taken out while the cluster serves."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.integration.test_copies import await_ready
from tests.integration.traffic import Traffic
from tests.support.nodes import Node, await_count, cluster, run_python
from tests.support.polling import DEADLINE_S, poll


def reread(nodes: Sequence[Node], *listed: Node) -> None:
    """Have them go by a file that names these, and wait until they do."""
    nodes[0].servers.write_text("".join(f"{node.name}\n" for node in listed))
    before = [node.log.count("node.reloaded") for node in nodes]
    for node in nodes:
        node.send_signal(signal.SIGHUP)
    poll(
        lambda: all(node.log.count("node.reloaded") > count for node, count in zip(nodes, before, strict=True)),
        DEADLINE_S,
        lambda: [node.log for node in nodes],
    )


def kv_servers(node: Node) -> subprocess.CompletedProcess[str]:
    return run_python("tools/kv.py", "-s", node.name, "servers")


def all_know_five(one: Node) -> bool:
    """Whether all members know five servers, of which two have never been heard."""
    told = kv_servers(one)
    return (told.returncode, told.stdout.count("3 of 3"), told.stdout.count("never heard")) == (0, 5, 2)


def test_three_become_five_and_three_again_and_none_is_restarted(tmp_path: Path) -> None:
    with cluster(tmp_path, 5, arguments=("--file-rules", "yes")) as nodes:
        three, more = nodes[:3], nodes[3:]
        nodes[0].servers.write_text("".join(f"{node.name}\n" for node in three))
        for node in three:
            node.start()
        await_count(three, 3)
        with Traffic(three, keys=300) as traffic:
            traffic.go_on(50)
            reread(three[:2], *nodes)
            assert kv_servers(three[0]).returncode == 1, "the third does not know them yet"
            reread(three, *nodes)
            poll(lambda: all_know_five(three[0]), DEADLINE_S)  # what a node tells may be a moment old
            for node in more:
                node.start()
            await_count(nodes, 5)
            await_ready(nodes)
            traffic.ask(nodes)
            traffic.go_on(50)
            traffic.ask(three)
            for node in more:
                assert node.stop() == 0
            await_count(three, 3)
            reread(three, *three)
            await_ready(three)
            traffic.go_on(50)
        traffic.check()
        assert not traffic.counts["unanswered"], traffic.counts
        assert [node.log.count("node.started") for node in three] == [1] * 3
        poll(lambda: all(node.status()["servers"] == 3 for node in three), DEADLINE_S)


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as nodes:
        for node in nodes:
            node.start()
        await_count(nodes, 2)
        one = nodes[0]
        poll(one.serves, DEADLINE_S)
        one.servers.write_text("127.0.0.1\n")
        one.send_signal(signal.SIGHUP)
        poll(lambda: "node.not_reloaded" in one.log, DEADLINE_S)
        assert "servers.txt:1: '127.0.0.1': the port is missing" in one.log
        poll(one.serves, DEADLINE_S)
        assert one.status()["servers"] == 2


def test_a_secret_is_replaced_while_the_cluster_serves(tmp_path: Path) -> None:
    """One node is started anew in the middle of it, and knows the new one only."""
    secret = tmp_path / "secret"
    secret.write_text("the old secret of all\n")
    secret.chmod(0o600)
    with cluster(tmp_path, 3, environment={"KV_CLUSTER_SECRET_FILE": str(secret)}) as nodes:
        for node in nodes:
            node.start()
        await_count(nodes, 3)
        await_ready(nodes)
        with Traffic(nodes, keys=300) as traffic:
            secret.write_text("the new secret of all\n")
            for round_ in range(3):
                for node in nodes:
                    reread([node], *nodes)
                    traffic.go_on(20)
                if not round_:
                    assert nodes[2].stop() == 0
                    nodes[2].start()
                    await_count(nodes, 3)
                    await_ready(nodes)
            traffic.go_on(50)
        traffic.check()
        assert not traffic.counts["unanswered"], traffic.counts
        await_ready(nodes)
        assert [node.counters().get("cluster_refused_wrong_secret", 0) for node in nodes[:2]] == [0, 0]


def test_one_node_becomes_three_and_keeps_what_it_holds(tmp_path: Path) -> None:
    """As docs/operations.md has it: one line at a time. Two at once are declined, and change nothing."""
    with cluster(tmp_path, 3) as nodes:
        one, *others = nodes
        one.servers.write_text(f"{one.name}\n")
        one.start()
        poll(one.serves, DEADLINE_S)
        with Traffic([one], keys=300) as traffic:
            traffic.go_on(50)
            one.servers.write_text("".join(f"{node.name}\n" for node in nodes))
            one.send_signal(signal.SIGHUP)
            poll(lambda: "add 1 at a time at most" in one.log, DEADLINE_S, lambda: one.log)
            for count, node in enumerate(others, 2):
                reread(nodes[: count - 1], *nodes[:count])
                node.start()
                await_count(nodes[:count], count)
                await_ready(nodes[:count])
                traffic.go_on(50)
        traffic.check()
        assert not traffic.counts["unanswered"], traffic.counts
        assert run_python("tools/kv.py", "-s", one.name, "add-server", "127.0.0.1:1").returncode == 0
