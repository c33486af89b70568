"""Where today's design breaks its promises: what the drawn seeds avoid, and a run that shows each.

`run.draw` avoids the conditions named here, and no others. `test_known.py` holds each run to be a strict expected
failure: whoever mends the design finds its test passing, and removes the entry here together with what avoids it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.cluster.membership import timing
from tests.sim.checks import Violation
from tests.sim.clients import ClientOptions
from tests.sim.cluster import Cluster, Options
from tests.sim.process import NodeOptions
from tests.sim.run import Plan, converge, draw, run
from tests.sim.test_nodes import busy, plain
from tests.sim.world import trace_logs


@dataclass(frozen=True)
class Known:
    """One fault of the design."""

    promise: str  # that is broken
    avoided_by: str  # what the drawn seeds do not have
    shows: Callable[[], object] | None  # raises Violation; None: no run that shows it has been found yet


def _run(seed: int, tune: Callable[[Plan], None]) -> Callable[[], object]:
    def shows() -> None:
        plan = draw(seed)
        tune(plan)
        run(seed, plan)

    return shows


def _refusing(plan: Plan) -> None:
    busy(plan)
    plan.faults, plan.pace_s, plan.faults_s = ("refuse",), 1.5, 6.0


def _lasting(kind: str) -> Callable[[Plan], None]:
    def tune(plan: Plan) -> None:
        plain(plan)
        plan.options.hosts, plan.lasting, plan.faults_s = 4, kind, 1.0
        plan.options.clients.timeouts_s = (0.15, 0.45, 1.5)
        plan.faults = ("heal",)

    return tune


def overloaded() -> None:
    """A busy cluster on a whole network stays in its view."""
    options = Options(
        3,
        node=NodeOptions(batch_size=8, turn_s=0.02),
        clients=ClientOptions(clients=0, load_s=0.002, load_burst=200),
    )
    cluster = Cluster(1, options)
    trace_logs(cluster.world)
    for host in cluster.hosts:
        cluster.start(host)
    converge(cluster)
    epoch = cluster.processes()[0].core.epoch
    assert cluster.load is not None
    cluster.load.start(cluster.world.now + 5.0)
    cluster.world.run(cluster.world.now + 5.0)
    missing = cluster.checks.is_converged()
    cluster.dispose()
    trace_logs(None)
    if missing or cluster.processes()[0].core.epoch != epoch:
        raise Violation(f"under load: {missing}")


KNOWN = {
    "a wall clock set back": Known(
        "when faults stop, all are members of one view: a process restarted twice under a wall clock that was set back"
        " by a second may pass for an earlier one, and stays outside without noticing",
        "wall clocks are set forward only",
        None,  # the run that showed it went another way once links were one connection; nothing of its cause is mended
    ),
    "a copy given up is promoted": Known(
        "no acknowledged write is lost while one holder of the view lives: a copy that was given up for the bound on"
        " what is gathered still counts as one",
        "bounds on what is gathered as shipped, which no simulated copies reach",
        None,
    ),
    "refused, and alive": Known(
        "at no moment two nodes serve a slot, one view per epoch: who is refused is held dead for certain",
        "no connection is refused where a process listens",
        _run(0, _refusing),
    ),
    "impatience": Known(
        "no acknowledged write is lost while one holder lives: whoever loses its patience goes on alone, under the old"
        " cluster's name, and prevails by its epoch",
        "founding patience without end, or of 30 s, which no simulated fault outlasts",
        None,
    ),
    "overload is taken for death": Known(
        "a busy machine is no dead one: membership waits behind the datagrams of clients",
        "convergence is demanded once the load has ended",
        overloaded,
    ),
    "one bad cable": Known(
        "requests are answered while every holder can be reached: two members that lack each other stay members, and"
        " writes of their slots wait for as long as it lasts",
        "lasting faults take a whole machine from all others",
        _run(0, _lasting("cable")),
    ),
    "streams blocked, datagrams open": Known(
        "requests are answered, or the cluster says that it can't: all are in one view, and nothing is written",
        "lasting faults take datagrams and streams",
        _run(0, _lasting("streams")),
    ),
    "a clock that stands still": Known(
        "at no moment two nodes serve a slot (docs/cluster.md names it among what is not promised)",
        "clocks stand still for at most 4 ms, which the leases' margin for drift covers",
        None,
    ),
}

assert timing.BOOTSTRAP_PATIENCE_S == 30.0, "the drawn patience is meant to be the shipped one"
