"""Who lacks whom: members whose link is down although both live, and who is removed for it.

Datagrams say who lives (detector.py); copies and forwarded requests go over links, which fail by themselves: one cable
of many is cut, something on the way drops connections and passes datagrams, packets get through one way only. So
every member says in each ASK whom it lacks, and the coordinator, which may lack somebody itself, has
the fewest removed that leave nobody lacking anybody (connectivity.py). It grants those no more leases; once they have
none they are removed like one that is silent. The coordinator may be one of them: then it stops serving, and proposes a
view without itself.

A lack needs proof that both live: who is silent altogether lacks nobody and is lacked by nobody, and is removed for its
silence. Else one that two dead machines were cut off from would seem to be the one to go.

A member that the coordinator has not heard for UNHEARD_S, though others vouch for it, counts as lacked, too.
Where most members don't hear the coordinator, it has no leader lease, and not the votes to remove itself: they replace
it like a silent one (decree.py).

Whoever was removed asks to join again, as anybody else does. An outsider is taken in when it has a link to every member
that is up, says so with a HELLO under the present view, and no member lacks it. So as long as the fault lasts it stays
outside, and there is one view for the fault and one for its end, not many. A fault that comes and goes is slowed down:
each return takes longer than the one before (RETURN_MIN_S to RETURN_MAX_S).

An example: a coordinates b, c, d; the cable between b and c breaks.

    0.0 s   Nothing gets through any more between b and c; d and a vouch for both.
    0.5 s   b and c end the link, each at its end, and dial in vain.
    0.8 s   b lacks c, c lacks b. Their next ASKs say so: one edge. a chooses c, the younger one, and grants it no more.
    1.4 s   c's lease is over: a proposes a view without c; b, d and a hold its slots. Everything takes writes again.
    1.5 s   c gets the view, drops everything and asks to join. It lacks b, so it stays outside.
    60.0 s  The cable is mended. b, which wants a link to whoever asks to join, has one to c: c is taken in.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from app.cluster.membership import timing
from app.cluster.membership.agreement import has_quorum
from app.cluster.membership.connectivity import Edge, fewest_to_remove
from app.cluster.membership.detector import Detector
from app.cluster.membership.state import NodeState
from app.cluster.view import View
from app.wire.protocol import SLOT_COUNT
from proto_gen import cluster_pb2 as pb

LINE_PAIRS_MAX: Final = 8  # that one line of the log names


@dataclass(frozen=True, slots=True)
class Report:
    """What a peer has said of its links."""

    awake_s: float  # when we got it
    view_key: tuple[int, int, int]  # the view that it went by
    lacks: frozenset[str]


@dataclass(slots=True)
class Return:
    """When one that was removed for a lack may be taken in again (awake time)."""

    removed_awake_s: float = -inf
    wait_s: float = 0.0


@dataclass(slots=True)
class Lack:
    """One of `edges`."""

    since_awake_s: float
    is_said: bool = False  # in the log


class Lacks:
    """One node's own lacks; of its members', while it is the coordinator."""

    def __init__(self, state: NodeState, detector: Detector) -> None:
        self._state = state
        self._detector = detector
        self._reports: dict[str, Report] = {}  # of the present view's members
        self._hellos: dict[str, Report] = {}  # of outsiders
        self._returns: dict[str, Return] = {}
        self._installed_awake_s = 0.0
        self._lacks: dict[Edge, Lack] = {}
        self._said_awake_s: dict[Edge, float] = {}
        self._stuck_awake_s = -inf
        self._chosen: tuple[object, frozenset[str]] = (None, frozenset())  # made from what, and what it is
        self._changed_awake_s = 0.0
        self.edges: frozenset[Edge] = frozenset()  # known now; the coordinator knows all, others their own
        self.going: frozenset[str] = frozenset()  # whom the coordinator wants removed

    # What we lack, and what others say.

    def own(self) -> list[str]:
        """Whom this node lacks: members, and outsiders that have just asked to join. For its ASKs."""
        return [peer for peer in (*self._state.others(), *self.outsiders()) if self.is_lacked(peer)]

    def is_lacked(self, peer: str) -> bool:
        """Whether the link to the peer has been down for longer than it takes to come up, and the peer lives: it, or
        somebody else for it, has shown so since the link went down. (A silent one is the detector's business.)"""
        state, known = self._state, self._state.of(peer)
        if known.is_linked or state.awake_s - known.unlinked_awake_s < max(timing.LACK_S, 3 * state.round_trip_s):
            return False
        return max(known.heard_at, self._detector.last_heard(peer)[0]) > known.unlinked_at

    def unlinked(self) -> list[str]:
        """The members of the view to which there is no link at this moment. For an outsider's HELLOs."""
        known = self._state.known
        return [peer for peer in self._state.others() if peer not in known or not known[peer].is_linked]

    def outsiders(self) -> list[str]:
        """Who has asked to join of late."""
        return list(self._hellos)

    def note_hello(self, peer: str, message: pb.ClusterMessage) -> bool:
        """An outsider asks to join, and says whom it has no link to. Whether it has not done so of late."""
        is_new = peer not in self._hellos
        self._note(self._hellos, peer, message)
        return is_new

    def note_report(self, peer: str, message: pb.ClusterMessage) -> None:
        """A member of the view says whom it lacks."""
        self._note(self._reports, peer, message)

    def _note(self, reports: dict[str, Report], peer: str, message: pb.ClusterMessage) -> None:
        if message.stamp_us >= self._state.of(peer).stamp_us:  # else it is late, and says nothing new
            view_key = (message.cluster_id, message.epoch, message.nonce)
            reports[peer] = Report(self._state.awake_s, view_key, frozenset(message.lacks))

    def forget_outsiders(self) -> None:
        """Forget those who have stopped asking."""
        since = self._state.awake_s - timing.HEARD_S
        for peer in [peer for peer, hello in self._hellos.items() if hello.awake_s <= since]:
            del self._hellos[peer]

    def forget_strangers(self) -> None:
        """Those who are no servers any more do not ask to join."""
        self._hellos = {peer: hello for peer, hello in self._hellos.items() if not self._state.is_stranger(peer)}

    def entered(self) -> None:
        """A view was installed, or we begin anew."""
        state = self._state
        members = state.view.incarnations if state.view else {}
        for address in self.going - set(members):
            self._note_removed(address)
        self._returns = {address: entry for address, entry in self._returns.items() if not state.is_stranger(address)}
        self._said_awake_s = {
            edge: said_s for edge, said_s in self._said_awake_s.items() if not any(map(state.is_stranger, edge))
        }
        self._reports.clear()
        self._hellos = {peer: hello for peer, hello in self._hellos.items() if peer not in members}
        self._installed_awake_s = state.awake_s
        self.going = frozenset()

    def _note_removed(self, address: str) -> None:
        entry = self._returns.setdefault(address, Return())
        is_first = self._state.awake_s - entry.removed_awake_s > timing.RETURN_FORGOTTEN_S
        entry.wait_s = timing.RETURN_MIN_S if is_first else min(2 * entry.wait_s, timing.RETURN_MAX_S)
        entry.removed_awake_s = self._state.awake_s

    # What the coordinator makes of it.

    def look(self, lost: Mapping[str, int]) -> None:
        """Once a tick, on every node. `lost`: the slots of which members have lost the copy."""
        state = self._state
        self._probe_unlinked()
        before, self.edges = self.edges, self._edges()
        if self.edges or before or self._lacks:
            self._keep_up()
        going = self._choice(lost) if state.is_coordinator and self.edges else frozenset()
        if going != self.going:
            self.going, self._changed_awake_s = going, state.awake_s
        if self.edges:
            self._tell_if_stuck()

    def _probe_unlinked(self) -> None:
        """Have it shown, soon, whether those live to whom the link has gone down."""
        state = self._state
        for peer in self.unlinked() if state.is_member else ():
            if self._detector.last_heard(peer)[0] <= state.of(peer).unlinked_at < state.now:
                self._detector.probe(peer)

    def _choice(self, lost: Mapping[str, int]) -> frozenset[str]:
        """Whom to remove; made anew when something that it is made from has changed."""
        state, view = self._state, self._state.view
        assert view is not None
        up = tuple(node for node in view.addresses if self._detector.is_up(node))
        dead = frozenset(state.countable_dead())
        needed = state.members_needed()
        least = self._copies_to_keep(len(view.members))
        made_from = (view.key, self.edges, up, dead, needed, frozenset(lost.items()), least)
        if made_from != self._chosen[0]:

            def may_go_on(staying: Collection[str]) -> bool:
                return has_quorum(view.addresses, staying, dead) and state.counted(staying) >= needed

            going = fewest_to_remove(self.edges, up, wholes(view, up, lost), may_go_on, least)
            self._chosen = (made_from, going)
        return self._chosen[1]

    def _copies_to_keep(self, members: int) -> int:
        """How many whole copies a removal must leave of a slot that has them: two where there are to be three or more.

        Who lacks whom shows link by link. With the last but one whole copy gone for the first that shows, the last may
        be on the very machine that is at fault. Once all has shown that will (KEEP_TWO_S), one must do.
        """
        since_s = [lack.since_awake_s for lack in self._lacks.values()]
        has_waited = bool(since_s) and self._state.awake_s - min(since_s) >= timing.KEEP_TWO_S
        return 2 if min(self._state.config.replicas, members) > 2 and not has_waited else 1

    def _edges(self) -> frozenset[Edge]:
        """Who lacks whom, as far as this node knows."""
        state, view = self._state, self._state.view
        since = state.awake_s - timing.HEARD_S
        if view is None or not state.is_member:
            peers = view.addresses if view else state.config.servers
            lacked = [peer for peer in peers if state.of(peer).heard_awake_s > since and self.is_lacked(peer)]
            return frozenset(_edge(state.address, peer) for peer in lacked)
        lacked = [peer for peer in self.unlinked() if self.is_lacked(peer)]
        partners = view.addresses if state.is_coordinator else (view.coordinator,)
        lacked += [peer for peer in partners if peer != state.address and self.is_unheard(peer)]
        found = {_edge(state.address, peer) for peer in lacked}
        if state.is_coordinator:
            for peer, report in self._reports.items():
                if report.awake_s > since:
                    found |= {_edge(peer, other) for other in report.lacks if other != peer}
        is_alive = self._detector.is_alive
        return frozenset(edge for edge in found if all(end in view.incarnations and is_alive(end) for end in edge))

    def is_unheard(self, peer: str, *, longer_s: float = 0.0) -> bool:
        """Whether we have heard nothing for UNHEARD_S, and so much longer, of the other end of a heartbeat, though
        others vouch for it. One end is the coordinator, the other any member."""
        heard_awake_s = max(self._state.of(peer).heard_awake_s, self._installed_awake_s)
        return self._detector.last_heard(peer)[1] - heard_awake_s > timing.UNHEARD_S + longer_s

    def is_certain(self) -> bool:
        """Whether those who are to go have been the same for long enough."""
        return bool(self.going) and self._state.awake_s - self._changed_awake_s >= timing.LACKS_SETTLE_S

    def why(self, address: str) -> str:
        """Why the member is removed."""
        lacked = {end for edge in self.edges if address in edge for end in edge} - {address}
        return f"lacks {' '.join(sorted(lacked))}"

    def admits(self, address: str) -> bool:
        """Whether one that asks to join would lack nobody, and be lacked by nobody, as a member.

        A new process in a member's place is taken in at once: its links are about to come up.
        """
        state, hello = self._state, self._hellos.get(address)
        assert state.view is not None
        if address in state.view.incarnations:
            return True
        if hello is None or hello.view_key != state.view_key or not state.of(address).is_linked:
            return False
        entry = self._returns.get(address)
        if entry is not None and state.awake_s - entry.removed_awake_s < entry.wait_s:
            return False
        since = state.awake_s - timing.HEARD_S
        return not any(self._detector.is_up(peer) for peer in hello.lacks) and not any(
            address in report.lacks for report in self._reports.values() if report.awake_s > since
        )

    # The log.

    def _keep_up(self) -> None:
        """Note which lacks are new and which have ended, with a line for each; of one that comes and goes not more than
        one in a while."""
        state = self._state
        for edge in sorted(self.edges - self._lacks.keys()):
            lack = self._lacks[edge] = Lack(state.awake_s)
            if state.awake_s - self._said_awake_s.get(edge, -inf) >= timing.LACK_LINE_S:
                self._said_awake_s[edge] = state.awake_s
                lack.is_said = True
                state.log(
                    f"no link between {edge[0]} and {edge[1]}, though both live: are TCP and UDP open, both ways?",
                    "warning",
                )
        for edge in sorted(self._lacks.keys() - self.edges):
            lack = self._lacks.pop(edge)
            if lack.is_said and self._is_mended(edge):
                lasted_s = state.awake_s - lack.since_awake_s
                state.log(f"{edge[0]} and {edge[1]} lack each other no more, after {lasted_s:.1f} s")

    def _is_mended(self, edge: Edge) -> bool:
        """Whether a lack that is no more has ended with a link, and not because one of the two has gone."""
        state = self._state
        if state.address in edge:
            return all(state.of(end).is_linked for end in edge if end != state.address)
        return state.view is not None and all(end in state.view.incarnations for end in edge)

    def _tell_if_stuck(self) -> None:
        """As the coordinator: a line, now and then, while nobody can be removed for what is lacking."""
        state = self._state
        if self.going or not state.is_coordinator or state.awake_s - self._stuck_awake_s < timing.LACK_LINE_S:
            return
        if all(state.awake_s - lack.since_awake_s >= timing.LACKS_SETTLE_S for lack in self._lacks.values()):
            self._stuck_awake_s = state.awake_s
            pairs = ", ".join(f"{one} and {other}" for one, other in sorted(self.edges)[:LINE_PAIRS_MAX])
            state.log(f"{len(self.edges)} pairs of members lack each other, no removal would help: {pairs}", "warning")


def _edge(one: str, other: str) -> Edge:
    return (one, other) if one < other else (other, one)


def wholes(view: View, up: Collection[str], lost: Mapping[str, int]) -> dict[frozenset[str], int]:
    """How many slots have just these members, of those that are up, as holders of a whole copy.

    `lost`: the slots whose copies members have lost. Slots without any holder are left out.
    """
    found: Counter[frozenset[str]] = Counter()
    for slot in range(SLOT_COUNT):
        holders = frozenset(node for node in view.holders(slot) if node in up and not lost.get(node, 0) >> slot & 1)
        if holders:
            found[holders] += 1
    return dict(found)
