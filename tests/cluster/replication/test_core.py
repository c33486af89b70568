"""Two or three replication cores, wired by hand."""

from dataclasses import replace

from app.cluster.events import SELF, UNKNOWN
from app.cluster.readiness import LedSlots
from app.cluster.replication import frames
from app.cluster.replication.follower import RETRY_S
from app.cluster.replication.frames import encode_patches
from app.cluster.replication.writes import IGNORED, PENDING_MAX, WAITS
from app.cluster.view import Member, View
from app.storage.mutate import REPLIES_FULL
from app.wire.protocol import ALL_SLOTS, KEY_DNE_ERR, NO_ERR, NO_SPC_ERR, REMOVE, SLOT_COUNT, SYS_OVERLOAD_ERR, slot_of
from tests.cluster.replication.machines import KEY, SLOT, Machine, Wires, view
from tests.cluster.replication.parts import entries_of
from tools.bench.chosen import key_in_slot


def test_without_followers_there_is_nothing_to_do() -> None:
    a = Machine("a")
    Wires(a).enter(view(1, "a"))
    assert a.core.followed[SLOT] is None
    assert a.core.routes[SLOT] == SELF


def test_a_write_is_answered_when_all_backups_have_it() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    wires.held = {"c"}
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    assert b.store.get(SLOT, KEY) == b"v"
    assert b.replies.get(b"m1") == NO_ERR
    assert KEY in a.core.unacked
    assert a.core.hold_read(KEY, "reader")
    assert a.put(b"v", b"m1") == WAITS  # a retry
    assert not a.released
    wires.held.clear()
    c.core.link_closed("a")
    a.core.link_closed("c")
    a.core.link_up("c", 1.0)
    c.core.link_up("a", 1.0)
    wires.run()
    assert a.released == [(b"m1", NO_ERR), (b"m1", NO_ERR), ("reader", NO_ERR)]
    assert c.store.get(SLOT, KEY) == b"v"
    assert not a.core.unacked
    assert a.put(b"v", b"m1") == ~NO_ERR  # remembered


def test_nothing_is_released_without_a_lease() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    a.core.refresh(a.core.routes, 0.5)
    wires.run()
    assert not a.released
    assert a.dropped == [b"m1"]


def test_a_learner_gets_all_and_is_reported_in_each_view() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a"))
    a.store.put(SLOT, KEY, b"old")
    a.replies.add(b"m0", SLOT, NO_ERR)
    wires.enter(view(2, "a", learners="b"))
    assert b.store.get(SLOT, KEY) == b"old"
    assert b.replies.get(b"m0") == NO_ERR
    mask = 0
    for learner, slots, epoch in a.synced:
        assert (learner, epoch) == ("b", 2)
        mask |= slots
    assert mask == (1 << SLOT_COUNT) - 1
    a.synced.clear()
    wires.enter(view(3, "a", learners="b"))
    assert a.synced == [("b", mask, 3)]
    assert a.put(b"new", b"m1") == WAITS  # it may be the primary next
    wires.run()
    assert a.released == [(b"m1", NO_ERR)]


def test_a_backup_ahead_of_the_new_primary_is_set_back_and_the_slot_closed_until_then() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    assert a.put(b"kept", b"m1") == WAITS
    wires.run()
    wires.held = {"b"}
    assert a.put(b"lost", b"m2") == WAITS
    wires.run()
    assert c.store.get(SLOT, KEY) == b"lost"
    del wires.machines["a"]
    wires.held = {"b", "c"}
    wires.enter(view(2, "b", "c"))
    assert b.core.routes[SLOT] == UNKNOWN
    wires.held.clear()
    for one, other in ((b, "c"), (c, "b")):
        one.core.link_closed(other)
    for one, other in ((b, "c"), (c, "b")):
        one.core.link_up(other, 1.0)
    wires.run()
    assert b.core.routes[SLOT] == SELF
    assert c.store.get(SLOT, KEY) == b"kept"
    assert c.replies.get(b"m2") is None
    assert c.replies.get(b"m1") == NO_ERR


def test_a_backup_that_was_restarted_is_a_learner_that_has_nothing_though_its_link_seems_up() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    again = wires.machines["b"] = Machine("b")
    wires.enter(view(2, "a", learners="b", restarted="b"))
    assert not a.synced
    a.core.link_closed("b")
    a.core.link_up("b", 1.0)
    again.core.link_up("a", 1.0)
    wires.run()
    assert sum(slots.bit_count() for _, slots, _ in a.synced) == SLOT_COUNT
    assert again.store.get(SLOT, KEY) == b"v"
    assert again.replies.get(b"m1") == NO_ERR


def test_a_remove_reaches_what_the_primary_has_evicted() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    a.store.remove(SLOT, KEY)  # as eviction does
    assert a.core.execute(REMOVE, SLOT, KEY, b"", b"m2", "remover") == WAITS
    wires.run()
    assert a.released[-1] == ("remover", KEY_DNE_ERR)
    assert b.store.get(SLOT, KEY) is None


def test_a_full_replica_refuses_for_all() -> None:
    a, b = Machine("a", evict=False), Machine("b", evict=False, pages=2)
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    for number in range(40):
        key = b"%d" % number
        code = a.put(bytes(9000), key, key)
        wires.run()
        if code != WAITS or a.released[-1][1] == NO_SPC_ERR:
            break
    assert a.released[-1] == (key, NO_SPC_ERR)
    assert a.store.get(slot_of(key), key) is None
    assert b.replies.get(key) == NO_SPC_ERR
    assert entries_of(a, slot_of(b"0")) == entries_of(b, slot_of(b"0"))


def test_which_of_the_slots_that_it_leads_take_writes() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    assert a.core.linked == {"b"}
    assert (a.core.leading, a.core.led_slots()) == (0, LedSlots(0, 0))
    wires.enter(view(1, "a", "b"))
    assert (a.core.leading, a.core.led_slots()) == (SLOT_COUNT, LedSlots(ALL_SLOTS, ALL_SLOTS))
    b.replies.full = True
    b.core.tick(1.0)
    wires.run()
    assert a.core.led_slots() == LedSlots(ALL_SLOTS, 0), "the copy can remember no answer"
    b.replies.full = False
    b.core.tick(1.0)
    wires.run()
    a.core._primary.pending_max = 0
    assert a.core.led_slots() == LedSlots(ALL_SLOTS, 0), "too much is in flight"
    a.core._primary.pending_max = PENDING_MAX
    assert a.core.led_slots() == LedSlots(ALL_SLOTS, ALL_SLOTS)
    a.core.link_closed("b")
    assert a.core.led_slots() == LedSlots(0, 0)
    assert a.core.linked == set()


def test_a_slot_for_which_there_is_no_room_is_known() -> None:
    a, b = Machine("a"), Machine("b", evict=False, pages=1)
    wires = Wires(a, b)
    wires.enter(view(1, "a"))
    for number in range(8):
        assert a.store.put(number, key_in_slot(b"%d" % number, number), bytes(9000))
    assert b.core.short_of_room == 0
    wires.enter(view(2, "a", learners="b"))
    assert b.core.short_of_room > 0


def test_wipeout_of_what_nobody_else_has_is_done_at_once() -> None:
    a = Machine("a")
    Wires(a).enter(view(1, "a"))
    assert a.store.put(SLOT, KEY, b"v")
    assert a.core.wipe(range(SLOT_COUNT), b"w", "wiper") == NO_ERR
    assert a.store.get(SLOT, KEY) is None
    assert not a.core.is_under_way(b"w")


def test_wipeout_closes_until_all_have_it() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    wires.run()
    assert a.core.wipe(range(SLOT_COUNT), b"w", "wiper") == WAITS
    assert a.core.routes[SLOT] == UNKNOWN
    assert a.core.wipe(range(SLOT_COUNT), b"w", "again") == WAITS
    wires.run()
    assert a.core.routes[SLOT] == SELF
    assert a.released[-2:] == [("wiper", NO_ERR), ("again", NO_ERR)]
    assert b.store.get(SLOT, KEY) is None
    assert a.core.wipe(range(SLOT_COUNT), b"w", "later") == ~NO_ERR


def test_a_wipeout_of_which_one_slot_was_given_up_is_not_answered_as_done() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    before = view(1, "a", "b")
    wires.enter(before)
    assert a.core.wipe([SLOT, SLOT + 1], b"w", "wiper") == WAITS
    primaries, backups = list(before.primaries), list(before.backups)
    primaries[SLOT], backups[SLOT] = "b", ("a",)
    wires.enter(replace(before, epoch=2, primaries=tuple(primaries), backups=tuple(backups)))
    assert a.core.routes[SLOT + 1] == SELF, "there it is everywhere"
    assert (a.released, a.dropped) == ([], ["wiper"])


def test_a_slot_stays_closed_until_the_last_of_its_wipes_is_everywhere() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    ordered = []
    for message_id in (b"w1", b"w2"):
        assert a.core.wipe([SLOT], message_id, message_id) == WAITS
        ordered.append(a.flush().frames)
    for sent, route in zip(ordered, (UNKNOWN, SELF), strict=True):
        for _, kind, body in sent:
            b.core.on_frame("a", kind, body, 1.0)
        for _, kind, body in b.flush().frames:
            a.core.on_frame("b", kind, body, 1.0)
        a.flush()
        assert a.core.routes[SLOT] == route
    assert a.released == [(b"w1", NO_ERR), (b"w2", NO_ERR)]


def test_wipeout_takes_effect_once_wherever_its_slots_are() -> None:
    """The other node is asked again after it has taken over, and the first one once some of its slots have left."""
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    half = View(
        1,
        1,
        tuple(Member(address, 1) for address in "ab"),
        tuple("ab"[slot % 2] for slot in range(SLOT_COUNT)),
        tuple(("ba"[slot % 2],) for slot in range(SLOT_COUNT)),
        tuple(("ab"[slot % 2], "ba"[slot % 2]) for slot in range(SLOT_COUNT)),
    )
    wires.enter(half)
    keys = {slot_of(key) % 2: key for key in (b"k%d" % n for n in range(9))}
    assert a.core.wipe(range(0, SLOT_COUNT, 2), b"w", "wiper") == WAITS
    wires.run()
    assert a.put(b"v", b"m1", keys[0]) == b.put(b"v", b"m2", keys[1]) == WAITS
    wires.run()
    assert b.core.wipe(range(1, SLOT_COUNT, 2), b"w", "wiper") == WAITS, "what it leads was not wiped"
    wires.run()
    assert (b.store.get(slot_of(keys[1]), keys[1]), b.released[-1]) == (None, ("wiper", NO_ERR))
    wires.enter(replace(half, epoch=2, primaries=("a",) * SLOT_COUNT, backups=(("b",),) * SLOT_COUNT))
    assert a.core.wipe(range(SLOT_COUNT), b"w", "wiper") == ~NO_ERR
    assert a.store.get(slot_of(keys[0]), keys[0]) == b"v"


def test_an_unsound_frame_closes_the_link() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    b.core.on_frame("a", 19, b"\xff" * 20, 1.0)
    b.core.on_frame("a", 99, b"", 1.0)
    b.core.on_frame("a", 99, encode_patches(1, []), 1.0)  # sound, were it of kind PATCH
    b.flush()
    assert b.closed == ["a", "a", "a"]
    assert b.core.faults["bad frame"] == 3


def test_a_copy_that_is_not_ours_to_hold_any_more_is_forgotten_and_no_other() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    first = view(1, "a", "b")
    wires.enter(first)
    keys = [key_in_slot(b"k", slot) for slot in (SLOT, SLOT + 1)]
    for key in keys:
        assert a.put(b"v", b"m" + key, key) == WAITS
    wires.run()
    positions = b.core._shared.positions
    assert [b.store.get(slot_of(key), key) for key in keys] == [b"v", b"v"]
    assert positions[SLOT] == positions[SLOT + 1] == (1, 1)
    backups = (*first.backups[:SLOT], (), *first.backups[SLOT + 1 :])
    homes = (*first.homes[:SLOT], ("a",), *first.homes[SLOT + 1 :])
    wires.enter(replace(first, epoch=2, backups=backups, homes=homes))
    assert [b.store.get(slot_of(key), key) for key in keys] == [None, b"v"]
    assert [b.replies.get(b"m" + key) for key in keys] == [None, NO_ERR]
    assert (positions[SLOT], positions[SLOT + 1]) == ((0, 0), (1, 1))
    assert b.core._follower.sessions.keys() == set(range(SLOT_COUNT)) - {SLOT}


def test_who_is_outside_the_view_leads_and_follows_nothing() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    members = (Member("b", 1), Member("c", 1))
    for machine in (a, b):
        machine.core.on_view(replace(view(2, "b", "c"), members=members), machine is b, 1.0)
    assert (a.core.leading, b.core.leading) == (0, SLOT_COUNT)
    assert a.core.followed == [None] * SLOT_COUNT
    assert a.core.routes == [UNKNOWN] * SLOT_COUNT
    assert b.core.followed[SLOT] is not None


def test_a_member_that_keeps_no_copy_says_nothing() -> None:
    c = Machine("c")
    Wires(c)
    for peer in "ab":
        c.core.link_up(peer, 1.0)
    c.core.on_view(view(1, "a", "b"), True, 1.0)
    assert c.flush().frames == []


def test_a_view_takes_slots_from_their_primary_at_once() -> None:
    """Membership's routes are taken over later in the turn."""
    a, b = Machine("a"), Machine("b")
    Wires(a, b).enter(view(1, "a", "b"))
    assert a.core.routes[SLOT] == SELF
    a.core.on_view(view(2, "b", "a"), True, 1.0)
    assert a.core.routes == [UNKNOWN] * SLOT_COUNT


def test_a_report_s_time_is_the_view_s() -> None:
    b = Machine("b")
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", "b"), True, 5.0)
    assert [kind for _, kind, _ in b.flush().frames] == [frames.HAVE]
    b.core.tick(5.0 + RETRY_S / 2)
    assert b.flush().frames == []


def test_in_a_next_view_with_the_same_processes_nothing_is_agreed_on_anew() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    a.flush()
    for machine in (a, b):
        machine.core.on_view(view(2, "a", "bc"), True, 1.0)
        assert machine.flush().frames == []
    progress = a.core._primary.led[SLOT].progress
    assert [progress[peer].is_streaming for peer in "bc"] == [True, True]
    a.core.on_view(view(3, "a", "bc", restarted="b"), True, 1.0)
    assert [progress[peer].is_streaming for peer in "bc"] == [False, True]
    assert [(peer, kind) for peer, kind, _ in a.flush().frames] == [("b", frames.QUERY)]


def test_a_primary_that_was_restarted_is_told_anew_what_its_followers_have() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    b.flush()
    b.core.on_view(view(2, "a", "b", restarted="a"), True, 1.0)
    assert [(peer, kind) for peer, kind, _ in b.flush().frames] == [("a", frames.HAVE)]


def test_of_another_cluster_s_writes_nothing_is_known() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)

    def past() -> int:
        """How many positions of the slot are known: one is always, and one more with each write."""
        at = {SLOT: a.core._shared.positions[SLOT] or (0, 0)}
        return sum(last - first + 1 for _, first, last in a.core._shared.recent.stretches(at)[SLOT])

    wires.enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    assert past() == 2
    wires.enter(view(2, "a", "b"))
    assert past() == 2
    wires.enter(replace(view(3, "a", "b"), cluster_id=2))
    assert past() == 1


def test_who_was_expelled_leads_and_follows_nothing() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    half = tuple("ab"[slot % 2] for slot in range(SLOT_COUNT))
    wires.enter(replace(view(1, "a", "b"), primaries=half, backups=tuple(("ba"[slot % 2],) for slot in range(256))))
    keys = [key_in_slot(b"k", slot) for slot in (2, 3)]
    for machine, key in zip((a, b), keys, strict=True):
        assert machine.put(b"v", b"m" + key, key) == WAITS
        wires.run()
    assert a.put(b"v", b"waits", keys[0]) == WAITS
    core = a.core
    assert (core.leading, len(core._follower.sessions), core.routes[2]) == (128, 128, SELF)
    core.reset()
    a.flush()
    assert (core.leading, core._follower.sessions) == (0, {})
    assert core.followed == [None] * SLOT_COUNT
    assert SELF not in core.routes
    assert core._shared.view is None
    assert core._shared.recent.stretches({3: (1, 1)}) == {3: [(1, 1, 1)]}
    assert a.dropped == [b"waits"]
    core.tick(9.0)
    core.link_up("b", 9.0)
    assert a.flush().frames == []


def test_when_a_slot_opens_requests_that_wait_are_told() -> None:
    a, b = Machine("a"), Machine("b")
    Wires(a, b)
    core = a.core
    core.on_view(view(1, "a", "b"), True, 1.0)
    core.refresh([SELF] * SLOT_COUNT, 100.0)
    assert not core.flush().opened
    rows = [(slot, (0, 0)) for slot in range(SLOT_COUNT)]
    core.on_frame("b", frames.HAVE, frames.encode_have(1, 0, 1, rows), 1.0)
    assert core.flush().opened
    assert core.routes[SLOT] == SELF
    assert core.wipe([SLOT], b"w", "wiper") == WAITS
    assert not core.flush().opened
    core.refresh(["b"] * SLOT_COUNT, 100.0)
    assert not core.flush().opened
    core.refresh(["b"] * SLOT_COUNT, 100.0)
    assert not core.flush().opened


def test_a_primary_s_agreement_ends_with_the_link_at_once() -> None:
    a, b = Machine("a"), Machine("b")
    Wires(a, b).enter(view(1, "a", "b"))
    assert b.core._follower.sessions
    b.core.link_closed("a")
    assert b.core._follower.sessions == {}


def test_frames_without_a_link_are_counted_and_not_looked_at() -> None:
    a = Machine("a")
    for _ in range(2):
        a.core.on_frame("b", 99, b"", 1.0)
    a.flush()
    assert a.core.faults == {"frame without a link": 2}
    assert a.closed == []


def test_what_is_kept_of_the_last_writes_is_counted_at_the_turn_s_end() -> None:
    a, b = Machine("a"), Machine("b")
    Wires(a, b).enter(view(1, "a", "b"))
    assert a.put(b"v", b"m1") == WAITS
    assert a.put(b"v", b"m2") == WAITS
    before = a.store.allowance_bytes
    a.flush()
    assert before - a.store.allowance_bytes == 2 * a.core._shared.recent.record_bytes


def test_slots_take_writes_only_when_all_their_backups_are_sent_them() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    Wires(a, b, c).enter(view(1, "a", "bc"))
    assert a.core.led_slots() == LedSlots(ALL_SLOTS, ALL_SLOTS)
    a.core.link_closed("c")
    assert a.core.led_slots() == LedSlots(0, 0)


def test_a_retry_of_a_wipeout_that_may_not_wait_gets_no_answer() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    assert a.core.wipe([SLOT], b"w", "wiper") == WAITS
    assert a.core.wipe([SLOT], b"w", "again", may_wait=False) == IGNORED
    wires.run()
    assert a.released == [("wiper", NO_ERR)]


def test_a_wipeout_is_refused_if_one_copy_of_any_of_its_slots_can_not_take_it() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    first = view(1, "a", "b")
    backups = (("b",), ("c",), *first.backups[2:])
    wires.enter(replace(first, backups=backups, homes=tuple(("a", *some) for some in backups)))
    a.core.on_frame("c", frames.ACK, frames.encode_ack(REPLIES_FULL, []), 1.0)
    assert a.core.wipe([0, 1, 2], b"w", "wiper") == SYS_OVERLOAD_ERR
    assert a.core.wipe([0, 2], b"w", "wiper") == WAITS


def test_what_may_wait_for_a_peer_can_be_changed() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a", "b"))
    a.core.limit_backlog(100)
    assert a.put(bytes(200), b"m1") == WAITS
    assert a.put(b"", b"m2") == SYS_OVERLOAD_ERR
