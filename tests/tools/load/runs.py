"""A flood of one process against peers, for tests."""

from typing import Any

from tests.client.peer import Peer
from tools.load.loop import Flood
from tools.load.plan import Plan
from tools.load.tally import Tally

# A retry leaves after 20 ms, and the last try is patient: no stall of the machine may turn into a timeout.
QUICK = (20, 40, 5000)
PATIENT = (5000,)

# With a share of 4 % of the tries lost, one of 2000 requests loses all of these once in 100,000 runs.
MANY_TRIES = (30, 60, 120, 120, 120, 5000)

# Keys few enough that they are read and overwritten many times in a fraction of a second.
FEW_KEYS = 8


def plan_for(*peers: Peer, **settings: object) -> Plan:
    chosen: dict[str, Any] = {
        "clients": 4,
        "seconds": 60,
        "operations": 300,
        "keys": FEW_KEYS,
        "key_prefix": b"t-",
        "seed": 1,
        **settings,
    }
    return Plan(servers=tuple(peer.name for peer in peers), **chosen)


def run(*peers: Peer, **settings: object) -> Tally:
    """A run of 300 operations, unless told otherwise; the keys are loaded before if `load` is set."""
    generator = Flood(plan_for(*peers, **settings))
    try:
        if generator.plan.load:
            generator.load()
        return generator.run()
    finally:
        generator.close()


def latencies_us(tally: Tally) -> list[int]:
    """All latencies of a run, in ascending order."""
    pairs = [pair for counts in tally.latencies_us.values() for pair in counts.items()]
    for piece in tally.slices:
        for latencies, counts in piece.latencies.values():
            pairs += zip(latencies, counts, strict=True)
    return sorted(latency for latency, count in pairs for _ in range(count))


def counted(tally: Tally) -> dict[int, int]:
    """How many latencies there are by operation."""
    total = {operation: sum(counts.values()) for operation, counts in tally.latencies_us.items()}
    for piece in tally.slices:
        for operation, (_, counts) in piece.latencies.items():
            total[operation] = total.get(operation, 0) + sum(counts)
    return total
