"""A cluster on this machine, to try things out. `python tools/cluster.py --help` explains it."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # started as a script: the repository's packages are a directory further up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import cli

MAIN = Path(__file__).parent.parent / "app" / "main.py"
STOP_S = 15.0  # longer than nodes take to leave, by default; then they are killed

DESCRIPTION = """\
Start a cluster on this machine: N nodes on ports that follow each other, until Ctrl-C.

  python tools/cluster.py                                  five nodes, on ports 3331 to 3335
  python tools/cluster.py 3 --port 4000 -- --replicas 2    three nodes; what follows -- is for each of them
"""

EPILOG = """\
Each line that a node logs is printed with its port in front. Ctrl-C (or SIGTERM) makes every node leave and
stop; a second one makes them stop at once.

exit status:
  0  every node has ended with status 0
  1  one has not
  2  wrong usage
"""


class Nodes:
    """The nodes' processes and what they write."""

    def __init__(self, servers: Path, ports: Sequence[int], arguments: Callable[[int], Sequence[str]]) -> None:
        """`arguments(port)`: options of the node there."""
        self.failed = False
        self.statuses: dict[int, int] = {}  # of those that have ended, by port
        self._servers = servers
        self._arguments = arguments
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._cut: dict[int, bytes] = {}  # the beginning of a line, by port
        for port in ports:
            self.start(port)

    def start(self, port: int) -> None:
        """Start the node of that port, which does not run."""
        process = subprocess.Popen(
            [sys.executable, str(MAIN), str(port), str(self._servers), *self._arguments(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # the terminal's Ctrl-C is for us; we pass it on, once
        )
        self.statuses.pop(port, None)
        self._processes[port] = process
        self._selector.register(process.stdout, selectors.EVENT_READ, port)  # type: ignore[arg-type]

    def pid(self, port: int) -> int:
        """Of the node of that port, which runs."""
        return self._processes[port].pid

    def watch(self, wait_s: float) -> bool:
        """Pass on what they write; false once all have ended."""
        for key, _ in self._selector.select(wait_s):
            data = os.read(key.fd, 65536)
            *lines, rest = (self._cut.pop(key.data, b"") + data).split(b"\n")
            for line in lines if data else [rest] if rest else []:
                say(key.data, line.decode(errors="replace"))
            if data:
                self._cut[key.data] = rest
            else:
                self._selector.unregister(key.fileobj)
                self._end(key.data)
        return bool(self._processes)

    def _end(self, port: int) -> None:
        status = self.statuses[port] = self._processes.pop(port).wait()
        # SIGTERM itself ends one that we stop before it has got so far as to handle it.
        self.failed = self.failed or status not in (0, -signal.SIGTERM)
        say(port, f"-- ended with status {status}")

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)


def say(port: int, line: str) -> None:
    print(f"{port} | {line}", flush=True)


def wishes_to_stop() -> list[float]:
    """A list that grows by the time whenever we are told to stop."""
    wishes: list[float] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: wishes.append(time.monotonic()))
    return wishes


@contextmanager
def servers_file(ports: Sequence[int]) -> Iterator[Path]:
    """A servers file that names these ports of this machine."""
    with tempfile.TemporaryDirectory(prefix="kv-cluster-") as directory:
        servers = Path(directory) / "servers.txt"
        servers.write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
        yield servers


def watch_until_ended(nodes: Nodes, wishes: list[float]) -> None:
    """Pass on what the nodes write until all have ended; each wish, from the first in the list on, is passed on."""
    passed_on = 0
    while nodes.watch(0.1):
        if passed_on < len(wishes):
            passed_on = len(wishes)
            nodes.signal(signal.SIGTERM)
        if wishes and time.monotonic() - wishes[0] > STOP_S:
            nodes.signal(signal.SIGKILL)


def run(count: int, first_port: int, arguments: Sequence[str]) -> int:
    wishes = wishes_to_stop()
    ports = range(first_port, first_port + count)
    with servers_file(ports) as servers:
        nodes = Nodes(servers, ports, lambda port: arguments)
        watch_until_ended(nodes, wishes)
    return cli.FAILED if nodes.failed else cli.OK


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="cluster.py",
        usage="python tools/cluster.py [N] [--port PORT] [-- OPTIONS]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("count", nargs="?", type=cli.whole_number(1, 64), default=5, metavar="N", help="how many nodes")
    parser.add_argument(
        "--port", type=cli.whole_number(1, 65535), default=3331, metavar="PORT", help="the first one's (default 3331)"
    )
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:cut])
    if given.port + given.count - 1 > 65535:
        parser.error(f"{given.count} ports from {given.port} on go past 65535")
    return run(given.count, given.port, words[cut + 1 :])


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    sys.exit(main())
