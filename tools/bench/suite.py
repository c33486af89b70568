"""Every figure of docs/performance.md, measured in one run of under ten minutes: python -m tools.bench.suite [--quick]

Starts nodes and memcached (where it is installed) on this machine, loads them in turns, and writes all rounds of all
figures as one JSON file; prints them as tables. tools/bench/compare.py holds two such files against each other. With
--against another checkout's nodes are measured in turns with this one's: only ratios within one run tell a difference
of a few percent. With --write-docs nothing is measured: the documents get the figures of a file.

Quit everything else that runs on the machine first.
"""

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.suite", "tools.bench.suite")

import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tools import cli, nodes

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
RESULTS: Final = REPOSITORY / "bench-results"
DOCUMENTS: Final = ("docs/performance.md", "README.md")
DRAWING: Final = "docs/performance.svg"
_PACKAGES: Final = ("gevent", "greenlet", "protobuf", "cachetools", "pympler", "Cython")
_COMPILED: Final = """
import app.node
try:
    from app.fast import PIECES
except ImportError:
    PIECES = {}
print(*sorted(name for name, (pure, chosen) in PIECES.items() if pure is not chosen))
"""


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"'{text}' isn't NAME=VALUE")
    return name, value


def _checkout(text: str) -> Path:
    if not Path(text, "app", "main.py").is_file():
        raise ArgumentTypeError(f"'{text}' is no checkout: it has no app/main.py")
    return Path(text).resolve()


def parser() -> cli.Parser:
    main = cli.Parser(prog="tools.bench.suite", description=__doc__)
    main.add_argument(
        "--quick", action="store_true", help="a minute that shows that it works; its figures mean nothing"
    )
    main.add_argument("--parts", metavar="PART,...", help="only these: one-node, clusters, costs, memory, idle")
    main.add_argument("--against", type=_checkout, metavar="TREE", help="measure the nodes of this checkout as well")
    for option, whose in (("--environment", "this checkout's"), ("--against-environment", "the other one's")):
        main.add_argument(
            option,
            type=_variable,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"for {whose} nodes, e.g. KV_FAST=off",
        )
    main.add_argument("--port", type=cli.port, default=12_000, help="the first of some 150 ports (default 12000)")
    main.add_argument("--json", metavar="FILE.json", help="where to write the result (default: in bench-results/)")
    main.add_argument(
        "--write-docs",
        metavar="FILE.json",
        help=f"put the figures of that file into {' and '.join(DOCUMENTS)}, and exit",
    )
    return main


# What a result says of itself.


def _git(tree: Path, *arguments: str) -> str | None:
    """What git says there; None where it is no repository."""
    try:
        return subprocess.run(
            ["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _machine() -> dict[str, Any]:
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load_before": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def _about_tree(path: Path, given: Sequence[tuple[str, str]], environment: dict[str, str]) -> dict[str, Any]:
    """CalledProcessError when that checkout's node can't even be imported."""
    compiled = subprocess.run(
        [sys.executable, "-c", _COMPILED], cwd=path, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    return {
        "commit": _git(path, "rev-parse", "HEAD") or "unknown",
        "clean": _git(path, "status", "--porcelain") == "",
        "compiled": compiled,
        "environment": dict(given),
    }


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "tools.bench.suite", *argv])


# A run.


def _measure(given: Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Run the parts that are wanted; the document. CalledProcessError for a checkout that can't be run."""
    from tools.bench import parts, subjects  # not above: they need the compiled load generator
    from tools.bench.figures import MEMCACHED, OTHER, THIS

    wanted = given.parts.split(",") if given.parts else list(parts.PARTS)
    if unknown := set(wanted) - parts.PARTS.keys():
        raise ArgumentTypeError(f"--parts: there is no {', '.join(sorted(unknown))}")
    checkouts = [(THIS, REPOSITORY, given.environment)]
    if given.against:
        checkouts.append((OTHER, given.against, given.against_environment))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KV_")}
    trees, about = [], {}
    for name, path, chosen in checkouts:
        environment = plain | dict(chosen)
        about[name] = _about_tree(path, chosen, environment)
        trees.append(subjects.Tree(name, path, environment))
    if subjects.MEMCACHED_PROGRAM is None:
        cli.remark("memcached is not installed: nothing is measured against it")
    else:
        told = subprocess.run([subjects.MEMCACHED_PROGRAM, "-V"], stdout=subprocess.PIPE, text=True, check=True).stdout
        command = shlex.join(["memcached", *subjects.memcached_command(11211)[1:]])
        about[MEMCACHED] = {"version": told.split()[-1], "command": command}
    extent = parts.QUICK if given.quick else parts.FULL
    run = parts.Run(trees, extent, itertools.count(given.port))
    machine, date, began_s = _machine(), datetime.now(UTC), time.monotonic()
    failed = {}
    for name in wanted:
        part_began_s = time.monotonic()
        try:
            parts.PARTS[name](run)
        except (nodes.NotReady, RuntimeError) as error:  # what other parts have found is worth keeping
            failed[name] = str(error)
            cli.complain("tools.bench.suite", f"{name}: {error}")
        cli.remark(f"{name}: {time.monotonic() - part_began_s:.0f} s")
    return run.figures.document(
        {
            "command": _command(argv),
            "date": date.strftime("%Y-%m-%d %H:%M UTC"),
            "seconds": round(time.monotonic() - began_s, 1),
            "extent": extent.name,
            "parts": [name for name in wanted if name not in failed],
            "failed": failed,
            "machine": machine | {"load_after": os.getloadavg()[0]},
            "versions": _versions(),
            "subjects": about,
        }
    )


def _write_docs(path: str) -> int:
    """Fill the documents from a file."""
    from tools.bench import figures, plot, tables

    try:
        result = figures.read(path)
        if result.document["extent"] != "full":
            raise figures.BadResult(f"{path} is of a quick run, whose figures mean nothing")
        for name in DOCUMENTS:
            document = REPOSITORY / name
            cli.write_file(str(document), tables.fill_in(document.read_text(encoding="utf-8"), result))
    except (figures.BadResult, tables.NoPlace) as error:
        cli.complain("tools.bench.suite", error)
        return cli.FAILED
    cli.write_file(str(REPOSITORY / DRAWING), plot.drawing_of(result))
    return cli.OK


def _where(given: Namespace, document: dict[str, Any]) -> str:
    if given.json:
        return str(given.json)
    RESULTS.mkdir(exist_ok=True)
    stamp = document["date"].replace("-", "").replace(":", "").removesuffix(" UTC").replace(" ", "-")
    return str(RESULTS / f"{stamp}-{document['subjects']['this']['commit'][:12]}.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 1 if a wrong value was read, or something could not be measured."""
    words = list(sys.argv[1:] if argv is None else argv)
    given = parser().parse_args(words)
    try:
        import tools.bench.generator  # noqa: F401 - whether it is there
    except ImportError:
        cli.complain("tools.bench.suite", "first: python tools/build_fast.py --folder tools/bench --must")
        return cli.USAGE
    if given.write_docs:
        return _write_docs(given.write_docs)
    try:
        document = _measure(given, words)
    except ArgumentTypeError as error:
        cli.complain("tools.bench.suite", error)
        return cli.USAGE
    except subprocess.CalledProcessError as error:
        cli.complain("tools.bench.suite", error)
        return cli.FAILED
    from tools.bench import figures, tables

    where = _where(given, document)
    cli.write_file(where, json.dumps(document, indent=1) + "\n")
    result = figures.Result(document)
    cli.say(*tables.text_of(result), f"All rounds of all figures: {where}")
    wrong = any(counts.get("wrong") for found in result.troubles.values() for counts in found.values())
    return cli.FAILED if wrong or document["failed"] else cli.OK
