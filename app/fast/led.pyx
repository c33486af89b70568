"""What app/cluster/replication/led.py has compiled: same names, same attributes."""

from collections import deque

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef class Op:
    def __init__(self, uint64_t seq, int code, bytes message_id not None, bytes key not None, bytes data not None,
                 bint wipes):
        self.seq = seq
        self.code = code
        self.message_id = message_id
        self.key = key
        self.data = data
        self.wipes = wipes
        self.waiters = []


cdef class Outbox:
    def __init__(self):
        self.ops = []

    def take(self):
        ops, self.ops = self.ops, []
        self.size_bytes = 0
        return ops


cdef class Progress:
    def __init__(self, Outbox outbox not None):
        self.outbox = outbox
        self.acked = -1


cdef class Led:
    def __init__(self, int slot, uint32_t term, tuple base not None):
        self.slot = slot
        self.term = term
        self.base = base
        self.seq = base[1]
        self.committed = base[1]
        self.log = deque()
        self.progress = {}
        self.required = set()

    @property
    def position(self):
        return self.position_at(self.seq)

    def position_at(self, uint64_t seq):
        return self.base if seq == self.base[1] else (self.term, seq)

    def can_resume_from(self, tuple position not None):
        first = self.log[0].seq if self.log else self.seq + 1
        return first - 1 <= position[1] <= self.seq and self.position_at(position[1]) == position
