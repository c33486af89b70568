"""Changes of view, as people are told of them."""

from app.cluster.view import Member, View
from app.peers.view_log import CHANGES_MAX, Change, ViewLog
from app.wire.protocol import SLOT_COUNT


def view(epoch: int, primaries: tuple[str, ...], **incarnations: int) -> View:
    members = tuple(Member(address, incarnation) for address, incarnation in incarnations.items())
    homes = tuple((primary,) for primary in primaries)
    return View(1, epoch, members, primaries, ((),) * SLOT_COUNT, homes, f"cause {epoch}")


def test_each_change_says_who_came_who_went_and_what_moved() -> None:
    log = ViewLog()
    log.note(view(1, ("a",) * SLOT_COUNT, a=1, b=2), True, 10.0)
    log.note(view(2, ("a",) * 200 + ("c",) * 56, a=1, c=3), False, 11.0)
    log.note(view(3, ("a",) * 200 + ("c",) * 56, a=1, c=4), True, 12.0)  # c was restarted
    assert list(log.changes) == [
        Change(10.0, 1, "cause 1", 2, True, ("a", "b"), (), 0),
        Change(11.0, 2, "cause 2", 2, False, ("c",), ("b",), 56),
        Change(12.0, 3, "cause 3", 2, True, ("c",), ("c",), 0),
    ]


def test_the_last_ones_are_kept() -> None:
    log = ViewLog()
    for epoch in range(1, CHANGES_MAX + 3):
        log.note(view(epoch, ("a",) * SLOT_COUNT, a=1), True, float(epoch))
    assert [change.epoch for change in log.changes] == list(range(3, CHANGES_MAX + 3))
