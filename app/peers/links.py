"""Links between nodes: ordered streams of frames over TCP, on the number of the node's UDP port.

The problem: nodes pass each other many small frames, in order, and must learn at once when the process at the other
end is gone. A slow or hostile peer must neither fill this node's memory nor hold up its loop.

The approach: what is sent to a peer goes over the link that this node dialled, what comes from it over one that it
accepted; so each direction has one owner, who alone redials, and two nodes that dial each other at once need no rule
which of two links to keep. Frames that one loop turn queues for a peer leave in one write at its end. Reading and
writing are callbacks of the loop on plain non-blocking sockets (a greenlet for each would cost two switches a turn);
only dialling and the handshake, which are rare and wait several times, run in greenlets.

A dialled link carries nothing back after the handshake, and is watched for its end all the same: the kernel closes a
dead process's sockets, which is the fastest sign of its death there is. The cluster core then dials again, and is told
if the connection is refused, and whether by this very machine, whose kernel knows that no process is there
(app/cluster/membership/dialling.py). Over a network something else may refuse in a living node's place: a firewall that
rejects with a reset, a port forwarder without its backend.

Who may connect: with a secret, whoever proves to have it (handshake.py); without, connections from the addresses in
the servers file, which is as good as the network is trusted. Frames lost with a link are lost: the sender is told
that it went down, and knows what was not acknowledged.

An example, with one way of 0.1 ms.

      0 ms  Node a is to open a link to b, of which it has heard as incarnation 5. It connects.
    0.2 ms  b's kernel has connected them. a says HELLO, b CHALLENGE, a its PROOF (handshake.py).
    0.5 ms  b knows that it is a: from now on it reads frames from this link, and says its PROOF.
    0.6 ms  a knows that it is b: LinkUp. What it has for b goes over this link, what b has for a over another, which b
            dials.
     10 ms  A turn of a's loop has 40 frames for b: one write at its end, one read at b.
    500 ms  b is killed. Its kernel closes the link, a notices 0.1 ms later: LinkClosed, dialled_link_down. Whoever
            waits for an answer knows that it may be lost. The core has a dial again at once; b's machine refuses:
            LinkRefused with incarnation 5. If that is a's machine too, the process and any before it is dead for
            certain; else it is suspected.

Had b been stopped at 500 ms and not killed, a would notice nothing here: the kernel takes what fits its buffers, then
the queue fills up to `queue_max_bytes`, then `send` says False. A new dial is connected by b's kernel and gets no
CHALLENGE: LinkFailed after DIAL_TIMEOUT_S, which proves nothing.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

from greenlet import GreenletExit, getcurrent

from app.cluster.events import Event, LinkClosed, LinkFailed, LinkRefused, LinkUp
from app.cluster.replication.frames import BadFrame
from app.loop import READ, WRITE, Loop, Task, Watcher
from app.observe import logs
from app.peers.addresses import Peers
from app.peers.frames import FRAME_MAX_BYTES, HEADER_BYTES, Frame, FrameReader, pack_header
from app.peers.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Handshake, Refused

# Connect and handshake together. Longer: a stopped peer is noticed later to be back; shorter: on a crowded machine
# links fail that would come up.
DIAL_TIMEOUT_S: Final = 2.0
HANDSHAKE_TIMEOUT_S: Final = 2.0  # for whoever connects; the other side of the same
# Connections that have not proved themselves. The longest-waiting gives way to one more: a peer takes milliseconds.
PENDING_MAX: Final = 64
_ACCEPT_STEP: Final = 16  # connections accepted in one wake-up
_ACCEPT_PAUSE_S: Final = 0.1  # after running out of descriptors
assert _ACCEPT_STEP < PENDING_MAX, "whoever gives way must have begun, or it would not clean up"

# What one wake-up reads: about 120 forwarded requests of 64 bytes each, 1.5 ms to execute them.
READ_BYTES: Final = 16 * 1024
# What all peers together may leave unread, shared evenly, and what each may in any case: the longest frame, and what
# replication has in flight to one peer (app/requests/replicator.py). With 64 servers, all of them stuck: 32 MiB.
_QUEUES_MAX_BYTES: Final = 8 << 20
_QUEUE_MIN_BYTES: Final = 512 << 10
assert _QUEUE_MIN_BYTES > FRAME_MAX_BYTES + HEADER_BYTES
_log = logs.logger("links")
_faults = logs.limited_logger("links")


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
    def is_here(self, address: str) -> bool:
        """Whether a numeric address is one of this very machine's."""

    def dialling(self) -> StreamSocket:
        """A new socket to dial a peer with. Raises OSError."""


class LinkHandler(Protocol):
    """Is told of what happens to links. Every call comes from the loop or from a link's own greenlet, and must not
    wait."""

    def link_event(self, event: Event) -> object:
        """What the membership core wants to hear."""

    def dialled_link_up(self, peer: str) -> object:
        """A link that this node dialled is there: frames can be sent."""

    def dialled_link_down(self, peer: str) -> object:
        """It has ended: what was in it is lost."""

    def accepted_link_changed(self, peer: str) -> object:
        """A link that the peer dialled has begun, or ended."""

    def frames(self, peer: str, frames: list[Frame]) -> object:
        """What one read has brought, in order; called by the loop."""


class _NobodyThere(Exception):
    """The machine refused the connection."""


class _TimedOut(Exception):
    """Dialling, or a handshake, has taken too long."""


class _Outgoing:
    """A link that this node dialled, or is dialling."""

    __slots__ = ("dialling", "incarnation", "parts", "peer", "queued", "reader", "rest", "sock", "writer")

    reader: Watcher  # once it is up
    writer: Watcher

    def __init__(self, peer: str, incarnation: int) -> None:
        self.peer = peer
        self.incarnation = incarnation
        self.dialling: Task | None = None
        self.sock: StreamSocket | None = None  # once it is up
        self.parts: list[bytes] = []  # queued
        self.rest: memoryview | None = None  # of a write that the kernel took only part of
        self.queued = 0  # bytes in both; not 0: due to be flushed, or waiting for `writer`


class _Incoming:
    """A link that a peer dialled and this node accepted."""

    __slots__ = ("frames", "peer", "reader", "sock")

    def __init__(self, peer: str, sock: StreamSocket, reader: Watcher) -> None:
        self.peer = peer
        self.sock = sock
        self.reader = reader
        self.frames = FrameReader()


class Links:
    """One node's links. Build it, then `start` it with whoever is to be told of what happens."""

    def __init__(
        self,
        loop: Loop,
        sockets: StreamSockets,
        peers: Peers,
        secret: bytes | None,
        *,
        random_bytes: Callable[[int], bytes],
        wake: Callable[[], object],
        queue_max_bytes: int | None = None,
    ) -> None:
        """`wake()` has `flush` called when this turn of the loop ends. `queue_max_bytes`: what one peer may leave
        unread; None: its share."""
        self.refused: Counter[str] = Counter()  # connections, by reason: by us, and of ours
        self.full = 0  # frames not taken because their peer had too much to read
        self.frames_received = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._loop = loop
        self._sockets = sockets
        self._listener = sockets.listener
        self._peers = peers
        self._handshake = Handshake(secret)
        self._goes_by_address = secret is None
        self._random_bytes = random_bytes
        self._wake = wake
        self._handler: LinkHandler
        self._incarnation: Callable[[], int]
        self.queue_max_bytes = queue_max_bytes or max(_QUEUE_MIN_BYTES, _QUEUES_MAX_BYTES // max(1, len(peers.names)))
        self._outgoing: dict[str, _Outgoing] = {}
        self._up: dict[str, _Outgoing] = {}
        self._incoming: dict[str, _Incoming] = {}
        self._pending: dict[Task, StreamSocket] = {}  # handshakes with those who dialled, the longest-waiting first
        self._dirty: list[_Outgoing] = []  # links to be flushed at the end of this turn
        self._buffer = bytearray(READ_BYTES)
        self._buffer_view = memoryview(self._buffer)
        self._acceptor = loop.watch(self._listener.fileno(), READ)
        self._pause = loop.timer()

    def start(self, handler: LinkHandler, incarnation: Callable[[], int]) -> None:
        """Accept links from now on. `incarnation()`: this process's, as it tells its peers."""
        self._handler = handler
        self._incarnation = incarnation
        self._acceptor.start(self._accept)

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool:
        """Queue a frame of head and body, at most FRAME_MAX_BYTES together; it leaves at the end of the turn.

        False, and nothing is queued, when the link is not up or the peer is too far behind with reading.
        """
        link = self._up.get(peer)
        if link is None:
            return False
        length = len(head) + len(body)
        assert length <= FRAME_MAX_BYTES, f"frame of kind {kind}: {length} bytes"
        queued = link.queued + HEADER_BYTES + length
        if queued > self.queue_max_bytes:
            self.full += 1
            return False
        if not link.queued:
            self._dirty.append(link)
            self._wake()
        link.queued = queued
        link.parts += (pack_header(length, kind), head, body)
        return True

    def send_all(self, peer: str, kind: int, bodies: list[bytes]) -> bool:
        """As `send`, several frames of one kind: all of them or none."""
        link = self._up.get(peer)
        if link is None:
            return False
        queued = link.queued + sum(map(len, bodies)) + len(bodies) * HEADER_BYTES
        if queued > self.queue_max_bytes:
            self.full += len(bodies)
            return False
        if not link.queued:
            self._dirty.append(link)
            self._wake()
        link.queued = queued
        parts = link.parts
        for body in bodies:
            parts += (pack_header(len(body), kind), body)
        return True

    def flush(self) -> None:
        """Write what this turn has queued."""
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            if link.sock is not None:
                self._write(link)

    def _write(self, link: _Outgoing) -> None:
        """Write what is queued, or as much as the kernel takes; the rest follows when it takes more."""
        assert link.sock is not None
        while link.queued:
            data = link.rest
            if data is None:
                data = memoryview(b"".join(link.parts))
                link.parts.clear()
            try:
                sent = link.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._down(link)
                return
            link.queued -= sent
            self.bytes_sent += sent
            if sent < len(data):
                if link.rest is None:
                    link.writer.start(self._write, link)
                link.rest = data[sent:]
                return
            if link.rest is not None:
                link.rest = None
                link.writer.stop()

    def queued_bytes(self, peer: str) -> int:
        """What waits to be written to the peer; 0 when its link is down."""
        link = self._up.get(peer)
        return link.queued if link else 0

    def is_up(self, peer: str) -> bool:
        """Whether frames can be sent to the peer."""
        return peer in self._up

    # --- links that we dial --------------------------------------------------------------------------------------

    def open(self, peer: str, incarnation: int) -> None:
        """Dial the peer. What becomes of it is reported: LinkUp, LinkRefused with this incarnation, LinkFailed."""
        self._discard(self._outgoing.get(peer))
        link = self._outgoing[peer] = _Outgoing(peer, incarnation)
        link.dialling = self._loop.spawn(self._dial, link)

    def close(self, peer: str) -> None:
        """End the link to the peer, or the dial. Not reported."""
        self._discard(self._outgoing.get(peer))

    def sever(self, peer: str) -> None:
        """End both links with a peer, as if it had: what is in them is lost, and ours is dialled anew."""
        self._end(self._incoming.get(peer))
        link = self._up.get(peer)
        if link is not None:
            self._down(link)

    def sever_incoming(self) -> None:
        """End every link that a peer has dialled, unread: what is in them may be old. The peers dial anew."""
        for link in list(self._incoming.values()):
            self._end(link)

    def _discard(self, link: _Outgoing | None) -> None:
        if link is None:
            return
        del self._outgoing[link.peer]
        if link.dialling is not None:
            self._cancel(link.dialling)
        if link.sock is not None:
            self._take_down(link)

    def _down(self, link: _Outgoing) -> None:
        """The other end is gone."""
        del self._outgoing[link.peer]
        self._take_down(link)
        self._handler.link_event(LinkClosed(link.peer))

    def _take_down(self, link: _Outgoing) -> None:
        assert link.sock is not None
        for watcher in (link.reader, link.writer):
            watcher.close()
        link.sock.close()
        link.sock = None  # so nothing of what is queued is written any more
        del self._up[link.peer]
        self._handler.dialled_link_down(link.peer)

    def _cancel(self, task: Task) -> None:
        """End a task; one that cancels itself goes on to its end."""
        if task is not getcurrent():
            self._loop.run_callback(task.cancel)

    def _dial(self, link: _Outgoing) -> None:
        """In a greenlet of its own: dial, shake hands, report."""
        sock: StreamSocket | None = None
        event: Event = LinkFailed(link.peer)
        try:
            sock = self._dialled(link.peer, self._loop.now() + DIAL_TIMEOUT_S)
            event = LinkUp(link.peer)
        except _NobodyThere:
            is_proof = self._sockets.is_here(self._peers.address(link.peer))
            event = LinkRefused(link.peer, link.incarnation, is_proof)
        except Refused as refused:
            self._count_refused(refused.reason, link.peer, "dialled")
        except _TimedOut:
            pass
        except (OSError, EOFError) as error:
            _faults.debug("dial_failed", peer=link.peer, error=error)
        if self._outgoing.get(link.peer) is not link:  # closed meanwhile
            if sock is not None:
                sock.close()
            return
        link.dialling = None
        if sock is None:
            del self._outgoing[link.peer]
            self._handler.link_event(event)
            return
        link.sock = sock
        descriptor = sock.fileno()
        link.reader = self._loop.watch(descriptor, READ)
        link.writer = self._loop.watch(descriptor, WRITE)
        link.reader.start(self._on_dialled_readable, link)
        self._up[link.peer] = link
        self._handler.link_event(event)
        if self._up.get(link.peer) is link:  # else the event has led to its end
            self._handler.dialled_link_up(link.peer)

    def _dialled(self, peer: str, deadline_s: float) -> StreamSocket:
        """A connection that has shaken hands. Raises what `_dial` catches."""
        target = self._peers.target(peer)
        if target is None:
            raise OSError(errno.EHOSTUNREACH, "not in the servers file, or of another address family")
        try:
            return self._connected(target, peer, deadline_s)
        except (ConnectionError, EOFError):
            # A dying process may have its link closed before its listener: then the next try is refused.
            return self._connected(target, peer, deadline_s)

    def _connected(self, target: tuple[str | int, ...], peer: str, deadline_s: float) -> StreamSocket:
        sock = self._sockets.dialling()
        is_kept = False
        try:
            self._connect(sock, target, deadline_s)
            self._shake_hands(sock, peer, deadline_s)
            is_kept = True
        finally:
            if not is_kept:
                sock.close()
        return sock

    def _connect(self, sock: StreamSocket, target: tuple[str | int, ...], deadline_s: float) -> None:
        code = sock.connect_ex(target)
        if code == errno.EINPROGRESS:
            if not self._loop.wait(sock.fileno(), WRITE, deadline_s - self._loop.now()):
                raise _TimedOut
            code = sock.error()
        if code == errno.ECONNREFUSED:
            raise _NobodyThere
        if code:
            raise OSError(code, os.strerror(code))
        if sock.is_connected_to_itself:
            raise ConnectionAbortedError(errno.ECONNABORTED, "connected to itself")

    def _shake_hands(self, sock: StreamSocket, peer: str, deadline_s: float) -> None:
        """The dialler's part of the handshake."""
        shake = self._handshake
        hello = shake.hello(self._incarnation(), self._random_bytes(NONCE_BYTES), self._peers.me, peer)
        _send_all(sock, hello)
        challenge = shake.check(self._receive(sock, GREETING_BYTES, deadline_s)).data
        _send_all(sock, shake.proof("dialler", hello, challenge))
        shake.check_proof("acceptor", hello, challenge, self._receive(sock, PROOF_BYTES, deadline_s))

    def _receive(self, sock: StreamSocket, count: int, deadline_s: float) -> bytes:
        """Exactly `count` bytes, waiting for them. Raises EOFError when the other end stops short, _TimedOut."""
        data = b""
        while len(data) < count:
            try:
                more = sock.recv(count - len(data))
            except BlockingIOError:
                if not self._loop.wait(sock.fileno(), READ, deadline_s - self._loop.now()):
                    raise _TimedOut from None
                continue
            if not more:
                raise EOFError
            data += more
        return data

    def _on_dialled_readable(self, link: _Outgoing) -> None:
        """Nothing is ever sent back on it, so this is its end."""
        assert link.sock is not None
        try:
            if link.sock.recv(1):
                self._count_refused("unexpected_data", link.peer, "dialled")
        except BlockingIOError:
            return
        except OSError:
            pass
        self._down(link)

    # --- links that we accept ------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPT_STEP):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _faults.error("accept_failed", error=error)
                self._acceptor.stop()
                self._pause.start(_ACCEPT_PAUSE_S, self._acceptor.start, self._accept)
                return
            host = address[0]
            if self._goes_by_address and not self._peers.is_server_host(host):
                sock.close()
                self._count_refused("unknown_source", host, "accepted")
                continue
            if len(self._pending) >= PENDING_MAX:
                self._give_way(next(iter(self._pending)))
            self._pending[self._loop.spawn(self._welcome, sock, host)] = sock

    def _give_way(self, task: Task) -> None:
        """End the handshake that has waited longest."""
        _abandon(task, self._pending.pop(task))
        self._count_refused("too_many", "", "accepted")

    def _welcome(self, sock: StreamSocket, host: str) -> None:
        """In a greenlet of its own: shake hands with whoever has connected."""
        peer = reason = ""
        try:
            peer = self._authenticated(sock, self._loop.now() + HANDSHAKE_TIMEOUT_S)
        except Refused as refused:
            reason = refused.reason
        except _TimedOut:
            reason = "handshake_timeout"
        except (OSError, EOFError):
            reason = "handshake_broken_off"
        except GreenletExit:  # it gave way, or the node stops: whoever ended it has closed the socket
            return
        if self._pending.pop(getcurrent(), None) is None:  # type: ignore[call-overload]
            sock.close()  # the node stops: it is about to be told
            return
        if not peer:
            sock.close()
            self._count_refused(reason, host, "accepted", is_fault=reason != "handshake_broken_off")
            return
        self._end(self._incoming.get(peer))  # the peer has dialled anew, so it is done with that one
        link = self._incoming[peer] = _Incoming(peer, sock, self._loop.watch(sock.fileno(), READ))
        link.reader.start(self._on_readable, link)
        self._handler.accepted_link_changed(peer)

    def _authenticated(self, sock: StreamSocket, deadline_s: float) -> str:
        """The acceptor's part of the handshake: who has connected."""
        shake = self._handshake
        greeting = self._receive(sock, GREETING_BYTES, deadline_s)
        shake.check(greeting)
        hello = greeting
        names = []
        for _ in range(2):
            length = self._receive(sock, 1, deadline_s)
            name = self._receive(sock, length[0], deadline_s)
            hello += length + name
            names.append(name.decode("utf-8", "replace"))
        dialler, acceptor = names
        if acceptor != self._peers.me:
            raise Refused("misdirected")
        if self._peers.target(dialler) is None:
            raise Refused("unknown_peer")
        challenge = shake.greeting(self._incarnation(), self._random_bytes(NONCE_BYTES))
        _send_all(sock, challenge)
        shake.check_proof("dialler", hello, challenge, self._receive(sock, PROOF_BYTES, deadline_s))
        _send_all(sock, shake.proof("acceptor", hello, challenge))
        return dialler

    def _on_readable(self, link: _Incoming) -> None:
        try:
            count = link.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._end(link)
            return
        self.bytes_received += count
        try:
            frames = link.frames.feed(self._buffer_view[:count])
        except BadFrame as fault:
            self._end(link)
            self._count_refused("bad_frame", f"{link.peer}: {fault}", "accepted")
            return
        if frames:
            self.frames_received += len(frames)
            self._handler.frames(link.peer, frames)

    def _end(self, link: _Incoming | None) -> None:
        if link is not None and self._incoming.get(link.peer) is link:
            del self._incoming[link.peer]
            link.reader.close()
            link.sock.close()
            self._handler.accepted_link_changed(link.peer)

    # --- the rest ------------------------------------------------------------------------------------------------

    def _count_refused(self, reason: str, who: str, side: str, *, is_fault: bool = True) -> None:
        self.refused[reason] += 1
        (_faults.warning if is_fault else _faults.debug)("refused", reason=reason, peer=who, side=side)

    def snapshot(self) -> dict[str, int]:
        """What is counted, by name."""
        fields = {f"links_refused_{reason}": count for reason, count in sorted(self.refused.items())}
        return fields | {
            "links_up": len(self._up),
            "links_accepted": len(self._incoming),
            "links_pending": len(self._pending),
            "links_frames_received": self.frames_received,
            "links_bytes_received": self.bytes_received,
            "links_bytes_sent": self.bytes_sent,
            "links_bytes_queued": sum(link.queued for link in self._up.values()),
            "links_frames_not_taken": self.full,
        }

    def stop(self) -> None:
        """Write what is queued, end every link and listen no more. Nothing is reported."""
        self.flush()
        self._handler = _Nobody()
        self._pause.stop()
        self._acceptor.close()
        self._listener.close()
        for task, sock in self._pending.items():
            self._loop.run_callback(_abandon, task, sock)
        self._pending.clear()
        for link in list(self._outgoing.values()):
            self._discard(link)
        for incoming in list(self._incoming.values()):
            self._end(incoming)


class _Nobody:
    """Is told when the node has stopped."""

    def link_event(self, event: Event) -> None: ...
    def dialled_link_up(self, peer: str) -> None: ...
    def dialled_link_down(self, peer: str) -> None: ...
    def accepted_link_changed(self, peer: str) -> None: ...
    def frames(self, peer: str, frames: list[Frame]) -> None: ...


def _abandon(task: Task, sock: StreamSocket) -> None:
    """End a handshake; to be called by the loop."""
    task.cancel()
    sock.close()


def _send_all(sock: StreamSocket, data: bytes) -> None:
    """A message of the handshake: what is on its way never fills a socket's buffer."""
    if sock.send(data) < len(data):
        raise ConnectionAbortedError(errno.ECONNABORTED, "the socket's buffer is full")
