"""When the loss of clients' datagrams is worth a line."""

import pytest

from app.observe import overload
from app.observe.counters import DROP_REASONS
from app.observe.logs import limited_logger
from app.observe.overload import OVERLOAD_DROPS, REST_S, OverloadWatch


class Watched:
    """A watch, and what it tells."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.drops = dict.fromkeys(DROP_REASONS, 0)
        self.unread = 0
        self._watch = OverloadWatch()
        self._caplog = caplog

    def told(self, now_s: float) -> list[tuple[str, object]]:
        self._caplog.clear()
        self._watch.look(self.drops, self.unread, now_s)
        return [(record.msg, record.__dict__["fields"]["dropped"]) for record in self._caplog.records]


@pytest.fixture
def watched(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(overload, "_faults", limited_logger("node"))  # with its limit not reached
    return Watched(caplog)


def test_it_is_told_when_it_begins_and_when_it_has_been_over_for_a_while(watched: Watched) -> None:
    assert watched.told(100.0) == []
    watched.drops["too_old"] = 7
    assert watched.told(100.1) == [("node.overloaded", 7)]
    watched.drops["too_old"] = 9
    watched.unread = 20
    assert watched.told(105.0) == []
    assert watched.told(105.0 + REST_S - 0.1) == []
    assert watched.told(105.0 + REST_S) == [("node.overload_over", 29)]
    assert watched.told(130.0) == []
    watched.unread = 21
    assert watched.told(140.0) == [("node.overloaded", 1)]
    assert watched.told(140.0 + REST_S) == [("node.overload_over", 1)]


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_only_what_load_is_to_blame_for_counts(watched: Watched, reason: str) -> None:
    watched.drops[reason] = 3
    assert bool(watched.told(1.0)) == (reason in OVERLOAD_DROPS)


def test_the_reasons_exist() -> None:
    assert set(OVERLOAD_DROPS) <= set(DROP_REASONS)
