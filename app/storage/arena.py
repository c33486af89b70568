"""A slab arena: variable-sized records in one anonymous mapping whose resident size can be lowered at will.

The problem: memory that CPython or glibc has once taken for small objects comes back to the system only when
a whole 1 MiB arena (or the top of the heap) happens to be empty. A cache whose value sizes change over time
therefore outgrows any bound that is kept by counting bytes alone.

The approach, memcached's: the mapping is cut into pages of 64 KiB; a page belongs to one size class and holds
chunks of that one size; a page whose last chunk is freed goes back to the system at once (MADV_DONTNEED). What
the arena keeps resident is thus a known number, and every page that is given up lowers the process by that
page. Pages that are merely sparse are emptied by moving their records together (see `relocatable_page`), which
is possible because a record carries its key: its owner can be found and told the new place.

A record is stored as one length byte, the key, then the blob; a zero length byte marks a free chunk. A handle
names a record's blob: position in the low 44 bits (16 TiB), length above. Handles fit a two-digit int (32 bytes).

Rejected: values as bytes objects on the heap (45 to 70 MiB held where this holds 80, and pages pinned by a few
survivors); a log with a cleaner (copies nine bytes for each one written when 90 % full).
"""

import mmap
from array import array
from typing import Final

from app.fast import piece

# What goes back to the system at once. Smaller: less room for six records of the largest size, so more of a page is
# unused. Larger: fewer pages lose their last record by themselves, and emptying one takes longer.
PAGE_BYTES: Final = 64 * 1024
# The most chunks in a page: of those smaller than 128 bytes it takes fewer than fit. More: emptying a page, which is
# one step, takes longer (1.5 µs a record). Fewer: the address space that is reserved holds fewer small records, which
# should not be fewer than the heap has room for (docs/memory.md, "Limits").
CHUNKS_MAX: Final = 512
# A position in the mapping is a page's number above these bits, and an offset in it below.
_PAGE_SHIFT: Final = 16
_PAGE_MASK: Final = PAGE_BYTES - 1
# A handle's bits from here on are the length; those below, the position.
_LENGTH_SHIFT: Final = 44
_POSITION_MASK: Final = (1 << _LENGTH_SHIFT) - 1
# Pages that were cleared which one new page may have given back: eight of the smallest make room for a large one.
_GIVE_BACK_MAX: Final = 64
_SYSTEM_PAGE_BYTES: Final = mmap.PAGESIZE  # the kernel's unit of resident memory

# The largest record: a 10,000-byte value with its framing (at most 3 + 11 bytes), a 32-byte key, one length byte,
# and 33 bytes to spare for what a cluster keeps with an entry.
RECORD_MAX_BYTES: Final = 10_080


def _size_classes() -> tuple[int, ...]:
    """Chunk sizes: multiples of 8 that grow by at most an eighth, so at most 11 % of a chunk is unused."""
    sizes = [16]
    while sizes[-1] < RECORD_MAX_BYTES:
        step = max(8, 1 << (sizes[-1].bit_length() - 4))
        sizes.append(min(sizes[-1] + step, RECORD_MAX_BYTES))
    return tuple(sizes)


# By number of the class: what its chunks take (bytes), rising.
SIZE_CLASSES: Final = _size_classes()

assert PAGE_BYTES == 1 << _PAGE_SHIFT
assert PAGE_BYTES % _SYSTEM_PAGE_BYTES == 0, "a page must be made of whole system pages to be given back"
assert all(size % 8 == 0 for size in SIZE_CLASSES)
assert CHUNKS_MAX <= 0xFFFF, "chunk indexes must fit 16 bits"
assert RECORD_MAX_BYTES << _LENGTH_SHIFT < 1 << 60, "a handle must fit two digits of an int"


class _Class:
    """One size class: its pages that have a free chunk, and how many chunks are free in them."""

    __slots__ = ("all_free", "chunks", "free_chunks", "number", "open_pages", "resident_bytes", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.chunks = min(CHUNKS_MAX, PAGE_BYTES // size)
        self.all_free = array("H", range(self.chunks - 1, -1, -1))
        touched = self.chunks * size
        self.resident_bytes = -(-touched // _SYSTEM_PAGE_BYTES) * _SYSTEM_PAGE_BYTES
        self.open_pages: dict[_Page, None] = {}  # insertion-ordered; the newest is filled first
        self.free_chunks = 0


class _Page:
    """One page in use: where it starts, its class, a stack of the indexes of its free chunks, from which index on they
    have never been in use, and when it was written to last, in writes to the arena so far."""

    __slots__ = ("free", "fresh", "owner", "start", "written")

    def __init__(self, start: int, owner: _Class) -> None:
        self.start = start
        self.owner = owner
        self.free = owner.all_free[:]
        self.fresh = 0
        self.written = 0


@piece
class Arena:
    """Records in size-classed pages, at most `limit_bytes` of them resident.

    `limit_bytes` may be changed at any time; lowering it below `resident_bytes` frees nothing by itself but
    stops every new page until the owner has given enough pages back.
    """

    def __init__(self, reserve_bytes: int, limit_bytes: int) -> None:
        """Reserve address space (not memory) for `reserve_bytes` of pages."""
        page_count = max(1, reserve_bytes // PAGE_BYTES)
        self._map = mmap.mmap(-1, page_count * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Huge pages would make 2 MiB resident where 4 KiB are touched, and would not come back page by page.
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.records: Final = self._map  # where positions point into, for whoever reads keys there
        self._pages: list[_Page | None] = [None] * page_count
        self._spare = array("I", range(page_count - 1, -1, -1))
        self._classes = [_Class(number, size) for number, size in enumerate(SIZE_CLASSES)]
        self._class_of_8 = self._class_table()
        self.limit_bytes = limit_bytes
        self.resident_bytes = 0  # of all pages not given back, rounded up to system pages
        self.cleared_bytes = 0  # of those in pages that hold nothing any more
        self._cleared: list[_Page] = []
        self._writes = 0  # records put somewhere so far
        self.chunk_bytes = 0  # in chunks that hold a record
        self.free_chunk_bytes = 0  # in free chunks of pages in use: what moving records together could win at best

    def _class_table(self) -> list[_Class]:
        """The class for each record size, indexed by the size in 8-byte steps, rounded up."""
        table = []
        number = 0
        for steps in range(RECORD_MAX_BYTES // 8 + 1):
            while SIZE_CLASSES[number] < steps * 8:
                number += 1
            table.append(self._classes[number])
        return table

    # --- records ---------------------------------------------------------------------------------------------

    def store(self, key: bytes, blob: bytes) -> int:
        """Store a record; returns its handle, or -1 when that takes a new page and the limit allows none.

        `key` is 1 to 255 bytes, `blob` at least 1 (a handle must point into its own chunk); together they are at
        most RECORD_MAX_BYTES - 1.
        """
        key_bytes = len(key)
        blob_bytes = len(blob)
        cls = self._class_of_8[(key_bytes + blob_bytes + 8) >> 3]
        size = cls.size
        open_pages = cls.open_pages
        if open_pages:
            page = next(reversed(open_pages))
        else:
            fresh = self._open_page(cls)
            if fresh is None:
                return -1
            page = fresh
        free = page.free
        index = free.pop()
        if index == page.fresh:
            page.fresh += 1
        at = page.start + index * size
        if not free:
            del open_pages[page]
        cls.free_chunks -= 1
        self.chunk_bytes += size
        self.free_chunk_bytes -= size
        page.written = self._writes = self._writes + 1
        self._map[at : at + 1 + key_bytes + blob_bytes] = b"%c%b%b" % (key_bytes, key, blob)
        return (at + 1 + key_bytes) | (blob_bytes << _LENGTH_SHIFT)

    def blob(self, handle: int) -> bytes:
        """The blob of a record."""
        at = handle & _POSITION_MASK
        return self._map[at : at + (handle >> _LENGTH_SHIFT)]

    def replace(self, handle: int, key_bytes: int, blob: bytes, *, loosely: bool = False) -> int:
        """Replace a record's blob in its chunk.

        Returns the new handle, or -1, nothing done, when a new record of this size would be given a chunk of
        another size. With `loosely`, only when the blob does not fit at all.
        """
        at = handle & _POSITION_MASK
        page = self._pages[at >> _PAGE_SHIFT]
        assert page is not None, f"handle {handle:#x} names a page that is not in use"
        cls = page.owner
        blob_bytes = len(blob)
        if self._class_of_8[(key_bytes + blob_bytes + 8) >> 3] is not cls and not (
            loosely and key_bytes + blob_bytes < cls.size
        ):
            return -1
        page.written = self._writes = self._writes + 1
        self._map[at : at + blob_bytes] = blob
        return at | (blob_bytes << _LENGTH_SHIFT)

    def take_over(self, handle: int, key: bytes, blob: bytes) -> int:
        """Put a new record in the place of another.

        Returns the new handle, or -1, nothing done, when a record of this size wants a chunk of another size.
        """
        page = self._pages[(handle & _POSITION_MASK) >> _PAGE_SHIFT]
        assert page is not None, f"handle {handle:#x} names a page that is not in use"
        key_bytes = len(key)
        blob_bytes = len(blob)
        cls = page.owner
        if self._class_of_8[(key_bytes + blob_bytes + 8) >> 3] is not cls:
            return -1
        page.written = self._writes = self._writes + 1
        offset = handle & _PAGE_MASK
        at = page.start + offset - offset % cls.size
        self._map[at : at + 1 + key_bytes + blob_bytes] = b"%c%b%b" % (key_bytes, key, blob)
        return (at + 1 + key_bytes) | (blob_bytes << _LENGTH_SHIFT)

    def free(self, handle: int) -> None:
        """Give a record's chunk back; the page goes back to the system with its last record."""
        at = handle & _POSITION_MASK
        page = self._pages[at >> _PAGE_SHIFT]
        assert page is not None, f"handle {handle:#x} names a page that is not in use"
        cls = page.owner
        index = (at - page.start) // cls.size
        self._map[page.start + index * cls.size] = 0
        free = page.free
        free.append(index)
        self.chunk_bytes -= cls.size
        self.free_chunk_bytes += cls.size
        cls.free_chunks += 1
        if len(free) == 1:
            cls.open_pages[page] = None
        if len(free) == cls.chunks:
            del cls.open_pages[page]
            cls.free_chunks -= cls.chunks
            self._give_back(page)

    # --- pages -----------------------------------------------------------------------------------------------

    def _open_page(self, cls: _Class) -> _Page | None:
        is_full = self.resident_bytes + cls.resident_bytes > self.limit_bytes or not self._spare
        if is_full and not (self._cleared and self._make_way(cls)):
            return None
        number = self._spare.pop()
        page = _Page(number << _PAGE_SHIFT, cls)
        self._pages[number] = page
        cls.open_pages[page] = None
        cls.free_chunks += cls.chunks
        self.resident_bytes += cls.resident_bytes
        self.free_chunk_bytes += cls.chunks * cls.size
        return page

    def _give_back(self, page: _Page) -> None:
        """Return a page that holds no record and is not open any more to the system."""
        cls = page.owner
        self.resident_bytes -= cls.resident_bytes
        self.free_chunk_bytes -= cls.chunks * cls.size
        number = page.start >> _PAGE_SHIFT
        self._pages[number] = None
        self._spare.append(number)
        self._map.madvise(mmap.MADV_DONTNEED, page.start, PAGE_BYTES)

    def clear(self) -> None:
        """Forget every record. The pages go back to the system one by one: as new ones are opened, or by
        `give_back_cleared` (5 µs each; all at once took 5 to 11 ms for 90 MiB, and 100 ms for 1 GiB)."""
        self._cleared += [page for page in self._pages if page is not None]
        self.cleared_bytes = self.resident_bytes
        for cls in self._classes:
            cls.open_pages.clear()
            cls.free_chunks = 0
        self._pages = [None] * len(self._pages)
        self.chunk_bytes = self.free_chunk_bytes = 0

    def _make_way(self, cls: _Class) -> bool:
        """Give back pages that were cleared, so that one of this class can be opened; False when they are too few."""
        for _ in range(min(_GIVE_BACK_MAX, len(self._cleared))):
            self.give_back_cleared()
            if self.resident_bytes + cls.resident_bytes <= self.limit_bytes:
                return True
        return False

    def give_back_cleared(self) -> bool:
        """Return one page that was cleared to the system; False when there is none."""
        if not self._cleared:
            return False
        page = self._cleared.pop()
        self.resident_bytes -= page.owner.resident_bytes
        self.cleared_bytes -= page.owner.resident_bytes
        self._spare.append(page.start >> _PAGE_SHIFT)
        self._map.madvise(mmap.MADV_DONTNEED, page.start, PAGE_BYTES)
        return True

    @property
    def untouched_bytes(self) -> int:
        """What counts as resident and is not yet: chunks that have never been in use. Up to 4 MiB, when each class has
        a page of which little is in use."""
        untouched = 0
        for cls in self._classes:
            if cls.open_pages:
                # A class is given another page when all are full, so that only its first one can have such chunks.
                page = next(iter(cls.open_pages))
                untouched += (cls.chunks - page.fresh) * cls.size
        return untouched

    def relocatable_page(self) -> int | None:
        """Number of the sparsest page whose records all fit free chunks of its class elsewhere, if any."""
        best: _Page | None = None
        best_free_bytes = 0
        for cls in self._classes:
            if cls.free_chunks < cls.chunks:  # its records would not all find room elsewhere
                continue
            size = cls.size
            for page in cls.open_pages:
                free_bytes = len(page.free) * size
                if free_bytes > best_free_bytes:
                    best, best_free_bytes = page, free_bytes
        return None if best is None else best.start >> _PAGE_SHIFT

    def retire(self, number: int) -> list[bytes]:
        """Take a page out of allocation; the keys of its records, to be moved or forgotten before `give_back`."""
        page = self._pages[number]
        assert page is not None, f"page {number} is not in use"
        cls = page.owner
        if page.free:
            del cls.open_pages[page]
            cls.free_chunks -= len(page.free)
        view = self._map
        keys = []
        for at in range(page.start, page.start + cls.chunks * cls.size, cls.size):
            key_bytes = view[at]
            if key_bytes:
                keys.append(view[at + 1 : at + 1 + key_bytes])
        assert len(keys) == cls.chunks - len(page.free), f"page {number}: {len(keys)} keys in use"
        return keys

    def move(self, handle: int) -> int:
        """Copy a retired page's record into a free chunk of another page of its class; its new handle."""
        at = handle & _POSITION_MASK
        source = self._pages[at >> _PAGE_SHIFT]
        assert source is not None, f"handle {handle:#x} names a page that is not in use"
        cls = source.owner
        size = cls.size
        page = next(reversed(cls.open_pages))
        free = page.free
        index = free.pop()
        if index == page.fresh:
            page.fresh += 1
        target = page.start + index * size
        if not free:
            del cls.open_pages[page]
        cls.free_chunks -= 1
        page.written = max(page.written, source.written)
        offset = (at - source.start) % size
        start = at - offset
        self._map[target : target + size] = self._map[start : start + size]
        return handle - start + target

    def give_back(self, number: int, records: int) -> None:
        """Return a retired page to the system; `records` of it are forgotten, the others have been moved."""
        page = self._pages[number]
        assert page is not None, f"page {number} is not in use"
        # A record moved has filled a free chunk elsewhere and left one here; one forgotten has only left one.
        self.free_chunk_bytes += records * page.owner.size
        self.chunk_bytes -= records * page.owner.size
        self._give_back(page)

    def chunk_size(self, handle: int) -> int:
        """Size of the chunk that a record lies in."""
        page = self._pages[(handle & _POSITION_MASK) >> _PAGE_SHIFT]
        assert page is not None, f"handle {handle:#x} names a page that is not in use"
        return page.owner.size

    def was_written(self, number: int, writes: int) -> bool:
        """Whether one of the last so many records that were put somewhere may lie in this page."""
        page = self._pages[number]
        assert page is not None, f"page {number} is not in use"
        return self._writes - page.written < writes

    def page_of(self, handle: int) -> int:
        """Number of the page that a record lies in."""
        return (handle & _POSITION_MASK) >> _PAGE_SHIFT

    def in_use(self, number: int) -> bool:
        """Whether a page holds any record."""
        return self._pages[number] is not None
