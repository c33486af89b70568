"""A command-line client of the store. `python tools/kv.py --help` explains it."""

if __name__ == "__main__":
    from tools.start import start

    start("kv.py", "tools.kv.__main__")

import sys
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
    if given.command == "config":
        if given.action == "set" and given.setting is None:
            return "config set takes a NAME and a VALUE"
        if given.action == "get" and given.setting is not None:
            return "config get takes no VALUE"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the command that these words are; without one, at a terminal, ask for commands."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["complete"]:  # asked by a shell, with words that need not make sense
        from tools.kv.completion import candidates

        cli.say(*candidates(arguments.parser(), words[2:] if words[1:2] == ["--"] else words[1:]))
        return cli.OK
    reads = arguments.parser(words)
    given = reads.parse_args(words)
    try:
        servers = given.server or cli.default_servers()
    except ArgumentTypeError as error:
        cli.complain("kv.py", error)
        return cli.USAGE
    if given.command is None:
        if not cli.is_at_a_terminal():
            reads.error("a COMMAND is needed")
        from tools.kv.prompt import Prompt

        return Prompt(arguments.parser(), lambda line: main([*words, *line]), ",".join(servers))()
    wrong = misuse(given)
    if wrong is not None:
        reads.error(wrong)
    if given.command == "completion":
        from tools.kv.completion import script

        cli.say(*script(given.shell).splitlines())
        return cli.OK
    from tools.kv.execute import execute  # not above: --help and wrong usage need no client

    return execute(given, servers)
