"""The exchange between a member and the coordinator of its view: ASK and GRANT.

A member asks ten times a second. With each ASK it supports the coordinator (leases.py), shows that it is in the view,
and says what it has to say: that it wants to leave, which of its learners have caught up, whom it lacks, which copies
it has lost. The answer carries a lease, and which slots wait for their last primary. Either is repeated until it gets
through.
"""

from math import inf

from app.cluster.membership import timing
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.state import NodeState, slots_from_bytes, slots_to_bytes
from app.cluster.slots import slots_of
from app.cluster.view import MEMBERS_MAX, View
from proto_gen import cluster_pb2 as pb


class Heartbeat:
    """Both ends of it; a node is on one or the other."""

    def __init__(self, state: NodeState, lease: Lease, coordinator: Coordinator) -> None:
        self._state = state
        self._lease = lease
        self._coordinator = coordinator
        self._asked_at = -inf
        self._answered = True
        self._synced: dict[str, int] = {}  # our learners that have caught up, in this view
        self._lost = 0  # slots that we are listed for in this view, and whose copy we have lost

    # As a member.

    def entered(self, view: View) -> None:
        """A view was installed: show it. Without transfer its learners have nothing to catch up on."""
        self._synced.clear()
        self._lost = 0
        state = self._state
        if state.is_member and not state.config.transfer:
            for slot in slots_of(view.masks[state.address]):
                for learner in view.learners(slot):
                    self._synced[learner] = self._synced.get(learner, 0) | 1 << slot
        self._tell()

    def synced(self, learner: str, slots: int) -> None:
        """The learner has caught up in these slots of ours."""
        view = self._state.view
        if view is not None and self._state.is_member:
            self._synced[learner] = self._synced.get(learner, 0) | (slots & view.masks[self._state.address])
            self._tell()

    def lost(self, slots: int) -> None:
        """We have lost our copies of these slots, of which the view says that we hold them."""
        if self._state.is_member:
            self._lost |= slots
            self._tell()

    def _tell(self) -> None:
        if self._state.is_coordinator:
            self._note_synced(self._synced)
            self._note_lost(self._state.address, self._lost)
        else:
            self.ask()

    def tick(self) -> None:
        """Ask, if it is time."""
        waited = self._state.now - self._asked_at
        if waited >= (timing.HEARTBEAT_S if self._answered else timing.ASK_RETRY_S):
            self.ask()

    def ask(self) -> None:
        """Ask the coordinator for a lease, if we are a member and it is another."""
        state, view = self._state, self._state.view
        if view is None or not state.is_member or state.is_coordinator:
            return
        self._asked_at, self._answered = state.now, False
        if view.coordinator not in state.dead:
            synced = [pb.Synced(address=node, slots=slots_to_bytes(mask)) for node, mask in self._synced.items()]
            state.post(
                view.coordinator,
                pb.ASK,
                leaving=state.leaving,
                synced=synced,
                lacks=self._coordinator.lacks.own()[:MEMBERS_MAX],
                lost=slots_to_bytes(self._lost) if self._lost else b"",
            )

    def on_grant(self, peer: str, message: pb.ClusterMessage) -> None:
        """An answer of the coordinator."""
        state, view = self._state, self._state.view
        if view is None or peer != view.coordinator or not state.goes_by_our_view(peer, message):
            state.drop("stale view")
            return
        asked_at = state.echoed_at(message)
        if asked_at < 0:
            return
        self._answered = True
        if message.span_us:
            span = min(message.span_us / 1e6, timing.SUPPORT_S)
            blocked = slots_from_bytes(message.blocked)
            self._lease.granted(asked_at, span, blocked, message.settled)

    # As the coordinator.

    def on_ask(self, peer: str, message: pb.ClusterMessage) -> None:
        """A member asks for a lease."""
        state, view, grantor = self._state, self._state.view, self._coordinator.grantor
        if grantor is None or view is None or not state.goes_by_our_view(peer, message):
            state.drop("stale view")
            return
        freed = grantor.acknowledge(peer)
        if message.leaving:
            self._coordinator.leavers.add(peer)
        entries = [entry for entry in message.synced if entry.address in view.incarnations]
        mine = view.masks[peer]  # only the primary of a slot can tell who is in sync
        self._note_synced({entry.address: slots_from_bytes(entry.slots) & mine for entry in entries})
        self._note_lost(peer, slots_from_bytes(message.lost))
        self._coordinator.lacks.note_report(peer, message)
        self._grant(peer)
        self._push(freed & ~mine)

    def _note_lost(self, peer: str, slots: int) -> None:
        view = self._state.view
        if slots and view is not None:
            listed = sum(1 << slot for slot in slots_of(slots) if peer in view.holders(slot))
            lost = self._coordinator.lost
            if listed:
                lost[peer] = lost.get(peer, 0) | listed

    def _note_synced(self, synced: dict[str, int]) -> None:
        known = self._coordinator.synced
        for learner, slots in synced.items():
            if slots:
                known[learner] = known.get(learner, 0) | slots

    def _grant(self, peer: str) -> None:
        """Grant what can be granted; an answer that grants nothing still carries our stamp."""
        state, grantor = self._state, self._coordinator.grantor
        assert grantor is not None
        span = 0.0
        # To one who does not hear us no lease is granted: it could not use it, and it would never lapse. Nor to one
        # that is to go because others lack it.
        is_to_go = peer in self._coordinator.lacks.going
        hears_us = state.awake_s - state.of(peer).heard_awake_s < timing.HEARD_S
        if hears_us and not is_to_go and not state.support_withdrawn:
            span = grantor.grant(peer, self._leader_lease_end(grantor), state.now)
        state.post(
            peer,
            pb.GRANT,
            span_us=int(span * 1e6),
            blocked=slots_to_bytes(grantor.blocked()),
            settled=grantor.is_settled(state.dead),
        )

    def _leader_lease_end(self, grantor: Grantor) -> float:
        return self._coordinator.register.leader_lease_end(grantor)

    def _push(self, freed: int) -> None:
        """Tell those who wait for these slots that they may serve them."""
        view = self._state.view
        if freed and view is not None:
            for node in self._state.others():
                if view.masks[node] & freed and node not in self._state.dead:
                    self._grant(node)

    def refresh(self) -> None:
        """After every step: the coordinator's own lease is its leader lease."""
        state, lease, grantor = self._state, self._lease, self._coordinator.grantor
        if grantor is None or not state.is_member:
            return
        freed = grantor.expire(state.dead, state.now) if grantor.may_still_serve else 0
        if not state.support_withdrawn:
            leader_lease_end = self._leader_lease_end(grantor)
            if state.address not in grantor.denied:
                lease.until = max(lease.until, leader_lease_end)
            if leader_lease_end > state.now and grantor.waiting:
                for node in sorted(grantor.waiting - grantor.denied - self._coordinator.lacks.going):
                    self._grant(node)
        lease.blocked = grantor.blocked()
        lease.settled = grantor.is_settled(state.dead)
        self._push(freed)
