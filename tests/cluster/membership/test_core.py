"""The core on its own: what it does not let in."""

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cluster.events import SELF, UNKNOWN, Datagram, LinkRefused, Log, OpenLink, Send, Tick
from app.cluster.membership import timing
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.state import ClusterConfig
from app.cluster.membership.timing import WAITING_LOG_S
from app.wire.protocol import DATAGRAM_MAX_BYTES, SLOT_COUNT
from proto_gen import cluster_pb2 as pb

SERVERS = ("a:1", "b:1", "c:1")


def a_core(*servers: str, address: str = "a:1", now: float = 0.0) -> ClusterCore:
    return ClusterCore(ClusterConfig(address, servers or SERVERS), 1000, now, random.Random(1))


def test_a_cluster_of_one_serves_in_its_first_step() -> None:
    core = a_core("a:1")
    core.step(Tick(), 5.0)
    assert core.routes == [SELF] * SLOT_COUNT
    assert core.lease_until > 1e9
    assert (core.member_count, core.epoch) == (1, 1)


@pytest.mark.parametrize("is_proof", [True, False])
def test_refused_by_all_others_it_founds_alone_after_settling(is_proof: bool) -> None:
    """If they are to be of this machine."""
    core = a_core(now=5.0)
    effects = core.step(Tick(), 5.0)
    assert {effect.peer for effect in effects if isinstance(effect, OpenLink)} == {"b:1", "c:1"}
    for peer in ("b:1", "c:1"):
        core.step(LinkRefused(peer, 0, is_proof), 5.001)
    assert core.routes == [UNKNOWN] * SLOT_COUNT
    now = 5.0
    while now < 5.0 + timing.SETTLE_S + timing.LAPSE_S + 0.1:  # until nothing rests on their absence any more
        now += 0.025
        for effect in core.step(Tick(), now):
            if isinstance(effect, OpenLink):
                core.step(LinkRefused(effect.peer, 0, is_proof), now)
    assert core.routes == [SELF if is_proof else UNKNOWN] * SLOT_COUNT


def dropped(core: ClusterCore) -> dict[str, int]:
    return core.status().dropped


def test_what_is_not_from_a_peer_or_no_message_is_dropped_and_counted() -> None:
    core = a_core()
    core.step(Datagram("stranger:1", pb.ClusterMessage(kind=pb.PING, incarnation=1).SerializeToString()), 1.0)
    core.step(Datagram("a:1", pb.ClusterMessage(kind=pb.PING, incarnation=1).SerializeToString()), 1.0)
    core.step(Datagram("b:1", b"\xff\xff\xff"), 1.0)
    core.step(Datagram("b:1", b"\0" * (DATAGRAM_MAX_BYTES + 1)), 1.0)
    core.step(Datagram("b:1", b""), 1.0)
    core.step(Datagram("b:1", pb.ClusterMessage(kind=pb.PING).SerializeToString()), 1.0)
    deaths = [pb.Death(address="c:1", incarnation=1)] * 100
    message = pb.ClusterMessage(kind=pb.PING, incarnation=5, deaths=deaths)
    core.step(Datagram("b:1", message.SerializeToString()), 1.0)
    assert dropped(core) == {"stranger": 2, "malformed": 4, "oversized": 1}


def test_what_another_server_says_from_where_the_peer_was_is_not_the_peers_word() -> None:
    """Addresses may be used again. Without a secret they are all that tells who it is that speaks, but for his word."""
    core = a_core()
    said = pb.ClusterMessage(kind=pb.HELLO, incarnation=20, sender="c:1")
    core.step(Datagram("b:1", said.SerializeToString()), 1.0)
    assert (dropped(core), core.contact("b:1")) == ({"other sender": 1}, (0, -inf))
    said.sender = "b:1"
    effects = core.step(Datagram("b:1", said.SerializeToString()), 1.0)
    answers = [pb.ClusterMessage.FromString(effect.payload) for effect in effects if isinstance(effect, Send)]
    assert {answer.sender for answer in answers} == {"a:1"}, "every message names its sender"
    assert core.contact("b:1")[0] == 20


def test_a_newcomer_says_for_how_long_it_supports_nobody() -> None:
    core = a_core()
    said = []
    for now in (0.0, 0.5, 1.0):
        for effect in core.step(Tick(), now):
            if isinstance(effect, Send) and effect.peer == "b:1":
                message = pb.ClusterMessage.FromString(effect.payload)
                said += [message.span_us / 1e6] if message.kind == pb.HELLO else []
    assert said == pytest.approx([timing.LAPSE_S, timing.LAPSE_S - 0.5, 0.0], abs=1e-5)


@pytest.mark.parametrize(("said_us", "held_s"), [(0, 0.0), (500_000, 0.5), (9_000_000, timing.LAPSE_S)])
def test_who_joins_is_taken_at_its_word_as_to_when_it_will_support_us(said_us: int, held_s: float) -> None:
    core = a_core()
    message = pb.ClusterMessage(kind=pb.HELLO, incarnation=20, span_us=said_us)
    core.step(Datagram("b:1", message.SerializeToString()), 1.0)
    assert core._coordinator.joiners == {"b:1": pytest.approx(1.0 + held_s)}


def test_an_earlier_process_is_not_listened_to() -> None:
    core = a_core()
    core.step(Datagram("b:1", pb.ClusterMessage(kind=pb.HELLO, incarnation=20).SerializeToString()), 1.0)
    effects = core.step(Datagram("b:1", pb.ClusterMessage(kind=pb.HELLO, incarnation=19).SerializeToString()), 2.0)
    assert dropped(core) == {"stale incarnation": 1}
    answers = [effect.payload for effect in effects if isinstance(effect, Send) and effect.peer == "b:1"]
    assert any(pb.ClusterMessage.FromString(answer).to_incarnation == 20 for answer in answers)


def test_who_is_there_and_when_it_last_proved_that_it_lives() -> None:
    core = a_core()
    assert core.contact("b:1") == (0, -inf)
    core.step(Datagram("b:1", pb.ClusterMessage(kind=pb.HELLO, incarnation=20).SerializeToString()), 1.0)
    assert core.contact("b:1") == (20, -inf), "it has not shown that it hears this node"
    answer = pb.ClusterMessage(kind=pb.ACK, incarnation=20, to_incarnation=1000, echo_us=1_000_000)
    core.step(Datagram("b:1", answer.SerializeToString()), 1.5)
    assert core.contact("b:1") == (20, 1.0)


def test_a_clock_that_was_set_back_is_overcome() -> None:
    core = a_core()
    message = pb.ClusterMessage(kind=pb.ACK, incarnation=20, to_incarnation=5000)
    core.step(Datagram("b:1", message.SerializeToString()), 1.0)
    assert core.incarnation > 5000


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(SERVERS), st.binary(max_size=200)), max_size=8), st.booleans())
def test_noise_changes_nothing(datagrams: list[tuple[str, bytes]], as_member: bool) -> None:
    core = a_core(*(("a:1",) if as_member else SERVERS))
    core.step(Tick(), 1.0)
    epoch = core.epoch
    for peer, payload in datagrams:
        core.step(Datagram(peer, payload), 1.0)
    assert core.epoch == epoch


fields = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(list(range(1, 17))),
        "incarnation": st.integers(1, 2**64 - 1),
        "to_incarnation": st.sampled_from([0, 1000]),
        "stamp_us": st.integers(0, 2**64 - 1),
        "echo_us": st.integers(0, 2_000_000),
        "cluster_id": st.sampled_from([0, 1000, 7]),
        "epoch": st.integers(0, 3),
        "supports": st.booleans(),
        "support_withdrawn": st.booleans(),
        "target": st.sampled_from(["", "a:1", "b:1", "x"]),
        "target_incarnation": st.integers(0, 2000),
        "number": st.integers(0, 2**64 - 1),
        "ballot": st.integers(0, 2**64 - 1),
        "accepted_ballot": st.integers(0, 2**64 - 1),
        "span_us": st.integers(0, 2**64 - 1),
        "blocked": st.binary(max_size=40),
    }
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(SERVERS[1:]), fields), max_size=10))
def test_no_message_crashes_it(messages: list[tuple[str, dict[str, object]]]) -> None:
    core = a_core()
    core.step(Tick(), 1.0)
    for index, (peer, content) in enumerate(messages):
        payload = pb.ClusterMessage(**content).SerializeToString()  # type: ignore[arg-type]
        core.step(Datagram(peer, payload), 1.0 + index * 0.03)


def test_the_status_names_each_slots_primary_by_its_place() -> None:
    core = a_core("a:1")
    assert core.status().primaries == ()
    core.step(Tick(), 5.0)
    status = core.status()
    assert status.primaries == (0,) * SLOT_COUNT
    assert status.balanced


@pytest.mark.parametrize(("named", "is_taken"), [(0, True), (2, True), (1, False), (3, False), (255, False)])
def test_of_another_protocol_nothing_is_read_and_that_is_said_now_and_then(named: int, is_taken: bool) -> None:
    core = a_core()
    message = pb.ClusterMessage(kind=pb.HELLO, incarnation=5, node_protocol=named).SerializeToString()
    message += b"" if is_taken else b"\x08\x7f"  # a kind that we don't know
    said: list[str] = []
    for now in (1.0, 1.1, 1.0 + WAITING_LOG_S):
        said += [effect.text for effect in core.step(Datagram("b:1", message), now) if isinstance(effect, Log)]
    line = f"b:1 is refused: it speaks node protocol {named}, this node 2"
    assert said.count(line) == (0 if is_taken else 2)
    assert dropped(core) == ({} if is_taken else {"other protocol": 3})
    assert core.contact("b:1")[0] == (5 if is_taken else 0)


def test_every_message_names_our_protocol() -> None:
    (sent, *_) = [effect for effect in a_core().step(Tick(), 1.0) if isinstance(effect, Send)]
    assert pb.ClusterMessage.FromString(sent.payload).node_protocol == 2


@pytest.mark.parametrize("speaks", [True, False])
def test_a_server_of_another_protocol_is_there_so_nobody_founds_without_it(speaks: bool) -> None:
    """It would be a second cluster beside that one's."""
    core = a_core(now=5.0)
    for tick in range(200):
        now = 5.0 + 0.025 * tick
        for effect in core.step(Tick(), now):
            if isinstance(effect, OpenLink):
                core.step(LinkRefused(effect.peer, 0, is_proof=True), now)
            if speaks and isinstance(effect, OpenLink) and effect.peer == "b:1":  # before c:1 is known to be absent
                core.step(Datagram("b:1", pb.ClusterMessage(kind=pb.HELLO, node_protocol=3).SerializeToString()), now)
    assert (core.view is None) == speaks
