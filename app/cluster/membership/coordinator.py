"""From what happened to the next view: when one is due, and what is in it.

Whose turn it is to propose one, and which one is chosen, is the register's business (register.py).

A member is removed when it is dead for certain; or silent, or lacked by others (lacks.py), and its lease is over; or
leaving and has handed over. Deaths are acted on at once; joins and caught-up learners are gathered for a moment.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

from app.cluster.membership import timing
from app.cluster.membership.agreement import has_quorum
from app.cluster.membership.belonging import Belonging
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.decree import Decree
from app.cluster.membership.detector import FAILED, Detector
from app.cluster.membership.lacks import Lacks
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.override import is_enough
from app.cluster.membership.planner import Changes, everybody_leaves, first_view, holds_nothing, next_view
from app.cluster.membership.register import Register
from app.cluster.membership.shared_register import SharedRegister
from app.cluster.membership.state import NodeState
from app.cluster.view import View, to_message
from proto_gen import cluster_pb2 as pb


class Coordinator:
    """Says what is to be proposed, on every node; see Proposer."""

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
        self._gather_until = inf
        self._too_few_logged_at = -inf
        self.joiners: dict[str, float] = {}  # who asks to join; until when, by our clock, it supports nobody
        self.leavers: set[str] = set()
        self.synced: dict[str, int] = {}
        self.lost: dict[str, int] = {}  # slots of which members are listed as holders, and have lost the copy
        self.lacks = Lacks(state, detector)
        self.belonging = Belonging(state, detector)
        self.renew = False  # a member has withdrawn its support: only a new view makes it support us again
        # What decides on views; `shared` is the same, if it is outside.
        self.shared = SharedRegister(state, detector, lease, self) if state.config.shared_register else None
        self.register: Register = self.shared or Decree(state, detector, lease, bootstrap, self.lacks, self)

    # Proposing.

    def run(self, is_tick: bool) -> None:
        """Do what is due; called after every step. But for a death, news can wait for the next tick."""
        if is_tick:
            self.lacks.look(self.lost)
            self._step_back()
        if self.register.is_busy:
            self.register.advance()
        elif (is_tick or self._state.dead) and self.register.may_start() and self._is_due() and self._leaves_enough():
            self.register.start()
        if is_tick and self.shared is not None:
            self.shared.tick()

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
        if state.view is None or self.shared is not None:
            return True
        left = self._left(state.view, self._changes(is_support_over=True))
        count, needed = state.counted(left), state.members_needed()
        if count < needed and state.now - self._too_few_logged_at >= timing.WAITING_LOG_S:
            self._too_few_logged_at = state.now
            # Founders count wherever they are; of a file's servers those that may be somewhere.
            founders = state.founders()
            counting = founders or [server for server in state.config.servers if server not in state.absent]
            missing = " ".join(server for server in counting if server not in left)
            who = "founders" if founders else "servers"
            state.log(f"too few {who} to go on: {count}, {needed} are needed; not up: {missing}", "warning")
        return count >= needed

    def _left(self, view: View, changes: Changes) -> set[str]:
        """Who must be enough to go on (state.members_needed) for these changes to be made.

        Whoever leaves by itself may: it has handed over. If too few are left, they don't serve until there are more.
        """
        stay = {address for address in view.addresses if changes.gone.get(address, "left") == "left"}
        return stay | changes.joined.keys()

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
        self._put_off(view, changes)
        spared = self._spared(view, changes) if self.shared is not None else {}
        for address in spared:
            del changes.gone[address]
        if self.grantor is not None:
            self.belonging.add_to(changes, self.grantor)
        live = [address for address in view.addresses if address not in changes.gone]
        changes.synced = {node: slots for node, slots in self.synced.items() if node in live and node not in spared}
        lost = {node: self.lost.get(node, 0) | spared.get(node, 0) for node in (*self.lost, *spared)}
        changes.lost = {node: slots for node, slots in lost.items() if node in live and slots}
        return changes

    def _put_off(self, view: View, changes: Changes) -> None:
        """Have as many join as leave this node, which serves, the support that it needs; the others a little later.

        A process that has just been started supports nobody for LAPSE_S (NodeState.is_bound). With too many of those at
        once, fewer than half of the members support their coordinator: it grants no leases then, and slots that move
        are served by nobody until the lapse is over.
        """
        state, grantor = self._state, self.grantor
        if grantor is None or self._lease.until <= state.now:
            return
        late = [address for address in sorted(changes.joined) if self.joiners[address] > state.now]
        ready = len(changes.joined) - len(late)
        staying = [address for address in view.addresses if address not in changes.gone]
        supporting = 1 + sum(1 for node in staying if grantor.support_until.get(node, -inf) > state.now)
        room = 2 * (supporting + ready) - (len(staying) + ready)
        for address in late[max(0, room) :]:
            del changes.joined[address]

    def _spared(self, view: View, changes: Changes) -> dict[str, int]:
        """Who is to go for its silence, and stays, as it may have the only copy of something; and those slots of which
        it has not: there it is no holder any more.

        Where a quorum decides, those whom it leaves behind are few, and have copies elsewhere. With a shared register
        any number of survivors goes on: what none of them has waits for who has it, or for a later process there.
        """
        certain = {"died", "was restarted", "left"}
        silent = {address for address, why in changes.gone.items() if why not in certain}
        staying = [address for address in view.addresses if address not in changes.gone]
        if not silent or (self._state.config.replicas == 1 and has_quorum(view.addresses, staying, ())):
            return {}  # one copy is one
        last: set[str] = set()
        others = dict.fromkeys(silent, 0)
        for slot in range(len(view.primaries)):
            holders = view.holders(slot)
            if any(node not in changes.gone for node in holders):
                for node in silent.intersection(holders):
                    others[node] |= 1 << slot
            else:
                last |= silent.intersection(holders)
        return {node: others[node] for node in last}

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
        """A view was installed, or we begin anew as a fresh incarnation; `grantor`: what its coordinator keeps, if that
        is us."""
        self.register.entered()
        self._gather_until = inf
        self.leavers.clear()
        self.synced.clear()
        self.lost.clear()
        self.renew = False
        self.lacks.entered()
        self.grantor = grantor
        self.belonging.entered(is_coordinator=grantor is not None)
        view = self._state.view
        if view is not None:
            self.joiners = {
                address: bound_until
                for address, bound_until in self.joiners.items()
                if view.incarnations.get(address, 0) < self._state.of(address).incarnation
            }

    def forget_strangers(self) -> None:
        """Nobody is taken in who is no server any more."""
        self.joiners = {
            address: until for address, until in self.joiners.items() if not self._state.is_stranger(address)
        }
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

    def value(self, nonce: int, *, is_support_over: bool) -> View | None:
        """See Proposer."""
        state = self._state
        if state.view is None:
            members = self._bootstrap.members()
            return first_view(members, state.incarnation, state.config.replicas, nonce)
        changes = self._changes(is_support_over)
        if state.counted(self._left(state.view, changes)) < state.members_needed():
            return None
        following = next_view(state.view, changes, state.config.replicas, nonce)
        if following is not None and following.is_forced and is_enough(following, state.config.servers):
            return replace(following, is_forced=False)  # it has as many as a cluster needs
        return following

    def holds(self, view: View) -> None:
        """See Proposer."""
        self._install(view)

    def chosen(self, view: View) -> None:
        """See Proposer."""
        state = self._state
        members = state.view.addresses if state.view else state.config.servers
        # Who asks to join is taken in once it has shown a link to each member of the newest view.
        audience = dict.fromkeys([*members, *view.addresses, *self.lacks.outsiders()])
        self._install(view)
        message = to_message(view)
        for node in audience:
            if node != state.address:
                state.post(node, pb.VIEW, view=message)
