"""The compiled reply memory against the Python: the same answers to the same calls."""

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fast import PIECES
from app.storage import replies as module
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT
from tests.support.parts import MIB, PLENTY, examples

PURE, COMPILED = PIECES["replies.ReplyMemory"]
pytestmark = pytest.mark.skipif(COMPILED is PURE, reason="app/fast/replies is not built")

SOURCE = Path(module.__file__).parent.parent / "fast" / "replies.pyx"
TTL_S = 6.0
CELL_BYTES, HEAD_BYTES = 24, 4


def message_ids(rng: random.Random, count: int) -> list[bytes]:
    """Of every length; some begin as another, some are another with zeros behind."""
    lengths = (1, 11, 12, 13, 15, 16, 17, 31, 32, 33, 52, 53, 63, 64, 255)
    ids = [rng.randbytes(rng.choice(lengths)) for _ in range(count)]
    ids += [message_id[: rng.randint(1, len(message_id))] + bytes(rng.randrange(3)) for message_id in ids]
    return [message_id for message_id in ids if len(message_id) <= 255]


def change(rng: random.Random, both: tuple[Any, Any], ids: list[bytes], most: int) -> None:
    """One change of both memories, or several of a kind."""
    pure, compiled = both
    step = rng.choice(("add", "add", "add", "add", "forget", "wipeout", "time", "era", "clear"))
    message_id, slot, code = rng.choice(ids), rng.randrange(SLOT_COUNT), rng.randrange(256)
    calls: list[tuple[str, *tuple[Any, ...]]] = []
    if step == "add":
        new = {message_id for message_id in rng.choices(ids, k=most) if pure.get(message_id) is None}
        calls = [("add", message_id, slot, code) for message_id in sorted(new)]
    elif step == "wipeout":
        done = pure.slots_of(message_id)
        calls = [
            ("add", message_id, slot, rng.randrange(256))
            for slot in rng.sample(range(SLOT_COUNT), rng.choice((1, 5, 256)))
            if not done >> slot & 1
        ]
    elif step == "time":
        now = pure._last_now
        for _ in range(rng.choice((1, 10, 40))):
            now += rng.choice((0.0, 0.1, 0.2, 0.3, 100.0, -1.0))
            calls.append(("advance", now))
    elif step == "era":
        calls = [("forget_slots", rng.choice((1 << slot, rng.getrandbits(SLOT_COUNT), 0)))]
    elif step == "clear" and rng.random() < 0.2:
        calls = [rng.choice((("clear",), ("forget_slots", ALL_SLOTS)))]
    elif step == "forget":
        calls = [("forget", message_id)]
    for name, *arguments in calls:
        assert getattr(compiled, name)(*arguments) == getattr(pure, name)(*arguments)


@examples(100)
@given(st.integers(0, 1 << 32), st.sampled_from((1, 8, 4096, 16_384)), st.sampled_from((5, 50, 1_000)))
def test_a_reply_memory_gives_the_same_answers_compiled(seed: int, buckets: int, count: int) -> None:
    rng = random.Random(seed)
    pure: Any = PURE(TTL_S, PLENTY, buckets=buckets)
    compiled: Any = COMPILED(TTL_S, PLENTY, buckets=buckets)
    both = (pure, compiled)
    ids = message_ids(rng, count)
    for memory in both:
        memory.advance(1000.0)
    for _ in range(min(3 * count, 300)):
        change(rng, both, ids, max(1, count // 10))
        message_id, slot = rng.choice(ids), rng.randrange(SLOT_COUNT)
        assert compiled.get(message_id) == pure.get(message_id)
        assert compiled.slots_of(message_id) == pure.slots_of(message_id)
        assert compiled.has_slot(slot) is pure.has_slot(slot)
        assert len(compiled) == len(pure)
        assert compiled.wait_ms == pure.wait_ms
        assert compiled.full is pure.full is False
    assert compiled.bucket_count == pure.bucket_count == buckets
    part = max(1, buckets // 7)
    wanted = rng.choice((ALL_SLOTS, rng.getrandbits(SLOT_COUNT)))
    for start in range(0, buckets, part):
        assert compiled.scan(start, part, wanted) == pure.scan(start, part, wanted)
    for message_id in ids:
        assert compiled.get(message_id) == pure.get(message_id)
        assert compiled.get(message_id + b"\0") == pure.get(message_id + b"\0")


def cells(length: int) -> int:
    """That a messageID takes."""
    return 1 if length <= 16 else 1 + -(-(length - 12) // 20)


@pytest.mark.parametrize("length", [1, 12, 16, 17, 32, 33, 64])
def test_what_is_used_is_cells_and_buckets_and_cells_that_were_freed_are_used_again(length: int) -> None:
    memory: Any = COMPILED(TTL_S, PLENTY)
    assert memory.used_bytes == 0
    ids = [n.to_bytes(max(4, length), "little")[:length] for n in range(256 if length == 1 else 3_000)]
    for number, message_id in enumerate(ids, 1):
        memory.add(message_id, 1, 0)
        assert memory.used_bytes == number * cells(length) * CELL_BYTES + max(1024, number) * HEAD_BYTES
    before = memory.used_bytes
    for message_id in ids[::2]:
        assert memory.forget(message_id)
    half = len(ids[::2])
    assert memory.used_bytes == before - half * cells(length) * CELL_BYTES
    for message_id in ids[::2]:
        memory.add(message_id, 2, 3)
    assert memory.used_bytes == before
    assert memory.__sizeof__() - COMPILED(TTL_S, PLENTY).__sizeof__() == before
    assert [memory.get(message_id) for message_id in ids[:4]] == [3, 0, 3, 0]


@pytest.mark.parametrize("buckets", [1, 64, 16_384])
def test_buckets_become_fewer_when_there_are_fewer_records(buckets: int) -> None:
    """After a burst some replies a second keep no more of them than they need; none is lost on the way."""
    memory: Any = COMPILED(TTL_S, PLENTY, buckets=buckets)
    pure: Any = PURE(TTL_S, PLENTY, buckets=buckets)
    least = min(buckets, 1024)
    heads: list[int] = []
    for step in range(150):
        for n in range(10_000 if step == 0 else 20):
            for one in (memory, pure):
                one.add(b"%d.%d" % (step, n), n & 255, n & 7)
        for one in (memory, pure):
            one.advance(step / 10)
        heads.append(memory.used_bytes - len(memory) * CELL_BYTES)
        if step % 10 == 0:
            assert memory.scan(0, buckets, ALL_SLOTS) == pure.scan(0, buckets, ALL_SLOTS)
    assert heads[0] == 10_000 * HEAD_BYTES
    records = 20 * 81
    assert max(least, records) * HEAD_BYTES <= heads[-1] <= 2 * max(least, records) * HEAD_BYTES
    for step in range(150, 250):
        memory.advance(step / 10)
    assert memory.used_bytes == 0


def chosen(mask: int, count: int) -> Iterator[bytes]:
    """MessageIDs whose hashes end in the same bits: who knew the key of Python's hash could choose them."""
    n = 0
    while count:
        message_id = b"%d" % n
        if not hash(message_id) & mask:
            count -= 1
            yield message_id
        n += 1


def test_messageids_with_the_same_bits_of_their_hashes_are_told_apart() -> None:
    memory: Any = COMPILED(TTL_S, PLENTY, buckets=1)
    ids = list(chosen(255, 400))
    for number, message_id in enumerate(ids):
        memory.add(message_id, number & 255, number & 7)
    assert [memory.get(message_id) for message_id in ids] == [number & 7 for number in range(400)]
    assert len(memory.scan(0, 1, ALL_SLOTS)) == 400


def test_what_can_not_be_told_in_a_record_is_refused() -> None:
    memory: Any = COMPILED(TTL_S, PLENTY)
    pure: Any = PURE(TTL_S, PLENTY)
    for arguments in ((bytes(256), 0, 0), (b"m", 0, 256), (b"m", 0, -1)):
        for one in (memory, pure):
            with pytest.raises((OverflowError, IndexError, struct.error)):
                one.add(*arguments)
    for call in (memory.get, memory.forget, memory.slots_of):
        with pytest.raises(TypeError):
            call("m")
    assert memory.get(bytes(1000)) is None
    assert memory.get(b"") is None
    assert len(memory) == 0
    with pytest.raises(AssertionError):
        COMPILED(TTL_S, PLENTY, buckets=3)


def test_a_large_generation_is_freed_a_mebibyte_at_a_time() -> None:
    memory: Any = COMPILED(TTL_S, 32 * MIB)
    for n in range(200_000):
        memory.add(n.to_bytes(16, "little"), 0, 0)
    assert not memory.full
    memory.clear()
    left, steps = memory.expiring_bytes, 0
    assert left >= 200_000 * CELL_BYTES
    while memory.expiring_bytes:
        memory.advance(0.0)
        steps += 1
    assert steps == -(-200_000 * CELL_BYTES // MIB)


def test_the_numbers_are_those_of_the_python() -> None:
    found = re.findall(r"^    (\w+) = ([\d_]+)\b", SOURCE.read_text(), re.MULTILINE)
    numbers = {name: int(value) for name, value in found}
    assert numbers["SLOT_COUNT"] == SLOT_COUNT
    assert numbers["BUCKETS"] == module._BUCKETS
    assert numbers["PARTS"] == module._PARTS
    assert numbers["FREE_SHARE"] == module._FREE_SHARE
    assert f"ADVANCE_MAX_S = {module._ADVANCE_MAX_S}" in SOURCE.read_text()
