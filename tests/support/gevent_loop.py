"""gevent's loop for tests: a fault in it fails the test that it happens in, and does not end pytest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import gevent
from gevent.hub import get_hub

from app.loop import GeventLoop


class WatchedLoop(GeventLoop):
    """Keeps what would have ended the process."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[BaseException] = []
        self.exits: list[int] = []

    def fail(self, error: BaseException) -> NoReturn:  # type: ignore[misc]  # it does return: gevent goes on
        self.faults.append(error)

    def exit(self, status: int) -> NoReturn:  # type: ignore[misc]
        self.exits.append(status)
        raise gevent.GreenletExit  # whoever called it goes on no further


@contextmanager
def watched_loop() -> Iterator[WatchedLoop]:
    """The hub of this process as a node's loop; whatever it has not caught is raised at the end."""
    hub = get_hub()
    loop = WatchedLoop()
    try:
        yield loop
        gevent.sleep(0)
    finally:
        del hub.handle_error  # the class's own again
    for fault in loop.faults:
        raise fault
