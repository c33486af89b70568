"""A simulated cluster: machines, the network between them, their processes, the clients, and whoever watches them."""

import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from app.storage.store import slot_of
from tests.sim.checks import Checks, Violation
from tests.sim.clients import Client, ClientOptions, Load, make_keys
from tests.sim.ledger import Ledger
from tests.sim.loop import end_greenlets
from tests.sim.network import Network, NetworkOptions
from tests.sim.process import NodeOptions, Process
from tests.sim.register import RegisterOptions, SimRegister
from tests.sim.world import Clock, Host, World

ORDERS_S = 0.3  # between two tries of an administrator to have servers added or removed


@dataclass
class Options:
    """The conditions of a run."""

    hosts: int = 3
    listed: int = 0  # servers that the file names at first, the others are added later; 0: all
    by_command: bool = False  # they are added by a command, and not to the file
    are_named: bool = False  # the servers file has names, and machines may get other addresses
    drift: float = 0.0  # clock rates are within 1 +- this
    stands_still: bool = True  # clocks may stand still for some ms
    node: NodeOptions = field(default_factory=NodeOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    clients: ClientOptions = field(default_factory=ClientOptions)
    register: RegisterOptions | None = None  # views are decided on by a register outside


class Cluster:
    """See the module."""

    def __init__(self, seed: int, options: Options) -> None:
        self.world = World(seed)
        rng = self.world.rng
        self.all_options = options
        self.options = options.node
        self.client_options = options.clients
        self.hosts = [
            Host(
                number,
                Clock(
                    1 + rng.uniform(-options.drift, options.drift),
                    rng.uniform(0, 1000),
                    1_700_000_000 + rng.uniform(-5, 5),
                ),
                is_named=options.are_named,
            )
            for number in range(1, options.hosts + 1)
        ]
        self.is_to_grow = False  # all servers that there will be are to be added
        self.listed = self.hosts[: options.listed or options.hosts]  # the servers file, as it is now
        # The servers that are to belong. Those besides the file's are added by a command, and ask to join.
        self.belonging = list(self.listed)
        self.forced_out: set[str] = set()  # of those that are to belong no more
        self.by_address = {host.address: host for host in self.hosts}
        self.network = Network(self.world, options.network, self.hosts)
        self.register = (
            SimRegister(options.register, Random(seed ^ 0x5EA7), self.world.after) if options.register else None
        )
        self.counts: Counter[str] = Counter()
        self.wipes: list[tuple[float, float]] = []
        self.keys = make_keys(options.clients.keys)
        self.slots = {slot_of(key) for key in self.keys}
        self.is_tight = options.node.pages > 0
        self.ledger = Ledger(self.slots, exact=not (options.node.evict and self.is_tight))
        self.checks = Checks(self)
        self.clients = [Client(self, number) for number in range(options.clients.clients)]
        self.load = Load(self) if options.clients.load_s else None

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] += 1

    # Processes.

    def processes(self) -> list[Process]:
        return [host.process for host in self.hosts if host.process is not None]

    def start(self, host: Host) -> None:
        """Start a process, unless there is one, or the machine is to stay down, or belongs to no server yet."""
        if host.process is not None or host.stays_down or not self._may_start(host):
            return
        host.is_on, host.is_new = True, False
        process = host.process = Process(self, host)
        self.world.note(host, "starts as", process.incarnation)
        self.checks.watch(process)
        self.ledger.watch(process)
        process.start()

    def crash(self, host: Host, *, power: bool = False) -> None:
        """kill -9, or the machine loses its power, and has it again when the next process is started."""
        process = host.process
        if process is None:
            return
        if process.time > self.world.now:  # it has done already what it does until then
            self.world.at(process.time, self._crash_later, process, power)
            return
        self.world.note(host, "loses its power" if power else "crashes")
        process.end(power=power)
        if power:
            host.is_on = False
        self.ended(process)

    def _crash_later(self, process: Process, power: bool) -> None:
        if process.host.process is process:
            self.crash(process.host, power=power)

    def ended(self, process: Process) -> None:
        """A process is over."""
        host = process.host
        if host.process is not process:
            return
        process.end()
        host.process = None
        host.last_incarnation = max(host.last_incarnation, process.core.incarnation)
        self.ledger.forget(process)
        if process.exit_status:
            raise Violation(f"{host} exits with status {process.exit_status}")

    def pause(self, host: Host, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        process = host.process
        if process is not None and not process.is_stopped:
            self.world.note(host, "stops for", round(seconds, 3))
            process.is_stopped = True
            process.stops += 1
            self.world.after(seconds, self.resume, process, process.stops)

    def resume(self, process: Process, stop: int = 0) -> None:
        """Let it go on. `stop`: only after that one of its stops."""
        if process.is_stopped and not process.is_over and stop in (0, process.stops):
            self.world.note(process.host, "goes on")
            process.is_stopped = False
            process.loop.resume()

    def leave(self, host: Host) -> None:
        """SIGTERM."""
        process = host.process
        if process is not None and not process.is_over:
            self.world.note(host, "is asked to leave")
            process.loop.run_callback(process.node.leave)

    # Servers that come and go by commands.

    def order_server(self) -> bool:
        """One more server is to belong; whether there was one. It may be started, and ask to join, at once."""
        added = next((host for host in self.hosts if host not in self.belonging), None)
        if added is not None:
            self.world.note(added, "is to belong")
            self.count("servers ordered")
            self.belonging.append(added)
            added.stays_down = added.was_removed = False
            self.forced_out.discard(added.address)
        return added is not None

    def order_removal(self, host: Host, *, by_force: bool = False) -> None:
        """A server is to belong no more: if it runs, it hands over and ends. By force it goes with what it holds."""
        self.world.note(host, "is to belong no more", "by force" if by_force else "")
        self.count("removals forced" if by_force else "removals ordered")
        if by_force:
            self.forced_out.add(host.address)
        self.belonging.remove(host)
        host.stays_down = host.was_removed = True

    def administer(self) -> None:
        """Tell all who run, again and again, which servers are to belong: who is the coordinator does it."""
        for process in self.processes():
            if not process.is_stopped and not process.is_over:
                process.loop.run_callback(self._tell_orders, process)
        self.world.after(ORDERS_S, self.administer)

    def _tell_orders(self, process: Process) -> None:
        wanted = {host.address for host in self.belonging}
        told = json.loads(process.node.membership.order(b""))
        belongs = set(told["servers"]) or {host.address for host in self.listed}
        changes = [{"add": name} for name in sorted(wanted - belongs)]
        changes += [{"remove": name, "force": name in self.forced_out} for name in sorted(belongs - wanted)]
        for change in changes:
            process.node.membership.order(json.dumps(change).encode())

    # The servers file.

    def _may_start(self, host: Host) -> bool:
        """A server that was added is started when all others go by a file that has it."""
        if self.all_options.by_command:
            return host in self.belonging or host.was_removed
        is_known = not host.is_new or all(self.has_read(process, host) for process in self.processes())
        return host in self.listed and is_known

    def has_read(self, process: Process, host: Host) -> bool:
        """Whether the process goes by a servers file that has this machine's server."""
        return host.address in process.node.peers.servers

    def add_server(self) -> bool:
        """A line for one more server; whether there was one to add. Who runs is told by `reread`."""
        added = next((host for host in self.hosts if host not in self.listed), None)
        if added is not None:
            self.world.note(added, "is added to the servers file")
            self.count("servers added")
            self.listed.append(added)
            added.is_new, added.stays_down = True, False
        return added is not None

    def remove_server(self, host: Host) -> None:
        """Its line is taken out, its process having ended. Who runs is told by `reread`."""
        assert host.process is None
        self.world.note(host, "is taken out of the servers file")
        self.count("servers removed")
        self.listed.remove(host)

    def grow(self) -> None:
        """Once the faults have stopped: bring in, one after the other, whoever is to come; and all are to know it."""
        if self.all_options.by_command:
            if self.is_to_grow:
                self.order_server()
            return
        if self.is_to_grow and not any(host.is_new for host in self.listed):
            self.add_server()
        names = {host.address for host in self.listed}
        for process in self.processes():
            if set(process.node.peers.servers) != names:
                self.reread(process.host)

    def reread(self, host: Host) -> None:
        """SIGHUP."""
        process = host.process
        if process is not None and not process.is_over:
            process.loop.run_callback(process.node.reload)

    # What processes tell.

    def turned(self, process: Process) -> None:
        """A turn of its loop is over."""
        self.checks.turned(process)

    def sends(self, process: Process, data: bytes, target: bytes) -> None:
        """A datagram leaves it."""
        taker = self.network.bound.get(target)
        if not isinstance(taker, Client) or taker.current is None:
            return
        call = taker.current
        if call.key and call.message_id in data and b"\x08\x03\x28" not in data:
            self.checks.answers(process, slot_of(call.key))

    # Paths.

    def paths_of(self, one: Host) -> list[tuple[str, str]]:
        """All that lead to a machine or from it, but for those of clients."""
        others = [host for host in self.hosts if host is not one]
        return [path for other in others for path in ((one.ip, other.ip), (other.ip, one.ip))]

    def dispose(self) -> None:
        """End all that is left: it is held together by circles, which only the garbage collector would undo."""
        for process in self.processes():
            process.end()
        end_greenlets()
