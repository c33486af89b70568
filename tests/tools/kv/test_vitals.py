"""kv.py info and top: what nodes count of themselves, of one, of all, and what they come to."""

import json
import signal

import pytest

from app.client import BadAnswer
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer, drop
from tests.support.programs import Program
from tests.tools.kv.test_main import run, status_of
from tools.kv import __main__ as kv
from tools.kv.cluster import Survey
from tools.kv.vitals import Look, duration, page, rows, sound, table

Captured = pytest.CaptureFixture[str]

MIB = 1 << 20


def said(**changes: object) -> dict[str, object]:
    numbers: dict[str, object] = {"pid": 7, "resident_bytes": 30 * MIB, "max_memory_bytes": 128 * MIB, "entries": 5}
    return numbers | changes


def between(took_s: float, *answers: tuple[dict[str, object], dict[str, object]]) -> list[dict[str, object]]:
    before, after = ({f"n:{place}": pair[when] for place, pair in enumerate(answers)} for when in (0, 1))
    return rows(Look(10.0, Survey(before)), Look(10.0 + took_s, Survey(after)))


def test_rates_are_what_was_gained_and_members_add_up() -> None:
    one = (
        said(commands={"GET": 100, "PUT": 7}),
        said(commands={"GET": 160, "PUT": 27}, hits=90, misses=10, uptime_s=9),
    )
    other = (said(commands={"GET": 5}), said(commands={"GET": 25, "STATUS": 99}, hits=0, misses=0, uptime_s=3))
    first, second, total = between(2.0, one, other)
    assert (first["get_per_s"], first["put_per_s"], first["ops_per_s"], first["hit_rate"]) == (30.0, 10.0, 40.0, 0.9)
    assert (second["ops_per_s"], second["hit_rate"]) == (10.0, None), "what people ask of the node is no load"
    assert (total["address"], total["ops_per_s"], total["memory_bytes"], total["uptime_s"]) == (
        "all",
        50.0,
        60 * MIB,
        3,
    )
    assert total["commands"] == {"GET": 185, "PUT": 27, "STATUS": 99}


def test_another_process_at_the_same_address_has_no_rate_yet() -> None:
    (row,) = between(1.0, (said(commands={"GET": 10}), said(pid=8, commands={"GET": 500})))
    assert row["ops_per_s"] == 0.0


def test_who_has_the_most_is_first_and_the_sum_last() -> None:
    found = between(1.0, *((said(), said(entries=entries)) for entries in (3, 2000, 10)))
    heads, *lines = table(found, "entries")
    assert heads.split()[:3] == ["MEMBER", "OPS/S", "GET/S"]
    assert [line.split()[0] for line in lines] == ["n:1", "n:2", "n:0", "all"]
    assert "2,000" in lines[0]
    assert "2,013 (each copy counts)" in "\n".join(page(found[-1]))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")]
)
def test_how_long_a_node_is_up(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    "changes", [{"entries": "x"}, {"resident_bytes": None}, {"commands": 7}, {"commands": {"GET": []}}]
)
def test_what_is_no_number_is_no_answer(changes: dict[str, object]) -> None:
    assert sound(said()) == said()
    with pytest.raises(BadAnswer):
        sound(said(**changes))


def test_info_of_one_node_and_of_all(capsys: Captured) -> None:
    with Peer() as one, Peer() as other:
        for peer in (one, other):
            peer.status = status_of(one, other, address=peer.name)
        assert run(one, "info", "--interval", "0.1") == 0
        assert capsys.readouterr().out.splitlines()[1] == "memory    1.0 MiB of 2.0 MiB"
        assert run(one, "info", "--all", "--interval", "0.1") == 0
        printed = capsys.readouterr().out
        assert "memory    2.0 MiB of 4.0 MiB" in printed
        assert printed.count(other.name) == 1
        assert run(one, "info", "-a", "--json", "--interval", "0.1") == 0
        nodes = json.loads(capsys.readouterr().out)["nodes"]
        assert [node["address"] for node in nodes] == [
            *sorted([one.name, other.name], key=[one.name, other.name].index),
            "all",
        ]
    assert run(one, "info") == 3


def test_who_is_silent_is_waited_for_once_and_as_long_as_it_is_told(capsys: Captured) -> None:
    """And if that is all, nothing is waited for besides: here it would take an hour."""
    with Peer([drop] * 9) as silent:
        assert run(silent, "info", "--timeout", "0.05", "--interval", "3600") == 3
        assert capsys.readouterr().err == f"kv.py: no answer from {silent.name} to 1 tries\n"
    with Peer([drop] * 9) as silent, Peer() as peer:
        both = ["-s", f"{peer.name},{silent.name}", "info", "--timeout", "0.5", "--interval", "0.1", "--json"]
        assert kv.main(both) == 1
        answer = json.loads(capsys.readouterr().out)
        assert [row["address"] for row in answer["nodes"]] == [peer.name]
        assert list(answer["faults"]) == [silent.name]
        assert len({message.messageID for message in silent.requests()}) == 1


def test_a_node_of_another_kind_is_told(capsys: Captured) -> None:
    with Peer() as peer:
        peer.vitals = b"{}"
        assert run(peer, "info", "--interval", "0.1") == 3
        assert "not of the form" in capsys.readouterr().err


def test_top_a_few_times(capsys: Captured) -> None:
    with Peer() as peer:
        peer.status = status_of(peer)
        assert run(peer, "top", "--count", "2", "--interval", "0.1", "--sort", "memory") == 0
        printed = capsys.readouterr().out
        assert printed.count("by memory") == printed.count("MEMBER") == 2
        assert "\x1b" not in printed
        assert run(peer, "top", "--count", "2", "--interval", "0.1", "--json") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["nodes"][0]["entries"] for line in lines] == [3, 3]
        with pytest.raises(SystemExit):
            kv.main(["top", "--sort", "shoe-size"])


def test_top_ends_by_ctrl_c() -> None:
    with Peer() as peer:
        peer.status = status_of(peer)
        with Program("tools/kv.py", "-s", peer.name, "top", "--interval", "0.1") as program:
            program.until(lambda text: text.count("MEMBER") > 1)
            program.process.send_signal(signal.SIGINT)
            assert program.status() == 0


class Hostile(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=0, value=json.dumps(said(python="\x1b[2J", pid="\x1b[2J")).encode())


def test_what_is_told_moves_no_cursor(capsys: Captured) -> None:
    with Hostile() as peer:
        assert run(peer, "info", "--interval", "0.1") == 0
        assert "\x1b" not in capsys.readouterr().out
