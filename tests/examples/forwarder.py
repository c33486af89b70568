"""Between a client and a node: a socket that passes datagrams on, and loses, delays or changes some of them.

`script` decides what becomes of the client's datagrams, one entry each, in order of arrival; when it is used up, they
and their answers are passed on.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self
from zlib import crc32

from app.wire.protocol import SYS_OVERLOAD_ERR, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVResponse
from proto_gen.message_pb2 import Msg
from tests.support.nodes import PATIENT_S
from tests.support.ports import HOST

Address = tuple[str, int]
# Takes the forwarder, the datagram and its sender.
Fault = Callable[["Forwarder", bytes, Address], None]


def pass_on(forwarder: "Forwarder", datagram: bytes, sender: Address) -> None:
    forwarder.send(forwarder.ask(datagram), sender)


def lose_request(forwarder: "Forwarder", datagram: bytes, sender: Address) -> None:
    """The node never sees it."""


def lose_answer(forwarder: "Forwarder", datagram: bytes, sender: Address) -> None:
    """The request takes effect, and the client does not hear of it."""
    forwarder.ask(datagram)


def refuse(wait_ms: int) -> Fault:
    """The client is told to wait; the node never sees the request."""

    def answer(forwarder: "Forwarder", datagram: bytes, sender: Address) -> None:
        response = KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=wait_ms)
        forwarder.send(envelope(Msg.FromString(datagram).messageID, response.SerializeToString()), sender)

    return answer


def envelope(message_id: bytes, payload: bytes, type: int = TYPE_RESPONSE) -> bytes:
    """A datagram with a right checksum."""
    check_sum = crc32(payload, crc32(message_id))
    return Msg(messageID=message_id, payload=payload, checkSum=check_sum, type=type).SerializeToString()


class Forwarder:
    """`with Forwarder(node.port, [lose_answer]) as forwarder:`; in a thread of its own meanwhile."""

    def __init__(self, target: int, script: Iterable[Fault] = ()) -> None:
        """`target`: the node's port."""
        self.requests: list[bytes] = []
        self.arrived_at: list[float] = []  # of each request (s)
        self._script = iter(script)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self._node = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._node.settimeout(PATIENT_S)
        self._node.connect((HOST, target))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (HOST, self.port))
        self._thread.join()
        self._socket.close()
        self._node.close()

    def ask(self, datagram: bytes) -> bytes:
        """The node's answer. TimeoutError if there is none."""
        self._node.send(datagram)
        return self._node.recv(65_535)

    def send(self, datagram: bytes, client: Address) -> None:
        self._socket.sendto(datagram, client)

    def _serve(self) -> None:
        while True:
            datagram, sender = self._socket.recvfrom(65_535)
            if not datagram:
                return
            self.arrived_at.append(time.monotonic())
            self.requests.append(datagram)
            next(self._script, pass_on)(self, datagram, sender)
