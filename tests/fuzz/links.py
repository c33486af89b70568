"""Three real nodes under load, and a fourth server that knows the secret and lies over its links and by datagram.

    python -m tests.fuzz.links --minutes 30 [--seed n]

In rounds. In some the fourth says, beside what a node says, what is out of range (liar.py, `unsound`): that must do
nothing, so what the clients saw must be linearizable over the whole round. In others it says anything: as a member it
is believed where a member is, so what it serves or copies may be anything; then only what follows counts.

In every round no node may end, and once the liar is gone the three must be one whole cluster again that serves every
slot, by themselves. Their memory stays within its bound, and does not grow from round to round.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.wire.protocol import NO_ERR, SLOT_COUNT, WIPEOUT
from tests.fuzz.liar import MODES
from tests.integration.traffic import Traffic, _Client
from tests.support.nodes import REPOSITORY, Node, cluster
from tests.support.polling import poll

SECRET: Final = "known to the fourth as well"
LIES_S: Final = 8.0  # of a round
SETTLED: Final = 100  # requests that are answered before the lies, and after them
# For the three to be one whole cluster again: stamps and numbers far ahead are forgotten after 10 s.
WHOLE_S: Final = 60.0
PEAK_MAX_BYTES: Final = 128 << 20
GROWTH_MAX_BYTES: Final = 8 << 20  # from the second round's end to the last one's
WARM_ROUNDS: Final = 2


class Undemanding(Traffic):
    """Takes any answer: it is a member's word."""

    def _receive(self, client: _Client) -> None:
        try:
            super()._receive(client)
        except (AssertionError, ValueError):  # no text, no code of this command, no message
            self.counts["wrong"] += 1


def apart(nodes: Sequence[Node]) -> str:
    """What keeps these from being one whole cluster; empty: nothing."""
    told = [node.status() for node in nodes]
    names = sorted(node.name for node in nodes)
    for node, status in zip(nodes, told, strict=True):
        if not status:
            return f"{node.name} does not answer"
        members = sorted(row[0] for row in status.get("members", ()) if row[2] != "absent")
        if members != names:
            return f"{node.name} sees {members} at {status.get('epoch')}"
        for field in ("closed", "unserved", "copies_missing"):
            if status[field]:
                return f"{node.name}: {field} {status[field]}"
    served = sum(int(status["writes"]) for status in told)
    return "" if served == SLOT_COUNT else f"{served} slots take writes"


def is_wiped(node: Node) -> bool:
    """Have it forget what it serves; False: try again."""
    answer = node.ask(WIPEOUT, patience_s=1.0)
    return answer is not None and answer.errCode == NO_ERR


@contextmanager
def lying(liar: Node, mode: str, seed: int, servers: Path) -> Iterator[Callable[[], int]]:
    """The fourth server lies; it is started again when it ends. What is yielded does that, and tells how often."""
    processes: list[subprocess.Popen[bytes]] = []

    def keep_up() -> int:
        if not processes or processes[-1].poll() is not None:
            with liar.log_path.open("ab") as log:
                arguments = [mode, str(seed + len(processes)), str(liar.port), str(servers), "--log-level", "error"]
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.fuzz.liar", *arguments],
                    cwd=REPOSITORY,
                    env=liar.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            processes.append(process)
        return len(processes) - 1

    try:
        keep_up()
        yield keep_up
    finally:
        processes[-1].kill()
        processes[-1].wait()


def run(directory: Path, seed: int, seconds: float, *, say: Callable[[str], None] = print) -> None:
    """Rounds for so long, two at least. AssertionError at the first fault."""
    say(f"seed {seed}")
    rng = random.Random(seed)
    with cluster(directory, 4, environment={"KV_CLUSTER_SECRET": SECRET}) as (*nodes, liar):
        for node in nodes:
            node.start()
        poll(lambda: not apart(nodes), WHOLE_S, lambda: apart(nodes))
        processes = [node.process for node in nodes]
        end = time.monotonic() + seconds
        number = 0
        resident: list[list[int]] = []
        while number < len(MODES) or time.monotonic() < end:
            mode = MODES[number % len(MODES)]
            number += 1
            seed = rng.randrange(1 << 30)
            kind = Traffic if mode == "unsound" else Undemanding
            with kind(nodes, keys=50, seed=seed, name=f"round {number}") as traffic:
                traffic.go_on(SETTLED)
                with lying(liar, mode, seed, directory / "servers.txt") as keep_up:
                    until = time.monotonic() + LIES_S
                    while time.monotonic() < until:
                        restarts = keep_up()
                        time.sleep(0.1)
                whole_s = poll(lambda: not apart(nodes), WHOLE_S, lambda: apart(nodes))
                if mode == "unsound":
                    traffic.go_on(SETTLED)
            if mode == "unsound":
                traffic.check()
            with Traffic(nodes, keys=50, seed=seed + 1, name=f"after {number}") as after:
                after.go_on(2 * SETTLED)
            after.check()
            # Else what the clients store would pass for growth.
            for node in nodes:
                poll(lambda node=node: is_wiped(node), complaint=f"{node.name} is not wiped")
            assert [node.process for node in nodes] == processes
            for node in nodes:
                assert node.process.poll() is None, f"{node.name} has ended:\n{node.log[-4000:]}"
                assert node.status_field_bytes("VmHWM") <= PEAK_MAX_BYTES, node.name
            resident.append([node.status_field_bytes("VmRSS") for node in nodes])
            sizes = " ".join(f"{size >> 10}" for size in resident[-1])
            say(
                f"round {number}, {mode}: {dict(traffic.counts)}; the liar ended {restarts} times; whole after"
                f" {whole_s:.1f} s; resident {sizes} KiB"
            )
        if number > WARM_ROUNDS:
            grown = max(now - then for then, now in zip(resident[WARM_ROUNDS - 1], resident[-1], strict=True))
            assert grown <= GROWTH_MAX_BYTES, f"grown by {grown >> 10} KiB since round {WARM_ROUNDS}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.links", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix=f"kv-fuzz-{os.getpid()}-"))
    print(f"logs: {directory}", flush=True)
    run(directory, arguments.seed, 60 * arguments.minutes, say=lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
