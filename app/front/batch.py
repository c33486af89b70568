"""Datagrams by the batch: laid out as recvmmsg and sendmmsg take them (app/sockets.py makes the calls).

The problem: a system call through Python's socket module costs more in the interpreter (allocating 16 KiB and
shrinking it, making and parsing an address tuple, an exception when nothing is left) than in the kernel.

The approach: one call receives up to a batch of datagrams into one buffer, one call sends their replies; sender
addresses stay the kernel's bytes and are never parsed. Share of memcached's rate on one core, same handler, same
run: recvfrom/sendto 0.44 to 0.49, batches 0.55 to 0.58 (docs/performance.md).

A socket that is bound to all addresses of a machine must answer from the one that it was asked at: a client that asked
one address takes no answer from another. The kernel tells the address with each datagram (IP_PKTINFO) in the very form
in which it takes the source of a reply, so a reply's header points to what came with the request. A socket for each
address was rejected: addresses come and go, and each further socket would cost calls in every turn. Bound to one
address, a node has none of this.

Linux only, as is the memory governor (/proc).
"""

import ctypes
import socket
import sys
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, Protocol

from app.fast import piece
from app.requests.waiting import Kept
from app.wire.protocol import DATAGRAM_MAX_BYTES

_SOCKADDR_BYTES: Final = 28  # sockaddr_in6, the longest; sockaddr_in takes 16
_STRIDE_BYTES: Final = DATAGRAM_MAX_BYTES + 64  # one byte more than the longest legal datagram, aligned
_ADDRESS_STRIDE_BYTES: Final = 32
_CONTROL_STRIDE_BYTES: Final = 40  # CMSG_SPACE of the longer of the two forms below


class ControlForm(NamedTuple):
    """A control message (cmsg) that says at which address of this machine a datagram was asked, or is to leave from.

    Offsets count from its start.
    """

    level: int
    kind: int
    length: int  # CMSG_LEN; whatever follows up to `space` is padding
    space: int  # CMSG_SPACE
    interface_at: int  # number of the interface, 32 bits; 0 in what leaves: the one that routing gives
    address_at: int
    address_bytes: int


_FORMS: Final = {
    # struct in_pktinfo: interface, the address to answer from, the destination as it stood in the header
    socket.AF_INET: ControlForm(socket.IPPROTO_IP, 8, 28, 32, 16, 20, 4),
    # struct in6_pktinfo: the address, mapped if it is IPv4; interface
    socket.AF_INET6: ControlForm(socket.IPPROTO_IPV6, 50, 36, 40, 32, 16, 16),
}


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint32))


# Array elements are reached through flat views (an index costs 30 ns, a ctypes field access 150): where a field
# lies in its element, in units of the view.
_HEADER_INTS: Final = ctypes.sizeof(_MMsgHdr) // 4
_LENGTH_AT: Final = _MMsgHdr.length.offset // 4
_NAME_LENGTH_AT: Final = _MsgHdr.name_length.offset // 4
_HEADER_QUADS: Final = ctypes.sizeof(_MMsgHdr) // 8
_NAME_AT: Final = _MsgHdr.name.offset // 8
_CONTROL_AT: Final = _MsgHdr.control.offset // 8
_IOV_QUADS: Final = ctypes.sizeof(_IoVec) // 8
_IOV_LENGTH_AT: Final = _IoVec.length.offset // 8

_CMSGHDR: Final = Struct("@Nii")  # length, level, type

assert ctypes.sizeof(ctypes.c_void_p) == 8, "the flat views below assume a 64-bit platform"


class Ring:
    """A fixed array of message headers, each with a buffer and an address of its own, and perhaps a control message."""

    def __init__(self, size: int, control: ControlForm | None = None) -> None:
        self.size = size
        self.buffer = bytearray(size * _STRIDE_BYTES)
        self.addresses = bytearray(size * _ADDRESS_STRIDE_BYTES)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        address_base = ctypes.addressof(ctypes.c_char.from_buffer(self.addresses))
        self._headers = (_MMsgHdr * size)()
        self._vectors = (_IoVec * size)()
        vector_base = ctypes.addressof(self._vectors)
        for n in range(size):
            self._vectors[n].base = base + n * _STRIDE_BYTES
            self._vectors[n].length = DATAGRAM_MAX_BYTES + 1
            header = self._headers[n].header
            header.name = address_base + n * _ADDRESS_STRIDE_BYTES
            header.name_length = _SOCKADDR_BYTES
            header.iov = vector_base + n * ctypes.sizeof(_IoVec)
            header.iov_length = 1
        if control is not None:
            self._add_controls(control)
        self.headers_at = ctypes.addressof(self._headers)
        self.address_pointers = [address_base + n * _ADDRESS_STRIDE_BYTES for n in range(size)]
        flat = memoryview(self._headers).cast("B")
        self.header_ints = flat.cast("I")
        self.header_quads = flat.cast("Q")
        self.vector_quads = memoryview(self._vectors).cast("B").cast("Q")

    def _add_controls(self, form: ControlForm) -> None:
        """Each header's control message, of no address yet."""
        self.controls = bytearray(self.size * _CONTROL_STRIDE_BYTES)
        control_base = ctypes.addressof(ctypes.c_char.from_buffer(self.controls))
        self.control_pointers = [control_base + n * _CONTROL_STRIDE_BYTES for n in range(self.size)]
        for n, pointer in enumerate(self.control_pointers):
            _CMSGHDR.pack_into(self.controls, n * _CONTROL_STRIDE_BYTES, form.length, form.level, form.kind)
            self._headers[n].header.control = pointer
            self._headers[n].header.control_length = form.space

    def header_at(self, place: int) -> int:
        """The address in memory of a place's header."""
        return self.headers_at + place * (_HEADER_INTS * 4)


class BatchSocket(Protocol):
    """What is asked of a UDP socket."""

    family: socket.AddressFamily
    knows_where_asked: bool  # each datagram comes with a control message (ControlForm)

    def receive(self, ring: Ring) -> int:
        """Receive into the ring's first places: how many datagrams; 0: nothing is there."""

    def send(self, ring: Ring, start: int, count: int) -> int:
        """Send `count` datagrams of the ring from place `start` on: how many were sent; 0: not even the first."""


# Answers of fewer bytes are no use to who asks in a victim's name: 3.3 times the request on the wire at most (155 bytes
# with headers, for 47). That spares the answers to most requests what counting costs.
COUNTED_BYTES: Final = 128


class Meter(Protocol):
    """Wants to be told, about every so many bytes of answers, whose answer is going out (app/front/rate.py)."""

    def next_look(self) -> int: ...
    def charge(self, host: bytes, looks: int) -> None: ...


@piece
class RingBatch:
    """Receives and answers datagrams of one UDP socket in two rings of the same size.

    Whatever leaves was executed under a lease, or is taken for such: before each call of the system that sends, it is
    looked at once more (`may_not_leave`), and if it has run out, what is laid out is dropped.
    """

    def __init__(
        self,
        sock: BatchSocket,
        incoming: Ring,
        outgoing: Ring,
        may_not_leave: Callable[[], bool],
        meter: Meter | None,
    ) -> None:
        """`sock` may be of either family."""
        self.size = incoming.size
        self.send_errors = 0
        self.unfenced = 0  # datagrams dropped, because they might no longer leave
        self._sock = sock
        self._may_not_leave = may_not_leave
        self._meter = meter
        self._unseen_bytes = meter.next_look() if meter is not None else sys.maxsize  # until the meter's next look
        self._in, self._out = incoming, outgoing
        self.buffer = self._in.buffer  # what was received; overwritten by the next `receive`
        self._in_view = memoryview(self.buffer)
        self._in_lengths = self._in.header_ints[_LENGTH_AT:]
        self._in_names = self._in.address_pointers
        self._in_addresses = memoryview(self._in.addresses)
        # The address pointer of reply n: that of the datagram it answers, or its own address's.
        self._out_names = self._out.header_quads[_NAME_AT:]
        self._out_lengths = self._out.vector_quads[_IOV_LENGTH_AT:]
        self._out_buffer = self._out.buffer
        self._pending = 0  # replies laid out, not sent yet
        self._flushed = 0  # so far
        self._is_answering = False  # some of them refer to addresses of the batch in hand
        self._address_bytes = 28 if sock.family == socket.AF_INET6 else 16
        self._host_at, self._host_bytes = (8, 16) if sock.family == socket.AF_INET6 else (4, 4)
        for n in range(self.size):
            self._out.header_ints[n * _HEADER_INTS + _NAME_LENGTH_AT] = self._address_bytes

    def receive(self) -> int:
        """Receive what is there, at most `size` datagrams; how many (0: nothing there, or a passing error)."""
        if self._is_answering:
            self.flush()
        return self._sock.receive(self._in)

    def span(self, number: int) -> tuple[int, int]:
        """Where in `buffer` datagram `number` starts and ends; longer than DATAGRAM_MAX_BYTES if the sender's was."""
        at = number * _STRIDE_BYTES
        return at, at + self._in_lengths[number * _HEADER_INTS]

    def fill(self, number: int, kept: Kept, deadline_s: float, received_s: float) -> None:
        """Set what is kept of the request in datagram `number` after this batch: a copy of it, `sender`, `asked_at`."""
        kept.datagram = self.datagram(number)
        kept.client, kept.asked_at = self.sender(number), b""
        kept.peer, kept.hops = "", 0
        kept.deadline_s, kept.received_s = deadline_s, received_s

    def datagram(self, number: int) -> bytes:
        """A copy of datagram `number`."""
        at = number * _STRIDE_BYTES
        return bytes(self._in_view[at : at + self._in_lengths[number * _HEADER_INTS]])

    def sender(self, number: int) -> bytes:
        """The address (sockaddr bytes) that datagram `number` came from, for a reply after this batch."""
        at = number * _ADDRESS_STRIDE_BYTES
        return self._in_addresses[at : at + self._address_bytes].tobytes()

    def host(self, number: int) -> bytes:
        """The address without port and scope that datagram `number` came from: 4 bytes, or 16."""
        at = number * _ADDRESS_STRIDE_BYTES + self._host_at
        return self._in_addresses[at : at + self._host_bytes].tobytes()

    def asked_at(self, number: int) -> bytes:
        """The address of this machine that datagram `number` came to, for a later reply; empty: the only one."""
        return b""

    def reply(self, number: int, data: bytes) -> None:
        """Lay out a reply, of at most DATAGRAM_MAX_BYTES, to the sender of datagram `number` of the batch in hand.

        `flush` sends it.
        """
        slot = self._pending
        if slot == self.size:
            self.flush()
            slot = 0
        at = slot * _STRIDE_BYTES
        length = len(data)
        self._out_buffer[at : at + length] = data
        self._out_lengths[slot * _IOV_QUADS] = length
        self._out_names[slot * _HEADER_QUADS] = self._in_names[number]
        if length >= COUNTED_BYTES:
            self._unseen_bytes -= length
            if self._unseen_bytes < 0:
                self._look(self.host(number))
        self._pending = slot + 1
        self._is_answering = True

    def send(self, address: bytes, data: bytes, asked_at: bytes = b"") -> None:
        """Lay out a datagram to an address that `sender` gave, from one that `asked_at` gave; `flush` sends it."""
        slot = self._pending
        if slot == self.size:
            self.flush()
            slot = 0
        at = slot * _STRIDE_BYTES
        length = len(data)
        self._out_buffer[at : at + length] = data
        self._out_lengths[slot * _IOV_QUADS] = length
        address_at = slot * _ADDRESS_STRIDE_BYTES
        self._out.addresses[address_at : address_at + len(address)] = address
        self._out_names[slot * _HEADER_QUADS] = self._out.address_pointers[slot]
        if length >= COUNTED_BYTES:
            self._unseen_bytes -= length
            if self._unseen_bytes < 0:
                self._look(address[self._host_at : self._host_at + self._host_bytes])
        self._pending = slot + 1

    def _look(self, host: bytes) -> None:
        """The answer that is being laid out, for this address, is the one that the meter wants to know of."""
        assert self._meter is not None, "as many bytes as there are have left"
        looks = 0
        while self._unseen_bytes < 0:
            self._unseen_bytes += self._meter.next_look() + 1
            looks += 1
        self._meter.charge(host, looks)

    @property
    def laid_out(self) -> int:
        """Datagrams laid out so far and not dropped."""
        return self._flushed + self._pending

    def flush(self) -> None:
        """Send what is laid out. An error costs at most the datagram it came with, and is counted."""
        total = self._pending
        self._pending = 0
        self._is_answering = False
        if not total:
            return
        if self._may_not_leave():
            self.unfenced += total
            return
        sent = 0
        while sent < total:
            count = self._sock.send(self._out, sent, total - sent)
            if not count:
                self.send_errors += 1
                count = 1
            sent += count
        self._flushed += total


class DatagramBatch(RingBatch):
    """Receives and answers datagrams of one UDP socket that is bound to one address, up to `size` of them at a time."""

    def __init__(
        self,
        sock: BatchSocket,
        size: int,
        may_not_leave: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
        control: ControlForm | None = None,
    ) -> None:
        """`control`: what the headers of both rings carry besides."""
        super().__init__(sock, Ring(size, control), Ring(size, control), may_not_leave, meter)


class WildcardBatch(DatagramBatch):
    """As DatagramBatch, of a socket that is bound to all addresses of this machine: answers leave from the one asked.

    As a rule all datagrams of a batch, and of the one before, have come to the same address by the same interface. So
    the headers of replies all point to one control message for that, and it costs a comparison of bytes for each batch.
    Only where addresses are mixed each reply is given its own, and those that leave later have kept theirs.

    A request that came by IPv6 multicast gets no answer: there is no such source.
    """

    def __init__(
        self,
        sock: BatchSocket,
        size: int,
        may_not_leave: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
    ) -> None:
        form = self._form = _FORMS[socket.AddressFamily(sock.family)]
        super().__init__(sock, size, may_not_leave, meter, form)
        self._in_controls = self._in.controls
        self._in_interfaces = memoryview(self._in_controls).cast("I")[
            form.interface_at // 4 :: _CONTROL_STRIDE_BYTES // 4
        ]
        self._no_interfaces = memoryview(bytes(4 * size)).cast("I")
        self._out_controls = self._out.header_quads[_CONTROL_AT::_HEADER_QUADS]
        self._usual_out = bytearray(_CONTROL_STRIDE_BYTES)
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(self._usual_out))
        self._usual_pointers = memoryview(pointer.to_bytes(8, sys.byteorder) * size).cast("Q")
        self._out_controls[:] = self._usual_pointers
        self._usual_at = b""
        # A whole batch of it, as the kernel gives it; to begin with, what it never gives.
        self._usual_in = memoryview(b"\xff" * (_CONTROL_STRIDE_BYTES * size))
        # Not everything that is or will be laid out before the next flush is of the usual address.
        self._is_mixed = False

    def receive(self) -> int:
        count = super().receive()
        if count and not self._in_controls.startswith(self._usual_in[: count * _CONTROL_STRIDE_BYTES]):
            self._meet(count)
        return count

    def _meet(self, count: int) -> None:
        """Not all of the batch came as usual: make it the usual way if all came alike, and nothing else is laid out."""
        first = bytes(self._in_controls[:_CONTROL_STRIDE_BYTES])
        # An answer takes the way that routing gives, which need not be the one by which the request came.
        self._in_interfaces[:count] = self._no_interfaces[:count]
        if self._pending or not self._in_controls.startswith(self._in_controls[:_CONTROL_STRIDE_BYTES] * count):
            self._is_mixed = True
            return
        self._usual_in = memoryview(first * self.size)
        self._usual_out[:] = self._in_controls[:_CONTROL_STRIDE_BYTES]
        self._usual_at = self.asked_at(0)

    def fill(self, number: int, kept: Kept, deadline_s: float, received_s: float) -> None:
        super().fill(number, kept, deadline_s, received_s)
        kept.asked_at = self.asked_at(number)

    def asked_at(self, number: int) -> bytes:
        at = number * _CONTROL_STRIDE_BYTES + self._form.address_at
        return bytes(self._in_controls[at : at + self._form.address_bytes])

    def send(self, address: bytes, data: bytes, asked_at: bytes = b"") -> None:
        assert len(asked_at) == self._form.address_bytes, f"{asked_at!r}: not what `asked_at` gave"
        super().send(address, data)
        at = (self._pending - 1) * _CONTROL_STRIDE_BYTES + self._form.address_at
        self._out.controls[at : at + self._form.address_bytes] = asked_at
        if asked_at != self._usual_at:
            self._is_mixed = True

    def flush(self) -> None:
        if not self._is_mixed:
            super().flush()
            return
        self._is_mixed = False
        for slot in range(self._pending):
            name = self._out.header_quads[slot * _HEADER_QUADS + _NAME_AT]
            if name == self._out.address_pointers[slot]:  # laid out by `send`
                self._out_controls[slot] = self._out.control_pointers[slot]
            else:
                number = (name - self._in.address_pointers[0]) // _ADDRESS_STRIDE_BYTES
                self._out_controls[slot] = self._in.control_pointers[number]
        super().flush()
        self._out_controls[:] = self._usual_pointers


def datagram_batch(sock: BatchSocket, size: int, may_not_leave: Callable[[], bool], meter: Meter) -> DatagramBatch:
    """The kind that the socket needs."""
    return (WildcardBatch if sock.knows_where_asked else DatagramBatch)(sock, size, may_not_leave, meter)
