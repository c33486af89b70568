"""Clients: each sends one request after the other, repeats it as clients do, and writes down what it saw."""

from collections import Counter
from dataclasses import dataclass
from math import ceil, inf
from random import Random
from typing import TYPE_CHECKING, Final
from zlib import crc32

from google.protobuf.message import DecodeError

from app.storage.store import slot_of
from app.wire.codec import KVRequest, KVResponse, Msg, parse_msg
from app.wire.protocol import (
    CLIENT_TIMEOUTS_MS,
    GET,
    INTERNAL_ERR,
    KEY_DNE_ERR,
    NO_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    TYPE_ACK,
    TYPE_RESPONSE,
    WIPEOUT,
)
from tests.sim.checks import Violation
from tests.sim.history import DONE, MISSING, Operation
from tests.sim.network import sockaddr
from tests.sim.process import PORT

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

_NAMES: Final = {PUT: "PUT", GET: "GET", REMOVE: "REMOVE", WIPEOUT: "WIPEOUT"}


@dataclass
class ClientOptions:
    """What clients do; drawn from the seed."""

    clients: int = 4
    keys: int = 10
    value_bytes: int = 20
    think_s: float = 0.02
    write_share: float = 0.6  # of requests; a quarter of them are REMOVEs
    wipe_share: float = 0.0
    answer_loss: float = 0.0
    move_share: float = 0.0  # of tries before which a client takes another port
    sticky: bool = False  # each client asks the same server as long as it answers
    odd_ids: bool = False  # messageIDs of any length: the general decoder has them
    acknowledges: bool = False
    timeouts_s: tuple[float, ...] = tuple(ms / 1000 for ms in CLIENT_TIMEOUTS_MS)
    load_s: float = 0.0  # between bursts of datagrams that only take room and time; 0: none
    load_burst: int = 100


@dataclass
class Call:
    """One operation of a client."""

    command: int
    key: bytes
    value: str
    message_id: bytes
    datagram: bytes
    called: float
    tries: int = 0
    refusals: int = 0


def request(command: int, message_id: bytes, key: bytes = b"", value: bytes | None = None, version: int = 0) -> bytes:
    """The datagram of a request."""
    message = KVRequest(command=command)
    if key:
        message.key = key
    if value is not None:
        message.value = value
        message.version = version
    payload = message.SerializeToString()
    return sealed(message_id, payload)


def sealed(message_id: bytes, payload: bytes, kind: int = 0) -> bytes:
    """A Msg with its right checksum."""
    checksum = crc32(payload, crc32(message_id))
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=kind).SerializeToString()


class Client:
    """See the module."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.rng = Random(cluster.world.rng.getrandbits(32))
        self.options = cluster.client_options
        self.ip = f"10.1.0.{number + 1}"
        self.until = 0.0
        self.current: Call | None = None
        self.history: dict[bytes, list[Operation]] = {}
        self.recent: list[tuple[float, bytes, int, bytes]] = []  # answered writes: when called, messageID, code, key
        self.servers: list[int] | None = None  # those that it asks, by number; None: all
        self.is_served_from = inf  # what it asks from then on must be answered
        self._count = 0
        self._port = 20000
        self._address = b""
        self._server = 0
        self._take_port()

    def _take_port(self) -> None:
        self.cluster.network.bound.pop(self._address, None)
        self._port += 1
        self._address = sockaddr(self.ip, self._port)
        self.cluster.network.bound[self._address] = self

    def start(self, at: float, until: float) -> None:
        """Be at work from then on until then."""
        self.until = until
        self.cluster.world.at(at, self._next)

    def _next(self) -> None:
        rng, options = self.rng, self.options
        if self.cluster.world.now >= self.until or self.current is not None:
            return
        share = rng.random()
        writes = options.write_share
        command = PUT if share < 0.75 * writes else REMOVE if share < writes else GET
        if options.wipe_share and rng.random() < options.wipe_share:
            command = WIPEOUT
        self.ask(command, rng.choice(self.cluster.keys))

    def ask(self, command: int, key: bytes) -> None:
        """Begin an operation."""
        self._count += 1
        name = f"{self.number}-{self._count}"
        message_id = b"%04d-%011d" % (self.number, self._count)
        if self.options.odd_ids and self._count % 3:
            message_id = name.encode().ljust(1 + self._count * 7 % 64, b"x")
        value = None
        if command == PUT:
            value = name.ljust(self.options.value_bytes, ".").encode()
        datagram = request(command, message_id, b"" if command == WIPEOUT else key, value)
        self.current = Call(command, key, name, message_id, datagram, self.cluster.world.now)
        self._try(self.current)

    def _try(self, call: Call) -> None:
        if self.current is not call:
            return
        if call.tries == len(self.options.timeouts_s):
            self._finish(call, None, "")
            return
        rng, options = self.rng, self.options
        if options.move_share and rng.random() < options.move_share:
            self._take_port()
        if not options.sticky or not self._server or call.tries or self.servers is not None:
            self._server = rng.choice(self.servers or range(1, len(self.cluster.hosts) + 1))
        target = sockaddr(self.cluster.hosts[self._server - 1].ip, PORT)
        world = self.cluster.world
        world.note("client", call.message_id, _NAMES[call.command], call.key, "asks", self._server)
        self.cluster.network.send(self._address, self.ip, target, call.datagram, world.now)
        world.after(options.timeouts_s[call.tries], self._try, call)
        call.tries += 1

    def take(self, data: bytes, source: bytes) -> None:
        """A datagram comes."""
        cluster, call = self.cluster, self.current
        if self.options.answer_loss and self.rng.random() < self.options.answer_loss:
            return
        try:
            msg = parse_msg(data)
            response = KVResponse.FromString(msg.payload)
        except DecodeError:
            raise Violation(f"{source!r} answers {data!r}") from None
        if msg.type != TYPE_RESPONSE or crc32(msg.payload, crc32(msg.messageID)) != msg.checkSum:
            raise Violation(f"{source!r} answers {data!r}")
        if response.errCode == INTERNAL_ERR:
            raise Violation(f"INTERNAL_ERR, answered to {msg.messageID!r}")
        if call is None or msg.messageID != call.message_id:
            return
        if response.errCode == SYS_OVERLOAD_ERR:
            call.refusals += 1
            cluster.count(f"{_NAMES[call.command]} refused")
            return
        if self.options.acknowledges and call.tries == 1 and call.command != GET:
            cluster.network.send(
                self._address, self.ip, source, sealed(call.message_id, b"", TYPE_ACK), cluster.world.now
            )
        self._finish(call, response.errCode, response.value.decode().rstrip("."))

    def _finish(self, call: Call, code: int | None, value: str) -> None:
        cluster = self.cluster
        self.current = None
        if code is None:
            self._server = 0
            if call.called >= self.is_served_from and not call.refusals:
                raise Violation(f"{call.message_id!r} is not answered by those who can")
        cluster.world.note("client", call.message_id, "has", code, value)
        cluster.count("unanswered" if code is None else f"{_NAMES[call.command]} {code}")
        self._record(call, code, value)
        cluster.world.after(self.rng.expovariate(1 / self.options.think_s), self._next)

    def _record(self, call: Call, code: int | None, value: str) -> None:
        now = self.cluster.world.now
        if call.command == WIPEOUT:
            self.cluster.wipes.append((call.called, now))
            return
        if code == NO_SPC_ERR:
            return
        if code not in (None, NO_ERR, KEY_DNE_ERR):
            raise Violation(f"{call.message_id!r} is answered with error {code}")
        seen: str | None = None
        if call.command == PUT:
            seen = call.value
        elif call.command == GET and code == NO_ERR:
            seen = value
        result = None if code is None else DONE if code == NO_ERR else MISSING
        returned = inf if code is None else now
        self.history.setdefault(call.key, []).append(
            Operation(_NAMES[call.command], seen, call.called, returned, result)
        )
        if code is not None and call.command != GET:
            self.recent.append((call.called, call.message_id, code, call.key))


class Load:
    """Datagrams that compete with all others for a node's socket and its time: sound requests for nothing."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._rng = Random(cluster.world.rng.getrandbits(32))
        self._address = sockaddr("10.1.1.1", 9)
        self._number = 0
        self.until = 0.0
        cluster.network.bound[self._address] = self

    def start(self, until: float) -> None:
        self.until = until
        self._burst()

    def _burst(self) -> None:
        cluster, rng = self._cluster, self._rng
        options = cluster.client_options
        if cluster.world.now >= self.until:
            return
        self._number += 1
        data = request(GET, b"load%012d" % self._number, b"nothing%d" % self._number)
        taker = cluster.network.bound.get(sockaddr(rng.choice(cluster.hosts).ip, PORT))
        if taker is not None:
            for _ in range(rng.randrange(options.load_burst)):
                taker.take(data, self._address)
        cluster.world.after(rng.expovariate(1 / options.load_s), self._burst)

    def take(self, data: bytes, source: bytes) -> None:
        """What is answered is not of interest."""


def make_keys(count: int) -> list[bytes]:
    """So many keys, in a quarter of all slots at most: two a slot, and more only where they would not fit else."""
    a_slot = max(2, ceil(count / (SLOT_COUNT // 4)))
    keys: list[bytes] = []
    by_slot: Counter[int] = Counter()
    number = 0
    while len(keys) < count:
        key = b"key%d" % number
        number += 1
        if slot_of(key) % 8 < 2 and by_slot[slot_of(key)] < a_slot:
            by_slot[slot_of(key)] += 1
            keys.append(key)
    return keys
