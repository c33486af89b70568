"""Who lacks whom, as members report it, and what the coordinator makes of it."""

import pytest

from app.cluster.events import Log
from app.cluster.membership import lacks, timing
from app.cluster.membership.detector import FAILED, Detector
from app.cluster.membership.lacks import Lacks, wholes
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.state import NodeState
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import (
    INCARNATIONS,
    a_state,
    a_view,
    enter,
    from_peer,
    hear,
    take_kinds,
    vouch,
    wait,
)

SETTLED_S = timing.LACKS_SETTLE_S


class Rig:
    def __init__(self, me: str = "a", members: str = "abcd", servers: str = "abcde", replicas: int = 3) -> None:
        view = a_view(members, replicas)
        self.state: NodeState = a_state(me, members, servers, view=view if me in members else None)
        enter(self.state, view)
        self.detector = Detector(self.state)
        self.detector.set_members((node, INCARNATIONS[node]) for node in members if node != me)
        self.lacks = Lacks(self.state, self.detector)
        hear(self.state, *self.state.others())

    def report(self, peer: str, *lacks: str, stamp_us: int = 0) -> None:
        self.lacks.note_report(peer, from_peer(self.state, peer, pb.ASK, lacks=lacks, stamp_us=stamp_us))

    def hello(self, peer: str = "e", *lacks: str, **fields: object) -> None:
        self.lacks.note_hello(peer, from_peer(self.state, peer, pb.HELLO, lacks=lacks, **fields))
        hear(self.state, peer)

    def unlink(self, *peers: str) -> None:
        for peer in peers:
            self.state.note_unlinked(peer)

    def look(self, **lost: int) -> frozenset[str]:
        self.lacks.look(lost)
        return self.lacks.going

    def lines(self) -> list[str]:
        texts = [effect.text for effect in self.state.effects if isinstance(effect, Log)]
        self.state.effects.clear()
        return texts


class TestReports:
    def test_a_member_tells_whom_it_lacks_and_outsiders_that_it_has_no_link_to(self) -> None:
        rig = Rig("b")
        rig.hello("e")
        rig.unlink("c", "d", "e")
        wait(rig.state, timing.LACK_S - 0.001)
        vouch(rig.state, rig.detector, "c")
        rig.state.of("e").heard_at = rig.state.now
        assert rig.lacks.own() == []
        wait(rig.state, 0.002)
        assert rig.lacks.own() == ["c", "e"]  # of d nothing shows that it lives

    def test_an_outsider_tells_to_whom_it_has_no_link_now(self) -> None:
        rig = Rig("e")
        rig.unlink("b", "d")
        assert rig.lacks.unlinked() == ["b", "d"]

    def test_one_of_two_that_lack_each_other_is_to_go(self) -> None:
        rig = Rig()
        assert rig.look() == frozenset()
        rig.report("b", "c")
        assert rig.look() == {"c"}  # the younger one
        rig.report("c", "b")
        assert rig.look() == {"c"}
        assert rig.lacks.edges == {("b", "c")}
        assert rig.lacks.why("c") == "lacks b"

    def test_what_the_coordinator_lacks_itself_counts_as_well(self) -> None:
        rig = Rig()
        rig.unlink("b", "c", "d")
        wait(rig.state, timing.LACK_S)
        vouch(rig.state, rig.detector, *"bcd")
        assert rig.look() == {"a"}
        assert rig.lacks.why("a") == "lacks b c d"

    def test_only_the_coordinator_has_anybody_removed(self) -> None:
        rig = Rig("b")
        rig.unlink("c")
        wait(rig.state, timing.LACK_S)
        vouch(rig.state, rig.detector, "c")
        rig.report("d", "a")
        assert rig.look() == frozenset()
        assert rig.lacks.edges == {("b", "c")}  # and others' lacks are told to it alone

    @pytest.mark.parametrize(("age_s", "counts"), [(timing.HEARD_S - 0.01, True), (timing.HEARD_S, False)])
    def test_only_what_was_said_of_late_counts(self, age_s: float, counts: bool) -> None:
        rig = Rig()
        rig.report("b", "c")
        wait(rig.state, age_s)
        hear(rig.state, *"bcd")
        assert bool(rig.look()) == counts

    def test_a_report_that_is_late_says_nothing_new(self) -> None:
        rig = Rig()
        rig.state.of("b").stamp_us = 7
        rig.report("b", stamp_us=7)
        rig.report("b", "c", stamp_us=6)
        assert rig.look() == frozenset()
        rig.report("b", "c", stamp_us=7)
        assert rig.look() == {"c"}

    def test_one_to_which_the_link_has_gone_down_is_probed_to_see_whether_it_lives(self) -> None:
        rig = Rig("b")
        rig.unlink("c", "d")
        rig.look()
        assert take_kinds(rig.state) == []
        wait(rig.state, 0.025)
        rig.look()
        assert take_kinds(rig.state) == [("c", "PING"), ("d", "PING")]
        rig.look()
        vouch(rig.state, rig.detector, "c", "d")
        rig.detector._members["c"].probe = None
        rig.look()
        assert take_kinds(rig.state) == []

    def test_strangers_and_whoever_is_not_up_are_lacked_by_nobody(self) -> None:
        rig = Rig()
        rig.report("b", "b", "e", "x", "c")
        rig.detector._members["c"].state = FAILED
        assert rig.look() == frozenset()
        assert rig.lacks.edges == frozenset()

    def test_a_new_view_begins_with_no_reports(self) -> None:
        rig = Rig()
        rig.report("b", "c")
        rig.look()
        rig.lacks.entered()
        assert rig.lacks.going == frozenset()
        assert rig.look() == frozenset()


@pytest.mark.parametrize("round_trip_s", [0.0, 0.2])
def test_a_link_is_given_the_time_that_it_takes_to_come_up(round_trip_s: float) -> None:
    rig = Rig("b")
    rig.state.round_trip_s = round_trip_s
    rig.unlink("c")
    wait(rig.state, max(timing.LACK_S, 3 * round_trip_s) - 0.001)
    vouch(rig.state, rig.detector, "c")
    assert not rig.lacks.is_lacked("c")
    wait(rig.state, 0.002)
    assert rig.lacks.is_lacked("c")
    rig.state.of("c").note_link(is_up=True)
    assert not rig.lacks.is_lacked("c")


class TestWhoGoes:
    def test_nobody_whose_copies_nobody_else_has(self) -> None:
        rig = Rig(replicas=1)
        rig.report("b", "c")
        assert rig.look() == frozenset()
        rig = Rig()
        rig.report("b", "c")
        assert rig.look(a=ALL_SLOTS, b=ALL_SLOTS, d=ALL_SLOTS) == {"b"}  # the others have lost theirs

    def test_not_so_many_that_too_few_are_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "KEEP_TWO_S", 0.0)
        rig = Rig(servers="abcd")
        rig.report("b", "c", "d")
        rig.report("c", "d")
        assert rig.look() == {"c", "d"}
        rig = Rig(servers="abcdefgh")  # of whom four are needed
        rig.report("b", "c")
        assert rig.look() == frozenset()
        for server in "fgh":
            rig.state.note_absent(server, rig.state.now)
        assert rig.look() == {"c"}

    def test_a_slot_keeps_two_copies_until_all_has_shown_that_will(self) -> None:
        rig = Rig(servers="abcd")
        rig.report("b", "c", "d")
        rig.report("c", "d")
        assert rig.look() == frozenset()
        wait(rig.state, timing.KEEP_TWO_S)
        rig.report("b", "c", "d")
        rig.report("c", "d")
        assert rig.look() == {"c", "d"}

    def test_it_is_thought_about_again_only_when_something_has_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It can take long where many lack each other."""
        thought: list[object] = []
        monkeypatch.setattr(lacks, "fewest_to_remove", lambda edges, *_: thought.append(edges) or frozenset("c"))
        rig = Rig()
        rig.report("b", "c")
        for _ in range(3):
            assert rig.look() == {"c"}
        assert thought == [{("b", "c")}]
        rig.report("d", "c")
        rig.look()
        assert len(thought) == 2

    def test_a_quorum_is_left(self) -> None:
        rig = Rig("a", "abc", "abc")
        rig.report("b", "c")
        rig.detector._members["c"].state = FAILED
        assert rig.look() == frozenset()

    def test_it_is_certain_once_it_has_been_the_same_for_a_while(self) -> None:
        rig = Rig()
        rig.report("b", "c")
        rig.look()
        wait(rig.state, SETTLED_S - 0.01)
        assert not rig.lacks.is_certain()
        rig.report("b", "c", "d", "a")
        assert rig.look() == {"b"}
        wait(rig.state, 0.02)
        assert not rig.lacks.is_certain()
        wait(rig.state, SETTLED_S)
        assert rig.lacks.is_certain()
        rig.report("b")
        rig.look()
        assert not rig.lacks.is_certain()

    @pytest.mark.parametrize(
        ("me", "unheard_s", "lacking"),
        [
            ("a", timing.UNHEARD_S, False),
            ("a", timing.UNHEARD_S + 0.01, True),
            ("b", timing.UNHEARD_S + 0.01, True),
        ],
    )
    def test_whoever_is_not_heard_though_up_is_lacked_by_the_coordinator(
        self, me: str, unheard_s: float, lacking: bool
    ) -> None:
        rig = Rig(me)
        wait(rig.state, unheard_s)
        hear(rig.state, "c", "d")
        rig.look()
        assert rig.lacks.edges == set()  # it may be silent
        vouch(rig.state, rig.detector, "b" if me == "a" else "a")
        rig.look()
        assert rig.lacks.edges == ({("a", "b")} if lacking else set())
        rig.lacks.entered()  # a new view gives everybody time
        rig.look()
        assert rig.lacks.edges == set()

    def test_wholes_count_holders_that_are_up_and_have_not_lost_their_copy(self) -> None:
        view = a_view("abc")
        assert wholes(view, "abc", {}) == {frozenset("abc"): 256}
        assert wholes(view, "ab", {}) == {frozenset("ab"): 256}
        assert wholes(view, "abc", {"a": 0b11, "b": 0b1, "c": 0b1}) == {frozenset("abc"): 254, frozenset("bc"): 1}


class TestOutsiders:
    def test_one_with_links_to_all_is_taken_in(self) -> None:
        rig = Rig()
        assert not rig.lacks.admits("e")
        rig.hello()
        assert rig.lacks.admits("e")

    def test_one_that_lacks_a_member_is_not_unless_that_goes_anyway(self) -> None:
        rig = Rig()
        rig.hello("e", "c")
        assert not rig.lacks.admits("e")
        rig.detector._members["c"].state = FAILED
        assert rig.lacks.admits("e")

    def test_nor_one_that_a_member_lacks(self) -> None:
        rig = Rig()
        rig.hello()
        rig.report("b", "e")
        assert not rig.lacks.admits("e")
        rig.report("b")
        assert rig.lacks.admits("e")
        rig.unlink("e")
        assert not rig.lacks.admits("e")

    def test_nor_one_that_does_not_know_who_the_members_are(self) -> None:
        rig = Rig()
        rig.hello(epoch=9)
        assert not rig.lacks.admits("e")

    def test_a_new_process_in_a_members_place_is_taken_in_at_once(self) -> None:
        assert Rig().lacks.admits("c")

    def test_who_stops_asking_is_forgotten(self) -> None:
        rig = Rig()
        assert rig.lacks.note_hello("e", from_peer(rig.state, "e", pb.HELLO))
        assert not rig.lacks.note_hello("e", from_peer(rig.state, "e", pb.HELLO))
        wait(rig.state, timing.HEARD_S - 0.01)
        rig.lacks.forget_outsiders()
        assert rig.lacks.outsiders() == ["e"]
        wait(rig.state, 0.02)
        rig.lacks.forget_outsiders()
        assert rig.lacks.outsiders() == []

    def remove(self, rig: Rig) -> None:
        """d is removed because b lacks it."""
        enter(rig.state, a_view("abcd"))
        hear(rig.state, *"bcd")
        rig.report("b", "d")
        assert rig.look() == {"d"}
        without = next_view(a_view("abcd"), Changes(gone={"d": "lacks b"}), 3, 9)
        assert without is not None
        enter(rig.state, without)
        rig.lacks.entered()

    def waits_s(self, rig: Rig) -> float:
        """How long d is not taken in."""
        began = rig.state.awake_s
        while True:
            rig.hello("d")
            if rig.lacks.admits("d"):
                return rig.state.awake_s - began
            wait(rig.state, 0.125)

    def test_one_that_was_removed_returns_later_each_time(self) -> None:
        rig = Rig()
        waits = []
        for _ in range(8):
            self.remove(rig)
            waits.append(self.waits_s(rig))
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        wait(rig.state, timing.RETURN_FORGOTTEN_S)
        self.remove(rig)
        assert self.waits_s(rig) == 1


class TestLog:
    def test_a_line_when_a_lack_begins_and_one_when_it_ends(self) -> None:
        rig = Rig()
        rig.report("b", "c")
        rig.look()
        (line,) = rig.lines()
        assert line.startswith("no link between b and c")
        rig.look()
        assert rig.lines() == []
        wait(rig.state, 0.5)
        hear(rig.state, *"bcd")
        rig.report("b")
        rig.look()
        assert rig.lines() == ["b and c lack each other no more, after 0.5 s"]

    def test_none_for_its_end_if_one_of_the_two_has_gone(self) -> None:
        rig = Rig()
        rig.report("b", "c")
        rig.unlink("d")
        wait(rig.state, timing.LACK_S)
        rig.look()
        rig.lines()
        without = next_view(a_view("abcd"), Changes(gone={"c": "lacks b", "d": "lacks a"}), 3)
        assert without is not None
        enter(rig.state, without)
        rig.lacks.entered()
        rig.look()
        assert rig.lines() == []

    @pytest.mark.parametrize("is_up", [True, False])
    def test_the_end_of_ones_own_is_told_if_it_is_a_link(self, is_up: bool) -> None:
        """And not if the other one lives no more."""
        rig = Rig()
        rig.unlink("b")
        wait(rig.state, timing.LACK_S)
        vouch(rig.state, rig.detector, "b")
        rig.look()
        assert [line[:28] for line in rig.lines()] == ["no link between a and b, tho"]
        if is_up:
            hear(rig.state, "b")
        else:
            rig.detector._members["b"].state = FAILED
        rig.look()
        assert [line[:34] for line in rig.lines()] == ["a and b lack each other no more, a"] * is_up

    def test_a_new_view_is_no_reason_to_say_it_again(self) -> None:
        rig = Rig()
        for _ in range(2):
            rig.report("b", "c")
            rig.look()
            rig.lacks.entered()
            rig.look()
        assert [line[:28] for line in rig.lines() if "no link" in line] == ["no link between b and c, tho"]

    def test_strangers_are_forgotten(self) -> None:
        rig = Rig()
        rig.report("b", "c")
        rig.report("c", "d")
        rig.look()
        assert set(rig.lacks._said_awake_s) == {("b", "c"), ("c", "d")}
        enter(rig.state, a_view("acd"))
        rig.state.change_servers(("a", "c", "d"))
        rig.state.note_servers()
        rig.lacks.entered()
        assert set(rig.lacks._said_awake_s) == {("c", "d")}

    def test_of_one_that_comes_and_goes_not_more_than_one_in_a_while(self) -> None:
        rig = Rig()
        for _ in range(50):
            rig.report("b", "c")
            rig.look()
            wait(rig.state, 0.1)
            rig.report("b")
            hear(rig.state, *"bcd")
            rig.look()
            wait(rig.state, 0.1)
        assert len(rig.lines()) == 2

    def test_an_outsider_says_whom_it_hears_and_has_no_link_to(self) -> None:
        rig = Rig("e")
        rig.unlink("b", "c")
        wait(rig.state, timing.HEARD_S)
        hear(rig.state, "a", "d")
        rig.state.of("b").heard_at, rig.state.of("b").heard_awake_s = rig.state.now, rig.state.awake_s
        rig.look()
        (line,) = rig.lines()
        assert "b and e" in line

    def test_that_nobody_can_be_removed_is_told_once_that_is_certain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "LACKS_SETTLE_S", 0.25)
        rig = Rig(replicas=1)
        rig.state.awake_s = 1000.0
        rig.report("b", "c")
        rig.look()
        rig.lines()
        wait(rig.state, 0.125)
        rig.look()
        assert rig.lines() == []
        wait(rig.state, 0.125)
        rig.look()
        assert len(rig.lines()) == 1

    def test_now_and_then_one_while_nobody_can_be_removed(self) -> None:
        rig = Rig(replicas=1)
        for tick in range(200):
            rig.report("b", "c")
            hear(rig.state, *"bcd")
            rig.look()
            wait(rig.state, 0.1)
            if tick == 1:
                assert not any("no removal" in line for line in rig.lines())
        lines = [line for line in rig.lines() if "no removal" in line]
        assert lines == ["1 pairs of members lack each other, no removal would help: b and c"] * 2


def test_a_link_that_has_just_gone_down_is_not_lacked_however_long_the_node_has_run() -> None:
    rig = Rig("b")
    wait(rig.state, 100.0)
    rig.unlink("c")
    vouch(rig.state, rig.detector, "c")
    assert rig.lacks.own() == []
    wait(rig.state, timing.LACK_S + 0.001)
    vouch(rig.state, rig.detector, "c")
    assert rig.lacks.own() == ["c"]


@pytest.mark.parametrize(("replicas", "members", "kept"), [(3, 3, 2), (3, 4, 2), (2, 4, 1), (3, 2, 1), (4, 2, 1)])
def test_two_whole_copies_are_kept_where_there_are_to_be_three(replicas: int, members: int, kept: int) -> None:
    state = a_state("a", "abcd", replicas=replicas)
    assert Lacks(state, Detector(state))._copies_to_keep(members) == kept


def test_one_must_do_once_the_first_that_is_lacked_has_been_so_for_long() -> None:
    rig = Rig()
    rig.report("b", "c")
    rig.look()
    wait(rig.state, timing.KEEP_TWO_S - 0.125)
    hear(rig.state, *"bcd")
    rig.report("b", "c", "d")
    rig.look()
    assert rig.lacks._copies_to_keep(4) == 2
    wait(rig.state, 0.125)
    assert rig.lacks._copies_to_keep(4) == 1


def test_who_asks_to_join_is_remembered_in_the_next_view_until_it_is_a_member() -> None:
    rig = Rig()
    rig.hello("e")
    rig.lacks.entered()
    assert rig.lacks.outsiders() == ["e"]
    enter(rig.state, a_view("abcde"))
    rig.lacks.entered()
    enter(rig.state, a_view("abcd"))
    assert rig.lacks.outsiders() == []


def test_while_somebody_is_to_go_nobody_is_stuck() -> None:
    rig = Rig()
    wait(rig.state, 2 * timing.LACK_LINE_S)
    for _ in range(8):
        hear(rig.state, *"bcd")
        rig.report("b", "c")
        rig.look()
        wait(rig.state, SETTLED_S / 4)
    assert rig.lacks.going == {"c"}
    assert not any("no removal" in line for line in rig.lines())
