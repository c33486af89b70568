# What other compiled modules see of a queue of frames.

cdef class FrameQueue:
    cdef object _queues
    cdef public list parts
    cdef public Py_ssize_t queued

    cdef bint add(self, bytes header, bytes body) except -1  # as `put`
    cdef bint _is_taken(self, Py_ssize_t size, Py_ssize_t frames) except -1
