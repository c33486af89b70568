"""The laws that the load generator's verdicts rest on."""

from hypothesis import assume, given
from hypothesis import strategies as st

from tools.load.values import RIGHT, STALE, WRONG, Ledger, value_of

KEYS = st.binary(min_size=1, max_size=32)
VERSIONS = st.integers(-(2**31), 2**31 - 1)
LENGTHS = st.integers(0, 10_000)
PROVING_LENGTHS = st.integers(4, 10_000)  # long enough to hold the whole seed


@given(KEYS, VERSIONS, LENGTHS)
def test_a_value_has_its_length_and_is_always_the_same(key: bytes, version: int, length: int) -> None:
    value = value_of(key, version, length)
    assert len(value) == length
    assert value == value_of(key, version, length)
    assert Ledger(1).judge(0, key, value, version) == RIGHT


@given(KEYS, VERSIONS, st.integers(1, 10_000), st.data())
def test_a_changed_byte_shows(key: bytes, version: int, length: int, data: st.DataObject) -> None:
    value = bytearray(value_of(key, version, length))
    value[data.draw(st.integers(0, length - 1))] ^= data.draw(st.integers(1, 255))
    assert Ledger(1).judge(0, key, bytes(value), version) == WRONG


@given(KEYS, VERSIONS, VERSIONS, PROVING_LENGTHS)
def test_another_versions_value_shows(key: bytes, version: int, other: int, length: int) -> None:
    assume(version != other)
    assert Ledger(1).judge(0, key, value_of(key, other, length), version) == WRONG


@given(KEYS, VERSIONS, PROVING_LENGTHS, PROVING_LENGTHS)
def test_a_cut_or_padded_value_shows(key: bytes, version: int, length: int, other: int) -> None:
    assume(length != other)
    value = value_of(key, version, length)[:other].ljust(other, b"\0")
    assert Ledger(1).judge(0, key, value, version) == WRONG


def test_another_keys_value_shows() -> None:
    keys = [b"prefix-%09d" % number for number in range(2000)]
    heads = {value_of(key, 1, 8) for key in keys}
    assert len(heads) == len(keys)


def verdict(ledger: Ledger, version: int) -> str:
    return ledger.judge(0, b"key", value_of(b"key", version, 64), version)


def test_before_any_acknowledged_write_every_right_value_will_do() -> None:
    ledger = Ledger(1)
    assert verdict(ledger, 77) == RIGHT
    assert not ledger.expects(0)


def test_only_the_acknowledged_version_is_right() -> None:
    ledger = Ledger(2)
    ledger.stored(0, 5)
    assert ledger.expects(0)
    assert not ledger.expects(1)
    assert [verdict(ledger, version) for version in (4, 5, 6)] == [STALE, RIGHT, STALE]


def test_what_is_in_doubt_may_show_up_at_any_time() -> None:
    ledger = Ledger(1)
    ledger.stored(0, 5)
    ledger.doubtful(0, 6)
    assert [verdict(ledger, version) for version in (5, 6)] == [RIGHT, RIGHT]
    ledger.stored(0, 7)
    assert [verdict(ledger, version) for version in (5, 6, 7)] == [STALE, RIGHT, RIGHT]


def test_what_was_removed_must_not_come_back() -> None:
    ledger = Ledger(1)
    ledger.stored(0, 5)
    ledger.removed(0)
    assert not ledger.expects(0)
    assert verdict(ledger, 5) == STALE
