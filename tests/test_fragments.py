"""Datagrams on the wire: none with the don't-fragment bit, and fragments that every network carries."""

import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from app.client.address import resolve
from app.client.sockets import Sockets as ClientSockets
from app.client.stats import Stats
from app.fragments import IPV6_LEAST_MTU_BYTES, allow_fragments
from app.sockets import Sockets
from tests.support.machine import may_unshare
from tests.support.nodes import REPOSITORY
from tests.support.ports import free_port
from tests.test_sockets import needs_ipv6, options
from tools.load.lanes import Lanes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="about options of Linux")

IPV4_ETHERTYPE, IPV6_ETHERTYPE = 0x0800, 0x86DD
DONT_FRAGMENT = 0x4000
SIZES = (10, 1400, 10_000)


@contextmanager
def watched(family: socket.AddressFamily) -> Iterator[socket.socket]:
    """A socket that sees the packets of one family on the loopback interface."""
    ethertype = IPV6_ETHERTYPE if family == socket.AF_INET6 else IPV4_ETHERTYPE
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype))
    except PermissionError:
        pytest.skip("no right to look at packets (CAP_NET_RAW)")
    with wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        wire.bind(("lo", ethertype))
        yield wire


def by_client(host: str, port: int, data: bytes) -> None:
    sockets = ClientSockets(Stats())
    sockets.send(0, resolve(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), data)
    sockets.close()


def by_node(bind: str) -> Callable[[str, int, bytes], None]:
    def send(host: str, port: int, data: bytes) -> None:
        sockets = Sockets(options(bind))
        mapped = f"::ffff:{host}" if ":" in bind and ":" not in host else host
        assert sockets.datagrams.send_to(data, (mapped, port, 0, 0) if ":" in bind else (host, port))
        sockets.datagrams.stop()
        sockets.listener.close()

    return send


def by_load_generator(host: str, port: int, data: bytes) -> None:
    lanes = Lanes([f"{host}:{port}"], 1, None)
    lanes.send(0, 0, data)
    lanes.close()


def arrived(taker: socket.socket, data: bytes, wire: socket.socket) -> list[bytes]:
    """The packets seen until a datagram has arrived, so its own among them."""
    assert select.select([taker], [], [], 10.0)[0], "nothing arrives"
    assert taker.recv(65535) == data
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(wire.recv(65535, socket.MSG_DONTWAIT))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "send",
    [
        by_client,
        by_load_generator,
        by_node("127.0.0.1"),
        by_node("0.0.0.0"),
        pytest.param(by_node("::"), marks=needs_ipv6),
    ],
)
def test_every_ipv4_datagram_may_be_fragmented(send: Callable[[str, int, bytes], None], size: int) -> None:
    port = free_port()
    with watched(socket.AF_INET) as wire, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
        taker.bind(("127.0.0.1", port))
        send("127.0.0.1", port, bytes(size))
        ours = [packet for packet in arrived(taker, bytes(size), wire) if packet[22:24] == port.to_bytes(2)]
        assert ours
        assert not any(int.from_bytes(packet[6:8]) & DONT_FRAGMENT for packet in ours)


OVER_IPV6 = """
import socket
from tests import test_fragments as here

for send in (here.by_client, here.by_node("::1"), here.by_node("::")):
    for size in here.SIZES:
        with here.watched(socket.AF_INET6) as wire, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taker:
            taker.bind(("::1", 0))
            send("::1", taker.getsockname()[1], bytes(size))
            lengths = {len(packet) for packet in here.arrived(taker, bytes(size), wire) if packet[6] in (17, 44)}
            print(size, max(lengths))
"""


@needs_ipv6
@pytest.mark.skipif(not may_unshare(), reason="no right to make a network namespace")
def test_what_is_cut_up_for_ipv6_is_cut_to_what_every_network_carries() -> None:
    """On an interface with the MTU of Ethernet. What fits into that leaves whole: Linux has no option against it."""
    command = 'ip link set lo mtu 1500 up && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", command, sys.executable, OVER_IPV6],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    seen = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert seen == [(10, 58), (1400, 1448), (10_000, IPV6_LEAST_MTU_BYTES)] * 3


@needs_ipv6
def test_a_system_without_such_options_is_let_be() -> None:
    class Older(socket.socket):
        def setsockopt(self, *arguments: object) -> None:
            raise OSError("Protocol not available")

    with Older(socket.AF_INET6, socket.SOCK_DGRAM) as older:
        allow_fragments(older)
