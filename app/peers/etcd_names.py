"""The addresses of an etcd's endpoints, whose names are looked up beside the requests.

The problem: a request has 0.3 s; a resolver can take seconds, or be down while etcd is well.

The approach: a name keeps the addresses that it had. They are asked for, in a thread (Sockets.look_up), when there are
none, and again when etcd has not answered there: no more often than each LOOKUP_S, and never twice at once. A name
with several addresses (Kubernetes' headless services) stands for as many endpoints: who gets no answer from one of them
tries the next.

Rejected: `gevent.socket.create_connection`. It waits for the resolver each time, within the request's time, and has the
loop end the process for a name that is not known (app/loop.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from gevent.event import Event as Flag

from app.config.servers import is_address
from app.loop import Loop
from app.peers.lookups import LOOKUP_S

# How long a request waits for a name that has no address yet. Less than a request has (timing.REGISTER_TIMEOUT_S), so
# that it says what it has waited for.
_PATIENCE_S: Final = 0.2


@dataclass(slots=True)
class _Name:
    addresses: list[str] = field(default_factory=list)  # that to be tried next comes first
    asked_s: float = -inf
    is_asking: bool = False
    answered: Flag = field(default_factory=Flag)  # the last question was
    fault: str = ""  # the last answer's


class EndpointNames:
    """One node's."""

    def __init__(self, loop: Loop, look_up: Callable[[str], list[str]]) -> None:
        """`look_up(host)`: its addresses, in order of preference; waits in its greenlet; raises OSError."""
        self._loop = loop
        self._look_up = look_up
        self._names: dict[str, _Name] = {}

    def address(self, host: str) -> str:
        """The numeric address to try. Waits in its greenlet where none is known; raises OSError if there is none."""
        if is_address(host):
            return host
        name = self._names.setdefault(host, _Name())
        if not name.addresses:
            self._ask(host, name)
            if not name.answered.wait(_PATIENCE_S):
                raise OSError(f"its name is not resolved within {_PATIENCE_S:g} s")
        if not name.addresses:
            raise OSError(f"its name has no address: {name.fault}")
        return name.addresses[0]

    def doubt(self, host: str) -> None:
        """There is no etcd that answers where the name stands for now."""
        name = self._names.get(host)
        if name is not None and name.addresses:
            name.addresses.append(name.addresses.pop(0))
            self._ask(host, name)

    def _ask(self, host: str, name: _Name) -> None:
        now_s = self._loop.now()
        if not name.is_asking and now_s >= name.asked_s + LOOKUP_S:
            name.is_asking, name.asked_s = True, now_s
            name.answered.clear()
            self._loop.spawn(self._resolve, host, name)

    def _resolve(self, host: str, name: _Name) -> None:
        try:
            found = self._look_up(host)
        except OSError as error:
            name.fault = error.strerror or str(error)
        else:
            kept = [address for address in name.addresses if address in found]
            name.addresses = [*kept, *dict.fromkeys(address for address in found if address not in kept)]
        name.is_asking = False
        name.answered.set()
