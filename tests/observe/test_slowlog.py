"""The slow log: what is kept of a request, the bounds, and how much fits an answer."""

import json
import socket
from math import inf
from typing import Any

import pytest

from app.observe.counters import FORWARDED, IN_TURN
from app.observe.slowlog import BATCH_MAX, COLUMNS, ENTRIES_MAX, SlowLog, show_address
from app.wire.protocol import GET, IS_ALIVE, PUT, VALUE_MAX_BYTES, slot_of
from tests.wire.datagrams import ack, envelope, request


def address(host: str, port: int) -> bytes:
    """The kernel's bytes of a socket address, as the front has them."""
    at = port.to_bytes(2, "big")
    if ":" in host:
        return b"\x0a\x00" + at + bytes(4) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)
    return b"\x02\x00" + at + socket.inet_aton(host) + bytes(8)


CLIENT = address("192.0.2.7", 40123)


def entries(log: SlowLog, max_bytes: int = VALUE_MAX_BYTES) -> list[dict[str, Any]]:
    told = json.loads(log.as_json(max_bytes))
    return [dict(zip(told["columns"], row, strict=True)) for row in told["entries"]]


def note(log: SlowLog, key: bytes, unix_s: float = 1.0) -> None:
    log.note(request(b"m" * 16, command=GET, key=key), CLIENT, 0.0123456, FORWARDED, unix_s=unix_s)


def test_an_entry_tells_what_was_slow_and_for_whom() -> None:
    log = SlowLog(0.01)
    note(log, b"key\n\xff", unix_s=1700000000.1239)
    assert entries(log) == [
        {
            "time": 1700000000.124,
            "command": "GET",
            "key": r"key\n\xff",
            "slot": slot_of(b"key\n\xff"),
            "duration_ms": 12.346,
            "how": "forwarded",
            "client": "192.0.2.7:40123",
            "shared_by": 1,
        }
    ]
    told = json.loads(log.as_json())
    assert (told["threshold_ms"], told["total"], told["cut"]) == (10.0, 1, False)
    assert tuple(told["columns"]) == COLUMNS


def test_off_says_so() -> None:
    told = json.loads(SlowLog().as_json())
    assert (told["threshold_ms"], told["entries"]) == (None, [])
    assert SlowLog().threshold_s == inf


def test_a_request_without_key_has_no_slot_and_an_unknown_command_is_told_as_such() -> None:
    log = SlowLog(0.0)
    log.note(request(b"m" * 16, command=IS_ALIVE), CLIENT, 1.0, IN_TURN, unix_s=1.0)
    log.note(request(b"m" * 16, command=99), CLIENT, 1.0, IN_TURN, unix_s=2.0)
    assert [(entry["command"], entry["key"], entry["slot"]) for entry in entries(log)] == [
        ("unknown", "", None),
        ("IS_ALIVE", "", None),
    ]


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\xff" * 20, ack(b"m" * 16), envelope(b"m" * 16, b"\x08\x02", flip=1), envelope(b"", b"\x08\x02")],
)
def test_what_is_no_request_is_ignored(datagram: bytes) -> None:
    log = SlowLog(0.0)
    log.note(datagram, CLIENT, 1.0, IN_TURN, unix_s=1.0)
    log.note_batch([(datagram, CLIENT)], lambda slot, command: True, 1.0, unix_s=1.0)
    assert log.total == len(log) == 0


def test_only_the_last_ones_are_kept_and_all_are_counted() -> None:
    log = SlowLog(0.0)
    for n in range(ENTRIES_MAX + 5):
        note(log, b"%d" % n)
    assert log.total == ENTRIES_MAX + 5
    assert [entry["key"] for entry in entries(log, 1 << 20)] == [str(n) for n in range(ENTRIES_MAX + 4, 4, -1)]


def test_one_long_batch_does_not_push_out_everything_else() -> None:
    log = SlowLog(0.0)
    note(log, b"before")
    batch = [(request(b"m" * 16, command=PUT, key=b"%d" % n, value=b"v"), CLIENT) for n in range(64)]
    log.note_batch(batch, lambda slot, command: True, 0.5, unix_s=2.0)
    assert log.total == 65
    assert len(log) == BATCH_MAX + 1
    assert {(entry["shared_by"], entry["how"]) for entry in entries(log)[:BATCH_MAX]} == {(64, "local")}


def test_of_a_batch_what_is_not_local_has_not_been_answered_yet() -> None:
    log = SlowLog(0.0)
    log.note_batch(
        [(request(b"m" * 16, command=GET, key=b"k"), CLIENT), (request(b"m" * 16, command=IS_ALIVE), CLIENT)],
        lambda slot, command: (slot, command) != (slot_of(b"k"), GET),
        0.5,
        unix_s=1.0,
    )
    assert [(entry["command"], entry["shared_by"]) for entry in entries(log)] == [("IS_ALIVE", 1)]


@pytest.mark.parametrize("max_bytes", [200, 201, 400, 1000, 5000, VALUE_MAX_BYTES])
def test_an_answer_fits_and_has_the_newest(max_bytes: int) -> None:
    log = SlowLog(0.0)
    for n in range(ENTRIES_MAX):
        note(log, bytes([n]) * 32)  # escaped, four bytes of text for each
    text = log.as_json(max_bytes)
    assert len(text) <= max_bytes
    told = json.loads(text)
    assert told["cut"] is True
    keys = [repr(bytes([n]) * 32)[2:-1] for n in reversed(range(ENTRIES_MAX))]
    assert [row[2] for row in told["entries"]] == keys[: len(told["entries"])]
    assert max_bytes - len(text) < 400, "another one would have fit"


@pytest.mark.parametrize(
    ("host", "shown"),
    [("192.0.2.7", "192.0.2.7:99"), ("2001:db8::1", "[2001:db8::1]:99"), ("::ffff:192.0.2.7", "192.0.2.7:99")],
)
def test_addresses(host: str, shown: str) -> None:
    assert show_address(address(host, 99)) == shown
