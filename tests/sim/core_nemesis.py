"""What goes wrong, and when: all of it drawn from the seed of the run."""

import random

from app.cluster.events import LeaveRequested
from tests.sim.core_world import Host, Options, World
from tests.sim.register import cut_register


def draw_options(rng: random.Random) -> Options:
    """The conditions of a run."""
    busy = rng.random() < 0.3
    return Options(
        hosts=rng.choice((1, 2, 2, 3, 3, 3, 4, 5, 5, 6, 7)),
        replicas=rng.choice((1, 2, 3, 3, 3)),
        transfer=(transfer := rng.random() < 0.5),
        sync_s=rng.choice((0.0, 0.05, 0.5)) if transfer else 0.0,
        delay_s=rng.choice((0.0001, 0.0005, 0.005)),
        jitter_s=rng.choice((0.0, 0.0005, 0.01, 0.05)),
        slow_share=rng.choice((0.0, 0.0, 0.01, 0.1)),
        slow_s=rng.choice((0.1, 0.5, 2.0)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.1, 0.3)),
        duplication=rng.choice((0.0, 0.05, 0.3)),
        drift=rng.choice((0.0, 0.0001, 0.0095)),
        lag_s=0.05 if busy else 0.001,
        clock_set_back=rng.choice((0.0, 0.0, 0.3)),
        one_machine=rng.random() < 0.4,
    )


class Nemesis:
    """Breaks things at random moments until `until`, then makes everything well."""

    def __init__(self, world: World, until: float) -> None:
        self._world = world
        self._rng = random.Random(world.rng.getrandbits(32))
        self._until = until
        self._pace_s = self._rng.choice((0.1, 0.4, 1.5))
        faults = [
            self.crash,
            self.bounce,
            self.pause,
            self.pause_all,
            self.cut,
            self.isolate,
            self.leave,
            self.heal,
        ]
        self._faults = [fault for fault in faults if self._rng.random() < 0.7] or faults
        world.after(self._rng.uniform(0.1, 2.0), self._next)
        # Bursts are drawn apart, so that a seed without any is what it was before there were bursts.
        self._burst_rng = random.Random(world.seed ^ 0xB0B)
        if world.options.bursts:
            world.after(self._burst_rng.uniform(0.5, 2.0), self._burst)
        self._links_rng = random.Random(world.seed ^ 0xCAB1E)
        if world.options.link_cuts:
            world.after(self._links_rng.uniform(0.5, 2.0), self._cut_links)
        if world.options.register is not None:
            rng = random.Random(world.seed ^ 0xE7C0)
            arguments = (world.register, list(world.servers), rng, world.note, lambda: world.now >= until)
            world.after(rng.uniform(0.1, 2.0), cut_register, *arguments)

    def start_all(self) -> None:
        """Servers start in any order, together or seconds apart."""
        spread = self._rng.choice((0.0, 0.05, 1.0, 4.0))
        for host in self._world.hosts:
            self._world.after(self._rng.uniform(0, spread), self._world.start, host)

    def _next(self) -> None:
        if self._world.now < self._until:
            self._rng.choice(self._faults)()
            self._world.after(self._rng.expovariate(1 / self._pace_s), self._next)

    def _burst(self) -> None:
        """Many come, or go, at one moment."""
        world, rng = self._world, self._burst_rng
        if world.now >= self._until:
            return
        some = rng.sample(world.hosts, rng.randint(1, len(world.hosts)))
        world.note("burst")
        if rng.random() < 0.5:
            for host in some:
                self._ask_to_leave(host)
        else:
            for host in some:
                if host.process is not None and self._may_end(host):
                    world.crash(host)
            together = rng.choice((0.0, 0.01, 0.5))
            for host in world.hosts:  # those that were down before, too
                world.after(together + rng.uniform(0, 0.01), world.start, host)
        world.after(rng.expovariate(1 / 2.0), self._burst)

    def _may_end(self, host: Host) -> bool:
        """Whether nothing is lost by right with this host's process."""
        return True

    def _some(self) -> Host:
        return self._rng.choice(self._world.hosts)

    def _for_a_while(self) -> float:
        return self._rng.choice((0.05, 0.3, 0.7, 1.0, 2.5, 6.0)) * self._rng.uniform(0.5, 1.5)

    def crash(self) -> None:
        host = self._some()
        self._world.crash(host)
        self._world.after(self._for_a_while(), self._world.start, host)

    def bounce(self) -> None:
        """A restart faster than any timeout."""
        host = self._some()
        self._world.crash(host)
        self._world.after(self._rng.uniform(0, 0.01), self._world.start, host)

    def pause(self) -> None:
        self._world.pause(self._some(), self._for_a_while())

    def pause_all(self) -> None:
        """The whole machine stops; its processes go on nearly together."""
        seconds = self._rng.uniform(0.1, 2.0)
        for host in self._world.hosts:
            self._world.pause(host, seconds + self._rng.uniform(0, 0.02))

    def leave(self) -> None:
        self._ask_to_leave(self._some())

    def _ask_to_leave(self, host: Host) -> None:
        if host.process is not None:
            self._world.note(host.address, "is asked to leave")
            self._world.give(host.process, LeaveRequested())
            self._world.after(10.0, self._end, host, host.process)
            self._world.after(10.0 + self._for_a_while(), self._world.start, host)

    def _end(self, host: Host, process: object) -> None:
        if host.process is process:  # the shell's leave timeout
            self._world.crash(host)

    def isolate(self) -> None:
        one = self._some().address
        self._block([(one, other) for other in self._world.servers if other != one])

    def cut(self) -> None:
        """Part the servers in two; possibly in one direction only, possibly with some pairs left."""
        rng = self._rng
        left = [server for server in self._world.servers if rng.random() < 0.5]
        right = [server for server in self._world.servers if server not in left]
        pairs = [(one, other) for one in left for other in right]
        share = rng.choice((1.0, 1.0, 0.5))
        self._block([pair for pair in pairs if rng.random() < share])

    def _block(self, pairs: list[tuple[str, str]]) -> None:
        world, rng = self._world, self._rng
        direction = rng.choice(("both", "both", "there", "back"))
        cuts = set()
        for one, other in pairs:
            if direction != "back":
                cuts.add((one, other))
            if direction != "there":
                cuts.add((other, one))
        world.note("network", "cut", sorted(cuts))
        world.blocked |= cuts
        world.after(self._for_a_while(), self._unblock, cuts)

    def _unblock(self, cuts: set[tuple[str, str]]) -> None:
        self._world.note("network", "mended", sorted(cuts))
        self._world.blocked -= cuts

    def _cut_links(self) -> None:
        """Some pairs, often around one machine, lack each other for long enough to be noticed."""
        world, rng = self._world, self._links_rng
        if world.now >= self._until:
            return
        one = rng.choice(world.servers)
        pairs = [
            (a, b) for a in world.servers for b in world.servers if a < b and (one in (a, b) or rng.random() < 0.2)
        ]
        cuts = {pair for pair in pairs if rng.random() < 0.6}
        datagrams = {path for a, b in sorted(cuts) for path in ((a, b), (b, a)) if rng.random() < 0.3}
        world.note("network", "links cut", sorted(cuts), "datagrams", sorted(datagrams))
        world.link_cuts |= cuts
        world.blocked |= datagrams
        world.after(rng.uniform(1.0, 3.0), self._mend_links, cuts, datagrams)
        world.after(rng.expovariate(1 / 2.5), self._cut_links)

    def _mend_links(self, cuts: set[tuple[str, str]], datagrams: set[tuple[str, str]]) -> None:
        self._world.note("network", "links mended", sorted(cuts))
        self._world.link_cuts -= cuts
        self._unblock(datagrams)

    def heal(self) -> None:
        self._world.note("network", "mended")
        self._world.blocked.clear()

    def make_well(self) -> None:
        """The faults stop: whole network, everybody up and running."""
        world = self._world
        world.note("faults stop")
        self._faults = [self.heal]
        world.blocked.clear()
        world.link_cuts.clear()
        world.register.make_well()
        world.options.loss = min(world.options.loss, 0.05)
        world.options.slow_share = 0.0
        for process in world.processes():
            world.resume(process)
        for host in world.hosts:
            world.start(host)
