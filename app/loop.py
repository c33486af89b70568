"""The loop that a node lives in: its turns, timers and greenlets, its clock, and what happens to a fault.

Everything in front of the store is one thread and one loop. The node's parts are given a `Loop` and ask nothing else of
gevent, so that the simulator (tests/sim) can put a loop of its own in place of this one and run the same code.

**Faults.** One policy, and this is its place. A fault in one request is that request's INTERNAL_ERR: `Commands.handle`
(app/requests/commands.py) sees to that. Whatever else nobody has caught, of whatever type, wherever in the loop it
shows, ends the process with a log line and status 70: a callback that broke off may have left the node half done, a
greenlet that died is missing for good, and a node that serves on without its governor or its clock is worse than none.
The others have the copies. An AssertionError ends the process even where it is one request's: what the node holds can't
be trusted. That a name has no address is no fault: gevent tells whoever has asked for it, and the loop besides.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from socket import gaierror
from typing import Any, Final, NoReturn, Protocol

from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from app.observe import logs

READ: Final = 1  # libev's
WRITE: Final = 2

_HIGHEST: Final = 2  # libev's EV_MAXPRI: called back before all of its default, 0

EXIT_FAULT: Final = 70  # sysexits: internal software error

_log = logs.logger("node")


class Timer(Protocol):
    """Calls back once, later."""

    def start(self, after_s: float, callback: Callable[..., object], *args: object) -> None:
        """Call after so many seconds; what was started before is forgotten."""

    def stop(self) -> None:
        """Forget the call."""


class Watcher(Protocol):
    """Calls back whenever a descriptor can be read, or written."""

    def start(self, callback: Callable[..., object], *args: object) -> None:
        """Begin to watch; the callback runs in the loop's own greenlet, once a turn, and must not wait."""

    def stop(self) -> None:
        """Watch no more, until it is started again."""

    def close(self) -> None:
        """Watch no more. Do so before the descriptor is closed."""


class Loop(ABC):
    """See the module. What stands above `spawn` is the system's, or the simulator's; the rest is built on it."""

    hub: greenlet  # runs the loop; whoever has to wait switches to it
    now: Callable[[], float]  # seconds of a clock that goes on while the machine is suspended: leases outlive no sleep
    unix_s: Callable[[], float]  # seconds of the wall clock, for people
    # Calls back when this turn's input is worked off, before the loop waits again.
    run_callback: Callable[..., object]

    @abstractmethod
    def timer(self) -> Timer:
        """A timer."""

    @abstractmethod
    def watch(self, descriptor: int, events: int, *, is_first: bool = False) -> Watcher:
        """A watcher of a descriptor for READ or WRITE. `is_first`: of all that are to be called back in a turn it comes
        before those that are not."""

    @abstractmethod
    def exit(self, status: int) -> NoReturn:
        """End the process at once: no hand-over, no clean-up."""

    def fail(self, error: BaseException) -> NoReturn:
        """End the process for a fault: see the module."""
        _log.exception("fault", error)
        self.exit(EXIT_FAULT)

    # --- greenlets -----------------------------------------------------------------------------------------------

    def spawn(self, function: Callable[..., object], *args: Any) -> "Task":
        """Have a function run in a greenlet of its own, soon."""
        task = Task(function, args, self.hub)
        self.run_callback(task.begin)
        return task

    def sleep(self, seconds: float) -> None:
        """Wait in this greenlet; 0: until the loop has turned."""
        timer = self.timer()
        timer.start(seconds, getcurrent().switch)
        try:
            self._wait()
        finally:
            timer.stop()

    def wait(self, descriptor: int, events: int, timeout_s: float) -> bool:
        """Wait in this greenlet until the descriptor can be read or written; False when time has run out."""
        me = getcurrent()
        watcher, timer = self.watch(descriptor, events), self.timer()
        watcher.start(me.switch, True)
        timer.start(max(0.0, timeout_s), me.switch, False)
        try:
            return bool(self._wait())
        finally:
            timer.stop()
            watcher.stop()
            watcher.close()

    def _wait(self) -> object:
        assert getcurrent() is not self.hub, "the loop itself must not wait"
        return self.hub.switch()


class Task(greenlet):
    """A function that runs in a greenlet of its own.

    Once it runs, or will not, it refers to nothing that may refer to it: the collector, which is to see little
    (`_keep_heap_small` in app/process.py), has nothing to do with tasks that have ended.
    """

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...], hub: greenlet) -> None:
        super().__init__(parent=hub)
        self._work: Callable[[], object] | None = partial(function, *args)

    def begin(self) -> None:
        """Run until it waits for the first time, unless it was cancelled meanwhile. To be called by the loop."""
        if not self.dead:
            self.switch()

    def run(self) -> None:
        """What a greenlet calls."""
        work, self._work = self._work, None
        assert work is not None, "a task runs once"
        work()

    def cancel(self) -> None:
        """Make it end where it waits, or before it begins; to be called by the loop. What it holds it gives back."""
        self._work = None
        if not self.dead:
            self.throw(GreenletExit)


class GeventLoop(Loop):
    """gevent's loop, for a process that is one node."""

    def __init__(self) -> None:
        hub = get_hub()
        self.hub = hub
        self.now = partial(time.clock_gettime, time.CLOCK_BOOTTIME)  # without a Python frame of its own
        self.unix_s = time.time
        self.run_callback = hub.loop.run_callback
        self._loop = hub.loop
        hub.handle_error = self._unhandled  # type: ignore[method-assign]  # gevent's prints a traceback and goes on

    def timer(self) -> Timer:
        return _GeventTimer(self._loop)

    def watch(self, descriptor: int, events: int, *, is_first: bool = False) -> Watcher:
        watcher: Watcher = self._loop.io(descriptor, events, priority=_HIGHEST if is_first else None)
        return watcher

    def exit(self, status: int) -> NoReturn:
        logs.finish()  # the line that says why must not be lost with the process
        os._exit(status)

    def _unhandled(self, context: object, type: Any, value: Any, tb: object) -> None:
        """gevent's hub reports here whatever a callback or greenlet of it has not caught."""
        if type is not None and issubclass(type, GreenletExit):
            return
        if isinstance(value, gaierror) and isinstance(context, tuple):
            return  # of a thread, and what it was to do: whoever waits for it is told
        error = value if isinstance(value, BaseException) else RuntimeError(f"{type}: {value}")
        self.fail(error)


class _GeventTimer:
    __slots__ = ("_loop", "_timer")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._timer: Any = None

    def start(self, after_s: float, callback: Callable[..., object], *args: object) -> None:
        self.stop()
        self._timer = self._loop.timer(after_s)
        self._timer.start(callback, *args, update=True)  # by the time now, not by that at which the turn began

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
