"""The client's sockets where the system complains: scripted ones, since a real one does so when it likes."""

import errno
import selectors
from typing import Any, NamedTuple

import pytest

from app.client import sockets as module
from app.client.address import resolve
from app.client.errors import Closed
from app.client.sockets import Sockets
from app.client.stats import Stats
from tests.client.peer import Address, Peer, drop
from tests.support.polling import poll
from tests.support.ports import free_port

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
    fileobj: Scripted


class AllReady:
    """A selector that finds every socket readable."""

    def __init__(self, *scripted: Scripted) -> None:
        self.ready = [Ready(*numbered) for numbered in enumerate(scripted)]
        self.waited_s = 0.0

    def select(self, wait_s: float) -> list[tuple[Ready, int]]:
        self.waited_s += wait_s
        return [(ready, selectors.EVENT_READ) for ready in self.ready]

    def close(self) -> None:
        pass


def sockets_of(*scripted: Scripted) -> tuple[Sockets, Stats]:
    stats = Stats()
    sockets = Sockets(stats)
    sockets._selector.close()
    sockets._selector = AllReady(*scripted)  # type: ignore[assignment]
    sockets._sockets = dict(enumerate(scripted))  # type: ignore[arg-type]
    return sockets, stats


def test_each_socket_is_read_until_it_is_empty_or_the_limit_is_reached() -> None:
    sockets, _ = sockets_of(Scripted(b"1", b"2", b"3"), Scripted(), Scripted(b"4"))
    assert sockets.receive(0.25, 2) == [(0, b"1"), (0, b"2"), (2, b"4")]
    assert sockets.receive(0.5, 2) == [(0, b"3")]
    assert sockets._selector.waited_s == 0.75  # type: ignore[attr-defined]
    assert sockets.trouble([0], 0) == ""


def test_a_fault_of_the_selector_is_not_hidden_unless_another_has_closed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets, _ = sockets_of()

    def broken(wait_s: float) -> list[Any]:
        raise ValueError("broken")

    def closed(wait_s: float) -> list[Any]:
        sockets.is_closed = True
        raise ValueError("closed")

    monkeypatch.setattr(sockets._selector, "select", broken)
    with pytest.raises(ValueError, match="broken"):
        sockets.receive(0.0, 1)
    monkeypatch.setattr(sockets._selector, "select", closed)
    with pytest.raises(Closed):
        sockets.receive(0.0, 1)


def test_a_refusal_takes_a_datagrams_place_and_is_counted() -> None:
    sockets, stats = sockets_of(Scripted(b"1", ConnectionRefusedError(), b"2"))
    assert sockets.receive(0.0, 9) == [(0, b"1"), (0, None), (0, b"2")]
    assert (stats.refused, sockets.trouble([0], 0)) == (1, "connection refused")
    sockets, stats = sockets_of(Scripted(ConnectionRefusedError(), ConnectionRefusedError()))
    assert sockets.receive(0.0, 1) == [(0, None)]
    assert sockets.receive(0.0, 1) == [(0, None)]
    assert stats.refused == 2


def test_another_complaint_is_kept_and_what_is_behind_it_is_read() -> None:
    sockets, stats = sockets_of(Scripted(OSError(errno.EHOSTUNREACH, "No route to host"), b"1"))
    assert sockets.receive(0.0, 9) == [(0, b"1")]
    assert (stats.refused, sockets.trouble([0], 0)) == (0, "No route to host")


def test_a_complaint_is_told_of_its_server_and_to_who_was_there_before_it() -> None:
    no_route, refused = OSError(errno.EHOSTUNREACH, "No route to host"), ConnectionRefusedError()
    sockets, _ = sockets_of(Scripted(no_route), Scripted(refused))
    sockets.receive(0.0, 9)
    assert sockets.complaints == 2
    assert (sockets.trouble([0], 0), sockets.trouble([1], 1)) == ("No route to host", "connection refused")
    assert sockets.trouble([0, 1], 0) == "connection refused", "the last one"
    for servers, since in (([0], 1), ([1], 2), ([2], 0), ([], 0)):
        assert sockets.trouble(servers, since) == ""


def test_what_is_told_of_an_earlier_datagram_does_not_keep_this_one_back() -> None:
    scripted = Scripted(ConnectionRefusedError(), 1)
    sockets, stats = sockets_of(scripted)
    sockets.send(0, SERVER, b"1")
    assert scripted.sent == [b"1"]
    assert (stats.lost, sockets.trouble([0], 0)) == (0, "")


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EACCES, errno.EPERM])
def test_where_there_is_no_way_to_is_told_with_what_comes_next(number: int) -> None:
    sockets, stats = sockets_of(Scripted(*[OSError(number, "no way")] * 2), Scripted(1, b"1"))
    for _ in range(2):
        sockets.send(0, SERVER, b"datagram")
    sockets.send(1, SERVER, b"datagram")
    assert (stats.lost, sockets.trouble([0], 0)) == (2, "no way")
    assert sockets.receive(0.5, 9) == [(0, None), (1, b"1")]
    assert sockets._selector.waited_s == 0, "it is known at once"  # type: ignore[attr-defined]
    assert sockets.receive(0.5, 9) == []


@pytest.mark.parametrize("before", [[], [ConnectionRefusedError()]])
def test_what_the_socket_does_not_take_is_lost(before: list[OSError]) -> None:
    sockets, stats = sockets_of(Scripted(*before, OSError(errno.ENETUNREACH, "Network is unreachable"), 1))
    sockets.send(0, SERVER, b"1")
    assert (stats.lost, sockets.trouble([0], 0)) == (1, "Network is unreachable")
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


def sent_by(peer: Peer, sockets: Sockets, datagram: bytes) -> Address:
    """Have a datagram sent to the peer, which answers nothing: where it came from."""
    sockets.send(0, resolve(peer.name), datagram)
    poll(lambda: [sender for received, sender in peer.received if received == datagram])
    return next(sender for received, sender in peer.received if received == datagram)


def received_by(sockets: Sockets) -> list[tuple[int, bytes | None]]:
    found: list[tuple[int, bytes | None]] = []
    poll(lambda: found.extend(sockets.receive(0.01, 9)) or found)
    return found


def test_a_new_socket_has_a_new_port_and_the_former_one_is_listened_to() -> None:
    with Peer([drop] * 9) as peer:
        sockets = Sockets(Stats())
        sockets.renew(0)  # nothing was sent yet
        senders = [sent_by(peer, sockets, b"1"), sent_by(peer, sockets, b"2")]
        assert senders[0] == senders[1]
        sockets.renew(0)
        senders.append(sent_by(peer, sockets, b"3"))
        assert senders[2] != senders[1]
        peer.send(b"late", senders[1])
        assert received_by(sockets) == [(0, b"late")]
        peer.send(b"in time", senders[2])
        assert received_by(sockets) == [(0, b"in time")]
        sockets.renew(0)
        senders.append(sent_by(peer, sockets, b"4"))
        assert len(set(senders)) == 3
        peer.send(b"too late", senders[0])
        peer.send(b"late", senders[2])
        assert received_by(sockets) == [(0, b"late")], "there is one former socket at most"
        assert len(sockets._selector.get_map()) == 2
        opened = [*sockets._sockets.values(), *sockets._former.values()]
        sockets.close()
        assert [one.fileno() for one in opened] == [-1, -1]


def test_a_refusal_of_what_a_former_socket_sent_is_no_news() -> None:
    stats = Stats()
    sockets = Sockets(stats)
    nobody = resolve(f"127.0.0.1:{free_port()}")
    sockets.send(0, nobody, b"1")
    sockets.renew(0)
    poll(lambda: sockets.receive(0.01, 9) or stats.refused)
    assert stats.refused == 1
    sockets.send(0, nobody, b"2")
    assert received_by(sockets) == [(0, None)]
    sockets.close()


def test_of_a_server_that_is_somewhere_else_nothing_is_listened_to() -> None:
    with Peer([drop] * 9) as peer, Peer([drop]) as other:
        sockets = Sockets(Stats())
        senders = [sent_by(peer, sockets, b"1")]
        sockets.renew(0)
        senders.append(sent_by(peer, sockets, b"2"))
        sockets.forget(0)
        sockets.forget(1)  # never spoken to
        for sender in senders:
            peer.send(b"late", sender)
        other.send(b"answer", sent_by(other, sockets, b"3"))
        assert received_by(sockets) == [(0, b"answer")]
        assert len(sockets._selector.get_map()) == 1
        sockets.close()


def test_what_a_parent_has_opened_is_not_used() -> None:
    with Peer([drop]) as peer:
        sockets = Sockets(Stats())
        sent_by(peer, sockets, b"1")
        assert not sockets.is_inherited
        module._forked()  # as in a child: test_fork.py has real ones
        assert sockets.is_inherited
        with pytest.raises(RuntimeError, match="forked in the middle"):
            sockets.send(0, resolve(peer.name), b"2")
        with pytest.raises(RuntimeError, match="forked in the middle"):
            sockets.receive(0.0, 1)
        sockets.close()
        assert len(peer.received) == 1


def test_a_server_that_no_socket_can_be_made_for_costs_the_datagram() -> None:
    sockets = Sockets(stats := Stats())
    sockets.send(0, resolve("255.255.255.255:9"), b"1")  # broadcast: not without being asked for
    assert (stats.lost, sockets.trouble([0], 0)) == (1, "Permission denied")
    assert sockets._sockets == {}
    sockets.close()


def test_what_was_given_up_before_is_not_refused_again() -> None:
    former = Scripted(ConnectionRefusedError(), b"late")
    sockets, stats = sockets_of(former)
    sockets._sockets[0] = Scripted()  # type: ignore[assignment]
    assert sockets.receive(0.0, 9) == [(0, b"late")]
    assert (stats.refused, sockets.trouble([0], 0)) == (1, "connection refused")


@pytest.mark.parametrize(("fault", "is_cut_off"), [(errno.ENETUNREACH, True), (errno.ENOBUFS, False)])
def test_only_without_a_way_a_server_counts_as_refused(fault: int, is_cut_off: bool) -> None:
    sockets, stats = sockets_of(Scripted(OSError(fault, "made up")))
    assert not sockets.is_cut_off
    sockets.send(0, SERVER, b"x")
    assert (sockets.is_cut_off, stats.lost, sockets.trouble([0], 0)) == (is_cut_off, 1, "made up")
    assert sockets.receive(0.0, 9) == ([(0, None)] if is_cut_off else [])
    assert not sockets.is_cut_off


def test_closing_gives_everything_back() -> None:
    sockets = Sockets(Stats())
    sockets.send(0, SERVER, b"x")
    sockets.renew(0)
    sockets.send(0, SERVER, b"x")
    held = [*sockets._sockets.values(), *sockets._former.values()]
    selector = sockets._selector
    sockets.close()
    assert len(held) == 2
    assert [one.fileno() for one in held] == [-1, -1]
    assert (sockets._sockets, sockets._former) == ({}, {})
    assert selector.get_map() is None
    sockets.close()
