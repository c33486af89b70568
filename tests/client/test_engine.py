"""Requests in flight, one event at a time: a clock and sockets that the tests drive, and the real router."""

import random
from collections.abc import Iterable
from math import inf
from zlib import crc32

import pytest

from app.client.address import Endpoint, resolve
from app.client.codec import KVRequest, encode_request
from app.client.engine import DRAIN_MAX, WINDOW_MIN, Engine, Exchange
from app.client.errors import Timeout, Unreachable
from app.client.router import NOWHERE, REFRESH_MIN_S, Router
from app.client.stats import Stats
from app.client.table import Table
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, SLOT_COUNT, SYS_OVERLOAD_ERR, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVResponse
from proto_gen.message_pb2 import Msg

NAMES = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
A, B, C = range(3)
TIMEOUTS_MS = (100, 200, 400)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s


class Wire:
    """In place of the client's sockets: what was sent, and what is to come; time passes where nothing comes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.complaints = 0
        self.troubles: dict[int, str] = {}
        self.is_closed = self.is_inherited = False
        self.sent: list[tuple[int, bytes]] = []  # server, messageID
        self.coming: list[tuple[int, bytes | None]] = []
        self.limits: list[int] = []
        self.renewed: list[int] = []
        self.since = -1  # what was asked for by `trouble`

    def close(self) -> None:
        pass

    def trouble(self, servers: Iterable[int], since: int) -> str:
        self.since = since
        return next((self.troubles[index] for index in servers if index in self.troubles), "")

    def renew(self, index: int) -> None:
        self.renewed.append(index)

    def send(self, index: int, server: Endpoint, datagram: bytes) -> None:
        assert server.name == NAMES[index]
        self.sent.append((index, Msg.FromString(datagram).messageID))

    def receive(self, wait_s: float, limit: int) -> list[tuple[int, bytes | None]]:
        self.limits.append(limit)
        found, self.coming = self.coming, []
        if not found:
            assert 0 <= wait_s < 60, wait_s
            self.clock.now_s += wait_s
        return found


class Bench:
    """An engine with its surroundings."""

    def __init__(self, clock: Clock, servers: int = 2, *, impatient: bool = False, window: int = 64) -> None:
        self.clock = clock
        self.stats = Stats()
        self.router = Router([resolve(name) for name in NAMES[:servers]], slot_aware=True)
        self.engine = Engine(
            self.router,
            self.stats,
            timeouts_ms=TIMEOUTS_MS,
            give_up_when_refused=impatient,
            window=window,
            rng=random.Random(1),
            now=clock.now,
        )
        self.engine.sockets.close()
        self.wire = Wire(clock)
        self.engine.sockets = self.wire  # type: ignore[assignment]

    def start(self, name: bytes, asked: int = A, *, only: bool = False) -> Exchange:
        return self.engine.start(
            name, encode_request(name, KVRequest(command=GET, key=b"k")), asked, self.clock.now() + 10.0, only=only
        )

    def turn(self, *coming: tuple[int, bytes | None]) -> list[tuple[int, bytes]]:
        """One turn in which this comes; what was sent in it."""
        self.wire.sent.clear()
        self.wire.coming = list(coming)
        self.engine.turn()
        return self.wire.sent

    def prove(self, *members: int) -> None:
        """Let the router know the servers as the members of one cluster; slot s belongs to member s modulo theirs."""
        names = [NAMES[member] for member in members]
        primaries = tuple(names[slot % len(names)] for slot in range(SLOT_COUNT))
        for member in members:
            self.router.learn(member, Table(NAMES[member], True, 1, 1, primaries, frozenset(names)), self.clock.now_s)


def answer(message_id: bytes, code: int = NO_ERR, wait_ms: int = 0) -> bytes:
    payload = KVResponse(errCode=code, overloadWaitTime=wait_ms).SerializeToString()
    checksum = crc32(payload, crc32(message_id))
    return Msg(messageID=message_id, payload=payload, checkSum=checksum, type=TYPE_RESPONSE).SerializeToString()


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- answers -----------------------------------------------------------------------------------------------------


def test_an_answer_finds_its_request_whoever_sends_it(clock: Clock) -> None:
    bench = Bench(clock)
    first, second = bench.start(b"1"), bench.start(b"2")
    assert bench.turn((B, answer(b"2", KEY_DNE_ERR))) == []
    assert not first.is_done
    assert second.answer is not None
    assert (second.answer.errCode, second.answered_by, second.error) == (KEY_DNE_ERR, B, None)
    assert bench.turn((A, answer(b"1"))) == []
    assert first.answered_by == A
    assert (bench.stats.sent, bench.stats.requests, bench.stats.retries) == (2, 2, 0)


def test_who_waits_is_called_once(clock: Clock) -> None:
    bench = Bench(clock)
    done: list[Exchange] = []
    first, second = bench.start(b"1"), bench.start(b"2")
    first.done = done.append
    bench.turn((A, answer(b"1")), (A, answer(b"1")))
    assert done == [first]
    assert bench.stats.ignored == {"other_id": 1}
    bench.engine.drop(second)
    with pytest.raises(AssertionError, match="nothing to wait for"):
        bench.engine.turn()


def test_what_was_dropped_is_heard_of_no_more(clock: Clock) -> None:
    bench = Bench(clock)
    dropped, other = bench.start(b"1"), bench.start(b"2")
    bench.engine.drop(dropped)
    bench.engine.drop(dropped)
    assert bench.turn((A, answer(b"1"))) == []
    assert not dropped.is_done
    assert bench.turn() == [(B, b"2")], "only the other one's try was due"
    assert not other.is_done


def test_with_one_request_in_flight_one_datagram_is_taken_with_more_many(clock: Clock) -> None:
    bench = Bench(clock)
    bench.start(b"1")
    bench.turn()
    bench.start(b"2")
    bench.turn()
    assert bench.wire.limits == [1, DRAIN_MAX]


def test_the_answer_to_what_was_not_routed_makes_its_server_the_current_one(clock: Clock) -> None:
    bench = Bench(clock)
    routed, unrouted = bench.start(b"1", B), bench.start(b"2", A)
    unrouted.by_current = True
    bench.turn((B, answer(b"1")))
    assert bench.router.current == A
    bench.turn((B, answer(b"2")))
    assert bench.router.current == B
    assert routed.is_done


# --- silence ------------------------------------------------------------------------------------------------------


def test_tries_follow_the_schedule_and_go_round(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1")
    assert bench.wire.sent == [(A, b"1")]
    at: list[float] = []
    for expected in ([(B, b"1")], [(A, b"1")], []):
        assert bench.turn() == expected
        at.append(round(clock.now_s - 1000.0, 3))
    assert at == [0.1, 0.3, 0.7]
    assert isinstance(exchange.error, Timeout)
    assert str(exchange.error) == "no answer from 10.0.0.1:1, 10.0.0.2:1 to 3 tries"
    assert (bench.stats.sent, bench.stats.retries, bench.stats.timeouts) == (3, 2, 1)


def test_nothing_is_sent_again_after_the_machine_was_suspended(clock: Clock) -> None:
    """The nodes have forgotten by then that they have answered: a retry would take effect a second time."""
    bench = Bench(clock)
    exchange = bench.start(b"1")
    clock.now_s += 60.0
    assert bench.turn() == []
    assert isinstance(exchange.error, Timeout)


def test_a_named_server_is_tried_alone_and_named_in_the_error(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1", B, only=True)
    bench.wire.troubles = {A: "of another", B: "network is down"}
    for expected in ([(B, b"1")], [(B, b"1")], []):
        assert bench.turn() == expected
    assert str(exchange.error) == "no answer from 10.0.0.2:1 to 3 tries (network is down)"


def test_a_server_that_is_silent_loses_its_slots(clock: Clock) -> None:
    bench = Bench(clock)
    bench.prove(A, B)
    bench.start(b"1", B)
    assert bench.router.primary(1) == B
    bench.turn()
    assert bench.router.primary(1) == NOWHERE


def test_one_lost_datagram_among_answers_is_no_silence(clock: Clock) -> None:
    bench = Bench(clock)
    bench.prove(A, B)
    bench.start(b"1", B)
    bench.start(b"2", B)
    clock.now_s += 0.001
    bench.turn((B, answer(b"2")))
    assert bench.turn() == [(A, b"1")], "it is tried again elsewhere"
    assert bench.router.primary(1) == B


def test_a_silent_server_is_given_a_new_socket_once_for_all_tries_that_left_by_the_former_one(clock: Clock) -> None:
    bench = Bench(clock)
    bench.start(b"1")
    bench.start(b"2")
    clock.now_s += 0.05
    bench.start(b"later")
    clock.now_s += 0.05
    bench.turn()
    assert bench.wire.renewed == [A]
    bench.turn()  # the later one: it, too, had left by then
    assert bench.wire.renewed == [A]
    bench.turn()  # the second tries, at the other server
    assert bench.wire.renewed == [A, B]
    bench.turn()
    bench.turn()  # the third tries, by the new socket
    assert bench.wire.renewed == [A, B, A]


def test_a_machine_that_was_started_just_now_makes_no_difference(clock: Clock) -> None:
    """Its clock shows 0: what has never been is not what was then."""
    clock.now_s = 0.0
    bench = Bench(clock)
    bench.start(b"1")
    assert bench.engine.heard_at < 0.0
    bench.turn()
    assert bench.wire.renewed == [A]
    assert bench.engine.window == 32


def test_who_answers_or_refuses_keeps_its_socket(clock: Clock) -> None:
    bench = Bench(clock)
    for n in range(3):
        bench.start(b"%d" % n)
    clock.now_s += 0.001
    bench.turn((A, answer(b"1")), (A, answer(b"2", SYS_OVERLOAD_ERR, 10)))
    bench.turn()
    bench.turn((B, None))
    assert bench.wire.renewed == []


# --- refusals by a server's machine -------------------------------------------------------------------------------


def test_a_refused_try_moves_on_at_once_and_the_schedule_does_not(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1")
    assert bench.turn((A, None)) == [(B, b"1")]
    assert clock.now_s == 1000.0
    assert (bench.stats.retries, bench.stats.sent, exchange.attempts.tries) == (0, 2, 2)
    assert bench.turn() == [(A, b"1")], "the next silence is the first one's"
    assert clock.now_s == 1000.1


def test_a_refusal_is_told_to_the_router(clock: Clock) -> None:
    """Its slots' requests go elsewhere from then on, and its table is doubted."""
    bench = Bench(clock)
    bench.prove(A, B)
    bench.router.targets(clock.now_s)
    assert bench.router.wake_at > clock.now_s + REFRESH_MIN_S
    bench.start(b"1", B)
    bench.turn((B, None))
    assert bench.router.primary(1) == NOWHERE
    assert bench.router.primary(0) == A
    assert bench.router.wake_at <= clock.now_s + REFRESH_MIN_S


def test_a_refusal_moves_only_what_went_there(clock: Clock) -> None:
    bench = Bench(clock)
    bench.start(b"1", A)
    bench.start(b"2", B)
    assert bench.turn((B, None)) == [(A, b"2")]


def test_a_refused_server_is_not_moved_to_again_before_the_next_try(clock: Clock) -> None:
    bench = Bench(clock, 3)
    bench.start(b"1", A)
    assert bench.turn((A, None)) == [(B, b"1")]
    assert bench.turn((B, None)) == [(C, b"1")]
    assert bench.turn((C, None)) == [], "all have refused"
    assert bench.turn() == [(A, b"1")], "the next try is at its time"
    assert clock.now_s == 1000.1
    assert bench.turn((A, None)) == [(B, b"1")], "what was refused before this try does not count"


def test_who_is_impatient_gives_up_when_all_have_refused(clock: Clock) -> None:
    bench = Bench(clock, impatient=True)
    exchange = bench.start(b"1")
    assert bench.turn((A, None)) == [(B, b"1")]
    assert not exchange.is_done
    assert bench.turn((B, None)) == []
    assert isinstance(exchange.error, Unreachable)
    assert str(exchange.error) == "no answer from 10.0.0.1:1, 10.0.0.2:1: connection refused"
    assert bench.stats.timeouts == 1


def test_a_refusal_of_an_earlier_try_does_not_count_against_a_later_one(clock: Clock) -> None:
    bench = Bench(clock, impatient=True)
    exchange = bench.start(b"1", A)
    assert bench.turn((A, None)) == [(B, b"1")]
    assert bench.turn() == [(A, b"1")]  # B was silent
    assert bench.turn((B, None)) == [], "A has not refused this try"
    assert not exchange.is_done


def test_another_servers_refusal_is_nothing_to_one_that_asks_only_its_own(clock: Clock) -> None:
    bench = Bench(clock, impatient=True)
    named = bench.start(b"1", A, only=True)
    bench.start(b"2", B)
    bench.turn((B, None))
    assert not named.is_done
    bench.turn((A, None))
    assert isinstance(named.error, Unreachable)
    assert str(named.error) == "no answer from 10.0.0.1:1: connection refused"


# --- refusals for now ---------------------------------------------------------------------------------------------


def test_an_overload_is_waited_out(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1")
    assert bench.turn((A, answer(b"1", SYS_OVERLOAD_ERR, 400))) == []
    assert not exchange.is_done
    assert bench.turn() == [(B, b"1")]
    assert 1000.4 <= clock.now_s <= 1000.5, "as long as was asked for, and up to a quarter more"
    assert bench.stats.overloads == 1
    bench.turn((B, answer(b"1")))
    assert exchange.answer is not None
    assert not exchange.attempts.unanswered


def test_a_server_that_says_that_it_is_busy_is_not_silent(clock: Clock) -> None:
    bench = Bench(clock)
    bench.prove(A, B)
    bench.start(b"1", B)
    clock.now_s += 0.001
    bench.turn((B, answer(b"1", SYS_OVERLOAD_ERR, 50)))
    bench.turn()
    assert bench.router.primary(1) == B


def test_an_overload_is_given_back_to_who_wants_it(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1")
    exchange.waits_out_overload = False
    bench.turn((A, answer(b"1", SYS_OVERLOAD_ERR, 400)))
    assert exchange.answer is not None
    assert exchange.answer.overloadWaitTime == 400


def test_an_overload_hints_at_a_table_that_is_out_of_date(clock: Clock) -> None:
    bench = Bench(clock)
    bench.prove(A, B)
    bench.router.targets(clock.now_s)
    bench.start(b"1", B)
    bench.turn((B, answer(b"1", SYS_OVERLOAD_ERR, 50)))
    assert bench.router.wake_at <= clock.now_s + REFRESH_MIN_S


# --- the window ---------------------------------------------------------------------------------------------------


def test_the_window_is_halved_once_for_all_tries_that_left_before(clock: Clock) -> None:
    bench = Bench(clock)
    for n in range(8):
        bench.start(b"%d" % n)
    clock.now_s += 0.05
    bench.start(b"later")
    clock.now_s = 1000.1
    bench.turn()
    assert bench.engine.window == 32
    bench.turn()
    assert bench.engine.window == 32, "it left before the window was halved"
    bench.turn()
    assert bench.engine.window == 16, "these left after"


def test_the_window_grows_by_one_for_each_window_of_answers_up_to_its_bound(clock: Clock) -> None:
    bench = Bench(clock, window=10)
    bench.engine.window = 8.0
    for n in range(9):
        bench.start(b"%d" % n)
        bench.turn((A, answer(b"%d" % n)))
    assert 8.9 < bench.engine.window < 9.1
    for n in range(40):
        bench.start(b"%d" % n)
        bench.turn((A, answer(b"%d" % n)))
    assert bench.engine.window == 10


@pytest.mark.parametrize(("window", "least"), [(64, WINDOW_MIN), (WINDOW_MIN - 1, WINDOW_MIN - 1)])
def test_the_window_keeps_a_least_size(clock: Clock, window: int, least: int) -> None:
    bench = Bench(clock, window=window)
    for n in range(10):
        exchange = bench.start(b"%d" % n)
        while not exchange.is_done:
            bench.turn()
    assert bench.engine.window == least


# --- probes -------------------------------------------------------------------------------------------------------


def test_a_probe_is_tried_once_and_is_nobodys_request(clock: Clock) -> None:
    bench = Bench(clock)
    done: list[Exchange] = []
    probe = bench.engine.probe(b"p", encode_request(b"p", KVRequest(command=GET)), B, 0.5)
    probe.done = done.append
    assert bench.wire.sent == [(B, b"p")]
    assert bench.turn() == []
    assert clock.now_s == 1000.5
    assert done == [probe]
    assert isinstance(probe.error, Timeout)
    stats = bench.stats
    assert (stats.probes, stats.requests, stats.sent, stats.retries, stats.timeouts) == (1, 0, 0, 0, 0)
    assert bench.engine.window == 64
    bench.engine.probe(b"q", encode_request(b"q", KVRequest(command=GET)), B, 0.5)
    assert stats.probes == 2


def test_a_probe_takes_whatever_is_answered_and_counts_as_no_answer_to_a_request(clock: Clock) -> None:
    bench = Bench(clock)
    probe = bench.engine.probe(b"p", encode_request(b"p", KVRequest(command=GET)), B, 0.5)
    bench.turn((B, answer(b"p", SYS_OVERLOAD_ERR, 400)))
    assert probe.answer is not None
    assert bench.stats.overloads == 0
    assert bench.engine.heard_at == -inf
    bench.start(b"1")
    bench.turn((A, answer(b"1")))
    assert bench.engine.heard_at == clock.now_s


def test_a_probe_that_is_refused_is_done(clock: Clock) -> None:
    bench = Bench(clock)
    probe = bench.engine.probe(b"p", encode_request(b"p", KVRequest(command=GET)), B, 0.5)
    assert bench.turn((B, None)) == []
    assert isinstance(probe.error, Unreachable)


def test_a_message_id_is_in_flight_once(clock: Clock) -> None:
    bench = Bench(clock)
    bench.start(b"1")
    with pytest.raises(AssertionError, match="is in flight"):
        bench.start(b"1")


def test_only_what_the_system_complains_of_meanwhile_is_told(clock: Clock) -> None:
    bench = Bench(clock, 1)
    bench.wire.complaints = 5
    exchange = bench.start(b"1")
    bench.wire.complaints = 7
    while not exchange.is_done:
        bench.turn()
    assert bench.wire.since == 5


def test_a_probe_is_waited_for_so_long(clock: Clock) -> None:
    datagram = encode_request(b"p", KVRequest(command=GET, key=b"k"))
    assert Bench(clock).engine.probe(b"p", datagram, A, 1.5).attempts.due == clock.now_s + 1.5


def test_a_server_that_was_turned_to_is_silent_if_nothing_comes_from_then_on(clock: Clock) -> None:
    bench = Bench(clock)
    moved, other = bench.start(b"1", A), bench.start(b"2", B)
    clock.now_s += 0.01
    bench.turn((B, answer(b"2")))
    assert other.is_done
    clock.now_s += 0.01
    assert bench.turn((A, None)) == [(B, b"1")]
    clock.now_s = moved.attempts.due
    bench.turn((B, b"nothing of ours"))
    assert bench.wire.renewed == [B]


def test_who_is_waited_for_because_another_is_overloaded_is_not_silent(clock: Clock) -> None:
    bench = Bench(clock)
    exchange = bench.start(b"1", A)
    bench.turn()
    assert (bench.wire.renewed, exchange.asked) == ([A], B)
    clock.now_s += 0.01
    bench.turn((A, answer(b"1", SYS_OVERLOAD_ERR, 20)))
    clock.now_s = exchange.attempts.due
    assert bench.turn((B, b"nothing of ours")) != []
    assert bench.wire.renewed == [A]
