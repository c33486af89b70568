"""Whom to remove so that nobody lacks anybody: a pure function of who lacks whom.

Members that lack each other (no link between them) can't copy writes to each other, so each slot that both are to hold
takes no more writes. The way out is to remove members until no two of those that stay lack each other: a vertex cover
of the graph of lacks, as small as can be. Finding the smallest one is hard in general and easy for what networks do:
one bad cable is one edge, one bad machine a star, two switches that lack each other two sides of which one goes.

So: branch and bound. Take the member that lacks most others; either it goes, or all whom it lacks do. Whatever would
take the last whole copy of a slot, or leave too few to go on, is no choice. The work is bounded: past STEPS_MAX the
best that was found counts, and the first that is found is the greedy one. Rejected: greedy choice alone, which finds
nothing where the member that lacks most has to stay.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

STEPS_MAX: Final = 300  # of the search: about 20 ms with 64 members that nearly all lack each other, 0.1 ms as a rule

Edge = tuple[str, str]


def fewest_to_remove(
    lacks: Iterable[Edge],
    members: Sequence[str],
    wholes: Mapping[frozenset[str], int],
    may_go_on: Callable[[Collection[str]], bool],
    least: int = 1,
) -> frozenset[str]:
    """Whom to remove; empty if nobody lacks anybody, or if no removal that is allowed helps.

    `lacks`: pairs of members, in any order. `members`: in order of seniority. `wholes`: how many slots have just
    these members as holders of a whole copy. `may_go_on(members)`: whether those may go on without the others; if
    some may not, fewer of them may not either.

    `least`: of how many whole copies a slot that has so many must keep.

    Of all choices it takes the one with the fewest members; of those the one that leaves the coordinator, the first
    member, in place; then the one that costs the fewest whole copies; then the youngest.
    """
    return _Search(lacks, members, wholes, may_go_on, least).run()


class _Search:
    def __init__(
        self,
        lacks: Iterable[Edge],
        members: Sequence[str],
        wholes: Mapping[frozenset[str], int],
        may_go_on: Callable[[Collection[str]], bool],
        least: int,
    ) -> None:
        self._members = members
        self._place = {member: place for place, member in enumerate(members)}
        self._lacked: dict[str, set[str]] = {}  # by each member that lacks any
        for one, other in lacks:
            assert one != other, one
            self._lacked.setdefault(one, set()).add(other)
            self._lacked.setdefault(other, set()).add(one)
        self._wholes = wholes
        self._copies = dict.fromkeys(members, 0)
        for holders, slots in wholes.items():
            for holder in holders:
                self._copies[holder] += slots
        self._may_go_on = may_go_on
        self._least = least
        self._best: frozenset[str] = frozenset()
        self._best_cost: tuple[object, ...] = ()
        self._steps = 0

    def run(self) -> frozenset[str]:
        self._look(frozenset(), frozenset())
        return self._best

    def _look(self, going: frozenset[str], staying: frozenset[str]) -> None:
        """Try everything that has these going and these staying."""
        self._steps += 1
        if self._steps > STEPS_MAX:
            return
        left = {one: others - going for one, others in self._lacked.items() if one not in going}
        most = max(left, key=lambda one: (len(left[one]), -self._copies[one], self._place[one]), default="")
        if not most or not left[most]:
            cost = self._cost(going)
            if not self._best_cost or cost < self._best_cost:
                self._best, self._best_cost = going, cost
            return
        if most not in staying and self._is_allowed(going | {most}):
            self._look(going | {most}, staying)
        if not left[most] & staying and self._is_allowed(going | left[most]):
            self._look(going | left[most], staying | {most})

    def _is_allowed(self, going: frozenset[str]) -> bool:
        """Whether these may be removed, and may be part of something better than the best so far."""
        if self._best_cost and len(going) > len(self._best):
            return False
        if any(len(holders - going) < min(len(holders), self._least) for holders in self._wholes):
            return False
        return self._may_go_on([member for member in self._members if member not in going])

    def _cost(self, going: frozenset[str]) -> tuple[object, ...]:
        return (
            len(going),
            self._members[0] in going,
            sum(self._copies[member] for member in going),
            sorted(-self._place[member] for member in going),
        )
