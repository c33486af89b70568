"""The shell around the cluster core: its clock, its datagrams, its links, and the word to the rest of the node.

The core (app/cluster) decides everything and touches nothing; here its events come from sockets and timers, and its
effects are carried out, in order. One step runs at a time: what an effect sets off (a callback that reports slots as
synced, a link that breaks) waits until the step's effects are done.

Its datagrams are Msgs of type TYPE_CLUSTER through the node's own UDP socket, but past the front's batches: those
wait for the lease to be looked at, which these keep up. Who sent one is told, with a secret, by its seal (seals.py),
and without one by the address it came from: a peer's very address and port. So nothing that a client sends reaches
the core.

The clock is CLOCK_BOOTTIME, which goes on while the machine is suspended: a lease must not outlive a sleep.
"""

import json
import os
import random
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Any, Final
from zlib import crc32

from gevent.event import Event as Flag
from gevent.hub import get_hub

from app.cluster.events import (
    CloseLink,
    Datagram,
    Effect,
    Event,
    LeaveRequested,
    Left,
    Log,
    OpenLink,
    Reset,
    Send,
    SlotsSynced,
    Tick,
    ViewInstalled,
)
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import ADDRESS_MAX_BYTES, MEMBERS_MAX, View
from app.observe import logs
from app.peers.addresses import Peers
from app.peers.datagram_auth import BadSeal, Seals
from app.peers.links import Links
from app.wire.protocol import (
    DATAGRAM_MAX_BYTES,
    PLACE_DIGITS,
    PLACE_NOBODY,
    SLOT_COUNT,
    TYPE_CLUSTER,
    VALUE_MAX_BYTES,
)
from proto_gen.message_pb2 import Msg

_MESSAGE_ID_BYTES: Final = 8
_EXIT_SOFTWARE: Final = 70  # sysexits: internal software error

# What STATUS takes at most (bytes): a member's row beside its address (quotes, brackets, commas, and an incarnation of
# 64 bits, "suspect", false, and three counts up to 256), and the rest.
_STATUS_ROW_BYTES: Final = len('["",,"suspect",false,256,256,256],') + 20
_STATUS_REST_BYTES: Final = 600 + SLOT_COUNT + 2 * ADDRESS_MAX_BYTES
assert MEMBERS_MAX * (ADDRESS_MAX_BYTES + _STATUS_ROW_BYTES) + _STATUS_REST_BYTES <= VALUE_MAX_BYTES
assert len(PLACE_DIGITS) == len(set(PLACE_DIGITS)) == MEMBERS_MAX

_log = logs.logger("cluster")
_faults = logs.limited_logger("cluster")


def now() -> float:
    """Seconds of the clock that leases are measured by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def fresh_incarnation() -> int:
    """Above that of every earlier process here, unless the wall clock was set back (which the core copes with)."""
    return time.time_ns() // 1000


class Membership:
    """One node's membership, running. Build it, wire it, `start` it.

    `core` is what the hot path reads (`routes`, `lease_until`, `member_count`; see cluster.events.Membership), by the
    clock `now`. Callbacks, none of which may block: `on_view` gets each view this node goes by, and whether it is a
    member, and `on_reset` is called when everything the node holds is to be dropped, both before anything else happens
    (perhaps between two requests of one batch); `on_step` is called after each step of the core and its effects,
    `on_change` when a route has changed, or whether the lease runs, at the end of the loop's turn. `left` is set once
    the node may exit after `leave`.
    """

    def __init__(
        self,
        config: ClusterConfig,
        peers: Peers,
        links: Links,
        sock: socket.socket,
        secret: bytes | None,
        *,
        incarnation: int,
        on_exit: Callable[[int], object] = os._exit,
    ) -> None:
        """`sock`: the node's UDP socket. `on_exit(status)` ends the process when an invariant is broken."""
        self.core = ClusterCore(config, incarnation, now(), random.Random(os.urandom(16)))
        self.on_view: list[Callable[[View, bool], object]] = []
        self.on_change: list[Callable[[], object]] = []
        self.on_reset: list[Callable[[], object]] = []
        self.on_step: list[Callable[[], object]] = []
        self.left = Flag()
        self.refused: Counter[str] = Counter()  # datagrams, by reason
        self.received = 0
        self.sent = 0
        self.send_errors = 0
        self.views = 0  # installed
        self._config = config
        self._peers = peers
        self._links = links
        self._seals = Seals(secret, config.address, peers.names, incarnation) if secret else None
        self._socket = sock
        self._on_exit = on_exit
        self._events: deque[Event] = deque()
        self._is_stepping = False
        self._is_stopped = False
        self._timer: Any = get_hub().loop.timer(0.0)
        self._armed_at = 0.0
        self._routes = list(self.core.routes)
        self._had_lease = False
        self._change_is_due = False
        self._described = ""  # the last view, as the core's own log line has it
        links.report = self.take

    def start(self) -> None:
        """Take the first step. A cluster of one has its view when this returns."""
        if self._peers.unreachable:
            _log.warning("unreachable", peers=" ".join(self._peers.unreachable), cause="IPv6, but bound to IPv4")
        self.take(Tick())

    def stop(self) -> None:
        """Take no further step."""
        self._timer.stop()
        self._is_stopped = True

    def leave(self) -> None:
        """Hand everything over and leave; `left` is set when that is done."""
        self.take(LeaveRequested())

    def synced(self, learner: str, slots: int, epoch: int) -> None:
        """This node, as primary of these slots (mask of 256 bits) in that epoch, has the learner in sync."""
        self.take(SlotsSynced(learner, slots, epoch))

    # --- driving the core ----------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Give an event to the core and carry out what it wants."""
        if self._is_stopped:
            return
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._events:
                while self._events:
                    for effect in self.core.step(self._events.popleft(), now()):
                        self._carry_out(effect)
                    for told in self.on_step:
                        told()
                self._note_changes()
        except Exception as error:  # noqa: BLE001 - the boundary: a node whose membership fails must not serve
            _log.exception("invariant_broken", error)
            self._on_exit(_EXIT_SOFTWARE)
        finally:
            self._is_stepping = False
        self._arm()

    def _arm(self) -> None:
        if self.core.wake_at != self._armed_at:
            self._armed_at = self.core.wake_at
            self._timer.stop()
            self._timer.close()
            self._timer = get_hub().loop.timer(max(0.0, self._armed_at - now()))
            self._timer.start(self._on_timer, update=True)

    def _on_timer(self) -> None:
        self._armed_at = 0.0
        self.take(Tick())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._post(effect.peer, effect.payload)
            case OpenLink():
                self._links.open(effect.peer, effect.incarnation)
            case CloseLink():
                self._links.close(effect.peer)
            case ViewInstalled():
                self._installed(effect.view, effect.is_member)
            case Reset():
                _log.warning("reset", incarnation=effect.incarnation)
                for told in self.on_reset:
                    told()
            case Left():
                self.left.set()
            case Log():
                if effect.text != self._described:
                    (_faults.warning if effect.level == "warning" else _log.info)("note", text=effect.text)

    def _installed(self, view: View, is_member: bool) -> None:
        self.views += 1
        self._described = view.describe()
        _log.info(
            "view",
            epoch=view.epoch,
            members=len(view.members),
            is_member=is_member,
            primaries=" ".join(f"{address}={view.masks[address].bit_count()}" for address in view.addresses),
            cause=view.cause,
        )
        for told in self.on_view:
            told(view, is_member)

    def _note_changes(self) -> None:
        has_lease = self.core.lease_until > now()
        if has_lease == self._had_lease and self._routes == self.core.routes:
            return
        self._had_lease = has_lease
        self._routes[:] = self.core.routes
        if not self._change_is_due:
            self._change_is_due = True
            get_hub().loop.run_callback(self._tell_change)

    def _tell_change(self) -> None:
        self._change_is_due = False
        for told in self.on_change:
            told()

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _post(self, peer: str, body: bytes) -> None:
        if self._seals is None:
            self._send(peer, body)
        elif peer in self._peers.names:
            self._send(peer, self._seals.seal(peer, body))
        else:
            self.send_errors += 1

    def _send(self, peer: str, payload: bytes) -> None:
        message_id = os.urandom(_MESSAGE_ID_BYTES)
        data = Msg(
            messageID=message_id,
            payload=payload,
            checkSum=crc32(payload, crc32(message_id)),
            type=TYPE_CLUSTER,
        ).SerializeToString()
        assert len(data) <= DATAGRAM_MAX_BYTES, f"a datagram of {len(data)} bytes"
        target = self._peers.target(peer)
        if target is None:
            self.send_errors += 1
            return
        try:
            self._socket.sendto(data, target)
            self.sent += 1
        except OSError:  # no room, or no way there: as good as lost on the way
            self.send_errors += 1

    def handle_datagram(self, payload: bytes, address: bytes) -> None:
        """The payload of a Msg of type TYPE_CLUSTER, and the kernel's bytes of the address it came from."""
        if self._seals is None:
            peer = self._peers.by_datagram_address.get(address)
            if peer is None:
                self._refuse("unknown_sender", address)
                return
            body = payload
        else:
            try:
                opened = self._seals.open(payload, now())
            except BadSeal as fault:
                self._refuse(fault.reason, address)
                return
            peer, body = opened.sender, opened.body
            for answer in opened.answers:
                self._send(peer, answer)
            if opened.fault:
                self.refused[opened.fault] += 1
        if body:
            self.received += 1
            self.take(Datagram(peer, body))

    def _refuse(self, reason: str, address: bytes) -> None:
        self.refused[reason] += 1
        _faults.warning("refused", reason=reason, sender=address)

    # --- for people ----------------------------------------------------------------------------------------------

    def status_json(self) -> bytes:
        """The status as compact JSON, at most VALUE_MAX_BYTES.

        Rows that do not fit are left out from the end: those of absent servers. All members of a view and its table
        always fit (asserted below), so that the table's places name rows that are there.
        """
        status = self.core.status()
        members: list[list[object]] = [
            [
                member.address,
                member.incarnation,
                member.state,
                member.leaving,
                member.primary_slots,
                member.backup_slots,
                member.learner_slots,
            ]
            for member in status.members
        ]
        listed = {member.address for member in status.members}
        members += [[server, 0, "absent", False, 0, 0, 0] for server in self._config.servers if server not in listed]
        fields: dict[str, object] = {
            "address": status.address,
            "incarnation": status.incarnation,
            "origin": status.cluster_id,
            "epoch": status.epoch,
            "is_member": status.is_member,
            "coordinator": status.coordinator,
            "lease_s": None if status.lease_s == inf else round(max(0.0, status.lease_s), 3),  # None: without end
            "blocked": status.blocked,
            "balanced": status.balanced,
            "copies_missing": status.copies_missing,
            "primaries": "".join(PLACE_NOBODY if place < 0 else PLACE_DIGITS[place] for place in status.primaries),
            "columns": ["address", "incarnation", "state", "leaving", "primary", "backup", "learner"],
            "members": members,
        }
        while True:
            text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= VALUE_MAX_BYTES:
                return text
            assert len(members) > len(status.members), f"{len(members)} members make {len(text)} bytes"
            members.pop()
            fields["cut"] = True

    def snapshot(self) -> dict[str, int]:
        """What is counted, by name, and the state in numbers."""
        core = self.core
        fields = {f"cluster_refused_{reason}": count for reason, count in sorted(self.refused.items())}
        dropped = core.status().dropped
        fields |= {f"cluster_dropped_{reason.replace(' ', '_')}": count for reason, count in sorted(dropped.items())}
        return fields | {
            "cluster_members": core.member_count,
            "cluster_is_member": int(core.is_member),
            "cluster_epoch": core.epoch,
            "cluster_incarnation": core.incarnation,
            "cluster_views": self.views,
            "cluster_datagrams_received": self.received,
            "cluster_datagrams_sent": self.sent,
            "cluster_send_errors": self.send_errors,
        }
