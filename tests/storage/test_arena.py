"""The arena: its books, its limit, and that pages really go back to the system."""

import ctypes
import math
import mmap
import os
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.storage.arena import CHUNKS_MAX, PAGE_BYTES, RECORD_MAX_BYTES, SIZE_CLASSES, Arena
from tests.support.parts import MIB, examples
from tests.support.pieces import WHICH, pieces

_SYSTEM_PAGE = mmap.PAGESIZE


def chunk_size(key_bytes: int, blob_bytes: int) -> int:
    """The smallest chunk that holds a record, found the slow way."""
    return min(size for size in SIZE_CLASSES if size >= 1 + key_bytes + blob_bytes)


def in_page(size: int) -> int:
    """How many chunks of a size are in a page."""
    return min(CHUNKS_MAX, PAGE_BYTES // size)


def page_resident(size: int) -> int:
    """What a page of such chunks can have resident: up to the end of its last chunk."""
    return math.ceil(in_page(size) * size / _SYSTEM_PAGE) * _SYSTEM_PAGE


def check_books(arena: Arena, handles: list[int]) -> None:
    """Recompute every sum from the handles of all records, and which page has the most to win by being emptied."""
    pages = {arena.page_of(handle): arena.chunk_size(handle) for handle in handles}
    records = Counter(map(arena.page_of, handles))
    free = {number: in_page(size) - records[number] for number, size in pages.items()}
    free_of_size: Counter[int] = Counter()
    for number, size in pages.items():
        free_of_size[size] += free[number]
    sparse_bytes = {
        number: free[number] * size
        for number, size in pages.items()
        if free[number] and free_of_size[size] >= in_page(size)
    }
    best = arena.relocatable_page()
    assert sparse_bytes.get(best, 0) == max(sparse_bytes.values(), default=0)
    assert (best is None) == (not sparse_bytes)
    chunk_bytes = sum(arena.chunk_size(handle) for handle in handles)
    assert arena.chunk_bytes == chunk_bytes
    assert arena.resident_bytes == sum(page_resident(size) for size in pages.values()) + arena.cleared_bytes
    assert arena.free_chunk_bytes == sum(in_page(size) * size for size in pages.values()) - chunk_bytes
    assert all(arena.in_use(number) for number in pages)


def really_resident(arena: Arena) -> int:
    """Bytes of the arena's mapping that the kernel has in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = len(arena._map)
    vector = (ctypes.c_ubyte * (length // _SYSTEM_PAGE))()
    anchor = ctypes.c_char.from_buffer(arena._map)
    result = libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(length), vector)
    assert result == 0, ctypes.get_errno()
    return sum(byte & 1 for byte in vector) * _SYSTEM_PAGE


@pytest.fixture(params=WHICH)
def kind(request: pytest.FixtureRequest) -> Any:
    return pieces("arena", request.param).Arena


def test_size_classes_waste_little() -> None:
    assert SIZE_CLASSES[-1] == RECORD_MAX_BYTES
    for smaller, larger in pairwise(SIZE_CLASSES):
        assert smaller < larger <= smaller + max(8, smaller // 8 + 8)


def test_size_classes_are_no_more_than_that_takes() -> None:
    """A page that is not full is lost to all other sizes."""
    for smaller, larger in pairwise(SIZE_CLASSES[:-1]):
        assert larger - smaller == 8 or larger - smaller > smaller / 16


@pytest.mark.parametrize("total", [1 + 1 + 1, 16, 17, 24, 25, 200, RECORD_MAX_BYTES - 1, RECORD_MAX_BYTES])
def test_records_of_every_size_read_back_from_the_smallest_chunk_that_holds_them(kind: Any, total: int) -> None:
    arena = kind(MIB, MIB)
    for key_bytes in {1, min(32, total - 2)}:
        blob = random.Random(total).randbytes(total - 1 - key_bytes)
        handle = arena.store(b"k" * key_bytes, blob)
        assert arena.blob(handle) == blob
        assert arena.chunk_size(handle) == chunk_size(key_bytes, len(blob))


@pytest.mark.parametrize("key_bytes", [1, 7, 14])
@pytest.mark.parametrize("new_key_bytes", [1, 7, 14])
def test_a_record_that_takes_anothers_place_touches_no_neighbour(kind: Any, key_bytes: int, new_key_bytes: int) -> None:
    """Chunks of 16 bytes, full to the last one, whatever part of each is its key."""
    arena = kind(MIB, MIB)
    handles = [arena.store(b"%c" % n * key_bytes, b"%c" % n * (15 - key_bytes)) for n in range(5)]
    taken = arena.take_over(handles[2], b"k" * new_key_bytes, b"b" * (15 - new_key_bytes))
    assert arena.page_of(taken) == arena.page_of(handles[2])
    assert arena.blob(taken) == b"b" * (15 - new_key_bytes)
    for n in (0, 1, 3, 4):
        assert arena.blob(handles[n]) == b"%c" % n * (15 - key_bytes)
    keys = arena.retire(arena.page_of(taken))
    assert sorted(keys) == sorted([b"k" * new_key_bytes, *(b"%c" % n * key_bytes for n in (0, 1, 3, 4))])


@pytest.mark.parametrize("size", [16, 120, 1024, RECORD_MAX_BYTES])
def test_a_page_is_opened_only_within_the_limit(kind: Any, size: int) -> None:
    blob = bytes(size - 2)
    page = page_resident(size)
    arena = kind(MIB, page - 1)
    assert arena.store(b"k", blob) == -1
    assert arena.resident_bytes == 0
    arena.limit_bytes = page
    handles = [arena.store(b"k", blob) for _ in range(in_page(size))]
    assert min(handles) >= 0
    assert arena.store(b"k", blob) == -1
    arena.limit_bytes = 2 * page - 1
    assert arena.store(b"k", blob) == -1
    arena.limit_bytes = 2 * page
    handles.append(arena.store(b"k", blob))
    assert handles[-1] >= 0
    check_books(arena, handles)


def test_its_memory_is_no_file_s(kind: Any) -> None:
    """A node may have been started without any, not even a standard input."""
    before = os.listdir("/proc/self/fd")
    arena = kind(MIB, MIB)
    assert os.listdir("/proc/self/fd") == before
    assert arena.store(b"k", b"v") >= 0


def test_it_has_room_for_a_page_whatever_is_reserved(kind: Any) -> None:
    arena = kind(1, MIB)
    handles = [arena.store(b"k", bytes(10_000)) for _ in range(in_page(RECORD_MAX_BYTES))]
    assert min(handles) >= 0
    assert arena.store(b"k", bytes(10_000)) == -1


def test_the_kernel_is_asked_for_small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an Arena in Python: whatever the kernel here makes of it."""
    asked = []

    class Watched(mmap.mmap):
        def madvise(self, option: int, *span: int) -> None:
            asked.append((option, *span))
            super().madvise(option, *span)

    monkeypatch.setattr(mmap, "mmap", Watched)
    arena = pieces("arena", "pure").Arena(2 * PAGE_BYTES, MIB)
    assert asked == [(mmap.MADV_NOHUGEPAGE,)]
    arena.free(arena.store(b"k", b"v"))
    assert asked[1:] == [(mmap.MADV_DONTNEED, 0, PAGE_BYTES)]


def test_a_limit_lowered_below_what_is_resident_stops_new_pages_only(kind: Any) -> None:
    arena = kind(MIB, MIB)
    handle = arena.store(b"k", bytes(1000))
    arena.limit_bytes = 0
    assert arena.store(b"l", bytes(1000)) >= 0  # in the page that is open
    assert arena.store(b"l", bytes(5000)) == -1
    assert arena.blob(handle) == bytes(1000)


def test_address_space_that_is_used_up_stops_new_pages(kind: Any) -> None:
    arena = kind(2 * PAGE_BYTES, MIB)
    handles = [arena.store(b"k", bytes(10_000)) for _ in range(2 * (PAGE_BYTES // RECORD_MAX_BYTES))]
    assert min(handles) >= 0
    assert arena.store(b"k", bytes(10_000)) == -1
    arena.free(handles.pop())
    assert arena.store(b"k", bytes(10_000)) >= 0


def test_records_beyond_four_gibibytes_read_back(kind: Any) -> None:
    """With as little memory as that takes: pages are retired as soon as they hold a record, and forgotten."""
    pages = (4 << 30) // PAGE_BYTES
    arena = kind((4 << 30) + PAGE_BYTES, 8 << 30)
    for number in range(pages):
        handle = arena.store(b"k", b"low" + bytes(10_000))
        assert arena.page_of(handle) == number
        arena.retire(number)
        if number % 1_000 == 999:
            arena._map.madvise(mmap.MADV_DONTNEED)
    handle = arena.store(b"high", b"high" * 2_000)
    assert arena.page_of(handle) == pages
    assert arena.blob(handle) == b"high" * 2_000
    assert arena.blob(arena.replace(handle, 4, b"more" * 2_010)) == b"more" * 2_010
    assert arena.retire(pages) == [b"high"]


@pytest.mark.parametrize("way", ["store", "replace", "take_over"])
def test_whatever_writes_to_a_page_is_counted_as_one_write(kind: Any, way: str) -> None:
    arena = kind(MIB, MIB)
    ours, other = arena.store(b"k", bytes(10_000)), arena.store(b"k", bytes(5_000))
    page, other_page = arena.page_of(ours), arena.page_of(other)
    assert (arena.was_written(page, 1), arena.was_written(page, 2)) == (False, True)
    written = {
        "store": lambda: arena.store(b"l", bytes(10_000)),
        "replace": lambda: arena.replace(ours, 1, bytes(10_000)),
        "take_over": lambda: arena.take_over(ours, b"l", bytes(10_000)),
    }[way]()
    assert arena.page_of(written) == page
    assert arena.was_written(page, 1)
    assert (arena.was_written(other_page, 1), arena.was_written(other_page, 2)) == (False, True)


@pytest.mark.parametrize("moved", [0, 1])
def test_a_page_that_a_record_is_moved_to_was_written_to_as_late_as_either(kind: Any, moved: int) -> None:
    arena = kind(MIB, MIB)
    pages = [[arena.store(b"k", bytes(10_000)) for _ in range(PAGE_BYTES // RECORD_MAX_BYTES)] for _ in range(2)]
    source, target = (arena.page_of(handles[0]) for handles in (pages[moved], pages[1 - moved]))
    for handle in (*pages[moved][1:], pages[1 - moved][0]):
        arena.free(handle)
    later = arena.page_of(pages[1][0])
    assert (arena.was_written(later, 1), source != target) == (True, True)
    arena.retire(source)
    assert arena.page_of(arena.move(pages[moved][0])) == target
    assert arena.was_written(target, 1)


def test_only_a_page_whose_records_find_room_elsewhere_is_relocatable(kind: Any) -> None:
    arena = kind(MIB, MIB)
    in_page = PAGE_BYTES // RECORD_MAX_BYTES
    handles = [arena.store(b"k", bytes(10_000)) for _ in range(2 * in_page)]
    assert arena.relocatable_page() is None
    freed = random.Random(1).sample(handles, in_page - 1)
    for handle in freed:
        arena.free(handle)
    assert arena.relocatable_page() is None  # one record too many
    arena.free(next(handle for handle in handles if handle not in freed))
    assert arena.relocatable_page() is not None or arena.resident_bytes == page_resident(RECORD_MAX_BYTES)


def test_the_sparsest_page_is_relocated_first(kind: Any) -> None:
    arena = kind(MIB, MIB)
    in_page = PAGE_BYTES // RECORD_MAX_BYTES
    pages: dict[int, list[int]] = {}
    for _ in range(4 * in_page):
        handle = arena.store(b"k", bytes(10_000))
        pages.setdefault(arena.page_of(handle), []).append(handle)
    for (number, handles), count in zip(pages.items(), (2, in_page - 1, 3, 1), strict=True):
        for handle in handles[:count]:
            arena.free(handle)
        if count == in_page - 1:
            sparsest = number
    assert arena.relocatable_page() == sparsest


def test_pages_go_back_to_the_system(kind: Any) -> None:
    arena = kind(16 * MIB, 16 * MIB)
    assert really_resident(arena) == 0
    handles = [arena.store(b"k", b"\xff" * 9_000) for _ in range(1500)]
    assert 1500 * 9_000 <= really_resident(arena) <= arena.resident_bytes
    for handle in handles[::2]:
        arena.free(handle)
    assert 1500 * 9_000 <= really_resident(arena) <= arena.resident_bytes  # all pages half used
    for handle in handles[1::4]:
        arena.free(handle)
    assert really_resident(arena) <= arena.resident_bytes
    for handle in handles[3::4]:
        arena.free(handle)
    assert arena.resident_bytes == 0
    assert really_resident(arena) == 0


def test_pages_retired_and_emptied_go_back_to_the_system(kind: Any) -> None:
    arena = kind(16 * MIB, 16 * MIB)
    records = {b"%d" % n: arena.store(b"%d" % n, b"\xff" * 900) for n in range(5000)}
    for n in range(5000):
        if n % 5:
            arena.free(records.pop(b"%d" % n))
    check_books(arena, list(records.values()))
    while (number := arena.relocatable_page()) is not None:
        for key in arena.retire(number):
            records[key] = arena.move(records[key])
        arena.give_back(number, 0)
    check_books(arena, list(records.values()))
    assert really_resident(arena) <= arena.resident_bytes < 1000 * 1024 + 2 * PAGE_BYTES
    assert all(arena.blob(handle) == b"\xff" * 900 for handle in records.values())


def test_clearing_gives_everything_back(kind: Any) -> None:
    arena = kind(16 * MIB, 16 * MIB)
    for size in (30, 900, 9_000):
        for n in range(1500):
            arena.store(b"%d" % n, b"\xff" * size)
    arena.clear()
    check_books(arena, [])
    while arena.give_back_cleared():
        assert really_resident(arena) <= arena.resident_bytes
    check_books(arena, [])
    assert really_resident(arena) == arena.resident_bytes == 0
    handles = [arena.store(b"k", b"\xff" * 9_000) for _ in range(1500)]
    assert min(handles) >= 0
    check_books(arena, handles)


@pytest.mark.parametrize("place", range(1, len(SIZE_CLASSES) - 1))
def test_a_chunk_is_taken_over_by_what_wants_a_chunk_of_its_size(kind: Any, place: int) -> None:
    arena = kind(MIB, MIB)
    smaller, size = SIZE_CLASSES[place - 1 : place + 1]
    handle = arena.store(b"key", bytes(size - 4))
    for record_bytes in (smaller, size + 1):
        assert arena.take_over(handle, b"key", bytes(record_bytes - 4)) == -1
    for record_bytes in (smaller + 1, size):
        handle = arena.take_over(handle, b"key", b"v" * (record_bytes - 4))
        assert arena.blob(handle) == b"v" * (record_bytes - 4)


@pytest.mark.parametrize("place", range(1, len(SIZE_CLASSES) - 1))
def test_a_blob_is_replaced_where_a_chunk_of_its_size_would_be_wanted(kind: Any, place: int) -> None:
    """Loosely, wherever it fits."""
    arena = kind(MIB, MIB)
    smaller, size = SIZE_CLASSES[place - 1 : place + 1]
    handle = arena.store(b"key", bytes(size - 4))
    for record_bytes in (smaller, size + 1):
        assert arena.replace(handle, 3, bytes(record_bytes - 4)) == -1
    assert arena.replace(handle, 3, bytes(size + 1 - 4), loosely=True) == -1
    for record_bytes, loosely in ((smaller + 1, False), (size, False), (smaller, True), (size, True)):
        handle = arena.replace(handle, 3, b"v" * (record_bytes - 4), loosely=loosely)
        assert arena.blob(handle) == b"v" * (record_bytes - 4)


def test_what_was_cleared_twice_all_goes_back(kind: Any) -> None:
    """The second time while pages of the first are still there."""
    arena = kind(MIB, MIB)
    size = RECORD_MAX_BYTES
    for pages in (3, 2):
        for _ in range(pages * in_page(size)):
            arena.store(b"k", bytes(10_000))
        arena.clear()
    assert arena.cleared_bytes == arena.resident_bytes == 5 * page_resident(size)
    while arena.give_back_cleared():
        pass
    assert arena.cleared_bytes == arena.resident_bytes == 0


def test_a_new_page_gives_back_as_many_cleared_ones_as_it_needs(kind: Any) -> None:
    size = RECORD_MAX_BYTES
    arena = kind(MIB, 3 * page_resident(size))
    while arena.store(b"k", bytes(10_000)) >= 0:
        pass
    arena.clear()
    for number in range(3 * in_page(size)):
        assert arena.store(b"k", bytes(10_000)) >= 0
        assert arena.cleared_bytes == (2 - number // in_page(size)) * page_resident(size)


@pytest.mark.parametrize(("left", "is_enough"), [(36, False), (37, True)])
def test_a_new_page_gives_back_no_more_than_64_cleared_ones(kind: Any, left: int, is_enough: bool) -> None:
    """What is given back then is lost time for one request. With the next one it goes on."""
    size = RECORD_MAX_BYTES
    arena = kind(100 * PAGE_BYTES, 100 * page_resident(size))
    while arena.store(b"k", bytes(10_000)) >= 0:
        pass
    arena.clear()
    arena.limit_bytes = left * page_resident(size)
    assert (arena.store(b"k", bytes(10_000)) >= 0) == is_enough
    assert arena.cleared_bytes == 36 * page_resident(size)
    assert arena.store(b"l", bytes(10_000)) >= 0


def test_every_page_can_be_used_again_after_clearing(kind: Any) -> None:
    arena = kind(4 * PAGE_BYTES, MIB)
    for _ in range(2):
        pages = {arena.page_of(arena.store(b"k", b"v" * 10_000)) for _ in range(4 * in_page(RECORD_MAX_BYTES))}
        assert pages == {0, 1, 2, 3}
        assert arena.store(b"k", b"v" * 10_000) == -1
        arena.clear()


@pytest.mark.parametrize(("before", "after"), [(16, RECORD_MAX_BYTES), (RECORD_MAX_BYTES, 16)])
def test_pages_that_were_cleared_make_room_for_new_ones(kind: Any, before: int, after: int) -> None:
    """One at a time, and clean."""
    arena = kind(16 * MIB, MIB)
    while arena.store(b"k", b"\xff" * (before - 2)) >= 0:
        pass
    arena.clear()
    handles = []
    page = -1
    while (handle := arena.store(b"k", b"\xff" * (after - 2))) >= 0:
        handles.append(handle)
        assert arena.resident_bytes <= MIB
        if arena.page_of(handle) != page:  # the kernel takes milliseconds to tell
            page = arena.page_of(handle)
            assert really_resident(arena) <= arena.resident_bytes
    check_books(arena, handles)
    assert arena.chunk_bytes > 0.8 * MIB
    assert arena.cleared_bytes == 0
    assert len(arena.retire(arena.page_of(handles[0]))) == in_page(after)


@pytest.mark.parametrize("size", [16, 1024, RECORD_MAX_BYTES])
def test_chunks_that_have_never_been_in_use_are_untouched(kind: Any, size: int) -> None:
    """Those that were freed are not, nor are those of pages that were full once."""
    arena = kind(MIB, MIB)
    assert arena.untouched_bytes == 0
    handles = [arena.store(b"k", bytes(size - 2)) for _ in range(in_page(size) - 1)]
    assert arena.untouched_bytes == size
    arena.free(handles.pop())
    arena.free(handles.pop(0))
    assert arena.untouched_bytes == size
    for _ in range(3):
        assert arena.store(b"k", bytes(size - 2)) >= 0
    assert arena.untouched_bytes == 0
    fresh = arena.store(b"k", bytes(size - 2))
    arena.free(handles.pop())
    assert arena.untouched_bytes == (in_page(size) - 1) * size
    arena.free(fresh)
    assert arena.untouched_bytes == 0


def test_what_is_untouched_in_pages_of_every_size_is_not_in_memory(kind: Any) -> None:
    arena = kind(8 * MIB, 8 * MIB)
    for size in SIZE_CLASSES:
        assert arena.store(b"k", bytes(size - 2)) >= 0
    assert arena.untouched_bytes == sum((in_page(size) - 1) * size for size in SIZE_CLASSES)
    touched = arena.resident_bytes - arena.untouched_bytes
    # Of each page the end of the last system page that is in use, and of the last one what no chunk takes.
    assert touched - len(SIZE_CLASSES) * _SYSTEM_PAGE <= really_resident(arena)
    assert really_resident(arena) <= touched + len(SIZE_CLASSES) * _SYSTEM_PAGE


def test_a_page_that_was_given_back_comes_back_clean(kind: Any) -> None:
    """A stale length byte in a free chunk would be taken for a record when the page is retired."""
    arena = kind(PAGE_BYTES, MIB)
    for size in (100, 3000, 40, 10_000, 16):
        handles = [arena.store(b"key", b"\xff" * (size - 4)) for _ in range(in_page(size) // 2)]
        for handle in handles[1:]:
            arena.free(handle)
        (number,) = {arena.page_of(handle) for handle in handles}
        assert arena.retire(number) == [b"key"]
        arena.give_back(number, 1)
        check_books(arena, [])


# Blob sizes that fill pages of every kind within few records.
blob_sizes = st.sampled_from((1, 5, 800, 801, 2000, 4000, 5000, 9_900, 10_000)) | st.integers(1, RECORD_MAX_BYTES - 40)
key_sizes = st.integers(1, 32)


class ArenaMachine(RuleBasedStateMachine):
    """Everything its owner may do with an arena of a few pages, against a list of what must be in it."""

    which = "pure"

    def __init__(self) -> None:
        super().__init__()
        self.arena = pieces("arena", self.which).Arena(
            10 * PAGE_BYTES, 6 * PAGE_BYTES
        )  # a page may count for as little as 52 KiB
        self.records: dict[bytes, tuple[int, bytes]] = {}  # key: handle, blob
        self.made = 0

    def fresh(self, key_bytes: int, blob_bytes: int) -> tuple[bytes, bytes]:
        """A key that is not in use, of about that length, and a blob that no other record has."""
        self.made += 1
        key = (b"%d." % self.made).ljust(key_bytes, b"k")
        return key, random.Random(self.made).randbytes(blob_bytes)

    def some_key(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(sorted(self.records)))

    @property
    def in_use_bytes(self) -> int:
        return self.arena.resident_bytes - self.arena.cleared_bytes

    @rule(key_bytes=key_sizes, blob_bytes=blob_sizes, count=st.sampled_from((1, 1, 5, 20)))
    def store(self, key_bytes: int, blob_bytes: int, count: int) -> None:
        for _ in range(count):
            key, blob = self.fresh(key_bytes, blob_bytes)
            before, resident_bytes = self.in_use_bytes, self.arena.resident_bytes
            handle = self.arena.store(key, blob)
            if handle < 0:
                assert self.arena.resident_bytes == before
                size = chunk_size(len(key), len(blob))
                assert before + page_resident(size) > self.arena.limit_bytes
                return
            assert self.in_use_bytes in (before, before + page_resident(self.arena.chunk_size(handle)))
            assert self.arena.resident_bytes <= max(resident_bytes, self.arena.limit_bytes)
            self.records[key] = handle, blob

    @precondition(lambda self: self.records)
    @rule(data=st.data(), count=st.sampled_from((1, 5, 20)))
    def free(self, data: st.DataObject, count: int) -> None:
        first = sorted(self.records).index(self.some_key(data))
        for key in sorted(self.records)[first : first + count]:
            self.arena.free(self.records.pop(key)[0])

    @precondition(lambda self: self.records)
    @rule(data=st.data(), blob_bytes=blob_sizes, loosely=st.booleans())
    def replace(self, data: st.DataObject, blob_bytes: int, loosely: bool) -> None:
        key = self.some_key(data)
        handle, _ = self.records[key]
        size = self.arena.chunk_size(handle)
        _, blob = self.fresh(1, blob_bytes)
        replaced = self.arena.replace(handle, len(key), blob, loosely=loosely)
        wanted = chunk_size(len(key), blob_bytes)
        assert (replaced >= 0) == (wanted <= size if loosely else wanted == size)
        if replaced >= 0:
            self.records[key] = replaced, blob

    @precondition(lambda self: self.records)
    @rule(data=st.data(), key_bytes=key_sizes, blob_bytes=blob_sizes)
    def take_over(self, data: st.DataObject, key_bytes: int, blob_bytes: int) -> None:
        old = self.some_key(data)
        handle, _ = self.records[old]
        key, blob = self.fresh(key_bytes, blob_bytes)
        taken = self.arena.take_over(handle, key, blob)
        assert (taken >= 0) == (chunk_size(len(key), blob_bytes) == self.arena.chunk_size(handle))
        if taken >= 0:
            del self.records[old]
            self.records[key] = taken, blob

    @rule(pages=st.integers(0, 7), less=st.sampled_from((0, 1)))
    def set_limit(self, pages: int, less: int) -> None:
        self.arena.limit_bytes = max(0, pages * PAGE_BYTES - less)

    @rule()
    def move_together(self) -> None:
        number = self.arena.relocatable_page()
        if number is None:
            return
        before = self.arena.resident_bytes
        for key in self.keys_of_retired(number):
            handle, blob = self.records[key]
            self.records[key] = self.arena.move(handle), blob
        self.arena.give_back(number, 0)
        assert self.arena.resident_bytes < before

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def forget_page(self, data: st.DataObject) -> None:
        number = self.arena.page_of(self.records[self.some_key(data)][0])
        keys = self.keys_of_retired(number)
        for key in keys:
            del self.records[key]
        self.arena.give_back(number, len(keys))
        assert not self.arena.in_use(number)

    @rule()
    def clear(self) -> None:
        self.arena.clear()
        self.records.clear()

    @rule()
    def give_back(self) -> None:
        self.arena.give_back_cleared()

    def keys_of_retired(self, number: int) -> list[bytes]:
        keys = self.arena.retire(number)
        there = sorted(key for key, (handle, _) in self.records.items() if self.arena.page_of(handle) == number)
        assert sorted(keys) == there
        return keys

    def teardown(self) -> None:
        while self.arena.give_back_cleared():
            pass
        assert self.arena.cleared_bytes == 0
        self.the_books_are_right()

    @invariant()
    def the_books_are_right(self) -> None:
        check_books(self.arena, [handle for handle, _ in self.records.values()])

    @invariant()
    def every_record_reads_back(self) -> None:
        for handle, blob in self.records.values():
            assert self.arena.blob(handle) == blob


class CompiledArenaMachine(ArenaMachine):
    which = "compiled"


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = examples(40)
TestCompiledArenaMachine = CompiledArenaMachine.TestCase
TestCompiledArenaMachine.settings = examples(40)
