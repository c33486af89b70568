"""Whether real nodes keep their memory bound: python -m tools.bench.attack [PHASES] [--nodes 3] [--faults kill,stop]

Starts nodes of its own, sends them what an adversary would (phases.py; without PHASES the whole list, each part to
fresh nodes), as fast as they answer, and looks at the peak of every process. `--http` opens their status ports and asks
for all pages all the time, beside connections that never end their heads. `--faults` has a node fail in each phase,
another one each time: it is killed, told to leave, or stopped, and comes back under load, so that it is repaired.

With `--churn MINUTES` the load is tools/flood.py's in place of the adversary's: PUT, GET and REMOVE of values of 1 to
9,900 bytes, every one that is read checked, and faults all the time.

Ends with 1 if a process passed its bound, or ended or logged an error without having been told to, or if a wrong or
stale value was read.
"""

import sys

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.attack", "tools.bench.attack")

import itertools
import json
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from app.client.codec import NotAnAnswer
from app.wire.protocol import PUT
from tools import cli, nodes
from tools.bench.phases import ADVERSARY, entries_of, phases_of
from tools.load.targets import KvTarget

MIB: Final = 1 << 20
# Bytes that may be on their way: what the smallest usual receive buffer (208 KiB, of which a datagram takes about twice
# its size) holds without dropping any.
_WINDOW_BYTES: Final = 60_000
_WINDOW_MAX: Final = 64
_RETRY_S: Final = 0.5
_LOOK_S: Final = 0.05  # how often peaks are read
_DOWN_S: Final = 2.0  # how long a node is stopped, or dead
_REPAIRED_S: Final = 120.0  # until all copies must be there again: under load, on a machine that others use, too
_FAULTS: Final = ("kill", "term", "stop")
_PAGES: Final = ("/", "/status.json", "/metrics", "/slowlog", "/ready")
_SLOW_CONNECTIONS: Final = 12  # of 16
_PAGE_S: Final = 0.2  # from one page to the next
_SECRET: Final = "a secret of the nodes under attack"
# An entry's value, its key, what it takes besides: how much of them flows is measured by that.
_ENTRY_BYTES: Final = 250
_FLOOD: Final = Path(__file__).resolve().parent.parent / "flood.py"
# A node's own errors, and what it says where copies are lost: none of the faults here may lead to it.
_BAD_LINES: Final = re.compile(r"^.* ERROR .*$", re.MULTILINE)


class Nodes:
    """Nodes under attack. `peaks`: by name, of all processes there were."""

    def __init__(self, directory: Path, given: Namespace) -> None:
        ports = range(given.port, given.port + given.nodes)
        servers = nodes.write_servers(directory, ports)
        self.bound_bytes = given.max_memory * MIB
        self.peaks: Counter[str] = Counter()
        self.http_ports = [port + given.nodes for port in ports] if given.http else []
        self.all = [self._node(port, servers, given) for port in ports]
        self.names = [(nodes.HOST, port) for port in ports]
        self._turn = itertools.cycle(self.all)
        self._faults = itertools.cycle(given.faults)
        self._is_ending = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def _node(self, port: int, servers: Path, given: Namespace) -> nodes.NodeProcess:
        options = ["--bind", nodes.HOST, "--max-memory", f"{given.max_memory}MiB", "--slow-ms", "5", *given.option]
        if given.http:
            options += ["--http", str(port + given.nodes)]
        node = nodes.NodeProcess(port, servers, options)
        if given.secret:
            node.environment["KV_CLUSTER_SECRET"] = _SECRET
        return node

    def start(self) -> None:
        for node in self.all:
            node.start()
        nodes.await_ready(self.all, _REPAIRED_S)
        self._watching.start()

    def end(self) -> None:
        self._is_ending.set()
        if self._watching.ident is not None:
            self._watching.join()
        for node in self.all:
            node.close()

    def _watch(self) -> None:
        while not self._is_ending.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Read the peaks of all that run."""
        for node in self.all:
            try:
                status = Path(f"/proc/{node.process.pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):  # not there while it ends
                self.peaks[node.name] = max(self.peaks[node.name], int(found[1]) * 1024)

    def fail_one(self) -> str:
        """Have the next node fail in the next way, and come back; what was done. NotReady."""
        node, fault = next(self._turn), next(self._faults)
        if fault == "stop":
            node.send_signal(signal.SIGSTOP)
            time.sleep(_DOWN_S)
            node.send_signal(signal.SIGCONT)
        else:
            self.look()
            if fault == "kill":
                node.kill()
            else:
                node.stop()
            time.sleep(_DOWN_S)
            node.start()
        nodes.await_ready(self.all, _REPAIRED_S)
        return f"{fault} {node.name}"

    def entries_of(self, node: nodes.NodeProcess) -> str:
        """How many a node holds; ? when it does not tell."""
        try:
            return f"{node.counters()['entries']:,}"
        except (RuntimeError, ProcessLookupError):
            cli.say(*node.log[-2000:].splitlines(), flush=True)
            return "?"

    def complaints(self) -> list[str]:
        """What went wrong with them."""
        found = []
        for node in self.all:
            if self.peaks[node.name] >= self.bound_bytes:
                found.append(f"{node.name} passed its bound: {self.peaks[node.name] / MIB:.1f} MiB")
            if node.process.poll() is not None:
                found.append(f"{node.name} has ended with status {node.process.returncode}")
            found += _BAD_LINES.findall(node.log)
        return found

    def shown_peaks(self) -> str:
        return ", ".join(f"{self.peaks[node.name] / MIB:.1f}" for node in self.all)


class Sender:
    """Sends requests a window at a time to nodes by turns, until each is answered, and counts the error codes."""

    def __init__(self, targets: Sequence[tuple[str, int]]) -> None:
        self.codes: Counter[int] = Counter()
        self._target = KvTarget()
        self._addresses = itertools.cycle(targets)
        self._sent = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(_RETRY_S)

    def close(self) -> None:
        self._sock.close()

    def put_all(self, entries: Iterator[tuple[bytes, bytes]]) -> None:
        """Put these entries, each once or, if it was not answered in time, as often as it takes."""
        window_bytes = 0
        waiting: dict[bytes, bytes] = {}
        address = next(self._addresses)
        is_going = True
        while True:
            while is_going and len(waiting) < _WINDOW_MAX and window_bytes < _WINDOW_BYTES:
                entry = next(entries, None)
                if entry is None:
                    is_going = False
                    break
                self._sent += 1
                message_id = self._target.message_id(self._sent)
                datagram = waiting[message_id] = self._target.request(message_id, PUT, *entry, 1)
                window_bytes += len(datagram)
                self._sock.sendto(datagram, address)
            if not waiting:
                return
            address = next(self._addresses)
            try:
                answer = self._target.answer(self._sock.recv(65_535))
            except TimeoutError:
                for datagram in waiting.values():
                    self._sock.sendto(datagram, address)
                continue
            except (OSError, NotAnAnswer):  # nobody listens there
                continue
            if (sent := waiting.pop(answer.message_id, None)) is not None:
                window_bytes -= len(sent)
                self.codes[answer.code] += 1


def entries(phase: str, size_bytes: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """So many bytes of a phase."""
    draw = entries_of(phase, random.Random(seed))
    while size_bytes > 0:
        key, value = draw()
        yield key, value
        size_bytes -= len(value) + _ENTRY_BYTES


@contextmanager
def asked_for_pages(ports: Sequence[int]) -> Iterator[None]:
    """Ask for all pages all the time, and keep further connections open that never end their heads."""
    is_ending = threading.Event()

    def ask() -> None:
        slow: dict[tuple[int, int], socket.socket] = {}
        for page, port in itertools.cycle(itertools.product(_PAGES, ports)):
            if is_ending.wait(_PAGE_S):
                break
            for place in ((port, number) for number in range(_SLOW_CONNECTIONS)):
                try:
                    if place not in slow:
                        slow[place] = socket.create_connection((nodes.HOST, port), timeout=1)
                        slow[place].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                    slow[place].sendall(b"X: %b\r\n" % bytes(b"y" * 1000))
                except OSError:
                    if place in slow:
                        slow.pop(place).close()
            try:
                with socket.create_connection((nodes.HOST, port), timeout=1) as sock:
                    sock.sendall(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % page.encode() * 5)
                    sock.recv(100)  # and hang up in the midst of it
            except OSError:
                pass
        for sock in slow.values():
            sock.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_ending.set()
        thread.join()


@contextmanager
def attacked(given: Namespace) -> Iterator[Nodes]:
    """Running nodes, and whoever asks for their pages. NotReady."""
    with tempfile.TemporaryDirectory(prefix="kv-attack-") as directory:
        found = Nodes(Path(directory), given)
        try:
            found.start()
            with asked_for_pages(found.http_ports):
                yield found
        except nodes.NotReady:
            for node in found.all:
                cli.say(f"{node.name}:", *node.log[-3000:].splitlines(), flush=True)
            raise
        finally:
            found.end()


def attack(phases: Sequence[str], given: Namespace) -> list[str]:
    """Let these phases flow over fresh nodes; what went wrong."""
    with attacked(given) as found:
        sender = Sender(found.names)
        for phase in phases:
            sender.codes.clear()
            flow = entries(phase, round(given.flow * found.bound_bytes), given.seed)
            started = time.monotonic()
            failed = ""
            thread = threading.Thread(target=sender.put_all, args=(flow,))
            thread.start()
            if given.faults:
                time.sleep(_DOWN_S)
                failed = found.fail_one()
            thread.join()
            found.look()
            taken_s = time.monotonic() - started
            rate = sender.codes.total() / taken_s
            held = ", ".join(map(found.entries_of, found.all))
            cli.say(
                f"{phase:>12}: {rate:7,.0f} PUT/s; refused {sender.codes.total() - sender.codes[0]:,}; hold {held};"
                f" peaks {found.shown_peaks()} MiB {failed}",
                flush=True,
            )
        sender.close()
        return found.complaints()


def churn(given: Namespace) -> list[str]:
    """Flood fresh nodes for so many minutes while they fail by turns; what went wrong."""
    with attacked(given) as found, tempfile.TemporaryDirectory(prefix="kv-churn-") as directory:
        result = Path(directory) / "result.json"
        words = f"--value-size 1-9900 --mix put=55,get=35,remove=10 --keys {given.keys} --seconds {given.churn * 60}"
        words += f" --seed {given.seed} --quiet --json {result}"
        servers = ",".join(f"{host}:{port}" for host, port in found.names)
        load = subprocess.Popen([sys.executable, _FLOOD, "--servers", servers, *words.split()])
        until = time.monotonic() + given.churn * 60 - 2 * nodes.READY_S
        failed: Counter[str] = Counter()
        late: list[str] = []
        try:
            while given.faults and time.monotonic() < until and load.poll() is None:
                time.sleep(_DOWN_S)
                started = time.monotonic()
                try:
                    fault = found.fail_one()
                except nodes.NotReady as error:
                    late.append(str(error))
                    cli.say(error, flush=True)
                    continue
                failed[fault] += 1
                whole_s = time.monotonic() - started - _DOWN_S
                cli.say(f"{fault}: whole again after {whole_s:.1f} s; peaks {found.shown_peaks()} MiB", flush=True)
            status = load.wait()
        finally:
            load.kill()
            load.wait()
        found.look()
        if result.exists():
            told = json.loads(result.read_text(encoding="utf-8"))
            cli.say(f"{told['ops_per_s']:,.0f} operations/s; reads {told['reads']}; codes {told['codes']}")
        cli.say(f"peaks {found.shown_peaks()} MiB; faults: {dict(failed)}")
        return [*late, *found.complaints(), *([f"flood.py ended with {status}"] if status else [])]


def faults_of(text: str) -> list[str]:
    """Ways to fail, separated by commas. ValueError."""
    for part in text.split(","):
        if part not in _FAULTS:
            raise ValueError(f"has {part!r}, which isn't one of {', '.join(_FAULTS)}")
    return text.split(",")


def main(argv: Sequence[str] | None = None) -> int:
    """Attack, and tell whether it was withstood."""
    parser = cli.Parser(prog="tools.bench.attack", description=__doc__)
    parser.add_argument("phases", nargs="?", type=cli.argument(phases_of), help="what flows, e.g. 10x1,10000,10x1@7")
    parser.add_argument("--churn", type=cli.seconds(0.05, 1e4), metavar="MINUTES", help="flood.py's load instead")
    parser.add_argument("--nodes", type=cli.whole_number(1, 32), default=1, help="how many (default 1)")
    parser.add_argument("--port", type=cli.port, default=3351, help="of the first, --http follows (3351)")
    parser.add_argument("--max-memory", type=cli.whole_number(48, 1 << 20), default=64, help="MiB (default 64)")
    parser.add_argument("--http", action="store_true", help="with status ports, which are kept busy")
    parser.add_argument("--secret", action="store_true", help="with a cluster secret")
    parser.add_argument("--faults", type=cli.argument(faults_of), default=[], help="kill,term,stop or some of them")
    parser.add_argument("--option", action="append", default=[], help="a further option of the nodes: --option=...")
    parser.add_argument(
        "--flow", type=cli.argument(float), default=1.0, help="how much of each phase, in bounds (default 1)"
    )
    parser.add_argument("--keys", type=cli.whole_number(1, 1 << 30), default=40_000, help="of --churn (default 40000)")
    parser.add_argument("--seed", type=cli.whole_number(0, 1 << 62), default=1, help="(default 1)")
    given = parser.parse_args(argv)
    aims = {"as told": given.phases} if given.phases else {aim: phases_of(text) for aim, text in ADVERSARY.items()}
    runs: dict[str, Callable[[], list[str]]] = {aim: partial(attack, phases, given) for aim, phases in aims.items()}
    if given.churn:
        runs = {"churn": partial(churn, given)}
    complaints = []
    for aim, run in runs.items():
        cli.say(f"{aim}:", flush=True)
        try:
            found = run()
        except nodes.NotReady as error:
            found = [str(error)]
        for complaint in found:
            cli.say(f"  {complaint}", flush=True)
        complaints += found
    cli.say("not withstood" if complaints else "all withstood")
    return cli.FAILED if complaints else cli.OK
