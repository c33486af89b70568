"""Answers: made and counted, brought to whoever asked, and what they took."""

import json
from array import array
from zlib import crc32

import pytest

from app.front.rate import BUCKETS, AnswerRate
from app.observe.counters import FORWARDED, REPLICATED, WAITED
from app.requests.request import Request
from app.wire.codec import encode_found, encode_value
from app.wire.protocol import (
    COMMAND_NAMES,
    ERROR_NAMES,
    GET,
    KEY_DNE_ERR,
    NO_ERR,
    PUT,
    REMOVE,
    SYS_OVERLOAD_ERR,
)
from proto_gen.key_value_pb2 import KVResponse
from tests.support.parts import CLIENT, OTHER_CLIENT, Parts
from tests.wire.datagrams import request, response

ONE = b"1" * 16


@pytest.fixture
def node() -> Parts:
    return Parts()


def asked(node: Parts, **fields: object) -> Request:
    """One that was kept, and has waited."""
    made = Request(node.clients)
    made.datagram = request(ONE, command=GET, key=b"key")
    made.client, made.peer, made.received_s = CLIENT, "", node.loop.now_s
    made.how = FORWARDED
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("code", ERROR_NAMES)
@pytest.mark.parametrize("command", [0, *COMMAND_NAMES])
def test_a_code_is_counted_by_command_and_code(node: Parts, command: int, code: int) -> None:
    reply = node.answers.code(command, ONE, crc32(ONE), code)
    assert response(reply, ONE) == KVResponse(errCode=code)
    counts = node.counters.answers
    assert counts[command * 8 + code] == sum(counts) == 1


def test_a_refusal_says_how_long_to_wait_and_is_counted(node: Parts) -> None:
    reply = node.answers.refusal(asked(node), REMOVE, ONE, crc32(ONE), 70)
    assert response(reply, ONE) == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=70)
    counts = node.counters.answers
    assert counts[REMOVE * 8 + SYS_OVERLOAD_ERR] == sum(counts) == 1


def test_what_may_have_taken_effect_is_not_refused(node: Parts) -> None:
    assert node.answers.refusal(asked(node, is_uncertain=True), PUT, ONE, crc32(ONE), 70) is None
    assert not any(node.counters.answers)


def test_an_answer_leaves_when_the_turn_ends(node: Parts) -> None:
    node.turn.open()
    node.answers.deliver(asked(node), b"answer")
    assert node.told() == []
    node.loop.turn()
    assert node.told() == [(CLIENT, b"answer")]
    assert node.answers.take_for_peers() == {}


def test_answers_for_peers_are_gathered_in_order_and_taken_once(node: Parts) -> None:
    calls: list[object] = []

    def end_turn() -> None:
        calls.append(node.answers.take_for_peers())
        node.turn.close()

    node.end_turn = end_turn  # type: ignore[method-assign]
    node.answers.to_peer("a", b"1")
    node.answers.deliver(asked(node, client=b"", peer="b"), b"2")
    node.answers.to_peer("a", b"3")
    node.loop.turn()
    assert calls == [{"a": [b"1", b"3"], "b": [b"2"]}]
    assert node.answers.take_for_peers() == {}
    assert node.told() == []
    assert all(latency.count == 0 for latency in node.counters.latency.values()), "counted where the client asked"
    node.answers.to_peer("c", b"4")
    node.loop.turn()
    assert calls[1:] == [{"c": [b"4"]}]


@pytest.mark.parametrize("how", [FORWARDED, REPLICATED, WAITED])
@pytest.mark.parametrize("took_s", [0.0, 0.001, 0.125, 60.0])
def test_what_it_took_is_counted_by_how_it_was_answered(node: Parts, how: str, took_s: float) -> None:
    made = asked(node, how=how)
    node.loop.now_s += took_s
    took_s = node.loop.now_s - made.received_s
    node.answers.deliver(made, b"answer")
    latency = node.counters.latency
    expected = type(latency[how])(latency[how].edges_s)
    expected.add(took_s)
    assert (list(latency[how].counts), latency[how].total_s) == (list(expected.counts), expected.total_s)
    assert all(latency[other].count == 0 for other in latency if other != how)


@pytest.mark.parametrize(("took_s", "is_slow"), [(0.25, True), (0.2, False), (60.0, True)])
def test_what_was_slow_is_noted(node: Parts, took_s: float, is_slow: bool) -> None:
    node.slow_log.threshold_s = 0.25
    made = asked(node, client=OTHER_CLIENT)
    node.loop.now_s += took_s
    node.answers.deliver(made, b"answer")
    assert len(node.slow_log) == is_slow
    if is_slow:
        (row,) = json.loads(node.slow_log.as_json())["entries"]
        unix_s, command, key, _, duration_ms, how, _, shared_by = row
        assert (unix_s, command, key, how, shared_by) == (node.loop.unix_s(), "GET", "key", FORWARDED, 1)
        assert duration_ms == pytest.approx(took_s * 1000)


def test_codes_of_answers_without_waiting_are_not_laid_out(node: Parts) -> None:
    reply = node.take(request(ONE, command=GET, key=b"key"))
    assert response(reply, ONE).errCode == KEY_DNE_ERR
    assert node.told() == []
    assert response(node.take(request(b"2" * 16, command=PUT, key=b"key", value=b"")), b"2" * 16).errCode == NO_ERR


ADDRESS = b"\x0a\x00\x00\x07"


def over_its_rate(node: Parts, address: bytes = ADDRESS, looks: int = 200) -> None:
    """It has got more than a second's bytes."""
    node.answers._rate = rate = AnswerRate(64_000, exempt=Nobody(), now=node.loop.now, random=lambda: 0.5)
    rate.charge(address, looks)


class Nobody(dict[bytes, bool]):
    """Who may have whatever there is."""

    def __missing__(self, address: bytes) -> bool:
        return False


def test_to_an_address_over_its_rate_an_answer_of_twice_the_request_goes_out(node: Parts) -> None:
    reply = encode_found(ONE, crc32(ONE), encode_value(b"v" * 40, 0))
    over_its_rate(node)
    assert node.answers.within_rate(ADDRESS, reply, (len(reply) + 1) // 2) == reply
    assert node.counters.over_rate == 0
    refused = response(node.answers.within_rate(ADDRESS, reply, (len(reply) - 1) // 2), ONE)
    assert refused == KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=250)
    assert node.counters.over_rate == 1
    node.answers.within_rate(ADDRESS, reply, 1)
    assert node.counters.over_rate == 2
    assert node.answers.within_rate(b"\x0a\x00\x00\x08", reply, 1) == reply, "another one"


def test_once_the_time_has_come_the_address_gets_what_it_asks_for(node: Parts) -> None:
    reply = encode_found(ONE, crc32(ONE), encode_value(b"v" * 400, 0))
    over_its_rate(node)
    node.loop.now_s += 0.0499
    refused = response(node.answers.within_rate(ADDRESS, reply, 1), ONE)
    assert refused.overloadWaitTime == 201
    node.loop.now_s += 0.2
    refused = response(node.answers.within_rate(ADDRESS, reply, 1), ONE)
    assert refused.overloadWaitTime == 1, "rounded up: before it would be too soon"
    node.loop.now_s += 0.0001
    node.answers._rate._empty_s[:] = array("d", [node.loop.now_s + 1.0]) * BUCKETS  # type: ignore[attr-defined]
    assert node.answers.within_rate(ADDRESS, reply, 1) == reply


@pytest.mark.parametrize(("later_s", "is_refused"), [(0.0, True), (0.2499, True), (0.25, False)])
def test_an_answer_to_one_that_has_waited_is_within_the_rate_too(node: Parts, later_s: float, is_refused: bool) -> None:
    host = CLIENT[4:8]
    over_its_rate(node, host)
    assert node.answers._rate.limits_until_s == node.loop.now_s + 0.25
    reply = encode_found(ONE, crc32(ONE), encode_value(b"v" * 400, 0))
    node.loop.now_s += later_s
    node.answers.deliver(asked(node), reply)
    node.loop.turn()
    ((address, told),) = node.told()
    assert (address, response(told, ONE).errCode) == (CLIENT, SYS_OVERLOAD_ERR if is_refused else NO_ERR)
