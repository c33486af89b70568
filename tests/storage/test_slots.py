"""The tables of a slot: an LRU cache, and never larger than was said before."""

import random
import sys
from collections import OrderedDict
from copy import copy

import pytest
from cachetools import Cache, LRUCache
from hypothesis import given, settings
from hypothesis import strategies as st

from app.fast import PIECES
from app.storage.slots import Slot, SplitSlot

PURE, CHOSEN = PIECES["slots.Slot"]
COMPILED = pytest.param(
    CHOSEN, id="compiled", marks=pytest.mark.skipif(CHOSEN is PURE, reason="app/fast/slots is not built")
)

both = pytest.mark.parametrize("kind", [pytest.param(PURE, id="pure"), COMPILED])


@both
@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(("set", "get", "pop", "oldest", "copy", "peek")), st.integers(0, 12)), max_size=60
    )
)
def test_a_slot_is_an_lru_cache(kind: type[Slot], steps: list[tuple[str, int]]) -> None:
    """Its short ways do what cachetools' own methods do, whatever the two are mixed with. (But for the order in which
    it is iterated, which for cachetools' is the order of use once items have been read so.)"""
    slot, plain = kind(), LRUCache[bytes, int](10**9)
    for number, (step, n) in enumerate(steps):
        key = b"%d" % n
        if step == "set":
            slot[key] = plain[key] = number
        elif step == "get":
            assert slot.get(key) == plain.get(key)
        elif step == "pop":
            assert slot.pop(key, -1) == plain.pop(key, -1)
        elif step == "copy":
            slot, plain = copy(slot), copy(plain)
        elif step == "peek" and key in plain:
            assert slot.peek(key) == Cache.__getitem__(plain, key)
        elif step == "oldest" and plain:
            assert slot.popitem() == plain.popitem()
        assert slot.currsize == plain.currsize == len(slot) == len(plain)
        assert {key: slot.peek(key) for key in slot} == {key: Cache.__getitem__(plain, key) for key in plain}
    while plain:
        assert slot.popitem() == plain.popitem()
    with pytest.raises(KeyError):
        slot.popitem()


# --- tables -------------------------------------------------------------------------------------------------------


def order_of(slot: Slot) -> list[bytes]:
    """The keys of a slot, least recently used first; it is left as it is."""
    going = copy(slot)
    return [going.popitem()[0] for _ in range(len(slot))]


def bytes_of(slot: Slot) -> int:
    """What the tables of a slot take, by CPython's own account; of the compiled one, by its own."""
    if not isinstance(slot, PURE):
        assert slot.__sizeof__() - type(slot)().__sizeof__() >= slot.table_bytes
        return slot.table_bytes
    data, order = slot._data, slot._order
    assert dict.__sizeof__(data) - dict.__sizeof__({}) == dict.__sizeof__(order) - dict.__sizeof__(OrderedDict())
    return data.__sizeof__() + order.__sizeof__() - 32 * len(order)


@both
@pytest.mark.parametrize("removed_share", [0.0, 0.3, 0.48])
def test_tables_grow_when_there_is_no_room_left_and_by_what_was_said(kind: type[Slot], removed_share: float) -> None:
    """Exactly then, and so much: the store asks for memory by these two numbers."""
    rng = random.Random(f"{removed_share}")
    slot = kind()
    grown = 0
    for n in range(5000):
        before, room, growth = bytes_of(slot), slot.room, slot.growth_bytes
        slot[b"%d" % n] = n
        after = bytes_of(slot)
        if before < 1000:  # the first tables of all
            continue
        assert after == before + (0 if room else growth), (n, room)
        assert after == slot.table_bytes
        grown += after != before
        if rng.random() < removed_share:
            slot.popitem()
            for key in (b"%d" % n, *list(slot)[:1])[: rng.randrange(2)]:
                slot.pop(key, None)
    assert grown > 3


@pytest.mark.parametrize("capacity", [5, 10, 21, 42])
def test_small_tables_grow_by_what_was_said_however_few_entries_are_left_in_them(capacity: int) -> None:
    """Or shrink, or stay as they are: CPython makes them anew in the size that their entries want."""
    for left in range(1, capacity + 1):
        slot = PURE()
        for n in range(capacity):
            slot[b"%d" % n] = n
        assert slot.room == 0
        for _ in range(capacity - left):
            slot.popitem()
        before, growth = bytes_of(slot), slot.growth_bytes
        slot[b"new"] = 0
        assert bytes_of(slot) - before == growth, left
        assert slot.table_bytes - before == growth, left


def test_no_table_is_made_for_more_entries_than_tables_were_tried_out_for() -> None:
    """A slot of so many is to be split: no amount of memory will do."""
    slot = PURE()
    for n in range(2_731):
        slot[b"%d" % n] = n
    assert slot.growth_bytes > 1 << 60
    assert slot.bytes_for(5_461) == slot.table_bytes
    with pytest.raises(StopIteration):
        slot.bytes_for(5_462)


@pytest.mark.parametrize("key_bytes", range(1, 34))
def test_an_entry_takes_the_blocks_of_its_key_its_handle_and_its_link(key_bytes: int) -> None:
    """As the C library hands them out: 8 bytes of its own in each, which is a multiple of 16."""

    def block(size: int) -> int:
        return next(block for block in range(0, 1024, 16) if block >= size + 8)

    key = bytes(key_bytes)
    assert PURE.entry_bytes(key) == block(sys.getsizeof(key)) + block(sys.getsizeof(1 << 44)) + block(32)


def test_tables_are_worth_making_anew_with_three_quarters_of_their_entries() -> None:
    for count in (0, 6, 11, 22, 86, 171):
        slot = PURE()
        for n in range(count):
            slot[b"%d" % n] = n
        assert 4 * slot.keep <= 3 * slot.capacity < 4 * (slot.keep + 1)


@both
def test_two_slots_are_joined_as_if_the_last_uses_of_both_had_taken_turns(kind: type[Slot]) -> None:
    for mine, others, joined in (("abc", "x", "abxc"), ("a", "xyz", "xyza"), ("ab", "xy", "xayb"), ("", "x", "x")):
        slots = []
        for keys in (mine, others):
            slots.append(kind())
            for key in keys:
                slots[-1][key.encode()] = ord(key)
        both_of_them = slots[0].join(slots[1])
        assert order_of(both_of_them) == [key.encode() for key in joined]
        assert {key: both_of_them.peek(key) for key in both_of_them} == {key.encode(): ord(key) for key in joined}


def test_under_insertion_and_removal_tables_grow_at_a_constant_number_of_entries() -> None:
    """What the estimate of memory does not see, and `growth_bytes` does. The compiled ones stay as they are."""
    grown = []
    for kind in {PURE, CHOSEN}:
        slot = kind()
        for n in range(1000):
            slot[b"%d" % n] = n
        before = slot.table_bytes
        for n in range(1000, 3000):
            slot.popitem()
            slot[b"%d" % n] = n
        grown.append(slot.table_bytes / before)
    assert min(grown) == 1 if CHOSEN is not PURE else min(grown) >= 1.9
    assert max(grown) >= 1.9


@both
@pytest.mark.parametrize("count", [0, 1, 5, 6, 10, 11, 21, 22, 85, 341, 1000])
def test_rebuilt_tables_are_as_small_as_their_entries_allow(kind: type[Slot], count: int) -> None:
    slot = kind()
    for n in range(3000):
        slot[b"%d" % n] = n
    for _ in range(3000 - count):
        slot.popitem()
    left = order_of(slot)
    slot.rebuild()
    assert order_of(slot) == left
    assert set(slot) == set(left)
    assert [slot.peek(key) for key in left] == list(range(3000 - count, 3000))
    fresh = kind()
    for key in left:
        fresh[key] = 0
    assert bytes_of(slot) == bytes_of(fresh)
    assert (slot.room, slot.capacity, slot.table_bytes) == (fresh.room, fresh.capacity, fresh.table_bytes)
    assert slot.capacity >= len(slot) + slot.room
    assert slot.bytes_for(count) == bytes_of(slot) or not count


@both
def test_tables_are_oversized_where_rebuilding_them_wins_much_and_not_again_after_it(kind: type[Slot]) -> None:
    slot = kind()
    for n in range(3000):
        slot[b"%d" % n] = n
    assert not slot.is_oversized
    for _ in range(3000):
        slot.popitem()
        before = slot.table_bytes
        if slot.is_oversized:
            slot.rebuild()
            assert slot.table_bytes < 0.75 * before
            assert not slot.is_oversized
    assert slot.table_bytes <= 16 * 1024


@both
def test_room_comes_back_with_the_entries_that_have_gone(kind: type[Slot]) -> None:
    """At once, or when the tables are made anew in the size that they have."""
    slot = kind()
    n = 0
    while len(slot) < 1000 or slot.room:
        slot[b"%d" % n] = n
        n += 1
    before = slot.table_bytes
    assert len(slot) > slot.keep
    slot.evict_beside(b"new", len(slot) - slot.keep)
    if not slot.room:
        slot.rebuild()
    assert slot.room > 0
    slot[b"new"] = 1
    assert slot.table_bytes == before


# --- slots of many entries ----------------------------------------------------------------------------------------


SPLIT_ENTRIES = PURE.split_entries


class SoonSplit(CHOSEN):  # type: ignore[misc, valid-type]
    """With as few entries as the Python."""

    split_entries = SPLIT_ENTRIES


both_split = pytest.mark.parametrize(
    "kind", [pytest.param(PURE, id="pure"), pytest.param(SoonSplit, id="compiled", marks=COMPILED.marks)]
)


def split_of(kind: type[Slot], count: int) -> SplitSlot:
    """As a store brings it about: it asks at each new key."""
    slot = kind()
    for n in range(SPLIT_ENTRIES + 1):
        slot[b"%d" % n] = n
    split = SplitSlot(slot)
    for n in range(SPLIT_ENTRIES + 1, count):
        if split.is_crowded:
            split.divide()
        split[b"%d" % n] = n
    return split


def check(split: SplitSlot) -> None:
    """Each key is in its table, and no table has more than a step may handle."""
    for table in split.tables:
        assert all(split.table_of(key) is table for key in table)
        assert len(table) <= 2.5 * SPLIT_ENTRIES
    assert len(split) == sum(map(len, split.tables)) == len(list(split))


@both_split
@pytest.mark.parametrize("count", [1025, 2049, 5000, 20_000, 100_000])
def test_the_tables_of_a_split_slot_stay_small(kind: type[Slot], count: int) -> None:
    split = split_of(kind, count)
    check(split)
    assert len(split) == count
    assert count / SPLIT_ENTRIES / 1.1 < len(split.tables) <= count / SPLIT_ENTRIES + 2
    assert all(split.peek(b"%d" % n) == n for n in range(count))


@both_split
def test_a_division_takes_what_was_said_before_if_it_halves_the_table(kind: type[Slot]) -> None:
    split = split_of(kind, SPLIT_ENTRIES + 1)
    divided = []
    for n in range(SPLIT_ENTRIES + 1, 20_000):
        if split.is_crowded:
            tables, said = list(split.tables), split.growth_bytes
            split.divide()
            ((number, table),) = [(n, table) for n, table in enumerate(tables) if split.tables[n] is not table]
            half = kind()
            for key in list(table)[: len(table) // 2]:
                half[key] = 0
            assert said == 2 * half.table_bytes - table.table_bytes
            divided.append(number)
        split[b"%d" % n] = n
    assert divided[:13] == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]


@both_split
def test_keys_chosen_to_fall_into_one_slot_do_not_fall_into_one_table(kind: type[Slot]) -> None:
    split = split_of(kind, 60_000)
    sizes = sorted(map(len, split.tables))
    assert sizes[-1] < 2.5 * sizes[len(sizes) // 2]
    assert sizes[0] > 0.3 * sizes[len(sizes) // 2]


@both_split
def test_tables_are_joined_as_entries_go_down_to_the_last(kind: type[Slot]) -> None:
    split = split_of(kind, 40_000)
    for left in range(39_999, -1, -1):
        key, number = split.popitem()
        assert key == b"%d" % number
        assert key not in split
        assert len(split) == left
        assert len(split.tables) <= max(1, left / (SPLIT_ENTRIES / 4) + 1)
        if left % 1000 == 0:
            check(split)
    assert list(split) == []
    with pytest.raises(KeyError):
        split.popitem()
    split[b"k"] = 1
    assert split[b"k"] == 1


@both_split
def test_a_slot_is_crowded_with_more_than_its_tables_should_have(kind: type[Slot]) -> None:
    split = split_of(kind, 2 * SPLIT_ENTRIES)
    assert (len(split.tables), split.is_crowded) == (2, False)
    split[b"one more"] = 1
    assert split.is_crowded
    split.divide()
    assert not split.is_crowded


@both_split
def test_tables_are_joined_with_less_than_a_quarter_of_that_and_not_before(kind: type[Slot]) -> None:
    split = split_of(kind, 6_000)
    joined = 0
    while split:
        before = len(split.tables)
        split.popitem()
        is_due = before > 1 and len(split) < before * SPLIT_ENTRIES // 4
        assert len(split.tables) == before - is_due, len(split)
        joined += is_due
    assert joined > 4


@both_split
def test_what_goes_is_of_the_fuller_of_two_tables(kind: type[Slot]) -> None:
    for number in range(2):
        split = split_of(kind, 2 * SPLIT_ENTRIES)
        fuller, other = split.tables[number], split.tables[1 - number]
        split.evict_beside(next(iter(other)), len(other) - 500)
        while len(fuller) > len(other):
            going = order_of(fuller)[0] if len(fuller) % 50 == 0 else None
            key, _ = split.popitem()
            assert len(other) == 500
            assert going in (None, key)


@both_split
def test_what_goes_is_found_beside_tables_that_are_empty(kind: type[Slot]) -> None:
    split = split_of(kind, 4 * SPLIT_ENTRIES)
    assert len(split.tables) == 4
    for table in split.tables[:2]:
        for key in list(table):
            del split[key]
    assert [bool(table) for table in split.tables] == [False, False, True, True]
    for left in range(len(split) - 1, -1, -1):
        split.popitem()
        assert len(split) == left


@both_split
def test_what_goes_from_a_split_slot_is_about_what_was_used_least_recently(kind: type[Slot]) -> None:
    split = split_of(kind, 30_000)
    for n in range(0, 30_000, 3):
        assert split[b"%d" % n] == n  # used
    gone = [split.popitem()[1] for _ in range(10_000)]
    assert all(number % 3 for number in gone)
    assert sum(number < 20_000 for number in gone) > 9_000


@both_split
@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.integers(0, 2**32), st.sampled_from((1200, 3000, 6000)))
def test_a_split_slot_is_a_dictionary(kind: type[Slot], seed: int, count: int) -> None:
    rng = random.Random(seed)
    split = split_of(kind, count)
    model = {key: split.peek(key) for key in split}
    for n in range(600):
        key = b"%d" % rng.randrange(2 * count)
        step = rng.randrange(7)
        if step <= 1:
            split[key] = model[key] = -n
        elif step == 2:
            assert (key in split) == (key in model)
            if key in model:
                assert split[key] == split.peek(key) == model[key]
        elif step == 3 and key in model:
            del split[key]
            del model[key]
        elif step == 4 and key in model:
            split.poke(key, n)
            model[key] = n
            split.age(key)
            assert order_of(split.table_of(key))[0] == key
        elif step == 5 and model:
            key, value = split.popitem()
            assert model.pop(key) == value
        elif step == 6:
            table = split.table_of(key)
            most = min(len(table), rng.randrange(30))
            going = order_of(table)[:most]
            assert split.evict_beside(key, most) == [model.pop(old) for old in going]
        assert len(split) == len(model)
    assert {key: split.peek(key) for key in split} == model
    check(split)


@both_split
@pytest.mark.parametrize("seed", range(20))
def test_all_keys_of_a_split_slot_are_listed_table_by_table_while_tables_come_and_go(
    kind: type[Slot], seed: int
) -> None:
    rng = random.Random(seed)
    split = split_of(kind, rng.choice((1_100, 5_000, 20_000)))
    stays = set(rng.sample(sorted(split), 500))
    listed: list[bytes] = []
    cursor, calls = 0, 0
    while not calls or cursor:
        keys, cursor = split.keys_from(cursor)
        assert len(keys) <= 4 * SPLIT_ENTRIES
        listed += keys
        calls += 1
        if rng.random() < 0.5:
            for n in range(rng.choice((0, 100, 5_000))):
                if split.is_crowded:
                    split.divide()
                split[b"new %d %d" % (calls, n)] = n
        else:
            for key in rng.sample(sorted(split), min(len(split), rng.choice((0, 100, 10_000)))):
                if key not in stays:
                    del split[key]
        assert calls < 2_000
    assert stays <= set(listed)


@both_split
def test_a_listing_goes_on_where_the_table_that_was_next_has_been_joined_with_another(kind: type[Slot]) -> None:
    """Of four tables, of which the last is listed last, that one is gone: its keys are in the second."""
    split = split_of(kind, 4 * SPLIT_ENTRIES)
    first, second, third, last = (set(table) for table in split.tables)
    listed: set[bytes] = set()
    cursor = 0
    while not first | second | third <= listed:
        keys, cursor = split.keys_from(cursor)
        listed |= set(keys)
    assert not listed & last
    while len(split.tables) == 4:
        split.popitem()
    listed = set()
    while cursor:
        keys, cursor = split.keys_from(cursor)
        listed |= set(keys)
    assert listed >= last & set(split.tables[1]) > set()


@both_split
def test_keys_of_a_slot_at_rest_are_listed_once(kind: type[Slot]) -> None:
    split = split_of(kind, 20_000)
    listed: list[bytes] = []
    cursor, calls = 0, 0
    while not calls or cursor:
        keys, cursor = split.keys_from(cursor)
        listed += keys
        calls += 1
    assert sorted(listed) == sorted(split)
    assert len(split.tables) <= calls <= 16 * len(split.tables)
    slot = kind()
    slot[b"k"] = 1
    assert slot.keys_from(0) == ([b"k"], 0)
