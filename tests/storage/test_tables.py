"""When a store lets a slot's tables grow, makes them anew or splits them: Python's, to the byte and to the entry."""

from collections.abc import Callable

import pytest

from app.fast import PIECES
from app.storage import store as module
from app.storage.arena import Arena
from app.storage.slots import Slot, SplitSlot
from app.storage.store import WholeStore
from tests.storage.contents import content
from tests.storage.test_arena import check_books
from tests.storage.test_store import handles, keys_of
from tests.support.parts import MIB

PURE, _ = PIECES["slots.Slot"]


class Machine:
    """A store over Python's tables, that asks for more allowance when it must; `on_look`: what is done then."""

    def __init__(self, *, evict: bool = True) -> None:
        self.arena = Arena(64 * MIB, 64 * MIB)
        self.store = WholeStore(self.arena, evict=evict, on_allowance_used=self.look)
        self.store.allowance_bytes = 1 << 40
        self.keys = keys_of(7)
        self.looks = 0
        self.on_look: Callable[[], object] = lambda: None

    def look(self) -> None:
        self.looks += 1
        self.on_look()

    @property
    def table(self) -> Slot:
        (table,) = self.store.tables(7)
        return table

    def put(self) -> bool:
        return self.store.put(7, next(self.keys), b"v")

    def key_of(self, table: Slot) -> bytes:
        """A new key of one table of the slot."""
        slot = self.store._slots[7]
        return next(key for key in self.keys if slot.table_of(key) is table)

    def fill(self, capacity: int, left: int) -> None:
        """Tables of this capacity without any room, and so many entries in them."""
        for _ in range(capacity):
            assert self.put()
        for key in self.store.keys(7)[left:]:
            assert self.store.remove(7, key)
        assert (self.table.capacity, self.table.room, len(self.store)) == (capacity, 0, left)


@pytest.fixture(autouse=True)
def pure_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Slot", PURE)


@pytest.mark.parametrize("left", [1, 5])
def test_tables_that_need_not_grow_are_left_to_cpython(left: int) -> None:
    """It makes them anew in the size that they have, which is what was counted."""
    machine = Machine()
    machine.fill(10, left)
    before = machine.table.table_bytes
    assert machine.table.growth_bytes == 0
    assert machine.put()
    assert machine.table.table_bytes == before


@pytest.mark.parametrize(("left", "grows"), [(63, False), (64, True)])
def test_tables_grow_with_more_than_three_quarters_of_their_entries(left: int, grows: bool) -> None:
    """With fewer what removals have left is room enough: they are made anew in the size that they have."""
    machine = Machine()
    machine.fill(85, left)
    before, spare_bytes = machine.table.table_bytes, machine.store.spare_bytes
    assert machine.put()
    assert (machine.table.table_bytes > before, machine.store.spare_bytes < spare_bytes) == (grows, grows)
    assert len(machine.store) == left + 1


@pytest.mark.parametrize(("less", "grows"), [(0, True), (1, False)])
def test_tables_grow_when_just_so_much_memory_is_to_spare(less: int, grows: bool) -> None:
    """The governor is asked, and entries go, only if it is less; of 64, that is one more than is kept."""
    machine = Machine()
    machine.fill(85, 64)
    machine.store.entry_heap_bytes = 1
    growth, before = machine.table.growth_bytes, machine.table.table_bytes
    machine.store.spare_bytes = spare_bytes = growth - less
    assert machine.put()
    assert machine.looks == (not grows)
    assert machine.store.evictions == (not grows)
    assert machine.store.spare_bytes == (0 if grows else spare_bytes)
    assert machine.table.table_bytes == before + (growth if grows else 0)
    assert len(machine.store) == len(content(machine.store)) == 65 - (not grows)
    check_books(machine.arena, handles(machine.store))


@pytest.mark.parametrize(("less", "evictions"), [(0, 2), (1, 0)])
def test_tables_grow_if_that_takes_less_than_the_entries_that_would_go(less: int, evictions: int) -> None:
    machine = Machine()
    machine.fill(5, 5)
    growth = machine.table.growth_bytes
    machine.store.spare_bytes = 0
    in_chunk = machine.arena.chunk_bytes // 5
    machine.store.entry_heap_bytes = growth // 2 - in_chunk  # for the new entry's own chunk is not there yet
    assert 2 * (machine.store.entry_heap_bytes + in_chunk) == growth
    machine.store.entry_heap_bytes += less
    assert machine.put()
    assert machine.store.evictions == evictions


@pytest.mark.parametrize(("less", "evictions"), [(0, 0), (1, 2)])
def test_tables_grow_ahead_of_the_arena_by_no_more_than_a_part_of_the_margin(less: int, evictions: int) -> None:
    machine = Machine()
    machine.fill(5, 5)
    machine.store.entry_heap_bytes = MIB
    machine.store.spare_bytes = -MIB - less
    assert machine.put()
    assert machine.store.evictions == evictions


def test_the_governor_may_evict_all_there_is_when_it_is_asked() -> None:
    machine = Machine()
    machine.fill(5, 5)
    machine.store.spare_bytes = -MIB

    def evict_all() -> None:
        while machine.store.reclaim_one():
            pass

    machine.on_look = evict_all
    assert machine.put()
    assert len(machine.store) == len(content(machine.store)) == 1
    check_books(machine.arena, handles(machine.store))


@pytest.mark.parametrize(("more", "tables"), [(0, 1), (1, 2)])
def test_a_slot_is_split_when_it_has_more_than_so_many_entries_and_must_grow(
    more: int, tables: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PURE, "split_entries", 85 - more)
    machine = Machine()
    machine.fill(85, 85)
    assert machine.put()
    assert len(machine.store.tables(7)) == tables
    assert len(content(machine.store)) == 86


def test_a_table_that_has_just_been_split_off_and_is_full_grows_for_what_comes_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is counted as well."""
    monkeypatch.setattr(PURE, "split_entries", 84)
    machine = Machine()
    halves: tuple[list[bytes], list[bytes]] = ([], [])
    while min(map(len, halves)) < 43:
        key = next(machine.keys)
        halves[PURE.bits_of(key) & 1].append(key)
    machine.keys = iter([*halves[0][:42], *halves[1][:43], halves[0][42]])
    machine.fill(85, 85)
    spare_bytes, growth = machine.store.spare_bytes, machine.table.growth_bytes
    assert machine.put()
    first, other = machine.store.tables(7)
    assert (len(first), len(other)) == (43, 43)
    assert spare_bytes - machine.store.spare_bytes == growth + PURE.bytes_for(43) - PURE.bytes_for(42)


@pytest.mark.parametrize(("less", "tables"), [(0, 3), (1, 2)])
def test_a_table_is_divided_when_just_so_much_memory_is_to_spare(
    less: int, tables: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PURE, "split_entries", 64)
    machine = Machine()
    slot = split(machine)
    machine.store.spare_bytes = spare_bytes = slot.growth_bytes - less
    assert slot.growth_bytes > 0
    assert slot.tables[1].room > 0
    assert machine.store.put(7, machine.key_of(slot.tables[1]), b"v")
    assert len(slot.tables) == tables
    assert machine.store.spare_bytes == (0 if tables == 3 else spare_bytes)


def test_a_division_that_gives_memory_back_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The governor sees it when it looks next."""
    monkeypatch.setattr(PURE, "split_entries", 64)
    machine = Machine()
    slot = split(machine)
    for key in list(slot.tables[0]):
        assert machine.store.remove(7, key)
        assert machine.store.put(7, machine.key_of(slot.tables[1]), b"v")
    assert (len(slot.tables), slot.is_crowded, len(slot.tables[0])) == (2, True, 0)
    assert slot.growth_bytes < 0
    spare_bytes = machine.store.spare_bytes
    assert machine.store.put(7, machine.key_of(slot.tables[0]), b"v")
    assert len(slot.tables) == 3
    assert machine.store.spare_bytes == spare_bytes


def split(machine: Machine) -> SplitSlot:
    """Slot 7 of two tables, crowded."""
    while not (isinstance(slot := machine.store._slots[7], SplitSlot) and slot.is_crowded):
        assert machine.put()
    assert len(slot.tables) == 2
    return slot
