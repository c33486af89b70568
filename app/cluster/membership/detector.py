"""Failure detection: SWIM with Lifeguard's doubts about oneself.

Each interval a member probes the next other one in a shuffled round. Without proof of life in time it asks
a few others to probe as well, then suspects, and tells everyone. A suspicion that runs out makes the
suspect *failed* here: it is not counted as alive, and the coordinator replaces it once its lease is over
too. Any proof of life dated after the suspicion began clears it, as does the suspect's own refutation.
(Das, Gupta, Motivala: SWIM, 2002; Dadgar, Phillips, Currey: Lifeguard, 2018.)

What differs. A refused connection makes a suspect at once, for the shortest time. Suspicions are told to everyone at
once, not gossiped: the cluster is small. Whoever hears one probes the suspect itself and vouches for it if it answers.
Partners of the heartbeat are probed as soon as they fall silent, not when their turn comes. Timeouts follow the worst
recent round trip. And all deadlines run in *awake time* (state.py), which stands still while the node does: rather than
to multiply timeouts after a stall was noticed, the time of the stall does not count.

Death for certain (a later process, a refused link on one machine) comes from elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, log
from typing import Final

from app.cluster.membership import timing
from app.cluster.membership.state import NodeState
from proto_gen import cluster_pb2 as pb

ALIVE: Final = "alive"
SUSPECTED: Final = "suspect"
FAILED: Final = "failed"
DEAD: Final = "dead"


def suspicion_s(confirmations: int, others: int) -> float:
    """How long a suspect has, when that many members besides us suspect it, of `others` that could."""
    expected = min(timing.INDIRECT_PROBES, others)
    if expected <= 0:
        return timing.SUSPICION_MIN_S
    share = log(min(confirmations, expected) + 1) / log(expected + 1)
    return timing.SUSPICION_MAX_S - share * (timing.SUSPICION_MAX_S - timing.SUSPICION_MIN_S)


@dataclass(slots=True)
class Probe:
    """One probe under way. Dates are by the clock, deadlines in awake time."""

    started_at: float
    started_awake_s: float
    own: bool  # on our own account: its failure makes a suspicion
    asked_others: bool = False
    is_relay_heard: bool = False  # one of those that were asked answers us: it is not us
    relays: int = 0
    waiting: dict[str, int] = field(default_factory=dict)  # who wants to be told, with its stamp


@dataclass(slots=True)
class Suspicion:
    started_at: float
    started_awake_s: float
    is_refused: bool = False  # its machine has refused a connection
    confirmed_by: set[str] = field(default_factory=set)
    reprobed_awake_s: float = -inf


@dataclass(slots=True)
class Watched:
    """One other member."""

    incarnation: int
    state: str = ALIVE
    heard_at: float = -inf  # latest proof of life, own or vouched for, by our clock
    heard_awake_s: float = -inf
    refutation: int = 0
    probe: Probe | None = None
    suspicion: Suspicion | None = None
    failed_at: float = -inf


class Detector:
    """Runs while this node is a member."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._members: dict[str, Watched] = {}
        self._round: list[str] = []
        self._next_probe_awake_s = 0.0
        self._refutation = 0
        self.health = 0  # 0: fine; up to HEALTH_MAX: we may be the one who is ill

    def set_members(self, incarnations: Iterable[tuple[str, int]]) -> None:
        """Watch these (never ourselves); what is known of those who stay is kept."""
        before = self._members
        self._members = {}
        for address, incarnation in incarnations:
            watched = before.get(address)
            if watched is None or watched.incarnation != incarnation:
                now, awake_s = self._state.now, self._state.awake_s
                watched = Watched(incarnation, heard_at=now, heard_awake_s=awake_s)
            self._members[address] = watched
            if self._state.of(address).is_dead(incarnation):
                watched.state = DEAD
        self._round = [address for address in self._round if address in self._members]

    def state_of(self, address: str) -> str:
        """ALIVE, SUSPECTED, FAILED or DEAD; of ourselves and of whoever is no member ALIVE."""
        watched = self._members.get(address)
        return watched.state if watched else ALIVE

    def is_up(self, address: str) -> bool:
        """Whether the member counts as live."""
        return self.state_of(address) in (ALIVE, SUSPECTED)

    def is_alive(self, address: str) -> bool:
        """Whether nothing speaks against the member."""
        return self.state_of(address) == ALIVE

    def last_heard(self, address: str) -> tuple[float, float]:
        """When the member was last proven alive, by itself or by others: by our clock, and in awake time."""
        watched = self._members.get(address)
        return (watched.heard_at, watched.heard_awake_s) if watched else (-inf, -inf)

    def probe(self, address: str) -> None:
        """Probe the member out of its turn."""
        watched = self._members.get(address)
        if watched is not None and watched.state == ALIVE and watched.probe is None:
            self._start_probe(address, watched, own=True)

    # Evidence.

    def heard(self, address: str, incarnation: int, dated: float, *, vouched: bool = False) -> None:
        """The process was alive at the date, by our clock. `vouched`: somebody else says so."""
        watched = self._members.get(address)
        if watched is None or watched.incarnation != incarnation or watched.state == DEAD:
            return
        if dated > watched.heard_at:
            watched.heard_at = dated
            watched.heard_awake_s = self._state.awake_s
        probe = watched.probe
        if probe is not None and dated >= probe.started_at:
            watched.probe = None
            self._answered(address, probe, vouched=vouched)
        suspicion = watched.suspicion
        if (suspicion is not None and dated >= suspicion.started_at) or (
            watched.state == FAILED and dated > watched.failed_at
        ):
            self._clear(address, watched)

    def died(self, address: str, incarnation: int) -> bool:
        """The process is dead for certain; False if it is not watched, or was known to be."""
        watched = self._members.get(address)
        if watched is None or watched.incarnation > incarnation or watched.state == DEAD:
            return False
        watched.state, watched.probe, watched.suspicion = DEAD, None, None
        return True

    def refused(self, address: str, incarnation: int) -> None:
        """A connection to the process, or one before it, was refused: it has died, or something on the way refuses."""
        watched = self._members.get(address)
        if watched is None or watched.incarnation > incarnation:
            return
        if watched.state == ALIVE:
            self._suspect(address, watched, self._state.now)
        if watched.suspicion is not None:
            watched.suspicion.is_refused = True

    def lives(self, address: str, incarnation: int) -> None:
        """The process was held dead, and has shown that it lives."""
        watched = self._members.get(address)
        if watched is not None and watched.incarnation == incarnation and watched.state == DEAD:
            watched.state = ALIVE

    def _answered(self, address: str, probe: Probe, *, vouched: bool) -> None:
        state = self._state
        if probe.own:
            self.health = max(0, self.health - 1)
        if not vouched:  # which takes a way of its own, and begins when a probe has timed out
            # A stall of ours is no round trip.
            took = min(state.now - probe.started_at, state.awake_s - probe.started_awake_s)
            state.round_trip_s = max(took, state.round_trip_s * timing.ROUND_TRIP_DECAY)
        for requester, stamp in probe.waiting.items():
            self._vouch(requester, address, stamp)

    def _vouch(self, requester: str, address: str, stamp: int) -> None:
        watched = self._members[address]
        self._state.post(requester, pb.VOUCH, target=address, target_incarnation=watched.incarnation, number=stamp)

    def _clear(self, address: str, watched: Watched) -> None:
        if watched.state == FAILED:
            self._state.log(f"{address} is back")
        watched.state, watched.suspicion = ALIVE, None

    # Time.

    def probe_timeout_s(self) -> float:
        """How long a direct probe may take, given the round trips of late and our own health."""
        fitted = max(timing.PROBE_TIMEOUT_MIN_S, timing.ROUND_TRIP_SHARE * self._state.round_trip_s)
        return min(fitted, timing.PROBE_TIMEOUT_MAX_S) * (1 + self.health)

    def tick(self, partners: Iterable[str]) -> None:
        """Probe, give up, suspect, fail, as far as it is time. `partners`: who owes us a heartbeat."""
        awake_s = self._state.awake_s
        if awake_s >= self._next_probe_awake_s:
            self._next_probe_awake_s = awake_s + timing.PROBE_INTERVAL_S
            self._probe_next()
        for address in partners:
            watched = self._members.get(address)
            if watched is None or watched.state != ALIVE or watched.probe is not None:
                continue
            if awake_s - watched.heard_awake_s > timing.SILENCE_S + self._state.round_trip_s:
                self._start_probe(address, watched, own=True)
        timeout = self.probe_timeout_s()
        for address, watched in self._members.items():
            if watched.probe is not None:
                self._check_probe(address, watched, watched.probe, timeout)
            if watched.suspicion is not None:
                self._check_suspicion(address, watched, watched.suspicion, timeout)

    def _probe_next(self) -> None:
        for _ in range(len(self._members)):
            if not self._round:
                self._round = list(self._members)
                self._state.rng.shuffle(self._round)
            address = self._round.pop()
            watched = self._members[address]
            if watched.state == FAILED:  # it may come back before it is replaced, or live where only we don't hear it
                self._ask_others(address, watched)
            elif watched.state == ALIVE and watched.probe is None:
                self._start_probe(address, watched, own=True)
                return

    def _start_probe(self, address: str, watched: Watched, own: bool) -> Probe:
        watched.probe = Probe(self._state.now, self._state.awake_s, own)
        self._ping(address)
        return watched.probe

    def _ping(self, address: str) -> None:
        self._state.post(address, pb.PING)

    def _check_probe(self, address: str, watched: Watched, probe: Probe, timeout: float) -> None:
        age = self._state.awake_s - probe.started_awake_s
        if age >= timeout and not probe.asked_others:
            probe.asked_others = True
            if probe.own:
                probe.relays = self._ask_others(address, watched)
            for requester, stamp in probe.waiting.items():
                self._state.post(requester, pb.NACK, target=address, number=stamp)
        if age >= timeout * timing.DEADLINE_SHARE:
            watched.probe = None
            if not probe.own:
                return
            if probe.relays and not probe.is_relay_heard:  # nobody answers us at all: it may be us
                self.health = min(timing.HEALTH_MAX, self.health + 1)
            if watched.state == ALIVE:
                self._suspect(address, watched, probe.started_at)
                for other in self._members:
                    self._tell_suspicion(other, address, watched)

    def _ask_others(self, address: str, watched: Watched) -> int:
        """Have it probed by others as well; how many are asked."""
        up = [other for other in self._members if other != address and self.is_up(other)]
        relays = self._state.rng.sample(up, min(timing.INDIRECT_PROBES, len(up)))
        for relay in relays:
            self._state.post(relay, pb.PING_REQ, target=address, target_incarnation=watched.incarnation)
        self._ping(address)  # the first may have been lost
        return len(relays)

    def _suspect(self, address: str, watched: Watched, since: float) -> Suspicion:
        watched.state = SUSPECTED
        watched.suspicion = Suspicion(since, self._state.awake_s)
        return watched.suspicion

    def _tell_suspicion(self, other: str, address: str, watched: Watched) -> None:
        self._state.post(
            other,
            pb.SUSPECT,
            target=address,
            target_incarnation=watched.incarnation,
            number=watched.refutation,
        )

    def _check_suspicion(self, address: str, watched: Watched, suspicion: Suspicion, timeout: float) -> None:
        awake_s = self._state.awake_s
        stretch = timeout / timing.PROBE_TIMEOUT_MIN_S  # slow answers and ill health stretch this as well
        others = len(self._members) - 1
        lasts = timing.SUSPICION_MIN_S if suspicion.is_refused else suspicion_s(len(suspicion.confirmed_by), others)
        if awake_s - suspicion.started_awake_s >= lasts * stretch:
            watched.state, watched.suspicion = FAILED, None
            watched.failed_at = self._state.now
            self._state.log(f"{address} is silent: check its process, its machine and the network to it", "warning")
        elif awake_s - suspicion.reprobed_awake_s >= timing.REPROBE_S:
            suspicion.reprobed_awake_s = awake_s
            self._ping(address)

    # What others say.

    def on_ping_req(self, requester: str, message: pb.ClusterMessage) -> None:
        """Probe the target on the requester's account."""
        watched = self._members.get(message.target)
        if watched is None or watched.incarnation != message.target_incarnation or watched.state == DEAD:
            return
        probe = watched.probe or self._start_probe(message.target, watched, own=False)
        probe.waiting[requester] = message.stamp_us

    def on_vouch(self, message: pb.ClusterMessage) -> None:
        """Another member had an answer from the target after it got our PING_REQ of that stamp (an indirect ack)."""
        if message.number <= round(self._state.now * 1e6):
            self.heard(message.target, message.target_incarnation, message.number / 1e6, vouched=True)

    def on_nack(self, message: pb.ClusterMessage) -> None:
        """A relay heard us but not the target: so it is not us."""
        watched = self._members.get(message.target)
        if watched is not None and watched.probe is not None:
            watched.probe.is_relay_heard = True

    def on_suspect(self, accuser: str, message: pb.ClusterMessage) -> None:
        """A member suspects another, or us."""
        state = self._state
        if message.target == state.address:
            # Its number is that of the last refutation that the accuser has heard, so at most our last one's.
            if message.target_incarnation == state.incarnation and message.number <= self._refutation:
                self._refutation += 1
                self.health = min(timing.HEALTH_MAX, self.health + 1)
                for other in self._members:
                    state.post(other, pb.REFUTE, number=self._refutation)
            return
        watched = self._members.get(message.target)
        if watched is None or watched.incarnation != message.target_incarnation:
            return
        if message.number < watched.refutation or watched.state == DEAD:
            return  # refuted since
        silent_s = state.awake_s - watched.heard_awake_s
        if watched.suspicion is None and watched.state == ALIVE and silent_s > timing.SILENCE_S:
            self._suspect(message.target, watched, state.now)
        if watched.suspicion is not None:
            watched.suspicion.confirmed_by.add(accuser)
        elif watched.state == ALIVE:
            probe = watched.probe or self._start_probe(message.target, watched, own=True)
            probe.waiting[accuser] = message.stamp_us

    def on_refute(self, address: str, incarnation: int, number: int) -> None:
        """The suspect itself says that it is well; it has heard the suspicion, so this is no old message."""
        watched = self._members.get(address)
        if watched and watched.incarnation == incarnation and number > watched.refutation:
            watched.refutation = number
            if watched.state in (SUSPECTED, FAILED):
                watched.heard_at = self._state.now
                watched.heard_awake_s = self._state.awake_s
                watched.probe = None
                self._clear(address, watched)
