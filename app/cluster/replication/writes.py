"""A primary's writes in flight: executed, ordered and queued for all that follow, acknowledged, answered.

This is what happens for every write; what views, links and reports change about it is in primary.py.

The primary applies a write at once, remembers its reply, and sends it to all that follow. The answer waits until all
that are *required* have acknowledged: the backups of the view, and the learners reported in sync (the next view may
make them backups, and primary, before we hear of it). A read of a key with such a write waits for the same.
"""

from abc import ABC, abstractmethod
from typing import Any, Final

from app.cluster.replication.frames import WIPE_OP, BadFrame, decode_ack, encode_op
from app.cluster.replication.led import Joint, Led, Op, Outbox
from app.cluster.replication.state import Shared
from app.fast import piece
from app.storage.mutate import BUSY, NOTE, SET, change_of
from app.wire.protocol import NO_ERR, SLOT_COUNT, SYS_OVERLOAD_ERR

# Writes in flight, over all slots; more are refused. Each keeps its frame until it is acknowledged. Over paths of 20 ms
# a write is in flight for 40 ms: 100,000 writes a second, or 100 MB, which is ten times what a processor executes.
PENDING_MAX: Final = 4096
PENDING_MAX_BYTES: Final = 4 * 1024 * 1024
# Waiters for one write: a client that repeats itself faster than we answer gains nothing by it.
WAITERS_MAX: Final = 8

WAITS: Final = -100  # it is in `released` once all copies have it, or in `dropped`
IGNORED: Final = -101  # so many wait for the answer already that this one gets none


@piece
class Writes(ABC):
    """Those of all slots that this node leads. `followed`: by slot, those with followers."""

    def __init__(self, shared: Shared, backlog_max_bytes: int = PENDING_MAX_BYTES) -> None:
        """See Replication."""
        self._shared = shared
        self._positions = shared.positions
        self._recent = shared.recent
        self._mutations = shared.mutations
        self.led: dict[int, Led] = {}
        self.followed: list[Led | None] = [None] * SLOT_COUNT  # changed in place
        self.unacked: dict[bytes, Op] = {}  # the latest write in flight, by key
        self.unreleased: dict[bytes, Op | Joint] = {}  # by messageID
        self.pending_bytes = 0
        self.pending = 0
        self.wait_ms = 0  # after a refusal: how long its client is to wait
        self.changed: set[int] = set()  # slots that may have opened or closed
        self._outboxes: dict[str, Outbox] = {}
        self._backlog_max_bytes = backlog_max_bytes
        self.pending_max, self.pending_max_bytes = PENDING_MAX, PENDING_MAX_BYTES

    # Requests.

    def execute(
        self,
        command: int,
        slot: int,
        key: bytes,
        blob: bytes,
        message_id: bytes,
        waiter: Any,
        may_wait: bool = True,
    ) -> int:
        """PUT or REMOVE in a slot with followers: the code to answer with; below 0: WAITS, IGNORED, or `~code` of
        one that was executed before.

        SYS_OVERLOAD_ERR: nothing was done, and nothing is remembered; `wait_ms` says how long the client is to wait.
        `may_wait`: whether the waiter may have to wait for its answer.
        """
        waiting = self.unreleased.get(message_id)
        if waiting is not None:
            return self.joins(waiting, waiter) if may_wait else IGNORED
        led = self.followed[slot]
        assert led is not None, f"slot {slot} has no followers"
        assert led.is_open, f"slot {slot} is not open"
        hindrances = self.refuses(led) | self.busy(may_wait)
        code = self._mutations.execute(command, slot, key, blob, message_id, hindrances)
        if code < 0:
            return code
        if code == SYS_OVERLOAD_ERR:
            self.wait_ms = self._mutations.wait_ms
            return code
        change = change_of(command, code)
        op = self.order(led, change, b"" if change == NOTE else key, blob if change == SET else b"", message_id, code)
        if op is None:
            return code
        self.unreleased[message_id] = op
        op.waiters.append(waiter)
        return WAITS

    def joins(self, waiting: Op | Joint, waiter: Any) -> int:
        """A retry of a write that copies have not acknowledged yet."""
        if len(waiting.waiters) >= WAITERS_MAX:
            return IGNORED
        waiting.waiters.append(waiter)
        return WAITS

    def busy(self, may_wait: bool) -> int:
        """BUSY if nothing more may wait for acknowledgements."""
        room = self.pending < self.pending_max and self.pending_bytes < self.pending_max_bytes
        return 0 if may_wait and room else BUSY

    def refuses(self, led: Led) -> int:
        """Flags that forbid another write to this slot now."""
        flags = self._shared.flags()
        for peer in led.required:
            flags |= led.progress[peer].outbox.flags
        return flags

    def hold_read(self, key: bytes, waiter: Any) -> bool:
        """Let what was read of a key in `unacked` wait for its write; False: it can't be held, refuse it for now.

        The waiter (with the answer in it) comes back with `released`, code NO_ERR.
        """
        op = self.unacked[key]
        if op.readers is None:
            op.readers = []
        elif len(op.readers) >= self.pending_max:
            return False
        op.readers.append(waiter)
        return True

    # Order.

    def order(self, led: Led, kind: int, key: bytes, blob: bytes, message_id: bytes, code: int) -> Op | None:
        """A write that has been applied here: stream it. The op that now waits, or None if nobody is required."""
        slot, term = led.slot, led.term
        seq = led.seq = led.seq + 1
        data = encode_op(kind, slot, code, message_id, key, term, seq, blob)
        size_bytes = len(data)
        positions, position = self._positions, (term, seq)
        self._recent.note((slot, kind, positions[slot] or led.base, position, key, message_id))
        positions[slot] = position
        for progress in led.progress.values():
            if progress.is_streaming:
                outbox = progress.outbox
                outbox.ops.append(data)
                outbox.size_bytes += size_bytes
                if outbox.size_bytes > self._backlog_max_bytes:
                    outbox.flags |= BUSY
        if not led.required:
            led.committed = seq
            return None
        op = Op(seq, code, message_id, key, data, kind == WIPE_OP)
        led.log.append(op)
        self.pending += 1
        self.pending_bytes += size_bytes
        if key:
            self.unacked[key] = op
        if op.wipes:
            led.wipes += 1
            self.changed.add(slot)
        return op

    # Acknowledgements.

    def acknowledged(self, peer: str, body: bytes, filling: set[int]) -> str | None:
        """What an ACK of a peer that has an outbox says; None, or what is wrong with it, and the rest has no effect.

        `filling`: the slots of which it may be said of the copy that the follower had before.
        """
        try:
            flags, rows = decode_ack(body)
        except BadFrame as fault:
            return str(fault)
        outbox = self._outboxes[peer]
        outbox.flags = flags | outbox.flags & BUSY
        for slot, term, seq in rows:
            led = self.led.get(slot)
            progress = led.progress.get(peer) if led is not None else None
            if led is None or progress is None or led.term != term or not progress.is_streaming:
                continue
            if seq > led.seq:
                return f"slot {slot}: has {seq} of {led.seq}"
            if slot in filling:
                continue
            progress.acked = max(progress.acked, seq)
            if peer in led.required:
                self._advance(led)
            else:
                self._consider(led, peer)
        return None

    @abstractmethod
    def _consider(self, led: Led, peer: str) -> None:
        """A follower that is not required may be so from now on: see Primary."""

    def _advance(self, led: Led) -> None:
        """Release what every required follower has."""
        acked = led.seq
        progress = led.progress
        for peer in led.required:
            acked = min(acked, progress[peer].acked)
        opens = False
        if not led.is_open and acked >= led.base[1]:
            led.is_open = True
            self.changed.add(led.slot)
            opens = True
        if acked > led.committed:
            assert acked <= led.seq, (led.slot, acked, led.seq)
            led.committed = acked
        log = led.log
        while log and log[0].seq <= acked:
            self._finish(led, log.popleft(), True)
        if opens:
            for peer in led.progress:
                self._consider(led, peer)

    def _finish(self, led: Led, op: Op, released: bool) -> None:
        """The op leaves the log: answer those who wait for it, if it was acknowledged and our lease runs."""
        shared = self._shared
        released = released and shared.now < shared.lease_until
        self.pending -= 1
        self.pending_bytes -= len(op.data)
        assert self.pending >= 0, self.pending
        if self.unacked.get(op.key) is op:
            del self.unacked[op.key]
        if op.wipes:
            led.wipes -= 1
            self.changed.add(led.slot)
        if self.unreleased.get(op.message_id) is op:
            del self.unreleased[op.message_id]
        if (joint := op.joint) is not None:
            joint.left -= 1
            joint.dropped |= not released
            if not joint.left:
                self.unreleased.pop(op.message_id, None)
                self._answer(joint.waiters, op.code, not joint.dropped)
        self._answer(op.waiters, op.code, released)
        if op.readers:
            self._answer(op.readers, NO_ERR, released)

    def _answer(self, waiters: list[Any], code: int, released: bool) -> None:
        out = self._shared.out
        if released:
            out.released += [(waiter, code) for waiter in waiters]
        else:
            out.dropped += waiters
