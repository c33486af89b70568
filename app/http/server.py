"""The HTTP server: connections, each with a greenlet, all of which share a small part of the loop's time.

It runs in the node's process and loop, so nothing that is sent to it may hurt the node. Time: it works in pieces, by
share.py. Memory: connections are counted; each holds a head at most (head.py) and the copy that it is being sent
(copies.py). Patience: a connection that makes no request in time, or does not take its answer, is closed; and when all
places are taken, the next one gets that of one which has had an answer, or else has waited the longest for its client.
So a hundred who hold connections open keep nobody out. It only reads, and logs nothing per request: a scrape every few
seconds is no change of state.

gevent's own server was rejected (it was here before): it reads heads leniently and reports to the hub, where a fault
ends the process (app/loop.py); what had to be put around it was longer than this file.

Nothing that happens to a request or a connection is worth a node. A client's fault is answered and is a debug line, as
is his hanging up; a fault of ours, of any type, is that request's 500 and a line with its traceback.

Whoever reaches the port sees what is there, keys in the slow log included: bind it to a private address. What browsers
are kept from is in origin.py.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from app.http.copies import Content
from app.http.head import HeadReader, Refused, Request
from app.http.observed import ObservedNode
from app.http.share import Share
from app.http.site import Site
from app.http.watch import Watch
from app.loop import READ, WRITE, Loop, Task
from app.observe import logs
from app.sockets import listening_socket

# Connections at once. Each holds at most a head and its answer (16 and about 60 KB), so all of them 2.4 MB.
CONNECTIONS_MAX: Final = 32
# For everything about one request: waiting for it on a connection that is kept open, reading, answering.
REQUEST_TIMEOUT_S: Final = 15.0
# What wait in the system's queue.
BACKLOG: Final = 128
# Connections taken in one piece of work, 0.03 ms each.
_ACCEPT_STEP: Final = 16
# A new connection has so long before it may have to make room for another one (s): clients are that far away. Raising
# it means fewer new ones a second while somebody makes them and says nothing: CONNECTIONS_MAX / _GRACE_S.
_GRACE_S: Final = 0.05
# Pause after a failed accept (s): out of descriptors, most likely; the queue does not go away by trying.
_ACCEPT_PAUSE_S: Final = 1.0
# A head that comes in several parts is looked at again after so long, then after twice as long, ... (s): nobody makes
# work by sending it byte by byte, and one in two segments is hardly late.
_PART_WAIT_S: Final = (0.004, 0.5)
# How long the listener is waited for in one go (s); it has no meaning.
_ACCEPT_WAIT_S: Final = 60.0
# A connection that is closed while bytes of its client are unread is reset, and the reset takes the answer with it
# (RFC 9112, 9.6). So what still comes is read, for so long (s), up to so many bytes.
_LINGER_S: Final = 1.0
_LINGER_MAX_BYTES: Final = 64 * 1024

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
_TEXT: Final = "text/plain; charset=utf-8"
_BROKEN: Final = Content("500 Internal Server Error", _TEXT, b"a fault in the node; its log tells more\n")

_log = logs.logger("http")
_faults = logs.limited_logger("http")


class _Connection:
    """One client's, served by `run` in a greenlet of its own."""

    def __init__(
        self,
        loop: Loop,
        share: Share,
        answer: Callable[[Request], Content],
        sock: socket.socket,
        client: Any,
        on_closed: Callable[["_Connection"], object],
    ) -> None:
        # Head and body are two writes: without this the second waits up to 40 ms for the first one's ack.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self._share = share
        self._answer = answer
        self._sock = sock
        self._client = client
        self._on_closed = on_closed
        self._heads = HeadReader()
        self._deadline_s = 0.0  # by the loop's clock
        self.asked_s = loop.now()  # when it asked last, or was taken
        self._is_idle = True  # waits for its client
        self.was_answered = False

    def run(self) -> None:
        """Serve request after request, until either side has had enough."""
        try:
            while self._serve():
                pass
            self._linger()
        except OSError as error:  # the client is gone, or does not read
            _faults.debug("not_answered", client=self._client, error=error)
        except Exception as error:  # noqa: BLE001 - the boundary: a connection fails, the node goes on
            _faults.exception("connection_failed", error)
        finally:
            self._sock.close()
            self._on_closed(self)

    @property
    def may_leave(self) -> bool:
        """Whether another one may have its place."""
        return self._is_idle and (self.was_answered or self._loop.now() - self.asked_s >= _GRACE_S)

    def abandon(self, task: Task) -> None:
        """End it, whatever it does; to be called by the loop. `task`: in which it runs, or was to run."""
        task.cancel()
        self._sock.close()

    def _serve(self) -> bool:
        """One request; False when it is the last one of this connection. Raises OSError."""
        self._deadline_s = self._loop.now() + REQUEST_TIMEOUT_S
        if not self._heads.is_empty:
            self._share.turn()
        try:
            request = self._read()
        except Refused as refusal:
            _faults.debug("bad_request", client=self._client, error=refusal)
            self._send(Content(refusal.status, _TEXT, f"{refusal}\n".encode()), keep=False)
            return False
        if request is None:
            return False
        self.asked_s = self._loop.now()
        self._is_idle = False
        keep = request.keeps_connection
        try:
            content = self._answer(request)
        except Exception as error:  # noqa: BLE001 - the boundary: a request fails, the node goes on
            _faults.exception("request_failed", error)
            content, keep = _BROKEN, False
        self._send(content, keep=keep, with_body=request.method != "HEAD")
        self._is_idle = self.was_answered = True
        return keep

    def _read(self) -> Request | None:
        """The next request; None when the client has hung up, or takes too long. Raises OSError, Refused."""
        wait_s, wait_max_s = _PART_WAIT_S
        while True:
            request = self._heads.next()
            if request is not None:
                return request
            if self._heads.is_empty:
                after_s = 0.0
            else:
                after_s, wait_s = wait_s, min(wait_max_s, 2 * wait_s)
            if not self._wait(READ, after_s):
                return None
            with suppress(BlockingIOError):
                data = self._sock.recv(self._heads.room)
                if not data:
                    return None
                self._heads.take(data)

    def _wait(self, events: int, after_s: float = 0.0) -> bool:
        """Until the socket can be read or written, so long from now or later, and it is this connection's turn.

        False when time has run out.
        """
        self._is_idle = True
        if after_s:
            self._loop.sleep(after_s)
        is_ready = self._loop.wait(self._sock.fileno(), events, self._deadline_s - self._loop.now())
        self._is_idle = self.was_answered  # else its first answer waits for a turn only, which will come
        if is_ready:
            self._share.turn()
        return is_ready

    def _send(self, content: Content, *, keep: bool, with_body: bool = True) -> None:
        """Raises OSError, TimeoutError among them when the client does not take it."""
        lines = [f"HTTP/1.1 {content.status}", f"Date: {_http_date()}"]
        for name, value in (*_HEADERS, *content.headers):
            lines.append(f"{name}: {value}")
        lines += [f"Content-Type: {content.content_type}", f"Content-Length: {len(content.body)}"]
        if not keep:
            lines.append("Connection: close")
        head = "\r\n".join((*lines, "", "")).encode("latin-1")
        self._write(head, socket.MSG_MORE if with_body else 0)
        if with_body:
            self._write(content.body)

    def _write(self, data: bytes, flags: int = 0) -> None:
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self._sock.send(unsent, flags) :]
            except BlockingIOError:
                if not self._wait(WRITE):
                    raise TimeoutError("the answer was not taken") from None

    def _linger(self) -> None:
        """Let the client have its answer before the connection is closed. Raises OSError."""
        self._sock.shutdown(socket.SHUT_WR)
        self._deadline_s = self._loop.now() + _LINGER_S
        left = _LINGER_MAX_BYTES
        while left > 0 and self._wait(READ):
            with suppress(BlockingIOError):
                data = self._sock.recv(left)
                if not data:
                    return
                left -= len(data)


def _http_date() -> str:
    """Now, as RFC 9110 writes it. The process never sets a locale, so names are English ones."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())


class HttpServer:
    """A node's HTTP server, with what it watches. `start` it once the node runs."""

    def __init__(self, listener: socket.socket, node: ObservedNode) -> None:
        """`listener`: bound, listening, non-blocking, as is what it accepts."""
        self._listener = listener
        self._loop = node.loop
        self._share = Share(node.loop)
        self._watch = Watch(node, self._share)
        self._site = Site(node, self._watch, self._share)
        self._connections: dict[_Connection, Task] = {}
        self._acceptor: Task | None = None

    @property
    def connections(self) -> int:
        """Connections being served."""
        return len(self._connections)

    def start(self) -> None:
        """Serve; returns at once."""
        self._watch.start()
        self._acceptor = self._loop.spawn(self._accept)
        host, port = self._listener.getsockname()[:2]
        _log.info("started", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def stop(self) -> None:
        """Close the port and every connection; done when the loop has turned."""
        self._watch.stop()
        if self._acceptor is not None:
            self._loop.run_callback(self._acceptor.cancel)
        for connection in list(self._connections):
            self._abandon(connection)

    def _accept(self) -> None:
        try:
            while True:
                if self._loop.wait(self._listener.fileno(), READ, _ACCEPT_WAIT_S):
                    self._share.turn()
                    self._take_connections()
        finally:
            self._listener.close()

    def _take_connections(self) -> None:
        try:
            for _ in range(_ACCEPT_STEP):
                if not self._has_place():
                    return
                with suppress(ConnectionError):  # it is gone already
                    self._serve(*self._listener.accept())
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors
            _faults.warning("accept_failed", error=error)
            self._loop.sleep(_ACCEPT_PAUSE_S)
        except Exception as error:  # noqa: BLE001 - the boundary: a connection is lost, the node goes on
            _faults.exception("accept_failed", error)
            self._loop.sleep(_ACCEPT_PAUSE_S)

    def _has_place(self) -> bool:
        """Whether there is a place for one more, if need be in place of another one."""
        return len(self._connections) < CONNECTIONS_MAX or any(one.may_leave for one in self._connections)

    def _serve(self, sock: socket.socket, client: Any) -> None:
        """Have a connection served; there is a place."""
        if len(self._connections) >= CONNECTIONS_MAX:
            leaving = [one for one in self._connections if one.may_leave]
            self._abandon(min(leaving, key=lambda one: (not one.was_answered, one.asked_s)))
        connection = _Connection(self._loop, self._share, self._site.answer, sock, client, self._forget)
        self._connections[connection] = self._loop.spawn(connection.run)

    def _abandon(self, connection: _Connection) -> None:
        self._loop.run_callback(connection.abandon, self._connections.pop(connection))

    def _forget(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)


def start(node: ObservedNode) -> HttpServer:
    """Serve a node's pages where its options say. Raises UsageError when the port can't be bound."""
    options = node.options
    assert options.http_port is not None
    server = HttpServer(listening_socket(options.http_bind, options.http_port, BACKLOG, "--http-bind"), node)
    server.start()
    return server
