"""A node that is bound to all addresses of its machine answers from the one that it was asked at."""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.config.options import Options
from app.config.servers import Server
from app.front.batch import DatagramBatch, WildcardBatch, datagram_batch
from app.front.rate import AnswerRate
from app.sockets import DatagramSocket, Sockets
from tests.support.machine import has_ipv6, may_unshare
from tests.support.nodes import REPOSITORY
from tests.support.ports import free_port

SIZE = 8
DEADLINE_S = 10.0
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


class Asked:
    """A node's sockets at a wildcard, and clients that take answers from the very address they asked, as all do."""

    def __init__(self, bind: str, stack: ExitStack) -> None:
        me = Server("127.0.0.1", free_port(), "127.0.0.1")
        sockets = Sockets(Options(port=me.port, servers=(me,), me=me, bind=bind))
        stack.callback(sockets.listener.close)
        stack.callback(sockets.datagrams.stop)
        self.port = me.port
        self.datagrams: DatagramSocket = sockets.datagrams
        self.batch = datagram_batch(
            sockets.datagrams, SIZE, lambda: False, AnswerRate(1 << 60, exempt={}, now=lambda: 0.0, random=lambda: 0.5)
        )
        self._stack = stack

    def client(self, host: str, source: str | None = None) -> socket.socket:
        """Asks at this address of the machine; `source`: from another one of it."""
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(client.close)
        client.settimeout(DEADLINE_S)
        if source is not None:
            client.bind((source, 0))
        client.connect((host, self.port))
        return client

    def receive(self, count: int) -> None:
        """So many datagrams into one batch, which are there."""
        assert select.select([self.datagrams._sock], [], [], DEADLINE_S)[0]
        assert self.batch.receive() == count

    def ask(self, *clients: socket.socket) -> None:
        for number, client in enumerate(clients):
            client.send(b"request %d" % number)
        self.receive(len(clients))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


WILDCARDS = ["0.0.0.0", pytest.param("::", marks=needs_ipv6)]


@pytest.mark.parametrize("bind", WILDCARDS)
def test_each_reply_leaves_from_the_address_that_was_asked(bind: str, stack: ExitStack) -> None:
    asked = Asked(bind, stack)
    hosts = ["127.0.0.2", "127.0.0.1", "127.0.0.3", "127.0.0.2"] + (["::1"] if bind == "::" else [])
    clients = [asked.client(host, None if ":" in host else "127.0.0.1") for host in hosts]
    for _ in range(3):
        asked.ask(*clients)
        for number in reversed(range(len(clients))):
            asked.batch.reply(number, b"reply to " + asked.batch.datagram(number))
        asked.batch.flush()
        for number, client in enumerate(clients):
            assert client.recv(100) == b"reply to request %d" % number
    assert asked.batch.send_errors == 0


@pytest.mark.parametrize("bind", WILDCARDS)
def test_a_later_reply_leaves_from_the_address_that_was_asked(bind: str, stack: ExitStack) -> None:
    asked = Asked(bind, stack)
    clients = [asked.client(host, "127.0.0.1") for host in ("127.0.0.2", "127.0.0.3")]
    asked.ask(*clients)
    later = [(asked.batch.sender(number), asked.batch.asked_at(number)) for number in range(2)]
    in_hand = asked.client("127.0.0.4", "127.0.0.1")
    asked.ask(*[in_hand] * SIZE)
    for n in range(SIZE):  # past what one call sends, and in turns with replies to the batch in hand
        for address, at in later:
            asked.batch.send(address, b"later %d" % n, at)
        asked.batch.reply(n, b"reply %d" % n)
    asked.batch.flush()
    for n in range(SIZE):
        assert [client.recv(100) for client in clients] == [b"later %d" % n] * 2
        assert in_hand.recv(100) == b"reply %d" % n
    assert asked.batch.send_errors == 0


@pytest.mark.parametrize("bind", WILDCARDS)
def test_the_usual_address_changes_while_later_replies_are_laid_out(bind: str, stack: ExitStack) -> None:
    asked = Asked(bind, stack)
    first, second = (asked.client(host, "127.0.0.1") for host in ("127.0.0.2", "127.0.0.3"))
    asked.ask(first)
    later = asked.batch.sender(0), asked.batch.asked_at(0)
    for round_ in range(3):
        asked.batch.send(later[0], b"later %d" % round_, later[1])
        asked.ask(second)  # while that is still there
        asked.batch.reply(0, b"reply %d" % round_)
        asked.batch.send(later[0], b"and later %d" % round_, later[1])
        asked.batch.flush()
        assert second.recv(100) == b"reply %d" % round_
        assert [first.recv(100) for _ in range(2)] == [b"later %d" % round_, b"and later %d" % round_]
        asked.ask(second)  # with nothing else there: it is the usual one now
        asked.batch.reply(0, b"again %d" % round_)
        asked.batch.flush()
        assert second.recv(100) == b"again %d" % round_
        asked.batch.send(*later[:1], b"last %d" % round_, later[1])
        asked.batch.flush()
        assert first.recv(100) == b"last %d" % round_
    assert asked.batch.send_errors == 0


@pytest.mark.parametrize("hosts", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_what_a_datagram_says_of_its_interface_is_not_used(hosts: list[str], stack: ExitStack) -> None:
    """The way back is what routing says: the request may have come by another interface."""
    asked = Asked("0.0.0.0", stack)
    assert isinstance(asked.batch, WildcardBatch)
    asked.ask(*map(asked.client, hosts))
    assert list(asked.batch._in_interfaces[: len(hosts)]) == [0] * len(hosts)
    assert int.from_bytes(asked.batch._usual_out[16:20]) == 0
    assert asked.batch.asked_at(len(hosts) - 1) == socket.inet_aton(hosts[-1])


def test_a_reply_is_laid_out_only_for_what_has_been_asked(stack: ExitStack) -> None:
    asked = Asked("0.0.0.0", stack)
    asked.ask(asked.client("127.0.0.2"))
    with pytest.raises(AssertionError, match="not what `asked_at` gave"):
        asked.batch.send(asked.batch.sender(0), b"reply")


def test_a_node_at_one_address_has_none_of_this(stack: ExitStack) -> None:
    asked = Asked("127.0.0.2", stack)
    assert type(asked.batch) is DatagramBatch
    client = asked.client("127.0.0.2")
    asked.ask(client)
    assert asked.batch.asked_at(0) == b""
    asked.batch.send(asked.batch.sender(0), b"reply", asked.batch.asked_at(0))
    asked.batch.flush()
    assert client.recv(100) == b"reply"


SEVERAL_IPV6 = """
from contextlib import ExitStack
from tests.front.test_wildcard import Asked

with ExitStack() as stack:
    asked = Asked("::", stack)
    clients = [asked.client(host, "fd00::1") for host in ("fd00::3", "fd00::1", "fd00::2")]
    clients.append(asked.client("::1"))
    asked.ask(*clients)
    later = [(asked.batch.sender(number), asked.batch.asked_at(number)) for number in range(4)]
    for number in range(4):
        asked.batch.reply(number, b"reply %d" % number)
    asked.batch.flush()
    assert [client.recv(100) for client in clients] == [b"reply %d" % number for number in range(4)]
    for number, (address, at) in enumerate(later):
        asked.batch.send(address, b"later %d" % number, at)
    asked.batch.flush()
    assert [client.recv(100) for client in clients] == [b"later %d" % number for number in range(4)]
    print("fine")
"""


@needs_ipv6
@pytest.mark.skipif(not may_unshare(), reason="no right to make a network namespace")
def test_a_machine_with_several_ipv6_addresses() -> None:
    add = " && ".join(f"ip -6 addr add fd00::{n}/128 dev lo" for n in (1, 2, 3))
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "sh",
            "-c",
            f'ip link set lo up && {add} && exec "$0" -c "$1"',
            sys.executable,
            SEVERAL_IPV6,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
