"""All that a store or a reply memory holds, for tests to compare."""

from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT


def entries(store: Store, number: int) -> dict[bytes, bytes]:
    """Key and blob of each entry of a slot; the order of use is left alone."""
    return {key: blob for key in store.keys(number) if (blob := store.peek(number, key)) is not None}


def content(store: Store) -> dict[bytes, bytes]:
    """Every key with its blob."""
    return {key: blob for number in range(SLOT_COUNT) for key, blob in entries(store, number).items()}


def records(replies: ReplyMemory) -> list[tuple[bytes, int, int]]:
    """Every remembered reply: messageID, slot, error code; in order."""
    return replies.scan(0, replies.bucket_count, ALL_SLOTS)
