"""What other servers say, received apart from what clients ask."""

import socket
from collections.abc import Iterator

import pytest

from app.config.servers import Server
from app.loop import READ, WRITE
from app.peers.addresses import Peers
from app.peers.datagrams import PeerDatagrams
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tests.support.datagrams import sockaddr
from tests.support.gevent_loop import watched_loop
from tests.support.loop import ManualLoop
from tests.support.polling import poll_in_loop as poll

ME, ONE, OTHER = (Server("127.0.0.1", port, "127.0.0.1") for port in (1001, 1002, 1003))


class Connected:
    """A connected socket that is filled by hand."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.arrived: list[bytes | OSError] = []
        self.is_closed = False

    def fileno(self) -> int:
        return self.descriptor

    def recv(self, count: int) -> bytes:
        if not self.arrived:
            raise BlockingIOError
        found = self.arrived.pop(0)
        if isinstance(found, OSError):
            raise found
        return found[:count]

    def close(self) -> None:
        self.is_closed = True


class Rig:
    def __init__(self, *refused: int) -> None:
        self.refused = refused  # ports
        self.loop = ManualLoop()
        self.made: dict[int, Connected] = {}  # by port
        self.taken: list[tuple[bytes, bytes]] = []
        self.peers = Peers(ME, [ME, ONE, OTHER], socket.AF_INET)
        self.datagrams = PeerDatagrams(
            self.loop, self, self.peers, lambda data, address: self.taken.append((data, address))
        )
        self.datagrams.follow()

    def connected(self, target: tuple[str | int, ...]) -> Connected | None:
        port = int(target[1])
        if port in self.refused:
            return None
        self.made[port] = Connected(port)
        return self.made[port]


def test_each_is_told_with_the_address_it_came_from() -> None:
    rig = Rig()
    rig.made[1002].arrived += [b"a", ConnectionRefusedError(), b"b"]
    rig.made[1003].arrived += [bytes(DATAGRAM_MAX_BYTES + 9)]
    rig.loop.ready(1002, READ)
    rig.loop.ready(1003, READ)
    from_one, from_other = sockaddr("127.0.0.1", 1002), sockaddr("127.0.0.1", 1003)
    assert rig.taken == [(b"a", from_one), (b"b", from_one), (bytes(DATAGRAM_MAX_BYTES + 1), from_other)]


def test_of_all_that_has_come_it_is_received_first() -> None:
    assert [watcher.is_first for watcher in Rig().loop.watchers] == [True, True]


def test_one_server_does_not_keep_the_loop_from_turning() -> None:
    rig = Rig()
    rig.made[1002].arrived += [b"x"] * 100
    rig.loop.ready(1002, READ)
    assert 0 < len(rig.taken) < 100


def test_a_server_for_which_the_system_has_no_socket_is_left_to_the_main_one() -> None:
    rig = Rig(1002)
    assert list(rig.made) == [1003]


def test_a_server_that_has_moved_is_received_from_where_it_is_and_no_longer_from_where_it_was() -> None:
    rig = Rig()
    before, other = rig.made[1002], rig.made[1003]
    rig.peers.move(str(ONE), "127.0.0.9")
    rig.datagrams.follow()
    now = rig.made[1002]
    assert (before.is_closed, now is before, rig.made[1003] is other, other.is_closed) == (True, False, True, False)
    now.arrived.append(b"here")
    rig.loop.ready(1002, READ)
    assert rig.taken == [(b"here", sockaddr("127.0.0.9", 1002))]


def test_once_stopped_nothing_is_received() -> None:
    rig = Rig()
    made = rig.made[1002]
    rig.datagrams.stop()
    made.arrived.append(b"x")
    rig.loop.ready(1002, READ)
    assert (rig.taken, made.is_closed) == ([], True)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_the_loop_calls_back_first_for_what_is_to_be_read_first(pair: tuple[socket.socket, socket.socket]) -> None:
    order: list[str] = []
    with watched_loop() as loop:
        names = ["late", "first", "late"]
        watchers = [
            loop.watch(sock.fileno(), WRITE, is_first=name == "first")
            for name, sock in zip(names, [*pair, pair[0]], strict=True)
        ]
        for name, watcher in zip(names, watchers, strict=True):
            watcher.start(order.append, name)
        poll(lambda: len(order) >= 3)
        for watcher in watchers:
            watcher.close()
    assert order[:3] == ["first", "late", "late"]
