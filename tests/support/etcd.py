"""Real etcds for tests: processes of this machine, in a directory of their own, each ended by its own pid; and a
forwarder that can swallow answers."""

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.support.polling import poll
from tests.support.ports import HOST, free_ports

PROGRAM: Final = shutil.which("etcd")
ABSENT: Final = "no etcd here (apt-get install etcd-server): what a node does with one is not tested"


class Member:
    """One member of an etcd; started, killed and stopped as often as wanted."""

    def __init__(self, directory: Path, name: str, url: str, peers: dict[str, str], options: Sequence[str]) -> None:
        """`url`: where clients reach it. `peers`: where all members reach each other, itself among them."""
        self.name = name
        self.url = url
        self.host, _, port = url.partition("://")[2].partition(":")
        self.port = int(port)
        self.data = directory / name
        self.certificate: tuple[Path, Path] | None = None  # and its key, if it asks clients for one
        self._log = directory / f"{name}.log"
        self._arguments = [
            *(PROGRAM or "etcd", "--name", name, "--data-dir", str(self.data), "--log-outputs", "stderr"),
            *("--listen-client-urls", url, "--advertise-client-urls", url, "--logger", "zap"),
            *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
            *("--initial-cluster", ",".join(f"{each}={at}" for each, at in peers.items())),
            *("--heartbeat-interval", "50", "--election-timeout", "500", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def send(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def post(self, path: str, content: dict[str, Any], token: str = "") -> dict[str, Any]:
        """What it answers; `token`: of an authentication. Raises OSError where it does not."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5.0)
        if self.url.startswith("https"):
            context = ssl._create_unverified_context()
            if self.certificate is not None:
                context.load_cert_chain(*self.certificate)
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=5.0, context=context)
        try:
            connection.request("POST", path, json.dumps(content), {"Authorization": token} if token else {})
            return json.loads(connection.getresponse().read())  # type: ignore[no-any-return]
        except http.client.HTTPException as error:
            raise OSError(str(error)) from None
        finally:
            connection.close()

    def is_leader(self) -> bool:
        """Whether it leads the others, as it sees it."""
        with suppress(OSError, ValueError):
            status = self.post("/v3/maintenance/status", {})
            return status.get("leader") == status["header"]["member_id"]  # type: ignore[no-any-return]
        return False

    def is_up(self) -> bool:
        """Whether it answers what only a majority can."""
        with suppress(OSError, ValueError):
            return "header" in self.post("/v3/kv/range", {"key": b64encode(b"x").decode()})
        return False


@contextmanager
def etcd(
    directory: Path,
    count: int = 1,
    options: Sequence[str] = (),
    *,
    scheme: str = "http",
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[list[Member]]:
    """An etcd of so many members, all up; whatever is left of them is killed at the end. `certificate`: and its key, if
    they ask for one."""
    ports = free_ports(2 * count)
    urls = [f"{scheme}://{HOST}:{port}" for port in ports[:count]]
    peers = {f"e{number}": f"http://{HOST}:{port}" for number, port in enumerate(ports[count:])}
    members = [Member(directory, name, url, peers, options) for name, url in zip(peers, urls, strict=True)]
    for member in members:
        member.certificate = certificate
    with running(members):
        yield members


@contextmanager
def running(members: list[Member]) -> Iterator[list[Member]]:
    """These are started, and up; whatever is left of them is killed at the end."""
    try:
        for member in members:
            member.start()
        poll(lambda: all(member.is_up() for member in members), 30.0, "etcd is up")
        yield members
    finally:
        for member in members:
            member.send(signal.SIGCONT)
            member.kill()


class Forwarder:
    """A TCP forwarder to an etcd that can keep answers to itself, while what was asked for is done."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self.swallows = threading.Event()
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else the thread still waits there
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._to))
            except OSError:
                return
            for one, other, is_answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(one, other, is_answer), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if is_answer and self.swallows.is_set():
                    self.swallowed += 1
                    continue
                other.sendall(data)
        for sock in (one, other):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
