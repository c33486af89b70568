"""A copy that is not whole yet, gathered beside the one that it will replace.

The two differ by little as a rule: by the writes that were in flight when a primary died, and by what either side has
evicted. So of an entry that the copy in place has, too, only the key is kept. A patch is gathered the same way: it says
which keys and messageIDs it replaces, and leaves all others as they are.
"""

from typing import Final

from app.cluster.replication import frames
from app.cluster.replication.frames import OpFields, Patch
from app.cluster.replication.state import CopyReplies, CopyStore

# A table's place, a key and a blob as objects, less their bytes: 64-bit CPython, measured with sys.getsizeof.
ENTRY_BYTES: Final = 150
REPLY_BYTES: Final = 130


class Staging:
    """Each change returns by how much the size has grown. The copy in place may lose entries meanwhile, no more."""

    __slots__ = ("_slot", "_store", "entries", "forgotten", "removed", "replies", "size_bytes")

    def __init__(self, store: CopyStore, slot: int, patch: Patch | None = None) -> None:
        self._store = store
        self._slot = slot
        self.entries: dict[bytes, bytes | None] = {}  # None: as it is in place
        self.replies: dict[bytes, int] = {}
        # Keys that go if they are not gathered, and messageIDs; None: all of them.
        self.removed: set[bytes] | None = None
        self.forgotten: list[bytes] | None = None
        self.size_bytes = 0
        if patch is not None:
            self.removed, self.forgotten = set(patch.keys), patch.message_ids
            self._grow(sum(len(key) + ENTRY_BYTES for key in self.removed))
            self._grow(sum(len(message_id) + REPLY_BYTES for message_id in self.forgotten))

    def _grow(self, size_bytes: int) -> int:
        self.size_bytes += size_bytes
        self._store.spend(max(0, size_bytes))
        return size_bytes

    @property
    def changed_bytes(self) -> int:
        """Of the entries that are not in place already."""
        return sum(len(key) + len(blob) for key, blob in self.entries.items() if blob is not None)

    def put(self, key: bytes, blob: bytes) -> int:
        grown = -len(self.entries[key] or b"") if key in self.entries else len(key) + ENTRY_BYTES
        if self._store.peek(self._slot, key) == blob:
            self.entries[key] = None
        else:
            self.entries[key] = blob
            grown += len(blob)
        return self._grow(grown)

    def remember(self, message_id: bytes, code: int) -> int:
        known = message_id in self.replies
        self.replies[message_id] = code
        return 0 if known else self._grow(len(message_id) + REPLY_BYTES)

    def apply(self, op: OpFields) -> int:
        """A write that the primary orders meanwhile."""
        grown = 0
        if op.kind == frames.PUT_OP:
            grown = self.put(op.key, op.blob)
        elif op.kind == frames.REMOVE_OP:
            grown = self._remove(op.key)
        elif op.kind == frames.WIPE_OP:
            grown = self._wipe()
        if op.message_id:
            grown += self.remember(op.message_id, op.code)
        return grown

    def _remove(self, key: bytes) -> int:
        grown = 0
        if key in self.entries:
            grown -= len(key) + len(self.entries.pop(key) or b"") + ENTRY_BYTES
        if self.removed is not None and key not in self.removed:
            self.removed.add(key)
            grown += len(key) + ENTRY_BYTES
        return self._grow(grown)

    def _wipe(self) -> int:
        freed = sum(len(key) + len(blob or b"") + ENTRY_BYTES for key, blob in self.entries.items())
        freed += sum(len(key) + ENTRY_BYTES for key in self.removed or ())
        self.entries.clear()
        self.removed = None
        return self._grow(-freed)

    def commit(self, replies: CopyReplies) -> None:
        """Take out of the copy in place what is not to be there any more."""
        store, slot = self._store, self._slot
        for key in store.keys(slot) if self.removed is None else self.removed:
            if key not in self.entries:
                store.remove(slot, key)
        if self.forgotten is None:
            replies.forget_slots(1 << slot)
        else:
            for message_id in self.forgotten:
                replies.forget(message_id)
