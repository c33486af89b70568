"""A load generator that a node can't outrun (generator.pyx)."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypedDict

TIMEOUTS_MS: Final[tuple[int, ...]]  # after these silences a request is sent again, the last time given up
PROTOCOL: Final[dict[str, int]]  # the numbers that it has of app/wire/protocol.py, by their names there

# In a route, of a slot.
ANYWHERE: Final[int]  # its keys are asked for at any server
NOWHERE: Final[int]  # its keys are not asked for

class Result(TypedDict):
    """Of what was answered after the warm-up, but for `answered` and what went wrong, which count all."""

    ops_per_s: float  # only what went well
    p50_us: float  # from a request's first try to its answer
    p99_us: float
    p999_us: float
    max_us: float
    answered: int
    missing: int  # a GET found nothing
    errors: int  # other codes than NO_ERR and KEY_DNE_ERR
    wrong: int  # no answer of this protocol's, or another value than was put
    timeouts: int  # given up after five tries
    retries: int
    not_sent: int  # a socket did not take a datagram
    generator_busy: float  # share of a core that this program used

def run(
    servers: Sequence[tuple[str, int]],
    *,
    clients: int,
    seconds: float = ...,
    warmup_s: float = ...,
    requests: int | None = ...,
    kinds: Literal["put", "get", "both"] = ...,
    memcached: bool = ...,
    value_bytes: int = ...,
    value_bytes_most: int | None = ...,
    keys: int = ...,
    first_key: int = ...,
    in_order: bool = ...,
    route: Iterable[int] | None = ...,
    seed: int | None = ...,
) -> Result:
    """Have so many clients ask, each one request after the other, until the time is over or all requests are answered.

    `servers`: IPv4 addresses and ports, up to 64; `memcached`: they speak its UDP protocol. `kinds`: each client puts a
    key and then gets it ("both"), or does only one of them. Keys (16 bytes) are drawn from `keys` of them, or taken
    `in_order`, each once; `first_key` numbers the first. A value has `value_bytes`, or up to `value_bytes_most`, and is
    the same whenever a key is put. `route`: for each of the 256 slots which server is asked for its keys, by its place
    in `servers`. `seed`: the same keys in the same order again.

    ValueError for what can't be; OSError when the system refuses sockets; KeyboardInterrupt by Ctrl-C; MemoryError.
    """
