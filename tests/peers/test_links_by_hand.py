"""Links step by step: the test is the kernel, the peer and the clock."""

import errno
import logging
import socket
from collections.abc import Callable
from math import inf, nan

import pytest

from app.cluster.events import Event, LinkClosed, LinkFailed, LinkRefused, LinkUp
from app.cluster.limits import CLOCK_MAX_S
from app.cluster.membership.timing import CLOCK_DRIFT, SAFE_SHARE
from app.config.servers import Server
from app.loop import READ, WRITE
from app.observe.logs import limited_logger
from app.peers import links
from app.peers.addresses import Peers
from app.peers.frames import (
    FRAME_MAX_BYTES,
    HEADER_BYTES,
    LIFE,
    Frame,
    pack_header,
    pack_life,
    unpack_life,
)
from app.peers.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Handshake
from app.peers.links import (
    DIAL_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    LIFE_S,
    PENDING_MAX,
    READ_BYTES,
    SILENT_BEATS,
    Links,
)
from app.peers.lookups import LOOKUP_S, Lookups
from app.version import NODE_PROTOCOL
from tests.support.loop import ManualLoop
from tests.support.resolver import Resolver, no_lookups
from tests.support.streams import FakeStream, FakeStreams

ME, PEER, THIRD, FOURTH = "127.0.0.1:1001", "127.0.0.2:1002", "127.0.0.3:1003", "127.0.0.4:1004"
SERVERS = tuple(Server(host, int(port), host) for host, port in (name.split(":") for name in (ME, PEER, THIRD, FOURTH)))
NONCE = b"n" * NONCE_BYTES
KIND, OTHER = 201, 202  # of frames of any length
SOON_S = 0.001


class Rig:
    """A node's links; what they tell is kept in one list, in order. The node is ME, the first by name: it dials."""

    def __init__(
        self,
        *,
        secret: bytes | None = None,
        queue_max_bytes: int | None = None,
        others: int = 2,
        trust_refusals: bool = False,
        servers: tuple[Server, ...] = SERVERS,
        memory_bytes: int = 128 << 20,
    ) -> None:
        """`servers`: the first is this node."""
        self.spent: list[int] = []
        self.loop = ManualLoop()
        self.streams = FakeStreams()
        self.told: list[object] = []
        self.wakes = 0
        self.on_event: Callable[[Event], object] = lambda event: None
        self.shake = Handshake(secret)
        self.resolver = Resolver()
        self.peers = Peers(servers[0], servers[: 1 + others], socket.AF_INET)
        self.links = Links(
            self.loop,
            self.streams,
            self.peers,
            secret,
            lookups=Lookups(self.loop, self.resolver.look_up, self.peers, lambda peer: self.links.moved(peer)),
            trust_refusals=trust_refusals,
            random_bytes=lambda count: b"r" * count,
            wake=self._wake,
            queue_max_bytes=queue_max_bytes,
            memory_bytes=memory_bytes,
            spend=self.spent.append,
        )
        self.me = str(servers[0])
        self.links.start(self, lambda: 7)

    def _wake(self) -> None:
        self.wakes += 1

    def link_event(self, event: Event) -> None:
        self.told.append(event)
        self.on_event(event)

    def link_up(self, peer: str) -> None:
        self.told.append(("up", peer))

    def link_down(self, peer: str) -> None:
        self.told.append(("down", peer))

    def frames(self, peer: str, frames: list[Frame]) -> None:
        self.told.append((peer, frames))

    def tells(self) -> list[object]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told

    # --- playing the peer

    def readable(self, sock: FakeStream, data: bytes = b"") -> None:
        sock.inbox += data
        self.loop.ready(sock.number, READ)
        self.loop.turn()

    def is_watched(self, sock: FakeStream, events: int) -> bool:
        """Whether the loop is to tell when the socket can be read, or written."""
        watchers = [one for one in self.loop.watchers if (one.descriptor, one.events) == (sock.number, events)]
        return any(one._call is not None for one in watchers)

    def writable(self, sock: FakeStream) -> None:
        self.loop.ready(sock.number, WRITE)
        self.loop.turn()

    def dial(self, peer: str = PEER, incarnation: int = 42) -> FakeStream:
        """Begin to dial: the socket."""
        self.links.open(peer, incarnation)
        self.loop.turn()
        return self.streams.made[-1]

    def welcome(self, sock: FakeStream) -> None:
        """The acceptor's part of the handshake."""
        hello = bytes(sock.sent)
        challenge = self.shake.greeting(9, self.loop.now_s, NONCE)
        self.readable(sock, challenge)
        self.readable(sock, self.shake.proof("acceptor", hello, challenge))

    def up(self, peer: str = PEER) -> FakeStream:
        """A link that is dialled and there."""
        sock = self.dial(peer)
        self.welcome(sock)
        assert self.tells()[-2:] == [LinkUp(peer), ("up", peer)]
        self.forget(sock)
        return sock

    def forget(self, sock: FakeStream) -> None:
        """What was sent so far, the first LIFE included."""
        self.links.flush()
        sock.sent.clear()
        sock.writes.clear()
        self.wakes = 0
        self.links.bytes_sent = 0

    def accept(self, *socks: FakeStream, host: str = "127.0.0.2") -> None:
        self.streams.arriving += ((sock, host) for sock in socks)
        self.loop.ready(self.streams.number, READ)
        self.loop.turn()

    def accepted(self, peer: str = PEER, host: str = "") -> FakeStream:
        """A link that the peer has dialled; `host`: from where, if not from the address in its name."""
        sock = FakeStream()
        self.accept(sock, host=host or peer.rpartition(":")[0])
        hello = self.shake.hello(9, self.loop.now_s, NONCE, peer, self.me)
        self.readable(sock, hello)
        self.readable(sock, self.shake.proof("dialler", hello, bytes(sock.sent)))
        assert self.tells()[-2:] == [LinkUp(peer), ("up", peer)]
        self.forget(sock)
        return sock


def life(stamp_s: float) -> bytes:
    return frame(LIFE, pack_life(stamp_s))


def frame(kind: int, body: bytes) -> bytes:
    return pack_header(len(body), kind) + body


# --- dialling --------------------------------------------------------------------------------------------------------


def test_a_dial_is_a_connection_a_handshake_and_then_a_link() -> None:
    rig = Rig(secret=b"secret")
    sock = rig.dial()
    assert sock.connects == [("127.0.0.2", 1002)]
    hello = rig.shake.hello(7, rig.loop.now_s, b"r" * NONCE_BYTES, ME, PEER)
    assert sock.sent == hello
    challenge = rig.shake.greeting(9, 0.0, NONCE)
    rig.readable(sock, challenge[:10])  # it may come in pieces
    assert sock.sent == hello
    rig.readable(sock, challenge[10:])
    assert sock.sent == hello + rig.shake.proof("dialler", hello, challenge)
    assert (rig.tells(), rig.links.is_up(PEER)) == ([], False)
    rig.readable(sock, rig.shake.proof("acceptor", hello, challenge))
    assert rig.tells() == [LinkUp(PEER), ("up", PEER)]
    assert rig.links.is_up(PEER)
    assert not rig.links.is_up(THIRD)
    assert rig.links.snapshot()["links_up"] == 1


def test_a_connection_that_is_pending_is_waited_for() -> None:
    rig = Rig()
    sock = rig.streams.pending()
    rig.dial()
    assert sock.sent == b""
    rig.loop.advance(DIAL_TIMEOUT_S - SOON_S)
    assert (sock.sent, rig.tells()) == (b"", [])
    rig.writable(sock)
    assert sock.sent[:4] == b"KVLK"
    rig.welcome(sock)
    assert rig.tells() == [LinkUp(PEER), ("up", PEER)]


@pytest.mark.parametrize(
    ("code", "event"),
    [(errno.ECONNREFUSED, LinkRefused(PEER, 42, False)), (errno.EHOSTUNREACH, LinkFailed(PEER)),
     (errno.ETIMEDOUT, LinkFailed(PEER))],
)  # fmt: skip
@pytest.mark.parametrize("is_pending", [False, True])
def test_a_connection_that_comes_to_nothing(code: int, event: Event, is_pending: bool) -> None:
    """A refused one, and no other, tells that nobody is there: in the incarnation that was heard of when it began."""
    rig = Rig()
    sock = rig.streams.pending()
    if is_pending:
        sock.code = code
        rig.dial()
        rig.writable(sock)
    else:
        sock.connect_code = code
        rig.dial()
    assert rig.tells() == [event]
    assert sock.closed
    assert sock.sent == b""
    assert len(rig.streams.made) == 1
    assert not rig.links.is_up(PEER)


def test_connecting_and_shaking_hands_take_so_long_at_most_together() -> None:
    rig = Rig()
    sock = rig.streams.pending()
    rig.dial()
    rig.loop.advance(DIAL_TIMEOUT_S - 0.5)
    rig.writable(sock)
    rig.loop.advance(0.5 - SOON_S)
    assert (rig.tells(), sock.closed) == ([], False)
    rig.loop.advance(SOON_S)
    assert (rig.tells(), sock.closed) == ([LinkFailed(PEER)], True)
    assert len(rig.streams.made) == 1, "the time for another try is over"
    rig.readable(sock, rig.shake.greeting(9, 0.0, NONCE))
    assert rig.tells() == []


def test_a_connection_that_stays_pending() -> None:
    rig = Rig()
    sock = rig.streams.pending()
    rig.dial()
    rig.loop.advance(DIAL_TIMEOUT_S)
    assert (rig.tells(), sock.closed) == ([LinkFailed(PEER)], True)
    assert not rig.links.refused


@pytest.mark.parametrize("how", ["ended", "reset", "to itself", "full"])
def test_a_link_that_breaks_off_in_the_handshake_is_tried_once_more_at_once(how: str) -> None:
    """A dying process may have its link closed before its listener: the second try is refused."""
    rig = Rig()
    first, second = FakeStream(), FakeStream()
    rig.streams.next += (first, second)
    second.connect_code = errno.ECONNREFUSED
    if how == "to itself":
        first.is_connected_to_itself = True
    elif how == "full":
        first.room = 3
    rig.links.open(PEER, 42)
    rig.loop.turn()
    if how == "ended":
        first.ended = True
        rig.readable(first, b"KVLK")
    elif how == "reset":
        first.fault = ConnectionResetError()
        rig.readable(first)
    assert rig.tells() == [LinkRefused(PEER, 42, False)]
    assert first.closed
    assert second.closed


def test_two_tries_and_no_more_within_the_time_of_one() -> None:
    rig = Rig()
    first = rig.dial()
    first.ended = True
    rig.loop.advance(DIAL_TIMEOUT_S - 0.5)
    rig.readable(first)
    second = rig.streams.made[1]
    assert second.sent[:4] == b"KVLK"
    second.ended = True
    rig.readable(second)
    assert rig.tells() == [LinkFailed(PEER)]
    assert len(rig.streams.made) == 2
    third = rig.dial()
    rig.loop.advance(0.5)
    assert rig.tells() == [], "a new dial has its own time"
    assert not third.closed


def test_the_second_try_has_what_is_left_of_the_time() -> None:
    rig = Rig()
    first = rig.dial()
    first.ended = True
    rig.loop.advance(DIAL_TIMEOUT_S - 0.5)
    rig.readable(first)
    rig.loop.advance(0.5 - SOON_S)
    assert rig.tells() == []
    rig.loop.advance(SOON_S)
    assert rig.tells() == [LinkFailed(PEER)]


def test_without_a_descriptor_or_an_address_a_dial_fails() -> None:
    rig = Rig()
    rig.streams.next.append(OSError(errno.EMFILE, "Too many open files"))
    rig.links.open(PEER, 1)
    rig.links.open("stranger:1", 1)
    rig.loop.turn()
    assert rig.tells() == [LinkFailed(PEER), LinkFailed("stranger:1")]


@pytest.mark.parametrize(
    ("secret", "answer", "reason"),
    [
        (b"secret", Handshake(None).greeting(9, 0.0, NONCE), "no_secret"),
        (None, Handshake(b"secret").greeting(9, 0.0, NONCE), "secret_needed"),
        (None, bytes(GREETING_BYTES), "malformed"),
        (b"secret", Handshake(b"secret").greeting(9, 0.0, NONCE) + bytes(PROOF_BYTES), "wrong_secret"),
    ],
)
def test_an_acceptor_that_is_no_peer_is_refused_and_counted(secret: bytes | None, answer: bytes, reason: str) -> None:
    rig = Rig(secret=secret)
    sock = rig.dial()
    rig.readable(sock, answer)
    assert rig.tells() == [LinkFailed(PEER)]
    assert rig.links.refused == {reason: 1}
    assert sock.closed
    assert len(rig.streams.made) == 1, "another try would end the same way"


def test_closing_while_dialling_ends_it_without_a_word() -> None:
    rig = Rig()
    pending, greeted = rig.streams.pending(), FakeStream()
    rig.streams.next.append(greeted)
    rig.dial()
    rig.dial(THIRD)
    rig.links.close(PEER)
    rig.links.close(THIRD)
    rig.links.close(THIRD)
    rig.loop.turn()
    assert pending.closed
    assert greeted.closed
    rig.writable(pending)
    rig.loop.advance(2 * DIAL_TIMEOUT_S)
    assert rig.tells() == []
    assert len(rig.streams.made) == 2


def test_what_comes_at_the_moment_of_closing_comes_too_late() -> None:
    """The greenlet goes on before it is told to end: it notices itself."""
    rig = Rig()
    sock = rig.dial()
    hello = bytes(sock.sent)
    challenge = rig.shake.greeting(9, 0.0, NONCE)
    sock.inbox += challenge + rig.shake.proof("acceptor", hello, challenge)
    rig.links.close(PEER)
    rig.loop.ready(sock.number, READ)
    rig.loop.turn()
    assert rig.tells() == []
    assert sock.closed
    assert not rig.links.is_up(PEER)


def test_what_comes_to_nothing_at_the_moment_of_closing_is_told_to_nobody() -> None:
    rig = Rig()
    sock = rig.streams.pending()
    rig.dial()
    rig.links.close(PEER)
    sock.code = errno.ECONNREFUSED
    rig.writable(sock)
    assert rig.tells() == []


@pytest.mark.parametrize("dials", [True, False])
def test_what_is_no_fault_of_a_peers_is_not_warned_of(
    dials: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another protocol is told of where its datagrams come in."""
    for protocol, level in ((NODE_PROTOCOL + 1, logging.DEBUG), (NODE_PROTOCOL, logging.WARNING)):
        caplog.clear()
        monkeypatch.setattr(links, "_faults", limited_logger("links"))  # with its limit not reached
        rig = Rig(secret=b"a secret of sixteen")
        with caplog.at_level(logging.DEBUG):
            sock = rig.dial() if dials else FakeStream()
            if not dials:
                rig.accept(sock)
            greeting = bytearray(Handshake(None).greeting(9, 0.0, NONCE))
            greeting[4] = protocol
            rig.readable(sock, bytes(greeting))
        told = [record.levelno for record in caplog.records if record.msg.endswith(".refused")]
        assert told == [level]


def test_a_link_that_is_there_is_not_dialled_again() -> None:
    rig = Rig()
    old = rig.up()
    rig.links.open(PEER, 43)
    rig.loop.turn()
    assert rig.tells() == [LinkUp(PEER)]
    assert not old.closed
    assert len(rig.streams.made) == 1


def test_dialling_anew_replaces_the_dial_before() -> None:
    rig = Rig()
    old, new = rig.streams.pending(), FakeStream()
    rig.streams.next.append(new)
    rig.dial()
    rig.dial()
    assert old.closed
    rig.welcome(new)
    assert rig.tells() == [LinkUp(PEER), ("up", PEER)]
    rig.links.close(PEER)
    assert rig.tells() == [("down", PEER)]
    assert new.closed


def test_a_link_that_is_not_wanted_by_the_time_it_is_there() -> None:
    """What is told of it leads to its end: it is not told as usable any more."""
    rig = Rig()
    rig.on_event = lambda event: rig.links.close(PEER)
    sock = rig.dial()
    rig.welcome(sock)
    assert rig.tells() == [LinkUp(PEER), ("down", PEER)]
    assert sock.closed


@pytest.mark.parametrize("theirs", [b"the old secret of all", b"the new secret of all"])
def test_of_two_secrets_a_dial_tries_the_second_where_the_first_is_not_taken(theirs: bytes) -> None:
    """Whoever does not take a proof closes the connection."""
    rig = Rig(secret=b"the old secret of all")
    rig.links.take_secrets([b"the old secret of all", b"the new secret of all"])
    rig.shake = Handshake(theirs)
    for _ in range(2):
        sock = rig.streams.made[-1] if rig.streams.made else rig.dial()
        challenge = rig.shake.greeting(9, rig.loop.now_s, NONCE)
        hello = bytes(sock.sent)
        rig.readable(sock, challenge)
        given = bytes(sock.sent).removeprefix(hello)
        if given == rig.shake.proof("dialler", hello, challenge):
            rig.readable(sock, rig.shake.proof("acceptor", hello, challenge))
            break
        sock.ended = True
        rig.readable(sock)
    assert rig.links.is_up(PEER)
    assert len(rig.streams.made) == (1 if theirs == b"the old secret of all" else 2)


@pytest.mark.parametrize("theirs", [b"the old secret of all", b"the new secret of all"])
def test_of_two_secrets_who_dials_may_have_either(theirs: bytes) -> None:
    rig = Rig(secret=b"the old secret of all")
    rig.links.take_secrets([b"the old secret of all", b"the new secret of all"])
    rig.shake = Handshake(theirs)
    assert not rig.accepted().closed, "and is answered in the same"


def test_who_is_no_server_any_more_when_the_handshake_ends_gets_no_link() -> None:
    rig = Rig()
    sock = FakeStream()
    rig.accept(sock)
    hello = rig.shake.hello(9, rig.loop.now_s, NONCE, PEER, ME)
    rig.readable(sock, hello)
    rig.peers.change((SERVERS[0], SERVERS[2]))
    rig.readable(sock, rig.shake.proof("dialler", hello, bytes(sock.sent)))
    assert (sock.closed, rig.links.is_up(PEER), rig.tells()) == (True, False, [])


# --- where the peer dials --------------------------------------------------------------------------------------------


def listening() -> Rig:
    """A node that PEER dials, and is dialled by it if it comes first by name."""
    return Rig(servers=(SERVERS[2], SERVERS[1], SERVERS[0], SERVERS[3]))


def test_of_two_nodes_the_same_one_dials_whoever_is_asked() -> None:
    for one in SERVERS:
        for other in SERVERS:
            if one != other:
                dials = [Peers(me, SERVERS, socket.AF_INET).dials(str(it)) for me, it in ((one, other), (other, one))]
                assert sorted(dials) == [False, True]


@pytest.mark.parametrize("is_pending", [False, True])
@pytest.mark.parametrize(
    ("code", "event"),
    [(0, LinkFailed(PEER)), (errno.ECONNREFUSED, LinkRefused(PEER, 42, False)), (errno.EHOSTUNREACH, LinkFailed(PEER))],
)
def test_whoever_is_dialled_only_tries_whether_the_peer_is_there(code: int, event: Event, is_pending: bool) -> None:
    rig = listening()
    sock = rig.streams.pending()
    if is_pending:
        sock.code = code
    else:
        sock.connect_code = code
    rig.dial()
    if is_pending:
        rig.writable(sock)
    assert rig.tells() == [event]
    assert sock.closed
    assert sock.sent == b""
    assert len(rig.streams.made) == 1


def test_a_knock_takes_as_long_as_a_dial_at_most() -> None:
    rig = listening()
    sock = rig.streams.pending()
    rig.dial()
    rig.loop.advance(DIAL_TIMEOUT_S)
    assert (rig.tells(), sock.closed) == ([LinkFailed(PEER)], True)


def test_a_knock_that_is_not_heard_in_time_has_the_peer_looked_for() -> None:
    peer = Server("0kv", 1002, "127.0.0.2")  # the first by name
    rig = Rig(servers=(SERVERS[0], peer))
    rig.resolver.addresses = {"0kv": ["127.0.0.2"]}
    rig.streams.pending()
    rig.dial(str(peer))
    assert rig.resolver.asked == []
    rig.loop.advance(DIAL_TIMEOUT_S)
    assert rig.resolver.asked == ["0kv"]
    assert rig.tells() == [LinkFailed(str(peer))]


def test_a_knock_ends_when_the_peer_has_dialled() -> None:
    rig = listening()
    sock = rig.streams.pending()
    rig.dial()
    rig.accepted()
    rig.loop.turn()
    assert sock.closed
    sock.code = errno.ECONNREFUSED
    rig.loop.advance(LIFE_S)
    assert rig.tells() == []


def test_a_knock_leaves_nothing_behind() -> None:
    rig = Rig()
    sock = FakeStream()
    rig.accept(sock)
    sock.ended = True
    rig.readable(sock)
    assert sock.closed
    assert rig.links.refused == {}
    assert rig.tells() == []
    assert rig.links.snapshot()["links_pending"] == 0


@pytest.mark.parametrize(
    ("here", "trusted", "is_proof"),
    [((), False, False), ((), True, True), (("127.0.0.2",), False, True), (("127.0.0.1", "127.0.0.3"), False, False)],
)
def test_a_refusal_by_this_very_machine_is_a_proof(here: tuple[str, ...], trusted: bool, is_proof: bool) -> None:
    rig = Rig(trust_refusals=trusted)
    rig.streams.here.update(here)
    rig.streams.pending().connect_code = errno.ECONNREFUSED
    rig.dial()
    assert rig.tells() == [LinkRefused(PEER, 42, is_proof)]


def test_what_refuses_a_peer_that_is_a_server_no_more_proves_nothing() -> None:
    """It has no address any more, and every machine can bind that (Sockets.is_here)."""
    rig = Rig()
    rig.streams.here.add("")
    sock = rig.streams.pending()
    sock.code = errno.ECONNREFUSED
    rig.dial()
    rig.peers.change(SERVERS[:1])
    rig.writable(sock)
    assert rig.tells() == [LinkRefused(PEER, 42, False)]


# --- peers whose names have addresses that change --------------------------------------------------------------------

NAMED = (Server("127.0.0.1", 1001, "127.0.0.1"), Server("kv2", 1002, "127.0.0.2"), Server("kv3", 1003, "127.0.0.3"))
KV2, KV3 = map(str, NAMED[1:])


def named(**options: bytes | bool) -> Rig:
    """A node that dials two that are written as names."""
    rig = Rig(servers=NAMED, **options)  # type: ignore[arg-type]
    rig.resolver.addresses = {"kv2": ["127.0.0.2"], "kv3": ["127.0.0.3"]}
    return rig


@pytest.mark.parametrize("trusted", [False, True])
def test_what_refuses_where_a_name_led_proves_nothing_by_itself(trusted: bool) -> None:
    """What the name stands for may have changed. (An operator who trusts refusals says that it does not.)"""
    rig = named(trust_refusals=trusted)
    rig.streams.here = {"127.0.0.2"}
    rig.streams.pending().connect_code = errno.ECONNREFUSED
    rig.dial(KV2)
    assert rig.tells() == [LinkRefused(KV2, 42, trusted)]


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, 0])
def test_a_peer_that_is_not_where_it_was_is_looked_for(code: int) -> None:
    """0: it does not answer."""
    rig = named()
    rig.resolver.addresses["kv2"] = ["127.0.0.9"]
    rig.streams.pending().code = code
    sock = rig.dial(KV2)
    if code:
        rig.writable(sock)
    rig.loop.advance(DIAL_TIMEOUT_S)
    assert rig.resolver.asked == ["kv2"]
    assert rig.dial(KV2).connects == [("127.0.0.9", 1002)]


def test_what_is_tried_where_a_peer_was_is_given_up() -> None:
    rig = named()
    rig.streams.pending()
    sock = rig.dial(KV2)
    rig.peers.move(KV2, "127.0.0.9")
    rig.links.moved(KV2)
    rig.loop.turn()
    assert (sock.closed, rig.tells()) == (True, [LinkFailed(KV2)])
    rig.links.moved(KV2)
    assert rig.tells() == [], "nothing is tried"


def test_what_has_come_to_nothing_is_not_given_up_once_more() -> None:
    rig = named()
    rig.streams.pending().connect_code = errno.EHOSTUNREACH
    rig.dial(KV2)
    assert rig.tells() == [LinkFailed(KV2)]
    rig.links.moved(KV2)
    assert rig.tells() == []


def test_somebody_from_an_unknown_address_may_be_a_server_that_has_moved() -> None:
    rig = named()
    rig.up(KV2)
    rig.resolver.addresses["kv3"] = ["127.0.0.9"]
    rig.accept(FakeStream(), host="127.0.0.9")
    assert rig.resolver.asked == ["kv3"], "the other one is linked"
    assert rig.links.refused == {"unknown_source": 1}
    sock = rig.accepted(KV3, host="127.0.0.9")
    assert not sock.closed


@pytest.mark.parametrize("secret", [None, b"a secret of sixteen"])
def test_who_comes_from_elsewhere_is_looked_for(secret: bytes | None) -> None:
    """Without a secret it is not let in before its name says that it is there."""
    rig = named(**({} if secret is None else {"secret": secret}))
    rig.resolver.addresses["kv2"] = ["127.0.0.3"]  # that of another one before
    if secret is None:
        sock = FakeStream()
        rig.accept(sock, host="127.0.0.3")
        rig.readable(sock, rig.shake.hello(9, 0.0, NONCE, KV2, ME))
        assert (sock.closed, rig.links.refused) == (True, {"other_address": 1})
    sock = rig.accepted(KV2, host="127.0.0.3")
    assert rig.resolver.asked == ["kv2"]
    assert rig.peers.is_at(KV2, "127.0.0.3")
    assert not sock.closed


@pytest.mark.parametrize("secret", [None, b"a secret of sixteen"])
def test_who_comes_from_where_it_is_is_not_looked_for(secret: bytes | None) -> None:
    rig = named(**({} if secret is None else {"secret": secret}))
    host = rig.peers.address(KV2)
    rig.accepted(KV2, host=host)
    assert rig.resolver.asked == []


def test_a_peer_that_is_down_is_looked_up_now_and_then() -> None:
    rig = named()
    for _ in range(4):
        rig.streams.pending().connect_code = errno.EHOSTUNREACH
        rig.dial(KV2)
        rig.loop.advance(LOOKUP_S / 2)
    assert rig.resolver.asked == ["kv2"] * 3, "at 0, 1 and 2 s"


# --- life ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dialled", "accepted"])
def test_each_end_tells_at_once_and_every_so_often_what_its_clock_shows(how: str) -> None:
    rig = Rig()
    began_s = rig.loop.now_s
    if how == "dialled":
        sock = rig.dial()
        rig.welcome(sock)
    else:
        sock = FakeStream()
        rig.accept(sock)
        rig.readable(sock, rig.shake.hello(9, 0.0, NONCE, PEER, ME) + bytes(PROOF_BYTES))
    rig.links.flush()
    assert bytes(sock.sent).endswith(life(began_s))
    for beat in range(1, 4):
        rig.forget(sock)
        rig.loop.advance(LIFE_S)
        assert rig.wakes == 1
        rig.links.flush()
        (kind, body) = sock.sent[4], bytes(sock.sent[HEADER_BYTES:])
        assert (kind, unpack_life(body)[0]) == (LIFE, pytest.approx(began_s + beat * LIFE_S))


def test_a_peer_that_is_silent_is_left() -> None:
    rig = Rig()
    sock, other = rig.up(), rig.up(THIRD)
    for beat in range(SILENT_BEATS):
        rig.loop.advance(LIFE_S)
        rig.readable(other, life(1.0)[beat : beat + 1])  # one byte is enough
    assert rig.tells() == []
    rig.loop.advance(LIFE_S)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)]
    assert (sock.closed, other.closed) == (True, False)
    assert rig.links.snapshot()["links_silent"] == 1
    assert 0.5 <= SILENT_BEATS * LIFE_S <= 0.5


@pytest.mark.parametrize("heard_after", [0, 1, SILENT_BEATS])
def test_it_is_left_after_so_many_beats_in_which_nothing_came(heard_after: int) -> None:
    rig = Rig()
    sock = rig.up()
    for _ in range(heard_after):
        rig.loop.advance(LIFE_S)
        rig.readable(sock, frame(KIND, b""))  # whatever it is
    beats = 0
    while rig.links.is_up(PEER):
        rig.loop.advance(LIFE_S)
        beats += 1
    assert beats == SILENT_BEATS + 1


def test_a_stop_of_our_own_is_nobodys_silence() -> None:
    rig = Rig()
    sock = rig.up()
    rig.loop.now_s += 60.0  # what waits in the sockets comes after the timers that are due
    rig.loop.advance(LIFE_S)
    rig.readable(sock, life(1.0))
    rig.loop.advance(SILENT_BEATS * LIFE_S - SOON_S)
    assert rig.links.is_up(PEER)


@pytest.mark.parametrize("ahead_s", [-500.0, 0.0, 500.0])
def test_the_peers_clock_is_never_taken_for_later_than_it_is(ahead_s: float) -> None:
    """Whatever the delay of its stamps, and however far the clocks drift apart within what is allowed."""
    rig = Rig()
    sock = rig.up()
    link = rig.links.up[PEER]
    for rate in (1 - 2 * CLOCK_DRIFT / (1 + CLOCK_DRIFT), 1.0, (1 + CLOCK_DRIFT) / (1 - CLOCK_DRIFT)):
        since_s = rig.loop.now_s

        def shows(now_s: float, rate: float = rate, since_s: float = since_s) -> float:
            """What the peer's clock shows when ours shows that."""
            return since_s + ahead_s + (now_s - since_s) * rate

        for delay_s in (0.0, 0.3, 0.01):
            stamp_s = shows(rig.loop.now_s)
            rig.loop.now_s += delay_s
            assert rig.links.up[PEER] is link
            rig.readable(sock, life(stamp_s))
            for _, frames in rig.tells():  # type: ignore[misc]
                rig.links.on_life(PEER, frames[0][1])
            for later_s in (0.0, 0.5, 60.0):
                bound_s = link.clock_base_s + SAFE_SHARE * (rig.loop.now_s + later_s)
                truth_s = shows(rig.loop.now_s + later_s)
                assert truth_s - delay_s * rate - later_s * 0.041 - 1e-6 <= bound_s <= truth_s + 1e-6


def test_the_handshake_says_already_what_the_clocks_show() -> None:
    rig = Rig()
    sock = rig.dial()
    hello = bytes(sock.sent)
    challenge = rig.shake.greeting(9, 77.0, NONCE)
    rig.readable(sock, challenge)
    rig.readable(sock, rig.shake.proof("acceptor", hello, challenge))
    assert rig.links.up[PEER].clock_base_s == 77.0 - SAFE_SHARE * rig.loop.now_s
    rig = Rig()
    sock = rig.dial()
    rig.loop.now_s += 0.25
    rig.welcome(sock)
    rig.loop.now_s += 0.0
    assert rig.links.up[PEER].clock_base_s == pytest.approx(rig.loop.now_s - SAFE_SHARE * rig.loop.now_s)
    accepted = rig.accepted(THIRD)
    assert not accepted.closed
    assert rig.links.up[THIRD].clock_base_s == pytest.approx(rig.loop.now_s - SAFE_SHARE * rig.loop.now_s)


@pytest.mark.parametrize("stamp_s", [-1.0, nan, inf, -inf, CLOCK_MAX_S * 2])
def test_a_clock_that_no_clock_shows_ends_the_link(stamp_s: float) -> None:
    body = pack_life(stamp_s)
    rig = Rig()
    sock = rig.up()
    rig.links.on_life(PEER, body)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)]
    assert sock.closed
    assert rig.links.refused == {"bad_frame": 1}
    rig.links.on_life(PEER, body)
    assert rig.tells() == [], "what came behind it is nobody's"


def test_one_silent_peer_whose_end_is_the_end_of_another() -> None:
    rig = Rig()
    rig.up()
    rig.up(THIRD)
    rig.on_event = lambda event: rig.links.close(THIRD)
    rig.loop.advance((SILENT_BEATS + 1) * LIFE_S + SOON_S)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER), ("down", THIRD)]
    assert rig.links.snapshot()["links_silent"] == 1


def test_each_that_is_silent_is_counted() -> None:
    rig = Rig()
    rig.up()
    rig.up(THIRD)
    rig.loop.advance((SILENT_BEATS + 1) * LIFE_S + SOON_S)
    assert rig.links.snapshot()["links_silent"] == 2


# --- the end of a dialled link ---------------------------------------------------------------------------------------


def test_the_end_of_a_dialled_link_is_told_at_once() -> None:
    rig = Rig()
    sock = rig.up()
    rig.readable(sock)
    assert rig.tells() == [], "woken for nothing"
    sock.ended = True
    rig.readable(sock)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)]
    assert sock.closed
    assert not rig.is_watched(sock, READ)
    assert not rig.links.is_up(PEER)
    assert not rig.links.send(PEER, KIND, b"x")
    assert not rig.links.refused
    again = rig.dial()
    rig.welcome(again)
    assert rig.tells() == [LinkUp(PEER), ("up", PEER)]


def test_a_link_that_is_reset_has_ended() -> None:
    rig = Rig()
    sock = rig.up()
    sock.fault = ConnectionResetError()
    rig.readable(sock)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)]
    assert not rig.links.refused


@pytest.mark.parametrize("how", ["dialled", "accepted"])
def test_severing_ends_a_link_as_if_the_peer_had(how: str) -> None:
    rig = Rig()
    sock, other = rig.up() if how == "dialled" else rig.accepted(), rig.up(THIRD)
    sock.inbox += frame(KIND, b"old")
    rig.links.sever(PEER)
    rig.loop.ready(sock.number, READ)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)], "what is in it is lost"
    assert (sock.closed, other.closed) == (True, False)
    rig.links.sever(PEER)
    assert rig.tells() == []


@pytest.mark.parametrize("how", ["dialled", "accepted"])
def test_closing_ends_a_link_with_whatever_is_in_it(how: str) -> None:
    rig = Rig()
    sock = rig.up() if how == "dialled" else rig.accepted()
    sock.inbox += frame(KIND, b"old")
    rig.links.send(PEER, KIND, b"x")
    rig.links.close(PEER)
    rig.loop.ready(sock.number, READ)
    rig.links.flush()
    assert rig.tells() == [("down", PEER)]
    assert (sock.closed, sock.sent) == (True, b"")


# --- sending ---------------------------------------------------------------------------------------------------------


def test_what_a_turn_queues_for_a_peer_leaves_in_one_write() -> None:
    rig = Rig()
    sock, other = rig.up(), rig.up(THIRD)
    assert rig.links.send(PEER, KIND, b"abc")
    assert rig.links.send(PEER, OTHER, b"")
    assert rig.links.send_all(PEER, OTHER, [b"d", b"ef"])
    assert rig.wakes == 1
    assert rig.links.send_all(THIRD, KIND, [b"g"])
    assert rig.links.send(THIRD, KIND, b"h")
    assert rig.wakes == 2
    expected = frame(KIND, b"abc") + frame(OTHER, b"") + frame(OTHER, b"d") + frame(OTHER, b"ef")
    assert (sock.sent, rig.links.queued_bytes(PEER)) == (b"", len(expected))
    rig.links.flush()
    assert (sock.sent, sock.writes) == (expected, [len(expected)])
    assert other.sent == frame(KIND, b"g") + frame(KIND, b"h")
    assert rig.links.queued_bytes(PEER) == rig.links.queued_bytes(THIRD) == 0
    assert rig.links.bytes_sent == len(sock.sent) + len(other.sent)
    rig.links.flush()
    assert len(sock.writes) == 1
    assert rig.links.send(PEER, KIND, b"next")
    assert rig.wakes == 3


def test_nothing_is_taken_for_a_link_that_is_not_there() -> None:
    rig = Rig()
    rig.dial()
    for peer in (PEER, THIRD):
        assert not rig.links.send(peer, KIND, b"x")
        assert not rig.links.send_all(peer, KIND, [b"x"])
        assert rig.links.queued_bytes(peer) == 0
    assert (rig.wakes, rig.links.full) == (0, 0)


def test_what_the_kernel_does_not_take_follows_when_it_does() -> None:
    rig = Rig()
    sock = rig.up()
    bodies = [b"%d" % n * 10 for n in range(20)]
    stream = b"".join(frame(KIND, body) for body in bodies)
    sock.room = 100
    for body in bodies[:10]:
        rig.links.send(PEER, KIND, body)
    rig.links.flush()
    assert len(sock.sent) == 100
    assert rig.is_watched(sock, WRITE)
    rig.writable(sock)  # for nothing
    sock.room = 7
    rig.writable(sock)
    assert len(sock.sent) == 107
    assert rig.links.send_all(PEER, KIND, bodies[10:])  # behind what waits
    assert rig.wakes == 1, "it is waited for anyway"
    rig.links.flush()
    assert rig.links.queued_bytes(PEER) == len(stream) - 107
    sock.room = None
    rig.writable(sock)
    assert sock.sent == stream
    assert rig.links.queued_bytes(PEER) == 0
    assert rig.links.bytes_sent == len(stream)
    assert not rig.is_watched(sock, WRITE), "else the loop would turn and turn"
    rig.links.send(PEER, KIND, b"on it goes")
    assert rig.wakes == 2
    rig.links.flush()
    assert sock.sent == stream + frame(KIND, b"on it goes")


def test_a_kernel_that_takes_nothing_at_first() -> None:
    rig = Rig()
    sock = rig.up()
    sock.room = 0
    rig.links.send(PEER, KIND, b"x")
    rig.links.flush()
    assert (sock.sent, rig.links.queued_bytes(PEER)) == (b"", HEADER_BYTES + 1)
    sock.room = None
    rig.writable(sock)
    assert sock.sent == frame(KIND, b"x")
    assert rig.tells() == []


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_write_that_fails_is_the_end_of_the_link_and_of_no_other(when: str) -> None:
    rig = Rig()
    sock, other = rig.up(), rig.up(THIRD)
    sock.room = 0
    rig.links.send(PEER, KIND, b"x")
    rig.links.send(THIRD, KIND, b"y")
    if when == "at once":
        sock.fault = BrokenPipeError()
    rig.links.flush()
    assert other.sent == frame(KIND, b"y")
    if when == "later":
        assert rig.tells() == []
        sock.fault = BrokenPipeError()
        rig.writable(sock)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)]
    assert sock.closed
    assert not rig.is_watched(sock, WRITE)
    assert rig.links.queued_bytes(PEER) == 0
    again = rig.up()
    rig.links.send(PEER, KIND, b"new")
    rig.links.flush()
    assert again.sent == frame(KIND, b"new"), "what was queued for the old one is lost with it"


def test_a_link_that_ends_between_queueing_and_writing() -> None:
    rig = Rig()
    sock = rig.up()
    rig.links.send(PEER, KIND, b"x")
    rig.links.close(PEER)
    rig.links.flush()
    assert sock.sent == b""


def test_a_peer_is_given_so_much_at_most_and_then_all_or_nothing() -> None:
    rig = Rig(queue_max_bytes=100)
    sock = rig.up()
    sock.room = 0
    body = bytes(95 - HEADER_BYTES)
    assert rig.links.send(PEER, KIND, body)
    assert not rig.links.send(PEER, KIND, b"x")
    assert not rig.links.send_all(PEER, KIND, [b"", b""])
    assert rig.links.full == 3
    assert rig.links.send(PEER, KIND, b""), "just as much as there is room for"
    assert not rig.links.send(PEER, KIND, b"")
    assert rig.links.queued_bytes(PEER) == 100
    rig.links.flush()
    sock.room = None
    rig.writable(sock)
    assert sock.sent == frame(KIND, body) + frame(KIND, b"")
    assert rig.links.send_all(PEER, KIND, [bytes(40), bytes(50)])
    assert not rig.links.send_all(PEER, KIND, [b""])
    rig.links.flush()
    assert not rig.links.send_all(PEER, KIND, [bytes(40), bytes(51)])
    assert rig.links.send(PEER, KIND, b"a" * 95)
    assert not rig.links.send(PEER, KIND, b"a" * 96)
    assert rig.links.snapshot()["links_frames_not_taken"] == rig.links.full == 3 + 1 + 1 + 2 + 1


def test_peers_share_what_may_be_unread() -> None:
    assert Rig(others=1).links.queue_max_bytes == 8 << 20
    assert Rig(others=2).links.queue_max_bytes == 4 << 20
    assert Rig(others=0).links.queue_max_bytes == 8 << 20
    servers = [Server("127.0.0.1", 1 + n, "127.0.0.1") for n in range(64)]
    streams = FakeStreams()
    peers = Peers(servers[0], servers, socket.AF_INET)
    lookups = Lookups(ManualLoop(), no_lookups, peers, lambda peer: None)
    links = Links(
        ManualLoop(),
        streams,
        peers,
        None,
        lookups=lookups,
        trust_refusals=False,
        random_bytes=bytes,
        wake=lambda: None,
    )
    assert links.queue_max_bytes == 512 << 10
    assert Rig(others=2, memory_bytes=48 << 20).links.queue_max_bytes == 3 << 19
    assert Rig(others=2, memory_bytes=1 << 30).links.queue_max_bytes == 4 << 20


def test_with_other_peers_each_has_another_share_if_none_was_given() -> None:
    for given, expected in ((None, [4 << 20, 8 << 20]), (1 << 20, [1 << 20, 1 << 20])):
        rig = Rig(others=2, queue_max_bytes=given)
        shares = [rig.links.queue_max_bytes]
        rig.peers.change(SERVERS[:2])
        rig.links.share_anew()
        assert [*shares, rig.links.queue_max_bytes] == expected


def test_what_a_peer_leaves_unread_is_counted_as_memory_once() -> None:
    rig = Rig()
    sock = rig.up()
    sock.room = 1000
    for n in range(5):
        rig.links.send(PEER, KIND, bytes(10_000 - HEADER_BYTES))
        rig.links.flush()
        assert sum(rig.spent) == rig.links.queued_bytes(PEER) == (n + 1) * 10_000 - 1000
    sock.room = 20_000
    rig.writable(sock)
    rig.links.flush()
    assert sum(rig.spent) == 49_000
    sock.room = None
    rig.writable(sock)
    assert not rig.links._behind
    rig.links.send(PEER, KIND, bytes(10_000 - HEADER_BYTES))
    rig.links.flush()
    assert sum(rig.spent) == 49_000
    sock.room = 0
    rig.links.send(PEER, KIND, bytes(10_000 - HEADER_BYTES))
    rig.links.flush()
    assert sum(rig.spent) == 59_000
    rig.links.sever(PEER)
    assert not rig.links._behind


def test_a_long_queue_is_written_piece_by_piece() -> None:
    """Joining all of it would hold it twice, and keep it for as long as a byte of it is unsent."""
    rig = Rig()
    sock = rig.up()
    sock.writes.clear()
    body = bytes(50_000 - HEADER_BYTES)
    for _ in range(20):
        rig.links.send(PEER, KIND, body)
    rig.links.flush()
    assert sum(sock.writes) == 1_000_000
    assert 256 << 10 <= max(sock.writes) < (256 << 10) + 50_000
    assert sock.sent.endswith(frame(KIND, body) * 20)


def test_a_piece_ends_once_it_has_so_many_bytes() -> None:
    rig = Rig()
    sock = rig.up()
    for _ in range(9):
        rig.links.send(PEER, KIND, bytes((64 << 10) - HEADER_BYTES))
    rig.links.flush()
    assert sock.writes == [256 << 10, 256 << 10, 64 << 10]


def test_a_frame_over_the_bound_is_our_own_fault() -> None:
    rig = Rig()
    rig.up()
    assert rig.links.send(PEER, KIND, bytes(FRAME_MAX_BYTES))
    with pytest.raises(AssertionError, match=str(FRAME_MAX_BYTES + 1)):
        rig.links.send(PEER, KIND, bytes(FRAME_MAX_BYTES + 1))


# --- accepting -------------------------------------------------------------------------------------------------------


def test_whoever_dials_is_challenged_and_must_prove_to_be_a_peer() -> None:
    rig = Rig(secret=b"secret")
    sock = FakeStream()
    rig.accept(sock)
    hello = rig.shake.hello(9, 0.0, NONCE, PEER, ME)
    rig.readable(sock, hello[:-1])
    assert (sock.sent, rig.links.snapshot()["links_pending"]) == (b"", 1)
    rig.readable(sock, hello[-1:])
    challenge = rig.shake.greeting(7, rig.loop.now_s, b"r" * NONCE_BYTES)
    assert sock.sent == challenge
    rig.readable(sock, rig.shake.proof("dialler", hello, challenge))
    assert sock.sent == challenge + rig.shake.proof("acceptor", hello, challenge)
    assert rig.tells() == [LinkUp(PEER), ("up", PEER)]
    counters = rig.links.snapshot()
    assert (counters["links_pending"], counters["links_up"]) == (0, 1)


def test_frames_are_handed_on_as_one_read_brings_them() -> None:
    rig = Rig()
    sock = rig.accepted()
    rig.readable(sock, frame(KIND, b"a") + frame(OTHER, b"") + frame(KIND, b"bc")[:-1])
    assert rig.tells() == [(PEER, [(KIND, b"a"), (OTHER, b"")])]
    rig.readable(sock)
    assert rig.tells() == [], "woken for nothing"
    rig.readable(sock, b"c")
    assert rig.tells() == [(PEER, [(KIND, b"bc")])]
    rig.readable(sock, b"\x09")
    assert rig.tells() == []
    assert rig.links.frames_received == 3
    assert rig.links.bytes_received == 6 + 5 + 7 + 1


def test_one_read_is_bounded() -> None:
    rig = Rig()
    sock = rig.accepted()
    rig.readable(sock, frame(KIND, bytes(READ_BYTES)))
    assert rig.tells() == []
    assert len(sock.inbox) == HEADER_BYTES
    rig.readable(sock)
    assert rig.tells() == [(PEER, [(KIND, bytes(READ_BYTES))])]


@pytest.mark.parametrize("how", ["ended", "reset", "no frame"])
def test_the_end_of_an_accepted_link(how: str) -> None:
    rig = Rig()
    sock = rig.accepted()
    if how == "ended":
        sock.ended = True
    elif how == "reset":
        sock.fault = ConnectionResetError()
    else:
        sock.inbox += frame(KIND, b"good") + bytes(HEADER_BYTES)
    rig.readable(sock)
    assert rig.tells() == [("down", PEER), LinkClosed(PEER)], "nothing of that read is handed on"
    assert sock.closed
    assert rig.links.refused == ({"bad_frame": 1} if how == "no frame" else {})
    assert rig.links.snapshot()["links_up"] == 0


def test_a_peer_that_dials_anew_is_done_with_the_link_before() -> None:
    rig = Rig()
    old = rig.accepted()
    rig.readable(old, frame(KIND, b"whole")[:3])
    rig.tells()
    new = FakeStream()
    rig.accept(new)
    hello = rig.shake.hello(9, 0.0, NONCE, PEER, ME)
    rig.readable(new, hello + bytes(PROOF_BYTES))
    assert rig.tells() == [("down", PEER), LinkUp(PEER), ("up", PEER)]
    assert old.closed
    rig.readable(new, frame(KIND, b"x"))
    assert rig.tells() == [(PEER, [(KIND, b"x")])]


def test_a_handshake_takes_so_long_at_most() -> None:
    rig = Rig()
    slow, broken = FakeStream(), FakeStream()
    rig.accept(slow)
    rig.readable(slow, b"KVLK")
    rig.loop.advance(HANDSHAKE_TIMEOUT_S - SOON_S)
    rig.readable(slow, b"\x01")
    assert not slow.closed
    rig.loop.advance(SOON_S)
    assert slow.closed
    assert rig.links.refused == {"handshake_timeout": 1}
    rig.accept(broken)
    broken.fault = ConnectionResetError()
    rig.readable(broken)
    assert broken.closed
    assert rig.links.refused == {"handshake_timeout": 1, "handshake_broken_off": 1}
    assert rig.links.snapshot()["links_pending"] == 0
    assert rig.tells() == []


def test_one_that_does_not_take_the_challenge_is_no_peer() -> None:
    rig = Rig()
    sock = FakeStream()
    sock.room = GREETING_BYTES - 1
    rig.accept(sock)
    rig.readable(sock, rig.shake.hello(9, 0.0, NONCE, PEER, ME))
    assert sock.closed
    assert rig.links.refused == {"handshake_broken_off": 1}


def test_strangers_are_turned_away_before_anything_is_kept_of_them() -> None:
    rig = Rig()
    stranger, peer = FakeStream(), FakeStream()
    rig.streams.arriving.append((stranger, "192.0.2.1"))
    rig.accept(peer)
    assert stranger.closed
    assert not peer.closed
    assert rig.links.refused == {"unknown_source": 1}
    assert rig.links.snapshot()["links_pending"] == 1
    rig = Rig(secret=b"secret")
    rig.accept(FakeStream(), host="192.0.2.1")
    assert rig.links.refused == {}, "with a secret, any address may try"


@pytest.mark.parametrize(
    ("secret", "name", "refused"),
    [
        (None, PEER, ""),
        (None, THIRD, "other_address"),
        (b"a secret of sixteen", THIRD, ""),
        (None, "127.0.0.9:1", "unknown_peer"),
    ],
)
def test_who_connects_speaks_for_the_server_that_it_proves_to_be(secret: bytes | None, name: str, refused: str) -> None:
    """By the secret; without one, by the address that it comes from, which is PEER's here."""
    rig = Rig(secret=secret)
    sock = FakeStream()
    rig.accept(sock, host="127.0.0.2")
    hello = rig.shake.hello(9, rig.loop.now_s, NONCE, name, ME)
    rig.readable(sock, hello)
    if not refused:
        rig.readable(sock, rig.shake.proof("dialler", hello, bytes(sock.sent)))
    assert rig.links.refused == ({refused: 1} if refused else {})
    assert (rig.links.is_up(name), sock.closed) == (not refused, bool(refused))


def test_one_wake_up_accepts_so_many_at_most() -> None:
    rig = Rig()
    rig.accept(*(FakeStream() for _ in range(40)))
    assert len(rig.streams.arriving) == 40 - 16
    rig.accept()
    rig.accept()
    assert (len(rig.streams.arriving), rig.links.snapshot()["links_pending"]) == (0, 40)


def test_the_one_that_has_waited_longest_gives_way() -> None:
    rig = Rig()
    socks = [FakeStream() for _ in range(PENDING_MAX + 2)]
    for sock in socks:
        rig.accept(sock)
        rig.readable(sock, b"K")
    assert [n for n, sock in enumerate(socks) if sock.closed] == [0, 1]
    assert rig.links.refused == {"too_many": 2}
    assert rig.links.snapshot()["links_pending"] == PENDING_MAX
    rig.loop.advance(HANDSHAKE_TIMEOUT_S)
    assert rig.links.refused == {"too_many": 2, "handshake_timeout": PENDING_MAX}


def test_out_of_descriptors_accepting_pauses() -> None:
    rig = Rig()
    sock = FakeStream()
    rig.streams.arriving += (OSError(errno.EMFILE, "Too many open files"), (sock, "127.0.0.2"))
    rig.accept()
    rig.accept()
    assert len(rig.streams.arriving) == 1, "it is not asked again and again"
    rig.loop.advance(0.1 - SOON_S)
    rig.accept()
    assert len(rig.streams.arriving) == 1
    rig.loop.advance(SOON_S)
    rig.accept()
    assert not rig.streams.arriving


def test_a_connection_that_has_gone_before_it_was_accepted() -> None:
    rig = Rig()
    rig.streams.arriving += (ConnectionAbortedError(), (FakeStream(), "127.0.0.2"))
    rig.accept()
    assert len(rig.streams.arriving) == 1
    rig.accept()
    assert not rig.streams.arriving


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stopping_writes_what_is_queued_and_ends_everything_without_a_word() -> None:
    rig = Rig(others=3)
    up, accepted = rig.up(), rig.accepted(THIRD)
    pending, welcomed = rig.streams.pending(), FakeStream()
    rig.dial(FOURTH)
    rig.accept(welcomed)
    rig.links.send(PEER, KIND, b"last words")
    rig.links.stop()
    rig.loop.turn()
    assert up.sent == frame(KIND, b"last words")
    for sock in (up, accepted, pending, welcomed):
        assert sock.closed
        assert not rig.is_watched(sock, READ)
        assert not rig.is_watched(sock, WRITE)
    assert not any(one._call for one in rig.loop.watchers), "nor is the listener"
    assert rig.streams.is_closed
    assert rig.loop.timers_running == 0
    rig.loop.advance(10 * DIAL_TIMEOUT_S)
    rig.accept(FakeStream())
    assert len(rig.streams.arriving) == 1
    assert rig.tells() == []
    assert rig.links.refused == {}
    counters = rig.links.snapshot()
    assert [counters[f"links_{name}"] for name in ("up", "pending", "bytes_queued")] == [0] * 3


def test_a_handshake_that_is_done_at_the_moment_of_stopping_comes_too_late() -> None:
    """Its greenlet goes on before it is told to end: it notices itself."""
    rig = Rig()
    sock = FakeStream()
    rig.accept(sock)
    sock.inbox += rig.shake.hello(9, 0.0, NONCE, PEER, ME) + bytes(PROOF_BYTES)
    rig.links.stop()
    rig.loop.ready(sock.number, READ)
    rig.loop.turn()
    assert sock.closed
    assert rig.links.snapshot()["links_up"] == 0
    rig.loop.ready(sock.number, READ)  # nobody watches what is closed


def test_stopping_during_a_pause() -> None:
    rig = Rig()
    rig.streams.arriving.append(OSError(errno.EMFILE, "Too many open files"))
    rig.accept()
    rig.links.stop()
    rig.loop.advance(1.0)
    rig.accept(FakeStream())
    assert len(rig.streams.arriving) == 1


def test_what_is_counted() -> None:
    rig = Rig()
    assert not any(rig.links.snapshot().values())
    rig.up()
    rig.links.send(PEER, KIND, b"abc")
    assert rig.links.snapshot() == {
        "links_up": 1,
        "links_pending": 0,
        "links_silent": 0,
        "links_frames_received": 0,
        "links_bytes_received": 0,
        "links_bytes_sent": 0,
        "links_bytes_queued": 8,
        "links_frames_not_taken": 0,
    }
