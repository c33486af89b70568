# What app/requests/forwarding.py has compiled reaches into.

from app.fast.waiting cimport Kept


cdef class ShortAnswers:
    cdef public object _outbox
    cdef public object _rate
    cdef public object _slow_log
    cdef public object _turn
    cdef public object _now
    cdef public dict _latency
    cdef public dict _for_peers

    cdef int bring(self, Kept request, bytes reply) except -1
    cdef int gather(self, str peer, bytes reply) except -1
    cdef int _count(self, str how, double duration_s) except -1
