"""The laws that the load generator's verdicts rest on."""

import random

from hypothesis import assume, given
from hypothesis import strategies as st

from tools.load.values import RIGHT, STALE, WRONG, LegalVersions, value_of

KEYS = st.binary(min_size=1, max_size=32)
VERSIONS = st.integers(-(2**31), 2**31 - 1)
LENGTHS = st.integers(0, 10_000)
PROVING_LENGTHS = st.integers(4, 10_000)  # long enough to hold the whole seed


READ_LIFE_S = 20.0


def versions(keys: int = 1) -> LegalVersions:
    return LegalVersions(keys, READ_LIFE_S)


@given(KEYS, VERSIONS, LENGTHS)
def test_a_value_has_its_length_and_is_always_the_same(key: bytes, version: int, length: int) -> None:
    value = value_of(key, version, length)
    assert len(value) == length
    assert value == value_of(key, version, length)
    assert versions().judge(0, key, value, version, floor=0) == RIGHT


@given(KEYS, VERSIONS, st.integers(1, 10_000), st.data())
def test_a_changed_byte_shows(key: bytes, version: int, length: int, data: st.DataObject) -> None:
    value = bytearray(value_of(key, version, length))
    value[data.draw(st.integers(0, length - 1))] ^= data.draw(st.integers(1, 255))
    assert versions().judge(0, key, bytes(value), version, floor=0) == WRONG


@given(KEYS, VERSIONS, VERSIONS, PROVING_LENGTHS)
def test_another_versions_value_shows(key: bytes, version: int, other: int, length: int) -> None:
    assume(version != other)
    assert versions().judge(0, key, value_of(key, other, length), version, floor=0) == WRONG


@given(KEYS, VERSIONS, PROVING_LENGTHS, PROVING_LENGTHS)
def test_a_cut_or_padded_value_shows(key: bytes, version: int, length: int, other: int) -> None:
    assume(length != other)
    value = value_of(key, version, length)[:other].ljust(other, b"\0")
    assert versions().judge(0, key, value, version, floor=0) == WRONG


def test_another_keys_value_shows() -> None:
    keys = [b"prefix-%09d" % number for number in range(2000)]
    heads = {value_of(key, 1, 8) for key in keys}
    assert len(heads) == len(keys)


def verdict(known: LegalVersions, version: int, floor: int | None = None) -> str:
    """Of a read that begins now, if no floor is given."""
    begun = known.floor(0) if floor is None else floor
    return known.judge(0, b"key", value_of(b"key", version, 64), version, begun)


def put(known: LegalVersions, now: float = 0.0) -> int:
    """A PUT that is acknowledged before anything else happens."""
    version = known.begin(0)
    known.done(0, version, now)
    return version


def test_before_any_acknowledged_write_every_right_value_will_do() -> None:
    known = versions()
    assert verdict(known, 77) == RIGHT
    assert not known.expects(0, known.floor(0))
    known.begin(0)
    assert verdict(known, 77) == RIGHT


def test_only_the_acknowledged_version_is_right() -> None:
    known = versions(2)
    for _ in range(5):
        put(known)
    assert known.expects(0, known.floor(0))
    assert not known.expects(1, known.floor(1))
    assert [verdict(known, version) for version in (4, 5, 6)] == [STALE, RIGHT, STALE]


def test_a_read_that_began_before_a_write_was_acknowledged_may_give_either() -> None:
    known = versions()
    put(known)
    floor = known.floor(0)
    put(known)
    assert [verdict(known, version, floor) for version in (1, 2)] == [RIGHT, RIGHT]
    assert verdict(known, 1) == STALE


def test_writes_that_overlap_may_have_been_done_in_either_order() -> None:
    known = versions()
    first, second = known.begin(0), known.begin(0)
    known.done(0, second, 0.0)
    assert [verdict(known, first), verdict(known, second)] == [RIGHT, RIGHT]
    known.done(0, first, 0.0)
    assert [verdict(known, first), verdict(known, second)] == [RIGHT, RIGHT]
    put(known)
    assert [verdict(known, first), verdict(known, second)] == [STALE, STALE]


def test_what_has_no_answer_may_show_up_at_any_time() -> None:
    known = versions()
    put(known)
    unknown = known.begin(0)
    assert [verdict(known, version) for version in (1, unknown)] == [RIGHT, RIGHT]
    last = put(known)
    assert [verdict(known, version) for version in (1, unknown, last)] == [STALE, RIGHT, RIGHT]


def test_what_may_be_done_again_may_show_up_at_any_time() -> None:
    known = versions()
    twice = known.begin(0)
    known.done_perhaps_again(0, twice)
    put(known)
    assert verdict(known, twice) == RIGHT


def test_what_was_refused_replaces_nothing() -> None:
    known = versions()
    put(known)
    known.refused(0, known.begin(0))
    assert verdict(known, 1) == RIGHT
    put(known)
    assert verdict(known, 2) == STALE


def test_what_was_removed_must_not_come_back() -> None:
    known = versions()
    put(known)
    number = known.begin_removal(0)
    assert not known.expects(0, known.floor(0))  # it may be gone already
    known.done(0, number, 0.0)
    assert not known.expects(0, known.floor(0))
    assert verdict(known, 1) == STALE
    put(known)
    assert known.expects(0, known.floor(0))


def test_many_removals_are_forgotten_but_not_those_that_count() -> None:
    known = versions()
    known.begin_removal(0)  # never answered: explains every absence
    for _ in range(100):
        put(known)
        known.done(0, known.begin_removal(0), 0.0)
    put(known)
    assert not known.expects(0, known.floor(0))


def test_what_no_read_can_ask_for_is_forgotten() -> None:
    known = versions()
    for n in range(1000):
        first, second = known.begin(0), known.begin(0)
        known.done(0, first, now=float(n))
        known.done(0, second, now=float(n))
    assert len(known._ends) <= 2 * READ_LIFE_S
    # A read that began at 990 has seen everything up to then acknowledged, and nothing later.
    floor = 2 * 990
    assert [verdict(known, version, floor) for version in (floor - 1, floor, 2000)] == [RIGHT, RIGHT, RIGHT]
    assert verdict(known, floor - 2, floor) == STALE


@given(st.randoms(use_true_random=False))
def test_whatever_a_correct_store_gives_is_right(rng: random.Random) -> None:
    """A store that carries out each request at one moment between its begin and its answer; requests overlap at will.
    And once all writes have been answered, every version but those that nothing has certainly replaced is stale.
    """
    known = versions()
    stored: int | None = None
    writes: dict[int, str] = {}  # by version: "sent", "done", "answered", "silent"
    reads: list[tuple[int, int | None, bool]] = []  # floor, what was found, done
    begun, ended = {}, {}
    for moment in range(200):
        step = rng.randrange(6)
        if step == 0:
            version = known.begin(0)
            writes[version], begun[version] = "sent", moment
        elif step in (1, 2) and writes:
            version = rng.choice(list(writes))
            if writes[version] == "sent":
                writes[version], stored = "done", version
            elif writes[version] == "done":
                writes[version] = rng.choice(["answered", "silent"])
                if writes[version] == "answered":
                    known.done(0, version, 0.0)
                    ended[version] = moment
        elif step == 3:
            reads.append((known.floor(0), None, False))
        elif reads:
            place = rng.randrange(len(reads))
            floor, found, done = reads[place]
            if not done:
                reads[place] = (floor, stored, True)
            elif found is not None:
                assert verdict(known, found, floor) == RIGHT
                del reads[place]
    for version in ended:
        replaced = any(begun[other] > ended[version] for other in ended)
        assert (verdict(known, version) == STALE) == replaced
