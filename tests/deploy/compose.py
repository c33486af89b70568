"""Reads a compose file as `docker compose` does: with the values of variables put in."""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from tests.support.nodes import REPOSITORY

FILES: Final = ("compose.yaml", "compose-3.yaml")


class Unset(Exception):
    """A variable that the file insists on is not set; with its message."""


def text(name: str) -> str:
    return (REPOSITORY / "deploy" / name).read_text()


def read(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """The file, with these variables of the environment. Unset."""
    whole: dict[str, Any] = _filled(yaml.safe_load(text(name)), variables)
    return whole


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, variables) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, how, rest = match.groups()
        if given := variables.get(name):
            return given
        if how == ":?":
            raise Unset(f"{name}: {rest}")
        return str(rest)

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", fill, value)
