"""What a client counts."""

from collections.abc import Iterable
from typing import Self


class Stats:
    """What happened on the wire since the client was made. Counts of datagrams, unless said otherwise.

    A request's first try is the one that `requests` counts, so `sent` is `requests` and `retries` and the tries that a
    refusal moved to another server.
    """

    # No dataclass: importing what makes one takes a fifth of the time that importing the client does.
    __slots__ = (
        *("requests", "direct", "sent", "retries", "timeouts", "overloads", "refused", "acks", "lost", "probes"),
        "ignored",
    )

    def __init__(self) -> None:
        self.requests = 0  # requests, each key of get_many and the like by itself
        self.direct = 0  # of them, those that went straight to their slot's primary
        self.sent = 0  # tries, retries included
        self.retries = 0
        self.timeouts = 0  # requests that nobody answered
        self.overloads = 0  # SYS_OVERLOAD_ERR answers that were waited out or given back
        self.refused = 0  # times a server's machine said that nothing listens there
        self.acks = 0
        self.lost = 0  # datagrams that the socket did not take
        self.probes = 0  # STATUS requests by which a slot-aware client learns its table; in no other count
        # Received and of no use, by reason: other_id (a late or doubled answer), wrong_checksum, unparsable, ...
        self.ignored: dict[str, int] = {}

    @classmethod
    def of(cls, parts: Iterable["Stats"]) -> Self:
        """The sum of several."""
        total = cls()
        for part in parts:
            for name in cls.__slots__[:-1]:
                setattr(total, name, getattr(total, name) + getattr(part, name))
            for reason, count in part.ignored.copy().items():
                total.ignored[reason] = total.ignored.get(reason, 0) + count
        return total

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1
