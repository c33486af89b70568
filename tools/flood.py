"""A load generator that checks what it reads. `python tools/flood.py --help` explains it."""

import json
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence

if not __package__:
    import _script_path  # noqa: F401

from hdrh.histogram import HdrHistogram
from tqdm import tqdm

from app.client import Client, KVError
from app.wire.protocol import KEY_MAX_BYTES, VALUE_MAX_BYTES
from tools import cli
from tools.loadgen import OPERATION_NAMES, OPERATIONS, Flood, Plan, Tally, code_name

# The longest latency the histogram takes (µs): beyond any schedule of retries and overload waits.
LATENCY_MAX_US = 60_000_000
LATENCY_DIGITS = 3

# Digits of a key after its prefix.
KEY_DIGITS = 9

# What finding out whether there is a node at all may take (ms).
GREETING_TIMEOUTS_MS = (150, 450, 1350)

DESCRIPTION = """\
Load a node, or a cluster, and check every value that comes back.

  python tools/flood.py 127.0.0.1 3331
  python tools/flood.py 127.0.0.1 3331 --clients 64 --seconds 30 --value-size 1000 --mix put=10,get=90
  python tools/flood.py --servers 10.0.0.1:3331,10.0.0.2:3331 --json > result.json

A closed loop: each of the clients sends its next request when the last one is answered, and tries again
like the clients in the field (after 150, 450, 1350, 2500 ms, with the same messageID, at the next server).
GET and REMOVE choose among the keys that the client has put before.
"""

EPILOG = """\
what is counted:
  missing   a key that was put is not there: evicted, which is legal when the store is full (or lost)
  wrong     a value that its key and version can't have: corrupted, cut, or another key's
  stale     a value that an acknowledged later write has replaced
  latencies run from a request's first try to its answer; those without any answer are under timeouts

exit status:
  0  no wrong or stale value, and something succeeded
  1  a wrong or stale value, or nothing succeeded
  2  wrong usage, or no node answers
"""


def mix(text: str) -> dict[int, int]:
    """An argument like put=50,get=50: the weight of each operation."""
    weights: dict[int, int] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in OPERATIONS:
            raise ArgumentTypeError(f"'{name}' is not one of {', '.join(OPERATIONS)}")
        if not (weight.isascii() and weight.isdigit()):
            raise ArgumentTypeError(f"'{part}' is not like {name}=50")
        if OPERATIONS[name] in weights:
            raise ArgumentTypeError(f"{name} is there twice")
        weights[OPERATIONS[name]] = int(weight)
    if not any(weights.values()):
        raise ArgumentTypeError("a mix needs a weight above 0")
    return weights


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is not a number of seconds") from None
    if not 0 < value <= 1e6:
        raise ArgumentTypeError(f"{text} seconds are not between 0 and a million")
    return value


def parser() -> cli.Parser:
    main = cli.Parser(prog="flood.py", description=DESCRIPTION, epilog=EPILOG)
    main.add_argument("host", nargs="?", metavar="HOST", help="a node's name or address")
    main.add_argument("port", nargs="?", metavar="PORT", help="its UDP port")
    main.add_argument(
        "--servers", type=cli.servers, metavar="HOST:PORT,...", help="several nodes, in place of HOST PORT"
    )
    main.add_argument(
        "--clients",
        type=cli.whole_number(1, 100_000),
        default=16,
        metavar="N",
        help="requests in flight at once (default 16)",
    )
    main.add_argument("--seconds", type=seconds, default=5.0, metavar="S", help="how long (default 5)")
    main.add_argument(
        "--operations",
        type=cli.whole_number(1, sys.maxsize),
        default=sys.maxsize,
        metavar="N",
        help="stop after this many operations, if the time is not over before (default: no limit)",
    )
    main.add_argument(
        "--value-size",
        type=cli.whole_number(0, VALUE_MAX_BYTES),
        default=64,
        metavar="BYTES",
        help="length of the values put (default 64)",
    )
    main.add_argument(
        "--mix",
        type=mix,
        default="put=50,get=50",
        metavar="WEIGHTS",
        help="weights of put, get, remove and alive (default put=50,get=50)",
    )
    main.add_argument(
        "--keys",
        type=cli.whole_number(1, 100_000_000),
        default=10_000,
        metavar="N",
        help="how many keys, shared out among the clients (default 10000)",
    )
    main.add_argument(
        "--key-prefix",
        type=os.fsencode,
        metavar="TEXT",
        help="what keys begin with (default: random for each run); a second run with the same one reads what "
        "the first has put",
    )
    main.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="draw the same operations and keys again (default: random)",
    )
    main.add_argument("--json", action="store_true", help="print the result as JSON")
    return main


def plan_of(arguments: Namespace) -> Plan:
    """The plan that the arguments describe; ArgumentTypeError when they contradict each other."""
    if arguments.servers and arguments.host:
        raise ArgumentTypeError("give HOST PORT or --servers, not both")
    if not arguments.servers and not (arguments.host and arguments.port):
        raise ArgumentTypeError("give a node, as HOST PORT, or several with --servers")
    servers = arguments.servers or [cli.join_host_port(arguments.host, arguments.port)]
    prefix = arguments.key_prefix
    if prefix is None:
        prefix = os.urandom(3).hex().encode() + b"-"  # makes keys of 16 bytes
    if len(prefix) > KEY_MAX_BYTES - KEY_DIGITS:
        raise ArgumentTypeError(f"--key-prefix takes {KEY_MAX_BYTES - KEY_DIGITS} bytes at most")
    return Plan(
        servers=tuple(servers),
        clients=arguments.clients,
        seconds=arguments.seconds,
        operations=arguments.operations,
        value_size=arguments.value_size,
        mix=arguments.mix,
        keys=arguments.keys,
        key_prefix=prefix,
        seed=arguments.seed,
    )


# The result.


def latency_summary(counts: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Count, percentiles and maximum (ms) of (latency in µs, how many) pairs, of which none is needed."""
    histogram = HdrHistogram(1, LATENCY_MAX_US, LATENCY_DIGITS)
    longest = 0
    for latency_us, count in counts:
        histogram.record_value(min(max(latency_us, 1), LATENCY_MAX_US), count)
        longest = max(longest, latency_us)
    summary: dict[str, float] = {"count": histogram.get_total_count()}
    for name, percentile in (("p50", 50), ("p99", 99), ("p99.9", 99.9)):
        # A bucket's upper end may lie past the longest latency that fell into it.
        value_us = min(histogram.get_value_at_percentile(percentile), longest)
        summary[f"{name}_ms"] = round(value_us / 1000, 3)
    summary["max_ms"] = round(longest / 1000, 3)
    return summary


def result_of(plan: Plan, tally: Tally) -> dict[str, object]:
    """The result as plain data, which is also what --json prints."""
    by_operation = {OPERATION_NAMES[operation]: counts for operation, counts in tally.latencies_us.items()}
    latencies = {name: latency_summary(counts.items()) for name, counts in by_operation.items() if counts}
    latencies["all"] = latency_summary(pair for counts in by_operation.values() for pair in counts.items())
    return {
        "servers": list(plan.servers),
        "clients": plan.clients,
        "seconds": round(tally.elapsed_s, 3),
        "value_size": plan.value_size,
        "mix": {OPERATION_NAMES[operation]: weight for operation, weight in plan.mix.items()},
        "keys": plan.keys_a_client * plan.clients,
        "ops_per_s": round(tally.finished_in_time / tally.elapsed_s) if tally.elapsed_s else 0,
        "latency": latencies,
        "reads": {
            "found": tally.found,
            "missing": tally.missing,
            "absent": tally.absent,
            "wrong": tally.wrong,
            "stale": tally.stale,
        },
        "codes": {code_name(code): count for code, count in sorted(tally.codes.items())},
        "timeouts": tally.timeouts,
        "retries": tally.retries,
        "overloads": tally.overloads,
        "refused": tally.refused,
        "ignored": tally.ignored,
        "interrupted": tally.interrupted,
    }


def counts_line(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def text_of(plan: Plan, tally: Tally, result: dict[str, object]) -> str:
    """The result for a person."""
    weights = ",".join(f"{OPERATION_NAMES[operation]}={weight}" for operation, weight in plan.mix.items())
    lines = [
        f"{plan.clients:,} clients, {tally.elapsed_s:.1f} s, {plan.value_size:,}-byte values, {weights}, "
        f"{plan.keys_a_client * plan.clients:,} keys",
        "",
        f"{result['ops_per_s']:,} ops/s",
        "",
        f"{'latency, ms':<12}{'count':>12}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}",
    ]
    latencies = result["latency"]
    assert isinstance(latencies, dict)
    for name, row in latencies.items():
        cells = "".join(f"{row[column]:>10.3f}" for column in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms"))
        lines.append(f"{name:<12}{row['count']:>12,}{cells}")
    reads, codes = result["reads"], result["codes"]
    assert isinstance(reads, dict)
    assert isinstance(codes, dict)
    lines += [
        "",
        f"reads     {counts_line(reads)}",
        f"answers   {counts_line(codes)}",
        f"trouble   timeouts {tally.timeouts:,}  retries {tally.retries:,}  overloads {tally.overloads:,}  "
        f"refused {tally.refused:,}",
    ]
    if tally.ignored:
        lines.append(f"ignored   {counts_line(tally.ignored)}")
    return "\n".join(lines)


def progress_on_terminal(plan: Plan) -> tuple[Callable[[float, Tally], None], Callable[[], None]]:
    """Two functions: one shows progress on stderr if that is a terminal, one takes the bar away."""
    bar = tqdm(
        total=plan.seconds,
        unit="s",
        leave=False,
        disable=not sys.stderr.isatty(),
        bar_format="{bar}| {n:.0f}/{total:.0f} s{postfix}",
    )

    def show(elapsed_s: float, tally: Tally) -> None:
        if elapsed_s > 0 and not bar.disable:
            trouble = f", {tally.bad_values} wrong" if tally.bad_values else ""
            rate = tally.finished_in_time / elapsed_s
            bar.set_postfix_str(f"{rate:,.0f} ops/s, {tally.retries:,} retries{trouble}", refresh=False)
            bar.update(elapsed_s - bar.n)

    return show, bar.close


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        plan = plan_of(arguments)
        with Client(plan.servers, timeouts_ms=GREETING_TIMEOUTS_MS, give_up_when_refused=True) as client:
            client.ping()
        flood = Flood(plan)
    except (ArgumentTypeError, KVError, OSError) as error:
        cli.complain("flood.py", error)
        return cli.USAGE
    show, take_away = progress_on_terminal(plan)
    try:
        tally = flood.run(show)
    finally:
        take_away()
        flood.close()
    result = result_of(plan, tally)
    print(json.dumps(result, indent=2) if arguments.json else text_of(plan, tally, result))
    for sample in tally.samples:
        cli.complain("flood.py", sample)
    if tally.bad_values:
        cli.complain("flood.py", f"{tally.bad_values} wrong or stale values were read")
        return cli.FAILED
    if tally.succeeded <= 0:
        cli.complain("flood.py", "nothing succeeded")
        return cli.FAILED
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
