"""What is kept of requests that wait, whatever for, and how much that may be.

How many wait, and what they keep, is bounded. Clients' requests and peers' count together, those that are with another
node (forwarding.py) and those that wait for copies (replicator.py). Beyond the bounds (`--max-in-flight` in number, a
share of the process's memory in bytes), a request that would have to wait is refused; one that need not is served as
ever.
"""

from collections.abc import Callable
from typing import Final

from app.fast import piece

# Of the process's bound, what requests that wait may keep.
WAITING_SHARE: Final = 1 / 8

_SPEND_BYTES: Final = 64 * 1024  # growth that is told at once


@piece
class Waiting:
    """One node's: how many requests wait, and what they keep."""

    def __init__(self, max_count: int, max_bytes: int, spend: Callable[[int], object]) -> None:
        """`max_count`, `max_bytes`: how many requests may wait at once, and what all of them may keep. `spend` is told
        by how much that has grown, so that the governor makes room for it in time (Store.spend)."""
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._spend = spend
        self._spent_bytes = 0  # of what they keep
        self.count = 0
        self.kept_bytes = 0
        self.full = max_count <= 0  # no other request may wait: one that would have to is to be refused

    def add(self, kept_bytes: int) -> None:
        """One more waits, and keeps so much. To be called only if there is room for it (`full`)."""
        assert not self.full, f"{self.count} requests wait already"
        self.count += 1
        self.kept_bytes += kept_bytes
        if self.kept_bytes >= self._spent_bytes + _SPEND_BYTES:
            self._spend(self.kept_bytes - self._spent_bytes)
            self._spent_bytes = self.kept_bytes
        if self.count >= self._max_count or self.kept_bytes >= self._max_bytes:
            self.full = True

    def remove(self, kept_bytes: int) -> None:
        """One that was added with so much waits no more."""
        self.count -= 1
        self.kept_bytes -= kept_bytes
        self.full = self.kept_bytes >= self._max_bytes

    def look(self) -> None:
        """What was given back is told anew when it is taken again. To be called several times a second."""
        self._spent_bytes = min(self._spent_bytes, self.kept_bytes)


@piece
class Kept:
    """What is kept of a request that is not answered at once."""

    __slots__ = (
        "asked_at",
        "client",
        "datagram",
        "deadline_s",
        "hops",
        "how",
        "is_uncertain",
        "peer",
        "received_s",
    )

    datagram: bytes
    client: bytes  # the socket address of the client to answer; empty: `peer` is to be answered
    asked_at: bytes  # the address of this machine that the client has asked, where it may have several
    peer: str
    hops: int  # forwardings so far
    deadline_s: float  # not to be executed from then on
    received_s: float  # out of the socket: what its answer took counts from then on
    is_uncertain: bool  # it may have taken effect somewhere: not to be refused as if it had not
    how: str  # it came to its answer: see app/observe/counters.py

    def answer_to(self, other: "Kept") -> None:
        """Whoever sent the other, the same request, is to get the answer, and says until when it may be executed."""
        self.client, self.peer, self.hops = other.client, other.peer, other.hops
        self.asked_at = other.asked_at
        self.deadline_s, self.received_s = other.deadline_s, other.received_s
