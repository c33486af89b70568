"""Links over real sockets: frames in order, ends that are noticed, and who is not let in.

What does not need the kernel for it: test_links_by_hand.py.
"""

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import gevent
import pytest

from app.cluster.events import Event, LinkClosed, LinkFailed, LinkRefused, LinkUp
from app.cluster.membership.timing import SAFE_SHARE
from app.config.options import Options
from app.config.servers import Server
from app.loop import Loop
from app.peers import links as links_module
from app.peers.addresses import Peers
from app.peers.frames import FRAME_MAX_BYTES, LIFE, Frame, pack_header
from app.peers.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Handshake
from app.peers.links import PENDING_MAX, Links
from app.peers.lookups import Lookups
from app.sockets import Sockets
from tests.support.gevent_loop import watched_loop
from tests.support.polling import poll_in_loop as poll
from tests.support.ports import free_port

KIND, OTHER = 201, 202  # of frames of any length


class End:
    """A node's links, and what they have told."""

    def __init__(self, loop: Loop, sockets: Sockets, me: Server, servers: list[Server], secret: bytes | None) -> None:
        self.name = str(me)
        self.port = me.port
        self.loop = loop
        self.sockets = sockets
        self.events: list[Event] = []
        self.received: list[tuple[str, Frame]] = []
        self.downs: list[str] = []
        self.ups: list[str] = []
        self.stamps: list[bytes] = []
        peers = Peers(me, servers, sockets.datagrams.family)
        self.links = Links(
            loop,
            sockets,
            peers,
            secret,
            lookups=Lookups(loop, sockets.look_up, peers, lambda peer: None),
            trust_refusals=False,
            random_bytes=os.urandom,
            wake=self._wake,
        )
        self.links.start(self, lambda: 7)

    def _wake(self) -> None:
        self.loop.run_callback(self.links.flush)

    def link_event(self, event: Event) -> None:
        self.events.append(event)

    def link_up(self, peer: str) -> None:
        self.ups.append(peer)

    def link_down(self, peer: str) -> None:
        self.downs.append(peer)

    def frames(self, peer: str, frames: list[Frame]) -> None:
        for kind, body in frames:
            if kind == LIFE:
                self.stamps.append(body)
                self.links.on_life(peer, body)
            else:
                self.received.append((peer, (kind, body)))

    def dial(self, other: "End") -> None:
        before = len(self.events)
        self.links.open(other.name, 42)
        poll(lambda: len(self.events) > before)


@contextmanager
def ends(count: int = 2, secrets: tuple[bytes | None, ...] = (None,), host: str = "127.0.0.1") -> Iterator[list[End]]:
    """Each dials those after it."""
    servers = sorted((Server(host, free_port(), host) for _ in range(count)), key=str)
    with watched_loop() as loop:
        made = []
        for n, me in enumerate(servers):
            sockets = Sockets(Options(port=me.port, servers=tuple(servers), me=me, bind=host))
            made.append(End(loop, sockets, me, servers, secrets[n % len(secrets)]))
        try:
            yield made
        finally:
            for end in made:
                end.links.stop()
                end.sockets.datagrams.stop()
            gevent.sleep(0)


@pytest.fixture
def pair() -> Iterator[tuple[End, End]]:
    with ends() as (one, other):
        one.dial(other)
        assert (one.events, other.events) == ([LinkUp(other.name)], [LinkUp(one.name)])
        yield one, other


def connect(end: End) -> socket.socket:
    """A plain connection to a node's port, waiting without holding up the loop."""
    sock = socket.create_connection(("127.0.0.1", end.port))
    sock.setblocking(False)
    return sock


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# Frames.


def test_frames_arrive_in_order_whole_and_with_their_sender(pair: tuple[End, End]) -> None:
    one, other = pair
    assert one.links.send(other.name, KIND, b"abc")
    assert one.links.send(other.name, OTHER, b"")
    assert other.received == []
    poll(lambda: len(other.received) == 2)
    assert other.received == [(one.name, (KIND, b"abc")), (one.name, (OTHER, b""))]
    for n in range(1000):
        assert one.links.send(other.name, KIND, b"%d" % n)
    poll(lambda: len(other.received) == 1002)
    assert [body for _, (_, body) in other.received[2:]] == [b"%d" % n for n in range(1000)]


def test_large_frames_in_both_directions(pair: tuple[End, End]) -> None:
    one, other = pair
    bodies = [os.urandom(FRAME_MAX_BYTES) for _ in range(4)]
    for body in bodies:
        assert one.links.send(other.name, KIND, body)
        assert other.links.send(one.name, OTHER, body)
    poll(lambda: len(other.received) == len(one.received) == 4)
    assert [body for _, (_, body) in other.received] == bodies
    assert [body for _, (_, body) in one.received] == bodies
    assert one.links.queued_bytes(other.name) == 0


def test_a_slow_peer_is_given_a_bounded_amount_and_gets_it_in_order(pair: tuple[End, End]) -> None:
    one, other = pair
    link = other.links.up[one.name]
    link._reader.stop()
    body = bytes(FRAME_MAX_BYTES - 4)
    taken = 0
    while one.links.send(other.name, KIND, taken.to_bytes(4, "little") + body):
        taken += 1
        gevent.sleep(0.001)
        assert taken < 1000
    assert one.links.full >= 1
    assert one.links.queued_bytes(other.name) <= one.links.queue_max_bytes
    link.start(other.links._on_readable)
    poll(lambda: len(other.received) == taken)
    assert [int.from_bytes(frame[:4], "little") for _, (_, frame) in other.received] == list(range(taken))
    assert one.links.send(other.name, KIND, b"on it goes")


# Ends.


def test_a_peer_that_ends_is_noticed_and_the_next_dial_is_refused(pair: tuple[End, End]) -> None:
    one, other = pair
    other.links.stop()
    poll(lambda: len(one.events) == 2)
    assert one.events[1] == LinkClosed(other.name)
    assert one.downs == [other.name]
    assert not one.links.is_up(other.name)
    one.dial(other)
    assert one.events[2] == LinkRefused(other.name, 42, is_proof=True)


def test_links_and_dials_that_have_ended_leave_nothing_for_the_collector() -> None:
    """What it would have to find is frozen by then, and would stay: a node dials an absent peer four times a second."""
    with ends() as (one, other):
        one.dial(other)  # what is made once is there
        one.links.close(other.name)
        poll(lambda: other.downs)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                one.dial(other)
                with suppress(OSError), connect(other) as stranger:
                    stranger.sendall(b"what is this")
                other.links.close(one.name)
                poll(lambda: one.name not in other.links.up and other.name not in one.links.up)
            other.links.stop()
            other.sockets.datagrams.stop()
            for _ in range(3):
                one.dial(other)  # refused
            gevent.sleep(0.01)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = [repr(thing)[:100] for thing in gc.garbage if type(thing).__module__.startswith("app.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert found == []


@pytest.mark.parametrize("who", [0, 1])
def test_closing_is_not_reported_and_ends_both_sides(pair: tuple[End, End], who: int) -> None:
    one, other = pair[who], pair[1 - who]
    one.links.close(other.name)
    assert one.downs == [other.name]
    poll(lambda: other.downs == [one.name])
    assert other.events == [LinkUp(one.name), LinkClosed(one.name)]
    assert one.events == [LinkUp(other.name)]
    one.links.close(other.name)


def test_closing_while_dialling_and_dialling_anew() -> None:
    with ends() as (one, other):
        for _ in range(20):
            one.links.open(other.name, 1)
            one.links.close(other.name)
            one.links.open(other.name, 2)
        poll(lambda: one.events)
        assert one.events == [LinkUp(other.name)]
        assert one.links.send(other.name, KIND, b"x")
        poll(lambda: other.received)
        poll(lambda: other.links.is_up(one.name) and not other.links.snapshot()["links_pending"])


def test_a_dial_that_nobody_answers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "DIAL_TIMEOUT_S", 0.05)
    with ends() as (one, other):
        other.links._acceptor.stop()  # as a stopped process: the kernel connects, nobody shakes hands
        one.dial(other)
        assert one.events == [LinkFailed(other.name)]


def test_a_dial_to_one_who_is_not_in_the_file_fails() -> None:
    with ends() as (one, _):
        one.links.open("127.0.0.1:1", 1)
        poll(lambda: one.events)
        assert one.events == [LinkFailed("127.0.0.1:1")]


def test_a_link_that_breaks_off_in_the_handshake_is_tried_again_at_once() -> None:
    """What a dying process looks like whose link is closed before its listener."""
    with ends() as (one, other):
        accepted = []

        def break_off() -> None:
            sock, _ = other.links._listener.accept()
            accepted.append(sock)
            sock.close()
            other.links._acceptor.stop()
            other.links._listener.close()

        other.links._acceptor.stop()
        other.links._acceptor.start(break_off)
        one.dial(other)
        assert len(accepted) == 1
        assert one.events == [LinkRefused(other.name, 42, is_proof=True)]


def test_a_peer_that_dials_anew_replaces_its_link(pair: tuple[End, End]) -> None:
    one, other = pair
    one.links.send(other.name, KIND, b"old")
    poll(lambda: other.received)
    one.links.close(other.name)
    one.dial(other)
    one.links.send(other.name, KIND, b"new")
    poll(lambda: len(other.received) == 2)
    assert list(other.links.up) == [one.name]


def test_both_may_open_at_once_and_one_link_comes_of_it() -> None:
    with ends(secrets=(b"secret",)) as (one, other):
        one.links.open(other.name, 1)
        other.links.open(one.name, 1)
        poll(lambda: one.links.is_up(other.name) and other.links.is_up(one.name))
        assert one.events == [LinkUp(other.name)]
        assert other.events[-1] == LinkUp(one.name)
        one.links.send(other.name, KIND, b"there")
        other.links.send(one.name, OTHER, b"back")
        poll(lambda: one.received and other.received)
        assert one.received == [(other.name, (OTHER, b"back"))]
        assert (len(one.ups), len(other.ups), one.downs, other.downs) == (1, 1, [], [])


def test_whoever_is_not_to_dial_knocks() -> None:
    with ends() as (one, other):
        other.dial(one)
        assert other.events == [LinkFailed(one.name)]
        poll(lambda: not one.links._pending)
        assert not one.links.refused
        one.links.stop()
        other.dial(one)
        assert other.events[1:] == [LinkRefused(one.name, 42, is_proof=True)]


def test_each_end_tells_the_other_that_it_lives(pair: tuple[End, End]) -> None:
    poll(lambda: all(len(end.stamps) >= 3 for end in pair))
    for end, peer in (pair, pair[::-1]):
        (link,) = end.links.up.values()
        shown_s = link.clock_base_s + SAFE_SHARE * end.loop.now()
        assert end.loop.now() - 1.0 < shown_s < end.loop.now(), "one clock for both"
        assert link.peer == peer.name


def test_both_ends_send_at_once_and_do_not_wait_for_the_kernel(pair: tuple[End, End]) -> None:
    for end in pair:
        (link,) = end.links.up.values()
        sock = link.sock
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000


def test_ipv6() -> None:
    with ends(host="::1") as (one, other):
        one.dial(other)
        one.links.send(other.name, KIND, b"x")
        poll(lambda: other.received == [(one.name, (KIND, b"x"))])


# Who is let in.


@pytest.mark.parametrize(
    ("secrets", "by_dialler", "by_acceptor"),
    [
        ((b"one", b"two"), "", "wrong_secret"),
        ((None, b"two"), "", "no_secret"),
        ((b"one", None), "", "secret_needed"),
    ],
)
def test_different_secrets(secrets: tuple[bytes | None, bytes | None], by_dialler: str, by_acceptor: str) -> None:
    with ends(secrets=secrets) as (one, other):
        one.dial(other)
        assert one.events == [LinkFailed(other.name)]
        assert set(one.links.refused) == ({by_dialler} if by_dialler else set())
        assert set(other.links.refused) == {by_acceptor}
        assert not other.links.up


def test_an_acceptor_without_the_secret_is_not_trusted() -> None:
    """It can answer the HELLO as if it had one, and not prove it."""
    with ends(secrets=(b"secret",)) as (one, other):
        other.links._connector.handshake = Handshake(b"guess")
        other.links._connector.handshake.check_proof = lambda *given: 0  # type: ignore[method-assign]
        one.dial(other)
        assert one.events == [LinkFailed(other.name)]
        assert one.links.refused == {"wrong_secret": 1}


def test_the_dialler_proves_itself_first() -> None:
    with ends(secrets=(b"secret",)) as (one, other), connect(one) as sock:
        sock.send(Handshake(b"secret").hello(1, 0.0, bytes(NONCE_BYTES), other.name, one.name))
        received = b""

        def has_challenge() -> bool:
            nonlocal received
            with suppress(BlockingIOError):
                received += sock.recv(1000)
            return len(received) >= GREETING_BYTES

        poll(has_challenge)
        assert len(received) == GREETING_BYTES
        sock.send(bytes(PROOF_BYTES))
        poll(lambda: is_closed(sock))
        assert one.links.refused == {"wrong_secret": 1}


def shaken(end: End, name: str) -> socket.socket:
    """A connection that has shaken hands, without a secret, under that name."""
    sock = connect(end)
    sock.send(Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), name, end.name) + bytes(PROOF_BYTES))
    poll(lambda: end.links.is_up(name))
    return sock


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: kv\r\nUser-Agent: x\r\n\r\n", "malformed"),
        (bytes(100), "malformed"),
        (Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), "stranger:1", "ME"), "unknown_peer"),
        (Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), "ME", "ME"), "unknown_peer"),
        (Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), "OTHER", "OTHER"), "misdirected"),
        (Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), "OTHER", "ME")[:-1], "handshake_broken_off"),
        (b"K", "handshake_broken_off"),
    ],
)
def test_whoever_is_no_peer_is_refused_and_counted(hello: bytes, reason: str) -> None:
    with ends() as (one, other), connect(one) as sock:
        for word, name in ((b"\x02ME", one.name), (b"\x05OTHER", other.name)):
            hello = hello.replace(word, bytes([len(name)]) + name.encode())
        sock.send(hello)
        sock.shutdown(socket.SHUT_WR)
        poll(lambda: is_closed(sock))
        poll(lambda: one.links.refused)
        assert one.links.refused == {reason: 1}
        assert one.links.snapshot()[f"links_refused_{reason}"] == 1


def test_without_a_secret_only_the_servers_hosts_may_connect() -> None:
    with ends() as (one, _):
        one.links._peers._hosts.clear()
        with connect(one) as sock:
            poll(lambda: is_closed(sock))
        assert one.links.refused == {"unknown_source": 1}
        assert not one.links._pending


def test_a_handshake_takes_so_long_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "HANDSHAKE_TIMEOUT_S", 0.02)
    with ends() as (one, _), connect(one) as sock:
        poll(lambda: is_closed(sock))
        assert one.links.refused == {"handshake_timeout": 1}


def test_so_many_handshakes_at_once_at_most_and_a_peer_gets_in_all_the_same() -> None:
    with ends() as (one, other):
        idlers = [connect(other) for _ in range(PENDING_MAX + 10)]
        poll(lambda: other.links.refused["too_many"] == 10)
        assert len(other.links._pending) == PENDING_MAX
        one.dial(other)
        assert one.events == [LinkUp(other.name)]
        for sock in idlers:
            sock.close()
        poll(lambda: not other.links._pending)


@pytest.mark.parametrize("junk", [pack_header(FRAME_MAX_BYTES + 1, KIND), bytes(5)])
def test_what_is_no_frame_ends_the_link(junk: bytes) -> None:
    with ends() as (one, other), shaken(one, other.name) as sock:
        sock.send(pack_header(1, KIND) + b"x" + junk)
        poll(lambda: one.links.refused)
        assert one.links.refused == {"bad_frame": 1}
        assert not one.links.up


def test_a_handshake_byte_by_byte() -> None:
    with ends() as (one, other), connect(one) as sock:
        hello = Handshake(None).hello(1, 0.0, bytes(NONCE_BYTES), other.name, one.name) + bytes(PROOF_BYTES)
        for at in range(len(hello)):
            sock.send(hello[at : at + 1])
            gevent.sleep(0)
        poll(lambda: one.links.is_up(other.name))
        for byte in pack_header(2, KIND) + b"ab":
            sock.send(bytes([byte]))
            gevent.sleep(0)
        poll(lambda: one.received)
        assert one.received == [(other.name, (KIND, b"ab"))]
