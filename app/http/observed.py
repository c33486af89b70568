"""What the pages know of the node: to be read, and to steer nothing.

The node (app/node.py) fits these protocols and does not know that they are there; app/main.py, which brings the two
together, is where a type checker compares them.
"""

from collections.abc import Sequence
from typing import Protocol

from app.cluster.readiness import Readiness
from app.cluster.view import View
from app.loop import Loop
from app.observe.counters import Counters
from app.observe.slowlog import SlowLog
from app.peers.addresses import Peers
from app.peers.view_log import ViewLog
from app.sockets import ReceiveBuffer


class ShownServer(Protocol):
    """A server; its `str` is "host:port"."""

    @property
    def host(self) -> str: ...


class ShownOptions(Protocol):
    """The options that are shown, or that say where pages are served, and under which names."""

    @property
    def me(self) -> ShownServer: ...
    @property
    def replicas(self) -> int: ...
    @property
    def policy(self) -> str: ...
    @property
    def max_memory_bytes(self) -> int: ...
    @property
    def http_port(self) -> int | None: ...
    @property
    def http_bind(self) -> str: ...
    @property
    def http_hosts(self) -> Sequence[str]: ...


class LinkStates(Protocol):
    """The links to peers."""

    def queued_bytes(self, peer: str) -> int:
        """What waits to be written to the peer."""


class ObservedNode(Protocol):
    """A node, as its pages see it."""

    @property
    def options(self) -> ShownOptions: ...
    @property
    def loop(self) -> Loop: ...
    @property
    def started_unix_s(self) -> float: ...

    # What is counted.

    @property
    def counters(self) -> Counters: ...
    @property
    def slow_log(self) -> SlowLog: ...
    @property
    def requests(self) -> int:
        """Requests answered so far."""

    def snapshot(self) -> dict[str, int]:
        """Every counter by name."""

    def figures(self) -> dict[str, object]:
        """What VITALS answers."""

    def memory(self) -> dict[str, int]:
        """Store, reply memory and process: the part of `snapshot` that is about memory."""

    def receive_buffer(self) -> ReceiveBuffer | None:
        """Of the UDP socket; None where the system does not tell."""

    # The cluster, as this node sees it.

    @property
    def view(self) -> View | None:
        """The one it goes by; None: it has found no cluster yet."""

    @property
    def belonging(self) -> Sequence[str]:
        """The servers that belong to the cluster, this node among them."""

    def readiness(self) -> Readiness:
        """Whether it serves, and whether the cluster is whole, as far as it knows."""

    @property
    def view_log(self) -> ViewLog: ...
    @property
    def peers(self) -> Peers: ...
    @property
    def links(self) -> LinkStates: ...
