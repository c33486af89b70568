"""Remembered replies: what makes a retried request take effect at most once.

Each PUT, REMOVE and WIPEOUT leaves its error code under its messageID for at least `ttl_s`, so that a retry gets
the first answer. Up to 600,000 of them are alive at 80,000 writes a second, so each must be small: one Python
object graph a reply (a dict of bytes to anything) costs 120 bytes and more.

The approach: 16,384 buckets or more; a bucket is one bytearray of records laid end to end, in the order in which they
came, so a look-up is one substring search in at most some hundred bytes. The bucket is chosen by Python's hash of the
messageID, which is keyed by the process: by its CRC-32, which anybody can compute, chosen messageIDs all came to lie in
one bucket, and 900 retries a second, each of which walked it, took another client's PUT from 0.7 to 528 ms. A record is
the messageID with its length before and behind it, the generation, the slot, the slot's era and the error code: 22
bytes for the usual 16-byte messageID, about 27 with what the buckets cost.

Replies age by generations: one begins every quarter of `ttl_s`, and is forgotten when four more have ended since. So a
reply is held for five quarters at most, and a memory holds the writes of so long. (Two generations of a whole `ttl_s`
each hold a reply for up to twice the time: 55,000 instead of 85,000 writes a second in the same memory. Parts half as
long would gain 11 % more, and cost another 1 % of the time.) To forget a generation is to count its number as expired:
its records are at the front of their buckets, and are cut off while the next generation fills.

A slot that goes to another node takes its replies along. To forget them here would be a walk over all records (60 ms at
300,000); instead the slot begins a new era, and records of earlier ones count as not there until they age.

A substring can match across records, by chance or by a client's design, so a hit (rare: only retries hit) is
confirmed by walking the bucket's records from the newest one on: a retry comes soon.

Nothing is forgotten early. When the memory is full, `full` is true and its owner must refuse new mutating
commands until `wait_ms` has passed. And time is counted only while the node is alive to serve (`advance`): a
retry that sat in the socket's buffer while the process was stopped for a minute still finds its reply.
"""

from array import array
from collections.abc import Iterator
from struct import Struct
from typing import Final

from app.fast import piece
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT

# More: fewer bytes to search, but about 80 bytes for each one used.
_BUCKETS: Final = 16_384
_BUCKET_FULL_BYTES: Final = 1152  # what there are buckets for: 40 records; a walk takes 10 µs at most

# Generations that begin in `ttl_s`; so many and the newest are remembered. More: replies are held less long beyond
# their time, but the buckets are gone through (16 ms at 600,000 replies) as often as one begins.
_PARTS: Final = 4

# What one bucket costs besides its records: the bytearray object (56 bytes, 64 with its allocator's rounding)
# and on average half a step of its growth (an eighth of its size, which `_GROWTH_SHARE` counts).
_BUCKET_BYTES: Final = 64
_GROWTH_SHARE: Final = 8

# Growth after which it is asked again whether the memory is full; the bound may be passed by as much.
_CHECK_BYTES: Final = 4096

# The part of the buckets that one `advance` frees of what was cleared: all of them would take 15 ms and more.
_FREE_SHARE: Final = 32

# Lists of buckets that were cleared and wait to be freed: more come only of `clear`, again and again, and are freed at
# once, as little is in them then. The list alone is 128 KiB and more.
_CLEARED_MAX: Final = 3

# The most that one `advance` believes to have passed: a process that was stopped, or a loop that hung, did not
# read its socket meanwhile, so that time must not age what retries in the socket's buffer still need.
_ADVANCE_MAX_S: Final = 0.25

# A record: the messageID's length, generation, slot, era, error code; the messageID; its length again. An era is told
# apart from the 255 before it: a slot that has replies here would have to come and go every 30 ms for as long as they
# live to confuse two.
_GENERATION_AT: Final = 1
_SLOT_AT: Final = 2
_ERA_AT: Final = 3
_CODE_AT: Final = 4
_ID_AT: Final = 5
_RECORD_BYTES: Final = _ID_AT + 1  # what it takes besides the messageID
_pack_usual: Final = Struct("5B16sB").pack  # one of 16 bytes; by % it takes half as much again

_Buckets = list[bytearray | None]


def buckets_for(max_bytes: int) -> int:
    """How many buckets a reply memory of this size should have: a power of two."""
    return max(_BUCKETS, 1 << (max_bytes // _BUCKET_FULL_BYTES - 1).bit_length())


class _Generation:
    """What there is of one: records, their bytes, and records by slot."""

    __slots__ = ("by_slot", "count", "size_bytes")

    def __init__(self) -> None:
        self.count = self.size_bytes = 0
        self.by_slot = array("L", [0]) * SLOT_COUNT


@piece
class ReplyMemory:
    """Error codes by messageID, for at least `ttl_s`, within `max_bytes`."""

    def __init__(self, ttl_s: float, max_bytes: int, *, buckets: int = _BUCKETS) -> None:
        """`buckets`: a power of two."""
        assert buckets & (buckets - 1) == 0, buckets
        self.bucket_count = buckets  # how far `scan` can go
        self._mask = buckets - 1
        self._eras = bytearray(SLOT_COUNT)  # by slot
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self._generation_s = ttl_s / _PARTS
        self._age_s = 0.0  # of the newest generation
        self._last_now: float | None = None
        self._cleared: list[_Buckets] = []  # being freed
        self._begin()
        self.full = False

    def _begin(self) -> None:
        self._buckets: _Buckets = [None] * self.bucket_count
        self._made = 0  # buckets that are there
        # By number: those remembered and, always empty, the one that expired last.
        self._generations = [_Generation() for _ in range(_PARTS + 2)]
        self._newest = 0
        self._expired = 1
        self._expired_bytes = 0  # of its records, those that are still there
        self._swept = 0  # buckets that have none any more
        self._check_at_bytes = 0  # when the newest generation has grown to this, `full` is decided anew

    def get(self, message_id: bytes) -> int | None:
        """The error code remembered for a messageID, the last where it came with several slots; None: there is none."""
        bucket = self._buckets[hash(message_id) & self._mask]
        if bucket is None or bucket.find(message_id) < 0:
            return None
        at = self._find(bucket, message_id)
        return bucket[at + _CODE_AT] if at >= 0 else None

    def _find(self, bucket: bytearray, message_id: bytes) -> int:
        """Where the newest record of a messageID starts in a bucket; -1: the bytes are there, but no such record."""
        length = len(message_id)
        end = len(bucket)
        while end:
            at = end - bucket[end - 1] - _RECORD_BYTES
            if (
                bucket[at] == length
                and bucket.startswith(message_id, at + _ID_AT)
                and bucket[at + _ERA_AT] == self._eras[bucket[at + _SLOT_AT]]
                and bucket[at + _GENERATION_AT] != self._expired
            ):
                return at
            end = at
        return -1

    def add(self, message_id: bytes, slot: int, code: int) -> None:
        """Remember the error code of a messageID (1 to 64 bytes) that is not remembered yet, or not with this slot.

        To be called only while `full` is false.
        """
        number = hash(message_id) & self._mask
        bucket = self._buckets[number]
        if bucket is None:
            bucket = self._buckets[number] = bytearray()
            self._made += 1
            self._check_at_bytes -= _BUCKET_BYTES
        length = len(message_id)
        if length == 16:
            bucket += _pack_usual(16, self._newest, slot, self._eras[slot], code, message_id, 16)
        else:
            bucket += b"%c%c%c%c%c%b%c" % (length, self._newest, slot, self._eras[slot], code, message_id, length)
        newest = self._generations[self._newest]
        newest.count += 1
        newest.by_slot[slot] += 1
        newest.size_bytes += length + _RECORD_BYTES
        if newest.size_bytes >= self._check_at_bytes:
            self._check()

    def forget(self, message_id: bytes) -> bool:
        """Forget a reply whose receiver has acknowledged it, with whatever slots; False when there was none."""
        bucket = self._buckets[hash(message_id) & self._mask]
        size = len(message_id) + _RECORD_BYTES
        forgot = False
        while bucket is not None and bucket.find(message_id) >= 0 and (at := self._find(bucket, message_id)) >= 0:
            generation = self._generations[bucket[at + _GENERATION_AT]]
            generation.count -= 1
            generation.by_slot[bucket[at + _SLOT_AT]] -= 1
            generation.size_bytes -= size
            del bucket[at : at + size]
            forgot = True
        if forgot:
            self._check()
        return forgot

    def clear(self) -> None:
        """Forget everything: what the replies speak of is gone from this node. Freed little by little."""
        if self._made:
            self._cleared.append(self._buckets)
            del self._cleared[:-_CLEARED_MAX]
        self._begin()
        self._check()

    def advance(self, now: float) -> None:
        """Let time pass up to `now` (monotonic seconds); to be called several times a second."""
        if self._last_now is not None:
            self._age_s += min(max(0.0, now - self._last_now), _ADVANCE_MAX_S)
        self._last_now = now
        if self._cleared:
            del self._cleared[-1][-self.bucket_count // _FREE_SHARE :]
            if not self._cleared[-1]:
                self._cleared.pop()
        self._sweep(min(self.bucket_count, int(self.bucket_count * self._age_s / self._generation_s)))
        if self._age_s >= self._generation_s:
            # Not what is left of the time: replies came since the last call, when the newest was not yet so old.
            self._age_s = 0.0
            self._swept = 0
            self._newest = self._expired
            self._expired = (self._expired + 1) % len(self._generations)
            self._expired_bytes = self._generations[self._expired].size_bytes
            self._generations[self._expired] = _Generation()
            self._check()

    def _sweep(self, until: int) -> None:
        """Cut what has expired off the buckets up to this one: 1 µs each. A copy has no room to grow, as is counted."""
        expired = self._expired
        for number, bucket in enumerate(self._buckets[self._swept : until], self._swept):
            if bucket and bucket[_GENERATION_AT] == expired:
                at, end = bucket[0] + _RECORD_BYTES, len(bucket)
                while at < end and bucket[at + _GENERATION_AT] == expired:
                    at += bucket[at] + _RECORD_BYTES
                self._expired_bytes -= at
                bucket = self._buckets[number] = bucket[at:]
            if bucket is not None and not bucket:
                self._buckets[number] = None
                self._made -= 1
        self._swept = max(self._swept, until)

    def _check(self) -> None:
        self.full = self.used_bytes >= self.max_bytes
        self._check_at_bytes = self._generations[self._newest].size_bytes + _CHECK_BYTES

    @property
    def used_bytes(self) -> int:
        """What the remembered replies cost, buckets included."""
        used = self._made * _BUCKET_BYTES
        for generation in self._generations:
            used += generation.size_bytes
        return used + used // _GROWTH_SHARE

    @property
    def expiring_bytes(self) -> int:
        """Of what has expired or was cleared: about what is still to be freed."""
        cleared = sum(sum(map(len, filter(None, buckets))) + 8 * len(buckets) for buckets in self._cleared)
        return self._expired_bytes + cleared

    @property
    def wait_ms(self) -> int:
        """How long until there is room again: the honest wait for a client refused while `full`.

        Until the oldest generation expires; or, where that makes no room, the next.
        """
        left_s = self._generation_s - self._age_s
        used = self.used_bytes
        for back in range(_PARTS, 0, -1):
            size_bytes = self._generations[self._newest - back].size_bytes
            used -= size_bytes + size_bytes // _GROWTH_SHARE
            if used < self.max_bytes:
                break
            left_s += self._generation_s
        return max(1, round(left_s * 1000))

    def __len__(self) -> int:
        return sum(generation.count for generation in self._generations)

    # By slot: what copies of a slot need.

    def has_slot(self, slot: int) -> bool:
        """Whether anything is remembered for the slot."""
        return any(generation.by_slot[slot] for generation in self._generations)

    def _records(self, bucket: bytearray) -> Iterator[tuple[bytes, int, int]]:
        """Those that are remembered of a bucket, the newest first: messageID, slot, error code."""
        end = len(bucket)
        while end:
            at = end - bucket[end - 1] - _RECORD_BYTES
            slot = bucket[at + _SLOT_AT]
            if bucket[at + _ERA_AT] == self._eras[slot] and bucket[at + _GENERATION_AT] != self._expired:
                yield bytes(bucket[at + _ID_AT : end - 1]), slot, bucket[at + _CODE_AT]
            end = at

    def slots_of(self, message_id: bytes) -> int:
        """The slots (a mask) that a messageID is remembered with."""
        slots = 0
        bucket = self._buckets[hash(message_id) & self._mask]
        if bucket is not None and bucket.find(message_id) >= 0:
            for found, slot, _ in self._records(bucket):
                if found == message_id:
                    slots |= 1 << slot
        return slots

    def scan(self, start: int, count: int, slots: int) -> list[tuple[bytes, int, int]]:
        """The records of these slots (a mask) in `count` buckets from `start` on, in order.

        Each is messageID, slot, error code. To see everything, go from bucket 0 to `bucket_count`; what is added
        meanwhile may be missed or not.
        """
        found = []
        for bucket in self._buckets[start : start + count]:
            if bucket is not None:
                found += [record for record in self._records(bucket) if slots >> record[1] & 1]
        found.sort()  # what other nodes are sent does not depend on this process's hash
        return found

    def forget_slots(self, slots: int) -> None:
        """Forget everything that is remembered for these slots (a mask)."""
        if slots == ALL_SLOTS:
            self.clear()
            return
        for slot in range(SLOT_COUNT):
            if slots >> slot & 1 and self.has_slot(slot):
                for generation in self._generations:
                    generation.count -= generation.by_slot[slot]
                    generation.by_slot[slot] = 0
                self._eras[slot] = (self._eras[slot] + 1) % 256
