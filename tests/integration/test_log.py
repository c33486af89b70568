"""A real node whose log nobody reads: it serves as if nothing were, and tells afterwards what is missing."""

import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.wire.protocol import GET, NO_ERR, PUT
from tests.http.test_hostile import HOSTILE
from tests.support.nodes import Node
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import HOST, free_ports
from tools.nodes import command, write_servers

FILLING = b"x\n"


class StuckPipe:
    """A small pipe that is full, and is not read until somebody says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, FILLING)
        except BlockingIOError:
            pass
        os.set_blocking(self.writer, True)
        self.text = ""

    def read(self) -> str:
        """All that has come so far."""
        try:
            while part := os.read(self.reader, 1 << 16):
                self.text += part.decode("ascii")
        except BlockingIOError:
            pass
        return self.text

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            os.close(fd)


@pytest.fixture
def pipe() -> Iterator[StuckPipe]:
    pipe = StuckPipe()
    yield pipe
    pipe.close()


def http(port: int, request: bytes) -> bytes:
    """All that is answered; nothing if the connection is refused or reset."""
    parts = []
    try:
        with socket.create_connection((HOST, port), DEADLINE_S) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65_536):
                parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def test_a_node_whose_log_nobody_reads_serves_and_tells_afterwards(tmp_path: Path, pipe: StuckPipe) -> None:
    port, http_port = free_ports(2)
    servers = write_servers(tmp_path, [port])
    options = ("--bind", HOST, "--http", str(http_port), "--log-level", "debug", "--log-format", "json")
    node = Node(port, servers, options)
    process = subprocess.Popen(command(port, servers, options), env=node.environment, stderr=pipe.writer)
    node._process = process
    scrape = b"GET /metrics HTTP/1.0\r\n\r\n"

    def lines_dropped() -> float:
        lines = http(http_port, scrape).decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("kv_log_lines_dropped_total ")))

    try:
        poll(node.serves, DEADLINE_S)
        for data in HOSTILE.values():
            http(http_port, data)

        def lines_are_dropped() -> bool:
            for number in range(50):
                process.send_signal(signal.SIGUSR1)  # a line of 2 KB, unless another signal waits to be looked at
                assert node.code(PUT, key=b"%d" % number, value=b"v") == NO_ERR
                assert node.code(GET, key=b"%d" % number) == NO_ERR
            return lines_dropped() > 0

        poll(lines_are_dropped, DEADLINE_S)
        assert http(http_port, b"GET /ready HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        dropped = lines_dropped()

        poll(lambda: "logs.dropped" in pipe.read(), DEADLINE_S)  # the reader is back, and nothing is logged meanwhile
        node.send_signal(signal.SIGTERM)
        poll(lambda: (pipe.read(), process.poll())[1] is not None, DEADLINE_S)
        assert process.returncode == 0
    finally:
        node.close()
    lines = pipe.read().splitlines()
    events = [json.loads(line) for line in lines if line != FILLING.decode().strip()]
    assert events[0]["event"] == "http.started", "the first lines were kept"
    assert sum(event["lines"] for event in events if event["event"] == "logs.dropped") >= dropped
    assert events[-1]["event"] == "node.stopped"


def test_a_node_that_cannot_start_does_not_wait_for_who_is_to_read_why(tmp_path: Path, pipe: StuckPipe) -> None:
    process = subprocess.Popen(command(1, tmp_path / "none", ()), stderr=pipe.writer)
    try:
        assert process.wait(DEADLINE_S) == 2
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>/dev/full >&2", "2>&- >&-"])
def test_a_node_without_a_place_for_its_log_serves(tmp_path: Path, stderr: str) -> None:
    """Closed, or a file on a disk that is full."""
    (port,) = free_ports(1)
    servers = write_servers(tmp_path, [port])
    node = Node(port, servers)
    node._process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {stderr}', "sh", *command(port, servers, ("--bind", HOST))], env=node.environment
    )
    try:
        poll(node.serves, DEADLINE_S)
        for number in range(300):
            node.send_signal(signal.SIGUSR1)
            assert node.code(PUT, key=b"%d" % number, value=b"v") == NO_ERR
        assert node.stop() == 0
    finally:
        node.close()
