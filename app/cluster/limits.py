"""Which numbers and names a node takes from another one: the range of every field of every message and frame.

The problem: what is well-formed may still be wrong, by a fault or on purpose, and do its harm later: a number that is
taken over and counted on from there passes what its field holds, one far ahead shuts out all that come after it. So
each is checked where it comes in, before anything of its message or frame is taken: messages about membership by
`fault_of` (inbox.py), views by `View.check` (view.py), replication's frames by their decoders (replication/frames.py),
those of links by app/peers/frames.py, handshakes and sealed datagrams where they are read (app/peers). All of them take
their ranges from here.

Three kinds of numbers need more than a range, since any range has an end, and whoever may speak as a server (who knows
the secret; without one, who can forge an address) may say the highest number at once:

- *Incarnations.* A process that meets a higher one at its own address outbids it (`OUTBID_MAX`). Above that nobody has
  to: whoever answers what we have said just now is believed without (inbox.py, app/peers/datagram_auth.py).
- *Epochs.* The last one is never gone by: whoever is to do so starts anew instead, and all of them found a new cluster
  (core.py). Its slots start empty.
- *Ballots.* There is room for as many rounds as honest proposers can have made since the decree began, and some
  (`ballots_below`). So one that is far ahead is refused, and one that is not is soon overtaken.

Seqs are renewed like epochs, with the term, by the next node that becomes a slot's primary (replication/primary.py).
"""

import re
from math import isfinite
from typing import Final, NamedTuple

from app.wire.protocol import ADDRESS_MAX_BYTES, ERROR_NAMES, SERVERS_MAX, SLOT_COUNT
from proto_gen import cluster_pb2 as pb


class Range(NamedTuple):
    """Both ends are in it."""

    least: int
    most: int

    def has(self, number: int) -> bool:
        return self.least <= number <= self.most


_NUMBER_MAX: Final = (1 << 63) - 1  # so that one more still fits 64 bits, with or without sign

# A process. Its own is the time at its start (µs since 1970: 2**51), or above what was met at its address.
INCARNATION: Final = Range(1, _NUMBER_MAX)
# The highest that a process takes an incarnation above of; each time by 2**20 at most.
OUTBID_MAX: Final = 1 << 62
assert INCARNATION.most > OUTBID_MAX + (1 << 60)

CLUSTER_ID: Final = Range(1, _NUMBER_MAX)
# A term is an epoch, and has 32 bits in frames; the highest stands for no position there (frames.NOWHERE). An epoch
# takes 50 ms at least (timing.BATCH_S), so this is for six years of changes without a pause.
EPOCH: Final = Range(1, (1 << 32) - 2)
TERM: Final = Range(0, EPOCH.most)
# A write; a hot slot sees 2**32 in two or three days.
SEQ: Final = Range(0, _NUMBER_MAX)
SEQ_RENEWED: Final = 1 << 62  # whoever becomes a slot's primary at a seq above this begins at 0 again
NONCE: Final = Range(0, (1 << 64) - 1)
# A clock that counts from a machine's start (µs; s).
STAMP_US: Final = Range(0, _NUMBER_MAX)
CLOCK_MAX_S: Final = float(1 << 43)
SPAN_US: Final = Range(0, 10_000_000)  # for which something is promised: FOUND_WAIT_S at most, and some
NODE_PROTOCOLS: Final = Range(0, 255)  # a byte in links' greetings; 0: not named
COUNTER: Final = Range(0, _NUMBER_MAX)  # of refutations, of sealed datagrams
REPORT: Final = Range(1, (1 << 32) - 1)  # number of a HAVE; 0 stands for none
CODE: Final = Range(0, len(ERROR_NAMES) - 1)  # that a reply carries
HOPS: Final = Range(1, 3)  # of a request that is forwarded (app/requests/forwarding.py)

RANKS: Final = 1 << 8  # a ballot is round * RANKS + the proposer's rank: unique to the proposer
BALLOT: Final = Range(0, _NUMBER_MAX)
# Rounds that a decree has room for, for each second that it has lasted. Proposers that lose wait 20 ms at least.
ROUNDS_A_SECOND: Final = 1000
assert SERVERS_MAX <= RANKS

SLOTS_BYTES: Final = SLOT_COUNT // 8  # of a mask of slots


def ballots_below(lasted_s: float) -> int:
    """Above every ballot that honest proposers can have come to in a decree that began so long ago (s).

    Nodes may differ by seconds in when it began; what is refused for that is taken a moment later.
    """
    return min((1 + int(min(lasted_s, 1e15))) * ROUNDS_A_SECOND * RANKS, BALLOT.most)


def is_clock(seconds: float) -> bool:
    """Whether a clock can show this (s): NaN, infinity and negative numbers are none."""
    return isfinite(seconds) and 0.0 <= seconds <= CLOCK_MAX_S


# Printable ASCII, but for the space, the double quote and the backslash.
_NAME: Final = re.compile(rf"[!#-\[\]-~]{{1,{ADDRESS_MAX_BYTES}}}")


def is_name(name: str) -> bool:
    """Whether this can be a server's name: a line of a servers file, which is printable ASCII without spaces. And
    without what JSON would escape: a report has room for so many bytes a name (app/requests/reports.py)."""
    return _NAME.fullmatch(name) is not None


# By field of a ClusterMessage. What is missing here is no number, and `fault_of` knows it.
NUMBERS: Final = {
    "incarnation": INCARNATION,
    "to_incarnation": Range(0, INCARNATION.most),
    "stamp_us": STAMP_US,
    "echo_us": STAMP_US,
    "cluster_id": Range(0, CLUSTER_ID.most),
    "epoch": Range(0, EPOCH.most),
    "nonce": NONCE,
    "target_incarnation": Range(0, INCARNATION.most),
    "number": COUNTER,
    "ballot": BALLOT,
    "accepted_ballot": BALLOT,
    "span_us": SPAN_US,
    "node_protocol": NODE_PROTOCOLS,
}
_BOUNDS: Final = tuple((field, *numbers) for field, numbers in NUMBERS.items())  # the same, laid flat


def fault_of(message: pb.ClusterMessage) -> str:
    """The first field of the message that is out of its range, or nothing. Its view is `from_message`'s to check."""
    for field, least, most in _BOUNDS:
        if not least <= getattr(message, field) <= most:
            return field
    for field in ("target", "sender"):
        if (name := getattr(message, field)) and not is_name(name):
            return field
    for field, mask in (("blocked", message.blocked), ("lost", message.lost)):
        if not _is_mask(mask):
            return field
    if len(message.deaths) > SERVERS_MAX or not all(
        is_name(death.address) and INCARNATION.has(death.incarnation) for death in message.deaths
    ):
        return "deaths"
    synced = message.synced
    if len(synced) > SERVERS_MAX or not all(is_name(one.address) and _is_mask(one.slots) for one in synced):
        return "synced"
    if len(message.lacks) > SERVERS_MAX or not all(map(is_name, message.lacks)):
        return "lacks"
    return ""


def _is_mask(mask: bytes) -> bool:
    """Whether this is a mask of slots; an empty one has none."""
    return len(mask) in (0, SLOTS_BYTES)
