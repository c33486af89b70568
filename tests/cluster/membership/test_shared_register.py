"""One node's way to the shared register, on its own: what it asks, when, and what it makes of the answers."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster.events import AskRegister, Log, RegisterAnswered, RegisterFailed
from app.cluster.limits import COUNTER, EPOCH
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.detector import FAILED, SUSPECTED, Detector
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.seat import read_seat, read_view, seat_of
from app.cluster.membership.shared_register import OPEN_MAX
from app.cluster.view import View, to_message
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, NOW, a_state, a_view, die, hear, wait
from tests.cluster.membership.test_views import Node

LAPSE_S = timing.MANDATE_S / timing.SAFE_SHARE
USABLE_S = timing.MANDATE_S * timing.SAFE_SHARE
ORIGIN = 5


class Rig:
    """A node's coordinator, with a register that is answered for by hand."""

    def __init__(self, me: str = "a", members: str = "abc", replicas: int = 3) -> None:
        view = a_view(members, replicas) if members else None
        self.state = a_state(me, members, "abcde", view=view, replicas=replicas, shared_register=True)
        self.detector = Detector(self.state)
        self.lease = Lease()
        self.installed: list[View] = []
        self.coordinator = Coordinator(self.state, self.detector, self.lease, Bootstrap(self.state), self.enter)
        assert self.coordinator.shared is not None
        self.shared = self.coordinator.shared
        self.seat: bytes | None = None
        self.view: bytes | None = None
        self.logged: list[str] = []
        if self.state.view is not None:
            self.write(self.state.view)
            self.enter(self.state.view)
            self.installed.clear()

    def listen(self) -> None:
        """It has run for as long as others need to be heard."""
        self.shared._started_at = self.state.now - timing.NEWCOMER_LOOK_S

    def enter(self, view: View) -> None:
        state = self.state
        self.installed.append(view)
        state.view, state.is_member = view, view.has(state.address, state.incarnation)
        state.installed_at, state.support_withdrawn = state.now, False
        state.note_dead()
        self.detector.set_members(
            (member.address, member.incarnation) for member in view.members if member.address != state.address
        )
        self.coordinator.entered(Grantor(view, state.address) if state.is_coordinator else None)
        hear(state, *state.others())
        self.be_supported()

    def be_supported(self) -> None:
        """All others support us, if we are the coordinator, as of now."""
        for peer in self.state.others():
            if self.coordinator.grantor is not None:
                self.coordinator.grantor.add_support(peer, self.state.now)

    def write(self, view: View, count: int = 0, **fields: int) -> None:
        """Somebody has written this view, or the seat for it again."""
        fields = {"mark": count + 100, "before": 0, "origin": ORIGIN} | fields
        self.seat, self.view = seat_of(view, count, **fields).pack(), to_message(view).SerializeToString()

    def tick(self) -> AskRegister | None:
        """What it asks then."""
        self.coordinator.run(True)
        asked = [effect for effect in self.state.effects if isinstance(effect, AskRegister)]
        self.logged += [effect.text for effect in self.state.effects if isinstance(effect, Log)]
        self.state.effects.clear()
        assert len(asked) <= 1
        return asked[0] if asked else None

    def ask(self) -> AskRegister:
        asked = self.tick()
        assert asked is not None
        return asked

    def answer(self, asked: AskRegister) -> bool:
        """As a register does; whether something was written."""
        is_taken = asked.seat is not None and asked.expected == self.seat
        if is_taken:
            self.seat, self.view = asked.seat, asked.view or self.view
        held = (None, None) if is_taken else (self.seat, self.view)
        self.shared.take(RegisterAnswered(asked.number, is_taken, *held, ORIGIN))
        return is_taken

    def lose(self, asked: AskRegister, *, is_taken: bool) -> None:
        """The answer is lost."""
        if is_taken:
            self.seat, self.view = asked.seat, asked.view or self.view
        self.shared.take(RegisterFailed(asked.number, "lost"))
        wait(self.state, timing.REGISTER_RETRY_S)

    def settle(self) -> None:
        """It has read the register, and, as the coordinator, written the seat."""
        self.answer(self.ask())
        if self.state.is_coordinator:
            assert self.answer(self.ask())
        assert self.tick() is None

    def mandate_left_s(self) -> float:
        assert self.coordinator.grantor is not None
        return self.shared.leader_lease_end(self.coordinator.grantor) - self.state.now


def ill(rig: Rig) -> None:
    """The coordinator has failed, and all that we have promised it is over."""
    rig.detector._members["a"].state = FAILED
    rig.state.support_until = -inf


class TestCoordinator:
    def test_it_reads_then_writes_the_seat_again_and_again(self) -> None:
        rig = Rig()
        read = rig.ask()
        assert (read.seat, read.view) == (None, None)
        rig.answer(read)
        first = rig.ask()
        assert (first.expected, first.view) == (rig.seat, None)
        assert first.seat is not None
        assert read_seat(first.seat).count == 1
        assert rig.tick() is None  # one at a time
        assert rig.answer(first)
        wait(rig.state, timing.RENEW_S - 0.001)
        assert rig.tick() is None
        wait(rig.state, 0.001)
        assert rig.ask().expected == first.seat

    def test_its_mandate_counts_from_when_the_swap_was_sent(self) -> None:
        rig = Rig()
        rig.answer(rig.ask())
        swap = rig.ask()
        assert rig.coordinator.grantor is not None
        rig.coordinator.grantor.support_until.clear()
        assert rig.mandate_left_s() == -inf
        wait(rig.state, 0.2)
        rig.answer(swap)
        assert rig.mandate_left_s() == pytest.approx(USABLE_S - 0.2)

    def test_the_support_of_all_does_as_well_of_some_it_does_not(self) -> None:
        rig = Rig()
        assert rig.mandate_left_s() == pytest.approx(timing.SUPPORT_S * timing.SAFE_SHARE)
        assert rig.coordinator.grantor is not None
        del rig.coordinator.grantor.support_until["c"]
        assert rig.mandate_left_s() == -inf
        rig.be_supported()
        die(rig.state, "c")
        assert rig.mandate_left_s() == -inf

    def test_one_alone_needs_nobody(self) -> None:
        assert Rig("a", "a").mandate_left_s() == inf

    def test_a_view_is_written_with_the_seat(self) -> None:
        rig = Rig()
        rig.settle()
        die(rig.state, "c")
        rig.detector.died("c", INCARNATIONS["c"])
        swap = rig.ask()
        assert swap.seat is not None
        assert swap.view is not None
        view = read_view(swap.view)
        assert (view.epoch, view.addresses) == (2, ("a", "b"))
        seat = read_seat(swap.seat)
        assert (seat.view_key, seat.before) == (view.key, 1)
        assert rig.coordinator.grantor is not None
        assert rig.coordinator.grantor.denied == {"c"}
        assert rig.installed == []
        rig.answer(swap)
        assert rig.installed == [view]

    def test_a_view_goes_before_the_seat_alone(self) -> None:
        """Or with a register that answers more slowly than the seat is to be written, there would be no next view."""
        rig = Rig()
        rig.settle()
        rig.coordinator.renew = True
        wait(rig.state, timing.RENEW_S)
        assert rig.ask().view is not None

    @pytest.mark.parametrize("is_taken", [True, False])
    def test_a_lost_answer_is_read_back_and_nothing_else_is_tried_before(self, is_taken: bool) -> None:
        rig = Rig()
        rig.settle()
        die(rig.state, "c")
        rig.detector.died("c", INCARNATIONS["c"])
        swap = rig.ask()
        rig.lose(swap, is_taken=is_taken)
        assert rig.shared.is_busy
        read = rig.ask()
        assert read.seat is None
        rig.answer(read)
        if is_taken:
            assert [view.epoch for view in rig.installed] == [2]
        else:
            again = rig.ask()
            assert again.expected == swap.expected
            assert again.seat != swap.seat
            rig.answer(again)
            assert [view.epoch for view in rig.installed] == [2]

    def test_of_two_open_swaps_the_one_that_was_taken_counts(self) -> None:
        """The first comes late, after the second was sent."""
        rig = Rig()
        rig.settle()
        wait(rig.state, timing.RENEW_S)
        first = rig.ask()
        sent_at = rig.state.now
        rig.lose(first, is_taken=False)
        rig.answer(rig.ask())
        second = rig.ask()
        rig.seat = first.seat
        assert not rig.answer(second)
        rig.be_supported()
        assert rig.shared._mandate_until == pytest.approx(sent_at + USABLE_S)

    def test_a_register_that_is_read_and_takes_no_swap_costs_no_memory(self) -> None:
        """As an etcd whose quota is used up, or a way on which what is large is lost."""
        rig = Rig()
        rig.settle()
        rig.coordinator.renew = True
        first = self.lose_swaps(rig, OPEN_MAX)[0]
        assert first.view is not None
        rig.coordinator.renew = False
        lost = self.lose_swaps(rig, OPEN_MAX)
        assert rig.shared._open.keys() == {asked.seat for asked in lost}
        assert rig.coordinator.renew, "what the forgotten views would have denied to members is given again"
        # One that is forgotten comes to be taken.
        rig.seat, rig.view = first.seat, first.view
        asked = rig.ask()
        assert not rig.answer(asked)
        rig.be_supported()
        assert [view.epoch for view in rig.installed] == [2]
        assert rig.shared._open == {}
        assert rig.mandate_left_s() <= timing.SUPPORT_S
        assert rig.answer(rig.ask())

    def lose_swaps(self, rig: Rig, count: int) -> list[AskRegister]:
        """So many come to nothing, though reads are answered."""
        lost: list[AskRegister] = []
        while len(lost) < count:
            wait(rig.state, timing.RENEW_S)
            rig.be_supported()
            asked = rig.ask()
            if asked.seat is None:
                rig.answer(asked)
            else:
                rig.lose(asked, is_taken=False)
                lost.append(asked)
        return lost

    def test_who_was_to_be_removed_by_a_view_that_never_came_to_be_gets_leases_again(self) -> None:
        rig = Rig()
        rig.settle()
        die(rig.state, "c")
        rig.detector.died("c", INCARNATIONS["c"])
        swap = rig.ask()
        rig.lose(swap, is_taken=False)
        rig.write(rig.state.view, 50)  # type: ignore[arg-type]  # another has it that the view stays
        rig.answer(rig.ask())
        assert rig.coordinator.renew

    def test_with_few_it_lets_the_seat_go_for_a_while(self) -> None:
        rig = Rig("a", "abcde")
        rig.settle()
        assert rig.coordinator.grantor is not None
        rig.coordinator.grantor.support_until.clear()
        for _ in range(int(timing.YIELD_S / timing.MEMBERSHIP_TICK_S) - 1):
            wait(rig.state, timing.MEMBERSHIP_TICK_S)
            assert rig.tick() is None
        wait(rig.state, 3 * timing.MEMBERSHIP_TICK_S)
        assert rig.ask().seat is not None

    def test_whom_it_never_hears_of_it_takes_no_answer(self) -> None:
        rig = Rig()
        asked = rig.ask()
        rig.shared.take(RegisterAnswered(asked.number + 1, True, None, None, ORIGIN))
        assert rig.shared._request is not None
        rig.answer(asked)
        rig.answer(asked)  # twice: the second says nothing
        assert rig.shared._request is None


def succeed(rig: Rig) -> AskRegister:
    """Let time pass until it writes."""
    for _ in range(400):
        wait(rig.state, timing.MEMBERSHIP_TICK_S)
        asked = rig.tick()
        if asked is not None and asked.seat is not None:
            return asked
        if asked is not None:
            rig.answer(asked)
    raise AssertionError("it never does")


class TestSuccessor:
    def test_while_the_coordinator_is_well_it_asks_nothing(self) -> None:
        rig = Rig("b")
        rig.lease.until = inf
        rig.settle()
        for _ in range(100):
            wait(rig.state, 0.1)
            assert rig.tick() is None

    def test_it_reads_from_the_first_suspicion_and_writes_after_the_lapse(self) -> None:
        rig = Rig("b")
        rig.settle()
        rig.lease.until = inf
        rig.detector._members["a"].state = SUSPECTED
        rig.answer(rig.ask())
        seen_at = rig.state.now
        ill(rig)
        swap = succeed(rig)
        assert LAPSE_S <= rig.state.now - seen_at <= LAPSE_S + 2 * timing.MEMBERSHIP_TICK_S
        assert rig.state.support_withdrawn
        assert swap.view is not None
        assert read_view(swap.view).addresses == ("b", "c")

    def test_each_sign_of_the_holder_begins_the_wait_anew(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        rig.answer(rig.ask())
        for count in range(1, 20):
            wait(rig.state, timing.SEAT_READ_S)
            rig.write(rig.state.view, count)  # type: ignore[arg-type]
            rig.answer(rig.ask())
        seen_at = rig.state.now
        succeed(rig)
        assert rig.state.now - seen_at >= LAPSE_S

    def test_what_was_seen_before_the_coordinator_was_ill_does_not_count(self) -> None:
        rig = Rig("b")
        rig.settle()
        rig.lease.until = inf
        wait(rig.state, 60.0)
        hear(rig.state, "a", "c")
        assert rig.tick() is None
        ill(rig)
        began = rig.state.now
        succeed(rig)
        assert rig.state.now - began >= LAPSE_S

    def test_its_own_support_must_have_run_out(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        rig.state.support_until = NOW + 3.0
        succeed(rig)
        assert rig.state.now >= NOW + 3.0

    def test_of_a_dead_one_nothing_is_waited_for(self) -> None:
        rig = Rig("b")
        rig.settle()
        rig.state.support_until = NOW + 3.0
        die(rig.state, "a")
        rig.detector.died("a", INCARNATIONS["a"])
        swap = rig.ask()
        assert swap.seat is not None
        assert rig.state.support_withdrawn

    def test_while_its_swap_is_open_it_supports_nobody(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        swap = succeed(rig)
        rig.lose(swap, is_taken=False)
        rig.detector._members["a"].state = "alive"
        rig.lease.until = inf
        rig.tick()
        assert rig.state.support_withdrawn
        rig.write(rig.state.view, 7)  # type: ignore[arg-type]  # the holder goes on
        rig.shared.take(RegisterAnswered(rig.shared._number, False, rig.seat, rig.view, ORIGIN))
        assert not rig.state.support_withdrawn

    def test_those_before_it_come_first(self) -> None:
        rig = Rig("c", "abcd")
        rig.settle()
        ill(rig)
        for _ in range(int(timing.TURN_S / timing.MEMBERSHIP_TICK_S) - 1):
            assert rig.tick() is None
            wait(rig.state, timing.MEMBERSHIP_TICK_S)
        swap = succeed(rig)
        assert swap.view is not None
        assert read_view(swap.view).addresses == ("c", "b", "d")  # whoever writes it coordinates

    def test_one_that_leaves_and_has_handed_over_writes_a_view_without_itself(self) -> None:
        rig = Rig("b", "abcd")
        view = rig.state.view
        assert view is not None
        leaving = next_view(view, Changes(leaving={"b"}), 3, 5)
        assert leaving is not None
        without = next_view(leaving, Changes(synced=dict.fromkeys("acd", ALL_SLOTS)), 3, 6)
        assert without is not None
        rig.write(without, 5)
        rig.enter(without)
        rig.state.leaving = True
        rig.settle()
        ill(rig)
        swap = succeed(rig)
        assert swap.view is not None
        assert read_view(swap.view).addresses == ("c", "d")

    def test_another_took_it(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        swap = succeed(rig)
        view = rig.state.view
        assert view is not None
        theirs = next_view(view, Changes(gone={"a": "is silent"}), 3, 77)
        assert theirs is not None
        theirs = replace(theirs, members=theirs.members[::-1])
        rig.write(theirs, 9)
        assert not rig.answer(swap)
        assert rig.installed == [theirs]


class TestForce:
    """An operator has a node go on, with a register that was wiped."""

    def wiped(self, me: str, members: str) -> Rig:
        rig = Rig(me, members)
        rig.settle()
        if me != "a":
            ill(rig)
        rig.seat = rig.view = None
        wait(rig.state, timing.RENEW_S)
        rig.be_supported()
        rig.answer(rig.ask())
        assert "wiped" in rig.shared.fault
        rig.shared.force()
        wait(rig.state, timing.REGISTER_LOOK_S)
        rig.answer(rig.ask())
        return rig

    @pytest.mark.parametrize(("me", "members"), [("a", "a"), ("a", "abc"), ("b", "abc")])
    def test_it_writes_a_view_though_nothing_else_has_changed(self, me: str, members: str) -> None:
        rig = self.wiped(me, members)
        assert rig.answer(succeed(rig))
        assert [view.coordinator for view in rig.installed] == [me]

    @pytest.mark.parametrize("me", ["a", "b"])
    def test_one_that_was_taken_though_the_answer_was_lost_is_gone_by(self, me: str) -> None:
        """Others may go by it already: another one in its place they would refuse."""
        rig = self.wiped(me, "abc")
        swap = succeed(rig)
        rig.lose(swap, is_taken=True)
        rig.answer(rig.ask())
        assert swap.view is not None
        assert rig.installed == [read_view(swap.view)]

    @pytest.mark.parametrize("what", ["a copy", "nonsense"])
    def test_a_newcomer_founds_in_the_place_of_what_is_refused(self, what: str) -> None:
        """As when all nodes were restarted, and their etcd restored: nobody goes by any view."""
        rig = Rig("d", "")
        view = a_view("abc")
        rig.write(view, origin=ORIGIN + (what == "a copy"))
        rig.seat = rig.seat if what == "a copy" else b"nonsense"
        rig.answer(rig.ask())
        assert rig.shared.fault
        wait(rig.state, timing.REGISTER_LOOK_S)
        rig.shared.force()
        forced_at = rig.state.now
        swap = succeed(rig)
        assert (swap.expected, rig.state.now - forced_at >= LAPSE_S) == (rig.seat, True)
        assert rig.answer(swap)
        assert [view.addresses for view in rig.installed] == [("d",)]

    def test_but_not_where_there_is_a_cluster(self) -> None:
        rig = Rig("d", "")
        rig.shared.force()
        rig.write(a_view("abc"))
        rig.answer(rig.ask())
        assert [view.addresses for view in rig.installed] == [("a", "b", "c")]
        assert not rig.shared.may_start()

    def test_nor_when_the_order_stands_no_more(self) -> None:
        rig = Rig("d", "")
        rig.seat, rig.view = b"nonsense", b""
        rig.shared.force()
        rig.answer(rig.ask())
        wait(rig.state, timing.FORCED_S)
        assert not rig.shared.may_start()

    def test_when_nothing_has_come_of_it_things_are_as_before(self) -> None:
        """The register is sound after all, and was out of reach for as long as the order stood."""
        rig = Rig("b")
        rig.settle()
        ill(rig)
        rig.write(rig.state.view, 3)  # type: ignore[arg-type]
        rig.shared.force()
        rig.answer(rig.ask())
        end = rig.state.now + timing.FORCED_S
        while rig.state.now < end:
            wait(rig.state, timing.MEMBERSHIP_TICK_S)
            if (asked := rig.tick()) is not None:
                rig.lose(asked, is_taken=False)
        assert succeed(rig).expected == rig.seat


class TestOutsider:
    def test_whoever_finds_it_empty_founds(self) -> None:
        rig = Rig("a", "")
        rig.answer(rig.ask())
        wait(rig.state, timing.NEWCOMER_LOOK_S)
        swap = rig.ask()
        assert swap.expected is None
        rig.answer(swap)
        assert [view.addresses for view in rig.installed] == [("a",)]

    def test_unless_another_was_first(self) -> None:
        rig = Rig("a", "")
        rig.answer(rig.ask())
        wait(rig.state, timing.NEWCOMER_LOOK_S)
        swap = rig.ask()
        theirs = Rig("b", "b").state.view
        assert theirs is not None
        rig.write(theirs)
        rig.answer(swap)
        assert rig.installed == [theirs]
        assert not rig.state.is_member

    @pytest.mark.parametrize(
        ("dead", "ago_s", "starts"),
        [
            ("bcd", 0.0, True),
            ("bc", timing.GIVEN_UP_S - 0.1, False),
            ("bc", timing.GIVEN_UP_S, True),
            ("b", 60.0, False),
        ],
    )
    def test_it_starts_anew_only_when_nothing_is_lost_by_that(self, dead: str, ago_s: float, starts: bool) -> None:
        rig = Rig("a", "bcd")
        rig.settle()
        rig.listen()
        die(rig.state, *dead)
        rig.shared._seen_at = rig.state.now - ago_s
        for peer in "bcd":
            rig.state.of(peer).heard_awake_s = rig.state.of(peer).died_at = -9.0
        assert rig.shared.may_start() == starts

    @pytest.mark.parametrize(("ago_s", "starts"), [(timing.GIVEN_UP_S - 0.1, False), (timing.GIVEN_UP_S, True)])
    def test_the_support_that_the_dead_gave_is_over_by_then(self, ago_s: float, starts: bool) -> None:
        """Though the seat has not been written for long: a coordinator that does not reach the register serves as long
        as all support it."""
        rig = Rig("a", "bcd")
        rig.settle()
        rig.listen()
        die(rig.state, "b", "c")
        rig.shared._seen_at = rig.state.now - 60.0
        for peer in "bc":
            rig.state.of(peer).died_at = rig.state.now - ago_s
        for peer in "bcd":
            rig.state.of(peer).heard_awake_s = -9.0
        assert rig.shared.may_start() == starts

    def test_nor_while_one_of_them_is_heard(self) -> None:
        rig = Rig("a", "bcd")
        rig.settle()
        rig.listen()
        die(rig.state, "b", "c")
        rig.shared._seen_at = -60.0
        assert not rig.shared.may_start()

    def test_a_machines_refusal_says_nothing_of_a_process_that_was_started_since(self) -> None:
        rig = Rig("a", "b")
        rig.settle()
        rig.listen()
        rig.state.note_absent("b", rig.state.now)
        assert not rig.shared.may_start()
        die(rig.state, "b")
        assert rig.shared.may_start()

    def test_the_process_before_it_at_its_own_address_is_gone(self) -> None:
        rig = Rig("a", "a")
        rig.state.incarnation += 1
        rig.state.is_member = False
        rig.answer(rig.ask())
        assert not rig.shared.may_start(), "others may be heard yet"
        rig.listen()
        assert rig.ask().expected == rig.seat

    @pytest.mark.parametrize(("heard", "starts"), [((7, 1, 1), True), ((7, 2, 9), False), ((77, 1, 1), False)])
    def test_nothing_is_started_where_somebody_goes_by_what_came_later(
        self, heard: tuple[int, int, int], starts: bool
    ) -> None:
        """What was read may be no more than an old backup, of members that have all been restarted since."""
        rig = Rig("a", "bcd")
        rig.settle()
        rig.listen()
        die(rig.state, "b", "c", "d")
        rig.state.of("b").view_key = heard
        assert rig.shared.may_start() == starts
        rig.state.of("b").heard_awake_s -= timing.HEARD_S
        assert rig.shared.may_start(), "it is there no more"

    @pytest.mark.parametrize(("heard", "is_refused"), [({}, False), ({"d": 77}, True), ({"d": 77, "c": 7}, False)])
    def test_what_others_than_its_members_go_by(self, heard: dict[str, int], is_refused: bool) -> None:
        """Of a register that holds a view of cluster 7."""
        rig = Rig("a", "b")
        rig.listen()
        assert rig.state.view is not None
        assert rig.state.view.cluster_id == 7
        hear(rig.state, *heard)
        for server, cluster in heard.items():
            rig.state.of(server).view_key = (cluster, 1, 1)
        rig.answer(rig.ask())
        assert ("and d goes by another" in rig.shared.fault) == is_refused
        die(rig.state, "b")
        assert rig.shared.may_start() == (not is_refused)
        if is_refused:
            rig.shared.force()
            wait(rig.state, timing.REGISTER_LOOK_S)
            rig.answer(rig.ask())
            assert rig.shared.may_start(), "an operator knows better"


@pytest.mark.parametrize("me", ["a", "d"])
@pytest.mark.parametrize("lacks", ["a seat", "a view"])
def test_half_of_what_it_is_to_hold_is_refused(me: str, lacks: str) -> None:
    """Somebody has deleted a key. Whoever took it for empty would try to write the first seat without end."""
    rig = Rig(me, "abc" if me == "a" else "")
    rig.write(a_view())
    if lacks == "a seat":
        rig.seat = None
    else:
        rig.view = None
    rig.answer(rig.ask())
    assert f"without {lacks}" in rig.shared.fault
    wait(rig.state, timing.REGISTER_LOOK_S)
    assert rig.ask().seat is None


def lines(rig: Rig, level: str) -> list[str]:
    """What was logged at this level since the last call."""
    said = [effect.text for effect in rig.state.effects if isinstance(effect, Log) and effect.level == level]
    rig.state.effects.clear()
    return said


class TestRefused:
    """What the register holds is not what it is to hold."""

    def read(self, rig: Rig) -> None:
        """It is asked once more."""
        wait(rig.state, timing.REGISTER_LOOK_S)
        hear(rig.state, *rig.state.others())
        rig.be_supported()
        asked = rig.tick()
        if asked is None:
            rig.shared._is_known = False
            asked = rig.ask()
        rig.answer(asked)

    @pytest.mark.parametrize("me", ["a", "b"])
    def test_nothing_is_served_then_and_all_is_well_when_it_is_right_again(self, me: str) -> None:
        rig = Rig(me)
        rig.settle()
        kept = (rig.seat, rig.view)
        rig.seat = rig.view = None
        rig.lease.until = inf
        self.read(rig)
        assert rig.shared.is_refused
        assert "it is empty, and was not" in rig.shared.fault
        assert rig.lease.until == -inf
        if me == "a":
            assert rig.mandate_left_s() == -inf
        assert not rig.shared.may_start()
        rig.answer(rig.ask())
        wait(rig.state, timing.REGISTER_LOOK_S - 0.01)
        assert rig.tick() is None, "it is not asked more often"
        rig.seat, rig.view = kept
        self.read(rig)
        assert (rig.shared.fault, rig.installed) == ("", [])

    @pytest.mark.parametrize(("members", "count_known"), [("abc", -1), ("", 0), ("", -1)])
    def test_an_empty_one_is_wrong_for_whoever_goes_by_a_view_or_has_read_one(
        self, members: str, count_known: int
    ) -> None:
        rig = Rig("a", members)
        rig.shared._count_known = count_known
        rig.seat = rig.view = None
        rig.answer(rig.ask())
        assert rig.shared.is_refused == (bool(members) or count_known >= 0)

    def test_that_is_said_once_in_a_while_and_whenever_it_is_another_fault(self) -> None:
        rig = Rig()
        rig.seat = rig.view = None
        for later_s, said in ((0.0, 1), (timing.WAITING_LOG_S - 0.1, 0), (0.1, 1)):
            wait(rig.state, later_s)
            rig.shared._refuse("it is wrong")
            assert len(lines(rig, "error")) == said
        rig.shared._refuse("it is wrong in another way")
        assert lines(rig, "error") == [
            "the register is refused: it is wrong in another way; this node keeps what it holds, and serves nothing,"
            " until that is put right, or kv found --force is said"
        ]

    @pytest.mark.parametrize("is_written", [True, False])
    def test_a_copy_of_it(self, is_written: bool) -> None:
        """Found by reading, or by writing there."""
        rig = Rig()
        asked = rig.ask()
        if is_written:
            rig.answer(asked)
            asked = rig.ask()
            rig.shared.take(RegisterAnswered(asked.number, True, None, None, ORIGIN + 1))
        else:
            rig.shared.take(RegisterAnswered(asked.number, False, rig.seat, rig.view, ORIGIN + 1))
        assert rig.shared.fault == "it is register 6, and what it holds was written to 5: it is a backup, or a copy"
        assert rig.mandate_left_s() == -inf
        if is_written:
            assert rig.ask().seat is None, "it is read first"

    @pytest.mark.parametrize(
        ("me", "fields", "fault"),
        [
            ("a", {"cluster_id": 9}, "it holds cluster 9, and this node goes by 7"),
            ("d", {"cluster_id": 9}, ""),  # an outsider goes where there is a cluster
            ("a", {"epoch": 4}, "it holds epoch 4, and this node goes by 5: it was restored, or wiped"),
            ("a", {"nonce": 3}, "it holds epoch 5, and this node goes by 5: it was restored, or wiped"),
            ("a", {}, ""),
            ("a", {"epoch": 6, "nonce": 3}, ""),
        ],
    )
    def test_another_view_than_may_come_of_ours(self, me: str, fields: dict[str, int], fault: str) -> None:
        rig = Rig(me)
        ours = replace(a_view(), epoch=5)
        rig.enter(ours)
        rig.write(replace(ours, **fields))  # type: ignore[arg-type]
        rig.answer(rig.ask())
        assert rig.shared.fault == fault

    @pytest.mark.parametrize(
        ("epoch", "before", "is_right"), [(6, 1, True), (6, 2, False), (7, 1, False), (5, 0, True)]
    )
    def test_once_it_was_wrong_only_ours_and_the_next_one_are_right(
        self, epoch: int, before: int, is_right: bool
    ) -> None:
        """What came later may have come of what was wrong."""
        rig = Rig()
        ours = replace(a_view(), epoch=5)
        rig.enter(ours)
        rig.write(replace(ours, cluster_id=9))
        rig.answer(rig.ask())
        assert rig.shared.is_refused
        rig.installed.clear()
        rig.write(ours if epoch == 5 else replace(ours, epoch=epoch, nonce=99), 7, before=before)
        self.read(rig)
        assert rig.shared.is_refused != is_right
        assert len(rig.installed) == (is_right and epoch == 6)

    def test_a_seat_that_does_not_belong_to_the_view(self) -> None:
        rig = Rig()
        rig.view = to_message(replace(a_view(), nonce=3)).SerializeToString()
        rig.answer(rig.ask())
        assert rig.shared.fault == "its seat and its view do not belong together"

    @pytest.mark.parametrize(("seat", "view"), [(b"{}", None), (None, b"\xff")])
    def test_nonsense(self, seat: bytes | None, view: bytes | None) -> None:
        rig = Rig()
        rig.seat, rig.view = seat or rig.seat, view or rig.view
        rig.answer(rig.ask())
        assert rig.shared.fault.startswith("it holds what is no view: ")

    def test_a_backup_of_the_same_view_is_gone_by(self) -> None:
        rig = Rig()
        rig.write(a_view(), 20)
        rig.settle()
        rig.write(a_view(), 3)
        self.read(rig)
        assert rig.shared.fault == ""
        assert lines(rig, "warning") == ["the register was set back, from seat 21 to 3"]
        swap = rig.ask()
        assert swap.seat is not None
        assert read_seat(swap.seat).count == 4


class TestNoAnswer:
    def test_it_is_asked_again_after_a_while_and_that_is_said_now_and_then(self) -> None:
        rig = Rig()
        for later_s, said in ((0.0, 1), (timing.WAITING_LOG_S - 1.0, 0), (1.0, 1)):
            wait(rig.state, later_s)
            asked = rig.ask()
            rig.shared.take(RegisterFailed(asked.number, "timed out"))
            assert lines(rig, "warning") == ["no answer of the register: timed out"] * said
            assert (rig.shared.fault, rig.shared.is_refused) == ("timed out", False)
            wait(rig.state, timing.REGISTER_RETRY_S - 0.001)
            assert rig.tick() is None
            wait(rig.state, 0.001)
        asked = rig.ask()
        rig.answer(asked)
        assert lines(rig, "info") == ["the register answers again"]
        assert rig.shared.fault == ""

    def test_a_view_that_was_sent_is_under_way_until_it_is_known_what_became_of_it(self) -> None:
        rig = Rig()
        rig.settle()
        wait(rig.state, timing.RENEW_S)
        rig.lose(rig.ask(), is_taken=False)
        assert not rig.shared.is_busy, "the seat alone"
        rig.answer(rig.ask())
        rig.coordinator.renew = True
        swap = rig.ask()
        assert swap.view is not None
        assert rig.shared.is_busy
        rig.lose(swap, is_taken=False)
        assert rig.shared.is_busy
        rig.answer(rig.ask())
        assert not rig.shared.is_busy
        rig.answer(rig.ask())
        assert rig.state.epoch == 2
        wait(rig.state, timing.RENEW_S)
        rig.be_supported()
        assert rig.ask().view is None
        assert not rig.shared.is_busy, "that one was taken long ago"

    @pytest.mark.parametrize(("has_view", "is_taken"), [(False, False), (True, True)])
    def test_nobody_needs_another_view_for_a_seat_alone_or_for_one_that_was_taken(
        self, has_view: bool, is_taken: bool
    ) -> None:
        rig = Rig()
        rig.settle()
        wait(rig.state, timing.RENEW_S)
        rig.coordinator.renew = has_view
        swap = rig.ask()
        assert (swap.view is not None) == has_view
        rig.coordinator.renew = False
        rig.lose(swap, is_taken=is_taken)
        if not is_taken:
            rig.write(rig.state.view, 50)  # type: ignore[arg-type]
        rig.answer(rig.ask())
        assert not rig.coordinator.renew


class TestWhatIsWritten:
    def test_the_first_view_is_named_after_its_founder(self) -> None:
        rig = Rig("a", "", replicas=2)
        rig.answer(rig.ask())
        wait(rig.state, timing.NEWCOMER_LOOK_S)
        swap = rig.ask()
        assert swap.view is not None
        view = read_view(swap.view)
        assert (view.cluster_id, view.epoch) == (INCARNATIONS["a"], 1)

    def test_the_seat_goes_on_saying_which_view_was_before(self) -> None:
        rig = Rig()
        rig.settle()
        rig.coordinator.renew = True
        rig.answer(rig.ask())
        assert rig.state.epoch == 2
        wait(rig.state, timing.RENEW_S)
        swap = rig.ask()
        assert (swap.view, swap.seat is not None) == (None, True)
        seat = read_seat(swap.seat or b"")
        assert (seat.epoch, seat.before, seat.holder, seat.is_left) == (2, 1, "a", False)

    def test_the_last_one_says_that_it_has_left_and_serves_no_more(self) -> None:
        rig = Rig("a", "a")
        rig.settle()
        rig.lease.until = inf
        assert not rig.shared.may_leave()
        assert (rig.lease.until, rig.mandate_left_s()) == (-inf, -inf)
        (swap,) = [effect for effect in rig.state.effects if isinstance(effect, AskRegister)]
        assert swap.seat is not None
        assert read_seat(swap.seat).is_left
        rig.answer(swap)
        assert rig.shared.may_leave()

    @pytest.mark.parametrize(("waited_s", "may"), [(timing.FINAL_VIEW_S - 0.01, False), (timing.FINAL_VIEW_S, True)])
    def test_it_does_not_wait_long_for_a_register_that_does_not_answer(self, waited_s: float, may: bool) -> None:
        rig = Rig("a", "a")
        assert not rig.shared.may_leave()
        wait(rig.state, waited_s)
        assert rig.shared.may_leave() == may

    def test_whoever_comes_after_one_that_has_left_begins_anew(self) -> None:
        rig = Rig("d", "a")
        rig.seat = seat_of(a_view("a"), 3, 1, 0, ORIGIN, is_left=True).pack()
        rig.answer(rig.ask())
        wait(rig.state, timing.NEWCOMER_LOOK_S)
        assert rig.shared.may_start()
        rig.state.leaving = True
        assert not rig.shared.may_start()


class TestForced:
    """An operator has it go on."""

    def swap(self, rig: Rig, limit_s: float) -> AskRegister:
        """Answer until it writes, within that time; what it writes. All others are heard meanwhile."""
        began = rig.state.now
        while (asked := rig.tick()) is None or asked.seat is None:
            if asked is not None:
                rig.answer(asked)
            wait(rig.state, timing.MEMBERSHIP_TICK_S)
            hear(rig.state, *rig.state.others())
            assert rig.state.now - began < limit_s
        return asked

    def force(self, rig: Rig) -> None:
        rig.shared.force()
        wait(rig.state, timing.REGISTER_LOOK_S)
        hear(rig.state, *rig.state.others())
        rig.be_supported()

    def test_into_an_empty_one_the_coordinator_writes_at_once(self) -> None:
        rig = Rig()
        rig.settle()
        rig.seat = rig.view = None
        wait(rig.state, timing.RENEW_S)
        rig.answer(rig.ask())
        assert rig.shared.is_refused
        self.force(rig)
        assert not rig.shared.is_refused
        rig.answer(rig.ask())
        rig.coordinator.renew = True
        swap = rig.ask()
        assert (swap.expected, swap.view is not None) == (None, True)
        assert rig.answer(swap)
        assert rig.state.epoch == 2
        assert not rig.shared._is_forced, "that was it"

    def test_in_the_place_of_what_is_there_when_nobody_has_written_it_for_a_while(self) -> None:
        rig = Rig()
        rig.settle()
        rig.write(replace(a_view(), cluster_id=9), 70)
        wait(rig.state, timing.RENEW_S)
        rig.answer(rig.ask())
        assert rig.shared.is_refused
        self.force(rig)
        rig.coordinator.renew = True
        rig.answer(rig.ask())
        seen_at = rig.state.now
        swap = self.swap(rig, 2.0)
        assert LAPSE_S <= rig.state.now - seen_at <= LAPSE_S + 2 * timing.MEMBERSHIP_TICK_S
        assert swap.expected == rig.seat

    def test_another_member_waits_until_its_support_of_the_coordinator_is_over(self) -> None:
        rig = Rig("b")
        rig.settle()
        rig.seat = rig.view = None
        rig.shared.force()
        rig.state.support_until = rig.state.now + 2.0
        began = rig.state.now
        swap = self.swap(rig, 3.0)
        assert rig.state.now - began >= 2.0
        assert swap.view is not None
        assert read_view(swap.view).members[0].address == "b"

    def test_an_outsider_does_as_soon_as_the_seat_has_lapsed(self) -> None:
        rig = Rig("a", "bcd")
        rig.settle()
        rig.shared._seen_at = rig.state.now
        rig.shared.force()
        rig.shared._is_known = True  # it has been read since
        wait(rig.state, LAPSE_S - 0.01)
        assert not rig.shared.may_start()
        wait(rig.state, 0.01)
        assert rig.shared.may_start()

    def test_the_order_stands_for_a_while(self) -> None:
        rig = Rig("a", "bcd")
        rig.settle()
        rig.shared.force()
        wait(rig.state, timing.FORCED_S)
        assert not rig.shared.may_start()


class TestWhoIsFirst:
    """Whether a newcomer that finds it empty may write the first view."""

    def rig(self) -> Rig:
        rig = Rig("a", "")
        rig.answer(rig.ask())
        wait(rig.state, timing.NEWCOMER_LOOK_S)
        return rig

    def test_not_at_once(self) -> None:
        rig = Rig("a", "")
        wait(rig.state, timing.NEWCOMER_LOOK_S - 0.01)
        rig.answer(rig.ask())
        assert not rig.shared.may_start()
        wait(rig.state, 0.01)
        assert rig.shared.may_start()

    def test_not_while_it_is_leaving(self) -> None:
        rig = self.rig()
        rig.state.leaving = True
        assert not rig.shared.may_start()

    def test_not_beside_one_that_goes_by_a_view(self) -> None:
        """It may have been written since the register was read; else that is the wrong one."""
        rig = self.rig()
        hear(rig.state, "b")
        rig.state.of("b").view_key = (7, 1, 1)
        assert not rig.shared.may_start()
        assert not rig.shared.is_refused
        wait(rig.state, 0.1)
        hear(rig.state, "b")
        rig.answer(rig.ask())
        assert not rig.shared.may_start()
        assert rig.shared.fault.startswith(
            "it is empty, though b goes by a view: it was wiped, or --coordination names"
        )
        wait(rig.state, timing.HEARD_S)
        rig.answer(rig.ask())
        assert rig.shared.may_start()

    def test_nor_beside_one_that_speaks_another_protocol(self) -> None:
        rig = self.rig()
        rig.state.of("b").refused_at = rig.state.now
        wait(rig.state, 2 * timing.WAITING_LOG_S - 0.01)
        assert not rig.shared.may_start()
        wait(rig.state, 0.01)
        assert rig.shared.may_start()


class TestWrites:
    """A register that is read, and takes nothing: the user may not write, or there is no room left."""

    def write_in_vain(self, rig: Rig, times: int) -> list[AskRegister]:
        """What it wanted to write; so often."""
        swaps: list[AskRegister] = []
        while len(swaps) < times:
            asked = rig.tick()
            if asked is not None and asked.seat is not None:
                swaps.append(asked)
                rig.shared.take(RegisterFailed(asked.number, "permission denied"))
            elif asked is not None:
                rig.answer(asked)
            wait(rig.state, timing.REGISTER_RETRY_S)
        return swaps

    @pytest.mark.parametrize("members", ["", "abc"])
    def test_reads_do_not_show_that_all_is_well(self, members: str) -> None:
        rig = Rig("a", members)
        rig.listen()
        self.write_in_vain(rig, 20)
        assert rig.shared.fault == "permission denied"
        assert rig.logged == ["no answer of the register: permission denied"], "for less than 10 s"
        while (asked := rig.ask()).seat is None:
            rig.answer(asked)
        assert rig.answer(asked)
        rig.tick()
        assert rig.shared.fault == ""
        assert rig.logged[1:] == ["the register answers again"]

    def test_those_of_days_are_not_kept_and_come_late_all_the_same(self) -> None:
        rig = Rig()
        swaps = self.write_in_vain(rig, OPEN_MAX + 10)
        assert len(rig.shared._open) == OPEN_MAX
        rig.seat = swaps[0].seat  # it was taken, long after
        while not rig.answer(rig.ask()):
            assert rig.mandate_left_s() < 0, "that one counts for nothing"
            wait(rig.state, timing.REGISTER_RETRY_S)
        assert rig.mandate_left_s() > 0
        assert not rig.shared._open
        assert rig.installed == []

    def test_they_do_where_another_has_written_meanwhile(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        rig.answer(rig.ask())
        wait(rig.state, timing.MANDATE_S / timing.SAFE_SHARE)
        asked = rig.ask()
        while asked.seat is None:
            rig.answer(asked)
            wait(rig.state, timing.SEAT_READ_S)
            asked = rig.ask()
        rig.lose(asked, is_taken=False)
        rig.answer(rig.ask())
        assert rig.shared.fault == "lost", "it is not known yet what will come of it"
        assert rig.state.view is not None
        rig.write(rig.state.view, 5)
        wait(rig.state, timing.SEAT_READ_S)
        rig.answer(rig.ask())
        assert rig.shared.fault == ""


class TestFarAhead:
    """What no node has written, and nothing could come after."""

    @pytest.mark.parametrize("me", ["a", "d"])
    @pytest.mark.parametrize(("count", "epoch"), [(COUNTER.most, 2), (5, EPOCH.most)])
    def test_the_last_that_there_is_is_refused(self, me: str, count: int, epoch: int) -> None:
        rig = Rig(me)
        view = rig.state.view
        assert view is not None
        rig.write(replace(view, epoch=epoch), count)
        rig.answer(rig.ask())
        assert rig.installed == []
        assert "nothing can follow" in rig.shared.fault


class TestLastHolders:
    """Whom a coordinator with a shared register does not remove for its silence."""

    def test_who_may_have_the_only_copy_stays_and_is_no_holder_of_the_rest(self) -> None:
        rig = Rig("a", "abcde", replicas=2)
        view = rig.state.view
        assert view is not None
        for peer in "bcde":
            rig.detector._members[peer].state = FAILED
        changes = rig.coordinator._changes(is_support_over=False)
        after = next_view(view, changes, 2)
        assert after is not None
        for slot in range(256):
            if "a" in view.holders(slot):
                assert after.holders(slot) == ("a",)
            else:
                assert set(after.holders(slot)) == set(view.holders(slot))

    def test_it_comes_to_rest(self) -> None:
        rig = Rig("a", "abcde", replicas=2)
        for _ in range(3):
            for peer in rig.state.others():
                rig.detector._members[peer].state = FAILED
            changes = rig.coordinator._changes(is_support_over=False)
            if not changes:
                break
            assert rig.state.view is not None
            after = next_view(rig.state.view, changes, 2)
            assert after is not None
            rig.enter(after)
        else:
            raise AssertionError("there is always another view")

    def test_all_others_go(self) -> None:
        rig = Rig("a", "abc")
        for peer in "bc":
            rig.detector._members[peer].state = FAILED
        assert set(rig.coordinator._changes(is_support_over=False).gone) == {"b", "c"}

    def test_the_dead_go_whatever_they_had(self) -> None:
        rig = Rig("a", "abcde", replicas=2)
        die(rig.state, *"bcde")
        assert set(rig.coordinator._changes(is_support_over=False).gone) == set("bcde")

    def test_one_copy_is_one(self) -> None:
        rig = Rig("a", "abc", replicas=1)
        rig.detector._members["b"].state = FAILED
        assert set(rig.coordinator._changes(is_support_over=False).gone) == {"b"}
        rig.detector._members["c"].state = FAILED
        assert not rig.coordinator._changes(is_support_over=False).gone  # they are more


def test_a_member_is_not_dead_because_its_address_had_a_process_with_a_higher_incarnation() -> None:
    """Which was heard before the view was read: the wall clock there may have been set back since."""
    node = Node("a", "ab", shared_register=True)
    header = {"incarnation": 50, "node_protocol": node.core._state.protocol}
    node.get("b", pb.HELLO, **header)
    heard_at = node.now
    node.now += 1.0
    view = a_view("b")
    seat = seat_of(view, 0, 1, 0, ORIGIN).pack()
    node.step(RegisterAnswered(1, False, seat, to_message(view).SerializeToString(), ORIGIN))
    assert (node.core.view, node.core._state.dead) == (view, set())
    node.get("b", pb.HELLO, **header | {"echo_us": round(heard_at * 1e6)})
    assert node.core._state.dead == set(), "that was on its way"
    node.now += 0.1
    node.get("b", pb.HELLO, **header)
    assert node.core._state.dead == {"b"}, "it came later, after all"
