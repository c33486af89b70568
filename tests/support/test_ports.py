"""A port that is held is its holder's: a node can bind it, again and again, and whoever looks for a free one can't."""

import socket

import pytest

from tests.support import ports
from tests.support.ports import HOST, adjacent_ports, free_port, occupied


def listening_as_a_node_does(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen()
    return sock


@pytest.mark.parametrize("host", ["", HOST, "::"])
def test_a_node_can_take_a_held_port_more_than_once(host: str) -> None:
    port = free_port()
    for _ in range(2):
        with listening_as_a_node_does(host, port) as listener, socket.create_connection((HOST, port)):
            listener.accept()[0].close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind((HOST, port))


def test_nobody_else_finds_it_free_and_nobody_answers_there() -> None:
    port = free_port()
    assert not ports._hold(range(port, port + 1))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port))
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((HOST, port))


def test_ports_that_follow_each_other_are_all_held_or_none() -> None:
    first, second, third = adjacent_ports(3)
    assert (second, third) == (first + 1, first + 2)
    ports._held.pop().close()  # the third is free again
    assert not ports._hold(range(second, third + 1))
    assert ports._hold(range(third, third + 1)), "the failed attempt left it free"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["UDP", "TCP"])
def test_a_test_can_take_its_own_port_from_a_node(kind: socket.SocketKind) -> None:
    port = free_port()
    with occupied(port, kind), socket.socket(socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        with pytest.raises(OSError, match="in use"):
            sock.bind((HOST, port))


def test_so_many_are_held_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_HELD_MAX", len(ports._held) + 2)
    adjacent_ports(2)
    before = len(ports._held)
    oldest = ports._held[0]
    free_port()
    assert len(ports._held) == before
    assert oldest.fileno() == -1
