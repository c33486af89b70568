"""The benchmark of the client runs against a real cluster. What it measures is not looked at."""

import pytest

from tests.support.ports import adjacent_ports
from tools.bench import client

Captured = pytest.CaptureFixture[str]


def test_the_clients_ways_of_asking(capsys: Captured) -> None:
    first = adjacent_ports(2)[0]
    assert client.main(["--nodes", "2", "--port", str(first), "--seconds", "0.2", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in client.MODES if line not in shown] == []
