"""The hash tables of a slot: least recently used first, and never larger without having been asked.

The problem: CPython sizes a dict that sees insertions and removals for three to six times its entries, and one that
only grows doubles. For thousands of insertions nothing happens; then all 256 slots, filled evenly, take up to four
times their memory, nearly at once. And all that a store holds may lie in one slot, since anybody can compute which one
a key belongs to: doubling that one's tables would stall the node for half a second.

The approach: a slot knows how many insertions its tables still take (`room`), which costs an insertion nothing that it
did not cost before. When none is left, what the next one would take is known (`growth_bytes`), and the store decides
before it happens: it lets CPython make larger tables, or makes them anew in the size that they have (`rebuild`), which
is for free as long as part of them is what removals left behind. A slot of more than about a thousand entries is split
over several tables by linear hashing (Litwin 1980): one table is divided, or two are joined, at a time, so that no
step handles more than about 2,700 entries (0.8 ms).

Rejected: estimating what tables take, however cautiously (four times the usual is half of what a store of small entries
holds); one table for all entries (growing stalls its caller for 90 to 480 ms).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from mmap import mmap
from sys import maxsize
from typing import ClassVar, Final

from cachetools import LRUCache

from app.fast import piece
from app.storage.sizer import asizeof

# A slot with more entries than this that would have to grow is split; a split slot gets another table when it has more
# than this in a table on average (in one table: twice as many). Larger: longer steps. Smaller: more tables, which take
# 1 KB each beside their places. (The compiled slot has a larger number of its own: its steps are shorter.)
_SPLIT_ENTRIES: Final = 1024
# With fewer entries than this part of it in a table on average two tables of a split slot are joined.
_JOIN_SHARE: Final = 4

# Slots whose tables one calibration looks at, to make oversized ones anew (governor.py). More: in a store full of tiny
# entries tables that were just made smaller would have to grow again, for which entries go. (The compiled slot grows by
# little, and has a larger number of its own.)
_SHRUNK_AT_ONCE: Final = 4
# After so many entries copied it makes no more tables anew: 0.3 to 0.8 µs each.
_SHRUNK_ENTRIES: Final = 2_048
# So many entries are copied, where tables are made anew, grow or are divided, while one is evicted with its page, which
# is the measure of a request's work (store.py).
_COPIES_PER_REMOVAL: Final = 2

# The bits of its hash that choose a key's table. A dict begins its search by lower ones.
_HASH_SHIFT: Final = 32
# How many of them there can be: for as many tables as 64 GiB may hold.
_HASH_BITS: Final = 20

_LINK_BYTES: Final = 32  # what an OrderedDict counts for each entry's link, which is a block of its own
_ORDER_OBJECT_BYTES: Final = dict.__sizeof__(OrderedDict()) - dict.__sizeof__({})  # by which the objects differ


# What a table is never made for: it has been split before, and if memory lacked for that, it stays as it is.
_ENTRIES_MAX: Final = 6 * _SPLIT_ENTRIES

# Tables that cost more than this per entry are oversized. Fresh ones take 66 to 132 bytes an entry; under insertion and
# removal CPython sizes them for three times their entries, which takes up to 264.
_BYTES_PER_ENTRY_MAX: Final = 150
_OVERSIZED_FROM_BYTES: Final = 16 * 1024  # below that there is nothing to win


def _table_sizes() -> dict[int, tuple[int, int]]:
    """By the bytes of a dict: how many entries it can hold, and what a slot's tables of that size take together.

    Found out by filling tables.
    """
    sizes: dict[int, tuple[int, int]] = {}
    data: dict[int, None] = {}
    order: OrderedDict[int, None] = OrderedDict()
    for count in range(1, _ENTRIES_MAX):
        data[count] = order[count] = None
        size = dict.__sizeof__(data)
        sizes[size] = count, size + OrderedDict.__sizeof__(order) - _LINK_BYTES * count
    sizes.popitem()  # the last can hold more
    sizes[dict.__sizeof__({})] = next(iter(sizes.values()))  # no table yet: the first entry brings the smallest
    return sizes


_SIZES: Final = _table_sizes()
_STEPS: Final = sorted(set(_SIZES.values()))

_flat_size: Final[Callable[..., int]] = asizeof.flatsize


def _allocated(size: int) -> int:
    """What the C library's allocator takes for an object of `size` bytes: 8 more, in steps of 16."""
    return (size + 8 + 15) // 16 * 16


# What an arena handle takes on the heap: an int of two digits.
_HANDLE_BYTES: Final = _allocated(_flat_size(1 << 40))


@piece
class Slot(LRUCache[bytes, int]):
    """cachetools' LRUCache without a bound of its own, its hot operations in one step each.

    The data stay in LRUCache's own tables, and every method not overridden here works on them as ever; what is saved
    are the calls from method to method (an eviction 0.4 instead of 1.3 µs, a read 0.2 instead of 0.35). That reaches
    into two private attributes: requirements.txt pins the major version, and tests/storage/test_slots.py holds this
    class against LRUCache.

    Its two tables see the same insertions and removals, so both are made anew at the same insertion.

    `room`: how many new keys fit the tables as they are. `capacity`: how many did when they were made.
    """

    split_entries: ClassVar[int] = _SPLIT_ENTRIES  # with more than these it is split
    shrunk_at_once: ClassVar[int] = _SHRUNK_AT_ONCE
    shrunk_entries: ClassVar[int] = _SHRUNK_ENTRIES
    copies_per_removal: ClassVar[int] = _COPIES_PER_REMOVAL

    def __init__(self, *, records: mmap | None = None) -> None:
        """`records`: the memory in which each value, a handle, names a record of its key, as the arena has them. There
        the compiled slot reads the keys, so an entry must go before its record does."""
        super().__init__(maxsize)
        self._bind()

    def _bind(self) -> None:
        """After the tables have been made anew."""
        self._data: dict[bytes, int] = self._Cache__data
        self._order: OrderedDict[bytes, None] = self._LRUCache__order
        self.has = self._data.__contains__  # as `in`, without the call in Python that cachetools makes of it
        self._measure()

    def _measure(self) -> None:
        self.capacity, self.table_bytes = _SIZES[dict.__sizeof__(self._data)]
        self.room = self.capacity - len(self._data)

    def __copy__(self) -> "Slot":
        return self._of(self._data, list(self._order))

    def __getitem__(self, key: bytes) -> int:
        value = self._data[key]
        self._order.move_to_end(key)
        return value

    def __setitem__(self, key: bytes, value: int) -> None:
        data = self._data
        if key in data:
            self._order.move_to_end(key)
            data[key] = value
        else:
            self._order[key] = None
            data[key] = value
            self.room -= 1
            if self.room < 0:
                self._measure()

    def __delitem__(self, key: bytes) -> None:
        del self._data[key]
        del self._order[key]

    def popitem(self) -> tuple[bytes, int]:
        key, _ = self._order.popitem(last=False)
        return key, self._data.pop(key)

    @property
    def currsize(self) -> int:
        return len(self._data)

    def peek(self, key: bytes) -> int:
        """As reading an item, but the order of use stays as it is. KeyError."""
        return self._data[key]

    def poke(self, key: bytes, value: int) -> None:
        """Change the value of a key that is there; the order of use stays as it is."""
        self._data[key] = value

    def age(self, key: bytes) -> None:
        """Make a key that is there the least recently used."""
        self._order.move_to_end(key, last=False)

    # --- tables ----------------------------------------------------------------------------------------------

    @property
    def tables(self) -> "list[Slot]":
        """What the slot consists of: itself."""
        return [self]

    def table_of(self, key: bytes) -> "Slot":
        """The table that a key belongs to: itself."""
        return self

    @property
    def growth_bytes(self) -> int:
        """By how much the tables grow with the next new key when there is no room: 0 or less if they need not.

        CPython makes them for at least twice the entries.
        """
        least = max(2 * len(self._data), _STEPS[1][0])  # the smallest size is for a first entry alone
        return next((size for capacity, size in _STEPS if capacity >= least), maxsize) - self.table_bytes

    @staticmethod
    def bytes_for(count: int) -> int:
        """What tables made for so many entries take."""
        return next(size for capacity, size in _STEPS if capacity >= count)

    @staticmethod
    def entry_bytes(key: bytes) -> int:
        """What an entry takes on the heap beside the tables: its key, a handle, the link of an OrderedDict."""
        return _allocated(_flat_size(key)) + _HANDLE_BYTES + _allocated(_LINK_BYTES)

    @property
    def keep(self) -> int:
        """With how many entries making the tables anew in their size is worth it (three insertions pay for copying
        four entries)."""
        return self.capacity * 3 // 4

    @property
    def is_oversized(self) -> bool:
        """Whether making the tables anew would win much."""
        size = self.table_bytes
        return size > _OVERSIZED_FROM_BYTES and size > _BYTES_PER_ENTRY_MAX * len(self._data)

    def rebuild(self) -> None:
        """Make the tables anew, as small as their entries allow, without what removals left (0.1 µs an entry)."""
        self._LRUCache__order = self._order = self._order.copy()
        data = dict(self._data)
        if dict.__sizeof__(data) != dict.__sizeof__(self._order) - _ORDER_OBJECT_BYTES:
            data = dict(self._data.items())  # entry by entry, as the order was: to be of the same size
        self._Cache__data = data
        self._bind()

    def keys_from(self, cursor: int, bits: int = 0) -> tuple[list[bytes], int]:
        """The keys of the table that is next at a cursor, 0 to begin with, and the next cursor; 0: that was all.

        `bits`: how many of `bits_of` are the same for all keys of the table, which makes its stretch of cursors.
        """
        stretch = 1 << _HASH_BITS - bits
        return list(self), (cursor // stretch + 1) * stretch % (1 << _HASH_BITS)

    def evict_beside(self, key: bytes, count: int) -> list[int]:
        """Remove so many entries, or all, least recently used first, from a key's table; their values."""
        return [self.popitem()[1] for _ in range(min(count, len(self._data)))]

    def divide(self, bit: int) -> "tuple[Slot, Slot]":
        """Two slots: the entries whose hash has this bit clear, and set (0.3 µs an entry)."""
        order = self._order
        clear = [key for key in order if not hash(key) >> _HASH_SHIFT & bit]
        those_set = [key for key in order if hash(key) >> _HASH_SHIFT & bit]
        return self._of(self._data, clear), self._of(self._data, those_set)

    @staticmethod
    def bits_of(key: bytes) -> int:
        """The bits of a key's hash that choose its table, where a slot has several."""
        return hash(key) >> _HASH_SHIFT

    def join(self, other: "Slot") -> "Slot":
        """One slot with the entries of both, the orders of use interleaved from the most recent on."""
        pairs = zip_longest(reversed(self._order), reversed(other._order))
        keys = [key for pair in pairs for key in pair if key is not None]
        keys.reverse()
        return self._of(self._data | other._data, keys)

    def _of(self, data: dict[bytes, int], keys: list[bytes]) -> "Slot":
        """A slot with these of some entries, in this order of use."""
        made = type(self)()
        made._Cache__data = {key: data[key] for key in keys}
        made._LRUCache__order = OrderedDict.fromkeys(keys)
        made._bind()
        return made


class SplitSlot:
    """A slot of many entries: to the store what a Slot is, over several of them.

    Table number n has the keys whose hash ends in n, by as many bits as its round of dividing has come to. Python's
    hash of bytes is keyed by the process, so nobody can choose keys that fall into one table.

    `room` is always 0, so that the store asks which table a new key belongs to before it puts it there.
    """

    room: Final = 0

    def __init__(self, slot: Slot) -> None:
        self.tables = [slot]
        self.split_entries = slot.split_entries
        self.copies_per_removal = slot.copies_per_removal
        self._bits_of = slot.bits_of
        self._mask = 0  # the bits of a hash that may be a table's number; if there is none yet, the highest bit goes
        self._entries = len(slot)
        self._hand = 0
        self.divide()

    def table_of(self, key: bytes) -> Slot:
        """The table that a key belongs to."""
        return self._table(self._bits_of(key) & self._mask)

    def _table(self, number: int) -> Slot:
        tables = self.tables
        return tables[number] if number < len(tables) else tables[number & self._mask >> 1]

    def __len__(self) -> int:
        return self._entries

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.tables)

    def __contains__(self, key: bytes) -> bool:
        return key in self.table_of(key)

    def has(self, key: bytes) -> bool:
        """As `in`."""
        return self.table_of(key).has(key)

    def __getitem__(self, key: bytes) -> int:
        return self.table_of(key)[key]

    def __setitem__(self, key: bytes, value: int) -> None:
        table = self.table_of(key)
        before = len(table)
        table[key] = value
        self._entries += len(table) - before

    def __delitem__(self, key: bytes) -> None:
        del self.table_of(key)[key]
        self._removed(1)

    def peek(self, key: bytes) -> int:
        """As reading an item, but the order of use stays as it is. KeyError."""
        return self.table_of(key).peek(key)

    def poke(self, key: bytes, value: int) -> None:
        """Change the value of a key that is there; the order of use stays as it is."""
        self.table_of(key).poke(key, value)

    def age(self, key: bytes) -> None:
        """Make a key that is there the least recently used of its table."""
        self.table_of(key).age(key)

    def popitem(self) -> tuple[bytes, int]:
        """Remove the least recently used of the fuller of two tables. KeyError when there is no entry.

        A table that is still to be divided in this round has two turns of the hand, as it has twice as many keys.
        """
        if not self._entries:
            raise KeyError("the slot is empty")
        while True:
            table = self._table(self._hand)
            self._hand = (self._hand + 1) & self._mask
            other = self._table(self._hand)
            if len(other) > len(table):
                table = other
            if table:
                break
        item = table.popitem()
        self._removed(1)
        return item

    def keys_from(self, cursor: int) -> tuple[list[bytes], int]:
        """As Slot's. What is there from the first call to the last is listed, some of it twice perhaps: tables may be
        divided and joined in between, and grow.

        Tables are gone through by the bits of their numbers in reverse, of which a cursor is a beginning (as Redis'
        SCAN does). The keys of a table are then those of one stretch of cursors; to divide it halves that, to join two
        makes one of two halves.
        """
        number = _reverse(cursor) & self._mask
        bits = self._mask.bit_length()
        if (number | self._mask + 1 >> 1) >= len(self.tables):
            bits -= 1  # one that is not divided yet in this round
            number &= self._mask >> 1
        return self.tables[number].keys_from(cursor, bits)

    def evict_beside(self, key: bytes, count: int) -> list[int]:
        """Remove so many entries, or all, least recently used first, from a key's table; their values."""
        handles = self.table_of(key).evict_beside(key, count)
        self._removed(len(handles))
        return handles

    # --- tables ----------------------------------------------------------------------------------------------

    @property
    def is_crowded(self) -> bool:
        """Whether it should have another table."""
        return self._entries > self.split_entries * len(self.tables)

    @property
    def growth_bytes(self) -> int:
        """By about how much the tables grow when one is divided."""
        table = self.tables[len(self.tables) & self._mask >> 1]
        return 2 * table.bytes_for(len(table) // 2) - table.table_bytes

    def divide(self) -> int:
        """Divide the next table of this round in two; when all have been, a round begins with one more bit. Returns how
        many entries it had."""
        number = len(self.tables)
        if number > self._mask:
            self._mask = 2 * self._mask + 1
        source = number & self._mask >> 1
        divided = self.tables[source]
        self.tables[source], other = divided.divide(self._mask + 1 >> 1)
        self.tables.append(other)
        return len(divided)

    def _removed(self, count: int) -> None:
        self._entries -= count
        if self._entries < self.split_entries // _JOIN_SHARE * len(self.tables) and len(self.tables) > 1:
            last = self.tables.pop()
            number = len(self.tables)
            source = number & self._mask >> 1
            self.tables[source] = self.tables[source].join(last)
            if number == self._mask + 1 >> 1:
                self._mask >>= 1


def _reverse(cursor: int) -> int:
    """Its bits the other way round."""
    return int(f"{cursor:0{_HASH_BITS}b}"[::-1], 2)
