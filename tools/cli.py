"""What the command-line tools have in common: the frame that they run in, exit statuses, what they print, and arguments
that are read alike.

`run` is the frame. What can happen to any tool is dealt with there, in a line and with a status of its own: Ctrl-C,
whoever reads our output leaving, a full disk, a package that is not installed, a file or network that the system
refuses. A tool's `main` deals with what only it knows about. So this module imports nothing that has to be installed.

Everything that a tool prints goes through `say`, `complain`, `print_json` and `write_value`. They keep from a terminal
what it would act on, and make a line a line, wherever the text comes from (app/printable.py).
"""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NoReturn, TypeVar

from app.config.numbers import PORT_MAX, number
from app.printable import printable
from app.version import VERSION
from app.wire.protocol import CLIENT_TIMEOUTS_MS, SERVERS_MAX

_Parsed = TypeVar("_Parsed")

OK: Final = 0
FAILED: Final = 1  # the work was done, and the outcome is bad; or it could not be told
USAGE: Final = 2  # the work was not begun: wrong arguments, or nobody there to work with
NO_ANSWER: Final = 3  # kv.py: nobody answers; flood.py: a server does not any more
NOT_READY: Final = 4  # kv.py: the cluster is not whole in time
INTERRUPTED: Final = 130  # by Ctrl-C, before there was anything to tell; shells use it for that

DEFAULT_PORT: Final = 3331
DEFAULT_SERVER: Final = f"127.0.0.1:{DEFAULT_PORT}"

# How long an answer is waited for (s), when nobody says: as long as the clients in the field do.
ANSWER_S: Final = sum(CLIENT_TIMEOUTS_MS) / 1000

# A word that argparse takes for a number, not for an option.
_NEGATIVE: Final = re.compile(r"-\d+|-\d*\.\d+")


# The frame.


class OutputLost(Exception):
    """What was to be printed can't be: its reader is gone, the disk is full, or there is no standard output."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"can't write to standard output: {error.strerror}")
        self.is_unread = isinstance(error, BrokenPipeError)  # `| head` has seen enough: nothing to complain about


def run(tool: str, module: str) -> int:
    """Import the module, call its `main`, and see to it that all it has printed is written; the exit status.

    `tool`: what complaints begin with. See tools/start.py.
    """
    _open_standard_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = status_of(tool, lambda: importlib.import_module(module).main())
    return max(status, status_of(tool, _flush))


def status_of(tool: str, work: Callable[[], int | None]) -> int:
    """The exit status of some work, whatever ends it; what is wrong is told in a line. None counts as OK."""
    try:
        try:
            return work() or OK
        except SystemExit as leaving:  # argparse, when it has said what there is to say
            return leaving.code if isinstance(leaving.code, int) else OK
    except OutputLost as lost:
        if not lost.is_unread:
            complain(tool, lost)
        # Nothing more is said, not even while the interpreter closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break the end
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if _is_ours(error.name):
            raise
        complain(tool, f"the package with {error.name!r} is missing: `make setup-dev`, then .venv/bin/python")
        return USAGE
    except OSError as error:
        complain(tool, what_the_system_says(error))
        return USAGE


def what_the_system_says(error: OSError) -> str:
    """An OSError in words, after the file's name if it is about one."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if isinstance(error.filename, str) else text


def _is_ours(module: str | None) -> bool:
    return module is None or module.partition(".")[0] in ("app", "proto_gen", "tools", "kvcluster")


def _open_standard_streams() -> None:
    """Have all three, whatever we were started with, and print what their encoding lacks as escapes.

    One that was closed (`>&-`) refuses to be read or written, as the system has it: Python itself would print nothing
    without a word, say its complaints on stdout, and give the descriptor to the first socket. Where a closed one's
    number is still free it is the lowest that is, so each gets its own.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_WRONLY))  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_WRONLY), "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


# What is printed.


def is_at_a_terminal() -> bool:
    """Whether a person can type here and see what comes of it."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(*lines: object, flush: bool = False) -> None:
    """Lines for a person, on stdout. OutputLost."""
    _write("".join(f"{printable(str(line))}\n" for line in lines))
    if flush:
        _flush()


def remark(line: str) -> None:
    """One line for a person beside the result, on stderr; if that can't be written, nobody is told."""
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def complain(tool: str, message: object) -> None:
    """What is wrong, in one line."""
    remark(f"{tool}: {message}")


def ask(question: str) -> str:
    """What a person types in answer to a question on stderr, without white space around it."""
    print(printable(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def read_line(prompt: str) -> str:
    """A line that a person types after this prompt, edited by readline if that is imported. EOFError at the end."""
    return input(printable(prompt))


def print_json(content: object, *, is_line: bool = False) -> None:
    """A result for a program, on stdout: ASCII. `is_line`: one of several, in a line, and at once. OutputLost."""
    import json  # not above: most commands print none

    _write(json.dumps(content, indent=None if is_line else 2) + "\n")
    if is_line:
        _flush()


def show_page(lines: Iterable[object]) -> None:
    """Lines for a person in place of those shown before, on a terminal; elsewhere below them, after an empty one."""
    _write("\x1b[H\x1b[J" if sys.stdout.isatty() else "\n")
    say(*lines, flush=True)


def write_value(value: bytes) -> None:
    """A value on stdout: into a pipe or a file byte by byte and nothing else; on a terminal as text, with escapes for
    what it would act on, and with a line's end. OutputLost."""
    if sys.stdout.isatty():
        text = printable(value.decode("utf-8", "surrogateescape"), keep="\n\t")
        _write(text if text.endswith("\n") else text + "\n")
        return
    _flush()
    try:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputLost(error) from error


def write_file(path: str, text: str) -> None:
    """A text into a file, in place of what is there. OSError that names the file, also when the disk is full."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except OSError as error:
        raise OutputLost(error) from error


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputLost(error) from error


def read_input(path: str | None, max_bytes: int) -> bytes:
    """So many bytes at most of a file, or of standard input (None). OSError, with a name to tell it by."""
    if path is not None:
        with open(path, "rb") as file:
            return file.read(max_bytes)
    try:
        return sys.stdin.buffer.read(max_bytes)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard input") from None


# Arguments.


class _Help(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each argument, and asks shutil how wide it is to be, whose import takes 2 ms."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"width": _columns() - 2} | settings)


def _columns() -> int:
    """Of the terminal; as shutil.get_terminal_size has it."""
    try:
        return int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, with status 2, keeps the layout of its help, and knows
    --version."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **settings)
        if " " not in self.prog:  # not of a command of kv.py's: there it is the value's
            version = f"{self.prog} {VERSION}"
            self.add_argument("--version", action="version", version=version, help="print that and leave")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, but options may stand anywhere: else one between two positional arguments would end them."""
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is not None:
            return super().parse_known_args(words, namespace)
        options, others = self.sorted_out(words)
        known, unknown = super().parse_known_args([*options, "--", *others] if others else options, namespace)
        for word in unknown:
            hint = _did_you_mean(word, list(self._option_string_actions)) if word.startswith("--") else ""
            self.error(f"unrecognized argument: {word}{hint}")
        return known, unknown

    def sorted_out(self, words: Iterable[str]) -> tuple[list[str], list[str]]:
        """Of these words the options with their arguments, and the others."""
        options: list[str] = []
        others: list[str] = []
        left = iter(words)
        for word in left:
            if word == "--":
                others += left
            elif word == "-" or not word.startswith("-") or _NEGATIVE.fullmatch(word):
                others.append(word)
            else:
                options.append(word)
                action = self._option_string_actions.get(word)
                wanted = 0 if action is None else 1 if action.nargs is None else action.nargs
                assert isinstance(wanted, int), f"{word} takes {wanted} arguments"
                options += islice(left, wanted)
        return options, others

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As usual, but it names what is most like it, and else all in few words."""
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{_did_you_mean(str(value), names)}")

    def error(self, message: str) -> NoReturn:
        complain(self.prog.partition(" ")[0], f"{message} (--help tells more)")
        raise SystemExit(USAGE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """What --help and --version print; complaints go by `error`."""
        _write(message)


def _nearest(word: str, known: Sequence[str], alike: float) -> list[str]:
    """The two at most that are most like it, and more than so much (0 to 1)."""
    from difflib import get_close_matches  # not above: takes a few ms

    return get_close_matches(word, known, 2, alike)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    """The words that are most like it, or all that there are, in a phrase that follows it."""
    near = _nearest(word, known, 0.66)
    return f"; did you mean {' or '.join(near)}?" if near else f" (choose from {', '.join(known)})"


def add_servers(to: argparse.ArgumentParser, server: object = None, timeout: object = ANSWER_S) -> None:
    """-s and --timeout, alike for all tools. `server`, `timeout`: the defaults; a timeout of None: without that one."""
    to.add_argument(
        "-s",
        "--server",
        "--servers",
        dest="server",
        type=servers,
        default=server,
        metavar="HOST[:PORT],...",
        help=f"the node or nodes to ask (default: KV_SERVER, else {DEFAULT_SERVER})",
    )
    if timeout is not None:
        to.add_argument(
            "--timeout",
            type=seconds(0.001, 86_400),
            default=timeout,
            metavar="S",
            help=f"how long to wait for an answer (default {ANSWER_S:g})",
        )


def default_servers() -> list[str]:
    """Those to use when none is named: KV_SERVER from the environment, else the one of a plain `make run`.

    argparse.ArgumentTypeError that names the variable. One that is nearly called so is not used, and that is told.
    """
    named = os.environ.get("KV_SERVER")
    if not named:
        for variable in os.environ:
            if variable.startswith("KV_") and _nearest(variable, ["KV_SERVER"], 0.8):
                remark(f"{variable} means nothing here: was KV_SERVER meant?")
    try:
        return servers(named or DEFAULT_SERVER)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"KV_SERVER: {error}") from None


def given_servers(given: argparse.Namespace, most: int = SERVERS_MAX) -> list[str]:
    """The servers that the arguments name: HOST and PORT (`given.host`, `given.port`) or -s, else KV_SERVER.

    argparse.ArgumentTypeError when they contradict each other, or are more than `most`.
    """
    if given.host is not None and given.server is not None:
        raise argparse.ArgumentTypeError("give HOST [PORT] or -s, not both")
    named = given.server or ([join_host_port(given.host, given.port)] if given.host is not None else default_servers())
    if len(named) > most:
        raise argparse.ArgumentTypeError(f"{len(named)} servers are given; {most} at most")
    return named


def server(text: str) -> str:
    """An argument that is HOST or HOST:PORT, as "host:port"."""
    name = text.strip()
    if name and (":" not in name or (name.startswith("[") and name.endswith("]"))):
        name = f"{name}:{DEFAULT_PORT}"
    return server_name(name)


def server_name(text: str) -> str:
    """An argument that is HOST:PORT: a server as its cluster calls it."""
    from app.client import BadServer  # not above: needs what has to be installed
    from app.client.address import split_host_port

    name = text.strip()
    try:
        split_host_port(name)
    except BadServer as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def servers(text: str) -> list[str]:
    """An argument that is HOST[:PORT][,HOST[:PORT]...]."""
    return [server(part) for part in text.split(",")]


def join_host_port(host: str, port: str | None) -> str:
    """ "host:port" of two arguments; an IPv6 address may come with its brackets or without."""
    host = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    return server(host if port is None else f"{host}:{port}")


def tries_ms(timeout_s: float) -> tuple[int, ...]:
    """How long each try is waited for (ms), as the clients in the field do it, but for so long altogether."""
    tries: list[int] = []
    left_ms = max(1, round(timeout_s * 1000))
    for wait_ms in CLIENT_TIMEOUTS_MS[:-1]:
        if left_ms <= wait_ms:
            break
        tries.append(wait_ms)
        left_ms -= wait_ms
    return (*tries, left_ms)


def argument(parse: Callable[[str], _Parsed]) -> Callable[[str], _Parsed]:
    """The type of an argument that a parser of app.config's reads: one line that quotes it, where argparse has two."""

    def read(text: str) -> _Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' {error}") from None

    return read


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `low` to `high`, both included."""
    return argument(number(int, low, high))


def seconds(low: float, high: float) -> Callable[[str], float]:
    """The type of an argument that is so many seconds, fractions too."""
    return argument(number(float, low, high, what="a number of seconds"))


port: Final = argument(number(int, 1, PORT_MAX, what="a port: a number"))
