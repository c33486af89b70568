# cython: language_level=3, wraparound=False, binding=False
"""What app/requests/replicator.py says of Waiter, compiled, and what stands in for its `ShortReplicator`: writes that
come, and the answers to those who have waited. Everything else is `WholeReplicator`'s."""

from libc.stdint cimport int64_t, uint32_t

from app.fast.answers cimport ShortAnswers
from app.fast.codec import encode_error
from app.fast.waiting cimport Kept, Waiting

# As the Python says; a test holds the two together.
cpdef enum:
    IN_FLIGHT_BYTES = 512
    WAITS = -100
    NO_ANSWER = -2

cdef str _REPLICATED = "replicated"
cdef str _WAITED = "waited"
REPLICATED, WAITED = _REPLICATED, _WAITED  # for the tests


cdef class Waiter(Kept):
    cdef public int command
    cdef public uint32_t id_crc
    cdef public bytes message_id
    cdef public bytes reply

    def __init__(self, Kept request not None, int command, bytes message_id not None, uint32_t id_crc,
                 bytes reply not None=b""):
        self.datagram = request.datagram
        self.take_over(request)
        self.is_uncertain = request.is_uncertain
        self.how = _WAITED if len(reply) else _REPLICATED
        self.command = command
        self.message_id = message_id
        self.id_crc = id_crc
        self.reply = reply

    @property
    def kept_bytes(self):
        return self.size()

    cdef inline int64_t size(self) except -1:
        return IN_FLIGHT_BYTES + 2 * len(self.datagram) + len(self.reply)


cdef class ShortReplicator:
    """See app/requests/replicator.py."""

    cdef public object _replication
    cdef public object _turn
    cdef public object _waiting
    cdef public object _answers
    cdef public dict _waiters
    cdef public bint _is_due

    def mutate(self, request, int command, bytes message_id not None, uint32_t id_crc, int slot, bytes key not None,
               bytes blob not None):
        """As WholeReplicator's."""
        cdef Waiter waiter
        request.keep()
        waiter = Waiter(request, command, message_id, id_crc)
        code = self._replication.execute(command, slot, key, blob, message_id, waiter, not self._waiting.full)
        self._is_due = True
        if not self._turn.is_ending:
            self._turn.wake()
        if code != WAITS:
            return self._outcome(waiter, code)
        self.enter(waiter)
        return NO_ANSWER

    cdef int enter(self, Waiter waiter) except -1:
        waiting = self._waiting
        if isinstance(waiting, Waiting):
            (<Waiting>waiting).enter(waiter.size())
        else:
            waiting.add(waiter.size())
        self._waiters[waiter] = None
        return 0

    cdef int take(self, Waiter waiter) except -1:
        waiting = self._waiting
        del self._waiters[waiter]
        if isinstance(waiting, Waiting):
            (<Waiting>waiting).leave(waiter.size())
        else:
            waiting.remove(waiter.size())
        return 0

    def _release(self, list released not None):
        """As WholeReplicator's."""
        cdef Waiter waiter
        answers = self._answers
        cdef list counts = answers._counts
        cdef int place, code
        cdef bytes reply
        for each, told in released:
            if each not in self._waiters:
                continue
            waiter = each
            self.take(waiter)
            reply = waiter.reply
            if not len(reply):
                code = told
                place = waiter.command * 8 + code
                counts[place] += 1
                reply = encode_error(waiter.message_id, waiter.id_crc, code)
            if isinstance(answers, ShortAnswers):
                (<ShortAnswers>answers).bring(waiter, reply)
            else:
                answers.deliver(waiter, reply)
