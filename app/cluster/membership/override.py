"""What an operator may order where too few servers are left for a cluster to be founded, or to go on.

The node that is asked makes a view of those that it hears: of the members of its view, if it has one, else of newcomers
like itself. It is a new cluster, with an id of its own, so that its epochs clash with nobody's. Holders keep their
copies; slots without any holder there start empty. While it has fewer members than a cluster needs, it goes on with
whom it has (`View.is_forced`).

The price: the others may live on, out of reach, and serve too; or they have what was acknowledged and is missing here.
Whoever still goes by the view that this one was made of, or one before, joins it and drops what it holds; with any
other cluster it meets by the usual rule (bootstrap.outranks). Nothing here happens by itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from app.cluster.limits import CLUSTER_ID
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.detector import DEAD, Detector
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.membership.state import NodeState
from app.cluster.view import View


def forced_view(state: NodeState, detector: Detector, bootstrap: Bootstrap) -> View:
    """The view of a new cluster of those that this node hears, itself among them."""
    before, replicas = state.view, state.config.replicas
    nonce = state.rng.getrandbits(63) | 1
    if before is None:
        view = first_view(bootstrap.members(), state.incarnation, replicas, nonce)
    else:
        gone = {
            node: "died" if detector.state_of(node) == DEAD else "is left behind"
            for node in before.addresses
            if node != state.address and not _is_with_us(node, before, state, detector)
        }
        following = next_view(before, Changes(gone=gone), replicas, nonce)
        assert following is not None, "this node stays"
        cluster_id = 1 + (max(before.cluster_id, state.incarnation) + state.rng.getrandbits(32)) % CLUSTER_ID.most
        view = replace(following, cluster_id=cluster_id, forced_from=(before.cluster_id, before.epoch))
    return replace(view, is_forced=not is_enough(view, state.config.servers))


def _is_with_us(node: str, view: View, state: NodeState, detector: Detector) -> bool:
    """Whether the member is up, and has not left our cluster: who has never comes back to it."""
    return detector.is_up(node) and state.of(node).view_key[0] in (0, view.cluster_id)


def is_enough(view: View, file: Sequence[str]) -> bool:
    """Whether it has as many members as a cluster needs: half of the file, or of the founders, if it lists servers."""
    if view.lists_servers:
        return 2 * sum(1 for node in view.founders if node in view.incarnations) >= len(view.founders)
    return 2 * len(view.members) >= len(file)


def emptied(before: View | None, view: View) -> int:
    """How many slots none of the holders of which is in the new view."""
    if before is None:
        return 0
    return sum(1 for slot, node in enumerate(view.primaries) if node not in before.holders(slot))
