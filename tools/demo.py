"""A cluster to look at, with something going on in it. `python tools/demo.py --help` explains it."""

import os
import sys

if __name__ == "__main__":  # started as a script: the repository's packages are a directory further up
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

    from tools.start import start

    start("demo.py", "tools.demo")

import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools import cli
from tools.kv.cluster import Fleet, faults
from tools.nodes import HOST, READY_S, ShownNodes, conflict, say, servers_file, wishes_to_stop

FLOOD: Final = Path(__file__).parent / "flood.py"
# Few enough that all stay stored, enough that every slot has some.
KEYS: Final = 5000
# A node that was killed is started again after so long: enough to see that it is missed.
RESTART_S: Final = 10.0
# How long the flood takes at most to end when it is told to: its last requests' timeouts. Then it is killed.
FLOOD_STOP_S: Final = 10.0

DESCRIPTION = """\
Show the store at work: start a cluster on this machine, each node with its status page, and load it gently.

  python tools/demo.py                                  three nodes for ten minutes
  python tools/demo.py --seconds 60 --rate 1000         a minute, and five times the load
  python tools/demo.py --port 4000 --http-port 9000     where the usual ports are in use

It prints where to look and what to try. A node that is killed is started again after 10 s; one that a SHUTDOWN
ended stays down. Ctrl-C ends all of it.
"""

EPILOG = """\
exit status:
  0  it ended as told, or after its time, and every value read was right
  1  a node could not start, the cluster did not get ready, or the load generator complains
  2  wrong usage, or a port is in use
"""

BANNER = """
{count} nodes serve, and {rate:g} requests a second go on, for {minutes:g} minutes or until Ctrl-C.

  status pages     {pages}
  metrics          {page}metrics

Open a status page (each shows the whole cluster), then try in another terminal, in this directory:

  kill -9 {pid}
      node {port} crashes: its slots change hands at once, nothing is lost, and {restart:g} s later it is back
  kill -STOP {pid}; sleep 5; kill -CONT {pid}
      it hangs: the others go on without it within a second or so; awake again, it joins anew
  {python} tools/kv.py -s {host}:{port} put greeting hello
  {python} tools/kv.py -s {host}:{other} get greeting
      any node answers for any key
  {python} tools/kv.py -s {host}:{other} status
  {python} tools/kv.py -s {host}:{port} shutdown
      the protocol's SHUTDOWN: it stays down

What the nodes log follows; at the end, what the load generator has counted.
"""


class Demo:
    """The nodes, the load, and what is done about those that end."""

    def __init__(self, given: Namespace, servers: Path, wishes: list[float]) -> None:
        self._given = given
        self._wishes = wishes
        self._ports = range(given.port, given.port + given.nodes)
        self._http_ports = dict(zip(self._ports, range(given.http_port, given.http_port + given.nodes), strict=True))
        self._names = [f"{HOST}:{port}" for port in self._ports]
        self._due: dict[int, float] = {}  # when a node is started again, by port
        self._flood: subprocess.Popen[bytes] | None = None
        self.nodes = ShownNodes(servers, self._ports, self._options)

    def _options(self, port: int) -> list[str]:
        return ["--bind", HOST, "--http", str(self._http_ports[port])]

    def run(self) -> int:
        """All of it, to its end; the exit status."""
        with self.nodes:
            try:
                code = self._watch() if self._get_ready() else cli.OK if self._wishes else cli.FAILED
            finally:
                flood_is_fine = self._stop_flood()
                self.nodes.failed = False  # those that were killed were meant to be
                self._wishes[:] = [time.monotonic()]
                self.nodes.watch_until_ended(self._wishes)
        return code if flood_is_fine and not self.nodes.failed else cli.FAILED

    def _get_ready(self) -> bool:
        """Wait for the cluster to be whole; False when it does not get so, or we are to stop."""
        deadline = time.monotonic() + READY_S
        missing = ["nobody was asked yet"]
        with Fleet(self._names, given_only=True) as fleet:
            while not self._wishes:
                if self.nodes.statuses:
                    return False  # it has said why
                missing = faults(fleet.survey(), len(self._names))
                if not missing:
                    return True
                if time.monotonic() > deadline:
                    cli.complain("demo.py", f"not ready within {READY_S:g} s: {missing[0]}")
                    return False
                self.nodes.watch(0.1)
        return False

    def _watch(self) -> int:
        given = self._given
        cli.say(*self._banner().split("\n"), flush=True)
        flags = ["--servers", ",".join(self._names), "--rate", str(given.rate), "--seconds", str(given.seconds)]
        self._flood = subprocess.Popen(
            [sys.executable, str(FLOOD), *flags, "--keys", str(KEYS), "--quiet"],
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        # It ends by itself; this is for the case that it does not.
        deadline = time.monotonic() + given.seconds + FLOOD_STOP_S + READY_S
        while not self._wishes and self._flood.poll() is None and time.monotonic() < deadline:
            if not self.nodes.watch(0.1):
                time.sleep(0.1)
            self._restart()
        return cli.OK

    def _banner(self) -> str:
        port, other = self._ports[-1], self._ports[0]
        pages = [f"http://{HOST}:{http_port}/" for http_port in self._http_ports.values()]
        return BANNER.format(
            count=len(self._ports),
            rate=self._given.rate,
            minutes=round(self._given.seconds / 60, 2),
            pages="  ".join(pages),
            page=pages[0],
            pid=self.nodes.pid(port),
            port=port,
            other=other,
            host=HOST,
            restart=RESTART_S,
            python=os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable,
        )

    def _restart(self) -> None:
        """Start those again that have ended otherwise than told, when it is time."""
        now = time.monotonic()
        for port, status in list(self.nodes.statuses.items()):
            if status != 0 and now >= self._due.setdefault(port, now + RESTART_S):
                del self._due[port]
                self.nodes.start(port)
                say(port, f"-- started again, pid {self.nodes.pid(port)}")

    def _stop_flood(self) -> bool:
        """End it while the nodes still serve, so that it counts no failures; whether it was content."""
        flood = self._flood
        if flood is None:
            return True
        if flood.poll() is None:
            flood.send_signal(signal.SIGINT)
        deadline = time.monotonic() + FLOOD_STOP_S
        try:
            while flood.poll() is None and time.monotonic() < deadline:
                self.nodes.watch(0.1)
        finally:
            if flood.poll() is None:
                flood.kill()
        # It may have been told before it could do anything, or even take the signal; a node may be down as was meant.
        return flood.wait() in (cli.OK, cli.NO_ANSWER, cli.INTERRUPTED, -signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(prog="demo.py", usage="python tools/demo.py [options]", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--nodes", type=cli.whole_number(2, 16), default=3, metavar="N", help="how many (default 3)")
    parser.add_argument("--port", type=cli.port, default=3331, metavar="PORT", help="the first one's (default 3331)")
    parser.add_argument(
        "--http-port", type=cli.port, default=9331, metavar="PORT", help="of the first one's status page (default 9331)"
    )
    parser.add_argument(
        "--rate", type=cli.whole_number(1, 100_000), default=200, metavar="OPS", help="requests a second (default 200)"
    )
    parser.add_argument(
        "--seconds", type=cli.whole_number(1, 86_400), default=600, metavar="S", help="end after that (default 600)"
    )
    given = parser.parse_args(argv)
    for option, first in (("--port", given.port), ("--http-port", given.http_port)):
        if first + given.nodes - 1 > 65535:
            parser.error(f"{given.nodes} ports from {option} {first} on go past 65535")
    ports, http_ports = (range(first, first + given.nodes) for first in (given.port, given.http_port))
    if set(ports) & set(http_ports):
        parser.error("--port and --http-port overlap")
    taken = conflict(ports) or conflict(http_ports, "--http-port", is_udp_too=False)
    if taken:
        cli.complain("demo.py", taken)
        return cli.USAGE
    wishes = wishes_to_stop()
    with servers_file(ports) as servers:
        return Demo(given, servers, wishes).run()
