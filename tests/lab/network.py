"""The network of a lab: hosts, a router between them, and a cable from each host to each other one.

The cables are what tests think in. What there is are rules of the router's for the packets of one direction, by source,
target and protocol; so iproute2 is enough for all faults but delay, loss and disorder, which air.py makes.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from tests.lab.namespaces import Namespace
from tests.support.nodes import REPOSITORY

# Priorities of the rules: the first that fits decides.
_ICMP, _CUTS, _FAULTS, _AIR = 50, 80, 100, 200
_REFUSING = 77  # table of the way to the host that refuses everything
_ESTABLISHED: Final = "01"  # in /proc/net/tcp


class Host:
    """A machine: a namespace with one address. Its processes are started inside `namespace.entered()`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address = f"10.0.{number}.2"
        self.leg = f"leg{number}"  # the router's end
        self.namespace = Namespace()

    def move(self) -> None:
        """Give it another address in place of the one that it has. What runs on it keeps sockets of the old one."""
        before, last = self.address, int(self.address.rpartition(".")[2])
        self.address = f"10.0.{self.number}.{last + 1}"
        self.namespace.ip(
            f"addr add {self.address}/24 dev eth0",
            f"addr del {before}/24 dev eth0",  # the other one, which was the second, stays only if the first is gone
            f"addr replace {self.address}/24 dev eth0",
            f"route replace default via 10.0.{self.number}.1",
        )

    def flows_to(self, other: "Host") -> Iterator[tuple[int, int]]:
        """The TCP connections to another host, as pairs of ports: ours, theirs."""
        with self.namespace.entered():
            rows = [row.split() for row in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]]
        there = f"{int.from_bytes(socket.inet_aton(other.address), sys.byteorder):08X}"
        for _, mine, theirs, state, *_ in rows:
            address, port = theirs.split(":")
            if address == there and state == _ESTABLISHED:
                yield int(mine.split(":")[1], 16), int(port, 16)


class Network:
    """The router and its hosts; number 0 is the one of the clients."""

    def __init__(self, count: int) -> None:
        """`count`: hosts, besides that of the clients."""
        with ExitStack() as undo:
            self.router = Namespace()
            undo.callback(self.router.close)
            for name, value in {"ip_forward": 1, "conf/all/accept_local": 1, "icmp_ratelimit": 0}.items():
                self.router.sysctl(f"ipv4/{name}", value)
            self.hosts = [self._join(number, undo) for number in range(count + 1)]
            self._refusing = self._join(255, undo)
            self._take_all_addresses(self._refusing.namespace)
            self.router.ip(f"route add default via {self._refusing.address} table {_REFUSING}")
            self._cables: dict[frozenset[int], Cable] = {}
            self._undo = undo.pop_all()

    def _join(self, number: int, undo: ExitStack) -> Host:
        host = Host(number)
        undo.callback(host.namespace.close)
        self.router.ip(
            f"link add name {host.leg} type veth peer name eth0 netns {host.namespace.path}",
            f"addr add 10.0.{number}.1/24 dev {host.leg}",
            f"link set {host.leg} up",
        )
        host.namespace.ip(
            f"addr add {host.address}/24 dev eth0", "link set eth0 up", f"route add default via 10.0.{number}.1"
        )
        return host

    def _take_all_addresses(self, refusing: Namespace) -> None:
        """Have a host refuse connections to whatever address, as forwarders do that have lost what is behind them."""
        refusing.ip(
            *(f"addr add {host.address}/32 dev lo" for host in self.hosts),
            # Its own answers leave, although it has their targets' addresses as well.
            "rule add prio 5 iif lo lookup main",
            "rule add prio 10 lookup local",
            "rule del prio 0",
        )

    def close(self) -> None:
        """Nothing of it is left, once the processes on its hosts have ended."""
        for cable in self._cables.values():
            cable.mend()
        self._undo.close()

    def cable(self, one: Host, other: Host) -> "Cable":
        """What lies between two hosts."""
        ends = frozenset((one.number, other.number))
        if ends not in self._cables:
            self._cables[ends] = Cable(self.router, one, other)
        return self._cables[ends]

    def mend(self) -> None:
        """All cables."""
        for cable in self._cables.values():
            cable.mend()

    def narrow(self, mtu: int) -> None:
        """All ways carry packets of at most so many bytes, and nobody is told of larger ones: they are cut up if their
        sender allows it, else lost. For TCP the ways' ends know it, as tunnels see to that."""
        self.router.ip(
            f"rule add prio {_ICMP} iif lo ipproto icmp blackhole",
            *(f"route change 10.0.{host.number}.0/24 dev {host.leg} mtu {mtu}" for host in self.hosts),
        )
        for host in self.hosts:
            host.namespace.ip(f"route change default via 10.0.{host.number}.1 advmss {mtu - 40}")


class Cable:
    """Between two hosts: whole until something happens to it, then as it was told, until it is mended."""

    def __init__(self, router: Namespace, one: Host, other: Host) -> None:
        self._router = router
        self._ends = one, other
        self._rules: list[str] = []
        self._air: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self._ends[0].number}-{self._ends[1].number}"

    def cut(self, only: Literal["", "tcp", "udp"] = "", *, source: Host | None = None) -> None:
        """Packets are lost, without a word. `only`: those of a protocol. `source`: those that this end sends."""
        self._add("blackhole", only, source)

    def reject(self) -> None:
        """As a firewall that says so: packets are lost, and their senders told (ICMP, administratively prohibited)."""
        self._add("prohibit", "", None)

    def refuse(self) -> None:
        """TCP is reset in the name of the host that it is for, which lives; UDP passes."""
        self._add(f"lookup {_REFUSING}", "tcp", None)

    def forget_flows(self, *, reset: bool = False) -> None:
        """TCP connections of before carry nothing any more, as if a router had forgotten them; new ones do. `reset`:
        their ends are told."""
        self._apply(
            f"prio {_FAULTS} iif {near.leg} to {far.address} ipproto tcp sport {source} dport {target}"
            f" {f'lookup {_REFUSING}' if reset else 'blackhole'}"
            for near, far in (self._ends, self._ends[::-1])
            for source, target in near.flows_to(far)
        )

    def degrade(
        self, *, delay_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicates: float = 0.0, seed: int = 1
    ) -> None:
        """Each packet takes `delay_s` longer, and up to twice `jitter_s` besides, so that they overtake each other;
        shares of them are lost, or come twice."""
        assert self._air is None, "it has been degraded already"
        table = 1000 + 256 * self._ends[0].number + self._ends[1].number
        name = f"air{table}"
        settings = map(str, (delay_s, jitter_s, loss, duplicates, seed))
        with self._router.entered():
            self._air = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.air", name, *settings],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        assert self._air.stdout is not None
        assert self._air.stdout.readline() == b"ready\n", "air.py does not start"
        self._router.ip(f"link set {name} up txqueuelen 10000", f"route add default dev {name} table {table}")
        self._apply(
            f"prio {_AIR} iif {near.leg} to {far.address} lookup {table}"
            for near, far in (self._ends, self._ends[::-1])
        )

    def stall(self) -> None:
        """Packets wait, until `resume`; then all that were sent meanwhile arrive."""
        if self._air is None:
            self.degrade()
        assert self._air is not None
        self._air.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Deliver what has waited since `stall`, unless the cable has been mended."""
        if self._air is not None:
            self._air.send_signal(signal.SIGCONT)

    def mend(self) -> None:
        """As new. What a stalled cable holds is lost."""
        rules, self._rules = self._rules, []
        if rules:
            self._router.ip(*(f"rule del {rule}" for rule in rules))
        if self._air is not None:
            self._air.kill()
            self._air.wait()
            assert self._air.stdout is not None
            self._air.stdout.close()
            self._air = None

    def _add(self, action: str, only: str, source: Host | None) -> None:
        assert source in (None, *self._ends), "no end of this cable"
        protocol = f" ipproto {only}" if only else ""
        priority = _CUTS if action == "blackhole" else _FAULTS
        self._apply(
            f"prio {priority} iif {near.leg} to {far.address}{protocol} {action}"
            for near, far in (self._ends, self._ends[::-1])
            if source in (None, near)
        )

    def _apply(self, rules: Iterable[str]) -> None:
        added = [rule for rule in rules if rule not in self._rules]
        if added:
            self._router.ip(*(f"rule add {rule}" for rule in added))
        self._rules += added
