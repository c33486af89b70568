"""A node's program, running on a simulated machine: the real Node over a loop, a clock and sockets of ours."""

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from app.config import options as node_options
from app.config.servers import Server
from app.node import Limits, Node
from app.storage import governor
from app.storage.arena import PAGE_BYTES
from tests.sim.loop import SimLoop
from tests.sim.network import SimSockets
from tests.sim.register import RegisterClient
from tests.sim.world import Host

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

PORT: Final = 3331
MEMORY_BYTES: Final = 48 << 20
INTERPRETER_BYTES: Final = 30 << 20  # what a process takes without a store
REPLIES_BYTES: Final = 32 << 10  # where memory is tight

# Simulated nodes are small, so that eviction is reached with few values: the arena may become this small.
ARENA_FLOOR_BYTES = 2 * PAGE_BYTES


@dataclass
class NodeOptions:
    """How nodes are set up, and what happens inside them; drawn from the seed."""

    replicas: int = 3
    evict: bool = True
    secret: bytes | None = None
    one_machine: bool = False  # all nodes run on one: its kernel refuses for the dead only, and that is proof
    reply_ttl_s: float = 6.0
    max_in_flight: int = 1024
    batch_size: int = 8
    queue_max_bytes: int = 0  # of what may wait for one peer; 0: as shipped
    staging_bytes: tuple[int, int] = (0, 0)  # (soft, hard) bounds; zeros: as shipped
    transfer_bytes: tuple[int, int] = (0, 0)  # a second, and in a chunk; zeros: as shipped
    pages: int = 0  # of 64 KiB that the store may take, by the simulated resident size; 0: plenty
    lag_s: float = 0.0005  # between something happening and the turn of the loop that finds it, at most
    turn_s: float = 0.0  # what a turn takes, at most
    stop_share: float = 0.0  # of the reads of the clock that find the process stopped in between
    stop_s: float = 0.5  # for so long at most
    send_fails: float = 0.0  # share of the system's calls that do not take a datagram
    clock_set_back: float = 0.0  # chance that a process starts by an earlier wall clock than the one before
    extra: dict[str, Any] = field(default_factory=dict)


class Process:
    """One run of a node's program."""

    def __init__(self, cluster: "Cluster", host: Host) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.host = host
        self.options = cluster.options
        self.is_over = False  # nothing of it runs any more
        self.is_stopped = False  # SIGSTOP
        self.stops = 0
        self.exit_status: int | None = None
        self.sockets: SimSockets
        self._base_bytes = INTERPRETER_BYTES
        if self.options.pages:
            left_bytes = self.options.pages * PAGE_BYTES + REPLIES_BYTES
            self._base_bytes = MEMORY_BYTES - governor._MARGIN_BYTES - left_bytes
        self.heap_bytes = 0  # what the nemesis adds to its resident size
        self._ahead_s = 0.0  # the process has got to this time in the turn that it is in
        self._rng: Random = cluster.world.rng
        self._reads_left = self._draw_reads()
        self._stop_s = 0.0  # for how long it is stopped then; 0: drawn
        host.starts += 1
        self.incarnation = self._draw_incarnation()
        self.loop = SimLoop(self)
        self.node: Node = self._build()

    def _draw_incarnation(self) -> int:
        host, rng = self.host, self._rng
        incarnation = int(host.clock.unix(self.world.now) * 1e6)
        if host.last_incarnation:
            if rng.random() < self.options.clock_set_back:
                incarnation = host.last_incarnation - rng.randrange(1, 1_000_000)
            elif incarnation <= host.last_incarnation and not self.options.clock_set_back:
                incarnation = host.last_incarnation + 1
        return incarnation

    def _build(self) -> Node:
        options = self.options
        listed = self.cluster.listed
        joins = self.host not in listed
        servers = tuple(self._server(host) for host in ([self.host, *listed] if joins else listed))
        SimSockets(self.cluster.network, self, PORT)
        settings = node_options.Options(
            port=PORT,
            servers=servers,
            join=tuple((host.name, PORT) for host in listed) if joins else None,
            me=next(server for server in servers if str(server) == self.host.address),
            policy="allkeys-lru" if options.evict else "noeviction",
            bind=self.host.ip,
            replicas=options.replicas,
            secret=options.secret,
            reply_ttl_s=options.reply_ttl_s,
            max_in_flight=options.max_in_flight,
            max_memory_bytes=MEMORY_BYTES,
            **options.extra,
        )
        node = Node(
            settings,
            self.loop,
            self.sockets,  # type: ignore[arg-type]  # the same methods
            incarnation=self.incarnation,
            random_bytes=self._rng.randbytes,
            resident_bytes=self.resident_bytes,
            on_stopped=self._stopped,
            limits=Limits(options.batch_size, options.queue_max_bytes or None, ARENA_FLOOR_BYTES),
            read_file=self._read_file,
            register=RegisterClient(self, self.cluster.register) if self.cluster.register is not None else None,
        )
        if options.pages:
            node.replies.max_bytes = REPLIES_BYTES
            node.replication._shared.reserve_bytes = PAGE_BYTES
        if options.staging_bytes[1]:
            follower = node.replication._follower
            follower.staging_soft_bytes, follower.staging_max_bytes = options.staging_bytes
        if options.transfer_bytes[1]:
            transfer = node.replication._primary.transfer
            transfer.rate_bytes_s, transfer.chunk_bytes = options.transfer_bytes
            transfer.burst_bytes = transfer.chunk_bytes
        return node

    def _read_file(self, path: str) -> bytes:
        """The servers file, as it is now."""
        return "".join(f"{host.address}\n" for host in self.cluster.listed).encode()

    def _server(self, host: Host) -> Server:
        """A machine's line in the servers file, with what it resolves to now. Its own address a machine knows."""
        network = self.cluster.network
        ip = host.ip
        if self.cluster.all_options.are_named and host is not self.host:
            ip = "" if self._rng.random() < network.options.lookup_fails else network.look_up(host.name)
        return Server(host.name, PORT, ip)

    @property
    def address(self) -> str:
        return self.host.address

    @property
    def core(self) -> Any:
        """The membership core."""
        return self.node.membership.core

    # Time.

    @property
    def time(self) -> float:
        """The true time that the process has got to."""
        return max(self._ahead_s, self.world.now)

    def _draw_reads(self) -> int:
        """After how many reads of its clock the process is stopped."""
        share = self.options.stop_share
        return int(self._rng.expovariate(share)) if share else 1 << 60

    def read_clock(self) -> float:
        self._reads_left -= 1
        if self._reads_left < 0 and self.loop.is_turning and not self.is_over:
            seconds = self._stop_s or self._rng.uniform(0.0, self.options.stop_s)
            self._reads_left, self._stop_s = self._draw_reads(), 0.0
            self.stop_inside(seconds)
        now = self.world.now
        return self.host.clock.local(self._ahead_s if self._ahead_s > now else now)

    def stop_soon(self, reads: int, seconds: float) -> None:
        """The process is to be stopped for so long at a read of its clock, after so many others."""
        self._reads_left, self._stop_s = reads, seconds

    def stop_inside(self, seconds: float) -> None:
        """The process is stopped in the middle of what it does."""
        self.cluster.count("stops inside a turn")
        self.world.note(self.host, "stops inside a turn, until", round(self.time + seconds, 6))
        self.loop.stop_for(seconds)

    def read_wall_clock(self) -> float:
        return self.host.clock.unix(self.time)

    def resident_bytes(self) -> int:
        """What the governor finds."""
        node = getattr(self, "node", None)
        if node is None:
            return self._base_bytes
        return self._base_bytes + self.heap_bytes + int(node.arena.resident_bytes + node.replies.used_bytes)

    # What it tells.

    def start(self) -> None:
        self.node.start()
        self.loop.resume()

    def turned(self) -> None:
        """A turn of its loop is over."""
        self.cluster.turned(self)
        if self.options.turn_s:
            self._ahead_s = self.time + self._rng.random() * self.options.turn_s

    def sends(self, data: bytes, target: bytes) -> None:
        """A datagram is about to leave."""
        self.cluster.sends(self, data, target)

    def exited(self, status: int) -> None:
        """It has ended itself."""
        self.exit_status = status
        self.is_over = True
        self.world.note(self.host, "exits with status", status)
        self.world.at(self.time, self.cluster.ended, self)

    def _stopped(self) -> None:
        """It has handed over and stopped."""
        self.world.note(self.host, "has stopped")
        self.is_over = True
        self.world.at(self.time, self.cluster.ended, self)

    def end(self, *, power: bool = False) -> None:
        """Its end: by itself or by kill -9."""
        self.is_over = True
        self.sockets.close(power=power)
        self.loop.end()
