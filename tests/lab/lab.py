"""A lab: nodes on hosts of their own, each node's view of things, and probes that tell which slots are served.

While a lab is open, the test's thread is on the clients' host: sockets that it opens there reach all nodes.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Final

from app.client import codec
from app.client.codec import KVRequest
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, SLOT_COUNT, slot_of
from tests.integration.http_nodes import fetch
from tests.lab.network import Cable, Host, Network
from tests.support.nodes import REPOSITORY, Node, environment
from tests.support.polling import DEADLINE_S, poll

# What an idle machine keeps within 2 s (docs/networks.md) must be there within so long on a busy one.
SERVED_S: Final = 8.0
# After faults have ended, for all to be one whole cluster again.
WHOLE_S: Final = 15.0
_FIRST_PORT: Final = 3331
_HTTP_PORT: Final = 9331
_AGAIN_S: Final = 0.1  # between two tries of a probe that is not answered


class LabNode(Node):
    """A node on a host of its own; its status page is on."""

    def __init__(self, host: Host, servers: Path, options: Sequence[str], *, is_named: bool = False) -> None:
        """`is_named`: the servers file has a name for it, and each host a file of hosts of its own, `hosts`."""
        port = _FIRST_PORT + host.number - 1
        super().__init__(port, servers, options, {"KV_HTTP": str(_HTTP_PORT)}, host.address)
        self.machine = host
        self.hosts: Path | None = None
        if is_named:
            self.name = f"kv{host.number}:{port}"
            self.hosts = servers.with_name(f"hosts{host.number}")

    def command(self) -> list[str]:
        """In a view of the file system of its own, where /etc/hosts is the host's."""
        plain = super().command()
        if self.hosts is None:
            return plain
        return ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts), *plain]

    def knows(self, *nodes: "LabNode") -> None:
        """Its host knows these by name from now on, at the addresses that they have now, and no others."""
        assert self.hosts is not None
        lines = [f"{node.machine.address} {node.name.partition(':')[0]}\n" for node in nodes]
        self.hosts.write_text("".join(lines), encoding="ascii")

    def move(self) -> None:
        """Its host gets another address. It must not run."""
        self.machine.move()
        self.host = self.machine.address

    def start(self) -> None:
        with self.machine.namespace.entered():
            super().start()

    def pause(self) -> None:
        """It stands still, as a suspended machine does."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)

    def is_ready(self) -> bool:
        """What /ready says."""
        return fetch(self, "/ready")[0] == 200

    def epoch(self) -> int:
        """0: it does not answer, or knows of no view."""
        return int(self.status().get("epoch", 0))


class Lab:
    """`nodes`: in the servers file's order."""

    def __init__(self, directory: Path, count: int, options: Sequence[str], *, are_named: bool) -> None:
        self.network = Network(count)
        self.clients, *machines = self.network.hosts
        self.servers = directory / "servers.txt"
        self.nodes = [LabNode(host, self.servers, options, is_named=are_named) for host in machines]
        self.list_servers(*self.nodes)

    def list_servers(self, *nodes: LabNode) -> None:
        """The servers file names these from now on."""
        self.servers.write_text("".join(f"{node.name}\n" for node in nodes), encoding="ascii")

    def start(self, *nodes: LabNode) -> list[LabNode]:
        """Start these, or all, and wait until they are one whole cluster. In order of seniority: the first one
        coordinates."""
        for node in nodes or self.nodes:
            node.start()
        self.await_whole(nodes or self.nodes, DEADLINE_S)  # starting takes a busy machine longest
        seniority = [row[0] for row in (nodes or self.nodes)[0].status()["members"]]
        return sorted(nodes or self.nodes, key=lambda node: seniority.index(node.name))

    def await_whole(self, nodes: Sequence[LabNode] = (), deadline_s: float = WHOLE_S) -> float:
        """Wait until these, or all, are the members of one cluster and every slot is where they want it; how long that
        took (s). AssertionError."""
        nodes = nodes or self.nodes
        return poll(lambda: not apart(nodes), deadline_s, lambda: apart(nodes))

    def cable(self, one: LabNode, other: LabNode) -> Cable:
        return self.network.cable(one.machine, other.machine)

    def cables(self, *nodes: LabNode) -> list[Cable]:
        """All between nodes; with `nodes`, those that have one of them at one end and another node at the other."""
        pairs = combinations(self.nodes, 2)
        return [self.cable(a, b) for a, b in pairs if not nodes or (a in nodes) != (b in nodes)]

    def kv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run tools/kv.py on the clients' host."""
        return subprocess.run(
            [sys.executable, "tools/kv.py", *arguments],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
        )

    def begin_kv(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Have tools/kv.py begin, on the clients' host."""
        return subprocess.Popen(
            [sys.executable, "tools/kv.py", *arguments],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )

    def led_by(self, node: LabNode) -> set[int]:
        """The slots whose primary it is."""
        return {slot for slot, holders in enumerate(self.holders()) if holders[0] == node.name}

    def holders(self) -> list[tuple[str, ...]]:
        """By slot: the names of those that hold it, primary first, as the first node sees it."""
        told = json.loads(fetch(self.nodes[0], "/status.json")[1])
        names = [member["address"] for member in told["members"]]
        slots = zip(told["slots"]["primary"], told["slots"]["backups"], strict=True)
        return [tuple(names[place] for place in (primary, *backups)) for primary, backups in slots]

    def named(self, name: str) -> LabNode:
        return next(node for node in self.nodes if node.name == name)

    def close(self) -> None:
        self.network.mend()
        for node in self.nodes:
            node.close()
        self.network.close()


def apart(nodes: Sequence[LabNode]) -> str:
    """What keeps these from being one cluster, whatever other servers there are; empty: nothing.

    They are asked one after the other, up to the first that is not there yet: to ask all of twenty all the time would
    take a processor from them.
    """
    names = sorted(node.name for node in nodes)
    views = set()
    for node in nodes:
        status = node.status()
        members = sorted(row[0] for row in status.get("members", ()) if row[2] != "absent")
        if members != names or not status["is_member"]:
            return f"{node.name} goes by {members}"
        if status["blocked"] or not status["balanced"]:
            return f"{node.name}: not every slot is where it is wanted"
        views.add((status["origin"], status["epoch"]))
    return "" if len(views) == 1 else f"they go by different views: {views}"


@contextmanager
def lab(directory: Path, count: int, *options: str, are_named: bool = False) -> Iterator[Lab]:
    """A lab with nodes that are not started yet; nothing of it is left afterwards. The nodes' logs are printed if the
    block fails. `are_named`: the servers file has names, which mean what LabNode.knows says."""
    with ExitStack() as undo:
        made = Lab(directory, count, options, are_named=are_named)
        undo.callback(made.close)
        undo.enter_context(made.clients.namespace.entered())
        try:
            yield made
        except BaseException:
            for node in made.nodes:
                if node.log_path.exists():
                    print(f"--- {node.name}\n{node.log}")
            raise


def key_of(slot: int, word: str = "probe") -> bytes:
    """A key of that slot."""
    return next(key for n in range(1 << 16) if slot_of(key := b"%s %d" % (word.encode(), n)) == slot)


class Probes:
    """Reads and writes of one key for each slot, each sent to one of `nodes`, until all are answered."""

    def __init__(self, nodes: Sequence[LabNode]) -> None:
        self._servers = [(node.host, node.port) for node in nodes]
        self._keys = {slot: key_of(slot) for slot in range(SLOT_COUNT)}
        self._waiting = {(command, slot) for command in (GET, PUT) for slot in range(SLOT_COUNT)}
        self._asked: dict[bytes, tuple[int, int]] = {}

    def served_after(self, moment: float, deadline_s: float = SERVED_S) -> float:
        """Ask for reads and writes of all slots, again and again, until each was answered once; how long after
        `moment` (time.monotonic) the last one was. AssertionError: not within `deadline_s` after it."""
        self._run(moment + deadline_s)
        reads, writes = (sum(1 for one, _ in self._waiting if one == command) for command in (GET, PUT))
        assert not self._waiting, f"not within {deadline_s:g} s: {reads} slots take no reads, {writes} no writes"
        return time.monotonic() - moment

    def served_within(self, seconds: float) -> int:
        """How many of the reads and writes are answered in this time."""
        before = len(self._waiting)
        self._run(time.monotonic() + seconds)
        return before - len(self._waiting)

    def _run(self, deadline: float) -> None:
        next_s = 0.0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.setblocking(False)
            while self._waiting and (now := time.monotonic()) < deadline:
                if now >= next_s:
                    next_s = now + _AGAIN_S
                    for command, slot in self._waiting:
                        self._ask(sock, command, slot)
                if select.select([sock], [], [], _AGAIN_S / 10)[0]:
                    message_id, response = codec.decode_response(sock.recv(65536))
                    if response.errCode in (NO_ERR, KEY_DNE_ERR):
                        self._waiting.discard(self._asked[message_id])

    def _ask(self, sock: socket.socket, command: int, slot: int) -> None:
        message_id = os.urandom(16)
        self._asked[message_id] = (command, slot)
        key = self._keys[slot]
        request = KVRequest(command, key, b"probed") if command == PUT else KVRequest(command, key)
        with suppress(BlockingIOError):  # what was sent before is still on its way: it is asked again
            sock.sendto(codec.encode_request(message_id, request), random.choice(self._servers))
