"""The view: who is a member, and who holds which slot, at one epoch. Immutable; a change makes the next one.

Per slot a view states what is (the primary, and the backups that are in sync with it) and what is wanted
(the homes: see slots.py). A learner is a node that is wanted and not yet in sync. Keeping both in the view
makes the next view a function of this one and of what happened since, whichever node computes it.

Which servers belong is what the servers file says, until an administrator adds or removes one by a command: from then
on views list them (membership/belonging.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from app.cluster.limits import CLUSTER_ID, EPOCH, INCARNATION, NONCE, is_name
from app.cluster.slots import Homes
from app.wire.protocol import ADDRESS_MAX_BYTES, COPIES_MAX, SERVERS_MAX, SLOT_COUNT
from proto_gen import cluster_pb2 as pb

MEMBERS_MAX: Final = SERVERS_MAX
FOUNDERS_MAX: Final = 30  # of a cluster whose views list who belongs
CAUSE_MAX_BYTES: Final = 200
# The largest view must travel in one datagram, with room for envelope and headers: per slot a primary and two
# counted lists, per server its address, incarnation and framing, per founder its address.
assert (
    SLOT_COUNT * (1 + 2 * (1 + COPIES_MAX))
    + MEMBERS_MAX * (ADDRESS_MAX_BYTES + 22)
    + FOUNDERS_MAX * (ADDRESS_MAX_BYTES + 2)
    + 1000
    < 15_000
)


class BadView(ValueError):
    """A view, from a peer or of our own making, that breaks a rule of views."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process: an address and the incarnation of the process that holds it."""

    address: str
    incarnation: int
    leaving: bool = False
    is_removed: bool = False  # it is leaving for good: it belongs no more as soon as it is no member


@dataclass(frozen=True)
class View:
    """Epoch, members in order of seniority, and the slot tables. `cluster_id` names the cluster's first view."""

    cluster_id: int
    epoch: int
    members: tuple[Member, ...]
    primaries: tuple[str, ...]
    backups: tuple[tuple[str, ...], ...]  # in sync with the primary
    homes: Homes
    cause: str = ""
    nonce: int = 0  # random: tells apart two views of one epoch, should they ever arise
    is_forced: bool = False  # an operator has founded with fewer servers than a cluster needs, and it has no more yet
    # cluster_id and epoch of the view that an operator has made this cluster of; zeros: of none.
    forced_from: tuple[int, int] = (0, 0)
    # Once the view lists who belongs (else these are empty, and the servers file says so): the servers that the cluster
    # was founded by, half of which must be members for it to go on; and those that belong and are no members now.
    founders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    untried: int = 0  # so many of the others, the last, have been added and not been members yet

    @property
    def lists_servers(self) -> bool:
        """Whether it says which servers belong."""
        return bool(self.founders)

    @cached_property
    def servers(self) -> tuple[str, ...]:
        """The servers that belong, members first; those of them that it names, if it does not list them."""
        return (*self.addresses, *self.others)

    @cached_property
    def untried_servers(self) -> frozenset[str]:
        """Those that have been added and not been members yet: not all who belong may know them."""
        return frozenset(self.others[len(self.others) - self.untried :])

    @cached_property
    def removed(self) -> frozenset[str]:
        """The members that belong no more as soon as they are none."""
        return frozenset(member.address for member in self.members if member.is_removed)

    @property
    def key(self) -> tuple[int, int, int]:
        """What names this view and no other."""
        return (self.cluster_id, self.epoch, self.nonce)

    @cached_property
    def incarnations(self) -> dict[str, int]:
        """Incarnation by address."""
        return {member.address: member.incarnation for member in self.members}

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """The members' addresses, in order of seniority."""
        return tuple(member.address for member in self.members)

    @property
    def coordinator(self) -> str:
        """The longest-standing member: it grants this view's leases and proposes the next view."""
        return self.members[0].address

    def has(self, address: str, incarnation: int) -> bool:
        """Whether this very process is a member."""
        return self.incarnations.get(address) == incarnation

    def holders(self, slot: int) -> tuple[str, ...]:
        """The nodes in sync for the slot, primary first."""
        return (self.primaries[slot], *self.backups[slot])

    def learners(self, slot: int) -> tuple[str, ...]:
        """The nodes that are to hold the slot and have not caught up."""
        holders = self.holders(slot)
        return tuple(node for node in self.homes[slot] if node not in holders)

    @cached_property
    def masks(self) -> dict[str, int]:
        """The slots each member is primary of, as a mask of 256 bits."""
        masks = dict.fromkeys(self.addresses, 0)
        for slot, node in enumerate(self.primaries):
            masks[node] |= 1 << slot
        return masks

    def is_balanced(self) -> bool:
        """Whether every slot is where it is wanted, with all its copies in sync."""
        return all(
            self.primaries[slot] == home[0] and set(self.backups[slot]) == set(home[1:])
            for slot, home in enumerate(self.homes)
        )

    def check(self) -> None:
        """Raise BadView unless every rule of views holds."""
        known = set(self.addresses)
        if not 1 <= len(self.members) <= MEMBERS_MAX or len(known) != len(self.members):
            raise BadView(f"members: {self.addresses}")
        forced_id, forced_epoch = self.forced_from
        if not (
            CLUSTER_ID.has(self.cluster_id)
            and EPOCH.has(self.epoch)
            and NONCE.has(self.nonce)
            and 0 <= forced_id <= CLUSTER_ID.most
            and 0 <= forced_epoch <= EPOCH.most
            and all(is_name(member.address) and INCARNATION.has(member.incarnation) for member in self.members)
        ):
            raise BadView(f"cluster_id {self.cluster_id}, epoch {self.epoch}, members {self.members}")
        self._check_servers()
        if not len(self.primaries) == len(self.backups) == len(self.homes) == SLOT_COUNT:
            raise BadView("a table is not of 256 slots")
        # Each list of nodes once: a table has few different ones.
        holders = {(primary, *others) for primary, others in {*zip(self.primaries, self.backups, strict=True)}}
        for nodes in holders | {*self.homes}:
            if not 1 <= len(nodes) <= COPIES_MAX + 1 or len(set(nodes)) != len(nodes) or not known >= set(nodes):
                raise BadView(f"a slot at {nodes} of {self.addresses}")

    def _check_servers(self) -> None:
        founders, others = self.founders, self.others
        if (
            len(founders) > FOUNDERS_MAX
            or len(self.servers) > MEMBERS_MAX
            or len({*founders}) != len(founders)
            or len({*self.servers}) != len(self.servers)
            or not all(map(is_name, (*founders, *others)))
            or not 0 <= self.untried <= len(others)
            or (others and not founders)
        ):
            raise BadView(f"founders {founders}, others {others}")

    def describe(self) -> str:
        """One line for the log."""
        members = " ".join(
            f"{member.address}={self.masks[member.address].bit_count()}{' leaving' if member.leaving else ''}"
            for member in self.members
        )
        return f"epoch {self.epoch}: {len(self.members)} members [{members}], {self.cause}"


def _pack(lists: Sequence[tuple[str, ...]], place: dict[str, int]) -> bytes:
    # Each different list once: that takes a tenth of the time.
    packed = {nodes: bytes((len(nodes), *(place[node] for node in nodes))) for nodes in {*lists}}
    return b"".join([packed[nodes] for nodes in lists])


def _unpack(packed: bytes, addresses: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    lists: list[tuple[str, ...]] = []
    known: dict[bytes, tuple[str, ...]] = {}  # each different list is read once
    at = 0
    try:
        for _ in range(SLOT_COUNT):
            end = at + 1 + packed[at]
            part = packed[at:end]
            nodes = known.get(part)
            if nodes is None:
                if packed[at] > COPIES_MAX or len(part) != 1 + packed[at]:
                    raise BadView("a slot's list is cut or too long")
                nodes = known[part] = tuple(addresses[place] for place in part[1:])
            lists.append(nodes)
            at = end
    except IndexError:
        raise BadView("a slot table is cut or names no member") from None
    if at != len(packed):
        raise BadView("a slot table has trailing bytes")
    return tuple(lists)


def to_message(view: View) -> pb.View:
    """The view in its wire form."""
    place = {address: index for index, address in enumerate(view.addresses)}
    return pb.View(
        cluster_id=view.cluster_id,
        epoch=view.epoch,
        members=[
            pb.Member(
                address=member.address,
                incarnation=member.incarnation,
                leaving=member.leaving,
                is_removed=member.is_removed,
            )
            for member in view.members
        ],
        primaries=bytes(place[node] for node in view.primaries),
        backups=_pack(view.backups, place),
        homes=_pack(view.homes, place),
        cause=view.cause,
        nonce=view.nonce,
        is_forced=view.is_forced,
        forced_from_cluster_id=view.forced_from[0],
        forced_from_epoch=view.forced_from[1],
        founders=view.founders,
        others=view.others,
        untried=view.untried,
    )


def _is_cause(text: str) -> bool:
    return len(text.encode()) <= CAUSE_MAX_BYTES and (text.isprintable() or not text)


def from_message(message: pb.View) -> View:
    """The view that a peer sent, checked; raises BadView."""
    named = max(len(message.members), len(message.founders), len(message.others))
    if named > MEMBERS_MAX or not _is_cause(message.cause):
        raise BadView(f"{named} members or others, cause of {len(message.cause)} characters")
    if len(message.primaries) != SLOT_COUNT:
        raise BadView(f"{len(message.primaries)} primaries")
    members = tuple(
        Member(member.address, member.incarnation, member.leaving, member.is_removed) for member in message.members
    )
    addresses = tuple(member.address for member in members)
    if max(message.primaries) >= len(addresses):
        raise BadView("a primary is no member")
    view = View(
        message.cluster_id,
        message.epoch,
        members,
        tuple(addresses[place] for place in message.primaries),
        _unpack(message.backups, addresses),
        _unpack(message.homes, addresses),
        message.cause,
        message.nonce,
        message.is_forced,
        (message.forced_from_cluster_id, message.forced_from_epoch),
        tuple(message.founders),
        tuple(message.others),
        message.untried,
    )
    view.check()
    return view
