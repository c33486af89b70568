"""The primary's side: which log it goes on with, what it may lead, and whose acknowledgement a write waits for."""

from dataclasses import replace

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.cluster.replication import frames
from app.cluster.replication.core import IGNORED, WAITS
from app.cluster.replication.writes import PENDING_MAX, WAITERS_MAX
from app.cluster.view import Member, View
from app.storage.mutate import BUSY_WAIT_MS, REPLIES_FULL
from app.wire.protocol import NO_ERR, SLOT_COUNT, SYS_OVERLOAD_ERR, slot_of
from tests.cluster.replication.machines import KEY, SLOT, Machine, Wires, view


def test_a_write_in_flight_stays_so_in_the_view_directly_after() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    wires.held = {"c"}
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    wires.enter(view(2, "a", "b"))  # c is gone: b's acknowledgement is enough
    assert a.released == [(b"m1", NO_ERR)]
    assert not a.dropped


def test_a_primary_that_missed_a_view_gives_up_its_log() -> None:
    """Another may have led the slot in the view that it missed."""
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    wires.held = {"c"}
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    wires.enter(view(3, "a", "b"))
    assert a.dropped == [b"m1"]
    assert not a.released
    assert not a.core.unacked
    assert a.core.pending == 0
    assert a.core.routes[SLOT] == SELF
    assert a.core.followed[SLOT].term == 3


def test_a_view_of_another_cluster_is_none_directly_after() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    wires.held = {"c"}
    assert a.put(b"v", b"m1") == WAITS
    wires.enter(replace(view(2, "a", "b"), cluster_id=2))
    assert a.dropped == [b"m1"]


def test_a_primary_without_followers_that_missed_a_view_starts_from_a_position_that_no_other_copy_has() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a"))
    a.store.put(SLOT, KEY, b"only here")
    wires.enter(view(3, "a", learners="b"))
    assert b.store.get(SLOT, KEY) == b"only here"


def test_what_is_not_a_whole_copy_is_not_led() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a"))
    keys = [b"key%d" % number for number in range(2000)]
    for key in keys:
        a.store.put(slot_of(key), key, bytes(2000))
        a.replies.add(key, slot_of(key), NO_ERR)
    wires.enter(view(2, "a", learners="b"))  # time stands still, so the rate allows a part of it only
    slots = [slot for slot in range(256) if b.core._shared.positions[slot] is None]
    part = [key for key in keys if slot_of(key) in slots and b.store.get(slot_of(key), key)]
    assert part
    wires.enter(view(3, "b"))
    for key in part:
        assert b.store.get(slot_of(key), key) is None
        assert b.replies.get(key) is None


def test_a_write_waits_for_each_backup_and_not_for_a_learner_that_lacks_some() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    wires.held = {"c"}
    wires.enter(view(2, "a", "b", learners="c"))
    assert a.put(b"w", b"m2") == WAITS
    wires.run()
    assert a.released == [(b"m1", NO_ERR), (b"m2", NO_ERR)]
    assert not any(slots >> SLOT & 1 for _, slots, _ in a.synced)


def test_a_follower_that_says_it_has_what_was_never_written_is_at_fault() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    seq = a.core.followed[SLOT].seq
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, [(SLOT, 1, seq)]), 1.0)
    assert a.core.faults.get("bad frame", 0) == 0
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, [(SLOT, 1, seq + 1)]), 1.0)
    assert a.core.faults["bad frame"] == 1


def test_an_acknowledgement_of_another_term_is_none() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    wires.held = {"b"}
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, [(SLOT, 2, 1)]), 1.0)
    wires.run()
    assert not a.released
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, [(SLOT, 1, 1)]), 1.0)
    wires.run()
    assert a.released == [(b"m1", NO_ERR)]


def test_no_more_wait_for_one_write_than_the_bound() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert [a.put(b"v", b"m1") for _ in range(WAITERS_MAX)] == [WAITS] * WAITERS_MAX
    assert a.put(b"v", b"m1") == IGNORED
    wires.run()
    assert a.released == [(b"m1", NO_ERR)] * WAITERS_MAX


def test_no_more_is_in_flight_than_the_bounds() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    for number in range(PENDING_MAX):
        assert a.put(b"", b"id%d" % number, b"key%d" % number) == WAITS
    assert a.put(b"", b"one more", b"one more") == SYS_OVERLOAD_ERR
    assert a.store.get(slot_of(b"one more"), b"one more") is None
    assert not a.core.is_under_way(b"one more")
    assert not a.core.remembers(b"one more")
    wires.run()
    assert a.core.pending == 0
    assert a.put(b"", b"one more", b"one more") == WAITS


def test_no_more_readers_wait_for_one_key_than_the_bound() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    assert all(a.core.hold_read(KEY, number) for number in range(PENDING_MAX))
    assert not a.core.hold_read(KEY, "one more")


def test_a_slot_is_open_only_to_a_primary_whose_copy_all_backups_have() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.held = {"a"}
    wires.enter(view(1, "a", "b"))
    assert a.core.routes[SLOT] == UNKNOWN
    wires.held = set()
    a.core.tick(1.0)  # asks again
    wires.run()
    assert a.core.routes[SLOT] == SELF


def test_a_write_over_several_frames_arrives_whole() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    keys = [b"key%d" % number for number in range(20)]
    for key in keys:
        assert a.put(bytes(9000), key, key) == WAITS
    out = a.flush()
    ops = [body for peer, kind, body in out.frames if kind == frames.OPS]
    assert len(ops) > 1
    assert all(frames.FRAME_FILL_BYTES <= len(body) <= frames.BODY_MAX_BYTES for body in ops[:-1])
    for body in ops:
        b.core.on_frame("a", frames.OPS, body, 1.0)
    assert all(b.store.get(slot_of(key), key) == bytes(9000) for key in keys)


def test_a_write_that_nobody_is_required_to_have_is_answered_at_once() -> None:
    a = Machine("a")
    wires = Wires(a)
    wires.enter(view(1, "a", learners="b"))  # which is not linked
    assert a.put(b"v", b"m1") == NO_ERR
    assert a.core.pending == 0
    assert not a.core.unacked


def test_a_follower_whose_link_ended_has_nothing_until_it_says_so() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.held = {"a"}
    wires.enter(view(1, "a", "bc"))
    a.core.link_closed("b")
    wires.held = set()
    a.core.tick(1.0)
    wires.run()
    assert a.core.followed[SLOT].progress["c"].acked == 0
    assert a.core.routes[SLOT] == UNKNOWN


def test_who_is_no_follower_any_more_is_sent_no_more_of_the_slot() -> None:
    a = Machine("a")
    Wires(a).enter(view(1, "a"))
    for number in range(1000):
        key = b"key%d" % number
        a.store.put(slot_of(key), key, bytes(2000))
    a.core.link_up("b", 1.0)
    a.core.on_view(view(2, "a", learners="b"), True, 1.0)
    rows = [(slot, frames.NOWHERE) for slot in range(256)]
    a.core.on_frame("b", frames.HAVE, frames.encode_have(2, 0, 1, rows), 1.0)
    assert any(kind == frames.ENTRIES for _, kind, _ in a.flush().frames)
    a.core.on_view(view(3, "a", learners="c"), True, 1.0)
    a.flush()
    a.core.on_frame("b", frames.CREDIT, frames.encode_credit(1), 1.0)
    assert not any(kind == frames.ENTRIES for _, kind, _ in a.flush().frames)


def test_no_more_bytes_are_in_flight_than_the_bound() -> None:
    a, b = Machine("a"), Machine("b")
    a.core._primary.pending_max_bytes = 1000
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    for turn in range(3):  # each time as much as the time before
        number = 0
        while (code := a.put(bytes(100), b"%d %d" % (turn, number), b"key%d" % number)) == WAITS:
            number += 1
        assert code == SYS_OVERLOAD_ERR
        assert 1000 // 200 <= number <= 1000 // 100
        wires.run()
        assert a.core._primary.pending_bytes == 0


def test_no_more_is_ordered_for_one_peer_than_its_link_takes() -> None:
    """What others have queued is no matter: with 63 peers a share of all that may be in flight would be of no use."""
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    queued = {"b": 0, "c": 0}
    a.core._primary._backlog_max_bytes = 1000
    a.core._primary._queued_bytes = queued.__getitem__
    wires = Wires(a, b, c)
    table = tuple(("bc"[slot % 2],) for slot in range(SLOT_COUNT))
    members = tuple(Member(address, 1) for address in "abc")
    homes = tuple(("a", *backups) for backups in table)
    wires.enter(View(1, 1, members, ("a",) * SLOT_COUNT, table, homes))
    numbers = iter(range(9999))

    def put(peer: str) -> int:
        while "bc"[slot_of(key := b"key%d" % next(numbers)) % 2] != peer:
            pass
        return a.put(bytes(100), key, key)

    def taken(peer: str) -> int:
        count = 0
        while (code := put(peer)) == WAITS:
            count += 1
        assert (code, a.core.wait_ms) == (SYS_OVERLOAD_ERR, BUSY_WAIT_MS)
        return count

    assert [taken("b"), taken("c")] == [8, 8]
    queued["b"] = 1001
    wires.run()
    assert [put("b"), taken("c")] == [SYS_OVERLOAD_ERR, 8], "it is behind with reading"
    wires.run()
    queued["b"] = 1000
    wires.run()
    assert taken("b") == 8


def test_a_wipeout_is_refused_while_a_copy_can_remember_no_reply() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    a.store.put(SLOT, KEY, b"v")
    a.core.on_frame("b", frames.ACK, frames.encode_ack(REPLIES_FULL, []), 1.0)
    assert a.core.wipe(range(256), b"w", "wiper") == SYS_OVERLOAD_ERR
    assert a.core.wait_ms == BUSY_WAIT_MS
    assert a.store.get(SLOT, KEY) == b"v"
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, []), 1.0)
    assert a.core.wipe(range(256), b"w", "wiper") == WAITS


def test_a_follower_that_comes_back_by_a_link_of_its_own_is_asked_what_it_has() -> None:
    a, b = Machine("a"), Machine("b")
    Wires(a, b).enter(view(1, "a", "b"))
    a.core.link_closed("b")
    a.core.link_up("b", 1.0)
    (body,) = [body for peer, kind, body in a.flush().frames if kind == frames.QUERY]
    assert frames.decode_query(body)[2] == bytes(range(256))


@pytest.mark.parametrize(("backups", "learners"), [("", "b"), ("b", "")])
def test_who_led_alone_goes_on_serving_until_its_followers_have_caught_up(backups: str, learners: str) -> None:
    a = Machine("a")
    wires = Wires(a)
    wires.enter(view(1, "a"))
    wires.enter(view(2, "a", backups, learners))
    assert a.core.routes[SLOT] == SELF


def test_a_mutation_is_under_way_until_it_is_released_and_remembered_from_its_order_on() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert (a.core.is_under_way(b"m1"), a.core.remembers(b"m1")) == (False, False)
    assert a.put(b"v", b"m1") == WAITS
    assert (a.core.is_under_way(b"m1"), a.core.remembers(b"m1")) == (True, True)
    wires.run()
    assert (a.core.is_under_way(b"m1"), a.core.remembers(b"m1")) == (False, True)
    assert b.core.remembers(b"m1")
