# What other compiled modules see of mutations.

cdef class Mutations:
    cdef public object _store
    cdef public object _replies
    cdef public int wait_ms
    cdef int _unspent_bytes

    cdef int _spend(self) except -1

    cdef int _refused(self, int wait_ms) noexcept
    cdef int executed(self, int command, int slot, bytes key, bytes blob, bytes message_id, int hindrances) except -1000
    cdef int flags(self, object reserve_bytes) except -1
    cdef bint applied(self, int change, int slot, bytes key, bytes blob) except -1
