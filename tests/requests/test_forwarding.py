"""Requests for slots that other nodes serve: two or three nodes' request paths, linked by a list of frames."""

import json
from struct import unpack_from

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.cluster.membership.planner import first_view
from app.cluster.view import Member
from app.observe.counters import FORWARDED, WAITED
from app.peers.frames import ANSWER, FORWARD, FORWARD_BYTES
from app.requests.forwarding import DETOUR_S, FULL_WAIT_MS, HOPS_MAX, IN_FLIGHT_BYTES, RESEND_S, SWEEP_S
from app.requests.request import PATIENCE_S
from app.wire.protocol import (
    GET,
    INTERNAL_ERR,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    TYPE_CLUSTER,
    slot_of,
)
from proto_gen.key_value_pb2 import KVResponse
from tests.support.parts import CLIENT, OTHER_CLIENT, Net, Parts, forwarded
from tests.wire.datagrams import ack, envelope, request, response

KEY = b"key"
ONE, TWO = b"1" * 16, b"2" * 16


def nodes(max_waiting: int = 8, **routes: str) -> Net:
    """Nodes by name, each with the one route that it has for all slots."""
    net = Net(names=routes, max_waiting=max_waiting)
    for name, route in routes.items():
        net[name].set_routes(route)
    return net


def put(message_id: bytes = ONE, value: bytes = b"v") -> bytes:
    return request(message_id, command=PUT, key=KEY, value=value)


def get(message_id: bytes = ONE) -> bytes:
    return request(message_id, command=GET, key=KEY)


def fill_replies(node: Parts) -> None:
    """No further mutation is taken: a refusal, for a while."""
    node.replies.full = True


def header(body: bytes) -> tuple[int, float]:
    """Hops, and deadline by the receiver's clock, of a frame FORWARD."""
    deadline_s, hops = unpack_from("<dB", body)
    return hops, deadline_s


def deadline(net: Net, left_s: float) -> object:
    """That of a request which has so much time left: never later, and earlier by what clocks drift apart meanwhile."""
    return pytest.approx(net.loop.now_s + 0.99 * left_s, abs=0.0102 * left_s)


# --- there and back -------------------------------------------------------------------------------------------------


def test_a_request_goes_to_its_primary_and_the_answer_to_the_client() -> None:
    net = nodes(front="owner", owner=SELF)
    front, owner = net["front"], net["owner"]
    assert front.take(put()) is None
    ((sender, receiver, kind, body),) = net.queue
    assert (sender, receiver, kind) == ("front", "owner", FORWARD)
    assert body[FORWARD_BYTES:] == put(), "the client's datagram travels as it came"
    assert header(body) == (1, deadline(net, PATIENCE_S))
    net.deliver()
    assert front.code(ONE) == NO_ERR
    assert len(owner.store) == 1
    assert len(front.store) == front.forwarding.in_flight == front.waiting.count == 0
    assert (front.forwarding.forwarded, front.forwarding.duplicates, front.forwarding.abandoned) == (1, 0, 0)
    assert owner.counters.by_command()["PUT"] == 1
    assert not any(front.counters.answers), "counted where it was executed"


def test_each_request_is_counted() -> None:
    net = nodes(front="owner", owner=SELF)
    for count, message_id in enumerate((ONE, TWO), 1):
        net["front"].take(put(message_id))
        assert net["front"].forwarding.forwarded == count
    front = nodes(front=UNKNOWN)["front"]
    for message_id in (ONE, TWO):
        front.take(put(message_id))
    front.loop.advance(PATIENCE_S)
    front.sweep()
    assert front.forwarding.abandoned == 2


@pytest.mark.parametrize("length", [1, 15, 17, 64])
def test_message_ids_of_other_lengths_find_their_request(length: int) -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    ids = [bytes([n]) * length for n in range(1, 4)]
    for message_id in ids:
        front.take(put(message_id))
    net.deliver()
    assert [response(reply, message_id).errCode for (_, reply), message_id in zip(front.told(), ids, strict=True)] == [
        NO_ERR
    ] * 3


def test_a_request_passes_several_nodes() -> None:
    net = nodes(front="middle", middle="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.deliver_from("front")
    ((_, _, _, body),) = net.queue
    assert header(body)[0] == 2
    assert body[FORWARD_BYTES:] == put()
    net.deliver()
    assert front.code(ONE) == NO_ERR
    assert len(net["owner"].store) == 1
    assert not net["middle"].told()


def test_answers_for_several_clients_find_them_in_any_order() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(put(ONE), CLIENT)
    front.take(get(TWO), OTHER_CLIENT)
    net.deliver_from("front")
    net.queue.reverse()
    net.deliver()
    assert {address: response(reply, ONE if address == CLIENT else TWO).errCode for address, reply in front.told()} == {
        CLIENT: NO_ERR,
        OTHER_CLIENT: NO_ERR,
    }


def test_only_who_was_asked_can_answer() -> None:
    net = nodes(front="owner", owner=SELF, other=SELF)
    front = net["front"]
    front.take(put())
    net.deliver_from("front")
    ((sender, _, _, answer),) = net.queue
    net.queue.clear()
    front.frames("other", [(ANSWER, answer)])
    net.loop.turn()
    assert (front.told(), front.forwarding.in_flight) == ([], 1)
    front.frames(sender, [(ANSWER, answer)])
    net.loop.turn()
    assert front.code(ONE) == NO_ERR


def test_answers_nobody_waits_for_are_ignored() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.deliver_from("front")
    net.queue *= 2
    net.deliver()
    assert front.code(ONE) == NO_ERR
    front.take(get(TWO))
    net.queue = [("owner", "front", ANSWER, answer) for answer in (b"", b"\xff\xff", b"\n\x10short", b"\n\x10" + ONE)]
    net.deliver()
    assert front.told() == []
    assert front.forwarding.in_flight == 1


# --- retries --------------------------------------------------------------------------------------------------------


def test_a_retry_joins_the_request_in_flight_and_takes_effect_once() -> None:
    net = nodes(front="owner", owner=SELF)
    front, owner = net["front"], net["owner"]
    assert owner.take(put(TWO)) is not None
    remove = request(ONE, command=REMOVE, key=KEY)
    front.take(remove)
    net.wait(RESEND_S - 0.01)
    assert front.take(remove, OTHER_CLIENT) is None
    assert len(net.queue) == 1
    net.wait(0.01)
    front.take(remove, OTHER_CLIENT)
    assert len(net.queue) == 2, "an answer may have been lost"
    assert front.forwarding.duplicates == 2
    net.deliver()
    assert front.code(ONE, OTHER_CLIENT) == NO_ERR, "to whoever asked last, once"
    assert owner.counters.retries_answered == 1


def test_a_retry_renews_how_long_the_request_may_wait() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(get())
    net.wait(PATIENCE_S / 2, sweep=True)
    front.take(get(), OTHER_CLIENT)
    net.wait(PATIENCE_S * 0.75, sweep=True)
    assert front.told() == []
    net.wait(PATIENCE_S / 4, sweep=True)
    assert front.code(ONE, OTHER_CLIENT) == SYS_OVERLOAD_ERR


def test_a_retry_of_what_waits_for_a_primary_is_not_sent_anywhere() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(put())
    net.wait(2 * RESEND_S)
    front.take(put())
    assert net.queue == []
    front.set_routes(SELF)
    front.sweep()
    assert front.code(ONE) == NO_ERR


def test_a_retry_through_another_node_gets_the_first_answer() -> None:
    net = nodes(front="owner", other="owner", owner=SELF)
    net["owner"].take(put(TWO))
    for name in ("front", "other"):
        net[name].take(request(ONE, command=REMOVE, key=KEY))
        net.deliver()
        assert net[name].code(ONE) == NO_ERR


def test_a_request_that_comes_back_in_a_circle_takes_no_answer_from_the_first() -> None:
    net = nodes(a="b", b="a")
    a = net["a"]
    a.take(get())
    net.deliver()
    assert a.forwarding.duplicates == 1
    a.set_routes(SELF)
    a.sweep()
    assert a.code(ONE) == KEY_DNE_ERR


def test_tables_that_disagree_send_a_request_round_no_more_than_so_often() -> None:
    """Several nodes may be in a circle, and a request comes to one of them twice."""
    net = Net(names=[f"n{number}" for number in range(6)])
    for number in range(6):
        net[f"n{number}"].set_routes(f"n{(number + 1) % 6}")
    first = net["n0"]
    first.take(put())
    hops = []
    while net.queue:
        sender, _, kind, body = net.queue[0]
        if kind == FORWARD:
            hops.append(header(body)[0])
        net.deliver_from(sender)
    assert hops == list(range(1, HOPS_MAX + 1))
    ((address, reply),) = first.told()
    assert address == CLIENT
    assert response(reply, ONE) == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=50)


# --- waiting for a way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["nobody", "link"])
def test_a_request_waits_for_its_primary(cause: str) -> None:
    net = nodes(front=UNKNOWN if cause == "nobody" else "owner", owner=SELF)
    front = net["front"]
    if cause == "link":
        net.cut("front", "owner")
    assert front.take(get()) is None
    front.sweep()
    assert not net.queue
    assert front.forwarding.forwarded == 0
    assert front.told() == []
    if cause == "link":
        net.link("front", "owner")
    front.set_routes("owner")
    front.sweep()
    net.deliver()
    assert front.code(ONE) == KEY_DNE_ERR


def test_a_request_is_sent_anew_to_its_primary_when_there_was_another_meanwhile() -> None:
    """What was sent to it first may be lost."""
    net = nodes(front="owner", owner=SELF, other=UNKNOWN)
    front = net["front"]
    front.take(put())
    net.queue.clear()
    net.cut("front", "other")
    front.set_routes("other")
    front.sweep()
    assert net.queue == []
    front.set_routes("owner")
    front.sweep()
    net.deliver()
    assert front.code(ONE) == NO_ERR


def test_a_request_that_waited_is_executed_here_once_this_node_is_in_charge() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(put())
    front.set_routes(SELF)
    front.sweep()
    assert front.code(ONE) == NO_ERR
    assert len(front.store) == 1
    assert front.forwarding.in_flight == 0


def test_what_was_sent_over_a_broken_link_is_sent_again() -> None:
    net = nodes(front="owner", other="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.cut("front", "other")
    front.sweep()
    assert len(net.queue) == 1, "another link's end is nothing to it"
    net.cut("front", "owner")
    assert net.queue == []
    front.sweep()
    assert net.queue == []
    net.link("front", "owner")
    front.sweep()
    net.deliver()
    assert front.code(ONE) == NO_ERR


def test_what_was_sent_is_not_sent_again_by_each_sweep() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.wait(PATIENCE_S / 2, sweep=True)
    assert len(net.queue) == 1
    assert front.forwarding.forwarded == 1


def test_what_was_sent_to_a_node_that_is_not_primary_any_more_goes_to_the_new_one() -> None:
    net = nodes(front="old", old=SELF, new=SELF)
    front = net["front"]
    front.take(put())
    front.set_routes("new")
    front.sweep()
    assert [receiver for _, receiver, _, _ in net.queue] == ["old", "new"]
    front.set_routes(UNKNOWN)
    front.sweep()
    assert len(net.queue) == 2


def test_a_member_without_a_lease_forwards_nothing() -> None:
    """It may be the one who is cut off; an outsider has no lease by right."""
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.set_lease(-1.0)
    front.take(put())
    front.sweep()
    assert not net.queue
    net.wait(PATIENCE_S, sweep=True)
    assert front.code(ONE) == SYS_OVERLOAD_ERR
    front.membership.is_member = False
    front.take(put(TWO))
    net.deliver()
    assert front.code(TWO) == NO_ERR


def test_nothing_is_answered_from_memory_that_the_lease_does_not_cover() -> None:
    net = nodes(front="owner", owner=SELF)
    front, owner = net["front"], net["owner"]
    owner.set_lease(net.loop.now_s + 0.25)
    net.wait(0.25)
    front.take(put())
    net.deliver()
    owner.sweep()
    net.deliver()
    assert front.told() == []
    assert len(owner.store) == 0
    owner.set_lease(net.loop.now_s + 1)
    owner.sweep()
    net.deliver()
    assert front.code(ONE) == NO_ERR


# --- for how long ---------------------------------------------------------------------------------------------------


def test_a_request_waits_for_a_bounded_time() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(get())
    net.wait(PATIENCE_S - 0.01, sweep=True)
    assert front.told() == []
    assert front.forwarding.abandoned == 0
    net.wait(0.01, sweep=True)
    ((address, reply),) = front.told()
    assert address == CLIENT
    assert response(reply, ONE) == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=50)
    assert front.forwarding.in_flight == front.waiting.count == 0
    assert front.forwarding.abandoned == 1


def test_a_write_that_was_not_sent_anywhere_is_refused() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(put())
    net.wait(PATIENCE_S, sweep=True)
    assert front.code(ONE) == SYS_OVERLOAD_ERR


def test_a_read_without_an_answer_is_refused() -> None:
    net = nodes(front="silent", silent=SELF)
    front = net["front"]
    front.take(get())
    net.wait(PATIENCE_S, sweep=True)
    assert front.code(ONE) == SYS_OVERLOAD_ERR


def test_a_write_without_an_answer_is_left_to_its_client() -> None:
    net = nodes(front="silent", silent=SELF)
    front = net["front"]
    front.take(put())
    net.wait(PATIENCE_S, sweep=True)
    assert front.told() == []
    assert front.forwarding.in_flight == front.waiting.count == 0
    assert front.forwarding.abandoned == 1


def test_a_request_takes_along_how_long_it_may_still_wait() -> None:
    net = nodes(front=UNKNOWN, owner=UNKNOWN)
    front, owner = net["front"], net["owner"]
    front.take(put())
    net.wait(PATIENCE_S / 2)
    front.links.up["owner"].show_clock(0.0)
    front.set_routes("owner")
    front.sweep()
    ((_, _, _, body),) = net.queue
    assert header(body) == (1, deadline(net, PATIENCE_S / 2))
    net.deliver()
    assert owner.forwarding.in_flight == 1
    net.wait(PATIENCE_S / 2 - 0.02)
    owner.sweep()
    assert owner.forwarding.in_flight == 1
    net.wait(0.02)
    owner.set_routes(SELF)
    owner.sweep()
    assert len(owner.store) == 0, "executed when its reply might be forgotten before its last retry"


def test_a_peer_can_not_have_a_request_wait_for_longer_than_a_client_can() -> None:
    net = nodes(front="owner", owner=UNKNOWN)
    owner = net["owner"]
    net.queue.append(("front", "owner", FORWARD, forwarded(get(), net.loop.now_s + 60.0)))
    net.deliver()
    net.wait(PATIENCE_S - 0.01, sweep=True)
    assert owner.forwarding.in_flight == 1
    net.wait(0.01, sweep=True)
    assert owner.forwarding.in_flight == 0


def test_what_is_sent_on_past_its_time_is_not_executed() -> None:
    """A retry that has passed more nodes does not renew it."""
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.wait(PATIENCE_S + 0.1)
    net.queue[:] = [("owner", "front", FORWARD, forwarded(put(), net.loop.now_s + 0.5, hops=2))]
    net.deliver_from("owner")
    ((_, _, _, body),) = net.queue
    assert header(body)[1] < net.loop.now_s
    net.deliver()
    assert len(net["owner"].store) == 0


@pytest.mark.parametrize("command", [PUT, GET])
def test_what_waited_past_its_deadline_is_not_executed(command: int) -> None:
    """Its slot opens before anybody has looked at the time."""
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(put() if command == PUT else get())
    net.wait(PATIENCE_S)
    front.set_routes(SELF)
    assert front.code(ONE) == SYS_OVERLOAD_ERR
    assert len(front.store) == len(front.replies) == 0


@pytest.mark.parametrize("ahead_s", [-1000.0, -0.5, 0.0, 0.5, 1e6])
@pytest.mark.parametrize("hops", [1, 2])
def test_a_request_that_was_held_back_on_the_way_is_not_executed(ahead_s: float, hops: int) -> None:
    """Whatever held it back, and whatever the executing node's clock shows: by that clock its time is over."""
    routes = {"front": "owner", "owner": SELF} if hops == 1 else {"front": "via", "via": "owner", "owner": SELF}
    net = nodes(**routes)
    front, owner = net["front"], net["owner"]
    net["via" if hops == 2 else "front"].links.up["owner"].show_clock(ahead_s)
    for held_back_s, is_executed in ((PATIENCE_S * 0.95, True), (PATIENCE_S * 0.999, False), (12.0, False)):
        message_id = b"%016d" % int(held_back_s * 1000)
        front.take(request(message_id, command=PUT, key=message_id, value=b"v"))
        if hops == 2:
            net.deliver_from("front")
        now_s = net.loop.now_s
        net.loop.now_s = now_s + held_back_s + ahead_s
        frames = [(kind, body) for _, receiver, kind, body in net.queue if receiver == "owner"]
        net.queue.clear()
        owner.frames("via" if hops == 2 else "front", frames)
        net.loop.turn()
        assert (owner.store.peek(slot_of(message_id), message_id) is not None) is is_executed
        net.loop.now_s = now_s
        net.queue.clear()
    assert owner.drops() == {"too_old": 2}


# --- another way ----------------------------------------------------------------------------------------------------


def apart(*others: str) -> Net:
    """The front has no link to the owner any more; both have links to the others: members, the coordinator first."""
    net = nodes(front="owner", owner=SELF, **dict.fromkeys(others, "owner"))
    members = tuple(Member(name, 1) for name in (*others, "front", "owner"))
    for name in net.nodes:
        net[name].forwarding.on_view(first_view(members, 7, 1))
    net.cut("front", "owner")
    return net


def test_a_primary_that_can_not_be_reached_is_asked_by_way_of_the_coordinator() -> None:
    net = apart("first", "second")
    front = net["front"]
    front.take(put())
    net.wait(DETOUR_S - 0.01, sweep=True)
    assert net.queue == [], "it may be dead: then its slots go to others"
    net.wait(SWEEP_S, sweep=True)
    ((_, receiver, kind, body),) = net.queue
    assert (receiver, kind, header(body)[0], body[FORWARD_BYTES:]) == ("first", FORWARD, 1, put())
    net.wait(SWEEP_S, sweep=True)
    assert len(net.queue) == 1, "it is under way"
    net.deliver()
    assert front.code(ONE) == NO_ERR
    front.take(get(TWO))
    net.deliver()
    assert front.code(TWO) == NO_ERR, "the next goes that way at once"
    net.link("front", "owner")
    front.take(get())
    assert [receiver for _, receiver, _, _ in net.queue] == ["owner"]


def test_one_that_was_never_linked_is_not_waited_for() -> None:
    net = apart("first")
    front = net["front"]
    front.forwarding._down_since_s.clear()
    front.take(put())
    assert [receiver for _, receiver, _, _ in net.queue] == ["first"]


def test_nothing_is_kept_of_who_is_a_member_no_more() -> None:
    forwarding = apart("first")["front"].forwarding
    forwarding.on_view(first_view([Member("front", 1), Member("owner", 1)], 7, 1))
    assert forwarding._down_since_s.keys() == {"owner"}
    forwarding.on_view(first_view([Member("front", 1)], 7, 1))
    assert forwarding._down_since_s == {}


@pytest.mark.parametrize(("waits_s", "goes"), [(DETOUR_S, True), (DETOUR_S - 0.001, False)])
def test_a_detour_is_taken_when_its_time_has_come(waits_s: float, goes: bool) -> None:
    net = apart("first")
    net["front"].forwarding._down_since_s["owner"] = 0.0
    net.loop.now_s = waits_s
    net["front"].take(put())
    assert bool(net.queue) == goes


@pytest.mark.parametrize(("waits_s", "count"), [(RESEND_S, 2), (RESEND_S - 0.001, 1)])
def test_a_retry_is_forwarded_when_its_time_has_come(waits_s: float, count: int) -> None:
    net = nodes(front="owner", owner=SELF)
    net.loop.now_s = 0.0
    net["front"].take(put())
    net.loop.now_s = waits_s
    net["front"].take(put())
    assert len(net.queue) == count


def test_an_answer_that_is_none_does_not_keep_out_those_behind_it() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(put())
    net.deliver_from("front")
    net.loop.turn()
    ((_, _, kind, body),) = net.queue
    net.queue.clear()
    front.frames("owner", [(kind, b"\xff\xff"), (kind, body)])
    net.loop.turn()
    assert front.code(ONE) == NO_ERR


def test_another_member_will_do_when_the_coordinator_can_not_be_reached_either() -> None:
    net = apart("first", "second")
    front = net["front"]
    net.cut("front", "first")
    net.wait(DETOUR_S + 0.01)
    front.take(put())
    net.deliver()
    assert front.code(ONE) == NO_ERR
    assert not net["first"].forwarding.forwarded


def test_what_was_sent_by_a_way_that_has_broken_goes_by_the_next() -> None:
    net = apart("first", "second")
    front = net["front"]
    net.wait(DETOUR_S + 0.01)
    front.take(put())
    net.cut("front", "first")
    front.sweep()
    net.deliver()
    assert front.code(ONE) == NO_ERR


def test_one_detour_is_enough() -> None:
    """Whoever is asked in the primary's place, and can't reach it either, waits: nothing goes in circles."""
    net = apart("first", "second")
    net.cut("first", "owner")
    net.wait(DETOUR_S + 0.01)
    net["front"].take(put())
    net.deliver_from("front")
    net.wait(PATIENCE_S / 2, sweep=True)
    assert net.queue == []
    assert net["first"].forwarding.in_flight == 1
    net.link("first", "owner")
    net["first"].sweep()
    net.deliver()
    assert net["front"].code(ONE) == NO_ERR


# --- what may have taken effect -------------------------------------------------------------------------------------


def test_what_may_have_taken_effect_is_not_refused() -> None:
    """SYS_OVERLOAD_ERR says that nothing was done."""
    net = nodes(front="gone", gone=SELF, owner=UNKNOWN)
    front = net["front"]
    front.take(put())
    net.queue.clear()  # it may have been executed before its node died
    front.set_routes("owner")
    front.sweep()
    net.deliver()
    net.wait(PATIENCE_S, sweep=True)
    net.deliver()
    assert front.told() == []
    assert front.forwarding.in_flight == net["owner"].forwarding.in_flight == 0


@pytest.mark.parametrize("command", [PUT, REMOVE])
@pytest.mark.parametrize("times", [1, 2])
def test_a_refusal_proves_something_only_of_what_was_sent_once(times: int, command: int) -> None:
    net = nodes(front="gone", gone=SELF, owner=SELF)
    front = net["front"]
    fill_replies(net["owner"])
    front.set_routes("owner" if times == 1 else "gone")
    front.take(request(ONE, command=command, key=KEY, value=b"v"))
    if times == 2:
        net.queue.clear()
        front.set_routes("owner")
        front.sweep()
    net.deliver()
    if times == 1:
        assert front.code(ONE) == SYS_OVERLOAD_ERR
    assert front.told() == []
    assert front.forwarding.in_flight == 0


def test_a_read_that_was_sent_twice_may_be_refused() -> None:
    net = nodes(front="gone", gone=SELF, owner=UNKNOWN)
    front = net["front"]
    front.take(get())
    net.queue.clear()
    front.set_routes("owner")
    front.sweep()
    net.deliver()
    net.wait(PATIENCE_S - 0.05)
    net.wait(0.05)
    net["owner"].sweep()
    net.deliver()
    assert front.code(ONE) == SYS_OVERLOAD_ERR


@pytest.mark.parametrize("was_sent", [True, False])
def test_what_was_sent_and_is_then_executed_here_is_not_refused(was_sent: bool) -> None:
    net = nodes(front="gone", gone=SELF)
    front = net["front"]
    if not was_sent:
        front.set_routes(UNKNOWN)
    front.take(put())
    net.queue.clear()
    fill_replies(front)
    front.set_routes(SELF)
    front.sweep()
    assert front.forwarding.in_flight == 0
    if not was_sent:
        assert front.code(ONE) == SYS_OVERLOAD_ERR
    assert front.told() == []


def test_a_read_that_was_sent_and_is_then_too_late_here_may_be_refused() -> None:
    net = nodes(front="gone", gone=SELF)
    front = net["front"]
    front.take(get())
    net.wait(PATIENCE_S)
    front.set_routes(SELF)
    assert front.code(ONE) == SYS_OVERLOAD_ERR


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_beyond_the_bound_what_would_have_to_wait_is_refused_and_nothing_else() -> None:
    net = nodes(front="owner", owner=SELF, max_waiting=3)
    front = net["front"]
    front.set_routes(*("owner" if slot % 2 else SELF for slot in range(SLOT_COUNT)))
    away = [key for n in range(99) if front.turn.routes[slot_of(key := b"%d" % n)] != SELF]
    here = next(key for n in range(99) if front.turn.routes[slot_of(key := b"%d" % n)] == SELF)
    first = request(b"f" * 16, command=PUT, key=here, value=b"first")
    assert response(front.take(first), b"f" * 16).errCode == NO_ERR
    waiting = [request(b"%016d" % n, command=GET, key=away[n]) for n in range(3)]
    assert [front.take(datagram) for datagram in waiting] == [None] * 3
    assert front.waiting.full
    refused = response(front.take(request(b"x" * 16, command=GET, key=away[3])), b"x" * 16)
    assert refused == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=FULL_WAIT_MS)
    assert front.take(waiting[0], OTHER_CLIENT) is None, "it joins one that waits already"
    assert response(front.take(first), b"f" * 16).errCode == NO_ERR
    assert response(front.take(request(b"g" * 16, command=GET, key=here)), b"g" * 16).value == b"first"
    assert response(front.take(request(b"d" * 16, command=REMOVE, key=here)), b"d" * 16).errCode == NO_ERR
    net.deliver()
    assert len(front.told()) == 3
    assert front.take(request(b"x" * 16, command=GET, key=away[3])) is None


def test_peers_requests_count_as_well() -> None:
    net = nodes(front="owner", owner=UNKNOWN, max_waiting=1)
    front, owner = net["front"], net["owner"]
    owner.take(get(TWO))
    front.take(get())
    net.deliver()
    assert front.code(ONE) == SYS_OVERLOAD_ERR


def test_what_requests_in_flight_keep_is_counted_until_they_are_answered_or_given_up() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    front.take(get(ONE))
    front.take(put(TWO, bytes(5000)))
    kept = 2 * IN_FLIGHT_BYTES + len(get(ONE)) + len(put(TWO, bytes(5000)))
    assert (front.waiting.count, front.waiting.kept_bytes) == (2, kept)
    front.take(get(ONE), OTHER_CLIENT)
    assert (front.waiting.count, front.waiting.kept_bytes) == (2, kept), "it has joined"
    net.deliver()
    assert (front.waiting.count, front.waiting.kept_bytes) == (0, 0)
    front.set_routes(UNKNOWN)
    front.take(put(TWO, bytes(5000)))
    net.wait(PATIENCE_S, sweep=True)
    assert (front.waiting.count, front.waiting.kept_bytes) == (0, 0)


def test_another_nodes_answer_is_held_to_the_rate_as_well() -> None:
    net = nodes(front="owner", owner=SELF)
    front = net["front"]
    net["owner"].take(put(TWO, bytes(5000)))
    front.rate._bytes_per_s = 1000
    front.rate._exempt = {CLIENT[4:8]: False, OTHER_CLIENT[4:8]: False}
    front.rate.charge(CLIENT[4:8], 1)
    front.take(get(ONE), CLIENT)
    front.take(get(TWO), OTHER_CLIENT)
    net.deliver()
    assert [(address, response(reply, reply[2:18]).errCode) for address, reply in front.told()] == [
        (CLIENT, SYS_OVERLOAD_ERR),
        (OTHER_CLIENT, NO_ERR),
    ]
    assert front.counters.over_rate == 1


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [PUT, GET])
def test_a_reply_is_held_back_when_the_lease_runs_out_during_the_work(command: int) -> None:
    net = nodes(front="owner", owner=SELF)
    front, owner = net["front"], net["owner"]
    front.take(request(ONE, command=command, key=KEY, value=b"v"))
    front.take(request(TWO, command=command, key=KEY, value=b"v"))
    frames = [(kind, body) for _, _, kind, body in net.queue]
    net.queue.clear()
    owner.frames("front", frames)  # executed; the turn has not come to its end
    owner.membership.lease_until = net.loop.now_s
    net.loop.turn()
    assert net.queue == []
    assert owner.counters.unfenced == 2
    assert owner.answers.take_for_peers() == {}
    assert front.told() == []


def test_a_request_that_breaks_the_code_takes_nothing_along() -> None:
    """What follows it on the link may be writes that must not be missed."""
    net = nodes(front="owner", owner=SELF)
    owner = net["owner"]
    _break_reads(owner)
    datagrams = [get(), put(TWO)]
    owner.frames("front", [(FORWARD, forwarded(datagram, net.loop.now_s + 0.5)) for datagram in datagrams])
    net.loop.turn()
    assert len(owner.store) == 1
    codes = [response(body, number).errCode for (_, _, _, body), number in zip(net.queue, (ONE, TWO), strict=True)]
    assert codes == [INTERNAL_ERR, NO_ERR]


def test_one_that_has_waited_takes_nothing_along_either() -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(get(), CLIENT)
    front.take(put(TWO), OTHER_CLIENT)
    _break_reads(front)
    front.set_routes(SELF)
    (one, broken), (other, reply) = front.told()
    assert (one, response(broken, ONE).errCode) == (CLIENT, INTERNAL_ERR)
    assert (other, response(reply, TWO).errCode) == (OTHER_CLIENT, NO_ERR)
    assert front.waiting.count == front.forwarding.in_flight == 0


class BrokenStore:
    def get(self, number: int, key: bytes) -> bytes | None:
        raise ValueError("broken")


def _break_reads(node: Parts) -> None:
    node.commands._store = BrokenStore()


def test_junk_between_nodes_changes_nothing() -> None:
    net = nodes(front="owner", owner=SELF)
    owner = net["owner"]
    before = owner.held()
    owner.frames("front", [(FORWARD, bytes(10)), (ANSWER, b"1234"), (99, b"x"), (ANSWER, b"\n\x10")])
    net.loop.turn()
    assert not net.queue
    assert owner.told() == []
    assert owner.held() == before


def test_what_nodes_say_of_membership_is_never_taken_from_a_forwarded_request() -> None:
    """It would be ascribed to somebody who has not said it."""
    net = nodes(front="owner", owner=SELF)
    owner = net["owner"]
    owner.take(get())
    said = envelope(b"m" * 16, b"anything", TYPE_CLUSTER)
    owner.frames("front", [(FORWARD, forwarded(said, net.loop.now_s + 0.5))])
    net.loop.turn()
    assert owner.membership.heard == []
    assert owner.drops() == {"unexpected_type": 1}
    assert not net.queue


def test_an_ack_that_a_peer_forwards_is_taken() -> None:
    net = nodes(front="owner", owner=SELF)
    owner = net["owner"]
    owner.take(put())
    owner.frames("front", [(FORWARD, forwarded(ack(ONE), net.loop.now_s + 0.5))])
    net.loop.turn()
    assert owner.counters.acks == 1
    assert net.queue == []


# --- how long requests took -----------------------------------------------------------------------------------------


def test_latency_is_counted_where_the_client_asked_and_by_how_it_was_answered() -> None:
    net = nodes(front="owner", owner=SELF)
    front, owner = net["front"], net["owner"]
    front.slow_log.threshold_s = 0.2
    net.wait(5.0)
    for message_id, command, wait_s in ((ONE, PUT, 0.25), (TWO, GET, 0.125)):
        front.take(request(message_id, command=command, key=KEY, value=b"v"))
        net.wait(wait_s)
        net.deliver()
    latency = front.counters.latency
    assert latency[FORWARDED].count == 2
    assert latency[FORWARDED].total_s == pytest.approx(0.375)
    assert [row[1] for row in json.loads(front.slow_log.as_json())["entries"]] == ["PUT"]
    assert all(histogram.count == 0 for histogram in owner.counters.latency.values())


@pytest.mark.parametrize("outcome", ["executed", "expired"])
def test_what_waited_for_this_node_to_become_primary_has_waited(outcome: str) -> None:
    net = nodes(front=UNKNOWN)
    front = net["front"]
    net.wait(5.0)
    front.take(put())
    wait_s = 0.5 if outcome == "executed" else PATIENCE_S
    net.wait(wait_s)
    if outcome == "executed":
        front.set_routes(SELF)
    front.sweep()
    latency = front.counters.latency
    assert (latency[WAITED].count, latency[FORWARDED].count) == (1, 0)
    assert latency[WAITED].total_s == pytest.approx(wait_s)


def test_the_present_turn_is_the_one_that_a_wait_ends_in() -> None:
    """What goes on when a turn ends goes by the clock and the lease of then, not of when it began to wait."""
    net = nodes(front=UNKNOWN)
    front = net["front"]
    front.take(put())
    front.set_lease(-1.0)
    front.set_routes(SELF)
    front.sweep()
    assert front.told() == []
    assert len(front.store) == 0
