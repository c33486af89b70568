"""kv.py without a command: a prompt; and what TAB completes there, and in people's shells."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.client.peer import Peer
from tests.support.nodes import REPOSITORY, environment, run_python
from tests.support.terminal import at_a_terminal, is_harmless
from tools import cli
from tools.kv.arguments import parser
from tools.kv.completion import SCRIPTS, candidates
from tools.kv.prompt import Prompt


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["add-server", "bench", "completion"]),
        (["st"], ["stats", "status"]),
        (["-s", "a:1", "ge"], ["get"]),
        (["--ti"], ["--timeout"]),
        (["put", "key", "--v"], ["--version"]),
        (["top", "--sort", "me"], ["memory"]),
        (["top", "--interval", ""], []),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["completion", "bash", ""], []),
        (["config", ""], ["get", "set"]),
        (["config", "set", "--json", "-s", "a:1", "l"], ["log-level"]),
        (["config", "set", "slow-ms", ""], []),
        (["help", "ge"], ["get"]),
        (["-s", "get", "pi"], ["pid", "ping"]),
        (["get", ""], []),
        (["status", "--nonsense", "-"], ["--help", "--json", "--server"]),
    ],
)
def test_what_a_word_can_become(words: list[str], found: list[str]) -> None:
    assert candidates(parser(), words)[:3] == found[:3]


def test_the_shells_that_a_script_is_printed_for() -> None:
    assert candidates(parser(), ["completion", ""]) == sorted(SCRIPTS)
    for shell in SCRIPTS:
        done = run_python("tools/kv.py", "completion", shell)
        assert done.returncode == 0
        assert f"{REPOSITORY / 'tools' / 'kv.py'} complete --" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes() -> None:
    ask = 'source <("$1" tools/kv.py completion bash); COMP_WORDS=(kv top --sort me); COMP_CWORD=3; _kv_complete; '
    done = subprocess.run(
        ["bash", "-c", f'{ask} echo "${{COMPREPLY[@]}}"', "bash", sys.executable],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("memory\n", "")


def typed(peer: Peer, home: Path, *lines: str) -> tuple[int, str]:
    """What a terminal shows, and the status at the end."""
    text = "".join(f"{line}\n" for line in lines).encode()
    program = f"import os, runpy, sys; os.environ.update(HOME={str(home)!r}, TERM='dumb'); "
    program += f"sys.argv = ['kv.py', '-s', {peer.name!r}]; runpy.run_path('tools/kv.py', run_name='__main__')"
    return at_a_terminal(["-c", program], text)


def test_lines_are_commands(tmp_path: Path) -> None:
    with Peer() as peer:
        status, text = typed(peer, tmp_path, "put a 'hello, world' --version 3", "get a -v", "", "get none", "exit")
        assert status == 1, "the last command's"
        assert peer.store == {b"a": (b"hello, world", 3)}
    for told in (f"{peer.name}> ", "\nhello, world\r\nversion 3\r\n", "kv.py: no such key: none\r\n"):
        assert told in text, text
    history = tmp_path / ".kv_history"
    assert history.read_text().splitlines()[-2:] == ["get none", "exit"]
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_mistake_does_not_end_it(tmp_path: Path) -> None:
    with Peer() as peer:
        status, text = typed(peer, tmp_path, "gte a", "get 'a", "help gte", "help", "help put", "exit")
    assert status == 0
    for told in ("did you mean get?", "kv.py: no closing quotation", "Talk to the store", "Store a value under KEY."):
        assert told in text, text
    assert text.count("did you mean get?") == 2, "also for help"
    assert "explains one.\r\nA TAB completes" in text, "lines are lines"


def test_ctrl_c_ends_a_line_or_a_command_and_not_the_prompt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person does, in order: a line that is given up, a command that is ended, another one, Ctrl-D."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = iter([KeyboardInterrupt(), "bench", "pid", EOFError()])
    ran: list[Sequence[str]] = []

    def read_line(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    def run(words: Sequence[str]) -> int:
        ran.append(words)
        if words == ["bench"]:
            signal.raise_signal(signal.SIGINT)
        return 7

    monkeypatch.setattr(cli, "read_line", read_line)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert Prompt(parser(), run, "a:1")() == 7
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "for the next line"
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ran == [["bench"], ["pid"]]
    assert "exit, quit or Ctrl-D" in capsys.readouterr().out


def test_without_a_terminal_a_command_is_needed() -> None:
    done = run_python("tools/kv.py", KV_SERVER="127.0.0.1:1")
    assert (done.returncode, done.stderr) == (2, "kv.py: a COMMAND is needed (--help tells more)\n")
    assert os.linesep == "\n"
    assert is_harmless(done.stderr.removesuffix("\n"))
