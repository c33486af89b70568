"""Frames: whole, byte by byte, many at once, and what is none."""

import random

import pytest

from app.cluster.replication.frames import BODY_MAX_BYTES, KINDS, BadFrame
from app.peers import frames
from app.peers.frames import (
    ANSWER,
    CLUSTER,
    FORWARD,
    FORWARD_BYTES,
    FRAME_MAX_BYTES,
    HEADER_BYTES,
    LIFE,
    LIFE_BYTES,
    Frame,
    FrameReader,
    cut,
    pack_header,
)
from app.wire.protocol import DATAGRAM_MAX_BYTES

KIND, OTHER = 201, 202  # of any length


def packed(*frames: Frame) -> bytes:
    return b"".join(pack_header(len(body), kind) + body for kind, body in frames)


FRAMES = [(KIND, b"body"), (OTHER, b""), (255, bytes(range(256)) * 40), (KIND, b"x")]


def test_the_form() -> None:
    assert packed((OTHER, b"ab")) == b"\x02\x00\x00\x00\xcaab"
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


def test_a_frame_that_comes_in_pieces_is_cut_once_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all that is there of it would be copied with each of them."""
    looked_at: list[int] = []

    def counted(data: bytes) -> tuple[list[Frame], int]:
        looked_at.append(len(data))
        return cut(data)

    monkeypatch.setattr(frames, "cut", counted)
    reader = FrameReader()
    body = bytes(10_000)
    stream = pack_header(len(body), KIND) + body
    assert reader.feed(stream[:3]) == reader.feed(stream[3:4]) == reader.feed(stream[4:5]) == []
    for at in range(HEADER_BYTES, len(stream) - 1, 101):
        assert reader.feed(stream[at : min(at + 101, len(stream) - 1)]) == []
    assert reader.feed(stream[-1:]) == [(KIND, body)]
    assert looked_at == [3, HEADER_BYTES, len(stream)]


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
        assert reader.feed(pack_header(length, KIND)) == []
        assert reader.feed(bytes(length)) == [(KIND, bytes(length))]
    else:
        with pytest.raises(BadFrame, match=str(length)):
            reader.feed(pack_header(length, KIND))


def test_a_length_out_of_all_bounds_is_refused_before_its_body() -> None:
    with pytest.raises(BadFrame):
        FrameReader().feed(packed(FRAMES[0]) + b"\xff\xff\xff\xff\x01")


def test_a_frame_of_no_kind_is_none() -> None:
    with pytest.raises(BadFrame):
        FrameReader().feed(bytes(HEADER_BYTES))


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (FORWARD, FORWARD_BYTES + 1, FORWARD_BYTES + DATAGRAM_MAX_BYTES),
        (ANSWER, 1, DATAGRAM_MAX_BYTES),
        (LIFE, LIFE_BYTES, LIFE_BYTES),
        (CLUSTER, 1, DATAGRAM_MAX_BYTES),
        *((kind, 0, BODY_MAX_BYTES) for kind in KINDS),
        (5, 0, FRAME_MAX_BYTES),
        (255, 0, FRAME_MAX_BYTES),
    ],
)
def test_how_long_frames_of_a_kind_are(kind: int, least: int, most: int) -> None:
    for length in (least, most):
        assert FrameReader().feed(packed((kind, bytes(length)))) == [(kind, bytes(length))]
    for length in (least - 1, most + 1):
        if length >= 0:
            with pytest.raises(BadFrame, match=str(length)):
                FrameReader().feed(pack_header(length, kind))


def test_no_more_is_held_of_a_stream_than_the_longest_frame_and_one_read() -> None:
    """Whatever the lengths and the reads: all of a frame but its last byte, behind many whole ones."""
    rng = random.Random(1)
    reader = FrameReader()
    for length in [FRAME_MAX_BYTES, *(rng.choice((0, 100, 20_000, FRAME_MAX_BYTES)) for _ in range(50))]:
        data = pack_header(length, 200) + bytes(length)  # of no known kind: any length will do
        for start in range(0, len(data), 16_384):
            reader.feed(data[start : start + 16_384])
            assert len(reader._rest) <= HEADER_BYTES + FRAME_MAX_BYTES
    assert not reader._rest
