"""Who may send requests, and who may have the node stop or wiped."""

import logging

import pytest

from app.config.allowlist import host_of, parse_networks
from app.config.servers import Server
from app.front import access
from app.requests.request import Origin
from app.wire.protocol import SHUTDOWN, WIPEOUT

HOST = bytes((192, 0, 2, 7))
SOCKADDR = b"\x02\x00" + (3331).to_bytes(2) + HOST + bytes(8)


def origin(client: bytes = SOCKADDR, peer: str = "") -> Origin:
    return Origin(client, peer, 0, 0.0)


def test_servers_are_always_among_the_clients() -> None:
    servers = [Server("kv1", 3331, "192.0.2.7"), Server("kv2", 3331, "fe80::1%lo")]
    allowed = access.clients(parse_networks("10.0.0.0/8"), servers)
    assert allowed[host_of(SOCKADDR)]
    assert allowed[bytes(10) + b"\xff\xff" + HOST], "as an IPv6 socket has it"
    assert allowed[b"\xfe\x80" + bytes(13) + b"\x01"]
    assert allowed[bytes((10, 0, 0, 1))]
    assert not allowed[bytes((192, 0, 2, 8))]


@pytest.mark.parametrize("command", [SHUTDOWN, WIPEOUT])
@pytest.mark.parametrize(("networks", "is_admin"), [("192.0.2.0/24", True), ("192.0.2.8", False)])
def test_administrators_go_by_their_address(
    command: int, networks: str, is_admin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    may_administer = access.administrators(parse_networks(networks), origin)
    with caplog.at_level(logging.WARNING):
        assert may_administer(command) is is_admin
    told = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    name = "SHUTDOWN" if command == SHUTDOWN else "WIPEOUT"
    expected = [] if is_admin else [("access.refused", {"command": name, "sender": "192.0.2.7:3331"})]
    assert [(event, {k: v for k, v in fields.items() if k != "suppressed"}) for event, fields in told] == expected


def test_what_a_peer_relays_is_no_administrators() -> None:
    """No node relays what has no key; one that does is not believed."""
    everybody = parse_networks("0.0.0.0/0,::/0")
    assert not access.administrators(everybody, lambda: origin(b"", "kv2:3331"))(WIPEOUT)
    assert access.administrators(everybody, origin)(WIPEOUT)
