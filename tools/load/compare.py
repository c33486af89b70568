"""Two results side by side: what the first has for each of the second's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.load.results import FORMAT, PERCENTILES, errors_of


class BadResult(Exception):
    """A file that is not the result of a run."""


# What makes two runs different loads, so that a comparison means less.
SAME_LOAD = (
    *("clients", "rate", "processes", "seconds", "warmup_s", "workload", "mix", "key_law", "keys", "value_size"),
    "faults_asked",
)


def read_result(path: str) -> dict[str, Any]:
    """The result that --json has written; BadResult, with why, when it is none."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadResult(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise BadResult(f"{path} is not a result of this program's (format {FORMAT})")
    return result


def comparison(first_path: str, second_path: str) -> list[str]:
    """Two files' results side by side, in lines. BadResult, with why, when one is none."""
    first, second = read_result(first_path), read_result(second_path)
    try:
        return table(first, second, (first_path, second_path))
    except (AttributeError, LookupError, TypeError, ValueError):
        raise BadResult(f"{first_path} or {second_path} is not whole") from None


def _rows(result: dict[str, Any]) -> dict[str, float]:
    """Label and figure, in the order in which they are shown."""
    rows: dict[str, float] = {"ops/s": result["ops_per_s"]}
    for name, latency in result["latency"].items():
        for column in (*PERCENTILES, "max"):
            rows[f"{name} {column}, ms"] = latency[f"{column}_ms"]
    rows["errors"] = errors_of(result)
    for name in ("wrong", "stale", "missing"):
        rows[name] = result["reads"][name]
    for name in ("timeouts", "retries", "overloads", "unsent"):
        rows[name] = result[name]
    rows["generator, µs/op"] = result["generator"]["us_per_op"]
    rows["generator busy"] = result["generator"]["busy"]
    return rows


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _ratio(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return "-"
    if first == second:
        return "1.00"
    return f"{first / second:.2f}" if second else "-"


def _names(first: dict[str, Any], second: dict[str, Any], paths: tuple[str, str]) -> tuple[str, str]:
    """The columns' headings: the targets where they differ, else the files."""
    if first["target"] != second["target"]:
        return first["target"], second["target"]
    stems = (Path(paths[0]).stem, Path(paths[1]).stem)
    return stems if stems[0] != stems[1] else paths


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """In what the two loads differed. The time counts when it differs by more than a tenth."""
    found = []
    for name in SAME_LOAD:
        mine, other = first[name], second[name]
        if name == "seconds" and max(mine, other) <= 1.1 * min(mine, other):
            continue
        if mine != other:
            found.append(f"{name} {mine} and {other}")
    return found


def table(first: dict[str, Any], second: dict[str, Any], paths: tuple[str, str]) -> list[str]:
    """The lines of a table in Markdown, which can be pasted into a page; a warning under it if the loads differed."""
    mine, other = _rows(first), _rows(second)
    labels = [*mine, *(label for label in other if label not in mine)]
    names = _names(first, second, paths)
    rows = [("", *names, f"{names[0]} / {names[1]}")]
    rows += [
        (label, _cell(mine.get(label)), _cell(other.get(label)), _ratio(mine.get(label), other.get(label)))
        for label in labels
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    align: list[Callable[[str, int], str]] = [str.ljust, str.rjust, str.rjust, str.rjust]
    lines = ["| " + " | ".join(align[n](row[n], widths[n]) for n in range(4)) + " |" for row in rows]
    rules = ["-" * (width + 1) + (":" if n else "-") for n, width in enumerate(widths)]
    lines.insert(1, "|" + "|".join(rules) + "|")
    unlike = differences(first, second)
    if unlike:
        lines += ["", f"Not the same load: {'; '.join(unlike)}."]
    return lines
