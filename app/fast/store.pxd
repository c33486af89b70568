# What other compiled modules see of a store.

from libc.stdint cimport int64_t

from app.fast.arena cimport Arena
from app.fast.slots cimport Table

cdef class ShortWay:
    cdef public object _arena
    cdef public list _slots
    cdef public list _wiped_records
    cdef public object _victim
    cdef public Py_ssize_t _hand
    cdef public int64_t _turns
    cdef public bint evicts
    cdef public bint heap_full
    cdef public int64_t entries
    cdef public int64_t evictions
    cdef public int64_t entry_heap_bytes
    cdef public int64_t allowance_bytes
    cdef public int64_t compact_bytes

    cdef bytes found(self, Py_ssize_t number, bytes key)  # as `get`
    cdef bint stored(self, Py_ssize_t number, bytes key, bytes blob) except -1  # as `put`

    cdef Table _table(self, Py_ssize_t number)
    cdef int64_t _evicting(self, Arena arena, bytes key, bytes blob, int64_t work) except -2
    cdef int64_t _oldest(self) except -2
