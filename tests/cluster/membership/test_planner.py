"""The next view as a function of the present one: limits, and what is said of it. See also test_view.py."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.membership.planner import Changes, everybody_leaves, first_view, next_view
from app.cluster.view import MEMBERS_MAX, BadView, Member, View
from app.wire.protocol import ALL_SLOTS
from tests.cluster.membership.parts import a_view


def test_a_first_view_keeps_the_rules_of_views() -> None:
    with pytest.raises(BadView):
        first_view([Member("a", 0)], 7, 1)


@pytest.mark.parametrize(("members", "joined"), [(MEMBERS_MAX - 2, 2), (MEMBERS_MAX - 1, 1), (MEMBERS_MAX, 0)])
def test_no_more_join_than_there_is_room_for(members: int, joined: int) -> None:
    view = first_view([Member(f"m{n:02}", 1) for n in range(members)], 7, 1)
    after = next_view(view, Changes(joined={"z": 1, "y": 1}), 1)
    assert after is not None
    assert after.addresses[members:] == ("y", "z")[:joined]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (Changes(), "renewed"),
        (Changes(gone={"b": "died", "c": "is silent"}), "b died, c is silent"),
        (Changes(joined={"e": 1, "d": 1}), "d joined, e joined"),
        (Changes(leaving={"b"}), "b is leaving"),
        (Changes(synced={"b": 1, "a": 1}), "caught up: a b"),
        (Changes(lost={"c": 1, "a": 1}), "lost copies: a c"),
        (Changes(gone={"c": "left"}, joined={"d": 1}), "c left, d joined"),
    ],
)
def test_a_view_says_why_it_came(changes: Changes, cause: str) -> None:
    after = next_view(a_view("abc"), changes, 3)
    assert after is not None
    assert after.cause == cause
    assert bool(changes) == (cause != "renewed")


VIEW = a_view("abc")
SLOT = next(slot for slot in range(256) if VIEW.holders(slot) == ("a", "b", "c"))


class TestLostCopies:
    """Of a slot that a, b and c hold, in this order."""

    def after(self, view: View, *lost: str, **changes: object) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        following = next_view(view, Changes(lost=dict.fromkeys(lost, 1 << SLOT), **changes), 3)  # type: ignore[arg-type]
        assert following is not None
        return following.primaries[SLOT], following.backups[SLOT], following.learners(SLOT)

    def test_a_backup_that_lost_its_copy_is_a_learner_again(self) -> None:
        assert self.after(VIEW, "b") == ("a", ("c",), ("b",))
        assert self.after(VIEW, "b", "c") == ("a", (), ("b", "c"))

    def test_a_primary_that_lost_it_gives_way_to_another_holder(self) -> None:
        assert self.after(VIEW, "a") == ("b", ("c",), ("a",))
        assert self.after(VIEW, "a", "b") == ("c", (), ("a", "b"))

    def test_without_another_holder_it_stays_primary_alone(self) -> None:
        assert self.after(VIEW, "a", "b", "c") == ("a", (), ("b", "c"))
        assert self.after(VIEW, "a", gone={"b": "died", "c": "died"}) == ("a", (), ())

    def test_or_another_that_had_lost_it_if_the_primary_is_gone(self) -> None:
        assert self.after(VIEW, "b", "c", gone={"a": "died"}) == ("b", (), ("c",))

    def test_who_lost_it_is_not_in_sync_whatever_its_primary_says(self) -> None:
        assert self.after(VIEW, "b", synced={"b": ALL_SLOTS}) == ("a", ("c",), ("b",))

    def test_a_learner_in_sync_takes_over_from_a_primary_that_lost_it(self) -> None:
        lone = next_view(VIEW, Changes(lost={"b": ALL_SLOTS, "c": ALL_SLOTS}), 3)
        assert lone is not None
        assert self.after(lone, "a", synced={"c": ALL_SLOTS}) == ("c", (), ("a", "b"))

    def test_other_slots_are_as_they_were(self) -> None:
        following = next_view(VIEW, Changes(lost={"a": 1 << SLOT}), 3)
        assert following is not None
        assert [slot for slot in range(256) if following.holders(slot) != VIEW.holders(slot)] == [SLOT]
        assert following.homes == VIEW.homes


@given(st.data())
def test_whoever_is_listed_as_holder_has_the_whole(data: st.DataObject) -> None:
    """Through any course of losses, deaths, joins and syncs; but where nobody has it, the primary alone is listed."""
    view = a_view("abcd")
    has = {(node, slot) for slot in range(256) for node in view.holders(slot)}
    for _ in range(data.draw(st.integers(1, 6))):
        lost = data.draw(st.dictionaries(st.sampled_from(view.addresses), st.integers(0, ALL_SLOTS), max_size=3))
        gone = data.draw(st.sets(st.sampled_from(view.addresses), max_size=len(view.members) - 1))
        synced: dict[str, int] = {}
        for slot in range(256):
            for node in view.holders(slot):
                if lost.get(node, 0) >> slot & 1:
                    has.discard((node, slot))
            if (view.primaries[slot], slot) in has and data.draw(st.booleans()) if slot < 4 else False:
                for node in view.learners(slot):
                    synced[node] = synced.get(node, 0) | 1 << slot
                    has.add((node, slot))
        following = next_view(view, Changes(gone=dict.fromkeys(gone, "died"), synced=synced, lost=lost), 3)
        assert following is not None
        for slot in range(256):
            holders = following.holders(slot)
            if not all((node, slot) in has for node in holders):
                assert len(holders) == 1
                assert not any((node, slot) in has for node in view.holders(slot) if node not in gone)
                has.add((holders[0], slot))  # it starts empty: that is the whole of what there is
        view = following


@pytest.mark.parametrize(
    ("members_leaving", "asking", "all_leave"),
    [("", "abc", True), ("", "ab", False), ("a", "bc", True), ("a", "b", False), ("abc", "", True)],
)
def test_everybody_leaves_once_nobody_stays(members_leaving: str, asking: Collection[str], all_leave: bool) -> None:
    members = [Member(name, 1, name in members_leaving) for name in "abc"]
    assert everybody_leaves(first_view(members, 7, 1), asking) == all_leave
