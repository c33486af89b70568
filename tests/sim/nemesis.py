"""What goes wrong, and when: all of it drawn from the seed of the run."""

import errno
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from app.cluster.view import View
from app.storage.arena import PAGE_BYTES
from app.wire.protocol import TYPE_ACK, TYPE_CLUSTER, TYPE_RESPONSE
from tests.sim.clients import request, sealed
from tests.sim.network import Path, Stream, sockaddr
from tests.sim.process import PORT
from tests.sim.register import cut_register
from tests.sim.world import Host

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

PACES_S: Final = (0.1, 0.4, 1.5)
# With most of a cluster gone, its copies are lost by right: only some runs have these.
MAJORITY_FAULTS: Final = ("restart_most", "crash_most")
# Where servers are written as names.
ADDRESS_FAULTS: Final = ("move", "move", "swap")
# What is drawn from; the others are for runs that ask for them by name.
FAULTS: Final = (
    "crash",
    "crash_two",
    "bounce",
    "lose_power",
    "pause",
    "pause_all",
    "leave",
    "cut",
    "isolate",
    "stall",
    "heal",
    "stop_inside",
    "stand_still",
    "step_wall_clock",
    "press_memory",
    "run_out_of_descriptors",
    "babble",
    "refuse",
    "crash_giver",
)


class Nemesis:
    """Breaks things at random moments until `until`, then makes everything well.

    It does not end a process that holds the last whole copy of a slot: what it has then is lost by right.
    """

    def __init__(
        self,
        cluster: "Cluster",
        until: float,
        *,
        faults: tuple[str, ...] = (),
        pace_s: float = 0.0,
        bursts: bool = False,
        majorities: bool = False,
    ) -> None:
        """`faults`: only these; none named: any. `pace_s`: between them; 0: drawn. `bursts`: many join or leave at one
        moment, now and then. `majorities`: most of a cluster is restarted, or goes, as well."""
        self._cluster = cluster
        self._world = cluster.world
        self._rng = Random(cluster.world.rng.getrandbits(32))
        self._forcing = Random(cluster.world.seed ^ 0xF0CE)  # of its own, so that the other faults stay as they were
        self._until = until
        self._pace_s = pace_s or self._rng.choice(PACES_S)
        self._faults = faults or tuple(fault for fault in FAULTS if self._rng.random() < 0.6) or FAULTS
        if majorities:
            self._faults += MAJORITY_FAULTS
        if cluster.all_options.are_named and not faults:
            self._faults += ADDRESS_FAULTS
        if cluster.all_options.by_command and not faults:
            self._faults += ("order_server", "order_server", "order_removal", "return_removed")
        elif cluster.all_options.listed and not faults:
            self._faults += ("add_server", "add_server", "remove_server")
        self._is_over = False
        self._later(self._rng.uniform(0.1, 2.0), self._next)
        if cluster.register is not None:
            addresses, rng = [host.address for host in cluster.hosts], Random(cluster.world.seed ^ 0xE7C0)
            arguments = (cluster.register, addresses, rng, self._world.note, lambda: self._world.now >= until)
            self._later(rng.uniform(0.1, 2.0), cut_register, *arguments)
        if bursts:
            self._later(self._rng.uniform(0.5, 2.0), self._burst)

    def _later(self, delay_s: float, action: Callable[..., object], *args: Any) -> None:
        """Do something later, unless the faults have stopped by then."""
        self._world.after(delay_s, self._unless_over, action, args)

    def _unless_over(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self._is_over:
            action(*args)

    def start_all(self) -> None:
        """Servers start in any order, together or seconds apart."""
        spread = self._rng.choice((0.0, 0.05, 1.0, 4.0))
        for host in self._cluster.hosts:
            self._world.after(self._rng.uniform(0, spread), self._cluster.start, host)

    def _next(self) -> None:
        if self._world.now < self._until:
            fault = self._rng.choice(self._faults)
            self._cluster.count(f"fault {fault}")
            getattr(self, fault)()
            self._later(self._rng.expovariate(1 / self._pace_s), self._next)

    def _some(self) -> Host:
        return self._rng.choice(self._cluster.hosts)

    def _for_a_while(self) -> float:
        return self._rng.choice((0.05, 0.3, 0.7, 1.0, 2.5, 6.0)) * self._rng.uniform(0.5, 1.5)

    # Processes.

    def _spares(self, host: Host) -> bool:
        """Whether every slot with keys has a holder besides this host's process, in every view that anyone goes by."""
        cluster = self._cluster
        live = {process.address: process for process in cluster.processes() if process.host is not host}
        views = {core.view.key: core.view for core in (p.core for p in cluster.processes()) if core.view is not None}

        def holds(view: View, address: str, slot: int) -> bool:
            process = live.get(address)
            return (
                process is not None
                and view.has(address, process.core.incarnation)
                and process.node.replication._shared.positions[slot] is not None
            )

        return all(
            any(holds(view, address, slot) for address in view.holders(slot))
            for view in views.values()
            for slot in cluster.slots
        )

    def _end(self, host: Host, *, power: bool = False) -> bool:
        """End its process if nothing is lost by right; whether it has."""
        if host.process is None or not self._spares(host):
            return False
        self._cluster.crash(host, power=power)
        return True

    def _victim(self) -> Host:
        spare = [host for host in self._cluster.hosts if self._spares(host)]
        return self._rng.choice(spare or self._cluster.hosts)

    def crash(self) -> None:
        host = self._victim()
        self._end(host)
        self._later(self._for_a_while(), self._cluster.start, host)

    def crash_two(self) -> None:
        """The second when, or just before or after, others have taken over from the first."""
        self.crash()
        self._later(self._rng.uniform(0.05, 0.6), self.crash)

    def crash_giver(self) -> None:
        """One that gives a slot to a node that the view counts on, when part of it is there."""
        self._crash_giver(tries=50)

    def _crash_giver(self, tries: int) -> None:
        givers: set[str] = set()
        for process in self._cluster.processes():
            replication = process.node.replication
            for slot, session in replication._follower.sessions.items():
                if not session.is_whole and replication._shared.holds(slot):
                    givers.add(session.primary)
        hosts = [host for host in self._cluster.hosts if host.address in givers and self._spares(host)]
        if hosts:
            host = self._rng.choice(hosts)
            self._end(host)
            self._later(self._for_a_while(), self._cluster.start, host)
        elif tries:
            self._later(0.02, self._crash_giver, tries - 1)

    def bounce(self) -> None:
        """A restart faster than any timeout."""
        host = self._victim()
        self._end(host)
        self._later(self._rng.uniform(0, 0.01), self._cluster.start, host)

    def _minority(self) -> tuple[list[Host], list[Host]]:
        """Fewer than half of the machines, and the others."""
        hosts = self._rng.sample(self._cluster.hosts, len(self._cluster.hosts))
        some = self._rng.randint(1, max(1, (len(hosts) - 1) // 2))
        return hosts[:some], hosts[some:]

    def restart_most(self) -> None:
        """Most are restarted, and have forgotten what they promised, while the others are cut off from them."""
        few, most = self._minority()
        self._part(few, most)
        for host in most:
            self._end(host)
            self._later(self._rng.uniform(0, 0.01), self._cluster.start, host)

    def crash_most(self) -> None:
        """Most go, one after the other, as far as something is left of all; they return where the others can't be
        reached."""
        few, most = self._minority()
        for number, host in enumerate(most):
            self._later(0.9 * number, self._end, host)
        self._later(0.9 * len(most) + 0.5, self._return, few, most)

    def _return(self, few: list[Host], most: list[Host]) -> None:
        self._part(few, most)
        for host in most:
            self._cluster.start(host)

    def _part(self, few: list[Host], most: list[Host]) -> None:
        paths = [path for one in few for other in most for path in ((one.ip, other.ip), (other.ip, one.ip))]
        self._world.note("network", "parts", few)
        self._cluster.network.cut(paths, datagrams=True, streams=True)
        self._later(self._rng.uniform(1.0, 5.0), self._mend, paths)

    def bounce_power(self) -> None:
        """The same, and the machine forgets its connections: their other ends hear of it when they send something."""
        host = self._victim()
        self._end(host, power=True)
        self._later(self._rng.uniform(0, 0.01), self._cluster.start, host)

    def lose_power(self) -> None:
        host = self._victim()
        self._end(host, power=True)
        self._later(self._for_a_while(), self._cluster.start, host)

    def move(self) -> None:
        """A process ends, its machine without a word, and another one comes for the same server at another address."""
        host = self._victim()
        if self._end(host, power=True):
            self._later(self._for_a_while(), self._move, host)

    def _move(self, host: Host) -> None:
        """To an address that some machine had before, or to one that none has had."""
        cluster = self._cluster
        if host.process is None:
            unused = cluster.network.unused
            fresh = f"10.{3 + len(unused)}.{host.starts}.{host.number}"
            self._give(host, self._rng.choice(unused) if unused and self._rng.random() < 0.5 else fresh)
        cluster.start(host)

    def _give(self, host: Host, ip: str) -> None:
        self._cluster.count("moved to an address of another" if ip in self._cluster.network.unused else "moved")
        self._world.note(host, "moves from", host.ip, "to", ip)
        self._cluster.network.move(host, ip)

    def swap(self) -> None:
        """Two servers get each other's address."""
        one = self._victim()
        if self._end(one, power=True):
            self._later(self._rng.uniform(0.8, 2.0), self._swap_with, one)

    def _swap_with(self, one: Host) -> None:
        others = [host for host in self._cluster.hosts if host is not one and self._spares(host)]
        if one.process is not None or not others:
            return self._cluster.start(one)
        other = self._rng.choice(others)
        if self._end(other, power=True):
            mine, theirs = one.ip, other.ip
            self._give(one, f"10.200.{one.starts}.{one.number}")
            self._give(other, mine)
            self._give(one, theirs)
            self._later(self._for_a_while(), self._cluster.start, other)
        return self._cluster.start(one)

    def add_server(self) -> None:
        """One more line in the servers file, which each node reads a little later; then the new server is started."""
        cluster, rng = self._cluster, self._rng
        if not cluster.add_server():
            return
        host = cluster.listed[-1]
        for one in cluster.hosts:
            self._later(rng.uniform(0, 0.5), cluster.reread, one)
        for n in range(10):  # when all have read it
            self._later(0.5 * n + rng.uniform(0, 1.0), cluster.start, host)

    def order_server(self) -> None:
        """One more server is added by a command, and started a little sooner or later."""
        cluster = self._cluster
        if cluster.order_server():
            self._later(self._rng.uniform(0, 1.0), cluster.start, cluster.belonging[-1])

    def order_removal(self) -> None:
        """One is removed by a command, be it up or not; at times it is started anew after that. At times by force, if
        nothing is lost by that."""
        cluster, rng = self._cluster, self._rng
        founders = [host for host in cluster.belonging if host in cluster.listed]
        spare = [host for host in cluster.belonging if host not in cluster.listed]
        if 2 * (len(founders) - 1) > len(cluster.listed):
            spare += founders
        if spare and len(cluster.belonging) > 2:
            host = rng.choice(spare)
            cluster.order_removal(host, by_force=self._forcing.random() < 0.3 and self._spares(host))

    def return_removed(self) -> None:
        """One that was removed is started all the same, by its old file if it was in it: it stays outside."""
        removed = [host for host in self._cluster.hosts if host.was_removed and host.process is None]
        if removed:
            removed[0].stays_down = False
            self._cluster.start(removed[0])

    def remove_server(self) -> None:
        """One is asked to leave, for good, and once it has gone its line is taken out; each node reads that later."""
        cluster = self._cluster
        if len(cluster.listed) < 3 or any(host.is_new or host.stays_down for host in cluster.listed):
            return
        host = self._rng.choice(cluster.listed)
        host.stays_down = True
        cluster.leave(host)
        self._later(0.2, self._take_out, host)

    def _take_out(self, host: Host) -> None:
        cluster = self._cluster
        if host.process is not None:
            self._later(0.2, self._take_out, host)
            return
        cluster.remove_server(host)
        for one in cluster.hosts:
            self._later(self._rng.uniform(0, 0.5), cluster.reread, one)

    def lag_and_outlive(self) -> None:
        """One has what is written late. Another dies, then whoever took over from it, before the one has caught up."""
        _, first, second = self._hold_up()
        self._later(0.1, self._end, first)
        self._later(0.1 + self._rng.uniform(0.1, 0.3), self._end, second)

    def lag_and_lead(self) -> None:
        """One has what is written late. Another dies; the one is its successor in some slots, and dies in its turn."""
        late, first, _ = self._hold_up()
        self._later(0.2, self._end, first)
        self._later(self._rng.uniform(0.7, 1.0), self._end, late)

    def _hold_up(self) -> list[Host]:
        """Streams to one node stall, for less than ends a link; the node, and two others, which return much later."""
        hosts = self._rng.sample(self._cluster.hosts, 3)
        paths = [(host.ip, hosts[0].ip) for host in self._cluster.hosts if host is not hosts[0]]
        self._world.note("network", "holds up what is sent to", hosts[0])
        self._cluster.network.cut(paths, datagrams=False, streams=True)
        self._later(0.45, self._mend, paths)
        for host in hosts:
            self._later(3.0, self._cluster.start, host)
        return hosts

    def pause(self) -> None:
        self._cluster.pause(self._some(), self._for_a_while())

    def pause_for_long(self) -> None:
        """Longer than replies are remembered."""
        self._cluster.pause(self._some(), self._rng.uniform(3.0, 6.0))

    def pause_all(self) -> None:
        """The whole machine stops; its processes go on nearly together."""
        seconds = self._rng.uniform(0.1, 2.0)
        for host in self._cluster.hosts:
            self._cluster.pause(host, seconds + self._rng.uniform(0, 0.02))

    def stop_inside(self) -> None:
        """A process is stopped in the middle of one of the next things that it does."""
        process = self._some().process
        if process is not None:
            process.stop_soon(self._rng.randrange(40), self._for_a_while())

    def leave(self) -> None:
        self._leave(self._some())

    def _leave(self, host: Host) -> None:
        process = host.process
        if process is not None:
            self._cluster.leave(host)
            self._later(10.0 + self._for_a_while(), self._cluster.start, host)

    def _burst(self) -> None:
        """Many come, or go, at one moment."""
        cluster, rng = self._cluster, self._rng
        if self._world.now >= self._until:
            return
        some = rng.sample(cluster.hosts, rng.randint(1, len(cluster.hosts)))
        self._world.note("burst")
        if rng.random() < 0.5:
            for host in some:
                self._leave(host)
        else:
            for host in some:
                self._end(host)
            together = rng.choice((0.0, 0.01, 0.5))
            for host in cluster.hosts:  # those that were down before, too
                self._later(together + rng.uniform(0, 0.01), cluster.start, host)
        self._later(rng.expovariate(1 / 2.0), self._burst)

    # The network.

    def isolate(self) -> None:
        one = self._some()
        others = [host for host in self._cluster.hosts if host is not one]
        self._cut([(one.ip, other.ip) for other in others])

    def cut(self) -> None:
        """Part the servers in two; possibly in one direction only, possibly with some pairs left."""
        rng = self._rng
        left = [host.ip for host in self._cluster.hosts if rng.random() < 0.5]
        right = [host.ip for host in self._cluster.hosts if host.ip not in left]
        share = rng.choice((1.0, 1.0, 0.5))
        self._cut([(one, other) for one in left for other in right if rng.random() < share])

    def stall(self) -> None:
        """Streams stall, and deliver later what was sent before; datagrams pass."""
        one, other = self._some().ip, self._some().ip
        if one != other:
            seconds = self._rng.choice((0.02, 0.5, 6.0)) * self._rng.random()
            self._cut([(one, other)], kinds="streams", seconds=seconds)

    def _cut(self, pairs: list[Path], *, kinds: str = "", seconds: float = 0.0) -> None:
        rng = self._rng
        direction = rng.choice(("both", "both", "there", "back"))
        kinds = kinds or rng.choice(("all", "all", "all", "streams", "datagrams"))
        paths = []
        for one, other in pairs:
            if direction != "back":
                paths.append((one, other))
            if direction != "there":
                paths.append((other, one))
        self._world.note("network", "cut for", kinds, paths)
        self._cluster.network.cut(paths, datagrams=kinds != "streams", streams=kinds != "datagrams")
        self._later(seconds or self._for_a_while(), self._mend, paths)

    def _mend(self, paths: list[Path]) -> None:
        self._world.note("network", "mended", paths)
        self._cluster.network.mend(paths)

    def heal(self) -> None:
        self._world.note("network", "mended")
        self._cluster.network.mend()

    def refuse(self) -> None:
        """Connections are refused although processes live (a port forwarder without its backend): of all, or to one.
        Datagrams are lost besides, or pass. One machine's own kernel refuses for the dead only."""
        network, rng = self._cluster.network, self._rng
        if self._cluster.options.one_machine:
            return
        ips = [host.ip for host in self._cluster.hosts]
        paths = [(one, other) for one in ips for other in ips if one != other]
        if rng.random() < 0.5:
            victim = rng.choice(ips)
            paths = [path for path in paths if path[1] == victim]
        self._world.note("network", "refuses", paths)
        network.refusing.update(paths)
        if rng.random() < 0.7:
            network.cut(paths, datagrams=True, streams=False)
        for stream in list(network._streams):
            if stream.peer is not None and {(stream.ip, stream.peer.ip), (stream.peer.ip, stream.ip)} & set(paths):
                stream.broken(errno.ECONNRESET)
        self._later(self._for_a_while(), self._mend_refusing, paths)

    def _mend_refusing(self, paths: list[Path]) -> None:
        self._cluster.network.refusing.difference_update(paths)
        self._mend(paths)

    # Machines.

    def stand_still(self) -> None:
        """A clock stands still, for less than the leases allow for."""
        if not self._cluster.all_options.stands_still:
            return
        host = self._some()
        host.clock.set_rate(self._world.now, 0.0)
        self._later(self._rng.uniform(0.0, 0.004), self._go_on, host)

    def _go_on(self, host: Host) -> None:
        host.clock.set_rate(self._world.now, host.clock.nominal_rate)
        if host.process is not None:
            host.process.loop.arm()

    def step_wall_clock(self) -> None:
        """Somebody sets the clock that leases do not go by."""
        host = self._some()
        host.clock.step_wall(self._rng.choice((-3600.0, -1.0, -0.2, 0.2, 1.0, 3600.0)))

    def press_memory(self) -> None:
        """The heap grows, or shrinks: the store has less room, or more."""
        process = self._some().process
        if process is not None:
            process.heap_bytes = self._rng.randrange(0, 4) * PAGE_BYTES

    def run_out_of_descriptors(self) -> None:
        process = self._some().process
        if process is not None:
            process.sockets.listener.fails_until = self._world.now + self._rng.uniform(0.05, 0.4)

    def babble(self) -> None:
        """Somebody sends what no node or client would."""
        rng, host = self._rng, self._some()
        if rng.random() < 0.5:
            source = rng.choice((sockaddr("10.2.0.1", 5), sockaddr(self._some().ip, PORT)))
            taker = self._cluster.network.bound.get(sockaddr(host.ip, PORT))
            if taker is not None:
                for data in babbled(rng):
                    taker.take(data, source)
            return
        stranger = Stream(self._cluster.network, None, rng.choice(("10.2.0.1", self._some().ip)), 40000)
        stranger.connect_ex((host.ip, PORT))
        self._later(0.05, self._babble_on, stranger)

    def _babble_on(self, stranger: Stream) -> None:
        rng = self._rng
        if stranger.is_up and not stranger.has_vanished and not stranger.code:
            stranger.send(
                rng.choice((b"KVLK\x01\x00" + rng.randbytes(24), rng.randbytes(60), b"GET / HTTP/1.1\r\n\r\n" * 3))
            )
            if rng.random() < 0.5:
                self._later(rng.choice((0.01, 3.0)), stranger.close)

    def make_well(self) -> None:
        """The faults stop: whole network, everybody up and running."""
        cluster = self._cluster
        self._world.note("faults stop")
        self._is_over = True
        cluster.network.mend()
        options = cluster.network.options
        if cluster.register is not None:
            cluster.register.make_well()
        options.loss = min(options.loss, 0.05)
        options.large_loss = 0.0
        options.slow_share = 0.0
        options.lookup_fails = 0.0
        cluster.options.stop_share = 0.0
        for host in cluster.hosts:
            self._go_on(host)
        for process in cluster.processes():
            process.heap_bytes = 0
            process.stop_soon(1 << 60, 0.0)
            process.sockets.listener.fails_until = 0.0
            cluster.resume(process)
        for host in cluster.hosts:
            host.stays_down = False
            cluster.start(host)
        cluster.is_to_grow = True


def babbled(rng: Random) -> list[bytes]:
    """Datagrams that a node must bear."""
    name = rng.randbytes(16)
    return [
        b"",
        rng.randbytes(rng.randrange(200)),
        rng.randbytes(16_400),
        sealed(b"", b"\x08\x06"),
        sealed(name * 5, b"\x08\x06"),
        sealed(name, b"\x08\x06", TYPE_RESPONSE),
        sealed(name, b"", 0),
        sealed(name, b"\xff\xff", 0),
        sealed(name, rng.randbytes(80), TYPE_CLUSTER),
        sealed(name, b"\x01" + rng.randbytes(80), TYPE_CLUSTER),
        sealed(name, b"\x08\x06")[:-3] + b"\x01\x28\x00",
        request(1, name, b"", b"no key"),
        request(1, name, b"k" * 33, b"long key"),
        request(1, name, b"k", b"v" * 10_001),
        request(1, name, b"k"),
        request(77, name),
        request(6, name),
        request(7, name),
        request(8, name),
        request(32, name),
        request(33, name),
        request(34, name),
        sealed(name, b"", TYPE_ACK),
    ]
