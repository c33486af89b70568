"""Writes in flight, and what is kept of them: the compiled classes against the Python that they stand in for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import frames, writes
from app.cluster.replication.led import Joint, Led, Outbox, Progress
from app.cluster.replication.recent import Recent
from app.cluster.replication.state import Shared
from app.storage import mutate
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire import protocol
from app.wire.protocol import NO_ERR, PUT, REMOVE
from tests.support.parts import examples
from tests.support.pieces import pieces

NOW = 10.0
SLOTS = (7, 200)
PEERS = ("b", "c")


class Side:
    """A primary of two slots with two followers, of one kind."""

    def __init__(self, which: str, *, evict: bool) -> None:
        store = Store(Arena(64 * PAGE_BYTES, 4 * PAGE_BYTES), evict=evict, on_allowance_used=lambda: None)
        store.allowance_bytes = 1 << 40
        replies = ReplyMemory(6.0, 1 << 20, buckets=16)
        mutations = pieces("mutate", which).Mutations(store, replies)
        recent = pieces("recent", which).Recent(lambda size_bytes: None, 5)
        self.shared = Shared("a", store, replies, mutations, PAGE_BYTES, recent, None, NOW, NOW + 1.0)
        self.considered: list[object] = []

        class Primary(pieces("writes", which).Writes):  # type: ignore[misc]
            def _consider(primary, led: Led, peer: str) -> None:
                self.considered.append((led.slot, peer))

        self.writes: Any = Primary(self.shared, 400)
        self.writes.pending_max, self.writes.pending_max_bytes = 6, 600
        self.writes._outboxes = {peer: Outbox() for peer in PEERS}
        for slot in SLOTS:
            led = Led(slot, 5, (4, 20))
            led.is_open = True
            led.progress = {peer: Progress(self.writes._outboxes[peer]) for peer in PEERS}
            led.required = set(PEERS)
            for progress in led.progress.values():
                progress.is_streaming, progress.acked = True, 20
            self.writes.led[slot] = self.writes.followed[slot] = led

    def do(self, step: tuple[Any, ...]) -> object:
        name, *given = step
        return getattr(self, name)(*given)

    def execute(self, command: int, place: int, key: int, name: int, size: int, may_wait: bool) -> object:
        blob = bytes(size) if command == PUT else b""
        told = self.writes.execute(command, SLOTS[place], b"k%d" % key, blob, b"m%d" % name, name, may_wait)
        return told, self.writes.wait_ms

    def wipe(self, place: int, name: int) -> object:
        led = self.writes.led[SLOTS[place]]
        op = self.writes.order(led, mutate.WIPE, b"", b"", b"w%d" % name, NO_ERR)
        if op is not None:
            op.joint = Joint(("wipe", name))
            op.joint.left = 1
            self.writes.unreleased[b"w%d" % name] = op.joint
        return op is None

    def ack(self, peer: int, place: int, behind: int, flags: int, term: int, filling: bool) -> object:
        led = self.writes.led[SLOTS[place]]
        row = (led.slot, term, max(0, led.seq - behind))
        body = frames.encode_ack(flags, [row])
        return self.writes.acknowledged(PEERS[peer], body, {led.slot} if filling else set()) is None

    def hostile(self, body: bytes) -> object:
        return self.writes.acknowledged("b", body, set()) is None

    def read(self, key: int) -> object:
        name = b"k%d" % key
        return self.writes.hold_read(name, "reader") if name in self.writes.unacked else None

    def change(self, place: int, peer: int, what: str) -> None:
        led = self.writes.led[SLOTS[place]]
        if what == "stream":
            led.progress[PEERS[peer]].is_streaming ^= True
        elif what == "require":
            led.required ^= {PEERS[peer]}
        elif what == "lease":
            self.shared.lease_until = NOW + 1.0 - self.shared.lease_until + NOW
        elif what == "full":
            self.shared.replies.full = not self.shared.replies.full
        elif what == "close":
            led.base, led.is_open = (led.base[0], led.seq), False
            self.writes._advance(led)
            led.is_open = True
        elif what == "flush":
            self.writes._outboxes[PEERS[peer]].take()
        elif led.log:
            self.writes._finish(led, led.log.popleft(), False)

    def state(self) -> object:
        w, out = self.writes, self.shared.out
        leds = [
            (
                led.seq,
                led.committed,
                led.is_open,
                led.wipes,
                [(op.seq, op.data, op.waiters, op.readers) for op in led.log],
            )
            for led in w.led.values()
        ]
        at = {slot: position for slot in SLOTS if (position := self.shared.positions[slot])}
        return (
            (leds, [(p.acked, p.is_streaming) for led in w.led.values() for p in led.progress.values()]),
            [(box.ops, box.size_bytes, box.flags) for box in w._outboxes.values()],
            (list(w.unacked), list(w.unreleased), w.pending, w.pending_bytes, w.changed),
            (out.released, out.dropped, self.considered),
            (told(self.shared.recent, at), [w.refuses(led) for led in w.led.values()], w.busy(True), w.busy(False)),
        )


places, peers = st.integers(0, 1), st.integers(0, 1)
steps = st.one_of(
    st.tuples(
        st.just("execute"),
        st.sampled_from([PUT, PUT, REMOVE]),
        places,
        st.integers(0, 3),
        st.integers(0, 12),
        st.sampled_from([0, 10, 100, 9000]),
        st.sampled_from([True, True, True, False]),
    ),
    st.tuples(
        st.just("ack"),
        peers,
        places,
        st.integers(-1, 4),
        st.sampled_from([0, 0, 0, 1, 2, 4, 8, 255]),
        st.sampled_from([5, 5, 5, 4, 0xFFFFFFFF]),
        st.sampled_from([False, False, False, True]),
    ),
    st.tuples(st.just("hostile"), st.binary(max_size=40)),
    st.tuples(st.just("read"), st.integers(0, 3)),
    st.tuples(st.just("wipe"), places, st.integers(0, 3)),
    st.tuples(
        st.just("change"),
        places,
        peers,
        st.sampled_from(["stream", "require", "lease", "full", "close", "flush", "give up"]),
    ),
)


@examples(300)
@given(st.booleans(), st.lists(steps, max_size=30))
def test_whatever_happens_to_writes_happens_alike(evict: bool, drawn: list[tuple[Any, ...]]) -> None:
    pieces("writes", "compiled")
    sides = [Side(which, evict=evict) for which in ("pure", "compiled")]
    for step in drawn:
        pure, compiled = (side.do(step) for side in sides)
        assert pure == compiled, step
        assert sides[0].state() == sides[1].state(), step


def test_what_is_no_slot_or_closed_or_alone_is_refused() -> None:
    for which in ("pure", "compiled"):
        side = Side(which, evict=True)
        side.writes.led[7].is_open = False
        for slot in (7, 8):
            with pytest.raises(AssertionError):
                side.writes.execute(PUT, slot, b"k", b"v", b"m", None)
        with pytest.raises(IndexError):
            side.writes.execute(PUT, 256, b"k", b"v", b"m", None)
        with pytest.raises((AssertionError, NotImplementedError)):
            side.shared.mutations.execute(99, 7, b"k", b"v", b"m")
        with pytest.raises(AssertionError):
            side.shared.mutations.apply(99, 7, b"k", b"v")


def told(recent: Recent, at: dict[int, frames.Position]) -> object:
    """All that it tells of copies at these positions: where they have been, and the names since the first of that."""
    stretches = recent.stretches(at)
    return stretches, recent.since(at, {slot: of[-1][:2] for slot, of in stretches.items()})


recents = st.tuples(
    st.integers(0, 2),
    st.sampled_from([mutate.SET, mutate.DELETE, mutate.WIPE, mutate.NOTE]),
    st.tuples(st.integers(0, 2), st.integers(0, 4)),
    st.tuples(st.integers(0, 2), st.integers(0, 4)),
    st.binary(max_size=32),
    st.binary(max_size=64),
)


position = st.tuples(st.integers(0, 2), st.integers(0, 4))
stretch = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4))


@given(
    st.integers(1, 9),
    st.lists(st.one_of(recents, st.none()), max_size=40),
    st.fixed_dictionaries(dict.fromkeys(range(3), st.lists(stretch, max_size=frames.STRETCHES_MAX))),
    st.fixed_dictionaries(dict.fromkeys(range(3), position)),
)
def test_the_last_writes_are_kept_alike(
    count: int, drawn: list[Any], others: dict[int, list[Any]], positions: dict[int, Any]
) -> None:
    pieces("recent", "compiled")
    spent: dict[str, list[int]] = {"pure": [], "compiled": []}
    both: list[Any] = [pieces("recent", which).Recent(spent[which].append, count) for which in spent]
    for op in drawn:
        for recent in both:
            if op is None:
                recent.clear()
            else:
                recent.note(op)
            recent.settle()
        at = dict.fromkeys(range(3), (1, 2))
        assert told(both[0], at) == told(both[1], at)
        assert both[0].met(at, others) == both[1].met(at, others)
        assert both[0].since(at, positions) == both[1].since(at, positions)
    counts = [[size // recent.record_bytes for size in spent[which]] for which, recent in zip(spent, both, strict=True)]
    assert counts[0] == counts[1]


def test_more_than_one_block_is_kept() -> None:
    kept = Recent(lambda size_bytes: None, 3000)
    for seq in range(7000):
        kept.note((1, mutate.SET, (1, seq), (1, seq + 1), b"k%d" % seq, b"m"))
    keys = [b"k%d" % seq for seq in reversed(range(4000, 7000))]
    assert kept.since({1: (1, 7000)}, {1: (1, 4000)}) == {1: (keys, [b"m"])}
    assert kept.stretches({1: (1, 7000)}) == {1: [(1, 4000, 7000)]}


def test_what_is_no_slot_or_position_is_refused() -> None:
    recent = pieces("recent", "compiled").Recent(lambda size_bytes: None)
    for slot in (-1, 256):
        with pytest.raises(IndexError):
            recent.stretches({slot: (1, 1)})
    with pytest.raises(OverflowError):
        recent.stretches({1: (1 << 32, 1)})
    with pytest.raises(ValueError, match="5 stretches"):
        recent.met({1: (1, 1)}, {1: [(1, 1, 1)] * 5})
    with pytest.raises(KeyError):
        recent.since({1: (1, 1)}, {})


def test_names_that_are_too_long_to_be_kept_are_refused() -> None:
    recent = pieces("recent", "compiled").Recent(lambda size_bytes: None)
    for key, name in ((bytes(33), b""), (b"", bytes(65))):
        with pytest.raises(OverflowError):
            recent.note((1, mutate.SET, (1, 1), (1, 2), key, name))
    with pytest.raises((OverflowError, TypeError, ValueError)):
        recent.note((256, mutate.SET, (1, 1), (1, 2), b"", b""))


def test_the_numbers_are_the_same() -> None:
    """As the `enum`s in app/fast/writes.pyx, mutate.pyx, recent.pyx and applying.pyx have them."""
    assert (writes.PENDING_MAX, writes.PENDING_MAX_BYTES, writes.WAITERS_MAX) == (4096, 4 << 20, 8)
    assert (writes.WAITS, writes.IGNORED, protocol.SLOT_COUNT) == (-100, -101, 256)
    assert (protocol.PUT, protocol.REMOVE, protocol.KEY_MAX_BYTES, protocol.MESSAGE_ID_MAX_BYTES) == (1, 3, 32, 64)
    assert (protocol.NO_ERR, protocol.KEY_DNE_ERR, protocol.NO_SPC_ERR, protocol.SYS_OVERLOAD_ERR) == (0, 1, 2, 3)
    assert (mutate.SET, mutate.DELETE, mutate.WIPE, mutate.NOTE, mutate.HINDRANCES) == (1, 2, 3, 4, 7)
    assert (mutate.STORE_FULL, mutate.REPLIES_FULL, mutate.STORE_BUSY, mutate.BUSY) == (1, 2, 4, 8)
    assert (mutate.ROOM_WAIT_MS, mutate.BUSY_WAIT_MS, mutate.REPLY_BYTES) == (50, 20, 32)
    assert (frames.BODY_MAX_BYTES, len(frames.encode_ack(0, [(1, 1, 1)])) - 1) == (42942, 13)
    assert (frames.TERM.most, frames.SEQ.most) == (0xFFFFFFFE, (1 << 63) - 1)
