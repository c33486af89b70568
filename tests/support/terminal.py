"""Programs of the repository at a terminal: what arrives there."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Sequence

from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import DEADLINE_S


def at_a_terminal(arguments: Sequence[str], typed: bytes = b"") -> tuple[int, str]:
    """Run a program whose standard streams are a terminal; its exit status, and all that the terminal was sent.

    Line ends are as the terminal was sent them (CR LF); lone surrogates stand for what is not UTF-8.
    """
    ours, its = pty.openpty()
    received = bytearray()

    def listen() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                return
            received.extend(data)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=REPOSITORY, env=environment(), stdin=its, stdout=its, stderr=its
        ) as process:
            os.close(its)
            if typed:
                os.write(ours, typed)
            try:
                status = process.wait(2 * DEADLINE_S)
            finally:
                process.kill()
    finally:
        listener.join()
        os.close(ours)
    return status, received.decode("utf-8", "surrogateescape")


def is_harmless(text: str) -> bool:
    """Whether a terminal that is sent this does nothing but show it, line by line."""
    return text.replace("\r\n", "").isprintable()
