"""Networks as operators write them, and verdicts by address, held against the standard library's."""

import ipaddress
import os
import random
import re
import socket

import pytest

from app.config.allowlist import (
    NETWORKS_MAX,
    VERDICTS_MAX,
    Verdicts,
    covers,
    host_of,
    network_of,
    parse_networks,
    show_networks,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("128.0.0.0/1", "128.0.0.0/1"),
        ("::/0", "::/0"),
        ("FD00::/8", "fd00::/8"),
        ("::1", "::1"),
        ("::1/128", "::1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("10.0.0.0/8,fd00::/8 , 127.0.0.1", "10.0.0.0/8,fd00::/8,127.0.0.1"),
        (",".join(["::1"] * NETWORKS_MAX), ",".join(["::1"] * NETWORKS_MAX)),
    ],
)
def test_networks_as_they_are_written(text: str, shown: str) -> None:
    assert show_networks(parse_networks(text)) == shown
    assert parse_networks(shown) == parse_networks(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' isn't a network: write 10.0.0.0/8, fd00::/8 or an address"),
        ("10.0.0.0/8,", "'' isn't a network"),
        ("10.0.0/8", "'10.0.0/8' isn't a network"),
        ("localhost", "'localhost' isn't a network"),
        ("10.0.0.0-10.0.0.9", "isn't a network"),
        ("[::1]", "isn't a network"),
        ("fe80::%lo/10", "isn't a network"),
        ("10.0.0.1:3331", "isn't a network"),
        ("1\0", "isn't a network"),
        ("\u0661.0.0.0", "isn't a network"),
        ("/8", "isn't a network"),
        ("10.0.0.0/", "what follows the / isn't a number of bits from 0 to 32"),
        ("10.0.0.0/33", "'10.0.0.0/33': what follows the / isn't a number of bits from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("10.0.0.0/-1", "from 0 to 32"),
        ("10.0.0.0/\u0668", "from 0 to 32"),
        ("fd00::/129", "from 0 to 128"),
        ("10.0.0.1/8", "'10.0.0.1/8' has bits set past the first 8: write 10.0.0.0/8 or 10.0.0.1"),
        ("fd00::1/8", "'fd00::1/8' has bits set past the first 8: write fd00::/8 or fd00::1"),
        ("0.0.0.1/0", "has bits set past the first 0: write 0.0.0.0/0 or 0.0.0.1"),
        (",".join(["::1"] * (NETWORKS_MAX + 1)), f"has {NETWORKS_MAX + 1} networks: at most {NETWORKS_MAX}"),
    ],
)
def test_what_is_no_network(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        parse_networks(text)
    assert "\n" not in str(caught.value)


def verdict(text: str, address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return Verdicts(parse_networks(text))[socket.inet_pton(family, address)]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["9.255.255.255", "11.0.0.0", "::a00:1"]),
        ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "192.0.2.8", "::ffff:192.0.2.8"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "::", "fd00::1"]),
        ("::/0", ["::1", "fd00::1"], ["1.2.3.4", "::ffff:1.2.3.4"]),
        ("fd00::/8", ["fd00::", "fdff::1"], ["fc00::1", "fe00::", "::ffff:253.0.0.1"]),
        ("::1", ["::1"], ["::2", "::", "127.0.0.1"]),
        ("10.0.0.0/8,fd00::/8", ["10.1.1.1", "fd00::2"], ["11.1.1.1", "fe80::1"]),
    ],
)
def test_whose_address_is_in_it(text: str, inside: list[str], outside: list[str]) -> None:
    assert [address for address in inside if not verdict(text, address)] == []
    assert [address for address in outside if verdict(text, address)] == []


@pytest.mark.parametrize("length", [4, 16])
def test_verdicts_are_those_of_the_standard_library(length: int) -> None:
    chance = random.Random(length)
    kind = ipaddress.IPv4Network if length == 4 else ipaddress.IPv6Network
    for _ in range(300):
        host = chance.randbytes(length)
        expected = kind((host, chance.randrange(8 * length + 1)), strict=False)
        (ours,) = parse_networks(str(expected))
        near = bytearray(host)
        near[chance.randrange(length)] ^= 1 << chance.randrange(8)
        for asked in (host, bytes(near), chance.randbytes(length)):
            assert Verdicts([ours])[asked] == (ipaddress.ip_address(asked) in expected), (expected, asked)


@pytest.mark.parametrize("length", [4, 16])
def test_verdicts_on_many_networks_are_those_of_each(length: int) -> None:
    """Networks that lie within each other, side by side, and with gaps between."""
    chance = random.Random(length)
    kind = ipaddress.IPv4Network if length == 4 else ipaddress.IPv6Network
    bits = 8 * length
    for _ in range(100):
        hosts = [chance.randrange(256).to_bytes(length) for _ in range(chance.randrange(1, 20))]
        networks = [kind((host, chance.randrange(bits - 8, bits + 1)), strict=False) for host in hosts]
        verdicts = Verdicts(networks)
        for number in range(300):
            asked = number.to_bytes(length)
            expected = any(ipaddress.ip_address(asked) in network for network in networks)
            assert verdicts[asked] == expected, (networks, asked)


def test_what_covers_what() -> None:
    for whole, part, expected in (
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.0.0.0/8", "11.0.0.0/16", False),
        ("0.0.0.0/0", "10.1.2.3", True),
        ("::/0", "10.1.2.3", False),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "::/0", True),
    ):
        assert covers(parse_networks(whole)[0], parse_networks(part)[0]) is expected, (whole, part)


def test_verdicts_are_kept_and_bounded() -> None:
    verdicts = Verdicts(parse_networks("10.0.0.0/8"))
    inside, outside = bytes((10, 0, 0, 1)), bytes((11, 0, 0, 1))
    assert (verdicts[inside], verdicts[outside]) == (True, False)
    assert dict(verdicts) == {inside: True, outside: False}
    for number in range(2 * VERDICTS_MAX):
        assert not verdicts[b"\xc0" + number.to_bytes(3)]
        assert len(verdicts) <= VERDICTS_MAX
    assert (verdicts[inside], verdicts[outside]) == (True, False)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_address_in_the_kernels_bytes(family: socket.AddressFamily) -> None:
    host = bytes(range(1, 5)) if family == socket.AF_INET else bytes(range(1, 17))
    middle = b"" if family == socket.AF_INET else b"flow"
    rest = bytes(8) if family == socket.AF_INET else b"scop"
    assert host_of(int(family).to_bytes(2, "little") + b"pt" + middle + host + rest) == host


def test_the_network_of_an_address() -> None:
    assert network_of("fe80::1%lo") == ipaddress.ip_network("fe80::1/128")
    assert network_of("::ffff:192.0.2.7") == ipaddress.ip_network("192.0.2.7/32")


def test_random_bytes_are_judged_without_fault() -> None:
    verdicts = Verdicts(parse_networks(",".join(f"10.0.0.0/{bits}" for bits in range(8, 33))))
    for length in (4, 16):
        for _ in range(100):
            assert verdicts[os.urandom(length)] in (True, False)
