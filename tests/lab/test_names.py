"""Servers that are written as names, on hosts whose addresses change: as pods and cloud machines are."""

import time
from pathlib import Path

import pytest

from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import Probes, lab


@pytest.mark.parametrize("options", [(), ("--allow", "10.0.0.0/24")])
def test_each_in_turn_comes_back_with_another_address(tmp_path: Path, tell: Tell, options: tuple[str, ...]) -> None:
    """Without a secret, so that trust goes by the addresses. What its name stands for the others learn a second late.

    Nothing that was acknowledged is lost, and all slots are served meanwhile. With --allow the nodes answer the host of
    the clients and each other alone.
    """
    with lab(tmp_path, 3, *options, are_named=True) as here:
        for node in here.nodes:
            node.knows(*here.nodes)
        here.start()
        with Traffic(here.nodes) as traffic:
            for node in here.nodes:
                others = [other for other in here.nodes if other is not node]
                traffic.go_on(100)
                node.kill()
                node.move()
                node.knows(*here.nodes)
                node.start()
                Probes(others).served_after(time.monotonic())
                time.sleep(1.0)  # the names are told late: meanwhile it is nobody that the others know
                for other in others:
                    other.knows(*here.nodes)
                told = time.monotonic()
                here.await_whole()
                tell(f"{node.name} is back with another address {time.monotonic() - told:.2f} s after its name")
            traffic.go_on(100)
        traffic.check()
        found = {node.name: node.log.count("links.address") for node in here.nodes}
        assert set(found.values()) == {2}, found


def test_a_name_that_stands_for_nothing_yet_is_that_of_a_server_which_is_not_there(tmp_path: Path) -> None:
    """Two of three start without it, one of them without its own name as well; it joins once it has an address."""
    with lab(tmp_path, 3, are_named=True) as here:
        a, b, c = here.nodes
        a.knows(a, b)
        b.knows(a)
        b.options = ("--advertise", b.name)
        for node in (a, b):
            node.start()
        here.await_whole([a, b])
        assert "links.unresolved" in a.log
        for node in here.nodes:
            node.knows(a, b, c)
        c.start()
        here.await_whole()
