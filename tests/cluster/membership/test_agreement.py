"""Quorums, and one decree under random delivery."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cluster.limits import RANKS
from app.cluster.membership.agreement import Acceptor, Phase, Proposal, has_quorum, next_ballot
from app.cluster.membership.planner import first_view
from app.cluster.view import Member, View

NODES = tuple("abcde")


def quorums(count: int) -> list[set[str]]:
    nodes = NODES[:count]
    subsets = [set(some) for size in range(1, count + 1) for some in combinations(nodes, size)]
    return [some for some in subsets if has_quorum(nodes, some, ())]


@pytest.mark.parametrize("count", range(1, 6))
def test_any_two_quorums_have_an_acceptor_in_common(count: int) -> None:
    assert all(one & other for one in quorums(count) for other in quorums(count))


@pytest.mark.parametrize(
    ("nodes", "few", "enough"), [("abc", "b", "bc"), ("abcd", "bc", "bcd"), ("abcde", "bc", "cde")]
)
def test_a_majority_is_enough_whoever_is_in_it(nodes: str, few: str, enough: str) -> None:
    assert (has_quorum(nodes, few, ()), has_quorum(nodes, enough, ())) == (False, True)


def test_an_acceptor_goes_by_the_highest_ballot_that_it_has_answered() -> None:
    acceptor = Acceptor()
    assert acceptor.prepare(2 * RANKS)
    assert not acceptor.accept(RANKS, a_view(1))
    assert acceptor.accept(3 * RANKS, a_view(3))
    assert (acceptor.promised, acceptor.accepted_ballot, acceptor.accepted) == (3 * RANKS, 3 * RANKS, a_view(3))
    assert not acceptor.prepare(2 * RANKS)
    assert acceptor.prepare(3 * RANKS)


def test_a_proposer_takes_up_what_was_accepted_under_the_highest_ballot() -> None:
    proposal = Proposal(9 * RANKS, tuple("abcde"))
    for node, ballot in (("a", 2), ("b", 5), ("c", 3)):
        proposal.promised(node, ballot * RANKS, a_view(ballot))
    proposal.promised("d", 0, None)
    assert (proposal.found, proposal.found_ballot) == (a_view(5), 5 * RANKS)
    assert proposal.has_quorum(())


def test_a_tie_goes_to_the_longest_standing() -> None:
    assert has_quorum("ab", {"a"}, ())
    assert not has_quorum("ab", {"b"}, ())
    assert has_quorum("abcd", {"a", "c"}, ())
    assert not has_quorum("abcd", {"b", "c"}, ())


def test_the_dead_count_in_a_majority_but_not_among_the_survivors() -> None:
    assert not has_quorum("abcde", {"b", "c"}, {"d", "e"})  # a may have agreed with d and e
    assert has_quorum("abcde", {"a", "b", "c"}, {"d", "e"})
    assert has_quorum("abcde", {"b"}, {"a", "c", "d", "e"})
    assert not has_quorum("ab", set(), {"a", "b"})


def test_ballots_rise_and_name_their_proposer() -> None:
    assert next_ballot(0, 3) == RANKS + 3
    assert next_ballot(RANKS + 3, 1) == 2 * RANKS + 1


def test_only_acceptors_count_and_each_answer_in_its_phase() -> None:
    proposal = Proposal(RANKS, tuple("abc"))
    proposal.promised("stranger", 5, a_view(5))
    proposal.accepted("b")
    assert (proposal.answered, proposal.found) == (set(), None)
    proposal.promised("a", 0, None)
    assert proposal.missing() == ["b", "c"]
    proposal.propose(a_view(1))
    proposal.promised("b", 5, a_view(5))
    proposal.accepted("stranger")
    assert (proposal.answered, proposal.found, proposal.value) == (set(), None, a_view(1))
    proposal.accepted("c")
    assert proposal.missing() == ["a", "b"]


def a_view(number: int) -> View:
    return first_view([Member("x", number)], number, 1, number)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 4))
def test_one_value_at_most_is_chosen(seed: int, count: int, proposers: int) -> None:
    """Proposers, retries, loss, reordering: whatever quorum accepts, every later quorum accepts the same."""
    rng = random.Random(seed)
    nodes = NODES[:count]
    acceptors = {node: Acceptor() for node in nodes}
    values = [a_view(index + 1) for index in range(proposers)]
    proposals: dict[int, Proposal] = {}
    rounds = [0] * proposers
    chosen: set[int] = set()
    messages: list[tuple[str, int, str]] = []
    for _ in range(200):
        index = rng.randrange(proposers)
        proposal = proposals.get(index)
        if proposal is None or rng.random() < 0.05:
            rounds[index] = next_ballot(max(rounds), index)
            proposals[index] = proposal = Proposal(rounds[index], nodes)
        node = rng.choice(nodes)
        messages.append((node, index, proposal.phase.name))
        node, index, phase = messages.pop(rng.randrange(len(messages)))
        proposal = proposals[index]
        acceptor = acceptors[node]
        if rng.random() < 0.1 or phase != proposal.phase.name:
            continue
        if proposal.phase is Phase.PREPARE:
            if acceptor.prepare(proposal.ballot):
                proposal.promised(node, acceptor.accepted_ballot, acceptor.accepted)
            if proposal.has_quorum(()):
                proposal.propose(proposal.found or values[index])
        else:
            assert proposal.value is not None
            if acceptor.accept(proposal.ballot, proposal.value):
                proposal.accepted(node)
            if proposal.has_quorum(()):
                chosen.add(proposal.value.nonce)
    assert len(chosen) <= 1


def test_a_lower_ballot_is_refused() -> None:
    acceptor = Acceptor()
    assert acceptor.prepare(10)
    assert acceptor.prepare(10)
    assert not acceptor.prepare(9)
    assert not acceptor.accept(9, a_view(1))
    assert acceptor.accept(10, a_view(1))
    assert acceptor.accepted == a_view(1)
