# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Session` and `ShortApplying` of app/cluster/replication/applying.py, which says what they do.

Here an op that sets or deletes an entry of a whole copy is applied; whatever else comes is for WholeApplying.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from app.fast.frames cimport OpHead, made_op, read_op
from app.fast.mutate cimport Mutations
from app.fast.recent cimport Recent, Write
from app.fast.replies cimport Memory

cdef enum:
    # As in the modules named there: tests/fast/test_applying.py holds these against them.
    BODY_MAX_BYTES = 42942  # app/cluster/replication/frames.py
    DELETE = 2  # app/storage/mutate.py
    REPLY_BYTES = 32


cdef class Session:
    """See app/cluster/replication/applying.py."""

    cdef public str primary
    cdef public uint32_t term
    cdef public tuple position
    cdef public bint is_whole
    cdef public object staging

    def __init__(self, str primary not None, uint32_t term, tuple position not None, bint is_whole, staging=None):
        self.primary = primary
        self.term = term
        self.position = position
        self.is_whole = is_whole
        self.staging = staging


cdef class ShortApplying:
    """See app/cluster/replication/applying.py; what its method goes by lies here."""

    cdef public object _shared
    cdef public object _mutations
    cdef public dict sessions
    cdef public dict _unacknowledged

    def apply_ops(self, str peer not None, bytes body not None):
        """As the Python's."""
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(body)
        cdef Py_ssize_t at = 0, end = PyBytes_GET_SIZE(body)
        cdef OpHead head
        cdef set gaps
        cdef int64_t remembered = 0
        cdef int done
        if end > BODY_MAX_BYTES:
            return None
        while at < end:
            if not read_op(start, at, end, &head):
                return None
            at = head.end
        gaps = set()
        shared = self._shared
        view = shared.view
        cdef tuple primaries = view.primaries if view is not None else None
        cdef list positions = shared.positions
        cdef dict noted = None
        cdef type make = self.make_op
        if not issubclass(make, tuple):
            raise TypeError(f"{make} is no tuple")
        at = 0
        while at < end:
            read_op(start, at, end, &head)
            at = head.end
            done = 0
            if head.kind <= DELETE and primaries is not None and primaries[head.slot] == peer:
                done = self._applied(peer, start, &head, positions)
            if done == 0:
                self._take(peer, (made_op(start, &head, make),), gaps)
                continue
            if noted is None:
                noted = self._unacknowledged.setdefault(peer, {})
            noted[head.slot] = None
            remembered += done - 1
        if remembered:
            shared.store.spend(remembered * REPLY_BYTES)
        return gaps

    cdef int _applied(self, str peer, const uint8_t* start, OpHead* head, list positions) except -1:
        """Apply an op that is as most are: 1, or 2 if its reply was remembered; 0, and nothing is done, if it is not."""
        cdef PyObject* found = PyDict_GetItemWithError(self.sessions, head.slot)
        cdef const char* at = <const char*>start + head.id_at
        cdef Session session
        cdef Write* write
        cdef tuple position
        cdef uint64_t before
        cdef bytes message_id, key
        cdef int done = 1
        if found is NULL:
            return 0
        session = <Session?><object>found
        if not session.is_whole or session.staging is not None or session.term != head.term or session.primary != peer:
            return 0
        before = session.position[1]
        if head.seq != before + 1:
            return 0
        message_id = PyBytes_FromStringAndSize(at, head.id_bytes)
        key = PyBytes_FromStringAndSize(at + head.id_bytes, head.key_bytes)
        if not (<Mutations?>self._mutations).applied(
            head.kind, head.slot, key,
            PyBytes_FromStringAndSize(at + head.id_bytes + head.key_bytes, head.blob_bytes),
        ):
            return 0
        if head.id_bytes:
            replies = self._shared.replies
            if isinstance(replies, Memory) and (<Memory>replies).code_of(message_id) < 0:
                (<Memory>replies).remember(message_id, <uint8_t>head.slot, <uint8_t>head.code)
                done = 2
            else:
                self._remember(message_id, head.slot, head.code)
        write = (<Recent?>self._shared.recent).next()
        write.slot, write.kind = <uint8_t>head.slot, <uint8_t>head.kind
        write.before_term, write.before_seq = session.position[0], before
        write.term, write.seq = head.term, head.seq
        write.key_bytes, write.id_bytes = <uint8_t>head.key_bytes, <uint8_t>head.id_bytes
        memcpy(write.names, at + head.id_bytes, head.key_bytes)
        memcpy(write.names + head.key_bytes, at, head.id_bytes)
        position = (head.term, head.seq)
        session.position = position
        positions[head.slot] = position
        return done
