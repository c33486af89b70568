"""What the command-line client sends to a terminal, whatever nodes, stores and command lines hold."""

import json
import os
import re
import subprocess
import sys

import pytest

from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer
from tests.support.nodes import REPOSITORY, environment, run_python
from tests.support.terminal import at_a_terminal, is_harmless
from tools.kv import __main__ as kv

# Clears the screen and sets the title; turns the reading direction; a line of its own; a C1 control; no UTF-8.
EVIL = "\x1b[2J\x1b]0;owned\x07\u202e\u2066\r\nkv.py: all is well\x9b31m\x7f\u2028\ud800"
EVIL_BYTES = b"\x1b[2J\x9b31m\xe2\x80\xae\xc2\x9b\xff\r\n\t\0"


def at(peer: Peer, *arguments: str, typed: bytes = b"") -> tuple[int, str]:
    return at_a_terminal(["tools/kv.py", "-s", peer.name, *arguments], typed)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"", "\r\n"),
        (b"hello, world", "hello, world\r\n"),
        (b"line\n\tline\n", "line\r\n\tline\r\n"),
        ("Grüße 🙂".encode(), "Grüße 🙂\r\n"),
        (EVIL_BYTES, "\\x1b[2J\\x9b31m\\u202e\\u009b\\xff\\r\r\n\t\\x00\r\n"),
    ],
)
def test_a_value_is_shown_on_a_terminal_and_written_into_a_pipe(value: bytes, shown: str) -> None:
    with Peer() as peer:
        peer.store[b"key"] = (value, 7)
        assert at(peer, "get", "-v", "key") == (0, f"{shown}version 7\r\n")
        piped = subprocess.run(
            [sys.executable, "tools/kv.py", "-s", peer.name, "get", "key"],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            timeout=60,
        )
        assert (piped.returncode, piped.stdout, piped.stderr) == (0, value, b"")


def test_a_terminal_that_has_no_letter_for_it_shows_an_escape() -> None:
    with Peer() as peer:
        peer.store[b"key"] = ("Grüße".encode(), 0)
        done = run_python("tools/kv.py", "-s", peer.name, "get", "kéy", PYTHONIOENCODING="ascii")
        assert done.stderr == "kv.py: no such key: k\\xe9y\n"
        done = run_python("tools/kv.py", "-s", peer.name, "ké", PYTHONIOENCODING="ascii")
        assert "invalid choice: 'k\\xe9'" in done.stderr


def test_what_is_json_for_programs_is_json_for_all() -> None:
    """ASCII, no lone surrogate, and the bytes can be made again of what it says."""
    with Peer() as peer:
        peer.store[EVIL_BYTES[:-1]] = (EVIL_BYTES, 7)
        status, text = at(peer, "get", "--json", os.fsdecode(EVIL_BYTES[:-1]))
        assert status == 0
        assert is_harmless(text)
        assert text.isascii()
        assert re.search(r"\\ud[89a-f]", text) is None
        told = json.loads(text)
    assert (told["key_encoding"], told["encoding"]) == ("base64", "base64")


def answer_of(evil: object) -> bytes:
    """A STATUS, SLOWLOG and FOUND in one, with that wherever a text can be."""
    row = [evil, evil, evil, evil]
    columns = ["address", "state", "time", "key"]
    fields: dict[str, object] = dict.fromkeys(("address", "incarnation", "origin", "coordinator", "why_not"), evil)
    fields |= {"epoch": 3, "is_member": True, "lease_s": 0.5, "ready": False, "whole": False, "columns": columns}
    fields |= dict.fromkeys(("reads", "writes", "closed", "unserved", "threshold_ms", "total"), 1)
    fields |= dict.fromkeys(("copies_least", "copies_most", "copies_missing", "copies_wanted"), 2)
    fields |= {"reasons": [evil], "lacking": [evil], "members": [row, row], "entries": [[evil, evil, 1.5, evil]]}
    return json.dumps(fields).encode()


class Hostile(Peer):
    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer

    def execute(self, request: KVRequest) -> KVResponse:
        return KVResponse(errCode=0, value=self.answer, version=1, pid=1, membershipCount=1)


COMMANDS = [
    ["status"],
    ["members"],
    ["slowlog"],
    ["servers"],
    ["wait-ready", "--timeout", "0"],
    ["wipe", "--yes"],
    ["found", "--force"],
    ["get", "key"],
    ["ping"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_nodes_word_moves_the_cursor(command: list[str]) -> None:
    for evil in (EVIL, EVIL[:-1]):  # with a lone surrogate, and without
        with Hostile(answer_of(evil)) as peer:
            _, text = at(peer, *command)
            assert is_harmless(text), repr(text)
            assert "\r\nkv.py: all is well" not in text or command[0] == "get"
            assert "Traceback" not in text, text
            _, text = at(peer, *command, "--json")
            assert is_harmless(text), repr(text)
            assert "Traceback" not in text, text


@pytest.mark.parametrize("command", COMMANDS[:6], ids=lambda command: command[0])
@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        answer_of(None),
        answer_of([1]),
        answer_of({"a": 1}),
        b'{"epoch": 3, "members": 7}',
        b'{"members": {}, "columns": {"a": 1}, "entries": [[1]], "threshold_ms": "x", "epoch": [[]]}',
        b'{"members": [[[]]], "columns": [[]], "reads": "x", "threshold_ms": 1, "entries": 7, "whole": 1}',
        b'{"lease_s": 1e999}',
        b'{"lease_s": NaN}',
        b'{"address": "\\ud800"}',
        b'{"address": "\xed\xa0\x80"}',
        "{}".encode("utf-16"),
        b"[" * 5000,
    ],
    ids=range(13),
)
def test_an_answer_of_another_form_is_no_traceback(
    command: list[str], answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hostile(answer) as peer:
        for arguments in (command, [*command, "--json"]):
            assert kv.main(["-s", peer.name, *arguments]) in (0, 1, 3, 4)
            printed = capsys.readouterr().out
            assert printed.isascii()
            for name in ("NaN", "Infinity", "\\ud8"):
                assert name not in printed


def test_the_question_before_a_wipe() -> None:
    with Hostile(answer_of("a:1")) as peer:
        status, text = at(peer, "wipe", "--given-only", typed=b"no\n")
    assert status == 1
    assert text == f"no\r\nDrop every key on {peer.name}? Type yes: kv.py: nothing done\r\n"  # it echoes first


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL[:-1]],
        ["get", "k", EVIL[:-1]],
        ["-s", EVIL[:-1], "ping"],
        ["-s", f"{EVIL[:-1]}:1", "ping"],
        ["put", "key", "value", "--version", EVIL[:-1]],
        ["put", "key", "--file", EVIL[:-1]],
        ["put", os.fsdecode(EVIL_BYTES[:-1]), "x" * 10_001],
        ["get", os.fsdecode(b"\xff\x1b")],
    ],
)
def test_no_argument_comes_back_as_it_was(arguments: list[str]) -> None:
    with Peer() as peer:
        status, text = at_a_terminal(["tools/kv.py", *(["-s", peer.name] if "-s" not in arguments else []), *arguments])
    assert status in (1, 2, 3)
    assert is_harmless(text), repr(text)
    assert text.count("\n") == 1
