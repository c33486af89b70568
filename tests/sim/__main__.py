"""`python -m tests.sim --seeds N [--start S]`: run N seeds from S on (a fresh start if none is given)."""

import argparse
import random
import sys
import time

from tests.sim.checks import Violation
from tests.sim.run import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N")
    parser.add_argument("--start", type=int, default=None, metavar="S")
    arguments = parser.parse_args()
    start = arguments.start if arguments.start is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seeds {start} to {start + arguments.seeds - 1}", flush=True)
    began = time.perf_counter()
    failed = []
    steps = 0
    for seed in range(start, start + arguments.seeds):
        try:
            result = run_seed(seed)
            steps += result.steps
        except Violation as violation:
            failed.append(seed)
            print(f"{violation}\nreproduce: python -m tests.sim --seeds 1 --start {seed}", flush=True)
    took = time.perf_counter() - began
    print(f"{arguments.seeds - len(failed)} passed, {len(failed)} failed", flush=True)
    print(f"{steps} steps in {took:.1f} s; failed seeds: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
