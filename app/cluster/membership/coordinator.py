"""From what happened to the next view: who proposes it, when, and with what in it.

The first member (in order of seniority) that is not dead or failed, as a node sees it, proposes; or one that has had
no word of the coordinator, and no lease, for long (it is not dead or failed if others vouch for it). Nodes may
differ in that for a while, and agreement.py sorts it out. A proposer that is not the coordinator of the
present view takes its place only when a quorum has promised it a ballot and their support of the coordinator
(leases.py) has run out, or when the coordinator is dead for certain.

A member is removed when it is dead for certain; or silent, or lacked by others (lacks.py), and its lease is over; or
leaving and has handed over. Deaths are acted on at once; joins and caught-up learners are gathered for a moment.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

from app.cluster.limits import RANKS, ballots_below
from app.cluster.membership import timing
from app.cluster.membership.agreement import Acceptor, Phase, Proposal, next_ballot
from app.cluster.membership.belonging import Belonging
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.detector import FAILED, Detector
from app.cluster.membership.lacks import Lacks
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.override import is_enough
from app.cluster.membership.planner import Changes, everybody_leaves, first_view, holds_nothing, next_view
from app.cluster.membership.state import NodeState
from app.cluster.view import BadView, View, from_message, to_message
from proto_gen import cluster_pb2 as pb


class Coordinator:
    """Proposer and acceptor of the next view, on every node."""

    def __init__(
        self,
        state: NodeState,
        detector: Detector,
        lease: Lease,
        bootstrap: Bootstrap,
        install: Callable[[View], None],
    ) -> None:
        self._state = state
        self._detector = detector
        self._lease = lease
        self._bootstrap = bootstrap
        self._install = install
        self.grantor: Grantor | None = None  # while we are the coordinator of the view
        self._acceptor = Acceptor()
        self._decree_since = state.now  # when the present decree began for us
        self._proposal: Proposal | None = None
        self._support_ends: dict[str, float] = {}  # when the support of an acceptor that promised has run out
        self._ballot_seen = 0
        self._retry_at = -inf
        self._resend_at = -inf
        self._helped_at = -inf  # when we last helped another proposer
        self._gather_until = inf
        self.joiners: set[str] = set()
        self.leavers: set[str] = set()
        self.synced: dict[str, int] = {}
        self.lost: dict[str, int] = {}  # slots of which members are listed as holders, and have lost the copy
        self.lacks = Lacks(state, detector)
        self.belonging = Belonging(state, detector)
        self.renew = False  # a member has withdrawn its support: only a new view makes it support us again

    def reset(self) -> None:
        """A view was installed, or we begin anew as a fresh incarnation: another decree is next."""
        self._acceptor = Acceptor()
        self._decree_since = self._state.now
        self._proposal = None
        self._ballot_seen = 0
        self._retry_at = -inf
        self._gather_until = inf
        self.leavers.clear()
        self.synced.clear()
        self.lost.clear()
        self.renew = False

    # Proposing.

    def run(self, is_tick: bool) -> None:
        """Do what is due; called after every step. But for a death, news can wait for the next tick."""
        if is_tick:
            self.lacks.look(self.lost)
            self._step_back()
        proposal = self._proposal
        if proposal is not None:
            if proposal.phase is Phase.PREPARE and not self._may_propose():
                self._proposal = None
            else:
                self._advance(proposal)
            return
        may_start = (is_tick or self._state.dead) and self._state.now >= self._retry_at
        if may_start and self._may_propose() and self._is_due() and self._leaves_enough():
            self._start()

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
        return self.lacks.is_unheard(state.view.coordinator, longer_s=place * timing.ROUND_BACKOFF_S)

    def _is_due(self) -> bool:
        """Whether there is something to change, and no reason to wait for more of it."""
        state = self._state
        if state.view is None or not state.is_coordinator:
            return True
        self._deny_leavers(state.view)
        changes = self._changes(is_support_over=False)
        if (
            self._has_stepped_back
            or self.renew
            or state.support_withdrawn
            or any(why != "left" for why in changes.gone.values())
        ):
            return True
        if not changes:
            self._gather_until = inf
            return False
        self._gather_until = min(self._gather_until, state.now + timing.BATCH_S)
        return state.now >= self._gather_until

    def _leaves_enough(self) -> bool:
        """Whether as many would be in the next view as may go on."""
        state = self._state
        if state.view is None:
            return True
        left = self._left(state.view, self._changes(is_support_over=True))
        count, needed = state.counted(left), state.members_needed()
        if count < needed and state.now - self._too_few_logged_at >= timing.WAITING_LOG_S:
            self._too_few_logged_at = state.now
            counting = state.founders() or state.config.servers
            missing = [server for server in counting if server not in left and server not in state.absent]
            state.log(
                f"too few servers to go on: {count}, {needed} are needed; nothing is heard of {' '.join(missing)}",
                "warning",
            )
        return count >= needed

    def _left(self, view: View, changes: Changes) -> set[str]:
        """Who must be enough to go on (state.members_needed) for these changes to be made.

        Whoever leaves by itself may: it has handed over. If too few are left, they don't serve until there are more.
        """
        stay = {address for address in view.addresses if changes.gone.get(address, "left") == "left"}
        return stay | changes.joined.keys()

    _too_few_logged_at = -inf

    def _deny_leavers(self, view: View) -> None:
        # When all leave at once there is nobody to hand over to: their leases run out, then they may go.
        if self.grantor and len(view.members) > 1 and everybody_leaves(view, self._all_leavers()):
            self.grantor.denied.update(self._state.others())

    def _step_back(self) -> None:
        """As the coordinator that others lack: serve no more, once nobody else has to go before the next view.

        That view has another coordinator, who knows nothing of our lease: it must be over before anybody can agree.
        """
        state, grantor = self._state, self.grantor
        if grantor is None or state.address not in self.lacks.going or not self.lacks.is_certain():
            return
        if all(grantor.is_lapsed(node, state.now) for node in self.lacks.going):
            grantor.denied.add(state.address)
            self._lease.drop()

    @property
    def _has_stepped_back(self) -> bool:
        """Whether this node, the coordinator, serves no more in its view."""
        return self.grantor is not None and self._state.address in self.grantor.denied

    def _all_leavers(self) -> set[str]:
        return self.leavers | ({self._state.address} if self._state.leaving else set())

    def _changes(self, is_support_over: bool) -> Changes:
        """What the next view would change. `is_support_over`: all leases of this view are over."""
        state = self._state
        view = state.view
        assert view is not None
        changes = Changes()
        leavers = self._all_leavers()
        for member in view.members:
            address = member.address
            if why := self._removal(view, address, is_support_over, member.leaving or address in leavers):
                changes.gone[address] = why
            elif address in leavers and not member.leaving:
                changes.leaving.add(address)
        for address in self.joiners:
            known = state.of(address)
            fresh = state.awake_s - known.heard_awake_s < timing.HEARD_S
            is_another = view.incarnations.get(address, 0) < known.incarnation or address in state.dead
            is_candidate = fresh and is_another and known.incarnation > known.dead and address != state.address
            # What it has asked may have waited here while we were stopped, and it be a member elsewhere by now.
            is_free = known.view_key[0] in (0, view.cluster_id)
            is_wanted = self.belonging.admits(address) and self.lacks.admits(address)
            if is_candidate and is_free and is_wanted:
                changes.joined[address] = known.incarnation
        if self.grantor is not None:
            self.belonging.add_to(changes, self.grantor)
        live = [address for address in view.addresses if address not in changes.gone]
        changes.synced = {node: slots for node, slots in self.synced.items() if node in live}
        changes.lost = {node: slots for node, slots in self.lost.items() if node in live}
        return changes

    def _removal(self, view: View, address: str, is_support_over: bool, leaving: bool) -> str:
        """Why the member is to be removed, or nothing."""
        state = self._state
        grantor = self.grantor
        if address == state.address:
            alone = len(view.members) == 1
            if leaving and not alone and holds_nothing(view, address):
                return "left"
            return self.lacks.why(address) if self._has_stepped_back and address in self.lacks.going else ""
        if address in state.dead:
            return "died" if state.of(address).incarnation == view.incarnations[address] else "was restarted"
        if self._detector.state_of(address) == FAILED:
            return "is silent" if self._is_lapsed(address, is_support_over) else ""
        if grantor is None:
            is_unheard = address == view.coordinator and self.lacks.is_unheard(address)
            return "is not heard by most" if is_unheard and is_support_over else ""
        if self.belonging.is_forced_out(address, grantor):
            return "is removed by force"
        if leaving:
            done = address in grantor.acknowledged and holds_nothing(view, address)
            lapsed = address in grantor.denied and grantor.is_lapsed(address, state.now)
            return "left" if done or lapsed else ""
        if address in self.lacks.going and self.lacks.is_certain() and grantor.is_lapsed(address, state.now):
            return self.lacks.why(address)
        return ""

    def entered(self, grantor: Grantor | None) -> None:
        """A view was installed; `grantor`: what its coordinator keeps, if that is us."""
        self.reset()
        self.lacks.entered()
        self.grantor = grantor
        self.belonging.entered(is_coordinator=grantor is not None)
        view = self._state.view
        if view is not None:
            self.joiners = {
                address
                for address in self.joiners
                if view.incarnations.get(address, 0) < self._state.of(address).incarnation
            }

    def forget_strangers(self) -> None:
        """Nobody is taken in who is no server any more."""
        self.joiners = {address for address in self.joiners if not self._state.is_stranger(address)}
        self.lacks.forget_strangers()

    def _is_lapsed(self, address: str, is_support_over: bool) -> bool:
        """Whether the lease of a silent member is over for certain."""
        state = self._state
        assert state.view is not None
        if self.grantor is not None:
            return self.grantor.is_lapsed(address, state.now)
        coordinator = state.view.coordinator
        if coordinator in state.dead:
            since = max(state.of(coordinator).died_at, state.installed_at)
            return state.now >= since + timing.LAPSE_S
        return is_support_over

    def _start(self) -> None:
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
            return self._bootstrap.has_quorum(proposal.answered, self._free())
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
                if self.grantor is not None and state.view is not None:
                    # Whatever becomes of the proposal, those it removes get no more leases from us.
                    self.grantor.denied.update(set(state.view.addresses) - set(value.addresses))
                proposal.propose(value)
                self._complete_at = inf
                self._acceptor.accept(proposal.ballot, value)
                proposal.accepted(state.address)
                self._send(proposal)
        if proposal.phase is Phase.ACCEPT and self._complete(proposal) and self._is_widely_known(proposal):
            assert proposal.value is not None
            self._chosen(proposal.value)
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

    _complete_at = inf  # when the quorum was there

    def _value(self, proposal: Proposal) -> View | None:
        """The view to propose; None: not yet."""
        state = self._state
        nonce = state.rng.getrandbits(63) | 1
        if state.view is None:
            members = self._bootstrap.members()
            return first_view(members, state.incarnation, state.config.replicas, nonce)
        is_support_over = False
        if self.grantor is None and state.view.coordinator not in state.dead:
            probe = Proposal(proposal.ballot, proposal.acceptors, answered=self._free())
            if not probe.has_quorum(state.countable_dead()):
                return None
            is_support_over = True
        changes = self._changes(is_support_over)
        if state.counted(self._left(state.view, changes)) < state.members_needed():
            return None
        following = next_view(state.view, changes, state.config.replicas, nonce)
        if following is not None and following.is_forced and is_enough(following, state.config.servers):
            return replace(following, is_forced=False)  # it has as many as a cluster needs
        return following

    def _chosen(self, view: View) -> None:
        state = self._state
        members = state.view.addresses if state.view else state.config.servers
        if state.view is None:
            state.bound_until = max(state.bound_until, self._bootstrap.bound_until(self._support_ends))
        # Who asks to join is taken in once it has shown a link to each member of the newest view.
        audience = dict.fromkeys([*members, *view.addresses, *self.lacks.outsiders()])
        self._install(view)
        message = to_message(view)
        for node in audience:
            if node != state.address:
                state.post(node, pb.VIEW, view=message)

    # Accepting.

    def support_left_s(self) -> float:
        """How long we still support the coordinator of the view, by our clock.

        As the coordinator ourselves: how long the leases run that we have granted. As a newcomer: how long what the
        process before us has promised may count.
        """
        if self._state.view is None:
            return self._bootstrap.wait_s()
        if self.grantor is not None:
            return max([0.0, *(until - self._state.now for until in self.grantor.granted_until.values())])
        return max(0.0, self._state.support_until - self._state.now)

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
