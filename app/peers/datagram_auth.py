"""Authenticated datagrams: what nodes that share a secret say of membership, proof against forgery and replay.

    u8 1 | u8 length of sender | u64 sender's incarnation | u64 receiver's incarnation | u64 number | sender | body |
    16 bytes HMAC

The HMAC (SHA-256, cut to 16 bytes) is over all of this and the receiver's name, so a datagram is good for one receiver
only. An *incarnation* is one process: the microsecond it started in, by the wall clock. A datagram is taken

- only if it names the receiver's present incarnation: whatever was recorded before the receiver started is refused;
- only if its sender's incarnation is not older than the one last heard: so is what an earlier process has sent;
- once, by its number, in any order within a window of 64.

A sender learns the receiver's incarnation from an *introduction*, a datagram without a body: whoever gets a datagram
for another incarnation answers with one that names the incarnation it was addressed by. It is verified like any other,
so it can't be a replay either. First contact therefore takes one round trip more, after which the body is sent again.

An example. Node a started at 100 (µs, by its wall clock), b at 200; one way takes 1 ms. (a 100 -> b 0, #1) stands for
a's first datagram, which says that a is incarnation 100 and b, for all that a knows, incarnation 0.

      0 ms  a has something to say to b, of which it has heard nothing: (a 100 -> b 0, #1, "hello"). It keeps "hello".
      1 ms  b checks the HMAC: genuine, but 0 is not its incarnation, so "hello" is not taken: it could be years old.
            b introduces itself: (b 200 -> a 100, #1, no body). Of a it still believes nothing.
      2 ms  a finds its own incarnation in it, so it was made after a had started: b is 200. It says again what it
            kept: (a 100 -> b 200, #2, "hello").
      3 ms  b finds its own incarnation in it and takes "hello": a is 100, and #2 was taken.
      9 ms  Somebody who has listened sends #2 to b once more. That number was taken: refused as replayed.
    500 ms  b is restarted, as 250, and somebody sends #2 once more. It is for 200, so it is not taken. b introduces
            itself: (b 250 -> a 100). a knows of the restart; what it says next is taken, and b has heard 100.
    600 ms  a is restarted, as 50: its wall clock was set back. It says (a 50 -> b 0, #1), is introduced to b 250 and
            says (a 50 -> b 250, #2). b has heard 100, so this could be a record of an earlier process: not taken.
    700 ms  The same with #3, and as the last introduction was more than 20 ms ago, b answers (b 250 -> a 100). a finds
            an incarnation above its own there, so a process was here by a later clock. It takes 101 and introduces
            itself: (a 101 -> b 250). b hears it from now on.

Whoever knows the secret can say the highest number, or the highest incarnation, in a peer's name; all that the peer
itself says would then count as old. So when nothing of a peer has been taken for FORGOTTEN_S, and something genuine
comes of it that names this very incarnation, what is known of the peer is forgotten and this process takes another
incarnation: whatever was recorded before is for one that is no more.

Timestamps instead of incarnations were rejected: they need clocks that agree. Membership has incarnations of its own
(an expelled process takes a new one); both begin at the same number, and need not stay equal.

Not protected: secrecy (anyone on the path can read), and traffic that is held back or dropped.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from struct import Struct
from typing import Final

from app.cluster.limits import COUNTER, INCARNATION, OUTBID_MAX
from app.peers.mac import Mac
from app.wire.protocol import ADDRESS_MAX_BYTES, SERVERS_MAX

_VERSION: Final = 1  # in the place of a protobuf tag that can't occur: tells authenticated from plain
_HEAD: Final = Struct("<BBQQQ")
_MAC_BYTES: Final = 16
_KEY_LABEL: Final = b"kv datagrams 1"
_WINDOW: Final = 64  # numbers; the network reorders a few neighbours at most
_WINDOW_MASK: Final = (1 << _WINDOW) - 1
# An introduction to one peer at most this often: forged or replayed datagrams must not make a node chatter.
_INTRODUCE_S: Final = 0.02
_NAME_MAX_BYTES: Final = 255  # what its length has room for; a server's has ADDRESS_MAX_BYTES at most
_FORMER_MAX: Final = 2 * SERVERS_MAX  # that were peers, and whose numbers are kept: 0.3 KB each
# Peers say something each second. Less: who replays what was recorded has a node introduce itself anew that often, when
# the peer it was recorded of is silent.
FORGOTTEN_S: Final = 10.0

# What is added to a body at most.
OVERHEAD_BYTES: Final = _HEAD.size + ADDRESS_MAX_BYTES + _MAC_BYTES


class BadDatagram(ValueError):
    """A datagram that is not to be taken; the reason is one word for a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Peer:
    """What is known of one peer."""

    incarnation: int = 0  # whose datagrams are taken; 0: none heard yet
    sent: int = 0  # number of the last datagram to it
    received: int = 0  # the highest number taken in its incarnation
    taken: int = 0  # bit n: number `received - n` was taken
    unheard: bytes = b""  # the last body sent while its incarnation was not known
    introduced_s: float = -inf  # when this node last introduced itself to it
    taken_s: float = -inf  # when something of it was last taken
    uses: int = 0  # by which of our secrets the datagram of the highest number was signed

    def would_take(self, incarnation: int, number: int) -> bool:
        """Whether a number of this incarnation is new."""
        if incarnation > self.incarnation:
            return True
        behind = self.received - number
        is_new = behind < 0 or (behind < _WINDOW and not self.taken >> behind & 1)
        return is_new and incarnation == self.incarnation

    def take(self, number: int) -> bool:
        """Note a number; False if it was taken before, or is too old to tell."""
        if not self.would_take(self.incarnation, number):
            return False
        ahead = number - self.received
        if ahead > 0:
            self.taken = (self.taken << min(ahead, _WINDOW) | 1) & _WINDOW_MASK
            self.received = number
        else:
            self.taken |= 1 << -ahead
        return True


@dataclass(frozen=True, slots=True)
class Verified:
    """A genuine datagram: its body if it is to be taken, and what to send to its sender at once."""

    sender: str
    body: bytes  # empty: there is nothing in it for us
    answers: list[bytes]
    fault: str = ""  # why the body is not taken, in a word for a counter: other_incarnation, stale_sender


class DatagramAuth:
    """Signs and verifies the datagrams between one node and its peers."""

    def __init__(
        self,
        secret: bytes,
        me: str,
        peers: Iterable[str],
        incarnation: int,
        draw: Callable[[], int] = lambda: 0,
    ) -> None:
        """`incarnation`: above that of every earlier process at this address, as a rule; 1 to OUTBID_MAX. `draw()`: a
        random number from 0 on, by which it is raised besides where that is not so: two processes that are raised past
        the same one must not get the same, or the later one's numbers would count as taken."""
        assert 0 < incarnation <= OUTBID_MAX, incarnation
        self.incarnation = incarnation
        self._draw = draw
        self._macs = [Mac(secret, _KEY_LABEL)]
        self._is_new_used = True
        self._me = me
        self._me_bytes = me.encode()
        assert len(self._me_bytes) <= _NAME_MAX_BYTES, me
        self._peers: dict[str, _Peer] = {}
        self._former: dict[str, _Peer] = {}  # no peers now, the one that was longest ago first
        self.change_peers(peers)

    def take_secrets(self, secrets: Sequence[bytes], *, is_new_used: bool) -> None:
        """These are taken from now on, and the first of them is used; but while not `is_new_used`, the second one with
        peers that use it themselves: they may take no other any more."""
        self._macs = [Mac(secret, _KEY_LABEL) for secret in secrets]
        self._is_new_used = is_new_used
        for known in (*self._peers.values(), *self._former.values()):
            known.uses = 0

    def change_peers(self, peers: Iterable[str]) -> None:
        """These are the peers from now on. With one that was a peer before, the numbers go on where they were: to whom
        this node was known all the time, lower ones are replays."""
        names = tuple(peers)
        self._former.update((peer, known) for peer, known in self._peers.items() if peer not in names)
        self._peers = {peer: self._peers.get(peer) or self._former.pop(peer, None) or _Peer() for peer in names}
        while len(self._former) > _FORMER_MAX:
            del self._former[next(iter(self._former))]

    def sign(self, peer: str, body: bytes) -> bytes:
        """The payload that brings `body` to the peer."""
        known = self._peers[peer]
        if not known.incarnation:
            known.unheard = body
        return self._sign(peer, known, known.incarnation, body, known.uses)

    def _sign(self, peer: str, known: _Peer, incarnation: int, body: bytes, uses: int) -> bytes:
        """`uses`: by which of our secrets the peer signs, as far as we know."""
        known.sent += 1
        head = _HEAD.pack(_VERSION, len(self._me_bytes), self.incarnation, incarnation, known.sent)
        signed = head + self._me_bytes + body
        mac = self._macs[0 if self._is_new_used else uses]
        return signed + mac.of(_for(peer, signed), _MAC_BYTES)

    def verify(self, payload: bytes, now_s: float) -> Verified:
        """What is in a payload. Raises BadDatagram: not_signed, malformed, unknown_sender, wrong_secret, replayed."""
        sender, start, end = _parts(payload)
        _, _, sender_incarnation, receiver_incarnation, number = _HEAD.unpack_from(payload)
        known = self._peers.get(sender)
        if known is None:
            raise BadDatagram("unknown_sender")
        uses = self._signed_by(_for(self._me, payload[:end]), payload[end:])
        is_lost = known.incarnation and known.taken_s < now_s - FORGOTTEN_S
        if is_lost and receiver_incarnation == self.incarnation and not known.would_take(sender_incarnation, number):
            self.incarnation += 1 + self._draw()
            known.incarnation = known.received = known.taken = 0
        if receiver_incarnation != self.incarnation:
            if (
                self.incarnation < receiver_incarnation <= OUTBID_MAX
                and sender_incarnation == known.incarnation
                and known.take(number)
            ):
                # There was a process here by a later clock.
                self.incarnation = receiver_incarnation + 1 + self._draw()
            answers = self._introduce(sender, known, sender_incarnation, uses, now_s)
            return Verified(sender, b"", answers, "other_incarnation")
        if sender_incarnation < known.incarnation:
            # Either a replay, or the peer's clock was set back: then this tells it.
            answers = self._introduce(sender, known, known.incarnation, uses, now_s)
            return Verified(sender, b"", answers, "stale_sender")
        answers = []
        if sender_incarnation > known.incarnation:
            known.incarnation, known.received, known.taken = sender_incarnation, 0, 0
            if known.unheard:
                answers.append(self._sign(sender, known, sender_incarnation, known.unheard, uses))
                known.unheard = b""
        if not known.take(number):
            raise BadDatagram("replayed")
        if number == known.received:  # else it was held up, or held back: perhaps since before the peer went over
            known.uses = uses
        known.taken_s = now_s
        return Verified(sender, payload[start:end], answers)

    def stranger(self, payload: bytes) -> str:
        """Who has signed a payload for this node, and is none of its peers; at any time: it may be a record. Raises
        BadDatagram: not_signed, malformed, wrong_secret."""
        sender, _, end = _parts(payload)
        self._signed_by(_for(self._me, payload[:end]), payload[end:])
        return sender

    def _signed_by(self, data: bytes, given: bytes) -> int:
        """Which of the secrets."""
        for which, mac in enumerate(self._macs):
            if mac.fits(data, given):
                return which
        raise BadDatagram("wrong_secret")

    def _introduce(self, peer: str, known: _Peer, incarnation: int, uses: int, now_s: float) -> list[bytes]:
        if now_s - known.introduced_s < _INTRODUCE_S:
            return []
        known.introduced_s = now_s
        return [self._sign(peer, known, incarnation, b"", uses)]


def _parts(payload: bytes) -> tuple[str, int, int]:
    """The sender, and where the body begins and ends. Raises BadDatagram: not_signed, malformed."""
    if not payload or payload[0] != _VERSION:
        raise BadDatagram("not_signed")
    if len(payload) < _HEAD.size + _MAC_BYTES:
        raise BadDatagram("malformed")
    _, name_bytes, sender_incarnation, receiver_incarnation, number = _HEAD.unpack_from(payload)
    start, end = _HEAD.size + name_bytes, len(payload) - _MAC_BYTES
    if start > end or not (
        INCARNATION.has(sender_incarnation) and receiver_incarnation <= INCARNATION.most and COUNTER.has(number)
    ):
        raise BadDatagram("malformed")
    return payload[_HEAD.size : start].decode("utf-8", "replace"), start, end


def _for(receiver: str, signed: bytes) -> bytes:
    """What the HMAC is made of."""
    name = receiver.encode()
    return b"%c%b%b" % (len(name), name, signed)
