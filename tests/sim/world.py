"""Virtual time, and the machines in it: each has an address, clocks of its own, and at most one process."""

import heapq
import logging
import random
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.process import Process


class Clock:
    """A machine's clocks: the one that leases are measured by (CLOCK_BOOTTIME), and the wall clock."""

    def __init__(self, rate: float, offset_s: float, unix_s: float) -> None:
        self.nominal_rate = self._rate = rate
        self._since = 0.0  # true time from which on `_rate` holds
        self._base = offset_s  # what was shown then
        self._unix_offset_s = unix_s - offset_s

    def local(self, true_s: float) -> float:
        """What the clock shows at a true time."""
        return self._base + (true_s - self._since) * self._rate

    def true(self, local_s: float) -> float:
        """At which true time it shows this; infinite if it stands still."""
        if self._rate <= 0.0:
            return self._since if local_s <= self._base else inf
        return self._since + (local_s - self._base) / self._rate

    def unix(self, true_s: float) -> float:
        """What the wall clock shows."""
        return self.local(true_s) + self._unix_offset_s

    def set_rate(self, now: float, rate: float) -> float:
        """Go at another rate from now on, 0: stand still. The rate before."""
        self._base, self._since = self.local(now), now
        before, self._rate = self._rate, rate
        return before

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock; the other one goes on as it was."""
        self._unix_offset_s += seconds


class Host:
    """A machine."""

    def __init__(self, number: int, clock: Clock, *, is_named: bool = False) -> None:
        """`is_named`: its server is written as a name in the servers file, so its address may change."""
        self.number = number
        self.ip = f"10.0.0.{number}"
        self.name = f"kv{number}" if is_named else self.ip
        self.address = f"{self.name}:3331"
        self.clock = clock
        self.process: Process | None = None
        self.is_on = True  # off: without power, so that nothing answers for it
        self.stays_down = False  # whatever was planned before
        self.is_new = False  # its server was added to the servers file, and has not run since
        self.was_removed = False  # by a command
        self.last_incarnation = 0
        self.starts = 0

    def __repr__(self) -> str:
        return self.address


class World:
    """A queue of what happens when. Nothing in a run happens but by it, in order of time and then of entry."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=4000)
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._entered = 0

    def at(self, when: float, action: Callable[..., object], *args: Any) -> None:
        """Have something done at a time, which is not past."""
        self._entered += 1
        heapq.heappush(self._queue, (when, self._entered, action, args))

    def after(self, delay_s: float, action: Callable[..., object], *args: Any) -> None:
        """Have something done later."""
        self.at(self.now + delay_s, action, *args)

    def run(self, until: float) -> None:
        """Let time pass."""
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= until:
            when, _, action, args = pop(queue)
            if when > self.now:
                self.now = when
            self.steps += 1
            action(*args)
        self.now = until

    def note(self, *what: Any) -> None:
        """A line of the trace."""
        self.trace.append((self.now, *what))

    def story(self, lines: int) -> str:
        """The end of the trace."""
        last = list(self.trace)[-lines:]
        return "\n".join(f"{event[0]:10.6f}  {' '.join(str(part) for part in event[1:])}" for event in last)


class _TraceHandler(logging.Handler):
    """Puts what nodes log into the trace of the world that runs."""

    world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.world is not None:
            fields = getattr(record, "fields", {})
            self.world.note("log", record.getMessage(), fields.get("traceback") or fields)


_handler = _TraceHandler(logging.WARNING)


def trace_logs(world: World | None) -> None:
    """From now on nodes' warnings are lines of this world's trace, and go nowhere else; None: no world runs."""
    _handler.world = world
    logger = logging.getLogger("kv")
    logger.propagate = world is None
    if world is None:
        logger.removeHandler(_handler)
    elif _handler not in logger.handlers:
        logger.addHandler(_handler)
