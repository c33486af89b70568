"""Sealed datagrams: what nodes that share a secret say of membership, proof against forgery and replay.

    u8 1 | u8 length of sender | u64 sender's life | u64 receiver's life | u64 number | sender | body | 16 bytes HMAC

The HMAC (SHA-256, cut to 16 bytes) is over all of this and the receiver's name, so a datagram is good for one receiver
only. A *life* is one process: the microsecond it started in, by the wall clock. A datagram is taken only if it names
the receiver's present life, so whatever was recorded before the receiver started is dead; if its sender's life is not
older than the one last heard, so an earlier process's datagrams are dead too; and once, by its number, in any order
within a window of 64.

A sender learns the receiver's life from an *introduction*, a datagram without a body: whoever gets a datagram for
another life answers with one that names the life it was addressed by. It is taken like any other, so it can't be a
replay either. First contact therefore takes one round trip more, after which the first body is sent again.

If the wall clock was set back between two processes, the later one is told so (the receiver's life in what it gets is
above its own) and raises its life. Timestamps instead of lives were rejected: they need clocks that agree.

Not protected: secrecy (anyone on the path can read), and traffic that is held back or dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from struct import Struct
from typing import Final

from app.peers.mac import Mac

_VERSION: Final = 1  # in the place of a protobuf tag that can't occur: tells sealed from plain
_HEAD: Final = Struct("<BBQQQ")
_MAC_BYTES: Final = 16
_KEY_LABEL: Final = b"kv datagrams 1"
_WINDOW: Final = 64  # numbers; the network reorders a few neighbours at most
_WINDOW_MASK: Final = (1 << _WINDOW) - 1
# An introduction to one peer at most this often: forged or replayed datagrams must not make a node chatter.
_INTRODUCE_S: Final = 0.02
_NAME_MAX_BYTES: Final = 255

# What sealing adds to a body at most.
OVERHEAD_BYTES: Final = _HEAD.size + _NAME_MAX_BYTES + _MAC_BYTES


class BadSeal(ValueError):
    """A datagram that is not to be taken; the reason is one word for a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Peer:
    """What is known of one peer."""

    life: int = 0  # whose datagrams are taken; 0: none heard yet
    sent: int = 0  # number of the last datagram to it
    received: int = 0  # the highest number taken in its life
    taken: int = 0  # bit n: number `received - n` was taken
    unheard: bytes = b""  # the last body sent while its life was not known
    introduced_at: float = -inf

    def take(self, number: int) -> bool:
        """Note a number; False if it was taken before, or is too old to tell."""
        ahead = number - self.received
        if ahead > 0:
            self.taken = (self.taken << min(ahead, _WINDOW) | 1) & _WINDOW_MASK
            self.received = number
            return True
        if -ahead >= _WINDOW or self.taken >> -ahead & 1:
            return False
        self.taken |= 1 << -ahead
        return True


@dataclass(frozen=True, slots=True)
class Opened:
    """A genuine datagram: its body if it is to be taken, and what to send to its sender at once."""

    sender: str
    body: bytes  # empty: there is nothing in it for us
    answers: list[bytes]
    fault: str = ""  # why the body is not taken, in a word for a counter: other_life, stale_sender


class Seals:
    """Seals and opens the datagrams between one node and its peers."""

    def __init__(self, secret: bytes, me: str, peers: Iterable[str], life: int) -> None:
        """`life`: above that of every earlier process at this address, as a rule; 1 to 2**64 - 1."""
        assert life > 0, life
        self.life = life
        self._mac = Mac(secret, _KEY_LABEL)
        self._me = me
        self._me_bytes = me.encode()
        assert len(self._me_bytes) <= _NAME_MAX_BYTES, me
        self._peers = {peer: _Peer() for peer in peers}

    def seal(self, peer: str, body: bytes) -> bytes:
        """The payload that brings `body` to the peer."""
        known = self._peers[peer]
        if not known.life:
            known.unheard = body
        return self._seal(peer, known, known.life, body)

    def _seal(self, peer: str, known: _Peer, life: int, body: bytes) -> bytes:
        known.sent += 1
        head = _HEAD.pack(_VERSION, len(self._me_bytes), self.life, life, known.sent)
        sealed = head + self._me_bytes + body
        return sealed + self._mac.of(_for(peer, sealed), _MAC_BYTES)

    def open(self, payload: bytes, now: float) -> Opened:
        """What is in a payload. Raises BadSeal: not_sealed, malformed, unknown_sender, wrong_secret, replayed."""
        if not payload or payload[0] != _VERSION:
            raise BadSeal("not_sealed")
        if len(payload) < _HEAD.size + _MAC_BYTES:
            raise BadSeal("malformed")
        _, name_bytes, sender_life, receiver_life, number = _HEAD.unpack_from(payload)
        start, end = _HEAD.size + name_bytes, len(payload) - _MAC_BYTES
        if start > end or not sender_life:
            raise BadSeal("malformed")
        sender = payload[_HEAD.size : start].decode("utf-8", "replace")
        known = self._peers.get(sender)
        if known is None:
            raise BadSeal("unknown_sender")
        if not self._mac.fits(_for(self._me, payload[:end]), payload[end:]):
            raise BadSeal("wrong_secret")
        if receiver_life != self.life:
            if receiver_life > self.life and sender_life == known.life and known.take(number):
                self.life = receiver_life + 1  # there was a process here by a later clock
            return Opened(sender, b"", self._introduce(sender, known, sender_life, now), "other_life")
        if sender_life < known.life:
            # Either a replay, or the peer's clock was set back: then this tells it.
            return Opened(sender, b"", self._introduce(sender, known, known.life, now), "stale_sender")
        answers: list[bytes] = []
        if sender_life > known.life:
            known.life, known.received, known.taken = sender_life, 0, 0
            if known.unheard:
                answers.append(self._seal(sender, known, sender_life, known.unheard))
                known.unheard = b""
        if not known.take(number):
            raise BadSeal("replayed")
        return Opened(sender, payload[start:end], answers)

    def _introduce(self, peer: str, known: _Peer, life: int, now: float) -> list[bytes]:
        if now - known.introduced_at < _INTRODUCE_S:
            return []
        known.introduced_at = now
        return [self._seal(peer, known, life, b"")]


def _for(receiver: str, sealed: bytes) -> bytes:
    """What the HMAC is made of."""
    name = receiver.encode()
    return b"%c%b%b" % (len(name), name, sealed)
