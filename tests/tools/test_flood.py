"""The load generator's command line."""

import json
import os
import platform
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from app.wire.protocol import GET, IS_ALIVE, NO_ERR, PUT
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Peer
from tests.support.nodes import REPOSITORY, run_python
from tests.support.polling import poll
from tests.support.programs import Program
from tools import flood


class Corrupts(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        self.store[request.key] = (request.value[:-1] + b"?", request.version)
        return KVResponse(errCode=NO_ERR)


def test_the_result_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        status = flood.main(["127.0.0.1", str(peer.port), "--operations", "300", "--json", "--keys", "20"])
    result = json.loads(capsys.readouterr().out)
    assert status == 0
    assert result["ops_per_s"] > 0
    assert result["keys"] == 20
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
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=its_end, timeout=60)
    os.close(its_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert re.search(r"/0 s, [\d,]+ ops/s, p99 [\d.]+ ms, \d+ errors", shown), shown


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
        ["127.0.0.1", "x"],
        ["127.0.0.1", "1", "--servers", "127.0.0.1:1"],
        ["--servers", "non:sense:1"],
        ["127.0.0.1", "1", "--clients", "0"],
        ["127.0.0.1", "1", "--seconds", "0"],
        ["127.0.0.1", "1", "--seconds", "nan"],
        ["127.0.0.1", "1", "--value-size", "10001"],
        ["127.0.0.1", "1", "--mix", "put"],
        ["127.0.0.1", "1", "--mix", "put=0,get=0"],
        ["127.0.0.1", "1", "--key-prefix", "x" * 24],
        ["127.0.0.1", "1", "--value-size", "9-8"],
        ["127.0.0.1", "1", "--rate", "0"],
        ["127.0.0.1", "1", "--warmup", "-1"],
        ["127.0.0.1", "1", "--workload", "e"],
        ["127.0.0.1", "1", "--workload", "a", "--mix", "get=1"],
        ["127.0.0.1", "1", "--workload", "a", "--key-law", "uniform"],
        ["127.0.0.1", "1", "--faults", "drop=2"],
        ["127.0.0.1", "1", "--target", "redis"],
        ["127.0.0.1", "1", "--target", "memcached", "--key-prefix", "a b"],
        ["127.0.0.1", "1", "--target", "memcached"],
        ["127.0.0.1", "1", "--processes", "2", "--clients", "1"],
        ["127.0.0.1", "1", "--processes", "2"],
        ["127.0.0.1", "1", "--json", "/nowhere/x.json"],
        ["127.0.0.1", "1", "--report", "/nowhere/x.html"],
        ["--compare", "/nowhere/a.json", "/nowhere/b.json"],
        ["--compare", "/nowhere/a.json"],
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


def test_the_node_is_named_as_for_the_other_tools(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer() as peer:
        assert flood.main([peer.name, "--operations", "5", "--quiet"]) == 0
        assert flood.main(["-s", peer.name, "--operations", "5", "--quiet"]) == 0
        monkeypatch.setenv("KV_SERVER", peer.name)
        assert flood.main(["--operations", "5", "--quiet"]) == 0
    plan = flood.plan_of(flood.parser().parse_args(["db", "--timeout", "1"]))
    assert (plan.servers, plan.timeouts_ms) == (("db:3331",), (150, 450, 400))


def test_mix() -> None:
    assert flood.mix("put=10,get=90") == {PUT: 10, GET: 90}
    assert flood.mix(" alive=1") == {IS_ALIVE: 1}
    for text in ("", "put", "put=", "put=-1", "put=1,put=2", "frob=1", "put=0"):
        with pytest.raises(ArgumentTypeError):
            flood.mix(text)


# What becomes of the result.


def test_json_takes_a_file_or_none() -> None:
    assert flood.with_json_file(["--json", "h", "1"]) == ["--json", "-", "h", "1"]
    assert flood.with_json_file(["h", "1", "--json"]) == ["h", "1", "--json", "-"]
    assert flood.with_json_file(["--json", "a.json", "h", "1"]) == ["--json", "a.json", "h", "1"]
    assert flood.with_json_file(["--json", "-", "h"]) == ["--json", "-", "h"]
    assert flood.with_json_file(["--json", "/tmp/a", "h"]) == ["--json", "/tmp/a", "h"]


def test_results_in_files_and_their_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    page = tmp_path / "a.html"
    with Peer() as peer:
        node = ["127.0.0.1", str(peer.port), "--operations", "200", "--seconds", "60"]
        assert flood.main([*node, "--workload", "b", "--json", paths[0], "--report", str(page)]) == 0
        assert "workload b (get=95,put=5)" in capsys.readouterr().out
        assert flood.main([*node, "--workload", "a", "--json", paths[1], "--quiet"]) == 0
        assert capsys.readouterr().out.count("\n") == 1
    assert page.read_text().count("<svg") == 4
    made = json.loads(Path(paths[0]).read_text())
    assert made["command"].startswith(f"flood.py 127.0.0.1 {peer.port} --operations 200")
    for told in (made["date"], made["command"], f"Python {platform.python_version()}"):
        assert told in page.read_text()
    assert json.loads(Path(paths[0]).read_text())["latency"]["all"]["count"] == 200
    assert flood.main(["--compare", *paths]) == 0
    printed = capsys.readouterr()
    assert "| a / b |" in printed.out
    assert "workload b and a; mix {'get': 95, 'put': 5} and {'get': 50, 'put': 50}." in printed.out
    assert printed.err == ""


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_file_that_cannot_be_written_does_not_cost_the_result(tmp_path: Path, option: str) -> None:
    path = tmp_path / "full.json"
    path.symlink_to("/dev/full")
    with Peer() as peer:
        done = run_python(
            "tools/flood.py", "127.0.0.1", str(peer.port), "--operations", "50", "--quiet", option, str(path)
        )
    assert (done.returncode, done.stderr) == (2, f"flood.py: {path}: No space left on device\n")
    assert " ops/s  p50 " in done.stdout


def test_a_gentle_flood_in_the_open_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.load.results.RATE_GRACE_S", 0.4)  # not 0.1 s: a busy machine halts both
    with Peer() as peer:
        status = flood.main(["127.0.0.1", str(peer.port), "--rate", "200", "--duration", "0.5", "--quiet"])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert re.fullmatch(r"\d+ ops/s  p50 .* errors 0  missing 0\n", printed.out), printed.out


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("", "is a directory"), ("none/x.json", "can't be written there"), ("file.json/x.json", "can't be written there")],
)
def test_where_the_result_goes_is_looked_at_before_the_run(
    option: str, name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "d.json"
    directory.mkdir()
    (directory / "file.json").touch()
    with Peer() as peer:
        assert flood.main([peer.name, "--operations", "5", option, str(directory / name)]) == 2
        assert peer.received == []
    assert capsys.readouterr().err == f"flood.py: {directory / name} {why}\n"


class Slow(Peer):
    """Answers every 10 ms at best."""

    def execute(self, request: KVRequest) -> KVResponse:
        time.sleep(0.01)
        return super().execute(request)


def test_an_open_loop_that_misses_its_rate_says_so_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    with Slow() as peer:
        node = [peer.name, "--rate", "2000", "--seconds", "0.5", "--clients", "8", "--quiet"]
        assert flood.main(node) == 0
        printed = capsys.readouterr()
        assert re.fullmatch(
            r"flood\.py: THE RATE WAS MISSED: [\d,]+ of 2,000 ops/s; what is measured is an overload\n", printed.err
        )
        assert flood.main([*node, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rate_missed"] is True
        assert flood.main([peer.name, "--operations", "3", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rate_missed"] is False


class DiesHalfWay(Peer):
    def answer_to(self, datagram: bytes) -> bytes | None:
        return super().answer_to(datagram) if len(self.received) < 100 else None


def test_a_node_that_dies_half_way_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with DiesHalfWay() as peer, Peer() as well:
        node = ["--operations", "200", "--timeout", "0.05", "--quiet", "--clean"]
        assert flood.main(["-s", peer.name, *node]) == 3
        told = capsys.readouterr()
        assert f"flood.py: {peer.name} does not answer any more\n" in told.err
        assert flood.main(["-s", f"{well.name},{peer.name}", *node, "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["servers_gone"] == [peer.name]


def test_what_it_leaves_behind_it_says_or_removes(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        run = [peer.name, "--operations", "200", "--keys", "50", "--key-prefix", "mine-"]
        assert flood.main(run) == 0
        left = len(peer.store)
        assert f"left      {left} keys that begin with mine-; --clean removes them" in capsys.readouterr().out
        peer.store.clear()
        for more in ([], ["--workload", "d"], ["--processes", "2"], ["--mix", "put=50,remove=50"]):
            assert flood.main([*run, *more, "--clean", "--json"]) == 0
            assert peer.store == {}, more
            result = json.loads(capsys.readouterr().out)
            assert (result["keys_left"], result["key_prefix"]) == (0, "mine-")
            assert result["latency"]["all"]["count"] == 200, "cleaning is not counted"


def test_two_processes_by_the_command_line() -> None:
    with Corrupts() as peer:
        done = run_python("tools/flood.py", "127.0.0.1", str(peer.port), "--processes", "2", "--seconds", "0.3")
    assert done.returncode == 1
    assert "in 2 processes" in done.stdout
    assert "wrong or stale values were read" in done.stderr


def test_ctrl_c_ends_a_run_of_processes_with_its_result() -> None:
    with Peer() as peer:
        command = [sys.executable, "tools/flood.py", "127.0.0.1", str(peer.port), "--processes", "2", "--json"]
        command += ["--seconds", "1000", "--rate", "100"]
        with subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            # The keys are all the two processes': both have begun when both have put or read something.
            poll(lambda: len({sender for _, sender in list(peer.received)}) > 4, complaint="requests of both arrive")
            for _ in range(2):  # timeout(1) sends two
                os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    result = json.loads(out)
    assert result["interrupted"]
    assert result["seconds"] < 1000


class OnlyGreets(Peer):
    def answer_to(self, datagram: bytes) -> bytes | None:
        request = KVRequest.FromString(Msg.FromString(datagram).payload)
        return super().answer_to(datagram) if request.command == IS_ALIVE else None


def test_a_run_that_is_interrupted_before_the_first_answer_has_not_failed() -> None:
    with OnlyGreets() as peer, Program("tools/flood.py", "127.0.0.1", str(peer.port), "--seconds", "1000") as flood:
        poll(lambda: len(peer.received) > 1, complaint="it begins")
        flood.process.send_signal(signal.SIGINT)
        assert flood.status() == 130, flood.text
        assert flood.text.endswith("flood.py: interrupted before the first answer\n")
