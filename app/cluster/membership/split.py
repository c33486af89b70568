"""`--on-partition serve`: a side without a quorum goes on as a cluster of its own.

By default such a side refuses (leases.py sees to that), and nothing acknowledged is ever lost. Where answering matters
more, its members, once they have taken too many others for silent or dead for SPLIT_S, leave the view: the first of
them makes the next one of those that are left, under a new cluster id. That makes it another cluster, whose epochs
clash with nobody's; holders that are left keep their copies, and slots without any start empty. When the sides meet,
the rule for two clusters holds (bootstrap.outranks): the larger one prevails, the other's nodes drop what they hold and
join it. So a slot has two primaries meanwhile, and what the smaller side acknowledged is lost.

Nobody asks for consent: members of one side that see it differently split into smaller ones, and meet by the same rule.
"""

from dataclasses import replace
from math import inf

from app.cluster.membership import timing
from app.cluster.membership.agreement import has_quorum
from app.cluster.membership.detector import DEAD, FAILED, Detector
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.state import NodeState
from app.cluster.view import View


class Split:
    """Whether, and into what, this node splits from its view."""

    def __init__(self, state: NodeState, detector: Detector) -> None:
        self._state = state
        self._detector = detector
        self._since = inf  # awake time since which there has been no quorum
        self._key = (0, 0, 0)  # of the view that this goes for
        self._split_from = (0, 0)  # cluster_id and epoch

    def due(self, lease_until: float) -> View | None:
        """The view to go over to now, if it is time; to be asked at every tick."""
        state, view = self._state, self._state.view
        if state.config.on_partition != "serve" or view is None or not state.is_member or state.leaving:
            return None
        left = [node for node in view.addresses if node == state.address or self._is_with_us(node, view)]
        if view.key != self._key or has_quorum(view.addresses, left, state.countable_dead()):
            self._key, self._since = view.key, inf
        self._since = min(self._since, state.awake_s)
        if state.awake_s - self._since < timing.SPLIT_S or left[0] != state.address or lease_until > state.now:
            return None
        why = {DEAD: "died", FAILED: "is cut off"}
        gone = {
            node: why.get(self._detector.state_of(node), "has left for another cluster")
            for node in view.addresses
            if node not in left
        }
        following = next_view(view, Changes(gone=gone), state.config.replicas, state.rng.getrandbits(63) | 1)
        assert following is not None
        # Above the id of the cluster that we leave: of two sides of one size the one that kept it prevails.
        return replace(following, cluster_id=max(view.cluster_id, state.incarnation) + 1 + state.rng.getrandbits(32))

    def _is_with_us(self, node: str, view: View) -> bool:
        """Whether the member is up, and has not left our cluster: who has never comes back to it."""
        return self._detector.is_up(node) and self._state.of(node).view_key[0] in (0, view.cluster_id)

    def is_of_our_side(self, view: View, lease_until: float) -> bool:
        """Whether another cluster's view is one that others of our side have made, with us in it.

        No other cluster's view has this very process in it.
        """
        state, mine = self._state, self._state.view
        return (
            state.config.on_partition == "serve"
            and mine is not None
            and state.is_member
            and view.has(state.address, state.incarnation)
            and view.epoch > mine.epoch
            and lease_until <= state.now
        )

    def note_split_from(self, before: View) -> None:
        """We leave this view."""
        self._split_from = (before.cluster_id, before.epoch)

    def is_behind(self, view: View) -> bool:
        """Whether it is the view that we left, or an earlier one: it says nothing of what lives now."""
        cluster_id, epoch = self._split_from
        return view.cluster_id == cluster_id and view.epoch <= epoch
