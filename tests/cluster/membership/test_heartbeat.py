"""ASK and GRANT: what a member tells and when, and what its coordinator answers."""

from dataclasses import replace
from math import inf

import pytest

from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.coordinator import Coordinator
from app.cluster.membership.detector import Detector
from app.cluster.membership.heartbeat import Heartbeat
from app.cluster.membership.leases import USABLE_S, Grantor, Lease
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.state import slots_from_bytes, slots_to_bytes
from app.cluster.view import View
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import (
    NOW,
    Sent,
    a_state,
    a_view,
    die,
    enter,
    from_peer,
    hear,
    take_kinds,
    take_sent,
    wait,
)


class Rig:
    def __init__(self, me: str = "b", members: str = "abc", view: View | None = None, **config: object) -> None:
        self.state = a_state(me, members, "abcd", view=view, **config)
        self.lease = Lease()
        detector = Detector(self.state)
        self.coordinator = Coordinator(self.state, detector, self.lease, Bootstrap(self.state), lambda view: None)
        if self.state.is_coordinator:
            self.coordinator.grantor = Grantor(self.view, me)
        self.heartbeat = Heartbeat(self.state, self.lease, self.coordinator)
        hear(self.state, *self.state.others())

    @property
    def view(self) -> View:
        assert self.state.view is not None
        return self.state.view

    @property
    def grantor(self) -> Grantor:
        assert self.coordinator.grantor is not None
        return self.coordinator.grantor

    def ask(self, peer: str = "b", **fields: object) -> list[Sent]:
        """A member asks us; what we send."""
        self.heartbeat.on_ask(peer, from_peer(self.state, peer, pb.ASK, **fields))
        return take_sent(self.state)

    def grant(self, peer: str = "a", **fields: object) -> None:
        given = {
            "span_us": 500_000,
            "echo_us": round(NOW * 1e6),
            "blocked": slots_to_bytes(0),
            "settled": True,
        } | fields
        self.heartbeat.on_grant(peer, from_peer(self.state, peer, pb.GRANT, **given))


class TestAsking:
    def test_a_member_asks_its_coordinator_ten_times_a_second(self) -> None:
        rig = Rig()
        rig.heartbeat.tick()
        assert take_kinds(rig.state) == [("a", "ASK")]
        rig.grant()
        wait(rig.state, timing.HEARTBEAT_S - 0.001)
        rig.heartbeat.tick()
        assert take_kinds(rig.state) == []
        wait(rig.state, 0.002)
        rig.heartbeat.tick()
        assert take_kinds(rig.state) == [("a", "ASK")]

    def test_and_sooner_while_it_is_not_answered(self) -> None:
        rig = Rig()
        rig.heartbeat.ask()
        take_sent(rig.state)
        wait(rig.state, timing.ASK_RETRY_S - 0.001)
        rig.heartbeat.tick()
        assert take_kinds(rig.state) == []
        wait(rig.state, 0.002)
        rig.heartbeat.tick()
        assert take_kinds(rig.state) == [("a", "ASK")]

    @pytest.mark.parametrize("me", ["a", "d"])
    def test_the_coordinator_and_who_is_no_member_do_not(self, me: str) -> None:
        rig = Rig(me)
        rig.heartbeat.ask()
        assert take_kinds(rig.state) == []

    def test_nor_anybody_a_dead_one(self) -> None:
        rig = Rig()
        die(rig.state, "a")
        rig.heartbeat.ask()
        assert take_kinds(rig.state) == []

    def test_it_tells_that_it_leaves_and_which_learners_are_in_sync(self) -> None:
        rig = Rig()
        rig.state.leaving = True
        mine = rig.view.masks["b"]
        rig.heartbeat.synced("c", ALL_SLOTS)
        (sent,) = take_sent(rig.state)
        assert sent.message.leaving
        assert [(one.address, slots_from_bytes(one.slots)) for one in sent.message.synced] == [("c", mine)]
        first = mine & -mine
        rig = Rig()
        rig.heartbeat.synced("c", first)
        take_sent(rig.state)
        rig.heartbeat.synced("c", mine & ~first)
        (sent,) = take_sent(rig.state)
        assert slots_from_bytes(sent.message.synced[0].slots) == mine

    def test_and_whom_it_lacks_and_which_copies_it_has_lost(self) -> None:
        rig = Rig()
        rig.heartbeat.ask()
        (sent,) = take_sent(rig.state)
        assert (list(sent.message.lacks), sent.message.lost) == ([], b"")
        rig.state.note_unlinked("c")
        wait(rig.state, timing.LACK_S)
        rig.state.of("c").heard_at = rig.state.now
        rig.heartbeat.lost(0b11)
        rig.heartbeat.lost(0b100)
        *_, sent = take_sent(rig.state)
        assert list(sent.message.lacks) == ["c"]
        assert slots_from_bytes(sent.message.lost) == 0b111
        rig.heartbeat.entered(rig.view)  # of a new view it is to be said again
        (sent,) = take_sent(rig.state)
        assert sent.message.lost == b""

    def test_a_new_view_is_shown_at_once_and_begins_with_no_learners_in_sync(self) -> None:
        rig = Rig(transfer=True)
        rig.heartbeat.synced("c", ALL_SLOTS)
        take_sent(rig.state)
        rig.heartbeat.entered(rig.view)
        (sent,) = take_sent(rig.state)
        assert (sent.peer, sent.kind, len(sent.message.synced)) == ("a", "ASK", 0)

    @pytest.mark.parametrize("transfer", [False, True])
    def test_without_transfer_learners_have_nothing_to_catch_up_on(self, transfer: bool) -> None:
        joined = next_view(a_view("abc"), Changes(joined={"d": 13}), 3)
        assert joined is not None
        rig = Rig(view=joined, transfer=transfer)
        rig.heartbeat.entered(joined)
        (sent,) = take_sent(rig.state)
        learning = sum(1 << s for s in range(256) if joined.primaries[s] == "b" and "d" in joined.learners(s))
        assert learning
        told = {one.address: slots_from_bytes(one.slots) for one in sent.message.synced}
        assert told == ({} if transfer else {"d": learning})

    def test_a_coordinator_needs_not_ask_itself(self) -> None:
        rig = Rig("a")
        rig.heartbeat.synced("c", ALL_SLOTS)
        assert take_kinds(rig.state) == []
        assert rig.coordinator.synced == {"c": rig.view.masks["a"]}

    def test_who_is_no_member_has_no_learners(self) -> None:
        rig = Rig("d")
        rig.heartbeat.synced("c", ALL_SLOTS)
        assert rig.heartbeat._synced == {}


class TestGranted:
    def test_the_lease_counts_from_the_ask(self) -> None:
        rig = Rig()
        rig.grant(blocked=slots_to_bytes(0b1))
        assert rig.lease.until == pytest.approx(NOW + 0.5 * timing.SAFE_SHARE)
        assert (rig.lease.blocked, rig.lease.settled) == (0b1, True)

    def test_no_lease_is_longer_than_support(self) -> None:
        rig = Rig()
        rig.grant(span_us=10**12)
        assert rig.lease.until == pytest.approx(NOW + USABLE_S)

    def test_an_answer_that_grants_nothing_is_an_answer(self) -> None:
        rig = Rig()
        rig.heartbeat.ask()
        rig.grant(span_us=0)
        assert (rig.lease.until, rig.lease.settled) == (-inf, False)
        assert rig.heartbeat._answered

    @pytest.mark.parametrize(
        ("peer", "fields", "reason"),
        [
            ("c", {}, {"stale view": 1}),  # not the coordinator
            ("a", {"epoch": 2}, {"stale view": 1}),
            ("a", {"to_incarnation": 99}, {}),  # for the process before us
        ],
    )
    def test_a_grant_of_another_or_for_another_is_none(
        self, peer: str, fields: dict[str, int], reason: dict[str, int]
    ) -> None:
        rig = Rig()
        rig.heartbeat.ask()
        rig.grant(peer, **fields)
        assert rig.lease.until == -inf
        assert rig.state.dropped == reason
        assert not rig.heartbeat._answered


class TestGranting:
    def test_it_grants_what_the_leader_lease_allows(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("b", NOW - 0.1)
        rig.grantor.may_still_serve = {"c": 0b100}
        (sent,) = rig.ask()
        assert (sent.peer, sent.kind) == ("b", "GRANT")
        assert sent.message.span_us == pytest.approx((USABLE_S - 0.1) * 1e6, abs=2)
        assert slots_from_bytes(sent.message.blocked) == 0b100
        assert not sent.message.settled
        assert rig.grantor.acknowledged == {"b"}
        sent, *_ = rig.ask("c")
        assert sent.message.settled

    def test_without_it_the_answer_grants_nothing(self) -> None:
        rig = Rig("a")
        (sent,) = rig.ask()
        assert sent.message.span_us == 0
        assert rig.grantor.waiting == {"b"}

    @pytest.mark.parametrize(("ago_s", "is_granted"), [(timing.HEARD_S - 0.01, True), (timing.HEARD_S, False)])
    def test_nor_does_one_to_a_member_that_does_not_hear_us(self, ago_s: float, is_granted: bool) -> None:
        """It could not use a lease, and that would never lapse."""
        rig = Rig("a")
        wait(rig.state, 5.0)
        rig.grantor.add_support("c", rig.state.now)
        hear(rig.state, "b", ago_s=ago_s)
        (sent,) = rig.ask()
        assert bool(sent.message.span_us) == is_granted

    def test_nor_that_of_one_that_has_promised_another_a_ballot(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("c", NOW)
        rig.state.support_withdrawn = True
        (sent,) = rig.ask()
        assert sent.message.span_us == 0
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf

    @pytest.mark.parametrize(("me", "fields"), [("b", {}), ("a", {"epoch": 2}), ("a", {"incarnation": 99})])
    def test_only_a_coordinator_answers_and_only_a_member_of_its_view(self, me: str, fields: dict[str, int]) -> None:
        rig = Rig(me)
        assert rig.ask("c", **fields) == []
        assert rig.state.dropped == {"stale view": 1}

    def test_what_a_member_tells_is_noted(self) -> None:
        rig = Rig("a")
        slots = rig.view.masks["b"]
        rig.ask(synced=[pb.Synced(address="c", slots=slots_to_bytes(ALL_SLOTS))], leaving=True)
        assert rig.coordinator.synced == {"c": slots}  # only of slots that it is primary of
        assert rig.coordinator.leavers == {"b"}
        more = rig.view.masks["c"]
        rig.ask("c", synced=[pb.Synced(address="c", slots=slots_to_bytes(more)), pb.Synced(address="b")])
        assert rig.coordinator.synced == {"c": slots | more}
        assert rig.coordinator.leavers == {"b"}

    def test_copies_that_it_has_lost_are_noted_where_it_is_listed(self) -> None:
        rig = Rig("a", view=a_view("abc", 2))
        listed = sum(1 << slot for slot in range(256) if "b" in rig.view.holders(slot))
        assert 0 < listed < ALL_SLOTS
        rig.ask(lost=slots_to_bytes(ALL_SLOTS & ~(listed & -listed)))
        assert rig.coordinator.lost == {"b": listed & ~(listed & -listed)}
        rig.ask(lost=slots_to_bytes(listed & -listed))
        rig.ask("c")
        assert rig.coordinator.lost == {"b": listed}
        rig.heartbeat.lost(0)
        rig.heartbeat.lost(ALL_SLOTS)
        assert rig.coordinator.lost == {"b": listed} | {
            "a": sum(1 << slot for slot in range(256) if "a" in rig.view.holders(slot))
        }

    def test_whom_it_lacks_is_noted(self) -> None:
        rig = Rig("a")
        rig.ask("c", lacks=["b"])
        rig.coordinator.lacks.look({})
        assert rig.coordinator.lacks.edges == {("b", "c")}

    def test_one_that_is_to_go_because_it_is_lacked_gets_no_more_leases(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("b", NOW)
        rig.ask("b", lacks=["c"])
        rig.coordinator.lacks.look({})
        assert rig.ask("b")[0].message.span_us > 0
        assert rig.ask("c")[0].message.span_us == 0
        rig.grantor.waiting.add("c")
        rig.heartbeat.refresh()
        assert take_kinds(rig.state) == []
        rig.ask("b")
        rig.coordinator.lacks.look({})
        assert rig.ask("c")[0].message.span_us > 0

    def test_of_what_it_tells_only_what_is_of_members_is_kept(self) -> None:
        rig = Rig("a")
        entries = [pb.Synced(address=name, slots=slots_to_bytes(ALL_SLOTS)) for name in "cdefg"]
        rig.ask(synced=entries)
        assert set(rig.coordinator.synced) == {"c"}

    def test_who_waits_for_a_slot_is_told_when_it_is_free(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("c", NOW)
        slot = next(slot for slot in range(256) if rig.view.primaries[slot] == "c")
        rig.grantor.may_still_serve = {"b": 1 << slot}
        sent = rig.ask()
        assert [one.peer for one in sent] == ["b", "c"]
        assert slots_from_bytes(sent[1].message.blocked) == 0
        assert [one.peer for one in rig.ask()] == ["b"]

    def test_but_not_a_dead_one_nor_whoever_else(self) -> None:
        rig = Rig("a")
        slot = next(slot for slot in range(256) if rig.view.primaries[slot] == "c")
        rig.grantor.may_still_serve = {"b": 1 << slot}
        die(rig.state, "c")
        assert [one.peer for one in rig.ask()] == ["b"]
        rig = Rig("a")
        slot = next(slot for slot in range(256) if rig.view.primaries[slot] == "a")
        rig.grantor.may_still_serve = {"b": 1 << slot}
        assert [one.peer for one in rig.ask()] == ["b"]


class TestRefresh:
    def test_the_coordinators_own_lease_is_its_leader_lease(self) -> None:
        rig = Rig("a")
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf
        rig.grantor.add_support("b", NOW)
        rig.grantor.may_still_serve = {"b": 0b11}
        rig.grantor.granted_until["b"] = NOW + 1
        rig.heartbeat.refresh()
        assert rig.lease.until == pytest.approx(NOW + USABLE_S)
        assert (rig.lease.blocked, rig.lease.settled) == (0b11, False)
        rig.grantor.acknowledge("b")
        rig.grantor.acknowledge("c")
        rig.heartbeat.refresh()
        assert (rig.lease.blocked, rig.lease.settled) == (0, True)

    def test_but_for_one_that_has_stepped_back(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("b", NOW)
        rig.grantor.denied.add("a")
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf
        assert rig.ask("b")[0].message.span_us > 0  # others go on until the next view

    def test_it_never_becomes_shorter(self) -> None:
        rig = Rig("a")
        rig.lease.until = NOW + 9.0
        rig.grantor.add_support("b", NOW)
        rig.heartbeat.refresh()
        assert rig.lease.until == NOW + 9.0

    def test_who_asked_in_vain_is_granted_a_lease_as_soon_as_there_is_one(self) -> None:
        rig = Rig("a")
        rig.ask("b")
        rig.ask("c")
        rig.heartbeat.refresh()
        assert take_kinds(rig.state) == []
        rig.grantor.denied.add("c")
        rig.grantor.add_support("b", NOW)
        rig.heartbeat.refresh()
        (sent,) = take_sent(rig.state)
        assert sent.peer == "b"
        assert sent.message.span_us > 0

    def test_slots_of_the_dead_and_the_lapsed_become_free_and_their_primaries_are_told(self) -> None:
        rig = Rig("a")
        rig.grantor.add_support("c", NOW)
        slot = next(slot for slot in range(256) if rig.view.primaries[slot] == "c")
        rig.grantor.may_still_serve = {"b": 1 << slot}
        rig.grantor.granted_until["b"] = NOW + 0.3
        rig.heartbeat.refresh()
        assert rig.lease.blocked == 1 << slot
        assert take_kinds(rig.state) == []
        wait(rig.state, 0.3)
        rig.heartbeat.refresh()
        assert rig.lease.blocked == 0
        assert take_kinds(rig.state) == [("c", "GRANT")]

    def test_it_is_the_coordinators_alone_and_a_members(self) -> None:
        rig = Rig("b")
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf
        rig = Rig("a", "a")
        rig.state.is_member = False
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf
        enter(rig.state, rig.view)
        rig.heartbeat.refresh()
        assert rig.lease.until == -inf  # of four servers two are needed
        for server in "bcd":
            rig.state.note_absent(server, rig.state.now)
        rig.heartbeat.refresh()
        assert rig.lease.until == rig.state.now + USABLE_S  # as long as that is known
        rig.state.view = replace(rig.view, is_forced=True)
        rig.coordinator.grantor = Grantor(rig.state.view, "a")
        rig.heartbeat.refresh()
        assert rig.lease.until == inf
