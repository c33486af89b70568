"""Leases: who may serve, until when, and which slots still wait for their last primary.

Three promises, each of which ends before the next, whatever the network does and whichever way the clocks err:

    lease of a member   <   leader lease of its coordinator   <   the members' support of the coordinator

*Support*: with its messages a member promises the coordinator of its view that for SUPPORT_S it will help no other
node to replace that view (unless the coordinator is dead for certain). *Leader lease*: while a quorum of members
supports it, the coordinator may grant leases, and serve; it ends with the support without which there would be no
quorum. *Lease*: what the coordinator grants a member within that time; a node serves only while it has one.
(Gray and Cheriton, "Leases", 1989; the same two levels as in CockroachDB's leader leases.)

Whoever benefits from a promise counts it from a stamp of its own clock, taken before the promise was given, and cuts it
by the drift of both clocks. So a message that is late only makes a promise shorter.

An example: a coordinates b and c, a datagram takes 1 ms, and for simplicity all clocks agree.

    10.001  a sends b a GRANT, stamped 10.001.
    10.100  b sends an ASK: stamp 10.100, echo 10.001. b now supports a until 10.100 + 0.600 = 10.700.
    10.101  a gets it, and counts from the echo: b's support is good until 10.001 + 0.588 = 10.589. With its own vote
            that is two of three: the leader lease ends at 10.589. a grants b what is left of it, 0.488 s, and notes
            that b's lease is over at 10.589. The GRANT echoes 10.100.
    10.102  b gets it, and counts from the echo: its lease ends at 10.100 + 0.98 * 0.488 = 10.578.

Now a falls silent. b stops serving at 10.578; a, should it wake up, does not serve after 10.589. Not before 10.700 (up
to 0.012 s later by its own clock, for the drift) does c, which proposes the next view, take b's support as run out:
every lease is over by then.

When the coordinator is dead for certain, all leases are taken to run for another LAPSE_S. A coordinator itself knows
what it granted. Nobody hands on the slots of a node whose lease may still run.

A slot that moves between two live members is *blocked* for the new primary until the old one has shown that
it is in the new view, is dead, or its lease is over.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import inf

from app.cluster.membership import timing
from app.cluster.membership.agreement import has_quorum
from app.cluster.view import View
from app.wire.protocol import ALL_SLOTS

USABLE_S = timing.SUPPORT_S * timing.SAFE_SHARE  # how long support is good for, by the clock of the one supported


@dataclass(slots=True)
class Lease:
    """This node's own right to serve."""

    until: float = -inf
    blocked: int = ALL_SLOTS  # own slots among these wait for their last primary
    settled: bool = False  # every member is known to be in this view

    def enter(self, retained: int, carries_on: bool) -> None:
        """Go over to a new view; `carries_on`: it follows directly and has the same coordinator.

        Then the lease stays good for slots that were ours and served, and remain ours. Else there is none.
        """
        self.settled = False
        if carries_on:
            self.blocked |= ALL_SLOTS & ~retained
        else:
            self.drop()

    def drop(self) -> None:
        """No right to anything."""
        self.until, self.blocked, self.settled = -inf, ALL_SLOTS, False

    def granted(self, asked_at: float, span_s: float, blocked: int, settled: bool) -> None:
        """A grant of this view's coordinator. A late one does no harm: blocked slots only become fewer."""
        self.until = max(self.until, asked_at + span_s * timing.SAFE_SHARE)
        self.blocked &= blocked
        self.settled = self.settled or settled


@dataclass(slots=True)
class Grantor:
    """What the coordinator of a view keeps: who supports it, and what it has granted to whom."""

    view: View
    address: str
    support_until: dict[str, float] = field(default_factory=dict)  # of each member that supports us, by our clock
    granted_until: dict[str, float] = field(default_factory=dict)  # each member's lease is over then
    denied: set[str] = field(default_factory=set)  # what we propose leaves them out: they get no more leases
    acknowledged: set[str] = field(default_factory=set)  # members known to be in this view
    waiting: set[str] = field(default_factory=set)  # asked for a lease when there was no leader lease
    may_still_serve: dict[str, int] = field(default_factory=dict)  # slots, by who may serve them by an earlier view

    @classmethod
    def succeed(
        cls, view: View, address: str, before: View | None, previous: "Grantor | None", settled: bool, now: float
    ) -> "Grantor":
        """For a view just installed. `previous`: what we kept for the view directly before, if we coordinated it.

        Without it nothing is known of leases that run: all are taken to run for LAPSE_S from now. `before` is
        the view directly before, or None; `settled`: all were known to be in it.
        """
        grantor = cls(view, address)
        others = [node for node in view.addresses if node != address]
        if previous is not None and before is not None:
            grantor.granted_until = {node: previous.granted_until.get(node, -inf) for node in others}
            grantor.may_still_serve = {node: previous.may_still_serve.get(node, 0) for node in others}
            moved = True
        else:
            grantor.granted_until = dict.fromkeys(others, now + timing.LAPSE_S)
            moved = settled and before is not None
            if not moved:
                grantor.may_still_serve = dict.fromkeys(others, ALL_SLOTS)
        if moved and before is not None:
            for node in others:
                grantor.may_still_serve[node] = grantor.may_still_serve.get(node, 0) | before.masks.get(node, 0)
        for node in others:
            grantor.may_still_serve[node] &= ~view.masks[node]  # what is its own it may serve
        grantor.may_still_serve = {node: slots for node, slots in grantor.may_still_serve.items() if slots}
        return grantor

    def others(self) -> list[str]:
        return [node for node in self.view.addresses if node != self.address]

    def leader_lease_end(self, dead: Iterable[str], needed: int, founders: Collection[str] = ()) -> float:
        """Until when we may grant and serve, by our clock: -inf without the support of a quorum, and of as many as are
        `needed` (of these founders, if there are any), ourselves among them; inf if we are enough alone."""
        gone = set(dead)
        if not gone:  # nearly always: half will do, as we are the longest-standing
            half, promises = (len(self.view.members) + 1) // 2 - 1, self.support_until.values()
            if not founders:
                return _lasts(promises, max(half, needed - 1))
            backing_s = [until for node, until in self.support_until.items() if node in founders]
            return min(_lasts(promises, half), _lasts(backing_s, needed - (self.address in founders)))
        counted = founders or self.view.addresses
        backing = {self.address}
        backed = int(self.address in counted)
        if backed >= needed and has_quorum(self.view.addresses, backing, gone):
            return inf
        for node, until in sorted(self.support_until.items(), key=lambda entry: -entry[1]):
            backing.add(node)
            backed += node in counted and node not in gone
            if backed >= needed and has_quorum(self.view.addresses, backing, gone):
                return until
        return -inf

    def add_support(self, node: str, echo: float) -> None:
        """A member supports us, and says so in answer to what we sent when our clock showed `echo`."""
        self.support_until[node] = max(self.support_until.get(node, -inf), echo + USABLE_S)

    def grant(self, node: str, leader_lease_end: float, now: float) -> float:
        """The span of a lease for the member, 0 if it can't have one now; what is granted is noted."""
        span = min(USABLE_S, leader_lease_end - now)
        if span <= 0 or node in self.denied:
            self.waiting.add(node)
            return 0.0
        self.waiting.discard(node)
        self.granted_until[node] = max(self.granted_until.get(node, -inf), now + span)
        return span

    def granted_left_s(self, now: float) -> float:
        """For how long any lease that it has granted may run on."""
        return max([0.0, *(until - now for until in self.granted_until.values())])

    def is_lapsed(self, node: str, now: float) -> bool:
        """Whether the member's lease is over for certain."""
        return self.granted_until.get(node, -inf) <= now

    def blocked(self) -> int:
        """Slots that somebody may serve by an earlier view."""
        blocked = 0
        for slots in self.may_still_serve.values():
            blocked |= slots
        return blocked

    def acknowledge(self, node: str) -> int:
        """The member is in this view; the slots that this unblocks."""
        self.acknowledged.add(node)
        return self._release(node)

    def expire(self, dead: Iterable[str], now: float) -> int:
        """Release what dead or lapsed members held; the slots that this unblocks."""
        gone = set(dead)
        freed = 0
        # A lease that was granted in this view does not count: it came after an acknowledgement.
        for node in list(self.may_still_serve):
            if node in gone or self.is_lapsed(node, now):
                freed |= self._release(node)
        return freed

    def _release(self, node: str) -> int:
        before = self.blocked()
        self.may_still_serve.pop(node, None)
        return before & ~self.blocked()

    def is_settled(self, dead: Iterable[str]) -> bool:
        """Whether nobody can be serving by an earlier view, as far as live members go."""
        return self.acknowledged | set(dead) >= set(self.others())


def _lasts(promises: Collection[float], needed: int) -> float:
    """Until when so many of these promises run; inf if none is needed, -inf if there are not so many."""
    if needed <= 0:
        return inf
    return sorted(promises)[-needed] if needed <= len(promises) else -inf
