"""What is told of an error: by what the tool knows of the request, not in the protocol's names.

Where the node's answer, or its silence, leaves open what is wrong, the node is asked.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Final, NamedTuple

from app.client import (
    BadAnswer,
    BadServer,
    Client,
    ErrorAnswer,
    InternalError,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    KVError,
    NoSpace,
    Overloaded,
    Timeout,
    UnknownCommand,
    Unreachable,
)
from app.wire.protocol import ERROR_NAMES, KEY_MAX_BYTES, VALUE_MAX_BYTES
from tools import cli
from tools.kv.commands import READ_MAX_BYTES

# What asking a node about itself may take.
_TRIES_MS: Final = (150, 450)

# Carried out for administrators only; to others there is no answer at all.
_FOR_ADMINISTRATORS: Final = ("shutdown", "wipe", "found", "config", "add-server", "remove-server")


class Told(NamedTuple):
    """An error as it is told. `code`: the protocol's name, or what stands for it; `status`: the exit status."""

    status: int
    code: str
    text: str


def told(error: KVError, given: Namespace, servers: Sequence[str]) -> Told:
    """Of a command that was given. `servers`: those that were asked."""
    if isinstance(error, Timeout):
        return Told(cli.NO_ANSWER, "NO_ANSWER", silence(error, given.command, servers))
    if isinstance(error, BadServer):
        return Told(cli.USAGE, "BAD_SERVER", str(error))
    if isinstance(error, ErrorAnswer):
        return Told(cli.FAILED, ERROR_NAMES.get(error.code, str(error.code)), _refusal(error, given, servers))
    return Told(cli.FAILED, "BAD_ANSWER" if isinstance(error, BadAnswer) else type(error).__name__, str(error))


def silence(error: Timeout, command: str, servers: Sequence[str]) -> str:
    """Why there may be no answer."""
    if isinstance(error, Unreachable):
        return str(error)
    if command in _FOR_ADMINISTRATORS and _answers(servers):
        return f"{', '.join(servers)} answers, but not to this: is your address in its --admin-allow?"
    return f"{error}: no node there, or your address is not in its --allow"


def _refusal(error: ErrorAnswer, given: Namespace, servers: Sequence[str]) -> str:
    match error:
        case KeyNotFound():
            return f"no such key: {os.fsdecode(given.key)}"
        case InvalidKey():
            return f"the key has {len(given.key):,} bytes; 1 to {KEY_MAX_BYTES} is possible"
        case InvalidValue() if getattr(given, "value", None) is not None:
            count = f"more than {READ_MAX_BYTES:,}" if given.is_cut else f"{len(given.value):,}"
            return f"the value has {count} bytes; 0 to {VALUE_MAX_BYTES:,} is possible"
        case NoSpace():
            return "the store is full, and its policy is to evict nothing"
        case InternalError():
            return "a fault in the node; its log says which"
        case UnknownCommand():
            return f"the node does not know `{given.command}`: another version, or another kind of node"
        case Overloaded():
            return _why_refused(servers)
        case _:
            return str(error)


def _answers(servers: Sequence[str]) -> bool:
    with Client(servers, slot_aware=False, timeouts_ms=_TRIES_MS) as client:
        return client.is_alive()


def _why_refused(servers: Sequence[str]) -> str:
    """By the node's own word, if it has one."""
    more = "(`kv.py status` tells more)"
    try:
        with Client(servers, slot_aware=False, timeouts_ms=_TRIES_MS) as client:
            status = client.status()
    except KVError:
        status = {}
    reasons = status.get("reasons")
    if status.get("epoch") == 0:
        return f"the node knows of no cluster yet {more}"
    if isinstance(reasons, list) and reasons:
        return f"the node is not ready: {reasons[0]}"
    return f"the node is overloaded, or waits for others {more}"
