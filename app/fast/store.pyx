"""What stands in for `ShortWay` of app/storage/store.py: GET, PUT and REMOVE where slot and arena are compiled, too.

Everything else is `WholeStore`'s: what is not ordinary, and slots of many entries.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from app.fast.arena cimport Arena
from app.fast.slots cimport Table
from app.fast.slots import Slot

cdef enum:
    SLOT_COUNT = 256


cdef object _SLOT = Slot


cdef inline Py_ssize_t _length(slot) except -1:
    return (<Table> slot)._length if type(slot) is _SLOT else len(slot)


cdef inline int64_t _popped(slot) except -2:
    """The handle of a slot's least recently used entry, which it has no more."""
    return (<Table> slot).pop_oldest() if type(slot) is _SLOT else slot.popitem()[1]


cdef class ShortWay:
    """See app/storage/store.py; the numbers that its methods change lie here."""

    cdef Table _table(self, Py_ssize_t number):
        """A slot that is one table whose handles are the arena's; None: it is another."""
        slot = self._slots[number]
        return <Table> slot if type(slot) is _SLOT and type(self._arena) is Arena else None

    def get(self, Py_ssize_t number, bytes key not None):
        """As WholeStore's."""
        return self.found(number, key)

    cdef bytes found(self, Py_ssize_t number, bytes key):
        cdef Table table = self._table(number)
        cdef int64_t handle
        if table is None:
            return super(ShortWay, self).get(number, key)
        handle = table.take(key)
        return None if handle < 0 else (<Arena> self._arena).read_blob(handle)

    def put(self, Py_ssize_t number, bytes key not None, bytes blob not None):
        """As WholeStore's."""
        return self.stored(number, key, blob)

    cdef bint stored(self, Py_ssize_t number, bytes key, bytes blob) except -1:
        cdef Table table = self._table(number)
        cdef Arena arena
        cdef int64_t handle, replaced, work = 0
        if table is None:
            return super(ShortWay, self).put(number, key, blob)
        arena = <Arena> self._arena
        handle = table.take(key)
        if handle >= 0:
            replaced = arena.replace_blob(
                handle, PyBytes_GET_SIZE(key), PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob), False
            )
            if replaced < 0:
                return self._put_resized(number, key, blob)
            if replaced != handle:
                table.change(key, replaced)
            return True
        self.allowance_bytes -= self.entry_heap_bytes
        if self.allowance_bytes < 0:
            work = self._look()
        if self.heap_full and not self._exchange():
            return False
        if not table.room:
            return self._put_growing(number, key, blob, work)
        handle = arena.store_record(
            PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob)
        )
        if handle < 0:
            handle = self._evicting(arena, key, blob, work)
            if handle < 0:
                return False
        table.add(key, handle)
        self.entries += 1
        return True

    def remove(self, Py_ssize_t number, bytes key not None):
        """As WholeStore's."""
        cdef Table table = self._table(number)
        cdef int64_t handle
        if table is None:
            return super().remove(number, key)
        handle = table.remove(key)
        if handle < 0:
            return False
        (<Arena> self._arena).free_record(handle)
        self.entries -= 1
        return True

    cdef int64_t _evicting(self, Arena arena, bytes key, bytes blob, int64_t work) except -2:
        """As WholeStore._store_evicting."""
        cdef int64_t oldest = -1, taken
        if self.evicts and self.entries and not self._wiped_records and arena.free_chunk_bytes <= self.compact_bytes:
            oldest = self._oldest()
            taken = arena.take_chunk_over(
                oldest, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob)
            )
            if taken >= 0:
                return taken
        return self._store_making_room(key, blob, oldest, work)

    def _pop_oldest(self):
        """As WholeStore's."""
        return self._oldest()

    cdef int64_t _oldest(self) except -2:
        cdef Py_ssize_t hand = self._hand
        cdef Py_ssize_t size = 0, other
        self.entries -= 1
        self.evictions += 1
        if self._turns and _length(self._victim):
            self._turns -= 1
            return _popped(self._victim)
        slot = None
        while not size:
            slot = self._slots[hand]
            size = _length(slot)
            hand = (hand + 1) % SLOT_COUNT
            following = self._slots[hand]
            other = _length(following)
            if other > size:
                slot = following
                size = other
        self._hand = hand
        if size * (SLOT_COUNT // 2) > self.entries:
            self._victim = slot
            self._turns = size * SLOT_COUNT // (self.entries + 1) - 1
        return _popped(slot)
