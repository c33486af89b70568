"""What clients wait while servers come and go: python -m tools.bench.growth [--servers N] [--port PORT]

Starts three nodes of its own, and a closed loop of clients that put and get; then others join, all at once and one by
one, and are removed again. Prints for each phase how long it took until the cluster was whole, and the median, the 99th
of 100 and the longest of the calls that began in it, retries and waits included; and the ratio of the 99th to that of
the first phase. Every call must be answered, and each get must have what was put.

A node that starts takes a processor for 0.3 s, whatever it does then. What of a phase is due to that alone, where
processors are few, shows while as many nodes start that join nothing ("start apart").
"""

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.growth", "tools.bench.growth")

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from app.client import Client, KVError
from app.wire.protocol import SERVERS_MAX
from tools import cli, nodes

FOUNDERS: Final = 3
CLIENTS: Final = 2
KEYS: Final = 500  # of each client
VALUE: Final = bytes(64)
REMOVED_S: Final = 60.0
LOOK_S: Final = 0.2  # between two questions how far a phase is: each takes a node 0.5 ms


class Load(threading.Thread):
    """One client's closed loop. `calls`: of each when it began, and how long it took (s)."""

    def __init__(self, number: int, servers: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.calls: list[tuple[float, float]] = []
        self.faults: list[str] = []
        self.is_ending = threading.Event()
        self._number = number
        self._servers = list(servers)

    def run(self) -> None:
        put: dict[bytes, bytes] = {}
        with Client(self._servers) as client:
            count = 0
            while not self.is_ending.is_set():
                key = b"%d-%d" % (self._number, count % KEYS)
                began = time.monotonic()
                try:
                    if count // KEYS % 2:
                        if key in put and client.get(key).value != put[key]:
                            self.faults.append(f"{key!r} is not what was put")
                    else:
                        value = b"%d" % count + VALUE
                        client.put(key, value)
                        put[key] = value
                except KVError as error:
                    self.faults.append(f"{key!r}: {error}")
                self.calls.append((began, time.monotonic() - began))
                count += 1


def figures(took: Sequence[float]) -> tuple[float, float, float]:
    """The median, the 99th of 100 and the longest of some durations, as they are."""
    ordered = sorted(took)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]


def lines(phases: Sequence[tuple[str, float, float]], calls: Sequence[tuple[float, float]]) -> list[str]:
    """`phases`: what, from when, until when; the first is what the others are compared with."""
    found = [f"{'':24} {'s':>6} {'calls':>7} {'p50 ms':>8} {'p99 ms':>8} {'most ms':>8} {'p99 ratio':>9}"]
    first = 0.0
    for what, since, until in phases:
        took = [seconds * 1000 for began, seconds in calls if since <= began < until] or [0.0]
        p50, p99, most = figures(took)
        first = first or p99
        found.append(
            f"{what:24} {until - since:6.1f} {len(took):7,} {p50:8.2f} {p99:8.2f} {most:8.1f} {p99 / first:9.2f}"
        )
    return found


def _remove(asked: Sequence[nodes.NodeProcess], gone: nodes.NodeProcess) -> None:
    """Have it removed, and wait for its end. NotReady."""
    deadline_s = time.monotonic() + REMOVED_S
    while time.monotonic() < deadline_s:
        for node in asked:
            with Client([node.name], slot_aware=False) as client:
                if client.change_servers({"remove": gone.name})["done"]:
                    gone.process.wait(REMOVED_S)
                    return
        time.sleep(LOOK_S)
    raise nodes.NotReady(f"{gone.name} is not removed within {REMOVED_S:g} s")


def _apart(made: Path, port: int, options: Sequence[str]) -> nodes.NodeProcess:
    """A node that is a cluster of its own."""
    directory = made / str(port)
    directory.mkdir()
    return nodes.NodeProcess(port, nodes.write_servers(directory, [port]), options)


def _play(
    few: list[nodes.NodeProcess], more: list[nodes.NodeProcess], apart: list[nodes.NodeProcess], seconds: float
) -> list[tuple[str, float, float]]:
    phases: list[tuple[str, float, float]] = []

    def phase(what: str, act: Callable[[], object]) -> None:
        began = time.monotonic()
        act()
        phases.append((what, began, time.monotonic()))

    def join(*joining: nodes.NodeProcess) -> None:
        for node in joining:
            node.start()
        nodes.await_ready([*few, *(node for node in more if node.is_running)], poll_s=LOOK_S)

    def one_by_one(act: Callable[[nodes.NodeProcess], object]) -> Callable[[], object]:
        return lambda: [act(node) for node in more]

    def start_apart(*starting: nodes.NodeProcess) -> None:
        for node in starting:
            node.start()
        for node in starting:
            nodes.await_ready([node], poll_s=LOOK_S)

    def start_apart_in_turn() -> None:
        for node in apart:
            start_apart(node)

    def end_apart() -> None:
        for node in apart:
            node.close()

    phase(f"{len(few)} servers", lambda: time.sleep(seconds))
    phase(f"{len(more)} start apart at once", lambda: start_apart(*apart))
    end_apart()
    phase("start apart one by one", start_apart_in_turn)
    end_apart()
    phase(f"{len(more)} join at once", lambda: join(*more))
    phase(f"{len(few) + len(more)} servers", lambda: time.sleep(seconds))
    phase("removed one by one", one_by_one(lambda node: _remove(few, node)))
    phase("joined one by one", one_by_one(join))
    return phases


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = cli.Parser(prog="tools.bench.growth", description=__doc__)
    parser.add_argument(
        "--servers", type=cli.whole_number(FOUNDERS + 1, SERVERS_MAX), default=8, help="how many in the end (default 8)"
    )
    parser.add_argument("--port", type=cli.port, default=3341, help="the first one's (default 3341)")
    parser.add_argument("--seconds", type=cli.seconds(0.1, 1e6), default=4.0, help="of each phase of rest (default 4)")
    parser.add_argument("node_options", nargs="*", help="after --: options for the nodes")
    given = parser.parse_args(argv)
    ports = range(given.port, given.port + given.servers)
    secret = {"KV_CLUSTER_SECRET": secrets.token_hex(16)}
    try:
        with nodes.running(ports[:FOUNDERS], given.node_options, secret) as few, tempfile.TemporaryDirectory() as made:
            unread = Path(made) / "servers.txt"
            more = [nodes.NodeProcess(port, unread, given.node_options, secret) for port in ports[FOUNDERS:]]
            for node in more:
                node.seeds = [one.name for one in few]
            apart = [_apart(Path(made), node.port, given.node_options) for node in more]
            loads = [Load(number, [node.name for node in few]) for number in range(CLIENTS)]
            try:
                for load in loads:
                    load.start()
                phases = _play(few, more, apart, given.seconds)
            finally:
                for load in loads:
                    load.is_ending.set()
                for load in loads:
                    load.join()
                for node in (*more, *apart):
                    node.close()
    except (nodes.NotReady, KVError) as error:
        cli.complain(parser.prog, error)
        return cli.FAILED
    cli.say(*lines(phases, [call for load in loads for call in load.calls]))
    faults = [fault for load in loads for fault in load.faults]
    for fault in faults[:10]:
        cli.complain(parser.prog, fault)
    return cli.FAILED if faults else cli.OK
