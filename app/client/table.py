"""What a node's STATUS answer tells a client: who it is, and which member is each slot's primary."""

from math import isfinite
from typing import Any, NamedTuple

from app.client.errors import BadAnswer
from app.wire.protocol import PLACE_DIGITS, PLACE_NOBODY, SLOT_COUNT


class Table(NamedTuple):
    """One node's word. Addresses are those of the servers file, which may mean nothing where the client is."""

    address: str  # of the node that answered
    is_member: bool
    origin: int  # names the cluster
    epoch: int
    primaries: tuple[str, ...]  # by slot; empty where nobody is up to serve it
    servers: frozenset[str]  # of its servers file, as far as they fit into the answer


def read_status(value: bytes) -> Table | None:
    """The table in a STATUS answer; None when it has none: another kind of node, or one that knows of no view yet."""
    try:
        return table_of(read_object(value, "status"))
    except BadAnswer:
        return None


def read_object(value: bytes, what: str) -> dict[str, Any]:
    """The JSON object in an answer to the command `what`. BadAnswer when it is anything else."""
    import json  # not above: a GET and a PUT do without

    try:
        # Strictly: Python would also take other encodings, lone surrogates, and numbers that are none, and could then
        # not write it as JSON again.
        told = json.loads(value.decode(), parse_float=_finite, parse_constant=_finite)
        if b"\\u" in value:
            json.dumps(told, ensure_ascii=False).encode()
    except ValueError:
        raise BadAnswer(f"{what}: not JSON") from None
    except RecursionError:
        raise BadAnswer(f"{what}: JSON nested too deeply") from None
    if not isinstance(told, dict):
        raise BadAnswer(f"{what}: not an object")
    return told


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no number in JSON")
    return number


def table_of(status: dict[str, Any]) -> Table | None:
    """As `read_status`, of what was in the JSON."""
    try:
        column = status["columns"].index("address")
        listed = [row[column] for row in status["members"]]
        place = dict(zip(PLACE_DIGITS, listed, strict=False)) | {PLACE_NOBODY: ""}
        primaries = tuple(place[digit] for digit in status["primaries"])
        table = Table(
            status["address"], status["is_member"], status["origin"], status["epoch"], primaries, frozenset(listed)
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None
    strings = (table.address, *table.primaries, *table.servers)
    numbers = (table.origin, table.epoch)
    if len(primaries) != SLOT_COUNT or not all(isinstance(text, str) for text in strings):
        return None
    return table if all(isinstance(number, int) for number in numbers) else None
