"""A network in two: by default the smaller side refuses; with `--on-partition serve` both go on, and are one again."""

import random

import pytest

from app.cluster.membership import timing
from app.cluster.slots import ALL_SLOTS
from app.wire.protocol import NO_ERR, PUT, slot_of
from tests.sim.checks import Checks
from tests.sim.copies import Client, DataOptions, DataWorld, Request, Waiting
from tests.sim.copies_run import differs
from tests.sim.nemesis import draw_options
from tests.sim.run import run_seed
from tests.sim.world import Host, Options

APART_S = timing.SPLIT_S + 3.0  # within which a smaller side serves


def part(world: DataWorld, left: list[Host], right: list[Host]) -> None:
    pairs = [(one.address, other.address) for one in left for other in right]
    world.blocked |= {*pairs, *((other, one) for one, other in pairs)}


def served(hosts: list[Host], now: float) -> int:
    """The slots that these may answer for."""
    mask = 0
    for host in hosts:
        assert host.process is not None
        if host.true(host.process.core.lease_until) > now:
            mask |= host.process.core.served
    return mask


def site(hosts: int, mode: str, seed: int) -> tuple[DataWorld, Checks]:
    world = DataWorld(seed, Options(hosts=hosts, transfer=True, on_partition=mode), DataOptions(keys=40, clients=0))
    checks = Checks(world)
    for host in world.hosts:
        world.start(host)
    world.run(3.0)
    assert not checks.is_converged()
    return world, checks


class Writer(Client):
    """Asks one node to write, and notes which keys it was told are written."""

    def __init__(self, world: DataWorld) -> None:
        super().__init__(world, 99)
        self.written: set[bytes] = set()

    def answered(self, request: Request, answer: tuple[int, str | None]) -> None:
        if answer[0] == NO_ERR:
            self.written.add(request.key)


def put_all(world: DataWorld, host: Host, value: str) -> set[bytes]:
    """Write every key by way of this host; which were acknowledged."""
    writer = Writer(world)
    assert host.process is not None
    for key in world.keys:
        request = Request(writer, PUT, key, value, value.encode() + key, world.now)
        world.give(host.process, Waiting(request))  # type: ignore[arg-type]
    world.run(world.now + 1.0)
    return writer.written


def held(world: DataWorld, hosts: list[Host], key: bytes) -> set[str]:
    blobs = [world.node(host.process).store.peek(slot_of(key), key) for host in hosts if host.process is not None]
    return {blob.decode().rstrip(".") for blob in blobs if blob is not None}


@pytest.mark.parametrize("seed", range(2))
def test_by_default_the_smaller_side_refuses(seed: int) -> None:
    world, checks = site(5, "refuse", seed)
    smaller, larger = world.hosts[:2], world.hosts[2:]
    part(world, smaller, larger)
    world.run(world.now + APART_S)
    assert served(larger, world.now) == ALL_SLOTS
    assert not served(smaller, world.now)
    world.blocked.clear()
    world.run(world.now + 5.0)
    assert not checks.is_converged()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("hosts", "cut"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_both_sides_serve_and_the_larger_ones_data_win(hosts: int, cut: int, seed: int) -> None:
    world, checks = site(hosts, "serve", seed)
    everybody = set(world.keys)
    assert put_all(world, world.hosts[0], "before") == everybody
    view = world.processes()[0].core.view
    assert view is not None
    ranked = [world.by_address[address] for address in view.addresses]
    larger, smaller = ranked[:-cut], ranked[-cut:]
    part(world, smaller, larger)
    world.run(world.now + APART_S)
    assert served(larger, world.now) == ALL_SLOTS
    assert served(smaller, world.now) == ALL_SLOTS
    for key in world.keys:  # what the smaller side had a copy of is there still
        copies = {address for host in smaller if (address := host.address) in view.holders(slot_of(key))}
        assert held(world, smaller, key) == ({"before"} if copies else set())
    assert put_all(world, larger[0], "larger") == everybody
    assert put_all(world, smaller[0], "smaller") == everybody
    world.blocked.clear()
    world.run(world.now + 8.0)
    assert not checks.is_converged()
    assert not differs(world, 0)
    assert {process.core._state.view_key[0] for process in world.processes()} == {view.origin}
    for key in world.keys:
        assert held(world, world.hosts, key) == {"larger"}


def test_a_side_without_a_quorum_goes_on_after_the_others_lost_power() -> None:
    """None of the three is known to be dead for certain: by default the last one waits for them."""
    world, _ = site(3, "serve", 1)
    for host in world.hosts[:2]:
        world.pause(host, 1000.0)
    world.run(world.now + APART_S)
    assert served(world.hosts[2:], world.now) == ALL_SLOTS


@pytest.mark.parametrize("seed", [*range(25), 298])
def test_seeds(seed: int) -> None:
    """Under all faults, in one cluster again when they stop; at most one in charge of a slot in each cluster.

    Seed 3 found a member that stayed by the view that all others had parted from, 298 an outsider that did.
    """
    options = draw_options(random.Random(seed))
    options.on_partition = "serve"
    run_seed(seed, options, 15.0)
