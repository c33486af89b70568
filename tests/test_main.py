"""The frame: options in, exit status out, from any directory and with any standard error."""

import os
import signal
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

import app
from app.config import options
from app.config.options import Options
from app.config.usage import UsageError
from app.main import main
from app.observe import logs
from tests.support.nodes import cluster
from tests.support.polling import poll
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parent.parent
SCRIPT = str(REPOSITORY / "app" / "main.py")
SERVERS = str(REPOSITORY / "servers.txt")


@pytest.fixture
def started_with(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """A stand-in for the node that stops at once with status 7, and the options it was run with."""
    runs: list[Options] = []

    def run(given: Options, start_http: object) -> int:
        runs.append(given)
        return 7

    put_in_place(monkeypatch, run)
    return runs


def put_in_place(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    process = types.ModuleType("app.process")
    process.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "app.process", process)
    monkeypatch.setattr(app, "process", process, raising=False)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    # Or main would replace this process, pytest, by a new one, in which stop signals are blocked.
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


def test_the_node_runs_with_the_options_and_its_status_is_the_processs(started_with: list[Options]) -> None:
    assert main(["3331", SERVERS, "--policy", "noeviction"]) == 7
    (given,) = started_with
    assert (given.port, given.policy, str(given.me)) == (3331, "noeviction", "127.0.0.1:3331")


def test_the_environment_counts(started_with: list[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_MAX_IN_FLIGHT", "9")
    assert main(["3331", SERVERS]) == 7
    assert started_with[0].max_in_flight == 9


def test_the_log_is_set_up_before_the_node_runs(started_with: list[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(logs, "configure", lambda *given: seen.append((*given, len(started_with))))
    main(["3331", SERVERS, "--log-level", "debug", "--log-format", "json"])
    assert seen == [("debug", "json", 0)]


def test_a_usage_error_is_one_line_and_status_2(started_with: list[Options], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["3331", SERVERS, "--policy", "x"]) == 2
    output = capfd.readouterr()
    assert output.err == "kv: --policy 'x': isn't one of allkeys-lru, noeviction\n"
    assert output.out == ""
    assert not started_with


def test_a_usage_error_of_the_node_is_told_alike(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(_: Options, start_http: object) -> int:
        raise UsageError("port 3331 is\ntaken")

    put_in_place(monkeypatch, run)
    assert main(["3331", SERVERS]) == 2
    assert capfd.readouterr().err == "kv: port 3331 is taken\n"


def run_script(arguments: Sequence[str], **given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **given,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("how", [[SCRIPT], ["-P", SCRIPT], [os.path.relpath(SCRIPT, REPOSITORY)], ["-m", "app.main"]])
def test_both_ways_to_start(how: list[str]) -> None:
    done = run_script([*how, "--help"], cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python app/main.py PORT SERVERS_FILE [options]\n")


def test_the_script_starts_from_any_directory(tmp_path: Path) -> None:
    done = run_script([SCRIPT, "1", SERVERS], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kv: no server in ")


def test_usage_errors_need_no_gevent() -> None:
    program = (
        "import sys\n"
        "from app.main import main\n"
        "status = main(['x'])\n"
        "sys.exit(f'{status} {\"gevent\" in sys.modules}')\n"
    )
    done = run_script(["-c", program], cwd=REPOSITORY)
    assert done.stderr.splitlines()[-1] == "2 False"


def test_a_missing_package_is_a_usage_error() -> None:
    done = run_script(["-S", SCRIPT, "3331", SERVERS], cwd=REPOSITORY)  # without site-packages
    assert done.stderr == "kv: the package with 'gevent' is missing: pip install -r requirements.lock\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["3331", "a\x1b[31m\u202e"],
        ["\x1b[31m", SERVERS],
        ["3331", SERVERS, "\x1b[31m\udcff"],
        ["3331", SERVERS, "--\x9b31m"],
        ["3331", SERVERS, "--bind", "\x1b[31m\r\n\x85"],
        ["1", "{file}"],
        ["2", "{file}"],
    ],
)
def test_no_argument_and_no_line_of_a_file_reaches_the_terminal_unescaped(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "s\x1b[31m\n\u202e"
    path.write_text("127.0.0.1:1 x\n" if arguments[0] == "2" else "127.0.0.1:9\n")
    done = run_script([SCRIPT, *(word.format(file=path) for word in arguments)], cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith("kv: ")
    assert done.stderr.removesuffix("\n").isprintable(), repr(done.stderr)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_standard_stream_changes_no_status(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$1" 3331 no-such-file {closed}', sys.executable, SCRIPT],
        timeout=30,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == 2


def test_the_scripts_own_directory_is_not_on_the_path() -> None:
    """`import wire` must not find app/wire, nor `import options` app/config/options.py."""
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{SCRIPT!r}, 'x']\n"
        f"sys.path[0] = {os.path.dirname(SCRIPT)!r}\n"
        "try:\n"
        f"    runpy.run_path({SCRIPT!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(sys.path[0] == {str(REPOSITORY)!r}, {os.path.dirname(SCRIPT)!r} in sys.path)\n"
    )
    done = run_script(["-c", program], cwd="/")
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_before_the_node_runs_leaves_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    """While it still reads its options: here from a servers file that never comes."""
    fifo = tmp_path / "servers.txt"
    os.mkfifo(fifo)
    with subprocess.Popen([sys.executable, SCRIPT, "3331", str(fifo)], stderr=subprocess.PIPE) as process:
        with fifo.open("wb"):  # returns once the script has opened it for reading, its handlers in place
            process.send_signal(number)
            assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_other_signals_end_no_node_neither_early_nor_late(tmp_path: Path) -> None:
    """A supervisor's reload, a terminal that is closed, and the question for counters may come at any time."""
    fifo = tmp_path / "servers.txt"
    os.mkfifo(fifo)
    port = free_port()
    with subprocess.Popen([sys.executable, SCRIPT, str(port), str(fifo)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        with fifo.open("wb") as servers:  # as above
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGHUP)
            servers.write(b"127.0.0.1:%d\n" % port)
        assert any(b" node.started " in line for line in process.stderr)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert any(b" node.counters " in line for line in process.stderr)
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_a_misspelt_variable_is_warned_about(tmp_path: Path) -> None:
    with cluster(tmp_path, 1, environment={"KV_POLCY": "noeviction"}) as (node,):
        node.start()
        poll(node.serves)
        assert " WARNING node.unknown_variable name=KV_POLCY nearest=KV_POLICY\n" in node.log


def test_the_repositorys_options_fit_its_servers_file() -> None:
    assert options.parse(["3331", SERVERS], {}).me.port == 3331


@pytest.mark.parametrize("seed", ["0", "4711"])
@pytest.mark.parametrize("allocator", [{}, {"PYTHONMALLOC": "malloc"}])
def test_where_a_nodes_tables_have_a_key_is_not_for_the_environment_to_say(
    tmp_path: Path, seed: str, allocator: dict[str, str]
) -> None:
    """With a seed that is known, anybody could choose keys and messageIDs that meet in one place."""
    with cluster(tmp_path, 1, environment={"PYTHONHASHSEED": seed, **allocator}) as (node,):
        node.start()
        poll(node.serves)
        environment = Path(f"/proc/{node.process.pid}/environ").read_bytes().split(b"\0")
        assert [variable for variable in environment if variable.startswith(b"PYTHONHASHSEED")] == []
        assert b"PYTHONMALLOC=malloc" in environment
