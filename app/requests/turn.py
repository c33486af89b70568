"""The present turn of the loop: its time, whether this node may serve in it, and whether it stalled before.

A node serves a slot only while its lease runs. The clock is read once when a turn's input is there (`open`), which
decides where requests go, and once more when they have been executed (`may_serve`), which decides whether the replies
leave: a process that was stopped in between, and wakes up when others serve its slots, answers nothing.
"""

from collections.abc import Callable
from typing import Final

from app.cluster.events import UNKNOWN, MembershipService
from app.requests.commands import Commands
from app.requests.request import STALL_S
from app.wire.protocol import SLOT_COUNT

_NOBODY: Final = [UNKNOWN] * SLOT_COUNT


class Turn:
    """See the module. All times are seconds of `clock`, which membership's `now` is by."""

    def __init__(
        self, commands: Commands, membership: MembershipService, routes: list[str], clock: Callable[[], float]
    ) -> None:
        """`routes`: by slot, changed in place: where requests go while the lease runs."""
        self._commands = commands
        self._membership = membership
        self._routes = routes
        self._clock = clock
        self.now_s = clock()
        self.stalls = 0
        # Whether the routes can be trusted for other nodes' slots: a member without a lease may be the one that is cut
        # off. An outsider has no lease by right; it relays by the view that it observes.
        self.may_forward = False
        # Called when a turn begins STALL_S or more after the one before: what waits in sockets may be old.
        self.on_stall: list[Callable[[], object]] = []

    def open(self) -> bool:
        """Begin with a turn's input; whether the lease runs. Also to be called several times a second if there is none.

        If it does, and it does not any more after the execution (`may_serve`), no reply may be sent.
        """
        now = self._clock()
        since, self.now_s = self.now_s, now
        if now - since >= STALL_S:
            self.stalls += 1
            for told in self.on_stall:
                told()
        serving = now < self._membership.lease_until
        self.may_forward = serving or not self._membership.is_member
        self._commands.routes = self._routes if serving else _NOBODY
        return serving

    def read_clock(self) -> float:
        """The time now, which may be later than the turn's."""
        return self._clock()

    def may_serve(self) -> bool:
        """Whether the lease runs."""
        return self._clock() < self._membership.lease_until
