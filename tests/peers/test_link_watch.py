"""Which missing links are told, when, and what a refusal proves."""

import pytest

from app.cluster.events import LinkClosed, LinkRefused, LinkUp
from app.observe.logs import limited_logger
from app.peers import link_watch
from app.peers.link_watch import AGAIN_S, MISSING_S, LinkWatch

B, C = "10.0.0.2:3332", "10.0.0.3:3333"
BOTH = [B, C]


class Watched:
    """A watch that is shown the state of affairs eight times a second: steps that a float holds exactly."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        self.now_s = 1000.0
        self.heard_s = {B: 0.0, C: 0.0}  # how long ago; None would be never
        self.incarnation = {B: 5, C: 6}
        self.linked = {B, C}
        self.members = BOTH
        self.watch = LinkWatch(lambda peer: (self.incarnation[peer], self.now_s - self.heard_s[peer]))
        self._caplog = caplog

    def run(self, seconds: float) -> None:
        assert seconds % 0.125 == 0
        for _ in range(round(seconds * 8)):
            self.now_s += 0.125
            self.watch.look(self.members, self.linked, self.now_s)

    def told(self) -> list[tuple[str, dict[str, object]]]:
        lines = [(record.msg, record.__dict__["fields"]) for record in self._caplog.records]
        self._caplog.clear()
        return lines


@pytest.fixture
def watched(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(link_watch, "_faults", limited_logger("links"))  # with its limit not reached
    return Watched(caplog)


def test_a_link_that_stays_missing_is_told_once_and_again_every_minute(watched: Watched) -> None:
    watched.run(5.0)
    assert watched.told() == []
    watched.linked = {C}
    watched.run(MISSING_S)
    assert watched.told() == []
    assert watched.watch.unlinked_s(B, watched.now_s) == pytest.approx(0.875)
    watched.run(1.0)
    assert watched.told() == [
        ("links.missing", {"peer": B, "for_s": 1.0, "check": "TCP port 3332: its datagrams pass"})
    ]
    watched.run(AGAIN_S - 2.0)
    assert watched.told() == []
    watched.run(2.0)
    ((event, fields),) = watched.told()
    assert (event, fields["for_s"]) == ("links.missing", 61.0)
    watched.linked = {B, C}
    watched.run(0.125)
    assert watched.told() == [("links.restored", {"peer": B, "after_s": 62.0})]
    assert watched.watch.unlinked_s(B, watched.now_s) == 0


def test_a_short_break_is_not_told(watched: Watched) -> None:
    for linked in ({C}, {B, C}):
        watched.linked = linked
        watched.run(0.875)
    assert watched.told() == []


@pytest.mark.parametrize(
    ("others", "heard_s", "passes"), [(1, 1.9, True), (1, 2.1, False), (29, 6.1, True), (29, 6.3, False)]
)
def test_whether_its_datagrams_pass_tells_what_to_check(
    watched: Watched, others: int, heard_s: float, passes: bool
) -> None:
    """With many members each is heard more seldom."""
    names = [f"10.0.1.{n}:1" for n in range(others)]
    watched.heard_s |= dict.fromkeys(names, 0.0)
    watched.incarnation |= dict.fromkeys(names, 1)
    watched.members = [B, *names]
    watched.linked = set(names)
    watched.heard_s[B] = heard_s
    watched.run(2.0)
    ((_, fields),) = watched.told()
    network = "the network to it: its datagrams do not pass either, others hear it"
    assert fields["check"] == ("TCP port 3332: its datagrams pass" if passes else network)


def test_who_is_no_member_any_more_is_forgotten(watched: Watched) -> None:
    watched.linked = {C}
    watched.run(2.0)
    watched.told()
    watched.members = [C]
    watched.run(2.0)
    assert watched.told() == []
    assert watched.watch.unlinked_s(B, watched.now_s) == 0


# --- refusals --------------------------------------------------------------------------------------------------------


def refuse(watched: Watched, incarnation: int = 5) -> None:
    watched.watch.note(LinkRefused(B, incarnation, False), watched.now_s)


def test_a_refusal_by_a_process_that_is_heard_afterwards_is_told(watched: Watched) -> None:
    watched.heard_s[B] = 1.0
    refuse(watched)
    watched.run(0.5)
    assert watched.told() == []
    assert not watched.watch.is_refused(B)
    watched.heard_s[B] = 0.125
    watched.run(0.5)
    check = "TCP port 3332: a firewall, proxy or forwarder refuses in its place"
    assert watched.told() == [("links.refused_by_living", {"peer": B, "check": check})]
    assert watched.watch.is_refused(B)


def test_many_refusals_are_told_once_a_minute(watched: Watched) -> None:
    for _ in range(4 * 59):
        refuse(watched)
        watched.run(0.25)
    assert len(watched.told()) == 1
    watched.run(AGAIN_S)
    assert len(watched.told()) == 1


@pytest.mark.parametrize(("before", "now"), [(5, 6), (0, 0)])
def test_a_process_that_came_after_the_refusal_proves_nothing(watched: Watched, before: int, now: int) -> None:
    refuse(watched, before)
    watched.incarnation[B] = now
    watched.run(1.0)
    assert watched.told() == []
    assert not watched.watch.is_refused(B)


def test_a_link_that_comes_up_ends_the_matter(watched: Watched) -> None:
    refuse(watched)
    watched.watch.note(LinkClosed(B), watched.now_s)
    watched.watch.note(LinkUp(C), watched.now_s)
    watched.run(0.125)
    assert watched.watch.is_refused(B)
    watched.watch.note(LinkUp(B), watched.now_s)
    assert not watched.watch.is_refused(B)
    refuse(watched, 5)
    watched.run(0.125)
    assert len(watched.told()) == 2, "that is another one"


def test_who_is_no_server_any_more_has_refused_nobody(watched: Watched) -> None:
    refuse(watched)
    watched.watch.keep([C])
    watched.run(1.0)
    assert watched.told() == []
    assert not watched.watch.is_refused(B)


def test_a_member_is_heard_for_so_long_after_it_was(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_watch, "heard_s", lambda members: 0.5 * members)
    checks = []
    for heard_s in (1.5, 1.625):
        watched.heard_s[B] = heard_s
        watched.linked = {C}
        watched.run(2 * MISSING_S)
        watched.linked = {B, C}
        watched.run(1.0)
        checks += [str(fields["check"]) for event, fields in watched.told() if event == "links.missing"]
    assert [check.partition(" ")[0] for check in checks] == ["TCP", "the"]
