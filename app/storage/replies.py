"""Remembered replies: what makes a retried request take effect at most once.

Each PUT, REMOVE and WIPEOUT leaves its error code under its messageID for at least `ttl_s`, so that a retry gets
the first answer. Up to 300,000 of them are alive at 50,000 writes a second, so each must be small: one Python
object graph a reply (a dict of bytes to anything) costs 120 bytes and more.

The approach: two generations, each a lifetime long, of 16,384 buckets or more; a bucket is one bytearray of records
laid end to end. A look-up is one substring search in at most a few hundred bytes per generation; a generation that has
aged is dropped whole. The bucket is chosen by Python's hash of the messageID, which is keyed by the process: by its
CRC-32, which anybody can compute, chosen messageIDs all came to lie in one bucket, and 900 retries a second, each of
which walked it, took another client's PUT from 0.7 to 528 ms. A record is one length byte, the messageID, the slot, the
slot's era and the error code: 20 bytes for the usual 16-byte messageID, about 31 with what the buckets cost.

A slot that goes to another node takes its replies along. To forget them here would be a walk over all records (60 ms at
300,000); instead the slot begins a new era, and records of earlier ones count as not there until they age.

A substring can match across records, by chance or by a client's design, so a hit (rare: only retries hit) is
confirmed by walking the bucket's records from its start.

Nothing is forgotten early. When the memory is full, `full` is true and its owner must refuse new mutating
commands until `wait_ms` has passed. And time is counted only while the node is alive to serve (`advance`): a
retry that sat in the socket's buffer while the process was stopped for a minute still finds its reply.
"""

from array import array
from typing import Final

from app.fast import piece
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT

# More: fewer bytes to search, but about 80 bytes for each one used, per generation.
_BUCKETS: Final = 16_384
_BUCKET_FULL_BYTES: Final = 1152  # what there are buckets for: 40 records in all; a walk takes 10 µs at most

# What one bucket costs besides its records: the bytearray object (56 bytes, 64 with its allocator's rounding)
# and on average half a step of its growth (an eighth of its size, which `_GROWTH_SHARE` counts).
_BUCKET_BYTES: Final = 64
_GROWTH_SHARE: Final = 8

# Growth after which it is asked again whether the memory is full; the bound may be passed by as much.
_CHECK_BYTES: Final = 4096

# The part of the buckets that one `advance` frees of an expired generation: all of them would take 15 ms and more.
_FREE_SHARE: Final = 32

# Generations that wait to be freed: more come only of `clear`, again and again, and are freed at once, as little is in
# them then. The list of buckets alone is 128 KiB and more.
_EXPIRED_MAX: Final = 3

# The most that one `advance` believes to have passed: a process that was stopped, or a loop that hung, did not
# read its socket meanwhile, so that time must not age what retries in the socket's buffer still need.
_ADVANCE_MAX_S: Final = 0.25

# What a record takes besides its messageID: its length, slot, era and error code. An era is told apart from the 255
# before it: a slot that has replies here would have to come and go every 50 ms for as long as they live to confuse two.
_RECORD_BYTES: Final = 4

_Buckets = list[bytearray | None]


def buckets_for(max_bytes: int) -> int:
    """How many buckets a reply memory of this size should have: a power of two."""
    return max(_BUCKETS, 1 << (max_bytes // _BUCKET_FULL_BYTES - 1).bit_length())


def _none_by_slot() -> "array[int]":
    """A count for each slot, all zero."""
    return array("L", [0]) * SLOT_COUNT


@piece
class ReplyMemory:
    """Error codes by messageID, for at least `ttl_s`, within `max_bytes`."""

    def __init__(self, ttl_s: float, max_bytes: int, *, buckets: int = _BUCKETS) -> None:
        """`buckets`: a power of two."""
        assert buckets & (buckets - 1) == 0, buckets
        self._buckets = buckets
        self._mask = buckets - 1
        self._newest_of = _none_by_slot()  # records by slot
        self._oldest_of = _none_by_slot()
        self._eras = bytearray(SLOT_COUNT)  # by slot
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self._age_s = 0.0  # of the newest generation
        self._last_now: float | None = None
        self._newest: _Buckets = [None] * buckets
        self._oldest: _Buckets = [None] * buckets
        self._expired: list[_Buckets] = []  # generations forgotten, being freed
        self._newest_count = self._oldest_count = 0
        self._newest_bytes = self._oldest_bytes = 0
        self._check_at_bytes = 0  # when the newest generation has grown to this, `full` is decided anew
        self.full = False

    def get(self, message_id: bytes) -> int | None:
        """The error code remembered for a messageID; None when there is none."""
        number = hash(message_id) & self._mask
        bucket = self._newest[number]
        if bucket is not None and bucket.find(message_id) >= 0:
            at = self._find(bucket, message_id)
            if at >= 0:
                return bucket[at + len(message_id) + 3]
        bucket = self._oldest[number]
        if bucket is not None and bucket.find(message_id) >= 0:
            at = self._find(bucket, message_id)
            if at >= 0:
                return bucket[at + len(message_id) + 3]
        return None

    def _find(self, bucket: bytearray, message_id: bytes) -> int:
        """Where the record of a messageID starts in a bucket; -1 when the bytes are there but no such record."""
        length = len(message_id)
        at = 0
        while at < len(bucket):
            end = at + 1 + bucket[at]
            if (
                bucket[at] == length
                and bucket.startswith(message_id, at + 1)
                and bucket[end + 1] == self._eras[bucket[end]]
            ):
                return at
            at = end + 3
        return -1

    def add(self, message_id: bytes, slot: int, code: int) -> None:
        """Remember the error code of a messageID (1 to 64 bytes) that is not remembered yet, or not with this slot.

        To be called only while `full` is false.
        """
        number = hash(message_id) & self._mask
        bucket = self._newest[number]
        if bucket is None:
            bucket = self._newest[number] = bytearray()
            self._newest_bytes += _BUCKET_BYTES
        length = len(message_id)
        bucket += b"%c%b%c%c%c" % (length, message_id, slot, self._eras[slot], code)
        self._newest_count += 1
        self._newest_of[slot] += 1
        self._newest_bytes += length + _RECORD_BYTES
        if self._newest_bytes >= self._check_at_bytes:
            self._check()

    def forget(self, message_id: bytes) -> bool:
        """Forget a reply whose receiver has acknowledged it, with whatever slots; False when there was none."""
        number = hash(message_id) & self._mask
        size = len(message_id) + _RECORD_BYTES
        forgot = False
        for buckets in (self._newest, self._oldest):
            bucket = buckets[number]
            while bucket is not None and bucket.find(message_id) >= 0 and (at := self._find(bucket, message_id)) >= 0:
                slot = bucket[at + size - 3]
                del bucket[at : at + size]
                if buckets is self._newest:
                    self._newest_of[slot] -= 1
                    self._newest_count -= 1
                    self._newest_bytes -= size
                else:
                    self._oldest_of[slot] -= 1
                    self._oldest_count -= 1
                    self._oldest_bytes -= size
                forgot = True
        if forgot:
            self._check()
        return forgot

    def clear(self) -> None:
        """Forget everything: what the replies speak of is gone from this node. Freed little by little."""
        if self._oldest_bytes:
            self._expire(self._oldest)
        if self._newest_bytes:
            self._expire(self._newest)
        self._newest = [None] * self._buckets
        self._oldest = [None] * self._buckets
        self._newest_of = _none_by_slot()
        self._oldest_of = _none_by_slot()
        self._newest_count = self._oldest_count = 0
        self._newest_bytes = self._oldest_bytes = 0
        self._check()

    def advance(self, now: float) -> None:
        """Let time pass up to `now` (monotonic seconds); to be called several times a second."""
        if self._last_now is not None:
            self._age_s += min(max(0.0, now - self._last_now), _ADVANCE_MAX_S)
        self._last_now = now
        if self._expired:
            del self._expired[-1][-self._buckets // _FREE_SHARE :]
            if not self._expired[-1]:
                self._expired.pop()
        if self._age_s >= self.ttl_s:
            self._age_s = 0.0
            self._expire(self._oldest)
            self._oldest = self._newest
            self._newest = [None] * self._buckets
            self._oldest_of, self._newest_of = self._newest_of, _none_by_slot()
            self._oldest_count, self._newest_count = self._newest_count, 0
            self._oldest_bytes, self._newest_bytes = self._newest_bytes, 0
            self._check()

    def _expire(self, buckets: _Buckets) -> None:
        self._expired.append(buckets)
        del self._expired[:-_EXPIRED_MAX]

    def _check(self) -> None:
        self.full = self.used_bytes >= self.max_bytes
        self._check_at_bytes = self._newest_bytes + _CHECK_BYTES

    @property
    def used_bytes(self) -> int:
        """What the remembered replies cost, buckets included."""
        used = self._newest_bytes + self._oldest_bytes
        return used + used // _GROWTH_SHARE

    @property
    def expiring_bytes(self) -> int:
        """Of generations that have expired: about what is still to be freed."""
        return sum(sum(map(len, filter(None, buckets))) + 8 * len(buckets) for buckets in self._expired)

    @property
    def wait_ms(self) -> int:
        """How long until there is room again: the honest wait for a client refused while `full`.

        Until the older generation expires; or, when the newer one fills the memory alone, until that does.
        """
        left_s = self.ttl_s - self._age_s
        if self._newest_bytes + self._newest_bytes // _GROWTH_SHARE >= self.max_bytes:
            left_s += self.ttl_s
        return max(1, round(left_s * 1000))

    def __len__(self) -> int:
        return self._newest_count + self._oldest_count

    # By slot: what copies of a slot need.

    @property
    def bucket_count(self) -> int:
        """How far `scan` can go."""
        return self._buckets

    def has_slot(self, slot: int) -> bool:
        """Whether anything is remembered for the slot."""
        return bool(self._newest_of[slot] or self._oldest_of[slot])

    def slots_of(self, message_id: bytes) -> int:
        """The slots (a mask) that a messageID is remembered with."""
        slots = 0
        number = hash(message_id) & self._mask
        for buckets in (self._newest, self._oldest):
            bucket = buckets[number]
            if bucket is not None and bucket.find(message_id) >= 0:
                at = 0
                while at < len(bucket):
                    end = at + 1 + bucket[at]
                    slot = bucket[end]
                    if bucket[at + 1 : end] == message_id and bucket[end + 1] == self._eras[slot]:
                        slots |= 1 << slot
                    at = end + 3
        return slots

    def scan(self, start: int, count: int, slots: int) -> list[tuple[bytes, int, int]]:
        """The records of these slots (a mask) in `count` buckets from `start` on: messageID, slot, error code.

        Those of the older generation come first, each generation's in order. To see everything, go from bucket 0 to
        `bucket_count`; what is added meanwhile may be missed or not.
        """
        found: list[tuple[bytes, int, int]] = []
        eras = self._eras
        for buckets in (self._oldest, self._newest):
            first = len(found)
            for bucket in buckets[start : start + count]:
                if bucket:
                    at = 0
                    while at < len(bucket):
                        end = at + 1 + bucket[at]
                        slot = bucket[end]
                        if slots >> slot & 1 and bucket[end + 1] == eras[slot]:
                            found.append((bytes(bucket[at + 1 : end]), slot, bucket[end + 2]))
                        at = end + 3
            found[first:] = sorted(found[first:])  # what other nodes are sent does not depend on this process's hash
        return found

    def forget_slots(self, slots: int) -> None:
        """Forget everything that is remembered for these slots (a mask)."""
        if slots == ALL_SLOTS:
            self.clear()
            return
        for slot in range(SLOT_COUNT):
            if slots >> slot & 1 and self.has_slot(slot):
                self._newest_count -= self._newest_of[slot]
                self._oldest_count -= self._oldest_of[slot]
                self._newest_of[slot] = self._oldest_of[slot] = 0
                self._eras[slot] = (self._eras[slot] + 1) % 256
