"""One node's membership: the parts put together, driven by `step(event, now)`.

The node is an outsider (it knows no view, or one without itself) or a member. An outsider asks all
servers to join until some view has it in, or founds the first one. A member keeps its lease with the coordinator of
its view, watches the others, and votes on views. Whatever arrives from a node with an older view is
answered with ours; that is how whoever missed something catches up, and why nothing else needs to be sent
reliably.

Here alone a view, and with it all that rests on it, is gone over to: leases, links, deaths, who is listened to, and
beginning anew change together and in one order, which is to be read in one place. What any part does by itself stands
with the part.
"""

import random
from collections.abc import Collection
from math import inf

from app.cluster.events import (
    CopiesLost,
    Datagram,
    Effect,
    Event,
    FoundRequested,
    Introduced,
    LeaveRequested,
    Left,
    LinkClosed,
    LinkFailed,
    LinkRefused,
    LinkUp,
    Order,
    RegisterAnswered,
    RegisterFailed,
    Reset,
    ServerOrdered,
    ServersChanged,
    SlotsSynced,
    Status,
    ViewInstalled,
)
from app.cluster.limits import EPOCH, OUTBID_MAX
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap, outranks
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.detector import Detector
from app.cluster.membership.dialling import Dialler
from app.cluster.membership.heartbeat import Heartbeat
from app.cluster.membership.inbox import Inbox
from app.cluster.membership.leases import USABLE_S, Grantor, Lease
from app.cluster.membership.listening import Listening
from app.cluster.membership.override import emptied, forced_view
from app.cluster.membership.register import Handler
from app.cluster.membership.routing import Routing
from app.cluster.membership.state import ClusterConfig, NodeState
from app.cluster.membership.status import snapshot
from app.cluster.view import MEMBERS_MAX, BadView, View, from_message, to_message
from proto_gen import cluster_pb2 as pb


class ClusterCore:
    """See the module, and events.py for the contract.

    `incarnation`: above that of every earlier process at this address; microseconds of the wall clock will do
    (if they don't, a peer says so and it is raised). `rng`: seeded by the shell.
    """

    def __init__(self, config: ClusterConfig, incarnation: int, now: float, rng: random.Random) -> None:
        assert incarnation > 0, incarnation
        # The process before this one may have promised its support a moment ago.
        state = self._state = NodeState(config, rng, incarnation, now, bound_until=now + timing.LAPSE_S)
        self._detector = Detector(state)
        self._dialler = Dialler(state)
        self._listening = Listening(state, self._dialler)
        self._lease = Lease()
        self._bootstrap = Bootstrap(state)
        self._coordinator = Coordinator(state, self._detector, self._lease, self._bootstrap, self._install)
        self._heartbeat = Heartbeat(state, self._lease, self._coordinator)
        self._routing = Routing(state, self._detector)
        self._inbox = Inbox(
            state,
            self._detector,
            self._bootstrap,
            self._coordinator,
            self._handlers(),
            self._died,
            lambda above: self._start_anew(None, above),
        )
        self._hello_at = -inf
        self._non_members_pinged_at = -inf
        self._observed_since = 0.0  # awake time: since when this node, an outsider, goes by its view, or has none
        self._cluster_since = now  # when we first went by a view of the present cluster
        self._has_left = False
        self._final_view_to: set[str] = set()  # members that do not know our final view yet
        self.routes = self._routing.routes
        self.lease_until = -inf
        self.wake_at = now
        self._listening.want_links()

    def _handlers(self) -> dict[int, Handler]:
        return {
            pb.HELLO: self._on_hello,
            pb.ACK: self._on_ack,
            pb.PING: self._on_ping,
            pb.PING_REQ: self._detector.on_ping_req,
            pb.VOUCH: lambda peer, message: self._detector.on_vouch(message),
            pb.NACK: lambda peer, message: self._detector.on_nack(message),
            pb.SUSPECT: self._detector.on_suspect,
            pb.REFUTE: self._on_refute,
            pb.ASK: self._heartbeat.on_ask,
            pb.GRANT: self._heartbeat.on_grant,
            pb.VIEW: self._on_view,
            **self._coordinator.register.handlers(),
        }

    # What the node reads.

    @property
    def view(self) -> View | None:
        """The view this node goes by."""
        return self._state.view

    @property
    def is_member(self) -> bool:
        return self._state.is_member

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def incarnation(self) -> int:
        return self._state.incarnation

    @property
    def served(self) -> int:
        """Mask of the slots that are SELF in `routes`."""
        return self._routing.served

    @property
    def member_count(self) -> int:
        """Live members as this node sees them."""
        return self._routing.member_count

    def contact(self, server: str) -> tuple[int, float]:
        """Incarnation of the process at the server's address (0: none is known), and when it last proved, by our
        clock, that it lives and hears us (-inf: never)."""
        known = self._state.of(server)
        return known.incarnation, known.heard_at

    def is_up(self, member: str) -> bool:
        """Whether the member counts as live."""
        return self._detector.is_up(member)

    def belongs(self, server: str) -> bool:
        """Whether it is a server of the cluster: by the view, if that lists them, else by the servers file. This node
        is, in any case. Guests, and those that were just removed, are only listened to."""
        view = self._state.view
        if view is not None and view.lists_servers:
            return server in view.servers or server == self._state.address
        return server in self._state.config.servers or (view is not None and server in view.incarnations)

    def status(self) -> Status:
        """A snapshot for people and tools."""
        lacks = self._coordinator.lacks.edges
        shared = self._coordinator.shared
        fault = shared.fault if shared is not None else None
        return snapshot(self._state, self._detector, self._routing.served, self.lease_until, lacks, fault)

    def objection(self) -> str:
        """Why FoundRequested would do nothing now; empty: it would found a cluster."""
        state = self._state
        if state.leaving:
            return "this node is leaving"
        if state.is_member:
            return "the cluster goes on: this node's lease runs" if self._lease.until > state.now else ""
        if state.view is not None and not state.config.shared_register:
            return f"this node is no member of the cluster that it knows: ask one of {' '.join(state.view.addresses)}"
        return ""

    def objection_to(self, servers: Collection[str]) -> str:
        """Why ServersChanged with these would do harm now; empty: it would not.

        Half of the servers must be members (NodeState.members_needed), and what is added counts before it is there.
        """
        return self._coordinator.belonging.objection_to_file(servers)

    def is_done(self, order: Order) -> bool:
        """Whether the view that this node goes by has what the order is for."""
        return self._coordinator.belonging.is_done(order)

    def objection_to_order(self, order: Order) -> str:
        """Why ServerOrdered would do nothing now; empty: the next views will have it, if this node goes on coordinating
        them. Give it again until `is_done`."""
        state = self._state
        if not state.is_coordinator or state.view is None:
            return "this node is not the coordinator"
        return self.must_wait(order) or self._coordinator.belonging.objection(order)

    def must_wait(self, order: Order) -> str:
        """Of the objections to an order that of a coordinator which passes by itself; empty: there is none such."""
        if self._lease.until <= self._state.now:
            return "the cluster does not go on now: this node, its coordinator, has no lease"
        return self._coordinator.belonging.must_wait(order)

    # Driving.

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event; `now` never falls. The effects are to be carried out in order."""
        state = self._state
        now = round(now * 1e6) / 1e6  # what a stamp can say, so that an echo compares equal
        state.awake_s += min(max(0.0, now - state.now), timing.STEP_AWAKE_MAX_S)
        state.now = max(state.now, now)
        match event:
            case Datagram():
                if not self._has_left:
                    self._inbox.take(event.peer, event.payload)
            case LinkRefused():
                self._refused(event)
            case LinkClosed():
                self._dialler.closed(event.peer)
            case LinkFailed():
                self._dialler.failed(event.peer)
            case SlotsSynced() if event.epoch == state.epoch:
                self._heartbeat.synced(event.learner, event.slots)
            case CopiesLost() if event.epoch == state.epoch:
                self._heartbeat.lost(event.slots)
            case LeaveRequested():
                state.leaving = True
                self._heartbeat.ask()
            case FoundRequested():
                self._found_by_force()
            case ServersChanged() | ServerOrdered() | Introduced():
                self._on_servers(event)
            case RegisterAnswered() | RegisterFailed():
                if self._coordinator.shared is not None:
                    self._coordinator.shared.take(event)
            case LinkUp():
                self._dialler.up(event.peer)
                state.note_present(event.peer)
                self._say_linked()
        is_tick = now >= self.wake_at
        if is_tick:
            self._tick()
            self.wake_at = now + timing.MEMBERSHIP_TICK_S
        self._run(is_tick)
        self.lease_until = self._lease.until if state.is_member else -inf
        self._routing.update(self._lease.blocked)
        effects, state.effects = state.effects, []
        return effects

    def _run(self, is_tick: bool) -> None:
        """What every step ends with."""
        if not self._has_left:
            self._coordinator.run(is_tick)
            self._heartbeat.refresh()
            self._leave_if_alone()

    def _tick(self) -> None:
        state = self._state
        if self._has_left:
            return
        state.expire_absent()
        if self._listening.forget_guests():
            self._forget_strangers()
        if self._final_view_to:
            self._broadcast_final_view()
        elif not state.is_member:
            self._request_to_join()
        elif state.is_coordinator:
            self._detector.tick(state.others())
            self._ping_non_members()
        else:
            assert state.view is not None
            self._detector.tick([state.view.coordinator])
            self._heartbeat.tick()
        self._coordinator.lacks.forget_outsiders()
        self._dialler.tick()
        if state.is_member:
            self._ask_for_newer_views()

    def _leave_if_alone(self) -> None:
        state = self._state
        if not state.leaving:
            return
        said = not self._final_view_to
        alone = state.is_member and state.view is not None and len(state.view.members) == 1
        shared = self._coordinator.shared
        if alone and shared is not None and not shared.may_leave():
            return
        if alone or (not state.is_member and said and not self._succeeds_a_member()):
            self._leave()

    def _succeeds_a_member(self) -> bool:
        """As a server that was removed: whether the view still has the process before this one. Others are to hear of
        this one, and so learn that it is gone, whose copies they may wait for; but this one does not wait for ever."""
        state = self._state
        is_in_view = not state.is_member and state.view is not None and state.address in state.view.removed
        return is_in_view and state.awake_s - self._observed_since < timing.FINAL_VIEW_S

    def _leave(self) -> None:
        self._has_left = True
        self._lease.drop()
        self._dialler.want(())
        self._state.effects.append(Left())

    def _enter_final_view(self, view: View) -> None:
        """We have left, as this view says: our final one.

        Whoever decided so as the coordinator, without the others, tells them before it goes.
        """
        state = self._state
        state.view, state.is_member = view, False
        state.note_dead()
        state.installed_at = state.now
        self._lease.drop()
        self._detector.set_members(())
        self._final_view_to = set(view.addresses) if self._coordinator.grantor is not None else set()
        self._coordinator.entered(None)
        state.effects.append(ViewInstalled(view, False))

    def _broadcast_final_view(self) -> None:
        state = self._state
        assert state.view is not None
        if state.now - state.installed_at >= timing.FINAL_VIEW_S:
            self._final_view_to.clear()
        self._final_view_to = {node for node in self._final_view_to if state.of(node).view_key != state.view_key}
        for node in sorted(self._final_view_to):
            state.post(node, pb.VIEW, view=to_message(state.view))

    # Outside.

    def _request_to_join(self) -> None:
        state = self._state
        view_heard = max(self._observed_since, state.view_heard_awake_s())
        if state.config.shared_register:
            self._outbid_predecessor()
        elif state.view is not None and state.awake_s - view_heard > timing.OBSERVED_STALE_S:
            self._start_anew(None)
        crowd = max(1.0, len(state.servers) / timing.HELLO_SERVERS)
        interval_s = min(timing.HELLO_S * crowd, timing.HELLO_MAX_S)
        if state.now - self._hello_at >= interval_s:
            self._hello_at = state.now
            for server in state.servers:
                if server != state.address:
                    self._post_hello(server)

    def _outbid_predecessor(self) -> None:
        """Be a later process than the one that the shared register's view has at our address: the wall clock was set
        back. There may be no member left who says so."""
        state = self._state
        before = state.view.incarnations.get(state.address, 0) if state.view is not None else 0
        if state.incarnation < before <= OUTBID_MAX:
            self._start_anew(state.view, before)

    def _post_hello(self, server: str) -> None:
        lacks = self._coordinator.lacks.unlinked()[:MEMBERS_MAX]
        state, bound_us = self._state, round(self._state.bound_s * 1e6)
        state.post(server, pb.HELLO, lacks=lacks, joins=state.config.joins, span_us=bound_us)

    def _say_linked(self) -> None:
        """As an outsider with a link to each member, tell the coordinator, which waits for that."""
        state = self._state
        is_outsider = state.view is not None and not state.is_member and not state.leaving
        if is_outsider and not self._coordinator.lacks.unlinked():
            assert state.view is not None
            self._post_hello(state.view.coordinator)

    def _ping_non_members(self) -> None:
        state = self._state
        if state.now - self._non_members_pinged_at >= timing.NON_MEMBER_PING_S:
            self._non_members_pinged_at = state.now
            for server in state.non_members():
                state.post(server, pb.PING)

    def _start_anew(self, view: View | None, above: int = 0) -> None:
        """Be a fresh process in all but name: nothing promised, accepted or held before counts any more."""
        state = self._state
        if state.is_member:
            state.note_bound(self._coordinator.register.support_left_s())
        # At random, so that no two processes here are raised to the same one.
        state.incarnation = max(state.incarnation, above) + 1 + state.rng.getrandbits(20)
        state.is_member = False
        state.view = view
        state.support_withdrawn = False
        state.support_until = -inf
        self._lease.drop()
        self._detector.set_members(())
        self._bootstrap.restart()
        self._coordinator.entered(None)
        self._observed_since = state.awake_s
        self._hello_at = -inf
        state.note_dead()
        self._listening.want_links()
        state.effects.append(Reset(state.incarnation))
        state.log(f"starting anew as incarnation {state.incarnation}", "warning")

    # Views.

    def _install(self, view: View, vouched_at: float = -inf) -> None:
        """Go by this view: of our cluster and newer, or of one that we join.

        None can follow the last epoch's, which honest nodes never come to (limits.py): they start anew instead.
        """
        state = self._state
        if view.epoch == EPOCH.most:
            state.log("the last epoch: what this node holds is given up, and a new cluster founded", "error")
            self._start_anew(None)
            return
        before, was_member, had_grantor = state.view, state.is_member, self._coordinator.grantor
        is_member = view.has(state.address, state.incarnation)
        self._listening.note_parted(before, view)
        self._heed_who_belongs(before, view)
        if was_member and not is_member:
            if state.leaving:
                self._enter_final_view(view)
                return
            self._start_anew(view)
        state.view, state.is_member = view, is_member
        state.installed_at = state.now
        self._observed_since = state.awake_s
        self._note_members(view, vouched_at)
        if is_member and len(state.config.servers) == 1:  # no process before has promised anything to anybody
            state.bound_until = -inf
        # Leases of earlier views may run on; whoever would replace this view must outwait them (leases.py).
        state.support_until = state.now + timing.SUPPORT_S
        state.support_withdrawn = False
        if before is None or before.cluster_id != view.cluster_id:
            self._cluster_since = state.now
        elif state.is_coordinator and had_grantor is None:
            # What its founder would have waited for (Bootstrap.bound_until) was before it was founded.
            state.bound_until = max(state.bound_until, self._cluster_since + timing.LAPSE_S)
        if is_member:
            self._detector.set_members(
                (member.address, member.incarnation) for member in view.members if member.address != state.address
            )
        self._coordinator.entered(self._hand_on_leases(before, view, was_member, had_grantor) if is_member else None)
        self._listening.want_links()
        state.forget_strangers()
        if before is not None:
            self._dialler.renew(node for node in before.addresses if node not in view.incarnations)
        state.effects.append(ViewInstalled(view, is_member))
        state.log(view.describe())
        self._heartbeat.entered(view)
        self._say_linked()

    def _hand_on_leases(
        self, before: View | None, view: View, was_member: bool, had_grantor: Grantor | None
    ) -> Grantor | None:
        """As a member of the view just installed: what becomes of our lease, and of those that run, if we are its
        coordinator: what we keep of them."""
        state, me = self._state, self._state.address
        if before is not None and (before.cluster_id, before.epoch + 1) != (view.cluster_id, view.epoch):
            before = None  # nothing is known of what came in between
        same_coordinator = before is not None and before.members[0] == view.members[0]
        grantor = None
        if state.is_coordinator:
            previous = had_grantor if same_coordinator else None
            is_settled = self._lease.settled and was_member
            grantor = Grantor.succeed(view, me, before, previous, is_settled, state.now)
        retained = before.masks[me] & view.masks[me] if before is not None and was_member else 0
        self._lease.enter(retained, was_member and same_coordinator)
        if grantor is not None:
            self._lease.until = min(self._lease.until, state.now + USABLE_S)
        return grantor

    def _heed_who_belongs(self, before: View | None, view: View) -> None:
        """Leave, if we belong no more by this view; if we did not before either, and were not told to join, say so."""
        state = self._state
        is_removed = state.address in view.removed or state.address in state.parted
        if is_removed and not state.leaving:
            state.leaving = True
            state.log("this server was removed from the cluster: it hands over what it holds, and ends", "warning")
        is_listed = not view.lists_servers or state.address in view.servers
        is_known = before is not None and before.cluster_id == view.cluster_id and before.lists_servers
        if not (is_listed or is_known or is_removed or state.config.joins):
            mend = f"`kv.py add-server {state.address}`"
            state.log(f"the cluster does not list this server: it is taken in once {mend} is said", "warning")

    def _forget_strangers(self) -> None:
        self._coordinator.forget_strangers()
        self._state.forget_strangers()

    def _found_by_force(self) -> None:
        """As an operator has ordered: see override.py."""
        state = self._state
        if self.objection():
            return
        if self._coordinator.shared is not None:
            state.log("an operator has this node go on, whatever the register holds and whoever else lives", "error")
            self._coordinator.shared.force()
            return
        before = state.view
        view = forced_view(state, self._detector, self._bootstrap)
        empty = emptied(before, view)
        state.log(
            f"an operator has this node found a cluster of {' '.join(view.addresses)}: what others hold is given up,"
            f" {empty} slots start empty",
            "error",
        )
        self._install(view)
        for node in state.others():
            state.post(node, pb.VIEW, view=to_message(view))

    def _on_servers(self, event: ServersChanged | ServerOrdered | Introduced) -> None:
        match event:
            case ServersChanged():
                self._change_servers(event.servers)
            case ServerOrdered():
                belonging = self._coordinator.belonging
                is_new = not belonging.is_done(event.order) and not belonging.has_begun(event.order)
                if is_new and not self.objection_to_order(event.order):
                    belonging.order = event.order
            case Introduced():
                self._listening.introduce(event.peer)

    def _change_servers(self, servers: tuple[str, ...]) -> None:
        state = self._state
        if servers == state.config.servers:
            return
        state.change_servers(servers)
        self._coordinator.belonging.order = None  # it was looked at by the file before; whoever gave it repeats it
        self._listening.want_links()
        if state.view is None:
            # What this newcomer has promised counted among the servers there were, and by its place among them.
            self._start_anew(None)
        self._forget_strangers()

    def _note_members(self, view: View, vouched_at: float) -> None:
        """Note the processes of whose life the view tells; their predecessors are gone.

        `vouched_at`: after that moment, by our clock, whoever sent the view went by it. A process with a higher
        incarnation that was last proven alive before was there earlier: its machine's wall clock was set back. Where
        one node alone may make the next view, for a death that is certain, that counts as of now: whatever was heard
        before, a process of the view is dead only when that other one shows once more that it lives.
        """
        if self._state.config.shared_register:
            vouched_at = self._state.now
        for member in view.members:
            known = self._state.of(member.address)
            if member.incarnation > known.incarnation:
                known.note_new_process(member.incarnation)
                known.dead = max(known.dead, member.incarnation - 1)  # not news: no death of this view
            elif member.incarnation < known.incarnation and known.heard_at < vouched_at:
                known.note_new_process(member.incarnation)
                known.dead = member.incarnation - 1
            if member.incarnation == known.incarnation:
                known.learned_at = self._state.now
                known.vouched_at = max(known.vouched_at, vouched_at)
        self._state.note_dead()

    def _on_view(self, peer: str, message: pb.ClusterMessage) -> None:
        state, told = self._state, message.view
        if state.view is not None and (told.cluster_id, told.epoch, told.nonce) == state.view_key:
            return  # as one of five, while others come in: taking it apart would be 0.3 ms for nothing
        try:
            view = from_message(told)
        except BadView as fault:
            state.drop("bad view")
            state.log(f"bad view from {peer}: {fault}", "warning")
            return
        mine = state.view
        vouched_at = state.echoed_at(message)
        if self._coordinator.shared is not None and self._coordinator.shared.is_refused:
            state.drop("view of a register that is refused")
            return
        if mine is not None and view.cluster_id == mine.cluster_id and view.epoch != mine.epoch:
            if view.epoch > mine.epoch:
                self._install(view, vouched_at)
            else:
                state.drop("stale view")
            return
        if state.config.shared_register:  # which alone says which cluster there is
            state.drop("another cluster's view")
            return
        # Another cluster's. It must be alive now: it has us in it, or the sender, who has just heard us.
        known = state.of(peer)
        is_fresh = state.awake_s - known.heard_awake_s < timing.HEARD_S
        if not view.has(state.address, state.incarnation) and not (is_fresh and view.has(peer, known.incarnation)):
            state.drop("unproven view")
            if mine is None and view.lists_servers:  # they may tell us themselves
                self._listening.make_guests(view.servers)
        elif mine is None or outranks(view, mine) or self._is_stuck_beside(view):
            self._go_over_to(view, vouched_at)

    def _is_stuck_beside(self, view: View) -> bool:
        """Whether this node can't serve by its own view, and this one has it in as well.

        No agreement comes to two such views. But one that was made up may prevail over the one that all others go by,
        who don't go over to it while their leases run.
        """
        state = self._state
        since = max(self._lease.until, state.installed_at)
        return state.is_member and view.has(state.address, state.incarnation) and state.now - since > timing.STUCK_S

    def _go_over_to(self, view: View, vouched_at: float) -> None:
        """To another cluster's view, which prevails over ours."""
        state = self._state
        if state.is_member and view.has(state.address, state.incarnation):
            # An operator has made it of ours, with us in it: we keep what we hold. It may not know that we serve.
            if self._lease.until > state.now:
                state.drop("lease runs")
                return
        elif state.is_member:
            state.log(
                f"cluster {view.cluster_id} of {len(view.members)} members prevails over ours: what this node holds is"
                " given up",
                "error",
            )
            self._start_anew(view)
        self._install(view, vouched_at)

    # Deaths.

    def _refused(self, refused: LinkRefused) -> None:
        state, peer, incarnation = self._state, refused.peer, refused.incarnation
        known, dialled_at = state.of(peer), self._dialler.dialled_at(peer)
        self._dialler.failed(peer)
        was_wrong = 0 < known.undead == known.incarnation
        if not refused.is_proof or was_wrong:
            known.doubted_at = state.now
            self._detector.refused(peer, incarnation)
            return
        if incarnation == known.incarnation:  # else a later process has been heard meanwhile
            state.note_absent(peer, dialled_at)
        if 0 < known.incarnation < incarnation:  # which has the lower one: its machine's wall clock was set back
            known.note_overtaken(incarnation, state.now)
            state.note_dead()
        elif incarnation:
            self._died(peer, incarnation)

    def _died(self, address: str, incarnation: int) -> None:
        """The process is dead for certain."""
        state = self._state
        known = state.of(address)
        if incarnation <= known.dead or address == state.address:
            return
        known.dead, known.died_at = incarnation, state.now
        state.note_dead()
        if self._detector.died(address, incarnation):
            state.log(f"{address} is dead")
            # Survivors may have to account for every server: see NodeState.countable_dead.
            self._dialler.dial_all()

    def _ask_for_newer_views(self) -> None:
        """While a member is dead, ask those outside the view what they know."""
        state = self._state
        if state.dead:
            for server in (*state.non_members(), *sorted(state.dead)):
                state.post(server, pb.PING)

    # Small handlers.

    def _on_hello(self, peer: str, message: pb.ClusterMessage) -> None:
        self._coordinator.joiners[peer] = self._state.now + min(message.span_us / 1e6, timing.LAPSE_S)
        if self._coordinator.lacks.note_hello(peer, message) and self._state.is_member:
            self._dialler.asked(peer)
        if message.joins and peer in self._state.guests and self._state.is_coordinator:
            self._take_in(peer)
        self._state.post(peer, pb.ACK)

    def _take_in(self, guest: str) -> None:
        """It knows the secret, and is told to join: as if an administrator had added it."""
        state, order = self._state, Order(guest)
        is_replayed = state.awake_s - state.of(guest).heard_awake_s >= timing.HEARD_S
        # Else it asks again, and may be the next one.
        if is_replayed or self.is_done(order) or self._coordinator.belonging.order is not None:
            return
        objection = self.objection_to_order(order)
        if not objection:
            self._coordinator.belonging.order = order
        elif state.now - state.of(guest).refused_at >= timing.WAITING_LOG_S:
            state.of(guest).refused_at = state.now
            state.log(f"{guest} asks to join, and can't: {objection}", "warning")

    def _on_ack(self, peer: str, message: pb.ClusterMessage) -> None:
        """Its header is its content."""

    def _on_ping(self, peer: str, message: pb.ClusterMessage) -> None:
        self._state.post(peer, pb.ACK)

    def _on_refute(self, peer: str, message: pb.ClusterMessage) -> None:
        self._detector.on_refute(peer, message.incarnation, message.number)
