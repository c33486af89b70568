"""A run in several processes."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client import BadServer
from tests.client.peer import Peer
from tests.support.nodes import Node, running
from tests.support.ports import HOST
from tests.tools.load.runs import plan_for
from tools.load import processes
from tools.load.lanes import NobodyThere
from tools.load.loop import Progress
from tools.load.plan import YCSB, Plan
from tools.load.results import result_of


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory: Path = tmp_path_factory.mktemp("processes")
    with running(directory) as one:
        yield one


def test_two_processes_flood_a_real_node_and_their_results_are_one(node: Node) -> None:
    mix, law = YCSB["a"]
    plan = Plan(
        servers=(f"{HOST}:{node.port}",),
        processes=2,
        clients=9,
        seconds=1.0,
        warmup_s=0.2,
        keys=501,
        mix=mix,
        law=law,
        load=True,
        key_prefix=b"two-",
    )
    seen: list[Progress] = []
    outcomes = processes.run(plan, seen.append)
    assert len(outcomes) == 2
    assert all(outcome.counts["finished_in_time"] > 0 for outcome in outcomes)
    result = result_of(plan, outcomes)
    reads = result["reads"]
    assert reads["found"] > 0
    assert (reads["wrong"], reads["stale"], reads["missing"], result["failed"]) == (0, 0, 0, 0)
    assert result["latency"]["all"]["count"] == sum(result["codes"].values())
    assert sum(one.counts["finished_in_time"] for one in outcomes) == round(result["ops_per_s"] * result["seconds"])
    assert {progress.phase for progress in seen} >= {"run"}
    assert result["series"]["second"][-1] == 1.0
    assert multiprocessing.active_children() == []


def test_an_open_loop_keeps_its_rate_together(node: Node) -> None:
    plan = Plan(servers=(f"{HOST}:{node.port}",), processes=2, clients=500, rate=300, seconds=1.0, key_prefix=b"open-")
    result = result_of(plan, processes.run(plan, None))
    assert 298 <= result["latency"]["all"]["count"] <= 302
    assert result["sent_late"]["count"] == result["latency"]["all"]["count"]


def test_wrong_values_are_found_in_each_process() -> None:
    class Corrupts(Peer):
        def put(self, request):  # type: ignore[no-untyped-def]
            request.value = request.value[:-1] + b"?"
            return super().put(request)

    with Corrupts() as peer:
        plan = plan_for(peer, processes=2, seed=None)
        outcomes = processes.run(plan, None)
    assert all(outcome.counts["wrong"] > 0 for outcome in outcomes)


def test_interrupted_they_all_tell_what_they_have() -> None:
    interrupted = []

    def show(progress: Progress) -> None:
        if progress.phase == "run" and progress.finished and not interrupted:
            interrupted.append(progress)
            raise KeyboardInterrupt

    with Peer() as peer:
        plan = plan_for(peer, processes=2, operations=10**9, seconds=1000)
        outcomes = processes.run(plan, show)
    assert all(outcome.interrupted for outcome in outcomes)
    assert sum(outcome.counts["finished_in_time"] for outcome in outcomes) >= interrupted[0].finished
    assert multiprocessing.active_children() == []


def test_a_process_that_ends_before_its_time_fails_the_run() -> None:
    def show(progress: Progress) -> None:
        for child in multiprocessing.active_children()[:1]:
            child.kill()

    with Peer() as peer, pytest.raises(processes.RunFailed, match="before its time"):
        processes.run(plan_for(peer, processes=2, operations=10**9, seconds=1000), show)
    assert multiprocessing.active_children() == []


def test_nobody_there_is_found_out_before_anything_is_started() -> None:
    with Peer() as peer:
        plan = plan_for(peer, processes=2)
    with pytest.raises(NobodyThere):
        processes.run(plan, None)
    with pytest.raises(BadServer):
        processes.run(Plan(servers=("nonsense",), processes=2), None)
