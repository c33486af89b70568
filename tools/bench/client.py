"""What the client's ways of asking cost, against a real cluster: python -m tools.bench.client [--nodes N] [--port PORT]

Starts nodes of its own and runs the same load (kv.py bench: puts, then gets, 64 bytes, one client) in turn:
through any node or straight to the primaries, one request at a time or 100 keys a call. Prints medians of the rounds:
the rate, the p50 of a call, and for each operation the requests that nodes forwarded to each other, and the nodes'
processor time.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from app.client import Client
from tools.bench.node import _processor_s
from tools.kv import __main__ as kv
from tools.kv import bench

_ROOT = Path(__file__).resolve().parent.parent.parent

MODES = {
    "any node": (False, 1),
    "straight to the primary": (True, 1),
    "any node, 100 keys a call": (False, 100),
    "straight, 100 keys a call": (True, 100),
}


class Node:
    """A node's process, and what it counts."""

    def __init__(self, port: int, folder: Path, arguments: list[str]) -> None:
        self.name = f"127.0.0.1:{port}"
        self._log = folder / f"{port}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(_ROOT / "app/main.py"), str(port), str(folder / "servers.txt"), *arguments],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def counter(self, name: str) -> int:
        """From the line that SIGUSR1 makes it write."""
        before = self._log.stat().st_size
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in self._log.read_bytes()[before:].decode().splitlines(keepends=True):
                if " node.counters " in line and line.endswith("\n"):
                    return int(dict(word.split("=", 1) for word in line.split()[3:])[name])
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} writes no counters")


def _measure(nodes: list[Node], slot_aware: bool, batch: int, seconds: float) -> dict[str, float]:
    with Client([nodes[0].name], slot_aware=slot_aware) as client:
        bench.measure(client, 0.3, 1000, 64, batch)  # it learns, and everything is warm
        forwarded = sum(node.counter("forwarded") for node in nodes)
        used = sum(_processor_s(node.process.pid) for node in nodes)
        requests = client.stats.requests
        result: dict[str, Any] = bench.measure(client, seconds, 1000, 64, batch)
        requests = client.stats.requests - requests
        used = sum(_processor_s(node.process.pid) for node in nodes) - used
        forwarded = sum(node.counter("forwarded") for node in nodes) - forwarded
    return {
        "put": result["put"]["ops_per_s"],
        "get": result["get"]["ops_per_s"],
        "put_p50_ms": result["put"]["p50_ms"],
        "get_p50_ms": result["get"]["p50_ms"],
        "datagrams": result["datagrams_an_operation"],
        "forwarded": forwarded / requests,
        "node_us": used / requests * 1e6,
    }


def _report(rounds: list[dict[str, dict[str, float]]]) -> None:
    print(
        f"{'':26} {'put/s':>8} {'get/s':>8} {'put p50':>8} {'get p50':>8} {'tries':>6} {'forwarded':>9} {'node µs':>8}"
    )
    for mode in MODES:
        row = {name: statistics.median(one[mode][name] for one in rounds) for name in rounds[0][mode]}
        print(
            f"{mode:26} {row['put']:8,.0f} {row['get']:8,.0f} {row['put_p50_ms']:8.3f} {row['get_p50_ms']:8.3f}"
            f" {row['datagrams']:6.3f} {row['forwarded']:9.2f} {row['node_us']:8.1f}"
        )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--port", type=int, default=3341, help="the first one's (default 3341)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, alternating (default 3)")
    parser.add_argument("node_options", nargs="*", help="after --: options for the nodes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        ports = range(given.port, given.port + given.nodes)
        (folder / "servers.txt").write_text("".join(f"127.0.0.1:{port}\n" for port in ports), encoding="ascii")
        nodes = [Node(port, folder, given.node_options) for port in ports]
        try:
            ready = kv.main(["-s", nodes[0].name, "wait-ready", "--members", str(given.nodes)])
            if ready != 0:
                return ready
            rounds = []
            for _ in range(given.rounds):
                rounds.append({mode: _measure(nodes, *what, given.seconds) for mode, what in MODES.items()})
            _report(rounds)
        finally:
            for node in nodes:
                node.process.terminate()
            for node in nodes:
                node.process.wait(15)
    return 0


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    sys.exit(main())
