"""The suite runs, and its result is whole. What it measures is not looked at."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.generator import generator  # noqa: F401 - without it the suite can't run
from tests.support.ports import adjacent_ports, free_port, occupied
from tools.bench import parts, suite
from tools.bench.figures import MEMCACHED, OTHER, THIS, Result

Captured = pytest.CaptureFixture[str]


def test_a_quick_run(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "result.json"
    assert suite.main(["--quick", "--json", str(path), "--port", str(adjacent_ports(60)[0])]) == 0
    document = json.loads(path.read_text())
    result = Result(document)
    assert document["parts"] == list(parts.PARTS)
    assert {name.partition("/")[0] for name in result.figures} == {"one node", "cluster", "costs", "memory", "idle"}
    rate = result.figures[f"{parts.one_node_name(64, 16)}/{parts.RATE}"]
    assert set(rate["rounds"]) == {THIS} | ({MEMCACHED} if shutil.which("memcached") else set())
    shown = capsys.readouterr().out
    assert [name for name in parts.PARTS if f"## {name}\n" not in shown] == []
    assert suite.main(["--write-docs", str(path)]) == 1
    assert capsys.readouterr().err.endswith("is of a quick run, whose figures mean nothing\n")


def test_against_another_checkout(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "result.json"
    arguments = ["--quick", "--parts", "idle", "--against", ".", "--against-environment", "KV_FAST=off"]
    assert suite.main([*arguments, "--json", str(path), "--port", str(adjacent_ports(6)[0])]) == 0
    document = json.loads(path.read_text())
    assert document["subjects"][OTHER]["environment"] == {"KV_FAST": "off"}
    assert document["subjects"][OTHER]["compiled"] == []
    assert set(document["figures"][parts.IDLE_RESIDENT]["rounds"]) == {THIS, OTHER}
    assert "## against" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--parts", "nonsense"], ["--against", "docs"], ["--environment", "KV_FAST"]])
def test_wrong_arguments_are_a_line_and_status_2(arguments: list[str], capsys: Captured) -> None:
    try:
        status = suite.main(arguments)
    except SystemExit as leaving:
        status = int(str(leaving.code))
    assert status == 2
    assert re.fullmatch(r"tools\.bench\.suite: .*\n", capsys.readouterr().err)


def test_a_file_that_is_no_result_is_written_into_no_document(tmp_path: Path, capsys: Captured) -> None:
    before = [(suite.REPOSITORY / name).read_text() for name in suite.DOCUMENTS]
    (tmp_path / "x.json").write_text("{}")
    assert suite.main(["--write-docs", str(tmp_path / "x.json")]) == 1
    assert "not a whole result" in capsys.readouterr().err
    assert [(suite.REPOSITORY / name).read_text() for name in suite.DOCUMENTS] == before


def test_a_part_that_fails_is_told_and_what_others_have_found_is_kept(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "result.json"
    ports = adjacent_ports(8)
    with occupied(ports[0], socket.SOCK_DGRAM):
        arguments = ["--quick", "--parts", "one-node,idle", "--json", str(path), "--port", str(ports[0])]
        assert suite.main(arguments) == 1
    document = json.loads(path.read_text())
    assert document["parts"] == ["idle"]
    assert f"127.0.0.1:{ports[0]} has ended with status 2" in document["failed"]["one-node"]
    assert "tools.bench.suite: one-node: " in capsys.readouterr().err


def test_a_run_that_finds_nothing_is_told_as_well(tmp_path: Path, capsys: Captured) -> None:
    port = free_port()
    with occupied(port, socket.SOCK_DGRAM):
        arguments = ["--quick", "--parts", "memory", "--json", str(tmp_path / "result.json"), "--port", str(port)]
        assert suite.main(arguments) == 1
    assert "## run\n" in capsys.readouterr().out
