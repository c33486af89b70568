"""What PUT, REMOVE and WIPEOUT do to a store and its reply memory, when they are refused, and for how long.

This is the one place that decides it: alone (app/requests/commands.py), where copies are kept
(app/cluster/replication/core.py), and, being the same code, in the simulator. A mutating command comes down to one of
four *changes*, which is what travels to the other copies: an entry is set, an entry is deleted, a slot is wiped, or
nothing but the answer is noted. A new mutating command is one more case here, and its number in the protocol.

At most once: a mutation is executed only if its messageID is not remembered, and its answer is remembered with it. A
refusal (SYS_OVERLOAD_ERR) does nothing and is not remembered; the client is told when to try again.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from app.fast import piece
from app.wire.protocol import (
    KEY_DNE_ERR,
    NO_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
    SYS_OVERLOAD_ERR,
    WIPEOUT,
)

# Changes.
SET: Final = 1
DELETE: Final = 2
WIPE: Final = 3
NOTE: Final = 4  # nothing but the answer

# What hinders a mutation at a node that must take part in it, as flags.
STORE_FULL: Final = 1  # no room, and nothing may be evicted
REPLIES_FULL: Final = 2  # no answer more can be remembered
STORE_BUSY: Final = 4  # no room, but it is being made: wiped entries are given back in steps of a few ms
BUSY: Final = 8  # too much is in flight; of this node only
HINDRANCES: Final = STORE_FULL | REPLIES_FULL | STORE_BUSY  # that nodes tell each other

# How long a client is asked to wait for room in the store, which is given back in steps of a few ms.
ROOM_WAIT_MS: Final = 50
# How long it is asked to wait where another node is hindered, or too much is in flight.
BUSY_WAIT_MS: Final = 20
# What remembering an answer takes of the process's memory, about: an entry that is only changed takes nothing else.
REPLY_BYTES: Final = 32
# The store is told of that much at once: to tell it each time would cost a PUT 2 % more.
SPEND_BYTES: Final = 4096


class MutableStore(Protocol):
    """What mutations need of a store."""

    @property
    def evicts(self) -> bool: ...
    @property
    def wiping(self) -> bool: ...
    @property
    def room_bytes(self) -> int: ...
    def put(self, number: int, key: bytes, blob: bytes) -> bool: ...
    def remove(self, number: int, key: bytes) -> bool: ...
    def wipe(self, slots: Iterable[int]) -> None: ...
    def spend(self, size_bytes: int) -> None: ...


class MutableReplies(Protocol):
    """What mutations need of a reply memory."""

    full: bool

    @property
    def wait_ms(self) -> int: ...
    def get(self, message_id: bytes) -> int | None: ...
    def slots_of(self, message_id: bytes) -> int: ...
    def add(self, message_id: bytes, slot: int, code: int) -> None: ...


@piece
class Mutations:
    """One node's. `wait_ms`: after a refusal, how long its client is to wait."""

    def __init__(self, store: MutableStore, replies: MutableReplies) -> None:
        self._store = store
        self._replies = replies
        self._unspent_bytes = 0  # of answers, of which the store was not told yet
        self.wait_ms = 0

    def execute(self, command: int, slot: int, key: bytes, blob: bytes, message_id: bytes, hindrances: int = 0) -> int:
        """PUT or REMOVE: the code to answer with, below 0 (`~code`) if it was executed before and is only remembered.

        SYS_OVERLOAD_ERR: nothing was done. `hindrances`: those at other nodes that must take part.
        """
        replies = self._replies
        code = replies.get(message_id)
        if code is not None:
            return ~code
        if replies.full or hindrances & (REPLIES_FULL | BUSY):
            return self._refused(replies.wait_ms if replies.full else BUSY_WAIT_MS)
        if command == PUT:
            if not hindrances and self._store.put(slot, key, blob):
                code = NO_ERR
            elif self._store.evicts or self._store.wiping or hindrances & STORE_BUSY:
                return self._refused(ROOM_WAIT_MS)
            else:
                code = NO_SPC_ERR
        else:
            assert command == REMOVE, command
            code = NO_ERR if self._store.remove(slot, key) else KEY_DNE_ERR
        replies.add(message_id, slot, code)
        self._unspent_bytes += REPLY_BYTES
        if self._unspent_bytes >= SPEND_BYTES:
            self._spend()
        return code

    def _spend(self) -> None:
        """Tell the store what answers have taken since the last time."""
        size_bytes, self._unspent_bytes = self._unspent_bytes, 0
        self._store.spend(size_bytes)

    def wipe(self, slots: Iterable[int], message_id: bytes, hindrances: int = 0) -> tuple[int, list[int]]:
        """WIPEOUT of these slots: the code as of `execute`, and the slots that were wiped by it just now.

        The answer is remembered with every slot, since slots move: a messageID wipes each of them once, wherever its
        client's tries are executed.
        """
        replies = self._replies
        wiped = replies.slots_of(message_id)
        left = [slot for slot in slots if not wiped >> slot & 1]
        if wiped and not left:
            return ~NO_ERR, []
        if replies.full or hindrances & (REPLIES_FULL | BUSY):
            return self._refused(replies.wait_ms if replies.full else BUSY_WAIT_MS), []
        self._store.wipe(left)
        for slot in left:
            replies.add(message_id, slot, NO_ERR)
        self._unspent_bytes += REPLY_BYTES * len(left)
        self._spend()
        return NO_ERR, left

    def _refused(self, wait_ms: int) -> int:
        self.wait_ms = wait_ms
        return SYS_OVERLOAD_ERR

    def apply(self, change: int, slot: int, key: bytes, blob: bytes) -> bool:
        """Make a change that another node has ordered; False, nothing changed, when there is no room for it.

        Where entries may be evicted there always is: what does not fit is as good as evicted at once, but the value
        before must not stay.
        """
        store = self._store
        if change == SET:
            if not store.put(slot, key, blob):
                if not store.evicts:
                    return False
                store.remove(slot, key)
        elif change == DELETE:
            store.remove(slot, key)
        elif change == WIPE:
            store.wipe((slot,))
        else:
            assert change == NOTE, change
        return True

    def hindrances(self, reserve_bytes: int) -> int:
        """What hinders mutations at this node. `reserve_bytes`: with less room than this, a store that may not evict
        counts as full."""
        store = self._store
        flags = REPLIES_FULL if self._replies.full else 0
        if not store.evicts and store.room_bytes < reserve_bytes:
            flags |= STORE_BUSY if store.wiping else STORE_FULL
        return flags


def change_of(command: int, code: int) -> int:
    """The change that a mutation with this answer comes down to."""
    if command == REMOVE:
        return DELETE  # also when there was nothing: what was evicted here may be there still
    if command == WIPEOUT:
        return WIPE
    return NOTE if code == NO_SPC_ERR else SET
