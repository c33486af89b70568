"""What one request costs in the node's own code, without sockets: python -m tools.bench.handler [--rounds N]

Prints microseconds a request (the best of many short rounds, which is what the code costs on an undisturbed core)
for GET and PUT of 64-byte values, on a small store and on a full one that evicts for every new key. The state is
built as a node builds it; keys are drawn from a million.
"""

import gc
import os
import random
import time
import zlib
from collections.abc import Callable

from app.observe.counters import Counters
from app.requests.commands import Commands
from app.storage.arena import Arena
from app.storage.governor import MIB, replies_max_bytes
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.codec import KVRequest, Msg, encode_value
from app.wire.protocol import GET, PUT, slot_of
from tools import cli
from tools.bench.allocator import use_system_allocator

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


def _time(handle: Callable[[bytes, int, int], object], datagrams: list[bytes]) -> float:
    started = time.perf_counter()
    for data in datagrams:
        handle(data, 0, len(data))
    return (time.perf_counter() - started) / len(datagrams) * 1e6


def _bench(arena_mib: int, entries: int, rounds: int) -> tuple[float, float, int]:
    rng = random.Random(1)
    arena = Arena(128 * MIB, arena_mib * MIB)
    replies = ReplyMemory(6.0, replies_max_bytes(128 * MIB))
    store = Store(arena, evict=True, on_allowance_used=lambda: None)
    commands = Commands(store, replies, Counters(), pid=1, member_count=lambda: 1)
    for _ in range(entries):
        key = _key(rng)
        store.put(slot_of(key), key, encode_value(_VALUE, 1))
    gc.collect()
    gc.freeze()
    best_put = best_get = float("inf")
    now = 0.0
    for _ in range(rounds):
        keys = [_key(rng) for _ in range(_BATCH)]
        best_put = min(best_put, _time(commands.handle, [_datagram(PUT, key) for key in keys]))
        best_get = min(best_get, _time(commands.handle, [_datagram(GET, key) for key in keys]))
        now += 0.1
        replies.advance(now)
    return best_put, best_get, store.evictions


def main() -> None:
    """Measure and print."""
    use_system_allocator()
    parser = cli.Parser(prog="tools.bench.handler", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=cli.whole_number(1, 100_000),
        default=40,
        help="rounds of 2,000 PUTs and 2,000 GETs (default 40)",
    )
    rounds = parser.parse_args().rounds
    print("µs a request          PUT    GET   evictions")
    for name, arena_mib, entries in (("small store", 100, 1_000), ("full store", 20, 300_000)):
        put, get, evictions = _bench(arena_mib, entries, rounds)
        print(f"{name:18} {put:6.2f} {get:6.2f}   {evictions:9,}")


if __name__ == "__main__":
    main()
