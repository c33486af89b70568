"""Processes of nodes: started, asked for their counters, stopped, killed; and what is said of one that can't start."""

import signal
import socket
from pathlib import Path

import pytest

from tests.support.ports import adjacent_ports, free_port, occupied
from tools.nodes import NodeProcess, NotReady, await_ready, running, write_servers


@pytest.fixture
def servers(tmp_path: Path) -> Path:
    return write_servers(tmp_path, [free_port()])


def port_of(servers: Path) -> int:
    return int(servers.read_text().rpartition(":")[2])


def test_a_node_from_its_start_to_its_end_and_again(servers: Path) -> None:
    node = NodeProcess(port_of(servers), servers)
    try:
        node.start()
        await_ready([node])
        counters = node.counters()
        assert counters["entries"] == 0
        assert 10 << 20 < counters["resident_bytes"] < 128 << 20
        assert 0 < node.processor_s() < 60
        assert node.stop() == 0
        node.start()
        await_ready([node])
        node.kill()
        assert node.process.returncode == -signal.SIGKILL
        assert node.log.count(" node.started ") == 2
        assert node.log.count(" node.stopped") == 1
    finally:
        node.close()


def test_one_that_is_stopped_is_killed_none_the_less(servers: Path) -> None:
    node = NodeProcess(port_of(servers), servers)
    node.close()  # never started
    node.start()
    node.send_signal(signal.SIGSTOP)
    node.close()
    assert node.process.returncode == -signal.SIGKILL
    node.close()


def test_a_cluster_is_whole_in_the_block_and_gone_after_it() -> None:
    with running(adjacent_ports(2), ["--replicas", "2"]) as nodes:
        assert [node.counters()["cluster_members"] for node in nodes] == [2, 2]
    assert [node.process.returncode for node in nodes] == [0, 0]


def test_why_a_node_has_not_started_is_told() -> None:
    first, second = adjacent_ports(2)
    with (
        occupied(second, socket.SOCK_DGRAM),
        pytest.raises(NotReady, match=rf"127.0.0.1:{second} has ended with status 2: kv: .*{second}"),
        running([first, second]),
    ):
        raise AssertionError("not ready, yet the block is entered")
