"""When servers that know of no cluster may found one, and with whom."""

from dataclasses import replace

import pytest

from app.cluster.events import Log
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap, outranks
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import NodeState
from app.cluster.view import Member, View
from tests.cluster.membership.parts import INCARNATIONS, a_state, hear, wait


def a_newcomer(me: str = "a", servers: str = "abc") -> tuple[NodeState, Bootstrap]:
    state = a_state(me, "", servers)
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
    ("me", "newcomers", "absent", "founds"),
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
    me: str, newcomers: str, absent: str, founds: bool
) -> None:
    state, bootstrap = a_newcomer(me)
    meet(state, bootstrap, *newcomers)
    for server in absent:
        state.note_absent(server, state.now)
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


@pytest.mark.parametrize(("servers", "others"), [("abc", "bc"), ("ab", "b")])
def test_it_settles_from_its_start_on(servers: str, others: str) -> None:
    state = a_state("a", "", servers)
    bootstrap = Bootstrap(state)
    meet(state, bootstrap, *others)
    assert not bootstrap.may_found()
    wait(state, timing.SETTLE_S)
    hear(state, *others)
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


def test_who_is_absent_is_gone_until_it_is_heard() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b", "c")
    state.note_absent("b", state.now)
    assert bootstrap.present() == ["a", "c"]
    assert bootstrap.has_quorum({"a", "c"}, ())
    state.note_present("b")
    meet(state, bootstrap, "b")
    assert bootstrap.present() == ["a", "b", "c"]
    assert not bootstrap.has_quorum({"a", "c"}, ())


@pytest.mark.parametrize(("dialled_s", "counts"), [(-0.001, False), (0.0, True)])
def test_who_was_absent_before_the_view_was_proposed_may_be_there(dialled_s: float, counts: bool) -> None:
    state, bootstrap = a_newcomer("a", "ab")
    state.note_absent("b", state.now + dialled_s)
    assert bootstrap.has_quorum({"a"}, ())
    assert bootstrap.has_quorum({"a"}, (), state.now) == counts


@pytest.mark.parametrize(
    ("servers", "here", "answered", "ripe", "is_one"),
    [
        ("abc", "ab", "ab", "ab", True),
        ("abc", "ab", "ab", "a", False),  # b has not run long enough: what it promised before may still count
        ("abc", "a", "a", "a", False),
        ("abc", "abc", "ab", "abc", False),  # c is heard, and must accept
        ("abcd", "ab", "ab", "ab", False),  # half of the file may go on elsewhere
        ("abcd", "abc", "abc", "abc", True),
        ("abcd", "abcd", "abcd", "", True),  # all are newcomers: nobody goes on
    ],
)
def test_a_majority_founds_without_the_silent(servers: str, here: str, answered: str, ripe: str, is_one: bool) -> None:
    state, bootstrap = a_newcomer("a", servers)
    meet(state, bootstrap, *here[1:])
    assert bootstrap.has_quorum(set(answered), set(ripe)) == is_one


@pytest.mark.parametrize(("more_s", "founds"), [(-0.001, False), (0.0, True)])
def test_it_waits_for_them_first_and_says_so(more_s: float, founds: bool) -> None:
    state, bootstrap = a_newcomer()
    wait(state, timing.FOUND_WAIT_S - timing.SETTLE_S + more_s)
    meet(state, bootstrap, "b")
    assert bootstrap.may_found() == founds
    assert bootstrap.wait_s() == pytest.approx(-min(0.0, more_s))


def test_too_few_say_now_and_then_what_they_wait_for() -> None:
    state, bootstrap = a_newcomer("a", "abcd")
    meet(state, bootstrap, "b")
    said = []
    for _ in range(210):  # from SETTLE_S on
        assert not bootstrap.may_found()
        said += [effect.text for effect in state.effects if isinstance(effect, Log)]
        state.effects.clear()
        wait(state, 0.1)
        meet(state, bootstrap, "b")
    assert said == ["no cluster yet: 2 of 4 servers are up, 3 are needed; nothing is heard of c d"] * 2


def test_one_that_joins_says_whom_it_waits_for() -> None:
    state, bootstrap = a_newcomer("a", "abc")
    state.config = replace(state.config, joins=True)
    wait(state, timing.FOUND_WAIT_S)
    meet(state, bootstrap, "b")
    assert not bootstrap.may_found()
    assert [effect.text for effect in state.effects if isinstance(effect, Log)] == [
        "no cluster yet: it asks to join, by the cluster's secret; nothing is heard of c"
    ]


@pytest.mark.parametrize(("less_s", "lines"), [(0.001, 0), (0.0, 1)])
def test_they_say_so_once_they_have_waited_for_that_long(less_s: float, lines: int) -> None:
    state, bootstrap = a_newcomer("a", "abcd")
    state.awake_s = timing.FOUND_WAIT_S - less_s  # it began at 0
    assert not bootstrap.may_found()
    assert len([effect for effect in state.effects if isinstance(effect, Log)]) == lines


def test_a_restart_begins_anew() -> None:
    state, bootstrap = a_newcomer()
    meet(state, bootstrap, "b")
    wait(state, 9.0)
    bootstrap.restart()
    hear(state, "b")  # who does not say any more whether it knows a view
    assert bootstrap.present() == ["a"]
    assert bootstrap.wait_s() == timing.FOUND_WAIT_S


@pytest.mark.parametrize(
    ("members", "is_extinct"),
    [
        ([Member("b", 11)], False),
        ([Member("b", 10)], True),
        ([Member("c", 99)], False),  # its machine has refused, perhaps before it was started
        ([Member("a", 10)], False),  # ourselves
        ([Member("a", 9)], True),
        ([Member("b", 10), Member("a", 10)], False),
    ],
)
def test_a_view_whose_members_are_all_gone_is_nobodys(members: list[Member], is_extinct: bool) -> None:
    state, bootstrap = a_newcomer()
    state.of("b").dead = 10
    state.note_absent("c", state.now)
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


def test_a_member_that_the_other_view_has_a_later_process_of_does_not_count() -> None:
    """b and c were restarted and have founded without a, which still goes by the view before."""
    mine = a_cluster("abc", 1, 7)
    other = first_view([Member("b", 2), Member("c", 2)], 9, 1, 1)
    assert outranks(other, mine)
    assert not outranks(mine, other)


@pytest.mark.parametrize(("epoch", "prevails"), [(3, True), (4, True), (5, False)])
def test_what_an_operator_has_made_of_a_view_prevails_over_it(epoch: int, prevails: bool) -> None:
    forced = replace(a_cluster("a", 9), forced_from=(1, 4), is_forced=True)
    other = a_cluster("abc", 1, epoch)
    assert outranks(forced, other) == prevails
    assert outranks(other, forced) != prevails
