"""What copies need of the reply memory: its records by slot."""

from app.storage.replies import ReplyMemory


def memory() -> ReplyMemory:
    replies = ReplyMemory(6.0, 1 << 20, buckets=16)
    for number in range(200):
        message_id = b"id%d" % number
        replies.add(message_id, number % 4, number % 3)
        if number == 100:
            replies.advance(0.0)
            for step in range(1, 24):
                replies.advance(step * 0.25)  # the first half is an older generation now
    return replies


def test_a_scan_finds_every_record_of_the_slots_and_no_other() -> None:
    replies = memory()
    found = [record for at in range(0, replies.bucket_count, 5) for record in replies.scan(at, 5, 0b1010)]
    assert sorted(found) == sorted((b"id%d" % n, n % 4, n % 3) for n in range(200) if n % 4 in (1, 3))


def test_slots_are_forgotten_and_counted_down() -> None:
    replies = memory()
    before = replies.used_bytes
    replies.forget_slots(0b0010)
    assert len(replies) == 150
    assert replies.used_bytes == before, "their bytes are freed when they age"
    assert not replies.has_slot(1)
    assert replies.has_slot(0)
    assert replies.get(b"id1") is None
    assert replies.get(b"id2") == 2
    assert replies.forget(b"id2")
    replies.forget_slots((1 << 256) - 1)
    assert len(replies) == 0
    assert not any(replies.has_slot(slot) for slot in range(256))
