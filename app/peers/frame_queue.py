"""Frames that wait to be written to one peer: how many bytes they may be, and who is told of the first one.

All that one turn of the loop has for a peer leaves in one write (links.py), so to queue a frame is to add to a list.
"""

from typing import Any, Protocol

from app.fast import piece
from app.peers.frames import HEADER_BYTES, pack_header


class Queues(Protocol):
    """Who writes what is queued, for all peers."""

    queue_max_bytes: int  # what one peer may leave unread
    full: int  # frames not taken, because their peer had too much to read
    dirty: list[Any]  # the queues in which something is to be written

    def wake(self) -> object:
        """See to it that what is queued is written when this turn of the loop ends."""


@piece
class FrameQueue:
    """One peer's. `parts`: headers and bodies, in order; `queued`: bytes in them and in what is being written."""

    __slots__ = ("_queues", "parts", "queued")

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self.parts: list[bytes] = []
        self.queued = 0  # not 0: due to be flushed, or waiting for the kernel

    def put(self, header: bytes, body: bytes) -> bool:
        """Queue a frame, its header packed; False, and nothing is queued, when the peer is too far behind."""
        queues = self._queues
        queued = self.queued + len(header) + len(body)
        if queued > queues.queue_max_bytes:
            queues.full += 1
            return False
        if not self.queued:
            queues.dirty.append(self)
            queues.wake()
        self.queued = queued
        self.parts += (header, body)
        return True

    def put_all(self, kind: int, bodies: list[bytes]) -> bool:
        """As `put`, several frames of one kind: all of them or none."""
        queues = self._queues
        queued = self.queued + sum(map(len, bodies)) + len(bodies) * HEADER_BYTES
        if queued > queues.queue_max_bytes:
            queues.full += len(bodies)
            return False
        if not self.queued:
            queues.dirty.append(self)
            queues.wake()
        self.queued = queued
        parts = self.parts
        for body in bodies:
            parts += (pack_header(len(body), kind), body)
        return True
