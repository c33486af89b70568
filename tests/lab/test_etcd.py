"""Nodes on hosts of their own that an etcd coordinates, which runs on the clients' host: out of each other's reach.

Three nodes, a the coordinator.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.cluster.membership.timing import YIELD_S
from tests.integration.http_nodes import fetch
from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import SERVED_S, Lab, LabNode, Probes, lab
from tests.lab.network import Cable
from tests.lab.test_networks import each, revive, serves_on
from tests.support.etcd import ABSENT, PROGRAM, Member, running
from tests.support.polling import poll

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=ABSENT)
URL, PEER_URL = "http://10.0.0.2:2379", "http://10.0.0.2:2380"  # on the clients' host


# How long etcd is down or out of reach while all members live (s). As long as one likes: LAB_ETCD_DOWN_S=60.
DOWN_S = float(os.environ.get("LAB_ETCD_DOWN_S", "6"))


@contextmanager
def with_etcd(directory: Path) -> Iterator[tuple[Lab, list[LabNode], Member]]:
    """A lab, its nodes, which are started, in order of seniority, and the etcd."""
    member = Member(directory, "e0", URL, {"e0": PEER_URL}, ())
    with lab(directory, 3, "--coordination", f"etcd:{URL}/lab") as here, running([member]):
        yield here, here.start(), member


@contextmanager
def coordinated(directory: Path) -> Iterator[tuple[Lab, list[LabNode]]]:
    """The same, for whom the etcd does not matter."""
    with with_etcd(directory) as (here, nodes, _):
        yield here, nodes


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

        # One of three first gives two others the time to go on without it.
        said = lambda text: tell("two of three are killed" + text)  # noqa: E731
        serves_on(here, [c], kill, start, said, YIELD_S + SERVED_S)


def test_a_coordinator_that_does_not_reach_etcd_when_another_is_killed(tmp_path: Path, tell: Tell) -> None:
    with coordinated(tmp_path) as (here, (a, b, c)):
        each(ways_to_etcd(here, a), Cable.cut)
        time.sleep(1.0)
        Probes([b]).served_after(time.monotonic())  # b and c reach a
        kill = lambda: c.send_signal(signal.SIGKILL)  # noqa: E731
        serves_on(here, [b], kill, lambda: revive(here, c), lambda text: tell("the coordinator without etcd" + text))


def says_why(node: LabNode) -> bool:
    """Whether it says that no view can be made."""
    return any("no view can be made now; the register: http" in line for line in node.status()["lacking"])


@pytest.mark.parametrize("is_killed", [True, False])
def test_etcd_down_or_out_of_reach_of_all(tmp_path: Path, tell: Tell, is_killed: bool) -> None:
    """They serve on with the view that they have, and make another one as soon as etcd is back. Clients ask from a
    node's host, as they are with etcd."""
    with with_etcd(tmp_path) as (here, nodes, member):
        epoch = nodes[0].epoch()
        with nodes[1].machine.namespace.entered(), Traffic(here.nodes) as traffic:
            if is_killed:
                member.kill()
            else:
                each(ways_to_etcd(here, *nodes), Cable.cut)
            until = time.monotonic() + DOWN_S
            poll(lambda: says_why(nodes[0]), complaint="its coordinator says so")
            while time.monotonic() < until:
                traffic.go_on(200)
                assert all(node.is_ready() for node in nodes)
                assert says_why(nodes[0])
                time.sleep(min(1.0, max(0.0, until - time.monotonic())))
            assert {node.epoch() for node in here.nodes} == {epoch}
            refused, slowest = traffic.counts["refused"], _slowest_write(traffic)
        traffic.check()
        if is_killed:
            member.start()
            poll(member.is_up, complaint="etcd is up")
        else:
            here.network.mend()
        back_s = poll(lambda: not says_why(nodes[0]), complaint="the coordinator reaches it")
        *others, victim = nodes
        victim.send_signal(signal.SIGKILL)
        served_s = Probes(others).served_after(time.monotonic())
        how = "killed" if is_killed else "out of reach"
        tell(
            f"etcd {how} for {DOWN_S:g} s, {traffic.counts['requests']} requests: {refused} were refused, the slowest"
            f" write took {slowest:.2f} s; {back_s:.2f} s after it was back the coordinator reached it; killed then,"
            f" a member was out, and all was served, after {served_s:.2f} s"
        )


def _slowest_write(traffic: Traffic) -> float:
    return max(returned - called for called, returned, _ in traffic.acknowledged)


def test_etcd_down_and_a_member_as_well(tmp_path: Path, tell: Tell) -> None:
    """Nobody serves, /ready says why, and they go on once etcd is back."""
    with with_etcd(tmp_path) as (here, (a, b, c), member):
        member.kill()
        c.send_signal(signal.SIGKILL)
        for node in (a, b):
            poll(lambda node=node: not node.is_ready(), complaint="it is not ready")
            poll(lambda node=node: b"the register: http" in fetch(node, "/ready")[1], complaint="/ready says why")
        assert not Probes([a, b]).served_within(1.0)
        member.start()
        poll(member.is_up, complaint="etcd is up")
        served_s = Probes([a, b]).served_after(time.monotonic())
        tell(f"etcd down and a member killed: all was served {served_s:.2f} s after etcd was back")
        revive(here, c)
        here.await_whole()
