"""What each copy must hold, written down beside the nodes: every write by slot, term and seq.

A node that becomes a slot's primary starts a *chapter* with what its copy then holds, and every write that it orders is
the chapter's next line. What a follower applies must be that line; a copy that is given whole must be what the chapter
says at its position; and no messageID may take effect twice in what led to a copy. Writes that nobody knows any more,
because all who had them are gone, are in no chapter that goes on, and may be made again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.cluster.replication import frames
from app.cluster.replication.follower import Session
from app.cluster.replication.frames import OpFields
from app.cluster.replication.led import Led
from app.cluster.view import View
from app.storage.mutate import NOTE, SET, WIPE, change_of
from tests.sim.checks import Violation
from tests.storage import contents

if TYPE_CHECKING:
    from tests.sim.process import Process


@dataclass
class Line:
    kind: int
    key: bytes
    blob: bytes
    message_id: bytes


@dataclass
class Chapter:
    """One slot under one primary's term."""

    author: object
    base_seq: int
    ids: set[bytes]  # that took effect before
    entries: dict[bytes, bytes]  # that were there before
    lines: list[Line] = field(default_factory=list)

    def up_to(self, seq: int) -> tuple[set[bytes], dict[bytes, bytes]]:
        """MessageIDs that took effect, and entries, once the line of this seq is written."""
        ids, entries = set(self.ids), dict(self.entries)
        for line in self.lines[: seq - self.base_seq]:
            if line.message_id:
                ids.add(line.message_id)
            if line.kind == frames.PUT_OP:
                entries[line.key] = line.blob
            elif line.kind == frames.REMOVE_OP:
                entries.pop(line.key, None)
            elif line.kind == frames.WIPE_OP:
                entries.clear()
        return ids, entries


class Ledger:
    """Of one cluster. It hears of everything through `watch`."""

    def __init__(self, slots: set[int], *, exact: bool) -> None:
        """`slots`: those that keys are in. `exact`: nothing is evicted, so copies hold all that they should."""
        self._slots = slots
        self._exact = exact
        self._chapters: dict[tuple[int, int, int], Chapter] = {}  # by cluster, slot, term
        self._took_effect: dict[Process, dict[int, set[bytes]]] = {}  # messageIDs by slot

    def watch(self, process: "Process") -> None:
        """Look over the shoulder of a process that is about to start."""
        self._took_effect[process] = {}
        replication: Any = process.node.replication
        primary, follower = replication._primary, replication._follower
        on_ops, on_end = follower.on_ops, follower.on_end
        on_view, reset, add = replication.on_view, replication.reset, process.node.replies.add

        def applied(peer: str, body: bytes) -> None:
            ops = frames.take_ops(body, OpFields) or []
            sessions = {op.slot: follower.sessions.get(op.slot) for op in ops}
            before = {slot: session.position[1] for slot, session in sessions.items() if session and session.is_whole}
            on_ops(peer, body)
            for op in ops:
                session = sessions[op.slot]
                if session is None or op.slot not in before or (session.primary, session.term) != (peer, op.term):
                    continue
                if before[op.slot] < op.seq <= session.position[1]:
                    self._applied(process, session, op)

        def ended(peer: str, body: bytes) -> None:
            before = {slot for slot, session in follower.sessions.items() if not session.is_whole}
            on_end(peer, body)
            for slot in self._slots & before:
                session = follower.sessions.get(slot)
                if session is not None and session.is_whole:
                    self._whole(process, slot, session)

        def viewed(view: View, is_member: bool, now: float) -> None:
            partial = {slot for slot in self._slots if replication._shared.positions[slot] is None}
            on_view(view, is_member, now)
            self._viewed(process, partial)

        def was_reset() -> None:
            reset()
            self._viewed(process, set())

        def added(message_id: bytes, slot: int, code: int) -> None:
            led = primary.led.get(slot)
            if led is not None and not led.progress:
                self._take_effect(process, slot, message_id)  # a write that only this node has
            add(message_id, slot, code)

        self._watch_orders(process)
        follower.on_ops, follower.on_end = applied, ended
        replication.on_view, replication.reset = viewed, was_reset
        process.node.replies.add = added  # type: ignore[method-assign]

    def _watch_orders(self, process: "Process") -> None:
        """Look at what it orders as a primary."""
        replication: Any = process.node.replication
        primary, replies = replication._primary, process.node.replies
        execute, wipe = replication.execute, replication.wipe

        def executed(
            command: int, slot: int, key: bytes, blob: bytes, message_id: bytes, waiter: object, may_wait: bool = True
        ) -> int:
            led = primary.led[slot]
            before = led.seq
            told: int = execute(command, slot, key, blob, message_id, waiter, may_wait)
            if led.seq > before:
                code = replies.get(message_id)
                assert code is not None, "what was ordered is remembered"
                kind = change_of(command, code)
                line = Line(kind, b"" if kind == NOTE else key, blob if kind == SET else b"", message_id)
                self._ordered(process, led, line)
            return told

        def wiped(slots: Iterable[int], message_id: bytes, waiter: object, *, may_wait: bool = True) -> int:
            before = {slot: led.seq for slot, led in primary.led.items()}
            told: int = wipe(slots, message_id, waiter, may_wait=may_wait)
            for slot, led in primary.led.items():
                if led.seq > before[slot]:
                    self._ordered(process, led, Line(WIPE, b"", b"", message_id))
            return told

        replication.execute, replication.wipe = executed, wiped

    def _chapter(self, process: "Process", slot: int, term: int) -> Chapter | None:
        view = process.node.replication._shared.view
        return self._chapters.get((view.cluster_id, slot, term)) if view is not None else None

    def _viewed(self, process: "Process", partial: set[int]) -> None:
        """The node has gone over to another view; `partial`: slots of which it had a part only before."""
        node = process.node
        shared = node.replication._shared
        took_effect = self._took_effect[process]
        for slot in self._slots:
            led = node.replication._primary.led.get(slot)
            if shared.positions[slot] is None or slot in partial or (led is None and shared.positions[slot] == (0, 0)):
                took_effect.pop(slot, None)
            if led is None:
                continue
            assert shared.view is not None
            name = (shared.view.cluster_id, slot, led.term)
            known = self._chapters.get(name)
            # All who knew of the same epoch's other view are dead: it never was.
            if known is None or known.author is not process:
                ids = set(took_effect.setdefault(slot, set()))
                entries = contents.entries(node.store, slot)
                self._chapters[name] = Chapter(process, led.base[1], ids, entries)

    def _take_effect(self, process: "Process", slot: int, message_id: bytes) -> None:
        ids = self._took_effect[process].setdefault(slot, set())
        if message_id in ids:
            raise Violation(f"slot {slot}: {message_id!r} takes effect again at {process.address}")
        ids.add(message_id)

    def _ordered(self, process: "Process", led: Led, line: Line) -> None:
        chapter = self._chapter(process, led.slot, led.term)
        if chapter is not None and led.slot in self._slots:
            if line.message_id:
                self._take_effect(process, led.slot, line.message_id)
            chapter.lines.append(line)

    def _applied(self, process: "Process", session: Session, op: OpFields) -> None:
        if op.slot not in self._slots:
            return
        chapter = self._chapter(process, op.slot, session.term)
        at = op.seq - chapter.base_seq - 1 if chapter is not None else 0
        if chapter is None or not 0 <= at < len(chapter.lines):
            raise Violation(f"slot {op.slot}: {process.address} applies {op}, which nobody ordered")
        line = chapter.lines[at]
        if (line.kind, line.key, line.blob, line.message_id) != (op.kind, op.key, op.blob, op.message_id):
            raise Violation(f"slot {op.slot}: {process.address} applies {op} in place of {line}")
        if op.message_id:
            self._take_effect(process, op.slot, op.message_id)

    def _whole(self, process: "Process", slot: int, session: Session) -> None:
        chapter = self._chapter(process, slot, session.term)
        if chapter is None:
            raise Violation(f"slot {slot}: {process.address} was given what nobody leads")
        ids, entries = chapter.up_to(session.position[1])
        store = process.node.store
        held = contents.entries(store, slot)
        if not held.items() <= entries.items() or (self._exact and held != entries):
            raise Violation(f"slot {slot}: {process.address} was given {held}, which should be {entries}")
        self._took_effect[process][slot] = ids

    def forget(self, process: "Process") -> None:
        """The process has ended."""
        self._took_effect.pop(process, None)
