"""What the tests of single parts of membership share: a node's state in a view, and what it has sent."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from app.cluster.events import Effect, Send
from app.cluster.membership.detector import Detector
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import ClusterConfig, NodeState
from app.cluster.view import Member, View
from proto_gen import cluster_pb2 as pb

CLUSTER_ID = 7
NOW = 100.0  # of every state when it is made; its awake time is 0 then, so that neither can pass for the other
INCARNATIONS = {name: 10 + place for place, name in enumerate("abcdefgh")}


def a_view(members: str = "abc", replicas: int = 3, nonce: int = 1) -> View:
    """The first view of a cluster of nodes with names of one letter."""
    return first_view([Member(name, INCARNATIONS[name]) for name in members], CLUSTER_ID, replicas, nonce)


def a_state(
    me: str = "a", members: str = "abc", servers: str | None = None, *, view: View | None = None, **config: object
) -> NodeState:
    """The state of a node; it is a member of `view` (of `members` without one). No members: it knows no view."""
    names = tuple(servers or members)
    state = NodeState(ClusterConfig(me, names, **config), random.Random(1), INCARNATIONS[me], NOW)  # type: ignore[arg-type]
    if members:
        enter(state, view or a_view(members))
    return state


def enter(state: NodeState, view: View) -> None:
    """Have the state go by the view, all of whose members it knows by their incarnation, and has links to."""
    state.view = view
    state.is_member = view.has(state.address, state.incarnation)
    state.installed_at = state.now
    for member in view.members:
        if member.address != state.address and member.incarnation > state.of(member.address).incarnation:
            state.of(member.address).incarnation = member.incarnation
        state.of(member.address).note_link(is_up=True)
    state.note_dead()


def wait(state: NodeState, seconds: float) -> None:
    """Time passes while the node runs."""
    state.now += seconds
    state.awake_s += seconds


def hear(state: NodeState, *peers: str, ago_s: float = 0.0) -> None:
    """There is proof that the peers lived, and heard us, so long ago; the links to them are up."""
    for peer in peers:
        known = state.of(peer)
        known.heard_at, known.heard_awake_s = state.now - ago_s, state.awake_s - ago_s
        known.note_link(is_up=True)


def vouch(state: NodeState, detector: Detector, *peers: str) -> None:
    """Others have shown that these peers live."""
    for peer in peers:
        watched = detector._members[peer]
        watched.heard_at, watched.heard_awake_s = state.now, state.awake_s


def die(state: NodeState, *peers: str) -> None:
    """The processes that are known at these addresses are dead for certain, as of now."""
    for peer in peers:
        known = state.of(peer)
        known.dead, known.died_at = known.incarnation, state.now
    state.note_dead()


@dataclass
class Sent:
    """One message that was sent."""

    peer: str
    message: pb.ClusterMessage

    @property
    def kind(self) -> str:
        return pb.Kind.Name(self.message.kind)


def sent_in(effects: Iterable[Effect]) -> list[Sent]:
    """The messages among these effects."""
    return [
        Sent(effect.peer, pb.ClusterMessage.FromString(effect.payload))
        for effect in effects
        if isinstance(effect, Send)
    ]


def take_sent(state: NodeState) -> list[Sent]:
    """The messages sent since the last call."""
    sent = sent_in(state.effects)
    state.effects.clear()
    return sent


def take_kinds(state: NodeState) -> list[tuple[str, str]]:
    """To whom what was sent since the last call, sorted."""
    return sorted((sent.peer, sent.kind) for sent in take_sent(state))


def from_peer(state: NodeState, peer: str, kind: "pb.Kind", **fields: object) -> pb.ClusterMessage:
    """A message from a peer that goes by the same view."""
    view = state.view
    header: dict[str, object] = {
        "kind": kind,
        "incarnation": state.of(peer).incarnation or INCARNATIONS[peer],
        "to_incarnation": state.incarnation,
    }
    if view is not None:
        header |= {"cluster_id": view.cluster_id, "epoch": view.epoch, "nonce": view.nonce}
    return pb.ClusterMessage(**(header | fields))  # type: ignore[arg-type]
