"""A copy that is not whole yet, gathered beside the one that it will replace.

The two differ by little as a rule: by the writes that were in flight when a primary died, and by what either side has
evicted. So of an entry that the copy in place has, too, only the key is kept.
"""

from typing import Final

from app.cluster.replication import frames
from app.cluster.replication.frames import OpFields
from app.cluster.replication.state import CopyStore

# A table's place, a key and a blob as objects, less their bytes: 64-bit CPython, measured with sys.getsizeof.
ENTRY_BYTES: Final = 150
REPLY_BYTES: Final = 130


class Staging:
    """Each change returns by how much the size has grown. The copy in place may lose entries meanwhile, no more."""

    __slots__ = ("_slot", "_store", "entries", "replies", "size_bytes")

    def __init__(self, store: CopyStore, slot: int) -> None:
        self._store = store
        self._slot = slot
        self.entries: dict[bytes, bytes | None] = {}  # None: as it is in place
        self.replies: dict[bytes, int] = {}
        self.size_bytes = 0

    def _grow(self, size_bytes: int) -> int:
        self.size_bytes += size_bytes
        if size_bytes > 0:
            self._store.spend(size_bytes)
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
            if op.key in self.entries:
                grown = self._grow(-len(op.key) - len(self.entries.pop(op.key) or b"") - ENTRY_BYTES)
        elif op.kind == frames.WIPE_OP:
            grown = self._grow(-sum(len(key) + len(blob or b"") + ENTRY_BYTES for key, blob in self.entries.items()))
            self.entries.clear()
        if op.message_id:
            grown += self.remember(op.message_id, op.code)
        return grown
