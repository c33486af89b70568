"""The bounded store: 256 slots of least-recently-used entries over one arena.

A key's slot is `slot_of(key)` (app/wire/protocol.py); callers know it already and pass it in. Each slot is a cachetools
LRUCache from key to arena handle, and the blobs (opaque here: what the wire layer made of value and version) lie in the
arena. One small LRU a slot instead of one large one, because a hash table of half a million entries stalls its caller
for 90 to 480 ms when it grows, and because wiping or handing over a slot is a walk over one small cache. A slot of many
entries is split over several tables (slots.py).

Room is made in this order: what a wipe left behind; then, when free chunks add up to enough, moving the
records of the sparsest page together so that the page can change its size class; then evicting the least
recently used entry of a slot. The slot is the fuller of two under a rotating hand: with keys spread evenly
this comes close to one LRU over all slots, without a time stamp on each entry (which would cost a boxed int
per read).

What is counted: the arena's resident bytes, exactly, against its limit, which the memory governor moves; for each entry
added, an estimate of its heap cost (key, handle, order link) against an allowance, and when that is used up, the store
asks the governor to look at the process's real size before it goes on; and what hash tables take, exactly, before they
grow, against what the governor had to spare (`_make_table_room`).
"""

from collections.abc import Callable, Iterable
from sys import maxsize
from typing import Final

from app.fast import piece
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.slots import Slot, SplitSlot
from app.wire.protocol import SLOT_COUNT, slot_of

# Free chunks must add up to this much at least before records are moved together.
COMPACT_MIN_BYTES: Final = 2 * PAGE_BYTES

# Work (entries evicted or records moved, 1.5 to 3 µs each; compiled 0.5 to 1) that one PUT may do before it is
# refused for now: to bring the arena within its limit, to make room in tables, and to make room for its record. A
# step more, of a page, may follow. Enough for two pages of the usual small records, of 512 each, half of them evicted,
# half moved; for one of 10,000-byte records up to eight of the smallest must go.
_ROOM_WORK: Final = 650
# Into which one of this many writes has put an entry, that page is not evicted whole as long as the work suffices to
# look for another: a client may get at once what it has put, and so many may do so at the same time. More: more entries
# go one by one until such a page is found.
_WRITTEN_LATELY: Final = 256
# In a store of few entries it is one write for each so many of them.
_LATELY_SHARE: Final = 8
# What finding a page and going through its chunks is, in the same measure, however few records are left in it.
_PAGE_WORK: Final = 100

# What tables of larger values may grow by before the arena has made way: a part of the governor's margin.
_GROWTH_AHEAD_BYTES: Final = 1 << 20

# Entries evicted for another size after which the C library joins what they have freed: 0.1 to 0.5 ms (governor.py).
_JOIN_EVERY: Final = 1000

# What an entry is taken to cost on the heap (key, handle, order link) until the governor has measured some: cautious.
_ENTRY_HEAP_BYTES: Final = 300

# When the oldest entry's chunk is this many times smaller than the value that needs room, its whole page goes.
_MUCH_SMALLER: Final = 4


class WholeStore:
    """Keys and blobs, least recently used first to go, within an arena limit that others may move.

    Not thread-safe: one event loop owns it.
    """

    def __init__(
        self,
        arena: Arena,
        *,
        evict: bool,
        on_allowance_used: Callable[[], None],
        on_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """`evict`: whether entries may be evicted to make room. `on_allowance_used()` must set `allowance_bytes`.
        `on_freed()` is called after each thousand entries or so that were evicted for one of another size."""
        self._arena = arena
        self.evicts = evict  # whether entries go to make room for others
        self._on_allowance_used = on_allowance_used
        self._on_freed = on_freed
        self._joined_at = 0  # evictions when that was called last
        self._slots: list[Slot | SplitSlot] = [Slot(records=arena.records) for _ in range(SLOT_COUNT)]
        # Wiped slots whose memory is not all back yet: those whose records are still in the arena, and those of which
        # only the hash tables with their keys are left. None of them is empty.
        self._wiped_records: list[Slot] = []
        self._wiped_tables: list[Slot] = []
        self._hand = 0
        self._victim: Slot | SplitSlot = self._slots[0]  # the slot that evicts, for so many turns more:
        self._turns = 0
        self.entries = 0
        self.evictions = 0
        self.moves = 0
        self.entry_heap_bytes = _ENTRY_HEAP_BYTES
        self.allowance_bytes = 0
        self.spare_bytes = maxsize  # what tables may grow by now: known to the governor
        self.compact_bytes = COMPACT_MIN_BYTES  # free chunks worth more than this are moved together
        self.heap_full = False  # no more entries than now: each new one takes the place of another
        self.heap_over = False  # or of two

    # --- entries ---------------------------------------------------------------------------------------------

    def get(self, number: int, key: bytes) -> bytes | None:
        """The blob of a key, which becomes its slot's most recently used; None when it is not there."""
        try:
            handle = self._slots[number][key]
        except KeyError:
            return None
        return self._arena.blob(handle)

    def peek(self, number: int, key: bytes) -> bytes | None:
        """As `get`, but the order of use stays as it is."""
        slot = self._slots[number]
        return self._arena.blob(slot.peek(key)) if key in slot else None

    def keys(self, number: int) -> list[bytes]:
        """The keys of a slot, in no order."""
        return list(self._slots[number])

    def keys_from(self, number: int, cursor: int) -> tuple[list[bytes], int]:
        """Some keys of a slot, at most about 2,700, and the cursor to go on with; 0 to begin with, and at the end.

        What is there from the first call to the last is among them, once or more often.
        """
        return self._slots[number].keys_from(cursor)

    def put(self, number: int, key: bytes, blob: bytes) -> bool:
        """Store a blob under a key, evicting others as needed; False, nothing changed, when there is no room."""
        slot = self._slots[number]
        if slot.has(key):
            handle = slot[key]  # most recently used now
            replaced = self._arena.replace(handle, len(key), blob)
            if replaced >= 0:
                if replaced != handle:
                    slot.poke(key, replaced)
                return True
            return self._put_resized(number, key, blob)
        work = 0
        self.allowance_bytes -= self.entry_heap_bytes
        if self.allowance_bytes < 0:
            work = self._look()
        if self.heap_full and not self._exchange():
            return False
        if not slot.room:
            return self._put_growing(number, key, blob, work)
        handle = self._arena.store(key, blob)
        if handle < 0:
            handle = self._store_evicting(key, blob, work)
            if handle < 0:
                return False
        slot[key] = handle
        self.entries += 1
        return True

    def put_oldest(self, number: int, key: bytes, blob: bytes) -> bool:
        """As `put`, but a key that is new is the least recently used of its slot: one that others have used before."""
        is_new = not self._slots[number].has(key)
        if not self.put(number, key, blob):
            return False
        if is_new:
            self._slots[number].age(key)
        return True

    def _put_growing(self, number: int, key: bytes, blob: bytes, work: int) -> bool:
        """Store the blob of a new key for which the tables of its slot have no room yet. `work`: what has been done."""
        work = self._make_table_room(number, key, work)
        if work < 0:
            return False
        handle = self._arena.store(key, blob)
        if handle < 0:
            handle = self._store_evicting(key, blob, work)
            if handle < 0:
                return False
        self._slots[number][key] = handle
        self.entries += 1
        return True

    def _put_resized(self, number: int, key: bytes, blob: bytes) -> bool:
        """Replace the blob of the slot's most recently used entry by one that wants a chunk of another size."""
        slot = self._slots[number]
        handle = self._arena.store(key, blob)
        if handle < 0:
            handle = self._store_evicting(key, blob, 0)
        if key not in slot:  # it was evicted after all: nothing else was left
            if handle >= 0:
                self._make_table_room(number, key, 0)  # it can, where entries may be evicted
                self._slots[number][key] = handle
                self.entries += 1
        elif handle >= 0:
            replaced = slot.peek(key)
            slot.poke(key, handle)
            self._arena.free(replaced)
        else:
            handle = self._arena.replace(slot.peek(key), len(key), blob, loosely=True)
            if handle >= 0:
                slot.poke(key, handle)
        return handle >= 0

    def remove(self, number: int, key: bytes) -> bool:
        """Forget a key; False when it is not there."""
        slot = self._slots[number]
        if key not in slot:
            return False
        handle = slot.peek(key)
        del slot[key]
        self._arena.free(handle)
        self.entries -= 1
        return True

    def spend(self, size_bytes: int) -> None:
        """Count heap that somebody takes beside the entries, so that the governor looks in time."""
        self.allowance_bytes -= size_bytes
        if self.allowance_bytes < 0:
            self._on_allowance_used()

    def _look(self) -> int:
        """Have the governor look; the work that it was, to bring the arena within its limit."""
        before = self.evictions + self.moves
        self._on_allowance_used()
        return self.evictions + self.moves - before

    def wipe(self, slots: Iterable[int]) -> None:
        """Forget every key of these slots at once; their memory comes back as it is needed, or by `drain_wiped`.

        When nothing else is left, there is room for all at once. Otherwise it may take a while until a page has no
        record left that is not wiped (`wiping`), so that there is no room for a value of another size.
        """
        for number in slots:
            slot = self._slots[number]
            if slot:
                self.entries -= len(slot)
                self._wiped_records += [table for table in slot.tables if table]
                self._slots[number] = Slot(records=self._arena.records)
        self._turns = 0
        if self._wiped_records and not self.entries:
            self._arena.clear()
            self._wiped_tables += self._wiped_records
            self._wiped_records.clear()

    @property
    def wiping(self) -> bool:
        """Whether records of wiped slots still take room, which comes with time."""
        return bool(self._wiped_records)

    def __len__(self) -> int:
        return self.entries

    @property
    def room_bytes(self) -> int:
        """About how much more fits without evicting: free pages, and free chunks worth moving together."""
        if self.heap_full:
            return 0
        arena = self._arena
        free = max(0, arena.limit_bytes - arena.resident_bytes + arena.cleared_bytes)
        return free + max(0, arena.free_chunk_bytes - self.compact_bytes)

    # --- room ------------------------------------------------------------------------------------------------

    def _store_evicting(self, key: bytes, blob: bytes, work: int) -> int:
        """Store a record after making room for it; -1 when no room can be made. `work`: what has been done before."""
        arena = self._arena
        oldest = -1
        if self.evicts and self.entries and not self._wiped_records and arena.free_chunk_bytes <= self.compact_bytes:
            # As a rule the entry to go has a chunk of the right size.
            oldest = self._pop_oldest()
            taken = arena.take_over(oldest, key, blob)
            if taken >= 0:
                return taken
        return self._store_making_room(key, blob, oldest, work)

    def _store_making_room(self, key: bytes, blob: bytes, oldest: int, work: int) -> int:
        """As `_store_evicting`, where that takes more than the chunk of the oldest entry; this is its record if it has
        been evicted already, else -1."""
        arena = self._arena
        budget = _ROOM_WORK - work
        want_page = False
        if oldest >= 0:
            want_page = arena.chunk_size(oldest) * _MUCH_SMALLER <= len(blob)
            if want_page and budget > 0:
                budget -= self._evict_page(oldest, self._lately(budget))
            else:
                arena.free(oldest)
        handle = arena.store(key, blob)
        while handle < 0 and budget > 0:
            work = self._make_some_room(self._lately(budget), want_page=want_page)
            if not work:
                break
            budget -= work
            handle = arena.store(key, blob)
        if self.evictions - self._joined_at >= _JOIN_EVERY:
            self._joined_at = self.evictions
            self._on_freed()
        return handle

    def _exchange(self) -> bool:
        """Give up an entry for a new one; False when there is none to give up.

        Two while the heap is past its bound: a new one's key may be longer, and does not fit the hole that one left.
        """
        if self.heap_over and self.evicts:
            self.reclaim_one()
        return self._drain_entry() or (self.evicts and self.reclaim_one())

    def _make_some_room(self, lately: int, *, want_page: bool) -> int:
        """One step towards room: reclaim one entry or empty one page; the work it was, 0 when nothing can be done.

        `lately`: as of `_evict_page`.
        """
        # Also when little work is left, for what went entry by entry has left free chunks.
        if not self._wiped_records and (
            self._arena.free_chunk_bytes > self.compact_bytes or (want_page and not lately)
        ):
            moved = self.compact()
            if moved:
                return moved + _PAGE_WORK
        if self._wiped_records:
            return int(self.reclaim_one())
        if not self.evicts:
            moved = self.compact()
            return moved + _PAGE_WORK if moved else 0
        if want_page and self.entries:
            return self._evict_page(self._pop_oldest(), lately)
        return int(self.reclaim_one())

    def _lately(self, budget: int) -> int:
        """How many writes ago a page that is evicted whole must have been written to, with so much work left to do."""
        return min(_WRITTEN_LATELY, self.entries // _LATELY_SHARE) if budget > _PAGE_WORK else 0

    def _evict_page(self, oldest: int, lately: int) -> int:
        """Evict all that shares the page of a record just popped, which was put there at about the same time; but not
        if one of the last `lately` writes has put another there.

        Less than least recently used, but a third of the work of evicting in that order until a page is sparse
        enough to be moved together. Returns the work it was.
        """
        arena = self._arena
        number = arena.page_of(oldest)
        arena.free(oldest)
        if not arena.in_use(number) or arena.was_written(number, lately):
            return 1
        keys = arena.retire(number)
        slots = self._slots
        for key in keys:
            del slots[slot_of(key)][key]
        arena.give_back(number, len(keys))
        self.entries -= len(keys)
        self.evictions += len(keys)
        return len(keys) + 1 + _PAGE_WORK

    def reclaim_one(self) -> bool:
        """Free one wiped entry, or else evict one; False when the store is empty."""
        wiped = self._wiped_records
        if wiped:
            slot = wiped[-1]
            _, handle = slot.popitem()
            if not slot:
                wiped.pop()
        elif self.entries:
            handle = self._pop_oldest()
        else:
            return False
        self._arena.free(handle)
        return True

    def _pop_oldest(self) -> int:
        """Evict the entry that is due, all but its record: the handle of that. The store must not be empty.

        A slot that has many times the average has as many times as many turns: it must not empty all others.
        """
        self.entries -= 1
        self.evictions += 1
        if self._turns and (slot := self._victim):
            self._turns -= 1
            return slot.popitem()[1]
        slots = self._slots
        hand = self._hand
        size = 0
        while not size:
            slot = slots[hand]
            size = len(slot)
            hand = (hand + 1) % SLOT_COUNT
            other = len(slots[hand])
            if other > size:
                slot = slots[hand]
                size = other
        self._hand = hand
        if size * (SLOT_COUNT // 2) > self.entries:  # twice the average
            self._victim = slot
            self._turns = size * SLOT_COUNT // (self.entries + 1) - 1
        return slot.popitem()[1]

    def _make_table_room(self, number: int, key: bytes, work: int) -> int:
        """Make the tables of a slot take one key more, within the memory that they may have; the work that it was
        with what has been done before (`work`), -1 if they can't.

        Where there is none, they are made anew in the size that they have, with what removals have left in them as
        room; if that is too little to be worth it (`keep`), entries of this slot go first. Only in a store that is full
        of small entries does it come to that.
        """
        slot = self._slots[number]
        if isinstance(slot, SplitSlot) and slot.is_crowded and slot.growth_bytes <= self.spare_bytes:
            self._spend_on_tables(max(0, slot.growth_bytes))
            work += slot.divide() // slot.copies_per_removal
        table = slot.table_of(key)
        growth = table.growth_bytes
        if table.room or growth <= 0:
            return work
        surplus = len(table) - table.keep
        if surplus > 0:
            if growth > self.spare_bytes and not work:  # else it has just been looked
                work = self._look()
                surplus = len(table) - table.keep
            if growth <= self.spare_bytes or self._is_cheaper(growth, surplus):
                self._spend_on_tables(growth)
                if isinstance(slot, Slot) and len(slot) > slot.split_entries:
                    self._slots[number] = SplitSlot(slot)
                    self._turns = 0  # they may have been the former object's, which has handed its entries over
                    return self._make_table_room(number, key, work + len(slot) // slot.copies_per_removal)
                return work + len(table) // table.copies_per_removal
            if not self.evicts:
                if len(table) * 8 > table.capacity * 7:
                    return -1
            elif surplus > 0:
                work += surplus
                handles = slot.evict_beside(key, surplus)
                for handle in handles:
                    self._arena.free(handle)
                self.entries -= len(handles)
                self.evictions += len(handles)
        if not table.room:
            work += len(table) // table.copies_per_removal
            table.rebuild()
        return work

    def _spend_on_tables(self, growth_bytes: int) -> None:
        """Count what tables are about to grow by, so that the governor looks in time."""
        self.spare_bytes -= growth_bytes
        self.allowance_bytes -= growth_bytes

    def _is_cheaper(self, growth_bytes: int, entries: int) -> bool:
        """Whether growing tables takes less than so many entries; the arena must make way for it soon, though."""
        if not self.evicts or self.spare_bytes < -_GROWTH_AHEAD_BYTES:
            return False
        entry_bytes = self.entry_heap_bytes + self._arena.chunk_bytes // max(1, self.entries)
        return growth_bytes < entries * entry_bytes

    def compact(self) -> int:
        """Empty the sparsest page by moving its records into free chunks elsewhere; the number of them.

        0 when there is no such page.
        """
        arena = self._arena
        if self._wiped_records:  # their records can't be found by key
            return 0
        number = arena.relocatable_page()
        if number is None:
            return 0
        keys = arena.retire(number)
        for key in keys:
            slot = self._slots[slot_of(key)]
            slot.poke(key, arena.move(slot.peek(key)))
        arena.give_back(number, 0)
        self.moves += len(keys)
        return len(keys)

    def shrink(self, budget: int) -> bool:
        """Give arena pages back until it is within its limit or `budget` entries have been evicted or moved.

        Returns whether it is within its limit, or can't be brought any closer to it.
        """
        arena = self._arena
        while arena.resident_bytes > arena.limit_bytes:
            if budget <= 0:
                return False
            lately = self._lately(budget)
            work = _PAGE_WORK // 10 if arena.give_back_cleared() else self._make_some_room(lately, want_page=True)
            if not work:
                break
            budget -= work
        return True

    def drain_wiped(self) -> bool:
        """Free one entry, or one page, that a wipe left behind; False when nothing is left."""
        return self._drain_entry() or self._arena.give_back_cleared()

    def _drain_entry(self) -> bool:
        tables = self._wiped_tables
        if tables:
            slot = tables[-1]
            slot.popitem()
            if not slot:
                tables.pop()
            return True
        return bool(self._wiped_records) and self.reclaim_one()

    # --- upkeep ----------------------------------------------------------------------------------------------

    def tables(self, number: int) -> list[Slot]:
        """The tables of a slot, for measuring and making them anew: one, or several if it has many entries."""
        return self._slots[number].tables


@piece
class ShortWay:
    """What is compiled of WholeStore, in place of its methods: `get`, `put` and `remove`. As Python it is nothing."""


class Store(ShortWay, WholeStore):
    """The store of a node: see WholeStore."""
