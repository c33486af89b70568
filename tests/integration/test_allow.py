"""--allow and --admin-allow with real nodes: a cluster of two, and clients at several addresses of this machine."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.client import codec
from app.client.codec import KVRequest
from app.wire.protocol import (
    GET,
    INVALID_VAL_ERR,
    IS_ALIVE,
    KEY_DNE_ERR,
    NO_ERR,
    PADDING_BYTES,
    PUT,
    SHUTDOWN,
    STATUS,
    SYS_OVERLOAD_ERR,
    WIPEOUT,
)
from tests.support.nodes import Node, await_count, cluster, running
from tests.support.polling import DEADLINE_S, poll

CLIENT, ADMIN, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OPTIONS = ("--allow", f"{CLIENT},{ADMIN}", "--admin-allow", ADMIN)


@contextmanager
def at(host: str, node: Node) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.connect(("127.0.0.1", node.port))
        sock.settimeout(DEADLINE_S)
        yield sock


def table(sock: socket.socket, **fields: object) -> object:
    """What STATUS tells; the error code if it tells nothing."""
    sock.send(codec.encode_request(os.urandom(16), KVRequest(command=STATUS, **fields)))
    answer = codec.decode_response(sock.recv(65536))[1]
    return json.loads(answer.value)["address"] if answer.value else answer.errCode


def send(sock: socket.socket, command: int, **fields: object) -> None:
    sock.send(codec.encode_request(os.urandom(16), KVRequest(command=command, **fields)))


def code(sock: socket.socket, command: int, **fields: object) -> int:
    send(sock, command, **fields)
    return codec.decode_response(sock.recv(65536))[1].errCode


@pytest.mark.parametrize("secret", ["", "a secret of some length"])
def test_addresses_decide(tmp_path: Path, secret: str) -> None:
    with cluster(tmp_path, 2, arguments=OPTIONS, environment={"KV_CLUSTER_SECRET": secret}) as nodes:
        for node in nodes:
            node.start()
        await_count(nodes, 2, DEADLINE_S)  # asked from 127.0.0.1, where the servers are
        with at(CLIENT, nodes[0]) as client, at(ADMIN, nodes[0]) as admin, at(STRANGER, nodes[0]) as stranger:
            poll(lambda: code(client, PUT, key=b"k", value=b"v") == NO_ERR, DEADLINE_S)
            for command in (GET, PUT, IS_ALIVE, WIPEOUT, SHUTDOWN):
                send(stranger, command, key=b"k", value=b"x")
            for command in (WIPEOUT, SHUTDOWN):
                send(client, command)
            send(client, GET, key=b"k")  # comes after them, and is the first that is answered
            assert codec.decode_response(client.recv(65536))[1].value == b"v"
            counters = nodes[0].counters()
            assert (counters["dropped_not_allowed"], counters["dropped_admin_not_allowed"]) == (5, 2)
            log = nodes[0].log
            host, port = client.getsockname()
            assert f"access.refused command=WIPEOUT sender={host}:{port}\n" in log
            assert f"allow={CLIENT},{ADMIN} admin_allow={ADMIN} " in log
            for node in nodes:
                with at(ADMIN, node) as other:
                    poll(lambda other=other: code(other, WIPEOUT) == NO_ERR, DEADLINE_S)  # type: ignore[misc]
            assert code(client, GET, key=b"k") == KEY_DNE_ERR
            assert code(admin, SHUTDOWN) == NO_ERR
            assert nodes[0].process.wait(DEADLINE_S) == 0
            stranger.setblocking(False)
            with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                stranger.recv(65536)


def test_strangers_are_told_no_more_than_twice_what_they_send(tmp_path: Path) -> None:
    """What somebody sends in a victim's name is not worth while; a tool that fills its request up is told all."""
    with running(tmp_path) as node, at(STRANGER, node) as stranger, at("127.0.0.1", node) as here:
        assert table(stranger) == INVALID_VAL_ERR
        assert table(stranger, value=bytes(PADDING_BYTES)) == node.name
        assert table(here) == node.name
    with running(tmp_path, "--allow", f"{CLIENT},127.0.0.1") as node, at(CLIENT, node) as client:
        assert table(client) == node.name


def test_an_address_gets_so_many_bytes_a_second_and_others_are_not_concerned(tmp_path: Path) -> None:
    with running(tmp_path, "--answer-rate", "64KiB") as node:
        with at(STRANGER, node) as stranger, at(CLIENT, node) as client, at("127.0.0.1", node) as here:
            assert code(client, PUT, key=b"k", value=bytes(10_000)) == NO_ERR
            poll(lambda: code(stranger, GET, key=b"k") == SYS_OVERLOAD_ERR, DEADLINE_S)
            assert code(stranger, PUT, key=b"x", value=b"") == NO_ERR  # what is small it gets
            assert [code(sock, GET, key=b"k") for sock in (client, here)] == [NO_ERR, NO_ERR]
            assert {code(here, GET, key=b"k") for _ in range(100)} == {NO_ERR}
            poll(lambda: code(stranger, GET, key=b"k") == NO_ERR, DEADLINE_S)
        assert node.counters()["over_rate"] >= 1
        assert f"front.over_rate sender={STRANGER}" in node.log
