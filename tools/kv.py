"""A command-line client of the store. `python tools/kv.py --help` explains it."""

import json
import os
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence

if not __package__:
    import _script_path  # noqa: F401

from app.client import BadServer, Client, KVError, Timeout
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tools import cli, status

NO_ANSWER = 3

DESCRIPTION = """\
Talk to the store from the command line.

  python tools/kv.py put greeting 'hello, world'       store a value
  python tools/kv.py get greeting                      print it, byte for byte, with no newline added
  python tools/kv.py put page - < page.html            the value from standard input
  python tools/kv.py -s 10.0.0.7:3331 ping             is that node alive?
  python tools/kv.py -s 10.0.0.7:3331 status           the cluster as that node sees it
"""

EPILOG = """\
servers:
  -s takes one node or several, separated by commas: host:port, or [::1]:port for IPv6. Any node answers
  for the whole store; with several, the next one is tried when one does not answer. Without -s, the
  environment variable KV_SERVER is used, else 127.0.0.1:3331.

limits:
  a key has 1 to 32 bytes, a value 0 to 10,000, a version is a signed 32-bit number.

exit status:
  0  done (get: the key was there)
  1  the node refused: key not found, key or value invalid, store full, overloaded, ...
  2  wrong usage
  3  no answer: no node at that address, or none that answers within 6.5 s
"""


def parser() -> cli.Parser:
    main = cli.Parser(prog="kv.py", description=DESCRIPTION, epilog=EPILOG)
    main.add_argument("-s", "--server", type=cli.servers, metavar="HOST:PORT[,...]", help="the node or nodes to ask")
    commands = main.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")

    def command(name: str, summary: str) -> cli.Parser:
        added = commands.add_parser(name, help=summary, description=summary)
        assert isinstance(added, cli.Parser)
        return added

    get = command("get", "print the value stored under KEY")
    get.add_argument("key", type=os.fsencode, metavar="KEY")
    get.add_argument("-v", "--show-version", action="store_true", help="print the version too, on stderr")
    put = command("put", "store VALUE under KEY")
    put.add_argument("key", type=os.fsencode, metavar="KEY")
    put.add_argument("value", type=os.fsencode, metavar="VALUE", help="the value; - reads standard input")
    put.add_argument(
        "--version",
        type=cli.whole_number(-(2**31), 2**31 - 1),
        default=0,
        metavar="N",
        help="a number to keep with the value (default 0)",
    )
    remove = command("remove", "take KEY out of the store")
    remove.add_argument("key", type=os.fsencode, metavar="KEY")
    command("ping", "ask the node whether it is alive, and say how long the answer took")
    command("pid", "print the node's process id")
    command("members", "print how many live members the node sees")
    shown = command("status", "print the cluster as the node sees it: members, who holds how many slots, its lease")
    shown.add_argument("--json", action="store_true", help="as the node says it, for programs")
    command("wipe", "drop every key that the node is primary for (asks each of the servers given)")
    command("shutdown", "make the node exit at once, without handing anything over (one server only)")
    return main


def run(client: Client, arguments: Namespace) -> None:
    """Carry out the command; what goes wrong is raised as the client raises it."""
    command = arguments.command
    if command == "get":
        value, version = client.get(arguments.key)
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        if arguments.show_version:
            print(f"version {version}", file=sys.stderr)
    elif command == "put":
        value = arguments.value
        if value == b"-":
            # One byte past what a datagram takes is enough to be refused.
            value = sys.stdin.buffer.read(DATAGRAM_MAX_BYTES + 1)
        client.put(arguments.key, value, arguments.version)
    elif command == "remove":
        client.remove(arguments.key)
    elif command == "ping":
        for server in client.servers:
            started = time.perf_counter()
            client.ping(server.name)
            print(f"{server.name} answers in {(time.perf_counter() - started) * 1000:.1f} ms")
    elif command == "pid":
        print(client.get_pid())
    elif command == "members":
        print(client.membership_count())
    elif command == "status":
        known = client.status()
        print(json.dumps(known, indent=2) if arguments.json else status.table(known))
    elif command == "wipe":
        for server in client.servers:
            client.wipeout(server.name)
    else:
        assert command == "shutdown", f"{command} has no code"
        client.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        servers = arguments.server or cli.servers(cli.default_server())
    except ArgumentTypeError as error:
        cli.complain("kv.py", f"KV_SERVER: {error}")
        return cli.USAGE
    if arguments.command == "shutdown" and len(servers) > 1:
        cli.complain("kv.py", "shutdown is for one server at a time")
        return cli.USAGE
    try:
        with Client(servers, give_up_when_refused=True) as client:
            run(client, arguments)
    except BadServer as error:
        cli.complain("kv.py", error)
        return cli.USAGE
    except Timeout as error:
        cli.complain("kv.py", error)
        return NO_ANSWER
    except KVError as error:
        cli.complain("kv.py", error)
        return cli.FAILED
    except BrokenPipeError:
        # Whoever was reading has seen enough; say nothing more, not even while the interpreter closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return cli.FAILED
    except KeyboardInterrupt:
        return 130
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
