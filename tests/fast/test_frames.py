"""Streams cut into frames and ops taken apart: the compiled functions against the Python that they stand in for."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import frames as ops
from app.peers import frames
from tests.support.pieces import pieces

PURE = pieces("frames", "pure")
LENGTHS = [0, 1, 7, 8, 9, 10, 11, 16383, 16384, 16385, 16393, 16394, 42941, 42942, 42943, 262144, 262145, 1 << 31]

bodies = st.binary(max_size=80)
numbers = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 33, 64, 65, 255]))
op_fields = st.tuples(
    st.sampled_from([0, 1, 2, 3, 4, 5, 255]),
    st.integers(0, 255),
    st.sampled_from([0, 1, 7, 8, 255]),
    st.binary(max_size=66),
    st.binary(max_size=34),
    st.sampled_from([0, 1, 0xFFFFFFFE, 0xFFFFFFFF]),
    st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
    st.one_of(st.binary(max_size=80), st.sampled_from([10014, 10015]).map(bytes)),
)


@pytest.fixture
def compiled():
    return pieces("frames", "compiled")


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 20, 28, 29, 255]), bodies), max_size=6), st.data())
def test_any_stream_is_cut_alike(frames_drawn, data):
    both = pieces("frames", "compiled")
    stream = b"".join(frames.pack_header(len(body), kind) + body for kind, body in frames_drawn)
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    assert both.cut(stream) == PURE.cut(stream)


def test_every_kind_has_the_same_lengths(compiled):
    for kind in range(256):
        for length in LENGTHS:
            head = frames.pack_header(length, kind)
            assert compiled.cut(head) == PURE.cut(head), (kind, length)
            whole = head + bytes(min(length, 300_000))
            assert compiled.cut(whole) == PURE.cut(whole), (kind, length)


@given(st.lists(op_fields, max_size=4), st.data())
def test_any_ops_are_taken_alike(drawn, data):
    both = pieces("frames", "compiled")
    body = b"".join(PURE.encode_op(*fields) for fields in drawn)
    assert b"".join(both.encode_op(*fields) for fields in drawn) == body
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body)))]
    found = both.take_ops(body, ops.OpFields)
    assert found == PURE.take_ops(body, ops.OpFields)
    assert found is None or all(type(op) is ops.OpFields for op in found)


def test_hostile_bytes(compiled):
    rng = random.Random(1)
    op = PURE.encode_op(ops.PUT_OP, 7, 0, b"m" * 16, b"key", 3, 9, b"blob")
    for _ in range(20_000):
        body = bytearray(op * rng.randint(1, 3))
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] = rng.choice((0, 1, 2, 31, 32, 33, 64, 127, 128, 255, rng.randrange(256)))
        body = bytes(body[: rng.choice((len(body), rng.randrange(len(body))))])
        assert compiled.take_ops(body, ops.OpFields) == PURE.take_ops(body, ops.OpFields), body.hex()
        assert compiled.cut(body) == PURE.cut(body), body.hex()


def test_too_many_bytes_of_ops(compiled):
    op = PURE.encode_op(ops.PUT_OP, 7, 0, b"m", b"k", 3, 9, b"b" * 10_000)
    assert len(op * 5) > ops.BODY_MAX_BYTES
    assert compiled.take_ops(op * 5, ops.OpFields) is None
    assert PURE.take_ops(op * 5, ops.OpFields) is None


def test_what_can_not_be_said_is_refused(compiled):
    for fields in ((1, 256, 0, b"", b"", 0, 0, b""), (1, 0, 0, bytes(256), b"", 0, 0, b"")):
        with pytest.raises(Exception, match=r".+"):
            PURE.encode_op(*fields)
        with pytest.raises(OverflowError):
            compiled.encode_op(*fields)
    for wrong in (None, "text", bytearray(3)):
        with pytest.raises(TypeError):
            compiled.take_ops(wrong, ops.OpFields)
        with pytest.raises(TypeError):
            compiled.cut(wrong)
