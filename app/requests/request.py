"""One request on its way through the node: who asked, how long it may still be executed, and the greenlet it runs in.

**Age.** Replies are remembered for 6 s, and a client's last try leaves 4.45 s after its first. A request that is
executed later than the difference after it arrived could be one whose reply has been forgotten, or undo what its client
has done since. So each has a deadline, counted from the moment at which it may have arrived (what waited in a socket
while the process was stopped counts as old), and past it nobody executes it. A node that forwards it says the deadline
by the receiver's clock (app/peers/links.py), so it holds whatever kernels and networks do on the way.

**Waiting.** A request that must wait, for another node's answer or for copies to have a write, parks its greenlet
(workers.py): whoever wakes it gives it a value, and the code goes on where it was. Until then everything about it lies
in a buffer that the next batch overwrites, so a request that is answered at once costs no copy; `keep` takes along what
is needed later.
"""

from typing import Final, Protocol

from greenlet import greenlet

from app.config.options import REPLY_TTL_MIN_S
from app.observe.counters import IN_TURN
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


class Request:
    """See the module. It belongs to a worker, and is used for one request after the other."""

    __slots__ = (
        "asked_at",
        "client",
        "command",
        "datagram",
        "deadline_s",
        "greenlet",
        "has_expired",
        "has_waited",
        "hops",
        "how",
        "is_uncertain",
        "peer",
        "received_s",
        "sent_over",
        "sent_s",
        "sent_to",
        "slot",
        "source",
        "was_sent",
    )

    # Set by `keep`:
    client: bytes  # the socket address of the client to answer; empty: `peer` is to be answered
    peer: str
    deadline_s: float  # not to be executed from then on
    received_s: float  # out of the socket: what its answer took counts from then on
    hops: int  # forwardings so far
    # While it is relayed (forwarding.py):
    command: int
    slot: int
    was_sent: bool  # to another node, at least once
    sent_to: str  # the primary it was last forwarded to; empty: it is not under way
    sent_over: str  # the peer over whose link
    sent_s: float

    def __init__(self, greenlet: greenlet | None, source: Source) -> None:
        """`greenlet`: in which it is executed; None: it must not wait."""
        self.greenlet = greenlet
        self.source = source  # of the requests that it is used for at present
        self.datagram = b""  # once it is kept
        self.asked_at = b""  # the address of this machine that the client has asked, where it may have several
        self.has_waited = False
        self.has_expired = False  # somebody may still hold it to wake it
        self.is_uncertain = False  # it may have taken effect somewhere: not to be refused as if it had not
        self.how = IN_TURN  # it came to its answer: see app/observe/counters.py

    def keep(self) -> None:
        """Take along what the source knows of it. To be called while it is being executed for the first time."""
        if not self.datagram:
            self.source.fill(self)

    def release(self) -> None:
        """It was answered: the object serves for the next one."""
        if self.datagram:
            self.datagram = b""
            self.has_waited = False
            self.is_uncertain = False
            self.how = IN_TURN

    def answer_to(self, retry: "Request") -> None:
        """Whoever sent the retry is to get the answer: the one who asked first may have given up, or moved."""
        self.client, self.peer, self.hops = retry.client, retry.peer, retry.hops
        self.asked_at = retry.asked_at
        self.deadline_s, self.received_s = retry.deadline_s, retry.received_s
