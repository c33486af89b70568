"""Names that are looked up again: when, how often, and what becomes of the answer."""

import logging
import socket
from typing import Any

import pytest

from app.config.servers import Server
from app.observe.logs import limited_logger
from app.peers import lookups
from app.peers.addresses import Peers
from app.peers.lookups import LOOKUP_S, Lookups
from tests.support.loop import ManualLoop
from tests.support.resolver import Resolver

ME = Server("10.0.0.1", 3331, "10.0.0.1")
NUMBER = Server("10.0.0.2", 3331, "10.0.0.2")
NAME = Server("kv3", 3331, "10.0.0.3")
ABSENT = Server("kv4", 3331, "")


class Rig:
    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.resolver = Resolver(kv3=["10.0.0.3"])
        self.peers = Peers(ME, (ME, NUMBER, NAME, ABSENT), socket.AF_INET)
        self.moved: list[str] = []
        self.lookups = Lookups(self.loop, self.resolver.look_up, self.peers, self.moved.append)

    def doubt(self, *peers: Server) -> None:
        for peer in peers:
            self.lookups.doubt(str(peer))
        self.loop.turn()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_only_names_are_looked_up(rig: Rig) -> None:
    rig.doubt(NUMBER, ME, NAME, Server("stranger", 1, ""))
    assert rig.resolver.asked == ["kv3"]
    assert rig.lookups._doubts.keys() == {str(NAME)}, "nothing is kept of the others"


def test_nothing_is_kept_of_who_is_a_server_no_more(rig: Rig) -> None:
    rig.doubt(NAME, ABSENT)
    rig.doubt(NAME, ABSENT)  # too soon: they wait for their turn
    rig.peers.change((ME, NAME))
    rig.lookups.keep(rig.peers.names)
    assert rig.lookups._doubts.keys() == {str(NAME)}
    assert rig.lookups._unresolved == set()
    rig.loop.advance(LOOKUP_S)
    assert rig.resolver.asked == ["kv3", "kv4", "kv3"]


def test_what_was_asked_before_it_was_no_server_for_a_while_is_not_asked_on_and_on(rig: Rig) -> None:
    rig.lookups.doubt(str(NAME), "10.0.0.99")  # which its name never has
    for servers in ((ME,), (ME, NAME)):
        rig.peers.change(servers)
        rig.lookups.keep(rig.peers.names)
    rig.loop.advance(200.0)
    assert rig.resolver.asked == ["kv3"]


def test_a_peer_that_has_moved_is_reached_where_it_is(rig: Rig) -> None:
    rig.resolver.addresses["kv3"] = ["10.0.0.33", "10.0.0.34"]
    rig.doubt(NAME)
    assert rig.peers.target(str(NAME)) == ("10.0.0.33", 3331)
    assert rig.moved == [str(NAME)]


@pytest.mark.parametrize("found", [["10.0.0.3"], ["10.0.0.33", "10.0.0.3"]])
def test_an_address_that_the_name_still_has_stays(rig: Rig, found: list[str]) -> None:
    rig.resolver.addresses["kv3"] = found
    rig.doubt(NAME)
    assert (rig.peers.address(str(NAME)), rig.moved) == ("10.0.0.3", [])


@pytest.mark.parametrize("found", [None, ["0.0.0.0"], ["224.0.0.1"]])
def test_a_name_without_an_address_keeps_the_one_before(rig: Rig, found: list[str] | None) -> None:
    if found is None:
        del rig.resolver.addresses["kv3"]
    else:
        rig.resolver.addresses["kv3"] = found
    rig.doubt(NAME)
    assert (rig.peers.address(str(NAME)), rig.moved) == ("10.0.0.3", [])


def test_a_server_that_was_not_there_yet_is_found(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        rig.doubt(ABSENT)
        rig.loop.advance(LOOKUP_S)
        rig.doubt(ABSENT)
        assert rig.peers.target(str(ABSENT)) is None
        rig.resolver.addresses["kv4"] = ["10.0.0.4"]
        rig.loop.advance(LOOKUP_S)
        rig.doubt(ABSENT)
    assert rig.peers.target(str(ABSENT)) == ("10.0.0.4", 3331)
    told: list[tuple[str, Any]] = [(record.message, record.__dict__["fields"]["peer"]) for record in caplog.records]
    assert told == [("links.unresolved", "kv4:3331"), ("links.address", "kv4:3331")], "each once"


def test_it_is_asked_once_in_a_while_however_often_it_is_doubted(rig: Rig) -> None:
    for _ in range(10):
        rig.doubt(NAME)
        rig.loop.advance(LOOKUP_S / 5 + 0.001)
    assert rig.resolver.asked == ["kv3"] * 3, "at 0, 1 and 2 s"


def test_while_the_resolver_is_silent_nobody_asks_it_the_same_again(rig: Rig) -> None:
    rig.resolver.is_slow = True
    rig.doubt(NAME)
    rig.loop.advance(10 * LOOKUP_S)
    rig.doubt(NAME, ABSENT)
    assert rig.resolver.asked == ["kv3", "kv4"]
    rig.resolver.addresses["kv3"] = ["10.0.0.33"]
    rig.resolver.answer()
    assert rig.moved == [str(NAME)]


def test_a_server_that_is_none_any_more_when_its_address_is_found(rig: Rig) -> None:
    rig.resolver.is_slow = True
    rig.doubt(NAME, ABSENT)
    rig.peers.change((ME, NUMBER))
    rig.resolver.addresses |= {"kv3": ["10.0.0.33"], "kv4": ["10.0.0.4"]}
    rig.resolver.answer()
    assert (rig.moved, rig.peers.address(str(NAME)), rig.peers.address(str(ABSENT))) == ([], "", "")


def came_from(rig: Rig, address: str) -> None:
    rig.lookups.doubt(str(NAME), address)
    rig.loop.turn()


def test_a_doubt_that_comes_too_soon_waits_for_its_turn(rig: Rig) -> None:
    rig.doubt(NAME)
    rig.resolver.addresses["kv3"] = ["10.0.0.33"]
    rig.loop.advance(LOOKUP_S / 2)
    rig.doubt(NAME)
    assert rig.resolver.asked == ["kv3"]
    rig.loop.advance(LOOKUP_S / 2)
    assert rig.peers.address(str(NAME)) == "10.0.0.33"


def test_so_does_one_that_comes_while_the_answer_is_awaited(rig: Rig) -> None:
    rig.resolver.is_slow = True
    rig.doubt(NAME)
    rig.loop.advance(3 * LOOKUP_S)
    rig.doubt(NAME)
    assert rig.resolver.asked == ["kv3"], "never twice at once"
    rig.resolver.answer()
    rig.loop.turn()
    assert rig.resolver.asked == ["kv3", "kv3"]


@pytest.mark.parametrize("address", ["10.0.0.33", "::ffff:10.0.0.33"])
def test_who_has_come_from_elsewhere_is_asked_for_until_its_name_is_there_too(rig: Rig, address: str) -> None:
    """A link is up, so nothing else will doubt it again; and the name is told late."""
    came_from(rig, address)
    for _ in range(5):
        rig.loop.advance(LOOKUP_S)
    assert (rig.peers.address(str(NAME)), len(rig.resolver.asked)) == ("10.0.0.3", 3), "at 0, 1 and 3 s"
    rig.resolver.addresses["kv3"] = ["10.0.0.33"]
    rig.loop.advance(8 * LOOKUP_S)
    assert (rig.peers.address(str(NAME)), rig.moved) == ("10.0.0.33", [str(NAME)])
    asked = len(rig.resolver.asked)
    rig.loop.advance(1000.0)
    assert len(rig.resolver.asked) == asked


def test_where_addresses_are_translated_a_name_is_asked_for_ever_more_seldom(rig: Rig) -> None:
    came_from(rig, "192.0.2.1")
    for _ in range(3600):
        rig.loop.advance(1.0)
    assert 3600 / 64 <= len(rig.resolver.asked) <= 3600 / 64 + 7
    rig.doubt(NAME)
    assert len(rig.resolver.asked) > 3600 / 64, "a dial that fails is no more seldom heeded"


def test_a_server_that_is_none_any_more_is_not_asked_for(rig: Rig) -> None:
    came_from(rig, "10.0.0.33")
    rig.peers.change((ME, NUMBER))
    rig.loop.advance(1000.0)
    assert rig.resolver.asked == ["kv3"]
    assert rig.lookups._doubts == {}


def test_how_long_it_is_until_it_is_asked_for_again(rig: Rig) -> None:
    came_from(rig, "10.0.0.33")
    times = [0.0]
    for step in range(1, 400):
        rig.loop.advance(0.5)
        if len(rig.resolver.asked) > len(times):
            times.append(step / 2)
    assert times == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0, 191.0]


def test_where_it_came_from_may_be_any_of_those_that_its_name_has(rig: Rig) -> None:
    rig.resolver.addresses["kv3"] = ["10.0.0.33", "10.0.0.34", "10.0.0.35"]
    came_from(rig, "10.0.0.34")
    rig.loop.advance(100.0)
    assert rig.resolver.asked == ["kv3"]


def test_once_its_name_was_there_it_is_not_looked_for_any_more(rig: Rig) -> None:
    rig.resolver.addresses["kv3"] = ["10.0.0.33"]
    came_from(rig, "10.0.0.33")
    rig.resolver.addresses["kv3"] = ["10.0.0.44"]
    rig.loop.advance(LOOKUP_S)
    rig.doubt(NAME)
    assert rig.peers.address(str(NAME)) == "10.0.0.44"
    rig.loop.advance(100.0)
    assert rig.resolver.asked == ["kv3"] * 2


def test_each_time_that_a_name_has_an_address_no_more_is_told(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_faults", limited_logger("links"))  # with its limit not reached
    for _ in range(2):
        rig.resolver.addresses["kv3"] = ["10.0.0.3"]
        rig.doubt(NAME)
        rig.loop.advance(LOOKUP_S)
        del rig.resolver.addresses["kv3"]
        rig.doubt(NAME)
        rig.loop.advance(LOOKUP_S)
    causes = [record.__dict__["fields"]["cause"] for record in caplog.records]
    assert causes == ["Name or service not known"] * 2
