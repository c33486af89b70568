"""When it is worth a line in the log that the store evicts: when it begins, and when it has come to rest again.

A store that is full evicts with every new entry, so the count of evictions alone would make a line ten times a second.
At rest means none for REST_S: a store at the edge, which evicts now and then, counts as evicting all the while.
"""

from typing import Final

# How long without an eviction is rest (s). Shorter: more lines about a store whose load comes and goes, at most two in
# this time. Longer: the line that says that it is over comes later by as much.
REST_S: Final = 60.0


class EvictionWatch:
    """One store's. `is_evicting`: since the last change. `evictions`: how many there were since they last began."""

    def __init__(self) -> None:
        self.is_evicting = False
        self.evictions = 0
        self._began_at = 0  # the store's count just before
        self._last = 0  # the store's count when we last looked
        self._last_s = 0.0  # when that was last seen to rise

    def changed(self, evictions: int, now: float) -> bool:
        """Whether the store has begun to evict, or has come to rest, since this was last asked: see `is_evicting`.

        `evictions`: the store's count so far. `now`: monotonic seconds. To be asked several times a second.
        """
        if evictions != self._last:
            if not self.is_evicting:
                self._began_at = self._last
            self._last = evictions
            self._last_s = now
            self.evictions = evictions - self._began_at
            begins, self.is_evicting = not self.is_evicting, True
            return begins
        if self.is_evicting and now - self._last_s >= REST_S:
            self.is_evicting = False
            return True
        return False
