"""What other servers say of membership, received apart from what clients ask.

A busy node must not miss a heartbeat: that would look like its death, and its load would fall on the others. So each
address of another server has a UDP socket here, of the node's own port and connected to it: the kernel puts what comes
from there into it, whatever clients have put into the node's main socket, and the loop reads it first in each turn.
What comes from elsewhere (a server behind a translator of addresses, or one whose packets leave from another address
than its name's) comes by the main socket, as all else does.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from app.loop import READ, Loop, Watcher
from app.peers.addresses import Peers
from app.wire.protocol import DATAGRAM_MAX_BYTES

# Datagrams of one server that one wake-up takes: it sends some tens a second.
_STEP: Final = 16


class ConnectedSocket(Protocol):
    """A UDP socket, connected, non-blocking: as Python's own."""

    def fileno(self) -> int: ...
    def recv(self, count: int) -> bytes: ...
    def close(self) -> None: ...


class ConnectedSockets(Protocol):
    """Makes them."""

    def connected(self, target: tuple[str | int, ...]) -> ConnectedSocket | None:
        """A UDP socket of this node's port that is connected to an address; None if the system refuses."""


class PeerDatagrams:
    """One node's. `take(datagram, address)` is told of each, and of the kernel's bytes of the address it came from."""

    def __init__(
        self, loop: Loop, sockets: ConnectedSockets, peers: Peers, take: Callable[[bytes, bytes], object]
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._addresses: Mapping[bytes, str] = peers.by_datagram_address
        self._peers = peers
        self._take = take
        self._open: dict[bytes, tuple[ConnectedSocket, Watcher]] = {}  # by the address that they are connected to

    def follow(self) -> None:
        """Receive from now on, from the addresses that servers have now."""
        for address in [address for address in self._open if address not in self._addresses]:
            self._close(address)
        for address, peer in self._addresses.items():
            target = self._peers.target(peer)
            if address in self._open or target is None:
                continue
            sock = self._sockets.connected(target)
            if sock is not None:
                watcher = self._loop.watch(sock.fileno(), READ, is_first=True)
                watcher.start(self._read, sock, address)
                self._open[address] = (sock, watcher)

    def stop(self) -> None:
        """Receive no more."""
        for address in list(self._open):
            self._close(address)

    def _close(self, address: bytes) -> None:
        sock, watcher = self._open.pop(address)
        watcher.close()
        sock.close()

    def _read(self, sock: ConnectedSocket, address: bytes) -> None:
        for _ in range(_STEP):
            try:
                data = sock.recv(DATAGRAM_MAX_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:  # what the network says of a datagram of ours: nobody listens there
                continue
            self._take(data, address)
