"""TCP sockets that a test plays by hand: it is the peer and the kernel."""

import errno
from collections import deque
from itertools import count
from typing import Any

_numbers = count(1000)


class FakeStream:
    """One end of a connection."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.sent = bytearray()
        self.writes: list[int] = []  # what each call of `send` took
        self.room: int | None = None  # how much more is taken; None: everything
        self.inbox = bytearray()
        self.ended = False  # the peer has closed, after what is in the inbox
        self.fault: OSError | None = None  # what the next call raises
        self.closed = False
        self.connects: list[Any] = []
        self.connect_code = 0
        self.code = 0  # what `error` says
        self.is_connected_to_itself = False

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def connect_ex(self, address: Any) -> int:
        self.connects.append(address)
        return self.connect_code

    def error(self) -> int:
        return self.code

    def _check(self) -> None:
        assert not self.closed, "it is closed"
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def send(self, data: bytes | memoryview) -> int:
        self._check()
        taken = len(data) if self.room is None else min(len(data), self.room)
        if not taken:
            raise BlockingIOError
        if self.room is not None:
            self.room -= taken
        self.sent += data[:taken]
        self.writes.append(taken)
        return taken

    def recv(self, count: int) -> bytes:
        self._check()
        if not self.inbox and not self.ended:
            raise BlockingIOError
        data = bytes(self.inbox[:count])
        del self.inbox[:count]
        return data

    def recv_into(self, buffer: bytearray) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.closed = True


class FakeStreams:
    """A node's: `made` are those that it has dialled with, `arriving` what it will accept (or fail with)."""

    def __init__(self) -> None:
        self.made: list[FakeStream] = []
        self.next: deque[FakeStream | OSError] = deque()  # what dialling gets; then plain ones
        self.arriving: deque[tuple[FakeStream, str] | OSError] = deque()
        self.number = next(_numbers)
        self.is_closed = False
        self.here: set[str] = set()  # addresses of this very machine

    def is_here(self, address: str) -> bool:
        return address in self.here

    def look_up(self, host: str) -> list[str]:
        """Every server is written as an address."""
        raise AssertionError(f"{host} is no name")

    @property
    def listener(self) -> "FakeStreams":
        return self

    def dialling(self) -> FakeStream:
        one = self.next.popleft() if self.next else FakeStream()
        if isinstance(one, OSError):
            raise one
        self.made.append(one)
        return one

    def pending(self) -> FakeStream:
        """What is dialled with next, and does not connect at once."""
        one = FakeStream()
        one.connect_code = errno.EINPROGRESS
        self.next.append(one)
        return one

    # As the listener.

    def fileno(self) -> int:
        return self.number

    def accept(self) -> tuple[FakeStream, tuple[str, int]]:
        if not self.arriving:
            raise BlockingIOError
        one = self.arriving.popleft()
        if isinstance(one, OSError):
            raise one
        sock, host = one
        return sock, (host, 40_000)

    def close(self) -> None:
        self.is_closed = True
