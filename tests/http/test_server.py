"""The HTTP server over real sockets: what is where, and that nothing sent to it takes more than its bound."""

import errno
import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import gevent
import pytest

from app.cluster.readiness import Readiness
from app.config.usage import UsageError
from app.http import server as http_server
from app.http.head import HEAD_MAX_BYTES
from app.http.server import CONNECTIONS_MAX, HttpServer
from app.observe.logs import limited_logger
from app.wire.protocol import PUT, slot_of
from tests.http.running import Answer, Running, everything, running
from tests.support.polling import poll_in_loop
from tests.wire.datagrams import request


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    with running() as node:
        yield node


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/health", "application/json"),
        ("/ready", "application/json"),
        ("/slowlog", "application/json"),
        ("/docs", "text/plain; charset=utf-8"),
    ],
)
def test_what_is_where(node: Running, path: str, content_type: str) -> None:
    answer = node.ask(path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.headers["Cache-Control"] == "no-store"
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 0
    head = node.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert node.ask(path + "?a=b").status == 200


def test_everything_else_is_not_there(node: Running) -> None:
    for path in ("/nothing", "/status.html", "/../etc/passwd", "/%2e%2e/x", "//", "/metrics/"):
        assert node.ask(path).status == 404, path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_it_is_only_to_be_read(node: Running, method: str) -> None:
    answer = node.ask("/status.json", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_long_answers_are_compressed_for_who_takes_it(node: Running) -> None:
    answer = node.ask("/status.json", "GET", "Accept-Encoding: br, gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body))["ready"] is True
    assert "Content-Encoding" not in node.ask("/health", "GET", "Accept-Encoding: gzip").headers


def test_a_connection_serves_several_requests(node: Running) -> None:
    with node.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ready HTTP/1.0\r\n\r\n")
        assert everything(sock).count(b"HTTP/1.1 200 OK") == 2


# --- what browsers are kept from --------------------------------------------------------------------------------------

PATHS = ("/", "/status.json", "/metrics", "/health", "/ready", "/slowlog", "/nothing")


@pytest.mark.parametrize("path", PATHS)
def test_who_calls_the_node_by_another_name_is_told_nothing(node: Running, path: str) -> None:
    for host in ("evil.example", f"evil.example:{node.http_port}", "", "10.0.0.1.evil.example"):
        answer = node.ask(path, host=host)
        assert (answer.status, answer.body[:11]) == (421, b"not a name "), host
        assert b"evil" not in answer.body


def test_names_that_are_the_nodes() -> None:
    with running(http_hosts=("status.example",)) as node:
        for host in ("status.example", f"STATUS.example:{node.http_port}", socket.gethostname(), "[::1]", "10.9.8.7:1"):
            assert node.ask("/status.json", host=host).status == 200, host
        with node.connect() as sock:
            sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")  # as balancers do, and no browser
            assert Answer(everything(sock)).status == 200


def test_a_refused_name_is_logged(
    node: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.http.site._faults", limited_logger("http"))  # with its limit not reached
    node.ask("/", host="evil.example")
    assert [(record.msg, record.fields) for record in caplog.records if record.name == "http"] == [  # type: ignore[attr-defined]
        ("http.host_refused", {"host": "evil.example"})
    ]


@pytest.mark.parametrize("path", PATHS)
def test_no_page_of_another_place_reads_anything(node: Running, path: str) -> None:
    for headers in ((), ("Origin: http://evil.example",), ("Sec-Fetch-Site: same-origin",)):
        answer = node.ask(path, "GET", *headers)
        assert answer.status == (404 if path == "/nothing" else 200)
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    for site in ("cross-site", "same-site"):
        answer = node.ask(path, "GET", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script")
        assert answer.status == 403
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


# --- bounds ----------------------------------------------------------------------------------------------------------


def first_line_and_header(length: int) -> bytes:
    """A request whose head has so many bytes."""
    start, end = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (length - len(start) - len(end)) + end


@pytest.mark.parametrize(("length", "status"), [(HEAD_MAX_BYTES, 200), (HEAD_MAX_BYTES + 1, 431)])
def test_a_head_is_bounded(node: Running, length: int, status: int) -> None:
    with node.connect() as sock:
        sock.sendall(first_line_and_header(length))
        assert Answer(everything(sock)).status == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n" + bytes(50_000), 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 413),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_of_ours_is_refused_and_the_connection_closed(
    node: Running, data: bytes, status: int
) -> None:
    with node.connect() as sock:
        sock.sendall(data)
        answer = Answer(everything(sock))
    assert (answer.status, answer.headers["Connection"]) == (status, "close")
    assert node.ask("/health").status == 200


@pytest.mark.parametrize("data", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_hangs_up_in_the_midst_of_a_request_is_not_answered(node: Running, data: bytes) -> None:
    with node.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""


def test_a_head_may_come_in_parts(node: Running) -> None:
    with node.connect() as sock:
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes((byte,)))
            gevent.sleep(0)
        assert Answer(everything(sock)).status == 200


def test_a_long_first_line_is_refused(node: Running) -> None:
    with node.connect() as sock:
        sock.sendall(b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert Answer(everything(sock)).status == 414


def test_who_does_not_ask_in_time_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.05)
    with running() as node:
        for sent in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n"):
            with node.connect() as sock:
                sock.sendall(sent)
                assert everything(sock) == b""


def test_who_does_not_take_its_answers_in_time_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.2)
    with running() as node, node.connect() as sock:

        def ask_for_more_than_any_buffer_takes() -> None:
            with suppress(ConnectionError):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)

        asking = gevent.spawn(ask_for_more_than_any_buffer_takes)
        while not node.http.connections:
            gevent.sleep(0)
        while node.http.connections:  # by the time limit of `running`
            gevent.sleep(0.01)
        asking.kill()
        monkeypatch.undo()
        assert node.ask("/health").status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_when_all_places_are_taken_who_has_asked_for_nothing_for_the_longest_leaves(node: Running) -> None:
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    poll_in_loop(lambda: not node.http.connections)
    socks = [node.connect() for _ in range(CONNECTIONS_MAX)]
    for sock in socks:  # each is being served, and kept
        sock.sendall(asked)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    socks[0].sendall(asked)
    assert socks[0].recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert node.ask("/health").status == 200
    assert everything(socks[1]) == b""
    for sock in (socks[0], *socks[2:]):
        sock.sendall(asked)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n"])
def test_a_hundred_who_hold_connections_keep_nobody_out(node: Running, sent: bytes) -> None:
    """Within a part of the time after which they are hung up on."""
    socks = [node.connect() for _ in range(100)]
    for sock in socks:
        with suppress(ConnectionError):  # it has made room for others
            sock.sendall(sent)
    with gevent.Timeout(http_server.REQUEST_TIMEOUT_S / 5):
        assert node.ask("/health").status == 200
        assert node.ask("/ready").status == 200
    assert node.http.connections <= CONNECTIONS_MAX
    for sock in socks:
        sock.close()


# --- faults of ours --------------------------------------------------------------------------------------------------


def broken(*arguments: object, **named: object) -> object:
    raise AssertionError("on purpose")  # of the types that end a node elsewhere


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("app.node.Node.figures", 500),  # the page
        ("app.http.copies.gzip.compress", 500),
        ("app.http.site.is_from_elsewhere", 500),
        ("app.http.head.HeadReader.next", 0),  # none
        ("app.http.server._http_date", 0),
        ("app.http.server._Connection.__init__", 0),
    ],
)
def test_a_fault_is_that_requests_500_and_a_line_in_the_log(
    part: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(http_server, "_faults", limited_logger("http"))  # with its limit not reached
    with running() as node:
        with monkeypatch.context() as patch:
            patch.setattr(part, broken)
            assert node.ask("/status.json", "GET", "Accept-Encoding: gzip").status == status
        (record,) = [record for record in caplog.records if record.name == "http"]
        assert record.levelname == "ERROR"
        assert "AssertionError: on purpose" in record.fields["traceback"]  # type: ignore[attr-defined]
        assert node.ask("/health").status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_page_that_the_system_refuses_something_is_500_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not to be taken for a client that has hung up."""
    monkeypatch.setattr(http_server, "_faults", limited_logger("http"))

    def figures(node: object) -> object:
        raise ConnectionResetError(errno.ECONNRESET, "on purpose")

    with running() as node:
        monkeypatch.setattr("app.node.Node.figures", figures)
        assert node.ask("/status.json").status == 500
        assert node.ask("/health").status == 200
    (record,) = [record for record in caplog.records if record.name == "http"]
    assert (record.levelname, record.msg) == ("ERROR", "http.request_failed")
    assert "on purpose" in record.fields["traceback"]  # type: ignore[attr-defined]


def test_an_accept_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http_server, "_faults", limited_logger("http"))
    monkeypatch.setattr(http_server, "_ACCEPT_PAUSE_S", 0.01)
    errors = [
        ConnectionAbortedError(errno.ECONNABORTED, "Gone"),  # no reason to say anything
        *(OSError(errno.EMFILE, "Too many open files"), OSError(errno.EBADF, "Bad"), ValueError("on purpose")),
    ]
    serve = http_server.HttpServer._serve

    def fail_or_serve(server: HttpServer, sock: socket.socket, client: object) -> None:
        if errors:
            raise errors.pop(0)
        serve(server, sock, client)

    with running() as node:
        monkeypatch.setattr(http_server.HttpServer, "_serve", fail_or_serve)
        for _ in range(len(errors)):
            node.connect().close()
        assert node.ask("/health").status == 200
    assert [(record.msg, record.levelname) for record in caplog.records if record.name == "http"] == [
        ("http.accept_failed", "WARNING"),
        ("http.accept_failed", "WARNING"),
        ("http.accept_failed", "ERROR"),
    ]
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_told() -> None:
    with running() as first:
        options = first.node.options
        with pytest.raises(
            UsageError, match=f"can't bind TCP 127.0.0.1 port {options.http_port}: .*another process uses it"
        ):
            http_server.start(first.node)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_ready_says_why_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Running()
    node.start_http()
    try:
        answer = node.ask("/ready")
        assert (answer.status, answer.json()) == (
            503,
            {
                "ready": False,
                "reasons": ["no view: it has found no cluster yet; 1 of 1 servers heard, itself included"],
                "lacking": [],
            },
        )
        assert node.ask("/health").json() == {"status": "alive"}
        assert node.ask("/status.json").json()["slots"] is None
        node.node.start()
        poll_in_loop(lambda: node.ask("/ready").json() == {"ready": True, "reasons": [], "lacking": []})
        core, whole = node.node.membership.core, node.node.readiness

        def readiness_without_a_lease() -> Readiness:
            core.lease_until = 0.0
            return whole()

        monkeypatch.setattr(node.node, "readiness", readiness_without_a_lease)
        poll_in_loop(lambda: node.ask("/ready").status == 503)
        (reason,) = node.ask("/ready").json()["reasons"]
        assert reason.startswith("no lease: it serves nothing")
    finally:
        node.close()


def test_the_slow_log_by_http() -> None:
    with running(slow_ms=1) as node:
        node.node.slow_log.threshold_s = 0.0
        node.datagram(request(b"m" * 16, command=PUT, key=b"a\n", value=b"v"))
        told = node.ask("/slowlog").json()
        assert told["total"] == 1
        assert told["entries"][0][1:4] == ["PUT", r"a\n", slot_of(b"a\n")]


def test_status_json_tells_of_the_node() -> None:
    with running() as node:
        for number in range(10):
            node.datagram(request(b"%016d" % number, command=PUT, key=b"%d" % number, value=b"v"))
        told = node.ask("/status.json").json()
        me = str(node.node.options.me)
        assert (told["node"]["address"], told["ready"], told["memory"]["entries"]) == (me, True, 10)
        (member,) = told["members"]
        assert (member["address"], member["state"], member["me"], member["line"]) == (me, "alive", True, 0)
        assert (member["primary"], member["vitals"]["requests"]) == (256, 10)
        assert told["slots"] == {"primary": [0] * 256, "backups": [[]] * 256, "learners": [[]] * 256}
        cluster = told["cluster"]
        assert (cluster["copies_wanted"], cluster["copies_missing"]) == (1, 0), "its file has no place for more"
        assert (cluster["reads"], cluster["writes"], told["whole"], told["lacking"]) == (256, 256, True, [])
        (change,) = told["changes"]
        assert (change["epoch"], change["came"], change["went"], change["moved"]) == (1, [me], [], 0)
