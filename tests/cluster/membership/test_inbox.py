"""What a datagram from a peer goes through before its handler: what is dropped, what its header proves, what it is
answered with."""

from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from app.cluster.events import Log
from app.cluster.limits import OUTBID_MAX
from app.cluster.membership import timing
from app.cluster.membership.bootstrap import Bootstrap
from app.cluster.membership.detector import ALIVE, DEAD, Detector
from app.cluster.membership.inbox import Inbox
from app.cluster.membership.leases import Grantor
from app.cluster.view import to_message
from app.version import NODE_PROTOCOL, SHARED_REGISTER
from app.wire.protocol import DATAGRAM_MAX_BYTES
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, a_state, a_view, die, take_kinds, take_sent, wait

VIEW = a_view()
B = INCARNATIONS["b"]


class Rig:
    """The inbox of `a`, which goes by VIEW or, as a newcomer, by none; what it hands on is written down."""

    def __init__(self, members: str = "abc", **config: object) -> None:
        self.state = a_state("a", members, "abcd", **config)
        wait(self.state, 1.0)
        self.known = self.state.of("b")
        self.detector = Detector(self.state)
        self.detector.set_members((name, INCARNATIONS[name]) for name in self.state.others())
        self.bootstrap = Bootstrap(self.state)
        self.coordinator: Any = SimpleNamespace(grantor=None, renew=False)
        self.handled: list[pb.ClusterMessage] = []
        self.died: list[tuple[str, int]] = []
        self.raised: list[int] = []
        handlers = {kind: lambda peer, message: self.handled.append(message) for kind in (pb.PING, pb.ACK)}
        self.inbox = Inbox(
            self.state,
            self.detector,
            self.bootstrap,
            self.coordinator,
            handlers,
            lambda address, incarnation: self.died.append((address, incarnation)),
            self.raised.append,
        )

    def get(self, peer: str = "b", *, by: Any = VIEW, echo_s: float | None = None, **fields: object) -> bool:
        """A message of the peer; `by`: the view that it goes by; `echo_s`: it answers what we said then. Whether its
        handler was called."""
        header: dict[str, object] = {
            "kind": pb.PING,
            "incarnation": INCARNATIONS[peer],
            "to_incarnation": self.state.incarnation,
            "node_protocol": self.state.protocol,
            "stamp_us": round(self.state.now * 1e6),
            "echo_us": round(echo_s * 1e6) if echo_s is not None else 0,
        }
        if by is not None:
            header |= {"cluster_id": by.cluster_id, "epoch": by.epoch, "nonce": by.nonce}
        message = pb.ClusterMessage(**(header | fields))  # type: ignore[arg-type]
        before = len(self.handled)
        self.inbox.take(peer, message.SerializeToString())
        return len(self.handled) > before

    def said(self) -> list[str]:
        """The log's lines."""
        return [effect.text for effect in self.state.effects if isinstance(effect, Log)]


class TestDropped:
    """Nothing is noted of it, and nobody is answered."""

    @pytest.mark.parametrize(
        ("peer", "fields", "reason"),
        [
            ("a", {}, "stranger"),
            ("e", {}, "stranger"),
            ("b", {"kind": pb.HELLO}, "malformed"),  # which nobody takes here
            ("b", {"kind": 99}, "malformed"),
            ("b", {"incarnation": 0}, "malformed"),
            ("b", {"sender": "c"}, "other sender"),
        ],
    )
    def test_a_message_that_is_not_the_peers_or_not_sound(
        self, peer: str, fields: dict[str, object], reason: str
    ) -> None:
        rig = Rig()
        before = repr(rig.state.known)
        assert not rig.get(peer, echo_s=rig.state.now, **fields)
        assert rig.state.dropped == {reason: 1}
        assert (repr(rig.state.known), rig.state.effects) == (before, [])

    @pytest.mark.parametrize(
        ("size", "reason"), [(DATAGRAM_MAX_BYTES, "malformed"), (DATAGRAM_MAX_BYTES + 1, "oversized")]
    )
    def test_one_that_is_too_long_is_not_even_parsed(self, size: int, reason: str) -> None:
        rig = Rig()
        rig.inbox.take("b", b"\xff" * size)
        assert rig.state.dropped == {reason: 1}

    def test_what_names_its_sender_is_taken(self) -> None:
        rig = Rig()
        assert rig.get(sender="b")
        assert rig.state.dropped == {}


class TestOtherProtocol:
    def test_that_is_said_now_and_then_on_both_sides(self) -> None:
        rig = Rig()
        for later_s, lines in ((0.0, 1), (timing.WAITING_LOG_S - 0.1, 0), (0.1, 1)):
            wait(rig.state, later_s)
            rig.get(node_protocol=NODE_PROTOCOL + 1)
            assert [effect.level for effect in rig.state.effects if isinstance(effect, Log)] == ["warning"] * lines
            assert take_kinds(rig.state) == [("b", "ACK")] * lines
        assert rig.state.dropped == {"other protocol": 3}

    @pytest.mark.parametrize(
        ("has_register", "theirs"), [(True, NODE_PROTOCOL), (False, NODE_PROTOCOL + SHARED_REGISTER)]
    )
    def test_a_node_with_an_etcd_and_one_without(self, has_register: bool, theirs: int) -> None:
        rig = Rig(shared_register=has_register)
        rig.get(node_protocol=theirs)
        (line,) = rig.said()
        assert line == (
            "b is refused: one of the two goes by an etcd, the other does not: give both the same --coordination"
        )

    def test_whoever_speaks_it_is_there(self) -> None:
        rig = Rig("")
        rig.state.note_absent("b", rig.state.now)
        rig.get(node_protocol=NODE_PROTOCOL + 1)
        assert (rig.state.absent, rig.state.of("b").absent_at) == (set(), -inf)


class TestOurIncarnation:
    @pytest.mark.parametrize(
        ("members", "to", "is_raised"),
        [
            ("", 11, True),
            ("", 10, False),  # ours
            ("", OUTBID_MAX, True),
            ("", OUTBID_MAX + 1, False),
            ("abc", 11, False),  # a member's is what its view says
        ],
    )
    def test_an_outsider_takes_a_higher_one_than_the_process_before_it(
        self, members: str, to: int, is_raised: bool
    ) -> None:
        rig = Rig(members)
        rig.get(by=None, to_incarnation=to)
        assert rig.raised == ([to] if is_raised else [])


class TestStale:
    """From a process before the one that is known at its address."""

    @pytest.mark.parametrize(("members", "kind"), [("abc", "VIEW"), ("", "ACK")])
    def test_it_is_told_of_the_later_one_at_a_limited_rate(self, members: str, kind: str) -> None:
        rig = Rig(members)
        rig.known.incarnation = B
        for later_s, answers in ((0.0, 1), (timing.ANTI_ENTROPY_S - 0.001, 0), (0.001, 1)):
            wait(rig.state, later_s)
            assert not rig.get(by=None, incarnation=B - 1)
            sent = take_sent(rig.state)
            assert [(one.kind, one.message.to_incarnation) for one in sent] == [(kind, B)] * answers
        assert rig.state.dropped == {"stale incarnation": 3}

    @pytest.mark.parametrize(("known", "to"), [(OUTBID_MAX, OUTBID_MAX), (OUTBID_MAX + 1, 5)])
    def test_where_it_can_not_outbid_that_it_is_asked_to_show_that_it_came_later(self, known: int, to: int) -> None:
        rig = Rig("")
        rig.known.incarnation = known
        rig.get(by=None, incarnation=5, stamp_us=77)
        (sent,) = take_sent(rig.state)
        assert (sent.message.to_incarnation, sent.message.echo_us) == (to, 77 if to == 5 else 0)

    @pytest.mark.parametrize(("echo_s", "is_later"), [(100.5, False), (100.5001, True)])
    def test_one_that_lived_when_the_other_was_known_came_later(self, echo_s: float, is_later: bool) -> None:
        rig = Rig()
        rig.known.learned_at = 100.5
        assert rig.get(by=None, incarnation=B - 5, echo_s=echo_s) == is_later
        assert rig.state.dead == ({"b"} if is_later else set())
        assert rig.detector.state_of("b") == (DEAD if is_later else ALIVE)
        assert rig.known.is_dead(B) == is_later
        assert rig.known.incarnation == (B - 5 if is_later else B)


class TestDead:
    @pytest.mark.parametrize(("echo_s", "lives"), [(100.5, False), (100.5001, True), (None, False)])
    def test_who_lived_after_it_was_held_dead_is_not(self, echo_s: float | None, lives: bool) -> None:
        rig = Rig()
        die(rig.state, "b")
        rig.detector.died("b", B)
        rig.known.died_at, rig.known.stamp_us = 100.5, 0
        assert rig.get(echo_s=echo_s) == lives
        assert (rig.state.dead, rig.known.undead) == ((set(), B) if lives else ({"b"}, 0))
        assert rig.detector.state_of("b") == (ALIVE if lives else DEAD)
        assert rig.known.stamp_us == 101_000_000, "it is answered with that, so that it may show that it lives"
        assert any("b lives, though" in line for line in rig.said()) == lives

    def test_what_it_says_says_nothing_of_another_that_is_dead(self) -> None:
        rig = Rig()
        rig.known.incarnation, rig.known.dead, rig.known.died_at = B, B + 1, 100.5
        assert not rig.get(incarnation=B + 1, echo_s=100.9)
        assert rig.known.undead == 0


class TestLater:
    """From a process with a higher incarnation than the one that is known at its address."""

    @pytest.mark.parametrize("dated", ["heard_at", "vouched_at"])
    @pytest.mark.parametrize(("echo_s", "is_later"), [(100.5, False), (100.5001, True), (None, False)])
    def test_it_is_to_show_that_it_lives_still(self, dated: str, echo_s: float | None, is_later: bool) -> None:
        rig = Rig()
        setattr(rig.known, dated, 100.5)
        assert rig.get(by=None, incarnation=B + 1, echo_s=echo_s) == is_later
        assert rig.died == ([("b", B)] if is_later else [])
        assert rig.known.incarnation == (B + 1 if is_later else B)
        asked = [one for one in take_sent(rig.state) if one.message.to_incarnation == B + 1 and one.kind == "PING"]
        assert [one.message.echo_us for one in asked] == ([] if is_later else [101_000_000])

    def test_it_is_asked_at_a_limited_rate(self) -> None:
        rig = Rig()
        for later_s, asked in ((0.0, 1), (timing.ANTI_ENTROPY_S - 0.001, 0), (0.001, 1)):
            wait(rig.state, later_s)
            rig.get(by=None, incarnation=B + 1)
            assert take_kinds(rig.state) == [("b", "PING")] * asked

    def test_not_if_the_one_before_is_dead_or_there_was_none(self) -> None:
        rig = Rig()
        die(rig.state, "b")
        assert rig.get(by=None, incarnation=B + 1)
        assert rig.get("d", by=None)
        assert rig.died == [("b", B), ("d", INCARNATIONS["d"] - 1)]


class TestHeader:
    def test_what_is_noted_of_whoever_speaks(self) -> None:
        rig = Rig()
        theirs = a_view("abc", nonce=9)
        assert rig.get(by=theirs)
        known = rig.known
        assert (known.learned_at, known.stamp_us, known.stamped_at) == (101.0, 101_000_000, 101.0)
        assert (known.view_key, known.names_protocol) == (theirs.key, True)
        assert (known.heard_at, known.heard_awake_s) == (-inf, -inf), "it has not shown that it hears us"
        assert rig.get(by=theirs, node_protocol=0)
        assert not known.names_protocol

    @pytest.mark.parametrize(("earlier_us", "is_news"), [(1, False), (0, True)])
    def test_what_is_late_says_no_more_which_view_it_goes_by(self, earlier_us: int, is_news: bool) -> None:
        rig = Rig()
        rig.get()
        rig.get(by=a_view("abc", nonce=9), stamp_us=101_000_000 - earlier_us)
        assert (rig.known.view_key[2] == 9) == is_news

    def test_it_is_there_and_a_guest_is_listened_to_for_longer(self) -> None:
        rig = Rig("")
        rig.state.note_absent("b", rig.state.now)
        rig.state.guests["b"] = 0.0
        rig.get(by=None)
        rig.get("c", by=None)
        assert (rig.state.absent, rig.state.guests) == (set(), {"b": 1.0})

    def test_newcomers_know_who_else_is_one(self) -> None:
        rig = Rig("")
        for by, is_newcomer in ((None, True), (VIEW, False), (None, True)):
            rig.get(by=by, echo_s=100.9)
            rig.known.note_link(is_up=True)
            assert ("b" in rig.bootstrap.present()) == is_newcomer

    def test_the_latest_proof_of_life_counts(self) -> None:
        rig = Rig()
        rig.detector._members["b"].heard_at = -inf
        for echo_s, heard_at in ((100.7, 100.7), (100.6, 100.7), (None, 100.7), (101.1, 100.7), (100.8, 100.8)):
            rig.get(echo_s=echo_s)
            assert (rig.known.heard_at, rig.known.heard_awake_s) == (heard_at, 1.0)
            assert rig.detector.last_heard("b") == (heard_at, 1.0)

    def test_what_is_for_the_process_before_us_proves_nothing(self) -> None:
        rig = Rig()
        rig.get(to_incarnation=9, echo_s=100.9)
        assert rig.known.heard_at == -inf

    @pytest.mark.parametrize(
        ("incarnation", "known", "undead", "is_believed"),
        [
            (12, 12, 0, True),  # of the view
            (12, 99, 0, True),
            (11, 12, 0, True),  # of one before
            (13, 12, 0, False),  # of one that nobody knows
            (13, 13, 0, True),
            (12, 12, 12, False),  # it was held dead, and lived
            (12, 12, 11, True),
        ],
    )
    def test_deaths_are_believed_of_processes_that_are_known(
        self, incarnation: int, known: int, undead: int, is_believed: bool
    ) -> None:
        rig = Rig()
        rig.state.of("c").incarnation, rig.state.of("c").undead = known, undead
        rig.get(deaths=[pb.Death(address="c", incarnation=incarnation)])
        assert rig.died == ([("c", incarnation)] if is_believed else [])

    def test_nobody_is_kept_in_mind_for_being_called_dead(self) -> None:
        rig = Rig()
        rig.get(deaths=[pb.Death(address="x", incarnation=1), pb.Death(address="c", incarnation=12)])
        assert "x" not in rig.state.known
        assert rig.died == [("c", 12)]


class TestSupport:
    """Of the coordinator, in what its members say."""

    def rig(self) -> Rig:
        rig = Rig()
        rig.coordinator.grantor = Grantor(VIEW, "a")
        return rig

    @pytest.mark.parametrize(
        ("fields", "until"),
        [
            ({"supports": True, "echo_s": 100.9}, True),
            ({"supports": True}, False),  # it does not show when it said so
            ({"supports": False, "echo_s": 100.9}, False),
            ({"supports": True, "echo_s": 100.9, "by": a_view("abc", nonce=9)}, False),
            ({"supports": True, "echo_s": 100.9, "support_withdrawn": True}, False),
        ],
    )
    def test_it_is_dated_by_what_it_answers(self, fields: dict[str, Any], until: bool) -> None:
        rig = self.rig()
        expected = Grantor(VIEW, "a")
        if until:
            expected.add_support("b", 100.9)
        rig.get(**fields)
        assert rig.coordinator.grantor.support_until == expected.support_until
        assert rig.coordinator.renew == fields.get("support_withdrawn", False)

    def test_withdrawn_from_another_view_it_is_nothing_to_us(self) -> None:
        rig = self.rig()
        rig.get(by=a_view("abc", nonce=9), support_withdrawn=True)
        assert not rig.coordinator.renew

    def test_who_does_not_coordinate_takes_none(self) -> None:
        rig = Rig()
        rig.get(supports=True, support_withdrawn=True, echo_s=100.9)
        assert not rig.coordinator.renew


class TestViews:
    """Whenever two nodes talk they compare views."""

    @pytest.mark.parametrize(
        ("mine", "theirs", "kind", "answer"),
        [
            (5, (7, 5, 1), pb.PING, ""),
            (5, (7, 4, 1), pb.PING, "VIEW"),
            (5, (7, 5, 2), pb.PING, "VIEW"),
            (5, (8, 9, 1), pb.PING, "VIEW"),
            (5, (7, 6, 1), pb.PING, "ACK"),
            (5, (7, 6, 1), pb.ACK, ""),  # it has heard which one is ours
            (5, (7, 4, 1), pb.ACK, "VIEW"),
            (5, (0, 0, 0), pb.PING, "VIEW"),
            (0, (0, 0, 0), pb.PING, ""),
            (0, (7, 1, 1), pb.PING, "ACK"),
            (0, (7, 1, 1), pb.ACK, ""),
        ],
    )
    def test_the_one_with_the_newer_one_sends_it(
        self, mine: int, theirs: tuple[int, int, int], kind: "pb.Kind", answer: str
    ) -> None:
        rig = Rig("abc" if mine else "")
        if mine:
            rig.state.view = replace(VIEW, epoch=mine)
        cluster_id, epoch, nonce = theirs
        rig.get(by=None, kind=kind, cluster_id=cluster_id, epoch=epoch, nonce=nonce)
        sent = take_sent(rig.state)
        assert [one.kind for one in sent] == ([answer] if answer else [])
        if answer == "VIEW":
            assert sent[0].message.view == to_message(rig.state.view)

    def test_at_a_limited_rate_for_each(self) -> None:
        rig = Rig()
        for later_s, answers in ((0.0, 1), (timing.ANTI_ENTROPY_S - 0.001, 0), (0.001, 1)):
            wait(rig.state, later_s)
            rig.get(by=None)
            assert take_kinds(rig.state) == [("b", "VIEW")] * answers
        rig.get("c", by=None)
        assert take_kinds(rig.state) == [("c", "VIEW")]

    def test_by_what_the_message_itself_has_changed(self) -> None:
        """It may have brought the view."""
        rig = Rig("")

        def install(peer: str, message: pb.ClusterMessage) -> None:
            rig.state.view = VIEW

        rig.inbox._handlers[pb.PING] = install
        rig.get(by=VIEW)
        assert take_kinds(rig.state) == []
