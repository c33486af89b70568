import contextlib
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cluster.membership.planner import Changes, first_view, holds_nothing, next_view
from app.cluster.view import MEMBERS_MAX, BadView, Member, View, from_message, to_message
from app.wire.protocol import ADDRESS_MAX_BYTES, DATAGRAM_MAX_BYTES, SLOT_COUNT
from proto_gen import cluster_pb2 as pb


def view_of(count: int, replicas: int = 3, name: str = "10.0.0.{}:3331") -> View:
    return first_view([Member(name.format(index), 100 + index) for index in range(count)], 7, replicas, 1)


def a(index: int) -> str:
    return f"10.0.0.{index}:3331"


@pytest.mark.parametrize("count", [1, 2, 3, 20, MEMBERS_MAX])
def test_what_is_sent_comes_back(count: int) -> None:
    view = view_of(count)
    assert from_message(pb.View.FromString(to_message(view).SerializeToString())) == view


def test_the_largest_view_fits_a_datagram() -> None:
    assert to_message(view_of(20)).ByteSize() < 3500
    long = view_of(MEMBERS_MAX, 8, "h" * (ADDRESS_MAX_BYTES - 4) + "{:04}")
    assert to_message(long).ByteSize() < DATAGRAM_MAX_BYTES - 500


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message.ClearField("members"),
        lambda message: message.members.add(address="x", incarnation=1) and setattr(message, "epoch", 0),
        lambda message: setattr(message, "cluster_id", 0),
        lambda message: setattr(message, "primaries", message.primaries[:-1]),
        lambda message: setattr(message, "primaries", b"\xff" * SLOT_COUNT),
        lambda message: setattr(message, "backups", message.backups[:-1]),
        lambda message: setattr(message, "backups", message.backups + b"\0"),
        lambda message: setattr(message, "homes", b"\xff" * 10),
        lambda message: setattr(message, "homes", b"\0" * SLOT_COUNT),
        lambda message: setattr(message, "homes", b"\x01\x09" * SLOT_COUNT),
        lambda message: setattr(message, "homes", message.homes[: len(message.homes) // 2]),
        lambda message: setattr(message, "homes", b"\x02\0\0" * SLOT_COUNT),
        lambda message: setattr(message, "cause", "x" * 1000),
        lambda message: setattr(message.members[0], "address", "x" * (ADDRESS_MAX_BYTES + 1)),
        lambda message: setattr(message.members[0], "address", message.members[1].address),
        lambda message: setattr(message.members[0], "incarnation", 0),
        lambda message: [message.members.add(address=f"m{index}", incarnation=1) for index in range(MEMBERS_MAX)],
    ],
)
def test_bad_views_are_refused(spoil: object) -> None:
    message = to_message(view_of(3))
    spoil(message)  # type: ignore[operator]
    with pytest.raises(BadView):
        from_message(message)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_noise_is_refused_or_valid(raw: bytes, primaries: bytes, backups: bytes, homes: bytes) -> None:
    message = to_message(view_of(3))
    message.primaries, message.backups, message.homes = primaries, backups, homes
    with contextlib.suppress(BadView):
        from_message(message).check()
    with contextlib.suppress(BadView, DecodeError):
        from_message(pb.View.FromString(raw)).check()


class TestNextView:
    def test_a_dead_primarys_slots_go_to_their_backups(self) -> None:
        view = view_of(5)
        after = next_view(view, Changes(gone={a(2): "died"}), 3)
        assert after is not None
        assert after.epoch == 2
        for slot in range(SLOT_COUNT):
            if view.primaries[slot] == a(2):
                assert after.primaries[slot] in view.backups[slot]
            else:
                assert after.primaries[slot] == view.primaries[slot]

    def test_a_join_is_learner_first_then_primary_of_its_share(self) -> None:
        view = view_of(3)
        joined = next_view(view, Changes(joined={a(9): 1}), 3)
        assert joined is not None
        assert joined.primaries == view.primaries
        learning = {slot for slot in range(SLOT_COUNT) if a(9) in joined.learners(slot)}
        slots = sum(1 << slot for slot in learning)
        caught_up = next_view(joined, Changes(synced={a(9): slots}), 3)
        assert caught_up is not None
        assert caught_up.is_balanced()
        assert caught_up.masks[a(9)].bit_count() == 64
        assert all(len(caught_up.holders(slot)) == 3 for slot in range(SLOT_COUNT))

    def test_only_what_caught_up_is_promoted(self) -> None:
        joined = next_view(view_of(3), Changes(joined={a(9): 1}), 3)
        assert joined is not None
        slot = next(slot for slot in range(SLOT_COUNT) if joined.learners(slot) == (a(9),))
        after = next_view(joined, Changes(synced={a(9): 1 << slot, a(1): -1 & ((1 << 256) - 1)}), 3)
        assert after is not None
        assert [s for s in range(SLOT_COUNT) if a(9) in after.holders(s)] == [slot]

    def test_a_restart_loses_what_it_held(self) -> None:
        view = view_of(3)
        after = next_view(view, Changes(gone={a(1): "was restarted"}, joined={a(1): 999}), 3)
        assert after is not None
        assert after.has(a(1), 999)
        assert after.addresses[-1] == a(1)  # the youngest now
        assert not any(a(1) in after.holders(slot) for slot in range(SLOT_COUNT))

    def test_all_copies_lost_means_a_fresh_start(self) -> None:
        view = view_of(3, replicas=1)
        after = next_view(view, Changes(gone={a(0): "died"}), 1)
        assert after is not None
        assert a(0) not in after.primaries

    def test_a_leaving_one_keeps_its_slots_until_others_have_them(self) -> None:
        view = view_of(4)
        leaving = next_view(view, Changes(leaving={a(0)}), 3)
        assert leaving is not None
        assert leaving.members[0].leaving
        assert not any(a(0) in home for home in leaving.homes)
        assert not holds_nothing(leaving, a(0))
        synced: dict[str, int] = {}
        for slot in range(SLOT_COUNT):
            for learner in leaving.learners(slot):
                synced[learner] = synced.get(learner, 0) | 1 << slot
        done = next_view(leaving, Changes(synced=synced), 3)
        assert done is not None
        assert holds_nothing(done, a(0))

    def test_nobody_left(self) -> None:
        assert next_view(view_of(1), Changes(gone={a(0): "died"}), 3) is None

    def test_check_refuses_a_table_of_strangers(self) -> None:
        view = view_of(2)
        with pytest.raises(BadView):
            replace(view, primaries=("stranger",) * SLOT_COUNT).check()

    @pytest.mark.parametrize("table", ["primaries", "backups", "homes"])
    def test_check_refuses_a_table_that_is_short(self, table: str) -> None:
        view = view_of(2)
        with pytest.raises(BadView, match="256 slots"):
            replace(view, **{table: getattr(view, table)[:-1]}).check()
