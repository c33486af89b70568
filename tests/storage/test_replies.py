"""Remembered replies: never forgotten early, never confused, never more than they may cost."""

import os
import random
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.fast import PIECES
from app.storage.replies import ReplyMemory, buckets_for
from app.wire.protocol import ALL_SLOTS, CLIENT_TIMEOUTS_MS, SLOT_COUNT
from tests.storage.contents import records
from tests.support.parts import MIB, PLENTY, examples
from tools.bench.chosen import with_checksum

TTL_S = 6.0
GENERATION_S = TTL_S / 4
# The longest that a call of `advance` believes in, and so how much longer than that a generation may last.
STEP_S = 0.25
# How long `Clock` holds a reply at most: its own generation and four more, each a step longer.
HELD_S = 5 * (GENERATION_S + 0.1)
REPOSITORY = Path(__file__).parent.parent.parent

PURE, CHOSEN = PIECES["replies.ReplyMemory"]
if_compiled = pytest.mark.skipif(CHOSEN is PURE, reason="app/fast/replies is not built")
both = pytest.mark.parametrize(
    "kind", [pytest.param(PURE, id="pure"), pytest.param(CHOSEN, id="compiled", marks=if_compiled)]
)


def replies_of(kind: type[ReplyMemory], max_bytes: int = PLENTY, ttl_s: float = TTL_S) -> ReplyMemory:
    replies = kind(ttl_s, max_bytes)
    replies.advance(1000.0)
    return replies


class Clock:
    """Moves a reply memory through time, as a live node does."""

    def __init__(self, replies: ReplyMemory, now: float = 1000.0) -> None:
        self.replies = replies
        self.now = now

    def pass_s(self, seconds: float, step_s: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step_s)
            self.replies.advance(self.now)

    def end_generation(self) -> None:
        """In steps of a quarter of a second."""
        age_s = -1.0
        while self.replies._age_s > age_s:
            age_s = self.replies._age_s
            self.pass_s(0.25, 0.25)


def add(replies: ReplyMemory, message_id: bytes, code: int = 0, slot: int = 5) -> None:
    replies.add(message_id, slot, code)


def code_of(replies: ReplyMemory, message_id: bytes) -> int | None:
    return replies.get(message_id)


def fill(replies: ReplyMemory, id_bytes: int = 16, seed: int = 1) -> list[bytes]:
    """Add until it is full."""
    rng = random.Random(seed)
    added = []
    while not replies.full:
        added.append(rng.randbytes(id_bytes))
        add(replies, added[-1])
    return added


@both
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64])
def test_a_reply_is_remembered_under_ids_of_every_length(kind: type[ReplyMemory], length: int) -> None:
    replies = replies_of(kind)
    message_id = bytes(range(length))
    assert code_of(replies, message_id) is None
    add(replies, message_id, code=7, slot=255)
    assert code_of(replies, message_id) == 7
    assert code_of(replies, message_id[:-1]) is None
    assert code_of(replies, message_id + b"x") is None
    assert records(replies) == [(message_id, 255, 7)]
    assert len(replies) == 1


@both
@pytest.mark.parametrize("offset_s", [0.0, 0.1, 1.4, 1.5, 1.6, 3.0, 5.9])
def test_a_reply_lives_for_the_ttl_whenever_it_came(kind: type[ReplyMemory], offset_s: float) -> None:
    replies = replies_of(kind)
    clock = Clock(replies)
    clock.pass_s(offset_s)
    add(replies, b"m", code=1)
    clock.pass_s(TTL_S - 0.01)
    assert code_of(replies, b"m") == 1
    clock.pass_s(HELD_S - TTL_S + 0.02)
    assert code_of(replies, b"m") is None
    assert len(replies) == 0


def test_a_reply_outlives_the_clients_last_try() -> None:
    assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 < TTL_S


@both
def test_time_that_passes_while_stopped_does_not_age(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    add(replies, b"m")
    for hour in range(1, 20):
        replies.advance(1000.0 + 3600 * hour)
        assert code_of(replies, b"m") == 0


@both
def test_a_call_ends_one_generation_at_most_however_much_time_has_passed(kind: type[ReplyMemory]) -> None:
    """Also where a generation is shorter than what a call believes to have passed."""
    replies = replies_of(kind, ttl_s=0.4)
    add(replies, b"m", code=2)
    for call in range(1, 5):
        replies.advance(1000.0 + call * 100)
        assert code_of(replies, b"m") == 2
    replies.advance(2000.0)
    assert code_of(replies, b"m") is None


@both
@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.24])
def test_a_reply_that_came_just_before_a_late_call_lives_for_the_ttl(kind: type[ReplyMemory], late_s: float) -> None:
    """It came when its generation should have ended already."""
    replies = replies_of(kind)
    clock = Clock(replies)
    clock.pass_s(GENERATION_S - 0.01)
    add(replies, b"m")  # at any time until the next call
    came = clock.now + late_s
    replies.advance(came)
    clock.now = came
    clock.pass_s(TTL_S - 0.01)
    assert code_of(replies, b"m") == 0


@both
@pytest.mark.parametrize("apart", range(1, 23))
def test_what_came_generations_ago_is_not_taken_for_what_came_since(kind: type[ReplyMemory], apart: int) -> None:
    """Generations are numbered in a circle; all these replies are in one bucket, and one is found from another."""
    replies = kind(TTL_S, PLENTY, buckets=1)
    replies.advance(1000.0)
    clock, expected = Clock(replies), []
    for number in range(66):
        if number % apart == 0:
            for n in range(3):
                add(replies, b"%d.%d" % (number, n), code=n)
            expected.append(number)
        expected = [earlier for earlier in expected if number - earlier <= 4]
        assert records(replies) == sorted((b"%d.%d" % (one, n), 5, n) for one in expected for n in range(3))
        for one in expected:
            assert [code_of(replies, b"%d.%d" % (one, n)) for n in range(4)] == [0, 1, 2, None]
        clock.end_generation()


@both
def test_a_clock_that_goes_back_does_not_age(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    add(replies, b"m")
    for n in range(200):
        replies.advance(1000.0 - n)
    assert code_of(replies, b"m") == 0


@both
def test_what_has_expired_is_freed_step_by_step(kind: type[ReplyMemory]) -> None:
    """Of 20,000 no more in a step of 0.1 s than 20 steps would; all of it while the next generation fills."""
    replies = replies_of(kind)
    clock = Clock(replies)
    for n in range(20_000):
        add(replies, b"%d" % n)
    while replies:
        assert replies.expiring_bytes == 0
        clock.pass_s(0.1)
    left = expired = replies.expiring_bytes
    assert expired > 0
    while left:
        clock.pass_s(0.1)
        assert 0 < left - replies.expiring_bytes < max(expired / 10, MIB)
        left = replies.expiring_bytes
    clock.pass_s(GENERATION_S)
    assert replies.used_bytes == 0


@both
@pytest.mark.parametrize("id_bytes", [1, 16, 64])
def test_full_comes_at_the_bound_and_not_before(kind: type[ReplyMemory], id_bytes: int) -> None:
    replies = replies_of(kind, max_bytes=200_000)
    if id_bytes == 1:
        for n in range(256):
            add(replies, bytes([n]))
        assert not replies.full
        return
    added = fill(replies, id_bytes)
    assert 200_000 <= replies.used_bytes < 200_000 + 2 * 4096
    assert all(code_of(replies, message_id) == 0 for message_id in added)


@both
def test_full_ends_when_the_oldest_generation_expires(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=200_000)
    clock = Clock(replies)
    rng = random.Random(2)
    while replies.used_bytes < 150_000:
        add(replies, rng.randbytes(16))
    clock.end_generation()
    fill(replies)
    assert replies.full
    assert TTL_S * 1000 - 1 <= replies.wait_ms <= TTL_S * 1000
    clock.pass_s(2.0)
    assert TTL_S * 1000 - 2001 <= replies.wait_ms <= TTL_S * 1000 - 1899
    clock.pass_s(replies.wait_ms / 1000 - 0.2)
    assert replies.full
    clock.pass_s(0.2 + 4 * 0.1)
    assert not replies.full


@both
@pytest.mark.parametrize("age_s", [0.0, 1.0, 5.5])
def test_the_wait_is_honest_when_one_generation_fills_the_memory(kind: type[ReplyMemory], age_s: float) -> None:
    """After the wait there is room: not when the generation ends, but when it is forgotten."""
    replies = replies_of(kind, max_bytes=200_000)
    clock = Clock(replies)
    clock.pass_s(age_s)
    fill(replies)
    wait_s = replies.wait_ms / 1000
    clock.pass_s(wait_s - 0.2)
    assert replies.full
    clock.pass_s(0.2 + 5 * 0.1)
    assert not replies.full


@both
def test_the_wait_is_until_the_first_generation_ends_that_makes_room(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    clock = Clock(replies)
    for generation in (0, 1, 2, 3, 4):
        if generation != 1:
            for number in range(100):
                add(replies, b"%d.%016d" % (generation, number))
        if generation != 4:
            clock.end_generation()
    clock.pass_s(0.5)
    assert len(replies) == 400
    used = replies.used_bytes
    generation_bytes = 100 * 24 * 2 if kind is CHOSEN and CHOSEN is not PURE else 100 * (18 + 6) * 9 // 8
    for max_bytes, generations in (
        (used + 1, 1),  # there is room
        (used, 1),
        (used - generation_bytes + 3, 1),
        (used - generation_bytes - 3, 3),  # that of the second makes none
        (used - 2 * generation_bytes + 3, 3),
        (used - 2 * generation_bytes - 3, 4),
        (used - 3 * generation_bytes + 3, 4),
        (used - 3 * generation_bytes - 3, 5),
        (0, 5),
    ):
        replies.max_bytes = max_bytes
        assert replies.wait_ms == round(1000 * (generations * GENERATION_S - replies._age_s)), max_bytes


@both
def test_the_wait_is_at_least_a_millisecond(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    replies._age_s = TTL_S
    assert replies.wait_ms >= 1


@both
def test_a_steady_rate_of_writes_is_limited_by_little_more_than_their_ttl(kind: type[ReplyMemory]) -> None:
    """1,250 a second for a minute, of which 10,000 fit: they are held for 8 s at most, and not for twice the 6."""
    replies = kind(TTL_S, 28 * 10_500, buckets=256)
    refused = written = 0
    for step in range(600):
        replies.advance(step / 10)
        for _ in range(125):
            written += 1
            if replies.full:
                refused += 1
            else:
                add(replies, written.to_bytes(16, "big"))
    assert refused == 0
    assert len(replies) > 1_250 * TTL_S


@both
def test_acks_make_room(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=200_000)
    added = fill(replies)
    before = len(replies)
    for message_id in added[: before // 2]:
        assert replies.forget(message_id)
        assert not replies.forget(message_id)
    assert not replies.full
    assert len(replies) == before - before // 2
    assert [code_of(replies, message_id) for message_id in added] == [None] * (before // 2) + [0] * (
        before - before // 2
    )


@both
def test_an_ack_reaches_an_older_generation(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    add(replies, b"older")
    Clock(replies).pass_s(TTL_S)
    add(replies, b"newer")
    assert replies.forget(b"older")
    assert records(replies) == [(b"newer", 5, 0)]
    assert len(replies) == 1


@both
def test_records_come_in_order_whatever_their_age(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    add(replies, b"b", 1)
    Clock(replies).pass_s(TTL_S)
    add(replies, b"c", 3, slot=0)
    add(replies, b"a", 2, slot=0)
    assert records(replies) == [(b"a", 0, 2), (b"b", 5, 1), (b"c", 0, 3)]


@both
def test_the_code_of_an_id_that_came_with_several_slots_is_the_last(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    clock = Clock(replies)
    for slot in range(12):
        add(replies, b"m", code=slot, slot=slot)
        add(replies, b"other", code=100 + slot, slot=slot)
        assert code_of(replies, b"m") == slot
        clock.pass_s(0.5)
    replies.forget_slots(1 << 11)
    assert code_of(replies, b"m") == 10


# --- messageIDs that were chosen -------------------------------------------------------------------------------------


def ids_that_share_a_checksum(count: int) -> set[bytes]:
    """16-byte messageIDs with one CRC-32."""
    rng = random.Random(1)
    return {with_checksum(rng.randbytes(12), 7) for _ in range(count)}


@both
def test_messageids_that_share_a_checksum_do_not_share_a_bucket(kind: type[ReplyMemory]) -> None:
    """Anybody can make them; all in one bucket, each retry would walk all of them."""
    replies = replies_of(kind)
    ids = ids_that_share_a_checksum(20_000)
    assert len(set(map(crc32, ids))) == 1
    for message_id in ids:
        add(replies, message_id)
    assert max(len(replies.scan(number, 1, ALL_SLOTS)) for number in range(replies.bucket_count)) < 20
    assert all(code_of(replies, message_id) == 0 for message_id in ids)


@both
@pytest.mark.parametrize("mib", [48, 64, 128, 256, 1024, 16_384])
def test_a_bucket_is_short_also_when_the_memory_is_full(kind: type[ReplyMemory], mib: int) -> None:
    max_bytes = mib * MIB * 9 // 64
    assert max_bytes / buckets_for(max_bytes) <= 1152
    assert buckets_for(1152 * 32_768) == 32_768
    kind(TTL_S, max_bytes, buckets=buckets_for(64 * MIB))  # a power of two


@both
def test_forgetting_all_again_and_again_keeps_nothing(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    for n in range(100):
        add(replies, b"%d" % n)
        replies.clear()
        if n == 2:
            three = replies.expiring_bytes
    assert replies.expiring_bytes <= 1.5 * three
    for _ in range(100):
        replies.clear()
    assert replies.expiring_bytes <= 1.5 * three


@both
def test_an_ack_forgets_a_wipeout_with_all_its_slots(kind: type[ReplyMemory]) -> None:
    """256 records, 5 KB and more."""
    replies = replies_of(kind)
    add(replies, b"other")
    before = replies.used_bytes
    for slot in range(SLOT_COUNT):
        replies.add(b"wipeout", slot, 0)
        if slot == 100:
            Clock(replies).pass_s(TTL_S)
    assert replies.forget(b"wipeout")
    assert replies.slots_of(b"wipeout") == 0
    assert records(replies) == [(b"other", 5, 0)]
    forgotten = 0 if kind is PURE else 101 * 24  # cells of the older generation, until that expires
    assert replies.used_bytes <= before + forgotten + 150  # and the buckets
    assert not replies.forget(b"wipeout")


# --- lookalikes: everything in one bucket, from few byte values ------------------------------------------------------

few_bytes = st.lists(st.sampled_from((0, 1, 2, 3, 4)), min_size=1, max_size=6).map(bytes)


@both
@examples(150)
@given(st.dictionaries(few_bytes, st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12), st.data())
def test_an_id_inside_the_bytes_of_others_is_not_taken_for_a_reply(
    kind: type[ReplyMemory], known: dict[bytes, tuple[int, int]], data: st.DataObject
) -> None:
    replies = kind(TTL_S, PLENTY, buckets=1)
    laid_out = b""
    for message_id, (slot, code) in known.items():
        replies.add(message_id, slot, code)
        laid_out += bytes([len(message_id)]) + message_id + bytes([slot, code])
    lookalikes = {laid_out[start : start + length] for start in range(len(laid_out)) for length in range(1, 9)} - {b""}
    for lookalike in lookalikes:
        assert replies.get(lookalike) == known.get(lookalike, (None, None))[1]
    forgotten = data.draw(st.sets(st.sampled_from(sorted(lookalikes)))) if lookalikes else set()
    for message_id in sorted(forgotten):
        assert replies.forget(message_id) == (known.pop(message_id, None) is not None)
    assert sorted(records(replies)) == sorted((message_id, *rest) for message_id, rest in known.items())
    assert len(replies) == len(known)


# --- everything at once -------------------------------------------------------------------------------------------


class RepliesMachine(RuleBasedStateMachine):
    """A reply memory against a list of what was added when; all ids share eight buckets."""

    max_bytes = PLENTY
    kind: type[ReplyMemory] = PURE

    def __init__(self) -> None:
        super().__init__()
        self.replies = self.kind(TTL_S, self.max_bytes, buckets=8)
        self.added = 0
        self.now = 0.0
        self.age = 0.0  # time that has passed for a node that was alive
        self.replies.advance(self.now)
        self.model: dict[bytes, tuple[float, int]] = {}  # when added, code

    @rule(message_id=few_bytes, code=st.integers(0, 7), slot=st.integers(0, 255))
    def add(self, message_id: bytes, code: int, slot: int) -> None:
        if not self.replies.full and self.replies.get(message_id) is None:
            self.replies.add(message_id, slot, code)
            self.added += 1
            self.model[message_id] = self.age, code

    @rule(count=st.integers(1, 40))
    def add_many(self, count: int) -> None:
        for n in range(count):
            message_id = b"%d.%d" % (len(self.model), n)
            if not self.replies.full and message_id not in self.model:
                self.replies.add(message_id, n, n % 8)
                self.added += 1
                self.model[message_id] = self.age, n % 8

    @rule(seconds=st.sampled_from((0.0, 0.05, 0.1, 0.25)), times=st.sampled_from((1, 5, 30)))
    def live(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.now += seconds
            self.age += seconds
            self.replies.advance(self.now)

    @rule(seconds=st.sampled_from((1.0, 60.0, 1e6)))
    def stop(self, seconds: float) -> None:
        """The process stands still; when it goes on, a step may be counted, no more."""
        self.now += seconds
        self.age += STEP_S
        self.replies.advance(self.now)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.model)))
        there = self.replies.get(message_id) is not None
        assert self.replies.forget(message_id) == there
        del self.model[message_id]

    @invariant()
    def nothing_is_forgotten_early_nor_kept_forever(self) -> None:
        held = {message_id: code for message_id, _, code in records(self.replies)}
        for message_id, (added, code) in list(self.model.items()):
            age = self.age - added
            remembered = self.replies.get(message_id)
            assert remembered == held.get(message_id)
            assert remembered in (None, code)
            if remembered is None:
                assert age > TTL_S - 1e-6
                del self.model[message_id]
            else:
                assert age < 5 * (GENERATION_S + STEP_S) + 1e-6
        assert set(held) == set(self.model)

    @invariant()
    def the_counts_are_right(self) -> None:
        held = records(self.replies)
        assert len(self.replies) == len(held)
        if self.kind is PURE:
            least = sum(len(message_id) + 6 for message_id, _, _ in held)
            assert least <= self.replies.used_bytes < (least + 8 * 64) * 9 // 8 + 1
        else:
            assert 28 * len(held) <= self.replies.used_bytes <= 32 * self.added + 2 * 8 * 4

    @invariant()
    def full_says_whether_there_is_room(self) -> None:
        assert self.replies.used_bytes < self.max_bytes + 5000
        if self.replies.full:
            assert self.replies.used_bytes >= self.max_bytes


class SmallRepliesMachine(RepliesMachine):
    max_bytes = 3000


class CompiledRepliesMachine(RepliesMachine):
    kind = CHOSEN


class SmallCompiledRepliesMachine(SmallRepliesMachine):
    kind = CHOSEN


TestRepliesMachine = RepliesMachine.TestCase
TestRepliesMachine.settings = examples(15)
TestSmallRepliesMachine = SmallRepliesMachine.TestCase
TestSmallRepliesMachine.settings = examples(15)
TestCompiledRepliesMachine = if_compiled(CompiledRepliesMachine.TestCase)
TestCompiledRepliesMachine.settings = examples(15)
TestSmallCompiledRepliesMachine = if_compiled(SmallCompiledRepliesMachine.TestCase)
TestSmallCompiledRepliesMachine.settings = examples(15)


# --- what they cost --------------------------------------------------------------------------------------------------

MEASURE = """
import os, sys
from app.storage.governor import ResidentSize, tune_allocators
from app.storage.replies import ReplyMemory, buckets_for
tune_allocators()
resident = ResidentSize()
calls, count, id_bytes = map(int, sys.argv[1:])
replies = ReplyMemory(6.0, 1 << 40)
now = 0.0
replies.advance(now)
ids = os.urandom(id_bytes)
before = resident()
for call in range(1, calls + 1):
    for n in range(count):
        replies.add((call * count + n).to_bytes(4, "big") + ids[4:], n & 0xFF, 0)
    if call < calls:
        replies.advance(call / 4)
assert len(replies) == count * min(30, calls)
print((resident() - before) / len(replies), replies.used_bytes / len(replies))
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer takes memory of its own")
@pytest.mark.parametrize("allocator", ["malloc", "default"])
@pytest.mark.parametrize(
    ("fast", "id_bytes", "at_most"),
    [
        ("off", 16, 45),
        ("off", 64, 120),
        pytest.param("on", 16, 29, marks=if_compiled),
        pytest.param("on", 64, 102, marks=if_compiled),
    ],
)
@pytest.mark.parametrize(("calls", "count"), [(12, 25_000), (90, 10_000)])
def test_a_reply_costs_no_more_than_it_may_and_what_is_counted(
    calls: int, count: int, allocator: str, fast: str, id_bytes: int, at_most: int
) -> None:
    """Two generations, or the last five of fifteen, in a process of its own, by its resident size."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(calls), str(count), str(id_bytes)],
        cwd=REPOSITORY,
        env={"PYTHONMALLOC": allocator, "KV_FAST": fast},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    resident_bytes, counted_bytes = map(float, done.stdout.split())
    assert resident_bytes <= at_most
    if allocator == "malloc":  # what a node runs on
        assert resident_bytes <= (1.2 if fast == "off" else 1.03) * counted_bytes


@both
def test_the_memory_of_replies_holds_50_000_writes_a_second(kind: type[ReplyMemory]) -> None:
    """For their 6 s, in 24 MiB; the id is the usual 16 bytes."""
    replies = replies_of(kind, max_bytes=24 * MIB)
    for n in range(300_000):
        add(replies, n.to_bytes(16, "big"))
    assert not replies.full


@both
def test_clear_forgets_everything_of_all_generations(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=MIB)
    replies.advance(0.0)
    add(replies, b"old")
    for step in range(1, 62):
        replies.advance(step / 10)
    add(replies, b"new")
    assert len(replies) == 2
    replies.clear()
    assert (len(replies), replies.used_bytes, records(replies)) == (0, 0, [])
    assert replies.get(b"old") is replies.get(b"new") is None
    add(replies, b"new")
    for step in range(62, 200):
        replies.advance(step / 10)
    assert len(replies) == 0


@both
def test_what_was_cleared_is_freed_step_by_step(kind: type[ReplyMemory]) -> None:
    """In steps that free a thirty-second of the buckets, or, compiled, a mebibyte."""
    replies = replies_of(kind)
    replies.max_bytes = MIB
    clock = Clock(replies)
    for generation in range(3):
        for n in range(50_000):
            add(replies, b"%d %d" % (generation, n), 0)
        clock.pass_s(GENERATION_S + 0.1)
    replies.clear()
    assert replies.used_bytes == 0
    left = cleared = replies.expiring_bytes
    assert cleared > 150_000 * 12
    add(replies, b"new")
    while left:
        replies.advance(clock.now)
        assert 0 < left - replies.expiring_bytes <= max(cleared / 24, MIB + 16_384)
        left = replies.expiring_bytes
    assert records(replies) == [(b"new", 5, 0)]


@both
def test_clear_makes_room(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=10_000)
    for n in range(1000):
        if not replies.full:
            add(replies, b"%016d" % n)
    assert replies.full
    replies.clear()
    assert not replies.full


@both
def test_a_slot_is_forgotten_and_remembers_anew(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=MIB)
    clock = Clock(replies)
    add(replies, b"old", 1, slot=3)
    clock.pass_s(TTL_S)
    add(replies, b"new", 2, slot=3)
    add(replies, b"other", 3, slot=4)
    replies.forget_slots(1 << 3)
    assert not replies.has_slot(3)
    assert records(replies) == [(b"other", 4, 3)]
    assert replies.get(b"old") is replies.get(b"new") is None
    assert not replies.forget(b"new")
    add(replies, b"new", 5, slot=3)
    assert replies.get(b"new") == 5
    assert len(replies) == 2
    clock.pass_s(2 * TTL_S + 1.0)
    assert len(replies) == 0


@both
def test_a_slot_has_replies_until_the_last_of_any_generation_is_forgotten(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind)
    clock = Clock(replies)
    assert not replies.has_slot(3)
    add(replies, b"old", 1, slot=3)
    clock.pass_s(TTL_S)
    add(replies, b"new", 2, slot=3)
    for message_id, left in ((b"new", True), (b"old", False)):
        assert replies.forget(message_id)
        assert replies.has_slot(3) == left
    add(replies, b"new", 2, slot=3)
    assert replies.forget(b"new")
    assert not replies.has_slot(3)


@both
def test_a_scan_goes_as_far_as_there_are_buckets(kind: type[ReplyMemory]) -> None:
    assert kind(TTL_S, PLENTY, buckets=64).bucket_count == 64


@both
def test_forgetting_every_slot_makes_room(kind: type[ReplyMemory]) -> None:
    replies = replies_of(kind, max_bytes=MIB)
    add(replies, b"one", 1, slot=3)
    replies.forget_slots((1 << 256) - 1)
    assert (len(replies), replies.used_bytes) == (0, 0)
    assert not replies.has_slot(3)


@both
def test_the_slots_that_an_id_is_remembered_with(kind: type[ReplyMemory]) -> None:
    replies = kind(TTL_S, PLENTY, buckets=1)
    replies.advance(1000.0)
    clock = Clock(replies)
    wiped, other = b"w" * 16, b"o" * 16
    for slot in (3, 9):
        replies.add(wiped, slot, 0)
    replies.add(other, 4, 0)
    replies.add(wiped + b"x", 5, 0)
    clock.pass_s(TTL_S)
    replies.add(wiped, 200, 0)
    assert replies.slots_of(wiped) == 1 << 3 | 1 << 9 | 1 << 200
    replies.forget_slots(1 << 9)
    assert replies.slots_of(wiped) == 1 << 3 | 1 << 200
    assert replies.slots_of(b"n" * 16) == 0
    clock.pass_s(TTL_S)
    assert replies.slots_of(wiped) == 1 << 200
