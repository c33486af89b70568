"""Random faults of network and processes, in rounds, while clients work.

In each round two nodes of the five are struck, with all that lies between them and others; so every slot has a copy at
a node that is not, and these are a majority. Then all is mended, and must be one whole cluster soon. What clients saw
must be linearizable, round by round.
"""

import random
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.integration.traffic import Traffic
from tests.lab import shares
from tests.lab.lab import Lab, LabNode, lab
from tests.lab.network import Cable

NODES: Final = 5
STRUCK: Final = 2
FAULTS_S: Final = 4.0  # of a round
PAUSE_S: Final = 0.6  # between two faults, on average
SETTLED: Final = 100  # requests that are answered before a round's faults, and after them


class Nemesis:
    """Breaks what belongs to some nodes."""

    def __init__(self, here: Lab, rng: random.Random, say: Callable[[str], None], without: Collection[str]) -> None:
        """`without`: faults that are left out."""
        self._here = here
        self._rng = rng
        self._say = say
        self._faults = [fault for fault in self._all() if fault.__name__ not in without]
        self._undo = ExitStack()
        self._dead: list[LabNode] = []
        self._paused: list[LabNode] = []
        self._starved: set[int] = set()  # by pid

    def _all(self) -> tuple[Callable[[LabNode, Cable], None], ...]:
        on_the_way = (self.cut, self.cut_one_way, self.isolate, self.refuse, self.forget_flows, self.reject)
        return (*on_the_way, self.degrade, self.stall, self.mend, self.mend, self.kill, self.pause, self.starve)

    def strike(self, struck: list[LabNode]) -> None:
        """Break one thing about one of these nodes, or mend one."""
        fault = self._rng.choice(self._faults)
        node = self._rng.choice(struck)
        cable = self._here.cable(node, self._rng.choice([other for other in self._here.nodes if other is not node]))
        self._say(f"    {fault.__name__.replace('_', ' ')}: node {node.machine.number}, cable {cable}")
        fault(node, cable)

    def end(self) -> None:
        """Mend everything."""
        self._undo.close()
        self._here.network.mend()
        for node in self._paused:
            node.resume()
        for node in self._dead:
            node.start()
        self._dead, self._paused, self._starved = [], [], set()

    # Faults. Each is about a node, or about a cable of it.

    def cut(self, node: LabNode, cable: Cable) -> None:
        cable.cut(self._rng.choice(("", "tcp", "udp")))

    def cut_one_way(self, node: LabNode, cable: Cable) -> None:
        cable.cut(self._rng.choice(("", "tcp", "udp")), source=node.machine)

    def isolate(self, node: LabNode, cable: Cable) -> None:
        for one in self._here.cables(node):
            one.cut()

    def refuse(self, node: LabNode, cable: Cable) -> None:
        for one in self._here.cables(node):
            one.refuse()
            one.cut("udp")

    def forget_flows(self, node: LabNode, cable: Cable) -> None:
        cable.forget_flows(reset=self._rng.random() < 0.5)

    def reject(self, node: LabNode, cable: Cable) -> None:
        cable.reject()

    def degrade(self, node: LabNode, cable: Cable) -> None:
        cable.mend()
        cable.degrade(delay_s=0.005, jitter_s=0.005, loss=0.05, duplicates=0.05, seed=self._rng.randrange(1000))

    def stall(self, node: LabNode, cable: Cable) -> None:
        cable.stall()
        if self._rng.random() < 0.5:  # else what it holds is lost
            self._undo.callback(cable.resume)

    def mend(self, node: LabNode, cable: Cable) -> None:
        for one in self._here.cables(node):
            one.mend()

    def kill(self, node: LabNode, cable: Cable) -> None:
        if node in self._dead:
            self._dead.remove(node)
            node.start()
        elif node not in self._paused:
            self._dead.append(node)
            node.kill()

    def pause(self, node: LabNode, cable: Cable) -> None:
        if node in self._paused:
            self._paused.remove(node)
            node.resume()
        elif node not in self._dead:
            self._paused.append(node)
            node.pause()

    def starve(self, node: LabNode, cable: Cable) -> None:
        if not shares.why_not() and node not in self._dead and node.process.pid not in self._starved:
            self._starved.add(node.process.pid)
            self._undo.enter_context(shares.share(node.process.pid, 0.1))


def run(
    directory: Path, seed: int, seconds: float, *, without: Collection[str] = (), say: Callable[[str], None] = print
) -> None:
    """Rounds for so long. AssertionError at the first violation. `without`: faults that are left out."""
    say(f"seed {seed}")
    rng = random.Random(seed)
    with lab(directory, NODES) as here:
        here.start()
        nemesis = Nemesis(here, rng, say, without)
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            number += 1
            struck = rng.sample(here.nodes, STRUCK)
            say(f"round {number}")
            with Traffic(here.nodes, keys=50, seed=rng.randrange(1 << 30), name=f"round {number}") as traffic:
                traffic.go_on(SETTLED)
                until = time.monotonic() + FAULTS_S
                while time.monotonic() < until:
                    nemesis.strike(struck)
                    time.sleep(rng.expovariate(1 / PAUSE_S))
                nemesis.end()
                whole_s = here.await_whole()
                traffic.go_on(SETTLED)
            traffic.check()
            say(f"    whole after {whole_s:.2f} s; {dict(traffic.counts)}")
            for node in here.nodes:
                peak = node.status_field_bytes("VmHWM")
                assert peak <= 128 << 20, f"{node.name} took {peak >> 20} MiB"
