"""Links that are missing between members, for people: since when, and a line in the log that says what to check.

The problem: a member that can't be reached by TCP while its datagrams pass looks well to membership, and every write
that needs it waits. Nobody but an operator can open a port; so it must be said, by name, and not with every dial, of
which there are four a second.

The approach: ten times a second the node shows which members it is linked to in both directions and when each was last
heard. A link that stays missing is told once, again every minute, and once more when it is back. What becomes of dials
is noted as it happens: a refusal by a process that is heard afterwards came from something that answers in its place.

A member that nobody hears is membership's to tell (app/cluster/membership/detector.py); here it is no news.
"""

from collections.abc import Callable, Collection
from typing import Final

from app.cluster.events import Event, LinkRefused, LinkUp
from app.cluster.readiness import heard_s
from app.observe import logs

# A link that has been missing for so long is told (s): a member that has just joined is linked within a few round
# trips, and one that restarted within half a second.
MISSING_S: Final = 1.0
AGAIN_S: Final = 60.0  # and again this often, while it lasts

_log = logs.logger("links")
_faults = logs.limited_logger("links")


class _Missing:
    """A member that is not linked."""

    __slots__ = ("since_s", "told_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.told_s: float | None = None


class _Refusal:
    """The latest connection to a server that was refused."""

    __slots__ = ("at_s", "incarnation", "told_s")

    def __init__(self, at_s: float, incarnation: int) -> None:
        self.at_s = at_s
        self.incarnation = incarnation
        self.told_s: float | None = None


class LinkWatch:
    """One node's. `contact(server)`: incarnation of the process there (0: none is known), and when it last proved
    that it lives and hears this node; times are by the loop's clock."""

    def __init__(self, contact: Callable[[str], tuple[int, float]]) -> None:
        self._contact = contact
        self._missing: dict[str, _Missing] = {}
        self._refusals: dict[str, _Refusal] = {}

    def note(self, event: Event, now_s: float) -> None:
        """What has become of a dial."""
        if isinstance(event, LinkRefused):
            before = self._refusals.get(event.peer)
            refusal = self._refusals[event.peer] = _Refusal(now_s, event.incarnation)
            if before is not None and before.incarnation == event.incarnation:
                refusal.told_s = before.told_s
        elif isinstance(event, LinkUp):
            self._refusals.pop(event.peer, None)

    def keep(self, servers: Collection[str]) -> None:
        """There are no other servers any more than these."""
        self._refusals = {peer: refusal for peer, refusal in self._refusals.items() if peer in servers}

    def look(self, members: Collection[str], linked: Collection[str], now_s: float) -> None:
        """To be called several times a second. `members`: the others that membership counts as up; `linked`: peers with
        a link both ways."""
        missing = {peer: self._missing.get(peer) or _Missing(now_s) for peer in members if peer not in linked}
        for peer, one in self._missing.items():
            if one.told_s is not None and peer in linked:
                _log.info("restored", peer=peer, after_s=round(now_s - one.since_s, 1))
        self._missing = missing
        for peer, one in missing.items():
            if now_s - one.since_s >= MISSING_S and _is_due(one.told_s, now_s):
                one.told_s = now_s
                check = "the network to it: its datagrams do not pass either, others hear it"
                if now_s - self._contact(peer)[1] <= heard_s(len(members) + 1):
                    check = f"TCP port {_port(peer)}: its datagrams pass"
                _faults.warning("missing", peer=peer, for_s=round(now_s - one.since_s, 1), check=check)
        for peer, refusal in self._refusals.items():
            if self.is_refused(peer) and _is_due(refusal.told_s, now_s):
                refusal.told_s = now_s
                check = f"TCP port {_port(peer)}: a firewall, proxy or forwarder refuses in its place"
                _faults.warning("refused_by_living", peer=peer, check=check)

    def unlinked_s(self, peer: str, now_s: float) -> float:
        """For how long the member has not been linked, as of the latest look; 0 if it was, or was no member."""
        one = self._missing.get(peer)
        return 0.0 if one is None else now_s - one.since_s

    def is_refused(self, peer: str) -> bool:
        """Whether the latest connection that was refused was refused by a process that has been heard since."""
        refusal = self._refusals.get(peer)
        if refusal is None or not refusal.incarnation:
            return False
        incarnation, proven_s = self._contact(peer)
        return incarnation == refusal.incarnation and proven_s > refusal.at_s


def _is_due(told_s: float | None, now_s: float) -> bool:
    return told_s is None or now_s - told_s >= AGAIN_S


def _port(peer: str) -> str:
    return peer.rpartition(":")[2]
