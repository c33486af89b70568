"""How datagrams that are too large for the way leave: in fragments, at once, whatever the way says or keeps to itself.

The problem: Linux sends datagrams with the don't-fragment bit and waits for routers to tell by ICMP what is too large.
Many networks drop ICMP; then every datagram above the least MTU of the way (1,400 bytes behind many a tunnel) is lost,
each time, while small ones pass.

The approach: IPv4 datagrams leave without the bit, so that routers may cut them up. IPv6 routers never do; there the
sender cuts up what is larger than its interface's MTU, and does it to what each IPv6 network must carry. Weaker than it
looks: Linux has no option to cut up what fits into the interface's MTU, so between 1,280 bytes and that IPv6 depends on
ICMP, or on an interface with the MTU of its paths. Retries in smaller pieces were rejected: they need a protocol of
their own.
"""

import socket
import sys
from contextlib import suppress
from typing import Final

# linux/in.h, linux/in6.h; Python does not name them. Other systems set no such bit for UDP unless asked to.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_PMTUDISC_DONT: Final = 0
_IPV6_MTU: Final = 24
# What every IPv6 network carries (bytes, RFC 8200 section 5). A datagram of 10 KB takes 9 fragments in place of 7.
IPV6_LEAST_MTU_BYTES: Final = 1280


def allow_fragments(sock: socket.socket) -> None:
    """Have a UDP socket, of either family, send datagrams in such a way. A system that has no such option is let be."""
    if sys.platform != "linux":
        return
    options = [(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)]  # an IPv6 socket may speak to IPv4 addresses
    if sock.family == socket.AF_INET6:
        options += [
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DONT),
            (socket.IPPROTO_IPV6, _IPV6_MTU, IPV6_LEAST_MTU_BYTES),
        ]
    for level, option, value in options:
        with suppress(OSError):
            sock.setsockopt(level, option, value)
