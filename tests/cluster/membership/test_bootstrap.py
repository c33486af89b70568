"""When servers that know of no cluster may found one, and with whom."""

import pytest

from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap, outranks
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import NodeState
from app.cluster.view import Member, View
from tests.cluster.membership.parts import INCARNATIONS, a_state, hear, wait


def a_newcomer(me: str = "a", servers: str = "abc", patience_s: float = 5.0) -> tuple[NodeState, Bootstrap]:
    state = a_state(me, "", servers, bootstrap_patience_s=patience_s)
    bootstrap = Bootstrap(state)
    bootstrap.restart()
    wait(state, timing.SETTLE_S)
    return state, bootstrap


def meet(state: NodeState, bootstrap: Bootstrap, *peers: str) -> None:
    """These are newcomers as well, and hear us."""
    for peer in peers:
        state.of(peer).incarnation = INCARNATIONS[peer]
        bootstrap.heard(peer, 0)
    hear(state, *peers)


@pytest.mark.parametrize(
    ("me", "newcomers", "refused", "founds"),
    [
        ("a", "bc", "", True),
        ("a", "b", "", False),  # c is not accounted for
        ("a", "b", "c", True),
        ("a", "", "bc", True),
        ("b", "ac", "", False),  # a does
        ("b", "c", "a", True),
        ("c", "", "ab", True),
    ],
)
def test_the_first_newcomer_founds_once_all_are_accounted_for(
    me: str, newcomers: str, refused: str, founds: bool
) -> None:
    state, bootstrap = a_newcomer(me)
    meet(state, bootstrap, *newcomers)
    for server in refused:
        bootstrap.refused(server)
    assert bootstrap.may_found() == founds
    if founds:
        assert [member.address for member in bootstrap.members()] == [me, *newcomers]
        assert bootstrap.members()[0].incarnation == INCARNATIONS[me]


def test_not_before_it_has_settled_but_for_a_file_of_one() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b", "c")
    state.awake_s -= 0.001
    assert not bootstrap.may_found()
    state, bootstrap = a_newcomer("a", "a")
    state.awake_s -= timing.SETTLE_S
    assert bootstrap.may_found()


def test_nor_before_it_has_settled_after_a_restart() -> None:
    state, bootstrap = a_newcomer()
    wait(state, 8.0)
    bootstrap.restart()
    meet(state, bootstrap, "b", "c")
    wait(state, timing.SETTLE_S - 0.01)
    assert not bootstrap.may_found()
    wait(state, 0.02)
    assert bootstrap.may_found()


def test_whoever_knows_a_view_or_was_not_heard_of_late_is_not_present() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b", "c")
    assert bootstrap.present() == ["a", "b", "c"]
    bootstrap.heard("b", 5)
    assert bootstrap.present() == ["a", "c"]
    wait(state, timing.HEARD_S)
    assert bootstrap.present() == ["a"]
    assert not bootstrap.may_found()
    hear(state, "c", ago_s=timing.HEARD_S - 0.01)
    assert bootstrap.present() == ["a", "c"]


def test_who_was_refused_is_gone_until_it_is_heard() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b", "c")
    bootstrap.refused("b")
    assert bootstrap.present() == ["a", "c"]
    assert bootstrap.has_quorum({"a", "c"})
    meet(state, bootstrap, "b")
    assert bootstrap.present() == ["a", "b", "c"]
    assert not bootstrap.has_quorum({"a", "c"})


@pytest.mark.parametrize(
    ("answered", "awake_s", "is_one"),
    [("ab", 4.99, False), ("ab", 5.0, True), ("bc", 5.0, True), ("a", 5.0, False), ("b", 99.0, False)],
)
def test_past_its_patience_most_of_the_file_will_do(answered: str, awake_s: float, is_one: bool) -> None:
    state, bootstrap = a_newcomer()
    state.awake_s = awake_s
    assert bootstrap.has_quorum(set(answered)) == is_one


def test_a_restart_begins_anew() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b")
    bootstrap.refused("c")
    wait(state, 9.0)
    bootstrap.restart()
    hear(state, "b")  # who does not say any more whether it knows a view
    assert bootstrap.present() == ["a"]
    assert not bootstrap.has_quorum({"a", "b"})


@pytest.mark.parametrize(
    ("members", "is_extinct"),
    [
        ([Member("b", 11)], False),
        ([Member("b", 10)], True),
        ([Member("c", 99)], True),  # refused: whatever was there is gone
        ([Member("a", 10)], False),  # ourselves
        ([Member("a", 9)], True),
        ([Member("b", 10), Member("a", 10)], False),
    ],
)
def test_a_view_whose_members_are_all_gone_is_nobodys(members: list[Member], is_extinct: bool) -> None:
    state, bootstrap = a_newcomer()
    state.of("b").dead = 10
    bootstrap.refused("c")
    assert bootstrap.is_extinct(first_view(members, 7, 1, 1)) == is_extinct


def a_cluster(members: str, cluster_id: int, epoch: int = 1, nonce: int = 1) -> View:
    view = first_view([Member(name, 1) for name in members], cluster_id, 1, nonce)
    return View(cluster_id, epoch, view.members, view.primaries, view.backups, view.homes, "", nonce)


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (a_cluster("abc", 9), a_cluster("de", 1, 99)),  # more members
        (a_cluster("ab", 1), a_cluster("de", 9, 99)),  # then the older founder
        (a_cluster("ab", 1, 2), a_cluster("ab", 1, 1, 9)),  # then the later epoch
        (a_cluster("ab", 1, 2, 5), a_cluster("ab", 1, 2, 4)),
    ],
)
def test_of_two_clusters_that_meet_one_prevails(winner: View, loser: View) -> None:
    assert outranks(winner, loser)
    assert not outranks(loser, winner)
    assert not outranks(winner, winner)


def test_one_that_is_heard_and_has_no_link_is_not_present() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b", "c")
    state.of("c").note_link(is_up=False)
    assert bootstrap.present() == ["a", "b"]
    assert not bootstrap.may_found()
    state.of("c").note_link(is_up=True)
    assert bootstrap.may_found()
