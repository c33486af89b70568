"""More requests than a node can answer, and how many answers are of use."""

import socket
import threading
import time
from collections.abc import Sequence
from math import inf
from types import TracebackType
from typing import Final, Self

from app.client import codec
from app.client.codec import KVRequest
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT
from tests.lab.lab import LabNode

# An answer that comes later is of no use: its client has asked another node by then.
USEFUL_S: Final = 1.0
_STEP_S: Final = 0.002


class Flood:
    """`with Flood(node, keys, rate=5000) as flood:` half writes, half reads, so many a second whatever becomes of them;
    with `window` instead: so many at a time are unanswered. Without `writes`: reads only."""

    def __init__(
        self, node: LabNode, keys: Sequence[bytes], *, rate: float = inf, window: float = inf, writes: bool = True
    ) -> None:
        self._keys = keys
        self._rate = rate
        self._window = window
        self._writes = writes
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.connect((node.host, node.port))
        self._socket.setblocking(False)
        self._sent_s: dict[bytes, float] = {}
        self._number = 0
        self._useful = 0
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def useful_rate(self, seconds: float) -> float:
        """Useful answers a second, from now on for so long."""
        before = self._useful
        time.sleep(seconds)
        return (self._useful - before) / seconds

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        began_s = time.monotonic()
        while not self._is_ending:
            due = min(self._rate * (time.monotonic() - began_s), self._number + self._window - len(self._sent_s))
            while self._number < due:
                self._send()
            self._receive()
            time.sleep(_STEP_S)

    def _send(self) -> None:
        self._number += 1
        message_id = self._number.to_bytes(16, "big")
        key = self._keys[self._number // 2 % len(self._keys)]
        if self._writes and self._number % 2:
            request = KVRequest(command=PUT, key=key, value=message_id)
        else:
            request = KVRequest(command=GET, key=key)
        self._sent_s[message_id] = time.monotonic()
        try:
            self._socket.send(codec.encode_request(message_id, request))
        except BlockingIOError:
            return

    def _receive(self) -> None:
        while True:
            try:
                message_id, response = codec.decode_response(self._socket.recv(65536))
            except BlockingIOError:
                return
            sent_s = self._sent_s.pop(message_id, None)
            if sent_s is not None and response.errCode in (NO_ERR, KEY_DNE_ERR):
                self._useful += time.monotonic() - sent_s <= USEFUL_S
