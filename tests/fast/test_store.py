"""app/fast/store.pyx does what WholeStore does, with the same arena and slots: the same entries go, all is counted."""

import random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.storage.arena import PAGE_BYTES, Arena
from app.storage.store import ShortWay, Store, WholeStore
from app.wire.protocol import SLOT_COUNT, slot_of
from tests.storage.test_arena import check_books
from tests.storage.test_store import handles
from tests.support.parts import MIB, examples
from tests.support.pieces import pieces
from tools.bench.chosen import key_in_slot

NUMBERS = ("entries", "evictions", "moves", "allowance_bytes", "spare_bytes", "heap_full", "_hand", "_turns")
BOOKS = ("resident_bytes", "cleared_bytes", "chunk_bytes", "free_chunk_bytes")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("store", "compiled").ShortWay


def test_a_store_takes_the_short_way() -> None:
    for name in ("get", "put", "remove", "_pop_oldest"):
        assert getattr(Store, name) is getattr(ShortWay, name)
    assert ShortWay is pieces("store", "compiled").ShortWay


def test_a_slot_that_is_none_is_refused() -> None:
    store = Store(Arena(MIB, MIB), evict=True, on_allowance_used=lambda: None)
    for number in (SLOT_COUNT, 1 << 40):
        with pytest.raises(IndexError):
            store.put(number, b"k", b"v")


@pytest.mark.parametrize("key", ["k", None, bytearray(b"k"), memoryview(b"k")])
def test_what_is_no_bytes_is_refused(key: Any) -> None:
    store = Store(Arena(MIB, MIB), evict=True, on_allowance_used=lambda: None)
    for do in (store.get, store.remove, lambda number, key: store.put(number, key, b"v")):
        with pytest.raises(TypeError):
            do(0, key)
    with pytest.raises(TypeError):
        store.put(0, b"k", key)
    assert len(store) == 0


class Governed:
    """A store whose governor gives what it is told to."""

    def __init__(self, kind: type[WholeStore], *, evict: bool) -> None:
        self.arena = Arena(64 * MIB, 12 * PAGE_BYTES)
        self.asked = self.joined = 0
        self.allowance_bytes = 1 << 40
        self.store = kind(self.arena, evict=evict, on_allowance_used=self.look, on_freed=self.join)
        self.store.entry_heap_bytes = 100

    def look(self) -> None:
        self.asked += 1
        self.store.allowance_bytes = self.allowance_bytes

    def join(self) -> None:
        self.joined += 1

    def told(self) -> list[Any]:
        numbers = [getattr(self.store, name) for name in NUMBERS] + [getattr(self.arena, name) for name in BOOKS]
        return [*numbers, self.asked, self.joined, handles(self.store)]


class StoreSide(RuleBasedStateMachine):
    """All that happens to a store, to one with the compiled short way and one without."""

    evicts = True

    def __init__(self) -> None:
        super().__init__()
        self.both = [Governed(kind, evict=self.evicts) for kind in (WholeStore, Store)]
        self.made = 0

    def do(self, name: str, *arguments: Any) -> Any:
        done, other = [getattr(governed.store, name)(*arguments) for governed in self.both]
        assert done == other, name
        return done

    @rule(
        blob_bytes=st.sampled_from((1, 60, 61, 900, 3_000, 9_900)) | st.integers(1, 9_900),
        count=st.sampled_from((1, 5, 200)),
        crowded=st.booleans(),
    )
    def put_new(self, blob_bytes: int, count: int, crowded: bool) -> None:
        for _ in range(count):
            self.made += 1
            key = key_in_slot(b"%d" % self.made, 9) if crowded else b"%d" % self.made
            self.do("put", slot_of(key), key, self.made.to_bytes(4, "big") * (blob_bytes // 4 + 1))

    @rule(seed=st.integers(0, 2**32), blob_bytes=st.sampled_from((4, 64, 65, 900)), count=st.sampled_from((1, 20)))
    def put_again(self, seed: int, blob_bytes: int, count: int) -> None:
        for key in self.some(seed, count):
            self.do("put", slot_of(key), key, bytes(blob_bytes))

    @rule(seed=st.integers(0, 2**32), count=st.sampled_from((1, 20)), name=st.sampled_from(("get", "remove", "peek")))
    def get_or_remove(self, seed: int, count: int, name: str) -> None:
        for key in [*self.some(seed, count), b"no such key"]:
            self.do(name, slot_of(key), key)

    def some(self, seed: int, count: int) -> list[bytes]:
        keys = sorted(key for number in range(SLOT_COUNT) for key in self.both[0].store.keys(number))
        return random.Random(seed).sample(keys, min(count, len(keys)))

    @rule(first=st.integers(0, SLOT_COUNT), count=st.sampled_from((1, 100, SLOT_COUNT)))
    def wipe(self, first: int, count: int) -> None:
        self.do("wipe", range(SLOT_COUNT)[first : first + count])

    @rule(times=st.integers(1, 100))
    def drain(self, times: int) -> None:
        for _ in range(times):
            self.do("drain_wiped")

    @rule(pages=st.integers(1, 16), budget=st.integers(1, 400))
    def shrink(self, pages: int, budget: int) -> None:
        for governed in self.both:
            governed.arena.limit_bytes = pages * PAGE_BYTES
        self.do("shrink", budget)

    @rule(
        is_full=st.booleans(),
        is_over=st.booleans(),
        allowance_bytes=st.sampled_from((0, 1_000, 1 << 40)),
        spare_bytes=st.sampled_from((-(4 << 20), 0, 10_000, 1 << 40)),
    )
    def govern(self, is_full: bool, is_over: bool, allowance_bytes: int, spare_bytes: int) -> None:
        for governed in self.both:
            store = governed.store
            store.heap_full, store.heap_over = is_full, is_full and is_over
            governed.allowance_bytes = store.allowance_bytes = allowance_bytes
            store.spare_bytes = spare_bytes

    @invariant()
    def all_is_the_same(self) -> None:
        whole, short = self.both
        assert whole.told() == short.told()
        check_books(short.arena, handles(short.store))


class NoEvictionSide(StoreSide):
    evicts = False


TestStoreSide = StoreSide.TestCase
TestStoreSide.settings = examples(60)
TestNoEvictionSide = NoEvictionSide.TestCase
TestNoEvictionSide.settings = examples(30)
