"""What a node tells of itself when it is asked: STATUS, SLOWLOG, VITALS, CONFIG, and the numbers of the protocol.

To make a STATUS takes 0.7 ms for three members: with a new one for each that asks, 1,400 small datagrams a second would
take all of a node's time. So each report is kept for a while that depends on how long it took to make.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final

from app import fast
from app.cluster.readiness import Readiness
from app.cluster.view import FOUNDERS_MAX, MEMBERS_MAX
from app.observe.slowlog import SlowLog
from app.requests.settings import Settings
from app.version import VERSION
from app.wire.protocol import ADDRESS_MAX_BYTES, PLACE_DIGITS, PLACE_NOBODY, SLOT_COUNT, VALUE_MAX_BYTES

# A report is made anew once so many times as long has passed as it took: all of them together take less than 5 % of the
# node's time, however often they are asked for. A STATUS of three members is 22 ms old at most, and of this view.
KEPT_TIMES: Final = 30
# And after this (s) in any case: the process may have been stopped in the middle.
KEPT_MAX_S: Final = 0.25

# What STATUS takes at most (bytes): a member's row beside its address (quotes, brackets, commas, and an incarnation of
# 64 bits, "suspect", false, and three counts up to 256) and its digit among those without a link; and the rest.
_ROW_BYTES: Final = len('["",,"suspect",false,256,256,256],') + 20 + 1
_REST_BYTES: Final = 600 + SLOT_COUNT + 2 * ADDRESS_MAX_BYTES + len(',"founders":""') + FOUNDERS_MAX
assert MEMBERS_MAX * (ADDRESS_MAX_BYTES + _ROW_BYTES) + _REST_BYTES <= VALUE_MAX_BYTES
assert len(PLACE_DIGITS) == len(set(PLACE_DIGITS)) == MEMBERS_MAX


class KeptReport:
    """What `make()` returns, called anew only when that has become too old; a fault in it is the caller's."""

    def __init__(
        self, make: Callable[[], bytes], now: Callable[[], float], epoch: Callable[[], int] = lambda: 0
    ) -> None:
        """`now()`: monotonic seconds. `epoch()`: what was made in another is too old."""
        self._make = make
        self._now = now
        self._epoch = epoch
        self._text = b""
        self._made_in = 0
        self._fresh_until_s = -inf

    def __call__(self) -> bytes:
        """As it was made last."""
        began_s, epoch = self._now(), self._epoch()
        if began_s >= self._fresh_until_s or epoch != self._made_in:
            self._text, self._made_in = self._make(), epoch
            made_s = self._now()
            self._fresh_until_s = made_s + min(KEPT_TIMES * (made_s - began_s), KEPT_MAX_S)
        return self._text


class Reports:
    """One node's. The JSON ones take at most VALUE_MAX_BYTES."""

    def __init__(
        self,
        pid: int,
        member_count: Callable[[], int],
        status: Callable[[], bytes],
        slow_log: SlowLog,
        vitals: Callable[[], Mapping[str, object]],
        *,
        epoch: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """`status()`: what STATUS answers. `vitals()`: figures of the process, by name. `epoch()`: of the view that the
        node knows. `now()`: monotonic seconds."""
        self.pid = pid
        self.member_count = member_count
        self.status = KeptReport(status, now, epoch)
        self.slow_requests = KeptReport(slow_log.as_json, now)
        self.config = Settings(slow_log).change
        self.vitals = KeptReport(lambda: json.dumps(vitals(), separators=(",", ":")).encode(), now)


def status_json(
    readiness: Readiness,
    servers: Sequence[str],
    unheard_s: Callable[[str], float] = lambda server: inf,
    founders: Sequence[str] = (),
) -> bytes:
    """What STATUS answers, as compact JSON of at most VALUE_MAX_BYTES; docs/protocol.md has the fields.

    What does not fit is left out from the end: sentences first (`ready` and `whole` say that there are some), then rows
    of absent servers. All members of a view and its table always fit (asserted above), so that the table's places name
    rows that are there. `servers`: that belong to the cluster. `unheard_s(server)`: how long ago it last proved that it
    lives and hears this node; infinite: never. `founders`: of the cluster, once views list who belongs.
    """
    status = readiness.status
    members: list[list[object]] = [
        [
            member.address,
            member.incarnation,
            member.state,
            member.leaving,
            member.primary_slots,
            member.backup_slots,
            member.learner_slots,
        ]
        for member in status.members
    ]
    place = {member.address: number for number, member in enumerate(status.members)}
    absent = [server for server in servers if server not in place]
    members += [[server, 0, "absent", False, 0, 0, 0] for server in absent]
    absent_s = [None if unheard_s(server) == inf else round(unheard_s(server), 1) for server in absent]
    reasons, lacking = list(readiness.reasons), list(readiness.lacking)
    fields: dict[str, object] = {
        "address": status.address,
        "incarnation": status.incarnation,
        "origin": status.cluster_id,
        "version": VERSION,
        "core": fast.CORE,
        "ready": readiness.is_ready,
        "whole": readiness.is_whole,
        **readiness.numbers(),
        "unlinked": "".join(PLACE_DIGITS[place[member]] for member in readiness.unlinked),
        "reasons": reasons,
        "lacking": lacking,
        "primaries": "".join(PLACE_NOBODY if at < 0 else PLACE_DIGITS[at] for at in status.primaries),
        "columns": ["address", "incarnation", "state", "leaving", "primary", "backup", "learner"],
        "members": members,
        "absent_s": absent_s,
    }
    while True:
        digits = dict(zip((row[0] for row in members), PLACE_DIGITS, strict=False))
        fields["founders"] = "".join(digits.get(founder, PLACE_NOBODY) for founder in founders)
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= VALUE_MAX_BYTES:
            return text
        if lacking or reasons:
            (lacking or reasons).pop()
            continue
        assert len(members) > len(status.members), f"{len(members)} members make {len(text)} bytes"
        members.pop()
        absent_s.pop()
        fields["cut"] = True
