"""A cluster that grows, moves and shrinks under load: three servers, five, three, of which one changes its address."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import LabNode, lab
from tests.support.polling import DEADLINE_S, poll


def reread(nodes: Sequence[LabNode]) -> None:
    """Each reads its servers file again."""
    before = {node.name: node.log.count("node.reloaded") for node in nodes}
    for node in nodes:
        node.send_signal(signal.SIGHUP)
    poll(
        lambda: all(node.log.count("node.reloaded") > before[node.name] for node in nodes),
        DEADLINE_S,
        lambda: [node.log for node in nodes],
    )


def test_three_five_three_and_one_that_moves(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 5, "--file-rules", "yes", are_named=True) as here:
        three, more = here.nodes[:3], here.nodes[3:]
        for node in here.nodes:
            node.knows(*here.nodes)
        here.list_servers(*three)
        here.start(*three)
        with Traffic(three) as traffic:
            traffic.go_on(200)
            here.list_servers(*here.nodes)
            reread(three)
            began = time.monotonic()
            for node in more:
                node.start()
            here.await_whole()
            tell(f"three have become five in {time.monotonic() - began:.2f} s")
            traffic.go_on(200)

            mover = here.nodes[1]
            mover.kill()
            mover.move()
            for node in here.nodes:
                node.knows(*here.nodes)
            began = time.monotonic()
            mover.start()
            here.await_whole()
            tell(f"one is back with another address after {time.monotonic() - began:.2f} s")
            traffic.go_on(200)

            began = time.monotonic()
            for node in more:
                assert node.stop() == 0
            here.await_whole(three)
            here.list_servers(*three)
            reread(three)
            tell(f"five have become three in {time.monotonic() - began:.2f} s")
            traffic.go_on(200)
        traffic.check()
        assert all(node.status()["servers"] == 3 for node in three)
        assert [node.log.count("node.started") for node in three] == [1, 2, 1]
