# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Slot` of app/storage/slots.py, which says what it does.

What differs is the memory. The entries lie in one array of 24 bytes each, linked in their order of use and, by hash, to
others of their place; behind them, in the same block, are the first entries of the places, 4 bytes each and as many.
The array grows by an eighth, and what removals leave is free for new keys at once. Blocks of two pages and more are
mappings of their own, so they grow without a copy beside them, leave no holes in the heap, and go back to the system when
they are freed.

`Slot(records=...)`, as the store makes it, keeps no keys: a handle names a record, and that has the key before it
(app/storage/arena.py). A record must therefore be there for as long as its entry, and its key must be the entry's.
Without that, keys and values are objects of any kind, and it is a cachetools LRUCache in everything, its bound and
sizes included.
"""

import copyreg
import sys

import cachetools
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free as free_memory, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cimport cython

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MREMAP_MAYMOVE
    void* MAP_FAILED
    void* mmap(void* start, size_t length, int protection, int flags, int fd, long offset)
    void* mremap(void* old, size_t old_length, size_t length, int flags)
    int munmap(void* start, size_t length)

cdef enum:
    NONE = 0xFFFFFFFF  # in place of an entry's number
    ENTRIES_MAX = NONE - 1
    PLACE_BYTES = 24 + 4  # of an entry, and of a place
    GROWTH_SHIFT = 3  # an array grows by an eighth,
    GROWTH_MIN = 4  # and at least by so many entries
    MAPPED_FROM_PAGES = 2
    MALLOC_HEADER_BYTES = 8
    MALLOC_STEP_BYTES = 16
    OVERSIZED_FROM_BYTES = 4096  # below that there is nothing to win
    POSITION_BITS = 44  # of a handle: where its blob begins, and the key ends
    HANDLE_BITS = 58
    KEY_MAX_BYTES = 63  # what the bits above a handle can tell
    CURSOR_BITS = 20  # as in app/storage/slots.py
    LISTED = 256  # how many keys one call of `keys_from` gives, about

cdef uint64_t POSITION_MASK = (<uint64_t> 1 << POSITION_BITS) - 1
cdef uint64_t HANDLE_MASK = (<uint64_t> 1 << HANDLE_BITS) - 1
cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio: spreads hashes that are small numbers
cdef Py_ssize_t PAGE_BYTES = sysconf(_SC_PAGESIZE)

assert sizeof(Entry) + sizeof(uint32_t) == PLACE_BYTES


# --- memory --------------------------------------------------------------------------------------------------------


cdef inline bint _is_mapped(Py_ssize_t size) noexcept:
    return size >= MAPPED_FROM_PAGES * PAGE_BYTES


cdef inline Py_ssize_t _taken(Py_ssize_t size) noexcept:
    """What a block of so many bytes takes: in whole pages, or as the C library's allocator rounds it."""
    if size == 0:
        return 0
    if _is_mapped(size):
        return (size + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
    size = (size + MALLOC_HEADER_BYTES + MALLOC_STEP_BYTES - 1) // MALLOC_STEP_BYTES * MALLOC_STEP_BYTES
    return max(2 * MALLOC_STEP_BYTES, size)


cdef Py_ssize_t _next_capacity(Py_ssize_t capacity) noexcept:
    """The entries that an array of so many grows to; a mapping is filled."""
    capacity += max(<Py_ssize_t> GROWTH_MIN, capacity >> GROWTH_SHIFT)
    if _is_mapped(capacity * PLACE_BYTES):
        capacity = _taken(capacity * PLACE_BYTES) // PLACE_BYTES
    return capacity


cdef Py_ssize_t _capacity_for(Py_ssize_t count) noexcept:
    """The entries that an array has when it has grown to hold so many."""
    cdef Py_ssize_t capacity = 0
    while capacity < count:
        capacity = _next_capacity(capacity)
    return capacity


cdef void* _reallocated(void* block, Py_ssize_t old, Py_ssize_t size) noexcept:
    """A block made larger, with what was in it; NULL, nothing done, where memory lacks."""
    cdef void* made
    if not _is_mapped(size):
        return realloc(block, size)
    if block is not NULL and _is_mapped(old):
        made = mremap(block, _taken(old), _taken(size), MREMAP_MAYMOVE)
        return NULL if made == MAP_FAILED else made
    made = mmap(NULL, _taken(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if made == MAP_FAILED:
        return NULL
    if block is not NULL:
        memcpy(made, block, old)
        free_memory(block)
    return made


cdef void _freed(void* block, Py_ssize_t size) noexcept:
    if block is not NULL and _is_mapped(size):
        munmap(block, _taken(size))
    else:
        free_memory(block)


# --- entries -------------------------------------------------------------------------------------------------------


cdef inline uint32_t _hashed(object key) except? 0xFFFFFFFE:
    """32 bits of a key's hash, which Python keys by the process where it is of bytes. TypeError."""
    return <uint32_t> (<uint64_t> hash(key) * GOLDEN >> 32)


cdef inline uint32_t _reversed(uint32_t cursor) noexcept:
    """Its bits the other way round."""
    cdef uint32_t made = 0
    cdef int _
    for _ in range(CURSOR_BITS):
        made = made << 1 | cursor & 1
        cursor >>= 1
    return made


# Cython takes care of references that are attributes, the lists among them. What a list refers to is freed by the list,
# so there is nothing that this must clear, and no method ever finds one of them gone.
@cython.no_gc_clear
cdef class Table:
    """All of a slot but its bases; not to be made by itself."""

    def __cinit__(self):
        self._oldest = self._newest = self._free = NONE
        self._keys, self._values = [], []
        self._maxsize, self._currsize = sys.maxsize, 0

    def __dealloc__(self):
        _freed(self._entries, self.capacity * PLACE_BYTES)
        PyBuffer_Release(&self._view)

    def __init__(self, maxsize=sys.maxsize, getsizeof=None, *, records=None):
        """`records`: the memory that handles point into; it can't be resized as long as the slot is there."""
        if maxsize < 0:
            raise ValueError("maxsize must be non-negative")
        if getsizeof is not None:
            (<object> self).getsizeof = getsizeof
        self.clear()
        self._sizes = None if (<object> self).getsizeof is cachetools.Cache.getsizeof else []
        self._maxsize = maxsize
        self._is_bounded = maxsize != sys.maxsize or self._sizes is not None
        if records is not None and self._is_bounded:
            raise ValueError("a slot of records has no bound")
        self._open(records)

    cdef int _open(self, object records) except -1:
        PyBuffer_Release(&self._view)
        self._records = NULL
        if records is not None:
            PyObject_GetBuffer(records, &self._view, PyBUF_SIMPLE)
            self._records = <const uint8_t*> self._view.buf
        return 0

    # --- by key, for compiled modules ------------------------------------------------------------------------

    cdef int64_t take(self, bytes key) except -2:
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            return -1
        self._renew(number)
        return <int64_t> (self._entries[number].word & HANDLE_MASK)

    cdef int64_t look(self, bytes key) except -2:
        cdef uint32_t number = self._find(key, _hashed(key))
        return -1 if number == NONE else <int64_t> (self._entries[number].word & HANDLE_MASK)

    cdef int64_t remove(self, bytes key) except -2:
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            return -1
        self._unlink(number)
        return <int64_t> (self._entries[number].word & HANDLE_MASK)

    cdef int64_t pop_oldest(self) except -2:
        cdef uint32_t number = self._oldest
        if number == NONE:
            return -1
        self._unlink(number)
        return <int64_t> (self._entries[number].word & HANDLE_MASK)

    cdef int put(self, bytes key, int64_t handle) except -1:
        cdef uint32_t hashed = _hashed(key)
        cdef uint64_t word = self._word(key, handle)
        cdef uint32_t number = self._find(key, hashed)
        if number == NONE:
            self._link(hashed, word)
        else:
            self._entries[number].word = word
            self._renew(number)
        return 0

    cdef int add(self, bytes key, int64_t handle) except -1:
        self._link(_hashed(key), self._word(key, handle))
        return 0

    cdef int change(self, bytes key, int64_t handle) except -1:
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            raise KeyError(key)
        self._entries[number].word = self._word(key, handle)
        return 0

    # --- by number -------------------------------------------------------------------------------------------

    cdef uint64_t _word(self, bytes key, int64_t handle) except 0:
        """What is kept of a key and a handle. ValueError where there is no record of that key."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(key)
        cdef uint64_t position = <uint64_t> handle & POSITION_MASK
        if not 1 <= length <= KEY_MAX_BYTES:
            raise ValueError(f"a key of {length} bytes")
        if (
            self._records is NULL
            or <uint64_t> handle > HANDLE_MASK
            or position < <uint64_t> length
            or position > <uint64_t> self._view.len
            or memcmp(self._records + position - length, PyBytes_AS_STRING(key), length)
        ):
            raise ValueError(f"no record of {key!r} at {handle:#x}")
        return <uint64_t> handle | <uint64_t> length << HANDLE_BITS

    cdef inline bint _is_of(self, Entry* entry, bytes key) noexcept:
        cdef Py_ssize_t length = <Py_ssize_t> (entry.word >> HANDLE_BITS)
        return length == PyBytes_GET_SIZE(key) and not memcmp(
            self._records + (entry.word & POSITION_MASK) - length, PyBytes_AS_STRING(key), length
        )

    cdef uint32_t _find(self, object key, uint32_t hashed) except? 0xFFFFFFFE:
        """The number of a key's entry, or NONE."""
        cdef uint32_t number
        cdef uint64_t changes
        cdef Entry* entry
        if self.capacity == 0:
            return NONE
        if self._records is not NULL:
            if not PyBytes_CheckExact(key):
                return NONE
            number = self._heads[self._place(hashed)]
            while number != NONE:
                entry = &self._entries[number]
                if entry.hash == hashed and self._is_of(entry, <bytes> key):
                    return number
                number = entry.chained
            return NONE
        while self.capacity:  # anew where the comparison of two keys has changed the slot
            changes = self._changes
            number = self._heads[self._place(hashed)]
            while number != NONE:
                if self._entries[number].hash == hashed:
                    known = self._keys[number]
                    is_it = known is key or known == key
                    if changes != self._changes:
                        break
                    if is_it:
                        return number
                number = self._entries[number].chained
            else:
                return NONE
        return NONE

    cdef inline uint32_t _place(self, uint32_t hashed) noexcept:
        return <uint32_t> (<uint64_t> hashed * <uint64_t> self.capacity >> 32)

    cdef object _key(self, uint32_t number):
        cdef uint64_t word
        cdef Py_ssize_t length
        if self._records is NULL:
            return self._keys[number]
        word = self._entries[number].word
        length = <Py_ssize_t> (word >> HANDLE_BITS)
        return PyBytes_FromStringAndSize(<const char*> self._records + (word & POSITION_MASK) - length, length)

    cdef object _value(self, uint32_t number):
        if self._records is NULL:
            return self._values[number]
        return self._entries[number].word & HANDLE_MASK

    cdef inline void _detach(self, uint32_t number) noexcept:
        """Take an entry out of the order of use."""
        cdef Entry* entry = &self._entries[number]
        if entry.older == NONE:
            self._oldest = entry.newer
        else:
            self._entries[entry.older].newer = entry.newer
        if entry.newer == NONE:
            self._newest = entry.older
        else:
            self._entries[entry.newer].older = entry.older

    cdef inline void _attach(self, uint32_t number) noexcept:
        """Make an entry that is in no order the one used most recently."""
        cdef Entry* entry = &self._entries[number]
        entry.older = self._newest
        entry.newer = NONE
        if self._newest == NONE:
            self._oldest = number
        else:
            self._entries[self._newest].newer = number
        self._newest = number

    cdef void _renew(self, uint32_t number) noexcept:
        """Make an entry the one used most recently."""
        if number != self._newest:
            self._detach(number)
            self._attach(number)

    cdef uint32_t _link(self, uint32_t hashed, uint64_t word) except? 0xFFFFFFFE:
        """A new entry, the one used most recently; its number. MemoryError, nothing changed."""
        cdef uint32_t number
        cdef uint32_t* head
        cdef Entry* entry
        if self.room == 0:
            self._grow(_next_capacity(self.capacity))
        number = self._free
        entry = &self._entries[number]
        self._free = entry.chained
        head = &self._heads[self._place(hashed)]
        entry.word = word
        entry.hash = hashed
        entry.chained = head[0]
        head[0] = number
        self._attach(number)
        self._length += 1
        self.room -= 1
        self._changes += 1
        return number

    cdef void _unlink(self, uint32_t number) noexcept:
        """Free an entry; its word, and its objects, stay as they are."""
        cdef Entry* entry = &self._entries[number]
        cdef uint32_t* at = &self._heads[self._place(entry.hash)]
        while at[0] != number:
            at = &self._entries[at[0]].chained
        at[0] = entry.chained
        self._detach(number)
        entry.older = number
        entry.chained = self._free
        self._free = number
        self._length -= 1
        self.room += 1
        self._changes += 1

    cdef uint32_t _add(self, uint32_t hashed, uint64_t word, object key, object value, object size) except? 0xFFFFFFFE:
        """As `_link`; the objects are kept where the slot keeps any."""
        cdef uint32_t number
        if self._records is not NULL:
            return self._link(hashed, word)
        if self.room == 0:
            self._grow(_next_capacity(self.capacity))
        number = self._free
        for kept, one in ((self._keys, key), (self._values, value), (self._sizes, size)):
            if kept is not None:
                if number < len(kept):
                    kept[number] = one
                else:
                    kept.append(one)
        if self._sizes is not None:
            self._currsize += size
        return self._link(hashed, word)

    cdef tuple _drop(self, uint32_t number):
        """Remove an entry: its key and value."""
        item = self._key(number), self._value(number)
        self._unlink(number)
        if self._records is NULL:
            self._keys[number] = self._values[number] = None
            if self._sizes is not None:
                self._currsize -= self._sizes[number]
        return item

    cdef uint32_t _take_in(self, Table other, uint32_t number) except? 0xFFFFFFFE:
        """Copy an entry of another slot, as the one used most recently; the number of the next newer one there."""
        cdef Entry* entry = &other._entries[number]
        size = None if other._sizes is None else other._sizes[number]
        if self._records is NULL:
            self._add(entry.hash, entry.word, other._keys[number], other._values[number], size)
        else:
            self._link(entry.hash, entry.word)
        return other._entries[number].newer

    # --- the block -------------------------------------------------------------------------------------------

    cdef int _grow(self, Py_ssize_t capacity) except -1:
        """Make room for so many entries. MemoryError, nothing changed."""
        cdef Entry* block
        cdef uint32_t number, place, free = self._free
        cdef Py_ssize_t added
        if capacity > ENTRIES_MAX:
            raise MemoryError
        block = <Entry*> _reallocated(self._entries, self.capacity * PLACE_BYTES, capacity * PLACE_BYTES)
        if block is NULL:
            raise MemoryError
        for added in range(self.capacity, capacity):
            number = <uint32_t> (self.capacity + capacity - 1 - added)  # the lowest is to be used first
            block[number].older = number
            block[number].chained = free
            free = number
        self._entries = block
        self._free = free
        self.room += capacity - self.capacity
        self.capacity = capacity
        self.table_bytes = _taken(capacity * PLACE_BYTES)
        self._changes += 1
        self._heads = <uint32_t*> (block + capacity)
        memset(self._heads, 0xFF, capacity * sizeof(uint32_t))
        number = self._oldest
        while number != NONE:
            place = self._place(block[number].hash)
            block[number].chained = self._heads[place]
            self._heads[place] = number
            number = block[number].newer
        return 0

    cdef Table _fresh(self, Py_ssize_t count):
        """An empty slot of its kind, made for so many entries."""
        cls = type(self)
        cdef Table made = cls.__new__(cls)
        if self._records is not NULL:
            made._open(<object> self._view.obj)
        if self._sizes is not None:
            made._sizes = []
        made._maxsize, made._is_bounded = self._maxsize, self._is_bounded
        if count:
            made._grow(_capacity_for(count))
        return made

    cdef Table _copied(self):
        cdef Table made = self._fresh(self._length)
        cdef uint32_t number = self._oldest
        while number != NONE:
            number = made._take_in(self, number)
        return made

    # --- as a cachetools cache -------------------------------------------------------------------------------

    def __len__(self):
        return self._length

    def __contains__(self, key):
        return self._find(key, _hashed(key)) != NONE

    def __getitem__(self, key):
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            return (<object> self).__missing__(key)
        self._renew(number)
        return self._value(number)

    def __setitem__(self, key, value):
        cdef uint32_t number, hashed = _hashed(key)
        cdef uint64_t word = 0
        size = 1
        if self._records is not NULL:
            if not PyBytes_CheckExact(key):
                raise TypeError("the keys of records are bytes")
            word = self._word(<bytes> key, value)
        elif self._is_bounded:
            size = self._make_room(key, hashed, value)
        number = self._find(key, hashed)
        if number == NONE:
            self._add(hashed, word, key, value, size)
            return
        self._renew(number)
        if self._sizes is not None:
            self._currsize += size - self._sizes[number]
            self._sizes[number] = size
        self._put_value(number, word, value)

    cdef int _put_value(self, uint32_t number, uint64_t word, object value) except -1:
        """Change an entry's value; the last thing to be done, as the end of the one before may run anything."""
        if self._records is not NULL:
            self._entries[number].word = word
        else:
            self._values[number] = value
        return 0

    cdef object _make_room(self, object key, uint32_t hashed, object value):
        """The size of a value, after entries have been evicted for it as cachetools does it. ValueError."""
        cdef uint32_t number
        size = 1
        if self._sizes is not None:
            size = (<object> self).getsizeof(value)
        if size > self._maxsize:
            raise ValueError("value too large")
        if size < 0:
            raise ValueError("value size must be non-negative")
        while True:
            number = self._find(key, hashed)
            more = size
            if number != NONE:
                more = 0 if self._sizes is None else size - self._sizes[number]
            if not self.currsize + more > self._maxsize:
                return size
            (<object> self).popitem()

    def __delitem__(self, key):
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            raise KeyError(key)
        self._drop(number)

    def __missing__(self, key):
        raise KeyError(key)

    def __iter__(self):
        """Keys, in no order (cachetools': as they came). RuntimeError where entries come or go meanwhile."""
        cdef uint64_t changes = self._changes
        cdef uint32_t number
        for number in range(<uint32_t> self.capacity):
            if changes != self._changes:
                raise RuntimeError("slot changed size during iteration")
            if self._entries[number].older != number:
                yield self._key(number)

    def popitem(self):
        """Remove the least recently used entry: its key and value. KeyError when there is none."""
        if self._oldest == NONE:
            raise KeyError(f"{type(self).__name__} is empty") from None
        return self._drop(self._oldest)

    def clear(self):
        """Remove all entries."""
        cdef void* block = self._entries
        cdef Py_ssize_t size = self.capacity * PLACE_BYTES
        kept = self._keys, self._values, self._sizes  # freed when all is done: that may run anything
        self._keys, self._values = [], []
        if self._sizes is not None:
            self._sizes = []
        self._entries, self._heads = NULL, NULL
        self._oldest = self._newest = self._free = NONE
        self.capacity = self.room = self.table_bytes = self._length = 0
        self._currsize = 0
        self._changes += 1
        _freed(block, size)
        del kept

    @property
    def maxsize(self):
        """The maximum size of the cache."""
        return self._maxsize

    @property
    def currsize(self):
        """The current size of the cache."""
        return self._length if self._sizes is None else self._currsize

    def __repr__(self):
        held = {self._key(number): self._value(number) for number in self._numbers()}
        return f"{type(self).__name__}({held!r}, maxsize={self._maxsize!r}, currsize={self.currsize!r})"

    cdef list _numbers(self):
        """Of all entries, the least recently used first."""
        cdef uint32_t number = self._oldest
        numbers = []
        while number != NONE:
            numbers.append(number)
            number = self._entries[number].newer
        return numbers

    def __copy__(self):
        made = <object> self._copied()
        made.__dict__.update((<object> self).__dict__)
        return made

    def __reduce__(self):
        if self._records is not NULL:
            raise TypeError("a slot of records can't be pickled")
        numbers = self._numbers()
        lists = [kept and [kept[n] for n in numbers] for kept in (self._keys, self._values, self._sizes)]
        return copyreg.__newobj__, (type(self),), ((<object> self).__dict__, self._maxsize, *lists)

    def __setstate__(self, state):
        attributes, self._maxsize, keys, values, sizes = state
        (<object> self).__dict__.update(attributes)
        self._sizes = None if sizes is None else []
        self._is_bounded = self._maxsize != sys.maxsize or sizes is not None
        for key, value, size in zip(keys, values, sizes or [1] * len(keys)):
            self._add(_hashed(key), 0, key, value, size)

    def __sizeof__(self):
        lists = sum(sys.getsizeof(kept) for kept in (self._keys, self._values, self._sizes) if kept is not None)
        return object.__sizeof__(self) + self.table_bytes + lists

    # --- what the store needs --------------------------------------------------------------------------------

    def has(self, key):
        """As `in`."""
        return self._find(key, _hashed(key)) != NONE

    def peek(self, key):
        """As reading an item, but the order of use stays as it is. KeyError."""
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            raise KeyError(key)
        return self._value(number)

    def poke(self, key, value):
        """Change the value of a key that is there; the order of use stays as it is. KeyError."""
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            raise KeyError(key)
        self._put_value(number, 0 if self._records is NULL else self._word(key, value), value)

    def age(self, key):
        """Make a key that is there the least recently used. KeyError."""
        cdef uint32_t number = self._find(key, _hashed(key))
        if number == NONE:
            raise KeyError(key)
        if number != self._oldest:
            self._detach(number)
            self._entries[number].older = NONE
            self._entries[number].newer = self._oldest
            self._entries[self._oldest].older = number
            self._oldest = number

    @property
    def tables(self):
        """What the slot consists of: itself."""
        return [self]

    def table_of(self, key):
        """The table that a key belongs to: itself."""
        return self

    @staticmethod
    def bits_of(key):
        """The bits of a key's hash by which slots are divided, any number of them."""
        return _hashed(key)

    @staticmethod
    def bytes_for(count):
        """What a slot's tables take when it has come to so many entries."""
        return _taken(_capacity_for(count) * PLACE_BYTES)

    def entry_bytes(self, key):
        """What an entry takes beside the tables: nothing."""
        return 0

    @property
    def growth_bytes(self):
        """By how much the tables grow with the next new key when there is no room."""
        return _taken(_next_capacity(self.capacity) * PLACE_BYTES) - self.table_bytes

    @property
    def keep(self):
        """With how many entries there is room again without larger tables: one less than they hold."""
        return self.capacity - 1

    @property
    def is_oversized(self):
        """Whether `rebuild` would win at least a third."""
        return self.table_bytes > OVERSIZED_FROM_BYTES and self.capacity * 2 > _capacity_for(self._length) * 3

    def rebuild(self):
        """Make the tables as small as when they had come to their entries (20 ns an entry)."""
        cdef Table made
        if _capacity_for(self._length) < self.capacity:
            made = self._copied()
            self._entries, made._entries = made._entries, self._entries
            self._heads = made._heads
            self._keys, self._values, self._sizes = made._keys, made._values, made._sizes
            self._oldest, self._newest, self._free = made._oldest, made._newest, made._free
            self.capacity, made.capacity = made.capacity, self.capacity
            self.room, self.table_bytes = made.room, made.table_bytes
            self._changes += 1

    def keys_from(self, uint32_t cursor, int bits=0):
        """Some keys from a cursor on, 0 to begin with, and the next cursor; 0: that was all.

        `bits`: how many of the lowest all hashes here have in common, those of the reversed cursor. More are added
        until about 256 keys are left.
        """
        cdef Py_ssize_t expected = self._length
        cdef uint32_t number, part, mask, stretch
        while bits < CURSOR_BITS and expected > LISTED:
            expected >>= 1
            bits += 1
        mask = (<uint32_t> 1 << bits) - 1
        part = _reversed(cursor) & mask
        stretch = <uint32_t> 1 << CURSOR_BITS - bits
        keys = []
        for number in range(<uint32_t> self.capacity):
            if self._entries[number].hash & mask == part and self._entries[number].older != number:
                keys.append(self._key(number))
        return keys, (cursor // stretch + 1) * stretch % (<uint32_t> 1 << CURSOR_BITS)

    def evict_beside(self, key, count):
        """Remove so many entries, or all, least recently used first, from a key's table; their values."""
        return [self.popitem()[1] for _ in range(min(count, self._length))]

    def divide(self, uint32_t bit):
        """Two slots: the entries whose hash has this bit clear, and set (20 ns an entry)."""
        cdef Table clear, those_set
        cdef Py_ssize_t count = 0
        cdef uint32_t number = self._oldest
        while number != NONE:
            count += self._entries[number].hash & bit != 0
            number = self._entries[number].newer
        clear, those_set = self._fresh(self._length - count), self._fresh(count)
        number = self._oldest
        while number != NONE:
            if self._entries[number].hash & bit:
                number = those_set._take_in(self, number)
            else:
                number = clear._take_in(self, number)
        return clear, those_set

    def join(self, Table other):
        """One slot with the entries of both, the orders of use interleaved from the most recent on."""
        cdef Table made = self._fresh(self._length + other._length)
        cdef uint32_t mine = self._oldest, others = other._oldest
        cdef Py_ssize_t ahead = self._length - other._length
        while mine != NONE or others != NONE:
            if ahead <= 0:
                others = made._take_in(other, others)
            if ahead >= 0:
                mine = made._take_in(self, mine)
            ahead -= (ahead > 0) - (ahead < 0)
        return made


class Slot(Table, cachetools.LRUCache):
    """See app/storage/slots.py."""

    split_entries = 12 * 1024
    shrunk_at_once = 64
    shrunk_entries = 4 * 1024
    copies_per_removal = 25
