"""The golden vectors, as they go over the wire."""

import json
from pathlib import Path
from typing import Final, NamedTuple

_FILE: Final = Path(__file__).parent.parent / "vectors.json"


class Exchange(NamedTuple):
    """One request and the bytes that answer it, None where nothing does."""

    name: str
    request: bytes
    response: bytes | None


MESSAGE_ID: Final = bytes(range(16))  # of every vector: a test acks it where the reply is remembered


def exchanges() -> list[Exchange]:
    """All of them, in the order in which an empty node takes them."""
    return [
        Exchange(row["name"], bytes.fromhex(row["request"]), row["response"] and bytes.fromhex(row["response"]))
        for row in json.loads(_FILE.read_text())["vectors"]
    ]


# What the vector "get of an empty value stored without version" finds.
EMPTY_KEY: Final = b"empty"
