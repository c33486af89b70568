"""A bad network, played by the client: a share of its datagrams is dropped, doubled or delayed.

Requests as they leave and answers as they arrive are treated alike, each by its own draw: dropped; or else delivered
once or twice, now or later.

A request must not arrive later than its answer is remembered for (6 s, of which the last try's 4.45 s are spent):
hence the bound on the delay. memcached remembers nothing; what a write that was sent twice does there, LegalVersions
takes as undecided.
"""

import heapq
import random
from typing import Any, Final, NamedTuple

from app.client.retry import SAFE_RETRY_S
from app.config.numbers import number

DELAY_MAX_MS: Final = 1000
assert SAFE_RETRY_S + DELAY_MAX_MS / 1000 < 6


class Faults(NamedTuple):
    """Shares of all datagrams, from 0 to 1."""

    drop: float = 0.0
    dup: float = 0.0
    delay: float = 0.0
    delay_ms: float = 0.0

    def __str__(self) -> str:
        parts = [f"{name}={share:g}" for name, share in (("drop", self.drop), ("dup", self.dup)) if share]
        if self.delay:
            parts.append(f"delay={self.delay:g}:{self.delay_ms:g}ms")
        return ",".join(parts)


NO_FAULTS: Final = Faults()

_share: Final = number(float, 0.0, 1.0, what="a share", unit="")
_delay_ms: Final = number(float, 0.0, DELAY_MAX_MS, what="a number of milliseconds", unit="ms")


def faults_of(text: str) -> Faults:
    """The faults in "drop=0.01,dup=0.01,delay=0.05:20ms"; ValueError with a phrase that follows the text."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, amount = part.strip().partition("=")
        if name not in ("drop", "dup", "delay"):
            raise ValueError(f"has '{name}', which isn't one of drop, dup, delay")
        if name in found:
            raise ValueError(f"has {name} twice")
        amount, colon, wait = amount.partition(":")
        if bool(colon) != (name == "delay"):
            raise ValueError(f"has '{part}', which isn't like {name}=0.01{':20ms' if name == 'delay' else ''}")
        try:
            found[name] = _share(amount)
            if colon:
                found["delay_ms"] = _delay_ms(wait)
        except ValueError as error:
            raise ValueError(f"has '{part}', which {error}") from None
    return Faults(**found)


class FaultyPath:
    """Decides what becomes of each datagram. `counts` says how often what was done."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self._faults = faults
        self._random = rng.random
        self._delayed: list[tuple[float, int, Any]] = []  # heap by time; the number keeps equal times apart
        self._number = 0
        self.counts = {"dropped": 0, "doubled": 0, "delayed": 0}

    def copies(self, item: Any, now: float) -> int:
        """How many copies of a datagram to deliver now; those for later come out of `due`."""
        faults, draw, counts = self._faults, self._random, self.counts
        if draw() < faults.drop:
            counts["dropped"] += 1
            return 0
        copies = 1
        if draw() < faults.dup:
            counts["doubled"] += 1
            copies = 2
        if draw() < faults.delay:
            counts["delayed"] += 1
            for _ in range(copies):
                self._number += 1
                heapq.heappush(self._delayed, (now + faults.delay_ms / 1000, self._number, item))
            return 0
        return copies

    @property
    def next_due(self) -> float:
        """When `due` has something next."""
        return self._delayed[0][0] if self._delayed else float("inf")

    def due(self, now: float) -> list[Any]:
        """The delayed datagrams whose time has come."""
        items = []
        while self._delayed and self._delayed[0][0] <= now:
            items.append(heapq.heappop(self._delayed)[2])
        return items
