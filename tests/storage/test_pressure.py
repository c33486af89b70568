"""When it is told that the store evicts, by a clock that the tests set."""

from app.storage.pressure import REST_S, EvictionWatch


def changes(watch: EvictionWatch, looks: list[tuple[float, int]]) -> list[tuple[float, bool, int]]:
    """Of looks at these times (s) and counts, those that were a change: when, to what, evictions of the episode."""
    return [(now, watch.is_evicting, watch.evictions) for now, count in looks if watch.changed(count, now)]


def test_a_store_that_never_evicts_is_never_told_of() -> None:
    watch = EvictionWatch()
    assert changes(watch, [(n * REST_S, 0) for n in range(5)]) == []
    assert not watch.is_evicting


def test_the_beginning_is_told_once_however_many_follow() -> None:
    watch = EvictionWatch()
    assert changes(watch, [(100.0, 0), (100.1, 7), (100.2, 500), (100.3, 500), (100.4, 501)]) == [(100.1, True, 7)]
    assert (watch.is_evicting, watch.evictions) == (True, 501)


def test_the_end_is_told_once_when_there_have_been_none_for_long_enough() -> None:
    watch = EvictionWatch()
    looks = [(10.0, 5), (20.0, 9), (20.0 + REST_S - 0.01, 9), (20.0 + REST_S, 9), (20.0 + 3 * REST_S, 9)]
    assert changes(watch, looks) == [(10.0, True, 5), (20.0 + REST_S, False, 9)]


def test_a_store_that_evicts_now_and_then_is_not_told_of_each_time() -> None:
    watch = EvictionWatch()
    assert changes(watch, [(n * (REST_S - 1), n + 1) for n in range(50)]) == [(0.0, True, 1)]


def test_a_store_that_begins_anew_is_told_of_anew() -> None:
    watch = EvictionWatch()
    looks = [(0.0, 3), (REST_S, 3), (REST_S + 1, 5), (REST_S + 2, 8), (2 * REST_S + 2, 8)]
    assert changes(watch, looks) == [
        (0.0, True, 3),
        (REST_S, False, 3),
        (REST_S + 1, True, 2),
        (2 * REST_S + 2, False, 5),
    ]


def test_at_first_nothing_was_evicted() -> None:
    watch = EvictionWatch()
    assert (watch.is_evicting, watch.evictions) == (False, 0)
    assert not watch.changed(0, 5.0)
