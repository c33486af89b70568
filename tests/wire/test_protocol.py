"""What the numbers promise to those who share them."""

import base64

import pytest

from app.wire import protocol
from app.wire.protocol import SLOT_COUNT, slot_of


@pytest.mark.parametrize(("key", "slot"), [(b"", 0x00), (b"a", 0x43), (b"123456789", 0x26), (bytes(32), 0xAD)])
def test_a_slot_is_the_low_eight_bits_of_the_keys_crc32(key: bytes, slot: int) -> None:
    """CRC-32 of "123456789" is 0xCBF43926 in every table of checksums."""
    assert slot_of(key) == slot


def test_the_numbers_are_those_that_clients_know() -> None:
    """As docs/protocol.md has them: no test that takes them from the code would see one change."""
    commands = ["PUT", "GET", "REMOVE", "SHUTDOWN", "WIPEOUT", "IS_ALIVE", "GET_PID", "GET_MEMBERSHIP_CNT"]
    own = {32: "STATUS", 33: "SLOWLOG", 34: "VITALS", 35: "FOUND", 36: "CONFIG", 37: "SERVERS"}
    assert dict(enumerate(commands, 1)) | own == protocol.COMMAND_NAMES
    codes = ["NO", "KEY_DNE", "NO_SPC", "SYS_OVERLOAD", "INTERNAL", "UNKNOWN_CMD", "INVALID_KEY", "INVALID_VAL"]
    assert {number: f"{code}_ERR" for number, code in enumerate(codes)} == protocol.ERROR_NAMES
    types = (protocol.TYPE_REQUEST, protocol.TYPE_RESPONSE, protocol.TYPE_ACK, protocol.TYPE_CLUSTER)
    assert types == (0, 1, 2, 16)
    limits = (protocol.DATAGRAM_MAX_BYTES, protocol.MESSAGE_ID_MAX_BYTES, protocol.KEY_MAX_BYTES)
    assert limits == (16384, 64, 32)
    assert (protocol.VALUE_MAX_BYTES, protocol.SLOT_COUNT, protocol.SERVERS_MAX) == (10_000, 256, 64)
    assert protocol.ALL_SLOTS == 2**256 - 1
    assert sum(protocol.CLIENT_TIMEOUTS_MS[:-1]) == 4450, "the last try leaves 4.45 s after the first"


@pytest.mark.parametrize("names", [protocol.COMMAND_NAMES, protocol.ERROR_NAMES])
def test_every_number_has_its_name(names: dict[int, str]) -> None:
    for number, name in names.items():
        assert getattr(protocol, name) == number


def test_places_are_the_digits_of_url_safe_base64() -> None:
    data = int("".join(f"{place:06b}" for place in range(64)), 2).to_bytes(48)
    assert base64.urlsafe_b64encode(data).decode() == protocol.PLACE_DIGITS
    assert protocol.PLACE_NOBODY not in protocol.PLACE_DIGITS
    assert len(protocol.PLACE_NOBODY) == 1


def test_every_slot_has_keys() -> None:
    assert {slot_of(b"%d" % n) for n in range(10_000)} == set(range(SLOT_COUNT))
