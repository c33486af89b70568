"""kv.py servers: who belongs, by everybody's word."""

import json
from typing import Any

import pytest

from tests.client.peer import Peer
from tests.tools.kv.test_main import status_of
from tools.kv import __main__ as kv
from tools.kv.cluster import Survey
from tools.kv.servers import Told, founders_of, lines, told

COLUMNS = ["address", "state"]


def answer(*rows: tuple[str, str], absent_s: list[Any] | None = None) -> dict[str, Any]:
    return {"columns": COLUMNS, "members": [list(row) for row in rows]} | ({"absent_s": absent_s} if absent_s else {})


def test_each_server_is_told_with_how_many_know_it() -> None:
    survey = Survey(
        {
            "a:1": answer(("a:1", "alive"), ("b:1", "alive"), ("c:1", "absent"), absent_s=[12.34]),
            "b:1": answer(
                ("a:1", "suspect"), ("b:1", "alive"), ("c:1", "absent"), ("d:1", "absent"), absent_s=[3.0, None]
            ),
        }
    )
    found = told(survey)
    assert found == {
        "a:1": Told("alive", 2),
        "b:1": Told("alive", 2),
        "c:1": Told("absent", 2, 3.0),
        "d:1": Told("absent", 1, None),
    }
    assert lines(found, 2) == [
        "SERVER  STATE   KNOWN TO   SILENT FOR",
        "a:1     alive     2 of 2",
        "b:1     alive     2 of 2",
        "c:1     absent    2 of 2        3.0 s",
        "d:1     absent    1 of 2  never heard",
    ]


def test_founders_are_told_once_views_list_who_belongs() -> None:
    """One of the three was removed: it counts all the same."""
    rows = (("a:1", "alive"), ("b:1", "absent"), ("d:1", "alive"))
    survey = Survey({"a:1": answer(*rows) | {"founders": "AB."}, "d:1": answer(*rows) | {"founders": "AB."}})
    found = told(survey)
    assert [one.is_founder for one in found.values()] == [True, True, False]
    assert lines(found, 2, founders_of(survey)) == [
        "SERVER  STATE   FOUNDER  KNOWN TO   SILENT FOR",
        "a:1     alive       yes    2 of 2",
        "b:1     absent      yes    2 of 2  never heard",
        "d:1     alive              2 of 2",
        "1 of 3 founders is up; half of them must be, for the cluster to go on",
    ]


def test_one_that_anybody_has_in_its_view_is_not_absent() -> None:
    survey = Survey({"a:1": answer(("b:1", "absent"), absent_s=[1]), "b:1": answer(("b:1", "alive"))})
    assert told(survey)["b:1"].state == "alive"


def test_a_node_of_the_last_release_does_not_say_for_how_long() -> None:
    assert told(Survey({"a:1": answer(("c:1", "absent"))})) == {"c:1": Told("absent", 1, None)}


def test_whether_all_know_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as one, Peer() as other:
        for peer in (one, other):
            peer.status = status_of(one, other, address=peer.name)
        assert kv.main(["-s", one.name, "servers"]) == 0
        assert capsys.readouterr().out.count("2 of 2") == 2
        other.status = status_of(other, address=other.name)
        assert kv.main(["-s", one.name, "servers"]) == 1
        captured = capsys.readouterr()
        told = f"{one.name} is no server to {other.name}: compare the servers files, then kill -HUP"
        assert captured.err == f"kv.py: {told}\n"
        assert kv.main(["-s", one.name, "--json", "servers"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert said["asked"] == 2
        assert [(row["server"], row["known_to"]) for row in said["servers"]] == [(one.name, 1), (other.name, 2)]
        gone = other.name
    assert kv.main(["-s", gone, "servers"]) == 3
