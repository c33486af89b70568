"""How the two ends of a link between nodes make sure of each other. No sockets: bytes in, bytes out.

    dialler  -> HELLO      "KVLK" | u8 protocol | u8 flags | u64 incarnation | f64 stamp | 16 bytes nonce | two names
    acceptor -> CHALLENGE  "KVLK" | u8 protocol | u8 flags | u64 incarnation | f64 stamp | 16 bytes nonce
    dialler  -> PROOF      32 bytes: HMAC-SHA256 over "dialler", HELLO and CHALLENGE
    acceptor -> PROOF      32 bytes: the same with "acceptor"

The protocol is NODE_PROTOCOL (app/version.py), of all that is said between nodes. A stamp is what the sender's clock
shows (s), as later in frames LIFE (links.py). The names, each with a length byte, are the dialler's and the acceptor's
own lines in the servers file, so a proof is good for one pair, one direction and, by the nonces, one link. The dialler
proves itself first: whoever just connects gets nothing to try secrets on. Without a secret the proofs are zeros; the
listener then goes by the source address.

Protected with a secret: nobody without it becomes the end of a link. Not protected: the frames afterwards carry no
HMAC and are not encrypted, so whoever can change packets between two nodes can read and alter them. An HMAC a write
(measured: 6.4 µs for ten small frames, on either side) would end the altering and not the reading; who has such
neighbours needs a VPN in any case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from app.cluster.limits import INCARNATION, is_clock
from app.peers.mac import MAC_BYTES, Mac
from app.version import NODE_PROTOCOL

_MAGIC: Final = b"KVLK"
_HAS_SECRET: Final = 1  # flag
_KEY_LABEL: Final = b"kv links 1"
_GREETING: Final = Struct("<4sBBQd16s")

NONCE_BYTES: Final = 16
GREETING_BYTES: Final = _GREETING.size  # a CHALLENGE, and the part of a HELLO before the names
PROOF_BYTES: Final = MAC_BYTES
NAME_MAX_BYTES: Final = 255


class Refused(Exception):
    """The other end is not let in; the reason is one word for a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Greeting:
    """What one end says of itself."""

    data: bytes  # as it travelled
    incarnation: int
    stamp_s: float  # what its clock showed


class Handshake:
    """Makes and checks the messages for one node."""

    def __init__(self, secret: bytes | None) -> None:
        self._flags = _HAS_SECRET if secret else 0
        self._macs = [Mac(secret, _KEY_LABEL)] if secret else []

    def take(self, secrets: Sequence[bytes]) -> None:
        """These are taken from now on, where there was one before, and the first of them is used."""
        assert secrets
        assert self._macs
        self._macs = [Mac(secret, _KEY_LABEL) for secret in secrets]

    def greeting(self, incarnation: int, stamp_s: float, nonce: bytes) -> bytes:
        """The CHALLENGE, and the beginning of a HELLO."""
        assert len(nonce) == NONCE_BYTES, nonce
        return _GREETING.pack(_MAGIC, NODE_PROTOCOL, self._flags, incarnation, stamp_s, nonce)

    def hello(self, incarnation: int, stamp_s: float, nonce: bytes, dialler: str, acceptor: str) -> bytes:
        """The HELLO."""
        return self.greeting(incarnation, stamp_s, nonce) + _name(dialler) + _name(acceptor)

    def check(self, data: bytes) -> Greeting:
        """The other end's greeting, of GREETING_BYTES. Raises Refused: malformed, other_protocol, no_secret (there),
        secret_needed (there, and we have none), out_of_range."""
        magic, protocol, flags, incarnation, stamp_s, _ = _GREETING.unpack(data)
        if magic != _MAGIC:
            raise Refused("malformed")
        if protocol != NODE_PROTOCOL:
            raise Refused("other_protocol")
        if flags != self._flags:
            raise Refused("no_secret" if self._flags else "secret_needed")
        if not (INCARNATION.has(incarnation) and is_clock(stamp_s)):
            raise Refused("out_of_range")
        return Greeting(data, incarnation, stamp_s)

    def proof(self, side: str, hello: bytes, challenge: bytes, which: int = 0) -> bytes:
        """The PROOF of one side, "dialler" or "acceptor"; `which`: by which of the secrets, or the last one."""
        if not self._macs:
            return bytes(PROOF_BYTES)
        return self._macs[min(which, len(self._macs) - 1)].of(side.encode() + hello + challenge)

    def check_proof(self, side: str, hello: bytes, challenge: bytes, given: bytes) -> int:
        """By which of the secrets the other side's proof is right. Raises Refused("wrong_secret")."""
        for which, mac in enumerate(self._macs):
            if mac.fits(side.encode() + hello + challenge, given):
                return which
        if self._macs:
            raise Refused("wrong_secret")
        return 0


def _name(name: str) -> bytes:
    data = name.encode()
    assert len(data) <= NAME_MAX_BYTES, name
    return b"%c%b" % (len(data), data)
