"""The requests of a call for many keys: one a key, a window of them in flight, in no order."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from app.client import clock
from app.client.calls import Call
from app.client.engine import Exchange
from app.client.errors import InvalidValue, KeyNotFound, KVError, NotTried, Timeout, WrongCluster
from app.client.session import Session


class Batch:
    """The requests of a call for many keys: as many in flight as the window is wide, two for one key never.

    A key that fails does not stop the others. When nobody has answered anything for a whole schedule of tries, or the
    call's time is over, what is left is not tried.

    `errors`: what became of the keys that failed.
    """

    def __init__(
        self,
        session: Session,
        requests: Iterator[tuple[bytes, Call[Any]]],
        take: Callable[[bytes, Any], object],
        deadline: float,
    ) -> None:
        """`take` gets each key with the result of its call."""
        self.errors: dict[bytes, KVError] = {}
        self.on_progress: Callable[[], object] = _nothing_to_tell
        self._session = session
        self._requests = requests
        self._take = take
        self._deadline = deadline
        self._in_flight: dict[bytes, Exchange] = {}
        self._next: tuple[bytes, Call[Any]] | None = None
        self._why_not = ""  # what is left is not tried

    @property
    def is_waiting(self) -> bool:
        """Some of the requests are in flight."""
        return bool(self._in_flight)

    def go_on(self) -> bool:
        """Start what may be started by now. Whether there is anything left, in flight or to be started."""
        while True:
            self._next = self._next or next(self._requests, None)
            if self._next is None:
                return self.is_waiting
            key, call = self._next
            if key in self._in_flight or (self._in_flight and self._session.engine.is_full):
                return True
            self._next = None
            self._start(key, call)

    def drop(self) -> None:
        """Wait no longer for what is in flight."""
        for exchange in self._in_flight.values():
            self._session.engine.drop(exchange)

    def _start(self, key: bytes, call: Call[Any]) -> None:
        if key in self.errors:
            return  # what became of the key's last request is not known: the next could overtake it
        if not self._why_not and clock.now() >= self._deadline:
            self._why_not = "the time for the call is over"
        if self._why_not:
            self.errors[key] = NotTried(f"not tried: {self._why_not}")
            return
        try:
            exchange = self._in_flight[key] = self._session.start(call.request, self._deadline)
        except (InvalidValue, WrongCluster) as error:
            self.errors[key] = error
        else:
            exchange.done = partial(self._finish, key, call)

    def _finish(self, key: bytes, call: Call[Any], exchange: Exchange) -> None:
        del self._in_flight[key]
        try:
            self._take(key, self._session.finished(call, exchange))
        except KeyNotFound:
            pass
        except KVError as error:
            self.errors[key] = error
            if isinstance(error, Timeout) and self._session.engine.heard_at < exchange.started_at:
                self._why_not = "nobody answers"
            else:
                self._why_not = ""
        self.on_progress()


def _nothing_to_tell() -> None:
    return None
