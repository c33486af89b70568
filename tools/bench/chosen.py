"""Keys that somebody has chosen: a slot is the low byte of a key's CRC-32, and that can be set by the last byte."""

from typing import Final
from zlib import crc32

_ALL: Final = 0xFFFFFFFF
# By the low byte of an entry of the CRC-32's table: its number. (Each low byte occurs once.)
_NUMBER_OF: Final = {(crc32(bytes([number]), _ALL) ^ _ALL) & 0xFF: number for number in range(256)}


def key_in_slot(prefix: bytes, slot: int) -> bytes:
    """The prefix and one byte more, such that this key belongs to the slot."""
    state = crc32(prefix) ^ _ALL
    number = _NUMBER_OF[(slot ^ 0xFF ^ state >> 8) & 0xFF]
    return prefix + bytes([(number ^ state) & 0xFF])
