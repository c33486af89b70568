"""One decree of Paxos for each epoch: which view is the next one.

The acceptors of epoch e+1 are the members of view e (of the first view: the servers of the file). What they
remember is in memory only; a process that ends takes it along, and never comes back under its incarnation.
(Lamport, "Paxos Made Simple", 2001. Raft's log was rejected: views are states, only the latest matters.)

A quorum is one of

- more than half of the acceptors, dead ones counted: any two of these have an acceptor in common;
- exactly half of them, the longest-standing one included: meets the ones above and its like;
- all that are not dead for certain. This meets any other quorum unless that one has died to the last
  member, so survivors go on after any number of certain deaths as long as they reach each other.

Leaving the dead out of "more than half" was rejected: of five, a proposer and two that die right after can
accept one view, and then two of the remaining three another.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from app.cluster.limits import RANKS
from app.cluster.view import View


def has_quorum(acceptors: Sequence[str], answered: Collection[str], dead: Collection[str]) -> bool:
    """Whether those who answered are a quorum of `acceptors` (in order of seniority), given the dead."""
    votes = sum(1 for node in acceptors if node in answered)
    if 2 * votes > len(acceptors):
        return True
    if 2 * votes == len(acceptors) and acceptors[0] in answered:
        return True
    live = [node for node in acceptors if node not in dead]
    return bool(live) and all(node in answered for node in live)


@dataclass(slots=True)
class Acceptor:
    """What one acceptor has promised and accepted in one decree."""

    promised: int = 0
    accepted_ballot: int = 0
    accepted: View | None = None

    def prepare(self, ballot: int) -> bool:
        """Promise to ignore lower ballots; False if a higher one has the promise. Repeating is harmless."""
        if ballot < self.promised:
            return False
        self.promised = ballot
        return True

    def accept(self, ballot: int, view: View) -> bool:
        """Accept the view; False if a higher ballot has the promise."""
        if ballot < self.promised:
            return False
        self.promised = self.accepted_ballot = ballot
        self.accepted = view
        return True


class Phase(Enum):
    PREPARE = auto()
    ACCEPT = auto()


@dataclass(slots=True)
class Proposal:
    """One ballot of one proposer. Feed it the answers; it says when a phase has its quorum.

    After PREPARE the proposer sets the value: `found` if that is not None (it may have been chosen already),
    else what it likes.
    """

    ballot: int
    acceptors: tuple[str, ...]
    phase: Phase = Phase.PREPARE
    answered: set[str] = field(default_factory=set)
    found: View | None = None
    found_ballot: int = 0
    value: View | None = None

    def promised(self, node: str, accepted_ballot: int, accepted: View | None) -> None:
        """A promise for this ballot, with what the acceptor had accepted before."""
        if self.phase is not Phase.PREPARE or node not in self.acceptors:
            return
        self.answered.add(node)
        if accepted is not None and accepted_ballot > self.found_ballot:
            self.found, self.found_ballot = accepted, accepted_ballot

    def propose(self, value: View) -> None:
        """Go on to the second phase with this value."""
        assert self.phase is Phase.PREPARE, self.ballot
        assert self.found is None or value is self.found, self.ballot
        self.phase, self.value = Phase.ACCEPT, value
        self.answered = set()

    def accepted(self, node: str) -> None:
        """The acceptor has accepted the value under this ballot."""
        if self.phase is Phase.ACCEPT and node in self.acceptors:
            self.answered.add(node)

    def missing(self) -> list[str]:
        """Who has not answered in this phase."""
        return [node for node in self.acceptors if node not in self.answered]

    def has_quorum(self, dead: Collection[str]) -> bool:
        """Whether this phase is complete."""
        return has_quorum(self.acceptors, self.answered, dead)


def next_ballot(above: int, rank: int) -> int:
    """The lowest ballot of the proposer of this rank above the given one."""
    assert 0 <= rank < RANKS
    return (above // RANKS + 1) * RANKS + rank
