"""The HTTP server: gevent's own, bounded, and what is where.

It shares the node's process and loop, so nothing that is sent to it may hurt the node: connections are counted, a
request's head is bounded before it is parsed (the standard library would take 100 header lines of 64 KiB each), a body
is refused unread, and a connection that makes no request in time, or does not take its answer, is closed. It only
reads; every answer but the page is made afresh. Its log is silent: a scrape every few seconds is no change of state.

Whoever reaches the port sees what is there, keys in the slow log included: bind it to a private address.
"""

import gzip
import json
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gevent
from gevent import socket as gevent_socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from app.http.metrics import METRICS_TYPE, Exposition
from app.http.page import Page
from app.http.status import StatusReport, not_ready_because
from app.http.watch import Watch
from app.observe import logs
from app.sockets import listening_socket

if TYPE_CHECKING:
    from app.node import Node

# Connections at once; the next ones wait in the system's queue. Each holds at most HEAD_MAX_BYTES and its answer
# (about 60 KB), so all of them 2 MB.
CONNECTIONS_MAX: Final = 16
# A request line with all its headers. Browsers send 1 KB, and more with other applications' cookies.
HEAD_MAX_BYTES: Final = 16 * 1024
# For everything about one request: waiting for it on a connection that is kept open, reading, answering.
REQUEST_TIMEOUT_S: Final = 15.0
BACKLOG: Final = 64
# What is shorter isn't worth compressing.
_GZIP_MIN_BYTES: Final = 1024
_GZIP_LEVEL: Final = 1  # the page polls each second: 0.3 ms for 15 KB, and a quarter of the bytes

_log = logs.logger("http")
_faults = logs.limited_logger("http")

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Answer(NamedTuple):
    status: str
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_NOT_FOUND: Final = _Answer("404 Not Found", _TEXT, b"Here are: / /status.json /metrics /health /ready /slowlog\n")
_NOT_ALLOWED: Final = _Answer("405 Method Not Allowed", _TEXT, b"only to be read\n", (("Allow", "GET, HEAD"),))
_BROKEN: Final = _Answer("500 Internal Server Error", _TEXT, b"a fault in the node; its log tells more\n")


class Site:
    """The WSGI application: a node's pages."""

    def __init__(self, node: "Node", watch: Watch) -> None:
        self._node = node
        self._exposition = Exposition(node)
        self._report = StatusReport(node, watch)
        self._page = Page()
        self._routes: dict[str, Callable[[], _Answer]] = {
            "/": self._index,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/health": self._health,
            "/ready": self._ready,
            "/slowlog": self._slowlog,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """WSGI's entry."""
        answer = self._answer(environ)
        body = answer.body
        headers = [
            ("Content-Type", answer.content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *answer.headers,
        ]
        if len(body) >= _GZIP_MIN_BYTES and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        headers.append(("Content-Length", str(len(body))))
        start_response(answer.status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> _Answer:
        route = self._routes.get(environ["PATH_INFO"])
        if route is None:
            return _NOT_FOUND
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _NOT_ALLOWED
        try:
            return route()
        except Exception as error:  # noqa: BLE001 - the boundary: a page fails, the node goes on
            _faults.exception("request_failed", error)
            return _BROKEN

    def _index(self) -> _Answer:
        return _Answer("200 OK", "text/html; charset=utf-8", self._page.html, self._page.headers)

    def _status(self) -> _Answer:
        return _json("200 OK", self._report.as_dict())

    def _metrics(self) -> _Answer:
        return _Answer("200 OK", METRICS_TYPE, self._exposition.text())

    def _health(self) -> _Answer:
        """That this is answered at all says that the process lives and its loop turns."""
        return _json("200 OK", {"status": "alive"})

    def _ready(self) -> _Answer:
        reasons = not_ready_because(self._node)
        return _json("503 Service Unavailable" if reasons else "200 OK", {"ready": not reasons, "reasons": reasons})

    def _slowlog(self) -> _Answer:
        return _Answer("200 OK", _JSON, self._node.slow_log.as_json(max_bytes=1 << 20))


def _json(status: str, value: object) -> _Answer:
    return _Answer(status, _JSON, json.dumps(value, separators=(",", ":")).encode() + b"\n")


class _HeadTooLong(ValueError):
    """Answered 400 by gevent's server, as every ValueError is."""


class _BoundedReader:
    """What a connection sends, with a bound on what one request may take."""

    def __init__(self, sock: Any) -> None:
        self._file = sock.makefile("rb", 4096)
        self.left = HEAD_MAX_BYTES

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def readline(self, limit: int = -1) -> bytes:
        """As a file's. Raises _HeadTooLong past the bound."""
        line: bytes = self._file.readline(min(limit if limit >= 0 else self.left, self.left) + 1)
        self.left -= len(line)
        if self.left < 0:
            raise _HeadTooLong(f"a request's head of over {HEAD_MAX_BYTES} bytes")
        return line

    def read(self, count: int = -1) -> bytes:
        """Bodies are refused, so there is nothing to be read."""
        return b""


class _Handler(WSGIHandler):
    """One connection."""

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server)
        # Head and body are two writes: without this the second waits up to 40 ms for the first one's ack.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile: Any = _BoundedReader(sock)

    def handle_one_request(self) -> Any:
        """Bounded in time; None, which closes the connection, when it takes too long."""
        self.rfile.left = HEAD_MAX_BYTES
        with gevent.Timeout(REQUEST_TIMEOUT_S, False):  # type: ignore[arg-type]
            return super().handle_one_request()
        return None

    def read_request(self, raw_requestline: str) -> Any:
        """Raises ValueError, which is answered 400, for one with a body."""
        read = super().read_request(raw_requestline)
        if self.content_length or self.headers.get("transfer-encoding"):
            raise ValueError("a request with a body")
        return read

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """The answer could not be sent, or not in time (our application raises nothing): hang up, and say so quietly.

        gevent's would print a trace, and try to send another answer to who does not read.
        """
        self.close_connection = True
        _faults.debug("not_answered", client=self.client_address, error=repr(v))

    def log_request(self) -> None:
        """Scrapes and polls are nothing to be logged."""

    def log_error(self, msg: str, *args: Any) -> None:
        """A client's fault."""
        _faults.debug("bad_request", client=self.client_address, error=msg % args if args else msg)


class HttpServer:
    """A node's HTTP server, with what it watches. `start` it once the node runs."""

    def __init__(self, listener: socket.socket, node: "Node") -> None:
        """`listener`: bound, listening, non-blocking."""
        self._listener = gevent_socket.socket(listener.family, listener.type, listener.proto, listener.detach())
        self._watch = Watch(node)
        # The name is given: the server would look it up, which may take seconds.
        environ = {"SERVER_NAME": node.options.http_bind}
        self._connections = Pool(CONNECTIONS_MAX)
        self._server: Any = WSGIServer(
            self._listener,
            Site(node, self._watch),
            spawn=self._connections,
            log=None,
            error_log=None,
            handler_class=_Handler,
            environ=environ,
        )

    @property
    def connections(self) -> int:
        """Connections being served."""
        return len(self._connections)

    def start(self) -> None:
        """Serve; returns at once."""
        self._watch.start()
        self._server.start()
        host, port = self._listener.getsockname()[:2]
        _log.info("started", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def stop(self) -> None:
        """Close the port and every connection."""
        self._watch.stop()
        self._server.stop(timeout=0)


def start(node: "Node") -> HttpServer:
    """Serve a node's pages where its options say. Raises UsageError when the port can't be bound."""
    options = node.options
    assert options.http_port is not None
    server = HttpServer(listening_socket(options.http_bind, options.http_port, BACKLOG, "--http-bind"), node)
    server.start()
    return server
