"""Who is measured: nodes of this checkout, of another one, and memcached, each started and loaded alike."""

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.client import Client, table
from tools import nodes
from tools.bench import generator
from tools.bench.figures import MEMCACHED

MEMCACHED_PROGRAM: Final = shutil.which("memcached")
_MEMCACHED_READY_S: Final = 10.0
_READY_S: Final = 120.0  # for twenty nodes that start at once on two cores
_LOAD_S: Final = 300.0  # for so many requests, however slow the machine: nobody answers any more
_NOTHING: Final = b"\0\1\0\0\0\1\0\0mn\r\n"  # memcached's "no operation" over UDP


class Tree(NamedTuple):
    """A checkout whose nodes are measured. `name`: THIS or OTHER."""

    name: str
    path: Path
    environment: Mapping[str, str]


class Measured(NamedTuple):
    result: "generator.Result"  # only type checkers know it
    processor_us: list[float]  # of each process, a request that was answered


@dataclass
class Subject:
    """What serves requests, and may be loaded."""

    name: str
    servers: list[tuple[str, int]]
    pids: list[int]
    members: list[nodes.NodeProcess] = field(default_factory=list)  # none of memcached

    def load(self, **load: Any) -> Measured:
        """Run the load generator (arguments as of `generator.run`), and what it costs. NotReady if it never ends."""
        load = {"seconds": _LOAD_S} | load
        before = [nodes.processor_s(pid) for pid in self.pids]
        result = generator.run(self.servers, memcached=self.name == MEMCACHED, **load)
        if result["answered"] + result["timeouts"] < load.get("requests", 0):
            raise nodes.NotReady(f"{self.name} has answered {result['answered']:,} of {load['requests']:,} requests")
        used = [nodes.processor_s(pid) - was for pid, was in zip(self.pids, before, strict=True)]
        return Measured(result, [one / max(result["answered"], 1) * 1e6 for one in used])

    def primaries(self) -> list[int]:
        """By slot: the place in `servers` of its primary, as the first node sees it."""
        with Client([self.members[0].name], slot_aware=False) as client:
            read = table.table_of(client.status())
        assert read is not None, "a whole cluster has a table"
        place = {node.name: number for number, node in enumerate(self.members)}
        return [place[name] for name in read.primaries]


@contextmanager
def cluster(tree: Tree, ports: Sequence[int], options: Sequence[str] = ()) -> Iterator[Subject]:
    """Nodes of a checkout that make one whole cluster, for the time of the block. NotReady."""
    main = tree.path / "app" / "main.py"
    with nodes.running(ports, ["--bind", nodes.HOST, *options], tree.environment, main, _READY_S) as all_of_it:
        servers = [(node.host, node.port) for node in all_of_it]
        yield Subject(tree.name, servers, [node.process.pid for node in all_of_it], all_of_it)


def memcached_command(port: int) -> list[str]:
    return [
        *(MEMCACHED_PROGRAM or "memcached", "-u", getpass.getuser(), "-l", nodes.HOST, "-p", "0", "-U", str(port)),
        *("-t", "1", "-m", "64"),
    ]


@contextmanager
def memcached(port: int) -> Iterator[Subject]:
    """One with one thread and 64 MiB, for the time of the block. NotReady."""
    with subprocess.Popen(memcached_command(port), stdin=subprocess.DEVNULL) as process:
        try:
            _await_memcached(process, port)
            yield Subject(MEMCACHED, [(nodes.HOST, port)], [process.pid])
        finally:
            process.kill()


def _await_memcached(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _MEMCACHED_READY_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.05)
        asking.connect((nodes.HOST, port))
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise nodes.NotReady(f"memcached has ended with status {process.returncode}")
            try:
                asking.send(_NOTHING)
                asking.recv(100)
                return
            except OSError:  # nobody listens yet
                time.sleep(0.01)
    raise nodes.NotReady(f"memcached does not answer within {_MEMCACHED_READY_S:g} s")
