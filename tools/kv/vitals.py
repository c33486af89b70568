"""What nodes count of themselves, as people ask for it: memory, entries, hit rate, operations a second.

A node counts since its start; rates are the difference of two looks. An operation (GET, PUT, REMOVE) counts where it
is executed, its slot's primary, so the members' figures add up to the cluster's.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from app.client import BadAnswer, Client
from tools import cli
from tools.kv.cluster import Fleet, Survey
from tools.kv.status import grid

OPERATIONS: Final = ("GET", "PUT", "REMOVE")

ALL: Final = "all"  # in place of an address, in the row that is the sum

_COUNTED: Final = ("entries", "evictions", "hits", "misses", "overloads", "dropped")

Row = dict[str, Any]
_Show = Callable[[Any], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """ "3 d 4 h", "12 min", "7 s": the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def _share(value: float) -> str:
    return f"{value:.1%}"


class Column(NamedTuple):
    name: str  # in a row
    show: _Show


# What a table has, by heading, and members can be sorted by.
COLUMNS: Final[Mapping[str, Column]] = {
    "ops/s": Column("ops_per_s", _count),
    "get/s": Column("get_per_s", _count),
    "put/s": Column("put_per_s", _count),
    "remove/s": Column("remove_per_s", _count),
    "hits": Column("hit_rate", _share),
    "memory": Column("memory_bytes", size),
    "entries": Column("entries", _count),
    "evicted": Column("evictions", _count),
    "refused": Column("overloads", _count),
    "dropped": Column("dropped", _count),
    "up": Column("uptime_s", duration),
}


@dataclass(slots=True)
class Look:
    """What all said at one moment."""

    at_s: float  # monotonic
    survey: Survey = field(default_factory=Survey)


def sound(answer: dict[str, Any]) -> dict[str, Any]:
    """A VITALS answer, if what is looked at below is as it should be. BadAnswer if not."""
    numbers = [answer.get(name) for name in ("resident_bytes", "max_memory_bytes")]
    commands = answer.get("commands", {})
    numbers += [answer.get(name, 0) for name in (*_COUNTED, "uptime_s")]
    numbers += list(commands.values()) if isinstance(commands, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise BadAnswer("vitals: the answer is not of the form that this program knows")
    return answer


def rows(before: Look, after: Look) -> list[Row]:
    """One for each node that answered both times, and what they come to between them, if they are several."""
    took_s = after.at_s - before.at_s
    made = []
    for name, now in after.survey.answers.items():
        then = before.survey.answers.get(name)
        if then is None or then.get("pid") != now.get("pid"):  # another process by now
            then = now
        made.append(_row(name, then, now, took_s))
    if len(made) > 1:
        made.append(_sum(made))
    return made


def _row(name: str, then: Row, now: Row, took_s: float) -> Row:
    def rate(command: str) -> float:
        gained = now.get("commands", {}).get(command, 0) - then.get("commands", {}).get(command, 0)
        return max(gained, 0) / took_s if took_s > 0 else 0.0

    rates = {f"{command.lower()}_per_s": rate(command) for command in OPERATIONS}
    rates["ops_per_s"] = sum(rates.values())
    row: Row = {"address": name, "pid": now.get("pid")}
    row |= {"version": now.get("version"), "python": now.get("python")}
    row |= {name: round(value, 1) for name, value in rates.items()}
    row |= {"memory_bytes": now["resident_bytes"], "memory_max_bytes": now["max_memory_bytes"]}
    row |= {name: now.get(name, 0) for name in (*_COUNTED, "uptime_s")} | {"commands": now.get("commands", {})}
    return row | {"hit_rate": _hit_rate(row)}


def _hit_rate(row: Row) -> float | None:
    reads = row["hits"] + row["misses"]
    return round(row["hits"] / reads, 4) if reads else None


def _sum(parts: Sequence[Row]) -> Row:
    rates = [f"{command.lower()}_per_s" for command in OPERATIONS]
    summed = ("ops_per_s", *rates, "memory_bytes", "memory_max_bytes", *_COUNTED)
    total: Row = {"address": ALL} | {name: round(sum(part[name] for part in parts), 1) for name in summed}
    commands: dict[str, int] = {}
    for part in parts:
        for command, count in part["commands"].items():
            commands[command] = commands.get(command, 0) + count
    return total | {
        "uptime_s": min(part["uptime_s"] for part in parts),
        "commands": commands,
        "hit_rate": _hit_rate(total),
    }


def table(found: Sequence[Row], sort_by: str) -> list[str]:
    """Members in lines, those with the most first, and their sum. `sort_by`: a heading."""
    name = COLUMNS[sort_by].name
    members = [row for row in found if row["address"] != ALL]
    members.sort(key=lambda row: -1 if row[name] is None else row[name], reverse=True)
    shown = [*members, *(row for row in found if row["address"] == ALL)]
    cells = [
        [row["address"], *("" if row[name] is None else show(row[name]) for name, show in COLUMNS.values())]
        for row in shown
    ]
    return grid(("member", *COLUMNS), cells, left=("member",))


def page(row: Row) -> list[str]:
    """One node in lines, or the sum of all."""
    commands = "  ".join(f"{name} {count:,}" for name, count in row["commands"].items()) or "none"
    reads = row["hits"] + row["misses"]
    about = [f"up {duration(row['uptime_s'])}"]
    about += [f"pid {row['pid']}"] if row.get("pid") is not None else []
    about += [f"version {row['version']}"] if row.get("version") else []
    about += [f"Python {row['python']}"] if row.get("python") else []
    copies = " (each copy counts)" if row["address"] == ALL else ""
    rates = ", ".join(f"{row[f'{name.lower()}_per_s']:,.0f} {name}" for name in OPERATIONS)
    return [
        f"{row['address']}: {', '.join(about)}",
        f"memory    {size(row['memory_bytes'])} of {size(row['memory_max_bytes'])}",
        f"entries   {row['entries']:,}{copies}, {row['evictions']:,} evicted",
        f"reads     {_share(row['hit_rate']) + f' of {reads:,} found' if reads else 'none yet'}",
        f"rate      {row['ops_per_s']:,.0f} operations/s: {rates}",
        f"answered  {commands}",
        f"refused   {row['overloads']:,}, {row['dropped']:,} datagrams dropped",
    ]


def looks(ask: Callable[[], Survey], interval_s: float) -> Iterator[tuple[Look, Look]]:
    """Pairs of looks, so many seconds apart, on and on; the first one is of now and a moment later."""
    before = Look(time.monotonic(), ask())
    while True:
        time.sleep(interval_s)
        after = Look(time.monotonic(), ask())
        yield before, after
        before = after


def run_info(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    with Fleet([server.name for server in client.servers], not given.all, given.timeout) as fleet:
        before = Look(time.monotonic(), _vitals_of(fleet, fleet.members()))
        answering = before.survey.answers
        if answering:
            time.sleep(given.interval)
        after = Look(time.monotonic(), _vitals_of(fleet, answering))  # a silent one is waited for once
    faults = before.survey.faults | after.survey.faults
    for fault in faults.values():
        cli.complain("kv.py", fault)
    found = rows(before, after)
    if given.json:
        cli.print_json({"nodes": found, "faults": faults})
    elif given.all and found:
        cli.say(*table(found, "ops/s"))
        if len(found) > 1:
            cli.say("", *page(found[-1]))
    else:
        cli.say(*(line for row in found if row["address"] != ALL for line in page(row)))
    return cli.OK if not faults else cli.NO_ANSWER if not found else cli.FAILED


def run_top(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    with Fleet([server.name for server in client.servers], given.given_only, given.timeout) as fleet:
        turns = looks(lambda: _vitals_of(fleet, fleet.members()), given.interval)
        with suppress(KeyboardInterrupt):  # the way to end it
            for before, after in islice(turns, given.count):
                found = rows(before, after)
                if given.json:
                    cli.print_json({"nodes": found, "faults": after.survey.faults}, is_line=True)
                    continue
                head = f"{time.strftime('%H:%M:%S')}  every {given.interval:g} s, by {given.sort}; Ctrl-C ends it"
                cli.show_page([head, "", *table(found, given.sort), *after.survey.faults.values()])
    return cli.OK


def _vitals_of(fleet: Fleet, names: Iterable[str]) -> Survey:
    return fleet.ask_each(names, lambda client: sound(client.vitals()))
