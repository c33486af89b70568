"""The short way through a request and the general one: the same answer and the same effect, whatever comes.

Every example sends the same datagrams, in the same order, to two nodes' insides, one by way of `handle` and one
by way of `_decode`, and compares answers, contents, remembered replies and counters. Store and reply memory
are dictionaries here, and the two nodes are made once: either takes 5 ms.
"""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.requests.commands import Shutdown
from app.requests.request import Request
from app.wire.codec import take_ordinary
from app.wire.protocol import GET, PUT
from proto_gen.key_value_pb2 import KVRequest
from proto_gen.message_pb2 import Msg
from tests.support.parts import Parts, examples
from tests.wire.datagrams import ack, envelope, request
from tests.wire.vectors import exchanges

# Bytes that mean something in the framing; the table turns the lower half of all bytes into these.
framing = b"\x00\x01\x02\x07\x08\x0a\x10\x12\x19\x1a\x20\x28\x80"
resembling = bytes(framing[byte % len(framing)] if byte < 0x80 else byte for byte in range(256))
framing_bytes = st.sampled_from(framing) | st.integers(0, 255)


def texts(shortest: int, longest: int) -> st.SearchStrategy[bytes]:
    """Byte strings that resemble framing, of such lengths."""
    any_bytes = st.binary(min_size=shortest, max_size=longest)
    one = st.tuples(st.sampled_from(framing), st.integers(shortest, longest)).map(
        lambda drawn: bytes(drawn[:1]) * drawn[1]
    )
    return any_bytes.map(lambda drawn: drawn.translate(resembling)) | one | any_bytes


message_ids = texts(16, 16) | texts(0, 65)
keys = st.sampled_from((b"k", b"\x1a" * 5, b"\x12" * 32, b"key")) | texts(0, 33)
# A payload's length takes a second byte from 128 on, which a value of about 90 to 125 bytes reaches.
values = texts(0, 8) | texts(80, 130) | texts(126, 130)
versions = st.sampled_from((0, 1, 0x1A, 0x20, 127, 128, 300, -1, 2**31 - 1, -(2**31)))
commands = st.sampled_from((PUT, PUT, GET, GET)) | st.integers(0, 9) | st.integers(0, 2**32 - 1)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """KVRequests of any combination of fields, in any order, some of them twice."""
    fields = []
    for name, drawn in (("command", commands), ("key", keys), ("value", values), ("version", versions)):
        present = 1 if name in ("command", "key") else draw(st.integers(0, 1))
        present = draw(st.sampled_from((present, present, present, 0, 2)))
        fields += [KVRequest(**{name: draw(drawn)}).SerializeToString() for _ in range(present)]
    if draw(st.integers(0, 3)) == 0:
        fields = draw(st.permutations(fields))
    return b"".join(fields)


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """Sound Msgs, most of them ordinary, some with fields in another order, twice, or unknown."""
    message_id, payload = draw(message_ids), draw(bodies())
    kind = draw(st.sampled_from((None, None, 0, 0, 1, 2, 16, -1)))
    whole = envelope(message_id, payload, kind)
    if draw(st.integers(0, 3)):
        return whole
    msg = Msg.FromString(whole)
    fields = [
        Msg(messageID=msg.messageID).SerializeToString(),
        Msg(payload=msg.payload).SerializeToString(),
        Msg(checkSum=msg.checkSum).SerializeToString(),
        Msg(type=kind).SerializeToString(),
        draw(st.sampled_from((b"", b"\x78\x01", b"\x0a\x00", b"\x12\x00", b"\x28\x00", b"\x28\x80\x00"))),
    ]
    return b"".join(draw(st.permutations(fields)))


def is_ordinary(datagram: bytes) -> bool:
    return take_ordinary(datagram, 0, len(datagram)) is not None


ordinary = st.builds(
    lambda message_id, command, key, value, version, kind: envelope(
        message_id,
        KVRequest(
            command=command,
            key=key,
            value=value if command == PUT else None,
            version=version if command == PUT else None,
        ).SerializeToString(),
        kind,
    ),
    texts(16, 16),
    st.sampled_from((PUT, GET)),
    keys,
    texts(0, 100),
    st.sampled_from((0, 1, 0x1A, 0x19, 0x20, 127)),
    st.sampled_from((None, 0)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An ordinary datagram with a few bytes changed, cut, inserted or appended."""
    datagram = bytearray(draw(ordinary))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(datagram) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                datagram[at] = draw(framing_bytes)
            case 1:
                datagram.insert(at, draw(framing_bytes))
            case 2:
                del datagram[at : at + draw(st.integers(1, 12))]
            case 3:
                datagram += draw(texts(1, 4))
        if not datagram:
            break
    return bytes(datagram)


@st.composite
def damaged_inside(draw: st.DrawFn) -> bytes:
    """An ordinary datagram whose payload was changed before the checksum was made."""
    msg = Msg.FromString(draw(ordinary))
    payload = bytearray(msg.payload)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(payload) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                payload[at] = draw(framing_bytes)
            case 1:
                payload.insert(at, draw(framing_bytes))
            case 2:
                payload += draw(texts(1, 12))
    return envelope(msg.messageID, bytes(payload), draw(st.sampled_from((None, 0))))


class DictStore:
    def __init__(self) -> None:
        self.content: dict[tuple[int, bytes], bytes] = {}

    def get(self, number: int, key: bytes) -> bytes | None:
        return self.content.get((number, key))

    def spend(self, size_bytes: int) -> None:
        """Nothing is bounded here."""

    def put(self, number: int, key: bytes, blob: bytes) -> bool:
        self.content[number, key] = blob
        return True

    def remove(self, number: int, key: bytes) -> bool:
        return self.content.pop((number, key), None) is not None

    def wipe(self, slots: Iterable[int]) -> None:
        wiped = set(slots)
        self.content = {place: blob for place, blob in self.content.items() if place[0] not in wiped}


class DictReplies:
    full = False

    def __init__(self) -> None:
        self.codes: dict[bytes, tuple[int, int]] = {}  # mask of slots, error code

    def get(self, message_id: bytes) -> int | None:
        return self.codes.get(message_id, (0, None))[1]

    def add(self, message_id: bytes, slot: int, code: int) -> None:
        slots, before = self.codes.get(message_id, (0, code))
        assert not slots >> slot & 1, f"slot {slot} remembers it already"
        assert before == code, "one answer"
        self.codes[message_id] = slots | 1 << slot, code

    def slots_of(self, message_id: bytes) -> int:
        return self.codes.get(message_id, (0, 0))[0]

    def forget(self, message_id: bytes) -> bool:
        return self.codes.pop(message_id, None) is not None

    def forget_slots(self, slots: int) -> None:
        assert not slots, "nobody takes slots away from the only node"


class Inside:
    def __init__(self) -> None:
        self.store, self.replies = DictStore(), DictReplies()
        self.parts = Parts(store=self.store, replies=self.replies)

    def clear(self) -> "Inside":
        """It holds nothing; what it counts goes on."""
        self.store.content = {}
        self.replies.codes = {}
        return self

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer by `Commands.handle`, to a datagram in the middle of a buffer with other things around."""
        return self.parts.handle(datagram)

    def handle_any(self, datagram: bytes) -> bytes | None:
        """The answer by the general way alone."""
        commands = self.parts.commands

        def general(request: Request, buffer: bytearray, start: int, end: int) -> bytes | None:
            decoded = commands._decode(request, bytes(buffer[start:end]))
            return commands._see_to(request, *decoded) if isinstance(decoded, tuple) else decoded

        return self.parts.handle_by(general, datagram)

    def state(self) -> tuple[object, ...]:
        counters = {name: repr(counted) for name, counted in vars(self.parts.counters).items()}
        return self.store.content, self.replies.codes, self.parts.membership.heard, counters


SHORT, GENERAL = Inside(), Inside()


def outcome(handle: Callable[[bytes], bytes | None], datagram: bytes) -> tuple[str, bytes | None]:
    try:
        return "answer", handle(datagram)
    except Shutdown as shutdown:
        return "shutdown", shutdown.reply


def both_ways_agree(datagrams: list[bytes]) -> tuple[Inside, list[bytes | None]]:
    short, general = SHORT.clear(), GENERAL.clear()
    answers = []
    for datagram in datagrams:
        answer = outcome(short.handle, datagram)
        assert answer == outcome(general.handle_any, datagram), datagram.hex()
        answers.append(answer[1])
    assert short.state() == general.state()
    return short, answers


@examples(250)
@given(st.lists(envelopes(), min_size=1, max_size=6))
def test_every_encoding(datagrams: list[bytes]) -> None:
    both_ways_agree(datagrams)


@examples(150)
@given(st.lists(ordinary, min_size=1, max_size=6))
def test_ordinary_requests(datagrams: list[bytes]) -> None:
    both_ways_agree(datagrams)


@examples(250)
@given(st.lists(ordinary | damaged(), min_size=1, max_size=4))
def test_damaged_requests(datagrams: list[bytes]) -> None:
    both_ways_agree(datagrams)


@examples(250)
@given(st.lists(ordinary | damaged_inside(), min_size=1, max_size=4))
# A value's length that fits only when the version's tag is taken for its last byte, and the like.
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x1a\x02v\x20\x05")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x1a\x00\x20\x05")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x1a\x00\x20\x80")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x00\x1a\x01v\x20\x05")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x1a\x01v\x28\x05")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x1a\x01v\x08\x02")])
@example([envelope(b"m" * 16, b"\x08\x01\x12\x01k\x12\x01v\x20\x05")])
@example([envelope(b"m" * 16, b"\x08\x02\x12\x01kk")])
@example([envelope(b"m" * 16, b"\x08\x02\x12\x02k")])
def test_requests_damaged_before_their_checksum_was_made(datagrams: list[bytes]) -> None:
    both_ways_agree(datagrams)


@pytest.mark.parametrize("fill", [0x19, 0x1A, 0x12, 0x20, 0x28, 0x00, 0x0A])
@pytest.mark.parametrize("key_length", [1, 2, 31, 32])
def test_keys_and_values_full_of_framing(fill: int, key_length: int) -> None:
    key = bytes([fill]) * key_length
    for length in range(128):
        value = bytes([fill]) * length
        put = request(bytes([fill]) * 15 + b"p", command=PUT, key=key, value=value, version=fill)
        get = request(bytes([fill]) * 16, command=GET, key=key)
        _, answers = both_ways_agree([put, get])
        assert answers[1] is not None
        assert value in answers[1]


def test_every_cut_and_every_flipped_byte_of_an_ordinary_put() -> None:
    whole = request(b"0123456789abcdef", command=PUT, key=b"key", value=b"value", version=7)
    assert is_ordinary(whole)
    both_ways_agree([whole[:end] for end in range(len(whole))])
    for flip in (1, 0x80):
        both_ways_agree([whole[:at] + bytes([byte ^ flip]) + whole[at + 1 :] for at, byte in enumerate(whole)])
    both_ways_agree([whole + bytes([byte]) for byte in range(256)])


def test_every_value_length_up_to_the_short_forms_end_and_past_it() -> None:
    for length in range(140):
        put = request(b"p" * 16, command=PUT, key=b"key", value=b"v" * length, version=1)
        inside, answers = both_ways_agree([put, request(b"g" * 16, command=GET, key=b"key")])
        assert len(inside.store.content) == 1
        assert answers[1] is not None
        assert answers[1].count(b"v") >= length


def test_the_golden_vectors_both_ways() -> None:
    datagrams = []
    for exchange in exchanges():
        datagrams += [exchange.request, ack(bytes(range(16)))]
    both_ways_agree(datagrams)


def test_the_short_way_is_taken() -> None:
    """Or all of the above compares the general way with itself."""
    inside = Inside()

    def general(*arguments: object) -> bytes | None:
        raise AssertionError("not the short way")

    inside.parts.commands._decode = general
    for kind in (None, 0):
        for length in (0, 1, 80, 100, 120, 128, 1000, 10_000):
            body = KVRequest(command=PUT, key=b"k" * 8, value=bytes(length), version=127)
            assert inside.handle(envelope(b"%16d" % length, body.SerializeToString(), kind))
        assert inside.handle(envelope(b"g" * 16, KVRequest(command=GET, key=b"k" * 8).SerializeToString(), kind))
