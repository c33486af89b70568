"""A snapshot of what a node knows, for people and tools. Made on demand; nothing in it steers anything."""

from app.cluster.detector import DEAD, Detector
from app.cluster.events import MemberStatus, Status
from app.cluster.state import NodeState
from app.cluster.view import Member, View
from app.wire.protocol import SLOT_COUNT


def snapshot(state: NodeState, detector: Detector, served: int, lease_until: float) -> Status:
    """The status of the node; `served`: mask of the slots it may serve while its lease runs."""
    view = state.view
    own = view.masks[state.address] if view and state.is_member else 0
    return Status(
        state.address,
        state.incarnation,
        view.origin if view else 0,
        state.epoch,
        state.is_member,
        view.coordinator if view else "",
        lease_until - state.now,
        (own & ~served).bit_count(),
        view.is_balanced() if view else False,
        tuple(_member(state, detector, view, member) for member in view.members) if view else (),
        dict(state.dropped),
    )


def _member(state: NodeState, detector: Detector, view: View, member: Member) -> MemberStatus:
    address = member.address
    return MemberStatus(
        address,
        member.incarnation,
        DEAD if address in state.dead else detector.state_of(address),
        member.leaving,
        view.masks[address].bit_count(),
        sum(address in nodes for nodes in view.backups),
        sum(address in view.learners(slot) for slot in range(SLOT_COUNT)),
    )
