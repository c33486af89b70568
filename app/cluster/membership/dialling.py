"""The links that we want: one to each other server that we listen to (NodeState.servers).

Links carry data between nodes, in order. Here they matter for what their ends show. A process keeps its port open for
as long as it lives, and opens it before it says anything. So a connection that is refused makes us doubt every
incarnation that we had heard of when we dialled; where the address is one of this very machine's, whose kernel knows,
it proves them dead. Over a network it proves nothing: a port forwarder without its backend, a proxy, a firewall refuse
in a living process's place. A link that closes is tried again at once. A dial that times out shows nothing. (Of two
nodes one dials; what the other opens only tries whether the first is there: app/peers/links.py.)

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
        state = self._state
        for peer, dial in self._dials.items():
            matters = state.view is None or peer in state.view.incarnations or peer in state.absent
            matters = matters or state.awake_s - state.of(peer).heard_awake_s < timing.HEARD_S
            interval_s = timing.DIAL_S if matters else timing.DIAL_NON_MEMBER_S
            if not dial.busy and state.now - dial.dialled_at >= interval_s:
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

    def renew(self, peers: Iterable[str]) -> None:
        """End the links to these, who are no members any more, and dial anew: what is in them has come to nothing."""
        for peer in peers:
            if peer in self._dials:
                self._state.effects.append(CloseLink(peer))
                self._state.note_unlinked(peer)
                self._dial(peer)

    def asked(self, peer: str) -> None:
        """The peer asks to join, so it is there, and needs a link: it is lacked only if none comes up from now on."""
        dial = self._dials.get(peer)
        if dial is not None and not self._state.of(peer).is_linked:
            self._state.note_unlinked(peer)
            if not dial.busy:
                self._dial(peer)

    def dialled_at(self, peer: str) -> float:
        """When the peer was last dialled."""
        dial = self._dials.get(peer)
        return dial.dialled_at if dial else -inf

    def closed(self, peer: str) -> None:
        """The link, or the process at its end, is gone: dial at once to learn which."""
        if peer in self._dials:
            self._state.note_unlinked(peer)
            self._dial(peer)
        else:
            self._state.of(peer).note_link(is_up=False)

    def failed(self, peer: str) -> None:
        """The dial came to nothing."""
        if peer in self._dials:
            self._dials[peer].busy = False

    def _dial(self, peer: str) -> None:
        dial = self._dials[peer]
        dial.busy, dial.dialled_at = True, self._state.now
        self._state.effects.append(OpenLink(peer, self._state.of(peer).incarnation))
