"""Links that break between two members, and stay broken: nobody who lacks another stays in its way.

On the membership core alone, where the links of one pair can be cut with or without their datagrams: whole nodes are
slower to try by a hundred times.
"""

from collections.abc import Iterable
from itertools import combinations
from random import Random

import pytest

from app.cluster.slots import slots_of
from app.wire.protocol import ALL_SLOTS
from tests.sim.core_checks import Checks
from tests.sim.core_run import run_seed
from tests.sim.core_world import Options, World
from tests.sim.test_sim import cluster, until

WITHIN_S = 2.0  # every slot with a holder in reach takes reads and writes again
BACK_S = 5.0  # after mending all are members of one view again
VIEWS_MAX = 3  # that one broken link may bring about, however long it lasts

Pair = tuple[int, int]


def cut(world: World, pairs: Iterable[Pair], kind: str) -> None:
    """Break these links for good. `kind`: "cable" (datagrams, too), "streams" (they pass), "one-way" (one way only)."""
    for one, other in pairs:
        path = (world.servers[one], world.servers[other])
        if kind == "streams":
            world.link_cuts.add(path)
        else:
            world.blocked |= {path} if kind == "one-way" else {path, path[::-1]}


def mend(world: World) -> None:
    world.link_cuts.clear()
    world.blocked.clear()


def epoch(world: World) -> int:
    return max(process.core.epoch for process in world.processes())


def writable(world: World) -> int:
    """The slots whose primary serves them, and has a link to every process that must have what is written."""
    processes = {process.address: process for process in world.processes()}
    mask = 0
    for process in processes.values():
        core = process.core
        if process.host.true(core.lease_until) <= world.now or core.view is None:
            continue
        for slot in slots_of(core.served):
            backups = [processes[node] for node in core.view.backups[slot]]
            if all(world.is_linked(process, backup) for backup in backups):
                mask |= 1 << slot
    return mask


def members(world: World) -> set[str]:
    """Of the newest view."""
    newest = max((process.core for process in world.processes()), key=lambda core: core.epoch)
    assert newest.view is not None
    return set(newest.view.addresses)


def breaks_and_is_mended(
    world: World, checks: Checks, pairs: list[Pair], kind: str, within_s: float = WITHIN_S
) -> set[str]:
    """Break the links for 20 s, then mend them; who had to leave."""
    before = epoch(world)
    cut(world, pairs, kind)
    took = until(world, lambda: writable(world) == ALL_SLOTS and epoch(world) > before, within_s)
    world.run(world.now + 20.0 - took)
    assert writable(world) == ALL_SLOTS
    assert epoch(world) - before <= VIEWS_MAX * len(pairs)
    left = set(world.servers) - members(world)
    mend(world)
    until(world, lambda: not checks.is_converged(), BACK_S)
    return left


@pytest.mark.parametrize("kind", ["cable", "streams", "one-way"])
@pytest.mark.parametrize(
    ("hosts", "pair"), [(2, (0, 1)), (3, (1, 2)), (3, (0, 1)), (3, (2, 0)), (4, (2, 1)), (5, (0, 3)), (7, (5, 6))]
)
@pytest.mark.parametrize("seed", range(3))
def test_one_bad_cable_costs_one_member(seed: int, hosts: int, pair: Pair, kind: str) -> None:
    world, checks = cluster(hosts, seed)
    left = breaks_and_is_mended(world, checks, [pair], kind)
    assert len(left) == 1
    assert left < {world.servers[end] for end in pair}


@pytest.mark.parametrize("kind", ["cable", "streams", "one-way"])
@pytest.mark.parametrize("bridge", [0, -1])
@pytest.mark.parametrize(("hosts", "one"), [(4, 0), (4, 2), (5, 0), (5, 3)])
def test_whoever_lacks_many_goes_the_coordinator_too(hosts: int, one: int, kind: str, bridge: int) -> None:
    world, checks = cluster(hosts)
    others = [place for place in range(hosts) if place != one]
    del others[bridge]  # which still reaches it
    left = breaks_and_is_mended(world, checks, [(one, other) for other in others], kind)
    assert left == {world.servers[one]}


@pytest.mark.parametrize("seed", range(6))
def test_a_bridge_between_two_parts_keeps_the_larger_one(seed: int) -> None:
    """The two of the smaller part go one after the other: 1.6 to 2.4 s in 24 seeds."""
    world, checks = cluster(5, seed)
    left = breaks_and_is_mended(world, checks, [(1, 3), (1, 4), (2, 3), (2, 4)], "streams", WITHIN_S + 1.0)
    assert left in ({world.servers[3], world.servers[4]}, {world.servers[1], world.servers[2]})


def test_where_no_removal_would_help_nobody_is_removed_and_all_say_so() -> None:
    world, checks = cluster(4)
    before = epoch(world)
    cut(world, combinations(range(4), 2), "streams")
    world.run(world.now + 20.0)
    assert epoch(world) == before
    assert all(process.core.status().lacks for process in world.processes())
    assert any("no link" in str(line[-1]) for line in world.trace)
    mend(world)
    until(world, lambda: writable(world) == ALL_SLOTS, BACK_S)
    until(world, lambda: not any(process.core.status().lacks for process in world.processes()), 0.2)
    assert not checks.is_converged()


def test_nobody_founds_while_no_link_comes_up_and_all_say_so() -> None:
    world = World(1, Options(hosts=3))
    checks = Checks(world)
    cut(world, combinations(range(3), 2), "streams")
    for host in world.hosts:
        world.start(host)
    world.run(10.0)
    assert epoch(world) == 0
    for server in world.servers:
        assert any(line[1] == server and "no link" in str(line[-1]) for line in world.trace)
    mend(world)
    until(world, lambda: not checks.is_converged(), BACK_S)


def test_a_link_that_comes_and_goes_brings_ever_fewer_views() -> None:
    world, checks = cluster(3)
    before = epoch(world)
    for _ in range(20):
        cut(world, [(1, 2)], "cable")
        world.run(world.now + 2.0)
        mend(world)
        world.run(world.now + 4.0)
    assert epoch(world) - before <= 30
    until(world, lambda: not checks.is_converged(), 70.0)


@pytest.mark.parametrize(
    "seed", [*range(8), *(None for _ in range(4))], ids=lambda seed: "fresh" if seed is None else str(seed)
)
def test_links_that_break_and_come_back_among_all_other_faults(seed: int | None) -> None:
    seed = Random().randrange(1 << 31) if seed is None else seed
    print("seed", seed)
    run_seed(seed, link_cuts=True)


def test_a_short_break_removes_nobody() -> None:
    world, checks = cluster(5)
    before = epoch(world)
    for pair in ((0, 1), (1, 2), (3, 4)):
        cut(world, [pair], "cable")
        world.run(world.now + 0.4)
        mend(world)
        world.run(world.now + 2.0)
    assert epoch(world) == before
    assert not checks.is_converged()
