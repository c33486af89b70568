"""What travels on a link between two nodes: frames, each a length, a kind and a body.

    u32 length of the body, little-endian | u8 kind | body

A link carries many small frames, so a sender joins all that one loop turn has queued into one write, and a receiver
takes apart whatever one read has brought (0.3 µs a frame). Protobuf was rejected here: the bodies are datagrams and
store records that are passed on as they are, and framing them anew would copy each once more.
"""

from struct import Struct
from typing import Final

from app.cluster.limits import is_clock
from app.cluster.replication.frames import BODY_MAX_BYTES, KINDS, BadFrame
from app.fast import piece
from app.wire.protocol import DATAGRAM_MAX_BYTES

# Kinds. 0 is no kind, so that a link which carries zeros is told apart.
FORWARD: Final = 1  # a client's request, for the primary of its slot: deadline, hops, datagram
ANSWER: Final = 2  # the answer to one: datagram
LIFE: Final = 3  # what the sender's clock shows: it lives (links.py)
CLUSTER: Final = 4  # a message about membership that is large for a datagram (membership.py)
# 16 and above are replication's (app/cluster/replication/frames.py).

# The longest body. A datagram takes 16 KiB; streams of records are cut to fit. Raising it raises what one peer can
# make a receiver hold (one incomplete frame for each link).
FRAME_MAX_BYTES: Final = 256 * 1024

_HEADER: Final = Struct("<IB")
HEADER_BYTES: Final = _HEADER.size
pack_header: Final = _HEADER.pack  # (bytes of the body, kind)
_unpack_header: Final = _HEADER.unpack_from

# What stands before the datagram in a FORWARD: until when it may be executed, by the receiver's clock (s), and through
# how many nodes it has gone. Frame and FORWARD are packed by one call.
_FORWARD: Final = Struct("<dB")
FORWARD_BYTES: Final = _FORWARD.size
pack_forward: Final = Struct("<IBdB").pack  # (FORWARD_BYTES and those of the datagram, FORWARD, deadline, hops)
unpack_forward: Final = _FORWARD.unpack_from  # deadline, hops

_LIFE: Final = Struct("<d")
LIFE_BYTES: Final = _LIFE.size
pack_life: Final = _LIFE.pack  # (s of the sender's clock)
unpack_life: Final = _LIFE.unpack

# How long bodies are (bytes), by kind. Of 0, which is none, no length is sound. A kind that we do not know yet is let
# pass, and ignored.
_LENGTHS: Final = [range(0), *[range(FRAME_MAX_BYTES + 1)] * 255]
_LENGTHS[FORWARD] = range(FORWARD_BYTES + 1, FORWARD_BYTES + DATAGRAM_MAX_BYTES + 1)
_LENGTHS[ANSWER] = range(1, DATAGRAM_MAX_BYTES + 1)
_LENGTHS[LIFE] = range(LIFE_BYTES, LIFE_BYTES + 1)
_LENGTHS[CLUSTER] = range(1, DATAGRAM_MAX_BYTES + 1)
for _kind in KINDS:
    _LENGTHS[_kind] = range(BODY_MAX_BYTES + 1)
assert BODY_MAX_BYTES <= FRAME_MAX_BYTES

Frame = tuple[int, bytes]  # kind and body


def clock_of(life: bytes) -> float:
    """What the sender's clock shows, as a LIFE says (s). Raises BadFrame where no clock shows that."""
    (seconds,) = unpack_life(life)
    if not is_clock(seconds):
        raise BadFrame(f"a clock that shows {seconds}")
    return float(seconds)


class FrameReader:
    """Cuts a stream of bytes into frames; holds what is incomplete, at most one frame and what was read with it."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0  # bytes that `_rest` must have before there is a frame in it

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that `data` completes, in order. Raises BadFrame; the reader is of no use after that."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        else:
            data = bytes(data)
        frames, at = cut(data)
        if at < 0:
            raise BadFrame(f"a frame of kind {data[4 - 1 - at]} and {_unpack_header(data, -1 - at)[0]} bytes")
        rest = len(data) - at
        if rest:
            self._rest += data[at:]
            self._needed = HEADER_BYTES
            if rest >= HEADER_BYTES:
                self._needed += _unpack_header(data, at)[0]
        return frames


@piece
def cut(data: bytes) -> tuple[list[Frame], int]:
    """The whole frames at the start of some bytes, and where what follows them begins.

    If that is a frame that is not sound: -1, less where it begins.
    """
    frames: list[Frame] = []
    at, end = 0, len(data)
    while end - at >= HEADER_BYTES:
        length, kind = _unpack_header(data, at)
        if length not in _LENGTHS[kind]:
            return frames, -1 - at
        start = at + HEADER_BYTES
        stop = start + length
        if stop > end:
            break
        frames.append((kind, data[start:stop]))
        at = stop
    return frames, at
