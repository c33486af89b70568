"""Pairs: the link that this node dialled to a peer and the one that the peer dialled, taken as one.

The problem: each node dials every other, so between two nodes each direction is a link of its own that breaks and comes
back by itself (links.py). Replication counts on a connection that loses nothing but by ending, and whose end both sides
see: else a frame of before the break would be taken for one of after it. (What its core calls a link is a pair.)

The approach: whoever dials gives the link a random number and says first thing over it, in a frame PAIR, that number
and the number of the link that it reads from (0 while it knows none). A node that learns a new number of its peer's
answers with a PAIR of its own. The pair is up for a node once its peer says that it reads from this node's present
link; it is down as soon as either link has ended or was replaced. As frames on a link keep their order, whatever came
before that PAIR belongs to an earlier pair and is not passed on.

An example. Nodes a and b; one way takes 1 ms. PAIR(7, 0) says: this is link 7, and of yours I know nothing.

     0 ms  a has dialled b. It gives the link the number 7 and says PAIR(7, 0).
     1 ms  b knows: a's link is 7. It has none to a, so it can't answer.
     5 ms  b has dialled a, number 9: PAIR(9, 7).
     6 ms  a knows: b's link is 9, and b reads from 7. The pair is up for a: it sends PAIR(7, 9), as 9 was new, and
           frames behind it, and takes what comes over 9.
     7 ms  b knows that a reads from 9: up for b, too. Whatever a has sent over this pair comes behind that PAIR.
    20 ms  b sends a frame F. At the same moment link 7 breaks; a notices: down.
    21 ms  F comes to a over 9, which is whole, and is not taken: the pair is down. b notices the end of 7: down.
    25 ms  a has dialled anew, number 8: PAIR(8, 9).
    26 ms  b: 8 is new, so PAIR(9, 8); and a reads from 9: up. Both ends begin anew, b knows that F may be lost.
    27 ms  a: b reads from 8: up. Had F been slow and come behind the break, it would have come before this PAIR.

A PAIR that is late changes nothing: PAIR(9, 7) at 22 ms finds that a has no link, at 25 ms that it has another.

Rejected: one connection for both directions, whose two ends would have to agree on who dials, and which a refused
connection would prove less about (app/cluster/membership/dialling.py).
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

from app.cluster.replication.frames import BadFrame
from app.peers.frames import PAIR

_PAIR: Final = Struct("<QQ")  # the number of the sender's link; of the receiver's, as the sender knows it


class _Pair:
    __slots__ = ("accepted", "dialled", "is_up")

    def __init__(self) -> None:
        self.dialled = 0  # number of the link that this node dialled; 0: there is none
        self.accepted = 0  # number of the one that the peer dialled; 0: it has told none
        self.is_up = False


class FrameSender(Protocol):
    """Sends frames over the links that this node dialled."""

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool: ...


class PairHandler(Protocol):
    """Is told, in turn, that the pair with a peer is up and that it is down."""

    def link_up(self, peer: str) -> object: ...
    def link_down(self, peer: str) -> object: ...


class Pairs:
    """One node's, with all peers. Build it, then `start` it with whoever is to be told."""

    def __init__(self, links: FrameSender, random_bytes: Callable[[int], bytes]) -> None:
        self._links = links
        self._random_bytes = random_bytes
        self._handler: PairHandler
        self._pairs: dict[str, _Pair] = {}

    def start(self, handler: PairHandler) -> None:
        """Before any link is there."""
        self._handler = handler

    def is_up(self, peer: str) -> bool:
        """Whether frames may be sent to the peer, and taken from it."""
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
        """The link that this node dialled is there."""
        pair = self._of(peer)
        self._down(peer, pair)
        pair.dialled = int.from_bytes(self._random_bytes(8), "little") | 1
        self._tell(peer, pair)

    def dialled_ended(self, peer: str) -> None:
        """The link that this node dialled has ended."""
        pair = self._of(peer)
        pair.dialled = 0
        self._down(peer, pair)

    def accepted_changed(self, peer: str) -> None:
        """The link that the peer dialled has ended, or was replaced: the present one's number is not known."""
        pair = self._of(peer)
        pair.accepted = 0
        self._down(peer, pair)

    def on_pair(self, peer: str, body: bytes) -> None:
        """A frame PAIR over the link that the peer dialled. Raises BadFrame."""
        if len(body) != _PAIR.size:
            raise BadFrame(f"PAIR of {len(body)} bytes")
        accepted, dialled = _PAIR.unpack(body)
        pair = self._of(peer)
        if accepted != pair.accepted:
            pair.accepted = accepted
            self._down(peer, pair)
            if pair.dialled:
                self._tell(peer, pair)
        if pair.dialled and dialled == pair.dialled and not pair.is_up:
            pair.is_up = True
            self._handler.link_up(peer)

    def _tell(self, peer: str, pair: _Pair) -> None:
        self._links.send(peer, PAIR, _PAIR.pack(pair.dialled, pair.accepted))

    def _down(self, peer: str, pair: _Pair) -> None:
        if pair.is_up:
            pair.is_up = False
            self._handler.link_down(peer)
