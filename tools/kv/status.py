"""A node's status as a table for people."""

from collections.abc import Sequence
from typing import Any

TEXT_COLUMNS = ("address", "state")  # aligned to the left


def summary(status: dict[str, Any]) -> list[str]:
    """What people ask first, in lines: whether all is well, by the word of one node, and if not, what is missing."""
    return [_headline(status), *(f"  {sentence}" for sentence in sentences(status)), "(-v tells more)"]


def _headline(status: dict[str, Any]) -> str:
    if not status.get("epoch"):
        return f"no cluster yet, as {status.get('address', '?')} sees it"
    state = "whole" if status.get("whole") else "not whole"
    if not status.get("ready", True):
        state += ", and this node is not ready"
    parts = []
    if "servers" in status:
        parts.append(f"{status['servers_up']} of {status['servers']} servers")
    if "copies_wanted" in status:
        parts.append(_copies(status))
    if status.get("unserved"):
        parts.append(f"{status['unserved']} slots served by nobody")
    return f"{state}: {', '.join(parts)}" if parts else state


def _copies(status: dict[str, Any]) -> str:
    least, most, wanted = status["copies_least"], status["copies_most"], status["copies_wanted"]
    if least == most == wanted:
        return f"{wanted} {'copy' if wanted == 1 else 'copies'} each"
    return f"{least if least == most else f'{least} to {most}'} of {wanted} copies each"


def table(status: dict[str, Any]) -> list[str]:
    """The same, and all else that a node answered to STATUS, in lines; fields that it did not send are left out."""
    lines = [_headline(status), *(f"  {sentence}" for sentence in sentences(status)), ""]
    version = f", version {status['version']}" if "version" in status else ""
    lines.append(f"node {status.get('address', '?')}, incarnation {status.get('incarnation', '?')}{version}")
    if status.get("epoch"):
        member = "a member" if status.get("is_member") else "no member"
        lines.append(f"epoch {status['epoch']} of cluster {status.get('origin')}, coordinator {status['coordinator']}")
        lines.append(f"{member} of it, {_lease(status)}")
    if "reads" in status:
        lines.append(f"open here: {status['reads']} slots for reads, {status['writes']} for writes{_not_open(status)}")
        lines.append(f"copies in sync: {_copies(status)}, {status['copies_missing']} missing")
    if status.get("members"):
        lines += ["", *members_table(status)]
    return lines


def sentences(status: dict[str, Any]) -> list[str]:
    """Why the node is not ready, and what else keeps the cluster from being whole, in its own words."""
    return [str(sentence) for sentence in (*status.get("reasons", ()), *status.get("lacking", ()))]


def members(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of members and absent servers, by column."""
    columns = status.get("columns", [])
    return [dict(zip(columns, row, strict=False)) for row in status.get("members", [])]


def members_table(status: dict[str, Any]) -> list[str]:
    """The same for people, in lines."""
    lines = grid(status.get("columns", []), status.get("members", []))
    if status.get("cut"):
        lines.append("(not all absent servers fit the answer)")
    return lines


def _lease(status: dict[str, Any]) -> str:
    lease_s = status.get("lease_s")
    if lease_s is None:
        return "its lease without end"
    return f"its lease for {lease_s:.2f} s more" if lease_s > 0 else "without a lease: it serves nothing"


def _not_open(status: dict[str, Any]) -> str:
    closed = f", {status['closed']} of its own closed" if status["closed"] else ""
    unserved = f", {status['unserved']} served by nobody" if status["unserved"] else ""
    return closed + unserved


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str] = TEXT_COLUMNS) -> list[str]:
    """Columns with their names as a head, those of text aligned to the left; true and false as yes and nothing."""
    cells = [[column.upper() for column in columns]]
    cells += [["yes" if cell is True else "" if cell is False else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    lines = []
    for line in cells:
        words = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        lines.append("  ".join(words).rstrip())
    return lines
