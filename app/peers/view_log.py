"""The last changes of view, for people: what each changed."""

from collections import deque
from typing import Final, NamedTuple

from app.cluster.view import View

CHANGES_MAX: Final = 50  # about 1 KiB each, and 100 bytes for each member that came or went


class Change(NamedTuple):
    """A change of view, as this node saw it."""

    unix_s: float
    epoch: int
    cause: str
    members: int
    is_member: bool
    came: tuple[str, ...]
    went: tuple[str, ...]
    moved: int  # slots with another primary than before


class ViewLog:
    """One node's."""

    def __init__(self) -> None:
        self.changes: deque[Change] = deque(maxlen=CHANGES_MAX)
        self._view: View | None = None

    def note(self, view: View, is_member: bool, unix_s: float) -> None:
        """Keep what this view changed."""
        before, self._view = self._view, view
        earlier = before.incarnations if before else {}
        moved = sum(a != b for a, b in zip(before.primaries, view.primaries, strict=True)) if before else 0
        self.changes.append(
            Change(
                unix_s,
                view.epoch,
                view.cause,
                len(view.members),
                is_member,
                tuple(a for a, incarnation in view.incarnations.items() if earlier.get(a) != incarnation),
                tuple(a for a, incarnation in earlier.items() if view.incarnations.get(a) != incarnation),
                moved,
            )
        )
