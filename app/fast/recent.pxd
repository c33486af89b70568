# What other compiled modules see of the last writes.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Write:
    uint64_t before_seq
    uint64_t seq
    uint32_t before_term
    uint32_t term
    uint8_t slot
    uint8_t kind
    uint8_t key_bytes
    uint8_t id_bytes
    uint8_t names[100]  # the key, and behind it the messageID

cdef struct Spot:
    # Where a walk back has come to in a slot.
    uint64_t seq
    uint32_t term
    bint is_over

cdef class Recent:
    cdef object _spend
    cdef Py_ssize_t _count  # how many are kept
    cdef Py_ssize_t _next  # the place of the next one
    cdef Py_ssize_t _length
    cdef Py_ssize_t _settled
    cdef Write** _blocks

    cdef Write* _at(self, Py_ssize_t place) noexcept
    cdef Write* next(self) except NULL  # the place of one more, to be filled in
    cdef Write* _back(self, Spot* spots, Py_ssize_t* left) noexcept
