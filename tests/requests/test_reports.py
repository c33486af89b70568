"""What STATUS says: every field, and that it fits one answer whatever there is to say."""

import json
from dataclasses import replace
from math import inf

import pytest

from app import fast
from app.cluster.events import MemberStatus, Status
from app.cluster.readiness import Readiness
from app.cluster.view import FOUNDERS_MAX
from app.requests.reports import KEPT_MAX_S, KEPT_TIMES, KeptReport, status_json
from app.version import VERSION
from app.wire.protocol import PLACE_DIGITS, SLOT_COUNT, VALUE_MAX_BYTES

A, B = "10.0.0.1:3331", "10.0.0.2:3331"
MEMBERS = (MemberStatus(A, 5, "alive", False, 128, 64, 1), MemberStatus(B, 6, "suspect", True, 128, 63, 2))
STATUS = Status(A, 5, 77, 4, True, B, inf, 3, False, MEMBERS, (0, 1) * (SLOT_COUNT // 2), {})
FOUND = Readiness(STATUS, 125, 120, 3, 9, 3, 1, 2, 300, (B,), 4, 2, ("no writes: why",), ("2 of 3 copies each: why",))


def test_the_status_whole() -> None:
    assert json.loads(status_json(FOUND, (A, "absent:1", B))) == {
        "address": A,
        "incarnation": 5,
        "origin": 77,
        "version": VERSION,
        "core": fast.CORE,
        "epoch": 4,
        "is_member": True,
        "coordinator": B,
        "lease_s": None,
        "blocked": 3,
        "balanced": False,
        "ready": False,
        "whole": False,
        "reads": 125,
        "writes": 120,
        "closed": 3,
        "unserved": 9,
        "copies_wanted": 3,
        "copies_least": 1,
        "copies_most": 2,
        "copies_missing": 300,
        "servers": 4,
        "servers_up": 2,
        "unlinked": "B",
        "reasons": ["no writes: why"],
        "lacking": ["2 of 3 copies each: why"],
        "primaries": "AB" * (SLOT_COUNT // 2),
        "columns": ["address", "incarnation", "state", "leaving", "primary", "backup", "learner"],
        "members": [
            [A, 5, "alive", False, 128, 64, 1],
            [B, 6, "suspect", True, 128, 63, 2],
            ["absent:1", 0, "absent", False, 0, 0, 0],
        ],
        "absent_s": [None],
        "founders": "",
    }


def test_how_long_absent_servers_have_been_silent() -> None:
    unheard_s = {A: 0.0, "absent:1": 12.345, B: 0.0, "absent:2": inf}
    said = json.loads(status_json(FOUND, list(unheard_s), unheard_s.__getitem__))
    assert [row[0] for row in said["members"]] == [A, B, "absent:1", "absent:2"]
    assert said["absent_s"] == [12.3, None]


def test_founders_are_told_by_their_rows_and_those_without_one_too() -> None:
    said = json.loads(status_json(FOUND, (A, "absent:1", B), founders=("removed:1", "absent:1", A)))
    assert said["founders"] == ".CA"
    assert [said["members"][PLACE_DIGITS.index(digit)][0] for digit in said["founders"][1:]] == ["absent:1", A]


@pytest.mark.parametrize(("reasons", "lacking"), [((), ()), (("why",), ()), ((), ("what",))])
def test_ready_and_whole(reasons: tuple[str, ...], lacking: tuple[str, ...]) -> None:
    said = json.loads(status_json(replace(FOUND, reasons=reasons, lacking=lacking), ()))
    assert (said["ready"], said["whole"]) == (not reasons, not reasons and not lacking)


def test_a_lease_is_no_less_than_none() -> None:
    said = json.loads(status_json(replace(FOUND, status=replace(STATUS, lease_s=-0.5)), ()))
    assert said["lease_s"] == 0.0


def test_the_status_says_where_nobody_serves() -> None:
    nowhere = replace(STATUS, primaries=(-1,) * SLOT_COUNT)
    assert json.loads(status_json(replace(FOUND, status=nowhere), ()))["primaries"] == "." * SLOT_COUNT
    nothing = replace(STATUS, primaries=())
    assert json.loads(status_json(replace(FOUND, status=nothing), ()))["primaries"] == ""


@pytest.mark.parametrize(
    ("count", "absent", "is_cut"), [(3, 2, False), (64, 0, False), (10, 64, False), (50, 60, True)]
)
@pytest.mark.parametrize("sentences", [0, 2, 12])
def test_the_status_fits_one_answer(count: int, absent: int, is_cut: bool, sentences: int) -> None:
    """With the longest addresses and numbers there are, every member has its row; what is left out are sentences, and
    where that does not suffice, absent servers."""
    names = [f"{n:03}." + "é" * 38 for n in range(count + absent)]
    members = tuple(MemberStatus(name, 2**64 - 1, "suspect", False, 256, 256, 256) for name in names[:count])
    primaries = tuple(n % count for n in range(SLOT_COUNT))
    status = Status(
        names[0], 2**64 - 1, 2**64 - 1, 1 << 40, True, names[1], 0.51234, 256, False, members, primaries, {}
    )
    said_wrong = tuple(f"{n}. " + "x" * 250 for n in range(sentences))
    found = Readiness(
        status, 256, 256, 256, 256, 8, 8, 8, 2048, tuple(names[:count]), 64, 64, said_wrong[::2], said_wrong[1::2]
    )
    founders = names[-FOUNDERS_MAX:]
    text = status_json(found, names, founders=founders)
    assert len(text) <= VALUE_MAX_BYTES
    said = json.loads(text)
    assert said.get("cut", False) == is_cut
    assert said["lease_s"] == 0.512
    assert said["whole"] == (not sentences)
    assert len(said["columns"]) == len(said["members"][0])
    rows = [row[0] for row in said["members"]]
    assert rows == names[: len(rows)]
    assert count <= len(rows) <= count + absent
    assert (len(rows) < count + absent) == is_cut
    assert len(said["absent_s"]) == len(rows) - count
    assert {row[2] for row in said["members"][count:]} <= {"absent"}
    assert [PLACE_DIGITS.index(digit) for digit in said["primaries"]] == list(primaries)
    assert said["unlinked"] == PLACE_DIGITS[:count]
    places = [names.index(founder) for founder in founders]
    assert said["founders"] == "".join(PLACE_DIGITS[at] if at < min(64, len(rows)) else "." for at in places)
    told = [*said["reasons"], *said["lacking"]]
    assert told == [*said_wrong[::2], *said_wrong[1::2]][: len(told)]
    assert count > 3 or len(told) == sentences


@pytest.mark.parametrize("over", [0, 1])
def test_it_may_take_as_much_as_an_answer_holds(over: int) -> None:
    def text(size: int) -> bytes:
        return status_json(replace(FOUND, reasons=("x" * size,), lacking=()), (A, B))

    room = VALUE_MAX_BYTES - len(text(0))
    assert len(json.loads(text(room + over))["reasons"]) == 1 - over
    assert len(text(room)) == VALUE_MAX_BYTES


class Maker:
    """Makes a text that takes `takes_s`, on a clock of its own."""

    def __init__(self, takes_s: float) -> None:
        self.now_s = 1000.0
        self.takes_s = takes_s
        self.made = 0

    def now(self) -> float:
        return self.now_s

    def make(self) -> bytes:
        self.made += 1
        self.now_s += self.takes_s
        return b"%d" % self.made


@pytest.mark.parametrize("takes_s", [0.0001, 0.0007, 0.004])
def test_however_often_a_report_is_asked_for_it_takes_a_small_share_of_the_time(takes_s: float) -> None:
    maker = Maker(takes_s)
    kept = KeptReport(maker.make, maker.now)
    while maker.now_s < 1001.0:
        assert kept() == b"%d" % maker.made
        maker.now_s += 0.00001  # the next one asks
    assert 0.02 < maker.made * takes_s < 0.05


def test_a_report_is_made_anew_once_it_is_old() -> None:
    maker = Maker(1 / 1024)
    kept = KeptReport(maker.make, maker.now)
    assert kept() == b"1"
    maker.now_s += KEPT_TIMES / 1024 - 0.0001
    assert kept() == b"1"
    maker.now_s += 0.0001
    assert kept() == b"2"


def test_a_report_in_whose_making_the_process_was_stopped_is_not_kept_for_long() -> None:
    maker = Maker(60.0)
    kept = KeptReport(maker.make, maker.now)
    kept()
    maker.now_s += KEPT_MAX_S
    assert kept() == b"2"


def test_a_report_is_made_anew_in_another_epoch() -> None:
    maker, epochs = Maker(1.0), iter([4, 4, 5, 5])
    kept = KeptReport(maker.make, maker.now, lambda: next(epochs))
    assert [kept() for _ in range(4)] == [b"1", b"1", b"2", b"2"]


def test_a_report_that_costs_nothing_is_always_of_now() -> None:
    maker = Maker(0.0)
    kept = KeptReport(maker.make, maker.now)
    assert [kept(), kept()] == [b"1", b"2"]


def test_a_fault_in_the_making_is_not_kept() -> None:
    texts = iter([b"text"])

    def make() -> bytes:
        if maker.takes_s:
            raise ValueError
        return next(texts)

    maker = Maker(1.0)
    kept = KeptReport(make, maker.now)
    with pytest.raises(ValueError, match=r"^$"):
        kept()
    maker.takes_s = 0.0
    assert kept() == b"text"
