"""Frames between replicas: there and back, cut, with trailing bytes, and over their limits."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster import limits
from app.cluster.replication import frames
from app.cluster.replication.frames import BadFrame
from app.storage.mutate import HINDRANCES
from app.wire.protocol import KEY_MAX_BYTES, MESSAGE_ID_MAX_BYTES

OP = frames.encode_op(frames.PUT_OP, 7, 0, b"m" * 16, b"key", 3, 9, b"blob")
ENTRY = frames.encode_entry(7, b"key", b"blob")
REPLY = frames.encode_reply(7, 1, b"id")
PATCHES = [
    frames.Patch(0, 5, (4, 1 << 40), [b"k" * KEY_MAX_BYTES, b"l"], [b"m" * MESSAGE_ID_MAX_BYTES]),
    frames.Patch(255, 5, (0, 0), [], []),
]
TOUCHED = [
    frames.Patch(0, 0, (4, 1 << 40), [b"k" * KEY_MAX_BYTES, b"l"], [b"m" * MESSAGE_ID_MAX_BYTES]),
    frames.Patch(255, 0, frames.NOWHERE, [], []),
]

SOUND: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "have": (frames.decode_have, frames.encode_have(1, 2, 3, [(0, (1, 2)), (255, frames.NOWHERE)])),
    "start": (frames.decode_start, frames.encode_start(3, [(0, 5, (1, 2)), (255, 5, (0, 0))])),
    "ops": (frames.decode_ops, OP),
    "ack": (frames.decode_ack, frames.encode_ack(3, [(0, 1, 2)])),
    "entries": (frames.decode_entries, ENTRY),
    "replies": (frames.decode_replies, REPLY),
    "end": (frames.decode_end, frames.encode_end([(0, 1), (255, 2)])),
    "credit": (frames.decode_credit, frames.encode_credit(17)),
    "past": (frames.decode_past, frames.encode_past(3, [(0, 1, 2, 3), (255, 4, 5, 1 << 40)])),
    "patches": (frames.decode_patches, frames.encode_patches(3, PATCHES)),
    "touched": (frames.decode_touched, frames.encode_patches(3, TOUCHED)),
    "ask": (frames.decode_query, frames.encode_query(1, 2, [])),
}


def test_there_and_back() -> None:
    assert frames.decode_have(SOUND["have"][1]) == (1, 2, 3, [(0, (1, 2)), (255, frames.NOWHERE)])
    assert frames.decode_start(SOUND["start"][1]) == (3, [(0, 5, (1, 2)), (255, 5, (0, 0))])
    assert frames.decode_ack(SOUND["ack"][1]) == (3, [(0, 1, 2)])
    assert frames.decode_end(SOUND["end"][1]) == [(0, 1), (255, 2)]
    assert frames.decode_credit(SOUND["credit"][1]) == 17
    assert frames.decode_past(SOUND["past"][1]) == (3, [(0, 1, 2, 3), (255, 4, 5, 1 << 40)])
    assert frames.decode_patches(SOUND["patches"][1]) == (3, PATCHES)
    assert frames.decode_touched(SOUND["touched"][1]) == (3, TOUCHED)
    assert sum(patch.size_bytes for patch in PATCHES) == len(SOUND["patches"][1]) - 4
    assert frames.decode_query(frames.encode_query(1, 2, [4, 255])) == (1, 2, bytes([4, 255]))
    assert frames.decode_query(frames.encode_query(1, 2, [])) == (1, 2, b"")
    assert frames.decode_entries(ENTRY + ENTRY) == [(7, b"key", b"blob")] * 2
    assert frames.decode_replies(REPLY + REPLY) == [(7, 1, b"id")] * 2
    wipe = frames.encode_op(frames.WIPE_OP, 255, 0, b"", b"", 1, 2, b"")
    assert frames.decode_ack(frames.encode_ack(0, [(0, 1, 1 << 40)])) == (0, [(0, 1, 1 << 40)])  # after many writes
    assert frames.decode_ops(frames.encode_op(frames.WIPE_OP, 0, 0, b"", b"", 1, 1 << 40, b""))[0].seq == 1 << 40
    ops = frames.decode_ops(OP + wipe)
    assert ops[0] == frames.OpFields(frames.PUT_OP, 7, 0, b"m" * 16, b"key", 3, 9, b"blob")
    assert ops[1] == frames.OpFields(frames.WIPE_OP, 255, 0, b"", b"", 1, 2, b"")


@pytest.mark.parametrize("name", SOUND)
def test_cut_anywhere(name: str) -> None:
    """What is cut is refused, unless it is cut between two rows."""
    decode, body = SOUND[name]
    refused = 0
    for length in range(len(body)):
        try:
            decode(body[:length])
        except BadFrame:
            refused += 1
    assert refused >= len(body) - 4


@pytest.mark.parametrize("name", [name for name in SOUND if name != "ask"])
def test_trailing_byte(name: str) -> None:
    decode, body = SOUND[name]
    with pytest.raises(BadFrame):
        decode(body + b"\0")


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (frames.decode_ops, frames.encode_op(frames.PUT_OP, 0, 0, b"m", b"k" * (KEY_MAX_BYTES + 1), 1, 1, b"")),
        (frames.decode_ops, frames.encode_op(frames.PUT_OP, 0, 0, b"m" * (MESSAGE_ID_MAX_BYTES + 1), b"k", 1, 1, b"")),
        (frames.decode_ops, frames.encode_op(frames.PUT_OP, 0, 0, b"m", b"", 1, 1, b"")),
        (frames.decode_ops, frames.encode_op(frames.WIPE_OP, 0, 0, b"m", b"k", 1, 1, b"")),
        (frames.decode_ops, frames.encode_op(frames.REMOVE_OP, 0, 0, b"m", b"k", 1, 1, b"v")),
        (frames.decode_ops, frames.encode_op(9, 0, 0, b"m", b"k", 1, 1, b"")),
        (frames.decode_ops, bytes(frames.BODY_MAX_BYTES + 1)),
        (frames.decode_entries, frames.encode_entry(0, b"k" * (KEY_MAX_BYTES + 1), b"")),
        (frames.decode_entries, frames.encode_entry(0, b"k", bytes(frames.BLOB_MAX_BYTES + 1))),
        (frames.decode_entries, frames.encode_entry(0, b"", b"")),
        (frames.decode_replies, frames.encode_reply(0, 0, b"m" * (MESSAGE_ID_MAX_BYTES + 1))),
        (frames.decode_replies, frames.encode_reply(0, 0, b"")),
        (frames.decode_ops, frames.encode_op(frames.PUT_OP, 0, 0, b"m" * 16, b"k", 1, 1, b"v")[:-1]),
        (frames.decode_entries, frames.encode_entry(0, b"k", b"value")[:-1]),
        (frames.decode_replies, frames.encode_reply(0, 0, b"m" * 16)[:-1]),
        (frames.decode_entries, frames.encode_entry(0, b"k", bytes(1000)) * (frames.BODY_MAX_BYTES // 1000 + 1)),
        (frames.decode_replies, frames.encode_reply(0, 0, b"m" * 60) * (frames.BODY_MAX_BYTES // 60 + 1)),
        (frames.decode_ack, bytes([HINDRANCES + 1])),
        (frames.decode_end, frames.encode_end([(0, 1)] * 257)),
        (frames.decode_past, frames.encode_past(1, [(0, 1, 2, 3)] * (256 * frames.STRETCHES_MAX + 1))),
        (frames.decode_past, frames.encode_past(1, [(0, 1, 2, 3)] * (frames.STRETCHES_MAX + 1))),
        (frames.decode_patches, frames.encode_patches(1, [frames.Patch(0, 1, (1, 2), [b"k" * 33], [])])),
        (frames.decode_patches, frames.encode_patches(1, [frames.Patch(0, 1, (1, 2), [b""], [])])),
        (frames.decode_patches, frames.encode_patches(1, [frames.Patch(0, 1, (1, 2), [], [b"m" * 65])])),
        (frames.decode_patches, bytes(frames.BODY_MAX_BYTES + 1)),
    ],
)
def test_limits(decode: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(body)


def test_what_is_at_the_limits_is_taken() -> None:
    key, message_id = b"k" * KEY_MAX_BYTES, b"m" * MESSAGE_ID_MAX_BYTES
    blob = bytes(frames.BLOB_MAX_BYTES)
    assert len(frames.decode_ops(frames.encode_op(frames.PUT_OP, 0, 0, message_id, key, 1, 1, blob))) == 1
    assert len(frames.decode_entries(frames.encode_entry(0, key, blob))) == 1
    assert len(frames.decode_replies(frames.encode_reply(0, 0, message_id))) == 1


TOO_FAR = (5, limits.SEQ.most + 1)
MIXED: list[tuple[Callable[[bytes], Any], Callable[[list[Any]], bytes], Any, Any]] = [
    (frames.decode_have, lambda rows: frames.encode_have(1, 2, 3, rows), (0, (1, 2)), (1, TOO_FAR)),
    (frames.decode_start, lambda rows: frames.encode_start(3, rows), (0, 5, (1, 2)), (1, 5, TOO_FAR)),
    (frames.decode_ack, lambda rows: frames.encode_ack(0, rows), (0, 1, 2), (1, *TOO_FAR)),
    (frames.decode_end, frames.encode_end, (0, 1), (1, limits.TERM.most + 1)),
    (frames.decode_past, lambda rows: frames.encode_past(3, rows), (0, 1, 2, 3), (0, 1, 3, 2)),
    (frames.decode_touched, lambda rows: frames.encode_patches(3, rows), TOUCHED[0], PATCHES[0]),
    (frames.decode_patches, lambda rows: frames.encode_patches(3, rows), PATCHES[0], TOUCHED[0]),
]


@pytest.mark.parametrize(("decode", "encode", "sound", "unsound"), MIXED)
def test_one_unsound_row_is_enough(
    decode: Callable[[bytes], Any], encode: Callable[[list[Any]], bytes], sound: Any, unsound: Any
) -> None:
    decode(encode([]))
    decode(encode([sound, sound]))
    for rows in ([unsound, sound], [sound, unsound]):
        with pytest.raises(BadFrame):
            decode(encode(rows))


@pytest.mark.parametrize(
    ("decode", "one", "least"),
    [
        (frames.decode_ops, lambda more: frames.encode_op(frames.NOTE_OP, 0, 0, b"m" * more, b"", 1, 1, b""), 19),
        (frames.decode_entries, lambda more: frames.encode_entry(0, b"k", bytes(more)), 5),
        (frames.decode_replies, lambda more: frames.encode_reply(0, 0, b"m" * (1 + more)), 4),
    ],
)
def test_a_frame_may_be_so_long_and_no_longer(
    decode: Callable[[bytes], Any], one: Callable[[int], bytes], least: int
) -> None:
    def body(size_bytes: int) -> bytes:
        """So many bytes of sound rows. `one`: a row of `least` bytes, and as many more as it is told."""
        more = 20
        count = size_bytes // (least + more) - 1
        rest = size_bytes - count * (least + more)
        rows = [one(more)] * count + [one(rest // 2 - least), one(rest - rest // 2 - least)]
        assert sum(map(len, rows)) == size_bytes
        return b"".join(rows)

    decode(body(frames.BODY_MAX_BYTES))
    with pytest.raises(BadFrame):
        decode(body(frames.BODY_MAX_BYTES + 1))


def test_a_patch_may_be_as_long_as_a_frame_and_no_longer() -> None:
    ids = [b"m" * 64] * ((frames.BODY_MAX_BYTES - 4 - 21 - 100) // 65)
    left = frames.BODY_MAX_BYTES - 4 - frames.Patch(0, 1, (1, 2), [], ids).size_bytes
    for more in (0, 1):
        ends = [b"m" * (part - 1) for part in (left // 3, left // 3, left - 2 * (left // 3) + more)]
        body = frames.encode_patches(1, [frames.Patch(0, 1, (1, 2), [], ids + ends)])
        assert len(body) == frames.BODY_MAX_BYTES + more
        if not more:
            assert frames.decode_patches(body)[1][0].message_ids == ids + ends
        else:
            with pytest.raises(BadFrame):
                frames.decode_patches(body)


DECODERS = [decode for decode, _ in SOUND.values()]


@given(st.sampled_from(DECODERS), st.binary(max_size=200))
def test_whatever_arrives_is_taken_or_refused(decode: Callable[[bytes], Any], body: bytes) -> None:
    with suppress(BadFrame):
        decode(body)


NAMES = st.lists(st.binary(min_size=1, max_size=KEY_MAX_BYTES), max_size=5)
POSITIONS = st.tuples(st.integers(*limits.TERM), st.integers(*limits.SEQ))
SESSIONS = st.integers(*limits.EPOCH)
NUMBERS = st.integers(*limits.REPORT)


@given(NUMBERS, st.lists(st.builds(frames.Patch, st.integers(0, 255), SESSIONS, POSITIONS, NAMES, NAMES), max_size=5))
def test_patches_go_there_and_back(number: int, patches: list[frames.Patch]) -> None:
    body = frames.encode_patches(number, patches)
    assert frames.decode_patches(body) == (number, patches)
    assert len(body) == 4 + sum(patch.size_bytes for patch in patches)
