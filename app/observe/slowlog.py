"""The requests that took longest of late: a bounded ring, for the question "what was slow, and for whom?".

A request answered in the turn that received it leaves with the replies of its whole batch, so it took what the batch
took: the front looks at no clock for each request, and only when a batch was over the threshold are its requests
noted, with the number that shared the time. One long pause would so fill the ring with a single moment; hence at most
BATCH_MAX of a batch are kept, while all are counted.

Requests are parsed again when they are noted, and not before: what is fast pays nothing.
"""

import json
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple
from zlib import crc32

from app.observe.counters import IN_TURN
from app.wire.codec import DecodeError, parse_msg, parse_request
from app.wire.protocol import COMMAND_NAMES, TYPE_REQUEST, VALUE_MAX_BYTES, slot_of

# Requests kept: the last so many that were slow. About 300 bytes each.
ENTRIES_MAX: Final = 128
# Of one slow batch, so that a single pause does not push out all that was slow before.
BATCH_MAX: Final = 8

# What each of the rows that tools are told has, in this order.
COLUMNS: Final = ("time", "command", "key", "slot", "duration_ms", "how", "client", "shared_by")


class _Entry(NamedTuple):
    unix_s: float
    command: int
    key: bytes
    slot: int | None  # of a request without key: None
    duration_s: float
    how: str
    client: bytes  # socket address
    shared_by: int  # requests that took this time together

    def row(self) -> list[object]:
        """In the order of COLUMNS, fit for JSON."""
        return [
            round(self.unix_s, 3),
            COMMAND_NAMES.get(self.command, "unknown"),
            repr(self.key)[2:-1],  # escaped as in a Python literal
            self.slot,
            round(self.duration_s * 1000, 3),
            self.how,
            show_address(self.client),
            self.shared_by,
        ]


class SlowLog:
    """One node's. `threshold_s` is what callers compare with; infinite, nothing is ever slow."""

    def __init__(self, threshold_s: float = inf) -> None:
        self.threshold_s = threshold_s
        self.total = 0  # slow requests since the start
        self._entries: deque[_Entry] = deque(maxlen=ENTRIES_MAX)

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, datagram: bytes, client: bytes, duration_s: float, how: str, *, unix_s: float) -> None:
        """Keep a request that was slow by itself; what is no request is ignored. `client`: its socket address."""
        entry = _entry(datagram, client, duration_s, how, unix_s, 1)
        if entry is not None:
            self.total += 1
            self._entries.append(entry)

    def note_batch(
        self,
        requests: list[tuple[bytes, bytes]],
        is_local: Callable[[int, int], bool],
        duration_s: float,
        *,
        unix_s: float,
    ) -> None:
        """Count the requests (datagram, client) that were answered together after so long, and keep some of them.

        `is_local(slot, command)`: whether such a request was; others have not been answered yet.
        """
        found = [_entry(data, client, duration_s, IN_TURN, unix_s, 0) for data, client in requests]
        local = [
            entry
            for entry in found
            if entry is not None and (entry.slot is None or is_local(entry.slot, entry.command))
        ]
        self.total += len(local)
        self._entries.extend(entry._replace(shared_by=len(local)) for entry in local[:BATCH_MAX])

    def as_json(self, max_bytes: int = VALUE_MAX_BYTES) -> bytes:
        """An object with the entries, newest first, as many as fit into so many bytes."""
        head: dict[str, object] = {
            "threshold_ms": None if self.threshold_s == inf else self.threshold_s * 1000,
            "total": self.total,
            "columns": COLUMNS,
        }
        rows: list[bytes] = []
        left = max_bytes - len(_dump(head | {"cut": False, "entries": []}))
        for entry in reversed(self._entries):
            row = _dump(entry.row())
            left -= len(row) + 1
            if left < 0:
                break
            rows.append(row)
        text = _dump(head | {"cut": len(rows) < len(self._entries), "entries": []})
        return text[: -len(b"]}")] + b",".join(rows) + b"]}"


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _entry(datagram: bytes, client: bytes, duration_s: float, how: str, unix_s: float, shared_by: int) -> _Entry | None:
    try:
        msg = parse_msg(datagram)
        if msg.type != TYPE_REQUEST or not msg.messageID or crc32(msg.payload, crc32(msg.messageID)) != msg.checkSum:
            return None  # never was answered
        request = parse_request(msg.payload)
    except DecodeError:
        return None
    key = request.key
    slot = slot_of(key) if key else None
    return _Entry(unix_s, request.command, key[:64], slot, duration_s, how, client, shared_by)


def show_address(address: bytes) -> str:
    """ "host:port" of a kernel's socket address; an IPv4 address mapped into IPv6 as what it is."""
    port = int.from_bytes(address[2:4], "big")
    host = show_host(address[4:8] if len(address) <= 16 else address[8:24])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def show_host(host: bytes) -> str:
    """A numeric address of 4 or 16 bytes; an IPv4 address mapped into IPv6 as what it is."""
    if len(host) == 4:
        return socket.inet_ntop(socket.AF_INET, host)
    shown = socket.inet_ntop(socket.AF_INET6, host)
    mapped = shown.removeprefix("::ffff:")
    return mapped if "." in mapped and mapped != shown else shown
