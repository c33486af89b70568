"""What the client's ways of asking cost, against a real cluster: python -m tools.bench.client [--nodes N] [--port PORT]

Starts nodes of its own and runs the same load (kv.py bench: puts, then gets, 64 bytes, one client) in turn:
through any node or straight to the primaries, one request at a time or 100 keys a call. Prints medians of the rounds:
the rate, the p50 of a call, and for each operation the requests that nodes forwarded to each other, and the nodes'
processor time.
"""

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.client", "tools.bench.client")

import statistics
from collections.abc import Sequence
from typing import Any

from app.client import Client
from app.wire.protocol import SERVERS_MAX
from tools import cli, nodes
from tools.kv import bench

MODES = {
    "any node": (False, 1),
    "straight to the primary": (True, 1),
    "any node, 100 keys a call": (False, 100),
    "straight, 100 keys a call": (True, 100),
}


def _measure(asked: list[nodes.NodeProcess], slot_aware: bool, batch: int, seconds: float) -> dict[str, float]:
    with Client([asked[0].name], slot_aware=slot_aware) as client:
        bench.measure(client, 0.3, 1000, 64, batch)  # it learns, and everything is warm
        forwarded = sum(node.counters()["forwarded"] for node in asked)
        used = sum(node.processor_s() for node in asked)
        requests = client.stats.requests
        result: dict[str, Any] = bench.measure(client, seconds, 1000, 64, batch)
        requests = client.stats.requests - requests
        used = sum(node.processor_s() for node in asked) - used
        forwarded = sum(node.counters()["forwarded"] for node in asked) - forwarded
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
    cli.say(
        f"{'':26} {'put/s':>8} {'get/s':>8} {'put p50':>8} {'get p50':>8} {'tries':>6} {'forwarded':>9} {'node µs':>8}"
    )
    for mode in MODES:
        row = {name: statistics.median(one[mode][name] for one in rounds) for name in rounds[0][mode]}
        cli.say(
            f"{mode:26} {row['put']:8,.0f} {row['get']:8,.0f} {row['put_p50_ms']:8.3f} {row['get_p50_ms']:8.3f}"
            f" {row['datagrams']:6.3f} {row['forwarded']:9.2f} {row['node_us']:8.1f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = cli.Parser(prog="tools.bench.client", description=__doc__)
    parser.add_argument("--nodes", type=cli.whole_number(1, SERVERS_MAX), default=3, help="how many (default 3)")
    parser.add_argument("--port", type=cli.port, default=3341, help="the first one's (default 3341)")
    parser.add_argument("--seconds", type=cli.seconds(0.1, 1e6), default=4.0, help="of each run (default 4)")
    parser.add_argument(
        "--rounds", type=cli.whole_number(1, 1000), default=3, help="runs of each kind, alternating (default 3)"
    )
    parser.add_argument("node_options", nargs="*", help="after --: options for the nodes")
    given = parser.parse_args(argv)
    rounds = []
    try:
        with nodes.running(range(given.port, given.port + given.nodes), given.node_options) as asked:
            for _ in range(given.rounds):
                rounds.append({mode: _measure(asked, *what, given.seconds) for mode, what in MODES.items()})
    except nodes.NotReady as error:
        cli.complain(parser.prog, error)
        return cli.FAILED
    _report(rounds)
    return cli.OK
