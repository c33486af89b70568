# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Writes` of app/cluster/replication/writes.py, which says what it does."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from app.fast.frames cimport laid_op, number_at
from app.fast.led cimport Led, Op, Outbox, Progress
from app.fast.mutate cimport Mutations
from app.fast.recent cimport Recent, Write

cdef enum:
    # As in the modules named there: tests/fast/test_writes.py holds these against them.
    PENDING_MAX = 4096  # app/cluster/replication/writes.py
    PENDING_MAX_BYTES = 4 * 1024 * 1024
    WAITERS_MAX = 8
    WAITS = -100
    IGNORED = -101
    SLOT_COUNT = 256  # app/wire/protocol.py
    REMOVE = 3
    NO_ERR = 0
    NO_SPC_ERR = 2
    SYS_OVERLOAD_ERR = 3
    SET = 1  # app/storage/mutate.py
    DELETE = 2
    WIPE = 3
    NOTE = 4
    BUSY = 8
    HINDRANCES = 7
    POSITION_BYTES = 13  # app/cluster/replication/frames.py
    KEY_MAX_BYTES = 32
    MESSAGE_ID_MAX_BYTES = 64

cdef uint32_t TERM_MAX = 0xFFFFFFFE
cdef uint64_t SEQ_MAX = 0x7FFFFFFFFFFFFFFF


cdef inline object _got(dict table, object key):
    """What a dict has under a key, or None."""
    cdef PyObject* found = PyDict_GetItemWithError(table, key)
    return None if found is NULL else <object>found


cdef class Writes:
    """See app/cluster/replication/writes.py."""

    cdef public object _shared
    cdef public list _positions
    cdef public object _recent
    cdef public object _mutations
    cdef public dict led
    cdef public list followed
    cdef public dict unacked
    cdef public dict unreleased
    cdef public int64_t pending_bytes
    cdef public int64_t pending
    cdef public int wait_ms
    cdef public set changed
    cdef public dict _outboxes
    cdef public int64_t _backlog_max_bytes
    cdef public int64_t pending_max
    cdef public int64_t pending_max_bytes

    def __init__(self, shared, int64_t backlog_max_bytes=PENDING_MAX_BYTES):
        self._shared = shared
        self._positions = shared.positions
        self._recent = shared.recent
        self._mutations = shared.mutations
        self.led = {}
        self.followed = [None] * SLOT_COUNT
        self.unacked = {}
        self.unreleased = {}
        self.changed = set()
        self._outboxes = {}
        self._backlog_max_bytes = backlog_max_bytes
        self.pending_max, self.pending_max_bytes = PENDING_MAX, PENDING_MAX_BYTES

    # Requests.

    def execute(self, int command, Py_ssize_t slot, bytes key not None, bytes blob not None, bytes message_id not None,
                waiter, bint may_wait=True):
        """As the Python's."""
        cdef int code, change, hindrances
        cdef Led led
        cdef Op op
        waiting = _got(self.unreleased, message_id)
        if waiting is not None:
            return self.joins(waiting, waiter) if may_wait else IGNORED
        if not 0 <= slot < SLOT_COUNT:
            raise IndexError(f"slot {slot}")
        led = self.followed[slot]
        if led is None:
            raise AssertionError(f"slot {slot} has no followers")
        if not led.is_open:
            raise AssertionError(f"slot {slot} is not open")
        hindrances = self._refuses(led)
        if not may_wait or self.pending >= self.pending_max or self.pending_bytes >= self.pending_max_bytes:
            hindrances |= BUSY
        code = (<Mutations?>self._mutations).executed(command, <int>slot, key, blob, message_id, hindrances)
        if code < 0:
            return code
        if code == SYS_OVERLOAD_ERR:
            self.wait_ms = (<Mutations>self._mutations).wait_ms
            return code
        change = DELETE if command == REMOVE else NOTE if code == NO_SPC_ERR else SET
        op = self._order(led, change, b"" if change == NOTE else key, blob if change == SET else b"", message_id, code)
        if op is None:
            return code
        self.unreleased[message_id] = op
        op.waiters.append(waiter)
        return WAITS

    def joins(self, waiting, waiter):
        """As the Python's."""
        if len(waiting.waiters) >= WAITERS_MAX:
            return IGNORED
        waiting.waiters.append(waiter)
        return WAITS

    def busy(self, bint may_wait):
        """As the Python's."""
        if may_wait and self.pending < self.pending_max and self.pending_bytes < self.pending_max_bytes:
            return 0
        return BUSY

    def refuses(self, Led led not None):
        """As the Python's."""
        return self._refuses(led)

    cdef int _refuses(self, Led led) except -1:
        cdef int flags = (<Mutations?>self._mutations).flags(self._shared.reserve_bytes)
        for peer in led.required:
            flags |= (<Progress?>led.progress[peer]).outbox.flags
        return flags

    def hold_read(self, bytes key not None, waiter):
        """As the Python's."""
        cdef Op op = self.unacked[key]
        if op.readers is None:
            op.readers = []
        elif len(op.readers) >= self.pending_max:
            return False
        op.readers.append(waiter)
        return True

    # Order.

    def order(self, Led led not None, int kind, bytes key not None, bytes blob not None, bytes message_id not None,
              int code):
        """As the Python's."""
        return self._order(led, kind, key, blob, message_id, code)

    cdef Op _order(self, Led led, int kind, bytes key, bytes blob, bytes message_id, int code):
        cdef uint64_t seq = led.seq + 1
        cdef bytes data = laid_op(kind, led.slot, code, message_id, key, led.term, seq, blob)
        cdef Py_ssize_t size_bytes = PyBytes_GET_SIZE(data)
        cdef Progress progress
        cdef Outbox outbox
        cdef Op op
        self._note(led, kind, seq, key, message_id)
        led.seq = seq
        self._positions[led.slot] = (led.term, seq)
        for each in led.progress.values():
            progress = each
            if progress.is_streaming:
                outbox = progress.outbox
                outbox.ops.append(data)
                outbox.size_bytes += size_bytes
                if outbox.size_bytes > self._backlog_max_bytes:
                    outbox.flags |= BUSY
        if not led.required:
            led.committed = seq
            return None
        op = Op(seq, code, message_id, key, data, kind == WIPE)
        led.log.append(op)
        self.pending += 1
        self.pending_bytes += size_bytes
        if PyBytes_GET_SIZE(key):
            self.unacked[key] = op
        if op.wipes:
            led.wipes += 1
            self.changed.add(led.slot)
        return op

    cdef int _note(self, Led led, int kind, uint64_t seq, bytes key, bytes message_id) except -1:
        """Tell those who keep the last writes."""
        cdef tuple before = self._positions[led.slot] or led.base
        cdef uint32_t before_term = before[0]
        cdef uint64_t before_seq = before[1]
        cdef Py_ssize_t key_bytes = PyBytes_GET_SIZE(key), id_bytes = PyBytes_GET_SIZE(message_id)
        cdef Write* write
        if key_bytes > KEY_MAX_BYTES or id_bytes > MESSAGE_ID_MAX_BYTES:
            raise OverflowError(f"a key of {key_bytes} bytes and a messageID of {id_bytes}")
        write = (<Recent?>self._recent).next()
        write.slot, write.kind = <uint8_t>led.slot, <uint8_t>kind
        write.before_term, write.before_seq, write.term, write.seq = before_term, before_seq, led.term, seq
        write.key_bytes, write.id_bytes = <uint8_t>key_bytes, <uint8_t>id_bytes
        memcpy(write.names, PyBytes_AS_STRING(key), key_bytes)
        memcpy(write.names + key_bytes, PyBytes_AS_STRING(message_id), id_bytes)
        return 0

    # Acknowledgements.

    def acknowledged(self, str peer not None, bytes body not None, set filling not None):
        """As the Python's."""
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(body)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(body), left
        cdef uint32_t term
        cdef uint64_t seq
        cdef Led led
        cdef Progress progress
        cdef Outbox outbox
        if not size or at[0] & ~HINDRANCES:
            return "ACK without sound flags"
        if (size - 1) % POSITION_BYTES or size - 1 > SLOT_COUNT * POSITION_BYTES:
            return f"a table of {size - 1} bytes in rows of {POSITION_BYTES}"
        for left in range(1, size, POSITION_BYTES):
            if number_at(at + left + 1, 4) > TERM_MAX or number_at(at + left + 5, 8) > SEQ_MAX:
                return "ACK of what is no position"
        outbox = self._outboxes[peer]
        outbox.flags = at[0] | outbox.flags & BUSY
        for left in range(1, size, POSITION_BYTES):
            slot = <object><int>at[left]
            term, seq = <uint32_t>number_at(at + left + 1, 4), number_at(at + left + 5, 8)
            led = _got(self.led, slot)
            progress = _got(led.progress, peer) if led is not None else None
            if progress is None or led.term != term or not progress.is_streaming:
                continue
            if seq > led.seq:
                return f"slot {slot}: has {seq} of {led.seq}"
            if filling and slot in filling:
                continue
            if <int64_t>seq > progress.acked:
                progress.acked = <int64_t>seq
            if peer in led.required:
                self._advanced(led)
            else:
                self._consider(led, peer)
        return None

    def _advance(self, Led led not None):
        """As the Python's."""
        self._advanced(led)

    cdef int _advanced(self, Led led) except -1:
        cdef int64_t acked = <int64_t>led.seq
        cdef bint opens = False
        cdef Op op
        for peer in led.required:
            acked = min(acked, (<Progress?>led.progress[peer]).acked)
        if not led.is_open and acked >= led.base[1]:
            led.is_open = True
            self.changed.add(led.slot)
            opens = True
        if acked > <int64_t>led.committed:
            led.committed = <uint64_t>acked
        log = led.log
        while log:
            op = log[0]
            if <int64_t>op.seq > acked:
                break
            log.popleft()
            self._finished(led, op, True)
        if opens:
            for peer in led.progress:
                self._consider(led, peer)
        return 0

    def _finish(self, Led led not None, Op op not None, bint released):
        """As the Python's."""
        self._finished(led, op, released)

    cdef int _finished(self, Led led, Op op, bint released) except -1:
        shared = self._shared
        released = released and shared.now < shared.lease_until
        self.pending -= 1
        self.pending_bytes -= PyBytes_GET_SIZE(op.data)
        if self.pending < 0:
            raise AssertionError(self.pending)
        if _got(self.unacked, op.key) is op:
            del self.unacked[op.key]
        if op.wipes:
            led.wipes -= 1
            self.changed.add(led.slot)
        if _got(self.unreleased, op.message_id) is op:
            del self.unreleased[op.message_id]
        joint = op.joint
        if joint is not None:
            joint.left -= 1
            joint.dropped |= not released
            if not joint.left:
                self.unreleased.pop(op.message_id, None)
                self._answer(shared.out, joint.waiters, op.code, not joint.dropped)
        self._answer(shared.out, op.waiters, op.code, released)
        if op.readers is not None:
            self._answer(shared.out, op.readers, NO_ERR, released)
        return 0

    cdef int _answer(self, out, list waiters, int code, bint released) except -1:
        cdef list told = out.released if released else out.dropped
        for waiter in waiters:
            told.append((waiter, code) if released else waiter)
        return 0
