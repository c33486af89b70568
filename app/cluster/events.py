"""What goes into the cluster core and what comes out: the whole contract with the shell that drives it.

The shell gives each event to `step(event, now)` and carries out the effects in order. `now` is monotonic
seconds that also count time spent stopped or suspended (CLOCK_BOOTTIME where there is one): a lease must not
outlive a sleep. The core never blocks and never fails on what a peer sends.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from app.cluster.view import View

# In `routes`, in place of an address:
SELF: Final = ""  # this node is the primary, as long as its lease runs
UNKNOWN: Final = "?"  # nobody may serve the slot for now: wait for the next change


@dataclass(frozen=True, slots=True)
class Datagram:
    """A payload from a peer. `peer` is its address as in servers.txt; the shell has verified the sender."""

    peer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """The time `wake_at` has come."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """There is a link to the peer, whoever dialled it; one that it replaces is no more."""

    peer: str


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The link to the peer has ended."""

    peer: str


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """A connection to the peer was refused. `incarnation` is the OpenLink's.

    `is_proof`: no process is there, by word of this very machine's kernel (or the operator trusts other machines' as
    well). Else something between the machines may have refused for one that lives.
    """

    peer: str
    incarnation: int
    is_proof: bool


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """No link came of it (timed out, unreachable, or the peer is the one to dial). It proves nothing."""

    peer: str


@dataclass(frozen=True, slots=True)
class SlotsSynced:
    """As primary of these slots, this node has the learner in sync. For the epoch it was begun in only."""

    learner: str
    slots: int  # mask of 256 bits
    epoch: int


@dataclass(frozen=True, slots=True)
class CopiesLost:
    """The view of this epoch lists this node as a holder of these slots, and it does not hold the whole of them.

    The next view lists it no more, unless it is the primary and there is no other holder. A view that was about to be
    made when this was said may list it still: then it is to be said again, for that epoch.
    """

    slots: int  # mask of 256 bits
    epoch: int


@dataclass(frozen=True, slots=True)
class Introduced:
    """A server that is none of those to listen to has shown that it knows the secret. What it said is not taken."""

    peer: str


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Hand everything over and leave; answered by Left."""


@dataclass(frozen=True, slots=True)
class FoundRequested:
    """An operator has this node found a cluster of those that it hears: override.py, and `ClusterCore.objection`."""


@dataclass(frozen=True, slots=True)
class ServersChanged:
    """The servers that there are from now on, in the file's order, this node's among them.

    See `ClusterCore.objection_to`. A member of the view is to stay among them as long as it is one.
    """

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegisterAnswered:
    """The shared register has answered the AskRegister of this number.

    `is_taken`: what was to be written is written. Else `seat` and `view` are what it holds; None: it holds none.
    `origin`: which register it is, as it names itself: a copy of it does otherwise.
    """

    number: int
    is_taken: bool
    seat: bytes | None
    view: bytes | None
    origin: int


@dataclass(frozen=True, slots=True)
class RegisterFailed:
    """No answer came of the AskRegister of this number: what was to be written may be, or may be yet."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Order:
    """One server is to belong from now on, or no more."""

    server: str
    removes: bool = False
    is_forced: bool = False  # remove it though it is the last to hold something, without waiting until others have that


@dataclass(frozen=True, slots=True)
class ServerOrdered:
    """An administrator adds a server, or removes one: see belonging.py, and `ClusterCore.objection_to_order`."""

    order: Order


Event: TypeAlias = (
    Datagram
    | Tick
    | LinkUp
    | LinkClosed
    | LinkRefused
    | LinkFailed
    | SlotsSynced
    | CopiesLost
    | LeaveRequested
    | FoundRequested
    | ServersChanged
    | RegisterAnswered
    | RegisterFailed
    | ServerOrdered
    | Introduced
)


@dataclass(frozen=True, slots=True)
class Send:
    """Send the payload to the peer as one datagram of type CLUSTER."""

    peer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OpenLink:
    """See to a link to the peer; answered by LinkUp, LinkRefused with this incarnation, or LinkFailed.

    Where the peer is the one that dials, it is only tried whether anybody listens there.
    """

    peer: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class CloseLink:
    """The peer is no member any more: end the link, with whatever is in it, or the dial. Not answered."""

    peer: str


@dataclass(frozen=True, slots=True)
class AskRegister:
    """Ask the shared register what it holds; answered by RegisterAnswered or RegisterFailed, within
    timing.REGISTER_TIMEOUT_S and some.

    With a `seat` that, and the `view` if there is one, is to be written in one transaction, if the seat is `expected`
    (None: if there is none); what it holds is only told if that is not so.
    """

    number: int
    expected: bytes | None
    seat: bytes | None
    view: bytes | None


@dataclass(frozen=True, slots=True)
class ServersKnown:
    """These are the servers to listen to from now on, this node's among them, in no order that matters. Told before any
    effect that is about one of them; at the start they are those of the file."""

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewInstalled:
    """This node goes by `view` from now on. `is_member`: it is one of its members."""

    view: View
    is_member: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """This node was expelled: drop every slot and reply; it rejoins, empty, as this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Left:
    """This node has handed everything over, or had nothing: it may exit."""


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log: "info", "warning" or "error"."""

    level: str
    text: str


Effect: TypeAlias = Send | OpenLink | CloseLink | AskRegister | ServersKnown | ViewInstalled | Reset | Left | Log


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot of what membership knows, for people and tools; readiness.py says what follows from it."""

    address: str
    incarnation: int
    cluster_id: int
    epoch: int
    is_member: bool
    coordinator: str
    lease_s: float  # how long this node's lease runs on; 0 or less: it may not serve
    blocked: int  # own slots that wait for their last primary to be gone
    balanced: bool  # every slot is where it is wanted, with all its copies in sync, and every member is up
    members: tuple["MemberStatus", ...]
    primaries: tuple[int, ...]  # by slot, the primary's place among the members; -1: it is not up. Empty: no view
    dropped: dict[str, int]  # datagrams, by reason
    lacks: tuple[tuple[str, str], ...] = ()  # live peers without a link; our own, or, at the coordinator, all
    # Why the shared register is not gone by, or does not answer; empty: all is well; None: there is none.
    register_fault: str | None = None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    address: str
    incarnation: int
    state: str  # alive, suspect, failed, dead
    leaving: bool
    primary_slots: int
    backup_slots: int
    learner_slots: int
