"""The seat: the small value in a shared register that says which view it holds, and who coordinates it.

It is written with each view, and by its holder again and again to show that it lives (shared_register.py). No two that
are ever written are the same, so whoever swaps the one that it has read for another can't mistake a later one for it;
and `count` only ever rises, so a register that was set back shows. JSON, for people who look into the register.
"""

import json
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from app.cluster.limits import CLUSTER_ID, COUNTER, EPOCH, INCARNATION, NONCE, Range, is_name
from app.cluster.view import BadView, View, from_message
from proto_gen import cluster_pb2 as pb

SEAT_MAX_BYTES: Final = 1000

_NUMBERS: Final[dict[str, Range]] = {
    "incarnation": INCARNATION,
    "count": COUNTER,
    "mark": NONCE,
    "cluster_id": CLUSTER_ID,
    "epoch": EPOCH,
    "nonce": NONCE,
    "before": NONCE,
    "origin": NONCE,
}


@dataclass(frozen=True, slots=True)
class Seat:
    """See the module."""

    holder: str  # the view's coordinator
    incarnation: int  # of the holder
    count: int  # how often the seat was written before
    mark: int  # random: no other seat has the same
    cluster_id: int  # these three name the view
    epoch: int
    nonce: int
    before: int  # nonce of the view that this one has replaced; 0: of none
    origin: int  # which register it was written to, as that names itself: a copy of it does otherwise
    is_left: bool = False  # its holder was the last member, has left, and holds nothing any more

    @property
    def view_key(self) -> tuple[int, int, int]:
        """What names the view that was written with it, or before it."""
        return (self.cluster_id, self.epoch, self.nonce)

    def pack(self) -> bytes:
        """As it is in the register."""
        fields = {"holder": self.holder, "is_left": self.is_left} | {name: getattr(self, name) for name in _NUMBERS}
        return json.dumps(fields, separators=(",", ":")).encode()


def seat_of(view: View, count: int, mark: int, before: int, origin: int, *, is_left: bool = False) -> Seat:
    """The seat to be written with this view, or again while it is the one in the register."""
    coordinator = view.members[0]
    return Seat(coordinator.address, coordinator.incarnation, count, mark, *view.key, before, origin, is_left)


def read_seat(packed: bytes) -> Seat:
    """The seat that the register holds; raises BadView."""
    try:
        if len(packed) > SEAT_MAX_BYTES:
            raise ValueError(f"{len(packed)} bytes")
        fields = json.loads(packed)
        holder, is_left = fields["holder"], fields["is_left"]
        numbers = {name: fields[name] for name in _NUMBERS}
        if not isinstance(holder, str) or not is_name(holder) or not isinstance(is_left, bool):
            raise ValueError(f"holder {holder!r}, is_left {is_left!r}")
        if not all(type(number) is int and _NUMBERS[name].has(number) for name, number in numbers.items()):
            raise ValueError(str(numbers))
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        raise BadView(f"no seat: {fault}") from None
    return Seat(holder=holder, is_left=is_left, **numbers)


def read_view(packed: bytes) -> View:
    """The view that the register holds; raises BadView."""
    try:
        return from_message(pb.View.FromString(packed))
    except DecodeError:
        raise BadView("no view") from None
