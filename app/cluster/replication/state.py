"""What both sides of replication share: the copies, the way out, and what is asked of store and reply memory.

The *position* of a copy is the term and seq of the last op in it. A term is the epoch at which a node became the
slot's primary; it orders its writes by seq, and starts from its own position. As no two nodes are a slot's primary
at one epoch, copies at the same position hold the same, but for what either has evicted.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.cluster.replication.frames import Position
from app.cluster.replication.recent import Recent
from app.cluster.view import View
from app.storage.mutate import MutableReplies, MutableStore, Mutations
from app.wire.protocol import SLOT_COUNT


class CopyStore(MutableStore, Protocol):
    """What replication needs of a store."""

    def peek(self, number: int, key: bytes) -> bytes | None: ...
    def put_oldest(self, number: int, key: bytes, blob: bytes) -> bool: ...
    def keys(self, number: int) -> list[bytes]: ...
    def keys_from(self, number: int, cursor: int) -> tuple[list[bytes], int]: ...


class CopyReplies(MutableReplies, Protocol):
    """What replication needs of a reply memory."""

    @property
    def bucket_count(self) -> int: ...
    def __len__(self) -> int: ...
    def has_slot(self, slot: int) -> bool: ...
    def forget(self, message_id: bytes) -> bool: ...
    def scan(self, start: int, count: int, slots: int) -> list[tuple[bytes, int, int]]: ...
    def forget_slots(self, slots: int) -> None: ...


@dataclass(slots=True)
class Output:
    """What the shell is to carry out, each list in order; see Replication.flush."""

    frames: list[tuple[str, int, bytes]] = field(default_factory=list)  # peer, kind, body
    released: list[tuple[Any, int]] = field(default_factory=list)  # who waits, and the code; NO_ERR for a read
    dropped: list[Any] = field(default_factory=list)  # who waits, and can't be answered here: ask the new primary
    synced: list[tuple[str, int, int]] = field(default_factory=list)  # learner, slots, epoch: SlotsSynced
    lost: list[tuple[int, int]] = field(default_factory=list)  # slots, epoch: CopiesLost
    emptied: int = 0  # slots of ours to lead that start empty, as no whole copy is left
    closed: list[str] = field(default_factory=list)  # peers that sent what they may not: end their links
    opened: bool = False  # routes have changed to the better: requests that wait may go on


@dataclass(slots=True)
class Shared:
    """See the module."""

    address: str
    store: CopyStore
    replies: CopyReplies
    mutations: Mutations
    reserve_bytes: int  # see Replication
    recent: Recent
    view: View | None = None  # that this node is a member of
    now: float = 0.0
    lease_until: float = 0.0
    # By slot; None: the copy is not whole.
    positions: list[Position | None] = field(default_factory=lambda: [(0, 0)] * SLOT_COUNT)
    links: set[str] = field(default_factory=set)  # peers that are linked
    out: Output = field(default_factory=Output)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def view_name(self) -> tuple[int, int]:
        """Epoch and nonce of the view."""
        return (self.view.epoch, self.view.nonce) if self.view else (0, 0)

    def send(self, peer: str, kind: int, body: bytes) -> None:
        if peer in self.links:
            self.out.frames.append((peer, kind, body))

    def flags(self) -> int:
        """What primaries must know of this node before they admit a write."""
        return self.mutations.hindrances(self.reserve_bytes)

    def primary(self, slot: int) -> str | None:
        return self.view.primaries[slot] if self.view else None

    def leads(self, peer: str, slot: int) -> bool:
        """Whether the peer is the slot's primary in our view: nobody else may change our copy."""
        return self.view is not None and self.view.primaries[slot] == peer

    def holds(self, slot: int) -> bool:
        """Whether our view names this node a holder: it may make it primary at any moment."""
        return self.view is not None and self.address in self.view.holders(slot)

    def lose(self, slots: Iterable[int]) -> None:
        """Say that our view names this node a holder of slots that it can't hold the whole of, or does not."""
        mask = sum(1 << slot for slot in slots)
        if mask:
            assert self.view is not None
            self.faults["copies lost"] += mask.bit_count()
            self.out.lost.append((mask, self.view.epoch))

    def followers(self, slot: int) -> tuple[str, ...]:
        """Backups and learners of a slot."""
        assert self.view is not None
        return (*self.view.backups[slot], *self.view.learners(slot))
