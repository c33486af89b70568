"""Who may send requests, and who may have the node stop or wiped."""

import logging

import pytest

from app.config.allowlist import host_of, parse_networks
from app.front.access import Administrators, clients, known
from app.wire.protocol import SHUTDOWN, WIPEOUT

HOST = bytes((192, 0, 2, 7))
SOCKADDR = b"\x02\x00" + (3331).to_bytes(2) + HOST + bytes(8)


class Asked:
    """A request of a client."""

    client = SOCKADDR


def test_servers_are_always_among_the_clients() -> None:
    allowed = clients(parse_networks("10.0.0.0/8"), ["192.0.2.7", "fe80::1%lo"])
    assert allowed[host_of(SOCKADDR)]
    assert allowed[bytes(10) + b"\xff\xff" + HOST], "as an IPv6 socket has it"
    assert allowed[b"\xfe\x80" + bytes(13) + b"\x01"]
    assert allowed[bytes((10, 0, 0, 1))]
    assert not allowed[bytes((192, 0, 2, 8))]


def test_this_machine_and_the_servers_are_no_strangers() -> None:
    verdicts = known(["192.0.2.7"])
    assert verdicts[host_of(SOCKADDR)]
    assert verdicts[bytes((127, 0, 0, 1))]
    assert verdicts[bytes(10) + b"\xff\xff" + bytes((127, 0, 0, 1))], "as an IPv6 socket has it"
    assert verdicts[bytes(15) + b"\x01"]
    assert not verdicts[bytes((127, 0, 0, 2))]
    assert not verdicts[bytes((192, 0, 2, 8))]


def test_a_server_that_moves_takes_its_rights_along() -> None:
    there, elsewhere = host_of(SOCKADDR), bytes((192, 0, 2, 8))
    for verdicts in (clients(parse_networks("10.0.0.0/8"), ["192.0.2.7"]), known(["192.0.2.7"])):
        assert (verdicts[there], verdicts[elsewhere]) == (True, False)
        verdicts.follow(["192.0.2.8"])
        assert (verdicts[there], verdicts[elsewhere]) == (False, True)
        assert verdicts[bytes((10, 0, 0, 1))] != verdicts[bytes((127, 0, 0, 1))], "the others' stay"


@pytest.mark.parametrize("command", [SHUTDOWN, WIPEOUT])
@pytest.mark.parametrize(("networks", "is_admin"), [("192.0.2.0/24", True), ("192.0.2.8", False)])
def test_administrators_go_by_their_address(
    command: int, networks: str, is_admin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    administrators = Administrators(parse_networks(networks))
    with caplog.at_level(logging.WARNING):
        assert administrators.may(Asked(), command) is is_admin  # type: ignore[arg-type]
    told = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    name = "SHUTDOWN" if command == SHUTDOWN else "WIPEOUT"
    expected = [] if is_admin else [("access.refused", {"command": name, "sender": "192.0.2.7:3331"})]
    assert [(event, {k: v for k, v in fields.items() if k != "suppressed"}) for event, fields in told] == expected
