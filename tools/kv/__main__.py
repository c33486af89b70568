"""A command-line client of the store. `python tools/kv.py --help` explains it."""

if __name__ == "__main__":
    from tools.start import start

    start("kv.py", "tools.kv.__main__")

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence

from app.client import Client, KVError
from app.client.retry import OVERLOAD_PATIENCE_S
from tools import cli
from tools.kv import arguments, errors


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
    # One request needs no table of slots.
    slot_aware = given.command == "bench" and not given.plain
    try:
        with Client(
            servers,
            slot_aware=slot_aware,
            timeouts_ms=cli.tries_ms(given.timeout),
            overload_patience_s=min(given.timeout, OVERLOAD_PATIENCE_S),
        ) as client:
            return int(given.run(client, given))
    except KVError as error:
        told = errors.told(error, given, servers)
        if given.json:
            cli.print_json({"error": told.text, "code": told.code})
        cli.complain("kv.py", told.text)
        return told.status
