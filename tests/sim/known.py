"""Where today's design breaks its promises: what the drawn seeds avoid, and a run that shows each.

`run.draw` avoids the conditions named here, and no others. `test_known.py` holds each run to be a strict expected
failure: whoever mends the design finds its test passing, and removes the entry here together with what avoids it.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """One fault of the design."""

    promise: str  # that is broken
    avoided_by: str  # what the drawn seeds do not have
    shows: Callable[[], object] | None  # raises Violation; None: no run that shows it has been found yet


KNOWN = {
    "a clock that stands still": Known(
        "at no moment two nodes serve a slot (docs/cluster.md names it among what is not promised)",
        "clocks stand still for at most 4 ms, which the leases' margin for drift covers",
        None,
    ),
}
