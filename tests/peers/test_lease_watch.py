"""When a lost lease is worth a line, and what that says."""

from math import inf

import pytest

from app.cluster.membership.planner import first_view
from app.cluster.view import Member, View
from app.observe.logs import limited_logger
from app.peers import lease_watch
from app.peers.lease_watch import LOST_S, LeaseWatch

A, B, C = "10.0.0.1:3331", "10.0.0.2:3331", "10.0.0.3:3331"
LED_BY_A = first_view([Member(name, 7) for name in (A, B, C)], 1, 3)
LED_BY_B = first_view([Member(name, 7) for name in (B, A, C)], 1, 3)


class Watched:
    """Node a's watch."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.unheard_s = {B: 0.0, C: 0.0}
        self.watch = LeaseWatch(A, self.unheard_s.__getitem__)
        self._caplog = caplog

    def told(self, until_s: float, now_s: float, view: View | None = LED_BY_B) -> list[tuple[str, dict[str, object]]]:
        """What is told of a lease that ends then, at this time."""
        self._caplog.clear()
        self.watch.note(until_s, view, now_s)
        return [(record.msg, record.__dict__["fields"]) for record in self._caplog.records]


@pytest.fixture
def watched(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(lease_watch, "_faults", limited_logger("cluster"))  # with its limit not reached
    return Watched(caplog)


def test_a_lease_that_runs_out_is_told_and_its_return(watched: Watched) -> None:
    assert watched.told(10.5, 10.0) == []
    assert watched.told(10.5, 10.5) == []
    assert watched.told(10.5, 10.5 + LOST_S - 0.01) == []
    watched.unheard_s[B] = 0.9
    ((event, fields),) = watched.told(10.5, 10.5 + LOST_S)
    assert event == "cluster.lease_lost"
    assert (fields["for_s"], fields["coordinator"], fields["silent"]) == (LOST_S, B, B)
    assert "network" in str(fields["check"])
    assert watched.told(10.5, 12.0) == [], "once"
    assert watched.told(12.6, 12.1) == [("cluster.lease_back", {"after_s": 1.6})]
    assert watched.told(12.6, 12.2) == []
    assert watched.told(12.6, 13.0) != [], "it counts anew"


def test_its_times_are_exact(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_watch, "LOST_S", 0.25)
    watched.unheard_s[B] = 0.25
    watched.told(10.5, 10.0)
    assert watched.told(10.5, 10.5) == [], "it has ended"
    assert watched.told(10.5, 10.625) == []
    ((_, fields),) = watched.told(10.5, 10.75)
    assert fields["silent"] == B
    assert watched.told(11.0, 11.0) == [], "nor is it there when it ends at once"
    assert watched.told(11.125, 11.0) == [("cluster.lease_back", {"after_s": 0.5})]


def test_a_coordinator_depends_on_the_others(watched: Watched) -> None:
    watched.told(10.5, 10.0, LED_BY_A)
    watched.unheard_s |= {B: 5.0, C: 0.1}
    ((_, fields),) = watched.told(10.5, 15.0, LED_BY_A)
    assert (fields["coordinator"], fields["silent"], fields["for_s"]) == (A, B, 4.5)


def test_what_a_change_of_coordinator_takes_away_for_a_moment_is_not_told(watched: Watched) -> None:
    watched.told(10.5, 10.0)
    assert watched.told(-inf, 10.1) == []
    assert watched.told(-inf, 10.1 + LOST_S - 0.01) == []
    assert watched.told(10.9, 10.4) == []
    assert watched.told(-inf, 10.5) == []
    assert len(watched.told(-inf, 10.5 + LOST_S)) == 1


def test_a_node_that_was_stopped_is_told_when_it_goes_on(watched: Watched) -> None:
    watched.told(10.5, 10.0)
    ((event, fields),) = watched.told(10.5, 70.0)
    assert (event, fields["for_s"]) == ("cluster.lease_lost", 59.5)


def test_who_is_to_have_no_lease_has_lost_none(watched: Watched) -> None:
    assert watched.told(-inf, 1.0) == []
    assert watched.told(-inf, 2.0) == [], "it has had none yet"
    watched.told(10.5, 10.0)
    assert watched.told(-inf, 10.1, None) == []
    assert watched.told(-inf, 20.0, None) == []
    assert watched.told(-inf, 21.0) == [], "a member again, and not granted one yet"
    assert watched.told(inf, 22.0) == []
