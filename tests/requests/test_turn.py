"""The turn of the loop: its time, whether this node may serve in it, and what its end does in which order."""

from typing import Any

import pytest

from app.cluster.events import SELF, UNKNOWN
from app.cluster.membership.planner import first_view
from app.cluster.view import Member
from app.requests.turn import Turn
from app.wire.protocol import GET, NO_ERR, PUT, SLOT_COUNT, slot_of
from tests.support.loop import ManualLoop
from tests.support.parts import BATCH_SIZE, CLIENT, Net, Parts, Surroundings
from tests.wire.datagrams import request, response

KEY = b"key"


class Turning:
    """A turn by itself, and what it calls."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.lease = Surroundings(1)
        self.lease.lease_until = self.loop.now_s + 10
        self.routes = ["peer"] * SLOT_COUNT
        self.calls: list[str] = []
        self.in_end: list[Any] = []  # to be called by the next end
        self.after_close: list[Any] = []  # by its last step
        self.turn = Turn(self.loop, self.lease, self.routes, end=self._end)

    def _end(self) -> None:
        self.calls.append("end")
        while self.in_end:
            self.in_end.pop()()
        self.turn.close()
        while self.after_close:
            self.after_close.pop()()

    def pass_time(self, seconds: float) -> None:
        self.loop.now_s += seconds


@pytest.fixture
def turning() -> Turning:
    return Turning()


def test_before_the_first_turn_nothing_is_served(turning: Turning) -> None:
    turn = turning.turn
    assert (turn.serving, turn.may_forward) == (False, False)
    assert turn.routes == [UNKNOWN] * SLOT_COUNT
    assert not turn.lease_ran_out()
    turning.pass_time(20.0)
    assert not turn.lease_ran_out(), "nothing was executed under it"


def test_within_the_lease_requests_go_by_the_routes(turning: Turning) -> None:
    turn = turning.turn
    turning.pass_time(0.25)
    turn.open()
    assert (turn.serving, turn.may_forward, turn.now_s) == (True, True, turning.loop.now_s)
    assert turn.routes is turning.routes, "changes show at once"


@pytest.mark.parametrize("late_s", [0.0, 0.25])
def test_a_member_without_a_lease_serves_and_forwards_nothing(turning: Turning, late_s: float) -> None:
    turn = turning.turn
    turning.lease.lease_until = turning.loop.now_s - late_s
    turn.open()
    assert (turn.serving, turn.may_forward) == (False, False)
    assert turn.routes == [UNKNOWN] * SLOT_COUNT


def test_an_outsider_forwards_by_what_it_observes(turning: Turning) -> None:
    turning.lease.lease_until = -1.0
    turning.lease.is_member = False
    turning.turn.open()
    assert (turning.turn.serving, turning.turn.may_forward) == (False, True)


def test_what_was_executed_under_a_lease_must_leave_under_it(turning: Turning) -> None:
    turn = turning.turn
    turn.open()
    assert not turn.lease_ran_out()
    turning.lease.lease_until = turning.loop.now_s + 0.25
    turning.pass_time(0.2)
    assert not turn.lease_ran_out()
    turning.pass_time(0.05)
    assert turn.lease_ran_out()


def test_a_refusal_without_a_lease_may_leave(turning: Turning) -> None:
    turning.lease.lease_until = -1.0
    turning.turn.open()
    assert not turning.turn.lease_ran_out()


def test_what_was_executed_before_the_end_was_called_for_is_still_owed_when_it_comes(turning: Turning) -> None:
    """The end looks at clock and lease anew for those who go on in it; not for those who were executed before."""
    turn = turning.turn
    ran_out: list[bool] = []
    turn.open()
    turn.wake()
    turning.pass_time(10)
    turn.open()  # another read of the same turn
    turning.in_end = [lambda: ran_out.append(turn.lease_ran_out())]
    turning.loop.turn()
    assert ran_out == [True]
    assert not turn.serving
    turn.open()
    assert not turn.lease_ran_out(), "all that has left, or was dropped"


def test_the_end_comes_once_however_often_it_is_called_for(turning: Turning) -> None:
    turn = turning.turn
    for _ in range(3):
        turn.wake()
    assert turning.calls == []
    turning.loop.turn()
    assert turning.calls == ["end"]
    turning.loop.turn()
    assert turning.calls == ["end"]
    turn.wake()
    turning.loop.turn()
    assert turning.calls == ["end"] * 2


def test_what_calls_for_the_end_during_it_is_carried_out_in_it(turning: Turning) -> None:
    turning.in_end = [turning.turn.wake]
    turning.turn.wake()
    turning.loop.turn()
    assert turning.calls == ["end"]


def test_what_calls_for_the_end_after_its_last_step_has_it_come_once_more(turning: Turning) -> None:
    turning.after_close = [turning.turn.wake]
    turning.turn.wake()
    turning.loop.turn()
    assert turning.calls == ["end"] * 2


def test_those_who_go_on_at_the_end_go_by_the_clock_of_then(turning: Turning) -> None:
    seen: list[tuple[float, bool]] = []
    turn = turning.turn
    turn.open()
    turn.wake()
    turning.lease.lease_until = turning.loop.now_s + 0.1
    turning.pass_time(0.125)
    turning.in_end = [lambda: seen.append((turn.now_s, turn.serving))]
    turning.loop.turn()
    assert seen == [(turning.loop.now_s, False)]


def test_where_nobody_waits_for_it_the_end_is_carried_out_at_once(turning: Turning) -> None:
    turning.turn.open()
    turning.turn.end()
    assert turning.calls == ["end"]


# --- the node's end of a turn ---------------------------------------------------------------------------------------


def test_replies_look_at_the_lease_when_the_ring_fills_in_the_middle_of_a_batch() -> None:
    """Laid out one by one, they leave when there is no more room, and not only at the end of the turn."""
    node = Parts()
    front = node.make_front()
    handled = 0
    handle = node.commands.handle

    def slow(asked: object, buffer: bytearray, start: int, end: int) -> bytes | None:
        nonlocal handled
        handled += 1
        if handled == 3:
            node.membership.lease_until = node.loop.now_s
        return handle(asked, buffer, start, end)

    node.commands.handle = slow  # type: ignore[method-assign]
    node.turn.open()
    node.turn.wake()
    for _ in range(BATCH_SIZE - 2):  # so much is left of the ring
        node.batch.send(CLIENT, b"laid out before")
    node.outside.arrived = [(CLIENT, request(b"%016d" % n, command=GET, key=KEY)) for n in range(BATCH_SIZE)]
    front.read()
    assert handled == BATCH_SIZE
    assert node.batch.unfenced == BATCH_SIZE, "the ring was full"
    node.loop.turn()
    assert node.told() == []
    assert node.batch.unfenced == 2 * BATCH_SIZE - 2


@pytest.mark.parametrize("left", [0, 1])
def test_a_batch_larger_than_what_leaves_at_once_is_fenced_as_a_whole(left: int) -> None:
    """The lease runs out while the first answers of a turn are laid out: neither these nor the later ones leave."""
    node = Parts()
    for n in range(BATCH_SIZE + left):
        node.take(request(b"%016d" % n, command=PUT, key=b"%d" % n, value=b"v"))
    node.turn.open()
    for n in range(BATCH_SIZE + left):
        if n == BATCH_SIZE - 1:
            node.membership.lease_until = node.loop.now_s
        node.batch.send(CLIENT, b"%016d" % n)
    node.turn.wake()
    node.loop.turn()
    assert node.told() == []
    assert node.batch.unfenced == BATCH_SIZE + left


def test_the_order_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What copies have, then what has opened, then answers to peers, then to clients, then the links."""
    view = first_view((Member("a", 1), Member("b", 2)), 7, 2)
    net = Net(view)
    a = net["a"]
    calls: list[str] = []

    def noting(name: str, function: Any) -> Any:
        def call(*arguments: object) -> Any:
            calls.append(name)
            return function(*arguments)

        return call

    for target, name in (
        (a.replicator, "settle"),
        (a.forwarding, "sweep"),
        (a.links, "send_all"),
        (a.batch, "flush"),
        (a.links, "flush"),
    ):
        monkeypatch.setattr(target, name, noting(f"{type(target).__name__}.{name}", getattr(target, name)))
    key = next(b"%d" % n for n in range(99) if view.primaries[slot_of(b"%d" % n)] == "a")
    a.set_lease(-1.0)
    a.set_routes(UNKNOWN)
    a.take(request(b"1" * 16, command=GET, key=key))
    a.answers.to_peer("b", b"answer")
    calls.clear()
    a.membership.lease_until = 1e9
    a.set_routes(*(SELF if primary == "a" else primary for primary in view.primaries))
    assert calls[:6] == [
        "Replicator.settle",
        "Forwarding.sweep",
        "Replicator.settle",
        "Links.send_all",
        "DatagramBatch.flush",
        "Links.flush",
    ]
    assert response(a.told()[0][1], b"1" * 16).errCode != NO_ERR
