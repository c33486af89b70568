"""How many bytes of answers one address gets a second: a bound on what others can have sent to a victim in its name.

The problem: a GET of 19 bytes may be answered with 10,024, and an address that sends proves nothing. To count what
every address gets would cost each request a look-up, and memory for as many addresses as somebody cares to forge.

The approach: bytes are counted for all addresses together, which costs an answer one subtraction
(app/front/batch.py), and only about every so many of them it is looked whose answer is going out: that address is
charged with all of them. Where the next look falls is drawn anew each time, so that nobody can see to it that somebody
else is charged; an address that gets many bytes is charged with as many, but for some per cent. The charges are kept
in a fixed table of buckets, chosen by Python's hash of the address, which is keyed by the process: each is the time at
which its bucket will be empty (a leaky bucket as a meter, in the form of ATM's generic cell rate algorithm). So 100,000
forged addresses take no memory, and share what a node can send at all, 350 MB/s perhaps, among 16,384 buckets: 21 KB/s
each, a third of the least rate that can be set.

An address over its rate gets answers of at most twice its request's bytes, and SYS_OVERLOAD_ERR in place of larger
ones, which are those to requests that change nothing. Whoever is forged is told to wait as well; that can't be helped.
"""

from array import array
from collections.abc import Callable, Mapping
from math import inf
from typing import Final

# Bytes that a look stands for, at most, and as a share of a second's: 64 looks of a second's bytes are off by 12 %.
LOOK_MAX_BYTES: Final = 64 * 1024
_LOOKS_PER_S: Final = 64
# Of an address, so many seconds' bytes may come at once.
BURST_S: Final = 1.0
# What is charged beyond that is forgotten: small answers go on, and an address is well again so soon.
_DEBT_S: Final = 0.25
# 128 KiB. Fewer: an honest address shares its bucket with more of those that are forged.
BUCKETS: Final = 16_384
# Of an IPv6 address: what a single customer has.
_IPV6_PREFIX_BYTES: Final = 8
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one

assert BUCKETS & (BUCKETS - 1) == 0, "a power of two: a bucket is some of the bits of a hash"


class AnswerRate:
    """One node's. `limits_until_s`: some address is over its rate until then, unless it gets more meanwhile."""

    def __init__(
        self,
        bytes_per_s: int,
        *,
        exempt: Mapping[bytes, bool],
        now: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`exempt`: who may have whatever there is, by address (DatagramBatch.host). `random()`: from 0 to 1."""
        self.limits_until_s = -inf
        self._bytes_per_s = bytes_per_s
        self._look_bytes = max(1, min(LOOK_MAX_BYTES, bytes_per_s // _LOOKS_PER_S))
        self._exempt = exempt
        self._now = now
        self._random = random
        self._empty_s = array("d", [0.0]) * BUCKETS

    def next_look(self) -> int:
        """After how many bytes it is to be looked whose answer is going out."""
        return int(self._random() * 2 * self._look_bytes)

    def charge(self, host: bytes, looks: int) -> None:
        """So many looks have fallen on answers to this address."""
        if self._exempt[host]:
            return
        bucket, now_s = _bucket(host), self._now()
        empty_s = max(self._empty_s[bucket], now_s) + looks * self._look_bytes / self._bytes_per_s
        self._empty_s[bucket] = empty_s = min(empty_s, now_s + BURST_S + _DEBT_S)
        self.limits_until_s = max(self.limits_until_s, empty_s - BURST_S)

    def wait_s(self, host: bytes) -> float:
        """How long until the address may have large answers again; 0 or less: it may."""
        return self._empty_s[_bucket(host)] - BURST_S - self._now()


def _bucket(host: bytes) -> int:
    if len(host) == 16 and not host.startswith(_MAPPED):
        host = host[:_IPV6_PREFIX_BYTES]
    return hash(host) & BUCKETS - 1
