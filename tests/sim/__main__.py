"""`python -m tests.sim --seeds N [--start S] [--jobs J]`: run N seeds from S on (a fresh start if none is given).

The first one that fails prints the end of its trace.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from app import fast
from tests.sim.core_checks import Checks
from tests.sim.core_world import Options, World
from tests.sim.pool import FIXED, Outcome, cores, run_all, run_measured, run_one, run_with_register


def lossy(hours: float) -> int:
    """Three nodes, every tenth datagram lost, nothing else wrong: no view may change."""
    world = World(1, Options(hosts=3, loss=0.1, jitter_s=0.002))
    Checks(world)
    for host in world.hosts:
        world.start(host)
    world.run(5.0)
    epoch = world.processes()[0].core.epoch
    for hour in range(1, int(hours) + 1):
        world.run(3600.0 * hour)
        epochs = [process.core.epoch for process in world.processes()]
        print(f"after {hour} h: epochs {epochs}, {world.steps} steps", flush=True)
        if set(epochs) != {epoch}:
            return 1
    return 0


def many(start: int, seeds: int, jobs: int, one: Callable[[int], Outcome]) -> int:
    """Run them, and say what came of it."""
    print(f"seeds {start} to {start + seeds - 1}, {jobs} at a time", flush=True)
    began = time.perf_counter()
    failed: list[int] = []
    steps, processor_s = 0, 0.0
    counts: Counter[str] = Counter()
    for outcome in run_all(range(start, start + seeds), jobs, one):
        steps += outcome.steps
        processor_s += outcome.processor_s
        counts.update(outcome.counts)
        if outcome.failure:
            failed.append(outcome.seed)
            lines = outcome.failure.splitlines()
            print("\n".join(lines if len(failed) == 1 else lines[-3:]))
            print(f"reproduce: {outcome.repeat}", flush=True)
    print(f"{seeds - len(failed)} passed, {len(failed)} failed", flush=True)
    print(f"requests and frames: {dict(sorted(counts.items()))}")
    took = time.perf_counter() - began
    print(f"{steps} steps in {took:.1f} s ({processor_s:.1f} processor seconds); failed seeds: {failed or 'none'}")
    return 1 if failed else 0


def coverage(jobs: int) -> int:
    """Which lines the fixed seeds run, against the list of the others: what neither runs nor is listed is printed.

    Of what is compiled no lines are seen.
    """
    if fast.CORE == fast.COMPILED:
        print("with KV_FAST=off, please: lines are counted of the Python alone", file=sys.stderr)
        return 2
    from tests.sim.lines import Lines, not_run
    from tests.sim.not_run import NOT_RUN

    ran: Lines = {}
    for outcome in run_all(FIXED, jobs, run_measured):
        for name, lines in outcome.lines.items():
            ran.setdefault(name, set()).update(lines)
    unlisted = [
        f"{name}: {line}"
        for name, lines in not_run(ran).items()
        for line in lines
        if not any(line in listed for listed in NOT_RUN.get(name, {}).values())
    ]
    print("\n".join(unlisted) or "every line is run, or listed in not_run.py")
    return 1 if unlisted else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N")
    parser.add_argument("--start", type=int, default=None, metavar="S")
    parser.add_argument("--jobs", type=int, default=cores(), metavar="J", help="processes; default: one a core")
    parser.add_argument(
        "--lossy-hours",
        type=float,
        metavar="H",
        help="instead: H virtual hours of 10 %% loss",
    )
    parser.add_argument("--register", action="store_true", help="with a register outside, as nodes have in an etcd")
    parser.add_argument("--coverage", action="store_true", help="instead: which lines the seeds of CI run (minutes)")
    arguments = parser.parse_args()
    if arguments.coverage:
        return coverage(max(1, arguments.jobs))
    if arguments.lossy_hours:
        return lossy(arguments.lossy_hours)
    start = arguments.start if arguments.start is not None else random.SystemRandom().randrange(1 << 31)
    one = run_with_register if arguments.register else run_one
    return many(start, arguments.seeds, max(1, arguments.jobs), one)


if __name__ == "__main__":
    sys.exit(main())
