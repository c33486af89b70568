"""What the numbers promise to those who share them."""

import pytest

from app.wire.protocol import SLOT_COUNT, slot_of


@pytest.mark.parametrize(("key", "slot"), [(b"", 0x00), (b"a", 0x43), (b"123456789", 0x26), (bytes(32), 0xAD)])
def test_a_slot_is_the_low_eight_bits_of_the_keys_crc32(key: bytes, slot: int) -> None:
    """CRC-32 of "123456789" is 0xCBF43926 in every table of checksums."""
    assert slot_of(key) == slot


def test_every_slot_has_keys() -> None:
    assert {slot_of(b"%d" % n) for n in range(10_000)} == set(range(SLOT_COUNT))
