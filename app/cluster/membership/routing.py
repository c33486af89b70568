"""What the rest of the node reads on every request: for each slot, whether to serve, forward or wait."""

from app.cluster.events import SELF, UNKNOWN
from app.cluster.membership.detector import Detector
from app.cluster.membership.state import NodeState
from app.cluster.view import View
from app.wire.protocol import SLOT_COUNT


class Routing:
    """Kept up to date after every step; the list of routes is changed in place, and only if need be."""

    def __init__(self, state: NodeState, detector: Detector) -> None:
        self._state = state
        self._detector = detector
        # What the routes were made from; None: from nothing yet.
        self._view: View | None = None
        self._masks: tuple[int, int] | None = None
        self.routes: list[str] = [UNKNOWN] * SLOT_COUNT
        self.served = 0  # mask of the slots that are SELF

    @property
    def member_count(self) -> int:
        """Live members as this node sees them; itself, if it knows none. It is counted for whoever asks, since few do:
        in each step it would take a quarter of the step, with 30 members."""
        view = self._state.view
        return max(1, sum(map(self._detector.is_up, view.addresses))) if view is not None else 1

    def update(self, blocked: int) -> None:
        """`blocked`: own slots among these wait for their last primary."""
        state, view = self._state, self._state.view
        served = gone = 0
        if view is not None:
            if state.is_member:
                served = view.masks[state.address] & ~blocked
            for address in state.dead:
                gone |= view.masks[address]
        masks = (served, gone)
        if view is not self._view or masks != self._masks:
            self._view, self._masks, self.served = view, masks, served
            for slot in range(SLOT_COUNT):
                self.routes[slot] = self._route(view, slot, served, gone)

    def _route(self, view: View | None, slot: int, served: int, gone: int) -> str:
        if served >> slot & 1:
            return SELF
        if view is None or gone >> slot & 1 or view.primaries[slot] == self._state.address:
            return UNKNOWN
        return view.primaries[slot]
