"""A node with its HTTP server in the tests' own process, alone in its cluster and without signal handlers."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket as gevent_socket

from app.cluster.events import SELF
from app.config.options import Options
from app.config.servers import Server
from app.node import Node
from tests.support.ports import free_port

DEADLINE_S = 20.0
HOST = "127.0.0.1"
# The node is within the process that runs all tests, and what that takes counts.
MEMORY_BYTES = 1 << 30


class Running:
    """The node, and what its HTTP server answers."""

    def __init__(self, *, others: int = 0, **options: Any) -> None:
        """`others`: so many servers of its file are not there."""
        me, *absent = (Server(HOST, free_port(), HOST) for _ in range(1 + others))
        self.http_port = free_port()
        self.node = Node(
            Options(
                port=me.port,
                servers=(me, *absent),
                me=me,
                bind=HOST,
                http_port=self.http_port,
                max_memory_bytes=MEMORY_BYTES,
                **options,
            )
        )

    def start(self) -> None:
        self.node.membership.start()
        self.node.front.start()
        for duty in (self.node._upkeep, self.node._sweep, self.node._tick_copies):
            gevent.spawn(duty)
        assert self.node.http is not None
        self.node.http.start()

    def serve(self) -> None:
        """Return once it serves its slots; only for one that is alone in its cluster."""
        while any(route != SELF for route in self.node.copies.replication.routes):
            gevent.sleep(0.01)

    def close(self) -> None:
        self.node.stopped.set()
        self.node.membership.stop()
        self.node.front.stop()
        self.node.links.stop()
        assert self.node.http is not None
        self.node.http.stop()
        self.node.socket.close()

    def connect(self) -> socket.socket:
        sock = gevent_socket.create_connection((HOST, self.http_port))
        sock.settimeout(DEADLINE_S)
        return sock

    def ask(self, path: str, method: str = "GET", *headers: str) -> "Answer":
        """One request on a connection of its own."""
        with self.connect() as sock:
            lines = (f"{method} {path} HTTP/1.1", "Host: node", "Connection: close", *headers, "", "")
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
