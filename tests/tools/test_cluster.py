"""A cluster on this machine: it starts, its lines are told apart, and Ctrl-C ends it cleanly."""

import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.nodes import run_python
from tests.support.polling import poll
from tests.support.ports import adjacent_ports, free_port, occupied
from tests.support.programs import Program
from tools import cluster


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nodes_start_and_leave(number: signal.Signals) -> None:
    port = adjacent_ports(2)[0]
    with Program("tools/cluster.py", "2", "--port", str(port), "--", "--replicas", "2") as shown:
        for n in (0, 1):
            shown.until(lambda text, n=n: re.search(rf"^{port + n} \| .*members=2", text, re.MULTILINE))  # type: ignore[misc]
        shown.process.send_signal(number)
        assert shown.status() == 0, shown.text
        assert shown.text.count("-- ended with status 0") == 2


def test_nothing_is_left_when_nobody_reads_any_more() -> None:
    """As with `| head`: the node is killed with the first line that can't be passed on."""
    with Program("tools/cluster.py", "1", "--port", str(free_port()), stderr=subprocess.PIPE) as shown:
        shown.until(lambda text: re.search(r" node\.started .* pid=[0-9]+ ", text))
        pid = int(re.findall(r" pid=([0-9]+) ", shown.text)[0])
        shown.stop_reading()
        os.kill(pid, signal.SIGUSR1)  # it writes its counters
        try:
            assert shown.status() == 1
            assert shown.process.stderr is not None
            assert shown.process.stderr.read() == b""
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_where_one_can_not_start_none_runs_on() -> None:
    """Its options are wrong, or its port is taken meanwhile: then there is no use in the others."""
    done = run_python("tools/cluster.py", "3", "--port", str(adjacent_ports(3)[0]), "--", "--policy", "none")
    assert done.returncode == 2
    assert "isn't one of allkeys-lru, noeviction" in done.stdout
    assert "-- ended with status 2" in done.stdout
    program = (
        "from tools import cluster, nodes; plain = nodes.command\n"
        "def command(port, servers, options): return plain(port, servers, options if port % 2 else ['--nonsense'])\n"
        "nodes.command = command; import sys; sys.exit(cluster.main(sys.argv[1:]))"
    )
    done = run_python("-c", program, "2", "--port", str(adjacent_ports(2)[0]))
    assert done.returncode == 2
    assert done.stdout.count("-- ended with status") == 2


def test_ports_are_looked_at_before_anything_is_started() -> None:
    port = adjacent_ports(2)[0]
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with occupied(port + 1, kind):
            done = run_python("tools/cluster.py", "2", "--port", str(port))
        assert (done.returncode, done.stdout) == (2, "")
        why = rf"port {port + 1} can't be had \(Address already in use\): name other ports by --port"
        assert re.fullmatch(rf"cluster\.py: (UDP|TCP) {why}\n", done.stderr)


def test_it_says_where_the_servers_file_is_and_how_to_ask() -> None:
    port = free_port()
    with Program("tools/cluster.py", "1", "--port", str(port)) as shown:
        shown.until(lambda text: " node.started " in text)
        first = shown.text.splitlines()[0]
        match = re.search(r"servers file (\S+)", first)
        assert match is not None, first
        assert Path(match[1]).read_text() == f"127.0.0.1:{port}\n"


def test_nodes_do_not_outlive_who_shows_them() -> None:
    with Program("tools/cluster.py", "2", "--port", str(adjacent_ports(2)[0])) as shown:
        shown.until(lambda text: len(re.findall(r" node\.started .* pid=[0-9]+ ", text)) == 2)
        pids = [int(pid) for pid in re.findall(r" node\.started .* pid=([0-9]+) ", shown.text)]
        shown.process.kill()
        poll(lambda: all(is_gone(pid) for pid in pids), complaint=f"gone are {pids}")


def is_gone(pid: int) -> bool:
    """No such process, or one that has ended and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("arguments", [["0"], ["65"], ["x"], ["5", "--port", "65533"], ["5", "6"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cluster.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
