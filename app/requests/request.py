"""Who waits for an answer, and how long its request may still be executed.

Replies are remembered for 6 s, and a client's last try leaves 4.45 s after its first. A request that is executed later
than the difference after it was sent could be one whose reply has been forgotten, or undo what its client has done
since. So each request has a deadline from the moment it may have arrived (what waited in a socket while the process was
stopped counts as old), it travels with the request from node to node, and past it nobody executes it.
"""

from typing import Final

from app.config.options import REPLY_TTL_MIN_S
from app.wire.protocol import CLIENT_TIMEOUTS_MS

# How long a request may wait for a primary or for its answer. The next view is there within 1 s as a rule; a client
# that is still waiting tries again.
PATIENCE_S: Final = 0.9
# A turn of the loop that comes so long after the one before means that this process was stopped, or starved: what it
# reads may be as old. Shorter: links end on a crowded machine; longer: less is left of PATIENCE_S.
STALL_S: Final = 0.5
assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 + PATIENCE_S + STALL_S < REPLY_TTL_MIN_S, (
    "a reply may be forgotten before its last retry is executed"
)


class Origin:
    """A client's request, or one that a node relays for a client: who waits for the answer, and where it stands."""

    __slots__ = (
        "client",
        "datagram",
        "deadline_s",
        "hops",
        "is_uncertain",
        "peer",
        "received_s",
        "sent_s",
        "sent_to",
        "slot",
        "was_sent",
    )

    # Only of one that is forwarded:
    slot: int
    sent_to: str  # the peer it was last forwarded to; empty while it waits
    sent_s: float

    def __init__(self, client: bytes, peer: str, hops: int, deadline_s: float, received_s: float = 0.0) -> None:
        self.client = client  # its socket address; empty: it is a node
        self.peer = peer
        self.hops = hops  # forwardings so far
        self.deadline_s = deadline_s  # not to be executed from then on
        self.received_s = received_s  # from the client, out of the socket: what its answer took counts from then on
        self.datagram = b""  # the request, where somebody may have to see to it again
        self.is_uncertain = False  # it may have taken effect somewhere: not to be refused as if it had not
        self.was_sent = False
