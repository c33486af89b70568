"""A primary on its own: its log, what it waits for, and what a change of view does to either."""

import pytest

from app.cluster.limits import SEQ, SEQ_RENEWED
from app.cluster.replication import frames
from app.cluster.replication.frames import NOWHERE, BadFrame
from app.cluster.replication.led import Led, Op
from app.cluster.replication.primary import Primary
from app.cluster.replication.state import Shared
from app.cluster.replication.transfer import NAMES_MAX
from app.cluster.replication.writes import IGNORED, WAITS
from app.cluster.view import View
from app.storage.mutate import BUSY, REPLIES_FULL, STORE_FULL
from app.wire.protocol import NO_ERR, PUT
from tests.cluster.replication.parts import (
    NOW,
    SLOT,
    a_shared,
    a_view,
    entries_of,
    remember,
    remembered,
    take_frames,
)
from tests.support.parts import nothing_queued

BASE = (4, 20)  # where the copy of SLOT is when this node becomes its primary


class Rig:
    """Node a, primary of SLOT in view 5; b and c follow as the view has it."""

    def __init__(self, backups: str = "bc", learners: str = "", base: frames.Position | None = BASE) -> None:
        self.shared: Shared = a_shared("a")
        self.shared.positions[SLOT] = base
        self.primary = Primary(self.shared, nothing_queued)
        self.enter(a_view(5, "a", backups, learners))

    def enter(self, view: View | None, *, leads: bool = True) -> None:
        self.shared.view = view
        self.primary.entered(view, {SLOT} if leads else set())

    @property
    def led(self) -> Led:
        return self.primary.led[SLOT]

    def have(self, peer: str, position: frames.Position = BASE, number: int = 1, epoch: int = 0) -> None:
        """A follower's report."""
        view = self.shared.view
        assert view is not None
        self.primary.on_have(peer, frames.encode_have(epoch or view.epoch, view.nonce, number, [(SLOT, position)]))

    def ack(self, peer: str, seq: int, flags: int = 0, term: int = 5) -> None:
        self.primary.on_ack(peer, frames.encode_ack(flags, [(SLOT, term, seq)]))

    def write(self, name: bytes, key: bytes = b"k", kind: int = frames.PUT_OP) -> Op | None:
        """A write that the node has applied; the messageID stands for whoever waits for it."""
        key = key if kind == frames.PUT_OP else b""
        self.primary.followed[SLOT] = self.led
        op = self.primary.order(self.led, kind, key, b"v" if key else b"", name, NO_ERR)
        if op is not None:
            op.waiters.append(name)
            self.primary.unreleased[name] = op
        return op

    def agree(self, *peers: str) -> None:
        """These are where the primary is, and it knows it."""
        for number, peer in enumerate(peers, 1):
            self.have(peer, self.led.position_at(self.led.seq), number)
        self.primary.flush()
        take_frames(self.shared)

    def released(self) -> list[object]:
        out, self.shared.out.released = self.shared.out.released, []
        return [waiter for waiter, _ in out]

    def dropped(self) -> list[object]:
        out, self.shared.out.dropped = self.shared.out.dropped, []
        return out

    def sent(self) -> list[tuple[str, int]]:
        return [(peer, kind) for peer, kind, _ in take_frames(self.shared)]

    def sent_ops(self) -> dict[str, list[int]]:
        """The seqs of the ops sent, by peer."""
        self.primary.flush()
        ops: dict[str, list[int]] = {}
        for peer, kind, body in take_frames(self.shared):
            if kind == frames.OPS:
                ops.setdefault(peer, []).extend(op.seq for op in frames.decode_ops(body))
        return ops


class TestFarAhead:
    """A copy that came with a seq which none comes to by counting."""

    @pytest.mark.parametrize(
        ("seq", "begins"), [(SEQ_RENEWED, (4, SEQ_RENEWED)), (SEQ_RENEWED + 1, (5, 0)), (SEQ.most, (5, 0))]
    )
    def test_the_next_primary_begins_again(self, seq: int, begins: frames.Position) -> None:
        rig = Rig(base=(4, seq))
        assert rig.led.base == rig.led.position == begins
        assert rig.shared.positions[SLOT] == begins
        rig.agree("b", "c")
        assert rig.led.is_open
        rig.write(b"m")
        assert rig.sent_ops() == {"b": [begins[1] + 1], "c": [begins[1] + 1]}

    def test_who_has_such_a_copy_is_given_it_anew(self) -> None:
        rig = Rig(base=(4, SEQ.most))
        rig.have("b", (4, SEQ.most))
        assert (("b", frames.GO)) not in rig.sent()


def test_of_peers_that_are_gone_nothing_is_kept() -> None:
    rig = Rig()
    for name in ("x", "y", "z"):
        rig.primary._outbox(name)
    rig.enter(a_view(6, "a", "bc"))
    assert set(rig.primary._outboxes) <= set("abcd")
    rig.enter(None)
    assert set(rig.primary._outboxes) <= set("bcd")


def test_a_follower_whose_link_is_down_while_a_view_comes_is_sent_ops_over_the_next_one() -> None:
    rig = Rig("b")
    rig.agree("b")
    rig.shared.links.discard("b")
    rig.primary.link_closed("b")
    rig.enter(a_view(6, "a", "b"))
    rig.shared.links.add("b")
    rig.primary.link_up("b")
    rig.agree("b")
    rig.write(b"m1")
    assert rig.sent_ops() == {"b": [21]}


class TestBecomingPrimary:
    def test_it_asks_all_followers_where_they_are(self) -> None:
        rig = Rig("b", "c")
        sent = take_frames(rig.shared)
        assert [(peer, kind) for peer, kind, _ in sent] == [("b", frames.QUERY), ("c", frames.QUERY)]
        assert frames.decode_query(sent[0][2]) == (5, 3, bytes([SLOT]))
        rig.primary.tick()  # and again until all have said so
        assert rig.sent() == [("b", frames.QUERY), ("c", frames.QUERY)]
        rig.have("b")
        rig.sent()
        rig.primary.tick()
        assert rig.sent() == [("c", frames.QUERY)]
        rig.have("c")
        rig.sent()
        rig.primary.tick()
        assert rig.sent() == []

    def test_the_slot_is_closed_until_all_backups_have_what_it_has(self) -> None:
        rig = Rig()
        assert not rig.led.is_open
        rig.have("b")
        assert not rig.led.is_open
        rig.primary.changed.clear()
        rig.have("c")
        assert rig.led.is_open
        assert rig.primary.changed == {SLOT}

    def test_without_followers_it_is_open_at_once(self) -> None:
        rig = Rig("")
        assert rig.led.is_open
        assert rig.write(b"m1") is None
        assert rig.led.committed == 21
        assert rig.primary.pending == 0

    def test_it_goes_on_from_its_copy_in_a_term_of_its_own(self) -> None:
        rig = Rig()
        assert (rig.led.term, rig.led.base, rig.led.seq) == (5, BASE, 20)
        assert rig.led.position_at(20) == BASE
        assert rig.led.position_at(21) == (5, 21)

    def test_without_a_whole_copy_anywhere_it_empties_what_is_there(self) -> None:
        """What is left is a part, and may be older than what was acknowledged: it must never be shown."""
        shared = a_shared("a")
        shared.store.put(SLOT, b"old", b"1")
        shared.store.put(SLOT + 1, b"other", b"1")
        remember(shared, b"before")
        remember(shared, b"other", SLOT + 1)
        shared.positions[SLOT] = None
        primary = Primary(shared, nothing_queued)
        shared.view = view = a_view(5, "a", "", "b")
        primary.entered(view, {SLOT})
        assert shared.out.emptied == 1 << SLOT
        assert entries_of(shared) == {}
        assert entries_of(shared, SLOT + 1) == {b"other": b"1"}
        assert remembered(shared, b"before") is None
        assert remembered(shared, b"other") == NO_ERR
        assert shared.positions[SLOT] == (5, 0)


class TestWrites:
    def test_one_is_answered_when_all_backups_have_it(self) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        assert rig.shared.positions[SLOT] == (5, 21)
        assert rig.sent_ops() == {"b": [21], "c": [21]}
        rig.ack("b", 21)
        assert rig.released() == []
        assert (rig.primary.pending, set(rig.primary.unacked), set(rig.primary.unreleased)) == (1, {b"k"}, {b"m1"})
        assert rig.primary.pending_bytes > 0
        rig.ack("c", 21)
        assert rig.released() == [b"m1"]
        assert (rig.primary.pending, rig.primary.pending_bytes) == (0, 0)
        assert not rig.primary.unacked
        assert not rig.primary.unreleased
        assert rig.led.committed == 21

    def test_a_follower_that_has_not_said_where_it_is_is_sent_nothing(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.write(b"m1")
        assert rig.sent_ops() == {"b": [21]}

    def test_an_acknowledgement_counts_for_all_before_it_and_never_backwards(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        for name in (b"m1", b"m2", b"m3"):
            rig.write(name)
        rig.ack("b", 22)
        assert rig.released() == [b"m1", b"m2"]
        rig.ack("b", 21)
        assert rig.led.progress["b"].acked == 22
        assert rig.primary.unacked[b"k"].seq == 23
        rig.ack("b", 23)
        assert rig.released() == [b"m3"]

    def test_what_was_released_stays_so_when_a_follower_is_lost(self) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        for peer in "bc":
            rig.ack(peer, 21)
        rig.write(b"m2")
        rig.primary.link_closed("b")
        rig.ack("c", 22)
        assert rig.led.committed == 21
        assert rig.released() == [b"m1"]

    def test_all_that_is_given_up_is_told(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        for name in (b"m1", b"m2"):
            rig.write(name)
        rig.primary.hold_read(b"k", b"reader")
        rig.enter(a_view(6, "b", "a"), leads=False)
        assert rig.dropped() == [b"m1", b"m2", b"reader"]

    def test_reads_of_it_are_answered_with_it(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        assert rig.primary.hold_read(b"k", b"reader")
        rig.ack("b", 21)
        assert rig.shared.out.released == [(b"m1", NO_ERR), (b"reader", NO_ERR)]

    @pytest.mark.parametrize(("lease_s", "is_released"), [(0.001, True), (0.0, False), (-1.0, False)])
    def test_without_a_lease_it_is_not_answered(self, lease_s: float, is_released: bool) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.shared.lease_until = NOW + lease_s
        rig.ack("b", 21)
        assert (rig.released(), rig.dropped()) == (([b"m1"], []) if is_released else ([], [b"m1"]))

    def test_a_later_write_to_the_key_is_what_reads_wait_for(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        later = rig.write(b"m2")
        rig.ack("b", 21)
        assert rig.primary.unacked == {b"k": later}

    def test_a_wipe_closes_the_slot_until_all_have_it(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.primary.changed.clear()
        rig.write(b"m1", kind=frames.WIPE_OP)
        assert (rig.led.wipes, rig.primary.changed) == (1, {SLOT})
        assert not rig.primary.unacked
        rig.primary.changed.clear()
        rig.ack("b", 21)
        assert (rig.led.wipes, rig.primary.changed) == (0, {SLOT})

    def test_a_retry_that_may_not_wait_gets_no_answer(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        assert rig.primary.execute(PUT, SLOT, b"k", b"v", b"m1", b"again", False) == IGNORED
        assert rig.primary.execute(PUT, SLOT, b"k", b"v", b"m1", b"again", True) == WAITS
        rig.ack("b", 21)
        assert rig.released() == [b"m1", b"again"]

    def test_what_is_no_acknowledgement_is_a_bad_frame(self) -> None:
        rig = Rig("b")
        with pytest.raises(BadFrame):
            rig.primary.on_ack("b", b"")

    @pytest.mark.parametrize(("peer", "flags"), [("b", STORE_FULL), ("c", REPLIES_FULL)])
    def test_what_any_required_follower_lacks_is_refused(self, peer: str, flags: int) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.ack("b", 20, STORE_FULL)
        rig.ack("c", 20, REPLIES_FULL)
        assert rig.primary.refuses(rig.led) == STORE_FULL | REPLIES_FULL
        rig.ack(peer, 20, 0)
        assert rig.primary.refuses(rig.led) == (STORE_FULL | REPLIES_FULL) - flags

    @pytest.mark.parametrize(("over", "refuses"), [(0, 0), (-1, BUSY)])
    def test_up_to_the_bound_a_turn_may_order_for_one_peer(self, over: int, refuses: int) -> None:
        rig = Rig("b")
        rig.agree("b")
        op = rig.write(b"m1")
        assert op is not None
        rig.primary.limit_backlog(2 * len(op.data) + over)
        rig.write(b"m2")
        assert rig.primary.refuses(rig.led) == refuses

    def test_an_acknowledgement_of_what_was_never_sent_is_a_bad_frame(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        with pytest.raises(BadFrame):
            rig.ack("b", 22)

    @pytest.mark.parametrize(("peer", "term"), [("b", 4), ("d", 5)])
    def test_one_of_another_term_or_of_no_follower_is_passed_over(self, peer: str, term: int) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.ack(peer, 21, term=term)
        assert rig.released() == []
        rig.primary.on_ack("b", frames.encode_ack(0, [(SLOT + 1, 5, 21)]))

    def test_one_from_a_follower_that_has_not_said_where_it_is_is_passed_over(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.primary.link_closed("b")
        rig.ack("b", 21)
        assert rig.released() == []

    @pytest.mark.parametrize(("peer", "refuses"), [("b", True), ("d", False)])
    def test_what_a_required_follower_lacks_room_for_is_refused(self, peer: str, refuses: bool) -> None:
        rig = Rig("b", "d")
        rig.have("b")
        rig.have("d", NOWHERE)
        rig.primary.on_ack(peer, frames.encode_ack(STORE_FULL, []))
        assert rig.primary.refuses(rig.led) == (STORE_FULL if refuses else 0)
        rig.primary.on_ack(peer, frames.encode_ack(0, []))
        assert rig.primary.refuses(rig.led) == 0
        rig.primary.on_ack(peer, frames.encode_ack(STORE_FULL, []))
        rig.primary.link_up(peer)  # whoever is there now may have room
        assert rig.primary.refuses(rig.led) == 0


class TestReports:
    def test_whoever_lacks_nothing_but_the_log_goes_on_from_there(self) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        rig.write(b"m2", b"l")
        rig.sent_ops()
        rig.primary.link_closed("c")
        rig.write(b"m3")
        assert rig.sent_ops() == {"b": [23]}
        rig.have("c", (5, 21), 9)
        sent = take_frames(rig.shared)
        assert [(peer, kind) for peer, kind, _ in sent] == [("c", frames.GO)]
        assert frames.decode_start(sent[0][2]) == (9, [(SLOT, 5, (5, 21))])
        assert rig.led.progress["c"].acked == 21
        assert rig.sent_ops() == {"c": [22, 23]}

    @pytest.mark.parametrize(
        ("position", "how"),
        [
            ((5, 22), frames.GO),
            ((5, 21), frames.GO),
            (BASE, frames.GO),  # everything since is in the log
            ((4, 19), frames.PAST),
            ((5, 20), frames.PAST),  # another term's 20th: another history
            ((4, 21), frames.PAST),  # it has a write that the last primary alone ordered
            ((5, 23), frames.PAST),
            ((0, 0), frames.BEGIN),
            (NOWHERE, frames.BEGIN),
        ],
    )
    def test_everybody_else_is_asked_what_it_has_written_or_gets_the_slot_again(
        self, position: frames.Position, how: int
    ) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        rig.write(b"m2")
        rig.sent_ops()
        rig.have("c", position, 9)
        assert rig.sent()[0] == ("c", how)

    def test_no_more_is_sent_again_than_the_link_takes(self) -> None:
        """A link that took more than it may queue would end, and the next one would again."""
        rig = Rig()
        rig.agree("b")
        for number in range(10):
            rig.write(b"m%d" % number)
        rig.sent_ops()
        rig.primary._backlog_max_bytes = 10 * 60
        rig.primary._queued_bytes = lambda peer: 500
        rig.have("c", BASE, 9)
        assert rig.sent() == []
        rig.primary._queued_bytes = lambda peer: 0
        rig.have("c", BASE, 9)
        assert rig.sent()[0] == ("c", frames.GO)
        rig.sent_ops()
        rig.primary._backlog_max_bytes = 100
        rig.have("c", BASE, 10)
        assert rig.sent()[0] == ("c", frames.PATCH)

    def test_all_that_is_sent_again_must_fit_together(self) -> None:
        rig = Rig()
        slots = (SLOT, SLOT + 1)
        rig.shared.positions[SLOT + 1] = BASE
        rig.shared.view = view = a_view(6)
        rig.primary.entered(view, set(slots))
        base = rig.led.base
        take_frames(rig.shared)
        for slot in slots:
            for number in range(10):
                rig.primary.order(rig.primary.led[slot], frames.PUT_OP, b"k", b"v", b"m%d" % number, NO_ERR)
        size_bytes = sum(len(op.data) for op in rig.led.log)
        rig.primary._backlog_max_bytes = 2 * size_bytes - 1
        for number, started in ((1, [SLOT]), (2, [SLOT, SLOT + 1])):
            rows = [(slot, base) for slot in slots]
            rig.primary.on_have("b", frames.encode_have(view.epoch, view.nonce, number, rows))
            ((_, _, body),) = [frame for frame in take_frames(rig.shared) if frame[1] == frames.GO]
            assert [slot for slot, *_ in frames.decode_start(body)[1]] == started
            rig.primary._backlog_max_bytes = 2 * size_bytes

    def test_what_has_left_the_log_is_given_by_the_keys(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.write(b"m1")
        rig.ack("b", 21)
        rig.have("c", BASE, 9)
        ((_, _, body),) = [frame for frame in take_frames(rig.shared) if frame[1] == frames.PATCH]
        assert frames.decode_patches(body) == (9, [frames.Patch(SLOT, 5, (5, 21), [b"k"], [b"m1"])])

    @pytest.mark.parametrize(("number", "is_streaming"), [(8, False), (9, True)])
    def test_what_a_follower_tells_counts_once_and_as_the_answer_to_its_last_report(
        self, number: int, is_streaming: bool
    ) -> None:
        rig = Rig("b", "c")
        rig.have("c", (4, 19), 9)
        rig.sent()
        told = frames.Patch(SLOT, 0, NOWHERE, [], [])
        if is_streaming:
            rig.primary.on_touched("c", frames.encode_patches(9, [told]))
            assert ("c", frames.BEGIN) in rig.sent()
        rig.primary.on_touched("c", frames.encode_patches(number, [told]))
        assert rig.sent() == []

    def test_what_followers_tell_is_bounded_whatever_they_tell(self) -> None:
        """It waits until it can be sent: what names more is given whole."""
        rig = Rig("bc")
        slots = range(40)
        for slot in slots:
            rig.shared.positions[slot] = BASE
        view = rig.shared.view
        assert view is not None
        rig.primary.entered(a_view(7, "a", "bc"), set(slots))
        rig.shared.view = a_view(7, "a", "bc")
        names = [b"%04x" % number for number in range(5_000)]
        for peer in "bc":
            rig.shared.links.discard(peer)  # nothing leaves
            rig.primary.on_have(peer, frames.encode_have(7, view.nonce, 9, [(slot, (4, 19)) for slot in slots]))
            for slot in slots:
                told = frames.Patch(slot, 0, (4, 18), names, [])
                rig.primary.on_touched(peer, frames.encode_patches(9, [told]))
        queued = [stream.queued for stream in rig.primary.transfer._streams.values()]
        assert [len(patches) for patches in queued] == [len(slots), len(slots)]
        told_names = sum(patch.count for patches in queued for patch in patches.values() if patch is not None)
        assert 0 < told_names <= NAMES_MAX

    def test_a_report_counts_once(self) -> None:
        rig = Rig("b")
        rig.have("b", BASE, 1)
        rig.sent()
        rig.have("b", (4, 1), 1)
        assert rig.sent() == []
        assert rig.led.progress["b"].is_streaming

    @pytest.mark.parametrize(("peer", "epoch"), [("b", 4), ("b", 6), ("d", 5)])
    def test_one_of_another_view_or_of_no_follower_does_not(self, peer: str, epoch: int) -> None:
        rig = Rig("b")
        rig.sent()
        rig.have(peer, BASE, 1, epoch)
        assert rig.sent() == []
        assert rig.led.progress["b"].report == 0

    def test_ops_sent_under_the_agreement_before_arrive_before_the_new_one(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.have("b", BASE, 9)
        assert rig.sent()[:2] == [("b", frames.OPS), ("b", frames.GO)]

    def test_after_a_links_end_nothing_that_waited_is_sent_over_the_next(self) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        rig.primary.link_closed("b")
        assert rig.sent_ops() == {"c": [21]}
        assert (rig.led.progress["b"].acked, rig.led.progress["b"].report) == (-1, 0)
        rig.primary.link_up("b")
        assert rig.sent() == [("b", frames.QUERY)]

    def test_what_was_agreed_on_with_a_process_is_void_when_another_is_in_its_place(self) -> None:
        rig = Rig("b", "c")
        for number in range(300):
            rig.shared.store.put(SLOT, b"key%d" % number, bytes(1000))
        rig.agree("b")
        rig.have("c", NOWHERE)
        rig.write(b"m1")
        assert SLOT in rig.primary.transfer.filling("c")
        rig.sent()
        for peer in "bc":
            rig.primary.forget_process(peer)
            progress = rig.led.progress[peer]
            assert (progress.is_streaming, progress.acked, progress.report) == (False, -1, 0)
        assert rig.sent_ops() == {}
        assert rig.primary.transfer.filling("c") == set()
        rig.primary.transfer.on_credit("c", frames.encode_credit(1))
        assert rig.sent() == []

    def test_whoever_comes_back_is_asked_though_all_had_said_what_they_have(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.primary.tick()
        rig.primary.link_closed("b")
        rig.primary.tick()
        assert rig.sent() == []
        rig.primary.link_up("b")
        assert rig.sent() == [("b", frames.QUERY)]
        rig.primary.tick()
        assert rig.sent() == [("b", frames.QUERY)]


class TestLearners:
    def test_one_in_sync_is_reported_and_waited_for_from_then_on(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.have("c", BASE, 9)
        rig.primary.flush()
        assert rig.shared.out.synced == [("c", 1 << SLOT, 5)]
        rig.primary.flush()
        assert len(rig.shared.out.synced) == 1
        rig.write(b"m1")
        rig.ack("b", 21)
        assert rig.released() == []
        rig.ack("c", 21)
        assert rig.released() == [b"m1"]

    def test_one_that_lacks_what_was_released_is_not(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.have("c", BASE, 9)
        rig.led.required.discard("c")
        rig.shared.out.synced.clear()
        rig.primary._synced.clear()
        rig.write(b"m1")
        rig.ack("b", 21)
        assert rig.released() == [b"m1"]
        rig.ack("c", 20)
        rig.primary.flush()
        assert rig.shared.out.synced == []
        rig.ack("c", 21)
        rig.primary.flush()
        assert rig.shared.out.synced == [("c", 1 << SLOT, 5)]

    def test_while_the_slot_is_closed_nobody_is_in_sync(self) -> None:
        rig = Rig("b", "c")
        rig.have("c", BASE, 9)
        rig.primary.flush()
        assert rig.shared.out.synced == []
        rig.have("b", BASE, 9)
        rig.primary.flush()
        assert rig.shared.out.synced == [("c", 1 << SLOT, 5)]


class TestViews:
    def test_in_the_next_view_it_goes_on_with_its_term_and_its_log(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.sent_ops()
        led = rig.led
        rig.enter(a_view(6, "a", "b"))
        assert rig.led is led
        rig.ack("b", 21)
        assert rig.released() == [b"m1"]

    @pytest.mark.parametrize("view", [a_view(7, "a", "b"), a_view(6, "a", "b", cluster_id=2)])
    def test_after_a_view_that_it_missed_it_begins_anew(self, view: View) -> None:
        """Another node may have led the slot meanwhile: nothing that was agreed on counts any more."""
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.enter(view)
        assert (rig.led.term, rig.led.base, len(rig.led.log)) == (view.epoch, (5, 21), 0)
        assert not rig.led.is_open
        assert (rig.released(), rig.dropped()) == ([], [b"m1"])
        assert rig.primary.pending == 0
        rig.ack("b", 21)
        assert not rig.led.is_open

    def test_alone_it_begins_anew_from_nowhere(self) -> None:
        """Writes that nobody else has are not numbered: no copy of before may pass for this one."""
        rig = Rig("")
        rig.write(b"m1")
        rig.enter(a_view(7, "a", ""))
        assert (rig.led.term, rig.led.base) == (7, (7, 0))
        assert rig.led.is_open

    def test_and_so_it_does_when_it_gets_followers(self) -> None:
        """The slot stays open: this node has led it all the time."""
        rig = Rig("")
        rig.enter(a_view(6, "a", "b"))
        assert rig.led.is_open
        rig = Rig("")
        rig.enter(a_view(6, "a", "", "b"))
        assert (rig.led.term, rig.led.base) == (6, (6, 0))
        assert rig.led.is_open  # nobody is required
        assert rig.shared.positions[SLOT] == (6, 0)
        rig.have("b", BASE, 9)
        assert ("b", frames.PAST) in rig.sent()

    def test_a_transfer_goes_on_in_the_next_view_and_ends_with_who_it_is_for(self) -> None:
        rig = Rig("", "bc")
        for number in range(300):
            rig.shared.store.put(SLOT, b"key%d" % number, bytes(1000))
        for peer in "bc":
            rig.have(peer, NOWHERE)
        transfer = rig.primary.transfer
        rig.enter(a_view(6, "a", "", "b"))
        assert (SLOT in transfer.filling("b"), SLOT in transfer.filling("c")) == (True, False)
        rig.ack("b", 20)  # of what it had before
        assert rig.led.progress["b"].acked == -1
        rig.primary.link_closed("b")
        assert SLOT not in transfer.filling("b")
        rig.primary.link_up("b")
        rig.have("b", NOWHERE, 2)
        assert SLOT in transfer.filling("b")
        rig.have("b", rig.led.position_at(rig.led.seq), 3)  # it has come by all of it otherwise
        assert SLOT not in transfer.filling("b")

    def test_a_report_that_needs_the_whole_slot_voids_what_was_agreed_on(self) -> None:
        rig = Rig("bc")
        rig.agree("b", "c")
        rig.shared.links.discard("b")  # so that nothing is begun yet
        rig.have("b", NOWHERE, 9)
        assert (rig.led.progress["b"].is_streaming, rig.led.progress["b"].acked) == (False, -1)
        rig.write(b"m1")
        rig.ack("c", 21)
        assert rig.released() == []

    def test_alone_and_without_followers_to_come_nothing_changes(self) -> None:
        rig = Rig("")
        led = rig.led
        rig.enter(a_view(6, "a", ""))
        assert rig.led is led

    def test_whose_slot_is_led_by_another_now_gives_up_what_is_in_flight(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.enter(a_view(6, "b", "a"), leads=False)
        assert rig.dropped() == [b"m1"]
        assert not rig.primary.led
        assert rig.shared.positions[SLOT] == (5, 21)  # which it has, whether the new primary has it or not

    def test_whose_slot_had_no_followers_has_no_copy_that_counts(self) -> None:
        rig = Rig("")
        rig.enter(a_view(6, "b", "", "a"), leads=False)
        assert rig.shared.positions[SLOT] is None

    def test_outside_all_views_it_leads_nothing(self) -> None:
        rig = Rig("b")
        rig.agree("b")
        rig.write(b"m1")
        rig.enter(None, leads=False)
        assert rig.dropped() == [b"m1"]
        assert not rig.primary.led

    def test_who_does_not_follow_any_more_is_waited_for_no_longer(self) -> None:
        rig = Rig()
        rig.agree("b", "c")
        rig.write(b"m1")
        rig.ack("b", 21)
        rig.enter(a_view(6, "a", "b"))
        assert rig.released() == [b"m1"]
        assert set(rig.led.progress) == {"b"}

    def test_a_learner_is_reported_anew_in_each_view(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.have("c", BASE, 9)
        rig.primary.flush()
        rig.shared.out.synced.clear()
        rig.enter(a_view(6, "a", "b", "c"))
        rig.primary.flush()
        assert rig.shared.out.synced == [("c", 1 << SLOT, 6)]

    def test_one_that_is_reported_and_no_backup_yet_is_not_reported_in_a_view_of_before(self) -> None:
        rig = Rig("b", "c")
        rig.agree("b")
        rig.have("c", BASE, 9)
        rig.enter(a_view(6, "a", "b"))
        rig.primary.flush()
        assert rig.shared.out.synced == []


def test_a_turns_ops_leave_in_frames_of_bounded_size() -> None:
    rig = Rig("b")
    rig.agree("b")
    count = 40
    for number in range(count):
        name = b"m%d" % number
        rig.primary.order(rig.led, frames.PUT_OP, b"k%d" % number, bytes(4000), name, NO_ERR)
    rig.primary.flush()
    sent = take_frames(rig.shared)
    assert len(sent) == 5
    assert all(len(body) <= frames.BODY_MAX_BYTES for _, _, body in sent)
    assert all(len(body) >= frames.FRAME_FILL_BYTES for _, _, body in sent[:-1])
    assert [op.seq for _, _, body in sent for op in frames.decode_ops(body)] == list(range(21, 21 + count))


def test_a_frame_is_closed_once_it_has_so_many_bytes() -> None:
    rig = Rig("b")
    rig.agree("b")
    empty = len(frames.encode_op(frames.PUT_OP, SLOT, NO_ERR, b"m", b"k", 5, 1, b""))
    blob_max = frames.BLOB_MAX_BYTES
    fill = frames.FRAME_FILL_BYTES

    def order(*sizes: int) -> None:
        for size in sizes:
            rig.primary.order(rig.led, frames.PUT_OP, b"k", bytes(size - empty), b"m", NO_ERR)

    assert fill - 24_000 < blob_max
    order(8_000, 8_000, 8_000, fill - 24_001, 100)  # one byte is missing
    order(8_000, 8_000, 8_000, fill - 24_000, 100)
    rig.primary.flush()
    assert [len(body) for _, _, body in take_frames(rig.shared)] == [fill + 99, fill, 100]


def test_whether_a_link_is_behind_is_asked_when_writes_are_queued_for_it() -> None:
    rig = Rig("b")
    rig.agree("b")
    rig.primary._queued_bytes = lambda peer: rig.primary._backlog_max_bytes + 1
    rig.primary.flush()
    assert rig.primary.refuses(rig.led) == 0
    rig.write(b"m1")
    rig.primary.flush()
    assert rig.primary.refuses(rig.led) == BUSY
    rig.primary._queued_bytes = lambda peer: rig.primary._backlog_max_bytes
    rig.primary.flush()
    assert rig.primary.refuses(rig.led) == 0
