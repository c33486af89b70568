"""Keeping the process under its memory bound: the governor, and what is asked of the allocators.

The bound is on the process's peak resident size, whatever is sent. What is resident falls in two parts:

- the arena, whose resident bytes are known exactly and can be lowered at will (arena.py);
- the heap: everything else (interpreter, keys, handles, hash tables, remembered replies, buffers). It can be
  kept from growing, but only slowly and partly be lowered: a page goes back when nothing on it is in use.

So the governor never tries to win heap back by evicting (that spirals: most evictions cost an entry and give
the system nothing). It measures the process's resident size, takes the arena's part off, and gives the arena
what remains of the target. The heap grows only with the number of entries; when that would leave the arena too
little, `heap_full` makes every new entry take the place, and so the holes, of another.

How often it looks: whenever the store has used up an allowance of estimated heap growth, a sixteenth of what is
left and at most 1 MiB, and ten times a second besides. A look costs about 3 µs. Hash tables are not part of the
estimate: they grow by leaps, all slots' at nearly the same time, so the store asks for each leap (`spare_bytes`), and
takes it off the allowance.

pympler calibrates the estimate, a few slots and keys at a time: sizing 100,000 entries whole takes a second.
"""

import ctypes
import os
import resource
from collections.abc import Callable
from itertools import islice
from typing import Final

from app.storage.arena import PAGE_BYTES, Arena
from app.storage.replies import ReplyMemory
from app.storage.slots import Slot
from app.storage.store import COMPACT_MIN_BYTES, Store
from app.wire.protocol import SLOT_COUNT

MIB: Final = 1 << 20

# Kept free below the bound for what no look can foresee: hash tables that are ahead of the arena (1 MiB), a full heap
# whose keys become longer (1 MiB), arena pages that count as resident before they are (below), growth between two looks
# when nothing is left (32 KiB), and transient buffers. Raising it costs that much payload.
_MARGIN_BYTES: Final = 4 * MIB
# Chunks that have never been in use make the heap seem smaller, by what they take when they are, which no look sees
# come: what goes beyond this is counted as if it were in use. A store of values of all sizes has 2 to 2.7 MiB of them.
# Smaller: such a store holds less by as much.
_UNTOUCHED_MAX_BYTES: Final = 3 * MIB // 2
# The arena always keeps this much, so that a value of any size finds a page.
ARENA_FLOOR_BYTES: Final = 4 * MIB
# The share of the bound that remembered replies may take: 18 MiB of 128, which is 670,000 of 28 bytes: those of
# 85,000 writes a second, as a reply is held for a quarter longer than its lifetime of 6 s, and steps of the clock.
_REPLIES_SHARE: Final = 9 / 64

# What the heap may grow, by estimate, until the governor looks again: this part (a sixteenth) of what is left below the
# target, within these bounds. Larger: growth may pass the target by more before it is noticed. Smaller: more looks.
_ALLOWANCE_SHARE: Final = 16
_ALLOWANCE_MIN_BYTES: Final = 32 * 1024
_ALLOWANCE_MAX_BYTES: Final = 1 * MIB

# A full heap that grows nevertheless, because keys have become longer, makes entries fewer from where it would pass the
# target by this much: a part of the margin. Sooner: entries are lost for little, as few of them give a page back.
_HEAP_OVER_BYTES: Final = MIB

# A full heap takes new entries again while there are fewer than this share of those that filled it: they find holes.
_FULL_AGAIN_SHARE: Final = 3 / 4
# Where it has made entries fewer, it does so only down to this share, and the further it has grown the further: by the
# last number of bytes, down to none. What has gone by then has left more holes than new entries can fill; to go on
# would empty the store for nothing, as the pages do not come back. The margin covers all of it.
_OVER_AGAIN_SHARE: Final = 1 / 2
_HEAP_FAR_OVER_BYTES: Final = 2 * MIB

# So many entries, 1 MiB of heap, there may be in any case, unless the heap has grown as far as that beyond its bound: a
# node that is given little memory, and takes it for copies and connections, still stores something.
_ENTRIES_MIN: Final = 4_000

# What hash tables may grow by between two looks where entries that have gone left holes: as much as fresh tables for
# those that may come (66 to 132 bytes an entry), and at most so much, should the holes be too small.
_TABLE_BYTES_PER_ENTRY: Final = 66
_TABLES_IN_HOLES_MAX_BYTES: Final = MIB // 2

# Free chunks worth this share of the arena's limit make moving records together worth the copying (the sparsest
# page then costs the copies of its live records, about 2 µs each). A larger share costs capacity.
_COMPACT_SHARE: Final = 1 / 16

# Entries after which one look stops evicting or moving to bring the arena within its limit (with the page in hand at
# most about 1,000, 3 ms).
_SHRINK_WORK: Final = 300
# Slots that one calibration samples, of 256 (0.1 ms each): at ten a second each slot's turn comes every 6 s.
_SLOTS_PER_CALIBRATION: Final = 4
# What making a table anew costs beside copying its entries (20 ns each; in Python 0.3 to 1 µs), as so many of them.
_TABLE_WORK: Final = 32
_KEYS_PER_SLOT: Final = 8  # that one calibration sizes in each of them: 32 are a fair sample of keys of any length

# What the kernel and glibc call what they are asked for (linux/prctl.h, malloc.h).
_PR_SET_THP_DISABLE: Final = 41
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# From this size on a block of the heap gets a mapping of its own.
_MAPPED_FROM_BYTES: Final = 32 * 1024
_TRIM_BYTES: Final = 128 * 1024  # as soon as so much of the heap's top is free it goes back

assert ARENA_FLOOR_BYTES >= 65 * PAGE_BYTES // 2 + PAGE_BYTES, "half of the size classes can hold a page"


def replies_max_bytes(max_memory_bytes: int) -> int:
    """How much of a process bound remembered replies may take."""
    return int(max_memory_bytes * _REPLIES_SHARE)


def tune_allocators() -> None:
    """Ask the kernel and glibc for memory that can be accounted for and given back; to be called at start.

    - No transparent huge pages: one touched byte must not make 2 MiB resident.
    - Blocks of 32 KiB and more (hash tables) in mappings of their own, which go back when freed instead of
      leaving holes in the heap; setting it also stops glibc from raising it by itself.
    - One malloc arena; the top of the heap goes back as soon as 128 KiB are free there.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    mallopt = getattr(libc, "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_ARENA_MAX, 1)


class ResidentSize:
    """Reads this process's resident size; keeps the file open (about 2 µs a reading)."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY)
        self._page_bytes = resource.getpagesize()

    def __call__(self) -> int:
        """Resident bytes now."""
        return int(os.pread(self._fd, 64, 0).split()[1]) * self._page_bytes


def peak_resident_bytes() -> int:
    """The process's peak resident size (VmHWM).

    Not getrusage's: that keeps what the process was before it became this program, so a fork of a large parent.
    """
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0  # a kernel that does not tell


class MemoryGovernor:
    """Divides what the bound leaves between heap and arena, and keeps estimates and tables in trim."""

    def __init__(
        self,
        arena: Arena,
        store: Store,
        replies: ReplyMemory,
        *,
        max_bytes: int,
        evict: bool,
        resident_bytes: Callable[[], int],
        arena_floor_bytes: int = ARENA_FLOOR_BYTES,
    ) -> None:
        """`arena_floor_bytes`: what the arena may have in any case."""
        self._arena = arena
        self._store = store
        self._replies = replies
        self._evict = evict
        self._resident_bytes = resident_bytes
        self._arena_floor_bytes = arena_floor_bytes
        self._target_bytes = max_bytes - _MARGIN_BYTES
        self._next_sampled = 0  # slots
        self._next_shrunk = 0
        self._full_entries = 0  # the most there were since the heap is full
        libc = ctypes.CDLL(None)
        self._malloc_trim = getattr(libc, "malloc_trim", None)  # glibc's; musl has none
        self._mallopt = getattr(libc, "mallopt", None)  # likewise
        self._trimmed_at = 0
        self.resident_bytes = 0  # at the last look
        self.heap_bytes = 0  # at the last look
        self.rebuilds = 0

    @property
    def peak_resident_bytes(self) -> int:
        """The process's peak; no less than at the last look, though the kernel counts it in another way, pages off."""
        return max(peak_resident_bytes(), self.resident_bytes)

    def look(self) -> None:
        """Measure the process and set the arena's limit, the store's allowance and whether the heap is full."""
        arena = self._arena
        store = self._store
        self.resident_bytes = self._resident_bytes()
        resident = self.resident_bytes + max(0, arena.untouched_bytes - _UNTOUCHED_MAX_BYTES)
        heap = max(0, resident - arena.resident_bytes)
        self.heap_bytes = heap
        # Replies may still grow to their own bound: the arena makes way for them then, if it may evict.
        replies_growth = max(0, self._replies.max_bytes - self._replies.used_bytes)
        left = self._target_bytes - heap
        heap_left = left - replies_growth - self._arena_floor_bytes
        over = arena.resident_bytes + replies_growth - left - _HEAP_OVER_BYTES
        # Entries that have gone since it was full leave holes, which do not show in the resident size.
        self._full_entries = max(self._full_entries, store.entries) if heap_left < 0 else 0
        share = _OVER_AGAIN_SHARE * max(0.0, 1 - over / _HEAP_FAR_OVER_BYTES) if over > 0 else _FULL_AGAIN_SHARE
        missing = max(self._full_entries * share, _ENTRIES_MIN if share else 0) - store.entries
        store.heap_full = heap_left < 0 and missing <= 0
        store.heap_over = over > 0 and missing <= 0
        spare = min(heap_left, self._target_bytes - resident - (0 if self._evict else replies_growth))
        if heap_left < 0 and missing > 0:
            spare = max(spare, min(_TABLES_IN_HOLES_MAX_BYTES, int(missing * _TABLE_BYTES_PER_ENTRY)))
        store.spare_bytes = spare
        arena.limit_bytes = max(self._arena_floor_bytes, left if self._evict else left - replies_growth)
        store.compact_bytes = max(COMPACT_MIN_BYTES, int(arena.limit_bytes * _COMPACT_SHARE))
        allowance = (self._target_bytes - resident) // _ALLOWANCE_SHARE
        store.allowance_bytes = min(_ALLOWANCE_MAX_BYTES, max(_ALLOWANCE_MIN_BYTES, allowance))
        if not store.shrink(_SHRINK_WORK):
            # Not done: look again at the next new entry, and not before, so that one request shrinks it once.
            store.allowance_bytes = max(0, store.entry_heap_bytes - 1)
        self.join_freed()

    def join_freed(self) -> None:
        """Have the C library join small blocks that were freed (0.1 µs each): to be called while entries go.

        It sets them aside as they are, and joins all at once when somebody wants a large block: after some hundred
        thousand entries, that took 20 to 50 ms. Each call of mallopt joins them first, whatever it then sets.
        """
        if self._mallopt is not None:
            self._mallopt(_M_ARENA_MAX, 1)

    def calibrate(self) -> None:
        """Size a few slots' keys, and make oversized tables anew (1 ms at most; in Python 2)."""
        store = self._store
        sampled_bytes = sampled = 0
        for _ in range(_SLOTS_PER_CALIBRATION):
            table = store.tables(self._next_sampled)[0]
            self._next_sampled = (self._next_sampled + 1) % SLOT_COUNT
            for key in islice(table, _KEYS_PER_SLOT):
                sampled_bytes += table.entry_bytes(key)
                sampled += 1
        if sampled:
            store.entry_heap_bytes = sampled_bytes // sampled
        self._shrink_tables()

    def _shrink_tables(self) -> None:
        """Go on with the next slots, from wherever the work was enough the last time.

        Compiled, each slot's turn comes every 0.4 s: larger values take over from small ones in less than a second, and
        what the tables of those keep the values can't have. In Python it comes every 6 s.
        """
        work = 0
        for _ in range(Slot.shrunk_at_once):
            for table in self._store.tables(self._next_shrunk):
                if table.is_oversized:
                    if work >= Slot.shrunk_entries:
                        return
                    work += len(table) + _TABLE_WORK
                    table.rebuild()
                    self.rebuilds += 1
            self._next_shrunk = (self._next_shrunk + 1) % SLOT_COUNT

    def trim(self) -> None:
        """Give the free pages inside the C heap back (0.1 to 5 ms), if anything has been freed since the last time."""
        freed = self._store.evictions + self._store.moves + self.rebuilds
        if freed != self._trimmed_at and self._malloc_trim is not None:
            self._trimmed_at = freed
            self._malloc_trim(0)
            self.look()
