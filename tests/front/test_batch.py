"""Datagrams by the batch: over real loopback sockets of both families, and what is asked of a socket, call by call."""

import ctypes
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Protocol

import pytest

from app.config.allowlist import host_of
from app.front.batch import BatchSocket, Meter, Ring, RingBatch, _IoVec, _MMsgHdr
from app.sockets import DatagramSocket
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tests.support.machine import has_ipv6
from tests.support.pieces import WHICH, pieces

SIZE = 8
DEADLINE_S = 10.0


class Make(Protocol):
    def __call__(
        self,
        sock: BatchSocket,
        may_not_leave: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
    ) -> RingBatch: ...


@pytest.fixture(params=WHICH)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a batch with rings of SIZE."""
    ring_batch = pieces("batch", request.param).RingBatch

    def make(
        sock: BatchSocket, may_not_leave: Callable[[], bool] = lambda: False, meter: Meter | None = None
    ) -> RingBatch:
        made: RingBatch = ring_batch(sock, Ring(SIZE), Ring(SIZE), may_not_leave, meter)
        return made

    return make


class Wire:
    """A node's socket with its batch, and as many clients as asked for."""

    def __init__(self, family: socket.AddressFamily, stack: ExitStack, make: Make) -> None:
        self.family = family
        self.host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.stack = stack
        self.sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((self.host, 0))
        self.sock.setblocking(False)
        self.datagrams = DatagramSocket(self.sock)
        self.batch = make(self.datagrams)

    def client(self) -> socket.socket:
        client = self.stack.enter_context(socket.socket(self.family, socket.SOCK_DGRAM))
        client.settimeout(DEADLINE_S)
        client.connect(self.sock.getsockname())
        return client

    def receive(self) -> int:
        """Receive once there is something."""
        readable, _, _ = select.select([self.sock], [], [], DEADLINE_S)
        assert readable, "nothing arrives"
        return self.batch.receive()

    def datagram(self, number: int) -> bytes:
        start, end = self.batch.span(number)
        data = bytes(self.batch.buffer[start:end])
        assert self.batch.datagram(number) == data
        return data

    def is_readable(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def wire(request: pytest.FixtureRequest, make: Make) -> Iterator[Wire]:
    if request.param == socket.AF_INET6 and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with ExitStack() as stack:
        yield Wire(request.param, stack, make)


def test_nothing_there_is_no_error(wire: Wire) -> None:
    assert wire.batch.receive() == 0


def test_an_empty_datagram_is_one(wire: Wire) -> None:
    wire.client().send(b"")
    assert wire.receive() == 1
    start, end = wire.batch.span(0)
    assert start == end


@pytest.mark.parametrize("length", [1, 1400, 8192, 10_100, DATAGRAM_MAX_BYTES - 1, DATAGRAM_MAX_BYTES])
def test_datagrams_of_every_legal_size_there_and_back(wire: Wire, length: int) -> None:
    client = wire.client()
    data = os.urandom(length)
    client.send(data)
    assert wire.receive() == 1
    assert wire.datagram(0) == data
    wire.batch.reply(0, data[::-1])
    wire.batch.flush()
    assert client.recv(65_535) == data[::-1]
    assert wire.batch.send_errors == 0


@pytest.mark.parametrize("length", [DATAGRAM_MAX_BYTES + 1, DATAGRAM_MAX_BYTES + 2, 40_000])
def test_oversized_datagrams_show_as_longer_than_is_legal_and_spoil_no_other(wire: Wire, length: int) -> None:
    client = wire.client()
    client.send(b"before")
    client.send(b"\xff" * length)
    client.send(b"after")
    received = 0
    seen = []
    while received < 3:
        count = wire.receive()
        seen += [wire.datagram(n) for n in range(count)]
        received += count
    assert (seen[0], seen[2]) == (b"before", b"after")
    assert len(seen[1]) > DATAGRAM_MAX_BYTES


def test_a_batch_keeps_order_and_bounds(wire: Wire) -> None:
    client = wire.client()
    sent = [b"%d" % n * (n + 1) for n in range(SIZE + 3)]
    for data in sent:
        client.send(data)
    assert wire.receive() == SIZE
    assert [wire.datagram(n) for n in range(SIZE)] == sent[:SIZE]
    assert wire.receive() == 3
    assert [wire.datagram(n) for n in range(3)] == sent[SIZE:]
    assert wire.batch.receive() == 0


def test_every_reply_reaches_its_own_sender(wire: Wire) -> None:
    clients = [wire.client() for _ in range(SIZE)]
    for n, client in enumerate(clients):
        client.send(b"request %d" % n)
    assert wire.receive() == SIZE
    for n in reversed(range(SIZE)):
        wire.batch.reply(n, b"re: " + wire.datagram(n))
    wire.batch.flush()
    for n, client in enumerate(clients):
        assert client.recv(100) == b"re: request %d" % n


def test_more_replies_than_a_batch_holds_are_sent_on_the_way(wire: Wire) -> None:
    client = wire.client()
    client.send(b"request")
    assert wire.receive() == 1
    for n in range(3 * SIZE + 1):
        wire.batch.reply(0, b"%d" % n)
    wire.batch.flush()
    assert [client.recv(100) for _ in range(3 * SIZE + 1)] == [b"%d" % n for n in range(3 * SIZE + 1)]


def test_nothing_is_sent_twice(wire: Wire) -> None:
    client = wire.client()
    client.send(b"request")
    wire.receive()
    wire.batch.reply(0, b"reply")
    wire.batch.flush()
    wire.batch.flush()
    assert client.recv(100) == b"reply"
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)


def test_a_sender_can_be_answered_after_its_batch(wire: Wire) -> None:
    early, late = wire.client(), wire.client()
    early.send(b"early")
    wire.receive()
    address = wire.batch.sender(0)
    assert wire.batch.host(0) == host_of(address) == socket.inet_pton(wire.family, wire.host)
    for n in range(SIZE):
        late.send(b"%d" % n)
    received = 0
    while received < SIZE:
        received += wire.receive()
    for n in range(SIZE + 2):  # past one batch, among replies to the batch in hand
        wire.batch.send(address, b"early %d" % n)
        wire.batch.reply(0, b"late %d" % n)
    wire.batch.flush()
    assert [early.recv(100) for _ in range(SIZE + 2)] == [b"early %d" % n for n in range(SIZE + 2)]
    assert [late.recv(100) for _ in range(SIZE + 2)] == [b"late %d" % n for n in range(SIZE + 2)]


def test_a_reply_to_nobody_costs_nothing(wire: Wire) -> None:
    """The client has closed its socket: the kernel may tell so with a later call, which must not matter."""
    gone, there = wire.client(), wire.client()
    gone.send(b"gone")
    there.send(b"there")
    received = wire.receive()
    while received < 2:
        received += wire.receive()
    gone.close()
    for _ in range(5):
        for n in range(2):
            wire.batch.reply(n, b"reply")
        wire.batch.flush()
        assert there.recv(100) == b"reply"
    there.send(b"again")
    assert wire.receive() == 1
    assert wire.datagram(0) == b"again"


def refuses_port_zero(wire: Wire) -> bytes:
    """An address that nothing can be sent to, as `sender` would give it."""
    client = wire.client()
    client.send(b"x")
    wire.receive()
    address = bytearray(wire.batch.sender(0))
    address[2:4] = b"\0\0"
    probe = wire.stack.enter_context(socket.socket(wire.family, socket.SOCK_DGRAM))
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        probe.sendto(b"x", (wire.host, 0))
    return bytes(address)


@pytest.mark.parametrize("at", [0, 1, 4, SIZE - 1])
def test_a_send_error_costs_one_datagram_and_is_counted(wire: Wire, at: int) -> None:
    nowhere = refuses_port_zero(wire)
    client = wire.client()
    client.send(b"request")
    wire.receive()
    for n in range(SIZE):
        if n == at:
            wire.batch.send(nowhere, b"lost")
        else:
            wire.batch.reply(0, b"%d" % n)
    wire.batch.flush()
    assert [client.recv(100) for _ in range(SIZE - 1)] == [b"%d" % n for n in range(SIZE) if n != at]
    assert wire.batch.send_errors == 1


def test_a_batch_of_nothing_but_errors_is_survived(wire: Wire) -> None:
    nowhere = refuses_port_zero(wire)
    for _ in range(2 * SIZE):
        wire.batch.send(nowhere, b"lost")
    wire.batch.flush()
    assert wire.batch.send_errors == 2 * SIZE


def test_a_closed_socket_receives_nothing_and_loses_what_is_sent(wire: Wire) -> None:
    client = wire.client()
    client.send(b"request")
    wire.receive()
    wire.datagrams.stop()
    wire.batch.reply(0, b"lost")
    wire.batch.flush()
    assert wire.batch.send_errors == 1
    assert wire.batch.receive() == 0


# --- what is asked of a socket ---------------------------------------------------------------------------------------


class Recording:
    """A socket that takes what a script says, and reads the ring as the kernel would."""

    family = socket.AF_INET
    knows_where_asked = False

    def __init__(self, *takes: int) -> None:
        self.takes = list(takes)  # how many each call sends at most; then all; 0: an error
        self.calls: list[tuple[int, int]] = []
        self.sent: list[bytes] = []
        self.arriving = 0
        self.log: list[str] = []

    def receive(self, ring: Ring) -> int:
        self.log.append("receive")
        return self.arriving

    def send(self, ring: Ring, start: int, count: int) -> int:
        self.log.append("send")
        self.calls.append((start, count))
        taken = min(count, self.takes.pop(0)) if self.takes else count
        for place in range(start, start + taken):
            header = _MMsgHdr.from_address(ring.header_at(place)).header
            vector = _IoVec.from_address(header.iov)
            assert header.name_length == 16
            self.sent.append(ctypes.string_at(vector.base, vector.length))
        return taken


ADDRESS = b"\x02\x00\x0d\x03\x7f\x00\x00\x01" + bytes(8)


def laid_out(make: Make, sock: Recording, count: int, may_not_leave: Callable[[], bool] = lambda: False) -> RingBatch:
    """A batch with so many datagrams laid out."""
    batch = make(sock, may_not_leave)
    for number in range(count):
        batch.send(ADDRESS, b"%d" % number)
    return batch


def numbers(*given: int) -> list[bytes]:
    return [b"%d" % number for number in given]


@pytest.mark.parametrize(
    ("takes", "calls", "lost"),
    [
        ((), [(0, 6)], ()),
        ((2, 3), [(0, 6), (2, 4), (5, 1)], ()),  # a call that sends only part
        ((0,), [(0, 6), (1, 5)], (0,)),  # an error costs the first that has not left
        ((2, 0, 0), [(0, 6), (2, 4), (3, 3), (4, 2)], (2, 3)),
        ((5, 0), [(0, 6), (5, 1)], (5,)),
        ((0,) * 6, [(n, 6 - n) for n in range(6)], range(6)),
    ],
)
def test_what_a_call_leaves_is_sent_by_the_next_and_an_error_costs_one(
    make: Make, takes: tuple[int, ...], calls: list[tuple[int, int]], lost: Sequence[int]
) -> None:
    sock = Recording(*takes)
    batch = laid_out(make, sock, 6)
    assert batch.laid_out == 6
    batch.flush()
    assert sock.calls == calls
    assert sock.sent == numbers(*(n for n in range(6) if n not in lost))
    assert (batch.send_errors, batch.unfenced, batch.laid_out) == (len(lost), 0, 6)
    batch.flush()
    assert sock.calls == calls


def test_without_anything_laid_out_nothing_is_asked(make: Make) -> None:
    asked: list[bool] = []
    sock = Recording()
    laid_out(make, sock, 0, lambda: bool(asked.append(True))).flush()
    assert (sock.calls, asked) == ([], [])


def test_the_lease_is_looked_at_before_anything_leaves(make: Make) -> None:
    sock = Recording()
    answers = iter((False, True, False))

    def may_not_leave() -> bool:
        sock.log.append("look")
        return next(answers)

    batch = laid_out(make, sock, 3, may_not_leave)
    batch.flush()
    assert sock.log == ["look", "send"]
    batch.send(ADDRESS, b"dropped")
    batch.send(ADDRESS, b"dropped, too")
    assert batch.laid_out == 5
    batch.flush()
    assert sock.log == ["look", "send", "look"]
    assert (batch.unfenced, batch.laid_out) == (2, 3)
    batch.flush()  # they do not come back
    batch.send(ADDRESS, b"3")
    batch.flush()
    assert sock.sent == numbers(0, 1, 2, 3)
    assert (batch.unfenced, batch.send_errors, batch.laid_out) == (2, 0, 4)


@pytest.mark.parametrize("way", ["reply", "send"])
def test_the_lease_is_looked_at_when_the_ring_is_full_in_the_middle_of_a_batch(make: Make, way: str) -> None:
    """What would leave then was executed before it ran out, and may not leave any more."""
    sock = Recording()
    has_run_out = False
    batch = make(sock, lambda: has_run_out)

    def lay_out(count: int) -> None:
        for number in range(count):
            batch.reply(0, b"%d" % number) if way == "reply" else batch.send(ADDRESS, b"%d" % number)

    lay_out(SIZE)
    assert sock.calls == []
    has_run_out = True
    lay_out(1)
    assert (sock.calls, batch.unfenced, batch.laid_out) == ([], SIZE, 1)
    has_run_out = False
    lay_out(SIZE)  # and once more it is full
    assert sock.calls == [(0, SIZE)]
    assert sock.sent == numbers(0, *range(SIZE - 1))
    batch.flush()
    assert sock.sent[SIZE:] == numbers(SIZE - 1)


def test_replies_leave_before_their_senders_addresses_are_overwritten(make: Make) -> None:
    sock = Recording()
    batch = make(sock)
    batch.send(ADDRESS, b"0")  # its address is its own: it may wait
    batch.receive()
    assert sock.log == ["receive"]
    batch.reply(0, b"1")
    batch.receive()
    assert sock.log == ["receive", "send", "receive"]
    assert sock.sent == numbers(0, 1)
    batch.send(ADDRESS, b"2")
    batch.receive()
    assert sock.sent == numbers(0, 1), "nothing refers to that batch any more"


def test_what_was_received_is_how_many_the_socket_says(make: Make) -> None:
    sock = Recording()
    sock.arriving = 3
    assert make(sock).receive() == 3


def test_a_place_of_the_ring() -> None:
    ring = Ring(3)
    assert ring.size == 3
    places = [_MMsgHdr.from_address(ring.header_at(place)).header for place in range(3)]
    vectors = [_IoVec.from_address(header.iov) for header in places]
    assert [vector.length for vector in vectors] == [DATAGRAM_MAX_BYTES + 1] * 3, "one more than is legal"
    assert [header.iov_length for header in places] == [1] * 3
    assert [header.name for header in places] == ring.address_pointers
    starts = [vector.base for vector in vectors]
    assert starts[0] == ctypes.addressof(ctypes.c_char.from_buffer(ring.buffer))
    assert all(later - earlier > DATAGRAM_MAX_BYTES + 1 for earlier, later in pairwise(starts))
    assert ring.header_at(0) == ring.headers_at


class Looks:
    """A meter whose looks fall after so many bytes each."""

    def __init__(self, *after: int) -> None:
        self.after = list(after)
        self.charged: list[tuple[bytes, int]] = []

    def next_look(self) -> int:
        return self.after.pop(0)

    def charge(self, host: bytes, looks: int) -> None:
        self.charged.append((host, looks))


def test_a_meter_is_told_whose_answer_a_look_falls_on(make: Make) -> None:
    """Only answers of 128 bytes and more are counted."""
    sock, meter = Recording(), Looks(200, 0, 100, 500, 9999)
    batch = make(sock, meter=meter)
    batch._in.addresses[:16] = ADDRESS
    batch.reply(0, bytes(127))
    batch.reply(0, bytes(128))
    batch.send(ADDRESS, bytes(72))
    assert meter.charged == []
    batch.reply(0, bytes(72 + 128))  # 128 beyond the first look: those after 0 and 100 fall on it as well
    other = ADDRESS[:7] + b"\x02" + bytes(8)
    batch.send(other, bytes(300))
    assert meter.charged == [(b"\x7f\x00\x00\x01", 3)]
    batch.send(other, bytes(175), b"")
    assert meter.charged == [(b"\x7f\x00\x00\x01", 3)]
    batch.send(other, bytes(128), b"")
    assert meter.charged == [(b"\x7f\x00\x00\x01", 3), (b"\x7f\x00\x00\x02", 1)]


@pytest.mark.parametrize("number", [SIZE, SIZE + 1, 2**40])
def test_what_no_batch_holds_is_not_to_be_had(make: Make, number: int) -> None:
    batch = make(Recording())
    with pytest.raises(IndexError):
        batch.reply(number, b"data")
    with pytest.raises(IndexError):
        batch.span(number)
    assert batch.laid_out == 0
