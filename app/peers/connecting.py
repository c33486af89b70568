"""How a connection to a peer comes about: TCP sockets, and the handshake (handshake.py) over them.

All of it runs in greenlets that wait; `deadline_s` is by the loop's clock. What goes wrong is told by exceptions:

    NobodyThere           the connection was refused
    TimedOut              the deadline is over
    Refused               the other end is no peer of ours, or we none of its
    OSError, EOFError     anything else
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from app.loop import READ, WRITE, Loop
from app.peers.addresses import Peers
from app.peers.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Handshake, Refused


class StreamSocket(Protocol):
    """A TCP socket, non-blocking: as Python's own, where nothing else is said."""

    def fileno(self) -> int: ...
    def connect_ex(self, address: Any) -> int: ...
    def send(self, data: bytes | memoryview) -> int: ...
    def recv(self, count: int) -> bytes: ...
    def recv_into(self, buffer: bytearray) -> int: ...
    def close(self) -> None: ...
    def error(self) -> int:
        """What has become of the connection attempt: 0, or an errno."""

    @property
    def is_connected_to_itself(self) -> bool:
        """The port that was dialled is free, and was given to this very socket."""


class Listener(Protocol):
    """A TCP socket that listens, non-blocking: as Python's own."""

    def fileno(self) -> int: ...
    def accept(self) -> tuple[Any, Any]: ...
    def close(self) -> None: ...


class StreamSockets(Protocol):
    """Makes sockets."""

    @property
    def listener(self) -> Listener: ...
    def dialling(self) -> StreamSocket:
        """A new socket to dial a peer with. Raises OSError."""

    def is_here(self, address: str) -> bool:
        """Whether a numeric address is one of this very machine's."""


class NobodyThere(Exception):
    """The connection was refused."""


class TimedOut(Exception):
    """Dialling, or a handshake, has taken too long."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection whose ends have made sure of each other."""

    sock: StreamSocket
    peer: str
    stamp_s: float  # what the peer's clock showed some time ago


class Connector:
    """One node's."""

    def __init__(
        self,
        loop: Loop,
        sockets: StreamSockets,
        peers: Peers,
        secret: bytes | None,
        *,
        random_bytes: Callable[[int], bytes],
        incarnation: Callable[[], int],
        doubt: Callable[[str, str], object],
    ) -> None:
        """`doubt(peer, host)`: it comes from this address, which is another than we have for it."""
        self._loop = loop
        self._sockets = sockets
        self._peers = peers
        self.handshake = Handshake(secret)
        self._goes_by_address = secret is None
        self._random_bytes = random_bytes
        self._incarnation = incarnation
        self._doubt = doubt

    # --- dialling ------------------------------------------------------------------------------------------------

    def dial(self, peer: str, deadline_s: float) -> Connected:
        """A connection to the peer that has shaken hands."""
        try:
            return self._dial(peer, deadline_s, 0)
        except (ConnectionError, EOFError):
            # A dying process may have its link closed before its listener: then the next try is refused. Or the peer
            # takes another secret than the one that is used, and we do, too.
            return self._dial(peer, deadline_s, 1)

    def knock(self, peer: str, deadline_s: float) -> None:
        """Returns if anybody listens at the peer's port, or its machine does for it."""
        self._connect(peer, deadline_s).close()

    def _dial(self, peer: str, deadline_s: float, which: int) -> Connected:
        """`which`: of the secrets, where there are so many."""
        sock = self._connect(peer, deadline_s)
        is_kept = False
        try:
            stamp_s = self._shake_hands(sock, peer, deadline_s, which)
            is_kept = True
        finally:
            if not is_kept:
                sock.close()
        return Connected(sock, peer, stamp_s)

    def _connect(self, peer: str, deadline_s: float) -> StreamSocket:
        target = self._peers.target(peer)
        if target is None:
            raise OSError(errno.EHOSTUNREACH, "unknown, without an address, or of another address family")
        sock = self._sockets.dialling()
        is_kept = False
        try:
            code = sock.connect_ex(target)
            if code == errno.EINPROGRESS:
                if not self._loop.wait(sock.fileno(), WRITE, deadline_s - self._loop.now()):
                    raise TimedOut
                code = sock.error()
            if code == errno.ECONNREFUSED:
                raise NobodyThere
            if code:
                raise OSError(code, os.strerror(code))
            if sock.is_connected_to_itself:
                raise ConnectionAbortedError(errno.ECONNABORTED, "connected to itself")
            is_kept = True
        finally:
            if not is_kept:
                sock.close()
        return sock

    def _shake_hands(self, sock: StreamSocket, peer: str, deadline_s: float, which: int) -> float:
        """The dialler's part of the handshake: the acceptor's stamp."""
        shake = self.handshake
        hello = shake.hello(
            self._incarnation(), self._loop.now(), self._random_bytes(NONCE_BYTES), self._peers.me, peer
        )
        _send_all(sock, hello)
        challenge = shake.check(self._receive(sock, GREETING_BYTES, deadline_s))
        _send_all(sock, shake.proof("dialler", hello, challenge.data, which))
        shake.check_proof("acceptor", hello, challenge.data, self._receive(sock, PROOF_BYTES, deadline_s))
        return challenge.stamp_s

    # --- accepting -----------------------------------------------------------------------------------------------

    def welcome(self, sock: StreamSocket, host: str, deadline_s: float) -> Connected | None:
        """The acceptor's part of the handshake; None: whoever connected has gone without a word. `host`: its address,
        by which it is known where there is no secret."""
        shake = self.handshake
        try:
            first = self._receive(sock, 1, deadline_s)
        except EOFError:
            return None
        greeting = shake.check(first + self._receive(sock, GREETING_BYTES - 1, deadline_s))
        hello = greeting.data
        names = []
        for _ in range(2):
            length = self._receive(sock, 1, deadline_s)
            name = self._receive(sock, length[0], deadline_s)
            hello += length + name
            names.append(name.decode("utf-8", "replace"))
        dialler, acceptor = names
        if acceptor != self._peers.me:
            raise Refused("misdirected")
        if dialler not in self._peers.names:
            raise Refused("unknown_peer")
        is_elsewhere = not self._peers.is_at(dialler, host)
        if self._goes_by_address and is_elsewhere:
            self._doubt(dialler, host)
            raise Refused("other_address")
        challenge = shake.greeting(self._incarnation(), self._loop.now(), self._random_bytes(NONCE_BYTES))
        _send_all(sock, challenge)
        which = shake.check_proof("dialler", hello, challenge, self._receive(sock, PROOF_BYTES, deadline_s))
        if is_elsewhere:
            self._doubt(dialler, host)
        _send_all(sock, shake.proof("acceptor", hello, challenge, which))
        return Connected(sock, dialler, greeting.stamp_s)

    def _receive(self, sock: StreamSocket, count: int, deadline_s: float) -> bytes:
        """Exactly `count` bytes, waiting for them. Raises EOFError when the other end stops short, TimedOut."""
        data = b""
        while len(data) < count:
            try:
                more = sock.recv(count - len(data))
            except BlockingIOError:
                if not self._loop.wait(sock.fileno(), READ, deadline_s - self._loop.now()):
                    raise TimedOut from None
                continue
            if not more:
                raise EOFError
            data += more
        return data


def _send_all(sock: StreamSocket, data: bytes) -> None:
    """A message of the handshake: what is on its way never fills a socket's buffer."""
    if sock.send(data) < len(data):
        raise ConnectionAbortedError(errno.ECONNABORTED, "the socket's buffer is full")
