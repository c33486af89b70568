"""What a peer may send over its link to a node, with all of the node behind it, by hand."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.cluster.membership.timing import SAFE_SHARE
from app.cluster.replication.frames import KINDS
from app.config.allowlist import parse_networks
from app.config.options import Options
from app.config.servers import Server, is_address
from app.loop import READ
from app.node import Node
from app.peers.frames import FORWARD, LIFE, pack_header, pack_life
from app.peers.handshake import NONCE_BYTES, PROOF_BYTES, Handshake
from app.peers.lookups import LOOKUP_S
from app.peers.membership import SharedRegister
from app.wire.protocol import IS_ALIVE
from tests.support.datagrams import FakeDatagrams, sockaddr
from tests.support.loop import ManualLoop
from tests.support.parts import forwarded
from tests.support.resolver import Resolver
from tests.support.streams import FakeStream, FakeStreams
from tests.wire.datagrams import request

ME, PEER = Server("127.0.0.1", 1001, "127.0.0.1"), Server("127.0.0.2", 1002, "127.0.0.2")


class Sockets(FakeStreams):
    """A node's."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams = FakeDatagrams()
        self.resolver = Resolver()

    def look_up(self, host: str) -> list[str]:
        return [host] if is_address(host) else self.resolver.look_up(host)

    def connected(self, target: object) -> None:
        """The system refuses."""


class Rig:
    """A node of two, and its peer, which is the test."""

    def __init__(self, peer: Server = PEER, register: SharedRegister | None = None, **options: Any) -> None:
        self.loop = ManualLoop()
        self.sockets = Sockets()
        self.peer = peer
        self.node = Node(
            Options(
                **{"servers": (ME, peer), **options}, port=1001, me=ME, bind="127.0.0.1", max_memory_bytes=128 << 20
            ),
            self.loop,
            self.sockets,
            incarnation=100,
            random_bytes=lambda size: b"\x07" * size,
            resident_bytes=lambda: 60 << 20,
            on_stopped=lambda: None,
            register=register,
        )
        self.node.start()
        self.loop.turn()
        self.shake = Handshake(None)

    def give(self, sock: FakeStream, data: bytes) -> None:
        sock.inbox += data
        self.loop.ready(sock.number, READ)
        self.loop.turn()

    def dialled(self) -> FakeStream:
        """The link that the node has dialled, up."""
        sock = self.sockets.made[-1]
        self.give(sock, self.shake.greeting(200, self.loop.now_s, bytes(NONCE_BYTES)))
        self.give(sock, bytes(PROOF_BYTES))
        return sock

    def accepted(self, host: str = "127.0.0.2") -> FakeStream:
        """A link that the peer has dialled."""
        sock = FakeStream()
        self.sockets.arriving.append((sock, host))
        self.loop.ready(self.sockets.number, READ)
        self.loop.turn()
        if sock.closed:
            return sock
        hello = self.shake.hello(200, self.loop.now_s, bytes(NONCE_BYTES), str(self.peer), str(ME))
        self.give(sock, hello + bytes(PROOF_BYTES))
        return sock

    @property
    def is_up(self) -> bool:
        return self.node.links.is_up(str(self.peer))


def frame(kind: int, body: bytes) -> bytes:
    return pack_header(len(body), kind) + body


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.node.stop()


@pytest.mark.parametrize("how", ["dialled", "accepted"])
def test_over_one_link_requests_come_and_answers_go(rig: Rig, how: str) -> None:
    sock = rig.dialled() if how == "dialled" else rig.accepted()
    assert rig.is_up
    assert rig.node.replication._shared.links == {str(PEER)}
    sock.sent.clear()
    rig.give(sock, frame(FORWARD, forwarded(request(b"m" * 16, command=IS_ALIVE), rig.loop.now_s + 0.5)))
    assert b"m" * 16 in sock.sent
    sock.ended = True
    rig.give(sock, b"")
    assert rig.node.replication._shared.links == set()


def test_what_a_peers_clock_shows_is_noted(rig: Rig) -> None:
    sock = rig.dialled()
    rig.give(sock, frame(LIFE, pack_life(5000.0)))
    link = rig.node.links.up[str(PEER)]
    assert link.clock_base_s + SAFE_SHARE * rig.loop.now_s == pytest.approx(5000.0)


@pytest.mark.parametrize("body", [b"", b"1" * 7, b"1" * 9])
@pytest.mark.parametrize("behind", [b"", frame(LIFE, pack_life(1.0)), frame(KINDS[0], b"anything")])
def test_a_malformed_life_ends_that_link_and_the_node_goes_on(rig: Rig, body: bytes, behind: bytes) -> None:
    """Whatever came with it: nothing of it is taken any more."""
    sock = rig.dialled()
    rig.give(sock, frame(LIFE, body) + behind)
    assert sock.closed
    assert not rig.is_up
    assert rig.node.replication.faults == {}
    sock = rig.accepted()
    assert rig.is_up
    rig.give(sock, frame(FORWARD, forwarded(request(b"m" * 16, command=IS_ALIVE), rig.loop.now_s + 0.5)))
    assert b"m" * 16 in sock.sent, "it is answered"


def test_what_an_expelled_peer_had_sent_is_not_taken(rig: Rig) -> None:
    """Its link is closed with whatever is in it."""
    sock = rig.dialled()
    sock.inbox += frame(FORWARD, forwarded(request(b"m" * 16, command=IS_ALIVE), rig.loop.now_s + 0.5))
    rig.node.links.close(str(PEER))
    sock.sent.clear()
    rig.give(sock, b"")
    assert sock.closed
    assert sock.sent == b""


def says(rig: Rig, host: str) -> tuple[bool, bool]:
    """Whether what comes from the address is taken as the peer's word about membership, and answered as a client's."""
    address = sockaddr(host, 1002)
    before = rig.node.membership.received
    rig.sockets.datagrams.sent.clear()
    rig.node.membership.handle_datagram(b"\x08\x02", address)
    rig.sockets.datagrams.arrive(address, request(host.encode(), command=IS_ALIVE))
    rig.node.front.read()
    rig.loop.turn()
    return rig.node.membership.received > before, bool(rig.sockets.datagrams.sent_to(address))


@pytest.mark.parametrize("was_known", [True, False])
def test_a_server_that_comes_back_with_another_address_is_the_same_server(was_known: bool) -> None:
    """Without a secret, and with --allow: whatever goes by addresses goes by the one that its name has now.

    Or its name had none when the node started.
    """
    rig = Rig(Server("kv2", 1002, "127.0.0.2" if was_known else ""), allow=parse_networks("192.0.2.0/24"))
    try:
        assert says(rig, "127.0.0.2") == (was_known, was_known)
        assert says(rig, "127.0.0.9") == (False, False)
        assert rig.accepted("127.0.0.9").closed
        rig.sockets.resolver.addresses["kv2"] = ["127.0.0.9"]
        rig.loop.advance(2 * LOOKUP_S)
        assert not rig.accepted("127.0.0.9").closed
        assert rig.is_up
        assert (says(rig, "127.0.0.9"), says(rig, "127.0.0.2")) == ((True, True), (False, False))
        rig.sockets.datagrams.sent.clear()
        rig.loop.advance(1.0)
        told = {address for address, _ in rig.sockets.datagrams.sent}
        assert told == {sockaddr("127.0.0.9", 1002)}, "what is said of membership goes there"
    finally:
        rig.node.stop()
