"""A result of the suite as tables in Markdown, for the terminal and for the documents.

A document has places for them, between `<!-- bench:NAME -->` and `<!-- bench:end -->`; `fill_in` puts there what a
result says, so that no figure is copied by hand.
"""

import re
import textwrap
from collections.abc import Callable
from typing import Final

from tools.bench import parts
from tools.bench.figures import MEMCACHED, NEITHER, OTHER, THIS, Result, Spread
from tools.bench.grid import grid

_NODE_SHARE: Final = f"{THIS} / {MEMCACHED}"
_PLACE: Final = re.compile(r"(<!-- bench:(?!end)([a-z-]+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)
_NONE: Final = "-"


class NoPlace(Exception):
    """A document wants a table that there isn't, or has no place for any."""


def _number(value: float) -> str:
    """With three digits at least."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _median(spread: Spread | None, scale: float = 1.0) -> str:
    return _NONE if spread is None else _number(spread.median * scale)


def _with_spread(spread: Spread | None) -> str:
    if spread is None:
        return _NONE
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _percent(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread.median:.0%}"


def run_lines(result: Result) -> list[str]:
    """What was run, where and of what, as a list."""
    document = result.document
    machine, versions = document["machine"], document["versions"]
    lines = [f"`{document['command']}`, {document['date']}, {document['seconds']:.0f} s, extent: {document['extent']}."]
    for name, subject in document["subjects"].items():
        if name == MEMCACHED:
            lines.append(f"memcached {subject['version']}, `{subject['command']}`.")
            continue
        state = "" if subject["clean"] else " with changes"
        compiled = ", ".join(subject["compiled"]) or "nothing"
        chosen = "".join(f" {key}={value}" for key, value in subject["environment"].items())
        lines.append(f"{name.capitalize()}: commit {subject['commit'][:12]}{state}{chosen}; compiled: {compiled}.")
    where = f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}"
    lines.append(f"{where}; load before: {machine['load_before']:.2f}.")
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items() if version) + ".")
    return [f"- {line}" for line in lines]


def summary_lines(result: Result) -> list[str]:
    """The outcome in a few sentences; "-" for what was not measured."""
    small, many = (f"{parts.one_node_name(64, clients)}/{parts.RATE}" for clients in (16, 64))
    one_copy, three = (f"{parts.cluster_name(3, copies)}/{parts.RATE}" for copies in (1, 3))
    share, share_of_many = (_percent(result.spread(name, _NODE_SHARE)) for name in (small, many))
    held = _median(result.spread(f"{parts.memory_name('64')}/first fill"))
    cores = result.document["machine"]["cores"]
    text = (
        f"On {cores} cores shared with the load generator, one node answers {_median(result.spread(small))} requests a"
        f" second of 16 clients and {_median(result.spread(many))} of 64 (half PUT, half GET, 64-byte values): {share}"
        f" and {share_of_many} of memcached's rate over UDP (`-t 1`) in the same run. Three nodes on these cores:"
        f" {_median(result.spread(one_copy))} with one copy, {_median(result.spread(three))} with three. Sent over"
        f" UDP as fast as that, {held} entries fit into 128 MiB before the first is evicted."
    )
    return textwrap.wrap(text, 118, break_on_hyphens=False)


def one_node_table(result: Result) -> list[str]:
    rows = []
    loads = [(64, clients) for clients in parts.CLIENTS] + [(parts.LARGE_BYTES, parts.LARGE_CLIENTS)]
    for value_bytes, clients in loads:
        name = parts.one_node_name(value_bytes, clients)
        rate, p99 = f"{name}/{parts.RATE}", f"{name}/{parts.P99}"
        rows.append(
            (
                f"{clients} client{'s' if clients > 1 else ''}, {value_bytes:,} B",
                _median(result.spread(rate, MEMCACHED)),
                _median(result.spread(rate)),
                _with_spread(result.spread(rate, _NODE_SHARE)),
                _with_spread(result.spread(p99, _NODE_SHARE)),
                _median(result.spread(f"{name}/{parts.PROCESSOR}", MEMCACHED)),
                _median(result.spread(f"{name}/{parts.PROCESSOR}")),
            )
        )
    head = ("load", "memcached, ops/s", "node, ops/s", "node / memcached", "p99, node / memcached")
    return grid((*head, "memcached, µs a request", "node, µs a request"), rows)


def clusters_table(result: Result) -> list[str]:
    """By number of nodes, with one copy and with three."""
    rows = []
    for count in sorted(
        {int(match[1]) for name in result.figures if (match := re.match(r"cluster/(\d+) nodes/", name))}
    ):
        row = [f"{count} node{'s' if count > 1 else ''}"]
        for what, scale in ((parts.RATE, 1.0), (parts.P99, 0.001), (parts.PROCESSOR, 1.0)):
            row += [_median(result.spread(f"{parts.cluster_name(count, copies)}/{what}"), scale) for copies in (1, 3)]
        for copies in (1, 3):
            spent = result.spread(f"{parts.cluster_name(count, copies)}/{parts.PROCESSOR}")
            row.append(_NONE if spent is None else _number(count * 1e6 / spent.median))
        rows.append(row)
    whats = ("ops/s", "p99, ms", "µs a request", "a core each, ops/s")
    return grid(("", *(f"{what}, {copies}" for what in whats for copies in ("1 copy", "3"))), rows)


def costs_table(result: Result) -> list[str]:
    rows = []
    for way, kind in (
        *((parts.LOCAL, kind) for kind in ("get", "put")),
        *((parts.FORWARDED, kind) for kind in ("get", "put")),
        (parts.REPLICATED, "put"),
    ):
        where = (parts.ASKED, parts.PRIMARY, parts.BACKUP, parts.TOGETHER)
        name = parts.cost_name(way, kind)
        rows.append((f"{kind.upper()}, {way}", *(_median(result.spread(f"{name}/{node}")) for node in where)))
    ratio = result.spread(f"{parts.EVERYBODY}/{parts.FORWARDED} by {parts.LOCAL}")
    return [
        *grid(("µs a request", "node asked", "primary", "each backup", "together"), rows),
        "",
        f"Every node asked alike, half PUT: a forwarded request takes {_with_spread(ratio)} times a local one's.",
    ]


def memory_table(result: Result) -> list[str]:
    rows = []
    befores = list(dict.fromkeys(parts.CHURN))
    for size in parts.SIZES:
        name = parts.memory_name(size)
        first = result.spread(f"{name}/first fill")
        shares = [_percent(result.spread(f"{name}/after {parts.in_words(before)}")) for before in befores]
        rows.append((parts.in_words(size), _median(first), *shares))
    table = grid(("value", "entries, first fill", *(f"after {parts.in_words(before)}" for before in befores)), rows)
    peak, least = result.spread(parts.PEAK), result.spread(parts.LEAST)
    if peak is None or least is None:
        return table
    return [
        *table,
        "",
        f"The least share is {least.median:.0%}; the highest peak of a process was {peak.high:.1f} MiB.",
    ]


def idle_table(result: Result) -> list[str]:
    rows = []
    for name, label in ((parts.IDLE_PROCESSOR, "processor time, ms a second"), (parts.IDLE_RESIDENT, "resident, MiB")):
        spread = result.spread(name)
        rows.append((label, *(_NONE if spread is None else _number(value) for value in spread or (0.0, 0.0, 0.0))))
    nodes = len(result.figures.get(parts.IDLE_PROCESSOR, {"rounds": {THIS: ()}})["rounds"].get(THIS, ()))
    return grid((f"each of {nodes} nodes", "least", "median", "most"), rows)


def against_table(result: Result) -> list[str]:
    """Every figure that both checkouts have."""
    rows = []
    for name, figure in result.figures.items():
        ratio = result.spread(name, f"{THIS} / {OTHER}")
        if ratio is not None and figure["better"] != NEITHER:
            mine, others = result.spread(name), result.spread(name, OTHER)
            rows.append((f"{name}, {figure['unit']}", _median(mine), _median(others), _with_spread(ratio)))
    return grid(("", THIS, OTHER, f"{THIS} / {OTHER}"), rows) if rows else []


def troubles_lines(result: Result) -> list[str]:
    """What was not answered as it should have been."""
    found = [
        f"- {name}, {subject}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items())
        for name, by_subject in result.troubles.items()
        for subject, counts in by_subject.items()
    ]
    return found or ["- nothing"]


TABLES: Final[dict[str, Callable[[Result], list[str]]]] = {
    "run": run_lines,
    "summary": summary_lines,
    "one-node": one_node_table,
    "clusters": clusters_table,
    "costs": costs_table,
    "memory": memory_table,
    "idle": idle_table,
    "against": against_table,
    "troubles": troubles_lines,
}


def text_of(result: Result) -> list[str]:
    """Everything, in lines, as far as it was measured."""
    lines: list[str] = []
    for name, table in TABLES.items():
        is_measured = name in ("run", "against", "troubles") or name in result.document["parts"]
        if is_measured and (found := table(result)):
            lines += [f"## {name}", "", *found, ""]
    return lines


def fill_in(text: str, result: Result) -> str:
    """A document with its places filled from the result. NoPlace."""
    found = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal found
        found += 1
        if match[2] not in TABLES:
            raise NoPlace(f"there is no table {match[2]!r}")
        return "\n".join((match[1], *TABLES[match[2]](result), "", match[3]))

    filled = _PLACE.sub(replaced, text)
    if not found:
        raise NoPlace("there is no place for a table")
    return filled
