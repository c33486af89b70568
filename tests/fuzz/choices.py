"""Choices: read from the bytes that a guided fuzzer has made, or drawn by a seeded generator; for the same inputs."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """What an input is made by."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to choose by: all further choices are the first of their kind."""

    def number(self, most: int) -> int:
        """0 to `most`."""

    def raw(self, most: int) -> bytes:
        """So many bytes at most."""


def one_of(choices: Choices, options: Sequence[T]) -> T:
    """One of them."""
    return options[choices.number(len(options) - 1)]


def is_so(choices: Choices, one_in: int) -> bool:
    """True once in so many."""
    return choices.number(one_in - 1) == one_in - 1


class FromBytes:
    """Reads an input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._data)

    def number(self, most: int) -> int:
        size = (most.bit_length() + 7) // 8
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little") % (most + 1)

    def raw(self, most: int) -> bytes:
        length = self.number(most)
        part = self._data[self._at : self._at + length]
        self._at += length
        return part


class Drawn:
    """Draws, without end."""

    is_over = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def number(self, most: int) -> int:
        return self._rng.randint(0, most)

    def raw(self, most: int) -> bytes:
        return self._rng.randbytes(self._rng.randint(0, min(most, self._rng.choice((4, 64, most)))))
