"""The frame that all tools run in: whatever happens to a tool is a line and a status, never a traceback."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer, drop
from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import DEADLINE_S, poll
from tests.support.programs import Program
from tests.support.terminal import at_a_terminal, is_harmless
from tools import cli

SCRIPTS = {name: [f"tools/{name}"] for name in ("kv.py", "flood.py", "testclient.py", "cluster.py", "demo.py")}
MODULES = {name: ["-m", name] for name in (f"tools.bench.{part}" for part in ("client", "handler", "memory", "suite"))}
TOOLS = SCRIPTS | MODULES


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which "$@" is our Python with these arguments."""
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        peer.store[b"key"] = (b"value", 3)
        yield peer


def commands(peer: Peer) -> dict[str, list[str]]:
    """Something of each kind that prints."""
    node = ["127.0.0.1", str(peer.port)]
    commands = {f"{tool} --help": [*TOOLS[tool], "--help"] for tool in ("kv.py", "tools.bench.client")}
    commands["kv.py get"] = ["tools/kv.py", "-s", peer.name, "get", "key"]
    commands["kv.py get --json"] = ["tools/kv.py", "-s", peer.name, "get", "key", "--json"]
    commands["kv.py pid"] = ["tools/kv.py", "-s", peer.name, "pid"]
    commands["flood.py"] = ["tools/flood.py", *node, "--operations", "20"]
    commands["flood.py --json"] = ["tools/flood.py", *node, "--operations", "20", "--json"]
    commands["testclient.py"] = ["tools/testclient.py", *node]
    return commands


NAMES = list(commands(Peer()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("redirected", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor"), (">&- 2>/dev/full", None)],
)
def test_output_that_cannot_be_written_is_a_line_and_status_1(
    peer: Peer, name: str, redirected: str, why: str | None
) -> None:
    done = shell(f'"$@" {redirected}', *commands(peer)[name])
    tool = name.partition(" ")[0]
    expected = f"{tool}: can't write to standard output: {why}\n" if why else ""
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_that_leaves_is_no_complaint(peer: Peer, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *commands(peer)[name]],
        cwd=REPOSITORY,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_prints_nothing_needs_no_standard_output(peer: Peer) -> None:
    for redirected in (">/dev/full", ">&-", "<&- >&- 2>&-"):
        done = shell(f'"$@" {redirected}', "tools/kv.py", "-s", peer.name, "put", "new", "value")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
def test_a_complaint_that_nobody_can_read_is_not_part_of_the_result(peer: Peer, redirected: str) -> None:
    done = shell(f'"$@" {redirected}', "tools/kv.py", "-s", peer.name, "get", "missing")
    assert (done.returncode, done.stdout) == (1, "")
    done = shell(f'"$@" {redirected}', "tools/kv.py", "-s", peer.name, "get", "-v", "key")
    assert (done.returncode, done.stdout) == (0, "value")


def test_input_that_is_not_there_is_a_line(peer: Peer) -> None:
    done = shell('"$@" <&-', "tools/kv.py", "-s", peer.name, "put", "new", "-")
    assert (done.returncode, done.stderr) == (2, "kv.py: standard input: Bad file descriptor\n")


# Which are made of the client and the standard library.
NEED_NO_PACKAGE = ("kv.py", "cluster.py", "demo.py", "tools.bench.client", "tools.bench.suite")


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in NEED_NO_PACKAGE])
def test_a_missing_package_is_a_line_and_status_2(tool: str) -> None:
    done = shell('"$@"', "-S", *TOOLS[tool])  # without site-packages
    assert re.fullmatch(
        rf"{tool}: the package with '(google|gevent|tqdm)' is missing: `make setup-dev`, then \.venv/bin/python\n",
        done.stderr,
    ), done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("tool", NEED_NO_PACKAGE)
def test_a_tool_that_needs_no_package_explains_itself_without_any(tool: str) -> None:
    done = shell('"$@"', "-S", *TOOLS[tool], "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_kv_works_without_any_package(peer: Peer) -> None:
    done = shell('"$@"', "-S", "tools/kv.py", "-s", peer.name, "get", "key")
    assert (done.returncode, done.stdout, done.stderr) == (0, "value", "")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_python_that_is_too_old_is_a_line_and_status_2(tool: str) -> None:
    run = "run_module(" if TOOLS[tool][0] == "-m" else "run_path("
    program = f"import runpy, sys; sys.version_info = (3, 10, 4); runpy.{run}{TOOLS[tool][-1]!r}, run_name='__main__')"
    done = shell('"$@"', "-c", program)
    assert (done.returncode, done.stderr) == (2, f"{tool}: this is Python 3.10; 3.11 or newer is needed\n")


def test_a_module_of_ours_that_is_missing_is_a_fault() -> None:
    program = "from tools.start import start\nstart('x', 'tools.none')"
    done = shell('"$@"', "-c", program)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'tools.none'\n")


def test_a_network_that_refuses_is_a_line(peer: Peer) -> None:
    """Linux lets nobody send to the broadcast address who has not asked for that."""
    nowhere = ("255.255.255.255", "9")
    for arguments, status in (
        (["tools/flood.py", *nowhere], 2),
        (["tools/testclient.py", *nowhere], 2),
        (["tools/kv.py", "-s", ":".join(nowhere), "wait-ready", "--timeout", "0"], 3),
    ):
        done = shell('"$@"', *arguments)
        assert done.returncode == status
        assert "255.255.255.255:9" in done.stderr
        assert "Permission denied" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["bench"], ["wait-ready"], ["get", "key"], ["wipe", "--yes"]], ids=lambda arguments: arguments[0]
)
def test_ctrl_c_is_status_130_without_a_word(arguments: list[str]) -> None:
    with Peer([drop] * 1000) as silent, Program("tools/kv.py", "-s", silent.name, *arguments) as program:
        poll(lambda: silent.received, complaint="it is at work")
        program.process.send_signal(signal.SIGINT)
        assert program.status() == 130
        assert "Traceback" not in program.text, program.text
        assert [line for line in program.text.splitlines() if not line.startswith("kv.py: waiting: ")] == []


@pytest.mark.parametrize(
    ("module", "status"),
    [("argparse", -signal.SIGINT), ("early", 130)],  # a part of the frame, and the tool itself
)
def test_ctrl_c_while_it_is_still_being_imported(tmp_path: Path, module: str, status: int) -> None:
    (tmp_path / f"{module}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    program = f"import sys\nsys.path.insert(1, {str(tmp_path)!r})\nfrom tools.start import start\nstart('x', 'early')"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, b"")


def test_what_runs_in_the_background_goes_on_ignoring_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\ndef main(): return 7\n")
    program = f"import sys\nsys.path.insert(1, {str(tmp_path)!r})\nfrom tools.start import start\nstart('x', 'early')"
    done = shell("trap '' INT; \"$@\"", "-c", program)
    assert (done.returncode, done.stderr) == (7, "")


EVIL = "\x1b[2J\u202e\x9b31m\x7f"


@pytest.mark.parametrize("tool", TOOLS)
def test_no_argument_comes_back_as_it_was(tool: str) -> None:
    status, text = at_a_terminal([*TOOLS[tool], f"--{EVIL}"])
    assert status == 2
    assert is_harmless(text), repr(text)
    assert text.startswith(f"{tool}: ")
    assert text.count("\n") == 1


def test_what_a_comparison_reads_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / f"{EVIL}.json"
    for content in ("", "[]", "[" * 100_000, '{"format": 2}', '{"format": 2, "ops_per_s": "x", "latency": []}'):
        path.write_text(content)
        status, text = at_a_terminal(["tools/flood.py", "--compare", str(path), str(path)])
        assert status == 2, content
        assert is_harmless(text), repr(text)
        assert text.count("\n") == 1, text
        status, text = at_a_terminal(["-m", "tools.bench.compare", str(path), str(path)])
        assert status == 2, content
        assert is_harmless(text), repr(text)
        assert text.count("\n") == 1, text


class Evil(Peer):
    """Says of itself what a terminal would act on, and knows no command."""

    def execute(self, request: KVRequest) -> KVResponse:
        answer = super().execute(request)
        answer.value = EVIL.encode()
        return answer


def test_no_values_seen_by_checks_move_the_cursor() -> None:
    with Evil() as evil:
        status, text = at_a_terminal(["tools/testclient.py", "127.0.0.1", str(evil.port), "-q"])
        assert status == 1
        assert is_harmless(text), repr(text)
        status, text = at_a_terminal(
            ["tools/flood.py", "127.0.0.1", str(evil.port), "--operations", "50", "--key-prefix", EVIL, "--quiet"]
        )
        assert is_harmless(text), repr(text)


def test_only_the_frame_prints() -> None:
    """What does not go by it could send a terminal anything, and end in a traceback."""
    found = []
    for path in sorted((REPOSITORY / "tools").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{path.name} prints")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr", "sys.stdin"):
                found.append(f"{path.name} uses {ast.unparse(node)}")
    assert {line for line in found if not line.startswith("cli.py ")} <= {
        "build_fast.py uses sys.stderr",  # flushed, before compilers' output is kept from them
        "build_fast.py uses sys.stdout",
        "cluster.py uses sys.stdin",  # whether it is a terminal
        "flood.py uses sys.stderr",
        "start.py prints",  # where a Python is too old to import the frame
        "start.py uses sys.stderr",
    }


@pytest.mark.parametrize(("columns", "width"), [("100", 98), ("0", 78), ("", 78), ("wide", 78)])
def test_help_is_as_wide_as_the_terminal(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    parser = cli.Parser(prog="tool")
    parser.add_argument("--option", help="word " * 100)
    lines = [line for line in parser.format_help().splitlines() if line.endswith("word")]
    assert width - 5 < max(map(len, lines)) <= width
