"""The store against a dictionary: what it may forget, and what never."""

import random
from collections import OrderedDict
from collections.abc import Iterator
from itertools import count, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.fast import PIECES
from app.storage.arena import CHUNKS_MAX, PAGE_BYTES, RECORD_MAX_BYTES, Arena
from app.storage.slots import Slot, SplitSlot
from app.storage.store import Store
from app.wire.protocol import SLOT_COUNT, slot_of
from tests.storage.contents import content, entries
from tests.storage.test_arena import check_books, chunk_size, in_page
from tests.support.parts import MIB, examples, make_store
from tools.bench.chosen import key_in_slot

IN_PAGE = PAGE_BYTES // RECORD_MAX_BYTES  # chunks of the largest size in a page


def keys_of(slot: int) -> Iterator[bytes]:
    """Keys of one slot, without end."""
    for n in count():
        yield key_in_slot(b"%d" % n, slot)


def some_keys(slot: int, number: int) -> list[bytes]:
    return list(islice(keys_of(slot), number))


def store_of(pages: int, *, evict: bool = True) -> Store:
    return make_store(Arena(64 * MIB, pages * PAGE_BYTES), evict=evict)


def arena_of(store: Store) -> Arena:
    return store._arena


def put(store: Store, key: bytes, blob: bytes) -> bool:
    return store.put(slot_of(key), key, blob)


def put_oldest(store: Store, key: bytes, blob: bytes) -> bool:
    return store.put_oldest(slot_of(key), key, blob)


def get(store: Store, key: bytes) -> bytes | None:
    return store.get(slot_of(key), key)


def handles(store: Store) -> list[int]:
    """Of every record, those of wiped slots included; the order of use is left alone."""
    tables = [table for number in range(SLOT_COUNT) for table in store.tables(number)] + store._wiped_records
    return [table.peek(key) for table in tables for key in table]


def rebuild(store: Store, number: int) -> None:
    for table in store.tables(number):
        table.rebuild()


def fill(store: Store, blob_bytes: int, most: int = 100_000, start: int = 0) -> list[bytes]:
    """Put until the store refuses or has evicted; the keys that are in it then."""
    for n in range(start, start + most):
        if not put(store, b"fill %05d" % n, bytes([n % 251]) * blob_bytes) or store.evictions:
            break
    return sorted(content(store))


def test_a_slot_is_the_low_byte_of_the_keys_crc() -> None:
    assert slot_of(b"123456789") == 0xCBF43926 & 0xFF


def test_get_put_remove() -> None:
    store = store_of(4)
    assert get(store, b"k") is None
    assert put(store, b"k", b"one")
    assert get(store, b"k") == b"one"
    assert put(store, b"k", b"another")
    assert get(store, b"k") == b"another"
    assert len(store) == 1
    assert store.remove(slot_of(b"k"), b"k")
    assert not store.remove(slot_of(b"k"), b"k")
    assert get(store, b"k") is None
    assert len(store) == 0


# --- order --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_of_a_slot_goes_first() -> None:
    store = store_of(1)
    keys = some_keys(7, IN_PAGE + 3)
    for key in keys[:IN_PAGE]:
        assert put(store, key, bytes(10_000))
    assert get(store, keys[0]) is not None  # used
    assert put(store, keys[1], b"\x01" * 10_000)  # overwritten: used
    gone = []
    for key in keys[IN_PAGE:]:
        assert put(store, key, bytes(10_000))
        gone += [old for old in keys if old not in content(store) and old not in gone and old in keys[:IN_PAGE]]
    assert gone == keys[2:5]
    assert store.evictions == 3


def test_what_others_have_used_before_goes_before_what_was_used_here() -> None:
    store = store_of(1)
    keys = some_keys(7, IN_PAGE + 2)
    for key in keys[:IN_PAGE]:
        assert (put if key == keys[0] else put_oldest)(store, key, bytes(10_000))
    assert put_oldest(store, keys[0], bytes(10_000))  # is in use here already
    assert put_oldest(store, keys[-2], bytes(10_000))
    assert put(store, keys[-1], bytes(10_000))
    assert sorted(content(store)) == sorted([*keys[: IN_PAGE - 1], keys[-1]])


def test_what_others_have_used_before_is_refused_where_there_is_no_room() -> None:
    store = store_of(1, evict=False)
    keys = some_keys(7, IN_PAGE + 1)
    assert [put_oldest(store, key, bytes(10_000)) for key in keys] == [True] * IN_PAGE + [False]


@examples(60)
@given(
    st.lists(st.tuples(st.sampled_from("pgr"), st.integers(0, IN_PAGE + 3)), min_size=10, max_size=60),
    st.integers(1, 2),
)
def test_one_slot_with_one_size_is_an_lru_exactly(steps: list[tuple[str, int]], pages: int) -> None:
    store = store_of(pages)
    keys = some_keys(200, IN_PAGE + 4)
    model: OrderedDict[bytes, bytes] = OrderedDict()
    for n, (step, index) in enumerate(steps):
        key = keys[index]
        if step == "p":
            blob = bytes([n]) * 9_900
            assert put(store, key, blob)
            model[key] = blob
            model.move_to_end(key)
            if len(model) > pages * IN_PAGE:
                model.popitem(last=False)
        elif step == "g":
            assert get(store, key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        else:
            assert store.remove(200, key) == (model.pop(key, None) is not None)
        assert content(store) == model


def test_listing_a_slot_leaves_the_order_of_use_alone() -> None:
    store = store_of(1)
    keys = some_keys(3, IN_PAGE + 1)
    for key in keys[:IN_PAGE]:
        put(store, key, bytes(10_000))
    assert len(entries(store, 3)) == IN_PAGE
    put(store, keys[IN_PAGE], bytes(10_000))
    assert keys[0] not in content(store)


def test_a_record_that_fills_its_chunk_takes_the_place_of_the_oldest_and_no_other() -> None:
    store = make_store(Arena(64 * MIB, 16 * CHUNKS_MAX), evict=True)
    keys = [key_in_slot(b"%013d" % n, 7) for n in range(CHUNKS_MAX + 300)]
    assert chunk_size(len(keys[0]), 1) == 1 + len(keys[0]) + 1
    for n, key in enumerate(keys):
        assert put(store, key, bytes([n % 251]))
    assert content(store) == {key: bytes([n % 251]) for n, key in enumerate(keys) if n >= 300}
    check_books(arena_of(store), handles(store))


def test_for_a_value_of_about_the_size_of_the_oldest_those_go_that_were_used_least_recently() -> None:
    """Not all that share the oldest one's page, as for a value that is much larger."""
    store = store_of(6)
    keys = [key for key in some_keys(7, 6 * in_page(chunk_size(12, 900)) + 1) if put(store, key, bytes(900))]
    used = {key for key in keys[1::2] if get(store, key)}
    assert store.evictions <= 1
    before = store.evictions
    assert put(store, key_in_slot(b"larger", 7), bytes(1_100))
    assert 1 < store.evictions - before < len(used)
    assert used <= content(store).keys()


def test_a_slot_that_is_split_while_its_entries_go_gives_up_its_own() -> None:
    """It has as many turns as it is large, and was another object when they began."""
    store = store_of(600)
    count = store.tables(7)[0].split_entries
    keys = some_keys(7, 3 * count)
    left = iter(keys)
    for key in islice(left, count):
        assert put(store, key, b"blob")
    assert store.reclaim_one()
    while len(store.tables(7)) == 1:
        assert put(store, next(left), b"blob")
    for _ in range(200):
        assert store.reclaim_one()
    assert len(store) == sum(map(len, store.tables(7)))
    assert content(store) == dict.fromkeys(content(store), b"blob")


def test_rebuilding_a_slot_keeps_entries_and_order() -> None:
    store = store_of(1)
    keys = some_keys(9, IN_PAGE + 2)
    for key in keys[:IN_PAGE]:
        put(store, key, key * 1000 + bytes(10_000 - 1000 * len(key)))
    get(store, keys[0])
    before = content(store)
    rebuild(store, 9)
    assert content(store) == before
    assert len(store) == IN_PAGE
    put(store, keys[IN_PAGE], bytes(10_000))
    put(store, keys[IN_PAGE + 1], bytes(10_000))
    assert set(before) - set(content(store)) == {keys[1], keys[2]}
    check_books(arena_of(store), handles(store))


def test_evictions_are_spread_over_slots() -> None:
    """With keys spread evenly, what has gone is close to what one LRU over all would have chosen."""
    store = store_of(40)
    rng = random.Random(5)
    keys = [rng.randbytes(16) for _ in range(8000)]
    for key in keys:
        assert put(store, key, bytes(1000))
    kept = set(content(store))
    held = len(kept)
    assert held * 1000 > 40 * PAGE_BYTES * 0.85
    assert len(kept & set(keys[-held:])) > 0.8 * held
    assert len(kept & set(keys[-held // 2 :])) > 0.95 * held // 2


# --- eviction and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [100, 900, 3000, 9_990])
@pytest.mark.parametrize("after", [100, 900, 3000, 9_990])
def test_any_size_flows_over_any_other(before: int, after: int) -> None:
    store = store_of(48)
    arena = arena_of(store)
    fill(store, before)
    count = 2 * arena.limit_bytes // after
    for n in range(count):
        key = b"after %d" % n
        assert put(store, key, n.to_bytes(4, "big") * (after // 4)), n
        assert arena.resident_bytes <= arena.limit_bytes
        assert get(store, key) is not None
    for key, blob in content(store).items():
        if key.startswith(b"after"):
            assert blob == int(key[6:]).to_bytes(4, "big") * (after // 4)
        else:
            assert len(blob) == before
    check_books(arena, handles(store))
    assert arena.chunk_bytes > 0.8 * arena.limit_bytes


@pytest.mark.parametrize("after", [900, 9_990])
def test_what_small_entries_free_is_joined_in_small_doses_as_large_ones_take_over(after: int) -> None:
    since: list[int] = []
    store = Store(
        Arena(64 * MIB, 40 * PAGE_BYTES),
        evict=True,
        on_allowance_used=lambda: None,
        on_freed=lambda: since.append(store.evictions),
    )
    store.allowance_bytes = 1 << 60
    fill(store, 20)
    for n in range(2 * MIB // after):
        put(store, b"large %d" % n, bytes(after))
    assert store.evictions > 20_000
    steps = [there - before for before, there in pairwise([0, *since, store.evictions])]
    assert max(steps) <= 1_000 + 1_300, "what one PUT may evict comes on top"


@pytest.mark.parametrize("others", [0, 1, 60])
def test_what_was_put_is_there_right_afterwards_however_full_the_store(others: int) -> None:
    """Whatever sizes come: also when as many others were put meanwhile as there may be clients."""
    rng = random.Random(others)
    store = store_of(200)
    put_lately: list[bytes] = []
    for n in range(30_000):
        key = b"%016d" % n
        assert put(store, key, bytes(rng.choice((16, 64, 200, 900, 3_000, 9_000)))), n
        put_lately.append(key)
        if n >= others:
            assert get(store, put_lately[n - others]) is not None, n
    assert store.evictions > 20_000
    check_books(arena_of(store), handles(store))


def test_a_page_that_was_written_to_lately_is_not_evicted_whole_for_an_old_entry_in_it() -> None:
    store = store_of(3)
    keys = some_keys(7, CHUNKS_MAX + 2 * IN_PAGE + 1)
    *old, overwritten = keys[:CHUNKS_MAX]
    *large, larger = keys[CHUNKS_MAX:]
    for key in (*old, overwritten):
        assert put(store, key, bytes(70))
    for key in large:
        assert put(store, key, bytes(10_000))
    assert put(store, overwritten, bytes(70))
    assert store.evictions == 0
    assert put(store, larger, bytes(10_000))
    assert content(store).keys() >= {overwritten, larger}


def sparse_store(*, evict: bool = True) -> tuple[Store, dict[bytes, bytes]]:
    """A store of 16 pages, all in use, that holds every third of the entries that once filled it; and those."""
    store = store_of(16, evict=evict)
    filled = fill(store, 900, most=16 * (PAGE_BYTES // 1024))
    assert store.evictions == 0
    assert arena_of(store).resident_bytes == arena_of(store).limit_bytes
    for n, key in enumerate(filled):
        if n % 3:
            store.remove(slot_of(key), key)
    assert arena_of(store).free_chunk_bytes > 2 * store.compact_bytes
    return store, content(store)


@pytest.mark.parametrize("blob_bytes", [50, 9_990])
def test_records_are_moved_together_before_any_is_evicted(blob_bytes: int) -> None:
    """Room for a value of another size is there, in free chunks all over the pages: nothing need be lost for it."""
    store, kept = sparse_store()
    assert put(store, b"new", bytes(blob_bytes))
    assert store.evictions == 0
    assert store.moves > 0
    assert content(store) == kept | {b"new": bytes(blob_bytes)}
    before = store.moves
    moved = store.compact()
    assert moved > 0
    assert store.moves == before + moved
    check_books(arena_of(store), handles(store))


@pytest.mark.parametrize("wiped", [False, True])
def test_where_no_page_can_be_emptied_by_moving_nothing_is_moved(wiped: bool) -> None:
    """Each one is full, or records in it are of wiped slots, whose owners can't be told where they are."""
    store, kept = sparse_store()
    if wiped:
        store.wipe([slot_of(next(iter(kept)))])
    else:
        while store.compact():
            pass
    before = content(store), store.moves
    assert store.compact() == 0
    assert (content(store), store.moves) == before
    check_books(arena_of(store), handles(store))


def test_a_lowered_limit_moves_records_together_before_any_is_evicted() -> None:
    store, kept = sparse_store()
    arena = arena_of(store)
    arena.limit_bytes //= 2
    assert store.shrink(100_000)
    assert arena.resident_bytes <= arena.limit_bytes
    assert store.evictions == 0
    assert content(store) == kept
    check_books(arena, handles(store))


def test_moving_records_together_is_work_that_is_counted() -> None:
    store, kept = sparse_store()
    arena_of(store).limit_bytes //= 2
    steps = 0
    while not store.shrink(1):
        steps += 1
        assert steps < 1000
    assert steps > 3
    assert content(store) == kept


@pytest.mark.parametrize(("evict", "compact_bytes"), [(True, 0), (False, 0), (False, 1 << 40)])
def test_moving_records_together_is_work_for_each_of_them_and_for_the_page(evict: bool, compact_bytes: int) -> None:
    def moved(budget: int) -> int:
        store, _ = sparse_store(evict=evict)
        store.compact_bytes = compact_bytes
        arena_of(store).limit_bytes //= 2
        assert not store.shrink(budget)
        return store.moves

    first = moved(1)
    assert moved(first + 100) == first > 0
    assert moved(first + 101) > first


@pytest.mark.parametrize(("budget", "pages_left"), [(IN_PAGE + 100, 2), (IN_PAGE + 101, 1)])
def test_evicting_a_page_is_work_for_each_of_its_entries_and_for_the_page(budget: int, pages_left: int) -> None:
    store = store_of(3)
    for key in some_keys(7, 3 * IN_PAGE):
        assert put(store, key, bytes(10_000))
    arena_of(store).limit_bytes = PAGE_BYTES
    assert store.shrink(budget) == (pages_left == 1)
    assert len(store) == pages_left * IN_PAGE


@pytest.mark.parametrize("evict", [True, False])
def test_what_was_wiped_is_freed_before_anything_is_evicted_and_is_work_for_each_entry(evict: bool) -> None:
    store = store_of(3, evict=evict)
    wiped, kept = some_keys(7, IN_PAGE), some_keys(8, 2 * IN_PAGE)
    for key in wiped + kept:
        assert put(store, key, bytes(10_000))
    store.wipe([7])
    arena_of(store).limit_bytes = 2 * PAGE_BYTES
    assert not store.shrink(IN_PAGE - 1)
    assert len(handles(store)) == len(kept) + 1
    assert store.shrink(2)
    assert content(store).keys() == set(kept)
    assert store.evictions == store.moves == 0


@pytest.mark.parametrize(("budget", "pages"), [(10, 1), (11, 2), (20, 2), (21, 3)])
def test_giving_a_cleared_page_back_is_a_tenth_of_the_work_of_another(budget: int, pages: int) -> None:
    store = store_of(5)
    for key in some_keys(7, 5 * IN_PAGE):
        assert put(store, key, bytes(10_000))
    store.wipe([7])
    arena = arena_of(store)
    before = arena.resident_bytes
    arena.limit_bytes = 0
    assert not store.shrink(budget)
    assert before - arena.resident_bytes == pages * before // 5


def test_the_room_that_is_left() -> None:
    """Pages that the limit still allows, and free chunks past what is left alone."""
    store = store_of(16)
    arena = arena_of(store)
    assert store.room_bytes == 16 * PAGE_BYTES
    put(store, b"k", bytes(10_000))
    assert store.room_bytes == 16 * PAGE_BYTES - arena.resident_bytes
    store.heap_full = True
    assert store.room_bytes == 0
    store, _ = sparse_store()
    assert store.room_bytes == arena_of(store).free_chunk_bytes - store.compact_bytes
    arena_of(store).limit_bytes = 0
    assert store.room_bytes == arena_of(store).free_chunk_bytes - store.compact_bytes
    store.compact_bytes = 1 << 40
    assert store.room_bytes == 0


@pytest.mark.parametrize("evict", [True, False])
def test_whether_it_evicts(evict: bool) -> None:
    assert store_of(1, evict=evict).evicts is evict


def test_a_full_heap_makes_every_new_entry_take_anothers_place() -> None:
    store = store_of(8)
    for n in range(100):
        assert put(store, b"%d" % n, bytes(100))
    store.heap_full = True
    for n in range(100, 300):
        assert put(store, b"%d" % n, bytes(100))
        assert len(store) == 100
        assert get(store, b"%d" % n) == bytes(100)
    assert store.evictions == 200
    assert put(store, b"299", bytes(500))  # an overwrite takes nobody's
    assert len(store) == 100
    check_books(arena_of(store), handles(store))


def test_a_heap_past_its_bound_makes_every_new_entry_take_the_place_of_two() -> None:
    store = store_of(8)
    for n in range(100):
        assert put(store, b"%d" % n, bytes(100))
    store.heap_full = store.heap_over = True
    for n in range(100, 150):
        assert put(store, b"%d" % n, bytes(100))
    assert len(store) == 50
    store = store_of(8, evict=False)
    put(store, b"k", b"v")
    store.heap_full = store.heap_over = True
    assert not put(store, b"l", b"v")
    assert content(store) == {b"k": b"v"}


def test_a_full_heap_and_nothing_to_replace_is_no_room() -> None:
    store = store_of(8)
    store.heap_full = True
    assert not put(store, b"k", b"v")
    assert len(store) == 0
    assert content(store) == {}


def test_what_others_take_beside_the_entries_is_charged_to_the_allowance() -> None:
    looks = []

    def look() -> None:
        looks.append(store.allowance_bytes)
        store.allowance_bytes = 1000

    store = Store(Arena(8 * PAGE_BYTES, 8 * PAGE_BYTES), evict=True, on_allowance_used=look)
    store.allowance_bytes = 1000
    store.spend(1000)
    assert not looks
    store.spend(1)
    assert looks == [-1]


def test_every_entry_is_charged_to_the_allowance_and_the_governor_asked_when_it_is_used_up() -> None:
    asked = []
    arena = Arena(MIB, MIB)

    def look() -> None:
        asked.append(len(store))
        store.allowance_bytes = 1_000_000

    store = Store(arena, evict=True, on_allowance_used=look)
    store.entry_heap_bytes = 240_000  # what its tables take beside it is little
    for n in range(12):
        put(store, b"%d" % n, b"v")
        put(store, b"%d" % n, b"w")  # an overwrite costs no heap
    assert asked == [0, 5, 10]


def test_an_allowance_that_is_just_used_up_lasts_until_the_next_entry() -> None:
    asked = []
    store = Store(Arena(MIB, MIB), evict=True, on_allowance_used=lambda: asked.append(len(store)))
    first, second, third, fourth = some_keys(7, 4)
    store.allowance_bytes = 1 << 40
    assert put(store, first, b"v")  # the slot's tables take some more now
    store.allowance_bytes = store.entry_heap_bytes
    assert put(store, second, b"v")
    assert (store.allowance_bytes, asked) == (0, [])
    assert put(store, third, b"v")
    assert asked == [2]
    store.allowance_bytes = store.entry_heap_bytes - 1
    assert put(store, fourth, b"v")
    assert (store.allowance_bytes, asked) == (-1, [2, 3])


def test_at_first_nothing_is_allowed_unasked() -> None:
    asked = []
    store = Store(Arena(MIB, MIB), evict=True, on_allowance_used=lambda: asked.append(len(store)))
    store.spend(1)
    assert asked == [0]


@pytest.mark.parametrize("pages", [0, 1])
def test_what_a_put_does_for_the_governor_is_off_what_it_may_do_for_its_own_room(pages: int) -> None:
    """Two pages of tiny entries in all, as each large value needs some of them; if that is too little it is refused."""
    looks = []

    def look() -> None:
        store.allowance_bytes = 0
        looks.append(store.evictions)
        arena.limit_bytes -= pages * arena.resident_bytes // 40
        store.shrink(300)

    arena = Arena(64 * MIB, 40 * PAGE_BYTES)
    store = Store(arena, evict=True, on_allowance_used=look)
    store.allowance_bytes = 1 << 60
    fill(store, 4)
    store.allowance_bytes = 0
    refused, most = 0, 0
    for n in range(20):
        before = store.evictions
        store.allowance_bytes = -1
        refused += not put(store, b"large %d" % n, bytes(9_990))
        most = max(most, store.evictions - before)
    assert len(looks) == 20
    assert refused < 20
    assert most <= 2 * CHUNKS_MAX + 2


def test_shrinking_brings_the_arena_within_a_lowered_limit_in_bounded_steps() -> None:
    store = store_of(64)
    arena = arena_of(store)
    fill(store, 300)
    arena.limit_bytes = 20 * PAGE_BYTES
    steps = 0
    while not store.shrink(300):
        steps += 1
        before = len(store)
        assert steps < 1000
    assert steps > 5
    assert before - len(store) < 300 + PAGE_BYTES // 300
    assert arena.resident_bytes <= arena.limit_bytes
    assert len(store) * 300 > 0.7 * arena.limit_bytes
    check_books(arena, handles(store))


def test_shrinking_by_a_page_evicts_what_is_in_that_page() -> None:
    store = store_of(3)
    for key in some_keys(7, 3 * IN_PAGE):
        assert put(store, key, bytes(10_000))
    arena_of(store).limit_bytes = 2 * PAGE_BYTES
    assert store.shrink(300)
    assert (len(store), store.evictions) == (2 * IN_PAGE, IN_PAGE)


@pytest.mark.parametrize("insertions", range(1, 12))
def test_an_entry_that_must_go_for_its_own_new_value_is_there_with_that(insertions: int) -> None:
    """There is no other: however many its slot's tables have taken before."""
    store = store_of(1)
    keys = some_keys(7, insertions)
    for key in keys[:-1]:
        assert put(store, key, b"v")
        assert store.remove(7, key)
    for blob in (b"v", bytes(10_000), bytes(3_000)):
        assert put(store, keys[-1], blob)
        assert content(store) == {keys[-1]: blob}
        assert len(store) == 1
        check_books(arena_of(store), handles(store))


def test_an_entry_that_goes_for_its_own_new_value_leaves_others_alone() -> None:
    store = store_of(2)
    mine, *others = some_keys(5, 1) + some_keys(100, 10)
    for key in others:
        assert put(store, key, bytes(3_000))
    assert put(store, mine, b"v")
    assert put(store, mine, bytes(10_000))
    assert content(store) == dict.fromkeys(others, bytes(3_000)) | {mine: bytes(10_000)}
    assert len(store) == 11
    check_books(arena_of(store), handles(store))


# --- tables -------------------------------------------------------------------------------------------------------


def table_bytes(store: Store) -> int:
    return sum(table.table_bytes for number in range(SLOT_COUNT) for table in store.tables(number))


class Allowance:
    """What a governor tells: so many bytes may tables take, and no more."""

    def __init__(self, table_max_bytes: int, *, evict: bool = True) -> None:
        self.store = Store(Arena(64 * MIB, 64 * MIB), evict=evict, on_allowance_used=self.look)
        self.table_max_bytes = table_max_bytes
        self.asked = 0
        self.look()

    def look(self) -> None:
        self.asked += 1
        self.store.allowance_bytes = 1 << 40
        self.store.spare_bytes = self.table_max_bytes - table_bytes(self.store)


def test_what_larger_tables_take_is_taken_off_what_tables_may_take() -> None:
    """And off what the heap may grow by until the governor looks."""
    store = store_of(4)
    store.allowance_bytes = 1 << 40
    grown = 0
    for key in some_keys(7, 50):
        (table,) = store.tables(7)
        growth = 0 if table.room else table.growth_bytes
        spare, allowance = store.spare_bytes, store.allowance_bytes
        assert put(store, key, b"v")
        assert spare - store.spare_bytes == growth
        assert allowance - store.allowance_bytes == store.entry_heap_bytes + growth
        grown += growth > 0
    assert grown > 2


def test_tables_do_not_grow_unasked_for_an_entry_that_went_with_a_page_for_its_own_new_value() -> None:
    store = store_of(2)
    oldest, mine, *others = some_keys(7, 5)
    for key in (oldest, mine):
        assert put(store, key, b"v")
    (table,) = store.tables(7)
    others = others[: table.room]
    for key in others:
        assert put(store, key, bytes(3_000))
    assert table.room == 0
    before = table_bytes(store)
    assert put(store, mine, bytes(10_000))
    assert content(store).keys() == {mine, *others}
    assert table_bytes(store) == before


def test_tables_grow_no_further_than_there_is_memory_for() -> None:
    """Tiny entries, as many evicted as come: left to themselves the tables would take three times as much."""
    most = 2 * MIB
    machine = Allowance(most)
    store = machine.store
    rng = random.Random(3)
    for n in range(60_000):
        store.heap_full = n > 15_000
        assert put(store, rng.randbytes(10), b"v")
        if n % 100 == 0:
            assert table_bytes(store) <= most + MIB  # what they may take before the arena has made way
    assert len(store) > 10_000
    assert machine.asked < 2000
    check_books(arena_of(store), handles(store))


def test_where_tables_may_not_grow_entries_of_the_same_slot_go() -> None:
    machine = Allowance(-4 * MIB)
    store = machine.store
    keys = some_keys(7, 50)
    for key in keys:
        assert put(store, key, b"v")
    assert content(store).keys() == set(keys[-len(store) :])
    assert 1 < len(store) == len(content(store)) < 10
    assert store.evictions == 50 - len(store)
    check_books(arena_of(store), handles(store))


@pytest.mark.parametrize(("value_bytes", "evicts"), [(1, True), (500, False)])
def test_where_tables_may_not_grow_they_do_if_that_takes_less_than_the_entries_that_would_go(
    value_bytes: int, evicts: bool
) -> None:
    store = Allowance(0).store
    store.entry_heap_bytes = 50
    keys = keys_of(7)
    assert put(store, next(keys), bytes(value_bytes))
    capacity = store.tables(7)[0].capacity
    for key in islice(keys, capacity):  # tables of 4 or 5 entries: larger ones take 112 or 320 bytes more
        assert put(store, key, bytes(value_bytes))
    assert len(store) == capacity + 1 - store.evictions
    assert store.evictions == (capacity + 1 - store.tables(7)[0].keep - 1 if evicts else 0)


def test_a_store_that_may_not_evict_refuses_where_tables_may_not_grow() -> None:
    machine = Allowance(-4 * MIB, evict=False)
    store = machine.store
    keys = some_keys(7, 50)
    stored = [key for key in keys if put(store, key, b"v")]
    assert 1 < len(stored) < 10
    assert content(store) == dict.fromkeys(stored, b"v")
    assert store.evictions == 0
    for key in keys[:3]:  # what has been removed is room
        store.remove(7, key)
    assert put(store, keys[-1], b"v")
    check_books(arena_of(store), handles(store))


def test_a_store_that_may_not_evict_uses_what_removals_left_in_tables_once_that_is_an_eighth_of_them() -> None:
    """They are made anew for that, which is not worth it for less. What is compiled has it at once."""
    pure, chosen = PIECES["slots.Slot"]
    machine = Allowance(1 << 40, evict=False)
    store = machine.store
    keys = keys_of(7)
    for key in islice(keys, 100):
        assert put(store, key, b"v")
    machine.table_max_bytes = 0
    machine.look()
    while put(store, next(keys), b"v"):
        pass
    (table,) = store.tables(7)
    capacity = len(table)
    for key in store.keys(7):
        assert chosen is not pure or not put(store, next(keys), b"v")
        assert store.remove(7, key)
        if len(table) * 8 < capacity * 7:
            break
    before = table.table_bytes
    while put(store, next(keys), b"v"):
        pass
    assert (len(table), table.table_bytes) == (capacity, before)


def test_what_dividing_a_table_takes_is_taken_off_what_tables_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slot, "split_entries", 1024)
    store = store_of(100)
    divisions = 0
    for key in some_keys(9, 4_500):
        slot, before = store._slots[9], store.spare_bytes
        if isinstance(slot, SplitSlot) and slot.is_crowded:
            divisions += 1
            said = slot.growth_bytes
            assert put(store, key, b"v")
            assert before - store.spare_bytes >= max(0, said)
        elif isinstance(slot, SplitSlot) and slot.table_of(key).room:
            size = slot.table_of(key).table_bytes
            assert put(store, key, b"v")
            assert store.spare_bytes == before
            assert slot.table_of(key).table_bytes == size
        else:
            assert put(store, key, b"v")
    assert divisions > 1


def test_one_slot_takes_everything_in_small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can choose keys of one slot; what that slot takes is divided over tables, and joined as it goes."""
    monkeypatch.setattr(Slot, "split_entries", 1024)
    store = store_of(400)
    keys = some_keys(9, 30_000)
    for key in keys:
        assert put(store, key, key)
    assert len(store) == len(store.keys(9)) == len(keys)
    assert max(map(len, store.tables(9))) < 2600
    assert all(get(store, key) == key for key in keys)
    assert all(store.peek(9, key) == key for key in keys[::7])
    assert put(store, keys[5], b"five")
    assert put(store, keys[6], bytes(3000))
    assert (get(store, keys[5]), get(store, keys[6])) == (b"five", bytes(3000))
    for key in keys[1000:]:
        assert store.remove(9, key)
    assert len(store.tables(9)) < 6
    store.wipe([9])
    assert len(store) == 0
    assert store.keys(9) == []
    while store.drain_wiped():
        pass
    assert arena_of(store).resident_bytes == 0


def test_a_crowded_slot_does_not_empty_the_others() -> None:
    """As many as the store holds flow into one slot: of the others about as many are left as one LRU would leave."""
    store = store_of(100)
    for n in range(5_000):
        put(store, b"%d" % n, bytes(100))
    store.heap_full = True
    keys = keys_of(9)
    for _ in range(5_000):
        assert put(store, next(keys), bytes(100))
    others = len(store) - len(store.keys(9))
    assert len(store) == 5_000
    assert 0.2 * 5_000 < others < 0.5 * 5_000


# --- noeviction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blob_bytes", [30, 900, 8000])
def test_a_full_store_that_may_not_evict_refuses_and_changes_nothing(blob_bytes: int) -> None:
    store = store_of(8, evict=False)
    keys = fill(store, blob_bytes)
    before = content(store)
    for size in (blob_bytes, 10_000):
        assert not put(store, b"one more..", bytes(size))
        assert content(store) == before
    assert not put(store, keys[0], bytes(10_000))
    assert content(store) == before
    assert store.evictions == 0
    assert len(store) == len(before) == len(keys)
    check_books(arena_of(store), handles(store))


@pytest.mark.parametrize("smaller", [1, 8, 500, 899, 900])
def test_an_overwrite_by_something_smaller_works_on_a_full_store(smaller: int) -> None:
    store = store_of(8, evict=False)
    keys = fill(store, 900)
    for key in keys:
        assert put(store, key, b"s" * smaller)
    assert content(store) == dict.fromkeys(keys, b"s" * smaller)
    check_books(arena_of(store), handles(store))


def test_a_removal_makes_room_for_another_of_its_size() -> None:
    store = store_of(8, evict=False)
    keys = fill(store, 900)
    assert not put(store, b"fill again", bytes(900))
    assert store.remove(slot_of(keys[5]), keys[5])
    assert put(store, b"fill again", bytes(900))


def test_a_full_heap_refuses_new_keys_but_not_overwrites() -> None:
    store = store_of(8, evict=False)
    put(store, b"k", b"one")
    store.heap_full = True
    assert not put(store, b"l", b"v")
    assert put(store, b"k", bytes(5000))
    assert content(store) == {b"k": bytes(5000)}


# --- wipe ---------------------------------------------------------------------------------------------------------


def test_wiped_slots_are_empty_at_once_and_others_untouched() -> None:
    store = store_of(30)
    keys = [b"%d" % n for n in range(3000)]
    for key in keys:
        put(store, key, key)
    store.wipe(range(0, SLOT_COUNT, 2))
    left = {key: key for key in keys if slot_of(key) % 2}
    assert content(store) == left
    assert len(store) == len(left)
    assert all(get(store, key) == left.get(key) for key in keys)
    check_books(arena_of(store), handles(store))
    while store.drain_wiped():
        pass
    assert content(store) == left
    check_books(arena_of(store), handles(store))
    assert len(handles(store)) == len(left)
    assert store.evictions == 0


def test_a_wiped_store_gives_all_its_memory_back() -> None:
    store = store_of(30)
    fill(store, 200, most=3000)
    store.wipe(range(SLOT_COUNT))
    assert len(store) == 0
    while store.drain_wiped():
        pass
    assert arena_of(store).resident_bytes == 0
    assert not store.drain_wiped()


def test_wiping_all_makes_room_at_once_and_gives_heap_and_pages_back_step_by_step() -> None:
    store = store_of(30)
    arena = arena_of(store)
    room_bytes = store.room_bytes
    fill(store, 200, most=3000)
    resident_bytes = arena.resident_bytes
    store.wipe(range(100))
    assert store.wiping
    store.wipe(range(100, SLOT_COUNT))
    assert not store.wiping
    assert store.room_bytes == room_bytes
    for left in range(3000, 0, -1):
        assert store.drain_wiped(), left
    assert arena.resident_bytes == arena.cleared_bytes == resident_bytes
    while store.drain_wiped():
        assert arena.resident_bytes >= resident_bytes - PAGE_BYTES
        resident_bytes = arena.resident_bytes
    assert arena.resident_bytes == arena.cleared_bytes == 0


def test_a_look_gives_cleared_pages_back_before_anything_is_evicted() -> None:
    store = store_of(30)
    arena = arena_of(store)
    fill(store, 9_000)
    evictions = store.evictions
    store.wipe(range(SLOT_COUNT))
    assert put(store, b"new", bytes(9_000))
    arena.limit_bytes = 2 * PAGE_BYTES
    assert not store.shrink(30), "a few at a time"
    while not store.shrink(300):
        pass
    assert arena.resident_bytes <= arena.limit_bytes
    assert get(store, b"new") == bytes(9_000)
    assert store.evictions == evictions


def test_what_a_wipe_left_makes_place_while_the_heap_is_full() -> None:
    """Also in a store that may not evict: nothing is lost by it."""
    store = store_of(30, evict=False)
    for n in range(100):
        put(store, b"%d" % n, b"v")
    store.heap_full = True
    store.wipe(range(SLOT_COUNT))
    for n in range(100):
        assert put(store, b"new %d" % n, b"v")
    assert not put(store, b"one more", b"v")


def test_what_a_wipe_left_of_the_heap_does_not_stand_in_the_way_of_room() -> None:
    """Filled, wiped and filled again before the first entries' heap has been freed: evictions must make the room."""
    store = store_of(64)
    fill(store, 30)
    before = store.evictions
    store.wipe(range(SLOT_COUNT))
    for n in range(800):
        assert put(store, b"new %d" % n, bytes((5_000, 9_990)[n & 1 if n < 500 else 1])), n
    assert store.evictions > before


def test_a_partly_wiped_store_has_room_again_once_it_is_done_wiping() -> None:
    store = store_of(128, evict=False)
    keys = fill(store, 900)
    store.wipe(range(0, SLOT_COUNT, 2))
    left = {key for key in keys if slot_of(key) % 2}
    if not put(store, b"big", bytes(10_000)):
        assert store.wiping
        while store.drain_wiped():
            pass
        assert put(store, b"big", bytes(10_000))
    assert set(content(store)) == left | {b"big"}
    check_books(arena_of(store), handles(store))


@pytest.mark.parametrize("evict", [True, False])
@pytest.mark.parametrize("before", [60, 900, 10_000])
@pytest.mark.parametrize("after", [60, 900, 10_000])
def test_a_wiped_store_takes_any_size(before: int, after: int, evict: bool) -> None:
    """Full of one size, wiped, filled with another: not one write is refused, nor anything evicted."""
    store = store_of(128, evict=evict)
    arena = arena_of(store)
    fill(store, before)
    evictions = store.evictions
    store.wipe(range(SLOT_COUNT))
    expected = {}
    for n in range(min(2000, int(0.8 * arena.limit_bytes) // (after + 40))):
        key = b"after %d" % n
        assert put(store, key, bytes([n % 256]) * after), f"write {n} after the wipe"
        expected[key] = bytes([n % 256]) * after
        assert arena.resident_bytes <= arena.limit_bytes
    assert content(store) == expected
    assert store.evictions == evictions
    check_books(arena, handles(store))


# --- everything at once -------------------------------------------------------------------------------------------

few_keys = [b"%d" % n for n in range(24)] + some_keys(17, 12)
blob_sizes = st.sampled_from((4, 60, 900, 901, 2000, 5000, 9_990, 10_000)) | st.integers(1, 10_014)


class StoreMachine(RuleBasedStateMachine):
    """A store of a few pages against a dictionary."""

    evict = True

    def __init__(self) -> None:
        super().__init__()
        self.store = store_of(5, evict=self.evict)
        self.arena = arena_of(self.store)
        self.model: dict[bytes, bytes] = {}
        self.evictions = 0
        self.made = 0

    def blob(self, size: int) -> bytes:
        self.made += 1
        return random.Random(self.made).randbytes(size)

    def see_what_was_evicted(self, own_key: bytes | None = None) -> None:
        """What is missing now must have been evicted in this step, and be counted."""
        there = content(self.store)
        missing = {key for key in self.model if key not in there}
        counted = self.store.evictions - self.evictions
        self.evictions = self.store.evictions
        # An overwrite may evict its own key and store it anew.
        assert len(missing) <= counted <= len(missing) + (own_key in there)
        for key in missing:
            del self.model[key]

    def put_one(self, key: bytes, size: int) -> bool:
        blob = self.blob(size)
        before = self.arena.resident_bytes
        stored = put(self.store, key, blob)
        assert self.arena.resident_bytes <= max(before, self.arena.limit_bytes)
        if stored:
            self.model[key] = blob
            assert get(self.store, key) == blob
        self.see_what_was_evicted(key)
        return stored

    @initialize(size=st.sampled_from((60, 900, 5000, 9_990)), count=st.integers(0, 60))
    def fill(self, size: int, count: int) -> None:
        for n in range(count):
            self.put_one(b"fill %d" % n, size)

    @rule(key=st.sampled_from(few_keys), size=blob_sizes)
    def put(self, key: bytes, size: int) -> None:
        known = key in self.model
        before = dict(self.model)
        stored = self.put_one(key, size)
        if not self.evict:
            if not stored:
                assert content(self.store) == before
            if known and size <= len(before[key]):
                assert stored, "an overwrite by something smaller was refused"
        elif not self.store.heap_full and self.arena.limit_bytes >= PAGE_BYTES:
            assert stored

    @rule(size=blob_sizes, count=st.integers(1, 40))
    def put_many(self, size: int, count: int) -> None:
        for n in range(count):
            self.put_one(b"many %d" % (self.made + n), size)

    @rule(key=st.sampled_from(few_keys))
    def get(self, key: bytes) -> None:
        assert get(self.store, key) == self.model.get(key)

    @rule(key=st.sampled_from(few_keys))
    def remove(self, key: bytes) -> None:
        assert self.store.remove(slot_of(key), key) == (self.model.pop(key, None) is not None)

    @rule(first=st.integers(0, SLOT_COUNT - 1), count=st.sampled_from((1, 100, SLOT_COUNT)))
    def wipe(self, first: int, count: int) -> None:
        slots = [(first + n) % SLOT_COUNT for n in range(count)]
        self.store.wipe(slots)
        self.model = {key: blob for key, blob in self.model.items() if slot_of(key) not in slots}

    @rule(steps=st.integers(1, 30))
    def drain(self, steps: int) -> None:
        for _ in range(steps):
            self.store.drain_wiped()

    @rule()
    def move_together(self) -> None:
        self.store.compact()

    @precondition(lambda self: self.evict)
    @rule()
    def reclaim(self) -> None:
        any_record = bool(handles(self.store))
        assert self.store.reclaim_one() == any_record
        self.see_what_was_evicted()

    @rule(full=st.booleans())
    def heap(self, full: bool) -> None:
        self.store.heap_full = full

    @rule(pages=st.integers(0, 6), budget=st.sampled_from((1, 10, 10_000)))
    def shrink(self, pages: int, budget: int) -> None:
        self.arena.limit_bytes = pages * PAGE_BYTES
        done = self.store.shrink(budget)
        if budget == 10_000:
            assert done
            assert not self.evict or self.arena.resident_bytes <= self.arena.limit_bytes
        self.see_what_was_evicted()

    @rule(number=st.sampled_from((17, slot_of(b"0"), slot_of(b"1"))))
    def rebuild(self, number: int) -> None:
        rebuild(self.store, number)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert content(self.store) == self.model
        assert len(self.store) == len(self.model)
        assert self.evict or self.store.evictions == 0

    @invariant()
    def the_books_are_right(self) -> None:
        check_books(self.arena, handles(self.store))


class NoEvictionMachine(StoreMachine):
    evict = False


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = examples(40)
TestNoEvictionMachine = NoEvictionMachine.TestCase
TestNoEvictionMachine.settings = examples(40)
