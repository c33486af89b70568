"""The links we dial: one to each other member (to each server, while we know of no view).

Links carry data between nodes, in order. Here they matter for what their ends prove: a process keeps its port
open for as long as it lives, and opens it before it says anything; so a refused connection means that every
incarnation we had heard of when we dialled is dead. A link that closes is dialled again at once, so a killed
process is known to be dead within a round trip. A dial that times out proves nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from app.cluster.events import CloseLink, OpenLink
from app.cluster.membership import timing
from app.cluster.membership.state import NodeState


@dataclass(slots=True)
class Link:
    busy: bool = False  # up, or being dialled
    dialled_at: float = -inf


class Links:
    """Which links are wanted, and when to dial."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._links: dict[str, Link] = {}

    def want(self, peers: Iterable[str]) -> None:
        """Have links to these peers and no others."""
        wanted = dict.fromkeys(peer for peer in peers if peer != self._state.address)
        for peer in [peer for peer in self._links if peer not in wanted]:
            del self._links[peer]
            self._state.effects.append(CloseLink(peer))
        for peer in wanted:
            if peer not in self._links:
                self._links[peer] = Link()
                self._dial(peer)

    def tick(self) -> None:
        """Dial what is down, now and then."""
        for peer, link in self._links.items():
            if not link.busy and self._state.now - link.dialled_at >= timing.DIAL_S:
                self._dial(peer)

    def dial_all(self) -> None:
        """Dial all that is down now."""
        for peer, link in self._links.items():
            if not link.busy:
                self._dial(peer)

    def closed(self, peer: str) -> None:
        """The link, or the process at its end, is gone: dial at once to learn which."""
        if peer in self._links:
            self._dial(peer)

    def is_down(self, peer: str) -> None:
        """The dial came to nothing."""
        if peer in self._links:
            self._links[peer].busy = False

    def _dial(self, peer: str) -> None:
        link = self._links[peer]
        link.busy, link.dialled_at = True, self._state.now
        self._state.effects.append(OpenLink(peer, self._state.of(peer).incarnation))
