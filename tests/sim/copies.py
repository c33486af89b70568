"""Nodes with data: replication core, store and reply memory added to the simulated processes; links, clients.

The shell around them is modelled simply: a request for another's slot goes over the ordered link to its primary, one
that nobody may serve waits, the answer goes straight to the client. Two rules of the model are the real shell's
duty: a request that is older than REQUEST_AGE_S is not executed any more (its reply may have been forgotten), and no
link delivers what was sent before it was cut.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from app.cluster.events import LOCAL, UNKNOWN, Event, Reset, SlotsSynced, Tick, ViewInstalled
from app.cluster.replication.core import PARKED, TICK_S, Replication
from app.cluster.replication.follower import STAGING_MAX_BYTES, STAGING_SOFT_BYTES
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, NO_SPC_ERR, PUT, SYS_OVERLOAD_ERR, WIPEOUT, slot_of
from tests.sim.checks import Violation
from tests.sim.history import DONE, MISSING, Operation
from tests.sim.ledger import Ledger
from tests.sim.world import Host, Options, Process, World

FORWARD = 1
REQUEST_AGE_S = 1.4
TTL_S = 6.0
RETRIES_S = (0.15, 0.45, 1.35, 2.5, 2.0)
LINK_RETRY_S = 0.05
KIND = {PUT: "PUT", GET: "GET", 3: "REMOVE"}


@dataclass
class DataOptions:
    """What is drawn besides the network's options."""

    evict: bool = True
    pages: int = 64
    keys: int = 10
    value_bytes: int = 20
    clients: int = 4
    think_s: float = 0.02
    answer_loss: float = 0.0
    wipes: bool = False
    write_share: float = 0.6  # of requests; a quarter of them are REMOVEs
    staging_bytes: tuple[int, int] = (STAGING_SOFT_BYTES, STAGING_MAX_BYTES)
    faults: tuple[str, ...] = ()  # only these; none named: any
    pace_s: float = 0.0  # between them; 0: drawn


@dataclass(frozen=True)
class Request:
    """One datagram of a client."""

    client: "Client"
    command: int
    key: bytes
    value: str
    message_id: bytes
    sent_at: float
    hops: int = 0


@dataclass(frozen=True)
class Waiting:
    """A request at a node, as an event."""

    request: Request


@dataclass(frozen=True)
class Frame:
    link: "Link"
    peer: str
    kind: int
    body: Any


@dataclass(frozen=True)
class LinkChange:
    link: "Link"
    peer: str
    is_up: bool


@dataclass(frozen=True)
class DataTick:
    pass


class Link:
    """One ordered connection between two processes; `ends`: who still takes it to be up."""

    def __init__(self, one: Process, other: Process) -> None:
        self.processes = (one, other)
        self.ends = {one, other}
        self.broken = False
        self.last_arrival: dict[Process, float] = {one: 0.0, other: 0.0}

    def other(self, process: Process) -> Process:
        return self.processes[self.processes[0] is process]


class Node:
    """A process's data."""

    reads_wait = True  # off: to see that the simulator notices

    def __init__(self, world: "DataWorld", process: Process) -> None:
        self.world = world
        self.process = process
        data = world.data
        arena = Arena(96 * PAGE_BYTES, data.pages * PAGE_BYTES)
        self.store = Store(arena, evict=data.evict, on_allowance_used=self._allow)
        self.store.compact_bytes = PAGE_BYTES
        self.replies = ReplyMemory(TTL_S, 1 << 20, buckets=16)
        self.replication = Replication(process.address, self.store, self.replies, reserve_bytes=PAGE_BYTES)
        self.links: dict[str, Link] = {}
        self.parked: list[Request] = []
        self.took_effect: dict[int, set[bytes]] = {}  # messageIDs by slot: see ledger.py
        self.seen_routes: list[str] = []
        self.seen_served = 0
        world.ledger.watch(self)
        follower = self.replication._follower
        follower.staging_soft_bytes, follower.staging_max_bytes = data.staging_bytes

    def _allow(self) -> None:
        self.store.allowance_bytes = 1 << 40

    def now(self) -> float:
        return self.process.host.local(self.world.now)

    def may_serve(self) -> bool:
        return self.now() < self.process.core.lease_until

    def take(self, event: object) -> None:
        now = self.now()
        replication = self.replication
        match event:
            case Waiting(request):
                self.handle(request)
            case Frame(link, peer, kind, body):
                if self.links.get(peer) is not link:
                    return
                if kind == FORWARD:
                    self.handle(body)
                else:
                    replication.on_frame(peer, kind, body, now)
                    self.world.check_frame(self, peer)
            case LinkChange(link, peer, is_up):
                if is_up:
                    assert peer not in self.links
                    self.links[peer] = link
                    replication.link_up(peer, now)
                elif self.links.get(peer) is link:
                    del self.links[peer]
                    link.ends.discard(self.process)
                    replication.link_closed(peer, now)
            case DataTick():
                self.replies.advance(now)
                replication.tick(now)
                self._again()

    def settle(self) -> None:
        """After every event: carry out what it has brought about."""
        world, core = self.world, self.process.core
        self.replication.refresh(core.routes, core.lease_until)
        for _ in range(3):
            out = self.replication.flush(self.now())
            for peer, kind, body in out.frames:
                world.send_frame(self, peer, kind, body)
            for origin, code in out.released:
                request, read = origin
                if request.command != WIPEOUT:
                    world.check_answer(self, slot_of(request.key))
                world.answer(request, read if code is None else (code, None))
            for request, _ in out.dropped:
                self.handle(request)
            for learner, slots, epoch in out.synced:
                synced = SlotsSynced(learner, slots, epoch)
                if epoch == core.epoch:
                    world.on_effect(self.process, synced)
                world.give(self.process, synced)  # type: ignore[arg-type]
            if out.closed or self.replication.faults.get("bad frame"):
                raise Violation(f"{self.process.address} calls a frame of {out.closed} unsound")
            if out.opened:
                self._again()
            elif not out.dropped:
                return

    def _again(self) -> None:
        parked, self.parked = self.parked, []
        for request in parked:
            self.handle(request)

    def handle(self, request: Request) -> None:
        world, replication = self.world, self.replication
        if world.now - request.sent_at > REQUEST_AGE_S:
            return
        if request.command == WIPEOUT:
            self._wipe(request)
            return
        slot = slot_of(request.key)
        route = replication.routes[slot]
        if route == LOCAL:
            if self.may_serve():
                self._execute(slot, request)
            else:
                self.parked.append(request)
        elif route == UNKNOWN or request.hops >= 3 or route not in self.links:
            self.parked.append(request)
        else:
            onwards = Request(**{**request.__dict__, "hops": request.hops + 1})
            world.send_frame(self, route, FORWARD, onwards)

    def _execute(self, slot: int, request: Request) -> None:
        world, replication, key = self.world, self.replication, request.key
        world.check_answer(self, slot)
        if request.command == GET:
            blob = self.store.get(slot, key)
            read = (NO_ERR, blob.decode().rstrip(".")) if blob is not None else (KEY_DNE_ERR, None)
            if self.reads_wait and key in replication.unacked:
                world.counts["reads that waited"] += 1
                replication.hold_read(key, (request, read))
            else:
                world.answer(request, read)
            return
        message_id = request.message_id
        crc = crc32(message_id)
        blob = request.value.ljust(world.data.value_bytes, ".").encode()
        if replication.followed[slot] is not None:
            code = replication.execute(request.command, slot, key, blob, message_id, crc, (request, None))
        else:
            code = self._alone(slot, request, blob, message_id, crc)
        if code != PARKED:
            world.answer(request, (code, None))

    def _alone(self, slot: int, request: Request, blob: bytes, message_id: bytes, crc: int) -> int:
        known = self.replies.get(message_id, crc)
        if known is not None:
            return known
        if request.command == PUT:
            if self.store.put(slot, request.key, blob):
                code = NO_ERR
            elif self.store.evicts:
                return SYS_OVERLOAD_ERR
            else:
                code = NO_SPC_ERR
        else:
            code = NO_ERR if self.store.remove(slot, request.key) else KEY_DNE_ERR
        self.replies.add(message_id, crc, slot, code)
        self.world.ledger.alone(self, slot, message_id)
        return code

    def _wipe(self, request: Request) -> None:
        if not self.may_serve():
            return
        slots = [slot for slot, route in enumerate(self.replication.routes) if route == LOCAL]
        crc = crc32(request.message_id)
        code = self.replication.wipe(slots, request.message_id, crc, (request, None))
        if code != PARKED:
            self.world.answer(request, (code, None))


class DataWorld(World):
    """See the module."""

    def __init__(self, seed: int, options: Options, data: DataOptions) -> None:
        super().__init__(seed, options)
        self.data = data
        self.nodes: dict[Process, Node] = {}
        self.counts: Counter[str] = Counter()
        self.wipes: list[tuple[float, float]] = []
        self.keys = _keys(data.keys)
        self.slots = {slot_of(key) for key in self.keys}
        self.forsaken = 0  # slots promoted from a copy that had been given up to keep a bound on memory
        self.ledger = Ledger(self.slots, exact=not data.evict or data.pages >= 64)
        self._pairs: dict[frozenset[str], Link] = {}
        self._chance = random.Random(seed + 1)
        self.clients = [Client(self, number) for number in range(data.clients)]
        self.after(0.0, self._tend_links)

    # Processes.

    def node(self, process: Process) -> Node:
        node = self.nodes.get(process)
        if node is None:
            node = self.nodes[process] = Node(self, process)
            self.after(TICK_S, self._data_tick, process)
        return node

    def _data_tick(self, process: Process) -> None:
        if process.host.process is process and not process.left:
            if not process.paused:
                self.give(process, DataTick())  # type: ignore[arg-type]
            self.after(TICK_S, self._data_tick, process)

    def crash(self, host: Host) -> None:
        process = host.process
        super().crash(host)
        if process is not None:
            self.nodes.pop(process, None)

    def _step(self, process: Process, event: Event) -> None:
        if process.left:
            return
        node = self.node(process)
        if isinstance(event, Waiting | Frame | LinkChange | DataTick):
            self.steps += 1
            # A process that was stopped looks at its clock before its sockets.
            if process.host.local(self.now) >= process.core.wake_at:
                super()._step(process, Tick())
            node.take(event)
        else:
            super()._step(process, event)
        if not process.left:
            node.settle()
        if not process.left:  # settling may have been the last thing that it waited for
            self.check_routes(node)

    def carry_out(self, process: Process, effect: object) -> None:
        super().carry_out(process, effect)
        node = self.node(process)
        positions = node.replication._shared.positions
        partial = {slot for slot in self.slots if positions[slot] is None}
        if isinstance(effect, ViewInstalled):
            node.replication.on_view(effect.view, effect.is_member, node.now())
            self.ledger.viewed(node, partial)
            if node.replication.faults.keys() & {"staging full", "no room"}:
                self.forsaken |= sum(1 << slot for slot in partial if slot in node.replication._primary.led)
        elif isinstance(effect, Reset):
            node.replication.reset()
            self.ledger.viewed(node, partial)

    def _transfer(self, process: Process) -> None:
        """The slots are really moved here."""

    # Links.

    def _tend_links(self) -> None:
        live = self.processes()
        for index, one in enumerate(live):
            for other in live[index + 1 :]:
                pair = frozenset((one.address, other.address))
                link = self._pairs.get(pair)
                if link is not None and (link.broken or set(link.processes) != {one, other}):
                    self._break(link)
                    if link.ends & {one, other}:
                        continue  # both must know first
                    link = None
                    del self._pairs[pair]
                cut = self._is_cut(one.address, other.address)
                if link is not None and cut:
                    self._break(link)
                elif link is None and not cut and not one.paused and not other.paused:
                    self._pairs[pair] = link = Link(one, other)
                    for process in (one, other):
                        change = LinkChange(link, link.other(process).address, True)
                        self._arrive_frame(link, process, change)
        self.after(LINK_RETRY_S * self._chance.uniform(0.2, 1.0), self._tend_links)

    def _break(self, link: Link) -> None:
        if not link.broken:
            link.broken = True
            for process in link.processes:
                delay = self._chance.choice((0.0, 0.01, 0.3)) * self._chance.random()
                self.after(delay, self._tell_closed, link, process)

    def _tell_closed(self, link: Link, process: Process) -> None:
        if process.host.process is not process:
            link.ends.discard(process)
        self.give(process, LinkChange(link, link.other(process).address, False))  # type: ignore[arg-type]

    def send_frame(self, node: Node, peer: str, kind: int, body: Any) -> None:
        link = node.links.get(peer)
        if link is None:
            return
        self.counts["frames"] += 1
        target = link.other(node.process)
        self._arrive_frame(link, target, Frame(link, node.process.address, kind, body))

    def _arrive_frame(self, link: Link, target: Process, event: object) -> None:
        when = max(link.last_arrival[target] + 1e-9, self.now + self._delay())
        link.last_arrival[target] = when
        self.at(when, self._deliver, link, target, event)

    def _deliver(self, link: Link, target: Process, event: object) -> None:
        source = link.other(target)
        if source.host.process is not source or self._is_cut(source.address, target.address):
            self._break(link)
        if not link.broken:
            self.give(target, event)  # type: ignore[arg-type]
        elif isinstance(event, LinkChange):
            link.ends.discard(target)  # it never came up here

    def check_routes(self, node: Node) -> None:
        """No slot is open that the membership core does not let this node serve: of those it sees to it (checks.py)
        that no two nodes have one at any time."""
        routes, served = node.replication.routes, node.process.core.served
        if routes != node.seen_routes or served != node.seen_served:
            node.seen_routes, node.seen_served = list(routes), served
            for slot, route in enumerate(routes):
                if route == LOCAL and not served >> slot & 1:
                    raise Violation(f"slot {slot} is open at {node.process.address}, which may not serve it")

    def check_answer(self, node: Node, slot: int) -> None:
        """Nobody else may answer for the slot at this moment, unless both sides of a partition go on."""
        origin = node.process.core._state.view_key[0]
        for process in self.processes():
            if process is node.process:
                continue
            other = self.nodes.get(process)
            is_open = other is not None and other.replication.routes[slot] == LOCAL and other.may_serve()
            apart = self.options.on_partition == "serve" and process.core._state.view_key[0] != origin
            if is_open and not apart:
                raise Violation(f"slot {slot}: {node.process.address} answers, and {process.address} may as well")

    def check_frame(self, node: Node, peer: str) -> None:
        """No follower is ahead of its primary."""
        follower = node.replication._follower
        host = self.by_address[peer]
        if host.process is None:
            return
        led = self.node(host.process).replication._primary.led
        for slot in follower._unacknowledged.get(peer, ()):
            session = follower.sessions[slot]
            theirs = led.get(slot)
            if theirs is not None and theirs.term == session.term and session.seq > theirs.seq:
                raise Violation(f"slot {slot}: {node.process.address} is at {session.seq} of {theirs.seq}")

    # Clients.

    def submit(self, request: Request) -> None:
        """A client's datagram to a random server."""
        if self.options.loss and self._chance.random() < self.options.loss:
            return
        host = self._chance.choice(self.hosts)
        self.after(self._delay(), self._arrive_request, host, request)

    def _arrive_request(self, host: Host, request: Request) -> None:
        if host.process is not None:
            self.give(host.process, Waiting(request))  # type: ignore[arg-type]

    def answer(self, request: Request, answer: tuple[int, str | None]) -> None:
        if self._chance.random() >= self.data.answer_loss:
            self.after(self._delay() * 2, request.client.answered, request, answer)


class Client:
    """One request after the other, each repeated as clients do; writes down what it saw."""

    def __init__(self, world: DataWorld, number: int) -> None:
        self.world = world
        self.number = number
        self.rng = random.Random(world.rng.getrandbits(32))
        self.count = 0
        self.until = 0.0
        self.current: Request | None = None
        self.called = 0.0
        self.history: dict[bytes, list[Operation]] = {}
        self.recent: list[tuple[float, bytes, int, bytes]] = []  # answered writes: when, messageID, code, key

    def start(self, at: float, until: float) -> None:
        self.until = until
        self.world.at(at, self._next)

    def _next(self) -> None:
        world, rng = self.world, self.rng
        if world.now >= self.until or self.current is not None:
            return
        share = rng.random()
        writes = world.data.write_share
        command = PUT if share < 0.75 * writes else 3 if share < writes else GET
        if world.data.wipes and rng.random() < 0.01:
            command = WIPEOUT
        self.ask(command, rng.choice(world.keys))

    def ask(self, command: int, key: bytes) -> None:
        self.count += 1
        name = f"{self.number}-{self.count}"
        self.called = self.world.now
        self.current = Request(self, command, key, name, b"id" + name.encode(), self.world.now)
        self._try(self.current, 0)

    def _try(self, request: Request, attempt: int) -> None:
        if self.current is None or self.current.message_id != request.message_id:
            return
        if attempt == len(RETRIES_S):
            self._finish(request, None)
            return
        again = Request(**{**request.__dict__, "sent_at": self.world.now})
        self.world.submit(again)
        self.world.after(RETRIES_S[attempt], self._try, request, attempt + 1)

    def answered(self, request: Request, answer: tuple[int, str | None]) -> None:
        current = self.current
        if current is None or current.message_id != request.message_id or answer[0] == SYS_OVERLOAD_ERR:
            return
        self._finish(current, answer)

    def _finish(self, request: Request, answer: tuple[int, str | None] | None) -> None:
        world = self.world
        self.current = None
        world.counts["unanswered" if answer is None else f"{request.command} {answer[0]}"] += 1
        self._record(request, answer)
        world.after(self.rng.expovariate(1 / world.data.think_s), self._next)

    def _record(self, request: Request, answer: tuple[int, str | None] | None) -> None:
        world = self.world
        if request.command == WIPEOUT:
            world.wipes.append((self.called, world.now))
            return
        if answer is not None and answer[0] == NO_SPC_ERR:
            return
        value = request.value if request.command == PUT else answer[1] if answer and request.command == GET else None
        result = None if answer is None else DONE if answer[0] == NO_ERR else MISSING
        returned = world.now if answer is not None else float("inf")
        operation = Operation(KIND[request.command], value, self.called, returned, result)
        self.history.setdefault(request.key, []).append(operation)
        if answer is not None and request.command != GET:
            self.recent.append((world.now, request.message_id, answer[0], request.key))


def _keys(count: int) -> list[bytes]:
    """Keys of which several share a slot."""
    keys: list[bytes] = []
    by_slot: Counter[int] = Counter()
    number = 0
    while len(keys) < count:
        key = b"key%d" % number
        number += 1
        if slot_of(key) % 8 < 2 and by_slot[slot_of(key)] < 2:
            by_slot[slot_of(key)] += 1
            keys.append(key)
    return keys
