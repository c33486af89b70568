"""The membership core with a shared register outside: seeds, promised times, what goes wrong there, and that the
simulator finds what it is made to find."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf
from random import Random

import pytest

from app.cluster.events import (
    AskRegister,
    FoundRequested,
    LeaveRequested,
    LinkRefused,
    Log,
    RegisterAnswered,
    RegisterFailed,
)
from app.cluster.membership import shared_register, timing
from app.cluster.membership.leases import Grantor
from app.cluster.membership.seat import read_view, seat_of
from app.cluster.membership.shared_register import SharedRegister
from app.cluster.membership.state import NodeState
from app.cluster.view import to_message
from tests.sim.core_checks import Checks, Violation
from tests.sim.core_run import run_seed
from tests.sim.core_world import Options, Process, World
from tests.sim.register import RegisterOptions, SimRegister
from tests.sim.test_sim import cluster as settled
from tests.sim.test_sim import counts, is_served, until

SEEDS = 24


# Seeds that once failed, with what they found.
FOUND = {
    1019: "a process that was started just after its machine had refused a connection was held to be gone",
    1163: "where the register was slow, the seat was under way at each tick, and no view ever was",
    700940: "a process was held dead by a view that was read late: a higher incarnation had been heard before it",
    1184: "one that was leaving, and held nothing, was to coordinate the view that it wrote without itself",
}


@pytest.mark.parametrize("seed", [*range(SEEDS), *FOUND])
def test_seeds(seed: int) -> None:
    """A register that is slow, partitioned, loses and delays requests and answers, on top of all other faults."""
    run_seed(seed, bursts=seed % 3 == 0, link_cuts=seed % 2 == 0, shared_register=True)


def cluster(hosts: int, seed: int = 1, **options: object) -> tuple[World, Checks]:
    """A cluster with a register, all up and settled."""
    return settled(hosts, seed, register=RegisterOptions(), **options)


def coordinator_of(world: World) -> Process:
    (found,) = [process for process in world.processes() if process.core._state.is_coordinator]
    return found


def fault_of(process: Process) -> str:
    shared = process.core._coordinator.shared
    assert shared is not None
    return shared.fault


def cut_off(world: World, *processes: Process) -> None:
    """These do not reach the register any more."""
    world.register.cut_off |= {process.address for process in processes or world.processes()}


def part(world: World, *left: Process) -> None:
    """Cut the network between these and the others; all of them reach the register."""
    some = {process.address for process in left}
    for one in world.servers:
        for other in world.servers:
            if (one in some) != (other in some):
                world.blocked.add((one, other))


class TestTimes:
    def test_a_server_alone_serves_without_patience(self) -> None:
        world = World(1, Options(hosts=1, register=RegisterOptions()))
        world.start(world.hosts[0])
        until(world, lambda: is_served(world), timing.NEWCOMER_LOOK_S + 0.1)

    @pytest.mark.parametrize("hosts", [2, 5, 20])
    def test_whoever_comes_first_founds_and_the_others_join(self, hosts: int) -> None:
        world = World(1, Options(hosts=hosts, register=RegisterOptions()))
        checks = Checks(world)
        for host in world.hosts:
            world.start(host)
        until(world, lambda: not checks.is_converged(), 1.0)

    @pytest.mark.parametrize("seed", range(6))
    def test_nothing_is_said_to_be_wrong_meanwhile(self, seed: int) -> None:
        """Newcomers may have found it empty just before they hear of the first view."""
        world = World(seed, Options(hosts=5, register=RegisterOptions()))
        said: list[Log] = []
        world.on_effect = lambda process, effect: said.append(effect) if isinstance(effect, Log) else None
        for host in world.hosts:
            world.start(host)
        world.run(2.0)
        assert counts(world) == {5}
        assert not [line for line in said if line.level != "info"]

    @pytest.mark.parametrize("hosts", [1, 2, 20])
    def test_a_quiet_cluster_asks_it_four_times_a_second(self, hosts: int) -> None:
        world, _ = cluster(hosts)
        before = world.register.requests
        world.run(world.now + 10.0)
        assert world.register.requests - before <= 10.0 / timing.RENEW_S + 1

    @pytest.mark.parametrize("hosts", [2, 3, 5, 20])
    @pytest.mark.parametrize("is_coordinator", [True, False])
    def test_a_killed_process_on_one_machine_is_replaced_within_200_ms(self, hosts: int, is_coordinator: bool) -> None:
        world, _ = cluster(hosts, one_machine=True)
        victim = next(one for one in world.processes() if one.core._state.is_coordinator == is_coordinator)
        world.crash(victim.host)
        until(world, lambda: counts(world) == {hosts - 1} and is_served(world), 0.2)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("hosts", [2, 3, 5, 20])
    @pytest.mark.parametrize("is_killed", [True, False])
    def test_a_silent_coordinator_is_replaced_within_1500_ms(self, hosts: int, seed: int, is_killed: bool) -> None:
        """Or a killed one, over a network: there a refusal proves nothing."""
        world, _ = cluster(hosts, seed)
        world.run(world.now + seed * 0.07)
        victim = coordinator_of(world).host
        if is_killed:
            world.crash(victim)
        else:
            world.pause(victim, 60.0)
        until(world, lambda: counts(world) == {hosts - 1} and is_served(world), 1.5)

    def test_any_number_of_survivors_goes_on(self) -> None:
        world, checks = cluster(5)
        for left in (4, 3, 2, 1):
            world.crash(coordinator_of(world).host)
            until(world, lambda left=left: counts(world) == {left} and is_served(world), 1.5)
            until(world, lambda: world.processes()[0].core.status().balanced, 1.0)  # all copies are there again
        for host in world.hosts:
            world.start(host)
        until(world, lambda: not checks.is_converged(), 5.0)

    def test_so_does_one_of_five_when_all_others_go_at_once(self) -> None:
        """It gives others, who might be more, their time. Slots that it has no copy of wait for who has."""
        world, checks = cluster(5)
        last = world.processes()[-1]
        held = sum(last.address in last.core.view.holders(slot) for slot in range(256))  # type: ignore[union-attr]
        for host in world.hosts[:4]:
            world.pause(host, 20.0)
        until(world, lambda: last.core.served.bit_count() == held and last.core.lease_until > 0, 10.0)
        world.run(world.now + 12.0)
        assert last.core.served.bit_count() == held
        until(world, lambda: not checks.is_converged(), 20.0)
        assert not checks.lost

    def test_the_last_that_leaves_says_so(self) -> None:
        """So that whoever is started next need not wait for it."""
        world, _ = cluster(3)
        for process in world.processes():
            world.give(process, LeaveRequested())
        until(world, lambda: not world.processes(), 6.0)
        assert world.register.seat is not None
        assert json.loads(world.register.seat)["is_left"] is True
        world.start(world.hosts[1])
        until(world, lambda: is_served(world), 1.5)

    def test_all_restarted_at_once_start_anew_at_once(self) -> None:
        world, checks = cluster(3)
        epoch = world.processes()[0].core.epoch
        for host in world.hosts:
            world.crash(host)
        world.run(world.now + 3.0)
        for host in world.hosts:
            world.start(host)
        until(world, lambda: not checks.is_converged(), 2.0)
        assert world.processes()[0].core.epoch > epoch  # of the same cluster: there is no other

    def test_one_restarted_alone_starts_anew_once_the_last_member_is_dead_for_certain(self) -> None:
        world, _ = cluster(2, one_machine=True)
        last = coordinator_of(world).host
        other = next(host for host in world.hosts if host is not last)
        world.crash(other)
        until(world, lambda: counts(world) == {1} and is_served(world), 1.0)
        world.crash(last)
        world.start(other)
        until(world, lambda: is_served(world), 1.5)


class TestOutOfReach:
    def test_members_serve_on_while_all_of_them_live(self) -> None:
        world, checks = cluster(5)
        epoch = world.processes()[0].core.epoch
        cut_off(world)
        for _ in range(600):
            world.run(world.now + 0.1)
            assert is_served(world)
        world.register.cut_off.clear()
        world.run(world.now + 1.0)
        assert not checks.is_converged()
        assert world.processes()[0].core.epoch == epoch

    @pytest.mark.parametrize("is_coordinator", [True, False])
    def test_until_one_is_silent_and_again_when_it_is_back(self, is_coordinator: bool) -> None:
        world, _ = cluster(3)
        cut_off(world)
        world.run(world.now + 2.0)
        victim = next(one for one in world.processes() if one.core._state.is_coordinator == is_coordinator)
        world.crash(victim.host)
        world.run(world.now + 1.0)
        assert all(process.host.true(process.core.lease_until) <= world.now for process in world.processes())
        assert any("timed out" in fault_of(process) for process in world.processes())
        world.run(world.now + 5.0)
        world.register.cut_off.clear()
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        until(world, lambda: not any(fault_of(process) for process in world.processes()), 0.5)

    def test_another_takes_the_place_of_a_coordinator_that_alone_is_cut_off(self) -> None:
        """As soon as a view is to be made, which needs the register."""
        world, _ = cluster(4)
        first = coordinator_of(world)
        cut_off(world, first)
        world.run(world.now + 5.0)
        assert coordinator_of(world) is first  # nothing is to be changed
        other = next(process for process in world.processes() if process is not first)
        world.crash(other.host)
        until(world, lambda: counts(world) == {3} and is_served(world), 3.0)
        assert coordinator_of(world) is not first

    def test_the_next_in_turn_takes_it_where_the_first_is_cut_off(self) -> None:
        world, _ = cluster(4)
        first = coordinator_of(world)
        assert first.core.view is not None
        second = world.by_address[first.core.view.addresses[1]].process
        assert second is not None
        cut_off(world, second)
        world.pause(first.host, 30.0)
        until(world, lambda: counts(world) == {3} and is_served(world), 2.5)

    @pytest.mark.parametrize("hosts", [3, 5])
    @pytest.mark.parametrize("few_coordinate", [True, False])
    def test_of_two_sides_that_reach_it_the_larger_goes_on(self, hosts: int, few_coordinate: bool) -> None:
        world, checks = cluster(hosts)
        first = coordinator_of(world)
        few = first if few_coordinate else next(one for one in world.processes() if one is not first)
        part(world, few)
        many = [process for process in world.processes() if process is not few]
        until(world, lambda: {process.core.member_count for process in many} == {hosts - 1} and is_served(world), 3.0)
        world.run(world.now + 5.0)
        assert is_served(world)
        world.blocked.clear()
        until(world, lambda: not checks.is_converged(), 5.0)
        assert not checks.lost

    def test_of_halves_the_coordinators(self) -> None:
        world, checks = cluster(4)
        first = coordinator_of(world)
        part(world, first, next(process for process in world.processes() if process is not first))
        world.run(world.now + 3.0)
        assert is_served(world)
        assert coordinator_of(world) is first
        world.blocked.clear()
        until(world, lambda: not checks.is_converged(), 5.0)


class TestLostAnswers:
    @pytest.mark.parametrize("is_taken", [True, False])
    def test_a_swap_without_an_answer_is_read_back(self, is_taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that a death has led to: whether the register had it or not, the next view comes once."""
        world, _ = cluster(3, one_machine=True)
        swallowed: list[AskRegister] = []
        send = SimRegister.send

        def swallow(self: SimRegister, address: str, asked: AskRegister, give: Callable[..., None]) -> None:
            if asked.view is None or swallowed:
                send(self, address, asked, give)
                return
            swallowed.append(asked)
            if is_taken:
                self.ask(asked)
            self.after(timing.REGISTER_TIMEOUT_S, give, RegisterFailed(asked.number, "the answer was lost"))

        monkeypatch.setattr(SimRegister, "send", swallow)
        epoch = world.processes()[0].core.epoch
        world.crash(next(one for one in world.processes() if not one.core._state.is_coordinator).host)
        until(world, lambda: counts(world) == {2} and world.processes()[0].core.epoch > epoch, 1.0)
        assert world.processes()[0].core.epoch == epoch + 1
        assert (world.register.view == swallowed[0].view) == is_taken


class TestRefusals:
    """A register that is not what it was: nobody serves by it, nobody drops what it holds."""

    def errors(self, world: World) -> list[str]:
        said: list[str] = []
        before = world.on_effect

        def note(process: Process, effect: object) -> None:
            before(process, effect)
            if isinstance(effect, Log) and effect.level == "error":
                said.append(effect.text)

        world.on_effect = note
        return said

    def assert_refused(self, world: World, said: list[str], word: str) -> None:
        incarnations = [process.core.incarnation for process in world.processes()]
        world.run(world.now + 10.0)
        assert not any(process.host.true(process.core.lease_until) > world.now for process in world.processes())
        assert [process.core.incarnation for process in world.processes()] == incarnations
        assert any(word in line for line in said), said
        assert len(said) <= 3 * len(incarnations)  # and does not go on and on

    def test_wiped(self) -> None:
        world, checks = cluster(3)
        said = self.errors(world)
        kept = (world.register.seat, world.register.view)
        world.register.seat = world.register.view = None
        self.assert_refused(world, said, "it is empty, and was not")
        world.register.seat, world.register.view = kept
        until(world, lambda: not checks.is_converged(), 5.0)

    def test_a_newcomer_founds_nothing_in_a_wiped_register_beside_those_who_go_by_what_it_held(self) -> None:
        world, _ = cluster(3)
        victim = next(one for one in world.processes() if not one.core._state.is_coordinator).host
        world.crash(victim)
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        said = self.errors(world)
        world.register.seat = world.register.view = None
        world.start(victim)
        self.assert_refused(world, said, "goes by a view")
        assert world.register.seat is None

    @pytest.mark.parametrize("is_left", [True, False])
    def test_nor_in_the_place_of_another_cluster(self, is_left: bool) -> None:
        """As one that is given another cluster's name, whose members are gone, or live."""
        world, _ = cluster(3)
        victim = next(one for one in world.processes() if not one.core._state.is_coordinator).host
        world.crash(victim)
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        assert world.register.view is not None
        view = replace(read_view(world.register.view), cluster_id=77)
        before = seat_of(view, 1 << 40, 7, 0, 1, is_left=is_left).pack()
        world.register.seat, world.register.view = before, to_message(view).SerializeToString()
        said = self.errors(world)
        world.start(victim)
        self.assert_refused(world, said, "goes by another: --coordination names another cluster")
        assert world.register.seat == before

    def test_restored_from_an_old_backup(self) -> None:
        world, _ = cluster(3)
        backup = (world.register.seat, world.register.view)
        victim = next(one for one in world.processes() if not one.core._state.is_coordinator).host
        world.crash(victim)
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        said = self.errors(world)
        world.register.seat, world.register.view = backup
        self.assert_refused(world, said, "restored")

    @pytest.mark.parametrize("seed", [1, 3])
    def test_a_newcomer_founds_nothing_by_an_old_backup_beside_those_who_have_been_restarted_since(
        self, seed: int
    ) -> None:
        """By the backup all members are dead for certain. What others go by is heard late: half of all is lost."""
        world, _ = cluster(3, seed)
        backup = (world.register.seat, world.register.view)
        for host in world.hosts:
            world.crash(host)
            world.run(world.now + 1.5)
            world.start(host)
            until(world, lambda: counts(world) == {3} and is_served(world), 5.0)
        victim = next(one for one in world.processes() if not one.core._state.is_coordinator).host
        world.crash(victim)
        until(world, lambda: counts(world) == {2} and is_served(world), 1.5)
        said = self.errors(world)
        world.register.seat, world.register.view = backup
        world.options.loss, world.options.delay_s, world.options.jitter_s = 0.5, 0.01, 0.05
        world.start(victim)
        self.assert_refused(world, said, "restored")
        assert world.register.seat == backup[0]

    def test_a_backup_of_the_same_view_does_no_harm(self) -> None:
        world, checks = cluster(3)
        backup = (world.register.seat, world.register.view)
        epoch = world.processes()[0].core.epoch
        world.run(world.now + 5.0)
        world.register.seat, world.register.view = backup
        for _ in range(50):
            world.run(world.now + 0.1)
            assert is_served(world)
        assert not checks.is_converged()
        assert world.processes()[0].core.epoch == epoch

    def test_a_copy(self) -> None:
        """Which may go on beside the register that it was made of."""
        world, checks = cluster(3)
        said = self.errors(world)
        world.register.origin = 2
        self.assert_refused(world, said, "a backup, or a copy")
        world.give(world.processes()[1], FoundRequested())
        until(world, lambda: not checks.is_converged(), 5.0)
        assert not checks.lost

    def test_another_clusters(self) -> None:
        world, _ = cluster(2)
        said = self.errors(world)
        assert world.register.view is not None
        view = replace(read_view(world.register.view), cluster_id=77)
        world.register.seat = seat_of(view, 1 << 40, 7, 0, 1).pack()
        world.register.view = to_message(view).SerializeToString()
        self.assert_refused(world, said, "it holds cluster 77")

    @pytest.mark.parametrize("seat", [b"", b"{}", b"[" * 900, b"x" * 2000, b'{"holder": 5}'])
    def test_nonsense(self, seat: bytes) -> None:
        world, _ = cluster(2)
        said = self.errors(world)
        world.register.seat = seat
        self.assert_refused(world, said, "no seat")

    def test_a_seat_of_another_view(self) -> None:
        world, _ = cluster(2)
        view = world.processes()[0].core.view
        assert view is not None
        said = self.errors(world)
        world.register.seat = seat_of(view, 1 << 40, 7, 0, 1).pack()
        world.register.view = to_message(cluster(3, 5)[0].processes()[0].core.view).SerializeToString()  # type: ignore[arg-type]
        self.assert_refused(world, said, "do not belong together")

    @pytest.mark.parametrize("hosts", [1, 2, 3])
    @pytest.mark.parametrize("is_coordinator", [True, False])
    def test_an_operator_has_it_written_anew(self, hosts: int, is_coordinator: bool) -> None:
        """By what a node holds, which nobody drops."""
        world, checks = cluster(hosts)
        one = coordinator_of(world)
        if not is_coordinator and hosts > 1:
            one = next(process for process in world.processes() if process is not one)
        incarnations = [process.core.incarnation for process in world.processes()]
        world.register.seat = world.register.view = None
        world.run(world.now + 3.0)
        assert not is_served(world)
        assert not one.core.objection()
        world.give(one, FoundRequested())
        until(world, lambda: world.register.view is not None and not checks.is_converged(), 3.0)
        world.run(world.now + 2 * timing.FORCED_S)
        assert not checks.is_converged()
        assert [process.core.incarnation for process in world.processes()] == incarnations
        assert not checks.lost

    def test_or_has_outsiders_start_without_those_that_are_gone(self) -> None:
        world, _ = cluster(3)
        for host in world.hosts:
            world.crash(host)
        world.start(world.hosts[0])
        world.run(world.now + 20.0)
        assert not is_served(world)  # two of three may live, and have what was acknowledged
        process = world.hosts[0].process
        assert process is not None
        world.give(process, FoundRequested())
        until(world, lambda: is_served(world), 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_to_it_no_node_breaks(seed: int) -> None:
    """It is wiped, restored, moved and damaged again and again, while processes end and operators have them go on."""
    rng = Random(seed)
    world = World(seed, Options(hosts=rng.randint(1, 4), register=RegisterOptions(), one_machine=rng.random() < 0.5))
    register, held = world.register, [(None, None)]
    for host in world.hosts:
        world.start(host)
    for _ in range(30):
        world.run(world.now + rng.uniform(0.05, 1.5))
        held.append((register.seat, register.view))  # type: ignore[arg-type]
        host = rng.choice(world.hosts)
        match rng.choice(("restore", "seat", "view", "move", "force", "force", "crash", "start", "start")):
            case "restore":
                register.seat, register.view = rng.choice(held)
            case "seat":
                register.seat = rng.choice((b"", b"{}", b"null", None))
            case "view":
                register.view = rng.choice((b"", b"\xff", None))
            case "move":
                register.origin = rng.choice((1, 2))
            case "force" if host.process is not None and not host.process.core.objection():
                world.give(host.process, FoundRequested())
            case "crash":
                world.crash(host)
            case "start" if host.process is None:
                world.start(host)


def a_coordinator_parted_from_all_that_reaches_the_register() -> None:
    world, _ = cluster(3)
    part(world, coordinator_of(world))
    world.run(world.now + 6.0)
    assert is_served(world)


def a_coordinator_that_reaches_one_of_two_and_not_the_register() -> None:
    world, _ = cluster(3)
    first = coordinator_of(world)
    cut_off(world, first)
    world.run(world.now + 1.0)
    other = next(process for process in world.processes() if process is not first)
    world.blocked |= {(first.address, other.address), (other.address, first.address)}
    world.run(world.now + 6.0)


def a_member_without_a_lease_that_supports_a_coordinator_out_of_reach_of_the_register() -> None:
    """Two lack each other, so that one of them is to go, and gets no lease; but no view comes to be. Then something
    refuses connections in the coordinator's place, and it seems silent soon."""
    world, _ = cluster(4)
    first = coordinator_of(world)
    one, other = [process for process in world.processes() if process is not first][:2]
    cut_off(world, first)
    world.run(world.now + 1.0)
    world.link_cuts |= {(one.address, other.address), (other.address, one.address)}
    world.run(world.now + 2.3)
    world.blocked |= {(first.address, other.address), (other.address, first.address)}
    world.give(other, LinkRefused(first.address, first.core.incarnation, False))
    world.run(world.now + 4.0)


@pytest.mark.parametrize("first_has_register", [True, False])
def test_nodes_with_and_without_a_register_refuse_each_other(first_has_register: bool) -> None:
    """Or one of them would have views chosen that the others' register knows nothing of."""
    kinds = (RegisterOptions(), None) if first_has_register else (None, RegisterOptions())
    world = World(1, Options(hosts=5, register=kinds[0]))
    said: list[str] = []
    world.on_effect = lambda process, effect: said.append(effect.text) if isinstance(effect, Log) else None
    for host in world.hosts[:4]:
        world.start(host)
    until(world, lambda: counts(world) == {4} and is_served(world), 3.0)
    world.options.register = kinds[1]
    world.start(world.hosts[4])
    world.run(world.now + 10.0)
    assert all(len(process.core.view.members) == 4 for process in world.processes()[:4])  # type: ignore[union-attr]
    assert not world.processes()[4].core.is_member
    assert any("one of the two goes by an etcd" in line for line in said)


def test_two_clusters_of_the_same_servers_tell_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nodes that were given two names, and found at the same moment: nothing that they decide by is shared."""
    world = World(1, Options(hosts=2, register=RegisterOptions()))
    another = SimRegister(RegisterOptions(), world.rng, world.after)
    send = SimRegister.send

    def send_to_one(self: SimRegister, address: str, asked: AskRegister, give: Callable[..., None]) -> None:
        send(another if address == world.hosts[1].address else self, address, asked, give)

    monkeypatch.setattr(SimRegister, "send", send_to_one)
    said: list[str] = []
    world.on_effect = lambda process, effect: said.append(effect.text) if isinstance(effect, Log) else None
    for host in world.hosts:
        world.start(host)
        world.run(world.now + 0.001)
    world.run(30.0)
    lines = [line for line in said if "goes by another cluster: --coordination names" in line]
    assert 4 <= len(lines) <= 6, said
    assert len(set(lines)) == 2


class TestItBites:
    """Each safeguard is switched off in turn; the simulator must find what that breaks, where it finds nothing else."""

    def assert_needed(
        self,
        scenario: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        target: object,
        name: str,
        value: object,
    ) -> None:
        scenario()
        monkeypatch.setattr(target, name, value, raising=False)
        with pytest.raises(Violation, match="are served by"):
            scenario()

    def test_the_wait_for_the_seat_to_lapse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scenario = a_coordinator_parted_from_all_that_reaches_the_register
        self.assert_needed(scenario, monkeypatch, shared_register, "_MANDATE_LAPSE_S", 0.0)

    def test_how_long_the_seat_is_good_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scenario = a_coordinator_parted_from_all_that_reaches_the_register
        self.assert_needed(scenario, monkeypatch, shared_register, "_MANDATE_USABLE_S", 2.0)

    def test_the_wait_for_our_own_support_to_run_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scenario = a_member_without_a_lease_that_supports_a_coordinator_out_of_reach_of_the_register
        never = property(lambda self: -inf, lambda self, value: None)
        self.assert_needed(scenario, monkeypatch, NodeState, "support_until", never)

    def test_that_all_must_support_the_coordinator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def some(self: SharedRegister, grantor: Grantor) -> float:
            return max([self._mandate_until, *grantor.support_until.values()])

        scenario = a_coordinator_that_reaches_one_of_two_and_not_the_register
        self.assert_needed(scenario, monkeypatch, SharedRegister, "leader_lease_end", some)

    def test_the_comparison(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A register that takes whatever is written."""
        asked_of = SimRegister.ask

        def blind(self: SimRegister, asked: AskRegister) -> RegisterAnswered:
            return asked_of(self, AskRegister(asked.number, self.seat, asked.seat, asked.view))

        monkeypatch.setattr(SimRegister, "ask", blind)
        for seed in range(40):
            try:
                run_seed(seed, bursts=seed % 3 == 0, link_cuts=seed % 2 == 0, shared_register=True)
            except Violation as violation:
                if "without faults" not in str(violation.__cause__):
                    return
        raise AssertionError("nothing was found")
