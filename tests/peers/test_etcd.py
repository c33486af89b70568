"""The client of etcd: what it sends and makes of answers (to a server that plays its part), and against a real one."""

import json
import socket
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from math import inf
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.cluster.events import AskRegister, RegisterAnswered, RegisterFailed
from app.config.coordination import Coordination, Credentials, Endpoint, read_credentials
from app.config.servers import lookup_host
from app.loop import GeventLoop
from app.peers import etcd as etcd_module
from app.peers.etcd import Etcd
from app.peers.etcd_access import Certificates
from tests.support import etcd as real
from tests.support.certificates import Authority
from tests.support.gevent_loop import watched_loop
from tests.support.polling import DEADLINE_S
from tests.support.polling import poll_in_loop as poll
from tests.support.ports import HOST, free_port

HEADER = {"cluster_id": "14841639068965178418"}
ORIGIN = 14841639068965178418
READ = AskRegister(1, None, None, None)


def text(value: bytes) -> str:
    return b64encode(value).decode()


def held(*values: bytes | None) -> list[dict[str, Any]]:
    ranges = [{} if value is None else {"kvs": [{"key": "aw==", "value": text(value)}]} for value in values]
    return [{"response_range": one} for one in ranges]


def answer(content: object, status: str = "200 OK", *, more: str = "") -> bytes:
    body = json.dumps(content).encode()
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Server:
    """It answers each request with the next of what it was given, and closes the connection after an empty one."""

    def __init__(self, *answers: bytes, context: ssl.SSLContext | None = None) -> None:
        self._answers = list(answers)
        self._context = context
        self._listener = socket.create_server((HOST, 0))
        self.endpoint = Endpoint(HOST, self._listener.getsockname()[1], context is not None)
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else the thread still waits there, for the next test's clients
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with suppress(OSError):
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_side=True)
                with sock, sock.makefile("rb") as stream:
                    while self._take(stream):
                        given = self._answers.pop(0) if self._answers else b""
                        if not given:
                            break
                        sock.sendall(given)

    def _take(self, stream: Any) -> bool:
        line = stream.readline().decode()
        if not line:
            return False
        headers: dict[str, str] = {}
        while (header := stream.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name.lower()] = value
        body = json.loads(stream.read(int(headers["content-length"])))
        self.requests.append((line.split()[1], headers, body))
        return True


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeventLoop]:
    # On a busy machine what is sound may take longer than 0.3 s.
    monkeypatch.setattr(etcd_module, "REGISTER_TIMEOUT_S", DEADLINE_S)
    with watched_loop() as watched:
        yield watched


@pytest.fixture
def in_time(loop: GeventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer has little time all the same."""
    monkeypatch.setattr(etcd_module, "REGISTER_TIMEOUT_S", 1.0)


class Client:
    """One that is asked, and what came of it."""

    def __init__(
        self,
        loop: GeventLoop,
        *endpoints: Endpoint,
        credentials: Credentials | None = None,
        certificates: Certificates | None = None,
        look_up: Callable[[str], list[str]] = lookup_host,
    ) -> None:
        self.taken: list[RegisterAnswered | RegisterFailed] = []
        self.etcd = Etcd(
            loop, Coordination(endpoints, "kv1"), credentials, certificates or Certificates(), look_up=look_up
        )
        self.etcd.start(self.taken.append)

    def ask(self, asked: AskRegister = READ) -> RegisterAnswered | RegisterFailed:
        count = len(self.taken)
        self.etcd.ask(asked)
        poll(lambda: len(self.taken) > count, complaint="it is answered")
        return self.taken[-1]

    def why(self) -> str:
        failed = self.ask()
        assert isinstance(failed, RegisterFailed)
        assert failed.number == READ.number
        return failed.why


@pytest.fixture
def asked(loop: GeventLoop) -> Iterator[Callable[..., tuple[Client, Server]]]:
    servers: list[Server] = []

    def make(*answers: bytes, credentials: Credentials | None = None) -> tuple[Client, Server]:
        servers.append(Server(*answers))
        return Client(loop, servers[-1].endpoint, credentials=credentials), servers[-1]

    yield make
    for server in servers:
        server.close()


Make = Callable[..., tuple[Client, Server]]


class TestRequests:
    def test_a_read_is_a_transaction_without_a_condition(self, asked: Make) -> None:
        client, server = asked(answer({"header": HEADER, "succeeded": True, "responses": held(b"seat", b"view")}))
        assert client.ask() == RegisterAnswered(1, False, b"seat", b"view", ORIGIN)
        path, headers, body = server.requests[0]
        assert path == "/v3/kv/txn"
        assert headers["host"] == f"{HOST}:{server.endpoint.port}"
        assert "authorization" not in headers
        keys = [b64decode(one["request_range"]["key"]) for one in body["success"]]
        assert keys == [b"/kv/kv1/seat", b"/kv/kv1/view"]
        assert set(body) == {"success"}

    def test_a_swap_compares_the_value_of_the_seat(self, asked: Make) -> None:
        client, server = asked(answer({"header": HEADER, "succeeded": True, "responses": [{}]}))
        assert client.ask(AskRegister(7, b"old", b"new", b"view")) == RegisterAnswered(7, True, None, None, ORIGIN)
        body = server.requests[0][2]
        (compare,) = body["compare"]
        assert (compare["target"], compare["result"], compare["value"]) == ("VALUE", "EQUAL", text(b"old"))
        assert [one["request_put"]["value"] for one in body["success"]] == [text(b"new"), text(b"view")]
        assert len(body["failure"]) == 2

    def test_where_there_is_to_be_none_it_compares_that(self, asked: Make) -> None:
        client, server = asked(answer({"header": HEADER, "responses": held(b"other", b"view")}))
        assert client.ask(AskRegister(7, None, b"new", None)) == RegisterAnswered(7, False, b"other", b"view", ORIGIN)
        body = server.requests[0][2]
        assert body["compare"][0]["target"] == "CREATE"
        assert len(body["success"]) == 1

    def test_what_is_empty(self, asked: Make) -> None:
        client, _ = asked(answer({"header": HEADER, "succeeded": True, "responses": held(None, None)}))
        assert client.ask() == RegisterAnswered(1, False, None, None, ORIGIN)

    def test_one_connection_serves_many(self, asked: Make) -> None:
        one = answer({"header": HEADER, "responses": held(b"s", b"v")})
        client, server = asked(one, one, one)
        for _ in range(3):
            assert isinstance(client.ask(), RegisterAnswered)
        assert server.connections == 1
        assert client.etcd._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "a request leaves at once"
        assert (client.etcd.requests, client.etcd.failures) == (3, 0)

    def test_unless_the_server_closes_it(self, asked: Make) -> None:
        one = answer({"header": HEADER, "responses": held(b"s", b"v")}, more="Connection: close\r\n")
        client, _ = asked(one, b"", one)
        assert isinstance(client.ask(), RegisterAnswered)
        assert client.why().endswith("may want https://, or a user (--etcd-user-file)")
        assert isinstance(client.ask(), RegisterAnswered)

    def test_or_ends(self, asked: Make) -> None:
        """Nothing is wrong then with what was asked."""
        one = answer({"header": HEADER, "responses": held(b"s", b"v")})
        client, _ = asked(one, b"")
        assert isinstance(client.ask(), RegisterAnswered)
        assert client.why().endswith("it has closed the connection")

    def test_an_answer_in_chunks(self, asked: Make) -> None:
        body = json.dumps({"header": HEADER, "responses": held(b"s", b"v")}).encode()
        parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        client, _ = asked(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n")
        assert isinstance(client.ask(), RegisterAnswered)


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "word"),
        [
            (b"", "closed the connection without an answer: it may want https://, or a user"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "no JSON"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no JSON"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000, "more than"),
            (answer({}), "not etcd's"),
            (answer({"header": HEADER}), "not etcd's"),
            (answer({"header": {"cluster_id": "x"}, "responses": held(b"s", b"v")}), "not etcd's"),
            (answer({"header": {"cluster_id": -1}, "responses": held(b"s", b"v")}), "not etcd's"),
            (answer({"header": {"cluster_id": str(1 << 64)}, "responses": held(b"s", b"v")}), "not etcd's"),
            (answer({"header": {"cluster_id": inf}, "responses": held(b"s", b"v")}), "not etcd's"),
            (answer({"header": HEADER, "responses": held(b"s")}), "not etcd's"),
            (answer({"header": HEADER, "responses": held(b"s", b"v", b"w")}), "not etcd's"),
            (answer({"header": HEADER, "responses": [None, None]}), "not etcd's"),
            (
                answer({"header": HEADER, "responses": [{"response_range": {"kvs": [{"value": "?"}]}}] * 2}),
                "not etcd's",
            ),
            (
                answer({"message": "etcdserver: no leader", "code": 14}, "503 Service Unavailable"),
                ": no leader (status",
            ),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n404 page not found", "etcd listens for clients"),
            (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 999\r\n\r\n" + b"\xff\n" * 333 + b"x" * 333, "no JSON: "),
            (answer({"error": "etcdserver: mvcc: database space exceeded"}, "429 Too Many"), "have etcd compact"),
            (answer({"message": "etcdserver: permission denied"}, "403 Forbidden"), "write of the prefix /kv/kv1/,"),
            (answer({"error": "x" * 999}, "500 Internal Server Error"), "x" * 180),
            (answer({"message": "\ud800\n"}, "500 Internal Server Error"), "\\ud800\\n (status 500)"),
            (answer({"message": ["x"]}, "500 Internal Server Error"), "no reason (status 500)"),
            (b"HTTP/1.1 " + b"\xff" * 9000 + b"\r\n\r\n", "no HTTP"),
            (b"HTTP/1.1 200 " + b"x" * 90_000 + b"\r\n\r\n", "no HTTP"),
            (answer({}, "418 I'm a teapot"), "no reason (status 418)"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "more than"),
        ],
    )
    def test_no_answer(self, asked: Make, given: bytes, word: str) -> None:
        client, _ = asked(given)
        why = client.why()
        assert word in why
        assert len(why) < 400
        assert client.etcd.failures == 1

    @pytest.mark.usefixtures("in_time")
    def test_nothing_in_time(self, asked: Make) -> None:
        client, _ = asked(b"HTTP/1.1 200 OK\r\n")
        assert "nothing within 1 s" in client.why()

    def test_the_next_endpoint_is_asked_the_next_time(self, loop: GeventLoop) -> None:
        dead = [Server(), Server()]
        for one in dead:
            one.close()
        with closing(Server(answer({"header": HEADER, "responses": held(b"s", b"v")}))) as server:
            client = Client(loop, *(one.endpoint for one in dead), server.endpoint)
            for one in dead:
                assert str(one.endpoint) in client.why()
            assert isinstance(client.ask(), RegisterAnswered)
            assert str(server.endpoint) in client.why()
            assert str(dead[0].endpoint) in client.why(), "the first, after the last"
            assert (client.etcd.requests, client.etcd.failures) == (5, 4)

    def test_a_connection_that_does_not_come_about_is_closed(
        self, loop: GeventLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Any] = []
        kind = gevent.socket.socket
        monkeypatch.setattr(gevent.socket, "socket", lambda *given: made.append(kind(*given)) or made[-1])
        assert "Connection refused" in Client(loop, Endpoint(HOST, free_port(), False)).why()
        assert [one.closed for one in made] == [True]

    def test_a_name_without_an_address_is_no_answer_and_no_fault_of_the_nodes(self, loop: GeventLoop) -> None:
        """gevent's own way to look one up has the loop end the process."""
        client = Client(loop, Endpoint("no-such.invalid", 1, False))
        assert "http://no-such.invalid:1: its name has no address: " in client.why()

    @pytest.mark.parametrize("found", [["127.0.0.9", HOST], [HOST]])
    def test_a_name_with_several_addresses(self, loop: GeventLoop, found: list[str]) -> None:
        """Of which one answers."""
        one = answer({"header": HEADER, "responses": held(b"s", b"v")})
        with closing(Server(one)) as server:
            client = Client(loop, Endpoint("etcd", server.endpoint.port, False), look_up=lambda host: found)
            asked = [client.ask() for _ in found]
            assert isinstance(asked[-1], RegisterAnswered)
            assert server.requests[0][1]["host"] == f"etcd:{server.endpoint.port}"

    def test_a_stopped_client_says_no_more(self, asked: Make) -> None:
        client, _ = asked(answer({"header": HEADER, "responses": held(b"s", b"v")}))
        client.ask()
        connection = client.etcd._socket
        client.etcd.stop()
        assert connection.closed
        client.etcd.stop()


class TestUser:
    OK = answer({"header": HEADER, "responses": held(b"s", b"v")})

    def test_a_token_is_asked_for_once(self, asked: Make) -> None:
        client, server = asked(answer({"token": "tok.1"}), self.OK, self.OK, credentials=Credentials("kv", "secret"))
        for _ in range(2):
            assert isinstance(client.ask(), RegisterAnswered)
        assert [path for path, _, _ in server.requests] == ["/v3/auth/authenticate", "/v3/kv/txn", "/v3/kv/txn"]
        assert server.requests[0][2] == {"name": "kv", "password": "secret"}
        assert [headers.get("authorization") for _, headers, _ in server.requests] == [None, "tok.1", "tok.1"]

    @pytest.mark.parametrize(
        "expired", [answer({"message": "etcdserver: invalid auth token", "code": 16}, "401 Unauthorized"), b""]
    )
    def test_and_again_when_it_is_not_taken(self, asked: Make, expired: bytes) -> None:
        """Some releases of etcd just close the connection then."""
        tokens = [answer({"token": "tok.1"}), answer({"token": "tok.2"})]
        client, server = asked(tokens[0], self.OK, expired, tokens[1], self.OK, credentials=Credentials("kv", "s"))
        assert isinstance(client.ask(), RegisterAnswered)
        assert isinstance(client.ask(), RegisterFailed)
        assert isinstance(client.ask(), RegisterAnswered)
        assert server.requests[-1][1]["authorization"] == "tok.2"

    def test_another_password_is_gone_by_when_that_is_said(self, asked: Make, tmp_path: Path) -> None:
        """Over another connection, with a token of its own."""
        file = tmp_path / "user"
        file.write_text("kv:first\n")
        tokens = [answer({"token": "tok.1"}), answer({"token": "tok.2"})]
        given = (tokens[0], self.OK, self.OK, tokens[1], self.OK, self.OK)
        client, server = asked(*given, credentials=read_credentials(str(file)))
        client.ask()
        file.write_text("kv:second\n")
        go_over = client.etcd.reread()
        client.ask()
        assert go_over() == "user-file"
        client.ask()
        assert client.etcd.reread()() == "", "it is the same again"
        client.ask()
        assert not client.etcd.failures
        assert server.connections == 2
        proofs = [body["password"] for path, _, body in server.requests if path == "/v3/auth/authenticate"]
        assert proofs == ["first", "second"]
        headers = [one.get("authorization") for path, one, _ in server.requests if path == "/v3/kv/txn"]
        assert headers == ["tok.1", "tok.1", "tok.2", "tok.2"]

    @pytest.mark.parametrize("given", [{}, {"token": 5}, {"token": ""}, {"token": "a\nb"}, {"token": " a"}])
    def test_no_token(self, asked: Make, given: dict[str, Any]) -> None:
        client, _ = asked(answer(given), credentials=Credentials("kv", "secret"))
        assert "no token" in client.why()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Certificates and keys: of etcd's and a node's, by the right authority, too old, and by another."""
    directory, other = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("others")
    authority = Authority(directory)
    return {
        "ca": (authority.certificate, Path()),
        "good": authority.sign("good"),
        "expired": authority.sign("expired", is_expired=True),
        "other": Authority(other, "other").sign("etcd"),
    }


class TestTls:
    @pytest.mark.usefixtures("in_time")
    def test_an_etcd_that_says_nothing_holds_up_nobody(self, loop: GeventLoop) -> None:
        with socket.create_server((HOST, 0)) as silent:
            end = threading.Timer(5.0, silent.shutdown, (socket.SHUT_RDWR,))  # should the loop wait for it
            end.start()
            client = Client(loop, Endpoint(HOST, silent.getsockname()[1], True))
            client.etcd.ask(READ)
            turns = 0
            while not client.taken:
                gevent.sleep(0.001)
                turns += 1
            end.cancel()
            assert turns > 10
            assert "nothing within 1 s" in str(client.taken[0])

    @pytest.mark.parametrize(
        ("of_etcd", "host", "word"),
        [
            ("good", HOST, ""),
            ("expired", HOST, "certificate has expired: etcd's own is to be renewed"),
            ("other", HOST, "issuer certificate: whoever has signed it must be in --etcd-ca-file"),
            ("good", "localhost", "not valid for 'localhost'.: etcd's own must have the name"),
        ],
    )
    def test_etcds_certificate(
        self, loop: GeventLoop, signed: dict[str, tuple[Path, Path]], of_etcd: str, host: str, word: str
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*signed[of_etcd])
        self.assert_says(loop, context, host, Certificates(str(signed["ca"][0])), word)

    @pytest.mark.parametrize(
        ("of_node", "word"),
        [
            ("good", ""),
            ("", "certificate required: it takes no certificate of this node's, or not this one"),
            ("expired", "certificate expired: it takes no certificate of this node's, or not this one"),
            ("other", "unknown ca: it takes no certificate of this node's, or not this one"),
        ],
    )
    def test_the_nodes_certificate(
        self, loop: GeventLoop, signed: dict[str, tuple[Path, Path]], of_node: str, word: str
    ) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=signed["ca"][0])
        context.load_cert_chain(*signed["good"])
        context.verify_mode = ssl.CERT_REQUIRED
        own = map(str, signed[of_node]) if of_node else ()
        self.assert_says(loop, context, HOST, Certificates(str(signed["ca"][0]), *own), word)

    def assert_says(
        self, loop: GeventLoop, context: ssl.SSLContext, host: str, certificates: Certificates, word: str
    ) -> None:
        """What is wrong; nothing: it is answered."""
        with closing(Server(answer({"header": HEADER, "responses": held(b"s", b"v")}), context=context)) as server:
            endpoint = Endpoint(host, server.endpoint.port, True)
            answered = Client(loop, endpoint, certificates=certificates, look_up=lambda host: [HOST]).ask()
            assert (answered.why if isinstance(answered, RegisterFailed) else "").count(word)
            assert isinstance(answered, RegisterFailed) == bool(word)


@pytest.mark.skipif(real.PROGRAM is None, reason=real.ABSENT)
def test_a_real_one(loop: GeventLoop, tmp_path: Path) -> None:
    with real.etcd(tmp_path) as (member,):
        client = Client(loop, Endpoint(HOST, member.port, False))
        empty = client.ask()
        assert isinstance(empty, RegisterAnswered)
        assert (empty.is_taken, empty.seat, empty.view) == (False, None, None)
        view = bytes(range(256)) * 60
        steps = [
            (AskRegister(2, b"x", b"a", None), (False, None, None)),
            (AskRegister(3, None, b"a", view), (True, None, None)),
            (AskRegister(4, None, b"b", b""), (False, b"a", view)),
            (AskRegister(5, b"a", b"b", None), (True, None, None)),
            (READ, (False, b"b", view)),
        ]
        for asked, expected in steps:
            answered = client.ask(asked)
            assert isinstance(answered, RegisterAnswered)
            assert (answered.is_taken, answered.seat, answered.view) == expected
            assert answered.origin == empty.origin
