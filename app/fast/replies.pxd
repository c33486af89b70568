# What other compiled modules see of a reply memory.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef struct Cell:
    uint32_t next  # of its bucket, or the next free one: where it is; 0: none
    uint8_t length  # of the messageID
    uint8_t slot
    uint8_t era
    uint8_t code
    uint8_t id[16]  # all of it, or the first 12 bytes and the number of the cell that goes on

cdef struct Generation:
    Cell* cells
    int64_t cells_bytes  # of address space
    uint32_t fresh  # from this one on cells have never been in use; 0: nothing is there yet
    uint32_t free
    uint32_t free_count
    uint32_t records  # those of earlier eras too
    uint32_t count
    uint32_t by_slot[256]

cdef class Memory:
    cdef Generation _generations[16]
    cdef uint32_t _newest
    cdef uint32_t* _heads
    cdef int64_t _heads_bytes  # of address space
    cdef uint32_t _buckets  # 0: nothing is there yet
    cdef uint32_t _mask
    cdef uint32_t _swept
    cdef uint32_t _records  # those of earlier eras too
    cdef int64_t _older_bytes  # used in all generations but the newest
    cdef uint8_t _eras[256]
    cdef readonly uint32_t bucket_count
    cdef public double ttl_s
    cdef public int64_t max_bytes
    cdef double _generation_s
    cdef public double _age_s
    cdef object _last_now
    cdef public bint full

    cdef int code_of(self, bytes message_id) except -2  # -1: it is not remembered
    cdef int remember(self, bytes message_id, uint8_t slot, uint8_t code) except -1

    cdef void _begin_generation(self) noexcept
    cdef void _free_expired(self, int64_t size_bytes) noexcept
