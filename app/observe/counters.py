"""What a node counts: plain ints in plain attributes, since some are raised on every request.

Requests by command and replies by code are one table, raised once a request: `answers[command * 8 + code]`.
Row 0 holds the commands that the protocol does not know.
"""

from typing import Final

from app.observe.histogram import LAG_EDGES_S, REQUEST_EDGES_S, Histogram
from app.wire.protocol import COMMAND_NAMES, ERROR_NAMES, GET, KEY_DNE_ERR, NO_ERR

# The table of answers: a row a command, a column an error code.
_CODES: Final = len(ERROR_NAMES)
_ROWS: Final = max(COMMAND_NAMES) + 1
assert _CODES == 8, "the table is indexed by command * 8 + code"

# How a request came to its answer: the labels of the metrics of latency.
IN_TURN: Final = "local"  # in the turn that received it, from this node's memory
FORWARDED: Final = "forwarded"  # by the slot's primary, another node
REPLICATED: Final = "replicated"  # by this node, a write, once all copies had it
WAITED: Final = "waited"  # by this node, after it had waited for something else: a primary, a write of its key

# Why a datagram was dropped unanswered: docs/protocol.md explains each.
DROP_REASONS: Final = (
    "oversized",
    "unparsable",
    "wrong_checksum",
    "no_message_id",
    "long_message_id",
    "no_payload",
    "unexpected_type",
    "too_old",
    "shed",
    "not_allowed",
    "admin_not_allowed",
)


class Counters:
    """One node's counters since its start."""

    def __init__(self) -> None:
        self.answers = [0] * (_ROWS * _CODES)
        self.drops = dict.fromkeys(DROP_REASONS, 0)
        self.retries_answered = 0  # from the reply memory
        self.acks = 0  # that freed a remembered reply
        self.over_rate = 0  # answers that became refusals, since their address had had too many bytes
        self.unfenced = 0  # replies not sent because the lease had run out meanwhile
        # From a request's receipt to its answer, by how it came to it; the time that it lay in the
        # socket's buffer before is not in it.
        self.latency = {how: Histogram(REQUEST_EDGES_S) for how in (IN_TURN, FORWARDED, REPLICATED, WAITED)}
        self.loop_lag = Histogram(LAG_EDGES_S)  # how late the upkeep's timer fired

    def by_command(self) -> dict[str, int]:
        """Requests answered, by command."""
        counts = {name: sum(self.answers[n * _CODES : (n + 1) * _CODES]) for n, name in COMMAND_NAMES.items()}
        counts["unknown"] = sum(self.answers[:_CODES])
        return counts

    def durations(self) -> list[int]:
        """Clients' requests by how long they took: counts by bucket of REQUEST_EDGES_S, however they were answered."""
        return [sum(column) for column in zip(*(one.counts for one in self.latency.values()), strict=True)]

    @property
    def hits(self) -> int:
        """GETs that found their key."""
        return self.answers[GET * _CODES + NO_ERR]

    @property
    def misses(self) -> int:
        """GETs that did not."""
        return self.answers[GET * _CODES + KEY_DNE_ERR]

    def by_code(self) -> dict[str, int]:
        """Replies, by error code."""
        return {name: sum(self.answers[code::_CODES]) for code, name in ERROR_NAMES.items()}
