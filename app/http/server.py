"""The HTTP server: gevent's own, bounded, and what is where.

It shares the node's process and loop, so nothing that is sent to it may hurt the node: connections are counted, a
request's head is bounded before it is parsed (the standard library would take 100 header lines of 64 KiB each), a body
is refused unread, and a connection that makes no request in time, or does not take its answer, is closed. It only
reads; every answer but the page is made afresh. Its log is silent: a scrape every few seconds is no change of state.

Whatever reaches gevent's hub unhandled ends the process (app/loop.py), and gevent's server lets much reach it: a client
that hangs up before it is refused, an `accept` that fails for want of descriptors. Nothing that happens to a request
or a connection here is worth a node, which the pages only read. So all of it ends in one of two ways, of any type: a
client's fault or its hanging up is a debug line, a fault of ours is that request's 500 and a line with its traceback.

Whoever reaches the port sees what is there, keys in the slow log included: bind it to a private address.
"""

import gzip
import json
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Final, NamedTuple

import gevent
from gevent import socket as gevent_socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from app.http.metrics import METRICS_TYPE, Exposition
from app.http.observed import ObservedNode
from app.http.page import Page
from app.http.status import StatusReport
from app.http.watch import Watch
from app.observe import logs
from app.sockets import listening_socket

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
# As it goes over the wire: where it is sent, gevent's handler may be in any state.
_BROKEN: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"a fault in the node; its log tells more\n"
)


class Site:
    """The WSGI application: a node's pages."""

    def __init__(self, node: ObservedNode, watch: Watch) -> None:
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
        except OSError as error:  # gevent's handler would take it for the connection's
            raise RuntimeError("the system refused a page what it needs") from error

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
        readiness = self._node.readiness()
        said = {"ready": readiness.is_ready, "reasons": readiness.reasons, "lacking": readiness.lacking}
        return _json("200 OK" if readiness.is_ready else "503 Service Unavailable", said)

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
        """Bounded in time, its refusal included; None, which closes the connection, when it takes too long."""
        self.rfile.left = HEAD_MAX_BYTES
        self.response_length = 0
        with gevent.Timeout(REQUEST_TIMEOUT_S, False):  # type: ignore[arg-type]
            try:
                result = super().handle_one_request()
                if result is None or result is True:
                    return result
                _, refusal = result
                self.socket.sendall(refusal)
            except OSError as error:
                self._hung_up(error)
            except Exception as error:  # noqa: BLE001 - the boundary: a request fails, the node goes on
                self._failed(error)
        return None

    def read_request(self, raw_requestline: str) -> Any:
        """Raises ValueError, which is answered 400, for one with a body."""
        read = super().read_request(raw_requestline)
        if self.content_length or self.headers.get("transfer-encoding"):
            raise ValueError("a request with a body")
        return read

    def _check_http_version(self) -> bool:
        """Whether it is one; gevent's takes for granted that it has two numbers."""
        return "." in str(self.request_version) and super()._check_http_version()  # type: ignore[misc]

    def _handle_client_error(self, ex: Exception) -> Any:
        """What to answer when the request could not be read. gevent's prints a trace for more than ValueErrors."""
        if isinstance(ex, HTTPException):  # too many headers
            ex = ValueError(*ex.args)
        if isinstance(ex, ValueError):
            return super()._handle_client_error(ex)  # type: ignore[misc]
        raise ex  # `handle_one_request` knows what to do

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """What came up while the request was answered. gevent's would report it to the hub."""
        if isinstance(v, Exception) and not isinstance(v, OSError):
            self._failed(v)
        else:  # the client is gone, or does not read; or its time is over, or the server's
            self._hung_up(v)

    def _hung_up(self, error: BaseException) -> None:
        """The answer could not be sent, or not in time: hang up as well, and say so quietly."""
        self.close_connection = True
        _faults.debug("not_answered", client=self.client_address, error=repr(error))

    def _failed(self, error: Exception) -> None:
        """A fault of ours: say so to the log, and to the client if nothing was said to it yet."""
        self.close_connection = True
        _faults.exception("request_failed", error)
        if not self.response_length:
            with suppress(OSError):
                self.socket.sendall(_BROKEN)

    def log_request(self) -> None:
        """Scrapes and polls are nothing to be logged."""

    def log_error(self, msg: str, *args: Any) -> None:
        """A client's fault."""
        _faults.debug("bad_request", client=self.client_address, error=msg % args if args else msg)


class _Server(WSGIServer):
    """gevent's server, of whose faults the hub hears nothing."""

    def __init__(self, listener: Any, site: Site, connections: Pool, environ: dict[str, str]) -> None:
        super().__init__(
            listener, site, spawn=connections, log=None, error_log=None, handler_class=_Handler, environ=environ
        )
        self.loop: Any = _LoggingLoop(self.loop)

    def handle(self, sock: Any, address: Any) -> None:
        """A connection, in a greenlet of its own."""
        try:
            super().handle(sock, address)
        except OSError as error:
            _faults.debug("not_answered", client=address, error=error)
        except Exception as error:  # noqa: BLE001 - the boundary: a connection fails, the node goes on
            _faults.exception("connection_failed", error)

    def is_fatal_error(self, ex: BaseException) -> bool:
        """No: gevent's would end the server for one, with a line of its own on standard error."""
        return False


class _LoggingLoop:
    """gevent's loop, as its server uses it; what that would report as a fault to the hub goes to the log."""

    def __init__(self, loop: Any) -> None:
        self.io = loop.io
        self.timer = loop.timer

    def handle_error(self, context: object, type: object, value: BaseException, tb: object) -> None:
        """The server could not take a connection; it pauses, at most a second, and tries again."""
        if isinstance(value, OSError):  # out of descriptors
            _faults.warning("accept_failed", error=value)
        else:
            _faults.exception("accept_failed", value)


class HttpServer:
    """A node's HTTP server, with what it watches. `start` it once the node runs."""

    def __init__(self, listener: socket.socket, node: ObservedNode) -> None:
        """`listener`: bound, listening, non-blocking."""
        self._listener = gevent_socket.socket(listener.family, listener.type, listener.proto, listener.detach())
        self._watch = Watch(node)
        # The name is given: the server would look it up, which may take seconds.
        environ = {"SERVER_NAME": node.options.http_bind}
        self._connections = Pool(CONNECTIONS_MAX)
        self._server: Any = _Server(self._listener, Site(node, self._watch), self._connections, environ)

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


def start(node: ObservedNode) -> HttpServer:
    """Serve a node's pages where its options say. Raises UsageError when the port can't be bound."""
    options = node.options
    assert options.http_port is not None
    server = HttpServer(listening_socket(options.http_bind, options.http_port, BACKLOG, "--http-bind"), node)
    server.start()
    return server
