"""One node's membership: the parts put together, driven by `step(event, now)`.

The node is an outsider (it knows no view, or one without itself) or a member. An outsider knocks at all servers
until some view has it in, or founds the first one. A member keeps its lease with the coordinator of its view,
watches the others, and votes on views. Whatever arrives from a node with an older view is answered with ours;
that is how whoever missed something catches up, and why nothing else needs to be sent reliably.
"""

import random
from collections.abc import Callable
from math import inf

from google.protobuf.message import DecodeError

from app.cluster import timing
from app.cluster.bootstrap import Bootstrap, outranks
from app.cluster.coordinator import Coordinator
from app.cluster.detector import DEAD, Detector
from app.cluster.events import (
    LOCAL,
    UNKNOWN,
    Datagram,
    Effect,
    Event,
    LeaveRequested,
    Left,
    LinkClosed,
    LinkFailed,
    LinkRefused,
    LinkUp,
    MemberStatus,
    Reset,
    SlotsSynced,
    Status,
    ViewInstalled,
)
from app.cluster.leases import Grantor, Lease
from app.cluster.links import Links
from app.cluster.slots import slots_of
from app.cluster.state import ClusterConfig, NodeState, slots_from_bytes, slots_to_bytes
from app.cluster.view import BadView, View, from_message, to_message
from app.wire.protocol import DATAGRAM_MAX_BYTES, SLOT_COUNT
from proto_gen import cluster_pb2 as pb

DEATHS_MAX = 64


class ClusterCore:
    """See the module, and events.py for the contract.

    `incarnation`: above that of every earlier process at this address; microseconds of the wall clock will do
    (if they don't, a peer says so and it is raised). `rng`: seeded by the shell.
    """

    def __init__(self, config: ClusterConfig, incarnation: int, now: float, rng: random.Random) -> None:
        assert incarnation > 0, incarnation
        state = self._state = NodeState(config, rng, incarnation, now)
        self._detector = Detector(state)
        self._links = Links(state)
        self._lease = Lease()
        self._bootstrap = Bootstrap(state)
        self._coordinator = Coordinator(state, self._detector, self._lease, self._bootstrap, self._install)
        self._asked_at = -inf
        self._answered = True
        self._hello_at = -inf
        self._greet_at = -inf
        self._outside_since = 0.0  # attention
        self._synced: dict[str, int] = {}  # our learners that have caught up, in this epoch
        self._served = 0
        self._has_left = False
        self._farewell: set[str] = set()  # who does not know yet that we are out
        self.routes: list[str] = [UNKNOWN] * SLOT_COUNT
        self.lease_until = -inf
        self.member_count = 1
        self.wake_at = now
        self._handlers: dict[int, Callable[[str, pb.ClusterMessage], None]] = {
            pb.HELLO: self._on_hello,
            pb.ACK: self._on_ack,
            pb.PING: self._on_ping,
            pb.PING_REQ: self._detector.on_ping_req,
            pb.VOUCH: lambda peer, message: self._detector.on_vouch(message),
            pb.NACK: lambda peer, message: self._detector.on_nack(message),
            pb.SUSPECT: self._detector.on_suspect,
            pb.REFUTE: self._on_refute,
            pb.ASK: self._on_ask,
            pb.GRANT: self._on_grant,
            pb.VIEW: self._on_view,
            pb.PREPARE: self._coordinator.on_prepare,
            pb.PROMISE: self._coordinator.on_promise,
            pb.ACCEPT: self._coordinator.on_accept,
            pb.ACCEPTED: self._coordinator.on_accepted,
            pb.REJECT: self._coordinator.on_reject,
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
        """Mask of the slots that are LOCAL in `routes`."""
        return self._served

    def status(self) -> Status:
        """A snapshot for people and tools."""
        state = self._state
        view = state.view
        own = view.masks.get(state.address, 0) if view and state.is_member else 0
        members = []
        for member in view.members if view else ():
            address = member.address
            members.append(
                MemberStatus(
                    address,
                    member.incarnation,
                    DEAD if state.is_dead(address) else self._detector.state_of(address),
                    member.leaving,
                    view.masks[address].bit_count() if view else 0,
                    sum(address in nodes for nodes in view.backups) if view else 0,
                    sum(address in view.learners(slot) for slot in range(SLOT_COUNT)) if view else 0,
                )
            )
        return Status(
            state.address,
            state.incarnation,
            view.origin if view else 0,
            state.epoch,
            state.is_member,
            view.coordinator if view else "",
            self.lease_until - state.now,
            (own & ~self._served).bit_count(),
            view.is_balanced() if view else False,
            tuple(members),
            dict(state.dropped),
        )

    # Driving.

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event; `now` never falls. The effects are to be carried out in order."""
        state = self._state
        now = round(now * 1e6) / 1e6  # what a stamp can say, so that an echo compares equal
        state.attention += min(max(0.0, now - state.now), timing.ATTENTION_S)
        state.now = max(state.now, now)
        match event:
            case Datagram():
                self._on_datagram(event.peer, event.payload)
            case LinkRefused():
                self._links.is_down(event.peer)
                self._bootstrap.refused(event.peer)
                state.of(event.peer).refused_at = now
                if event.incarnation:
                    self._died(event.peer, event.incarnation)
            case LinkClosed():
                self._links.closed(event.peer)
            case LinkFailed():
                self._links.is_down(event.peer)
            case SlotsSynced():
                self._on_slots_synced(event)
            case LeaveRequested():
                state.leaving = True
                self._ask_now()
            case LinkUp():
                pass
        if now >= self.wake_at:
            self._tick()
            self.wake_at = now + timing.TICK_S
        if not self._has_left:
            self._coordinator.run()
            self._refresh()
            self._leave_if_alone()
        effects, state.effects = state.effects, []
        return effects

    def _tick(self) -> None:
        state = self._state
        if self._has_left:
            return
        if self._farewell and state.view is not None:
            for node in sorted(self._farewell):
                state.post(node, pb.VIEW, view=to_message(state.view))
        elif not state.is_member:
            self._knock()
        elif state.is_coordinator:
            self._detector.tick(state.others())
            self._greet_strangers()
        else:
            assert state.view is not None
            self._detector.tick([state.view.coordinator])
            waited = state.now - self._asked_at
            if waited >= (timing.HEARTBEAT_S if self._answered else timing.ASK_RETRY_S):
                self._ask()
        self._links.tick()
        if state.is_member:
            self._ask_strangers()

    def _leave_if_alone(self) -> None:
        state = self._state
        if not state.leaving:
            return
        waited = state.now - state.installed_at
        said = not self._farewell or waited >= timing.FAREWELL_S
        alone = state.is_member and state.view is not None and len(state.view.members) == 1
        if alone or (not state.is_member and said):
            self._leave()

    def _leave(self) -> None:
        self._has_left = True
        self._lease.drop()
        self._set_routes(0)
        self.lease_until = -inf
        self._links.want(())
        self._state.effects.append(Left())

    def _bid_farewell(self, view: View) -> None:
        """We are out; whoever decided so without the others tells them before it goes."""
        state = self._state
        state.view, state.is_member = view, False
        state.installed_at = state.now
        self._lease.drop()
        self._set_routes(0)
        self._detector.set_members(())
        self._farewell = set(view.addresses) if self._coordinator.grantor is not None else set()
        self._coordinator.entered(None)
        state.effects.append(ViewInstalled(view, False))

    # Outside.

    def _knock(self) -> None:
        state = self._state
        if (
            state.view is not None
            and state.attention - self._view_heard_attention() > timing.OBSERVED_STALE_S
        ):
            self._start_anew(None)
        if state.now - self._hello_at >= timing.HELLO_S:
            self._hello_at = state.now
            for server in dict.fromkeys(
                (*state.config.servers, *(state.view.addresses if state.view else ()))
            ):
                if server != state.address:
                    state.post(server, pb.HELLO)

    def _view_heard_attention(self) -> float:
        """When a member of the view that we observe was last heard."""
        assert self._state.view is not None
        dates = [self._outside_since]
        for member in self._state.view.members:
            known = self._state.of(member.address)
            if known.incarnation == member.incarnation:
                dates.append(known.heard_attention)
        return max(dates)

    def _greet_strangers(self) -> None:
        state = self._state
        if state.now - self._greet_at >= timing.GREET_S:
            self._greet_at = state.now
            assert state.view is not None
            for server in state.config.servers:
                if server not in state.view.incarnations:
                    state.post(server, pb.PING)

    def _start_anew(self, view: View | None, above: int = 0) -> None:
        """Be a fresh process in all but name: nothing promised, accepted or held before counts any more."""
        state = self._state
        # At random, so that no two processes here are raised to the same one.
        state.incarnation = max(state.incarnation, above) + 1 + state.rng.getrandbits(20)
        state.is_member = False
        state.view = view
        state.fenced = False
        state.word_until = -inf
        self._lease.drop()
        self._detector.set_members(())
        self._bootstrap.restart()
        self._coordinator.entered(None)
        self._outside_since = state.attention
        self._hello_at = -inf
        self._synced.clear()
        self._want_links()
        state.effects.append(Reset(state.incarnation))
        state.log(f"starting anew as incarnation {state.incarnation}", "warning")

    # Views.

    def _install(self, view: View) -> None:
        """Go by this view: of our cluster and newer, or of one that we join."""
        state = self._state
        before = state.view
        direct = before is not None and (before.origin, before.epoch + 1) == (view.origin, view.epoch)
        was_member, had_grantor = state.is_member, self._coordinator.grantor
        is_member = view.has(state.address, state.incarnation)
        if was_member and not is_member:
            if state.leaving:
                self._bid_farewell(view)
                return
            self._start_anew(view)
        state.view, state.is_member = view, is_member
        state.installed_at = state.now
        # Leases of earlier views may run on; whoever would replace this view must outwait them (leases.py).
        state.word_until = state.now + timing.MANDATE_S
        state.fenced = False
        same_coordinator = direct and before is not None and before.members[0] == view.members[0]
        retained = 0
        if direct and was_member and is_member and before is not None:
            retained = before.masks[state.address] & view.masks[state.address]
        settled = self._lease.settled
        grantor = None
        if state.is_coordinator:
            books = had_grantor if same_coordinator else None
            grantor = Grantor.succeed(
                view, state.address, before if direct else None, books, settled and was_member, state.now
            )
        if is_member:
            self._detector.set_members(
                (member.address, member.incarnation)
                for member in view.members
                if member.address != state.address
            )
            self._lease.enter(retained, was_member and same_coordinator)
            if grantor is not None:
                self._lease.until = min(self._lease.until, state.now + timing.MANDATE_S * timing.SAFE_SHARE)
        self._coordinator.entered(grantor)
        self._want_links()
        self._own_learners(view)
        state.effects.append(ViewInstalled(view, is_member))
        state.log(view.describe())
        self._ask_now()

    def _own_learners(self, view: View) -> None:
        """Without transfer there is nothing to catch up on."""
        self._synced.clear()
        state = self._state
        if state.is_member and not state.config.transfer:
            for slot in slots_of(view.masks[state.address]):
                for learner in view.learners(slot):
                    self._synced[learner] = self._synced.get(learner, 0) | 1 << slot
        self._report_synced()

    def _report_synced(self) -> None:
        if self._state.is_coordinator:
            for learner, slots in self._synced.items():
                self._coordinator.synced[learner] = self._coordinator.synced.get(learner, 0) | slots

    def _on_slots_synced(self, event: SlotsSynced) -> None:
        state = self._state
        if state.is_member and state.view is not None and event.epoch == state.epoch:
            slots = event.slots & state.view.masks[state.address]
            self._synced[event.learner] = self._synced.get(event.learner, 0) | slots
            self._report_synced()
            self._ask_now()

    def _on_view(self, peer: str, message: pb.ClusterMessage) -> None:
        state = self._state
        try:
            view = from_message(message.view)
        except BadView as fault:
            state.dropped["bad view"] += 1
            state.log(f"bad view from {peer}: {fault}", "warning")
            return
        mine = state.view
        if mine is not None and view.origin == mine.origin and view.epoch != mine.epoch:
            if view.epoch > mine.epoch:
                self._install(view)
            else:
                state.dropped["stale view"] += 1
            return
        if mine is not None and view.key == mine.key:
            return
        # Another cluster's. It must be alive now: it has us in it, or the sender, who has just heard us.
        known = state.of(peer)
        is_fresh = state.attention - known.heard_attention < timing.HEARD_S
        if not view.has(state.address, state.incarnation) and not (
            is_fresh and view.has(peer, known.incarnation)
        ):
            state.dropped["unproven view"] += 1
        elif mine is None or outranks(view, mine):
            if state.is_member:
                state.log(f"cluster {view.origin} has {len(view.members)} members: joining it", "warning")
                self._start_anew(view)
            self._install(view)

    def _died(self, address: str, incarnation: int) -> None:
        """The process is dead for certain."""
        state = self._state
        known = state.of(address)
        if incarnation <= known.dead or address == state.address:
            return
        known.dead, known.died_at = incarnation, state.now
        if self._detector.died(address, incarnation):
            state.log(f"{address} is dead")
            # Survivors may have to account for every server: see NodeState.countable_dead.
            self._want_links()
            self._links.dial_all()

    def _want_links(self) -> None:
        state = self._state
        if state.view is None or state.dead_members():
            self._links.want((*(state.view.addresses if state.view else ()), *state.config.servers))
        else:
            self._links.want(state.view.addresses)

    def _ask_strangers(self) -> None:
        """While a member is dead, ask the servers outside the view what they know."""
        state = self._state
        if state.dead_members():
            for server in (*state.strangers(), *sorted(state.dead_members())):
                state.post(server, pb.PING)

    # Serving.

    def _refresh(self) -> None:
        """Bring what the node reads up to date."""
        state, lease = self._state, self._lease
        grantor = self._coordinator.grantor
        if grantor is not None and state.is_member:
            dead = state.dead_members()
            freed = grantor.expire(dead, state.now)
            if not state.fenced:
                mandate_end = grantor.mandate_end(state.countable_dead())
                lease.until = max(lease.until, mandate_end)
                if mandate_end > state.now and grantor.waiting:
                    for node in sorted(grantor.waiting - grantor.condemned):
                        self._grant(node)
            lease.blocked = grantor.blocked()
            lease.settled = grantor.is_settled(dead)
            self._push_grants(freed)
        self.lease_until = lease.until if state.is_member else -inf
        own = state.view.masks.get(state.address, 0) if state.view and state.is_member else 0
        self._set_routes(own & ~lease.blocked)

    def _push_grants(self, freed: int) -> None:
        """Tell those who wait for these slots that they may serve them."""
        view = self._state.view
        if freed and view is not None:
            for node in self._state.others():
                if view.masks[node] & freed and not self._state.is_dead(node):
                    self._grant(node)

    _routed: tuple[View | None, int, int] = (None, 0, 0)

    def _set_routes(self, served: int) -> None:
        view = self._state.view
        dead = 0
        if view is not None:
            for address in view.addresses:
                if self._state.is_dead(address):
                    dead |= view.masks[address]
        if self._routed[0] is view and self._routed[1:] == (served, dead):
            self._count()
            return
        self._routed = (view, served, dead)
        self._served = served
        own = self._state.address
        for slot in range(SLOT_COUNT):
            if served >> slot & 1:
                self.routes[slot] = LOCAL
            elif view is None or dead >> slot & 1 or view.primaries[slot] == own:
                self.routes[slot] = UNKNOWN
            else:
                self.routes[slot] = view.primaries[slot]
        self._count()

    def _count(self) -> None:
        view = self._state.view
        live = sum(1 for address in view.addresses if self._detector.is_up(address)) if view else 0
        self.member_count = max(1, live)

    def _ask(self) -> None:
        state = self._state
        assert state.view is not None
        self._asked_at, self._answered = state.now, False
        if not state.is_dead(state.view.coordinator):
            synced = [
                pb.Synced(address=node, slots=slots_to_bytes(slots)) for node, slots in self._synced.items()
            ]
            state.post(state.view.coordinator, pb.ASK, leaving=state.leaving, synced=synced)

    def _ask_now(self) -> None:
        if self._state.is_member and not self._state.is_coordinator:
            self._ask()

    def _on_ask(self, peer: str, message: pb.ClusterMessage) -> None:
        state, grantor = self._state, self._coordinator.grantor
        view = state.view
        if grantor is None or view is None or not self._is_colleague(peer, message):
            return
        freed = grantor.acknowledge(peer)
        if message.leaving:
            self._coordinator.leavers.add(peer)
        for entry in message.synced[: len(view.members)]:
            slots = slots_from_bytes(entry.slots) & view.masks[peer]  # only the primary can tell
            if slots:
                self._coordinator.synced[entry.address] = (
                    self._coordinator.synced.get(entry.address, 0) | slots
                )
        self._grant(peer)
        self._push_grants(freed & ~view.masks[peer])

    def _grant(self, peer: str) -> None:
        """Grant what can be granted; an answer that grants nothing still carries our stamp."""
        state, grantor = self._state, self._coordinator.grantor
        assert grantor is not None
        span = 0.0
        # To one who does not hear us no lease is granted: it could not use it, and it would never lapse.
        if not state.fenced and state.attention - state.of(peer).heard_attention < timing.HEARD_S:
            span = grantor.grant(peer, grantor.mandate_end(state.countable_dead()), state.now)
        state.post(
            peer,
            pb.GRANT,
            span_us=int(span * 1e6),
            blocked=slots_to_bytes(grantor.blocked()),
            settled=grantor.is_settled(state.dead_members()),
        )

    def _on_grant(self, peer: str, message: pb.ClusterMessage) -> None:
        state = self._state
        view = state.view
        if view is None or peer != view.coordinator or not self._is_colleague(peer, message):
            return
        if message.to_incarnation != state.incarnation:
            return
        self._answered = True
        if message.span_us:
            span = min(message.span_us / 1e6, timing.MANDATE_S)
            blocked = slots_from_bytes(message.blocked)
            self._lease.granted(message.echo_us / 1e6, span, blocked, message.settled)

    # Messages.

    def _is_colleague(self, peer: str, message: pb.ClusterMessage) -> bool:
        """Whether the sender is a member of our view and goes by it; else the message is refused."""
        state = self._state
        view = state.view
        if (
            state.is_member
            and view is not None
            and (message.origin, message.epoch, message.mark) == view.key
            and view.has(peer, message.incarnation)
        ):
            return True
        state.dropped["stale view"] += 1
        return False

    def _on_datagram(self, peer: str, payload: bytes) -> None:
        state = self._state
        if self._has_left or len(payload) > DATAGRAM_MAX_BYTES:
            state.dropped["oversized"] += 1
            return
        if peer == state.address or not (
            peer in state.config.servers or (state.view and peer in state.view.incarnations)
        ):
            state.dropped["stranger"] += 1
            return
        try:
            message = pb.ClusterMessage.FromString(payload)
        except DecodeError:
            state.dropped["malformed"] += 1
            return
        handler = self._handlers.get(message.kind)
        if handler is None or not message.incarnation or len(message.deaths) > DEATHS_MAX:
            state.dropped["malformed"] += 1
            return
        if self._is_current(peer, message):
            self._take_header(peer, message)
            handler(peer, message)
            self._compare_views(peer, message)

    def _is_current(self, peer: str, message: pb.ClusterMessage) -> bool:
        """Whether the latest process at the peer's address speaks to the present us."""
        state, known = self._state, self._state.of(peer)
        if message.to_incarnation > state.incarnation and not state.is_member:
            # An earlier process here had a higher incarnation (the wall clock was set back): go above it.
            self._start_anew(None, above=message.to_incarnation)
        if message.incarnation < known.incarnation or message.incarnation <= known.dead:
            state.dropped["stale incarnation"] += 1
            if state.now - known.cured_at >= timing.CURE_S:
                known.cured_at = state.now
                state.post(peer, pb.ACK)
            return False
        if message.incarnation > known.incarnation:
            known.incarnation, known.stamp_us = message.incarnation, 0
            known.view_key = (0, 0, 0)
            known.heard_at = known.heard_attention = -inf
            self._died(peer, message.incarnation - 1)  # whatever was there before is gone
        return True

    def _take_header(self, peer: str, message: pb.ClusterMessage) -> None:
        state, known = self._state, self._state.of(peer)
        if message.stamp_us >= known.stamp_us:
            known.stamp_us = message.stamp_us
            known.view_key = (message.origin, message.epoch, message.mark)
            if state.view is not None and (message.origin, message.epoch) == (state.view.origin, state.epoch):
                self._farewell.discard(peer)
        self._bootstrap.heard(peer, message.epoch)
        echo = message.echo_us / 1e6
        is_proof = message.to_incarnation == state.incarnation and 0 < echo <= state.now
        if is_proof:
            if echo > known.heard_at:
                known.heard_at, known.heard_attention = echo, state.attention
            self._detector.heard(peer, message.incarnation, echo)
        for death in message.deaths:
            if state.of(death.address).incarnation >= death.incarnation:
                self._died(death.address, death.incarnation)
        grantor = self._coordinator.grantor
        if (
            grantor is not None
            and (message.mandate or message.fenced)
            and self._speaks_of_my_view(peer, message)
        ):
            if message.fenced:
                self._coordinator.renew = True
            elif is_proof:
                grantor.word(peer, echo)

    def _speaks_of_my_view(self, peer: str, message: pb.ClusterMessage) -> bool:
        view = self._state.view
        return (
            view is not None
            and (message.origin, message.epoch, message.mark) == view.key
            and view.has(peer, message.incarnation)
        )

    def _compare_views(self, peer: str, message: pb.ClusterMessage) -> None:
        """Whoever is behind gets our view; if we are, the peer learns it from our answer."""
        state = self._state
        mine = state.view
        known = state.of(peer)
        if (message.origin, message.epoch, message.mark) == state.view_key:
            return
        if state.now - known.cured_at < timing.CURE_S:
            return
        known.cured_at = state.now
        behind = mine is not None and (message.origin != mine.origin or message.epoch <= mine.epoch)
        if behind and mine is not None:
            state.post(peer, pb.VIEW, view=to_message(mine))
        elif message.kind != pb.ACK:
            state.post(peer, pb.ACK)

    def _on_hello(self, peer: str, message: pb.ClusterMessage) -> None:
        self._coordinator.joiners.add(peer)
        self._state.post(peer, pb.ACK)

    def _on_ack(self, peer: str, message: pb.ClusterMessage) -> None:
        """Its header is its content."""

    def _on_ping(self, peer: str, message: pb.ClusterMessage) -> None:
        self._state.post(peer, pb.ACK)

    def _on_refute(self, peer: str, message: pb.ClusterMessage) -> None:
        self._detector.on_refute(peer, message.incarnation, message.number)
