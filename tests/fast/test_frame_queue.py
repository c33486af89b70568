"""app/fast/frame_queue.pyx does what app/peers/frame_queue.py does, in any order of calls."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.peers import frame_queue
from app.peers.frames import FRAME_MAX_BYTES, HEADER_BYTES
from tests.support.parts import examples
from tests.support.pieces import WHICH, pieces

assert frame_queue.FrameQueue


class Writer:
    """Who would write."""

    def __init__(self) -> None:
        self.queue_max_bytes = 1000
        self.full = self.woken = 0
        self.dirty: list[Any] = []

    def wake(self) -> None:
        self.woken += 1


class Side:
    def __init__(self, which: str) -> None:
        self.writer = Writer()
        self.queue = pieces("frame_queue", which).FrameQueue(self.writer)

    def do(self, name: str, argument: Any) -> Any:
        if name == "bound":
            self.writer.queue_max_bytes = argument
            return None
        if name == "write":
            written, self.queue.parts = b"".join(self.queue.parts), []
            self.queue.queued = argument
            return written
        return getattr(self.queue, name)(*argument)

    def told(self) -> Any:
        assert all(queue is self.queue for queue in self.writer.dirty)
        parts = b"".join(self.queue.parts)
        return parts, self.queue.queued, self.writer.full, self.writer.woken, len(self.writer.dirty)


bodies = st.binary(max_size=300)
steps = st.one_of(
    st.tuples(st.just("put"), st.tuples(st.binary(min_size=HEADER_BYTES, max_size=14), bodies)),
    st.tuples(st.just("put_all"), st.tuples(st.integers(0, 255), st.lists(bodies, max_size=5))),
    st.tuples(st.just("bound"), st.integers(0, 2000)),
    st.tuples(st.just("write"), st.integers(0, 900)),
)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Any:
    return pieces("frame_queue", "compiled")


@examples(200)
@given(st.lists(steps, max_size=20))
def test_both_do_the_same(calls: list[tuple[str, Any]]) -> None:
    slow, fast = map(Side, WHICH)
    for call in calls:
        assert slow.do(*call) == fast.do(*call)
        assert slow.told() == fast.told()


def test_a_long_frames_length_is_all_there() -> None:
    slow, fast = map(Side, WHICH)
    for side in (slow, fast):
        side.writer.queue_max_bytes = 1 << 30
        assert side.queue.put_all(200, [bytes(length) for length in (0, 255, 256, 65_536, FRAME_MAX_BYTES)])
    assert slow.told() == fast.told()


def test_what_is_no_frame_is_refused() -> None:
    from app.fast import frame_queue as fast

    assert fast.HEADER_BYTES == HEADER_BYTES
    side = Side("compiled")
    for wrong in ((None, b""), (b"", None), (b"", "text"), (bytearray(5), b"")):
        with pytest.raises(TypeError):
            side.queue.put(*wrong)
    for kind, said in ((1, None), (1, [None]), (1, ["text"]), (1, (b"",)), (256, [b""]), (-1, [b""])):
        with pytest.raises((TypeError, OverflowError)):
            side.queue.put_all(kind, said)
    assert side.told() == (b"", 0, 0, 0, 0)
