# What other compiled modules see of requests that are forwarded.

from libc.stdint cimport int64_t

from app.fast.answers cimport ShortAnswers
from app.fast.waiting cimport Kept, Waiting

cdef class InFlight(Kept):
    cdef public int command
    cdef public int slot
    cdef public bytes message_id
    cdef public bint was_sent
    cdef public str sent_to
    cdef public str sent_over
    cdef public double sent_s

    cdef void fill(self, Kept request)
    cdef void name(self, int command, bytes message_id, int slot)
    cdef int64_t size(self) except -1

cdef class ShortForwarding:
    cdef public object _turn
    cdef public Waiting _waiting
    cdef public ShortAnswers _answers
    cdef public object _links
    cdef public list _routes
    cdef public dict _requests
    cdef public double _clock_share
    cdef public int64_t forwarded
    cdef public int64_t duplicates
    cdef public int64_t abandoned

    cdef object relayed(self, request, int command, bytes message_id, object id_crc, int slot)  # as `relay`
    cdef int pass_on(self, InFlight request) except -1
