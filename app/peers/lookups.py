"""Servers' names looked up again, beside the loop, when there is reason to think that an address has changed.

The problem: the address that a name had at this node's start need not be its server's for ever. A container that starts
again gets another one, so may a machine; a name may have had none at all when this node looked. A resolver can take
seconds, in which the node must go on.

The approach: a name is asked for in a thread (Sockets.look_up) when its peer is doubted: a dial has come to nothing, or
the peer has come from elsewhere (links.py). No more often than each LOOKUP_S and never twice at once, so a peer that is
down costs a question a second. While links are up nobody asks: a name that changes without need is none of our
business. An address stays as long as the name still has it, whatever others it has got.

The alternative, to take the address that a peer with the secret comes from, was rejected: behind a translator of
addresses it is not the one to reach it by.
"""

from collections.abc import Callable
from typing import Final

from app.config.servers import is_unusable
from app.loop import Loop
from app.observe import logs
from app.peers.addresses import Peers

# Between two questions for one name. Longer: a server that has moved is found later; shorter: more work for resolvers,
# which keep what they know for seconds anyway.
LOOKUP_S: Final = 1.0

_log = logs.logger("links")
_faults = logs.limited_logger("links")


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
        self._asked_s: dict[str, float] = {}
        self._busy: set[str] = set()
        self._unresolved: set[str] = set()  # of which the log says so

    def doubt(self, peer: str) -> None:
        """The peer may have another address by now: its name is looked up soon, if it has one."""
        host, asked_s = self._peers.host_name(peer), self._asked_s.get(peer)
        is_too_soon = asked_s is not None and self._loop.now() - asked_s < LOOKUP_S
        if not host or peer in self._busy or is_too_soon:
            return
        self._busy.add(peer)
        self._asked_s[peer] = self._loop.now()
        self._loop.spawn(self._ask, peer, host)

    def _ask(self, peer: str, host: str) -> None:
        found: list[str] = []
        cause: object = "it has no address of one machine"
        try:
            found = [address for address in self._look_up(host) if not is_unusable(address)]
        except OSError as error:
            cause = error.strerror or error
        self._busy.discard(peer)
        if self._peers.host_name(peer) != host:  # it is no server any more
            return
        if found:
            self._take(peer, found)
        elif peer not in self._unresolved:
            self._unresolved.add(peer)
            check = "the spelling in the servers file, DNS or /etc/hosts"
            _faults.warning("unresolved", peer=peer, cause=cause, address=self._peers.address(peer), check=check)

    def _take(self, peer: str, found: list[str]) -> None:
        before = self._peers.address(peer)
        self._unresolved.discard(peer)
        if before not in found:
            self._peers.move(peer, found[0])
            _log.info("address", peer=peer, address=found[0], before=before)
            self._moved(peer)
