"""The client's codec against the golden vectors, and against protobuf: what it writes, and what it reads."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from app.client import codec
from app.client.codec import KVRequest, KVResponse
from app.wire.protocol import GET, PUT, TYPE_ACK, TYPE_RESPONSE
from proto_gen import key_value_pb2 as pb
from proto_gen.message_pb2 import Msg

VECTORS = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())["vectors"]
ANSWERED = [vector for vector in VECTORS if vector["response"]]


def fields_of(message: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) if message.HasField(name) else None for name in names}


@pytest.mark.parametrize("vector", ANSWERED, ids=[vector["name"] for vector in ANSWERED])
def test_golden_vectors(vector: dict[str, str]) -> None:
    golden = bytes.fromhex(vector["request"])
    message = Msg.FromString(golden)
    request = KVRequest(**fields_of(pb.KVRequest.FromString(message.payload), KVRequest._fields))
    # The vectors leave `type` out and we say 0: that is the same.
    assert codec.encode_request(message.messageID, request) == golden + b"\x28\x00"
    datagram = bytes.fromhex(vector["response"])
    message_id, response = codec.decode_response(datagram)
    assert message_id == bytes(range(16))
    assert response.errCode is not None
    assert read(datagram) == read_by_protobuf(datagram)


# Writing.


@given(
    st.binary(max_size=300),
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300) | st.just(bytes(10_000)) | st.just(bytes(20_000)),
    st.none() | st.integers(-(2**31), 2**31 - 1),
)
def test_a_request_is_what_protobuf_makes_of_it(
    message_id: bytes, command: int | None, key: bytes | None, value: bytes | None, version: int | None
) -> None:
    payload = pb.KVRequest(command=command, key=key, value=value, version=version).SerializeToString()
    whole = Msg(messageID=message_id, payload=payload, checkSum=crc32(message_id + payload), type=0)
    assert codec.encode_request(message_id, KVRequest(command, key, value, version)) == whole.SerializeToString()


def test_an_ack_has_an_explicit_empty_payload() -> None:
    message = Msg.FromString(codec.encode_ack(b"id"))
    assert message.HasField("payload")
    assert (message.payload, message.type, message.checkSum) == (b"", TYPE_ACK, crc32(b"id"))


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        (KVRequest(GET, "k"), TypeError, "a key is bytes, not str: key.encode() makes bytes of it"),  # type: ignore[arg-type]
        (KVRequest(PUT, b"k", "v"), TypeError, "a value is bytes, not str: value.encode() makes bytes of it"),  # type: ignore[arg-type]
        (KVRequest(PUT, b"k", bytearray(b"v")), TypeError, "a value is bytes, not bytearray: bytes(value) may make"),  # type: ignore[arg-type]
        (KVRequest(GET, 1), TypeError, "a key is bytes, not int"),  # type: ignore[arg-type]
        (KVRequest(PUT, b"k", b"v", 1.0), TypeError, "a version is an int, not float"),  # type: ignore[arg-type]
        (KVRequest(PUT, b"k", b"v", True), TypeError, "a version is an int, not bool"),
        (KVRequest(PUT, b"k", b"v", 2**31), ValueError, "a version is -2147483648 to 2147483647, not 2147483648"),
        (KVRequest(PUT, b"k", b"v", -(2**31) - 1), ValueError, "not -2147483649"),
        (KVRequest(-1), ValueError, "a command is 0 to 4294967295, not -1"),
        (KVRequest(2**32), ValueError, "not 4294967296"),
    ],
)
def test_what_is_no_request_says_why(request_: KVRequest, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        codec.encode_request(b"id", request_)
    assert told in str(caught.value)


# Reading.


def read(datagram: bytes) -> tuple[bytes, KVResponse] | str:
    """What the client reads in a datagram, or why it does not."""
    try:
        return codec.decode_response(datagram)
    except codec.NotAnAnswer as fault:
        return fault.reason


def read_by_protobuf(datagram: bytes) -> tuple[bytes, KVResponse] | str:
    """The same, by a program that has protobuf."""
    try:
        message = Msg.FromString(datagram)
        if message.checkSum != crc32(message.messageID + message.payload):
            return codec.WRONG_CHECKSUM
        if message.type != TYPE_RESPONSE:
            return codec.NOT_A_RESPONSE
        response = pb.KVResponse.FromString(message.payload)
    except DecodeError:
        return codec.UNPARSABLE
    return message.messageID, KVResponse(**fields_of(response, KVResponse._fields))


def envelope(message_id: bytes, payload: bytes, checksum: int | None = None, kind: int = TYPE_RESPONSE) -> bytes:
    if checksum is None:
        checksum = crc32(message_id + payload)
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=kind).SerializeToString()


PAYLOAD = pb.KVResponse(errCode=0, value=b"", version=-1).SerializeToString()


def test_explicit_empty_and_negative_fields_arrive() -> None:
    message_id, response = codec.decode_response(envelope(b"i" * 64, PAYLOAD))
    assert message_id == b"i" * 64
    assert response == KVResponse(errCode=0, value=b"", version=-1)
    assert response.pid is None


def test_a_code_that_is_left_out_is_no_error() -> None:
    _, response = codec.decode_response(envelope(b"id", b""))
    assert (response.errCode, response.code) == (None, 0)
    assert KVResponse(errCode=3).code == 3


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"\xff\xff\xff", codec.UNPARSABLE),
        (b"", codec.NOT_A_RESPONSE),
        (envelope(b"id", PAYLOAD, checksum=1), codec.WRONG_CHECKSUM),
        (envelope(b"id", PAYLOAD, checksum=crc32(b"id" + PAYLOAD) | 1 << 32), codec.WRONG_CHECKSUM),
        (envelope(b"id", PAYLOAD, kind=0), codec.NOT_A_RESPONSE),
        (envelope(b"id", PAYLOAD, kind=TYPE_ACK), codec.NOT_A_RESPONSE),
        (envelope(b"id", b"\xff"), codec.UNPARSABLE),
    ],
)
def test_what_is_not_an_answer_says_why(datagram: bytes, reason: str) -> None:
    assert read(datagram) == read_by_protobuf(datagram) == reason


# Fields as no serializer writes them: numbers that are longer than they need be, in any order, several of one number,
# of other types than are expected, in groups, of numbers that nobody knows.


def varint(number: int, longer: int = 0) -> bytes:
    """With so many digits more than it needs."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    for _ in range(longer):
        digits[-1] |= 0x80
        digits.append(0)
    return bytes(digits)


LONGER = st.sampled_from((0, 0, 0, 1, 2, 3, 9))
NUMBERS = st.builds(varint, st.integers(0, 300) | st.integers(0, 2**64 - 1), LONGER)
STRINGS = st.builds(
    lambda content, longer, wrong: varint(max(len(content) + wrong, 0), longer) + content,
    st.binary(max_size=200),
    LONGER,
    st.sampled_from((0, 0, 0, 0, 1, -1, 2**32)),
)


def group(content: list[bytes], number: int, wrong: int) -> bytes:
    return b"".join((varint(number << 3 | 3), *content, varint((number + wrong) << 3 | 4)))


def fields(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    def after_a_tag(kind: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        return st.builds(
            lambda number, longer, content: varint(number << 3 | kind, longer) + content, numbers, LONGER, content
        )

    return st.one_of(
        after_a_tag(0, NUMBERS),
        after_a_tag(1, st.binary(min_size=8, max_size=8)),
        after_a_tag(2, STRINGS),
        after_a_tag(5, st.binary(min_size=4, max_size=4)),
    )


SOUND = fields(st.integers(1, 7) | st.integers(1, 2**29 - 1))
# protobuf does not look at the numbers of fields in a group that it skips, and takes 0 there, too.
UNSOUND = fields(st.just(0) | st.integers(2**29, 2**30))
FIELDS = st.lists(
    st.recursive(
        SOUND,
        lambda inner: st.builds(group, st.lists(inner, max_size=3), st.integers(1, 20), st.sampled_from((0, 0, 0, 1))),
        max_leaves=4,
    )
    | UNSOUND
)
PAYLOADS = st.one_of(
    FIELDS.map(b"".join),
    st.tuples(FIELDS.map(b"".join), st.binary(max_size=5)).map(b"".join),
    st.binary(max_size=60),
    st.builds(
        pb.KVResponse,
        errCode=st.none() | st.integers(0, 2**32 - 1),
        value=st.none() | st.binary(max_size=300),
        pid=st.none() | st.integers(-(2**31), 2**31 - 1),
        version=st.none() | st.integers(-(2**31), 2**31 - 1),
        overloadWaitTime=st.none() | st.integers(-(2**31), 2**31 - 1),
        membershipCount=st.none() | st.integers(-(2**31), 2**31 - 1),
    ).map(pb.KVResponse.SerializeToString),
)


@given(st.binary(max_size=80), PAYLOADS)
@example(b"i" * 16, PAYLOAD)
@example(b"i", b"\x08" + b"\xff" * 9 + b"\x7f")  # bits above the 64th are lost
@example(b"i", b"\x08" + b"\xff" * 10 + b"\x01")  # 11 bytes
@example(b"i", b"\x88\x80\x80\x80\x00\x05")  # a tag of 5 bytes
@example(b"i", b"\x88\x80\x80\x80\x80\x00\x05")  # and of 6
@example(b"i", b"\x88\x80\x80\x80\x10\x05")  # a tag of 33 bits
@example(b"i", b"\x00\x05")  # field 0
@example(b"i", b"\x0b\x08\x05\x0c")  # in a group
@example(b"i", b"\x0b\x08\x05")  # that is not closed
@example(b"i", b"\x08\x05\x0c")  # that was not opened
@example(b"i", b"\x12\x05abc")  # longer than the message
@example(b"i", b"\x08")
@example(b"i", b"\x08\x80")
def test_any_payload_is_read_as_protobuf_reads_it(message_id: bytes, payload: bytes) -> None:
    datagram = envelope(message_id, payload)
    assert read(datagram) == read_by_protobuf(datagram)


@given(FIELDS, st.binary(max_size=40), st.binary(max_size=80))
def test_any_envelope_is_read_as_protobuf_reads_it(extra: list[bytes], message_id: bytes, payload: bytes) -> None:
    """Fields of the right message come last, so that it is an answer; of the others any may be among them before."""
    datagram = b"".join(extra) + envelope(message_id, payload)
    assert read(datagram) == read_by_protobuf(datagram)


@given(st.data(), st.binary(min_size=1, max_size=64))
def test_a_spoilt_datagram_is_read_as_protobuf_reads_it(data: st.DataObject, message_id: bytes) -> None:
    datagram = bytearray(envelope(message_id, PAYLOAD))
    at = data.draw(st.integers(0, len(datagram) - 1))
    datagram[at] = data.draw(st.integers(0, 255))
    for spoilt in (bytes(datagram), bytes(datagram[:at])):
        assert read(spoilt) == read_by_protobuf(spoilt)


@given(st.binary(max_size=200))
def test_junk_is_read_as_protobuf_reads_it(datagram: bytes) -> None:
    assert read(datagram) == read_by_protobuf(datagram)
