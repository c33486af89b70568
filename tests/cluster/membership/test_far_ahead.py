"""Numbers that are sound and far ahead: whoever knows the secret may say them, and the node must find a way on."""

import random
from dataclasses import replace

import pytest

from app.cluster import limits
from app.cluster.events import Datagram, FoundRequested, Reset, Send, Tick, ViewInstalled
from app.cluster.limits import EPOCH, INCARNATION, OUTBID_MAX, RANKS, STAMP_US, ballots_below
from app.cluster.membership import timing
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import ClusterConfig
from app.cluster.view import Member, View, to_message
from proto_gen import cluster_pb2 as pb

ME, B, C = SERVERS = ("a:1", "b:1", "c:1")
INCARNATIONS = {ME: 1000, B: 2000, C: 3000}
VIEW = first_view([Member(name, INCARNATIONS[name]) for name in (B, ME, C)], 2000, 3, nonce=5)
U64 = (1 << 64) - 1


class Rig:
    """A node's core, a member of VIEW, whose coordinator is b."""

    def __init__(self, view: View | None = VIEW) -> None:
        self.core = ClusterCore(ClusterConfig(ME, SERVERS), INCARNATIONS[ME], 10.0, random.Random(1))
        self.now = 10.0
        self.effects: list[object] = []
        self.step(Tick())
        if view is not None:
            self.say(B, pb.VIEW, view=to_message(view))
            assert self.core.view == view

    def step(self, event: object, after_s: float = 0.001) -> list[object]:
        self.now += after_s
        effects = self.core.step(event, self.now)  # type: ignore[arg-type]
        self.effects += effects
        return list(effects)

    def say(self, peer: str, kind: "pb.Kind", after_s: float = 0.001, **fields: object) -> list[pb.ClusterMessage]:
        """A message from the peer, which has just heard us; the answers to it."""
        view = self.core.view
        header: dict[str, object] = {
            "kind": kind,
            "incarnation": INCARNATIONS[peer],
            "to_incarnation": self.core.incarnation,
            "stamp_us": round(self.now * 1e6),
            "echo_us": round(self.now * 1e6),
        }
        if view is not None:
            header |= {"cluster_id": view.cluster_id, "epoch": view.epoch, "nonce": view.nonce}
        message = pb.ClusterMessage(**(header | fields))  # type: ignore[arg-type]
        effects = self.step(Datagram(peer, message.SerializeToString()), after_s)
        sent = [effect for effect in effects if isinstance(effect, Send) and effect.peer == peer]
        return [pb.ClusterMessage.FromString(one.payload) for one in sent]

    def dropped(self) -> dict[str, int]:
        return self.core.status().dropped

    def run(self, seconds: float) -> None:
        """Time passes, nothing comes."""
        for _ in range(round(seconds / timing.MEMBERSHIP_TICK_S)):
            self.step(Tick(), timing.MEMBERSHIP_TICK_S)


@pytest.mark.parametrize("epoch", [EPOCH.most + 1, 1 << 63, U64])
def test_an_epoch_that_is_none_is_refused(epoch: int) -> None:
    rig = Rig()
    message = to_message(VIEW)
    message.epoch = epoch
    rig.say(B, pb.VIEW, view=message)
    assert rig.core.view == VIEW
    assert rig.dropped() == {"bad view": 1}
    rig.say(B, pb.PING, epoch=epoch)
    assert rig.dropped() == {"bad view": 1, "malformed": 1}


@pytest.mark.parametrize("incarnation", [INCARNATION.most + 1, U64])
@pytest.mark.parametrize("field", ["incarnation", "to_incarnation", "target_incarnation"])
def test_an_incarnation_that_is_none_is_refused(field: str, incarnation: int) -> None:
    rig = Rig(None)
    rig.say(B, pb.PING, **{field: incarnation})
    assert rig.dropped() == {"malformed": 1}
    assert rig.core.incarnation == INCARNATIONS[ME]


def test_the_last_epoch_is_given_up_for_a_new_cluster() -> None:
    rig = Rig()
    rig.say(B, pb.VIEW, view=to_message(replace(VIEW, epoch=EPOCH.most)))
    assert rig.core.view is None
    assert [type(effect) for effect in rig.effects if isinstance(effect, Reset | ViewInstalled)][-1] is Reset
    assert rig.core.incarnation > INCARNATIONS[ME]
    rig.run(1.0)
    assert rig.core.view is None


def test_whoever_is_at_the_last_but_one_goes_on_by_founding_a_cluster() -> None:
    """Here by an operator's word; a view that is agreed on is installed the same way."""
    rig = Rig()
    rig.say(B, pb.VIEW, view=to_message(replace(VIEW, epoch=EPOCH.most - 1)))
    assert rig.core.epoch == EPOCH.most - 1
    rig.run(3.0)  # without a lease by then
    rig.step(FoundRequested())
    assert rig.core.view is None
    rig.step(FoundRequested())
    assert rig.core.view is not None
    assert rig.core.epoch == 1


def test_nobody_takes_an_incarnation_above_the_last() -> None:
    rig = Rig(None)
    rig.say(B, pb.PING, to_incarnation=OUTBID_MAX)
    assert OUTBID_MAX < rig.core.incarnation <= OUTBID_MAX + 1 + (1 << 20)
    taken = rig.core.incarnation
    rig.say(B, pb.PING, to_incarnation=INCARNATION.most)
    assert rig.core.incarnation == taken


def test_who_was_said_to_have_the_highest_incarnation_is_heard_when_it_answers() -> None:
    rig = Rig(None)
    rig.say(B, pb.PING, incarnation=INCARNATION.most)
    assert rig.core.contact(B)[0] == INCARNATION.most
    answer = rig.say(B, pb.PING, after_s=0.1, echo_us=0)[0]
    assert (answer.to_incarnation, answer.echo_us) == (INCARNATIONS[B], round((rig.now - 0.1) * 1e6))
    rig.say(B, pb.ACK, echo_us=answer.stamp_us)
    assert rig.core.contact(B)[0] == INCARNATIONS[B]


def test_a_grant_that_answers_what_we_have_yet_to_ask_is_none() -> None:
    """It would never end."""
    rig = Rig()
    for ahead_us in (2_000, STAMP_US.most):
        asked_us = min(round(rig.now * 1e6) + ahead_us, STAMP_US.most)
        rig.say(B, pb.GRANT, echo_us=asked_us, span_us=600_000)
        assert rig.core.lease_until < rig.now
    asked_us = round(rig.now * 1e6)
    rig.say(B, pb.GRANT, echo_us=asked_us, span_us=600_000)
    assert rig.now < rig.core.lease_until < rig.now + timing.SUPPORT_S


def test_a_stamp_far_ahead_is_forgotten_when_nothing_has_followed_it_for_long() -> None:
    rig = Rig()
    rig.say(B, pb.PING, stamp_us=STAMP_US.most)
    answer = rig.say(B, pb.PING)[0]
    assert answer.echo_us == STAMP_US.most
    stamp_us = round(rig.now * 1e6)
    answer = rig.say(B, pb.PING, after_s=timing.STAMP_KEPT_S + 0.1)[0]
    assert answer.echo_us == stamp_us


def test_a_ballot_far_ahead_is_refused_and_the_next_proposer_is_heard() -> None:
    rig = Rig()
    for ballot in (STAMP_US.most // RANKS * RANKS, ballots_below(1.0) // RANKS * RANKS):
        assert rig.say(B, pb.PREPARE, ballot=ballot) == []
    assert rig.dropped() == {"bad ballot": 2}
    highest = ballots_below(0.0) - RANKS
    answer = rig.say(B, pb.PREPARE, ballot=highest)[0]
    assert answer.kind == pb.PROMISE
    answer = rig.say(B, pb.PREPARE, after_s=1.0, ballot=highest + RANKS)[0]
    assert answer.kind == pb.PROMISE


@pytest.mark.parametrize("ballot", [RANKS + 1, RANKS + 2, RANKS + 255])
def test_a_ballot_of_anothers_is_not_taken(ballot: int) -> None:
    rig = Rig()
    following = to_message(replace(VIEW, epoch=2))
    assert rig.say(B, pb.PREPARE, ballot=ballot) == []
    assert rig.say(B, pb.ACCEPT, ballot=ballot, view=following) == []
    assert rig.dropped() == {"bad ballot": 2}
    answer = rig.say(B, pb.ACCEPT, ballot=RANKS, view=following)[0]
    assert answer.kind == pb.ACCEPTED


@pytest.mark.parametrize("view", [VIEW, replace(VIEW, epoch=3), replace(VIEW, cluster_id=1, epoch=2)])
def test_only_what_follows_our_view_is_accepted(view: View) -> None:
    rig = Rig()
    assert rig.say(B, pb.ACCEPT, ballot=RANKS, view=to_message(view)) == []
    assert rig.dropped() == {"bad view": 1}


def test_nobody_is_kept_in_mind_for_being_named() -> None:
    rig = Rig()
    for n in range(200):
        deaths = [pb.Death(address=f"{n}.{m}:1", incarnation=5) for m in range(60)]
        synced = [pb.Synced(address=f"{n}.{m}:1", slots=b"\xff" * 32) for m in range(60)]
        rig.say(B, pb.PING, deaths=deaths, synced=synced, lacks=[f"{n}:1"])
    assert set(rig.core._state.known) <= set(SERVERS)
    for n in range(20):
        strangers = [Member(f"{n}.{m}:1", 7) for m in range(60)]
        members = [Member(name, INCARNATIONS[name]) for name in (B, ME, C)]
        view = replace(first_view(members + strangers, 2000, 3, nonce=5), epoch=2 + n)
        rig.say(B, pb.VIEW, view=to_message(view))
    assert rig.core.epoch == 21
    assert len(rig.core._state.known) == 63


def test_an_operators_cluster_has_a_sound_id_whatever_the_one_before_had() -> None:
    rig = Rig()
    far = replace(VIEW, cluster_id=limits.CLUSTER_ID.most, forced_from=(VIEW.cluster_id, EPOCH.most))
    rig.say(B, pb.VIEW, view=to_message(far))
    assert rig.core.view == far
    rig.run(3.0)
    rig.step(FoundRequested())
    assert rig.core.view is not None
    assert limits.CLUSTER_ID.has(rig.core.view.cluster_id)
    assert rig.core.view.cluster_id != far.cluster_id


@pytest.mark.parametrize("changes", [{"nonce": 9}, {"cluster_id": 1}])
def test_a_made_up_view_that_prevails_is_left_when_nobody_serves_by_it(changes: dict[str, int]) -> None:
    """All others go by VIEW, and have leases."""
    made_up = replace(VIEW, **changes)  # type: ignore[arg-type]
    rig = Rig(made_up)
    rig.say(B, pb.VIEW, view=to_message(VIEW))
    assert rig.core.view == made_up
    rig.run(timing.STUCK_S)
    rig.say(B, pb.VIEW, after_s=0.1, view=to_message(VIEW))
    assert rig.core.view == VIEW
    assert rig.core.is_member
    assert not any(isinstance(effect, Reset) for effect in rig.effects), "it keeps its copies"


def test_a_view_that_does_not_have_us_is_no_way_out() -> None:
    rig = Rig(replace(VIEW, nonce=9))
    rig.run(timing.STUCK_S + 1.0)
    members = [Member(name, INCARNATIONS[name]) for name in (B, C)]
    rig.say(B, pb.VIEW, view=to_message(first_view(members, 2000, 3, nonce=5)))
    assert rig.core.view is not None
    assert rig.core.view.nonce == 9


@pytest.mark.parametrize("incarnation", [OUTBID_MAX + 1, INCARNATION.most])
def test_members_that_never_were_are_replaced_by_the_processes_that_are_there(incarnation: int) -> None:
    """Though these have lower incarnations, and can't outbid them."""
    made_up = first_view(
        [Member(ME, INCARNATIONS[ME]), Member(B, incarnation), Member(C, incarnation)], 2000, 3, nonce=5
    )
    rig = Rig(made_up)
    for _ in range(20):
        for peer in (B, C):
            rig.say(peer, pb.HELLO, after_s=timing.MEMBERSHIP_TICK_S)
    assert rig.core.view is not None
    assert rig.core.view.incarnations == INCARNATIONS


@pytest.mark.parametrize("echo_us", [STAMP_US.most, 11_000_000])
def test_a_view_that_is_vouched_for_at_a_time_to_come_keeps_no_later_process_out(echo_us: int) -> None:
    rig = Rig()
    rig.say(B, pb.VIEW, view=to_message(replace(VIEW, epoch=VIEW.epoch + 1)), echo_us=echo_us)
    assert rig.core.epoch == VIEW.epoch + 1
    (answer,) = rig.say(C, pb.HELLO, incarnation=4000)
    assert answer.to_incarnation == 4000
    assert rig.dropped() == {}
