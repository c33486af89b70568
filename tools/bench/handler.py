"""What one request costs in the node's own code, without sockets: python -m tools.bench.handler [--rounds N]

Prints microseconds a request (the best of many short rounds, which is what the code costs on an undisturbed core)
for GET and PUT of 64-byte values, on a small store and on a full one that evicts for every new key. The node is a real
one, whose loop never runs; keys are drawn from a million.
"""

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.handler", "tools.bench.handler")

import gc
import os
import random
import socket
import tempfile
import time
import zlib
from pathlib import Path

from app.config import options
from app.loop import GeventLoop
from app.node import Node
from app.process import fresh_incarnation
from app.requests.request import Request
from app.sockets import Sockets
from app.storage.governor import MIB, ResidentSize, tune_allocators
from app.wire.codec import KVRequest, Msg, encode_value
from app.wire.protocol import GET, PUT, slot_of
from tools import cli
from tools.bench.allocator import use_system_allocator
from tools.nodes import write_servers

_VALUE = bytes(range(64))
_BATCH = 2000


def _key(rng: random.Random) -> bytes:
    return rng.randrange(1_000_000).to_bytes(8, "little") + b"bench---"


def _datagram(command: int, key: bytes) -> bytes:
    request = KVRequest(command=command, key=key)
    if command == PUT:
        request.value = _VALUE
        request.version = 1
    payload = request.SerializeToString()
    message_id = os.urandom(16)
    checksum = zlib.crc32(payload, zlib.crc32(message_id))
    return Msg(messageID=message_id, payload=payload, checkSum=checksum).SerializeToString()


def _time(node: Node, request: Request, datagrams: list[bytes]) -> float:
    handle = node.commands.handle
    node.turn.open()
    started = time.perf_counter()
    for data in datagrams:
        handle(request, data, 0, len(data))
    return (time.perf_counter() - started) / len(datagrams) * 1e6


def _node(directory: str) -> Node:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers = write_servers(Path(directory), [port])
    given = options.parse([str(port), str(servers), "--bind", "127.0.0.1"], {})
    node = Node(
        given,
        GeventLoop(),
        Sockets(given),
        incarnation=fresh_incarnation(),
        random_bytes=os.urandom,
        resident_bytes=ResidentSize(),
        on_stopped=lambda: None,
    )
    node.start()
    return node


def _bench(arena_mib: int, entries: int, rounds: int) -> tuple[float, float, int]:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as directory:
        node = _node(directory)
    request = Request(node.front)
    store = node.store
    store.put(0, b"first", b"")  # the governor has looked for the last time
    node.arena.limit_bytes = arena_mib * MIB
    store.allowance_bytes = store.spare_bytes = 1 << 60
    store.heap_full = False  # whatever else this process holds
    for _ in range(entries):
        key = _key(rng)
        store.put(slot_of(key), key, encode_value(_VALUE, 1))
    gc.collect()
    gc.freeze()
    best_put = best_get = float("inf")
    now = 0.0
    for _ in range(rounds):
        keys = [_key(rng) for _ in range(_BATCH)]
        best_put = min(best_put, _time(node, request, [_datagram(PUT, key) for key in keys]))
        best_get = min(best_get, _time(node, request, [_datagram(GET, key) for key in keys]))
        now += 0.1
        node.replies.advance(now)
    return best_put, best_get, store.evictions


def main() -> None:
    """Measure and print."""
    use_system_allocator()
    tune_allocators()
    parser = cli.Parser(prog="tools.bench.handler", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=cli.whole_number(1, 100_000),
        default=40,
        help="rounds of 2,000 PUTs and 2,000 GETs (default 40)",
    )
    rounds = parser.parse_args().rounds
    cli.say("µs a request          PUT    GET   evictions")
    for name, arena_mib, entries in (("small store", 100, 1_000), ("full store", 20, 300_000)):
        put, get, evictions = _bench(arena_mib, entries, rounds)
        cli.say(f"{name:18} {put:6.2f} {get:6.2f}   {evictions:9,}")
