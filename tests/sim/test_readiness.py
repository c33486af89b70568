"""What whole nodes say of themselves while links are blocked and cut: by STATUS, and as kv.py judges it."""

import json
import logging

import pytest

from app.observe import logs
from app.peers import lease_watch, link_watch
from app.peers.link_watch import MISSING_S
from app.wire.protocol import SLOT_COUNT
from tests.sim.clients import ClientOptions
from tests.sim.cluster import Cluster, Options
from tests.sim.process import NodeOptions, Process
from tests.sim.world import Host
from tools.kv.cluster import Survey, faults

QUIET_S = 2.0  # in which a cluster comes to rest


class Site:
    """Three servers and their network, without clients."""

    def __init__(self, seed: int = 1, **node: int) -> None:
        self.cluster = Cluster(seed, Options(3, node=NodeOptions(**node), clients=ClientOptions(clients=0, keys=1)))
        self.hosts = self.cluster.hosts
        self.network = self.cluster.network

    def start(self, *hosts: Host) -> None:
        for host in hosts or self.hosts:
            self.cluster.start(host)

    def run(self, seconds: float) -> None:
        self.cluster.world.run(self.cluster.world.now + seconds)

    def paths(self, *hosts: Host) -> list[tuple[str, str]]:
        """Between each two of these, both ways."""
        return [(one.ip, other.ip) for one in hosts for other in hosts if one is not other]

    def survey(self) -> Survey:
        """As kv.py asks all nodes."""
        return Survey({one.address: json.loads(one.node.status_json()) for one in self.cluster.processes()})

    def faults(self) -> list[str]:
        return faults(self.survey(), 1)

    def process(self, host: Host) -> Process:
        assert host.process is not None
        return host.process


@pytest.fixture(autouse=True)
def _fresh_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many lines are logged in a second of real time, in which the test before may have logged as many."""
    monkeypatch.setattr(link_watch, "_faults", logs.limited_logger("links"))
    monkeypatch.setattr(lease_watch, "_faults", logs.limited_logger("cluster"))


def test_a_whole_cluster_says_so() -> None:
    site = Site()
    site.start()
    site.run(QUIET_S)
    assert site.faults() == []
    answers = site.survey().answers.values()
    assert sum(answer["writes"] for answer in answers) == SLOT_COUNT
    assert {(answer["copies_wanted"], answer["copies_least"]) for answer in answers} == {(3, 3)}


def test_with_tcp_blocked_and_udp_open_nobody_is_ready_and_each_says_what_to_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The nodes hear each other, and found nothing: no copy could be made."""
    site = Site()
    site.network.cut(site.paths(*site.hosts), datagrams=False, streams=True)
    with caplog.at_level(logging.WARNING, "kv"):
        site.start()
        site.run(QUIET_S + MISSING_S)
    answers = site.survey().answers
    assert len(answers) == 3
    for address, answer in answers.items():
        assert not answer["is_member"]
        assert (answer["ready"], answer["whole"], answer["reads"], answer["writes"]) == (False, False, 0, 0)
        others = [host.address for host in site.hosts if host.address != address]
        blamed = [reason for reason in answer["reasons"] if "(UDP passes): check TCP port 3331" in reason]
        assert [reason.partition(": no link")[0] for reason in blamed] == others
    lines = [record.__dict__["fields"] for record in caplog.records if record.msg == "links.missing"]
    assert lines
    assert all("TCP port 3331" in line["check"] for line in lines)
    site.network.mend()
    site.run(4 * QUIET_S)
    assert site.faults() == []


def test_a_server_that_is_absent_counts_where_its_copies_have_no_other_place() -> None:
    site = Site()
    site.start()
    site.run(QUIET_S)
    gone = site.hosts[2]
    site.cluster.crash(gone)
    site.run(QUIET_S)
    missing = f"2 of 3 copies each: 1 server absent ({gone.address})"
    assert site.faults() == [f"{host.address}: {missing}" for host in site.hosts[:2]]
    assert all(answer["ready"] for answer in site.survey().answers.values())
    site.start(gone)
    site.run(QUIET_S)
    assert site.faults() == []


def test_with_fewer_copies_than_servers_one_that_is_absent_is_not_missed() -> None:
    site = Site(replicas=2)
    site.start()
    site.run(QUIET_S)
    site.cluster.crash(site.hosts[2])
    site.run(QUIET_S)
    assert site.faults() == []


def test_who_is_cut_off_says_whom_it_does_not_hear(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.start()
    site.run(QUIET_S)
    coordinator = site.survey().answers[site.hosts[0].address]["coordinator"]
    alone = next(host for host in site.hosts if host.address != coordinator)
    paths = [path for host in site.hosts if host is not alone for path in site.paths(alone, host)]
    with caplog.at_level(logging.WARNING, "kv"):
        site.network.cut(paths, datagrams=True, streams=True)
        site.run(1.5)
    answer = site.survey().answers[alone.address]
    assert (answer["ready"], answer["reads"], answer["writes"]) == (False, 0, 0)
    assert f"no lease: it serves nothing; its coordinator {coordinator} was heard 1." in answer["reasons"][0]
    lost = [record.__dict__["fields"] for record in caplog.records if record.msg == "cluster.lease_lost"]
    assert (lost[0]["coordinator"], lost[0]["silent"]) == (coordinator, coordinator)
