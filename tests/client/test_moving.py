"""Servers whose names resolve late, or to another address than before, and paths that forget a flow."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from app.client import BadServer, Client, Timeout
from app.client import router as router_module
from app.client.address import resolve, unresolved
from app.client.router import LOOKUP_AGAIN_S, LOOKUP_MIN_S, Router, in_a_thread
from tests.client.peer import Address, Peer, drop
from tests.client.test_router import A, at_once, table
from tests.client.test_slot_aware import status
from tests.support.polling import poll

QUICK = (20, 40, 5000)
PATIENT = (5000,)
NAME = "node.test"


class Names:
    """A resolver: what the names under .test resolve to; others, as ever."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._real: Callable[..., list[Any]] = socket.getaddrinfo

    def getaddrinfo(self, host: str | bytes, port: int, *args: Any, **keywords: Any) -> list[Any]:
        if isinstance(host, bytes) or not host.endswith(".test") or keywords.get("flags"):
            return self._real(host, port, *args, **keywords)
        self.asked.append(host)
        self.may_answer.wait(60)
        hosts = self.hosts.get(host, [])
        if not hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (one, port)) for one in hosts]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.may_answer.set()


def a_client(*servers: str, slot_aware: bool = True, timeouts_ms: Sequence[int] = QUICK) -> Client:
    """One that does not wait for what it has looked up to be there."""
    client = Client(servers, slot_aware=slot_aware, timeouts_ms=timeouts_ms)
    client._sessions[0].router._aside = at_once
    return client


def silent(host: str, port: int) -> socket.socket:
    """Somebody who takes datagrams and never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


# --- a new socket ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot_aware", [False, True])
def test_a_retry_at_a_silent_server_leaves_from_another_port(slot_aware: bool) -> None:
    """As behind a NAT that has forgotten the flow, or sends it to a machine that is gone."""
    flow: list[Address] = []

    def forgotten(peer: Peer, datagram: bytes, sender: Address) -> None:
        flow.append(sender)
        if sender == flow[0]:
            return
        answer = peer.answer_to(datagram)
        assert answer is not None
        peer.send(answer, sender)

    with Peer([forgotten] * 100) as peer, Client([peer.name], slot_aware=slot_aware, timeouts_ms=QUICK) as client:
        client.put(b"key", b"value")
        assert client.stats.retries >= 1
        assert peer.store == {b"key": (b"value", 0)}


def test_a_server_that_was_only_slow_is_heard() -> None:
    """Its answer to the first try comes when the second has left by another port, and there is no other answer."""
    first: list[Address] = []

    def wait(peer: Peer, datagram: bytes, sender: Address) -> None:
        first.append(sender)

    def answer_the_first(peer: Peer, datagram: bytes, sender: Address) -> None:
        assert sender != first[0]
        answer = peer.answer_to(datagram)
        assert answer is not None
        peer.send(answer, first[0])

    with (
        Peer([wait, answer_the_first]) as peer,
        Client([peer.name], slot_aware=False, timeouts_ms=(20, 5000)) as client,
    ):
        client.put(b"key", b"value")
        assert client.stats.retries == 1


# --- another address -------------------------------------------------------------------------------------------------


def test_a_server_that_has_moved_is_found_by_the_next_try(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    with Peer(host="127.0.0.2") as peer, silent("127.0.0.1", peer.port), a_client(f"{NAME}:{peer.port}") as client:
        names.hosts[NAME] = ["127.0.0.2"]
        client.put(b"key", b"value")
        assert peer.store == {b"key": (b"value", 0)}
        assert client.get(b"key").value == b"value"


def test_a_server_whose_old_machine_refuses_is_looked_up_again(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    with Peer(host="127.0.0.2") as peer, a_client(f"{NAME}:{peer.port}") as client:
        names.hosts[NAME] = ["127.0.0.2"]
        with pytest.raises(Timeout, match="connection refused"):
            client.put(b"key", b"value")
        client.put(b"key", b"value")
        assert peer.store == {b"key": (b"value", 0)}


def test_of_several_addresses_one_that_is_silent_is_left(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1", "127.0.0.2"]
    with Peer(host="127.0.0.2") as peer, silent("127.0.0.1", peer.port), a_client(f"{NAME}:{peer.port}") as client:
        client.put(b"key", b"value")
        assert peer.store == {b"key": (b"value", 0)}


def test_a_call_for_a_named_server_goes_to_no_other_machine(names: Names) -> None:
    """Another one than the one that was to be wiped may have its name by now. The next call is for that one."""
    names.hosts[NAME] = ["127.0.0.1"]
    with (
        Peer(host="127.0.0.2") as peer,
        silent("127.0.0.1", peer.port) as old,
        a_client(f"{NAME}:{peer.port}", timeouts_ms=(20, 20, 20)) as client,
    ):
        names.hosts[NAME] = ["127.0.0.2"]
        with pytest.raises(Timeout):
            client.wipeout()
        assert peer.received == []
        senders = [old.recvfrom(65535)[1] for _ in range(3)]
        assert len(set(senders)) == 3
        poll(lambda: client.is_alive(f"{NAME}:{peer.port}"))


def test_a_resolver_that_takes_its_time_holds_up_nothing(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    with (
        Peer([drop] * 10_000) as mute,
        Peer() as peer,
        Client([f"{NAME}:{mute.port}", peer.name], slot_aware=False, timeouts_ms=QUICK) as client,
    ):
        client._sessions[0].router.current = 0
        names.asked.clear()
        names.may_answer.clear()
        for n in range(50):
            client.put(b"key %d" % n, b"value")
        assert len(peer.store) == 50
        poll(lambda: names.asked == [NAME], complaint=lambda: f"asked for: {names.asked}")


def test_a_system_without_threads_has_no_name_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    in_a_thread(lambda: pytest.fail("it was done here"))


def test_a_failing_servers_name_is_looked_up_at_a_bounded_rate(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    waiting: list[Callable[[], None]] = []
    router = Router([resolve(f"{NAME}:1"), resolve(A)], slot_aware=False, aside=waiting.append)
    names.asked.clear()
    for n in range(100):
        router.failed(0, n * 0.1)
        router.failed(1, n * 0.1)
        assert router.collect(n * 0.1) == []
    assert len(waiting) == 1, "the resolver has not answered yet"
    waiting.pop()()
    assert router.collect(20.0) == []
    router.failed(0, 20.0 + LOOKUP_MIN_S - 0.1)
    assert waiting == []
    router.failed(0, 20.0 + LOOKUP_MIN_S)
    assert len(waiting) == 1
    waiting.clear()  # it is lost
    router.failed(0, 20.0 + LOOKUP_MIN_S + LOOKUP_AGAIN_S)
    waiting.pop()()
    names.hosts[NAME] = []
    assert router.collect(100.0) == []
    assert router.servers[0].address == ("127.0.0.1", 1)
    router.failed(0, 110.0)
    router.forked()
    router.failed(0, 111.0)
    assert len(waiting) == 2, "what the parent's thread looks up never comes to the child"


def test_a_server_that_has_proved_itself_meanwhile_is_where_it_was(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    waiting: list[Callable[[], None]] = []
    router = Router([resolve(f"{NAME}:1")], slot_aware=True, aside=waiting.append)
    for is_back in (True, False):
        router.failed(0, 1.0)
        names.hosts[NAME] = ["127.0.0.2"]
        waiting.pop()()
        if is_back:
            router.learn(0, table(A, [A]), 2.0)
        assert router.collect(2.0) == ([] if is_back else [0])
        router.forked()
    assert router.servers[0].address == ("127.0.0.2", 1)
    assert router.wake_at <= 2.0


def test_a_learned_server_that_has_moved_is_found(names: Names) -> None:
    names.hosts[NAME] = ["127.0.0.1"]
    with Peer() as first, Peer(host="127.0.0.2") as peer, silent("127.0.0.1", peer.port):
        members = [first.name, f"{NAME}:{peer.port}"]
        first.status, peer.status = status(members[0], members), status(members[1], members)
        with a_client(first.name) as client:
            client.put(b"key", b"value")
            poll(lambda: client.put(b"key", b"value") or len(client._sessions[0].router.servers) == 2)
            names.hosts[NAME] = ["127.0.0.2"]
            poll(lambda: client.put(b"key", b"value") or client._sessions[0].router.primary(1) == 1)


# --- no address yet --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("slot_aware", [False, True])
def test_one_name_of_several_that_does_not_resolve_stops_nothing(names: Names, place: int, slot_aware: bool) -> None:
    with Peer([drop]) as first, Peer() as second:
        servers = [first.name, second.name]
        servers.insert(place, "missing.test:1")
        for _ in range(5):
            with Client(servers, slot_aware=slot_aware, timeouts_ms=QUICK) as client:
                assert [server.name for server in client.servers] == servers
                client.put(b"key", b"value")
                assert client.get_many([b"key"])
                assert client.stats.lost == 0
                assert not client.is_alive("missing.test:1")
                with pytest.raises(BadServer, match=r"missing\.test:1': Name or service not known"):
                    client.ping("missing.test:1")


def test_names_of_which_none_resolves_are_an_error_and_so_is_one_that_is_malformed(names: Names) -> None:
    with pytest.raises(BadServer, match=r"one\.test:1': Name or service not known"):
        Client(["one.test:1", "two.test:1"])
    with pytest.raises(BadServer, match="not host:port"):
        Client(["127.0.0.1:1", "missing.test"])


def test_a_name_that_resolves_later_is_used_from_then_on(names: Names) -> None:
    with Peer([drop] * 10_000) as mute, Peer() as late:
        servers = [mute.name, f"{NAME}:{late.port}"]
        with a_client(*servers, slot_aware=False) as client:
            names.hosts[NAME] = ["127.0.0.1"]
            client.put(b"key", b"value")
            assert late.store == {b"key": (b"value", 0)}


def test_a_server_that_is_named_is_looked_up_for_it(names: Names) -> None:
    with Peer() as peer, Peer() as late, Client([peer.name, f"{NAME}:{late.port}"], timeouts_ms=PATIENT) as client:
        client._sessions[0].router._aside = lambda work: None
        names.hosts[NAME] = ["127.0.0.1"]
        assert client.get_pid(f"{NAME}:{late.port}") == os.getpid()
        assert len(late.requests()) == 1


def test_who_has_no_address_is_asked_nothing() -> None:
    router = Router([unresolved("missing.test:1"), resolve(A)], slot_aware=True, current=1, aside=lambda work: None)
    assert router.others() == [1]
    assert router.others({1}) == []
    assert router.next_after(1) == 1
    assert router.targets(0.0) == [1]
    router.place(0, resolve("10.0.0.9:1"))
    assert router.others() == [0, 1]
    assert 0 in router.targets(0.0)


def test_the_library_looks_names_up_in_threads() -> None:
    assert router_module.Router.__init__.__kwdefaults__["aside"] is in_a_thread
