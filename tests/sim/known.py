"""Where today's design breaks its promises: what the drawn seeds avoid, and a run that shows each.

`run.draw` avoids the conditions named here, and no others. `test_known.py` holds each run to be a strict expected
failure: whoever mends the design finds its test passing, and removes the entry here together with what avoids it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.sim.run import Plan, draw, run
from tests.sim.test_nodes import plain


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


def _lasting(kind: str) -> Callable[[Plan], None]:
    def tune(plan: Plan) -> None:
        plain(plan)
        plan.options.hosts, plan.lasting, plan.faults_s = 4, kind, 1.0
        plan.options.clients.timeouts_s = (0.15, 0.45, 1.5)
        plan.faults = ("heal",)

    return tune


KNOWN = {
    "a copy given up is promoted": Known(
        "no acknowledged write is lost while one holder of the view lives: a copy that was given up for the bound on"
        " what is gathered still counts as one",
        "bounds on what is gathered as shipped, which no simulated copies reach",
        None,
    ),
    "a clock that stands still": Known(
        "at no moment two nodes serve a slot (docs/cluster.md names it among what is not promised)",
        "clocks stand still for at most 4 ms, which the leases' margin for drift covers",
        None,
    ),
}
