"""Results of the suite: what is in a document, and what two of them tell when they are held against each other."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.generator import generator  # noqa: F401 - the tables name figures as the parts do, which load nodes
from tools.bench import compare, plot, tables
from tools.bench.figures import LESS, MEMCACHED, MORE, NEITHER, OTHER, THIS, BadResult, Figures, Result, read

Captured = pytest.CaptureFixture[str]

ABOUT: dict[str, Any] = {
    "command": "python -m tools.bench.suite",
    "date": "2026-11-29 03:30 UTC",
    "seconds": 500.0,
    "extent": "full",
    "parts": ["one-node", "memory"],
    "machine": {"processor": "p", "cores": 2, "kernel": "6", "memory_mib": 1, "load_before": 0.1, "load_after": 0.1},
    "versions": {"python": "3", "gevent": "26", "protobuf": "7"},
    "subjects": {THIS: {"commit": "0123456789abcdef", "clean": True, "compiled": [], "environment": {}}},
}
RATE = "one node/64 B/16 clients/rate"


def document(**rounds: Sequence[float]) -> dict[str, Any]:
    """A result with the rate of one node, by subject."""
    found = Figures()
    for subject, values in rounds.items():
        for value in values:
            found.add(RATE, subject, value, "ops/s", MORE)
    found.add("memory/peak", THIS, 100.0, "MiB", LESS)
    found.add("generator", THIS, 0.5, "of a core", NEITHER)
    made: dict[str, Any] = json.loads(json.dumps(found.document(ABOUT)))
    return made


def test_rounds_medians_and_ratios_round_by_round() -> None:
    result = Result(document(this=[50, 60, 90], memcached=[100, 100, 300], other=[50, 40, 90]))
    assert result.figures[RATE]["median"] == {THIS: 60, MEMCACHED: 100, OTHER: 50}
    assert result.figures[RATE]["ratios"] == {
        "this / memcached": [0.5, 0.6, 0.3],
        "other / memcached": [0.5, 0.4, 0.3],
        "this / other": [1.0, 1.5, 1.0],
    }
    assert result.spread(RATE, "this / memcached") == (0.3, 0.5, 0.6)
    assert result.spread(RATE) == (50, 60, 90)
    assert result.spread(RATE, "nobody") is None
    assert result.spread("nothing") is None


def test_there_is_no_ratio_of_rounds_that_are_no_pairs() -> None:
    assert Result(document(this=[1, 2], memcached=[1])).figures[RATE]["ratios"] == {}
    assert Result(document(this=[1], memcached=[0])).figures[RATE]["ratios"] == {}


def test_troubles_add_up_and_what_is_none_is_left_out() -> None:
    found = Figures()
    found.trouble("load", THIS, {"missing": 1, "wrong": 0})
    found.trouble("load", THIS, {"missing": 2, "wrong": 0})
    found.trouble("load", OTHER, {"missing": 0})
    assert found.document(ABOUT)["troubles"] == {"load": {THIS: {"missing": 3}}}


def broken(path: str, value: object) -> dict[str, Any]:
    """A result of which one thing is not as it should be."""
    made = copy.deepcopy(document(this=[1.0]))
    *above, last = path.split(".")
    place = made
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    "made",
    [
        [],
        broken("format", 2),
        broken("machine.cores", None),
        broken("versions.gevent", None),
        broken("subjects.this", None),
        broken("command", ""),
        broken("troubles", None),
        broken(f"figures.{RATE}.unit", None),
        broken(f"figures.{RATE}.better", "faster"),
        broken(f"figures.{RATE}.rounds.this", []),
        broken(f"figures.{RATE}.rounds.this", ["1"]),
        broken(f"figures.{RATE}.median.this", None),
    ],
)
def test_what_is_no_whole_result(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(made))
    with pytest.raises(BadResult, match=r"result\.json: it is not a whole result"):
        read(str(path))


def compared(tmp_path: Path, old: dict[str, Any], new: dict[str, Any], *more: str) -> int:
    for name, made in (("old", old), ("new", new)):
        (tmp_path / name).write_text(json.dumps(made))
    return compare.main([str(tmp_path / "old"), str(tmp_path / "new"), *more])


def line_of(text: str, name: str) -> list[str]:
    return next([cell.strip() for cell in line.split("|")] for line in text.splitlines() if name in line)


def test_rounds_that_overlap_are_noise(tmp_path: Path, capsys: Captured) -> None:
    assert compared(tmp_path, document(this=[100, 110, 130]), document(this=[50, 60, 100])) == 0
    assert line_of(capsys.readouterr().out, RATE)[2:6] == ["110", "60", "0.545", ""]


@pytest.mark.parametrize(("threshold", "status"), [("9", 1), ("11", 0)])
def test_worse_beyond_noise_by_more_than_the_threshold_is_status_1(
    tmp_path: Path, capsys: Captured, threshold: str, status: int
) -> None:
    old, new = document(this=[100, 101, 99]), document(this=[90, 91, 89])
    assert compared(tmp_path, old, new, "--threshold", threshold) == status
    shown = capsys.readouterr()
    assert line_of(shown.out, RATE)[2:6] == ["100", "90", "0.900", "worse"]
    assert (f"tools.bench.compare: {RATE} is 10% worse" in shown.err) is (status == 1)


def test_better_is_no_failure_whichever_way_that_is(tmp_path: Path, capsys: Captured) -> None:
    old, new = document(this=[100]), document(this=[200])
    new["figures"]["memory/peak"]["rounds"][THIS] = [50.0]
    new["figures"]["generator"]["rounds"][THIS] = [0.9]
    assert compared(tmp_path, old, new) == 0
    shown = capsys.readouterr().out
    assert line_of(shown, RATE)[5] == line_of(shown, "memory/peak")[5] == "better"
    assert "generator" not in shown


def test_a_slower_machine_is_taken_out_where_memcached_ran_in_turns(tmp_path: Path, capsys: Captured) -> None:
    old, new = document(this=[50, 50], memcached=[100, 100]), document(this=[25, 25], memcached=[50, 50])
    new["machine"]["kernel"] = "7"
    assert compared(tmp_path, old, new) == 0
    shown = capsys.readouterr().out
    assert line_of(shown, f"{RATE}, times memcached's")[2:6] == ["0.5", "0.5", "1.000", ""]
    assert shown.endswith("\nNot the same: machine.kernel.\n")


def test_what_can_not_be_read_is_status_2(tmp_path: Path, capsys: Captured) -> None:
    assert compared(tmp_path, {}, {}) == 2
    assert compare.main([str(tmp_path / "none"), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_document_is_filled_in_again_and_again() -> None:
    first, second = Result(document(this=[50], memcached=[100])), Result(document(this=[75], memcached=[100]))
    text = "before\n<!-- bench:one-node -->\n<!-- bench:end -->\nafter\n<!-- bench:run -->\nold\n<!-- bench:end -->\n"
    filled = tables.fill_in(text, first)
    assert filled.startswith("before\n<!-- bench:one-node -->\n\n| load ")
    assert "| 0.50 (0.50 to 0.50) |" in filled
    assert "\nold\n" not in filled
    assert tables.fill_in(filled, first) == filled
    assert tables.fill_in(tables.fill_in(filled, second), first) == filled


@pytest.mark.parametrize("text", ["nothing", "<!-- bench:nonsense -->\n<!-- bench:end -->"])
def test_a_document_without_a_place_for_a_table_there_is(text: str) -> None:
    with pytest.raises(tables.NoPlace):
        tables.fill_in(text, Result(document(this=[1.0])))


def test_what_was_not_measured_has_no_table_and_leaves_a_place_in_the_others() -> None:
    result = Result(document(this=[50]))
    shown = "\n".join(tables.text_of(result))
    assert "## one-node" in shown
    assert "## clusters" not in shown
    assert all(isinstance(line, str) for table in tables.TABLES.values() for line in table(result))


def test_the_drawing_is_the_same_for_the_same_result() -> None:
    result = Result(document(this=[50, 60], memcached=[100, 100]))
    drawing = plot.drawing_of(result)
    assert drawing.count("<svg") == 1
    assert drawing == plot.drawing_of(result)
