"""The greenlets that requests run in: made once, used again and again, and bounded in number.

A request may wait anywhere, so each runs in a greenlet; but a greenlet is not made, nor even switched to, for each. A
worker goes on to the next request of its source as long as they are answered without waiting, and only when one waits
does another worker take over the rest, by a switch from one to the other. The one left behind, once its request is
answered, joins the idle. (A new greenlet costs 9 to 12 µs on CPython 3.11, a switch to one 0.3.)

How many may wait at once is bounded (`--max-in-flight`), and how many bytes they keep, for all of them together:
clients' requests and peers', those that are forwarded and those whose writes or reads wait for copies. Beyond it, a
request that would have to wait is refused; one that need not is served as ever.
"""

from functools import partial
from typing import Any, Final

from greenlet import greenlet

from app.loop import Loop
from app.requests.request import Request, Source

# What a parked greenlet keeps besides the datagram and what was made of it: the interpreter's frames, the part of the C
# stack that lies under them, and the request (7.5 KB measured over 2,000 of them: docs/memory.md).
GREENLET_BYTES: Final = 8 * 1024
# Of the process's bound, what requests that wait may keep.
WAITING_SHARE: Final = 1 / 8

# Given to requests that wait, in place of an answer.
EXPIRED: Final = object()  # the deadline is over
AGAIN: Final = object()  # what it waited for has changed: look again


class Workers:
    """One node's workers."""

    def __init__(self, loop: Loop, max_waiting: int, max_bytes: int) -> None:
        """`max_waiting`, `max_bytes`: how many requests may wait at once, and what all of them may keep."""
        self._loop = loop
        self._hub = loop.hub
        # Not the hub's own `switch`: gevent's looks for a `switch_out` first, which no worker has (0.5 µs).
        self._to_hub = partial(greenlet.switch, loop.hub)
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._idle: list[greenlet] = []
        self._waiting: dict[Request, int] = {}  # and what each keeps (bytes); the longest-waiting first
        self.waiting_bytes = 0
        self.full = max_waiting <= 0  # no other request may wait: one that would have to is to be refused

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def run(self, source: Source) -> None:
        """Execute the requests of a source, all but those that wait. To be called by the loop."""
        idle = self._idle
        while source.is_left():
            # Made here, and never by a worker: a greenlet's depth of recursion counts on from its maker's.
            worker = idle.pop() if idle else greenlet(self._work, self._hub)
            worker.switch(source)

    def _work(self, source: Source) -> None:
        """A worker."""
        me = greenlet.getcurrent()
        become_idle, to_hub = self._idle.append, self._to_hub
        while True:
            source.work()
            become_idle(me)
            source = to_hub()

    def park(self, request: Request, source: Source, kept_bytes: int) -> Any:
        """See Request.wait. What is left of its source is taken over by an idle worker, or a new one (`run`)."""
        assert not self.full, f"{len(self._waiting)} requests wait already"
        waiting = self._waiting
        waiting[request] = kept_bytes = kept_bytes + GREENLET_BYTES
        self.waiting_bytes += kept_bytes
        if len(waiting) >= self._max_waiting or self.waiting_bytes >= self._max_bytes:
            self.full = True
        return self._idle.pop().switch(source) if self._idle and source.is_left() else self._to_hub()

    def unpark(self, request: Request) -> bool:
        """Whether the request was waiting; from now on it is not."""
        kept_bytes = self._waiting.pop(request, 0)
        if not kept_bytes:
            return False
        self.waiting_bytes -= kept_bytes
        self.full = self.waiting_bytes >= self._max_bytes
        return True

    def expire(self, now_s: float) -> None:
        """Wake whatever has waited until its deadline. To be called by the loop several times a second."""
        for request in [one for one in self._waiting if now_s >= one.deadline_s]:
            request.wake(EXPIRED)
