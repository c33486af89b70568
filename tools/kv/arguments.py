"""The arguments of the command-line client: what its commands are called, take, and say of themselves.

What the commands do is imported when one is carried out: what they need takes longer to import than to read all this.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from app.wire.protocol import SERVERS_MAX, VALUE_MAX_BYTES
from tools import cli

DESCRIPTION = """\
Talk to the store from the command line.

  python tools/kv.py put greeting 'hello, world'       store a value
  python tools/kv.py get greeting                      print it
  python tools/kv.py -s 10.0.0.7:3331 status           the cluster as that node sees it
  python tools/kv.py put --help                        examples and options of one command
  python tools/kv.py                                   a prompt for all of these, at a terminal
"""

EPILOG = """\
servers:
  -s takes one node or several, separated by commas: HOST, HOST:PORT, or [::1]:PORT for IPv6; without a port
  it is 3331. Any node answers for the whole store; with several, the next one is tried when one does not
  answer. Without -s, the environment variable KV_SERVER is used, else 127.0.0.1:3331. -s, --timeout and
  --json may stand anywhere; what begins with - and is no option follows a --.

limits:
  a key has 1 to 32 bytes, a value 0 to 10,000, a version is a signed 32-bit number.

exit status:
  0  done (get: the key was there)
  1  the node refused: key not found, key or value invalid, store full, overloaded, ...; or the output can't be written
  2  wrong usage
  3  no answer: no node at that address, or none that answers within --timeout
  4  wait-ready, add-server, remove-server: nodes answer, and it is not so in time
  130  interrupted
"""

# What members can be sorted by (tools/kv/vitals.py).
HEADINGS: Final = (
    *("ops/s", "get/s", "put/s", "remove/s", "hits", "memory", "entries", "evicted", "refused", "dropped", "up"),
)


class _Unread(cli.Parser):
    """In place of a command that is not among the words to be read: it takes nothing, and no time to make."""

    def __init__(self, **settings: object) -> None:
        pass

    def add_argument(self, *names: object, **settings: object) -> argparse.Action:
        return argparse.Action((), "")

    def set_defaults(self, **values: object) -> None:
        pass

    def _check_help(self, action: argparse.Action) -> None:
        """Python 3.14 would have it look at the text that it is listed with."""


def parser(words: Sequence[str] | None = None) -> cli.Parser:
    """For all command lines; or for one of these words, which is made sooner: all commands take 3 ms."""
    main = cli.Parser(prog="kv.py", description=DESCRIPTION, epilog=EPILOG)
    cli.add_servers(main)
    main.add_argument("--json", action="store_true", help="print JSON, for programs")
    # With `prog`, argparse needs not format a usage to get at it, which takes 3 ms.
    added_to = main.add_subparsers(prog=main.prog, dest="command", metavar="COMMAND", title="commands")

    def command(
        name: str, run: str, summary: str, more: str, *, aliases: Sequence[str] = (), has_timeout: bool = False
    ) -> cli.Parser:
        """`run`: a module of tools/kv and its function. `has_timeout`: it has a --timeout of its own."""
        description = summary[0].upper() + summary[1:] + "."
        is_asked = words is None or not {name, *aliases}.isdisjoint(words)
        added_to._parser_class = cli.Parser if is_asked else _Unread
        added = added_to.add_parser(name, aliases=aliases, help=summary, description=description, epilog=more)
        assert isinstance(added, cli.Parser)
        added.set_defaults(run=run, command=name)
        # Without defaults: they would undo what main has read.
        cli.add_servers(added, argparse.SUPPRESS, None if has_timeout else argparse.SUPPRESS)
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs")
        return added

    _add_store(command)
    explained = _add_nodes(command)
    explained.add_argument("about", nargs="?", choices=list(added_to.choices), metavar="COMMAND", help="which one")
    return main


def _add_store(command: Callable[..., cli.Parser]) -> None:
    get = command(
        "get",
        "commands.run_get",
        "print the value stored under KEY",
        """\
examples:
  python tools/kv.py get page > page.html       byte for byte: nothing is added
  python tools/kv.py get page                   on a terminal: control characters and the like as escapes
                                                (\\x1b), and a newline at the end
  python tools/kv.py get -v page                the version, too, on standard error
  python tools/kv.py get page --json            {"key": ..., "key_encoding": "utf-8", "value": ...,
                                                "encoding": "utf-8", "version": 0}; encodings are
                                                "base64" for keys and values that are not UTF-8 text
""",
    )
    get.add_argument("key", type=os.fsencode, metavar="KEY")
    get.add_argument("-v", "--show-version", action="store_true", help="print the version too, on stderr")
    put = command(
        "put",
        "commands.run_put",
        "store a value under KEY",
        """\
examples:
  python tools/kv.py put greeting 'hello, world'
  python tools/kv.py put page --file page.html          the value from a file
  date | python tools/kv.py put now -                   the value from standard input
  python tools/kv.py put counter 17 --version 3         with a number of yours, which get returns
""",
        aliases=("set",),
    )
    put.add_argument("key", type=os.fsencode, metavar="KEY")
    put.add_argument("value", type=os.fsencode, nargs="?", metavar="VALUE", help="the value; - reads standard input")
    put.add_argument("-f", "--file", metavar="PATH", help="take the value from this file")
    put.add_argument(
        "--version",
        type=cli.whole_number(-(2**31), 2**31 - 1),
        default=0,
        metavar="N",
        help="a number to keep with the value (default 0)",
    )
    remove = command(
        "remove",
        "commands.run_remove",
        "take KEY out of the store",
        """\
examples:
  python tools/kv.py remove greeting            status 1 if it was not there
""",
        aliases=("del", "delete", "rm"),
    )
    remove.add_argument("key", type=os.fsencode, metavar="KEY")
    measured = command(
        "bench",
        "bench.run",
        "measure put and get for a few seconds, with this client, on keys of its own",
        """\
A closed loop: the next call leaves when the last one has been answered. So the rate is what one client
gets, not what the cluster can do (tools/flood.py measures that). Latencies are those of a call, retries
and waits included; with --batch, of a whole put_many or get_many. The values read are compared with those
written; a wrong one is status 1. The keys are removed at the end.

examples:
  python tools/kv.py bench                              one request at a time, straight to the primaries
  python tools/kv.py bench --batch 100                  100 keys a call, many requests in flight
  python tools/kv.py bench --plain                      through whichever node is asked first
""",
    )
    measured.add_argument(
        "--seconds", type=cli.whole_number(1, 300), default=5, metavar="S", help="for all of it (default 5)"
    )
    measured.add_argument("--batch", type=cli.whole_number(1, 10_000), default=1, metavar="N", help="keys a call")
    measured.add_argument(
        "--value-size",
        type=cli.whole_number(0, VALUE_MAX_BYTES),
        default=64,
        metavar="BYTES",
        help="of each value (default 64)",
    )
    measured.add_argument(
        "--keys", type=cli.whole_number(1, 1_000_000), default=1000, metavar="N", help="different keys (default 1000)"
    )
    measured.add_argument("--plain", action="store_true", help="do not send straight to each key's primary")


def _add_nodes(command: Callable[..., cli.Parser]) -> cli.Parser:
    """The rest; the one that explains commands, which is to be told which there are."""
    command(
        "ping",
        "commands.run_ping",
        "ask each node given whether it is alive, and say how long the answer took",
        """\
examples:
  python tools/kv.py ping -s 10.0.0.7:3331,10.0.0.8:3331        status 3 unless all of them answer
""",
    )
    command(
        "pid",
        "commands.run_pid",
        "print the node's process id",
        "examples:\n  python tools/kv.py pid -s 10.0.0.7:3331\n",
    )
    state = command(
        "status",
        "commands.run_status",
        "say whether the cluster is whole, as the node sees it, and if not, what is missing",
        """\
examples:
  python tools/kv.py status                     whole: 5 of 5 servers, 3 copies each
  python tools/kv.py status -v                  the view, its lease, who holds how many slots
  python tools/kv.py status --json              as the node says it: docs/protocol.md, STATUS
""",
    )
    state.add_argument("-v", "--verbose", action="store_true", help="all that the node tells")
    info = command(
        "info",
        "vitals.run_info",
        "print a node's memory, entries, hit rate, evictions, requests and rates",
        """\
Rates are those of the --interval; everything else is counted since the node's start. An operation counts where
it is executed, so the members' figures add up.

examples:
  python tools/kv.py info                       the node that is asked
  python tools/kv.py info --all                 every member, and all of them together
""",
        aliases=("stats",),
    )
    info.add_argument("-a", "--all", action="store_true", help="ask every member, and add them up")
    top = command(
        "top",
        "vitals.run_top",
        "show what every member does, again and again",
        """\
examples:
  python tools/kv.py top                        until Ctrl-C
  python tools/kv.py top --sort memory --interval 5
  python tools/kv.py top --count 1              once
  python tools/kv.py top --json                 an object a line
""",
    )
    top.add_argument("--sort", choices=HEADINGS, default="ops/s", help="the members with the most first")
    top.add_argument(
        "--count", type=cli.whole_number(1, sys.maxsize), metavar="N", help="so many times (default: no end)"
    )
    for looking in (info, top):
        looking.add_argument(
            "--interval", type=cli.seconds(0.1, 3600), default=1.0, metavar="S", help="between two looks (default 1)"
        )
    command(
        "slowlog",
        "commands.run_slowlog",
        "print the slow requests that the node remembers, newest first",
        """\
A node keeps the last ones that took --slow-ms (an option of the node) or more: docs/monitoring.md.

examples:
  python tools/kv.py slowlog -s 10.0.0.7:3331
""",
    )
    members = command(
        "members",
        "commands.run_members",
        "print one line for each member: its state, and of how many slots it is primary, backup and learner",
        """\
examples:
  python tools/kv.py members
  python tools/kv.py members --count            only how many live members the node sees
""",
        aliases=("ls",),
    )
    members.add_argument("--count", action="store_true", help="print only the number of live members")
    servers = command(
        "servers",
        "servers.run_servers",
        "say which servers belong to the cluster, which are absent, and to how many nodes each is known",
        """\
Every member is asked at its own address: each node goes by its servers file as it has last read it. After a
line was added and read (kill -HUP), start the new server when all nodes know it. Once servers were added by a
command, it says which ones are founders.

examples:
  python tools/kv.py servers
  python tools/kv.py servers --json

exit status: 1 if a server is not known to all, 3 if nobody answers
""",
    )
    adding = command(
        "add-server",
        "servers.run_add_server",
        "have a server belong to the cluster that is in no servers file of its nodes",
        """\
From the first one on the cluster lists its servers itself, and the file's servers are its founders: half of
them must be up for it to go on (docs/cluster.md). Start the new server with --join, or, without a cluster
secret, with a file of the founders' lines and its own. It is taken in once no server that belongs is silent.
The coordinator makes the change; -s may name any nodes.

examples:
  python tools/kv.py add-server 10.0.0.9:3331

exit status: 1 if it is declined, 4 if it is not done in time, 3 if nobody answers
""",
        has_timeout=True,
    )
    removing = command(
        "remove-server",
        "servers.run_remove_server",
        "have a server hand over what it holds, end, and belong to the cluster no more",
        """\
It is declined where the last copy of something would be lost, and where too few founders would be left (see
add-server). A founder that was removed still counts among them. Any number may be asked for at once.

examples:
  python tools/kv.py remove-server 10.0.0.9:3331
  python tools/kv.py remove-server 10.0.0.9:3331 --force        at once, whatever is lost by that

exit status: 1 if it is declined, 4 if it is not done in time, 3 if nobody answers
""",
        has_timeout=True,
    )
    removing.add_argument("--force", action="store_true", help="do not wait until others have what it holds")
    for changing in (adding, removing):
        changing.add_argument("target", type=cli.server_name, metavar="HOST:PORT", help="its name: as others reach it")
        changing.add_argument(
            "--timeout", type=cli.whole_number(0, 86_400), default=60, metavar="S", help="seconds to wait (default 60)"
        )
    ready = command(
        "wait-ready",
        "cluster.run_wait_ready",
        "wait until the cluster is whole: every slot open for reads and writes, with all its copies",
        """\
All members that the nodes know of are asked, each at its own address, and all must agree: every slot is
where it is wanted and open, every member up and linked to all others in both directions. This is the "safe
to go on" of a rolling restart. Copies are missing if there are fewer than --replicas of the nodes, or than
servers in their file; a server that is down but whose copies have another place is not waited for: say with
--members how many there must be. What is missing is told on standard error, by the nodes' own words.

examples:
  python tools/kv.py wait-ready --members 5 --timeout 60        then restart the next node
  python tools/kv.py wait-ready --timeout 0                     look once

exit status: 4 if it is not whole in time, 3 if nobody answers, 2 for wrong usage
""",
        has_timeout=True,
    )
    ready.add_argument(
        "--timeout", type=cli.whole_number(0, 86_400), default=60, metavar="S", help="seconds to wait (default 60)"
    )
    ready.add_argument(
        "--members", type=cli.whole_number(1, SERVERS_MAX), default=1, metavar="N", help="and this many members"
    )
    wipe = command(
        "wipe",
        "cluster.run_wipe",
        "drop every key of the store, on all nodes",
        """\
A node drops the keys it is primary for; so every member is asked, with a request of its own.

examples:
  python tools/kv.py wipe                       asks before it does it
  python tools/kv.py wipe --yes                 does not

exit status: 3 if a node did not answer (its keys may be there still), 1 if one refused, or if slots moved meanwhile
""",
    )
    wipe.add_argument("--yes", action="store_true", help="do not ask")
    for asks_all in (servers, ready, wipe, top):
        asks_all.add_argument(
            "--given-only",
            action="store_true",
            help="ask only the servers given by -s: where the members' own addresses can't be reached",
        )
    found = command(
        "found",
        "commands.run_found",
        "have one node found a cluster with fewer servers than one needs, or go on with them",
        """\
For when too few servers are left, for good or for long: a cluster is founded by more than half of the
servers file and goes on with half of it, else its nodes refuse requests. The node that is asked makes a
new cluster of those that it hears; they keep what they hold.

The price: what only the others hold is gone, and they drop it when they come back. If they do live, cut
off, and serve, there are two clusters until they meet; then the one with fewer members drops everything,
what it has acknowledged included. So make sure that the others are down. Ask a node that still has the
data (`kv.py status` shows members and their copies), not one that was just restarted.

examples:
  python tools/kv.py found --force -s 10.0.0.7:3331

exit status: 1 if the node declines, since its cluster goes on or another node is to be asked
""",
    )
    found.add_argument("--force", action="store_true", help="needed: this gives up what the other servers hold")
    command(
        "shutdown",
        "commands.run_shutdown",
        "make one node exit at once, without handing anything over",
        """\
It stands for a crash. To stop a node properly, send it SIGTERM: it hands its slots over first.

examples:
  python tools/kv.py shutdown -s 10.0.0.7:3331          -s is needed: there is no default for this
""",
    )
    config = command(
        "config",
        "commands.run_config",
        "print or change what a node logs and what it takes for slow, while it runs",
        """\
Each node given is asked; --admin-allow says who may. A change lasts until the node is started again: then its
options hold.

examples:
  python tools/kv.py config get
  python tools/kv.py config get slow-ms
  python tools/kv.py config set slow-ms 20              what takes 20 ms is kept for `slowlog`; 0: nothing is
  python tools/kv.py config set log-level debug         or info, warning, error
""",
    )
    config.add_argument("action", choices=("get", "set"), help="print, or change")
    config.add_argument(
        "name", nargs="?", choices=("log-level", "slow-ms"), metavar="NAME", help="log-level or slow-ms"
    )
    config.add_argument("setting", nargs="?", metavar="VALUE", help="as the node's option is written")
    explained = command(
        "help",
        "",
        "explain a COMMAND",
        """\
examples:
  python tools/kv.py help put                   the same as put --help
  python tools/kv.py help                       the same as --help
""",
    )
    shells = command(
        "completion",
        "",
        "print what has a shell complete kv's commands and options with TAB",
        """\
It completes `kv` and `kv.py`: alias kv="python tools/kv.py".

examples:
  python tools/kv.py completion bash >> ~/.bashrc
  source <(python tools/kv.py completion bash)          for this shell only
""",
    )
    shells.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    return explained
