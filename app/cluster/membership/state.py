"""What all parts of the cluster core share: who we are, what we know of each peer, the view, and the way out.

Two kinds of time. `now` is the clock. *Awake time* (`awake_s`) counts only the time in which this node ran: between two
steps at most STEP_AWAKE_MAX_S. Leases go by the clock, which runs on while a process is stopped; deadlines for the
answers of others go by awake time, so that a node never takes its own sleep for the others' silence. (Stopped from
10.0 to 70.0, a node wakes up 60 s later by the clock, and 0.1 s later in awake time.)

Proof of life is dated by our own clock. Every datagram carries its sender's stamp and echoes the last stamp
that the sender got from us; so "this peer was alive, and heard us, after our clock showed `echo`" is known
for certain, however long either datagram was on its way. Leases, suspicions and joins all rest on such
dates; what merely arrives proves nothing, for it may be old, and its sender may be deaf.
"""

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from app.cluster.events import Effect, Log, Send
from app.cluster.limits import SLOTS_BYTES
from app.cluster.membership import timing
from app.cluster.view import View
from app.version import NODE_PROTOCOL, SHARED_REGISTER
from app.wire.protocol import SERVERS_MAX
from proto_gen import cluster_pb2 as pb


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What a node is told at its start; the same on every node, but for the address. The servers may change later.

    `transfer`: the shell moves the contents of slots and reports SlotsSynced; without, a learner counts as
    caught up at once. `joins`: this node founds no cluster; the servers are itself and those that it asks to join
    theirs. `forget_after_s`: see belonging.py. `shared_register`: views are decided on outside, not by the members
    (shared_register.py).
    """

    address: str
    servers: tuple[str, ...]  # of the file, in its order, this node's address among them
    replicas: int = 3
    transfer: bool = False
    joins: bool = False
    forget_after_s: float = inf
    shared_register: bool = False

    def __post_init__(self) -> None:
        assert self.address in self.servers, f"{self.address} is not among {self.servers}"
        assert 1 <= len(set(self.servers)) == len(self.servers) <= SERVERS_MAX, self.servers
        assert 1 <= self.replicas <= 8, self.replicas


@dataclass(slots=True)
class Known:
    """What is known of the process at one address."""

    incarnation: int = 0  # the highest heard of
    dead: int = 0  # its incarnations up to this one are dead for certain
    died_at: float = -inf  # when we learned that
    overtaken: int = 0  # the incarnations above its own up to this one are dead, too: it came later than they
    undead: int = 0  # an incarnation that was held dead and lived: of it only a later process is proof
    stamp_us: int = 0  # its latest stamp, to be echoed
    stamped_at: float = -inf  # when we got that
    view_key: tuple[int, int, int] = (0, 0, 0)  # the view it went by in its latest message
    absent_at: float = -inf  # when its machine, which is ours, last said that no process is there; heard since: -inf
    refused_at: float = -inf  # when we last said that it speaks another protocol
    names_protocol: bool = False  # as its messages do, but those of the last release (docs/operations.md)
    doubted_at: float = -inf  # when a connection to it was last refused, which proves nothing
    heard_at: float = -inf  # the latest proof from itself that it lives and hears us, by our clock
    heard_awake_s: float = -inf  # the same, in awake time
    learned_at: float = -inf  # when we last got something that this very process has sent, or a view that has it
    vouched_at: float = -inf  # after that, by our clock, somebody went by a view that has this very process
    anti_entropy_at: float = -inf  # when it was last told of a newer view or incarnation
    is_linked: bool = False  # the link to it is up
    unlinked_at: float = inf  # since when it is wanted and down, by our clock
    unlinked_awake_s: float = inf  # the same, in awake time

    def note_new_process(self, incarnation: int) -> None:
        """A new process at the address."""
        self.incarnation, self.stamp_us, self.view_key = incarnation, 0, (0, 0, 0)
        self.heard_at = self.heard_awake_s = self.vouched_at = self.learned_at = -inf

    def note_later_process(self, incarnation: int, now: float) -> None:
        """Another process is at the address, which has come later though its incarnation is lower."""
        self.note_overtaken(self.incarnation, now)
        self.note_new_process(incarnation)
        self.dead = incarnation - 1

    def note_overtaken(self, incarnation: int, now: float) -> None:
        """This process is dead, whose incarnation is above that of the later one."""
        self.overtaken, self.died_at = max(self.overtaken, incarnation), now

    def is_dead(self, incarnation: int) -> bool:
        """Whether this process at the address is dead for certain."""
        return incarnation <= self.dead or self.incarnation < incarnation <= self.overtaken

    def note_stamp(self, stamp_us: int, now: float) -> None:
        """Something came from it that was sent when its clock showed this.

        An earlier stamp than the latest is of a datagram that was late, and says nothing new. If nothing but such have
        come for long, the latest was not the process's own: echoing it would have our heartbeats pass for none.
        """
        if stamp_us >= self.stamp_us or now - self.stamped_at > timing.STAMP_KEPT_S:
            self.stamp_us, self.stamped_at = stamp_us, now

    def note_link(self, *, is_up: bool) -> None:
        """The link to it is up now, or wanted no more."""
        self.is_linked, self.unlinked_at, self.unlinked_awake_s = is_up, inf, inf


@dataclass(slots=True)
class NodeState:
    """See the module."""

    config: ClusterConfig
    rng: random.Random
    incarnation: int
    now: float
    awake_s: float = 0.0  # see the module
    view: View | None = None
    is_member: bool = False
    installed_at: float = -inf
    round_trip_s: float = 0.0  # the worst recent one
    leaving: bool = False
    dead: set[str] = field(default_factory=set)  # members of the view that are dead for certain
    absent: set[str] = field(default_factory=set)  # servers that are proven to have no process; see `expire_absent`
    absent_since: dict[str, float] = field(default_factory=dict)  # when each of these was found so first
    unlisted: int = 0  # members of the view that our servers file lacks
    servers: dict[str, None] = field(default_factory=dict)  # that are listened to; see `note_servers`
    parted: dict[str, float] = field(default_factory=dict)  # awake time since when servers belong no more, by the view
    guests: dict[str, float] = field(default_factory=dict)  # likewise when we heard of servers in no list of ours
    # Until then we support the coordinator of the view (leases.py): we help no other to replace it.
    support_until: float = -inf
    support_withdrawn: bool = False  # we have promised a ballot to another than the coordinator
    # Until then what this process, or one before it, has promised a coordinator of another cluster than this may count.
    bound_until: float = -inf
    bound_to: int = 0
    known: dict[str, Known] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.note_servers()

    @property
    def address(self) -> str:
        return self.config.address

    @property
    def protocol(self) -> int:
        """Which one this node speaks, about membership."""
        return NODE_PROTOCOL + SHARED_REGISTER * self.config.shared_register

    @property
    def epoch(self) -> int:
        return self.view.epoch if self.view else 0

    @property
    def view_key(self) -> tuple[int, int, int]:
        """What names the view we go by; zeros if there is none."""
        return self.view.key if self.view else (0, 0, 0)

    @property
    def is_coordinator(self) -> bool:
        """Whether this node grants the leases of its view."""
        return self.is_member and self.view is not None and self.view.coordinator == self.address

    def of(self, address: str) -> Known:
        """What is known of the address."""
        found = self.known.get(address)
        if found is None:
            found = self.known[address] = Known()
        return found

    def note_dead(self) -> None:
        """Bring `dead` up to date; called when the view, or what is known of its members, has changed."""
        members = self.view.members if self.view else ()
        self.dead = {member.address for member in members if self.of(member.address).is_dead(member.incarnation)}
        self.unlisted = sum(1 for member in members if member.address not in self.config.servers)
        self.note_servers()

    def note_servers(self) -> None:
        """Bring `servers` up to date, likewise: those that belong, by the view if it lists them; and for a while those
        that have just been removed, so that they hear of it, and guests (belonging.py). An outsider goes by its file as
        well: views may be old."""
        view, file = self.view, self.config.servers
        belonging = () if view is None else view.servers
        by_file = () if self.is_member and view is not None and view.lists_servers else file
        self.servers = dict.fromkeys((*belonging, *by_file, *self.parted, *self.guests))

    def note_unlinked(self, peer: str) -> None:
        """The link to the peer is wanted, and down as of now."""
        known = self.of(peer)
        known.is_linked, known.unlinked_at, known.unlinked_awake_s = False, self.now, self.awake_s

    def goes_by_our_view(self, peer: str, message: "pb.ClusterMessage") -> bool:
        """Whether the sender is a member of the view that we are a member of, and goes by it."""
        view = self.view
        return (
            self.is_member
            and view is not None
            and (message.cluster_id, message.epoch, message.nonce) == view.key
            and view.has(peer, message.incarnation)
        )

    def non_members(self) -> list[str]:
        """The servers that belong, and are no members."""
        view, file = self.view, self.config.servers
        if view is None:
            return [*file]
        return [server for server in (view.others if view.lists_servers else file) if server not in view.incarnations]

    def countable_dead(self) -> set[str]:
        """The dead members, if the survivors may go on without a majority (agreement.py); else nobody.

        They may only if no one else can have gone on with what the dead had agreed to: since they died, every
        other server that belongs has shown that it knows of no newer view, nor goes by another cluster's, or that no
        process is there. That goes for whoever came after them at their addresses, too. A silent one is waited for
        without end: it may have what was acknowledged since.
        """
        if not self.dead or self.view is None or self.config.shared_register:
            return self.dead
        since = max(self.of(address).died_at for address in self.dead)
        for server in (*self.non_members(), *self.dead):
            known = self.of(server)
            theirs, ours = known.view_key, self.view.key
            is_newer = theirs[1] >= ours[1] if theirs[0] == ours[0] else theirs[0] != 0
            if known.heard_at >= since and theirs != ours and is_newer:
                return set()
            if known.heard_at < since and known.absent_at < since:
                return set()
        return self.dead

    def note_absent(self, server: str, dated: float) -> None:
        """The server's machine, which is ours, has said that no process is there, at this date or after it."""
        if self.is_stranger(server):  # dialled when it was none
            return
        self.of(server).absent_at = dated
        self.absent.add(server)
        self.absent_since.setdefault(server, self.now)
        self.expire_absent()

    def note_present(self, server: str) -> None:
        """A process is there: something came from it, or a connection."""
        self.of(server).absent_at = -inf
        self.absent.discard(server)
        self.absent_since.pop(server, None)

    def expire_absent(self) -> None:
        """Forget proofs of absence that are not fresh: a process may have been started since."""
        self.absent = {server for server in self.absent if self.now - self.of(server).absent_at < timing.ABSENT_S}
        self.absent_since = {server: since for server, since in self.absent_since.items() if server in self.absent}

    def members_needed(self) -> int:
        """How many must be together to go on (see `counted`): half of the file's servers, those proven absent not
        counted; half of the founders, where views list who belongs.

        Those who found are more than half of them (bootstrap.py): so no cluster is founded beside one that goes on. A
        view that an operator has forced goes on with whom it has. With a shared register any number may.
        """
        view, file = self.view, self.config.servers
        if self.config.shared_register or (view is not None and view.is_forced):
            return 1
        if view is not None and view.lists_servers:
            return (len(view.founders) + 1) // 2
        members = () if view is None else view.incarnations
        absent = sum(1 for server in self.absent if server in file or server in members)  # guests may be, too
        return (len(file) + self.unlisted - absent + 1) // 2

    def founders(self) -> tuple[str, ...]:
        """Who alone counts among those that are needed to go on; nobody: all do."""
        if self.view is None or self.view.is_forced or self.config.shared_register:
            return ()
        return self.view.founders

    def counted(self, nodes: Collection[str]) -> int:
        """How many of these nodes count among those that are needed to go on."""
        founders = self.founders()
        return sum(1 for node in founders if node in nodes) if founders else len(nodes)

    def change_servers(self, servers: tuple[str, ...]) -> None:
        """These are the servers from now on."""
        self.config = replace(self.config, servers=servers)
        self.note_dead()
        self.absent = {server for server in self.absent if not self.is_stranger(server)}

    def forget_strangers(self) -> None:
        """Keep in mind only who is listened to."""
        self.known = {address: known for address, known in self.known.items() if not self.is_stranger(address)}

    def is_stranger(self, address: str) -> bool:
        """Whether it is no server that is listened to."""
        return address not in self.servers

    def others(self) -> list[str]:
        """The other members of the view, in order of seniority."""
        return [address for address in (self.view.addresses if self.view else ()) if address != self.address]

    def note_bound(self, left_s: float) -> None:
        """We leave our view, and what we have promised in it, as a member, counts for so long."""
        assert self.view is not None
        if not self.is_bound:
            self.bound_to = self.view.cluster_id
        elif self.bound_to != self.view.cluster_id:
            self.bound_to = 0
        self.bound_until = max(self.bound_until, self.now + left_s)

    @property
    def is_bound(self) -> bool:
        """Whether leases of another cluster may still rest on a promise of ours, or of the process before us.

        Until that is over we support no coordinator, and have no leader lease: two clusters that meet must not serve at
        once. With a shared register there is but one.
        """
        is_other = self.view is None or self.view.cluster_id != self.bound_to
        return is_other and self.now < self.bound_until and not self.config.shared_register

    @property
    def bound_s(self) -> float:
        """For how long we support no coordinator yet, as far as that is known."""
        return max(0.0, self.bound_until - self.now) if self.is_bound else 0.0

    def coordinator_is_fresh(self) -> bool:
        """Whether there is recent proof that the view's coordinator lives and hears us."""
        assert self.view is not None
        heard_at = max(self.of(self.view.coordinator).heard_at, self.installed_at)
        return self.now - heard_at <= timing.COORDINATOR_FRESH_S + 2 * self.round_trip_s

    def view_heard_awake_s(self) -> float:
        """When a member of the view that we observe was last heard (awake time); not one that has left the cluster."""
        dates = [-inf]
        for member in self.view.members if self.view else ():
            known = self.of(member.address)
            if known.incarnation == member.incarnation and known.view_key[0] in (0, self.view_key[0]):
                dates.append(known.heard_awake_s)
        return max(dates)

    def _supports(self, peer: str) -> bool:
        view = self.view
        return (
            self.is_member
            and view is not None
            and peer == view.coordinator
            and not self.support_withdrawn
            and not self.is_bound
            and peer not in self.dead
            and self.of(peer).heard_at >= self.of(peer).doubted_at
            and self.coordinator_is_fresh()
        )

    def echoed_at(self, message: pb.ClusterMessage) -> float:
        """When, by our clock, we said what the message answers: its sender lived after that. -inf: that proves nothing,
        since it is for another process, answers nothing, or speaks of a time to come."""
        echo = message.echo_us / 1e6
        return echo if message.to_incarnation == self.incarnation and 0 < echo <= self.now else -inf

    def post(self, peer: str, kind: "pb.Kind", *, to: tuple[int, int] | None = None, **fields: Any) -> None:
        """Send a message with all that every message tells.

        `to`: incarnation and stamp of the process meant, if it is not the one that we know at the address.
        """
        view = self.view
        known = self.of(peer)
        supports = self._supports(peer)
        if supports:
            self.support_until = max(self.support_until, self.now + timing.SUPPORT_S)
        to_incarnation, echo_us = to or (known.incarnation, known.stamp_us)
        message = pb.ClusterMessage(
            kind=kind,
            incarnation=self.incarnation,
            to_incarnation=to_incarnation,
            stamp_us=round(self.now * 1e6),
            echo_us=echo_us,
            cluster_id=view.cluster_id if view else 0,
            epoch=view.epoch if view else 0,
            nonce=view.nonce if view else 0,
            supports=supports,
            support_withdrawn=self.support_withdrawn,
            node_protocol=self.protocol,
            sender=self.address,
            **fields,
        )
        if view and self.is_member:
            for address in sorted(self.dead):
                message.deaths.add(address=address, incarnation=view.incarnations[address])
        self.effects.append(Send(peer, message.SerializeToString()))

    def drop(self, reason: str) -> None:
        """Count a message, or what was in it, that is not taken."""
        self.dropped[reason] += 1

    def log(self, text: str, level: str = "info") -> None:
        """A line for the log."""
        self.effects.append(Log(level, text))


def slots_to_bytes(mask: int) -> bytes:
    """A mask of slots as it travels."""
    return mask.to_bytes(SLOTS_BYTES, "little")


def slots_from_bytes(packed: bytes) -> int:
    """The mask of slots in a message."""
    return int.from_bytes(packed, "little")
