"""The loop's greenlets and waits, by hand and under gevent; and that whatever nobody has caught ends the process."""

import gc
import json
import os
import socket
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.threadpool import ThreadPool
from greenlet import GreenletExit, getcurrent

from app import loop as loop_module
from app.loop import EXIT_FAULT, READ, WRITE, GeventLoop, Loop, Task
from tests.support.gevent_loop import watched_loop
from tests.support.loop import Exited, ManualLoop
from tests.support.polling import poll_in_loop as poll

REPOSITORY = Path(__file__).parent.parent
LONG_S = 1000.0  # longer than any test

# --- tasks, sleeping and waiting, on either loop ---------------------------------------------------------------------


class Driver:
    """A loop, and how the test's greenlet lets it go on."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.told: list[object] = []

    def turn(self) -> None:
        """Until what is due now has happened."""
        if isinstance(self.loop, ManualLoop):
            self.loop.turn()
        else:
            gevent.sleep(0)
            gevent.sleep(0)

    def until(self, count: int, seconds: float) -> None:
        """Until so many things were told, which takes so long."""
        if isinstance(self.loop, ManualLoop):
            self.loop.advance(seconds)
            assert len(self.told) == count
        else:
            poll(lambda: len(self.told) == count)


@pytest.fixture(params=["by hand", "gevent"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    if request.param == "by hand":
        yield Driver(ManualLoop())
        return
    with watched_loop() as loop:
        yield Driver(loop)


def test_a_task_begins_when_the_loop_turns_and_runs_until_it_waits(driver: Driver) -> None:
    loop, told = driver.loop, driver.told

    def work(first: str, second: str) -> None:
        told.append((first, getcurrent() is task, task.parent is loop.hub))
        loop.sleep(0.001)
        told.append(second)

    task = loop.spawn(work, "a", "b")
    assert told == []
    driver.turn()
    assert told == [("a", True, True)]
    driver.until(2, 0.001)
    assert told[1] == "b"
    driver.turn()
    assert task.dead


def test_sleepers_wake_in_the_order_of_their_times(driver: Driver) -> None:
    def work(seconds: float) -> None:
        before_s = driver.loop.now()
        driver.loop.sleep(seconds)
        assert driver.loop.now() - before_s >= seconds - 0.001
        driver.told.append(seconds)

    for seconds in (0.03, 0.01, 0.02):
        driver.loop.spawn(work, seconds)
    driver.until(3, 0.03)
    assert driver.told == [0.01, 0.02, 0.03]


def test_a_sleep_of_nothing_lets_others_go_first(driver: Driver) -> None:
    loop, told = driver.loop, driver.told

    def work(name: str) -> None:
        told.append(name)
        loop.sleep(0)
        told.append(name)

    loop.spawn(work, "a")
    loop.spawn(work, "b")
    driver.until(4, 0.0)
    assert told == ["a", "b", "a", "b"]


def test_the_loop_itself_must_not_wait(driver: Driver) -> None:
    caught: list[str] = []

    def callback() -> None:
        try:
            driver.loop.sleep(0)
        except AssertionError as error:
            caught.append(str(error))

    driver.loop.run_callback(callback)
    driver.turn()
    assert caught == ["the loop itself must not wait"]


def test_a_task_that_is_cancelled_gives_back_what_it_holds(driver: Driver) -> None:
    loop, told = driver.loop, driver.told

    def work() -> None:
        try:
            loop.sleep(LONG_S)
        except GreenletExit:
            told.append("exit")
            raise
        finally:
            told.append("given back")

    task = loop.spawn(work)
    driver.turn()
    loop.run_callback(task.cancel)
    driver.turn()
    assert told == ["exit", "given back"]
    assert task.dead
    loop.run_callback(task.cancel)  # once more: nothing
    driver.turn()


def test_a_task_that_is_cancelled_before_it_begins_does_nothing(driver: Driver) -> None:
    tasks = []

    def spawn_and_cancel() -> None:
        tasks.append(driver.loop.spawn(driver.told.append, "never"))
        tasks.append(driver.loop.spawn(driver.told.append, "the other"))
        tasks[0].cancel()

    driver.loop.run_callback(spawn_and_cancel)
    driver.until(1, 0.0)
    assert driver.told == ["the other"]
    driver.turn()
    assert all(task.dead for task in tasks)


class Job:
    """What a task works on, and which knows its task."""

    task: Task


@pytest.mark.parametrize("end", ["by itself", "cancelled", "cancelled before it begins"])
def test_a_task_that_has_ended_keeps_nothing_for_the_collector(driver: Driver, end: str) -> None:
    loop = driver.loop
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        job = Job()
        gone = weakref.ref(job)
        job.task = loop.spawn(lambda job: loop.sleep(LONG_S) if end == "cancelled" else None, job)
        if end == "cancelled":
            driver.turn()
        if end != "by itself":
            loop.run_callback(job.task.cancel)
        task = job.task
        del job
        for _ in range(3):
            driver.turn()
        assert task.dead
        del task
        driver.turn()
        assert gone() is None
    finally:
        if was_enabled:
            gc.enable()


def pair_of_sockets() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@pytest.mark.parametrize("events", [READ, WRITE])
def test_waiting_for_a_descriptor(driver: Driver, events: int) -> None:
    loop, told = driver.loop, driver.told
    one, other = pair_of_sockets()
    with one, other:
        if events == WRITE:  # none of it is taken any more
            while True:
                try:
                    one.send(bytes(65_536))
                except BlockingIOError:
                    break
        loop.spawn(lambda: told.append(loop.wait(one.fileno(), events, LONG_S)))
        driver.turn()
        assert told == []
        if events == READ:
            other.send(b"x")
        else:
            while True:
                try:
                    other.recv(65_536)
                except BlockingIOError:
                    break
        if isinstance(loop, ManualLoop):
            loop.ready(one.fileno(), READ + WRITE - events)
            assert told == []
            loop.ready(one.fileno(), events)
        driver.until(1, 0.0)
        assert told == [True]


@pytest.mark.parametrize("timeout_s", [0.01, 0.0, -1.0])
def test_waiting_has_an_end(driver: Driver, timeout_s: float) -> None:
    loop = driver.loop
    one, other = pair_of_sockets()
    with one, other:
        loop.spawn(lambda: driver.told.append(loop.wait(one.fileno(), READ, timeout_s)))
        driver.until(1, max(0.0, timeout_s))
        assert driver.told == [False]
        other.send(b"x")  # nobody waits any more
        if isinstance(loop, ManualLoop):
            loop.ready(one.fileno(), READ)
        driver.turn()
        assert driver.told == [False]


def test_what_has_come_is_waited_for_no_longer(driver: Driver) -> None:
    """The timer of a wait that is over must not wake its greenlet in another."""
    loop, told = driver.loop, driver.told
    one, other = pair_of_sockets()

    def work() -> None:
        told.append(loop.wait(one.fileno(), READ, 0.005))
        loop.sleep(0.05)
        told.append("slept")

    with one, other:
        other.send(b"x")
        before_s = loop.now()
        loop.spawn(work)
        driver.turn()
        if isinstance(loop, ManualLoop):
            loop.ready(one.fileno(), READ)
        driver.until(2, 0.05)
        assert told == [True, "slept"]
        assert loop.now() - before_s >= 0.049


def test_a_timer_calls_once_with_its_arguments_and_forgets_what_was_started_before(driver: Driver) -> None:
    timer = driver.loop.timer()
    timer.start(0.001, driver.told.append, "forgotten")
    timer.start(0.002, driver.told.append, "called")
    driver.until(1, 0.002)
    timer.start(0.001, driver.told.append, "stopped")
    timer.stop()
    timer.stop()
    timer.start(0.003, driver.told.append, "again")
    driver.until(2, 0.003)
    driver.turn()
    assert driver.told == ["called", "again"]


def test_a_timer_may_be_started_by_what_it_calls(driver: Driver) -> None:
    timer = driver.loop.timer()

    def call(number: int) -> None:
        driver.told.append(number)
        if number < 3:
            timer.start(0.001, call, number + 1)

    timer.start(0.001, call, 1)
    driver.until(3, 0.003)
    assert driver.told == [1, 2, 3]


def test_clocks() -> None:
    with watched_loop() as loop:
        import time

        before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before_s <= loop.now() <= time.clock_gettime(time.CLOCK_BOOTTIME), "it goes on in a suspended machine"
        assert abs(loop.unix_s() - time.time()) < 60


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_name_without_an_address_is_told_to_whoever_has_asked_and_is_no_fault() -> None:
    """gevent's resolver asks in a thread, and what is raised there is reported to the loop as well."""

    def refuse() -> None:
        raise socket.gaierror(-2, "Name or service not known")

    told: list[object] = []

    def ask(pool: ThreadPool) -> None:
        try:
            pool.apply(refuse)
        except OSError as error:
            told.append(error.strerror)

    with watched_loop() as loop:
        loop.spawn(ask, gevent.get_hub().threadpool)
        poll(lambda: told != [])
    assert told == ["Name or service not known"]


def test_one_that_nobody_has_caught_is_a_fault() -> None:
    def work() -> None:
        raise socket.gaierror(-2, "made up")

    with watched_loop() as loop:
        loop.spawn(work)
        poll(lambda: loop.faults != [])
        assert "made up" in str(loop.faults.pop())


def test_anything_else_in_a_thread_is_a_fault() -> None:
    def fail() -> None:
        raise ValueError("made up")

    with watched_loop() as loop:
        gevent.get_hub().threadpool.spawn(fail)
        poll(lambda: loop.faults != [])
        assert str(loop.faults.pop()) == "made up"


def test_failing_is_one_log_line_and_status_70(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Exited) as exited:
        ManualLoop().fail(ValueError("made up"))
    assert exited.value.status == EXIT_FAULT == 70
    assert [(record.levelname, record.msg) for record in caplog.records] == [("ERROR", "node.fault")]
    assert caplog.records[0].__dict__["fields"]["error"] == "ValueError: made up"


def test_the_last_line_is_given_a_chance_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(loop_module.logs, "finish", lambda: order.append("finish"))
    monkeypatch.setattr(os, "_exit", order.append)
    with watched_loop() as loop:
        GeventLoop.exit(loop, 70)
    assert order == ["finish", 70]


# Run in a process of its own, which forks one child for each way in which a fault can reach the loop.
SCRIPT = """
    import json, os, socket, struct, sys, time

    def signalled(loop, fault):
        import gevent, signal
        gevent.signal_handler(signal.SIGUSR1, fault)
        os.kill(os.getpid(), signal.SIGUSR1)

    def watcher(loop, fault):
        one, other = socket.socketpair()
        other.send(b"x")
        keep.append((one, other, loop.watch(one.fileno(), 1)))
        keep[-1][2].start(fault)

    def datagrams(loop, fault):
        from app.sockets import DatagramSocket
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        plain.bind(("127.0.0.1", 0))
        plain.setblocking(False)
        keep.append(DatagramSocket(plain))
        keep[-1].serve(fault)
        plain.sendto(b"x", plain.getsockname())

    def after_sleep(loop, fault):
        loop.sleep(0.001)
        fault()

    def other_greenlet(loop, fault):
        import gevent
        gevent.spawn(fault)

    def timer(loop, fault):
        keep.append(loop.timer())
        keep[-1].start(0.001, fault)

    PLACES = {
        "callback": lambda loop, fault: loop.run_callback(fault),
        "timer": timer,
        "watcher": watcher,
        "task": lambda loop, fault: loop.spawn(fault),
        "task that has slept": lambda loop, fault: loop.spawn(after_sleep, loop, fault),
        "gevent's greenlet": other_greenlet,
        "signal handler": signalled,
        "datagrams": datagrams,
    }
    FAULTS = (ValueError, OSError, RuntimeError, struct.error, AssertionError)
    FAULTS += (KeyboardInterrupt, SystemExit, MemoryError)
    keep = []

    def child(place, kind):
        from app.observe import logs
        logs.configure("info", "json")
        import gevent
        from app.loop import GeventLoop
        from greenlet import GreenletExit
        loop = GeventLoop()
        def fault():
            if kind == "GreenletExit":
                raise GreenletExit
            raise next(one for one in FAULTS if one.__name__ == kind)("made up")
        PLACES[place](loop, fault)
        for _ in range(20):
            gevent.sleep(0.002)
        os._exit(0)

    for place, kind in json.load(sys.stdin):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(write, 2)
            child(place, kind)
        os.close(write)
        with open(read, "rb") as stream:
            text = stream.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([place, kind, status, text]), flush=True)
"""
PLACES = (
    "callback",
    "timer",
    "watcher",
    "task",
    "task that has slept",
    "gevent's greenlet",
    "signal handler",
    "datagrams",
)
FAULTS = ("ValueError", "OSError", "RuntimeError", "error", "AssertionError", "KeyboardInterrupt", "SystemExit")
CASES = [*product(PLACES, FAULTS), ("callback", "MemoryError")]
NO_FAULTS = [*product(PLACES, ("GreenletExit",))]


@pytest.fixture(scope="module")
def endings() -> dict[tuple[str, str], tuple[int, str]]:
    """By place and fault: how the process ended, and all that it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        input=json.dumps([*CASES, *NO_FAULTS]),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return {(place, kind): (status, text) for place, kind, status, text in rows}


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_whatever_nobody_has_caught_ends_the_process_with_one_line(
    endings: dict[tuple[str, str], tuple[int, str]], place: str, kind: str
) -> None:
    status, text = endings[place, kind]
    assert status == EXIT_FAULT, text
    lines = [json.loads(line) for line in text.splitlines()]  # in JSON mode, each is JSON
    assert [(line["level"], line["event"]) for line in lines] == [("ERROR", "node.fault")]
    assert f"{kind}: made up" in lines[0]["error"]
    assert "in fault" in lines[0]["traceback"]


@pytest.mark.parametrize(("place", "kind"), NO_FAULTS)
def test_a_greenlet_that_was_told_to_end_is_no_fault(
    endings: dict[tuple[str, str], tuple[int, str]], place: str, kind: str
) -> None:
    assert endings[place, kind] == (0, "")
