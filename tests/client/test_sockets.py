"""The client's sockets where the system complains: scripted ones, since a real one does so when it likes."""

import errno
import selectors
from typing import Any, NamedTuple

import pytest

from app.client.address import resolve
from app.client.sockets import Sockets
from app.client.stats import Stats
from tests.client.peer import Peer

SERVER = resolve("127.0.0.1:9")


class Scripted:
    """A socket: what each call of `recv` and `send` gives; an exception is raised, and then there is nothing more."""

    def __init__(self, *events: bytes | OSError | int) -> None:
        self.events = list(events)
        self.sent: list[bytes] = []

    def _next(self) -> Any:
        event = self.events.pop(0) if self.events else BlockingIOError()
        if isinstance(event, OSError):
            raise event
        return event

    def recv(self, size: int) -> bytes:
        assert size >= 16 * 1024
        found: bytes = self._next()
        return found

    def send(self, datagram: bytes) -> None:
        self._next()
        self.sent.append(datagram)

    def close(self) -> None:
        pass


class Ready(NamedTuple):
    data: int


class AllReady:
    """A selector that finds every socket readable."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.waited_s = 0.0

    def select(self, wait_s: float) -> list[tuple[Ready, int]]:
        self.waited_s += wait_s
        return [(Ready(index), selectors.EVENT_READ) for index in range(self.count)]

    def close(self) -> None:
        pass


def sockets_of(*scripted: Scripted) -> tuple[Sockets, Stats]:
    stats = Stats()
    sockets = Sockets(stats)
    sockets._selector.close()
    sockets._selector = AllReady(len(scripted))  # type: ignore[assignment]
    sockets._sockets = dict(enumerate(scripted))  # type: ignore[arg-type]
    return sockets, stats


def test_each_socket_is_read_until_it_is_empty_or_the_limit_is_reached() -> None:
    sockets, _ = sockets_of(Scripted(b"1", b"2", b"3"), Scripted(), Scripted(b"4"))
    assert sockets.receive(0.25, 2) == [(0, b"1"), (0, b"2"), (2, b"4")]
    assert sockets.receive(0.5, 2) == [(0, b"3")]
    assert sockets._selector.waited_s == 0.75  # type: ignore[attr-defined]
    assert sockets.trouble == ""


def test_a_refusal_takes_a_datagrams_place_and_is_counted() -> None:
    sockets, stats = sockets_of(Scripted(b"1", ConnectionRefusedError(), b"2"))
    assert sockets.receive(0.0, 9) == [(0, b"1"), (0, None), (0, b"2")]
    assert (stats.refused, sockets.trouble) == (1, "connection refused")
    sockets, stats = sockets_of(Scripted(ConnectionRefusedError(), ConnectionRefusedError()))
    assert sockets.receive(0.0, 1) == [(0, None)]
    assert sockets.receive(0.0, 1) == [(0, None)]
    assert stats.refused == 2


def test_another_complaint_is_kept_and_what_is_behind_it_is_read() -> None:
    sockets, stats = sockets_of(Scripted(OSError(errno.EHOSTUNREACH, "No route to host"), b"1"))
    assert sockets.receive(0.0, 9) == [(0, b"1")]
    assert (stats.refused, sockets.trouble) == (0, "No route to host")


def test_what_is_told_of_an_earlier_datagram_does_not_keep_this_one_back() -> None:
    scripted = Scripted(ConnectionRefusedError(), 1)
    sockets, stats = sockets_of(scripted)
    sockets.send(0, SERVER, b"1")
    assert scripted.sent == [b"1"]
    assert (stats.lost, sockets.trouble) == (0, "")


@pytest.mark.parametrize("before", [[], [ConnectionRefusedError()]])
def test_what_the_socket_does_not_take_is_lost(before: list[OSError]) -> None:
    sockets, stats = sockets_of(Scripted(*before, OSError(errno.ENETUNREACH, "Network is unreachable"), 1))
    sockets.send(0, SERVER, b"1")
    assert (stats.lost, sockets.trouble) == (1, "Network is unreachable")
    sockets.send(0, SERVER, b"2")
    assert stats.lost == 1


def test_one_socket_for_each_server_until_they_are_closed() -> None:
    with Peer() as peer, Peer() as other:
        sockets = Sockets(Stats())
        for _ in range(3):
            sockets.send(0, resolve(peer.name), b"x")
            sockets.send(5, resolve(other.name), b"x")
        assert sockets._sockets.keys() == {0, 5}
        assert not any(one.getblocking() for one in sockets._sockets.values())
        opened = list(sockets._sockets.values())
        sockets.close()
        assert [one.fileno() for one in opened] == [-1, -1]
        sockets.close()


def test_a_server_that_no_socket_can_be_made_for_costs_the_datagram() -> None:
    sockets = Sockets(stats := Stats())
    sockets.send(0, resolve("255.255.255.255:9"), b"1")  # broadcast: not without being asked for
    assert (stats.lost, sockets.trouble) == (1, "Permission denied")
    assert sockets._sockets == {}
    sockets.close()
