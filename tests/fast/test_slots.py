"""The compiled slot against the Python: the same answers to the same calls, with either kind of keys."""

import gc
import mmap
import os
import random
import re
import subprocess
import sys
import weakref
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fast import PIECES
from app.storage import arena, slots
from app.storage.sizer import asizeof
from app.storage.slots import SplitSlot
from app.wire.protocol import KEY_MAX_BYTES
from tests.support.parts import examples

PURE, COMPILED = PIECES["slots.Slot"]
pytestmark = pytest.mark.skipif(COMPILED is PURE, reason="app/fast/slots is not built")

SOURCE = Path(slots.__file__).parent.parent / "fast" / "slots.pyx"
ADDED = ("set", "set", "set", "put", "get")


class Records:
    """Where records lie: each key at a place of its own, and again at others where its value is to change."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.memory = mmap.mmap(-1, size)
        self._end = 0

    def handle(self, key: bytes, blob_bytes: int) -> int:
        """Of a new record of a key."""
        at = self._end + len(key)
        self.memory[self._end : at] = key
        self._end = at + 1
        return at | blob_bytes << arena._LENGTH_SHIFT


def order_of(slot: Any) -> list[tuple[bytes, int]]:
    going = copy(slot)
    return [going.popitem() for _ in range(len(slot))]


def outcome(call: Any, *arguments: Any) -> Any:
    """What a call returns, or raises."""
    try:
        return call(*arguments)
    except (KeyError, TypeError) as error:
        return type(error), error.args if isinstance(error, KeyError) and arguments else ()


@examples(150)
@given(st.integers(0, 1 << 32), st.booleans(), st.sampled_from((6, 60, 600)))
def test_a_slot_gives_the_same_answers_compiled(seed: int, of_records: bool, count: int) -> None:
    rng = random.Random(seed)
    records = Records()
    pairs = [(PURE(), COMPILED(records=records.memory if of_records else None))]
    keys = [rng.randbytes(rng.randint(1, KEY_MAX_BYTES)) for _ in range(count)]
    for n in range(5 * count):
        at = rng.randrange(len(pairs))
        pure, compiled = pairs[at]
        key = rng.choice(keys)
        value = records.handle(key, n) if of_records else rng.choice((n, -n, 1 << 70))
        step = rng.choice(
            (*ADDED, "del", "peek", "poke", "in", "pop", "oldest", "copy", "rebuild", "beside", "divide", "age")
        )
        if step == "set":
            pure[key] = compiled[key] = value
        elif step == "put" and key in pure:
            pure.poke(key, value)
            compiled.poke(key, value)
        elif step == "age" and key in pure:
            pure.age(key)
            compiled.age(key)
        elif step == "divide" and len(pairs) == 1:  # each by its own hash, so what comes of it is joined again
            compiled = COMPILED.join(*compiled.divide(1 << rng.randrange(20)))
            assert {key: compiled.peek(key) for key in compiled} == {key: pure.peek(key) for key in pure}
            compiled.clear()
            for one, held in order_of(pure):
                compiled[one] = held
        elif step == "copy":
            pairs = [*pairs, (copy(pure), copy(compiled))][-3:]
        elif step == "rebuild":
            pure.rebuild()
            compiled.rebuild()
            assert not compiled.is_oversized
        elif step == "beside":
            some = rng.randrange(5)
            assert compiled.evict_beside(key, some) == pure.evict_beside(key, some)
        else:
            calls = {"get": "__getitem__", "del": "__delitem__", "peek": "peek", "in": "has", "pop": "pop"}
            name = calls.get(step)
            if name is not None:
                assert outcome(getattr(compiled, name), key) == outcome(getattr(pure, name), key)
            elif step == "oldest":
                assert outcome(compiled.popitem)[:1] == outcome(pure.popitem)[:1] or not pure
        for pure, compiled in pairs:
            assert len(compiled) == len(pure) == compiled.currsize
            assert compiled.capacity - compiled.room == len(compiled)
            assert (compiled.table_bytes == 0) == (compiled.capacity == 0)
    for pure, compiled in pairs:
        assert order_of(compiled) == order_of(pure)
        assert sorted(compiled) == sorted(pure)
        listed, cursor = compiled.keys_from(0)
        while cursor:
            more, cursor = compiled.keys_from(cursor)
            listed += more
        assert sorted(listed) == sorted(pure)


@pytest.mark.parametrize("bit", [1, 1 << 10])
def test_the_halves_of_a_compiled_slot_keep_the_order_of_use_and_are_joined_from_the_most_recent_on(bit: int) -> None:
    slot = COMPILED()
    for n in range(1000):
        slot[b"%d" % n] = n
    clear, those_set = slot.divide(bit)
    for half, is_set in ((clear, False), (those_set, True)):
        numbers = [n for n in range(1000) if bool(COMPILED.bits_of(b"%d" % n) & bit) is is_set]
        assert order_of(half) == [(b"%d" % n, n) for n in numbers]
        assert half.table_bytes == COMPILED.bytes_for(len(numbers))
    one, other = PURE(), PURE()
    for half, pure in ((clear, one), (those_set, other)):
        for key, value in order_of(half):
            pure[key] = value
    for n in range(rng_count := 30):
        assert clear.popitem() == one.popitem(), rng_count - n
    assert order_of(clear.join(those_set)) == order_of(one.join(other))
    assert order_of(those_set.join(clear)) == order_of(other.join(one))


# --- records --------------------------------------------------------------------------------------------------------


def test_a_handle_must_name_a_record_of_the_key_within_the_memory() -> None:
    records = Records(4096)
    slot = COMPILED(records=records.memory)
    handle = records.handle(b"key", 5)
    slot[b"key"] = handle
    for key, value in (
        (b"yek", handle),
        (b"keys", handle),
        (b"ke", handle),
        (b"key", handle + 1),
        (b"key", 4097),
        (b"\0", (1 << 44) - 1),
        (b"\0", 0),
        (b"\0", 1 << 58),
        (b"", handle),
        (bytes(64), 64),
    ):
        with pytest.raises(ValueError, match=r"record|key"):
            slot[key] = value
        if key == b"key":
            with pytest.raises(ValueError, match="record"):
                slot.poke(key, value)
    for value in (-1, 1 << 64, 1 << 63):
        with pytest.raises((OverflowError, ValueError)):
            slot[b"key"] = value
    for key in ("key", 7, bytearray(b"key"), None):
        with pytest.raises(TypeError):
            slot[key] = handle
    assert slot.has("key") is False
    assert slot.has(7) is False
    assert order_of(slot) == [(b"key", handle)]
    slot[bytes(63)] = 4096  # the end of the memory
    assert slot.peek(bytes(63)) == 4096


def test_memory_that_is_in_use_as_records_can_not_go_away() -> None:
    records = Records(4096)
    slot = COMPILED(records=records.memory)
    slot[b"key"] = records.handle(b"key", 5)
    with pytest.raises(BufferError):
        records.memory.close()
    halves = slot.divide(1)
    del slot
    with pytest.raises(BufferError):
        records.memory.close()
    del halves
    records.memory.close()


def test_a_slot_whose_records_are_gone_can_still_be_emptied() -> None:
    """As a wiped one is, when the whole arena was cleared."""
    records = Records(1 << 16)
    slot = COMPILED(records=records.memory)
    handles = []
    for n in range(500):
        handles.append(records.handle(b"%d" % n, 5))
        slot[b"%d" % n] = handles[-1]
    records.memory[:] = bytes(1 << 16)
    assert not slot.has(b"7")
    assert [slot.popitem()[1] for _ in range(500)] == handles
    assert len(slot) == 0


# --- any object -----------------------------------------------------------------------------------------------------


class Meddler:
    """A key with the hash of any other, which changes the slot whenever it is compared."""

    def __init__(self, slot: Any, rng: random.Random) -> None:
        self.slot = slot
        self.rng = rng
        self.left = 20

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        self.left -= 1
        if self.left > 0:
            self.rng.choice((self.slot.clear, self.slot.rebuild, self.add, self.remove))()
        return False

    def add(self) -> None:
        for n in range(50):
            self.slot[n] = n

    def remove(self) -> None:
        for _ in range(min(len(self.slot), 20)):
            self.slot.popitem()


@pytest.mark.parametrize("seed", range(30))
def test_keys_whose_comparison_changes_the_slot_do_no_harm(seed: int) -> None:
    rng = random.Random(seed)
    slot: Any = COMPILED()
    for n in range(60):
        slot[n] = [n]
        slot[Meddler(slot, rng)] = n
        slot.has(Meddler(slot, rng))
        slot.pop(Meddler(slot, rng), None)
        slot.get(7)
    numbers = [key for key in slot if isinstance(key, int)]
    assert len(numbers) == len(set(numbers))
    assert len(slot) == len(list(slot)) == len(order_of(slot))


class Unpleasant:
    """A value whose end changes the slot that it was in."""

    def __init__(self, slot: Any) -> None:
        self.slot = slot

    def __del__(self) -> None:
        self.slot.pop(1, None)
        self.slot[2] = 2
        self.slot.clear()
        self.slot[3] = 3


def test_values_whose_end_changes_the_slot_do_no_harm() -> None:
    slot: Any = COMPILED()
    for _ in range(20):
        slot[1] = Unpleasant(slot)
        slot[1] = 1
        slot[1] = Unpleasant(slot)
        del slot[1]
        slot[1] = Unpleasant(slot)
        slot.popitem()
        slot[1] = Unpleasant(slot)
        slot.clear()
        assert dict(slot) in ({}, {3: 3})
        assert len(slot) == len(order_of(slot)) == len(list(slot))


def test_keys_that_can_not_be_hashed_are_refused() -> None:
    slot: Any = COMPILED()
    for call in (slot.__setitem__, slot.poke):
        with pytest.raises(TypeError):
            call([], 1)
    for call in (slot.__getitem__, slot.__delitem__, slot.peek, slot.has, slot.__contains__, slot.pop):
        with pytest.raises(TypeError):
            call([])
    assert len(slot) == 0


def test_what_refers_to_itself_through_a_slot_is_collected() -> None:
    class Value:
        slot: Any

    for _ in range(10):
        slot: Any = COMPILED()
        value = Value()
        value.slot = slot
        slot[1] = value
        slot[iter([slot])] = slot
        gone = weakref.ref(value)
        del slot, value
        gc.collect()
        assert gone() is None


def test_iterating_over_a_slot_that_changes_is_an_error() -> None:
    slot: Any = COMPILED()
    slot[1] = slot[2] = 1
    keys = iter(slot)
    next(keys)
    slot[1] = 2
    slot[3] = 1
    with pytest.raises(RuntimeError):
        next(keys)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_pympler_is_told_the_size() -> None:
    records = Records()
    slot = COMPILED(records=records.memory)
    empty = slot.__sizeof__()
    for n in range(5_000):
        key = b"%d" % n
        slot[key] = records.handle(key, 0)
        assert slot.__sizeof__() == empty + slot.table_bytes
    objects: Any = COMPILED()
    for n in range(5_000):
        objects[n] = n
    assert objects.__sizeof__() > objects.table_bytes + 2 * 5_000 * 8
    assert asizeof.flatsize(objects) >= objects.__sizeof__()
    assert sys.getsizeof(objects) >= objects.__sizeof__()


@pytest.mark.parametrize("count", [1, 4, 5, 100, 292, 293, 439, 1_171, 3_000, 40_000])
def test_tables_grow_by_an_eighth(count: int) -> None:
    """28 bytes an entry, in steps of 16, or of whole pages: a mapping is filled."""
    size = COMPILED.bytes_for(count)
    least = 28 * count + 8
    assert least <= size + 8 <= 1.125 * least + (4 * 28 + 16 if size < 8192 else 8192)
    slot: Any = COMPILED()
    for n in range(count):
        slot[n] = n
    assert slot.table_bytes == size
    step = mmap.PAGESIZE if size >= 2 * mmap.PAGESIZE else 16
    assert size % step == 0
    assert size - 28 * slot.capacity < 28 + 24


MEASURE = """
import mmap, sys
from app.storage import arena
from app.storage.governor import ResidentSize, tune_allocators
from app.storage.slots import Slot
tune_allocators()
count = int(sys.argv[1])
keys = [b"%08d" % n for n in range(count)]
memory = mmap.mmap(-1, 9 * count)
memory[:] = b" ".join(keys) + b" "
slots = [Slot(records=memory) for _ in range(256)]
filled = [bytes(1000) for _ in range(8000)]  # the holes that importing has left in the heap
resident = ResidentSize()
before = resident()
for slot in slots:
    for n, key in enumerate(keys):
        slot[key] = 9 * n + 8
print(resident() - before, sum(slot.table_bytes for slot in slots))
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer takes memory of its own")
@pytest.mark.parametrize(("count", "off_by"), [(200, 0.45), (500, 0.02), (3_000, 0.02)])
def test_what_tables_say_that_they_take_is_what_the_process_grows_by(count: int, off_by: float) -> None:
    """All 256, in a process of its own. Smaller ones lie in the heap, which has holes before them and after."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(count)],
        cwd=SOURCE.parent.parent.parent,
        env={"PYTHONMALLOC": "malloc", "KV_FAST": "on"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    resident, told = map(int, done.stdout.split())
    assert (1 - off_by) * told < resident < (1 + off_by) * told


def test_the_layout_of_handles_is_that_of_the_arena() -> None:
    source = SOURCE.read_text()
    found = re.findall(r"^    (\w+) = (\d+)\b", source, re.MULTILINE)
    numbers = {name: int(value) for name, value in found}
    assert numbers["POSITION_BITS"] == arena._LENGTH_SHIFT
    assert 1 << numbers["HANDLE_BITS"] - numbers["POSITION_BITS"] > arena.RECORD_MAX_BYTES
    assert KEY_MAX_BYTES <= numbers["KEY_MAX_BYTES"] < 1 << 64 - numbers["HANDLE_BITS"]
    assert numbers["CURSOR_BITS"] == slots._HASH_BITS


def test_a_split_slot_lists_a_large_table_in_parts() -> None:
    slot = COMPILED()
    for n in range(COMPILED.split_entries + 1):
        slot[b"%d" % n] = n
    split = SplitSlot(slot)
    listed: list[bytes] = []
    cursor = calls = 0
    while not calls or cursor:
        keys, cursor = split.keys_from(cursor)
        assert len(keys) < 500
        listed += keys
        calls += 1
    assert sorted(listed) == sorted(split)
