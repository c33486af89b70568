"""The benchmark of servers that come and go runs against a real cluster. How fast that is is not looked at."""

import pytest

from tests.support.ports import adjacent_ports
from tools.bench import growth

Captured = pytest.CaptureFixture[str]


def test_figures() -> None:
    assert growth.figures([3.0, 1.0, 2.0]) == (2.0, 3.0, 3.0)
    assert growth.figures([float(number) for number in range(200)]) == (100.0, 198.0, 199.0)


def test_lines() -> None:
    calls = [(1.0, 0.002), (1.5, 0.002), (2.5, 0.006)]
    told = growth.lines([("few", 0.0, 2.0), ("more", 2.0, 3.5), ("nothing", 3.5, 4.0)], calls)
    assert [line.split() for line in told[1:]] == [
        ["few", "2.0", "2", "2.00", "2.00", "2.0", "1.00"],
        ["more", "1.5", "1", "6.00", "6.00", "6.0", "3.00"],
        ["nothing", "0.5", "1", "0.00", "0.00", "0.0", "0.00"],
    ]


def test_a_cluster_grows_and_shrinks(capsys: Captured) -> None:
    first = adjacent_ports(4)[0]
    assert growth.main(["--servers", "4", "--port", str(first), "--seconds", "0.3"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert [line.rsplit(maxsplit=6)[0].strip() for line in shown.out.splitlines()[1:]] == [
        "3 servers",
        "1 start apart at once",
        "start apart one by one",
        "1 join at once",
        "4 servers",
        "removed one by one",
        "joined one by one",
    ]
