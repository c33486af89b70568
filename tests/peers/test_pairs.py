"""Two one-way connections made into one link: whatever breaks when, a link's frames are of one link at both ends."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication.frames import BadFrame
from app.peers.frames import PAIR
from app.peers.pairs import Pairs
from tests.support.parts import examples

DATA = 99


class End:
    """One node: its end of the link, what it has sent and taken, each with the number of the link it belonged to."""

    def __init__(self, name: str, peer: str) -> None:
        self.name = name
        self.peer = peer
        self.wire: deque[tuple[int, bytes]] | None = None  # what is on its way from here
        self.links = 0  # that came up so far
        self.sent: list[tuple[int, int]] = []  # link, number of the frame in it
        self.taken: list[tuple[int, bytes]] = []
        self.pairs = Pairs(self.send, on_up=self._up, on_down=lambda peer: None)

    def send(self, peer: str, kind: int, body: bytes) -> bool:
        assert peer == self.peer
        if self.wire is not None:
            self.wire.append((kind, body))
        return self.wire is not None

    def _up(self, peer: str) -> None:
        self.links += 1

    def say(self) -> None:
        """Send a frame of the link, if it is up."""
        if self.pairs.is_up(self.peer):
            number = sum(link == self.links for link, _ in self.sent)
            self.sent.append((self.links, number))
            self.send(self.peer, DATA, b"%d.%d" % (self.links, number))

    def take(self, frame: tuple[int, bytes]) -> None:
        kind, body = frame
        if kind == PAIR:
            self.pairs.on_pair(self.peer, body)
        elif self.pairs.is_up(self.peer):
            self.taken.append((self.links, body))


class Net:
    def __init__(self) -> None:
        self.ends = End("a", "b"), End("b", "a")

    def other(self, end: End) -> End:
        return self.ends[end is self.ends[0]]

    def dial(self, end: End) -> None:
        """A new connection from here; one that it replaces has ended. The other side notices when it accepts."""
        if end.wire is not None:
            end.pairs.dialled_ended(end.peer)
        end.wire = deque()
        self.other(end).pairs.incoming_changed(end.name)
        end.pairs.dialled(end.peer)

    def cut(self, end: End, notices: bool) -> None:
        """The connection from here ends, with what is in it."""
        if end.wire is not None:
            end.wire = None
            end.pairs.dialled_ended(end.peer)
            if notices:
                self.other(end).pairs.incoming_changed(end.name)

    def deliver(self, end: End) -> None:
        if end.wire:
            self.other(end).take(end.wire.popleft())

    def settle(self) -> None:
        while any(end.wire for end in self.ends):
            for end in self.ends:
                self.deliver(end)


def test_a_link_comes_up_at_both_ends_and_passes_frames() -> None:
    net = Net()
    one, other = net.ends
    net.dial(one)
    net.settle()
    assert not one.pairs.is_up("b"), "one connection is no link"
    net.dial(other)
    net.settle()
    assert one.pairs.is_up("b")
    assert other.pairs.is_up("a")
    assert one.pairs.up == other.pairs.up == 1
    one.say()
    other.say()
    net.settle()
    assert other.taken == one.taken == [(1, b"1.0")]


def test_what_was_sent_before_the_other_connection_broke_is_not_taken_after() -> None:
    net = Net()
    one, other = net.ends
    net.dial(one)
    net.dial(other)
    net.settle()
    other.say()  # under way when the connection of `one` breaks and is dialled anew
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
def test_within_a_link_nothing_is_lost_and_nothing_is_of_another(actions: list[tuple[str, bool]]) -> None:
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
        by_link: dict[int, list[bytes]] = {}
        for link, body in end.taken:
            by_link.setdefault(link, []).append(body)
        of_links = [{body.split(b".")[0] for body in bodies} for bodies in by_link.values()]
        assert all(len(of) == 1 for of in of_links), "one link here, one there"
        assert len({next(iter(of)) for of in of_links}) == len(of_links), "and the other way round"
        for bodies in by_link.values():
            assert [int(body.split(b".")[1]) for body in bodies] == list(range(len(bodies))), "from its beginning on"
    for end in net.ends:
        net.dial(end)
    net.settle()
    assert all(end.pairs.is_up(end.peer) for end in net.ends)


@pytest.mark.parametrize("body", [b"", b"1" * 15, b"1" * 17])
def test_a_malformed_pair_is_a_bad_frame(body: bytes) -> None:
    with pytest.raises(BadFrame):
        Net().ends[0].pairs.on_pair("b", body)
