"""The client for asyncio: many calls at a time, calls that are cancelled, and nothing left when it is closed."""

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from app.client import (
    AsyncClient,
    BadServer,
    Client,
    Closed,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    NotTried,
    Overloaded,
    PartialFailure,
    Timeout,
    Unreachable,
    codec,
)
from app.wire import protocol
from tests.client.peer import Address, Fault, Peer, answer_twice, drop, lose_answer, overload
from tests.client.test_client import run_python
from tests.client.test_many import ITEMS, Hoarder
from tests.client.test_moving import NAME, Names, names  # noqa: F401  # a fixture
from tests.support.polling import DEADLINE_S, PAUSE_S
from tests.support.ports import free_ports

plain = partial(AsyncClient, slot_aware=False)  # sends nothing but requests, so that scripts and counts are exact
QUICK = (20, 40, 5000)
RATHER_QUICK = (300, 600, 5000)  # where a try that comes too early would meet a further fault
PATIENT = (5000,)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(PAUSE_S)


def is_idle(client: AsyncClient) -> bool:
    """Whether nothing is in flight, and no call waits for room."""
    return not client._session.engine._in_flight and not any(waiter.is_queued for waiter in client._waiters)


def test_its_calls_are_those_of_the_other_client() -> None:
    def public(kind: type) -> dict[str, object]:
        return {name: member for name, member in vars(kind).items() if not name.startswith("_")}

    theirs, ours = public(Client), public(AsyncClient)
    assert ours.keys() == theirs.keys() | {"aclose"}
    assert inspect.signature(Client).parameters["timeout_s"].default == 10.0, "and help() shows them"
    assert inspect.signature(AsyncClient) == inspect.signature(Client)
    for name, member in theirs.items():
        if inspect.isfunction(member):
            assert inspect.signature(ours[name]) == inspect.signature(member), name  # type: ignore[arg-type]
            assert inspect.iscoroutinefunction(ours[name]) == (name != "close"), name


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_command(host: str) -> None:
    async def work() -> None:
        with Peer(host=host) as peer:
            async with plain([peer.name], timeouts_ms=PATIENT) as client:
                await client.put(b"key", b"value", version=-7)
                assert await client.get(b"key") == (b"value", -7)
                await client.remove(b"key")
                with pytest.raises(KeyNotFound, match="get of b'key': KEY_DNE_ERR"):
                    await client.get(b"key")
                assert await client.get(b"key", None) is None
                assert await client.get(b"key", "none") == "none"
                await client.put_many(ITEMS)
                found = await client.get_many([*ITEMS, b"not there"])
                assert found == {key: (value, 0) for key, value in ITEMS.items()}
                assert await client.remove_many([b"key 7", b"not there"]) == {b"key 7"}
                assert await client.is_alive(peer.name)
                assert await client.get_pid() == os.getpid(), "the peer is a thread"
                assert await client.membership_count() == 1
                for server in (None, peer.name):
                    assert await client.status(server) == {"epoch": 1}
                    assert await client.slow_requests(server) == {"threshold_ms": None}
                    assert await client.found(server) == {"founded": True}
                    assert (await client.vitals(server))["pid"] == 7
                    assert await client.change_servers({"add": "a:1"}, server) == {"done": True}
                    assert await client.change_servers({}, server) == {"done": True}
                assert peer.orders == [b'{"add": "a:1"}', b""] * 2
                assert (await client.config({"slow_ms": "5"}))["slow_ms"] == "5"
                response = await client.call(codec.KVRequest(command=protocol.GET, key=b"none"))
                assert response.code == protocol.KEY_DNE_ERR
                await client.wipeout()
                assert peer.store == {}
                requests = client.stats.requests
                await client.shutdown()
                assert client.stats.requests == requests + 1
                assert client.stats.sent == client.stats.requests
                assert client.stats.ignored == {}

    run(work)


def test_a_window_of_calls_is_in_flight_over_one_socket_and_answers_come_in_any_order() -> None:
    async def work() -> None:
        with Hoarder(10) as peer:
            async with plain([peer.name], timeouts_ms=PATIENT, window=10) as client:
                # Would time out with less than 10 in flight.
                await asyncio.gather(*(client.put(key, value) for key, value in ITEMS.items()))
                found = await asyncio.gather(*(client.get(key) for key in ITEMS))
                assert [value for value, _ in found] == list(ITEMS.values())
                assert client.stats.retries == 0
                assert len({sender for _, sender in peer.received}) == 1

    run(work)


@pytest.mark.parametrize("fault", [drop, lose_answer, overload(5), answer_twice])
def test_each_call_has_its_own_retries_which_take_effect_once(fault: Fault) -> None:
    async def work() -> None:
        script: list[Fault | None] = [fault if n % 7 == 0 else None for n in range(len(ITEMS))]
        with Peer(script) as peer:
            async with plain([peer.name], timeouts_ms=RATHER_QUICK) as client:
                await asyncio.gather(*(client.put(key, value) for key, value in ITEMS.items()))
                assert peer.store == {key: (value, 0) for key, value in ITEMS.items()}
                peer.script = [fault if n % 7 == 0 else None for n in range(len(ITEMS))]
                await asyncio.gather(*(client.remove(key) for key in ITEMS))
                assert len({message.messageID for message in peer.requests()}) == 2 * len(ITEMS)

    run(work)


def test_calls_of_both_kinds_share_a_narrow_window() -> None:
    async def work() -> None:
        with Peer() as peer:
            async with plain([peer.name], timeouts_ms=PATIENT, window=2) as client:
                many = [client.put_many({b"%d %d" % (n, m): b"" for m in range(50)}) for n in range(3)]
                await asyncio.gather(*many, *(client.put(b"%d" % n, b"") for n in range(50)))
                assert len(peer.store) == 200
                assert client.stats.retries == 0

    run(work)


def test_what_fails_raises_as_ever() -> None:
    async def work() -> None:
        with Peer([drop] * 2) as peer:
            async with plain([peer.name], timeouts_ms=(10, 10)) as client:
                with pytest.raises(Timeout, match="to 2 tries"):
                    await client.get(b"key")
            async with plain([peer.name], timeouts_ms=PATIENT) as client:
                with pytest.raises(InvalidKey):
                    await client.get(b"")
                with pytest.raises(InvalidValue):
                    await client.put(b"key", bytes(100_000))
                with pytest.raises(TypeError, match="encode"):
                    await client.get("key")  # type: ignore[call-overload]
                with pytest.raises(ValueError, match="above 0"):
                    await client.get(b"key", timeout_s=0)
                with pytest.raises(ValueError, match="not among"):
                    await client.ping("127.0.0.1:1")
                peer.script = [overload(1000)]
                with pytest.raises(Overloaded):
                    await client.get(b"key", timeout_s=0.5)
                with pytest.raises(PartialFailure) as caught:
                    await client.get_many([b"", b"key"])
                assert list(caught.value.errors) == [b""]
                assert is_idle(client)

    run(work)


def test_where_there_is_nobody_or_no_way_a_call_fails_at_once() -> None:
    async def work() -> None:
        nobody = [f"127.0.0.1:{port}" for port in free_ports(3)]
        async with AsyncClient(nobody, timeouts_ms=PATIENT) as client:
            with pytest.raises(Unreachable, match="connection refused"):
                await client.put(b"key", b"value")
            assert not await client.is_alive()
        # Linux lets nobody send to the broadcast address who has not asked for that.
        async with plain(["255.255.255.255:9"], timeouts_ms=PATIENT) as client:
            with pytest.raises(Unreachable, match="Permission denied"):
                await client.put(b"key", b"value")
            with pytest.raises(PartialFailure):
                await client.put_many({b"%d" % n: b"" for n in range(200)})

    run(work)


def test_a_timeout_says_why_whatever_other_calls_began_meanwhile() -> None:
    async def work() -> None:
        (port,) = free_ports(1)
        closed = f"127.0.0.1:{port}"
        with Peer([drop, drop]) as silent:
            async with plain([closed, silent.name], timeouts_ms=(300,), give_up_when_refused=False) as kv:
                first = asyncio.create_task(kv.ping(closed))
                await until(lambda: kv.stats.refused)
                with pytest.raises(Timeout, match=r"^no answer from \S+ to 1 tries$"):
                    await kv.ping(silent.name)
                with pytest.raises(Timeout, match=r"\(connection refused\)$"):
                    await first
                with pytest.raises(Timeout, match=r"^no answer from \S+ to 1 tries$"):
                    await kv.ping(silent.name)  # another call's trouble is not its own

    run(work)


def test_a_server_that_is_named_is_looked_up_for_it(names: Names) -> None:  # noqa: F811
    async def work() -> None:
        with Peer() as peer, Peer() as late:
            async with AsyncClient([peer.name, f"{NAME}:{late.port}"], timeouts_ms=PATIENT) as client:
                client._session.router._aside = lambda work: None
                with pytest.raises(BadServer):
                    await client.ping(f"{NAME}:{late.port}")
                names.hosts[NAME] = ["127.0.0.1"]
                await client.ping(f"{NAME}:{late.port}")
                assert len(late.requests()) == 1

    run(work)


class Held(Peer):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[bytes, Address]] = []
        self.script = [Held.hold] * 1000  # type: ignore[list-item]

    def hold(self, datagram: bytes, sender: Address) -> None:
        self.held.append((datagram, sender))

    def release(self) -> None:
        """Answer what was held, and all that comes from now on."""
        self.script.clear()
        for datagram, sender in self.held:
            answer = self.answer_to(datagram)
            assert answer is not None
            self.send(answer, sender)


def test_a_call_that_is_cancelled_makes_room_for_the_next() -> None:
    async def work() -> None:
        with Held() as peer:
            async with plain([peer.name], timeouts_ms=PATIENT, window=1) as client:
                in_flight, queued, last = [
                    asyncio.create_task(client.put(key, b"value")) for key in (b"in flight", b"queued", b"last")
                ]
                await until(lambda: len(peer.held) == 1)
                queued.cancel()
                in_flight.cancel()
                await until(lambda: len(peer.held) == 2)
                assert (in_flight.cancelled(), queued.cancelled()) == (True, True)
                peer.release()
                await last
                assert peer.store.keys() == {b"in flight", b"last"}, "what was sent has taken effect"
                await client.ping()
                assert is_idle(client)
                assert client.stats.ignored == {"other_id": 1}

    run(work)


def test_a_call_for_many_keys_that_is_cancelled_leaves_nothing_behind() -> None:
    async def work() -> None:
        with Held() as peer:
            async with plain([peer.name], timeouts_ms=PATIENT, window=4) as client:
                many = asyncio.create_task(client.put_many(ITEMS))
                await until(lambda: len(peer.held) == 4)
                single = asyncio.create_task(client.put(b"single", b"value"))
                await asyncio.sleep(0)
                many.cancel()
                await until(many.done)
                peer.release()
                await single
                assert is_idle(client)
                assert len(peer.store) == 5

    run(work)


def test_a_call_that_finds_no_room_in_its_time_is_not_tried() -> None:
    async def work() -> None:
        with Held() as peer:
            async with plain([peer.name], timeouts_ms=PATIENT, window=1) as client:
                first = asyncio.create_task(client.put(b"first", b"value"))
                await until(lambda: len(peer.held) == 1)
                with pytest.raises(NotTried):
                    await client.put(b"second", b"value", timeout_s=0.01)
                peer.release()
                await first
                await client.ping()
                assert peer.store.keys() == {b"first"}

    run(work)


def test_what_the_callers_items_raise_comes_out_and_leaves_nothing_behind() -> None:
    def items() -> Iterator[tuple[bytes, bytes]]:
        yield b"1", b"value"
        raise LookupError("no more")

    async def work() -> None:
        with Peer() as peer:
            async with plain([peer.name], timeouts_ms=PATIENT) as client:
                with pytest.raises(LookupError, match="no more"):
                    await client.put_many(items())
                assert is_idle(client)

    run(work)


def test_a_client_that_is_closed_ends_its_calls_and_leaves_nothing_to_the_loop() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        watched = dict(loop._selector.get_map())  # type: ignore[attr-defined]
        tasks = asyncio.all_tasks()
        with Held() as peer:
            client = AsyncClient([peer.name], timeouts_ms=PATIENT, window=2)
            calls = [asyncio.create_task(client.put(b"%d" % n, b"value")) for n in range(3)]
            calls.append(asyncio.create_task(client.put_many(ITEMS)))
            await until(lambda: sum(b"value" in datagram for datagram, _ in peer.held) == 3)
            await client.aclose()
            await client.aclose()
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert type(outcome) is Closed
            for use in (client.get(b"key"), client.get_many([]), client.ping(), client.__aenter__()):
                with pytest.raises(Closed):
                    await use
            assert dict(loop._selector.get_map()) == watched  # type: ignore[attr-defined]
            assert asyncio.all_tasks() == tasks
            timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            assert len(timers) == 1, "that of this test's deadline"

    run(work)


def test_it_belongs_to_the_loop_of_its_first_call() -> None:
    with Peer() as peer:
        client = AsyncClient([peer.name], timeouts_ms=PATIENT)
        asyncio.run(client.ping())
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(client.ping())
        client.close()
        with pytest.raises(Closed):
            asyncio.run(client.ping())


FORKED = """
import asyncio, os, sys
from app.client import AsyncClient

def in_a_child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

made_before = AsyncClient([sys.argv[1]], timeouts_ms=(20000,))
assert in_a_child(lambda: asyncio.run(made_before.put(b"child", b"value"))) == 0

async def work():
    async with made_before as client:
        await client.put(b"parent", b"value")
        assert in_a_child(client.close) == 0
        await client.put(b"again", b"value")
        assert client.stats.retries == 0

asyncio.run(work())
print("fine")
"""


def test_a_client_that_was_made_before_a_fork_and_a_child_that_closes_its_parents() -> None:
    with Peer() as peer:
        assert run_python(FORKED, peer.name) == "fine\n"
        assert peer.store.keys() == {b"child", b"parent", b"again"}


def test_nobody_imports_asyncio_who_does_not_ask_for_it() -> None:
    script = "import app.client; app.client.AsyncClient; app.client.Nothing"
    with pytest.raises(AssertionError, match="no attribute"):
        run_python(script)
    assert run_python("import sys, app.client; print('asyncio' in sys.modules)") == "False\n"


@pytest.mark.parametrize("how", ["close", "aclose", "end of the block"])
def test_once_closed_its_sockets_are_given_back_and_calls_end(how: str) -> None:
    async def work() -> None:
        with Peer() as peer:
            client = plain([peer.name], timeouts_ms=PATIENT)
            if how == "end of the block":
                async with client:
                    await client.put(b"key", b"value")
            else:
                await client.put(b"key", b"value")
                if how == "close":
                    client.close()
                else:
                    await client.aclose()
            assert client._session.engine.sockets.is_closed
            with pytest.raises(Closed):
                await client.get(b"key")

    run(work)


@pytest.mark.parametrize("how", ["one", "many"])
def test_a_call_that_is_cancelled_makes_room_at_once(how: str) -> None:
    async def work() -> None:
        with Peer(script=[drop]) as peer:
            async with plain([peer.name], timeouts_ms=(60_000,), window=1, timeout_s=120.0) as client:
                first = client.put(b"lost", b"") if how == "one" else client.put_many({b"lost": b""})
                lost = asyncio.create_task(first)
                await until(lambda: client._session.engine._in_flight)
                waits = asyncio.create_task(client.put(b"key", b"value"))
                await until(lambda: client._waiters)
                lost.cancel()
                await waits
                assert peer.store.keys() == {b"key"}

    run(work)


def test_only_one_timer_runs_at_a_time() -> None:
    async def work() -> None:
        with Peer(script=[drop]) as peer:
            async with plain([peer.name], timeouts_ms=(60_000,), timeout_s=120.0) as client:
                lost = asyncio.create_task(client.put(b"lost", b""))
                await until(lambda: client._timer)
                later = client._timer
                assert later is not None
                client._timer_due += 1.0  # as if it had been set for a later try
                client._go_on()
                assert (later.cancelled(), client._timer is later) == (True, False)
                lost.cancel()

    run(work)
