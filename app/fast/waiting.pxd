# What app/requests/answers.py and forwarding.py have compiled reaches into.

from libc.stdint cimport int64_t


cdef class Waiting:
    cdef readonly int64_t count
    cdef readonly int64_t kept_bytes
    cdef readonly bint full
    cdef int64_t _max_count
    cdef int64_t _max_bytes
    cdef int64_t _spent_bytes
    cdef object _spend

    cdef int enter(self, int64_t kept_bytes) except -1
    cdef void leave(self, int64_t kept_bytes)


cdef class Kept:
    cdef public bytes datagram
    cdef public bytes client
    cdef public bytes asked_at
    cdef public str peer
    cdef public int hops
    cdef public double deadline_s
    cdef public double received_s
    cdef public bint is_uncertain
    cdef public str how

    cdef void take_over(self, Kept other)
