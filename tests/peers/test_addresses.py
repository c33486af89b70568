"""Peers by name and by address, as each family of sockets has them."""

import select
import socket

import pytest

from app.config.servers import Server
from app.front.batch import DatagramBatch
from app.peers.addresses import Peers
from app.sockets import DatagramSocket

ME = Server("127.0.0.1", 3331, "127.0.0.1")
OTHER = Server("kv2.example", 3332, "127.0.0.1")
SIX = Server("::1", 3333, "::1")


def test_names_are_those_of_the_file_without_our_own() -> None:
    peers = Peers(ME, (ME, OTHER, SIX), socket.AF_INET6)
    assert peers.me == "127.0.0.1:3331"
    assert peers.names == ("kv2.example:3332", "[::1]:3333")
    assert peers.unreachable == ("[::1]:3333",), "it would take us for a stranger"
    assert peers.target("kv2.example:3332") == ("::ffff:127.0.0.1", 3332, 0, 0)
    assert peers.target("[::1]:3333") == ("::1", 3333, 0, 0)
    assert peers.target("127.0.0.1:3331") is None
    assert peers.target("stranger:1") is None


def test_an_ipv4_socket_does_not_reach_ipv6() -> None:
    peers = Peers(ME, (ME, OTHER, SIX), socket.AF_INET)
    assert peers.target("kv2.example:3332") == ("127.0.0.1", 3332)
    assert peers.target("[::1]:3333") is None
    assert peers.unreachable == ("[::1]:3333",)


def test_servers_of_one_version_of_ip_make_a_cluster() -> None:
    assert Peers(ME, (ME, OTHER), socket.AF_INET6).unreachable == ()
    other = Server("::2", 3333, "::2")
    assert Peers(SIX, (SIX, other), socket.AF_INET6).unreachable == ()
    assert Peers(SIX, (ME, SIX, other), socket.AF_INET6).unreachable == ("127.0.0.1:3331",)


@pytest.mark.parametrize(
    ("family", "bound", "sender_family", "sender_host"),
    [
        (socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::", socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::", socket.AF_INET6, "::1"),
    ],
)
def test_a_datagram_is_known_by_the_very_address_it_came_from(
    family: socket.AddressFamily, bound: str, sender_family: socket.AddressFamily, sender_host: str
) -> None:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as receiver,
        socket.socket(sender_family, socket.SOCK_DGRAM) as sender,
        socket.socket(sender_family, socket.SOCK_DGRAM) as stranger,
    ):
        receiver.bind((bound, 0))
        sender.bind((sender_host, 0))
        peer = Server(sender_host, sender.getsockname()[1], sender_host)
        peers = Peers(ME, (ME, peer), family)
        receiver.setblocking(False)
        batch = DatagramBatch(DatagramSocket(receiver), 4)
        names = []
        for source in (sender, stranger):
            source.sendto(b"x", (sender_host, receiver.getsockname()[1]))
            assert select.select([receiver], [], [], 10.0)[0]
            assert batch.receive() == 1
            names.append(peers.by_datagram_address.get(batch.sender(0)))
        assert names == [str(peer), None]


@pytest.mark.parametrize(
    ("host", "is_server"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::1", True), ("127.0.0.2", False), ("::2", False)],
)
def test_the_servers_hosts(host: str, is_server: bool) -> None:
    assert Peers(ME, (ME, OTHER, SIX), socket.AF_INET6).is_server_host(host) == is_server


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_is_at_an_address(family: socket.AddressFamily) -> None:
    peers = Peers(ME, (ME, OTHER, SIX), family)
    assert peers.is_at(str(OTHER), OTHER.address)
    assert peers.is_at(str(OTHER), f"::ffff:{OTHER.address}")
    assert not peers.is_at(str(OTHER), "127.0.0.77")
    assert peers.is_at(str(SIX), SIX.address) == (family == socket.AF_INET6)
    assert not peers.is_at("stranger:1", OTHER.address)


def test_an_address_with_a_scope() -> None:
    scoped = Server("fe80::1%lo", 3334, "fe80::1%lo")
    peers = Peers(ME, (ME, scoped), socket.AF_INET6)
    target = peers.target(str(scoped))
    assert target is not None
    assert target[3] == socket.if_nametoindex("lo")
    assert peers.is_server_host("fe80::1%lo")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_peer_that_moves_is_known_by_its_new_address_alone(family: socket.AddressFamily) -> None:
    peers = Peers(ME, (ME, OTHER, SIX), family)
    before = {packed for packed, peer in peers.by_datagram_address.items() if peer == str(OTHER)}
    peers.move(str(OTHER), "127.0.0.9")
    now = {packed for packed, peer in peers.by_datagram_address.items() if peer == str(OTHER)}
    assert len(before) == len(now) == 1
    assert not before & now
    assert peers.target(str(OTHER)) == (
        ("127.0.0.9", 3332) if family == socket.AF_INET else ("::ffff:127.0.0.9", 3332, 0, 0)
    )
    assert [peers.is_at(str(OTHER), host) for host in ("127.0.0.9", "127.0.0.1")] == [True, False]
    assert [peers.is_server_host(host) for host in ("127.0.0.9", "127.0.0.1")] == [True, False]
    assert peers.address(str(OTHER)) == "127.0.0.9"


def test_a_peer_may_move_out_of_an_ipv4_sockets_reach_and_back() -> None:
    peers = Peers(ME, (ME, OTHER), socket.AF_INET)
    peers.move(str(OTHER), "fd00::1")
    assert peers.by_datagram_address == {}
    assert (peers.target(str(OTHER)), peers.unreachable) == (None, (str(OTHER),))
    assert not peers.is_server_host("127.0.0.1")
    peers.move(str(OTHER), "127.0.0.1")
    assert (peers.target(str(OTHER)), peers.unreachable) == (("127.0.0.1", 3332), ())


def test_a_server_without_an_address_is_out_of_reach_until_it_has_one() -> None:
    absent = Server("kv9", 3331, "")
    peers = Peers(ME, (ME, absent), socket.AF_INET)
    assert peers.names == ("kv9:3331",)
    assert (peers.target("kv9:3331"), peers.address("kv9:3331"), peers.unreachable) == (None, "", ())
    assert (peers.by_datagram_address, peers.addresses()) == ({}, [])
    peers.move("kv9:3331", "10.0.0.9")
    assert peers.target("kv9:3331") == ("10.0.0.9", 3331)


def test_an_address_that_is_used_again_is_that_of_who_was_found_there_last() -> None:
    a, b = Server("a", 1, "10.0.0.1"), Server("b", 1, "10.0.0.2")
    peers = Peers(ME, (ME, a, b), socket.AF_INET)
    (packed,) = (packed for packed, peer in peers.by_datagram_address.items() if peer == "a:1")
    peers.move("b:1", "10.0.0.1")
    assert peers.by_datagram_address == {packed: "b:1"}
    assert peers.is_at("a:1", "10.0.0.1"), "as far as is known"
    peers.move("b:1", "10.0.0.3")
    assert peers.by_datagram_address[packed] == "a:1"


def test_what_is_to_be_looked_up() -> None:
    peers = Peers(ME, (ME, OTHER, SIX), socket.AF_INET6)
    names = {name: peers.host_name(name) for name in (*peers.names, str(ME), "stranger:1")}
    assert names == {str(OTHER): "kv2.example", str(SIX): "", str(ME): "", "stranger:1": ""}


def test_an_address_of_an_interface_that_is_not_there_is_out_of_reach() -> None:
    """A command, or another node's view, may name any."""
    gone = Server("fe80::7%nosuch", 3331, "fe80::7%nosuch")
    peers = Peers(SIX, (SIX, gone), socket.AF_INET6)
    assert peers.target(str(gone)) is None
    assert not peers.is_server_host("fe80::7")
    peers.move(str(gone), "fe80::7")
    assert peers.target(str(gone)) == ("fe80::7", 3331, 0, 0)
    peers.move(str(gone), "fe80::7%nosuch")
    assert peers.target(str(gone)) is None
    assert not peers.is_server_host("fe80::7")


def test_who_is_a_server_no_more_is_known_by_no_address() -> None:
    third = Server("127.0.0.7", 3337, "127.0.0.7")
    peers = Peers(ME, (ME, OTHER, third), socket.AF_INET)
    assert peers.servers == (str(ME), str(OTHER), str(third))
    (kept,) = (packed for packed, peer in peers.by_datagram_address.items() if peer == str(OTHER))
    peers.change((OTHER, ME))
    assert (peers.servers, peers.names) == ((str(OTHER), str(ME)), (str(OTHER),))
    assert peers.by_datagram_address == {kept: str(OTHER)}
    assert (peers.target(str(third)), peers.address(str(third))) == (None, "")
    assert not peers.is_server_host("127.0.0.7")
    assert not peers.is_at(str(third), "127.0.0.7")
