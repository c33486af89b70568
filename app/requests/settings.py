"""What an administrator may change while the node runs: what it logs, and what it takes for slow.

Neither concerns what is stored, nor what other nodes count on. A change lasts as long as the process: the next one
starts with its options. A value is written, read and refused as the option of the same name.
"""

import json
from collections.abc import Callable
from math import inf
from typing import Any, Final

from app.config.options import settings
from app.observe import logs
from app.observe.slowlog import SlowLog

CHANGEABLE: Final = ("log_level", "slow_ms")

_SHOWN_MAX_CHARS: Final = 80  # of what was wanted, in an answer

_log = logs.logger("node")

_parsers: Final[dict[str, Callable[[str], Any]]] = {
    name: setting.parse for name, setting in settings() if name in CHANGEABLE
}
assert _parsers.keys() == set(CHANGEABLE)


class Settings:
    """One node's."""

    def __init__(self, slow_log: SlowLog) -> None:
        self._slow_log = slow_log

    def change(self, wanted: bytes) -> bytes:
        """Set what `wanted` names, all of it or nothing; all settings by now, and `why_not` (empty: it was done): JSON.

        `wanted`: a JSON object of texts by name, with any white space; blank or zero bytes: none is to be changed.
        """
        try:
            changes = _read(wanted)
            why_not = ""
        except ValueError as error:
            changes, why_not = {}, str(error)
        if changes:
            self._set({**self._current(), **changes})
        return json.dumps({**self._current(), "why_not": why_not}).encode()

    def _current(self) -> dict[str, Any]:
        threshold_s = self._slow_log.threshold_s
        return {"log_level": logs.level(), "slow_ms": 0 if threshold_s == inf else round(threshold_s * 1000)}

    def _set(self, values: dict[str, Any]) -> None:
        _log.warning("configured", **values)  # before, since the level may be above it afterwards
        logs.set_level(values["log_level"])
        self._slow_log.threshold_s = values["slow_ms"] / 1000 or inf


def _read(wanted: bytes) -> dict[str, Any]:
    """The values by name. ValueError, with what is wrong."""
    text = wanted.strip(b"\0 \t\r\n")
    if not text:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("not an object of texts")
    values = {}
    for name, value in said.items():
        if name not in _parsers:
            raise ValueError(f"{_shown(name)} can't be changed while a node runs; {' and '.join(CHANGEABLE)} can")
        try:
            values[name] = _parsers[name](value)
        except ValueError as error:
            raise ValueError(f"{name}: '{_shown(value)}' {error}") from None
    return values


def _shown(text: str) -> str:
    """As an answer has it, which takes up to 12 bytes for a character."""
    return text if len(text) <= _SHOWN_MAX_CHARS else text[:_SHOWN_MAX_CHARS] + "..."
