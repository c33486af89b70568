"""What a peer may send over its link to a node, with all of the node behind it, by hand."""

from collections.abc import Iterator

import pytest

from app.config.options import Options
from app.config.servers import Server
from app.loop import READ
from app.node import Node
from app.peers.frames import FORWARD, PAIR, pack_header
from app.peers.handshake import NONCE_BYTES, PROOF_BYTES, Handshake
from app.wire.protocol import IS_ALIVE
from tests.support.datagrams import FakeDatagrams
from tests.support.loop import ManualLoop
from tests.support.streams import FakeStream, FakeStreams
from tests.wire.datagrams import request

ME, PEER = Server("127.0.0.1", 1001, "127.0.0.1"), Server("127.0.0.2", 1002, "127.0.0.2")


class Sockets(FakeStreams):
    """A node's."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams = FakeDatagrams()

    def connected(self, target: object) -> None:
        """The system refuses."""


class Rig:
    """A node of two, and its peer, which is the test."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.sockets = Sockets()
        self.node = Node(
            Options(port=1001, servers=(ME, PEER), me=ME, bind="127.0.0.1", max_memory_bytes=128 << 20),
            self.loop,
            self.sockets,
            incarnation=100,
            random_bytes=lambda size: b"\x07" * size,
            resident_bytes=lambda: 60 << 20,
            on_stopped=lambda: None,
        )
        self.node.start()
        self.loop.turn()
        self.shake = Handshake(None)

    def give(self, sock: FakeStream, data: bytes) -> None:
        sock.inbox += data
        self.loop.ready(sock.number, READ)
        self.loop.turn()

    def link(self) -> FakeStream:
        """The peer has dialled, and the node the peer: the latter's number is told, and is not 0."""
        accepted = FakeStream()
        self.sockets.arriving.append((accepted, "127.0.0.2"))
        self.give(accepted, b"")
        self.loop.ready(self.sockets.number, READ)
        self.loop.turn()
        self.give(accepted, self.shake.hello(200, bytes(NONCE_BYTES), str(PEER), str(ME)) + bytes(PROOF_BYTES))
        return accepted

    def dialled(self) -> FakeStream:
        """The link that the node has dialled, up."""
        sock = self.sockets.made[-1]
        self.give(sock, self.shake.greeting(200, bytes(NONCE_BYTES)))
        self.give(sock, bytes(PROOF_BYTES))
        return sock

    @property
    def is_up(self) -> bool:
        return self.node.pairs.is_up(str(PEER))


def pair(theirs: int, ours: int) -> bytes:
    body = theirs.to_bytes(8, "little") + ours.to_bytes(8, "little")
    return pack_header(len(body), PAIR) + body


OURS = int.from_bytes(b"\x07" * 8, "little")


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.node.stop()


def test_a_pair_comes_up(rig: Rig) -> None:
    accepted, dialled = rig.link(), rig.dialled()
    assert bytes(dialled.sent).endswith(pair(OURS, 0))
    rig.give(accepted, pair(9, OURS))
    assert rig.is_up
    assert bytes(dialled.sent).endswith(pair(OURS, 9))


@pytest.mark.parametrize("body", [b"", b"1" * 15, b"1" * 17])
@pytest.mark.parametrize("behind", [b"", pair(9, OURS), pair(9, 0)])
@pytest.mark.parametrize("was_up", [False, True])
def test_a_malformed_pair_ends_that_link_and_the_node_goes_on(
    rig: Rig, body: bytes, behind: bytes, was_up: bool
) -> None:
    """Whatever came with it: the link does not count as up after it."""
    accepted, dialled = rig.link(), rig.dialled()
    if was_up:
        rig.give(accepted, pair(9, OURS))
    assert rig.is_up is was_up
    rig.give(accepted, pack_header(len(body), PAIR) + body + behind)
    assert accepted.closed
    assert dialled.closed
    assert not rig.is_up
    assert rig.node.links.snapshot()["links_up"] == 0
    again, dialled = rig.link(), rig.dialled()
    assert not rig.is_up
    rig.give(again, pair(11, OURS))
    assert rig.is_up
    body = b"\x01\x84\x03" + request(b"m" * 16, command=IS_ALIVE)
    dialled.sent.clear()
    rig.give(again, pack_header(len(body), FORWARD) + body)
    assert b"m" * 16 in dialled.sent, "it is answered"
