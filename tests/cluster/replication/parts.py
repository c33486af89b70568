"""What the tests of one side of replication share: a node's store and state, and frames written by hand."""

from app.cluster.replication import frames
from app.cluster.replication.recent import Recent
from app.cluster.replication.state import Shared
from app.cluster.view import Member, View
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.mutate import Mutations
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import NO_ERR, SLOT_COUNT
from tests.storage.contents import entries

NOW = 10.0
SLOT = 7


def a_view(epoch: int = 5, primary: str = "a", backups: str = "b", learners: str = "", cluster_id: int = 1) -> View:
    """All slots have these nodes. Everybody is a member."""
    members = tuple(Member(name, 1) for name in "abcd")
    homes = (primary, *backups, *learners)
    table = (tuple(backups),) * SLOT_COUNT
    return View(cluster_id, epoch, members, (primary,) * SLOT_COUNT, table, (homes,) * SLOT_COUNT, nonce=3)


def a_shared(me: str, view: View | None = None, *, evict: bool = True, pages: int = 64, links: str = "abcd") -> Shared:
    """A node's part of what both sides share: an empty store, and links to all others."""
    store = Store(Arena(64 * PAGE_BYTES, pages * PAGE_BYTES), evict=evict, on_allowance_used=lambda: None)
    store.allowance_bytes = 1 << 40
    replies = ReplyMemory(6.0, 1 << 20, buckets=16)
    shared = Shared(
        me, store, replies, Mutations(store, replies), PAGE_BYTES, Recent(store.spend), view, NOW, NOW + 1.0
    )
    shared.links = set(links) - {me}
    return shared


def take_frames(shared: Shared) -> list[tuple[str, int, bytes]]:
    """What was sent since the last call: peer, kind, body."""
    sent, shared.out.frames = shared.out.frames, []
    return sent


def entries_of(shared: Shared, slot: int = SLOT) -> dict[bytes, bytes]:
    """What the copy of the slot holds."""
    return entries(shared.store, slot)  # type: ignore[arg-type]  # the tests' stores are real ones


def remembered(shared: Shared, message_id: bytes) -> int | None:
    """The code of the reply that the node remembers for the messageID."""
    return shared.replies.get(message_id)


def remember(shared: Shared, message_id: bytes, slot: int = SLOT, code: int = NO_ERR) -> None:
    shared.replies.add(message_id, slot, code)


def an_op(
    seq: int,
    key: bytes = b"k",
    blob: bytes = b"v",
    *,
    kind: int = frames.PUT_OP,
    slot: int = SLOT,
    term: int = 5,
    message_id: bytes | None = None,
    code: int = NO_ERR,
) -> bytes:
    """An op as it travels."""
    name = b"m%d" % seq if message_id is None else message_id
    blob = blob if kind == frames.PUT_OP else b""
    key = key if kind in (frames.PUT_OP, frames.REMOVE_OP) else b""
    return frames.encode_op(kind, slot, code, name, key, term, seq, blob)
