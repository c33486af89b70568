"""The frames that replicas of a slot exchange: compact, and checked before anything is allocated.

Little-endian and fixed where it can be: an op costs 19 bytes besides its messageID, key and blob. A protobuf message
an op was rejected: four times the work on the path of every write.

Tables of slots are rows of one size; sequences (ops, entries, replies) carry the lengths of their parts. A frame that
is cut, too long, or has a number out of its range (app/cluster/limits.py) raises `BadFrame`: the sender is no sound
peer, and its link is to be closed. A slot has one byte, and each value of it is one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from app.cluster.limits import CODE, EPOCH, REPORT, SEQ, TERM
from app.fast import piece
from app.storage.mutate import DELETE, HINDRANCES, NOTE, SET, WIPE
from app.wire.protocol import KEY_MAX_BYTES, MESSAGE_ID_MAX_BYTES, SLOT_COUNT, VALUE_MAX_BYTES

HAVE: Final = 16  # follower: epoch, nonce, number of this report; rows: slot, and its position
QUERY: Final = 17  # primary: epoch, nonce, slots (a byte each): say what you have of these
GO: Final = 18  # primary: number of the HAVE it answers; rows: slot, term, position: go on from there
BEGIN: Final = 19  # as GO: forget what you have; everything follows
OPS: Final = 20  # primary: writes in order
ACK: Final = 21  # follower: flags; rows: slot, term, seq: have everything up to it
ENTRIES: Final = 22  # primary: keys and blobs of slots begun
REPLIES: Final = 23  # primary: remembered replies of slots begun
END: Final = 24  # primary: rows: slot, term: that was everything
CREDIT: Final = 25  # follower: how many ENTRIES and REPLIES it took from this link
PAST: Final = 26  # primary: number of the HAVE it answers; rows: slot, term, first and last seq of positions it has met
TOUCHED: Final = 27  # follower: its answer; by slot, the last of them that it has met too, and its writes since
PATCH: Final = 28  # as BEGIN, of these keys and messageIDs only: what a write has touched since, here or there

KINDS: Final = range(HAVE, PATCH + 1)

# The kind of an op is the change that it makes (app/storage/mutate.py).
PUT_OP: Final = SET
REMOVE_OP: Final = DELETE
WIPE_OP: Final = WIPE
NOTE_OP: Final = NOTE

BLOB_MAX_BYTES: Final = VALUE_MAX_BYTES + 14  # what the wire layer adds to a value: tags, length, version
# A sender closes a frame once it has this much; a single op or entry may take it over by its own size.
FRAME_FILL_BYTES: Final = 32 * 1024
BODY_MAX_BYTES: Final = FRAME_FILL_BYTES + BLOB_MAX_BYTES + KEY_MAX_BYTES + MESSAGE_ID_MAX_BYTES + 64

_VIEW: Final = Struct("<QQ")  # epoch, nonce
_NUMBER: Final = Struct("<I")
# A seq never starts again while a slot has a copy, and one hot slot sees 2**32 writes in two or three days.
_POSITION: Final = Struct("<BIQ")
_START: Final = Struct("<BIIQ")
_SLOT_TERM: Final = Struct("<BI")
_STRETCH: Final = Struct("<BIQQ")
_PATCH: Final = Struct("<BIIQHH")
_OP: Final = Struct("<BBBBBIQH")
_ENTRY: Final = Struct("<BBH")
_REPLY: Final = Struct("<BBB")

assert _VIEW.size + _NUMBER.size + SLOT_COUNT * _START.size <= BODY_MAX_BYTES
assert BLOB_MAX_BYTES < 1 << 16
assert (PUT_OP, REMOVE_OP, WIPE_OP, NOTE_OP) == (1, 2, 3, 4), "decode_ops checks the range"

_tuple: Final = tuple.__new__  # of fields, without the call in Python that a NamedTuple makes of it

NAME_HEAP_BYTES: Final = 48  # what a key or messageID takes in a list, besides itself: CPython 3.11, 64 bits
STRETCHES_MAX: Final = 4  # a slot, in a PAST
assert _NUMBER.size + STRETCHES_MAX * SLOT_COUNT * _STRETCH.size <= BODY_MAX_BYTES

Position = tuple[int, int]  # term and seq of the last op in a copy; (0, 0): nothing was ever written
NOWHERE: Final = (0xFFFFFFFF, 0xFFFFFFFF)  # in place of a position: the copy is not whole
_TERM_MAX: Final = TERM.most
_SEQ_MAX: Final = SEQ.most
_CODE_MAX: Final = CODE.most
assert NOWHERE[0] > _TERM_MAX


class BadFrame(ValueError):
    """A peer sent what no sound node sends: a frame of any kind whose length or content breaks a rule.

    The link it came over can't be trusted any further: whoever reads it catches this, and ends it.
    """


class OpFields(NamedTuple):
    """An op as it travels."""

    kind: int
    slot: int
    code: int
    message_id: bytes
    key: bytes
    term: int
    seq: int
    blob: bytes


@dataclass(slots=True)
class Patch:
    """Keys and messageIDs of a slot's writes since a position (TOUCHED), or that a copy is to be patched in (PATCH)."""

    slot: int
    term: int  # of the session that begins; TOUCHED: 0
    position: Position  # TOUCHED: the last that both have met, or NOWHERE; PATCH: where the primary is
    keys: list[bytes]
    message_ids: list[bytes]

    @property
    def size_bytes(self) -> int:
        """On its way."""
        return _PATCH.size + sum(map(len, self.keys)) + sum(map(len, self.message_ids)) + self.count

    @property
    def heap_bytes(self) -> int:
        """As objects."""
        return self.size_bytes + NAME_HEAP_BYTES * self.count

    @property
    def count(self) -> int:
        return len(self.keys) + len(self.message_ids)


def _rows(layout: Struct, body: bytes, start: int, row_max: int = SLOT_COUNT) -> list[tuple[int, ...]]:
    size = len(body) - start
    if size < 0 or size % layout.size or size > row_max * layout.size:
        raise BadFrame(f"a table of {size} bytes in rows of {layout.size}")
    return list(layout.iter_unpack(memoryview(body)[start:]))


def _report(body: bytes, at: int = 0) -> int:
    """The number of a HAVE."""
    (number,) = _NUMBER.unpack_from(body, at)
    if not REPORT.has(number):
        raise BadFrame("no number of a report")
    return int(number)


def _view_name(body: bytes) -> tuple[int, int]:
    """Epoch and nonce, at the start of a body."""
    epoch, nonce = _VIEW.unpack_from(body)
    if not EPOCH.has(epoch):
        raise BadFrame(f"epoch {epoch}")
    return epoch, nonce


def _is_at(term: int, seq: int) -> bool:
    """Whether a copy that is whole can be there."""
    return term <= _TERM_MAX and seq <= _SEQ_MAX


def _is_session(term: int, position: Position) -> bool:
    """Whether a session can have this term, and begin there."""
    return 0 < term <= _TERM_MAX and _is_at(*position)


def encode_have(epoch: int, nonce: int, number: int, rows: Iterable[tuple[int, Position]]) -> bytes:
    """What a follower has."""
    table = b"".join(_POSITION.pack(slot, term, seq) for slot, (term, seq) in rows)
    return _VIEW.pack(epoch, nonce) + _NUMBER.pack(number) + table


def decode_have(body: bytes) -> tuple[int, int, int, list[tuple[int, Position]]]:
    """Epoch, nonce, number of the report, and slots with positions."""
    if len(body) < _VIEW.size + _NUMBER.size:
        raise BadFrame(f"HAVE of {len(body)} bytes")
    epoch, nonce = _view_name(body)
    number = _report(body, _VIEW.size)
    rows = [(slot, (term, seq)) for slot, term, seq in _rows(_POSITION, body, _VIEW.size + _NUMBER.size)]
    if not all(_is_at(*position) or position == NOWHERE for _, position in rows):
        raise BadFrame(f"HAVE of {rows}")
    return epoch, nonce, number, rows


def encode_query(epoch: int, nonce: int, slots: Iterable[int]) -> bytes:
    return _VIEW.pack(epoch, nonce) + bytes(slots)


def decode_query(body: bytes) -> tuple[int, int, bytes]:
    """Epoch and nonce of the asker's view, and the slots."""
    if not _VIEW.size <= len(body) <= _VIEW.size + SLOT_COUNT:
        raise BadFrame(f"QUERY of {len(body)} bytes")
    return *_view_name(body), body[_VIEW.size :]


def encode_start(number: int, rows: Iterable[tuple[int, int, Position]]) -> bytes:
    """The body of GO or BEGIN: the number of the HAVE it answers; slot, term and position."""
    return _NUMBER.pack(number) + b"".join(_START.pack(slot, term, *position) for slot, term, position in rows)


def decode_start(body: bytes) -> tuple[int, list[tuple[int, int, Position]]]:
    """The number of the HAVE answered, and rows of slot, term and position."""
    if len(body) < _NUMBER.size:
        raise BadFrame(f"GO or BEGIN of {len(body)} bytes")
    number = _report(body)
    rows = [(slot, term, (at_term, at_seq)) for slot, term, at_term, at_seq in _rows(_START, body, _NUMBER.size)]
    if not all(_is_session(term, position) for _, term, position in rows):
        raise BadFrame(f"GO or BEGIN of {rows}")
    return number, rows


def encode_ack(flags: int, rows: Iterable[tuple[int, int, int]]) -> bytes:
    return b"%c%b" % (flags, b"".join([_POSITION.pack(*row) for row in rows]))


def decode_ack(body: bytes) -> tuple[int, list[tuple[int, ...]]]:
    """What hinders mutations there (flags of app/storage/mutate.py), and rows of slot, term and seq."""
    if not body or body[0] & ~HINDRANCES:
        raise BadFrame("ACK without sound flags")
    rows = _rows(_POSITION, body, 1)
    if not all(_is_at(term, seq) for _, term, seq in rows):
        raise BadFrame(f"ACK of {rows}")
    return body[0], rows


def encode_end(rows: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(_SLOT_TERM.pack(*row) for row in rows)


def decode_end(body: bytes) -> list[tuple[int, ...]]:
    """Rows of slot and term."""
    rows = _rows(_SLOT_TERM, body, 0)
    if any(term > _TERM_MAX for _, term in rows):
        raise BadFrame(f"END of {rows}")
    return rows


def encode_credit(count: int) -> bytes:
    return _NUMBER.pack(count)


def decode_credit(body: bytes) -> int:
    """The number of chunks taken."""
    if len(body) != _NUMBER.size:
        raise BadFrame(f"CREDIT of {len(body)} bytes")
    (count,) = _NUMBER.unpack(body)
    return int(count)


def encode_past(number: int, rows: Iterable[tuple[int, int, int, int]]) -> bytes:
    return _NUMBER.pack(number) + b"".join(_STRETCH.pack(*row) for row in rows)


def decode_past(body: bytes) -> tuple[int, list[tuple[int, ...]]]:
    """The number of the HAVE answered, and rows of slot, term, first and last seq."""
    if len(body) < _NUMBER.size:
        raise BadFrame(f"PAST of {len(body)} bytes")
    number = _report(body)
    rows = _rows(_STRETCH, body, _NUMBER.size, STRETCHES_MAX * SLOT_COUNT)
    if not all(first <= last and _is_at(term, last) for _, term, first, last in rows):
        raise BadFrame(f"PAST of {rows}")
    if rows and max(Counter(row[0] for row in rows).values()) > STRETCHES_MAX:
        raise BadFrame(f"PAST of more than {STRETCHES_MAX} stretches of a slot")
    return number, rows


def encode_patches(number: int, patches: Iterable[Patch]) -> bytes:
    """The body of TOUCHED or PATCH, of at most 65,535 keys and as many messageIDs each."""
    parts = [_NUMBER.pack(number)]
    for patch in patches:
        parts.append(_PATCH.pack(patch.slot, patch.term, *patch.position, len(patch.keys), len(patch.message_ids)))
        parts += [b"%c%b" % (len(name), name) for names in (patch.keys, patch.message_ids) for name in names]
    return b"".join(parts)


def decode_touched(body: bytes) -> tuple[int, list[Patch]]:
    """The number of the HAVE that this goes back to, and what it says by slot."""
    number, patches = _decode_patches(body)
    if not all(not patch.term and (_is_at(*patch.position) or patch.position == NOWHERE) for patch in patches):
        raise BadFrame("TOUCHED of a session, or from no position")
    return number, patches


def decode_patches(body: bytes) -> tuple[int, list[Patch]]:
    """The number of the HAVE that is answered, and what is to be patched by slot."""
    number, patches = _decode_patches(body)
    if not all(_is_session(patch.term, patch.position) for patch in patches):
        raise BadFrame("PATCH of no session")
    return number, patches


def _decode_patches(body: bytes) -> tuple[int, list[Patch]]:
    at, end = _NUMBER.size, len(body)
    if not at <= end <= BODY_MAX_BYTES:
        raise BadFrame(f"patches of {end} bytes")
    number = _report(body)
    patches = []
    while at < end:
        if end - at < _PATCH.size:
            raise BadFrame("a patch is cut")
        slot, term, at_term, at_seq, key_count, id_count = _PATCH.unpack_from(body, at)
        keys, at = _names(body, at + _PATCH.size, key_count, KEY_MAX_BYTES)
        message_ids, at = _names(body, at, id_count, MESSAGE_ID_MAX_BYTES)
        patches.append(Patch(slot, term, (at_term, at_seq), keys, message_ids))
    return number, patches


def _names(body: bytes, at: int, count: int, max_bytes: int) -> tuple[list[bytes], int]:
    """So many strings, each after a byte that tells its length, and where they end."""
    names = []
    for _ in range(count):
        size = body[at] if at < len(body) else 0
        end = at + 1 + size
        if not 0 < size <= max_bytes or end > len(body):
            raise BadFrame(f"a name of {size} bytes")
        names.append(body[at + 1 : end])
        at = end
    return names, at


@piece
def encode_op(
    kind: int, slot: int, code: int, message_id: bytes, key: bytes, term: int, seq: int, blob: bytes
) -> bytes:
    header = _OP.pack(kind, slot, code, len(message_id), len(key), term, seq, len(blob))
    return b"%b%b%b%b" % (header, message_id, key, blob)


def decode_ops(body: bytes) -> list[OpFields]:
    """The ops of a frame, in order."""
    ops = take_ops(body, OpFields)
    if ops is None:
        raise BadFrame(f"ops that are not sound, in {len(body)} bytes")
    return ops


@piece
def take_ops(body: bytes, make: type[OpFields]) -> list[OpFields] | None:
    """The ops of a frame, in order; None if one of them is not sound. `make`: their class, a tuple of eight fields."""
    ops = []
    at, end = 0, len(body)
    if end > BODY_MAX_BYTES:
        return None
    while at < end:
        if end - at < _OP.size:
            return None
        kind, slot, code, id_bytes, key_bytes, term, seq, blob_bytes = _OP.unpack_from(body, at)
        key_at = at + _OP.size + id_bytes
        blob_at = key_at + key_bytes
        if (
            not PUT_OP <= kind <= NOTE_OP
            or id_bytes > MESSAGE_ID_MAX_BYTES
            or key_bytes > KEY_MAX_BYTES
            or blob_bytes > BLOB_MAX_BYTES
            or (kind in (PUT_OP, REMOVE_OP)) != (key_bytes > 0)
            or (kind != PUT_OP and blob_bytes)
            or code > _CODE_MAX
            or term > _TERM_MAX
            or seq > _SEQ_MAX
            or blob_at + blob_bytes > end
        ):
            return None
        message_id, key = body[at + _OP.size : key_at], body[key_at:blob_at]
        at = blob_at + blob_bytes
        ops.append(_tuple(make, (kind, slot, code, message_id, key, term, seq, body[blob_at:at])))
    return ops


def encode_entry(slot: int, key: bytes, blob: bytes) -> bytes:
    return b"%b%b%b" % (_ENTRY.pack(slot, len(key), len(blob)), key, blob)


def decode_entries(body: bytes) -> list[tuple[int, bytes, bytes]]:
    """Slot, key and blob of each entry."""
    entries = []
    at, end = 0, len(body)
    if end > BODY_MAX_BYTES:
        raise BadFrame(f"entries of {end} bytes")
    while at < end:
        if end - at < _ENTRY.size:
            raise BadFrame("an entry is cut")
        slot, key_bytes, blob_bytes = _ENTRY.unpack_from(body, at)
        blob_at = at + _ENTRY.size + key_bytes
        if not 0 < key_bytes <= KEY_MAX_BYTES or blob_bytes > BLOB_MAX_BYTES or blob_at + blob_bytes > end:
            raise BadFrame(f"an entry of {key_bytes} and {blob_bytes} bytes")
        entries.append((slot, body[at + _ENTRY.size : blob_at], body[blob_at : blob_at + blob_bytes]))
        at = blob_at + blob_bytes
    return entries


def encode_reply(slot: int, code: int, message_id: bytes) -> bytes:
    return b"%b%b" % (_REPLY.pack(slot, code, len(message_id)), message_id)


def decode_replies(body: bytes) -> list[tuple[int, int, bytes]]:
    """Slot, code and messageID of each reply."""
    replies = []
    at, end = 0, len(body)
    if end > BODY_MAX_BYTES:
        raise BadFrame(f"replies of {end} bytes")
    while at < end:
        if end - at < _REPLY.size:
            raise BadFrame("a reply is cut")
        slot, code, id_bytes = _REPLY.unpack_from(body, at)
        at += _REPLY.size
        if not 0 < id_bytes <= MESSAGE_ID_MAX_BYTES or at + id_bytes > end or code > _CODE_MAX:
            raise BadFrame(f"a reply of code {code} and {id_bytes} bytes")
        replies.append((slot, code, body[at : at + id_bytes]))
        at += id_bytes
    return replies
