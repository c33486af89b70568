"""One seed of the simulation with data: faults, then none; copies, histories and replies must be as promised."""

import random
import time
from zlib import crc32

from app.cluster.events import LOCAL
from app.cluster.view import View
from app.wire.protocol import GET, slot_of
from tests.sim.checks import Checks, Violation
from tests.sim.copies import DataOptions, DataWorld
from tests.sim.history import Operation, is_linearizable
from tests.sim.nemesis import Nemesis, draw_options
from tests.sim.run import Result
from tests.sim.world import Host, Options
from tests.storage import contents

CONVERGE_S = 20.0  # virtual seconds without faults until all copies are whole and the same
LEAVE_S = 12.0
REMEMBERED_S = 4.0


def draw(seed: int) -> tuple[Options, DataOptions, float]:
    """The conditions of a run, and how long faults last."""
    rng = random.Random(seed ^ 0x5EED)
    options = draw_options(rng)
    options.transfer = True
    options.hosts = rng.choice((2, 3, 3, 3, 4, 5))
    options.replicas = rng.choice((1, 2, 3, 3, 3))
    pressure = rng.random() < 0.4
    data = DataOptions(
        evict=rng.random() < 0.7,
        pages=rng.choice((3, 6)) if pressure else 64,
        keys=rng.choice((30, 50)) if pressure else rng.choice((4, 10)),
        value_bytes=rng.choice((6000, 9000)) if pressure else 20,
        clients=rng.choice((4, 8, 16)),
        think_s=rng.choice((0.001, 0.01, 0.05)),
        answer_loss=rng.choice((0.0, 0.02, 0.3)),
        wipes=rng.random() < 0.2,
        write_share=rng.choice((0.2, 0.6, 0.6)),
        **({"staging_bytes": (200, 600)} if seed % 4 == 1 else {}),
    )
    return options, data, rng.choice((3.0, 6.0))


class Careful(Nemesis):
    """Does not end a process that holds the last whole copy of a slot: what it has then is lost by right."""

    def __init__(self, world: DataWorld, until: float) -> None:
        super().__init__(world, until)
        self._faults.append(self.crash_two)
        if world.data.faults:
            self._faults = [getattr(self, name) for name in world.data.faults]
        self._pace_s = world.data.pace_s or self._pace_s

    def crash_two(self) -> None:
        """The second when, or just before or after, others have taken over from the first."""
        self.crash()
        self._world.after(self._rng.uniform(0.05, 0.6), self.crash)

    def _spares(self, host: Host) -> bool:
        """Whether every slot with keys has a holder besides this host's process, in every view that anyone goes by."""
        world = self._world
        assert isinstance(world, DataWorld)
        live = {process.address: process for process in world.processes() if process.host is not host}
        views = {core.view.key: core.view for core in (p.core for p in world.processes()) if core.view is not None}

        def holds(view: View, address: str, slot: int) -> bool:
            process = live.get(address)
            return (
                process is not None
                and view.has(address, process.core.incarnation)
                and world.node(process).replication._shared.positions[slot] is not None
            )

        return all(
            any(holds(view, address, slot) for address in view.holders(slot))
            for view in views.values()
            for slot in world.slots
        )

    def _some(self) -> Host:
        spare = [host for host in self._world.hosts if self._spares(host)]
        return self._rng.choice(spare or self._world.hosts)

    def crash(self) -> None:
        if self._any_spare():
            super().crash()

    def bounce(self) -> None:
        if self._any_spare():
            super().bounce()

    def _any_spare(self) -> bool:
        return any(self._spares(host) for host in self._world.hosts)

    def _may_end(self, host: Host) -> bool:
        return self._spares(host)

    def _end(self, host: Host, process: object) -> None:
        if self._spares(host):
            super()._end(host, process)


def run_copies(
    seed: int, options: Options | None = None, data: DataOptions | None = None, *, bursts: bool = False
) -> Result:
    """Run the seed; raises Violation, with the end of the trace in its message."""
    began = time.perf_counter()
    drawn, drawn_data, faults = draw(seed)
    drawn.bursts = bursts
    world = DataWorld(seed, options or drawn, data or drawn_data)
    checks = Checks(world)
    nemesis = Careful(world, faults)
    try:
        nemesis.start_all()
        for client in world.clients:
            client.start(0.2, faults + 1.0)
        world.run(faults)
        nemesis.make_well()
        world.data.answer_loss = 0.0
        deadline = world.now + CONVERGE_S
        while missing := checks.is_converged() or differs(world, checks.lost | world.forsaken):
            if world.now >= deadline:
                raise Violation(f"after {CONVERGE_S} s without faults: {missing}")
            world.run(world.now + 0.1)
            if world.now >= faults + LEAVE_S:
                for host in world.hosts:
                    world.start(host)
        read_all(world)
        check_histories(world, checks.lost | world.forsaken)
        epoch = world.processes()[0].core.epoch
    except Exception as violation:
        lines = [f"{event[0]:10.6f}  {' '.join(str(part) for part in event[1:])}" for event in world.trace]
        trace = "\n".join(lines[-60:])
        raise Violation(
            f"{trace}\nseed {seed} at {world.now:.6f}: {violation!r}\n{world.options}\n{world.data}"
        ) from violation
    for node in world.nodes.values():
        world.counts.update({f"fault: {name}": count for name, count in node.replication.faults.items()})
    return Result(seed, world.steps, world.now, epoch, time.perf_counter() - began, world.counts)


def differs(world: DataWorld, lost: int) -> str:
    """Empty if every holder of every slot has the same; else where not."""
    for process in world.processes():
        node = world.node(process)
        if node.replication.pending:
            return f"{process.address} has {node.replication.pending} writes in flight"
        if node.replication.routes.count(LOCAL) != process.core.served.bit_count():
            return f"{process.address} has slots that are not open"
    processes = {process.address: process for process in world.processes()}
    view = world.processes()[0].core.view
    assert view is not None
    for slot in sorted(world.slots):
        holders = [world.node(processes[address]) for address in view.holders(slot)]
        if len(holders) == 1:
            continue
        if len({node.replication._shared.positions[slot] for node in holders}) != 1:
            return f"slot {slot}: {[node.replication._shared.positions[slot] for node in holders]}"
        held = [contents.entries(node.store, slot) for node in holders]
        for other in held[1:]:
            common = held[0].keys() & other.keys()
            if any(held[0][key] != other[key] for key in common):
                raise Violation(f"slot {slot}: copies at one position hold different values")
            if not world.data.evict and held[0].keys() != other.keys():
                raise Violation(f"slot {slot}: copies at one position hold different keys")
            if world.data.pages >= 64 and held[0].keys() != other.keys():
                raise Violation(f"slot {slot}: copies at one position hold different keys, without pressure")
        if lost >> slot & 1:
            continue
        for client in world.clients:
            for when, message_id, code, key in client.recent:
                if slot_of(key) == slot and world.now - when < REMEMBERED_S:
                    known = {node.replies.get(message_id, crc32(message_id)) for node in holders}
                    if known != {code}:
                        raise Violation(f"slot {slot}: {message_id!r} answered {code}, remembered {known}")
    return ""


def read_all(world: DataWorld) -> None:
    """Every key is read once more, in all quiet."""
    keys = list(world.keys)
    give_up = world.now + 30.0
    while keys or any(client.current is not None for client in world.clients):
        for client in world.clients:
            if keys and client.current is None:
                client.ask(GET, keys.pop())
        if world.now > give_up:
            raise Violation("requests are not answered although all is well")
        world.run(world.now + 0.02)


def check_histories(world: DataWorld, lost: int) -> None:
    """Of all keys but those of slots that lost every copy, which nothing was promised of."""
    forgets = world.data.evict and world.data.pages < 64
    for key in world.keys:
        if lost >> slot_of(key) & 1:
            world.counts["keys lost"] += 1
            continue
        world.counts["keys checked"] += 1
        operations: list[Operation] = []
        for client in world.clients:
            operations += client.history.get(key, [])
            if client.current is not None and client.current.key == key:
                raise Violation(f"{client.current} is still under way")
        for called, _ in world.wipes:  # it may have reached the key's slot, then or later, or not
            operations.append(Operation("REMOVE", None, called))
        if not is_linearizable(operations, forgets=forgets or bool(world.wipes)):
            lines = "\n".join(str(op) for op in sorted(operations, key=lambda op: op.called))
            raise Violation(f"{key!r} (slot {slot_of(key)}) is not linearizable:\n{lines}")
