"""The network between simulated machines, and what the kernel does for the sockets of their processes.

Datagrams are delayed, lost, lost for being large, doubled and overtaken. Streams keep their bytes in order: what can't
get through waits, is sent again at growing intervals, and arrives later, possibly much later. Each direction of each
pair of machines can be cut for datagrams and for streams by itself. A machine may get another address, perhaps one that
another machine had; a resolver tells where names are, late and not always. Buffers are bounded: a datagram that finds
no room is lost, a stream takes no more until its reader has read.
"""

import ctypes
import errno
import os
import socket
from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from app.config.servers import is_address
from app.front import batch
from app.loop import READ, WRITE
from app.sockets import ReceiveBuffer
from tests.sim.world import Host, World

if TYPE_CHECKING:
    from app.front.batch import Ring
    from tests.sim.process import Process

_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_DATAGRAM_COST_BYTES: Final = 256  # what the kernel counts besides
_UNACKNOWLEDGED_BYTES: Final = 16 * 1024  # what a stream sends before it must be acknowledged
_RETRANSMIT_S: Final = 0.2
_RETRANSMIT_MAX_S: Final = 4.0
_CONNECT_TRIES: Final = 5  # after 1, 2, 4, ... s
_BACKLOG: Final = 64

# A socket's receive buffer that takes a burst of whatever clients send.
AMPLE_BYTES: Final = 256 * 1024

Path = tuple[str, str]  # from one machine's address to another's


def sockaddr(ip: str, port: int) -> bytes:
    """The kernel's bytes of an IPv4 address."""
    return _SOCKADDR_IN.pack(socket.AF_INET, port.to_bytes(2, "big"), socket.inet_aton(ip))


@dataclass
class NetworkOptions:
    """How the network behaves when nothing is cut; drawn from the seed."""

    delay_s: float = 0.0005
    jitter_s: float = 0.0005
    slow_share: float = 0.0  # of datagrams and of writes to streams that take up to slow_s
    slow_s: float = 0.3
    loss: float = 0.0
    large_loss: float = 0.0  # of datagrams above `large_bytes`
    large_bytes: int = 1400
    duplication: float = 0.0
    datagram_buffer_bytes: int = AMPLE_BYTES
    stream_buffer_bytes: int = 128 * 1024
    # A stream lives through a cut of this length and delivers later what was sent before; after a longer one both ends
    # are told that it is gone.
    survives_cut_s: float = 0.5
    lookup_fails: float = 0.0  # share of questions to the resolver that are not answered
    lookup_late_s: float = 0.0  # how long it may tell the address that a name had before


class Network:
    """See the module."""

    def __init__(self, world: World, options: NetworkOptions, hosts: list[Host]) -> None:
        self.world = world
        self.options = options
        self.hosts = {host.ip: host for host in hosts}
        self.bound: dict[bytes, Any] = {}  # who takes datagrams, by address: `take(data, source)`
        self.datagram_cuts: dict[Path, float] = {}  # since when
        self.stream_cuts: dict[Path, float] = {}
        self.refusing: set[Path] = set()  # connections are refused, although a process is there
        self.lost = 0
        self.unused: list[str] = []  # addresses that some machine had, and none has
        self._records = {host.name: [(0.0, host.ip)] for host in hosts}  # from when on a name stands for what
        self._rng = world.rng
        self._streams: dict[Stream, None] = {}

    def delay(self) -> float:
        options, rng = self.options, self._rng
        if options.slow_share and rng.random() < options.slow_share:
            return options.delay_s + rng.random() * options.slow_s
        return options.delay_s + rng.random() * options.jitter_s

    # Cuts.

    def cut(self, paths: list[Path], *, datagrams: bool, streams: bool) -> None:
        for path in paths:
            if datagrams:
                self.datagram_cuts.setdefault(path, self.world.now)
            if streams:
                self.stream_cuts.setdefault(path, self.world.now)

    def mend(self, paths: list[Path] | None = None) -> None:
        """These paths, or all."""
        if paths is None:
            paths = [*self.datagram_cuts, *self.stream_cuts]
            self.refusing.clear()
        ended: set[frozenset[str]] = set()
        for path in paths:
            self.datagram_cuts.pop(path, None)
            since = self.stream_cuts.pop(path, None)
            if since is not None and self.world.now - since > self.options.survives_cut_s:
                ended.add(frozenset(path))
        if ended:
            for stream in list(self._streams):
                if stream.peer is not None and frozenset((stream.ip, stream.peer.ip)) in ended:
                    stream.broken(errno.ECONNRESET)

    def lose_flows(self, paths: list[Path]) -> None:
        """Something on the way forgets the connections between these machines, and drops what belongs to them."""
        for stream in list(self._streams):
            if stream.peer is not None and (stream.ip, stream.peer.ip) in paths:
                stream.is_dropped = True

    def is_cut(self, source: str, target: str) -> bool:
        """Whether a stream's bytes can't go this way."""
        if (source, target) in self.stream_cuts or source in self.unused or target in self.unused:
            return True
        one, other = self.hosts.get(source), self.hosts.get(target)
        return (one is not None and not one.is_on) or (other is not None and not other.is_on)

    # Addresses.

    def move(self, host: Host, ip: str) -> None:
        """The machine, on which nothing runs, has another address from now on."""
        self.unused.append(host.ip)
        del self.hosts[host.ip]
        host.ip = ip
        self.hosts[ip] = host
        if ip in self.unused:
            self.unused.remove(ip)
        self._records[host.name].append((self.world.now + self._rng.random() * self.options.lookup_late_s, ip))

    def look_up(self, name: str) -> str:
        """What the resolver says."""
        return [ip for since, ip in self._records[name] if since <= self.world.now][-1]

    # Datagrams.

    def send(self, source: bytes, source_ip: str, target: bytes, data: bytes, at: float) -> None:
        """A datagram leaves."""
        options, rng = self.options, self._rng
        copies = 2 if options.duplication and rng.random() < options.duplication else 1
        target_ip = _ip_of(target)
        for _ in range(copies):
            if (
                (source_ip, target_ip) in self.datagram_cuts
                or (options.loss and rng.random() < options.loss)
                or (options.large_loss and len(data) > options.large_bytes and rng.random() < options.large_loss)
            ):
                self.lost += 1
                continue
            self.world.at(at + self.delay(), self._arrive, source, target, target_ip, data)

    def _arrive(self, source: bytes, target: bytes, target_ip: str, data: bytes) -> None:
        taker = self.bound.get(target)
        host = self.hosts.get(target_ip)
        if taker is not None and (host is None or host.is_on):
            taker.take(data, source)

    def lose_nothing(self) -> None:
        """From now on datagrams are not lost on their way, and sockets have room for what clients send."""
        self.options.loss = 0.0
        self.options.datagram_buffer_bytes = AMPLE_BYTES
        for taker in self.bound.values():
            if isinstance(taker, SimDatagrams):
                taker.receive_buffer_bytes = AMPLE_BYTES


_IPS: dict[bytes, str] = {}


def _ip_of(address: bytes) -> str:
    packed = address[4:8]
    ip = _IPS.get(packed)
    if ip is None:
        ip = _IPS[packed] = socket.inet_ntoa(packed)
    return ip


class SimDatagrams:
    """A node's UDP socket: what app.sockets.DatagramSocket is to it."""

    def __init__(self, network: Network, process: "Process", port: int) -> None:
        self.family = int(socket.AF_INET)
        self.knows_where_asked = False  # each machine has one address
        self.address = (process.host.ip, port)
        self.receive_buffer_bytes = network.options.datagram_buffer_bytes
        self.overflowed = 0
        self._network = network
        self._process = process
        self._me = sockaddr(process.host.ip, port)
        self._queue: deque[tuple[bytes, bytes, float]] = deque()
        self._queued_bytes = 0
        self._stamp_unix_s: float | None = None
        self._targets: dict[Any, bytes] = {}
        self.connected: dict[bytes, SimConnected] = {}  # by the address that they are connected to
        self._watcher: Any = None
        network.bound[self._me] = self

    def take(self, data: bytes, source: bytes) -> None:
        """The network brings a datagram."""
        connected = self.connected.get(source)
        if connected is not None:
            connected.take(data)
            return
        size = len(data) + _DATAGRAM_COST_BYTES
        if self._queued_bytes + size > self.receive_buffer_bytes:
            self.overflowed += 1
            return
        self._queued_bytes += size
        self._queue.append((data, source, self._process.world.now))
        self._process.loop.poke()

    def ready(self, events: int) -> bool:
        return bool(events & READ and self._queue)

    def receive_buffer(self) -> ReceiveBuffer:
        return ReceiveBuffer(self._queued_bytes, self.receive_buffer_bytes, self.overflowed)

    def receive(self, ring: "Ring") -> int:
        queue = self._queue
        count = min(ring.size, len(queue))
        buffer, lengths, addresses = ring.buffer, ring.header_ints, ring.addresses
        for place in range(count):
            data, source, arrived_s = queue.popleft()
            self._queued_bytes -= len(data) + _DATAGRAM_COST_BYTES
            at = place * batch._STRIDE_BYTES
            length = min(len(data), batch._STRIDE_BYTES)
            buffer[at : at + length] = data[:length]
            lengths[place * batch._HEADER_INTS + batch._LENGTH_AT] = length
            address_at = place * batch._ADDRESS_STRIDE_BYTES
            addresses[address_at : address_at + 16] = source
            self._stamp_unix_s = self._process.host.clock.unix(arrived_s)
        return count

    def send(self, ring: "Ring", start: int, count: int) -> int:
        options, at_s = self._process.options, self._process.time
        if options.send_fails and self._process.world.rng.random() < options.send_fails:
            return 0
        for place in range(start, start + count):
            at = place * batch._STRIDE_BYTES
            length = ring.vector_quads[place * batch._IOV_QUADS + batch._IOV_LENGTH_AT]
            target = ctypes.string_at(ring.header_quads[place * batch._HEADER_QUADS + batch._NAME_AT], 16)
            self._send(bytes(ring.buffer[at : at + length]), target, at_s)
        return count

    def send_to(self, data: bytes, target: tuple[str | int, ...]) -> bool:
        options = self._process.options
        if options.send_fails and self._process.world.rng.random() < options.send_fails:
            return False
        address = self._targets.get(target)
        if address is None:
            address = self._targets[target] = sockaddr(str(target[0]), int(target[1]))
        self._send(data, address, self._process.time)
        return True

    def _send(self, data: bytes, target: bytes, at_s: float) -> None:
        process = self._process
        if not process.is_over:
            process.sends(data, target)
            self._network.send(self._me, process.host.ip, target, data, at_s)

    def age_s(self) -> float:
        assert self._stamp_unix_s is not None
        return max(0.0, self._process.read_wall_clock() - self._stamp_unix_s)

    def serve(self, read: Any) -> None:
        descriptor = self._process.sockets.descriptor(self)
        self._watcher = self._process.loop.watch(descriptor, READ)
        self._watcher.start(read)

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self.vanish()

    def vanish(self) -> None:
        """The kernel closes it."""
        if self._network.bound.get(self._me) is self:
            del self._network.bound[self._me]


class SimConnected:
    """A UDP socket of a node's port that is connected to another server's address."""

    def __init__(self, process: "Process", buffer_bytes: int, source: bytes) -> None:
        self._process = process
        self._room_bytes = buffer_bytes
        self._source = source
        self._queue: deque[bytes] = deque()
        self._descriptor = process.sockets.descriptor(self)

    def take(self, data: bytes) -> None:
        """The network brings a datagram."""
        size = len(data) + _DATAGRAM_COST_BYTES
        if size <= self._room_bytes:
            self._room_bytes -= size
            self._queue.append(data)
            self._process.loop.poke()

    def fileno(self) -> int:
        return self._descriptor

    def ready(self, events: int) -> bool:
        return bool(events & READ and self._queue)

    def recv(self, count: int) -> bytes:
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        data = self._queue.popleft()
        self._room_bytes += len(data) + _DATAGRAM_COST_BYTES
        return data[:count]

    def close(self) -> None:
        connected = self._process.sockets.datagrams.connected
        if connected.get(self._source) is self:  # the main socket has what comes from there on
            del connected[self._source]
        self._process.sockets.forget(self)


class SimListener:
    """A listening TCP socket."""

    def __init__(self, network: Network, process: "Process", port: int) -> None:
        self.port = port
        self.is_open = True
        self.queue: deque[Stream] = deque()
        self.fails_until = 0.0  # accepting fails for lack of descriptors
        self._process = process
        self._descriptor = process.sockets.descriptor(self)

    def fileno(self) -> int:
        return self._descriptor

    def ready(self, events: int) -> bool:
        return bool(events & READ and self.queue)

    def accept(self) -> tuple["Stream", tuple[str, int]]:
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "nobody")
        if self._process.time < self.fails_until:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        stream = self.queue.popleft()
        assert stream.peer is not None
        return stream, stream.peer.name

    def close(self) -> None:
        self.is_open = False
        while self.queue:
            self.queue.popleft().close()


class Stream:
    """One end of a TCP connection: what app.sockets.StreamSocket is to a node."""

    def __init__(self, network: Network, process: "Process | None", ip: str, port: int) -> None:
        """`process`: whose it is; None: nobody's but a test's."""
        self.ip = ip
        self.name = (ip, port)
        self.peer: Stream | None = None
        self.is_up = False
        self.is_closed = False  # by its process
        self.is_dropped = False  # what it sends gets nowhere any more
        self.has_vanished = False  # its machine knows nothing of it any more
        self.inbox = bytearray()
        self.is_at_end = False
        self.code = 0  # errno of what has become of it
        self.target: tuple[str, int] = ("", 0)
        self._network = network
        self._process = process
        self._queue: deque[tuple[float, bytes | None]] = deque()  # when it arrives; None: the end
        self._queued_bytes = 0
        self._last_s = 0.0
        self._is_due = False
        self._wait_s = 0.0
        self._unacknowledged = 0
        self._was_full = False
        network._streams[self] = None
        self._descriptor = process.sockets.descriptor(self) if process is not None else -1

    # What a node calls.

    def fileno(self) -> int:
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def getsockname(self) -> tuple[str, int]:
        return self.name

    def getpeername(self) -> tuple[str, int]:
        return self.target

    @property
    def is_connected_to_itself(self) -> bool:
        return False

    def connect_ex(self, target: Any) -> int:
        self.target = (str(target[0]), int(target[1]))
        self._network.world.at(self._time() + self._network.delay(), self._knock, 0)
        return errno.EINPROGRESS

    def error(self) -> int:
        code, self.code = self.code, 0
        return code

    def send(self, data: bytes | memoryview) -> int:
        assert not self.is_closed
        if self.code:
            raise OSError(self.error(), "broken")
        if not self.is_up or self.has_vanished:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        room = self._room()
        if room <= 0:
            self._was_full = True
            raise BlockingIOError(errno.EAGAIN, "full")
        part = bytes(data[:room])
        if len(part) < len(data):
            self._was_full = True
        self._put(part)
        self._queued_bytes += len(part)
        return len(part)

    def recv(self, count: int) -> bytes:
        part = bytes(self.inbox[:count])
        if part:
            del self.inbox[:count]
            self._has_read()
            return part
        if self.code:
            raise OSError(self.error(), "broken")
        if self.is_at_end or self.has_vanished:
            return b""
        raise BlockingIOError(errno.EAGAIN, "nothing")

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        part = self.recv(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """By its process, or by the kernel for one that has ended."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._process is not None:
            self._process.sockets.forget(self)
        if self.peer is None:
            self._network._streams.pop(self, None)
        elif self.inbox:
            self._reset()
        else:
            self._put(None)

    def ready(self, events: int) -> bool:
        if events & READ and (self.inbox or self.is_at_end or (self.code and self.target)):
            return True
        if events & WRITE:
            if not self.is_up:
                return bool(self.code)
            return bool(self.code) or self._room() >= self._network.options.stream_buffer_bytes // 3
        return False

    # What the kernel and the network do.

    def _time(self) -> float:
        return self._process.time if self._process is not None else self._network.world.now

    def _room(self) -> int:
        unread = len(self.peer.inbox) if self.peer is not None else 0
        return self._network.options.stream_buffer_bytes - self._queued_bytes - unread

    def _poke(self) -> None:
        if self._process is not None and not self._process.is_over:
            self._process.loop.poke()

    def _has_read(self) -> None:
        peer = self.peer
        if peer is not None and peer._was_full and peer.ready(WRITE):
            peer._was_full = False
            self._network.world.at(self._time() + self._network.delay(), peer._poke)

    def _put(self, part: bytes | None) -> None:
        now = self._time()
        options, rng = self._network.options, self._network._rng
        delay = self._network.delay()
        if options.loss and rng.random() < options.loss / 3:  # the others are sent again at once
            delay += _RETRANSMIT_S
        self._last_s = max(self._last_s, now + delay)
        self._queue.append((self._last_s, part))
        if not self._is_due:
            self._is_due = True
            self._network.world.at(self._last_s, self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        network, world, peer = self._network, self._network.world, self.peer
        if self.has_vanished or peer is None:
            return
        is_heard = not network.is_cut(peer.ip, self.ip)
        if is_heard:
            self._unacknowledged = 0
        if self.is_dropped or network.is_cut(self.ip, peer.ip) or self._unacknowledged >= _UNACKNOWLEDGED_BYTES:
            self._wait_s = min(_RETRANSMIT_MAX_S, max(_RETRANSMIT_S, 2 * self._wait_s))
            self._is_due = True
            world.after(self._wait_s, self._deliver)
            return
        self._wait_s = 0.0
        queue = self._queue
        while queue and queue[0][0] <= world.now and (is_heard or self._unacknowledged < _UNACKNOWLEDGED_BYTES):
            _, part = queue.popleft()
            if part is not None:
                self._queued_bytes -= len(part)
                self._unacknowledged += len(part)
            peer._arrived(part)
            if self.has_vanished:
                return
        if queue:
            self._is_due = True
            world.at(max(world.now, queue[0][0]), self._deliver)

    def _arrived(self, part: bytes | None) -> None:
        if self.is_closed or self.has_vanished:
            if part is not None:
                self._reset()
            elif self.is_closed:  # both ends have closed it
                self._vanish()
            return
        if part is None:
            self.is_at_end = True
        else:
            self.inbox += part
        self._poke()

    def _reset(self) -> None:
        """This machine says that there is no such connection."""
        self._vanish()
        peer = self.peer
        assert peer is not None
        if not self._network.is_cut(self.ip, peer.ip):
            self._network.world.at(self._time() + self._network.delay(), peer.broken, errno.ECONNRESET)

    def broken(self, code: int) -> None:
        """The connection is no more."""
        if not self.has_vanished:
            self._vanish()
            self.code = code
            self._poke()

    def _vanish(self) -> None:
        self.has_vanished = True
        self._queue.clear()
        self._network._streams.pop(self, None)

    def lose_power(self) -> None:
        """Its machine is off: it says nothing."""
        self.is_closed = True
        self._vanish()
        # Who waits for room asks again and again, and is told once the machine is back: so let it send.
        self.inbox.clear()
        self._has_read()

    def _knock(self, attempt: int) -> None:
        """The request for a connection arrives, or not."""
        network, world = self._network, self._network.world
        if self.is_closed or self.has_vanished:
            return
        source, target = self.ip, self.target[0]
        host = network.hosts.get(target)
        process = host.process if host is not None else None
        listener = process.sockets.listener if process is not None else None
        is_refused = listener is None or not listener.is_open or (source, target) in network.refusing
        if (
            network.is_cut(source, target)
            or network.is_cut(target, source)
            or (listener is not None and not is_refused and len(listener.queue) >= _BACKLOG)
        ):
            if attempt == _CONNECT_TRIES:
                self.broken(errno.ETIMEDOUT)
            else:
                world.after(2.0**attempt, self._knock, attempt + 1)
            return
        if is_refused:
            world.after(network.delay(), self.broken, errno.ECONNREFUSED)
            return
        assert process is not None
        assert listener is not None
        other = self.peer = Stream(network, process, target, self.target[1])
        other.peer, other.is_up, other.target = self, True, self.name
        listener.queue.append(other)
        process.loop.poke()
        world.after(network.delay(), self._established)

    def _established(self) -> None:
        if not self.has_vanished and not self.is_closed:
            self.is_up = True
            self._poke()


class SimSockets:
    """One process's descriptors: what app.sockets.Sockets is to a node."""

    def __init__(self, network: Network, process: "Process", port: int) -> None:
        self._network = network
        self._process = process
        self._next = 10
        self._files: dict[int, Any] = {}
        process.sockets = self
        self.datagrams = SimDatagrams(network, process, port)
        self.listener = SimListener(network, process, port)

    def descriptor(self, file: Any) -> int:
        self._next += 1
        self._files[self._next] = file
        self._process.loop.files[self._next] = file
        return self._next

    def forget(self, file: Any) -> None:
        self._files.pop(file.fileno(), None)
        self._process.loop.files.pop(file.fileno(), None)

    def connected(self, target: tuple[str | int, ...]) -> SimConnected:
        source = sockaddr(str(target[0]), int(target[1]))
        made = SimConnected(self._process, self._network.options.datagram_buffer_bytes, source)
        self.datagrams.connected[source] = made
        return made

    def look_up(self, host: str) -> list[str]:
        if is_address(host):
            return [host]
        rng, options = self._network._rng, self._network.options
        self._process.loop.sleep(rng.choice((0.001, 0.05, 0.5)))
        if rng.random() < options.lookup_fails:
            raise OSError(-3, "Temporary failure in name resolution")
        return [self._network.look_up(host)]

    def is_here(self, address: str) -> bool:
        return self._process.options.one_machine or address == self._process.host.ip

    def dialling(self) -> Stream:
        port = 32768 + self._network._rng.randrange(28000)
        return Stream(self._network, self._process, self._process.host.ip, port)

    def close(self, *, power: bool) -> None:
        """The process has ended, or its machine has lost its power."""
        self.datagrams.vanish()
        for file in list(self._files.values()):
            if isinstance(file, Stream):
                file.lose_power() if power else file.close()
        self.listener.is_open = False
        for stream in self.listener.queue:
            stream.lose_power() if power else stream.close()
        self.listener.queue.clear()
