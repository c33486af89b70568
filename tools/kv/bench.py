"""What one client gets out of the store: a closed loop of puts, then of gets, for a few seconds."""

import os
import random
import time
from argparse import Namespace
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from app.client import Client, KVError, PartialFailure
from app.wire.protocol import VALUE_MAX_BYTES
from tools import cli

# Seeds the values; what is read must be what was put, so they differ from key to key.
_POOL: Final = random.Random("kv bench").randbytes(2 * VALUE_MAX_BYTES)


class Measurement:
    """Calls of one kind, for some seconds."""

    def __init__(self) -> None:
        self.operations = 0
        self.errors = 0
        self.seconds = 0.0
        self.latencies_s = array("d")

    def run(self, seconds: float, batches: Sequence[list[bytes]], call: Callable[[list[bytes]], int]) -> None:
        """`call` carries out a batch and returns how many of its keys failed."""
        started = now = time.perf_counter()
        turn = 0
        while now < started + seconds:
            batch = batches[turn % len(batches)]
            turn += 1
            self.errors += call(batch)
            then, now = now, time.perf_counter()
            self.latencies_s.append(now - then)
            self.operations += len(batch)
            self.seconds = now - started

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_s)

        def at(share: float) -> float:
            return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000, 3) if ordered else 0.0

        rate = (self.operations - self.errors) / self.seconds if self.seconds else 0.0
        times = {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}
        return {"operations": self.operations, "errors": self.errors, "ops_per_s": round(rate, 1)} | times


def measure(client: Client, seconds: float, keys: int, value_size: int, batch_size: int) -> dict[str, Any]:
    """Half of the time puts, half gets. The keys are this run's own, and removed. Ctrl-C ends it early.

    Timeout when nobody answers, PartialFailure when the keys can't be put to begin with; KeyboardInterrupt until then.
    """
    run = os.urandom(4).hex()
    names = [f"bench-{run}-{n}".encode() for n in range(keys)]
    values = {name: value_of(n, value_size) for n, name in enumerate(names)}
    batches = [names[start : start + batch_size] for start in range(0, keys, batch_size)]
    wrong = missing = 0

    def put(batch: list[bytes]) -> int:
        if batch_size == 1:
            return _failures(lambda: client.put(batch[0], values[batch[0]]))
        return _failures(lambda: client.put_many({key: values[key] for key in batch}))

    def get(batch: list[bytes]) -> int:
        nonlocal wrong, missing
        found: Mapping[bytes, Any] = {}

        def read() -> None:
            nonlocal found
            try:
                found = client.get_many(batch)
            except PartialFailure as error:
                found = error.result
                raise

        failed = _failures(read)
        wrong += sum(found[key].value != values[key] for key in found)
        missing += len(batch) - len(found) - failed
        return failed

    client.ping()
    client.put_many(values)  # so that every get has something to find; not measured
    before = _counts(client)
    measured = {"put": Measurement(), "get": Measurement()}
    is_interrupted = False
    try:
        measured["put"].run(seconds / 2, batches, put)
        measured["get"].run(seconds / 2, batches, get)
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        counted = {name: count - before[name] for name, count in _counts(client).items()}
        _failures(lambda: client.remove_many(names))
    counted["requests"] = max(counted["requests"], 1)
    return {
        **{name: row.summary() for name, row in measured.items()},
        "keys_a_call": batch_size,
        "value_bytes": value_size,
        "missing": missing,
        "wrong": wrong,
        "direct_share": round(counted["direct"] / counted["requests"], 4),
        "datagrams_an_operation": round(counted["sent"] / counted["requests"], 4),
        "retries": counted["retries"],
        "overloads": counted["overloads"],
        "interrupted": is_interrupted,
    }


def _counts(client: Client) -> dict[str, int]:
    """What the client has counted since it was made."""
    return {name: getattr(client.stats, name) for name in ("requests", "direct", "sent", "retries", "overloads")}


def value_of(n: int, size: int) -> bytes:
    """The value of key n: its number, and then a stretch of noise that begins where the number says."""
    start = n % VALUE_MAX_BYTES
    return (n.to_bytes(4, "big") + _POOL[start : start + size])[:size]


def _failures(call: Callable[[], object]) -> int:
    """How many keys failed."""
    try:
        call()
    except PartialFailure as error:
        return len(error.errors)
    except KVError:
        return 1
    return 0


def table(result: Mapping[str, Any]) -> list[str]:
    """The result for people, in lines."""
    lines = [f"{'':4} {'ops/s':>10} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9} {'errors':>7}"]
    for name in ("put", "get"):
        row = result[name]
        lines.append(
            f"{name:4} {row['ops_per_s']:10,.0f} {row['p50_ms']:9.3f} {row['p99_ms']:9.3f} {row['max_ms']:9.3f}"
            f" {row['errors']:7}"
        )
    keys = result["keys_a_call"]
    lines.append(
        f"{keys} {'key' if keys == 1 else 'keys'} a call, {result['value_bytes']} bytes a value;"
        f" {result['direct_share']:.0%} straight to the primary, {result['retries']} retries,"
        f" {result['overloads']} overloads"
    )
    if result["interrupted"]:
        lines.append("interrupted: this is what was measured until then")
    if result["missing"]:
        lines.append(f"{result['missing']} keys were not there: evicted, if the store is full")
    if result["wrong"]:
        lines.append(f"{result['wrong']} WRONG values")
    return lines


def run(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    result = measure(client, given.seconds, given.keys, given.value_size, given.batch)
    if given.json:
        cli.print_json(result)
    else:
        cli.say(*table(result))
    if result["wrong"]:
        return cli.FAILED
    return cli.INTERRUPTED if result["interrupted"] else cli.OK
