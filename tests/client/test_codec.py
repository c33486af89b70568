"""The client's codec against the golden vectors, and against whatever else may arrive."""

import contextlib
import json
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client import codec
from app.wire.protocol import GET, PUT, TYPE_ACK, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg

VECTORS = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())["vectors"]
ANSWERED = [vector for vector in VECTORS if vector["response"]]


@pytest.mark.parametrize("vector", ANSWERED, ids=[vector["name"] for vector in ANSWERED])
def test_golden_vectors(vector: dict[str, str]) -> None:
    golden = bytes.fromhex(vector["request"])
    message = Msg.FromString(golden)
    ours = Msg.FromString(codec.encode_request(message.messageID, KVRequest.FromString(message.payload)))
    # The vectors leave `type` out and we say 0: that is the same.
    ours.ClearField("type")
    assert ours.SerializeToString() == golden
    message_id, response = codec.decode_response(bytes.fromhex(vector["response"]))
    assert message_id == bytes(range(16))
    assert response.HasField("errCode")


def envelope(message_id: bytes, payload: bytes, checksum: int | None = None, kind: int = TYPE_RESPONSE) -> bytes:
    if checksum is None:
        checksum = crc32(message_id + payload)
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=kind).SerializeToString()


PAYLOAD = KVResponse(errCode=0, value=b"", version=-1).SerializeToString()


def test_explicit_empty_and_negative_fields_arrive() -> None:
    message_id, response = codec.decode_response(envelope(b"i" * 64, PAYLOAD))
    assert message_id == b"i" * 64
    assert response.HasField("value")
    assert response.version == -1
    assert not response.HasField("pid")


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
    with pytest.raises(codec.NotAnAnswer) as caught:
        codec.decode_response(datagram)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_nothing_but_the_declared_error_comes_out_of_junk(datagram: bytes) -> None:
    with contextlib.suppress(codec.NotAnAnswer):
        codec.decode_response(datagram)


@given(
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=32),
    st.binary(max_size=10_000),
    st.integers(-(2**31), 2**31 - 1),
)
def test_a_request_says_what_was_put_in(message_id: bytes, key: bytes, value: bytes, version: int) -> None:
    request = KVRequest(command=PUT, key=key, value=value, version=version)
    message = Msg.FromString(codec.encode_request(message_id, request))
    assert message.messageID == message_id
    assert message.checkSum == crc32(message_id + message.payload)
    assert KVRequest.FromString(message.payload) == request


def test_an_ack_has_an_explicit_empty_payload() -> None:
    message = Msg.FromString(codec.encode_ack(b"id"))
    assert message.HasField("payload")
    assert (message.payload, message.type, message.checkSum) == (b"", TYPE_ACK, crc32(b"id"))


def test_a_retry_is_byte_for_byte_the_same() -> None:
    request = KVRequest(command=GET, key=b"k")
    assert codec.encode_request(b"id", request) == codec.encode_request(b"id", request)
