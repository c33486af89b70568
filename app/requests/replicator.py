"""The shell around the replication core: its frames, its clock, and the answers that wait for copies.

The core (app/cluster/replication/core.py) decides everything and touches no socket. Here a request for a slot that
other nodes keep copies of is given to it together with its origin; frames of its kinds come from links whose both ends
agree (pairs.py); and once per turn of the loop, before the links write, what it wants is carried out: frames to peers,
answers to those whose writes all copies have, requests that this node can't answer any more to whoever leads their
slot now.
"""

from collections.abc import Callable
from typing import Any, Final

from app.cluster.events import SELF
from app.cluster.replication.core import PARKED, Replication
from app.cluster.replication.frames import KINDS, BadFrame
from app.cluster.view import View
from app.observe.counters import REPLICATED, WAITED, Counters
from app.peers.frames import PAIR
from app.peers.links import Links
from app.peers.membership import Membership
from app.peers.pairs import Pairs
from app.requests.commands import ROOM_WAIT_MS, Commands
from app.requests.forwarding import Forwarder
from app.requests.request import Origin
from app.requests.turn import Turn
from app.storage.replies import ReplyMemory
from app.wire.codec import encode_error
from app.wire.protocol import PUT, SYS_OVERLOAD_ERR, WIPEOUT

# What a client is told to wait when too many writes are in flight, and when slots are not served for a moment.
_BUSY_WAIT_MS: Final = 20
_CLOSED_WAIT_MS: Final = 50

_Write = tuple[Origin, int, bytes, int]  # command, messageID and its CRC
_Read = tuple[Origin, bytes]  # the reply


class Copies:
    """One node's copies. Wires itself to all that it is given."""

    def __init__(
        self,
        replication: Replication,
        commands: Commands,
        replies: ReplyMemory,
        counters: Counters,
        *,
        membership: Membership,
        links: Links,
        forwarder: Forwarder,
        turn: Turn,
        datagram_in_hand: Callable[[], bytes],
    ) -> None:
        self.replication = replication
        self._commands = commands
        self._replies = replies
        self._counters = counters
        self._membership = membership
        self._links = links
        self._forwarder = forwarder
        self._turn = turn
        self._datagram_in_hand = datagram_in_hand
        self._is_due = False  # the core has something to be carried out, perhaps
        self.pairs = Pairs(links.send, on_up=self._link_up, on_down=self._link_down)
        links.on_up.append(self.pairs.dialled)
        links.on_down.append(self.pairs.dialled_ended)
        links.on_incoming.append(self.pairs.incoming_changed)
        links.before_flush.append(self._carry_out)
        membership.on_view.append(self._on_view)
        membership.on_reset.append(self._on_reset)
        membership.on_step.append(self._refresh)
        forwarder.on_frame = self._on_frame
        commands.followed = replication.followed
        commands.unacked = replication.unacked
        commands.replicate = self._replicate
        commands.hold = self._hold
        commands.wipe_out = self._wipe_out

    # --- what happens around the node ------------------------------------------------------------------------------

    def _on_view(self, view: View, is_member: bool) -> None:
        self.replication.on_view(view, is_member, self._turn.read_clock())
        self._wake()

    def _on_reset(self) -> None:
        self.replication.reset()
        self._wake()

    def _refresh(self) -> None:
        core = self._membership.core
        self.replication.refresh(core.routes, core.lease_until)
        self._wake()

    def _link_up(self, peer: str) -> None:
        self.replication.link_up(peer, self._turn.read_clock())
        self._wake()

    def _link_down(self, peer: str) -> None:
        self.replication.link_closed(peer, self._turn.read_clock())
        self._wake()

    def tick(self) -> None:
        """To be called every REPLICATION_TICK_S."""
        self.replication.tick(self._turn.read_clock())
        self._wake()

    def _on_frame(self, peer: str, kind: int, body: bytes) -> None:
        if kind in KINDS:
            if self.pairs.is_up(peer):  # else it was sent over a link that is no more
                self.replication.on_frame(peer, kind, body, self._turn.now_s)
                self._wake()
        elif kind == PAIR:
            try:
                self.pairs.on_pair(peer, body)
            except BadFrame:
                self._links.sever(peer)

    def _wake(self) -> None:
        """Have what came of an event carried out at the end of this turn."""
        self._is_due = True
        self._links.wake()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _asking(self) -> Origin:
        origin = self._forwarder.asking()
        if origin.client and not origin.datagram:
            origin.datagram = self._datagram_in_hand()
        return origin

    def _replicate(
        self, message_id: bytes, id_crc: int, command: int, slot: int, key: bytes, blob: bytes
    ) -> bytes | None:
        write: _Write = (self._asking(), command, message_id, id_crc)
        code = self.replication.execute(command, slot, key, blob, message_id, id_crc, write)
        self._wake()
        if code == PARKED:
            return None
        if code != SYS_OVERLOAD_ERR:
            return self._commands.answer(command, message_id, id_crc, code)
        busy_ms = ROOM_WAIT_MS if command == PUT else _BUSY_WAIT_MS
        return self._commands.overloaded(
            command, message_id, id_crc, self._replies.wait_ms if self._replies.full else busy_ms
        )

    def _wipe_out(self, message_id: bytes, id_crc: int) -> bytes | None:
        """Wipe all slots that this node leads, or none: not while one of them is closed, or without a lease."""
        routes = self._commands.routes
        slots = [slot for slot, route in enumerate(routes) if route == SELF]
        replication = self.replication
        if len(slots) < replication.leading and not replication.knows(message_id, id_crc):
            return self._commands.overloaded(WIPEOUT, message_id, id_crc, _CLOSED_WAIT_MS)
        write: _Write = (self._asking(), WIPEOUT, message_id, id_crc)
        code = replication.wipe(slots, message_id, id_crc, write)
        self._wake()
        if code == PARKED:
            return None
        if code == SYS_OVERLOAD_ERR:
            return self._commands.overloaded(WIPEOUT, message_id, id_crc, self._replies.wait_ms)
        return self._commands.answer(WIPEOUT, message_id, id_crc, code)

    def _hold(self, slot: int, key: bytes, reply: bytes) -> bytes | None:
        origin = self._asking()
        read: _Read = (origin, reply)
        if self.replication.hold_read(key, read) or not origin.client:
            return None
        return self._commands.refuse(origin.datagram, _BUSY_WAIT_MS)

    def snapshot(self) -> dict[str, int]:
        """What is counted, by name, and the state in numbers."""
        replication = self.replication
        faults = {f"copies_fault_{reason.replace(' ', '_')}": n for reason, n in sorted(replication.faults.items())}
        return faults | {
            "copies_links_up": self.pairs.up,
            "copies_slots_led": replication.leading,
            "copies_writes_in_flight": replication.pending,
        }

    # --- the end of the turn -----------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Carry out what the turn has brought about."""
        while self._is_due:
            self._is_due = False
            out = self.replication.flush(self._turn.read_clock())
            behind = [peer for peer, kind, body in out.frames if not self._links.send(peer, kind, body)]
            for peer in (*out.closed, *behind):  # one that is too far behind would lack a frame for good
                self._links.sever(peer)
            for learner, slots, epoch in out.synced:
                self._membership.synced(learner, slots, epoch)
            if out.released:
                self._release(out.released)
            for waiting in out.dropped:
                self._see_to_again(waiting[0])
            if out.opened:
                self._forwarder.sweep()
            if out.dropped or out.opened or out.synced:  # what was done about these may have set off more
                self._is_due = True

    def _release(self, released: list[tuple[Any, int | None]]) -> None:
        """Answer those whose writes all copies have, and those who have read such."""
        forwarder = self._forwarder
        answers = self._counters.answers
        replies = []
        for waiting, code in released:
            if code is None:
                origin, reply = waiting
                how = WAITED
            else:
                origin, command, message_id, id_crc = waiting
                answers[command * 8 + code] += 1
                reply = encode_error(message_id, id_crc, code)
                how = REPLICATED
            replies.append((origin, reply, how))
        if not self._turn.may_serve():
            self._counters.unfenced += len(replies)
            return
        now_s = self._turn.read_clock()
        for origin, reply, how in replies:
            forwarder.answer(origin, reply, how, now_s)

    def _see_to_again(self, origin: Origin) -> None:
        """A request whose write is not known to be on all copies, or that has read such a one; this node can't tell
        any more whether it will be. A relaying node notices itself that somebody else leads the slot."""
        if origin.client:
            origin.is_uncertain = True
            self._forwarder.handle_again(origin)
