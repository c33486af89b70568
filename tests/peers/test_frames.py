"""Frames: whole, byte by byte, many at once, and what is none."""

import random

import pytest

from app.cluster.replication.frames import BadFrame
from app.peers.frames import ANSWER, FORWARD, FRAME_MAX_BYTES, HEADER_BYTES, Frame, FrameReader, pack_header


def packed(*frames: Frame) -> bytes:
    return b"".join(pack_header(len(body), kind) + body for kind, body in frames)


FRAMES = [(FORWARD, b"body"), (ANSWER, b""), (255, bytes(range(256)) * 40), (FORWARD, b"x")]


def test_the_form() -> None:
    assert packed((ANSWER, b"ab")) == b"\x02\x00\x00\x00\x02ab"
    assert HEADER_BYTES == 5


def test_whole() -> None:
    assert FrameReader().feed(packed(*FRAMES)) == FRAMES


def test_byte_by_byte() -> None:
    reader = FrameReader()
    stream = packed(*FRAMES)
    frames = [frame for at in range(len(stream)) for frame in reader.feed(stream[at : at + 1])]
    assert frames == FRAMES


def test_in_pieces_of_every_size() -> None:
    rng = random.Random(1)
    stream = packed(*FRAMES * 20)
    for _ in range(200):
        reader, at, frames = FrameReader(), 0, []
        while at < len(stream):
            size = rng.choice((1, 3, 5, 40, 5000, 30000))
            frames += reader.feed(memoryview(stream)[at : at + size])
            at += size
        assert frames == FRAMES * 20


def test_bodies_do_not_depend_on_the_buffer_they_came_in() -> None:
    buffer = bytearray(packed(*FRAMES))
    frames = FrameReader().feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert frames == FRAMES
    assert all(type(body) is bytes for _, body in frames)


@pytest.mark.parametrize(("length", "is_good"), [(FRAME_MAX_BYTES, True), (FRAME_MAX_BYTES + 1, False)])
def test_the_longest_frame(length: int, is_good: bool) -> None:
    reader = FrameReader()
    if is_good:
        assert reader.feed(pack_header(length, FORWARD)) == []
        assert reader.feed(bytes(length)) == [(FORWARD, bytes(length))]
    else:
        with pytest.raises(BadFrame, match=str(length)):
            reader.feed(pack_header(length, FORWARD))


def test_a_length_out_of_all_bounds_is_refused_before_its_body() -> None:
    with pytest.raises(BadFrame):
        FrameReader().feed(packed(FRAMES[0]) + b"\xff\xff\xff\xff\x01")


def test_a_frame_of_no_kind_is_none() -> None:
    with pytest.raises(BadFrame):
        FrameReader().feed(bytes(HEADER_BYTES))


def test_no_more_is_held_of_a_stream_than_the_longest_frame_and_one_read() -> None:
    """Whatever the lengths and the reads: all of a frame but its last byte, behind many whole ones."""
    rng = random.Random(1)
    reader = FrameReader()
    for length in [FRAME_MAX_BYTES, *(rng.choice((0, 100, 20_000, FRAME_MAX_BYTES)) for _ in range(50))]:
        data = pack_header(length, FORWARD) + bytes(length)
        for start in range(0, len(data), 16_384):
            reader.feed(data[start : start + 16_384])
            assert len(reader._rest) <= HEADER_BYTES + FRAME_MAX_BYTES
    assert not reader._rest
