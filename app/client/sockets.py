"""The client's UDP sockets: one for each server that was spoken to, whatever the number of requests in flight.

Sockets are connected: the kernel then tells us when nothing listens at the other end (an unconnected one learns nothing
of it) and drops datagrams from strangers. Waiting goes through `selectors`, looked up at run time, so that under
gevent's monkey-patching only the calling greenlet waits.
"""

import selectors
import socket
from typing import Final

from app.client.address import Endpoint
from app.client.errors import Closed
from app.client.stats import Stats

# Read from a socket at once (bytes). More than a legal answer, so that a longer datagram is not cut into one.
RECEIVE_BYTES: Final = 65535

# Receive buffer asked for (bytes): answers to a whole window that arrive while we are busy. Linux gives what
# net.core.rmem_max lets it, 208 KiB as a rule.
RECEIVE_BUFFER_BYTES: Final = 1 << 20


class Sockets:
    """Speaks to servers by their number. `trouble`: what a socket last complained of."""

    def __init__(self, stats: Stats) -> None:
        self.trouble = ""
        self.is_closed = False
        self._stats = stats
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        """Give all back; twice does no harm. From then on `send` and `receive` raise Closed."""
        self.is_closed = True
        self._selector.close()
        for connected in self._sockets.values():
            connected.close()
        self._sockets.clear()

    def send(self, index: int, server: Endpoint, datagram: bytes) -> None:
        """One datagram to a server. What the socket won't take counts as lost: a retry mends it."""
        if self.is_closed:
            raise Closed
        try:
            connected = self._sockets.get(index) or self._connect(index, server)
            try:
                connected.send(datagram)
            except ConnectionRefusedError:
                # The socket reports what became of an earlier datagram, and has not sent this one.
                connected.send(datagram)
        except OSError as error:
            self._stats.lost += 1
            self.trouble = str(error.strerror)

    def receive(self, wait_s: float, limit: int) -> list[tuple[int, bytes | None]]:
        """What has come, after at most `wait_s`: up to `limit` datagrams a socket, each with the server's number.

        None in place of a datagram: nothing listens at that server, by word of its machine.
        """
        found: list[tuple[int, bytes | None]] = []
        ready = [] if self.is_closed else self._selector.select(wait_s)
        if self.is_closed:  # perhaps by somebody else, meanwhile
            raise Closed
        for key, _ in ready:
            index: int = key.data
            receive = self._sockets[index].recv
            for _ in range(limit):
                try:
                    found.append((index, receive(RECEIVE_BYTES)))
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    self._stats.refused += 1
                    self.trouble = "connection refused"
                    found.append((index, None))
                except OSError as error:
                    self.trouble = str(error.strerror)
        return found

    def _connect(self, index: int, server: Endpoint) -> socket.socket:
        """A socket that speaks to this server only. OSError when its network can't be reached."""
        connected = socket.socket(server.family, socket.SOCK_DGRAM)
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            connected.connect(server.address)
        except OSError:
            connected.close()
            raise
        self._sockets[index] = connected
        self._selector.register(connected, selectors.EVENT_READ, index)
        return connected
