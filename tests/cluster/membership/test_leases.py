"""Support, leader leases, leases and blocked slots, each on its own."""

from math import inf

import pytest

from app.cluster.membership import timing
from app.cluster.membership.leases import USABLE_S, Grantor, Lease
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.view import Member, View
from app.wire.protocol import ALL_SLOTS


def views(count: int) -> tuple[View, View]:
    """A view, and the next one, in which the first slot has moved from "a" to "b"."""
    names = "abcde"[:count]
    before = first_view([Member(name, 1) for name in names], 1, 1)
    after = next_view(before, Changes(), 1)
    assert after is not None
    primaries = ("b", *after.primaries[1:])
    return before, View(1, 2, after.members, primaries, after.backups, after.homes)


def test_what_may_be_used_of_a_promise_is_less_than_its_length() -> None:
    """Whoever benefits stops before whoever promised: by 2 %, as either clock may be 1 % off."""
    assert pytest.approx(0.588, abs=0.0002) == USABLE_S
    assert pytest.approx(timing.SUPPORT_S * 0.99 / 1.01) == USABLE_S


class TestLeaderLease:
    @pytest.mark.parametrize("count", [1, 2])
    def test_whoever_is_a_quorum_alone_has_it_for_ever(self, count: int) -> None:
        """Of two, half with the longest-standing member will do."""
        assert Grantor(views(count)[0], "a").leader_lease_end((), 1) == inf

    def test_it_ends_with_the_support_that_makes_the_quorum(self) -> None:
        grantor = Grantor(views(5)[0], "a")
        assert grantor.leader_lease_end((), 1) == -inf
        grantor.add_support("b", 10.0)
        assert grantor.leader_lease_end((), 1) == -inf
        grantor.add_support("c", 10.2)
        assert grantor.leader_lease_end((), 1) == pytest.approx(10.0 + USABLE_S)
        grantor.add_support("d", 10.1)
        assert grantor.leader_lease_end((), 1) == pytest.approx(10.1 + USABLE_S)

    def test_late_support_takes_nothing_back(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.add_support("b", 10.0)
        grantor.add_support("b", 9.0)
        assert grantor.leader_lease_end((), 1) == pytest.approx(10.0 + USABLE_S)

    @pytest.mark.parametrize(
        ("count", "supporters", "dead", "end"),
        [
            (3, "", "c", -inf),  # a alone is not half of three, and b lives
            (3, "b", "c", 1.0),
            (3, "bc", "c", 2.0),  # the majority's, which ends later than that of all who live
            (3, "", "bc", inf),  # all who live
            (4, "", "d", -inf),
            (4, "b", "d", 1.0),  # half of four with the longest-standing member
            (5, "b", "e", -inf),  # b and a are all there is, and c lives
            (5, "bc", "e", 1.0),
            (5, "bcd", "e", 2.0),
            (5, "b", "cde", 1.0),  # a and b are all who live
            (5, "bc", "cde", 1.0),  # c supports as well, and died: that ends no sooner than b's
            (5, "", "bcde", inf),
        ],
    )
    def test_with_dead_members(self, count: int, supporters: str, dead: str, end: float) -> None:
        """`end`: seconds until which the support must last that makes the quorum; b's ends at 1, c's at 2, d's at 3."""
        grantor = Grantor(views(count)[0], "a")
        for until, node in enumerate(supporters, 1):
            grantor.add_support(node, until - USABLE_S)
        assert grantor.leader_lease_end(dead, 1) == pytest.approx(end)

    @pytest.mark.parametrize(
        ("needed", "dead", "end"),
        [
            (1, "", 1.0),  # a majority of the view's three
            (2, "", 1.0),
            (3, "", -inf),  # of the file's five or six, all three are needed
            (1, "c", 1.0),
            (2, "c", 1.0),
            (1, "bc", inf),  # all who live
            (2, "bc", -inf),  # what b has promised does not make it one of those who are there
        ],
    )
    def test_as_many_as_are_needed_must_be_there(self, needed: int, dead: str, end: float) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.add_support("b", 1.0 - USABLE_S)
        assert grantor.leader_lease_end(dead, needed) == pytest.approx(end)

    def test_others_are_all_members_but_oneself(self) -> None:
        assert Grantor(views(3)[0], "b").others() == ["a", "c"]


class TestGrant:
    @pytest.mark.parametrize(
        ("leader_lease_end", "span"),
        [
            (-inf, 0.0),
            (9.9, 0.0),
            (10.0, 0.0),
            (10.3, 0.3),
            (10.0 + USABLE_S, USABLE_S),
            (11.0, USABLE_S),
            (inf, USABLE_S),
        ],
    )
    def test_a_lease_ends_within_the_leader_lease(self, leader_lease_end: float, span: float) -> None:
        grantor = Grantor(views(3)[0], "a")
        assert grantor.grant("b", leader_lease_end, 10.0) == pytest.approx(span)
        assert grantor.is_lapsed("b", 10.0) == (span == 0)
        assert grantor.waiting == (set() if span else {"b"})

    def test_who_waited_does_not_wait_once_it_is_granted(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.grant("b", -inf, 10.0)
        grantor.grant("b", inf, 10.0)
        assert grantor.waiting == set()

    def test_it_has_lapsed_at_its_end_and_not_before(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.grant("b", 10.3, 10.0)
        assert not grantor.is_lapsed("b", 10.29)
        assert grantor.is_lapsed("b", 10.3)

    def test_a_shorter_lease_does_not_take_back_a_longer_one(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.grant("b", 10.5, 10.0)
        grantor.grant("b", 10.2, 10.1)
        assert not grantor.is_lapsed("b", 10.4)

    def test_who_is_to_be_removed_gets_nothing(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        grantor.denied.add("c")
        assert grantor.grant("c", inf, 10.0) == 0
        assert grantor.is_lapsed("c", 10.0)


class TestBlocked:
    def test_a_moved_slot_waits_for_its_last_primary(self) -> None:
        before, view = views(3)
        previous = Grantor(before, "c")
        previous.granted_until["a"] = 5.5
        grantor = Grantor.succeed(view, "c", before, previous, True, 5.0)
        assert grantor.blocked() == 1
        assert grantor.expire((), 5.4) == 0
        assert grantor.acknowledge("a") == 1
        assert grantor.blocked() == 0

    @pytest.mark.parametrize(("dead", "now"), [({"a"}, 5.0), (set[str](), 5.5)])
    def test_or_for_its_lease_or_death(self, dead: set[str], now: float) -> None:
        before, view = views(3)
        previous = Grantor(before, "c")
        previous.granted_until["a"] = 5.5
        grantor = Grantor.succeed(view, "c", before, previous, True, 5.0)
        assert grantor.expire(dead, now) == 1

    def test_what_waited_in_the_view_before_waits_on(self) -> None:
        """The same coordinator's table: leases, and slots of a view still earlier, are carried over."""
        before, view = views(3)
        previous = Grantor(before, "c")
        previous.granted_until["a"] = 5.5
        previous.may_still_serve["b"] = 1 << 200 | 1 << 201
        own = view.masks["b"] >> 200 & 0b11
        grantor = Grantor.succeed(view, "c", before, previous, True, 5.0)
        assert grantor.granted_until == {"a": 5.5, "b": -inf}
        assert grantor.may_still_serve["b"] >> 200 & 0b11 == 0b11 & ~own
        assert grantor.may_still_serve["b"] & view.masks["b"] == 0

    def test_members_with_nothing_to_give_back_are_not_waited_for(self) -> None:
        before, view = views(3)
        grantor = Grantor.succeed(view, "c", before, Grantor(before, "c"), True, 5.0)
        assert grantor.may_still_serve == {"a": 1}

    def test_where_nothing_moved_nobody_is_waited_for_a_newcomer_least(self) -> None:
        before, _ = views(3)
        view = next_view(before, Changes(joined={"d": 1}), 1)
        assert view is not None
        for previous in (Grantor(before, "a"), None):
            assert Grantor.succeed(view, "a", before, previous, True, 5.0).may_still_serve == {}

    def test_a_slot_that_two_may_still_serve_waits_for_both(self) -> None:
        _, view = views(3)
        grantor = Grantor(view, "c")
        grantor.may_still_serve = {"a": 0b11, "b": 0b10}
        assert grantor.blocked() == 0b11
        assert grantor.acknowledge("a") == 0b01
        assert grantor.acknowledge("a") == 0
        assert grantor.acknowledge("b") == 0b10

    def test_all_that_has_expired_is_released_at_once(self) -> None:
        _, view = views(3)
        grantor = Grantor(view, "c")
        grantor.may_still_serve = {"a": 0b01, "b": 0b10}
        assert grantor.expire((), 1.0) == 0b11

    def test_a_new_coordinator_that_knows_nothing_blocks_all_but_their_own(self) -> None:
        """It takes every lease to run for LAPSE_S from now."""
        _, view = views(3)
        grantor = Grantor.succeed(view, "c", None, None, False, 5.0)
        assert grantor.blocked() == ALL_SLOTS
        assert grantor.granted_until == dict.fromkeys("ab", 5.0 + timing.LAPSE_S)
        grantor.acknowledge("a")
        assert grantor.blocked() == ALL_SLOTS & ~view.masks["b"]
        assert grantor.expire((), 5.0 + timing.LAPSE_S - 0.01) == 0
        assert grantor.expire((), 5.0 + timing.LAPSE_S) == view.masks["a"] | view.masks["c"]

    @pytest.mark.parametrize(
        ("knows_before", "settled", "blocked"),
        [(True, True, 1), (True, False, ALL_SLOTS), (False, True, ALL_SLOTS)],
    )
    def test_a_new_coordinator_blocks_only_what_moved_if_all_were_in_the_view_before(
        self, knows_before: bool, settled: bool, blocked: int
    ) -> None:
        before, view = views(3)
        grantor = Grantor.succeed(view, "c", before if knows_before else None, None, settled, 5.0)
        assert grantor.blocked() == blocked
        assert not grantor.is_lapsed("a", 5.6)

    def test_all_are_in_the_view_once_they_have_said_so_or_are_dead(self) -> None:
        grantor = Grantor(views(3)[0], "b")
        assert not grantor.is_settled(())
        assert not grantor.is_settled({"a"})
        grantor.acknowledge("c")
        assert not grantor.is_settled(())
        assert grantor.is_settled({"a"})
        grantor.acknowledge("a")
        assert grantor.is_settled(())


class TestLease:
    def test_there_is_none_at_first(self) -> None:
        lease = Lease()
        assert (lease.until, lease.blocked, lease.settled) == (-inf, ALL_SLOTS, False)

    def test_it_counts_from_the_question_and_is_cut_by_drift(self) -> None:
        lease = Lease()
        lease.granted(10.0, 0.5, 0, True)
        assert lease.until == pytest.approx(10.0 + 0.5 * timing.SAFE_SHARE)
        lease.granted(9.0, 0.5, 0, True)  # a late grant shortens nothing
        assert lease.until > 10.4

    def test_blocked_slots_only_become_fewer(self) -> None:
        lease = Lease()
        lease.granted(1.0, 0.5, 0b11, False)
        assert not lease.settled
        lease.granted(1.1, 0.5, 0b01, True)
        lease.granted(1.0, 0.5, 0b11, False)
        assert (lease.blocked, lease.settled) == (0b01, True)

    def test_it_carries_on_for_what_stays(self) -> None:
        lease = Lease()
        lease.granted(1.0, 0.5, 0b100, True)
        until = lease.until
        lease.enter(0b110, carries_on=True)
        assert lease.until == until
        assert ~lease.blocked & ALL_SLOTS == 0b010
        assert not lease.settled  # nobody is known to be in the new view

    def test_nothing_is_left_of_it_under_another_coordinator(self) -> None:
        lease = Lease()
        lease.granted(1.0, 0.5, 0b100, True)
        lease.enter(0b110, carries_on=False)
        assert (lease.until, lease.blocked, lease.settled) == (-inf, ALL_SLOTS, False)

    def test_nothing_is_left_of_it_once_it_is_dropped(self) -> None:
        lease = Lease()
        lease.granted(1.0, 0.5, 0, True)
        lease.drop()
        assert (lease.until, lease.blocked, lease.settled) == (-inf, ALL_SLOTS, False)
