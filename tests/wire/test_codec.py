"""The hand-made encodings against protobuf's, and the parsers against everything."""

from contextlib import suppress
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire.codec import (
    DecodeError,
    encode_response,
    error_payload,
    is_read,
    is_refusal,
    parse_msg,
    parse_request,
)
from app.wire.protocol import COMMAND_NAMES, ERROR_NAMES, GET, SYS_OVERLOAD_ERR, TYPE_RESPONSE, VALUE_MAX_BYTES, varint
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.support.parts import examples
from tests.support.pieces import WHICH, pieces
from tests.wire.datagrams import envelope, request
from tests.wire.vectors import exchanges

thorough = examples(200)


@pytest.fixture(scope="module", params=WHICH)
def codec(request: pytest.FixtureRequest) -> Any:
    return pieces("codec", request.param)


message_ids = st.binary(min_size=1, max_size=64)
int32s = st.integers(-(2**31), 2**31 - 1) | st.sampled_from((0, 1, 127, 128, 16383, 16384, -1))
# Lengths on both sides of where a length or the payload's length takes one byte more.
values = st.binary(max_size=140) | st.integers(0, VALUE_MAX_BYTES).map(lambda n: b"\x28" * n)


@thorough
@given(int32s)
def test_a_varint_is_protobufs(number: int) -> None:
    assert b"\x20" + varint(number) == KVResponse(version=number).SerializeToString()


@pytest.mark.parametrize("code", ERROR_NAMES)
def test_an_error_payload_is_protobufs(code: int) -> None:
    assert error_payload(code) == KVResponse(errCode=code).SerializeToString()


@thorough
@given(st.sampled_from(tuple(ERROR_NAMES)), int32s)
def test_an_error_payload_with_a_wait_is_protobufs(code: int, wait_ms: int) -> None:
    expected = KVResponse(errCode=code, overloadWaitTime=wait_ms).SerializeToString()
    assert error_payload(code, wait_ms) == expected


@thorough
@given(values, int32s)
def test_a_value_is_protobufs(codec: Any, value: bytes, version: int) -> None:
    expected = KVResponse(errCode=0, value=value, version=version).SerializeToString()
    assert error_payload(0) + codec.encode_value(value, version) == expected


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 129, 9_999, VALUE_MAX_BYTES])
@pytest.mark.parametrize("version", [0, 127, 128, -1, 2**31 - 1, -(2**31)])
def test_a_value_is_protobufs_at_the_limits(codec: Any, length: int, version: int) -> None:
    expected = KVResponse(value=bytes(length), version=version).SerializeToString()
    assert codec.encode_value(bytes(length), version) == expected


@thorough
@given(message_ids, values)
def test_a_response_is_protobufs(codec: Any, message_id: bytes, payload: bytes) -> None:
    expected = envelope(message_id, payload, TYPE_RESPONSE)
    assert codec.encode_response(message_id, crc32(message_id), payload) == expected


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, VALUE_MAX_BYTES, VALUE_MAX_BYTES + 60])
@pytest.mark.parametrize("id_length", [1, 15, 16, 17, 64])
def test_a_response_is_protobufs_at_the_limits(codec: Any, length: int, id_length: int) -> None:
    message_id, payload = bytes(id_length), b"\x19" * length
    assert codec.encode_response(message_id, crc32(message_id), payload) == envelope(message_id, payload, TYPE_RESPONSE)


@pytest.mark.parametrize("code", ERROR_NAMES)
def test_an_error_is_protobufs(codec: Any, code: int) -> None:
    for id_length in range(1, 65):
        message_id = bytes(range(100, 100 + id_length))
        expected = envelope(message_id, KVResponse(errCode=code).SerializeToString(), TYPE_RESPONSE)
        assert codec.encode_error(message_id, crc32(message_id), code) == expected


@pytest.mark.parametrize("command", [*COMMAND_NAMES, 0, 99])
def test_what_only_reads(command: int) -> None:
    assert is_read(request(b"m" * 16, command=command, key=b"k")) is (command == GET)


@pytest.mark.parametrize("code", ERROR_NAMES)
def test_what_was_refused_for_now(code: int) -> None:
    reply = encode_response(b"m", crc32(b"m"), error_payload(code, 5))
    assert is_refusal(reply) is (code == SYS_OVERLOAD_ERR)


@pytest.mark.parametrize("reply", [b"\xff" * 9, envelope(b"m", b"\xff" * 9, TYPE_RESPONSE)])
def test_what_is_no_response_is_no_refusal(reply: bytes) -> None:
    assert is_refusal(reply) is False


def parses_or_is_refused(codec: Any, datagram: bytes) -> None:
    for parse in (parse_msg, parse_request):
        with suppress(DecodeError):
            parse(datagram)
    codec.take_ordinary(datagram, 0, len(datagram))


@thorough
@given(st.binary(max_size=200))
def test_parsing_noise_raises_nothing_but_decode_errors(codec: Any, datagram: bytes) -> None:
    parses_or_is_refused(codec, datagram)


@thorough
@given(
    message_ids,
    st.builds(KVRequest, command=st.integers(0, 2**32 - 1), key=st.binary(max_size=40), value=values, version=int32s),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    st.integers(0, 300),
)
def test_parsing_damaged_requests_raises_nothing_but_decode_errors(
    codec: Any, message_id: bytes, body: KVRequest, changes: list[tuple[int, int]], cut: int
) -> None:
    datagram = bytearray(envelope(message_id, body.SerializeToString()))
    for at, byte in changes:
        datagram[at % len(datagram)] = byte
    parses_or_is_refused(codec, bytes(datagram))
    parses_or_is_refused(codec, bytes(datagram[:-cut]))


def test_every_beginning_of_a_request_parses_or_is_refused(codec: Any) -> None:
    datagram = request(b"m" * 16, command=1, key=b"key", value=b"value", version=7)
    for end in range(len(datagram)):
        parses_or_is_refused(codec, datagram[:end])


@pytest.mark.parametrize("exchange", exchanges(), ids=lambda exchange: exchange.name)
def test_golden_answers_are_what_the_encoders_make(codec: Any, exchange) -> None:  # type: ignore[no-untyped-def]
    if exchange.response is None:
        return
    msg = parse_msg(exchange.response)
    assert msg.SerializeToString() == exchange.response
    assert codec.encode_response(msg.messageID, crc32(msg.messageID), msg.payload) == exchange.response
    answer = KVResponse.FromString(msg.payload)
    if answer == KVResponse(errCode=answer.errCode):
        assert codec.encode_error(msg.messageID, crc32(msg.messageID), answer.errCode) == exchange.response
