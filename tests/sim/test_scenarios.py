"""What operators do, and what befalls them, with data and clients: nothing acknowledged may be missing afterwards."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from app.cluster.events import FoundRequested
from app.storage.store import slot_of
from app.wire.protocol import ALL_SLOTS, PUT
from tests.sim.clients import Client, ClientOptions
from tests.sim.cluster import Cluster, Options
from tests.sim.process import NodeOptions
from tests.sim.run import check_histories, converge, read_all
from tests.sim.world import Host

APART_S = 6.0  # for which sides are parted: longer than anybody waits for anything


class Site:
    """A cluster on a whole network, with clients at work."""

    def __init__(self, hosts: int, *, seed: int = 1, keys: int = 40, clients: int = 8, **node: Any) -> None:
        options = Options(
            hosts, node=NodeOptions(**node), clients=ClientOptions(clients=clients, keys=keys, think_s=0.005)
        )
        self.cluster = Cluster(seed, options)
        self.world = self.cluster.world
        for host in self.cluster.hosts:
            self.cluster.start(host)
        for client in self.cluster.clients:
            client.start(0.5, inf)
        self.until(lambda: self.is_whole(hosts), 3.0)
        self.world.run(self.world.now + 0.5)

    def until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Run until the condition holds; how long that took."""
        began = self.world.now
        while not condition():
            assert self.world.now - began < limit_s, f"not within {limit_s} s\n{self.world.story(60)}"
            self.world.run(self.world.now + 0.01)
        return self.world.now - began

    def is_whole(self, members: int) -> bool:
        """Whether all who run are members of one view, and every slot has all its copies where they belong."""
        processes = self.cluster.processes()
        return len(processes) == members and not self.cluster.checks.is_converged(processes)

    def coordinator(self) -> Host:
        return self.cluster.by_address[self.cluster.processes()[0].core.view.coordinator]

    def up(self) -> list[Host]:
        return [host for host in self.cluster.hosts if host.process is not None]

    def part(self, left: list[Host], right: list[Host]) -> None:
        paths = [path for one in left for other in right for path in ((one.ip, other.ip), (other.ip, one.ip))]
        self.cluster.network.cut(paths, datagrams=True, streams=True)

    def finish(self) -> None:
        """Every key is read in all quiet; no slot was lost, every history holds, all copies are the same."""
        cluster = self.cluster
        read_all(cluster)
        self.until(lambda: not cluster.checks.differs(), 1.0)
        assert not cluster.checks.lost
        # A client may have tried none but dead servers, where some are.
        assert not cluster.counts["unanswered"] or len(cluster.processes()) < len(cluster.hosts)
        check_histories(cluster)
        assert cluster.counts["keys checked"] == len(cluster.keys)
        assert cluster.counts["PUT 0"] > 50
        assert cluster.counts["GET 0"] > 50
        cluster.dispose()


@pytest.mark.parametrize("gap_s", [0.0, 0.5])
def test_rolling_crashes(gap_s: float) -> None:
    """Of ten nodes six die, at most two between repairs (three copies bear no more), and all keys are still there."""
    site = Site(10, one_machine=True)
    for count, left in ((2, 8), (1, 7), (2, 5), (1, 4)):
        for host in site.up()[:count]:
            site.cluster.crash(host)
            site.world.run(site.world.now + gap_s)
        site.until(lambda left=left: site.is_whole(left), 5.0)
    site.finish()


def test_three_die_in_a_row_while_repair_goes_on() -> None:
    """A second apart: what the first left with two copies has three again when the third dies."""
    site = Site(7, one_machine=True)
    for host in site.up()[:3]:
        site.cluster.crash(host)
        site.world.run(site.world.now + 1.0)
    site.until(lambda: site.is_whole(4), 5.0)
    site.finish()


@pytest.mark.parametrize("hosts", [3, 5])
def test_two_die_at_once_the_coordinator_among_them(hosts: int) -> None:
    site = Site(hosts, one_machine=True)
    first = site.coordinator()
    second = next(host for host in site.cluster.hosts if host is not first)
    site.cluster.crash(first)
    site.cluster.crash(second)
    site.until(lambda: site.is_whole(hosts - 2), 2.0)
    site.world.run(site.world.now + 0.5)
    for host in (first, second):
        site.cluster.start(host)
    site.until(lambda: site.is_whole(hosts), 5.0)
    site.finish()


@pytest.mark.parametrize("one_machine", [True, False])
def test_a_rolling_restart(one_machine: bool) -> None:
    """Each of four leaves, ends, and comes back when all is whole: no key is lost, no request goes unanswered."""
    site = Site(4, clients=4, one_machine=one_machine)
    for host in site.cluster.hosts:
        site.cluster.leave(host)
        site.until(lambda host=host: host.process is None, 5.0)
        site.world.run(site.world.now + 0.3)
        site.cluster.start(host)
        site.until(lambda: site.is_whole(4), 5.0)
    site.finish()


@pytest.mark.parametrize("one_machine", [True, False])
def test_each_is_killed_and_restarted_at_once(one_machine: bool) -> None:
    """Faster than any timeout: the new process has nothing, and its incarnation says so."""
    site = Site(4, clients=4, one_machine=one_machine)
    for host in site.cluster.hosts:
        site.cluster.crash(host)
        site.cluster.start(host)
        site.world.run(site.world.now + 0.2)
        site.until(lambda: site.is_whole(4), 5.0)
    site.finish()


def test_a_node_stopped_for_long_answers_nothing_stale() -> None:
    """The ledger and the histories would show it: clients ask it too, its socket is full when it wakes."""
    site = Site(3, clients=4)
    site.cluster.pause(site.cluster.hosts[1], 10.0)
    site.world.run(site.world.now + 10.5)
    site.until(lambda: site.is_whole(3), 5.0)
    read_all(site.cluster)
    check_histories(site.cluster)
    assert not site.cluster.checks.lost


def test_requests_go_round_a_bad_cable() -> None:
    """Two members do not reach each other: what either has from its clients for the other goes by way of a third."""
    site = Site(4, replicas=1)
    coordinator = site.coordinator()
    one, other = [host for host in site.cluster.hosts if host is not coordinator][:2]
    site.part([one], [other])
    for client in site.cluster.clients:
        client.servers = [one.number, other.number]
        client.is_served_from = site.world.now + 0.1
    site.world.run(site.world.now + 6.0)
    assert sum(process.node.forwarding.forwarded for process in (one.process, other.process) if process) > 100
    site.finish()


def test_the_smaller_side_refuses() -> None:
    site = Site(5, clients=0)
    smaller, larger = site.cluster.hosts[:2], site.cluster.hosts[2:]
    site.part(smaller, larger)
    site.world.run(site.world.now + APART_S)
    assert served(larger, site.world.now) == ALL_SLOTS
    assert not served(smaller, site.world.now)
    site.cluster.network.mend()
    converge(site.cluster)


def served(hosts: list[Host], now: float) -> int:
    """The slots that these may answer for."""
    mask = 0
    for host in hosts:
        assert host.process is not None
        if host.clock.local(now) < host.process.core.lease_until:
            mask |= host.process.core.served
    return mask


def put_all(site: Site, hosts: list[Host]) -> dict[bytes, str]:
    """Write every key by way of these hosts; what was acknowledged."""
    cluster = site.cluster
    writer = Client(cluster, 90 + len(cluster.clients))
    cluster.clients.append(writer)
    writer.servers = [host.number for host in hosts]
    written: dict[bytes, str] = {}
    for key in cluster.keys:
        writer.ask(PUT, key)
        call = writer.current
        assert call is not None
        site.until(lambda: writer.current is None, 8.0)
        if writer.history[key][-1].result is not None:
            written[key] = call.value
    return written


def test_one_that_hears_nothing_never_goes_on_alone() -> None:
    """Of four on one machine each but one is restarted, one after the other: all peers are proven dead to the one that
    gets no datagrams. What they have acknowledged without it is not for it to undo, however long it waits."""
    site = Site(4, clients=0, keys=10, one_machine=True)
    cluster = site.cluster
    cut_off, others = cluster.hosts[3], cluster.hosts[:3]
    paths = [path for host in others for path in ((cut_off.ip, host.ip), (host.ip, cut_off.ip))]
    cluster.network.cut(paths, datagrams=True, streams=False)

    def is_whole() -> bool:
        return not cluster.checks.is_converged([host.process for host in others if host.process is not None])

    for host in others:
        site.until(is_whole, 5.0)
        cluster.crash(host)
        site.world.run(site.world.now + 1.0)
        cluster.start(host)
    site.until(is_whole, 5.0)
    kept = put_all(site, others)
    assert len(kept) == len(cluster.keys)
    site.world.run(site.world.now + 45.0)
    assert not served([cut_off], site.world.now)
    cluster.network.mend()
    converge(cluster)
    assert holds(site, kept)


def holds(site: Site, written: dict[bytes, str]) -> bool:
    """Whether every copy of these keys has what was written, and there is one at least."""
    for key, value in written.items():
        blobs = [process.node.store.peek(slot_of(key), key) for process in site.cluster.processes()]
        if not any(blobs) or any(blob is not None and value.encode() not in blob for blob in blobs):
            return False
    return True


def test_an_operator_has_the_last_one_go_on() -> None:
    """Two of three lose their power and are gone for long. The third has all that was acknowledged, and closes its
    slots until it is told to go on; the others join it empty, although they are more."""
    site = Site(3, clients=0, keys=10)
    cluster = site.cluster
    written = put_all(site, cluster.hosts)
    last, gone = cluster.hosts[2], cluster.hosts[:2]
    for host in gone:
        cluster.crash(host, power=True)
    site.world.run(site.world.now + APART_S)
    assert last.process is not None
    assert not served([last], site.world.now)
    last.process.node.membership.take(FoundRequested())
    site.world.run(site.world.now + 1.0)
    assert served([last], site.world.now) == ALL_SLOTS
    written |= put_all(site, [last])
    assert len(written) == len(cluster.keys)
    for host in gone:
        cluster.start(host)
    site.until(lambda: site.is_whole(3), 5.0)
    assert holds(site, written)


def test_more_load_than_can_be_borne_costs_nobody_its_place() -> None:
    """Each machine is asked sixty times as much as it can answer, for ten seconds: all stay in their view."""
    node = NodeOptions(batch_size=8, turn_s=0.02)
    cluster = Cluster(1, Options(3, node=node, clients=ClientOptions(clients=0, load_s=0.002, load_burst=200)))
    for host in cluster.hosts:
        cluster.start(host)
    converge(cluster)
    epoch = cluster.processes()[0].core.epoch
    assert cluster.load is not None
    cluster.load.start(inf)
    cluster.world.run(cluster.world.now + 10.0)
    assert not cluster.checks.is_converged()
    assert [process.core.epoch for process in cluster.processes()] == [epoch] * 3
    assert all(process.node.counters.drops["shed"] for process in cluster.processes())
    cluster.dispose()
