"""Keys and messageIDs that somebody has chosen: a CRC-32 is no secret, and its bits can be set as one likes.

A slot is the low byte of a key's CRC-32, which the key's last byte decides; the last four decide all of it.
"""

from typing import Final
from zlib import crc32

_ALL: Final = 0xFFFFFFFF
_TABLE: Final = [(crc32(bytes([number]), _ALL) ^ _ALL) for number in range(256)]
# By the low byte, and by the high byte, of an entry of the CRC-32's table: its number. (Each occurs once.)
_NUMBER_OF_LOW: Final = {entry & 0xFF: number for number, entry in enumerate(_TABLE)}
_NUMBER_OF_HIGH: Final = {entry >> 24: number for number, entry in enumerate(_TABLE)}


def key_in_slot(prefix: bytes, slot: int) -> bytes:
    """The prefix and one byte more, such that this key belongs to the slot."""
    state = crc32(prefix) ^ _ALL
    number = _NUMBER_OF_LOW[(slot ^ 0xFF ^ state >> 8) & 0xFF]
    return prefix + bytes([(number ^ state) & 0xFF])


def with_checksum(prefix: bytes, checksum: int) -> bytes:
    """The prefix and four bytes more, such that all of it has this CRC-32."""
    numbers = []
    wanted = checksum ^ _ALL
    for _ in range(4):  # backwards: which entry of the table was the last to be added
        number = _NUMBER_OF_HIGH[wanted >> 24]
        numbers.append(number)
        wanted = (wanted ^ _TABLE[number]) << 8 & _ALL
    state = crc32(prefix) ^ _ALL
    made = bytearray(prefix)
    for number in reversed(numbers):
        made.append((number ^ state) & 0xFF)
        state = _TABLE[number] ^ state >> 8
    return bytes(made)
