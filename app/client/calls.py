"""What each call asks, and what it makes of the answer: nothing here sends or waits.

Client and AsyncClient have the same calls. Each is written here once, as a Call; the two differ in how they wait.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from app.client.codec import KVRequest, KVResponse
from app.client.errors import BadAnswer, KVError, Overloaded, error_answer
from app.client.table import read_object
from app.wire import protocol

_Result = TypeVar("_Result")

# In place of a default: get() of a key that is not there is an error.
REQUIRED: Final[Any] = object()


class Versioned(NamedTuple):
    """What GET returns: the value, and the version that was stored with it."""

    value: bytes
    version: int


class Call(Generic[_Result]):
    """A request, and what reads the result in its response, once that says NO_ERR."""

    __slots__ = ("read", "request")

    def __init__(self, request: KVRequest, read: Callable[[KVResponse], _Result]) -> None:
        self.request = request
        self.read = read


def put(key: bytes, value: bytes, version: int) -> Call[None]:
    return Call(KVRequest(protocol.PUT, key, value, version), _nothing)


def get(key: bytes) -> Call[Versioned]:
    def read(response: KVResponse) -> Versioned:
        if response.value is None or response.version is None:
            raise BadAnswer(f"get of {key!r}: NO_ERR without value and version")
        return Versioned(response.value, response.version)

    return Call(KVRequest(protocol.GET, key), read)


def puts(
    items: Mapping[bytes, bytes | Versioned] | Iterable[tuple[bytes, bytes | Versioned]],
) -> Iterator[tuple[bytes, Call[None]]]:
    """A put for each of the items, a mapping or pairs, with its key."""
    for key, value in items.items() if isinstance(items, Mapping) else items:
        yield key, put(key, *value) if isinstance(value, tuple) else put(key, value, 0)


def remove(key: bytes) -> Call[None]:
    return Call(KVRequest(protocol.REMOVE, key), _nothing)


def bare(command: int) -> Call[None]:
    """A command without arguments, that tells nothing."""
    return Call(KVRequest(command), _nothing)


def get_pid() -> Call[int]:
    def read(response: KVResponse) -> int:
        if response.pid is None:
            raise BadAnswer("get_pid: NO_ERR without pid")
        return response.pid

    return Call(KVRequest(protocol.GET_PID), read)


def membership_count() -> Call[int]:
    def read(response: KVResponse) -> int:
        if response.membershipCount is None:
            raise BadAnswer("membership_count: NO_ERR without membershipCount")
        return response.membershipCount

    return Call(KVRequest(protocol.GET_MEMBERSHIP_CNT), read)


def report(command: int, padding: int, said: bytes = b"") -> Call[dict[str, Any]]:
    """What a node tells of itself in a JSON object. `said` is filled up to `padding` bytes, since to a stranger a node
    tells little more than it is sent."""

    def read(response: KVResponse) -> dict[str, Any]:
        return read_object(response.value or b"", protocol.COMMAND_NAMES[command].lower())

    return Call(KVRequest(command, value=said.ljust(padding, b"\0")), read)


def config(changes: Mapping[str, str]) -> Call[dict[str, Any]]:
    import json  # as in table.py

    return report(protocol.CONFIG, protocol.PADDING_MAX_BYTES, json.dumps(dict(changes)).encode())


def change_servers(changes: Mapping[str, Any]) -> Call[dict[str, Any]]:
    import json  # as in table.py

    return report(protocol.SERVERS, protocol.PADDING_MAX_BYTES, json.dumps(dict(changes)).encode() if changes else b"")


def _nothing(response: KVResponse) -> None:
    return None


def fault(request: KVRequest, response: KVResponse, may_have_happened: bool) -> KVError | None:
    """The exception for a response's error code; None for NO_ERR. `may_have_happened`: some try was never answered."""
    if response.code == protocol.NO_ERR:
        return None
    what = protocol.COMMAND_NAMES.get(request.command or 0, "").lower()
    if request.key is not None:
        what = f"{what} of {request.key!r}"
    error = error_answer(response.code, what)
    if isinstance(error, Overloaded):
        error.may_have_happened = may_have_happened
    return error
