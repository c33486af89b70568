"""app/fast/arena.pyx does what app/storage/arena.py does: the same handles, the same books, whatever its owner does."""

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.storage.arena import PAGE_BYTES, RECORD_MAX_BYTES, SIZE_CLASSES
from tests.storage.test_arena import chunk_size, in_page
from tests.support.parts import MIB, examples
from tests.support.pieces import pieces

BOOKS = ("limit_bytes", "resident_bytes", "cleared_bytes", "chunk_bytes", "free_chunk_bytes", "untouched_bytes")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("arena", "compiled").Arena


def test_its_sizes_of_chunks_are_the_same(compiled: Any) -> None:
    arena = compiled(PAGE_BYTES, MIB)
    for record_bytes in range(3, RECORD_MAX_BYTES + 1):
        handle = arena.store(b"k", bytes(record_bytes - 2))
        size = chunk_size(1, record_bytes - 2)
        assert arena.chunk_size(handle) == size
        assert arena.free_chunk_bytes == (in_page(size) - 1) * size
        arena.free(handle)


class Both:
    """Two arenas to which the same is done: what one returns or raises, so does the other."""

    def __init__(self, *sizes: int) -> None:
        self.arenas = [pieces("arena", which).Arena(*sizes) for which in ("pure", "compiled")]

    def __getattr__(self, name: str) -> Any:
        def do(*arguments: Any, **named: Any) -> Any:
            done, other = [self.outcome(getattr(arena, name), *arguments, **named) for arena in self.arenas]
            assert done == other, name
            return done

        return do

    @staticmethod
    def outcome(method: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except (AssertionError, IndexError) as error:
            return type(error)


# Few sizes, so that pages fill; and small records, so that many are freed and stored in one page.
blob_sizes = st.sampled_from((1, 30, 31, 800, 801, 4000, 9_900)) | st.integers(1, RECORD_MAX_BYTES - 40)


class Side(RuleBasedStateMachine):
    """All that an owner does to an arena of a few pages, done to both."""

    def __init__(self) -> None:
        super().__init__()
        self.both = Both(10 * PAGE_BYTES, 6 * PAGE_BYTES)
        self.records: dict[bytes, int] = {}
        self.gone: list[int] = []  # handles of records that are
        self.made = 0

    def key(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(sorted(self.records)))

    def fresh(self, blob_bytes: int) -> tuple[bytes, bytes]:
        self.made += 1
        return b"%d" % self.made * random.Random(self.made).randint(1, 6), random.Random(self.made).randbytes(
            blob_bytes
        )

    @rule(blob_bytes=blob_sizes, count=st.sampled_from((1, 5, 60)))
    def store(self, blob_bytes: int, count: int) -> None:
        for _ in range(count):
            key, blob = self.fresh(blob_bytes)
            handle = self.both.store(key, blob)
            if handle < 0:
                return
            self.records[key] = handle

    @precondition(lambda self: self.records)
    @rule(data=st.data(), blob_bytes=blob_sizes, loosely=st.booleans())
    def replace(self, data: st.DataObject, blob_bytes: int, loosely: bool) -> None:
        key = self.key(data)
        handle = self.both.replace(self.records[key], len(key), bytes(blob_bytes), loosely=loosely)
        if handle >= 0:
            self.records[key] = handle

    @precondition(lambda self: self.records)
    @rule(data=st.data(), blob_bytes=blob_sizes)
    def take_over(self, data: st.DataObject, blob_bytes: int) -> None:
        old = self.key(data)
        key, blob = self.fresh(blob_bytes)
        handle = self.both.take_over(self.records[old], key, blob)
        if handle >= 0:
            del self.records[old]
            self.records[key] = handle

    @precondition(lambda self: self.records)
    @rule(data=st.data(), count=st.sampled_from((1, 5, 40)))
    def free(self, data: st.DataObject, count: int) -> None:
        first = sorted(self.records).index(self.key(data))
        for key in sorted(self.records)[first : first + count]:
            self.gone.append(self.records.pop(key))
            self.both.free(self.gone[-1])

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def a_handle_that_is_out_of_date(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(self.gone))
        if self.both.in_use(self.both.page_of(handle)):
            return  # somebody else may have the chunk by now: to change it is to change that
        for outcome in (
            self.both.replace(handle, 1, b"v"),
            self.both.take_over(handle, b"k", b"v"),
            self.both.free(handle),
            self.both.move(handle),
            self.both.chunk_size(handle),
            self.both.was_written(self.both.page_of(handle), 1),
            self.both.retire(self.both.page_of(handle)),
            self.both.give_back(self.both.page_of(handle), 0),
        ):
            assert outcome is AssertionError

    @rule(size=st.integers(RECORD_MAX_BYTES, RECORD_MAX_BYTES + 100))
    def store_what_is_too_large(self, size: int) -> None:
        assert self.both.store(b"k", bytes(size)) is IndexError

    @rule(pages=st.integers(0, 7), less=st.sampled_from((0, 1)))
    def set_limit(self, pages: int, less: int) -> None:
        for arena in self.both.arenas:
            arena.limit_bytes = max(0, pages * PAGE_BYTES - less)

    @rule()
    def move_together(self) -> None:
        number = self.both.relocatable_page()
        if number is not None:
            for key in self.both.retire(number):
                self.records[key] = self.both.move(self.records[key])
            self.both.give_back(number, 0)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def forget_page(self, data: st.DataObject) -> None:
        number = self.both.page_of(self.records[self.key(data)])
        keys = self.both.retire(number)
        for key in keys:
            self.gone.append(self.records.pop(key))
        self.both.give_back(number, len(keys))

    @rule()
    def clear(self) -> None:
        self.both.clear()
        self.gone += self.records.values()
        self.records.clear()

    @rule()
    def give_back_cleared(self) -> None:
        self.both.give_back_cleared()

    @invariant()
    def all_is_the_same(self) -> None:
        pure, compiled = self.both.arenas
        for name in BOOKS:
            assert getattr(pure, name) == getattr(compiled, name), name
        assert self.both.relocatable_page() is not AssertionError
        for handle in self.records.values():
            self.both.blob(handle)
            self.both.chunk_size(handle)
            number = self.both.page_of(handle)
            for writes in (0, 1, 2, 9, 100):
                self.both.was_written(number, writes)


TestSide = Side.TestCase
TestSide.settings = examples(150)


@examples(300)
@given(
    st.lists(
        st.sampled_from(("store", "free", "replace", "take_over", "move", "blob", "retire", "give_back", "clear"))
    ),
    st.integers(0, 2**32),
)
def test_no_handle_leads_out_of_the_mapping(compiled: Any, steps: list[str], seed: int) -> None:
    """Handles that never were, or whose records are gone: wrong records at worst. What a sanitizer would see."""
    rng = random.Random(seed)
    arena = compiled(3 * PAGE_BYTES, MIB)
    handles = [arena.store(b"key", bytes(size - 4)) for size in rng.choices(SIZE_CLASSES, k=20)]
    for step in steps:
        handle = rng.choice(
            (
                rng.choice(handles),
                rng.getrandbits(18) | rng.getrandbits(14) << 44,
                rng.getrandbits(63),
                -rng.getrandbits(62) - 1,
                (rng.randrange(3) << 16) + rng.choice((0, 60_480, 65_535)) | rng.choice((0, 1, 5_000, 16_383)) << 44,
            )
        )
        key, blob = rng.randbytes(rng.choice((1, 32, 255))), rng.randbytes(rng.choice((1, 100, 9_824)))
        with suppress(AssertionError):
            if step == "store":
                handles.append(arena.store(key, blob))
            elif step == "replace":
                arena.replace(handle, len(key), blob, loosely=rng.random() < 0.5)
            elif step == "take_over":
                arena.take_over(handle, key, blob)
            elif step == "retire":
                arena.retire(rng.randrange(-1, 5))
            elif step == "give_back":
                arena.give_back(rng.randrange(-1, 5), 0)
            elif step == "clear":
                arena.clear()
            else:
                getattr(arena, step)(handle)


@pytest.mark.parametrize("key", [bytes(256), bytes(1000)])
def test_a_key_whose_length_is_no_byte_is_refused_with_nothing_done(compiled: Any, key: bytes) -> None:
    arena = compiled(MIB, MIB)
    with pytest.raises(OverflowError):
        arena.store(key, b"v")
    assert arena.resident_bytes == 0
    handle = arena.store(b"k", bytes(len(key)))
    with pytest.raises(OverflowError):
        arena.take_over(handle, key, b"v")
    assert arena.blob(handle) == bytes(len(key))
