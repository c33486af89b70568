"""One seed from start to end."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.sim.core_checks import Checks, Violation
from tests.sim.core_nemesis import Nemesis, draw_options
from tests.sim.core_world import Options, World
from tests.sim.register import draw_register

CONVERGE_S = 20.0  # virtual seconds without faults within which all must be well
LEAVE_S = 12.0  # who was asked to leave may still be about to, and to come back
STABLE_S = 1.0


@dataclass
class Result:
    seed: int
    steps: int
    virtual_s: float
    epochs: int
    took_s: float
    counts: Counter[str] = field(default_factory=Counter)  # what was tried at all


def has_bursts(seed: int) -> bool:
    """Whether the seed is one of those with bursts of joins and leaves: every third."""
    return seed % 3 == 0


def run_seed(
    seed: int,
    options: Options | None = None,
    faults_s: float | None = None,
    *,
    bursts: bool = False,
    link_cuts: bool = False,
    shared_register: bool = False,
) -> Result:
    """Run the seed; raises Violation, with the end of the trace in its message."""
    began = time.perf_counter()
    rng = random.Random(seed)
    drawn = draw_options(rng)
    drawn.bursts, drawn.link_cuts = bursts, link_cuts
    if shared_register:
        drawn.register = draw_register(random.Random(seed ^ 0x9E6))
    world = World(seed, options or drawn)
    checks = Checks(world)
    faults = faults_s if faults_s is not None else rng.choice((3.0, 8.0, 15.0))
    nemesis = Nemesis(world, faults)
    try:
        nemesis.start_all()
        world.run(faults)
        nemesis.make_well()
        deadline = world.now + CONVERGE_S
        while missing := checks.is_converged():
            if world.now >= deadline:
                raise Violation(f"after {CONVERGE_S} s without faults: {missing}")
            world.run(world.now + 0.1)
            if world.now >= faults + LEAVE_S:
                for host in world.hosts:
                    world.start(host)
        epoch = world.processes()[0].core.epoch
    except Exception as violation:
        lines = [f"{event[0]:10.6f}  {' '.join(str(part) for part in event[1:])}" for event in world.trace]
        trace = "\n".join(lines)
        raise Violation(f"{trace}\nseed {seed} at {world.now:.6f}: {violation!r}\n{world.options}") from violation
    return Result(seed, world.steps, world.now, epoch, time.perf_counter() - began)
