"""Fixed and fresh seeds, the promised times, and that the simulator finds what it is made to find."""

import random
from collections.abc import Callable

import pytest

from app.cluster.events import FoundRequested, LeaveRequested, LinkRefused
from app.cluster.limits import RANKS
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.decree import Decree
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import NodeState
from app.cluster.view import Member
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.sim.core_checks import Checks, Violation
from tests.sim.core_nemesis import draw_options
from tests.sim.core_run import run_seed
from tests.sim.core_world import Options, World

# Seeds that once failed, with what they found.
FOUND = {
    51: "an incarnation was raised twice to the same number",
    54: "a founder's view reached its member by way of an outsider",
    7000603: "a late datagram of a process before passed for a newer one's, where the clock was set back",
    1350165046: "the checker took an outsider to know a view that it had forgotten by right",
    57: "a coordinator left with a view that only it knew",
    63: "survivors went on while a stopped one still knew the view before",
    109: "the newcomer at a dead member's address knew a newer view",
    149: "an outsider that observed the present view was taken to know a newer one",
    5046: "a proposer that had promised another a higher ballot waited for itself",
    40025: "the dead of the last view were looked for in the one without us",
}


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once(seed: int) -> None:
    run_seed(seed)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = run_seed(1003), run_seed(1003)
    assert (first.steps, first.virtual_s, first.epochs) == (second.steps, second.virtual_s, second.epochs)


def cluster(hosts: int, seed: int = 1, **options: object) -> tuple[World, Checks]:
    """A cluster on a whole network, all up and settled."""
    world = World(seed, Options(hosts=hosts, **options))  # type: ignore[arg-type]
    checks = Checks(world)
    for host in world.hosts:
        world.start(host)
    until(world, lambda: not checks.is_converged(), 3.0)
    world.run(world.now + 1.0)
    assert not checks.is_converged()
    return world, checks


def until(world: World, condition: Callable[[], bool], limit_s: float) -> float:
    """Run until the condition holds; how long that took."""
    began = world.now
    while not condition():
        assert world.now - began < limit_s, f"not within {limit_s} s"
        world.run(world.now + 0.001)
    return world.now - began


def counts(world: World) -> set[int]:
    return {process.core.member_count for process in world.processes() if not process.paused}


def counts_of(world: World, host: int) -> set[int]:
    process = world.hosts[host].process
    return {process.core.member_count} if process is not None else set()


def is_served(world: World) -> bool:
    """Whether all slots are served by processes that run."""
    served = 0
    for process in world.processes():
        if not process.paused and process.host.true(process.core.lease_until) > world.now:
            served |= process.core.served
    return served == ALL_SLOTS


class TestTimes:
    def test_a_single_server_serves_at_once(self) -> None:
        world = World(1, Options(hosts=1))
        world.start(world.hosts[0])
        assert is_served(world)
        assert world.hosts[0].process is not None
        assert world.hosts[0].process.core.member_count == 1

    @pytest.mark.parametrize("spread", [0.0, 0.3, 5.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_five_agree_within_a_second_of_the_last_start(self, seed: int, spread: float) -> None:
        world = World(seed, Options(hosts=5))
        Checks(world)
        order = list(world.hosts)
        world.rng.shuffle(order)
        for index, host in enumerate(order):
            world.at(spread * index / 4, world.start, host)
        world.run(spread)
        until(world, lambda: counts(world) == {5} and is_served(world), 1.0)

    @pytest.mark.parametrize("victim", [0, 2])
    @pytest.mark.parametrize("hosts", [2, 3, 5, 20])
    def test_a_killed_process_is_out_and_replaced_within_200_ms(self, hosts: int, victim: int) -> None:
        """On one machine: its kernel's refusal is proof."""
        world, _ = cluster(hosts, one_machine=True)
        world.crash(world.hosts[min(victim, hosts - 1)])
        took = until(world, lambda: counts(world) == {hosts - 1} and is_served(world), 0.2)
        assert took < 0.1

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize(("hosts", "victim"), [(2, 1), (3, 0), (3, 2), (5, 0), (5, 4), (20, 0), (20, 7)])
    def test_over_a_network_within_800_ms(self, hosts: int, victim: int, seed: int) -> None:
        """A refusal proves nothing there: the leases must have run out."""
        world, _ = cluster(hosts, seed)
        world.run(world.now + seed * 0.017)
        world.crash(world.hosts[victim])
        until(world, lambda: counts(world) == {hosts - 1} and is_served(world), 0.8)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize(("hosts", "victim"), [(2, 1), (3, 0), (3, 2), (5, 0), (5, 4), (20, 0), (20, 7)])
    def test_a_stopped_process_is_out_and_replaced_within_1_s(self, hosts: int, victim: int, seed: int) -> None:
        world, _ = cluster(hosts, seed)
        world.run(world.now + seed * 0.017)
        world.pause(world.hosts[victim], 60.0)
        until(world, lambda: counts(world) == {hosts - 1} and is_served(world), 1.0)

    def test_a_process_stopped_for_a_minute_answers_nothing_stale(self) -> None:
        world, checks = cluster(3)
        stopped = world.hosts[1].process
        assert stopped is not None
        incarnation = stopped.core.incarnation
        world.pause(world.hosts[1], 60.0)
        world.run(world.now + 60.5)
        until(world, lambda: not checks.is_converged(), 2.0)
        assert stopped.core.incarnation > incarnation  # it rejoined as a new one

    def test_a_restart_at_once_is_noticed(self) -> None:
        world, checks = cluster(3)
        epoch = world.processes()[0].core.epoch
        world.crash(world.hosts[1])
        world.start(world.hosts[1])
        took = until(world, lambda: world.processes()[0].core.epoch > epoch and not checks.is_converged(), 1.0)
        assert took < 1.0

    def test_leaving_hands_everything_over(self) -> None:
        world, _ = cluster(5)
        for index in (0, 3):  # which leaves three of five: half, and more
            process = world.hosts[index].process
            assert process is not None
            world.give(process, LeaveRequested())
            until(world, lambda process=process: process.left, 2.0)
            until(world, lambda: is_served(world), 0.2)
        until(world, lambda: counts(world) == {3}, 0.2)

    def test_all_leave_together(self) -> None:
        world, _ = cluster(4)
        for process in world.processes():
            world.give(process, LeaveRequested())
        until(world, lambda: not world.processes(), 4.0)


class TestFounding:
    def test_an_accepted_view_of_the_dead_is_not_founded_again(self) -> None:
        world = World(1, Options(hosts=2))
        checks = Checks(world)
        for host in world.hosts:
            world.start(host)
        second = world.hosts[1].process
        assert second is not None
        gone = first_view([Member(host.address, 1000) for host in world.hosts], 1000, 3, 1)
        second.core._coordinator.register._acceptor.accept(RANKS, gone)
        until(world, lambda: not checks.is_converged(), 2.0)

    @pytest.mark.parametrize("is_silent", [True, False])
    def test_a_majority_founds_after_waiting_for_the_others(self, is_silent: bool) -> None:
        """Whether those are silent, or another machine refuses."""
        world = World(1, Options(hosts=3))
        if is_silent:
            world.start(world.hosts[2])
            world.pause(world.hosts[2], 60.0)
        for host in world.hosts[:2]:
            world.start(host)
        world.run(timing.FOUND_WAIT_S - 0.1)
        assert not is_served(world)
        until(world, lambda: is_served(world) and counts(world) == {2}, 0.3)

    @pytest.mark.parametrize("hosts", [2, 3, 4])
    def test_half_of_the_file_founds_nothing(self, hosts: int) -> None:
        world = World(1, Options(hosts=hosts))
        for host in world.hosts[: hosts // 2]:
            world.start(host)
        world.run(100.0)
        assert not is_served(world)

    @pytest.mark.parametrize("hosts", [2, 5])
    def test_one_machine_knows_who_is_absent(self, hosts: int) -> None:
        world = World(1, Options(hosts=hosts, one_machine=True))
        world.start(world.hosts[-1])
        until(world, lambda: is_served(world), timing.LAPSE_S + 0.2)
        world.run(30.0)
        assert is_served(world)

    def test_a_restarted_majority_founds_when_no_lease_of_before_runs(self) -> None:
        """Two of three are restarted at once while the third, which has a copy of all, is cut off. When they meet, the
        larger cluster prevails: what the third held was given up when a majority forgot it."""
        world, checks = cluster(3)
        alone = world.hosts[0].address
        world.blocked |= {pair for host in world.hosts[1:] for pair in ((alone, host.address), (host.address, alone))}
        for host in world.hosts[1:]:
            world.crash(host)
            world.start(host)
        took = until(world, lambda: counts(world) == {2} | counts_of(world, 0) and is_served(world), 3.0)
        assert took > timing.FOUND_WAIT_S
        founder = world.hosts[1].process
        assert founder is not None
        assert founder.core.view is not None
        cluster_id = founder.core.view.cluster_id
        world.run(world.now + 5.0)
        world.blocked.clear()
        until(world, lambda: not checks.is_converged(), 5.0)
        assert founder.core.view.cluster_id == cluster_id

    def test_but_joins_the_third_where_it_is_heard(self) -> None:
        world, checks = cluster(3)
        first = world.hosts[0].process
        assert first is not None
        assert first.core.view is not None
        cluster_id = first.core.view.cluster_id
        for host in world.hosts[1:]:
            world.crash(host)
        world.run(world.now + 5.0)
        assert not is_served(world)  # one of three
        for host in world.hosts[1:]:
            world.start(host)
        until(world, lambda: not checks.is_converged(), 2.0)
        assert first.core.view.cluster_id == cluster_id
        assert first.core.incarnation < 10_000_000 + 100 * 2  # it has never dropped what it holds


def two_foundings(passes: tuple["pb.Kind", ...], monkeypatch: pytest.MonkeyPatch) -> bool:
    """All are on one machine. When the second last dialled the first, and the first the third, those had just not been
    started. Nothing gets through between the first and the third, and of what the first and the second say only these
    kinds, until the second, which may have founded a cluster with the third, is restarted. Then it hears the first, and
    not the third. Whether the third has to drop what it holds, once all is heard again."""
    world = World(1, Options(hosts=3, one_machine=True))
    checks = Checks(world)
    first, second, third = world.hosts
    parted, send = {first.address, second.address}, World._send

    def lose(self: World, source: str, target: str, payload: bytes) -> None:
        if {source, target} != parted or pb.ClusterMessage.FromString(payload).kind in passes:
            send(self, source, target, payload)

    monkeypatch.setattr(World, "_send", lose)
    world.start(second)
    world.run(0.53)
    world.start(first)
    world.run(0.535)
    world.link_cuts |= {(first.address, second.address)}
    world.blocked |= {(first.address, third.address), (third.address, first.address)}
    world.start(third)
    world.run(0.9)
    world.link_cuts.clear()
    world.run(1.25)
    assert third.process is not None
    incarnation = third.process.core.incarnation
    parted.clear()
    world.blocked |= {(second.address, third.address), (third.address, second.address)}
    world.crash(second)
    world.start(second)
    world.run(1.6)
    world.blocked.clear()
    until(world, lambda: not checks.is_converged(), 8.0)
    return third.process.core.incarnation > incarnation


class TestTwoFoundings:
    def take_old_proofs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        has_quorum = Bootstrap.has_quorum
        monkeypatch.setattr(
            Bootstrap, "has_quorum", lambda self, answered, ripe, since=0.0: has_quorum(self, answered, ripe)
        )

    @pytest.mark.parametrize("passes", [(), (pb.ACCEPT,)])
    def test_none_is_founded_beside_another(
        self, passes: tuple["pb.Kind", ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not two_foundings(passes, monkeypatch)

    def test_if_old_proofs_of_absence_counted_one_would_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.take_old_proofs(monkeypatch)
        assert two_foundings((), monkeypatch)

    def test_or_if_they_counted_of_the_members_of_a_view_that_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first has accepted the view of the other two, and has not heard that it was chosen."""
        self.take_old_proofs(monkeypatch)
        assert not two_foundings((pb.ACCEPT,), monkeypatch)
        is_gone = Bootstrap._is_gone
        monkeypatch.setattr(
            Bootstrap,
            "_is_gone",
            lambda self, member: is_gone(self, member) or member.address in self._state.absent,
        )
        assert two_foundings((pb.ACCEPT,), monkeypatch)


class TestGoingOn:
    def test_a_side_with_fewer_than_half_of_the_file_closes_its_slots(self) -> None:
        """Three of five in the view, a quorum of that are two: who fall short of half of the file."""
        world, checks = cluster(5)
        for host in world.hosts[3:]:
            world.crash(host)
        until(world, lambda: counts(world) == {3} and is_served(world), 2.0)
        world.pause(world.hosts[2], 5.0)
        world.run(world.now + 3.0)
        assert not is_served(world)
        assert len(world.processes()[0].core.view.members) == 3  # type: ignore[union-attr]
        for host in world.hosts[3:]:
            world.start(host)
        world.run(world.now + 3.0)
        until(world, lambda: not checks.is_converged(), 3.0)

    @pytest.mark.parametrize("seed", range(3))
    def test_the_longest_standing_of_two_leaves_in_order_and_returns_while_the_third_is_away(self, seed: int) -> None:
        """The other keeps what it holds, without a lease, and needs nobody but the one that returns."""
        world, _ = cluster(3, seed)
        world.crash(world.hosts[2])
        until(world, lambda: counts(world) == {2} and is_served(world), 2.0)
        first, second = (host.process for host in world.hosts[:2])
        assert first is not None
        assert second is not None
        incarnation = second.core.incarnation
        world.give(first, LeaveRequested())
        until(world, lambda: first.left, 3.0)
        world.run(world.now + 3.0)
        assert not is_served(world)
        world.start(world.hosts[0])
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        assert second.core.incarnation == incarnation

    def test_on_one_machine_all_but_one_may_go(self) -> None:
        world, _ = cluster(5, one_machine=True)
        for left in (4, 3, 2, 1):
            world.crash(world.hosts[left])
            until(world, lambda left=left: counts(world) == {left} and is_served(world), 0.2)
        world.run(world.now + 30.0)
        assert is_served(world)

    def test_who_was_held_dead_and_lives_is_one_of_the_cluster_again(self) -> None:
        """All are told that all others are dead for certain, and make views of one; then they hear of each other."""
        world, checks = cluster(3, one_machine=True)
        world.on_step = lambda process: None  # two serve a slot: this is what a false proof costs
        for one in world.processes():
            for other in world.processes():
                if one is not other:
                    world.blocked.add((one.address, other.address))
        for one in world.processes():
            for other in world.processes():
                if one is not other:
                    world.give(one, LinkRefused(other.address, other.core.incarnation, True))
        world.run(world.now + 1.0)
        assert counts(world) == {1}
        world.blocked.clear()
        until(world, lambda: not checks.is_converged(), 5.0)


class TestOverride:
    """What an operator may order: override.py."""

    def test_a_node_that_others_have_left_goes_on_with_what_it_holds(self) -> None:
        world, checks = cluster(3)
        world.on_step = lambda process: None
        last = world.hosts[2].process
        assert last is not None
        incarnation = last.core.incarnation
        for host in world.hosts[:2]:
            world.pause(host, 30.0)
        world.run(world.now + 3.0)
        assert not is_served(world)
        assert not last.core.objection()
        world.give(last, FoundRequested())
        until(world, lambda: is_served(world), 0.1)
        world.run(world.now + 10.0)
        assert is_served(world)
        for host in world.hosts[:2]:  # though they wake up as two of three, in the view that this one has left
            assert host.process is not None
            world.resume(host.process)
        until(world, lambda: not checks.is_converged(), 5.0)
        assert last.core.incarnation == incarnation
        assert last.core.view is not None
        assert not last.core.view.is_forced
        assert last.core.objection()  # it goes on by itself again

    def test_those_who_hear_each_other_go_on_together(self) -> None:
        world, _ = cluster(5)
        for host in world.hosts[:3]:
            world.pause(host, 1000.0)
        world.run(world.now + 3.0)
        last = world.hosts[4].process
        assert last is not None
        incarnations = [process.core.incarnation for process in world.processes()]
        world.give(last, FoundRequested())
        until(world, lambda: counts(world) == {2} and is_served(world), 1.0)
        assert [process.core.incarnation for process in world.processes()] == incarnations

    def test_newcomers_found_with_whom_they_hear(self) -> None:
        world = World(1, Options(hosts=5))
        checks = Checks(world)
        for host in world.hosts[:2]:
            world.start(host)
        world.run(5.0)
        assert not is_served(world)
        founder = world.hosts[1].process
        assert founder is not None
        world.give(founder, FoundRequested())
        until(world, lambda: counts(world) == {2} and is_served(world), 1.0)
        for host in world.hosts[2:]:
            world.start(host)
        until(world, lambda: not checks.is_converged(), 3.0)

    def test_it_is_declined_where_the_cluster_goes_on_or_another_is_to_be_asked(self) -> None:
        world, _ = cluster(3)
        first = world.processes()[0].core
        assert "lease runs" in first.objection()
        epoch = first.epoch
        world.give(world.processes()[0], FoundRequested())
        assert first.epoch == epoch


class TestNoFalseRemoval:
    def test_ten_percent_loss(self) -> None:
        """Two virtual minutes here; `python -m tests.sim --lossy-hours 24` runs the day."""
        world, _ = cluster(5, loss=0.1, jitter_s=0.002)
        epoch = world.processes()[0].core.epoch
        world.run(world.now + 120)
        assert {process.core.epoch for process in world.processes()} == {epoch}

    @pytest.mark.parametrize("hosts", [3, 20])
    @pytest.mark.parametrize("seed", range(3))
    def test_a_pause_of_the_whole_machine(self, hosts: int, seed: int) -> None:
        world, checks = cluster(hosts, seed)
        epoch = world.processes()[0].core.epoch
        for host in world.hosts:
            world.pause(host, 1.0 + world.rng.uniform(0, 0.05))
        world.run(world.now + 3.0)
        assert not checks.is_converged()
        assert {process.core.epoch for process in world.processes()} == {epoch}

    def test_twenty_on_a_crowded_machine(self) -> None:
        """Each waits up to 80 ms for the processor at every turn, and datagrams queue up to 150 ms."""
        world, _ = cluster(20, lag_s=0.08, jitter_s=0.15)
        epoch = world.processes()[0].core.epoch
        world.run(world.now + 10)
        assert {process.core.epoch for process in world.processes()} == {epoch}
        assert {process.core.member_count for process in world.processes()} == {20}


def finds_a_violation(hint: int, options: Callable[[Options], None] = lambda options: None) -> bool:
    """Whether one of 60 seeds fails; the one that did so before is tried first."""
    for seed in (hint, *range(60)):
        drawn = draw_options(random.Random(seed))
        options(drawn)
        try:
            run_seed(seed, drawn)
        except Violation as violation:
            # Of safety: neither a crash nor that it does not converge counts.
            if isinstance(violation.__cause__, Violation) and "without faults" not in str(violation.__cause__):
                return True
    return False


class TestItBites:
    """Each safeguard is switched off in turn; the simulator must find what that breaks, within 60 seeds."""

    def test_leases_that_run_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Lease, "until", property(lambda self: 1e12, lambda self, value: None), raising=False)
        assert finds_a_violation(1)

    def test_the_wait_for_a_silent_members_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Grantor, "is_lapsed", lambda self, node, now: True)
        monkeypatch.setattr(timing, "SUSPICION_MIN_S", 0.01)
        monkeypatch.setattr(timing, "SUSPICION_MAX_S", 0.02)
        assert finds_a_violation(5)

    def test_the_wait_for_the_lease_of_one_that_is_lacked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def with_link_cuts(options: Options) -> None:
            options.link_cuts = True

        monkeypatch.setattr(Grantor, "is_lapsed", lambda self, node, now: True)
        assert finds_a_violation(3, with_link_cuts)

    def test_the_members_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Decree, "support_left_s", lambda self: 0.0)
        monkeypatch.setattr(timing, "SUSPICION_MIN_S", 0.01)
        monkeypatch.setattr(timing, "SUSPICION_MAX_S", 0.02)
        assert finds_a_violation(5)

    def test_blocked_slots(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Grantor, "blocked", lambda self: 0)
        assert finds_a_violation(1)

    def test_the_epoch_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def from_any_view(self: NodeState, peer: str, message: object) -> bool:
            return self.is_member and self.view is not None and peer in self.view.incarnations

        monkeypatch.setattr(NodeState, "goes_by_our_view", from_any_view)
        assert finds_a_violation(1)

    @pytest.mark.parametrize("is_off", [False, True])
    def test_quorums(self, is_off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Four are parted in two halves, each with enough of the file: the one with the longest-standing goes on."""

        def half(acceptors: tuple[str, ...], answered: set[str], dead: set[str]) -> bool:
            return 2 * len(set(answered) & set(acceptors)) >= len(acceptors)

        world, checks = cluster(4)
        if is_off:
            for module in ("agreement", "leases", "lacks"):
                monkeypatch.setattr(f"app.cluster.membership.{module}.has_quorum", half)
        left, right = world.servers[:2], world.servers[2:]
        world.blocked |= {path for one in left for other in right for path in ((one, other), (other, one))}
        if is_off:
            with pytest.raises(Violation):
                world.run(world.now + 3.0)
            return
        world.run(world.now + 3.0)
        assert is_served(world)
        world.blocked.clear()
        until(world, lambda: not checks.is_converged(), 5.0)

    def test_the_clocks_drift(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fast(options: Options) -> None:
            options.drift = 0.4  # far beyond what is allowed for

        assert finds_a_violation(64, fast)

    @pytest.mark.parametrize("asks", [True, False])
    def test_asking_everyone_before_survivors_go_on(self, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first of two goes on alone, takes in a third, and dies; the second, cut off, learns of that. All are on
        one machine: who is gone from it counts in no half of the file, so one of them would be enough."""
        if not asks:
            monkeypatch.setattr(NodeState, "countable_dead", lambda self: self.dead)
        world = World(1, Options(hosts=3, one_machine=True))
        checks = Checks(world)
        first, second, third = (host.address for host in world.hosts)
        for host in world.hosts[:2]:
            world.start(host)
        until(world, lambda: counts(world) == {2}, 2.0)
        to_first = {(first, second), (second, first)}
        to_third = {(third, second), (second, third)}
        world.blocked |= to_first | to_third
        world.run(world.now + 2.0)
        world.start(world.hosts[2])
        world.run(world.now + 2.0)
        world.blocked -= to_first
        world.crash(world.hosts[0])
        if asks:
            world.run(world.now + 20.0)
            assert not is_served(world)  # neither knows what the other may be doing
            world.blocked.clear()
            world.start(world.hosts[0])
            until(world, lambda: not checks.is_converged(), 5.0)
        else:
            with pytest.raises(Violation):
                world.run(world.now + 2.0)
