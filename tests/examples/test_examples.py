"""The clients in examples/, each as a command, against a real node and on a network that loses and refuses.

A client whose language's tools are not on this machine is skipped.
"""

import atexit
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from app.wire.protocol import GET, IS_ALIVE, KEY_DNE_ERR, NO_ERR, PUT, TYPE_REQUEST
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.examples.forwarder import (
    Address,
    Forwarder,
    envelope,
    lose_answer,
    lose_request,
    pass_on,
    refuse,
)
from tests.support.nodes import PATIENT_S, REPOSITORY, Node, environment, running
from tests.support.polling import DEADLINE_S
from tests.support.ports import HOST, free_port

EXAMPLES: Final = REPOSITORY / "examples"
SAYS_NO: Final = 1  # the exit statuses
USAGE: Final = 2
NO_ANSWER: Final = 3
TRIES: Final = 5
CLIENTS: Final = ("Kv.java", "kv.go", "kv.mjs")
# It runs for so short a time that only its start counts; and what a datagram says must not have it take much memory.
JAVA_OPTIONS: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m")
COMPILE_S: Final = 120.0


class Client(NamedTuple):
    name: str
    command: Sequence[str]

    def start(self, ports: Sequence[int], *words: str) -> subprocess.Popen[str]:
        """`words`: of its command line, after the servers."""
        servers = [f"{HOST}:{port}" for port in ports]
        if self.name == "alive.sh":
            assert (len(ports), words) == (1, ("alive",))
            arguments = [HOST, str(ports[0])]
        else:
            arguments = [",".join(servers), *words]
        return subprocess.Popen(
            [*self.command, *arguments],
            env=environment() | {"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, ports: Sequence[int], *words: str) -> tuple[int, str]:
        """The exit status and what it has printed, to the output and then to the error output."""
        return ended(self.start(ports, *words))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, error = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output + error


def need(program: str, option: str, version: int) -> str:
    """Skip the test without that program of at least that version; its path."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program} here: its example is not tested")
    text = subprocess.run([path, option], capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout
    found = re.search(r"(?:go1\.|v|javac )(\d+)", text)
    if found is None or int(found[1]) < version:
        pytest.skip(f"{program} is not new enough for its example: {text.strip()}")
    return path


@cache
def made(name: str) -> Client:
    """That client, ready to run; compiled if it has to be, into a directory that is removed at the end of all tests."""
    source = EXAMPLES / name
    if name == "alive.sh":
        return Client(name, [str(source)])
    if name == "kv.mjs":
        return Client(name, [need("node", "--version", 18), str(source)])
    directory = Path(tempfile.mkdtemp(prefix="kv-examples-"))
    atexit.register(shutil.rmtree, directory)
    if name == "Kv.java":
        compiler = [need("javac", "-version", 17), "-d", str(directory)]
        command = ["java", *JAVA_OPTIONS, "-cp", str(directory), "Kv"]
    else:
        compiler = [need("go", "version", 19), "build", "-o", str(directory / "kv")]
        command = [str(directory / "kv")]
    done = subprocess.run(
        [*compiler, str(source)], env=environment(), capture_output=True, text=True, timeout=COMPILE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return Client(name, command)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    return made(request.param)


@pytest.fixture(params=[*CLIENTS, "alive.sh"])
def any_client(request: pytest.FixtureRequest) -> Client:
    """The same, and the one that knows only IS_ALIVE."""
    return made(request.param)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("node")) as one:
        yield one


def stored(node: Node, key: str) -> tuple[str, int] | None:
    """The value and version that it has, or None."""
    answer = node.ask(GET, patience_s=PATIENT_S, key=key.encode())
    assert answer is not None
    assert answer.errCode in (NO_ERR, KEY_DNE_ERR)
    return (answer.value.decode(), answer.version) if answer.errCode == NO_ERR else None


def store(node: Node, key: str, value: str) -> None:
    assert node.code(PUT, key=key.encode(), value=value.encode()) == NO_ERR


def message_id(datagram: bytes) -> bytes:
    return Msg.FromString(datagram).messageID


def tries_of_one(forwarder: Forwarder) -> int:
    """How often the one request was tried that came: oftener than the script has it where an answer is late, as on a
    busy machine."""
    assert len(set(forwarder.requests)) == 1
    return len(forwarder.requests)


def test_put_get_and_remove(client: Client, node: Node) -> None:
    to = [node.port]
    assert client.run(to, "put", "Grüße", "世界", "-5") == (0, "")
    assert stored(node, "Grüße") == ("世界", -5)
    assert client.run(to, "get", "Grüße") == (0, "世界\n")
    assert client.run(to, "put", "Grüße", "") == (0, "")
    assert client.run(to, "get", "Grüße") == (0, "\n")
    assert client.run(to, "remove", "Grüße") == (0, "")
    assert stored(node, "Grüße") is None
    for command in "get", "remove":
        status, text = client.run(to, command, "Grüße")
        assert status == SAYS_NO
        assert re.fullmatch(rf"[Kk]v: {command}: no such key\n", text)


def test_lengths(client: Client, node: Node) -> None:
    to = [node.port]
    assert client.run(to, "put", "k" * 32, "v" * 10_000) == (0, "")
    assert client.run(to, "get", "k" * 32) == (0, "v" * 10_000 + "\n")
    for key, value, status, complaint in (
        ("k" * 33, "v", SAYS_NO, "a key has 1 to 32 bytes"),
        ("k", "v" * 10_001, SAYS_NO, "a value has at most 10,000 bytes"),
        ("k", "v" * 20_000, USAGE, "key or value is too long"),
    ):
        found, text = client.run(to, "put", key, value)
        assert found == status
        assert re.fullmatch(rf"[Kk]v: put: {complaint}\n", text)


def test_wrong_arguments(client: Client) -> None:
    for words in [], ["get"], ["get", "a", "b"], ["put", "a", "b", "c"], ["fetch", "a"]:
        status, text = client.run([free_port()], *words)
        assert status == USAGE
        assert re.fullmatch(r"[Kk]v: HOST:PORT.* get KEY \| put KEY VALUE .*\n", text)


def test_java_runs_the_source(node: Node) -> None:
    made("Kv.java")
    client = Client("Kv.java", ["java", *JAVA_OPTIONS, str(EXAMPLES / "Kv.java")])
    assert client.run([node.port], "alive") == (0, "")


def test_a_node_that_is_alive(any_client: Client, node: Node) -> None:
    status, text = any_client.run([node.port], "alive")
    assert status == 0
    assert text == (f"{HOST}:{node.port} is alive\n" if any_client.name == "alive.sh" else "")


def test_a_host_that_is_not_there(any_client: Client) -> None:
    to = ["no.such.host.invalid", "1"] if any_client.name == "alive.sh" else ["no.such.host.invalid:1", "alive"]
    status, text = ended(
        subprocess.Popen([*any_client.command, *to], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    assert status == USAGE
    assert "no.such.host.invalid" in text
    assert text.count("\n") == 1


def test_the_shell_is_told_that_nothing_listens() -> None:
    port = free_port()
    expected = f"alive.sh: nothing listens at {HOST}:{port}, or no way leads there\n"
    assert made("alive.sh").run([port], "alive") == (NO_ANSWER, expected)


def test_a_remove_whose_answer_is_lost_takes_effect_once_and_succeeds(client: Client, node: Node) -> None:
    store(node, "once", "value")
    with Forwarder(node.port, [lose_answer, lose_request]) as forwarder:
        # A second removal would be told that there is no such key.
        assert client.run([forwarder.port], "remove", "once") == (0, "")
        assert tries_of_one(forwarder) >= 3
        assert stored(node, "once") is None
        # Another request has another messageID, or it would be told the first one's success.
        status, _ = client.run([forwarder.port], "remove", "once")
        assert status == SAYS_NO
        assert len({message_id(datagram) for datagram in forwarder.requests}) == 2


def test_a_put_whose_answer_is_lost_does_not_overwrite_what_is_newer(client: Client, node: Node) -> None:
    def lose_answer_to_the_older(forwarder: Forwarder, datagram: bytes, sender: Address) -> None:
        lose_answer(forwarder, datagram, sender)
        store(node, "order", "newer")

    with Forwarder(node.port, [lose_answer_to_the_older]) as forwarder:
        assert client.run([forwarder.port], "put", "order", "older") == (0, "")
        assert tries_of_one(forwarder) >= 2
    assert stored(node, "order") == ("newer", 0)


def test_a_lost_request_is_repeated(any_client: Client, node: Node) -> None:
    with Forwarder(node.port, [lose_request]) as forwarder:
        assert any_client.run([forwarder.port], "alive")[0] == 0
        assert tries_of_one(forwarder) >= 2


def test_another_server_is_tried(client: Client, node: Node) -> None:
    with Forwarder(node.port, repeat(lose_request)) as dead, Forwarder(node.port) as alive:
        assert client.run([dead.port, alive.port], "put", "elsewhere", "value") == (0, "")
        assert set(dead.requests) == set(alive.requests)
        assert tries_of_one(alive) >= 1
    assert stored(node, "elsewhere") == ("value", 0)


def test_a_late_answer_of_the_former_server_is_taken(client: Client, node: Node) -> None:
    store(node, "late", "value")
    late: list[tuple[bytes, Address]] = []
    with ExitStack() as stack:

        def keep_answer(forwarder: Forwarder, datagram: bytes, sender: Address) -> None:
            late.append((forwarder.ask(datagram), sender))

        former = stack.enter_context(Forwarder(node.port, repeat(keep_answer)))

        def have_it_answered(forwarder: Forwarder, datagram: bytes, sender: Address) -> None:
            former.send(*late[0])

        latter = stack.enter_context(Forwarder(node.port, repeat(have_it_answered)))
        assert client.run([former.port, latter.port], "get", "late") == (0, "value\n")


def no_answers(request: bytes) -> Iterator[bytes]:
    """Datagrams that are no answer to it, all with an error that must not be told."""
    payload = KVResponse(errCode=KEY_DNE_ERR, value=b"wrong").SerializeToString()
    right = envelope(message_id(request), payload)
    yield b"\xff" * 40
    yield right[:-1] + b"\x07"  # of a type that nobody knows
    yield envelope(message_id(request), payload, TYPE_REQUEST)
    yield envelope(bytes(16), payload)  # to another request
    yield envelope(message_id(request)[:-1], payload)
    yield right.replace(b"wrong", b"wrung")  # its checksum is not right
    for cut in 1, 3, len(right) // 2:
        yield right[:-cut]
    for length in "ffffffffffffffffff01", "ffffffff87ffffffff01", "ffffffff07", "8080808080808080808001":
        yield right + bytes.fromhex("3a" + length)  # a field of so many bytes; the last one is no number
    yield right + b"\x3b"  # a field of a kind that is not known
    yield envelope(message_id(request), payload + b"\x12\x7f")  # all is well but the payload, which is cut short


def test_what_is_no_answer_is_ignored(any_client: Client, node: Node) -> None:
    store(node, "real", "value")

    def answer_among_others(forwarder: Forwarder, datagram: bytes, sender: Address) -> None:
        for other in no_answers(datagram):
            forwarder.send(other, sender)
        pass_on(forwarder, datagram, sender)

    with Forwarder(node.port, [answer_among_others]) as forwarder:
        words = ["alive"] if any_client.name == "alive.sh" else ["get", "real"]
        status, text = any_client.run([forwarder.port], *words)
        assert status == 0
        assert text in ("value\n", f"{HOST}:{forwarder.port} is alive\n")


def test_fields_come_in_any_order_and_unknown_ones_are_skipped(any_client: Client, node: Node) -> None:
    # Each kind, among them numbers of more than one byte: 100 as a number, 16 as fixed64, bytes, fixed32.
    unknown = bytes.fromhex("a006ffff03 8101 0102030405060708 a20603616263 a50601020304")

    def answer_turned(forwarder: Forwarder, datagram: bytes, sender: Address) -> None:
        answer = Msg.FromString(forwarder.ask(datagram))
        response = KVResponse.FromString(answer.payload)
        value = KVResponse(value=response.value).SerializeToString() if response.HasField("value") else b""
        payload = (
            unknown + KVResponse(version=response.version).SerializeToString() + b"\x12\x01x" + value + b"\x08\x00"
        )
        whole = Msg.FromString(envelope(answer.messageID, payload))
        parts = [
            Msg(type=whole.type),
            Msg(messageID=b"an earlier one is replaced"),
            Msg(checkSum=whole.checkSum),
            Msg(payload=whole.payload),
            Msg(messageID=whole.messageID),
        ]
        forwarder.send(unknown + b"".join(part.SerializeToString() for part in parts) + unknown, sender)

    store(node, "turned", "value")
    with Forwarder(node.port, repeat(answer_turned)) as forwarder:
        words = ["alive"] if any_client.name == "alive.sh" else ["get", "turned"]
        status, text = any_client.run([forwarder.port], *words)
        assert status == 0
        assert text in ("value\n", f"{HOST}:{forwarder.port} is alive\n")


def test_the_wait_of_a_refusal_is_honoured(any_client: Client, node: Node) -> None:
    wait_ms = 400  # longer than the silence after a first try
    with Forwarder(node.port, [refuse(wait_ms)]) as forwarder:
        assert any_client.run([forwarder.port], "alive")[0] == 0
        assert tries_of_one(forwarder) >= 2
        before, after = forwarder.arrived_at[:2]
        assert after - before >= 0.99 * wait_ms / 1000  # timers count in milliseconds


def test_a_try_that_would_come_too_late_is_not_made(client: Client, node: Node) -> None:
    with Forwarder(node.port, chain([lose_answer], repeat(refuse(6000)))) as forwarder:
        status, text = client.run([forwarder.port], "put", "too late", "value")
        assert status == NO_ANSWER
        assert re.fullmatch(r"[Kk]v: put: overloaded.*, but one before got no answer\n", text)
        assert tries_of_one(forwarder) >= 2


def test_giving_up(node: Node) -> None:
    """All clients at once, since it takes seconds: one of each that nobody answers, and one that is refused again and
    again."""
    clients = []
    for name in [*CLIENTS, "alive.sh"]:
        try:
            clients.append(made(name))
        except pytest.skip.Exception as missing:
            print(missing)
    with ExitStack() as stack:
        started = []
        for client in clients:
            for fault in lose_request, refuse(6000):
                forwarder = stack.enter_context(Forwarder(node.port, repeat(fault)))
                started.append((client.name, fault, forwarder, client.start([forwarder.port], "alive")))
        for name, fault, forwarder, process in started:
            status, text = ended(process)
            print(name, status, text)
            assert text.count("\n") == 1
            tries = tries_of_one(forwarder)
            if fault is lose_request:
                assert (status, tries) == (NO_ANSWER, TRIES)
                assert f"no answer from {HOST}:{forwarder.port}" in text
            else:
                assert (status, tries >= 2) == (SAYS_NO, True)
                assert "overloaded" in text


def test_the_documented_bytes_are_those_of_the_wire() -> None:
    text = (REPOSITORY / "docs" / "protocol.md").read_text()
    section = text[text.index("## Without a library") :]
    shown: list[str] = []  # the request, the answer
    for digits, field in re.findall(r"^    ((?: *[0-9a-f]{2}\b)+) +(\w+): ", section, re.MULTILINE):
        if field == "messageID":
            shown.append("")
        shown[-1] += digits.replace(" ", "")
    vectors = {one["name"]: one for one in json.loads((REPOSITORY / "tests" / "vectors.json").read_text())["vectors"]}
    assert shown == [vectors["put"]["request"], vectors["put"]["response"]]
    assert KVRequest.FromString(Msg.FromString(bytes.fromhex(shown[0])).payload).value == b"value"
    assert IS_ALIVE == 6  # what alive.sh has as bytes
