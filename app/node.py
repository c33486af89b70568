"""One node: the parts put together, the signals, and the upkeep between requests.

Signal handlers only set events; the loop acts on them.
"""

import errno
import gc
import json
import os
import signal
import socket
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from app.cluster.membership.state import ClusterConfig
from app.cluster.replication.core import REPLICATION_TICK_S, Replication
from app.cluster.view import ADDRESS_MAX_BYTES
from app.config.allowlist import Network, show_networks
from app.config.options import Options, UsageError
from app.front import access
from app.front.front import EXIT_INVARIANT, Front
from app.observe import logs
from app.observe.counters import FORWARDED, Counters
from app.observe.slowlog import SlowLog
from app.peers.addresses import Peers
from app.peers.links import BACKLOG, Links
from app.peers.membership import Membership, fresh_incarnation
from app.requests.commands import Commands
from app.requests.forwarding import SWEEP_S, Forwarder
from app.requests.replicator import Copies
from app.requests.request import PATIENCE_S
from app.requests.turn import Turn
from app.storage.arena import Arena
from app.storage.governor import (
    MemoryGovernor,
    ResidentSize,
    peak_resident_bytes,
    replies_max_bytes,
    tune_allocators,
)
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import NO_SPC_ERR, SYS_OVERLOAD_ERR

if TYPE_CHECKING:
    from app.http.server import HttpServer

# How often the governor looks and replies age, whatever the load. Several times a second suffices for both.
_UPKEEP_S: Final = 0.1
# Every how many upkeeps the C heap is trimmed, if it has grown.
_TRIM_EVERY: Final = 20
# Entries of wiped slots that one upkeep frees, and after how many of them (about 1 ms) the loop turns.
_DRAIN_STEPS: Final = 10_000
_DRAIN_TURN: Final = 500
# What is asked for as the socket's receive buffer; the system gives what it allows (net.core.rmem_max).
_RECEIVE_BUFFER_BYTES: Final = 16 << 20

# A second signal so soon after the first says nothing new.
_SAME_SIGNAL_S: Final = 1.0

# What ends the node, wherever in the loop it shows: what it holds can't be trusted, and a callback that broke off may
# have left links that are never written to again. The others have the copies.
_OUR_FAULTS: Final = (AssertionError, AttributeError, LookupError, NameError, TypeError)

_WILDCARDS: Final = ("0.0.0.0", "::")

_log = logs.logger("node")


class Node:
    """A running node: build it, `start` it, wait for `stopped`."""

    def __init__(self, options: Options) -> None:
        """Raises UsageError when the address can't be bound, or the servers file is more than a cluster takes."""
        _check_servers(options)
        self.options = options
        evict = options.policy == "allkeys-lru"
        self.counters = Counters()
        self.arena = Arena(options.max_memory_bytes, options.max_memory_bytes)
        self.replies = ReplyMemory(options.reply_ttl_s, replies_max_bytes(options.max_memory_bytes))
        self.store = Store(self.arena, evict=evict, on_allowance_used=lambda: self.governor.look())
        self.governor = MemoryGovernor(
            self.arena,
            self.store,
            self.replies,
            max_bytes=options.max_memory_bytes,
            evict=evict,
            resident_bytes=ResidentSize(),
        )
        self.commands = Commands(
            self.store,
            self.replies,
            self.counters,
            pid=os.getpid(),
            member_count=lambda: self.membership.core.member_count,
            no_space_code=SYS_OVERLOAD_ERR if evict else NO_SPC_ERR,
        )
        self.socket = _bound_socket(options)
        clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)  # membership's `now`, without a Python frame
        self.front = Front(
            self.socket,
            self.commands,
            self.counters,
            max_in_flight=options.max_in_flight,
            patience_s=PATIENCE_S if len(options.servers) > 1 else inf,
            clock=clock,
        )
        peers = self.peers = Peers(options.me, options.servers, self.socket.family)
        incarnation = fresh_incarnation()
        self.links = Links(
            _listening_socket(options.bind, options.port, BACKLOG, "--bind"),
            peers,
            options.cluster_secret,
            incarnation=lambda: self.membership.core.incarnation,
            source=None if options.bind in _WILDCARDS else options.bind,
        )
        self.membership = Membership(
            ClusterConfig(
                str(options.me),
                tuple(map(str, options.servers)),
                options.replicas,
                transfer=True,
                on_partition=options.on_partition,
            ),
            peers,
            self.links,
            self.socket,
            options.cluster_secret,
            incarnation=incarnation,
        )
        replication = Replication(
            str(options.me), self.store, self.replies, pending_max_bytes=self.links.queue_max_bytes // 2
        )
        turn = Turn(self.commands, self.membership.core, replication.routes, clock)
        self.forwarder = Forwarder(
            self.commands,
            self.counters,
            routes=replication.routes,
            turn=turn,
            send_frame=self.links.send,
            send_frames=self.links.send_all,
            answer_client=self.front.batch.send,
            wake=self.links.wake,
            client_in_hand=self.front.client_in_hand,
            max_in_flight=options.max_in_flight,
        )
        self.copies = Copies(
            replication,
            self.commands,
            self.replies,
            self.counters,
            membership=self.membership,
            links=self.links,
            forwarder=self.forwarder,
            turn=turn,
            datagram_in_hand=self.front.datagram_in_hand,
        )
        self.front.open_turn = turn.open
        self.front.may_serve = turn.may_serve
        turn.on_stall.append(self.links.sever_incoming)
        self.links.before_flush.append(self.front.batch.flush)
        if len(options.servers) > 1:
            self.front.wake = self.links.wake
        self.links.on_frames = self.forwarder.on_frames
        self.links.on_down.append(self.forwarder.link_closed)
        self.membership.on_change.append(self.forwarder.sweep)
        self.front.on_cluster = self.membership.handle_datagram
        self.commands.status = self.membership.status_json
        if options.allow is not None:
            self.front.allowed = access.clients(options.allow, options.servers)
        if options.admin_allow is not None:
            self.commands.may_administer = access.administrators(options.admin_allow, self.forwarder.asking)
        self.slow_log = self.front.slow_log = self.forwarder.slow_log = SlowLog(options.slow_ms / 1000 or inf)
        self.commands.slow_requests = self.slow_log.as_json
        self.commands.vitals = lambda: json.dumps(self.vitals()).encode()
        self.started_unix_s = time.time()
        self.http = self._http_server() if options.http_port else None
        self.stopped = Event()
        self._stopping_since_s: float | None = None
        self._memory_pressed = False

    def _http_server(self) -> "HttpServer":
        """Raises UsageError when its port can't be bound. Imported only where it is wanted: it takes 11 MiB."""
        from app.http.server import BACKLOG as HTTP_BACKLOG
        from app.http.server import HttpServer

        options = self.options
        assert options.http_port is not None
        listener = _listening_socket(options.http_bind, options.http_port, HTTP_BACKLOG, "--http-bind")
        return HttpServer(listener, self)

    def start(self) -> None:
        """Start serving; returns at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._on_stop_signal, signal.Signals(number).name)
        gevent.signal_handler(signal.SIGUSR1, self.dump)
        self.replies.advance(time.monotonic())
        self.governor.look()
        # What lives as long as the process needs no collector: without this, each full collection would walk
        # every slot's tables (35 to 80 ms over half a million entries).
        gc.collect()
        gc.freeze()
        self.membership.start()
        self.front.start()
        gevent.spawn(self._upkeep)
        gevent.spawn(self._sweep)
        gevent.spawn(self._tick_copies)
        if self.http is not None:
            self.http.start()
        host, port = self.socket.getsockname()[:2]
        _log.info(
            "started",
            address=f"{host}:{port}",
            advertise=str(self.options.me),
            pid=os.getpid(),
            servers=len(self.options.servers),
            incarnation=self.membership.core.incarnation,
            replicas=self.options.replicas,
            allow=_shown(self.options.allow),
            admin_allow=_shown(self.options.admin_allow),
            authenticated=self.options.cluster_secret is not None,
            max_memory_bytes=self.options.max_memory_bytes,
            policy=self.options.policy,
            receive_buffer_bytes=self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
            resident_bytes=self.governor.resident_bytes,
        )

    def _on_stop_signal(self, cause: str) -> None:
        """The first one: hand over, then stop. A later one: stop at once."""
        now_s = time.monotonic()
        if self._stopping_since_s is not None:
            # The same wish may come twice: to the process and to its group.
            if now_s - self._stopping_since_s > _SAME_SIGNAL_S:
                self._stop()
            return
        self._stopping_since_s = now_s
        _log.info("stopping", cause=cause)
        self.membership.leave()
        if self.membership.left.is_set():
            self._stop()
        else:
            gevent.spawn(self._stop_when_left)

    def _stop_when_left(self) -> None:
        if not self.membership.left.wait(self.options.leave_timeout_s):
            _log.warning("leave_timed_out", after_s=self.options.leave_timeout_s)
        self._stop()

    def _stop(self) -> None:
        self.membership.stop()
        self.front.stop()
        self.links.stop()
        if self.http is not None:
            self.http.stop()
        self.stopped.set()

    def _upkeep(self) -> None:
        turn = 0
        loop = get_hub().loop
        while not self.stopped.is_set():
            loop.update_now()
            due_s = time.monotonic() + _UPKEEP_S
            gevent.sleep(_UPKEEP_S)
            self.counters.loop_lag.add(max(0.0, time.monotonic() - due_s))
            turn += 1
            loop.update_now()
            self.replies.advance(time.monotonic())
            self.governor.look()
            gevent.sleep(0)
            self.governor.calibrate()
            gevent.sleep(0)
            for step in range(_DRAIN_STEPS):
                if not self.store.drain_wiped():
                    break
                if step % _DRAIN_TURN == 0:
                    gevent.sleep(0)
            if turn % _TRIM_EVERY == 0:
                gevent.sleep(0)
                self.governor.trim()
                # Tables that a wipe or a rebuild has made since: as long-lived as those frozen at start.
                gc.freeze()
            self._note_pressure()

    def _sweep(self) -> None:
        while not self.stopped.is_set():
            gevent.sleep(SWEEP_S)
            self.forwarder.sweep()
            self.front.note_quiet()

    def _tick_copies(self) -> None:
        while not self.stopped.is_set():
            gevent.sleep(REPLICATION_TICK_S)
            self.copies.tick()

    def _note_pressure(self) -> None:
        """One line when the store starts to evict, and when it has come to rest again."""
        pressed = self.store.evictions > 0
        if pressed and not self._memory_pressed:
            self._memory_pressed = True
            _log.info(
                "evicting",
                entries=self.store.entries,
                store_bytes=self.arena.chunk_bytes,
                limit_bytes=self.arena.limit_bytes,
                resident_bytes=self.governor.resident_bytes,
            )

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, and hands its slots over."""
        return self._stopping_since_s is not None

    @property
    def requests(self) -> int:
        """Requests answered so far, those that other nodes answered for this one included."""
        return sum(self.counters.answers) + self.counters.latency[FORWARDED].count

    def vitals(self) -> dict[str, int | None]:
        """What VITALS tells of this process."""
        return {
            "pid": os.getpid(),
            "resident_bytes": self.governor.resident_bytes,
            "peak_resident_bytes": peak_resident_bytes(),
            "max_memory_bytes": self.options.max_memory_bytes,
            "entries": self.store.entries,
            "requests": self.requests,
            "http_port": self.options.http_port,
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
            "send_errors": counters.send_errors,
            "overloads": counters.by_code()["SYS_OVERLOAD_ERR"],
            "unfenced": counters.unfenced,
            "forwarded": self.forwarder.forwarded,
            "forward_duplicates": self.forwarder.duplicates,
            "forward_abandoned": self.forwarder.abandoned,
            "in_flight": self.front.in_flight + self.forwarder.in_flight + self.copies.replication.pending,
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
            "resident_bytes": self.governor.resident_bytes,
            "peak_resident_bytes": peak_resident_bytes(),
        }
        return fields | self.copies.snapshot() | self.membership.snapshot() | self.links.snapshot()


def _shown(networks: tuple[Network, ...] | None) -> str:
    return "everybody" if networks is None else show_networks(networks)


def _check_servers(options: Options) -> None:
    """A name in a cluster is shorter than what a servers file may say. Raises UsageError."""
    for server in options.servers:
        if len(str(server)) > ADDRESS_MAX_BYTES:
            raise UsageError(f"{server} is too long: write a name or address of at most {ADDRESS_MAX_BYTES} bytes")


def _bound_socket(options: Options) -> socket.socket:
    """The node's UDP socket, non-blocking, with as large a receive buffer as the system gives."""
    family = socket.AF_INET6 if ":" in options.bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    so_rcvbufforce = 33
    try:
        sock.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, _RECEIVE_BUFFER_BYTES)  # past rmem_max, if allowed
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    _bind(sock, options.bind, options.port, "UDP")
    return sock


def _listening_socket(address: str, port: int, backlog: int, option: str) -> socket.socket:
    """A TCP socket; `option` says where it is bound.

    That for links listens before the node says anything and until the process ends: a refused connection means that it
    is dead.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # links of the process before may linger
    _bind(sock, address, port, "TCP", option)
    sock.listen(backlog)
    return sock


def _bind(sock: socket.socket, address: str, port: int, protocol: str, option: str = "--bind") -> None:
    """Bind it, non-blocking. Raises UsageError."""
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            hint = "another process uses it; stop that one or give this node another port"
        elif error.errno == errno.EACCES:
            hint = "ports below 1024 need privileges; use a higher one"
        else:
            hint = f"check {option}"
        raise UsageError(f"can't bind {protocol} {address} port {port}: {error.strerror} ({hint})") from None
    sock.setblocking(False)


def run(options: Options) -> int:
    """Run a node until it is told to stop; the exit status. Raises UsageError when it can't start."""
    tune_allocators()
    node = Node(options)
    hub = get_hub()
    hub.SYSTEM_ERROR = (*hub.SYSTEM_ERROR, *_OUR_FAULTS)
    node.start()
    try:
        node.stopped.wait()
    except _OUR_FAULTS as error:
        _log.exception("invariant_broken", error)
        os._exit(EXIT_INVARIANT)
    _log.info("stopped")
    return 0
