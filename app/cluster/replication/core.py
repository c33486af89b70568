"""Copies of the slots: one node's part, driven by frames and views; the contract with the shell.

Whatever happens to a request for a slot of ours is decided in one place: `routes` says SELF where this node may
serve (as the membership core says, less the slots that are not open yet); `followed[slot]` is None where nobody
follows, and the plain way through store and reply memory is all there is: one list look-up is what a single node pays.

    replication.link_up(peer, now)         both ends of an ordered link call this; frames are lost only with it
    replication.on_frame(peer, kind, ...)  kinds 16 and up
    replication.on_view(view, ...)         for each ViewInstalled
    replication.reset()                    for each Reset
    replication.refresh(routes, lease)     after each step of the membership core
    replication.tick(now)                  every REPLICATION_TICK_S
    replication.execute / hold_read / wipe on the path of requests (writes.py)
    replication.flush()                    once per loop turn: the output to carry out

Rejected: replicating through a log on its own (a second copy of all values), and chain replication (one more hop a
copy on every write).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from app.cluster.events import SELF, UNKNOWN
from app.cluster.readiness import LedSlots
from app.cluster.replication import frames
from app.cluster.replication.follower import STAGING_MAX_BYTES, Follower
from app.cluster.replication.led import Joint
from app.cluster.replication.primary import Primary
from app.cluster.replication.recent import RECENT_MAX, Recent
from app.cluster.replication.state import CopyReplies, CopyStore, Output, Shared
from app.cluster.replication.writes import IGNORED, PENDING_MAX_BYTES, WAITS
from app.cluster.view import View
from app.storage.mutate import BUSY, REPLIES_FULL, STORE_BUSY, WIPE, Mutations
from app.wire.protocol import ALL_SLOTS, NO_ERR, SLOT_COUNT, SYS_OVERLOAD_ERR

REPLICATION_TICK_S: Final = 0.1
# `reserve_bytes` of Replication. More: less of a store that may not evict is used. Less: writes in flight find no room.
_RESERVE_BYTES: Final = 1 << 20


class Replication:
    """See the module. One event loop owns it, with the store and the reply memory."""

    def __init__(
        self,
        address: str,
        store: CopyStore,
        replies: CopyReplies,
        mutations: Mutations,
        *,
        queued_bytes: Callable[[str], int],
        reserve_bytes: int = _RESERVE_BYTES,
        backlog_max_bytes: int = PENDING_MAX_BYTES,
        recent_max: int = RECENT_MAX,
        staging_max_bytes: int = STAGING_MAX_BYTES,
    ) -> None:
        """`reserve_bytes`: a store that may not evict takes no more PUTs as a primary when it has less room than
        this, so that there is room for what is in flight to it as a backup.

        `recent_max`: of how many writes the keys are kept (app/cluster/replication/recent.py).

        `staging_max_bytes`: what may be gathered beside whole copies (app/cluster/replication/follower.py).

        `queued_bytes(peer)`: what its link has queued. While that is more than `backlog_max_bytes`, or a turn has
        ordered more for this peer, writes that it must have are refused; so no link takes on more than three times as
        much of them.
        """
        recent = Recent(store.spend, recent_max)
        shared = self._shared = Shared(address, store, replies, mutations, reserve_bytes, recent)
        self._replies = replies
        self._mutations = mutations
        self._primary = Primary(shared, queued_bytes, backlog_max_bytes)
        self._follower = Follower(shared, staging_max_bytes)
        self._core_routes: list[str] = [UNKNOWN] * SLOT_COUNT
        self.routes: list[str] = [UNKNOWN] * SLOT_COUNT  # by slot; changed in place
        self.followed = self._primary.followed  # by slot; changed in place
        self.unacked = self._primary.unacked  # by key; reads of these go through `hold_read`
        # Requests; the caller has seen that the slot's route is SELF and that the lease runs.
        self.execute = self._primary.execute
        self.hold_read = self._primary.hold_read

    # What the node reads.

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong, by reason."""
        return dict(self._shared.faults)

    @property
    def pending(self) -> int:
        """Writes that wait for an acknowledgement."""
        return self._primary.pending

    @property
    def wait_ms(self) -> int:
        """After a refusal: how long its client is to wait."""
        return self._primary.wait_ms

    @property
    def leading(self) -> int:
        """How many slots this node is primary of, served or not."""
        return len(self._primary.led) + len(self._primary.lost)

    @property
    def short_of_room(self) -> int:
        """How many slots this node is to hold and has no room for: see app/cluster/replication/follower.py."""
        return self._follower.short_of_room

    @property
    def linked(self) -> Collection[str]:
        """The peers that frames can be sent to and taken from."""
        return self._shared.links

    def limit_backlog(self, size_bytes: int) -> None:
        """`backlog_max_bytes` from now on: there are other peers than before."""
        self._primary.limit_backlog(size_bytes)

    def led_slots(self) -> LedSlots:
        """Which of the slots that this node leads take writes, for those who watch: 0.1 ms for 100 slots."""
        primary = self._primary
        busy = primary.busy(True)
        followed = unhindered = 0
        for slot, led in primary.led.items():
            if all(led.progress[peer].is_streaming for peer in led.required):
                followed |= 1 << slot
                if not (busy | primary.refuses(led)) & (BUSY | REPLIES_FULL | STORE_BUSY):
                    unhindered |= 1 << slot
        return LedSlots(followed, unhindered)

    def is_under_way(self, message_id: bytes) -> bool:
        """Whether the mutation with this messageID waits for acknowledgements: a retry joins it."""
        return message_id in self._primary.unreleased

    def remembers(self, message_id: bytes) -> bool:
        """Whether the mutation with this messageID was executed, here or at the primary before."""
        return self._replies.get(message_id) is not None

    @property
    def staged_bytes(self) -> int:
        """What is gathered beside whole copies: `staging_max_bytes` at most, and one chunk."""
        return self._follower.staged_bytes

    # Membership and links.

    def on_view(self, view: View, is_member: bool, now: float) -> None:
        """This node goes by `view` from now on."""
        shared = self._shared
        shared.now = now
        if shared.view is not None and shared.view.cluster_id != view.cluster_id:
            shared.recent.clear()
        self._forget_predecessors(view)
        shared.view = view if is_member else None
        lead: set[int] = set()
        follow: set[int] = set()
        if is_member:
            for slot in range(SLOT_COUNT):
                if view.primaries[slot] == shared.address:
                    lead.add(slot)
                elif shared.address in shared.followers(slot):
                    follow.add(slot)
        self._primary.entered(shared.view, lead)
        self._follower.entered(follow)
        self._drop_all_but(lead | follow)
        for slot in range(SLOT_COUNT):
            led = self._primary.led.get(slot)
            self.followed[slot] = led if led is not None and led.progress else None
        self._primary.changed.update(range(SLOT_COUNT))
        self._update_routes()

    def _forget_predecessors(self, view: View) -> None:
        """What was agreed on with a process is void when another is in its place.

        The view may tell of that before the link's end does, and what the one before had the new one has not.
        """
        before = self._shared.view.incarnations if self._shared.view else {}
        for peer, incarnation in view.incarnations.items():
            if before.get(peer, incarnation) != incarnation:
                self._primary.forget_process(peer)
                self._follower.forget_process(peer)

    def _drop_all_but(self, slots: set[int]) -> None:
        """Forget the copies that are not ours to hold any more."""
        positions = self._shared.positions
        gone = [slot for slot in range(SLOT_COUNT) if slot not in slots and positions[slot] != (0, 0)]
        self._shared.store.wipe(gone)
        self._replies.forget_slots(sum(1 << slot for slot in gone))
        for slot in gone:
            positions[slot] = (0, 0)

    def reset(self) -> None:
        """This node was expelled: it holds nothing any more."""
        shared = self._shared
        shared.view = None
        shared.recent.clear()
        self._primary.entered(None, set())
        self._follower.entered(set())
        self._shared.store.wipe(range(SLOT_COUNT))
        self._replies.forget_slots(ALL_SLOTS)
        shared.positions[:] = [(0, 0)] * SLOT_COUNT
        self.followed[:] = [None] * SLOT_COUNT
        self._primary.changed.update(range(SLOT_COUNT))
        self._update_routes()

    def refresh(self, routes: list[str], lease_until: float) -> None:
        """Take over the membership core's routes and lease."""
        self._shared.lease_until = lease_until
        if routes != self._core_routes:
            self._core_routes[:] = routes
            self._primary.changed.update(range(SLOT_COUNT))
            self._update_routes()

    def _update_routes(self) -> None:
        changed = self._primary.changed
        for slot in changed:
            route = self._core_routes[slot]
            if route == SELF and not self._is_open(slot):
                route = UNKNOWN
            if route == SELF and self.routes[slot] != SELF:
                self._shared.out.opened = True
            self.routes[slot] = route
        changed.clear()

    def _is_open(self, slot: int) -> bool:
        led = self._primary.led.get(slot)
        return led is not None and led.is_open and not led.wipes

    def link_up(self, peer: str, now: float) -> None:
        """A link to the peer is there, whoever dialled it; a link that it replaces was closed first."""
        self._shared.now = now
        self._shared.links.add(peer)
        self._primary.link_up(peer)
        self._follower.link_up(peer)

    def link_closed(self, peer: str) -> None:
        """The link has ended; what was in it is lost."""
        self._shared.links.discard(peer)
        self._primary.link_closed(peer)
        self._follower.link_closed(peer)

    def on_frame(self, peer: str, kind: int, body: bytes, now: float) -> None:
        """A frame from the link to the peer. One that is unsound is counted, and the link to be closed."""
        shared = self._shared
        shared.now = now
        if peer not in shared.links:
            shared.faults["frame without a link"] += 1
            return
        try:
            self._take(peer, kind, body)
        except frames.BadFrame:
            shared.faults["bad frame"] += 1
            shared.out.closed.append(peer)
        self._update_routes()

    def _take(self, peer: str, kind: int, body: bytes) -> None:
        if kind == frames.OPS:
            self._follower.on_ops(peer, body)
        elif kind == frames.ACK:
            self._primary.on_ack(peer, body)
        elif kind == frames.HAVE:
            self._primary.on_have(peer, body)
        elif kind == frames.QUERY:
            self._follower.on_query(peer, body)
        elif kind == frames.GO:
            self._follower.on_go(peer, body)
        elif kind == frames.BEGIN:
            self._follower.on_begin(peer, body)
        elif kind == frames.ENTRIES:
            self._follower.on_entries(peer, body)
        elif kind == frames.REPLIES:
            self._follower.on_replies(peer, body)
        elif kind == frames.END:
            self._follower.on_end(peer, body)
        elif kind == frames.CREDIT:
            self._primary.transfer.on_credit(peer, body)
        elif kind == frames.PAST:
            self._follower.on_past(peer, body)
        elif kind == frames.TOUCHED:
            self._primary.on_touched(peer, body)
        elif kind == frames.PATCH:
            self._follower.on_patch(peer, body)
        else:
            raise frames.BadFrame(f"kind {kind}")

    def tick(self, now: float) -> None:
        """To be called every REPLICATION_TICK_S."""
        self._shared.now = now
        self._primary.tick()
        self._follower.tick()

    def flush(self) -> Output:
        """What this turn has brought about; to be carried out at once."""
        shared = self._shared
        self._follower.flush()
        self._primary.flush()
        shared.recent.settle()
        out, shared.out = shared.out, Output()
        return out

    def wipe(self, slots: Iterable[int], message_id: bytes, waiter: Any, *, may_wait: bool = True) -> int:
        """WIPEOUT of these slots, all served here: as `execute`. Until all copies have it, its slots are closed."""
        primary = self._primary
        waiting = primary.unreleased.get(message_id)
        if waiting is not None:
            return primary.joins(waiting, waiter) if may_wait else IGNORED
        mine = list(slots)
        hindrances = 0 if may_wait else BUSY
        for slot in mine:
            if (led := self.followed[slot]) is not None:
                hindrances |= primary.refuses(led)
        code, wiped = self._mutations.wipe(mine, message_id, hindrances)
        if code < 0:
            return code
        if code == SYS_OVERLOAD_ERR:
            primary.wait_ms = self._mutations.wait_ms
            return code
        joint = Joint(waiter)
        for slot in wiped:
            led = self.followed[slot]
            op = primary.order(led, WIPE, b"", b"", message_id, NO_ERR) if led is not None else None
            if op is not None:
                op.joint = joint
                joint.left += 1
        self._update_routes()
        if not joint.left:
            return NO_ERR
        primary.unreleased[message_id] = joint
        return WAITS
