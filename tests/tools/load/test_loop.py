"""The load generator's loop against a peer, and against peers that get one thing wrong."""

import time
from itertools import pairwise

import pytest

from app.wire.protocol import GET, IS_ALIVE, KEY_DNE_ERR, NO_ERR, PUT, REMOVE, SYS_OVERLOAD_ERR
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Address, Peer, answer_twice, before_the_answer, drop, lose_answer, overload
from tests.tools.load.runs import MANY_TRIES, PATIENT, QUICK, counted, latencies_us, plan_for, run
from tools.load.faults import faults_of
from tools.load.keys import LATEST, ZIPFIAN
from tools.load.lanes import NobodyThere
from tools.load.loop import Flood, Progress
from tools.load.plan import INSERT, YCSB, Plan


def test_a_faultless_node_gives_a_faultless_tally() -> None:
    mix = {PUT: 40, GET: 40, REMOVE: 10, IS_ALIVE: 10}
    with Peer() as peer:
        tally = run(peer, mix=mix, timeouts_ms=PATIENT)
    assert tally.found > 0
    assert tally.absent > 0
    assert (tally.missing, tally.wrong, tally.stale, tally.timeouts, tally.retries) == (0, 0, 0, 0, 0)
    assert set(tally.codes) == {NO_ERR, KEY_DNE_ERR}
    by_operation = counted(tally)
    assert sum(by_operation.values()) == tally.answered == len(peer.received)
    assert set(by_operation) == set(mix)
    assert tally.found + tally.absent == by_operation[GET]
    assert tally.finished_in_time == tally.answered == 300


class Corrupts(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        self.store[request.key] = (request.value[:-1] + b"?", request.version)
        return KVResponse(errCode=NO_ERR)


class Swaps(Peer):
    """Every key finds the value that was stored last."""

    def execute(self, request: KVRequest) -> KVResponse:
        if request.command == GET and self.store:
            value, version = list(self.store.values())[-1]
            return KVResponse(errCode=NO_ERR, value=value, version=version)
        return super().execute(request)


class SaysNothing(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=NO_ERR)


class KeepsTheFirst(Peer):
    """Acknowledges writes over a value, and loses them."""

    def put(self, request: KVRequest) -> KVResponse:
        self.store.setdefault(request.key, (request.value, request.version))
        return KVResponse(errCode=NO_ERR)


class KeepsTheRemoved(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=NO_ERR) if request.command == REMOVE else super().execute(request)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (Corrupts, "wrong"),
        (Swaps, "wrong"),
        (SaysNothing, "wrong"),
        (KeepsTheFirst, "stale"),
        (KeepsTheRemoved, "stale"),
    ],
)
def test_what_a_faulty_node_returns_is_noticed(kind: type[Peer], verdict: str) -> None:
    with kind() as peer:
        tally = run(peer, mix={PUT: 40, GET: 50, REMOVE: 10})
    assert getattr(tally, verdict) > 0
    assert tally.bad_values > 0
    assert verdict in " ".join(tally.samples)
    assert len(tally.samples) <= 5


class Forgets(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=NO_ERR)


def test_a_missing_key_is_no_wrong_value() -> None:
    with Forgets() as peer:
        tally = run(peer)
    assert tally.missing > 0
    assert tally.bad_values == 0
    assert tally.succeeded > 0


@pytest.mark.parametrize("fault", [drop, lose_answer])
def test_lost_datagrams_are_sent_again(fault) -> None:
    with Peer([fault] * 8) as peer:
        tally = run(peer, timeouts_ms=QUICK)
    assert tally.retries >= 8
    assert (tally.timeouts, tally.bad_values, tally.missing) == (0, 0, 0)
    assert len({message.messageID for message in peer.requests()}) == tally.answered


def test_a_retry_goes_to_the_next_server() -> None:
    with Peer([drop] * 100_000) as mute, Peer() as peer:
        tally = run(mute, peer, timeouts_ms=(1000, 5000))
    assert tally.timeouts == 0
    assert tally.found > 0
    # Each client that began with the mute one has moved away for good.
    assert len({message.messageID for message in mute.requests()}) == 2


def test_overload_is_waited_out() -> None:
    with Peer([overload(5)] * 10) as peer:
        tally = run(peer)
    assert tally.overloads == 10
    assert SYS_OVERLOAD_ERR not in tally.codes
    assert tally.bad_values == 0


def test_doubled_and_spoilt_answers_are_ignored_and_counted() -> None:
    with Peer([answer_twice, before_the_answer(lambda _: b"\xff")]) as peer:
        tally = run(peer, timeouts_ms=PATIENT)
    assert tally.ignored == {"late_or_doubled": 1, "unparsable": 1}
    assert tally.bad_values == 0


def test_silence_for_ever_is_counted_as_timeouts() -> None:
    with Peer([drop] * 100_000) as peer:
        tally = run(peer, timeouts_ms=(5, 5), operations=8)
    assert tally.timeouts == 8
    assert (tally.answered, tally.succeeded) == (0, 0)


def test_interrupted_it_tells_what_it_has() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.finished:
            raise KeyboardInterrupt

    with Peer() as peer:
        generator = Flood(Plan(servers=(peer.name,), seconds=60, key_prefix=b"t-"))
        tally = generator.run(interrupt)
        generator.close()
    assert tally.interrupted
    assert tally.answered > 0
    assert tally.elapsed_s < 60


def test_the_time_ends_a_run_too() -> None:
    with Peer() as peer:
        tally = run(peer, seconds=0.05, operations=10**9)
    assert 0.05 <= tally.elapsed_s < 10
    assert tally.answered < 10**9


@pytest.mark.parametrize("operations", [1, 3, 4, 5])
def test_the_number_of_operations_is_kept_to(operations: int) -> None:
    with Peer() as peer:
        tally = run(peer, operations=operations, timeouts_ms=PATIENT)
    assert tally.answered == len(peer.received) == operations


def test_the_same_seed_draws_the_same_requests() -> None:
    drawn = []
    for _ in range(2):
        with Peer() as peer:
            run(peer, clients=1, seed=7)
        drawn.append([message.payload for message in peer.requests()[:50]])
    assert drawn[0] == drawn[1]


def keys_of(peer: Peer, command: int) -> list[bytes]:
    requests = [KVRequest.FromString(message.payload) for message in peer.requests()]
    return [request.key for request in requests if request.command == command]


# Load and warm-up.


def test_load_puts_every_key_once_and_counts_nothing() -> None:
    with Peer() as peer:
        generator = Flood(plan_for(peer, keys=200, mix={GET: 1}, load=True, timeouts_ms=PATIENT))
        generator.load()
        assert sorted(keys_of(peer, PUT)) == [b"t-%09d" % n for n in range(200)]
        tally = generator.run()
        generator.close()
    assert tally.found == tally.answered == 300
    assert counted(tally).get(PUT, 0) == 0


def test_what_belongs_to_the_warm_up_is_not_counted() -> None:
    with Peer() as peer:
        tally = run(peer, warmup_s=0.5, operations=50, timeouts_ms=PATIENT)
    assert tally.answered == sum(counted(tally).values()) == 50
    assert len(peer.received) > 50
    assert sum(piece.finished for piece in tally.slices) == 50


def test_a_wrong_value_in_the_warm_up_counts() -> None:
    class CorruptsAtFirst(Peer):
        def put(self, request: KVRequest) -> KVResponse:
            spoilt = request.value[:-1] + b"?" if len(self.received) < 20 else request.value
            self.store[request.key] = (spoilt, request.version)
            return KVResponse(errCode=NO_ERR)

    with CorruptsAtFirst() as peer:
        tally = run(peer, keys=1, warmup_s=0.2, operations=1, mix={PUT: 1, GET: 9})
    assert tally.wrong > 0


# Keys.


def test_processes_share_the_keys_without_overlap() -> None:
    whole = Plan(servers=("127.0.0.1:1",), keys=10, clients=5, rate=30, operations=7, processes=3, seed=1)
    shares = [whole.share(number) for number in range(3)]
    assert [share.keys for share in shares] == [4, 3, 3]
    assert [share.clients for share in shares] == [2, 2, 1]
    assert [share.operations for share in shares] == [3, 2, 2]
    assert sum(share.rate for share in shares) == pytest.approx(30)
    with Peer() as peer:
        for number in range(3):
            run(peer, processes=3, number=number, keys=shares[number].keys, mix={GET: 1}, load=True, operations=1)
        assert sorted(keys_of(peer, PUT)) == [b"t-%09d" % n for n in range(10)]


@pytest.mark.parametrize("name", YCSB)
def test_ycsb_workloads_keep_to_their_mix(name: str) -> None:
    mix, law = YCSB[name]
    with Peer() as peer:
        tally = run(peer, mix=mix, law=law, load=True, keys=100, operations=2000, timeouts_ms=PATIENT)
    by_operation = {operation: count for operation, count in counted(tally).items() if count}
    assert set(by_operation) == set(mix)
    for operation, percent in mix.items():
        assert abs(by_operation[operation] - 20 * percent) < 5 * (20 * percent) ** 0.5 + 1
    assert (tally.missing, tally.bad_values, tally.errors) == (0, 0, 0)


def test_inserts_are_new_keys_and_are_read_most() -> None:
    with Peer() as peer:
        mix = {GET: 50, INSERT: 50}
        tally = run(peer, mix=mix, law=LATEST, load=True, keys=10, operations=2000, timeouts_ms=PATIENT)
        put, read = keys_of(peer, PUT), keys_of(peer, GET)
    assert len(set(put)) == len(put) == 10 + counted(tally)[INSERT]
    assert sum(int(key[2:]) >= 10 for key in read) > len(read) / 2
    assert tally.missing == 0


def test_one_popular_key_with_many_requests_at_once_is_still_checked() -> None:
    with Peer() as peer:
        tally = run(peer, clients=32, keys=2, law=ZIPFIAN, load=True, operations=3000, timeouts_ms=PATIENT)
    assert (tally.bad_values, tally.missing) == (0, 0)
    with KeepsTheFirst() as peer:
        assert run(peer, clients=32, keys=2, law=ZIPFIAN, load=True, operations=1000).stale > 0


# The open loop.


class Stalls(Peer):
    """Answers nothing until so many requests have come, then all of them."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self._left = held
        self._held: list[tuple[bytes, Address]] = []

    def send(self, datagram: bytes, to: Address) -> None:
        self._held.append((datagram, to))
        self._left -= 1
        if self._left <= 0:
            for held in self._held:
                super().send(*held)
            self._held.clear()


def test_a_stall_shows_in_every_request_that_was_due_in_it() -> None:
    rate, held = 500, 50
    with Stalls(held) as peer:
        tally = run(peer, clients=1000, rate=rate, operations=100, timeouts_ms=PATIENT)
    # The n-th of those held was due (held - 1 - n) / rate before the last of them.
    longest = latencies_us(tally)[::-1]
    assert len(longest) == 100
    for n in range(held):
        assert longest[n] >= (held - 1 - n) / rate * 1e6 * 0.99


def test_requests_that_find_no_place_are_counted_from_when_they_were_due() -> None:
    """One request in flight at most, and the first one's answer is 100 ms late: the rest have waited for that."""
    with Peer([drop]) as peer:
        tally = run(peer, clients=1, rate=1000, operations=50, timeouts_ms=(100, 5000))
    assert tally.answered == 50
    assert tally.retries >= 1
    # The first took 100 ms; the n-th was due n ms after it, and was sent when that was over.
    longest = latencies_us(tally)[::-1]
    assert all(longest[n] >= (100 - n) * 1000 * 0.99 for n in range(50))
    assert max(tally.late_us) >= 99_000


def test_what_could_not_be_sent_is_counted() -> None:
    with Peer([drop] * 1000) as peer:
        tally = run(peer, clients=1, rate=1000, seconds=0.1, operations=10**9, timeouts_ms=(300,))
    assert (tally.timeouts, tally.answered) == (1, 0)
    assert 98 <= tally.unsent <= 100
    with Peer([drop] * 1000) as peer:
        assert run(peer, clients=1, rate=1000, seconds=0.1, operations=10, timeouts_ms=(300,)).unsent == 9


def test_the_rate_is_kept() -> None:
    begin = time.monotonic()
    with Peer() as peer:
        tally = run(peer, clients=100, rate=400, seconds=0.5, operations=10**9, timeouts_ms=PATIENT)
    assert time.monotonic() - begin >= 0.5
    assert 199 <= tally.answered <= 201
    assert sum(tally.late_us.values()) == tally.answered


def test_the_warm_up_of_an_open_loop_is_not_counted() -> None:
    with Peer() as peer:
        tally = run(peer, clients=100, rate=200, warmup_s=0.2, seconds=0.3, operations=10**9, timeouts_ms=PATIENT)
    assert 59 <= tally.answered <= 61
    assert 99 <= len(peer.received) <= 101


# Faults of the client's own.


def test_faults_are_played_and_counted_and_nothing_is_wrong() -> None:
    with Peer() as peer:
        tally = run(peer, faults=faults_of("drop=0.02,dup=0.1,delay=0.1:5ms"), operations=2000, timeouts_ms=MANY_TRIES)
    assert all(count > 0 for count in tally.faults.values())
    assert tally.retries > 0
    assert tally.ignored["late_or_doubled"] > 0
    assert (tally.timeouts, tally.bad_values, tally.missing) == (0, 0, 0)


def test_with_everything_doubled_the_peer_gets_everything_twice() -> None:
    with Peer() as peer:
        tally = run(peer, faults=faults_of("dup=1"), operations=100, timeouts_ms=PATIENT)
        ids = [message.messageID for message in peer.requests()]
    assert tally.answered == 100
    assert len(set(ids)) == 100
    assert 199 <= len(ids) <= 200  # the last copy may still be on its way
    assert tally.faults["doubled"] >= 200


def test_with_everything_delayed_nothing_is_faster_than_both_delays() -> None:
    with Peer() as peer:
        tally = run(peer, faults=faults_of("delay=1:10ms"), operations=40, timeouts_ms=PATIENT)
    assert latencies_us(tally)[0] >= 20_000


# The course of a run.


def test_nobody_there() -> None:
    with Peer() as peer:
        generator = Flood(plan_for(peer))
    with pytest.raises(NobodyThere, match="the port is closed"):
        generator.greet()
    generator.close()
    with Peer([drop] * 100) as mute, Peer() as peer:
        generator = Flood(plan_for(mute, peer))
        generator.greet()
        generator.close()


def test_slices_add_up_to_the_run() -> None:
    with Peer() as peer:
        tally = run(peer, seconds=0.5, operations=10**9, timeouts_ms=PATIENT)
    # As a rule five of 0.1 s; a stall of the machine's makes one longer.
    bounds = [round(piece.start_s, 6) for piece in tally.slices] + [0.5]
    assert bounds[0] == 0
    assert set(bounds) <= {0, 0.1, 0.2, 0.3, 0.4, 0.5}
    lengths = [round(piece.length_s, 6) for piece in tally.slices]
    assert lengths == pytest.approx([end - begin for begin, end in pairwise(bounds)])
    assert sum(piece.finished for piece in tally.slices) == tally.finished_in_time
    assert sum(counted(tally).values()) == tally.answered
    assert tally.processor_s > 0
    assert 0 < tally.waited_s <= tally.elapsed_s


def test_progress_tells_the_phase() -> None:
    seen: list[Progress] = []
    with Peer() as peer:
        generator = Flood(plan_for(peer, load=True, warmup_s=0.3, seconds=0.8, operations=10**9))
        generator.load(seen.append)
        generator.run(seen.append)
        generator.close()
    assert [progress.phase for progress in seen] == sorted(
        (progress.phase for progress in seen), key=["load", "warm-up", "run"].index
    )
    assert {progress.phase for progress in seen} == {"load", "warm-up", "run"}
    assert seen[-1].finished > 0
    assert seen[-1].errors == 0
