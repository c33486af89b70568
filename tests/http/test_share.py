"""HTTP's share of the loop, with a clock that the test sets."""

import pytest
from greenlet import GreenletExit

from app.http.copies import COPY_S, Content, Copy
from app.http.share import PAUSE_MAX_S, PIECE_S, SHARE, Share
from app.loop import Task
from tests.support.loop import ManualLoop

TICK_S = 0.0001


class Workers:
    """Greenlets that work by the share: each piece takes so long, and is noted with the time at which it began."""

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.share = Share(loop)
        self.pieces: list[tuple[str, float]] = []

    def work(self, name: str, piece_s: float, count: int) -> None:
        for _ in range(count):
            self.share.turn()
            self.pieces.append((name, round(self.loop.now_s - 1000.0, 6)))
            self.loop.now_s += piece_s

    def spawn(self, name: str, piece_s: float, count: int) -> Task:
        return self.loop.spawn(self.work, name, piece_s, count)


@pytest.fixture
def workers() -> Workers:
    return Workers(ManualLoop())


def test_after_work_the_loop_has_the_rest(workers: Workers) -> None:
    workers.spawn("a", 0.002, 3)
    workers.loop.advance(1)
    assert workers.pieces == [("a", 0.0), ("a", 0.002 / SHARE), ("a", 2 * 0.002 / SHARE)]


def test_small_pieces_are_done_together(workers: Workers) -> None:
    for name in "ab":
        workers.spawn(name, PIECE_S / 4, 4)
    workers.loop.advance(1)
    began = [round(PIECE_S / 4 * number, 6) for number in range(4)]
    later = [round(PIECE_S / SHARE + at_s, 6) for at_s in began]
    assert workers.pieces == list(zip("abababab", began + later, strict=True)), "one after the other, each in its turn"


@pytest.mark.parametrize(("piece_s", "greenlets"), [(0.00005, 100), (0.0004, 3), (0.003, 1), (0.004, 40)])
def test_whatever_is_asked_it_takes_its_share_and_not_more(workers: Workers, piece_s: float, greenlets: int) -> None:
    for number in range(greenlets):
        workers.spawn(str(number), piece_s, 10_000)
    span_s = 5.0
    workers.loop.advance(span_s)
    worked_s = len(workers.pieces) * piece_s
    assert worked_s <= SHARE * span_s + PIECE_S + piece_s
    assert worked_s >= 0.9 * SHARE * span_s
    counts = [sum(name == str(number) for name, _ in workers.pieces) for number in range(greenlets)]
    assert max(counts) - min(counts) <= 1, "nobody is kept waiting for others"


def test_who_has_not_worked_for_a_while_does_not_wait(workers: Workers) -> None:
    workers.spawn("a", 0.002, 1)
    workers.loop.advance(1)
    workers.spawn("b", 0.002, 1)
    workers.loop.advance(0)
    assert workers.pieces[1:] == [("b", 1.0)]


def test_a_piece_in_which_the_process_was_stopped_is_not_paid_for(workers: Workers) -> None:
    workers.spawn("a", 60.0, 2)
    workers.loop.advance(120)
    assert [at_s for _, at_s in workers.pieces] == [0.0, 60.0 + PAUSE_MAX_S]


def test_long_work_gives_way(workers: Workers) -> None:
    loop, share = workers.loop, workers.share

    def long() -> None:
        share.turn()
        for _ in range(10):
            loop.now_s += PIECE_S / 2
            share.pause()

    loop.spawn(long)
    workers.spawn("b", 0.0, 5)
    loop.advance(1)
    began = [at_s for _, at_s in workers.pieces]
    assert began == pytest.approx([PIECE_S / SHARE * number for number in range(1, 6)])


def test_who_is_cancelled_has_no_turn(workers: Workers) -> None:
    tasks = [workers.spawn(name, 0.002, 2) for name in "abc"]
    workers.loop.advance(0)
    tasks[1].cancel()
    workers.loop.advance(1)
    assert [name for name, _ in workers.pieces] == ["a", "c", "a", "c"]
    assert all(task.dead for task in tasks)


# --- copies ----------------------------------------------------------------------------------------------------------


class Asking:
    """Those who ask for one page."""

    def __init__(self, workers: Workers, fails: int = 0) -> None:
        """The first `fails` times it can't be made."""
        self.loop = workers.loop
        self.share = workers.share
        self.made = 0
        self.fails = fails
        self.heard: list[bytes] = []
        self.copy = Copy(self._make, self.loop, self.share)

    def _make(self) -> Content:
        self.made += 1
        self.loop.now_s += 2 * PIECE_S
        self.share.pause()
        if self.made <= self.fails:
            raise ValueError("on purpose")
        return Content("200 OK", "text/plain", b"%d" % self.made * 2000)

    def ask(self, *, compressed: bool = False) -> Task:
        def asking() -> None:
            self.share.turn()
            try:
                self.heard.append(self.copy.get(compressed=compressed).body)
            except RuntimeError as error:
                self.heard.append(str(error.__cause__).encode())

        return self.loop.spawn(asking)


def test_a_copy_is_made_once_a_second_however_many_ask(workers: Workers) -> None:
    asking = Asking(workers)
    for _ in range(50):
        asking.ask()
    asking.loop.advance(COPY_S / 2)
    assert (asking.made, asking.heard) == (1, [b"1" * 2000] * 50)
    asking.ask()
    asking.loop.advance(COPY_S / 4)
    assert (asking.made, len(asking.heard)) == (1, 51)
    asking.loop.advance(COPY_S)
    for _ in range(3):
        asking.ask()
    asking.loop.advance(COPY_S / 2)
    assert (asking.made, asking.heard[51:]) == (2, [b"2" * 2000] * 3)


def test_a_copy_is_compressed_once(workers: Workers) -> None:
    asking = Asking(workers)
    for _ in range(3):
        asking.ask(compressed=True)
    asking.loop.advance(0.5)
    assert len(asking.heard[0]) < 100
    assert asking.heard[1] is asking.heard[0] is asking.heard[2]


def test_who_leaves_does_not_take_the_copy_away_from_others(workers: Workers) -> None:
    asking = Asking(workers)
    first, _ = asking.ask(), asking.ask()
    asking.loop.advance(0)  # it is being made
    assert (asking.made, asking.heard) == (1, [])
    first.throw(GreenletExit)
    asking.loop.advance(0.5)
    assert asking.heard == [b"1" * 2000]


def test_a_page_that_fails_is_made_anew_for_the_next_one(workers: Workers) -> None:
    asking = Asking(workers, fails=1)
    for _ in range(2):
        asking.ask()
    asking.loop.advance(0.5)
    assert asking.heard == [b"on purpose"] * 2
    asking.ask()
    asking.loop.advance(0.5)
    assert asking.heard[2:] == [b"2" * 2000]
