"""Servers' names looked up again, beside the loop, when there is reason to think that an address has changed.

The problem: the address that a name had at this node's start need not be its server's for ever. A container that starts
again gets another one, so may a machine; a name may have had none at all when this node looked. A resolver can take
seconds, in which the node must go on.

The approach: a name is asked for in a thread (Sockets.look_up) when its peer is doubted: a dial has come to nothing, or
the peer has come from elsewhere (links.py). No more often than each LOOKUP_S and never twice at once, so a peer that is
down costs a question a second; a doubt that comes too soon, or while the answer is awaited, waits for its turn. A peer
that has come from elsewhere has a link, so no dial will doubt it again, while what is sent to its old address is lost:
its name is asked for, more and more seldom, until it has the address that the peer came from. (Names are told late,
by a resolver that keeps what it knows; and behind a translator of addresses they never have it.) Else, while links are
up, nobody asks: a name that changes without need is none of our business. An address stays as long as the name still
has it, whatever others it has got.

The alternative, to take the address that a peer with the secret comes from, was rejected: behind a translator of
addresses it is not the one to reach it by.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from typing import Final

from app.config.servers import is_unusable
from app.loop import Loop, Timer
from app.observe import logs
from app.peers.addresses import Peers, is_same_host

# Between two questions for one name. Longer: a server that has moved is found later; shorter: more work for resolvers,
# which keep what they know for seconds anyway.
LOOKUP_S: Final = 1.0
# At most so long, where a peer comes from an address that its name does not have. Longer: what a resolver tells later
# than this is noticed later; shorter: more questions that come to nothing.
_PAUSE_MAX_S: Final = 64.0

_log = logs.logger("links")
_faults = logs.limited_logger("links")


@dataclass(slots=True)
class _Doubt:
    """What is thought of one peer's address."""

    timer: Timer  # for the next question
    is_wanted: bool = False  # since the last question was asked
    is_asking: bool = False
    asked_s: float = -inf
    pause_s: float = 0.0  # from the last question to the next, at least LOOKUP_S
    came_from: str = ""  # an address that the peer has come from, and its name has not had yet


class Lookups:
    """One node's. `moved(peer)` is called when `peers` has another address for it."""

    def __init__(
        self,
        loop: Loop,
        look_up: Callable[[str], list[str]],
        peers: Peers,
        moved: Callable[[str], object],
    ) -> None:
        """`look_up(host)`: its addresses, in order of preference; waits in its greenlet; raises OSError."""
        self._loop = loop
        self._look_up = look_up
        self._peers = peers
        self._moved = moved
        self._doubts: dict[str, _Doubt] = {}
        self._unresolved: set[str] = set()  # of which the log says so

    def keep(self, peers: Collection[str]) -> None:
        """There are no others any more than these."""
        self._unresolved.intersection_update(peers)
        for peer in [peer for peer in self._doubts if peer not in peers]:
            self._doubts.pop(peer).timer.stop()

    def doubt(self, peer: str, came_from: str = "") -> None:
        """The peer may have another address by now: its name is looked up soon, if it has one. `came_from`: the numeric
        address that it has come from."""
        doubt = self._doubts.get(peer)
        if doubt is None:
            doubt = self._doubts[peer] = _Doubt(self._loop.timer())
        doubt.is_wanted, doubt.pause_s = True, 0.0
        doubt.came_from = came_from or doubt.came_from
        self._ask_in_time(peer, doubt)

    def _ask_in_time(self, peer: str, doubt: _Doubt) -> None:
        host = self._peers.host_name(peer)
        if not host:  # it has none, or is no server any more
            self._doubts.pop(peer, None)
        elif doubt.is_wanted and not doubt.is_asking:
            wait_s = doubt.asked_s + max(LOOKUP_S, doubt.pause_s) - self._loop.now()
            if wait_s > 0:
                doubt.timer.start(wait_s, self._ask_in_time, peer, doubt)
            else:
                doubt.is_asking, doubt.is_wanted, doubt.asked_s = True, False, self._loop.now()
                self._loop.spawn(self._ask, peer, host, doubt)

    def _ask(self, peer: str, host: str, doubt: _Doubt) -> None:
        found: list[str] = []
        cause: object = "it has no address of one machine"
        try:
            found = [address for address in self._look_up(host) if not is_unusable(address)]
        except OSError as error:
            cause = error.strerror or error
        doubt.is_asking = False
        if self._doubts.get(peer) is not doubt:
            return  # meanwhile it was no server
        if self._peers.host_name(peer) == host:
            if found:
                self._take(peer, found)
            else:
                self._complain(peer, cause)
        if doubt.came_from and not doubt.is_wanted:
            if any(is_same_host(doubt.came_from, address) for address in found):
                doubt.came_from = ""
            else:
                doubt.is_wanted, doubt.pause_s = True, min(max(LOOKUP_S, 2 * doubt.pause_s), _PAUSE_MAX_S)
        self._ask_in_time(peer, doubt)

    def _take(self, peer: str, found: list[str]) -> None:
        before = self._peers.address(peer)
        self._unresolved.discard(peer)
        if before not in found:
            self._peers.move(peer, found[0])
            _log.info("address", peer=peer, address=found[0], before=before)
            self._moved(peer)

    def _complain(self, peer: str, cause: object) -> None:
        if peer not in self._unresolved:
            self._unresolved.add(peer)
            check = "the spelling in the servers file, DNS or /etc/hosts"
            _faults.warning("unresolved", peer=peer, cause=cause, address=self._peers.address(peer), check=check)
