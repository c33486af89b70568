"""Every number and name that comes from another node: below, at the least, at the most, above."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from app.cluster import limits
from app.cluster.limits import Range, ballots_below, fault_of, is_clock, is_name
from app.cluster.replication import frames
from app.cluster.replication.frames import BadFrame
from app.cluster.view import CAUSE_MAX_BYTES, BadView, from_message, to_message
from app.wire.protocol import ADDRESS_MAX_BYTES, ERROR_NAMES, SERVERS_MAX
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import a_view

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
SOUND = {"kind": pb.PING, "incarnation": 1}


def around(numbers: Range, most: int) -> list[tuple[int, bool]]:
    """What a field that holds 0 to `most` can say, at the ends of its range: and whether that is taken."""
    tries = [(numbers.least, True), (numbers.most, True), (numbers.least - 1, False), (numbers.most + 1, False)]
    return [(number, is_good) for number, is_good in tries if 0 <= number <= most]


# --- messages about membership ---------------------------------------------------------------------------------------

NUMBERS = [(field, *one) for field, numbers in limits.NUMBERS.items() for one in around(numbers, U64)]


@pytest.mark.parametrize(("field", "number", "is_good"), NUMBERS)
def test_the_numbers_of_a_message(field: str, number: int, is_good: bool) -> None:
    message = pb.ClusterMessage(**(SOUND | {field: number}))  # type: ignore[arg-type]
    assert fault_of(message) == ("" if is_good else field)


def test_every_field_of_a_message_has_its_range() -> None:
    known = {field.name for field in pb.ClusterMessage.DESCRIPTOR.fields}
    flags = {
        field.name
        for field in pb.ClusterMessage.DESCRIPTOR.fields
        if field.type in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM)
    }
    others = {"target", "sender", "blocked", "lost", "deaths", "synced", "lacks", "view"}
    assert known == flags | others | limits.NUMBERS.keys()


NAMES = [
    ("a", True),
    ("a" * ADDRESS_MAX_BYTES, True),
    ("[fe80::1%eth0]:3331", True),
    ("", False),
    ("a" * (ADDRESS_MAX_BYTES + 1), False),
    ("a b", False),
    ("a\n", False),
    ("\x1b[2J", False),
    ("\0", False),
    ('"', False),
    ("\\", False),
    ("é:1", False),
]


@pytest.mark.parametrize(("name", "is_good"), NAMES)
def test_names(name: str, is_good: bool) -> None:
    assert is_name(name) == is_good
    tries = {
        "deaths": pb.ClusterMessage(**SOUND, deaths=[pb.Death(address=name, incarnation=1)]),  # type: ignore[arg-type]
        "synced": pb.ClusterMessage(**SOUND, synced=[pb.Synced(address=name)]),  # type: ignore[arg-type]
        "lacks": pb.ClusterMessage(**SOUND, lacks=[name]),  # type: ignore[arg-type]
    }
    if name:
        tries["target"] = pb.ClusterMessage(**SOUND, target=name)  # type: ignore[arg-type]
        tries["sender"] = pb.ClusterMessage(**SOUND, sender=name)  # type: ignore[arg-type]
    assert {field: fault_of(message) for field, message in tries.items()} == {
        field: "" if is_good else field for field in tries
    }


@pytest.mark.parametrize(("length", "is_good"), [(0, True), (32, True), (1, False), (31, False), (33, False)])
def test_masks_of_slots(length: int, is_good: bool) -> None:
    mask = b"\xff" * length
    assert fault_of(pb.ClusterMessage(**SOUND, blocked=mask)) == ("" if is_good else "blocked")  # type: ignore[arg-type]
    assert fault_of(pb.ClusterMessage(**SOUND, lost=mask)) == ("" if is_good else "lost")  # type: ignore[arg-type]
    synced = [pb.Synced(address="a", slots=mask)]
    assert fault_of(pb.ClusterMessage(**SOUND, synced=synced)) == ("" if is_good else "synced")  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "is_good"), [(SERVERS_MAX, True), (SERVERS_MAX + 1, False)])
def test_lists(count: int, is_good: bool) -> None:
    lists: dict[str, list[object]] = {
        "deaths": [pb.Death(address="a", incarnation=1)],
        "synced": [pb.Synced(address="a")],
        "lacks": ["a"],
    }
    for field, one in lists.items():
        message = pb.ClusterMessage(**SOUND, **{field: one * count})  # type: ignore[arg-type]
        assert fault_of(message) == ("" if is_good else field)


@pytest.mark.parametrize(("incarnation", "is_good"), around(limits.INCARNATION, U64))
def test_deaths(incarnation: int, is_good: bool) -> None:
    deaths = [pb.Death(address="a", incarnation=incarnation)]
    assert fault_of(pb.ClusterMessage(**SOUND, deaths=deaths)) == ("" if is_good else "deaths")  # type: ignore[arg-type]


# --- views -----------------------------------------------------------------------------------------------------------


def _set(field: str) -> Callable[[pb.View, Any], None]:
    return lambda view, value: setattr(view, field, value)


def _set_member(field: str) -> Callable[[pb.View, Any], None]:
    return lambda view, value: setattr(view.members[1], field, value)


VIEWS: list[tuple[str, Callable[[pb.View, Any], None], Any, bool]] = [
    *(("cluster_id", _set("cluster_id"), *one) for one in around(limits.CLUSTER_ID, U64)),
    *(("epoch", _set("epoch"), *one) for one in around(limits.EPOCH, U64)),
    *(("nonce", _set("nonce"), *one) for one in around(limits.NONCE, U64)),
    *(("forced id", _set("forced_from_cluster_id"), *one) for one in around(Range(0, limits.CLUSTER_ID.most), U64)),
    *(("forced epoch", _set("forced_from_epoch"), *one) for one in around(Range(0, limits.EPOCH.most), U64)),
    *(("incarnation", _set_member("incarnation"), *one) for one in around(limits.INCARNATION, U64)),
    *(("address", _set_member("address"), *one) for one in NAMES if one[0] != "a"),
    ("the same twice", _set_member("address"), "a", False),
    ("cause", _set("cause"), "", True),
    ("cause", _set("cause"), "c" * CAUSE_MAX_BYTES, True),
    ("cause", _set("cause"), "c" * (CAUSE_MAX_BYTES + 1), False),
    ("cause", _set("cause"), "\x1b[2J", False),
    ("primaries", _set("primaries"), bytes(255), False),
    ("primaries", _set("primaries"), bytes(257), False),
    ("primaries", _set("primaries"), b"\x02" * 256, True),
    ("primaries", _set("primaries"), b"\x03" * 256, False),
    ("backups", _set("backups"), b"\x01\x03" * 256, False),
    ("backups", _set("backups"), bytes(257), False),
    ("homes", _set("homes"), bytes(256), False),
    ("homes", _set("homes"), b"\x02\x00\x00" * 256, False),
    ("homes", _set("homes"), b"\x09" + bytes(range(9)) + b"\x01\x00" * 255, False),
]


@pytest.mark.parametrize(("what", "change", "value", "is_good"), VIEWS)
def test_the_fields_of_a_view(what: str, change: Callable[[pb.View, Any], None], value: Any, is_good: bool) -> None:
    message = to_message(a_view())
    if what == "primaries":
        message.backups = bytes(256)
    change(message, value)
    if is_good:
        from_message(message)
    else:
        with pytest.raises(BadView):
            from_message(message)


# --- frames of replication -------------------------------------------------------------------------------------------

SLOT = 7


def _have(epoch: int = 1, nonce: int = 1, number: int = 1, term: int = 1, seq: int = 1) -> object:
    return frames.decode_have(frames.encode_have(epoch, nonce, number, [(SLOT, (term, seq))]))


def _start(number: int = 1, term: int = 1, at_term: int = 1, at_seq: int = 1) -> object:
    return frames.decode_start(frames.encode_start(number, [(SLOT, term, (at_term, at_seq))]))


def _query(epoch: int = 1, nonce: int = 1) -> object:
    return frames.decode_query(frames.encode_query(epoch, nonce, [SLOT]))


def _op(code: int = 0, term: int = 1, seq: int = 1, kind: int = frames.PUT_OP) -> object:
    key = b"" if kind in (frames.WIPE_OP, frames.NOTE_OP) else b"k"
    blob = b"blob" if kind == frames.PUT_OP else b""
    return frames.decode_ops(frames.encode_op(kind, SLOT, code, b"m", key, term, seq, blob))


def _ack(flags: int = 0, term: int = 1, seq: int = 1) -> object:
    return frames.decode_ack(frames.encode_ack(flags, [(SLOT, term, seq)]))


def _reply(code: int = 0) -> object:
    return frames.decode_replies(frames.encode_reply(SLOT, code, b"m"))


def _end(term: int = 1) -> object:
    return frames.decode_end(frames.encode_end([(SLOT, term)]))


def _past(number: int = 1, term: int = 1, first: int = 0, last: int = limits.SEQ.most) -> object:
    return frames.decode_past(frames.encode_past(number, [(SLOT, term, first, last)]))


def _patch(number: int = 1, term: int = 1, at_term: int = 1, at_seq: int = 1) -> object:
    return frames.decode_patches(
        frames.encode_patches(number, [frames.Patch(SLOT, term, (at_term, at_seq), [b"k"], [b"m"])])
    )


def _touched(number: int = 1, term: int = 0, at_term: int = 1, at_seq: int = 1) -> object:
    return frames.decode_touched(
        frames.encode_patches(number, [frames.Patch(SLOT, term, (at_term, at_seq), [b"k"], [b"m"])])
    )


FRAMES = [
    (_have, "epoch", limits.EPOCH, U64),
    (_have, "nonce", limits.NONCE, U64),
    (_have, "number", limits.REPORT, U32),
    (_have, "term", limits.TERM, U32),
    (_have, "seq", limits.SEQ, U64),
    (_start, "number", limits.REPORT, U32),
    (_start, "term", limits.EPOCH, U32),
    (_start, "at_term", limits.TERM, U32),
    (_start, "at_seq", limits.SEQ, U64),
    (_query, "epoch", limits.EPOCH, U64),
    (_query, "nonce", limits.NONCE, U64),
    (_op, "kind", Range(frames.PUT_OP, frames.NOTE_OP), 255),
    (_op, "code", limits.CODE, 255),
    (_op, "term", limits.TERM, U32),
    (_op, "seq", limits.SEQ, U64),
    (_ack, "flags", Range(0, 7), 255),
    (_ack, "term", limits.TERM, U32),
    (_ack, "seq", limits.SEQ, U64),
    (_reply, "code", limits.CODE, 255),
    (_end, "term", limits.TERM, U32),
    (_past, "number", limits.REPORT, U32),
    (_past, "term", limits.TERM, U32),
    (_past, "first", Range(0, limits.SEQ.most), U64),
    (_past, "last", limits.SEQ, U64),
    (_patch, "number", limits.REPORT, U32),
    (_patch, "term", limits.EPOCH, U32),
    (_patch, "at_term", limits.TERM, U32),
    (_patch, "at_seq", limits.SEQ, U64),
    (_touched, "number", limits.REPORT, U32),
    (_touched, "term", Range(0, 0), U32),
    (_touched, "at_term", limits.TERM, U32),
    (_touched, "at_seq", limits.SEQ, U64),
]


@pytest.mark.parametrize(
    ("frame", "field", "number", "is_good"),
    [
        pytest.param(frame, field, *one, id=f"{frame.__name__}-{field}-{one[0]}")
        for frame, field, numbers, most in FRAMES
        for one in around(numbers, most)
    ],
)
def test_the_numbers_of_frames(frame: Callable[..., object], field: str, number: int, is_good: bool) -> None:
    if is_good:
        frame(**{field: number})
    else:
        with pytest.raises(BadFrame):
            frame(**{field: number})


def test_a_copy_that_is_not_whole_is_nowhere_and_no_session_begins_there() -> None:
    nowhere = dict(zip(("at_term", "at_seq"), frames.NOWHERE, strict=True))
    _have(term=nowhere["at_term"], seq=nowhere["at_seq"])
    _touched(**nowhere)
    for frame in (_start, _patch):
        with pytest.raises(BadFrame):
            frame(**nowhere)


# --- what has more than a range --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "is_good"),
    [(0.0, True), (limits.CLOCK_MAX_S, True), (-1e-9, False), (limits.CLOCK_MAX_S * 1.01, False), (nan, False),
     (inf, False), (-inf, False), (-0.0, True)],
)  # fmt: skip
def test_clocks(seconds: float, is_good: bool) -> None:
    assert is_clock(seconds) == is_good


def test_ballots_have_room_by_the_time_of_their_decree_and_never_more_than_fits() -> None:
    assert ballots_below(0.0) == ballots_below(0.9) == limits.ROUNDS_A_SECOND * limits.RANKS
    assert ballots_below(3600.0) == 3601 * ballots_below(0.0)
    assert ballots_below(1e30) == ballots_below(inf) == limits.BALLOT.most


def test_whatever_is_the_most_one_more_fits_its_field() -> None:
    for numbers in (limits.INCARNATION, limits.CLUSTER_ID, limits.SEQ, limits.COUNTER, limits.BALLOT, limits.STAMP_US):
        assert numbers.most + 1 <= U64
    assert limits.EPOCH.most + 1 <= U32
    assert max(ERROR_NAMES) == limits.CODE.most
