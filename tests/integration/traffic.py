"""Clients of real nodes that write down what they saw: closed loops with the field's retries, across all nodes.

One thread serves all clients, so that a test can kill nodes meanwhile. What was seen is checked as in the simulator:
every key's history must be linearizable, the last acknowledged write of each key must be there at the end.
"""

import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Container, Sequence
from itertools import count, islice
from types import TracebackType
from typing import Self

from app.client import codec
from app.client.codec import KVRequest
from app.wire.protocol import (
    CLIENT_TIMEOUTS_MS,
    GET,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    slot_of,
)
from tests.sim import history
from tests.sim.history import DONE, MISSING, Operation, is_linearizable
from tests.support.nodes import Node

_KINDS = {PUT: history.PUT, GET: history.GET, REMOVE: history.REMOVE}
DEADLINE_S = 20.0  # for one answer to any client
THINK_S = 0.004  # of each client, on average, between two requests


class _Client:
    def __init__(self, number: int) -> None:
        self.number = number
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("", 0))
        self.socket.setblocking(False)
        self.writes = 0
        self.message_id = b""
        self.datagram = b""
        self.command = 0
        self.key = b""
        self.value: str | None = None
        self.called = 0.0
        self.server = 0  # asked last
        self.tries = 0  # 0: no request under way
        self.next_s = 0.0  # of the next try or request


class Traffic:
    """`with Traffic(nodes) as traffic:` clients run inside the block; then ask what they saw."""

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        clients: int = 16,
        keys: int = 200,
        slots: Container[int] = range(SLOT_COUNT),
        seed: int = 1,
        name: str = "key",
    ) -> None:
        """`slots`: the keys are of these. `name`: they begin with it; nothing may be stored under them yet."""
        print(f"traffic: seed {seed}")
        self._rng = random.Random(seed)
        self._nodes = list(nodes)
        self.keys = list(islice((key for n in count() if slot_of(key := f"{name} {n}".encode()) in slots), keys))
        self.histories: dict[bytes, list[Operation]] = {key: [] for key in self.keys}
        self.counts: Counter[str] = Counter()
        self.acknowledged: list[tuple[float, float, int]] = []  # writes: called, returned, slot
        self._clients = [_Client(number) for number in range(clients)]
        self._selector = selectors.DefaultSelector()
        for client in self._clients:
            self._selector.register(client.socket, selectors.EVENT_READ, client)
        self._is_ending = False
        self._is_broken_off = False  # the block has failed: what becomes of requests under way is of no interest
        self._answers = threading.Semaphore(0)  # one more for each answer
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        self._is_broken_off = kind is not None
        self._thread.join(30.0)
        for client in self._clients:
            client.socket.close()
        if kind is None:
            assert not self._thread.is_alive()

    def ask(self, nodes: Sequence[Node]) -> None:
        """Further tries go to these nodes only."""
        self._nodes = list(nodes)

    def go_on(self, answers: int) -> None:
        """Wait until so many more requests have been answered."""
        while self._answers.acquire(blocking=False):
            pass
        for _ in range(answers):
            assert self._answers.acquire(timeout=DEADLINE_S), f"nothing is answered any more: {self.counts}"

    def _run(self) -> None:
        while not self._is_broken_off:
            now = time.monotonic()
            under_way = False
            for client in self._clients:
                if client.tries:
                    under_way = True
                    if now >= client.next_s:
                        self._try(client, now)
                elif not self._is_ending and now >= client.next_s:
                    self._begin(client, now)
                    under_way = True
            if self._is_ending and not under_way:
                return
            for event, _ in self._selector.select(0.002):
                self._receive(event.data)

    def _begin(self, client: _Client, now: float) -> None:
        rng = self._rng
        client.command = rng.choices((PUT, GET, REMOVE), (5, 4, 1))[0]
        client.key = rng.choice(self.keys)
        client.value = None
        if client.command == PUT:
            client.writes += 1
            client.value = f"{client.number}.{client.writes}"
        request = KVRequest(client.command, client.key, None if client.value is None else client.value.encode())
        client.message_id = rng.randbytes(16)
        client.datagram = codec.encode_request(client.message_id, request)
        client.called = now
        self.counts["requests"] += 1
        self._try(client, now)

    def _try(self, client: _Client, now: float) -> None:
        if client.tries == len(CLIENT_TIMEOUTS_MS):
            self.counts["unanswered"] += 1
            self._note(client, None, client.value, float("inf"))
            return
        if client.tries:
            self.counts["retries"] += 1
        client.next_s = now + CLIENT_TIMEOUTS_MS[client.tries] / 1000
        client.server = (
            (client.server + 1) % len(self._nodes) if client.tries else self._rng.randrange(len(self._nodes))
        )
        client.tries += 1
        node = self._nodes[client.server]
        client.socket.sendto(client.datagram, (node.host, node.port))

    def _receive(self, client: _Client) -> None:
        try:
            data = client.socket.recv(65536)
        except OSError:  # nobody listens at a port that was asked
            return
        message_id, response = codec.decode_response(data)
        if not client.tries or message_id != client.message_id:
            return
        now = time.monotonic()
        code = response.errCode
        if code == SYS_OVERLOAD_ERR:  # nothing was done: the same again, later, as often as it takes
            self.counts["refused"] += 1
            client.tries -= 1
            client.next_s = now + (response.overloadWaitTime or 0) / 1000
            return
        assert code in (NO_ERR, KEY_DNE_ERR), f"answered {code}"
        value = client.value
        if client.command == GET:
            value = response.value.decode() if code == NO_ERR else None
        else:
            self.acknowledged.append((client.called, now, slot_of(client.key)))
        self._note(client, DONE if code == NO_ERR else MISSING, value, now)

    def _note(self, client: _Client, result: str | None, value: str | None, returned: float) -> None:
        operation = Operation(_KINDS[client.command], value, client.called, returned, result)
        self.histories[client.key].append(operation)
        if result is not None:
            self._answers.release()
        client.tries = 0
        client.next_s = time.monotonic() + self._rng.uniform(0, 2 * THINK_S)

    def check(self) -> None:
        """Every key's history is linearizable."""
        assert self.counts["requests"] > 100, self.counts
        for key, operations in self.histories.items():
            if not is_linearizable(operations, forgets=False):
                lines = "\n".join(str(op) for op in sorted(operations, key=lambda op: op.called))
                raise AssertionError(f"{key!r} (slot {slot_of(key)}) is not linearizable:\n{lines}")

    def again_after(self, moment: float, slots: set[int]) -> list[float]:
        """By slot: how long after the moment the first write called since was acknowledged. Sorted, seconds."""
        first: dict[int, float] = {}
        for called, returned, slot in self.acknowledged:
            if slot in slots and called >= moment:
                first[slot] = min(first.get(slot, returned), returned)
        return sorted(returned - moment for returned in first.values())
