"""The client's UDP sockets: one for each server that was spoken to, whatever the number of requests in flight.

Sockets are connected: the kernel then tells us when nothing listens at the other end (an unconnected one learns nothing
of it) and drops datagrams from strangers. Waiting goes through `selectors`, looked up at run time, so that under
gevent's monkey-patching only the calling greenlet waits.

A server that falls silent is given a new socket. What is on the way (NAT, firewalls, load balancers) knows a flow by
its ports, and may have forgotten it, or go on sending it to a machine that is gone: a try from the same port would be
as lost as the one before. The former socket is listened to until there is another former one, since the server may
only have been slow.

Sockets are one process's: a child that is forked has its parent's descriptors, and must neither read the parent's
answers nor touch its selector, which the two share. That they are another's is seen by an object that each process has
of its own; asking for the process's number would be a system call (0.26 µs) with every datagram.
"""

import errno
import os
import selectors
import socket
from collections.abc import Iterable
from typing import Final

from app.client.address import Endpoint
from app.client.errors import Closed
from app.client.stats import Stats
from app.fragments import allow_fragments

# Read from a socket at once (bytes). More than a legal answer, so that a longer datagram is not cut into one.
RECEIVE_BYTES: Final = 65535

# Receive buffer asked for (bytes): answers to a whole window that arrive while we are busy. Linux gives what
# net.core.rmem_max lets it, 208 KiB as a rule.
RECEIVE_BUFFER_BYTES: Final = 1 << 20

# What the system says of a datagram that has no way to its server: for as long as its routes, interfaces and firewall
# are as they are, no other one has.
NO_WAY: Final = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EACCES, errno.EPERM))

_process = object()  # stands for this process


def _forked() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):  # where there is fork at all
    os.register_at_fork(after_in_child=_forked)


class Sockets:
    """Speaks to servers by their number. `complaints`: how many there have been of the system's; see `trouble`."""

    def __init__(self, stats: Stats) -> None:
        self.complaints = 0
        self.is_closed = False
        self._stats = stats
        self._process = _process  # that has opened them
        self._sockets: dict[int, socket.socket] = {}
        self._former: dict[int, socket.socket] = {}
        self._troubles: dict[int, tuple[int, str]] = {}  # by server: the last complaint's number, and what it says
        self._cut_off: set[int] = set()  # servers to which there was no way, since the last `receive`
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        """Give all back; twice does no harm. From then on `send` and `receive` raise Closed."""
        self.is_closed = True
        self._selector.close()
        for connected in (*self._sockets.values(), *self._former.values()):
            connected.close()
        self._sockets.clear()
        self._former.clear()

    def fileno(self) -> int:
        """What an event loop watches: readable when `receive` has something. AttributeError where there is no epoll or
        kqueue."""
        return int(self._selector.fileno())

    @property
    def is_cut_off(self) -> bool:
        """`receive` has something to tell that nothing can be watched for."""
        return bool(self._cut_off)

    @property
    def is_inherited(self) -> bool:
        """They were opened by this process's parent, and are of no use here but to be closed."""
        return self._process is not _process

    def renew(self, index: int) -> None:
        """Have the next datagram to a server leave from a new port; answers to the former one are taken yet."""
        self._discard(self._former.pop(index, None))
        former = self._sockets.pop(index, None)
        if former is not None:
            self._former[index] = former

    def forget(self, index: int) -> None:
        """The server is somewhere else from now on: what comes from where it was is not its answer."""
        for kept in (self._former, self._sockets):
            self._discard(kept.pop(index, None))

    def _discard(self, connected: socket.socket | None) -> None:
        if connected is not None:
            # By name: closing alone would leave it there as long as a forked child has the descriptor open.
            self._selector.unregister(connected)
            connected.close()

    def send(self, index: int, server: Endpoint, datagram: bytes) -> None:
        """One datagram to a server. What the socket won't take counts as lost: a retry mends it. If there is no way
        there, `receive` tells so next."""
        self._check()
        try:
            connected = self._sockets.get(index) or self._connect(index, server)
            try:
                connected.send(datagram)
            except ConnectionRefusedError:
                # The socket reports what became of an earlier datagram, and has not sent this one.
                connected.send(datagram)
        except OSError as error:
            self._stats.lost += 1
            self._complain(index, str(error.strerror))
            if error.errno in NO_WAY:
                self._cut_off.add(index)

    def receive(self, wait_s: float, limit: int) -> list[tuple[int, bytes | None]]:
        """What has come, after at most `wait_s`: up to `limit` datagrams a socket, each with the server's number.

        None in place of a datagram: nothing listens at that server, by word of its machine, or there is no way to it.
        """
        self._check()
        found: list[tuple[int, bytes | None]] = []
        if self._cut_off:
            found += [(index, None) for index in sorted(self._cut_off)]
            self._cut_off.clear()
            wait_s = 0.0
        try:
            ready = self._selector.select(wait_s)
        except Exception:
            if not self.is_closed:
                raise
        if self.is_closed:  # by another greenlet or thread meanwhile; the selector may have told so in a way of its own
            raise Closed
        for key, _ in ready:
            index: int = key.data
            receive = key.fileobj.recv  # type: ignore[union-attr]  # only sockets are registered
            for _ in range(limit):
                try:
                    found.append((index, receive(RECEIVE_BYTES)))
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    self._stats.refused += 1
                    self._complain(index, "connection refused")
                    if key.fileobj is self._sockets.get(index):  # else it is a try's that was given up before
                        found.append((index, None))
                except OSError as error:
                    self._complain(index, str(error.strerror))
        return found

    def trouble(self, servers: Iterable[int], since: int) -> str:
        """What the system last complained of about any of these servers, if it was later than so many complaints."""
        number, text = max((self._troubles.get(index, (0, "")) for index in servers), default=(0, ""))
        return text if number > since else ""

    def _complain(self, index: int, text: str) -> None:
        self.complaints += 1
        self._troubles[index] = self.complaints, text

    def _check(self) -> None:
        if self.is_closed:
            raise Closed
        if self._process is not _process:
            raise RuntimeError("this process was forked in the middle of the call: only its parent can end it")

    def _connect(self, index: int, server: Endpoint) -> socket.socket:
        """A socket that speaks to this server only. OSError when its network can't be reached."""
        assert server.address, f"{server.name} has no address"
        connected = socket.socket(server.family, socket.SOCK_DGRAM)
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            allow_fragments(connected)
            connected.connect(server.address)
        except OSError:
            connected.close()
            raise
        self._sockets[index] = connected
        self._selector.register(connected, selectors.EVENT_READ, index)
        return connected
