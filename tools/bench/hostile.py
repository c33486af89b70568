"""What an honest client sees of a hostile one: python -m tools.bench.hostile [ATTACK ...] [--seconds S] [--rate N]

For each attack: starts a node of its own, lets the attack run from a process of its own, and beside it an honest client
that asks at a steady rate (tools/flood.py, half PUT, half GET, 64 bytes, retries like the clients in the field). Prints
what the attacker has sent, how many of the honest requests were answered and how fast, what a datagram of all of these
costs the node (processor time), and the node's peak size.

Attackers come from 127.16.0.0 and the addresses after it, strangers to a node; the honest client from 127.0.0.1. They
and the node share the machine's cores, so that what is sent as fast as it goes takes from all of them.
"""

import sys

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.hostile", "tools.bench.hostile")

import itertools
import json
import multiprocessing
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from app.client import codec
from app.wire.protocol import (
    DATAGRAM_MAX_BYTES,
    GET,
    KEY_MAX_BYTES,
    MESSAGE_ID_MAX_BYTES,
    PUT,
    SLOWLOG,
    STATUS,
    VALUE_MAX_BYTES,
)
from tools import cli, nodes
from tools.bench.chosen import key_in_slot, with_checksum

_FLOOD: Final = Path(__file__).resolve().parent.parent / "flood.py"
MANY: Final = 100_000  # source addresses
_LARGE_KEY: Final = b"large"

_FIRST_SOURCE: Final = int.from_bytes(socket.inet_aton("127.16.0.0"))
_IP_PKTINFO: Final = 8  # <linux/in.h>; the socket module has it from Python 3.12 on
_PKTINFO: Final = Struct("=i4s4s")  # interface, the address to send from, the destination


def _request(command: int, message_id: bytes = b"", **fields: Any) -> bytes:
    return codec.encode_request(message_id or os.urandom(16), codec.KVRequest(command, **fields))


# What is sent: endless datagrams.


def _junk(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield rng.randbytes(rng.randrange(1, 1400))


def _longest_junk(rng: random.Random) -> Iterator[bytes]:
    """As many fields as a datagram takes, none of which is known, behind a messageID."""
    data = (b"\n\x10" + bytes(16) + b"\x38\x01" * DATAGRAM_MAX_BYTES)[:DATAGRAM_MAX_BYTES]
    return itertools.repeat(data)


def _gets(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(GET, key=b"%d" % rng.randrange(1000))


def _puts(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(PUT, key=b"%d" % rng.randrange(1000), value=b"x")


def _puts_to_remember(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(PUT, rng.randbytes(MESSAGE_ID_MAX_BYTES), key=b"k", value=b"")


def _puts_of_lookalikes(rng: random.Random) -> Iterator[bytes]:
    """The longest messageIDs, which begin alike and are full of each other's beginnings."""
    for number in itertools.count():
        yield _request(PUT, number.to_bytes(MESSAGE_ID_MAX_BYTES), key=b"k", value=b"")


def _retries_of_one_checksum(rng: random.Random) -> Iterator[bytes]:
    ids = [with_checksum(rng.randbytes(12), 0) for _ in range(20_000)]
    while True:
        for message_id in ids:
            yield _request(PUT, message_id, key=b"k", value=b"")


def _keys_of_one_slot(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(PUT, key=key_in_slot(rng.randbytes(9), 7), value=b"x")


def _keys_of_one_checksum(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(PUT, key=with_checksum(rng.randbytes(KEY_MAX_BYTES - 4), 0), value=b"x")


def _large_gets(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield _request(GET, rng.randbytes(1), key=_LARGE_KEY)


def _statuses(rng: random.Random) -> Iterator[bytes]:
    for command in itertools.cycle((STATUS, SLOWLOG)):
        yield _request(command, rng.randbytes(1))


class Attack(NamedTuple):
    """An attack."""

    what: str
    datagrams: Callable[[random.Random], Iterator[bytes]] | None
    sources: int = 1
    per_s: int = 0  # 0: as fast as it goes
    options: tuple[str, ...] = ()  # of the node


_STRANGERS: Final = ("--allow", "127.0.0.1")

ATTACKS: Final = {
    "none": Attack("nobody attacks", None),
    "junk": Attack("junk", _junk),
    "junk-sources": Attack(f"junk from {MANY:,} addresses", _junk, MANY),
    "refused": Attack(f"sound GETs from {MANY:,} addresses that --allow does not name", _gets, MANY, 0, _STRANGERS),
    "longest": Attack("datagrams of 16 KiB with 8,000 unknown fields, 2,000/s", _longest_junk, 1, 2000),
    "gets": Attack("sound GETs from one address", _gets),
    "puts": Attack("sound PUTs from one address, never acknowledged", _puts),
    "puts-sources": Attack(f"sound PUTs from {MANY:,} addresses, 5,000/s", _puts, MANY, 5000),
    "remember": Attack("PUTs with messageIDs of 64 bytes, never acknowledged, 10,000/s", _puts_to_remember, 1, 10_000),
    "lookalikes": Attack("the same, messageIDs alike but for their ends, 10,000/s", _puts_of_lookalikes, 1, 10_000),
    "one-checksum": Attack(
        "retries of 20,000 PUTs whose messageIDs share a CRC-32, 5,000/s", _retries_of_one_checksum, 1, 5000
    ),
    "one-slot": Attack("PUTs of new keys of one slot, 5,000/s", _keys_of_one_slot, 1, 5000),
    "one-key-checksum": Attack("PUTs of new keys that share a CRC-32, 5,000/s", _keys_of_one_checksum, 1, 5000),
    "large": Attack(f"GETs of 10,000 bytes from {MANY:,} addresses, 2,000/s", _large_gets, MANY, 2000),
    "status": Attack(f"STATUS and SLOWLOG from {MANY:,} addresses, 2,000/s", _statuses, MANY, 2000),
}


def _send(attack: Attack, port: int, sent: Any) -> None:
    """The attacker's process."""
    assert attack.datagrams is not None
    datagrams = attack.datagrams(random.Random(1))
    target = (nodes.HOST, port)
    began_s = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, datagram in enumerate(datagrams):
            source = (_FIRST_SOURCE + number % attack.sources).to_bytes(4)
            from_there = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, source, bytes(4)))
            try:
                sock.sendmsg([datagram], [from_there], 0, target)
            except OSError:
                continue
            sent.value = number + 1
            if attack.per_s:
                ahead_s = (number + 1) / attack.per_s - (time.monotonic() - began_s)
                if ahead_s > 0.001:
                    time.sleep(ahead_s)


def _honest(port: int, rate: float, seconds: float, prefix: str) -> dict[str, Any]:
    """The honest client's result, as flood.py has it."""
    words = [sys.executable, str(_FLOOD), nodes.HOST, str(port), "--rate", f"{rate:g}", "--seconds", f"{seconds:g}"]
    words += ["--warmup", "1", "--keys", "1000", "--key-prefix", prefix, "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(attack: Attack, port: int, rate: float, seconds: float) -> str:
    """Run it; a row of the table. nodes.NotReady."""
    with nodes.running([port], ["--log-level", "info", *attack.options]) as (node,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((nodes.HOST, port))
            sock.send(_request(PUT, key=_LARGE_KEY, value=bytes(VALUE_MAX_BYTES)))
        sent = multiprocessing.Value("L", 0, lock=False)
        attacker = multiprocessing.Process(target=_send, args=(attack, port, sent), daemon=True)
        if attack.datagrams is not None:
            attacker.start()
        before, before_s, began_s = _taken(node), node.processor_s(), time.monotonic()
        try:
            result = _honest(port, rate, seconds, f"{os.getpid()}")
            elapsed_s = time.monotonic() - began_s
            used_s, taken = node.processor_s() - before_s, _taken(node) - before
            peak_mib = _peak_bytes(node) >> 20
        finally:
            if attacker.pid is not None:
                attacker.kill()
                attacker.join()
    latency = result["latency"]["all"]
    answered = result["codes"].get("NO_ERR", 0) + result["codes"].get("KEY_DNE_ERR", 0)
    asked = answered + result["failed"] + result["timeouts"]
    return (
        f"| {attack.what} | {sent.value / elapsed_s:,.0f} | {result['ops_per_s']:,} | {answered / max(1, asked):.1%}"
        f" | {latency['p50_ms']:.2f} | {latency['p99_ms']:.2f} | {used_s / max(1, taken) * 1e6:.1f} | {peak_mib} |"
    )


def _taken(node: nodes.NodeProcess) -> int:
    """The datagrams that the node has answered or dropped."""
    counters = node.counters()
    return (
        sum(count for name, count in counters.items() if name.startswith(("requests_", "dropped_"))) + counters["acks"]
    )


def _peak_bytes(node: nodes.NodeProcess) -> int:
    """The node's largest resident size so far."""
    status = Path(f"/proc/{node.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    names = "\n".join(f"  {name:18}{attack.what}" for name, attack in ATTACKS.items())
    parser = cli.Parser(prog="tools.bench.hostile", description=__doc__, epilog=f"attacks:\n{names}")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="default: all, one after the other")
    parser.add_argument("--port", type=cli.port, default=3341, help="the node's (default 3341)")
    parser.add_argument("--seconds", type=cli.seconds(0.1, 1e6), default=10.0, help="of each (default 10)")
    parser.add_argument(
        "--rate", type=cli.seconds(1, 1e6), default=1000.0, help="honest requests a second (default 1000)"
    )
    given = parser.parse_args(argv)
    unknown = [name for name in given.attacks if name not in ATTACKS]
    if unknown:
        parser.error(f"no attack is named {unknown[0]}")
    cli.say("| attack | sent/s | answered/s | answered | p50, ms | p99, ms | node, µs | peak, MiB |")
    cli.say("|---|---|---|---|---|---|---|---|", flush=True)
    try:
        for name in given.attacks or ATTACKS:
            cli.say(measure(ATTACKS[name], given.port, given.rate, given.seconds), flush=True)
    except nodes.NotReady as error:
        cli.complain(parser.prog, error)
        return cli.FAILED
    return cli.OK
