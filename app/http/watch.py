"""What the status page shows besides the present: the last minutes, the last changes of view, and the other members.

A node knows only its own numbers. The others' it asks for, as any client could: a VITALS to each member over UDP. That
needs no new word between nodes, no convention about HTTP ports, and no trust (the numbers are shown, nothing is decided
by them). It is done only while somebody looks at the page, at most once a second however many look: 63 datagrams and
as many answers a second in the largest cluster, in pieces of HTTP's share of the loop.

Both run in greenlets of their own, whose faults would end the node if they left them (app/loop.py). What they make is
only looked at: a sample that fails is missing from the curve, a round of questions that fails leaves the members' last
answers until they are too old, and either way the log tells.
"""

import json
import os
import time
from collections import deque
from typing import Any, Final, NamedTuple
from zlib import crc32

import gevent
from gevent import socket

from app.fragments import allow_fragments
from app.http import figures
from app.http.figures import Figures, Lately
from app.http.observed import ObservedNode
from app.http.share import Share
from app.observe import logs
from app.observe.histogram import REQUEST_EDGES_S, quantile_s
from app.wire.codec import DecodeError, KVRequest, KVResponse, Msg, parse_msg
from app.wire.protocol import DATAGRAM_MAX_BYTES, PADDING_BYTES, TYPE_RESPONSE, VITALS

SAMPLE_S: Final = 1.0
SAMPLES_MAX: Final = 180  # three minutes
ASK_EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 0.5
# What a member said longer ago is not shown any more.
ANSWER_STALE_S: Final = 5.0

_faults = logs.limited_logger("http")


class _Totals(NamedTuple):
    """What had been counted at some time."""

    at_s: float  # time.monotonic
    requests: int
    durations: list[int]  # by bucket of the latency histogram


class Answer(NamedTuple):
    """What a member last said of itself, and what has happened at it since the time before."""

    figures: Figures
    lately: Lately | None


class Watch:
    """One node's."""

    def __init__(self, node: ObservedNode, share: Share) -> None:
        self._node = node
        self._share = share
        self.rates: deque[float] = deque(maxlen=SAMPLES_MAX)  # requests a second
        self.p99_s: deque[float | None] = deque(maxlen=SAMPLES_MAX)
        self.answers: dict[str, Answer] = {}
        self._last: _Totals | None = None  # at the last sample
        self._asked_s = 0.0
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Sample from now on."""
        self._greenlets.append(gevent.spawn(self._keep_sampling))

    def stop(self) -> None:
        for greenlet in self._greenlets:
            greenlet.kill(block=False)

    # --- this node -----------------------------------------------------------------------------------------------

    def _keep_sampling(self) -> None:
        while True:
            try:
                self.sample()
            except Exception as error:  # noqa: BLE001 - the boundary: see the module
                _faults.exception("sample_failed", error)
            gevent.sleep(SAMPLE_S)

    def sample(self) -> None:
        """Add the rate, and the 99th percentile of durations, since the last sample; the first only begins."""
        before, now = self._last, self._totals()
        self._last = now
        if before is None:
            return
        rate = (now.requests - before.requests) / (now.at_s - before.at_s)
        recent = [new - old for new, old in zip(now.durations, before.durations, strict=True)]
        p99_s = quantile_s(REQUEST_EDGES_S, recent, 0.99)
        self.rates.append(rate)
        self.p99_s.append(p99_s)  # as many as rates, whatever fails

    def _totals(self) -> _Totals:
        return _Totals(time.monotonic(), self._node.requests, self._node.counters.durations())

    # --- all members -----------------------------------------------------------------------------------------------

    def members(self) -> dict[str, Answer]:
        """What they have said of late, this node too; asks anew, without waiting for it, if that was not just done."""
        now_s = time.monotonic()
        self.answers = {name: a for name, a in self.answers.items() if now_s - a.figures.at_s < ANSWER_STALE_S}
        if now_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = now_s
            self._note_answer(str(self._node.options.me), self._node.figures())
            self._greenlets = [greenlet for greenlet in self._greenlets if not greenlet.dead]
            self._greenlets.append(gevent.spawn(self._ask))
        return self.answers

    def _ask(self) -> None:
        try:
            self._ask_members()
        except OSError as error:  # out of descriptors
            _faults.warning("ask_failed", error=error)
        except Exception as error:  # noqa: BLE001 - the boundary: see the module
            _faults.exception("ask_failed", error)

    def _ask_members(self) -> None:
        """One VITALS to each other member of the view, and what has come back in time."""
        peers = self._node.peers
        view = self._node.view
        asked: dict[bytes, str] = {}
        with socket.socket(peers.family, socket.SOCK_DGRAM) as sock, gevent.Timeout(ASK_TIMEOUT_S, False):  # type: ignore[arg-type]
            allow_fragments(sock)
            self._share.turn()
            for name in view.addresses if view else ():
                target = peers.target(name)
                if target is None:
                    continue
                message_id = os.urandom(16)
                try:
                    sock.sendto(_request(message_id), target)
                except OSError:
                    continue
                asked[message_id] = name
                self._share.pause()
            while asked:
                try:
                    data, sender = sock.recvfrom(DATAGRAM_MAX_BYTES)
                except OSError:
                    break
                self._share.turn()  # whoever floods this port, too
                message_id, said = _answer(data)
                name = asked.get(message_id, "")
                target = peers.target(name)
                if said and target is not None and tuple(sender[:2]) == tuple(target[:2]):
                    del asked[message_id]
                    self._note_answer(name, said)

    def _note_answer(self, name: str, said: dict[str, Any]) -> None:
        now = figures.read(said, time.monotonic())
        before = self.answers.get(name)
        self.answers[name] = Answer(now, figures.between(before and before.figures, now))


def _request(message_id: bytes) -> bytes:
    # Filled up for a member that knows this one by another address, so that it is a stranger there.
    payload = KVRequest(command=VITALS, value=bytes(PADDING_BYTES)).SerializeToString()
    checksum = crc32(payload, crc32(message_id))
    return Msg(messageID=message_id, payload=payload, checkSum=checksum).SerializeToString()


def _answer(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """The messageID, and what the member said; nothing when it is no answer to a VITALS."""
    try:
        msg = parse_msg(data)
        if msg.type != TYPE_RESPONSE or msg.checkSum != crc32(msg.payload, crc32(msg.messageID)):
            return b"", {}
        said = json.loads(KVResponse.FromString(msg.payload).value)
    except (DecodeError, ValueError, RecursionError):
        return b"", {}
    return msg.messageID, said if isinstance(said, dict) else {}
