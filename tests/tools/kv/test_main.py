"""The command-line client: what it prints and which status it ends with."""

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.wire.protocol import (
    CLIENT_TIMEOUTS_MS,
    CONFIG,
    ERROR_NAMES,
    FOUND,
    GET,
    INTERNAL_ERR,
    INVALID_KEY_ERR,
    INVALID_VAL_ERR,
    KEY_DNE_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
    SERVERS,
    SHUTDOWN,
    SLOWLOG,
    SYS_OVERLOAD_ERR,
    UNKNOWN_CMD_ERR,
    WIPEOUT,
)
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Fault, Peer, drop
from tests.support.nodes import REPOSITORY, run_python
from tests.support.polling import poll
from tools import cli
from tools.kv import __main__ as kv
from tools.kv import arguments, servers, vitals
from tools.kv.completion import commands_of

Captured = pytest.CaptureFixture[bytes]


def run(peer: Peer, *arguments: str) -> int:
    return cli.status_of("kv.py", lambda: kv.main(["-s", peer.name, *arguments]))


def status_of(*peers: Peer, **changes: object) -> bytes:
    """What the first of these peers says of a cluster that is whole."""
    rows = [[peer.name, "alive", 256] for peer in peers]
    fields = {"address": peers[0].name, "origin": 1, "epoch": 3, "is_member": True, "lease_s": 0.5, "whole": True}
    fields |= dict.fromkeys(("reads", "writes"), 256 // len(peers))
    return json.dumps(fields | {"columns": ["address", "state", "primary"], "members": rows} | changes).encode()


def test_put_get_remove(capfdbinary: Captured) -> None:
    with Peer() as peer:
        assert run(peer, "put", "key", "value", "--version", "-5") == 0
        assert run(peer, "get", "key") == 0
        assert capfdbinary.readouterr() == (b"value", b"")
        assert run(peer, "get", "-v", "key") == 0
        assert capfdbinary.readouterr() == (b"value", b"version -5\n")
        assert run(peer, "remove", "key") == 0
        assert run(peer, "get", "key") == 1
        assert capfdbinary.readouterr() == (b"", b"kv.py: no such key: key\n")
        assert run(peer, "remove", "key") == 1


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (["put", "a", "-s", "{peer}", "v"], (b"v", 0)),
        (["put", "a", "--version", "3", "v", "-s", "{peer}"], (b"v", 3)),
        (["put", "--version=3", "a", "-s{peer}", "v", "--json"], (b"v", 3)),
        (["put", "a", "-s", "{peer}", "--", "--json"], (b"--json", 0)),
        (["put", "-s", "{peer}", "a", "-5"], (b"-5", 0)),
    ],
)
def test_options_may_stand_anywhere(words: list[str], stored: tuple[bytes, int]) -> None:
    with Peer() as peer:
        assert kv.main([word.format(peer=peer.name) for word in words]) == 0
        assert peer.store == {b"a": stored}


def test_a_value_from_standard_input_comes_back_byte_for_byte(
    capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = bytes(range(256)) * 39
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(value)))
    with Peer() as peer:
        assert run(peer, "put", "key", "-") == 0
        assert run(peer, "get", "key") == 0
    assert capfdbinary.readouterr().out == value


def test_what_the_node_refuses_is_status_1(capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Peer):
        def put(self, request: KVRequest) -> KVResponse:
            return KVResponse(errCode=NO_SPC_ERR)

    with Full() as peer:
        assert run(peer, "put", "key", "value") == 1
        assert run(peer, "put", "k" * 33, "value") == 1
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(1 << 20))))
        assert run(peer, "put", "key", "-") == 1
    assert capfdbinary.readouterr().err.count(b"\n") == 3


def test_a_value_from_a_file(tmp_path: Path, capfdbinary: Captured) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"\0\xff\n")
    with Peer() as peer:
        assert run(peer, "put", "key", "--file", str(path), "--version", "2") == 0
        assert peer.store == {b"key": (b"\0\xff\n", 2)}
        path.write_bytes(bytes(10_001))
        assert run(peer, "put", "key", "-f", str(path)) == 1
        path.write_bytes(bytes(100_000))  # nobody reads all of it to say so
        assert run(peer, "put", "key", "-f", str(path)) == 1
        assert capfdbinary.readouterr().err.endswith(
            b"kv.py: the value has more than 16,384 bytes; 0 to 10,000 is possible\n"
        )
        assert run(peer, "put", "key", "-f", str(tmp_path / "none")) == 2
    assert capfdbinary.readouterr().err.endswith(b"/none: No such file or directory\n")


class Refuses(Peer):
    """Answers every request for a key, and what a node tells of itself, as it is told to."""

    code = 0
    wait_ms = 1

    def execute(self, request: KVRequest) -> KVResponse:
        if request.command in (PUT, GET, REMOVE, SLOWLOG):
            return KVResponse(errCode=self.code, overloadWaitTime=self.wait_ms)
        return super().execute(request)


@pytest.mark.parametrize(
    ("code", "arguments", "told"),
    [
        (KEY_DNE_ERR, ["get", "k"], "no such key: k"),
        (KEY_DNE_ERR, ["remove", "k y"], "no such key: k y"),
        (INVALID_KEY_ERR, ["get", "k" * 41], "the key has 41 bytes; 1 to 32 is possible"),
        (INVALID_KEY_ERR, ["put", "", "v"], "the key has 0 bytes; 1 to 32 is possible"),
        (INVALID_VAL_ERR, ["put", "k", "é" * 5001], "the value has 10,002 bytes; 0 to 10,000 is possible"),
        (0, ["put", "k", "v" * 20_000], "the value has 20,000 bytes; 0 to 10,000 is possible"),
        (NO_SPC_ERR, ["put", "k", "v"], "the store is full, and its policy is to evict nothing"),
        (INTERNAL_ERR, ["put", "k", "v"], "a fault in the node; its log says which"),
        (UNKNOWN_CMD_ERR, ["slowlog"], "the node does not know `slowlog`: another version, or another kind of node"),
        (77, ["get", "k"], "get of b'k': error code 77"),
    ],
)
def test_what_is_refused_is_told_in_words(capfdbinary: Captured, code: int, arguments: list[str], told: str) -> None:
    with Refuses() as peer:
        peer.code = code
        assert run(peer, *arguments) == 1
        assert capfdbinary.readouterr() == (b"", f"kv.py: {told}\n".encode())
        assert run(peer, *arguments, "--json") == 1
        printed = capfdbinary.readouterr()
    answer = json.loads(printed.out)
    assert answer["error"] == told
    if code in ERROR_NAMES and code:
        assert answer["code"] == ERROR_NAMES[code]


def test_a_node_that_refuses_on_and_on_says_why_if_it_knows(capfdbinary: Captured) -> None:
    with Refuses() as peer:
        peer.code, peer.wait_ms = SYS_OVERLOAD_ERR, 6000  # longer than kv is to wait
        for status, told in (
            (b'{"epoch":0}', "the node knows of no cluster yet (`kv.py status` tells more)"),
            (b'{"epoch":3,"reasons":["no lease: x"]}', "the node is not ready: no lease: x"),
            (b'{"epoch":3}', "the node is overloaded, or waits for others (`kv.py status` tells more)"),
            (b"nonsense", "the node is overloaded, or waits for others (`kv.py status` tells more)"),
        ):
            peer.status = status
            assert run(peer, "get", "k", "--timeout", "5") == 1
            assert capfdbinary.readouterr().err == f"kv.py: {told}\n".encode()


class Guarded(Peer):
    """Obeys administrators only, and takes nobody for one."""

    def answer_to(self, datagram: bytes) -> bytes | None:
        request = KVRequest.FromString(Msg.FromString(datagram).payload)
        return None if request.command in (SHUTDOWN, WIPEOUT, FOUND, CONFIG, SERVERS) else super().answer_to(datagram)


@pytest.mark.parametrize("arguments", [["shutdown"], ["found", "--force"], ["wipe", "--yes"], ["config", "get"]])
def test_who_is_no_administrator_is_told_so(capfdbinary: Captured, arguments: list[str]) -> None:
    with Guarded() as peer:
        peer.status = status_of(peer)
        assert run(peer, *arguments, "--timeout", "0.5") == 3
        told = f"{peer.name} answers, but not to this: is your address in its --admin-allow?"
        assert capfdbinary.readouterr().err == f"kv.py: {told}\n".encode()


def test_no_answer_in_json(capfdbinary: Captured) -> None:
    with Peer([drop] * 100) as silent:
        assert run(silent, "get", "k", "--timeout", "0.01", "--json") == 3
    answer = json.loads(capfdbinary.readouterr().out)
    assert answer["code"] == "NO_ANSWER"
    assert answer["error"].startswith(f"no answer from {silent.name}")
    assert kv.main(["-s", "missing.invalid", "get", "k", "--json"]) == 2
    assert json.loads(capfdbinary.readouterr().out)["code"] == "BAD_SERVER"


KEY = {"key": "key", "key_encoding": "utf-8"}


def test_json(capfdbinary: Captured) -> None:
    with Peer() as peer:

        def printed(*arguments: str) -> Any:
            assert run(peer, *arguments, "--json") == 0
            return json.loads(capfdbinary.readouterr().out)

        assert printed("put", "key", "välue", "--version", "7") == {**KEY, "bytes": 6, "version": 7}
        assert printed("get", "key") == {**KEY, "value": "välue", "encoding": "utf-8", "version": 7}
        peer.store[b"key"] = (b"\xff\0", 0)
        assert printed("get", "key")["value"] == "/wA="
        assert printed("get", "key")["encoding"] == "base64"
        assert printed("remove", "key") == {**KEY, "removed": True}
        for made in (("put", "value"), ("get",), ("remove",)):
            told = printed(made[0], os.fsdecode(b"\xff\0k"[::2]), *made[1:])
            assert (told["key"], told["key_encoding"]) == ("/2s=", "base64")
        assert printed("pid") == {"pid": os.getpid()}
        (answer,) = printed("ping")
        assert (answer["server"], answer["alive"]) == (peer.name, True)
        assert printed("members", "--count") == {"count": 1}
        peer.status = status_of(peer)
        assert printed("members")[0]["address"] == peer.name
        assert printed("wait-ready")["ready"] is True
        assert printed("wipe", "--yes") == {"nodes": [{"server": peer.name, "wiped": True}], "moved": False}
        assert kv.main(["--json", "-s", peer.name, "shutdown"]) == 0
        assert json.loads(capfdbinary.readouterr().out) == {"server": peer.name, "answered": True}


def test_about_nodes(capfdbinary: Captured) -> None:
    with Peer() as peer, Peer() as other:
        both = ["-s", f"{peer.name},{other.name}"]
        assert run(peer, "pid") == 0
        assert run(peer, "members", "--count") == 0
        assert capfdbinary.readouterr().out == b"%d\n1\n" % os.getpid()
        assert kv.main([*both, "ping"]) == 0
        assert kv.main(["ping", *both]) == 0
        assert capfdbinary.readouterr().out.count(b" answers in ") == 4
        assert run(peer, "shutdown") == 0


def test_of_several_nodes_each_is_pinged(capfdbinary: Captured) -> None:
    with Peer() as gone:
        pass
    with Peer() as peer:
        assert kv.main(["ping", "-s", f"{gone.name},{peer.name}", "--json"]) == 3
        first, second = json.loads(capfdbinary.readouterr().out)
        assert (first["alive"], second["alive"]) == (False, True)
        assert kv.main(["ping", "-s", f"missing.invalid:1,{peer.name}", "--json"]) == 3
        told = capfdbinary.readouterr()
        assert [answer["alive"] for answer in json.loads(told.out)] == [False, True]
        assert b"missing.invalid:1" in told.err


def test_members(capfdbinary: Captured) -> None:
    with Peer() as peer:
        peer.status = status_of(peer)
        assert run(peer, "members") == 0
        heads, row, *_ = capfdbinary.readouterr().out.decode().splitlines()
        assert heads.split() == ["ADDRESS", "STATE", "PRIMARY"]
        assert row.split() == [peer.name, "alive", "256"]


def test_status(capfdbinary: Captured) -> None:
    with Peer() as peer:
        assert run(peer, "status", "--json") == 0
        assert json.loads(capfdbinary.readouterr().out) == {"epoch": 1}
        peer.status = b'{"address":"10.0.0.1:3331","incarnation":7,"epoch":0,"reasons":["alone: why"]}'
        assert run(peer, "status") == 0
        assert (
            capfdbinary.readouterr().out == b"no cluster yet, as 10.0.0.1:3331 sees it\n  alone: why\n(-v tells more)\n"
        )
        assert run(peer, "status", "-v") == 0
        assert b"node 10.0.0.1:3331, incarnation 7\n" in capfdbinary.readouterr().out
        for nonsense in (b"", b"{", b"[]"):
            peer.status = nonsense
            assert run(peer, "status") == 1
            assert capfdbinary.readouterr().err.startswith(b"kv.py: status: not ")


def test_slowlog(capfdbinary: Captured) -> None:
    with Peer() as peer:
        assert run(peer, "slowlog", "--json") == 0
        assert json.loads(capfdbinary.readouterr().out) == {"threshold_ms": None}
        assert run(peer, "slowlog") == 0
        assert capfdbinary.readouterr().out.startswith(b"the node keeps no slow requests")
        peer.slow = b"[]"
        assert run(peer, "slowlog") == 1
        assert capfdbinary.readouterr().err == b"kv.py: slowlog: not an object\n"


def test_config(capfdbinary: Captured) -> None:
    with Peer() as peer, Peer() as other:
        assert run(peer, "config", "get") == 0
        assert capfdbinary.readouterr().out == f"{peer.name}  log-level info  slow-ms 0\n".encode()
        assert kv.main(["config", "set", "slow-ms", "20", "-s", f"{peer.name},{other.name}"]) == 0
        assert capfdbinary.readouterr().out.decode().splitlines() == [f"{p.name}  slow-ms 20" for p in (peer, other)]
        assert peer.settings["slow_ms"] == "20"
        assert run(peer, "config", "get", "log-level", "--json") == 0
        answer = json.loads(capfdbinary.readouterr().out)
        assert answer == [{"server": peer.name, "log_level": "info", "slow_ms": "20"}]
        peer.settings["why_not"] = "slow_ms: 'x' isn't a number"
        assert run(peer, "config", "set", "slow-ms", "x") == 1
        assert capfdbinary.readouterr() == (b"", f"kv.py: {peer.name}: slow-ms: 'x' isn't a number\n".encode())


def test_config_of_several_nodes_is_one_answer_whatever_becomes_of_each(capfdbinary: Captured) -> None:
    with Guarded() as silent, Peer() as peer:
        asked = ["config", "set", "slow-ms", "7", "-s", f"{silent.name},{peer.name}", "--timeout", "0.5"]
        assert cli.status_of("kv.py", lambda: kv.main([*asked, "--json"])) == 3
        assert peer.settings["slow_ms"] == "7", "the others are asked all the same"
        printed = capfdbinary.readouterr()
        told = f"{silent.name} answers, but not to this: is your address in its --admin-allow?"
        assert json.loads(printed.out) == [
            {"server": silent.name, "code": "NO_ANSWER", "error": told},
            {"server": peer.name, "log_level": "info", "slow_ms": "7"},
        ]
        assert printed.err == f"kv.py: {told}\n".encode()


def test_what_people_are_used_to_say(capfdbinary: Captured) -> None:
    with Peer() as peer:
        peer.status = status_of(peer)
        assert run(peer, "set", "key", "value") == 0
        for word in ("del", "delete", "rm"):
            peer.store[b"key"] = (b"value", 0)
            assert run(peer, word, "key") == 0
        assert run(peer, "del", "key") == 1
        assert capfdbinary.readouterr().err == b"kv.py: no such key: key\n"
        assert run(peer, "ls") == 0
        assert peer.name.encode() in capfdbinary.readouterr().out
        assert run(peer, "stats", "--interval", "0.1") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gte", "k"], "invalid choice: 'gte'; did you mean get?"),
        (["help", "gte"], "argument COMMAND: invalid choice: 'gte'; did you mean get?"),
        (["sttaus"], "did you mean status or stats?"),
        (["get", "k", "--jsn"], "unrecognized argument: --jsn; did you mean --json?"),
        (["put", "k", "v", "--verson", "3"], "did you mean --version or --json?"),
        (["top", "--sort", "memroy"], "invalid choice: 'memroy'; did you mean memory?"),
        (["get", "a", "b"], "unrecognized argument: b"),
    ],
)
def test_what_was_meant_is_named(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kv.main(words)
    assert told in capsys.readouterr().err


def test_what_can_be_sorted_by_is_what_is_shown() -> None:
    assert tuple(vitals.COLUMNS) == arguments.HEADINGS


def test_help_and_wrong_usage_need_no_client() -> None:
    """So that they are quick: what a client needs takes longer to import than all the rest."""
    for words in (["--help"], ["frob"], ["get", "--help"]):
        program = f"import sys; from tools.kv.__main__ import main\ntry: main({words})\nexcept SystemExit: pass\n"
        done = run_python(
            "-c", program + "print(sorted({'app.client', 'google', 'json', 'inspect'} & sys.modules.keys()))"
        )
        assert done.stdout.endswith("[]\n"), (words, done.stdout[-300:])


def test_a_get_imports_little() -> None:
    """What takes longest to start is what is imported."""
    script = "import sys\nfrom tools.kv.__main__ import main\nmain(sys.argv[1:])\nprint(*sys.modules)"
    with Peer() as peer:
        peer.store[b"key"] = (b"value", 1)
        loaded = set(run_python("-c", script, "get", "key", "-s", peer.name).stdout.split())
    assert "tools.kv.commands" in loaded
    slow = ("asyncio", "base64", "dataclasses", "google", "inspect", "json", "logging", "pathlib", "ssl", "threading")
    slow = (*slow, "encodings.idna", "shutil")
    assert not loaded.intersection((*slow, "tools.kv.errors", "tools.kv.status"))


def test_nobody_there_is_status_3_at_once(capfdbinary: Captured) -> None:
    with Peer() as peer:
        name = peer.name
    assert kv.main(["-s", name, "ping"]) == 3
    assert capfdbinary.readouterr().err == f"kv.py: no answer from {name}: connection refused\n".encode()


def test_the_server_from_the_environment(capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer() as peer:
        monkeypatch.setenv("KV_SERVER", peer.name)
        assert kv.main(["ping"]) == 0
    monkeypatch.setenv("KV_SERVER", "non:sense:1")
    assert kv.main(["ping"]) == 2
    assert b"KV_SERVER: 'non:sense:1'" in capfdbinary.readouterr().err


@pytest.mark.parametrize("variable", ["KV_SERVERS", "KV_SEVER", "KV_SERVER_"])
def test_a_variable_that_is_nearly_the_servers_is_told(
    variable: str, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer() as peer:
        monkeypatch.delenv("KV_SERVER", raising=False)
        monkeypatch.setenv(variable, "127.0.0.1:2")
        monkeypatch.setenv("KV_SERVICE_HOST", "10.0.0.1")  # an orchestrator's
        monkeypatch.setattr(cli, "DEFAULT_SERVER", peer.name)
        assert kv.main(["get", "none"]) == 1
        told = f"{variable} means nothing here: was KV_SERVER meant?\nkv.py: no such key: none\n"
        assert capfdbinary.readouterr().err == told.encode()
        monkeypatch.setenv("KV_SERVER", peer.name)
        assert kv.main(["get", "none"]) == 1
        assert capfdbinary.readouterr().err == b"kv.py: no such key: none\n"


def test_a_server_without_a_port_is_at_the_usual_one() -> None:
    assert cli.servers("10.0.0.7, [::1] ,node:4000") == ["10.0.0.7:3331", "[::1]:3331", "node:4000"]
    assert cli.server("db.example") == "db.example:3331"
    for text in ("", ":", "a:", "::1", "[::1", "a b:1:2"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.server(text)


def test_how_long_an_answer_is_waited_for(capfdbinary: Captured) -> None:
    assert cli.tries_ms(6.45) == CLIENT_TIMEOUTS_MS
    assert cli.tries_ms(0.15) == (150,)
    assert cli.tries_ms(1) == (150, 450, 400)
    assert cli.tries_ms(20) == (150, 450, 1350, 2500, 15_550)
    with Peer([drop] * 100) as silent:
        assert run(silent, "--timeout", "0.05", "pid") == 3
        assert run(silent, "pid", "--timeout", "0.05") == 3
        poll(lambda: len(silent.received) == 2, complaint="one try each")
    assert capfdbinary.readouterr().err.count(b"no answer from") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frob"],
        ["get"],
        ["put", "key"],
        ["config"],
        ["config", "set"],
        ["config", "set", "slow-ms"],
        ["config", "set", "policy", "noeviction"],
        ["config", "get", "slow-ms", "7"],
        ["put", "key", "value", "--file", "path"],
        ["shutdown"],
        ["-s", "127.0.0.1:1,127.0.0.1:2", "shutdown"],
        ["wait-ready", "--members", "0"],
        ["bench", "--seconds", "0"],
        ["put", "key", "value", "--version", "2147483648"],
        ["put", "key", "value", "--version", "x"],
        ["-s", "non:sense:1", "ping"],
        ["--timeout", "0", "ping"],
        ["-s", "127.0.0.1:0", "ping"],
        ["add-server", "10.0.0.9"],
        ["remove-server", "10.0.0.9:0", "--force"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], capfdbinary: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        kv.main(arguments)
    assert stop.value.code == 2
    printed = capfdbinary.readouterr()
    assert printed.out == b""
    assert printed.err.count(b"\n") == 1


COMMANDS = [
    "get",
    "put",
    "remove",
    "ping",
    "pid",
    "status",
    "info",
    "top",
    "slowlog",
    "members",
    "servers",
    "wait-ready",
    "wipe",
    "shutdown",
    "config",
    "completion",
    "bench",
    "found",
    "help",
]


@pytest.mark.parametrize("command", [*COMMANDS, "set", "del"])
def test_a_parser_of_some_words_is_that_of_all_for_them(command: str) -> None:
    whole, some = arguments.parser(), arguments.parser(["-s", "host", command])
    assert some.format_help() == whole.format_help()
    assert commands_of(some)[command].format_help() == commands_of(whole)[command].format_help()
    assert list(commands_of(some)) == list(commands_of(whole))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        kv.main([command, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert f"examples:\n  python tools/kv.py {command}" in told
    assert kv.main(["-s", "a:1", "help", command]) == 0
    assert capsys.readouterr().out == told


def test_help_alone_is_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv.main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: kv.py ")


@pytest.mark.parametrize("script", ["kv.py", "testclient.py", "flood.py"])
def test_scripts_run_from_the_repository_root_and_explain_themselves(script: str) -> None:
    done = run_python(f"tools/{script}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"python tools/{script}" in done.stdout
    assert "exit status:" in done.stdout


@pytest.mark.parametrize("how", [["tools/kv.py"], ["-P", "tools/kv.py"], ["-m", "tools.kv"]])
def test_the_launcher_starts_the_package(how: list[str]) -> None:
    with Peer() as peer:
        done = run_python(*how, "-s", peer.name, "pid")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{os.getpid()}\n", "")


def test_a_script_in_a_pipe_that_closes(tmp_path: Path) -> None:
    with Peer() as peer:
        peer.store[b"key"] = (b"value", 0)
        command = [sys.executable, "tools/kv.py", "-s", peer.name, "get", "key"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"value", b"")
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(command, cwd=REPOSITORY, stdout=writing, stderr=subprocess.PIPE, timeout=60)
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, b"")


class Founding(Peer):
    """A node that founds a cluster when it is told to, unless there is an objection."""

    objection = ""

    def execute(self, request: KVRequest) -> KVResponse:
        assert request.command == FOUND
        fields = {"founded": not self.objection, "why_not": self.objection, "members": ["a:1", "b:2"]}
        return KVResponse(errCode=0, value=json.dumps(fields).encode())


def test_found(capfdbinary: Captured) -> None:
    with Founding() as peer:
        assert run(peer, "found", "--force") == 0
        assert capfdbinary.readouterr() == (b"founded: a:1 b:2\n", b"")
        peer.objection = "the cluster goes on"
        assert run(peer, "found", "--force") == 1
        assert capfdbinary.readouterr() == (b"", f"kv.py: {peer.name}: the cluster goes on\n".encode())
        assert run(peer, "found", "--force", "--json") == 1
        assert json.loads(capfdbinary.readouterr().out)["founded"] is False


class Coordinating(Peer):
    """A node that takes orders, or names another that does; done when it has been told so often."""

    coordinator = ""
    address = ""
    objection = ""
    passes_after = 0  # so many orders the objection passes; 0: never
    times = 1

    def __init__(self, script: Iterable[Fault | None] = ()) -> None:
        super().__init__(script)
        self.orders: list[dict[str, object]] = []

    def execute(self, request: KVRequest) -> KVResponse:
        assert request.command == SERVERS
        self.orders.append(json.loads(request.value.rstrip(b"\0")))
        passes = self.passes_after > 0
        if passes and len(self.orders) >= self.passes_after:
            self.objection = ""
        fields = {
            "done": not self.coordinator and not self.objection and len(self.orders) >= self.times,
            "why_not": "this node is not the coordinator" if self.coordinator else self.objection,
            "passes": passes,
            "address": self.address or self.name,
            "coordinator": self.coordinator or self.address or self.name,
        }
        return KVResponse(errCode=0, value=json.dumps(fields).encode())


GONE = b"c:3 belongs to the cluster no more\n"


@pytest.mark.parametrize(
    ("words", "order", "told"),
    [
        (["add-server", "c:3"], {"add": "c:3"}, b"c:3 belongs to the cluster: it can be started\n"),
        (["remove-server", "c:3"], {"remove": "c:3", "force": False}, GONE),
        (
            ["remove-server", "c:3", "--force"],
            {"remove": "c:3", "force": True},
            b"c:3 belongs to the cluster no more\n",
        ),
    ],
)
def test_servers_are_added_and_removed_by_the_coordinator(
    words: list[str], order: dict[str, object], told: bytes, capfdbinary: Captured
) -> None:
    with Coordinating() as one, Coordinating() as other:
        one.coordinator = other.name
        other.times = 2
        assert run(one, *words) == 0
        assert capfdbinary.readouterr() == (told, b"")
        assert (one.orders, other.orders) == ([order, order], [order, order])
        assert run(one, *words, "--json") == 0
        assert json.loads(capfdbinary.readouterr().out)["done"] is True


def test_to_remove_one_that_does_not_belong_is_said_to_be_nothing(capfdbinary: Captured) -> None:
    """Its name may be misspelt."""
    with Coordinating() as peer:
        assert run(peer, "remove-server", "c:3") == 0
        assert capfdbinary.readouterr() == (b"c:3 does not belong to the cluster\n", b"")


def test_a_change_of_servers_that_is_declined_or_not_done_in_time(capfdbinary: Captured) -> None:
    with Coordinating() as peer:
        peer.objection = "one at a time"
        assert run(peer, "add-server", "c:3") == 1
        assert capfdbinary.readouterr() == (b"", b"kv.py: c:3: one at a time\n")
        peer.objection, peer.times = "", 1000
        assert run(peer, "add-server", "c:3", "--timeout", "0") == 4
        assert capfdbinary.readouterr() == (b"", b"kv.py: c:3: is not done yet: say it again\n")


def test_what_is_in_the_way_of_a_change_and_passes_is_waited_for(capfdbinary: Captured) -> None:
    """Another change, say: so any number may be asked for at once."""
    with Coordinating() as peer:
        peer.objection, peer.passes_after = "another change is under way (d:4): one at a time", 1000
        assert run(peer, "remove-server", "c:3", "--timeout", "0") == 4
        assert capfdbinary.readouterr() == (b"", b"kv.py: c:3: another change is under way (d:4): one at a time\n")
        peer.passes_after = 3
        assert run(peer, "remove-server", "c:3") == 0
        assert capfdbinary.readouterr() == (GONE, b"")


def test_who_is_removed_may_be_the_only_one_that_was_named(
    capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands over, and ends: the others are asked what has become of it."""
    monkeypatch.setattr(servers, "CHANGE_TIMEOUTS_MS", (50,))
    with Coordinating([None, *[drop] * 1000]) as one, Coordinating() as other:
        one.coordinator, other.times = other.name, 3
        assert run(one, "remove-server", one.name, "--timeout", "10") == 0
        assert capfdbinary.readouterr() == (f"{one.name} belongs to the cluster no more\n".encode(), b"")


def test_a_coordinator_whose_name_means_nothing_here_is_found_among_those_given(capfdbinary: Captured) -> None:
    with Coordinating() as one, Coordinating() as other:
        one.coordinator = other.address = "no-such-name.invalid:1"
        assert kv.main(["-s", f"{one.name},{other.name}", "add-server", "c:3"]) == 0
        assert capfdbinary.readouterr() == (b"c:3 belongs to the cluster: it can be started\n", b"")


def test_a_change_of_servers_that_nobody_answers_to(capfdbinary: Captured) -> None:
    with Guarded() as peer:
        assert run(peer, "add-server", "c:3", "--timeout", "0") == 3
        assert b"is your address in its --admin-allow?" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["found", "-s", "127.0.0.1:1"], b"found takes --force"),
        (["found", "--force"], b"found is for one server"),
        (["found", "--force", "-s", "127.0.0.1:1,127.0.0.1:2"], b"found is for one server"),
    ],
)
def test_found_is_said_in_full(arguments: list[str], told: bytes, capfdbinary: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        kv.main(arguments)
    assert left.value.code == 2
    assert told in capfdbinary.readouterr().err
