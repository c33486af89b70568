"""What a node tells of itself when it is asked: STATUS, SLOWLOG, VITALS, and the numbers of the protocol."""

import json
from collections.abc import Callable
from typing import Protocol

from app.observe.slowlog import SlowLog


class MembershipReport(Protocol):
    """What membership tells."""

    def member_count(self) -> int: ...
    def status_json(self) -> bytes: ...


class Reports:
    """One node's. The JSON ones take at most VALUE_MAX_BYTES."""

    def __init__(
        self,
        pid: int,
        membership: MembershipReport,
        slow_log: SlowLog,
        vitals: Callable[[], dict[str, int | None]],
    ) -> None:
        """`vitals()`: figures of the process, by name."""
        self.pid = pid
        self.member_count = membership.member_count
        self.status = membership.status_json
        self.slow_requests = slow_log.as_json
        self._vitals = vitals

    def vitals(self) -> bytes:
        """Figures of this process, as JSON."""
        return json.dumps(self._vitals()).encode()
