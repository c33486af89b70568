# What other compiled modules see of a slot.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef struct Entry:
    uint64_t word  # the handle, and above it the key's length; where keys and values are objects: nothing
    uint32_t hash
    uint32_t chained  # the next whose hash has the same place; of a free entry, the next free one
    uint32_t older  # of a free entry, itself
    uint32_t newer

cdef class Table:
    cdef readonly Py_ssize_t room
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t table_bytes
    cdef Py_ssize_t _length
    cdef uint32_t _oldest
    cdef uint32_t _newest
    cdef uint32_t _free
    cdef Entry* _entries  # so many as the capacity, one block with the
    cdef uint32_t* _heads  # first entries of the places, as many
    cdef Py_buffer _view  # of the records
    cdef const uint8_t* _records  # NULL: keys and values are objects
    cdef list _keys
    cdef list _values
    cdef list _sizes  # None: each is 1
    cdef object _maxsize
    cdef object _currsize
    cdef bint _is_bounded
    cdef uint64_t _changes

    # Of a slot that keeps handles: the handle of a key, -1 where there is none.
    cdef int64_t take(self, bytes key) except -2  # it is the most recently used now
    cdef int64_t look(self, bytes key) except -2  # the order of use stays as it is
    cdef int64_t remove(self, bytes key) except -2
    cdef int64_t pop_oldest(self) except -2
    cdef int put(self, bytes key, int64_t handle) except -1  # new, or changed; the most recently used in any case
    cdef int add(self, bytes key, int64_t handle) except -1  # of a key that is not there
    cdef int change(self, bytes key, int64_t handle) except -1  # of one that is there; the order of use stays as it is

    cdef int _open(self, object records) except -1
    cdef uint64_t _word(self, bytes key, int64_t handle) except 0
    cdef bint _is_of(self, Entry* entry, bytes key) noexcept
    cdef uint32_t _find(self, object key, uint32_t hashed) except? 0xFFFFFFFE
    cdef uint32_t _place(self, uint32_t hashed) noexcept
    cdef object _key(self, uint32_t number)
    cdef object _value(self, uint32_t number)
    cdef void _detach(self, uint32_t number) noexcept
    cdef void _attach(self, uint32_t number) noexcept
    cdef void _renew(self, uint32_t number) noexcept
    cdef uint32_t _link(self, uint32_t hashed, uint64_t word) except? 0xFFFFFFFE
    cdef void _unlink(self, uint32_t number) noexcept
    cdef uint32_t _add(self, uint32_t hashed, uint64_t word, object key, object value, object size) except? 0xFFFFFFFE
    cdef tuple _drop(self, uint32_t number)
    cdef int _put_value(self, uint32_t number, uint64_t word, object value) except -1
    cdef object _make_room(self, object key, uint32_t hashed, object value)
    cdef uint32_t _take_in(self, Table other, uint32_t number) except? 0xFFFFFFFE
    cdef int _grow(self, Py_ssize_t capacity) except -1
    cdef Table _fresh(self, Py_ssize_t count)
    cdef Table _copied(self)
    cdef list _numbers(self)
