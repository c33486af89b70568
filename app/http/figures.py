"""What members say of themselves, made into what the page compares: rates, hit rate, time to answer, and their sum.

Nodes count since their start, so a rate is the difference of two answers. An operation (GET, PUT, REMOVE) counts where
it is executed, its slot's primary, and nowhere else: so one that was forwarded is in the sum once, and copies are not.
How long it took counts at the node that the client asked, as in /metrics. Percentiles can't be added up; what they are
made of, counts by bucket, can.

Anybody may have said what is read here: it is checked, what is no sound number is left out, and what is kept of one
member is bounded.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from app.observe.histogram import REQUEST_EDGES_S, quantile_s

OPERATIONS: Final = ("GET", "PUT", "REMOVE")
# Numbers of at most so many bits are shown, texts of at most so many characters.
_NUMBER_BITS: Final = 63
_TEXT_MAX_CHARS: Final = 32
_BUCKETS: Final = len(REQUEST_EDGES_S) + 1
NUMBERS: Final = (
    *("pid", "resident_bytes", "peak_resident_bytes", "max_memory_bytes", "entries", "requests", "http_port"),
    *("uptime_s", "hits", "misses", "evictions"),
)


class Figures(NamedTuple):
    """What a node said of itself at some time."""

    at_s: float  # time.monotonic
    vitals: dict[str, int | str]  # those of NUMBERS that it named, and its version if it has one
    operations: tuple[int, ...]  # executed, in the order of OPERATIONS
    durations: tuple[int, ...]  # requests by bucket of REQUEST_EDGES_S; empty when it told none


class Lately(NamedTuple):
    """What happened at a node between two looks."""

    rates: tuple[float, ...]  # a second, in the order of OPERATIONS
    durations: tuple[int, ...]  # as in Figures


def read(said: Mapping[str, Any], at_s: float) -> Figures:
    """What is sound of an answer to VITALS."""
    vitals: dict[str, int | str] = {field: said[field] for field in NUMBERS if _is_number(said.get(field))}
    version = said.get("version")
    if isinstance(version, str) and len(version) <= _TEXT_MAX_CHARS and version.isascii() and version.isprintable():
        vitals["version"] = version
    commands, durations = said.get("commands"), said.get("durations")
    counts = commands if isinstance(commands, dict) else {}
    operations = tuple(counts[name] if _is_number(counts.get(name)) else 0 for name in OPERATIONS)
    if not isinstance(durations, list) or len(durations) != _BUCKETS or not all(map(_is_number, durations)):
        durations = []
    return Figures(at_s, vitals, operations, tuple(durations))


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << _NUMBER_BITS


def between(before: Figures | None, now: Figures) -> Lately | None:
    """None when there was no look before, or none of this process."""
    if before is None or now.at_s <= before.at_s or before.vitals.get("pid") != now.vitals.get("pid"):
        return None
    gained = [new - old for new, old in zip(now.operations, before.operations, strict=True)]
    took = [new - old for new, old in zip(now.durations, before.durations, strict=False)]
    if min(gained) < 0 or min(took, default=0) < 0:  # the process is another one, with the same number
        return None
    return Lately(tuple(count / (now.at_s - before.at_s) for count in gained), tuple(took))


def row(figures: Figures | None, lately: Lately | None) -> dict[str, Any]:
    """One node's, as in /status.json; null what is not known."""
    vitals = None if figures is None else figures.vitals
    return {"vitals": vitals, "hit_rate": _hit_rate(vitals or {}), **_recent(lately)}


def total(rows: Iterable[tuple[Figures, Lately | None]]) -> dict[str, Any]:
    """The sum of those that have answered, as in /status.json."""
    found = list(rows)
    names = ("resident_bytes", "max_memory_bytes", "entries", "evictions", "hits", "misses")
    sums = {name: sum(int(figures.vitals.get(name, 0)) for figures, _ in found) for name in names}
    known = [lately for _, lately in found if lately is not None]
    together = None
    if known:
        rates = tuple(sum(column) for column in zip(*(one.rates for one in known), strict=True))
        told = [one.durations for one in known if one.durations]
        together = Lately(rates, tuple(sum(column) for column in zip(*told, strict=True)))
    return {"answered": len(found), "vitals": sums, "hit_rate": _hit_rate(sums), **_recent(together)}


def _recent(lately: Lately | None) -> dict[str, Any]:
    if lately is None:
        return {"rate": None, "rates": None, "p99_ms": None}
    p99_s = quantile_s(REQUEST_EDGES_S, lately.durations, 0.99) if lately.durations else None
    return {
        "rate": round(sum(lately.rates), 1),
        "rates": {name: round(rate, 1) for name, rate in zip(OPERATIONS, lately.rates, strict=True)},
        "p99_ms": None if p99_s is None else round(p99_s * 1000, 3),
    }


def _hit_rate(vitals: Mapping[str, Any]) -> float | None:
    """Of the GETs since the start."""
    reads = vitals.get("hits", 0) + vitals.get("misses", 0)
    return round(vitals.get("hits", 0) / reads, 4) if reads else None
