"""A real node, filled far past its bound, and what it has resident at its peak.

The values go out over UDP from here: a few datagrams are always on their way, few enough for any receive buffer,
and what is not answered in time is sent again.
"""

import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from zlib import crc32

import pytest

from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, NO_SPC_ERR, PUT, SYS_OVERLOAD_ERR
from proto_gen.key_value_pb2 import KVResponse
from proto_gen.message_pb2 import Msg
from tests.support.nodes import Node, running
from tests.support.ports import adjacent_ports
from tests.wire.datagrams import request
from tools.bench import attack
from tools.bench.chosen import key_in_slot
from tools.load.values import value_of

MIB = 1 << 20
BOUND = 128 * MIB
# Bytes that may be on their way: what the smallest usual receive buffer (208 KiB, of which a datagram takes about
# twice its size) holds without dropping any.
WINDOW_BYTES = 60_000
WINDOW_MAX = 64
RETRY_S = 0.5

_pack_checksum = Struct("<Q").pack


def length_field(tag: int, length: int) -> bytes:
    return bytes([tag, length]) if length < 0x80 else bytes([tag, length & 0x7F | 0x80, length >> 7])


def put_datagram(message_id: bytes, key: bytes, value: bytes, version: int) -> bytes:
    """A PUT, laid out by hand: protobuf would take more time than the node does."""
    payload = b"\x08\x01\x12%c%b%b%b\x20%c" % (len(key), key, length_field(0x1A, len(value)), value, version)
    checksum = _pack_checksum(crc32(payload, crc32(message_id)))
    return b"\x0a\x10%b%b%b\x19%b" % (message_id, length_field(0x12, len(payload)), payload, checksum)


class Sender:
    """Sends requests a window at a time and collects their error codes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(RETRY_S)
        self.sent = 0
        self.codes: dict[int, int] = {}  # how often each error code was answered
        self.on_answer: Callable[[bytes, bytes], None] | None = None  # messageID, datagram

    def next_id(self) -> bytes:
        self.sent += 1
        return b"%016d" % self.sent

    def run(self, datagrams: Iterator[tuple[bytes, bytes]], size: int) -> None:
        """Send (messageID, datagram) pairs of about that size until each is answered."""
        window = max(1, min(WINDOW_MAX, WINDOW_BYTES // (size + 100)))
        waiting: dict[bytes, bytes] = {}
        going = True
        while going or waiting:
            while going and len(waiting) < window:
                pair = next(datagrams, None)
                if pair is None:
                    going = False
                    break
                waiting[pair[0]] = pair[1]
                self.sock.send(pair[1])
            if not waiting:
                return
            try:
                answer = self.sock.recv(65_535)
            except TimeoutError:
                for datagram in waiting.values():
                    self.sock.send(datagram)
                continue
            message_id = answer[2:18]
            if waiting.pop(message_id, None) is None:
                continue  # the answer to a retry
            code = answer[answer.index(b"\x08", 18) + 1]
            self.codes[code] = self.codes.get(code, 0) + 1
            if self.on_answer is not None:
                self.on_answer(message_id, answer)


def key_of(phase: str, n: int) -> bytes:
    return b"%b %d" % (phase.encode(), n)


def size_of(sizes: int | None, n: int) -> int:
    """The size of value n of a phase; None stands for random ones."""
    return random.Random(n).randrange(10_001) if sizes is None else sizes


def put_all(sender: Sender, phase: str, sizes: int | None, count: int) -> None:
    def datagrams() -> Iterator[tuple[bytes, bytes]]:
        for n in range(count):
            message_id, key = sender.next_id(), key_of(phase, n)
            yield message_id, put_datagram(message_id, key, value_of(key, n % 100, size_of(sizes, n)), n % 100)

    sender.run(datagrams(), sizes or 10_000)


def count_found(sender: Sender, phase: str, sizes: int | None, numbers: list[int]) -> int:
    """Read values back, each of which must be right or gone; how many are there."""
    asked: dict[bytes, int] = {}
    found = 0

    def judge(message_id: bytes, datagram: bytes) -> None:
        nonlocal found
        n = asked[message_id]
        key = key_of(phase, n)
        answer = KVResponse.FromString(Msg.FromString(datagram).payload)
        if answer.errCode == KEY_DNE_ERR:
            return
        assert answer.errCode == NO_ERR
        assert (answer.value, answer.version) == (value_of(key, n % 100, size_of(sizes, n)), n % 100), key
        found += 1

    def datagrams() -> Iterator[tuple[bytes, bytes]]:
        for n in numbers:
            message_id = sender.next_id()
            asked[message_id] = n
            yield message_id, request(message_id, command=GET, key=key_of(phase, n))

    sender.on_answer = judge
    sender.run(datagrams(), 10_000)
    sender.on_answer = None
    return found


def peak(node: Node) -> int:
    return node.status_field_bytes("VmHWM")


def test_the_peak_stays_under_the_bound_whatever_sizes_flow_through(tmp_path: Path) -> None:
    """Each phase by itself is more than the node can hold, or all it can hold in entries."""
    with running(tmp_path, "--max-memory", "128MiB") as node, node.socket() as sock:
        sender = Sender(sock)
        for phase, sizes, count, held_at_least in (
            ("large", 10_000, 13_000, 70 * MIB // 10_000),
            ("small", 64, 60_000, 60_000),
            ("medium", 900, 50_000, 25_000),
            ("random", None, 16_000, 5_000),
            ("small again", 64, 30_000, 30_000),
        ):
            sender.codes.clear()
            put_all(sender, phase, sizes, count)
            refused = sender.codes.pop(SYS_OVERLOAD_ERR, 0)
            assert set(sender.codes) == {NO_ERR}, (phase, sender.codes)
            assert refused < count // 100, f"{refused} of {count} refused: {phase}"
            assert peak(node) < BOUND, f"{peak(node) / MIB:.1f} MiB at the end of {phase}"
            # The newest are there, but for the few that were refused or that the order of eviction misjudged.
            newest = list(range(count - held_at_least // 10, count))
            found = count_found(sender, phase, sizes, newest)
            assert found >= 0.9 * len(newest) - refused, f"{found} of the newest {len(newest)}: {phase}"
            everywhere = sorted(random.Random(1).sample(range(count), 500))
            assert count_found(sender, phase, sizes, everywhere) >= 0.8 * 500 * min(1, held_at_least / count) - refused
        assert peak(node) < BOUND
        assert node.process.poll() is None


def test_a_store_that_may_not_evict_tells_that_it_is_full_and_keeps_everything(tmp_path: Path) -> None:
    with running(tmp_path, "--max-memory", "80MiB", "--policy", "noeviction") as node, node.socket() as sock:
        sender = Sender(sock)
        put_all(sender, "large", 10_000, 5_000)
        assert set(sender.codes) == {NO_ERR, NO_SPC_ERR}
        stored = sender.codes[NO_ERR]
        assert stored * 10_000 > 21 * MIB  # the interpreter has 37 to 41, as pages of its files are mapped; replies 15
        assert count_found(sender, "large", 10_000, list(range(5_000))) == stored
        assert node.code(PUT, key=key_of("large", 0), value=b"something smaller") == NO_ERR
        assert node.code(PUT, key=b"one more", value=bytes(10_000)) == NO_SPC_ERR
        assert count_found(sender, "large", 10_000, list(range(1, 5_000))) == stored - 1
        assert peak(node) < 80 * MIB


def test_the_peak_stays_under_the_bound_when_entries_are_tiny_and_when_they_all_fall_into_one_slot(
    tmp_path: Path,
) -> None:
    """Nearly all of what they take is hash tables, keys and links, which nobody can take back.

    So many PUTs may fill the reply memory, too; those are refused.
    """
    with running(tmp_path, "--max-memory", "64MiB") as node, node.socket() as sock:
        sender = Sender(sock)
        rng = random.Random(1)
        for phase, slot, count in (("any slot", None, 160_000), ("one slot", 7, 160_000)):

            def datagrams(slot: int | None, count: int) -> Iterator[tuple[bytes, bytes]]:
                for _ in range(count):
                    key = rng.randbytes(10)
                    message_id = sender.next_id()
                    yield message_id, put_datagram(message_id, key if slot is None else key_in_slot(key, slot), b"v", 1)

            sender.codes.clear()
            sender.run(datagrams(slot, count), 60)
            assert set(sender.codes) <= {NO_ERR, SYS_OVERLOAD_ERR}, phase
            assert sender.codes[NO_ERR] > count // 2, phase  # the rest while the reply memory was full
            assert peak(node) < 64 * MIB, f"{peak(node) / MIB:.1f} MiB at the end of {phase}"
        assert node.process.poll() is None


@pytest.mark.parametrize("phases", ["10x1,9000,1-32x0-16", "3x0,32x16,3x0", "10x1@7,10x1@8"])
def test_the_bound_holds_against_an_adversary(phases: str) -> None:
    """A share of the list of tools/bench/memory.py, as fast as a process of its own can put."""
    command = [sys.executable, "-m", "tools.bench.memory", phases, "--seconds", "1", "--rate", "0", "--flow", "1"]
    done = subprocess.run(
        [*command, "--max-memory", "64", "--judge", "--step-ms", "1000"],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bound_holds_with_copies_a_secret_and_status_ports_while_nodes_fail_and_are_repaired(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What tools/bench/attack.py does, for a while: a node is killed under tiny entries of one slot, another one is
    stopped under large ones, and both come back to be given their copies again."""
    port = str(adjacent_ports(6)[0])
    arguments = ["10x1@7,9000", "--nodes", "3", "--port", port, "--http", "--secret", "--faults", "kill,stop"]
    status = attack.main([*arguments, "--max-memory", "64", "--flow", "0.2"])
    assert status == 0, capsys.readouterr().out
