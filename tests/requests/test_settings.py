"""Settings that change while a node runs: read like options, all or nothing, and told."""

import json
import logging
from collections.abc import Iterator
from math import inf

import pytest

from app.observe.slowlog import SlowLog
from app.requests.settings import Settings
from app.wire.protocol import VALUE_MAX_BYTES


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


def change(settings: Settings, wanted: object) -> dict[str, object]:
    told: dict[str, object] = json.loads(settings.change(json.dumps(wanted).encode()))
    return told


def test_they_are_told_changed_and_told_again() -> None:
    slow_log = SlowLog()
    settings = Settings(slow_log)
    for blank in (b"", b" \n", bytes(5000), b"{}"):
        assert json.loads(settings.change(blank)) == {"log_level": "info", "slow_ms": 0, "why_not": ""}
    assert change(settings, {"log_level": "debug", "slow_ms": "20"}) == {
        "log_level": "debug",
        "slow_ms": 20,
        "why_not": "",
    }
    assert (slow_log.threshold_s, logging.getLogger().level) == (0.02, logging.DEBUG)
    assert change(settings, {"slow_ms": "60000"})["slow_ms"] == 60_000
    assert change(settings, {"slow_ms": "0"})["slow_ms"] == 0
    assert (slow_log.threshold_s, logging.getLogger().level) == (inf, logging.DEBUG)


@pytest.mark.parametrize(
    ("wanted", "why_not"),
    [
        (b"{", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"7", "not an object of texts"),
        (b'{"slow_ms": 7}', "not an object of texts"),
        (b'{"policy": "noeviction"}', "policy can't be changed while a node runs; log_level and slow_ms can"),
        (b'{"slow_ms": "soon"}', "slow_ms: 'soon' isn't a number of milliseconds from 0 to 60000"),
        (b'{"slow_ms": "7", "log_level": "loud"}', "log_level: 'loud' isn't one of debug, info, warning, error"),
    ],
)
def test_what_can_not_be_changes_nothing(wanted: bytes, why_not: str) -> None:
    slow_log = SlowLog()
    told = json.loads(Settings(slow_log).change(wanted))
    assert told == {"log_level": "info", "slow_ms": 0, "why_not": why_not}
    assert slow_log.threshold_s == inf


@pytest.mark.parametrize("char", ["x", "\u00e9", "\U0001f600"])
@pytest.mark.parametrize("wanted", [{"": "7"}, {"slow_ms": ""}])
def test_an_answer_fits_a_datagram_whatever_was_wanted(wanted: dict[str, str], char: str) -> None:
    filled = {name or char * 2400: value or char * 2400 for name, value in wanted.items()}
    answer = Settings(SlowLog()).change(json.dumps(filled, ensure_ascii=False).encode())
    assert len(answer) <= VALUE_MAX_BYTES
    assert char * 80 + "..." in json.loads(answer)["why_not"]


@pytest.mark.parametrize(("length", "end"), [(79, "x' isn't"), (80, "x' isn't"), (81, "x...' isn't")])
def test_what_is_long_is_cut_off(length: int, end: str) -> None:
    why_not = json.loads(Settings(SlowLog()).change(json.dumps({"slow_ms": "x" * length}).encode()))["why_not"]
    assert why_not.startswith(f"slow_ms: '{'x' * (min(length, 80) - 1)}{end}")


def test_a_change_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(SlowLog())
    settings.change(b"")
    assert caplog.records == []
    change(settings, {"log_level": "error"})
    (record,) = caplog.records
    assert (record.msg, record.fields) == ("node.configured", {"log_level": "error", "slow_ms": 0})  # type: ignore[attr-defined]
