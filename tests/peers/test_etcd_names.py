"""Names of an etcd's endpoints: when they are looked up, and what is asked meanwhile."""

from collections.abc import Iterator

import gevent
import pytest

from app.peers.etcd_names import EndpointNames
from app.peers.lookups import LOOKUP_S
from tests.support.gevent_loop import WatchedLoop, watched_loop
from tests.support.resolver import Resolver


class Rig:
    def __init__(self, loop: WatchedLoop) -> None:
        self.now_s = 1000.0
        loop.now = lambda: self.now_s
        self.resolver = Resolver(one=["10.0.0.1"], many=["10.0.0.1", "10.0.0.2", "fd00::3"])
        self.names = EndpointNames(loop, self.resolver.look_up)

    def after(self, seconds: float) -> None:
        self.now_s += seconds

    def doubt(self, host: str) -> str:
        """What is to be tried then."""
        self.names.doubt(host)
        gevent.sleep(0)
        return self.names.address(host)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with watched_loop() as loop:
        yield Rig(loop)


@pytest.mark.parametrize("number", ["10.0.0.9", "fd00::9", "fe80::9%lo"])
def test_a_number_is_no_name(rig: Rig, number: str) -> None:
    assert rig.names.address(number) == number
    assert rig.doubt(number) == number
    assert rig.resolver.asked == []


def test_a_name_is_asked_for_once_while_etcd_answers_there(rig: Rig) -> None:
    for _ in range(3):
        assert rig.names.address("one") == "10.0.0.1"
        rig.after(LOOKUP_S)
    assert rig.resolver.asked == ["one"]


def test_one_that_is_not_known_is_asked_for_again_a_second_later(rig: Rig) -> None:
    for _ in range(3):
        with pytest.raises(OSError, match="its name has no address: Name or service not known"):
            rig.names.address("none")
    assert rig.resolver.asked == ["none"]
    rig.resolver.addresses["none"] = ["10.0.0.4"]
    rig.after(LOOKUP_S)
    assert rig.names.address("none") == "10.0.0.4"


def test_a_slow_resolver_is_not_asked_twice_at_once(rig: Rig) -> None:
    rig.resolver.is_slow = True
    for _ in range(2):
        with pytest.raises(OSError, match=r"its name is not resolved within 0\.2 s"):
            rig.names.address("one")
        rig.after(LOOKUP_S)
    assert rig.resolver.asked == ["one"]
    gevent.get_hub().loop.run_callback(rig.resolver.answer)
    assert rig.names.address("one") == "10.0.0.1"


def test_where_none_answers_the_next_is_tried(rig: Rig) -> None:
    tried = [rig.names.address("many"), *(rig.doubt("many") for _ in range(3))]
    assert tried == ["10.0.0.1", "10.0.0.2", "fd00::3", "10.0.0.1"]
    assert rig.resolver.asked == ["many"]
    rig.after(LOOKUP_S)
    assert rig.doubt("many") == "10.0.0.2", "in the same order when it was looked up again"
    assert rig.resolver.asked == ["many", "many"]


def test_one_that_has_moved_is_found_beside_the_requests(rig: Rig) -> None:
    assert rig.names.address("one") == "10.0.0.1"
    rig.after(LOOKUP_S)
    rig.resolver.addresses["one"] = ["10.0.0.8", "10.0.0.8"]
    rig.resolver.is_slow = True
    assert rig.doubt("one") == "10.0.0.1", "until it is known"
    gevent.get_hub().loop.run_callback(rig.resolver.answer)
    gevent.sleep(0)
    assert rig.names.address("one") == rig.doubt("one") == "10.0.0.8"


def test_a_resolver_that_is_down_takes_nothing_away(rig: Rig) -> None:
    assert rig.names.address("one") == "10.0.0.1"
    del rig.resolver.addresses["one"]
    for _ in range(3):
        rig.after(LOOKUP_S)
        assert rig.doubt("one") == "10.0.0.1"
    assert len(rig.resolver.asked) == 4
