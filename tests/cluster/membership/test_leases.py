from math import inf

import pytest

from app.cluster.membership import timing
from app.cluster.membership.detector import suspicion_s
from app.cluster.membership.leases import USABLE_S, Grantor, Lease
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.slots import ALL_SLOTS
from app.cluster.view import Member, View


def views(count: int) -> tuple[View, View]:
    """A view, and the next one, in which the first slot has moved from "a" to "b"."""
    names = "abcde"[:count]
    before = first_view([Member(name, 1) for name in names], 1, 1)
    after = next_view(before, Changes(), 1)
    assert after is not None
    primaries = ("b", *after.primaries[1:])
    return before, View(1, 2, after.members, primaries, after.backups, after.homes)


class TestMandate:
    def test_one_alone_has_it_for_ever(self) -> None:
        assert Grantor(views(1)[0], "a").leader_lease_end(()) == inf
        assert Grantor(views(2)[0], "a").leader_lease_end(()) == inf  # half, with the longest-standing

    def test_it_ends_with_the_word_that_makes_the_quorum(self) -> None:
        grantor = Grantor(views(5)[0], "a")
        assert grantor.leader_lease_end(()) == -inf
        grantor.add_support("b", 10.0)
        assert grantor.leader_lease_end(()) == -inf
        grantor.add_support("c", 10.2)
        assert grantor.leader_lease_end(()) == pytest.approx(10.0 + USABLE_S)
        grantor.add_support("d", 10.1)
        assert grantor.leader_lease_end(()) == pytest.approx(10.1 + USABLE_S)
        grantor.add_support("d", 9.0)  # a late word takes nothing back
        assert grantor.leader_lease_end(()) == pytest.approx(10.1 + USABLE_S)

    def test_a_lease_ends_before_the_mandate_and_is_in_the_books(self) -> None:
        grantor = Grantor(views(3)[0], "a")
        assert grantor.grant("b", -inf, 10.0) == 0
        assert grantor.waiting == {"b"}
        assert grantor.grant("b", 10.3, 10.0) == pytest.approx(0.3)
        assert grantor.waiting == set()
        assert not grantor.is_lapsed("b", 10.29)
        assert grantor.is_lapsed("b", 10.3)
        assert grantor.grant("b", inf, 10.0) == USABLE_S

    def test_the_condemned_get_nothing(self) -> None:
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

    def test_or_for_its_lease_or_death(self) -> None:
        before, view = views(3)
        for dead, now in (({"a"}, 5.0), (set[str](), 5.5)):
            previous = Grantor(before, "c")
            previous.granted_until["a"] = 5.5
            grantor = Grantor.succeed(view, "c", before, previous, True, 5.0)
            assert grantor.expire(dead, now) == 1

    def test_a_new_coordinator_that_knows_nothing_blocks_all_but_their_own(self) -> None:
        before, view = views(3)
        grantor = Grantor.succeed(view, "c", None, None, False, 5.0)
        assert grantor.blocked() == ALL_SLOTS
        grantor.acknowledge("a")
        assert grantor.blocked() == ALL_SLOTS & ~view.masks["b"]
        assert grantor.expire((), 5.0 + timing.LAPSE_S) == grantor.view.masks["a"] | view.masks["c"]
        assert Grantor.succeed(view, "c", before, None, True, 5.0).blocked() == 1


class TestLease:
    def test_it_counts_from_the_question_and_is_cut_by_drift(self) -> None:
        lease = Lease()
        lease.granted(10.0, 0.5, 0, True)
        assert lease.until == pytest.approx(10.0 + 0.5 * timing.SAFE_SHARE)
        lease.granted(9.0, 0.5, 0, True)  # a late grant shortens nothing
        assert lease.until > 10.4

    def test_blocked_slots_only_become_fewer(self) -> None:
        lease = Lease()
        lease.granted(1.0, 0.5, 0b11, False)
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
        lease.enter(0b110, carries_on=False)
        assert (lease.until, lease.blocked) == (-inf, ALL_SLOTS)


@pytest.mark.parametrize(
    ("confirmations", "others", "seconds"),
    [
        (0, 0, timing.SUSPICION_MIN_S),
        (0, 1, timing.SUSPICION_MAX_S),
        (1, 1, timing.SUSPICION_MIN_S),
        (0, 9, timing.SUSPICION_MAX_S),
        (1, 9, 0.275),
        (3, 9, timing.SUSPICION_MIN_S),
        (9, 9, timing.SUSPICION_MIN_S),
    ],
)
def test_suspicion_shortens_with_confirmations(confirmations: int, others: int, seconds: float) -> None:
    assert suspicion_s(confirmations, others) == pytest.approx(seconds)
