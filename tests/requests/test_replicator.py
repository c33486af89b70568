"""Requests that have to do with copies: two or three nodes' request paths over real replication, linked by a list."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.cluster.events import UNKNOWN
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.replication.frames import ACK, OPS, encode_ack
from app.cluster.replication.writes import WAITERS_MAX
from app.cluster.view import Member, View
from app.observe.counters import FORWARDED, REPLICATED, WAITED
from app.peers.frames import ANSWER, FORWARD
from app.requests.forwarding import FULL_WAIT_MS, IN_FLIGHT_BYTES
from app.requests.request import PATIENCE_S
from app.storage.mutate import BUSY_WAIT_MS, ROOM_WAIT_MS
from app.wire.codec import take_ordinary
from app.wire.protocol import (
    GET,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    WIPEOUT,
    slot_of,
)
from proto_gen.key_value_pb2 import KVResponse
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, Parts
from tests.wire.datagrams import request, response

VIEW = first_view((Member("a", 1), Member("b", 2)), 7, 2)
# The same, but b leads every slot and a follows.
LED_BY_B_VIEW = replace(
    VIEW,
    epoch=2,
    primaries=("b",) * SLOT_COUNT,
    backups=(("a",),) * SLOT_COUNT,
    homes=(("b", "a"),) * SLOT_COUNT,
)
LED_BY_A, LED_BY_B = (
    [key for n in range(99) if VIEW.primaries[slot_of(key := b"%d" % n)] == name] for name in ("a", "b")
)
KEY = LED_BY_A[0]
READ = b"r" * 16


@pytest.fixture
def net() -> Net:
    return Net(VIEW)


def ident(number: int) -> bytes:
    return b"%016d" % number


def put(number: int, value: bytes = b"v", key: bytes = KEY) -> bytes:
    """Those of odd numbers name a version, as most clients do: they are taken apart without protobuf."""
    version = {"version": 0} if number % 2 else {}
    return request(ident(number), command=PUT, key=key, value=value, **version)


def get(message_id: bytes = READ, key: bytes = KEY) -> bytes:
    return request(message_id, command=GET, key=key)


def refusal(wait_ms: int) -> KVResponse:
    return KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=wait_ms)


def install(net: Net, view: View, *names: str) -> None:
    """These nodes go by this view from now on."""
    for name in names:
        net[name].install(view)


# --- writes ---------------------------------------------------------------------------------------------------------


def test_a_write_is_answered_when_the_copy_has_it(net: Net) -> None:
    a, b = net["a"], net["b"]
    assert a.take(put(1)) is None
    assert a.told() == []
    net.deliver_from("a")
    assert len(b.store) == 1
    assert a.told() == [], "its acknowledgement is under way"
    net.loop.now_s += 0.125
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert a.counters.by_command()["PUT"] == 1
    assert a.counters.latency[REPLICATED].count == 1
    assert a.counters.latency[REPLICATED].total_s == 0.125
    assert a.waiting.count == 0


def test_in_either_encoding() -> None:
    assert [take_ordinary(put(number), 0, len(put(number))) is not None for number in (1, 2)] == [True, False]
    for number in (1, 2):
        net = Net(VIEW)
        assert net["a"].take(put(number)) is None
        net.deliver()
        assert net["a"].code(ident(number)) == NO_ERR
        assert len(net["b"].store) == 1


def test_a_read_of_what_not_all_copies_have_waits_too(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    assert a.take(get()) is None
    assert response(a.take(get(b"s" * 16, LED_BY_A[1])), b"s" * 16).errCode == KEY_DNE_ERR, "others do not wait"
    net.deliver()
    (_, write), (_, read) = a.told()
    assert response(write, ident(1)).errCode == NO_ERR
    assert response(read, READ).value == b"v"
    assert a.counters.latency[WAITED].count == 1
    assert response(a.take(get()), READ).value == b"v"


def test_a_read_waits_for_the_write_whose_value_it_has_and_not_for_later_ones(net: Net) -> None:
    """However often the key is written, it is answered."""
    a = net["a"]
    a.take(put(1, b"first"))
    a.take(get())
    first, net.queue = net.queue, []
    a.take(put(2, b"second"))
    second, net.queue = net.queue, first
    a.take(get(b"s" * 16), OTHER_CLIENT)
    net.deliver()
    (_, write), (_, read) = a.told()
    assert write[2:18] == ident(1)
    assert response(read, READ).value == b"first"
    net.queue = second
    net.deliver()
    (_, write), (_, read) = a.told()
    assert write[2:18] == ident(2)
    assert response(read, b"s" * 16).value == b"second"


@pytest.mark.parametrize("command", [PUT, REMOVE, WIPEOUT, GET])
def test_what_waits_for_copies_is_counted_while_it_does(net: Net, command: int) -> None:
    a = net["a"]
    before = IN_FLIGHT_BYTES + 2 * len(put(1))
    a.take(put(1))
    assert (a.waiting.count, a.waiting.kept_bytes) == (1, before)
    more = {} if command == WIPEOUT else {"key": KEY}
    datagram = request(b"m" * 16, command=command, **more, **({"value": b"w"} if command == PUT else {}))
    a.take(datagram, OTHER_CLIENT)
    kept_bytes = a.waiting.kept_bytes - before
    net.loop.now_s += 0.25
    net.deliver()
    reply = dict(a.told())[OTHER_CLIENT]
    assert response(reply, b"m" * 16).errCode == NO_ERR
    assert kept_bytes == IN_FLIGHT_BYTES + 2 * len(datagram) + (len(reply) if command == GET else 0)
    assert (a.waiting.count, a.waiting.kept_bytes) == (0, 0)
    durations = {how: (a.counters.latency[how].count, a.counters.latency[how].total_s) for how in (REPLICATED, WAITED)}
    assert durations == (
        {REPLICATED: (1, 0.25), WAITED: (1, 0.25)} if command == GET else {REPLICATED: (2, 0.5), WAITED: (0, 0.0)}
    )
    assert a.counters.answers[command * 8 + NO_ERR] == 1 + (command == PUT)


def test_a_retry_joins_the_write_and_a_later_one_is_answered_from_memory(net: Net) -> None:
    a, b = net["a"], net["b"]
    a.take(put(1))
    assert a.take(put(1), OTHER_CLIENT) is None
    net.deliver()
    assert [address for address, _ in a.told()] == [CLIENT, OTHER_CLIENT]
    for retries in (1, 2):
        assert response(a.take(put(1)), ident(1)).errCode == NO_ERR
        assert a.counters.retries_answered == retries
    assert len(b.replies) == 1


def test_a_client_that_repeats_itself_gets_no_more_answers_than_so_many(net: Net) -> None:
    a = net["a"]
    for _ in range(WAITERS_MAX):
        assert a.take(put(1)) is None
    waiting = a.waiting.count
    assert a.take(put(1), OTHER_CLIENT) is None
    assert a.waiting.count == waiting
    net.deliver()
    assert [address for address, _ in a.told()] == [CLIENT] * WAITERS_MAX


def test_a_relayed_write_is_answered_to_the_node_that_relays(net: Net) -> None:
    a, b = net["a"], net["b"]
    assert b.take(put(1)) is None
    net.deliver()
    assert b.code(ident(1)) == NO_ERR
    assert len(a.store) == len(b.store) == 1
    assert b.counters.latency[FORWARDED].count == 1
    assert a.counters.latency[REPLICATED].count == 0, "counted where the client asked"


def test_a_remove_of_what_is_not_here_goes_to_the_copies(net: Net) -> None:
    """They may still have what was evicted here."""
    a, b = net["a"], net["b"]
    a.take(put(1))
    net.deliver()
    a.told()
    assert a.store.remove(slot_of(KEY), KEY)
    assert a.take(request(b"d" * 16, command=REMOVE, key=KEY)) is None
    net.deliver()
    assert a.code(b"d" * 16) == KEY_DNE_ERR
    assert len(b.store) == 0


@pytest.mark.parametrize("command", [PUT, GET, REMOVE])
def test_what_is_answered_at_once_is_known(net: Net, command: int) -> None:
    """By another node, or when copies have it, is not at once."""
    a, alone = net["a"], Parts()
    a.turn.open()
    alone.turn.open()
    here, there = slot_of(KEY), slot_of(LED_BY_B[0])
    assert a.commands.is_answered_at_once(here, command) == (command == GET)
    assert not a.commands.is_answered_at_once(there, command)
    assert alone.commands.is_answered_at_once(here, command)


# --- bounds and expiry ----------------------------------------------------------------------------------------------


def test_a_write_that_has_waited_too_long_is_not_answered_and_stale_wake_ups_are_ignored(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    net.deliver_from("a")
    net.wait(PATIENCE_S - 0.01, sweep=True)
    assert a.waiting.count == 1
    net.wait(0.01, sweep=True)
    assert a.waiting.count == 0
    assert a.told() == []
    net.deliver()
    assert a.told() == [], "its acknowledgement comes too late"
    assert response(a.take(put(1)), ident(1)).errCode == NO_ERR, "but what was done is remembered"


def test_a_read_that_has_waited_too_long_is_refused(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    a.take(get(), OTHER_CLIENT)
    net.wait(PATIENCE_S, sweep=True)
    ((address, reply),) = a.told()
    assert (address, response(reply, READ)) == (OTHER_CLIENT, refusal(FULL_WAIT_MS))
    assert (a.waiting.count, a.waiting.kept_bytes) == (0, 0)
    (waiter,) = a.replication._primary.unacked[KEY].readers or ()
    assert waiter.datagram == waiter.reply == b"", "for as long as its write is under way it keeps nothing"
    net.deliver()
    assert a.told() == [], "its write is on all copies too late"


def full_net() -> Net:
    """The first node has one write in flight, and no other request may wait."""
    net = Net(VIEW, max_waiting=1)
    net["a"].take(put(9, key=LED_BY_A[9]))
    net.deliver()
    net["a"].told()
    net["a"].take(put(1))
    assert net["a"].waiting.full
    return net


@pytest.mark.parametrize("command", [PUT, REMOVE])
def test_a_mutation_that_would_have_to_wait_is_refused_when_no_more_may(command: int) -> None:
    net = full_net()
    a, b = net["a"], net["b"]
    before = a.held()
    datagram = request(ident(2), command=command, key=LED_BY_A[9], value=b"w")
    assert response(a.take(datagram), ident(2)) == refusal(BUSY_WAIT_MS)
    assert a.held() == before, "nothing is done, and nothing remembered"
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert a.take(datagram) is None
    net.deliver()
    assert a.code(ident(2)) == NO_ERR
    assert b.held() == a.held()


def test_a_wipeout_that_would_have_to_wait_is_refused_when_no_more_may() -> None:
    net = full_net()
    a = net["a"]
    before = a.held()
    assert response(a.take(request(ident(2), command=WIPEOUT)), ident(2)) == refusal(BUSY_WAIT_MS)
    assert a.held() == before


def test_a_read_that_would_have_to_wait_is_refused_when_no_more_may() -> None:
    net = full_net()
    a = net["a"]
    assert response(a.take(get()), READ) == refusal(FULL_WAIT_MS)
    assert response(a.take(get(key=LED_BY_A[9])), READ).value == b"v", "another need not wait"


def test_a_retry_is_answered_from_memory_when_no_more_may_wait() -> None:
    net = full_net()
    a = net["a"]
    assert response(a.take(put(9, key=LED_BY_A[9])), ident(9)).errCode == NO_ERR
    assert a.take(put(1)) is None, "this one would have to wait; it is left to its next try"
    net.deliver()
    assert a.code(ident(1)) == NO_ERR


def test_more_reads_than_may_wait_for_a_write_are_refused(net: Net) -> None:
    a = net["a"]
    a.replication._primary.pending_max = 2
    a.take(put(1))
    reads = [get(bytes([n]) * 16) for n in range(3)]
    assert [a.take(read) for read in reads[:2]] == [None, None]
    assert response(a.take(reads[2]), b"\2" * 16) == refusal(FULL_WAIT_MS)


def test_a_retry_whose_answer_nobody_can_wait_for_gets_none_and_keeps_nothing(net: Net) -> None:
    a = net["a"]
    for _ in range(WAITERS_MAX + 1):
        a.take(put(1))
    net.deliver()
    assert a.waiting.count == 0
    assert a.forwarding.in_flight == 0


# --- leases ---------------------------------------------------------------------------------------------------------


def test_without_a_lease_nothing_is_released_and_with_a_new_one_it_is(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    a.take(get(), OTHER_CLIENT)
    a.set_lease(-1.0)
    net.deliver()
    assert a.told() == []
    assert a.waiting.count == 2, "they wait for the next lease"
    a.set_lease(1e9)
    a.sweep()
    codes = {address: response(reply, ident(1) if address == CLIENT else READ).errCode for address, reply in a.told()}
    assert codes == {CLIENT: NO_ERR, OTHER_CLIENT: NO_ERR}
    assert a.counters.latency[WAITED].count == 2


def test_answers_that_are_laid_out_do_not_leave_when_the_lease_runs_out(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released while it ran, and looked at once more before they leave."""
    a = net["a"]
    a.take(put(1))
    send = a.batch.send

    def slowly(address: bytes, reply: bytes, asked_at: bytes = b"") -> None:
        send(address, reply, asked_at)
        net.loop.now_s = a.membership.lease_until = net.loop.now_s + 1

    monkeypatch.setattr(a.batch, "send", slowly)
    net.deliver()
    assert a.waiting.count == 0
    assert a.told() == []
    assert a.batch.unfenced == 1


# --- a change of primary --------------------------------------------------------------------------------------------


def test_one_that_is_no_member_leads_nothing(net: Net) -> None:
    a = net["a"]
    assert a.replication.leading > 0
    a.install(replace(VIEW, epoch=2), is_member=False)
    assert a.replication.leading == 0


@pytest.mark.parametrize("had_it", [True, False])
def test_a_write_in_flight_is_handed_on_to_the_next_primary(net: Net, had_it: bool) -> None:
    a, b = net["a"], net["b"]
    a.take(put(1))
    if had_it:
        net.deliver_from("a")
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "b", "a")
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert b.content() == {KEY: b"\x12\x01v\x20\x00"}
    assert b.counters.retries_answered == had_it
    assert a.counters.latency[FORWARDED].count == 1


def test_a_write_in_flight_at_a_change_of_primary_is_never_refused(net: Net) -> None:
    """The next primary does not know it and is overloaded; but a copy may have it."""
    a, b = net["a"], net["b"]
    a.take(put(1))
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "b", "a")
    b.replies.full = True
    net.deliver()
    assert a.told() == []
    assert a.waiting.count == 0


def test_a_write_in_flight_that_finds_no_primary_is_never_refused(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "a")
    a.set_routes(UNKNOWN)
    assert a.waiting.count == 1
    net.wait(PATIENCE_S, sweep=True)
    assert a.told() == []
    assert a.forwarding.abandoned == 1


def test_a_write_in_flight_is_not_refused_by_this_node_either_once_it_is_in_charge_again(net: Net) -> None:
    """It holds nothing any more, and does not remember it; but a copy may have it."""
    a = net["a"]
    a.take(put(1))
    net.cut("a", "b")
    install(net, LED_BY_B_VIEW, "a")
    assert a.forwarding.forwarded == 0
    a.was_reset()
    a.replies.full = True
    install(net, replace(first_view((Member("a", 3),), 3, 1), cluster_id=VIEW.cluster_id, epoch=9), "a")
    a.sweep()
    assert a.waiting.count == 0
    assert a.told() == []
    assert response(a.take(put(2)), ident(2)).errCode == SYS_OVERLOAD_ERR


def test_a_write_in_flight_for_a_peer_is_the_peers_to_hand_on(net: Net) -> None:
    a, b = net["a"], net["b"]
    b.take(put(1))
    net.deliver_from("b")
    assert a.waiting.count == 1
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "a")
    assert a.waiting.count == 0
    assert [kind for _, _, kind, _ in net.queue if kind in (ANSWER, FORWARD)] == []
    install(net, LED_BY_B_VIEW, "b")
    b.sweep()
    net.deliver()
    assert b.code(ident(1)) == NO_ERR


def test_a_read_in_flight_goes_to_the_next_primary(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    a.take(get(), OTHER_CLIENT)
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "b", "a")
    net.deliver()
    answers = dict(a.told())
    assert response(answers[OTHER_CLIENT], READ).errCode in (NO_ERR, KEY_DNE_ERR)
    assert a.counters.latency[FORWARDED].count == 2


def test_a_read_in_flight_that_finds_no_primary_is_refused(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    a.take(get(), OTHER_CLIENT)
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "a")
    a.set_routes(UNKNOWN)
    assert (a.forwarding.in_flight, a.told()) == (2, [])
    net.wait(PATIENCE_S, sweep=True)
    ((address, reply),) = a.told()
    assert (address, response(reply, READ).errCode) == (OTHER_CLIENT, SYS_OVERLOAD_ERR)


@pytest.mark.parametrize("command", [PUT, GET])
def test_what_is_handed_on_too_late_is_not_executed(net: Net, command: int) -> None:
    """It was not given up yet when another node was in charge."""
    a = net["a"]
    a.take(put(1))
    if command == GET:
        a.take(get(), OTHER_CLIENT)
    net.queue.clear()
    net.loop.now_s += PATIENCE_S
    install(net, LED_BY_B_VIEW, "a")
    assert a.waiting.count == 0
    assert [kind for _, _, kind, _ in net.queue if kind == FORWARD] == []
    told = [(address, response(reply, READ)) for address, reply in a.told()]
    assert told == ([(OTHER_CLIENT, refusal(FULL_WAIT_MS))] if command == GET else [])


def test_a_read_in_flight_for_a_peer_is_the_peers_to_send_again(net: Net) -> None:
    a, b = net["a"], net["b"]
    a.take(put(1))
    b.take(get())
    net.deliver_from("b")
    assert a.waiting.count == 2
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "a")
    assert a.waiting.count == 1, "the write is this node's client's, and waits for the next primary"


def test_a_retry_that_joins_another_in_the_table_keeps_that_it_may_have_taken_effect(net: Net) -> None:
    a = net["a"]
    a.set_lease(-1.0)
    a.take(put(1), CLIENT)  # it waits for a lease
    a.set_lease(1e9)
    a.take(put(1), OTHER_CLIENT)  # executed
    assert (a.forwarding.in_flight, a.replication.pending) == (1, 1)
    net.cut("a", "b")
    install(net, LED_BY_B_VIEW, "a")
    assert a.forwarding.duplicates == 1, "the second joins the first"
    net.wait(PATIENCE_S, sweep=True)
    assert a.waiting.count == 0
    assert a.told() == [], "refused, although it was executed here"


def test_a_node_that_was_expelled_hands_on_what_waits(net: Net) -> None:
    a, b = net["a"], net["b"]
    a.take(put(1))
    net.deliver_from("a")
    net.queue.clear()
    alone = next_view(VIEW, Changes(gone={"a": "silent"}), 2)
    assert alone is not None
    install(net, alone, "b")
    a.was_reset()
    a.membership.is_member = False
    a.set_routes("b")
    a.sweep()
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert (len(a.store), len(a.replies)) == (0, 0)
    assert len(b.store) == 1


# --- wiping ---------------------------------------------------------------------------------------------------------


def wipe(message_id: bytes = b"w" * 16) -> bytes:
    return request(message_id, command=WIPEOUT)


def test_a_wipeout_wipes_the_copies_of_what_this_node_leads(net: Net) -> None:
    a, b = net["a"], net["b"]
    a.take(put(1))
    net.deliver()
    a.told()
    other = LED_BY_B[0]
    b.take(put(2, key=other))
    net.deliver()
    assert a.take(wipe()) is None
    refused = a.take(wipe(b"x" * 16))
    assert response(refused, b"x" * 16) == refusal(50), "until all copies have it its slots are closed"
    assert a.take(wipe(), OTHER_CLIENT) is None, "a retry joins it"
    net.deliver()
    assert [(address, response(reply, b"w" * 16).errCode) for address, reply in a.told()] == [
        (CLIENT, NO_ERR),
        (OTHER_CLIENT, NO_ERR),
    ]
    assert set(a.content()) == set(b.content()) == {other}
    assert response(a.take(wipe()), b"w" * 16).errCode == NO_ERR
    assert a.counters.retries_answered == 1


def test_a_request_for_a_slot_that_is_being_wiped_waits_and_goes_on(net: Net) -> None:
    a = net["a"]
    a.take(wipe(), OTHER_CLIENT)
    assert a.take(put(1)) is None
    assert a.forwarding.in_flight == 1
    net.deliver()
    assert [
        (address, response(reply, b"w" * 16 if address == OTHER_CLIENT else ident(1)).errCode)
        for address, reply in a.told()
    ] == [
        (OTHER_CLIENT, NO_ERR),
        (CLIENT, NO_ERR),
    ]


def test_a_wipeout_without_a_lease_is_refused_unless_it_was_executed(net: Net) -> None:
    """Then it gets no answer: a refusal says that nothing was done."""
    a = net["a"]
    a.take(wipe())
    net.deliver()
    a.told()
    a.take(put(1))
    net.deliver()
    a.told()
    a.set_lease(-1.0)
    assert response(a.take(wipe(b"x" * 16)), b"x" * 16) == refusal(50)
    assert a.take(wipe()) is None
    assert len(a.store) == 1
    a.set_lease(1e9)
    assert response(a.take(wipe()), b"w" * 16).errCode == NO_ERR
    assert len(a.store) == 1


def test_a_wipeout_waits_no_longer_than_others(net: Net) -> None:
    a = net["a"]
    a.take(wipe())
    net.wait(PATIENCE_S, sweep=True)
    assert a.told() == []
    assert a.waiting.count == 0
    net.deliver()
    assert a.told() == []
    assert response(a.take(wipe()), b"w" * 16).errCode == NO_ERR


def test_a_wipeout_is_not_told_while_a_copy_may_lack_it(net: Net) -> None:
    """It leads as before, but all is closed until the copies hold exactly what it holds: were it to die before, what
    was wiped would be back."""
    a, b = net["a"], net["b"]
    a.take(put(1))
    net.deliver()
    a.told()
    a.take(wipe())
    net.queue.clear()
    second = replace(VIEW, epoch=3)
    install(net, second, "a")
    a.sweep()
    assert a.take(wipe()) is None, "nor is a retry"
    assert a.told() == []
    assert a.waiting.count == 0
    assert len(b.store) == 1
    net.cut("a", "b")
    install(net, second, "b")
    net.link("a", "b")
    net.deliver()
    assert len(b.store) == 0
    assert response(a.take(wipe()), b"w" * 16).errCode == NO_ERR


def test_a_wipeout_in_flight_at_a_change_of_primary_is_left_to_its_client(net: Net) -> None:
    """Whoever leads the slots now may have wiped them or not."""
    a = net["a"]
    a.take(wipe())
    net.queue.clear()
    install(net, LED_BY_B_VIEW, "a")
    assert a.told() == []
    assert a.waiting.count == 0


# --- links ----------------------------------------------------------------------------------------------------------


def test_frames_of_a_link_that_has_ended_are_not_taken(net: Net) -> None:
    """What came before them in the same read has ended it."""
    a, b = net["a"], net["b"]
    a.take(put(1))
    frames = [(kind, body) for _, _, kind, body in net.queue]
    assert [kind for kind, _ in frames] == [OPS]
    net.cut("a", "b")
    b.frames("a", frames)
    net.loop.turn()
    assert len(b.store) == 0
    assert b.replication.faults == {}


def test_a_link_that_comes_back_is_begun_anew(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    net.cut("a", "b")
    net.link("a", "b")
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert len(net["b"].store) == 1


@pytest.mark.parametrize(
    "event",
    [
        lambda a: a.replicator.on_view(LED_BY_B_VIEW, True),
        lambda a: a.replicator.on_reset(),
        lambda a: a.replicator.refresh(a.membership),
        lambda a: a.replicator.link_up("b"),
        lambda a: a.replicator.link_down("b"),
        lambda a: a.replicator.tick(),
        lambda a: a.replicator.on_frame("b", ACK, encode_ack(0, [])),
    ],
    ids=["view", "reset", "step", "link up", "link down", "tick", "frame"],
)
def test_what_an_event_brings_about_is_carried_out_at_the_turns_end(net: Net, event: Callable[[Parts], None]) -> None:
    a = net["a"]
    a.take(put(1))
    a.loop.turn()
    assert (a.turn.is_ending, a.replicator._is_due) == (False, False)
    event(a)
    assert (a.turn.is_ending, a.replicator._is_due) == (True, True)
    a.loop.turn()
    assert (a.turn.is_ending, a.replicator._is_due) == (False, False)


def test_a_frame_that_is_no_ones_business_changes_nothing(net: Net) -> None:
    a = net["a"]
    before = a.held()
    a.frames("b", [(kind, b"anything") for kind in (5, 15, 29, 200)])
    net.loop.turn()
    assert a.links.severed == []
    assert a.held() == before
    assert a.replication.faults == {}


def test_a_peer_that_sends_unsound_frames_is_cut_off(net: Net) -> None:
    a = net["a"]
    a.frames("b", [(ACK, b"x"), (ACK, b"x")])
    net.loop.turn()
    assert a.links.severed == ["b"]
    assert a.replicator.snapshot()["copies_fault_bad_frame"] == 2
    assert not a.links.is_up("b")


def test_a_peer_that_is_too_far_behind_is_cut_off(net: Net) -> None:
    a = net["a"]
    net.full.add("b")
    a.take(put(1))
    assert a.links.severed == ["b"]
    assert net.queue == []


def test_a_slot_opens_when_a_peer_that_was_asked_too_early_is_asked_again(net: Net) -> None:
    a, b = net["a"], net["b"]
    second = replace(VIEW, epoch=3)
    install(net, second, "a")
    net.deliver()  # b is not in this view yet
    a.take(put(1))
    assert (a.forwarding.in_flight, a.replication.pending) == (1, 0)
    install(net, second, "b")
    net.queue.clear()
    a.replicator.tick()
    net.deliver()
    assert a.code(ident(1)) == NO_ERR
    assert len(b.store) == 1


def test_a_learner_that_has_caught_up_is_told_to_membership() -> None:
    view = next_view(VIEW, Changes(joined={"c": 3}), 2)
    assert view is not None
    net = Net(view)
    told = {name: net[name].membership.synced_slots for name in ("a", "b")}
    for name, said in told.items():
        slots = 0
        for learner, mask, epoch in said:
            assert (learner, epoch) == ("c", view.epoch)
            slots |= mask
        assert slots == sum(
            1 << slot for slot in range(SLOT_COUNT) if view.primaries[slot] == name and "c" in view.learners(slot)
        )
    assert any(told.values())


def test_slots_that_it_should_be_no_holder_of_are_told_to_membership(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    b = net["b"]
    slot = VIEW.primaries.index("a")
    b.replication._shared.positions[slot] = None  # its copy is not whole
    install(net, replace(VIEW, epoch=2), "b")
    assert b.membership.lost_slots == [(1 << slot, 2)]
    assert [record.msg for record in caplog.records] == ["copies.copies_lost"]


def test_slots_that_start_empty_are_told(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    b = net["b"]
    slot = VIEW.primaries.index("a")
    b.replication._shared.positions[slot] = None
    install(net, replace(LED_BY_B_VIEW, backups=((),) * SLOT_COUNT, homes=(("b",),) * SLOT_COUNT), "b")
    assert [(record.msg, record.__dict__["fields"]) for record in caplog.records] == [
        ("copies.slots_start_empty", {"slots": [slot]})
    ]


def test_the_state_in_numbers(net: Net) -> None:
    a = net["a"]
    a.take(put(1))
    assert a.replicator.snapshot() == {
        "copies_slots_led": VIEW.primaries.count("a"),
        "copies_waiting_for_room": 0,
        "copies_writes_in_flight": 1,
    }


# --- no room --------------------------------------------------------------------------------------------------------


def test_a_store_that_is_still_wiping_is_overloaded_not_full() -> None:
    """Never a remembered NO_SPC_ERR: there will be room in a moment."""
    net = Net(VIEW, arena_bytes=2 << 20, evict=False, reserve_bytes=1 << 19)
    a = net["a"]
    _fill(a)
    a.take(wipe())
    net.deliver()
    assert a.code(b"w" * 16) == NO_ERR
    assert a.store.wiping
    replies = len(a.replies)
    assert response(a.take(put(1, bytes(10_000))), ident(1)) == refusal(ROOM_WAIT_MS)
    assert len(a.replies) == replies
    for node in net.nodes.values():
        while node.store.drain_wiped():
            pass
    _free_the_others(net)
    assert a.take(put(1, bytes(10_000))) is None
    net.deliver()
    assert a.code(ident(1)) == NO_ERR


def _fill(node: Parts) -> None:
    """Until not even a small entry has room: in every page there are some of slots that another node leads."""
    numbers = iter(range(1 << 30))
    while node.store.put(slot_of(key := b"%07d" % next(numbers)), key, bytes(30)):
        pass


def _free_the_others(net: Net) -> None:
    for node in net.nodes.values():
        node.store.wipe(range(SLOT_COUNT))
        while node.store.drain_wiped():
            pass


# --- what is told of it ----------------------------------------------------------------------------------------------


def test_slots_take_writes_while_all_their_copies_take_part(net: Net) -> None:
    """What readiness goes by: a write at a link that is down waits, however open its slot is."""
    a = net["a"].replication
    mine = VIEW.masks["a"]
    assert a.led_slots() == (mine, mine)
    assert set(a.linked) == {"b"}
    net.cut("a", "b")
    assert a.led_slots() == (0, 0)
    assert not a.linked
    net.link("a", "b")
    net.deliver()
    assert a.led_slots() == (mine, mine)


@pytest.mark.parametrize("who", ["a", "b"])
def test_memory_that_is_short_here_or_at_a_copy_hinders_writes(net: Net, who: str) -> None:
    mine = VIEW.masks["a"]
    net[who].replies.full = True
    if who == "b":
        net[who].replies.max_bytes = 0  # so that it stays full
        net["a"].take(put(1))  # its acknowledgement says so
        net.deliver()
    assert net["a"].replication.led_slots() == (mine, 0)


def test_a_full_store_that_may_not_evict_hinders_nothing() -> None:
    """A PUT is answered then, by NO_SPC_ERR."""
    net = Net(VIEW, evict=False, arena_bytes=1 << 16, reserve_bytes=1 << 20)
    assert net["a"].replication.led_slots() == (VIEW.masks["a"],) * 2
    assert net["a"].replication._primary.refuses(net["a"].replication.followed[slot_of(KEY)])  # type: ignore[arg-type]
