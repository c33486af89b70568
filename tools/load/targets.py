"""The protocols that the load generator speaks: what a request looks like, and what an answer says.

Both sides are laid out and taken apart by hand where they have the form that nearly all have (0.5 and 1.1 µs);
protobuf, through the client's codec, decides the rest. Shares nothing but the varint with the node's codec, so that
neither's mistakes can hide in the other; the tests hold both against protobuf.
"""

import os
from functools import partial
from struct import Struct
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from app.client.codec import KVRequest, NotAnAnswer, decode_response, encode_request
from app.wire.protocol import GET, IS_ALIVE, KEY_MAX_BYTES, PUT, VALUE_MAX_BYTES, varint


class Response(NamedTuple):
    """`code`: the protocol's errCode. `value`, `version`: None when there is none. `wait_ms`: an overload's."""

    message_id: bytes
    code: int
    value: bytes | None = None
    version: int | None = None
    wait_ms: int = 0


# Response((id, code, value, version, wait)): its own constructor takes 0.3 µs, this a third of that.
_new_response: Final = partial(tuple.__new__, Response)


class Target(Protocol):
    name: str
    at_most_once: bool  # a request that arrives twice is carried out once

    def message_id(self, number: int) -> bytes:
        """The id of request `number`."""

    def request(self, message_id: bytes, operation: int, key: bytes, value: bytes, version: int) -> bytes:
        """The datagram of a PUT, GET, REMOVE or IS_ALIVE; the others ignore the value, IS_ALIVE the key too."""

    def answer(self, datagram: bytes) -> Response | None:
        """What a datagram says; None when it is a part of an answer of which others are missing. NotAnAnswer."""


_unpack_checksum: Final = Struct("<Q").unpack_from


# The varints of all lengths there are, and of most versions: looking one up takes 0.03 µs, making it 0.3.
_VARINTS: Final = [varint(number) for number in range(1 << 14)]
assert len(_VARINTS) > VALUE_MAX_BYTES + KEY_MAX_BYTES + 20, "a payload's length is among them"


class KvTarget:
    """A node, or a cluster of them."""

    name = "kv"
    at_most_once = True

    def __init__(self) -> None:
        # A random half makes the messageIDs of this run its own, a counter makes each of them unique.
        self._id_head = os.urandom(8)

    def message_id(self, number: int) -> bytes:
        return self._id_head + number.to_bytes(8, "little")

    def request(self, message_id: bytes, operation: int, key: bytes, value: bytes, version: int) -> bytes:
        if operation == GET:
            payload = b"\x08\x02\x12%c%b" % (len(key), key)
        elif operation == PUT:
            numbered = _VARINTS[version] if version < len(_VARINTS) else varint(version)
            payload = b"\x08\x01\x12%c%b\x1a%b%b\x20%b" % (len(key), key, _VARINTS[len(value)], value, numbered)
        else:
            request = KVRequest(command=operation) if operation == IS_ALIVE else KVRequest(command=operation, key=key)
            return encode_request(message_id, request)
        checksum = crc32(payload, crc32(message_id)).to_bytes(8, "little")
        return b"\n\x10%b\x12%b%b\x19%b\x28\x00" % (message_id, _VARINTS[len(payload)], payload, checksum)

    def answer(self, datagram: bytes) -> Response:
        # messageID of 16 bytes, payload, checkSum, type 1, in this order.
        if datagram[:2] == b"\n\x10" and datagram[18:19] == b"\x12" and datagram[-2:] == b"\x28\x01":
            at, length = 20, datagram[19]
            if length & 0x80:
                at, length = 21, length & 0x7F | datagram[20] << 7
            end = at + length
            if end + 11 == len(datagram) and length >= 2 and datagram[end] == 0x19:
                message_id, payload = datagram[2:18], datagram[at:end]
                if crc32(payload, crc32(message_id)) == _unpack_checksum(datagram, end + 1)[0]:
                    answer = _ordinary(message_id, payload)
                    if answer is not None:
                        return answer
        message_id, response = decode_response(datagram)
        return Response(
            message_id,
            response.code,
            response.value,
            response.version,
            response.overloadWaitTime or 0,
        )


def _ordinary(message_id: bytes, payload: bytes) -> Response | None:
    """The answer of a payload that is an errCode alone, or 0, a value and a version below 2^21; None for others."""
    if payload[0] != 0x08 or payload[1] & 0x80:
        return None
    if len(payload) == 2:
        return _new_response((message_id, payload[1], None, None, 0))
    if payload[:3] != b"\x08\x00\x12" or len(payload) < 6:
        return None
    at, length = 4, payload[3]
    if length & 0x80:
        at, length = 5, length & 0x7F | payload[4] << 7
        if payload[4] & 0x80:
            return None
    end = at + length
    if payload[end : end + 1] != b"\x20":
        return None
    rest = payload[end + 1 :]
    if len(rest) == 1 and rest[0] < 0x80:
        return _new_response((message_id, 0, payload[at:end], rest[0], 0))
    if len(rest) == 2 and rest[0] >= 0x80 > rest[1]:
        return _new_response((message_id, 0, payload[at:end], rest[0] & 0x7F | rest[1] << 7, 0))
    if len(rest) == 3 and rest[0] >= 0x80 <= rest[1] and rest[2] < 0x80:
        version = rest[0] & 0x7F | (rest[1] & 0x7F) << 7 | rest[2] << 14
        return _new_response((message_id, 0, payload[at:end], version, 0))
    return None


__all__ = ["KvTarget", "NotAnAnswer", "Response", "Target"]
