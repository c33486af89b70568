"""Two links made into one pair: whatever breaks when, the frames of a pair are of one pair at both ends."""

from collections import deque
from itertools import count
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication.frames import BadFrame
from app.peers.frames import PAIR
from app.peers.pairs import Pairs
from tests.support.parts import examples

DATA = 99
PAIR_BODY = Struct("<QQ")


class End:
    """One node: its end, what it has sent and taken, each with the number of the pair it belonged to."""

    def __init__(self, name: str, peer: str) -> None:
        self.name = name
        self.peer = peer
        self.wire: deque[tuple[int, bytes]] | None = None  # what is on its way from here
        self.ups = 0  # that came up so far
        self.sent: list[tuple[int, int]] = []  # pair, number of the frame in it
        self.taken: list[tuple[int, bytes]] = []
        self.downs = 0
        self._numbers = count(ord(name) << 8 | 1, 2)
        self.pairs = Pairs(self, lambda size: next(self._numbers).to_bytes(size, "little"))
        self.pairs.start(self)

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool:
        assert peer == self.peer
        if self.wire is not None:
            self.wire.append((kind, body))
        return self.wire is not None

    def link_up(self, peer: str) -> None:
        assert (peer, self.ups) == (self.peer, self.downs), "in turn"
        assert self.pairs.is_up(peer)
        self.ups += 1

    def link_down(self, peer: str) -> None:
        self.downs += 1
        assert (peer, self.ups) == (self.peer, self.downs), "in turn"
        assert not self.pairs.is_up(peer)

    def say(self) -> None:
        """Send a frame of the pair, if it is up."""
        if self.pairs.is_up(self.peer):
            number = sum(pair == self.ups for pair, _ in self.sent)
            self.sent.append((self.ups, number))
            self.send(self.peer, DATA, b"%d.%d" % (self.ups, number))

    def take(self, frame: tuple[int, bytes]) -> None:
        kind, body = frame
        if kind == PAIR:
            self.pairs.on_pair(self.peer, body)
        elif self.pairs.is_up(self.peer):
            self.taken.append((self.ups, body))


class Net:
    def __init__(self) -> None:
        self.ends = End("a", "b"), End("b", "a")

    def other(self, end: End) -> End:
        return self.ends[end is self.ends[0]]

    def dial(self, end: End) -> None:
        """A new link from here; one that it replaces has ended. The other side notices when it accepts."""
        if end.wire is not None:
            end.pairs.dialled_ended(end.peer)
        end.wire = deque()
        self.other(end).pairs.accepted_changed(end.name)
        end.pairs.dialled(end.peer)

    def cut(self, end: End, notices: bool) -> None:
        """The link from here ends, with what is in it."""
        if end.wire is not None:
            end.wire = None
            end.pairs.dialled_ended(end.peer)
            if notices:
                self.other(end).pairs.accepted_changed(end.name)

    def deliver(self, end: End) -> None:
        if end.wire:
            self.other(end).take(end.wire.popleft())

    def settle(self) -> None:
        while any(end.wire for end in self.ends):
            for end in self.ends:
                self.deliver(end)


def test_a_pair_comes_up_at_both_ends_and_passes_frames() -> None:
    net = Net()
    one, other = net.ends
    net.dial(one)
    net.settle()
    assert not one.pairs.is_up("b"), "one link is no pair"
    net.dial(other)
    net.settle()
    assert one.pairs.is_up("b")
    assert other.pairs.is_up("a")
    assert one.pairs.up == other.pairs.up == 1
    one.say()
    other.say()
    net.settle()
    assert other.taken == one.taken == [(1, b"1.0")]


def test_what_was_sent_before_the_other_link_broke_is_not_taken_after() -> None:
    net = Net()
    one, other = net.ends
    net.dial(one)
    net.dial(other)
    net.settle()
    other.say()  # under way when the link of `one` breaks and is dialled anew
    net.cut(one, notices=False)
    net.dial(one)
    net.settle()
    assert one.pairs.is_up("b")
    assert other.pairs.is_up("a")
    assert not one.taken


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["dial", "cut", "cut unnoticed", "deliver", "deliver", "deliver", "say", "say"]), st.booleans()
    ),
    max_size=80,
)


@given(ACTIONS)
@examples(300)
def test_within_a_pair_nothing_is_lost_and_nothing_is_of_another(actions: list[tuple[str, bool]]) -> None:
    net = Net()
    for action, which in actions:
        end = net.ends[which]
        if action == "dial":
            net.dial(end)
        elif action.startswith("cut"):
            net.cut(end, notices=action == "cut")
        elif action == "deliver":
            net.deliver(end)
        else:
            end.say()
    for end in net.ends:
        by_pair: dict[int, list[bytes]] = {}
        for pair, body in end.taken:
            by_pair.setdefault(pair, []).append(body)
        of_pairs = [{body.split(b".")[0] for body in bodies} for bodies in by_pair.values()]
        assert all(len(of) == 1 for of in of_pairs), "one pair here, one there"
        assert len({next(iter(of)) for of in of_pairs}) == len(of_pairs), "and the other way round"
        for bodies in by_pair.values():
            assert [int(body.split(b".")[1]) for body in bodies] == list(range(len(bodies))), "from its beginning on"
    for end in net.ends:
        net.dial(end)
    net.settle()
    assert all(end.pairs.is_up(end.peer) for end in net.ends)


@pytest.mark.parametrize("body", [b"", b"1" * 15, b"1" * 17])
def test_a_malformed_pair_is_a_bad_frame(body: bytes) -> None:
    with pytest.raises(BadFrame):
        Net().ends[0].pairs.on_pair("b", body)


# --- one end, frame by frame -----------------------------------------------------------------------------------------


class One:
    """Node a, whose peer is the test."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.told: list[str] = []
        self.random = iter((0x700, 0x800, 0x900))
        self.pairs = Pairs(self, self._random_bytes)
        self.pairs.start(self)

    def _random_bytes(self, size: int) -> bytes:
        assert size == 8
        return next(self.random).to_bytes(size, "little")

    def send(self, peer: str, kind: int, body: bytes, head: bytes = b"") -> bool:
        assert (peer, kind, head) == ("b", PAIR, b"")
        self.sent.append(PAIR_BODY.unpack(body))
        return True

    def link_up(self, peer: str) -> None:
        self.told.append(f"up {peer}")

    def link_down(self, peer: str) -> None:
        self.told.append(f"down {peer}")

    def pair(self, theirs: int, ours: int) -> None:
        """A frame PAIR comes from b."""
        self.pairs.on_pair("b", PAIR_BODY.pack(theirs, ours))

    def tells(self) -> tuple[list[tuple[int, int]], list[str]]:
        """What was sent and told since the last time."""
        sent, told, self.sent, self.told = self.sent, self.told, [], []
        return sent, told


def test_the_example_of_the_module() -> None:
    """As a sees it. Numbers are odd, so that none is 0."""
    a = One()
    a.pairs.dialled("b")
    assert a.tells() == ([(0x701, 0)], [])
    a.pair(9, 0x701)
    assert a.tells() == ([(0x701, 9)], ["up b"])
    assert a.pairs.is_up("b")
    assert a.pairs.up == 1
    a.pairs.dialled_ended("b")
    assert a.tells() == ([], ["down b"])
    assert (a.pairs.is_up("b"), a.pairs.up) == (False, 0)
    a.pairs.dialled("b")
    assert a.tells() == ([(0x801, 9)], [])
    a.pair(9, 0x801)
    assert a.tells() == ([], ["up b"])


def test_as_the_other_end_sees_it() -> None:
    b = One()
    b.pair(7, 0)
    assert b.tells() == ([], [])
    b.pairs.dialled("b")
    assert b.tells() == ([(0x701, 7)], [])
    b.pair(7, 0x701)
    assert b.tells() == ([], ["up b"])
    b.pairs.accepted_changed("b")
    assert b.tells() == ([], ["down b"])
    b.pair(8, 0x701)
    assert b.tells() == ([(0x701, 8)], ["up b"])


@pytest.mark.parametrize("ours", [0, 0x701])
def test_a_late_pair_does_not_revive_what_has_ended(ours: int) -> None:
    a = One()
    a.pairs.dialled("b")
    a.pair(9, 0x701)
    a.pairs.dialled_ended("b")
    a.tells()
    a.pair(9, ours)
    a.pair(11, ours)
    assert a.tells() == ([], [])
    assert not a.pairs.is_up("b")
    a.pairs.dialled("b")
    a.pair(11, ours)
    assert a.tells() == ([(0x801, 11)], [])
    assert not a.pairs.is_up("b")


def test_a_pair_that_says_it_again_changes_nothing() -> None:
    a = One()
    a.pairs.dialled("b")
    a.pair(9, 0x701)
    a.tells()
    a.pair(9, 0x701)
    assert a.tells() == ([], [])
    a.pair(9, 0)  # sent before ours was known there
    assert a.tells() == ([], [])
    assert a.pairs.is_up("b")


def test_a_new_number_is_another_pair() -> None:
    a = One()
    a.pairs.dialled("b")
    a.pair(9, 0x701)
    a.tells()
    a.pair(11, 0)
    assert a.tells() == ([(0x701, 11)], ["down b"])
    a.pair(11, 0x701)
    assert a.tells() == ([], ["up b"])
    a.pair(13, 0x701)
    assert a.tells() == ([(0x701, 13)], ["down b", "up b"])


def test_dialling_anew_is_another_pair() -> None:
    a = One()
    a.pairs.dialled("b")
    a.pair(9, 0x701)
    a.pairs.dialled("b")
    assert a.tells()[1] == ["up b", "down b"]
    a.pair(9, 0x701)
    assert not a.pairs.is_up("b")
    a.pair(9, 0x801)
    assert a.pairs.is_up("b")


def test_what_ends_and_was_not_up_is_not_told() -> None:
    a = One()
    a.pairs.dialled_ended("b")
    a.pairs.accepted_changed("b")
    a.pairs.dialled("b")
    a.pairs.accepted_changed("b")
    a.pairs.dialled_ended("b")
    assert a.tells() == ([(0x701, 0)], [])
    assert not a.pairs.is_up("stranger")
