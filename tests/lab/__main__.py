"""`python -m tests.lab [--minutes M] [--seed N] [--without FAULT,...]`: random faults of network and processes.

It goes on until a promise breaks, or the time is over. FAULT: a method of nemesis.py, like refuse or kill.

Exit status: 0 none was broken, 1 one was, 2 there can be no lab on this machine.
"""

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.lab.namespaces import why_not
from tests.lab.nemesis import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), metavar="N")
    parser.add_argument("--without", default="", metavar="FAULT,...")
    given = parser.parse_args()
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kv-lab-") as directory:
        try:
            run(Path(directory), given.seed, 60 * given.minutes, without=given.without.split(","))
        except Exception:  # noqa: BLE001 - shown whole
            traceback.print_exc()
            print(f"reproduce: python -m tests.lab --minutes {given.minutes:g} --seed {given.seed}")
            return 1
    print("no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
