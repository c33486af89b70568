"""Whose turn it is to go, how much work one PUT does for its room, and where exactly the store changes its way."""

import pytest

from app.storage.store import Store
from app.wire.protocol import SLOT_COUNT
from tests.storage.contents import content
from tests.storage.test_arena import check_books, chunk_size, in_page, page_resident
from tests.storage.test_store import IN_PAGE, arena_of, handles, keys_of, put, some_keys, sparse_store, store_of

ROOM_WORK = 650  # entries evicted or moved by one PUT
PAGE_WORK = 100  # what a page is in this measure, beside its entries
NEVER = 1 << 40  # as `compact_bytes`: so many free chunks there are not


# --- whose turn it is ---------------------------------------------------------------------------------------------


def store_with(first: int, entries: int) -> Store:
    """So many entries: as many in slot 0 as is said, the others spread evenly, a few more to the last slots."""
    store = store_of(16)
    each, more = divmod(entries - first, SLOT_COUNT - 1)
    for slot in range(SLOT_COUNT):
        number = first if not slot else each + (slot >= SLOT_COUNT - more)
        for key in some_keys(slot, number):
            assert store.put(slot, key, b"v")
    assert len(store) == entries
    return store


def turns(store: Store, number: int) -> list[int]:
    """The slots of the next so many entries to go."""
    gone = []
    for _ in range(number):
        before = [len(store.keys(slot)) for slot in range(SLOT_COUNT)]
        assert store.reclaim_one()
        gone += [slot for slot in range(SLOT_COUNT) if len(store.keys(slot)) < before[slot]]
    return gone


@pytest.mark.parametrize(
    ("first", "entries", "at_once"),
    [
        (10, 512, 5),  # 5 times the average
        (10, 513, 4),  # just less
        (5, 512, 2),
        (5, 700, 1),  # less than twice
        (2, 600, 1),  # less than once
    ],
)
def test_a_slot_has_as_many_turns_as_it_has_times_the_average(first: int, entries: int, at_once: int) -> None:
    store = store_with(first, entries)
    assert turns(store, at_once + 2) == [0] * at_once + [1, 2]


def test_the_first_to_go_is_of_the_fuller_of_two_slots() -> None:
    store = store_of(1)
    for slot, number in ((0, 1), (1, 2)):
        for key in some_keys(slot, number):
            assert store.put(slot, key, b"v")
    assert turns(store, 3) == [1, 1, 0]


def test_a_slot_that_was_wiped_has_no_turns_left() -> None:
    store = store_with(10, 512)
    assert turns(store, 2) == [0, 0]
    store.wipe(range(SLOT_COUNT))
    (key,) = some_keys(77, 1)
    assert store.put(77, key, b"v")
    assert turns(store, 1) == [77]
    assert not store.reclaim_one()
    check_books(arena_of(store), handles(store))


# --- how much work ------------------------------------------------------------------------------------------------


def full_of(entries: int, blob_bytes: int) -> Store:
    """A store that has just so many pages as entries of this size in one slot take; the first to go are the first."""
    keys = some_keys(7, entries)
    size = chunk_size(len(keys[0]), blob_bytes)
    store = store_of(64)
    for key in keys:
        assert store.put(7, key, bytes(blob_bytes))
    assert arena_of(store).resident_bytes == entries // in_page(size) * page_resident(size)
    store.compact_bytes = NEVER
    return store


def test_one_put_evicts_a_bounded_number_of_entries_of_about_its_size() -> None:
    store = full_of(12 * 64, 1_000)
    arena_of(store).limit_bytes = 0
    assert not put(store, b"new", bytes(1_100))
    assert store.evictions == ROOM_WORK + 1, "the oldest, and the work"
    check_books(arena_of(store), handles(store))


def test_one_put_evicts_a_bounded_number_of_pages() -> None:
    """Each of them is work for its entries and for itself; a step more may follow when some of the work is left."""
    store = full_of(12 * 64, 1_000)
    arena_of(store).limit_bytes = 0
    assert not put(store, b"new", bytes(10_000))
    assert 3 * (64 + PAGE_WORK) < ROOM_WORK < 4 * (64 + PAGE_WORK)
    assert store.evictions == 4 * 64
    check_books(arena_of(store), handles(store))


def test_an_entry_that_is_alone_in_its_page_is_one_entry_of_work() -> None:
    store = store_of(3)
    for key, blob_bytes in zip(keys_of(7), (100, 1_000, 10_000), strict=False):
        assert store.put(7, key, bytes(blob_bytes))
    arena_of(store).limit_bytes = 0
    assert not store.shrink(2)
    assert len(store) == 1
    assert store.shrink(1)
    assert (len(store), arena_of(store).resident_bytes) == (0, 0)


def test_shrinking_ends_exactly_at_the_limit() -> None:
    store = store_of(3)
    for key in some_keys(7, 3 * IN_PAGE):
        assert put(store, key, bytes(10_000))
    arena = arena_of(store)
    arena.limit_bytes = arena.resident_bytes
    assert store.shrink(300)
    assert store.evictions == 0
    arena.limit_bytes -= 1
    assert store.shrink(300)
    assert store.evictions == IN_PAGE


def joined_at(*evictions: int) -> list[int]:
    """When the C library was asked to join what was freed, with so many evictions after one PUT and after the next."""

    def run(starts: list[int]) -> tuple[list[int], list[int]]:
        joined: list[int] = []
        gone = []
        store = full_of(4 * 64, 1_000)
        store._on_freed = lambda: joined.append(store.evictions)
        arena_of(store).limit_bytes = arena_of(store).resident_bytes
        for start, blob_bytes in zip(starts, (1_500, 2_500), strict=False):
            store.evictions = start
            assert put(store, b"%d" % blob_bytes, bytes(blob_bytes))
            gone.append(store.evictions - start)
        return joined, gone

    joined, gone = run([0] * len(evictions))
    assert min(gone) > 0
    assert not joined
    return run([after - going for after, going in zip(evictions, gone, strict=True)])[0]


def test_the_c_library_joins_what_was_freed_with_each_thousand_evictions() -> None:
    assert joined_at(999) == []
    assert joined_at(1_000) == [1_000]
    assert joined_at(1_000, 1_999) == [1_000]
    assert joined_at(1_000, 2_000) == [1_000, 2_000]


# --- where the way changes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("less", "moves"), [(0, False), (1, True)])
def test_records_are_moved_together_where_free_chunks_are_worth_more_than_is_left_alone(less: int, moves: bool) -> None:
    store, _ = sparse_store()
    store.compact_bytes = arena_of(store).free_chunk_bytes - less
    assert put(store, b"new", bytes(9_990))
    assert (store.moves > 0, store.evictions == 0) == (moves, moves)


@pytest.mark.parametrize(("less", "moves"), [(0, False), (1, True)])
def test_a_lowered_limit_has_them_moved_together_where_they_are_worth_it(less: int, moves: bool) -> None:
    store, _ = sparse_store()
    store.compact_bytes = arena_of(store).free_chunk_bytes - less
    arena_of(store).limit_bytes = 0
    assert not store.shrink(PAGE_WORK + 1)
    assert (store.moves > 0, store.evictions == 0) == (moves, moves)


def test_a_store_that_may_not_evict_is_shrunk_as_far_as_it_can_be_in_one_go() -> None:
    """When nothing is left to be moved together, whatever work is left will win nothing."""
    store, kept = sparse_store(evict=False)
    arena_of(store).limit_bytes = 0
    steps = 0
    while not store.shrink(1):
        steps += 1
        assert steps < 1_000
    assert (len(store), content(store)) == (len(kept), kept)


@pytest.mark.parametrize(("budget", "moves"), [(PAGE_WORK, True), (PAGE_WORK + 1, False)])
def test_a_page_is_evicted_whole_while_there_is_work_left_to_look_for_one(budget: int, moves: bool) -> None:
    """With less than that left, the sparsest page gives its records to others instead, however few chunks are free."""
    store, _ = sparse_store()
    store.compact_bytes = NEVER
    arena_of(store).limit_bytes = 0
    assert not store.shrink(budget)
    assert (store.moves > 0, store.evictions == 0) == (moves, moves)


@pytest.mark.parametrize(("blob_bytes", "whole"), [(4 * 1_024 - 1, False), (4 * 1_024, True)])
def test_the_page_of_the_oldest_goes_whole_for_a_value_of_four_times_its_chunk(blob_bytes: int, whole: bool) -> None:
    store = store_of(6)
    keys = [key for key in some_keys(7, 6 * 64) if put(store, key, bytes(1_000))]
    used = {key for key in keys[1::2] if store.get(7, key)}
    assert store.evictions == 0
    assert put(store, b"larger", bytes(blob_bytes))
    assert (used <= content(store).keys(), store.evictions == 64) == (not whole, whole)


def test_free_chunks_that_cannot_be_joined_make_no_whole_page_go() -> None:
    """There are more of them than are left alone, but in pages whose records find no room elsewhere."""
    store = store_of(6)
    keys = [key for key in some_keys(7, 6 * 64) if put(store, key, bytes(1_000))]
    used = {key for key in keys[1::2] if store.get(7, key)}
    assert store.remove(7, keys[0])
    store.compact_bytes = 0
    assert put(store, b"larger", bytes(1_100))
    assert store.evictions > 0
    assert used <= content(store).keys()


@pytest.mark.parametrize(
    ("small", "large", "writes", "stays"),
    [(20, 78, 12, False), (20, 78, 8, True), (2_700, 12, 256, False), (2_700, 12, 255, True)],
)
def test_a_page_goes_whole_that_was_not_written_to_lately(small: int, large: int, writes: int, stays: bool) -> None:
    """In as many writes as an eighth of the entries, and 256 at most. Otherwise the old entries in it go one by one."""
    store = store_of(64)
    keys = some_keys(7, small + large)
    for key in keys[:small]:
        assert store.put(7, key, bytes(70))
    for key in keys[small:]:
        assert store.put(7, key, bytes(10_000))
    in_first_page = keys[5]
    assert store.put(7, in_first_page, b"w" * 70)
    for _ in range(writes):
        assert store.put(7, keys[-1], bytes(10_000))
    arena_of(store).limit_bytes = arena_of(store).resident_bytes
    assert store.evictions == 0
    put(store, b"another", bytes(10_000))
    assert (in_first_page in content(store)) == stays
