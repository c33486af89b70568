"""When it is worth a line in the log that clients' datagrams are lost to load: when that begins, and when it is over.

A node that gets more than it can answer drops what has waited too long, and what finds no room in the socket's buffer
the kernel drops: thousands a second. Over means none for REST_S; so an overload makes two lines, however often it
comes and goes meanwhile.
"""

from collections.abc import Mapping
from typing import Final

from app.observe import logs

# How long without a loss is rest (s). Longer: fewer lines about a load at the edge, and the last one comes later.
REST_S: Final = 10.0

# The reasons of app/observe/counters.py's DROP_REASONS for which load, and no fault of the sender's, is to blame.
OVERLOAD_DROPS: Final = ("too_old", "shed")

_faults = logs.limited_logger("node")


class OverloadWatch:
    """One node's."""

    def __init__(self) -> None:
        self._last = 0  # datagrams lost when we last looked
        self._before = 0  # before this overload
        self._last_s: float | None = None  # when the number was last seen to rise; None: at rest

    def look(self, drops: Mapping[str, int], unread: int, now_s: float) -> None:
        """To be called several times a second. `drops`: datagrams dropped so far, by reason; `unread`: those that the
        socket's receive buffer had no room for."""
        lost = unread + sum(drops[reason] for reason in OVERLOAD_DROPS)
        if lost != self._last:
            if self._last_s is None:
                self._before = self._last
                check = "more requests than it can answer, or a process that was stopped or starved; net.core.rmem_max"
                _faults.warning("overloaded", dropped=lost - self._last, check=check)
            self._last, self._last_s = lost, now_s
        elif self._last_s is not None and now_s - self._last_s >= REST_S:
            self._last_s = None
            _faults.warning("overload_over", dropped=lost - self._before)
