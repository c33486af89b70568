"""Two one-way connections made into one link: what replication means by the word.

The problem: each node dials every other, so between two nodes each direction is a connection of its own that breaks
and comes back by itself (links.py). Replication counts on a link that loses nothing but by ending, and whose end both
sides see: else a frame of before the break would be taken for one of after it.

The approach: whoever dials gives the connection a random number and says first thing over it, in a frame PAIR, that
number and the number of the connection it reads from (0 while it knows none). A node that learns a new number of its
peer's answers with a PAIR of its own. The link is up for a node once its peer says that it reads from this node's
present connection; it is down as soon as either connection has ended or was replaced. As frames on a connection keep
their order, whatever came before that PAIR belongs to an earlier link and is not passed on.

Rejected: one connection for both directions, whose two ends would have to agree on who dials, and which a refused
connection would prove less about (app/cluster/membership/links.py).
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

from app.cluster.replication.frames import BadFrame
from app.peers.frames import PAIR

_PAIR: Final = Struct("<QQ")  # the number of the sender's connection; of the receiver's, as the sender knows it


class _Pair:
    __slots__ = ("is_up", "mine", "theirs")

    def __init__(self) -> None:
        self.mine = 0  # number of the connection we dialled; 0: there is none
        self.theirs = 0  # number of the one we read from, as far as it was told
        self.is_up = False


class Frames(Protocol):
    """Sends frames over the connections that this node dialled."""

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool: ...


class PairHandler(Protocol):
    """Is told, in turn, that a link is up and that it is down."""

    def link_up(self, peer: str) -> object: ...
    def link_down(self, peer: str) -> object: ...


class Pairs:
    """The links with all peers. Build it, then `start` it with whoever is to be told."""

    def __init__(self, connections: Frames, random_bytes: Callable[[int], bytes]) -> None:
        self._connections = connections
        self._random_bytes = random_bytes
        self._handler: PairHandler
        self._pairs: dict[str, _Pair] = {}

    def start(self, handler: PairHandler) -> None:
        """Before any connection is there."""
        self._handler = handler

    def is_up(self, peer: str) -> bool:
        """Whether frames of this link may be sent to the peer, and taken from it."""
        pair = self._pairs.get(peer)
        return pair is not None and pair.is_up

    @property
    def up(self) -> int:
        """How many are up."""
        return sum(pair.is_up for pair in self._pairs.values())

    def _of(self, peer: str) -> _Pair:
        pair = self._pairs.get(peer)
        if pair is None:
            pair = self._pairs[peer] = _Pair()
        return pair

    def dialled(self, peer: str) -> None:
        """Our connection to the peer is there."""
        pair = self._of(peer)
        self._down(peer, pair)
        pair.mine = int.from_bytes(self._random_bytes(8), "little") | 1
        self._tell(peer, pair)

    def dialled_ended(self, peer: str) -> None:
        """Our connection to the peer has ended."""
        pair = self._of(peer)
        pair.mine = 0
        self._down(peer, pair)

    def incoming_changed(self, peer: str) -> None:
        """The peer's connection to us has ended, or was replaced: we read from none that we know."""
        pair = self._of(peer)
        pair.theirs = 0
        self._down(peer, pair)

    def on_pair(self, peer: str, body: bytes) -> None:
        """A frame PAIR over the peer's connection. Raises BadFrame."""
        if len(body) != _PAIR.size:
            raise BadFrame(f"PAIR of {len(body)} bytes")
        theirs, mine = _PAIR.unpack(body)
        pair = self._of(peer)
        if theirs != pair.theirs:
            pair.theirs = theirs
            self._down(peer, pair)
            if pair.mine:
                self._tell(peer, pair)
        if pair.mine and mine == pair.mine and not pair.is_up:
            pair.is_up = True
            self._handler.link_up(peer)

    def _tell(self, peer: str, pair: _Pair) -> None:
        self._connections.send(peer, PAIR, _PAIR.pack(pair.mine, pair.theirs))

    def _down(self, peer: str, pair: _Pair) -> None:
        if pair.is_up:
            pair.is_up = False
            self._handler.link_down(peer)
