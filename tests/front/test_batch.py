"""Datagrams by the batch, over real loopback sockets of both families."""

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.config.allowlist import host_of
from app.front.batch import DatagramBatch
from app.wire.protocol import DATAGRAM_MAX_BYTES

SIZE = 8
DEADLINE_S = 10.0


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class Wire:
    """A node's socket with its batch, and as many clients as asked for."""

    def __init__(self, family: socket.AddressFamily, stack: ExitStack) -> None:
        self.family = family
        self.host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.stack = stack
        self.sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((self.host, 0))
        self.sock.setblocking(False)
        self.batch = DatagramBatch(self.sock, SIZE)

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
        return bytes(self.batch.buffer[start:end])

    def is_readable(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    if request.param == socket.AF_INET6 and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with ExitStack() as stack:
        yield Wire(request.param, stack)


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
    wire.sock.close()
    wire.batch.reply(0, b"lost")
    wire.batch.flush()
    assert wire.batch.send_errors == 1
    assert wire.batch.receive() == 0
