"""The links that we want: one to each other member (to each server, while we know of no view).

Links carry data between nodes, in order. Here they matter for what their ends prove: a process keeps its port
open for as long as it lives, and opens it before it says anything; so a connection that its machine refused means that
every incarnation we had heard of when we dialled is dead. A link that closes is tried again at once, so a killed
process is known to be dead within a round trip. A dial that times out proves nothing. (Of two nodes one dials; what
the other opens only tries whether the first is there: app/peers/links.py.)

Whether a link is up, and since when it is not, is kept with what else is known of the peer (state.py): who lacks whom
decides who can be a member (lacks.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from app.cluster.events import CloseLink, OpenLink
from app.cluster.membership import timing
from app.cluster.membership.state import NodeState


@dataclass(slots=True)
class Dial:
    busy: bool = False  # up, or being dialled
    dialled_at: float = -inf


class Dialler:
    """Which links are wanted, and when to dial."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._dials: dict[str, Dial] = {}

    def want(self, peers: Iterable[str]) -> None:
        """Have links to these peers and no others."""
        wanted = dict.fromkeys(peer for peer in peers if peer != self._state.address)
        for peer in [peer for peer in self._dials if peer not in wanted]:
            del self._dials[peer]
            self._state.of(peer).note_link(is_up=False)
            self._state.effects.append(CloseLink(peer))
        for peer in wanted:
            if peer not in self._dials:
                self._dials[peer] = Dial()
                if not self._state.of(peer).is_linked:
                    self._state.note_unlinked(peer)
                self._dial(peer)

    def tick(self) -> None:
        """Dial what is down, now and then."""
        for peer, dial in self._dials.items():
            if not dial.busy and self._state.now - dial.dialled_at >= timing.DIAL_S:
                self._dial(peer)

    def dial_all(self) -> None:
        """Dial all that is down now."""
        for peer, dial in self._dials.items():
            if not dial.busy:
                self._dial(peer)

    def up(self, peer: str) -> None:
        """The link is there, perhaps by the peer's dial."""
        self._state.of(peer).note_link(is_up=True)
        if peer in self._dials:
            self._dials[peer].busy = True

    def closed(self, peer: str) -> None:
        """The link, or the process at its end, is gone: dial at once to learn which."""
        self._state.of(peer).note_link(is_up=False)
        if peer in self._dials:
            self._state.note_unlinked(peer)
            self._dial(peer)

    def failed(self, peer: str) -> None:
        """The dial came to nothing."""
        if peer in self._dials:
            self._dials[peer].busy = False

    def _dial(self, peer: str) -> None:
        dial = self._dials[peer]
        dial.busy, dial.dialled_at = True, self._state.now
        self._state.effects.append(OpenLink(peer, self._state.of(peer).incarnation))
