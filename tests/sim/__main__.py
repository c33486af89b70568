"""`python -m tests.sim --seeds N [--start S]`: run N seeds from S on (a fresh start if none is given).

Each seed is run twice: membership alone, and with data.
"""

import argparse
import random
import sys
import time

from tests.sim.checks import Checks, Violation
from tests.sim.copies_run import run_copies, totals
from tests.sim.run import run_seed
from tests.sim.world import Options, World


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N")
    parser.add_argument("--start", type=int, default=None, metavar="S")
    parser.add_argument(
        "--lossy-hours",
        type=float,
        metavar="H",
        help="instead: H virtual hours of 10 %% loss",
    )
    arguments = parser.parse_args()
    if arguments.lossy_hours:
        return lossy(arguments.lossy_hours)
    start = arguments.start if arguments.start is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seeds {start} to {start + arguments.seeds - 1}", flush=True)
    began = time.perf_counter()
    failed = []
    steps = 0
    for seed in range(start, start + arguments.seeds):
        try:
            steps += run_seed(seed).steps
            steps += run_copies(seed).steps
        except Violation as violation:
            failed.append(seed)
            print(f"{violation}\nreproduce: python -m tests.sim --seeds 1 --start {seed}", flush=True)
    took = time.perf_counter() - began
    print(f"{arguments.seeds - len(failed)} passed, {len(failed)} failed", flush=True)
    print(f"requests and frames: {dict(sorted(totals.items()))}")
    print(f"{steps} steps in {took:.1f} s; failed seeds: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
