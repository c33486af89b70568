"""Real nodes for tests: processes on ports of this machine, asked by datagram, each ended by its own pid."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.client import codec
from app.wire.protocol import GET_MEMBERSHIP_CNT, STATUS
from proto_gen.key_value_pb2 import KVRequest, KVResponse

REPOSITORY = Path(__file__).parent.parent.parent
MAIN = str(REPOSITORY / "app" / "main.py")
ANSWER_S = 0.1  # a lost or late answer is asked for again


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing uses by UDP or TCP, below those that systems give out by themselves."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        if _is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


def adjacent_ports(count: int) -> int:
    """The first of so many such ports that follow each other."""
    for first in random.sample(range(20_000, 32_000 - count), 1000):
        if all(_is_free(first + n) for n in range(count)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def poll(what: Callable[[], bool], deadline_s: float, complaint: Callable[[], str] = str) -> float:
    """Ask until it is so; how long that took. AssertionError after the deadline, with the complaint."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < deadline_s, f"not within {deadline_s} s: {complaint()}"
    return time.monotonic() - started


class Node:
    """One node's process, started anew as often as wanted."""

    def __init__(self, port: int, servers: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
        self.port = port
        self.name = f"127.0.0.1:{port}"
        self.log = servers.with_name(f"{port}.log")
        self._servers = servers
        self.environment = {**os.environ, **environment}
        self._arguments = arguments
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(ANSWER_S)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, MAIN, str(self.port), str(self._servers), *self._arguments],
                env=self.environment,
                stderr=log,
            )

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._socket.close()

    def ask(self, request: KVRequest) -> KVResponse | None:
        """Its answer; None when none has come within ANSWER_S."""
        message_id = os.urandom(16)
        try:
            self._socket.send(codec.encode_request(message_id, request))
            while True:
                answered, response = codec.decode_response(self._socket.recv(65536))
                if answered == message_id:
                    return response
        except OSError:  # refused, or timed out
            return None

    def member_count(self) -> int:
        """GET_MEMBERSHIP_CNT; 0 when it does not answer."""
        answer = self.ask(KVRequest(command=GET_MEMBERSHIP_CNT))
        return answer.membershipCount if answer is not None else 0

    def status(self) -> dict[str, Any]:
        """STATUS; empty when it does not answer."""
        answer = self.ask(KVRequest(command=STATUS))
        return {} if answer is None else json.loads(answer.value)

    def resident_bytes(self) -> int:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def counters(self) -> dict[str, str]:
        """What it writes to its log on SIGUSR1."""
        marked = self.log.stat().st_size
        self.send_signal(signal.SIGUSR1)
        lines: list[str] = []

        def is_written() -> bool:
            with self.log.open() as log:
                log.seek(marked)
                text = log.read()
            lines[:] = [line for line in text.splitlines(keepends=True) if " node.counters " in line]
            return bool(lines) and lines[0].endswith("\n")

        poll(is_written, 10)
        return dict(word.split("=", 1) for word in lines[0].split()[3:])


@contextmanager
def cluster(
    directory: Path,
    count: int,
    *,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[list[Node]]:
    """Nodes of one servers file in `directory`, not started yet; whatever is left of them is killed at the end."""
    servers = directory / "servers.txt"
    ports = free_ports(count)
    servers.write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
    nodes = [Node(port, servers, environment or {}, arguments) for port in ports]
    try:
        yield nodes
    except AssertionError:
        for node in nodes:
            if node.log.exists():
                print(f"--- {node.name}\n{node.log.read_text()}")
        raise
    finally:
        for node in nodes:
            node.close()


def await_count(nodes: Sequence[Node], count: int, deadline_s: float) -> float:
    """Wait until every one of these counts so many members; how long that took."""
    waiting = list(nodes)

    def agree() -> bool:
        while waiting and waiting[-1].member_count() == count:
            waiting.pop()
        return not waiting

    return poll(agree, deadline_s, lambda: str([(node.name, node.member_count()) for node in nodes]))
