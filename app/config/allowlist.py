"""Which addresses are meant: networks as operators write them (10.0.0.0/8, fd00::/8, 192.0.2.7), and verdicts by
address.

The problem: a node asks for every datagram whether its sender is in one of those networks, and senders are never
parsed: they are the kernel's own bytes.

The approach: the networks are the standard library's (`ipaddress`). A verdict is worked out once for an address and
kept in a dict, so that asking again is one look-up in C (0.03 µs). To work one out, the networks are kept as ranges of
numbers that do not overlap, in order, so that it is one bisection however many there are (0.4 µs): senders can be
forged, each datagram with an address of its own. Asking each network in turn was rejected for that; it takes 0.2 µs a
network.

An IPv4 address on an IPv6 socket comes mapped (::ffff:a.b.c.d) and is judged as the IPv4 address that it is: ::/0 means
everybody who speaks IPv6, not everybody.
"""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final

from app.config.numbers import number

# Of one option: a list that is longer is a firewall's work.
NETWORKS_MAX: Final = 64
# Verdicts kept. Senders can be forged, so there may be more addresses than memory: when it is full, all are forgotten
# and worked out again. 4,096 take 0.35 MiB.
VERDICTS_MAX: Final = 4096

_MAPPED: Final = bytes(10) + b"\xff\xff"  # stands before an IPv4 address in an IPv6 one
_MAPPED_BITS: Final = 8 * len(_MAPPED)
_SOCKADDR_IN_BYTES: Final = 16  # sockaddr_in; sockaddr_in6 takes 28

Network = IPv4Network | IPv6Network


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
    try:
        if "%" in host:
            raise ValueError("a scope: who is meant would depend on the machine that reads it")
        address = ip_address(host)
    except ValueError:
        raise ValueError(
            f"{text!r} isn't a network: write 10.0.0.0/8, fd00::/8 or an address (names are not looked up here)"
        ) from None
    prefix: int = address.max_prefixlen
    if slash:
        try:
            prefix = number(int, 0, address.max_prefixlen, what="a number of bits")(prefix_text)
        except ValueError as error:
            raise ValueError(f"{text!r}: what follows the / {error}") from None
    network = ip_network((address, prefix), strict=False)
    if network.network_address != address:
        raise ValueError(f"{text!r} has bits set past the first {prefix}: write {network} or {host}")
    return _unmapped(network)


def _unmapped(network: Network) -> Network:
    """A network of IPv4 addresses as IPv6 sockets show them is the network of those."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def network_of(address: str) -> Network:
    """The network of one numeric address, its scope (%eth0) left out."""
    return _parse_network(address.partition("%")[0])


def covers(whole: Network, part: Network) -> bool:
    """Whether every address of the one network is in the other, too."""
    if isinstance(whole, IPv4Network):
        return isinstance(part, IPv4Network) and part.subnet_of(whole)
    return isinstance(part, IPv6Network) and part.subnet_of(whole)


def show_networks(networks: Iterable[Network]) -> str:
    """As one would type them: a network of one as an address."""
    return ",".join(map(show_network, networks))


def show_network(network: Network) -> str:
    """As `show_networks`, of one."""
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


class Verdicts(dict[bytes, bool]):
    """`verdicts[host]`: whether an address (the 4 or 16 bytes that `host_of` gives) is in one of the networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        super().__init__()
        self.judge_by(networks)

    def judge_by(self, networks: Iterable[Network]) -> None:
        """Go by these networks from now on."""
        self.clear()
        given = list(networks)
        # By the length of the addresses (bytes).
        self._ranges = {
            4: _Ranges(collapse_addresses(one for one in given if isinstance(one, IPv4Network))),
            16: _Ranges(collapse_addresses(one for one in given if isinstance(one, IPv6Network))),
        }

    def __missing__(self, host: bytes) -> bool:
        if len(self) >= VERDICTS_MAX:
            self.clear()
        bare = host.removeprefix(_MAPPED)
        verdict = self[host] = int.from_bytes(bare) in self._ranges[len(bare)]
        return verdict


class _Ranges:
    """The addresses of some networks, as numbers: `number in ranges`."""

    def __init__(self, networks: Iterable[Network]) -> None:
        """`networks`: of one family, in order, none within another."""
        apart = list(networks)
        self._firsts = [int(network.network_address) for network in apart]
        self._lasts = [int(network.broadcast_address) for network in apart]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]


def host_of(sockaddr: bytes) -> bytes:
    """The address in a kernel's sockaddr_in or sockaddr_in6, without port and scope."""
    return sockaddr[4:8] if len(sockaddr) == _SOCKADDR_IN_BYTES else sockaddr[8:24]
