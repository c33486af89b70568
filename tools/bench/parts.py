"""The parts of the suite: each starts what it measures, loads it, and adds to the figures.

What is compared runs in turns, the order reversed from round to round, so that a machine that slows down or speeds up
meanwhile does so to all of them. Processor time is of the whole process, the kernel's part included.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tools import nodes
from tools.bench import subjects
from tools.bench.figures import LESS, MORE, NEITHER, Figures
from tools.bench.generator import NOWHERE
from tools.bench.subjects import Measured, Subject, Tree

MIB: Final = 1 << 20
CLIENTS: Final = (1, 16, 64)
LARGE_BYTES: Final = 10_000
LARGE_CLIENTS: Final = 16
_MANY: Final = 64  # clients, where only one number is tried
# An entry's key, and what it takes besides: how much flows is measured with that.
_ENTRY_BYTES: Final = 250
_TROUBLES: Final = ("missing", "errors", "wrong", "timeouts", "retries", "not_sent")

RATE, P50, P99, P999, PROCESSOR = "rate", "p50", "p99", "p99.9", "processor time"

# What fills a node, one after the other: sizes of values; and, in fresh nodes, what is a first fill of each size.
RANDOM: Final = "random"  # 0 to 10,000 bytes, as in phases.py
CHURN: Final = ("64", "900", "64", "10000", "64", RANDOM, "64")
SIZES: Final = ("64", "900", "10000", RANDOM)


@dataclass(frozen=True)
class Extent:
    """How much is done."""

    name: str
    rounds: int  # in turns
    seconds: float  # of a round, after its warm-up
    warmup_s: float
    fill: int  # keys that are put first: more than fit
    large_fill: int
    cluster_keys: int  # of which three nodes can hold three copies
    max_memory_mib: int
    flow: float  # how much of each size flows through a node at least, in memory bounds
    flow_puts: int  # and how many of them at least
    growth: tuple[int, ...]  # nodes in a cluster
    idle_nodes: int
    settle_s: float
    idle_s: float


FULL: Final = Extent("full", 5, 2.0, 0.3, 700_000, 20_000, 30_000, 128, 2.0, 100_000, (1, 3, 5, 9), 20, 3.0, 8.0)
QUICK: Final = Extent("quick", 1, 0.3, 0.1, 20_000, 500, 2_000, 64, 0.1, 100, (1, 3), 3, 0.3, 0.5)


@dataclass
class Run:
    """What the parts share."""

    trees: Sequence[Tree]
    extent: Extent
    ports: Iterator[int]
    figures: Figures = field(default_factory=Figures)

    @contextmanager
    def clusters(self, count: int, options: Sequence[str] = ()) -> Iterator[list[Subject]]:
        """One cluster of so many nodes of each checkout. NotReady."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(subjects.cluster(tree, list(itertools.islice(self.ports, count)), options))
                for tree in self.trees
            ]

    @contextmanager
    def single_ones(self) -> Iterator[list[Subject]]:
        """One node of each checkout, and memcached if it is installed. NotReady."""
        with self.clusters(1) as found, ExitStack() as stack:
            if subjects.MEMCACHED_PROGRAM is not None:
                found.append(stack.enter_context(subjects.memcached(next(self.ports))))
            yield found

    def in_turns(self, found: Sequence[Subject], measure: Callable[[Subject], object]) -> None:
        """All rounds."""
        for number in range(self.extent.rounds):
            for subject in found if number % 2 == 0 else reversed(found):
                measure(subject)

    def loaded(self, name: str, subject: Subject, **load: Any) -> Measured:
        """One round of load; what went wrong is entered under this name."""
        measured = subject.load(**{"seconds": self.extent.seconds, "warmup_s": self.extent.warmup_s} | load)
        counts = {what: measured.result[what] for what in _TROUBLES}
        self.figures.trouble(name, subject.name, counts)
        return measured

    def rates(self, name: str, subject: Subject, **load: Any) -> None:
        """One round of load: rate, latencies and processor time."""
        result, processor_us = self.loaded(name, subject, **load)
        add = self.figures.add
        add(f"{name}/{RATE}", subject.name, result["ops_per_s"], "ops/s", MORE)
        for which, value_us in ((P50, result["p50_us"]), (P99, result["p99_us"]), (P999, result["p999_us"])):
            add(f"{name}/{which}", subject.name, value_us, "µs", LESS)
        add(f"{name}/{PROCESSOR}", subject.name, sum(processor_us), "µs a request", LESS)
        add(f"{name}/generator", subject.name, result["generator_busy"], "of a core", NEITHER)


# One node, and memcached.


def one_node_name(value_bytes: int, clients: int) -> str:
    return f"one node/{value_bytes} B/{clients} clients"


def one_node(run: Run) -> None:
    """A node that is full and evicts for every new key, at several numbers of clients, in turns with memcached."""
    loads = ((64, run.extent.fill, CLIENTS), (LARGE_BYTES, run.extent.large_fill, (LARGE_CLIENTS,)))
    for value_bytes, fill, numbers in loads:
        with run.single_ones() as found:
            for subject in found:
                subject.load(clients=LARGE_CLIENTS, kinds="put", in_order=True, requests=fill, value_bytes=value_bytes)
            for clients in numbers:
                name = one_node_name(value_bytes, clients)
                load = partial(run.rates, name, clients=clients, value_bytes=value_bytes)
                run.in_turns(found, load)


# Clusters.


def cluster_name(count: int, copies: int) -> str:
    return f"cluster/{count} nodes/{copies} copies"


def _put_all(run: Run, found: Sequence[Subject]) -> None:
    for subject in found:
        subject.load(clients=_MANY, kinds="put", in_order=True, requests=run.extent.cluster_keys)


def clusters(run: Run) -> None:
    """Clusters of several sizes, each client asking any node, with one copy and with three."""
    for count in run.extent.growth:
        for copies in (1, 3) if count > 1 else (1,):
            name = cluster_name(count, copies)
            with run.clusters(count, ["--replicas", str(copies)]) as found:
                _put_all(run, found)
                run.in_turns(found, partial(run.rates, name, clients=_MANY, keys=run.extent.cluster_keys))


# What a request costs on each node.

LOCAL: Final = "local"
FORWARDED: Final = "forwarded"
REPLICATED: Final = "on three copies"
ASKED, PRIMARY, BACKUP, TOGETHER = "node asked", "primary", "each backup", "together"
# Of three nodes, by their places in the list of servers.
_FRONT, _OWNER, _THIRD = range(3)
EVERYBODY: Final = "costs/every node asked"


def cost_name(way: str, kind: str) -> str:
    return f"costs/{way} {kind.upper()}"


def costs(run: Run) -> None:
    """Three nodes: processor time of a request on the node that is asked, the slot's primary, and each backup."""
    with run.clusters(3, ["--replicas", "1"]) as found:
        _put_all(run, found)
        run.in_turns(found, partial(_costs_of_one_copy, run))
    with run.clusters(3, ["--replicas", "3"]) as found:
        _put_all(run, found)
        run.in_turns(found, partial(_costs_of_three_copies, run))


def _cost(run: Run, subject: Subject, name: str, kind: str, route: Sequence[int]) -> list[float]:
    load = {"clients": _MANY, "keys": run.extent.cluster_keys, "kinds": kind, "route": route}
    return run.loaded(name, subject, **load).processor_us


def _costs_of_one_copy(run: Run, subject: Subject) -> None:
    primaries = subject.primaries()
    add, us = run.figures.add, "µs a request"
    for kind in ("get", "put"):
        name = cost_name(LOCAL, kind)
        spent = _cost(run, subject, name, kind, [_OWNER if at == _OWNER else NOWHERE for at in primaries])
        add(f"{name}/{PRIMARY}", subject.name, spent[_OWNER], us, LESS)
        add(f"{name}/{TOGETHER}", subject.name, spent[_OWNER], us, LESS)
        name = cost_name(FORWARDED, kind)
        spent = _cost(run, subject, name, kind, [_FRONT if at == _OWNER else NOWHERE for at in primaries])
        add(f"{name}/{ASKED}", subject.name, spent[_FRONT], us, LESS)
        add(f"{name}/{PRIMARY}", subject.name, spent[_OWNER], us, LESS)
        add(f"{name}/{TOGETHER}", subject.name, spent[_FRONT] + spent[_OWNER], us, LESS)
    local = sum(_cost(run, subject, EVERYBODY, "both", primaries))
    forwarded = sum(_cost(run, subject, EVERYBODY, "both", [(at + 1) % 3 for at in primaries]))
    add(f"{EVERYBODY}/{LOCAL}", subject.name, local, us, LESS)
    add(f"{EVERYBODY}/{FORWARDED}", subject.name, forwarded, us, LESS)
    add(f"{EVERYBODY}/{FORWARDED} by {LOCAL}", subject.name, forwarded / local, "times", LESS)


def _costs_of_three_copies(run: Run, subject: Subject) -> None:
    name = cost_name(REPLICATED, "put")
    spent = _cost(run, subject, name, "put", [_OWNER if at == _OWNER else NOWHERE for at in subject.primaries()])
    add, us = run.figures.add, "µs a request"
    add(f"{name}/{PRIMARY}", subject.name, spent[_OWNER], us, LESS)
    add(f"{name}/{BACKUP}", subject.name, (spent[_FRONT] + spent[_THIRD]) / 2, us, LESS)
    add(f"{name}/{TOGETHER}", subject.name, sum(spent), us, LESS)


# Memory.


def memory_name(size: str) -> str:
    return f"memory/{in_words(size)}"


def in_words(size: str) -> str:
    return size if size == RANDOM else f"{int(size):,} B"


# Nobody acknowledges answers here: of more PUTs a second than this the answers would fill the memory for them, and PUTs
# be refused.
_PUTS_PER_S: Final = 40_000
_PORTION: Final = 10_000

LEAST: Final = "memory/least after churn"
PEAK: Final = "memory/peak"


def memory(run: Run) -> None:
    """What a node holds when it is filled for the first time, and after other sizes have flowed through it."""
    for tree in run.trees:
        first: dict[str, int] = {}
        shares = []
        for size in SIZES:
            phases = CHURN if size == CHURN[0] else (size,)
            with subjects.cluster(tree, [next(run.ports)], ["--max-memory", f"{run.extent.max_memory_mib}MiB"]) as node:
                shares += list(_fill(run, node, phases, first))
                peak_mib = node.members[0].counters()["peak_resident_bytes"] / MIB
                run.figures.add(PEAK, tree.name, peak_mib, "MiB", LESS)
        _enter_shares(run, tree, first, shares)


def _fill(run: Run, node: Subject, phases: Sequence[str], first: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    """Fill it with one size after the other; (size, the size before, entries) for all but the first."""
    filler = _Filler(node, run.extent)
    first[phases[0]] = filler.until_full(phases[0])
    run.figures.add(f"{memory_name(phases[0])}/first fill", node.name, first[phases[0]], "entries", MORE)
    for before, size in itertools.pairwise(phases):
        yield size, before, filler.flow(size)


def _enter_shares(run: Run, tree: Tree, first: dict[str, int], shares: Sequence[tuple[str, str, int]]) -> None:
    for size, before, entries in shares:
        share = entries / first[size]
        run.figures.add(f"{memory_name(size)}/after {in_words(before)}", tree.name, share, "of a first fill", MORE)
    least = min(entries / first[size] for size, _, entries in shares)
    run.figures.add(LEAST, tree.name, least, "of a first fill", MORE)


class _Filler:
    """Puts ever new keys into a node."""

    def __init__(self, node: Subject, extent: Extent) -> None:
        self._node = node
        self._bound = extent.max_memory_mib * MIB
        self._flow, self._flow_puts = extent.flow, extent.flow_puts
        self._next_key = 0

    def _put(self, size: str, requests: int) -> None:
        least, most = (0, LARGE_BYTES) if size == RANDOM else (int(size), int(size))
        load = {"value_bytes": least, "value_bytes_most": most, "first_key": self._next_key, "requests": requests}
        began_s = time.monotonic()
        self._node.load(clients=LARGE_CLIENTS, kinds="put", in_order=True, **load)
        self._next_key += requests
        time.sleep(max(0.0, requests / _PUTS_PER_S - (time.monotonic() - began_s)))

    def _entry_bytes(self, size: str) -> int:
        return _ENTRY_BYTES + (LARGE_BYTES // 2 if size == RANDOM else int(size))

    def until_full(self, size: str) -> int:
        """Until the node begins to evict; how many it holds then."""
        requests = max(self._bound // 64 // self._entry_bytes(size), 1)
        while True:
            self._put(size, requests)
            counters = self._node.members[0].counters()
            if counters["evictions"]:
                return counters["entries"]

    def flow(self, size: str) -> int:
        """Let a good deal of it flow through the node; how many it holds then."""
        requests = max(int(self._flow * self._bound) // self._entry_bytes(size), self._flow_puts)
        for done in range(0, requests, _PORTION):
            self._put(size, min(_PORTION, requests - done))
        return self._node.members[0].counters()["entries"]


# Doing nothing.

IDLE_PROCESSOR: Final = "idle/processor time"
IDLE_RESIDENT: Final = "idle/resident size"


def idle(run: Run) -> None:
    """Nodes that nobody asks: each one's processor time and size. (A round is a node here.)"""
    for tree in run.trees:
        with subjects.cluster(tree, list(itertools.islice(run.ports, run.extent.idle_nodes))) as found:
            time.sleep(run.extent.settle_s)
            began_s = time.monotonic()
            before = [nodes.processor_s(pid) for pid in found.pids]
            time.sleep(run.extent.idle_s)
            used = [nodes.processor_s(pid) - was for pid, was in zip(found.pids, before, strict=True)]
            lasted_s = time.monotonic() - began_s
            for node, used_s in zip(found.members, used, strict=True):
                run.figures.add(IDLE_PROCESSOR, tree.name, used_s / lasted_s * 1000, "ms a second", LESS)
                resident_mib = node.counters()["resident_bytes"] / MIB
                run.figures.add(IDLE_RESIDENT, tree.name, resident_mib, "MiB", LESS)


PARTS: Final[dict[str, Callable[[Run], None]]] = {
    "one-node": one_node,
    "clusters": clusters,
    "costs": costs,
    "memory": memory,
    "idle": idle,
}
