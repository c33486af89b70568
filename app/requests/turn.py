"""The present turn of the loop: its time, whether this node may serve in it, and that it comes to an end.

A node serves a slot only while its lease runs. The clock is read once when a turn's input is there (`open`), which
decides where requests go, and once more before what was executed leaves (`lease_ran_out`): a process that was stopped
in between, and wakes up when others serve its slots, answers nothing.

What a turn has to say leaves at its end, in one order that is written down in one place, Node.end_turn: requests from
the socket and from links, and what came of them, share its system calls.
"""

from collections.abc import Callable
from typing import Final, Protocol

from app.cluster.events import UNKNOWN
from app.loop import Loop
from app.wire.protocol import SLOT_COUNT

_NOBODY: Final = [UNKNOWN] * SLOT_COUNT


class Lease(Protocol):
    """What a turn asks of membership."""

    lease_until: float  # by the loop's clock

    @property
    def is_member(self) -> bool: ...


class Turn:
    """See the module. All times are seconds of the loop's clock."""

    def __init__(
        self,
        loop: Loop,
        lease: Lease,
        routes: list[str],
        *,
        end: Callable[[], object],
    ) -> None:
        """`routes`: by slot, changed in place by their owner: where requests go while the lease runs. `end()` is called
        at the end of each turn in which `wake` was."""
        self._run_callback = loop.run_callback
        self._lease = lease
        self._granted = routes
        self._end = end
        self.is_ending = False  # `wake` was called in this turn; those who call it often look first
        self._owes_lease = False  # something was executed under a lease, and has not left yet
        self.read_clock = loop.now  # the time now, which may be later than the turn's
        self.now_s = loop.now()
        self.serving = False
        self.routes = _NOBODY  # by slot: where requests go in this turn
        # Whether the routes can be trusted for other nodes' slots: a member without a lease may be the one that is cut
        # off. An outsider has no lease by right; it relays by the view that it observes.
        self.may_forward = False

    def open(self) -> None:
        """Begin with a turn's input. Also to be called several times a second if there is none."""
        now = self.now_s = self.read_clock()
        serving = self.serving = now < self._lease.lease_until
        self._owes_lease = serving or (self.is_ending and self._owes_lease)
        self.may_forward = serving or not self._lease.is_member
        self.routes = self._granted if serving else _NOBODY

    def lease_ran_out(self) -> bool:
        """Whether what this turn has executed must not leave: the lease has ended since, others may serve our slots."""
        return self._owes_lease and self.read_clock() >= self._lease.lease_until

    def wake(self) -> None:
        """Have the turn's end come: something is to be sent, or to be carried out."""
        if not self.is_ending:
            self.is_ending = True
            self._run_callback(self._come_to_end)

    def _come_to_end(self) -> None:
        """The loop's call. Those who go on now go by a fresh look at clock and lease."""
        self.open()
        self._end()

    def close(self) -> None:
        """The end's last step: whatever wakes the turn from here on has its end come once more.

        Whatever did so before is carried out in this one.
        """
        self.is_ending = False

    def end(self) -> None:
        """Carry out the end at once, where nobody waits for it."""
        self._end()
