"""Copies gathered beside whole ones: what they hold, what they count, and that they stay within their bound."""

from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import frames
from app.cluster.replication.frames import OpFields, Patch
from app.cluster.replication.staging import ENTRY_BYTES, REPLY_BYTES, Staging
from app.cluster.view import Member, View
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import NO_ERR, SLOT_COUNT, slot_of
from tests.cluster.replication.machines import Machine, Wires, view
from tests.cluster.replication.parts import entries_of
from tests.storage.contents import entries

KEYS = [b"a", b"bb", b"ccc"]
BLOBS = [b"", b"x", b"x" * 40]


def store_of(entries: dict[bytes, bytes]) -> Store:
    store = Store(Arena(64 * PAGE_BYTES, 64 * PAGE_BYTES), evict=True, on_allowance_used=lambda: None)
    store.allowance_bytes = 1 << 40
    for key, blob in entries.items():
        store.put(7, key, blob)
    return store


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.sampled_from(BLOBS)),
        st.tuples(st.sampled_from([frames.PUT_OP, frames.REMOVE_OP]), st.sampled_from(KEYS), st.sampled_from(BLOBS)),
        st.tuples(st.just(frames.WIPE_OP), st.just(b""), st.just(b"")),
        st.tuples(st.just("remember"), st.sampled_from(KEYS), st.just(b"")),
    ),
    max_size=30,
)


@given(CHANGES, st.dictionaries(st.sampled_from(KEYS), st.sampled_from(BLOBS)), st.lists(st.sampled_from(KEYS)))
def test_a_patch_replaces_what_it_names_and_counts_it(
    changes: list[tuple[object, bytes, bytes]], placed: dict[bytes, bytes], named: list[bytes]
) -> None:
    store = store_of(placed)
    replies = ReplyMemory(6.0, 1 << 20, buckets=16)
    for name in (b"undone", b"other"):
        replies.add(name, 7, NO_ERR)
    staging = Staging(store, 7, Patch(7, 1, (1, 1), named, [b"undone"]))
    model = {key: blob for key, blob in placed.items() if key not in named}
    size = staging.size_bytes
    for kind, key, blob in changes:
        if kind == "put":
            size += staging.put(key, blob)
            model[key] = blob
        elif kind == "remember":
            size += staging.remember(key, NO_ERR)
        else:
            assert isinstance(kind, int)
            size += staging.apply(OpFields(kind, 7, NO_ERR, b"", key, 1, 1, blob if kind == frames.PUT_OP else b""))
            if kind == frames.PUT_OP:
                model[key] = blob
            elif kind == frames.REMOVE_OP:
                model.pop(key, None)
            else:
                model.clear()
    kept = sum(len(blob) for blob in staging.entries.values() if blob is not None)
    tables = sum(len(key) + ENTRY_BYTES for key in (*staging.entries, *(staging.removed or ())))
    remembered = sum(len(message_id) + REPLY_BYTES for message_id in (*staging.replies, b"undone"))
    assert staging.size_bytes == size == kept + tables + remembered
    staging.commit(replies)
    for key, gathered in staging.entries.items():
        if gathered is not None:
            store.put(7, key, gathered)
    assert entries(store, 7) == model
    assert replies.get(b"undone") is None
    assert replies.get(b"other") == NO_ERR


def test_of_a_key_that_came_and_went_only_that_it_goes_is_counted() -> None:
    staging = Staging(store_of({}), 7, Patch(7, 1, (1, 1), [b"a"], []))
    before = staging.size_bytes
    grown = staging.apply(OpFields(frames.PUT_OP, 7, NO_ERR, b"", b"bb", 1, 1, b"x" * 40))
    grown += staging.apply(OpFields(frames.REMOVE_OP, 7, NO_ERR, b"", b"bb", 1, 2, b""))
    assert staging.removed == {b"a", b"bb"}
    assert grown == staging.size_bytes - before == len(b"bb") + ENTRY_BYTES


def test_the_store_is_told_of_what_is_gathered_and_not_of_what_goes() -> None:
    store = store_of({})
    spent: list[int] = []
    store.spend = spent.append  # type: ignore[method-assign]
    staging = Staging(store, 7, Patch(7, 1, (1, 1), [b"a", b"bb"], [b"id"]))
    assert sum(spent) == staging.size_bytes == 3 + 2 * ENTRY_BYTES + 2 + REPLY_BYTES
    spent.clear()
    assert staging.put(b"a", b"value") == sum(spent) == 1 + 5 + ENTRY_BYTES
    spent.clear()
    assert staging.put(b"a", b"val") == -2
    assert sum(spent) == 0
    assert staging.remember(b"new", NO_ERR) == sum(spent) == 3 + REPLY_BYTES
    spent.clear()
    assert staging.remember(b"new", NO_ERR) == 0
    assert sum(spent) == 0


@given(CHANGES, st.dictionaries(st.sampled_from(KEYS), st.sampled_from(BLOBS)))
def test_it_holds_what_was_sent_and_counts_it(changes: list[tuple[object, bytes, bytes]], placed: dict) -> None:
    staging = Staging(store_of(placed), 7)
    model: dict[bytes, bytes] = {}
    size = 0
    for kind, key, blob in changes:
        if kind == "put":
            size += staging.put(key, blob)
            model[key] = blob
        elif kind == "remember":
            size += staging.remember(key, NO_ERR)
        else:
            assert isinstance(kind, int)
            size += staging.apply(OpFields(kind, 7, NO_ERR, b"", key, 1, 1, blob if kind == frames.PUT_OP else b""))
            if kind == frames.PUT_OP:
                model[key] = blob
            elif kind == frames.REMOVE_OP:
                model.pop(key, None)
            else:
                model.clear()
    assert {key: placed[key] if blob is None else blob for key, blob in staging.entries.items()} == model
    kept = sum(len(blob) for blob in staging.entries.values() if blob is not None)
    tables = sum(len(key) + ENTRY_BYTES for key in staging.entries)
    replies = sum(len(message_id) + REPLY_BYTES for message_id in staging.replies)
    assert staging.size_bytes == size == kept + tables + replies


def fill(machine: Machine, wires: Wires, count: int, blob: bytes) -> None:
    for number in range(count):
        key = b"key%d" % number
        machine.put(blob, b"id" + key, key)
    wires.run()


def relink(one: Machine, other: Machine) -> None:
    for here, there in ((one, other), (other, one)):
        here.core.link_closed(there.address)
    for here, there in ((one, other), (other, one)):
        here.core.link_up(there.address, 1.0)


def astray(machine: Machine) -> None:
    """Its copies are whole, and not where any primary wants them."""
    machine.core._shared.positions[:] = [(9, 9)] * SLOT_COUNT


def all_entries(machine: Machine) -> list[dict[bytes, bytes]]:
    return [entries_of(machine, slot) for slot in range(SLOT_COUNT)]


def test_what_is_in_place_already_is_not_gathered_again() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    fill(a, wires, 100, bytes(1000))
    astray(b)
    b.store.remove(slot_of(b"key1"), b"key1")
    b.store.put(slot_of(b"key2"), b"key2", b"other")
    b.store.put(slot_of(b"stray"), b"stray", b"of no primary's")
    most = 0
    spend = b.store.spend

    def look(size_bytes: int) -> None:
        nonlocal most
        spend(size_bytes)
        most = max(most, b.core.staged_bytes)

    b.store.spend = look  # type: ignore[method-assign]
    relink(a, b)
    wires.run()
    assert all_entries(a) == all_entries(b)
    assert b.replies.get(b"idkey5") == NO_ERR
    assert 0 < most < 20_000  # of 100,000
    assert b.core.staged_bytes == 0


def test_past_the_bound_slots_take_turns() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    fill(a, wires, 100, bytes(1000))
    astray(b)
    for slot in range(SLOT_COUNT):
        b.store.wipe((slot,))
    follower = b.core._follower
    follower.staging_soft_bytes, follower.staging_max_bytes = 1000, 6000
    relink(a, b)
    for step in range(40):
        wires.run()
        assert all(position is not None for position in b.core._shared.positions)
        for machine in (a, b):
            machine.core.tick(1.0 + step / 10)
    assert b.core.faults["staging full"] > 0
    assert b.lost == []
    assert all_entries(a) == all_entries(b)
    assert b.replies.get(b"idkey5") == NO_ERR
    assert b.core.staged_bytes == 0
    assert all(b.core._shared.positions[slot] == a.core._shared.positions[slot] for slot in range(SLOT_COUNT))


def test_past_the_soft_bound_one_primary_at_a_time_gets_credit() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    primaries = tuple("ac"[slot % 2] for slot in range(SLOT_COUNT))
    table = tuple((primary, "b") for primary in primaries)
    members = tuple(Member(address, 1) for address in "abc")
    wires.enter(View(1, 1, members, primaries, (("b",),) * SLOT_COUNT, table))
    for number in range(600):
        key = b"key%d" % number
        (a, c)[slot_of(key) % 2].put(bytes(2000), key, key)
    wires.run()
    astray(b)
    b.store.wipe(range(SLOT_COUNT))
    follower = b.core._follower
    follower.staging_soft_bytes = 20_000
    most = 0
    spend = b.store.spend

    def look(size_bytes: int) -> None:
        nonlocal most
        spend(size_bytes)
        most = max(most, len({session.primary for session in follower.sessions.values() if session.staging}))

    b.store.spend = look  # type: ignore[method-assign]
    held = []
    give = follower._give_credit

    def counted() -> None:
        give()
        held.append(len(follower._owed))

    follower._give_credit = counted  # type: ignore[method-assign]
    relink(a, b)
    relink(c, b)
    wires.run()
    for step in range(200):  # the rate allows so much a tick
        for machine in (a, b, c):
            machine.core.tick(1.0 + step / 10)
        wires.run()
    assert most == 2  # both had begun
    assert max(held) == 1  # and one had to wait for the other
    assert not follower._owed
    for slot in range(SLOT_COUNT):
        assert entries_of(b, slot) == entries_of((a, c)[slot % 2], slot)
