"""app/fast/commands.pyx answers what the Python of app/requests/commands.py answers, and does the same."""

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.events import SELF, UNKNOWN
from app.requests.commands import Commands, ShortCommands, WholeCommands
from app.wire import protocol
from app.wire.protocol import GET, PUT, REMOVE
from tests.support import parts
from tests.support.loop import Exited
from tests.support.parts import MIB, Net, Parts, examples
from tests.support.pieces import pieces
from tests.wire import datagrams
from tests.wire.test_ordinary import damaged, ordinary

KEYS = (b"k", b"key", b"x" * 32)
IDS = [b"%016d" % number for number in range(6)] + [b"short"]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("commands", "compiled")


def test_the_short_way_is_taken() -> None:
    assert Commands.handle is ShortCommands.handle is not WholeCommands.handle


def test_its_numbers_are_the_protocols() -> None:
    from app.fast import commands

    for name in ("PUT", "GET", "NO_ERR", "KEY_DNE_ERR", "SYS_OVERLOAD_ERR"):
        assert getattr(commands, name) == getattr(protocol, name), name


def made(*, whole: bool, evict: bool) -> Parts:
    """A node with one other, room for some hundred values, and for three hundred answers."""
    with patch.object(parts, "Commands", WholeCommands if whole else Commands):
        net = Net(names=("one", "other"), evict=evict, arena_bytes=MIB, replies_bytes=10_000)
    net["one"].set_routes(SELF)
    return net["one"]


requests = st.builds(
    lambda message_id, command, key, value: datagrams.request(message_id, command=command, key=key, value=value),
    st.sampled_from(IDS),
    st.sampled_from([GET, PUT, PUT, REMOVE]),
    st.sampled_from(KEYS),
    st.sampled_from([b"", b"value", bytes(200), bytes(10_000), bytes(10_001)]),
)
steps = st.one_of(
    st.tuples(st.just("ask"), requests | ordinary | damaged()),
    st.tuples(st.just("ask"), requests | ordinary | damaged()),
    st.tuples(st.just("many"), st.integers(100, 400), st.sampled_from([b"v", bytes(9000)])),
    st.tuples(st.just("route"), st.sampled_from([SELF, SELF, "other", UNKNOWN])),
)


def done(node: Parts, step: tuple[Any, ...]) -> object:
    if step[0] == "route":
        node.set_routes(step[1])
        return None
    if step[0] == "ask":
        return node.take(step[1])
    _, count, value = step
    names = [b"%016x" % number for number in range(count)]
    return [node.take(datagrams.request(name, command=PUT, key=name, value=value)) for name in names]


@examples(100)
@given(st.booleans(), st.lists(steps, max_size=20))
def test_both_do_the_same(evict: bool, asked: list[tuple[Any, ...]]) -> None:
    fast, slow = made(whole=False, evict=evict), made(whole=True, evict=evict)
    assert type(fast.commands) is Commands
    assert type(slow.commands) is WholeCommands
    for step in asked:
        assert done(fast, step) == done(slow, step)
    assert fast.held() == slow.held()
    assert fast.drops() == slow.drops()
    counted = [(node.counters.answers, node.counters.retries_answered, node.counters.acks) for node in (fast, slow)]
    assert counted[0] == counted[1]


class Broken:
    """Raises where anything is looked up in it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key: object) -> object:
        raise self.error

    __contains__ = __getitem__  # type: ignore[assignment]


@pytest.mark.parametrize(("command", "part"), [(GET, "_unacked"), (PUT, "_followed")])
def test_a_fault_is_that_requests_and_a_broken_assertion_ends_the_process(command: int, part: str) -> None:
    node = made(whole=False, evict=True)
    asked = datagrams.request(IDS[0], command=command, key=b"key", value=b"value")
    setattr(node.commands, part, Broken(ValueError("broken")))
    assert datagrams.response(node.take(asked), IDS[0]).errCode == protocol.INTERNAL_ERR
    setattr(node.commands, part, Broken(AssertionError("inconsistent")))
    with pytest.raises(Exited) as ended:
        node.take(asked)
    assert ended.value.status == 70
