"""Whom to remove so that nobody lacks anybody: laws, against all that could be chosen, and what networks do."""

from collections.abc import Collection
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.membership.connectivity import STEPS_MAX, Edge, fewest_to_remove

NAMES = "abcdefg"


def at_least(count: int):  # type: ignore[no-untyped-def]
    return lambda staying: len(staying) >= count


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Edge], str, dict[frozenset[str], int], int]:
    members = NAMES[: draw(st.integers(2, len(NAMES)))]
    pairs = list(combinations(members, 2))
    lacks = draw(st.lists(st.sampled_from(pairs), max_size=len(pairs), unique=True))
    some = st.frozensets(st.sampled_from(members), min_size=1, max_size=3)
    wholes = draw(st.dictionaries(some, st.integers(1, 100), max_size=5))
    return lacks, members, wholes, draw(st.integers(1, len(members)))


def allowed(
    lacks: list[Edge], members: str, wholes: dict[frozenset[str], int], at_least_members: int
) -> list[frozenset[str]]:
    """All choices that keep every rule."""
    choices = chain.from_iterable(combinations(members, count) for count in range(len(members)))
    return [
        going
        for going in map(frozenset, choices)
        if all(one in going or other in going for one, other in lacks)
        and not any(holders <= going for holders in wholes)
        and len(members) - len(going) >= at_least_members
    ]


@given(graphs())
def test_it_is_the_least_of_all_that_is_allowed(
    graph: tuple[list[Edge], str, dict[frozenset[str], int], int],
) -> None:
    lacks, members, wholes, count = graph
    going = fewest_to_remove(lacks, members, wholes, at_least(count))
    choices = allowed(lacks, members, wholes, count)
    if not lacks or not choices:
        assert going == frozenset()
        return

    def cost(choice: frozenset[str]) -> tuple[object, ...]:
        copies = sum(slots * len(holders & choice) for holders, slots in wholes.items())
        return (len(choice), members[0] in choice, copies, sorted(-members.index(member) for member in choice))

    assert going == min(choices, key=cost)


@given(graphs(), st.randoms())
def test_the_order_in_which_lacks_are_told_does_not_matter(
    graph: tuple[list[Edge], str, dict[frozenset[str], int], int], random: object
) -> None:
    lacks, members, wholes, count = graph
    other = [(b, a) for a, b in lacks] + lacks
    random.shuffle(other)  # type: ignore[attr-defined]
    first = fewest_to_remove(lacks, members, wholes, at_least(count))
    assert fewest_to_remove(other, members, wholes, at_least(count)) == first


@pytest.mark.parametrize(
    ("lacks", "going"),
    [
        ("", ""),
        ("bc", "c"),  # the younger
        ("ab", "b"),  # not the coordinator, where another will do
        ("ab ac ad", "a"),  # but the coordinator, where it takes the fewest
        ("cb cd ce", "c"),
        ("bd be cd ce", "de"),  # two sides that lack each other, one of which has to go: the younger
        ("ab bc cd de", "bd"),
        ("ab ac ad ae bc bd be cd ce de", ""),  # nobody reaches anybody: too few would be left
    ],
)
def test_what_networks_do(lacks: str, going: str) -> None:
    wholes = {frozenset("abc"): 60, frozenset("bcd"): 60, frozenset("cde"): 60, frozenset("dea"): 60}
    edges = [(edge[0], edge[1]) for edge in lacks.split()]
    level = dict.fromkeys(map(frozenset, ("abcde",)), 10)
    assert fewest_to_remove(edges, "abcde", level, at_least(3)) == frozenset(going)
    assert (fewest_to_remove(edges, "abcde", wholes, at_least(3)) == frozenset()) == (not going)


def test_who_holds_a_copy_that_nobody_else_has_stays() -> None:
    assert fewest_to_remove([("a", "c"), ("b", "c")], "abc", {frozenset("c"): 1}, at_least(1)) == {"a", "b"}
    assert fewest_to_remove([("b", "c")], "abc", {frozenset("c"): 1, frozenset("b"): 1}, at_least(1)) == frozenset()
    assert fewest_to_remove([("b", "c")], "abc", {frozenset("c"): 1, frozenset("bc"): 1}, at_least(1)) == {"b"}


def test_of_two_it_takes_the_one_with_fewer_copies() -> None:
    wholes = {frozenset("ab"): 1, frozenset("abc"): 100}
    assert fewest_to_remove([("b", "c")], "abc", wholes, at_least(1)) == {"c"}
    assert fewest_to_remove([("b", "c")], "abcd", {frozenset("ac"): 1, frozenset("abc"): 9}, at_least(1)) == {"b"}


def test_the_work_is_bounded_and_what_it_finds_then_keeps_the_rules() -> None:
    """64 members, each of which lacks many: what is found covers all, though a smaller choice may exist."""
    members = [f"n{place:02}" for place in range(64)]
    lacks = [(members[a], members[b]) for a in range(64) for b in range(a) if (a * 7 + b * 13) % 11 == 0]

    asked = 0

    def may_go_on(staying: Collection[str]) -> bool:
        nonlocal asked
        asked += 1
        return len(staying) >= 8

    going = fewest_to_remove(lacks, members, {}, may_go_on)
    assert going
    assert asked <= 2 * STEPS_MAX
    assert all(one in going or other in going for one, other in lacks)
    assert may_go_on([member for member in members if member not in going])


def test_a_slot_keeps_as_many_whole_copies_as_it_is_to() -> None:
    """Two machines see at different moments that the same third one has no links: the second must not go before there
    are other copies of what it and the third hold."""
    wholes = {frozenset("bd"): 1, frozenset("abc"): 9}
    assert fewest_to_remove([("b", "d")], "abcd", wholes, at_least(2), 2) == frozenset()
    assert fewest_to_remove([("b", "d")], "abcd", wholes, at_least(2), 1) == {"d"}
    assert fewest_to_remove([("b", "d")], "abcd", {frozenset("abd"): 1, frozenset("d"): 0}, at_least(2), 2) == {"b"}
