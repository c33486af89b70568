"""A primary's side: which slots it leads, who follows them from where, and which of those have to acknowledge.

What happens to each write is in writes.py.

Who has just become a slot's primary may have writes that were never acknowledged, and that others lack. Were it to
show them, and die, they would vanish again. So the slot is closed until all required have exactly what it has.
What a dead primary had not acknowledged therefore survives if the one chosen as its successor had it, and else not.
"""

from collections.abc import Callable

from app.cluster.limits import SEQ_RENEWED
from app.cluster.replication import frames
from app.cluster.replication.frames import Position
from app.cluster.replication.led import Led, Outbox, Progress
from app.cluster.replication.state import Shared
from app.cluster.replication.transfer import Transfer
from app.cluster.replication.writes import PENDING_MAX_BYTES, Writes
from app.cluster.view import View
from app.storage.mutate import BUSY, HINDRANCES


class Primary(Writes):
    """All slots that this node leads."""

    def __init__(
        self, shared: Shared, queued_bytes: Callable[[str], int], backlog_max_bytes: int = PENDING_MAX_BYTES
    ) -> None:
        """See Replication."""
        super().__init__(shared, backlog_max_bytes)
        self.transfer = Transfer(shared, self.led)
        self._queued_bytes = queued_bytes
        self._synced: dict[str, int] = {}
        self._all_known = True  # every follower had said what it has, when they were asked last
        self._view: View | None = None
        self.transfer.before_chunk = self.flush_peer
        self.lost: set[int] = set()  # ours to lead, but our copy is not whole, and another holder has to

    # Views and links.

    def limit_backlog(self, size_bytes: int) -> None:
        """So much may wait for a peer from now on before writes that it must have are refused."""
        self._backlog_max_bytes = size_bytes

    def entered(self, view: View | None, mine: set[int]) -> None:
        """A view was installed in which these slots are ours to lead."""
        before, self._view = self._view, view
        direct = before and view and (view.cluster_id, view.epoch) == (before.cluster_id, before.epoch + 1)
        self._synced.clear()
        self.lost.clear()
        members = view.incarnations if view else {}
        self._outboxes = {
            peer: outbox for peer, outbox in self._outboxes.items() if peer in members or peer in self._shared.links
        }
        for slot, led in list(self.led.items()):
            if slot not in mine or not direct:
                self._give_up(led)
                if slot in mine and not led.progress:  # nobody else has it, or can have led it meanwhile
                    assert view is not None
                    self._shared.positions[slot] = (view.epoch, 0)
        if view is None:
            return
        for slot in mine:
            self._lead(slot, view)
        self._shared.lose(self.lost)
        self._query()

    def _give_up(self, led: Led) -> None:
        """Its writes in flight are for the next primary to decide on; our position says that we have them."""
        del self.led[led.slot]
        self._shared.positions[led.slot] = led.position_at(led.seq) if led.progress else None
        self.transfer.forget(led.slot)
        while led.log:
            self._finish(led, led.log.popleft(), False)

    def _lead(self, slot: int, view: View) -> None:
        shared = self._shared
        followers = shared.followers(slot)
        led = self.led.get(slot)
        if led is None:
            base = shared.positions[slot]
            if base is None and view.backups[slot]:
                self.lost.add(slot)  # closed, until the next view makes one of those primary that have a whole copy
                return
            if base is None:  # no whole copy is left anywhere: what is here is a part, and may be old
                shared.out.emptied |= 1 << slot
                shared.store.wipe((slot,))
                shared.replies.forget_slots(1 << slot)
                base = (view.epoch, 0)
            elif base[1] > SEQ_RENEWED:  # which none has come to by counting: there would be no end of it to come to
                base = (view.epoch, 0)
            led = self.led[slot] = Led(slot, view.epoch, base)
            shared.positions[slot] = base
        elif not led.progress and followers:
            # Writes without followers are not counted: no copy that was made before may pass for this one.
            led = self.led[slot] = Led(slot, view.epoch, (view.epoch, 0))
            shared.positions[slot] = led.base
            led.is_open = True
        for peer in list(led.progress):
            if peer not in followers:
                del led.progress[peer]
                self.transfer.forget(slot, peer)
        for peer in followers:
            if peer not in led.progress:
                led.progress[peer] = Progress(self._outbox(peer))
        led.required = set(view.backups[slot])
        self._advance(led)
        for peer in led.progress:
            self._consider(led, peer)

    def _query(self) -> None:
        """Have those say what they have that follow without our knowing from where."""
        shared = self._shared
        missing: dict[str, list[int]] = {}
        for slot, led in self.led.items():
            for peer, progress in led.progress.items():
                if not progress.report:
                    missing.setdefault(peer, []).append(slot)
        self._all_known = not missing
        for peer, slots in missing.items():
            shared.send(peer, frames.QUERY, frames.encode_query(*shared.view_name, slots))

    def _outbox(self, peer: str) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = self._outboxes[peer] = Outbox()
        return outbox

    def link_up(self, peer: str) -> None:
        self._outbox(peer).flags = 0
        self._query()

    def link_closed(self, peer: str) -> None:
        self._outbox(peer).take()
        self.transfer.link_closed(peer)
        self._forget_reports(peer)

    def forget_process(self, peer: str) -> None:
        """Nothing of what was agreed on with the peer counts any more. The link goes on, and so does its credit."""
        self._outbox(peer).take()
        self.transfer.forget_all(peer)
        self._forget_reports(peer)

    def _forget_reports(self, peer: str) -> None:
        for led in self.led.values():
            if (progress := led.progress.get(peer)) is not None:
                progress.is_streaming, progress.acked, progress.report = False, -1, 0

    def tick(self) -> None:
        if not self._all_known:
            self._query()
        self.transfer.pump_all()

    # Acknowledgements.

    def on_have(self, peer: str, body: bytes) -> None:
        """What a follower has: let it go on from there, or give it the slot again."""
        shared = self._shared
        epoch, nonce, number, rows = frames.decode_have(body)
        if (epoch, nonce) != shared.view_name:
            return  # the one who is behind says or asks again once it is in the view
        starts = []
        diverged: dict[int, Position] = {}
        backlog: list[bytes] = []
        room_bytes = self._backlog_max_bytes - self._queued_bytes(peer)
        for slot, position in rows:
            led = self.led.get(slot)
            progress = led.progress.get(peer) if led else None
            if led is None or progress is None or progress.report == number:
                continue
            self.transfer.forget(slot, peer)
            self.flush_peer(peer)  # what was sent under the earlier agreement stays before GO
            progress.is_streaming, progress.acked = False, -1
            missing = [op.data for op in led.log if op.seq > position[1]]
            size_bytes = sum(map(len, missing))
            if not led.can_resume_from(position) or size_bytes > self._backlog_max_bytes:
                diverged[slot] = position
            elif missing and size_bytes > room_bytes:
                continue  # more than its link takes now: it reports again
            else:
                room_bytes -= size_bytes
                starts.append((slot, led.term, position))
                progress.is_streaming, progress.acked = True, position[1]
                backlog += missing
            progress.report = number
        self._repair(peer, number, diverged)
        if starts:
            shared.send(peer, frames.GO, frames.encode_start(number, starts))
            self._outbox(peer).ops.extend(backlog)
        for slot, _, _ in starts:
            led = self.led[slot]
            self._advance(led)
            self._consider(led, peer)
        self.transfer.pump(peer)

    def _repair(self, peer: str, number: int, diverged: dict[int, Position]) -> None:
        """Bring copies to where ours are: by what we have written since, if they were there once; else by that and
        what they have, if they can say so (PAST, TOUCHED); else whole."""
        recent = self._shared.recent
        at = {slot: self.led[slot].position for slot in diverged}
        met = recent.met(at, {slot: [(term, seq, seq)] for slot, (term, seq) in diverged.items()})
        asked: dict[int, Position] = {}
        for slot, position in diverged.items():
            if slot in met:
                self.transfer.queue(slot, peer, frames.Patch(slot, 0, position, [], []))
            elif position in (frames.NOWHERE, (0, 0)):
                self.transfer.queue(slot, peer)
            else:
                asked[slot] = at[slot]
        rows = [(slot, *stretch) for slot, stretches in recent.stretches(asked).items() for stretch in stretches]
        if rows:
            self._shared.send(peer, frames.PAST, frames.encode_past(number, rows))

    def on_touched(self, peer: str, body: bytes) -> None:
        """Up to where a follower has what we have, and what it has written since; what is too much is given whole."""
        number, patches = frames.decode_touched(body)
        room = self.transfer.room_for_names()
        for patch in patches:
            led = self.led.get(patch.slot)
            progress = led.progress.get(peer) if led else None
            if progress is None or progress.report != number or progress.is_streaming:
                continue
            if patch.position == frames.NOWHERE or patch.count > room:
                self.transfer.queue(patch.slot, peer)
            else:
                room -= patch.count
                self.transfer.queue(patch.slot, peer, patch)
        self.transfer.pump(peer)

    def on_ack(self, peer: str, body: bytes) -> None:
        self._outbox(peer)
        wrong = self.acknowledged(peer, body, self.transfer.filling(peer))
        if wrong is not None:
            raise frames.BadFrame(wrong)

    def _consider(self, led: Led, peer: str) -> None:
        """A learner that has all that was released is in sync; from now on every release waits for it too."""
        progress = led.progress[peer]
        if peer not in led.required and progress.is_streaming and progress.acked >= led.committed and led.is_open:
            led.required.add(peer)
            self._synced[peer] = self._synced.get(peer, 0) | 1 << led.slot

    # Sending.

    def flush_peer(self, peer: str) -> None:
        """Send the ops that wait for this peer."""
        ops = self._outbox(peer).take()
        if not ops:
            return
        part: list[bytes] = []
        size = 0
        for data in ops:
            if size >= frames.FRAME_FILL_BYTES:
                self._shared.send(peer, frames.OPS, b"".join(part))
                part, size = [], 0
            part.append(data)
            size += len(data)
        self._shared.send(peer, frames.OPS, b"".join(part))

    def flush(self) -> None:
        """Send all ops of this turn, and report the learners in sync."""
        for peer, outbox in self._outboxes.items():
            if outbox.ops or outbox.flags & BUSY:
                self.flush_peer(peer)
                is_behind = self._queued_bytes(peer) > self._backlog_max_bytes
                outbox.flags = outbox.flags & HINDRANCES | (BUSY if is_behind else 0)
        if self._synced:
            assert self._view is not None
            self._shared.out.synced += [(peer, slots, self._view.epoch) for peer, slots in self._synced.items()]
            self._synced.clear()
