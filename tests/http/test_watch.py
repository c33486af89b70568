"""What the page shows besides the present: the last minutes, and what other members say."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import gevent
import pytest
from gevent import socket as gevent_socket

from app.cluster.membership.planner import first_view
from app.cluster.view import Member, View
from app.config.servers import Server
from app.http import watch as watching
from app.http.figures import NUMBERS, OPERATIONS
from app.http.share import Share
from app.http.watch import ANSWER_STALE_S, SAMPLES_MAX, Watch
from app.observe.counters import FORWARDED, IN_TURN
from app.observe.logs import limited_logger
from app.wire.protocol import NO_ERR, PADDING_BYTES, PUT, SERVERS_MAX, TYPE_REQUEST, TYPE_RESPONSE, VITALS
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.http.running import Running, running
from tests.support.polling import poll_in_loop
from tests.wire.datagrams import envelope


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    with running() as node:
        yield node


@pytest.fixture
def watch(node: Running) -> Watch:
    """A fresh one, that watches by itself nothing."""
    return Watch(node.node, Share(node.node.loop))


def view_of(epoch: int, *incarnations: int) -> View:
    members = [Member(f"10.0.0.{place}:1", incarnation) for place, incarnation in enumerate(incarnations)]
    view = first_view([member for member in members if member.incarnation], 7, 3, 1)
    return View(7, epoch, view.members, view.primaries, view.backups, view.homes, f"cause {epoch}")


def test_a_sample_is_the_rate_and_the_99th_percentile_since_the_last_one(
    watch: Watch, node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    counters = node.node.counters
    watch.sample()
    assert list(watch.rates) == [], "there is nothing yet that it could be compared with"
    counters.answers[PUT * 8 + NO_ERR] += 98
    counters.latency[IN_TURN].add(0.0001, 98)
    counters.latency[FORWARDED].add(0.04, 2)
    for _ in range(2):  # two seconds with requests, two without
        now_s += 2.0
        watch.sample()
    assert list(watch.rates) == [50.0, 0.0]
    p99_s, none = watch.p99_s
    assert p99_s == pytest.approx(0.0375)  # halfway in its bucket, 25 to 50 ms
    assert none is None


def test_samples_of_three_minutes_are_kept(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    for _ in range(250):
        watch.sample()
        now_s += 1.0
    assert len(watch.rates) == len(watch.p99_s) == 180


# --- what goes wrong in it -------------------------------------------------------------------------------------------


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What is logged of faults from now on: level and event."""
    monkeypatch.setattr(watching, "_faults", limited_logger("http"))  # with its limit not reached
    return lambda: [(record.levelname, record.msg) for record in caplog.records if record.name == "http"]


def fail_once(monkeypatch: pytest.MonkeyPatch, target: str, error: Exception) -> None:
    whole = attrgetter(target)(watching)
    errors = [error]

    def fail_or_do(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return whole(*arguments, **named)

    monkeypatch.setattr(f"app.http.watch.{target}", fail_or_do)


def test_a_sample_that_fails_is_logged_and_the_next_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    monkeypatch.setattr(watching, "SAMPLE_S", 0.001)
    fail_once(monkeypatch, "quantile_s", AssertionError("on purpose"))
    with running() as node:  # in which a fault that reaches the hub fails the test
        poll_in_loop(lambda: node.ask("/status.json").json()["history"]["rate"])
    assert logged() == [("ERROR", "http.sample_failed")]


@pytest.mark.parametrize(
    ("error", "level"), [(OSError(24, "Too many open files"), "WARNING"), (AssertionError("on purpose"), "ERROR")]
)
def test_asking_that_fails_is_logged_and_tried_again(
    error: Exception,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[tuple[str, str]]],
) -> None:
    monkeypatch.setattr(watching, "ASK_EVERY_S", 0.0)
    fail_once(monkeypatch, "Watch._ask_members", error)
    with running() as node:
        node.ask("/status.json")
        poll_in_loop(logged)
        node.ask("/status.json")
        assert node.ask("/health").status == 200
    assert logged() == [(level, "http.ask_failed")]


# --- the other members -----------------------------------------------------------------------------------------------


def said(value: bytes) -> bytes:
    return KVResponse(errCode=NO_ERR, value=value).SerializeToString()


def test_the_question_is_one_that_any_client_could_ask() -> None:
    msg = Msg.FromString(watching._request(b"m" * 16))
    assert msg.SerializeToString() == envelope(b"m" * 16, msg.payload)
    assert KVRequest.FromString(msg.payload) == KVRequest(command=VITALS, value=bytes(PADDING_BYTES))


def test_a_node_says_what_the_page_shows(node: Running) -> None:
    message_id, told = watching._answer(node.datagram(watching._request(b"m" * 16)))
    assert message_id == b"m" * 16
    assert set(NUMBERS) - {"http_port"} <= set(told)
    assert "commands" in told
    assert sum(told["durations"]) >= 0
    assert set(OPERATIONS) <= set(node.node.counters.by_command())


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xff" * 30,
        envelope(b"m" * 16, said(b"{}"), TYPE_RESPONSE, flip=1),
        envelope(b"m" * 16, said(b'{"entries":1}'), TYPE_REQUEST),
        envelope(b"m" * 16, b"\xff", TYPE_RESPONSE),
        envelope(b"m" * 16, said(b""), TYPE_RESPONSE),
        envelope(b"m" * 16, said(b"\xff\xfe"), TYPE_RESPONSE),
        envelope(b"m" * 16, said(b"[1]"), TYPE_RESPONSE),
        envelope(b"m" * 16, said(b"[" * 9000), TYPE_RESPONSE),
        envelope(b"m" * 16, KVResponse(errCode=5).SerializeToString(), TYPE_RESPONSE),
    ],
)
def test_what_is_no_answer_says_nothing(datagram: bytes) -> None:
    assert watching._answer(datagram)[1] == {}


def test_what_a_member_said_ages(watch: Watch, node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(watching.gevent, "spawn", lambda *arguments: watching.gevent.Greenlet())
    me = str(node.node.options.me)
    watch._note_answer("a:1", {"pid": 1, "entries": 7, "commands": {"GET": 100}})
    assert set(watch.members()) == {me, "a:1"}, "the node tells itself"
    assert watch.members()["a:1"].lately is None
    now_s += 2.0
    watch._note_answer("a:1", {"pid": 1, "commands": {"GET": 300, "VITALS": 9}})
    lately = watch.members()["a:1"].lately
    assert lately is not None
    assert lately.rates == (100.0, 0.0, 0.0)
    now_s += ANSWER_STALE_S
    assert set(watch.members()) == {me}


def test_others_are_asked_once_a_second_at_most(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, asked = 1000.0, []
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(watching.gevent, "spawn", lambda function: asked.append(function) or watching.gevent.Greenlet())
    for _ in range(5):
        watch.members()
    assert len(asked) == 1
    now_s += 1.0
    watch.members()
    assert len(asked) == 2


STATUS_MAX_BYTES = 64 << 10  # of /status.json in the largest cluster, with ordinary names: docs/monitoring.md
QUESTION_MAX_BYTES = 1280  # fits any network's packet


def test_in_the_largest_cluster_each_member_is_asked_once_however_many_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ASK_EVERY_S", 1000.0)  # one round of questions, and time for all answers to it
    monkeypatch.setattr(watching, "ASK_TIMEOUT_S", 1000.0)
    monkeypatch.setattr(watching, "ANSWER_STALE_S", 1000.0)
    asked: dict[str, list[bytes]] = {}
    with running(others=SERVERS_MAX - 1) as node, ExitStack() as peers:
        servers = node.node.options.servers
        node.node.membership.stop()  # it goes by this view from now on, whoever is there
        view = first_view([Member(str(server), 1 << 50) for server in servers], 1 << 50, 3)
        node.node.membership.core._state.view = view
        watch = node.http._watch
        watch.rates.extend([123_456.7] * SAMPLES_MAX)
        watch.p99_s.extend([0.123456] * SAMPLES_MAX)
        for server in servers[1:]:
            peers.enter_context(answering(node, server, asked.setdefault(str(server), [])))
        poll_in_loop(lambda: node.ask("/status.json").json()["total"]["answered"] == SERVERS_MAX)
        body = node.ask("/status.json").body
    assert [len(questions) for questions in asked.values()] == [1] * (SERVERS_MAX - 1)
    assert max(len(questions[0]) for questions in asked.values()) <= QUESTION_MAX_BYTES
    assert len(body) <= STATUS_MAX_BYTES


@contextmanager
def answering(node: Running, server: Server, asked: list[bytes]) -> Iterator[None]:
    """A member there: keeps what it is asked, and tells what this node would. What is between nodes it ignores."""
    with gevent_socket.socket(gevent_socket.AF_INET, gevent_socket.SOCK_DGRAM) as sock:
        sock.bind((server.address, server.port))

        def serve() -> None:
            while True:
                datagram, sender = sock.recvfrom(65_535)
                msg = Msg.FromString(datagram)
                if msg.type == TYPE_REQUEST:
                    asked.append(datagram)
                    told = json.dumps(node.node.figures()).encode()
                    sock.sendto(envelope(msg.messageID, said(told), TYPE_RESPONSE), sender)

        serving = gevent.spawn(serve)
        try:
            yield
        finally:
            serving.kill()


def test_a_node_that_is_not_a_member_of_anything_asks_nobody(watch: Watch) -> None:
    watch._ask()
    assert watch.answers == {}
