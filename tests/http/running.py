"""A node with its HTTP server in the tests' own process, alone in its cluster and without signal handlers."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import gevent
from gevent import socket as gevent_socket

from app.cluster.events import SELF
from app.config.options import Options
from app.config.servers import Server
from app.http import server as http_server
from app.http.server import HttpServer
from app.loop import GeventLoop
from app.node import Node
from app.process import fresh_incarnation
from app.sockets import Sockets
from app.storage.governor import ResidentSize
from tests.support.polling import poll_in_loop
from tests.support.ports import free_port

DEADLINE_S = 20.0
HOST = "127.0.0.1"
# The node is within the process that runs all tests: so much beside what that takes already.
MEMORY_BYTES = 1 << 30


class TestsLoop(GeventLoop):
    """gevent's, in a process that is not the node's to end: what would end it fails the test instead."""

    def __init__(self) -> None:
        hub = gevent.get_hub()
        self._hub_attributes = hub.__dict__
        self._before = hub.__dict__.get("handle_error")
        super().__init__()

    def exit(self, status: int) -> NoReturn:
        gevent.get_hub().parent.throw(AssertionError(f"the node has ended its process with status {status}"))
        raise AssertionError("nobody comes back here")

    def close(self) -> None:
        """Give the faults that reach gevent's hub back to whoever had them before."""
        if self._before is None:
            del self._hub_attributes["handle_error"]
        else:
            self._hub_attributes["handle_error"] = self._before


class Running:
    """The node, and what its HTTP server answers."""

    http: HttpServer

    def __init__(self, *, others: int = 0, **options: Any) -> None:
        """`others`: so many servers of its file are not there."""
        self.memory_bytes = ResidentSize()() + MEMORY_BYTES
        me, *absent = (Server(HOST, free_port(), HOST) for _ in range(1 + others))
        self.http_port = free_port()
        given = Options(
            port=me.port,
            servers=(me, *absent),
            me=me,
            bind=HOST,
            http_port=self.http_port,
            max_memory_bytes=self.memory_bytes,
            **options,
        )
        self._loop = TestsLoop()
        self.node = Node(
            given,
            self._loop,
            Sockets(given),
            incarnation=fresh_incarnation(),
            random_bytes=os.urandom,
            resident_bytes=ResidentSize(),
            on_stopped=lambda: None,
        )

    def start_http(self) -> None:
        self.http = http_server.start(self.node)

    def start(self) -> None:
        """As `run` of app/process.py does: the pages come first."""
        self.start_http()
        self.node.start()

    def serve(self) -> None:
        """Return once it serves its slots; only for one that is alone in its cluster."""
        poll_in_loop(lambda: all(route == SELF for route in self.node.replication.routes))

    def close(self) -> None:
        self.node.stop()
        self.node.sockets.listener.close()
        self.http.stop()
        self._loop.close()

    def connect(self) -> socket.socket:
        sock = gevent_socket.create_connection((HOST, self.http_port))
        sock.settimeout(DEADLINE_S)
        return sock

    def ask(self, path: str, method: str = "GET", *headers: str, host: str = "localhost") -> "Answer":
        """One request on a connection of its own."""
        with self.connect() as sock:
            lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", "")
            sock.sendall("\r\n".join(lines).encode())
            return Answer(everything(sock))

    def datagram(self, data: bytes) -> bytes:
        """What the node answers to one by UDP."""
        with gevent_socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect((HOST, self.node.options.port))
            sock.send(data)
            return sock.recv(65_535)


class Answer:
    """An HTTP response, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1]) if status else 0  # 0: none
        self.headers = dict(line.split(": ", 1) for line in lines)

    def json(self) -> Any:
        return json.loads(self.body)


def everything(sock: socket.socket) -> bytes:
    """All that comes until the other side closes; nothing more if it does so harshly."""
    parts = []
    try:
        while part := sock.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


@contextmanager
def running(*, others: int = 0, **options: Any) -> Iterator[Running]:
    node = Running(others=others, **options)
    node.start()
    try:
        with gevent.Timeout(3 * DEADLINE_S):
            if not others:
                node.serve()
            yield node
    finally:
        node.close()
