"""What real nodes show over HTTP: readiness, metrics under load, each other's numbers, slow requests."""

import json
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.wire.protocol import NO_ERR, PUT, slot_of
from tests.integration.http_nodes import fetch, status, watched_cluster
from tests.support.nodes import Node, run_python, run_to_its_end
from tests.support.polling import DEADLINE_S, awaited, poll
from tests.support.ports import free_port
from tools.nodes import write_servers

MIB = 1 << 20


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with watched_cluster(tmp_path_factory.mktemp("http"), 3, ("--slow-ms", "1", "--leave-timeout", "3")) as nodes:
        yield nodes


def metric(node: Node, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, as of a second ago at most."""
    families = text_string_to_metric_families(fetch(node, "/metrics")[1].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    assert samples, f"no {name}"
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def put(node: Node, key: bytes) -> None:
    """Until it is answered; a slow machine may take more than one try."""

    def is_done() -> bool:
        answer = node.ask(PUT, key=key, value=b"v")
        return answer is not None and answer.errCode == NO_ERR

    poll(is_done, DEADLINE_S)


def test_a_request_for_another_nodes_slot_is_forwarded_here_and_executed_there(nodes: list[Node]) -> None:
    front = nodes[0]
    told = status(front)
    addresses = [member["address"] for member in told["members"]]
    owner = next(node for node in nodes[1:] if node.name in addresses)
    keys = (b"%d" % n for n in range(10_000))
    key = next(key for key in keys if addresses[told["slots"]["primary"][slot_of(key)]] == owner.name)
    before = metric(owner, "kv_requests_total", command="PUT")
    put(front, key)
    poll(lambda: metric(front, "kv_forwarded_requests_total") >= 1, DEADLINE_S)
    assert metric(front, "kv_request_duration_seconds_count", how="forwarded") >= 1
    poll(lambda: metric(owner, "kv_requests_total", command="PUT") >= before + 1, DEADLINE_S)


def test_a_write_that_waited_for_its_copies_is_counted_as_such(nodes: list[Node]) -> None:
    told = status(nodes[0])
    me = next(place for place, member in enumerate(told["members"]) if member["me"])
    key = next(key for key in (b"%d" % n for n in range(10_000)) if told["slots"]["primary"][slot_of(key)] == me)
    before = metric(nodes[0], "kv_request_duration_seconds_count", how="replicated")
    put(nodes[0], key)
    poll(lambda: metric(nodes[0], "kv_request_duration_seconds_count", how="replicated") >= before + 1, DEADLINE_S)
    poll(lambda: all(metric(node, "kv_store_entries") >= 1 for node in nodes), DEADLINE_S)


def test_each_node_shows_what_the_others_say_of_themselves(nodes: list[Node]) -> None:
    def complete() -> list[dict[str, Any]] | None:
        members: list[dict[str, Any]] = status(nodes[0]).get("members", [])
        is_complete = len(members) == 3 and all(one["vitals"] and one["rate"] is not None for one in members)
        return members if is_complete else None

    for member in awaited(complete, "all are shown"):
        assert 20 * MIB < member["vitals"]["resident_bytes"] <= member["vitals"]["peak_resident_bytes"] < 128 * MIB
        assert str(member["vitals"]["http_port"]) in [node.environment["KV_HTTP"] for node in nodes]


def test_slow_requests_are_read_by_the_command_line_client(nodes: list[Node]) -> None:
    """Which requests take 1 ms depends on the machine; that all three ways agree does not."""
    done = run_python("tools/kv.py", "-s", nodes[1].name, "slowlog", "--json")
    assert done.returncode == 0, done.stderr
    told, by_http = json.loads(done.stdout), json.loads(fetch(nodes[1], "/slowlog")[1])
    assert told["threshold_ms"] == by_http["threshold_ms"] == 1.0
    assert told["columns"] == by_http["columns"]


def flood(node: Node, stop: Event) -> None:
    """Ask for its page again and again on one connection, twenty times at once."""
    asked = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n" * 20
    with socket.create_connection((node.host, int(node.environment["KV_HTTP"])), DEADLINE_S) as sock:
        sock.setblocking(False)
        unsent = memoryview(asked)
        while not stop.is_set():
            readable, writable, _ = select.select([sock], [sock], [], 0.1)
            if readable and not sock.recv(1 << 20):
                return
            if writable:
                with suppress(BlockingIOError):
                    unsent = unsent[sock.send(unsent) :] or memoryview(asked)


def test_who_asks_for_pages_without_end_slows_nobody_down(nodes: list[Node]) -> None:
    """This got a node expelled within a second, and none of its clients an answer."""
    node, epochs, stop = nodes[0], [status(node)["cluster"]["epoch"] for node in nodes], Event()
    with ThreadPoolExecutor(4) as floods:
        try:
            running = [floods.submit(flood, node, stop) for _ in range(4)]
            for number in range(50):
                put(node, b"%d" % number)
            assert not [one for one in running if one.done()], "they have been asking all the time"
        finally:
            stop.set()
    for one in running:
        one.result()
    assert [status(node)["cluster"]["epoch"] for node in nodes] == epochs
    assert not [node.name for node in nodes if "links.silent" in node.log]


def test_scrapes_leave_a_node_within_its_bound(nodes: list[Node]) -> None:
    for _ in range(50):
        for path in ("/metrics", "/status.json", "/"):
            assert fetch(nodes[0], path)[0] == 200
    peak_bytes = metric(nodes[0], "kv_memory_peak_bytes")
    assert peak_bytes < 80 * MIB, "an idle node"


def test_a_node_that_stops_is_not_ready(nodes: list[Node]) -> None:
    """Its HTTP server goes last, so a balancer hears it before it finds nobody. Here the others stand still and take
    nothing over: it waits for them, longer than any balancer, or this test, is kept from asking."""
    *others, node = nodes
    heard: list[int] = []
    for other in others:
        other.send_signal(signal.SIGSTOP)
    node.send_signal(signal.SIGTERM)

    def is_gone() -> bool:
        heard.append(fetch(node, "/ready")[0])
        return node.process.poll() is not None

    poll(is_gone, DEADLINE_S)
    for other in others:
        other.send_signal(signal.SIGCONT)
    assert node.process.returncode == 0
    assert 503 in heard
    assert 200 not in heard[heard.index(503) :]


def test_a_taken_port_is_one_line_and_status_2(nodes: list[Node], tmp_path: Path) -> None:
    port = free_port()
    servers = write_servers(tmp_path, [port])
    taken = nodes[0].environment["KV_HTTP"]
    done = run_to_its_end(str(port), str(servers), "--bind", "127.0.0.1", KV_HTTP=taken)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"can't bind TCP 127.0.0.1 port {taken}" in done.stderr
