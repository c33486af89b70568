"""What a client puts into a datagram and reads out of one: the one place that knows how messages are encoded.

A program that uses the store may have a protobuf of its own, in another version, with messages of the same names. So
the client goes without: its three messages have a dozen fields of four wire types, which is not much to write by
hand. The tests hold what is written, byte for byte, and what is read, from any bytes at all, against protobuf.

Apart from the node's own codec: a client checks other things (is this an answer, and to what), needs nothing of the
server, and a tool that tests the server must not share its mistakes. The two have only `varint` in common, which needs
no protobuf and is held against it.

Messages: proto/message.proto, proto/key_value.proto. Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from typing import Final, NamedTuple, overload
from zlib import crc32

from app.wire.protocol import NO_ERR, TYPE_ACK, TYPE_REQUEST, TYPE_RESPONSE, varint

# Why a datagram is not an answer; also the names under which clients count what they ignored.
UNPARSABLE: Final = "unparsable"
WRONG_CHECKSUM: Final = "wrong_checksum"
NOT_A_RESPONSE: Final = "not_a_response"


class NotAnAnswer(Exception):
    """A datagram that is no answer to anything; `reason` says why. The receiver ignores and counts it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KVRequest(NamedTuple):
    """What is asked. `key`: 1 to 32 bytes; `value`: 0 to 10,000; `version`: 32 bits, signed. None: left out."""

    command: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    version: int | None = None


class KVResponse(NamedTuple):
    """What is answered, with the names that the protocol has for it. None: not in the answer."""

    errCode: int | None = None
    value: bytes | None = None
    pid: int | None = None
    version: int | None = None
    overloadWaitTime: int | None = None  # ms
    membershipCount: int | None = None

    @property
    def code(self) -> int:
        """The error code; one that was left out is NO_ERR."""
        return self.errCode or NO_ERR


# Writing.


def encode_request(message_id: bytes, request: KVRequest) -> bytes:
    """The datagram that carries `request`. A retry sends the same datagram again.

    TypeError when key or value aren't bytes, or a number is none; ValueError when a number has over 32 bits.
    """
    command, key, value, version = request
    payload = b""
    if command is not None:
        payload += b"\x08" + varint(_checked("command", command, 0, 2**32 - 1))
    if key is not None:
        payload += b"\x12%b%b" % (varint(len(_bytes("key", key))), key)
    if value is not None:
        payload += b"\x1a%b%b" % (varint(len(_bytes("value", value))), value)
    if version is not None:
        payload += b"\x20" + varint(_checked("version", version, -(2**31), 2**31 - 1))
    return _envelope(message_id, payload, TYPE_REQUEST)


def encode_ack(message_id: bytes) -> bytes:
    """The datagram that tells the node: this answer has arrived, its memory of it may go. Never answered."""
    return _envelope(message_id, b"", TYPE_ACK)


def _envelope(message_id: bytes, payload: bytes, kind: int) -> bytes:
    """The Msg: messageID, payload, checkSum, type."""
    checksum = crc32(payload, crc32(message_id)).to_bytes(8, "little")
    lengths = varint(len(message_id)), varint(len(payload))
    return b"\n%b%b\x12%b%b\x19%b\x28%c" % (lengths[0], message_id, lengths[1], payload, checksum, kind)


def _bytes(what: str, given: bytes) -> bytes:
    if isinstance(given, bytes):
        return given
    remedy = f"{what}.encode() makes bytes of it" if isinstance(given, str) else f"bytes({what}) may make them of it"
    raise TypeError(f"a {what} is bytes, not {type(given).__name__}: {remedy}")


def _checked(what: str, given: int, least: int, most: int) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"a {what} is an int, not {type(given).__name__}")
    if not least <= given <= most:
        raise ValueError(f"a {what} is {least} to {most}, not {given}")
    return given


# Reading. As any parser of protobuf: fields in any order, of several the last one, and those that are not known, or
# are of another type than expected, are skipped. A tag is a field's number times 8, plus its type on the wire.

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_GROUP: Final = 3
_GROUP_END: Final = 4
_FIXED32: Final = 5
_BEGIN_WITH_VARINT: Final = (_VARINT, _BYTES)  # bytes, with their length

# Bytes of a varint at most: of a number, which has 64 bits; of a tag or a length, which have 32.
_NUMBER_MAX_BYTES: Final = 10
_SHORT_MAX_BYTES: Final = 5


def decode_response(datagram: bytes) -> tuple[bytes, KVResponse]:
    """The messageID and the response that a datagram carries.

    NotAnAnswer when it does not parse, its checksum is wrong, or its type is not that of a response. A
    missing field counts as zero or empty, so what is returned has a messageID of any length, none included.
    """
    numbers, strings = _fields(datagram)
    message_id, payload = strings.get(0x0A, b""), strings.get(0x12, b"")
    if numbers.get(0x19, 0) != crc32(payload, crc32(message_id)):
        raise NotAnAnswer(WRONG_CHECKSUM)
    if _signed(numbers.get(0x28, 0)) != TYPE_RESPONSE:
        raise NotAnAnswer(NOT_A_RESPONSE)
    numbers, strings = _fields(payload)
    code = numbers.get(0x08)
    return message_id, KVResponse(
        errCode=None if code is None else code & 0xFFFF_FFFF,
        value=strings.get(0x12),
        pid=_signed(numbers.get(0x18)),
        version=_signed(numbers.get(0x20)),
        overloadWaitTime=_signed(numbers.get(0x28)),
        membershipCount=_signed(numbers.get(0x30)),
    )


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, bytes]]:
    """The fields of a message by their tags: those that are numbers, and those that are bytes. NotAnAnswer."""
    numbers: dict[int, int] = {}
    strings: dict[int, bytes] = {}
    around: list[tuple[int, dict[int, int], dict[int, bytes]]] = []  # the groups that are open, and what they are in
    at, end = 0, len(message)
    try:
        while at < end:
            tag = message[at]
            at += 1
            if tag >= 0x80:
                tag, at = _read_varint(message, at - 1, _SHORT_MAX_BYTES)
            kind = tag & 7
            if not 8 <= tag < 1 << 32:
                raise NotAnAnswer(UNPARSABLE)
            if kind in _BEGIN_WITH_VARINT:
                number = message[at]
                at += 1
                if number >= 0x80:
                    number, at = _read_varint(message, at - 1, _SHORT_MAX_BYTES if kind else _NUMBER_MAX_BYTES)
                if kind == _VARINT:
                    numbers[tag] = number
                else:
                    strings[tag] = message[at : at + number]
                    at += number
            elif kind == _FIXED64:
                numbers[tag] = int.from_bytes(message[at : at + 8], "little")
                at += 8
            elif kind == _FIXED32:
                at += 4
            elif kind == _GROUP:  # not known to us, whatever is in it
                around.append((tag, numbers, strings))
                numbers, strings = {}, {}
            elif kind == _GROUP_END and around and around[-1][0] == tag - 1:
                _, numbers, strings = around.pop()
            else:
                raise NotAnAnswer(UNPARSABLE)
    except IndexError:
        raise NotAnAnswer(UNPARSABLE) from None
    if at > end or around:
        raise NotAnAnswer(UNPARSABLE)
    return numbers, strings


def _read_varint(message: bytes, at: int, most: int) -> tuple[int, int]:
    """The number that begins there, of so many bytes at most, and where it ends. NotAnAnswer."""
    number = 0
    for place, digit in enumerate(message[at : at + most]):
        number |= (digit & 0x7F) << 7 * place
        if digit < 0x80:
            return number, at + place + 1
    raise NotAnAnswer(UNPARSABLE)


@overload
def _signed(number: int) -> int: ...
@overload
def _signed(number: None) -> None: ...
def _signed(number: int | None) -> int | None:
    """The low 32 bits as two's complement: an int32 of any encoding."""
    return None if number is None else (number & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
