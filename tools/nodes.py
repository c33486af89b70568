"""Processes of nodes on this machine: started, watched, and none left behind.

Two kinds of use. A benchmark or a test wants single nodes, each with its log in a file, that it starts, asks and kills
as it likes (`NodeProcess`). cluster.py and demo.py show to a person what all nodes write, as it comes (`ShownNodes`).
"""

import ctypes
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tools import cli
from tools.kv.cluster import Fleet, faults

HOST: Final = "127.0.0.1"
MAIN: Final = Path(__file__).resolve().parent.parent / "app" / "main.py"
READY_S: Final = 30.0  # for a cluster to be whole: it takes one or two
STOP_S: Final = 15.0  # longer than nodes take to leave, by default; then they are killed
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_COUNTERS_S: Final = 10.0
_POLL_S: Final = 0.01
# How Linux numbers the clocks of other processes: clock_getcpuclockid(3), which Python does not have.
_CPUCLOCK_SCHED: Final = 2


class NotReady(Exception):
    """The nodes do not get ready: one has ended, or it takes too long."""


def command(port: int, servers: Path, options: Sequence[str] = (), main: Path = MAIN) -> list[str]:
    """The command line of a node. `main`: another checkout's app/main.py."""
    return [sys.executable, str(main), str(port), str(servers), *options]


def write_servers(directory: Path, ports: Sequence[int]) -> Path:
    """A servers file that names these ports of this machine."""
    servers = directory / "servers.txt"
    servers.write_text("".join(f"{HOST}:{port}\n" for port in ports), encoding="ascii")
    return servers


class NodeProcess:
    """One node's process, started anew as often as wanted; its log is a file beside the servers file."""

    def __init__(
        self,
        port: int,
        servers: Path,
        options: Sequence[str] = (),
        environment: Mapping[str, str] = os.environ,
        host: str = HOST,
        main: Path = MAIN,
    ) -> None:
        """`environment`: all that the process gets; it may be changed in `self.environment` before a start.
        `host`: as the servers file has it. `main`: another checkout's app/main.py; `self.main` may be changed alike."""
        self.host = host
        self.port = port
        self.name = f"{host}:{port}"
        self.log_path = servers.with_name(f"{port}.log")
        self.environment = dict(environment)
        self.servers = servers
        self.options = options
        self.main = main
        self.seeds: Sequence[str] = ()  # if there are any, it is started with --join, and without the servers file
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def log(self) -> str:
        """All that it has written, over all its starts."""
        return self.log_path.read_text(errors="replace")

    def command(self) -> list[str]:
        """The command line that starts it."""
        if self.seeds:
            joins = ("--join", ",".join(self.seeds), "--advertise", self.name)
            return [sys.executable, str(self.main), str(self.port), *joins, *self.options]
        return command(self.port, self.servers, self.options, self.main)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert self._process is None or self._process.poll() is not None, f"{self.name} runs"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Have it leave; its exit status. One that takes too long is killed."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Whatever it does, it is gone afterwards."""
        if self._process is not None:
            self.kill()

    def counters(self) -> dict[str, int]:
        """What it writes to its log on SIGUSR1. RuntimeError if it does not."""
        before = self.log_path.stat().st_size
        self.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _COUNTERS_S
        while time.monotonic() < deadline:
            written = self.log_path.read_bytes()[before:].decode(errors="replace")
            for line in written.splitlines(keepends=True):
                if " node.counters " in line and line.endswith("\n"):
                    return {name: int(value) for name, value in re.findall(r" (\w+)=(-?\d+)(?=\s)", line)}
            time.sleep(_POLL_S)
        raise RuntimeError(f"{self.name} writes no counters")

    def processor_s(self) -> float:
        """Its user and system time so far."""
        return processor_s(self.process.pid)


def processor_s(pid: int) -> float:
    """The user and system time of a process so far, to the nanosecond. OSError when there is no such process."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


@contextmanager
def running(
    ports: Sequence[int],
    options: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    main: Path = MAIN,
    ready_s: float = READY_S,
) -> Iterator[list[NodeProcess]]:
    """A cluster that is whole, for the time of the block; arguments as of `NodeProcess`. NotReady, after `ready_s`."""
    with tempfile.TemporaryDirectory(prefix="kv-") as directory:
        servers = write_servers(Path(directory), ports)
        nodes = [NodeProcess(port, servers, options, environment, main=main) for port in ports]
        try:
            for node in nodes:
                node.start()
            await_ready(nodes, ready_s)
            yield nodes
            for node in nodes:
                node.process.terminate()  # all before one is waited for: they leave together
            for node in nodes:
                node.stop()
        finally:
            for node in nodes:
                node.close()


def await_ready(nodes: Sequence[NodeProcess], ready_s: float = READY_S, poll_s: float = _POLL_S) -> None:
    """Wait until all are members of one whole cluster; each is asked once in `poll_s`. NotReady."""
    deadline = time.monotonic() + ready_s
    with Fleet([node.name for node in nodes], given_only=True) as fleet:
        while missing := faults(fleet.survey(), len(nodes)):
            for node in nodes:
                if node.process.poll() is not None:
                    last = node.log.strip().rpartition("\n")[2]
                    raise NotReady(f"{node.name} has ended with status {node.process.returncode}: {last}")
            if time.monotonic() > deadline:
                raise NotReady(f"not ready within {ready_s:g} s: {missing[0]}")
            time.sleep(poll_s)


# Shown to a person.


def conflict(ports: Iterable[int], option: str = "--port", *, is_udp_too: bool = True) -> str | None:
    """Which of these ports, named by this option, is in use, in one line; None if all are free."""
    for port in ports:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM) if is_udp_too else (socket.SOCK_STREAM,):
            with socket.socket(socket.AF_INET, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the nodes do
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
                    return f"{name} port {port} can't be had ({error.strerror}): name other ports by {option}"
    return None


def _end_with(parent: int) -> None:
    """Have this process, a node to be, killed when its parent ends, by whatever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(cli.FAILED)


class ShownNodes:
    """Nodes whose lines are printed as they come, each with its port in front. None outlives the `with` block."""

    def __init__(self, servers: Path, ports: Sequence[int], options: Callable[[int], Sequence[str]]) -> None:
        """`options(port)`: those of the node there."""
        self.failed = False
        self.statuses: dict[int, int] = {}  # of those that have ended, by port
        self._servers = servers
        self._options = options
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._cut: dict[int, bytes] = {}  # the beginning of a line, by port
        for port in ports:
            self.start(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill those that run still, as when nobody reads what is printed any more."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._selector.close()

    def start(self, port: int) -> None:
        """Start the node of that port, which does not run."""
        process = subprocess.Popen(
            command(port, self._servers, self._options(port)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # the terminal's Ctrl-C is for us; we pass it on, once
            preexec_fn=partial(_end_with, os.getpid()),
        )
        self.statuses.pop(port, None)
        self._processes[port] = process
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, port)

    def pid(self, port: int) -> int:
        """Of the node of that port, which runs."""
        return self._processes[port].pid

    def watch(self, wait_s: float) -> bool:
        """Pass on what they write; false once all have ended."""
        for key, _ in self._selector.select(wait_s):
            data = os.read(key.fd, 65536)
            *lines, rest = (self._cut.pop(key.data, b"") + data).split(b"\n")
            for line in lines if data else [rest] if rest else []:
                say(key.data, line.decode("utf-8", "surrogateescape"))
            if data:
                self._cut[key.data] = rest
            else:
                self._selector.unregister(key.fileobj)
                self._end(key.data)
        return bool(self._processes)

    def watch_until_ended(self, wishes: list[float]) -> None:
        """Pass on what they write until all have ended; each wish, from the first in the list on, is passed on.

        One that can't start, by its status, ends the others too: what is wrong with it is wrong with them, or is to be
        mended first.
        """
        passed_on = 0
        while self.watch(0.1):
            if not wishes and cli.USAGE in self.statuses.values():
                wishes.append(time.monotonic())
            if passed_on < len(wishes):
                passed_on = len(wishes)
                self.signal(signal.SIGTERM)
            if wishes and time.monotonic() - wishes[0] > STOP_S:
                self.signal(signal.SIGKILL)

    def _end(self, port: int) -> None:
        status = self.statuses[port] = self._processes.pop(port).wait()
        # SIGTERM itself ends one that we stop before it has got so far as to handle it.
        self.failed = self.failed or status not in (0, -signal.SIGTERM)
        say(port, f"-- ended with status {status}")

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)


def say(port: int, line: str) -> None:
    cli.say(f"{port} | {line}", flush=True)


def wishes_to_stop() -> list[float]:
    """A list that grows by the time whenever we are told to stop."""
    wishes: list[float] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: wishes.append(time.monotonic()))
    return wishes


@contextmanager
def servers_file(ports: Sequence[int]) -> Iterator[Path]:
    """A servers file that names these ports of this machine, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="kv-cluster-") as directory:
        yield write_servers(Path(directory), ports)
