"""The sockets of the load generator: a few connected ones for each server, which carry all requests.

A socket for each client would cost a wake-up for each answer; one that is shared finds many answers at once. Here too
the client's faults are played (tools/load/faults.py).
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from app.client.address import Endpoint, resolve
from app.fragments import allow_fragments
from app.wire.protocol import IS_ALIVE
from tools.load.faults import FaultyPath
from tools.load.targets import NotAnAnswer, Target

# Sockets for each server. The processor's time for an operation was the same at 1, 4 and 16 within what could be
# measured.
LANES_A_SERVER: Final = 4

# select() takes file descriptors below 1024 only: this many sockets at most.
LANES_MAX: Final = 512

# Receive buffer asked for (bytes): the answers to thousands of clients while this process is busy elsewhere.
LANE_BUFFER_BYTES: Final = 4 << 20

# Answers taken from one socket before the next one's turn and the deadlines'.
RECEIVE_MAX: Final = 64

# What finding out whether anybody is there may take (s).
GREETING_TIMEOUTS_S: Final = (0.15, 0.45, 1.35)


class NobodyThere(Exception):
    """No server has answered."""


class Lanes:
    """Sends to a server by its number, on one of its sockets by its number; receives from all.

    `refused`: how often the network has said that a port is closed. `not_sent`: datagrams that a socket did not take.
    """

    def __init__(self, servers: Sequence[str], wanted: int, faulty: FaultyPath | None) -> None:
        """At most `wanted` sockets a server. BadServer for one that does not resolve; OSError for want of sockets or of
        a way there."""
        self.servers = [resolve(server) for server in servers]
        self.refused = 0
        self.not_sent = 0
        self._faulty = faulty
        self.lanes_a_server = max(1, min(LANES_A_SERVER, wanted, LANES_MAX // len(servers)))
        self._of_server: list[list[socket.socket]] = []
        self._all: list[socket.socket] = []
        for server in self.servers:
            self._of_server.append([self._open(server) for _ in range(self.lanes_a_server)])

    def _open(self, server: Endpoint) -> socket.socket:
        lane = socket.socket(server.family, socket.SOCK_DGRAM)
        self._all.append(lane)
        lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LANE_BUFFER_BYTES)
        lane.setblocking(False)
        allow_fragments(lane)
        try:
            lane.connect(server.address)
        except OSError as error:
            raise OSError(error.errno, error.strerror, server.name) from None
        return lane

    def close(self) -> None:
        for lane in self._all:
            lane.close()

    def greet(self, target: Target, next_id: Callable[[], bytes]) -> None:
        """Find out whether there is anybody; NobodyThere if not."""
        open_lanes, answered = self._ask_all(target, next_id, 1)
        if not answered:
            names = ", ".join(server.name for server in self.servers)
            raise NobodyThere(f"no answer from {names}{'' if open_lanes else ': the port is closed'}")

    def silent(self, target: Target, next_id: Callable[[], bytes]) -> list[str]:
        """The names of the servers that answer nothing now."""
        _, answered = self._ask_all(target, next_id, len(self.servers))
        return [server.name for number, server in enumerate(self.servers) if number not in answered]

    def _ask_all(self, target: Target, next_id: Callable[[], bytes], wanted: int) -> tuple[bool, set[int]]:
        """Ask each server whether it is there, until so many have answered: whether any port may be open, and which
        servers have."""
        number_of = {lanes[0]: number for number, lanes in enumerate(self._of_server)}
        answered: set[int] = set()
        for timeout_s in GREETING_TIMEOUTS_S:
            ids = {next_id(): lane for lane, number in number_of.items() if number not in answered}
            for message_id, lane in ids.items():
                try:
                    lane.send(target.request(message_id, IS_ALIVE, b"", b"", 0))
                except OSError:
                    del number_of[lane]
            end = time.monotonic() + timeout_s
            while number_of and len(answered) < wanted and (pause_s := end - time.monotonic()) > 0:
                for lane in select.select(list(number_of), (), (), pause_s)[0]:
                    try:
                        answer = target.answer(lane.recv(65535))
                    except NotAnAnswer:
                        continue
                    except OSError:
                        del number_of[lane]
                        continue
                    if answer is not None and lane in number_of:
                        answered.add(number_of[lane])
            if len(answered) >= wanted:
                break
        return bool(number_of), answered

    def send(self, server: int, number: int, datagram: bytes) -> None:
        """One try."""
        lane = self._of_server[server][number]
        if self._faulty is None:
            self._transmit(lane, datagram)
            return
        for _ in range(self._faulty.copies((lane, datagram), time.monotonic())):
            self._transmit(lane, datagram)

    def _transmit(self, lane: socket.socket, datagram: bytes) -> None:
        """What the socket won't take counts as lost: a deadline brings the next try."""
        try:
            lane.send(datagram)
        except ConnectionRefusedError:
            # Says what became of an earlier datagram; this one has not been sent.
            self.refused += 1
        except OSError:
            self.not_sent += 1

    def wait(self, pause_s: float) -> list[socket.socket]:
        """The sockets that have something, as soon as one has, or after this time."""
        return select.select(self._all, (), (), pause_s)[0]

    def receive(self, lane: socket.socket) -> list[bytes]:
        """What one socket has received, up to RECEIVE_MAX datagrams."""
        receive, datagrams = lane.recv, []
        try:
            for _ in range(RECEIVE_MAX):
                datagrams.append(receive(65535))
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            self.refused += 1
        if self._faulty is None:
            return datagrams
        now, faulty = time.monotonic(), self._faulty
        return [datagram for datagram in datagrams for _ in range(faulty.copies((None, datagram), now))]

    @property
    def next_due(self) -> float:
        """When `delayed` has something to do next."""
        return self._faulty.next_due if self._faulty is not None else float("inf")

    def delayed(self, now: float) -> list[bytes]:
        """Send the delayed requests whose time has come; the delayed answers whose time has come."""
        if self._faulty is None:
            return []
        answers = []
        for lane, datagram in self._faulty.due(now):
            if lane is None:
                answers.append(datagram)
            else:
                self._transmit(lane, datagram)
        return answers
