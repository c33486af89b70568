"""Links between nodes: ordered streams of frames over TCP, on the number of the node's UDP port.

The problem: nodes pass each other many small frames, in order, and must learn at once when the process at the other
end is gone, or can't be reached. A slow or hostile peer must neither fill this node's memory nor hold up its loop.

The approach: one connection for each two nodes, with frames both ways. The one whose name is smaller dials, the other
accepts; so there is never a choice between two, a link that is there has shown that it carries bytes both ways, and it
ends at both ends with whatever is in it. Frames that one loop turn queues for a peer leave in one write at its end.
Reading and writing are callbacks of the loop on plain non-blocking sockets (a greenlet for each would cost two switches
a turn); only dialling and the handshake, which are rare and wait several times, run in greenlets (connecting.py).

**Life.** The kernel tells when a process has ended, but not that a router has forgotten a connection, or that a cable
is out. So each end sends a frame LIFE every LIFE_S, and whoever has not heard anything for so many of its own beats
severs the link. Beats are counted, not seconds: while this process was stopped nobody was silent.

**Clocks.** A LIFE says what its sender's clock shows. When it is read, that clock shows this or more, and it goes on at
no less than SAFE_SHARE of our clock's rate: `clock_base_s + SAFE_SHARE * t` is never more than it shows when ours shows
t. So a deadline by our clock becomes one by the peer's (app/requests/forwarding.py), and however long a request lies in
a queue, a kernel or a network, the peer sees by its own clock that it is too late.

**Death.** A link that ends is tried again at once (app/cluster/membership/dialling.py). The side that does not dial
only knocks: it connects, and closes. A refused connection proves that no process is there if its address is one of this
very machine's, or if the operator says that nothing between the machines refuses in a living node's place
(--trust-refusals): a firewall that rejects with a reset, a port forwarder without its backend. And only if the servers
file writes the address: what a name stands for may have changed, and the process live elsewhere.

Who may connect: with a secret, whoever proves to have it (handshake.py); without, connections from the servers'
addresses (addresses.py), each for the servers of that address, which is as good as the network, and whoever says where
names are, is trusted. Whatever comes over
a link is its peer's word: no frame names its sender. Frames lost with a link are lost: both ends are told that
it went down, and know what was not acknowledged.

An example, with one way of 0.1 ms.

      0 ms  Node a is to open a link to b, of which it has heard as incarnation 5. It connects.
    0.2 ms  b's kernel has connected them. a says HELLO, b CHALLENGE, a its PROOF (handshake.py).
    0.5 ms  b knows that it is a: LinkUp. It says its PROOF, and may send frames behind it.
    0.6 ms  a knows that it is b: LinkUp.
     10 ms  A turn of a's loop has 40 frames for b: one write at its end, one read at b.
    500 ms  b is killed. Its kernel closes the link, a notices 0.1 ms later: LinkClosed, link_down. Whoever waits for an
            answer knows that it may be lost. The core has a dial again at once; b's machine refuses: LinkRefused with
            incarnation 5.

Had b been stopped at 500 ms and not killed, a would hear nothing any more, and sever the link at about 1.0 s. A new
dial is connected by b's kernel and gets no CHALLENGE: LinkFailed after DIAL_TIMEOUT_S, which proves nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from greenlet import getcurrent

from app.cluster.events import Event, LinkClosed, LinkFailed, LinkRefused, LinkUp
from app.cluster.membership.timing import SAFE_SHARE
from app.cluster.replication.frames import BadFrame
from app.loop import READ, WRITE, Loop, Task, Watcher
from app.observe import logs
from app.peers.addresses import Peers
from app.peers.connecting import Connected, Connector, NobodyThere, StreamSocket, StreamSockets, TimedOut
from app.peers.frame_queue import FrameQueue
from app.peers.frames import (
    FRAME_MAX_BYTES,
    HEADER_BYTES,
    LIFE,
    LIFE_BYTES,
    Frame,
    FrameReader,
    clock_of,
    pack_header,
    pack_life,
)
from app.peers.handshake import Refused
from app.peers.lookups import Lookups

# Connect and handshake together. Longer: what a cut had held up is tried again later; shorter: on a crowded machine
# links fail that would come up.
DIAL_TIMEOUT_S: Final = 1.0
HANDSHAKE_TIMEOUT_S: Final = 2.0  # for whoever connects; the other side of the same
# Why connections are refused that others tell of: the death of who dialled; membership, of another protocol (inbox.py).
_TOLD_ELSEWHERE: Final = ("handshake_broken_off", "other_protocol")
# Each end says that it lives so often, and is taken for silent by whoever has heard nothing for so many of its own
# beats: 0.5 to 0.6 s. Fewer: a machine that is crowded for half a second loses its links.
LIFE_S: Final = 0.1
SILENT_BEATS: Final = 5
# Connections that have not proved themselves. The longest-waiting gives way to one more: a peer takes milliseconds.
PENDING_MAX: Final = 64
_ACCEPT_STEP: Final = 16  # connections accepted in one wake-up
_ACCEPT_PAUSE_S: Final = 0.1  # after running out of descriptors
assert _ACCEPT_STEP < PENDING_MAX, "whoever gives way must have begun, or it would not clean up"

# What one wake-up reads: about 120 forwarded requests of 64 bytes each, 1.5 ms to execute them.
READ_BYTES: Final = 16 * 1024
# What all peers together may leave unread, shared evenly: so much, and of little memory at most this part; and what
# each may in any case: the longest frame, and what replication has in flight to one peer (app/requests/replicator.py).
# With 64 servers, all of them stuck: 32 MiB.
_QUEUES_MAX_BYTES: Final = 8 << 20
_QUEUES_SHARE: Final = 16
_QUEUE_MIN_BYTES: Final = 512 << 10
# What is joined to be written in one go, and kept until all of it is sent; a frame more may follow.
_PIECE_BYTES: Final = 256 << 10
assert _QUEUE_MIN_BYTES > FRAME_MAX_BYTES + HEADER_BYTES
_log = logs.logger("links")
_faults = logs.limited_logger("links")


class LinkHandler(Protocol):
    """Is told of what happens to links. Every call comes from the loop or from a link's own greenlet, and must not
    wait."""

    def link_event(self, event: Event) -> object:
        """What the membership core wants to hear."""

    def link_up(self, peer: str) -> object:
        """There is a link: frames can be sent, and may come. One that it replaces was told as down."""

    def link_down(self, peer: str) -> object:
        """It has ended: what was in it is lost, in both directions."""

    def frames(self, peer: str, frames: list[Frame]) -> object:
        """What one read has brought, in order; called by the loop. Those of kind LIFE are for `Links.on_life`."""


class _Attempt:
    """The way to a link: a dial, or a knock where the peer is to dial."""

    __slots__ = ("incarnation", "peer", "task")

    task: Task

    def __init__(self, peer: str, incarnation: int) -> None:
        self.peer = peer
        self.incarnation = incarnation


class Link(FrameQueue):
    """A connection with a peer that both ends have agreed on. What is queued leaves when Links.flush is called."""

    __slots__ = (
        "_links",
        "_reader",
        "_writer",
        "beats_unheard",
        "clock_base_s",
        "frames",
        "peer",
        "rest",
        "sock",
        "spent",
    )

    clock_base_s: float  # the peer's clock shows this and SAFE_SHARE of what ours shows, or more

    def __init__(self, links: "Links", peer: str, sock: StreamSocket, reader: Watcher, writer: Watcher) -> None:
        super().__init__(links)
        self._links = links
        self._reader = reader
        self._writer = writer
        self.peer = peer
        self.sock: StreamSocket | None = sock  # None: it has ended
        self.frames = FrameReader()
        self.rest: memoryview | None = None  # of a write that the kernel took only part of
        self.spent = 0  # of what waits for the kernel: counted as memory that was taken
        self.beats_unheard = 0

    def note_stamp(self, stamp_s: float, now_s: float) -> None:
        """The peer's clock showed this some time before ours showed `now_s`."""
        self.clock_base_s = stamp_s - SAFE_SHARE * now_s

    def start(self, read: Callable[["Link"], object]) -> None:
        """Have `read` called when something has come."""
        self._reader.start(read, self)

    def write(self) -> int:
        """Write what is queued, or as much as the kernel takes; the rest follows when it takes more. Bytes written.

        Raises OSError: the link has ended.
        """
        assert self.sock is not None
        written = 0
        while self.queued:
            data = self.rest
            if data is None:
                data = self._piece()
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self.queued -= sent
            written += sent
            if sent < len(data):
                if self.rest is None:
                    self._writer.start(self._links.write, self)
                self.rest = data[sent:]
                break
            if self.rest is not None:
                self.rest = None
                self._writer.stop()
        return written

    def _piece(self) -> memoryview:
        """What is to be written next of what is queued."""
        parts = self.parts
        if self.queued > _PIECE_BYTES:
            count = size = 0
            while size < _PIECE_BYTES:
                size += len(parts[count])
                count += 1
            parts, self.parts = parts[:count], parts[count:]
        data = memoryview(b"".join(parts))
        parts.clear()
        return data

    def close(self) -> None:
        """Nothing of what is queued is written any more."""
        assert self.sock is not None
        self._reader.close()
        self._writer.close()
        self.sock.close()
        self.sock = None


class Links:
    """One node's links. Build it, then `start` it with whoever is to be told of what happens."""

    def __init__(
        self,
        loop: Loop,
        sockets: StreamSockets,
        peers: Peers,
        secret: bytes | None,
        *,
        lookups: Lookups,
        trust_refusals: bool,
        random_bytes: Callable[[int], bytes],
        wake: Callable[[], object],
        queue_max_bytes: int | None = None,
        memory_bytes: int = _QUEUES_MAX_BYTES * _QUEUES_SHARE,
        spend: Callable[[int], object] = lambda size_bytes: None,
    ) -> None:
        """`wake()` has `flush` called when this turn of the loop ends. `queue_max_bytes`: what one peer may leave
        unread; None: its share. `memory_bytes`: what the process may take in all. `spend` is told of what queues have
        grown by (Store.spend)."""
        self.up: dict[str, Link] = {}  # by peer; for others to read
        self.refused: Counter[str] = Counter()  # connections, by reason: by us, and of ours
        self.full = 0  # frames not taken because their peer had too much to read
        self.silent = 0  # links severed because nothing came
        self.frames_received = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.dirty: list[Link] = []  # to be flushed at the end of this turn
        self.wake = wake
        self._queues_max_bytes = min(_QUEUES_MAX_BYTES, memory_bytes // _QUEUES_SHARE)
        self._is_share_given = queue_max_bytes is not None
        self.queue_max_bytes = queue_max_bytes or self._share_bytes(peers)
        self._spend = spend
        self._behind: dict[Link, None] = {}  # those whose peers have not read all
        self._loop = loop
        self._sockets = sockets
        self._listener = sockets.listener
        self._peers = peers
        self._goes_by_address = secret is None
        self._trusts_refusals = trust_refusals
        self._handler: LinkHandler
        self._incarnation: Callable[[], int]
        self._lookups = lookups
        self._connector = Connector(
            loop,
            sockets,
            peers,
            secret,
            random_bytes=random_bytes,
            incarnation=lambda: self._incarnation(),
            doubt=lookups.doubt,
        )
        self._attempts: dict[str, _Attempt] = {}
        self._pending: dict[Task, StreamSocket] = {}  # handshakes with those who dialled, the longest-waiting first
        self._buffer = bytearray(READ_BYTES)
        self._buffer_view = memoryview(self._buffer)
        self._acceptor = loop.watch(self._listener.fileno(), READ)
        self._pause = loop.timer()
        self._beats = loop.timer()

    def start(self, handler: LinkHandler, incarnation: Callable[[], int]) -> None:
        """Accept links from now on. `incarnation()`: this process's, as it tells its peers."""
        self._handler = handler
        self._incarnation = incarnation
        self._acceptor.start(self._accept)
        self._beats.start(LIFE_S, self._beat)

    def share_anew(self) -> None:
        """There are other peers than before: what each may leave unread."""
        if not self._is_share_given:
            self.queue_max_bytes = self._share_bytes(self._peers)

    def _share_bytes(self, peers: Peers) -> int:
        return max(_QUEUE_MIN_BYTES, self._queues_max_bytes // max(1, len(peers.names)))

    def take_secrets(self, secrets: Sequence[bytes]) -> None:
        """These are taken from now on, the first is used; links that are there have proved themselves, and stay."""
        self._connector.handshake.take(secrets)

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, peer: str, kind: int, body: bytes) -> bool:
        """Queue a frame, at most FRAME_MAX_BYTES long; it leaves at the end of the turn.

        False, and nothing is queued, when the link is not up or the peer is too far behind with reading.
        """
        link = self.up.get(peer)
        length = len(body)
        assert length <= FRAME_MAX_BYTES, f"frame of kind {kind}: {length} bytes"
        return link is not None and link.put(pack_header(length, kind), body)

    def send_all(self, peer: str, kind: int, bodies: list[bytes]) -> bool:
        """As `send`, several frames of one kind: all of them or none."""
        link = self.up.get(peer)
        return link is not None and link.put_all(kind, bodies)

    def flush(self) -> None:
        """Write what this turn has queued."""
        dirty, self.dirty = self.dirty, []
        for link in dirty:
            if link.sock is not None:
                self.write(link)
        if self._behind:
            self._count_behind()

    def write(self, link: Link) -> None:
        """Write what is queued for one peer, as far as the kernel takes it."""
        try:
            self.bytes_sent += link.write()
        except OSError:
            self._down(link)
            return
        if link.queued:
            self._behind[link] = None
        elif link.spent:
            self._is_not_behind(link)

    def _count_behind(self) -> None:
        """Tell of the memory that more of what waits for the kernel takes."""
        for link in self._behind:
            grown = max(0, link.queued - link.spent)
            link.spent += grown
            self._spend(grown)

    def _is_not_behind(self, link: Link) -> None:
        link.spent = 0
        self._behind.pop(link, None)

    def queued_bytes(self, peer: str) -> int:
        """What waits to be written to the peer; 0 when its link is down."""
        link = self.up.get(peer)
        return link.queued if link else 0

    def is_up(self, peer: str) -> bool:
        """Whether frames can be sent to the peer."""
        return peer in self.up

    # --- receiving -----------------------------------------------------------------------------------------------

    def _on_readable(self, link: Link) -> None:
        assert link.sock is not None
        try:
            count = link.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._down(link)
        else:
            link.beats_unheard = 0
            self.bytes_received += count
            try:
                frames = link.frames.feed(self._buffer_view[:count])
            except BadFrame as fault:
                self._end_for(link, str(fault))
            else:
                if frames:
                    self.frames_received += len(frames)
                    self._handler.frames(link.peer, frames)

    def _end_for(self, link: Link, fault: str) -> None:
        """What it brings is unsound."""
        self._count_refused("bad_frame", f"{link.peer}: {fault}")
        self._down(link)

    # --- life ----------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Tell every peer that we live, and find those who do not tell us."""
        self._beats.start(LIFE_S, self._beat)
        life = pack_life(self._loop.now())
        header = pack_header(LIFE_BYTES, LIFE)
        for link in list(self.up.values()):
            if link.sock is None:  # it has ended with another one
                continue
            if link.beats_unheard >= SILENT_BEATS:
                self.silent += 1
                _faults.warning("silent", peer=link.peer)
                self._down(link)
            else:
                link.beats_unheard += 1
                link.put(header, life)

    def on_life(self, peer: str, body: bytes) -> None:
        """A frame LIFE has come over the peer's link."""
        link = self.up.get(peer)
        if link is None:
            return
        try:
            link.note_stamp(clock_of(body), self._loop.now())
        except BadFrame as fault:
            self._end_for(link, str(fault))

    # --- how a link comes about ----------------------------------------------------------------------------------

    def open(self, peer: str, incarnation: int) -> None:
        """See to a link to the peer. What becomes of it is reported: LinkUp, also of one that is there;
        LinkRefused with this incarnation; LinkFailed, also of a knock that was heard."""
        if peer in self.up:
            self._handler.link_event(LinkUp(peer))
            return
        self._give_up(peer)
        attempt = self._attempts[peer] = _Attempt(peer, incarnation)
        attempt.task = self._loop.spawn(self._try, attempt)

    def _give_up(self, peer: str) -> None:
        """End the attempt to reach the peer, if there is one."""
        attempt = self._attempts.pop(peer, None)
        if attempt is not None and attempt.task is not getcurrent():
            self._loop.run_callback(attempt.task.cancel)

    def _try(self, attempt: _Attempt) -> None:
        """In a greenlet of its own: dial, shake hands, report; or knock, where the peer is to dial."""
        peer = attempt.peer
        connected: Connected | None = None
        event: Event = LinkFailed(peer)
        deadline_s = self._loop.now() + DIAL_TIMEOUT_S
        is_heard = False
        try:
            if self._peers.dials(peer):
                connected = self._connector.dial(peer, deadline_s)
            else:
                self._connector.knock(peer, deadline_s)
        except NobodyThere:
            event = LinkRefused(peer, attempt.incarnation, self._is_proof(peer))
        except Refused as refused:
            self._count_refused(refused.reason, peer, is_fault=refused.reason not in _TOLD_ELSEWHERE)
        except TimedOut:
            pass
        except (OSError, EOFError) as error:
            _faults.debug("dial_failed", peer=peer, error=error)
        else:
            is_heard = True
        if not is_heard:
            self._lookups.doubt(peer)
        if self._attempts.get(peer) is not attempt:  # given up meanwhile
            if connected is not None:
                connected.sock.close()
        elif connected is not None:
            self._come_up(connected)
        else:
            del self._attempts[peer]
            self._handler.link_event(event)

    def _is_proof(self, peer: str) -> bool:
        """Whether a refusal proves that no process is there."""
        address = self._peers.address(peer)  # none, if it is a server no more
        is_here = bool(address) and not self._peers.host_name(peer) and self._sockets.is_here(address)
        return self._trusts_refusals or is_here

    def moved(self, peer: str) -> None:
        """The peer has another address: what is tried at the one before comes to nothing."""
        if peer in self._attempts:
            self._give_up(peer)
            self._handler.link_event(LinkFailed(peer))

    def _come_up(self, connected: Connected) -> None:
        """There is a connection with a peer: whatever was there before, or was tried, is done with."""
        peer = connected.peer
        self._give_up(peer)
        if (old := self.up.get(peer)) is not None:
            self._take_down(old)
        descriptor = connected.sock.fileno()
        reader, writer = self._loop.watch(descriptor, READ), self._loop.watch(descriptor, WRITE)
        link = self.up[peer] = Link(self, peer, connected.sock, reader, writer)
        now_s = self._loop.now()
        link.note_stamp(connected.stamp_s, now_s)
        link.start(self._on_readable)
        link.put(pack_header(LIFE_BYTES, LIFE), pack_life(now_s))
        self._handler.link_event(LinkUp(peer))
        if self.up.get(peer) is link:  # else the event has led to its end
            self._handler.link_up(peer)

    # --- how it ends ---------------------------------------------------------------------------------------------

    def close(self, peer: str) -> None:
        """End the link to the peer, or the attempt. No event is reported."""
        self._give_up(peer)
        link = self.up.get(peer)
        if link is not None:
            self._take_down(link)

    def sever(self, peer: str) -> None:
        """End the link to the peer as if the peer had."""
        link = self.up.get(peer)
        if link is not None:
            self._down(link)

    def _down(self, link: Link) -> None:
        """The other end is gone, or as good as gone."""
        self._take_down(link)
        self._handler.link_event(LinkClosed(link.peer))

    def _take_down(self, link: Link) -> None:
        del self.up[link.peer]
        self._is_not_behind(link)
        link.close()
        self._handler.link_down(link.peer)

    # --- those who dial us ---------------------------------------------------------------------------------------

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
                self._count_refused("unknown_source", host)
                for peer in self._peers.names:
                    if peer not in self.up:  # it may be a server, at an address that we don't know of yet
                        self._lookups.doubt(peer)
                continue
            if len(self._pending) >= PENDING_MAX:
                self._give_way(next(iter(self._pending)))
            self._pending[self._loop.spawn(self._welcome, sock, host)] = sock

    def _give_way(self, task: Task) -> None:
        """End the handshake that has waited longest."""
        _abandon(task, self._pending.pop(task))
        self._count_refused("too_many", "")

    def _welcome(self, sock: StreamSocket, host: str) -> None:
        """In a greenlet of its own: shake hands with whoever has connected. If it is cancelled, its socket is closed by
        whoever did that."""
        connected: Connected | None = None
        reason = ""
        try:
            connected = self._connector.welcome(sock, host, self._loop.now() + HANDSHAKE_TIMEOUT_S)
        except Refused as refused:
            reason = refused.reason
        except TimedOut:
            reason = "handshake_timeout"
        except (OSError, EOFError):
            reason = "handshake_broken_off"
        if self._pending.pop(getcurrent(), None) is None:  # type: ignore[call-overload]
            return  # the node stops: it is about to be told
        if connected is not None and connected.peer in self._peers.names:  # else it is no server any more
            self._come_up(connected)
        else:
            sock.close()
            if reason:
                self._count_refused(reason, host, is_fault=reason not in _TOLD_ELSEWHERE)

    # --- the rest ------------------------------------------------------------------------------------------------

    def _count_refused(self, reason: str, who: str, *, is_fault: bool = True) -> None:
        self.refused[reason] += 1
        (_faults.warning if is_fault else _faults.debug)("refused", reason=reason, peer=who)

    def snapshot(self) -> dict[str, int]:
        """What is counted, by name."""
        fields = {f"links_refused_{reason}": count for reason, count in sorted(self.refused.items())}
        return fields | {
            "links_up": len(self.up),
            "links_pending": len(self._pending),
            "links_silent": self.silent,
            "links_frames_received": self.frames_received,
            "links_bytes_received": self.bytes_received,
            "links_bytes_sent": self.bytes_sent,
            "links_bytes_queued": sum(link.queued for link in self.up.values()),
            "links_frames_not_taken": self.full,
        }

    def stop(self) -> None:
        """Write what is queued, end every link and listen no more. Nothing is reported."""
        self.flush()
        self._handler = _Nobody()
        self._pause.stop()
        self._beats.stop()
        self._acceptor.close()
        self._listener.close()
        for task, sock in self._pending.items():
            self._loop.run_callback(_abandon, task, sock)
        self._pending.clear()
        for peer in [*self._attempts, *self.up]:
            self.close(peer)


class _Nobody:
    """Is told when the node has stopped."""

    def link_event(self, event: Event) -> None: ...
    def link_up(self, peer: str) -> None: ...
    def link_down(self, peer: str) -> None: ...
    def frames(self, peer: str, frames: list[Frame]) -> None: ...


def _abandon(task: Task, sock: StreamSocket) -> None:
    """End a handshake; to be called by the loop."""
    task.cancel()
    sock.close()
