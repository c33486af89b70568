import socket

import pytest

from app.client.address import Endpoint, numeric, resolve, split_host_port, unresolved
from app.client.errors import BadServer


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:3331", ("127.0.0.1", 3331)),
        (" node-1.example:1 ", ("node-1.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9)),
    ],
)
def test_split(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "3331",
        ":3331",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:x",
        "host:003331",
        "host:²",
        "host:" + "1" * 5000,
        "::1:3331",
        "[::1:3331",
        "::1]:3331",
        "[]:1",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(BadServer):
        split_host_port(text)


def test_resolve_both_families() -> None:
    assert resolve("127.0.0.1:9").family == socket.AF_INET
    assert resolve("[::1]:9").family == socket.AF_INET6
    assert resolve("[::1]:9").address[:2] == ("::1", 9)


def test_a_name_of_both_families_is_taken_as_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", 9, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 9)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert resolve("node:9").address == ("127.0.0.1", 9)


def test_of_several_addresses_the_next_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ["::1", "10.0.0.1", "10.0.0.2"]
    found = [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, 9)) for host in hosts
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    first = resolve("node:9")
    second = resolve("node:9", after=first)
    assert [first.address, second.address] == [("10.0.0.1", 9), ("10.0.0.2", 9)]
    assert resolve("node:9", after=second) == first
    assert resolve("node:9", after=unresolved("node:9")) == first
    assert resolve("node:9", after=Endpoint("node:9", socket.AF_INET, ("10.9.9.9", 9))) == first


def test_what_is_looked_up_later_is_well_formed() -> None:
    assert unresolved(" node:9 ") == ("node:9", socket.AF_UNSPEC, ())
    with pytest.raises(BadServer, match="not host:port"):
        unresolved("node")


@pytest.mark.parametrize("host", ["a\0b", "\ud800", "a" * 64, "é" * 300, "a..b"])
def test_what_can_be_no_host_is_a_bad_server(host: str) -> None:
    """As it may stand in a table that is no table."""
    with pytest.raises(BadServer):
        resolve(f"{host}:9")
    assert numeric(f"{host}:9") is None


def test_an_unknown_host_is_a_bad_server() -> None:
    with pytest.raises(BadServer, match=r"no-such-host\.invalid:9"):
        resolve("no-such-host.invalid:9")
    with pytest.raises(BadServer):
        resolve("a" * 64 + ".example:9")


def test_addresses_are_looked_up_as_bytes_and_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a text Python imports tables that an address needs none of."""
    asked: list[object] = []

    def found(host: object, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    for host in ("127.0.0.1", "[fe80::1%lo]", "node", "9.example", "²"):
        resolve(f"{host}:9")
    assert asked == [b"127.0.0.1", b"fe80::1%lo", "node", "9.example", "²"]
