# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `Arena` of app/storage/arena.py, which says what it does: the same handles, in the same order.

What differs is the memory beside the mapping, 24 bytes a page and no more. The free chunks of a page are a list that
runs through the chunks themselves, the one freed last first; after them come those that have never been in use, by
number, so that a page is touched only where a record is put.

A handle is trusted as little as it takes to stay within the mapping, under `python -O` as well: its record may be gone.
"""

import mmap

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.stdlib cimport free as free_memory
from libc.string cimport memcpy

cdef extern from "<sys/mman.h>" nogil:
    int MADV_DONTNEED
    int madvise(void* start, size_t length, int advice)

cdef enum:
    PAGE_SHIFT = 16
    PAGE_MASK = PAGE_BYTES - 1
    LENGTH_SHIFT = 44
    PAGES_MAX = 1 << 28  # that a handle can tell apart
    GIVE_BACK_MAX = 64
    KEY_MAX_BYTES = 255

cdef enum:
    NONE = 0xFFFFFFFF  # no page


cdef inline int64_t _position(int64_t handle) noexcept:
    return handle & (((<int64_t> 1) << LENGTH_SHIFT) - 1)


cdef inline int64_t _handle(int64_t at, Py_ssize_t blob_bytes) noexcept:
    return at | (<int64_t> blob_bytes << LENGTH_SHIFT)


@cython.final
cdef class Arena:
    """See app/storage/arena.py."""

    def __cinit__(self, reserve_bytes, limit_bytes):
        page_count = max(1, reserve_bytes // PAGE_BYTES)
        if page_count > PAGES_MAX:
            raise OverflowError(f"{page_count} pages are more than a handle can tell apart")
        self._map = mmap.mmap(-1, page_count * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        PyObject_GetBuffer(self._map, &self._view, PyBUF_WRITABLE)  # as long as it is held nobody can close the mapping
        self._base = <uint8_t*> self._view.buf
        self._page_count = page_count
        self._pages = <Page*> calloc(self._page_count, sizeof(Page))
        if self._pages is NULL:
            raise MemoryError
        self._spare = self._cleared = NONE
        self.limit_bytes = limit_bytes
        self._divide_by_size(mmap.PAGESIZE)

    def __dealloc__(self):
        free_memory(self._pages)
        PyBuffer_Release(&self._view)

    cdef void _divide_by_size(self, int64_t system_page_bytes) noexcept:
        """Lay out the size classes, and which of them each size of record belongs to."""
        cdef Class* cls
        cdef int32_t size = 16
        cdef int32_t step
        cdef int number, steps
        for number in range(CLASSES):
            cls = &self._classes[number]
            cls.size = size
            cls.chunks = min(CHUNKS_MAX, PAGE_BYTES // size)
            cls.chunks_bytes = cls.chunks * size
            cls.resident_bytes = cls.chunks_bytes + system_page_bytes - 1
            cls.resident_bytes -= cls.resident_bytes % system_page_bytes
            cls.first = cls.last = NONE
            step = 8
            while step * 16 <= size:
                step *= 2
            size = min(size + step, RECORD_MAX_BYTES)
        number = 0
        for steps in range(SIZES):
            while self._classes[number].size < steps * 8:
                number += 1
            self._class_of_8[steps] = number

    @property
    def records(self):
        """The mapping that positions point into."""
        return self._map

    # --- records ---------------------------------------------------------------------------------------------

    def store(self, bytes key not None, bytes blob not None):
        """Store a record; returns its handle, or -1 when that takes a new page and the limit allows none."""
        return self.store_record(
            PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob)
        )

    def blob(self, int64_t handle):
        """The blob of a record."""
        return self.read_blob(handle)

    def replace(self, int64_t handle, Py_ssize_t key_bytes, bytes blob not None, *, bint loosely=False):
        """Replace a record's blob in its chunk; the new handle, or -1 when it wants a chunk of another size."""
        return self.replace_blob(handle, key_bytes, PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob), loosely)

    def take_over(self, int64_t handle, bytes key not None, bytes blob not None):
        """Put a new record in the place of another; its handle, or -1 when it wants a chunk of another size."""
        return self.take_chunk_over(
            handle, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob)
        )

    def free(self, int64_t handle):
        """Give a record's chunk back; the page goes back to the system with its last record."""
        self.free_record(handle)

    cdef int64_t store_record(
        self, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes
    ) except -2:
        cdef int owner = self._class_for(key_bytes + blob_bytes)
        cdef Class* cls = &self._classes[owner]
        if key_bytes > KEY_MAX_BYTES:
            raise OverflowError(f"a key of {key_bytes} bytes")
        if cls.last == NONE and not self._open_page(owner):
            return -1
        cdef int64_t at = self._pop_chunk(cls)
        self.chunk_bytes += cls.size
        self.free_chunk_bytes -= cls.size
        return self._write(at, key, key_bytes, blob, blob_bytes)

    cdef bytes read_blob(self, int64_t handle):
        cdef int64_t number = self._page_of(handle)
        cdef int64_t at = _position(handle)
        cdef int64_t length = handle >> LENGTH_SHIFT
        if (at & PAGE_MASK) + length > PAGE_BYTES:
            raise AssertionError(f"handle {handle:#x} reaches beyond page {number}")
        return PyBytes_FromStringAndSize(<char*> self._base + at, length)

    cdef int64_t replace_blob(
        self, int64_t handle, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes, bint loosely
    ) except -2:
        cdef int64_t at = _position(handle)
        cdef int owner = self._pages[self._page_of(handle)].owner
        cdef Py_ssize_t size = self._classes[owner].size
        if self._class_for(key_bytes + blob_bytes) != owner and not (loosely and key_bytes + blob_bytes < size):
            return -1
        if (at & PAGE_MASK) % size + blob_bytes > size:
            raise AssertionError(f"handle {handle:#x} is not of a key of {key_bytes} bytes")
        self._writes += 1
        self._pages[at >> PAGE_SHIFT].written = self._writes
        memcpy(self._base + at, blob, blob_bytes)
        return _handle(at, blob_bytes)

    cdef int64_t take_chunk_over(
        self, int64_t handle, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes
    ) except -2:
        cdef int64_t at = _position(handle)
        cdef int owner = self._pages[self._page_of(handle)].owner
        if self._class_for(key_bytes + blob_bytes) != owner:
            return -1
        if key_bytes > KEY_MAX_BYTES:
            raise OverflowError(f"a key of {key_bytes} bytes")
        at -= (at & PAGE_MASK) % self._classes[owner].size
        return self._write(at, key, key_bytes, blob, blob_bytes)

    cdef int free_record(self, int64_t handle) except -1:
        cdef int64_t number = self._page_of(handle)
        cdef Page* page = &self._pages[number]
        cdef Class* cls = &self._classes[page.owner]
        cdef uint16_t index = <uint16_t> ((_position(handle) & PAGE_MASK) // cls.size)
        cdef uint8_t* chunk = self._base + (number << PAGE_SHIFT) + index * cls.size
        chunk[0] = 0
        memcpy(chunk + 2, &page.freed, 2)
        page.freed = index
        page.free += 1
        self.chunk_bytes -= cls.size
        self.free_chunk_bytes += cls.size
        cls.free_chunks += 1
        if page.free == 1:
            self._open(cls, number)
        if page.free == cls.chunks:
            self._close(cls, number)
            cls.free_chunks -= cls.chunks
            self._give_back(number)
        return 0

    cdef int _class_for(self, Py_ssize_t record_bytes) except -1:
        """Number of the class for a key and blob of together so many bytes."""
        if not 0 <= record_bytes < RECORD_MAX_BYTES:
            raise IndexError(f"a record of {record_bytes} bytes")
        return self._class_of_8[(record_bytes + 8) >> 3]

    cdef int64_t _page_of(self, int64_t handle) except -1:
        """Number of the page in use that a handle names."""
        cdef int64_t number = _position(handle) >> PAGE_SHIFT
        cdef Page* page = &self._pages[number]
        if (
            handle < 0
            or number >= self._page_count
            or not page.in_use
            or (handle & PAGE_MASK) >= self._classes[page.owner].chunks_bytes
        ):
            raise AssertionError(f"handle {handle:#x} names a page that is not in use")
        return number

    cdef int64_t _pop_chunk(self, Class* cls) except -1:
        """Take a free chunk of the page that was opened last, where there is one: its position."""
        cdef uint32_t number = cls.last
        cdef Page* page = &self._pages[number]
        cdef int64_t start = <int64_t> number << PAGE_SHIFT
        cdef int32_t index = page.freed
        if index < cls.chunks:
            memcpy(&page.freed, self._base + start + index * cls.size + 2, 2)
        else:
            index = page.fresh
            if index >= cls.chunks:
                raise AssertionError(f"page {number} has no free chunk")
            page.fresh += 1
        page.free -= 1
        if page.free == 0:
            self._close(cls, number)
        cls.free_chunks -= 1
        return start + index * cls.size

    cdef int64_t _write(
        self, int64_t at, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes
    ) noexcept:
        """Write a record to a position: its handle."""
        cdef uint8_t* chunk = self._base + at
        self._writes += 1
        self._pages[at >> PAGE_SHIFT].written = self._writes
        chunk[0] = <uint8_t> key_bytes
        memcpy(chunk + 1, key, key_bytes)
        memcpy(chunk + 1 + key_bytes, blob, blob_bytes)
        return _handle(at + 1 + key_bytes, blob_bytes)

    # --- pages -----------------------------------------------------------------------------------------------

    cdef bint _open_page(self, int owner) noexcept:
        cdef Class* cls = &self._classes[owner]
        cdef Page* page
        cdef uint32_t number
        if self.resident_bytes + cls.resident_bytes > self.limit_bytes or (
            self._spare == NONE and self._fresh == self._page_count
        ):
            if not self._make_way(cls):
                return False
        if self._spare != NONE:
            number = self._spare
            self._spare = self._pages[number].before
        else:
            number = self._fresh
            self._fresh += 1
        page = &self._pages[number]
        page.owner = <uint8_t> owner
        page.in_use = True
        page.free = <uint16_t> cls.chunks
        page.freed = <uint16_t> cls.chunks
        page.fresh = 0
        page.written = 0
        self._open(cls, number)
        cls.free_chunks += cls.chunks
        self.resident_bytes += cls.resident_bytes
        self.free_chunk_bytes += cls.chunks_bytes
        return True

    cdef void _open(self, Class* cls, uint32_t number) noexcept:
        """Add a page to the open ones."""
        self._pages[number].before = cls.last
        self._pages[number].after = NONE
        if cls.last != NONE:
            self._pages[cls.last].after = number
        else:
            cls.first = number
        cls.last = number

    cdef void _close(self, Class* cls, uint32_t number) noexcept:
        """Take a page from the open ones."""
        cdef uint32_t before = self._pages[number].before
        cdef uint32_t after = self._pages[number].after
        if before != NONE:
            self._pages[before].after = after
        else:
            cls.first = after
        if after != NONE:
            self._pages[after].before = before
        else:
            cls.last = before

    cdef void _give_back(self, uint32_t number) noexcept:
        """Return a page that holds no record and is not open any more to the system."""
        cdef Class* cls = &self._classes[self._pages[number].owner]
        self.resident_bytes -= cls.resident_bytes
        self.free_chunk_bytes -= cls.chunks_bytes
        self._return_to_system(number)

    cdef void _return_to_system(self, uint32_t number) noexcept:
        self._pages[number].in_use = False
        self._pages[number].before = self._spare
        self._spare = number
        madvise(self._base + (<size_t> number << PAGE_SHIFT), PAGE_BYTES, MADV_DONTNEED)

    def clear(self):
        """Forget every record; the pages go back to the system one by one."""
        cdef uint32_t number
        cdef int owner
        for number in range(self._fresh):
            if self._pages[number].in_use:
                self._pages[number].in_use = False
                self._pages[number].before = self._cleared
                self._cleared = number
        self.cleared_bytes = self.resident_bytes
        for owner in range(CLASSES):
            self._classes[owner].first = self._classes[owner].last = NONE
            self._classes[owner].free_chunks = 0
        self.chunk_bytes = self.free_chunk_bytes = 0

    cdef bint _make_way(self, Class* cls) noexcept:
        cdef int given_back
        for given_back in range(GIVE_BACK_MAX):
            if not self._give_back_one_cleared():
                break
            if self.resident_bytes + cls.resident_bytes <= self.limit_bytes:
                return True
        return False

    cdef bint _give_back_one_cleared(self) noexcept:
        cdef uint32_t number = self._cleared
        if number == NONE:
            return False
        self._cleared = self._pages[number].before
        cdef int64_t resident_bytes = self._classes[self._pages[number].owner].resident_bytes
        self.resident_bytes -= resident_bytes
        self.cleared_bytes -= resident_bytes
        self._return_to_system(number)
        return True

    def give_back_cleared(self):
        """Return one page that was cleared to the system; False when there is none."""
        return self._give_back_one_cleared()

    @property
    def untouched_bytes(self):
        """What counts as resident and is not yet: chunks that have never been in use."""
        cdef Class* cls
        cdef int64_t untouched = 0
        cdef int owner
        for owner in range(CLASSES):
            cls = &self._classes[owner]
            if cls.first != NONE:
                untouched += <int64_t> (cls.chunks - self._pages[cls.first].fresh) * cls.size
        return untouched

    def relocatable_page(self):
        """Number of the sparsest page whose records all fit free chunks of its class elsewhere, if any."""
        cdef Class* cls
        cdef uint32_t number
        cdef uint32_t best = NONE
        cdef int32_t free_bytes
        cdef int32_t best_free_bytes = 0
        cdef int owner
        for owner in range(CLASSES):
            cls = &self._classes[owner]
            if cls.free_chunks < cls.chunks:
                continue
            number = cls.first
            while number != NONE:
                free_bytes = self._pages[number].free * cls.size
                if free_bytes > best_free_bytes:
                    best, best_free_bytes = number, free_bytes
                number = self._pages[number].after
        return None if best == NONE else best

    def retire(self, number):
        """Take a page out of allocation; the keys of its records, to be moved or forgotten before `give_back`."""
        cdef int64_t start = self._in_use(number) << PAGE_SHIFT
        cdef Page* page = &self._pages[start >> PAGE_SHIFT]
        cdef Class* cls = &self._classes[page.owner]
        cdef uint8_t* chunk = self._base + start
        cdef int index
        cdef list keys = []
        if page.free:
            self._close(cls, start >> PAGE_SHIFT)
            cls.free_chunks -= page.free
        for index in range(page.fresh):
            if chunk[0]:
                if chunk[0] >= cls.size:
                    raise AssertionError(f"page {number}: a key of {chunk[0]} bytes")
                keys.append(PyBytes_FromStringAndSize(<char*> chunk + 1, chunk[0]))
            chunk += cls.size
        if len(keys) != cls.chunks - page.free:
            raise AssertionError(f"page {number}: {len(keys)} keys in use")
        return keys

    def move(self, int64_t handle):
        """Copy a retired page's record into a free chunk of another page of its class; its new handle."""
        cdef int64_t number = self._page_of(handle)
        cdef Class* cls = &self._classes[self._pages[number].owner]
        cdef int64_t offset = (_position(handle) & PAGE_MASK) % cls.size
        if cls.last == NONE:
            raise AssertionError(f"no page has room for what is in page {number}")
        cdef int64_t target = self._pop_chunk(cls)
        cdef int64_t start = _position(handle) - offset
        cdef Page* page = &self._pages[target >> PAGE_SHIFT]
        if self._writes - self._pages[number].written < self._writes - page.written:
            page.written = self._pages[number].written
        if target != start:
            memcpy(self._base + target, self._base + start, cls.size)
        return handle - start + target

    def give_back(self, number, int64_t records):
        """Return a retired page to the system; `records` of it are forgotten, the others have been moved."""
        cdef int64_t place = self._in_use(number)
        cdef Class* cls = &self._classes[self._pages[place].owner]
        self.free_chunk_bytes += records * cls.size
        self.chunk_bytes -= records * cls.size
        self._give_back(place)

    cdef int64_t _in_use(self, object number) except -1:
        """The number of a page that is in use, checked."""
        if not (0 <= number < self._page_count and self._pages[<uint32_t> number].in_use):
            raise AssertionError(f"page {number} is not in use")
        return number

    cdef int64_t size_of_chunk(self, int64_t handle) except -1:
        return self._classes[self._pages[self._page_of(handle)].owner].size

    def chunk_size(self, int64_t handle):
        """Size of the chunk that a record lies in."""
        return self.size_of_chunk(handle)

    def was_written(self, number, int64_t writes):
        """Whether one of the last so many records that were put somewhere may lie in this page."""
        return <uint32_t> (self._writes - self._pages[self._in_use(number)].written) < writes

    def page_of(self, int64_t handle):
        """Number of the page that a record lies in."""
        return _position(handle) >> PAGE_SHIFT

    def in_use(self, int64_t number):
        """Whether a page holds any record."""
        if not 0 <= number < self._page_count:
            raise IndexError(number)
        return bool(self._pages[number].in_use)
