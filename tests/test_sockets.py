"""A node's real sockets: how they are bound, what they are set to, and what the system's refusals become."""

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from math import inf
from typing import Any

import gevent
import pytest

from app import sockets as sockets_module
from app.config.options import Options
from app.config.servers import Server
from app.config.usage import UsageError
from app.front.batch import Ring
from app.sockets import DatagramSocket, Sockets, listening_socket
from tests.support.gevent_loop import watched_loop
from tests.support.machine import has_ipv6
from tests.support.pieces import WHICH, pieces
from tests.support.polling import poll_in_loop as poll
from tests.support.ports import free_port, occupied

HOST = "127.0.0.1"
MIB = 1 << 20
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def options(bind: str = HOST, port: int = 0) -> Options:
    me = Server(HOST, port or free_port(), HOST)
    return Options(port=me.port, servers=(me,), me=me, bind=bind)


class Made:
    """A node's sockets, closed in the end."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def sockets(self, bind: str = HOST) -> Sockets:
        """Bound to an address; of a number that nobody else has."""
        made = Sockets(options(bind))
        self.all += [made.datagrams._sock, made.listener]
        return made

    def plain(self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        sock = socket.socket(family, kind)
        self.all.append(sock)
        return sock


@pytest.fixture
def made() -> Iterator[Made]:
    made = Made()
    yield made
    for sock in made.all:
        sock.close()


def readable(sock: Any) -> None:
    assert select.select([sock], [], [], 10.0)[0]


# --- binding ---------------------------------------------------------------------------------------------------------


def test_both_are_bound_to_one_number_and_do_not_block(made: Made) -> None:
    sockets = made.sockets()
    host, port = sockets.datagrams.address
    assert (host, sockets.listener.getsockname()) == (HOST, (HOST, port))
    assert sockets.datagrams.family == sockets.listener.family == socket.AF_INET
    assert not sockets.datagrams._sock.getblocking()
    with pytest.raises(BlockingIOError):
        sockets.listener.accept()


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_DGRAM, "UDP"), (socket.SOCK_STREAM, "TCP")])
def test_a_port_that_is_taken_is_one_line_that_says_so(kind: socket.SocketKind, protocol: str) -> None:
    given = options()
    with occupied(given.port, kind), pytest.raises(UsageError) as caught:
        Sockets(given)
    words = f"can't bind {protocol} {HOST} port {given.port}: Address already in use (another process uses it; "
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    for free in (socket.SOCK_DGRAM, socket.SOCK_STREAM):  # what was bound before it failed is free again
        occupied(given.port, free).close()


def test_an_address_that_is_not_this_machines_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"can't bind UDP 192\.0\.2\.1 port \d+: .* \(check --bind\)"):
        Sockets(options("192.0.2.1"))
    with pytest.raises(UsageError, match=r"can't bind TCP 192\.0\.2\.1 port \d+: .* \(check --http-bind\)"):
        listening_socket("192.0.2.1", free_port(), 1, "--http-bind")


class Refusing(socket.socket):
    """As an unprivileged process sees it."""

    def bind(self, address: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def setsockopt(self, level: int, name: int, *value: Any) -> None:
        if name == sockets_module._SO_RCVBUFFORCE:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().setsockopt(level, name, *value)


def test_a_port_that_needs_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(UsageError, match=r"Permission denied \(ports below 1024 need privileges; use a higher one\)"):
        Sockets(options("127.0.0.1", 80))


def test_a_port_on_which_another_begins_to_listen_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may bind it, as connections of the process before may linger; the second to listen learns it then."""
    port = free_port()
    listen = sockets_module._ListeningSocket.listen
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, port))

        def late(sock: Any, backlog: int) -> None:
            other.listen()
            listen(sock, backlog)

        monkeypatch.setattr(sockets_module._ListeningSocket, "listen", late)
        with pytest.raises(UsageError, match="another process uses it"):
            listening_socket(HOST, port, 1, "--http-bind")


def test_a_port_can_be_taken_while_connections_of_the_process_before_linger(made: Made) -> None:
    first = listening_socket(HOST, free_port(), 1, "--bind")
    address = first.getsockname()
    client = made.plain(socket.SOCK_STREAM)
    client.connect(address)
    accepted, _ = first.accept()
    accepted.close()  # this side closes first, so it is this side's port that lingers
    first.close()
    made.all.append(listening_socket(*address, 1, "--bind"))


def test_a_port_that_this_node_dials_from_can_be_listened_on(made: Made) -> None:
    sockets = made.sockets()
    dialled = sockets.dialling()
    made.all.append(dialled)
    dialled.connect_ex(sockets.listener.getsockname())
    made.all.append(listening_socket(HOST, dialled.getsockname()[1], 1, "--bind"))


# --- what they are set to --------------------------------------------------------------------------------------------


def test_the_receive_buffer_is_as_large_as_the_system_gives(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/proc/sys/net/core/rmem_max") as file:
        granted = min(int(file.read()), 16 * MIB)
    size = made.sockets().datagrams.receive_buffer_bytes
    assert size in (granted, 16 * MIB)  # the latter where this process may go past the system's bound
    monkeypatch.setattr(Refusing, "bind", socket.socket.bind)
    monkeypatch.setattr(socket, "socket", Refusing)
    assert made.sockets().datagrams.receive_buffer_bytes == granted


def test_what_is_accepted_does_not_block(made: Made) -> None:
    sockets = made.sockets()
    client = made.plain(socket.SOCK_STREAM)
    client.connect(sockets.listener.getsockname())
    readable(sockets.listener)
    accepted, address = sockets.listener.accept()
    made.all.append(accepted)
    assert address == client.getsockname()
    assert not accepted.getblocking()
    with pytest.raises(BlockingIOError):
        accepted.recv(1)


@pytest.mark.parametrize(("bind", "source"), [("127.0.0.2", "127.0.0.2"), ("0.0.0.0", HOST)])
def test_dialling_goes_out_from_the_address_that_the_node_is_bound_to(made: Made, bind: str, source: str) -> None:
    sockets, other = made.sockets(bind), made.sockets()
    dialled = sockets.dialling()
    made.all.append(dialled)
    assert not dialled.getblocking()
    assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert dialled.connect_ex(other.listener.getsockname()) == errno.EINPROGRESS
    assert select.select([], [dialled], [], 10.0)[1]
    assert dialled.error() == 0
    assert not dialled.is_connected_to_itself
    accepted, address = other.listener.accept()
    made.all.append(accepted)
    assert address[0] == source


def test_a_dial_that_is_refused_says_so_once_it_is_done(made: Made) -> None:
    dialled = made.sockets().dialling()
    made.all.append(dialled)
    code = dialled.connect_ex((HOST, free_port()))
    if code == errno.EINPROGRESS:
        assert select.select([], [dialled], [], 10.0)[1]
        code = dialled.error()
    assert code == errno.ECONNREFUSED


def test_a_socket_that_has_dialled_itself(made: Made) -> None:
    dialled = made.sockets("0.0.0.0").dialling()
    made.all.append(dialled)
    dialled.setblocking(True)
    dialled.bind((HOST, free_port()))
    dialled.connect(dialled.getsockname())
    assert dialled.is_connected_to_itself


def test_no_dialling_from_an_address_that_is_gone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = made.sockets()
    sockets._source = "192.0.2.1"
    closed: list[Any] = []
    close = sockets_module.StreamSocket.close
    monkeypatch.setattr(sockets_module.StreamSocket, "close", lambda sock: (closed.append(sock), close(sock)))
    with pytest.raises(OSError, match="assign requested address"):
        sockets.dialling()
    assert len(closed) == 1


# --- IPv6 ------------------------------------------------------------------------------------------------------------


@needs_ipv6
@pytest.mark.parametrize(
    ("bind", "family", "client", "seen"),
    [("::1", socket.AF_INET6, "::1", "::1"), ("::", socket.AF_INET6, "::1", "::1"),
     ("::", socket.AF_INET, HOST, "::ffff:127.0.0.1")],
)  # fmt: skip
def test_ipv6_and_both_at_once(made: Made, bind: str, family: socket.AddressFamily, client: str, seen: str) -> None:
    sockets = made.sockets(bind)
    port = sockets.datagrams.address[1]
    assert sockets.datagrams.family == sockets.listener.family == socket.AF_INET6
    stream, datagram = made.plain(socket.SOCK_STREAM, family), made.plain(socket.SOCK_DGRAM, family)
    stream.connect((client, port))
    readable(sockets.listener)
    accepted, address = sockets.listener.accept()
    made.all.append(accepted)
    assert address[0] == seen
    datagram.bind((client, 0))
    datagram.settimeout(10.0)
    target = (seen, datagram.getsockname()[1], 0, 0)
    assert sockets.datagrams.send_to(b"hello", target)
    assert datagram.recv(100) == b"hello"
    datagram.sendto(b"back", (client, port))
    readable(sockets.datagrams._sock)
    assert sockets.datagrams.receive(Ring(2)) == 1
    dialled = sockets.dialling()
    made.all.append(dialled)
    assert dialled.family == socket.AF_INET6
    assert (dialled.getsockname()[0] == "::1") == (bind == "::1")


# --- connected sockets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [HOST, "0.0.0.0", pytest.param("::", marks=needs_ipv6)])
def test_what_comes_from_an_address_goes_to_the_socket_that_is_connected_to_it(made: Made, bind: str) -> None:
    sockets = made.sockets(bind)
    port = sockets.datagrams.address[1]
    peer, client = made.plain(socket.SOCK_DGRAM), made.plain(socket.SOCK_DGRAM)
    peer.bind((HOST, 0))
    target = peer.getsockname() if bind != "::" else (f"::ffff:{HOST}", peer.getsockname()[1], 0, 0)
    connected = sockets.connected(target)
    assert connected is not None
    made.all.append(connected)
    for _ in range(3):
        client.sendto(b"of a client", (HOST, port))
        peer.sendto(b"of a node", (HOST, port))
    readable(connected)
    readable(sockets.datagrams._sock)
    assert [connected.recv(100) for _ in range(3)] == [b"of a node"] * 3
    with pytest.raises(BlockingIOError):
        connected.recv(100)
    ring = Ring(8)
    assert sockets.datagrams.receive(ring) == 3
    connected.close()
    peer.sendto(b"x", (HOST, port))
    readable(sockets.datagrams._sock)
    assert sockets.datagrams.receive(ring) == 1


def test_the_port_is_nobody_elses_nonetheless(made: Made) -> None:
    sockets = made.sockets()
    made.all.append(sockets.connected((HOST, 9)))
    other = made.plain(socket.SOCK_DGRAM)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with pytest.raises(OSError, match="Address already in use"):
        other.bind(sockets.datagrams.address)


def test_where_the_system_refuses_there_is_none(made: Made) -> None:
    assert made.sockets().connected(("255.255.255.255", 9)) is None  # for broadcasts one must ask


# --- datagrams -------------------------------------------------------------------------------------------------------


def test_what_the_system_does_not_take_is_told(made: Made) -> None:
    datagrams = made.sockets().datagrams
    assert not datagrams.send_to(b"x", (HOST, 0))
    assert datagrams.send_to(b"x", (HOST, datagrams.address[1]))


def test_how_long_ago_a_datagram_came(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    datagrams = made.sockets().datagrams
    assert datagrams.age_s() == inf, "none has come"
    before_s = time.time()
    datagrams.send_to(b"x", (HOST, datagrams.address[1]))
    readable(datagrams._sock)
    after_s = time.time()
    assert datagrams.receive(Ring(2)) == 1
    monkeypatch.setattr(time, "time", lambda: after_s + 5.0)
    assert 5.0 <= datagrams.age_s() <= 5.001 + after_s - before_s
    monkeypatch.setattr(time, "time", lambda: before_s - 5.0)
    assert datagrams.age_s() == 0.0, "the wall clock was set back"
    datagrams.stop()
    assert datagrams.age_s() == inf


@pytest.mark.parametrize("which", WHICH)
def test_the_system_calls_and_what_they_fail_with(made: Made, which: str) -> None:
    calls = pieces("sockets", which)
    datagrams, ring = made.sockets().datagrams, Ring(2)
    fd = datagrams._sock.fileno()
    assert calls.recvmmsg(fd, ring.headers_at, 2) == -errno.EAGAIN
    assert calls.recvmmsg(-1, ring.headers_at, 2) == calls.sendmmsg(-1, ring.headers_at, 2) == -errno.EBADF
    for data in (b"one", b"two", b"three"):
        datagrams.send_to(data, (HOST, datagrams.address[1]))
    readable(datagrams._sock)
    assert calls.recvmmsg(fd, ring.headers_at, 2) == 2
    assert ring.buffer[:3] == b"one"
    assert calls.sendmmsg(fd, ring.headers_at, 2) == 2  # back to whom they came from, which is itself
    assert [calls.recvmmsg(fd, ring.headers_at, 1) for _ in range(4)] == [1, 1, 1, -errno.EAGAIN]


def test_an_interrupted_send_is_repeated_and_any_other_error_is_told(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [-errno.EINTR, -errno.EINTR, 2, -errno.ECONNREFUSED]
    calls: list[tuple[int, ...]] = []

    def sendmmsg(fd: int, headers: int, count: int) -> int:
        calls.append((fd, headers, count))
        return outcomes.pop(0)

    monkeypatch.setattr(sockets_module, "sendmmsg", sendmmsg)
    datagrams, ring = made.sockets().datagrams, Ring(8)
    assert datagrams.send(ring, 3, 5) == 2
    assert calls == [(datagrams._sock.fileno(), ring.header_at(3), 5)] * 3
    assert datagrams.send(ring, 0, 1) == 0


def test_the_socket_is_read_once_a_turn_until_it_is_stopped(made: Made) -> None:
    with watched_loop() as loop:
        datagrams = made.sockets().datagrams
        host, port = datagrams.address
        ring, received, turns = Ring(2), [], [0]

        def read() -> None:
            received.append((turns[0], datagrams.receive(ring)))

        def count() -> None:
            while True:
                turns[0] += 1
                loop.sleep(0)

        datagrams.serve(read)
        for _ in range(5):
            datagrams.send_to(b"x", (host, port))
        counter = loop.spawn(count)
        poll(lambda: sum(count for _, count in received) == 5)
        assert [count for _, count in received] == [2, 2, 1]
        assert len({number for number, _ in received}) == 3, "other callbacks have their turn in between"
        loop.run_callback(counter.cancel)
        datagrams.stop()
        with made.plain(socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (host, port))
        gevent.sleep(0.001)
        assert len(received) == 3


def test_a_closed_socket_receives_nothing_and_loses_what_is_sent(made: Made) -> None:
    """Whatever has its descriptor's number by now is another's."""
    datagrams = made.sockets().datagrams
    number = datagrams._sock.fileno()
    datagrams.stop()
    other = made.plain(socket.SOCK_DGRAM)
    other.bind((HOST, 0))
    assert other.fileno() == number, "the system gives the lowest number that is free"
    other.sendto(b"for the other", other.getsockname())
    readable(other)
    ring = Ring(2)
    assert datagrams.receive(ring) == 0
    assert datagrams.send(ring, 0, 1) == 0
    assert not datagrams.send_to(b"x", other.getsockname())


def test_a_socket_that_never_served_can_be_stopped() -> None:
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    DatagramSocket(plain).stop()
    assert plain.fileno() == -1


class Older(socket.socket):
    """What an option that this system does not know yields."""

    numbers: bytes | None = None

    def getsockopt(self, level: int, name: int, *size: int) -> Any:
        if name != sockets_module._SO_MEMINFO:
            return super().getsockopt(level, name, *size)
        if self.numbers is None:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return self.numbers


def test_how_full_the_receive_buffer_is(made: Made) -> None:
    datagrams = made.sockets().datagrams
    before = datagrams.receive_buffer()
    assert before is not None
    assert before[::2] == (0, 0)
    assert before[1] == 2 * datagrams.receive_buffer_bytes
    datagrams.send_to(bytes(1000), (HOST, datagrams.address[1]))
    readable(datagrams._sock)
    after = datagrams.receive_buffer()
    assert after is not None
    assert after[0] > 1000


@pytest.mark.parametrize("numbers", [None, bytes(8 * 4)])
def test_a_system_that_does_not_tell_how_full_it_is(numbers: bytes | None) -> None:
    with Older(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.numbers = numbers
        assert DatagramSocket(plain).receive_buffer() is None


# --- looking names up ------------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_while_the_loop_turns(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread: here one that the loop must first let go on."""
    may_answer = threading.Event()

    def lookup(host: str) -> list[str]:
        assert may_answer.wait(10.0)
        if host == "nobody":
            raise OSError(-2, "Name or service not known")
        return [f"{host} is here"]

    monkeypatch.setattr(sockets_module, "lookup_host", lookup)
    sockets = made.sockets()
    found: list[object] = []

    def ask(host: str) -> None:
        try:
            found.append(sockets.look_up(host))
        except OSError as error:
            found.append(error.strerror)

    with watched_loop() as loop:
        loop.spawn(ask, "kv1")
        loop.spawn(ask, "nobody")
        loop.run_callback(loop.run_callback, may_answer.set)
        poll(lambda: len(found) == 2)
    assert sorted(map(str, found)) == ["Name or service not known", "['kv1 is here']"]
