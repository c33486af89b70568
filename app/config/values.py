"""What a setting takes: its bounds, with their reasons, and how what was typed becomes a value.

A parser takes text and returns a value. It raises ValueError with a phrase that follows "--option 'text': ".
"""

import re
from collections.abc import Callable
from typing import Final

from app.config import servers
from app.wire.protocol import CLIENT_TIMEOUTS_MS, DATAGRAM_MAX_BYTES

MIB: Final = 1 << 20
# Of the whole process. The interpreter with everything imported takes 29 MiB and remembered replies their
# share; with less than this there would be no store left to speak of.
MEMORY_MIN_BYTES: Final = 48 * MIB
# With --http: its server and the metrics library are 9 MiB more (docs/monitoring.md).
MEMORY_MIN_HTTP_BYTES: Final = 60 * MIB

# How long after a client's first try its last one leaves (s).
LAST_TRY_S: Final = sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000
# A reply must be remembered until the last try has arrived, or that would take effect once more: 1.5 s are for the way
# and for queues.
REPLY_TTL_MIN_S: Final = 6.0
# Replies are never forgotten early, so a longer life means fewer writes a second before clients are told to
# wait.
REPLY_TTL_MAX_S: Final = 60.0
assert LAST_TRY_S < REPLY_TTL_MIN_S

# With less than this a second, addresses that are forged could use up what honest ones get: app/front/rate.py.
ANSWER_RATE_MIN_BYTES: Final = 64 << 10

# Past these a number was not meant so: nobody waits an hour for a node to stop, or a month for one to come back, no
# request takes a minute (clients give up after 7 s), and a node has not more names than a cluster has nodes.
LEAVE_TIMEOUT_MAX_S: Final = 3600.0
FORGET_AFTER_MAX_S: Final = 31 * 86_400.0
SLOW_MAX_MS: Final = 60_000
HTTP_HOSTS_MAX: Final = 64

# Requests that may wait at once. The most could hold 1 GiB; by default it is 16 MiB.
IN_FLIGHT_MAX: Final = 65536
IN_FLIGHT_DEFAULT: Final = 1024


def in_flight_bytes(count: int) -> int:
    """What that many requests in flight hold at most: a datagram each."""
    return count * DATAGRAM_MAX_BYTES


assert in_flight_bytes(IN_FLIGHT_DEFAULT) <= MEMORY_MIN_BYTES // 2

# What may follow a size's number, in lower case; and a size: its number, decimals, unit.
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))? ?([a-z]*)", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of `64MB` (powers of 1000), `1GiB` or `1G` (powers of 1024) or a number; case doesn't matter."""
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[3].lower()) if match else None
    if not match or unit is None:
        raise ValueError("isn't a size: write 64MB, 1.5GiB or a number of bytes")
    decimals = match[2] or ""
    return int(match[1] + decimals) * unit // int(10 ** len(decimals))


def show_size(size_bytes: int) -> str:
    """A size as one would type it: in the largest binary unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _UNITS[unit.lower()] == 0:
            return f"{size_bytes // _UNITS[unit.lower()]}{unit}"
    return str(size_bytes)


def parse_memory(text: str) -> int:
    """Bytes of a process."""
    size_bytes = parse_size(text)
    if size_bytes < MEMORY_MIN_BYTES:
        raise ValueError(
            f"is less than a node needs: at least {show_size(MEMORY_MIN_BYTES)} (write 64MB, 1GiB or bytes)"
        )
    return size_bytes


def parse_answer_rate(text: str) -> int:
    """Bytes a second."""
    size_bytes = parse_size(text)
    if size_bytes < ANSWER_RATE_MIN_BYTES:
        raise ValueError(f"is less than a client needs: at least {show_size(ANSWER_RATE_MIN_BYTES)} (a second)")
    return size_bytes


def parse_bind(text: str) -> str:
    """A numeric address, without brackets."""
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not servers.is_address(address):
        raise ValueError("isn't an IPv4 or IPv6 address (host names are not looked up here)")
    return address.lower()


def parse_http_hosts(text: str) -> tuple[str, ...]:
    """Host names in lower case, or `*` among them."""
    names = tuple(name.strip().lower() for name in text.split(",")) if text else ()
    if len(names) > HTTP_HOSTS_MAX:
        raise ValueError(f"names more than {HTTP_HOSTS_MAX}")
    for name in names:
        if name != "*" and not servers.is_name(name):
            raise ValueError("isn't a host name, several with commas between, or *: ports are left out")
    return names


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser that takes these words."""

    def parse_choice(text: str) -> str:
        if text not in choices:
            raise ValueError(f"isn't one of {', '.join(choices)}")
        return text

    return parse_choice


def parse_yes_or_no(text: str) -> bool:
    """Whether it is yes."""
    return one_of("yes", "no")(text) == "yes"
