"""What a client counts."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """What happened on the wire since the client was made. Counts of datagrams, unless said otherwise.

    A request's first try is the one that `requests` counts, so `sent` is `requests` and `retries` and the tries that a
    refusal moved to another server.
    """

    requests: int = 0  # requests, each key of get_many and the like by itself
    direct: int = 0  # of them, those that went straight to their slot's primary
    sent: int = 0  # tries, retries included
    retries: int = 0
    timeouts: int = 0  # requests that nobody answered
    overloads: int = 0  # SYS_OVERLOAD_ERR answers that were waited out or given back
    refused: int = 0  # times a server's machine said that nothing listens there
    acks: int = 0
    lost: int = 0  # datagrams that the socket did not take
    probes: int = 0  # STATUS requests by which a slot-aware client learns its table; in no other count
    # Received and of no use, by reason: other_id (a late or doubled answer), wrong_checksum, unparsable, ...
    ignored: dict[str, int] = field(default_factory=dict)

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1
