"""A cluster on this machine: it starts, its lines are told apart, and Ctrl-C ends it cleanly."""

import os
import re
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.support.nodes import run_python
from tests.support.ports import adjacent_ports, free_port
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
