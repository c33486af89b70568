# What other compiled modules see of a reply memory.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef struct Cell:
    uint32_t next  # of its bucket, or the next free one; 0: none
    uint8_t length  # of the messageID
    uint8_t slot
    uint8_t era
    uint8_t code
    uint8_t id[16]  # all of it, or the first 12 bytes and the number of the cell that goes on

cdef struct Generation:
    Cell* cells
    uint32_t* heads
    int64_t cells_bytes  # of address space
    int64_t heads_bytes
    uint32_t fresh  # from this one on cells have never been in use
    uint32_t free
    uint32_t free_count
    uint32_t buckets  # 0: nothing is there yet
    uint32_t mask
    uint32_t records  # those of earlier eras too
    uint32_t count
    uint32_t by_slot[256]

cdef class Memory:
    cdef Generation _newest
    cdef Generation _oldest
    cdef Generation _expired[3]
    cdef int _expired_count
    cdef uint8_t _eras[256]
    cdef readonly uint32_t bucket_count
    cdef public double ttl_s
    cdef public int64_t max_bytes
    cdef public double _age_s
    cdef object _last_now
    cdef public bint full

    cdef int code_of(self, bytes message_id) except -2  # -1: it is not remembered
    cdef int remember(self, bytes message_id, uint8_t slot, uint8_t code) except -1

    cdef Cell* _find(self, Generation* generation, bytes message_id) noexcept
    cdef bint _forget_in(self, Generation* generation, bytes message_id) noexcept
    cdef object _slots_in(self, Generation* generation, bytes message_id)
    cdef list _scan_in(self, Generation* generation, uint32_t start, uint32_t end, bytes wanted)
    cdef void _expire(self, Generation* generation) noexcept
    cdef int64_t _used(self) noexcept
