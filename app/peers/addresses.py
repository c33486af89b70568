"""Names and addresses: which server of the file is where, in the forms that sockets take and give.

Between nodes a server's name is its line in the file. Here each has, resolved once at start, what `connect` and
`sendto` take and the kernel's own bytes of its UDP address (DatagramBatch), both fit for the family of this node's
sockets: an IPv6 socket speaks to an IPv4 address by its mapped form.
"""

import socket
from collections.abc import Iterable
from struct import Struct
from typing import Final

from app.config.servers import Server

_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_SOCKADDR_IN6: Final = Struct("=H2sI16sI")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one

assert (_SOCKADDR_IN.size, _SOCKADDR_IN6.size) == (16, 28)


class Peers:
    """The other servers of the file, seen from a node whose sockets are of `family`."""

    def __init__(self, me: Server, servers: Iterable[Server], family: socket.AddressFamily) -> None:
        self.me = str(me)
        self.family = family
        others = [server for server in servers if server != me]
        self.names: tuple[str, ...] = tuple(str(server) for server in others)
        # An IPv4 socket can't reach an IPv6 address at all.
        reached = [server for server in others if family == socket.AF_INET6 or server.family == socket.AF_INET]
        # One of the other version of IP may be reached, but what arrives there comes from an address of ours that is in
        # no line, and is refused: the two never make a cluster.
        self.unreachable: tuple[str, ...] = tuple(str(server) for server in others if server.family != me.family)
        self.by_datagram_address: dict[bytes, str] = {}
        self._targets: dict[str, tuple[str | int, ...]] = {}
        self._addresses = {str(server): server.address for server in others}
        self._hosts: dict[str, bytes] = {}
        for server in reached:
            target, packed = self._resolved(server)
            self._targets[str(server)] = target
            self.by_datagram_address[packed] = str(server)
            self._hosts[str(server)] = _host_bytes(str(target[0]))

    def _resolved(self, server: Server) -> tuple[tuple[str | int, ...], bytes]:
        """What `connect` takes, and the bytes of the same address."""
        port = server.port.to_bytes(2, "big")
        if self.family == socket.AF_INET:
            packed = _SOCKADDR_IN.pack(socket.AF_INET, port, socket.inet_aton(server.address))
            return (server.address, server.port), packed
        if server.family == socket.AF_INET:
            host = _MAPPED + socket.inet_aton(server.address)
            target: tuple[str | int, ...] = (f"::ffff:{server.address}", server.port, 0, 0)
            scope = 0
        else:
            found = socket.getaddrinfo(
                server.address, server.port, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
            )
            _, _, flow, scope = found[0][4]  # type: ignore[misc]  # of AF_INET6, as asked for
            target = (server.address, server.port, int(flow), int(scope))
            host = _host_bytes(server.address)
        return target, _SOCKADDR_IN6.pack(socket.AF_INET6, port, 0, host, scope)

    def target(self, peer: str) -> tuple[str | int, ...] | None:
        """What `connect` and `sendto` take to reach the peer; None for one unknown or out of reach."""
        return self._targets.get(peer)

    def address(self, peer: str) -> str:
        """The numeric address of a peer of the file."""
        return self._addresses[peer]

    def dials(self, peer: str) -> bool:
        """Whether this node dials the peer, or the peer this node: by their names, so that both say the same."""
        return self.me < peer

    def is_server_host(self, host: str) -> bool:
        """Whether a numeric address, as `accept` gives it, is one of the servers'."""
        return _host_bytes(host) in self._hosts.values()

    def is_at(self, peer: str, host: str) -> bool:
        """Whether a numeric address, as `accept` gives it, is the peer's."""
        return self._hosts.get(peer) == _host_bytes(host)


def _host_bytes(host: str) -> bytes:
    """A numeric address as 16 bytes, IPv4 in its mapped form, without its scope."""
    bare = host.partition("%")[0]
    if ":" in bare:
        return socket.inet_pton(socket.AF_INET6, bare)
    return _MAPPED + socket.inet_aton(bare)
