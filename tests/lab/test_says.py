"""What nodes say about what serves: /ready, STATUS, kv.py and the log must be true, whatever the network does."""

import json
from pathlib import Path

import pytest

from tests.integration.http_nodes import fetch
from tests.lab.lab import LabNode, Probes, lab
from tests.support.polling import poll

# A fault is told of within so long on an idle machine; see lab.SERVED_S.
TOLD_S = 5.0


def copies_missing(node: LabNode) -> tuple[int, int]:
    """By STATUS, and by the status page."""
    page = json.loads(fetch(node, "/status.json")[1])
    return node.status()["copies_missing"], page["cluster"]["copies_missing"]


def complaints(node: LabNode, about: str) -> list[str]:
    """What its log warns of and names this."""
    return [line for line in node.log.splitlines() if (" WARNING " in line or " ERROR " in line) and about in line]


def test_a_single_node_is_whole(tmp_path: Path) -> None:
    with lab(tmp_path, 1) as here:
        (node,) = here.start()
        assert copies_missing(node) == (0, 0)
        assert here.kv("-s", node.name, "wait-ready").returncode == 0


def test_an_absent_server_is_missed(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        c.kill()
        here.await_whole((a, b))
        assert copies_missing(a) == (256, 256)
        assert copies_missing(b) == (256, 256)
        assert "absent" in here.kv("-s", a.name, "status", "-v").stdout
        assert here.kv("-s", a.name, "wait-ready", "--timeout", "0").returncode == 4


def test_a_node_that_is_cut_off_says_so(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        for cable in here.cables(c):
            cable.cut()
        poll(lambda: not c.is_ready(), TOLD_S)
        assert not Probes([c]).served_within(1.0)
        poll(lambda: complaints(c, a.name) and complaints(c, b.name) and complaints(a, c.name), TOLD_S)
        assert here.kv("-s", c.name, "wait-ready", "--timeout", "0", "--given-only").returncode == 4


@pytest.mark.parametrize("only", ["", "tcp"], ids=["all", "tcp"])
def test_a_cable_that_is_cut_is_told_of(tmp_path: Path, only: str) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        here.cable(b, c).cut(only)  # type: ignore[arg-type]
        poll(lambda: complaints(b, c.name) and complaints(c, b.name), TOLD_S)


def test_a_refusal_by_a_living_peer_is_told_of(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        here.cable(b, c).refuse()
        here.cable(b, c).forget_flows(reset=True)
        Probes(here.nodes).served_within(1.0)  # so that there is something on the way
        poll(lambda: complaints(b, c.name) or complaints(c, b.name), TOLD_S)
