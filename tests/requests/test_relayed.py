"""What peers send over their links: the order in which it is taken, and the requests in it as a source of their own."""

from math import inf, nan

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.cluster.replication.frames import KINDS
from app.peers.frames import ANSWER, FORWARD, LIFE
from app.requests.request import PATIENCE_S, Request
from app.wire.protocol import GET, KEY_DNE_ERR, NO_ERR, PUT, SYS_OVERLOAD_ERR
from tests.support.parts import Net, Parts, forwarded
from tests.wire.datagrams import ack, request, response

KEY = b"key"
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16


@pytest.fixture
def net() -> Net:
    return Net(names=("owner", "front"))


@pytest.fixture
def owner(net: Net) -> Parts:
    return net["owner"]


def forward(datagram: bytes, hops: int = 1, deadline_s: float = inf) -> tuple[int, bytes]:
    return FORWARD, forwarded(datagram, deadline_s, hops=hops)


def get(message_id: bytes) -> bytes:
    return request(message_id, command=GET, key=KEY)


def put(message_id: bytes) -> bytes:
    return request(message_id, command=PUT, key=KEY, value=b"v")


def answers(net: Net) -> list[tuple[str, bytes, int]]:
    """Receiver, messageID and code of each answer that has left, in order."""
    net.loop.turn()
    taken, net.queue = net.queue, []
    assert {kind for _, _, kind, _ in taken} <= {ANSWER}
    return [(receiver, body[2:18], response(body, body[2:18]).errCode) for _, receiver, _, body in taken]


def test_the_requests_of_one_read_are_answered_in_order(net: Net, owner: Parts) -> None:
    owner.frames("front", [forward(get(ONE)), forward(put(TWO)), forward(ack(TWO)), forward(get(THREE))])
    assert net.queue == [], "answers leave when the turn ends"
    assert answers(net) == [("front", ONE, KEY_DNE_ERR), ("front", TWO, NO_ERR), ("front", THREE, NO_ERR)]
    assert len(owner.replies) == 0


def test_requests_come_after_the_rest(net: Net, owner: Parts) -> None:
    """An answer may free the place that a request needs, and what concerns copies must keep its order."""
    calls: list[object] = []
    owner.forwarding.answer = lambda peer, replies: calls.append((ANSWER, *replies))  # type: ignore[method-assign]
    owner.relayed._on_other = lambda peer, kind, body: calls.append((peer, kind, body))
    handle = owner.relayed._handle
    owner.relayed._handle = lambda *arguments: calls.append(FORWARD) or handle(*arguments)  # type: ignore[func-returns-value]
    kinds = [LIFE, KINDS[0], KINDS[-1], 99]
    frames = [(kind, b"%d" % kind) for kind in kinds]
    owner.frames("front", [forward(get(ONE)), *frames, (ANSWER, b"an answer"), forward(get(TWO))])
    assert calls == [*(("front", kind, b"%d" % kind) for kind in kinds), (ANSWER, b"an answer"), FORWARD, FORWARD]


def test_whatever_has_come_the_turns_end_comes(net: Net, owner: Parts) -> None:
    """What it brings about for copies, or for membership, is to leave."""
    assert not owner.turn.is_ending
    owner.relayed.on_frames("front", [])
    assert owner.turn.is_ending


def test_one_object_serves_the_requests_of_all_reads(net: Net, owner: Parts) -> None:
    used: list[Request] = []
    handle = owner.relayed._handle

    def noting(asked: Request, *arguments: object) -> bytes | None:
        used.append(asked)
        return handle(asked, *arguments)

    owner.relayed._handle = noting
    for _ in range(2):
        owner.frames("front", [forward(get(ONE)), forward(put(TWO))])
    assert len(used) == 4
    assert len(set(map(id, used))) == 1


@pytest.mark.parametrize(
    ("left_s", "is_executed"), [(0.001, True), (0.0, False), (-0.001, False), (-1e9, False), (nan, False)]
)
def test_what_comes_past_its_deadline_is_not_executed(net: Net, owner: Parts, left_s: float, is_executed: bool) -> None:
    late = forward(put(ONE), deadline_s=net.loop.now_s + left_s)
    owner.frames("front", [late, forward(get(TWO))])
    expected = [("front", ONE, NO_ERR), ("front", TWO, NO_ERR)] if is_executed else [("front", TWO, KEY_DNE_ERR)]
    assert answers(net) == expected
    assert owner.drops() == ({} if is_executed else {"too_old": 1})
    assert len(owner.store) == is_executed


@pytest.mark.parametrize(("hops", "reason"), [(0, "unparsable"), (1, "too_old"), (3, "too_old"), (4, "unparsable")])
def test_what_is_not_executed_is_counted_by_its_reason(net: Net, owner: Parts, hops: int, reason: str) -> None:
    for count in (1, 2):
        owner.frames("front", [forward(put(ONE), hops, net.loop.now_s)])
        assert owner.drops() == {reason: count}


def test_one_that_waits_does_not_hold_up_the_rest(net: Net, owner: Parts) -> None:
    owner.set_routes(UNKNOWN)
    owner.frames("front", [forward(get(ONE)), forward(request(TWO, command=GET, key=b"")), forward(get(THREE))])
    assert owner.waiting.count == 2
    assert [code for _, _, code in answers(net)] != []
    owner.set_routes(SELF)
    assert answers(net) == [("front", ONE, KEY_DNE_ERR), ("front", THREE, KEY_DNE_ERR)]


def test_requests_that_wait_keep_who_forwarded_them(net: Net, owner: Parts) -> None:
    owner.frames("front", [forward(put(b"0" * 16))])  # the object that served this one serves for the next
    answers(net)
    owner.set_routes(UNKNOWN)
    owner.links.add("other")
    owner.frames("front", [forward(get(ONE)), forward(get(TWO))])
    owner.frames("other", [forward(get(THREE))])
    owner.set_routes(SELF)
    assert sorted(answers(net)) == [("front", ONE, NO_ERR), ("front", TWO, NO_ERR), ("other", THREE, NO_ERR)]


def test_what_joined_another_leaves_nothing_to_the_next(net: Net, owner: Parts) -> None:
    owner.set_routes(UNKNOWN)
    owner.links.add("other")
    owner.frames("front", [forward(put(ONE))])
    owner.frames("other", [forward(put(ONE)), forward(put(TWO))])
    owner.set_routes(SELF)
    assert sorted(answers(net)) == [("other", ONE, NO_ERR), ("other", TWO, NO_ERR)]


@pytest.mark.parametrize(
    ("left_s", "waits_s"),
    [(0.001, 0.001), (0.25, 0.25), (PATIENCE_S, PATIENCE_S), (60.0, PATIENCE_S), (inf, PATIENCE_S)],
)
def test_it_waits_until_its_deadline_and_no_longer_than_any(
    net: Net, owner: Parts, left_s: float, waits_s: float
) -> None:
    owner.set_routes(UNKNOWN)
    net.loop.now_s += 0.125
    owner.frames("front", [forward(get(ONE), deadline_s=net.loop.now_s + left_s)])
    net.loop.now_s += waits_s - 0.0005
    owner.sweep()
    assert answers(net) == []
    net.loop.now_s += 0.0005
    owner.sweep()
    assert answers(net) == [("front", ONE, SYS_OVERLOAD_ERR)]


@pytest.mark.parametrize("hops", [0, 4, 255])
def test_it_has_gone_through_no_other_number_of_nodes(net: Net, owner: Parts, hops: int) -> None:
    owner.frames("front", [forward(get(ONE), hops=hops)])
    assert answers(net) == []
    assert owner.drops() == {"unparsable": 1}


@pytest.mark.parametrize(("hops", "is_refused"), [(1, False), (2, False), (3, True)])
def test_it_goes_on_through_so_many_nodes(net: Net, owner: Parts, hops: int, is_refused: bool) -> None:
    owner.set_routes("front")
    owner.links.add("other")
    owner.frames("other", [forward(get(ONE), hops=hops)])
    net.loop.turn()
    ((_, receiver, kind, body),) = net.queue
    if is_refused:
        assert (receiver, kind, response(body, ONE).errCode) == ("other", ANSWER, SYS_OVERLOAD_ERR)
    else:
        assert (receiver, kind, body[8]) == ("front", FORWARD, hops + 1)
