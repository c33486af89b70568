"""memcached over UDP, for comparison: its text commands behind its frame header (memcached, doc/protocol.txt).

A request is one datagram: 8 bytes of header (request id, number of this datagram, number of datagrams, reserved; all
16 bits, big-endian) and a command. An answer may be several such datagrams, of up to 1,400 bytes each, in any order.

What the KV protocol calls a version is kept in memcached's flags. Nothing makes memcached carry out a repeated
request once only. A retry has an id of its own here, so that parts of two answers are never put together (unless the
fault option doubles a request, drops a part of each answer, and the value changed in between).
"""

from struct import Struct
from typing import Final

from app.client.codec import UNPARSABLE, NotAnAnswer
from app.wire.protocol import GET, INTERNAL_ERR, INVALID_KEY_ERR, KEY_DNE_ERR, NO_ERR, NO_SPC_ERR, PUT, REMOVE
from tools.load.targets import Response

_HEADER: Final = Struct("!HHHH")

# Answers of which some datagrams are there: more are not waited for, the oldest is forgotten.
PARTIAL_MAX: Final = 1024

# A value of 10,000 bytes comes in 8 datagrams.
PARTS_MAX: Final = 16

_REPLIES: Final = {
    b"STORED\r\n": NO_ERR,
    b"DELETED\r\n": NO_ERR,
    b"MN\r\n": NO_ERR,
    b"END\r\n": KEY_DNE_ERR,
    b"NOT_FOUND\r\n": KEY_DNE_ERR,
}


class MemcachedTarget:
    name = "memcached"
    at_most_once = False

    def __init__(self) -> None:
        self._partial: dict[int, dict[int, bytes]] = {}

    def message_id(self, number: int) -> bytes:
        return (number & 0xFFFF).to_bytes(2, "big")

    def request(self, message_id: bytes, operation: int, key: bytes, value: bytes, version: int) -> bytes:
        if self._partial:
            # What is left of an answer to an earlier request with this id.
            self._partial.pop(int.from_bytes(message_id, "big"), None)
        if operation == GET:
            return b"%b\0\0\0\1\0\0get %b\r\n" % (message_id, key)
        if operation == PUT:
            return b"%b\0\0\0\1\0\0set %b %d 0 %d\r\n%b\r\n" % (message_id, key, version, len(value), value)
        if operation == REMOVE:
            return b"%b\0\0\0\1\0\0delete %b\r\n" % (message_id, key)
        return b"%b\0\0\0\1\0\0mn\r\n" % message_id  # "no operation"

    def answer(self, datagram: bytes) -> Response | None:
        if len(datagram) < _HEADER.size:
            raise NotAnAnswer(UNPARSABLE)
        request_id, number, parts, _ = _HEADER.unpack_from(datagram)
        if parts == 1 and number == 0:
            return self._parsed(datagram[:2], datagram[8:])
        if not (1 < parts <= PARTS_MAX and number < parts):
            raise NotAnAnswer(UNPARSABLE)
        there = self._partial.setdefault(request_id, {})
        there[number] = datagram[8:]
        if len(there) < parts:
            if len(self._partial) > PARTIAL_MAX:
                del self._partial[next(iter(self._partial))]
            return None
        del self._partial[request_id]
        return self._parsed(datagram[:2], b"".join(there.get(part, b"") for part in range(parts)))

    def _parsed(self, message_id: bytes, text: bytes) -> Response:
        code = _REPLIES.get(text)
        if code is not None:
            return Response(message_id, code)
        line, _, rest = text.partition(b"\r\n")
        words = line.split(b" ")
        if len(words) == 4 and words[0] == b"VALUE" and words[2].isdigit() and words[3].isdigit():
            length = int(words[3])
            if rest[length:] != b"\r\nEND\r\n":
                raise NotAnAnswer(UNPARSABLE)
            return Response(message_id, NO_ERR, rest[:length], int(words[2]))
        if line.startswith(b"SERVER_ERROR out of memory"):
            return Response(message_id, NO_SPC_ERR)
        if line.startswith(b"CLIENT_ERROR"):
            return Response(message_id, INVALID_KEY_ERR)
        if line == b"ERROR" or line.startswith(b"SERVER_ERROR"):
            return Response(message_id, INTERNAL_ERR)
        raise NotAnAnswer(UNPARSABLE)
