"""A register outside, which all nodes share (etcd): it holds the view and the seat, and can compare and swap.

What a quorum of members decides where nothing else runs (decree.py) is decided there: a node writes the next view in
the place of the one that it goes by, in one transaction, if the seat (seat.py) is still the very one that it has read.
Views are one chain, whoever writes them: no two follow the same one. Who lives is found as ever, by the nodes: the
register has no sessions and no timeouts.

**The mandate.** The coordinator of a view may grant leases, and serve, until the later of two moments:

- MANDATE_S after it sent the latest swap of the seat that was taken (less the drift of clocks). It writes the seat anew
  each RENEW_S.
- While *all* other members support it (leases.py): USABLE_S after the earliest of what they answered. So the cluster
  serves on, with the view that it has, while the register is out of reach.

**Succession.** Another member writes a view with itself as the coordinator

- if the coordinator is dead for certain: at once, since the dead serve nothing. (Leases that it gave run on for LAPSE_S
  at most, and are waited for as ever.)
- else if it is silent, or this node has no lease: when it has found the same seat, unchanged, for MANDATE_S by its own
  clock (and the drift) since it saw it first; and no support that it has given runs any more.

Why that is safe: the swap is taken only if the seat is the one that was seen first at t. So the holder's latest swap
was sent before t, and its mandate by the seat is over when ours begins. Its mandate by the members' support is over,
too, as ours is missing from it. Both end before the successor can have granted anything. A holder that lost its place
finds out by the seat, and by any member.

Who has fewer than half of the members with it gives the others YIELD_S more: a coordinator lets its seat go for so
long, a successor waits so long. Then it goes on all the same, with whom it has. But no silent member is removed that
may have the only copy of something (coordinator.py): those slots wait for it, or for a later process at its address.

An outsider writes a view of itself alone, in which all slots start empty, only when nothing is lost by that: no view
was ever written; or the last member has left in order; or every member is dead for certain. Or else when more than half
of them are dead for certain, nothing is heard of the others, and the seat was not written for GIVEN_UP_S: longer than
any of those takes to go on by itself, and than what the dead have promised can count. Never while it hears somebody who
goes by a later view than the one that it has read, or by another cluster's.

**An answer that is lost.** Of a swap that was not answered nobody knows whether it was taken, or will be yet. So
nothing else is tried until a read shows: the seat that was written (it was taken, and counts from when it was sent); or
another one (it never will be); or still the one before. Then another swap of that one does no harm, since only one of
the two can be taken. While a swap of its own is open, a member supports nobody.

A register that holds less than it held (wiped, or restored from an old backup), or another cluster, or nonsense, is
refused: the node gives up its lease, keeps what it has, and says so, until the register is right again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from app.cluster.events import AskRegister, RegisterAnswered, RegisterFailed
from app.cluster.limits import COUNTER, EPOCH
from app.cluster.membership import timing
from app.cluster.membership.detector import FAILED, Detector
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.membership.register import Handler, Proposer, Register
from app.cluster.membership.seat import Seat, read_seat, read_view, seat_of
from app.cluster.membership.state import NodeState
from app.cluster.view import BadView, Member, View, to_message

# How long a mandate is good for, by the clock of its holder; and after how long it is over for certain, by another's.
_MANDATE_USABLE_S: Final = timing.MANDATE_S * timing.SAFE_SHARE
_MANDATE_LAPSE_S: Final = timing.MANDATE_S / timing.SAFE_SHARE
# Swaps of one seat that are kept in mind. More than can be on their way at once; without a bound a register that can
# be read and takes nothing (an etcd without room on its disk) would cost 100 KB a second.
OPEN_MAX: Final = 32
_OTHER_NAME: Final = "--coordination names another cluster here than there"


@dataclass(frozen=True, slots=True)
class Write:
    """A swap that was sent."""

    seat: Seat
    view: View | None  # that was written with it
    sent_at: float


@dataclass(frozen=True, slots=True)
class Request:
    """What the register was asked last, and has not answered."""

    number: int
    sent_at: float
    write: Write | None  # None: it was only read
    count_known: int  # of a seat that it held before this was sent; -1: of none
    view: View | None  # that we went by then


class SharedRegister(Register):
    """See the module."""

    def __init__(self, state: NodeState, detector: Detector, lease: Lease, proposer: Proposer) -> None:
        self._state = state
        self._detector = detector
        self._lease = lease
        self._proposer = proposer
        self._number = 0
        self._request: Request | None = None
        self._wait_until = -inf  # ask nothing before
        self._is_known = False  # it has answered what it was asked last
        self._read_at = -inf  # when what it has answered last was asked
        self._origin = 0  # which register it is
        # The latest seat that it held. None: it held none, or none that was looked at (an operator's order stands).
        self._seat: Seat | None = None
        self._packed: bytes | None = None  # the same, as it was there; None: it held none
        self._seen_at = state.now  # when we saw that seat first
        self._count_known = -1  # of that seat; -1: there was none yet
        self._open: dict[bytes, Write] = {}  # swaps of that seat of which we don't know whether they were taken
        self._started_at = state.now
        self._beside_since = inf  # when we, a newcomer, found it empty and others with a view
        self._mandate_until = -inf
        self._renew_at = -inf
        self._trouble_since = inf  # when the coordinator was found ill
        self._few_since = inf  # when fewer than half of the members were found up
        self._forced_until = -inf  # an operator's order to go on stands until then
        self._closing_since = inf  # when the last member began to leave
        self._is_closed = False
        self._failure = ""  # why the latest request was not answered
        self._refusal = ""  # why what it holds is not gone by
        self._looked_around_at = state.now  # for other clusters
        self._said = ""  # in the log, of a refusal
        self._said_at = -inf

    # What others ask of it.

    def entered(self) -> None:
        self._trouble_since = inf
        self._forced_until = -inf
        if not self._state.is_coordinator:
            self._mandate_until = -inf

    @property
    def fault(self) -> str:
        """Why the register is not gone by, or does not answer; empty: it does."""
        return self._refusal or self._failure

    @property
    def is_refused(self) -> bool:
        """Whether what it holds is not gone by."""
        return bool(self._refusal)

    @property
    def is_busy(self) -> bool:
        is_undecided = self._request is not None or not self._is_known
        return is_undecided and any(write.view is not None for write in self._open.values())

    def advance(self) -> None:
        """Nothing but an answer moves it."""

    def handlers(self) -> Mapping[int, Handler]:
        return {}

    def leader_lease_end(self, grantor: Grantor) -> float:
        state = self._state
        if state.is_bound or self._refusal or self._closing_since < inf:
            return -inf
        others = grantor.others()
        supported = [grantor.support_until.get(node, -inf) for node in others if node not in state.dead]
        words_until = min(supported, default=inf) if len(supported) == len(others) else -inf
        return max(self._mandate_until, words_until)

    def support_left_s(self) -> float:
        return 0.0  # there is but one cluster: nothing binds those who leave its view (NodeState.is_bound)

    def may_leave(self) -> bool:
        """Whether the last member may go: the register says that it has left, or was asked long enough."""
        state = self._state
        if self._closing_since == inf:
            self._closing_since = state.now
            self._lease.drop()
        self.tick()
        return self._is_closed or state.now >= self._closing_since + timing.FINAL_VIEW_S

    def force(self) -> None:
        """An operator has this node go on, whoever else may live: as soon as the seat has lapsed."""
        self._forced_until = self._state.now + timing.FORCED_S
        self._refusal, self._is_known = "", False
        self._proposer.renew = True  # by a view that it writes the others know

    # Asking.

    def tick(self) -> None:
        """Ask what is to be asked now; called once a tick."""
        state, seat = self._state, self._seat
        self._note_trouble()
        self._tell_of_another_cluster()
        if self._request is not None or state.now < self._wait_until:
            return
        if not self._is_known:
            self._read(0.0 if state.is_member else timing.NEWCOMER_LOOK_S)
        elif self._refusal or not state.is_member:
            self._read(timing.REGISTER_LOOK_S if self._refusal or state.view is not None else timing.NEWCOMER_LOOK_S)
        elif not state.is_coordinator:
            if self._is_our_turn():
                self._read(timing.SEAT_READ_S)
        elif seat is None or seat.view_key != state.view_key:
            self._read(timing.REGISTER_RETRY_S)
        elif self._closing_since < inf:
            if not self._is_closed:
                self._swap(None, is_left=True)
        elif not self._yields() and state.now >= self._renew_at:
            self._swap(None)

    def may_start(self) -> bool:
        state, seat = self._state, self._seat
        self._note_trouble()
        if state.is_member and not state.is_coordinator and not self._is_our_turn():
            return False
        if self._request is not None or not self._is_known or self._refusal or self._closing_since < inf:
            return False
        if self._is_forced and state.is_member:
            return self._may_go_on_by_force()
        if seat is None:
            is_empty = self._packed is None or (self._is_forced and self._is_free())
            return state.view is None and not state.leaving and is_empty and self._is_first()
        if seat.view_key != state.view_key:
            self.tick()  # not to wait for the next one
            return False
        if state.is_coordinator:
            return not self._yields()
        return self._may_succeed() if state.is_member else self._may_found_anew()

    def start(self) -> None:
        state, grantor = self._state, self._proposer.grantor
        view = self._value()
        if view is None:
            return
        if grantor is not None and state.view is not None:
            # Whatever becomes of the proposal, those it removes get no more leases from us.
            grantor.denied.update(set(state.view.addresses) - set(view.addresses))
        self._swap(view)

    def _value(self) -> View | None:
        state, view = self._state, self._state.view
        nonce = state.rng.getrandbits(63) | 1
        me = Member(state.address, state.incarnation)
        if view is None:
            return first_view([me], state.incarnation, state.config.replicas, nonce)
        if not state.is_member:
            gone = dict.fromkeys(view.addresses, "is gone")
            return next_view(view, Changes(gone, {state.address: state.incarnation}), state.config.replicas, nonce)
        is_over = self._is_forced or (not state.is_coordinator and view.coordinator not in state.dead)
        following = self._proposer.value(nonce, is_support_over=is_over)
        if following is None or state.is_coordinator or state.address not in following.incarnations:
            return following
        # Whoever writes it coordinates: those before us may not reach the register.
        own = next(member for member in following.members if member.address == state.address)
        return replace(following, members=(own, *(member for member in following.members if member is not own)))

    def _read(self, again_s: float) -> None:
        self._ask(None, AskRegister(self._number + 1, None, None, None), again_s)

    def _swap(self, view: View | None, *, is_left: bool = False) -> None:
        """Write the seat, and this view; without one the seat alone, for the view that we go by."""
        state = self._state
        view_now = view or state.view
        assert view_now is not None
        before = self._seat.before if view is None and self._seat is not None else state.view_key[2]
        mark = state.rng.getrandbits(63)
        seat = seat_of(view_now, self._count_known + 1, mark, before, self._origin, is_left=is_left)
        packed = seat.pack()
        if len(self._open) >= OPEN_MAX:
            self._forget_oldest()
        write = self._open[packed] = Write(seat, view, state.now)
        written = to_message(view).SerializeToString(deterministic=True) if view is not None else None
        self._ask(write, AskRegister(self._number + 1, self._packed, packed, written), 0.0)

    def _ask(self, write: Write | None, effect: AskRegister, again_s: float) -> None:
        state = self._state
        self._number = effect.number
        self._wait_until = state.now + again_s
        self._request = Request(effect.number, state.now, write, self._count_known, state.view)
        state.effects.append(effect)

    # Answers.

    def take(self, event: RegisterAnswered | RegisterFailed) -> None:
        request = self._request
        if request is None or event.number != request.number:
            return
        self._request = None
        if isinstance(event, RegisterFailed):
            self._failed(event)
            return
        self._is_known, self._read_at = True, request.sent_at
        if fault := self._fault_of_answer(request, event):
            self._refuse(fault)
        # Else a write of ours has failed, and is not known to have been in vain: it may be writes that fail.
        if self._failure and not self._open:
            self._state.log("the register answers again")
            self._failure = ""

    def _fault_of_answer(self, request: Request, event: RegisterAnswered) -> str:
        """Go by the answer; why it is refused, or nothing."""
        if event.is_taken:
            assert request.write is not None
            if request.write.seat.origin != event.origin:
                self._is_known = False
                return _copy_fault(request.write.seat, event.origin)
            self._taken(request.write)
            return ""
        if self._is_forced and self._state.is_member:
            self._overrule(event)
            return ""
        try:
            fault = self._compare(request, event)
        except BadView as bad:
            fault = f"it holds what is no view: {bad}"
        if fault and self._is_forced and self._state.view is None:
            self._overrule(event)
            return ""
        return fault

    def _failed(self, event: RegisterFailed) -> None:
        state = self._state
        self._wait_until = state.now + timing.REGISTER_RETRY_S
        if not self._failure or state.now - self._said_at >= timing.WAITING_LOG_S:
            self._said_at = state.now
            state.log(f"no answer of the register: {event.why}", "warning")
        self._failure, self._is_known = event.why, False

    def _refuse(self, fault: str) -> None:
        state = self._state
        if fault != self._said or state.now - self._said_at >= timing.WAITING_LOG_S:
            self._said, self._said_at = fault, state.now
            does = "keeps what it holds, and serves nothing" if state.is_member else "waits"
            until = "until that is put right, or kv found --force is said"
            state.log(f"the register is refused: {fault}; this node {does}, {until}", "error")
        self._refusal = fault
        self._mandate_until = -inf
        self._lease.drop()

    def _taken(self, write: Write) -> None:
        """The register holds what we wrote, whenever it was taken."""
        state = self._state
        self._settle(write)
        self._note_seat(write.seat, write.seat.pack())
        self._is_closed = write.seat.is_left
        if write.view is not None and write.view.key != state.view_key:
            self._proposer.chosen(write.view)
        if state.is_coordinator and write.seat.view_key == state.view_key:
            self._mandate_until = write.sent_at + _MANDATE_USABLE_S
            self._renew_at = write.sent_at + timing.RENEW_S

    def _settle(self, taken: Write | None) -> None:
        """Of the swaps that were open this one was taken, or none; the others never will be."""
        given_up = any(write.view is not None and write is not taken for write in self._open.values())
        self._open.clear()
        if given_up and self._proposer.grantor is not None:
            self._proposer.renew = True  # those that it would have removed are members still

    def _forget_oldest(self) -> None:
        """Of the swaps that are open. Should it be taken after all, it is as if another node had written it: the view
        that it wrote is gone by, and no mandate counts from it."""
        oldest = self._open.pop(next(iter(self._open)))
        if oldest.view is not None and self._proposer.grantor is not None:
            self._proposer.renew = True  # as in `_settle`

    def _overrule(self, event: RegisterAnswered) -> None:
        """As an operator has ordered: whatever the register holds is to be replaced. It may be what we have written."""
        state = self._state
        own = None if event.seat is None else self._open.get(event.seat)
        if own is not None and own.seat.origin == event.origin:
            self._taken(own)
        elif event.seat != self._packed:
            self._settle(None)
            self._seat, self._packed, self._seen_at = None, event.seat, state.now
        self._seen_at, self._origin = min(self._seen_at, state.now), event.origin

    def _compare(self, request: Request, event: RegisterAnswered) -> str:
        """Go by what the register holds; why it is refused, or nothing."""
        state = self._state
        if event.seat is None or event.view is None:
            if (event.seat is None) != (event.view is None):
                return f"it holds {'a view without a seat' if event.seat is None else 'a seat without a view'}"
            if request.count_known >= 0 or request.view is not None:
                return "it is empty, and was not: it was wiped"
            self._refusal, self._origin = "", event.origin
            return ""
        seat, view = read_seat(event.seat), read_view(event.view)
        if fault := self._fault_of(request, seat, view, event.origin) or self._fault_beside(view):
            return fault
        self._refusal, self._origin = "", event.origin
        if seat.count < request.count_known:  # no harm: what it holds is what we go by, or has come of that
            state.log(f"the register was set back, from seat {request.count_known} to {seat.count}", "warning")
            self._count_known = seat.count
        if (write := self._open.get(event.seat)) is not None:
            self._taken(write)
            return ""
        if event.seat != self._packed:  # what was to be swapped for the one before never will be
            self._settle(None)
            state.support_withdrawn = False
        if event.seat != self._packed or self._seat is None:  # it was not looked at while an order of force stood
            self._note_seat(seat, event.seat)
        self._seen_at = min(self._seen_at, state.now)
        is_later = state.view is None or view.epoch > state.view.epoch or view.cluster_id != state.view.cluster_id
        if is_later:
            self._proposer.holds(view)
        return ""

    def _fault_of(self, request: Request, seat: Seat, view: View, origin: int) -> str:
        """Why this can't be what the register is to hold, or nothing."""
        ours = self._state.view
        if seat.view_key != view.key:
            return "its seat and its view do not belong together"
        if view.epoch == EPOCH.most or seat.count == COUNTER.most:
            return f"it holds epoch {view.epoch} and seat {seat.count}, which nothing can follow"
        if seat.origin != origin:
            return _copy_fault(seat, origin)
        if request.view is None or ours is None or not self._state.is_member:
            return ""
        if view.cluster_id != ours.cluster_id:
            return f"it holds cluster {view.cluster_id}, and this node goes by {ours.cluster_id}"
        if view.epoch < request.view.epoch or (view.epoch == request.view.epoch and view.key != request.view.key):
            return f"it holds epoch {view.epoch}, and this node goes by {request.view.epoch}: it was restored, or wiped"
        # Once it was wrong, what came later there may have come of what was wrong.
        is_next = (view.epoch, seat.before) == (ours.epoch + 1, ours.nonce)
        return "" if view.key == ours.key or is_next else self._refusal

    def _fault_beside(self, view: View) -> str:
        """Why this can't be what we, an outsider, are to go by, as others do not; or nothing."""
        state = self._state
        if state.is_member or self._is_forced:
            return ""
        clusters = {server: state.of(server).view_key[0] for server in self._heard_with_a_view()}
        if not clusters or view.cluster_id in clusters.values():
            return ""
        return f"it holds cluster {view.cluster_id}, and {min(clusters)} goes by another: {_OTHER_NAME}"

    def _is_behind(self, view: View) -> bool:
        """As an outsider: whether others go by what came after this view. The register holds that by now; or an old
        backup was restored, of members that have all been restarted since."""
        keys = [self._state.of(server).view_key for server in self._heard_with_a_view()]
        return not self._is_forced and any(key[0] == view.cluster_id and key[1] > view.epoch for key in keys)

    def _tell_of_another_cluster(self) -> None:
        """As a member: others, who may have founded theirs at the same moment, are no business of the register's."""
        state = self._state
        if not state.is_member or state.now < self._looked_around_at + timing.WAITING_LOG_S:
            return
        self._looked_around_at = state.now
        for server in self._heard_with_a_view():
            if state.of(server).view_key[0] != state.view_key[0]:
                state.log(f"{server} goes by another cluster: {_OTHER_NAME}", "warning")

    def _heard_with_a_view(self) -> Iterator[str]:
        """The servers that have just said that there is a view which they know."""
        state = self._state
        for server, known in state.known.items():
            if known.view_key[0] and state.awake_s - known.heard_awake_s < timing.HEARD_S:
                yield server

    def _note_seat(self, seat: Seat, packed: bytes) -> None:
        self._seat, self._packed, self._seen_at = seat, packed, self._state.now
        self._count_known = max(self._count_known, seat.count)

    # Whose turn it is.

    def _note_trouble(self) -> None:
        """Note since when the coordinator has been ill, and since when fewer than half of the members have been up."""
        state, view = self._state, self._state.view
        if not state.is_member or view is None:
            self._trouble_since = self._few_since = inf
            return
        grantor = self._proposer.grantor
        living = [address for address in view.addresses if address not in state.dead]
        up = [address for address in living if self._is_with_us(address, grantor)]
        self._few_since = min(self._few_since, state.now) if 2 * len(up) < len(living) else inf
        if state.is_coordinator:
            self._trouble_since = inf
            return
        lease_over_at = max(self._lease.until, state.installed_at + timing.SUPPORT_S)
        if self._detector.is_alive(view.coordinator) and lease_over_at > state.now:
            self._trouble_since = inf
            if not self._open:
                state.support_withdrawn = False
        elif self._trouble_since == inf:
            # What was seen before that does not count: a register that was set back may hold it again.
            self._trouble_since, self._seen_at = state.now, inf

    def _is_with_us(self, address: str, grantor: Grantor | None) -> bool:
        """Whether the member is up, or supports us if we are the coordinator: that ends sooner than it seems silent."""
        if grantor is None or address == self._state.address:
            return self._detector.is_up(address)
        return grantor.support_until.get(address, -inf) > self._state.now

    @property
    def _is_forced(self) -> bool:
        return self._forced_until > self._state.now

    def _is_our_turn(self) -> bool:
        """As a member: whether the coordinator is ill, and we are to see to it; those before us, who are up, first."""
        state, view = self._state, self._state.view
        if self._is_forced:
            return True
        if self._trouble_since == inf or view is None:
            return False
        place = view.addresses.index(state.address)
        before = sum(1 for address in view.addresses[1:place] if self._detector.is_up(address))
        return state.now >= self._trouble_since + before * timing.TURN_S

    def _is_first(self) -> bool:
        """As a newcomer that finds no view: whether there is no cluster either."""
        state = self._state
        if not self._has_listened:
            return False
        for server in self._heard_with_a_view():
            self._beside_since = min(self._beside_since, state.now)
            if self._read_at > self._beside_since:  # else it may have been written since
                self._refuse(f"it is empty, though {server} goes by a view: it was wiped, or {_OTHER_NAME}")
            return False
        if any(state.now - known.refused_at < 2 * timing.WAITING_LOG_S for known in state.known.values()):
            return False  # one that speaks another protocol: the log says so
        self._beside_since = inf
        return True

    @property
    def _has_listened(self) -> bool:
        """Whether others, if there are some, have had the time to be heard."""
        return self._state.now >= self._started_at + timing.NEWCOMER_LOOK_S

    def _may_succeed(self) -> bool:
        """As a member: whether we may take the coordinator's place now."""
        state, view = self._state, self._state.view
        assert view is not None
        if view.coordinator in state.dead:
            state.support_withdrawn = True  # should that be wrong, after all
            return True
        is_silent = self._detector.state_of(view.coordinator) == FAILED or self._lease.until <= state.now
        return is_silent and not self._yields() and self._is_lapsed()

    def _may_go_on_by_force(self) -> bool:
        """As a member, whatever the register holds."""
        return self._is_free() and (self._state.is_coordinator or self._is_lapsed())

    def _is_free(self) -> bool:
        """Whether nobody writes to the register, if it holds anything."""
        return self._packed is None or self._state.now >= self._seen_at + _MANDATE_LAPSE_S

    def _is_lapsed(self) -> bool:
        """Whether the coordinator's mandate is over, by the seat and by our support of it."""
        state = self._state
        if state.now < self._seen_at + _MANDATE_LAPSE_S:
            return False
        state.support_withdrawn = True
        return state.support_until <= state.now

    def _may_found_anew(self) -> bool:
        """As an outsider: whether we may write a view of ourselves alone."""
        state, view, seat = self._state, self._state.view, self._seat
        assert view is not None
        assert seat is not None
        if state.leaving or not self._has_listened or self._fault_beside(view) or self._is_behind(view):
            return False
        if seat.is_left:
            return True
        gone = {member.address for member in view.members if self._is_gone(member)}
        if len(gone) == len(view.members):
            return True
        if state.now < self._seen_at + _MANDATE_LAPSE_S:
            return False
        if self._is_forced:
            return True
        heard = any(
            state.awake_s - state.of(address).heard_awake_s < timing.HEARD_S
            for address in view.addresses
            if address not in gone
        )
        # By then what the last of the dead has promised is over, too, by which a coordinator may have served on.
        died_at = [self._started_at if node == state.address else state.of(node).died_at for node in gone]
        since = max([self._seen_at, *died_at])
        return 2 * len(gone) > len(view.members) and not heard and state.now >= since + timing.GIVEN_UP_S

    def _is_gone(self, member: Member) -> bool:
        """Whether the process is dead for certain."""
        state = self._state
        if member.address == state.address:
            return member.incarnation != state.incarnation  # ours has come after it
        return state.of(member.address).is_dead(member.incarnation)

    def _yields(self) -> bool:
        """As a member: whether others are to have the coordinator's place, for now, as there may be more of them."""
        return self._few_since <= self._state.now < self._few_since + timing.YIELD_S


def _copy_fault(seat: Seat, origin: int) -> str:
    return f"it is register {origin:x}, and what it holds was written to {seat.origin:x}: it is a backup, or a copy"
