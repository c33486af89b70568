"""Giving a follower whole slots, while writes go on.

Up to SLOTS_AT_ONCE slots a follower are begun together, because remembered replies are not kept by slot: one walk
over them serves all. Replies and entries leave in chunks; an entry's value is read when its chunk is made, and every
op ordered before that has been sent before it, so the follower ends at the primary's state, whatever came between.

A follower has at most WINDOW chunks that it has not taken, and a node spends RATE bytes a second on all of them:
what a transfer costs the clients is bounded, and so is the memory of its buffers. Rejected: one long frame a slot,
which would hold up every write behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from app.cluster.replication import frames
from app.cluster.replication.frames import Patch
from app.cluster.replication.led import Led
from app.cluster.replication.recent import RECENT_MAX
from app.cluster.replication.state import Shared

# More: fewer walks over the remembered replies (0.1 s of processor time at 300,000), fewer views; but more to do again
# when a link breaks, and more slots that change hands at one moment.
SLOTS_AT_ONCE: Final = 32
WINDOW: Final = 4  # chunks of FRAME_FILL_BYTES: 128 KiB in flight a follower
# A node spends about a fifth of its time on transfers: each byte costs the two ends together about 10 ns, each entry or
# reply besides some 5 µs, as much as this many bytes. A node that is filled up anew is given 80 MiB of large values in
# 5 s, or 280,000 entries of 64 bytes in 9 s.
RATE_BYTES_S: Final = 16 * 1024 * 1024
ENTRY_COST_BYTES: Final = 400
BURST_BYTES: Final = 1024 * 1024
# A chunk is full, too, when its entries have cost so many bytes each besides their own: 400 of the smallest. Less:
# steps of more than 2 ms, here and where they are put.
ENTRY_WORK_BYTES: Final = 64
# Keys and messageIDs that followers have told, and that wait for their slots' turn: as many as one of them can have
# touched of late (RECENT_MAX writes). More: memory, 100 bytes each.
NAMES_MAX: Final = 2 * RECENT_MAX
REPLIES_SEEN: Final = 1024  # remembered replies looked through for one chunk, of whatever slots: about 0.3 ms


@dataclass(slots=True)
class Keys:
    """What is still to be sent of a slot, listed a part at a time: all of it may be in one slot."""

    listed: list[bytes]
    cursor: int | None = None  # of the part to be listed next (Store.keys_from); None: there is none

    @property
    def is_left(self) -> bool:
        return bool(self.listed) or self.cursor is not None


@dataclass(slots=True)
class Batch:
    """Slots on their way to one follower."""

    slots: dict[int, Keys]
    patched: dict[int, list[bytes]]  # by slot that is patched: messageIDs whose replies are still to be sent
    bucket: int = 0  # of all others: replies in earlier ones have been sent


@dataclass(slots=True)
class Stream:
    """All transfers to one follower."""

    queued: dict[int, Patch | None] = field(default_factory=dict)  # None: whole
    batch: Batch | None = None
    filling: set[int] = field(default_factory=set)  # begun, END not sent or not answerable yet
    sent: int = 0  # chunks over this link
    taken: int = 0


class Transfer:
    """See the module."""

    def __init__(self, shared: Shared, led: dict[int, Led]) -> None:
        self._shared = shared
        self._led = led
        self._streams: dict[str, Stream] = {}
        self.rate_bytes_s = RATE_BYTES_S
        self.chunk_bytes = frames.FRAME_FILL_BYTES
        self.burst_bytes = BURST_BYTES
        self._tokens = float(BURST_BYTES)
        self._filled_at = 0.0
        self.before_chunk: Callable[[str], None] = lambda peer: None

    def queue(self, slot: int, peer: str, patch: Patch | None = None) -> None:
        """The peer is to get this slot; the caller pumps. `patch`: it has what we had at a position, and what it has
        written since."""
        self._streams.setdefault(peer, Stream()).queued[slot] = patch
        if patch is not None:
            self._shared.store.spend(patch.heap_bytes)

    def room_for_names(self) -> int:
        """How many more keys and messageIDs may wait, in patches that are queued."""
        waiting = (patch for stream in self._streams.values() for patch in stream.queued.values())
        return NAMES_MAX - sum(patch.count for patch in waiting if patch is not None)

    def forget(self, slot: int, peer: str | None = None) -> None:
        """Stop sending this slot to the peer, or to all."""
        for name, stream in self._streams.items():
            if peer is None or name == peer:
                stream.queued.pop(slot, None)
                stream.filling.discard(slot)
                if stream.batch is not None:
                    stream.batch.slots.pop(slot, None)
                    stream.batch.patched.pop(slot, None)

    def forget_all(self, peer: str) -> None:
        """Stop sending anything to the peer. What it has taken, and will say so, still counts."""
        if (stream := self._streams.get(peer)) is not None:
            stream.queued.clear()
            stream.filling.clear()
            stream.batch = None

    def link_closed(self, peer: str) -> None:
        self._streams.pop(peer, None)

    def filling(self, peer: str) -> set[int]:
        """The slots that the peer was told to begin, and not yet that this was all."""
        stream = self._streams.get(peer)
        return stream.filling if stream is not None else set()

    def on_credit(self, peer: str, body: bytes) -> None:
        taken = frames.decode_credit(body)
        stream = self._streams.get(peer)
        if stream is None:
            return
        if not stream.taken <= taken <= stream.sent:
            raise frames.BadFrame(f"took {taken} chunks of {stream.sent}")
        stream.taken = taken
        self.pump(peer)

    def pump_all(self) -> None:
        for peer in list(self._streams):
            self.pump(peer)

    def pump(self, peer: str) -> None:
        """Send what window and rate allow."""
        stream = self._streams.get(peer)
        if stream is None or peer not in self._shared.links:
            return
        self._refill()
        while stream.sent - stream.taken < WINDOW and self._tokens > 0:
            if stream.batch is None and not self._begin(peer, stream):
                return
            assert stream.batch is not None
            replies = self._replies(stream.batch)
            if replies is None:
                self._send_entries(peer, stream, stream.batch)
            else:
                self._send_chunk(peer, stream, frames.REPLIES, replies)

    def _refill(self) -> None:
        elapsed = max(0.0, self._shared.now - self._filled_at)
        self._tokens = min(self.burst_bytes, self._tokens + elapsed * self.rate_bytes_s)
        self._filled_at = self._shared.now

    def _begin(self, peer: str, stream: Stream) -> bool:
        wanted = [slot for slot in stream.queued if slot in self._led and peer in self._led[slot].progress]
        wanted.sort(key=lambda slot: stream.queued[slot] is None)  # little goes first
        slots = wanted[:SLOTS_AT_ONCE]
        if not slots:
            stream.queued.clear()
            return False
        self.before_chunk(peer)
        patches = self._patches([patch for slot in slots if (patch := stream.queued[slot]) is not None])
        by_number: dict[int, list[int]] = {}
        for slot in slots:
            del stream.queued[slot]
            stream.filling.add(slot)
            progress = self._led[slot].progress[peer]
            progress.is_streaming, progress.acked = True, -1
            if slot in patches:
                body = frames.encode_patches(progress.report, [patches[slot]])
                self._tokens -= len(body)
                self._shared.send(peer, frames.PATCH, body)
            else:
                by_number.setdefault(progress.report, []).append(slot)
        for number, some in by_number.items():
            rows = [(slot, self._led[slot].term, self._led[slot].position) for slot in some]
            self._shared.send(peer, frames.BEGIN, frames.encode_start(number, rows))
        stream.batch = Batch(
            {slot: Keys(patches[slot].keys) if slot in patches else self._keys(slot, 0) for slot in slots},
            {slot: patch.message_ids for slot, patch in patches.items()},
        )
        return True

    def _patches(self, theirs: list[Patch]) -> dict[int, Patch]:
        """What is to be patched, by slot: what they have touched since we were at one, and what we have.

        Without those that would not fit a frame, and those of which too much was written here since.
        """
        led = self._led
        touched = self._shared.recent.since(
            {patch.slot: led[patch.slot].position for patch in theirs}, {patch.slot: patch.position for patch in theirs}
        )
        patches = {}
        for their in theirs:
            slot = their.slot
            if (ours := touched.get(slot)) is not None:
                keys = list(dict.fromkeys(ours[0] + their.keys))
                message_ids = list(dict.fromkeys(ours[1] + their.message_ids))
                patch = Patch(slot, led[slot].term, led[slot].position, keys, message_ids)
                if patch.size_bytes <= frames.FRAME_FILL_BYTES:
                    patches[slot] = patch
                    self._shared.store.spend(patch.heap_bytes)
        return patches

    def _send_chunk(self, peer: str, stream: Stream, kind: int, parts: list[bytes]) -> None:
        self.before_chunk(peer)  # ops ordered before these values were read must arrive before them
        part: list[bytes] = []
        size = 0
        for data in parts:
            if size >= self.chunk_bytes:
                self._send(peer, stream, kind, part)
                part, size = [], 0
            part.append(data)
            size += len(data)
        self._send(peer, stream, kind, part)

    def _send_entries(self, peer: str, stream: Stream, batch: Batch) -> None:
        """Send one chunk, and the END of each slot that has no more: its copy is whole, and what is gathered beside
        the one before has an end."""
        parts = self._entries(batch)
        if parts:
            self._send_chunk(peer, stream, frames.ENTRIES, parts)
        done = [slot for slot, keys in batch.slots.items() if not keys.is_left]
        if done:
            self.before_chunk(peer)
            self._shared.send(peer, frames.END, frames.encode_end((slot, self._led[slot].term) for slot in done))
            stream.filling.difference_update(done)
            for slot in done:
                del batch.slots[slot]
        if not batch.slots:
            stream.batch = None

    def _send(self, peer: str, stream: Stream, kind: int, parts: list[bytes]) -> None:
        body = b"".join(parts)
        self._tokens -= len(body) + len(parts) * ENTRY_COST_BYTES
        stream.sent += 1
        self._shared.send(peer, kind, body)

    def _replies(self, batch: Batch) -> list[bytes] | None:
        """Those of a part of the memory, perhaps none; None if there is no part left."""
        replies = self._shared.replies
        for slot, message_ids in batch.patched.items():
            if message_ids:
                part = [message_ids.pop() for _ in range(min(len(message_ids), REPLIES_SEEN))]
                codes = [(message_id, replies.get(message_id)) for message_id in part]
                return [frames.encode_reply(slot, code, message_id) for message_id, code in codes if code is not None]
        mask = sum(1 << slot for slot in batch.slots if slot not in batch.patched and replies.has_slot(slot))
        if not mask or batch.bucket >= replies.bucket_count:
            return None
        count = max(1, replies.bucket_count * REPLIES_SEEN // max(REPLIES_SEEN, len(replies)))
        found = replies.scan(batch.bucket, count, mask)
        batch.bucket += count
        return [frames.encode_reply(slot, code, message_id) for message_id, slot, code in found]

    def _keys(self, slot: int, cursor: int) -> Keys:
        listed, cursor = self._shared.store.keys_from(slot, cursor)
        return Keys(listed, cursor or None)

    def _entries(self, batch: Batch) -> list[bytes]:
        store = self._shared.store
        parts: list[bytes] = []
        size = 0
        for slot, keys in batch.slots.items():
            while keys.is_left and size < self.chunk_bytes:
                if not keys.listed:
                    assert keys.cursor is not None
                    keys = batch.slots[slot] = self._keys(slot, keys.cursor)
                    continue
                key = keys.listed.pop()
                blob = store.peek(slot, key)
                if blob is not None:  # else removed, or evicted, since
                    parts.append(frames.encode_entry(slot, key, blob))
                    size += len(parts[-1]) + ENTRY_WORK_BYTES
        return parts
