"""What operators do, and what befalls them, with data and clients: nothing acknowledged may be missing afterwards."""

from collections.abc import Callable

import pytest

from app.cluster.events import LeaveRequested
from app.wire.protocol import GET, PUT
from tests.sim.copies import DataOptions, DataWorld
from tests.sim.copies_run import check_histories, differs, read_all
from tests.sim.core_checks import Checks
from tests.sim.core_world import Host, Options


class Site:
    """A cluster on a whole network, with clients at work."""

    def __init__(self, hosts: int, *, seed: int = 1, keys: int = 40, clients: int = 8, **data: object) -> None:
        options = Options(hosts=hosts, transfer=True)
        self.world = DataWorld(seed, options, DataOptions(keys=keys, clients=clients, **data))  # type: ignore[arg-type]
        self.checks = Checks(self.world)
        for host in self.world.hosts:
            self.world.start(host)
        for client in self.world.clients:
            client.start(0.5, float("inf"))
        self.until(lambda: self.is_whole(hosts), 3.0)
        self.world.run(self.world.now + 1.0)

    def until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Run until the condition holds; how long that took."""
        began = self.world.now
        while not condition():
            assert self.world.now - began < limit_s, f"not within {limit_s} s"
            self.world.run(self.world.now + 0.005)
        return self.world.now - began

    def is_whole(self, members: int) -> bool:
        """Whether all who run are members of one view, and every slot has all its copies where they belong."""
        cores = [process.core for process in self.world.processes()]
        view = cores[0].view
        return (
            len(cores) == members
            and view is not None
            and len(view.members) == members
            and all(core.view == view and core.is_member for core in cores)
            and view.is_balanced()
        )

    def coordinator(self) -> Host:
        view = self.world.processes()[0].core.view
        assert view is not None
        return self.world.by_address[view.coordinator]

    def finish(self) -> None:
        """Every key is read in all quiet; no slot was lost, every history holds, all copies are the same."""
        world = self.world
        for client in world.clients:
            client.until = world.now
        read_all(world)
        self.until(lambda: not differs(world, 0), 1.0)
        assert not self.checks.lost
        # A client may have tried none but dead servers, where some are.
        assert not world.counts["unanswered"] or len(world.processes()) < len(world.hosts)
        check_histories(world, 0)
        assert world.counts["keys checked"] == len(world.keys)
        assert world.counts[f"{PUT} 0"] > 50
        assert world.counts[f"{GET} 0"] > 50


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gap_s", [0.0, 0.5])
def test_rolling_crashes(gap_s: float, seed: int) -> None:
    """Of ten nodes six die, at most two between repairs (three copies bear no more), and all keys are still there."""
    site = Site(10, seed=seed)
    for count, left in ((2, 8), (1, 7), (2, 5), (1, 4)):
        for host in [host for host in site.world.hosts if host.process is not None][:count]:
            site.world.crash(host)
            site.world.run(site.world.now + gap_s)
        site.until(lambda left=left: site.is_whole(left), 5.0)
    site.finish()


@pytest.mark.parametrize("seed", range(3))
def test_three_die_in_a_row_while_repair_goes_on(seed: int) -> None:
    """A second apart: what the first left with two copies has three again when the third dies."""
    site = Site(10, seed=seed)
    for _ in range(2):
        for host in [host for host in site.world.hosts if host.process is not None][:3]:
            site.world.crash(host)
            site.world.run(site.world.now + 1.0)
    site.until(lambda: site.is_whole(4), 5.0)
    site.finish()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hosts", [3, 5])
def test_two_die_at_once_the_coordinator_among_them(hosts: int, seed: int) -> None:
    site = Site(hosts, seed=seed, think_s=0.005)
    first = site.coordinator()
    second = next(host for host in site.world.hosts if host is not first)
    site.world.crash(first)
    site.world.crash(second)
    site.until(lambda: site.is_whole(hosts - 2), 2.0)
    site.world.run(site.world.now + 1.0)
    for host in (first, second):
        site.world.start(host)
    site.until(lambda: site.is_whole(hosts), 5.0)
    site.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_rolling_restart(seed: int) -> None:
    """Each of five leaves, ends, and comes back when all is whole: no key is lost, no request goes unanswered."""
    site = Site(5, seed=seed, think_s=0.005)
    for host in site.world.hosts:
        process = host.process
        assert process is not None
        site.world.give(process, LeaveRequested())
        site.until(lambda host=host: host.process is None, 5.0)
        site.world.run(site.world.now + 0.3)
        site.world.start(host)
        site.until(lambda: site.is_whole(5), 5.0)
    site.finish()


@pytest.mark.parametrize("seed", range(3))
def test_each_is_killed_and_restarted_at_once(seed: int) -> None:
    """Faster than any timeout: the new process has nothing, and its incarnation says so."""
    site = Site(5, seed=seed, think_s=0.005)
    for host in site.world.hosts:
        site.world.crash(host)
        site.world.start(host)
        site.world.run(site.world.now + 0.2)
        site.until(lambda: site.is_whole(5), 5.0)
    site.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_node_stopped_for_a_minute_answers_nothing_stale(seed: int) -> None:
    """`Ledger` and the histories would show it: clients ask it too, its socket is full when it wakes."""
    site = Site(3, seed=seed)
    site.world.pause(site.world.hosts[1], 20.0)
    site.world.run(site.world.now + 20.5)
    site.until(lambda: site.is_whole(3), 5.0)
    for client in site.world.clients:
        client.until = site.world.now
    read_all(site.world)
    check_histories(site.world, 0)
    assert not site.checks.lost
