"""Real nodes for tests: processes on ports of this machine, asked by datagram, each ended by its own pid."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from app.client import codec
from app.client.codec import KVRequest, KVResponse
from app.wire.protocol import GET, GET_MEMBERSHIP_CNT, IS_ALIVE, KEY_DNE_ERR, NO_ERR, PADDING_BYTES, STATUS
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import HOST, free_ports
from tools import nodes

REPOSITORY: Final = Path(__file__).parent.parent.parent
# A lost or late answer is asked for again, by whoever polls.
ANSWER_S: Final = 0.1
# What a node that runs answers by itself, without others, comes within so long on any machine: some tests ask once.
OWN_ANSWER_S: Final = 3.0
# Where a test asks once: no machine is that slow.
PATIENT_S: Final = 10.0
# For one call of a client with thousands of keys; the ten seconds of every call are for machines that are idle.
MANY_KEYS_S: Final = 60.0


def environment() -> dict[str, str]:
    """This process's, without settings for nodes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KV_", "PYTHONMALLOC"))}


def run_to_its_end(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run app/main.py, with further environment variables, and wait for it to leave by itself."""
    return run_python("app/main.py", *arguments, **more)


def run_python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the repository to its end, with further environment variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


def ask(
    port: int,
    command: int,
    *,
    patience_s: float = ANSWER_S,
    host: str = HOST,
    message_id: bytes = b"",
    **fields: object,
) -> KVResponse | None:
    """What the node there answers to one request, tried once; None when nothing has come in time. `message_id`: empty:
    a fresh one."""
    message_id = message_id or os.urandom(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience_s)
        sock.connect((host, port))
        try:
            sock.send(codec.encode_request(message_id, KVRequest(command, **fields)))  # type: ignore[arg-type]
            answered, response = codec.decode_response(sock.recv(65_535))
        except OSError:  # refused, or timed out
            return None
    assert answered == message_id
    return response


class Node(nodes.NodeProcess):
    """One node's process; started anew as often as wanted."""

    def __init__(
        self,
        port: int,
        servers: Path,
        options: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
        host: str = HOST,
    ) -> None:
        """`more`: environment variables."""
        super().__init__(port, servers, options, environment() | dict(more or {}), host)

    def socket(self, timeout_s: float = DEADLINE_S) -> socket.socket:
        """A UDP socket that is connected to the node."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout_s)
        sock.connect((self.host, self.port))
        return sock

    def ask(
        self, command: int, *, patience_s: float = ANSWER_S, message_id: bytes = b"", **fields: object
    ) -> KVResponse | None:
        """One request, one try; None when there is no answer."""
        return ask(self.port, command, patience_s=patience_s, host=self.host, message_id=message_id, **fields)

    def code(self, command: int, **fields: object) -> int:
        """The errCode of the answer, which must come."""
        answer = self.ask(command, patience_s=PATIENT_S, **fields)
        assert answer is not None, f"no answer; the log:\n{self.log}"
        return answer.errCode

    def member_count(self) -> int:
        """GET_MEMBERSHIP_CNT; 0 when it does not answer."""
        answer = self.ask(GET_MEMBERSHIP_CNT, patience_s=OWN_ANSWER_S)
        return answer.membershipCount if answer is not None else 0

    def status(self) -> dict[str, Any]:
        """STATUS; empty when it does not answer, or says that it has too much to do."""
        answer = self.ask(STATUS, patience_s=OWN_ANSWER_S, value=bytes(PADDING_BYTES))
        return {} if answer is None or answer.value is None else json.loads(answer.value)

    def serves(self) -> bool:
        """Whether it is alive, and executes requests. It must not have ended."""
        assert self.process.poll() is None, f"left with status {self.process.returncode}:\n{self.log}"
        for command, expected in ((IS_ALIVE, NO_ERR), (GET, KEY_DNE_ERR)):
            answer = self.ask(command, key=b"is it ready?")
            if answer is None or answer.errCode != expected:
                return False
        return True

    def status_field_bytes(self, name: str) -> int:
        """A size from /proc/PID/status: VmRSS, VmHWM."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith(name + ":"))
        return int(value) * 1024


@contextmanager
def cluster(
    directory: Path, count: int, *, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
) -> Iterator[list[Node]]:
    """Nodes of one servers file in `directory`, not started yet; whatever is left of them is killed at the end.

    Their logs are printed if the test fails.
    """
    ports = free_ports(count)
    servers = nodes.write_servers(directory, ports)
    made = [Node(port, servers, arguments, environment) for port in ports]
    try:
        yield made
    except AssertionError:
        for node in made:
            if node.log_path.exists():
                print(f"--- {node.name}\n{node.log}")
        raise
    finally:
        for node in made:
            node.close()


@contextmanager
def running(directory: Path, *options: str) -> Iterator[Node]:
    """A node that serves, alone in its cluster; it is ended on the way out."""
    with cluster(directory, 1, arguments=("--bind", HOST, *options)) as (node,):
        node.start()
        poll(node.serves, complaint=f"node {node.port} serves")
        yield node


def await_count(nodes: Sequence[Node], count: int, deadline_s: float = DEADLINE_S) -> float:
    """Wait until every one of these counts so many members; how long that took."""
    waiting = list(nodes)

    def agree() -> bool:
        while waiting and waiting[-1].member_count() == count:
            waiting.pop()
        return not waiting

    return poll(agree, deadline_s, lambda: str([(node.name, node.member_count()) for node in nodes]))
