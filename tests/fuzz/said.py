"""What a peer may say: messages about membership and frames, true ones with something changed, and made-up ones.

Numbers are those around the ends of their ranges, and around what is true at the moment: those get furthest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import Final

from google.protobuf.message import DecodeError

from app.cluster import limits
from app.cluster.limits import Range, fault_of
from app.cluster.replication import frames
from app.cluster.replication.frames import BadFrame
from app.cluster.view import BadView, from_message
from app.peers.frames import ANSWER, CLUSTER, FORWARD, LIFE, Frame, FrameReader, clock_of, pack_header, unpack_forward
from app.wire.protocol import FOUND, GET, PUT, REMOVE, SERVERS_MAX, SHUTDOWN, WIPEOUT
from proto_gen import cluster_pb2 as pb
from tests.fuzz.choices import Choices, is_so, one_of
from tests.wire.datagrams import ack, envelope, request

U8, U16, U32, U64 = 255, (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1

_ENDS: Final = sorted(
    {
        one + off
        for numbers in (
            *limits.NUMBERS.values(),
            limits.EPOCH,
            limits.SEQ,
            limits.CODE,
            limits.REPORT,
            Range(limits.OUTBID_MAX, limits.SEQ_RENEWED),
            Range(1 << 31, 1 << 52),
            Range(U32, U64),
        )
        for one in numbers
        for off in (-1, 0, 1)
        if 0 <= one + off <= U64
    }
)
_CLOCKS: Final = (0.0, -1.0, 1.0, float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e-320, limits.CLOCK_MAX_S)
_NUMBERS: Final = tuple(limits.NUMBERS)
_FLAGS: Final = ("supports", "support_withdrawn", "settled", "leaving")
_KINDS: Final = tuple(pb.Kind.values())
_KEYS: Final = (b"k", b"key", b"key 1", b"x" * 32)


@dataclass
class Truth:
    """What is true at the moment, as far as whoever lies knows."""

    servers: Sequence[str]
    numbers: list[int] = field(default_factory=lambda: [1, 2])  # incarnations, epochs, seqs, reports, stamps, nonces
    clock_s: float = 0.0
    view: pb.View | None = None
    header: pb.ClusterMessage | None = None  # of a sound message
    strangers: bool = True  # views may have members that are not in the file


def a_number(choices: Choices, truth: Truth, most: int) -> int:
    """A number that a field of this width holds."""
    how = choices.number(5)
    if how <= 2 and truth.numbers:
        return min(max(0, one_of(choices, truth.numbers) + choices.number(2) - 1), most)
    if how == 3:
        return one_of(choices, [one for one in _ENDS if one <= most])
    if how == 4:
        return choices.number(min(300, most))
    return choices.number(most)


def a_name(choices: Choices, truth: Truth) -> str:
    if not is_so(choices, 6):
        return one_of(choices, truth.servers)
    return one_of(choices, ("", "a:1", "nobody:9", "\x1b[31m", "x" * 80, "x" * 81, "é", "a b", "9.9.9.9:1"))


# --- messages --------------------------------------------------------------------------------------------------------


def a_mask(choices: Choices) -> bytes:
    return one_of(choices, (b"", bytes(32), b"\xff" * 32, b"\x55" * 32, b"\x01", b"\xff" * 33, bytes(31)))


def a_view(choices: Choices, truth: Truth) -> pb.View:
    """The present one with something changed."""
    view = pb.View()
    if truth.view is not None:
        view.CopyFrom(truth.view)
    for _ in range(choices.number(3)):
        what = choices.number(9)
        if what == 0:
            view.epoch = a_number(choices, truth, U64)
        elif what == 1:
            view.cluster_id = a_number(choices, truth, U64)
        elif what == 2:
            view.nonce = a_number(choices, truth, U64)
        elif what == 3 and view.members:
            one_of(choices, view.members).incarnation = a_number(choices, truth, U64)
        elif what == 4 and view.members:
            one_of(choices, view.members).leaving = True
        elif what == 5 and view.members:
            name = a_name(choices, truth)
            if truth.strangers or name in truth.servers:
                one_of(choices, view.members).address = name
        elif what == 6:
            view.forced_from_epoch, view.is_forced = a_number(choices, truth, U64), is_so(choices, 2)
            view.forced_from_cluster_id = a_number(choices, truth, U64)
        elif what == 7:
            view.cause = one_of(choices, ("", "for fun", "\x1b[2J", "x" * 201))
        else:
            table = one_of(choices, ("primaries", "backups", "homes"))
            setattr(view, table, mutated(choices, getattr(view, table)))
    if is_so(choices, 2) and view.epoch < limits.EPOCH.most:
        view.epoch += 1
    return view


def message(choices: Choices, truth: Truth) -> pb.ClusterMessage:
    """A true header, a kind, what belongs to it, and something changed."""
    said = pb.ClusterMessage()
    if truth.header is not None:
        said.CopyFrom(truth.header)
    said.kind = one_of(choices, _KINDS)
    if said.kind in (pb.VIEW, pb.ACCEPT, pb.PROMISE):
        said.view.CopyFrom(a_view(choices, truth))
    if said.kind in (pb.PREPARE, pb.ACCEPT, pb.PROMISE, pb.ACCEPTED, pb.REJECT):
        said.ballot = choices.number(8) * limits.RANKS + choices.number(4)
        said.accepted_ballot = choices.number(8) * limits.RANKS + choices.number(4)
    if said.kind in (pb.PING_REQ, pb.VOUCH, pb.NACK, pb.SUSPECT):
        said.target = a_name(choices, truth)
        said.target_incarnation = a_number(choices, truth, U64)
        said.number = a_number(choices, truth, U64)
    for _ in range(choices.number(3)):
        what = choices.number(8)
        if what <= 2:
            setattr(said, one_of(choices, _NUMBERS), a_number(choices, truth, U64))
        elif what == 3:
            setattr(said, one_of(choices, _FLAGS), is_so(choices, 2))
        elif what == 4:
            count = one_of(choices, (1, 2, SERVERS_MAX, SERVERS_MAX + 1))
            incarnation = a_number(choices, truth, U64)
            said.deaths.extend([pb.Death(address=a_name(choices, truth), incarnation=incarnation)] * count)
        elif what == 5:
            said.synced.add(address=a_name(choices, truth), slots=a_mask(choices))
        elif what == 6:
            said.lacks.append(a_name(choices, truth))
        else:
            setattr(said, one_of(choices, ("blocked", "lost")), a_mask(choices))
    return said


def is_sound(said: pb.ClusterMessage) -> bool:
    """Whether nothing in it is out of its range."""
    if fault_of(said):
        return False
    if said.HasField("view"):
        try:
            from_message(said.view)
        except BadView:
            return False
    return True


# --- frames ----------------------------------------------------------------------------------------------------------


def mutated(choices: Choices, data: bytes) -> bytes:
    """The bytes with something changed."""
    changed = bytearray(data)
    for _ in range(1 + choices.number(3)):
        at = choices.number(len(changed))
        how = choices.number(4)
        if how == 0 and at < len(changed):
            changed[at] = choices.number(U8)
        elif how == 1 and at < len(changed):
            changed[at] ^= 1 << choices.number(7)
        elif how == 2:
            del changed[at : at + 1 + choices.number(8)]
        elif how == 3:
            changed[at:at] = choices.raw(8)
        else:
            changed += changed[:at]
    return bytes(changed)


def _rows(choices: Choices) -> range:
    return range(choices.number(3))


def _have(c: Choices, t: Truth) -> bytes:
    rows = [(c.number(U8), (a_number(c, t, U32), a_number(c, t, U64))) for _ in _rows(c)]
    return frames.encode_have(a_number(c, t, U64), a_number(c, t, U64), a_number(c, t, U32), rows)


def _query(c: Choices, t: Truth) -> bytes:
    return frames.encode_query(a_number(c, t, U64), a_number(c, t, U64), [c.number(U8) for _ in _rows(c)])


def _start(c: Choices, t: Truth) -> bytes:
    rows = [(c.number(U8), a_number(c, t, U32), (a_number(c, t, U32), a_number(c, t, U64))) for _ in _rows(c)]
    return frames.encode_start(a_number(c, t, U32), rows)


def _ops(c: Choices, t: Truth) -> bytes:
    parts = []
    for _ in _rows(c):
        key, blob, message_id = one_of(c, (*_KEYS, b"")), c.raw(300), c.raw(64)
        code, term, seq = a_number(c, t, U8), a_number(c, t, U32), a_number(c, t, U64)
        kind = c.number(5)
        parts.append(frames.encode_op(kind, c.number(U8), code, message_id, key, term, seq, blob if kind < 2 else b""))
    return b"".join(parts)


def _ack(c: Choices, t: Truth) -> bytes:
    return frames.encode_ack(c.number(9), [(c.number(U8), a_number(c, t, U32), a_number(c, t, U64)) for _ in _rows(c)])


def _entries(c: Choices, t: Truth) -> bytes:
    return b"".join(frames.encode_entry(c.number(U8), one_of(c, _KEYS), c.raw(300)) for _ in _rows(c))


def _replies(c: Choices, t: Truth) -> bytes:
    return b"".join(frames.encode_reply(c.number(U8), a_number(c, t, U8), c.raw(64)) for _ in _rows(c))


def _end(c: Choices, t: Truth) -> bytes:
    return frames.encode_end([(c.number(U8), a_number(c, t, U32)) for _ in _rows(c)])


def _credit(c: Choices, t: Truth) -> bytes:
    return frames.encode_credit(a_number(c, t, U32))


def _past(c: Choices, t: Truth) -> bytes:
    rows = [(c.number(U8), a_number(c, t, U32), a_number(c, t, U64), a_number(c, t, U64)) for _ in _rows(c)]
    return frames.encode_past(a_number(c, t, U32), rows)


def _patches(c: Choices, t: Truth) -> bytes:
    def patch() -> frames.Patch:
        position = frames.NOWHERE if is_so(c, 4) else (a_number(c, t, U32), a_number(c, t, U64))
        keys, message_ids = [one_of(c, _KEYS) for _ in _rows(c)], [c.raw(16) or b"m" for _ in _rows(c)]
        return frames.Patch(c.number(U8), 0 if is_so(c, 3) else a_number(c, t, U32), position, keys, message_ids)

    return frames.encode_patches(a_number(c, t, U32), [patch() for _ in _rows(c)])


def datagram(c: Choices) -> bytes:
    """What a client might say."""
    message_id = one_of(c, (b"m" * 16, b"n" * 16, c.raw(70)))
    how = c.number(5)
    if how == 0:
        return c.raw(300)
    if how == 1:
        return ack(message_id)
    if how == 2:
        return envelope(message_id, c.raw(300), one_of(c, (None, 0, 1, 2, 3, 16, 17, -1)))
    key = one_of(c, (*_KEYS, b"", b"x" * 33))
    if how == 3:
        return request(message_id, command=one_of(c, (GET, REMOVE)), key=key)
    if how == 4:
        # Not SHUTDOWN: it does what it says.
        command = one_of(c, (0, 5, 6, 7, 8, 9, 32, 33, 34, 35, 36, U32))
        return request(message_id, command=command)
    version = one_of(c, (0, 1, -1, 127, 128, (1 << 31) - 1, -(1 << 31)))
    return request(message_id, command=PUT, key=key, value=c.raw(300), version=version)


def _clock(c: Choices, t: Truth) -> float:
    return one_of(c, (t.clock_s, t.clock_s + 1.0, t.clock_s + 0.2, *_CLOCKS))


def _forward(c: Choices, t: Truth) -> bytes:
    said = request(b"m" * 16, command=one_of(c, (SHUTDOWN, WIPEOUT, FOUND))) if is_so(c, 12) else datagram(c)
    return pack("<dB", _clock(c, t), c.number(5)) + said


_BODIES: Final[dict[int, Callable[[Choices, Truth], bytes]]] = {
    frames.HAVE: _have,
    frames.QUERY: _query,
    frames.GO: _start,
    frames.BEGIN: _start,
    frames.OPS: _ops,
    frames.ACK: _ack,
    frames.ENTRIES: _entries,
    frames.REPLIES: _replies,
    frames.END: _end,
    frames.CREDIT: _credit,
    frames.PAST: _past,
    frames.TOUCHED: _patches,
    frames.PATCH: _patches,
    FORWARD: _forward,
    ANSWER: lambda c, t: datagram(c),
    LIFE: lambda c, t: pack("<d", _clock(c, t)),
    CLUSTER: lambda c, t: message(c, t).SerializeToString(),
}
KINDS: Final = tuple(_BODIES)
assert set(KINDS) == {*frames.KINDS, FORWARD, ANSWER, LIFE, CLUSTER}, "every kind"


def frame(choices: Choices, truth: Truth) -> Frame:
    """One of any kind, now and then of none, or with something changed."""
    kind = one_of(choices, KINDS)
    body = _BODIES[kind](choices, truth)
    if is_so(choices, 8):
        body = mutated(choices, body)
    if is_so(choices, 16):
        kind = choices.number(U8)
    return kind, body


_DECODERS: Final[dict[int, Callable[[bytes], object]]] = {
    frames.HAVE: frames.decode_have,
    frames.QUERY: frames.decode_query,
    frames.GO: frames.decode_start,
    frames.BEGIN: frames.decode_start,
    frames.OPS: frames.decode_ops,
    frames.ACK: frames.decode_ack,
    frames.ENTRIES: frames.decode_entries,
    frames.REPLIES: frames.decode_replies,
    frames.END: frames.decode_end,
    frames.CREDIT: frames.decode_credit,
    frames.PAST: frames.decode_past,
    frames.TOUCHED: frames.decode_touched,
    frames.PATCH: frames.decode_patches,
    LIFE: clock_of,
}


def is_sound_frame(kind: int, body: bytes) -> bool:
    """Whether nothing in it is out of its range."""
    try:
        FrameReader().feed(pack_header(len(body), kind) + body)
        if kind in _DECODERS:
            _DECODERS[kind](body)
        if kind == CLUSTER:
            return is_sound(pb.ClusterMessage.FromString(body))
        return kind != FORWARD or limits.HOPS.has(unpack_forward(body)[1])
    except (BadFrame, DecodeError):
        return False
