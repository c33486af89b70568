"""The register that is built in: for each epoch one decree of Paxos among the members of the view (agreement.py).

The first member (in order of seniority) that is not dead or failed, as a node sees it, proposes; or one that has had
no word of the coordinator, and no lease, for long (it is not dead or failed if others vouch for it). Nodes may
differ in that for a while, and agreement.py sorts it out. A proposer that is not the coordinator of the
present view takes its place only when a quorum has promised it a ballot and their support of the coordinator
(leases.py) has run out, or when the coordinator is dead for certain. The first view is decided on by the newcomers
(bootstrap.py).
"""

from collections.abc import Mapping
from math import inf

from app.cluster.limits import RANKS, ballots_below
from app.cluster.membership import timing
from app.cluster.membership.agreement import Acceptor, Phase, Proposal, next_ballot
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.detector import Detector
from app.cluster.membership.lacks import Lacks
from app.cluster.membership.leases import USABLE_S, Grantor, Lease
from app.cluster.membership.register import Handler, Proposer, Register
from app.cluster.membership.state import NodeState
from app.cluster.view import BadView, View, from_message, to_message
from proto_gen import cluster_pb2 as pb


class Decree(Register):
    """Proposer and acceptor of the next view, on every node."""

    def __init__(
        self,
        state: NodeState,
        detector: Detector,
        lease: Lease,
        bootstrap: Bootstrap,
        lacks: Lacks,
        proposer: Proposer,
    ) -> None:
        self._state = state
        self._detector = detector
        self._lease = lease
        self._bootstrap = bootstrap
        self._lacks = lacks
        self._proposer = proposer
        self._acceptor = Acceptor()
        self._decree_since = state.now  # when the present decree began for us
        self._proposal: Proposal | None = None
        self._proposed_at = -inf  # when the proposal got its value
        self._complete_at = inf  # when the proposal's quorum was there
        self._support_ends: dict[str, float] = {}  # when the support of an acceptor that promised has run out
        self._ballot_seen = 0
        self._retry_at = -inf
        self._resend_at = -inf
        self._helped_at = -inf  # when we last helped another proposer

    def entered(self) -> None:
        self._acceptor = Acceptor()
        self._decree_since = self._state.now
        self._proposal = None
        self._ballot_seen = 0
        self._retry_at = -inf

    def handlers(self) -> Mapping[int, Handler]:
        return {
            pb.PREPARE: self.on_prepare,
            pb.PROMISE: self.on_promise,
            pb.ACCEPT: self.on_accept,
            pb.ACCEPTED: self.on_accepted,
            pb.REJECT: self.on_reject,
        }

    # Proposing.

    @property
    def is_busy(self) -> bool:
        return self._proposal is not None

    def advance(self) -> None:
        proposal = self._proposal
        assert proposal is not None
        if proposal.phase is Phase.PREPARE and not self._may_propose():
            self._proposal = None
        else:
            self._advance(proposal)

    def may_start(self) -> bool:
        return self._state.now >= self._retry_at and self._may_propose()

    def _may_propose(self) -> bool:
        state = self._state
        if state.view is None:
            return self._bootstrap.may_found()
        if not state.is_member:
            return False
        place = state.view.addresses.index(state.address)
        if place and self._is_without_lease(place):
            return True
        return not any(self._detector.is_up(address) for address in state.view.addresses[:place])

    def _is_without_lease(self, place: int) -> bool:
        """Whether we have heard nothing of the coordinator for long, though others may; the juniors wait longer.

        Nor may most: then it grants nothing to anybody, and this replaces it. If most do, they don't help us.
        """
        state = self._state
        assert state.view is not None
        if self._lease.until > state.now or state.now < self._helped_at + timing.HELPED_S:
            return False
        return self._lacks.is_unheard(state.view.coordinator, longer_s=place * timing.ROUND_BACKOFF_S)

    def start(self) -> None:
        state = self._state
        acceptors = state.view.addresses if state.view else state.config.servers
        above = max(self._ballot_seen, self._acceptor.promised)
        proposal = Proposal(next_ballot(above, acceptors.index(state.address)), acceptors)
        self._proposal = proposal
        self._support_ends = {}
        self._withdraw_support(state.address, proposal.ballot)
        self._acceptor.prepare(proposal.ballot)
        proposal.promised(state.address, self._acceptor.accepted_ballot, self._acceptor.accepted)
        self._support_ends[state.address] = state.now + self.support_left_s()
        self._send(proposal)
        self._advance(proposal)

    def _send(self, proposal: Proposal) -> None:
        self._resend_at = self._state.now + timing.PREPARE_RETRY_S
        dead = self._state.dead
        for node in proposal.missing():
            if node in dead:
                continue
            if proposal.phase is Phase.PREPARE:
                self._state.post(node, pb.PREPARE, ballot=proposal.ballot)
            else:
                assert proposal.value is not None
                self._state.post(node, pb.ACCEPT, ballot=proposal.ballot, view=to_message(proposal.value))

    def _complete(self, proposal: Proposal) -> bool:
        if self._state.view is None:
            since = self._proposed_at if proposal.phase is Phase.ACCEPT else -inf
            return self._bootstrap.has_quorum(proposal.answered, self._free(), since)
        return proposal.has_quorum(self._state.countable_dead())

    def _free(self) -> set[str]:
        """Those who have promised, and whose support of another coordinator is over."""
        return {node for node, until in self._support_ends.items() if until <= self._state.now}

    def _advance(self, proposal: Proposal) -> None:
        state = self._state
        if self._acceptor.promised > proposal.ballot:  # we have promised another since
            self._give_way(self._acceptor.promised)
            return
        if proposal.phase is Phase.PREPARE and self._complete(proposal):
            if state.view is None and proposal.found and self._bootstrap.is_extinct(proposal.found):
                proposal.found = None
            value = proposal.found or self._value(proposal)
            if value is not None:
                grantor = self._proposer.grantor
                if grantor is not None and state.view is not None:
                    # Whatever becomes of the proposal, those it removes get no more leases from us.
                    grantor.denied.update(set(state.view.addresses) - set(value.addresses))
                proposal.propose(value)
                self._proposed_at = state.now
                self._complete_at = inf
                self._acceptor.accept(proposal.ballot, value)
                proposal.accepted(state.address)
                self._send(proposal)
        if proposal.phase is Phase.ACCEPT and self._complete(proposal) and self._is_widely_known(proposal):
            assert proposal.value is not None
            if state.view is None:
                state.bound_until = max(state.bound_until, self._bootstrap.bound_until(self._support_ends))
            self._proposer.chosen(proposal.value)
        elif state.now >= self._resend_at:
            self._send(proposal)

    def _give_way(self, ballot: int) -> None:
        """Another proposer is ahead: give it a moment, then try above its ballot."""
        self._ballot_seen = max(self._ballot_seen, ballot)
        self._proposal = None
        self._retry_at = self._state.now + self._state.rng.uniform(0.2, 1) * timing.ROUND_BACKOFF_S

    def _is_widely_known(self, proposal: Proposal) -> bool:
        """Whether all who seem up have accepted, or had their time.

        A quorum is enough to be right. But what few accepted dies with few: in a cluster of two the first
        alone is a quorum.
        """
        self._complete_at = min(self._complete_at, self._state.now)
        if self._state.view is None or self._state.now >= self._complete_at + timing.ACCEPT_GRACE_S:
            return True
        return not any(self._detector.is_up(node) for node in proposal.missing())

    def _value(self, proposal: Proposal) -> View | None:
        """The view to propose; None: not yet."""
        state = self._state
        nonce = state.rng.getrandbits(63) | 1
        if state.view is None or self._proposer.grantor is not None or state.view.coordinator in state.dead:
            return self._proposer.value(nonce, is_support_over=False)
        probe = Proposal(proposal.ballot, proposal.acceptors, answered=self._free())
        if not probe.has_quorum(state.countable_dead()):
            return None
        return self._proposer.value(nonce, is_support_over=True)

    # Accepting.

    def support_left_s(self) -> float:
        if self._state.view is None:
            return self._bootstrap.wait_s()
        if (grantor := self._proposer.grantor) is not None:
            return grantor.granted_left_s(self._state.now)
        return max(0.0, self._state.support_until - self._state.now)

    def leader_lease_end(self, grantor: Grantor) -> float:
        state = self._state
        if state.is_bound:
            return -inf
        end = grantor.leader_lease_end(state.countable_dead(), state.members_needed(), state.founders())
        # Alone, and enough only because others are absent: as long as that is known.
        counts_absent = len(state.config.servers) > 2 and not grantor.view.is_forced and not grantor.view.lists_servers
        is_alone = end == inf and counts_absent
        return state.now + USABLE_S if is_alone else end

    def _may_help(self, proposer: str) -> bool:
        """Whether we may promise to, or accept from, this proposer."""
        state = self._state
        view = state.view
        if view is None:
            return True
        if not state.is_member:
            return False
        if proposer == view.coordinator or view.coordinator in state.dead:
            return True
        if view.coordinator == state.address:
            return self._lease.until <= state.now
        return not (self._detector.state_of(view.coordinator) == "alive" and state.coordinator_is_fresh())

    def _withdraw_support(self, proposer: str, ballot: int) -> None:
        state = self._state
        self._ballot_seen = max(self._ballot_seen, ballot)
        if proposer != state.address:
            self._helped_at = state.now
        if state.view is not None and proposer != state.view.coordinator:
            state.support_withdrawn = True

    def _is_ballot(self, message: pb.ClusterMessage) -> bool:
        """Whether the message belongs to our decree, and is sane; else it is dropped."""
        state = self._state
        if (message.cluster_id, message.epoch, message.nonce) != state.view_key:
            state.drop("stale view")
            return False
        if not self._has_room(message.ballot):
            state.drop("bad ballot")
            return False
        return True

    def _has_room(self, ballot: int) -> bool:
        """Whether honest proposers can have come to this ballot, and others above it, in the time of this decree."""
        return 0 < ballot < ballots_below(self._state.now - self._decree_since)

    def _is_proposers(self, peer: str, message: pb.ClusterMessage) -> bool:
        """Whether the message belongs to our decree, and its ballot is the sender's own; else it is dropped.

        Newcomers' ranks are those of their files, which may differ.
        """
        state = self._state
        if not self._is_ballot(message):
            return False
        acceptors = state.view.addresses if state.view else state.config.servers
        if peer in acceptors and (state.view is None or acceptors.index(peer) == message.ballot % RANKS):
            return True
        state.drop("bad ballot")
        return False

    def _follows(self, view: View) -> bool:
        """Whether the view can be what this decree is about."""
        mine = self._state.view
        if mine is None:
            return view.epoch == 1
        return (view.cluster_id, view.epoch) == (mine.cluster_id, mine.epoch + 1)

    def _view_of(self, peer: str, message: pb.ClusterMessage) -> View | None:
        """The view that the message proposes or has accepted; None: it is dropped."""
        state = self._state
        try:
            view = from_message(message.view)
            if not self._follows(view):
                raise BadView(f"epoch {view.epoch} of {view.cluster_id} does not follow ours")
        except BadView as fault:
            state.drop("bad view")
            state.log(f"bad view from {peer}: {fault}", "warning")
            return None
        return view

    def on_prepare(self, peer: str, message: pb.ClusterMessage) -> None:
        """A proposer asks for our promise."""
        state = self._state
        if not self._is_proposers(peer, message):
            return
        if not self._may_help(peer):
            state.post(peer, pb.REJECT, ballot=message.ballot)
            return
        if not self._acceptor.prepare(message.ballot):
            state.post(peer, pb.REJECT, ballot=message.ballot, accepted_ballot=self._acceptor.promised)
            return
        self._withdraw_support(peer, message.ballot)
        accepted = self._acceptor.accepted
        state.post(
            peer,
            pb.PROMISE,
            ballot=message.ballot,
            accepted_ballot=self._acceptor.accepted_ballot,
            view=to_message(accepted) if accepted else None,
            span_us=round(self.support_left_s() * 1e6) + 1,
        )

    def on_accept(self, peer: str, message: pb.ClusterMessage) -> None:
        """A proposer asks us to accept its view."""
        state = self._state
        view = self._view_of(peer, message) if self._is_proposers(peer, message) else None
        if view is None:
            return
        if not self._may_help(peer):
            state.post(peer, pb.REJECT, ballot=message.ballot)
        elif self._acceptor.accept(message.ballot, view):
            self._withdraw_support(peer, message.ballot)
            state.post(peer, pb.ACCEPTED, ballot=message.ballot)
        else:
            state.post(peer, pb.REJECT, ballot=message.ballot, accepted_ballot=self._acceptor.promised)

    def on_promise(self, peer: str, message: pb.ClusterMessage) -> None:
        """An acceptor has promised."""
        proposal = self._proposal
        if not self._is_ballot(message) or proposal is None or message.ballot != proposal.ballot:
            return
        accepted = self._view_of(peer, message) if message.accepted_ballot else None
        if message.accepted_ballot > message.ballot or (message.accepted_ballot and accepted is None):
            return
        proposal.promised(peer, message.accepted_ballot, accepted)
        left_s = message.span_us / 1e6 / timing.SAFE_SHARE
        self._support_ends.setdefault(peer, self._state.now + left_s)
        self._advance(proposal)

    def on_accepted(self, peer: str, message: pb.ClusterMessage) -> None:
        """An acceptor has accepted."""
        proposal = self._proposal
        if self._is_ballot(message) and proposal is not None and message.ballot == proposal.ballot:
            proposal.accepted(peer)
            self._advance(proposal)

    def on_reject(self, peer: str, message: pb.ClusterMessage) -> None:
        """An acceptor has promised a higher ballot (or, with none named, may not help us now)."""
        proposal = self._proposal
        if not self._is_ballot(message) or proposal is None or message.ballot != proposal.ballot:
            return
        if proposal.ballot < message.accepted_ballot and self._has_room(message.accepted_ballot):
            self._give_way(message.accepted_ballot)
