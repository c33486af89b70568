"""Where each slot's requests go, as the rest of the node reads it."""

from app.cluster.events import SELF, UNKNOWN
from app.cluster.membership.detector import FAILED, Detector
from app.cluster.membership.routing import Routing
from app.cluster.membership.state import NodeState
from tests.cluster.membership.parts import INCARNATIONS, a_state, a_view, die, enter


def a_routing(me: str = "a", members: str = "abc") -> tuple[NodeState, Routing]:
    state = a_state(me, members, "abcd")
    detector = Detector(state)
    detector.set_members((member, INCARNATIONS[member]) for member in members if member != me)
    return state, Routing(state, detector)


def test_own_slots_are_served_here_and_others_by_their_primaries() -> None:
    state, routing = a_routing()
    routes = routing.routes
    routing.update(0)
    assert state.view is not None
    assert routing.routes is routes  # changed in place
    assert routes == [SELF if node == "a" else node for node in state.view.primaries]
    assert routing.served == state.view.masks["a"]
    assert routing.member_count == 3


def test_blocked_slots_wait() -> None:
    state, routing = a_routing()
    assert state.view is not None
    own = state.view.masks["a"]
    slot = (own & -own).bit_length() - 1
    routing.update(1 << slot)
    assert routing.routes[slot] == UNKNOWN
    assert routing.served == own & ~(1 << slot)
    routing.update(0)
    assert routing.routes[slot] == SELF


def test_slots_of_the_dead_wait_and_the_silent_are_not_counted() -> None:
    state, routing = a_routing()
    routing.update(0)
    die(state, "b")
    routing._detector.died("b", INCARNATIONS["b"])
    routing._detector._members["c"].state = FAILED
    routing.update(0)
    assert state.view is not None
    assert routing.routes == [{"a": SELF, "b": UNKNOWN, "c": "c"}[node] for node in state.view.primaries]
    assert routing.member_count == 1


def test_an_outsider_forwards_by_the_view_that_it_observes() -> None:
    state, routing = a_routing("d")
    routing.update(0)
    assert state.view is not None
    assert routing.routes == list(state.view.primaries)
    assert (routing.served, routing.member_count) == (0, 3)


def test_one_that_has_been_expelled_serves_nothing_though_the_view_names_it() -> None:
    state, routing = a_routing()
    state.is_member = False
    routing.update(0)
    assert state.view is not None
    assert routing.routes == [UNKNOWN if node == "a" else node for node in state.view.primaries]


def test_without_a_view_nobody_serves() -> None:
    state, routing = a_routing()
    routing.update(0)
    state.view, state.is_member = None, False
    routing.update(0)
    assert routing.routes == [UNKNOWN] * 256
    assert (routing.served, routing.member_count) == (0, 1)


def test_another_view_with_the_same_slots_of_ours_changes_the_others_routes() -> None:
    state, routing = a_routing()
    routing.update(0)
    view = a_view("abc", nonce=2)
    swapped = tuple({"a": "a", "b": "c", "c": "b"}[node] for node in view.primaries)
    enter(state, type(view)(7, 2, view.members, swapped, ((),) * 256, view.homes, "", 2))
    routing.update(0)
    assert routing.routes == [SELF if node == "a" else node for node in swapped]


def test_before_the_first_step_nobody_serves() -> None:
    _, routing = a_routing()
    assert (routing.routes, routing.served) == ([UNKNOWN] * 256, 0)


def test_slots_of_all_the_dead_wait() -> None:
    state, routing = a_routing("a", "abcd")
    routing.update(0)
    die(state, "b", "d")
    routing.update(0)
    assert state.view is not None
    assert routing.routes == [{"a": SELF, "c": "c"}.get(node, UNKNOWN) for node in state.view.primaries]


def test_an_outsider_that_hears_no_member_counts_one() -> None:
    state, routing = a_routing("d")
    for member in "abc":
        routing._detector._members[member].state = FAILED
    routing.update(0)
    assert state.view is not None
    assert routing.member_count == 1
