"""The shared register in an etcd: two keys, /kv/NAME/seat and /kv/NAME/view, by its HTTP/JSON gateway (v3.4 and later).

One request at a time, each a transaction: to read is to take the branch of one without a condition, which etcd answers
only when a majority of its members agrees that it is the latest; to write is to compare the value of the seat. (Not
its revision: a register that was restored counts anew.) What to ask, and what follows from the answer, or from none, is
the business of the core (shared_register.py): here nothing is tried twice.

An answer has REGISTER_TIMEOUT_S. Whoever does not give one is left, and the next endpoint is asked the next time.
There is no watch: a node that is well asks nothing but what it must, and one that is not reads ten times a second.

h11 parses HTTP without touching a socket, in 0.4 MiB. With connections of their own came http.client (4.6 MiB),
geventhttpclient (6.2) and urllib3 (6.4 MiB).
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from socket import AI_NUMERICHOST, getaddrinfo  # not gevent's, which asks a thread
from typing import Any, Final

import gevent
import h11
from gevent import socket

from app.cluster.events import AskRegister, RegisterAnswered, RegisterFailed
from app.cluster.limits import NONCE
from app.cluster.membership.timing import REGISTER_TIMEOUT_S
from app.config.coordination import Coordination, Credentials, Endpoint
from app.loop import Loop
from app.peers.etcd_access import Certificates, read_access, reread_access
from app.peers.etcd_faults import of_answer, of_system, of_text, with_advice
from app.peers.etcd_names import EndpointNames

# The largest answer: a view in base64, and some.
_ANSWER_MAX_BYTES: Final = 256 << 10
_READ_BYTES: Final = 64 << 10
# To prove who we are takes etcd long on purpose (bcrypt: 0.1 s where nothing else runs). It is asked for seldom.
_AUTHENTICATE_TIMEOUT_S: Final = 2.0
_UNAUTHENTICATED: Final = 16  # of gRPC's codes
_TOKEN: Final = re.compile("[!-~]+")  # as part of a header: no white space
_MAY_WANT: Final = " without an answer: it may want https://, or a user (--etcd-user-file)"
_NONE: Final = Certificates()


class _NoAnswer(Exception):
    """What etcd says instead of an answer, or that it says nothing."""


class Etcd:
    """One node's way to it."""

    def __init__(
        self,
        loop: Loop,
        coordination: Coordination,
        credentials: Credentials | None = None,
        certificates: Certificates = _NONE,
        *,
        look_up: Callable[[str], list[str]],
    ) -> None:
        """`look_up(host)`: the addresses of a name (Sockets.look_up). Raises ValueError with a line that says what is
        wrong with a file of certificates."""
        self._loop = loop
        self._endpoints = coordination.endpoints
        self._certificates = certificates if self._endpoints[0].is_tls else None
        self._access = read_access(credentials, self._certificates)
        self._prefix = f"/kv/{coordination.name}/"
        self._seat_key, self._view_key = (_base64(f"{self._prefix}{key}".encode()) for key in ("seat", "view"))
        self._names = EndpointNames(loop, look_up)
        self._at = 0  # which endpoint is asked
        self._socket: Any = None
        self._parser: h11.Connection | None = None
        self._has_answered = False  # over this connection
        self._is_stale = False  # the connection, or the token, has come of files that have changed
        self._token = ""
        self.requests = 0
        self.failures = 0
        self._taken: Callable[[RegisterAnswered | RegisterFailed], object]

    def start(self, taken: Callable[[RegisterAnswered | RegisterFailed], object]) -> None:
        """Answers go there from now on."""
        self._taken = taken

    def ask(self, asked: AskRegister) -> None:
        """Ask etcd; returns at once."""
        self._loop.spawn(self._serve, asked)

    def reread(self) -> Callable[[], str]:
        """Read the files again, and go by none of it yet: what is returned does, and says which have changed. Raises
        ValueError with a line that says what is wrong with one of them."""
        access = reread_access(self._access, self._certificates)

        def go_over() -> str:
            changes = access.changes(self._access)
            self._access = access
            self._is_stale = self._is_stale or bool(changes)
            return " ".join(changes)

        return go_over

    def stop(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._parser = None

    @property
    def endpoint(self) -> Endpoint:
        """Which one is asked."""
        return self._endpoints[self._at]

    def _serve(self, asked: AskRegister) -> None:
        self.requests += 1
        endpoint = self.endpoint
        if self._is_stale:
            self._is_stale, self._token = False, ""
            self.stop()
        try:
            answer: RegisterAnswered | RegisterFailed = self._exchange(asked)
        except (gevent.Timeout, _NoAnswer, h11.RemoteProtocolError, OSError) as error:
            self.failures += 1
            self.stop()
            self._names.doubt(endpoint.host)
            self._at = (self._at + 1) % len(self._endpoints)
            answer = RegisterFailed(asked.number, f"{endpoint}: {with_advice(_why(error), self._prefix)}")
        self._taken(answer)

    def _exchange(self, asked: AskRegister) -> RegisterAnswered:
        if self._access.credentials is not None and not self._token:
            with gevent.Timeout(_AUTHENTICATE_TIMEOUT_S):
                self._authenticate(self._access.credentials)
        with gevent.Timeout(REGISTER_TIMEOUT_S):
            return self._answered(asked, self._post("/v3/kv/txn", self._transaction(asked)))

    def _transaction(self, asked: AskRegister) -> dict[str, object]:
        read = [{"request_range": {"key": key}} for key in (self._seat_key, self._view_key)]
        if asked.seat is None:
            return {"success": read}
        compare: dict[str, object] = {"key": self._seat_key, "result": "EQUAL"}
        if asked.expected is None:
            compare |= {"target": "CREATE", "create_revision": "0"}
        else:
            compare |= {"target": "VALUE", "value": _base64(asked.expected)}
        written = [(self._seat_key, asked.seat), (self._view_key, asked.view)]
        put = [{"request_put": {"key": key, "value": _base64(value)}} for key, value in written if value is not None]
        return {"compare": [compare], "success": put, "failure": read}

    def _answered(self, asked: AskRegister, answer: dict[str, Any]) -> RegisterAnswered:
        try:
            origin = int(answer["header"]["cluster_id"])
            if not NONCE.has(origin):
                raise ValueError(origin)
            if asked.seat is not None and answer.get("succeeded") is True:
                return RegisterAnswered(asked.number, True, None, None, origin)
            seat, view = map(_held, answer["responses"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as fault:
            raise _NoAnswer(f"it answers what is not etcd's: {fault!r}") from None
        return RegisterAnswered(asked.number, False, seat, view, origin)

    def _authenticate(self, credentials: Credentials) -> None:
        answer = self._post("/v3/auth/authenticate", {"name": credentials.user, "password": credentials.password})
        token = answer.get("token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise _NoAnswer("it gives no token")
        self._token = token

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _post(self, path: str, content: dict[str, object]) -> dict[str, Any]:
        if self._parser is None:
            self._connect()
        parser = self._parser
        assert parser is not None
        body = json.dumps(content, separators=(",", ":")).encode()
        host = str(self.endpoint).partition("://")[2]
        headers = [("Host", host), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if self._token:
            headers.append(("Authorization", self._token))
        parts = (h11.Request(method="POST", target=path, headers=headers), h11.Data(body), h11.EndOfMessage())
        try:
            self._socket.sendall(b"".join(parser.send(part) or b"" for part in parts))
        except OSError:
            self._receive(parser)  # what it has said before it closed the connection
            raise
        status, answer = self._receive(parser)
        if parser.our_state is h11.DONE and parser.their_state is h11.DONE:
            parser.start_next_cycle()
        else:
            self.stop()
        return self._understand(status, answer)

    def _connect(self) -> None:
        endpoint = self.endpoint
        address = self._names.address(endpoint.host)
        # Of what is a number nothing is looked up, but the scope of an IPv6 address.
        (found, *_) = getaddrinfo(address, endpoint.port, type=socket.SOCK_STREAM, flags=AI_NUMERICHOST)
        sock = socket.socket(found[0], socket.SOCK_STREAM)
        try:
            sock.connect(found[4])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._access.context is not None:
                sock = self._access.context.wrap_socket(sock, server_hostname=endpoint.host)
        except BaseException:
            sock.close()
            raise
        self._socket, self._parser, self._has_answered = sock, h11.Connection(h11.CLIENT), False

    def _receive(self, parser: h11.Connection) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        status, body, received = 0, bytearray(), 0
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = self._socket.recv(_READ_BYTES)
                received += len(data)
                if received > _ANSWER_MAX_BYTES:  # here, so that no flood of it takes the loop's time
                    raise _NoAnswer(f"its answer has more than {_ANSWER_MAX_BYTES} bytes")
                if not data and not status:
                    self._token = ""  # etcd 3.4 says so that it takes none, or not this one
                    raise _NoAnswer("it has closed the connection" + _MAY_WANT * (not self._has_answered))
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._has_answered = True
                return status, bytes(body)

    def _understand(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError):
            raise _NoAnswer(of_text(status, body)) from None
        if status == 200:
            return answer
        if answer.get("code") == _UNAUTHENTICATED:
            self._token = ""
        raise _NoAnswer(of_answer(status, answer))


def _why(error: BaseException) -> str:
    match error:
        case gevent.Timeout():
            return f"nothing within {error.seconds:g} s"
        case OSError():
            return of_system(error)
        case h11.RemoteProtocolError():
            return f"it speaks no HTTP: {error}"
    return str(error)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _held(response: dict[str, Any]) -> bytes | None:
    """The value that a range of one key has found."""
    pairs = response["response_range"].get("kvs", [])
    return b64decode(pairs[0].get("value", ""), validate=True) if pairs else None
