"""A node to test clients against: the whole protocol over a dictionary, in a thread, with scripted faults.

Written from the protocol's description alone and sharing no code with the node or the client, so that
neither's mistakes can hide in it. Unbounded and slow, which does not matter here.

`script` decides what becomes of the datagrams, one entry each, in order of arrival; when it is used up, and
for None, the peer behaves. Methods can be overridden to make a node with one particular bug.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self
from zlib import crc32

from google.protobuf.message import DecodeError

from app.wire.protocol import (
    CONFIG,
    DATAGRAM_MAX_BYTES,
    FOUND,
    GET,
    GET_MEMBERSHIP_CNT,
    GET_PID,
    INVALID_KEY_ERR,
    INVALID_VAL_ERR,
    IS_ALIVE,
    KEY_DNE_ERR,
    KEY_MAX_BYTES,
    MESSAGE_ID_MAX_BYTES,
    NO_ERR,
    PUT,
    REMOVE,
    REPORTS,
    SERVERS,
    SHUTDOWN,
    SLOWLOG,
    STATUS,
    STRANGERS_SHARE,
    SYS_OVERLOAD_ERR,
    TYPE_ACK,
    TYPE_REQUEST,
    TYPE_RESPONSE,
    UNKNOWN_CMD_ERR,
    VALUE_MAX_BYTES,
    VITALS,
    WIPEOUT,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.support.ports import free_port

Address = tuple[object, ...]
# Takes the peer, the datagram and the sender, and does whatever the fault is.
Fault = Callable[["Peer", bytes, Address], None]


def drop(peer: "Peer", datagram: bytes, sender: Address) -> None:
    """The request is lost: neither carried out nor answered."""


def lose_answer(peer: "Peer", datagram: bytes, sender: Address) -> None:
    """The request takes effect; its answer is lost."""
    peer.answer_to(datagram)


def answer_twice(peer: "Peer", datagram: bytes, sender: Address) -> None:
    answer = peer.answer_to(datagram)
    assert answer is not None
    peer.send(answer, sender)
    peer.send(answer, sender)


def overload(wait_ms: int | None) -> Fault:
    """The request is refused, with this wait or (None) without one; nothing is carried out."""

    def refuse(peer: "Peer", datagram: bytes, sender: Address) -> None:
        response = KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=wait_ms)
        peer.send(peer.envelope(Msg.FromString(datagram).messageID, response), sender)

    return refuse


def before_the_answer(spoil: Callable[[Msg], bytes]) -> Fault:
    """What `spoil` makes of the answer arrives first, then the right answer."""

    def both(peer: "Peer", datagram: bytes, sender: Address) -> None:
        answer = peer.answer_to(datagram)
        assert answer is not None
        peer.send(spoil(Msg.FromString(answer)), sender)
        peer.send(answer, sender)

    return both


class Peer:
    """A node on a free port, serving from entry to exit of the context.

    `received`: every datagram so far, with its sender. Written by the peer's thread; a test reads what
    belongs to a call that has returned, or, for what is not answered, after a later call on the same path
    has returned.
    """

    def __init__(self, script: Iterable[Fault | None] = (), host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        # Nobody else gets this port, on another of the machine's addresses or once the peer is gone.
        self._socket.bind((host, free_port()))
        self.port: int = self._socket.getsockname()[1]
        self.name = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.store: dict[bytes, tuple[bytes, int]] = {}
        self.replies: dict[bytes, KVResponse] = {}
        self.received: list[tuple[bytes, Address]] = []
        self.acked: list[bytes] = []
        self.script = list(script)
        self.status = b'{"epoch":1}'
        self.slow = b'{"threshold_ms":null}'
        self.settings = {"log_level": "info", "slow_ms": 0, "why_not": ""}
        self.founded = b'{"founded":true}'
        self.orders: list[bytes] = []
        self.vitals = b'{"pid":7,"resident_bytes":1048576,"max_memory_bytes":2097152,"entries":3}'
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the peer's thread does not end"
        self._socket.close()

    def requests(self) -> list[Msg]:
        """The datagrams received so far that are requests, in order."""
        messages = [Msg.FromString(datagram) for datagram, _ in self.received]
        return [message for message in messages if message.type == TYPE_REQUEST]

    def _serve(self) -> None:
        while True:
            datagram, sender = self._socket.recvfrom(65535)
            if self.stopped.is_set():
                return
            self.received.append((datagram, sender))
            fault = self.script.pop(0) if self.script else None
            if fault is not None:
                fault(self, datagram, sender)
                continue
            answer = self.answer_to(datagram)
            if answer is not None:
                self.send(answer, sender)

    def send(self, datagram: bytes, to: Address) -> None:
        self._socket.sendto(datagram, to)

    # From here on, the protocol.

    def answer_to(self, datagram: bytes) -> bytes | None:
        """The datagram to answer with, or None when there is nothing to say."""
        if len(datagram) > DATAGRAM_MAX_BYTES:
            return None
        try:
            message = Msg.FromString(datagram)
            request = KVRequest.FromString(message.payload)
        except DecodeError:
            return None
        if not 1 <= len(message.messageID) <= MESSAGE_ID_MAX_BYTES or not self.checksum_is_right(message):
            return None
        if message.type == TYPE_ACK:
            self.acked.append(message.messageID)
            self.replies.pop(message.messageID, None)
            return None
        if message.type != TYPE_REQUEST or not message.HasField("payload"):
            return None
        return self.envelope(message.messageID, self.response_to(message.messageID, request))

    def checksum_is_right(self, message: Msg) -> bool:
        return message.checkSum == crc32(message.messageID + message.payload)

    def envelope(self, message_id: bytes, response: KVResponse) -> bytes:
        payload = response.SerializeToString()
        checksum = crc32(message_id + payload)
        return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=TYPE_RESPONSE).SerializeToString()

    def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
        """The remembered answer for a mutating request that was here before, else what executing it gives."""
        if request.command not in (PUT, REMOVE, WIPEOUT):
            return self.execute(request)
        if message_id not in self.replies:
            self.replies[message_id] = self.execute(request)
        return self.replies[message_id]

    def execute(self, request: KVRequest) -> KVResponse:
        command = request.command
        if command in (PUT, GET, REMOVE) and not 1 <= len(request.key) <= KEY_MAX_BYTES:
            return KVResponse(errCode=INVALID_KEY_ERR)
        if command == PUT:
            return self.put(request)
        if command == GET:
            if request.key not in self.store:
                return KVResponse(errCode=KEY_DNE_ERR)
            value, version = self.store[request.key]
            return KVResponse(errCode=NO_ERR, value=value, version=version)
        if command == REMOVE:
            removed = self.store.pop(request.key, None)
            return KVResponse(errCode=NO_ERR if removed else KEY_DNE_ERR)
        if command == WIPEOUT:
            self.store.clear()
        if command == SHUTDOWN:
            self.shut_down()
        if command == GET_PID:
            return KVResponse(errCode=NO_ERR, pid=os.getpid())
        if command == GET_MEMBERSHIP_CNT:
            return KVResponse(errCode=NO_ERR, membershipCount=1)
        told = {STATUS: self.status, SLOWLOG: self.slow, FOUND: self.founded, VITALS: self.vitals}.get(command)
        if told is not None:
            return KVResponse(errCode=NO_ERR, value=told)
        if command == SERVERS:
            self.orders.append(request.value.rstrip(b"\0"))
            return KVResponse(errCode=NO_ERR, value=b'{"done":true}')
        if command == CONFIG:
            self.settings |= json.loads(request.value.strip(b"\0") or b"{}")
            return KVResponse(errCode=NO_ERR, value=json.dumps(self.settings).encode())
        known = command in (WIPEOUT, SHUTDOWN, IS_ALIVE)
        return KVResponse(errCode=NO_ERR if known else UNKNOWN_CMD_ERR)

    def put(self, request: KVRequest) -> KVResponse:
        if not request.HasField("value") or len(request.value) > VALUE_MAX_BYTES:
            return KVResponse(errCode=INVALID_VAL_ERR)
        self.store[request.key] = (request.value, request.version)
        return KVResponse(errCode=NO_ERR)

    def shut_down(self) -> None:
        """Answer nothing after the answer to this one."""
        self.script = [drop] * 10_000


class WaryPeer(Peer):
    """Everybody is a stranger to it: it tells of itself twice what it is sent at most."""

    def execute(self, request: KVRequest) -> KVResponse:
        answer = super().execute(request)
        if request.command in REPORTS and len(answer.value) > STRANGERS_SHARE * len(request.value):
            return KVResponse(errCode=INVALID_VAL_ERR)
        return answer
