"""The front, turned by hand: batches, requests that wait, who may ask, ages; and over real sockets, in a node."""

import json
import os
import select
import socket as plain_socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest
from gevent import socket

from app.cluster.events import SELF
from app.config.allowlist import Verdicts, host_of, parse_networks
from app.config.options import Options
from app.config.servers import Server
from app.front.batch import DatagramBatch, Ring
from app.front.front import BATCH_SIZE, FRESH_S, OVERLOAD_S, POLL_PAUSE_TURNS, POLLS, QUEUE_S, Front
from app.front.rate import AnswerRate
from app.node import Node
from app.observe.counters import IN_TURN, WAITED, Counters
from app.observe.slowlog import SlowLog
from app.requests.answers import Answers
from app.requests.commands import Shutdown
from app.requests.request import Request
from app.requests.turn import Turn
from app.requests.waiting import Kept
from app.sockets import DatagramSocket, Sockets
from app.wire.protocol import (
    DATAGRAM_MAX_BYTES,
    GET,
    IS_ALIVE,
    NO_ERR,
    PUT,
    SHUTDOWN,
    SLOT_COUNT,
    SYS_OVERLOAD_ERR,
    TYPE_CLUSTER,
    TYPE_RESPONSE,
)
from proto_gen.key_value_pb2 import KVResponse
from tests.support.datagrams import FakeDatagrams, sockaddr
from tests.support.gevent_loop import WatchedLoop, watched_loop
from tests.support.loop import Exited, ManualLoop
from tests.support.machine import has_ipv6
from tests.support.polling import poll_in_loop as poll
from tests.support.ports import free_port
from tests.wire.datagrams import ack, envelope, request, response

A, B, C = (sockaddr(f"127.0.0.{n}") for n in (1, 2, 3))


class Commands:
    """Answers `x` by `re: x`, but for those for which there is a rule."""

    def __init__(self) -> None:
        self.rules: dict[bytes, Callable[[Request], bytes | None]] = {}
        self.handled: list[bytes] = []
        self.shut_out_: list[tuple[bytes, bytes]] = []  # sender, datagram
        self.at_once = True

    def handle(self, request: Request, buffer: bytearray, start: int, end: int) -> bytes | None:
        data = bytes(buffer[start:end])
        self.handled.append(data)
        rule = self.rules.get(data)
        return rule(request) if rule else b"re: " + data

    def shut_out(self, request: Request, data: bytes) -> None:
        request.keep()
        self.shut_out_.append((request.client, data))

    def is_answered_at_once(self, slot: int, command: int) -> bool:
        return self.at_once


class Exempt(dict[bytes, bool]):
    """From the rate of answers: nobody."""

    def __missing__(self, host: bytes) -> bool:
        return False


class Rig:
    """A front with all that it needs, and nothing that moves by itself."""

    def __init__(
        self,
        *,
        shares_turns: bool = False,
        patience_s: float = inf,
        allowed: Mapping[bytes, bool] | None = None,
        slow_s: float = inf,
        batch: type[DatagramBatch] = DatagramBatch,
        rate_bytes: int = 1 << 60,
    ) -> None:
        self.loop = ManualLoop()
        self.sock = FakeDatagrams()
        self.counters = Counters()
        self.slow_log = SlowLog(slow_s)
        self.commands = Commands()
        self.lease_until = inf
        self.is_member = True
        self.turn = Turn(self.loop, self, [SELF] * SLOT_COUNT, end=self._end)
        self.rate = AnswerRate(rate_bytes, exempt=Exempt(), now=self.loop.now, random=lambda: 0.5)
        self.batch = batch(self.sock, BATCH_SIZE, self.turn.lease_ran_out, self.rate)
        self.answers = Answers(
            self.batch,
            self.counters,
            self.slow_log,
            now=self.loop.now,
            unix_s=self.loop.unix_s,
            turn=self.turn,
            rate=self.rate,
        )
        self.front = Front(
            self.loop,
            self.sock,
            self.batch,
            self.turn,
            self.answers,
            self.commands,  # type: ignore[arg-type]
            self.counters,
            self.slow_log,
            patience_s=patience_s,
            allowed=allowed,
            rate=self.rate,
            shares_turns=shares_turns,
        )
        self.waiting: dict[bytes, Kept] = {}

    def _end(self) -> None:
        self.turn.close()
        self.batch.flush()

    def ask(self, sender: bytes, *datagrams: bytes) -> None:
        """Datagrams come, and are read until nothing is there."""
        self.sock.arrive(sender, *datagrams)
        self.read()

    def read(self) -> None:
        while True:
            self.front.read()
            self.loop.turn()
            if not self.sock.arriving:
                break

    def must_wait(self, *datagrams: bytes) -> None:
        """What is kept of requests of these datagrams lies in a table until `answer_later`."""

        def rule(request: Request) -> None:
            request.keep()
            kept = self.waiting[request.datagram] = Kept()
            kept.answer_to(request)
            kept.datagram, kept.how = request.datagram, WAITED

        self.commands.rules |= dict.fromkeys(datagrams, rule)

    def answer_later(self, datagram: bytes, answer: bytes) -> None:
        self.answers.deliver(self.waiting.pop(datagram), answer)
        self.loop.turn()

    def latency(self) -> tuple[int, int]:
        latency = self.counters.latency
        return latency[IN_TURN].count, latency[WAITED].count


def numbered(count: int, prefix: bytes = b"") -> list[bytes]:
    return [prefix + b"%d" % n for n in range(count)]


def answers_to(datagrams: list[bytes]) -> list[bytes]:
    return [b"re: " + datagram for datagram in datagrams]


# --- how many bytes an address gets -----------------------------------------------------------------------------------

LARGE = envelope(b"m" * 16, KVResponse(errCode=NO_ERR, value=bytes(10_000)).SerializeToString(), TYPE_RESPONSE)
RATE = 1 << 20


def asks_too_much(rig: Rig, sender: bytes, *, waits: bool = False) -> None:
    """Until it is over its rate."""
    large, count = b"large", 0
    while rig.rate.wait_s(host_of(sender)) <= 0.0:
        if waits:
            rig.must_wait(large)
        else:
            rig.commands.rules[large] = lambda _: LARGE
        rig.ask(sender, large)
        if waits:
            rig.answer_later(large, LARGE)
        count += 1
    assert 80 < count < 120  # a second's


@pytest.mark.parametrize("waits", [False, True])
def test_who_is_over_the_rate_is_refused_large_answers_and_given_small_ones(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(rate_bytes=RATE)
    asks_too_much(rig, A, waits=waits)
    rig.sock.sent.clear()
    rig.commands.rules[b"large"] = lambda _: LARGE
    rig.ask(A, b"large", b"x" * 200)
    rig.ask(B, b"large")
    refusal, small = rig.sock.sent_to(A)
    answer = response(refusal, b"m" * 16)
    assert answer.errCode == SYS_OVERLOAD_ERR
    assert 1 <= answer.overloadWaitTime <= 250
    assert small == b"re: " + b"x" * 200
    assert rig.sock.sent_to(B) == [LARGE]
    assert rig.counters.over_rate == 1
    assert "front.over_rate" in caplog.text
    rig.loop.advance(answer.overloadWaitTime / 1000)
    rig.ask(A, b"large")
    assert rig.sock.sent_to(A)[-1] == LARGE


def test_a_request_that_waited_is_refused_as_well() -> None:
    rig = Rig(rate_bytes=RATE)
    rig.must_wait(b"late")
    rig.ask(A, b"late")
    asks_too_much(rig, A)
    rig.sock.sent.clear()
    rig.answer_later(b"late", LARGE)
    (refusal,) = rig.sock.sent_to(A)
    assert response(refusal, b"m" * 16).errCode == SYS_OVERLOAD_ERR


def test_an_answer_of_twice_the_request_is_never_refused() -> None:
    rig = Rig(rate_bytes=RATE)
    asks_too_much(rig, A)
    rig.sock.sent.clear()
    for length, expected in ((len(LARGE) // 2, 1), (len(LARGE) // 2 + 1, 0)):
        asked = b"x" * length
        rig.commands.rules[asked] = lambda _: LARGE
        rig.ask(A, asked)
        assert rig.counters.over_rate == expected
        rig.counters.over_rate = 0


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_turns", [False, True])
def test_more_requests_than_a_batch_holds_are_answered_in_order(shares_turns: bool) -> None:
    rig = Rig(shares_turns=shares_turns)
    sent = numbered(3 * BATCH_SIZE + 5)
    rig.ask(A, *sent)
    assert rig.sock.sent_to(A) == answers_to(sent)
    assert rig.commands.handled == sent


def test_alone_replies_leave_at_once_and_the_loop_turns_after_a_full_batch() -> None:
    rig = Rig()
    rig.sock.arrive(A, *numbered(2 * BATCH_SIZE))
    rig.front.read()
    assert rig.sock.sent_to(A) == answers_to(numbered(BATCH_SIZE))
    assert len(rig.sock.arriving) == BATCH_SIZE


def test_alone_the_socket_is_asked_again_until_a_batch_is_full() -> None:
    rig = Rig()

    def more(request: Request) -> bytes:
        rig.sock.arrive(A, *[b"m"] * 10)
        return b"re: more"

    rig.commands.rules[b"m"] = lambda request: (rig.sock.arriving or more(request)) and b"re: more"
    rig.sock.arrive(A, b"m")
    rig.front.read()
    assert BATCH_SIZE <= len(rig.commands.handled) < BATCH_SIZE + 10


def test_with_others_replies_leave_when_the_turn_ends_and_the_socket_is_not_asked_again() -> None:
    rig = Rig(shares_turns=True)
    rig.commands.rules[b"1"] = lambda request: rig.sock.arrive(A, b"3") or b"re: 1"
    rig.sock.arrive(A, b"1", b"2")
    rig.front.read()
    assert (rig.sock.sent, rig.sock.receives) == ([], 1)
    rig.loop.turn()
    assert rig.sock.sent_to(A) == [b"re: 1", b"re: 2"]
    rig.read()
    assert rig.sock.sent_to(A) == [b"re: 3"]


def test_asking_in_vain_is_left_for_some_turns() -> None:
    rig = Rig()

    def receives() -> int:
        before = rig.sock.receives
        rig.sock.arrive(A, b"x")
        rig.front.read()
        return rig.sock.receives - before

    assert receives() == 1 + POLLS
    assert [receives() for _ in range(POLL_PAUSE_TURNS)] == [2] * POLL_PAUSE_TURNS
    assert receives() == 1 + POLLS


def test_a_datagram_that_comes_while_it_is_asked_for_is_served_in_this_turn() -> None:
    rig = Rig()
    receive = rig.sock.receive

    def late(ring: Any) -> int:
        if rig.sock.receives == 5:
            rig.sock.arrive(B, b"late")
        return receive(ring)

    rig.sock.receive = late  # type: ignore[method-assign]
    rig.sock.arrive(A, b"x")
    rig.front.read()
    assert rig.sock.sent_to(B) == [b"re: late"]
    assert rig.commands.handled == [b"x", b"late"]
    assert rig.sock.receives == 1 + 5 + POLLS


def test_nothing_there_is_nothing_done() -> None:
    rig = Rig()
    rig.front.read()
    assert (rig.sock.calls, rig.latency()) == (["receive"], (0, 0))


def test_what_is_not_answered_disturbs_nobody() -> None:
    rig = Rig()
    rig.commands.rules[b""] = rig.commands.rules[b"\xff"] = lambda request: None
    rig.ask(A, b"\xff", b"", b"m", b"\xff")
    assert rig.sock.sent == [(A, b"re: m")]
    assert rig.latency() == (1, 0)


def test_oversized_datagrams_come_as_longer_than_is_legal() -> None:
    rig = Rig()
    rig.ask(A, bytes(40_000))
    assert [len(data) for data in rig.commands.handled] == [DATAGRAM_MAX_BYTES + 1]


# --- requests that wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_turns", [False, True])
def test_a_request_that_waits_holds_nobody_up_and_is_answered_later(shares_turns: bool) -> None:
    rig = Rig(shares_turns=shares_turns)
    rig.must_wait(b"w")
    rig.ask(A, b"w")
    for number in range(2 * BATCH_SIZE):  # its datagram in the buffer is overwritten
        rig.ask(B, b"%d" % number)
    assert rig.sock.sent_to(B) == answers_to(numbered(2 * BATCH_SIZE))
    assert rig.sock.sent == []
    rig.answer_later(b"w", b"at last")
    assert rig.sock.sent == [(A, b"at last")]


def test_the_rest_of_a_batch_goes_on_when_some_of_it_wait() -> None:
    rig = Rig()
    senders = (A, B, C)
    rig.must_wait(*numbered(3, b"w"))
    for number, sender in enumerate(senders):
        rig.sock.arrive(sender, b"w%d" % number, b"o%d" % number)
    rig.read()
    assert sorted(rig.sock.sent) == sorted((sender, b"re: o%d" % n) for n, sender in enumerate(senders))
    rig.sock.sent.clear()
    for number in (1, 2, 0):
        rig.answer_later(b"w%d" % number, b"a%d" % number)
        assert rig.sock.sent == [(senders[number], b"a%d" % number)]
        rig.sock.sent.clear()


def test_a_late_answer_leaves_from_the_address_that_was_asked_by_whoever_asked_last() -> None:
    """A retry that joins may have come to another address of this machine than the request."""

    class AtMany(DatagramBatch):
        def take(self, number: int) -> tuple[bytes, bytes, bytes]:
            datagram, sender, _ = super().take(number)
            return datagram, sender, b"at " + sender[4:8]

        def send(self, address: bytes, data: bytes, asked_at: bytes = b"") -> None:
            super().send(address, data + asked_at)

    rig = Rig(batch=AtMany)
    rig.must_wait(b"one")

    def join(request: Request) -> None:
        request.keep()
        rig.waiting[b"one"].answer_to(request)

    rig.commands.rules[b"its retry"] = join
    rig.sock.arrive(A, b"one")
    rig.read()
    rig.sock.arrive(B, b"its retry")
    rig.read()
    rig.answer_later(b"one", b"late, ")
    assert rig.sock.sent_to(B) == [b"late, at " + B[4:8]]


def test_what_is_kept_of_a_request() -> None:
    """Who asked, the datagram as it came, how long it may be executed; and for each its own."""
    rig = Rig(patience_s=0.9)
    kept: list[tuple[object, ...]] = []

    def rule(request: Request) -> bytes:
        request.keep()
        kept.append((request.client, request.peer, request.hops, request.datagram, request.deadline_s))
        assert request.received_s == rig.loop.now_s
        return b""

    rig.commands.rules |= {b"one": rule, b"the other": rule}
    rig.loop.now_s += 0.1
    rig.sock.arrive(A, b"one", b"no rule")
    rig.sock.arrive(B, b"the other")
    rig.read()
    deadline_s = 1000.0 + 0.9  # it may have come at any time since the front was made
    assert kept == [(A, "", 0, b"one", deadline_s), (B, "", 0, b"the other", deadline_s)]


def test_what_one_request_was_through_is_not_the_nexts() -> None:
    rig = Rig()
    seen: list[tuple[object, ...]] = []

    def rule(request: Request) -> bytes:
        seen.append((request.datagram, request.is_uncertain))
        request.keep()
        request.is_uncertain = True
        return b""

    rig.commands.rules[b"x"] = rule
    rig.ask(A, b"x", b"x")
    rig.ask(A, b"x")
    assert seen == [(b"", False)] * 3


# --- who may send requests ------------------------------------------------------------------------------------------


def test_only_who_is_allowed_is_answered() -> None:
    rig = Rig(allowed=Verdicts(parse_networks("127.0.0.2")))
    rig.sock.arrive(A, b"from outside")
    rig.sock.arrive(B, b"from inside")
    rig.sock.arrive(C, b"from outside, too")
    rig.read()
    assert rig.sock.sent == [(B, b"re: from inside")]
    assert rig.commands.handled == [b"from inside"]
    assert rig.commands.shut_out_ == [(A, b"from outside"), (C, b"from outside, too")]


def test_a_request_is_not_ascribed_to_who_was_shut_out_before_it() -> None:
    """Whatever a stranger sends just before: an answer that had to be waited for goes to whoever asked."""
    rig = Rig(allowed=Verdicts(parse_networks("127.0.0.2")))
    rig.must_wait(b"w")
    rig.sock.arrive(A, b"a stranger's")
    rig.sock.arrive(B, b"w")
    rig.read()
    rig.answer_later(b"w", b"secret")
    assert rig.sock.sent == [(B, b"secret")]


# --- how a node ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_turns", [False, True])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_shutdown_is_answered_and_nothing_after_it(before: int, shares_turns: bool) -> None:
    rig = Rig(shares_turns=shares_turns)

    def shutdown(request: Request) -> bytes:
        raise Shutdown(b"bye")

    rig.commands.rules[b"s"] = shutdown
    rig.sock.arrive(B, *numbered(before))
    rig.sock.arrive(A, b"s", b"after")
    rig.sock.arrive(B, b"after")
    with pytest.raises(Exited) as exited:
        rig.front.read()
    assert exited.value.status == 0
    assert rig.sock.sent_to(A) == [b"bye"]
    assert rig.sock.sent_to(B) == answers_to(numbered(before))
    assert rig.commands.handled == [*numbered(before), b"s"]


@pytest.mark.parametrize("fault", [ValueError, AssertionError, OSError, KeyboardInterrupt])
def test_what_commands_do_not_catch_reaches_the_loop(fault: type[BaseException]) -> None:
    """Which ends the process: tests/test_loop.py."""
    rig = Rig()

    def breaks(request: Request) -> bytes:
        raise fault("made up")

    rig.commands.rules[b"x"] = breaks
    with pytest.raises(fault, match="made up"):
        rig.ask(A, b"x")


# --- the lease -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_turns", [False, True])
def test_what_was_executed_under_a_lease_that_has_run_out_since_does_not_leave(shares_turns: bool) -> None:
    rig = Rig(shares_turns=shares_turns, slow_s=0.0)
    rig.lease_until = rig.loop.now_s + 1.0

    def slow(request: Request) -> bytes:
        rig.loop.now_s += 1.0
        return b"too late"

    rig.commands.rules[b"slow"] = slow
    rig.ask(A, b"quick", b"slow")
    assert rig.sock.sent == []
    assert rig.batch.unfenced == 2
    if not shares_turns:
        assert rig.latency() == (0, 0), "they are no answers"
        assert len(rig.slow_log) == 0
    rig.ask(A, b"without a lease")
    assert rig.sock.sent == [(A, b"re: without a lease")], "what is answered without a lease needs none"


def test_replies_that_fill_the_ring_are_held_back_too() -> None:
    """In the middle of a batch, when there are as many as the ring holds."""
    rig = Rig(shares_turns=True)
    rig.lease_until = rig.loop.now_s + 1.0

    def two(request: Request) -> bytes:
        rig.batch.send(C, b"another's")
        return b"re"

    def last(request: Request) -> bytes:
        rig.loop.now_s += 1.0
        return b"re"

    rig.commands.rules |= {b"two": two, b"last": last}
    rig.ask(A, b"last", *[b"two"] * (BATCH_SIZE - 1))
    assert rig.sock.sent == []
    assert rig.batch.unfenced == 2 * BATCH_SIZE - 1


def test_answers_that_are_held_back_are_not_taken_from_those_that_were_counted() -> None:
    rig = Rig(shares_turns=True)
    rig.lease_until = rig.loop.now_s + 1.0
    rig.turn.open()
    for _ in range(5):
        rig.batch.send(C, b"of this turn, from before this batch")

    def last(request: Request) -> bytes:
        rig.loop.now_s += 1.0
        return b"re"

    rig.commands.rules[b"last"] = last
    rig.ask(A, *numbered(BATCH_SIZE - 5), b"last")
    assert rig.sock.sent == []
    assert rig.batch.unfenced == BATCH_SIZE + 1
    assert rig.latency() == (0, 0)


# --- what has waited in the socket ------------------------------------------------------------------------------------


def test_what_may_have_waited_for_too_long_is_dropped() -> None:
    rig = Rig(patience_s=1.0)
    rig.loop.now_s += 0.99
    rig.ask(A, b"1")
    assert rig.sock.sent_to(A) == [b"re: 1"]
    rig.loop.now_s += 1.0
    rig.ask(A, b"2", b"3")
    assert (rig.sock.sent, rig.latency()) == ([], (1, 0))
    assert rig.counters.drops["too_old"] == 2
    rig.ask(A, b"4")
    assert rig.sock.sent_to(A) == [b"re: 4"], "it came after the socket was seen empty"
    assert rig.counters.drops["too_old"] == 2


def test_alone_nothing_is_ever_too_old() -> None:
    rig = Rig(patience_s=inf)
    rig.loop.now_s += 1e6
    rig.ask(A, b"1")
    assert rig.sock.sent_to(A) == [b"re: 1"]


def test_an_idle_socket_does_not_age() -> None:
    rig = Rig(patience_s=1.0)
    for _ in range(100):
        rig.loop.now_s += 0.05
        rig.front.read()  # the timer's
    rig.ask(A, b"1")
    assert rig.sock.sent_to(A) == [b"re: 1"]
    rig.sock.arrive(A, b"2")
    rig.loop.now_s += 5.0  # stopped; then the timer comes before the socket
    rig.front.read()
    assert rig.sock.sent == []
    assert rig.counters.drops["too_old"] == 1


def deadline_of(rig: "Rig") -> float:
    """Until when a datagram that comes now may be executed."""
    kept: list[float] = []

    def rule(request: Request) -> bytes:
        request.keep()
        kept.append(request.deadline_s)
        return b""

    rig.commands.rules[b"x"] = rule
    rig.ask(A, b"x")
    return kept[0]


def test_a_look_at_an_empty_socket_counts_from_the_clock_before_it() -> None:
    """The process may be stopped between the two, and what has come since was not seen."""
    rig = Rig(patience_s=1.0)
    rig.loop.now_s += 0.5
    receive = rig.sock.receive

    def stopped_after(ring: Ring) -> int:
        count = receive(ring)
        rig.loop.now_s += 0.3
        return count

    rig.sock.receive = stopped_after  # type: ignore[method-assign]
    rig.front.read()
    rig.sock.receive = receive  # type: ignore[method-assign]
    assert deadline_of(rig) == 1000.5 + 1.0
    assert deadline_of(rig) == 1000.8 + 1.0, "the batch before was not full"


def test_a_long_queue_is_as_old_as_the_system_says() -> None:
    """Full batches leave open how old the rest is: the kernel knows when the last datagram of each came."""
    rig = Rig(patience_s=1.0, shares_turns=True)
    for _ in range(5):
        rig.sock.arrive(A, *numbered(BATCH_SIZE))
        rig.sock.age = 0.015
        rig.front.read()
        rig.loop.turn()
        rig.loop.now_s += 0.6
    assert rig.counters.drops["too_old"] == 0
    rig.sock.age = 0.015
    rig.sock.arrive(A, *numbered(BATCH_SIZE))
    rig.front.read()
    rig.loop.now_s += 0.985
    rig.ask(A, b"x")
    assert rig.counters.drops["too_old"] == 1
    assert len(rig.sock.sent_to(A)) == 6 * BATCH_SIZE


def test_a_queue_is_no_younger_because_the_wall_clock_was_set_back() -> None:
    rig = Rig(patience_s=1.0, shares_turns=True)
    rig.front.read()  # it is seen empty
    rig.loop.now_s += 0.8
    unix_s = rig.loop.unix_s()
    rig.loop.unix_s = lambda: unix_s - 0.6
    rig.front._loop.unix_s = rig.loop.unix_s
    rig.sock.arrive(A, *numbered(BATCH_SIZE), b"x")
    rig.sock.age = 0.1  # what the wall clock makes of 0.7 s
    rig.front.read()
    rig.loop.turn()
    rig.loop.now_s += 0.31
    rig.front.read()
    assert rig.counters.drops["too_old"] == 1


def test_a_queue_of_unknown_age_is_taken_for_as_old_as_before() -> None:
    rig = Rig(patience_s=1.0, shares_turns=True)
    rig.sock.age = inf
    rig.loop.now_s += 0.6
    rig.ask(A, *numbered(BATCH_SIZE))
    rig.loop.now_s += 0.4
    rig.ask(A, b"x")
    assert rig.counters.drops["too_old"] == 1


# --- overload ---------------------------------------------------------------------------------------------------------


def overload(rig: Rig) -> None:
    """Full batches are found whose last datagram has waited for long, until that is an overload; they are answered."""
    for now_s in (rig.loop.now_s, rig.loop.now_s + OVERLOAD_S - 0.001):
        rig.loop.now_s = now_s
        rig.sock.arrive(B, *numbered(BATCH_SIZE))
        rig.sock.ages = [QUEUE_S]
        rig.read()
    assert len(rig.sock.sent_to(B)) == 2 * BATCH_SIZE
    rig.loop.now_s += 0.001


def test_in_an_overload_what_has_waited_is_dropped_and_what_is_fresh_is_answered() -> None:
    rig = Rig()
    overload(rig)
    rig.sock.arrive(A, *numbered(3 * BATCH_SIZE, b"old"), *numbered(5, b"new"))
    rig.sock.ages = [QUEUE_S, 1.0, QUEUE_S]
    rig.read()
    assert rig.counters.drops["shed"] == 3 * BATCH_SIZE
    assert rig.sock.sent_to(A) == answers_to(numbered(5, b"new"))


def test_once_it_drops_it_goes_on_until_what_it_finds_is_fresh() -> None:
    rig = Rig()
    overload(rig)
    rig.sock.arrive(A, *numbered(3 * BATCH_SIZE))
    rig.sock.ages = [QUEUE_S, FRESH_S, FRESH_S - 0.001]
    rig.read()
    assert rig.counters.drops["shed"] == 2 * BATCH_SIZE
    assert rig.sock.sent_to(A) == answers_to(numbered(3 * BATCH_SIZE))[2 * BATCH_SIZE :]


def test_what_a_stall_has_left_is_worked_off() -> None:
    rig = Rig()
    rig.sock.arrive(A, *numbered(3 * BATCH_SIZE))
    rig.sock.age = 0.5
    rig.read()
    assert rig.counters.drops["shed"] == 0
    assert len(rig.sock.sent_to(A)) == 3 * BATCH_SIZE


def test_a_queue_that_was_short_once_was_no_overload() -> None:
    rig = Rig()
    for age_s in (QUEUE_S, QUEUE_S - 0.001, QUEUE_S):
        rig.sock.arrive(A, *numbered(BATCH_SIZE))
        rig.sock.ages = [age_s]
        rig.read()
        rig.loop.now_s += OVERLOAD_S - 0.001
    assert rig.counters.drops["shed"] == 0


@pytest.mark.parametrize(("later_s", "shed"), [(OVERLOAD_S - 0.001, BATCH_SIZE), (OVERLOAD_S, 0)])
def test_an_overload_is_over_when_nothing_had_to_be_dropped_for_a_while(later_s: float, shed: int) -> None:
    rig = Rig()
    overload(rig)
    rig.sock.arrive(A, *numbered(BATCH_SIZE))
    rig.sock.ages = [QUEUE_S]
    rig.read()
    rig.sock.arrive(A, *numbered(BATCH_SIZE))
    rig.sock.ages = [QUEUE_S - 0.001]
    rig.read()
    dropped = rig.counters.drops["shed"]
    rig.loop.now_s += later_s
    rig.sock.arrive(A, *numbered(BATCH_SIZE))
    rig.sock.ages = [QUEUE_S]
    rig.read()
    assert rig.counters.drops["shed"] - dropped == shed


@pytest.mark.parametrize("age_s", [1.0, inf])
def test_few_datagrams_or_ones_of_unknown_age_are_not_dropped(age_s: float) -> None:
    rig = Rig()
    overload(rig)
    rig.sock.arrive(A, *numbered(BATCH_SIZE - 1 if age_s < inf else BATCH_SIZE))
    rig.sock.age = age_s
    rig.read()
    assert rig.counters.drops["shed"] == 0
    assert rig.sock.sent_to(A)


def test_the_loop_turns_however_much_there_is_to_be_dropped() -> None:
    rig = Rig()
    overload(rig)
    rig.sock.arrive(A, *numbered(40 * BATCH_SIZE))
    rig.sock.age = 1.0
    rig.front.read()
    assert rig.counters.drops["shed"] == 32 * BATCH_SIZE
    assert rig.sock.arriving


def test_what_nodes_say_is_heard_among_what_is_dropped() -> None:
    rig = Rig()
    overload(rig)
    said = envelope(b"of a node", b"said", TYPE_CLUSTER)
    rig.sock.arrive(B, *numbered(BATCH_SIZE - 1), said)
    rig.sock.age = 1.0
    rig.read()
    assert (rig.counters.drops["shed"], rig.commands.shut_out_) == (BATCH_SIZE - 1, [(B, said)])


def test_what_follows_a_dropped_batch_came_after_the_socket_was_found_empty() -> None:
    rig = Rig(patience_s=1.0)
    overload(rig)
    rig.sock.arrive(A, *numbered(BATCH_SIZE))
    rig.sock.ages = [0.3]
    rig.read()
    assert rig.counters.drops["shed"] == BATCH_SIZE
    assert deadline_of(rig) == rig.loop.now_s + 1.0


# --- how long requests took -----------------------------------------------------------------------------------------


def slow_rows(log: SlowLog) -> list[dict[str, Any]]:
    told = json.loads(log.as_json())
    return [dict(zip(told["columns"], row, strict=True)) for row in told["entries"]]


def takes(rig: Rig, seconds: float) -> Callable[[Request], bytes]:
    def rule(request: Request) -> bytes:
        rig.loop.now_s += seconds
        return b"re"

    return rule


@pytest.mark.parametrize("shares_turns", [False, True])
def test_each_answer_is_counted_once_by_how_it_came(shares_turns: bool) -> None:
    rig = Rig(shares_turns=shares_turns)
    rig.must_wait(b"w")
    rig.commands.rules[b"none"] = lambda request: None
    rig.commands.rules[b"slow"] = takes(rig, 0.25)
    rig.ask(A, b"w", *numbered(BATCH_SIZE), b"none")
    assert rig.latency() == (BATCH_SIZE, 0)
    rig.ask(A, b"1", b"slow")
    assert rig.latency() == (BATCH_SIZE + 2, 0)
    assert rig.counters.latency[IN_TURN].total_s == 0.5, "both leave when the batch is done"
    rig.loop.now_s += 0.5
    rig.answer_later(b"w", b"")
    assert rig.latency() == (BATCH_SIZE + 2, 1)
    assert rig.counters.latency[WAITED].total_s == 0.75, "since it came out of the socket"


def test_what_is_slow_is_noted_with_its_client() -> None:
    rig = Rig(slow_s=0.5, allowed=Verdicts(parse_networks("127.0.0.1,127.0.0.2")))
    quick, slow, waits = (request(key, command=GET, key=key) for key in (b"quick", b"slow", b"waits"))
    rig.must_wait(waits)
    rig.commands.rules[slow] = takes(rig, 0.5)
    rig.ask(A, quick, waits)
    assert slow_rows(rig.slow_log) == []
    rig.sock.arrive(A, quick)
    rig.sock.arrive(C, quick)  # who was shut out has not waited for anything
    rig.sock.arrive(B, slow)
    rig.read()
    rig.answer_later(waits, b"")
    rows = slow_rows(rig.slow_log)
    columns = ("command", "key", "how", "client", "shared_by", "duration_ms", "time")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("GET", "waits", WAITED, "127.0.0.1:1000", 1, 500.0, rig.loop.unix_s()),
        ("GET", "slow", IN_TURN, "127.0.0.2:1000", 2, 500.0, rig.loop.unix_s()),
        ("GET", "quick", IN_TURN, "127.0.0.1:1000", 2, 500.0, rig.loop.unix_s()),
    ]


def test_nothing_is_noted_below_the_threshold_nor_for_what_is_not_answered() -> None:
    rig = Rig(slow_s=0.5)
    datagram = request(b"m", command=GET, key=b"k")
    rig.commands.rules[datagram] = takes(rig, 0.4999)
    rig.ask(A, datagram)
    rig.commands.rules[datagram] = lambda request: takes(rig, 0.6)(request) and None
    rig.ask(A, datagram)
    assert slow_rows(rig.slow_log) == []


def test_what_of_a_slow_batch_is_not_answered_yet_is_not_noted() -> None:
    rig = Rig(slow_s=0.5)
    rig.commands.at_once = False
    alive, get = request(b"a", command=IS_ALIVE), request(b"g", command=GET, key=b"k")
    rig.commands.rules[alive] = takes(rig, 0.5)
    rig.ask(A, alive, get)
    assert [row["command"] for row in slow_rows(rig.slow_log)] == ["IS_ALIVE"]


# --- over real sockets, in a node -------------------------------------------------------------------------------------


class Running:
    """A node alone in its cluster, and clients of it."""

    def __init__(self, loop: WatchedLoop, host: str, options: dict[str, Any]) -> None:
        self.loop = loop
        bind = host
        named = {"::": "::1"}.get(host, host)
        me = Server(named, free_port(), named)
        given = Options(port=me.port, servers=(me,), me=me, bind=bind, max_memory_bytes=128 << 20, **options)
        self.sockets = Sockets(given)
        self.node = Node(
            given,
            loop,
            self.sockets,
            incarnation=1,
            random_bytes=os.urandom,
            resident_bytes=lambda: 60 << 20,
            on_stopped=lambda: None,
        )
        self.clients: list[socket.socket] = []

    def client(self, source: str = "127.0.0.1") -> "Client":
        """A client at an address of this machine."""
        sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((source, 0))
        host, port = self.sockets.datagrams.address
        sock.connect(({"::": "::1" if ":" in source else "127.0.0.1"}.get(host, host), port))
        sock.settimeout(20.0)
        self.clients.append(sock)
        return Client(sock)


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message_id: bytes, command: int = IS_ALIVE, **fields: object) -> None:
        self.sock.send(request(message_id, command=command, **fields))

    def code(self, message_id: bytes) -> int:
        """The error code of the next answer, which must be to that request."""
        return response(self.sock.recv(65_535), message_id).errCode

    def ask(self, message_id: bytes, command: int = IS_ALIVE, **fields: object) -> int:
        self.send(message_id, command, **fields)
        return self.code(message_id)

    def has_heard_all(self) -> bool:
        """Nothing more lies in the socket; over loopback, what was sent lies there at once."""
        return not select.select([self.sock.fileno()], [], [], 0)[0]


@contextmanager
def serving(host: str = "127.0.0.1", **options: Any) -> Iterator[Running]:
    with watched_loop() as loop:
        running = Running(loop, host, options)
        running.node.start()
        try:
            yield running
        finally:
            running.node.stop()
            for sock in running.clients:
                sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests_are_answered(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with serving(host) as running:
        client = running.client(host)
        assert client.ask(b"p", PUT, key=b"k", value=bytes(10_000)) == NO_ERR
        client.send(b"g", GET, key=b"k")
        assert response(client.sock.recv(65_535), b"g").value == bytes(10_000)


def test_other_greenlets_run_however_many_datagrams_are_waiting() -> None:
    with serving() as running:
        client = running.client()
        seen = []

        def answered() -> int:
            return sum(running.node.counters.answers)

        def watch() -> None:
            while answered() < 4 * BATCH_SIZE:
                seen.append(answered())
                running.loop.sleep(0)

        for n in range(4 * BATCH_SIZE):  # into the socket before the loop has run at all
            client.send(b"%d" % n)
        running.loop.spawn(watch)
        poll(lambda: answered() == 4 * BATCH_SIZE)
        assert set(seen) >= {BATCH_SIZE, 2 * BATCH_SIZE, 3 * BATCH_SIZE}


def test_what_is_no_request_is_counted() -> None:
    with serving() as running:
        client = running.client()
        client.sock.send(b"\xff\xff")
        client.sock.send(b"")
        client.sock.send(bytes(DATAGRAM_MAX_BYTES + 1))
        client.sock.send(ack(b"a"))
        assert client.ask(b"m") == NO_ERR
        assert client.has_heard_all()
        drops = running.node.counters.drops
        assert (drops["unparsable"], drops["no_message_id"], drops["oversized"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("host", "client_host", "networks", "is_answered"),
    [
        ("127.0.0.1", "127.0.0.2", "127.0.0.2", True),
        ("127.0.0.1", "127.0.0.2", "127.0.0.3,::/0", False),
        ("::1", "::1", "fd00::/8,::1", True),
        ("::", "127.0.0.2", "127.0.0.0/8", True),  # mapped
        ("::", "127.0.0.2", "::/0", False),
    ],
)
def test_only_addresses_that_are_allowed_are_answered(
    host: str, client_host: str, networks: str, is_answered: bool
) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with serving(host, allow=parse_networks(networks)) as running:
        client = running.client(client_host)
        for n in range(3):
            client.send(b"%d" % n, PUT, key=b"k%d" % n, value=b"v")
        if is_answered:
            assert [client.code(b"%d" % n) for n in range(3)] == [NO_ERR] * 3
        else:
            poll(lambda: running.node.counters.drops["not_allowed"] == 3)
            assert client.has_heard_all()
        assert running.node.store.entries == (3 if is_answered else 0)


def test_nodes_are_heard_whoever_is_allowed() -> None:
    with serving(allow=parse_networks("127.0.0.3")) as running:
        client = running.client("127.0.0.2")
        client.sock.send(envelope(b"m", b"membership", TYPE_CLUSTER))
        poll(lambda: running.node.membership.refused)
        assert running.node.membership.refused == {"unknown_sender": 1}
        assert not any(running.node.counters.drops.values())


def test_a_client_that_has_gone_costs_nobody_else_anything() -> None:
    with serving() as running:
        gone, client = running.client(), running.client()
        for n in range(20):
            gone.send(b"%d" % n)
        gone.sock.close()
        for n in range(20):
            assert client.ask(b"%d" % n) == NO_ERR


def test_send_errors_are_counted() -> None:
    with serving() as running:
        client = running.client()
        client.ask(b"m")
        running.node.batch.send(bytes(16), b"x")  # an address of no family
        assert client.ask(b"n") == NO_ERR
        assert running.node.snapshot()["send_errors"] == 1


def test_shutdown_ends_the_node_after_its_answer() -> None:
    with serving() as running:
        client = running.client()
        assert client.ask(b"s", SHUTDOWN) == NO_ERR
        assert running.loop.exits == [0]


def test_the_age_of_a_full_batch_is_the_systems() -> None:
    """Full batches for longer than the patience: what is young is answered all the same."""
    with plain_socket.socket(plain_socket.AF_INET, plain_socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        rig = Rig(patience_s=1.0, shares_turns=True)
        datagrams = DatagramSocket(sock)
        rig.front._sock = datagrams
        rig.front._batch = DatagramBatch(datagrams, BATCH_SIZE)
        for _ in range(5):
            for datagram in numbered(2 * BATCH_SIZE):
                sock.sendto(datagram, sock.getsockname())
            rig.front.read()
            rig.loop.now_s += 0.6
            rig.front.read()
        assert rig.counters.drops["too_old"] == 0
        assert len(rig.commands.handled) == 5 * 2 * BATCH_SIZE
