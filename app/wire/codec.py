"""Datagrams to messages and back, on the hot path.

Requests are parsed by protobuf, which copes with every legal encoding. In front of it stands a recognizer for the one
encoding that nearly all requests have: a GET or a PUT with a 16-byte messageID and the fields in order. A struct format
and some comparisons take it apart in 0.5 µs, where parsing two messages and reading eight fields takes 1.7 (0.1
compiled: `app/fast`); a regular expression took a third more. What is not exactly of that form is left to protobuf: the
tests hold the two against each other.

Responses are laid out by hand: they have a handful of fixed shapes, packing one takes 0.3 µs where filling in and
serializing two messages takes 2.6, and the tests compare them byte for byte with what protobuf makes.

All five response fields that clients of the proto2 form declare `required` are always written, zero or not.
"""

from struct import Struct
from typing import Final
from zlib import crc32

from google.protobuf.message import DecodeError

from app.fast import piece
from app.wire.protocol import (
    ERROR_NAMES,
    GET,
    KEY_MAX_BYTES,
    MESSAGE_ID_MAX_BYTES,
    NO_ERR,
    PUT,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    TYPE_RESPONSE,
    VALUE_MAX_BYTES,
    varint,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg

__all__ = [
    "DecodeError",
    "KVRequest",
    "KVResponse",
    "Msg",
    "encode_error",
    "encode_found",
    "encode_response",
    "encode_value",
    "error_payload",
    "is_read",
    "is_refusal",
    "parse_msg",
    "parse_request",
    "refused",
    "take_ordinary",
]

# A datagram to its Msg, a Msg's payload to its KVRequest. Both raise DecodeError.
parse_msg: Final = Msg.FromString
parse_request: Final = KVRequest.FromString


class _ByLength(dict[int, Struct]):
    """Formats by the bytes that a part of variable length takes; each is made when it is needed first."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def __missing__(self, length: int) -> Struct:
        made = self[length] = Struct(self._form % length)
        return made


# The ordinary encoding of a GET or PUT: tag and length of the messageID (one number), the messageID, the payload's tag
# and length, the payload, the checkSum's tag, checkSum. By the payload's length, if that takes one byte; else another
# follows it.
_ordinary: Final = _ByLength("<H16sBx%dsBQ")
_ID_TAG: Final = 0x0A | 16 << 8
_LENGTH_AT: Final = 2 + 16 + 1
_FRAME_BYTES: Final = _LENGTH_AT + 1 + 1 + 8  # all but the payload and the second byte of its length
_TYPE: Final = b"\x28\x00"  # and perhaps the type, which is 0
_SHORTEST_BYTES: Final = _FRAME_BYTES + 5  # a GET of a key of one byte

_SLOT_MASK: Final = SLOT_COUNT - 1

# What the literals in this module take for granted.
assert (PUT, GET) == (1, 2), "the payload's second byte is one of these two"
assert TYPE_RESPONSE == 1, "the last byte of every response"
assert MESSAGE_ID_MAX_BYTES < 128, "the length of a messageID must fit one varint byte"


@piece
def take_ordinary(buffer: bytes | bytearray, start: int, end: int) -> tuple[int, bytes, int, int, bytes, bytes] | None:
    """Take apart the datagram in `buffer[start:end]` if it is a sound GET or PUT in the ordinary encoding.

    Command, messageID and its CRC, slot, key, and for a PUT what the store is to keep (`encode_value`), else b"". None
    where it is anything else, sound or not.
    """
    if start < 0 or end > len(buffer) or end - start < _SHORTEST_BYTES:
        return None
    length = buffer[start + _LENGTH_AT]
    rest = end - start - length - _FRAME_BYTES
    if length < 0x80:
        form = _ordinary[length]
    else:
        length = length & 0x7F | buffer[start + _LENGTH_AT + 1] << 7
        rest = end - start - length - _FRAME_BYTES - 1
        if not 0x80 <= length < 0x4000:
            return None
        form = Struct(f"<H16sBxx{length}sBQ")
    if rest and (rest != 2 or buffer[end - 2 : end] != _TYPE):
        return None
    id_tag, message_id, payload_tag, payload, checksum_tag, checksum = form.unpack_from(buffer, start)
    if id_tag != _ID_TAG or payload_tag != 0x12 or checksum_tag != 0x19 or length < 5:
        return None
    id_crc = crc32(message_id)
    if crc32(payload, id_crc) != checksum:
        return None
    key_bytes = payload[3]
    if payload[0] != 0x08 or payload[2] != 0x12 or not 0 < key_bytes <= KEY_MAX_BYTES:
        return None
    value_at = 4 + key_bytes
    key = payload[4:value_at]
    if payload[1] == GET:
        return (GET, message_id, id_crc, crc32(key) & _SLOT_MASK, key, b"") if length == value_at else None
    # A value, and a version of one byte: but for its tag, what the store keeps.
    value_bytes = length - value_at - 4
    if value_bytes < 0 or payload[1] != PUT or payload[value_at] != 0x1A or payload[-2] != 0x20 or payload[-1] >= 0x80:
        return None
    if value_bytes < 0x80:
        if payload[value_at + 1] != value_bytes:
            return None
    elif not 0x80 < value_bytes <= VALUE_MAX_BYTES + 1 or not payload.startswith(varint(value_bytes - 1), value_at + 1):
        return None  # one byte of it is the length's
    return PUT, message_id, id_crc, crc32(key) & _SLOT_MASK, key, b"\x12" + payload[value_at + 1 :]


def error_payload(code: int, wait_ms: int | None = None) -> bytes:
    """The KVResponse that carries an error code, and the wait in ms for SYS_OVERLOAD_ERR."""
    return b"\x08%c" % code if wait_ms is None else b"\x08%c\x28%b" % (code, varint(wait_ms))


@piece
def encode_value(value: bytes, version: int) -> bytes:
    """Value and version as the fields of a KVResponse, both explicit: what the store keeps for a key.

    The response to a GET is then errCode's two bytes in front of what the store gives back.
    """
    length = len(value)
    if length < 0x80 and 0 <= version < 0x80:
        return b"\x12%c%b\x20%c" % (length, value, version)
    return b"\x12%b%b\x20%b" % (varint(length), value, varint(version))


# A response whose payload's length takes one byte, to a request with a messageID of 16 bytes, in one step; by that
# length. Tag and length of the messageID, the messageID, those of the payload, the payload, the checkSum's tag,
# checkSum, type.
_response: Final = _ByLength("<H16sH%dsBQH")
_TYPE_OF_RESPONSE: Final = 0x28 | TYPE_RESPONSE << 8


@piece
def encode_response(message_id: bytes, message_id_crc: int, payload: bytes) -> bytes:
    """The datagram of a response Msg; `message_id_crc` is crc32(message_id), the payload shorter than 16 KiB."""
    length = len(payload)
    crc = crc32(payload, message_id_crc)
    if length < 0x80 and len(message_id) == 16:
        return _response[length].pack(_ID_TAG, message_id, 0x12 | length << 8, payload, 0x19, crc, _TYPE_OF_RESPONSE)
    checksum = crc.to_bytes(8, "little")
    assert len(message_id) < 0x80, f"a messageID of {len(message_id)} bytes"
    assert length < 0x4000, f"a payload of {length} bytes"
    if length < 0x80:
        return b"\n%c%b\x12%c%b\x19%b\x28\x01" % (len(message_id), message_id, length, payload, checksum)
    return b"\n%c%b\x12%c%c%b\x19%b\x28\x01" % (
        len(message_id),
        message_id,
        length & 0x7F | 0x80,
        length >> 7,
        payload,
        checksum,
    )


assert VALUE_MAX_BYTES + 100 < 1 << (2 * 7), "the length of a payload must fit two varint bytes of 7 bits each"

_OK: Final = error_payload(NO_ERR)


@piece
def encode_found(message_id: bytes, message_id_crc: int, blob: bytes) -> bytes:
    """The datagram of the response to a GET that found something; `blob`: what the store keeps (`encode_value`)."""
    payload = _OK + blob
    length = len(payload)
    if length < 0x80 and len(message_id) == 16:
        crc = crc32(payload, message_id_crc)
        return _response[length].pack(_ID_TAG, message_id, 0x12 | length << 8, payload, 0x19, crc, _TYPE_OF_RESPONSE)
    return encode_response(message_id, message_id_crc, payload)


# A response that is an error code, likewise, in fewer parts: from the payload's tag to the checkSum's is one.
_pack_error: Final = Struct("<H16s5sQH").pack
# By error code: that part; and the payload, which the checksum is over.
_ERROR_MIDDLES: Final = [b"\x12\x02\x08%c\x19" % code for code in ERROR_NAMES]
_ERROR_PAYLOADS: Final = [b"\x08%c" % code for code in ERROR_NAMES]
assert list(ERROR_NAMES) == list(range(len(ERROR_NAMES))), "the two lists are indexed by error code"


@piece
def encode_error(message_id: bytes, message_id_crc: int, code: int) -> bytes:
    """The datagram of a response that carries an error code (which may be 0) and nothing else."""
    if len(message_id) == 16:
        crc = crc32(_ERROR_PAYLOADS[code], message_id_crc)
        return _pack_error(_ID_TAG, message_id, _ERROR_MIDDLES[code], crc, _TYPE_OF_RESPONSE)
    return encode_response(message_id, message_id_crc, _ERROR_PAYLOADS[code])


def refused(reply: bytes, wait_ms: int) -> bytes:
    """What says in place of a response that nothing was done, and that the client may try again after a wait."""
    message_id = parse_msg(reply).messageID
    return encode_response(message_id, crc32(message_id), error_payload(SYS_OVERLOAD_ERR, wait_ms))


def is_read(datagram: bytes) -> bool:
    """Whether a sound request is a GET, which has no effect."""
    return bool(parse_request(parse_msg(datagram).payload).command == GET)


def is_refusal(reply: bytes) -> bool:
    """Whether a response says SYS_OVERLOAD_ERR: nothing was done. False for what is no response."""
    try:
        return bool(KVResponse.FromString(parse_msg(reply).payload).errCode == SYS_OVERLOAD_ERR)
    except DecodeError:
        return False
