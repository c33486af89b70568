"""Which servers belong, once views list them: what a coordinator makes of orders, and who counts."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster.events import (
    Introduced,
    Left,
    LinkUp,
    Log,
    Order,
    RegisterAnswered,
    ServerOrdered,
    ServersChanged,
    ServersKnown,
    ViewInstalled,
)
from app.cluster.membership import timing
from app.cluster.membership.belonging import Belonging
from app.cluster.membership.detector import Detector
from app.cluster.membership.leases import Grantor
from app.cluster.membership.listening import GUESTS_MAX
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.seat import seat_of
from app.cluster.membership.state import NodeState
from app.cluster.view import FOUNDERS_MAX, MEMBERS_MAX, BadView, View, from_message, to_message
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, a_state, a_view, die, hear, sent_in, wait
from tests.cluster.membership.test_views import Node, of_kind, sent_to

ADD_D = Order("d")


def a_list(members: str = "abc", others: str = "", founders: str = "abc", **fields: object) -> View:
    """A view that lists who belongs."""
    view = replace(a_view(members), epoch=5, founders=tuple(founders), others=tuple(others))
    return replace(view, **fields)  # type: ignore[arg-type]


def name_protocol(state: NodeState) -> None:
    """All of whom the tests speak run a release that does."""
    for node in "abcdefgh":
        state.of(node).names_protocol = True


def following(view: View, **changes: object) -> View:
    made = next_view(view, Changes(**changes), 3)  # type: ignore[arg-type]
    assert made is not None
    return made


class TestViews:
    """What the planner makes of the list."""

    def test_as_long_as_nobody_orders_anything_views_list_nobody(self) -> None:
        view = following(a_view(), joined={"d": 4})
        assert (view.lists_servers, view.founders, view.others, view.untried) == (False, (), (), 0)

    def test_the_first_one_has_the_founders_and_adds_nobody(self) -> None:
        view = following(a_view("ab"), founders=("a", "b", "c"))
        assert (view.founders, view.servers, view.untried) == (("a", "b", "c"), ("a", "b", "c"), 0)
        assert view.cause == "views list the servers"

    def test_a_server_that_is_added_belongs_before_it_is_there_and_when_it_has_gone(self) -> None:
        view = following(a_list(), added="d")
        assert (view.others, view.untried_servers, view.cause) == (("d",), {"d"}, "d is added")
        view = following(view, joined={"d": 5})
        assert (view.addresses, view.others) == (("a", "b", "c", "d"), ())
        view = following(view, gone={"d": "died"})
        assert (view.addresses, view.others, view.untried_servers) == (("a", "b", "c"), ("d",), set())

    def test_those_that_have_not_been_members_stand_last(self) -> None:
        view = following(a_list("abcd", "e", untried=1), gone={"d": "died"}, added="f")
        assert (view.others, view.untried_servers) == (("d", "e", "f"), {"e", "f"})

    def test_one_that_is_removed_and_added_anew_has_not_been_a_member(self) -> None:
        view = following(following(a_list("ab", "c"), removed={"c"}), added="c")
        assert view.untried_servers == {"c"}

    def test_a_member_that_is_removed_is_leaving_first_and_belongs_no_more_once_it_is_none(self) -> None:
        view = following(a_list("abcd"), removed={"d"})
        assert (view.members[3].leaving, view.removed, view.servers) == (True, {"d"}, ("a", "b", "c", "d"))
        assert all("d" not in home for home in view.homes), "others are to have what it holds"
        view = following(view, gone={"d": "left"})
        assert (view.removed, view.servers) == (set(), ("a", "b", "c"))

    def test_one_that_is_removed_and_gone_at_once_belongs_no_more(self) -> None:
        view = following(a_list("abcd"), removed={"d"}, gone={"d": "is removed by force"})
        assert view.servers == ("a", "b", "c")

    def test_one_that_is_no_member_belongs_no_more_at_once(self) -> None:
        assert following(a_list("abc", "de"), removed={"d"}).servers == ("a", "b", "c", "e")

    def test_a_founder_that_is_removed_stays_a_founder(self) -> None:
        view = following(a_list("ab", "cd"), removed={"c"})
        assert (view.founders, view.servers) == (("a", "b", "c"), ("a", "b", "d"))

    def test_it_travels(self) -> None:
        view = following(a_list("abcd", "ef"), removed={"d"})
        assert from_message(to_message(view)) == view

    @pytest.mark.parametrize(
        "fields",
        [
            {"others": ("a",)},
            {"others": ("d", "d")},
            {"founders": ("a", "a")},
            {"founders": (), "others": ("d",)},
            {"others": ("d",), "untried": 2},
            {"others": ("d",), "untried": -1},
            {"founders": ("a b",)},
            {"others": tuple(f"x{n}" for n in range(62))},
            {"founders": tuple(f"x{n}" for n in range(FOUNDERS_MAX + 1))},
        ],
    )
    def test_what_is_no_list(self, fields: dict[str, object]) -> None:
        view = a_list(**fields)
        with pytest.raises(BadView):
            view.check()

    def test_the_most(self) -> None:
        founders = tuple(f"x{n}" for n in range(FOUNDERS_MAX))
        replace(a_list(), founders=founders, others=tuple(f"y{n}" for n in range(61))).check()


class TestWhoCounts:
    """Half of the founders go on."""

    @pytest.mark.parametrize(("founders", "needed"), [("ab", 1), ("abc", 2), ("abcd", 2), ("abcde", 3)])
    def test_half_of_the_founders_however_many_others_there_are(self, founders: str, needed: int) -> None:
        state = a_state("a", "abcdefgh", "ab", view=a_list("abcdefgh", founders=founders))
        assert state.members_needed() == needed
        assert state.counted("abcdefgh") == len(founders)
        assert state.counted("gh") == 0

    def test_an_absent_founder_is_not_left_out(self) -> None:
        """Newcomers of the file that find it absent found without it, and know nothing of others."""
        state = a_state("d", "abcd", "d", view=a_list("abcd"))
        state.note_absent("a", state.now)
        assert state.members_needed() == 2

    def test_who_founded_by_force_goes_on_with_whom_it_has(self) -> None:
        state = a_state("d", "d", view=a_list("d", is_forced=True))
        assert state.counted("d") >= state.members_needed()

    def test_a_leader_lease_needs_half_of_the_founders_and_half_of_the_members(self) -> None:
        grantor = Grantor(a_list("abcdefg"), "a")
        grantor.support_until = {"e": 9.0, "f": 8.0, "g": 7.0}
        assert grantor.leader_lease_end((), 2, "abc") < 0
        grantor.support_until["b"] = 6.0
        assert grantor.leader_lease_end((), 2, "abc") == 6.0
        grantor.support_until = {"b": 9.0, "c": 9.0}
        assert grantor.leader_lease_end((), 2, "abc") < 0, "three of seven"
        grantor.support_until["d"] = 3.0
        assert grantor.leader_lease_end((), 2, "abc") == 3.0

    def test_nor_do_the_dead_back_it(self) -> None:
        grantor = Grantor(a_list("dabc"), "d")
        grantor.support_until = {"a": 9.0, "b": 8.0, "c": 7.0}
        assert grantor.leader_lease_end("a", 2, "abc") == 7.0
        assert grantor.leader_lease_end("ab", 2, "abc") < 0


class TestWhoIsListenedTo:
    def test_a_member_listens_to_those_that_belong_whatever_its_file_says(self) -> None:
        state = a_state("a", "abc", "abcx", view=a_list("abc", "d"))
        assert [name for name in "abcdx" if state.is_stranger(name)] == ["x"]
        assert state.non_members() == ["d"]

    def test_an_outsider_to_those_of_its_file_as_well(self) -> None:
        state = a_state("e", "abc", "abef", view=a_list("abc", "de"))
        assert [name for name in "abcdef" if state.is_stranger(name)] == []

    def test_who_was_removed_hears_of_it(self) -> None:
        node = Node("a", "abc").join(a_list("abc", "d"))
        effects = node.get("b", pb.VIEW, view=a_list("abc", epoch=6), by=a_list("abc", epoch=6))
        assert of_kind(effects, ServersKnown) == []
        assert "d" in node.core._state.servers
        effects = node.tick(timing.GUEST_S + 1.0)
        assert [set(effect.servers) for effect in of_kind(effects, ServersKnown)] == [set("abc")]
        assert "d" not in node.core._state.known

    def test_who_was_removed_and_who_is_a_guest_are_listened_to_and_do_not_belong(self) -> None:
        node = Node("a", "abc").join(a_list("abc", "d"))
        assert [name for name in "abcdx" if node.core.belongs(name)] == list("abcd")
        node.get("b", pb.VIEW, view=a_list("abc", epoch=6), by=a_list("abc", epoch=6))
        node.step(Introduced("x"))
        assert {*"dx"} <= {*node.core._state.servers}
        assert [name for name in "abcdx" if node.core.belongs(name)] == list("abc")

    def test_a_node_counts_itself_wherever_it_is(self) -> None:
        node = Node("d", "abd")
        view = a_list("abc")
        node.get("a", pb.VIEW, view=view, by=view)
        assert node.core.view == view
        assert [name for name in "abcd" if node.core.belongs(name)] == list("abcd")

    def test_without_a_list_those_of_the_file_and_the_members_belong(self) -> None:
        node = Node("a", "ab")
        node.step(Introduced("x"))
        assert [name for name in "abcx" if node.core.belongs(name)] == list("ab")
        node.join(a_view())
        assert [name for name in "abcx" if node.core.belongs(name)] == list("abc")

    def test_the_shell_is_told_before_anything_else_about_a_server(self) -> None:
        node = Node("a", "abc").join()
        view = a_list("abc", "d")
        effects = node.get("b", pb.VIEW, view=view, by=view)
        about_d = [effect for effect in effects if "d" in str(effect)]
        assert isinstance(about_d[0], ServersKnown)
        assert set(about_d[0].servers) == set("abcd")


def a_coordinator(view: View | None = None, servers: str = "abc") -> Node:
    """`a`, which has a lease in the view, all of whose members go by it."""
    node = Node("a", servers, age_s=1.0).join(view or a_view())
    for member in node.core._state.others():
        node.step(LinkUp(member))
    support(node)
    assert node.core.lease_until > node.now
    return node


def support(node: Node, *besides: str) -> list[object]:
    """All members but these support the coordinator."""
    view = node.core.view
    assert view is not None
    effects: list[object] = []
    for member in view.addresses:
        if member not in (node.me, *besides):
            effects += node.get(member, pb.ASK, by=view, supports=True, node_protocol=2, sender=member)
    return effects


def agree(node: Node, seconds: float = 0.6) -> View:
    """Its members promise and accept whatever it proposes, and go by it."""
    view = node.core.view
    assert view is not None
    end = node.now + seconds
    while node.now < end:
        for one in sent_in(node.tick(0.025)):
            answer = {"PREPARE": pb.PROMISE, "ACCEPT": pb.ACCEPTED}.get(one.kind)
            if answer is not None:
                node.get(one.peer, answer, by=node.core.view, ballot=one.message.ballot, node_protocol=2)
        support(node)
    assert node.core.view is not None
    return node.core.view


class TestOrders:
    """What a coordinator does, and what it declines."""

    def test_the_first_one_is_added_in_the_view_after_the_one_that_lists(self) -> None:
        node = a_coordinator()
        assert node.core.objection_to_order(ADD_D) == ""
        installed = of_kind(node.step(ServerOrdered(ADD_D)), ViewInstalled)
        view = agree(node)
        assert (installed, view.founders, view.others, view.untried) == ([], tuple("abc"), ("d",), 1)
        assert view.epoch == 3
        assert node.core.is_done(ADD_D)
        assert node.core._coordinator.belonging.order is None

    def test_only_a_coordinator_with_a_lease_takes_orders(self) -> None:
        assert Node("b", "abc").join().core.objection_to_order(ADD_D) == "this node is not the coordinator"
        node = Node("a", "abc").join()
        assert "has no lease" in node.core.objection_to_order(ADD_D)
        node.step(ServerOrdered(ADD_D))
        assert node.core._coordinator.belonging.order is None

    def test_one_at_a_time(self) -> None:
        node = a_coordinator()
        node.step(ServerOrdered(ADD_D))
        assert node.core.objection_to_order(Order("e")) == "another change is under way (d): one at a time"
        assert node.core.must_wait(Order("e")), "that passes"
        assert (node.core.objection_to_order(ADD_D), node.core.must_wait(ADD_D)) == ("", ""), "the same again"

    def test_one_that_has_begun_holds_up_no_other(self) -> None:
        """Whoever wants a removal says so until the server has handed over and gone; others may go meanwhile."""
        node = a_coordinator(a_list("abcdef"), "abcdef")
        gone = Order("e", removes=True), Order("f", removes=True)
        for order in gone:
            assert node.core.objection_to_order(order) == ""
            node.step(ServerOrdered(order))
            agree(node)
            assert node.core.view is not None
            assert order.server in node.core.view.removed
            node.step(ServerOrdered(gone[0]))
            assert node.core.must_wait(gone[0]) == ""
        assert node.core._coordinator.belonging.order is None
        assert node.core.objection_to_order(Order("g")) == ""

    def test_without_a_lease_one_waits(self) -> None:
        assert "has no lease" in Node("a", "abc").join().core.must_wait(ADD_D)

    def test_a_coordinator_that_is_none_any_more_forgets_it(self) -> None:
        node = a_coordinator()
        node.step(ServerOrdered(ADD_D))
        view = replace(a_view("bac"), epoch=2)
        node.get("b", pb.VIEW, view=view, by=view)
        assert node.core._coordinator.belonging.order is None

    def test_it_rests_on_the_file_by_which_it_was_looked_at(self) -> None:
        """With another one there may be an objection; a view can't list more than so many founders."""
        node = a_coordinator()
        node.step(ServerOrdered(ADD_D))
        node.step(ServersChanged(tuple("abce")))
        assert node.core._coordinator.belonging.order is None, "whoever gave it repeats it"

    def test_so_does_one_that_goes_by_no_view_any_more(self) -> None:
        state = a_state("a", "abc")
        belonging = Belonging(state, Detector(state))
        belonging.order, state.view = ADD_D, None
        belonging.entered(is_coordinator=False)
        assert belonging.order is None

    @pytest.mark.parametrize(("server", "is_there"), [("b", True), ("c", True), ("d", False)])
    def test_without_a_list_those_of_the_file_belong_also_if_they_are_no_members(
        self, server: str, is_there: bool
    ) -> None:
        core = a_coordinator(a_view("ab")).core
        assert core.is_done(Order(server)) == is_there
        assert core.is_done(Order(server, removes=True)) != is_there

    @pytest.mark.parametrize(
        ("view", "servers", "order", "objection"),
        [
            (a_view(), "abc", ADD_D, ""),
            (a_view("ab"), "abc", ADD_D, ""),
            (a_list("ab", "c"), "abc", ADD_D, ""),
            (a_list(is_forced=True), "abc", ADD_D, "was founded by force"),
            (a_list(others=tuple(f"x{n}" for n in range(61))), "abc", ADD_D, "64 servers belong"),
            (a_list("abcd"), "abc", Order("d", removes=True), ""),
            (a_list("abcd"), "abc", Order("c", removes=True), ""),
            (a_list("abd"), "abc", Order("b", removes=True), "of a b c, by which the cluster was founded, 2 must be"),
            (a_list("abd"), "abc", Order("d", removes=True, is_forced=True), ""),
            (a_list("abcd"), "abc", Order("a", removes=True), ""),
            (a_list("abcd"), "abc", Order("a", removes=True, is_forced=True), "it can only hand over"),
            (a_list("ab", founders="ab"), "ab", Order("b", removes=True), ""),
        ],
    )
    def test_what_is_declined(self, view: View, servers: str, order: Order, objection: str) -> None:
        found = a_coordinator(view, servers).core.objection_to_order(order)
        assert found == "" if not objection else objection in found

    def test_a_file_of_one_server_founds_whenever_that_starts(self) -> None:
        node = Node("a", "a")
        objection = node.core.objection_to_order(ADD_D)
        assert "names one server" in objection
        assert "one more at a time" in objection, "two at once are declined, and would found a cluster of their own"

    def test_a_file_of_many_servers(self) -> None:
        state = a_state("a", "a", [f"x{n}" for n in range(FOUNDERS_MAX)] + ["a"])  # type: ignore[arg-type]
        assert f"more than {FOUNDERS_MAX}" in Belonging(state, Detector(state)).objection(ADD_D)

    def test_none_while_a_member_runs_the_last_release(self) -> None:
        node = a_coordinator()
        node.get("c", pb.ASK, by=node.core.view, node_protocol=0)
        assert node.core.objection_to_order(ADD_D).startswith("c may run the last release")
        assert node.core.objection_to_order(Order("c", removes=True)).startswith("c may run the last release")

    def test_who_is_in_a_view_that_lists_them_does_not_run_it(self) -> None:
        """Though it has been silent for as long as this coordinator runs, and is to be removed for that."""
        state = a_state("a", "abcd", view=a_list("abcd"))
        name_protocol(state)
        state.of("d").names_protocol = False
        assert Belonging(state, Detector(state)).objection(Order("d", removes=True, is_forced=True)) == ""

    def test_the_last_holder_that_does_not_answer_is_not_given_up(self) -> None:
        view = a_list("abcd")
        alone = replace(view, primaries=("d", *view.primaries[1:]), backups=((), *view.backups[1:]))
        state = a_state("a", "abcd", view=alone)
        name_protocol(state)
        detector = Detector(state)
        detector.set_members((member.address, member.incarnation) for member in alone.members[1:])
        belonging = Belonging(state, detector)
        assert belonging.objection(Order("d", removes=True)) == "", "it can hand over"
        die(state, "d")
        detector.died("d", INCARNATIONS["d"])
        assert "is the last to hold 1 slots" in belonging.objection(Order("d", removes=True))
        assert belonging.objection(Order("d", removes=True, is_forced=True)) == ""

    def test_a_member_that_is_removed_hands_over_and_ends(self) -> None:
        view = a_list("abc")
        node = Node("b", "abc").join(view)
        leaving = following(view, removed={"b"})
        node.get("a", pb.VIEW, view=leaving, by=leaving)
        assert node.core._state.leaving
        without = following(leaving, gone={"b": "left"})
        effects = node.get("a", pb.VIEW, view=without, by=without)
        assert "Left" in [type(effect).__name__ for effect in effects + node.tick(0.1)]

    def test_so_does_one_that_hears_only_that_it_belongs_no_more(self) -> None:
        node = Node("b", "abc").join(a_list("abc"))
        without = a_list("ac", epoch=9)
        effects = node.get("a", pb.VIEW, view=without, by=without)
        assert "Left" in [type(effect).__name__ for effect in effects + node.tick(0.1)]

    @pytest.mark.parametrize("is_noticed", [True, False])
    def test_one_that_is_restarted_meanwhile_has_that_noticed_before_it_ends(self, is_noticed: bool) -> None:
        """What the process before it held may be waited for; but one that nobody hears does not stay."""
        node = Node("b", "abc")
        node.core._state.incarnation = INCARNATIONS["b"] + 1
        leaving = following(a_list("abc"), removed={"b"})
        node.get("a", pb.VIEW, view=leaving, by=leaving)
        effects = node.tick(timing.FINAL_VIEW_S - 0.1)
        assert sent_to(effects, "HELLO").count("a") > 5
        assert not of_kind(effects, Left)
        if is_noticed:
            without = following(leaving, gone={"b": "was restarted"})
            assert of_kind(node.get("a", pb.VIEW, view=without, by=without), Left)
        else:
            assert of_kind(node.tick(0.2), Left)

    def test_but_not_one_that_meets_another_cluster(self) -> None:
        node = Node("d", "abcd").join(a_view("d"))
        other = a_list("abc", cluster_id=99, epoch=9)
        node.get("a", pb.VIEW, view=other, by=other)
        assert not node.core._state.leaving

    def test_force_waits_for_the_lease_only(self) -> None:
        node = a_coordinator(a_list("abcd"))
        grantor = node.core._coordinator.grantor
        assert grantor is not None
        order = Order("d", removes=True, is_forced=True)
        node.step(ServerOrdered(order))
        belonging = node.core._coordinator.belonging
        belonging.add_to(Changes(), grantor)
        assert "d" in grantor.denied
        grantor.granted_until["d"] = node.now + 0.1
        assert not belonging.is_forced_out("d", grantor)
        grantor.granted_until["d"] = node.now
        assert belonging.is_forced_out("d", grantor)
        assert not belonging.is_forced_out("c", grantor)


class TestWhoIsForgotten:
    """By a coordinator `a` that has been told for how long."""

    VIEW = a_list("ab", "cd", untried=1)

    def belonging(self, forget_after_s: float = 10.0, *, is_coordinator: bool = True) -> tuple[NodeState, Belonging]:
        state = a_state("a", "abc", view=self.VIEW, forget_after_s=forget_after_s)
        belonging = Belonging(state, Detector(state))
        belonging.entered(is_coordinator=is_coordinator)
        return state, belonging

    def forgotten(self, belonging: Belonging) -> set[str]:
        changes = Changes()
        belonging.add_to(changes, Grantor(self.VIEW, "a"))
        return changes.removed

    def test_one_that_has_been_no_member_and_silent_for_so_long_and_no_founder(self) -> None:
        state, belonging = self.belonging()
        wait(state, 9.9)
        assert self.forgotten(belonging) == set()
        wait(state, 0.1)
        assert self.forgotten(belonging) == {"d"}

    def test_not_one_that_has_been_heard(self) -> None:
        state, belonging = self.belonging()
        wait(state, 5.0)
        hear(state, "d")
        wait(state, 9.0)
        assert self.forgotten(belonging) == set()
        wait(state, 1.0)
        assert self.forgotten(belonging) == {"d"}

    def test_nor_while_something_is_ordered(self) -> None:
        state, belonging = self.belonging()
        wait(state, 20.0)
        belonging.order = Order("e")
        assert self.forgotten(belonging) == set()

    def test_nobody_unless_it_is_said(self) -> None:
        state, belonging = self.belonging(inf)
        wait(state, 1e9)
        assert self.forgotten(belonging) == set()

    def test_a_new_coordinator_counts_anew(self) -> None:
        state, belonging = self.belonging(is_coordinator=False)
        wait(state, 20.0)
        belonging.entered(is_coordinator=True)
        assert self.forgotten(belonging) == set()
        wait(state, 9.0)
        belonging.entered(is_coordinator=True)
        wait(state, 1.0)
        assert self.forgotten(belonging) == {"d"}


class TestWhoIsTakenIn:
    """By a coordinator `a`."""

    def belonging(self, view: View) -> tuple[NodeState, Belonging]:
        state = a_state("a", "abc", view=view)
        name_protocol(state)
        belonging = Belonging(state, Detector(state))
        belonging.entered(is_coordinator=True)
        return state, belonging

    def admits(self, view: View, address: str) -> bool:
        return self.belonging(view)[1].admits(address)

    def test_without_a_list_the_file_says_it(self) -> None:
        state, belonging = self.belonging(a_view())
        assert belonging.admits("d")
        state.guests = {"c": 0.0, "d": 0.0}
        assert [name for name in "cd" if belonging.admits(name)] == ["c"]

    def test_nobody_of_the_last_release_while_an_order_is_to_begin_the_list(self) -> None:
        """Or it would be in the first view that lists the servers."""
        state, belonging = self.belonging(a_view())
        state.of("c").names_protocol = False
        assert belonging.admits("c")
        belonging.order = ADD_D
        assert not belonging.admits("c")

    def test_who_is_on_the_list(self) -> None:
        assert self.admits(a_list("abc", "d"), "d")
        assert not self.admits(a_list("abc"), "d")

    def test_nobody_of_the_last_release(self) -> None:
        state, belonging = self.belonging(a_list("abc", "d"))
        state.of("d").names_protocol = False
        assert not belonging.admits("d")

    def test_nobody_in_the_place_of_a_member_that_is_removed(self) -> None:
        assert not self.admits(following(a_list("abcd"), removed={"d"}), "d")

    def test_whoever_has_been_added_when_all_who_have_been_members_know_it(self) -> None:
        view = a_list("ab", "cde", untried=2)
        state, belonging = self.belonging(view)
        state.now += 1
        assert not belonging.admits("d")
        shows = {"b": (view.cluster_id, view.epoch, 1), "c": (view.cluster_id, view.epoch + 3, 1)}
        for node, key in shows.items():
            state.of(node).view_key = key
        assert belonging.admits("d")
        assert belonging.admits("e"), "what d knows does not matter"

    @pytest.mark.parametrize(
        ("what", "knows"),
        [
            ("nothing is known of it", False),
            ("an older view", False),
            ("another cluster's view", False),
            ("no view, before", False),
            ("no view", True),
            ("dead", True),
            ("absent before", False),
            ("absent", True),
        ],
    )
    def test_or_can_not_go_on_without(self, what: str, knows: bool) -> None:
        view = a_list("ab", "cd", untried=1)
        state, belonging = self.belonging(view)
        state.of("b").view_key = view.key
        known = state.of("c")
        known.view_key = (view.cluster_id, view.epoch - 1, 1)
        known.incarnation = 12
        if what == "nothing is known of it":
            known.incarnation = 0
        elif what == "another cluster's view":
            known.view_key = (99, 9, 1)
        elif "no view" in what:
            known.view_key = (0, 0, 0)
            known.heard_at = state.now + (-1 if what.endswith("before") else 1)
        elif what == "dead":
            known.dead = 12
        elif "absent" in what:
            known.absent_at = state.now + (-1 if what.endswith("before") else 1)
        assert belonging.admits("d") == knows
        assert not any("is to wait" in effect.text for effect in state.effects if knows)  # type: ignore[union-attr]

    def test_whom_it_waits_for_is_said(self) -> None:
        state, belonging = self.belonging(a_list("ab", "cd", untried=1))
        belonging.admits("d")
        assert state.effects == [], "they may be about to hear of it"
        wait(state, timing.HEARD_S)
        belonging.admits("d")
        belonging.admits("d")
        (line,) = state.effects
        assert line.text.startswith("d is to wait: b c may not know yet")  # type: ignore[union-attr]

    def test_what_was_known_of_an_earlier_time_on_the_list_does_not_count(self) -> None:
        view = a_list("ab", "cd", untried=1)
        state, belonging = self.belonging(view)
        for node in "bc":
            state.of(node).view_key = view.key
        state.view = replace(view, epoch=view.epoch + 1)
        belonging.entered(is_coordinator=True)
        assert belonging.admits("d")
        state.view = replace(view, epoch=view.epoch + 3)
        belonging.entered(is_coordinator=True)
        assert not belonging.admits("d"), "in between it may have been removed, and added again"


class TestGuests:
    """Who knows the secret, and is in no list."""

    def test_one_that_is_told_to_join_is_added(self) -> None:
        node = a_coordinator()
        node.get("d", pb.HELLO, joins=True)
        assert node.core.status().dropped["stranger"] == 1
        (known,) = of_kind(node.step(Introduced("d")), ServersKnown)
        assert set(known.servers) == set("abcd")
        node.get("d", pb.HELLO)
        assert node.core._coordinator.belonging.order is None, "it was not told to"
        node.get("d", pb.HELLO, joins=True)
        assert node.core._coordinator.belonging.order == ADD_D
        assert agree(node).others == ("d",)
        node.get("d", pb.HELLO, joins=True)
        assert node.core._coordinator.belonging.order is None

    def test_why_not_is_said_now_and_then(self) -> None:
        node = a_coordinator(a_list(is_forced=True))
        node.step(Introduced("d"))
        lines = [effect.text for _ in range(3) for effect in of_kind(node.get("d", pb.HELLO, joins=True), Log)]
        assert len(lines) == 1
        assert lines[0].startswith("d asks to join, and can't: this cluster was founded by force")

    def test_who_is_no_coordinator_only_listens(self) -> None:
        node = Node("b", "abc").join()
        node.step(Introduced("d"))
        effects = node.get("d", pb.HELLO, joins=True)
        assert "d" in sent_to(effects, "ACK", "VIEW"), "so it learns who is the coordinator"
        assert node.core._coordinator.belonging.order is None

    def test_one_that_was_just_removed_is_no_guest(self) -> None:
        node = a_coordinator(a_list("abc", "d"))
        view = a_list("abc", epoch=6)
        node.get("b", pb.VIEW, view=view, by=view)
        support(node)
        node.get("d", pb.HELLO, joins=True)
        assert node.core._coordinator.belonging.order is None

    def test_it_is_listened_to_for_as_long_as_it_says_something(self) -> None:
        node = Node("b", "abc").join()
        node.step(Introduced("d"))
        for _ in range(4):
            node.tick(timing.GUEST_S / 2)
            node.get("d", pb.HELLO)
        assert "d" in node.core._state.servers
        node.tick(timing.GUEST_S + 1)
        assert "d" not in node.core._state.servers

    def test_there_are_not_many(self) -> None:
        node = Node("b", "abc").join()
        for number in range(GUESTS_MAX + 3):
            node.step(Introduced(f"x{number}"))
        assert len(node.core._state.guests) == GUESTS_MAX

    def test_nor_does_a_newcomer_listen_to_all_whom_views_name_one_after_the_other(self) -> None:
        node = Node("a", "ab")
        for number in range(5):
            named = tuple(f"x{number}-{n}" for n in range(60))
            node.get("b", pb.VIEW, view=replace(a_list("de"), others=named, epoch=5 + number))
        assert len(node.core._state.guests) <= MEMBERS_MAX

    def test_a_newcomer_founds_nothing_while_one_goes_by_a_view(self) -> None:
        """All founders were restarted, and others of their cluster live."""
        node = Node("a", "a", age_s=0.0)
        assert node.core.is_member
        node = Node("a", "ab")
        node.step(Introduced("d"))
        node.step(LinkUp("b"))
        for _ in range(40):
            node.get("b", pb.HELLO)
            node.get("d", pb.PING, by=a_list("d", "ab"))
            node.tick(0.1)
        assert node.core.view is None
        view = a_list("d", "ab")
        node.get("d", pb.VIEW, view=view, by=view)
        assert node.core.view == view


def test_who_joins_learns_of_members_that_it_was_not_told_of() -> None:
    node = Node("d", "da", joins=True)
    (known,) = of_kind(node.get("a", pb.VIEW, view=a_view(), by=a_view()), ServersKnown)
    assert set(known.servers) == set("abcd")
    assert all(one.message.joins for one in sent_in(node.tick(0.2)) if one.kind == "HELLO")


@pytest.mark.parametrize(
    ("me", "file", "joins", "is_told"),
    [("d", "dabc", False, True), ("d", "dabc", True, False), ("a", "abc", False, False)],
)
def test_who_is_started_though_the_cluster_does_not_list_it_says_so_once(
    me: str, file: str, joins: bool, is_told: bool
) -> None:
    """A founder that was removed, say. Whoever was told to join is added; whoever is listed comes in."""
    node = Node(me, file, joins=joins)
    effects = []
    for epoch in (5, 6):
        view = a_list("bc", "a", epoch=epoch)
        effects += node.get("b", pb.VIEW, view=view, by=view)
    said = [effect.text for effect in of_kind(effects, Log) if not effect.text.startswith("epoch")]
    expected = "the cluster does not list this server: it is taken in once `kv.py add-server d` is said"
    assert said == [expected] * is_told


def test_who_finds_in_a_register_members_that_its_file_lacks_listens_to_them() -> None:
    """Whoever came first has written the view, and was told to join."""
    node = Node("a", "ab", shared_register=True)
    view = a_view("d")
    seat = seat_of(view, 0, 1, 0, 5).pack()
    effects = node.step(RegisterAnswered(1, False, seat, to_message(view).SerializeToString(), 5))
    assert node.core.view == view
    assert [set(effect.servers) for effect in of_kind(effects, ServersKnown)] == [set("abd")]


def test_a_newcomer_listens_to_those_whom_a_view_names_that_it_is_told_of() -> None:
    """All members may be servers that its file does not name."""
    node = Node("a", "ab")
    view = a_list("de", "abc")
    effects = node.get("b", pb.VIEW, view=view)
    assert node.core.view is None
    assert node.core.status().dropped == {"unproven view": 1}
    (known,) = of_kind(effects, ServersKnown)
    assert set(known.servers) == set("abcde")
    node.get("d", pb.HELLO)
    node.get("d", pb.VIEW, view=view, by=view)
    assert node.core.view == view
    node = Node("a", "ab")
    node.get("b", pb.VIEW, view=view)
    effects = node.tick(timing.GUEST_S + 1.0)
    assert set(of_kind(effects, ServersKnown)[-1].servers) == set("ab"), "nothing more is heard of them"


def test_a_file_that_has_not_changed_is_not_declined_whoever_is_silent() -> None:
    """The founders are enough; and a secret may be read again."""
    node = Node("a", "abc").join(a_list("abcdefgh"))
    for peer in "cdefgh":
        die(node.core._state, peer)
        node.core._detector.died(peer, INCARNATIONS[peer])
    assert node.core.objection_to(["a", "b", "c"]) == ""


def test_a_file_that_has_changed_is_declined() -> None:
    """Newcomers that found a cluster go by it, and half of the founders by what it was."""
    node = Node("a", "abc").join(a_list())
    assert node.core.objection_to(["c", "b", "a"]) == ""
    for changed in ("abcd", "ab"):
        assert "the file goes on naming those that found it, a b c" in node.core.objection_to(list(changed))


def test_who_joins_founds_nothing() -> None:
    node = Node("a", "abc", joins=True)
    for peer in "bc":
        node.step(LinkUp(peer))
    for _ in range(40):
        node.get("b", pb.HELLO)
        node.get("c", pb.HELLO)
        node.tick(0.1)
    assert node.core.view is None


def test_members_say_which_protocol_they_speak() -> None:
    """By that the last release is told apart: it names none."""
    sent = sent_in(Node("a", "ab").tick(0.2))
    assert sent
    assert all(one.message.node_protocol for one in sent)
