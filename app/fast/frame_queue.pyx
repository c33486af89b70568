# cython: language_level=3, wraparound=False, binding=False
"""What app/peers/frame_queue.py says, compiled: read that for what it does."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

# As app/peers/frames.py says; a test holds the two together.
cpdef enum:
    HEADER_BYTES = 5


cdef class FrameQueue:
    def __init__(self, queues):
        self._queues = queues
        self.parts = []
        self.queued = 0

    cdef bint _is_taken(self, Py_ssize_t size, Py_ssize_t frames) except -1:
        """Whether so many bytes more may be queued, which are so many frames; then they are counted."""
        queues = self._queues
        if self.queued + size > <Py_ssize_t>queues.queue_max_bytes:
            queues.full += frames
            return False
        if not self.queued:
            queues.dirty.append(self)
            queues.wake()
        self.queued += size
        return True

    def put(self, bytes header not None, bytes body not None):
        return self.add(header, body)

    cdef bint add(self, bytes header, bytes body) except -1:
        if not self._is_taken(len(header) + len(body), 1):
            return False
        self.parts.append(header)
        self.parts.append(body)
        return True

    def put_all(self, int kind, list bodies not None):
        cdef Py_ssize_t size = 0
        cdef bytes body
        for body in bodies:
            size += HEADER_BYTES + len(body)
        if not 0 <= kind <= 0xFF:
            raise OverflowError(f"a frame of kind {kind}")
        if not self._is_taken(size, len(bodies)):
            return False
        for body in bodies:
            self.parts.append(_header(len(body), kind))
            self.parts.append(body)
        return True


cdef bytes _header(Py_ssize_t length, int kind):
    cdef bytes header = PyBytes_FromStringAndSize(NULL, HEADER_BYTES)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(header)
    cdef int n
    for n in range(4):
        out[n] = (length >> (8 * n)) & 0xFF
    out[4] = <uint8_t>kind
    return header
