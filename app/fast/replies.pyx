# cython: boundscheck=False, wraparound=False, cdivision=True
"""What stands in for `ReplyMemory` of app/storage/replies.py, which says what it does.

What differs is the memory. Each generation has a mapping of cells of 24 bytes, taken one after the other, or one that was
freed in it. A messageID of up to 16 bytes takes one cell, each 20 bytes more another. All generations share the heads of
the buckets, 4 bytes each, which become one more with each record (linear hashing, Litwin 1980), and fewer by and by when
there are fewer records, so there is no step in which they all move. The mappings are moved by the kernel when they grow,
not copied, and what has not been used of them is not there.

A bucket lists its records from the newest to the oldest. A place, of which each is led to by the one before, is the
number of a generation and that of a cell, so a list ends where a place is of a generation that has expired: to forget
one is to count on, whatever was in it. Its number comes again after 15 others. By then nothing leads there any more:
expired heads are cleared while the next generation fills, and what a record leads to was remembered with it.

`scan` goes by the buckets that the Python has: by the same bits of the same hash.

`used_bytes` is what is resident, but for a part of a page at the ends. What was forgotten in an older generation is
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
    PARTS = 4  # likewise
    GENERATIONS = 16  # that are told apart: those remembered, as many that these may lead to, and more
    NUMBER_BITS = 28  # of a place: that of the cell; above them that of the generation
    NUMBER_MASK = (1 << NUMBER_BITS) - 1
    FREE_SHARE = 32  # of what may be used, what one `advance` gives back of generations that have expired,
    FREE_MIN_BYTES = 1 << 20  # but so much in any case: 0.1 ms
    FIT_SHARE = 64  # of the buckets, those by which one `advance` makes them fewer,
    FIT_MIN = 1024  # but so many in any case: 0.05 ms
    BUCKETS_MIN = 1024  # there are so many at least, unless fewer are asked for: a page
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
# A record that is remembered leads to one that was remembered when it came, and a head of that, once it has expired, is
# cleared within a generation.
assert GENERATIONS > 2 * (PARTS + 1) + 1


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


cdef inline int64_t _resident_in(Generation* it) noexcept:
    """Of the mapping; what is behind has never been in use."""
    return min(it.cells_bytes, _pages(<int64_t> it.fresh * CELL_BYTES))


cdef int64_t _free_some(Generation* it, int64_t size_bytes) noexcept:
    """Give so much of a generation's cells back to the system, their end first; how much it was."""
    cdef int64_t resident = _resident_in(it)
    cdef int64_t left = max(<int64_t> 0, resident - size_bytes) // PAGE_BYTES * PAGE_BYTES
    if it.cells is NULL:
        return 0
    munmap(<uint8_t*> it.cells + left, it.cells_bytes - left)
    it.cells_bytes = left
    it.fresh = <uint32_t> (left // CELL_BYTES)
    if left == 0:
        it.cells = NULL
    return resident - left


cdef inline int64_t _used_in(Generation* it, bint may_reuse) noexcept:
    if it.fresh == 0:
        return 0
    return (<int64_t> it.fresh - 1 - (it.free_count if may_reuse else 0)) * CELL_BYTES


cdef inline uint32_t _more(Cell* cell) noexcept:
    """The number of the cell in which a messageID of more than 16 bytes goes on."""
    cdef uint32_t number
    memcpy(&number, &cell.id[ID_PART_BYTES], sizeof(number))
    return number


cdef inline uint32_t _cells_for(Py_ssize_t length) noexcept:
    return 1 if length <= ID_BYTES else <uint32_t> (1 + (length - ID_PART_BYTES + MORE_BYTES - 1) // MORE_BYTES)


cdef bint _goes_on_with(Generation* it, Cell* cell, const uint8_t* message_id, Py_ssize_t length) noexcept:
    """Whether a record's messageID of more than 16 bytes is this one."""
    cdef Py_ssize_t at = ID_PART_BYTES, part
    cdef uint32_t number
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


# --- places: generation and cell ------------------------------------------------------------------------------------


cdef inline Generation* _back(Memory memory, int generations) noexcept:
    """The generation so many before the newest."""
    return &memory._generations[(memory._newest - <uint32_t> generations) % GENERATIONS]


cdef inline Cell* _cell(Memory memory, uint32_t place) noexcept:
    return &memory._generations[place >> NUMBER_BITS].cells[place & NUMBER_MASK]


cdef inline bint _lives(Memory memory, uint32_t place) noexcept:
    """Whether it is one, and of a generation that is remembered."""
    return place != 0 and (memory._newest - (place >> NUMBER_BITS)) % GENERATIONS <= <uint32_t> PARTS


cdef inline bint _is_of(Memory memory, uint32_t place, const uint8_t* message_id, Py_ssize_t length) noexcept:
    """Whether the record there is of this messageID, and of its slot's era."""
    cdef Cell* cell = _cell(memory, place)
    if cell.length != length or cell.era != memory._eras[cell.slot]:
        return False
    if length <= ID_BYTES:
        return memcmp(cell.id, message_id, length) == 0
    return _goes_on_with(&memory._generations[place >> NUMBER_BITS], cell, message_id, length)


cdef Py_hash_t _hash_of(Memory memory, uint32_t place) noexcept:
    """The hash of a record's messageID: what Python's `hash` gives for it."""
    cdef uint8_t message_id[ID_MAX_BYTES]
    cdef Cell* cell = _cell(memory, place)
    if cell.length <= ID_BYTES:
        return KV_HASH(cell.id, cell.length)
    _read(&memory._generations[place >> NUMBER_BITS], cell, message_id)
    return KV_HASH(message_id, cell.length)


# --- buckets -------------------------------------------------------------------------------------------------------


cdef inline uint32_t* _head(Memory memory, bytes message_id) noexcept:
    """Of the bucket of a messageID; there must be buckets."""
    cdef uint32_t number = <uint32_t> hash(message_id) & memory._mask
    return &memory._heads[number if number < memory._buckets else number & memory._mask >> 1]


cdef int _make_room(Memory memory, Generation* it, uint32_t cells) except -1:
    """Room for so many cells and for a bucket more. MemoryError, nothing changed but address space."""
    cdef void* made
    cdef int64_t size_bytes
    if it.free_count < cells:
        if it.fresh + cells > <uint32_t> NUMBER_MASK:
            raise MemoryError
        if (<int64_t> it.fresh + cells) * CELL_BYTES > it.cells_bytes:
            size_bytes = max(2 * it.cells_bytes, _pages(CELLS_MIN_BYTES))
            made = _grown(it.cells, it.cells_bytes, size_bytes)
            if made is NULL:
                raise MemoryError
            it.cells = <Cell*> made
            it.cells_bytes = size_bytes
            it.fresh = max(it.fresh, <uint32_t> 1)
    if (<int64_t> memory._buckets + 1) * HEAD_BYTES > memory._heads_bytes:
        size_bytes = max(2 * memory._heads_bytes, _pages(BUCKETS_MIN * HEAD_BYTES))
        made = _grown(memory._heads, memory._heads_bytes, size_bytes)
        if made is NULL:
            raise MemoryError
        memory._heads = <uint32_t*> made
        memory._heads_bytes = size_bytes
    return 0


cdef void _split(Memory memory) noexcept:
    """One bucket more, with what belongs there of the one that had it until now."""
    cdef uint32_t place, added = memory._buckets
    cdef uint32_t* at
    cdef uint32_t* end
    if added > memory._mask:
        memory._mask = 2 * memory._mask + 1
    at = &memory._heads[added & memory._mask >> 1]
    memory._buckets += 1
    end = &memory._heads[added]
    while _lives(memory, at[0]):
        place = at[0]
        if <uint32_t> _hash_of(memory, place) & memory._mask == added:
            at[0] = _cell(memory, place).next
            end[0] = place
            end = &_cell(memory, place).next
        else:
            at = &_cell(memory, place).next
    at[0] = end[0] = 0


cdef void _merge(Memory memory) noexcept:
    """One bucket fewer: the last one's list goes to where it had been split from. There must be two."""
    cdef uint32_t place, removed = memory._buckets - 1
    cdef uint32_t* at
    if removed == memory._mask >> 1:
        memory._mask >>= 1
    at = &memory._heads[removed & memory._mask >> 1]
    place = memory._heads[removed]
    memory._buckets = removed
    while _lives(memory, place):
        if not _lives(memory, at[0]) or (
            (memory._newest - (at[0] >> NUMBER_BITS)) % GENERATIONS
            > (memory._newest - (place >> NUMBER_BITS)) % GENERATIONS
        ):
            at[0], place = place, at[0]
        at = &_cell(memory, at[0]).next


cdef void _fit(Memory memory) noexcept:
    """Some buckets fewer, if there are twice as many as records; none, if there are no records."""
    cdef uint32_t least = min(memory.bucket_count, <uint32_t> BUCKETS_MIN)
    cdef uint32_t left = max(memory._buckets // FIT_SHARE, <uint32_t> FIT_MIN)
    cdef uint32_t before = memory._buckets
    cdef int64_t size_bytes
    if memory._heads is NULL:
        return
    if memory._records == 0:
        munmap(memory._heads, memory._heads_bytes)
        memory._heads = NULL
        memory._heads_bytes = 0
        memory._buckets = memory._mask = memory._swept = 0
        return
    while left and memory._buckets > least and memory._buckets // 2 > memory._records:
        _merge(memory)
        left -= 1
    size_bytes = _pages(<int64_t> memory._buckets * HEAD_BYTES)
    if memory._buckets < before and size_bytes < memory._heads_bytes:
        munmap(<uint8_t*> memory._heads + size_bytes, memory._heads_bytes - size_bytes)
        memory._heads_bytes = size_bytes


cdef void _sweep(Memory memory, uint32_t until) noexcept:
    """Clear the heads up to this bucket that are of what has expired."""
    cdef uint32_t number
    for number in range(memory._swept, until):
        if not _lives(memory, memory._heads[number]):
            memory._heads[number] = 0
    memory._swept = max(memory._swept, until)


cdef inline int64_t _used(Memory memory) noexcept:
    cdef int64_t newest = _used_in(_back(memory, 0), True)
    return newest + memory._older_bytes + <int64_t> memory._buckets * HEAD_BYTES


# --- the memory ----------------------------------------------------------------------------------------------------


cdef class Memory:
    """All of a reply memory; not to be made by itself."""

    def __cinit__(self, double ttl_s, int64_t max_bytes, *, uint32_t buckets=BUCKETS):
        assert buckets and not buckets & buckets - 1, buckets
        self.bucket_count = buckets
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self._generation_s = ttl_s / PARTS

    def __dealloc__(self):
        cdef int number
        for number in range(GENERATIONS):
            _free_some(&self._generations[number], self._generations[number].cells_bytes)
        if self._heads is not NULL:
            munmap(self._heads, self._heads_bytes)

    # --- by messageID ----------------------------------------------------------------------------------------

    cdef int code_of(self, bytes message_id) except -2:
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef uint32_t place
        if self._records == 0:
            return -1
        place = _head(self, message_id)[0]
        while _lives(self, place):
            if _is_of(self, place, start, length):
                return _cell(self, place).code
            place = _cell(self, place).next
        return -1

    cdef int remember(self, bytes message_id, uint8_t slot, uint8_t code) except -1:
        cdef Generation* it = &self._generations[self._newest]
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id), at = ID_PART_BYTES, part
        cdef uint32_t number, more
        cdef uint32_t* head
        cdef Cell* cell
        if length > ID_MAX_BYTES:
            raise OverflowError(f"a messageID of {length} bytes")
        _make_room(self, it, _cells_for(length))
        if self._buckets == 0:
            self._buckets = min(self.bucket_count, <uint32_t> BUCKETS_MIN)
            self._mask = self._buckets - 1
        elif self._records >= self._buckets:
            _split(self)
        number = _take_cell(it)
        cell = &it.cells[number]
        cell.length, cell.slot, cell.era, cell.code = <uint8_t> length, slot, self._eras[slot], code
        head = _head(self, message_id)
        cell.next = head[0] if _lives(self, head[0]) else 0
        head[0] = self._newest << NUMBER_BITS | number
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
        self._records += 1
        it.records += 1
        it.count += 1
        it.by_slot[slot] += 1
        self.full = _used(self) >= self.max_bytes
        return 0

    def get(self, bytes message_id):
        """The error code remembered for a messageID, the last where it came with several slots; None: there is none."""
        cdef int code = self.code_of(message_id)
        return None if code < 0 else code

    def add(self, bytes message_id, uint8_t slot, uint8_t code):
        """Remember the error code of a messageID that is not remembered yet, or not with this slot."""
        self.remember(message_id, slot, code)

    def forget(self, bytes message_id):
        """Forget a reply whose receiver has acknowledged it, with whatever slots; False when there was none."""
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef Generation* it
        cdef uint32_t* at
        cdef uint32_t place, number, more
        cdef Cell* cell
        cdef bint forgot = False
        if self._records == 0:
            return False
        at = _head(self, message_id)
        while _lives(self, at[0]):
            place = at[0]
            cell = _cell(self, place)
            if not _is_of(self, place, start, length):
                at = &cell.next
                continue
            it = &self._generations[place >> NUMBER_BITS]
            at[0] = cell.next
            self._records -= 1
            it.records -= 1
            it.count -= 1
            it.by_slot[cell.slot] -= 1
            number = place & NUMBER_MASK
            more = 0 if length <= ID_BYTES else _more(cell)
            _free_cell(it, number)
            while more:
                number = more
                more = it.cells[number].next
                _free_cell(it, number)
            forgot = True
        if forgot:
            self.full = _used(self) >= self.max_bytes
        return forgot

    def slots_of(self, bytes message_id):
        """The slots (a mask) that a messageID is remembered with."""
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message_id)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message_id)
        cdef uint32_t place
        slots = 0
        if self._records == 0:
            return slots
        place = _head(self, message_id)[0]
        while _lives(self, place):
            if _is_of(self, place, start, length):
                slots |= (<object> 1) << _cell(self, place).slot
            place = _cell(self, place).next
        return slots

    # --- in time ---------------------------------------------------------------------------------------------

    def clear(self):
        """Forget everything. Freed little by little, but for the buckets: they are empty then."""
        cdef int number
        for number in range(PARTS + 1):
            self._begin_generation()
        _fit(self)
        self.full = _used(self) >= self.max_bytes

    def advance(self, double now):
        """Let time pass up to `now` (monotonic seconds); to be called several times a second."""
        cdef double passed
        if self._last_now is not None:
            passed = now - <double> self._last_now
            self._age_s += min(max(0.0, passed), ADVANCE_MAX_S)
        self._last_now = now
        self._free_expired(max(<int64_t> FREE_MIN_BYTES, self.max_bytes // FREE_SHARE))
        _fit(self)
        _sweep(self, <uint32_t> (self._buckets * min(1.0, self._age_s / self._generation_s)))
        if self._age_s >= self._generation_s:
            self._age_s = 0.0
            self._swept = 0
            self._begin_generation()
            self.full = _used(self) >= self.max_bytes

    cdef void _begin_generation(self) noexcept:
        """A new one, by which the oldest expires. What is left of the one that had its number is freed at once."""
        cdef Generation* it
        cdef int back
        self._newest = (self._newest + 1) % GENERATIONS
        it = _back(self, 0)
        _free_some(it, it.cells_bytes)
        memset(it, 0, sizeof(Generation))
        self._records -= _back(self, PARTS + 1).records
        self._older_bytes = 0
        for back in range(1, PARTS + 1):
            self._older_bytes += _used_in(_back(self, back), False)

    cdef void _free_expired(self, int64_t size_bytes) noexcept:
        """Give so much of what has expired back to the system, the oldest first."""
        cdef int back
        for back in range(GENERATIONS - 1, PARTS, -1):
            if size_bytes > 0:
                size_bytes -= _free_some(_back(self, back), size_bytes)

    @property
    def used_bytes(self):
        """What the remembered replies cost, buckets included."""
        return _used(self)

    @property
    def expiring_bytes(self):
        """Of generations that have expired: what is still to be freed."""
        return sum([_resident_in(_back(self, back)) for back in range(PARTS + 1, GENERATIONS)])

    @property
    def wait_ms(self):
        """How long until there is room again, as the Python says."""
        cdef double left_s = self._generation_s - self._age_s
        cdef int64_t used = _used(self)
        cdef int back
        for back in range(PARTS, 0, -1):
            used -= _used_in(_back(self, back), False)
            if used < self.max_bytes:
                break
            left_s += self._generation_s
        return max(1, round(left_s * 1000))

    def __len__(self):
        return sum([_back(self, back).count for back in range(PARTS + 1)])

    def __sizeof__(self):
        return object.__sizeof__(self) + _used(self)

    # --- by slot ---------------------------------------------------------------------------------------------

    def has_slot(self, uint8_t slot):
        """Whether anything is remembered for the slot."""
        cdef int back
        for back in range(PARTS + 1):
            if _back(self, back).by_slot[slot]:
                return True
        return False

    def scan(self, uint32_t start, uint32_t count, slots):
        """The records of these slots in `count` buckets from `start` on, in order: messageID, slot, error code."""
        cdef uint32_t end = <uint32_t> min(<uint64_t> start + count, <uint64_t> self.bucket_count)
        cdef bytes wanted = slots.to_bytes(SLOT_COUNT // 8, "little")
        cdef const uint8_t* flags = <const uint8_t*> PyBytes_AS_STRING(wanted)
        cdef uint8_t message_id[ID_MAX_BYTES]
        cdef uint32_t place, part
        cdef uint64_t at
        cdef Cell* cell
        found = []
        if self._records == 0:
            return found
        for part in range(start, end):  # of the Python's buckets, each some of these, or a part of one
            at = part & self._mask
            if at >= self._buckets:
                at &= self._mask >> 1
            while at < self._buckets:
                place = self._heads[at]
                while _lives(self, place):
                    cell = _cell(self, place)
                    if (
                        flags[cell.slot >> 3] >> (cell.slot & 7) & 1
                        and cell.era == self._eras[cell.slot]
                        and (
                            self.bucket_count <= self._buckets
                            or (<uint32_t> _hash_of(self, place) & self.bucket_count - 1) == part
                        )
                    ):
                        _read(&self._generations[place >> NUMBER_BITS], cell, message_id)
                        found.append(
                            (PyBytes_FromStringAndSize(<char*> message_id, cell.length), cell.slot, cell.code)
                        )
                    place = cell.next
                at += self.bucket_count
        found.sort()  # what other nodes are sent does not depend on this process's hash
        return found

    def forget_slots(self, slots):
        """Forget everything that is remembered for these slots (a mask)."""
        cdef Generation* it
        cdef int back
        cdef int slot
        if slots == (<object> 1 << SLOT_COUNT) - 1:
            self.clear()
            return
        for slot in range(SLOT_COUNT):
            if slots >> slot & 1 and self.has_slot(slot):
                for back in range(PARTS + 1):
                    it = _back(self, back)
                    it.count -= it.by_slot[slot]
                    it.by_slot[slot] = 0
                self._eras[slot] += 1


class ReplyMemory(Memory):
    """See app/storage/replies.py. A class of Python's, so that whoever looks on can put itself before a method."""
