"""A lease that was lost, and that is back, for people: a line each in the log, and what to check.

Without its lease a node serves nothing, and only the others can give it one. Each change of coordinator takes a lease
away for a few milliseconds; that is not worth a line. So it is told once the lease has been gone for LOST_S.
"""

from collections.abc import Callable
from typing import Final

from app.cluster.view import View
from app.observe import logs

# How long a lease must have been gone to be worth a line (s): a new coordinator grants within a round trip or two, or,
# where the one before must be waited for, within a second.
LOST_S: Final = 0.3

_faults = logs.limited_logger("cluster")


class LeaseWatch:
    """One node's. `note` is to be called after each step of the core: tens of times a second."""

    def __init__(self, address: str, unheard_s: Callable[[str], float]) -> None:
        """`address`: this node's. `unheard_s(member)`: how long ago it proved last that it lives and hears this one."""
        self._address = address
        self._unheard_s = unheard_s
        self._until_s = 0.0  # when the lease ended that was there last; 0: there was none
        self._lost_s: float | None = None  # since when it has been gone
        self._is_told = False

    def note(self, until_s: float, view: View | None, now_s: float) -> None:
        """`until_s`: when the lease ends. `view`: that this node is a member of; None: it is to have no lease."""
        if until_s > now_s:
            if self._is_told:
                assert self._lost_s is not None
                _faults.warning("lease_back", after_s=round(now_s - self._lost_s, 1))
            self._until_s, self._lost_s, self._is_told = until_s, None, False
        elif view is None:
            self._until_s, self._lost_s, self._is_told = 0.0, None, False
        elif self._until_s and not self._is_told:
            if self._lost_s is None:
                self._lost_s = min(self._until_s, now_s)
            if now_s - self._lost_s >= LOST_S:
                self._is_told = True
                self._tell(view, now_s - self._lost_s)

    def _tell(self, view: View, for_s: float) -> None:
        """A member depends on the coordinator, and that one on a majority of the others."""
        needed = [view.coordinator]
        if view.coordinator == self._address:
            needed = [member for member in view.addresses if member != self._address]
        silent = [member for member in needed if self._unheard_s(member) >= LOST_S]
        _faults.warning(
            "lease_lost",
            for_s=round(for_s, 1),
            coordinator=view.coordinator,
            silent=" ".join(silent),
            check="the silent ones and the network to them; or this process was stopped or starved",
        )
