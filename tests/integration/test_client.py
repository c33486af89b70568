"""The client and kv.py with three real nodes: straight to the primaries, through a death, until all is whole again."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client import AsyncClient, Client
from app.client.router import NOWHERE
from app.wire.protocol import SLOT_COUNT
from tests.support.nodes import MANY_KEYS_S, Node, cluster
from tests.support.polling import DEADLINE_S, poll
from tools.kv import __main__ as kv

ITEMS = {b"key %d" % n: b"value %d" % n for n in range(1000)}


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Node]]:
    """Three nodes that are ready, by kv.py's word."""
    with cluster(tmp_path, 3) as nodes:
        for node in nodes:
            node.start()
        poll(lambda: all(node.status() for node in nodes), DEADLINE_S)
        assert kv.main(["-s", nodes[0].name, "wait-ready", "--members", "3"]) == 0
        yield nodes


def learned(client: Client) -> bool:
    """Whether the client knows the primary of every slot; a call lets it learn."""
    client.put(b"any", b"value")
    return all(client._sessions[0].router.primary(slot) != NOWHERE for slot in range(SLOT_COUNT))


def forwarded(nodes: list[Node]) -> int:
    return sum(node.counters()["forwarded"] for node in nodes)


def test_a_client_that_knows_one_node_goes_straight_to_all_of_them(three: list[Node]) -> None:
    # Who does not answer a try is passed over for a while: no try may end before a busy machine has answered it.
    with Client([three[1].name], timeouts_ms=(10_000, 10_000), timeout_s=MANY_KEYS_S) as client:
        poll(lambda: learned(client), DEADLINE_S)
        before = forwarded(three), client.stats.direct
        client.put_many(ITEMS)
        assert {key: found.value for key, found in client.get_many(ITEMS).items()} == ITEMS
        for key in list(ITEMS)[:100]:
            assert client.get(key).value == ITEMS[key]
        assert client.stats.retries == 0
        assert (forwarded(three), client.stats.direct) == (before[0], before[1] + 2100)
        assert client.remove_many(ITEMS) == ITEMS.keys()
        assert client.get_many(ITEMS) == {}
    with Client([three[1].name], slot_aware=False, timeout_s=MANY_KEYS_S) as plain:
        plain.put_many(ITEMS)
        assert plain.stats.direct == 0
    assert forwarded(three) >= before[0] + 500


def test_what_was_acknowledged_survives_a_primary_that_is_killed_meanwhile(three: list[Node]) -> None:
    *others, victim = three

    def items() -> Iterator[tuple[bytes, bytes]]:
        for n, item in enumerate(ITEMS.items()):
            if n == 500:
                victim.kill()
            yield item

    with Client([node.name for node in others], timeout_s=MANY_KEYS_S) as client:
        poll(lambda: learned(client), DEADLINE_S)
        client.put_many(items())
        assert {key: found.value for key, found in client.get_many(ITEMS).items()} == ITEMS
        victim.start()
        assert kv.main(["-s", others[0].name, "wait-ready", "--members", "3"]) == 0
        poll(lambda: learned(client), DEADLINE_S)
        others[0].kill()
        assert {key: found.value for key, found in client.get_many(ITEMS).items()} == ITEMS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restarting_each_node_when_wait_ready_says_so_loses_nothing(three: list[Node], number: signal.Signals) -> None:
    names = ",".join(node.name for node in three)
    with Client(names.split(","), timeout_s=MANY_KEYS_S) as client:
        client.put_many(ITEMS)
        for node in three:
            node.send_signal(number)
            node.process.wait(DEADLINE_S)
            client.put_many({key: value for key, value in ITEMS.items() if key.endswith(b"7")})
            node.start()
            assert kv.main(["-s", names, "wait-ready", "--members", "3"]) == 0
        assert {key: found.value for key, found in client.get_many(ITEMS).items()} == ITEMS


def test_wiping_through_one_node_empties_all(three: list[Node], capsys: pytest.CaptureFixture[str]) -> None:
    with Client([three[0].name], timeout_s=MANY_KEYS_S) as client:
        client.put_many(ITEMS)
        assert kv.main(["-s", three[2].name, "wipe", "--yes"]) == 0
        assert capsys.readouterr().out.count(" wiped\n") == 3
        assert client.get_many(ITEMS) == {}


def test_info_of_all_members_adds_up(three: list[Node], capsys: pytest.CaptureFixture[str]) -> None:
    with Client([three[0].name], timeout_s=MANY_KEYS_S) as client:
        client.put_many(ITEMS)
        assert len(client.get_many([*ITEMS, b"none"])) == len(ITEMS)
    capsys.readouterr()
    assert kv.main(["-s", three[1].name, "info", "--all", "--json", "--interval", "0.1"]) == 0
    *members, total = json.loads(capsys.readouterr().out)["nodes"]
    assert {member["address"] for member in members} == {node.name for node in three}
    assert {member["pid"] for member in members} == {node.process.pid for node in three}
    assert all(member["entries"] == len(ITEMS) for member in members), "three copies"
    assert total["commands"]["PUT"] >= len(ITEMS)
    assert (total["hits"] >= len(ITEMS), total["misses"] >= 1, total["evictions"]) == (True, True, 0)
    assert 60 << 20 < total["memory_bytes"] < total["memory_max_bytes"] == 3 * 128 << 20


def test_a_node_that_runs_is_told_what_to_log_and_what_is_slow(
    three: list[Node], capsys: pytest.CaptureFixture[str]
) -> None:
    every = ",".join(node.name for node in three)
    assert kv.main(["-s", every, "config", "set", "slow-ms", "1"]) == 0
    assert kv.main(["-s", every, "config", "set", "log-level", "error"]) == 0
    capsys.readouterr()
    assert kv.main(["-s", three[1].name, "config", "get"]) == 0
    assert capsys.readouterr().out == f"{three[1].name}  log-level error  slow-ms 1\n"
    assert "node.configured log_level=error slow_ms=1" in three[1].log
    assert kv.main(["-s", three[1].name, "config", "set", "slow-ms", "-1"]) == 1
    assert "isn't a number of milliseconds" in capsys.readouterr().err


def test_status_says_first_what_people_ask(three: list[Node], capsys: pytest.CaptureFixture[str]) -> None:
    assert kv.main(["-s", three[0].name, "status"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "whole: 3 of 3 servers, 3 copies each"
    three[2].kill()

    def first_line() -> str:
        assert kv.main(["-s", three[0].name, "status"]) == 0
        return capsys.readouterr().out.splitlines()[0]

    poll(lambda: first_line() == "not whole: 2 of 3 servers, 2 of 3 copies each", DEADLINE_S)


def test_bench_against_a_cluster(three: list[Node], capsys: pytest.CaptureFixture[str]) -> None:
    assert kv.main(["-s", three[0].name, "bench", "--seconds", "1", "--batch", "50"]) == 0
    assert "straight to the primary" in capsys.readouterr().out


def test_a_node_answers_from_whichever_of_its_machines_addresses_was_asked(three: list[Node]) -> None:
    """At once, and where another node's answer is waited for; a client's socket takes answers from no other address."""
    with Client([f"127.0.0.2:{three[0].port}"], slot_aware=False, timeout_s=MANY_KEYS_S) as client:
        before = forwarded(three)
        client.put_many(ITEMS)
        assert {key: found.value for key, found in client.get_many(ITEMS).items()} == ITEMS
        assert forwarded(three) > before


def test_an_asyncio_client_goes_straight_to_all_and_on_when_one_dies(three: list[Node]) -> None:
    async def work() -> None:
        async with AsyncClient([node.name for node in three], timeout_s=MANY_KEYS_S) as client:

            async def has_learned() -> bool:
                await client.put(b"any", b"value")
                return all(client._session.router.primary(slot) != NOWHERE for slot in range(SLOT_COUNT))

            while not await has_learned():
                pass
            before = client.stats.direct
            await asyncio.gather(*(client.put(key, value) for key, value in ITEMS.items()))
            # Who is late to answer, on a busy machine, is passed over for a while.
            assert client.stats.retries > 0 or client.stats.direct == before + len(ITEMS)
            three[2].process.send_signal(signal.SIGKILL)
            found = await asyncio.gather(*(client.get(key) for key in ITEMS))
            assert [value for value, _ in found] == list(ITEMS.values())
            await client.put_many(ITEMS)
            assert len(await client.get_many(ITEMS)) == len(ITEMS)

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))
