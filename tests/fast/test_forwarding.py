"""app/fast/waiting.pyx, answers.pyx and forwarding.pyx do what the Python of app/requests does, whatever comes when."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, nan
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster import events
from app.cluster.events import SELF, UNKNOWN
from app.observe.counters import FORWARDED
from app.peers import frames
from app.peers.frames import ANSWER, FORWARD
from app.requests import forwarding, waiting
from app.requests.answers import Answers, ShortAnswers, WholeAnswers
from app.requests.commands import WholeCommands
from app.requests.forwarding import Forwarding, ShortForwarding, WholeForwarding
from app.requests.request import PATIENCE_S, Request
from app.wire.codec import encode_response, error_payload
from app.wire.protocol import GET, PUT, REMOVE, SYS_OVERLOAD_ERR
from tests.support import parts
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, Parts, examples, forwarded
from tests.support.pieces import pieces
from tests.wire import datagrams

PEERS = ("owner", "other")
IDS = [b"%016d" % number for number in range(3)] + [b"short", b"x" * 17]
CLIENTS = (CLIENT, OTHER_CLIENT)
# What any of its requests has that is in flight; `sent_s` as well, once it was sent.
KEPT = ("datagram", "client", "asked_at", "peer", "hops", "deadline_s", "received_s", "is_uncertain", "how", "command")
KEPT += ("message_id", "slot", "was_sent", "sent_to", "sent_over")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("forwarding", "compiled")


def test_the_short_way_is_taken() -> None:
    assert Forwarding.relay is ShortForwarding.relay
    assert Forwarding._send is ShortForwarding._send
    assert Forwarding.answer is ShortForwarding.answer
    assert Answers.deliver is ShortAnswers.deliver
    assert Answers.to_peer is ShortAnswers.to_peer


def test_its_numbers_and_words_are_the_pythons() -> None:
    from app.fast import forwarding as fast_forwarding
    from app.fast import waiting as fast_waiting

    assert fast_waiting.SPEND_BYTES == waiting._SPEND_BYTES
    assert fast_forwarding.GET == GET
    assert fast_forwarding.HOPS_MAX == forwarding.HOPS_MAX
    assert fast_forwarding.IN_FLIGHT_BYTES == forwarding.IN_FLIGHT_BYTES
    assert fast_forwarding.FORWARD == FORWARD
    assert fast_forwarding.FORWARD_BYTES == frames.FORWARD_BYTES
    assert (fast_forwarding.SELF, fast_forwarding.UNKNOWN) == (events.SELF, events.UNKNOWN)
    assert fast_forwarding.FORWARDED == FORWARDED


@contextmanager
def python() -> Iterator[None]:
    """What is made meanwhile has nothing compiled of these modules, but for Kept, on which their classes are built."""
    pure = pieces("forwarding", "pure")
    with (
        patch.object(parts, "Waiting", pieces("waiting", "pure").Waiting),
        patch.object(parts, "Answers", WholeAnswers),
        patch.object(parts, "Forwarding", WholeForwarding),
        patch.object(parts, "Commands", WholeCommands),
        patch.object(forwarding, "InFlight", pure.InFlight),
    ):
        yield


class Side:
    """A node that has links to two others, which say what the test has them say."""

    def __init__(self) -> None:
        self.net = Net(names=("front", *PEERS), max_waiting=3)
        self.front: Parts = self.net["front"]
        self.front.slow_log.threshold_s = 0.3
        self.front.rate._bytes_per_s = 1000
        self.front.rate._exempt = {client[4:8]: False for client in CLIENTS}
        self.front.set_routes("owner")
        self.sent: list[Any] = []

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, "do_" + name)(*arguments)
        self.net.loop.turn()
        self.sent += self.net.queue
        self.net.queue.clear()
        self.sent += self.front.told()

    def do_ask(self, message_id: bytes, command: int, client: bytes, value: bytes) -> None:
        asked = datagrams.request(message_id, command=command, key=b"key", value=value)
        self.sent.append(self.front.take(asked, client))

    def do_pass(self, message_id: bytes, peer: str, hops: int, left_s: float) -> None:
        asked = datagrams.request(message_id, command=PUT, key=b"key", value=b"v")
        self.front.frames(peer, [(FORWARD, forwarded(asked, self.net.loop.now_s + left_s, hops=hops))])

    def do_answer(self, message_id: bytes, peer: str, payload: bytes) -> None:
        self.front.frames(peer, [(ANSWER, encode_response(message_id, 0, payload))] * 2)

    def do_babble(self, peer: str, said: bytes) -> None:
        self.front.frames(peer, [(ANSWER, said)])

    def do_route(self, route: str) -> None:
        self.front.set_routes(route)

    def do_wait(self, seconds: float) -> None:
        self.net.loop.advance(seconds)
        self.front.sweep()

    def do_link(self, peer: str) -> None:
        if self.front.links.is_up(peer):
            self.net.cut("front", peer)
        else:
            self.net.link("front", peer)

    def do_fill(self, peer: str) -> None:
        self.net.full ^= {peer}

    def do_limit(self, client: bytes) -> None:
        self.front.rate.charge(client[4:8], 10)

    def told(self) -> Any:
        front = self.front
        latency = {how: (one.counts, one.total_s) for how, one in front.counters.latency.items()}
        counted = front.forwarding.forwarded, front.forwarding.duplicates, front.forwarding.abandoned
        waiting = front.forwarding.in_flight, front.waiting.count, front.waiting.kept_bytes, front.waiting.full
        kept = [[getattr(one, name) for name in KEPT] for one in front.forwarding._requests.values()]
        counters = latency, front.counters.answers, front.counters.over_rate, front.slow_log.total
        return self.sent, counted, waiting, kept, counters


ids, peers, clients = st.sampled_from(IDS), st.sampled_from(PEERS), st.sampled_from(CLIENTS)
payloads = st.sampled_from([error_payload(0), error_payload(SYS_OVERLOAD_ERR, 20), bytes(300), b""])
steps = st.one_of(
    st.tuples(st.just("ask"), ids, st.sampled_from([GET, PUT, REMOVE]), clients, st.sampled_from([b"v", bytes(200)])),
    st.tuples(st.just("pass"), ids, peers, st.integers(0, 4), st.sampled_from([-1.0, 0.3, 9.0, inf, nan])),
    st.tuples(st.just("answer"), ids, peers, payloads),
    st.tuples(st.just("answer"), ids, peers, payloads),
    st.tuples(st.just("babble"), peers, st.binary(max_size=40) | st.builds(b"\n\x10".__add__, st.binary(max_size=20))),
    st.tuples(st.just("route"), st.sampled_from(["owner", "other", SELF, UNKNOWN, "nobody"])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.11, 0.31, PATIENCE_S])),
    st.tuples(st.just("link"), peers),
    st.tuples(st.just("fill"), peers),
    st.tuples(st.just("limit"), clients),
)


@examples(150)
@given(st.lists(steps, max_size=25))
def test_both_do_the_same(told: list[tuple[Any, ...]]) -> None:
    fast = Side()
    with python():
        slow = Side()
        assert type(slow.front.answers) is WholeAnswers
        for step in told:
            slow.do(*step)
    for step in told:
        fast.do(*step)
    assert isinstance(fast.front.forwarding, ShortForwarding)
    assert fast.told() == slow.told()


def test_whoever_joins_is_answered_by_either() -> None:
    names = ("client", "peer", "hops", "asked_at", "deadline_s", "received_s")
    joined = []
    for which in ("pure", "compiled"):
        kept, other = (pieces("waiting", which).Kept() for _ in range(2))
        kept.datagram, kept.is_uncertain, kept.how = b"datagram", True, FORWARDED
        for name, value in zip(names, (b"client", "peer", 2, b"here", 1.5, inf), strict=True):
            setattr(other, name, value)
        kept.answer_to(other)
        joined.append([getattr(kept, name) for name in (*names, "datagram", "is_uncertain", "how")])
    assert joined[0] == joined[1] == [b"client", "peer", 2, b"here", 1.5, inf, b"datagram", True, FORWARDED]


def test_what_is_none_of_its_objects_is_refused() -> None:
    front = Side().front
    asked: Any = Request(front.clients)
    for wrong in (lambda: front.answers.deliver(object(), b""), lambda: front.forwarding._send(asked)):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong()
    for said in (None, bytearray(30), "text"):
        with pytest.raises(TypeError):
            front.forwarding.answer("owner", [said])  # type: ignore[list-item]
    front.clients._datagram, front.clients._client = datagrams.request(IDS[0], command=GET, key=b"key"), CLIENT
    with pytest.raises(TypeError):
        front.forwarding.relay(asked, GET, None, 0, 0)  # type: ignore[arg-type]
    for slot in (256, 1 << 20, -300):
        with pytest.raises(IndexError):
            front.forwarding.relay(asked, GET, IDS[0], 0, slot)
        front.forwarding._requests.clear()
    assert front.told() == []
