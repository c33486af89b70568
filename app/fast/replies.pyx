# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `ReplyMemory` of app/storage/replies.py, which says what it does.

What differs is the memory. Each generation has two mappings: cells of 24 bytes, taken one after the other, or one that
was freed in it; and the heads of its buckets, 4 bytes each, which become one more with each record (linear hashing,
Litwin 1980), so there is no step in which they all grow. A messageID of up to 16 bytes takes one cell, each 20 bytes more
another. The mappings are moved by the kernel when they grow, not copied, and what has not been used of them is not there.

`scan` goes by the buckets that the Python has: by the same bits of the same hash.

`used_bytes` is what is resident, but for a part of a page at the ends. What was forgotten in the older generation is
used until that expires: nothing is put there any more.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030E0000
    #define KV_HASH Py_HashBuffer
    #else
    #define KV_HASH _Py_HashBytes
    #endif
    """
    Py_hash_t KV_HASH(const void* start, Py_ssize_t length) noexcept

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MREMAP_MAYMOVE
    void* MAP_FAILED
    void* mmap(void* start, size_t length, int protection, int flags, int fd, long offset)
    void* mremap(void* old, size_t old_length, size_t length, int flags)
    int munmap(void* start, size_t length)

cdef enum:
    SLOT_COUNT = 256
    BUCKETS = 16_384  # as in app/storage/replies.py
    EXPIRED_MAX = 3  # likewise
    FREE_SHARE = 32  # likewise
    FREE_MIN_BYTES = 1 << 20  # but what one `advance` frees may be so much in any case: 0.1 ms
    BUCKETS_MIN = 1024  # a generation begins with so many at least, unless fewer are asked for: a page
    CELLS_MIN_BYTES = 64 * 1024  # of address space
    CELL_BYTES = 24
    HEAD_BYTES = 4
    ID_BYTES = 16  # of a messageID in its first cell, if it ends there,
    ID_PART_BYTES = 12  # and else
    MORE_BYTES = 20  # in each further cell, after the number of the next
    ID_MAX_BYTES = 255

cdef double ADVANCE_MAX_S = 0.25  # as in app/storage/replies.py
cdef int64_t PAGE_BYTES = sysconf(_SC_PAGESIZE)

assert sizeof(Cell) == CELL_BYTES


# --- mappings ------------------------------------------------------------------------------------------------------


cdef void* _grown(void* mapping, int64_t old_bytes, int64_t size_bytes) noexcept:
    """A mapping made larger, or a new one where it is NULL; NULL, nothing done, where memory lacks."""
    cdef void* made
    if mapping is NULL:
        made = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    else:
        made = mremap(mapping, old_bytes, size_bytes, MREMAP_MAYMOVE)
    return NULL if made == MAP_FAILED else made


cdef inline int64_t _pages(int64_t size_bytes) noexcept:
    return (size_bytes + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


# --- a generation --------------------------------------------------------------------------------------------------


cdef int _begin(Generation* it, uint32_t buckets) except -1:
    """Make its mappings. `buckets`: a power of two. MemoryError, nothing done."""
    cdef int64_t heads_bytes = _pages(<int64_t> buckets * HEAD_BYTES)
    cdef int64_t cells_bytes = _pages(CELLS_MIN_BYTES)
    cdef void* heads = _grown(NULL, 0, heads_bytes)
    cdef void* cells
    if heads is NULL:
        raise MemoryError
    cells = _grown(NULL, 0, cells_bytes)
    if cells is NULL:
        munmap(heads, heads_bytes)
        raise MemoryError
    it.heads, it.heads_bytes = <uint32_t*> heads, heads_bytes
    it.cells, it.cells_bytes = <Cell*> cells, cells_bytes
    it.fresh = 1
    it.buckets = buckets
    it.mask = buckets - 1
    return 0


cdef bint _free_some(Generation* it, int64_t size_bytes) noexcept:
    """Give so much of a generation that has expired back to the system, the end of its cells first; False: all is."""
    cdef int64_t left = 0
    if it.cells is not NULL:
        left = max(<int64_t> 0, min(it.cells_bytes, _pages(<int64_t> it.fresh * CELL_BYTES)) - size_bytes)
        left = left // PAGE_BYTES * PAGE_BYTES
        munmap(<uint8_t*> it.cells + left, it.cells_bytes - left)
        it.cells_bytes = left
        it.fresh = <uint32_t> (left // CELL_BYTES)
    if left > 0:
        return True
    if it.heads is not NULL:
        munmap(it.heads, it.heads_bytes)
    memset(it, 0, sizeof(Generation))
    return False


cdef inline int64_t _used_in(Generation* it, bint may_reuse) noexcept:
    if it.buckets == 0:
        return 0
    cdef int64_t cells = <int64_t> it.fresh - 1 - (it.free_count if may_reuse else 0)
    return cells * CELL_BYTES + <int64_t> it.buckets * HEAD_BYTES


cdef inline uint32_t _bucket_of(Generation* it, Py_hash_t hashed) noexcept:
    cdef uint32_t number = <uint32_t> hashed & it.mask
    return number if number < it.buckets else number & it.mask >> 1


cdef inline uint32_t _more(Cell* cell) noexcept:
    """The number of the cell in which a messageID of more than 16 bytes goes on."""
    cdef uint32_t number
    memcpy(&number, &cell.id[ID_PART_BYTES], sizeof(number))
    return number


cdef inline uint32_t _cells_for(Py_ssize_t length) noexcept:
    return 1 if length <= ID_BYTES else <uint32_t> (1 + (length - ID_PART_BYTES + MORE_BYTES - 1) // MORE_BYTES)


cdef bint _is_of(Generation* it, Cell* cell, const uint8_t* message_id, Py_ssize_t length) noexcept:
    cdef Py_ssize_t at = ID_PART_BYTES, part
    cdef uint32_t number
    if cell.length != length:
        return False
    if length <= ID_BYTES:
        return not memcmp(cell.id, message_id, length)
    if memcmp(cell.id, message_id, ID_PART_BYTES):
        return False
    number = _more(cell)
    while at < length:
        part = min(<Py_ssize_t> MORE_BYTES, length - at)
        if memcmp(<uint8_t*> &it.cells[number] + sizeof(uint32_t), message_id + at, part):
            return False
        number = it.cells[number].next
        at += part
    return True


cdef void _read(Generation* it, Cell* cell, uint8_t* message_id) noexcept:
    """Copy a record's messageID."""
    cdef Py_ssize_t at = ID_PART_BYTES, length = cell.length, part
    cdef uint32_t number
    if length <= ID_BYTES:
        memcpy(message_id, cell.id, length)
        return
    memcpy(message_id, cell.id, ID_PART_BYTES)
    number = _more(cell)
    while at < length:
        part = min(<Py_ssize_t> MORE_BYTES, length - at)
        memcpy(message_id + at, <uint8_t*> &it.cells[number] + sizeof(uint32_t), part)
        number = it.cells[number].next
        at += part


cdef Py_hash_t _hash_of(Generation* it, Cell* cell) noexcept:
    """The hash of a record's messageID: what Python's `hash` gives for it."""
    cdef uint8_t message_id[ID_MAX_BYTES]
    if cell.length <= ID_BYTES:
        return KV_HASH(cell.id, cell.length)
    _read(it, cell, message_id)
    return KV_HASH(message_id, cell.length)


cdef inline uint32_t _take_cell(Generation* it) noexcept:
    """A free cell; there must be one (`_make_room`)."""
    cdef uint32_t number = it.free
    if number:
        it.free = it.cells[number].next
        it.free_count -= 1
    else:
        number = it.fresh
        it.fresh += 1
    return number


cdef inline void _free_cell(Generation* it, uint32_t number) noexcept:
    it.cells[number].next = it.free
    it.free = number
    it.free_count += 1


cdef int _make_room(Generation* it, uint32_t cells) except -1:
    """Room for so many cells and for a bucket more. MemoryError, nothing changed but address space."""
    cdef void* made
    if it.free_count < cells:
        if it.fresh >= <uint32_t> 0xFFFFFF00:
            raise MemoryError
        if (<int64_t> it.fresh + cells) * CELL_BYTES > it.cells_bytes:
            made = _grown(it.cells, it.cells_bytes, 2 * it.cells_bytes)
            if made is NULL:
                raise MemoryError
            it.cells = <Cell*> made
            it.cells_bytes *= 2
    if (<int64_t> it.buckets + 1) * HEAD_BYTES > it.heads_bytes:
        made = _grown(it.heads, it.heads_bytes, 2 * it.heads_bytes)
        if made is NULL:
            raise MemoryError
        it.heads = <uint32_t*> made
        it.heads_bytes *= 2
    return 0


cdef void _split(Generation* it) noexcept:
    """One bucket more, with what belongs there of the one that had it until now."""
    cdef uint32_t number, added = it.buckets
    cdef uint32_t* at
    cdef uint32_t* end
    if added > it.mask:
        it.mask = 2 * it.mask + 1
    at = &it.heads[added & it.mask >> 1]
    it.buckets += 1
    end = &it.heads[added]
    while at[0]:
        number = at[0]
        if <uint32_t> _hash_of(it, &it.cells[number]) & it.mask == added:
            at[0] = it.cells[number].next
            end[0] = number
            end = &it.cells[number].next
        else:
            at = &it.cells[number].next
    end[0] = 0


# --- the memory ----------------------------------------------------------------------------------------------------


cdef class Memory:
    """All of a reply memory; not to be made by itself."""

    def __cinit__(self, double ttl_s, int64_t max_bytes, *, uint32_t buckets=BUCKETS):
        assert buckets and not buckets & buckets - 1, buckets
        self.bucket_count = buckets
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes

    def __dealloc__(self):
        cdef int number
        _free_some(&self._newest, self._newest.cells_bytes)
        _free_some(&self._oldest, self._oldest.cells_bytes)
        for number in range(self._expired_count):
            _free_some(&self._expired[number], self._expired[number].cells_bytes)

    # --- by messageID ----------------------------------------------------------------------------------------

    cdef Cell* _find(self, Generation* it, bytes message_id) noexcept:
        """The record of a messageID; NULL when there is none of its slot's era."""
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef Cell* cell
        cdef uint32_t number
        if it.count == 0:
            return NULL
        number = it.heads[_bucket_of(it, hash(message_id))]
        while number:
            cell = &it.cells[number]
            if _is_of(it, cell, start, length) and cell.era == self._eras[cell.slot]:
                return cell
            number = cell.next
        return NULL

    cdef int code_of(self, bytes message_id) except -2:
        cdef Cell* cell = self._find(&self._newest, message_id)
        if cell is NULL:
            cell = self._find(&self._oldest, message_id)
        return -1 if cell is NULL else cell.code

    cdef int remember(self, bytes message_id, uint8_t slot, uint8_t code) except -1:
        cdef Generation* it = &self._newest
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id), at = ID_PART_BYTES, part
        cdef uint32_t number, more, buckets
        cdef uint32_t* end
        cdef Cell* cell
        if length > ID_MAX_BYTES:
            raise OverflowError(f"a messageID of {length} bytes")
        if it.buckets == 0:
            buckets = min(self.bucket_count, <uint32_t> BUCKETS_MIN)
            while buckets < self._oldest.records // 2:
                buckets *= 2
            _begin(it, buckets)
        _make_room(it, _cells_for(length))
        if it.records >= it.buckets:
            _split(it)
        number = _take_cell(it)
        cell = &it.cells[number]
        cell.length, cell.slot, cell.era, cell.code = <uint8_t> length, slot, self._eras[slot], code
        cell.next = 0
        end = &it.heads[_bucket_of(it, hash(message_id))]
        while end[0]:
            end = &it.cells[end[0]].next
        end[0] = number
        if length <= ID_BYTES:
            memcpy(cell.id, start, length)
        else:
            memcpy(cell.id, start, ID_PART_BYTES)
            more = _take_cell(it)
            memcpy(&cell.id[ID_PART_BYTES], &more, sizeof(more))
            while True:
                part = min(<Py_ssize_t> MORE_BYTES, length - at)
                memcpy(<uint8_t*> &it.cells[more] + sizeof(uint32_t), start + at, part)
                at += part
                it.cells[more].next = _take_cell(it) if at < length else 0
                more = it.cells[more].next
                if not more:
                    break
        it.records += 1
        it.count += 1
        it.by_slot[slot] += 1
        self.full = self._used() >= self.max_bytes
        return 0

    def get(self, bytes message_id):
        """The error code remembered for a messageID; None when there is none."""
        cdef int code = self.code_of(message_id)
        return None if code < 0 else code

    def add(self, bytes message_id, uint8_t slot, uint8_t code):
        """Remember the error code of a messageID that is not remembered yet, or not with this slot."""
        self.remember(message_id, slot, code)

    def forget(self, bytes message_id):
        """Forget a reply whose receiver has acknowledged it, with whatever slots; False when there was none."""
        cdef bint in_newest = self._forget_in(&self._newest, message_id)
        cdef bint in_oldest = self._forget_in(&self._oldest, message_id)
        if in_newest or in_oldest:
            self.full = self._used() >= self.max_bytes
        return in_newest or in_oldest

    cdef bint _forget_in(self, Generation* it, bytes message_id) noexcept:
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef uint32_t* at
        cdef uint32_t number, more
        cdef Cell* cell
        cdef bint forgot = False
        if it.count == 0:
            return False
        at = &it.heads[_bucket_of(it, hash(message_id))]
        while at[0]:
            number = at[0]
            cell = &it.cells[number]
            if not _is_of(it, cell, start, length) or cell.era != self._eras[cell.slot]:
                at = &cell.next
                continue
            at[0] = cell.next
            it.records -= 1
            it.count -= 1
            it.by_slot[cell.slot] -= 1
            more = 0 if length <= ID_BYTES else _more(cell)
            _free_cell(it, number)
            while more:
                number = more
                more = it.cells[number].next
                _free_cell(it, number)
            forgot = True
        return forgot

    def slots_of(self, bytes message_id):
        """The slots (a mask) that a messageID is remembered with."""
        return self._slots_in(&self._newest, message_id) | self._slots_in(&self._oldest, message_id)

    cdef object _slots_in(self, Generation* it, bytes message_id):
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef Cell* cell
        cdef uint32_t number = 0
        slots = 0
        if it.count:
            number = it.heads[_bucket_of(it, hash(message_id))]
        while number:
            cell = &it.cells[number]
            if _is_of(it, cell, start, length) and cell.era == self._eras[cell.slot]:
                slots |= (<object> 1) << cell.slot
            number = cell.next
        return slots

    # --- in time ---------------------------------------------------------------------------------------------

    def clear(self):
        """Forget everything. Freed little by little."""
        self._expire(&self._oldest)
        self._expire(&self._newest)
        self.full = self._used() >= self.max_bytes

    def advance(self, double now):
        """Let time pass up to `now` (monotonic seconds); to be called several times a second."""
        cdef Generation* last
        cdef double passed
        if self._last_now is not None:
            passed = now - <double> self._last_now
            self._age_s += min(max(0.0, passed), ADVANCE_MAX_S)
        self._last_now = now
        if self._expired_count:
            last = &self._expired[self._expired_count - 1]
            if not _free_some(last, max(<int64_t> FREE_MIN_BYTES, self.max_bytes // FREE_SHARE)):
                self._expired_count -= 1
        if self._age_s >= self.ttl_s:
            self._age_s = 0.0
            self._expire(&self._oldest)
            self._oldest = self._newest
            memset(&self._newest, 0, sizeof(Generation))
            self.full = self._used() >= self.max_bytes

    cdef void _expire(self, Generation* it) noexcept:
        """Forget a generation, and leave its memory to be freed; of the first of too many it is freed at once."""
        cdef int number
        if it.buckets == 0:
            return
        if self._expired_count == EXPIRED_MAX:
            _free_some(&self._expired[0], self._expired[0].cells_bytes)
            self._expired_count -= 1
            for number in range(self._expired_count):
                self._expired[number] = self._expired[number + 1]
        self._expired[self._expired_count] = it[0]
        self._expired_count += 1
        memset(it, 0, sizeof(Generation))

    cdef int64_t _used(self) noexcept:
        return _used_in(&self._newest, True) + _used_in(&self._oldest, False)

    @property
    def used_bytes(self):
        """What the remembered replies cost, buckets included."""
        return self._used()

    @property
    def expiring_bytes(self):
        """Of generations that have expired: the address space that is still to be freed."""
        return sum([self._expired[number].cells_bytes for number in range(self._expired_count)])

    @property
    def wait_ms(self):
        """How long until there is room again, as the Python says."""
        cdef double left_s = self.ttl_s - self._age_s
        if _used_in(&self._newest, True) >= self.max_bytes:
            left_s += self.ttl_s
        return max(1, round(left_s * 1000))

    def __len__(self):
        return self._newest.count + self._oldest.count

    def __sizeof__(self):
        return object.__sizeof__(self) + self._used()

    # --- by slot ---------------------------------------------------------------------------------------------

    def has_slot(self, uint8_t slot):
        """Whether anything is remembered for the slot."""
        return bool(self._newest.by_slot[slot] or self._oldest.by_slot[slot])

    def scan(self, uint32_t start, uint32_t count, slots):
        """The records of these slots in `count` buckets from `start` on: messageID, slot, error code."""
        cdef uint32_t end = <uint32_t> min(<uint64_t> start + count, <uint64_t> self.bucket_count)
        cdef bytes wanted = slots.to_bytes(SLOT_COUNT // 8, "little")
        return self._scan_in(&self._oldest, start, end, wanted) + self._scan_in(&self._newest, start, end, wanted)

    cdef list _scan_in(self, Generation* it, uint32_t start, uint32_t end, bytes wanted):
        """The records of one generation, in order."""
        cdef const uint8_t* flags = <const uint8_t*> PyBytes_AS_STRING(wanted)
        cdef uint8_t message_id[ID_MAX_BYTES]
        cdef uint32_t number, part
        cdef uint64_t at
        cdef Cell* cell
        found = []
        if it.count == 0:
            return found
        for part in range(start, end):  # of the Python's buckets, each some of these, or a part of one
            at = part if self.bucket_count <= it.buckets else _bucket_of(it, part)
            while at < it.buckets:
                number = it.heads[at]
                while number:
                    cell = &it.cells[number]
                    if (
                        flags[cell.slot >> 3] >> (cell.slot & 7) & 1
                        and cell.era == self._eras[cell.slot]
                        and (
                            self.bucket_count <= it.buckets
                            or (<uint32_t> _hash_of(it, cell) & self.bucket_count - 1) == part
                        )
                    ):
                        _read(it, cell, message_id)
                        found.append(
                            (PyBytes_FromStringAndSize(<char*> message_id, cell.length), cell.slot, cell.code)
                        )
                    number = cell.next
                at += self.bucket_count
        found.sort()  # what other nodes are sent does not depend on this process's hash
        return found

    def forget_slots(self, slots):
        """Forget everything that is remembered for these slots (a mask)."""
        cdef int slot
        if slots == (<object> 1 << SLOT_COUNT) - 1:
            self.clear()
            return
        for slot in range(SLOT_COUNT):
            if slots >> slot & 1 and (self._newest.by_slot[slot] or self._oldest.by_slot[slot]):
                self._newest.count -= self._newest.by_slot[slot]
                self._oldest.count -= self._oldest.by_slot[slot]
                self._newest.by_slot[slot] = self._oldest.by_slot[slot] = 0
                self._eras[slot] += 1


class ReplyMemory(Memory):
    """See app/storage/replies.py. A class of Python's, so that whoever looks on can put itself before a method."""
