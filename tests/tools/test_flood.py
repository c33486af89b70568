"""The load generator against a peer, and against peers that get one thing wrong."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
from tools.loadgen import Flood, Plan, Tally

from app.wire.protocol import GET, IS_ALIVE, KEY_DNE_ERR, NO_ERR, PUT, REMOVE, SYS_OVERLOAD_ERR
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer, answer_twice, before_the_answer, drop, lose_answer, overload
from tools import flood

ROOT = Path(__file__).parent.parent.parent

# A retry leaves after 20 ms, and the last try is patient: no stall of the machine may turn into a timeout.
QUICK = (20, 40, 5000)

# Keys few enough that they are read and overwritten many times in a fraction of a second.
FEW_KEYS = 8


def run(*peers: Peer, **settings: object) -> Tally:
    chosen: dict[str, Any] = {
        "clients": 4,
        "seconds": 60,
        "operations": 300,
        "keys": FEW_KEYS,
        "key_prefix": b"t-",
        "seed": 1,
        **settings,
    }
    plan = Plan(servers=tuple(peer.name for peer in peers), **chosen)
    generator = Flood(plan)
    try:
        return generator.run()
    finally:
        generator.close()


def test_a_faultless_node_gives_a_faultless_tally() -> None:
    mix = {PUT: 40, GET: 40, REMOVE: 10, IS_ALIVE: 10}
    with Peer() as peer:
        tally = run(peer, mix=mix, timeouts_ms=(5000,))
    assert tally.found > 0
    assert tally.absent > 0
    assert (tally.missing, tally.wrong, tally.stale, tally.timeouts, tally.retries) == (0, 0, 0, 0, 0)
    assert set(tally.codes) == {NO_ERR, KEY_DNE_ERR}
    counted = {operation: sum(counts.values()) for operation, counts in tally.latencies_us.items()}
    assert sum(counted.values()) == tally.answered == len(peer.received)
    assert set(counted) == set(mix)
    assert tally.found + tally.absent == counted[GET]
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
        tally = run(mute, peer, timeouts_ms=(300, 5000))
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
        tally = run(peer, timeouts_ms=(5000,))
    assert tally.ignored == {"late_or_doubled": 1, "unparsable": 1}
    assert tally.bad_values == 0


def test_silence_for_ever_is_counted_as_timeouts() -> None:
    with Peer([drop] * 100_000) as peer:
        tally = run(peer, timeouts_ms=(5, 5), operations=8)
    assert tally.timeouts == 8
    assert (tally.answered, tally.succeeded) == (0, 0)


def test_interrupted_it_tells_what_it_has() -> None:
    def interrupt(elapsed_s: float, tally: Tally) -> None:
        if tally.answered:
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
        tally = run(peer, operations=operations, timeouts_ms=(5000,))
    assert tally.answered == len(peer.received) == operations


def test_the_same_seed_draws_the_same_requests() -> None:
    drawn = []
    for _ in range(2):
        with Peer() as peer:
            run(peer, clients=1, seed=7)
        drawn.append([message.payload for message in peer.requests()[:50]])
    assert drawn[0] == drawn[1]


# The command line.


def test_the_result_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        status = flood.main(["127.0.0.1", str(peer.port), "--operations", "300", "--json", "--keys", "20"])
    result = json.loads(capsys.readouterr().out)
    assert status == 0
    assert result["ops_per_s"] > 0
    assert result["keys"] == 16
    assert result["reads"]["wrong"] == 0
    assert set(result["latency"]) == {"put", "get", "all"}
    whole = result["latency"]["all"]
    assert 0 < whole["p50_ms"] <= whole["p99_ms"] <= whole["p99.9_ms"] <= whole["max_ms"]


def test_the_result_for_people_and_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        status = flood.main(["--servers", peer.name, "--operations", "300"])
    printed = capsys.readouterr()
    assert status == 0
    assert "ops/s" in printed.out
    assert "p99.9" in printed.out
    assert printed.err == ""


def test_a_progress_bar_on_a_terminal() -> None:
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 100))
    with Peer() as peer:
        command = [sys.executable, "tools/flood.py", "127.0.0.1", str(peer.port), "--seconds", "0.5"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=its_end, timeout=60)
    os.close(its_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert re.search(r"/0 s, [\d,]+ ops/s, \d+ retries", shown), shown


def test_a_wrong_value_fails_the_run_and_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Corrupts() as peer:
        status = flood.main(["127.0.0.1", str(peer.port), "--operations", "300"])
    assert status == 1
    assert "wrong or stale values were read" in capsys.readouterr().err


class RefusesAll(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        return super().execute(request) if request.command == IS_ALIVE else KVResponse(errCode=4)


def test_a_run_in_which_nothing_succeeds_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with RefusesAll() as peer:
        status = flood.main(["127.0.0.1", str(peer.port), "--operations", "50"])
    printed = capsys.readouterr()
    assert status == 1
    assert "INTERNAL_ERR" in printed.out
    assert printed.err == "flood.py: nothing succeeded\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["127.0.0.1"],
        ["127.0.0.1", "x"],
        ["127.0.0.1", "1", "--servers", "127.0.0.1:1"],
        ["--servers", "nonsense"],
        ["127.0.0.1", "1", "--clients", "0"],
        ["127.0.0.1", "1", "--seconds", "0"],
        ["127.0.0.1", "1", "--seconds", "nan"],
        ["127.0.0.1", "1", "--value-size", "10001"],
        ["127.0.0.1", "1", "--mix", "put"],
        ["127.0.0.1", "1", "--mix", "put=0,get=0"],
        ["127.0.0.1", "1", "--key-prefix", "x" * 24],
        ["127.0.0.1", "1"],
    ],
)
def test_wrong_usage_and_nobody_there_are_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = flood.main(arguments)
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("flood.py: ")
    assert printed.err.count("\n") == 1


def test_mix() -> None:
    assert flood.mix("put=10,get=90") == {PUT: 10, GET: 90}
    assert flood.mix(" alive=1") == {IS_ALIVE: 1}
    for text in ("", "put", "put=", "put=-1", "put=1,put=2", "frob=1", "put=0"):
        with pytest.raises(ArgumentTypeError):
            flood.mix(text)


def test_latency_summary() -> None:
    assert flood.latency_summary([]) == {"count": 0, "p50_ms": 0, "p99_ms": 0, "p99.9_ms": 0, "max_ms": 0}
    summary = flood.latency_summary([(100, 9_899), (2_000, 100), (0, 1)])
    assert summary == {"count": 10_000, "p50_ms": 0.1, "p99_ms": 0.1, "p99.9_ms": 2.0, "max_ms": 2.0}
