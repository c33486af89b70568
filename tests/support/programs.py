"""A program of the repository that runs meanwhile: what it has printed so far, and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import DEADLINE_S, poll


class Program:
    """`with Program("tools/cluster.py", "2") as program:`; interrupted at the end of the block if it still runs."""

    def __init__(self, *arguments: str, stderr: int = subprocess.STDOUT) -> None:
        """`stderr`: subprocess.PIPE to have it apart, in `process.stderr`."""
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for stream in (self._stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def read(self) -> str:
        """All that it has printed."""
        self.text += (self._stdout.read() or b"").decode()
        return self.text

    def until(self, condition: Callable[[str], object]) -> None:
        """Wait until what it has printed meets the condition. AssertionError if it ends before that."""

        def is_so() -> bool:
            has_ended = self.process.poll() is not None
            if condition(self.read()):
                return True
            assert not has_ended, f"it has ended with status {self.process.returncode}:\n{self.text}"
            return False

        poll(is_so, complaint=lambda: self.text)

    def stop_reading(self) -> None:
        """As `| head` does when it has seen enough."""
        self._stdout.close()

    def status(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(DEADLINE_S)
        if not self._stdout.closed:
            self.read()
        return status
