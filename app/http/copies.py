"""What is shown, as a copy that is made when it is asked for, and at most once a second.

So a thousand who look cost what one does. A copy is compressed once, too.
"""

import gzip
from collections.abc import Callable
from typing import Final, NamedTuple

from greenlet import getcurrent, greenlet

from app.http.share import Share
from app.loop import Loop

# A copy that is older than this is made anew (s). The page asks every second; Prometheus less often.
COPY_S: Final = 1.0
# What is shorter isn't worth compressing.
_GZIP_MIN_BYTES: Final = 1024
_GZIP_LEVEL: Final = 1  # 0.3 ms for 15 KB, and a quarter of the bytes


class Content(NamedTuple):
    """What is answered."""

    status: str  # number and words
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Copy:
    """Of one page. Made in a greenlet of its own, so that it is done whatever becomes of those who have asked."""

    def __init__(self, make: Callable[[], Content], loop: Loop, share: Share, max_age_s: float = COPY_S) -> None:
        """`make` may give way in the midst of its work, by the share."""
        self._make = make
        self._loop = loop
        self._share = share
        self._max_age_s = max_age_s
        self._content: Content | None = None
        self._compressed: Content | None = None
        self._error: Exception | None = None  # why there is no content
        self._made_s = 0.0
        self._is_being_made = False
        self._waiting: list[greenlet] = []  # for it to be made

    def get(self, *, compressed: bool) -> Content:
        """It; in gzip, if that is wanted and worth it. In a piece of the share's, which it ends if it has to wait.

        Raises RuntimeError when it could not be made.
        """
        if self._is_being_made or self._loop.now() - self._made_s >= self._max_age_s or self._content is None:
            self._wait_for_a_new_one()
        if self._content is None:
            raise RuntimeError("it could not be made") from self._error
        if not compressed or len(self._content.body) < _GZIP_MIN_BYTES:
            return self._content
        if self._compressed is None:
            self._compressed = _gzipped(self._content)
        return self._compressed

    def _wait_for_a_new_one(self) -> None:
        if not self._is_being_made:
            self._is_being_made = True
            self._loop.spawn(self._renew)
        me = getcurrent()
        self._waiting.append(me)
        try:
            self._share.sleep()
        finally:
            if me in self._waiting:  # it was cancelled
                self._waiting.remove(me)

    def _renew(self) -> None:
        self._share.turn()
        made_s, content, error = self._loop.now(), None, None
        try:
            content = self._make()
        except Exception as fault:  # noqa: BLE001 - whoever has asked is told
            error = fault
        # All at once: somebody may be about to take the last one.
        self._content, self._error, self._made_s, self._compressed = content, error, made_s, None
        self._is_being_made = False
        for waiting in self._waiting:
            self._share.wake(waiting)
        self._waiting.clear()


def _gzipped(content: Content) -> Content:
    headers = (*content.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return content._replace(body=gzip.compress(content.body, _GZIP_LEVEL), headers=headers)
