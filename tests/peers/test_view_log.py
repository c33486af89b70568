"""What people are shown of changes of view."""

from dataclasses import replace

from app.cluster.membership.planner import first_view
from app.cluster.view import Member, View
from app.peers.view_log import CHANGES_MAX, ViewLog


def view_of(epoch: int, *incarnations: int) -> View:
    """Of nodes 10.0.0.0:1, 10.0.0.1:1, ... of these incarnations; 0: that one is no member."""
    members = [Member(f"10.0.0.{place}:1", incarnation) for place, incarnation in enumerate(incarnations)]
    view = first_view([member for member in members if member.incarnation], 7, 3, 1)
    return View(7, epoch, view.members, view.primaries, view.backups, view.homes, f"cause {epoch}")


def test_a_change_tells_who_came_and_went_and_how_much_moved() -> None:
    log = ViewLog()
    first, second, third = view_of(1, 5, 6), view_of(2, 5, 0), view_of(3, 5, 8)
    for view in (first, second, third):
        log.note(view, True, 1000.0 + view.epoch)
    told = [(change.unix_s, change.cause, change.came, change.went, change.moved) for change in log.changes]
    its_slots = first.masks["10.0.0.1:1"].bit_count()
    assert told == [
        (1001.0, "cause 1", ("10.0.0.0:1", "10.0.0.1:1"), (), 0),
        (1002.0, "cause 2", (), ("10.0.0.1:1",), its_slots),
        (1003.0, "cause 3", ("10.0.0.1:1",), (), its_slots),
    ]


def test_a_restart_within_one_view_shows_as_going_and_coming() -> None:
    log = ViewLog()
    log.note(view_of(1, 5, 6), True, 0.0)
    log.note(view_of(2, 5, 9), False, 0.0)
    change = log.changes[-1]
    assert (change.came, change.went, change.is_member) == (("10.0.0.1:1",), ("10.0.0.1:1",), False)


def test_changes_are_bounded() -> None:
    log = ViewLog()
    for epoch in range(1, CHANGES_MAX + 11):
        log.note(view_of(epoch, 5), True, 0.0)
    assert [change.epoch for change in log.changes] == list(range(11, CHANGES_MAX + 11))


def test_slots_that_have_another_primary_have_moved() -> None:
    log = ViewLog()
    view = view_of(1, 5)
    log.note(view, True, 0.0)
    log.note(replace(view, primaries=("10.0.0.9:1", "10.0.0.9:1", *view.primaries[2:])), True, 0.0)
    assert [change.moved for change in log.changes] == [0, 2]
