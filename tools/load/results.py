"""What came of a run, put together from its processes: as data, and as a table.

Latencies travel as encoded HDR histograms, three digits from 1 µs to a minute: adding up histograms loses nothing,
which cannot be said of averaging percentiles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from tools.load.loop import code_name
from tools.load.plan import OPERATION_NAMES, Plan
from tools.load.tally import BAD_VALUES_SHOWN, SERIES_COUNTS, Tally

# The longest latency that a histogram takes (µs): beyond any schedule of retries and overload waits.
LATENCY_MAX_US: Final = 60_000_000
LATENCY_DIGITS: Final = 3

# The version of the JSON form. Raise it when a field changes its meaning.
FORMAT: Final = 2

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}

# Where the latency curve of a report is drawn: more points where it rises.
CURVE_PERCENTILES: Final = (
    *(0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.0, 94.0, 95.0, 96.0, 97.0, 98.0),
    *(99.0, 99.3, 99.5, 99.7, 99.8, 99.9, 99.95, 99.97, 99.99, 99.995, 99.999),
)

# A generator that hardly ever waits is what limits the rate.
BUSY_LIMIT: Final = 0.85

# A rate is missed when so much less was answered in time; what was due in the last moment (s) does not count.
RATE_TOLERANCE: Final = 0.05
RATE_GRACE_S: Final = 0.1

READS: Final = ("found", "missing", "absent", "wrong", "stale")
TROUBLE: Final = ("failed", "timeouts", "retries", "overloads", "refused", "unsent")
_COUNTS: Final = (*READS, *TROUBLE, "finished_in_time")


def histogram() -> HdrHistogram:
    return HdrHistogram(1, LATENCY_MAX_US, LATENCY_DIGITS)


def encoded(counts: Iterable[tuple[int, int]]) -> bytes:
    """A histogram of (latency in µs, how many) pairs."""
    made = histogram()
    for latency_us, count in counts:
        made.record_value(min(max(latency_us, 1), LATENCY_MAX_US), count)
    return bytes(made.encode())


def added(histograms: Iterable[bytes]) -> HdrHistogram:
    """The sum of encoded histograms; none is needed."""
    total = histogram()
    for one in histograms:
        total.decode_and_add(one)
    return total


@dataclass(slots=True)
class SliceResult:
    """A piece of one process's run, from `start_s` on."""

    start_s: float
    length_s: float
    finished: int
    counts: dict[str, int]
    latencies: bytes


@dataclass(slots=True)
class ProcessResult:
    """What one process has to tell, ready to be sent to another."""

    counts: dict[str, int]
    codes: dict[str, int]
    ignored: dict[str, int]
    faults: dict[str, int]
    latencies: dict[str, bytes]  # by operation
    late: bytes
    slices: list[SliceResult]
    elapsed_s: float
    processor_s: float
    waited_s: float
    samples: list[str]
    interrupted: bool
    keys_left: int = 0  # in the store, as far as is known


def outcome_of(tally: Tally) -> ProcessResult:
    by_operation: dict[int, list[tuple[int, int]]] = {}
    slices = []
    for piece in tally.slices:
        pairs: list[tuple[int, int]] = []
        for operation, (latencies, counts) in piece.latencies.items():
            counted = list(zip(latencies, counts, strict=True))
            by_operation.setdefault(operation, []).extend(counted)
            pairs += counted
        slices.append(SliceResult(piece.start_s, piece.length_s, piece.finished, piece.counts, encoded(pairs)))
    for operation, left in tally.latencies_us.items():  # answered after the end
        if left:
            by_operation.setdefault(operation, []).extend(left.items())
    return ProcessResult(
        counts={name: getattr(tally, name) for name in _COUNTS},
        codes={code_name(code): count for code, count in sorted(tally.codes.items())},
        ignored=tally.ignored,
        faults=tally.faults,
        latencies={OPERATION_NAMES[operation]: encoded(pairs) for operation, pairs in by_operation.items()},
        late=encoded(tally.late_us.items()),
        slices=slices,
        elapsed_s=tally.elapsed_s,
        processor_s=tally.processor_s,
        waited_s=tally.waited_s,
        samples=tally.samples,
        interrupted=tally.interrupted,
    )


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def percentile_ms(latencies: HdrHistogram, percentile: float) -> float:
    """A percentile, at most the longest latency: a bucket's upper end may lie past it."""
    if not latencies.get_total_count():
        return 0.0
    value_us: int = min(latencies.get_value_at_percentile(percentile), latencies.get_max_value())
    return round(value_us / 1000, 3)


def latency_summary(latencies: HdrHistogram) -> dict[str, float]:
    """Count, percentiles and maximum (ms)."""
    count = latencies.get_total_count()
    summary: dict[str, float] = {"count": count}
    for name, percentile in PERCENTILES.items():
        summary[f"{name}_ms"] = percentile_ms(latencies, percentile)
    summary["max_ms"] = percentile_ms(latencies, 100.0)
    return summary


def series_of(plan: Plan, outcomes: Sequence[ProcessResult]) -> dict[str, list[float]]:
    """The run over time, a value for each slice: rate, errors, latencies (ms), and counts for each second."""
    by_number: dict[int, list[SliceResult]] = {}
    for outcome in outcomes:
        for piece in outcome.slices:
            by_number.setdefault(round(piece.start_s / plan.slice_s), []).append(piece)
    series: dict[str, list[float]] = {"second": [], "ops_per_s": []}
    series |= {f"{name}_ms": [] for name in (*PERCENTILES, "max")}
    series |= {f"{name}_per_s": [] for name in SERIES_COUNTS}
    for number in sorted(by_number):
        pieces = [piece for piece in by_number[number] if piece.length_s > 0]
        series["second"].append(round(number * plan.slice_s + max(piece.length_s for piece in pieces), 3))
        series["ops_per_s"].append(round(sum(piece.finished / piece.length_s for piece in pieces), 1))
        summary = latency_summary(added(piece.latencies for piece in pieces))
        for name in (*PERCENTILES, "max"):
            series[f"{name}_ms"].append(summary[f"{name}_ms"])
        for name in SERIES_COUNTS:
            series[f"{name}_per_s"].append(round(sum(piece.counts[name] / piece.length_s for piece in pieces), 2))
    return series


def result_of(plan: Plan, outcomes: Sequence[ProcessResult]) -> dict[str, Any]:
    """The result as plain data, which is also what --json writes."""
    counts = _sum(outcome.counts for outcome in outcomes)
    operations = [name for name in OPERATION_NAMES.values() if any(name in one.latencies for one in outcomes)]
    by_operation = {
        name: added(one.latencies[name] for one in outcomes if name in one.latencies) for name in operations
    }
    whole = added(latencies.encode() for latencies in by_operation.values())
    elapsed_s = max(outcome.elapsed_s for outcome in outcomes)
    processor_s = sum(outcome.processor_s for outcome in outcomes)
    waited_s = sum(outcome.waited_s for outcome in outcomes)
    busy = round(max(0.0, 1 - waited_s / elapsed_s / plan.processes), 3) if elapsed_s else 0
    samples = [sample for outcome in outcomes for sample in outcome.samples]
    result: dict[str, Any] = {
        "format": FORMAT,
        "target": plan.target,
        "servers": list(plan.servers),
        "processes": plan.processes,
        "clients": plan.clients,
        "rate": plan.rate,
        "seconds": round(elapsed_s, 3),
        "warmup_s": plan.warmup_s,
        "workload": plan.workload,
        "mix": {OPERATION_NAMES[operation]: weight for operation, weight in plan.mix.items()},
        "key_law": plan.law,
        "keys": plan.keys,
        "keys_left": sum(outcome.keys_left for outcome in outcomes),
        "key_prefix": plan.key_prefix.decode(errors="backslashreplace"),
        "value_size": int(plan.value_size) if plan.value_size.isdigit() else plan.value_size,
        "faults_asked": str(plan.faults),
        "ops_per_s": round(counts["finished_in_time"] / elapsed_s) if elapsed_s else 0,
        "latency": {name: latency_summary(made) for name, made in by_operation.items()}
        | {"all": latency_summary(whole)},
        "reads": {name: counts[name] for name in READS},
        "codes": _sum(outcome.codes for outcome in outcomes),
    }
    result |= {name: counts[name] for name in TROUBLE}
    result |= {
        "ignored": _sum(outcome.ignored for outcome in outcomes),
        "faults": _sum(outcome.faults for outcome in outcomes),
        "interrupted": any(outcome.interrupted for outcome in outcomes),
        "samples": samples[:BAD_VALUES_SHOWN],
        "generator": {
            "us_per_op": round(processor_s / counts["finished_in_time"] * 1e6, 2) if counts["finished_in_time"] else 0,
            "busy": busy,
        },
        "series": series_of(plan, outcomes),
        "curve": {
            "percentile": list(CURVE_PERCENTILES),
            "ms": [percentile_ms(whole, percentile) for percentile in CURVE_PERCENTILES],
        },
        "histograms": {name: made.encode().decode() for name, made in by_operation.items()},
    }
    result["rate_missed"] = not result["interrupted"] and counts["finished_in_time"] < _least(plan, elapsed_s)
    if plan.rate:
        result["sent_late"] = latency_summary(added(outcome.late for outcome in outcomes))
    return result


def _least(plan: Plan, elapsed_s: float) -> float:
    """How many answers there are at least where an open loop keeps its rate: the last ones are on their way yet."""
    return plan.rate * (elapsed_s - RATE_GRACE_S) * (1 - RATE_TOLERANCE)


def errors_of(result: dict[str, Any]) -> int:
    """Requests that did not get what they asked for."""
    reads = result["reads"]
    return int(result["failed"] + result["timeouts"] + reads["wrong"] + reads["stale"])


def succeeded(result: dict[str, Any]) -> int:
    """Operations that did what they are for; a GET that rightly finds nothing is one of them."""
    reads = result["reads"]
    done = sum(result["codes"].get(name, 0) for name in ("NO_ERR", "KEY_DNE_ERR"))
    return int(done - reads["wrong"] - reads["stale"])


# For people.


def counts_line(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def generator_line(generator: dict[str, float]) -> str:
    """What the load generator itself took, and whether the figures are rather its own than the server's."""
    limit = " (so it may be what limited the rate)" if generator["busy"] > BUSY_LIMIT else ""
    return f"{generator['us_per_op']:.1f} µs of processor time an operation, busy {generator['busy']:.0%}{limit}"


def title_of(result: dict[str, Any]) -> str:
    """What was done, in a line."""
    mix = ",".join(f"{name}={weight}" for name, weight in result["mix"].items())
    work = f"workload {result['workload']} ({mix})" if result["workload"] else mix
    pace = f"{result['rate']:,g} ops/s wanted" if result["rate"] else f"{result['clients']:,} clients"
    processes = f" in {result['processes']} processes" if result["processes"] > 1 else ""
    size = result["value_size"]
    parts = [
        f"{result['target']}: {pace}{processes}",
        f"{result['seconds']:.1f} s",
        f"{f'{size:,}-byte' if isinstance(size, int) else size} values",
        work,
        f"{result['keys']:,} {result['key_law']} keys",
    ]
    if result["faults_asked"]:
        parts.append(f"faults {result['faults_asked']}")
    return ", ".join(parts)


def line_of(result: dict[str, Any]) -> str:
    """The result in one line."""
    whole = result["latency"]["all"]
    return (
        f"{result['ops_per_s']:,} ops/s  p50 {whole['p50_ms']:.3f}  p99 {whole['p99_ms']:.3f}  "
        f"max {whole['max_ms']:.3f} ms  errors {errors_of(result):,}  missing {result['reads']['missing']:,}"
    )


def text_of(result: dict[str, Any]) -> list[str]:
    """The result as a table, in lines."""
    columns = (*PERCENTILES, "max")
    lines = [
        title_of(result),
        "",
        f"{result['ops_per_s']:,} ops/s",
        "",
        f"{'latency, ms':<12}{'count':>12}" + "".join(f"{name:>10}" for name in columns),
    ]
    rows = dict(result["latency"])
    if "sent_late" in result:
        rows["sent late"] = result["sent_late"]
    for name, row in rows.items():
        cells = "".join(f"{row[f'{column}_ms']:>10.3f}" for column in columns)
        lines.append(f"{name:<12}{row['count']:>12,}{cells}")
    lines += [
        "",
        f"reads     {counts_line(result['reads'])}",
        f"answers   {counts_line(result['codes'])}",
        f"trouble   {counts_line({name: result[name] for name in TROUBLE})}",
        f"generator {generator_line(result['generator'])}",
    ]
    if result["keys_left"]:
        left = f"{result['keys_left']:,} keys that begin with {result['key_prefix']}"
        lines.append(f"left      {left}; --clean removes them")
    if result["ignored"]:
        lines.append(f"ignored   {counts_line(result['ignored'])}")
    if result["faults"]:
        lines.append(f"faults    {counts_line(result['faults'])}")
    return lines
