"""The front over a real socket: batches, requests that block, limits, and how a node ends."""

import json
import select
import socket as plain_socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.hub import get_hub
from google.protobuf.message import DecodeError

from app.config.allowlist import Verdicts, host_of, parse_networks
from app.front.front import BATCH_SIZE, IN_FLIGHT_WAIT_MS, Front
from app.observe.counters import IN_TURN, WAITED, Counters
from app.observe.slowlog import SlowLog
from app.requests.commands import Shutdown
from app.wire.protocol import (
    DATAGRAM_MAX_BYTES,
    GET,
    INTERNAL_ERR,
    IS_ALIVE,
    NO_ERR,
    PUT,
    SHUTDOWN,
    SYS_OVERLOAD_ERR,
    TYPE_CLUSTER,
)
from proto_gen.key_value_pb2 import KVRequest
from proto_gen.message_pb2 import Msg
from tests.front.test_batch import has_ipv6
from tests.support.parts import Parts, make_parts
from tests.wire.datagrams import ack, envelope, request, response

DEADLINE_S = 20.0


class Slow:
    """Commands, some of whose requests do something else first: those for which there is a rule."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.rules: dict[bytes, Callable[[], Any]] = {}  # by key
        self.handled: list[bytes] = []  # keys, in the order in which they were begun
        self.refuse = parts.commands.refuse
        self.fail = parts.commands.fail
        self.shut_out = parts.commands.shut_out
        self.is_local = parts.commands.is_local

    def handle(self, buffer: bytearray, start: int, end: int) -> bytes | None:
        datagram = bytes(buffer[start:end])  # it will be overwritten while this waits
        key = b""
        with suppress(DecodeError):
            key = KVRequest.FromString(Msg.FromString(datagram).payload).key
        self.handled.append(key)
        if key in self.rules:
            self.rules[key]()
        return self.parts.commands.handle(datagram, 0, len(datagram))


class Server:
    def __init__(self, host: str, max_in_flight: int, on_exit: Callable[[int], Any]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = plain_socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        self.parts = make_parts()
        self.counters: Counters = self.parts.counters
        self.slow = Slow(self.parts)
        self.front = Front(self.sock, self.slow, self.counters, max_in_flight=max_in_flight, on_exit=on_exit)  # type: ignore[arg-type]
        self.clients: list[socket.socket] = []

    def client(self, family: int | None = None, source: str = "") -> "Client":
        """A client at an address of this machine."""
        sock = socket.socket(family or self.sock.family, socket.SOCK_DGRAM)
        if source:
            sock.bind((source, 0))
        host, port = self.sock.getsockname()[:2]
        sock.connect(("127.0.0.1" if host == "::" else host, port))
        sock.settimeout(DEADLINE_S)
        self.clients.append(sock)
        return Client(sock)

    def close(self) -> None:
        self.front.stop()
        self.sock.close()
        for sock in self.clients:
            sock.close()

    def until(self, condition: Callable[[], bool]) -> None:
        with gevent.Timeout(DEADLINE_S):
            while not condition():
                gevent.sleep(0)


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message_id: bytes, command: int = IS_ALIVE, **fields: object) -> None:
        self.sock.send(request(message_id, command=command, **fields))

    def code(self, message_id: bytes) -> int:
        """The error code of the next answer, which must be to that request."""
        return response(self.sock.recv(65_535), message_id).errCode

    def ask(self, message_id: bytes, command: int = IS_ALIVE, **fields: object) -> int:
        self.send(message_id, command, **fields)
        return self.code(message_id)

    def has_heard_all(self) -> bool:
        """Nothing more lies in the socket; over loopback, what was sent lies there at once."""
        return not select.select([self.sock.fileno()], [], [], 0)[0]


@contextmanager
def serving(
    host: str = "127.0.0.1", max_in_flight: int = 16, on_exit: Callable[[int], Any] | None = None
) -> Iterator[Server]:
    def unexpected(status: int) -> None:
        raise AssertionError(f"the node ends with status {status}")

    server = Server(host, max_in_flight, on_exit or unexpected)
    server.front.start()
    try:
        with gevent.Timeout(3 * DEADLINE_S):
            yield server
    finally:
        server.close()


def blocker(server: Server, key: bytes) -> Event:
    """Requests for this key wait until the event is set."""
    event = Event()
    server.slow.rules[key] = event.wait
    return event


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests_are_answered(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with serving(host) as server:
        client = server.client()
        assert client.ask(b"p", PUT, key=b"k", value=bytes(10_000)) == NO_ERR
        client.send(b"g", GET, key=b"k")
        assert response(client.sock.recv(65_535), b"g").value == bytes(10_000)


def test_more_requests_than_a_batch_holds_are_answered_in_order() -> None:
    with serving() as server:
        client = server.client()
        ids = [b"%d" % n for n in range(3 * BATCH_SIZE + 5)]
        for message_id in ids:
            client.send(message_id)
        assert [client.code(message_id) for message_id in ids] == [NO_ERR] * len(ids)


def test_the_loop_turns_between_batches() -> None:
    """Other greenlets run, however many datagrams are waiting."""
    with serving() as server:
        client = server.client()
        seen = []

        def watch() -> None:
            while len(server.slow.handled) < 4 * BATCH_SIZE:
                seen.append(len(server.slow.handled))
                gevent.sleep(0)

        for n in range(4 * BATCH_SIZE):  # into the socket before the loop has run at all
            client.send(b"%d" % n)
        gevent.spawn(watch).join()
        assert set(seen) >= {BATCH_SIZE, 2 * BATCH_SIZE, 3 * BATCH_SIZE}


def test_what_is_not_answered_disturbs_nobody() -> None:
    with serving() as server:
        client = server.client()
        client.sock.send(b"\xff\xff")
        client.sock.send(b"")
        client.sock.send(bytes(DATAGRAM_MAX_BYTES + 1))
        client.sock.send(ack(b"a"))
        assert client.ask(b"m") == NO_ERR
        assert client.has_heard_all()
        drops = server.counters.drops
        assert (drops["unparsable"], drops["no_message_id"], drops["oversized"]) == (1, 1, 1)


# --- requests that block --------------------------------------------------------------------------------------------


def test_a_blocked_request_holds_nobody_up_and_is_answered_later() -> None:
    with serving() as server:
        event = blocker(server, b"wait")
        waiting, other = server.client(), server.client()
        waiting.send(b"w", PUT, key=b"wait", value=b"value")
        assert other.ask(b"o1") == NO_ERR
        server.until(lambda: server.front.in_flight == 1)
        for n in range(2 * BATCH_SIZE):
            assert other.ask(b"o%d" % n) == NO_ERR
        assert waiting.has_heard_all()
        event.set()
        assert waiting.code(b"w") == NO_ERR
        assert server.front.in_flight == 0
        other.send(b"g", GET, key=b"wait")
        assert response(other.sock.recv(65_535), b"g").value == b"value"
        assert other.has_heard_all()


def test_the_rest_of_a_batch_goes_on_when_one_of_it_blocks() -> None:
    with serving() as server:
        events = [blocker(server, b"wait %d" % n) for n in range(3)]
        waiting = [server.client() for _ in range(3)]
        other = server.client()
        for n, client in enumerate(waiting):  # one batch: the loop has not run yet
            client.send(b"w%d" % n, GET, key=b"wait %d" % n)
            other.send(b"o%d" % n)
        assert [other.code(b"o%d" % n) for n in range(3)] == [NO_ERR] * 3
        assert server.front.in_flight == 3
        for n in (1, 2, 0):
            events[n].set()
            waiting[n].code(b"w%d" % n)
        assert server.front.in_flight == 0
        assert all(client.has_heard_all() for client in (*waiting, other))


def test_many_that_block_each_get_their_own_answer_at_their_own_address() -> None:
    with serving(max_in_flight=100) as server:
        events = [blocker(server, b"wait %d" % n) for n in range(40)]
        clients = [server.client() for _ in range(40)]
        for n, client in enumerate(clients):
            client.send(b"w%d" % n, GET, key=b"wait %d" % n)
        server.until(lambda: server.front.in_flight == 40)
        for event in events:
            event.set()
        for n, client in enumerate(clients):
            client.code(b"w%d" % n)
            assert client.has_heard_all()


def test_workers_are_used_again() -> None:
    with serving() as server:
        client = server.client()
        for n in range(200):
            event = blocker(server, b"wait")
            client.send(b"%d" % n, GET, key=b"wait")
            server.until(lambda: server.front.in_flight == 1)
            event.set()
            client.code(b"%d" % n)
        assert len(server.front._idle) <= 2


def test_a_request_may_block_twice() -> None:
    with serving() as server:
        first, second = Event(), Event()
        server.slow.rules[b"wait"] = lambda: (first.wait(), second.wait())
        client, other = server.client(), server.client()
        client.send(b"w", GET, key=b"wait")
        server.until(lambda: server.front.in_flight == 1)
        first.set()
        assert other.ask(b"o") == NO_ERR
        assert server.front.in_flight == 1
        second.set()
        client.code(b"w")
        assert server.front.in_flight == 0


def test_past_the_limit_of_requests_in_flight_all_are_refused_for_now() -> None:
    with serving(max_in_flight=2) as server:
        event = blocker(server, b"wait")
        client = server.client()
        for n in range(2):
            client.send(b"w%d" % n, PUT, key=b"wait", value=b"%d" % n)
        server.until(lambda: server.front.in_flight == 2)
        begun = len(server.slow.handled)
        for n in range(5):
            client.send(b"o%d" % n, PUT, key=b"other", value=b"v")
            refused = response(client.sock.recv(65_535), b"o%d" % n)
            assert (refused.errCode, refused.overloadWaitTime) == (SYS_OVERLOAD_ERR, IN_FLIGHT_WAIT_MS)
        client.sock.send(b"\xff\xff")  # still dropped
        assert len(server.slow.handled) == begun
        event.set()
        assert {client.sock.recv(100)[2:4] for _ in range(2)} == {b"w0", b"w1"}
        assert client.ask(b"o0", PUT, key=b"other", value=b"v") == NO_ERR  # the refusal was not remembered
        assert server.counters.drops["unparsable"] == 1


def test_the_limit_holds_within_one_batch() -> None:
    with serving(max_in_flight=2) as server:
        event = blocker(server, b"wait")
        client = server.client()
        for n in range(10):
            client.send(b"%d" % n, GET, key=b"wait")
        codes = [response(client.sock.recv(65_535), b"%d" % n).errCode for n in range(2, 10)]
        assert codes == [SYS_OVERLOAD_ERR] * 8
        assert server.front.in_flight == 2
        event.set()
        assert {client.sock.recv(100)[2:3] for _ in range(2)} == {b"0", b"1"}


# --- who may send requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "client_host", "networks", "is_answered"),
    [
        ("127.0.0.1", "127.0.0.2", "127.0.0.2", True),
        ("127.0.0.1", "127.0.0.2", "127.0.0.3,::/0", False),
        ("::1", "::1", "fd00::/8,::1", True),
        ("::1", "::1", "fd00::/8,0.0.0.0/0", False),
        ("::", "127.0.0.2", "127.0.0.0/8", True),  # mapped
        ("::", "127.0.0.2", "::/0", False),
    ],
)
def test_only_who_is_allowed_is_answered(host: str, client_host: str, networks: str, is_answered: bool) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with serving(host) as server:
        server.front.allowed = Verdicts(parse_networks(networks))
        family = socket.AF_INET6 if ":" in client_host else socket.AF_INET
        client = server.client(family, client_host)
        for n in range(3):
            client.send(b"%d" % n, PUT, key=b"k%d" % n, value=b"v")
        if is_answered:
            assert [client.code(b"%d" % n) for n in range(3)] == [NO_ERR] * 3
        else:
            server.until(lambda: server.counters.drops["not_allowed"] == 3)
            assert client.has_heard_all()
        assert len(server.slow.handled) == (3 if is_answered else 0)


def test_who_is_not_allowed_gets_no_refusal_either() -> None:
    with serving(max_in_flight=1) as server:
        server.front.allowed = Verdicts(parse_networks("127.0.0.2"))
        event = blocker(server, b"wait")
        inside = server.client(source="127.0.0.2")
        outside = server.client(source="127.0.0.3")
        inside.send(b"w", GET, key=b"wait")
        server.until(lambda: server.front.in_flight == 1)
        outside.send(b"o", GET, key=b"k")
        assert inside.ask(b"i", GET, key=b"k") == SYS_OVERLOAD_ERR
        server.until(lambda: server.counters.drops["not_allowed"] == 1)
        event.set()
        inside.code(b"w")
        assert outside.has_heard_all()


def test_nodes_are_heard_whoever_is_allowed() -> None:
    told: list[tuple[bytes, bytes]] = []
    with serving() as server:
        server.parts.commands.on_cluster = server.slow.on_cluster  # type: ignore[attr-defined]  # that the front has set
        server.front.on_cluster = lambda payload, address: told.append((payload, host_of(address)))
        server.front.allowed = Verdicts(parse_networks("127.0.0.3"))
        client = server.client(source="127.0.0.2")
        client.sock.send(envelope(b"m", b"sealed", TYPE_CLUSTER))
        server.until(lambda: bool(told))
        assert told == [(b"sealed", bytes((127, 0, 0, 2)))]
        assert not any(server.counters.drops.values())


# --- faults ---------------------------------------------------------------------------------------------------------


def breaks(error: BaseException) -> Callable[[], None]:
    def rule() -> None:
        raise error

    return rule


def test_a_request_that_breaks_the_code_gets_an_internal_error_and_the_node_goes_on() -> None:
    with serving() as server:
        server.slow.rules[b"bad"] = breaks(ValueError("made up"))
        client = server.client()
        for n in range(3):
            client.send(b"b%d" % n, GET, key=b"bad")
            client.send(b"g%d" % n)
        for n in range(3):
            assert client.code(b"b%d" % n) == INTERNAL_ERR
            assert client.code(b"g%d" % n) == NO_ERR


def test_a_request_that_breaks_the_code_after_it_has_blocked_gets_its_own_internal_error() -> None:
    """By then its datagram in the receive buffer has been overwritten by others."""
    with serving() as server:
        event = Event()

        def rule() -> None:
            event.wait()
            raise ValueError("made up")

        server.slow.rules[b"bad"] = rule
        client, other = server.client(), server.client()
        client.send(b"bad!", GET, key=b"bad")
        server.until(lambda: server.front.in_flight == 1)
        for n in range(2 * BATCH_SIZE):
            other.send(b"o%d" % n, PUT, key=b"other", value=b"longer than the other request was")
        for n in range(2 * BATCH_SIZE):
            assert other.code(b"o%d" % n) == NO_ERR
        event.set()
        assert client.code(b"bad!") == INTERNAL_ERR
        assert server.front.in_flight == 0
        assert client.has_heard_all()
        assert other.ask(b"after") == NO_ERR


class Ended(SystemExit):
    """What the process's end is replaced by: gevent hands it to the greenlet that runs the test."""


@contextmanager
def ending() -> Iterator[Server]:
    def end(status: int) -> None:
        raise Ended(status)

    with serving(on_exit=end) as server:
        yield server


def ends(server: Server) -> int:
    """Wait for the node to end; its status."""
    with pytest.raises(Ended) as caught:
        server.until(lambda: False)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_broken_invariant_ends_the_node_without_an_answer() -> None:
    with ending() as server:
        server.slow.rules[b"bad"] = breaks(AssertionError("3 of 2"))
        client = server.client()
        client.send(b"bad", GET, key=b"bad")
        assert ends(server) == 70
        assert client.has_heard_all()


@pytest.mark.parametrize("before", [0, 1, 5])
def test_shutdown_is_answered_and_nothing_after_it(before: int) -> None:
    with ending() as server:
        client, other = server.client(), server.client()
        for n in range(before):  # one batch: the loop has not run yet
            other.send(b"b%d" % n)
        client.send(b"s", SHUTDOWN)
        for n in range(5):
            other.send(b"a%d" % n)
            client.send(b"a%d" % n, PUT, key=b"k", value=b"v")
        assert ends(server) == 0
        server.front.stop()
        assert client.code(b"s") == NO_ERR
        assert client.has_heard_all()
        assert [other.code(b"b%d" % n) for n in range(before)] == [NO_ERR] * before
        assert other.has_heard_all()
        assert server.parts.content() == {}


def test_a_shutdown_that_has_blocked_is_answered_too() -> None:
    with ending() as server:
        event = Event()

        def rule() -> None:
            event.wait()
            raise Shutdown(b"the reply")

        server.slow.rules[b"wait"] = rule
        client, other = server.client(), server.client()
        client.send(b"s", GET, key=b"wait")
        assert other.ask(b"o") == NO_ERR
        event.set()
        assert ends(server) == 0
        assert client.sock.recv(100) == b"the reply"


def test_a_client_that_has_gone_costs_nobody_else_anything() -> None:
    with serving() as server:
        gone, client = server.client(), server.client()
        for n in range(20):
            gone.send(b"%d" % n)
        gone.sock.close()
        for n in range(20):
            assert client.ask(b"%d" % n) == NO_ERR


def test_send_errors_are_counted() -> None:
    with serving() as server:
        client = server.client()
        client.ask(b"m")
        server.front.batch.send(bytes(16), b"x")  # an address of no family
        client.send(b"n")
        assert client.code(b"n") == NO_ERR
        server.until(lambda: server.counters.send_errors == 1)


class Clocked:
    """A front that is not started: reads when told to, by a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sock = plain_socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.client = plain_socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.sock.getsockname())
        self.client.setblocking(False)
        self.parts = make_parts()
        self.front = Front(
            self.sock,
            self.parts.commands,
            self.parts.counters,
            max_in_flight=1,
            patience_s=1.0,
            clock=lambda: self.now,
        )

    def ask(self, count: int) -> None:
        for n in range(count):
            self.client.send(request(b"%016d" % n, command=GET, key=b"k"))

    def read(self) -> None:
        """What the loop does when there is something to read."""
        done = Event()
        get_hub().loop.run_callback(lambda: (self.front.do_read(), done.set()))
        assert done.wait(DEADLINE_S)

    def answers(self) -> int:
        count = 0
        with suppress(BlockingIOError):
            while self.client.recv(100):
                count += 1
        return count


@pytest.fixture
def clocked() -> Iterator[Clocked]:
    made = Clocked()
    yield made
    made.sock.close()
    made.client.close()


def test_what_may_have_waited_for_too_long_is_dropped(clocked: Clocked) -> None:
    clocked.ask(1)
    clocked.now += 0.99
    clocked.read()
    assert clocked.answers() == 1
    clocked.ask(1)
    clocked.now += 1.0
    clocked.read()
    assert clocked.answers() == 0
    assert clocked.parts.counters.drops["too_old"] == 1
    clocked.ask(1)
    clocked.read()
    assert clocked.answers() == 1, "it came after the socket was seen empty"


def test_an_idle_socket_does_not_age(clocked: Clocked) -> None:
    for _ in range(100):
        clocked.now += 0.05
        clocked.front.note_quiet()
    clocked.ask(1)
    clocked.read()
    assert clocked.answers() == 1
    clocked.now += 5.0  # stopped; then the timer comes before the socket
    clocked.ask(1)
    clocked.front.note_quiet()
    clocked.read()
    assert clocked.answers() == 0


def test_a_long_queue_does_not_age_when_it_is_young(clocked: Clocked) -> None:
    """Full batches for longer than the patience: the kernel knows when the last datagram of each came."""
    for _ in range(5):
        clocked.ask(2 * BATCH_SIZE)
        clocked.read()
        clocked.now += 0.4
        clocked.ask(BATCH_SIZE)
        clocked.read()
    assert clocked.parts.counters.drops["too_old"] == 0


# --- how long requests took -----------------------------------------------------------------------------------------


def slow_rows(server: Server) -> list[dict[str, Any]]:
    told = json.loads(server.front.slow_log.as_json())
    return [dict(zip(told["columns"], row, strict=True)) for row in told["entries"]]


def test_each_answer_is_counted_once_by_how_it_came() -> None:
    with serving() as server:
        client = server.client()
        event = blocker(server, b"slow")
        client.send(b"s", PUT, key=b"slow", value=b"")
        for number in range(BATCH_SIZE + 3):
            client.send(b"%d" % number)
        for number in range(BATCH_SIZE + 3):
            assert client.code(b"%d" % number) == NO_ERR
        client.sock.send(ack(b"a"))
        latency = server.counters.latency
        assert (latency[IN_TURN].count, latency[WAITED].count) == (BATCH_SIZE + 3, 0)
        event.set()
        assert client.code(b"s") == NO_ERR
        assert client.ask(b"last") == NO_ERR
        assert (latency[IN_TURN].count, latency[WAITED].count) == (BATCH_SIZE + 4, 1), "an ack has no answer"
        assert 0 < latency[IN_TURN].total_s < DEADLINE_S


def test_replies_that_the_lease_holds_back_are_no_answers() -> None:
    with serving() as server:
        server.front.may_serve = lambda: False
        server.front.slow_log = SlowLog(0.0)
        client = server.client()
        client.send(b"1")
        server.until(lambda: server.counters.unfenced == 1)
        assert server.counters.latency[IN_TURN].count == 0
        assert slow_rows(server) == []


def test_what_is_slow_is_noted_with_its_client() -> None:
    with serving() as server:
        server.front.slow_log = SlowLog(0.0)
        client = server.client()
        host, port = client.sock.getsockname()
        assert client.ask(b"1", PUT, key=b"quick", value=b"") == NO_ERR
        event = blocker(server, b"waits")
        client.send(b"2", PUT, key=b"waits", value=b"")
        server.until(lambda: server.front.in_flight == 1)
        event.set()
        assert client.code(b"2") == NO_ERR
        server.until(lambda: len(server.front.slow_log) == 2)
        assert [(row["command"], row["key"], row["how"], row["client"]) for row in slow_rows(server)] == [
            ("PUT", "waits", WAITED, f"{host}:{port}"),
            ("PUT", "quick", IN_TURN, f"{host}:{port}"),
        ]


def test_nothing_is_noted_below_the_threshold() -> None:
    with serving() as server:
        server.front.slow_log = SlowLog(DEADLINE_S)
        client = server.client()
        assert client.ask(b"1") == NO_ERR
        assert slow_rows(server) == []
