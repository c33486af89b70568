"""What the command-line tools have in common: exit statuses, one-line errors, and arguments that are read
alike.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

from app.client import BadServer
from app.client.address import split_host_port
from app.config.numbers import number
from app.config.servers import PORT_MAX

_Parsed = TypeVar("_Parsed")

OK: Final = 0
FAILED: Final = 1  # the work was done, and the outcome is bad
USAGE: Final = 2  # the work was not begun: wrong arguments, or nobody there to work with
NO_ANSWER: Final = 3  # kv.py: nobody answers
NOT_READY: Final = 4  # kv.py: the cluster is not whole in time
INTERRUPTED: Final = 130  # by Ctrl-C, before there was anything to tell; shells use it for that

DEFAULT_SERVER: Final = "127.0.0.1:3331"


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, with status 2, and keeps the layout of its help."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (--help tells more)\n")


def complain(tool: str, message: object) -> None:
    """One line for a person, on stderr."""
    print(f"{tool}: {message}", file=sys.stderr)


def print_json(content: object) -> None:
    """A result for a program, on stdout."""
    print(json.dumps(content, indent=2))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Whoever reads our standard output may have seen enough (`| head`): the block ends then, without a complaint."""
    try:
        yield
    except BrokenPipeError:
        # Nothing more is said, not even while the interpreter closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def default_server() -> str:
    """The server to use when none is named: KV_SERVER from the environment, else the one of a plain `make
    run`.
    """
    return os.environ.get("KV_SERVER") or DEFAULT_SERVER


def server(text: str) -> str:
    """An argument that is host:port."""
    try:
        split_host_port(text)
    except BadServer as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.strip()


def servers(text: str) -> list[str]:
    """An argument that is host:port[,host:port...]."""
    return [server(part) for part in text.split(",")]


def join_host_port(host: str, port: str) -> str:
    """ "host:port" of two arguments; an IPv6 address may come with its brackets or without."""
    return server(f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}")


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
