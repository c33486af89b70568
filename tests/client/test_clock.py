"""Which clock the client goes by."""

import time

import pytest

from app.client import Client, clock
from app.client.session import Options
from tests.client.peer import Peer


def test_it_is_the_one_that_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {time.CLOCK_BOOTTIME: 1000.0, time.CLOCK_MONOTONIC: 7.0}
    monkeypatch.setattr(time, "clock_gettime", times.__getitem__)
    assert clock._choose()() == 1000.0


def test_a_platform_without_such_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert clock._choose() is time.monotonic


def test_a_kernel_without_such_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 99, raising=False)
    assert clock._choose() is time.monotonic


def test_a_client_looks_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer() as peer, Client([peer.name], timeouts_ms=(5000,)) as client:
        monkeypatch.setattr(time, "monotonic", None)
        client.put(b"key", b"value")
        assert client.get_many([b"key"]).keys() == {b"key"}


def test_a_call_is_over_when_its_time_or_the_clients_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: 1000.0)
    options = Options(["127.0.0.1:9"], timeout_s=7.0)
    assert (options.deadline(None), options.deadline(0.5)) == (1007.0, 1000.5)
