"""Whether a node serves, and whether its cluster is whole: one function over what really serves.

/ready, STATUS, the status page, the gauges and kv.py all say what `readiness` says, so that they can't differ. A view
alone would not do: it names who is to serve, and who was in sync when it was made. Whether a slot is served here its
route tells (the core's word, less what replication has not opened), and whether a write will be answered, the links to
those who must have it.

Two questions, two answers. *Ready*: should clients ask this node? It serves what it is to serve, and has a way to
the rest. *Whole*: may the next node be taken down? Every slot is where it is wanted, with all its copies, every
member is up and linked to this node in both directions.

Copies: `wanted` is --replicas, or the number of servers in the file if that is less; so a healthy node alone in its
file lacks nothing, and a server that is absent does count where its copies have no other place. A copy counts if its
holder is up and in sync as far as the view says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from app.cluster.events import SELF, UNKNOWN, MemberStatus, Status
from app.cluster.membership.detector import ALIVE, DEAD, SUSPECTED
from app.cluster.view import View
from app.wire.protocol import SLOT_COUNT

# A server that proved so long ago at most that it lives counts as heard (s): longer than membership takes to call one
# silent. Members probe each other in turn, so with many of them each is heard more seldom.
HEARD_S: Final = 2.0
_HEARD_S_A_MEMBER: Final = 0.2
# Coordinator and members hear each other ten times a second; who grants no lease is silent after this (s).
_HEARTBEAT_HEARD_S: Final = 0.5
# Names in one sentence, and sentences about single members; of more only the number is told.
_NAMES_MAX: Final = 4
_MEMBERS_TOLD_MAX: Final = 8


def heard_s(members: int) -> float:
    """How long ago a member of so many may have been heard last if its datagrams pass (s)."""
    return max(HEARD_S, _HEARD_S_A_MEMBER * members)


class Contact(NamedTuple):
    """What this node has seen of its own way to another server."""

    is_linked: bool  # frames can be sent to it and taken from it
    unlinked_s: float  # for how long that has not been so
    unheard_s: float  # how long ago it proved last that it lives and hears this node; inf: never
    is_refused: bool  # the latest connection to it was refused, though its process has been heard since


class LedSlots(NamedTuple):
    """Of the slots that this node leads: masks of 256 bits."""

    followed: int  # all whose acknowledgement a write needs take part
    unhindered: int  # of these: a write is not refused for want of memory, here or there


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known; see Readiness for what follows from it."""

    status: Status
    view: View | None
    has_lease: bool
    servers: Sequence[str]  # that belong to the cluster, this node among them
    replicas: int  # --replicas
    routes: Sequence[str]  # by slot, as requests go by them (Replication.routes)
    led: LedSlots
    contacts: Mapping[str, Contact]  # of every other server that it listens to
    is_stopping: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """What follows from the facts."""

    status: Status  # that it was made from
    reads: int  # slots that this node answers reads of
    writes: int  # and writes
    closed: int  # slots that it is primary of, and does not serve now
    unserved: int  # slots that nobody serves, as far as this node knows
    copies_wanted: int  # of each slot
    copies_least: int  # of any slot: those in sync whose holder is up
    copies_most: int
    copies_missing: int  # of those wanted, over all slots
    unlinked: tuple[str, ...]  # other members without a link in both directions
    servers: int  # that belong to the cluster
    servers_up: int  # that are members and up, this node included
    reasons: tuple[str, ...]  # why clients should rather ask another node, each a sentence
    lacking: tuple[str, ...]  # what else keeps the cluster from being whole, likewise

    def numbers(self) -> dict[str, object]:
        """What STATUS and the status page tell of it alike, by name; `lease_s` None: without end."""
        status = self.status
        return {
            "epoch": status.epoch,
            "is_member": status.is_member,
            "coordinator": status.coordinator,
            "lease_s": None if status.lease_s == inf else round(max(0.0, status.lease_s), 3),
            "blocked": status.blocked,
            "balanced": status.balanced,
            "reads": self.reads,
            "writes": self.writes,
            "closed": self.closed,
            "unserved": self.unserved,
            "copies_wanted": self.copies_wanted,
            "copies_least": self.copies_least,
            "copies_most": self.copies_most,
            "copies_missing": self.copies_missing,
            "servers": self.servers,
            "servers_up": self.servers_up,
        }

    @property
    def is_ready(self) -> bool:
        """Whether clients may ask this node."""
        return not self.reasons

    @property
    def is_whole(self) -> bool:
        """Whether the cluster is whole, as far as this node knows."""
        return not self.reasons and not self.lacking


def readiness(facts: Facts) -> Readiness:
    """See the module."""
    status, view = facts.status, facts.view
    others = [member for member in status.members if member.address != status.address]
    own = view.masks[status.address] if view is not None and status.is_member else 0
    reads = _served(facts) if facts.has_lease else 0
    writes = reads & facts.led.unhindered
    unserved, unreached = _elsewhere(facts, reads)
    wanted = min(facts.replicas, len(facts.servers))
    copies = _copies(view, status.members)
    missing = sum(max(0, wanted - count) for count in copies)
    unlinked = [member for member in others if not _contact(facts, member.address).is_linked]
    up = sum(_is_up(member) and member.address in facts.servers for member in status.members)
    reasons = _reasons(facts, own, reads, unreached)
    if view is None:
        told = [_no_link(facts, server) for server in facts.contacts if _is_heard_only(facts, server)]
    else:
        told = [_about(facts, member) for member in others]
    # What the members say of each other, without what this node has just said of them itself.
    told += [
        f"{one}: no link to {other}, as it says: check the network between the two, TCP as well"
        for one, other in status.lacks
        if status.address not in (one, other)
    ]
    about = _told([sentence for sentence in told if sentence])
    lacking: list[str] = []
    if status.is_member:
        if orphaned := unserved - (own & ~reads).bit_count():
            lacking.append(f"{_slots(orphaned)} of others served by nobody that this node knows of")
        if hindered := (reads & facts.led.followed & ~writes).bit_count():
            lacking.append(f"writes of {_slots(hindered)} refused for now: memory is short here or at a copy")
        if missing:
            lacking.append(_copies_sentence(facts, copies, wanted))
        elif not status.balanced and all(map(_is_up, status.members)):
            lacking.append("slots are on their way to where they are wanted")
        if status.register_fault and facts.has_lease:
            lacking.append(f"no view can be made now; the register: {status.register_fault}")
        if status.register_fault is None and (no_majority := _no_majority(facts)):
            lacking.append(no_majority)
    if reasons:
        reasons += about
    else:
        lacking += about
    return Readiness(
        status,
        reads.bit_count(),
        writes.bit_count(),
        (own & ~reads).bit_count(),
        unserved,
        wanted,
        min(copies),
        max(copies),
        missing,
        tuple(member.address for member in unlinked),
        len(facts.servers),
        up,
        tuple(reasons),
        tuple(lacking),
    )


# --- slots -----------------------------------------------------------------------------------------------------------


def _served(facts: Facts) -> int:
    """Mask of the slots that are routed to this node itself."""
    mask = 0
    for slot, route in enumerate(facts.routes):
        if route == SELF:
            mask |= 1 << slot
    return mask


def _elsewhere(facts: Facts, reads: int) -> tuple[int, int]:
    """How many slots nobody serves as far as this node knows, and how many others serve, out of its reach.

    A request goes to its primary over the link there, or by way of any other member that is linked.
    """
    up = {member.address for member in facts.status.members if _is_up(member)}
    has_way = any(_contact(facts, address).is_linked for address in up if address != facts.status.address)
    unserved = unreached = 0
    for slot, route in enumerate(facts.routes):
        if reads >> slot & 1:
            continue
        if route in (SELF, UNKNOWN) or route not in up:
            unserved += 1
        elif not has_way:
            unreached += 1
    return unserved, unreached


def _copies(view: View | None, members: Sequence[MemberStatus]) -> list[int]:
    """By slot: the copies in sync whose holder is up."""
    if view is None:
        return [0] * SLOT_COUNT
    up = {member.address for member in members if _is_up(member)}
    if len(up) == len(members):
        return [1 + len(backups) for backups in view.backups]
    return [sum(node in up for node in view.holders(slot)) for slot in range(SLOT_COUNT)]


# --- sentences -------------------------------------------------------------------------------------------------------


def _reasons(facts: Facts, own: int, reads: int, unreached: int) -> list[str]:
    """Why clients should rather ask another node, but for what the single members have to do with it."""
    status = facts.status
    reasons = []
    if facts.view is None:
        reasons.append(f"no view: it has found no cluster yet; {_heard_servers(facts, HEARD_S)}")
    elif not status.is_member:
        reasons.append(f"not a member: {_outside(status, facts.view)}; {_heard_servers(facts, HEARD_S)}")
    elif not facts.has_lease:
        reasons.append(f"no lease: it serves nothing; {_lease_sentence(facts)}")
    else:
        if closed := (own & ~reads).bit_count():
            blocked = f", {status.blocked} of them until their last primary is gone" if status.blocked else ""
            reasons.append(f"slots closed: {closed} of its {_slots(own.bit_count())} wait for their copies{blocked}")
        if waiting := (reads & ~facts.led.followed).bit_count():
            reasons.append(f"no writes: those of {_slots(waiting)} wait for copies at other members")
        if unreached:
            reasons.append(f"no way: {_slots(unreached)} of other members are out of its reach")
    if status.register_fault and (facts.view is None or not facts.has_lease):
        reasons.append(f"the register: {status.register_fault}")
    if facts.is_stopping:
        reasons.append("stopping: it hands its slots over")
    return reasons


def _outside(status: Status, view: View) -> str:
    """Why this node is in no view, as far as it can know, and what to do."""
    if view.lists_servers and status.address not in view.servers:
        return (
            f"the cluster does not list it: say kv.py add-server {status.address} (if it was started with --join, the"
            f" log of the coordinator, {status.coordinator}, says why it is not added)"
        )
    return (
        "it is not in the view that it knows (if it stays so, the log of the coordinator,"
        f" {status.coordinator}, says why)"
    )


def _heard_servers(facts: Facts, within_s: float) -> str:
    others = [server for server in facts.servers if server != facts.status.address]
    silent = [server for server in others if _contact(facts, server).unheard_s > within_s]
    heard = len(facts.servers) - len(silent)
    check = f": check {_names(silent)}" if silent else ""
    return f"{heard} of {len(facts.servers)} servers heard, itself included{check}"


def _lease_sentence(facts: Facts) -> str:
    status = facts.status
    if status.coordinator == status.address:
        return _heard_servers(facts, _HEARTBEAT_HEARD_S)
    unheard_s = _contact(facts, status.coordinator).unheard_s
    if unheard_s > _HEARTBEAT_HEARD_S:
        return f"its coordinator {status.coordinator} was heard {_ago(unheard_s)}: check it, and the network to it"
    return f"its coordinator {status.coordinator} lives, and grants none: it may hear too few of the others"


def _about(facts: Facts, member: MemberStatus) -> str:
    """What is wrong with another member, and what to check; empty if nothing is."""
    address = member.address
    contact = facts.contacts.get(address)
    if contact is None:
        return f"{address}: a member, and not in this node's servers file: compare the files"
    if member.state == DEAD:
        return f"{address}: dead: start it again"
    if member.state != ALIVE:
        return f"{address}: {member.state}, heard {_ago(contact.unheard_s)}: check its process and the network to it"
    if member.leaving:
        return f"{address}: leaving"
    return "" if contact.is_linked else _no_link(facts, address)


def _is_heard_only(facts: Facts, server: str) -> bool:
    """Whether its datagrams pass, and there is no link."""
    contact = _contact(facts, server)
    return not contact.is_linked and _is_heard(facts, contact)


def _is_heard(facts: Facts, contact: Contact) -> bool:
    """Whether its datagrams pass."""
    return contact.unheard_s <= heard_s(max(len(facts.servers), len(facts.status.members)))


def _no_link(facts: Facts, address: str) -> str:
    """That there is no link to another server, and what to check."""
    contact, port = _contact(facts, address), address.rpartition(":")[2]
    down = f"{address}: no link for {contact.unlinked_s:.1f} s"
    if contact.is_refused:
        return f"{down} (refused, and it lives): check what answers for it on TCP port {port}"
    if _is_heard(facts, contact):
        return f"{down} (UDP passes): check TCP port {port}"
    return f"{down} (nor UDP; others hear it): check the network to it"


def _no_majority(facts: Facts) -> str:
    """That no other may fail, or that the cluster does not go on: only half of those that count are up, or fewer, and
    some that belong are not. Where views list the servers, the founders count, with those that were removed."""
    founders = facts.view.founders if facts.view is not None else ()
    counting = founders or facts.servers
    up = {member.address for member in facts.status.members if _is_up(member) and member.address in counting}
    which = "servers that founded the cluster" if founders else "servers of the file"
    is_missed = any(server not in up for server in counting if server in facts.servers)
    return (
        f"no majority: {len(up)} of {len(counting)} {which} are up"
        if is_missed and 2 * len(up) <= len(counting)
        else ""
    )


def _copies_sentence(facts: Facts, copies: Sequence[int], wanted: int) -> str:
    """As "2 of 3 copies each: 1 server absent (10.0.0.3:3331)"."""
    members = facts.status.members
    listed = {member.address for member in members}
    lost: dict[str, list[str]] = {
        "absent": [server for server in facts.servers if server not in listed],
        "dead": [member.address for member in members if member.state == DEAD],
        "silent": [member.address for member in members if not _is_up(member) and member.state != DEAD],
    }
    causes = [f"{len(who)} server{'s' * (len(who) > 1)} {how} ({_names(who)})" for how, who in lost.items() if who]
    if learners := sum(member.learner_slots for member in members):
        causes.append(f"{learners} on their way")
    span = f"{min(copies)}" if min(copies) == max(copies) else f"{min(copies)} to {max(copies)}"
    return f"{span} of {wanted} copies each: {', '.join(causes) or 'the next view will mend it'}"


def _told(sentences: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(sentences) - _MEMBERS_TOLD_MAX
    return sentences if more <= 0 else [*sentences[:_MEMBERS_TOLD_MAX], f"and {more} more members with faults"]


def _names(servers: Sequence[str]) -> str:
    more = len(servers) - _NAMES_MAX
    return " ".join(servers[:_NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _slots(count: int) -> str:
    return f"{count} slot{'s' * (count != 1)}"


def _ago(seconds: float) -> str:
    return "never" if seconds == inf else f"{seconds:.1f} s ago"


# --- what else is asked of the facts ---------------------------------------------------------------------------------


_NO_CONTACT: Final = Contact(False, inf, inf, False)  # with a member that is not in this node's servers file


def _contact(facts: Facts, server: str) -> Contact:
    return facts.contacts.get(server, _NO_CONTACT)


def _is_up(member: MemberStatus) -> bool:
    return member.state in (ALIVE, SUSPECTED)
