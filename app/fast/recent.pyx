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
    WIPE = 3  # as in app/storage/mutate.py
    BLOCK = 512  # records
    KEY_MAX_BYTES = 32
    ID_MAX_BYTES = 64

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

    def walk(self, dict at not None):
        """As the Python's: the latest first."""
        cdef Py_ssize_t place = self._next, left
        cdef Write* write
        cdef list found = []
        for left in range(self._length):
            place = (place if place else self._count) - 1
            write = self._at(place)
            position = at.get(write.slot)
            if position is None or position != (write.term, write.seq):
                continue
            if write.kind == WIPE:
                del at[write.slot]
                continue
            before = at[write.slot] = (write.before_term, write.before_seq)
            found.append((
                write.slot,
                before,
                PyBytes_FromStringAndSize(<char*> write.names, write.key_bytes),
                PyBytes_FromStringAndSize(<char*> write.names + write.key_bytes, write.id_bytes),
            ))
        return found

    def clear(self):
        """As the Python's."""
        self._next = self._length = 0
