"""The status of a node, in short and in full."""

import pytest

from tools.kv.status import summary, table

STATUS = {
    "address": "10.0.0.1:3331",
    "incarnation": 7,
    "origin": 5,
    "epoch": 12,
    "is_member": True,
    "coordinator": "10.0.0.1:3331",
    "lease_s": 0.512,
    "blocked": 0,
    "balanced": True,
    "ready": True,
    "whole": True,
    "reads": 128,
    "writes": 127,
    "closed": 0,
    "unserved": 0,
    "copies_wanted": 3,
    "copies_least": 3,
    "copies_most": 3,
    "copies_missing": 0,
    "servers": 3,
    "servers_up": 2,
    "reasons": [],
    "lacking": [],
    "columns": ["address", "incarnation", "state", "leaving", "primary", "backup", "learner"],
    "members": [
        ["10.0.0.1:3331", 7, "alive", False, 128, 128, 0],
        ["kv2.example:3331", 12345, "suspect", True, 128, 128, 3],
        ["10.0.0.3:3331", 0, "absent", False, 0, 0, 0],
    ],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"servers_up": 3}, ["whole: 3 of 3 servers, 3 copies each"]),
        ({"copies_wanted": 1, "copies_least": 1, "copies_most": 1}, ["whole: 2 of 3 servers, 1 copy each"]),
        (
            {"whole": False, "copies_least": 2, "lacking": ["a:1 is down: check it"]},
            ["not whole: 2 of 3 servers, 2 to 3 of 3 copies each", "  a:1 is down: check it"],
        ),
        (
            {"whole": False, "ready": False, "copies_least": 2, "copies_most": 2, "reasons": ["no lease: x"]},
            ["not whole, and this node is not ready: 2 of 3 servers, 2 of 3 copies each", "  no lease: x"],
        ),
        (
            {"whole": False, "unserved": 7},
            ["not whole: 2 of 3 servers, 3 copies each, 7 slots served by nobody"],
        ),
    ],
)
def test_what_people_ask_comes_first(changes: dict[str, object], told: list[str]) -> None:
    status = STATUS | changes
    assert summary(status) == [*told, "(-v tells more)"]
    assert table(status)[: len(told)] == told


def test_a_member() -> None:
    assert table(STATUS) == [
        "whole: 2 of 3 servers, 3 copies each",
        "",
        "node 10.0.0.1:3331, incarnation 7",
        "epoch 12 of cluster 5, coordinator 10.0.0.1:3331",
        "a member of it, its lease for 0.51 s more",
        "open here: 128 slots for reads, 127 for writes",
        "copies in sync: 3 copies each, 0 missing",
        "",
        "ADDRESS           INCARNATION  STATE    LEAVING  PRIMARY  BACKUP  LEARNER",
        "10.0.0.1:3331               7  alive                 128     128        0",
        "kv2.example:3331        12345  suspect      yes      128     128        3",
        "10.0.0.3:3331               0  absent                  0       0        0",
    ]


def test_what_else_can_be() -> None:
    changes: dict[str, object] = {"is_member": False, "lease_s": 0.0, "closed": 3, "unserved": 4, "cut": True}
    changes |= {"copies_least": 1, "copies_most": 2, "copies_missing": 9, "ready": False, "whole": False}
    lines = table({**STATUS, **changes})
    assert lines[4:7] == [
        "no member of it, without a lease: it serves nothing",
        "open here: 128 slots for reads, 127 for writes, 3 of its own closed, 4 served by nobody",
        "copies in sync: 1 to 2 of 3 copies each, 9 missing",
    ]
    assert lines[-1] == "(not all absent servers fit the answer)"
    assert "a member of it, its lease without end" in table({**STATUS, "lease_s": None})


def test_a_node_that_knows_nothing_yet_or_another_kind_of_node() -> None:
    assert table({"address": "10.0.0.1:3331", "incarnation": 7, "epoch": 0, "members": []}) == [
        "no cluster yet, as 10.0.0.1:3331 sees it",
        "",
        "node 10.0.0.1:3331, incarnation 7",
    ]
    assert summary({"epoch": 3}) == ["not whole", "(-v tells more)"]
    assert table({})[0] == "no cluster yet, as ? sees it"
