"""Whatever comes to the HTTP port, the node lives, and nothing but lines of its log is on standard error.

A real process, since what is at stake is its end; its log is in JSON, so that anything else that is written shows.
"""

import json
import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from app.http.head import HEAD_MAX_BYTES
from app.http.server import BACKLOG, CONNECTIONS_MAX
from app.wire.protocol import IS_ALIVE, NO_ERR
from tests.support import nodes
from tests.support.nodes import Node
from tests.support.polling import poll
from tests.support.ports import HOST, free_port

DEADLINE_S = 20.0
SEED = 20_260_401
MUTANTS = 400
LINE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
END = b"\r\n\r\n"

# By what is wrong with them.
HOSTILE = {
    "nothing": b"",
    "empty lines": b"\r\n" * 50,
    "bare line feeds": b"\n" * 50,
    "one word": b"GET" + END,
    "four words": b"GET / HTTP/1.1 x" + END,
    "two words, not GET": b"PUT /" + END,
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 with headers": b"GET /health\r\nHost: x\r\n\r\n",
    "a version without its second number": b"GET / HTTP/1" + END,
    "a version of three": b"GET / HTTP/1.1.1" + END,
    "a version of letters": b"GET / HTTP/a.b" + END,
    "a version without numbers": b"GET / HTTP/" + END,
    "a negative version": b"GET / HTTP/1.-1" + END,
    "a superscript version": b"GET / HTTP/\xb2.\xb3" + END,
    "a very long version": b"GET / HTTP/1." + b"9" * 8000 + END,
    "another protocol": b"GET / FTP/1.1" + END,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a method of per cent signs": b"%s%n%d / HTTP/1.1" + END,
    "per cent signs without HTTP": b"%s %d %n %(x)s" + END,
    "not UTF-8 in the path": b"GET /\xff\xfe\xc3 HTTP/1.1" + END,
    "not UTF-8, escaped": b"GET /%ff%fe%c3%zz% HTTP/1.1" + END,
    "an address for a path": b"GET http://[::1 HTTP/1.1" + END,
    "NUL": b"GET /\0 HTTP/1.1\r\n\0: \0\r\n\r\n",
    "a line without end": b"GET /" + b"x" * 9000,
    "a header without colon": LINE + b"nothing" + END,
    "a header without name": LINE + b": nothing" + END,
    "a folded line first": LINE + b" folded: x" + END,
    "a folded header": LINE + b"X: a\r\n b\r\n\tc" + END,
    "an mbox line": LINE + b"From nobody" + END,
    "spaces before the colon": LINE + b"Transfer-Encoding : chunked" + END,
    "not UTF-8 in a header": LINE + b"X\xff: \xff\xfe\xc3\r\nContent-Type: \xff\r\nConnection: \xff" + END,
    "101 headers": LINE + b"X: y\r\n" * 101 + END,
    "a head of too many bytes": LINE + b"X: " + b"x" * HEAD_MAX_BYTES + END,
    "2,000 short headers": LINE + b"a:\r\n" * 2000 + END,
    "a body": LINE + b"Content-Length: 5\r\n\r\nhello",
    "a body of another size": LINE + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "a body of very long length": LINE + b"Content-Length: " + b"9" * 5000 + END,
    "a body of negative length": LINE + b"Content-Length: -1" + END,
    "HEAD with a body": b"HEAD / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    "a body on demand": LINE + b"Expect: 100-continue\r\nContent-Length: 5" + END,
    "nothing on demand": LINE + b"Expect: 100-continue" + END,
    "bad chunks": LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunks of very long size": LINE + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
    "chunks cut short": LINE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "chunks with bad trailers": LINE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\xff\r\n\r\n",
    "chunks by a second header": LINE + b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an upgrade": LINE + b"Connection: Upgrade\r\nUpgrade: websocket" + END,
    "many requests at once": (LINE + b"\r\n") * 300,
    "a bad one after a good one": b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET" + END,
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("hostile")
    options = ("--http", str(free_port()), "--log-format", "json", "--log-level", "debug")
    with nodes.running(directory, *options) as node:
        node.environment["KV_HTTP"] = options[1]
        yield node
        assert node.stop() == 0


@pytest.fixture(autouse=True)
def the_node_is_well_afterwards(node: Node) -> Iterator[None]:
    if node.process.poll() is not None:  # a test before has ended it
        node.start()
        poll(node.serves)
    logged = len(node.log)
    yield
    assert_well(node, logged)


def connect(node: Node) -> socket.socket:
    return socket.create_connection((HOST, int(node.environment["KV_HTTP"])), DEADLINE_S)


def hang_up_harshly(sock: socket.socket) -> None:
    """By a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def everything(sock: socket.socket) -> bytes:
    parts = []
    try:
        while part := sock.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def assert_well(node: Node, logged: int) -> None:
    """It serves clients and HTTP, and its log is a log past so many characters."""
    assert node.process.poll() is None, f"it ended with status {node.process.returncode}:\n{node.log[logged:][-6000:]}"
    assert node.code(IS_ALIVE) == NO_ERR
    with connect(node) as sock:
        sock.sendall(LINE + b"Connection: close" + END)
        assert everything(sock).startswith(b"HTTP/1.1 200 OK")
    for line in node.log[logged:].splitlines():
        assert line.startswith("{"), f"not a line of the log: {line}"
        event = json.loads(line)
        assert event["level"] != "ERROR", line


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_answered_or_refused(node: Node, what: str) -> None:
    with connect(node) as sock:
        try:
            sock.sendall(HOSTILE[what])
            sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it has hung up meanwhile
        answered = everything(sock)
    assert not answered or answered.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4", b"HTTP/1.1 505")), answered[:200]


@pytest.mark.parametrize("hang_up", [socket.socket.close, hang_up_harshly])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_of_who_does_not_wait_for_an_answer(
    node: Node, what: str, hang_up: Callable[[socket.socket], None]
) -> None:
    sock = connect(node)
    with suppress(ConnectionError):
        sock.sendall(HOSTILE[what])
    hang_up(sock)


def test_requests_that_were_damaged(node: Node) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = [data for data in HOSTILE.values() if 0 < len(data) < 1000]
    for _ in range(MUTANTS):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.choice((0, 0, 1, 5))] = rng.choice(
                (b"", b"\r\n", b":", b" ", b"\0", b"\xff", rng.randbytes(3), rng.choice(whole)[:40])
            )
            if not data:
                break
        with connect(node) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            if rng.random() < 0.5:
                everything(sock)


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        LINE,
        LINE + b"Host: no",
        LINE + b"Host: node\r\n",
        LINE + b"\r\n",
        LINE + b"\r\nGET",
        LINE + b"\r\n" + LINE,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
        LINE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    ],
)
def test_a_reset_in_every_phase(node: Node, sent: bytes) -> None:
    for _ in range(10):
        sock = connect(node)
        sock.sendall(sent)
        hang_up_harshly(sock)
    with connect(node) as first:  # one that is being served already
        first.sendall(LINE + b"\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 200 OK")
        first.sendall(sent)
        hang_up_harshly(first)


def test_a_reset_by_who_has_not_taken_its_answers(node: Node) -> None:
    sock = connect(node)
    sock.setblocking(False)
    asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200
    try:
        while True:
            sock.send(asked)
    except BlockingIOError:
        pass  # it reads no more, because its answers are not taken
    hang_up_harshly(sock)


def test_more_connections_than_are_served(node: Node) -> None:
    socks = [connect(node) for _ in range(CONNECTIONS_MAX + BACKLOG // 2)]
    for number, sock in enumerate(socks):
        (hang_up_harshly if number % 2 else socket.socket.close)(sock)


def test_a_node_without_descriptors_to_spare_lives(node: Node) -> None:
    pid = node.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
    try:
        # Connections of the test before may end meanwhile, and give theirs back.
        socks = []
        with ExitStack() as stack:

            def is_told() -> bool:
                socks.append(stack.enter_context(connect(node)))  # the system's queue takes it
                return "http.accept_failed" in node.log or node.process.poll() is not None

            poll(is_told, DEADLINE_S)
            assert node.code(IS_ALIVE) == NO_ERR
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            socks[-1].sendall(LINE + b"Connection: close" + END)
            assert everything(socks[-1]).startswith(b"HTTP/1.1 200 OK")
    finally:
        if node.process.poll() is None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
