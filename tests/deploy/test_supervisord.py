"""deploy/supervisord.conf under a real supervisord, with real nodes: who comes back and who stays down.

The shipped file itself is what runs: only its ports, its Python and the place of its run directory are
others, so that the test disturbs nobody.
"""

import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport

from app.config import servers
from app.wire.protocol import GET_PID, IS_ALIVE, NO_ERR, SHUTDOWN
from tests.support.nodes import REPOSITORY, ask, environment
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import adjacent_ports

DEPLOY = REPOSITORY / "deploy"
SHIPPED_PORTS = range(3331, 3336)


def is_alive(port: int) -> bool:
    answer = ask(port, IS_ALIVE)
    return answer is not None and answer.errCode == NO_ERR


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
            env=environment(),
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
        answer = ask(port, GET_PID, patience_s=2.0) if info["statename"] == "RUNNING" else None
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
    ports = adjacent_ports(len(SHIPPED_PORTS))
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
        poll(supervisor.is_up, complaint="supervisord answers")
        for port in ports:
            poll(lambda port=port: supervisor.serves(port), complaint=f"node {port} serves")  # type: ignore[misc]
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
    poll(lambda: supervisor.state(told) == "EXITED", complaint="the node that was told SHUTDOWN exits")
    exited = supervisor.node(told)
    assert exited["exitstatus"] == 0

    old_pid = supervisor.node(killed)["pid"]
    os.kill(old_pid, signal.SIGKILL)
    poll(lambda: supervisor.node(killed)["pid"] != old_pid, complaint="the killed node is noticed")
    poll(lambda: supervisor.serves(killed), complaint="the killed node serves again")

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
    poll(lambda: supervisor.state(port) == "EXITED", complaint="the node exits")
    supervisor.rpc.startProcess(f"kv:{port}")
    poll(lambda: supervisor.serves(port), complaint="the node serves again")
