"""A node's sockets: how they are made, and the system's calls on them.

Whatever a node says to the world, and whatever it hears, goes through what is made here: the UDP socket of clients and
membership (app/front/batch.py says what is asked of it), the listening TCP socket and the connections to peers
(app/peers/links.py). The simulator (tests/sim) gives the same node sockets of its own making.
"""

import ctypes
import errno
import socket
import time
from collections.abc import Callable
from fcntl import ioctl
from math import inf
from struct import Struct
from typing import Any, Final, NamedTuple

from gevent.server import DatagramServer
from gevent.threadpool import ThreadPool

from app.config.options import Options
from app.config.servers import is_local, lookup_host
from app.config.usage import UsageError
from app.fast import piece
from app.fragments import allow_fragments
from app.front.batch import Ring

# What is asked for as the socket's receive buffer; the system gives what it allows (net.core.rmem_max).
_RECEIVE_BUFFER_BYTES: Final = 16 << 20
_SO_RCVBUFFORCE: Final = 33
_MSG_DONTWAIT: Final = 0x40
_SIOCGSTAMP: Final = 0x8906  # when the datagram last received came: a struct timeval of the wall clock
_TIMEVAL: Final = Struct("@ll")
# The kernel's queue of connections not accepted yet. When it is full the kernel drops requests and does not refuse
# them, so a busy node is never taken for a dead one. The system's somaxconn bounds it.
_BACKLOG: Final = 1024
# getsockopt: an array of 32-bit numbers, of which the first is what the buffer holds, the second its size, the ninth
# the datagrams lost for want of room in it (linux/sock_diag.h, SK_MEMINFO_*).
_SO_MEMINFO: Final = 55
_MEMINFO: Final = Struct("9I")
# What was sent to a peer and is not acknowledged for so long ends the connection, a request for one included: the
# kernel's own patience is a quarter of an hour. Nodes themselves notice sooner (app/peers/links.py).
_USER_TIMEOUT_MS: Final = 1000
_WILDCARDS: Final = ("0.0.0.0", "::")
# setsockopt: the kernel tells with each datagram which address of this machine it came to (linux/in.h).
_IP_PKTINFO: Final = 8

# Threads that wait for a resolver. More: more questions at once to one that is slow; fewer: a name whose servers are
# silent holds up the others.
_RESOLVERS: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_recvmmsg: Final = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg: Final = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


@piece
def recvmmsg(fd: int, headers_at: int, count: int) -> int:
    """Receive what is there into so many headers of a ring: how many datagrams; an errno, negative, if not even one."""
    received: int = _recvmmsg(fd, headers_at, count, _MSG_DONTWAIT, None)
    return received if received >= 0 else -ctypes.get_errno()


@piece
def sendmmsg(fd: int, headers_at: int, count: int) -> int:
    """Send so many headers' datagrams: how many were sent; an errno, negative, if not even the first."""
    sent: int = _sendmmsg(fd, headers_at, count, _MSG_DONTWAIT)
    return sent if sent >= 0 else -ctypes.get_errno()


Address = tuple[str | int, ...]  # what `connect` and `sendto` take


class ReceiveBuffer(NamedTuple):
    """Where datagrams wait for the loop, and are lost when there are too many. Sizes as the kernel counts them."""

    used_bytes: int
    size_bytes: int
    dropped: int  # datagrams since the socket was made


class DatagramSocket:
    """The node's UDP socket. Its requests are served by gevent's DatagramServer."""

    def __init__(self, sock: socket.socket, *, knows_where_asked: bool = False) -> None:
        """`sock`: bound, non-blocking. `knows_where_asked`: see app/front/batch.py."""
        self._sock = sock
        self._fd = sock.fileno()  # -1 once it is closed: by then its number may be another's
        self._server: _Server | None = None
        self.family = sock.family
        self.knows_where_asked = knows_where_asked
        self.age_s()  # from now on the kernel notes when datagrams come

    def receive(self, ring: Ring) -> int:
        """Receive what is there into the ring's first places: how many datagrams; 0: none, or a passing error."""
        return max(0, recvmmsg(self._fd, ring.headers_at, ring.size))

    def send(self, ring: Ring, start: int, count: int) -> int:
        """Send `count` datagrams of the ring from place `start` on: how many were sent; 0: not even the first."""
        while True:
            sent = sendmmsg(self._fd, ring.header_at(start), count)
            if sent != -errno.EINTR:
                return max(0, sent)

    def send_to(self, data: bytes, target: Address) -> bool:
        """Send one datagram; False when the system does not take it: as good as lost on the way."""
        try:
            self._sock.sendto(data, target)
        except OSError:
            return False
        return True

    def connected(self, target: Address) -> socket.socket | None:
        """Another socket of the same port, connected, non-blocking; None if the system refuses."""
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        # Only while it is being bound: another process that wants this port is to learn that it is taken.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self._sock.getsockname())
            sock.connect(target)
            sock.setblocking(False)
        except OSError:
            sock.close()
            return None
        finally:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return sock

    def age_s(self) -> float:
        """How long ago the datagram last received came; infinite if that is not known."""
        if self._fd < 0:
            return inf
        try:
            seconds, microseconds = _TIMEVAL.unpack(ioctl(self._fd, _SIOCGSTAMP, bytes(_TIMEVAL.size)))
        except OSError:
            return inf
        age_s: float = time.time() - seconds - microseconds / 1e6
        return max(0.0, age_s)

    def serve(self, read: Callable[[], object]) -> None:
        """Have `read` called once in each turn of the loop that finds datagrams here."""
        self._server = _Server(self._sock, read)
        self._server.start()

    def stop(self) -> None:
        """Serve no more, and close."""
        if self._server is not None:
            self._server.stop()
        self._sock.close()
        self._fd = -1

    # For people and tools.

    @property
    def address(self) -> tuple[str, int]:
        """Where it is bound."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    @property
    def receive_buffer_bytes(self) -> int:
        """As asked for and granted; the kernel counts twice as much, for its own book-keeping."""
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def receive_buffer(self) -> ReceiveBuffer | None:
        """As of now; None before Linux 4.12."""
        try:
            numbers = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return None
        if len(numbers) != _MEMINFO.size:
            return None
        used_bytes, size_bytes, *_, dropped = _MEMINFO.unpack(numbers)
        return ReceiveBuffer(used_bytes, size_bytes, dropped)


class _Server(DatagramServer):
    """gevent's server, which calls once a turn and makes no greenlets: no request waits (app/front/front.py)."""

    max_accept = 1

    def __init__(self, sock: socket.socket, read: Callable[[], object]) -> None:
        super().__init__(sock, handle=self._never)
        self._read = read

    def do_read(self) -> None:  # type: ignore[override]
        self._read()

    def _never(self, *arguments: object) -> None:
        """What gevent would call for each datagram that `do_read` returned; it returns none."""
        raise AssertionError(f"not to be called: {arguments}")


class StreamSocket(socket.socket):
    """A TCP socket to a peer, non-blocking."""

    def error(self) -> int:
        """What has become of the connection attempt: 0, or an errno."""
        return self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    @property
    def is_connected_to_itself(self) -> bool:
        """The port that was dialled is free, and was given to this very socket."""
        return bool(self.getsockname() == self.getpeername())


class _ListeningSocket(socket.socket):
    """A TCP socket that listens; what it accepts is non-blocking, as it is."""

    def accept(self) -> tuple[socket.socket, Any]:
        sock, address = super().accept()
        sock.setblocking(False)
        return sock, address


class Sockets:
    """One node's."""

    def __init__(self, options: Options) -> None:
        """Bind them. Raises UsageError."""
        self._source = None if options.bind in _WILDCARDS else options.bind
        self._family = _family_of(options.bind)
        self.datagrams = DatagramSocket(
            _datagram_socket(options.bind, options.port), knows_where_asked=options.bind in _WILDCARDS
        )
        # It listens before the node says anything and until the process ends: what this machine refuses is dead.
        try:
            self.listener = listening_socket(options.bind, options.port, _BACKLOG, "--bind")
        except UsageError:
            self.datagrams.stop()
            raise
        _prepare(self.listener)  # what it accepts is as it is
        self._threads: ThreadPool | None = None

    def look_up(self, host: str) -> list[str]:
        """The addresses of a host name, as `lookup_host`; waits in its greenlet, while a thread waits for the resolver.

        Raises OSError.
        """
        if self._threads is None:
            self._threads = ThreadPool(_RESOLVERS)
        found: list[str] | OSError = self._threads.apply(_addresses_or_error, (host,))
        if isinstance(found, OSError):
            raise found
        return found

    def is_here(self, address: str) -> bool:
        """Whether a numeric address is one of this very machine's."""
        return is_local(address)

    def dialling(self) -> StreamSocket:
        """A new socket to dial a peer with. Raises OSError."""
        sock = StreamSocket(self._family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # Otherwise a node could not be restarted while the port it listens on is, by chance, ours here.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _prepare(sock)
            if self._source is not None:
                sock.bind((self._source, 0))
        except OSError:
            sock.close()
            raise
        return sock

    def connected(self, target: Address) -> socket.socket | None:
        """A UDP socket of this node's port, connected: what comes from there goes to it, and not to `datagrams`.

        None if the system refuses.
        """
        return self.datagrams.connected(target)


def _addresses_or_error(host: str) -> list[str] | OSError:
    """As `lookup_host`, for a thread: what is raised there gevent also reports to the loop, as a fault that nobody
    caught, which ends the process (app/loop.py)."""
    try:
        return lookup_host(host)
    except OSError as error:
        return error


def _prepare(sock: socket.socket) -> None:
    """Set up a connection to a peer, or the listener that gets some."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def _datagram_socket(address: str, port: int) -> socket.socket:
    """A UDP socket with as large a receive buffer as the system gives. Raises UsageError.

    At a wildcard address it tells which of this machine's addresses each datagram came to.
    """
    sock = socket.socket(_family_of(address), socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)  # past rmem_max, if allowed
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    allow_fragments(sock)
    if address in _WILDCARDS:  # before any datagram can come
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    _bind(sock, address, port, "UDP", "--bind")
    return sock


def listening_socket(address: str, port: int, backlog: int, option: str) -> socket.socket:
    """A TCP socket, listening, non-blocking; `option` says where it is bound. Raises UsageError."""
    sock = _ListeningSocket(_family_of(address), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the process before may linger
    _bind(sock, address, port, "TCP", option, backlog)
    return sock


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bind(sock: socket.socket, address: str, port: int, protocol: str, option: str, backlog: int | None = None) -> None:
    """Bind it, non-blocking; with a backlog, listen. Raises UsageError."""
    try:
        sock.bind((address, port))
        if backlog is not None:  # here, too, a port can prove to be taken: by one that was bound at the same moment
            sock.listen(backlog)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            hint = "another process uses it; stop that one or give this node another port"
        elif error.errno == errno.EACCES:
            hint = "ports below 1024 need privileges; use a higher one"
        else:
            hint = f"check {option}"
        raise UsageError(f"can't bind {protocol} {address} port {port}: {error.strerror} ({hint})") from None
    sock.setblocking(False)
