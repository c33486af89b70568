"""How a node is started: the command line, the manual that --help prints, and the error that says what is wrong."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from app.config.secret import SECRET_MIN_BYTES
from app.config.setting import Setting
from app.version import VERSION


class UsageError(Exception):
    """The node can't start as it was told to: one line that says what is wrong and how to mend it."""


# Options that are no more, and what to do instead.
GONE: Final = {
    "--on-partition": "is no more: a side with too few servers always refuses. Leave it out; what an operator can do"
    " about it is in docs/operations.md",
}


def words(arguments: Sequence[str], settings: Mapping[str, Setting]) -> argparse.Namespace:
    """What was typed for each setting (by its field), `port` and `servers_file`: text, or None.

    Raises UsageError; --help and --version print that and raise SystemExit(0).
    """
    parser = _parser(settings)
    given, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            continue
        option = argument.partition("=")[0]
        if option in GONE:
            raise UsageError(f"{option} {GONE[option]}")
        close = difflib.get_close_matches(option, [setting.option for setting in settings.values()], 1)
        raise UsageError(f"unknown option {option!r} ({f'is {close[0]} meant?' if close else 'see --help'})")
    if rest and given.servers_file is None:  # argparse leaves out what may be missing, if an option stands before it
        given.servers_file = rest.pop(0)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r} (see --help)")
    return given


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


# What --help says before the options, and after them.
_DESCRIPTION: Final = """\
One node of a distributed key-value store that keeps everything in memory, and
that memory within a bound. Clients reach any node by UDP on PORT."""

_AFTER_OPTIONS: Final = f"""\
Environment:
  Each option is also an environment variable, named with it above. The command
  line has precedence over it; an empty variable counts as unset.

  KV_CLUSTER_SECRET, or KV_CLUSTER_SECRET_FILE with the name of a file that
  holds it: a secret that all nodes share and prove to each other, random, of
  {SECRET_MIN_BYTES} bytes or more (head -c 24 /dev/urandom | base64). Without one, nodes
  believe whatever comes from the addresses in the servers file, so their
  network must be trusted. Not to be had on the command line, where every user
  of the machine could read it.

  KV_FAST: whether the compiled core is used, which answers a request in about
  half the time. Unset: where it was built. off: never, so that the Python does
  all of it, and the same. on: the node does not start without it.

  PYTHONHASHSEED is not heeded: whoever knew it could choose keys that make
  every request slow.

Servers file:
  One HOST:PORT or [IPV6]:PORT a line, the same file on every node; # starts a
  comment. One line makes a cluster of one. A name's address is looked up at
  start, and again when its server can't be reached; a name that has none is
  that of a server which is not there yet.

Signals:
  TERM, INT   hand the slots over to the other nodes, then stop
  USR1        write all counters to the log
  HUP         read SERVERS_FILE again: lines that were added are servers from
              now on, in the same cluster; and KV_CLUSTER_SECRET_FILE: a new
              secret is taken besides the old one, at the next HUP used, at the
              third alone; and the files that --etcd-... name. A file with a
              fault changes nothing.

Exit status:
  0   stopped as told: by a signal, or by a client's SHUTDOWN
  2   not started: the one line on standard error says why
  Any other is a fault, told in the last lines on standard error.

Examples:
  python app/main.py 3331 servers.txt
  python app/main.py 3331 servers.txt --max-memory 1GiB --policy noeviction
  KV_LOG_FORMAT=json python app/main.py 3332 servers.txt --bind 192.0.2.7
"""


def _parser(settings: Mapping[str, Setting]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python app/main.py",
        usage="%(prog)s PORT SERVERS_FILE [options]\n       "
        "%(prog)s PORT [SERVERS_FILE] --join HOST:PORT,... [options]",
        description=_DESCRIPTION,
        epilog=_AFTER_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation would change its meaning when an option is added
        add_help=False,
    )
    required = parser.add_argument_group("Arguments")
    required.add_argument("port", metavar="PORT", help="UDP port to serve on; TCP between nodes")
    required.add_argument(
        "servers_file", metavar="SERVERS_FILE", nargs="?", help="the cluster's nodes, this one included"
    )
    groups: dict[str, Any] = {}
    for name, setting in settings.items():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        groups[setting.group].add_argument(
            setting.option,
            dest=name,
            metavar=setting.metavar,
            help=f"{setting.help} Default: {setting.default_words}. [{setting.variable}]".replace("%", "%%"),
        )
    about = parser.add_argument_group("Help")
    about.add_argument("-h", "--help", action="help", help="print this and leave")
    about.add_argument("--version", action="version", version=f"kv-node {VERSION}", help="print that and leave")
    return parser
