"""Which addresses are meant: networks as operators write them (10.0.0.0/8, fd00::/8, 192.0.2.7), and verdicts by
address.

The problem: a node asks for every datagram whether its sender is one of those, and senders are never parsed: they are
the kernel's own bytes.

The approach: a verdict is worked out once for an address and kept in a dict, so that asking again is one look-up in C.
An IPv4 address on an IPv6 socket comes mapped (::ffff:a.b.c.d) and is judged as the IPv4 address that it is: ::/0 means
everybody who speaks IPv6, not everybody. The standard library's `ipaddress` was rejected: it works on objects made of
each address and each network, and takes a mapped address for an IPv6 one.
"""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Of one option: it bounds what judging a new address costs (2 µs, and 0.1 for each length of prefix).
NETWORKS_MAX: Final = 64
# Verdicts kept. Senders can be forged, so there may be more addresses than memory: when it is full, all are forgotten
# and worked out again. 4,096 take 0.35 MiB.
VERDICTS_MAX: Final = 4096

_DIGITS: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one
_MAPPED_BITS: Final = 8 * len(_MAPPED)
_SOCKADDR_IN_BYTES: Final = 16  # sockaddr_in; sockaddr_in6 takes 28


@dataclass(frozen=True, slots=True)
class Network:
    """The addresses that begin with the first `prefix` bits of `address` (4 or 16 bytes, the other bits zero)."""

    address: bytes
    prefix: int

    def __str__(self) -> str:
        text = _text(self.address)
        return text if self.prefix == 8 * len(self.address) else f"{text}/{self.prefix}"

    def covers(self, other: "Network") -> bool:
        """Whether every address of the other one is in this one, too."""
        if len(other.address) != len(self.address) or other.prefix < self.prefix:
            return False
        shift = 8 * len(self.address) - self.prefix
        return int.from_bytes(self.address) >> shift == int.from_bytes(other.address) >> shift


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of `CIDR[,CIDR...]`, in that order; an address alone is a network of one.

    Raises ValueError with a phrase that says what is wrong and how to write it.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > NETWORKS_MAX:
        raise ValueError(f"has {len(parts)} networks: at most {NETWORKS_MAX}, so join some by shorter prefixes")
    return tuple(_parse_network(part) for part in parts)


def _parse_network(text: str) -> Network:
    host, slash, prefix_text = text.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.inet_pton(family, host)
    except (OSError, ValueError):  # ValueError: a NUL, or not ASCII
        raise ValueError(
            f"{text!r} isn't a network: write 10.0.0.0/8, fd00::/8 or an address (names are not looked up here)"
        ) from None
    bits = 8 * len(address)
    if slash and (not _DIGITS.fullmatch(prefix_text) or int(prefix_text) > bits):
        raise ValueError(f"{text!r}: what follows the / is a number of bits from 0 to {bits}")
    prefix = int(prefix_text) if slash else bits
    clean = _first_bits(address, prefix)
    if clean != address:
        raise ValueError(f"{text!r} has bits set past the first {prefix}: write {_text(clean)}/{prefix} or {host}")
    if address.startswith(_MAPPED) and prefix >= _MAPPED_BITS:
        return Network(address[len(_MAPPED) :], prefix - _MAPPED_BITS)
    return Network(address, prefix)


def network_of(address: str) -> Network:
    """The network of one numeric address, its scope (%eth0) left out."""
    return _parse_network(address.partition("%")[0])


def show_networks(networks: Iterable[Network]) -> str:
    """As one would type them."""
    return ",".join(map(str, networks))


class Verdicts(dict[bytes, bool]):
    """`verdicts[host]`: whether an address (the 4 or 16 bytes that `host_of` gives) is in one of the networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        super().__init__()
        # The first bits of each network, by the length of its addresses (bytes) and the number of bits that follow.
        self._heads: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            length = len(network.address)
            shift = 8 * length - network.prefix
            self._heads.setdefault((length, shift), set()).add(int.from_bytes(network.address) >> shift)

    def __missing__(self, host: bytes) -> bool:
        if len(self) >= VERDICTS_MAX:
            self.clear()
        bare = host.removeprefix(_MAPPED)
        number = int.from_bytes(bare)
        verdict = any(
            length == len(bare) and number >> shift in heads for (length, shift), heads in self._heads.items()
        )
        self[host] = verdict
        return verdict


def host_of(sockaddr: bytes) -> bytes:
    """The address in a kernel's sockaddr_in or sockaddr_in6, without port and scope."""
    return sockaddr[4:8] if len(sockaddr) == _SOCKADDR_IN_BYTES else sockaddr[8:24]


def _first_bits(address: bytes, count: int) -> bytes:
    shift = 8 * len(address) - count
    return (int.from_bytes(address) >> shift << shift).to_bytes(len(address))


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)
