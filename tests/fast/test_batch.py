"""app/fast/batch.pyx does what app/front/batch.py's RingBatch does, in any order of calls."""

import ctypes
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.front import batch as front_batch
from app.front.batch import Ring, _MMsgHdr
from app.requests.waiting import Kept
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tests.support.datagrams import FakeDatagrams, sockaddr
from tests.support.parts import examples
from tests.support.pieces import pieces

SIZE = 4
thorough = examples(300)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("batch", "compiled").RingBatch


@pytest.fixture(scope="module")
def pure() -> Any:
    return pieces("batch", "pure").RingBatch


def test_its_numbers_are_the_fronts(compiled: Any) -> None:
    from app.fast import batch

    assert batch.DATAGRAM_MAX_BYTES == DATAGRAM_MAX_BYTES
    assert batch.STRIDE_BYTES == front_batch._STRIDE_BYTES
    assert batch.ADDRESS_STRIDE_BYTES == front_batch._ADDRESS_STRIDE_BYTES
    assert batch.COUNTED_BYTES == front_batch.COUNTED_BYTES
    assert ctypes.sizeof(_MMsgHdr) == batch.HEADER_BYTES


class Side:
    """One of the two, with a socket, a lease and a meter of its own that do the same as the other's."""

    def __init__(self, ring_batch: Any, seed: int) -> None:
        self.sock = FakeDatagrams()
        self.has_run_out = False
        self.random = Random(seed)
        self.charged: list[tuple[bytes, int]] = []
        self.batch = ring_batch(self.sock, Ring(SIZE), Ring(SIZE), lambda: self.has_run_out, self)

    def next_look(self) -> int:
        return self.random.randrange(600)

    def charge(self, host: bytes, looks: int) -> None:
        self.charged.append((host, looks))

    def do(self, call: Callable[["Side"], object]) -> object:
        try:
            return call(self)
        except (IndexError, AssertionError) as error:
            return type(error)

    def seen(self) -> tuple[object, ...]:
        batch = self.batch
        counted = batch.laid_out, batch.send_errors, batch.unfenced, batch.size
        return self.sock.sent, self.sock.calls, self.charged, counted, bytes(batch.buffer)


hosts = st.integers(0, 255).map(lambda n: sockaddr(f"127.0.0.{n}"))
texts = st.binary(max_size=300) | st.integers(120, DATAGRAM_MAX_BYTES).map(bytes)
places = st.integers(0, SIZE - 1) | st.sampled_from((SIZE, SIZE + 5, 2**40))


def arrive(side: Side, sender: bytes, data: bytes) -> None:
    side.sock.arrive(sender, data)


def set_lease(side: Side, has_run_out: bool) -> None:
    side.has_run_out = has_run_out


def set_takes(side: Side, takes: list[int]) -> None:
    side.sock.takes = list(takes)


def filled(batch: Any, number: int) -> tuple[object, ...]:
    kept = Kept()
    batch.fill(number, kept, 2.5, 1.5)
    return kept.datagram, kept.client, kept.asked_at, kept.peer, kept.hops, kept.deadline_s, kept.received_s


def calls() -> st.SearchStrategy[Callable[[Side], object]]:
    return st.one_of(
        st.tuples(hosts, texts | st.just(bytes(DATAGRAM_MAX_BYTES + 9))).map(lambda a: lambda side: arrive(side, *a)),
        st.just(lambda side: side.batch.receive()),
        st.integers(0, SIZE - 1).map(lambda place: lambda side: filled(side.batch, place)),
        st.tuples(st.sampled_from(("span", "datagram", "sender", "host")), st.integers(0, SIZE - 1)).map(
            lambda a: lambda side: getattr(side.batch, a[0])(a[1])
        ),
        st.tuples(places, texts).map(lambda a: lambda side: side.batch.reply(*a)),
        st.tuples(hosts, texts).map(lambda a: lambda side: side.batch.send(*a)),
        st.just(lambda side: side.batch.flush()),
        st.booleans().map(lambda drawn: lambda side: set_lease(side, drawn)),
        st.lists(st.integers(0, SIZE), max_size=3).map(lambda takes: lambda side: set_takes(side, takes)),
    )


@thorough
@given(st.lists(calls(), max_size=40), st.integers(0, 2**32))
def test_any_calls(pure: Any, compiled: Any, made: list[Callable[[Side], object]], seed: int) -> None:
    sides = Side(pure, seed), Side(compiled, seed)
    for call in made:
        one, other = (side.do(call) for side in sides)
        assert one == other
    assert sides[0].seen() == sides[1].seen()


@pytest.mark.parametrize("number", [-1, -SIZE, SIZE, 2**62, -(2**62)])
def test_no_number_reaches_beyond_its_rings(compiled: Any, number: int) -> None:
    batch = Side(compiled, 1).batch
    for call in (batch.span, batch.datagram, batch.sender, batch.host, lambda at: batch.reply(at, b"d")):
        with pytest.raises(IndexError):
            call(number)
    with pytest.raises(IndexError):
        filled(batch, number)


def test_no_length_reaches_beyond_its_rings(compiled: Any) -> None:
    side = Side(compiled, 1)
    for place in range(SIZE):
        _MMsgHdr.from_address(side.batch._in.header_at(place)).length = 2**32 - 1
        start, end = side.batch.span(place)
        assert end - start == len(side.batch.datagram(place)) == DATAGRAM_MAX_BYTES + 1
    with pytest.raises(AssertionError):
        side.batch.reply(0, bytes(DATAGRAM_MAX_BYTES + 65))
    with pytest.raises(AssertionError):
        side.batch.send(bytes(33), b"data")


def test_one_that_was_not_made_holds_nothing(compiled: Any) -> None:
    batch = compiled.__new__(compiled)
    with pytest.raises(IndexError):
        batch.span(0)
    with pytest.raises(AssertionError):
        batch.reply(0, b"data")
    with pytest.raises(AssertionError):
        batch.send(b"address", b"data")


def test_it_is_made_once_and_of_rings_that_fit(compiled: Any) -> None:
    batch = Side(compiled, 1).batch
    with pytest.raises(AssertionError):
        batch.__init__(FakeDatagrams(), Ring(SIZE + 1), Ring(SIZE + 1), lambda: False, None)
    with pytest.raises(AssertionError):
        compiled(FakeDatagrams(), Ring(SIZE), Ring(SIZE + 1), lambda: False, None)
    short = Ring(SIZE)
    short.buffer = bytearray(100)
    with pytest.raises(AssertionError):
        compiled(FakeDatagrams(), short, Ring(SIZE), lambda: False, None)


def test_a_ring_can_not_shrink_while_it_is_used(compiled: Any) -> None:
    batch = Side(compiled, 1).batch
    for memory in (batch._in.buffer, batch._in.addresses, batch._out.buffer, batch._out.addresses):
        with pytest.raises(BufferError):
            memory.clear()
