"""Proposing and accepting the next view, on its own: who proposes, when, what, and who may help whom."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster import limits
from app.cluster.events import Log
from app.cluster.limits import RANKS, ballots_below
from app.cluster.membership import timing
from app.cluster.membership.agreement import Phase
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.decree import Decree
from app.cluster.membership.detector import ALIVE, FAILED, SUSPECTED, Detector
from app.cluster.membership.leases import Grantor, Lease
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.view import Member, View, from_message, to_message
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import (
    CLUSTER_ID,
    INCARNATIONS,
    NOW,
    Sent,
    a_state,
    a_view,
    die,
    from_peer,
    hear,
    take_kinds,
    take_sent,
    vouch,
    wait,
)

BALLOT = RANKS  # the first of the founder


class Rig:
    """One node's coordinator with what it needs around it. Its turn ends with `run`, as the core has it."""

    def __init__(self, me: str = "a", members: str = "abc", servers: str | None = None, **config: object) -> None:
        self.state = a_state(me, members, servers, **config)
        self.detector = Detector(self.state)
        self.lease = Lease()
        self.bootstrap = Bootstrap(self.state)
        self.installed: list[View] = []
        self.coordinator = Coordinator(self.state, self.detector, self.lease, self.bootstrap, self.installed.append)
        assert isinstance(self.coordinator.register, Decree)
        self.decree = self.coordinator.register
        if self.state.view is not None:
            self.enter(self.state.view)

    def enter(self, view: View) -> None:
        state = self.state
        state.view, state.is_member = view, view.has(state.address, state.incarnation)
        state.installed_at = state.now
        state.note_dead()
        self.detector.set_members(
            (member.address, member.incarnation) for member in view.members if member.address != state.address
        )
        self.grantor = Grantor(view, state.address) if state.is_coordinator else None
        self.coordinator.entered(self.grantor)
        hear(state, *state.others())

    @property
    def view(self) -> View:
        assert self.state.view is not None
        return self.state.view

    @property
    def the_grantor(self) -> Grantor:
        assert self.grantor is not None
        return self.grantor

    def die(self, *peers: str) -> None:
        """These members are dead for certain."""
        die(self.state, *peers)
        for peer in peers:
            self.detector.died(peer, self.state.of(peer).dead)

    def unlink(self, peer: str) -> None:
        """The link to the peer has been down for long."""
        self.state.of(peer).is_linked = False
        self.state.of(peer).unlinked_at = self.state.of(peer).unlinked_awake_s = -10.0

    def hello(self, peer: str, bound_until: float = -inf, **fields: object) -> None:
        """An outsider asks to join; by default it has a link to every member, and goes by our view."""
        self.coordinator.joiners[peer] = bound_until
        self.coordinator.lacks.note_hello(peer, from_peer(self.state, peer, pb.HELLO, **fields))

    def set_state(self, **states: str) -> None:
        """What the detector holds of members."""
        for address, state in states.items():
            self.detector._members[address].state = state

    def run(self, is_tick: bool = True) -> list[Sent]:
        self.coordinator.run(is_tick)
        return take_sent(self.state)

    def promise(self, peer: str, ballot: int = BALLOT, **fields: object) -> list[Sent]:
        self.decree.on_promise(peer, from_peer(self.state, peer, pb.PROMISE, ballot=ballot, **fields))
        return take_sent(self.state)

    def accepted(self, peer: str, ballot: int = BALLOT) -> list[Sent]:
        self.decree.on_accepted(peer, from_peer(self.state, peer, pb.ACCEPTED, ballot=ballot))
        return take_sent(self.state)

    def first_ballot(self, peer: str) -> int:
        """Of a member, or of a newcomer."""
        addresses = self.state.view.addresses if self.state.view else ()
        return RANKS + (addresses.index(peer) if peer in addresses else 0)

    def prepare(self, peer: str, ballot: int = 0, **fields: object) -> Sent:
        ballot = ballot or self.first_ballot(peer)
        self.decree.on_prepare(peer, from_peer(self.state, peer, pb.PREPARE, ballot=ballot, **fields))
        (answer,) = take_sent(self.state)
        return answer

    def accept(self, peer: str, view: View, ballot: int = 0) -> Sent:
        ballot = ballot or self.first_ballot(peer)
        message = from_peer(self.state, peer, pb.ACCEPT, ballot=ballot, view=to_message(view))
        self.decree.on_accept(peer, message)
        (answer,) = take_sent(self.state)
        return answer


def kinds(sent: list[Sent]) -> list[tuple[str, str]]:
    return sorted((one.peer, one.kind) for one in sent)


def following(view: View, **changes: object) -> View:
    """A view that may come next."""
    after = next_view(view, Changes(**changes), 3, nonce=5)  # type: ignore[arg-type]
    assert after is not None
    return after


def join(rig: Rig, peer: str = "d") -> None:
    """A newcomer asks to join, and is fresh."""
    rig.state.of(peer).incarnation = INCARNATIONS[peer]
    hear(rig.state, peer)
    rig.hello(peer)


class TestWhoProposes:
    @pytest.mark.parametrize(
        ("me", "states", "proposes"),
        [
            ("b", {"a": ALIVE}, False),
            ("b", {"a": SUSPECTED}, False),
            ("b", {"a": FAILED}, True),
            ("b", {"a": FAILED, "c": FAILED}, True),
            ("c", {"a": FAILED}, False),  # b does
            ("c", {"a": FAILED, "b": FAILED}, True),
            ("d", {"a": FAILED, "b": FAILED, "c": FAILED}, False),  # fewer than half of the file are left
        ],
    )
    def test_the_first_member_that_is_up(self, me: str, states: dict[str, str], proposes: bool) -> None:
        rig = Rig(me, "abcd")
        rig.set_state(**states)
        assert bool(rig.run()) == proposes

    def test_with_too_few_left_nobody_does_and_it_says_so_now_and_then(self) -> None:
        rig = Rig("b")
        rig.set_state(a=FAILED, c=FAILED)
        said = []
        for _ in range(220):
            rig.coordinator.run(True)
            said += [effect.text for effect in rig.state.effects if isinstance(effect, Log)]
            rig.state.effects.clear()
            wait(rig.state, 0.1)
        assert said == ["too few servers to go on: 1, 2 are needed; not up: a c"] * 3

    def test_of_founders_those_that_are_dead_are_missed_as_well(self) -> None:
        """Once views list who belongs: they count, whatever is proven."""
        rig = Rig("b")
        assert rig.state.view is not None
        rig.state.view = replace(rig.state.view, founders=("a", "b", "c"))
        rig.die("a", "c")
        for peer in "ac":
            rig.state.note_absent(peer, rig.state.now)
        rig.coordinator.run(True)
        said = [effect.text for effect in rig.state.effects if isinstance(effect, Log)]
        assert said == ["too few founders to go on: 1, 2 are needed; not up: a c"]

    def test_on_one_machine_those_proven_absent_are_not_missed(self) -> None:
        rig = Rig("b")
        rig.die("a", "c")
        for peer in "ac":
            rig.state.note_absent(peer, rig.state.now)
        rig.run()
        assert rig.installed[0].addresses == ("b",)

    def test_who_comes_counts_as_well_and_whoever_leaves_by_itself_may(self) -> None:
        rig = Rig("b", "abc", "abcd")
        rig.set_state(a=FAILED, c=FAILED)
        assert rig.run() == []
        join(rig)
        assert rig.run()
        changes = Changes(gone={"a": "left", "c": "is silent"})
        assert rig.coordinator._left(rig.view, changes) == {"a", "b"}

    def test_not_one_that_is_no_member(self) -> None:
        rig = Rig("d", "abc", "abcd")
        assert rig.run() == []

    def test_while_nothing_has_changed_nobody(self) -> None:
        assert Rig("a").run() == []
        assert Rig("b").run() == []

    def test_it_asks_all_who_are_not_dead_with_a_ballot_of_its_own(self) -> None:
        rig = Rig("b", "abcd")
        rig.die("a")
        sent = rig.run()
        assert kinds(sent) == [("c", "PREPARE"), ("d", "PREPARE")]
        assert {one.message.ballot for one in sent} == {RANKS + 1}  # b's place is 1
        assert rig.state.support_withdrawn

    def test_the_coordinator_stays_its_own_supporter(self) -> None:
        rig = Rig()
        join(rig)
        rig.coordinator.renew = True
        assert rig.run()
        assert not rig.state.support_withdrawn

    def test_without_the_quorum_it_goes_on_asking_those_who_have_not_answered(self) -> None:
        rig = Rig("a", "abcde")
        rig.coordinator.renew = True
        assert len(rig.run()) == 4
        assert rig.run() == []
        assert rig.promise("b") == []
        wait(rig.state, timing.PREPARE_RETRY_S)
        assert kinds(rig.run(is_tick=False)) == [("c", "PREPARE"), ("d", "PREPARE"), ("e", "PREPARE")]

    def test_it_gives_up_when_a_senior_is_back(self) -> None:
        rig = Rig("b")
        rig.set_state(a=FAILED)
        rig.run()
        rig.set_state(a=ALIVE)
        wait(rig.state, 1.0)
        assert rig.run() == []
        rig.promise("c", RANKS + 1)
        assert rig.run() == []
        rig.set_state(a=FAILED)
        assert {one.message.ballot for one in rig.run()} == {2 * RANKS + 1}

    def test_it_does_not_give_up_what_may_have_been_chosen(self) -> None:
        """Whoever has begun the second phase goes on with it."""
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.run()
        wait(rig.state, 2.0)
        for peer in "cd":
            rig.promise(peer, RANKS + 1)
        rig.set_state(a=ALIVE)
        wait(rig.state, timing.PREPARE_RETRY_S)
        assert ("c", "ACCEPT") in kinds(rig.run())


class TestWhen:
    def test_joins_are_gathered_for_a_moment(self) -> None:
        rig = Rig()
        join(rig)
        assert rig.run() == []
        wait(rig.state, timing.BATCH_S - 0.001)
        assert rig.run() == []
        wait(rig.state, 0.001)
        assert kinds(rig.run()) == [("b", "PREPARE"), ("c", "PREPARE")]

    def test_the_moment_begins_with_the_first_change(self) -> None:
        rig = Rig()
        join(rig)
        rig.run()
        rig.coordinator.joiners.clear()  # it was not there after all
        wait(rig.state, timing.BATCH_S)
        rig.run()
        join(rig)
        assert rig.run() == []

    def test_news_can_wait_for_the_next_tick(self) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        assert rig.run(is_tick=False) == []
        assert rig.run(is_tick=True)

    def test_a_death_can_not(self) -> None:
        rig = Rig()
        rig.die("b")
        assert kinds(rig.run(is_tick=False)) == [("c", "PREPARE")]

    @pytest.mark.parametrize("cause", ["renew", "withdrawn"])
    def test_who_has_lost_support_renews_the_view_at_once(self, cause: str) -> None:
        rig = Rig()
        rig.coordinator.renew = cause == "renew"
        rig.state.support_withdrawn = cause == "withdrawn"
        assert rig.run()
        assert [one.message.view.epoch for one in rig.promise("b")] == [2, 2]

    def test_after_it_gave_way_it_waits_a_little(self) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        rig.run()
        reject = from_peer(rig.state, "b", pb.REJECT, ballot=BALLOT, accepted_ballot=3 * RANKS + 1)
        rig.decree.on_reject("b", reject)
        assert rig.decree._proposal is None
        assert rig.run() == []
        wait(rig.state, timing.ROUND_BACKOFF_S * 0.2 - 0.001)
        assert rig.run() == []
        wait(rig.state, timing.ROUND_BACKOFF_S)
        assert {one.message.ballot for one in rig.run()} == {4 * RANKS}  # above the other's

    def test_how_long_is_drawn_so_that_two_do_not_meet_again_and_again(self) -> None:
        rig = Rig()
        waits = []
        for _ in range(200):
            rig.decree._give_way(BALLOT)
            waits.append(rig.decree._retry_at - NOW)
        assert timing.ROUND_BACKOFF_S * 0.2 <= min(waits) < max(waits) <= timing.ROUND_BACKOFF_S * 1.0001
        assert len(set(waits)) > 100

    @pytest.mark.parametrize("higher", [0, BALLOT, ballots_below(0.0), limits.BALLOT.most])
    def test_a_reject_that_names_no_higher_ballot_changes_nothing(self, higher: int) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        rig.run()
        rig.decree.on_reject("b", from_peer(rig.state, "b", pb.REJECT, ballot=BALLOT, accepted_ballot=higher))
        assert rig.decree._proposal is not None

    def test_nor_does_one_of_another_ballot(self) -> None:
        rig = Rig()
        rig.decree.on_reject("b", from_peer(rig.state, "b", pb.REJECT, ballot=BALLOT, accepted_ballot=9 * RANKS))
        rig.coordinator.renew = True
        rig.run()
        rig.decree.on_reject("b", from_peer(rig.state, "b", pb.REJECT, ballot=BALLOT - 1, accepted_ballot=9 * RANKS))
        assert rig.decree._proposal is not None


class TestRemovals:
    """`_changes` says whom the next view leaves out, and why."""

    def gone(self, rig: Rig, is_support_over: bool = False) -> dict[str, str]:
        return rig.coordinator._changes(is_support_over).gone

    def test_nobody(self) -> None:
        rig = Rig()
        assert not rig.coordinator._changes(False)

    def test_the_dead_and_those_whose_place_another_process_has_taken(self) -> None:
        rig = Rig()
        rig.die("b", "c")
        rig.state.of("c").incarnation += 1
        assert self.gone(rig) == {"b": "died", "c": "was restarted"}

    @pytest.mark.parametrize(
        ("state", "lapsed", "why"),
        [(ALIVE, True, {}), (SUSPECTED, True, {}), (FAILED, False, {}), (FAILED, True, {"b": "is silent"})],
    )
    def test_the_silent_once_their_lease_is_over(self, state: str, lapsed: bool, why: dict[str, str]) -> None:
        rig = Rig()
        rig.the_grantor.granted_until["b"] = NOW if lapsed else NOW + 0.001
        rig.set_state(b=state)
        assert self.gone(rig) == why

    @pytest.mark.parametrize("is_support_over", [True, False])
    def test_one_that_replaces_a_silent_coordinator_waits_for_the_supports_end(self, is_support_over: bool) -> None:
        rig = Rig("b")
        rig.set_state(a=FAILED)
        assert self.gone(rig, is_support_over) == ({"a": "is silent"} if is_support_over else {})

    @pytest.mark.parametrize(
        ("died_s", "installed_s", "now_s", "is_lapsed"),
        [
            (0.0, -9.0, timing.LAPSE_S - 0.001, False),
            (0.0, -9.0, timing.LAPSE_S, True),
            (-9.0, 0.0, timing.LAPSE_S - 0.001, False),  # what it granted counts from the view's beginning at least
            (-9.0, 0.0, timing.LAPSE_S, True),
        ],
    )
    def test_what_a_dead_coordinator_granted_runs_on_for_a_while(
        self, died_s: float, installed_s: float, now_s: float, is_lapsed: bool
    ) -> None:
        rig = Rig("b", "abcd")
        rig.set_state(c=FAILED)
        rig.state.now = NOW + died_s
        rig.die("a")
        rig.state.installed_at = NOW + installed_s
        rig.state.now = NOW + now_s
        assert self.gone(rig) == {"a": "died"} | ({"c": "is silent"} if is_lapsed else {})

    @pytest.mark.parametrize(
        ("certain_s", "lapsed", "is_removed"),
        [
            (timing.LACKS_SETTLE_S - 0.001, True, False),
            (timing.LACKS_SETTLE_S, False, False),
            (timing.LACKS_SETTLE_S, True, True),
        ],
    )
    def test_who_is_lacked_once_that_is_certain_and_its_lease_is_over(
        self, certain_s: float, lapsed: bool, is_removed: bool
    ) -> None:
        rig = Rig()
        rig.unlink("b")
        rig.coordinator.lacks.look({})
        rig.the_grantor.granted_until["b"] = NOW + certain_s + (0.0 if lapsed else 0.001)
        wait(rig.state, certain_s)
        assert self.gone(rig) == ({"b": "lacks a"} if is_removed else {})

    def test_only_the_coordinator_removes_for_that(self) -> None:
        rig = Rig("b")
        rig.unlink("c")
        rig.coordinator.lacks.look({})
        wait(rig.state, 1.0)
        assert self.gone(rig) == {}

    @pytest.mark.parametrize("is_support_over", [True, False])
    @pytest.mark.parametrize("unheard_s", [timing.UNHEARD_S, timing.UNHEARD_S + 0.001])
    def test_a_coordinator_that_lives_and_is_not_heard_is_removed_like_a_silent_one(
        self, unheard_s: float, is_support_over: bool
    ) -> None:
        rig = Rig("b")
        wait(rig.state, unheard_s)
        assert self.gone(rig, is_support_over) == {}
        vouch(rig.state, rig.detector, "a")
        is_removed = is_support_over and unheard_s > timing.UNHEARD_S
        assert self.gone(rig, is_support_over) == ({"a": "is not heard by most"} if is_removed else {})

    def test_those_who_leave_once_they_have_handed_over_and_know_the_view(self) -> None:
        rig = Rig("a", "abcd")
        rig.coordinator.leavers.add("b")
        changes = rig.coordinator._changes(False)
        assert (changes.gone, changes.leaving) == ({}, {"b"})
        leaving = following(rig.view, leaving={"b"})
        synced = {"a": ALL_SLOTS, "c": ALL_SLOTS, "d": ALL_SLOTS}
        rig.enter(leaving)
        changes = rig.coordinator._changes(False)
        assert (changes.gone, changes.leaving) == ({}, set())
        rig.enter(following(leaving, synced=synced))
        assert self.gone(rig) == {}  # it has not said that it goes by the view in which it holds nothing
        rig.the_grantor.acknowledge("b")
        assert self.gone(rig) == {"b": "left"}

    def test_a_coordinator_that_leaves_goes_when_it_holds_nothing(self) -> None:
        rig = Rig("a", "abcd")
        rig.state.leaving = True
        assert rig.coordinator._changes(False).leaving == {"a"}
        leaving = following(rig.view, leaving={"a"})
        rig.enter(leaving)
        assert self.gone(rig) == {}
        rig.enter(following(leaving, synced=dict.fromkeys("bcd", ALL_SLOTS)))
        assert self.gone(rig) == {"a": "left"}

    def test_one_alone_stays_what_it_is(self) -> None:
        rig = Rig("a", "a")
        rig.state.leaving = True
        assert self.gone(rig) == {}

    def test_of_two_the_coordinator_goes_like_anybody(self) -> None:
        rig = Rig("a", "ab")
        rig.state.leaving = True
        leaving = following(rig.view, leaving={"a"})
        rig.enter(following(leaving, synced={"b": ALL_SLOTS}))
        assert self.gone(rig) == {"a": "left"}

    def test_when_both_of_two_leave_neither_waits_for_the_other(self) -> None:
        rig = Rig("a", "ab")
        rig.state.leaving = True
        rig.coordinator.leavers.add("b")
        rig.run()
        assert rig.the_grantor.denied == {"b"}

    def test_when_all_leave_each_goes_when_its_lease_is_over(self) -> None:
        rig = Rig("a", "abc")
        rig.state.leaving = True
        rig.coordinator.leavers.add("b")
        rig.run()
        assert rig.the_grantor.denied == set()  # c stays
        rig.decree._proposal = None
        rig.coordinator.leavers.add("c")
        rig.the_grantor.granted_until["b"] = NOW + 1.0
        rig.run()
        assert rig.the_grantor.denied == {"b", "c"}
        assert self.gone(rig) == {"c": "left"}
        wait(rig.state, 1.0)
        assert self.gone(rig) == {"b": "left", "c": "left"}

    def test_who_goes_by_itself_is_no_reason_for_haste(self) -> None:
        rig = Rig("a", "abc")
        rig.coordinator.leavers.add("b")
        assert rig.run() == []
        wait(rig.state, timing.BATCH_S)
        assert rig.run()


class TestJoins:
    @pytest.mark.parametrize(
        ("ago_s", "incarnation", "dead", "joins"),
        [
            (0.0, 13, 0, True),
            (timing.HEARD_S, 13, 0, False),  # it may be gone again
            (timing.HEARD_S - 0.01, 13, 0, True),
            (0.0, 0, 0, False),  # nothing is known of it
            (0.0, 1, 0, True),
            (0.0, 13, 13, False),
            (0.0, 13, 12, True),
        ],
    )
    def test_a_newcomer_that_was_heard_just_now(self, ago_s: float, incarnation: int, dead: int, joins: bool) -> None:
        rig = Rig()
        wait(rig.state, 5.0)
        hear(rig.state, "b", "c")
        hear(rig.state, "d", ago_s=ago_s)
        rig.state.of("d").incarnation, rig.state.of("d").dead = incarnation, dead
        rig.hello("d")
        assert rig.coordinator._changes(False).joined == ({"d": incarnation} if joins else {})

    @pytest.mark.parametrize(
        ("supporters", "late", "lease_s", "joined"),
        [
            ("bc", "", 1.0, "defgh"),
            ("bc", "d", 1.0, "defgh"),
            ("bc", "defgh", 1.0, "def"),  # of six members three: this node, b and c
            ("b", "defgh", 1.0, "d"),
            ("", "defgh", 1.0, ""),
            ("", "fgh", 1.0, "def"),  # d and e support it at once
            ("", "defgh", 0.0, "defgh"),  # it serves nothing that could end
        ],
    )
    def test_no_more_at_once_than_leave_the_coordinator_its_support(
        self, supporters: str, late: str, lease_s: float, joined: str
    ) -> None:
        rig = Rig("a", "abc", servers="abcdefgh")
        rig.lease.until = rig.state.now + lease_s
        for node in supporters:
            rig.the_grantor.add_support(node, rig.state.now)
        for node in "defgh":
            join(rig, node)
            rig.coordinator.joiners[node] = rig.state.now + 0.1 if node in late else rig.state.now
        assert "".join(sorted(rig.coordinator._changes(False).joined)) == joined
        wait(rig.state, 0.1)
        hear(rig.state, *"defgh")
        assert "".join(sorted(rig.coordinator._changes(False).joined)) == "defgh"

    def test_a_member_joins_only_as_a_new_process(self) -> None:
        rig = Rig()
        rig.coordinator.joiners.update(a=-inf, b=-inf)
        hear(rig.state, "a", "b")
        rig.state.of("a").incarnation = 99  # whoever says so, it is not we
        assert rig.coordinator._changes(False).joined == {}
        rig.state.of("b").incarnation = 12
        assert rig.coordinator._changes(False).joined == {"b": 12}

    def test_who_has_joined_is_no_joiner_any_more(self) -> None:
        rig = Rig()
        join(rig)
        join(rig, "e")
        rig.state.of("e").incarnation = 1
        rig.enter(following(rig.view, joined={"d": INCARNATIONS["d"]}))
        assert rig.coordinator.joiners.keys() == {"e"}

    def test_learners_in_sync_count_as_long_as_they_are_members(self) -> None:
        rig = Rig()
        rig.coordinator.synced = {"b": 0b1, "c": 0b10, "x": 0b100}
        rig.die("c")
        assert rig.coordinator._changes(False).synced == {"b": 0b1}

    def test_a_new_view_begins_with_a_clean_slate(self) -> None:
        rig = Rig()
        rig.coordinator.synced = {"b": 1}
        rig.coordinator.leavers = {"b"}
        join(rig)
        rig.run()  # the newcomer is given a moment
        rig.coordinator.renew = True
        rig.decree._retry_at = NOW + 9.0
        rig.decree._acceptor.accept(9 * RANKS, following(rig.view))
        rig.enter(following(rig.view))
        assert (rig.coordinator.synced, rig.coordinator.leavers, rig.coordinator.renew) == ({}, set(), False)
        wait(rig.state, timing.BATCH_S)
        hear(rig.state, "d")
        assert rig.run() == []  # and another one, in this view
        rig.coordinator.renew = True
        assert {one.message.ballot for one in rig.run()} == {BALLOT}  # ballots start again


class TestAgreement:
    def test_a_round_ends_with_the_view_installed_and_told_to_all(self) -> None:
        rig = Rig()
        join(rig)
        rig.run()
        wait(rig.state, timing.BATCH_S)
        rig.run()
        accepts = rig.promise("b")
        assert kinds(accepts) == [("b", "ACCEPT"), ("c", "ACCEPT")]
        proposed = from_message(accepts[0].message.view)
        assert (proposed.epoch, proposed.addresses) == (2, ("a", "b", "c", "d"))
        assert proposed.nonce >= 1 << 32
        assert rig.accepted("b") == []  # c seems up and is given a moment
        assert kinds(rig.accepted("c")) == [("b", "VIEW"), ("c", "VIEW"), ("d", "VIEW")]
        assert rig.installed == [proposed]

    def test_whoever_is_a_quorum_alone_needs_no_answer(self) -> None:
        rig = Rig("a", "a")
        rig.coordinator.renew = True
        rig.run()
        assert [view.epoch for view in rig.installed] == [2]

    def test_a_proposer_is_an_acceptor_like_the_others(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.run()
        answer = rig.prepare("a", RANKS)
        assert (answer.kind, answer.message.accepted_ballot) == ("REJECT", RANKS + 1)
        rig.promise("c", RANKS + 1)
        sent = rig.promise("d", RANKS + 1)
        assert rig.decree._acceptor.accepted == from_message(sent[0].message.view)
        assert rig.decree._acceptor.accepted_ballot == RANKS + 1

    def test_the_moment_for_those_that_seem_up_is_each_proposals_own(self) -> None:
        rig = Rig()
        rig.decree._complete_at = NOW - 9.0  # of an earlier one
        rig.coordinator.renew = True
        rig.run()
        rig.promise("b")
        rig.accepted("b")
        assert rig.installed == []

    def test_for_one_that_seems_up_it_waits_only_so_long(self) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        rig.run()
        rig.promise("b")
        rig.accepted("b")
        wait(rig.state, timing.ACCEPT_GRACE_S - 0.001)
        rig.run()
        assert rig.installed == []
        wait(rig.state, 0.001)
        rig.run()
        assert len(rig.installed) == 1

    def test_for_one_that_is_not_up_it_does_not_wait(self) -> None:
        rig = Rig()
        rig.set_state(c=FAILED)
        rig.the_grantor.granted_until["c"] = NOW + 1
        rig.coordinator.renew = True
        rig.run()
        rig.promise("b")
        rig.accepted("b")
        assert len(rig.installed) == 1

    def test_what_was_accepted_before_is_proposed_again(self) -> None:
        rig = Rig("b", "abcde")
        rig.die("a")
        rig.run()
        earlier = following(rig.view, joined={"f": INCARNATIONS["f"]})
        later = following(rig.view, joined={"g": INCARNATIONS["g"]})
        rig.promise("c", RANKS + 1, accepted_ballot=5, view=to_message(later))
        sent = rig.promise("d", RANKS + 1, accepted_ballot=4, view=to_message(earlier))
        assert {from_message(one.message.view) for one in sent} == {later}

    def test_what_we_accepted_ourselves_counts_as_well(self) -> None:
        rig = Rig("b", "abcde")
        mine = following(rig.view, joined={"f": INCARNATIONS["f"]})
        assert rig.accept("a", mine, RANKS).kind == "ACCEPTED"
        rig.die("a")
        assert {one.message.ballot for one in rig.run()} == {2 * RANKS + 1}
        rig.promise("c", 2 * RANKS + 1)
        sent = rig.promise("d", 2 * RANKS + 1)
        assert {from_message(one.message.view) for one in sent} == {mine}

    def test_who_is_removed_gets_no_more_leases_whatever_becomes_of_it(self) -> None:
        rig = Rig("a", "abcd")
        rig.die("d")
        rig.run()
        assert rig.the_grantor.denied == set()
        rig.promise("b")
        assert rig.the_grantor.denied == {"d"}

    @pytest.mark.parametrize("fields", [{"epoch": 2}, {"ballot": BALLOT + 1}])
    def test_answers_to_something_else_do_not_count(self, fields: dict[str, int]) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        rig.run()
        rig.decree.on_promise("b", from_peer(rig.state, "b", pb.PROMISE, **({"ballot": BALLOT} | fields)))
        assert take_sent(rig.state) == []
        assert rig.promise("b")
        rig.decree.on_accepted("c", from_peer(rig.state, "c", pb.ACCEPTED, **({"ballot": BALLOT} | fields)))
        assert rig.decree._proposal is not None
        assert rig.decree._proposal.answered == {"a"}

    def test_a_malformed_view_in_a_promise_makes_it_none(self) -> None:
        rig = Rig()
        rig.coordinator.renew = True
        rig.run()
        assert rig.promise("b", accepted_ballot=5, view=pb.View(epoch=2)) == []
        assert rig.state.dropped == {"bad view": 1}

    def test_who_has_promised_another_gives_way(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        wait(rig.state, 1.0)
        rig.run()
        assert rig.prepare("c", 5 * RANKS + 2).kind == "PROMISE"
        wait(rig.state, timing.PREPARE_RETRY_S)
        assert rig.run() == []
        assert rig.decree._proposal is None
        wait(rig.state, 1.0)
        assert {one.message.ballot for one in rig.run()} == {6 * RANKS + 1}

    def test_nothing_is_proposed_if_too_few_are_left_by_the_time_the_quorum_has_promised(self) -> None:
        rig = Rig()
        rig.die("c")
        assert kinds(rig.run()) == [("b", "PREPARE")]
        rig.die("b")
        assert rig.run() == []
        assert rig.installed == []

    @pytest.mark.parametrize(("servers", "is_forced"), [("abcd", False), ("abcde", True)])
    def test_a_view_is_not_forced_any_more_once_it_has_half_of_the_servers(self, servers: str, is_forced: bool) -> None:
        rig = Rig("a", "a", servers)
        rig.enter(replace(rig.view, is_forced=True))
        join(rig, "b")
        wait(rig.state, timing.BATCH_S)
        rig.run()
        wait(rig.state, timing.BATCH_S)
        hear(rig.state, "b")
        rig.run()
        (view,) = rig.installed
        assert (view.addresses, view.is_forced) == (("a", "b"), is_forced)


class TestSteppingBack:
    """A coordinator that is to go because others lack it."""

    def lacked(self) -> Rig:
        """a lacks b, c and d, of five; e has a link to everybody."""
        rig = Rig("a", "abcde")
        for peer in "bcd":
            rig.unlink(peer)
        rig.lease.until = NOW + 1.0
        rig.run()
        return rig

    def test_it_serves_no_more_and_proposes_a_view_without_itself(self) -> None:
        rig = self.lacked()
        assert rig.coordinator.lacks.going == {"a"}
        assert rig.lease.until == NOW + 1.0
        wait(rig.state, timing.LACKS_SETTLE_S)
        assert kinds(rig.run()) == [(peer, "PREPARE") for peer in "bcde"]
        assert rig.lease.until == -inf
        rig.promise("e")
        (accept, *_) = rig.promise("d")
        proposed = from_message(accept.message.view)
        assert (proposed.addresses, proposed.cause) == (("b", "c", "d", "e"), "a lacks b c d")

    def test_if_it_is_not_lacked_after_all_a_new_view_lets_it_serve_again(self) -> None:
        rig = self.lacked()
        wait(rig.state, timing.LACKS_SETTLE_S)
        rig.run()
        hear(rig.state, *"bcde")
        rig.run()
        rig.promise("b")
        (accept, *_) = rig.promise("c")
        assert from_message(accept.message.view).addresses == ("a", "b", "c", "d", "e")

    def test_it_waits_for_the_leases_of_others_that_are_to_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "KEEP_TWO_S", 0.0)
        rig = Rig("a", "abcdefgh")
        for peer in "bc":
            rig.unlink(peer)
        rig.coordinator.lacks.note_report("d", from_peer(rig.state, "d", pb.ASK, lacks=["e", "f", "g"]))
        rig.the_grantor.granted_until["d"] = NOW + 0.5
        rig.lease.until = NOW + 1.0
        rig.run()
        assert rig.coordinator.lacks.going == {"a", "d"}
        wait(rig.state, 0.4)
        rig.run()
        assert rig.lease.until == NOW + 1.0
        wait(rig.state, 0.1)
        rig.run()
        assert rig.lease.until == -inf


class TestWithoutLease:
    """Members that get nothing of a coordinator which others vouch for."""

    def a_member(self, me: str = "b") -> Rig:
        rig = Rig(me, "abcde")
        rig.coordinator.lacks.entered()
        return rig

    @pytest.mark.parametrize("me", ["b", "d"])
    def test_one_after_the_other_they_try_to_replace_it(self, me: str) -> None:
        rig = self.a_member(me)
        wait(rig.state, timing.UNHEARD_S + "abcde".index(me) * timing.ROUND_BACKOFF_S)
        vouch(rig.state, rig.detector, "a")
        assert rig.run() == []
        wait(rig.state, 0.001)
        assert rig.run() == []
        vouch(rig.state, rig.detector, "a")
        assert {one.kind for one in rig.run()} == {"PREPARE"}
        hear(rig.state, "a")
        wait(rig.state, 1.0)
        hear(rig.state, "a")
        assert rig.run() == []  # it gives up

    def test_not_with_a_lease(self) -> None:
        rig = self.a_member()
        wait(rig.state, 2.0)
        vouch(rig.state, rig.detector, "a")
        rig.lease.until = rig.state.now + 0.001
        assert rig.run() == []

    def test_nor_while_another_that_they_help_may_come_to_an_end(self) -> None:
        rig = self.a_member("c")
        wait(rig.state, 2.0)
        vouch(rig.state, rig.detector, "a")
        assert rig.prepare("b", RANKS + 1).kind == "PROMISE"
        assert rig.run() == []
        wait(rig.state, timing.HELPED_S - 0.001)
        assert rig.run() == []
        wait(rig.state, 0.001)
        assert {one.kind for one in rig.run()} == {"PREPARE"}


class TestReplacingTheCoordinator:
    def test_of_a_silent_one_a_quorums_support_must_have_run_out(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.state.support_until = NOW - 1.0
        rig.run()
        rig.promise("c", RANKS + 1, span_us=0)
        sent = rig.promise("d", RANKS + 1, span_us=500_000)
        assert sent == []
        assert rig.decree._proposal is not None
        assert rig.decree._proposal.phase is Phase.PREPARE
        wait(rig.state, 0.5)
        assert kinds(rig.run())[0][1] == "PREPARE"  # it may be 2 % more by our clock
        wait(rig.state, 0.5 / timing.SAFE_SHARE - 0.5 + 0.001)
        sent = rig.run()
        assert {one.kind for one in sent} == {"ACCEPT"}
        assert from_message(sent[0].message.view).addresses == ("b", "c", "d", "e")

    def test_our_own_support_counts_among_them(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.state.support_until = NOW + 0.3
        rig.run()
        for peer in "cd":
            assert rig.promise(peer, RANKS + 1) == []
        wait(rig.state, 0.3)
        assert {one.kind for one in rig.run()} == {"ACCEPT"}

    def test_a_repeated_promise_does_not_begin_the_wait_anew(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.run()
        rig.promise("c", RANKS + 1, span_us=100_000)
        wait(rig.state, 0.11)
        rig.promise("c", RANKS + 1, span_us=100_000)
        assert {one.kind for one in rig.promise("d", RANKS + 1)} == {"ACCEPT"}

    def test_each_round_asks_anew_how_long_support_runs(self) -> None:
        rig = Rig("b", "abcde")
        rig.set_state(a=FAILED)
        rig.run()
        rig.promise("c", RANKS + 1)
        rig.decree._give_way(RANKS + 2)
        wait(rig.state, 1.0)
        rig.run()
        rig.promise("c", 2 * RANKS + 1, span_us=300_000)
        assert rig.promise("d", 2 * RANKS + 1) == []

    def test_of_a_dead_one_nothing_is_waited_for(self) -> None:
        rig = Rig("b", "abcde")
        rig.state.support_until = NOW + 9.0
        rig.die("a")
        rig.run()
        rig.promise("c", RANKS + 1, span_us=9_000_000)
        assert {one.kind for one in rig.promise("d", RANKS + 1, span_us=9_000_000)} == {"ACCEPT"}


class TestHelping:
    @pytest.mark.parametrize(
        ("me", "proposer", "state", "heard_ago_s", "helps"),
        [
            ("b", "a", ALIVE, 0.0, True),  # the coordinator, always
            ("b", "c", ALIVE, 0.0, False),  # our coordinator is well
            ("b", "c", ALIVE, timing.COORDINATOR_FRESH_S + 0.01, True),  # it has not been heard of late
            ("b", "c", SUSPECTED, 0.0, True),
            ("b", "c", FAILED, 0.0, True),
        ],
    )
    def test_another_than_the_coordinator_only_when_that_seems_ill(
        self, me: str, proposer: str, state: str, heard_ago_s: float, helps: bool
    ) -> None:
        rig = Rig(me)
        wait(rig.state, 5.0)
        rig.state.installed_at = NOW
        hear(rig.state, "a", ago_s=heard_ago_s)
        rig.set_state(a=state)
        answer = rig.prepare(proposer)
        assert answer.kind == ("PROMISE" if helps else "REJECT")
        assert answer.message.ballot == rig.first_ballot(proposer)
        if not helps:
            assert answer.message.accepted_ballot == 0  # no higher ballot is in the way
            assert rig.accept(proposer, following(rig.view)).kind == "REJECT"
        assert rig.state.support_withdrawn == (helps and proposer != "a")

    def test_when_it_is_dead_anybody(self) -> None:
        rig = Rig("b")
        rig.die("a")
        assert rig.prepare("c").kind == "PROMISE"

    @pytest.mark.parametrize(("lease_s", "helps"), [(0.001, False), (0.0, True), (-1.0, True)])
    def test_the_coordinator_helps_another_once_its_own_lease_is_over(self, lease_s: float, helps: bool) -> None:
        rig = Rig("a")
        rig.lease.until = NOW + lease_s
        assert rig.prepare("b").kind == ("PROMISE" if helps else "REJECT")

    def test_one_that_is_no_member_helps_nobody(self) -> None:
        rig = Rig("d", "abc", "abcd")
        assert rig.prepare("a").kind == "REJECT"

    def test_one_that_knows_no_view_helps_anybody(self) -> None:
        rig = Rig("d", "", "abcd")
        assert rig.prepare("a").kind == "PROMISE"

    def test_a_promise_tells_what_was_accepted_and_how_long_support_runs_on(self) -> None:
        rig = Rig("b")
        proposed = following(rig.view)
        assert rig.accept("a", proposed, RANKS).kind == "ACCEPTED"
        rig.state.support_until = NOW + 0.25
        promise = rig.prepare("a", 2 * RANKS)
        assert promise.message.accepted_ballot == RANKS
        assert from_message(promise.message.view) == proposed
        assert promise.message.span_us == 250_001
        wait(rig.state, 1.0)
        assert rig.prepare("a", 2 * RANKS).message.span_us == 1

    def test_a_coordinators_promise_tells_how_long_the_leases_run_that_it_granted(self) -> None:
        rig = Rig("a")
        rig.lease.until = -inf
        assert rig.prepare("b").message.span_us == 1
        rig.the_grantor.granted_until = {"b": NOW + 0.5, "c": NOW + 0.2}
        assert rig.prepare("b").message.span_us == 500_001

    def test_a_lower_ballot_is_refused_and_told_the_higher_one(self) -> None:
        rig = Rig("b")
        rig.prepare("a", 3 * RANKS)
        answer = rig.prepare("a", 2 * RANKS)
        assert (answer.kind, answer.message.accepted_ballot) == ("REJECT", 3 * RANKS)
        answer = rig.accept("a", following(rig.view), 2 * RANKS)
        assert (answer.kind, answer.message.accepted_ballot) == ("REJECT", 3 * RANKS)
        assert rig.accept("a", following(rig.view), 3 * RANKS).kind == "ACCEPTED"

    def test_accepting_from_another_withdraws_support_as_promising_does(self) -> None:
        rig = Rig("b")
        rig.set_state(a=FAILED)
        assert rig.accept("c", following(rig.view)).kind == "ACCEPTED"
        assert rig.state.support_withdrawn
        assert rig.decree._ballot_seen == rig.first_ballot("c")

    @pytest.mark.parametrize(("cluster_id", "ahead"), [(CLUSTER_ID, 0), (CLUSTER_ID, 2), (CLUSTER_ID + 1, 1)])
    def test_a_view_that_does_not_follow_ours_is_not_accepted(self, cluster_id: int, ahead: int) -> None:
        rig = Rig("b")
        view = replace(following(rig.view), cluster_id=cluster_id, epoch=rig.view.epoch + ahead)
        message = from_peer(rig.state, "a", pb.ACCEPT, ballot=BALLOT, view=to_message(view))
        rig.decree.on_accept("a", message)
        assert take_sent(rig.state) == []
        assert rig.state.dropped == {"bad view": 1}

    @pytest.mark.parametrize(("epoch", "is_taken"), [(1, True), (2, False)])
    def test_a_newcomer_accepts_first_views_only(self, epoch: int, is_taken: bool) -> None:
        rig = Rig("b", "", "ab")
        wait(rig.state, timing.SETTLE_S)
        for name in "a":
            rig.state.of(name).incarnation = INCARNATIONS[name]
            hear(rig.state, name)
            rig.bootstrap.heard(name, 0)
        view = replace(a_view("ab"), epoch=epoch)
        rig.decree.on_accept("a", from_peer(rig.state, "a", pb.ACCEPT, ballot=BALLOT, view=to_message(view)))
        assert rig.state.dropped == ({} if is_taken else {"bad view": 1})

    def test_a_ballot_is_its_proposers_own(self) -> None:
        rig = Rig("c")
        for peer, rank in (("a", 1), ("b", 0), ("b", 2)):
            rig.decree.on_prepare(peer, from_peer(rig.state, peer, pb.PREPARE, ballot=RANKS + rank))
        assert take_sent(rig.state) == []
        assert rig.state.dropped == {"bad ballot": 3}
        assert rig.prepare("a", RANKS).kind == "PROMISE"

    def test_the_room_for_ballots_is_that_of_the_present_decree(self) -> None:
        rig = Rig("b")
        wait(rig.state, 3600.0)
        assert rig.prepare("a", ballots_below(3599.0)).kind == "PROMISE"
        rig.enter(following(rig.view))
        rig.decree.on_prepare("a", from_peer(rig.state, "a", pb.PREPARE, ballot=ballots_below(0.0)))
        assert take_sent(rig.state) == []
        assert rig.prepare("a", ballots_below(0.0) - RANKS).kind == "PROMISE"

    def test_a_malformed_view_is_not_accepted(self) -> None:
        rig = Rig("b")
        rig.decree.on_accept("a", from_peer(rig.state, "a", pb.ACCEPT, ballot=BALLOT, view=pb.View(epoch=2)))
        assert take_sent(rig.state) == []
        assert rig.state.dropped == {"bad view": 1}
        assert rig.decree._acceptor.accepted is None

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"epoch": 2}, "stale view"),
            ({"cluster_id": 8}, "stale view"),
            ({"nonce": 9}, "stale view"),
            ({"ballot": 0}, "bad ballot"),
            ({"ballot": ballots_below(0.0)}, "bad ballot"),
            ({"ballot": ballots_below(0.0) - RANKS}, ""),
            ({"ballot": RANKS}, ""),
        ],
    )
    def test_what_belongs_to_another_decree_is_dropped(self, fields: dict[str, int], reason: str) -> None:
        rig = Rig("b")
        view = to_message(following(rig.view))
        message = from_peer(rig.state, "a", pb.PREPARE, **({"ballot": BALLOT, "view": view} | fields))
        rig.decree.on_prepare("a", message)
        rig.decree.on_accept("a", message)
        assert len(take_kinds(rig.state)) == (0 if reason else 2)
        rig.decree.on_promise("a", message)
        rig.decree.on_accepted("a", message)
        rig.decree.on_reject("a", message)
        assert rig.state.dropped[reason] == (5 if reason else 0)


class TestFounding:
    def founders(self, me: str = "a") -> Rig:
        """A node without a view that has just heard the two others, newcomers like itself."""
        rig = Rig(me, "", "abc")
        wait(rig.state, timing.SETTLE_S)
        for peer in "abc".replace(me, ""):
            rig.state.of(peer).incarnation = INCARNATIONS[peer]
            hear(rig.state, peer)
            rig.bootstrap.heard(peer, 0)
        return rig

    def test_the_first_of_the_file_proposes_a_view_of_all_and_all_must_accept(self) -> None:
        rig = self.founders()
        assert kinds(rig.run()) == [("b", "PREPARE"), ("c", "PREPARE")]
        assert rig.promise("b") == []  # a majority is not enough
        sent = rig.promise("c")
        proposed = from_message(sent[0].message.view)
        assert (proposed.cluster_id, proposed.epoch, proposed.addresses) == (INCARNATIONS["a"], 1, ("a", "b", "c"))
        assert rig.accepted("b") == []
        assert kinds(rig.accepted("c")) == [("b", "VIEW"), ("c", "VIEW")]
        assert rig.installed == [proposed]
        assert not rig.state.support_withdrawn

    def test_another_does_not(self) -> None:
        assert self.founders("b").run() == []

    def test_who_may_not_found_any_more_stops(self) -> None:
        rig = self.founders()
        rig.run()
        rig.bootstrap.heard("b", 5)  # it knows a cluster
        wait(rig.state, timing.PREPARE_RETRY_S)
        assert rig.run() == []

    def test_an_accepted_view_of_processes_that_live_is_founded(self) -> None:
        rig = self.founders()
        earlier = first_view([Member(name, INCARNATIONS[name]) for name in "bc"], INCARNATIONS["b"], 3, 9)
        rig.run()
        rig.promise("b", accepted_ballot=5, view=to_message(earlier))
        assert {from_message(one.message.view) for one in rig.promise("c")} == {earlier}

    def test_one_of_processes_that_are_all_gone_is_not(self) -> None:
        rig = self.founders()
        gone = first_view([Member(name, 1) for name in "bc"], CLUSTER_ID, 3, 9)
        for peer in "bc":
            rig.state.of(peer).dead = 1
        rig.run()
        rig.promise("b", accepted_ballot=5, view=to_message(gone))
        assert {from_message(one.message.view).members[0] for one in rig.promise("c")} == {Member("a", 10)}


def test_all_that_the_view_names_and_all_of_the_view_before_are_told() -> None:
    rig = Rig("a", "abc")
    rig.die("c")
    join(rig)
    rig.run()
    rig.promise("b")
    assert rig.installed == []
    assert kinds(rig.accepted("b")) == [("b", "VIEW"), ("c", "VIEW"), ("d", "VIEW")]
    assert rig.installed[0].addresses == ("a", "b", "d")
    assert a_view("abc") == rig.view
