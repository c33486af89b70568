"""The loop of a simulated process: gevent's in virtual time.

A turn calls back the timers that are due and the watchers whose descriptors are ready, in a drawn order, and then all
callbacks that were asked for, those asked for meanwhile included. Between something happening and the turn that finds
it some time passes, so that a turn often finds several things at once.

The process may be stopped in the middle of a turn, by a drawn chance at a read of its clock: whatever greenlet reads
it is left where it is, the world goes on, and later so does the greenlet. For that each process has a hub of its own, a
greenlet that the world switches to for a turn.
"""

import gc
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

from app.loop import Loop, Task
from tests.sim.checks import Violation

if TYPE_CHECKING:
    from tests.sim.process import Process


class Ended(BaseException):
    """Thrown to get out of a process that has ended itself."""


class Crashed(Exception):
    """A process ended itself because of a fault."""


class Hub(greenlet):
    """What a process's loop runs in; the greenlets that its requests run in have it as their parent."""

    def __init__(self, loop: "SimLoop") -> None:
        super().__init__(loop.run_turns)
        self.loop: SimLoop | None = loop


def end_greenlets() -> None:
    """End the greenlets of all processes that are over, wherever they wait.

    Each keeps what it has in hand, its node with all memory in the end, and the garbage collector does not look into
    it: 11 MB a seed.
    """
    hubs: list[Hub] = []
    for thing in gc.get_objects():
        if not isinstance(thing, greenlet):
            continue
        hub = thing if isinstance(thing, Hub) else thing.parent
        if isinstance(hub, Hub) and hub.loop is not None and hub.loop.is_over:
            thing.parent = getcurrent()
            while thing:
                thing.throw(GreenletExit)
            hubs.append(hub)
    for hub in hubs:
        hub.loop = None  # one that has ended is not always given back


STOPPED = object()  # what the world is told in place of a turn's end


class File(Protocol):
    """What a descriptor stands for."""

    def ready(self, events: int) -> bool:
        """Whether one of these events has come."""


class SimLoop(Loop):
    """One process's."""

    def __init__(self, process: "Process") -> None:
        self.hub = Hub(self)
        self._outside = getcurrent()  # the world's greenlet
        self.now = process.read_clock
        self.unix_s = process.read_wall_clock
        self.run_callback = self._add_callback
        self.files: dict[int, File] = {}
        self._process = process
        self._world = process.world
        self._rng = process.world.rng
        self._lag_s = process.options.lag_s
        self._watchers: dict[SimWatcher, None] = {}  # active
        self._timers: dict[SimTimer, None] = {}  # active
        self._callbacks: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._tasks: dict[Task, None] = {}
        self._turn_at = inf
        self._turn_number = 0
        self.is_turning = False
        self.turns = 0

    # What the node calls.

    def _add_callback(self, callback: Callable[..., object], *args: Any) -> None:
        if self._process.is_over:
            return
        self._callbacks.append((callback, args))
        if not self.is_turning:
            self._turn_by(self._process.time)

    def timer(self) -> "SimTimer":
        return SimTimer(self)

    def watch(self, descriptor: int, events: int, *, is_first: bool = False) -> "SimWatcher":
        return SimWatcher(self, self.files[descriptor], events, is_first)

    def spawn(self, function: Callable[..., object], *args: Any) -> Task:
        task = super().spawn(function, *args)
        self._tasks[task] = None
        if len(self._tasks) > 64:
            self._tasks = {task: None for task in self._tasks if not task.dead}
        return task

    def exit(self, status: int) -> NoReturn:
        self._process.exited(status)
        raise Ended

    def fail(self, error: BaseException) -> NoReturn:
        if isinstance(error, Violation):
            raise error
        raise Crashed(f"{self._process.host} fails: {error!r}") from error

    # What the world calls.

    def poke(self) -> None:
        """A descriptor may have become ready."""
        if not self.is_turning:
            self._turn_by(self._process.time + self._rng.random() * self._lag_s)

    def arm(self) -> None:
        """See to it that there is a turn when the next timer is due; to be called when the clock has changed, too."""
        if self._timers and not self.is_turning:
            process = self._process
            due = process.host.clock.true(min(timer.due for timer in self._timers))
            if due < inf:
                self._turn_by(max(process.time, due + 1e-9) + self._rng.random() * self._lag_s)

    def _turn_by(self, when: float) -> None:
        if when < self._turn_at - 1e-9 and not self._process.is_over:
            self._turn_at = when
            self._turn_number += 1
            self._world.at(when, self._turn, self._turn_number)

    def resume(self) -> None:
        """The process was stopped and goes on; one that was stopped in the middle of a turn does so by itself."""
        if not self.is_turning:
            self._turn_at = inf
            self._turn_by(self._process.time)

    def _turn(self, number: int) -> None:
        process = self._process
        if number != self._turn_number or process.is_over or process.is_stopped:
            return
        if process.time > self._world.now:  # it was stopped in the middle of the turn before
            self._turn_at = inf
            self._turn_by(process.time)
            return
        self._turn_at = inf
        self.is_turning = True
        self.turns += 1
        self._go_on(self.hub)

    def _go_on(self, where: greenlet) -> None:
        """Let the process run where it is, until its turn is over or it is stopped in the middle."""
        process = self._process
        self._outside = getcurrent()
        outcome = where.switch()
        if outcome is STOPPED:
            return
        self.is_turning = False
        if isinstance(outcome, Ended | GreenletExit):
            assert process.is_over, "ended, and goes on"
        elif isinstance(outcome, AssertionError | Crashed):
            raise outcome
        elif isinstance(outcome, Exception):
            raise Crashed(f"{process.host}: nobody catches {outcome!r}") from outcome
        elif outcome is not None:
            raise outcome
        if process.is_over:
            return
        process.turned()
        if self._callbacks or any(watcher.is_ready() for watcher in self._watchers):
            self._turn_by(process.time + self._rng.random() * self._lag_s)
        self.arm()

    def stop_for(self, seconds: float) -> None:
        """The process is stopped where it is, in the middle of a turn, and goes on so much later."""
        self._world.at(self._world.now + seconds, self._go_on_after, getcurrent())
        self._outside.switch(STOPPED)

    def _go_on_after(self, where: greenlet) -> None:
        process = self._process
        if process.is_over:
            return
        if process.is_stopped:  # by a signal besides
            self._world.at(self._world.now + 0.05, self._go_on_after, where)
            return
        self._go_on(where)

    @property
    def is_over(self) -> bool:
        """Whether nothing of the process runs any more."""
        return self._process.is_over

    def run_turns(self) -> None:
        """What the hub does."""
        while True:
            outcome: BaseException | None = None
            try:
                self._run_turn()
            except BaseException as error:  # noqa: BLE001 - the world's to judge
                outcome = error
            self._outside.switch(outcome)

    def _run_turn(self) -> None:
        local = self._process.host.clock.local(self._world.now)
        due: list[SimTimer | SimWatcher] = [timer for timer in self._timers if timer.due <= local]
        due += [watcher for watcher in self._watchers if watcher.is_ready()]
        if len(due) > 1:
            self._rng.shuffle(due)
            due.sort(key=lambda what: isinstance(what, SimTimer) or not what.is_first)
        timers = self._timers
        for what in due:
            if isinstance(what, SimTimer):
                if what not in timers:
                    continue
                del timers[what]
            elif what not in self._watchers:
                continue
            what.callback(*what.args)
        callbacks = self._callbacks
        while callbacks:
            callback, args = callbacks.popleft()
            callback(*args)

    def end(self) -> None:
        """The process is no more: nothing of it runs again. What its greenlets clean up has no effect."""
        self._timers.clear()
        self._watchers.clear()
        self._callbacks.clear()
        tasks, self._tasks = list(self._tasks), {}
        me = getcurrent()
        for task in tasks:
            if task and task is not me:
                task.throw(GreenletExit)


class SimTimer:
    """See app.loop.Timer."""

    __slots__ = ("_loop", "args", "callback", "due")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.due = inf
        self.callback: Callable[..., object]
        self.args: tuple[Any, ...] = ()

    def start(self, after_s: float, callback: Callable[..., object], *args: object) -> None:
        loop = self._loop
        process = loop._process
        if process.is_over:
            return
        self.due = process.host.clock.local(process.time) + max(0.0, after_s)
        self.callback, self.args = callback, args
        loop._timers[self] = None
        loop.arm()

    def stop(self) -> None:
        self._loop._timers.pop(self, None)


class SimWatcher:
    """See app.loop.Watcher."""

    __slots__ = ("_events", "_file", "_loop", "args", "callback", "is_first")

    def __init__(self, loop: SimLoop, file: File, events: int, is_first: bool) -> None:
        self.is_first = is_first
        self._loop = loop
        self._file = file
        self._events = events
        self.callback: Callable[..., object]
        self.args: tuple[Any, ...] = ()

    def is_ready(self) -> bool:
        return self._file.ready(self._events)

    def start(self, callback: Callable[..., object], *args: object) -> None:
        loop = self._loop
        if loop._process.is_over:
            return
        self.callback, self.args = callback, args
        loop._watchers[self] = None
        if not loop.is_turning and self.is_ready():
            loop.poke()

    def stop(self) -> None:
        self._loop._watchers.pop(self, None)

    def close(self) -> None:
        self.stop()
