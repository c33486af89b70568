"""Ports for nodes of tests, which nobody else takes between the choice and the node's own bind, nor while it is down.

A port is chosen where neither UDP nor TCP has anything, below those that the kernel gives out by itself, and then held:
by a TCP socket that is bound to it and never listens. A node binds its TCP ports with SO_REUSEADDR, which Linux lets it
do beside such a socket; whoever chooses ports by trying them, another run of these tests first of all, finds it taken.
UDP has no such half-way hold, so a program of another kind could still take that part; none is known to use ports of
this range by itself.

A test that takes a held port itself, in order to have it taken, must set SO_REUSEADDR for TCP: `occupied` does.
"""

import random
import socket
from collections import deque
from contextlib import ExitStack
from typing import Final

HOST: Final = "127.0.0.1"
# Systems give out ports from 32,768 on (Linux) or higher.
_PORTS: Final = range(20_000, 32_000)
# So many are held; the first ones are let go for further ones. No test takes more than some dozens, and those that it
# shares with others of its module are among the last few hundred.
_HELD_MAX: Final = 512

_held: deque[socket.socket] = deque()


def free_port() -> int:
    """A port of this machine that is the caller's."""
    return adjacent_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many, anywhere."""
    return [free_port() for _ in range(count)]


def adjacent_ports(count: int) -> range:
    """So many that follow each other."""
    for _ in range(1000):
        first = random.randrange(_PORTS.start, _PORTS.stop - count + 1)
        ports = range(first, first + count)
        if _hold(ports):
            return ports
    raise RuntimeError(f"no {count} free ports that follow each other")


def _hold(ports: range) -> bool:
    """Take them all, or none; whether they were free."""
    with ExitStack() as undo:
        taken = [undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in ports]
        try:
            for port, sock in zip(ports, taken, strict=True):
                sock.bind(("", port))  # without SO_REUSEADDR: it fails where another holds the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(("", port))
        except OSError:
            return False
        undo.pop_all()
    _held.extend(taken)
    while len(_held) > _HELD_MAX:
        _held.popleft().close()
    return True


def occupied(port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket of the test's own at 127.0.0.1 and a port that is held for it, listening if it is TCP."""
    sock = socket.socket(socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock
