"""A load generator that checks what it reads. `python tools/flood.py --help` explains it."""

import os
import sys

if __name__ == "__main__":  # started as a script: the repository's packages are a directory further up
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

    from tools.start import start

    start("flood.py", "tools.flood")

import importlib.util
import json
import platform
import random
import shlex
import signal
import time
from argparse import ArgumentTypeError, Namespace
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from tqdm import tqdm

from app.client import KVError
from app.config.numbers import number
from app.version import VERSION
from app.wire.protocol import KEY_MAX_BYTES
from tools import cli
from tools.load import compare, processes, results
from tools.load.faults import Faults, faults_of
from tools.load.keys import LAWS, UNIFORM
from tools.load.lanes import NobodyThere
from tools.load.loop import PROGRESS_S, TARGETS, Progress
from tools.load.plan import OPERATIONS, YCSB, Plan
from tools.load.sizes import sizes_of

# Digits of a key after its prefix.
KEY_DIGITS: Final = 9

# Requests in flight: at once in a closed loop; at most in an open one, where the rate decides how many there are.
CLOSED_CLIENTS: Final = 16
OPEN_CLIENTS: Final = 4096

# The rate shown is that of the last so many times that progress was told: a second.
PROGRESS_SHOWN: Final = round(1 / PROGRESS_S)

DESCRIPTION = """\
Load a node, or a cluster, and check every value that comes back.

  python tools/flood.py                                  the node that KV_SERVER names, else 127.0.0.1:3331
  python tools/flood.py 127.0.0.1 3331 --clients 64 --seconds 30 --value-size 1000 --mix put=10,get=90
  python tools/flood.py 127.0.0.1 3331 --workload b --rate 5000 --warmup 5 --report b.html
  python tools/flood.py -s 10.0.0.1:3331,10.0.0.2:3331 --processes 2 --json result.json
  python tools/flood.py 127.0.0.1 11211 --target memcached --json memcached.json
  python tools/flood.py --compare node.json memcached.json

Closed loop (the default): each of the clients sends its next request when the last one is answered.
Open loop (--rate): requests are sent at fixed times, and latencies count from when a request was due, so that
a stall of the node's shows in full.
A request without an answer is tried again like by the clients in the field (after 150, 450, 1350, 2500 ms, with the
same messageID, at the next server), for as long as --timeout says.
"""

EPILOG = """\
workloads (those of the YCSB; all keys are put first, which is not counted):
  a   50 % GET, 50 % PUT, zipfian keys
  b   95 % GET,  5 % PUT, zipfian keys
  c  100 % GET, zipfian keys
  d   95 % GET,  5 % PUT of a new key; the newest keys are read most

value sizes: 64 (always), 64-4096 (uniform), zipfian:64-4096 (short ones are popular), etc (a cache's in production)

what is counted:
  missing   a key that was put is not there: evicted, which is legal when the store is full (or lost)
  wrong     a value that its key and version can't have: corrupted, cut, or another key's
  stale     a value that a write, acknowledged before the read was sent, has replaced
  latencies run from a request's first try (--rate: from when it was due) to its answer; those without any
  answer are under timeouts. Warm-up and load count only where a value was wrong or stale.

exit status:
  0  no wrong or stale value, and something succeeded
  1  a wrong or stale value, or nothing succeeded
  2  wrong usage, or no node answers
  3  all was right, and a server does not answer any more at the end
  130  interrupted before the first answer

docs/load-testing.md tells more.
"""


_weight: Final = cli.argument(number(int, 0, 1_000_000, what="a weight"))


def mix(text: str) -> dict[int, int]:
    """An argument like put=50,get=50: the weight of each operation."""
    weights: dict[int, int] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in OPERATIONS:
            raise ArgumentTypeError(f"'{name}' is not one of {', '.join(OPERATIONS)}")
        if OPERATIONS[name] in weights:
            raise ArgumentTypeError(f"{name} is there twice")
        weights[OPERATIONS[name]] = _weight(weight)
    if not any(weights.values()):
        raise ArgumentTypeError("a mix needs a weight above 0")
    return weights


def value_size(text: str) -> str:
    """A text that tools/load/sizes.py understands; ValueError."""
    sizes_of(text, random.Random(0))
    return text


def parser() -> cli.Parser:
    main = cli.Parser(prog="flood.py", description=DESCRIPTION, epilog=EPILOG)
    main.add_argument("host", nargs="?", metavar="HOST", help="a node's name or address, in place of -s")
    main.add_argument("port", nargs="?", metavar="PORT", help="its UDP port (default 3331)")
    cli.add_servers(main)
    main.add_argument("--target", choices=TARGETS, default="kv", help="what is there: kv (default), or memcached (UDP)")

    pace = main.add_argument_group("how much")
    pace.add_argument(
        "--clients",
        type=cli.whole_number(1, 100_000),
        metavar="N",
        help=f"requests in flight at once (default {CLOSED_CLIENTS}); with --rate: at most (default {OPEN_CLIENTS})",
    )
    pace.add_argument(
        "--rate",
        type=cli.argument(number(float, 0.01, 1e6, what="a rate", unit="")),
        default=0.0,
        metavar="OPS",
        help="open loop",
    )
    pace.add_argument(
        "--seconds", "--duration", type=cli.seconds(1e-3, 1e6), default=5.0, metavar="S", help="default 5"
    )
    pace.add_argument(
        "--warmup",
        type=cli.seconds(0, 1e6),
        default=0.0,
        metavar="S",
        help="before that, not counted (default 0)",
    )
    pace.add_argument(
        "--operations",
        type=cli.whole_number(1, sys.maxsize),
        default=sys.maxsize,
        metavar="N",
        help="stop after this many operations, if the time is not over before (default: no limit)",
    )
    pace.add_argument(
        "--processes",
        type=cli.whole_number(1, 64),
        default=1,
        metavar="N",
        help="share clients, rate and keys among so many processes (default 1)",
    )

    work = main.add_argument_group("what")
    work.add_argument("--workload", choices=YCSB, help="one of those below, in place of --mix and --key-law")
    work.add_argument(
        "--mix", type=mix, metavar="WEIGHTS", help=f"weights of {', '.join(OPERATIONS)} (default put=50,get=50)"
    )
    work.add_argument(
        "--key-law",
        choices=LAWS,
        help="which keys: uniform (default), zipfian, latest. GET and REMOVE of uniform keys keep to those put before; "
        "for the others all keys are put first",
    )
    work.add_argument("--load", action="store_true", help="put all keys first in any case")
    work.add_argument("--clean", action="store_true", help="remove the keys afterwards; without it they stay")
    work.add_argument(
        "--value-size",
        type=cli.argument(value_size),
        default="64",
        metavar="SIZE",
        help="of the values put (default 64), see below",
    )
    work.add_argument(
        "--keys", type=cli.whole_number(1, 100_000_000), default=10_000, metavar="N", help="how many (default 10000)"
    )
    work.add_argument(
        "--key-prefix",
        type=os.fsencode,
        metavar="TEXT",
        help="what keys begin with (default: random for each run); a second run with the same one reads what "
        "the first has put",
    )
    work.add_argument(
        "--faults",
        type=cli.argument(faults_of),
        default=Faults(),
        metavar="SHARES",
        help="like drop=0.01,dup=0.01,delay=0.05:20ms: what becomes of datagrams, both ways",
    )
    work.add_argument(
        "--seed",
        type=cli.whole_number(0, sys.maxsize),
        metavar="N",
        help="draw the same operations and keys again (default: random)",
    )

    out = main.add_argument_group("what comes of it")
    out.add_argument(
        "--json", metavar="FILE.json", help="write the result as JSON; without a file: print that and nothing else"
    )
    out.add_argument("--report", metavar="FILE.html", help="write the result as a page with plots")
    out.add_argument("--quiet", action="store_true", help="no progress, and one line as the result")
    out.add_argument(
        "--compare", nargs=2, metavar=("A.json", "B.json"), help="print two results side by side; needs no server"
    )
    return main


def with_json_file(argv: Sequence[str]) -> list[str]:
    """`--json` with its file, which is what follows if it ends in .json or is a path, else - (standard output)."""
    words = list(argv)
    for place in range(len(words) - 1, -1, -1):
        after = words[place + 1 : place + 2]
        if words[place] == "--json" and not any(word.endswith((".json", "-")) or "/" in word for word in after):
            words.insert(place + 1, "-")
    return words


def plan_of(arguments: Namespace) -> Plan:
    """The plan that the arguments describe; ArgumentTypeError when they contradict each other."""
    servers = cli.given_servers(arguments)
    prefix = arguments.key_prefix
    if prefix is None:
        prefix = os.urandom(3).hex().encode() + b"-"  # makes keys of 16 bytes
    if len(prefix) > KEY_MAX_BYTES - KEY_DIGITS:
        raise ArgumentTypeError(f"--key-prefix takes {KEY_MAX_BYTES - KEY_DIGITS} bytes at most")
    if arguments.target == "memcached" and any(byte <= 0x20 or byte == 0x7F for byte in prefix):
        raise ArgumentTypeError("memcached's keys have no spaces and no control characters")
    work: dict[str, Any] = {}
    if arguments.workload:
        if arguments.mix or arguments.key_law:
            raise ArgumentTypeError("--workload comes with its own mix and key law")
        work = {"workload": arguments.workload, **YCSB[arguments.workload]._asdict(), "load": True}
    else:
        if arguments.mix:
            work["mix"] = arguments.mix
        work["law"] = arguments.key_law or UNIFORM
        work["load"] = arguments.load or work["law"] != UNIFORM
    clients = arguments.clients or (OPEN_CLIENTS if arguments.rate else CLOSED_CLIENTS)
    for name, amount in (("clients", clients), ("keys", arguments.keys), ("operations", arguments.operations)):
        if amount < arguments.processes:
            raise ArgumentTypeError(f"{arguments.processes} processes can't share {amount} {name}")
    return Plan(
        servers=tuple(servers),
        clean=arguments.clean,
        target=arguments.target,
        clients=clients,
        rate=arguments.rate,
        seconds=arguments.seconds,
        warmup_s=arguments.warmup,
        operations=arguments.operations,
        value_size=arguments.value_size,
        keys=arguments.keys,
        key_prefix=prefix,
        timeouts_ms=cli.tries_ms(arguments.timeout),
        faults=arguments.faults,
        seed=arguments.seed,
        processes=arguments.processes,
        **work,
    )


def check_outputs(arguments: Namespace) -> None:
    """That the result can be written is found out before, not after; ArgumentTypeError."""
    if arguments.report and importlib.util.find_spec("matplotlib") is None:
        raise ArgumentTypeError("--report needs matplotlib (make setup-dev)")
    for path in (arguments.report, arguments.json):
        if path and path != "-":
            if Path(path).is_dir():
                raise ArgumentTypeError(f"{path} is a directory")
            if not (
                Path(path).parent.is_dir() and os.access(path if Path(path).exists() else Path(path).parent, os.W_OK)
            ):
                raise ArgumentTypeError(f"{path} can't be written there")


def progress_on_terminal(plan: Plan) -> tuple[Callable[[Progress], None], Callable[[], None]]:
    """Two functions: one shows progress on stderr, one takes the bar away."""
    bar = tqdm(total=plan.seconds, unit="s", leave=False, bar_format="{desc}{bar}| {n:.0f}/{total:.0f} s{postfix}")
    told: deque[tuple[str, float, int]] = deque(maxlen=PROGRESS_SHOWN + 1)

    def show(now: Progress) -> None:
        clock = bar._time()
        if told and told[-1][0] != now.phase:
            told.clear()
        told.append((now.phase, clock, now.finished))
        _, since, before = told[0]
        rate = (now.finished - before) / (clock - since) if clock > since else 0.0
        bar.set_description_str("" if now.phase == "run" else f"{now.phase}: ", refresh=False)
        bar.set_postfix_str(f"{rate:,.0f} ops/s, p99 {now.p99_us / 1000:.2f} ms, {now.errors} errors", refresh=False)
        bar.n = now.elapsed_s
        bar.refresh()

    return show, bar.close


@contextmanager
def interrupted_once() -> Iterator[None]:
    """The first Ctrl-C ends the run; a second one (timeout(1) sends two) must not take away the result."""

    def interrupt(signal_number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def carry_out(plan: Plan, quiet: bool, command: Sequence[str]) -> dict[str, Any]:
    """Run it; the result. `command`: the arguments, as they were given."""
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(["flood.py", *command]),
        "versions": ", ".join(
            (f"kvcluster {VERSION}", f"Python {platform.python_version()}", f"{platform.system()} {platform.release()}")
        ),
    }
    if quiet or not sys.stderr.isatty():
        outcomes = processes.run(plan, None)
    else:
        show, take_away = progress_on_terminal(plan)
        try:
            outcomes = processes.run(plan, show)
        finally:
            take_away()
    return results.result_of(plan, outcomes) | about | {"servers_gone": processes.silent(plan)}


def publish(result: dict[str, Any], arguments: Namespace) -> None:
    """The result, where it is wanted; OSError. It is printed also when a file can't be written."""
    try:
        if arguments.json and arguments.json != "-":
            cli.write_file(arguments.json, json.dumps(result, indent=2) + "\n")
        if arguments.report:
            from tools.load.report import page_of

            cli.write_file(arguments.report, page_of(result))
    finally:
        if arguments.json == "-":
            cli.print_json(result)
        else:
            cli.say(*([results.line_of(result)] if arguments.quiet else results.text_of(result)))


def verdict(result: dict[str, Any]) -> int:
    """The exit status, and why on stderr."""
    for sample in result["samples"]:
        cli.complain("flood.py", sample)
    bad = result["reads"]["wrong"] + result["reads"]["stale"]
    if bad:
        cli.complain("flood.py", f"{bad} wrong or stale values were read")
        return cli.FAILED
    if result["interrupted"] and not result["codes"]:
        cli.complain("flood.py", "interrupted before the first answer")
        return cli.INTERRUPTED
    if results.succeeded(result) <= 0:
        cli.complain("flood.py", "nothing succeeded")
        return cli.FAILED
    if result["rate_missed"]:
        rates = f"{result['ops_per_s']:,} of {result['rate']:,g} ops/s"
        cli.complain("flood.py", f"THE RATE WAS MISSED: {rates}; what is measured is an overload")
    for name in result["servers_gone"]:
        cli.complain("flood.py", f"{name} does not answer any more")
    return cli.NO_ANSWER if result["servers_gone"] else cli.OK


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(with_json_file(words))
    try:
        if arguments.compare:
            cli.say(*compare.comparison(*arguments.compare))
            return cli.OK
        plan = plan_of(arguments)
        check_outputs(arguments)
        with interrupted_once():
            result = carry_out(plan, arguments.quiet, words)
            publish(result, arguments)
    except (ArgumentTypeError, KVError, NobodyThere, compare.BadResult) as error:
        cli.complain("flood.py", error)
        return cli.USAGE
    except processes.RunFailed as error:
        cli.complain("flood.py", error)
        return cli.FAILED
    except KeyboardInterrupt:
        cli.complain("flood.py", "interrupted before the run began")
        return cli.INTERRUPTED
    return verdict(result)
