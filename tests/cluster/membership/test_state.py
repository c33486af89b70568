"""What every message says, whom a member supports, and when survivors may leave the dead out of account."""

import random
from dataclasses import replace
from math import inf

import pytest

from app.cluster.membership import timing
from app.cluster.membership.state import ClusterConfig, NodeState, slots_from_bytes, slots_to_bytes
from app.wire.protocol import SERVERS_MAX
from proto_gen import cluster_pb2 as pb
from tests.cluster.membership.parts import INCARNATIONS, NOW, a_state, a_view, die, hear, take_sent, wait

MS = 0.001


@pytest.mark.parametrize(
    ("fields", "is_sound"),
    [
        ({}, True),
        ({"address": "x"}, False),
        ({"servers": ("a", "a")}, False),
        ({"servers": ("a", *(f"s{n}" for n in range(SERVERS_MAX - 1)))}, True),
        ({"servers": ("a", *(f"s{n}" for n in range(SERVERS_MAX)))}, False),
        ({"replicas": 0}, False),
        ({"replicas": 1}, True),
        ({"replicas": 8}, True),
        ({"replicas": 9}, False),
    ],
)
def test_a_configuration_is_checked(fields: dict[str, object], is_sound: bool) -> None:
    given: dict[str, object] = {"address": "a", "servers": ("a", "b")} | fields
    if is_sound:
        ClusterConfig(**given)  # type: ignore[arg-type]
    else:
        with pytest.raises(AssertionError):
            ClusterConfig(**given)  # type: ignore[arg-type]


def test_without_a_view_there_is_nothing_to_go_by() -> None:
    state = NodeState(ClusterConfig("a", ("a", "b")), random.Random(1), 10, NOW)
    assert (state.epoch, state.view_key, state.is_coordinator, state.others()) == (0, (0, 0, 0), False, [])
    assert state.non_members() == ["a", "b"]
    assert state.view_heard_awake_s() == -inf
    assert state.countable_dead() == set()


def test_masks_of_slots_travel_as_bytes() -> None:
    mask = 1 << 255 | 1 << 9 | 1
    assert slots_from_bytes(slots_to_bytes(mask)) == mask
    assert slots_from_bytes(b"") == 0
    assert slots_to_bytes(1)[0] == 1


def test_the_others_are_the_members_but_oneself_in_their_order() -> None:
    assert a_state("b", "abc").others() == ["a", "c"]


def test_a_new_process_at_an_address_is_not_what_was_there_before() -> None:
    state = a_state()
    known = state.of("b")
    known.stamp_us, known.view_key, known.dead = 5, (7, 1, 1), 3
    hear(state, "b")
    known.note_new_process(99)
    assert (known.incarnation, known.stamp_us, known.view_key, known.dead) == (99, 0, (0, 0, 0), 3)
    assert (known.heard_at, known.heard_awake_s) == (-inf, -inf)


class TestPost:
    def test_a_message_tells_all_that_every_message_tells(self) -> None:
        state = a_state("b")
        known = state.of("c")
        known.stamp_us = 77
        die(state, "a")
        state.post("c", pb.PING, number=5)
        (sent,) = take_sent(state)
        message = sent.message
        assert (sent.peer, sent.kind, message.number) == ("c", "PING", 5)
        assert (message.incarnation, message.to_incarnation) == (INCARNATIONS["b"], INCARNATIONS["c"])
        assert (message.stamp_us, message.echo_us) == (round(NOW * 1e6), 77)
        assert (message.cluster_id, message.epoch, message.nonce) == state.view_key
        assert [(death.address, death.incarnation) for death in message.deaths] == [("a", INCARNATIONS["a"])]

    def test_to_another_process_than_the_one_we_know(self) -> None:
        state = a_state("b")
        state.post("c", pb.PING, to=(99, 5))
        (sent,) = take_sent(state)
        assert (sent.message.to_incarnation, sent.message.echo_us) == (99, 5)

    def test_without_a_view_it_names_none(self) -> None:
        state = a_state("a", "", "ab")
        state.post("b", pb.HELLO)
        (sent,) = take_sent(state)
        assert (sent.message.cluster_id, sent.message.epoch, sent.message.nonce) == (0, 0, 0)

    def test_who_is_no_member_tells_of_no_deaths(self) -> None:
        state = a_state("d", "abc", "abcd")
        die(state, "a")
        state.post("b", pb.HELLO)
        (sent,) = take_sent(state)
        assert len(sent.message.deaths) == 0


class TestSupport:
    @pytest.mark.parametrize(
        ("me", "peer", "heard_ago_s", "round_trip_s", "withdrawn", "is_dead", "supports"),
        [
            ("b", "a", 0.0, 0.0, False, False, True),
            ("b", "c", 0.0, 0.0, False, False, False),  # not the coordinator
            ("d", "a", 0.0, 0.0, False, False, False),  # no member
            ("b", "a", timing.COORDINATOR_FRESH_S - MS, 0.0, False, False, True),
            ("b", "a", timing.COORDINATOR_FRESH_S + MS, 0.0, False, False, False),
            ("b", "a", timing.COORDINATOR_FRESH_S + 9 * MS, 5 * MS, False, False, True),  # two round trips more
            ("b", "a", timing.COORDINATOR_FRESH_S + 11 * MS, 5 * MS, False, False, False),
            ("b", "a", 0.0, 0.0, True, False, False),
            ("b", "a", 0.0, 0.0, False, True, False),
        ],
    )
    def test_a_member_supports_its_coordinator_while_that_is_fresh(
        self,
        me: str,
        peer: str,
        heard_ago_s: float,
        round_trip_s: float,
        withdrawn: bool,
        is_dead: bool,
        supports: bool,
    ) -> None:
        state = a_state(me, "abc", "abcd")
        wait(state, 5.0)
        hear(state, "a", "b", "c", ago_s=heard_ago_s)
        state.round_trip_s, state.support_withdrawn = round_trip_s, withdrawn
        if is_dead:
            die(state, "a")
        state.post(peer, pb.PING)
        (sent,) = take_sent(state)
        assert sent.message.supports == supports
        assert sent.message.support_withdrawn == withdrawn
        assert state.support_until == (state.now + timing.SUPPORT_S if supports else -inf)

    def test_a_view_just_installed_counts_as_heard(self) -> None:
        state = a_state("b")
        wait(state, 5.0)
        assert not state.coordinator_is_fresh()
        state.installed_at = state.now
        assert state.coordinator_is_fresh()

    def test_it_never_becomes_shorter(self) -> None:
        state = a_state("b")
        hear(state, "a")
        state.support_until = NOW + 9.0
        state.post("a", pb.PING)
        assert state.support_until == NOW + 9.0


class TestGoesByOurView:
    @pytest.mark.parametrize(
        ("me", "peer", "fields", "does"),
        [
            ("a", "b", {}, True),
            ("a", "b", {"epoch": 2}, False),
            ("a", "b", {"nonce": 2}, False),
            ("a", "b", {"cluster_id": 2}, False),
            ("a", "b", {"incarnation": 99}, False),
            ("a", "d", {}, False),
            ("d", "b", {}, False),  # we are no member
        ],
    )
    def test_only_a_member_of_it_with_its_very_name(
        self, me: str, peer: str, fields: dict[str, int], does: bool
    ) -> None:
        state = a_state(me, "abc", "abcd")
        view = a_view("abc")
        named = {"cluster_id": view.cluster_id, "epoch": 1, "nonce": 1, "incarnation": INCARNATIONS[peer]}
        assert state.goes_by_our_view(peer, pb.ClusterMessage(**(named | fields))) == does


class TestCountableDead:
    """Survivors may go on without a majority once every other server of the file is accounted for."""

    def survivors(self) -> NodeState:
        """b, of a, b and c in a file of a to d; c has died 1 s ago. d is no member."""
        state = a_state("b", "abc", "abcd")
        wait(state, 10.0)
        die(state, "c")
        wait(state, 1.0)
        return state

    def account_for(self, state: NodeState, *peers: str) -> None:
        for peer in peers:
            state.of(peer).absent_at = state.now

    def test_nobody_is_dead(self) -> None:
        assert a_state().countable_dead() == set()

    @pytest.mark.parametrize("how", ["heard", "refused", "at its death"])
    @pytest.mark.parametrize("missing", ["", "c", "d"])
    def test_each_other_server_was_heard_or_refused_since(self, how: str, missing: str) -> None:
        state = self.survivors()
        at = state.now if how != "at its death" else state.now - 1.0
        for peer in "cd":
            if peer != missing:
                if how == "refused":
                    state.of(peer).absent_at = at
                else:
                    state.of(peer).heard_at = at
        assert state.countable_dead() == (set() if missing else {"c"})

    def test_what_was_heard_before_they_died_does_not_count(self) -> None:
        state = self.survivors()
        self.account_for(state, "c")
        state.of("d").absent_at = state.now - 1.001
        assert state.countable_dead() == set()

    def test_of_several_dead_the_last_one_dates_it(self) -> None:
        state = self.survivors()
        self.account_for(state, "c", "d")
        wait(state, 1.0)
        die(state, "a")
        state.of("a").heard_at = state.now  # whoever came after it
        assert state.countable_dead() == set()
        self.account_for(state, "a", "c", "d")
        assert state.countable_dead() == {"a", "c"}

    def test_one_that_knows_a_newer_view_forbids_it_however_long_they_wait(self) -> None:
        view = a_view("abc")
        for key, forbids in [
            ((view.cluster_id, 2, 1), True),
            ((view.cluster_id, 1, 9), True),  # another view of our epoch
            ((view.cluster_id, 1, 1), False),  # ours
            ((view.cluster_id, 0, 1), False),
            ((view.cluster_id + 1, 0, 1), True),  # another cluster's
            ((0, 0, 0), False),  # a newcomer
        ]:
            state = self.survivors()
            state.of("c").heard_at = state.of("d").heard_at = state.of("c").died_at
            state.of("d").view_key = key
            wait(state, 100.0)
            assert state.countable_dead() == (set() if forbids else {"c"})

    def test_for_the_silent_they_wait_without_end(self) -> None:
        state = self.survivors()
        self.account_for(state, "c")
        wait(state, 1000.0)
        assert state.countable_dead() == set()


class TestMembersNeeded:
    """Half of the servers file goes on."""

    @pytest.mark.parametrize(
        ("servers", "absent", "needed"),
        [
            ("a", "", 1),
            ("ab", "", 1),
            ("abc", "", 2),
            ("abcd", "", 2),
            ("abcde", "", 3),
            ("abcde", "e", 2),
            ("abcde", "de", 2),
            ("abcde", "cde", 1),
            ("abcde", "bcde", 1),
        ],
    )
    def test_those_proven_absent_do_not_count(self, servers: str, absent: str, needed: int) -> None:
        state = a_state("a", "a", servers)
        for server in absent:
            state.note_absent(server, state.now)
        assert state.members_needed() == needed

    def test_members_that_the_file_lacks_do(self) -> None:
        assert a_state("a", "abcd", "ab").members_needed() == 2

    def test_whoever_is_absent_and_was_not_counted_is_not_left_out(self) -> None:
        state = a_state("a", "abc", "abcde")
        state.guests = {"f": 0.0, "g": 0.0}
        state.note_servers()
        for guest in "fg":
            state.note_absent(guest, state.now)
        assert state.members_needed() == 3

    def test_a_proof_holds_for_a_while_or_until_something_is_heard(self) -> None:
        state = a_state("a", "a", "abc")
        state.note_absent("b", state.now - 0.5)
        state.note_absent("c", state.now)
        assert state.members_needed() == 1
        wait(state, timing.ABSENT_S - 0.5)
        state.expire_absent()
        assert state.absent == {"c"}
        state.note_present("c")
        assert state.absent == set()
        state.note_absent("b", state.now - timing.ABSENT_S)  # told too late
        assert state.absent == set()

    def test_a_view_that_was_forced_goes_on_with_whom_it_has(self) -> None:
        state = a_state("a", "a", "abcde")
        assert state.view is not None
        state.view = replace(state.view, is_forced=True)
        assert state.members_needed() == 1


def test_of_a_view_that_is_observed_the_latest_proof_of_a_member_counts() -> None:
    state = a_state("d", "abc", "abcd")
    view = state.view
    assert view is not None
    wait(state, 10.0)
    hear(state, "a", ago_s=3.0)
    hear(state, "b", ago_s=1.0)
    assert state.view_heard_awake_s() == state.awake_s - 1.0
    state.of("b").view_key = (view.cluster_id + 1, 1, 1)  # it has left for another cluster
    assert state.view_heard_awake_s() == state.awake_s - 3.0
    state.of("b").view_key = (view.cluster_id, 1, 1)
    state.of("b").incarnation += 1  # another process
    assert state.view_heard_awake_s() == state.awake_s - 3.0
