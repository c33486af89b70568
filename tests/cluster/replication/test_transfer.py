"""Giving a slot again, on its own: chunks, window, rate, and what stops it."""

from collections.abc import Iterator

import pytest

from app.cluster.replication import frames
from app.cluster.replication.frames import BadFrame
from app.cluster.replication.led import Led, Outbox, Progress
from app.cluster.replication.state import Shared
from app.cluster.replication.transfer import (
    BURST_BYTES,
    ENTRY_COST_BYTES,
    ENTRY_WORK_BYTES,
    RATE_BYTES_S,
    REPLIES_SEEN,
    SLOTS_AT_ONCE,
    WINDOW,
    Batch,
    Keys,
    Transfer,
)
from app.wire.protocol import KEY_DNE_ERR, SLOT_COUNT
from tests.cluster.replication.parts import NOW, SLOT, a_shared, a_view, remember, take_frames

CHUNK_KINDS = (frames.ENTRIES, frames.REPLIES)


class Rig:
    """Node a leads all slots, and b follows; each slot's copy is at (4, 20)."""

    def __init__(self, *, followers: str = "b") -> None:
        self.shared: Shared = a_shared("a", a_view())
        self.led = {slot: Led(slot, 5, (4, 20)) for slot in range(SLOT_COUNT)}
        for slot, led in self.led.items():
            for number, peer in enumerate(followers, 1):
                progress = led.progress[peer] = Progress(Outbox())
                progress.report = number if slot < 200 else 99  # of an earlier report
        self.transfer = Transfer(self.shared, self.led)
        self.flushed: list[str] = []
        self.transfer.before_chunk = self.flushed.append

    def fill(self, count: int, size: int, slot: int = SLOT) -> dict[bytes, bytes]:
        entries = {b"key%d" % number: b"%d" % number + bytes(size) for number in range(count)}
        for key, blob in entries.items():
            assert self.shared.store.put(slot, key, blob)
        return entries

    def give(self, *slots: int, peer: str = "b") -> None:
        for slot in slots:
            self.transfer.queue(slot, peer)
        self.transfer.pump(peer)

    def sent(self) -> list[tuple[int, bytes]]:
        return [(kind, body) for _, kind, body in take_frames(self.shared)]

    def chunks(self, peer: str = "b") -> Iterator[tuple[int, bytes]]:
        """All frames to the end, each chunk credited as soon as it is there."""
        stream = self.transfer._streams[peer]
        taken = stream.taken
        for _ in range(10_000):
            sent = self.sent()
            if not sent:
                return
            for kind, body in sent:
                taken += kind in CHUNK_KINDS
                yield kind, body
            self.shared.now += 0.1  # the rate allows more by then
            self.transfer.on_credit(peer, frames.encode_credit(taken))
        raise AssertionError("no end")


def entries_in(sent: list[tuple[int, bytes]]) -> dict[bytes, bytes]:
    return {key: blob for kind, body in sent if kind == frames.ENTRIES for _, key, blob in frames.decode_entries(body)}


def replies_in(sent: list[tuple[int, bytes]]) -> list[tuple[int, int, bytes]]:
    return [reply for kind, body in sent if kind == frames.REPLIES for reply in frames.decode_replies(body)]


class TestContent:
    def test_it_is_all_of_the_slot_between_begin_and_end(self) -> None:
        rig = Rig()
        entries = rig.fill(300, 1000)
        rig.fill(3, 5, SLOT + 1)
        for number in range(50):
            remember(rig.shared, b"m%d" % number, SLOT if number % 2 else SLOT + 1, KEY_DNE_ERR)
        rig.give(SLOT)
        sent = list(rig.chunks())
        assert sent[0] == (frames.BEGIN, frames.encode_start(1, [(SLOT, 5, (4, 20))]))
        assert sent[-1] == (frames.END, frames.encode_end([(SLOT, 5)]))
        assert {kind for kind, _ in sent[1:-1]} == set(CHUNK_KINDS)
        assert entries_in(sent) == entries
        assert sorted(replies_in(sent)) == sorted((SLOT, KEY_DNE_ERR, b"m%d" % n) for n in range(1, 50, 2))

    def test_replies_come_before_entries(self) -> None:
        rig = Rig()
        rig.fill(3, 10)
        remember(rig.shared, b"m1")
        rig.give(SLOT)
        kinds = [kind for kind, _ in rig.chunks()]
        assert kinds.index(frames.ENTRIES) > max(at for at, kind in enumerate(kinds) if kind == frames.REPLIES)

    def test_where_the_primary_is_by_then_is_where_it_begins(self) -> None:
        rig = Rig()
        rig.led[SLOT].seq = 33
        rig.give(SLOT)
        assert rig.sent()[0] == (frames.BEGIN, frames.encode_start(1, [(SLOT, 5, (5, 33))]))
        progress = rig.led[SLOT].progress["b"]
        assert (progress.is_streaming, progress.acked) == (True, -1)

    def test_a_value_is_read_when_its_chunk_is_made(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        sent = rig.sent()
        waiting = set(rig.shared.store.keys(SLOT)) - set(entries_in(sent))
        changed, removed = sorted(waiting)[:2]
        rig.shared.store.put(SLOT, changed, b"changed")
        rig.shared.store.remove(SLOT, removed)
        rig.transfer.on_credit("b", frames.encode_credit(WINDOW))
        sent = list(rig.chunks())
        given = entries_in(sent)
        assert given[changed] == b"changed"
        assert removed not in given

    def test_ops_ordered_before_leave_before_each_chunk(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        chunks = sum(kind in CHUNK_KINDS for kind, _ in rig.chunks())
        assert len(rig.flushed) == chunks + 2  # and before BEGIN, and before END

    def test_a_slot_of_very_many_entries_is_listed_a_part_at_a_time(self) -> None:
        """All that a node holds may be in one slot. Entries come and go meanwhile, and its tables with them."""
        rig = Rig()
        store = rig.shared.store
        entries = rig.fill(30_000, 1)
        assert len(store.tables(SLOT)) > 1
        rig.give(SLOT)
        batch = rig.transfer._streams["b"].batch
        assert batch is not None
        sent: list[tuple[int, bytes]] = []
        gone: set[bytes] = set()
        for frame in rig.chunks():
            sent.append(frame)
            if SLOT in batch.slots:
                assert len(batch.slots[SLOT].listed) <= 2_700
            for number in range(len(gone), min(len(gone) + 1_000, 20_000)):
                gone.add(b"key%d" % number)
                assert store.remove(SLOT, b"key%d" % number)
        given = entries_in(sent)
        assert len(gone) == 20_000
        assert {key: given[key] for key in entries if key not in gone} == {
            key: blob for key, blob in entries.items() if key not in gone
        }
        assert sent[-1] == (frames.END, frames.encode_end([(SLOT, 5)]))

    def test_a_chunk_of_the_smallest_entries_has_some_hundreds(self) -> None:
        """They take work, where they are read and where they are put, and hardly any bytes."""
        rig = Rig()
        rig.fill(5_000, 0)
        rig.give(SLOT)
        counts = [len(frames.decode_entries(body)) for kind, body in rig.chunks() if kind == frames.ENTRIES]
        assert sum(counts) == 5_000
        assert max(counts) <= 450

    def test_an_empty_slot_is_begun_and_ended(self) -> None:
        rig = Rig()
        rig.give(SLOT)
        assert [kind for kind, _ in rig.sent()] == [frames.BEGIN, frames.END]


class TestPatches:
    """A copy that parted from ours a moment ago is sent what the writes since have touched, here or there."""

    def note(self, rig: Rig, slot: int, *names: tuple[bytes, bytes]) -> None:
        """Writes of ours since (4, 20): keys and messageIDs."""
        led = rig.led[slot]
        for key, message_id in names:
            before = led.position
            led.seq += 1
            rig.shared.recent.note((slot, frames.PUT_OP, before, led.position, key, message_id))

    def queue(self, rig: Rig, slot: int, keys: list[bytes], message_ids: list[bytes], seq: int = 20) -> None:
        rig.transfer.queue(slot, "b", frames.Patch(slot, 0, (4, seq), keys, message_ids))

    def test_it_names_what_either_side_has_touched_and_carries_what_we_have_of_it(self) -> None:
        rig = Rig()
        self.note(rig, SLOT, (b"ours", b"m1"), (b"both", b"m2"), (b"", b"m3"))
        for key in (b"ours", b"both", b"neither"):
            rig.shared.store.put(SLOT, key, b"v" + key)
        for name in (b"m1", b"m3", b"other"):
            remember(rig.shared, name, code=KEY_DNE_ERR)
        self.queue(rig, SLOT, [b"both", b"theirs"], [b"m2", b"m9"])
        rig.transfer.pump("b")
        sent = rig.sent()
        assert [kind for kind, _ in sent] == [frames.PATCH, frames.REPLIES, frames.ENTRIES, frames.END]
        number, (patch,) = frames.decode_patches(sent[0][1])
        assert (number, patch.slot, patch.term, patch.position) == (1, SLOT, 5, (5, 23))
        assert sorted(patch.keys) == [b"both", b"ours", b"theirs"]
        assert sorted(patch.message_ids) == [b"m1", b"m2", b"m3", b"m9"]
        assert sorted(replies_in(sent)) == [(SLOT, KEY_DNE_ERR, b"m1"), (SLOT, KEY_DNE_ERR, b"m3")]
        assert entries_in(sent) == {b"both": b"vboth", b"ours": b"vours"}
        progress = rig.led[SLOT].progress["b"]
        assert (progress.is_streaming, progress.acked) == (True, -1)

    def test_where_we_have_not_been_or_do_not_know_it_any_more_the_slot_is_given_whole(self) -> None:
        rig = Rig()
        self.note(rig, SLOT, (b"ours", b"m1"))
        self.queue(rig, SLOT, [], [], seq=19)
        rig.transfer.pump("b")
        assert [kind for kind, _ in rig.sent()] == [frames.BEGIN, frames.END]

    @pytest.mark.parametrize(("more", "kind"), [(0, frames.PATCH), (1, frames.BEGIN)])
    def test_so_it_is_where_too_much_was_touched_for_a_frame(self, more: int, kind: int) -> None:
        rig = Rig()
        empty = frames.Patch(SLOT, 5, (5, 21), [b"k"], [b"m"]).size_bytes
        size_bytes = frames.FRAME_FILL_BYTES - empty + more
        ids = [b"%010d" % number for number in range(size_bytes // 11 - 1)]
        ids.append(b"x" * (size_bytes - 11 * len(ids) - 1))
        self.note(rig, SLOT, (b"k", b"m"))
        self.queue(rig, SLOT, [], ids)
        rig.transfer.pump("b")
        assert rig.sent()[0][0] == kind

    def test_little_goes_first(self) -> None:
        rig = Rig()
        for slot in range(SLOTS_AT_ONCE + 2):
            rig.transfer.queue(slot, "b")
        self.queue(rig, 100, [], [])
        rig.transfer.pump("b")
        sent = rig.sent()
        assert [kind for kind, _ in sent][:2] == [frames.PATCH, frames.BEGIN]
        assert [slot for slot, _, _ in frames.decode_start(sent[1][1])[1]] == list(range(SLOTS_AT_ONCE - 1))

    def test_what_it_takes_is_taken_off_the_rate(self) -> None:
        rig = Rig()
        self.queue(rig, SLOT, [b"key"], [])
        rig.transfer.pump("b")
        ((kind, body), _) = rig.sent()
        assert kind == frames.PATCH
        assert rig.transfer._tokens == BURST_BYTES - len(body)

    def test_replies_are_looked_up_a_part_at_a_time(self) -> None:
        rig = Rig()
        ids = [b"m%d" % number for number in range(REPLIES_SEEN + 1)]
        for name in ids:
            remember(rig.shared, name)
        self.queue(rig, SLOT, [], ids)
        rig.transfer.pump("b")
        counts = [len(frames.decode_replies(body)) for kind, body in rig.sent() if kind == frames.REPLIES]
        assert counts == [REPLIES_SEEN, 1]

    def test_what_is_forgotten_is_sent_no_further(self) -> None:
        rig = Rig()
        for slot in (SLOT, SLOT + 1):
            remember(rig.shared, b"of %d" % slot, slot)
            rig.shared.store.put(slot, b"k%d" % slot, b"v")
            self.queue(rig, slot, [b"k%d" % slot], [b"of %d" % slot])
        rig.transfer._refill()
        rig.transfer._tokens = 1.0
        rig.transfer.pump("b")
        assert [kind for kind, _ in rig.sent()] == [frames.PATCH, frames.PATCH, frames.REPLIES]
        rig.transfer.forget(SLOT + 1, "b")
        rig.shared.now += 1.0
        rig.transfer.pump("b")
        sent = rig.sent()
        assert [kind for kind, _ in sent] == [frames.ENTRIES, frames.END]
        assert entries_in(sent) == {b"k%d" % SLOT: b"v"}


class TestBounds:
    def test_a_slot_leaves_in_chunks_and_so_many_at_once(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        sent = rig.sent()
        assert [kind for kind, _ in sent] == [frames.BEGIN] + [frames.ENTRIES] * WINDOW
        for kind, body in [*sent, *rig.chunks()]:
            if kind == frames.ENTRIES:
                assert len(body) <= frames.FRAME_FILL_BYTES + 1100

    def test_each_credit_brings_as_many_more(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        rig.sent()
        for taken, more in ((1, 1), (1, 0), (3, 2)):
            rig.transfer.on_credit("b", frames.encode_credit(taken))
            assert len(rig.sent()) == more

    @pytest.mark.parametrize(("taken", "is_sound"), [(WINDOW, True), (WINDOW + 1, False)])
    def test_credit_for_what_was_never_sent_is_a_bad_frame(self, taken: int, is_sound: bool) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        if is_sound:
            rig.transfer.on_credit("b", frames.encode_credit(taken))
            with pytest.raises(BadFrame):  # nor does it go back
                rig.transfer.on_credit("b", frames.encode_credit(taken - 1))
        else:
            with pytest.raises(BadFrame):
                rig.transfer.on_credit("b", frames.encode_credit(taken))

    def test_credit_of_one_that_gets_nothing_is_passed_over(self) -> None:
        rig = Rig()
        rig.transfer.on_credit("b", frames.encode_credit(7))
        assert rig.sent() == []

    def test_so_many_slots_are_begun_together_and_the_others_after_them(self) -> None:
        rig = Rig()
        rig.give(*range(SLOTS_AT_ONCE + 2))
        sent = rig.sent()
        assert [kind for kind, _ in sent] == [frames.BEGIN, frames.END] * 2
        begun = [[slot for slot, _, _ in frames.decode_start(body)[1]] for kind, body in sent if kind == frames.BEGIN]
        assert begun == [list(range(SLOTS_AT_ONCE)), [SLOTS_AT_ONCE, SLOTS_AT_ONCE + 1]]

    def test_slots_of_different_reports_are_begun_by_frames_of_their_own(self) -> None:
        rig = Rig()
        rig.give(SLOT, 201, SLOT + 1)
        begins = [frames.decode_start(body) for kind, body in rig.sent() if kind == frames.BEGIN]
        assert [(number, [slot for slot, _, _ in rows]) for number, rows in begins] == [
            (1, [SLOT, SLOT + 1]),
            (99, [201]),
        ]

    def test_a_node_sends_so_much_and_then_so_much_a_second(self) -> None:
        rig = Rig(followers="bc")
        entries = 120
        for slot in range(2):
            rig.fill(entries, 9000, slot)
        cost = 9000 + ENTRY_COST_BYTES
        rig.transfer.queue(0, "b")
        rig.transfer.queue(1, "c")
        for _ in range(100):
            for peer in "bc":
                rig.transfer.pump(peer)
                stream = rig.transfer._streams[peer]
                rig.transfer.on_credit(peer, frames.encode_credit(stream.sent))
        sent = len(entries_in(rig.sent()))  # both slots have the same keys
        assert rig.transfer._tokens <= 0
        rig.shared.now = NOW + 0.01
        rig.transfer.pump_all()
        assert rig.sent()
        assert sent * cost <= BURST_BYTES * 1.2

    def test_the_rate_is_refilled_by_time_up_to_a_burst(self) -> None:
        rig = Rig()
        rig.transfer._streams.clear()
        rig.transfer._refill()
        rig.transfer._tokens = 0.0
        rig.shared.now += 0.01
        rig.transfer._refill()
        assert rig.transfer._tokens == pytest.approx(0.01 * RATE_BYTES_S)
        rig.shared.now += 60.0
        rig.transfer._refill()
        assert rig.transfer._tokens == BURST_BYTES
        rig.shared.now -= 60.0
        rig.transfer._refill()
        assert rig.transfer._tokens == BURST_BYTES

    def test_what_is_sent_is_taken_off_it_entries_by_more_than_their_bytes(self) -> None:
        rig = Rig()
        rig.fill(3, 10)
        rig.give(SLOT)
        bodies = [body for kind, body in rig.sent() if kind == frames.ENTRIES]
        assert rig.transfer._tokens == BURST_BYTES - sum(map(len, bodies)) - 3 * ENTRY_COST_BYTES

    def test_without_anything_left_of_it_nothing_is_sent(self) -> None:
        rig = Rig()
        rig.fill(3, 10)
        rig.transfer._refill()
        rig.transfer._tokens = 0.0
        rig.give(SLOT)
        assert rig.sent() == []

    def test_remembered_replies_are_looked_through_a_part_at_a_time(self) -> None:
        rig = Rig()
        for number in range(4 * REPLIES_SEEN):
            remember(rig.shared, b"m%d" % number)
        rig.give(SLOT)
        sent = list(rig.chunks())
        found = [len(frames.decode_replies(body)) for kind, body in sent if kind == frames.REPLIES]
        assert sum(found) == 4 * REPLIES_SEEN
        assert 4 <= len(found) <= 6
        assert max(found) < 2 * REPLIES_SEEN

    def test_of_very_many_one_bucket_is_looked_through_at_a_time(self) -> None:
        rig = Rig()
        replies = rig.shared.replies
        for number in range(2 * replies.bucket_count * REPLIES_SEEN):
            remember(rig.shared, b"m%d" % number, SLOT + 1)
        remember(rig.shared, b"id")
        scanned: list[tuple[int, int]] = []
        scan = replies.scan

        def noted(start: int, count: int, slots: int) -> list[tuple[bytes, int, int]]:
            scanned.append((start, count))
            return scan(start, count, slots)

        replies.scan = noted  # type: ignore[method-assign]
        rig.give(SLOT)
        list(rig.chunks())
        assert scanned == [(bucket, 1) for bucket in range(replies.bucket_count)]

    def test_a_chunk_is_closed_once_it_has_so_many_bytes(self) -> None:
        rig = Rig()
        rig.transfer.queue(SLOT, "b")
        stream = rig.transfer._streams["b"]
        fill = frames.FRAME_FILL_BYTES
        rig.transfer._send_chunk("b", stream, frames.REPLIES, [bytes(n) for n in (fill - 1, 5, fill, fill - 1, 7, 9)])
        assert [len(body) for _, body in rig.sent()] == [fill + 4, fill, fill + 6, 9]
        assert stream.sent == 4

    @pytest.mark.parametrize(("over", "count"), [(0, 2), (1, 3), (-1, 2)])
    def test_entries_are_taken_until_a_chunk_is_full(self, over: int, count: int) -> None:
        rig = Rig()
        rig.fill(8, 100)
        cost = len(frames.encode_entry(SLOT, b"key0", b"0" + bytes(100))) + ENTRY_WORK_BYTES
        rig.transfer.chunk_bytes = 2 * cost + over
        rig.give(SLOT)
        bodies = [body for kind, body in rig.sent() if kind == frames.ENTRIES]
        assert len(frames.decode_entries(bodies[0])) == count

    def test_each_entry_counts_by_its_own_size(self) -> None:
        rig = Rig()
        large = rig.fill(50, 1000)
        rig.shared.store.put(SLOT, b"small", b"")
        parts = rig.transfer._entries(Batch({SLOT: Keys([*large, b"small"])}, {}))
        cost = len(parts[1]) + ENTRY_WORK_BYTES
        assert len(parts) == 1 + -(-(frames.FRAME_FILL_BYTES - len(parts[0]) - ENTRY_WORK_BYTES) // cost)

    def test_replies_with_long_ids_leave_in_bounded_frames_too(self) -> None:
        rig = Rig()
        ids = [b"%064d" % number for number in range(1000)]
        for message_id in ids:
            remember(rig.shared, message_id)
        rig.give(SLOT)
        sent = list(rig.chunks())
        assert sorted(message_id for _, _, message_id in replies_in(sent)) == ids
        bodies = [body for kind, body in sent if kind == frames.REPLIES]
        assert len(bodies) == 3
        assert max(map(len, bodies)) <= frames.FRAME_FILL_BYTES + 67


class TestStopping:
    def test_while_it_is_under_way_the_slot_is_filling(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.transfer.queue(SLOT, "b")
        assert SLOT not in rig.transfer.filling("b")
        rig.transfer.pump("b")
        assert SLOT in rig.transfer.filling("b")
        assert SLOT + 1 not in rig.transfer.filling("b")
        assert SLOT not in rig.transfer.filling("c")
        list(rig.chunks())
        assert SLOT not in rig.transfer.filling("b")

    def test_what_is_forgotten_is_sent_no_further(self) -> None:
        rig = Rig(followers="bc")
        rig.fill(300, 1000)
        for peer in "bc":
            rig.give(SLOT, SLOT + 1, peer=peer)
        take_frames(rig.shared)
        rig.transfer.forget(SLOT, "b")
        assert SLOT not in rig.transfer.filling("b")
        assert SLOT in rig.transfer.filling("c")
        rig.transfer.on_credit("b", frames.encode_credit(WINDOW))
        assert rig.sent() == []
        rig.transfer.forget(SLOT)
        assert SLOT not in rig.transfer.filling("c")

    def test_nor_is_what_was_queued(self) -> None:
        rig = Rig()
        rig.transfer.queue(SLOT, "b")
        rig.transfer.forget(SLOT, "b")
        rig.transfer.pump("b")
        assert rig.sent() == []

    def test_when_all_is_forgotten_there_is_no_end_to_tell(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        rig.sent()
        rig.transfer.forget(SLOT)
        rig.transfer.on_credit("b", frames.encode_credit(WINDOW))
        assert rig.sent() == []
        rig.give(SLOT + 1)
        assert [kind for kind, _ in rig.sent()] == [frames.BEGIN, frames.END]

    def test_a_links_end_stops_all_that_goes_over_it(self) -> None:
        rig = Rig()
        rig.fill(300, 1000)
        rig.give(SLOT)
        rig.sent()
        rig.transfer.link_closed("b")
        rig.transfer.pump_all()
        assert rig.sent() == []
        assert SLOT not in rig.transfer.filling("b")

    def test_without_a_link_nothing_is_begun(self) -> None:
        rig = Rig()
        rig.shared.links.clear()
        rig.give(SLOT)
        assert not rig.led[SLOT].progress["b"].is_streaming
        rig.shared.links.add("b")
        rig.transfer.pump_all()
        assert [kind for kind, _ in rig.sent()] == [frames.BEGIN, frames.END]

    def test_slots_that_are_not_ours_or_not_the_peers_any_more_are_skipped(self) -> None:
        rig = Rig()
        del rig.led[SLOT]
        del rig.led[SLOT + 1].progress["b"]
        rig.give(SLOT, SLOT + 1)
        assert rig.sent() == []
        rig.give(SLOT + 2)
        assert rig.sent()[0] == (frames.BEGIN, frames.encode_start(1, [(SLOT + 2, 5, (4, 20))]))
