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
from tests.cluster.membership.parts import INCARNATIONS, NOW, a_state, a_view, die, hear, wait

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


class TestSuccessor:
    def succeed(self, rig: Rig) -> AskRegister:
        """Let time pass until it writes."""
        for _ in range(400):
            wait(rig.state, timing.MEMBERSHIP_TICK_S)
            asked = rig.tick()
            if asked is not None and asked.seat is not None:
                return asked
            if asked is not None:
                rig.answer(asked)
        raise AssertionError("it never does")

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
        swap = self.succeed(rig)
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
        self.succeed(rig)
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
        self.succeed(rig)
        assert rig.state.now - began >= LAPSE_S

    def test_its_own_support_must_have_run_out(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        rig.state.support_until = NOW + 3.0
        self.succeed(rig)
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
        swap = self.succeed(rig)
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
        swap = self.succeed(rig)
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
        swap = self.succeed(rig)
        assert swap.view is not None
        assert read_view(swap.view).addresses == ("c", "d")

    def test_another_took_it(self) -> None:
        rig = Rig("b")
        rig.settle()
        ill(rig)
        swap = self.succeed(rig)
        view = rig.state.view
        assert view is not None
        theirs = next_view(view, Changes(gone={"a": "is silent"}), 3, 77)
        assert theirs is not None
        theirs = replace(theirs, members=theirs.members[::-1])
        rig.write(theirs, 9)
        assert not rig.answer(swap)
        assert rig.installed == [theirs]


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

    @pytest.mark.parametrize(("heard", "is_refused"), [({}, False), ({"d": 77}, True), ({"d": 77, "c": 7}, False)])
    def test_what_others_than_its_members_go_by(self, heard: dict[str, int], is_refused: bool) -> None:
        """Of a register that holds a view of cluster 7."""
        rig = Rig("a", "b")
        rig.listen()
        assert rig.state.view is not None
        assert rig.state.view.cluster_id == 7
        hear(rig.state, *heard)
        for server, cluster in heard.items():
            rig.state.of(server).view_key = (cluster, 5, 5)
        rig.answer(rig.ask())
        assert ("and d goes by another" in rig.shared.fault) == is_refused
        die(rig.state, "b")
        assert rig.shared.may_start() == (not is_refused)
        if is_refused:
            rig.shared.force()
            wait(rig.state, timing.REGISTER_LOOK_S)
            rig.answer(rig.ask())
            assert rig.shared.may_start(), "an operator knows better"


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
