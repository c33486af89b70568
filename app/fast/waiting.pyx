# cython: language_level=3, binding=False
"""What app/requests/waiting.py says of Waiting and Kept, compiled: read that for what they do."""

from libc.stdint cimport int64_t

# As app/requests/waiting.py says; a test holds the two together.
cpdef enum:
    SPEND_BYTES = 64 * 1024


cdef class Waiting:
    def __init__(self, int64_t max_count, int64_t max_bytes, spend):
        self._max_count, self._max_bytes, self._spend = max_count, max_bytes, spend
        self.full = max_count <= 0

    cdef int enter(self, int64_t kept_bytes) except -1:
        cdef int64_t grown
        if self.full:
            raise AssertionError(f"{self.count} requests wait already")
        self.count += 1
        self.kept_bytes += kept_bytes
        grown = self.kept_bytes - self._spent_bytes
        if grown >= SPEND_BYTES:
            self._spend(grown)
            self._spent_bytes += grown
        if self.count >= self._max_count or self.kept_bytes >= self._max_bytes:
            self.full = True
        return 0

    cdef void leave(self, int64_t kept_bytes):
        self.count -= 1
        self.kept_bytes -= kept_bytes
        self.full = self.kept_bytes >= self._max_bytes

    def add(self, int64_t kept_bytes):
        self.enter(kept_bytes)

    def remove(self, int64_t kept_bytes):
        self.leave(kept_bytes)

    def look(self):
        self._spent_bytes = min(self._spent_bytes, self.kept_bytes)


cdef class Kept:
    cdef void take_over(self, Kept other):
        self.client, self.peer, self.hops = other.client, other.peer, other.hops
        self.asked_at = other.asked_at
        self.deadline_s, self.received_s = other.deadline_s, other.received_s

    def answer_to(self, Kept other not None):
        self.take_over(other)
