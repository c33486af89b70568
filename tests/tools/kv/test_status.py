"""The status of a node as a table."""

from tools.kv.status import table

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
    "reasons": [],
    "lacking": [],
    "columns": ["address", "incarnation", "state", "leaving", "primary", "backup", "learner"],
    "members": [
        ["10.0.0.1:3331", 7, "alive", False, 128, 128, 0],
        ["kv2.example:3331", 12345, "suspect", True, 128, 128, 3],
        ["10.0.0.3:3331", 0, "absent", False, 0, 0, 0],
    ],
}


def test_a_member() -> None:
    assert table(STATUS) == [
        "node 10.0.0.1:3331, incarnation 7",
        "epoch 12 of cluster 5, coordinator 10.0.0.1:3331",
        "a member of it, its lease for 0.51 s more",
        "open here: 128 slots for reads, 127 for writes",
        "3 of 3 copies of each slot in sync",
        "ready, whole",
        "",
        "ADDRESS           INCARNATION  STATE    LEAVING  PRIMARY  BACKUP  LEARNER",
        "10.0.0.1:3331               7  alive                 128     128        0",
        "kv2.example:3331        12345  suspect      yes      128     128        3",
        "10.0.0.3:3331               0  absent                  0       0        0",
    ]


def test_what_else_can_be() -> None:
    changes: dict[str, object] = {"is_member": False, "lease_s": 0.0, "closed": 3, "unserved": 4, "cut": True}
    changes |= {"copies_least": 1, "copies_most": 2, "copies_missing": 9, "ready": False, "whole": False}
    lines = table({**STATUS, **changes, "reasons": ["no lease: why"], "lacking": ["10.0.0.3:3331: dead: start it"]})
    assert lines[2:8] == [
        "no member of it, without a lease: it serves nothing",
        "open here: 128 slots for reads, 127 for writes, 3 of its own closed, 4 served by nobody",
        "1 to 2 of 3 copies of each slot in sync, 9 missing",
        "not ready, not whole",
        "  no lease: why",
        "  10.0.0.3:3331: dead: start it",
    ]
    assert lines[-1] == "(not all absent servers fit the answer)"
    assert "a member of it, its lease without end" in table({**STATUS, "lease_s": None})


def test_a_node_that_knows_nothing_yet_or_another_kind_of_node() -> None:
    assert table({"address": "10.0.0.1:3331", "incarnation": 7, "epoch": 0, "members": []}) == [
        "node 10.0.0.1:3331, incarnation 7",
        "knows of no cluster yet",
    ]
    assert table({})[0].startswith("node ?")
