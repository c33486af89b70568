"""What a run is to do, as plain data that can be handed to another process."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from app.wire.protocol import CLIENT_TIMEOUTS_MS, GET, IS_ALIVE, PUT, REMOVE
from tools.load.faults import NO_FAULTS, Faults
from tools.load.keys import LATEST, UNIFORM, ZIPFIAN

# A PUT of a key that was not there before. Not a command of the protocol's, which has none for 0.
INSERT: Final = 0

OPERATION_NAMES: Final = {PUT: "put", GET: "get", REMOVE: "remove", IS_ALIVE: "alive", INSERT: "insert"}
OPERATIONS: Final = {name: operation for operation, name in OPERATION_NAMES.items()}

# The series over time has no slice shorter or longer than this (s), unless there were more than so many.
SLICE_MIN_S: Final = 0.1
SLICE_MAX_S: Final = 1.0
SLICES_WANTED: Final = 20
SLICES_MAX: Final = 600


class Workload(NamedTuple):
    mix: dict[int, int]  # percent
    law: str


# The core workloads of the YCSB (github.com/brianfrankcooper/YCSB, wiki, "Core Workloads"). All keys are put before.
YCSB: Final = {
    "a": Workload({GET: 50, PUT: 50}, ZIPFIAN),
    "b": Workload({GET: 95, PUT: 5}, ZIPFIAN),
    "c": Workload({GET: 100}, ZIPFIAN),
    "d": Workload({GET: 95, INSERT: 5}, LATEST),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, for `seconds` or until so many `operations` are sent, whichever comes first.

    `clients`: requests in flight at once; with a `rate` (requests a second, 0: as fast as they are answered) the most
    that may be. `mix`: weight of each operation. `load`: put every key once before. `clean`: remove them afterwards.
    `value_size`: see tools/load/sizes.py.

    `number` of `processes`: a plan for one of several processes, which calls its key i by the number
    i * processes + number.
    """

    servers: tuple[str, ...]
    target: str = "kv"
    clients: int = 16
    rate: float = 0.0
    seconds: float = 5.0
    warmup_s: float = 0.0
    operations: int = sys.maxsize
    value_size: str = "64"
    workload: str | None = None
    mix: dict[int, int] = field(default_factory=lambda: {PUT: 50, GET: 50})
    law: str = UNIFORM
    load: bool = False
    clean: bool = False
    keys: int = 10_000
    key_prefix: bytes = b""
    timeouts_ms: Sequence[int] = CLIENT_TIMEOUTS_MS
    faults: Faults = NO_FAULTS
    seed: int | None = None
    processes: int = 1
    number: int = 0

    @property
    def slice_s(self) -> float:
        """How long the slices of the series over time are."""
        wanted = min(max(self.seconds / SLICES_WANTED, SLICE_MIN_S), SLICE_MAX_S)
        return max(wanted, self.seconds / SLICES_MAX)

    def share(self, number: int) -> "Plan":
        """What process `number` of `processes` is to do."""

        def part(whole: int) -> int:
            return whole // self.processes + (number < whole % self.processes)

        return replace(
            self,
            number=number,
            clients=part(self.clients),
            rate=self.rate / self.processes,
            operations=self.operations if self.operations == sys.maxsize else part(self.operations),
            keys=part(self.keys),
            seed=None if self.seed is None else self.seed + number,
        )
