"""One router and one engine, and what brings them together: where a request goes, what is learned of the cluster, acks.

Nothing here waits: a request is started here, and whoever waits for it turns the engine. One at a time may use a
Session; a Client has as many as it has calls at the same time, an AsyncClient has one.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from app.client import calls, clock, codec
from app.client.address import Endpoint, resolve, unresolved
from app.client.calls import Call
from app.client.codec import KVRequest, KVResponse
from app.client.engine import Engine, Exchange
from app.client.errors import BadServer, InvalidValue, WrongCluster
from app.client.retry import TIMEOUT_S
from app.client.router import NOWHERE, PROBE_TIMEOUT_S, Router
from app.client.stats import Stats
from app.client.table import read_status
from app.wire import protocol

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

# Random bytes of a messageID: at 16, two requests of all clients ever never share one.
MESSAGE_ID_BYTES: Final = 16
assert MESSAGE_ID_BYTES <= protocol.MESSAGE_ID_MAX_BYTES

# Requests of one call in flight at most. Three nodes with three copies on two cores took 10, 14 and 16 thousand puts/s
# at 16, 64 and 256; at 10,000 bytes a value none was lost. More make a busy node's other clients wait.
WINDOW: Final = 64

# The commands that a node remembers, so that an ack for them frees memory.
_REMEMBERED: Final = frozenset((protocol.PUT, protocol.REMOVE, protocol.WIPEOUT))


class Options:
    """What a client was made with, which all its sessions have in common. The arguments are those of Client."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        slot_aware: bool = True,
        timeout_s: float = TIMEOUT_S,
        timeouts_ms: Sequence[int] = protocol.CLIENT_TIMEOUTS_MS,
        ack: bool = False,
        give_up_when_refused: bool = True,
        window: int = WINDOW,
        rng: random.Random | None = None,
    ) -> None:
        if isinstance(servers, str) or not servers:
            raise ValueError(f"servers is a list of at least one host:port, not {servers!r}")
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        check_timeout(timeout_s)
        self.servers = _resolved(servers)
        self.slot_aware = slot_aware
        self.timeout_s = timeout_s
        self.timeouts_ms = tuple(timeouts_ms)
        self.ack = ack
        self.give_up_when_refused = give_up_when_refused
        self.window = window
        self.rng = rng

    def deadline(self, timeout_s: float | None) -> float:
        """When a call that begins now is over, by the client's clock. None: it was given no budget of its own."""
        if timeout_s is None:
            return clock.now() + self.timeout_s
        check_timeout(timeout_s)
        return clock.now() + timeout_s

    def only_server(self) -> str:
        if len(self.servers) > 1:
            raise ValueError("name the server that is meant: this client knows several")
        return self.servers[0].name


def check_timeout(timeout_s: float) -> None:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is a number of seconds above 0, not {timeout_s!r}")


def taking(
    options: Callable[_Parameters, Options],
) -> Callable[[Callable[[Any, Options], None]], Callable[Concatenate[Any, _Parameters], None]]:
    """Of a client's __init__: it is called with what makes Options, and is given those; their signature is its own."""

    def decorate(init: Callable[[Any, Options], None]) -> Callable[Concatenate[Any, _Parameters], None]:
        def taking_options(self: Any, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> None:
            init(self, options(*arguments, **named))

        taking_options.__wrapped__ = Options.__init__  # type: ignore[attr-defined]  # what help() shows
        return taking_options

    return decorate


class Session:
    def __init__(self, options: Options) -> None:
        self.stats = Stats()
        self._options = options
        self._own_rng = random.Random()
        rng = options.rng or self._own_rng
        start = rng.choice([index for index, server in enumerate(options.servers) if server.address])
        self.router = Router(options.servers, slot_aware=options.slot_aware, current=start)
        self.engine = Engine(
            self.router,
            self.stats,
            timeouts_ms=options.timeouts_ms,
            give_up_when_refused=options.give_up_when_refused,
            window=options.window,
            rng=rng,
            now=clock.now,
        )
        self._status = calls.report(protocol.STATUS, protocol.PADDING_BYTES).request

    def begin(self) -> None:
        """A call begins. The first one in a forked child: what is known is the child's, too, the rest its parent's."""
        if self.engine.sockets.is_inherited:
            self.engine.forked()
            self.router.forked()
            self._own_rng.seed()
        self.engine.collect()

    def start(
        self, request: KVRequest, deadline: float, message_id: bytes | None = None, server: int | None = None
    ) -> Exchange:
        """Send a request to the server of that number, else to its slot's primary, else to the current one.

        InvalidValue, WrongCluster; TypeError and ValueError when it is no request at all.
        """
        if message_id is None:
            message_id = os.urandom(MESSAGE_ID_BYTES)
        datagram = codec.encode_request(message_id, request)
        if len(datagram) > protocol.DATAGRAM_MAX_BYTES:
            # A node drops it unanswered: all that sending it could bring is a Timeout.
            raise InvalidValue(
                protocol.INVALID_VAL_ERR, f"request of {len(datagram)} bytes, over what a datagram takes"
            )
        router, engine = self.router, self.engine
        if server is not None:
            return engine.start(message_id, datagram, server, deadline, only=True)
        if router.disputed:
            self._look_again()
        key = request.key
        primary = router.primary(protocol.slot_of(key)) if key else NOWHERE
        if primary == NOWHERE:
            exchange = engine.start(message_id, datagram, router.current, deadline)
            exchange.by_current = True
        else:
            self.stats.direct += 1
            exchange = engine.start(message_id, datagram, primary, deadline)
        if key and clock.now() >= router.wake_at:
            self._ask_for_tables()
        return exchange

    def finished(self, call: Call[_Result], exchange: Exchange) -> _Result:
        """What came of a call. KVError."""
        response = self.answered(call.request, exchange)
        error = calls.fault(call.request, response, exchange.attempts.unanswered)
        if error is not None:
            raise error
        return call.read(response)

    def answered(self, request: KVRequest, exchange: Exchange) -> KVResponse:
        """The response, whatever its errCode. Timeout, or what else it was given up with."""
        self._acknowledge(request, exchange)
        if exchange.error is not None:
            raise exchange.error
        assert exchange.answer is not None, "neither answered nor given up"
        return exchange.answer

    def _acknowledge(self, request: KVRequest, exchange: Exchange) -> None:
        """Tell the node that answered that its memory of the request may go, if this client does that.

        Only after a single try: were another one still under way, forgetting would let it take effect again.
        """
        if not self._options.ack or exchange.answer is None or exchange.attempts.tries != 1:
            return
        if request.command in _REMEMBERED and exchange.answer.code != protocol.SYS_OVERLOAD_ERR:
            index = exchange.answered_by
            self.engine.sockets.send(index, self.router.servers[index], codec.encode_ack(exchange.message_id))
            self.stats.acks += 1

    def number_of(self, name: str) -> int:
        """The number of a server that the caller names."""
        for index, server in enumerate(self._options.servers):
            if server.name == name:
                return index
        raise ValueError(f"{name!r} is not among this client's servers")

    def is_resolved(self, index: int) -> bool:
        return bool(self.router.servers[index].address)

    # What is learned.

    def _ask_for_tables(self) -> None:
        self.engine.collect()
        for index in self.router.targets(clock.now()):
            message_id = os.urandom(MESSAGE_ID_BYTES)
            datagram = codec.encode_request(message_id, self._status)
            self.engine.probe(message_id, datagram, index, PROBE_TIMEOUT_S).done = self._learn

    def _look_again(self) -> None:
        """The given servers are of different clusters. WrongCluster unless they say something else by now."""
        if clock.now() >= self.router.wake_at:
            self._ask_for_tables()
        self.engine.poll()
        if self.router.disputed:
            raise WrongCluster(self.router.dispute())

    def _learn(self, probe: Exchange) -> None:
        if probe.answer is None:
            return
        if probe.answer.code == protocol.INVALID_VAL_ERR:  # it has more to tell than fits; it is asked again anyway
            self._status = calls.report(protocol.STATUS, protocol.PADDING_MAX_BYTES).request
        elif probe.answer.code == protocol.NO_ERR:
            self.router.learn(probe.answered_by, read_status(probe.answer.value or b""), clock.now())


def _resolved(servers: Sequence[str]) -> tuple[Endpoint, ...]:
    """Where the servers are. BadServer when one is malformed, or none resolves."""
    found = [unresolved(text) for text in servers]
    fault: BadServer | None = None
    for index, server in enumerate(found):
        try:
            found[index] = resolve(server.name)
        except BadServer as error:
            fault = fault or error
    if fault is not None and not any(server.address for server in found):
        raise fault
    return tuple(found)
