"""The seat: what is written comes back, and nothing else is taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.limits import COUNTER, NONCE
from app.cluster.membership.seat import SEAT_MAX_BYTES, Seat, read_seat, read_view, seat_of
from app.cluster.view import BadView, to_message
from app.wire.protocol import ADDRESS_MAX_BYTES
from tests.cluster.membership.parts import a_view

SEAT = Seat("10.0.0.1:3331", 17, 3, 5, 7, 2, 9, 8, 6)


def test_it_names_the_view_and_who_coordinates_it() -> None:
    seat = seat_of(a_view("bca"), 4, 5, 6, 7)
    assert (seat.holder, seat.incarnation, seat.view_key) == ("b", 11, a_view("bca").key)
    assert (seat.count, seat.mark, seat.before, seat.origin, seat.is_left) == (4, 5, 6, 7, False)


@given(count=st.integers(*COUNTER), mark=st.integers(*NONCE), is_left=st.booleans())
def test_what_is_written_comes_back(count: int, mark: int, is_left: bool) -> None:
    seat = seat_of(a_view(), count, mark, 1, 2, is_left=is_left)
    assert read_seat(seat.pack()) == seat
    assert len(seat.pack()) <= SEAT_MAX_BYTES


def test_the_largest_is_taken() -> None:
    largest = dict.fromkeys(("mark", "nonce", "before", "origin"), NONCE.most)
    fields = json.loads(SEAT.pack()) | largest | {"holder": "x" * ADDRESS_MAX_BYTES, "count": COUNTER.most}
    assert read_seat(json.dumps(fields).encode()).mark == NONCE.most


@pytest.mark.parametrize(
    "changed",
    [
        {"holder": ""},
        {"holder": "a b"},
        {"holder": 5},
        {"is_left": 0},
        {"count": -1},
        {"count": True},
        {"count": 1.0},
        {"count": "1"},
        {"count": COUNTER.most + 1},
        {"incarnation": 0},
        {"cluster_id": 0},
        {"epoch": 0},
        {"mark": NONCE.most + 1},
        {"holder": "x" * SEAT_MAX_BYTES},
    ],
)
def test_what_is_out_of_range_is_none(changed: dict[str, object]) -> None:
    with pytest.raises(BadView, match="no seat"):
        read_seat(json.dumps(json.loads(SEAT.pack()) | changed).encode())


@pytest.mark.parametrize("field", json.loads(SEAT.pack()))
def test_what_lacks_a_field_is_none(field: str) -> None:
    fields = json.loads(SEAT.pack())
    del fields[field]
    with pytest.raises(BadView, match="no seat"):
        read_seat(json.dumps(fields).encode())


@given(packed=st.binary(max_size=100))
def test_nonsense_is_none(packed: bytes) -> None:
    for read in (read_seat, read_view):
        with pytest.raises(BadView):
            read(packed)


def test_a_view_comes_back() -> None:
    assert read_view(to_message(a_view()).SerializeToString()) == a_view()
