"""The snapshot of what a node knows."""

import random
from collections.abc import Sequence
from math import inf
from typing import cast

from app.cluster.membership.detector import ALIVE, DEAD, FAILED, SUSPECTED, Detector
from app.cluster.membership.state import ClusterConfig, NodeState
from app.cluster.membership.status import snapshot
from app.cluster.slots import rebalance
from app.cluster.view import Member, View
from app.wire.protocol import SLOT_COUNT

NODES = ("a:1", "b:1", "c:1", "d:1")


class States:
    """The detector's word on each node."""

    def __init__(self, **states: str) -> None:
        self._states = states

    def state_of(self, address: str) -> str:
        return self._states.get(address[0], ALIVE)


def a_state(backups: Sequence[tuple[str, ...]]) -> NodeState:
    homes = rebalance(None, NODES, 3)
    members = tuple(Member(node, 7) for node in NODES)
    primaries = tuple(home[0] for home in homes)
    state = NodeState(ClusterConfig("a:1", NODES), random.Random(1), 7, 0.0)
    state.view = View(1, 2, members, primaries, tuple(backups), homes)
    state.is_member = True
    return state


def test_balanced_is_where_every_slot_has_what_is_wanted_of_it() -> None:
    homes = rebalance(None, NODES, 3)
    full = [home[1:] for home in homes]
    status = snapshot(a_state(full), cast(Detector, States()), 0, inf)
    assert status.balanced
    status = snapshot(a_state([full[0][:1], *[()] * 7, *full[8:]]), cast(Detector, States()), 0, inf)
    assert not status.balanced
    assert sum(member.backup_slots for member in status.members) == 2 * SLOT_COUNT - 15
    assert sum(member.learner_slots for member in status.members) == 15


def test_a_primary_that_is_not_up_is_nobody() -> None:
    state = a_state([()] * SLOT_COUNT)
    state.dead = {"c:1"}
    detector = cast(Detector, States(b=SUSPECTED, d=FAILED))
    status = snapshot(state, detector, 0, inf)
    assert [member.state for member in status.members] == [ALIVE, SUSPECTED, DEAD, FAILED]
    assert state.view is not None
    expected = {"a:1": 0, "b:1": 1, "c:1": -1, "d:1": -1}
    assert status.primaries == tuple(expected[node] for node in state.view.primaries)
