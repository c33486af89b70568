"""What each copy must hold, written down beside the nodes: every write by slot, term and seq.

A node that becomes a slot's primary starts a *chapter* with what its copy then holds, and every write that it orders is
the chapter's next line. What a follower applies must be that line; a copy that is given whole must be what the chapter
says at its position; and no messageID may take effect twice in what led to a copy. Writes that nobody knows any more,
because all who had them are gone, are in no chapter that goes on, and may be made again.

WIPEOUT is left out: a retry that reaches another node wipes what that one leads.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.cluster.replication import frames
from app.cluster.replication.follower import Session
from app.cluster.replication.frames import OpFields
from app.cluster.replication.primary import Led, Op
from tests.sim.checks import Violation
from tests.storage import contents

if TYPE_CHECKING:
    from tests.sim.copies import Node


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
    """Of one world. It hears of everything through `watch`."""

    def __init__(self, slots: set[int], *, exact: bool) -> None:
        """`slots`: those that keys are in. `exact`: nothing is evicted, so copies hold all that they should."""
        self._slots = slots
        self._exact = exact
        self._chapters: dict[tuple[int, int, int], Chapter] = {}  # by origin, slot, term

    def watch(self, node: "Node") -> None:
        """Look over the shoulder of a node that starts."""
        replication = node.replication
        primary, follower = replication._primary, replication._follower
        order, apply, on_end = primary.order, follower._apply, follower.on_end

        def ordered(led: Led, kind: int, key: bytes, blob: bytes, message_id: bytes, code: int) -> Op | None:
            self._ordered(node, led, Line(kind, key, blob, message_id))
            return order(led, kind, key, blob, message_id, code)

        def applied(session: Session, op: OpFields) -> bool:
            done = apply(session, op)
            if done and session.live:
                self._applied(node, session, op)
            return done

        def ended(peer: str, body: bytes) -> None:
            before = {slot for slot, session in follower.sessions.items() if not session.live}
            on_end(peer, body)
            for slot in self._slots & before:
                session = follower.sessions.get(slot)
                if session is not None and session.live:
                    self._whole(node, slot, session)

        primary.order, follower._apply, follower.on_end = ordered, applied, ended  # type: ignore[method-assign]

    def _chapter(self, node: "Node", slot: int, term: int) -> Chapter | None:
        view = node.replication._shared.view
        return self._chapters.get((view.origin, slot, term)) if view is not None else None

    def viewed(self, node: "Node", partial: set[int]) -> None:
        """The node has gone over to another view; `partial`: slots of which it had a part only before."""
        shared = node.replication._shared
        for slot in self._slots:
            led = node.replication._primary.led.get(slot)
            if shared.positions[slot] is None or slot in partial or (led is None and shared.positions[slot] == (0, 0)):
                node.took_effect.pop(slot, None)
            if led is None:
                continue
            assert shared.view is not None
            name = (shared.view.origin, slot, led.term)
            known = self._chapters.get(name)
            # All who knew of the same epoch's other view are dead: it never was.
            if known is None or known.author is not node:
                ids = set(node.took_effect.setdefault(slot, set()))
                self._chapters[name] = Chapter(node, led.base[1], ids, contents.entries(node.store, slot))

    def alone(self, node: "Node", slot: int, message_id: bytes) -> None:
        """A write that only this node has."""
        self._take_effect(node, slot, message_id)

    def _take_effect(self, node: "Node", slot: int, message_id: bytes) -> None:
        ids = node.took_effect.setdefault(slot, set())
        if message_id in ids:
            raise Violation(f"slot {slot}: {message_id!r} takes effect again at {node.process.address}")
        ids.add(message_id)

    def _ordered(self, node: "Node", led: Led, line: Line) -> None:
        chapter = self._chapter(node, led.slot, led.term)
        if chapter is not None:
            if line.message_id and line.kind != frames.WIPE_OP:
                self._take_effect(node, led.slot, line.message_id)
            chapter.lines.append(line)

    def _applied(self, node: "Node", session: Session, op: OpFields) -> None:
        if op.slot not in self._slots:
            return
        chapter = self._chapter(node, op.slot, session.term)
        at = op.seq - chapter.base_seq - 1 if chapter is not None else 0
        if chapter is None or not 0 <= at < len(chapter.lines):
            raise Violation(f"slot {op.slot}: {node.process.address} applies {op}, which nobody ordered")
        line = chapter.lines[at]
        if (line.kind, line.key, line.blob, line.message_id) != (op.kind, op.key, op.blob, op.message_id):
            raise Violation(f"slot {op.slot}: {node.process.address} applies {op} in place of {line}")
        if op.message_id and op.kind != frames.WIPE_OP:
            self._take_effect(node, op.slot, op.message_id)

    def _whole(self, node: "Node", slot: int, session: Session) -> None:
        chapter = self._chapter(node, slot, session.term)
        if chapter is None:
            raise Violation(f"slot {slot}: {node.process.address} was given what nobody leads")
        ids, entries = chapter.up_to(session.seq)
        held = contents.entries(node.store, slot)
        if not held.items() <= entries.items() or (self._exact and held != entries):
            raise Violation(f"slot {slot}: {node.process.address} was given {held}, which should be {entries}")
        node.took_effect[slot] = ids
