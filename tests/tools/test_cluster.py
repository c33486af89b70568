"""A cluster on this machine: it starts, its lines are told apart, and Ctrl-C ends it cleanly."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.support.nodes import REPOSITORY, run_python
from tests.support.polling import DEADLINE_S
from tests.support.ports import adjacent_ports, free_port
from tools import cluster


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nodes_start_and_leave(number: signal.Signals) -> None:
    port = adjacent_ports(2)[0]
    with subprocess.Popen(
        [sys.executable, "tools/cluster.py", "2", "--port", str(port), "--", "--replicas", "2"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines: list[str] = []
            deadline = time.monotonic() + DEADLINE_S
            assert process.stdout is not None
            while not all(any(f"{port + n} | " in line and "members=2" in line for line in lines) for n in (0, 1)):
                assert time.monotonic() < deadline, lines
                lines.append(process.stdout.readline())
            process.send_signal(number)
            rest, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, rest
            assert rest.count("-- ended with status 0") == 2
        finally:
            process.kill()


def test_nothing_is_left_when_nobody_reads_any_more() -> None:
    """As with `| head`: the node is killed with the first line that can't be passed on."""
    with subprocess.Popen(
        [sys.executable, "tools/cluster.py", "1", "--port", str(free_port())],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        started = next(line for line in process.stdout if " node.started " in line)
        (pid,) = re.findall(r" pid=([0-9]+) ", started)
        process.stdout.close()
        os.kill(int(pid), signal.SIGUSR1)  # it writes its counters
        try:
            assert process.wait(DEADLINE_S) == 1
            assert process.stderr.read() == ""
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid), 0)
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_a_node_that_can_not_start_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    done = run_python("tools/cluster.py", "1", "--port", str(free_port()), "--", "--policy", "none")
    assert done.returncode == 1
    assert "isn't one of allkeys-lru, noeviction" in done.stdout
    assert "-- ended with status 2" in done.stdout


@pytest.mark.parametrize("arguments", [["0"], ["65"], ["x"], ["5", "--port", "65533"], ["5", "6"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cluster.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
