"""A run in several processes, put together.

One Python process sends and checks some tens of thousands of requests a second. Where that is less than what is to be
loaded, several share the work: each has its part of the clients, of the rate and of the keys, so each can check its
reads by itself, exactly. They are started anew rather than forked, begin at the same moment, and send their result
when they are done; the parent only listens.

With a law other than uniform, each process applies it to its own keys: two processes have two most popular keys, with
half of the requests for one that a single process would have sent.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from tools.load.loop import Flood, Progress
from tools.load.plan import Plan
from tools.load.results import ProcessResult, outcome_of

# From the word to begin until they do (s): longer than a message takes to reach a busy process.
HEAD_START_S: Final = 0.05

Show = Callable[[Progress], object]


class RunFailed(Exception):
    """A process has ended before its time."""


def run(plan: Plan, show: Show | None) -> list[ProcessResult]:
    """Do it, and show progress if wanted.

    BadServer, NobodyThere and OSError before anything has been sent; KeyboardInterrupt while the keys are
    put before the run. Ctrl-C in the run itself ends it early.
    """
    if plan.processes == 1:
        flood = Flood(plan)
        try:
            flood.greet()
            if plan.load:
                flood.load(show)
            return [_carry_out(flood, show)]
        finally:
            flood.close()
    # That there is nobody is said once, and before so much is started.
    greeter = Flood(plan.share(0))
    try:
        greeter.greet()
    finally:
        greeter.close()
    return _run_many(plan, show)


def silent(plan: Plan) -> list[str]:
    """The servers that answer nothing now."""
    flood = Flood(plan.share(0))
    try:
        return flood.silent()
    finally:
        flood.close()


def _carry_out(flood: Flood, show: Show | None, begin: float | None = None) -> ProcessResult:
    """One process's run, and what is to be done after it."""
    outcome = outcome_of(flood.run(show, begin))
    if flood.plan.clean:
        flood.clean(show)
    outcome.keys_left = flood.keys_left
    return outcome


def _run_many(plan: Plan, show: Show | None) -> list[ProcessResult]:
    context = multiprocessing.get_context("spawn")
    pipes = []
    workers = []
    # They are to inherit that Ctrl-C, which a terminal sends to all of them, is the parent's affair.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for number in range(plan.processes):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs, plan.share(number), show is not None), daemon=True)
            worker.start()
            theirs.close()
            pipes.append(ours)
            workers.append(worker)
    finally:
        signal.signal(signal.SIGINT, handler)
    crew = _Crew(pipes, show)
    try:
        crew.collect("ready")
        crew.tell(("begin", time.monotonic() + HEAD_START_S))
        return crew.collect("done")
    finally:
        crew.tell(("stop", None))
        for worker, pipe in zip(workers, pipes, strict=True):
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
                worker.join()
            pipe.close()


class _Crew:
    """The parent's end: what the processes say, and what they are told."""

    def __init__(self, pipes: Sequence[Connection], show: Show | None) -> None:
        self._pipes = pipes
        self._show = show
        self._progress: dict[Connection, Progress] = {}

    def tell(self, message: tuple[str, object]) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it has ended, which `collect` finds out
                pipe.send(message)

    def collect(self, wanted: str) -> list[Any]:
        """Wait until each has sent such a message; what came with them, in the order of the processes."""
        collected: dict[Connection, Any] = {}
        while len(collected) < len(self._pipes):
            try:
                for pipe in wait([pipe for pipe in self._pipes if pipe not in collected]):
                    assert isinstance(pipe, Connection)
                    kind, content = pipe.recv()
                    if kind == wanted:
                        collected[pipe] = content
                    elif kind == "progress":
                        self._progress[pipe] = content
                        self._show_sum()
                    elif kind == "failed":
                        raise RunFailed(content)
            except EOFError:
                raise RunFailed("one of the processes has ended before its time") from None
            except KeyboardInterrupt:
                if wanted != "done":
                    raise
                self.tell(("stop", None))
        return [collected[pipe] for pipe in self._pipes]

    def _show_sum(self) -> None:
        """All processes' progress as one; the percentile is the worst one's."""
        if self._show is None or len(self._progress) < len(self._pipes):
            return
        parts = list(self._progress.values())
        self._show(
            Progress(
                phase=parts[0].phase,
                elapsed_s=max(part.elapsed_s for part in parts),
                finished=sum(part.finished for part in parts),
                errors=sum(part.errors for part in parts),
                p99_us=max(part.p99_us for part in parts),
            )
        )


class _Told:
    """A process's end: what it is told while it runs, and how far it is."""

    def __init__(self, pipe: Connection, wanted: bool) -> None:
        self._pipe = pipe
        self._wanted = wanted

    def __call__(self, progress: Progress) -> None:
        if self._wanted:
            self._pipe.send(("progress", progress))
        if self._pipe.poll():
            self._pipe.recv()  # "stop", or EOFError: the parent is gone
            raise KeyboardInterrupt


def _work(pipe: Connection, plan: Plan, wanted: bool) -> None:
    """What each process does. Its last message is its result."""
    told = _Told(pipe, wanted)
    try:
        flood = Flood(plan)
        try:
            if plan.load:
                flood.load(told)
            pipe.send(("ready", None))
            message, begin = pipe.recv()
            if message == "begin":
                pipe.send(("done", _carry_out(flood, told, begin)))
        finally:
            flood.close()
    except OSError as error:
        pipe.send(("failed", str(error)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent has gone, or wants no result
