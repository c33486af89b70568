"""app/fast/codec.pyx does what app/wire/codec.py does, to whatever comes."""

import os
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire import protocol
from app.wire.protocol import ERROR_NAMES, GET, PUT, VALUE_MAX_BYTES
from proto_gen.key_value_pb2 import KVRequest
from tests.support.parts import examples
from tests.support.pieces import pieces
from tests.wire.datagrams import envelope
from tests.wire.test_ordinary import damaged, damaged_inside, envelopes, ordinary, texts

thorough = examples(1000)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("codec", "compiled")


@pytest.fixture(scope="module")
def pure() -> Any:
    return pieces("codec", "pure")


def test_its_numbers_are_the_protocols(compiled: Any) -> None:
    from app.fast import codec

    for name in ("PUT", "GET", "KEY_MAX_BYTES", "VALUE_MAX_BYTES", "SLOT_COUNT", "TYPE_RESPONSE"):
        assert getattr(codec, name) == getattr(protocol, name), name
    assert len(ERROR_NAMES) == codec.ERROR_CODES


@pytest.mark.parametrize("length", [*range(300), 1000, 4099, 10_000])
def test_its_checksum_is_zlibs(length: int) -> None:
    from app.fast import codec

    data = os.urandom(length)
    for crc in (0, 1, 0xFFFFFFFF, 0x12345678):
        assert codec.crc32(data, crc) == codec.crc32_by_tables(data, crc) == crc32(data, crc), data.hex()


def agree(pure: Any, compiled: Any, datagram: bytes, before: bytes = b"", after: bytes = b"") -> Any:
    """What both make of a datagram with something around it."""
    whole = before + datagram + after
    start, end = len(before), len(before) + len(datagram)
    taken = pure.take_ordinary(whole, start, end)
    for buffer in (whole, bytearray(whole)):
        got = compiled.take_ordinary(buffer, start, end)
        assert got == taken, (datagram.hex(), before.hex(), after.hex())
        if got is not None:
            assert list(map(type, got)) == list(map(type, taken))
    return taken


@thorough
@given(ordinary | damaged() | damaged_inside() | envelopes() | st.binary(max_size=200), texts(0, 3), texts(0, 30))
def test_any_datagram_wherever_it_lies(pure: Any, compiled: Any, datagram: bytes, before: bytes, after: bytes) -> None:
    agree(pure, compiled, datagram, before, after)


def ordinary_ones() -> list[tuple[bytes, bytes, int | None]]:
    """MessageID, payload and type of some."""
    bodies = [
        KVRequest(command=GET, key=b"k"),
        KVRequest(command=GET, key=b"\x19" * 32),
        KVRequest(command=PUT, key=b"k", value=b"", version=0),
        KVRequest(command=PUT, key=b"key", value=b"\x19" * 20, version=127),
        KVRequest(command=PUT, key=b"k" * 32, value=b"\x19" * 88, version=1),
        KVRequest(command=PUT, key=b"k", value=b"\x19" * 128, version=1),
    ]
    return [(bytes(range(16)), body.SerializeToString(), kind) for body in bodies for kind in (None, 0)]


@pytest.mark.parametrize(("message_id", "payload", "kind"), ordinary_ones())
def test_every_change_of_one_byte_outside_and_inside_of_the_checksum(
    pure: Any, compiled: Any, message_id: bytes, payload: bytes, kind: int | None
) -> None:
    datagram = envelope(message_id, payload, kind)
    assert agree(pure, compiled, datagram) is not None
    for at in range(len(datagram)):
        for byte in range(256):
            agree(pure, compiled, datagram[:at] + bytes((byte,)) + datagram[at + 1 :])
        agree(pure, compiled, datagram[:at])
        agree(pure, compiled, datagram[:at], after=datagram[at:])
    for at in range(len(payload)):
        for byte in range(256):
            agree(pure, compiled, envelope(message_id, payload[:at] + bytes((byte,)) + payload[at + 1 :], kind))


@pytest.mark.parametrize("key_bytes", [1, 32])
@pytest.mark.parametrize("length", [0, 86, 87, 88, 117, 118, 119, 120, 127, 128, 129, 255, 256, 9999, 10_000, 10_001])
def test_values_of_every_length_of_a_length(pure: Any, compiled: Any, length: int, key_bytes: int) -> None:
    body = KVRequest(command=PUT, key=b"k" * key_bytes, value=b"\x19" * length, version=3)
    for kind in (None, 0):
        taken = agree(pure, compiled, envelope(b"m" * 16, body.SerializeToString(), kind))
        assert (taken is None) == (length > VALUE_MAX_BYTES)
        assert taken is None or taken[4:] == (body.key, pure.encode_value(body.value, 3))


@pytest.mark.parametrize(("short", "long"), [(b"\x1a\x05", b"\x1a\x85\x00"), (b"\x1a\x82\x01", b"\x1a\x82\x81\x00")])
def test_a_length_of_more_bytes_than_it_needs_is_not_ordinary(
    pure: Any, compiled: Any, short: bytes, long: bytes
) -> None:
    value = bytes(5 if len(short) == 2 else 130)
    payload = b"\x08\x01\x12\x20" + b"k" * 32 + short + value + b"\x20\x01"
    assert agree(pure, compiled, envelope(b"m" * 16, payload)) is not None
    assert agree(pure, compiled, envelope(b"m" * 16, payload.replace(short, long))) is None
    sound = envelope(b"m" * 16, payload)
    for length in (b"\x80\x00", b"\xff\x00", b"\x80\x80\x01", b"\x80\x01"):
        assert agree(pure, compiled, sound[:19] + length + sound[20:]) is None


def test_a_checksum_that_looks_like_its_tag(pure: Any, compiled: Any) -> None:
    """Nine bytes before the end, where the tag would be if there were no type."""
    looks = 0
    for number in range(2000):
        message_id = number.to_bytes(16)
        datagram = envelope(message_id, b"\x08\x02\x12\x01k", 0)
        looks += datagram[-9] == 0x19
        assert agree(pure, compiled, datagram) is not None
    assert looks


@pytest.mark.parametrize("start", [-(2**62), -1, 0, 1, 30, 60, 2**62])
@pytest.mark.parametrize("end", [-(2**62), -1, 0, 1, 34, 60, 2**62])
def test_a_span_that_is_not_within_the_buffer(pure: Any, compiled: Any, start: int, end: int) -> None:
    datagram = envelope(b"m" * 16, b"\x08\x02\x12\x01k")
    for buffer in (b"", datagram, datagram + b"\x28\x00", bytearray(datagram)):
        assert compiled.take_ordinary(buffer, start, end) == pure.take_ordinary(buffer, start, end)


@pytest.mark.parametrize("buffer", [None, "text" * 20, 7])
def test_what_is_no_buffer_raises_the_same(pure: Any, compiled: Any, buffer: Any) -> None:
    for module in (pure, compiled):
        with pytest.raises(TypeError):
            module.take_ordinary(buffer, 0, 50)


message_ids = st.binary(min_size=16, max_size=16) | st.binary(max_size=127)
crcs = st.integers(0, 2**32 - 1)
texts_of_any_length = st.binary(max_size=140) | st.integers(0, VALUE_MAX_BYTES + 60).map(lambda n: b"\x28" * n)


@thorough
@given(message_ids, crcs, texts_of_any_length, st.sampled_from(tuple(ERROR_NAMES)))
def test_any_response(pure: Any, compiled: Any, message_id: bytes, crc: int, payload: bytes, code: int) -> None:
    for name, given_ in (("encode_response", payload), ("encode_found", payload), ("encode_error", code)):
        expected = getattr(pure, name)(message_id, crc, given_)
        assert getattr(compiled, name)(message_id, crc, given_) == expected, name


@thorough
@given(texts_of_any_length, st.integers(-(2**31), 2**31 - 1) | st.sampled_from((-(2**63), 2**63 - 1, 127, 128)))
def test_any_value(pure: Any, compiled: Any, value: bytes, version: int) -> None:
    assert compiled.encode_value(value, version) == pure.encode_value(value, version)


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("encode_response", (b"m" * 16, 0, bytes(0x4000)), AssertionError),
        ("encode_response", (b"m" * 128, 0, b"p"), AssertionError),
        ("encode_found", (b"m" * 16, 0, bytes(0x4000 - 2)), AssertionError),
        ("encode_error", (b"m" * 128, 0, 0), AssertionError),
        ("encode_error", (b"m" * 16, 0, len(ERROR_NAMES)), IndexError),
        ("encode_error", (b"m" * 15, 0, len(ERROR_NAMES)), IndexError),
        ("encode_value", (None, 0), TypeError),
        ("encode_response", (None, 0, b""), TypeError),
        ("encode_response", (b"m", 0, None), TypeError),
    ],
)
def test_what_is_not_to_be_asked_for_raises_the_same(
    pure: Any, compiled: Any, name: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    for module in (pure, compiled):
        with pytest.raises(error):
            getattr(module, name)(*arguments)


def test_the_longest_are_not_refused(pure: Any, compiled: Any) -> None:
    for arguments in ((b"m" * 127, 1, bytes(0x4000 - 1)), (b"m" * 16, 1, bytes(0x4000 - 1))):
        assert compiled.encode_response(*arguments) == pure.encode_response(*arguments)
