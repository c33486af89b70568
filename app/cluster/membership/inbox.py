"""What every datagram from a peer goes through before its handler: limits, sender, header, anti-entropy.

A datagram is dropped and counted if it is too long, from no server that we know of, not a message, of another protocol
(app/version.py), says what no sound node says (app/cluster/limits.py), or is from a process that is known to be gone.
What its header proves is noted. Anti-entropy (Demers et al., 1987): whenever two nodes talk they compare views, and the
one with the newer view sends it. So nothing needs to be sent reliably: what is lost comes with the next heartbeat. For
example, b misses view 5; its next ASK says that it goes by view 4, and is answered with view 5.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from app.cluster.limits import OUTBID_MAX, fault_of
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.detector import Detector
from app.cluster.membership.register import Handler
from app.cluster.membership.state import Known, NodeState
from app.cluster.view import to_message
from app.version import NODE_PROTOCOL_UNNAMED, SHARED_REGISTER
from app.wire.protocol import DATAGRAM_MAX_BYTES
from proto_gen import cluster_pb2 as pb


class Inbox:
    """See the module. `died` and `raise_incarnation` are told what a header reveals."""

    def __init__(
        self,
        state: NodeState,
        detector: Detector,
        bootstrap: Bootstrap,
        coordinator: Coordinator,
        handlers: dict[int, Handler],
        died: Callable[[str, int], None],
        raise_incarnation: Callable[[int], None],
    ) -> None:
        self._state = state
        self._detector = detector
        self._bootstrap = bootstrap
        self._coordinator = coordinator
        self._handlers = handlers
        self._died = died
        self._raise_incarnation = raise_incarnation

    def take(self, peer: str, payload: bytes) -> None:
        """A datagram from the peer."""
        fault = self._take(peer, payload)
        if fault:
            self._state.drop(fault)

    def _take(self, peer: str, payload: bytes) -> str:
        """Why it is dropped, or nothing."""
        state = self._state
        if len(payload) > DATAGRAM_MAX_BYTES:
            return "oversized"
        if peer == state.address or state.is_stranger(peer):
            return "stranger"
        try:
            message = pb.ClusterMessage.FromString(payload)
        except DecodeError:
            return "malformed"
        if (protocol := message.node_protocol or NODE_PROTOCOL_UNNAMED) != state.protocol:
            self._state.note_present(peer)  # or we would found a second cluster beside its own
            self._say_refused(peer, protocol)
            return "other protocol"
        handler = self._handlers.get(message.kind)
        if handler is None or fault_of(message):
            return "malformed"
        if message.sender not in ("", peer):
            # Another server, at an address that was the peer's: what it says must not pass for the peer's word.
            return "other sender"
        if not self._is_current(peer, message):
            return "stale incarnation"
        self._take_header(peer, message)
        handler(peer, message)
        self._compare_views(peer, message)
        return ""

    def _say_refused(self, peer: str, protocol: int) -> None:
        state, known = self._state, self._state.of(peer)
        if state.now - known.refused_at >= timing.WAITING_LOG_S:
            known.refused_at = state.now
            why = f"it speaks node protocol {protocol}, this node {state.protocol}"
            if abs(protocol - state.protocol) == SHARED_REGISTER:
                why = "one of the two goes by an etcd, the other does not: give both the same --coordination"
            state.log(f"{peer} is refused: {why}", "warning")
            state.post(peer, pb.ACK)  # so that it knows that somebody is there

    def _is_current(self, peer: str, message: pb.ClusterMessage) -> bool:
        """Whether it is from the latest process at the peer's address."""
        state, known = self._state, self._state.of(peer)
        if state.incarnation < message.to_incarnation <= OUTBID_MAX and not state.is_member:
            # An earlier process here had a higher incarnation: the wall clock was set back.
            self._raise_incarnation(message.to_incarnation)
        if message.incarnation == known.incarnation <= known.dead:
            known.note_stamp(message.stamp_us, state.now)  # echoed, so that its answer may show that it lives
            if self._echo_after(known.died_at, message):
                self._lives(peer, message.incarnation)
        if message.incarnation < known.incarnation and self._echo_after(known.learned_at, message):
            # It lived when we knew of the other one already, and two are never at one address at once: it came later,
            # after the wall clock was set back. As a member of another cluster it can't be raised.
            before = known.incarnation
            known.note_later_process(message.incarnation, state.now)
            state.note_dead()
            self._detector.died(peer, before)
            return True
        if message.incarnation < known.incarnation or message.incarnation <= known.dead:
            if state.now - known.anti_entropy_at >= timing.ANTI_ENTROPY_S:
                known.anti_entropy_at = state.now
                # Tells it the incarnation that we know of, and the view that has it no more. Where it can't outbid that
                # one, it is asked to show that it came later.
                to = (message.incarnation, message.stamp_us) if known.incarnation > OUTBID_MAX else None
                if state.view is None:
                    state.post(peer, pb.ACK, to=to)
                else:
                    state.post(peer, pb.VIEW, to=to, view=to_message(state.view))
            return False
        if message.incarnation > known.incarnation:
            if known.incarnation > known.dead and not self._lived_after(known, message):
                if state.now - known.anti_entropy_at >= timing.ANTI_ENTROPY_S:
                    known.anti_entropy_at = state.now
                    state.post(peer, pb.PING, to=(message.incarnation, message.stamp_us))  # its answer shows it
                return False
            known.note_new_process(message.incarnation)
            self._died(peer, message.incarnation - 1)  # whatever was there before is gone
        return True

    def _lived_after(self, known: Known, message: pb.ClusterMessage) -> bool:
        """Whether the sender shows that it lived after the process that we know at its address was last proven alive.

        A higher incarnation alone does not show it: where the wall clock was set back, a datagram that is late may be
        from a process before.
        """
        return self._echo_after(max(known.heard_at, known.vouched_at), message)

    def _echo_after(self, dated: float, message: pb.ClusterMessage) -> bool:
        """Whether the message proves that its sender lived after that date."""
        return dated < self._state.echoed_at(message)

    def _lives(self, peer: str, incarnation: int) -> None:
        """The process was held dead for certain, and is not: something has refused in its place."""
        state, known = self._state, self._state.of(peer)
        known.undead, known.dead = incarnation, incarnation - 1
        state.note_dead()
        self._detector.lives(peer, incarnation)
        state.log(f"{peer} lives, though its machine has refused a connection: it was held dead", "error")

    def _take_header(self, peer: str, message: pb.ClusterMessage) -> None:
        state, known = self._state, self._state.of(peer)
        known.learned_at, known.names_protocol = state.now, bool(message.node_protocol)
        is_latest = message.stamp_us >= known.stamp_us
        known.note_stamp(message.stamp_us, state.now)
        if is_latest:
            known.view_key = (message.cluster_id, message.epoch, message.nonce)
        state.note_present(peer)
        if peer in state.guests:
            state.guests[peer] = state.awake_s
        self._bootstrap.heard(peer, message.epoch)
        echo = state.echoed_at(message)
        is_proof = echo > 0
        if is_proof:
            if echo > known.heard_at:
                known.heard_at, known.heard_awake_s = echo, state.awake_s
            self._detector.heard(peer, message.incarnation, echo)
        for death in message.deaths:
            in_view = state.view is not None and state.view.has(death.address, death.incarnation)
            about = state.known.get(death.address)  # nobody is kept in mind for being called dead
            if about is None:
                continue
            if (in_view or about.incarnation >= death.incarnation) and death.incarnation > about.undead:
                self._died(death.address, death.incarnation)
        grantor = self._coordinator.grantor
        if grantor is not None and state.goes_by_our_view(peer, message):
            if message.support_withdrawn:
                self._coordinator.renew = True
            elif message.supports and is_proof:
                grantor.add_support(peer, echo)

    def _compare_views(self, peer: str, message: pb.ClusterMessage) -> None:
        state, known = self._state, self._state.of(peer)
        mine = state.view
        theirs = (message.cluster_id, message.epoch, message.nonce)
        if theirs == state.view_key or state.now - known.anti_entropy_at < timing.ANTI_ENTROPY_S:
            return
        known.anti_entropy_at = state.now
        if mine is not None and (theirs[0] != mine.cluster_id or theirs[1] <= mine.epoch):
            state.post(peer, pb.VIEW, view=to_message(mine))
        elif message.kind != pb.ACK:
            state.post(peer, pb.ACK)
