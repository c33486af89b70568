"""The governor under a resident size that the test makes up, and the measures it takes of a real process."""

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app.fast import PIECES
from app.storage.arena import CHUNKS_MAX, PAGE_BYTES, SIZE_CLASSES, Arena
from app.storage.governor import (
    MemoryGovernor,
    ResidentSize,
    peak_resident_bytes,
    replies_max_bytes,
    tune_allocators,
)
from app.storage.mutate import REPLY_BYTES
from app.storage.replies import ReplyMemory
from app.storage.slots import Slot
from app.storage.store import COMPACT_MIN_BYTES, Store
from app.wire.protocol import SLOT_COUNT, slot_of
from tests.storage.contents import content
from tests.storage.test_arena import check_books
from tests.storage.test_store import handles
from tests.support.parts import MIB
from tools.bench.chosen import key_in_slot

REPOSITORY = Path(__file__).parent.parent.parent
BOUND = 64 * MIB
MARGIN = 4 * MIB  # what the governor keeps free below the bound, and the least it leaves the arena
FLOOR = 4 * MIB


ENTRIES = 5_000  # more than there may be in any case


class Machine:
    """A store and its governor in a made-up process, whose heap is as large as the test says."""

    def __init__(self, heap_bytes: int, *, evict: bool = True, bound: int = BOUND) -> None:
        self.heap_bytes = heap_bytes
        self.looks = 0
        self.arena = Arena(bound, bound)
        self.replies = ReplyMemory(6.0, replies_max_bytes(bound))
        self.store = Store(self.arena, evict=evict, on_allowance_used=lambda: self.governor.look())
        self.governor = MemoryGovernor(
            self.arena, self.store, self.replies, max_bytes=bound, evict=evict, resident_bytes=self.resident
        )
        self.governor.look()

    def resident(self) -> int:
        self.looks += 1
        return self.heap_bytes + self.arena.resident_bytes

    def put(self, key: bytes, blob: bytes) -> bool:
        return self.store.put(slot_of(key), key, blob)

    def fill(self, count: int, blob_bytes: int) -> int:
        return sum(self.put(b"%d" % n, bytes(blob_bytes)) for n in range(count))


def test_the_arena_gets_what_heap_and_margin_leave() -> None:
    machine = Machine(20 * MIB)
    assert machine.arena.limit_bytes == BOUND - MARGIN - 20 * MIB
    machine.heap_bytes = 30 * MIB
    machine.governor.look()
    assert machine.arena.limit_bytes == BOUND - MARGIN - 30 * MIB
    assert (machine.governor.heap_bytes, machine.governor.resident_bytes) == (30 * MIB, 30 * MIB)


@pytest.mark.parametrize(("heap_mib", "compact_bytes"), [(20, (BOUND - MARGIN - 20 * MIB) // 16), (500, 4 * MIB // 16)])
def test_records_are_moved_together_for_a_share_of_the_arena(heap_mib: int, compact_bytes: int) -> None:
    machine = Machine(heap_mib * MIB)
    assert machine.store.compact_bytes == compact_bytes > COMPACT_MIN_BYTES


def test_but_for_no_less_than_two_pages() -> None:
    machine = Machine(500 * MIB)
    machine.governor._arena_floor_bytes = MIB
    machine.governor.look()
    assert machine.store.compact_bytes == COMPACT_MIN_BYTES


def test_what_the_arena_holds_is_not_taken_for_heap() -> None:
    machine = Machine(20 * MIB)
    machine.fill(1000, 9_000)
    machine.governor.look()
    assert machine.governor.heap_bytes == 20 * MIB
    assert machine.governor.resident_bytes == 20 * MIB + machine.arena.resident_bytes
    assert machine.arena.limit_bytes == BOUND - MARGIN - 20 * MIB


def test_arena_pages_not_yet_touched_make_no_negative_heap() -> None:
    machine = Machine(0)
    machine.put(b"k", b"v")
    machine.governor._resident_bytes = lambda: 0
    machine.governor.look()
    assert machine.governor.heap_bytes == 0
    assert machine.arena.limit_bytes == BOUND - MARGIN


def test_pages_of_every_size_that_fill_between_two_looks_stay_within_the_margin() -> None:
    """They count as resident from the first record on, so that the heap seems to be smaller by what is still untouched:
    3.5 MiB, if each size has a page with one record in it."""
    machine = Machine(20 * MIB)
    machine.governor._resident_bytes = lambda: (
        machine.heap_bytes + machine.arena.resident_bytes - machine.arena.untouched_bytes
    )
    for size in SIZE_CLASSES:
        assert machine.put(b"%d" % size, bytes(size - 6))
    assert machine.arena.untouched_bytes > 3.4 * MIB
    machine.governor.look()
    n = 0
    while machine.arena.untouched_bytes:
        for size in SIZE_CLASSES:
            machine.arena.store(b"%d" % n, bytes(size - 6))
            n += 1
    over = machine.heap_bytes + machine.arena.resident_bytes - (BOUND - MARGIN)
    assert over <= 1.5 * MIB


def test_a_store_that_may_not_evict_reserves_what_replies_may_still_grow_to() -> None:
    machine = Machine(20 * MIB, evict=False)
    reserve = replies_max_bytes(BOUND)
    assert machine.arena.limit_bytes == BOUND - MARGIN - 20 * MIB - reserve
    for n in range(50_000):
        machine.replies.add(b"%016d" % n, 0, 0)
    used = machine.replies.used_bytes
    assert used > MIB
    machine.heap_bytes += used
    machine.governor.look()
    assert machine.arena.limit_bytes == pytest.approx(BOUND - MARGIN - 20 * MIB - reserve, abs=8)


def test_replies_past_their_bound_are_heap_like_any_other() -> None:
    machine = Machine(20 * MIB, evict=False)
    for n in range(100):
        machine.replies.add(b"%016d" % n, 0, 0)
    machine.replies.max_bytes = machine.replies.used_bytes - 5
    machine.governor.look()
    assert machine.arena.limit_bytes == BOUND - MARGIN - 20 * MIB


def test_before_it_has_looked_it_knows_of_nothing() -> None:
    machine = Machine(20 * MIB)
    fresh = MemoryGovernor(
        machine.arena, machine.store, machine.replies, max_bytes=BOUND, evict=True, resident_bytes=machine.resident
    )
    assert (fresh.resident_bytes, fresh.heap_bytes, fresh.rebuilds) == (0, 0, 0)


def grown(heap_bytes: int, *, evict: bool = True, entries: int = ENTRIES) -> Machine:
    """With so many entries, before its heap has become so large."""
    machine = Machine(20 * MIB, evict=evict)
    machine.fill(entries, 10)
    machine.heap_bytes = heap_bytes
    machine.governor.look()
    return machine


def test_the_arena_never_gets_less_than_its_floor() -> None:
    for evict in (True, False):
        machine = Machine(BOUND + MIB, evict=evict)
        assert machine.arena.limit_bytes == FLOOR
        assert machine.store.heap_full
        assert machine.put(b"k", bytes(10_000)) is False


@pytest.mark.parametrize("evict", [True, False])
def test_the_heap_is_full_when_it_and_the_replies_would_leave_the_arena_less_than_its_floor(evict: bool) -> None:
    most = BOUND - MARGIN - replies_max_bytes(BOUND) - FLOOR
    assert not grown(most, evict=evict).store.heap_full
    assert grown(most + 1, evict=evict).store.heap_full


def test_a_process_that_takes_nearly_all_of_its_memory_still_stores_something() -> None:
    """Interpreter, links and recent writes of a node with copies can come to 38 MiB of 48."""
    machine = Machine(BOUND - MARGIN - replies_max_bytes(BOUND) - FLOOR + MIB)
    for n in range(10_000):
        assert machine.put(b"%d" % n, b"v")
        if n % 100 == 0:
            machine.governor.look()
    assert 3_900 < len(machine.store) < 4_200
    machine.heap_bytes += FLOOR + 3 * MIB
    machine.governor.look()
    assert machine.store.heap_full
    assert machine.store.heap_over


def test_a_full_heap_from_which_entries_have_gone_takes_new_ones() -> None:
    """What they leave is holes, which the resident size does not show: a store must not stay empty for them."""
    machine = Machine(20 * MIB)
    machine.fill(10_000, 10)
    machine.heap_bytes = BOUND - MARGIN - replies_max_bytes(BOUND) - FLOOR + 1
    machine.governor.look()
    assert machine.store.heap_full
    for n in range(2_501):
        assert machine.store.remove(slot_of(b"%d" % n), b"%d" % n)
    machine.governor.look()
    assert not machine.store.heap_full
    assert machine.store.spare_bytes == 66, "tables for one entry"
    assert machine.put(b"one more", b"v")
    machine.governor.look()
    assert machine.store.heap_full
    for n in range(2_501, 10_000):
        machine.store.remove(slot_of(b"%d" % n), b"%d" % n)
    machine.heap_bytes += 8 * MIB
    machine.governor.look()
    assert machine.store.heap_full  # it has grown all the same


JUST_FULL = BOUND - MARGIN - replies_max_bytes(BOUND) - FLOOR  # what the heap may come to without being full


def remove(machine: Machine, entries: int) -> None:
    for n in range(entries):
        assert machine.store.remove(slot_of(b"%d" % n), b"%d" % n)


def test_only_what_was_there_while_the_heap_was_full_has_left_holes_in_it() -> None:
    machine = grown(JUST_FULL, entries=10_000)
    remove(machine, 5_000)
    machine.heap_bytes += 1
    machine.governor.look()
    assert machine.store.heap_full


def test_tables_of_a_heap_that_is_not_full_grow_by_no_more_than_there_is() -> None:
    """However few entries there are; once it is full there may be holes."""
    machine = Machine(JUST_FULL)
    assert machine.store.spare_bytes == 0
    machine.heap_bytes += 1
    machine.governor.look()
    assert machine.store.spare_bytes == 4_000 * 66


@pytest.mark.parametrize(("over_bytes", "is_full"), [(0, False), (1, True)])
def test_fewer_entries_make_room_for_new_ones_once_the_heap_is_past_its_bound(over_bytes: int, is_full: bool) -> None:
    """With three quarters of those that filled it, else with half of them."""
    machine = grown(JUST_FULL + 1, entries=20_000)
    remove(machine, 8_000)
    machine.heap_bytes = JUST_FULL + FLOOR + MIB - machine.arena.resident_bytes + over_bytes
    machine.governor.look()
    assert (machine.store.heap_full, machine.store.heap_over) == (is_full, is_full)


def test_of_the_few_entries_that_there_may_be_none_goes_for_a_heap_just_past_its_bound() -> None:
    machine = grown(JUST_FULL + 1, entries=4_000)
    machine.heap_bytes = JUST_FULL + FLOOR + MIB - machine.arena.resident_bytes + 1
    machine.governor.look()
    assert (machine.store.heap_full, machine.store.heap_over) == (True, True)
    remove(machine, 1)
    machine.governor.look()
    assert (machine.store.heap_full, machine.store.heap_over) == (False, False)


def test_the_heap_is_past_its_bound_when_it_has_grown_though_it_was_full() -> None:
    full = BOUND - MARGIN - replies_max_bytes(BOUND)
    for over_bytes in (0, 1):
        machine = grown(full)
        machine.heap_bytes += MIB - machine.arena.resident_bytes + over_bytes
        machine.governor.look()
        assert machine.store.heap_over == over_bytes


def full(machine: Machine, entries: int) -> None:
    """Fill the store, and have its heap full by that."""
    machine.fill(entries, 10)
    machine.heap_bytes = BOUND - MARGIN - replies_max_bytes(BOUND) - FLOOR + 1
    machine.governor.look()
    assert machine.store.heap_full


@pytest.mark.parametrize(("over_bytes", "left"), [(1, 10_000), (MIB, 5_000), (2 * MIB, 0)])
def test_a_heap_that_does_not_shrink_empties_no_store_unless_it_is_far_past_its_bound(
    over_bytes: int, left: int
) -> None:
    """Two entries give way for each new one while the heap is past its bound; that must not go on for ever."""
    machine = Machine(20 * MIB)
    full(machine, 20_000)
    machine.heap_bytes = BOUND - MARGIN - replies_max_bytes(BOUND) + MIB + over_bytes
    for n in range(50_000):
        assert machine.put(b"more %d" % n, b"v") or not left
        if n % 100 == 0:
            machine.governor.look()
    assert abs(len(machine.store) - left) < 1_000


def test_a_store_that_was_wiped_while_its_heap_was_full_fills_again() -> None:
    """Its entries are gone, and their tables; all that has left holes, and does not show in the resident size."""
    machine = Machine(20 * MIB)
    full(machine, 20_000)
    machine.store.wipe(range(SLOT_COUNT))
    while machine.store.drain_wiped():
        pass
    machine.heap_bytes += 3 * MIB
    machine.governor.look()
    for n in range(20_000):
        assert machine.put(b"again %d" % n, b"v")
        if n % 100 == 0:
            machine.governor.look()
    assert len(machine.store) > 12_000


@pytest.mark.parametrize(("entries", "spare_bytes"), [(8_000, 6_000 * 66), (200_000, MIB // 2)])
def test_tables_that_grow_into_holes_grow_slowly(entries: int, spare_bytes: int) -> None:
    """As far as those need that may come again, three quarters. Should there be no holes, the heap has grown by less
    than its margin when it is looked at."""
    machine = Machine(20 * MIB)
    full(machine, entries)
    machine.store.wipe(range(SLOT_COUNT))
    machine.governor.look()
    assert machine.store.spare_bytes == spare_bytes
    machine.heap_bytes += 8 * MIB
    machine.governor.look()
    assert machine.store.spare_bytes < 0


@pytest.mark.parametrize("evict", [True, False])
def test_what_tables_may_grow_by_leaves_the_arena_its_floor_and_the_replies_their_room(evict: bool) -> None:
    machine = Machine(20 * MIB, evict=evict)
    reserve = replies_max_bytes(BOUND)
    if evict:
        assert machine.store.spare_bytes == BOUND - MARGIN - 20 * MIB - reserve - FLOOR
        machine.fill(4000, 9_000)
        machine.governor.look()
        assert machine.store.spare_bytes == BOUND - MARGIN - 20 * MIB - machine.arena.resident_bytes
    else:
        machine.fill(2000, 9_000)
        machine.governor.look()
        assert machine.store.spare_bytes == BOUND - MARGIN - 20 * MIB - reserve - machine.arena.resident_bytes


def test_the_heap_is_not_full_for_good() -> None:
    machine = Machine(BOUND)
    machine.heap_bytes = 20 * MIB
    machine.governor.look()
    assert not machine.store.heap_full
    assert machine.put(b"k", b"v")


@pytest.mark.parametrize(
    ("left", "allowance"),
    [
        (40 * MIB, MIB),
        (16 * MIB, MIB),
        (8 * MIB, MIB // 2),
        (MIB // 2, 32 * 1024),
        (0, 32 * 1024),
        (-MIB, 32 * 1024),
    ],
)
def test_the_allowance_shrinks_with_what_is_left(left: int, allowance: int) -> None:
    assert Machine(BOUND - MARGIN - left).store.allowance_bytes == allowance


def test_a_store_looks_before_it_has_grown_far() -> None:
    """New entries of 300 bytes of heap each: a look at least every MiB of them."""
    machine = Machine(20 * MIB)
    looks = machine.looks
    machine.fill(30_000, 10)
    grown = 30_000 * machine.store.entry_heap_bytes
    assert machine.looks - looks >= grown // MIB


def test_the_process_stays_within_its_bound_while_its_heap_grows() -> None:
    """The heap grows with each entry, as an honest estimate says; sizes change over a full store."""
    machine = Machine(15 * MIB)
    base = machine.heap_bytes
    peak = 0
    for size in (10_000, 60, 900):
        for n in range(25_000):
            assert machine.put(b"%d %d" % (size, n), bytes(size))
            machine.heap_bytes = max(machine.heap_bytes, base + 300 * len(machine.store))  # it never shrinks
            peak = max(peak, machine.heap_bytes + machine.arena.resident_bytes)
            if n % 2000 == 0:
                machine.governor.look()
    assert BOUND - 8 * MIB < peak <= BOUND
    check_books(machine.arena, handles(machine.store))


def test_one_look_shrinks_a_bounded_amount_and_asks_to_be_called_again() -> None:
    machine = Machine(15 * MIB)
    machine.fill(40_000, 900)
    machine.heap_bytes += 10 * MIB
    looks = 0
    while True:
        before = len(machine.store)
        machine.governor.look()
        looks += 1
        assert before - len(machine.store) <= 300 + PAGE_BYTES // 900 + 1
        assert looks < 1000
        if machine.store.allowance_bytes >= max(1, machine.store.entry_heap_bytes):
            break
    assert looks > 5
    assert machine.arena.resident_bytes <= machine.arena.limit_bytes


def test_one_request_brings_the_arena_within_its_limit_by_one_look_though_it_spends_twice() -> None:
    """For its entry and then for its reply."""
    machine = Machine(15 * MIB)
    machine.fill(100_000, 60)
    machine.heap_bytes = BOUND - MARGIN - machine.arena.resident_bytes + 2 * MIB
    machine.governor.look()
    evictions, looks = machine.store.evictions, machine.looks
    requests = 0
    while machine.arena.resident_bytes > machine.arena.limit_bytes:
        before = machine.store.evictions
        machine.put(b"more %d" % requests, bytes(60))
        machine.store.spend(REPLY_BYTES)
        requests += 1
        assert machine.store.evictions - before < CHUNKS_MAX + 300
    assert requests > 10
    assert machine.looks - looks <= requests
    assert machine.store.evictions - evictions > 10 * CHUNKS_MAX


def test_calibration_learns_what_an_entry_costs() -> None:
    machine = Machine(15 * MIB)
    for n in range(60_000):
        machine.put(b"%016d" % n, bytes(10))
    turns = SLOT_COUNT // 4 + 1
    for _ in range(turns):
        machine.governor.calibrate()
    # A key of 16 bytes (49, 64 with its block), a handle (32, 48) and a link (32, 48); tables are asked for apart. The
    # compiled slot has nothing but tables.
    pure, chosen = PIECES["slots.Slot"]
    assert machine.store.entry_heap_bytes == (64 + 48 + 48 if chosen is pure else 0)
    assert machine.governor.rebuilds == 0, "these are as large as they are to be"


def test_calibration_copies_tables_that_a_crowd_has_left_behind() -> None:
    machine = Machine(15 * MIB)
    for n in range(100_000):
        machine.put(b"%d" % n, b"v")
    for n in range(95_000):
        machine.store.remove(slot_of(b"%d" % n), b"%d" % n)
    before = content(machine.store)
    for _ in range(SLOT_COUNT // 4 + 1):
        machine.governor.calibrate()
    assert machine.governor.rebuilds >= SLOT_COUNT // 2
    assert content(machine.store) == before
    rebuilds = machine.governor.rebuilds
    for _ in range(SLOT_COUNT // 4 + 1):
        machine.governor.calibrate()
    assert machine.governor.rebuilds == rebuilds


def test_tables_shrink_soon_after_their_entries_have_gone() -> None:
    """Larger values take over from small ones in less than a second: they can't have what those's tables keep."""
    machine = Machine(15 * MIB)
    for n in range(100_000):
        machine.put(b"%d" % n, b"v")
    for n in range(99_000):
        machine.store.remove(slot_of(b"%d" % n), b"%d" % n)
    pure, chosen = PIECES["slots.Slot"]
    for _ in range(SLOT_COUNT // 4 + 1 if chosen is pure else 10):  # a second
        machine.governor.calibrate()
    assert not [table for slot in range(SLOT_COUNT) for table in machine.store.tables(slot) if table.is_oversized]


def test_one_calibration_copies_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(15 * MIB)
    keys = [b"%d" % n for n in range(200_000)]
    for key in keys:
        machine.put(key, b"v")
    for key in keys[:-100_000]:
        machine.store.remove(slot_of(key), key)
    lengths: list[int] = []
    rebuild = Slot.rebuild

    def counted(table: Slot) -> None:
        lengths.append(len(table))
        rebuild(table)

    monkeypatch.setattr(Slot, "rebuild", counted)
    while True:
        before = len(lengths)
        machine.governor.calibrate()
        assert sum(lengths[before:]) < Slot.shrunk_entries + max(lengths, default=0)
        if len(lengths) == before:
            break
    assert sum(lengths) > 20 * Slot.shrunk_entries


@pytest.mark.parametrize("slot", [0, 1, 77, 254, 255])
def test_calibration_comes_to_every_slot(slot: int) -> None:
    machine = Machine(15 * MIB)
    key = key_in_slot(b"a key of some length", slot)
    assert machine.store.put(slot, key, b"v")
    machine.store.entry_heap_bytes = before = 12_345
    looked = 0
    while machine.store.entry_heap_bytes == before:
        machine.governor.calibrate()
        looked += 4
        assert looked <= SLOT_COUNT
    assert machine.store.entry_heap_bytes == machine.store.tables(slot)[0].entry_bytes(key)


@pytest.mark.parametrize(("less", "rebuilt"), [(0, 8), (1, 9)])
def test_what_one_calibration_copies_is_counted_by_the_entry_and_by_the_table(
    less: int, rebuilt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,096 of work: eight tables of 480 entries, and 32 for each."""
    monkeypatch.setattr(Slot, "shrunk_at_once", SLOT_COUNT)
    monkeypatch.setattr(Slot, "shrunk_entries", 4_096)
    machine = Machine(15 * MIB)
    for slot in range(10):
        keys = [key_in_slot(b"%d" % n, slot) for n in range(1_000)]
        for key in keys:
            assert machine.store.put(slot, key, b"v")
        for key in keys[480 - (less if slot == 0 else 0) :]:
            assert machine.store.remove(slot, key)
        (table,) = machine.store.tables(slot)
        assert table.is_oversized
    machine.governor.calibrate()
    assert machine.governor.rebuilds == rebuilt
    machine.governor.calibrate()
    assert machine.governor.rebuilds == 10


def test_calibrating_an_empty_store_changes_nothing() -> None:
    machine = Machine(15 * MIB)
    estimate = machine.store.entry_heap_bytes
    for _ in range(50):
        machine.governor.calibrate()
    assert machine.store.entry_heap_bytes == estimate
    assert machine.governor.rebuilds == 0


def test_trimming_looks_only_when_something_was_freed() -> None:
    machine = Machine(15 * MIB)
    trimmed: list[int] = []  # what may stay free at the heap's top
    machine.governor._malloc_trim = trimmed.append
    looks = machine.looks
    machine.governor.trim()
    assert (machine.looks, trimmed) == (looks, [])
    machine.put(b"k", b"v")
    machine.store.reclaim_one()
    looks = machine.looks
    for _ in range(2):
        machine.governor.trim()
        assert (machine.looks, trimmed) == (looks + 1, [0])
    machine.store.moves += 1
    machine.store.evictions += 1
    machine.governor.trim()
    assert len(trimmed) == 2
    machine.governor.rebuilds += 1
    machine.store.evictions += 1
    machine.governor.trim()
    assert len(trimmed) == 3


def test_replies_get_a_share_of_the_bound() -> None:
    assert replies_max_bytes(128 * MIB) == 18 * MIB
    assert replies_max_bytes(64 * MIB) == 9 * MIB


def test_the_resident_size_is_what_the_kernel_says() -> None:
    with open("/proc/self/status") as status:
        told = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    measured = ResidentSize()()
    assert abs(measured - told) < 4 * MIB
    assert measured % resource.getpagesize() == 0
    assert peak_resident_bytes() >= measured - 4 * MIB


def test_the_peak_is_what_the_kernel_says() -> None:
    def told() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

    before = told()
    peak = peak_resident_bytes()
    assert before <= peak <= told()
    assert peak % 1024 == 0


def test_the_peak_is_no_less_than_what_was_seen() -> None:
    """The kernel counts the two in different ways: for a moment the peak may be some pages less."""
    machine = Machine(20 * MIB)
    assert machine.governor.peak_resident_bytes >= peak_resident_bytes() - 4 * MIB
    machine.heap_bytes = 1 << 40
    machine.governor.look()
    assert machine.governor.peak_resident_bytes == machine.governor.resident_bytes == 1 << 40


def test_the_peak_is_this_programs_own_not_its_parents() -> None:
    ballast = bytearray(b"x") * (100 * MIB)
    program = "from app.storage.governor import peak_resident_bytes; print(peak_resident_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert len(ballast) > int(done.stdout) > 5 * MIB


TUNED = """
import mmap
from app.storage.governor import ResidentSize, tune_allocators
tune_allocators()
tune_allocators()
resident = ResidentSize()
before = resident()
blocks = [bytearray(40_000) for _ in range(500)]  # freed, each goes back at once, whatever lies above it
keep = bytes(100)
grown = resident() - before
del blocks[:]
left = resident() - before
with open("/proc/self/status") as status:
    huge = [line.split()[1] for line in status if line.startswith("THP_enabled")]
print(grown > 15_000_000, left < 2_000_000, huge in ([], ["0"]))
"""


def test_tuning_the_allocators_takes_effect_and_can_be_repeated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TUNED],
        cwd=REPOSITORY,
        env={"PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True True True\n", "")


def test_what_is_asked_of_the_kernel_and_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the numbers of linux/prctl.h and malloc.h; a C library that is not glibc is asked for nothing."""
    asked: list[tuple[int, ...]] = []

    class Musl:
        def prctl(self, *arguments: int) -> None:
            asked.append(arguments)

    class Glibc(Musl):
        mallopt = Musl.prctl

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    tune_allocators()
    no_huge_pages = (41, 1, 0, 0, 0)
    assert asked == [no_huge_pages]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Glibc())
    tune_allocators()
    assert asked[1:] == [no_huge_pages, (-3, 32 << 10), (-1, 128 << 10), (-8, 1)]


def test_each_look_has_the_c_library_join_what_was_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any mallopt does; one that sets what is set already."""
    asked: list[tuple[int, ...]] = []

    class Glibc:
        def malloc_trim(self, pad: int) -> None: ...
        def mallopt(self, *arguments: int) -> None:
            asked.append(arguments)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Glibc())
    machine = Machine(15 * MIB)
    assert asked == [(-8, 1)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # another C library
    Machine(15 * MIB)
    machine.governor.look()
    assert asked == [(-8, 1)] * 2


def test_no_large_library_comes_along_with_the_sizer() -> None:
    """Where NumPy is installed, as the tools' plots need it, pympler would load it into every node."""
    code = "import sys; import app.node; print('numpy' in sys.modules); import numpy"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
