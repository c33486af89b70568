# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Mutations` of app/storage/mutate.py, which says what it does."""

from libc.stdint cimport uint8_t

from app.fast.replies cimport Memory
from app.fast.store cimport ShortWay

cdef enum:
    # As in app/storage/mutate.py and app/wire/protocol.py.
    SET = 1
    DELETE = 2
    WIPE = 3
    NOTE = 4
    STORE_FULL = 1
    REPLIES_FULL = 2
    STORE_BUSY = 4
    BUSY = 8
    ROOM_WAIT_MS = 50
    BUSY_WAIT_MS = 20
    REPLY_BYTES = 32
    SPEND_BYTES = 4096
    PUT = 1
    REMOVE = 3
    NO_ERR = 0
    KEY_DNE_ERR = 1
    NO_SPC_ERR = 2
    SYS_OVERLOAD_ERR = 3


cdef inline int _remembered(replies, bytes message_id) except -2:
    """The code that is remembered; -1: none."""
    if isinstance(replies, Memory):
        return (<Memory>replies).code_of(message_id)
    code = replies.get(message_id)
    return -1 if code is None else code


cdef inline bint _stored(store, int slot, bytes key, bytes blob) except -1:
    """As the store's `put`."""
    return (<ShortWay>store).stored(slot, key, blob) if isinstance(store, ShortWay) else store.put(slot, key, blob)


cdef class Mutations:
    """See app/storage/mutate.py."""

    def __init__(self, store, replies):
        self._store = store
        self._replies = replies

    def execute(self, int command, int slot, bytes key not None, bytes blob not None, bytes message_id not None,
                int hindrances=0):
        """As the Python's."""
        return self.executed(command, slot, key, blob, message_id, hindrances)

    cdef int executed(self, int command, int slot, bytes key, bytes blob, bytes message_id, int hindrances) except -1000:
        cdef int code
        replies, store = self._replies, self._store
        code = _remembered(replies, message_id)
        if code >= 0:
            return ~code
        if replies.full or hindrances & (REPLIES_FULL | BUSY):
            return self._refused(replies.wait_ms if replies.full else BUSY_WAIT_MS)
        if command == PUT:
            if not hindrances and _stored(store, slot, key, blob):
                code = NO_ERR
            elif store.evicts or store.wiping or hindrances & STORE_BUSY:
                return self._refused(ROOM_WAIT_MS)
            else:
                code = NO_SPC_ERR
        else:
            if command != REMOVE:
                raise AssertionError(command)
            code = NO_ERR if store.remove(slot, key) else KEY_DNE_ERR
        if isinstance(replies, Memory):
            (<Memory>replies).remember(message_id, <uint8_t>slot, <uint8_t>code)
        else:
            replies.add(message_id, slot, code)
        self._unspent_bytes += REPLY_BYTES
        if self._unspent_bytes >= SPEND_BYTES:
            self._spend()
        return code

    cdef int _spend(self) except -1:
        cdef int size_bytes = self._unspent_bytes
        self._unspent_bytes = 0
        self._store.spend(size_bytes)
        return 0

    def wipe(self, slots, bytes message_id not None, int hindrances=0):
        """As the Python's."""
        replies = self._replies
        wiped = replies.slots_of(message_id)
        left = [slot for slot in slots if not wiped >> slot & 1]
        if wiped and not left:
            return ~NO_ERR, []
        if replies.full or hindrances & (REPLIES_FULL | BUSY):
            return self._refused(replies.wait_ms if replies.full else BUSY_WAIT_MS), []
        self._store.wipe(left)
        for slot in left:
            replies.add(message_id, slot, NO_ERR)
        self._unspent_bytes += REPLY_BYTES * <int>len(left)
        self._spend()
        return NO_ERR, left

    cdef int _refused(self, int wait_ms) noexcept:
        self.wait_ms = wait_ms
        return SYS_OVERLOAD_ERR

    def apply(self, int change, int slot, bytes key not None, bytes blob not None):
        """As the Python's."""
        return self.applied(change, slot, key, blob)

    cdef bint applied(self, int change, int slot, bytes key, bytes blob) except -1:
        store = self._store
        if change == SET:
            if not store.put(slot, key, blob):
                if not store.evicts:
                    return False
                store.remove(slot, key)
        elif change == DELETE:
            store.remove(slot, key)
        elif change == WIPE:
            store.wipe((slot,))
        elif change != NOTE:
            raise AssertionError(change)
        return True

    def hindrances(self, reserve_bytes):
        """As the Python's."""
        return self.flags(reserve_bytes)

    cdef int flags(self, object reserve_bytes) except -1:
        cdef int flags = REPLIES_FULL if self._replies.full else 0
        store = self._store
        if not store.evicts and store.room_bytes < reserve_bytes:
            flags |= STORE_BUSY if store.wiping else STORE_FULL
        return flags
