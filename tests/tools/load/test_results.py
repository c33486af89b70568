"""Results put together, and side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT
from tools.load.compare import BadResult, differences, read_result, table
from tools.load.plan import Plan
from tools.load.results import (
    added,
    encoded,
    errors_of,
    latency_summary,
    line_of,
    outcome_of,
    result_of,
    succeeded,
    text_of,
)
from tools.load.tally import Tally


def test_latency_summary() -> None:
    assert latency_summary(added([])) == {"count": 0, "p50_ms": 0, "p90_ms": 0, "p99_ms": 0, "p99.9_ms": 0, "max_ms": 0}
    summary = latency_summary(added([encoded([(100, 9_899), (2_000, 100), (0, 1)])]))
    assert summary["count"] == 10_000
    assert [summary[f"{name}_ms"] for name in ("p50", "p90", "p99")] == [0.1, 0.1, 0.1]
    assert [summary[f"{name}_ms"] for name in ("p99.9", "max")] == pytest.approx([2.0, 2.0], rel=0.001)


def test_histograms_add_up_as_if_all_had_been_in_one() -> None:
    parts = [[(n * 7 + k, n % 5 + 1) for n in range(1, 300)] for k in range(3)]
    apart = added(encoded(part) for part in parts)
    together = added([encoded([pair for part in parts for pair in part])])
    assert latency_summary(apart) == latency_summary(together)


def tally_of(scale: int) -> Tally:
    tally = Tally(latencies_us={PUT: {100 * scale: 10}, GET: {50 * scale: 30}})
    tally.finished_in_time, tally.retries = 40, 2
    tally.cut(0.0, 1.0)
    tally.latencies_us[GET] = {1000 * scale: 9}
    tally.finished_in_time, tally.timeouts = 49, 1
    tally.cut(1.0, 2.0)
    tally.latencies_us[GET] = {2000 * scale: 1}  # answered after the end
    tally.codes = {NO_ERR: 49, KEY_DNE_ERR: 1}
    tally.found, tally.missing = 39, 1
    tally.elapsed_s, tally.processor_s, tally.waited_s = 2.0, 0.5, 1.5
    return tally


def result(*scales: int, **settings: object) -> dict[str, Any]:
    chosen: dict[str, Any] = {"seconds": 2.0, "clients": 8, "processes": len(scales), **settings}
    plan = Plan(servers=("127.0.0.1:1",), **chosen)
    assert plan.slice_s == 0.1 or "seconds" in settings
    return result_of(plan, [outcome_of(tally_of(scale)) for scale in scales])


def test_the_result_of_one_process() -> None:
    made = result(1)
    assert made["ops_per_s"] == 24
    assert {name: row["count"] for name, row in made["latency"].items()} == {"put": 10, "get": 40, "all": 50}
    assert made["latency"]["all"]["max_ms"] == pytest.approx(2.0, rel=0.001)
    assert made["generator"] == {"us_per_op": round(0.5 / 49 * 1e6, 2), "busy": 0.25}
    assert (errors_of(made), succeeded(made)) == (1, 50)
    assert json.loads(json.dumps(made)) == made


def test_the_result_of_two_processes_is_their_sum() -> None:
    one, two = result(1), result(1, 3)
    assert (one["ops_per_s"], two["ops_per_s"]) == (24, 49)
    for name in ("put", "get", "all"):
        assert two["latency"][name]["count"] == 2 * one["latency"][name]["count"]
        assert two["latency"][name]["max_ms"] == pytest.approx(3 * one["latency"][name]["max_ms"], rel=0.001)
    assert two["reads"] == {name: 2 * count for name, count in one["reads"].items()}
    assert two["generator"]["busy"] == one["generator"]["busy"]
    assert two["series"]["second"] == one["series"]["second"] == [1.0, 2.0]
    assert two["series"]["ops_per_s"] == [80.0, 18.0]
    assert two["series"]["retries_per_s"] == [4.0, 0.0]
    assert two["series"]["timeouts_per_s"] == [0.0, 2.0]
    assert two["series"]["max_ms"] == pytest.approx([0.3, 3.0], rel=0.001)
    assert len({len(values) for values in two["series"].values()}) == 1


def test_the_curve_rises_to_the_maximum() -> None:
    curve = result(1)["curve"]["ms"]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(2.0, rel=0.001)


def test_for_people() -> None:
    made = result(1, workload="a", faults=Plan(servers=()).faults)
    text = "\n".join(text_of(made))
    assert "24 ops/s" in text
    assert "workload a" in text
    assert "missing 1" in text
    assert "busy 25%" in text
    assert "what limited" not in text
    assert line_of(made).startswith("24 ops/s  p50 0.050")
    assert "\n" not in line_of(made)
    made["generator"]["busy"] = 0.99
    assert "may be what limited the rate" in "\n".join(text_of(made))


# Side by side.


def write(path: Path, made: dict[str, Any]) -> str:
    path.write_text(json.dumps(made))
    return str(path)


def test_a_comparison_gives_ratios(tmp_path: Path) -> None:
    first, second = result(2), result(1, target="memcached")
    first["ops_per_s"], second["ops_per_s"] = 1000, 4000
    paths = (write(tmp_path / "a.json", first), write(tmp_path / "b.json", second))
    lines = table(read_result(paths[0]), read_result(paths[1]), paths)
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:5]] for line in lines}
    assert cells[""] == ["kv", "memcached", "kv / memcached"]
    assert cells["ops/s"] == ["1,000", "4,000", "0.25"]
    assert cells["put p50, ms"] == ["0.200", "0.100", "2.00"]
    assert cells["wrong"] == ["0", "0", "1.00"]
    assert len({len(line) for line in lines}) == 1
    assert differences(first, second) == []


def test_a_comparison_of_unlike_loads_says_so_and_leaves_gaps(tmp_path: Path) -> None:
    first, second = result(1), result(1, value_size="etc", rate=5.0)
    del second["latency"]["put"]
    second["timeouts"] = 0
    paths = (str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    text = "\n".join(table(first, second, paths))
    assert text.splitlines()[0].split() == ["|", "|", "a", "|", "b", "|", "a", "/", "b", "|"]
    assert "Not the same load: rate 0.0 and 5.0; value_size 64 and etc." in text
    cells = {line.split("|")[1].strip(): line.split("|")[2:5] for line in text.splitlines() if "|" in line}
    assert [cell.strip() for cell in cells["put p50, ms"]] == ["0.100", "-", "-"]
    assert cells["timeouts"][2].strip() == "-"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "nonsense"])
def test_what_is_no_result(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadResult, match=r"x\.json"):
        read_result(str(path))


def test_no_file() -> None:
    with pytest.raises(BadResult, match="No such file"):
        read_result("/nowhere/x.json")
