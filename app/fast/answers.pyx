# cython: language_level=3, wraparound=False, binding=False
"""What stands in for `ShortAnswers` of app/requests/answers.py: answers delivered to peers, and to clients whose rate
is not limited and for whom it was not slow. Everything else is `WholeAnswers`'."""

from app.fast.waiting cimport Kept


cdef class ShortAnswers:
    """See app/requests/answers.py."""

    def deliver(self, Kept request not None, bytes reply not None):
        """As WholeAnswers'."""
        self.bring(request, reply)

    cdef int bring(self, Kept request, bytes reply) except -1:
        cdef double now_s, duration_s
        if not len(request.client):
            return self.gather(request.peer, reply)
        now_s = self._now()
        duration_s = now_s - request.received_s
        if <double>self._rate.limits_until_s > now_s or duration_s >= <double>self._slow_log.threshold_s:
            super(ShortAnswers, self).deliver(request, reply)
            return 0
        self._outbox.send(request.client, reply, request.asked_at)
        self._count(request.how, duration_s)
        if not self._turn.is_ending:
            self._turn.wake()
        return 0

    cdef int _count(self, str how, double duration_s) except -1:
        """One more answer took so long."""
        cdef object latency = self._latency[how]
        cdef tuple edges_s = latency.edges_s
        cdef list counts = latency.counts
        cdef Py_ssize_t place = 0, beyond = min(len(edges_s), len(counts) - 1), middle
        while place < beyond:
            middle = (place + beyond) // 2
            if <double>edges_s[middle] < duration_s:
                place = middle + 1
            else:
                beyond = middle
        counts[place] += 1
        latency.total_s += duration_s
        return 0

    def to_peer(self, str peer not None, bytes reply not None):
        """As WholeAnswers'."""
        self.gather(peer, reply)

    cdef int gather(self, str peer, bytes reply) except -1:
        cdef list replies = self._for_peers.get(peer)
        if replies is None:
            replies = self._for_peers[peer] = []
            self._turn.wake()
        replies.append(reply)
        return 0
