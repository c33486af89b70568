"""The greenlets that requests run in: made once, used again and again, and bounded in number.

A request may wait anywhere, so each runs in a greenlet; but a greenlet is not made, nor even switched to, for each. A
worker goes on to the next request of its source as long as they are answered without waiting, and only when one waits
does another worker take over the rest. The one left behind, once its request is answered, joins the idle. (A new
greenlet costs 9 to 12 µs on CPython 3.11, a switch to one 0.3.) Of several that go on in one turn each hands over to
the next, so that a request that waits costs two switches.

How many may wait at once, and what they keep, is bounded (waiting.py).
"""

from functools import partial
from typing import Any, Final

from greenlet import greenlet

from app.loop import Loop
from app.requests.request import Request, Source
from app.requests.waiting import Waiting

# What a parked greenlet keeps besides the datagram and what was made of it: the interpreter's frames, the part of the C
# stack that lies under them, and the request (7.5 KB measured over 2,000 of them: docs/memory.md).
GREENLET_BYTES: Final = 8 * 1024
# Given to requests that wait, in place of an answer.
EXPIRED: Final = object()  # the deadline is over
AGAIN: Final = object()  # what it waited for has changed: look again


class Workers:
    """One node's workers."""

    def __init__(self, loop: Loop, waiting: Waiting) -> None:
        self._hub = loop.hub
        # Not the hub's own `switch`: gevent's looks for a `switch_out` first, which no worker has (0.5 µs).
        self._to_hub = partial(greenlet.switch, loop.hub)
        self._idle: list[greenlet] = []
        self._woken: list[tuple[Request, object]] = []  # what is to go on, and with what; the first one last
        self.waiting = waiting
        self._parked: dict[Request, int] = {}  # and what each keeps (bytes); the longest-waiting first

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
        become_idle, go_on = self._idle.append, self._go_on
        request = Request(me, source)
        while True:
            source.work(request)
            if request.has_expired:
                request = Request(me, source)
            elif request.has_waited:
                request.release()
            become_idle(me)
            source = request.source = go_on()

    def _go_on(self) -> Any:
        """Leave this greenlet, for the next of those that are to go on or else for the loop: what it is woken with."""
        woken, parked = self._woken, self._parked
        while woken:
            request, value = woken.pop()
            kept_bytes = parked.pop(request, 0)
            if kept_bytes:
                self.waiting.remove(kept_bytes)
                return request.greenlet.switch(value)  # type: ignore[union-attr]  # one that waits has a greenlet
        return self._to_hub()

    def park(self, request: Request, answer_bytes: int = 0) -> Any:
        """Leave the request's greenlet, in which this is called, until it is woken: what with.

        To be called only if there is room for one more (Waiting.full), with a request that was kept. `answer_bytes`: of
        an answer that is made already and kept meanwhile.
        """
        # The datagram, and what was made of it: a value to be stored, if it is not yet.
        kept_bytes = GREENLET_BYTES + 2 * len(request.datagram) + answer_bytes
        self.waiting.add(kept_bytes)
        self._parked[request] = kept_bytes
        if not request.has_waited:
            request.has_waited = True
            source = request.source
            if self._idle and source.is_left():
                return self._idle.pop().switch(source)
        return self._go_on()

    def wake(self, woken: list[tuple[Request, object]]) -> None:
        """Let requests go on, each with its value, in order, but for those that do not wait.

        To be called by the loop, never by a request. The list is used up.
        """
        woken.reverse()
        self._woken = woken
        while woken:
            self._go_on()  # whoever goes on hands over to the next; from the loop to the loop is no switch

    def expire(self, now_s: float) -> None:
        """Wake whatever has waited until its deadline. To be called by the loop several times a second."""
        expired = [request for request in self._parked if now_s >= request.deadline_s]
        for request in expired:
            request.has_expired = True
        self.wake([(request, EXPIRED) for request in expired])
