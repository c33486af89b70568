"""What networks and machines do, and what the cluster makes of it: docs/networks.md, row by row."""

import signal
import time
from pathlib import Path

import pytest

from app.client import Client
from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell, broken
from tests.lab.lab import Lab, Probes, lab
from tests.support.polling import poll


def ends_whole(here: Lab, tell: Tell, what: str) -> None:
    """Mend everything; all are one whole cluster soon."""
    here.network.mend()
    tell(f"{what}: mended, one whole cluster after {here.await_whole():.2f} s")


# A node that is gone.


def test_kill_9_over_a_network(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        with Traffic([a, b]) as traffic:
            traffic.go_on(300)
            c.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            tell(f"kill -9: all slots served after {Probes((a, b)).served_after(killed):.2f} s")
            traffic.go_on(300)
        traffic.check()


@pytest.mark.parametrize("number", [0, 2], ids=["the coordinator", "a member"])
def test_a_node_is_cut_off(tmp_path: Path, tell: Tell, number: int) -> None:
    """Clients reach it still: it says that it is not ready, acknowledges nothing, and its log says whom it lacks."""
    with lab(tmp_path, 3) as here:
        nodes = here.start()
        lost = nodes.pop(number)
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            for cable in here.cables(lost):
                cable.cut()
            cut = time.monotonic()
            tell(f"a node is cut off: all slots served after {Probes(nodes).served_after(cut):.2f} s")
            poll(lambda: not lost.is_ready(), 5.0)
            assert not Probes([lost]).served_within(1.0)
            assert all(node.is_ready() for node in nodes)
            ends_whole(here, tell, "a node is cut off")
            traffic.go_on(300)
        traffic.check()


def test_a_node_is_paused_for_longer_than_its_lease(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            c.pause()
            paused = time.monotonic()
            tell(f"a node stands still: all slots served after {Probes((a, b)).served_after(paused):.2f} s")
            c.resume()
            ends_whole(here, tell, "a node stands still")
            traffic.go_on(300)
        traffic.check()


# A cable that is not whole.


ONE_WAY = broken("every slot with a reachable holder is served: streams in one direction only are no link")


@pytest.mark.parametrize(
    "only", [pytest.param("", marks=ONE_WAY), pytest.param("tcp", marks=ONE_WAY), "udp"], ids=["all", "tcp", "udp"]
)
def test_a_cable_loses_what_goes_one_way(tmp_path: Path, tell: Tell, only: str) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            here.cable(b, c).cut(only, source=b.machine)  # type: ignore[arg-type]
            cut = time.monotonic()
            took_s = Probes(here.nodes).served_after(cut)
            tell(f"one-way loss of {only or 'everything'}: all slots served after {took_s:.2f} s")
            ends_whole(here, tell, f"one-way loss of {only or 'everything'}")
            traffic.go_on(300)
        traffic.check()


def test_a_flow_is_reset(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            here.cable(b, c).forget_flows(reset=True)
            reset = time.monotonic()
            tell(f"a flow is reset: all slots served after {Probes(here.nodes).served_after(reset):.2f} s")
            traffic.go_on(300)
        traffic.check()


def test_a_firewall_rejects(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        with Traffic([a, b]) as traffic:
            traffic.go_on(300)
            for cable in here.cables(c):
                cable.reject()
            rejected = time.monotonic()
            tell(
                f"a firewall rejects one of three: all slots served after {Probes((a, b)).served_after(rejected):.2f} s"
            )
            ends_whole(here, tell, "a firewall rejects")
            traffic.go_on(300)
        traffic.check()


def test_everything_stalls_and_resumes(tmp_path: Path, tell: Tell) -> None:
    """Nothing is lost on the way: what was sent arrives 3 s late, all at once."""
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        for cable in here.cables(c):
            cable.degrade()
        here.await_whole()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            for cable in here.cables(c):
                cable.stall()
            stalled = time.monotonic()
            tell(f"one of three stalls: all slots served after {Probes((a, b)).served_after(stalled):.2f} s")
            time.sleep(1.0)
            for cable in here.cables(c):
                cable.resume()
            tell(f"one of three stalls: resumed, one whole cluster after {here.await_whole():.2f} s")
            traffic.go_on(300)
        traffic.check()


# Ways that are long, lossy or narrow.


def test_a_slow_and_lossy_network_parts_nobody(tmp_path: Path, tell: Tell) -> None:
    """20 ms each way, 1 % lost, out of order, some twice."""
    with lab(tmp_path, 3) as here:
        for number, cable in enumerate(here.cables()):
            cable.degrade(delay_s=0.02, jitter_s=0.002, loss=0.01, duplicates=0.01, seed=number)
        here.start()
        epochs = [node.epoch() for node in here.nodes]
        with Traffic(here.nodes) as traffic:
            began = time.monotonic()
            traffic.go_on(500)
            tell(f"20 ms, 1 % lost: {500 / (time.monotonic() - began):.0f} operations a second of 16 clients")
            time.sleep(3.0)
        traffic.check()
        assert [node.epoch() for node in here.nodes] == epochs


def test_views_on_a_narrow_network(tmp_path: Path, tell: Tell) -> None:
    """1400 bytes, and nobody is told what does not pass, as in many a tunnel."""
    with lab(tmp_path, 5) as here:
        here.network.narrow(1400)
        began = time.monotonic()
        here.start()
        tell(f"1400 bytes, without ICMP: five nodes whole after {time.monotonic() - began:.2f} s")


@broken("size does not matter on the way: datagrams from the client and to it may not be cut up")
def test_values_on_a_narrow_network(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        here.network.narrow(1400)
        here.start()
        with Client([node.name for node in here.nodes]) as client:
            for size in (1300, 1400, 5000, 10_000):
                client.put(b"key", bytes(size))
                assert len(client.get(b"key").value) == size
