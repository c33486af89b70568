"""The demonstration: it shows a cluster under load, brings back who was killed, and leaves nothing behind."""

import os
import re
import signal
import socket
import urllib.request

import pytest

from tests.support.polling import DEADLINE_S
from tests.support.ports import adjacent_ports, occupied
from tests.support.programs import Program
from tools import demo

# As `python tools/demo.py`, but that who was killed is back sooner.
PROGRAM = "import sys; from tools import demo; demo.RESTART_S = 0.2; sys.exit(demo.main(sys.argv[1:]))"


class Running(Program):
    """A demonstration of three nodes."""

    def __init__(self, *arguments: str) -> None:
        self.port = adjacent_ports(6)[0]
        self.http_port = self.port + 3
        ports = ("--port", str(self.port), "--http-port", str(self.http_port))
        super().__init__("-c", PROGRAM, *ports, *arguments)


def pids_of(shown: str) -> list[int]:
    """Of the nodes that have started."""
    return [int(pid) for pid in re.findall(r" node\.started .* pid=([0-9]+) ", shown)]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_cluster_is_shown_until_ctrl_c() -> None:
    with Running() as shown:
        shown.until(lambda text: "at the end, what the load generator has counted" in text)
        pages = re.findall(r"http://127\.0\.0\.1:[0-9]+/(?=\s)", shown.text)
        assert pages == [f"http://127.0.0.1:{shown.http_port + n}/" for n in range(3)]
        for page in pages:
            with urllib.request.urlopen(f"{page}ready", timeout=DEADLINE_S) as answer:
                assert answer.status == 200
        victim = int(re.findall(r"kill -9 ([0-9]+)", shown.text)[0])
        assert victim in pids_of(shown.text)
        os.kill(victim, signal.SIGKILL)
        shown.until(lambda text: "-- started again, pid " in text)
        shown.until(lambda text: len(pids_of(text)) == 4)
        shown.process.send_signal(signal.SIGINT)
        assert shown.status() == 0, shown.text
        assert re.search(r"^[0-9,]+ ops/s .* errors 0  missing 0$", shown.text, re.MULTILINE), shown.text
        assert shown.text.count("-- ended with status 0\n") == 3
        assert all(is_gone(pid) for pid in pids_of(shown.text))


def test_it_ends_by_itself() -> None:
    with Running("--nodes", "2", "--seconds", "1", "--rate", "50") as shown:
        assert shown.status() == 0, shown.text
        assert "2 nodes serve, and 50 requests a second go on" in shown.text
        assert all(is_gone(pid) for pid in pids_of(shown.text))


def test_it_can_be_ended_before_it_is_ready() -> None:
    with Running() as shown:
        shown.until(pids_of)
        shown.process.send_signal(signal.SIGTERM)
        assert shown.status() == 0, shown.text
        assert all(is_gone(pid) for pid in pids_of(shown.text))


@pytest.mark.parametrize(
    ("kind", "at", "option"),
    [(socket.SOCK_DGRAM, 1, "--port"), (socket.SOCK_STREAM, 2, "--port"), (socket.SOCK_STREAM, 3, "--http-port")],
)
def test_a_port_in_use_is_told_in_one_line(
    kind: socket.SocketKind, at: int, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = adjacent_ports(6)[0]
    with occupied(port + at, kind):
        assert demo.main(["--port", str(port), "--http-port", str(port + 3)]) == 2
    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    expected = f"demo.py: {name} port {port + at} can't be had (Address already in use): name other ports by {option}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "arguments",
    [["--nodes", "1"], ["--seconds", "0"], ["--rate", "0"], ["--port", "65534"], ["--http-port", "3333"], ["more"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
