"""One node as its users meet it: a process, a socket, signals and a log."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.wire.protocol import GET_PID, IS_ALIVE, NO_ERR, PUT, SHUTDOWN, VALUE_MAX_BYTES
from tests.support.nodes import REPOSITORY, Node, ask, cluster, environment, run_python, run_to_its_end, running
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import HOST, free_port, occupied
from tests.wire.datagrams import ack, request, response
from tests.wire.vectors import EMPTY_KEY, MESSAGE_ID, exchanges


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for all tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path) as node:
        yield node


def test_the_golden_vectors_over_the_wire(own_node: Node) -> None:
    """On a fresh node, in order, byte for byte; where nothing is answered, the next answer is the next one's."""
    assert own_node.code(PUT, key=EMPTY_KEY, value=b"") == NO_ERR
    with own_node.socket() as sock:
        for exchange in exchanges():
            sock.send(exchange.request)
            if exchange.response is not None:
                assert sock.recv(65_535) == exchange.response, exchange.name
            sock.send(ack(MESSAGE_ID))
        sock.send(request(b"last", command=IS_ALIVE))
        assert response(sock.recv(65_535), b"last").errCode == NO_ERR


def test_the_test_client_passes_it(node: Node) -> None:
    done = run_python("tools/testclient.py", HOST, str(node.port))
    assert "FAIL" not in done.stdout, done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_the_test_client_passes_its_end_too(own_node: Node) -> None:
    done = run_python("tools/testclient.py", HOST, str(own_node.port), "--destructive", "-q")
    assert "FAIL" not in done.stdout, done.stdout
    assert done.returncode == 0
    assert own_node.process.wait(timeout=DEADLINE_S) == 0  # SHUTDOWN


def test_a_short_flood_reads_back_what_it_wrote(node: Node) -> None:
    load = ("--clients", "16", "--seconds", "2", "--keys", "500", "--json")
    done = run_python("tools/flood.py", HOST, str(node.port), *load)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ops_per_s"] > 50
    reads = result["reads"]
    assert reads["found"] > 10
    assert (reads["wrong"], reads["stale"], reads["missing"]) == (0, 0, 0), reads


def test_its_pid_is_its_own(node: Node) -> None:
    answer = node.ask(GET_PID, patience_s=DEADLINE_S)
    assert answer is not None
    assert answer.pid == node.process.pid


def test_nothing_is_answered_after_shutdown(own_node: Node) -> None:
    """The node is stopped while requests gather in its socket, so that SHUTDOWN stands among others in one batch."""
    with own_node.socket() as sock:
        own_node.process.send_signal(signal.SIGSTOP)
        sock.send(request(b"before", command=IS_ALIVE))
        sock.send(request(b"shutdown", command=SHUTDOWN))
        for n in range(20):
            sock.send(request(b"after %d" % n, command=IS_ALIVE))
        own_node.process.send_signal(signal.SIGCONT)
        assert own_node.process.wait(timeout=DEADLINE_S) == 0
        assert response(sock.recv(65_535), b"before").errCode == NO_ERR
        assert response(sock.recv(65_535), b"shutdown").errCode == NO_ERR
        sock.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionRefusedError)):
            sock.recv(65_535)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as node:
        assert node.code(PUT, key=b"k", value=b"v") == NO_ERR
        node.process.send_signal(number)
        assert node.process.wait(timeout=DEADLINE_S) == 0
        lines = node.log.splitlines()
        assert f" INFO node.stopping cause={number.name}" in node.log
        assert " INFO node.stopped" in lines[-1]
        assert "Traceback" not in node.log


def test_a_secret_file_that_everybody_may_read_is_warned_about(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery staple\n")
    for mode, warnings in ((0o600, 0), (0o644, 1)):
        secret.chmod(mode)
        with cluster(tmp_path, 1, environment={"KV_CLUSTER_SECRET_FILE": str(secret)}) as (node,):
            node.start()
            poll(node.serves)
            assert node.log.count(" authenticated=true ") == 1
            assert node.log.count(f" WARNING node.secret_exposed file={secret} mode=0644\n") == warnings
        (tmp_path / f"{node.port}.log").unlink()


def test_the_secret_and_the_servers_may_come_from_pipes(tmp_path: Path) -> None:
    """The shell's <(...) can be read once."""
    port = free_port()
    script = (
        'KV_CLUSTER_SECRET_FILE=<(echo "correct horse battery staple") exec "$@" <(echo "127.0.0.1:$PORT") 2>"$LOG"'
    )
    log = tmp_path / "log"
    arguments = ["bash", "-c", script, "bash", sys.executable, str(REPOSITORY / "app" / "main.py"), str(port)]
    with subprocess.Popen(arguments, env=environment() | {"PORT": str(port), "LOG": str(log)}) as process:
        try:
            poll(lambda: ask(port, IS_ALIVE) is not None or process.poll() is not None)
        finally:
            process.terminate()
    text = log.read_text()
    assert process.returncode == 0, text
    assert " authenticated=true " in text
    assert " WARNING " not in text


def test_sigusr1_dumps_the_counters(own_node: Node) -> None:
    with own_node.socket() as sock:
        for n in range(3):
            sock.send(request(b"p%d" % n, command=PUT, key=b"k%d" % n, value=bytes(100)))
            sock.recv(65_535)
        sock.send(request(b"p0", command=PUT, key=b"k0", value=bytes(100)))
        sock.recv(65_535)
        sock.send(b"\xff")
        sock.send(ack(b"p1"))
        sock.send(request(b"a", command=IS_ALIVE))
        sock.recv(65_535)
    counters = own_node.counters()
    expected = {
        "requests_PUT": 4,
        "retries_answered": 1,
        "dropped_unparsable": 1,
        "acks": 1,
        "in_flight": 0,
        "entries": 3,
        "evictions": 0,
        "replies_remembered": 2,
    }
    assert {name: counters.get(name) for name in expected} == expected
    assert counters["replies_NO_ERR"] >= 4
    assert counters["store_bytes"] >= 300
    assert 10 << 20 < counters["resident_bytes"] <= counters["peak_resident_bytes"] < 128 << 20


def test_it_says_at_start_what_it_has_got(node: Node) -> None:
    (started,) = (line for line in node.log.splitlines() if " INFO node.started " in line)
    for field in (
        f"pid={node.process.pid}",
        "max_memory_bytes=134217728",
        "policy=allkeys-lru",
        "receive_buffer_bytes=",
    ):
        assert field in started


def test_nothing_is_logged_per_request(own_node: Node) -> None:
    before = own_node.log
    with own_node.socket() as sock:
        for n in range(200):
            sock.send(request(b"%d" % n, command=PUT, key=b"%d" % n, value=bytes(VALUE_MAX_BYTES + n % 2)))
            sock.recv(65_535)
            sock.send(b"\xff junk")
        sock.send(request(b"last", command=IS_ALIVE))
        sock.recv(65_535)
    assert own_node.log.count("\n") <= before.count("\n") + 5


# --- what is wrong is one line and status 2 -------------------------------------------------------------------------


def refusal(*arguments: str, **environment: str) -> str:
    done = run_to_its_end(*arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("kv: ")
    return done.stderr


@pytest.fixture
def servers(tmp_path: Path) -> Path:
    return tmp_path / "servers.txt"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["UDP", "TCP"])
def test_a_port_that_is_taken(servers: Path, kind: socket.SocketKind) -> None:
    port = free_port()
    with occupied(port, kind):
        servers.write_text(f"{HOST}:{port}\n")
        assert str(port) in refusal(str(port), str(servers), "--bind", HOST)


def test_a_malformed_line_of_the_servers_file_is_named(servers: Path) -> None:
    servers.write_text(f"# nodes\n\n{HOST}:3331\nnot a server\n")
    line = refusal("3331", str(servers))
    assert "servers.txt:4" in line or "line 4" in line


def test_a_servers_file_that_is_not_there(servers: Path) -> None:
    assert "servers.txt" in refusal("3331", str(servers))


def test_a_node_that_is_not_in_the_servers_file(servers: Path) -> None:
    servers.write_text(f"{HOST}:3331\n")
    assert "3332" in refusal("3332", str(servers))


@pytest.mark.parametrize("size", ["lots", "1MiB", "0", "-5MB", "9999TiB", "900000GiB"])
def test_an_impossible_memory_size(servers: Path, size: str) -> None:
    servers.write_text(f"{HOST}:3331\n")
    assert size in refusal("3331", str(servers), f"--max-memory={size}")
    assert size in refusal("3331", str(servers), KV_MAX_MEMORY=size)


BROKEN = """
import struct, sys
from app import node
from app.main import main
from app.cluster.membership.core import ClusterCore
from app.requests.replicator import Replicator
from app.storage.governor import MemoryGovernor

def broken(*arguments):
    raise {fault}("seven is not eight")

{place} = broken
sys.exit(main(sys.argv[1:]))
"""
PLACES = {
    "the upkeep": "MemoryGovernor.calibrate",
    "the sweep": "node.Forwarding.sweep",
    "the copies' clock": "Replicator.tick",
    "the end of a turn": "node.Node.end_turn",
    "membership": "ClusterCore.step",
}


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        *((place, fault) for place in PLACES for fault in ("ValueError", "struct.error")),
        *(("the upkeep", fault) for fault in ("AssertionError", "OSError", "RuntimeError")),
    ],
)
def test_a_fault_of_any_type_ends_the_node_wherever_in_the_loop_it_shows(
    place: str, fault: str, tmp_path: Path
) -> None:
    servers = tmp_path / "servers.txt"
    port = free_port()
    servers.write_text(f"127.0.0.1:{port}\n")
    program = BROKEN.format(place=PLACES[place], fault=fault)
    done = run_python("-c", program, str(port), str(servers), KV_LOG_FORMAT="json")
    assert done.returncode == 70
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # nothing but the log writes there
    (told,) = [line for line in lines if line["event"] == "node.fault"]
    assert "seven is not eight" in told["error"]


def test_every_counter_is_documented(own_node: Node) -> None:
    text = (REPOSITORY / "docs" / "logs-and-counters.md").read_text()
    documented = {name for row in re.findall(r"^\| ([a-z_*, ]+) \|", text, re.MULTILINE) for name in row.split(", ")}
    names = list(own_node.counters())
    assert len(names) > 50
    families = tuple(name.removesuffix("*") for name in documented if name.endswith("_*"))
    assert [name for name in names if name not in documented and not name.startswith(families)] == []
    plain = {name for name in documented if "_" in name or name.islower()} - {"counter"}
    plain = {name for name in plain if " " not in name}  # of other tables
    assert {name for name in plain if not name.endswith("*")} - set(names) <= {"event"}
