"""One request on its way through the node: who asked, and how long it may still be executed.

**Age.** Replies are remembered for 6 s, and a client's last try leaves 4.45 s after its first. A request that is
executed later than the difference after it arrived could be one whose reply has been forgotten, or undo what its client
has done since. So each has a deadline, counted from the moment at which it may have arrived (what waited in a socket
while the process was stopped counts as old), and past it nobody executes it. A node that forwards it says the deadline
by the receiver's clock (app/peers/links.py), so it holds whatever kernels and networks do on the way.

**Waiting.** The code that executes a request never waits. What is kept of one that can't be answered yet lies in a
table: until another node has answered (forwarding.py), or until copies have a write (replicator.py). While it is
executed everything about it lies in a buffer that the next batch overwrites, so a request that is answered at once
costs no copy; `keep` takes along what is needed later.
"""

from typing import Final, Protocol

from app.config.values import REPLY_TTL_MIN_S
from app.observe.counters import WAITED
from app.requests.waiting import Kept
from app.wire.protocol import CLIENT_TIMEOUTS_MS

# How long a request may wait for a primary or for its answer. The next view is there within 1 s as a rule; a client
# that is still waiting tries again.
PATIENCE_S: Final = 0.9
assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 + PATIENCE_S < REPLY_TTL_MIN_S, (
    "a reply may be forgotten before its last retry is executed"
)


class Source(Protocol):
    """Where requests come from: the front's batch of datagrams, the frames that a peer has sent, or what has waited."""

    def fill(self, kept: Kept) -> None:
        """Set what the source knows of the request that is being executed: the datagram, who asked and by which address
        of this machine, until when it may be executed. What is kept may be new: nothing of that was set before."""


class Request(Kept):
    """See the module. It belongs to a source, which uses it for one request after the other."""

    __slots__ = ("is_kept", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.is_kept = False
        self.datagram = self.asked_at = b""  # until it is kept
        self.is_uncertain = False

    def keep(self) -> None:
        """Take along what the source knows of it. To be called while it is being executed."""
        if not self.is_kept:
            self.is_kept = True
            self.source.fill(self)

    def resume(self, kept: Kept) -> None:
        """It is to be executed after all: all that is known of it was kept."""
        self.is_kept = True
        self.datagram = kept.datagram
        self.answer_to(kept)
        self.is_uncertain = kept.is_uncertain
        self.how = WAITED

    def release(self) -> None:
        """It was executed: the object serves for the next one."""
        self.is_kept = False
        self.datagram = b""
        self.is_uncertain = False
