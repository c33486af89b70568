"""deploy/supervisord.conf under a real supervisord, with real nodes: who comes back and who stays down.

The shipped file itself is what runs: only its ports, its Python and the place of its run directory are
others, so that the test disturbs nobody.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from supervisor.xmlrpc import SupervisorTransport

from app.config import servers
from app.wire.protocol import GET_PID, IS_ALIVE, NO_ERR, SHUTDOWN, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg

REPOSITORY = Path(__file__).parent.parent.parent
DEPLOY = REPOSITORY / "deploy"
SHIPPED_PORTS = range(3331, 3336)
DEADLINE_S = 30.0  # generous: what is waited for takes 1 to 3 s on an idle machine
POLL_S = 0.02


def until(what: str, condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; fail with `what` at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(POLL_S)


def ask(port: int, command: int) -> KVResponse | None:
    """One try of a command at the node of this machine; None when no answer comes."""
    message_id = os.urandom(16)
    payload = KVRequest(command=command).SerializeToString()
    request = Msg(messageID=message_id, payload=payload, checkSum=crc32(message_id + payload))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect(("127.0.0.1", port))
        try:
            sock.send(request.SerializeToString())
            answer = Msg.FromString(sock.recv(1 << 16))
        except OSError:
            return None
    assert (answer.type, answer.messageID) == (TYPE_RESPONSE, message_id)
    return KVResponse.FromString(answer.payload)


def is_alive(port: int) -> bool:
    answer = ask(port, IS_ALIVE)
    return answer is not None and answer.errCode == NO_ERR


def free_ports(count: int) -> range:
    """Consecutive ports that nothing uses, below those that the kernel gives out by itself."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        with ExitStack() as taken:
            try:
                for port in range(first, first + count):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        taken.enter_context(socket.socket(socket.AF_INET, kind)).bind(("", port))
            except OSError:
                continue
            return range(first, first + count)
    raise AssertionError("no free ports")


def replaced(text: str, old: str, new: str, count: int) -> str:
    assert text.count(old) == count, f"{old!r} is there {text.count(old)} times, not {count}"
    return text.replace(old, new)


class Supervisor:
    """A running supervisord and its nodes."""

    def __init__(self, here: Path, ports: range) -> None:
        self.ports = ports
        self.here = here
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(here / "supervisord.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("KV_")},
        )

    @property
    def rpc(self) -> Any:
        """A fresh connection: one that supervisord has closed would fail the next call."""
        address = f"unix://{self.here}/run/supervisor.sock"
        return xmlrpc.client.ServerProxy("http://localhost", SupervisorTransport(None, None, address)).supervisor

    def is_up(self) -> bool:
        assert self.process.poll() is None, f"supervisord left: {self.log()}"
        try:
            return bool(self.rpc.getState()["statename"] == "RUNNING")
        except OSError:
            return False

    def log(self) -> str:
        path = self.here / "run" / "supervisord.log"
        return path.read_text() if path.exists() else "no log"

    def node(self, port: int) -> dict[str, Any]:
        info = self.rpc.getProcessInfo(f"kv:{port}")
        assert isinstance(info, dict)
        return info

    def state(self, port: int) -> str:
        return str(self.node(port)["statename"])

    def serves(self, port: int) -> bool:
        """Whether the node counts as started and the process that answers is supervisord's own child."""
        info = self.node(port)
        assert info["statename"] != "FATAL", self.log()
        answer = ask(port, GET_PID) if info["statename"] == "RUNNING" else None
        return answer is not None and answer.pid == info["pid"]

    def stop(self) -> None:
        """End supervisord, which ends its nodes; whatever of ours is left then, by its pid."""
        pids = []
        if self.process.poll() is None:
            with suppress(OSError):  # it never came up, so it has no nodes
                pids = [info["pid"] for info in self.rpc.getAllProcessInfo() if info["pid"]]
            self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    here = tmp_path_factory.mktemp("kv")  # short: a socket's path has 107 bytes at most
    (here / "run").mkdir()
    ports = free_ports(len(SHIPPED_PORTS))
    conf = (DEPLOY / "supervisord.conf").read_text()
    conf = replaced(conf, "\nnumprocs_start=3331\n", f"\nnumprocs_start={ports[0]}\n", 1)
    conf = replaced(conf, "%(here)s/../.venv/bin/python", sys.executable, 1)
    conf = replaced(conf, "%(here)s/../app/main.py", str(REPOSITORY / "app" / "main.py"), 1)
    (here / "supervisord.conf").write_text(conf)
    listed = (DEPLOY / "servers-5.txt").read_text()
    for shipped, port in zip(SHIPPED_PORTS, ports, strict=True):
        listed = replaced(listed, f"127.0.0.1:{shipped}\n", f"127.0.0.1:{port}\n", 1)
    (here / "servers-5.txt").write_text(listed)

    supervisor = Supervisor(here, ports)
    try:
        until("supervisord answers", supervisor.is_up)
        for port in ports:
            until(f"node {port} serves", lambda port=port: supervisor.serves(port))  # type: ignore[misc]
        yield supervisor
    finally:
        supervisor.stop()


def test_the_nodes_that_are_started_are_those_in_the_servers_file() -> None:
    conf = (DEPLOY / "supervisord.conf").read_text()
    assert f"\nnumprocs={len(SHIPPED_PORTS)}\nnumprocs_start={SHIPPED_PORTS[0]}\n" in conf
    listed = servers.load(str(DEPLOY / "servers-5.txt"))
    assert [server.port for server in listed] == list(SHIPPED_PORTS)
    for server in listed:
        assert servers.find_me(listed, server.port, name="servers-5.txt") == server


def test_all_nodes_come_up(supervisor: Supervisor) -> None:
    states = {port: supervisor.state(port) for port in supervisor.ports}
    assert states == dict.fromkeys(supervisor.ports, "RUNNING")
    for port in supervisor.ports:
        assert " INFO node.started " in (supervisor.here / "run" / f"{port}.log").read_text()


def test_a_killed_node_comes_back_and_one_that_was_shut_down_stays_down(supervisor: Supervisor) -> None:
    told, killed, stopped = supervisor.ports[:3]

    ask(told, SHUTDOWN)
    until("the node that was told SHUTDOWN exits", lambda: supervisor.state(told) == "EXITED")
    exited = supervisor.node(told)
    assert exited["exitstatus"] == 0

    old_pid = supervisor.node(killed)["pid"]
    os.kill(old_pid, signal.SIGKILL)
    until("the killed node is noticed", lambda: supervisor.node(killed)["pid"] != old_pid)
    until("the killed node serves again", lambda: supervisor.serves(killed))

    supervisor.rpc.stopProcess(f"kv:{stopped}")
    halted = supervisor.node(stopped)
    assert (halted["statename"], halted["exitstatus"]) == ("STOPPED", 0), "SIGTERM stops a node cleanly"

    # supervisord decides on restarts about once a second, and has restarted another since: it has let this
    # one be.
    still = supervisor.node(told)
    assert (still["statename"], still["start"], still["stop"]) == ("EXITED", exited["start"], exited["stop"])
    assert not is_alive(told)
    assert all(supervisor.serves(port) for port in supervisor.ports[3:])


def test_a_node_that_was_shut_down_can_be_started_again(supervisor: Supervisor) -> None:
    port = supervisor.ports[4]
    ask(port, SHUTDOWN)
    until("the node exits", lambda: supervisor.state(port) == "EXITED")
    supervisor.rpc.startProcess(f"kv:{port}")
    until("the node serves again", lambda: supervisor.serves(port))
