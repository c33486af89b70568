"""What the page shows besides the present: changes of view, the last minutes, and what other members say."""

from collections.abc import Iterator

import pytest

from app.cluster.membership.planner import first_view
from app.cluster.view import Member, View
from app.http import watch as watching
from app.http.status import copies_missing
from app.http.watch import ANSWER_STALE_S, CHANGES_MAX, SHOWN, Watch
from app.observe.counters import FORWARDED, IN_TURN
from app.wire.protocol import NO_ERR, PUT, TYPE_REQUEST, TYPE_RESPONSE, VITALS
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.http.running import Running, running
from tests.wire.datagrams import envelope


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    with running() as node:
        yield node


@pytest.fixture
def watch(node: Running) -> Watch:
    """A fresh one, that watches by itself nothing."""
    watch = Watch(node.node)
    node.node.membership.on_view.remove(watch.note_view)
    return watch


def view_of(epoch: int, *incarnations: int) -> View:
    members = [Member(f"10.0.0.{place}:1", incarnation) for place, incarnation in enumerate(incarnations)]
    view = first_view([member for member in members if member.incarnation], 7, 3, 1)
    return View(7, epoch, view.members, view.primaries, view.backups, view.homes, f"cause {epoch}")


def test_a_change_tells_who_came_and_went_and_how_much_moved(watch: Watch) -> None:
    first, second, third = view_of(1, 5, 6), view_of(2, 5, 0), view_of(3, 5, 8)
    for view in (first, second, third):
        watch.note_view(view, True)
    told = [(change.epoch, change.cause, change.came, change.went, change.moved) for change in watch.changes]
    its_slots = first.masks["10.0.0.1:1"].bit_count()
    assert told == [
        (1, "cause 1", ("10.0.0.0:1", "10.0.0.1:1"), (), 0),
        (2, "cause 2", (), ("10.0.0.1:1",), its_slots),
        (3, "cause 3", ("10.0.0.1:1",), (), its_slots),
    ]


def test_a_restart_within_one_view_shows_as_going_and_coming(watch: Watch) -> None:
    watch.note_view(view_of(1, 5, 6), True)
    watch.note_view(view_of(2, 5, 9), False)
    change = watch.changes[-1]
    assert (change.came, change.went, change.is_member) == (("10.0.0.1:1",), ("10.0.0.1:1",), False)


def test_changes_are_bounded(watch: Watch) -> None:
    for epoch in range(1, CHANGES_MAX + 11):
        watch.note_view(view_of(epoch, 5), True)
    assert [change.epoch for change in watch.changes] == list(range(11, CHANGES_MAX + 11))


@pytest.mark.parametrize(("members", "missing"), [(1, 512), (2, 256), (3, 0), (4, 0)])
def test_copies_missing_are_those_short_of_what_is_wanted(members: int, missing: int) -> None:
    assert copies_missing(view_of(1, *range(1, members + 1)), 3) == missing


def test_a_sample_is_the_rate_and_the_99th_percentile_since_the_last_one(
    watch: Watch, node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    counters, now_s, naps = node.node.counters, 100.0, 0

    def nap(duration_s: float) -> None:
        """Two seconds with requests, two without, and no more."""
        nonlocal now_s, naps
        naps += 1
        now_s += 2.0
        if naps == 3:
            raise Enough
        if naps == 1:
            counters.answers[PUT * 8 + NO_ERR] += 98
            counters.latency[IN_TURN].add(0.0001, 98)
            counters.latency[FORWARDED].add(0.04, 2)

    monkeypatch.setattr(watching.gevent, "sleep", nap)
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    with pytest.raises(Enough):
        watch._sample()
    assert list(watch.rates) == [50.0, 0.0]
    p99_s, none = watch.p99_s
    assert p99_s == pytest.approx(0.0375)  # halfway in its bucket, 25 to 50 ms
    assert none is None


# --- the other members -----------------------------------------------------------------------------------------------


def said(value: bytes) -> bytes:
    return KVResponse(errCode=NO_ERR, value=value).SerializeToString()


def test_the_question_is_one_that_any_client_could_ask() -> None:
    msg = Msg.FromString(watching._request(b"m" * 16))
    assert msg.SerializeToString() == envelope(b"m" * 16, msg.payload)
    assert KVRequest.FromString(msg.payload) == KVRequest(command=VITALS)


def test_a_node_says_what_the_page_shows(node: Running) -> None:
    message_id, told = watching._answer(node.datagram(watching._request(b"m" * 16)))
    assert message_id == b"m" * 16
    assert set(SHOWN) <= set(told)


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


def test_of_an_answer_only_numbers_are_kept_and_it_ages(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(watching.gevent, "spawn", lambda *arguments: watching.gevent.Greenlet())
    watch._note_answer("a:1", {"entries": 7, "requests": 100, "http_port": "<script>", "resident_bytes": True, "x": 1})
    answer = watch.members()["a:1"]
    assert (answer.vitals, answer.rate) == ({"entries": 7, "requests": 100}, None)
    now_s += 2.0
    watch._note_answer("a:1", {"requests": 300})
    assert watch.members()["a:1"].rate == 100.0
    now_s += 1.0
    watch._note_answer("a:1", {"requests": 5})  # it has restarted
    assert watch.members()["a:1"].rate == 0.0
    now_s += ANSWER_STALE_S
    assert watch.members() == {}


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


def test_a_node_that_is_not_a_member_of_anything_asks_nobody(watch: Watch) -> None:
    watch._ask()
    assert watch.answers == {}
