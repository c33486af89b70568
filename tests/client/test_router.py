"""Where requests go, and how that is learned: no sockets, and a clock that is set by hand."""

import itertools
import queue
import threading
from collections.abc import Callable, Collection

import pytest

from app.client.address import Endpoint, resolve
from app.client.errors import BadServer
from app.client.router import (
    LOOKUP_AGAIN_S,
    LOOKUP_MIN_S,
    NOWHERE,
    PROBE_MAX_S,
    PROBE_MIN_S,
    PROBES_MAX,
    REFRESH_MIN_S,
    REFRESH_S,
    WORD_FRESH_S,
    Router,
    in_a_thread,
)
from app.client.table import Table
from app.wire.protocol import SLOT_COUNT

A, B, C = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"


def table(
    me: str,
    members: list[str],
    epoch: int = 1,
    origin: int = 1,
    is_member: bool = True,
    absent: Collection[str] = (),
) -> Table:
    """Slot s belongs to the member at place s modulo their number."""
    primaries = tuple(members[slot % len(members)] for slot in range(SLOT_COUNT))
    return Table(me, is_member, origin, epoch, primaries, frozenset((*members, *absent)))


def at_once(work: Callable[[], None]) -> None:
    work()


def a_router(*given: str, aside: Callable[[Callable[[], None]], None] = at_once) -> Router:
    return Router([resolve(text) for text in given], slot_aware=True, aside=aside)


def probe(router: Router, now: float) -> set[str]:
    """The names of the servers that are sent a probe."""
    assert router.collect(now) == []
    assert now >= router.wake_at
    targets = router.targets(now)
    assert len(targets) == len(set(targets))
    return {router.servers[index].name for index in targets}


def index_of(router: Router, name: str) -> int:
    (index,) = (index for index, server in enumerate(router.servers) if server.name == name)
    return index


def epoch(router: Router) -> int:
    """Of the table that it goes by."""
    assert router._table is not None
    return router._table.epoch


def primaries(router: Router) -> list[str]:
    """The servers of the slots 0, 1 and 2."""
    return [router.servers[n].name if n != NOWHERE else "" for n in map(router.primary, range(3))]


def test_from_one_server_to_the_whole_cluster() -> None:
    router = a_router(A)
    assert primaries(router) == ["", "", ""]
    assert probe(router, 0.0) == {A}
    assert router.wake_at > 0
    router.learn(0, table(A, [A, B, C]), 0.1)
    assert primaries(router) == [A, "", ""]  # the others have not proved themselves
    assert probe(router, 0.1) == {B, C}
    router.learn(index_of(router, B), table(B, [A, B, C]), 0.2)
    router.learn(index_of(router, C), table(C, [A, B, C]), 0.2)
    assert primaries(router) == [A, B, C]
    asked_at = router.wake_at
    assert len(probe(router, asked_at)) == 1
    assert asked_at + REFRESH_MIN_S <= router.wake_at <= asked_at + REFRESH_S


def test_without_slots_nothing_is_asked() -> None:
    router = Router([resolve(A)], slot_aware=False)
    router.failed(0, 1.0)
    router.doubt(1.0)
    assert router.wake_at == float("inf")


def test_all_given_servers_are_asked_who_they_are_whatever_they_are_called() -> None:
    """As behind published ports: the table's own addresses are of no use, and not needed."""
    router = a_router("127.0.0.1:11", "127.0.0.1:12", "127.0.0.1:13")
    assert len(probe(router, 0.0)) == 3
    for index, member in enumerate(("kv1.invalid:1", "kv2.invalid:1", "kv3.invalid:1")):
        router.learn(index, table(member, ["kv1.invalid:1", "kv2.invalid:1", "kv3.invalid:1"]), 0.1)
    assert primaries(router) == ["127.0.0.1:11", "127.0.0.1:12", "127.0.0.1:13"]
    assert len(router.servers) == 3


def test_a_stranger_at_a_members_address_is_not_used() -> None:
    router = a_router(A)
    probe(router, 0.0)
    router.learn(0, table(A, [A, B]), 0.0)
    probe(router, 0.1)
    router.learn(index_of(router, B), table(B, [B], origin=2, epoch=99), 0.2)
    assert primaries(router) == [A, "", A]
    router.learn(index_of(router, B), None, 0.2)
    router.learn(index_of(router, B), table(B, [A, B], is_member=False), 0.2)
    assert primaries(router) == [A, "", A]


def test_a_cluster_begun_anew_at_a_given_server_is_taken() -> None:
    router = a_router(A)
    probe(router, 0.0)
    router.learn(0, table(A, [A, B], epoch=50), 0.0)
    router.learn(index_of(router, B), table(B, [A, B], epoch=50), 0.0)
    assert primaries(router) == [A, B, A]
    router.learn(0, table(A, [B, A], origin=2, epoch=1), 1.0)
    assert primaries(router) == ["", A, ""]


X = "10.0.9.1:1"
OTHERS = [X, "10.0.9.2:1"]


@pytest.mark.parametrize("first", [0, 1])
def test_given_servers_of_two_clusters_are_in_dispute_whoever_answers_first(first: int) -> None:
    router = a_router(A, X)
    words = [table(A, [A, B]), table(X, OTHERS, origin=2, epoch=99)]
    assert not router.disputed
    router.learn(first, words[first], 0.0)
    assert not router.disputed
    router.learn(1 - first, words[1 - first], 0.1)
    names = [A, X]
    assert router.dispute() == f"{names[1 - first]}: of another cluster than {names[first]}"
    assert primaries(router)[0] == names[first]
    assert (router.others(), router.current, router.next_after(first)) == ([first], first, first)


@pytest.mark.parametrize(("later_s", "is_disputed"), [(WORD_FRESH_S, True), (WORD_FRESH_S + 0.25, False)])
def test_only_who_has_said_so_just_now_disputes_another_cluster(later_s: float, is_disputed: bool) -> None:
    """Whatever the clock shows."""
    router = a_router(A, X)
    router.learn(0, table(A, [A, B]), 1000.0)
    router.learn(1, table(X, OTHERS, origin=2), 1000.0 + later_s)
    assert bool(router.disputed) == is_disputed


def test_a_stranger_among_the_given_servers_is_left_out_while_the_others_are_asked() -> None:
    router = a_router(A, X)
    router.current = 1
    probe(router, 0.0)
    router.learn(0, table(A, [A, B]), 0.0)
    router.learn(1, table(X, OTHERS, origin=2), 50.0)
    assert not router.disputed, "A has not said anything for long: all of it may have been begun anew"
    assert primaries(router)[0] == A
    assert (router.others(), router.current) == ([0], 0)
    router.answered(1)  # what was under way
    assert router.current == 0
    assert probe(router, 50.0) >= {A, X}
    router.learn(0, table(A, [A, B]), 50.1)
    assert router.dispute() == f"{X}: of another cluster than {A}"
    assert probe(router, 50.0 + REFRESH_MIN_S) >= {A, X}, "they are asked as long as it lasts"
    router.learn(1, table(X, [A, X]), 51.0)
    assert not router.disputed
    assert router.others() == [0, 1]


def test_a_cluster_begun_anew_is_gone_over_to_when_no_given_server_is_of_the_former() -> None:
    router = a_router(A, B)
    router.learn(0, table(A, [A, B, C], epoch=50), 0.0)
    router.learn(1, table(B, [A, B, C], epoch=50), 0.0)
    router.learn(0, table(A, [A, B, C], origin=2), 10.0)
    assert (primaries(router)[:2], router.disputed) == (["", B], set())
    router.learn(0, table(A, [A, B, C], origin=2), 10.5)
    assert (primaries(router)[:2], router.disputed) == (["", B], set())
    router.learn(1, table(B, [A, B, C], origin=2), 10.6)
    assert (primaries(router)[:2], router.disputed) == (["", B], set())
    assert epoch(router) == 1
    router.learn(0, table(A, [A, B, C], origin=2), 10.7)
    assert (primaries(router)[:2], router.disputed) == ([A, B], set())


@pytest.mark.parametrize(
    ("word", "is_taken"),
    [
        (table(A, [A, B], origin=2), True),
        (table(C, [C, X], origin=2), True),  # as C, absent, is of the file
        (table(X, [X], origin=2, absent=[B]), True),  # as ours is of theirs
        (table(X, OTHERS, origin=2), False),
    ],
)
def test_without_the_others_only_one_of_the_same_servers_file_is_gone_over_to(word: Table, is_taken: bool) -> None:
    router = a_router(A, B)
    router.learn(1, table(B, [A, B], absent=[C]), 0.0)
    router.failed(1, 1.0)
    for _ in range(3):
        router.learn(0, word, 2.0)
    assert not router.disputed
    assert (router.primary(0) == 0) == is_taken
    assert router.others() == ([0, 1] if is_taken else [1])


def test_when_all_given_servers_are_of_another_cluster_that_is_the_callers() -> None:
    router = a_router(A, B)
    router.learn(0, table(A, [A, B]), 0.0)
    router.learn(1, table(B, [A, B]), 0.0)
    for index in (0, 1, 0):
        router.learn(index, table(OTHERS[index], OTHERS, origin=2), 100.0)
    assert (primaries(router)[:2], router.disputed) == ([A, B], set())


def test_who_fails_disputes_nothing_and_the_others_still_do() -> None:
    router = a_router(A, X, B)
    router.learn(0, table(A, [A]), 0.0)
    router.learn(1, table(X, OTHERS, origin=2), 0.0)
    router.learn(2, table(B, [B], origin=3), 0.0)
    router.failed(1, 1.0)
    assert router.dispute() == f"{B}: of another cluster than {A}"


@pytest.mark.parametrize("silent", [0, 1])
def test_a_dispute_ends_with_the_answers_of_either_side_and_who_was_a_stranger_stays_one(silent: int) -> None:
    router = a_router(A, X)
    router.learn(0, table(A, [A, B]), 0.0)
    router.learn(1, table(X, OTHERS, origin=2), 0.0)
    assert router.disputed
    router.failed(silent, 1.0)
    assert not router.disputed
    assert router.others() == [0]
    router.learn(1, table(X, OTHERS, origin=2), 100.0)
    assert router.primary(0) == (NOWHERE if silent == 0 else 0)
    assert router.others() == [0]
    router.learn(0, table(A, [A, B]), 100.0)
    assert router.dispute() == f"{X}: of another cluster than {A}"


def test_a_third_cluster_is_a_stranger_too() -> None:
    router = a_router(A, B, X)
    router.learn(0, table(A, [A]), 0.0)
    router.learn(1, table(B, [B], origin=3), 0.0)
    router.learn(2, table(X, OTHERS, origin=2), 0.0)
    assert router.dispute() == f"{B}, {X}: of another cluster than {A}"


def test_an_older_table_changes_nothing_but_who_is_there() -> None:
    router = a_router(A, B)
    router.learn(0, table(A, [A, B], epoch=7), 0.0)
    router.learn(1, table(B, [B, A], epoch=6), 0.0)
    assert (epoch(router), primaries(router)) == (7, [A, B, A])
    router.learn(1, table(B, [B, A], epoch=8), 0.0)
    assert (epoch(router), primaries(router)) == (8, [B, A, B])


def test_who_does_not_answer_loses_its_slots_until_it_does() -> None:
    router = a_router(A)
    router.learn(0, table(A, [A, B]), 0.0)
    b = index_of(router, B)
    router.learn(b, table(B, [A, B]), 0.0)
    probe(router, 0.0)
    router.failed(b, 1.0)
    assert primaries(router) == [A, "", A]
    assert router.others() == [0]
    assert probe(router, max(1.0 + PROBE_MIN_S, router.wake_at)) == {A, B}
    router.learn(b, table(B, [A, B]), 3.0)
    assert primaries(router) == [A, B, A]
    assert router.others() == [0, b]


def test_who_has_failed_is_not_asked_at_once() -> None:
    router = a_router(A)
    router.learn(0, table(A, [A, B]), 0.0)
    b = index_of(router, B)
    router.learn(b, table(B, [A, B]), 0.0)
    assert router._asked == {}, "of who has proved itself there is nothing to wait for"
    router.failed(b, 8.0)
    assert b not in router.targets(8.0 + PROBE_MIN_S - 0.125)
    assert b in router.targets(8.0 + PROBE_MIN_S)
    assert b not in router.targets(8.0 + 3 * PROBE_MIN_S - 0.125)
    assert b in router.targets(8.0 + 3 * PROBE_MIN_S)


def test_while_nobody_has_proved_itself_those_that_are_known_are_asked_all_the_time() -> None:
    """The given server may be gone for good, and all others have been silent for a while."""
    router = a_router(A)
    router.learn(0, table(A, [B, C]), 0.0)
    for name in (B, C):
        router.learn(index_of(router, name), table(name, [B, C]), 0.0)
    b, c = index_of(router, B), index_of(router, C)
    now = 1.0
    router.failed(b, now)
    for _ in range(8):  # b is asked seldom by now, as c answers
        now = max(now, router.wake_at)
        router.targets(now)
        now += 1.0
    router.failed(0, now)
    router.failed(c, now)
    for _ in range(20):
        now += PROBE_MIN_S
        assert router.wake_at <= now
        assert {b, c} <= set(router.targets(now))


def test_a_server_that_is_somewhere_else_is_asked_at_once() -> None:
    router = a_router(A, B)
    for now in (0.0, 1.0, 3.0, 7.0):
        router.targets(now)
    assert 1 not in router.targets(8.0)
    assert router.wake_at > 8.0
    router.place(1, resolve(C))
    assert router.wake_at <= 8.0
    assert 1 in router.targets(8.0)


def test_a_name_that_has_not_resolved_again_is_looked_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    router = a_router("localhost:1")
    asked: list[str] = []

    def nothing(name: str, *, after: Endpoint) -> Endpoint:
        asked.append(name)
        raise BadServer("made up")

    monkeypatch.setattr("app.client.router.resolve", nothing)
    for now, count in ((10.0, 1), (10.0 + LOOKUP_MIN_S - 0.125, 1), (10.0 + LOOKUP_MIN_S, 2)):
        router.failed(0, now)
        assert asked == ["localhost:1"] * count
        assert router.collect(10.0) == []


def test_what_takes_long_keeps_no_program_from_ending() -> None:
    told: queue.SimpleQueue[bool] = queue.SimpleQueue()
    in_a_thread(lambda: told.put(threading.current_thread().daemon))
    assert told.get(timeout=10.0)


def test_a_failure_hints_at_an_old_table_if_it_is_of_a_member_or_of_a_server_that_the_caller_named() -> None:
    router = a_router(A, B)
    now = 0.0
    while router.wake_at <= now + 5:  # B, which is given, and C, which is in the table, are asked ever less often
        now = max(now, router.wake_at)
        router.targets(now)
        router.learn(0, table(A, [A, C]), now)
    later = now + 1
    router.failed(index_of(router, C), later)
    assert router.wake_at > now + 5
    router.failed(1, later)
    assert router.wake_at == later


def test_probes_without_an_answer_become_rare() -> None:
    router = a_router(A)
    probe(router, 0.0)
    router.learn(0, table(A, [A, B]), 0.0)
    asked_at = []
    now = 0.0
    while now < 200:
        if B in probe(router, now):
            asked_at.append(now)
        router.learn(0, table(A, [A, B]), now)
        now = max(router.wake_at, now + 0.01)
    waits = [later - earlier for earlier, later in itertools.pairwise(asked_at)]
    assert waits[:8] == [min(PROBE_MIN_S * 2**n, PROBE_MAX_S) for n in range(8)]
    assert set(waits[8:]) <= {PROBE_MAX_S}


def test_however_much_is_wrong_the_table_is_asked_for_at_a_bounded_rate() -> None:
    router = a_router(A)
    asked = 0
    for n in range(1000):
        now = n * 0.01
        router.failed(0, now)
        router.doubt(now)
        if now >= router.wake_at:
            asked += len(router.targets(now))
            router.learn(0, table(A, [A]), now)
    assert asked <= 10 / REFRESH_MIN_S * 2 + 2


@pytest.mark.parametrize("members", [[A, B], [A, B, C]])
def test_every_member_is_asked_for_the_table_in_its_turn(members: list[str]) -> None:
    router = a_router(A)
    router.targets(0.0)
    for member in members:
        router.learn(0 if member == A else index_of(router, member), table(member, members), 0.0)
    asked: list[str] = []
    count = len(members)
    for n in range(1, 2 * count + 1):
        asked += probe(router, n * REFRESH_S)
    assert set(asked[:count]) == set(members)
    assert asked[:count] == asked[count:]


def test_a_server_given_twice_is_not_probed_for_ever() -> None:
    router = a_router(A, A)
    asked = 0
    now = 0.0
    while now < 100:
        asked += len(probe(router, now))
        for index in (0, 1):
            router.learn(index, table(A, [A]), now)
        now = max(router.wake_at, now + 0.01)
    assert asked < 40


def test_a_large_cluster_is_met_in_parts() -> None:
    members = [f"10.0.1.{n}:1" for n in range(64)]
    router = a_router(members[0])
    probe(router, 0.0)
    router.learn(0, table(members[0], members), 0.0)
    met = 0
    for _ in range(20):
        names = probe(router, 0.0) if router.wake_at <= 0 else set()
        assert len(names) <= PROBES_MAX + 1
        met += len(names)
    assert met == 63


def test_one_that_was_never_asked_comes_before_those_that_were() -> None:
    names = {f"10.0.1.{n}:1" for n in range(PROBES_MAX + 1)}
    router = a_router(*sorted(names))
    (left,) = names - probe(router, 0.0)
    assert left in probe(router, PROBE_MAX_S), "though the others are to be asked again as well"


def test_names_are_looked_up_aside_and_not_again_at_once() -> None:
    waiting: list[Callable[[], None]] = []
    router = a_router(A, aside=waiting.append)
    members = [A, "localhost:1", "no-such-host.invalid:1"]
    router.learn(0, table(A, members), 0.0)
    router.learn(0, table(A, members), 1.0)
    assert len(waiting) == 1
    assert primaries(router) == [A, "", ""]
    router.targets(2.0)
    waiting.pop()()
    assert router.wake_at <= 2.0
    assert "localhost:1" in probe(router, 2.0)
    router.learn(index_of(router, "localhost:1"), table("localhost:1", members), 2.0)
    assert primaries(router) == [A, "localhost:1", ""]
    router.learn(0, table(A, members), LOOKUP_AGAIN_S - 1)
    assert waiting == []
    router.learn(0, table(A, members), LOOKUP_AGAIN_S)
    assert len(waiting) == 1


def test_a_name_that_is_none_does_not_keep_out_the_next() -> None:
    router = a_router(A)
    router.learn(0, table(A, [A, "a-host.invalid:1", "localhost:1"]), 0.0)
    router.collect(1.0)
    assert index_of(router, "localhost:1") == 1


def test_a_name_that_was_found_is_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ever learned is bounded; a name counts as looked up, then as learned, and never as both."""
    monkeypatch.setattr("app.client.router.LEARNED_MAX", 3)
    router = a_router(A)
    router.learn(0, table(A, [A, "localhost:1"]), 0.0)
    router.collect(1.0)
    router.learn(0, table(A, [A, "localhost:1", B, C], epoch=2), 1.0)
    assert [server.name for server in router.servers] == [A, "localhost:1", B]


def test_a_retry_goes_to_another_server_if_there_is_one() -> None:
    router = a_router(A, B)
    assert [router.next_after(index) for index in (0, 1)] == [1, 0]
    assert router.next_after(0, {1}) == 0
    router = a_router(A)
    assert router.next_after(0) == 0
    router.learn(0, table(A, [A, B]), 0.0)
    b = index_of(router, B)
    assert router.next_after(0) == 0
    assert router.next_after(b) == 0
    router.learn(b, table(B, [A, B]), 0.0)
    assert router.next_after(0) == b


def test_it_stays_with_the_given_server_that_answered() -> None:
    router = a_router(A, B)
    router.answered(1)
    assert router.current == 1
    router.answered(7)
    assert router.current == 1
