"""The functional test client: it passes a right node, and fails a node with any one of these bugs by name."""

from zlib import crc32

import pytest

from app.client import codec
from app.wire.protocol import GET, INVALID_VAL_ERR, KEY_DNE_ERR, NO_ERR, TYPE_ACK, UNKNOWN_CMD_ERR
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Peer, drop
from tests.support.polling import poll
from tests.support.ports import free_port
from tools import checks, testclient


@pytest.fixture(autouse=True)
def _no_long_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers answer strictly in order, so that nothing is left to wait for."""
    monkeypatch.setattr(checks, "QUIET_S", 0.001)


def run(peer: Peer, *more: str) -> int:
    return testclient.main(["127.0.0.1", str(peer.port), *more])


def test_a_right_node_passes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        status = run(peer, "--destructive")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert status == 0
    assert len(lines) > 140
    assert lines[-1] == f"{len(lines) - 1} of {len(lines) - 1} checks passed, 0 failed"
    assert peer.store == {}


def test_it_leaves_no_keys_behind_and_others_alone() -> None:
    with Peer() as peer:
        peer.store[b"somebody's"] = (b"value", 1)
        assert run(peer, "-q") == 0
        assert peer.store == {b"somebody's": (b"value", 1)}


class ForgetsReplies(Peer):
    def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
        return self.execute(request)


class RemembersReads(Peer):
    def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
        if message_id not in self.replies:
            self.replies[message_id] = self.execute(request)
        return self.replies[message_id]


class CutsMessageIds(Peer):
    def response_to(self, message_id: bytes, request: KVRequest) -> KVResponse:
        return super().response_to(message_id[:16], request)


class LeavesZerosOut(Peer):
    def envelope(self, message_id: bytes, response: KVResponse) -> bytes:
        if response.errCode == NO_ERR:
            response.ClearField("errCode")
        return super().envelope(message_id, response)


class NeverChecks(Peer):
    def checksum_is_right(self, message: Msg) -> bool:
        return True


class ChecksHalf(Peer):
    def checksum_is_right(self, message: Msg) -> bool:
        return not (message.checkSum ^ crc32(message.messageID + message.payload)) & 0x7FFFFFFF


class SpoilsChecksums(Peer):
    def envelope(self, message_id: bytes, response: KVResponse) -> bytes:
        message = Msg.FromString(super().envelope(message_id, response))
        if response.HasField("pid"):
            message.checkSum ^= 1
        return message.SerializeToString()


class CutsLongValues(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        response = super().put(request)
        if response.errCode == NO_ERR:
            self.store[request.key] = (request.value[:8000], request.version)
        return response


class RefusesEmptyValues(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        return super().put(request) if request.value else KVResponse(errCode=INVALID_VAL_ERR)


class TakesAnyLength(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        self.store[request.key] = (request.value, request.version)
        return KVResponse(errCode=NO_ERR)


class DropsTheSign(Peer):
    def put(self, request: KVRequest) -> KVResponse:
        request.version &= 0x7FFFFFFF
        return super().put(request)


class AnswersAcks(Peer):
    def answer_to(self, datagram: bytes) -> bytes | None:
        answer = super().answer_to(datagram)
        if answer is None and datagram[-2:] == bytes([5 << 3, TYPE_ACK]):
            return self.envelope(b"ack", KVResponse(errCode=UNKNOWN_CMD_ERR))
        return answer


class NeverRemoves(Peer):
    def execute(self, request: KVRequest) -> KVResponse:
        if request.command == GET and request.key not in self.store:
            return KVResponse(errCode=NO_ERR, value=b"", version=0)
        return super().execute(request)


class AnswersTwice(Peer):
    def send(self, datagram: bytes, to: tuple[object, ...]) -> None:
        super().send(datagram, to)
        super().send(datagram, to)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ForgetsReplies, "FAIL  the same REMOVE again: expected NO_ERR; seen KEY_DNE_ERR"),
        (ForgetsReplies, "FAIL  GET of version 5 still"),
        (
            ForgetsReplies,
            "FAIL  one REMOVE sent three times at once: expected NO_ERR; seen KEY_DNE_ERR",
        ),
        (RemembersReads, "FAIL  the same GET after a PUT (not remembered)"),
        (CutsMessageIds, "FAIL  GET after that"),
        (LeavesZerosOut, "FAIL  fields in the answer to IS_ALIVE"),
        (NeverChecks, "FAIL  a checksum wrong in its last bit: expected silence, then alive; seen NO_ERR"),
        (NeverChecks, "FAIL  GET after the PUT with a wrong checksum"),
        (ChecksHalf, "FAIL  a checksum wrong in its first bit"),
        (CutsLongValues, "FAIL  GET of an 8,192-byte value"),
        (RefusesEmptyValues, "FAIL  PUT of an explicit empty value: expected NO_ERR; seen INVALID_VAL_ERR"),
        (TakesAnyLength, "FAIL  PUT with a 10,001-byte value"),
        (TakesAnyLength, "FAIL  PUT without a value"),
        (DropsTheSign, "FAIL  GET of version -1"),
        (AnswersAcks, "FAIL  an ack for nothing: expected silence, then alive; seen UNKNOWN_CMD_ERR"),
        (NeverRemoves, "FAIL  GET of a missing key"),
        (AnswersTwice, "FAIL  answers to one request: expected 1; seen 2"),
    ],
)
def test_a_node_with_a_bug_fails_where_it_shows(
    kind: type[Peer], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with kind() as peer:
        status = run(peer, "-q")
    printed = capsys.readouterr().out
    assert status == 1
    assert any(shown.startswith(line) for shown in printed.splitlines()), printed
    assert "PASS" not in printed


def test_an_answer_with_a_wrong_checksum_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with SpoilsChecksums() as peer:
        assert run(peer, "-q", "--timeout", "0.1") == 1
    printed = capsys.readouterr().out
    assert "FAIL  GET_PID: expected NO_ERR pid=(positive); seen no answer" in printed
    assert "FAIL  checksum of the answer to GET_PID" in printed


class DiesOfJunk(Peer):
    def answer_to(self, datagram: bytes) -> bytes | None:
        if datagram == b"":
            self.script = [drop] * 100_000
        return super().answer_to(datagram)


def test_a_node_that_dies_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with DiesOfJunk() as peer:
        status = run(peer, "-q", "--timeout", "0.5")
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[0].startswith("FAIL  an empty datagram")
    assert lines[1].startswith("FAIL  stopped early")
    assert lines[2].endswith("1 failed, stopped early")


def test_nobody_there_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert testclient.main(["127.0.0.1", str(port)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"testclient.py: no answer from 127.0.0.1:{port}: connection refused\n"


def test_the_node_is_named_as_for_the_other_tools(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer() as peer:
        assert testclient.main(["-s", peer.name, "-q"]) == 0
        assert testclient.main([peer.name, "-q", "--timeout", "2"]) == 0
        monkeypatch.setenv("KV_SERVER", peer.name)
        assert testclient.main(["-q"]) == 0
    with Peer([drop] * 100) as silent:
        assert testclient.main(["-s", silent.name, "--timeout", "0.02"]) == 2
        poll(lambda: len(silent.received) == 1, complaint="one try")
    assert "no answer from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["127.0.0.1", "0"],
        ["127.0.0.1", "1", "--frob"],
        ["127.0.0.1", "1", "-s", "127.0.0.1:1"],
        ["-s", "127.0.0.1:1,127.0.0.1:2"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = testclient.main(arguments)
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_how_answers_read() -> None:
    assert checks.tell(codec.KVResponse(errCode=KEY_DNE_ERR)) == "KEY_DNE_ERR"
    assert checks.tell(codec.KVResponse()) == "errCode absent"
    assert checks.tell(codec.KVResponse(errCode=77)) == "errCode=77"
    assert checks.tell(codec.KVResponse(errCode=0, value=b"", version=0)) == "NO_ERR value=b'' version=0"
    assert checks.tell_value(bytes(16)) == repr(bytes(16))
    assert checks.tell_value(bytes(17)) == f"<17 bytes, crc {crc32(bytes(17)):08x}>"
