"""A node without sockets, clock and membership: what executes requests is real, what lies beyond is a recorder.

`Parts` is one node's request path as app/node.py puts it together, over a loop that is turned by hand: store, reply
memory, mutations, turn, answers, forwarding, replication and commands are those that serve, and so are the
node's own methods (the end of a turn, what follows from links and views). Where the network begins, datagrams and
frames are written down; routes and the lease are set by the test. `Net` is several of them, linked.
"""

import ctypes
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from struct import pack
from typing import Any, Final

from hypothesis import settings

from app.cluster.events import SELF
from app.cluster.membership.planner import first_view
from app.cluster.membership.timing import SAFE_SHARE
from app.cluster.replication.core import Replication
from app.cluster.view import Member, View
from app.front import batch as layout
from app.front.batch import DatagramBatch, Ring
from app.front.front import Front
from app.front.rate import AnswerRate
from app.node import Node
from app.observe.counters import Counters
from app.observe.slowlog import SlowLog
from app.peers.frames import HEADER_BYTES, pack_header
from app.peers.view_log import ViewLog
from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import SWEEP_S, Forwarding
from app.requests.relayed import Relayed
from app.requests.replicator import Replicator
from app.requests.reports import Reports
from app.requests.request import PATIENCE_S, Request
from app.requests.resumed import Resumed
from app.requests.turn import Turn
from app.requests.waiting import Waiting
from app.storage.arena import Arena
from app.storage.mutate import Mutations
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import SLOT_COUNT
from tests.storage.contents import content, records
from tests.support.loop import ManualLoop
from tests.wire.datagrams import response

MIB: Final = 1 << 20
PID: Final = 4242
PLENTY: Final = 1 << 60
BATCH_SIZE: Final = 4  # replies laid out together; a ring of few places is soon full
MAX_WAITING: Final = 8  # requests of a node

CLIENT: Final = b"\x02\x00\x00\x01client------"  # 16 bytes, as a socket address
OTHER_CLIENT: Final = b"\x02\x00\x00\x02another-----"


def examples(count: int) -> settings:
    """Settings of a property test: that many examples, no time limit each, a failure that can be replayed."""
    return settings(deadline=None, print_blob=True, max_examples=count)


def forwarded(datagram: bytes, deadline_s: float, *, hops: int = 1) -> bytes:
    """The body of a FORWARD; `deadline_s`: by the receiver's clock."""
    return pack("<dB", deadline_s, hops) + datagram


@cache
def _view_of_one(name: str) -> View:
    return first_view((Member(name, 1),), 7, 1)


def make_store(arena: Arena, *, evict: bool) -> Store:
    """A store whose allowance never ends, so that nobody needs to govern it."""

    def look() -> None:
        store.allowance_bytes = PLENTY

    store = Store(arena, evict=evict, on_allowance_used=look)
    return store


class Outside:
    """The UDP socket: brings what the test lays into it, and writes down what is sent, in order."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.arrived: list[tuple[bytes, bytes]] = []  # address, datagram
        self.sent: list[tuple[bytes, bytes]] = []

    def age_s(self) -> float:
        return 0.0

    def receive(self, ring: Ring) -> int:
        taken, self.arrived = self.arrived[: ring.size], self.arrived[ring.size :]
        for place, (address, datagram) in enumerate(taken):
            at = place * layout._STRIDE_BYTES
            ring.buffer[at : at + len(datagram)] = datagram
            ring.header_ints[place * layout._HEADER_INTS + layout._LENGTH_AT] = len(datagram)
            at = place * layout._ADDRESS_STRIDE_BYTES
            ring.addresses[at : at + len(address)] = address
        return len(taken)

    def send(self, ring: Ring, start: int, count: int) -> int:
        for place in range(start, start + count):
            at = place * layout._STRIDE_BYTES
            length = ring.vector_quads[place * layout._IOV_QUADS + layout._IOV_LENGTH_AT]
            address = ctypes.string_at(ring.header_quads[place * layout._HEADER_QUADS + layout._NAME_AT], 16)
            self.sent.append((address, bytes(ring.buffer[at : at + length])))
        return count


class Link:
    """A link to a peer: what app/peers/links.py has in its place."""

    def __init__(self, links: "Links", peer: str) -> None:
        self.peer = peer
        self.clock_base_s = 0.0
        self._links = links

    def show_clock(self, ahead_s: float) -> None:
        """The peer has said that its clock is ahead of ours by so much, or more."""
        now_s = self._links.node.loop.now()
        self.clock_base_s = now_s + ahead_s - SAFE_SHARE * now_s

    def put(self, header: bytes, body: bytes) -> bool:
        net = self._links.net
        assert net is not None
        if self.peer in net.full:
            return False
        net.queue.append((self._links.node.name, self.peer, header[4], header[HEADER_BYTES:] + body))
        return True


def nothing_queued(peer: str) -> int:
    """Of a peer whose link takes whatever is put into it."""
    return 0


class Links:
    """Links to peers: frames go into the net's queue, unless that peer's link is down or full."""

    def __init__(self, node: "Parts", net: "Net | None") -> None:
        self.node = node
        self.net = net
        self.up: dict[str, Link] = {}
        self.severed: list[str] = []
        self.flushes = 0

    def add(self, peer: str) -> None:
        """There is one to this peer, whose clock shows what ours shows."""
        link = self.up[peer] = Link(self, peer)
        link.show_clock(0.0)

    def is_up(self, peer: str) -> bool:
        return peer in self.up

    def send(self, peer: str, kind: int, body: bytes) -> bool:
        link = self.up.get(peer)
        return link is not None and link.put(pack_header(len(body), kind), body)

    def send_all(self, peer: str, kind: int, bodies: list[bytes]) -> bool:
        return all(self.send(peer, kind, body) for body in bodies)

    def sever(self, peer: str) -> None:
        self.severed.append(peer)
        if self.net is not None:
            self.net.cut(self.node.name, peer)

    def on_life(self, peer: str, body: bytes) -> None:
        """Not sent here."""

    def flush(self) -> None:
        self.flushes += 1


class Surroundings:
    """Membership, as the request path sees it, set by hand; it is its own core."""

    def __init__(self, members: int) -> None:
        self.core = self
        self.routes = [SELF] * SLOT_COUNT
        self.lease_until = 1e9
        self.is_member = True
        self.synced_slots: list[tuple[str, int, int]] = []
        self.lost_slots: list[tuple[int, int]] = []
        self.orders: list[bytes] = []
        self.heard: list[tuple[bytes, bytes]] = []  # payload, address
        self.epoch = 0
        self.status = b"{status}"
        self._members = members

    def synced(self, learner: str, slots: int, epoch: int) -> None:
        self.synced_slots.append((learner, slots, epoch))

    def copies_lost(self, slots: int, epoch: int) -> None:
        self.lost_slots.append((slots, epoch))

    def handle_datagram(self, payload: bytes, address: bytes) -> None:
        self.heard.append((payload, address))

    def handle_frame(self, peer: str, body: bytes) -> None:
        self.heard.append((body, peer.encode()))

    def found(self) -> bytes:
        return b"{found}"

    def order(self, said: bytes) -> bytes:
        self.orders.append(said)
        return b"ordered " + said

    def member_count(self) -> int:
        return self._members

    def status_json(self) -> bytes:
        return self.status


class Clients:
    """A source of requests in place of the front: one datagram at a time."""

    def __init__(self, node: "Parts") -> None:
        self._node = node
        self._request = Request(self)

    def ask(self, datagram: bytes, client: bytes, handle: Callable[..., bytes | None]) -> bytes | None:
        """What is answered at once, in the middle of a buffer that is overwritten after that."""
        self._datagram, self._client = datagram, client
        buffer = bytearray(b"\n\x10" + datagram + b"\x28\x00")
        try:
            return handle(self._request, buffer, 2, 2 + len(datagram))
        finally:
            buffer[:] = bytes(len(buffer))
            self._request.release()

    def fill(self, request: Request) -> None:
        turn = self._node.turn
        request.datagram = self._datagram
        request.client, request.asked_at, request.peer, request.hops = self._client, b"", "", 0
        request.deadline_s, request.received_s = turn.now_s + PATIENCE_S, turn.now_s


class Parts(Node):
    """See the module. What is not set up here is app/node.py's."""

    def __init__(
        self,
        name: str = "me",
        *,
        loop: ManualLoop | None = None,
        net: "Net | None" = None,
        view: View | None = None,
        arena_bytes: int = MIB,
        evict: bool = True,
        replies_bytes: int = MIB,
        members: int = 1,
        max_waiting: int = MAX_WAITING,
        reserve_bytes: int = 1 << 16,
        administrators: Any = None,
        known: Mapping[bytes, bool] | None = None,
        vitals: Callable[[], dict[str, int | None]] = lambda: {"pid": PID},
        store: Any = None,
        replies: Any = None,
    ) -> None:
        """Without a view it is alone in one, and serves all slots. `store`, `replies`: in place of the real ones."""
        self.name = name
        self.loop = loop or ManualLoop()
        self.counters = Counters()
        self.slow_log = SlowLog()
        self.arena = Arena(arena_bytes, arena_bytes)
        self.store = make_store(self.arena, evict=evict) if store is None else store
        self.replies = replies or ReplyMemory(6.0, replies_bytes)
        self.mutations = Mutations(self.store, self.replies)
        self.links = Links(self, net)
        self.membership = Surroundings(members)
        self.replication = Replication(
            name,
            self.store,
            self.replies,
            self.mutations,
            queued_bytes=nothing_queued,
            reserve_bytes=reserve_bytes,
        )
        self.view_log = ViewLog()
        routes = self.replication.routes
        self.turn = Turn(self.loop, self.membership, routes, end=lambda: self.end_turn())
        self.waiting = Waiting(max_waiting, 1 << 30, self.store.spend)
        self.outside = Outside()
        self.rate = AnswerRate(PLENTY, exempt={}, now=self.loop.now, random=lambda: 0.5)
        self.batch = DatagramBatch(self.outside, BATCH_SIZE, self.turn.lease_ran_out, self.rate)
        self.answers = Answers(
            self.batch,
            self.counters,
            self.slow_log,
            now=self.loop.now,
            unix_s=self.loop.unix_s,
            turn=self.turn,
            rate=self.rate,
        )
        self.forwarding = Forwarding(self.turn, self.waiting, self.answers, self.links.up, routes=routes)
        self.replicator = Replicator(
            self.replication, self.turn, self.waiting, self.answers, self.counters, self.links, self.membership
        )
        self.commands = Commands(
            self.loop,
            self.turn,
            self.store,
            self.replies,
            self.mutations,
            self.answers,
            self.counters,
            forwarding=self.forwarding,
            replicator=self.replicator,
            cluster=self.membership,
            administrators=administrators,
            known=known,
            reports=Reports(
                PID,
                self.membership.member_count,
                self.membership.status_json,
                self.slow_log,
                vitals,
                epoch=lambda: self.membership.core.epoch,
                now=self.loop.now,
            ),
        )
        self.relayed = Relayed(
            self.turn,
            self.answers,
            self.commands,
            self.counters,
            forwarding=self.forwarding,
            on_other=self._on_frame,
        )
        self.resumed = Resumed(self.turn, self.answers, self.commands, self.forwarding, self.replicator)
        self.clients = Clients(self)
        self.install(view or _view_of_one(name))

    # --- what happens around it ------------------------------------------------------------------------------------

    def install(self, view: View, *, is_member: bool = True) -> None:
        """Membership goes by this view: its routes, and whether the node is in it."""
        self.membership.is_member = is_member
        self.view_installed(view, is_member)
        self.set_routes(*(SELF if primary == self.name else primary for primary in view.primaries))

    def set_routes(self, *routes: str) -> None:
        """A step of membership: one route for all slots, or one for each."""
        self.membership.routes[:] = routes * SLOT_COUNT if len(routes) == 1 else routes
        self.stepped()
        self.loop.turn()

    def set_lease(self, until_s: float) -> None:
        """A step of membership."""
        self.membership.lease_until = until_s
        self.stepped()
        self.loop.turn()

    def sweep(self) -> None:
        """What the node does every SWEEP_S, and when a route has changed."""
        self.routes_changed()
        self.loop.turn()

    # --- requests --------------------------------------------------------------------------------------------------

    def handle(self, datagram: bytes, client: bytes = CLIENT) -> bytes | None:
        """A client's datagram: what is answered at once. The turn goes on."""
        return self.handle_by(self.commands.handle, datagram, client)

    def handle_by(self, handle: Callable[..., bytes | None], datagram: bytes, client: bytes = CLIENT) -> bytes | None:
        """As `handle`, by this function of request, buffer, start and end."""
        self.turn.open()
        return self.clients.ask(datagram, client, handle)

    def take(self, datagram: bytes, client: bytes = CLIENT) -> bytes | None:
        """As `handle`, and the turn ends."""
        reply = self.handle(datagram, client)
        self.loop.turn()
        return reply

    def told(self) -> list[tuple[bytes, bytes]]:
        """The answers that have left since this was last asked, each with its address."""
        told, self.outside.sent = self.outside.sent, []
        return told

    def code(self, message_id: bytes, client: bytes = CLIENT) -> int:
        """The code of the one answer that has left, to this request and client."""
        ((address, reply),) = self.told()
        assert address == client
        return response(reply, message_id).errCode

    def make_front(self, *, allowed: Mapping[bytes, bool] | None = None, shares_turns: bool = True) -> Front:
        """The front, for a test that is about it: it reads what has arrived in `outside`."""
        return Front(
            self.loop,
            self.outside,
            self.batch,
            self.turn,
            self.answers,
            self.commands,
            self.counters,
            self.slow_log,
            patience_s=PATIENCE_S,
            allowed=allowed,
            rate=self.rate,
            shares_turns=shares_turns,
        )

    # --- what it holds ---------------------------------------------------------------------------------------------

    def content(self) -> dict[bytes, bytes]:
        """Every key with its blob."""
        return content(self.store)

    def held(self) -> tuple[object, ...]:
        """All that a request can change in store and reply memory, to be compared."""
        return self.content(), sorted(records(self.replies))

    def drops(self) -> dict[str, int]:
        """Dropped datagrams by reason."""
        return {reason: count for reason, count in self.counters.drops.items() if count}


make_parts: Final = Parts


class Net:
    """Nodes by name, on one loop. Frames wait in `queue` until `deliver`."""

    def __init__(self, view: View | None = None, names: Iterable[str] = (), **more: Any) -> None:
        """With a view: its members, linked, all slots open. With names: nodes that keep no copies, and route by hand;
        who serves is said with `set_routes`."""
        self.loop = ManualLoop()
        self.queue: list[tuple[str, str, int, bytes]] = []  # sender, receiver, kind, body
        self.full: set[str] = set()  # nodes whose links take nothing more
        names = tuple(view.addresses) if view is not None else tuple(names)
        self.nodes = {name: Parts(name, loop=self.loop, net=self, view=view, **more) for name in names}
        for place, name in enumerate(names):
            for peer in names[:place]:
                self.link(name, peer)
        self.deliver()

    def __getitem__(self, name: str) -> Parts:
        return self.nodes[name]

    def deliver(self) -> None:
        """Bring every frame to its receiver, those that this sets off included."""
        self.loop.turn()
        for _ in range(1000):
            if not self.queue:
                return
            self.deliver_from(self.queue[0][0])
        raise AssertionError("the nodes do not come to rest")

    def deliver_from(self, sender: str) -> None:
        """Bring what this node has sent so far, each receiver's frames in one read."""
        self.loop.turn()
        frames: dict[str, list[tuple[int, bytes]]] = {}
        for name, receiver, kind, body in self.queue:
            if name == sender:
                frames.setdefault(receiver, []).append((kind, body))
        self.queue = [frame for frame in self.queue if frame[0] != sender]
        for receiver, sent in frames.items():
            self.nodes[receiver].frames(sender, sent)
            self.loop.turn()

    def link(self, one: str, other: str) -> None:
        """A link comes up."""
        for name, peer in ((one, other), (other, one)):
            self.nodes[name].links.add(peer)
            self.nodes[name].link_up(peer)

    def cut(self, one: str, other: str) -> None:
        """End the link between two nodes: what is in it is lost."""
        self.queue = [frame for frame in self.queue if {frame[0], frame[1]} != {one, other}]
        for name, peer in ((one, other), (other, one)):
            if self.nodes[name].links.up.pop(peer, None) is not None:
                self.nodes[name].link_down(peer)

    def wait(self, seconds: float, *, sweep: bool = False) -> None:
        """Let time pass while every node's loop turns, and looks for what can go on if it is to sweep."""
        until = self.loop.now_s + seconds
        while self.loop.now_s < until:
            self.loop.advance(min(SWEEP_S, until - self.loop.now_s))
            for node in self.nodes.values():
                node.turn.open()
                if sweep:
                    node.sweep()
