"""A process that is one node: `run` makes the node with all that is the system's, and sees to the process itself.

The system's: gevent's loop, sockets, signals, allocators and the collector, limits of memory, and etcd if there is one.
The simulator (tests/sim) runs several nodes in one process without any of this.
"""

import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event as Flag

from app.config.cgroup import KERNEL_ROOM_BYTES, memory_limit
from app.config.options import Options, misspelt
from app.config.usage import UsageError
from app.loop import GeventLoop, Loop
from app.node import Node
from app.observe import logs
from app.peers.membership import SharedRegister
from app.sockets import Sockets
from app.storage.governor import ResidentSize, tune_allocators

# How often the C heap is trimmed, if anything in it was freed.
_TRIM_S: Final = 2.0

_log = logs.logger("node")


def fresh_incarnation() -> int:
    """Above that of every earlier process here, unless the wall clock was set back (which the core copes with)."""
    return time.time_ns() // 1000


def _keep_heap_small(loop: Loop, node: Node) -> None:
    """The process's own upkeep, in a greenlet of its own."""
    while True:
        loop.sleep(_TRIM_S)
        node.governor.trim()
        # Tables that a wipe or a rebuild has made since: as long-lived as those frozen at start.
        gc.freeze()


def run(options: Options, start_http: Callable[[Node], object] = lambda node: None) -> int:
    """Run a node until it is told to stop; the exit status. Raises UsageError when it can't start.

    `start_http(node)` is called before the node serves.
    """
    for name, nearest in misspelt(os.environ).items():
        _log.warning("unknown_variable", name=name, nearest=nearest)
    tune_allocators()
    loop = GeventLoop()
    sockets = Sockets(options)
    stopped = Flag()
    node = Node(
        options,
        loop,
        sockets,
        incarnation=fresh_incarnation(),
        random_bytes=os.urandom,
        resident_bytes=ResidentSize(),
        on_stopped=stopped.set,
        register=_shared_register(options, loop, sockets),
    )
    # Signal handlers only tell the loop.
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, loop.run_callback, _on_stop_signal, node, signal.Signals(number).name)
    gevent.signal_handler(signal.SIGUSR1, loop.run_callback, node.dump)
    gevent.signal_handler(signal.SIGHUP, loop.run_callback, node.reload)
    # What lives as long as the process needs no collector: without this, each full collection would walk every slot's
    # tables (35 to 80 ms over half a million entries).
    gc.collect()
    gc.freeze()
    start_http(node)
    node.start()
    _warn_of_a_tight_limit(options.max_memory_bytes)
    loop.spawn(_keep_heap_small, loop, node)
    stopped.wait()
    _log.info("stopped")
    return 0


def _shared_register(options: Options, loop: Loop, sockets: Sockets) -> SharedRegister | None:
    if options.coordination is None:
        return None
    from app.peers.etcd import Etcd  # with what it needs: whoever goes without need not have that
    from app.peers.etcd_access import Certificates

    certificates = Certificates(options.etcd_ca_file, options.etcd_cert_file, options.etcd_key_file)
    try:
        return Etcd(loop, options.coordination, options.etcd_user, certificates, look_up=sockets.look_up)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _warn_of_a_tight_limit(max_memory_bytes: int) -> None:
    limit = memory_limit()
    if limit.size_bytes < max_memory_bytes + KERNEL_ROOM_BYTES:
        _log.warning(
            "memory_limit_tight",
            limit_bytes=limit.size_bytes,
            set_by=limit.source,
            wanted_bytes=max_memory_bytes + KERNEL_ROOM_BYTES,
        )


def _on_stop_signal(node: Node, cause: str) -> None:
    if not node.is_stopping:
        _log.info("stopping", cause=cause)
    node.leave()
