"""The benchmark of a node runs, and says in a line why it can't. What it measures is not looked at."""

import re
import socket

import pytest

from tests.support.ports import free_port, occupied
from tools.bench import node

Captured = pytest.CaptureFixture[str]


def test_a_node_under_another_generators_load(capsys: Captured) -> None:
    port = free_port()
    assert node.main(["--port", str(port), "--load", "echo asked {port} with {clients} for {seconds}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line, clients in zip(lines, (1, 16, 64), strict=True):
        assert re.fullmatch(rf" *{clients} clients: asked {port} with {clients} for 5\.0 \(node's .* s\)", line)


def test_a_node_under_our_own_load(capsys: Captured) -> None:
    assert node.main(["--port", str(free_port()), "--seconds", "0.2"]) == 0
    assert re.search(r"64 clients: .* µs a request\n$", capsys.readouterr().out)


def test_a_node_that_can_not_start_and_a_load_that_fails_are_told_in_a_line(capsys: Captured) -> None:
    port = free_port()
    with occupied(port, socket.SOCK_DGRAM):
        assert node.main(["--port", str(port)]) == 1
    assert re.fullmatch(r"tools\.bench\.node: .* has ended with status 2: kv: .*\n", capsys.readouterr().err)
    assert node.main(["--port", str(port), "--load", "false"]) == 1
    assert "returned non-zero exit status 1" in capsys.readouterr().err
