"""kv.py bench: it measures, cleans up, and does not believe what it reads."""

import json
import re
import signal

import pytest

from app.wire.protocol import PUT, VALUE_MAX_BYTES
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer, overload
from tests.support.polling import poll
from tests.support.programs import Program
from tools.kv import __main__ as kv
from tools.kv.bench import value_of

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("batch", [1, 7])
def test_it_measures_and_removes_its_keys(batch: int, capsys: Captured) -> None:
    with Peer() as peer:
        arguments = ["bench", "--seconds", "1", "--keys", "20", "--batch", str(batch), "--value-size", "100"]
        assert kv.main(["-s", peer.name, *arguments, "--json"]) == 0
        assert peer.store == {}
    result = json.loads(capsys.readouterr().out)
    for name in ("put", "get"):
        row = result[name]
        assert row["operations"] > 0
        assert row["errors"] == 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert (result["wrong"], result["missing"]) == (0, 0)
    assert result["keys_a_call"] == batch


def test_a_wrong_value_is_a_failure(capsys: Captured) -> None:
    class Liar(Peer):
        def execute(self, request: KVRequest) -> KVResponse:
            answer = super().execute(request)
            if answer.value:
                answer.value = answer.value[:-1] + b"?"
            return answer

    with Liar() as peer:
        assert kv.main(["-s", peer.name, "bench", "--seconds", "1", "--keys", "10"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_only_what_is_measured_is_counted(capsys: Captured) -> None:
    with Peer([overload(1)]) as peer:  # the first request comes before the first measured call
        assert kv.main(["-s", peer.name, "bench", "--plain", "--seconds", "1", "--keys", "10", "--json"]) == 0
        assert len(peer.received) > 1
    assert json.loads(capsys.readouterr().out)["overloads"] == 0


def test_nobody_there_is_status_3() -> None:
    with Peer() as peer:
        pass
    assert kv.main(["-s", peer.name, "bench"]) == 3


def test_ctrl_c_ends_it_with_what_was_measured() -> None:
    with Peer() as peer, Program("tools/kv.py", "-s", peer.name, "bench", "--seconds", "300", "--keys", "5") as program:
        poll(
            lambda: sum(KVRequest.FromString(message.payload).command == PUT for message in peer.requests()) > 10,
            complaint="it measures",
        )
        program.process.send_signal(signal.SIGINT)
        assert program.status() == 130
        assert re.search(r"^put +[1-9]", program.text, re.MULTILINE), program.text
        assert "interrupted" in program.text
        assert peer.store == {}


def test_values_differ_by_key_and_have_their_length() -> None:
    for size in (0, 1, 4, 5, 64, VALUE_MAX_BYTES):
        assert len(value_of(12_345, size)) == size
    assert len({value_of(n, 64) for n in range(30_000)}) == 30_000
