# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Recent` of app/cluster/replication/recent.py, which says what it does.

What differs is the memory: a ring of records of 128 bytes, in blocks that are taken as the first writes come.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cdef enum:
    RECENT_MAX = 16_384  # as in app/cluster/replication/recent.py
    STRETCHES_MAX = 4  # as in app/cluster/replication/frames.py
    WIPE = 3  # as in app/storage/mutate.py
    SLOT_COUNT = 256  # as in app/wire/protocol.py
    BLOCK = 512  # records
    KEY_MAX_BYTES = 32
    ID_MAX_BYTES = 64

cdef struct Bounds:
    # Of a stretch.
    uint64_t first
    uint64_t last
    uint32_t term


cdef int _place(Spot* spots, dict at) except -1:
    """Spots at these positions, by slot; in all other slots the walk is over."""
    cdef int slot
    for slot in range(SLOT_COUNT):
        spots[slot].is_over = True
    for slot in at:
        if not 0 <= slot < SLOT_COUNT:
            raise IndexError(f"slot {slot}")
        spots[slot].term, spots[slot].seq = at[slot]
        spots[slot].is_over = False
    return 0


cdef bint _is_at(Spot* spot, Spot* other) noexcept:
    return spot.seq == other.seq and spot.term == other.term


cdef bint _lies_in(uint32_t term, uint64_t seq, Bounds* bounds, int count) noexcept:
    cdef int number
    for number in range(count):
        if bounds[number].term == term and bounds[number].first <= seq <= bounds[number].last:
            return True
    return False


cdef class Recent:
    """See app/cluster/replication/recent.py."""

    record_bytes = sizeof(Write)

    def __init__(self, spend, Py_ssize_t count=RECENT_MAX):
        if self._blocks is not NULL or count <= 0:
            raise AssertionError(f"made twice, or of {count}")
        self._blocks = <Write**> calloc((count + BLOCK - 1) // BLOCK, sizeof(Write*))
        if self._blocks is NULL:
            raise MemoryError
        self._spend = spend
        self._count = count

    def __dealloc__(self):
        cdef Py_ssize_t number
        if self._blocks is not NULL:
            for number in range((self._count + BLOCK - 1) // BLOCK):
                free(self._blocks[number])
            free(self._blocks)

    cdef Write* _at(self, Py_ssize_t place) noexcept:
        return &self._blocks[place // BLOCK][place % BLOCK]

    cdef Write* next(self) except NULL:
        """The place of one more, which counts from now on: to be filled in."""
        cdef Py_ssize_t place = self._next
        if self._blocks[place // BLOCK] is NULL:
            self._blocks[place // BLOCK] = <Write*> malloc(BLOCK * sizeof(Write))
            if self._blocks[place // BLOCK] is NULL:
                raise MemoryError
        self._next = place + 1 if place + 1 < self._count else 0
        if self._length < self._count:
            self._length += 1
        return self._at(place)

    def note(self, tuple op not None):
        """As the Python's."""
        cdef uint8_t slot, kind
        cdef bytes key, message_id
        cdef uint32_t before_term, term
        cdef uint64_t before_seq, seq
        cdef Write* write
        slot, kind, (before_term, before_seq), (term, seq), key, message_id = op
        if PyBytes_GET_SIZE(key) > KEY_MAX_BYTES or PyBytes_GET_SIZE(message_id) > ID_MAX_BYTES:
            raise OverflowError(f"a key of {len(key)} bytes and a messageID of {len(message_id)}")
        write = self.next()
        write.slot, write.kind = slot, kind
        write.before_term, write.before_seq, write.term, write.seq = before_term, before_seq, term, seq
        write.key_bytes, write.id_bytes = <uint8_t> PyBytes_GET_SIZE(key), <uint8_t> PyBytes_GET_SIZE(message_id)
        memcpy(write.names, PyBytes_AS_STRING(key), write.key_bytes)
        memcpy(write.names + write.key_bytes, PyBytes_AS_STRING(message_id), write.id_bytes)

    def settle(self):
        """As the Python's."""
        if self._length > self._settled:
            self._spend((self._length - self._settled) * sizeof(Write))
            self._settled = self._length

    def stretches(self, dict at not None):
        """As the Python's."""
        cdef Spot spots[SLOT_COUNT]
        cdef uint64_t first[SLOT_COUNT]
        cdef uint64_t last[SLOT_COUNT]
        cdef uint32_t terms[SLOT_COUNT]
        cdef Py_ssize_t left = self._length
        cdef int slot
        cdef Write* write
        cdef list stretches
        cdef dict found = {}
        _place(spots, at)
        for slot in at:
            found[slot] = []
            terms[slot], first[slot], last[slot] = spots[slot].term, spots[slot].seq, spots[slot].seq
        while (write := self._back(spots, &left)) is not NULL:
            slot = write.slot
            if write.before_term == terms[slot]:
                first[slot] = write.before_seq
                continue
            stretches = found[slot]
            stretches.append((terms[slot], first[slot], last[slot]))
            terms[slot], first[slot], last[slot] = write.before_term, write.before_seq, write.before_seq
            if len(stretches) == STRETCHES_MAX:
                spots[slot].is_over = True
        for slot in at:
            stretches = found[slot]
            if len(stretches) < STRETCHES_MAX:
                stretches.append((terms[slot], first[slot], last[slot]))
        return found

    def met(self, dict at not None, dict others not None):
        """As the Python's."""
        cdef Spot spots[SLOT_COUNT]
        cdef Bounds bounds[SLOT_COUNT][STRETCHES_MAX]
        cdef int counts[SLOT_COUNT]
        cdef Py_ssize_t left = self._length
        cdef int slot, number
        cdef Write* write
        cdef dict found = {}
        _place(spots, at)
        for slot in at:
            stretches = others[slot]
            counts[slot] = len(stretches)
            if counts[slot] > STRETCHES_MAX:
                raise ValueError(f"slot {slot}: {len(stretches)} stretches")
            for number in range(counts[slot]):
                bounds[slot][number].term, bounds[slot][number].first, bounds[slot][number].last = stretches[number]
            if _lies_in(spots[slot].term, spots[slot].seq, bounds[slot], counts[slot]):
                found[slot] = at[slot]
                spots[slot].is_over = True
        while (write := self._back(spots, &left)) is not NULL:
            slot = write.slot
            if _lies_in(write.before_term, write.before_seq, bounds[slot], counts[slot]):
                found[slot] = (write.before_term, write.before_seq)
                spots[slot].is_over = True
        return found

    def since(self, dict at not None, dict positions not None):
        """As the Python's, in two walks: names are made of the slots alone of which they are known."""
        cdef Spot spots[SLOT_COUNT]
        cdef Spot ends[SLOT_COUNT]
        cdef Py_ssize_t left = self._length
        cdef int slot
        cdef Write* write
        cdef dict found = {}, keys, message_ids
        _place(spots, at)
        _place(ends, {slot: positions[slot] for slot in at})
        for slot in at:
            if _is_at(&spots[slot], &ends[slot]):
                found[slot] = ({}, {})
                spots[slot].is_over = True
        while (write := self._back(spots, &left)) is not NULL:
            slot = write.slot
            if _is_at(&spots[slot], &ends[slot]):
                found[slot] = ({}, {})
                spots[slot].is_over = True
        left = self._length
        _place(spots, {slot: at[slot] for slot in found if at[slot] != positions[slot]})
        while (write := self._back(spots, &left)) is not NULL:
            slot = write.slot
            keys, message_ids = found[slot]
            if write.key_bytes:
                keys[PyBytes_FromStringAndSize(<char*> write.names, write.key_bytes)] = None
            if write.id_bytes:
                message_ids[PyBytes_FromStringAndSize(<char*> write.names + write.key_bytes, write.id_bytes)] = None
            spots[slot].is_over = _is_at(&spots[slot], &ends[slot])
        for slot in found:
            keys, message_ids = found[slot]
            found[slot] = (list(keys), list(message_ids))
        return found

    cdef Write* _back(self, Spot* spots, Py_ssize_t* left) noexcept:
        """The latest write of the `left` first ones that led to one of the spots, which is now where it was before;
        NULL: there is none."""
        cdef Spot* spot
        cdef Write* write
        while left[0]:
            left[0] -= 1
            write = self._at((self._next + self._count - self._length + left[0]) % self._count)
            spot = &spots[write.slot]
            if spot.is_over or write.seq != spot.seq or write.term != spot.term:
                continue
            if write.kind != WIPE:
                spot.term, spot.seq = write.before_term, write.before_seq
                return write
            spot.is_over = True
        return NULL

    def clear(self):
        """As the Python's."""
        self._next = self._length = 0
