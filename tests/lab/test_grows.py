"""A cluster that grows, moves and shrinks under load: by its file, of which one server changes its address; by servers
that join since they know the secret, and are removed by a command, or just stopped."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import Lab, LabNode, lab
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
        poll(lambda: all(node.status()["servers"] == 3 for node in three), DEADLINE_S)
        assert [node.log.count("node.started") for node in three] == [1, 2, 1]


SECRET = "a secret of sixteen or more"
FEW = 3
MANY = int(os.environ.get("LAB_SERVERS", "7"))  # twenty want two cores to themselves, and two minutes


def slowest_share_ms(traffic: Traffic, since_s: float, until_s: float) -> float:
    """The 99th of 100 durations of the requests that were begun in that time."""
    took = sorted(
        operation.returned - operation.called
        for history in traffic.histories.values()
        for operation in list(history)
        if since_s <= operation.called < until_s and operation.result is not None
    )
    return 1000 * took[len(took) * 99 // 100]


def found(here: Lab) -> tuple[Sequence[LabNode], Sequence[LabNode]]:
    """Start those that found; all know the secret. These, and the others, which are to join them."""
    few, more = here.nodes[:FEW], here.nodes[FEW:]
    for node in here.nodes:
        node.environment["KV_CLUSTER_SECRET"] = SECRET
        node.knows(*here.nodes)
    for node in more:
        node.seeds = [seed.name for seed in few]
    here.list_servers(*few)
    here.start(*few)
    return few, more


def test_from_few_to_many_in_a_burst_and_back_one_by_one(tmp_path: Path, tell: Tell) -> None:
    """Names change addresses meanwhile; each step ends with a whole cluster, by itself."""
    with lab(tmp_path, MANY, are_named=True) as here:
        few, more = found(here)
        with Traffic(few, clients=4) as traffic:
            began = time.monotonic()
            traffic.go_on(800)
            grows = time.monotonic()
            for node in more:
                node.start()
            here.await_whole(deadline_s=60.0)
            grown = time.monotonic()
            tell(f"{FEW} servers have become {MANY} in {grown - grows:.1f} s")
            mover = more[0]
            mover.kill()
            mover.move()
            for node in here.nodes:
                node.knows(*here.nodes)
            mover.start()
            here.await_whole(deadline_s=60.0)
            traffic.go_on(200)
            by_address = ",".join(f"{node.machine.address}:{node.port}" for node in few)  # names mean nothing here
            shrinks = time.monotonic()
            for node in more:
                told = here.kv("-s", by_address, "remove-server", node.name)
                assert told.returncode == 0, told
                assert node.process.wait(DEADLINE_S) == 0
            here.await_whole(few)
            shrunk = time.monotonic()
            tell(f"and {FEW} again in {shrunk - shrinks:.1f} s")
            traffic.go_on(200)
        traffic.check()
        tell(f"requests: {dict(traffic.counts)}")  # on a crowded machine some are given up
        before = slowest_share_ms(traffic, began, grows)
        for what, since, until in (("growing", grows, grown), ("shrinking", shrinks, shrunk)):
            tell(f"p99 while {what}: {slowest_share_ms(traffic, since, until):.1f} ms, before {before:.1f} ms")
        poll(lambda: all(node.status()["servers"] == FEW for node in few), DEADLINE_S)


def test_one_by_one_to_many_and_back_in_a_burst(tmp_path: Path, tell: Tell) -> None:
    """Removals that are asked for at once, and servers that are told to stop at once, as one who scales down does."""
    with lab(tmp_path, MANY, "--forget-after", "2", are_named=True) as here:
        few, more = found(here)
        removed, stopped = more[::2], more[1::2]
        by_address = ",".join(f"{node.machine.address}:{node.port}" for node in few)  # names mean nothing here
        with Traffic(few, clients=4) as traffic:
            traffic.go_on(200)
            began = time.monotonic()
            for count, node in enumerate(more, FEW + 1):
                node.start()
                here.await_whole(here.nodes[:count])
            tell(f"{FEW} servers have become {MANY}, one by one, in {time.monotonic() - began:.1f} s")
            traffic.go_on(200)
            began = time.monotonic()
            orders = [here.begin_kv("-s", by_address, "remove-server", node.name) for node in removed]
            for node in stopped:
                node.send_signal(signal.SIGTERM)
            assert [order.wait(DEADLINE_S) for order in orders] == [0] * len(removed)
            assert [node.process.wait(DEADLINE_S) for node in more] == [0] * len(more)
            here.await_whole(few)
            tell(f"and {FEW} again in {time.monotonic() - began:.1f} s: {len(removed)} removed, {len(stopped)} stopped")
            traffic.go_on(200)
            # Who has left without being removed belongs until it is forgotten.
            poll(lambda: all((told["servers"], told["whole"]) == (FEW, True) for told in map(LabNode.status, few)))
        traffic.check()
        tell(f"requests: {dict(traffic.counts)}")
        assert not any("leave_timed_out" in node.log for node in more)
