"""What mutations do to store and reply memory: executed once, refused and for how long, and applied at copies."""

from typing import Any

import pytest

from app.storage.arena import Arena
from app.storage.mutate import (
    BUSY,
    BUSY_WAIT_MS,
    DELETE,
    HINDRANCES,
    NOTE,
    REPLIES_FULL,
    REPLY_BYTES,
    ROOM_WAIT_MS,
    SET,
    SPEND_BYTES,
    STORE_BUSY,
    STORE_FULL,
    WIPE,
    Mutations,
    change_of,
)
from app.storage.replies import ReplyMemory
from app.wire.protocol import (
    KEY_DNE_ERR,
    NO_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    WIPEOUT,
    slot_of,
)
from tests.support.parts import MIB, make_store

KEY = b"key"
SLOT = slot_of(KEY)
ONE, TWO = b"1" * 16, b"2" * 16
BIG = bytes(10_000)


class Copy:
    """A store with its reply memory, and what mutates them."""

    def __init__(self, *, evict: bool = True, arena_bytes: int = MIB, replies_bytes: int = MIB) -> None:
        self.arena = Arena(arena_bytes, arena_bytes)
        self.store = make_store(self.arena, evict=evict)
        self.replies = ReplyMemory(6.0, replies_bytes)
        self.mutations = Mutations(self.store, self.replies)

    def do(
        self, command: int, message_id: bytes, blob: bytes = b"blob", *, key: bytes = KEY, hindrances: int = 0
    ) -> int:
        blob = blob if command == PUT else b""
        return self.mutations.execute(command, slot_of(key), key, blob, message_id, hindrances)

    def wipe(self, message_id: bytes, *slots: int, hindrances: int = 0) -> int:
        code, wiped = self.mutations.wipe(slots, message_id, hindrances)
        assert set(wiped) <= set(slots) if code == NO_ERR else not wiped
        return code

    def remembered(self) -> list[tuple[bytes, int, int]]:
        return self.replies.scan(0, self.replies.bucket_count, (1 << SLOT_COUNT) - 1)

    def get(self, key: bytes = KEY) -> bytes | None:
        return self.store.peek(slot_of(key), key)


@pytest.fixture
def copy() -> Copy:
    return Copy()


def test_what_is_remembered_is_counted_so_that_the_process_is_measured_in_time(copy: Copy) -> None:
    """Of entries that are only changed, or keep nothing on the heap, replies are all that grows."""
    spent = []
    copy.store.spend = spent.append  # type: ignore[method-assign]
    replies = SPEND_BYTES // REPLY_BYTES
    for number in range(replies - 1):
        copy.do(PUT, b"%016d" % number)
    copy.do(PUT, b"%016d" % 0)  # a retry
    assert spent == []
    copy.do(REMOVE, TWO)
    assert spent == [SPEND_BYTES]
    copy.do(PUT, b"3" * 16)
    copy.wipe(b"4" * 16, 1, 2, 3)
    assert spent[1:] == [4 * REPLY_BYTES]


def test_without_a_word_of_other_nodes_nothing_hinders(copy: Copy) -> None:
    assert copy.mutations.execute(PUT, SLOT, KEY, b"blob", ONE) == NO_ERR
    assert copy.mutations.wipe([SLOT], TWO) == (NO_ERR, [SLOT])


def full_copy(*, small: bool = False) -> Copy:
    """One that may not evict, holds a small value of KEY and has no room for BIG; small: nor for anything."""
    full = Copy(evict=False)
    full.store.put(SLOT, KEY, b"before")
    numbers = iter(range(1 << 30))
    while full.store.put(slot_of(key := b"%07d" % next(numbers)), key, BIG):
        pass
    if small:
        while full.store.put(slot_of(key := b"%07d" % next(numbers)), key, b"."):
            pass
    return full


# --- once -----------------------------------------------------------------------------------------------------------


def test_a_put_stores_and_is_remembered_with_its_slot(copy: Copy) -> None:
    assert copy.do(PUT, ONE) == NO_ERR
    assert copy.get() == b"blob"
    assert copy.remembered() == [(ONE, SLOT, NO_ERR)]


@pytest.mark.parametrize(("was_there", "code"), [(True, NO_ERR), (False, KEY_DNE_ERR)])
def test_a_remove_removes_and_is_remembered(copy: Copy, was_there: bool, code: int) -> None:
    if was_there:
        copy.store.put(SLOT, KEY, b"blob")
    assert copy.do(REMOVE, ONE) == code
    assert copy.get() is None
    assert copy.remembered() == [(ONE, SLOT, code)]


def test_a_wipeout_wipes_its_slots_and_is_remembered_with_each(copy: Copy) -> None:
    keys = [b"%d" % n for n in range(50)]
    for key in keys:
        copy.store.put(slot_of(key), key, b"blob")
    wiped = {slot_of(key) for key in keys[:10]}
    assert copy.wipe(ONE, *wiped) == NO_ERR
    assert [key for key in keys if copy.get(key) is not None] == [key for key in keys if slot_of(key) not in wiped]
    assert sorted(copy.remembered()) == [(ONE, slot, NO_ERR) for slot in sorted(wiped)]


def test_a_wipeout_that_is_tried_again_wipes_what_it_has_not_and_nothing_twice(copy: Copy) -> None:
    """Slots have come and gone meanwhile, and were written to."""
    copy.wipe(ONE, SLOT, SLOT + 1)
    copy.replies.forget_slots(1 << SLOT + 1)
    copy.do(PUT, TWO)
    copy.store.put(SLOT + 2, b"k", b"blob")
    assert copy.mutations.wipe((SLOT, SLOT + 2), ONE) == (NO_ERR, [SLOT + 2])
    assert copy.get() == b"blob"
    assert copy.store.peek(SLOT + 2, b"k") is None
    assert copy.wipe(ONE, SLOT, SLOT + 2) == ~NO_ERR


@pytest.mark.parametrize("hindrances", [0, HINDRANCES, BUSY])
@pytest.mark.parametrize("full", [False, True])
def test_what_was_executed_is_told_again_and_does_nothing(copy: Copy, hindrances: int, full: bool) -> None:
    copy.do(PUT, ONE, b"one")
    copy.do(REMOVE, TWO, key=b"other")
    copy.wipe(b"w" * 16, SLOT)
    copy.do(PUT, b"3" * 16, b"later")
    before = copy.remembered()
    copy.replies.full = full
    assert copy.do(PUT, ONE, b"one", hindrances=hindrances) == ~NO_ERR
    assert copy.do(REMOVE, TWO, key=b"other", hindrances=hindrances) == ~KEY_DNE_ERR
    assert copy.wipe(b"w" * 16, SLOT, hindrances=hindrances) == ~NO_ERR
    assert (copy.get(), copy.remembered()) == (b"later", before)


def test_an_unknown_command_is_our_fault(copy: Copy) -> None:
    with pytest.raises(AssertionError):
        copy.do(WIPEOUT, ONE)


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [PUT, REMOVE, WIPEOUT])
@pytest.mark.parametrize("hindrance", [REPLIES_FULL, BUSY, REPLIES_FULL | STORE_FULL, BUSY | STORE_BUSY])
def test_where_others_are_hindered_nothing_is_done(copy: Copy, command: int, hindrance: int) -> None:
    copy.store.put(SLOT, KEY, b"before")
    if command == WIPEOUT:
        assert copy.wipe(ONE, SLOT, hindrances=hindrance) == SYS_OVERLOAD_ERR
    else:
        assert copy.do(command, ONE, hindrances=hindrance) == SYS_OVERLOAD_ERR
    assert copy.mutations.wait_ms == BUSY_WAIT_MS
    assert (copy.get(), copy.remembered()) == (b"before", [])


@pytest.mark.parametrize("command", [PUT, REMOVE, WIPEOUT])
@pytest.mark.parametrize("hindrance", [0, BUSY])
def test_where_no_answer_more_can_be_remembered_nothing_is_done(command: int, hindrance: int) -> None:
    copy = Copy(replies_bytes=20_000)
    copy.store.put(SLOT, KEY, b"before")
    while not copy.replies.full:
        copy.do(REMOVE, b"%016d" % len(copy.replies), key=b"other")
    before = copy.remembered()
    if command == WIPEOUT:
        assert copy.wipe(ONE, SLOT, hindrances=hindrance) == SYS_OVERLOAD_ERR
    else:
        assert copy.do(command, ONE, hindrances=hindrance) == SYS_OVERLOAD_ERR
    assert copy.mutations.wait_ms == copy.replies.wait_ms > BUSY_WAIT_MS
    assert (copy.get(), copy.remembered()) == (b"before", before)


@pytest.mark.parametrize("hindrance", [STORE_FULL, STORE_BUSY, STORE_FULL | STORE_BUSY])
def test_no_room_elsewhere_hinders_neither_removing_nor_wiping(copy: Copy, hindrance: int) -> None:
    copy.store.put(SLOT, KEY, b"before")
    assert copy.do(REMOVE, ONE, hindrances=hindrance) == NO_ERR
    assert copy.wipe(TWO, SLOT, hindrances=hindrance) == NO_ERR


# --- no room --------------------------------------------------------------------------------------------------------


def test_a_full_store_that_may_not_evict_has_no_space_and_remembers_that() -> None:
    full = full_copy()
    assert full.do(PUT, ONE, BIG) == NO_SPC_ERR
    assert full.get() == b"before"
    full.store.wipe(range(SLOT_COUNT))
    assert full.do(PUT, ONE, BIG) == ~NO_SPC_ERR
    assert full.do(PUT, TWO, BIG) == NO_ERR


def test_where_another_node_is_full_a_put_has_no_space_and_changes_nothing() -> None:
    """What may not evict here may not evict there."""
    copy = Copy(evict=False)
    copy.store.put(SLOT, KEY, b"before")
    assert copy.do(PUT, ONE, hindrances=STORE_FULL) == NO_SPC_ERR
    assert copy.get() == b"before"
    assert copy.remembered() == [(ONE, SLOT, NO_SPC_ERR)]


@pytest.mark.parametrize("hindrance", [STORE_BUSY, STORE_BUSY | STORE_FULL])
@pytest.mark.parametrize("evict", [True, False])
def test_where_another_node_is_making_room_a_put_is_refused_for_a_while(evict: bool, hindrance: int) -> None:
    copy = Copy(evict=evict)
    assert copy.do(PUT, ONE, hindrances=hindrance) == SYS_OVERLOAD_ERR
    assert copy.mutations.wait_ms == ROOM_WAIT_MS
    assert (copy.get(), copy.remembered()) == (None, [])


def test_a_store_that_evicts_but_finds_no_room_now_is_overloaded(copy: Copy) -> None:
    copy.arena.limit_bytes = 0
    assert copy.do(PUT, ONE) == SYS_OVERLOAD_ERR
    assert copy.mutations.wait_ms == ROOM_WAIT_MS
    assert copy.remembered() == []
    copy.arena.limit_bytes = MIB
    assert copy.do(PUT, ONE) == NO_ERR


def test_a_store_that_is_still_wiping_is_overloaded_not_full() -> None:
    """A remembered NO_SPC_ERR would be told even when there is room again."""
    copy = Copy(evict=False, arena_bytes=2 * MIB)
    numbers = iter(range(1 << 30))
    while copy.store.put(slot_of(key := b"%07d" % next(numbers)), key, bytes(30)):
        pass
    assert copy.wipe(TWO, *range(0, SLOT_COUNT, 2)) == NO_ERR
    assert copy.store.wiping
    assert copy.do(PUT, ONE, BIG) == SYS_OVERLOAD_ERR
    assert copy.mutations.wait_ms == ROOM_WAIT_MS
    assert copy.replies.get(ONE) is None
    while copy.store.drain_wiped():
        pass
    assert copy.do(PUT, ONE, BIG) == NO_ERR


# --- at copies ------------------------------------------------------------------------------------------------------


def test_changes_that_another_node_has_ordered(copy: Copy) -> None:
    assert copy.mutations.apply(SET, SLOT, KEY, b"blob")
    assert copy.get() == b"blob"
    assert copy.mutations.apply(NOTE, SLOT, b"", b"")
    assert copy.get() == b"blob"
    assert copy.mutations.apply(DELETE, SLOT, KEY, b"")
    assert copy.get() is None
    assert copy.mutations.apply(DELETE, SLOT, KEY, b""), "it was evicted here"
    other = next(b"%d" % n for n in range(99) if slot_of(b"%d" % n) != SLOT)
    for key in (KEY, other):
        copy.mutations.apply(SET, slot_of(key), key, b"blob")
    assert copy.mutations.apply(WIPE, SLOT, b"", b"")
    assert (copy.get(), copy.get(other)) == (None, b"blob")
    assert copy.remembered() == []


def test_an_unknown_change_is_our_fault(copy: Copy) -> None:
    with pytest.raises(AssertionError):
        copy.mutations.apply(5, SLOT, KEY, b"")


def test_what_does_not_fit_at_a_copy_that_evicts_is_as_good_as_evicted(copy: Copy) -> None:
    """But the value before must not stay."""

    class Full:
        evicts = True
        remove = copy.store.remove

        def put(self, number: int, key: bytes, blob: bytes) -> bool:
            return False

    copy.store.put(SLOT, KEY, b"before")
    full: Any = Full()
    assert Mutations(full, copy.replies).apply(SET, SLOT, KEY, b"blob")
    assert copy.get() is None


def test_what_does_not_fit_at_a_copy_that_may_not_evict_changes_nothing() -> None:
    full = full_copy()
    assert full.get() == b"before"
    assert not full.mutations.apply(SET, SLOT, KEY, BIG)
    assert full.get() == b"before"


def test_what_a_node_tells_of_itself() -> None:
    roomy = Copy(evict=False)
    assert roomy.mutations.hindrances(1) == 0
    room = roomy.store.room_bytes
    assert roomy.mutations.hindrances(room) == 0
    assert roomy.mutations.hindrances(room + 1) == STORE_FULL
    roomy.replies.full = True
    assert roomy.mutations.hindrances(1) == REPLIES_FULL
    assert roomy.mutations.hindrances(room + 1) == REPLIES_FULL | STORE_FULL


def test_a_store_that_evicts_is_never_full(copy: Copy) -> None:
    assert copy.mutations.hindrances(1 << 40) == 0
    copy.replies.full = True
    assert copy.mutations.hindrances(1 << 40) == REPLIES_FULL


def test_a_full_store_that_is_wiping_says_that_room_is_being_made() -> None:
    full = full_copy(small=True)
    room = full.store.room_bytes
    full.store.wipe(range(0, SLOT_COUNT, 2))
    assert full.store.wiping
    assert full.mutations.hindrances(full.store.room_bytes + 1) == STORE_BUSY
    assert full.store.room_bytes >= room


@pytest.mark.parametrize(
    ("command", "code", "change"),
    [
        (PUT, NO_ERR, SET),
        (PUT, NO_SPC_ERR, NOTE),
        (REMOVE, NO_ERR, DELETE),
        (REMOVE, KEY_DNE_ERR, DELETE),
        (WIPEOUT, NO_ERR, WIPE),
    ],
)
def test_what_a_mutation_comes_down_to(command: int, code: int, change: int) -> None:
    assert change_of(command, code) == change
