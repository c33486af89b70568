"""Datagrams to messages and back, on the hot path.

Requests are parsed by protobuf, which copes with every legal encoding. In front of it stands a recognizer for the one
encoding that nearly all requests have: a GET or a PUT with a 16-byte messageID and the fields in order. One regular
expression and a few length checks take it apart in 0.6 µs, where parsing two messages and reading eight fields takes
1.7 (0.1 compiled: `app/fast`). What is not exactly of that form is left to protobuf: the tests hold the two against
each other.

Responses are laid out by hand: they have a handful of fixed shapes, formatting one takes 0.3 µs where filling in and
serializing two messages takes 2.6, and the tests compare them byte for byte with what protobuf makes.

All five response fields that clients of the proto2 form declare `required` are always written, zero or not.
"""

import re
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

# The ordinary encoding of a GET or PUT. The groups, all bytes, are messageID, length of payload (1 byte), payload,
# command (1 byte), length of key (1 byte), what follows that length in the payload (the key, and in a PUT the fields
# after it), checkSum (8 bytes, little-endian). The two lengths are not checked yet: unless both agree with what was
# matched (and the payload's is below 0x80, one byte), it was a chance resemblance, and protobuf must decide.
_match_ordinary: Final = re.compile(
    rb"\n\x10(.{16})\x12(.)(\x08([\x01\x02])\x12(.)(.+))\x19(.{8})(?:\x28\x00)?", re.DOTALL
).fullmatch

# The same of a PUT whose payload's length takes two bytes.
_match_long: Final = re.compile(
    rb"\n\x10(.{16})\x12([\x80-\xff][\x01-\x7f])(\x08\x01\x12(.)(.+))\x19(.{8})(?:\x28\x00)?", re.DOTALL
).fullmatch

_SLOT_MASK: Final = SLOT_COUNT - 1

# What the literals in this module take for granted.
assert (PUT, GET) == (1, 2), "the expression above matches these two"
assert TYPE_RESPONSE == 1, "the last byte of every response"
assert MESSAGE_ID_MAX_BYTES < 128, "the length of a messageID must fit one varint byte"


@piece
def take_ordinary(buffer: bytes | bytearray, start: int, end: int) -> tuple[int, bytes, int, int, bytes, bytes] | None:
    """Take apart the datagram in `buffer[start:end]` if it is a sound GET or PUT in the ordinary encoding.

    Command, messageID and its CRC, slot, key, and for a PUT what the store is to keep (`encode_value`), else b"". None
    where it is anything else, sound or not.
    """
    match = _match_ordinary(buffer, start, end)
    if match is None:
        return _take_long(buffer, start, end)
    message_id, length, payload, command, key_length, rest, checksum = match.groups()
    key_bytes = key_length[0]
    if not (length[0] == len(payload) < 0x80 and 0 < key_bytes <= KEY_MAX_BYTES):
        return None
    id_crc = crc32(message_id)
    if crc32(payload, id_crc).to_bytes(8, "little") != checksum:
        return None
    if command == b"\x02":
        if len(rest) != key_bytes:
            return None
        return GET, message_id, id_crc, crc32(rest) & _SLOT_MASK, rest, b""
    # key, value with its length, version of one byte: but for its tag, what the store keeps
    if (
        len(rest) >= key_bytes + 4
        and rest[key_bytes] == 0x1A
        and rest[key_bytes + 1] == len(rest) - key_bytes - 4
        and rest[-2] == 0x20
        and rest[-1] < 0x80
    ):
        key = rest[:key_bytes]
        return PUT, message_id, id_crc, crc32(key) & _SLOT_MASK, key, b"\x12" + rest[key_bytes + 1 :]
    return None


def _take_long(buffer: bytes | bytearray, start: int, end: int) -> tuple[int, bytes, int, int, bytes, bytes] | None:
    """As take_ordinary, of a PUT whose payload's length takes two bytes."""
    match = _match_long(buffer, start, end)
    if match is None:
        return None
    message_id, length, payload, key_length, rest, checksum = match.groups()
    key_bytes = key_length[0]
    if (
        length[0] & 0x7F | length[1] << 7 != len(payload)
        or not 0 < key_bytes <= KEY_MAX_BYTES
        or len(rest) < key_bytes + 4
        or rest[key_bytes] != 0x1A
    ):
        return None
    value_bytes, value_at = rest[key_bytes + 1], key_bytes + 2
    if value_bytes >= 0x80:
        value_bytes, value_at = value_bytes & 0x7F | rest[value_at] << 7, value_at + 1
        if not 0x80 <= value_bytes <= VALUE_MAX_BYTES:
            return None
    if len(rest) != value_at + value_bytes + 2 or rest[-2] != 0x20 or rest[-1] >= 0x80:
        return None
    id_crc = crc32(message_id)
    if crc32(payload, id_crc).to_bytes(8, "little") != checksum:
        return None
    key = rest[:key_bytes]
    return PUT, message_id, id_crc, crc32(key) & _SLOT_MASK, key, b"\x12" + rest[key_bytes + 1 :]


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


@piece
def encode_response(message_id: bytes, message_id_crc: int, payload: bytes) -> bytes:
    """The datagram of a response Msg; `message_id_crc` is crc32(message_id), the payload shorter than 16 KiB."""
    length = len(payload)
    checksum = crc32(payload, message_id_crc).to_bytes(8, "little")
    if length < 0x80 and len(message_id) == 16:
        return b"\n\x10%b\x12%c%b\x19%b\x28\x01" % (message_id, length, payload, checksum)
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
    return encode_response(message_id, message_id_crc, _OK + blob)


# A response that is an error code, to a request with a messageID of 16 bytes, in one step: tag and length of the
# messageID, the messageID, payload and the checksum's tag, the checksum, type.
_pack_short: Final = Struct("<2s16s5sQ2s").pack
# By error code: from the payload's tag to the checksum's; and the payload, which the checksum is over.
_SHORT_MIDDLES: Final = [b"\x12\x02\x08%c\x19" % code for code in ERROR_NAMES]
_ERROR_PAYLOADS: Final = [b"\x08%c" % code for code in ERROR_NAMES]
assert list(ERROR_NAMES) == list(range(len(ERROR_NAMES))), "the two lists are indexed by error code"


@piece
def encode_error(message_id: bytes, message_id_crc: int, code: int) -> bytes:
    """The datagram of a response that carries an error code (which may be 0) and nothing else."""
    if len(message_id) == 16:
        checksum = crc32(_ERROR_PAYLOADS[code], message_id_crc)
        return _pack_short(b"\n\x10", message_id, _SHORT_MIDDLES[code], checksum, b"\x28\x01")
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
