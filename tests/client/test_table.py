"""What a client reads out of STATUS."""

import json
from typing import Any

import pytest

from app.client.errors import BadAnswer
from app.client.table import read_object, read_status
from app.wire.protocol import PLACE_DIGITS, SLOT_COUNT

STATUS: dict[str, Any] = {
    "address": "b:1",
    "is_member": True,
    "origin": 5,
    "epoch": 12,
    "primaries": "A" * 100 + "B" * 100 + "." * 56,
    "columns": ["incarnation", "address"],
    "members": [[7, "a:1"], [8, "b:1"], [0, "absent:1"]],
}


def read(**changes: object) -> Any:
    return read_status(json.dumps(STATUS | changes).encode())


def test_the_table() -> None:
    table = read()
    assert (table.address, table.is_member, table.origin, table.epoch) == ("b:1", True, 5, 12)
    assert table.primaries == ("a:1",) * 100 + ("b:1",) * 100 + ("",) * 56
    assert table.servers == {"a:1", "b:1", "absent:1"}


def test_the_largest_cluster() -> None:
    members = [[n, f"{n}:1"] for n in range(70)]
    table = read(members=members, primaries=PLACE_DIGITS * 4)
    assert table.primaries == tuple(f"{n}:1" for n in range(64)) * 4
    assert len(table.servers) == 70


@pytest.mark.parametrize(
    "changes",
    [
        {"primaries": ""},
        {"primaries": "A" * (SLOT_COUNT - 1)},
        {"primaries": "A" * (SLOT_COUNT + 1)},
        {"primaries": "A" * (SLOT_COUNT - 1) + "D"},  # no such row
        {"primaries": "A" * (SLOT_COUNT - 1) + "?"},
        {"primaries": 7},
        {"columns": ["incarnation"]},
        {"columns": None},
        {"members": [[7]]},
        {"members": 7},
        {"members": [[7, None], [8, "b:1"]]},
        {"address": 7},
        {"epoch": "x"},
        {"origin": None},
    ],
)
def test_what_is_no_table(changes: dict[str, object]) -> None:
    assert read(**changes) is None


DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b"7", b"{}", b'{"epoch":1}', b"\xff\xfe", b"7" * 5000, DEEP, b'{"members":' + DEEP + b"}"],
)
def test_another_kind_of_answer(value: bytes) -> None:
    assert read_status(value) is None


def test_json_that_could_not_be_written_again_is_none() -> None:
    assert read_object(b'{"a": "\\u00e9"}', "status") == {"a": "é"}
    with pytest.raises(BadAnswer, match="not JSON"):
        read_object(b'{"a": "\\ud800"}', "status")
