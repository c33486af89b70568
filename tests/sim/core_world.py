"""Virtual time, hosts with clocks of their own, processes that come and go, and the network between them."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from app.cluster.events import (
    AskRegister,
    CloseLink,
    Datagram,
    Event,
    Left,
    LinkClosed,
    LinkFailed,
    LinkRefused,
    LinkUp,
    Log,
    OpenLink,
    Reset,
    Send,
    SlotsSynced,
    Tick,
    ViewInstalled,
)
from app.cluster.membership import core as core_module
from app.cluster.membership.state import ClusterConfig
from app.cluster.slots import slots_of
from tests.sim.register import RegisterOptions, SimRegister

SOCKET_BUFFER = 256  # datagrams that wait for a stopped process; more are lost
LINK_WATCH_S = 0.1  # how often links are looked at
LINK_SILENCE_S = 0.5  # whoever hears nothing over a link for so long ends it
HANDSHAKE_S = 2.0  # how long a dial waits for a process that is stopped


@dataclass
class Options:
    """How a run behaves; drawn from its seed."""

    hosts: int = 3
    replicas: int = 3
    transfer: bool = False
    sync_s: float = 0.0  # with transfer: how long a learner takes, at most
    delay_s: float = 0.0005
    jitter_s: float = 0.0005
    slow_share: float = 0.0  # of datagrams that take up to slow_s
    slow_s: float = 0.3
    loss: float = 0.0
    duplication: float = 0.0
    drift: float = 0.0  # clock rates are within 1 +- this
    lag_s: float = 0.001  # a timer fires up to this much late
    clock_set_back: float = 0.0  # chance that a process starts with a lower incarnation than the one before
    one_machine: bool = False  # all run on one: who is refused is proven to be gone
    bursts: bool = False  # many join or leave at one moment, now and then
    register: RegisterOptions | None = None  # views are decided on by a register outside
    link_cuts: bool = False  # links of some pairs end, with or without their datagrams, now and then


class Host:
    """A machine: an address, a clock, at most one process."""

    def __init__(self, address: str, rate: float, offset: float) -> None:
        self.address = address
        self.rate = rate
        self.offset = offset
        self.process: Process | None = None
        self.last_incarnation = 0

    def local(self, now: float) -> float:
        return self.offset + now * self.rate

    def true(self, local: float) -> float:
        return (local - self.offset) / self.rate


@dataclass(eq=False)
class Process:
    """One run of a node's program."""

    host: Host
    core: core_module.ClusterCore
    paused: bool = False
    waiting: deque[Event] = field(default_factory=deque)  # what arrives while it is stopped
    links: dict[str, "SimLink"] = field(default_factory=dict)
    wake_at: float = inf
    timer: int = 0
    left: bool = False

    @property
    def address(self) -> str:
        return self.host.address


@dataclass(eq=False)
class SimLink:
    dialler: Process
    target: Process | None = None
    is_up: bool = False
    silent_s: float = 0.0


class World:
    """Everything, driven by `run`. Whoever wants to see effects or steps sets the hooks."""

    def __init__(self, seed: int, options: Options) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.options = options
        self.now = 0.0
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self.blocked: set[tuple[str, str]] = set()  # (from, to) pairs that are cut
        self.link_cuts: set[tuple[str, str]] = set()  # pairs over whose links nothing gets through; datagrams do
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=4000)
        self.on_step: Callable[[Process], None] = lambda process: None
        self.on_effect: Callable[[Process, object], None] = lambda process, effect: None
        self.hosts = [
            Host(
                f"10.0.0.{index + 1}:3331",
                1 + self.rng.uniform(-options.drift, options.drift),
                self.rng.uniform(0, 1000),
            )
            for index in range(options.hosts)
        ]
        self.by_address = {host.address: host for host in self.hosts}
        self.servers = tuple(host.address for host in self.hosts)
        rng = random.Random(seed ^ 0x5EA7)
        self.register = SimRegister(options.register or RegisterOptions(), rng, self.after)
        self.after(LINK_WATCH_S, self._watch_links)

    # Time.

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, action, args))

    def after(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, action, *args)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action, args = heapq.heappop(self._queue)
            action(*args)
        self.now = until

    def note(self, *what: Any) -> None:
        self.trace.append((self.now, *what))

    # Processes.

    def processes(self) -> list[Process]:
        return [host.process for host in self.hosts if host.process is not None]

    def start(self, host: Host) -> None:
        if host.process is not None:
            return
        options = self.options
        incarnation = max(host.last_incarnation, 10_000_000) + 1 + int(self.now * 1e6)
        if host.last_incarnation and self.rng.random() < options.clock_set_back:
            incarnation = host.last_incarnation - self.rng.randrange(1, 1_000_000)
        config = ClusterConfig(
            host.address,
            self.servers,
            options.replicas,
            options.transfer,
            shared_register=options.register is not None,
        )
        rng = random.Random(self.rng.getrandbits(32))
        core = core_module.ClusterCore(config, incarnation, host.local(self.now), rng)
        host.process = Process(host, core)
        self.note(host.address, "starts", incarnation)
        self._step(host.process, Tick())

    def crash(self, host: Host) -> None:
        process = host.process
        if process is None:
            return
        self.note(host.address, "crashes")
        host.process = None
        host.last_incarnation = max(host.last_incarnation, process.core.incarnation)
        for other in self.processes():
            link = other.links.get(host.address)
            if link is not None and link.target is process:
                self.after(self._delay(), self._close, link)

    def pause(self, host: Host, seconds: float) -> None:
        process = host.process
        if process is not None and not process.paused:
            self.note(host.address, "stops for", round(seconds, 3))
            process.paused = True
            self.after(seconds, self.resume, process)

    def resume(self, process: Process) -> None:
        if process.host.process is not process or not process.paused:
            return
        self.note(process.address, "goes on")
        process.paused = False
        if self.rng.random() < 0.5:  # whichever comes first, the timer or the sockets
            self._step(process, Tick())
        while process.waiting and process.host.process is process:
            self._step(process, process.waiting.popleft())
        self._step(process, Tick())

    def give(self, process: Process, event: Event) -> None:
        """Let the process have the event, now or when it goes on."""
        if process.host.process is not process or process.left:
            return
        if not process.paused:
            self._step(process, event)
        elif not isinstance(event, Datagram) or len(process.waiting) < SOCKET_BUFFER:
            process.waiting.append(event)

    def _step(self, process: Process, event: Event) -> None:
        if process.left:
            return
        self.steps += 1
        effects = process.core.step(event, process.host.local(self.now))
        for effect in effects:
            self.carry_out(process, effect)
        self._arm(process)
        self.on_step(process)

    def _arm(self, process: Process) -> None:
        wake_at = process.host.true(process.core.wake_at)
        if wake_at != process.wake_at:
            process.wake_at = wake_at
            process.timer += 1
            late = self.rng.uniform(0, self.options.lag_s)
            self.at(max(self.now, wake_at) + 1e-6 + late, self._fire, process, process.timer)

    def _fire(self, process: Process, timer: int) -> None:
        if process.timer == timer and process.host.process is process and not process.paused:
            self._step(process, Tick())
        elif process.timer == timer:
            process.wake_at = inf  # armed again by the next step

    def carry_out(self, process: Process, effect: object) -> None:
        self.on_effect(process, effect)
        match effect:
            case Send(peer, payload):
                self._send(process.address, peer, payload)
            case OpenLink(peer, incarnation):
                self._dial(process, peer, incarnation)
            case CloseLink(peer):
                process.links.pop(peer, None)
            case AskRegister():
                self.register.send(process.address, effect, partial(self.give, process))
            case ViewInstalled(view, is_member):
                self.note(process.address, "installs", view.describe(), is_member)
                if is_member and self.options.transfer:
                    self._transfer(process)
            case Reset(incarnation):
                self.note(process.address, "starts anew", incarnation)
            case Left():
                self.note(process.address, "has left")
                process.left = True
                self.after(0.001, self._exit, process)
            case Log(level, text):
                self.note(process.address, level, text)

    def _exit(self, process: Process) -> None:
        if process.host.process is process:
            self.crash(process.host)

    def _transfer(self, process: Process) -> None:
        view = process.core.view
        assert view is not None
        learners: dict[str, int] = {}
        for slot in slots_of(view.masks[process.address]):
            for learner in view.learners(slot):
                learners[learner] = learners.get(learner, 0) | 1 << slot
        for learner, slots in learners.items():
            # In two parts, at different times.
            part = slots & self.rng.getrandbits(256)
            for some in (part, slots & ~part):
                if some:
                    took = self.rng.uniform(0, self.options.sync_s)
                    self.after(took, self._synced, process, learner, some, view.cluster_id, view.epoch)

    def _synced(self, process: Process, learner: str, slots: int, cluster_id: int, epoch: int) -> None:
        view = process.core.view
        if view is not None and (view.cluster_id, view.epoch) == (cluster_id, epoch) and process.core.is_member:
            event = SlotsSynced(learner, slots, epoch)
            self.on_effect(process, event)
            self.give(process, event)

    # Datagrams.

    def _delay(self) -> float:
        options, rng = self.options, self.rng
        if options.slow_share and rng.random() < options.slow_share:
            return options.delay_s + rng.uniform(0, options.slow_s)
        return options.delay_s + rng.uniform(0, options.jitter_s)

    def _send(self, source: str, target: str, payload: bytes) -> None:
        options, rng = self.options, self.rng
        copies = 1 + (options.duplication > 0 and rng.random() < options.duplication)
        for _ in range(copies):
            if (source, target) in self.blocked or (options.loss and rng.random() < options.loss):
                continue
            self.after(self._delay(), self._arrive, source, target, payload)

    def _arrive(self, source: str, target: str, payload: bytes) -> None:
        host = self.by_address.get(target)
        if host is not None and host.process is not None:
            self.give(host.process, Datagram(source, payload))

    # Links.

    def _is_cut(self, one: str, other: str) -> bool:
        paths = {(one, other), (other, one)}
        return bool(paths & self.blocked or paths & self.link_cuts)

    def is_linked(self, one: Process, other: Process) -> bool:
        """Whether frames pass from the one to the other and back."""
        links = (one.links.get(other.address), other.links.get(one.address))
        return not self._is_cut(one.address, other.address) and all(link and link.is_up for link in links)

    def _dial(self, process: Process, peer: str, incarnation: int) -> None:
        link = process.links[peer] = SimLink(process)
        self.after(self._delay(), self._dialled, link, peer, incarnation, self.now + HANDSHAKE_S)

    def _dialled(self, link: SimLink, peer: str, incarnation: int, give_up_at: float) -> None:
        source = link.dialler.address
        if self._is_cut(source, peer):
            self.after(1.0, self._tell, link, peer, LinkFailed(peer))
            return
        target = self.by_address[peer].process
        if target is None:
            self.after(self._delay(), self._tell, link, peer, LinkRefused(peer, incarnation, self.options.one_machine))
            return
        if target.paused:  # its kernel has connected us, and nobody shakes hands
            if self.now < give_up_at:
                self.after(0.05, self._dialled, link, peer, incarnation, give_up_at)
            else:
                self._tell(link, peer, LinkFailed(peer))
            return
        link.target, link.is_up = target, True
        self.after(self._delay(), self._tell, link, peer, LinkUp(peer))

    def _tell(self, link: SimLink, peer: str, event: Event) -> None:
        if link.dialler.links.get(peer) is link:
            if isinstance(event, LinkUp) and link.target is not self.by_address[peer].process:
                self._close(link)  # it went while the word was on its way
            else:
                self.give(link.dialler, event)

    def _watch_links(self) -> None:
        """End what has been silent for too long, as whoever dialled it sees it; its own sleep is nobody's silence."""
        for process in self.processes():
            for peer, link in list(process.links.items()):
                target = link.target
                if not link.is_up or target is None or process.paused:
                    continue
                is_heard = not target.paused and not self._is_cut(process.address, peer)
                link.silent_s = 0.0 if is_heard else link.silent_s + LINK_WATCH_S
                if link.silent_s >= LINK_SILENCE_S:
                    link.is_up = False
                    self.give(process, LinkClosed(peer))
        self.after(LINK_WATCH_S, self._watch_links)

    def _close(self, link: SimLink) -> None:
        assert link.target is not None
        peer = link.target.address
        if link.dialler.links.get(peer) is not link or link.dialler.host.process is not link.dialler:
            return
        if self._is_cut(link.dialler.address, peer):
            self.after(0.2, self._close, link)  # found out by a later try
        elif link.is_up:
            link.is_up = False
            self.give(link.dialler, LinkClosed(peer))
