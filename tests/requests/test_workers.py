"""The greenlets that requests run in: recycled, taken over when one waits, and bounded."""

from collections.abc import Callable

import pytest
from greenlet import getcurrent

from app.requests.request import Request
from app.requests.waiting import _SPEND_BYTES, Waiting
from app.requests.workers import AGAIN, EXPIRED, GREENLET_BYTES, Workers
from tests.support.loop import ManualLoop


class Jobs:
    """A source whose requests are functions of the request's object."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.jobs: list[Callable[[Request], None]] = []
        self.greenlets: list[object] = []  # that each job was begun in

    def is_left(self) -> bool:
        return bool(self.jobs)

    def work(self, request: Request) -> None:
        while self.jobs:
            self.greenlets.append(getcurrent())
            self.jobs.pop(0)(request)
            if request.has_waited:
                return

    def fill(self, request: Request) -> None:
        request.datagram = b"kept"
        request.deadline_s = 1.0


class Waits:
    """A job that waits, again and again, and notes what it is woken with."""

    def __init__(self, workers: Workers, times: int = 1, deadline_s: float = 1.0) -> None:
        self.workers = workers
        self.times = times
        self.deadline_s = deadline_s
        self.woken: list[object] = []
        self.request: Request | None = None

    def __call__(self, request: Request) -> None:
        self.request = request
        for _ in range(self.times):
            request.keep()
            request.deadline_s = self.deadline_s
            self.woken.append(self.workers.park(request))

    def wake(self, value: object) -> None:
        assert self.request is not None
        self.workers.wake([(self.request, value)])


def quick(request: Request) -> None:
    """A job that is done at once."""


@pytest.fixture
def workers() -> Workers:
    return Workers(ManualLoop(), Waiting(3, 1 << 20, lambda size: None))


@pytest.fixture
def source(workers: Workers) -> Jobs:
    return Jobs(workers)


def test_requests_that_do_not_wait_run_in_one_greenlet(workers: Workers, source: Jobs) -> None:
    for _ in range(3):
        source.jobs = [quick] * 5
        workers.run(source)
    assert len(set(source.greenlets)) == 1
    assert getcurrent() not in source.greenlets
    assert workers.waiting.count == 0


def test_when_one_waits_another_takes_over_the_rest(workers: Workers, source: Jobs) -> None:
    waiting = Waits(workers)
    source.jobs = [quick, waiting, quick, quick]
    workers.run(source)
    first, second, third, fourth = source.greenlets
    assert first is second
    assert third is fourth
    assert second is not third
    assert workers.waiting.count == 1
    waiting.wake("word")
    assert waiting.woken == ["word"]
    assert workers.waiting.count == 0


def test_one_that_was_answered_is_used_again(workers: Workers, source: Jobs) -> None:
    for _ in range(5):
        both = Waits(workers), Waits(workers)
        source.jobs = [*both]
        workers.run(source)
        for one in both:
            one.wake(None)
    assert len(set(source.greenlets)) == 2
    source.jobs = [Waits(workers) for _ in range(3)]
    workers.run(source)
    assert len(set(source.greenlets)) == 3


def test_thousands_may_wait_whose_workers_are_new_or_idle() -> None:
    """Each goes as deep as the first."""
    workers = Workers(ManualLoop(), Waiting(10_000, 1 << 30, lambda size: None))
    source = Jobs(workers)
    for count in (3000, 1500, 5000):
        waiting = [Waits(workers) for _ in range(count)]
        source.jobs = [*waiting]
        workers.run(source)
        assert workers.waiting.count == count
        workers.wake([(one.request, "word") for one in waiting if one.request is not None])
        assert all(one.woken == ["word"] for one in waiting)
    assert len(set(source.greenlets)) == 5000


def test_what_waits_keeps_what_it_needs(workers: Workers, source: Jobs) -> None:
    waiting = Waits(workers)
    source.jobs = [waiting]
    workers.run(source)
    assert waiting.request is not None
    assert (waiting.request.datagram, waiting.request.has_waited) == (b"kept", True)


def test_it_may_wait_again_and_is_woken_once_for_each(workers: Workers, source: Jobs) -> None:
    waiting = Waits(workers, times=2)
    source.jobs = [waiting]
    workers.run(source)
    waiting.wake(1)
    assert workers.waiting.count == 1
    waiting.wake(2)
    assert waiting.woken == [1, 2]
    for stale in (3, EXPIRED, AGAIN):
        waiting.wake(stale)
    assert waiting.woken == [1, 2]


def test_a_wake_up_of_what_does_not_wait_yet_is_ignored(workers: Workers, source: Jobs) -> None:
    request = Request(None, source)
    workers.wake([(request, "word")])
    assert workers.waiting.count == 0


def test_they_are_woken_in_any_order(workers: Workers, source: Jobs) -> None:
    jobs = [Waits(workers) for _ in range(3)]
    source.jobs = [*jobs]
    workers.run(source)
    for number in (1, 2, 0):
        jobs[number].wake(number)
    assert [job.woken for job in jobs] == [[0], [1], [2]]


def test_how_many_may_wait_is_bounded(workers: Workers, source: Jobs) -> None:
    jobs = [Waits(workers) for _ in range(3)]
    for number, job in enumerate(jobs):
        assert (workers.waiting.count, workers.waiting.full) == (number, False)
        source.jobs = [job]
        workers.run(source)
    assert (workers.waiting.count, workers.waiting.full) == (3, True)
    source.jobs = [Waits(workers)]
    with pytest.raises(AssertionError, match="3 requests wait already"):
        workers.run(source)
    jobs[1].wake(None)
    assert not workers.waiting.full


def test_no_more_greenlets_are_kept_than_may_wait_and_one(workers: Workers, source: Jobs) -> None:
    for _ in range(20):
        jobs = [Waits(workers) for _ in range(3)]
        source.jobs = [quick, *jobs]
        workers.run(source)
        workers.wake([(job.request, None) for job in jobs if job.request is not None])
        source.jobs = [quick] * 10
        workers.run(source)
    assert len(set(source.greenlets)) <= 4
    assert len(workers._idle) <= 4


def test_none_may_wait_where_the_bound_is_zero() -> None:
    assert Workers(ManualLoop(), Waiting(0, 1 << 20, lambda size: None)).waiting.full


def test_whoever_has_waited_until_its_deadline_is_told_so(workers: Workers, source: Jobs) -> None:
    soon, later, again = (
        Waits(workers, deadline_s=5.0),
        Waits(workers, deadline_s=5.5),
        Waits(workers, times=2, deadline_s=5.0),
    )
    source.jobs = [soon, later, again]
    workers.run(source)
    workers.expire(4.999)
    assert workers.waiting.count == 3
    workers.expire(5.0)
    assert soon.woken == again.woken == [EXPIRED]
    assert later.woken == []
    assert workers.waiting.count == 2, "one waits for something else by now, and is told again"
    workers.expire(5.0)
    assert again.woken == [EXPIRED, EXPIRED]


def test_a_fault_of_a_worker_reaches_whoever_runs_them(workers: Workers, source: Jobs) -> None:
    """There, the loop ends the process."""

    def broken(request: Request) -> None:
        raise ValueError("broken")

    source.jobs = [broken, quick]
    with pytest.raises(ValueError, match="broken"):
        workers.run(source)


def test_what_all_keep_is_bounded() -> None:
    """The greenlet, the datagram, what was made of it, and an answer that is kept."""
    workers = Workers(ManualLoop(), Waiting(100, 2 * GREENLET_BYTES + 2 * 1000 + 500, lambda size: None))
    jobs = Jobs(workers)
    waiting: list[Request] = []

    def wait(request: Request) -> None:
        request.datagram = bytes(1000)
        waiting.append(request)
        workers.park(request, 500 if len(waiting) == 1 else 0)

    jobs.jobs = [wait]
    workers.run(jobs)
    assert workers.waiting.kept_bytes == GREENLET_BYTES + 2 * 1000 + 500
    assert not workers.waiting.full
    jobs.jobs = [wait]
    workers.run(jobs)
    assert workers.waiting.full
    workers.wake([(waiting[0], None)])
    assert workers.waiting.kept_bytes == GREENLET_BYTES + 2 * 1000
    assert not workers.waiting.full
    workers.wake([(waiting[1], None)])
    assert workers.waiting.kept_bytes == workers.waiting.count == 0


def test_those_that_go_on_together_do_so_in_order_whatever_one_of_them_does(workers: Workers, source: Jobs) -> None:
    """One is answered, one waits again, and of one somebody has been told twice."""
    order: list[int] = []

    def job(number: int, times: int) -> Callable[[Request], None]:
        def wait(request: Request) -> None:
            kept[number] = request
            for _ in range(times):
                request.keep()
                workers.park(request)
                order.append(number)

        return wait

    kept: dict[int, Request] = {}
    source.jobs = [job(1, 1), job(2, 2), job(3, 1)]
    workers.run(source)
    workers.wake([(kept[1], None), (kept[1], None), (kept[2], None), (kept[3], None)])
    assert order == [1, 2, 3]
    assert workers.waiting.count == 1
    workers.wake([(kept[2], None)])
    assert (order, workers.waiting.count, workers.waiting.kept_bytes) == ([1, 2, 3, 2], 0, 0)


def test_who_waited_in_vain_can_not_be_woken_in_the_place_of_the_next(workers: Workers, source: Jobs) -> None:
    """Somebody may still hold the request that has expired; its worker goes on with another."""
    first, second = Waits(workers), Waits(workers)
    source.jobs = [first]
    workers.run(source)
    workers.expire(1.0)
    source.jobs = [second]
    workers.run(source)
    assert source.greenlets[0] is source.greenlets[1], "the worker is the same"
    first.wake("late")
    assert (first.woken, second.woken) == ([EXPIRED], [])


def test_an_object_that_has_waited_is_as_new_for_the_next(workers: Workers, source: Jobs) -> None:
    waiting = Waits(workers)
    source.jobs = [waiting]
    workers.run(source)
    assert waiting.request is not None
    waiting.request.is_uncertain = True
    waiting.wake(None)
    seen: list[tuple[bool, bool, bytes]] = []
    source.jobs = [lambda request: seen.append((request.has_waited, request.is_uncertain, request.datagram))]
    workers.run(source)
    assert seen == [(False, False, b"")]


def test_what_they_keep_is_told_as_it_grows() -> None:
    told: list[int] = []
    workers = Workers(ManualLoop(), Waiting(1000, 1 << 30, told.append))
    source = Jobs(workers)

    def wait(count: int) -> list[Request]:
        jobs = [Waits(workers) for _ in range(count)]
        source.jobs = [*jobs]
        workers.run(source)
        return [job.request for job in jobs if job.request is not None]

    first = wait(100)
    assert sum(told) <= workers.waiting.kept_bytes < sum(told) + 65_536
    workers.wake([(request, None) for request in first])
    told.clear()
    second = wait(50)
    assert told == [], "what is kept again was told before"
    workers.wake([(request, None) for request in second])
    workers.waiting.look()
    wait(100)
    assert sum(told) <= workers.waiting.kept_bytes < sum(told) + 65_536


@pytest.mark.parametrize(("short_bytes", "expected"), [(0, [_SPEND_BYTES]), (1, [])])
def test_growth_is_told_once_it_has_come_to_so_much(short_bytes: int, expected: list[int]) -> None:
    told: list[int] = []
    workers = Workers(ManualLoop(), Waiting(1000, 1 << 30, told.append))

    def wait(request: Request) -> None:
        request.keep()
        workers.park(request, _SPEND_BYTES - GREENLET_BYTES - 2 * len(request.datagram) - short_bytes)

    source = Jobs(workers)
    source.jobs = [wait]
    workers.run(source)
    assert told == expected
