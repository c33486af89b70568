"""One request on its way through the node: who asked, how long it may still be executed, and the greenlet it runs in.

**Age.** Replies are remembered for 6 s, and a client's last try leaves 4.45 s after its first. A request that is
executed later than the difference after it arrived could be one whose reply has been forgotten, or undo what its client
has done since. So each has a deadline, counted from the moment at which it may have arrived (what waited in a socket
while the process was stopped counts as old), and past it nobody executes it. A node that forwards it says the deadline
by the receiver's clock (app/peers/links.py), so it holds whatever kernels and networks do on the way.

**Waiting.** A request that must wait for copies to have a write parks its greenlet (workers.py): whoever wakes it gives
it a value, and the code goes on where it was. One that is another node's to answer leaves nothing to go on with: what
is kept of it lies in a table (forwarding.py). Until then everything about it lies in a buffer that the next batch
overwrites, so a request that is answered at once costs no copy; `keep` takes along what is needed later.
"""

from typing import Final, Protocol

from greenlet import greenlet

from app.config.options import REPLY_TTL_MIN_S
from app.observe.counters import IN_TURN, WAITED
from app.requests.waiting import Kept
from app.wire.protocol import CLIENT_TIMEOUTS_MS

# How long a request may wait for a primary or for its answer. The next view is there within 1 s as a rule; a client
# that is still waiting tries again.
PATIENCE_S: Final = 0.9
assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 + PATIENCE_S < REPLY_TTL_MIN_S, (
    "a reply may be forgotten before its last retry is executed"
)


class Source(Protocol):
    """Where requests come from: the front's batch of datagrams, or the frames that a peer has sent."""

    def is_left(self) -> bool:
        """Whether there is another request to be executed now."""

    def work(self, request: "Request") -> None:
        """Execute requests, in a worker's greenlet and with its object, until none is left or one that had to wait has
        been answered."""

    def fill(self, request: "Request") -> None:
        """Set what the source knows of the request that is being executed: datagram, who asked, deadline."""


class Request(Kept):
    """See the module. It belongs to a worker, and is used for one request after the other."""

    __slots__ = ("greenlet", "has_expired", "has_waited", "is_kept", "source")

    def __init__(self, greenlet: greenlet | None, source: Source) -> None:
        """`greenlet`: in which it is executed; None: it must not wait."""
        self.greenlet = greenlet
        self.source = source  # of the requests that it is used for at present
        self.is_kept = False
        self.datagram = self.asked_at = b""  # until it is kept
        self.has_waited = False
        self.has_expired = False  # somebody may still hold it to wake it
        self.is_uncertain = False
        self.how = IN_TURN

    def keep(self) -> None:
        """Take along what the source knows of it. To be called while it is being executed for the first time."""
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
        """It was answered: the object serves for the next one."""
        if self.is_kept:
            self.is_kept = False
            self.datagram = b""
            self.has_waited = False
            self.is_uncertain = False
            self.how = IN_TURN
