"""The next view as a function of the present one: limits, and what is said of it. See also test_view.py."""

from collections.abc import Collection

import pytest

from app.cluster.membership.planner import Changes, everybody_leaves, first_view, next_view
from app.cluster.view import MEMBERS_MAX, BadView, Member
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
        (Changes(gone={"c": "left"}, joined={"d": 1}), "c left, d joined"),
    ],
)
def test_a_view_says_why_it_came(changes: Changes, cause: str) -> None:
    after = next_view(a_view("abc"), changes, 3)
    assert after is not None
    assert after.cause == cause
    assert bool(changes) == (cause != "renewed")


@pytest.mark.parametrize(
    ("members_leaving", "asking", "all_leave"),
    [("", "abc", True), ("", "ab", False), ("a", "bc", True), ("a", "b", False), ("abc", "", True)],
)
def test_everybody_leaves_once_nobody_stays(members_leaving: str, asking: Collection[str], all_leave: bool) -> None:
    members = [Member(name, 1, name in members_leaving) for name in "abc"]
    assert everybody_leaves(first_view(members, 7, 1), asking) == all_leave
