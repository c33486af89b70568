"""One node: the parts put together, who of them is told of what, the end of a turn, and the upkeep between requests.

app/process.py runs one in a process; the simulator (tests/sim) runs several in one, each with a loop and sockets of its
making.

It is long since everything meets here: each part is made once, with what it needs as arguments, and who is told of
what, in which order, is to be read in one place. What any of it does stands with the parts.
"""

import os
import platform
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, Protocol

from app import fast
from app.cluster.events import Event
from app.cluster.membership.state import ClusterConfig
from app.cluster.readiness import Contact, Facts, Readiness, heard_s, readiness
from app.cluster.replication.core import REPLICATION_TICK_S, Replication
from app.cluster.replication.follower import STAGING_MAX_BYTES, STAGING_SHARE
from app.cluster.replication.frames import KINDS
from app.cluster.replication.recent import RECENT_MAX
from app.cluster.view import View
from app.config.allowlist import Network, show_networks
from app.config.options import Options
from app.config.servers import read_file, unresolved
from app.front.access import Administrators, clients, known
from app.front.batch import datagram_batch
from app.front.front import BATCH_SIZE, Front, ServerSocket
from app.front.rate import AnswerRate
from app.loop import Loop
from app.observe import logs
from app.observe.counters import FORWARDED, Counters
from app.observe.overload import OverloadWatch
from app.observe.slowlog import SlowLog
from app.peers.addresses import Peers
from app.peers.connecting import StreamSockets
from app.peers.datagrams import ConnectedSockets, PeerDatagrams
from app.peers.frames import ANSWER, CLUSTER, LIFE, Frame
from app.peers.link_watch import LinkWatch
from app.peers.links import Links
from app.peers.lookups import Lookups
from app.peers.membership import DatagramSender, Membership, SharedRegister
from app.peers.view_log import ViewLog
from app.reload import Reload, warn_of_exposed
from app.requests.answers import Answers
from app.requests.commands import Commands
from app.requests.forwarding import SWEEP_S, Forwarding
from app.requests.relayed import Relayed
from app.requests.replicator import Replicator
from app.requests.reports import Reports, status_json
from app.requests.request import PATIENCE_S
from app.requests.resumed import Resumed
from app.requests.turn import Turn
from app.requests.waiting import WAITING_SHARE, Waiting
from app.sockets import ReceiveBuffer
from app.storage.arena import Arena
from app.storage.governor import ARENA_FLOOR_BYTES, MemoryGovernor, replies_max_bytes
from app.storage.mutate import Mutations
from app.storage.pressure import EvictionWatch
from app.storage.replies import ReplyMemory, buckets_for
from app.storage.store import Store
from app.version import VERSION

# How often the governor looks and replies age, whatever the load. Several times a second suffices for both.
_UPKEEP_S: Final = 0.1
# Entries of wiped slots, or pages, that one upkeep frees, and after how many of them (about 1 ms) the loop turns.
_DRAIN_STEPS: Final = 10_000
_DRAIN_TURN: Final = 200
# Of so much memory one more recent write is kept for repairs, up to RECENT_MAX at 128 MiB: 3.7 % of it.
_MEMORY_PER_RECENT_BYTES: Final = 8192
# Of what one peer may leave unread, writes may be so much; the rest is for chunks, requests and answers.
BACKLOG_SHARE: Final = 4
_reread_file: Final = partial(read_file, again=True)
# A second signal so soon after the first says nothing new: the same wish may come to the process and to its group.
_SAME_SIGNAL_S: Final = 1.0

_log = logs.logger("node")


class NodeDatagrams(ServerSocket, DatagramSender, Protocol):
    """What is asked of a node's UDP socket: see app/sockets.py."""

    def serve(self, read: Callable[[], object]) -> None: ...
    def stop(self) -> None: ...
    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def receive_buffer_bytes(self) -> int: ...
    def receive_buffer(self) -> ReceiveBuffer | None: ...


class NodeSockets(StreamSockets, ConnectedSockets, Protocol):
    """A node's sockets: see app/sockets.py."""

    @property
    def datagrams(self) -> NodeDatagrams: ...
    def look_up(self, host: str) -> list[str]:
        """The addresses of a host name; waits in its greenlet. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What no option sets; the simulator sets it tighter."""

    batch_size: int = BATCH_SIZE
    queue_max_bytes: int | None = None  # unread by one peer; None: see app/peers/links.py
    arena_floor_bytes: int = ARENA_FLOOR_BYTES


class Node:
    """A node. Build it, then `start` it; `on_stopped()` is called once it has left or was stopped."""

    def __init__(
        self,
        options: Options,
        loop: Loop,
        sockets: NodeSockets,
        *,
        incarnation: int,
        random_bytes: Callable[[int], bytes],
        resident_bytes: Callable[[], int],
        on_stopped: Callable[[], object],
        limits: Limits = Limits(),
        read_file: Callable[[str], bytes] = _reread_file,
        register: SharedRegister | None = None,
    ) -> None:
        """`incarnation`: above that of every earlier process here, as a rule (the core copes where it is not).
        `read_file(path)`: what is in the servers file; raises ServersError. `register`: what decides on views, if the
        options say that it is not the nodes."""
        self.options = options
        self.loop = loop
        self.sockets = sockets
        self._on_stopped = on_stopped
        self._leaves_at_once_s: float | None = None
        self._is_stopped = False
        self._leave_timer = loop.timer()
        is_alone = len(options.servers) == 1

        # What it holds.
        evict = options.policy == "allkeys-lru"
        self.counters = Counters()
        self._started_s = loop.now()
        self.slow_log = SlowLog(options.slow_ms / 1000 or inf)
        self.arena = Arena(options.max_memory_bytes, options.max_memory_bytes)
        replies_bytes = replies_max_bytes(options.max_memory_bytes)
        self.replies = ReplyMemory(options.reply_ttl_s, replies_bytes, buckets=buckets_for(replies_bytes))
        self.store = Store(
            self.arena, evict=evict, on_allowance_used=self._look_at_memory, on_freed=self._join_freed_memory
        )
        self.governor = MemoryGovernor(
            self.arena,
            self.store,
            self.replies,
            max_bytes=options.max_memory_bytes,
            evict=evict,
            resident_bytes=resident_bytes,
            arena_floor_bytes=limits.arena_floor_bytes,
        )
        self._eviction_watch = EvictionWatch()
        self._overload_watch = OverloadWatch()
        mutations = Mutations(self.store, self.replies)

        # Other nodes.
        self.peers = Peers(options.me, options.servers, sockets.datagrams.family)
        self._lookups = Lookups(loop, sockets.look_up, self.peers, self._peer_has_moved)
        self.links = Links(
            loop,
            sockets,
            self.peers,
            options.cluster_secret,
            lookups=self._lookups,
            trust_refusals=options.trust_refusals,
            random_bytes=random_bytes,
            wake=self._wake,
            queue_max_bytes=limits.queue_max_bytes,
            memory_bytes=options.max_memory_bytes,
            spend=self.store.spend,
        )
        self.membership = Membership(
            loop,
            ClusterConfig(
                str(options.me),
                tuple(map(str, options.servers)),
                options.replicas,
                transfer=True,
                joins=options.joins,
                forget_after_s=options.forget_after_s or inf,
                shared_register=register is not None,
            ),
            self.peers,
            self.links,
            sockets.datagrams,
            options.cluster_secret,
            incarnation=incarnation,
            random_bytes=random_bytes,
            register=register,
        )
        self._reload = Reload(
            options, loop, self.links, self.membership, register, look_up=sockets.look_up, read_file=read_file
        )
        self.peer_datagrams = PeerDatagrams(loop, sockets, self.peers, self.membership.take_datagram)
        self.replication = Replication(
            str(options.me),
            self.store,
            self.replies,
            mutations,
            backlog_max_bytes=self.links.queue_max_bytes // BACKLOG_SHARE,
            queued_bytes=self.links.queued_bytes,
            recent_max=min(RECENT_MAX, options.max_memory_bytes // _MEMORY_PER_RECENT_BYTES),
            staging_max_bytes=min(STAGING_MAX_BYTES, options.max_memory_bytes // STAGING_SHARE),
        )
        self.view_log = ViewLog()
        self.link_watch = LinkWatch(self.membership.core.contact)

        # A request's path, from the bottom up.
        routes = self.replication.routes
        self.turn = Turn(loop, self.membership.core, routes, end=self.end_turn)
        waiting_max_bytes = int(options.max_memory_bytes * WAITING_SHARE)
        self.waiting = Waiting(options.max_in_flight, waiting_max_bytes, self.store.spend)
        self._no_strangers = known(self._server_addresses())
        self._allowed = None if options.allow is None else clients(options.allow, self._server_addresses())
        rate = AnswerRate(options.answer_rate_bytes, exempt=self._no_strangers, now=loop.now, random=random.random)
        self.batch = datagram_batch(sockets.datagrams, limits.batch_size, self.turn.lease_ran_out, rate)
        self.answers = Answers(
            self.batch, self.counters, self.slow_log, now=loop.now, unix_s=loop.unix_s, turn=self.turn, rate=rate
        )
        self.forwarding = Forwarding(self.turn, self.waiting, self.answers, self.links.up, routes=routes)
        self.replicator = Replicator(
            self.replication, self.turn, self.waiting, self.answers, self.counters, self.links, self.membership
        )
        self.commands = Commands(
            loop,
            self.turn,
            self.store,
            self.replies,
            mutations,
            self.answers,
            self.counters,
            forwarding=self.forwarding,
            replicator=self.replicator,
            cluster=self.membership,
            administrators=None if options.admin_allow is None else Administrators(options.admin_allow),
            known=self._no_strangers if options.allow is None else None,
            reports=Reports(
                os.getpid(),
                self.membership.member_count,
                self.status_json,
                self.slow_log,
                self.figures,
                epoch=lambda: self.membership.core.epoch,
                now=loop.now,
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
        self.front = Front(
            loop,
            sockets.datagrams,
            self.batch,
            self.turn,
            self.answers,
            self.commands,
            self.counters,
            self.slow_log,
            patience_s=inf if is_alone else PATIENCE_S,
            allowed=self._allowed,
            rate=rate,
            shares_turns=not is_alone,
        )
        self.started_unix_s = loop.unix_s()

    def _wake(self) -> None:
        self.turn.wake()

    def _look_at_memory(self) -> None:
        self.governor.look()

    def _join_freed_memory(self) -> None:
        self.governor.join_freed()

    # --- starting and stopping ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start serving; returns at once."""
        self.replies.advance(self.loop.now())
        self.governor.look()
        self.links.start(self, lambda: self.membership.core.incarnation)
        self.peer_datagrams.follow()
        self.membership.start(self)
        self.sockets.datagrams.serve(self.front.read)
        self.loop.spawn(self._upkeep)
        self.loop.spawn(self._sweep)
        self.loop.spawn(self._tick_copies)
        options = self.options
        host, port = self.sockets.datagrams.address
        _log.info(
            "started",
            version=VERSION,
            address=f"{host}:{port}",
            advertise=str(options.me),
            pid=os.getpid(),
            servers=len(options.servers),
            incarnation=self.membership.core.incarnation,
            replicas=options.replicas,
            allow=_shown(options.allow),
            admin_allow=_shown(options.admin_allow),
            authenticated=options.cluster_secret is not None,
            coordination="built-in" if options.coordination is None else str(options.coordination),
            max_memory_bytes=options.max_memory_bytes,
            policy=options.policy,
            core=fast.CORE,
            receive_buffer_bytes=self.sockets.datagrams.receive_buffer_bytes,
            resident_bytes=self.governor.resident_bytes,
        )
        if fast.CORE == fast.STALE:
            _log.warning("core_stale")
        warn_of_exposed(options.secret_paths)

    def leave(self) -> None:
        """Hand over, then stop; stop at once when called again later than _SAME_SIGNAL_S."""
        now_s = self.loop.now()
        if self._leaves_at_once_s is not None:
            if now_s > self._leaves_at_once_s:
                self.stop()
            return
        self._leaves_at_once_s = now_s + _SAME_SIGNAL_S
        self._leave_timer.start(self.options.leave_timeout_s, self._leave_timed_out)
        self.membership.leave()

    def _leave_timed_out(self) -> None:
        _log.warning("leave_timed_out", after_s=self.options.leave_timeout_s)
        self.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, and hands its slots over."""
        return self._leaves_at_once_s is not None

    def stop(self) -> None:
        """Serve no more: what was laid out still leaves."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._leave_timer.stop()
        self._reload.stop()
        self.membership.stop()
        self.end_turn()
        self.links.stop()
        self.peer_datagrams.stop()
        self.sockets.datagrams.stop()
        self._on_stopped()

    # --- the end of a turn -------------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """Send what this turn of the loop has brought about, in this order. Turn.end calls it.

        1. What replication wants: its frames are queued, requests that waited for copies are answered, slots open.
        2. Requests that waited for a slot which has opened, or are to be seen to anew, are executed, and what they set
           off is carried out.
        3. Answers for peers, if the lease under which this node has executed requests still runs.
        4. Answers for clients, likewise.
        5. Links write all that was queued for each peer.
        """
        while self.replicator.settle():
            self.resumed.look()
        for_peers = self.answers.take_for_peers()
        if for_peers and self.turn.lease_ran_out():
            self.counters.unfenced += sum(map(len, for_peers.values()))
        else:
            for peer, replies in for_peers.items():
                self.links.send_all(peer, ANSWER, replies)
        self.turn.close()
        self.batch.flush()
        self.links.flush()

    # --- what happens to links (app/peers/links.py) ------------------------------------------------------------------

    def link_event(self, event: Event) -> None:
        self.link_watch.note(event, self.loop.now())
        self.membership.take(event)

    def link_up(self, peer: str) -> None:
        self.replicator.link_up(peer)

    def link_down(self, peer: str) -> None:
        self.forwarding.link_down(peer)
        self.replicator.link_down(peer)

    def frames(self, peer: str, frames: list[Frame]) -> None:
        self.relayed.on_frames(peer, frames)

    def _on_frame(self, peer: str, kind: int, body: bytes) -> None:
        """A frame that is neither a request nor the answer to one."""
        if kind in KINDS:
            self.replicator.on_frame(peer, kind, body)
        elif kind == LIFE:
            self.links.on_life(peer, body)
        elif kind == CLUSTER:
            self.membership.handle_frame(peer, body)

    # --- which servers there are -------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the files of servers, secret and etcd again, soon."""
        self._reload.begin()

    # --- where servers are (app/peers/lookups.py) ---------------------------------------------------------------------

    def _server_addresses(self) -> list[str]:
        """Those that there are, this node's among them."""
        return [address for address in (self.options.me.address, *self.peers.addresses()) if address]

    def _peer_has_moved(self, peer: str) -> None:
        """Whatever goes by a server's address goes by its new one from now on."""
        if not self._is_stopped:
            self._follow_addresses()
            self.links.moved(peer)

    def _follow_addresses(self) -> None:
        self.peer_datagrams.follow()
        self._no_strangers.follow(self._server_addresses())
        if self._allowed is not None:
            self._allowed.follow(self._server_addresses())

    # --- what membership decides (app/peers/membership.py) -----------------------------------------------------------

    def servers_known(self, servers: tuple[str, ...]) -> None:
        if len(self.peers.servers) == 1 < len(servers):
            self.front.be_one_of_several(PATIENCE_S)
        listed = {str(server): server for server in self._reload.servers}
        found = [listed.get(name) or unresolved(name) for name in servers]
        self.peers.change(server for server in found if server is not None)
        self._follow_addresses()
        self.links.share_anew()
        self.link_watch.keep(self.peers.names)
        self._lookups.keep(self.peers.names)
        self.replication.limit_backlog(self.links.queue_max_bytes // BACKLOG_SHARE)

    def view_installed(self, view: View, is_member: bool) -> None:
        self.view_log.note(view, is_member, self.loop.unix_s())
        self.forwarding.on_view(view)
        self.replicator.on_view(view, is_member)

    def was_reset(self) -> None:
        self.replicator.on_reset()

    def stepped(self) -> None:
        self.replicator.refresh(self.membership.core)

    def routes_changed(self) -> None:
        self._look_again()

    def has_left(self) -> None:
        self.loop.run_callback(self.stop)

    # --- upkeep ------------------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        """Let requests go on that waited for what is there by now, and end the wait of those whose time is over."""
        self.turn.open()
        self.waiting.look()
        self.replicator.expire(self.turn.now_s)
        self.resumed.look()
        self.turn.wake()

    def _look_around(self) -> None:
        self.front.read()
        self._look_again()

    def _sweep(self) -> None:
        while not self._is_stopped:
            self.loop.sleep(SWEEP_S)
            self.loop.run_callback(self._look_around)

    def _tick_copies(self) -> None:
        while not self._is_stopped:
            self.loop.sleep(REPLICATION_TICK_S)
            self.replicator.tick()
            self._look_at_links()

    def _look_at_links(self) -> None:
        core, now_s = self.membership.core, self.loop.now()
        if core.view is None:  # whoever is heard is to found a cluster with this node, and needs a link for that
            fresh_s = now_s - heard_s(len(self.peers.servers))
            others = [server for server in self.peers.names if core.contact(server)[1] >= fresh_s]
        else:
            members = core.view.addresses if core.is_member else ()
            others = [member for member in members if member != self.peers.me and core.is_up(member)]
        self.link_watch.look(others, self.replication.linked, now_s)

    def _upkeep(self) -> None:
        loop = self.loop
        while not self._is_stopped:
            due_s = loop.now() + _UPKEEP_S
            loop.sleep(_UPKEEP_S)
            self.counters.loop_lag.add(max(0.0, loop.now() - due_s))
            self.replies.advance(loop.now())
            self.governor.look()
            loop.sleep(0)
            self.governor.calibrate()
            loop.sleep(0)
            for step in range(_DRAIN_STEPS):
                if not self.store.drain_wiped():
                    break
                if step % _DRAIN_TURN == 0:
                    self.governor.join_freed()
                    loop.sleep(0)
            self._note_evictions()
            buffer = self.receive_buffer()
            self._overload_watch.look(self.counters.drops, buffer.dropped if buffer else 0, loop.now())
            logs.flush()

    def _note_evictions(self) -> None:
        """One line when the store starts to evict, and when it has come to rest again."""
        watch = self._eviction_watch
        if watch.changed(self.store.evictions, self.loop.now()):
            state = {
                "entries": self.store.entries,
                "store_bytes": self.arena.chunk_bytes,
                "limit_bytes": self.arena.limit_bytes,
                "resident_bytes": self.governor.resident_bytes,
            }
            if watch.is_evicting:
                _log.info("evicting", **state)
            else:
                _log.info("at_rest", evictions=watch.evictions, **state)

    # --- for people --------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Requests answered so far, those that other nodes answered for this one included."""
        return sum(self.counters.answers) + self.counters.latency[FORWARDED].count

    def figures(self) -> dict[str, object]:
        """What VITALS answers and pages show: the process in numbers, and what is counted since the start."""
        counters = self.counters
        return {
            "pid": os.getpid(),
            "resident_bytes": self.governor.resident_bytes,
            "peak_resident_bytes": self.governor.peak_resident_bytes,
            "max_memory_bytes": self.options.max_memory_bytes,
            "entries": self.store.entries,
            "requests": self.requests,
            "http_port": self.options.http_port,
            "uptime_s": int(self.loop.now() - self._started_s),
            "version": VERSION,
            "python": platform.python_version(),
            "commands": {name: count for name, count in counters.by_command().items() if count},
            "durations": counters.durations(),
            "hits": counters.hits,
            "misses": counters.misses,
            "evictions": self.store.evictions,
            "overloads": counters.by_code()["SYS_OVERLOAD_ERR"],
            "dropped": sum(counters.drops.values()),
            "in_flight": self.waiting.count,
        }

    def dump(self) -> None:
        """Write every counter to the log, as SIGUSR1 asks."""
        _log.info("counters", **self.snapshot())

    def snapshot(self) -> dict[str, int]:
        """Every counter by name; bytes, entries and the like are as of now."""
        counters = self.counters
        fields = {f"requests_{name}": count for name, count in counters.by_command().items()}
        fields |= {f"replies_{name}": count for name, count in counters.by_code().items()}
        fields |= {f"dropped_{reason}": count for reason, count in counters.drops.items()}
        fields |= {
            "retries_answered": counters.retries_answered,
            "acks": counters.acks,
            "over_rate": counters.over_rate,
            "send_errors": self.batch.send_errors,
            "overloads": counters.by_code()["SYS_OVERLOAD_ERR"],
            "unfenced": counters.unfenced + self.batch.unfenced,
            "forwarded": self.forwarding.forwarded,
            "forward_duplicates": self.forwarding.duplicates,
            "forward_abandoned": self.forwarding.abandoned,
            "in_flight": self.waiting.count,
            "log_lines_dropped": logs.lines_dropped(),
        }
        return fields | self.memory() | self.replicator.snapshot() | self.membership.snapshot() | self.links.snapshot()

    def memory(self) -> dict[str, int]:
        """Of these counters those of store, reply memory and process."""
        return {
            "entries": self.store.entries,
            "evictions": self.store.evictions,
            "moves": self.store.moves,
            "rebuilds": self.governor.rebuilds,
            "store_bytes": self.arena.chunk_bytes,
            "arena_resident_bytes": self.arena.resident_bytes,
            "arena_limit_bytes": self.arena.limit_bytes,
            "entry_heap_bytes": self.store.entry_heap_bytes,
            "replies_remembered": len(self.replies),
            "replies_bytes": self.replies.used_bytes,
            "replies_limit_bytes": self.replies.max_bytes,
            "resident_bytes": self.governor.resident_bytes,
            "peak_resident_bytes": self.governor.peak_resident_bytes,
        }

    def receive_buffer(self) -> ReceiveBuffer | None:
        """Of the UDP socket; None where the system does not tell."""
        return self.sockets.datagrams.receive_buffer()

    @property
    def view(self) -> View | None:
        """The one that it goes by; None: it has found no cluster yet."""
        return self.membership.core.view

    @property
    def belonging(self) -> tuple[str, ...]:
        """The servers that belong to the cluster, this node among them. It may listen to others as well."""
        return tuple(filter(self.membership.core.belongs, self.peers.servers))

    def readiness(self) -> Readiness:
        """Whether it serves, and whether the cluster is whole, as far as it knows."""
        core, options, now_s = self.membership.core, self.options, self.loop.now()
        contacts = {
            server: Contact(
                server in self.replication.linked,
                self.link_watch.unlinked_s(server, now_s),
                now_s - core.contact(server)[1],
                self.link_watch.is_refused(server),
            )
            for server in self.peers.names
        }
        return readiness(
            Facts(
                core.status(),
                core.view,
                core.lease_until > now_s,
                self.belonging,
                options.replicas,
                self.replication.routes,
                self.replication.led_slots(),
                contacts,
                self.is_stopping,
            )
        )

    def status_json(self) -> bytes:
        """What STATUS answers."""
        now_s, core = self.loop.now(), self.membership.core
        found, view = self.readiness(), core.view
        # With a register outside any number goes on, founders or not.
        founders = view.founders if view is not None and found.status.register_fault is None else ()
        return status_json(found, self.belonging, lambda server: now_s - core.contact(server)[1], founders)


def _shown(networks: tuple[Network, ...] | None) -> str:
    return "everybody" if networks is None else show_networks(networks)
