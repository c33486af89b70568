"""The functional test client: is this node what the protocol says? `--help` explains it."""

import os
import sys

if __name__ == "__main__":  # started as a script: the repository's packages are a directory further up
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

    from tools.start import start

    start("testclient.py", "tools.testclient")

from argparse import ArgumentTypeError
from collections.abc import Sequence

from app.client import Client, KVError
from tools import cli
from tools.checks import DESTRUCTIVE_GROUPS, GROUPS, NodeGone, Suite

# What finding out whether there is a node at all may take (s): the field's first tries, not all of them.
GREETING_S = 1.95

DESCRIPTION = """\
Check a running node against the protocol: every command and error code, limits, versions, at-most-once,
and what it makes of broken datagrams. One line a check, PASS or FAIL, with what was expected and seen.

  python tools/testclient.py                     the node that KV_SERVER names, else 127.0.0.1:3331
  python tools/testclient.py -s 10.0.0.7:3331    another one; or 10.0.0.7 3331

Safe to run against a store in use: it works on random keys of its own and removes them. Takes a few
seconds.
"""

EPILOG = """\
exit status:
  0  every check passed
  1  at least one failed, or the node stopped answering
  2  wrong usage, or no node answers at that address
"""


def parser() -> cli.Parser:
    main = cli.Parser(prog="testclient.py", description=DESCRIPTION, epilog=EPILOG)
    main.add_argument("host", nargs="?", metavar="HOST", help="the node's name or address, in place of -s")
    main.add_argument("port", nargs="?", metavar="PORT", help="its UDP port (default 3331)")
    cli.add_servers(main)
    main.add_argument("-q", "--quiet", action="store_true", help="print only what fails, and the summary")
    main.add_argument(
        "--destructive",
        action="store_true",
        help="check WIPEOUT and SHUTDOWN too: the node's data is lost, and it is gone afterwards",
    )
    return main


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        (server,) = cli.given_servers(arguments, most=1)
        with Client([server], timeouts_ms=cli.tries_ms(min(arguments.timeout, GREETING_S))) as client:
            client.ping()
        suite = Suite(server, arguments.quiet, cli.tries_ms(arguments.timeout))
    except (ArgumentTypeError, KVError) as error:
        cli.complain("testclient.py", error)
        return cli.USAGE
    gone: NodeGone | None = None
    try:
        for group in GROUPS + (DESTRUCTIVE_GROUPS if arguments.destructive else ()):
            group(suite)
    except (NodeGone, ConnectionRefusedError) as error:
        gone = error if isinstance(error, NodeGone) else NodeGone(f"{server}: connection refused")
    except KeyboardInterrupt:
        gone = NodeGone("interrupted")
    finally:
        suite.close()
    if gone is not None:
        cli.say(f"FAIL  stopped early: expected a node that answers; seen {gone}")
    total = suite.passed + suite.failed
    cli.say(f"{suite.passed} of {total} checks passed, {suite.failed} failed" + (", stopped early" if gone else ""))
    return cli.OK if suite.failed == 0 and gone is None else cli.FAILED
