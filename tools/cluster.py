"""A cluster on this machine, to try things out. `python tools/cluster.py --help` explains it."""

import os
import sys

if __name__ == "__main__":  # started as a script: the repository's packages are a directory further up
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

    from tools.start import start

    start("cluster.py", "tools.cluster")

from collections.abc import Sequence

from app.wire.protocol import SERVERS_MAX
from tools import cli
from tools.nodes import HOST, ShownNodes, conflict, servers_file, wishes_to_stop

DESCRIPTION = """\
Start a cluster on this machine: N nodes on ports that follow each other, until Ctrl-C.

  python tools/cluster.py                                  five nodes, on ports 3331 to 3335
  python tools/cluster.py 3 --port 4000 -- --replicas 2    three nodes; what follows -- is for each of them
"""

EPILOG = """\
Each line that a node logs is printed with its port in front. Ctrl-C (or SIGTERM) makes every node leave and
stop; a second one makes them stop at once. However this program ends, its nodes end with it; and when one can't
start, they all end.

exit status:
  0  every node has ended with status 0
  1  one has not
  2  wrong usage, a port is in use, or a node could not start
"""


def run(count: int, first_port: int, options: Sequence[str]) -> int:
    """Have them run until they have ended; the exit status."""
    ports = range(first_port, first_port + count)
    taken = conflict(ports)
    if taken:
        cli.complain("cluster.py", taken)
        return cli.USAGE
    wishes = wishes_to_stop()
    with servers_file(ports) as servers, ShownNodes(servers, ports, lambda port: options) as nodes:
        which = f"port {first_port}" if count == 1 else f"ports {first_port} to {ports[-1]}"
        ask = f"python tools/kv.py -s {HOST}:{first_port} status"
        cli.say(f"on {which}; servers file {servers} ; to ask: {ask}", flush=True)
        nodes.watch_until_ended(wishes)
        if cli.USAGE in nodes.statuses.values():
            return cli.USAGE
        return cli.FAILED if nodes.failed else cli.OK


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="cluster.py",
        usage="python tools/cluster.py [N] [--port PORT] [-- OPTIONS]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "count", nargs="?", type=cli.whole_number(1, SERVERS_MAX), default=5, metavar="N", help="how many nodes"
    )
    parser.add_argument("--port", type=cli.port, default=3331, metavar="PORT", help="the first one's (default 3331)")
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:cut])
    if given.port + given.count - 1 > 65535:
        parser.error(f"{given.count} ports from {given.port} on go past 65535")
    return run(given.count, given.port, words[cut + 1 :])
