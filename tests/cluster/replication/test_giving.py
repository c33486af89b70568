"""Whole slots on their way to a follower: how much at once, in which order, and what becomes of it meanwhile."""

from collections import Counter

import pytest

from app.cluster.replication import frames
from app.cluster.replication.transfer import (
    BURST_BYTES,
    ENTRY_COST_BYTES,
    RATE_BYTES_S,
    REPLIES_SEEN,
    SLOTS_AT_ONCE,
    WINDOW,
)
from app.wire.protocol import NO_ERR, SLOT_COUNT, slot_of
from tests.cluster.replication.machines import KEY, SLOT, Machine, Wires, view

CHUNKS = (frames.ENTRIES, frames.REPLIES)
SMALL = frames.FRAME_FILL_BYTES // 8


def filled(size_bytes: int, count: int, *, slot: int | None = None) -> tuple[Machine, list[bytes]]:
    """A node that leads all slots alone, and the keys of what it holds, all of them in one slot if one is given."""
    machine = Machine("a")
    Wires(machine).enter(view(1, "a"))
    keys: list[bytes] = []
    number = 0
    while len(keys) < count:
        key = b"key%d" % (number := number + 1)
        if slot is None or slot_of(key) == slot:
            machine.store.put(slot_of(key), key, bytes(size_bytes))
            keys.append(key)
    return machine, keys


def begin(a: Machine, learner: str = "b") -> list[tuple[int, bytes]]:
    """What a primary sends at once to a learner that has nothing."""
    a.core.link_up(learner, 1.0)
    a.core.on_view(view(2, "a", learners=learner), True, 1.0)
    a.flush()
    rows = [(slot, frames.NOWHERE) for slot in range(SLOT_COUNT)]
    a.core.on_frame(learner, frames.HAVE, frames.encode_have(2, 0, 1, rows), 1.0)
    return [(kind, body) for _, kind, body in a.flush().frames]


def credit(a: Machine, taken: int, now: float = 1.0) -> list[tuple[int, bytes]]:
    """What it sends once the learner has said how many chunks it took."""
    a.core.on_frame("b", frames.CREDIT, frames.encode_credit(taken), now)
    return [(kind, body) for _, kind, body in a.flush().frames]


def chunks(sent: list[tuple[int, bytes]]) -> list[bytes]:
    return [body for kind, body in sent if kind in CHUNKS]


def test_no_more_than_the_window_is_sent_before_the_first_is_taken() -> None:
    a, _ = filled(SMALL, 100, slot=SLOT)
    sent = chunks(begin(a))
    assert len(sent) == WINDOW
    assert all(frames.FRAME_FILL_BYTES <= len(body) <= frames.FRAME_FILL_BYTES + 2 * SMALL for body in sent)
    assert len(chunks(credit(a, 1))) == 1
    assert chunks(credit(a, 1)) == []  # said again
    assert len(chunks(credit(a, 4))) == 3
    assert a.core.faults.get("bad frame", 0) == 0


@pytest.mark.parametrize("taken", [0, WINDOW + 1])
def test_a_follower_that_took_what_was_not_sent_is_at_fault(taken: int) -> None:
    a, _ = filled(SMALL, 100, slot=SLOT)
    begin(a)
    credit(a, 1)
    assert credit(a, taken + (taken > 0)) == []
    assert a.core.faults["bad frame"] == 1
    assert a.closed == ["b"]


def test_no_more_slots_are_begun_at_once_than_the_bound() -> None:
    a, _ = filled(SMALL, 1000)
    (begun,) = [body for kind, body in begin(a) if kind == frames.BEGIN]
    number, rows = frames.decode_start(begun)
    assert number == 1
    assert [slot for slot, _, _ in rows] == list(range(SLOTS_AT_ONCE))


def test_the_end_comes_after_the_last_entry_and_the_next_slots_after_it() -> None:
    a, keys = filled(10, 1000)
    sent = begin(a)
    taken = len(chunks(sent))
    while more := credit(a, taken):
        sent += more
        taken = len(chunks(sent))
    begun: set[int] = set()
    ended: set[int] = set()
    arrived: Counter[bytes] = Counter()
    for kind, body in sent:
        if kind == frames.BEGIN:
            assert begun == ended
            begun |= {slot for slot, _, _ in frames.decode_start(body)[1]}
        elif kind == frames.END:
            ended |= {slot for slot, _ in frames.decode_end(body)}
            assert begun == ended
        elif kind == frames.ENTRIES:
            for slot, key, _ in frames.decode_entries(body):
                assert slot in begun - ended
                arrived[key] += 1
    assert ended == set(range(SLOT_COUNT))
    assert arrived == Counter(keys)


def test_the_rate_bounds_what_is_sent_and_time_gives_more() -> None:
    a, _ = filled(SMALL, 700)
    sent = chunks(begin(a))
    for _ in range(2000):
        more = chunks(credit(a, len(sent)))
        if not more:
            break
        sent += more

    def cost(bodies: list[bytes]) -> int:
        return sum(len(body) + len(frames.decode_entries(body)) * ENTRY_COST_BYTES for body in bodies)

    chunk_max = frames.FRAME_FILL_BYTES + 10 * ENTRY_COST_BYTES + 2 * SMALL
    assert BURST_BYTES <= cost(sent) <= BURST_BYTES + chunk_max
    later = chunks(credit(a, len(sent), 1.01))
    for _ in range(2000):
        more = chunks(credit(a, len(sent) + len(later), 1.01))
        if not more:
            break
        later += more
    assert cost(sent + later) >= BURST_BYTES + RATE_BYTES_S // 100
    assert cost(sent + later) <= BURST_BYTES + RATE_BYTES_S // 100 + chunk_max


def test_the_rate_saves_up_no_more_than_a_burst() -> None:
    a, _ = filled(SMALL, 700)
    a.core.tick(1000.0)
    sent = chunks(begin(a))
    while more := chunks(credit(a, len(sent))):
        sent += more
    assert sum(map(len, sent)) <= BURST_BYTES + 2 * frames.FRAME_FILL_BYTES


def test_a_tick_goes_on_with_what_the_rate_held_up() -> None:
    a, _ = filled(SMALL, 700)
    sent = chunks(begin(a))
    while more := chunks(credit(a, len(sent))):
        sent += more
    a.core.tick(2.0)
    assert len(chunks([(kind, body) for _, kind, body in a.flush().frames])) == WINDOW


def test_writes_that_come_meanwhile_reach_the_learner_before_older_entries_could_hide_them() -> None:
    a, b = Machine("a"), Machine("b")
    wires = Wires(a, b)
    wires.enter(view(1, "a"))
    keys = [b"key%d" % number for number in range(800)]
    for key in keys:
        a.store.put(slot_of(key), key, bytes(SMALL // 2))
    wires.enter(view(2, "a", learners="b"))
    for step in range(1, 100):
        for key in keys[step::97]:
            a.put(b"new%d" % step, b"id%d" % step + key, key)
        a.core.tick(1.0 + step / 20)
        wires.run()
    for key in keys:
        assert b.store.get(slot_of(key), key) == a.store.get(slot_of(key), key)
    assert sum(slots.bit_count() for _, slots, _ in a.synced) == SLOT_COUNT


def test_an_entry_that_was_removed_meanwhile_is_not_sent() -> None:
    a, keys = filled(SMALL, 100, slot=SLOT)
    sent = chunks(begin(a))
    arrived = {key for body in sent for _, key, _ in frames.decode_entries(body)}
    gone = next(key for key in keys if key not in arrived)
    a.store.remove(SLOT, gone)
    while more := chunks(credit(a, len(sent))):
        sent += more
    arrived = {key for body in sent for _, key, _ in frames.decode_entries(body)}
    assert arrived == set(keys) - {gone}


def test_replies_of_the_slots_that_are_sent_go_along_and_no_others() -> None:
    a, _ = filled(10, 50)
    ids = [b"id%d" % number for number in range(300)]
    for number, message_id in enumerate(ids):
        a.replies.add(message_id, number % SLOT_COUNT, number % 2)
    sent = begin(a)
    begun: set[int] = set()
    arrived: Counter[tuple[int, int, bytes]] = Counter()
    while True:
        for kind, body in sent:
            if kind == frames.BEGIN:
                begun = {slot for slot, _, _ in frames.decode_start(body)[1]}
            elif kind == frames.REPLIES:
                for slot, code, message_id in frames.decode_replies(body):
                    assert slot in begun
                    arrived[slot, code, message_id] += 1
        taken = sum(1 for kind, _ in sent if kind in CHUNKS)
        total = a.core._primary.transfer._streams["b"].taken + taken
        sent = credit(a, total)
        if not sent:
            break
    assert arrived == Counter((number % SLOT_COUNT, number % 2, one) for number, one in enumerate(ids))


def test_a_slot_that_is_led_no_longer_is_not_ended() -> None:
    a, _ = filled(SMALL, 100, slot=SLOT)
    begin(a)
    a.core.on_view(view(3, "b", "a"), True, 1.0)
    assert [kind for kind, _ in credit(a, WINDOW)] == [frames.HAVE]  # it is b's to send now


def test_a_link_that_ended_starts_again_with_nothing_sent() -> None:
    a, keys = filled(SMALL, 100, slot=SLOT)
    begin(a)
    a.core.link_closed("b")
    a.core.tick(1.1)
    assert a.flush().frames == []
    a.core.link_up("b", 1.1)
    a.flush()
    rows = [(slot, frames.NOWHERE) for slot in range(SLOT_COUNT)]
    a.core.on_frame("b", frames.HAVE, frames.encode_have(2, 0, 2, rows), 1.1)
    sent = chunks([(kind, body) for _, kind, body in a.flush().frames])
    assert len(sent) == WINDOW
    while more := chunks(credit(a, len(sent), 2.0)):
        sent += more
    assert {key for body in sent for _, key, _ in frames.decode_entries(body)} == set(keys)


def test_what_a_follower_acknowledges_while_it_is_filled_is_not_counted() -> None:
    a, _ = filled(SMALL, 100, slot=SLOT)
    begin(a)
    a.put(b"new", b"m1", KEY)
    a.flush()
    led = a.core.followed[SLOT]
    a.core.on_frame("b", frames.ACK, frames.encode_ack(0, [(SLOT, led.term, led.seq)]), 1.0)
    a.flush()
    assert not any(slots >> SLOT & 1 for _, slots, _ in a.synced)
    assert a.replies.get(b"m1") == NO_ERR


def test_however_many_replies_are_remembered_the_walk_over_them_ends() -> None:
    a, _ = filled(10, 1)
    count = a.replies.bucket_count * (REPLIES_SEEN + 1)
    for number in range(count):
        message_id = b"id%d" % number
        a.replies.add(message_id, SLOT, NO_ERR)
    sent = begin(a)
    taken = len(chunks(sent))
    for step in range(1, 1000):
        if any(kind == frames.END and any(slot == SLOT for slot, _ in frames.decode_end(body)) for kind, body in sent):
            break
        more = credit(a, taken, 1.0 + step)
        taken += len(chunks(more))
        sent += more
    arrived = [reply for kind, body in sent if kind == frames.REPLIES for reply in frames.decode_replies(body)]
    assert len(arrived) == count
