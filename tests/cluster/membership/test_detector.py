"""The failure detector on its own: when it probes, whom it asks, when it suspects, and what clears a suspicion."""

import pytest

from app.cluster.events import Log
from app.cluster.membership import timing
from app.cluster.membership.detector import ALIVE, DEAD, FAILED, SUSPECTED, Detector, suspicion_s
from app.cluster.membership.state import NodeState
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, NOW, a_state, from_peer, take_kinds, take_sent, wait

TIMEOUT_S = timing.PROBE_TIMEOUT_MIN_S
DEADLINE_S = timing.DEADLINE_SHARE * TIMEOUT_S


def a_detector(members: str = "abc", me: str = "a") -> tuple[NodeState, Detector]:
    state = a_state(me, members)
    detector = Detector(state)
    detector.set_members((member, INCARNATIONS[member]) for member in members if member != me)
    return state, detector


def probe_one(state: NodeState, detector: Detector) -> str:
    """A tick in which it is a member's turn; whom it probes."""
    detector.tick(())
    ((peer, kind),) = take_kinds(state)
    assert kind == "PING"
    return peer


def suspect_one(state: NodeState, detector: Detector) -> str:
    """Whom the detector suspects, after a probe that nobody answered."""
    peer = probe_one(state, detector)
    watched = detector._members[peer]
    wait(state, DEADLINE_S)
    for other, info in detector._members.items():
        if other != peer:
            info.probe = None
    detector._next_probe_awake_s = state.awake_s + 100.0
    detector.tick(())
    assert watched.state == SUSPECTED
    detector.health = 0
    take_sent(state)
    return peer


@pytest.mark.parametrize(
    ("confirmations", "others", "seconds"),
    [
        (0, 0, timing.SUSPICION_MIN_S),
        (0, 1, timing.SUSPICION_MAX_S),
        (1, 1, timing.SUSPICION_MIN_S),
        (0, 9, timing.SUSPICION_MAX_S),
        (1, 9, 0.275),
        (3, 9, timing.SUSPICION_MIN_S),
        (9, 9, timing.SUSPICION_MIN_S),
    ],
)
def test_suspicion_shortens_with_confirmations(confirmations: int, others: int, seconds: float) -> None:
    assert suspicion_s(confirmations, others) == pytest.approx(seconds)


class TestTimeout:
    @pytest.mark.parametrize(
        ("round_trip_s", "health", "timeout_s"),
        [
            (0.0, 0, 0.06),  # the floor
            (0.02, 0, 0.06),
            (0.03, 0, 0.09),  # three of the worst recent round trips
            (0.3, 0, 0.5),  # the ceiling
            (0.0, 1, 0.12),
            (0.3, 8, 4.5),  # ninefold, for a node that doubts itself most
        ],
    )
    def test_it_follows_round_trips_and_our_own_health(
        self, round_trip_s: float, health: int, timeout_s: float
    ) -> None:
        state, detector = a_detector()
        state.round_trip_s, detector.health = round_trip_s, health
        assert detector.probe_timeout_s() == pytest.approx(timeout_s)

    def test_round_trips_are_remembered_and_fade(self) -> None:
        state, detector = a_detector("ab")
        probe_one(state, detector)
        wait(state, 0.05)
        detector.heard("b", INCARNATIONS["b"], NOW)
        assert state.round_trip_s == pytest.approx(0.05)
        wait(state, 0.1)
        probe_one(state, detector)
        wait(state, 0.01)
        detector.heard("b", INCARNATIONS["b"], state.now)
        assert state.round_trip_s == pytest.approx(0.05 * timing.ROUND_TRIP_DECAY)

    @pytest.mark.parametrize(("clock_s", "awake_s"), [(9.0, 0.02), (0.02, 9.0)])
    def test_time_in_which_we_were_stopped_is_no_round_trip(self, clock_s: float, awake_s: float) -> None:
        state, detector = a_detector("ab")
        wait(state, 1.0)
        probe_one(state, detector)
        state.now += clock_s
        state.awake_s += awake_s
        detector.heard("b", INCARNATIONS["b"], NOW + 1.0)
        assert state.round_trip_s == pytest.approx(0.02)


class TestProbing:
    def test_each_is_probed_once_a_round_one_an_interval(self) -> None:
        state, detector = a_detector("abcd")
        probed = []
        for _ in range(6):
            probed.append(probe_one(state, detector))
            for name in "bcd":
                detector.heard(name, INCARNATIONS[name], state.now)
            wait(state, timing.PROBE_INTERVAL_S / 2)
            detector.tick(())  # too early for the next
            assert take_kinds(state) == []
            wait(state, timing.PROBE_INTERVAL_S / 2 + 0.001)
        assert sorted(probed[:3]) == sorted(probed[3:]) == ["b", "c", "d"]

    def test_nobody_is_probed_twice_at_once(self) -> None:
        state, detector = a_detector("ab")
        detector._members["b"].probe = detector._start_probe("b", detector._members["b"], own=True)
        started_at = detector._members["b"].probe.started_at
        take_sent(state)
        wait(state, 0.001)
        detector.tick(())
        assert take_kinds(state) == []
        assert detector._members["b"].probe.started_at == started_at

    def test_rounds_are_shuffled(self) -> None:
        """Else all would probe the same one at the same time."""
        orders = set()
        for seed in range(9):
            state, detector = a_detector("abcd")
            state.rng.seed(seed)
            probe_one(state, detector)
            orders.add(tuple(detector._round))
        assert len(orders) > 3

    def test_a_failed_one_is_pinged_in_its_turn_without_a_probe(self) -> None:
        state, detector = a_detector("ab")
        detector._members["b"].state = FAILED
        detector.tick(())
        assert take_kinds(state) == [("b", "PING")]
        assert detector._members["b"].probe is None

    def test_others_are_asked_for_a_failed_one_too_and_it_is_back_once_one_of_them_vouches_for_it(self) -> None:
        """It may live where only we don't hear it, and stay a member."""
        state, detector = a_detector("abc")
        detector._members["b"].state, detector._members["b"].failed_at = FAILED, state.now
        detector._round = ["c", "b"]  # from its end
        wait(state, 1.0)
        detector.tick(())
        (asked,) = [one for one in take_sent(state) if one.kind == "PING_REQ"]
        assert (asked.peer, asked.message.target, asked.message.target_incarnation) == ("c", "b", INCARNATIONS["b"])
        vouch = from_peer(state, "c", pb.VOUCH, target="b", target_incarnation=INCARNATIONS["b"])
        vouch.number = asked.message.stamp_us
        detector.on_vouch(vouch)
        assert detector.state_of("b") == ALIVE

    def test_after_a_failed_one_the_next_is_probed_in_the_same_turn(self) -> None:
        state, detector = a_detector("abc")
        detector._members["b"].state = FAILED
        detector._round = ["c", "b"]  # from its end
        detector.tick(())
        assert take_kinds(state) == [("b", "PING"), ("c", "PING"), ("c", "PING_REQ")]
        assert detector._members["c"].probe is not None

    def test_the_dead_are_left_alone(self) -> None:
        state, detector = a_detector("ab")
        assert detector.died("b", INCARNATIONS["b"])
        detector.tick(["b"])
        assert take_kinds(state) == []

    @pytest.mark.parametrize(("silent_s", "is_probed"), [(0.25, False), (0.2501, True)])
    def test_a_partner_of_the_heartbeat_is_probed_out_of_turn_once_it_is_silent(
        self, silent_s: float, is_probed: bool
    ) -> None:
        state, detector = a_detector("ab")
        detector._next_probe_awake_s = 1e9
        wait(state, 0.5)
        detector.heard("b", INCARNATIONS["b"], state.now)
        wait(state, silent_s)
        detector.tick(["b", "a", "unknown"])
        assert take_kinds(state) == ([("b", "PING")] if is_probed else [])
        probe = detector._members["b"].probe
        assert (probe is not None and probe.own) == is_probed

    def test_slow_round_trips_make_its_silence_longer(self) -> None:
        state, detector = a_detector("ab")
        detector._next_probe_awake_s = 1e9
        state.round_trip_s = 0.1
        wait(state, 0.34)
        detector.tick(["b"])
        assert take_kinds(state) == []
        wait(state, 0.02)
        detector.tick(["b"])
        assert take_kinds(state) == [("b", "PING")]

    def test_a_suspect_partner_is_not_probed_anew(self) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector._members["b"].suspicion.reprobed_awake_s = 1e9  # type: ignore[union-attr]
        wait(state, 0.3)
        detector._members["b"].suspicion.started_awake_s = state.awake_s  # type: ignore[union-attr]
        detector.tick(["b"])
        assert detector._members["b"].probe is None

    def test_time_in_which_we_were_stopped_is_not_their_silence(self) -> None:
        state, detector = a_detector("ab")
        probe_one(state, detector)
        state.now += 60.0
        state.awake_s += timing.STEP_AWAKE_MAX_S
        detector._next_probe_awake_s = 1e9
        detector.tick(["b"])
        assert detector.state_of("b") == ALIVE
        assert detector._members["b"].probe is not None


class TestUnanswered:
    @pytest.mark.parametrize("members", ["ab", "abc", "abcd", "abcdefg"])
    def test_after_the_timeout_up_to_three_others_are_asked_and_it_is_pinged_again(self, members: str) -> None:
        state, detector = a_detector(members)
        target = probe_one(state, detector)
        detector._next_probe_awake_s = 1e9
        wait(state, TIMEOUT_S - 0.001)
        detector.tick(())
        assert take_kinds(state) == []
        wait(state, 0.002)
        detector.tick(())
        sent = take_sent(state)
        relays = [one for one in sent if one.kind == "PING_REQ"]
        assert [one.peer for one in sent if one.kind == "PING"] == [target]
        assert len({one.peer for one in relays} - {target}) == len(relays) == min(3, len(members) - 2)
        assert {(one.message.target, one.message.target_incarnation) for one in relays} <= {
            (target, INCARNATIONS[target])
        }
        wait(state, 0.001)
        detector.tick(())
        assert take_kinds(state) == []  # once

    def test_who_is_not_up_is_not_asked(self) -> None:
        state, detector = a_detector("abcd")
        target = probe_one(state, detector)
        one, other = (name for name in "bcd" if name != target)
        detector._members[one].state = FAILED
        detector._members[other].state = SUSPECTED
        detector._next_probe_awake_s = 1e9
        wait(state, TIMEOUT_S)
        detector.tick(())
        assert take_kinds(state) == sorted([(target, "PING"), (other, "PING_REQ")])

    def test_at_the_deadline_it_is_suspected_and_all_are_told_the_suspect_too(self) -> None:
        state, detector = a_detector("abc")
        target = probe_one(state, detector)
        detector._next_probe_awake_s = 1e9
        detector._members[target].refutation = 4
        wait(state, DEADLINE_S - 0.001)
        detector.tick(())
        take_sent(state)
        assert detector.state_of(target) == ALIVE
        wait(state, 0.002)
        detector.tick(())
        assert detector.state_of(target) == SUSPECTED
        assert detector.is_up(target)
        told = [one for one in take_sent(state) if one.kind == "SUSPECT"]
        assert {one.peer for one in told} == {"b", "c"}
        assert {(one.message.target, one.message.target_incarnation, one.message.number) for one in told} == {
            (target, INCARNATIONS[target], 4)
        }

    def test_a_probe_for_another_makes_no_suspicion(self) -> None:
        state, detector = a_detector("abc")
        detector._next_probe_awake_s = 1e9
        detector.on_ping_req("c", from_peer(state, "c", pb.PING_REQ, target="b", target_incarnation=11, stamp_us=5))
        assert take_kinds(state) == [("b", "PING")]
        wait(state, TIMEOUT_S)
        detector.tick(())
        (nack,) = take_sent(state)
        assert (nack.peer, nack.kind, nack.message.target, nack.message.number) == ("c", "NACK", "b", 5)
        wait(state, DEADLINE_S)
        detector.tick(())
        assert detector.state_of("b") == ALIVE
        assert detector._members["b"].probe is None
        assert detector.health == 0
        assert take_kinds(state) == []

    @pytest.mark.parametrize(
        ("relays", "nacks", "health"),
        [
            (2, 0, 1),  # nobody answers us at all: it may be us
            (2, 1, 0),  # a relay does: so it is the target
            (0, 0, 0),  # there was nobody to ask
        ],
    )
    def test_who_gets_no_answer_from_anybody_doubts_itself(self, relays: int, nacks: int, health: int) -> None:
        state, detector = a_detector("ab" if not relays else "abcd")
        target = probe_one(state, detector)
        detector._next_probe_awake_s = 1e9
        wait(state, TIMEOUT_S)
        detector.tick(())
        for _ in range(nacks):
            detector.on_nack(from_peer(state, "b", pb.NACK, target=target))
        wait(state, DEADLINE_S)
        detector.tick(())
        assert detector.health == health

    def test_a_relays_word_on_what_we_do_not_ask_any_more_is_passed_over(self) -> None:
        state, detector = a_detector("abc")
        for target in "bx":
            detector.on_nack(from_peer(state, "c", pb.NACK, target=target))
        assert detector._members["b"].probe is None

    def test_doubt_has_a_limit(self) -> None:
        state, detector = a_detector("abc")
        detector.health = timing.HEALTH_MAX
        probe_one(state, detector)
        detector._next_probe_awake_s = 1e9
        wait(state, TIMEOUT_S * 10)
        detector.tick(())
        assert detector.health == timing.HEALTH_MAX

    def test_an_answer_restores_health(self) -> None:
        state, detector = a_detector("ab")
        detector.health = 2
        for left in (1, 0, 0):
            probe_one(state, detector)
            detector.heard("b", INCARNATIONS["b"], state.now)
            assert detector.health == left
            wait(state, timing.PROBE_INTERVAL_S)

    def test_an_answer_to_anothers_question_says_nothing_of_our_health(self) -> None:
        state, detector = a_detector("abc")
        detector.health = 2
        detector.on_ping_req("c", from_peer(state, "c", pb.PING_REQ, target="b", target_incarnation=11))
        detector.heard("b", 11, state.now)
        assert detector.health == 2


class TestSuspicion:
    def test_it_runs_out_and_then_the_suspect_has_failed(self) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        wait(state, timing.SUSPICION_MIN_S - 0.001)  # nobody else could suspect it as well
        detector.tick(())
        assert detector.state_of("b") == SUSPECTED
        state.effects.clear()
        wait(state, 0.002)
        detector.tick(())
        assert (detector.state_of("b"), detector.is_up("b")) == (FAILED, False)
        assert detector._members["b"].failed_at == state.now
        assert state.effects == [Log("warning", "b is silent: check its process, its machine and the network to it")]

    @pytest.mark.parametrize(("awake_s", "expected"), [(0.19, SUSPECTED), (0.2, FAILED)])
    def test_it_has_run_out_at_its_very_end(self, awake_s: float, expected: str) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector._members["b"].suspicion.started_awake_s = 0.0  # type: ignore[union-attr]
        state.awake_s = awake_s
        detector.tick(())
        assert detector.state_of("b") == expected

    def test_it_is_longer_where_others_could_confirm_it_and_have_not(self) -> None:
        state, detector = a_detector("abc")
        suspect = suspect_one(state, detector)
        wait(state, timing.SUSPICION_MAX_S - 0.001)
        detector.tick(())
        assert detector.state_of(suspect) == SUSPECTED
        wait(state, 0.002)
        detector.tick(())
        assert detector.state_of(suspect) == FAILED

    def test_confirmations_shorten_it(self) -> None:
        state, detector = a_detector("abcd")
        suspect = suspect_one(state, detector)
        other = "c" if suspect == "b" else "b"
        accusation = from_peer(state, other, pb.SUSPECT, target=suspect, target_incarnation=INCARNATIONS[suspect])
        for _ in range(2):  # the same one twice counts once
            detector.on_suspect(other, accusation)
        lasts = suspicion_s(1, 2)
        wait(state, lasts - 0.001)
        detector.tick(())
        assert detector.state_of(suspect) == SUSPECTED
        wait(state, 0.002)
        detector.tick(())
        assert detector.state_of(suspect) == FAILED

    def test_our_own_bad_health_stretches_it(self) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector.health = 1
        wait(state, 2 * timing.SUSPICION_MIN_S - 0.001)
        detector.tick(())
        assert detector.state_of("b") == SUSPECTED
        wait(state, 0.002)
        detector.tick(())
        assert detector.state_of("b") == FAILED

    def test_meanwhile_the_suspect_is_pinged_again_and_again(self) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)  # its first ping left at once
        wait(state, timing.REPROBE_S - 0.001)
        detector.tick(())
        assert take_kinds(state) == []
        for _ in range(2):
            wait(state, timing.REPROBE_S + 0.001)
            detector.tick(())
            assert take_kinds(state) == [("b", "PING")]

    @pytest.mark.parametrize(("dated_s", "is_cleared"), [(-0.001, False), (0.0, True), (0.1, True)])
    def test_proof_of_life_after_it_began_clears_it(self, dated_s: float, is_cleared: bool) -> None:
        """It began with the question that nobody answered, not when that was given up."""
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector.heard("b", INCARNATIONS["b"], NOW + dated_s)
        assert detector.state_of("b") == (ALIVE if is_cleared else SUSPECTED)
        assert (detector._members["b"].suspicion is None) == is_cleared

    @pytest.mark.parametrize(("dated_s", "is_back"), [(0.0, False), (0.001, True)])
    def test_a_failed_one_is_back_once_it_lived_later_than_it_failed(self, dated_s: float, is_back: bool) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        wait(state, 1.0)
        detector.tick(())
        state.effects.clear()
        detector.heard("b", INCARNATIONS["b"], state.now + dated_s)
        assert detector.state_of("b") == (ALIVE if is_back else FAILED)
        assert state.effects == ([Log("info", "b is back")] if is_back else [])

    def test_old_proof_does_not_turn_back_the_date_of_the_latest(self) -> None:
        state, detector = a_detector("ab")
        wait(state, 1.0)
        detector.heard("b", INCARNATIONS["b"], state.now)
        wait(state, 1.0)
        detector.heard("b", INCARNATIONS["b"], NOW)
        assert detector._members["b"].heard_at == NOW + 1.0
        assert detector._members["b"].heard_awake_s == state.awake_s - 1.0

    @pytest.mark.parametrize(("incarnation", "state_before"), [(10, ALIVE), (12, ALIVE), (11, DEAD)])
    def test_proof_of_another_process_or_of_a_dead_one_is_none(self, incarnation: int, state_before: str) -> None:
        state, detector = a_detector("ab")
        detector._members["b"].state = state_before
        wait(state, 1.0)
        detector.heard("b", incarnation, state.now)
        detector.heard("unknown", incarnation, state.now)
        assert detector._members["b"].heard_at == NOW


class TestRelays:
    def test_a_relay_probes_the_target_and_vouches_for_it_to_all_who_asked(self) -> None:
        state, detector = a_detector("abcd")
        for requester, stamp in (("c", 5), ("d", 6)):
            detector.on_ping_req(
                requester,
                from_peer(state, requester, pb.PING_REQ, target="b", target_incarnation=11, stamp_us=stamp),
            )
        assert take_kinds(state) == [("b", "PING")]  # one question for both
        detector.heard("b", 11, NOW - 0.001)
        assert take_kinds(state) == []  # it lived before we asked
        detector.heard("b", 11, NOW)
        vouchers = take_sent(state)
        assert [(one.peer, one.kind, one.message.number) for one in vouchers] == [("c", "VOUCH", 5), ("d", "VOUCH", 6)]
        assert {(one.message.target, one.message.target_incarnation) for one in vouchers} == {("b", 11)}

    @pytest.mark.parametrize(("target", "incarnation"), [("b", 10), ("b", 12), ("x", 11)])
    def test_it_does_not_probe_another_process(self, target: str, incarnation: int) -> None:
        state, detector = a_detector("abc")
        request = from_peer(state, "c", pb.PING_REQ, target=target, target_incarnation=incarnation)
        detector.on_ping_req("c", request)
        detector.died("b", 11)
        detector.on_ping_req("c", from_peer(state, "c", pb.PING_REQ, target="b", target_incarnation=11))
        assert take_kinds(state) == []

    @pytest.mark.parametrize(("stamp_s", "counts"), [(0.0, True), (0.0001, False)])
    def test_a_voucher_counts_as_of_our_question_and_not_for_the_future(self, stamp_s: float, counts: bool) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        number = round((state.now + stamp_s) * 1e6)
        detector.on_vouch(from_peer(state, "b", pb.VOUCH, target="b", target_incarnation=11, number=number))
        assert detector.state_of("b") == (ALIVE if counts else SUSPECTED)
        assert detector._members["b"].heard_at == pytest.approx(state.now if counts else NOW)

    def test_the_way_of_a_voucher_is_no_round_trip(self) -> None:
        """It is far longer than ours, and would make us slow to notice anything for as long as one cable is bad."""
        state, detector = a_detector("ab")
        probe_one(state, detector)
        wait(state, 0.12)
        number = round(state.now * 1e6)
        detector.on_vouch(from_peer(state, "b", pb.VOUCH, target="b", target_incarnation=11, number=number))
        assert detector._members["b"].probe is None
        assert state.round_trip_s == 0.0

    def test_an_old_voucher_clears_nothing(self) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector.on_vouch(
            from_peer(state, "b", pb.VOUCH, target="b", target_incarnation=11, number=round(NOW * 1e6) - 1)
        )
        assert detector.state_of("b") == SUSPECTED


class TestAccusations:
    def test_who_is_accused_refutes_to_all_and_doubts_itself(self) -> None:
        state, detector = a_detector("abc")
        detector._refutation = 4
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=10, number=4))
        sent = take_sent(state)
        assert {(one.peer, one.kind, one.message.number) for one in sent} == {("b", "REFUTE", 5), ("c", "REFUTE", 5)}
        assert detector.health == 1
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=10, number=2))
        assert {one.message.number for one in take_sent(state)} == {6}
        detector.health = timing.HEALTH_MAX
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=10))
        assert detector.health == timing.HEALTH_MAX

    def test_a_refutation_that_is_not_ours_yet_is_nothing_to_be_above_of(self) -> None:
        """Were it, the next one might not fit a message."""
        state, detector = a_detector("abc")
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=10, number=1))
        assert (take_kinds(state), detector.health) == ([], 0)

    def test_refutations_count_from_one(self) -> None:
        state, detector = a_detector("ab")
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=10))
        assert [one.message.number for one in take_sent(state)] == [1]

    def test_an_accusation_of_the_process_before_us_is_not_ours(self) -> None:
        state, detector = a_detector("abc")
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="a", target_incarnation=9))
        assert take_kinds(state) == []
        assert detector.health == 0

    @pytest.mark.parametrize(("silent_s", "is_believed"), [(timing.SILENCE_S, False), (timing.SILENCE_S + 0.001, True)])
    def test_of_another_it_is_believed_if_we_have_not_heard_it_either(self, silent_s: float, is_believed: bool) -> None:
        state, detector = a_detector("abc")
        wait(state, 0.5)
        detector.heard("c", INCARNATIONS["c"], state.now)
        wait(state, silent_s)
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="c", target_incarnation=12, stamp_us=5))
        watched = detector._members["c"]
        if is_believed:
            assert watched.state == SUSPECTED
            assert watched.suspicion is not None
            assert watched.suspicion.confirmed_by == {"b"}
            assert watched.suspicion.started_at == state.now
            assert take_kinds(state) == []  # the suspicion's own pings follow with the next tick
        else:
            assert watched.state == ALIVE
            assert watched.probe is not None
            assert watched.probe.own
            assert take_kinds(state) == [("c", "PING")]
            detector.heard("c", 12, state.now)
            (voucher,) = take_sent(state)
            assert (voucher.peer, voucher.kind, voucher.message.number) == ("b", "VOUCH", 5)

    def test_it_uses_the_probe_that_is_under_way(self) -> None:
        state, detector = a_detector("ab")
        probe_one(state, detector)
        probe = detector._members["b"].probe
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="b", target_incarnation=11))
        assert detector._members["b"].probe is probe
        assert take_kinds(state) == []

    @pytest.mark.parametrize(
        ("target", "incarnation", "number", "is_dead"),
        [("x", 12, 9, False), ("c", 11, 9, False), ("c", 13, 9, False), ("c", 12, 2, False), ("c", 12, 9, True)],
    )
    def test_of_a_stranger_another_process_one_that_refuted_it_or_a_dead_one_it_is_passed_over(
        self, target: str, incarnation: int, number: int, is_dead: bool
    ) -> None:
        state, detector = a_detector("abc")
        watched = detector._members["c"]
        watched.refutation = 3
        if is_dead:
            detector.died("c", 12)
        wait(state, 1.0)
        detector.on_suspect(
            "b", from_peer(state, "b", pb.SUSPECT, target=target, target_incarnation=incarnation, number=number)
        )
        assert watched.state == (DEAD if is_dead else ALIVE)
        assert watched.probe is None
        assert take_kinds(state) == []

    def test_one_that_is_as_new_as_the_last_refutation_counts(self) -> None:
        state, detector = a_detector("abc")
        detector._members["c"].refutation = 3
        wait(state, 1.0)
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="c", target_incarnation=12, number=3))
        assert detector.state_of("c") == SUSPECTED

    def test_a_failed_one_is_not_suspected_again(self) -> None:
        state, detector = a_detector("abc")
        detector._members["c"].state = FAILED
        wait(state, 1.0)
        detector.on_suspect("b", from_peer(state, "b", pb.SUSPECT, target="c", target_incarnation=12))
        assert detector.state_of("c") == FAILED
        assert detector._members["c"].probe is None


class TestRefutation:
    @pytest.mark.parametrize("before", [SUSPECTED, FAILED])
    def test_it_clears_the_suspect(self, before: str) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        watched = detector._members["b"]
        watched.state = before
        watched.probe = detector._start_probe("b", watched, own=True)
        wait(state, 0.1)
        detector.on_refute("b", 11, 1)
        assert (watched.state, watched.suspicion, watched.probe, watched.refutation) == (ALIVE, None, None, 1)
        assert (watched.heard_at, watched.heard_awake_s) == (state.now, state.awake_s)

    @pytest.mark.parametrize(("address", "incarnation", "number"), [("b", 11, 3), ("b", 10, 9), ("x", 11, 9)])
    def test_an_old_one_or_anothers_does_not(self, address: str, incarnation: int, number: int) -> None:
        state, detector = a_detector("ab")
        suspect_one(state, detector)
        detector._members["b"].refutation = 3
        detector.on_refute(address, incarnation, number)
        assert detector.state_of("b") == SUSPECTED

    def test_of_one_that_nobody_suspects_only_its_number_is_noted(self) -> None:
        state, detector = a_detector("ab")
        wait(state, 1.0)
        detector.on_refute("b", 11, 4)
        assert detector._members["b"].refutation == 4
        assert detector._members["b"].heard_at == NOW


class TestMembers:
    def test_what_is_known_of_those_who_stay_is_kept(self) -> None:
        state, detector = a_detector("abc")
        stays = detector._members["b"]
        wait(state, 1.0)
        detector.set_members([("b", 11), ("c", 99), ("d", 13)])
        assert detector._members["b"] is stays
        for new in "cd":
            watched = detector._members[new]
            assert (watched.state, watched.heard_at, watched.heard_awake_s) == (ALIVE, state.now, state.awake_s)
        assert detector._members["c"].incarnation == 99

    def test_the_round_goes_on_without_those_who_are_gone(self) -> None:
        state, detector = a_detector("abcd")
        detector._round = ["b", "c", "d"]
        detector.set_members([("c", 12), ("e", 14)])
        assert detector._round == ["c"]
        assert probe_one(state, detector) == "c"

    def test_who_is_known_to_be_dead_is_dead_from_the_start(self) -> None:
        state, detector = a_detector("abc")
        state.of("c").dead = 12
        detector.set_members([("b", 11), ("c", 12)])
        assert detector.state_of("c") == DEAD
        state.of("c").dead = 11
        detector.set_members([("c", 13)])
        assert detector.state_of("c") == ALIVE

    def test_of_ourselves_and_of_strangers_nothing_bad_is_known(self) -> None:
        _, detector = a_detector("abc")
        assert detector.state_of("a") == detector.state_of("x") == ALIVE

    @pytest.mark.parametrize(
        ("address", "incarnation", "is_news"), [("b", 11, True), ("b", 12, True), ("b", 10, False), ("x", 11, False)]
    )
    def test_a_death_is_final_and_news_once(self, address: str, incarnation: int, is_news: bool) -> None:
        _, detector = a_detector("abc")
        watched = detector._members["b"]
        watched.probe = detector._start_probe("b", watched, own=True)
        detector._suspect("b", watched, NOW)
        assert detector.died(address, incarnation) == is_news
        if is_news:
            assert (watched.state, watched.probe, watched.suspicion) == (DEAD, None, None)
            assert not detector.died(address, incarnation)
            assert not detector.is_up("b")


class TestRefused:
    """A connection to a member was refused, which is no proof of its death."""

    def test_it_is_suspected_at_once_for_the_shortest_time(self) -> None:
        state, detector = a_detector()
        detector.refused("b", INCARNATIONS["b"])
        assert detector.state_of("b") == SUSPECTED
        detector._next_probe_awake_s = state.awake_s + 100.0
        detector.tick(())
        assert take_kinds(state) == [("b", "PING")]  # the others are refused themselves
        wait(state, timing.SUSPICION_MIN_S - 0.001)
        detector.tick(())
        assert detector.state_of("b") == SUSPECTED
        wait(state, 0.002)
        detector.tick(())
        assert detector.state_of("b") == FAILED

    def test_proof_of_later_life_clears_it(self) -> None:
        state, detector = a_detector()
        detector.refused("b", INCARNATIONS["b"])
        detector.heard("b", INCARNATIONS["b"], state.now - 0.001)
        assert detector.state_of("b") == SUSPECTED
        detector.heard("b", INCARNATIONS["b"], state.now)
        assert detector.state_of("b") == ALIVE

    def test_a_suspect_has_no_longer_than_that_either(self) -> None:
        state, detector = a_detector()
        peer = suspect_one(state, detector)
        detector.refused(peer, INCARNATIONS[peer])
        wait(state, timing.SUSPICION_MIN_S + 0.001)
        detector.tick(())
        assert detector.state_of(peer) == FAILED

    def test_not_a_later_process_than_was_dialled_nor_a_stranger_or_one_that_is_dead(self) -> None:
        _, detector = a_detector()
        detector.refused("b", INCARNATIONS["b"] - 1)
        detector.refused("x", 99)
        assert detector.state_of("b") == ALIVE
        detector.died("b", INCARNATIONS["b"])
        detector.refused("b", INCARNATIONS["b"])
        assert detector.state_of("b") == DEAD

    def test_who_was_held_dead_and_lives_is_watched_again(self) -> None:
        _, detector = a_detector()
        detector.died("b", INCARNATIONS["b"])
        detector.lives("b", INCARNATIONS["b"] + 1)
        detector.lives("x", 1)
        assert detector.state_of("b") == DEAD
        detector.lives("b", INCARNATIONS["b"])
        assert detector.state_of("b") == ALIVE
