"""A node's metrics in Prometheus' text format, by the official library, read from the node when it is scraped.

The node counts in plain integers whether or not anybody scrapes; a custom collector turns them into samples, so the
library is not on any request's way (its own counters cost 1 µs an increment and a lock). It has a registry of its own.
Between families the work may be interrupted: all of it takes several milliseconds, which requests need not wait for.

What a number means to the one who runs the node is in docs/monitoring.md, which a test holds against this file. The
tables PLAIN and LABELLED name the field of Node.snapshot() that a metric shows; a test fails on a field that is in
neither, so a counter added to the node is added here.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import gevent
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app import fast
from app.cluster.events import Status
from app.cluster.readiness import Readiness
from app.http.observed import ObservedNode
from app.http.status import ABSENT
from app.observe.histogram import Histogram
from app.version import NODE_PROTOCOL, VERSION
from app.wire.protocol import COMMAND_NAMES, ERROR_NAMES

METRICS_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_BUILD: Final = {"version": VERSION, "node_protocol": str(NODE_PROTOCOL), "python": sys.version.split()[0]}

_COUNTER: Final = CounterMetricFamily
_GAUGE: Final = GaugeMetricFamily

# Field of the snapshot: what it is shown as, and its help text. A counter's name gets `_total`.
PLAIN: Final[Mapping[str, tuple[type[Metric], str, str]]] = {
    # requests
    "retries_answered": (_COUNTER, "kv_retries_answered", "Retried requests answered from the reply memory."),
    "acks": (_COUNTER, "kv_acks", "Remembered replies that a client's ack freed."),
    "over_rate": (_COUNTER, "kv_over_rate_refusals", "Large answers refused to addresses over --answer-rate."),
    "send_errors": (_COUNTER, "kv_send_errors", "Replies that the system refused to send."),
    "unfenced": (_COUNTER, "kv_unfenced_replies", "Replies held back because the lease ran out meanwhile."),
    "in_flight": (_GAUGE, "kv_requests_in_flight", "Requests that wait for something."),
    "forwarded": (_COUNTER, "kv_forwarded_requests", "Requests sent on to their slot's primary."),
    "forward_duplicates": (_COUNTER, "kv_forward_duplicates", "Retries that joined a request in flight."),
    "log_lines_dropped": (_COUNTER, "kv_log_lines_dropped", "Lines of the log that could not be written."),
    "forward_abandoned": (_COUNTER, "kv_forward_abandoned", "Requests that waited for a primary in vain."),
    # store
    "entries": (_GAUGE, "kv_store_entries", "Entries in the store."),
    "store_bytes": (_GAUGE, "kv_store_bytes", "Bytes of chunks that hold a record."),
    "arena_limit_bytes": (_GAUGE, "kv_store_limit_bytes", "Resident bytes that the governor lets the arena have."),
    "arena_resident_bytes": (_GAUGE, "kv_store_resident_bytes", "Resident bytes of the arena."),
    "entry_heap_bytes": (_GAUGE, "kv_store_entry_heap_bytes", "Heap bytes of one entry, as calibrated."),
    "evictions": (_COUNTER, "kv_store_evictions", "Entries evicted."),
    "moves": (_COUNTER, "kv_store_moves", "Records moved together to free pages."),
    "rebuilds": (_COUNTER, "kv_store_rebuilds", "Hash tables copied because they had grown too large."),
    "replies_remembered": (_GAUGE, "kv_replies_remembered", "Replies kept for retries."),
    "replies_bytes": (_GAUGE, "kv_replies_bytes", "Bytes of the reply memory in use."),
    "replies_limit_bytes": (_GAUGE, "kv_replies_limit_bytes", "Bytes that the reply memory may have."),
    "resident_bytes": (_GAUGE, "kv_memory_resident_bytes", "Resident memory of the process at the governor's look."),
    "peak_resident_bytes": (_GAUGE, "kv_memory_peak_bytes", "Peak resident memory of the process (VmHWM)."),
    # copies
    "copies_slots_led": (_GAUGE, "kv_copies_slots_led", "Slots that this node orders the writes of."),
    "copies_waiting_for_room": (_GAUGE, "kv_copies_waiting_for_room", "Slots to be held that there is no room for."),
    "copies_writes_in_flight": (_GAUGE, "kv_copies_writes_in_flight", "Writes that not all copies have yet."),
    # membership
    "cluster_members": (_GAUGE, "kv_cluster_members", "Live members as this node sees them."),
    "cluster_is_member": (_GAUGE, "kv_cluster_is_member", "1 if this node is a member of the view it knows."),
    "cluster_epoch": (_GAUGE, "kv_cluster_epoch", "Epoch of the view this node goes by; 0: none yet."),
    "cluster_incarnation": (_GAUGE, "kv_cluster_incarnation", "This process's number among those at its address."),
    "cluster_views": (_COUNTER, "kv_cluster_views", "Views installed."),
    "cluster_register_requests": (_COUNTER, "kv_cluster_register_requests", "Requests to etcd."),
    "cluster_register_failures": (_COUNTER, "kv_cluster_register_failures", "Requests to etcd that were not answered."),
    "cluster_send_errors": (_COUNTER, "kv_cluster_send_errors", "Datagrams to members that could not be sent."),
    # links between nodes
    "links_pending": (_GAUGE, "kv_links_pending", "Connections still in their handshake."),
    "links_silent": (_COUNTER, "kv_links_silent", "Links severed because nothing came over them."),
    "links_frames_received": (_COUNTER, "kv_links_frames_received", "Frames received over links."),
    "links_frames_not_taken": (_COUNTER, "kv_links_frames_not_taken", "Frames refused: the peer reads too slowly."),
}

# Fields whose name ends in what becomes a label: the start of their names, and then the same and the label's name.
LABELLED: Final[Mapping[str, tuple[str, str, str]]] = {
    "dropped_": ("kv_datagrams_dropped", "reason", "Datagrams not answered, by reason."),
    "copies_fault_": ("kv_copies_faults", "reason", "Frames about copies that were of no use, by reason."),
    "cluster_refused_": ("kv_cluster_refused", "reason", "Datagrams about membership from who is no peer."),
    "cluster_dropped_": ("kv_cluster_dropped", "reason", "Datagrams of peers that are of no use."),
    "cluster_datagrams_": ("kv_cluster_datagrams", "direction", "Datagrams about membership, by direction."),
    "cluster_frames_": ("kv_cluster_frames", "direction", "Large messages about membership, by link, by direction."),
    "links_refused_": ("kv_links_refused", "reason", "Connections between nodes that were refused."),
    "links_bytes_": ("kv_links_bytes", "direction", "Bytes over links between nodes, by direction."),
}

# Fields that are shown in another way: requests by command and code at once, links by peer.
SHOWN_OTHERWISE: Final = ("requests_", "replies_", "overloads", "links_up", "links_bytes_queued")


class Exposition:
    """One node's metrics as text."""

    def __init__(self, node: ObservedNode, pause: Callable[[], object]) -> None:
        """`pause` is called between families, and may give way."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(NodeCollector(node, pause))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them, as of now."""
        return generate_latest(self._registry)


class NodeCollector(Collector):
    """Reads a node's counters."""

    def __init__(self, node: ObservedNode, pause: Callable[[], object]) -> None:
        self._node = node
        self._pause = pause
        self._info = {
            "address": str(node.options.me),
            "policy": node.options.policy,
            "python": sys.version.split()[0],
            "gevent": gevent.__version__,
            "core": fast.CORE,
        }

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the registry holds no other names that could clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        for family in self._families():
            yield family
            self._pause()

    def _families(self) -> Iterator[Metric]:
        snapshot = self._node.snapshot()
        yield InfoMetricFamily("kv_node", "What this node is.", value=self._info)
        yield InfoMetricFamily("kv_build", "Which release it runs.", value=_BUILD)
        yield self._requests()
        yield self._latency()
        yield _histogram("kv_event_loop_lag_seconds", "How late the loop's timer fired.", self._node.counters.loop_lag)
        yield _one(_COUNTER, "kv_slow_requests", "Requests over --slow-ms.", self._node.slow_log.total)
        for field, (kind, name, help_text) in PLAIN.items():
            yield _one(kind, name, help_text, snapshot[field])
        for prefix, (name, label, help_text) in LABELLED.items():
            family = CounterMetricFamily(name, help_text, labels=(label,))
            for field, value in snapshot.items():
                if field.startswith(prefix) and field not in SHOWN_OTHERWISE:
                    family.add_metric((field.removeprefix(prefix),), value)
            yield family
        limit_bytes = self._node.options.max_memory_bytes
        yield _one(_GAUGE, "kv_memory_limit_bytes", "What the whole process stays under (--max-memory).", limit_bytes)
        readiness = self._node.readiness()
        yield from self._cluster(readiness)
        yield from self._links(readiness)
        yield from self._receive_buffer()

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "kv_requests", "Requests executed by this node, by command and error code.", labels=("command", "code")
        )
        answers = self._node.counters.answers
        width = len(ERROR_NAMES)
        for command, command_name in {0: "unknown", **COMMAND_NAMES}.items():
            for code, code_name in ERROR_NAMES.items():
                count = answers[command * width + code]
                if count:
                    family.add_metric((command_name, code_name), count)
        return family

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            "kv_request_duration_seconds",
            "From a request's receipt to its answer, by how it was answered.",
            labels=("how",),
        )
        for how, histogram in self._node.counters.latency.items():
            family.add_metric((how,), _buckets(histogram), histogram.total_s)
        return family

    def _cluster(self, readiness: Readiness) -> Iterator[Metric]:
        status = readiness.status
        for name, help_text, value in (
            ("kv_ready", "1 if clients may ask this node: see /ready.", readiness.is_ready),
            ("kv_cluster_whole", "1 if nothing is missing: copies, members, links.", readiness.is_whole),
            ("kv_cluster_lease_seconds", "How long the lease runs on.", max(0.0, status.lease_s)),
            ("kv_cluster_slots_blocked", "Own slots that wait for their last primary.", status.blocked),
            ("kv_cluster_slots_closed", "Slots that this node is to serve and does not serve now.", readiness.closed),
            ("kv_cluster_slots_unserved", "Slots that nobody serves, as far as this node knows.", readiness.unserved),
            ("kv_cluster_copies_wanted", "Copies of each slot that there should be.", readiness.copies_wanted),
            ("kv_cluster_copies_least", "Copies in sync of the slot with the fewest.", readiness.copies_least),
            ("kv_cluster_copies_missing", "Copies short of those wanted, over all slots.", readiness.copies_missing),
        ):
            yield _one(_GAUGE, name, help_text, value)
        opened = GaugeMetricFamily(
            "kv_cluster_slots_open", "Slots that this node serves now, by operation.", labels=("operation",)
        )
        opened.add_metric(("read",), readiness.reads)
        opened.add_metric(("write",), readiness.writes)
        yield opened
        yield self._slots(status)
        states = GaugeMetricFamily("kv_cluster_servers", "Servers that belong, by state.", labels=("state",))
        for state, count in _states(status, self._node.belonging).items():
            states.add_metric((state,), count)
        yield states

    def _slots(self, status: Status) -> Metric:
        family = GaugeMetricFamily("kv_cluster_slots", "Slots that this node holds, by role.", labels=("role",))
        me = next((member for member in status.members if member.address == status.address), None)
        for role in ("primary", "backup", "learner"):
            family.add_metric((role,), getattr(me, f"{role}_slots") if me else 0)
        return family

    def _links(self, readiness: Readiness) -> Iterator[Metric]:
        links = self._node.links
        linked = {member.address for member in readiness.status.members} - set(readiness.unlinked)
        up = GaugeMetricFamily("kv_link_up", "1 if frames can travel to and from the peer.", labels=("peer",))
        queued = GaugeMetricFamily("kv_link_queued_bytes", "Bytes that wait to be sent to the peer.", labels=("peer",))
        for peer in self._node.peers.names:
            up.add_metric((peer,), int(peer in linked))
            queued.add_metric((peer,), links.queued_bytes(peer))
        yield up
        yield queued

    def _receive_buffer(self) -> Iterator[Metric]:
        """Of the node's UDP socket: where requests wait for the loop, and are lost when there are too many."""
        buffer = self._node.receive_buffer()
        if buffer is None:
            return
        used_bytes, size_bytes, dropped = buffer
        yield _one(_GAUGE, "kv_receive_buffer_used_bytes", "What waits in the socket's receive buffer.", used_bytes)
        yield _one(_GAUGE, "kv_receive_buffer_bytes", "Size of the socket's receive buffer.", size_bytes)
        help_text = "Datagrams that the receive buffer had no room for."
        yield _one(_COUNTER, "kv_receive_buffer_dropped_datagrams", help_text, dropped)


def _one(kind: type[Metric], name: str, help_text: str, value: float) -> Metric:
    """A family of one sample without labels."""
    family: Metric = kind(name, help_text, value=value)  # type: ignore[call-arg]
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, help_text, buckets=_buckets(histogram), sum_value=histogram.total_s)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Counts up to each edge, as the format wants them."""
    edges = (*(repr(edge_s) for edge_s in histogram.edges_s), "+Inf")
    return list(zip(edges, accumulate(histogram.counts), strict=True))


def _states(status: Status, servers: Iterable[str]) -> dict[str, int]:
    """How many servers are in each state; each state is there, so that a graph has no gaps."""
    counts = dict.fromkeys(("alive", "suspect", "failed", "dead", ABSENT), 0)
    known = {member.address: member.state for member in status.members}
    for server in servers:
        counts[known.get(server, ABSENT)] += 1
    return counts
