"""A follower on its own, with frames written by hand: what it applies, what it answers, and when its copy is whole."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.cluster.replication import frames
from app.cluster.replication.follower import RETRY_S, ROOM_PAUSE_MAX_S, ROOM_PAUSE_S, Follower
from app.cluster.replication.frames import FRAME_FILL_BYTES as FILL
from app.cluster.replication.frames import NOWHERE, BadFrame
from app.cluster.replication.staging import Staging
from app.cluster.replication.state import Shared
from app.cluster.view import View
from app.storage.mutate import REPLIES_FULL, REPLY_BYTES
from app.wire.protocol import KEY_DNE_ERR, NO_ERR, SLOT_COUNT
from tests.cluster.replication.parts import (
    NOW,
    SLOT,
    a_shared,
    a_view,
    an_op,
    entries_of,
    remember,
    remembered,
    take_frames,
)

BASE = (4, 20)  # where the copy of SLOT is when a session begins


class Rig:
    """Node b, a backup of all slots that a leads; only SLOT is looked at."""

    def __init__(self, view: View | None = None, **options: object) -> None:
        self.shared: Shared = a_shared("b", view or a_view(), **options)  # type: ignore[arg-type]
        self.shared.positions[SLOT] = BASE
        self.follower = Follower(self.shared)
        self.follower.entered({SLOT})

    def report(self) -> tuple[int, list[tuple[int, frames.Position]]]:
        """The number of the one report sent, and its rows."""
        ((peer, kind, body),) = take_frames(self.shared)
        assert (peer, kind) == ("a", frames.HAVE)
        epoch, nonce, number, rows = frames.decode_have(body)
        assert (epoch, nonce) == self.shared.view_name
        return number, rows

    def go(self, base: frames.Position = BASE, peer: str = "a") -> None:
        """The session begins where the copy is."""
        number, _ = self.report()
        self.follower.on_go(peer, frames.encode_start(number, [(SLOT, 5, base)]))

    def begin(self, base: frames.Position = (4, 30), slot: int = SLOT, peer: str = "a") -> None:
        """The whole slot follows; `base`: where its primary is."""
        number, _ = self.report()
        self.follower.on_begin(peer, frames.encode_start(number, [(slot, 5, base)]))

    def ops(self, *ops: bytes, peer: str = "a") -> None:
        self.follower.on_ops(peer, b"".join(ops))

    def end(self, slot: int = SLOT, term: int = 5, peer: str = "a") -> None:
        self.follower.on_end(peer, frames.encode_end([(slot, term)]))

    def entries(self, *entries: tuple[bytes, bytes], peer: str = "a", slot: int = SLOT) -> None:
        self.follower.on_entries(peer, b"".join(frames.encode_entry(slot, key, blob) for key, blob in entries))

    def acks(self) -> list[tuple[int, ...]]:
        """The rows of the one ACK that a turn's end brings, none if there is none."""
        take_frames(self.shared)
        self.follower.flush()
        sent = take_frames(self.shared)
        assert len(sent) <= 1
        return frames.decode_ack(sent[0][2])[1] if sent else []

    @property
    def position(self) -> frames.Position | None:
        return self.shared.positions[SLOT]


class TestTelling:
    @pytest.mark.parametrize(("writes", "frames_sent"), [(1, 1), (300, 2)])
    def test_what_it_has_written_since_is_told_in_frames_of_bounded_size(self, writes: int, frames_sent: int) -> None:
        rig = Rig()
        slots = {SLOT, SLOT + 1}
        for slot in slots:
            for seq in range(writes):
                names = b"%32d" % seq, b"%32d" % seq
                rig.shared.recent.note((slot, frames.PUT_OP, (4, 20 + seq), (4, 21 + seq), *names))
            rig.shared.positions[slot] = (4, 20 + writes)
        take_frames(rig.shared)
        rig.follower.entered(slots)
        number, _ = rig.report()
        rig.follower.on_past("a", frames.encode_past(number, [(slot, 4, 10, 20) for slot in slots]))
        sent = take_frames(rig.shared)
        assert [(peer, kind) for peer, kind, _ in sent] == [("a", frames.TOUCHED)] * frames_sent
        patches = [patch for _, _, body in sent for patch in frames.decode_touched(body)[1]]
        assert {patch.slot for patch in patches} == slots
        assert all((patch.position, len(patch.keys)) == (BASE, writes) for patch in patches)
        assert all(len(body) <= frames.FRAME_FILL_BYTES + 64 for _, _, body in sent)

    def test_as_many_go_into_one_frame_as_fit(self) -> None:
        rig = Rig()
        sizes = [18_000, FILL - 18_000, FILL, 12_000, 12_000, 12_000]
        slots = range(SLOT, SLOT + len(sizes))
        for slot, size_bytes in zip(slots, sizes, strict=True):
            rig.shared.positions[slot] = (4, 20 + self.note(rig, slot, size_bytes))
        assert [len(patches) for patches in self.touched(rig, slots)] == [2, 1, 2, 1]

    def test_more_than_a_frame_of_one_slot_is_not_told(self) -> None:
        for size_bytes, position in ((FILL, BASE), (FILL + 1, NOWHERE)):
            rig = Rig()
            rig.shared.positions[SLOT] = (4, 20 + self.note(rig, SLOT, size_bytes))
            (((patch),),) = self.touched(rig, [SLOT])
            assert patch.position == position

    def test_of_a_copy_that_is_not_whole_there_is_nothing_to_tell(self) -> None:
        rig = Rig(a_view(backups="c", learners="b"))
        rig.shared.positions[SLOT] = None
        (((patch),),) = self.touched(rig, [SLOT])
        assert patch == frames.Patch(SLOT, 0, NOWHERE, [], [])

    @pytest.mark.parametrize(("number_off", "peer"), [(1, "a"), (0, "c")])
    def test_who_asks_about_another_report_or_does_not_lead_is_told_nothing(self, number_off: int, peer: str) -> None:
        rig = Rig()
        number, _ = rig.report()
        rig.follower.on_past(peer, frames.encode_past(number + number_off, [(SLOT, 4, 10, 20)]))
        assert take_frames(rig.shared) == []

    def note(self, rig: Rig, slot: int, size_bytes: int) -> int:
        """Writes since BASE that take so many bytes in a patch: how many."""
        left, seq = size_bytes - frames.Patch(slot, 0, BASE, [], []).size_bytes, 0
        while left:
            id_bytes = min(64, left - 1) if left != 66 else 32
            message_id = b"%%0%dd" % id_bytes % seq
            rig.shared.recent.note((slot, frames.NOTE_OP, (4, 20 + seq), (4, 21 + seq), b"", message_id))
            left, seq = left - id_bytes - 1, seq + 1
        return seq

    def touched(self, rig: Rig, slots: Iterable[int]) -> list[list[frames.Patch]]:
        """What it says of these slots, by frame, when its primary has been at BASE."""
        take_frames(rig.shared)
        rig.follower.entered(set(slots))
        number, _ = rig.report()
        rig.follower.on_past("a", frames.encode_past(number, [(slot, 4, 10, 20) for slot in slots]))
        return [frames.decode_touched(body)[1] for _, _, body in take_frames(rig.shared)]


class TestPatching:
    """What differs follows, and is gathered beside the copy."""

    def patch(self, rig: Rig, *patches: frames.Patch, number_off: int = 0, peer: str = "a") -> None:
        number = rig.follower._number
        rig.follower.on_patch(peer, frames.encode_patches(number + number_off, patches))

    def test_the_keys_that_it_names_are_replaced(self) -> None:
        rig = Rig()
        for key in (b"gone", b"new", b"same"):
            rig.shared.store.put(SLOT, key, b"old")
        self.patch(rig, frames.Patch(SLOT, 5, (5, 31), [b"gone", b"new"], []))
        rig.entries((b"new", b"2"))
        rig.end()
        assert entries_of(rig.shared) == {b"new": b"2", b"same": b"old"}
        assert rig.position == (5, 31)

    @pytest.mark.parametrize(("number_off", "peer"), [(1, "a"), (0, "c")])
    def test_it_begins_only_as_the_answer_to_the_latest_report(self, number_off: int, peer: str) -> None:
        rig = Rig()
        self.patch(rig, frames.Patch(SLOT, 5, (5, 31), [], []), number_off=number_off, peer=peer)
        assert not rig.follower.sessions

    def test_a_copy_that_is_not_whole_can_not_be_patched(self) -> None:
        rig = Rig(a_view(backups="c", learners="b"))
        rig.shared.positions[SLOT] = None
        rig.follower.entered({SLOT})
        self.patch(rig, frames.Patch(SLOT, 5, (5, 31), [], []))
        assert not rig.follower.sessions

    def test_an_answer_counts_once(self) -> None:
        rig = Rig()
        for _ in range(2):
            self.patch(rig, frames.Patch(SLOT, 5, (5, 31), [b"k"], []))
            rig.entries((b"k", b"2"))
        rig.end()
        assert entries_of(rig.shared) == {b"k": b"2"}
        assert rig.follower.staged_bytes == 0

    @pytest.mark.parametrize(("bound", "left"), [(0, {SLOT, SLOT + 1}), (-1, {SLOT})])
    def test_what_it_names_counts_and_is_bounded(self, bound: int, left: set[int]) -> None:
        rig = Rig()
        rig.shared.positions[SLOT + 1] = BASE
        rig.follower.entered({SLOT, SLOT + 1})
        patches = [frames.Patch(slot, 5, (5, 31), [b"key"], [b"id"]) for slot in (SLOT, SLOT + 1)]
        size_bytes = sum(Staging(rig.shared.store, patch.slot, patch).size_bytes for patch in patches)
        rig.follower.staging_max_bytes = size_bytes + bound
        self.patch(rig, *patches)
        assert rig.follower.sessions.keys() == left
        assert rig.follower.staged_bytes == size_bytes * len(left) // 2


class TestReporting:
    def test_it_tells_the_primary_where_its_copy_is(self) -> None:
        assert Rig().report() == (1, [(SLOT, BASE)])

    def test_or_that_it_has_none_that_is_whole(self) -> None:
        rig = Rig()
        rig.report()
        rig.shared.positions[SLOT] = None
        rig.follower.report({SLOT})
        assert rig.report() == (1, [(SLOT, NOWHERE)])

    def test_a_report_that_is_not_answered_is_repeated_under_its_number(self) -> None:
        rig = Rig()
        rig.report()
        rig.shared.now = NOW + RETRY_S - 0.001
        rig.follower.tick()
        assert take_frames(rig.shared) == []
        rig.shared.now = NOW + RETRY_S
        rig.follower.tick()
        assert rig.report() == (1, [(SLOT, BASE)])

    def test_it_is_repeated_at_the_very_time(self) -> None:
        rig = Rig()
        rig.shared.now = 0.0
        rig.follower.entered({SLOT})
        take_frames(rig.shared)
        rig.shared.now = RETRY_S
        rig.follower.tick()
        assert [kind for _, kind, _ in take_frames(rig.shared)] == [frames.HAVE]

    def test_without_a_link_it_waits_for_one(self) -> None:
        rig = Rig(links="cd")
        assert take_frames(rig.shared) == []
        rig.shared.links.add("a")
        rig.follower.link_up("a")
        assert rig.report()[1] == [(SLOT, BASE)]

    def test_a_new_link_voids_what_was_agreed_on_and_has_a_number_of_its_own(self) -> None:
        rig = Rig()
        rig.go()
        rig.follower.link_closed("a")
        assert not rig.follower.sessions
        rig.follower.link_up("a")
        number, rows = rig.report()
        assert number > 1
        assert rows == [(SLOT, BASE)]

    def test_a_new_link_voids_a_report_that_was_not_answered_too(self) -> None:
        rig = Rig()
        number, _ = rig.report()
        rig.follower.link_up("a")
        assert rig.report()[0] > number

    def test_the_end_of_anothers_link_changes_nothing(self) -> None:
        rig = Rig()
        rig.go()
        rig.follower.link_closed("c")
        rig.follower.link_up("c")
        assert rig.follower.sessions
        assert take_frames(rig.shared) == []

    def test_to_a_query_of_its_primary_in_the_same_view_it_reports_again(self) -> None:
        rig = Rig()
        rig.go()
        for epoch, nonce, peer in ((4, 3, "a"), (5, 2, "a"), (5, 3, "c")):
            rig.follower.on_query(peer, frames.encode_query(epoch, nonce, [SLOT]))
            assert take_frames(rig.shared) == []
        rig.follower.on_query("a", frames.encode_query(5, 3, [SLOT, SLOT + 1]))  # of that one it holds nothing
        assert rig.report()[1] == [(SLOT, BASE)]
        assert not rig.follower.sessions

    def test_a_new_view_ends_sessions_under_another_primary_only(self) -> None:
        rig = Rig()
        rig.go()
        rig.shared.view = a_view(6)
        rig.follower.entered({SLOT})
        assert rig.follower.sessions
        assert take_frames(rig.shared) == []
        rig.shared.view = a_view(7, "c", "b")
        rig.follower.entered({SLOT})
        assert not rig.follower.sessions
        ((peer, kind, _),) = take_frames(rig.shared)
        assert (peer, kind) == ("c", frames.HAVE)

    def test_and_those_of_slots_that_are_not_ours_any_more(self) -> None:
        rig = Rig()
        rig.go()
        rig.follower.entered(set())
        assert not rig.follower.sessions
        rig.shared.now += 1.0
        rig.follower.tick()
        assert take_frames(rig.shared) == []

    @pytest.mark.parametrize(("before", "number"), [(0, 1), (0xFFFFFFFD, 0xFFFFFFFE), (0xFFFFFFFE, 0xFFFFFFFF)])
    def test_reports_are_counted(self, before: int, number: int) -> None:
        rig = Rig()
        rig.follower._number = before
        rig.follower._reported.clear()
        take_frames(rig.shared)
        rig.follower.report({SLOT})
        assert rig.report()[0] == number

    def test_after_the_last_number_comes_the_first(self) -> None:
        rig = Rig()
        rig.follower._number = 0xFFFFFFFF
        rig.follower._reported.clear()
        take_frames(rig.shared)
        rig.follower.report({SLOT})
        assert rig.report()[0] == 1


class TestSession:
    def test_it_applies_what_follows_and_acknowledges_once_a_turn(self) -> None:
        rig = Rig()
        rig.go()
        assert rig.acks() == [(SLOT, 5, 20)]  # it is there
        rig.ops(an_op(21, b"k", b"one"), an_op(22, b"l", b"two"))
        rig.ops(an_op(23, b"k", kind=frames.REMOVE_OP, code=KEY_DNE_ERR))
        assert rig.acks() == [(SLOT, 5, 23)]
        assert rig.acks() == []
        assert entries_of(rig.shared) == {b"l": b"two"}
        assert (remembered(rig.shared, b"m21"), remembered(rig.shared, b"m23")) == (NO_ERR, KEY_DNE_ERR)
        assert rig.position == (5, 23)

    def test_before_the_first_op_the_copy_is_where_it_was(self) -> None:
        rig = Rig()
        rig.go()
        assert rig.follower.sessions[SLOT].position == BASE
        assert rig.position == BASE

    def test_a_wipe_empties_the_slot_and_a_note_only_remembers(self) -> None:
        rig = Rig()
        rig.go()
        rig.ops(an_op(21), an_op(22, kind=frames.WIPE_OP))
        assert entries_of(rig.shared) == {}
        rig.ops(an_op(23), an_op(24, kind=frames.NOTE_OP, code=2))
        assert entries_of(rig.shared) == {b"k": b"v"}
        assert remembered(rig.shared, b"m24") == 2

    def test_a_reply_that_is_remembered_already_is_not_added_again(self) -> None:
        rig = Rig()
        rig.go()
        remember(rig.shared, b"m21", code=KEY_DNE_ERR)
        rig.ops(an_op(21), an_op(22, message_id=b""))
        assert remembered(rig.shared, b"m21") == KEY_DNE_ERR
        assert len(rig.shared.replies) == 1

    @pytest.mark.parametrize(
        ("number_off", "base", "peer"),
        [
            (1, BASE, "a"),  # to another report
            (0, (4, 19), "a"),  # from where the copy is not
            (0, BASE, "c"),  # from one that does not lead the slot
        ],
    )
    def test_it_begins_only_as_the_answer_to_the_latest_report(
        self, number_off: int, base: frames.Position, peer: str
    ) -> None:
        rig = Rig()
        number, _ = rig.report()
        rig.follower.on_go(peer, frames.encode_start(number + number_off, [(SLOT, 5, base)]))
        assert not rig.follower.sessions
        if base == BASE:
            rig.follower.on_begin(peer, frames.encode_start(number + number_off, [(SLOT, 5, base)]))
            assert not rig.follower.sessions

    def test_an_answer_counts_once(self) -> None:
        rig = Rig()
        number, _ = rig.report()
        go = frames.encode_start(number, [(SLOT, 5, BASE)])
        rig.follower.on_go("a", go)
        rig.ops(an_op(21))
        rig.follower.on_go("a", go)
        rig.follower.on_begin("a", go)
        assert rig.position == (5, 21)
        assert rig.follower.sessions[SLOT].is_whole

    @pytest.mark.parametrize(("peer", "term"), [("c", 5), ("a", 4), ("a", 6)])
    def test_ops_of_another_primary_or_term_are_passed_over(self, peer: str, term: int) -> None:
        rig = Rig()
        rig.go()
        rig.ops(an_op(21, term=term), peer=peer)
        rig.ops(an_op(21, slot=SLOT + 1))  # of a slot without a session
        assert entries_of(rig.shared) == {}
        assert rig.position == BASE
        assert rig.follower.sessions

    def test_ops_of_one_that_does_not_lead_the_slot_any_more_are_counted_as_stale(self) -> None:
        rig = Rig()
        rig.go()
        rig.shared.view = a_view(6, "c", "b")
        rig.ops(an_op(21), an_op(22))
        assert entries_of(rig.shared) == {}
        assert rig.shared.faults == {"stale op": 2}

    def test_ops_that_are_not_sound_are_a_bad_frame(self) -> None:
        rig = Rig()
        rig.go()
        with pytest.raises(BadFrame):
            rig.ops(an_op(21)[:-1])
        assert entries_of(rig.shared) == {}

    def test_what_a_reply_takes_is_counted(self) -> None:
        rig = Rig()
        rig.go()
        spent: list[int] = []
        rig.shared.store.spend = spent.append  # type: ignore[method-assign]
        rig.ops(an_op(21), an_op(22, message_id=b"m21"), an_op(23, message_id=b""))
        assert spent == [REPLY_BYTES]

    @pytest.mark.parametrize("seq", [20, 22])
    def test_an_op_that_does_not_follow_ends_it_and_the_copy_is_reported_again(self, seq: int) -> None:
        rig = Rig()
        rig.go()
        rig.ops(an_op(seq))
        assert entries_of(rig.shared) == {}
        assert not rig.follower.sessions
        assert rig.report()[1] == [(SLOT, BASE)]

    def test_a_put_without_room_removes_the_key_where_eviction_is_allowed(self) -> None:
        rig = Rig()
        rig.shared.store.put(SLOT, b"k", b"old")
        rig.go()
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.ops(an_op(21, b"k", b"new"))
        assert entries_of(rig.shared) == {}
        assert rig.position == (5, 21)

    def test_and_stops_the_session_where_it_is_not(self) -> None:
        rig = Rig(evict=False)
        rig.shared.store.put(SLOT, b"k", b"old")
        rig.go()
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.ops(an_op(21, b"k", b"new"), an_op(22, b"k", kind=frames.REMOVE_OP))
        assert entries_of(rig.shared) == {b"k": b"old"}
        assert rig.position == BASE
        assert not rig.follower.sessions
        assert remembered(rig.shared, b"m21") is None
        assert rig.shared.faults == {"no room": 1}
        rig.follower.tick()  # there may be room by now
        rig.go()
        rig.ops(an_op(21, b"k", b"new"))
        assert rig.shared.faults == {"no room": 2}


class TestFilling:
    """The whole slot follows: beside a copy that is whole, in place of one that is not."""

    def test_what_is_written_meanwhile_stays_before_what_the_primary_has_had(self) -> None:
        """A copy is filled up in a store that is full: the writes of its first client would be the first to go."""
        rig = Rig(pages=1)
        rig.shared.positions[SLOT] = None
        rig.begin((4, 20))
        written = [b"written %d" % n for n in range(3)]
        large = bytes(9000)
        for seq, key in enumerate(written, 21):
            rig.ops(an_op(seq, key, large))
            rig.entries(*((b"had %d %d" % (seq, n), large) for n in range(4)))
        rig.end()
        kept = entries_of(rig.shared, SLOT)
        assert set(written) <= kept.keys()
        assert rig.shared.store.evictions  # type: ignore[attr-defined]

    def test_a_whole_copy_stays_until_the_new_one_is_whole(self) -> None:
        rig = Rig()
        rig.shared.store.put(SLOT, b"old", b"1")
        remember(rig.shared, b"before")
        rig.begin()
        rig.entries((b"new", b"2"))
        rig.follower.on_replies("a", frames.encode_reply(SLOT, KEY_DNE_ERR, b"given"))
        rig.ops(an_op(31, b"k", b"3"))
        assert entries_of(rig.shared) == {b"old": b"1"}
        assert (rig.position, rig.acks()) == (BASE, [])
        assert rig.follower.staged_bytes > 0
        rig.end()
        assert entries_of(rig.shared) == {b"new": b"2", b"k": b"3"}
        assert [remembered(rig.shared, name) for name in (b"before", b"given", b"m31")] == [None, KEY_DNE_ERR, NO_ERR]
        assert rig.position == (5, 31)
        assert rig.acks() == [(SLOT, 5, 31)]
        assert rig.follower.staged_bytes == 0
        rig.ops(an_op(32))
        assert rig.position == (5, 32)

    def test_only_the_replies_of_the_slot_are_replaced(self) -> None:
        rig = Rig()
        for slot in (0, SLOT - 1, SLOT, SLOT + 1):
            remember(rig.shared, b"of %d" % slot, slot)
        rig.begin()
        rig.end()
        assert [remembered(rig.shared, b"of %d" % slot) for slot in (0, SLOT - 1, SLOT, SLOT + 1)] == [0, 0, None, 0]

    def test_a_begin_that_comes_again_does_not_lose_what_was_gathered(self) -> None:
        rig = Rig()
        number, _ = rig.report()
        begin = frames.encode_start(number, [(SLOT, 5, (4, 30))])
        rig.follower.on_begin("a", begin)
        rig.entries((b"new", b"2"))
        rig.follower.on_begin("a", begin)
        rig.end()
        assert entries_of(rig.shared) == {b"new": b"2"}

    def test_a_slot_that_is_not_to_be_begun_does_not_keep_out_the_next(self) -> None:
        rig = Rig()
        number, _ = rig.report()
        rows = [(slot, 5, (4, 30)) for slot in (SLOT + 1, SLOT)]
        rig.follower.on_begin("a", frames.encode_start(number, rows))
        assert rig.follower.sessions.keys() == {SLOT}

    def test_a_slot_that_has_not_begun_or_has_no_room_does_not_keep_out_the_next(self) -> None:
        rig = Rig(evict=False)
        slots = (SLOT, SLOT + 1)
        for slot in slots:
            rig.shared.positions[slot] = BASE
        rig.follower.entered(set(slots))
        rows = [(slot, 5, (4, 30)) for slot in slots]
        rig.follower.on_begin("a", frames.encode_start(rig.follower._number, rows))
        rig.entries((b"large", bytes(9000)))
        rig.shared.store.heap_full = True  # type: ignore[attr-defined]
        rig.follower.on_end("a", frames.encode_end([(SLOT + 2, 5), (SLOT, 5), (SLOT + 1, 5)]))
        assert (rig.position, rig.shared.positions[SLOT + 1]) == (BASE, (4, 30))

    @pytest.mark.parametrize(("room_off", "position"), [(0, (4, 30)), (-1, BASE)])
    def test_what_just_fits_is_put_in_place(
        self, room_off: int, position: frames.Position, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = Rig(evict=False)
        rig.begin()
        rig.entries((b"new", b"2"))
        room_bytes = len(b"new") + len(b"2") + room_off
        monkeypatch.setattr(type(rig.shared.store), "room_bytes", property(lambda store: room_bytes))
        rig.end()
        assert rig.position == position

    @pytest.mark.parametrize("position", [None, (0, 0)])
    def test_a_learner_s_part_or_nothing_is_emptied_and_filled_in_place(self, position: frames.Position | None) -> None:
        rig = Rig(a_view(backups="c", learners="b"))
        rig.report()
        rig.shared.positions[SLOT] = position
        rig.shared.store.put(SLOT, b"old", b"1")
        rig.shared.store.put(SLOT + 1, b"other", b"1")
        remember(rig.shared, b"before")
        rig.follower.report({SLOT})
        rig.begin()
        assert entries_of(rig.shared) == {}
        assert entries_of(rig.shared, SLOT + 1) == {b"other": b"1"}
        assert remembered(rig.shared, b"before") is None
        rig.entries((b"new", b"2"))
        rig.follower.on_replies("a", frames.encode_reply(SLOT, KEY_DNE_ERR, b"given"))
        rig.ops(an_op(31, b"k", b"3"))
        assert entries_of(rig.shared) == {b"new": b"2", b"k": b"3"}
        assert remembered(rig.shared, b"given") == KEY_DNE_ERR
        assert (rig.position, rig.acks()) == (None, [])  # should this node be promised the slot now, it has a part
        rig.end()
        assert rig.position == (5, 31)
        assert rig.acks() == [(SLOT, 5, 31)]

    @pytest.mark.parametrize(("peer", "term"), [("c", 5), ("a", 4)])
    def test_an_end_of_another_primary_or_term_is_none(self, peer: str, term: int) -> None:
        rig = Rig()
        rig.begin()
        rig.entries((b"new", b"2"))
        rig.end(term=term, peer=peer)
        assert (rig.position, entries_of(rig.shared)) == (BASE, {})
        assert not rig.follower.sessions[SLOT].is_whole

    def test_chunks_of_another_or_for_a_copy_that_is_whole_change_nothing(self) -> None:
        rig = Rig()
        rig.go()
        rig.entries((b"new", b"2"))
        rig.follower.on_replies("a", frames.encode_reply(SLOT, NO_ERR, b"given"))
        rig.end()
        assert (rig.position, entries_of(rig.shared)) == (BASE, {})
        rig = Rig()
        rig.begin()
        rig.entries((b"new", b"2"), peer="c")
        rig.end()
        assert entries_of(rig.shared) == {}

    def test_what_is_of_no_session_does_not_keep_out_what_is_behind_it(self) -> None:
        rig = Rig()
        rig.begin()
        entries = [frames.encode_entry(slot, b"new", b"1") for slot in (SLOT + 1, SLOT)]
        replies = [frames.encode_reply(slot, NO_ERR, b"given") for slot in (SLOT + 1, SLOT)]
        rig.follower.on_entries("a", b"".join(entries))
        rig.follower.on_replies("a", b"".join(replies))
        rig.end()
        assert entries_of(rig.shared) == {b"new": b"1"}
        assert rig.shared.replies.slots_of(b"given") == 1 << SLOT

    def test_when_it_breaks_off_the_copy_in_place_counts_as_before(self) -> None:
        rig = Rig()
        rig.shared.store.put(SLOT, b"old", b"1")
        rig.begin()
        rig.entries((b"new", b"2"))
        rig.follower.link_closed("a")
        assert (rig.position, entries_of(rig.shared)) == (BASE, {b"old": b"1"})
        assert rig.follower.staged_bytes == 0

    def test_an_empty_copy_that_the_view_counts_on_stays_until_the_new_one_is_whole(self) -> None:
        rig = Rig()
        rig.report()
        rig.shared.positions[SLOT] = (0, 0)
        rig.follower.report({SLOT})
        rig.begin()
        rig.entries((b"new", b"2"))
        assert (rig.position, entries_of(rig.shared)) == ((0, 0), {})
        rig.end()
        assert (rig.position, entries_of(rig.shared)) == ((4, 30), {b"new": b"2"})

    def test_without_room_for_both_the_old_copy_stays_and_the_node_says_so(self) -> None:
        rig = Rig(evict=False)
        rig.shared.store.put(SLOT, b"old", b"1")
        remember(rig.shared, b"before")
        rig.begin()
        rig.entries((b"new", bytes(9000)))
        rig.shared.faults |= {"no room": 3, "copies lost": 2}  # so far
        rig.shared.store.heap_full = True  # type: ignore[attr-defined]
        rig.end()
        assert (rig.position, entries_of(rig.shared)) == (BASE, {b"old": b"1"})
        assert remembered(rig.shared, b"before") == NO_ERR
        assert not rig.follower.sessions
        assert rig.acks() == []
        assert rig.follower.staged_bytes == 0
        assert rig.shared.out.lost == [(1 << SLOT, 5)]
        assert rig.shared.faults == {"no room": 4, "copies lost": 3}

    def test_what_seemed_to_fit_and_does_not_is_not_whole_and_the_node_says_so(self) -> None:
        """Neither the old copy nor the new one is there: it must not pass for in sync."""
        rig = Rig(evict=False)
        rig.shared.store.put(SLOT, b"old", b"1")
        rig.begin()
        rig.entries((b"new", b"2"))
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.end()
        assert (rig.position, entries_of(rig.shared)) == (None, {})
        assert not rig.follower.sessions
        assert rig.acks() == []
        assert rig.shared.out.lost == [(1 << SLOT, 5)]

    def learner_without_room(self) -> Rig:
        rig = Rig(a_view(backups="c", learners="b"), evict=False)
        rig.report()
        rig.shared.positions[SLOT] = None
        rig.follower.report({SLOT})
        return rig

    def test_without_room_in_place_it_begins_again_after_growing_pauses(self) -> None:
        rig = self.learner_without_room()
        put = rig.shared.store.put
        now = NOW
        for pause_s in (ROOM_PAUSE_S, 2 * ROOM_PAUSE_S, 4 * ROOM_PAUSE_S):
            rig.begin()
            rig.entries((b"one", b"1"))
            rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
            rig.entries((b"two", b"2"), (b"three", b"3"))
            rig.shared.store.put = put  # type: ignore[method-assign]
            assert not rig.follower.sessions
            assert (rig.position, entries_of(rig.shared)) == (None, {}), "others may have the room"
            rig.end()
            assert rig.position is None
            assert rig.follower.short_of_room == 1
            take_frames(rig.shared)
            rig.shared.now = now + pause_s - 0.01
            rig.follower.tick()
            assert take_frames(rig.shared) == []
            now = rig.shared.now = now + pause_s
            rig.follower.tick()
        assert rig.shared.faults == {"no room": 3}
        assert rig.shared.out.lost == []
        rig.begin()
        rig.end()
        assert rig.follower.short_of_room == 0

    def test_while_one_slot_lacks_room_no_other_is_filled_but_the_one_whose_turn_it_is(self) -> None:
        rig = self.learner_without_room()
        follower, shared = rig.follower, rig.shared
        follower._mine = {SLOT, SLOT + 1}
        rig.begin()
        put = shared.store.put
        shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"))
        shared.store.put = put  # type: ignore[method-assign]
        take_frames(shared)
        follower.report({SLOT, SLOT + 1})
        assert take_frames(shared) == []
        shared.now += ROOM_PAUSE_S
        follower.report({SLOT, SLOT + 1})
        number, rows = rig.report()
        assert [slot for slot, _ in rows] == [SLOT]
        follower.on_begin("a", frames.encode_start(number, [(SLOT, 5, (4, 30))]))
        rig.end()
        take_frames(shared)
        follower.report({SLOT + 1})
        assert [kind for _, kind, _ in take_frames(shared)] == [frames.HAVE], "there is room again"

    def lack_room(self, rig: Rig, slot: int) -> None:
        """This slot is begun, as far as it is reported, and nothing of it fits."""
        shared = rig.shared
        take_frames(shared)
        rig.follower.report({slot})
        sent = take_frames(shared)
        assert len(sent) == 1, "its turn has not come"
        number, _ = rig.follower._reported[slot]
        rig.follower.on_begin("a", frames.encode_start(number, [(slot, 5, (4, 30))]))
        put = shared.store.put
        shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"), slot=slot)
        shared.store.put = put  # type: ignore[method-assign]
        take_frames(shared)

    def two_without_room(self) -> Rig:
        rig = self.learner_without_room()
        rig.follower._mine = {SLOT, SLOT + 1}
        rig.shared.positions[SLOT + 1] = None
        rig.follower.report({SLOT + 1})
        number, _ = rig.follower._reported[SLOT + 1]
        rig.follower.on_begin("a", frames.encode_start(number, [(SLOT + 1, 5, (4, 30))]))
        self.lack_room(rig, SLOT)
        return rig

    def test_those_that_lack_room_are_tried_in_turn_after_one_pause_for_all(self) -> None:
        rig = self.two_without_room()
        follower, shared = rig.follower, rig.shared
        assert follower._room_at == NOW + ROOM_PAUSE_S
        shared.now += ROOM_PAUSE_S
        self.lack_room(rig, SLOT)
        assert follower._room_at == shared.now + 2 * ROOM_PAUSE_S
        put = shared.store.put
        shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"), slot=SLOT + 1)  # it had begun before
        shared.store.put = put  # type: ignore[method-assign]
        assert follower.short_of_room == 2
        assert follower._room_at == shared.now + 2 * ROOM_PAUSE_S, "others lack room for longer"
        shared.now += 2 * ROOM_PAUSE_S
        self.lack_room(rig, SLOT)
        take_frames(shared)
        shared.now += 4 * ROOM_PAUSE_S
        follower.report({SLOT, SLOT + 1})
        assert [slot for slot, _ in rig.report()[1]] == [SLOT + 1]

    def test_once_there_is_room_again_the_next_is_tried_at_once_and_pauses_are_short_again(self) -> None:
        rig = self.two_without_room()
        follower, shared = rig.follower, rig.shared
        for pause_s in (ROOM_PAUSE_S, 2 * ROOM_PAUSE_S):
            shared.now += pause_s
            self.lack_room(rig, SLOT)
        put = shared.store.put
        shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"), slot=SLOT + 1)
        shared.store.put = put  # type: ignore[method-assign]
        shared.now += 4 * ROOM_PAUSE_S
        take_frames(shared)
        follower.report({SLOT})
        rig.begin()
        rig.end()
        self.lack_room(rig, SLOT + 1)
        assert follower._room_at == shared.now + 2 * ROOM_PAUSE_S

    def test_pauses_are_short_again_when_no_slot_lacked_room_meanwhile(self) -> None:
        rig = self.learner_without_room()
        self.lack_room(rig, SLOT)
        rig.shared.now += ROOM_PAUSE_S
        self.lack_room(rig, SLOT)
        rig.follower.entered(set())
        rig.follower.entered({SLOT})
        self.lack_room(rig, SLOT)
        assert rig.follower._room_at == rig.shared.now + ROOM_PAUSE_S

    def test_of_a_copy_that_did_not_fit_no_reply_is_remembered(self) -> None:
        rig = self.learner_without_room()
        rig.begin()
        rig.follower.on_replies("a", frames.encode_reply(SLOT, NO_ERR, b"given"))
        remember(rig.shared, b"other", 0)
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.ops(an_op(31))
        assert (remembered(rig.shared, b"given"), remembered(rig.shared, b"other")) == (None, NO_ERR)
        assert rig.follower.short_of_room == 1

    def test_a_whole_copy_that_counts_is_reported_while_another_lacks_room(self) -> None:
        view = a_view(backups="c", learners="b")
        backups = (*view.backups[: SLOT + 1], ("c", "b"), *view.backups[SLOT + 2 :])
        rig = Rig(replace(view, backups=backups), evict=False)
        rig.report()
        rig.shared.positions[SLOT] = None
        rig.shared.positions[SLOT + 1] = rig.shared.positions[SLOT + 2] = BASE
        rig.follower.report({SLOT})
        rig.begin()
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"))
        rig.follower.entered({SLOT, SLOT + 1, SLOT + 2})
        ((_, _, body),) = [frame for frame in take_frames(rig.shared) if frame[1] == frames.HAVE]
        assert frames.decode_have(body)[3] == [(SLOT + 1, BASE)]

    def test_a_slot_that_is_not_ours_any_more_lacks_no_room(self) -> None:
        rig = self.learner_without_room()
        rig.begin()
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        rig.entries((b"one", b"1"))
        rig.follower.entered({SLOT, SLOT + 1})
        assert rig.follower.short_of_room == 1
        rig.follower.entered({SLOT + 1})
        assert rig.follower.short_of_room == 0

    def test_pauses_have_a_bound(self) -> None:
        rig = self.learner_without_room()
        rig.shared.store.put = lambda number, key, blob: False  # type: ignore[method-assign]
        for _ in range(10):
            rig.begin()
            rig.ops(an_op(31))
            rig.shared.now += ROOM_PAUSE_MAX_S
            rig.follower.tick()
        assert rig.report()


class TestCredit:
    def test_each_chunk_that_was_taken_is_credited(self) -> None:
        rig = Rig()
        rig.begin()
        for taken in (1, 2):
            rig.entries((b"k%d" % taken, b""))
            assert take_frames(rig.shared) == [("a", frames.CREDIT, frames.encode_credit(taken))]
        rig.follower.on_replies("a", frames.encode_reply(SLOT, NO_ERR, b"given"))
        assert take_frames(rig.shared) == [("a", frames.CREDIT, frames.encode_credit(3))]

    def test_a_new_link_counts_from_the_start(self) -> None:
        rig = Rig()
        rig.begin()
        rig.entries((b"k", b""))
        rig.follower.link_up("a")
        take_frames(rig.shared)
        rig.entries((b"k", b""))
        assert take_frames(rig.shared) == [("a", frames.CREDIT, frames.encode_credit(1))]

    def test_who_waited_gets_credit_when_what_is_gathered_is_gone(self) -> None:
        """Past the soft bound the second primary waits; the first's END, or its link's, frees it."""
        for how in ("end", "link"):
            primaries = tuple("ac"[slot % 2] for slot in range(SLOT_COUNT))
            view = a_view()
            view = View(1, 5, view.members, primaries, view.backups, tuple((p, "b") for p in primaries), nonce=3)
            rig = Rig(view)
            for slot in (SLOT, SLOT + 1):
                rig.shared.positions[slot] = BASE
            rig.follower.entered({SLOT, SLOT + 1})
            number = rig.follower._number
            for slot, peer in ((SLOT, "c"), (SLOT + 1, "a")):
                rig.follower.on_begin(peer, frames.encode_start(number, [(slot, 5, (4, 30))]))
            rig.follower.staging_soft_bytes = 100
            take_frames(rig.shared)
            rig.entries((b"x", b"v" * 200), peer="c", slot=SLOT)
            rig.entries((b"y", b"v" * 200), peer="a", slot=SLOT + 1)
            assert take_frames(rig.shared) == [("c", frames.CREDIT, frames.encode_credit(1))]
            rig.follower.tick()
            assert take_frames(rig.shared) == []
            if how == "end":
                rig.end(SLOT, peer="c")
            else:
                rig.follower.link_closed("c")
                rig.follower.tick()
            credits = [frame for frame in take_frames(rig.shared) if frame[1] == frames.CREDIT]
            assert credits == [("a", frames.CREDIT, frames.encode_credit(1))]

    def two_primaries(self) -> Rig:
        """SLOT of c and the next one of a are gathered."""
        primaries = tuple("ac"[slot % 2] for slot in range(SLOT_COUNT))
        view = a_view()
        view = View(1, 5, view.members, primaries, view.backups, tuple((p, "b") for p in primaries), nonce=3)
        rig = Rig(view)
        for slot in (SLOT, SLOT + 1):
            rig.shared.positions[slot] = BASE
        rig.follower.entered({SLOT, SLOT + 1})
        for slot, peer in ((SLOT, "c"), (SLOT + 1, "a")):
            rig.follower.on_begin(peer, frames.encode_start(rig.follower._number, [(slot, 5, (4, 30))]))
        take_frames(rig.shared)
        return rig

    def test_up_to_the_soft_bound_all_get_credit(self) -> None:
        rig = self.two_primaries()
        rig.entries((b"x", b"v" * 200), peer="c", slot=SLOT)
        rig.follower.staging_soft_bytes = rig.follower.staged_bytes
        rig.entries(peer="a", slot=SLOT + 1)
        assert [peer for peer, _, _ in take_frames(rig.shared)] == ["c", "a"]

    def test_who_sent_nothing_gets_no_credit(self) -> None:
        rig = self.two_primaries()
        rig.follower.staging_soft_bytes = 0
        rig.entries((b"x", b"v" * 200), peer="c", slot=SLOT)
        rig.end(SLOT, peer="c")
        assert [frame for frame in take_frames(rig.shared) if frame[0] == "a"] == []

    def test_a_new_link_is_owed_nothing(self) -> None:
        rig = self.two_primaries()
        rig.follower.staging_soft_bytes = 0
        for slot, peer in ((SLOT, "c"), (SLOT + 1, "a")):
            rig.entries((b"x", b"v" * 200), peer=peer, slot=slot)
        rig.follower.link_closed("a")
        rig.follower.link_up("a")
        take_frames(rig.shared)
        rig.end(SLOT, peer="c")
        assert [frame for frame in take_frames(rig.shared) if frame[0] == "a"] == []


class TestBounds:
    def copies(self, view: View | None = None) -> Rig:
        """SLOT and the next one are gathered."""
        rig = Rig(view)
        rig.shared.positions[SLOT + 1] = BASE
        rig.follower.entered({SLOT, SLOT + 1})
        rows = [(slot, 5, (4, 30)) for slot in (SLOT, SLOT + 1)]
        rig.follower.on_begin("a", frames.encode_start(rig.follower._number, rows))
        for slot in (SLOT, SLOT + 1):
            rig.shared.store.put(slot, b"old", b"1")
            remember(rig.shared, b"before%d" % slot, slot)
        rig.follower.staging_max_bytes = 1000
        take_frames(rig.shared)
        return rig

    def have(self, rig: Rig) -> list[tuple[int, frames.Position]]:
        """What it reports with the next tick."""
        take_frames(rig.shared)
        rig.follower.tick()
        reports = [body for _, kind, body in take_frames(rig.shared) if kind == frames.HAVE]
        return [row for body in reports for row in frames.decode_have(body)[3]]

    def test_the_slot_begun_last_waits_until_nothing_is_gathered(self) -> None:
        rig = self.copies()
        rig.entries((b"x", bytes(700)))
        rig.entries((b"y", bytes(200)), slot=SLOT + 1)
        assert rig.follower.sessions.keys() == {SLOT}
        assert rig.shared.positions[SLOT] == rig.shared.positions[SLOT + 1] == BASE
        assert rig.shared.faults == {"staging full": 1}
        assert self.have(rig) == []
        rig.end()
        assert entries_of(rig.shared) == {b"x": bytes(700)}
        assert self.have(rig) == [(SLOT + 1, BASE)]
        assert rig.shared.out.lost == []

    def test_the_soft_bound_is_a_part_of_the_bound(self) -> None:
        assert Follower(a_shared("b"), 4000).staging_soft_bytes == 1000

    def test_in_a_new_view_none_waits_for_its_turn(self) -> None:
        rig = self.copies()
        rig.entries((b"x", bytes(700)))
        for _ in range(2):
            rig.entries((b"y", bytes(200)), slot=SLOT + 1)
        rig.shared.view = a_view(6)
        take_frames(rig.shared)
        rig.follower.entered({SLOT, SLOT + 1})
        assert rig.report()[1] == [(SLOT + 1, BASE)]

    def test_each_that_has_to_wait_is_counted(self) -> None:
        rig = self.copies()
        rig.shared.positions[SLOT + 2] = BASE
        rig.follower.entered({SLOT, SLOT + 1, SLOT + 2})
        rig.follower.on_begin("a", frames.encode_start(rig.follower._number, [(SLOT + 2, 5, (4, 30))]))
        rig.entries((b"x", bytes(700)))
        for slot in (SLOT + 2, SLOT + 1):
            rig.entries((b"y", bytes(10)), slot=slot)
        assert rig.shared.faults == {"staging full": 2}

    def test_all_that_exceed_it_alone_wait_for_a_view(self) -> None:
        rig = self.copies()
        for slot in (SLOT, SLOT + 1):
            rig.entries((b"x", bytes(1000)), slot=slot)
            take_frames(rig.shared)
            rig.follower.tick()
            for peer, kind, body in take_frames(rig.shared):
                if kind == frames.HAVE:
                    number, rows = frames.decode_have(body)[2:]
                    rig.follower.on_begin(peer, frames.encode_start(number, [(at, 5, (4, 30)) for at, _ in rows]))
        assert rig.shared.out.lost == [(1 << SLOT, 5), (2 << SLOT, 5)]
        assert self.have(rig) == []
        rig.shared.now += RETRY_S
        assert self.have(rig) == []

    @pytest.mark.parametrize(
        ("blob_bytes", "gathered", "expected"), [(300, 2, [1, 2, 4, 8, 3]), (100, 3, [2, 4, 8, 3])]
    )
    def test_of_those_that_wait_some_are_reported_and_then_twice_as_many(
        self, blob_bytes: int, gathered: int, expected: list[int]
    ) -> None:
        """At first half as many as were gathered when it was too much."""
        rig = self.copies()
        rig.shared.positions[:20] = [BASE] * 20
        rig.follower.entered(set())
        rig.follower.entered(set(range(20)))
        rows = [(slot, 5, (4, 30)) for slot in range(20)]
        rig.follower.on_begin("a", frames.encode_start(rig.follower._number, rows))
        for slot in range(20):
            rig.entries((b"x", bytes(blob_bytes)), slot=slot)
        assert rig.follower.sessions.keys() == set(range(gathered))
        counts = []
        for slot in range(gathered):
            rig.end(slot)
        for _ in expected:
            reported = self.have(rig)
            counts.append(len(reported))
            for slot, _ in reported:
                number = rig.follower._reported[slot][0]
                rig.follower.on_begin("a", frames.encode_start(number, [(slot, 5, (4, 30))]))
                rig.end(slot)
        assert counts == expected

    def test_one_that_exceeds_the_bound_alone_stays_as_it_is_and_the_node_says_so(self) -> None:
        rig = self.copies()
        rig.entries((b"x", bytes(1000)))
        assert rig.follower.staged_bytes == 0
        assert not rig.follower.sessions
        assert (rig.position, entries_of(rig.shared)) == (BASE, {b"old": b"1"})
        assert remembered(rig.shared, b"before%d" % SLOT) == NO_ERR
        assert rig.shared.out.lost == [(1 << SLOT, 5)]
        assert self.have(rig) == [(SLOT + 1, BASE)], "the other has waited for its turn"
        assert self.have(rig) == [], "it waits for a view in which it is no holder"

    def test_in_such_a_view_it_gathers_once_more_and_then_fills_in_place(self) -> None:
        """A whole copy is given up only where the view does not count on it, and only if there is no other way."""
        rig = self.copies()
        rig.entries((b"x", bytes(1000)))
        take_frames(rig.shared)
        rig.shared.view = a_view(6, backups="c", learners="b")
        rig.follower.entered({SLOT})
        assert rig.follower._lost == set()
        rig.begin()
        rig.entries((b"x", bytes(1000)))
        assert (rig.position, entries_of(rig.shared)) == (None, {b"old": b"1"})
        rig.shared.now += RETRY_S
        take_frames(rig.shared)
        rig.follower.tick()
        rig.begin()
        assert entries_of(rig.shared) == {}
        rig.entries((b"x", bytes(1000)))
        rig.end()
        assert (rig.position, entries_of(rig.shared)) == ((4, 30), {b"x": bytes(1000)})
        assert len(rig.shared.out.lost) == 1

    def test_writes_in_between_count_as_well(self) -> None:
        rig = self.copies()
        rig.ops(an_op(31, b"x", bytes(1000)))
        assert rig.position == BASE
        assert rig.shared.out.lost == [(1 << SLOT, 5)]

    def test_at_the_bound_nothing_has_to_wait(self) -> None:
        rig = self.copies()
        rig.entries((b"x", bytes(100)))
        rig.follower.staging_max_bytes = rig.follower.staged_bytes
        rig.follower._bound_staging()
        assert rig.follower.sessions.keys() == {SLOT, SLOT + 1}

    def test_whose_copy_is_not_whole_says_so_in_every_view_that_names_it_a_holder(self) -> None:
        rig = Rig()
        rig.shared.positions[SLOT] = None
        rig.follower.entered({SLOT})
        assert rig.shared.out.lost == [(1 << SLOT, 5)]
        rig.shared.view = a_view(6, backups="c", learners="b")
        rig.follower.entered({SLOT})
        assert rig.shared.out.lost == [(1 << SLOT, 5)]


class TestFlags:
    def test_a_change_of_flags_is_told_with_the_next_tick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig()
        rig.go()
        rig.follower.flush()
        take_frames(rig.shared)
        rig.follower.tick()
        rig.follower.flush()
        assert take_frames(rig.shared) == []
        monkeypatch.setattr(Shared, "flags", lambda shared: REPLIES_FULL)
        rig.follower.tick()
        rig.follower.flush()
        assert take_frames(rig.shared) == [("a", frames.ACK, frames.encode_ack(REPLIES_FULL, []))]
        rig.follower.tick()
        rig.follower.flush()
        assert take_frames(rig.shared) == []
        rig.follower.link_up("a")  # who is at its other end knows nothing yet
        take_frames(rig.shared)
        number = rig.follower._number
        rig.follower.on_go("a", frames.encode_start(number, [(SLOT, 5, BASE)]))
        rig.follower._unacknowledged.clear()
        rig.follower.tick()
        rig.follower.flush()
        assert take_frames(rig.shared) == [("a", frames.ACK, frames.encode_ack(REPLIES_FULL, []))]
