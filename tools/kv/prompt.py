"""`kv.py` without a command, at a terminal: commands line by line, with history and completion by readline.

A line is carried out as if it had been given to kv.py itself, with the options that kv.py was given. The history is
kept in a file that only its owner can read, since values are in it.
"""

import os
import shlex
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tools import cli
from tools.kv.completion import candidates

HISTORY_MAX: Final = 1000  # lines

HELP: Final = """\
Commands are those of kv.py: get, put, remove, status, info, top, ... `help` lists them, `help get` explains one.
A TAB completes, the arrow keys go through former lines; exit, quit or Ctrl-D end it."""


class Prompt:
    """Reads and carries out lines until there are no more."""

    def __init__(self, parser: cli.Parser, run: Callable[[Sequence[str]], int], name: str) -> None:
        """`run`: carries out one command, given its words; an exit status. `name`: what stands before each line."""
        self._parser = parser
        self._run = run
        self._name = name

    def __call__(self) -> int:
        """The exit status of the last command."""
        readline, history = self._readline()
        cli.say(*HELP.splitlines(), flush=True)
        status = cli.OK
        try:
            while True:
                try:
                    line = cli.read_line(f"{self._name}> ")
                except KeyboardInterrupt:
                    cli.say("")
                    continue
                except EOFError:
                    cli.say("")
                    return status
                words = self._words(line)
                if words and words[0] in ("exit", "quit"):
                    return status
                if words:
                    status = self._carry_out(words)
        finally:
            if readline is not None:
                _save(readline, history)

    def _words(self, line: str) -> list[str]:
        try:
            return shlex.split(line)
        except ValueError as error:  # a quote that is not closed
            cli.complain("kv.py", str(error).lower())
            return []

    def _carry_out(self, words: Sequence[str]) -> int:
        status = cli.status_of("kv.py", lambda: self._run(words))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C has ended a command, not this
        return status

    def _readline(self) -> tuple[Any, Path]:
        """The module, made ready, and where the history is; None where Python has none: then lines are plainly read."""
        history = Path.home() / ".kv_history"
        try:
            import readline
        except ImportError:
            return None, history
        with suppress(OSError):
            readline.read_history_file(history)
        readline.set_history_length(HISTORY_MAX)
        readline.set_completer_delims(" \t\n")
        readline.set_completer(lambda text, number: self._complete(readline.get_line_buffer(), text, number))
        readline.parse_and_bind("tab: complete")
        return readline, history

    def _complete(self, line: str, text: str, number: int) -> str | None:
        """The candidate of that number for the word `text`, which is the last of `line`."""
        before = line[: len(line) - len(text)].split()
        found = candidates(self._parser, [*before, text])
        if not before and "exit".startswith(text):
            found.append("exit")
        return f"{found[number]} " if number < len(found) else None


def _save(readline: Any, history: Path) -> None:
    with suppress(OSError):
        os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
        readline.write_history_file(history)
