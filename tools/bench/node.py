"""What a real node does under load: python -m tools.bench.node [--port PORT] [--seconds S] [--load COMMAND]

Starts a node of its own and floods it with 1, 16 and 64 clients in turn. Prints the rate, latencies, and the node's
processor time a request, which, unlike the rate, does not depend on how fast the load generator is.

--load takes another generator's command line, with {port}, {clients} and {seconds} in it, and prints what that prints.
"""

import sys

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.node", "tools.bench.node")

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools import cli, nodes

_FLOOD: Final = Path(__file__).resolve().parent.parent / "flood.py"
_FLOODS: Final = "{python} {flood} 127.0.0.1 {port} --clients {clients} --seconds {seconds} --keys 100000 --json"


def _words(load: str, port: int, clients: int, seconds: float) -> list[str]:
    """The load generator's command line, in words."""
    return shlex.split(load.format(python=sys.executable, flood=_FLOOD, port=port, clients=clients, seconds=seconds))


def _load(text: str) -> str:
    """An argument that is a command line with places to fill. ValueError."""
    try:
        _words(text, 1, 1, 1.0)
    except (LookupError, AttributeError) as error:
        raise ValueError(f"names a place that there isn't: {error}") from None
    except ValueError as error:
        raise ValueError(f"isn't a command line: {error}") from None
    return text


def _measure(load: str, node: nodes.NodeProcess, clients: int, seconds: float) -> str:
    words = _words(load, node.port, clients, seconds)
    before = node.processor_s()
    output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    used = node.processor_s() - before
    if not output.startswith("{"):
        return f"{clients:4} clients: {output} (node's processor time {used:.2f} s)"
    result = json.loads(output)
    latency = result["latency"]["all"]
    return (
        f"{clients:4} clients: {result['ops_per_s']:8,.0f} ops/s;"
        f" p50 {latency['p50_ms']:.3f}, p99 {latency['p99_ms']:.3f},"
        f" p99.9 {latency['p99.9_ms']:.3f} ms; node's processor time {used / latency['count'] * 1e6:.1f} µs a request"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = cli.Parser(prog="tools.bench.node", description=__doc__)
    parser.add_argument("--port", type=cli.port, default=3341, help="the node's (default 3341)")
    parser.add_argument("--seconds", type=cli.seconds(0.1, 1e6), default=5.0, help="of each run (default 5)")
    parser.add_argument(
        "--load", type=cli.argument(_load), default=_FLOODS, help="another load generator's command line"
    )
    given = parser.parse_args(argv)
    try:
        with nodes.running([given.port], ["--log-level", "warning"]) as (node,):
            for clients in (1, 16, 64):
                cli.say(*_measure(given.load, node, clients, given.seconds).split("\n"), flush=True)
    except (nodes.NotReady, subprocess.CalledProcessError) as error:
        cli.complain(parser.prog, error)
        return cli.FAILED
    return cli.OK
