"""A loop that a test turns by hand, with a clock that it sets: nothing waits, nothing happens by itself."""

import heapq
from collections.abc import Callable
from typing import Any, NoReturn

from greenlet import getcurrent

from app.loop import Loop, Timer, Watcher


class Exited(BaseException):
    """The node has ended its process with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ManualLoop(Loop):
    """Its hub is the greenlet that makes it: the test's own."""

    def __init__(self, now_s: float = 1000.0) -> None:
        """`now_s` does not begin at 0: what takes a duration for a point in time is wrong at once."""
        self.hub = getcurrent()
        self.now_s = now_s
        self.now = lambda: self.now_s
        self.unix_s = lambda: 1_800_000_000.0 + self.now_s
        self.run_callback = self._run_callback
        self.watchers: list[ManualWatcher] = []
        self._callbacks: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._timers: list[tuple[float, int, ManualTimer, int]] = []
        self._count = 0

    def _run_callback(self, callback: Callable[..., object], *args: Any) -> None:
        self._callbacks.append((callback, args))

    def turn(self) -> None:
        """Come to the end of the turn: call back until nothing is left."""
        while self._callbacks:
            callback, args = self._callbacks.pop(0)
            callback(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass, and whatever falls due in it happen, each at its time."""
        until = self.now_s + seconds
        self.turn()
        while self._timers and self._timers[0][0] <= until:
            when, _, timer, number = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, when)
            timer.fire(number)
            self.turn()
        self.now_s = until

    def timer(self) -> Timer:
        return ManualTimer(self)

    @property
    def timers_running(self) -> int:
        return sum(timer.is_running(number) for _, _, timer, number in self._timers)

    def watch(self, descriptor: int, events: int, *, is_first: bool = False) -> Watcher:
        watcher = ManualWatcher(descriptor, events, is_first)
        self.watchers.append(watcher)
        return watcher

    def ready(self, descriptor: int, events: int) -> None:
        """The descriptor can be read, or written."""
        for watcher in list(self.watchers):
            if (watcher.descriptor, watcher.events) == (descriptor, events):
                watcher.fire()

    def exit(self, status: int) -> NoReturn:
        raise Exited(status)


class ManualTimer:
    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self._number = 0
        self._call: tuple[Callable[..., object], tuple[Any, ...]] | None = None

    def start(self, after_s: float, callback: Callable[..., object], *args: object) -> None:
        loop = self._loop
        loop._count += 1
        self._number = loop._count
        self._call = callback, args
        heapq.heappush(loop._timers, (loop.now_s + after_s, loop._count, self, loop._count))

    def stop(self) -> None:
        self._call = None

    def is_running(self, number: int) -> bool:
        return self._call is not None and number == self._number

    def fire(self, number: int) -> None:
        if self._call is not None and number == self._number:
            (callback, args), self._call = self._call, None
            callback(*args)


class ManualWatcher:
    def __init__(self, descriptor: int, events: int, is_first: bool) -> None:
        self.descriptor = descriptor
        self.events = events
        self.is_first = is_first
        self._call: tuple[Callable[..., object], tuple[Any, ...]] | None = None

    def start(self, callback: Callable[..., object], *args: object) -> None:
        self._call = callback, args

    def stop(self) -> None:
        self._call = None

    def close(self) -> None:
        self._call = None

    def fire(self) -> None:
        if self._call is not None:
            callback, args = self._call
            callback(*args)
