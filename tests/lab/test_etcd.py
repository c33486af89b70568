"""Nodes on hosts of their own that an etcd coordinates, which runs on the clients' host: out of each other's reach.

Three nodes, a the coordinator.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import Lab, LabNode, Probes, lab
from tests.lab.network import Cable
from tests.lab.test_networks import each, revive, serves_on
from tests.support.etcd import ABSENT, PROGRAM, Member, running

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=ABSENT)
URL, PEER_URL = "http://10.0.0.2:2379", "http://10.0.0.2:2380"  # on the clients' host


@contextmanager
def coordinated(directory: Path) -> Iterator[tuple[Lab, list[LabNode]]]:
    """A lab and its nodes, which are started, in order of seniority."""
    member = Member(directory, "e0", URL, {"e0": PEER_URL}, ())
    with lab(directory, 3, "--coordination", f"etcd:{URL}/lab") as here, running([member]):
        yield here, here.start()


def ways_to_etcd(here: Lab, *nodes: LabNode) -> list[Cable]:
    """Clients are at the same end."""
    return [here.network.cable(here.clients, node.machine) for node in nodes]


def test_a_coordinator_that_reaches_etcd_and_no_other_node(tmp_path: Path, tell: Tell) -> None:
    with coordinated(tmp_path) as (here, (a, b, c)):
        cut = lambda: each(here.cables(a), Cable.cut)  # noqa: E731
        serves_on(here, [b, c], cut, here.network.mend, lambda text: tell("the coordinator reaches etcd alone" + text))


def test_two_of_three_are_killed_at_once(tmp_path: Path, tell: Tell) -> None:
    with coordinated(tmp_path) as (here, (a, b, c)):

        def kill() -> None:
            for node in (a, b):
                node.send_signal(signal.SIGKILL)

        def start() -> None:
            for node in (a, b):
                revive(here, node)

        serves_on(here, [c], kill, start, lambda text: tell("two of three are killed" + text))


def test_a_coordinator_that_does_not_reach_etcd_when_another_is_killed(tmp_path: Path, tell: Tell) -> None:
    with coordinated(tmp_path) as (here, (a, b, c)):
        each(ways_to_etcd(here, a), Cable.cut)
        time.sleep(1.0)
        Probes([b]).served_after(time.monotonic())  # b and c reach a
        kill = lambda: c.send_signal(signal.SIGKILL)  # noqa: E731
        serves_on(here, [b], kill, lambda: revive(here, c), lambda text: tell("the coordinator without etcd" + text))


def test_etcd_out_of_reach_of_all(tmp_path: Path, tell: Tell) -> None:
    """Clients ask from a node's host, as they are with etcd."""
    with coordinated(tmp_path) as (here, nodes):
        epoch = nodes[0].epoch()
        each(ways_to_etcd(here, *nodes), Cable.cut)
        with nodes[1].machine.namespace.entered(), Traffic(here.nodes) as traffic:
            for _ in range(6):
                traffic.go_on(200)
                time.sleep(1.0)
            assert "no answer of the register" in nodes[0].log
            assert {node.epoch() for node in here.nodes} == {epoch}
        traffic.check()
        here.network.mend()
        tell(f"etcd out of reach for 6 s: whole again after {here.await_whole():.2f} s")
