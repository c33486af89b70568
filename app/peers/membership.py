"""The shell around the cluster core: its clock, its datagrams, its links, and who else is told of what it decides.

The core (app/cluster) decides everything and touches nothing; here its events come from sockets and timers, and its
effects are carried out, in order. One step runs at a time: what an effect sets off (a callback that reports slots as
synced, a link that breaks) waits until the step's effects are done.

Its datagrams are Msgs of type TYPE_CLUSTER through the node's own UDP socket, but past the front's batches: those
wait for the lease to be looked at, which these keep up. Who sent one is told, with a secret, by its HMAC
(datagram_auth.py), and without one by the address it came from: a peer's very address and port. So nothing that a
client sends reaches the core.

A message that does not fit a packet of any path (a view of many members) goes over the link, if it is up, in a frame
CLUSTER: where size does not matter, and the handshake has shown who the sender is. Otherwise it is a datagram that is
cut into packets on its way, as far as the path allows that.

The loop's clock goes on while the machine is suspended: a lease must not outlive a sleep.
"""

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol
from zlib import crc32

from app.cluster.events import (
    AskRegister,
    CloseLink,
    CopiesLost,
    Datagram,
    Effect,
    Event,
    FoundRequested,
    Introduced,
    LeaveRequested,
    Left,
    Log,
    OpenLink,
    Order,
    RegisterAnswered,
    RegisterFailed,
    Reset,
    Send,
    ServerOrdered,
    ServersChanged,
    ServersKnown,
    SlotsSynced,
    Tick,
    ViewInstalled,
)
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import FOUNDERS_MAX, MEMBERS_MAX, View
from app.config.servers import is_address, is_unusable, join_host_port, split_host_port
from app.loop import Loop
from app.observe import logs
from app.observe.slowlog import show_address
from app.peers.addresses import Peers
from app.peers.datagram_auth import OVERHEAD_BYTES, BadDatagram, DatagramAuth
from app.peers.frames import CLUSTER
from app.peers.lease_watch import LeaseWatch
from app.wire.codec import DecodeError, parse_msg
from app.wire.protocol import (
    ADDRESS_MAX_BYTES,
    CLIENT_TIMEOUTS_MS,
    DATAGRAM_MAX_BYTES,
    TYPE_CLUSTER,
    VALUE_MAX_BYTES,
)
from proto_gen.message_pb2 import Msg

_MESSAGE_ID_BYTES: Final = 8
_ENVELOPE_BYTES: Final = 24  # of a Msg, besides its payload
# What a message takes at most if its datagram is not to be cut: the 1280 bytes that each IPv6 path takes, less IPv6's
# header and UDP's, the envelope and the seal. Lower, and more waits behind what else is queued for the peer.
UNCUT_MAX_BYTES: Final = 1280 - 48 - _ENVELOPE_BYTES - OVERHEAD_BYTES

# For how long a FOUND is a retry of the one before: a client's last try leaves 4.45 s after its first.
FOUND_RETRIES_S: Final = 6.0
assert sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000 < FOUND_RETRIES_S

# Of a sentence that says why an administrator's wish is not done (bytes): whom it names may be many. The members, and
# who belongs, stand beside it, each in quotes and with a comma; the rest is two names more and the fields' names.
_WHY_NOT_MAX_BYTES: Final = 1000
assert (MEMBERS_MAX + FOUNDERS_MAX + 2) * (ADDRESS_MAX_BYTES + 3) + _WHY_NOT_MAX_BYTES + 200 <= VALUE_MAX_BYTES

_log = logs.logger("cluster")
_faults = logs.limited_logger("cluster")


class DatagramSender(Protocol):
    """The node's UDP socket."""

    def send_to(self, data: bytes, target: tuple[str | int, ...]) -> bool:
        """Send one datagram; False if the system did not take it."""


class FrameLinks(Protocol):
    """Opens and closes links, and sends frames over them."""

    def open(self, peer: str, incarnation: int) -> None: ...
    def close(self, peer: str) -> None: ...
    def send(self, peer: str, kind: int, body: bytes) -> bool:
        """Queue a frame; False if the link is not up, or the peer is too far behind with reading."""


class SharedRegister(Protocol):
    """What decides on views, where it is not the nodes: see app/peers/etcd.py."""

    requests: int
    failures: int  # that came to nothing

    def start(self, taken: Callable[[RegisterAnswered | RegisterFailed], object]) -> None:
        """Answers go there from now on."""

    def ask(self, asked: AskRegister) -> None:
        """Ask it; returns at once."""

    def reread(self) -> Callable[[], str]:
        """Read its files again, and go by none of it yet: what is returned does, and says which have changed. Raises
        ValueError with a line that says what is wrong with one of them."""

    def stop(self) -> None: ...


class MembershipHandler(Protocol):
    """Is told of what membership decides; nothing here may wait.

    `view_installed` and `was_reset` are called before anything else happens, perhaps between two requests of one batch,
    `stepped` after each step of the core and its effects, `routes_changed` by the loop at the end of a turn in which a
    route has changed, or whether the lease runs.
    """

    def view_installed(self, view: View, is_member: bool) -> object:
        """This node goes by this view from now on."""

    def was_reset(self) -> object:
        """Everything that the node holds is to be dropped."""

    def servers_known(self, servers: tuple[str, ...]) -> object:
        """These are the servers to listen to from now on, this node's among them."""

    def stepped(self) -> object: ...
    def routes_changed(self) -> object: ...
    def has_left(self) -> object:
        """Everything is handed over: the node may exit."""


class Membership:
    """One node's membership, running. Build it, then `start` it with whoever is to be told.

    `core` is what the hot path reads (`routes`, `lease_until`, `member_count`), by the loop's clock.
    """

    def __init__(
        self,
        loop: Loop,
        config: ClusterConfig,
        peers: Peers,
        links: FrameLinks,
        sock: DatagramSender,
        secret: bytes | None,
        *,
        incarnation: int,
        random_bytes: Callable[[int], bytes],
        register: SharedRegister | None = None,
    ) -> None:
        """`register`: given if and only if the config says that there is one."""
        assert (register is not None) == config.shared_register
        self._register = register
        self.core = ClusterCore(config, incarnation, loop.now(), random.Random(random_bytes(16)))
        self.refused: Counter[str] = Counter()  # datagrams, by reason
        self.received = 0
        self.sent = 0
        self.send_errors = 0
        self.sent_over_links = 0
        self.received_over_links = 0
        self.views = 0  # installed
        self._handler: MembershipHandler
        self._loop = loop
        self._peers = peers
        self._links = links
        self._auth = (
            DatagramAuth(secret, config.address, peers.names, incarnation, lambda: int.from_bytes(random_bytes(2)))
            if secret
            else None
        )
        self._socket = sock
        self._random_bytes = random_bytes
        self._events: deque[Event] = deque()
        self._is_stepping = False
        self._is_stopped = False
        self._timer = loop.timer()
        self._armed_at: float | None = None
        self._routes = list(self.core.routes)
        self._had_lease = False
        self._lease_watch = LeaseWatch(config.address, self._unheard_s)
        self._change_is_due = False
        self._founded_s = -inf
        self._described = ""  # the last view, as the core's own log line has it

    def start(self, handler: MembershipHandler) -> None:
        """Take the first step. A cluster of one has its view when this returns."""
        self._handler = handler
        if self._peers.unreachable:
            cause = "their lines are of another IP version than this node's"
            _log.warning("unreachable", peers=" ".join(self._peers.unreachable), cause=cause)
        if self._register is not None:
            self._register.start(self.take)
        self.take(Tick())

    def stop(self) -> None:
        """Take no further step."""
        self._timer.stop()
        if self._register is not None:
            self._register.stop()
        self._is_stopped = True

    def leave(self) -> None:
        """Hand everything over and leave; `has_left` is called when that is done."""
        self.take(LeaveRequested())

    def change_servers(self, servers: tuple[str, ...]) -> None:
        """These are the servers of the file from now on, this node's among them."""
        self.take(ServersChanged(servers))

    def take_secrets(self, secrets: Sequence[bytes], *, is_new_used: bool) -> None:
        """See DatagramAuth. A node that has none goes on without."""
        if self._auth is not None:
            self._auth.take_secrets(secrets, is_new_used=is_new_used)

    def synced(self, learner: str, slots: int, epoch: int) -> None:
        """This node, as primary of these slots (mask of 256 bits) in that epoch, has the learner in sync."""
        self.take(SlotsSynced(learner, slots, epoch))

    def copies_lost(self, slots: int, epoch: int) -> None:
        """This node does not hold these slots (mask of 256 bits), as whose holder the view of that epoch lists it."""
        self.take(CopiesLost(slots, epoch))

    def found(self) -> bytes:
        """An operator has this node found a cluster of those that it hears (app/cluster/membership/override.py).

        Whether that was done, as compact JSON of at most VALUE_MAX_BYTES: `founded`, `why_not` (else empty), and the
        `members` of the view that the node now goes by. A retry, whose first answer was lost, is told the same.
        """
        objection = ""
        if self._loop.now() - self._founded_s >= FOUND_RETRIES_S:
            objection = self.core.objection()[:_WHY_NOT_MAX_BYTES]
            if not objection:
                self._founded_s = self._loop.now()
                self.take(FoundRequested())
        view = self.core.view
        fields = {
            "founded": not objection,
            "why_not": objection,
            "members": [*view.addresses] if view else [],
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()

    def order(self, said: bytes) -> bytes:
        """An administrator adds a server to those that belong, or removes one (app/cluster/membership/belonging.py).

        `said`: a JSON object with the name of the one to `add` or to `remove`, and whether by `force`; padded with zero
        bytes. Nothing else: nothing is ordered. The answer, as compact JSON of at most VALUE_MAX_BYTES: whether it is
        `done`; if not, `why_not`, which is empty while it is being done; then this is to be said again, as it is where
        what is in its way `passes`. Also the `address` of this node; the `coordinator`, which alone takes orders; and,
        if the view lists them, the `servers` that belong, and the `founders`.
        """
        why_not, is_done, passes = "", False, False
        try:
            order = _order(said)
        except ValueError as fault:
            order, why_not = None, str(fault)
        if order is not None:
            is_done = self.core.is_done(order)
            why_not = "" if is_done else self.core.objection_to_order(order)
            passes = why_not != "" and why_not == self.core.must_wait(order)
            if not is_done and not why_not:
                self.take(ServerOrdered(order))
        view = self.core.view
        fields = {
            "done": is_done,
            "why_not": why_not[:_WHY_NOT_MAX_BYTES],
            "passes": passes,
            "address": self._peers.me,
            "coordinator": view.coordinator if view else "",
            "servers": view.servers if view and view.lists_servers else [],
            "founders": view.founders if view else [],
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()

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
                    for effect in self.core.step(self._events.popleft(), self._loop.now()):
                        self._carry_out(effect)
                    self._handler.stepped()
                self._note_changes()
        except Exception as error:  # noqa: BLE001 - a node whose membership fails must not serve, whatever request brought it up
            self._loop.fail(error)
        finally:
            self._is_stepping = False
        self._arm()

    def _arm(self) -> None:
        wake_at = self.core.wake_at
        if wake_at != self._armed_at:
            self._armed_at = wake_at
            self._timer.start(max(0.0, wake_at - self._loop.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._armed_at = None
        self.take(Tick())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._post(effect.peer, effect.payload)
            case OpenLink():
                self._links.open(effect.peer, effect.incarnation)
            case CloseLink():
                self._links.close(effect.peer)
            case AskRegister():
                assert self._register is not None
                self._register.ask(effect)
            case ServersKnown():
                self._handler.servers_known(effect.servers)
                if self._auth is not None:
                    self._auth.change_peers(self._peers.names)
            case ViewInstalled():
                self._installed(effect.view, effect.is_member)
            case Reset():
                _log.warning("reset", incarnation=effect.incarnation)
                self._handler.was_reset()
            case Left():
                self._handler.has_left()
            case Log():
                if effect.text != self._described:
                    {"info": _log.info, "warning": _faults.warning, "error": _faults.error}[effect.level](
                        "note", text=effect.text
                    )

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
        self._handler.view_installed(view, is_member)

    def _unheard_s(self, member: str) -> float:
        return self._loop.now() - self.core.contact(member)[1]

    def _note_changes(self) -> None:
        now_s = self._loop.now()
        has_lease = self.core.lease_until > now_s
        self._lease_watch.note(self.core.lease_until, self.core.view if self.core.is_member else None, now_s)
        if has_lease == self._had_lease and self._routes == self.core.routes:
            return
        self._had_lease = has_lease
        self._routes[:] = self.core.routes
        if not self._change_is_due:
            self._change_is_due = True
            self._loop.run_callback(self._tell_change)

    def _tell_change(self) -> None:
        self._change_is_due = False
        self._handler.routes_changed()

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _post(self, peer: str, body: bytes) -> None:
        if len(body) > UNCUT_MAX_BYTES and self._links.send(peer, CLUSTER, body):
            self.sent_over_links += 1
        elif self._auth is None:
            self._send(peer, body)
        elif peer in self._peers.names:
            self._send(peer, self._auth.sign(peer, body))
        else:
            self.send_errors += 1

    def _send(self, peer: str, payload: bytes) -> None:
        message_id = self._random_bytes(_MESSAGE_ID_BYTES)
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
        if self._socket.send_to(data, target):
            self.sent += 1
        else:  # no room, or no way there: as good as lost on the way
            self.send_errors += 1

    def take_datagram(self, data: bytes, address: bytes) -> None:
        """A datagram from a server's address (app/peers/datagrams.py): a Msg of type TYPE_CLUSTER, or unsound."""
        try:
            msg = parse_msg(data)
        except DecodeError:
            self._refuse("unparsable", address)
            return
        payload = msg.payload
        if msg.type == TYPE_CLUSTER and crc32(payload, crc32(msg.messageID)) == msg.checkSum:
            self.handle_datagram(payload, address)
        else:
            self._refuse("unparsable", address)

    def handle_datagram(self, payload: bytes, address: bytes) -> None:
        """The payload of a Msg of type TYPE_CLUSTER, and the kernel's bytes of the address it came from."""
        if self._auth is None:
            peer = self._peers.by_datagram_address.get(address)
            if peer is None:
                self._refuse("unknown_sender", address)
                return
            body = payload
        else:
            try:
                verified = self._auth.verify(payload, self._loop.now())
            except BadDatagram as fault:
                if fault.reason == "unknown_sender" and self._introduce(self._auth, payload):
                    self.refused[fault.reason] += 1  # this one; it will say it again
                else:
                    self._refuse(fault.reason, address)
                return
            peer, body = verified.sender, verified.body
            for answer in verified.answers:
                self._send(peer, answer)
            if verified.fault:
                self.refused[verified.fault] += 1
        if body:
            self.received += 1
            self.take(Datagram(peer, body))

    def _introduce(self, auth: DatagramAuth, payload: bytes) -> bool:
        """Somebody unknown: whoever knows the secret may be a server that asks to join, or that has. False: it does
        not know it."""
        try:
            stranger = auth.stranger(payload)
            is_name = join_host_port(*split_host_port(stranger)) == stranger and len(stranger) <= ADDRESS_MAX_BYTES
        except (BadDatagram, ValueError):
            return False
        if not is_name or stranger == self._peers.me:
            return False
        self.take(Introduced(stranger))
        return True

    def handle_frame(self, peer: str, body: bytes) -> None:
        """The body of a frame CLUSTER from the peer's link."""
        self.received_over_links += 1
        self.take(Datagram(peer, body))

    def _refuse(self, reason: str, address: bytes) -> None:
        self.refused[reason] += 1
        _faults.warning("refused", reason=reason, sender=show_address(address))

    # --- for people ----------------------------------------------------------------------------------------------

    def member_count(self) -> int:
        """Live members as this node sees them."""
        return self.core.member_count

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
            "cluster_frames_received": self.received_over_links,
            "cluster_frames_sent": self.sent_over_links,
            "cluster_register_requests": self._register.requests if self._register is not None else 0,
            "cluster_register_failures": self._register.failures if self._register is not None else 0,
        }


def _order(said: bytes) -> Order | None:
    """What is ordered, or nothing. Raises ValueError with a phrase that says what is wrong."""
    text = said.rstrip(b"\0")
    if not text:
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or len(fields.keys() & {"add", "remove"}) != 1:
        raise ValueError("say which server to add or to remove")
    removes = "remove" in fields
    host, port = split_host_port(str(fields["remove" if removes else "add"]))
    server = join_host_port(host, port)
    if len(server) > ADDRESS_MAX_BYTES:
        raise ValueError(f"a server's name has at most {ADDRESS_MAX_BYTES} bytes, its port included")
    if not removes and is_address(host) and is_unusable(host):
        raise ValueError(f"{server} isn't one machine's address")
    return Order(server, removes, removes and fields.get("force") is True)
