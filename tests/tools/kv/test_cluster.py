"""kv.py with whole clusters: when one is ready, and that wiping reaches every member."""

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from app.wire.protocol import INTERNAL_ERR, WIPEOUT
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer
from tests.tools.kv.test_main import status_of
from tools.kv import __main__ as kv
from tools.kv.cluster import Survey, faults

Captured = pytest.CaptureFixture[str]

WHOLE: dict[str, Any] = {
    "address": "a:1",
    "origin": 1,
    "epoch": 3,
    "ready": True,
    "whole": True,
    "reads": 128,
    "writes": 128,
    "copies_wanted": 2,
    "reasons": [],
    "lacking": [],
    "columns": ["address", "state", "leaving"],
    "members": [["a:1", "alive", False], ["b:1", "alive", False], ["c:1", "absent", False]],
}
OTHER = WHOLE | {"address": "b:1"}


def test_a_whole_cluster_has_no_faults() -> None:
    assert faults(Survey({"a:1": WHOLE, "b:1": OTHER}), 2) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"whole": False, "reasons": ["no lease: x"], "lacking": ["y", "z"]}, ["no lease: x", "y", "z"]),
        ({"whole": False}, ["is not whole, and has no room to say why"]),
    ],
)
def test_what_keeps_a_cluster_from_being_whole_a_node_says_itself(changes: dict[str, Any], told: list[str]) -> None:
    assert faults(Survey({"a:1": WHOLE | changes, "b:1": OTHER}), 1) == [f"a:1: {sentence}" for sentence in told]


def test_a_node_that_says_nothing_of_it_is_not_taken_for_ready() -> None:
    before = {field: value for field, value in WHOLE.items() if field not in ("ready", "whole", "reasons", "lacking")}
    (fault,) = faults(Survey({"a:1": before | {"balanced": True, "copies_missing": 0}}), 1)
    assert fault.startswith("a:1: does not say whether it is ready")


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_all_slots_must_be_open_between_them(what: str) -> None:
    survey = Survey({"a:1": WHOLE, "b:1": OTHER | {what: 127}})
    assert faults(survey, 1) == [f"255 of 256 slots open for {what}"]
    del survey.answers["a:1"]
    assert faults(survey, 1) == [], "only b was asked"
    assert faults(Survey({"a:1": WHOLE, "127.0.0.1:1": WHOLE, "b:1": OTHER}), 1) == [], "a node asked by two names"


def test_faults_that_show_between_nodes() -> None:
    survey = Survey({"a:1": WHOLE, "b:1": OTHER | {"epoch": 4}}, {"c:1": "no answer from c:1"})
    assert faults(survey, 3) == [
        "no answer from c:1",
        "the nodes go by different views",
        "a:1: 2 of 3 members",
        "b:1: 2 of 3 members",
    ]


def a_cluster(*peers: Peer) -> None:
    for peer in peers:
        peer.status = status_of(*peers, address=peer.name)


def test_ready_is_asked_of_every_member(capsys: Captured) -> None:
    with Peer() as one, Peer() as other:
        a_cluster(one, other)
        assert kv.main(["-s", one.name, "wait-ready", "--members", "2"]) == 0
        told = "every slot where it is wanted and open for reads and writes, 1 copy of each in sync\n"
        assert capsys.readouterr().out == f"ready: 2 nodes, {told}"
        other.status = status_of(one, other, address=other.name, whole=False, lacking=["2 of 3 copies each: why"])
        assert kv.main(["-s", one.name, "wait-ready", "--timeout", "0"]) == 4
        assert capsys.readouterr().err == f"kv.py: not ready: {other.name}: 2 of 3 copies each: why\n"
        assert kv.main(["-s", one.name, "wait-ready", "--timeout", "0", "--given-only"]) == 0
        assert capsys.readouterr().out == f"ready: 1 node asked of 2, {told}"


def test_it_waits_until_the_cluster_is_whole(capsys: Captured) -> None:
    class Healing(Peer):
        """With each question, not each of its tries, one copy less is missing."""

        asked: set[bytes]

        def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
            self.asked.add(message_id)
            left = max(0, 4 - len(self.asked))
            self.status = status_of(self, whole=not left, lacking=[f"a: {left} copies missing"])
            return super().response_to(message_id, request)

    with Healing() as peer:
        peer.asked = set()
        assert kv.main(["-s", peer.name, "wait-ready"]) == 0
    waiting = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert [line.split(": ")[-1] for line in waiting] == [f"{n} copies missing" for n in (3, 2, 1)]


def test_a_member_that_is_gone_is_not_ready_and_nobody_at_all_is_no_answer(capsys: Captured) -> None:
    with Peer() as one:
        with Peer() as gone:
            a_cluster(one, gone)
        assert kv.main(["-s", one.name, "wait-ready", "--timeout", "0"]) == 4
        assert "connection refused" in capsys.readouterr().err
    assert kv.main(["-s", gone.name, "wait-ready", "--timeout", "0"]) == 3


def filled(peer: Peer) -> Peer:
    peer.store[b"key"] = (b"value", 0)
    return peer


def test_wipe_asks_every_member_with_a_request_of_its_own(capsys: Captured) -> None:
    with Peer() as one, Peer() as other:
        a_cluster(filled(one), filled(other))
        assert kv.main(["-s", one.name, "wipe", "--yes"]) == 0
        assert one.store == other.store == {}
        assert capsys.readouterr().out.splitlines() == sorted(f"{peer.name} wiped" for peer in (one, other))
        ids = {
            message.messageID
            for peer in (one, other)
            for message in peer.requests()
            if KVRequest.FromString(message.payload).command == WIPEOUT
        }
        assert len(ids) == 2
        filled(one), filled(other)
        assert kv.main(["-s", one.name, "wipe", "--yes", "--given-only"]) == 0
        assert (one.store, len(other.store)) == ({}, 1)


@pytest.mark.parametrize(("typed", "code", "left"), [("yes\n", 0, 0), ("y\n", 1, 1), ("", 1, 1)])
def test_wipe_asks_first(typed: str, code: int, left: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with Peer() as peer:
        a_cluster(filled(peer))
        assert kv.main(["-s", peer.name, "wipe"]) == code
        assert len(peer.store) == left
    assert f"Drop every key on {peer.name}? Type yes: " in capsys.readouterr().err


def test_without_a_terminal_wipe_wants_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with Peer() as peer:
        a_cluster(filled(peer))
        assert kv.main(["-s", peer.name, "wipe"]) == 2
        assert len(peer.store) == 1


class Failing(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=INTERNAL_ERR) if request.command == WIPEOUT else super().execute(request)


class Moving(Peer):
    """Goes by a new view after each WIPEOUT."""

    def execute(self, request: KVRequest) -> KVResponse:
        if request.command == WIPEOUT:
            self.status = status_of(self, epoch=99)
        return super().execute(request)


@pytest.mark.parametrize(
    ("make", "code", "told"), [(Failing, 1, "INTERNAL_ERR"), (Moving, 1, "slots moved meanwhile"), (Peer, 0, "")]
)
def test_what_was_not_wiped_is_told(make: Callable[[], Peer], code: int, told: str, capsys: Captured) -> None:
    with make() as peer:
        a_cluster(peer)
        assert kv.main(["-s", peer.name, "wipe", "--yes"]) == code
    assert told in capsys.readouterr().err


def test_a_member_that_does_not_answer_is_told_and_the_others_are_wiped(capsys: Captured) -> None:
    with Peer() as one:
        with Peer() as gone:
            a_cluster(filled(one), gone)
        assert kv.main(["-s", one.name, "wipe", "--yes", "--json"]) == 3
        assert one.store == {}
    nodes = {node["server"]: node["wiped"] for node in json.loads(capsys.readouterr().out)["nodes"]}
    assert nodes == {one.name: True, gone.name: False}
    assert kv.main(["-s", one.name, "wipe", "--yes"]) == 3
