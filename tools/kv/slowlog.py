"""A node's slow requests as a table for people."""

import time
from typing import Any

from tools.kv.status import grid


def table(slow: dict[str, Any]) -> list[str]:
    """What a node answered to SLOWLOG, in lines; times are this machine's local ones."""
    threshold_ms = slow.get("threshold_ms")
    if threshold_ms is None:
        return ["the node keeps no slow requests: say `kv.py config set slow-ms 20`, or start it with --slow-ms"]
    lines = [f"{slow.get('total', 0)} requests took {threshold_ms:g} ms or more since the node started"]
    columns, rows = slow.get("columns", []), slow.get("entries", [])
    if rows:
        at = columns.index("time")
        shown = [[_clock(cell) if n == at else "" if cell is None else cell for n, cell in enumerate(r)] for r in rows]
        lines += ["", *grid(columns, shown, left=("time", "command", "key", "how", "client"))]
    if slow.get("cut"):
        lines.append("(older ones did not fit the answer; /slowlog over HTTP has them all)")
    return lines


def _clock(unix_s: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(unix_s)) + f".{int(unix_s * 1000) % 1000:03d}"
