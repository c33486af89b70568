"""One seed from start to end: faults, then none; copies, histories and replies must be as promised."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from random import Random

from app.storage.store import slot_of
from app.wire.protocol import CLIENT_TIMEOUTS_MS, GET
from tests.sim.checks import Violation
from tests.sim.clients import ClientOptions
from tests.sim.cluster import Cluster, Options
from tests.sim.history import Operation, is_linearizable
from tests.sim.nemesis import Nemesis
from tests.sim.network import NetworkOptions
from tests.sim.process import NodeOptions, Process
from tests.sim.register import draw_register
from tests.sim.world import Host, trace_logs

STORY_LINES = int(os.environ.get("SIM_STORY_LINES", "100"))  # of the trace, when a run fails
CONVERGE_S = 20.0  # virtual seconds without faults within which all copies are whole and the same
LASTING_S = 8.0  # within which the others serve all slots again when some are gone for good
NOTICED_S = 4.0  # after which whoever has to go because others lack it has gone, on slow nodes too

# Faults that stay.
LASTING = ("", "", "isolate", "pause", "crash", "power", "deaf", "mute", "flow", "cable", "streams")


@dataclass
class Plan:
    """What a run does."""

    options: Options
    faults_s: float = 4.0
    faults: tuple[str, ...] = ()
    pace_s: float = 0.0
    bursts: bool = False
    majorities: bool = False  # most of the cluster may be restarted, or go
    lasting: str = ""  # a fault that stays while the others must serve; empty: none


@dataclass
class Result:
    seed: int
    steps: int = 0
    virtual_s: float = 0.0
    took_s: float = 0.0
    epoch: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # what was tried at all


def draw(seed: int, *, register: bool = False) -> Plan:
    """The plan of a seed. `register`: views are decided on by a register outside, not by the nodes."""
    rng = Random(seed ^ 0x5EED)
    busy = rng.random() < 0.2
    pressure = rng.random() < 0.3
    giving = Random(seed ^ 0xC0B1E5)  # how slots are given; of its own, so that the other options stay as they were
    naming = Random(seed ^ 0xADD4E55)  # likewise: whether servers are names, and what their resolver is like
    are_named = naming.random() < 0.3
    # Nodes see how old a request is from when it came on. Clients' datagrams must not be late by more than the replies
    # are remembered: either all is fast and replies are forgotten soon, or much is slow and they are kept for long.
    slow = rng.random() < 0.5
    node = NodeOptions(
        replicas=rng.choice((1, 2, 3, 3, 3, 4, 5)),
        evict=rng.random() < 0.7,
        secret=rng.choice((None, b"a secret of sixteen or more")),
        one_machine=rng.choice((False, False, True)),
        reply_ttl_s=12.0 if slow else 2.2,
        max_in_flight=rng.choice((8, 1024)),
        batch_size=rng.choice((4, 8, 16)),
        queue_max_bytes=rng.choice((0, 0, 320_000)),
        pages=rng.choice((3, 6)) if pressure else 0,
        lag_s=0.03 if busy else rng.choice((0.0001, 0.001)),
        turn_s=0.01 if busy else rng.choice((0.0, 0.0005)),
        stop_share=rng.choice((0.0, 0.0, 0.0001)),
        stop_s=rng.choice((0.1, 0.7, 2.0)),
        staging_bytes=giving.choice(((0, 0), (0, 0), (300, 600), (3000, 6000), (20_000, 40_000))),
        transfer_bytes=giving.choice(((0, 0), (0, 0), (400_000, 2000), (2_000_000, 500))),
        send_fails=rng.choice((0.0, 0.0, 0.01)),
        clock_set_back=rng.choice((0.0, 0.0, 0.3)),
        extra={
            "leave_timeout_s": rng.choice((2.0, 10.0)),
            "slow_ms": rng.choice((0, 1, 100)),
        },
    )
    network = NetworkOptions(
        delay_s=rng.choice((0.0001, 0.0005, 0.005)),
        jitter_s=rng.choice((0.0, 0.0005, 0.01, 0.05)),
        slow_share=rng.choice((0.0, 0.01, 0.1)),
        slow_s=rng.choice((0.5, 1.5)) if slow else 0.05,
        loss=rng.choice((0.0, 0.0, 0.01, 0.1, 0.3)),
        large_loss=rng.choice((0.0, 0.0, 0.0, 0.5)),
        duplication=rng.choice((0.0, 0.05, 0.3)),
        datagram_buffer_bytes=rng.choice((16_384, 256 * 1024)),
        stream_buffer_bytes=rng.choice((4096, 32_768, 256 * 1024)),
        survives_cut_s=rng.choice((0.02, 1.5, inf)),
        lookup_fails=naming.choice((0.0, 0.1)),
        lookup_late_s=naming.choice((0.0, 2.0)),
    )
    clients = ClientOptions(
        clients=rng.choice((4, 8, 12)),
        keys=rng.choice((20, 40)) if pressure else rng.choice((4, 10)),
        value_bytes=rng.choice((6000, 9000)) if pressure else rng.choice((20, 20, 200)),
        think_s=rng.choice((0.005, 0.02, 0.05)),
        write_share=rng.choice((0.2, 0.6, 0.6)),
        wipe_share=rng.choice((0.0, 0.0, 0.0, 0.0, 0.01)),
        answer_loss=rng.choice((0.0, 0.02, 0.3)),
        move_share=rng.choice((0.0, 0.1)),
        sticky=rng.random() < 0.3,
        odd_ids=rng.random() < 0.2,
        timeouts_s=tuple(ms / 1000 for ms in CLIENT_TIMEOUTS_MS) if slow else (0.15, 0.45, 1.5),
        load_s=rng.choice((0.0, 0.0, 0.0, 0.02)),
        load_burst=rng.choice((20, 200)),
    )
    options = Options(
        hosts=rng.choice((2, 3, 3, 3, 3, 4, 5, 5, 6, 7, 9)),
        are_named=are_named,
        drift=rng.choice((0.0, 0.0001, 0.0095)),
        node=node,
        network=network,
        clients=clients,
        register=draw_register(Random(seed ^ 0x9E6)) if register else None,
    )
    growing = Random(seed ^ 0x6E0)  # likewise: whether some servers are added to the file later
    if options.hosts > 2 and growing.random() < 0.25:
        options.listed = growing.randint((options.hosts + 1) // 2, options.hosts - 1)
        node.extra["file_rules"] = True
    ordering = Random(seed ^ 0x0DE2)  # likewise: whether they are added by a command
    if options.hosts > 2 and ordering.random() < 0.25:
        options.listed, options.by_command = ordering.randint(2, options.hosts - 1), True
        node.secret = node.secret or b"a secret of sixteen or more"
        node.extra["forget_after_s"] = ordering.choice((0.0, 0.0, 0.5, 3.0))
    if options.drift > 0.001:
        options.stands_still = False
    if options.hosts > 5:
        clients.clients = 4
    return Plan(
        options,
        faults_s=rng.choice((2.0, 4.0)) if options.hosts > 5 else rng.choice((3.0, 6.0)),
        bursts=seed % 3 == 0,
        majorities=seed % 5 == 0,
        lasting=rng.choice(LASTING) if options.hosts > 2 else "",
    )


def run(seed: int, plan: Plan | None = None) -> Result:
    """Run the seed; raises Violation, with the end of the trace in its message."""
    began = time.perf_counter()
    plan = plan or draw(seed)
    cluster = Cluster(seed, plan.options)
    world = cluster.world
    trace_logs(world)
    try:
        _play(cluster, plan)
    except Exception as error:
        raise Violation(
            f"{world.story(STORY_LINES)}\nseed {seed} at {world.now:.6f}: {error!r}\n{plan}\n"
            f"python -m tests.sim --seeds 1 --start {seed}"
        ) from error
    finally:
        trace_logs(None)
    epoch = max((process.core.epoch for process in cluster.processes()), default=0)
    for process in cluster.processes():
        for name, count in process.node.replication.faults.items():
            cluster.counts[f"copies: {name}"] += count
    cluster.dispose()
    return Result(seed, world.steps, world.now, time.perf_counter() - began, epoch, cluster.counts)


def _play(cluster: Cluster, plan: Plan) -> None:
    world = cluster.world
    nemesis = Nemesis(
        cluster,
        plan.faults_s,
        faults=plan.faults,
        pace_s=plan.pace_s,
        bursts=plan.bursts,
        majorities=plan.majorities,
    )
    nemesis.start_all()
    if plan.options.by_command:
        cluster.administer()
    for client in cluster.clients:
        client.start(0.2, plan.faults_s + 1.0)
    if cluster.load is not None:
        world.after(0.2, cluster.load.start, inf)
    world.run(plan.faults_s)
    nemesis.make_well()
    cluster.client_options.answer_loss = 0.0
    converge(cluster)
    if cluster.load is not None:
        cluster.load.until = world.now
    read_all(cluster)
    check_histories(cluster)
    if plan.lasting:
        last(cluster, nemesis, plan.lasting)


def converge(cluster: Cluster) -> None:
    """All becomes well, within bounded time."""
    world, checks = cluster.world, cluster.checks
    # A node whose reply memory is full refuses writes until what is in it expires: at most a lifetime, a quarter
    # of one, and some steps of its clock.
    limit_s = CONVERGE_S + (1.5 * cluster.options.reply_ttl_s if cluster.options.pages else 0.0)
    deadline = world.now + limit_s
    while missing := checks.is_converged() or checks.differs() or checks.complains():
        if world.now >= deadline:
            raise Violation(f"after {limit_s} s without faults: {missing}")
        world.run(world.now + 0.1)
        cluster.grow()
        for host in cluster.hosts:  # whoever has left comes back
            cluster.start(host)


def read_all(cluster: Cluster) -> None:
    """Every key is read once more, in all quiet."""
    world = cluster.world
    keys = list(cluster.keys)
    for client in cluster.clients:
        client.until = world.now
    give_up = world.now + 30.0
    while keys or any(client.current is not None for client in cluster.clients):
        for client in cluster.clients:
            if keys and client.current is None:
                client.ask(GET, keys.pop())
        if world.now > give_up:
            raise Violation("requests are not answered although all is well")
        world.run(world.now + 0.02)


def check_histories(cluster: Cluster) -> None:
    """Of all keys but those of slots that lost every copy, which nothing was promised of."""
    forgets = cluster.options.evict and cluster.is_tight
    for key in cluster.keys:
        if cluster.checks.lost >> slot_of(key) & 1:
            cluster.count("keys lost")
            continue
        cluster.count("keys checked")
        operations: list[Operation] = []
        for client in cluster.clients:
            operations += client.history.get(key, [])
            if client.current is not None and client.current.key == key:
                raise Violation(f"{client.current} is still under way")
        for called, _ in cluster.wipes:  # it may have reached the key's slot, then or later, or not
            operations.append(Operation("REMOVE", None, called))
        if not is_linearizable(operations, forgets=forgets):
            lines = "\n".join(str(op) for op in sorted(operations, key=lambda op: op.called))
            raise Violation(f"{key!r} (slot {slot_of(key)}) is not linearizable:\n{lines}")


def last(cluster: Cluster, nemesis: Nemesis, kind: str) -> None:
    """A fault comes and stays: whoever it leaves with a majority serves every slot, has whole copies of it again, and
    answers every request."""
    world = cluster.world
    converge(cluster)  # somebody may have been leaving
    gone = _strike(cluster, kind)
    for host in gone:
        host.stays_down = True
    staying = [host for host in cluster.hosts if host not in gone]
    for client in cluster.clients:
        client.servers = [host.number for host in staying]
        client.start(world.now, inf)
    began = world.now
    if not gone:
        world.run(world.now + NOTICED_S)
    if kind == "streams":  # nobody can serve, and all must say so
        _all_lack(cluster)
    else:
        checks = cluster.checks
        for within_s, missing_to in ((LASTING_S, checks.unserved), (CONVERGE_S, checks.is_converged)):
            while missing := missing_to(_staying(cluster, staying)):
                if world.now >= began + within_s:
                    raise Violation(f"{within_s} s after {gone} were gone ({kind}): {missing}")
                world.run(world.now + 0.05)
        cluster.network.lose_nothing()
        for client in cluster.clients:
            client.is_served_from = world.now
        world.run(world.now + 1.0)
        read_all(cluster)
        check_histories(cluster)
    for client in cluster.clients:
        client.is_served_from, client.servers = inf, None
    for host in gone:
        host.stays_down = False
    nemesis.make_well()
    converge(cluster)
    read_all(cluster)
    check_histories(cluster)


def _staying(cluster: Cluster, hosts: list[Host]) -> list[Process]:
    """The processes of these hosts, but for those that had to go because others lack them."""
    processes = [host.process for host in hosts if host.process is not None]
    newest = max((process.core for process in processes), key=lambda core: core.epoch)
    return [process for process in processes if newest.view.has(process.address, process.core.incarnation)]


def _all_lack(cluster: Cluster) -> None:
    """No link is left: every node says whom it lacks, and all go by one view that has a majority of the members.

    As a rule nobody is removed. But who is to go is decided by what has shown so far: where a slow node notices late
    that it lacks others, one whose lacks have shown first is removed, as if its machine were at fault.
    """
    world = cluster.world
    members = cluster.processes()[0].core.view.addresses
    world.run(world.now + 4.0)
    processes = cluster.processes()
    for process in processes:
        if not process.core.status().lacks:
            raise Violation(f"{process.address} lacks all others, and does not say so: {process.core.status()}")
    views = {process.core.view.addresses for process in processes}
    if len(views) > 1:
        raise Violation(f"nodes that all lack each other go by different views: {views}")
    staying = views.pop()
    if not set(staying) <= set(members) or 2 * len(staying) <= len(members):
        raise Violation(f"of {members} that all lack each other {staying} stay")


def _strike(cluster: Cluster, kind: str) -> list[Host]:
    """Have the fault come; who is gone by it, a minority."""
    world, network, hosts = cluster.world, cluster.network, cluster.hosts
    rng = Random(world.rng.getrandbits(32))
    if kind in ("cable", "flow", "streams"):  # everybody can be reached by clients, and by the coordinator
        coordinator = cluster.processes()[0].core.view.coordinator
        one, other = [host.ip for host in hosts if host.address != coordinator][:2]
        world.note("for good", kind, one, other)
        paths = [(one, other), (other, one)]
        if kind == "streams":
            paths = [(a.ip, b.ip) for a in hosts for b in hosts if a is not b]
        if kind == "flow":
            network.lose_flows(paths)
        else:
            network.cut(paths, datagrams=kind == "cable", streams=True)
        return []
    gone = rng.sample(hosts, rng.randint(1, (len(hosts) - 1) // 2))
    if cluster.options.replicas <= len(gone):
        gone = gone[:1]
    if cluster.all_options.by_command:  # half of the founders are needed
        spare = len(cluster.listed) // 2
        founders = [host for host in gone if host in cluster.listed]
        gone = [host for host in gone if host not in founders[spare:]] or [hosts[-1]]
    world.note("for good", kind, gone)
    for host in gone:
        if kind == "pause":
            cluster.pause(host, 1000.0)
        elif kind in ("crash", "power"):
            cluster.crash(host, power=kind == "power")
        else:
            paths = [path for path in cluster.paths_of(host) if kind == "isolate" or path[kind == "deaf"] == host.ip]
            network.cut(paths, datagrams=True, streams=True)
    return gone
