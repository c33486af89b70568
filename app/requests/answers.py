"""Answers: made, counted, and brought to whoever asked.

Nothing leaves at once: what a turn of the loop has to say is laid out here and sent when the turn ends, if the lease
under which it was executed still runs then (turn.py).
"""

from bisect import bisect_left
from collections.abc import Callable
from math import ceil
from typing import Final, Protocol

from app.config.allowlist import host_of
from app.fast import piece
from app.observe import logs
from app.observe.counters import Counters
from app.observe.slowlog import SlowLog, show_host
from app.requests.turn import Turn
from app.requests.waiting import Kept
from app.wire.codec import encode_error, encode_response, error_payload, refused
from app.wire.protocol import SYS_OVERLOAD_ERR

_REFUSAL: Final = SYS_OVERLOAD_ERR
# To an address that is over its rate, an answer of so many times the request's bytes is never refused.
SMALL_SHARE: Final = 2

_faults = logs.limited_logger("front")


class Outbox(Protocol):
    """Where datagrams to clients are laid out."""

    def send(self, address: bytes, data: bytes, asked_at: bytes = b"") -> None: ...


class Rate(Protocol):
    """How many bytes of answers an address may get: see app/front/rate.py."""

    limits_until_s: float

    def wait_s(self, host: bytes) -> float: ...


class WholeAnswers:
    """One node's. `Answers` is this one, with what is compiled of it."""

    def __init__(
        self,
        outbox: Outbox,
        counters: Counters,
        slow_log: SlowLog,
        *,
        now: Callable[[], float],
        unix_s: Callable[[], float],
        turn: Turn,
        rate: Rate,
    ) -> None:
        """What is laid out has the turn's end come."""
        self._outbox = outbox
        self._counters = counters
        self._rate = rate
        self._counts = counters.answers
        self._latency = counters.latency
        self._slow_log = slow_log
        self._now = now
        self._unix_s = unix_s
        self._turn = turn
        self._for_peers: dict[str, list[bytes]] = {}

    # --- making and counting -------------------------------------------------------------------------------------

    def code(self, command: int, message_id: bytes, id_crc: int, code: int) -> bytes:
        """The answer that is an error code (which may be 0) and nothing else."""
        self._counts[command * 8 + code] += 1
        return encode_error(message_id, id_crc, code)

    def refusal(self, request: Kept, command: int, message_id: bytes, id_crc: int, wait_ms: int) -> bytes | None:
        """The answer that nothing was done, and that the client may try again after a wait.

        None where that may be untrue: a write that may have taken effect is left to its client's next try.
        """
        if request.is_uncertain:
            return None
        self._counts[command * 8 + _REFUSAL] += 1
        return encode_response(message_id, id_crc, error_payload(SYS_OVERLOAD_ERR, wait_ms))

    def within_rate(self, host: bytes, reply: bytes, asked_bytes: int) -> bytes:
        """What is answered to an address while some are over their rate: a refusal if it is one of them.

        `asked_bytes`: of the request.
        """
        if len(reply) <= SMALL_SHARE * asked_bytes:
            return reply
        wait_s = self._rate.wait_s(host)
        if wait_s <= 0.0:
            return reply
        self._counters.over_rate += 1
        _faults.warning("over_rate", sender=show_host(host))
        return refused(reply, ceil(wait_s * 1000))

    # --- delivering ----------------------------------------------------------------------------------------------

    def deliver(self, request: Kept, reply: bytes) -> None:
        """Bring the answer to a request that has waited to whoever asked, when the turn ends."""
        client = request.client
        if not client:
            self.to_peer(request.peer, reply)
            return
        now_s = self._now()
        if self._rate.limits_until_s > now_s:
            reply = self.within_rate(host_of(client), reply, len(request.datagram))
        self._outbox.send(client, reply, request.asked_at)
        duration_s = now_s - request.received_s
        latency = self._latency[request.how]
        latency.counts[bisect_left(latency.edges_s, duration_s)] += 1
        latency.total_s += duration_s
        if duration_s >= self._slow_log.threshold_s:
            self._slow_log.note(request.datagram, client, duration_s, request.how, unix_s=self._unix_s())
        if not self._turn.is_ending:
            self._turn.wake()

    def to_peer(self, peer: str, reply: bytes) -> None:
        """Bring the answer to a request that a peer has forwarded back to it, when the turn ends."""
        replies = self._for_peers.get(peer)
        if replies is None:
            replies = self._for_peers[peer] = []
            self._turn.wake()
        replies.append(reply)

    def take_for_peers(self) -> dict[str, list[bytes]]:
        """What is to be sent to peers; it is theirs from now on."""
        taken, self._for_peers = self._for_peers, {}
        return taken


@piece
class ShortAnswers:
    """What is compiled of WholeAnswers, in place of its methods: `deliver` and `to_peer`. As Python it is nothing."""


class Answers(ShortAnswers, WholeAnswers):
    """The answers of a node: see WholeAnswers."""
