"""What is where, and who gets it."""

import json
import socket
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final

from app.http.copies import COPY_S, Content, Copy
from app.http.head import Request
from app.http.metrics import METRICS_TYPE, Exposition
from app.http.observed import ObservedNode
from app.http.origin import Names, is_from_elsewhere
from app.http.page import Page
from app.http.share import Share
from app.http.status import StatusReport
from app.http.watch import Watch
from app.observe import logs

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
# Balancers are to hear at once that a node stops; it is 0.5 ms of work, so not for each of them.
_READY_S: Final = 0.1
_HOST_SHOWN_CHARS: Final = 256  # of a refused name, in the log: more than a name has
_SLOWLOG_MAX_BYTES: Final = 1 << 20  # more than its entries can take

# What the numbers mean: beside the sources, and in the package and the image as well.
_DOCS: Final = Path(__file__).parents[2] / "docs" / "monitoring.md"

_NOT_FOUND: Final = Content(
    "404 Not Found", _TEXT, b"Here are: / /status.json /metrics /health /ready /slowlog /docs\n"
)
_NOT_ALLOWED: Final = Content("405 Method Not Allowed", _TEXT, b"only to be read\n", (("Allow", "GET, HEAD"),))
_NOT_US: Final = Content("421 Misdirected Request", _TEXT, b"not a name of this node: see its option --http-host\n")
_FROM_ELSEWHERE: Final = Content("403 Forbidden", _TEXT, b"not to be read by pages of other places\n")

_faults = logs.limited_logger("http")


class Site:
    """A node's pages."""

    def __init__(self, node: ObservedNode, watch: Watch, share: Share) -> None:
        self._node = node
        self._exposition = Exposition(node, share.pause)
        self._report = StatusReport(node, watch)
        self._page = Page()
        options, machine = node.options, socket.gethostname()
        self._names = Names((options.me.host, machine, machine.partition(".")[0]), options.http_hosts)

        def copy(make: Callable[[], Content], max_age_s: float = COPY_S) -> Copy:
            return Copy(make, node.loop, share, max_age_s)

        self._copies = {
            "/": copy(self._index, inf),
            "/status.json": copy(self._status),
            "/metrics": copy(self._metrics),
            "/slowlog": copy(self._slowlog),
            "/docs": copy(self._docs, inf),
            "/health": copy(self._health, inf),
            "/ready": copy(self._ready, _READY_S),
        }

    def answer(self, request: Request) -> Content:
        """What is said to a request; runs in a piece of the share's. Raises whatever goes wrong in a page."""
        headers = request.headers
        host = headers.get("host")
        if host is not None and not self._names.include(host):  # HTTP/1.0 may leave it out; no browser does
            _faults.warning("host_refused", host=host[:_HOST_SHOWN_CHARS])
            return _NOT_US
        if is_from_elsewhere(headers):
            return _FROM_ELSEWHERE
        copy = self._copies.get(request.path)
        if copy is None:
            return _NOT_FOUND
        if request.method not in ("GET", "HEAD"):
            return _NOT_ALLOWED
        return copy.get(compressed="gzip" in headers.get("accept-encoding", ""))

    def _index(self) -> Content:
        return Content("200 OK", "text/html; charset=utf-8", self._page.html, self._page.headers)

    def _status(self) -> Content:
        return _json("200 OK", self._report.as_dict())

    def _metrics(self) -> Content:
        return Content("200 OK", METRICS_TYPE, self._exposition.text())

    def _docs(self) -> Content:
        return Content("200 OK", _TEXT, _DOCS.read_bytes())

    def _health(self) -> Content:
        """That this is answered at all says that the process lives and its loop turns."""
        return _json("200 OK", {"status": "alive"})

    def _ready(self) -> Content:
        readiness = self._node.readiness()
        said = {"ready": readiness.is_ready, "reasons": readiness.reasons, "lacking": readiness.lacking}
        return _json("200 OK" if readiness.is_ready else "503 Service Unavailable", said)

    def _slowlog(self) -> Content:
        return Content("200 OK", _JSON, self._node.slow_log.as_json(max_bytes=_SLOWLOG_MAX_BYTES))


def _json(status: str, value: object) -> Content:
    return Content(status, _JSON, json.dumps(value, separators=(",", ":")).encode() + b"\n")
