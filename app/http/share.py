"""The part of the loop's time that HTTP may take, whatever is asked of it.

A request for a page takes a hundred times as long as one for a value, and anybody can ask for thousands. So HTTP works
in pieces, one after the other, in the order in which they were asked for: after PIECE_S or more of them, t in all, the
next one begins t * (1 / SHARE - 1) later, and the loop belongs to the node meanwhile. Whoever is asking waits, in his
connection.

Every piece counts: taking a connection, reading some bytes, making a page, sending. Counting requests was rejected: one
that never ends costs as well, and a page of many members takes longer than one of three.
"""

from collections import deque
from typing import Final

from greenlet import getcurrent, greenlet

from app.loop import Loop

# Of the loop's time. A request costs 0.1 ms, so up to a thousand are answered a second. Raising it slows clients'
# requests down by as much while somebody floods the port.
SHARE: Final = 0.1
# After so much work the loop has its turn, and work that can be interrupted is (s): so long, and the rest of a piece, a
# client's request waits for it. Below the timer's millisecond / SHARE, less than SHARE would be made use of.
PIECE_S: Final = 0.0005
# The longest that the next piece is kept waiting (s): a piece in which the process was stopped took no time of the
# loop's. The longest pieces are a few ms, for which this is enough.
PAUSE_MAX_S: Final = 0.05


class Share:
    """One node's."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._timer = loop.timer()
        self._waiting: deque[greenlet] = deque()
        self._is_armed = False  # the timer runs, or a piece does
        self._began_s = 0.0  # of the piece that runs, or of the last one
        self._ready_s = 0.0  # from then on the next one may begin

    def turn(self) -> None:
        """Wait until this greenlet may work: from then on until it waits for whatever it may be, that is its piece."""
        self.wake(getcurrent())
        self.sleep()

    def sleep(self) -> None:
        """Wait until somebody wakes this greenlet, and then for its turn."""
        try:
            self._loop.hub.switch()
        except BaseException:  # it was cancelled
            me = getcurrent()
            if me in self._waiting:
                self._waiting.remove(me)
            raise

    def wake(self, sleeper: greenlet) -> None:
        """Let a greenlet that sleeps have its turn."""
        self._waiting.append(sleeper)
        self._arm()

    def pause(self) -> None:
        """Give way, if the piece has lasted PIECE_S: for long work, from time to time."""
        if self._loop.now() - self._began_s >= PIECE_S:
            self.turn()

    def _arm(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            self._timer.start(max(0.0, self._ready_s - self._loop.now()), self._work)

    def _work(self) -> None:
        """Let those who wait do a piece each, for PIECE_S. Called by the loop, which is back when one has ended."""
        began_s = now_s = self._began_s = self._loop.now()
        while self._waiting and now_s - began_s < PIECE_S:
            self._began_s = now_s
            self._waiting.popleft().switch()
            now_s = self._loop.now()
        self._ready_s = now_s + min(PAUSE_MAX_S, (now_s - began_s) * (1 / SHARE - 1))
        self._is_armed = False
        if self._waiting:
            self._arm()
