"""Names and addresses: which server of the file is where, in the forms that sockets take and give.

Between nodes a server's name is its line in the file. Here each has what `connect` and `sendto` take and the kernel's
own bytes of its UDP address (DatagramBatch), both fit for the family of this node's sockets: an IPv6 socket speaks to
an IPv4 address by its mapped form. What a name resolves to may change (lookups.py): whatever goes by addresses asks
here each time, or is told.

A name that has no address any more keeps the one that it had: a resolver that fails must not part a cluster that works.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct
from typing import Final

from app.config.servers import Server, family_of

_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_SOCKADDR_IN6: Final = Struct("=H2sI16sI")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one

assert (_SOCKADDR_IN.size, _SOCKADDR_IN6.size) == (16, 28)


class Peers:
    """The other servers of the file, seen from a node whose sockets are of `family`."""

    def __init__(self, me: Server, servers: Iterable[Server], family: socket.AddressFamily) -> None:
        self.me = str(me)
        self.family = family
        self._own_address = me.address
        self._servers: dict[str, Server] = {}
        self.servers: tuple[str, ...] = ()  # this node among them, in the file's order
        self.names: tuple[str, ...] = ()  # of the others
        # Who it is that has an address; of two with the same one, that which was found there last.
        self.by_datagram_address: dict[bytes, str] = {}
        self._packed: dict[str, bytes] = {}
        self._targets: dict[str, tuple[str | int, ...]] = {}
        self._addresses: dict[str, str] = {}
        self._hosts: dict[str, bytes] = {}
        self.change(servers)

    def change(self, servers: Iterable[Server]) -> None:
        """These are the servers from now on, this node among them. Who was one before stays where it is."""
        found = {str(server): server for server in servers}
        self.servers = tuple(found)
        self._servers = {name: server for name, server in found.items() if name != self.me}
        self.names = tuple(self._servers)
        for peer in [peer for peer in self._addresses if peer not in self._servers]:
            del self._addresses[peer]
            self._leave(peer)
        for peer, server in self._servers.items():
            if server.address and peer not in self._addresses:
                self.move(peer, server.address)

    def move(self, peer: str, address: str) -> None:
        """The peer is to be reached at this numeric address from now on."""
        self._leave(peer)
        self._addresses[peer] = address
        # An IPv4 socket can't reach an IPv6 address at all.
        if self.family == socket.AF_INET6 or family_of(address) == socket.AF_INET:
            with suppress(OSError):  # the interface that it names is not there
                self._targets[peer], self._packed[peer] = self._resolved(address, self._servers[peer].port)
                self._hosts[peer] = _host_bytes(str(self._targets[peer][0]))
        self._note_addresses()

    def _leave(self, peer: str) -> None:
        self._packed.pop(peer, None)
        self._targets.pop(peer, None)
        self._hosts.pop(peer, None)
        self._note_addresses()

    def _note_addresses(self) -> None:
        self.by_datagram_address.clear()
        self.by_datagram_address.update((packed, peer) for peer, packed in self._packed.items())

    def _resolved(self, address: str, port_number: int) -> tuple[tuple[str | int, ...], bytes]:
        """What `connect` takes, and the bytes of the same address. Raises OSError."""
        port = port_number.to_bytes(2, "big")
        if self.family == socket.AF_INET:
            packed = _SOCKADDR_IN.pack(socket.AF_INET, port, socket.inet_aton(address))
            return (address, port_number), packed
        if family_of(address) == socket.AF_INET:
            host = _MAPPED + socket.inet_aton(address)
            target: tuple[str | int, ...] = (f"::ffff:{address}", port_number, 0, 0)
            scope = 0
        else:
            found = socket.getaddrinfo(
                address, port_number, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
            )
            _, _, flow, scope = found[0][4]  # type: ignore[misc]  # of AF_INET6, as asked for
            target = (address, port_number, int(flow), int(scope))
            host = _host_bytes(address)
        return target, _SOCKADDR_IN6.pack(socket.AF_INET6, port, 0, host, scope)

    def target(self, peer: str) -> tuple[str | int, ...] | None:
        """What `connect` and `sendto` take to reach the peer; None for one unknown, without an address, or out of
        reach."""
        return self._targets.get(peer)

    def address(self, peer: str) -> str:
        """The numeric address of a peer of the file; empty: it has none."""
        return self._addresses.get(peer, "")

    def addresses(self) -> list[str]:
        """Those that there are."""
        return list(self._addresses.values())

    def host_name(self, peer: str) -> str:
        """The name that is to be looked up to find the peer; empty for one unknown, or written as an address."""
        server = self._servers.get(peer)
        return server.host if server is not None and server.is_named else ""

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Those of another version of IP than this node.

        It may reach them, from an IPv6 socket; but what it sends arrives from an address that is in no line, and is
        refused: the two never make a cluster.
        """
        return tuple(peer for peer, address in self._addresses.items() if self._is_foreign(peer, address))

    def _is_foreign(self, peer: str, address: str) -> bool:
        own = self._own_address
        return peer not in self._targets or (bool(own) and family_of(address) != family_of(own))

    def dials(self, peer: str) -> bool:
        """Whether this node dials the peer, or the peer this node: by their names, so that both say the same."""
        return self.me < peer

    def is_server_host(self, host: str) -> bool:
        """Whether a numeric address, as `accept` gives it, is one of the servers'."""
        return _host_bytes(host) in self._hosts.values()

    def is_at(self, peer: str, host: str) -> bool:
        """Whether a numeric address, as `accept` gives it, is the peer's."""
        return self._hosts.get(peer) == _host_bytes(host)


def is_same_host(one: str, other: str) -> bool:
    """Whether two numeric addresses are one, which an IPv6 socket may tell in its mapped form."""
    return _host_bytes(one) == _host_bytes(other)


def _host_bytes(host: str) -> bytes:
    """A numeric address as 16 bytes, IPv4 in its mapped form, without its scope."""
    bare = host.partition("%")[0]
    if ":" in bare:
        return socket.inet_pton(socket.AF_INET6, bare)
    return _MAPPED + socket.inet_aton(bare)
