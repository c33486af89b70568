"""One whole core and what its peers say, by hand: joining, views of its own and of others, leaving, anti-entropy."""

import random
from dataclasses import replace
from math import inf

import pytest

from app.cluster.events import (
    SELF,
    CloseLink,
    CopiesLost,
    Datagram,
    Effect,
    FoundRequested,
    LeaveRequested,
    Left,
    LinkClosed,
    LinkFailed,
    LinkRefused,
    LinkUp,
    Log,
    OpenLink,
    Reset,
    SlotsSynced,
    Tick,
    ViewInstalled,
)
from app.cluster.membership import timing
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.planner import Changes, next_view
from app.cluster.membership.state import ClusterConfig, slots_from_bytes, slots_to_bytes
from app.cluster.view import View, to_message
from app.wire.protocol import ALL_SLOTS
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, NOW, a_view, sent_in

VIEW = a_view("abc")


class Node:
    """A core, its clock, and peers whose messages are written by hand."""

    def __init__(self, me: str = "b", servers: str = "abcd", *, age_s: float = 0.5, **config: object) -> None:
        self.me = me
        self.now = NOW
        self.core = ClusterCore(
            ClusterConfig(me, tuple(servers), **config),  # type: ignore[arg-type]
            INCARNATIONS[me],
            NOW - age_s,
            random.Random(1),
        )
        self.step(Tick())

    def step(self, event: object) -> list[Effect]:
        return self.core.step(event, self.now)  # type: ignore[arg-type]

    def tick(self, seconds: float = timing.MEMBERSHIP_TICK_S) -> list[Effect]:
        """The time goes on; every tick on its way is taken."""
        effects = []
        end = self.now + seconds
        while self.now < end - 1e-6:
            self.now = max(self.now + timing.MEMBERSHIP_TICK_S / 2, self.core.wake_at + 2e-6)  # which is rounded
            effects += self.step(Tick())
        return effects

    def get(
        self,
        peer: str,
        kind: "pb.Kind",
        *,
        fresh: bool = True,
        view: View | None = None,
        by: View | None = None,
        **fields: object,
    ) -> list[Effect]:
        """A message from the peer; `fresh`: it echoes the stamp of now. `by`: the view that it goes by."""
        header: dict[str, object] = {
            "kind": kind,
            "incarnation": INCARNATIONS[peer],
            "to_incarnation": self.core.incarnation,
            "stamp_us": round(self.now * 1e6),
            "echo_us": round(self.now * 1e6) if fresh else 0,
        }
        if by is not None:
            header |= {"cluster_id": by.cluster_id, "epoch": by.epoch, "nonce": by.nonce}
        if view is not None:
            header["view"] = to_message(view)
        message = pb.ClusterMessage(**(header | fields))  # type: ignore[arg-type]
        return self.step(Datagram(peer, message.SerializeToString()))

    def join(self, view: View = VIEW) -> "Node":
        self.get("b" if self.me == "a" else "a", pb.VIEW, view=view, by=view)
        assert self.core.view == view
        return self


def sent_to(effects: list[Effect], *kinds: str) -> list[str]:
    return sorted(one.peer for one in sent_in(effects) if one.kind in kinds)


def of_kind(effects: list[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def after(view: View, **changes: object) -> View:
    following = next_view(view, Changes(**changes), 3, nonce=view.nonce + 1)  # type: ignore[arg-type]
    assert following is not None
    return following


class TestOutside:
    def test_it_asks_all_servers_to_join_ten_times_a_second(self) -> None:
        node = Node()
        node.tick(0.1)
        assert sent_to(node.tick(0.4), "HELLO") == sorted("acd" * 4)

    @pytest.mark.parametrize(("servers", "interval_s"), [(12, 0.1), (24, 0.2), (60, 0.4)])
    def test_less_often_the_more_servers_there_are(self, servers: int, interval_s: float) -> None:
        core = ClusterCore(ClusterConfig("s0", tuple(f"s{n}" for n in range(servers))), 10, NOW, random.Random(1))
        times = []
        for tick in range(1, 81):
            effects = core.step(Tick(), NOW + tick * 0.025)
            if sent_to(effects, "HELLO"):
                times.append(tick * 0.025)
        assert times[1] - times[0] == pytest.approx(interval_s, abs=0.026)

    def test_of_a_view_that_it_observes_it_asks_the_members_that_its_file_lacks_as_well(self) -> None:
        node = Node("d", "abd").join()
        assert sent_to(node.tick(0.12), "HELLO") == ["a", "b", "c"]

    def test_a_view_none_of_whose_members_answers_is_forgotten(self) -> None:
        node = Node("d", "abcde").join()
        incarnation = node.core.incarnation
        node.tick(1.0)
        node.get("b", pb.ACK, by=VIEW)
        node.tick(timing.OBSERVED_STALE_S - 0.1)
        assert node.core.view == VIEW
        effects = node.tick(0.2)
        assert node.core.view is None
        assert node.core.incarnation > incarnation
        assert of_kind(effects, Reset) == [Reset(node.core.incarnation)]
        assert node.core._state.support_until == -inf

    def test_the_members_of_a_view_that_has_just_come_have_as_long_to_answer(self) -> None:
        """It may come from somebody who is not in it any more."""
        node = Node("d", "abcde").join()
        following = after(VIEW, gone={"a": "dead"})
        node.tick(timing.OBSERVED_STALE_S - 0.1)
        node.get("e", pb.VIEW, view=following, by=following)
        assert node.core.view == following
        node.tick(timing.OBSERVED_STALE_S - 0.1)
        assert node.core.view == following
        node.tick(0.2)
        assert node.core.view is None

    def test_with_newcomers_like_itself_it_founds_a_cluster(self) -> None:
        node = Node("a", "abc")
        for peer in "bc":
            node.step(LinkUp(peer))
            node.get(peer, pb.HELLO)
        assert set(sent_to(node.tick(timing.SETTLE_S + 0.05), "PREPARE")) == {"b", "c"}

    def test_but_not_with_one_to_which_it_has_no_link(self) -> None:
        node = Node("a", "abc")
        node.step(LinkUp("b"))
        for _ in range(7):
            for peer in "bc":
                node.get(peer, pb.HELLO)
            effects = node.tick(0.25)
            assert sent_to(effects, "PREPARE") == []
        assert node.core.status().lacks == (("a", "c"),)
        node.step(LinkUp("c"))
        assert set(sent_to(node.tick(0.05), "PREPARE")) == {"b", "c"}
        assert node.core.status().lacks == ()

    def test_of_a_view_that_it_observes_it_tells_to_which_members_it_has_no_link(self) -> None:
        node = Node("d").join()
        node.step(LinkUp("b"))
        (first, *_) = [one for one in sent_in(node.tick(0.12)) if one.kind == "HELLO"]
        assert list(first.message.lacks) == ["a", "c"]
        node.step(LinkUp("c"))
        effects = node.step(LinkUp("a"))
        (hello,) = sent_in(effects)
        assert (hello.peer, hello.kind, list(hello.message.lacks)) == ("a", "HELLO", [])  # the coordinator waits for it

    def test_once_it_has_a_link_to_each_it_says_so_under_every_new_view(self) -> None:
        node = Node("d").join()
        for peer in "abc":
            node.step(LinkUp(peer))
        following = after(VIEW, gone={"c": "died"})
        effects = node.get("a", pb.VIEW, view=following, by=following)
        assert sent_to(effects, "HELLO") == ["a"]

    def test_it_is_answered_by_members_and_outsiders_alike(self) -> None:
        for node in (Node(), Node().join()):
            assert sent_to(node.get("d", pb.HELLO), "ACK") == ["d"]


class TestInstalling:
    def test_the_view_of_a_cluster_that_has_us_in_it_makes_us_a_member(self) -> None:
        node = Node()
        effects = node.get("a", pb.VIEW, view=VIEW, by=VIEW)
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(VIEW, True)]
        assert sent_to(effects, "ASK") == ["a"]
        assert node.core.is_member
        assert node.core.lease_until == -inf
        assert node.core._state.support_until == node.now + timing.SUPPORT_S

    @pytest.mark.parametrize(
        ("fresh", "peer", "view", "is_taken"),
        [
            (True, "a", a_view("ac"), True),  # without us, but the sender lives and hears us
            (False, "a", a_view("ac"), False),  # it may be long past
            (True, "d", a_view("ac"), False),  # it says nothing of who lives
            (False, "d", VIEW, True),  # nobody can have named our incarnation before we began
        ],
    )
    def test_a_view_must_be_proven_to_live(self, fresh: bool, peer: str, view: View, is_taken: bool) -> None:
        node = Node()
        node.get(peer, pb.VIEW, view=view, by=view, fresh=fresh)
        assert (node.core.view == view) == is_taken
        assert node.core.status().dropped == ({} if is_taken else {"unproven view": 1})

    @pytest.mark.parametrize(
        ("change", "installs", "reason"),
        [
            ({"epoch": 6}, True, {}),
            ({"epoch": 9}, True, {}),
            ({"epoch": 4}, False, {"stale view": 1}),
            ({}, False, {}),
        ],
    )
    def test_of_its_own_cluster_only_a_newer_one(
        self, change: dict[str, int], installs: bool, reason: dict[str, int]
    ) -> None:
        ours = replace(VIEW, epoch=5)
        node = Node().join(ours)
        other = replace(ours, **change)  # type: ignore[arg-type]
        effects = node.get("a", pb.VIEW, view=other, by=other)
        assert bool(of_kind(effects, ViewInstalled)) == installs
        assert node.core.status().dropped == reason

    def test_a_malformed_one_is_dropped(self) -> None:
        node = Node().join()
        node.get("a", pb.VIEW, by=VIEW)
        assert node.core.status().dropped == {"bad view": 1}

    def test_another_cluster_that_prevails_is_joined_with_empty_hands(self) -> None:
        node = Node().join()
        incarnation = node.core.incarnation
        without_us = replace(a_view("acde"), cluster_id=3)
        effects = node.get("a", pb.VIEW, view=without_us, by=without_us)
        assert of_kind(effects, Reset)
        assert node.core.incarnation > incarnation
        assert not node.core.is_member

    def test_one_that_does_not_is_left_alone(self) -> None:
        node = Node().join()
        smaller = replace(a_view("ac"), cluster_id=3)
        assert not of_kind(node.get("a", pb.VIEW, view=smaller, by=smaller), ViewInstalled)
        assert node.core.view == VIEW

    def test_a_member_that_is_expelled_begins_anew_and_asks_to_join(self) -> None:
        node = Node().join()
        without = after(VIEW, gone={"b": "is silent"})
        effects = node.get("a", pb.VIEW, view=without, by=without)
        assert of_kind(effects, Reset) == [Reset(node.core.incarnation)]
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(without, False)]
        assert sent_to(node.tick(0.05), "HELLO") == ["a", "c", "d"]

    def test_the_processes_before_those_of_a_view_are_dead(self) -> None:
        node = Node()
        known = node.core._state.of("c")
        known.incarnation = 5
        node.join()
        assert (known.incarnation, known.dead) == (INCARNATIONS["c"], INCARNATIONS["c"] - 1)
        assert not node.core._state.dead


class TestLease:
    def served(self) -> Node:
        """b, with a lease under a, all of whose slots are free."""
        node = Node().join()
        node.get("a", pb.GRANT, by=VIEW, span_us=500_000, blocked=slots_to_bytes(0), settled=True)
        assert node.core.served == VIEW.masks["b"]
        return node

    def test_it_carries_on_in_the_next_view_under_the_same_coordinator(self) -> None:
        node = self.served()
        until = node.core.lease_until
        following = after(VIEW, gone={"c": "died"})
        assert following.masks["b"] & ~VIEW.masks["b"]
        node.get("a", pb.VIEW, view=following, by=following)
        assert node.core.lease_until == until
        assert node.core.served == VIEW.masks["b"]  # what it has got besides is blocked for now

    def test_but_not_across_a_view_that_was_missed(self) -> None:
        node = self.served()
        following = replace(after(VIEW), epoch=3)
        node.get("a", pb.VIEW, view=following, by=following)
        assert (node.core.lease_until, node.core.served) == (-inf, 0)

    def test_nor_under_another_coordinator(self) -> None:
        node = self.served()
        following = after(VIEW, gone={"a": "died"})
        node.get("a", pb.VIEW, view=following, by=following)
        assert node.core._coordinator.grantor is not None  # b is the first member now
        assert node.core._coordinator.grantor.granted_until == {"c": node.now + timing.LAPSE_S}
        assert node.core._coordinator.grantor.blocked() == following.masks["b"] & VIEW.masks["c"]  # it was settled
        assert node.core.served == following.masks["b"] & ~VIEW.masks["c"]

    def test_one_without_end_is_cut_when_there_is_somebody_to_be_replaced_by(self) -> None:
        node = Node("a", "ab")
        node.tick(timing.SETTLE_S - 0.3)
        node.step(LinkFailed("b"))
        for _ in range(2):  # once more since it has proposed the view
            node.tick(timing.DIAL_S)
            node.step(LinkRefused("b", 0, True))
        node.tick(timing.LAPSE_S + 0.2)
        assert node.core.lease_until == inf
        node.get("b", pb.HELLO)
        node.step(LinkUp("b"))
        node.get("b", pb.HELLO, by=node.core.view)
        node.get("b", pb.PING)
        node.tick(0.2)
        assert node.core.view is not None
        assert node.core.view.addresses == ("a", "b")
        assert node.core.lease_until == inf  # of two, half with the longest-standing member

    def test_slots_in_sync_count_in_the_view_they_were_begun_in(self) -> None:
        node = Node(transfer=True).join()
        assert not sent_to(node.step(SlotsSynced("c", ALL_SLOTS, 2)), "ASK")
        effects = node.step(SlotsSynced("c", ALL_SLOTS, 1))
        (ask,) = [one for one in sent_in(effects) if one.kind == "ASK"]
        assert slots_from_bytes(ask.message.synced[0].slots) == VIEW.masks["b"]

    def test_so_do_copies_that_are_lost(self) -> None:
        node = Node(transfer=True).join()
        assert not sent_to(node.step(CopiesLost(ALL_SLOTS, 2)), "ASK")
        (ask,) = [one for one in sent_in(node.step(CopiesLost(0b101, 1))) if one.kind == "ASK"]
        assert slots_from_bytes(ask.message.lost) == 0b101

    def test_whoever_asks_to_join_is_dialled_at_once_and_lacked_only_from_then_on(self) -> None:
        node = Node(me="b", servers="abcd").join()
        node.tick(0.2)
        node.step(LinkFailed("d"))
        state = node.core._state
        assert state.awake_s - state.of("d").unlinked_awake_s >= 0.2
        effects = node.get("d", pb.HELLO)
        assert [effect.peer for effect in of_kind(effects, OpenLink)] == ["d"]
        assert state.of("d").unlinked_awake_s == state.awake_s
        assert of_kind(node.get("d", pb.HELLO), OpenLink) == []


class TestClocksSetBack:
    """A process's successor has a lower incarnation, since its machine's wall clock was set back in between."""

    def test_a_view_tells_who_came_later_and_what_was_sent_before_proves_nothing(self) -> None:
        node = Node()
        sent_at = round(node.now * 1e6)
        node.get("c", pb.HELLO, incarnation=99)
        assert node.core._state.of("c").incarnation == 99
        node.tick(2.0)
        node.join()
        known = node.core._state.of("c")
        assert (known.incarnation, node.core._state.dead) == (INCARNATIONS["c"], set())
        node.get("c", pb.HELLO, incarnation=99, echo_us=sent_at)  # it was on its way all the time
        assert (known.incarnation, node.core._state.dead) == (INCARNATIONS["c"], set())
        node.tick(0.1)
        node.get("c", pb.HELLO, incarnation=99)  # it lives
        assert (known.incarnation, node.core._state.dead) == (99, {"c"})

    def test_one_that_lived_when_the_other_was_known_already_came_later(self) -> None:
        """And is a member of another cluster by now, so that it does not take a higher incarnation."""
        node = Node().join()
        known = node.core._state.of("d")
        node.get("d", pb.PING, incarnation=99)
        learned_at = round(node.now * 1e6)
        node.tick(0.1)
        node.get("d", pb.PING, incarnation=50, echo_us=learned_at)
        assert known.incarnation == 99
        node.get("d", pb.PING, incarnation=50)
        assert (known.incarnation, known.heard_at) == (50, pytest.approx(node.now, abs=1e-5))
        node.get("d", pb.PING, incarnation=99, echo_us=learned_at)  # it was on its way
        assert known.incarnation == 50

    def test_what_was_refused_in_the_place_of_the_one_before_is_no_proof_of_the_later_ones_death(self) -> None:
        node = Node()
        node.get("c", pb.HELLO, incarnation=99)
        node.tick(2.0)
        node.join()
        node.step(LinkRefused("c", 99, True))  # dialled before the view came
        known = node.core._state.of("c")
        assert (known.incarnation, node.core._state.dead) == (INCARNATIONS["c"], set())
        assert known.is_dead(99)
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert node.core._state.dead == {"c"}

    def test_an_old_view_proves_nothing(self) -> None:
        node = Node()
        sent_at = round(node.now * 1e6)
        node.tick(1.0)
        node.get("c", pb.HELLO, incarnation=99)
        node.get("a", pb.VIEW, view=VIEW, by=VIEW, echo_us=sent_at)
        assert node.core._state.of("c").incarnation == 99
        assert node.core._state.dead == {"c"}


class TestAntiEntropy:
    def test_the_view_that_it_goes_by_is_not_taken_apart_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = Node().join()
        monkeypatch.setattr("app.cluster.membership.core.from_message", lambda message: pytest.fail("it was"))
        node.get("a", pb.VIEW, view=VIEW, by=VIEW)
        assert (node.core.view, node.core.status().dropped) == (VIEW, {})

    def test_who_goes_by_an_older_view_is_sent_ours_but_not_again_and_again(self) -> None:
        ours = replace(VIEW, epoch=5)
        node = Node().join(ours)
        node.tick(1.0)
        assert sent_to(node.get("c", pb.PING, by=VIEW), "VIEW") == ["c"]
        assert sent_to(node.get("c", pb.PING, by=VIEW), "VIEW") == []
        node.tick(timing.ANTI_ENTROPY_S)
        assert sent_to(node.get("c", pb.PING, by=VIEW), "VIEW") == ["c"]
        assert sent_to(node.get("c", pb.PING, by=ours), "VIEW") == []

    def test_who_goes_by_another_of_our_epoch_or_another_clusters_is_sent_ours(self) -> None:
        for theirs in (replace(VIEW, nonce=9), replace(VIEW, cluster_id=9, epoch=99)):
            node = Node().join()
            node.tick(1.0)
            assert sent_to(node.get("c", pb.PING, by=theirs), "VIEW") == ["c"]

    def test_who_goes_by_a_newer_one_learns_ours_and_sends_it(self) -> None:
        node = Node().join()
        node.tick(1.0)
        newer = replace(VIEW, epoch=5)
        assert sent_to(node.get("c", pb.GRANT, by=newer), "ACK") == ["c"]
        node.tick(1.0)
        assert sent_to(node.get("c", pb.ACK, by=newer), "ACK", "VIEW") == []  # it has just had ours

    def test_who_has_a_view_tells_one_that_has_none(self) -> None:
        node = Node().join()
        node.tick(1.0)
        assert sent_to(node.get("d", pb.HELLO), "VIEW") == ["d"]


class TestIncarnations:
    def test_a_restart_shows_and_its_predecessor_is_dead(self) -> None:
        node = Node().join()
        node.tick(1.0)
        node.get("c", pb.HELLO, incarnation=99)
        assert node.core._state.dead == {"c"}
        assert node.core.status().members[2].state == "dead"

    def test_a_higher_incarnation_must_show_that_it_lived_later(self) -> None:
        """Where the wall clock was set back, a late datagram may be from a process before."""
        node = Node().join()
        node.tick(1.0)
        node.get("c", pb.PING, by=VIEW)
        node.tick(1.0)
        effects = node.get("c", pb.HELLO, incarnation=99, fresh=False)
        assert node.core._state.dead == set()
        (ping,) = [one for one in sent_in(effects) if one.peer == "c"]
        assert (ping.kind, ping.message.to_incarnation, ping.message.echo_us) == (
            "PING",
            99,
            round(node.now * 1e6),
        )
        assert node.core.status().dropped == {"stale incarnation": 1}
        assert sent_in(node.get("c", pb.HELLO, incarnation=99, fresh=False)) == []  # at a limited rate
        node.get("c", pb.HELLO, incarnation=99, echo_us=round((node.now + 1) * 1e6))
        assert node.core._state.dead == set()  # an echo of the future is none
        node.get("c", pb.HELLO, incarnation=99)
        assert node.core._state.dead == {"c"}

    def test_a_dead_process_is_not_listened_to(self) -> None:
        node = Node().join()
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert node.core._state.dead == {"c"}
        node.get("c", pb.PING, by=VIEW)
        assert node.core.status().dropped == {"stale incarnation": 1}

    def test_one_below_ours_is_not_raised_nor_a_members(self) -> None:
        for node in (Node(), Node().join()):
            before = node.core.incarnation
            node.get("c", pb.PING, to_incarnation=before if not node.core.is_member else before + 5)
            assert node.core.incarnation == before

    def test_a_death_that_a_member_tells_of_is_believed_if_it_is_news(self) -> None:
        node = Node().join()
        node.get("a", pb.PING, by=VIEW, deaths=[pb.Death(address="b", incarnation=INCARNATIONS["b"])])
        assert node.core._state.dead == set()  # we know better
        node.get("a", pb.PING, by=VIEW, deaths=[pb.Death(address="c", incarnation=INCARNATIONS["c"] + 1)])
        assert node.core._state.dead == set()  # of a process that nobody knows
        node.step(LinkFailed("d"))
        effects = node.get("a", pb.PING, by=VIEW, deaths=[pb.Death(address="c", incarnation=INCARNATIONS["c"])])
        assert node.core._state.dead == {"c"}
        # All servers of the file must be accounted for now.
        assert "d" in {effect.peer for effect in of_kind(effects, OpenLink)}

    def test_while_one_is_dead_those_outside_are_asked_for_newer_views(self) -> None:
        node = Node().join()
        node.get("a", pb.PING, by=VIEW)
        assert "d" not in sent_to(node.tick(), "PING")
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert {"c", "d"} <= set(sent_to(node.tick(), "PING"))


class TestSupportThatArrives:
    def coordinator(self) -> Node:
        node = Node("a", age_s=timing.LAPSE_S).join()
        assert node.core._coordinator.grantor is not None
        return node

    @pytest.mark.parametrize(
        ("fields", "has_lease"),
        [
            ({"supports": True}, True),
            ({}, False),
            ({"supports": True, "fresh": False}, False),
            ({"supports": True, "to_incarnation": 99}, False),
            ({"supports": True, "support_withdrawn": True}, False),
            ({"supports": True, "by": replace(VIEW, nonce=9)}, False),
        ],
    )
    def test_it_counts_with_proof_of_life_in_the_same_view(self, fields: dict[str, object], has_lease: bool) -> None:
        node = self.coordinator()
        node.get("b", pb.ASK, **({"by": VIEW} | fields))  # type: ignore[arg-type]
        assert (node.core.lease_until > node.now) == has_lease
        assert node.core._coordinator.renew == (fields.get("support_withdrawn", False) is True)

    def test_with_it_the_coordinator_serves(self) -> None:
        node = self.coordinator()
        node.get("b", pb.ASK, by=VIEW, supports=True)
        node.get("c", pb.ASK, by=VIEW, supports=True)
        assert node.core.lease_until == pytest.approx(node.now + 0.588, abs=0.001)
        assert [route for route in node.core.routes if route == SELF]

    def test_it_pings_servers_outside_its_view_once_a_second(self) -> None:
        node = self.coordinator()
        effects = []
        for _ in range(100):
            effects += node.tick()
            for peer in "bc":
                node.get(peer, pb.ASK, by=VIEW, supports=True)
        assert 3 <= sent_to(effects, "PING").count("d") <= 4


class TestLinks:
    def test_to_all_servers_and_anew_to_whoever_is_a_member_no_more(self) -> None:
        node = Node()
        effects = node.get("a", pb.VIEW, view=VIEW, by=VIEW)
        assert of_kind(effects, CloseLink) == []
        without = after(VIEW, gone={"c": "is silent"})
        effects = node.get("a", pb.VIEW, view=without, by=without)
        assert of_kind(effects, CloseLink) == [CloseLink("c")]
        assert of_kind(effects, OpenLink) == [OpenLink("c", INCARNATIONS["c"])]

    def test_a_dial_that_came_to_nothing_is_repeated_and_one_that_is_up_is_not(self) -> None:
        node = Node().join()
        node.step(LinkUp("a"))
        node.step(LinkFailed("c"))
        assert {effect.peer for effect in of_kind(node.tick(timing.DIAL_S * 2), OpenLink)} == {"c"}

    def test_a_link_that_has_ended_is_dialled_at_once(self) -> None:
        node = Node().join()
        assert of_kind(node.step(LinkClosed("c")), OpenLink) == [OpenLink("c", INCARNATIONS["c"])]

    def test_one_that_this_machine_refuses_proves_who_was_known_to_be_dead(self) -> None:
        node = Node().join()
        node.step(LinkRefused("c", INCARNATIONS["c"] - 1, True))
        assert node.core._state.dead == set()
        assert node.core._state.absent == set()  # a later process has been heard since it was dialled
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert node.core._state.dead == {"c"}
        assert node.core._state.absent == {"c"}
        node.step(LinkUp("c"))
        assert node.core._state.absent == set()

    def test_another_one_makes_it_a_suspect(self) -> None:
        node = Node().join()
        node.tick(0.1)
        node.step(LinkRefused("a", INCARNATIONS["a"], False))
        state = node.core._state
        assert (state.dead, state.absent) == (set(), set())
        assert node.core.status().members[0].state == "suspect"
        (ping,) = [one for one in sent_in(node.tick()) if one.peer == "a" and one.kind == "PING"]
        assert not ping.message.supports
        node.get("a", pb.ACK, by=VIEW)
        assert node.core.status().members[0].state == "alive"
        node = Node().join()
        node.step(LinkRefused("a", INCARNATIONS["a"], False))
        node.tick(3 * timing.SUSPICION_MIN_S)  # c is silent, too, so it doubts itself
        assert node.core.status().members[0].state == "failed"


class TestHeldDead:
    """A conclusion that was wrong, as something else has refused in a living process's place."""

    def held_dead(self) -> Node:
        node = Node().join()
        node.tick(1.0)
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        node.tick(0.1)
        return node

    def test_a_proof_of_later_life_takes_it_back_with_an_error(self) -> None:
        node = self.held_dead()
        died_at = node.core._state.of("c").died_at
        node.get("c", pb.PING, by=VIEW, echo_us=round(died_at * 1e6))
        assert node.core._state.dead == {"c"}
        effects = node.get("c", pb.PING, by=VIEW)
        assert node.core._state.dead == set()
        assert node.core.status().members[2].state == "alive"
        (log,) = of_kind(effects, Log)
        assert log == Log("error", "c lives, though its machine has refused a connection: it was held dead")

    def test_from_then_on_only_a_later_process_is_proof(self) -> None:
        node = self.held_dead()
        node.get("c", pb.PING, by=VIEW)
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert node.core._state.dead == set()
        assert node.core.status().members[2].state == "suspect"
        node.get("a", pb.PING, by=VIEW, deaths=[pb.Death(address="c", incarnation=INCARNATIONS["c"])])
        assert node.core._state.dead == set()
        node.tick(0.1)
        node.get("c", pb.HELLO, incarnation=99)
        assert node.core._state.dead == {"c"}

    def test_it_is_answered_with_the_view_and_echoed_so_that_it_can_prove_itself(self) -> None:
        node = self.held_dead()
        effects = node.get("c", pb.PING, by=VIEW, fresh=False)
        (answer,) = [one for one in sent_in(effects) if one.peer == "c"]
        assert (answer.kind, answer.message.echo_us) == ("VIEW", round(node.now * 1e6))
        newcomer = Node()
        newcomer.get("c", pb.HELLO)
        newcomer.step(LinkRefused("c", INCARNATIONS["c"], True))
        newcomer.tick(0.1)
        assert "ACK" in [one.kind for one in sent_in(newcomer.get("c", pb.HELLO, fresh=False)) if one.peer == "c"]


def test_the_view_that_it_goes_by_is_no_news_whoever_tells_it() -> None:
    for me in "bd":  # a member, and one that is none
        node = Node(me).join()
        node.tick((timing.HEARD_S + timing.OBSERVED_STALE_S) / 2 if me == "d" else 0.0)
        assert not of_kind(node.get("a", pb.VIEW, view=VIEW, by=VIEW, fresh=False), ViewInstalled)
        assert "unproven view" not in node.core.status().dropped


def test_a_member_that_has_failed_does_not_count_as_live() -> None:
    core = Node().join().core
    assert core.is_up("c")
    core._detector._members["c"].state = "failed"
    assert not core.is_up("c")


class TestForcedViews:
    def forced(self, members: str) -> View:
        gone = {node: "is left behind" for node in "abc" if node not in members}
        made = replace(after(VIEW, gone=gone), cluster_id=77, is_forced=True)
        return replace(made, forced_from=(VIEW.cluster_id, VIEW.epoch))

    def test_one_that_has_us_in_it_is_taken_with_what_we_hold_once_our_lease_is_over(self) -> None:
        node = Node().join()
        node.get("a", pb.GRANT, by=VIEW, span_us=500_000, blocked=slots_to_bytes(0), settled=True)
        forced = self.forced("bc")
        effects = node.get("c", pb.VIEW, view=forced, by=forced)
        assert not of_kind(effects, ViewInstalled)
        node.get("c", pb.VIEW, view=forced, by=forced)
        assert node.core.status().dropped == {"lease runs": 2}
        node.tick(0.6)
        effects = node.get("c", pb.VIEW, view=forced, by=forced)
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(forced, True)]
        assert not of_kind(effects, Reset)

    def test_one_that_has_left_us_behind_is_joined_with_empty_hands(self) -> None:
        node = Node().join()
        forced = self.forced("c")
        effects = node.get("c", pb.VIEW, view=forced, by=forced)
        assert of_kind(effects, Reset)
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(forced, False)]

    def test_the_view_that_it_was_made_of_is_nothing_to_it(self) -> None:
        node = Node().join(self.forced("b"))
        assert not of_kind(node.get("a", pb.VIEW, view=VIEW, by=VIEW), ViewInstalled)


class TestFounding:
    def test_an_operator_is_told_why_not(self) -> None:
        assert Node().core.objection() == ""
        node = Node("d").join()
        assert node.core.objection() == "this node is no member of the cluster that it knows: ask one of a b c"
        node = Node().join()
        assert node.core.objection() == ""
        node.get("a", pb.GRANT, by=VIEW, span_us=500_000, blocked=slots_to_bytes(0), settled=True)
        assert node.core.objection() == "the cluster goes on: this node's lease runs"
        assert not of_kind(node.step(FoundRequested()), ViewInstalled)
        node.step(LeaveRequested())
        assert node.core.objection() == "this node is leaving"

    def test_a_member_founds_with_those_who_are_up_and_of_its_cluster(self) -> None:
        node = Node("b").join()
        node.core._detector._members["a"].state = "failed"
        effects = node.step(FoundRequested())
        view = node.core.view
        assert view is not None
        assert view.addresses == ("b", "c")
        assert view.cluster_id > VIEW.cluster_id
        assert (view.epoch, view.forced_from, view.is_forced) == (2, (VIEW.cluster_id, 1), False)  # two of four
        assert sent_to(effects, "VIEW") == ["c"]
        assert not of_kind(effects, Reset)
        assert next(log.level for log in of_kind(effects, Log)) == "error"  # type: ignore[attr-defined]

    def test_a_newcomer_founds_with_those_it_hears(self) -> None:
        node = Node("b")
        node.step(LinkUp("c"))
        node.get("c", pb.HELLO)
        effects = node.step(FoundRequested())
        view = node.core.view
        assert view is not None
        assert (view.addresses, view.epoch, view.forced_from) == (("b", "c"), 1, (0, 0))
        assert sent_to(effects, "VIEW") == ["c"]

    def test_of_one_in_four_it_is_forced_and_serves(self) -> None:
        node = Node("b")
        node.step(FoundRequested())
        assert node.core.view is not None
        assert node.core.view.is_forced
        node.tick(timing.LAPSE_S)
        assert node.core.lease_until == inf

    def test_a_refusal_that_is_no_proof_is_a_dial_that_came_to_nothing(self) -> None:
        node = Node().join()
        node.step(LinkRefused("c", INCARNATIONS["c"], is_proof=False))
        assert node.core._state.dead == set()
        assert {effect.peer for effect in of_kind(node.tick(timing.DIAL_S * 2), OpenLink)} == {"c"}


class TestLeaving:
    def test_an_outsider_just_goes(self) -> None:
        node = Node()
        assert Left() in node.step(LeaveRequested())
        assert node.get("a", pb.HELLO) == []  # and hears nothing more
        assert node.tick() == []

    def test_a_member_asks_and_goes_when_the_view_has_it_no_more(self) -> None:
        node = Node().join()
        effects = node.step(LeaveRequested())
        (ask,) = [one for one in sent_in(effects) if one.kind == "ASK"]
        assert ask.message.leaving
        assert Left() not in node.tick(1.0)
        without = after(VIEW, gone={"b": "left"})
        effects = node.get("a", pb.VIEW, view=without, by=without)
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(without, False)]
        assert not of_kind(effects, Reset)
        assert Left() in effects
        assert {effect.peer for effect in of_kind(effects, CloseLink)} == {"a", "c", "d"}
        assert node.core.lease_until == -inf

    def test_who_is_dead_is_told_by_the_final_view(self) -> None:
        node = Node().join()
        node.step(LinkRefused("c", INCARNATIONS["c"], True))
        assert node.core._state.dead == {"c"}
        node.step(LeaveRequested())
        final = after(VIEW, gone={"b": "left", "c": "was restarted"}, joined={"c": INCARNATIONS["c"] + 1})
        effects = node.get("a", pb.VIEW, view=final, by=final)
        assert of_kind(effects, ViewInstalled) == [ViewInstalled(final, False)]
        assert node.core._state.dead == set()

    def test_the_last_member_goes_at_once(self) -> None:
        node = Node("a", "a")
        assert node.core.is_member
        assert Left() in node.step(LeaveRequested())

    @pytest.mark.parametrize("is_heard", [True, False])
    def test_a_coordinator_stays_until_the_others_have_its_final_view(self, is_heard: bool) -> None:
        node = Node("a").join()
        node.tick(0.5)
        node.step(LeaveRequested())
        without = after(VIEW, gone={"a": "left"})
        effects = node.get("b", pb.VIEW, view=without, by=VIEW)
        assert Left() not in effects
        assert sent_to(node.tick(), "VIEW") == ["b", "c"]
        node.get("b", pb.ACK, by=without)
        effects = node.tick()
        assert sent_to(effects, "VIEW") == ["c"]
        assert Left() not in effects
        if is_heard:
            node.get("c", pb.ACK, by=without)
            assert Left() in node.tick()
        else:
            effects = node.tick(timing.FINAL_VIEW_S - 0.1)
            assert Left() not in effects
            assert not sent_to(effects, "PING"), "it watches nobody any more"
            assert Left() in node.tick(0.1)


def test_time_never_goes_back_and_a_stop_counts_for_a_tenth_of_a_second() -> None:
    node = Node().join()
    state = node.core._state
    awake_s = state.awake_s
    node.core.step(Tick(), node.now - 5.0)
    assert (state.now, state.awake_s) == (node.now, awake_s)
    node.core.step(Tick(), node.now + 0.05)
    assert state.awake_s == pytest.approx(awake_s + 0.05)
    node.core.step(Tick(), node.now + 60.0)
    assert state.awake_s == pytest.approx(awake_s + 0.05 + timing.STEP_AWAKE_MAX_S)
    assert node.core.wake_at == pytest.approx(node.now + 60.0 + timing.MEMBERSHIP_TICK_S)


def test_a_member_watches_its_coordinator_and_the_coordinator_all() -> None:
    for me, peers in (("a", {"b", "c"}), ("c", {"a"})):
        node = Node(me).join()
        node.core._detector._next_probe_awake_s = 1e9
        probed = {one.peer for one in sent_in(node.tick(timing.SILENCE_S + 0.05)) if one.kind == "PING"}
        assert probed - {"d"} == peers
