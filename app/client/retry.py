"""When a request goes out again, and when to give it up: the clock of one request, without a socket.

A try that nobody answers is repeated, with the same messageID, after the silences of CLIENT_TIMEOUTS_MS. A
try that is answered with SYS_OVERLOAD_ERR is repeated after the wait that the node asked for.

The two do not simply add up. A node remembers the answer to a mutating request for a few seconds only; a
try that comes later than that takes effect a second time. The field's schedule ends safely inside (its last
try leaves 4.45 s after the first); overload waits can stretch it. So:

- as long as every try was answered with the refusal, nothing has happened anywhere: the next try starts the
  whole schedule anew, and only the deadline ends this;
- from the first unanswered try on, one may be lying in some queue and take effect yet: no further try
  leaves later than SAFE_RETRY_S after it, however often the node asks to wait.

Whatever happens, all is over at the deadline, which is the caller's.

Every method takes `now` (seconds, by a clock that goes on while the machine is suspended: clock.py) and says when the
caller must look again.
"""

import random
from collections.abc import Sequence
from math import inf
from typing import Final

from app.wire.protocol import CLIENT_TIMEOUTS_MS

# A try leaves at most this long after an unanswered one with the same messageID (s): as late as the field's.
SAFE_RETRY_S: Final = sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000

# How late a scheduled try may still leave (s): timers are late on a busy machine, while one that slept for
# seconds must not send. Nodes remember for 6 s, so this and SAFE_RETRY_S leave a second for the network.
LATE_TRY_S: Final = 0.5
assert SAFE_RETRY_S + LATE_TRY_S <= 5.0

# Bounds of the wait that a node can ask for (ms). Below: a node that names none must not be hammered.
# Above: the longest honest wait is for remembered replies to expire, and that takes five quarters of 6 s; a corrupt one
# must not hang a client.
OVERLOAD_WAIT_MIN_MS: Final = 5
OVERLOAD_WAIT_MAX_MS: Final = 7500

# Up to this share longer than asked, at random: clients that were refused together must not return together.
OVERLOAD_JITTER: Final = 0.25

# How long a call takes at most, if nobody says (s): time for all tries of the field's schedule, and for the longest
# wait that a node can ask for, with its jitter.
TIMEOUT_S: Final = 10.0
assert OVERLOAD_WAIT_MAX_MS / 1000 * (1 + OVERLOAD_JITTER) < TIMEOUT_S
assert sum(CLIENT_TIMEOUTS_MS) / 1000 < TIMEOUT_S


class Attempts:
    """The tries of one request. The caller sends the first one at `now` and then waits until `due`.

    `due`: when to act next. `tries`: sent so far. `unanswered`: some try was met with silence, so that the
    request may have taken effect without our hearing of it.
    """

    __slots__ = (
        "_deadline",
        "_random",
        "_step",
        "_timeouts_ms",
        "_waiting",
        "_window_start",
        "due",
        "tries",
        "unanswered",
    )

    def __init__(
        self,
        now: float,
        timeouts_ms: Sequence[int] = CLIENT_TIMEOUTS_MS,
        deadline: float = inf,
        rng: random.Random | None = None,
    ) -> None:
        assert timeouts_ms, "a request needs the time for one try at least"
        self._timeouts_ms = timeouts_ms
        self._deadline = deadline
        self._random = (rng or random).random
        self._waiting = False  # between a refusal and the next try
        self._step = 0  # index of the current silence in timeouts_ms
        self._window_start = now  # when the oldest try left that may take effect yet
        self.tries = 1
        self.unanswered = False
        self.due = min(now + timeouts_ms[0] / 1000, deadline)

    def again(self, now: float) -> bool:
        """To be called at `due`. True: send it again now, and wait until the new `due`. False: give up."""
        assert now >= self.due, f"asked at {now}, due at {self.due}"
        if self._waiting:
            self._waiting = False
            if not self.unanswered:
                self._window_start = now
        else:
            self.unanswered = True
            self._step += 1
            if self._step >= len(self._timeouts_ms):
                return False
        if now >= self._deadline or (self.unanswered and now > self._window_start + SAFE_RETRY_S + LATE_TRY_S):
            return False
        self.tries += 1
        self.due = min(now + self._timeouts_ms[self._step] / 1000, self._deadline)
        return True

    def overloaded(self, now: float, wait_ms: int) -> bool:
        """A SYS_OVERLOAD_ERR came. True: wait until `due`, then call again(). False: give up.

        `wait_ms` is what the node asked for, zero or less when nothing. A second refusal during
        the wait (the answer to an earlier try) changes nothing. Nothing is sent that would have less time
        for its answer than a first try has: what is known is that it was refused, not that nobody answered.
        """
        if self._waiting:
            return True
        wait_s = min(max(wait_ms, OVERLOAD_WAIT_MIN_MS), OVERLOAD_WAIT_MAX_MS) / 1000
        due = now + wait_s * (1 + OVERLOAD_JITTER * self._random())
        if due + self._timeouts_ms[0] / 1000 > self._deadline or (
            self.unanswered and due > self._window_start + SAFE_RETRY_S
        ):
            return False
        self._waiting = True
        self.due = due
        return True

    def moved(self, now: float) -> bool:
        """The try was turned away before any node saw it; another server may be asked instead.

        True: send it there now, and wait until the new `due`; the schedule does not advance. False: no try is
        out, or it is too late for one more; wait until `due` as before.
        """
        if self._waiting or now >= self._deadline:
            return False
        if self.unanswered and now > self._window_start + SAFE_RETRY_S + LATE_TRY_S:
            return False
        self.tries += 1
        self.due = min(now + self._timeouts_ms[self._step] / 1000, self._deadline)
        return True
