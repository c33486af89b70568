"""The pieces that have a compiled twin: the same is asked of the Python and of what stands in for it.

Where nothing is compiled, the Python is compared with itself. A further piece gets a function in COMPARED, which
asks it of both by `agreed`.
"""

from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

from app.fast import PIECES
from app.front.batch import Ring
from app.wire import codec
from app.wire.protocol import DATAGRAM_MAX_BYTES, ERROR_NAMES
from proto_gen.key_value_pb2 import KVRequest
from tests.fuzz import said
from tests.fuzz.choices import FromBytes, is_so, one_of
from tests.support.datagrams import FakeDatagrams, sockaddr
from tests.wire.datagrams import envelope

STEPS_MAX: Final = 40  # of one input
_RING: Final = 3

Ask = Callable[[Any], object]

assert hasattr(codec, "take_ordinary"), "imported, so that its pieces are known"


def agreed(pair: tuple[Any, Any], ask: Ask) -> object:
    """What both give or raise."""
    given = [_outcome(one, ask) for one in pair]
    assert given[0] == given[1], given
    return given[0]


def _outcome(one: Any, ask: Ask) -> object:
    try:
        return ask(one)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other must raise the same
        return type(error)


def _take_ordinary(choices: FromBytes) -> None:
    """A datagram in the middle of a buffer, of those whose payload was changed under a right checksum most of all."""
    how = choices.number(3)
    datagram = said.datagram(choices)
    if how == 1:
        datagram = said.mutated(choices, datagram)
    elif how:
        body = KVRequest(command=one_of(choices, (1, 2, 3)), key=choices.raw(34), version=choices.number(200))
        if choices.number(1):
            body.value = choices.raw(130) * one_of(choices, (1, 1, 1, 3, 80))
        payload = body.SerializeToString()
        if how == 2:
            payload = said.mutated(choices, payload)
        datagram = envelope(choices.raw(16).ljust(16, b"\x19"), payload, one_of(choices, (None, 0)))
    before, after = choices.raw(3), choices.raw(12)
    whole = one_of(choices, (bytes, bytearray))(before + datagram + after)
    start, end = len(before), len(before) + len(datagram)
    if is_so(choices, 8):
        start, end = choices.number(600) - 50, choices.number(600) - 50
    agreed(PIECES["codec.take_ordinary"], lambda take: take(whole, start, end))


def _encode(choices: FromBytes) -> None:
    message_id = choices.raw(70)
    text = choices.raw(150) * one_of(choices, (1, 1, 1, 70))
    id_crc = crc32(message_id)
    agreed(PIECES["codec.encode_response"], lambda encode: encode(message_id, id_crc, text))
    agreed(PIECES["codec.encode_found"], lambda encode: encode(message_id, id_crc, text))
    code = choices.number(len(ERROR_NAMES))
    agreed(PIECES["codec.encode_error"], lambda encode: encode(message_id, id_crc, code))
    version = choices.number((1 << 32) - 1) - (1 << 31)
    agreed(PIECES["codec.encode_value"], lambda encode: encode(text, version))


class _Batch:
    """A batch with a socket, a lease and a meter of its own."""

    def __init__(self, ring_batch: Any) -> None:
        self.sock = FakeDatagrams()
        self.may_not_leave = False
        self.charged: list[tuple[bytes, int]] = []
        self.batch = ring_batch(self.sock, Ring(_RING), Ring(_RING), lambda: self.may_not_leave, self)

    def next_look(self) -> int:
        return 300

    def charge(self, host: bytes, looks: int) -> None:
        self.charged.append((host, looks))

    def arrive(self, address: bytes, data: bytes) -> None:
        self.sock.arrive(address, data)

    def set(self, may_not_leave: bool, takes: list[int]) -> None:
        self.may_not_leave, self.sock.takes = may_not_leave, list(takes)

    def seen(self) -> object:
        counted = self.batch.laid_out, self.batch.send_errors, self.batch.unfenced
        return self.sock.sent, self.sock.calls, self.charged, counted


def _batch(choices: FromBytes) -> None:
    pure, chosen = PIECES["batch.RingBatch"]
    pair = _Batch(pure), _Batch(chosen)
    for _ in range(STEPS_MAX):
        if choices.is_over:
            break
        agreed(pair, _call(choices))
    agreed(pair, lambda side: side.batch.flush())
    agreed(pair, lambda side: side.seen())


def _call(choices: FromBytes) -> Ask:
    how = choices.number(9)
    address = sockaddr(f"127.0.0.{choices.number(3)}")
    data = choices.raw(300) * one_of(choices, (1, 1, 1, 50))
    place = choices.number(_RING - 1)
    if how == 0:
        return lambda side: side.arrive(address, data[: DATAGRAM_MAX_BYTES + 9])
    if how == 1:
        return lambda side: side.batch.receive()
    if how <= 3:
        at = place + is_so(choices, 8) * _RING
        return lambda side: side.batch.reply(at, data)
    if how == 4:
        return lambda side: side.batch.send(address, data)
    if how == 5:
        return lambda side: side.batch.flush()
    if how == 6:
        stops, takes = is_so(choices, 3), [choices.number(_RING) for _ in range(choices.number(3))]
        return lambda side: side.set(stops, takes)
    name = one_of(choices, ("span", "datagram", "sender", "host", "asked_at"))
    return lambda side: getattr(side.batch, name)(place)


COMPARED: Final = (_take_ordinary, _encode, _batch)


def compiled(data: bytes) -> None:
    """One piece after the other."""
    choices = FromBytes(data)
    for _ in range(STEPS_MAX):
        if choices.is_over:
            break
        one_of(choices, COMPARED)(choices)
