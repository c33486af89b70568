"""Datagrams for tests, made and read by protobuf alone."""

from zlib import crc32

from app.wire.protocol import TYPE_ACK, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg


def envelope(message_id: bytes | None, payload: bytes | None, kind: int | None = None, flip: int = 0) -> bytes:
    """A Msg; None leaves a field out, and `flip` is what to make the checksum wrong by."""
    checksum = crc32((message_id or b"") + (payload or b"")) ^ flip
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=kind).SerializeToString()


def request(message_id: bytes, **fields: object) -> bytes:
    """The datagram of a KVRequest."""
    return envelope(message_id, KVRequest(**fields).SerializeToString())


def ack(message_id: bytes) -> bytes:
    return envelope(message_id, b"", TYPE_ACK)


def response(datagram: bytes | None, message_id: bytes) -> KVResponse:
    """What a datagram answers to the request of that messageID; all that clients require of it is checked."""
    assert datagram is not None, "nothing was answered"
    msg = Msg.FromString(datagram)
    for field in ("messageID", "payload", "checkSum"):
        assert msg.HasField(field), f"no {field}"
    assert msg.messageID == message_id
    assert msg.type == TYPE_RESPONSE
    assert msg.checkSum == crc32(msg.messageID + msg.payload)
    answer = KVResponse.FromString(msg.payload)
    assert answer.HasField("errCode"), "no errCode"
    return answer
