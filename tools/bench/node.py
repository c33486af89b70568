"""What a real node does under load: python -m tools.bench.node [--seconds S] [--load COMMAND]

Starts a node of its own on a free port and floods it with 1, 16 and 64 clients in turn. Prints the rate, latencies,
and the node's processor time a request, which, unlike the rate, does not depend on how fast the load generator is.

--load takes another generator's command line, with {port}, {clients} and {seconds} in it, and prints what that prints.
"""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.client import Client

_ROOT = Path(__file__).resolve().parent.parent.parent
_FLOOD = "{python} {root}/tools/flood.py 127.0.0.1 {port} --clients {clients} --seconds {seconds} --keys 100000 --json"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _processor_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure(command: str, port: int, clients: int, seconds: float, pid: int) -> str:
    words = shlex.split(command.format(python=sys.executable, root=_ROOT, port=port, clients=clients, seconds=seconds))
    before = _processor_s(pid)
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    used = _processor_s(pid) - before
    if not output.startswith("{"):
        return f"{clients:4} clients: {output} (node's processor time {used:.2f} s)"
    result = json.loads(output)
    latency = result["latency"]["all"]
    return (
        f"{clients:4} clients: {result['ops_per_s']:8,.0f} ops/s;"
        f" p50 {latency['p50_ms']:.3f}, p99 {latency['p99_ms']:.3f},"
        f" p99.9 {latency['p99.9_ms']:.3f} ms; node's processor time {used / latency['count'] * 1e6:.1f} µs a request"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run (default 5)")
    parser.add_argument("--load", default=_FLOOD, help="another load generator's command line")
    given = parser.parse_args()
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        servers = Path(folder) / "servers.txt"
        servers.write_text(f"127.0.0.1:{port}\n", encoding="ascii")
        node = subprocess.Popen(
            [sys.executable, str(_ROOT / "app/main.py"), str(port), str(servers), "--log-level", "warning"]
        )
        try:
            deadline = time.monotonic() + 10
            with Client([f"127.0.0.1:{port}"]) as client:
                while True:
                    try:
                        client.is_alive()
                        break
                    except Exception:
                        if time.monotonic() > deadline:
                            raise
            for clients in (1, 16, 64):
                print(_measure(given.load, port, clients, given.seconds, node.pid), flush=True)
        finally:
            node.terminate()
            node.wait(15)


if __name__ == "__main__":
    main()
