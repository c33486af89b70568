"""Real node processes for tests: started on free ports, waited for, and ended by their process id."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from app.wire.protocol import GET, IS_ALIVE, KEY_DNE_ERR, NO_ERR
from proto_gen.key_value_pb2 import KVResponse
from tests.wire.datagrams import request, response

REPOSITORY: Final = Path(__file__).parent.parent.parent
HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.02


def until(what: str, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until a condition holds; fail when that takes too long."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(_POLL_S)


def free_port() -> int:
    """A port that no UDP nor TCP socket uses, below those that the kernel gives out by itself."""
    while True:
        port = random.randrange(10_000, 32_000)
        with ExitStack() as taken:
            try:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    taken.enter_context(socket.socket(socket.AF_INET, kind)).bind(("", port))
            except OSError:
                continue
            return port


def environment() -> dict[str, str]:
    """This process's, without settings for nodes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KV_", "PYTHONMALLOC"))}


def run_to_its_end(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run app/main.py and wait for it to leave by itself."""
    return subprocess.run(
        [sys.executable, "app/main.py", *arguments],
        cwd=REPOSITORY,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Node:
    """A node's process, alone in its cluster."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        servers = directory / f"servers-{self.port}.txt"
        servers.write_text(f"{HOST}:{self.port}\n")
        self.log_path = directory / f"node-{self.port}.log"
        self._asked = 0
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app/main.py", str(self.port), str(servers), "--bind", HOST, *options],
                cwd=REPOSITORY,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def socket(self, timeout_s: float = DEADLINE_S) -> socket.socket:
        """A UDP socket that is connected to the node."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout_s)
        sock.connect((HOST, self.port))
        return sock

    def ask(self, command: int, **fields: object) -> KVResponse | None:
        """One request, one try; None when there is no answer."""
        self._asked += 1
        message_id = b"nodes.py %d" % self._asked
        try:
            with self.socket(timeout_s=1.0) as sock:
                sock.send(request(message_id, command=command, **fields))
                return response(sock.recv(65_535), message_id)
        except OSError:
            return None

    def code(self, command: int, **fields: object) -> int:
        answer = self.ask(command, **fields)
        assert answer is not None, f"no answer; the log:\n{self.log}"
        return answer.errCode

    def is_ready(self) -> bool:
        """Alive, and serving its slots."""
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

    def end(self) -> None:
        """Whatever it does, it is gone afterwards."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(timeout=DEADLINE_S)


@contextmanager
def running(directory: Path, *options: str) -> Iterator[Node]:
    """A node that serves; it is ended on the way out. Another port is tried if somebody was faster at it."""
    for attempt in range(3):
        node = Node(directory, *options)
        try:
            until(f"node on {node.port} is ready", lambda node=node: node.process.poll() == 2 or node.is_ready())  # type: ignore[misc]
            if node.process.poll() is not None and attempt < 2:
                continue
            yield node
            return
        finally:
            node.end()
