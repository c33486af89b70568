"""Where today's design breaks its promises: what the drawn seeds avoid, and a run that shows each.

`run.draw` avoids the conditions named here, and no others. `test_known.py` holds each run to be a strict expected
failure: whoever mends the design finds its test passing, and removes the entry here together with what avoids it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.cluster.membership import timing
from tests.sim.run import Plan, draw, run
from tests.sim.test_nodes import busy, plain


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


def _set_back(plan: Plan) -> None:
    plan.options.steps_back = True


KNOWN = {
    "a wall clock set back": Known(
        "when faults stop, all are members of one view: a process restarted twice under a wall clock that was set back"
        " by a second may pass for an earlier one, and stays outside without noticing",
        "wall clocks are set forward only",
        _run(20384, _set_back),
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
