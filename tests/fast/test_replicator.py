"""app/fast/replicator.pyx does what the Python of app/requests/replicator.py does, whatever comes when."""

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import writes
from app.observe.counters import REPLICATED, WAITED
from app.requests import forwarding, replicator
from app.requests.replicator import Replicator, ShortReplicator, WholeReplicator
from app.wire.protocol import GET, PUT, REMOVE, WIPEOUT
from tests.requests.test_replicator import LED_BY_A, LED_BY_B_VIEW, VIEW, install
from tests.support import parts
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, examples
from tests.support.pieces import pieces
from tests.wire.datagrams import request

IDS = [b"%016d" % number for number in range(5)] + [b"short", b"x" * 17]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("replicator", "compiled")


class PureReplicator(WholeReplicator):
    """Nothing of it is compiled."""


def test_the_short_way_is_taken() -> None:
    assert Replicator.mutate is ShortReplicator.mutate
    assert Replicator._release is ShortReplicator._release


def test_its_numbers_and_words_are_the_pythons() -> None:
    from app.fast import replicator as fast_replicator

    assert fast_replicator.IN_FLIGHT_BYTES == forwarding.IN_FLIGHT_BYTES
    assert fast_replicator.WAITS == writes.WAITS
    assert fast_replicator.NO_ANSWER == replicator.NO_ANSWER
    assert (fast_replicator.REPLICATED, fast_replicator.WAITED) == (REPLICATED, WAITED)


def test_what_is_kept_is_the_same() -> None:
    kept = pieces("waiting", "compiled").Kept()
    kept.datagram, kept.client, kept.peer, kept.asked_at = b"datagram", CLIENT, "", b"at"
    kept.hops, kept.deadline_s, kept.received_s, kept.is_uncertain, kept.how = 2, 3.0, 2.5, True, ""
    names = ["datagram", "client", "peer", "asked_at", "hops", "deadline_s", "received_s", "is_uncertain", "how"]
    names += ["command", "message_id", "id_crc", "reply", "kept_bytes"]
    of_request = [b"datagram", CLIENT, "", b"at", 2, 3.0, 2.5, True]
    for which in ("pure", "compiled"):
        kind = pieces("replicator", which).Waiter
        write, read = kind(kept, PUT, b"m", 0xFFFFFFFF), kind(kept, GET, b"m", 1, b"answer")
        told = [[getattr(waiter, name) for name in names] for waiter in (write, read)]
        assert told == [
            [*of_request, REPLICATED, PUT, b"m", 0xFFFFFFFF, b"", 512 + 16],
            [*of_request, WAITED, GET, b"m", 1, b"answer", 512 + 16 + 6],
        ]


def net_of(kind: type[Any]) -> Net:
    with patch.object(parts, "Replicator", kind):
        return Net(VIEW, max_waiting=4)


steps = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from("aab"),
        st.sampled_from([PUT, PUT, PUT, REMOVE, GET, GET, WIPEOUT]),
        st.sampled_from(IDS),
        st.integers(0, 2),
        st.sampled_from([CLIENT, OTHER_CLIENT]),
    ),
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver", "from a", "from b", "sweep", "later", "long", "lease"])
    ),
    st.tuples(st.sampled_from(["view", "full"])),
)


def do(net: Net, name: str, *given: Any) -> object:
    a = net["a"]
    if name == "ask":
        at, command, message_id, key, client = given
        value = {"value": b"v" * key} if command == PUT else {}
        asked = {"key": LED_BY_A[key]} if command != WIPEOUT else {}
        return net[at].take(request(message_id, command=command, **asked, **value), client)
    if name == "deliver":
        net.deliver()
    elif name.startswith("from"):
        net.deliver_from(name[-1])
    elif name == "view":
        install(net, LED_BY_B_VIEW, "a", "b")
    elif name == "lease":
        a.set_lease(net.loop.now_s)
    elif name == "full":
        a.replies.full = not a.replies.full
    else:
        net.loop.now_s += {"sweep": 0.0, "later": 0.3, "long": 1.0}[name]
        for part in (a, net["b"]):
            part.sweep()
    return None


def state(net: Net) -> object:
    return [
        (
            (node.told(), node.held(), node.waiting.count, node.waiting.kept_bytes, node.waiting.full),
            (node.counters.by_command(), node.counters.by_code(), node.counters.retries_answered),
            [node.counters.latency[how].counts for how in (REPLICATED, WAITED)],
            (node.replicator.snapshot(), node.forwarding.in_flight),
        )
        for node in (net["a"], net["b"])
    ]


@examples(200)
@given(st.lists(steps, max_size=25))
def test_whatever_happens_to_requests_happens_alike(drawn: list[tuple[Any, ...]]) -> None:
    nets = [net_of(PureReplicator), net_of(Replicator)]
    for step in drawn:
        pure, compiled = (do(net, *step) for net in nets)
        assert pure == compiled, step
        assert state(nets[0]) == state(nets[1]), step
