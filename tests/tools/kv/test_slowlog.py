"""The table of slow requests."""

import pytest

from tools.kv.slowlog import table

SLOW = {
    "threshold_ms": 5.0,
    "total": 7,
    "columns": ["time", "command", "key", "slot", "duration_ms", "how", "client", "shared_by"],
    "cut": False,
    "entries": [
        [1700000001.5, "PUT", r"a\n", 14, 12.5, "local", "192.0.2.7:40123", 3],
        [1700000000.25, "IS_ALIVE", "", None, 5.125, "local", "192.0.2.8:1", 1],
    ],
}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_a_table_for_people() -> None:
    assert table(SLOW) == [
        "7 requests took 5 ms or more since the node started",
        "",
        "TIME                COMMAND   KEY  SLOT  DURATION_MS  HOW    CLIENT           SHARED_BY",
        r"11-14 22:13:21.500  PUT       a\n    14         12.5  local  192.0.2.7:40123          3",
        "11-14 22:13:20.250  IS_ALIVE                   5.125  local  192.0.2.8:1              1",
    ]


def test_what_is_left_out_is_said() -> None:
    assert table({**SLOW, "cut": True})[-1] == "(older ones did not fit the answer; /slowlog over HTTP has them all)"
    assert table({**SLOW, "entries": []}) == ["7 requests took 5 ms or more since the node started"]


def test_off() -> None:
    (line,) = table({"threshold_ms": None})
    assert line == "the node keeps no slow requests: say `kv.py config set slow-ms 20`, or start it with --slow-ms"
