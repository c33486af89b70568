"""The benchmark of hostile clients runs, and its attacks are what they say. What it measures is not looked at."""

import random
import re
from itertools import islice
from zlib import crc32

import pytest

from app.wire.codec import KVRequest, Msg, parse_msg, parse_request
from app.wire.protocol import DATAGRAM_MAX_BYTES, slot_of
from tests.support.ports import free_port
from tools import cli
from tools.bench import hostile
from tools.bench.chosen import with_checksum

Captured = pytest.CaptureFixture[str]
SEED = 7


def test_two_attacks_and_none(capsys: Captured) -> None:
    attacks = ["none", "junk-sources", "status"]
    assert hostile.main([*attacks, "--port", str(free_port()), "--seconds", "0.2", "--rate", "100"]) == cli.OK
    rows = [row.strip("|").split("|") for row in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 + len(attacks)
    assert {len(row) for row in rows} == {8}
    for name, row in zip(attacks, rows[2:], strict=True):
        assert row[0].strip() == hostile.ATTACKS[name].what
        assert all(re.fullmatch(r"[\d,.]+%?", cell.strip()) for cell in row[1:]), row


def test_an_attack_that_is_not_there_is_told_in_a_line(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exited:
        hostile.main(["none", "nonsense"])
    assert exited.value.code == cli.USAGE
    assert capsys.readouterr().err.startswith("tools.bench.hostile: no attack is named nonsense")


def datagrams(name: str, count: int) -> list[bytes]:
    print(f"seed {SEED}")
    made = hostile.ATTACKS[name].datagrams
    assert made is not None
    return list(islice(made(random.Random(SEED)), count))


def taken_apart(name: str, count: int) -> list[tuple[Msg, KVRequest]]:
    messages = [parse_msg(datagram) for datagram in datagrams(name, count)]
    assert all(crc32(message.payload, crc32(message.messageID)) == message.checkSum for message in messages)
    return [(message, parse_request(message.payload)) for message in messages]


@pytest.mark.parametrize("name", [name for name, attack in hostile.ATTACKS.items() if attack.datagrams])
def test_no_attack_is_too_long_for_a_datagram(name: str) -> None:
    assert all(0 < len(datagram) <= DATAGRAM_MAX_BYTES for datagram in datagrams(name, 20))


def test_keys_and_ids_meet_where_they_are_said_to() -> None:
    assert {slot_of(request.key) for _, request in taken_apart("one-slot", 200)} == {7}
    assert len({crc32(message.messageID) for message, _ in taken_apart("one-checksum", 200)}) == 1
    assert len({crc32(request.key) for _, request in taken_apart("one-key-checksum", 200)}) == 1
    assert len({message.messageID for message, _ in taken_apart("one-checksum", 200)}) == 200


@pytest.mark.parametrize("checksum", [0, 1, 0xDEADBEEF, 0xFFFFFFFF])
@pytest.mark.parametrize("prefix", [b"", b"k", b"some text"])
def test_a_checksum_that_is_wanted(prefix: bytes, checksum: int) -> None:
    made = with_checksum(prefix, checksum)
    assert made[:-4] == prefix
    assert crc32(made) == checksum
