"""What networks and machines do, and that the cluster serves on: docs/networks.md, row by row.

Three nodes, a the coordinator; what happens, happens to c, or to the cable between b and c. Clients work meanwhile.
"""

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app.client import Client
from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import SERVED_S, Lab, LabNode, Probes, lab
from tests.lab.network import Cable

LASTS_S = 2.5  # long enough for all that is silent to be noticed
ON_A_CABLE: dict[str, Callable[[Cable, LabNode], object]] = {
    "one bad cable": lambda cable, b: cable.cut(),
    "TCP is blocked": lambda cable, b: cable.cut("tcp"),
    "UDP is blocked": lambda cable, b: cable.cut("udp"),
    "one way is lost": lambda cable, b: cable.cut(source=b.machine),
    "one way of TCP is lost": lambda cable, b: cable.cut("tcp", source=b.machine),
    "one way of UDP is lost": lambda cable, b: cable.cut("udp", source=b.machine),
    "a dead flow": lambda cable, b: cable.forget_flows(),
    "a flow is reset": lambda cable, b: cable.forget_flows(reset=True),
}
ON_A_NODE: dict[str, Callable[[Lab, LabNode], object]] = {
    "kill -9": lambda here, c: c.send_signal(signal.SIGKILL),
    "a node stands still": lambda here, c: c.pause(),
    "a node is cut off": lambda here, c: each(here.cables(c), Cable.cut),
    "a firewall rejects": lambda here, c: each(here.cables(c), Cable.reject),
    "all that a node says stalls": lambda here, c: each(here.cables(c), Cable.stall),
    "a node without TCP": lambda here, c: each(here.cables(c), lambda cable: cable.cut("tcp")),
}


def each(cables: list[Cable], fault: Callable[[Cable], object]) -> None:
    for cable in cables:
        fault(cable)


def cases(table: Mapping[str, Callable[..., object]]) -> pytest.MarkDecorator:
    """Those of the table, by their names."""
    return pytest.mark.parametrize(
        ("name", "fault"),
        [pytest.param(name, fault, id=name.replace(" ", "_")) for name, fault in table.items()],
    )


@cases(ON_A_CABLE)
def test_a_cable(tmp_path: Path, tell: Tell, name: str, fault: Callable[[Cable, LabNode], object]) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        serves_on(
            here, here.nodes, lambda: fault(here.cable(b, c), b), here.network.mend, lambda text: tell(name + text)
        )


@cases(ON_A_NODE)
def test_a_node(tmp_path: Path, tell: Tell, name: str, fault: Callable[[Lab, LabNode], object]) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        serves_on(here, [a, b], lambda: fault(here, c), lambda: revive(here, c), lambda text: tell(name + text))


def test_the_coordinator_is_cut_off(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        cut = lambda: each(here.cables(a), Cable.cut)  # noqa: E731
        serves_on(here, [b, c], cut, here.network.mend, lambda text: tell("the coordinator is cut off" + text))


def serves_on(
    here: Lab,
    asked: list[LabNode],
    fault: Callable[[], object],
    mend: Callable[[], object],
    tell: Tell,
    within_s: float = SERVED_S,
) -> None:
    """All slots are served again soon after the fault, and while it lasts; soon after its end all are one cluster;
    what clients saw in all that time is linearizable."""
    with Traffic(here.nodes) as traffic:
        traffic.go_on(300)
        began = time.monotonic()
        fault()
        served_s = Probes(asked).served_after(began, within_s)
        time.sleep(max(0.0, began + LASTS_S - time.monotonic()))
        Probes(asked).served_after(time.monotonic())
        mend()
        whole_s = here.await_whole()
        traffic.go_on(300)
    traffic.check()
    tell(f": all slots served after {served_s:.2f} s; mended, one whole cluster after {whole_s:.2f} s")


def revive(here: Lab, node: LabNode) -> None:
    """Whatever was done to it is over."""
    each(here.cables(node), Cable.resume)  # before they are mended: what waits arrives, late
    time.sleep(0.1)
    here.network.mend()
    if node.process.poll() is None:
        node.resume()
    else:
        node.start()


# Long, lossy and narrow ways.


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


def test_values_on_a_narrow_network(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        here.network.narrow(1400)
        here.start()
        with Client([node.name for node in here.nodes]) as client:
            for size in (1300, 1400, 5000, 10_000):
                client.put(b"key", bytes(size))
                assert len(client.get(b"key").value) == size
