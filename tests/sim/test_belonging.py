"""Servers that are added and removed by commands, and the rules that keep that safe: each is tried without, too."""

import os
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from app.cluster.membership import timing
from app.cluster.membership.belonging import Belonging
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.state import NodeState
from app.wire.protocol import ALL_SLOTS
from tests.sim.checks import Violation
from tests.sim.clients import ClientOptions
from tests.sim.cluster import Cluster, Options
from tests.sim.network import NetworkOptions
from tests.sim.process import NodeOptions
from tests.sim.run import check_histories
from tests.sim.test_scenarios import Site, served
from tests.sim.world import Host

SECRET = b"a secret of sixteen or more"
GROWTH_SERVERS = int(os.environ.get("GROWTH_SERVERS", "9"))


class Growing(Site):
    """Founders on a whole network, with clients at work, and machines for servers that are added."""

    def __init__(
        self, founders: int, others: int, *, seed: int = 1, network: NetworkOptions | None = None, **node: Any
    ) -> None:
        options = Options(
            founders + others,
            listed=founders,
            by_command=True,
            node=NodeOptions(secret=SECRET, **node),
            network=network or NetworkOptions(),
            clients=ClientOptions(clients=6, keys=40, think_s=0.005),
        )
        self.cluster = Cluster(seed, options)
        self.world = self.cluster.world
        self.founders, self.others = self.cluster.hosts[:founders], self.cluster.hosts[founders:]
        self.cluster.administer()
        for host in self.founders:
            self.cluster.start(host)
        for client in self.cluster.clients:
            client.start(0.8, inf)
        self.until(lambda: self.is_whole(founders), 3.0)

    def add(self) -> Host:
        """One more server is to belong, and is started."""
        assert self.cluster.order_server()
        added = self.cluster.belonging[-1]
        self.cluster.start(added)
        return added

    def grow(self) -> None:
        """All come in."""
        for _ in self.others:
            self.add()
        self.until(lambda: self.is_whole(len(self.cluster.hosts)), 8.0)

    def wait(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def heal(self) -> None:
        self.cluster.network.mend()

    def bounce(self, *hosts: Host) -> None:
        for host in hosts:
            self.cluster.crash(host)
        for host in hosts:
            self.cluster.start(host)

    def members(self, host: Host) -> set[str]:
        assert host.process is not None
        view = host.process.core.view
        return set(view.addresses) if view is not None and host.process.core.is_member else set()


@pytest.mark.parametrize("one_machine", [False, True])
def test_from_three_to_twelve_at_once_and_back_one_by_one(one_machine: bool) -> None:
    site = Growing(3, 9, one_machine=one_machine)
    site.grow()
    site.wait(0.5)
    for host in site.others:
        site.cluster.order_removal(host)
        site.until(lambda host=host: host.process is None, 8.0)
    site.until(lambda: site.is_whole(3), 5.0)
    assert all(
        set(process.core.view.servers) == {host.address for host in site.founders}
        for process in site.cluster.processes()
    )
    for client in site.cluster.clients:
        client.servers = [host.number for host in site.founders]
    site.finish()


def shares(site: Growing, since_s: float, until_s: float) -> tuple[float, float]:
    """The 99th of 100 durations of the requests that were begun in that time, and the longest."""
    took = sorted(
        operation.returned - operation.called
        for client in site.cluster.clients
        for operations in client.history.values()
        for operation in operations
        if since_s <= operation.called < until_s
    )
    assert len(took) >= 100
    return took[len(took) * 99 // 100], took[-1]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_clients_wait_while_servers_come_and_go(seed: int) -> None:
    """Processors are never short here: what is left is what the cluster itself has requests wait for.

    Twenty servers in the end, by GROWTH_SERVERS=20, as elsewhere where there is time for that.
    """
    near = NetworkOptions(delay_s=0.00005, jitter_s=0.0001)
    site = Growing(3, GROWTH_SERVERS - 3, seed=seed, network=near, lag_s=0.0001)
    for client in site.cluster.clients:
        client.servers = [host.number for host in site.founders]
    site.wait(1.0)
    spans = {}

    def phase(what: str, act: Callable[[], object]) -> None:
        began = site.world.now
        act()
        spans[what] = shares(site, began, site.world.now)

    def remove() -> None:
        for host in site.others:
            site.cluster.order_removal(host)
            site.until(lambda host=host: host.process is None, 8.0)
            site.until(lambda: site.is_whole(len(site.cluster.processes())), 8.0)

    def add() -> None:
        for count, _ in enumerate(site.others, 4):
            site.add()
            site.until(lambda count=count: site.is_whole(count), 8.0)

    phase("before", lambda: site.wait(1.0))
    phase("all join at once", site.grow)
    phase("one by one they are removed", remove)
    phase("one by one they join", add)
    print(spans)
    before_s, _ = spans["before"]
    assert all(p99_s <= 1.2 * before_s and most_s <= 2.5 * before_s for p99_s, most_s in spans.values())
    site.finish()


def test_founders_may_go_as_long_as_half_of_them_stay() -> None:
    site = Growing(3, 3)
    site.grow()
    gone = site.founders[0]
    site.cluster.order_removal(gone)
    site.until(lambda: gone.process is None and site.is_whole(5), 8.0)
    refused = site.founders[1]
    site.cluster.order_removal(refused)
    site.wait(3.0)
    assert site.is_whole(5), "it is declined"
    site.cluster.belonging.append(refused)
    gone.stays_down = False
    site.cluster.start(gone)  # by its old file, which names it
    site.wait(4.0)
    assert site.members(gone) == set()
    site.cluster.crash(gone)
    site.finish()


def parted_founders() -> None:
    """Two of three founders are restarted where nobody hears them but each other, and found anew."""
    site = Growing(3, 4)
    site.grow()
    few = site.founders[:2]
    rest = [host for host in site.cluster.hosts if host not in few]
    site.part(few, rest)
    site.bounce(*few)
    site.wait(timing.FOUND_WAIT_S + 3.0)
    assert site.members(few[0]) == {host.address for host in few}
    site.cluster.dispose()


def test_no_cluster_is_founded_beside_one_that_goes_on() -> None:
    """Four servers that were added and one founder are a majority of the members, and don't go on."""
    parted_founders()


def test_without_half_of_the_founders_there_would_be_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeState, "counted", lambda self, nodes: len(nodes))
    monkeypatch.setattr(NodeState, "founders", lambda self: ())
    with pytest.raises(Violation, match="are served by"):
        parted_founders()


def restarted_founders(parts: bool) -> None:
    """All founders are restarted at one moment; those that were added live, and hear them or not."""
    site = Growing(3, 4, one_machine=True, replicas=4)
    site.grow()
    if parts:
        site.part(site.founders, site.others)
    site.bounce(*site.founders)
    site.wait(3.0)
    if parts:
        assert site.members(site.founders[0]) == {host.address for host in site.founders}
    site.heal()
    site.until(lambda: site.is_whole(7), 10.0)
    if not parts:
        site.finish()


def test_founders_that_are_all_restarted_find_their_cluster() -> None:
    restarted_founders(parts=False)


def test_if_they_do_not_hear_it_they_serve_when_its_leases_are_over() -> None:
    restarted_founders(parts=True)


def test_if_they_did_not_wait_both_would_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.2)
    monkeypatch.setattr(NodeState, "is_bound", False)
    monkeypatch.setattr(Bootstrap, "bound_until", lambda self, ends: -inf)
    with pytest.raises(Violation, match="are served by"):
        restarted_founders(parts=True)


def test_nor_does_the_successor_of_a_founder_that_ends_at_once() -> None:
    """The founder would have waited until no lease rests on those who have just gone; whoever takes its place does."""
    site = Growing(4, 3, one_machine=True, replicas=4)
    site.grow()
    for host in site.founders:  # so that one of the others coordinates
        site.bounce(host)
        site.until(lambda: site.is_whole(7), 10.0)
    site.wait(1.0)
    founder, successor, *gone = site.founders
    site.part([founder, successor], site.others)
    pairs = [(one.ip, other.ip) for one in (founder, successor) for other in gone]
    site.cluster.network.cut([path for pair in pairs for path in (pair, pair[::-1])], datagrams=True, streams=False)
    site.bounce(founder, successor)
    site.wait(0.5)
    for host in gone:  # which have supported the others' coordinator until now
        site.cluster.crash(host)
    site.until(lambda: len(site.members(successor)) == 2, 0.3)
    site.cluster.crash(founder)
    site.until(lambda: served([successor], site.world.now) == ALL_SLOTS, timing.LAPSE_S + 0.2)


def a_server_that_one_founder_does_not_know() -> None:
    """A founder is cut off, a server is added; the other founders are restarted where they hear only the first one."""
    site = Growing(3, 1)
    cut_off, others = site.founders[2], site.founders[:2]
    site.part([cut_off], [*others, *site.others])
    site.until(lambda: len(site.members(others[0])) == 2, 3.0)
    added = site.add()
    site.wait(3.0)
    if added.address not in site.members(others[0]):
        assert added.process is not None
        site.heal()
        site.until(lambda: site.is_whole(4), 8.0)
        site.finish()
        return
    site.until(lambda: added.process.core.view.is_balanced(), 5.0)
    site.wait(1.0)
    site.heal()
    site.part([added], site.founders)
    site.bounce(*others)
    site.wait(4.0)
    site.heal()
    site.until(lambda: site.is_whole(4), 15.0)
    check_histories(site.cluster)


def test_whoever_is_added_waits_until_all_know_it() -> None:
    a_server_that_one_founder_does_not_know()


def test_if_it_did_not_acknowledged_writes_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Belonging, "_unaware_of", lambda self, server: [])
    with pytest.raises(Violation):
        a_server_that_one_founder_does_not_know()
