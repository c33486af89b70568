"""A command-line client of the store. `python tools/kv.py --help` explains it."""

if __name__ == "__main__":
    from tools.start import start

    start("kv.py", "tools.kv.__main__")

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence

from tools import cli
from tools.kv import arguments


def misuse(given: Namespace) -> str | None:
    """What is wrong with arguments that are right each by itself."""
    if given.command == "shutdown" and len(given.server or ()) != 1:
        return "shutdown is for one server at a time, named by -s"
    if given.command == "found":
        if not given.force:
            return "found takes --force: read `kv.py found --help` for its price"
        if len(given.server or ()) != 1:
            return "found is for one server, named by -s"
    if given.command == "put" and (given.value is None) == (given.file is None):
        return "put takes either a VALUE or --file"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    reads = arguments.parser()
    given = reads.parse_args(argv)
    wrong = misuse(given)
    if wrong is not None:
        reads.error(wrong)
    try:
        servers = given.server or cli.default_servers()
    except ArgumentTypeError as error:
        cli.complain("kv.py", error)
        return cli.USAGE
    from tools.kv.execute import execute  # not above: --help and wrong usage need no client

    return execute(given, servers)
