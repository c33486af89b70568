"""The follower's side: whose writes it takes, when its copy counts as whole, and what it gives up for want of room."""

from app.cluster.events import SELF, UNKNOWN
from app.cluster.replication import frames
from app.cluster.replication.follower import RETRY_S
from app.cluster.replication.writes import WAITS
from app.storage.mutate import STORE_FULL
from app.wire.protocol import NO_ERR, SLOT_COUNT
from tests.cluster.replication.machines import KEY, SLOT, Machine, Wires, view

ID = b"m1"


def an_op(seq: int, *, term: int = 1, value: bytes = b"v", message_id: bytes = ID) -> bytes:
    return frames.encode_op(frames.PUT_OP, SLOT, NO_ERR, message_id, KEY, term, seq, value)


def a_pair(**others: bool) -> tuple[Machine, Machine]:
    """A primary and its backup, in step."""
    a, b = Machine("a"), Machine("b", **others)
    Wires(a, b).enter(view(1, "a", "b"))
    return a, b


def sent(machine: Machine, kind: int) -> list[bytes]:
    return [body for _, sent_kind, body in machine.flush().frames if sent_kind == kind]


def test_an_op_is_applied_once_in_order_and_acknowledged() -> None:
    _, b = a_pair()
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) == b"v"
    assert b.replies.get(ID) == NO_ERR
    assert [frames.decode_ack(body) for body in sent(b, frames.ACK)] == [(0, [(SLOT, 1, 1)])]
    assert sent(b, frames.ACK) == []


def test_an_op_that_does_not_follow_ends_the_agreement_and_is_not_applied() -> None:
    for seq in (0, 2):
        _, b = a_pair()
        b.core.on_frame("a", frames.OPS, an_op(seq), 1.0)
        assert b.store.get(SLOT, KEY) is None
        (have,) = sent(b, frames.HAVE)
        assert frames.decode_have(have)[3] == [(SLOT, (0, 0))]
        b.core.on_frame("a", frames.OPS, an_op(1), 1.0)  # sent before the primary heard of it
        assert b.store.get(SLOT, KEY) is None


def test_an_op_of_another_term_or_of_another_peer_is_none_of_ours() -> None:
    _, b = a_pair()
    b.core.link_up("c", 1.0)
    b.core.on_frame("a", frames.OPS, an_op(1, term=2), 1.0)
    b.core.on_frame("c", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) is None
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) == b"v"


def test_a_frame_from_a_peer_without_a_link_is_counted_and_not_read() -> None:
    _, b = a_pair()
    b.core.link_closed("a")
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.core.faults["frame without a link"] == 1
    assert b.store.get(SLOT, KEY) is None


def test_a_question_without_an_answer_is_asked_again_after_a_while_under_its_number() -> None:
    b = Machine("b")
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", "b"), True, 1.0)
    (first,) = sent(b, frames.HAVE)
    b.core.tick(1.0 + RETRY_S / 2)
    assert sent(b, frames.HAVE) == []
    b.core.tick(1.0 + RETRY_S)
    assert sent(b, frames.HAVE) == [first]


def test_an_answer_to_an_earlier_question_is_none() -> None:
    b = Machine("b")
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", "b"), True, 1.0)
    (first,) = sent(b, frames.HAVE)
    number = frames.decode_have(first)[2]
    b.core.on_view(view(2, "a", "b"), True, 1.0)
    b.core.on_frame("a", frames.GO, frames.encode_start(number, [(SLOT, 1, (0, 0))]), 1.0)
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) is None
    b.core.on_frame("a", frames.GO, frames.encode_start(number + 1, [(SLOT, 1, (0, 0))]), 1.0)
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) == b"v"


def test_a_start_from_where_the_copy_is_not_is_none() -> None:
    b = Machine("b")
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", "b"), True, 1.0)
    number = frames.decode_have(sent(b, frames.HAVE)[0])[2]
    b.core.on_frame("a", frames.GO, frames.encode_start(number, [(SLOT, 1, (1, 5))]), 1.0)
    b.core.on_frame("a", frames.OPS, an_op(6), 1.0)
    assert b.store.get(SLOT, KEY) is None


def test_the_primary_s_agreement_ends_with_the_link() -> None:
    _, b = a_pair()
    b.core.link_closed("a")
    b.core.link_up("a", 1.0)
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) is None


def learning(b: Machine) -> int:
    """It is asked to follow a in all slots and has nothing: the number of its question."""
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", learners="b"), True, 1.0)
    number = frames.decode_have(sent(b, frames.HAVE)[0])[2]
    b.core.on_frame("a", frames.BEGIN, frames.encode_start(number, [(SLOT, 1, (1, 7))]), 1.0)
    return number


def test_a_copy_counts_as_whole_from_its_end_on() -> None:
    b = Machine("b")
    learning(b)
    b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, KEY, b"old"), 1.0)
    assert b.core._shared.positions[SLOT] is None
    assert sent(b, frames.ACK) == []
    b.core.on_frame("a", frames.OPS, an_op(8), 1.0)
    assert sent(b, frames.ACK) == []
    b.core.on_frame("a", frames.END, frames.encode_end([(SLOT, 1)]), 1.0)
    assert b.core._shared.positions[SLOT] == (1, 8)
    assert [frames.decode_ack(body)[1] for body in sent(b, frames.ACK)] == [[(SLOT, 1, 8)]]
    assert b.store.get(SLOT, KEY) == b"v"


def test_an_end_of_another_term_ends_nothing() -> None:
    b = Machine("b")
    learning(b)
    b.core.on_frame("a", frames.END, frames.encode_end([(SLOT, 2)]), 1.0)
    assert b.core._shared.positions[SLOT] is None


def test_each_chunk_that_was_taken_is_said() -> None:
    b = Machine("b")
    learning(b)
    for taken in (1, 2):
        b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, b"key%d" % taken, b"v"), 1.0)
        assert [frames.decode_credit(body) for body in sent(b, frames.CREDIT)] == [taken]
    b.core.on_frame("a", frames.REPLIES, frames.encode_reply(SLOT, NO_ERR, ID), 1.0)
    assert [frames.decode_credit(body) for body in sent(b, frames.CREDIT)] == [3]
    assert b.replies.get(ID) == NO_ERR


def test_a_copy_that_found_no_room_for_an_entry_is_not_whole_at_its_end() -> None:
    b = Machine("b", evict=False, pages=2)
    learning(b)
    number = 0
    while not b.core.faults.get("no room"):
        key = b"key%d" % (number := number + 1)
        b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, key, bytes(9000)), 1.0)
        assert number < 100
    b.core.on_frame("a", frames.END, frames.encode_end([(SLOT, 1)]), 1.0)
    assert b.core._shared.positions[SLOT] is None
    assert sent(b, frames.ACK) == []
    b.core.tick(2.0)
    asked = [row for body in sent(b, frames.HAVE) for row in frames.decode_have(body)[3]]
    assert (SLOT, frames.NOWHERE) in asked  # it is to be sent again


def test_a_copy_that_found_no_room_for_what_was_gathered_is_not_whole_at_its_end() -> None:
    b = Machine("b", evict=False, pages=2)
    b.core.link_up("a", 1.0)
    b.core._shared.positions[SLOT] = (9, 9)  # whole, and not where the primary wants it
    learning(b)
    for number in range(30):
        b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, b"key%d" % number, bytes(9000)), 1.0)
    assert b.core._shared.positions[SLOT] == (9, 9)
    assert b.core.staged_bytes > 30 * 9000
    b.core.on_frame("a", frames.END, frames.encode_end([(SLOT, 1)]), 1.0)
    assert b.core.faults["no room"] == 1
    assert b.core._shared.positions[SLOT] is None
    assert b.core.staged_bytes == 0
    assert sent(b, frames.ACK) == []


def test_an_op_without_room_is_not_acknowledged_and_asked_for_again() -> None:
    _, b = a_pair(evict=False)
    while b.store.put(0, b"filler%d" % b.store.entries, bytes(9000)):
        pass
    b.core.on_frame("a", frames.OPS, an_op(1, value=bytes(9000)), 1.0)
    assert b.core.faults["no room"] == 1
    assert sent(b, frames.ACK) == []
    b.core.tick(2.0)
    (have,) = sent(b, frames.HAVE)
    assert frames.decode_have(have)[3] == [(SLOT, (0, 0))]


def test_a_change_of_what_hinders_is_told_without_a_write() -> None:
    _, b = a_pair(evict=False)
    b.flush()
    b.core.tick(1.1)
    assert sent(b, frames.ACK) == []
    while b.store.put(0, b"filler%d" % b.store.entries, bytes(9000)):
        pass
    b.core.tick(1.2)
    assert [frames.decode_ack(body) for body in sent(b, frames.ACK)] == [(STORE_FULL, [])]
    b.core.tick(1.3)
    assert sent(b, frames.ACK) == []
    b.store.wipe(range(SLOT_COUNT))
    b.core.tick(1.4)
    assert [frames.decode_ack(body) for body in sent(b, frames.ACK)] == [(0, [])]


def test_a_copy_that_can_t_be_gathered_stays_whole_when_its_primary_dies() -> None:
    """It may be the last one; were it given up, whoever is made primary next would start empty and empty the others."""
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    a.put(b"v" * 1000, ID)
    wires.run()
    b.core._shared.positions[SLOT] = (9, 9)  # it has gone astray
    b.store.remove(SLOT, KEY)
    b.store.put(SLOT, b"other", b"acknowledged")
    b.core._follower.staging_max_bytes = 500
    b.core.link_closed("a")
    a.core.link_closed("b")
    a.core.link_up("b", 1.0)
    b.core.link_up("a", 1.0)
    wires.run()
    assert b.core.faults["copies lost"] == 1
    wires.enter(view(2, "b", "c"))
    assert b.store.get(SLOT, b"other") == c.store.get(SLOT, b"other") == b"acknowledged"


def test_a_primary_without_its_whole_copy_stays_closed_while_another_holder_lives() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    wires = Wires(a, b, c)
    wires.enter(view(1, "a", "bc"))
    a.put(b"v", ID)
    wires.run()
    b.core._shared.positions[SLOT] = None
    wires.enter(view(2, "b", "c"))
    assert b.core.routes[SLOT] == UNKNOWN
    assert b.core.leading == SLOT_COUNT
    assert b.lost == [(1 << SLOT, 2)]
    assert b.emptied == 0
    assert c.store.get(SLOT, KEY) == b"v"
    wires.enter(view(3, "c", learners="b"))
    assert c.core.routes[SLOT] == SELF
    assert b.core.leading == 0
    assert b.store.get(SLOT, KEY) == b"v"
    assert b.core._shared.positions[SLOT] == c.core._shared.positions[SLOT]


def test_without_another_holder_it_starts_empty_and_says_so() -> None:
    a, b = a_pair()
    wires = Wires(a, b)
    wires.enter(view(2, "a", "b"))
    a.put(b"v", ID)
    wires.run()
    b.core._shared.positions[SLOT] = None
    wires.enter(view(3, "b"))
    assert b.core.routes[SLOT] == SELF
    assert b.store.get(SLOT, KEY) is None
    assert b.emptied == 1 << SLOT


def test_a_process_that_begins_anew_over_the_same_link_goes_on_counting_what_it_took() -> None:
    """It was expelled, and has joined as another incarnation: its link has not ended."""
    a, b = a_pair()
    wires = Wires(a, b)
    wires.enter(view(2, "a", learners="b"))
    a.put(b"v", ID)
    wires.run()
    assert b.store.get(SLOT, KEY) == b"v"
    for epoch in (3, 5):
        b.core.reset()
        wires.enter(view(epoch, "a", learners="b", restarted="b" if epoch == 3 else ""))
        assert (a.closed, b.closed) == ([], [])
        assert b.store.get(SLOT, KEY) == b"v"


def test_a_copy_that_is_ours_no_longer_is_forgotten() -> None:
    a, b = a_pair()
    wires = Wires(a, b)
    assert a.put(b"v", ID) == WAITS
    wires.enter(view(2, "a"))
    assert b.store.get(SLOT, KEY) is None
    assert b.replies.get(ID) is None
    assert b.core._shared.positions[SLOT] == (0, 0)
    assert b.core._follower.sessions == {}


def test_who_was_expelled_holds_nothing() -> None:
    a, b = a_pair()
    wires = Wires(a, b)
    wires.enter(view(2, "a", "b"))
    a.put(b"v", ID)
    wires.run()
    assert b.store.get(SLOT, KEY) == b"v"
    b.core.reset()
    assert b.store.get(SLOT, KEY) is None
    assert b.replies.get(ID) is None
    assert b.core._shared.positions == [(0, 0)] * SLOT_COUNT


def test_who_is_primary_no_longer_changes_nothing() -> None:
    _, b = a_pair()
    b.core.link_up("c", 1.0)
    b.core.on_view(view(2, "c", "b"), True, 1.0)
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    assert b.store.get(SLOT, KEY) is None
    assert b.core._follower.sessions == {}


def test_a_question_counts_from_the_moment_in_which_the_link_was_there() -> None:
    b = Machine("b")
    b.core.on_view(view(1, "a", "b"), True, 1.0)
    b.core.link_up("a", 5.0)
    assert len(sent(b, frames.HAVE)) == 1
    b.core.tick(5.0 + RETRY_S / 2)
    assert sent(b, frames.HAVE) == []


def test_a_question_of_an_earlier_view_is_asked_anew() -> None:
    b = Machine("b")
    b.core.link_up("a", 1.0)
    b.core.on_view(view(1, "a", "b"), True, 1.0)
    earlier = frames.decode_have(sent(b, frames.HAVE)[0])
    b.core.on_view(view(2, "a", "b"), True, 1.0)
    later = frames.decode_have(sent(b, frames.HAVE)[0])
    assert (earlier[0], later[0]) == (1, 2)
    assert later[2] != earlier[2]


def test_entries_and_replies_of_a_slot_that_was_not_begun_are_none_of_ours() -> None:
    _, b = a_pair()
    b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, KEY, b"v"), 1.0)
    b.core.on_frame("a", frames.REPLIES, frames.encode_reply(SLOT, NO_ERR, ID), 1.0)
    b.core.link_closed("a")
    b.core.link_up("a", 1.0)  # no agreement at all
    b.core.on_frame("a", frames.ENTRIES, frames.encode_entry(SLOT, KEY, b"v"), 1.0)
    b.core.on_frame("a", frames.REPLIES, frames.encode_reply(SLOT, NO_ERR, ID), 1.0)
    assert b.store.get(SLOT, KEY) is None
    assert b.replies.get(ID) is None
    assert b.core.faults.get("bad frame", 0) == 0


def test_what_hinders_a_learner_is_told_while_it_is_filled() -> None:
    b = Machine("b", evict=False)
    learning(b)
    b.core.tick(1.1)
    assert sent(b, frames.ACK) == []
    while b.store.put(0, b"filler%d" % b.store.entries, bytes(9000)):
        pass
    b.core.tick(1.2)
    assert [frames.decode_ack(body) for body in sent(b, frames.ACK)] == [(STORE_FULL, [])]


def test_a_slot_whose_primary_is_another_now_is_told_to_that_one() -> None:
    _, b = a_pair()
    b.core.link_up("c", 1.0)
    b.flush()
    b.core.on_frame("a", frames.OPS, an_op(1), 1.0)
    b.core.on_view(view(2, "c", "b"), True, 1.0)
    number, _ = b.core._follower._reported[SLOT]
    b.core.on_frame("c", frames.GO, frames.encode_start(number, [(SLOT, 2, (1, 1))]), 1.0)
    out = b.flush().frames
    (have,) = [body for peer, kind, body in out if (peer, kind) == ("c", frames.HAVE)]
    assert (SLOT, (1, 1)) in frames.decode_have(have)[3]
    acks = {peer: frames.decode_ack(body)[1] for peer, kind, body in out if kind == frames.ACK}
    assert acks == {"a": [], "c": [(SLOT, 2, 1)]}
