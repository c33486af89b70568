"""The last writes of copies, and copies that are brought to where their primary is by them."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import frames
from app.cluster.replication.recent import RECENT_MAX, Recent, Stretch
from app.cluster.replication.writes import WAITS
from app.storage.mutate import DELETE, NOTE, SET, WIPE
from app.wire.protocol import NO_ERR, PUT, REMOVE, SLOT_COUNT, slot_of
from tests.cluster.replication.machines import KEY, SLOT, Machine, Wires, view
from tests.cluster.replication.parts import entries_of
from tests.support.pieces import pieces

KEYS = [key for n in range(3000) if slot_of(key := b"%d" % n) == SLOT][:3]


class Kept:
    """What is kept of a slot whose copy goes from position to position."""

    def __init__(self, count: int = 100) -> None:
        self.spent = 0
        self.recent = Recent(self._spend, count)

    def _spend(self, size_bytes: int) -> None:
        self.spent += size_bytes

    def write(self, before: frames.Position, after: frames.Position, kind: int = SET, slot: int = 1) -> None:
        name = b"%d %d" % after
        key = b"" if kind in (WIPE, NOTE) else b"k" + name
        self.recent.note((slot, kind, before, after, key, b"m" + name))

    def stretches(self, position: frames.Position, slot: int = 1) -> list[Stretch]:
        return self.recent.stretches({slot: position})[slot]

    def since(self, at: frames.Position, position: frames.Position) -> object:
        return self.recent.since({1: at}, {1: position}).get(1)


def test_it_goes_back_from_a_position_from_write_to_write() -> None:
    kept = Kept()
    kept.write((1, 3), (1, 4))
    kept.write((1, 7), (2, 8), slot=2)
    kept.write((1, 4), (4, 5), DELETE)
    kept.write((4, 5), (4, 6), NOTE)
    assert kept.stretches((4, 6)) == [(4, 5, 6), (1, 3, 4)]
    assert kept.since((4, 6), (4, 6)) == ([], [])
    assert kept.since((4, 6), (1, 4)) == ([b"k4 5"], [b"m4 6", b"m4 5"])
    assert kept.since((4, 6), (1, 3)) == ([b"k4 5", b"k1 4"], [b"m4 6", b"m4 5", b"m1 4"])
    assert kept.since((4, 6), (1, 2)) is None


def test_several_slots_are_asked_for_at_once() -> None:
    kept = Kept()
    kept.write((1, 3), (1, 4))
    kept.write((1, 7), (2, 8), slot=2)
    kept.write((1, 4), (1, 5))
    at = {1: (1, 5), 2: (2, 8), 3: (1, 1)}
    assert kept.recent.stretches(at) == {1: [(1, 3, 5)], 2: [(2, 8, 8), (1, 7, 7)], 3: [(1, 1, 1)]}
    positions = {1: (1, 4), 2: (1, 7), 3: (1, 0)}
    assert kept.recent.since(at, positions) == {1: ([b"k1 5"], [b"m1 5"]), 2: ([b"k2 8"], [b"m2 8"])}
    others: dict[int, list[Stretch]] = {1: [(1, 0, 4)], 2: [(2, 9, 9), (1, 7, 7)], 3: [(1, 1, 1)]}
    assert kept.recent.met(at, others) == {1: (1, 4), 2: (1, 7), 3: (1, 1)}
    assert kept.recent.met(at, {1: [(1, 0, 2)], 2: [], 3: [(2, 1, 1)]}) == {}
    assert kept.recent.met(at, {1: [(1, 0, 9)], 2: [(1, 0, 9), (2, 0, 9)], 3: []}) == {1: (1, 5), 2: (2, 8)}


def test_each_key_is_told_once_the_latest_first() -> None:
    kept = Kept()
    for seq, key in enumerate((b"a", b"b", b"a")):
        kept.recent.note((1, SET, (1, seq), (1, seq + 1), key, b"m"))
    assert kept.since((1, 3), (1, 0)) == ([b"a", b"b"], [b"m"])


def test_a_branch_that_was_given_up_is_passed_over() -> None:
    kept = Kept()
    kept.write((1, 3), (1, 4))
    kept.write((1, 4), (1, 5))
    kept.write((1, 4), (2, 5))
    kept.write((2, 5), (2, 6))
    assert kept.stretches((2, 6)) == [(2, 5, 6), (1, 3, 4)]
    assert kept.stretches((1, 5)) == [(1, 3, 5)]


def test_nothing_is_known_of_what_was_before_a_wipe() -> None:
    kept = Kept()
    kept.write((1, 3), (1, 4))
    kept.write((1, 4), (1, 5), WIPE)
    kept.write((1, 5), (1, 6))
    assert kept.stretches((1, 6)) == [(1, 5, 6)]
    assert kept.since((1, 6), (1, 5)) == ([b"k1 6"], [b"m1 6"])
    assert kept.since((1, 6), (1, 4)) is None
    assert kept.recent.met({1: (1, 6)}, {1: [(1, 0, 4)]}) == {}


def test_so_many_are_kept_and_their_bytes_are_told_once() -> None:
    kept = Kept(count=3)
    for seq in range(6):
        kept.write((1, seq), (1, seq + 1))
        kept.recent.settle()
    assert kept.stretches((1, 6)) == [(1, 3, 6)]
    assert kept.spent == 3 * Recent.record_bytes
    kept.recent.clear()
    assert kept.stretches((1, 6)) == [(1, 6, 6)]


def test_the_latest_stretches_are_told() -> None:
    kept = Kept()
    for term in range(1, 9):
        kept.write((term - 1, term - 1), (term, term))
    assert kept.stretches((8, 8)) == [(8, 8, 8), (7, 7, 7), (6, 6, 6), (5, 5, 5)]


@pytest.mark.parametrize("which", ["pure", "compiled"])
def test_a_walk_takes_little_memory_but_for_what_it_tells(which: str) -> None:
    """All positions and names of 16,384 writes, as objects, were 4 MiB that nobody had made room for."""
    recent = pieces("recent", which).Recent(lambda size_bytes: None)
    for number in range(RECENT_MAX):
        slot, seq = number % 64, number // 64
        recent.note((slot, SET, (1, seq), (1, seq + 1), b"key of %08d" % number, b"messageID of %08d" % number))
    at = dict.fromkeys(range(64), (1, RECENT_MAX // 64))
    unknown = dict.fromkeys(range(64), (2, 1))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert not recent.met(at, {slot: [(*position, 1)] for slot, position in unknown.items()})
        assert len(recent.stretches(at)) == 64
        assert not recent.since(at, unknown)
        _, most = tracemalloc.get_traced_memory()
        pointers = 2 * 8 * RECENT_MAX  # Python's own collects what it has as objects anyway, until it knows
        assert most - before < 64 * 1024 + 2 * pointers * (which == "pure")
    finally:
        tracemalloc.stop()


class Cluster:
    """a leads, b and c follow; then c leads, and what b has written since is no more."""

    def __init__(self) -> None:
        self.machines = self.a, self.b, self.c = [Machine(name) for name in "abc"]
        self.wires = Wires(*self.machines)
        self.wires.enter(view(1, "a", "bc"))
        self.sent: list[int] = []
        self._number = 0
        self.ids: list[bytes] = []

    def write(self, machine: Machine, change: tuple[str, bytes, bytes]) -> None:
        what, key, blob = change
        message_id = b"m%d" % (number := len(self.ids))
        self.ids.append(message_id)
        if what == "wipe":
            assert machine.core.wipe([SLOT], message_id, number) in (WAITS, NO_ERR)
        else:
            command = PUT if what == "put" else REMOVE
            machine.core.execute(command, SLOT, key, blob if what == "put" else b"", message_id, 0)
        self.wires.run()

    def succeed(self) -> None:
        """c becomes primary; b, which it can't reach yet, is its learner."""
        b, c = self.b.core, self.c.core
        for one, other in ((b, "c"), (c, "b")):
            one.link_closed(other)
        self.wires.machines.pop("a")
        self.wires.held.clear()
        self.wires.enter(view(2, "c", learners="b"))

    def meet(self) -> list[int]:
        """c and b can reach each other; the kinds of what b is sent."""
        kinds = []
        on_frame = self.b.core.on_frame

        def noted(peer: str, kind: int, body: bytes, now: float) -> None:
            kinds.append(kind)
            on_frame(peer, kind, body, now)

        self.b.core.on_frame = noted  # type: ignore[method-assign]
        self.c.core.link_up("b", 1.0)
        self.b.core.link_up("c", 1.0)
        self.wires.run()
        return kinds

    def check(self) -> None:
        b, c = self.b, self.c
        assert entries_of(b, SLOT) == entries_of(c, SLOT)
        for message_id in self.ids:
            assert b.replies.get(message_id) == c.replies.get(message_id)
        assert b.core._shared.positions == c.core._shared.positions
        assert b.core.staged_bytes == 0


def test_writes_that_the_new_primary_has_not_are_taken_back() -> None:
    cluster = Cluster()
    for key in KEYS:
        cluster.write(cluster.a, ("put", key, b"old"))
    cluster.wires.held = {"c"}
    cluster.write(cluster.a, ("put", KEYS[0], b"new"))
    cluster.write(cluster.a, ("remove", KEYS[1], b""))
    cluster.write(cluster.a, ("put", b"another", b"new"))
    cluster.succeed()
    assert set(cluster.meet()) >= {frames.PAST, frames.PATCH, frames.END}
    assert frames.BEGIN not in cluster.meet()
    cluster.check()


def test_writes_that_it_lacks_are_given_by_what_they_touched() -> None:
    cluster = Cluster()
    for key in KEYS:
        cluster.write(cluster.a, ("put", key, b"old"))
    cluster.succeed()
    cluster.write(cluster.c, ("put", KEYS[0], b"new"))
    cluster.write(cluster.c, ("remove", KEYS[1], b""))
    kinds = cluster.meet()
    assert frames.PATCH in kinds
    assert frames.PAST not in kinds
    cluster.check()


def test_after_a_wipe_the_slot_is_given_whole() -> None:
    cluster = Cluster()
    cluster.write(cluster.a, ("put", KEY, b"old"))
    cluster.wires.held = {"c"}
    cluster.write(cluster.a, ("wipe", b"", b""))
    cluster.succeed()
    assert frames.BEGIN in cluster.meet()
    cluster.check()


def test_so_it_is_when_too_much_was_written() -> None:
    cluster = Cluster()
    cluster.wires.held = {"c"}
    for n in range(frames.FRAME_FILL_BYTES // 60):
        message_id = b"%064d" % n
        cluster.ids.append(message_id)
        cluster.a.core.execute(PUT, SLOT, KEY, b"v", message_id, 0)
    cluster.wires.run()
    cluster.succeed()
    assert set(cluster.meet()) >= {frames.PAST, frames.BEGIN}
    cluster.check()


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.sampled_from([b"", b"x", b"y" * 40])),
        st.tuples(st.just("remove"), st.sampled_from(KEYS), st.just(b"")),
        st.tuples(st.sampled_from(["put", "put", "wipe"]), st.sampled_from(KEYS), st.just(b"w")),
    ),
    max_size=6,
)


@given(CHANGES, CHANGES, CHANGES, CHANGES)
def test_whatever_was_written_copies_come_to_be_the_same(both: list, theirs: list, ours: list, later: list) -> None:
    """`both` have; then b alone; then its new primary alone; and more while b is brought back."""
    cluster = Cluster()
    for change in both:
        cluster.write(cluster.a, change)
    cluster.wires.held = {"c"}
    for change in theirs:
        cluster.write(cluster.a, change)
    cluster.succeed()
    for change in ours:
        cluster.write(cluster.c, change)
    left = iter(later)
    on_touched = cluster.c.core._primary.on_touched

    def writing(peer: str, body: bytes) -> None:
        on_touched(peer, body)
        for change in left:
            cluster.write(cluster.c, change)

    cluster.c.core._primary.on_touched = writing  # type: ignore[method-assign]
    cluster.meet()
    for change in left:
        cluster.write(cluster.c, change)
    cluster.check()
    assert len(cluster.b.core._shared.positions) == SLOT_COUNT
