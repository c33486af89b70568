"""What a follower applies: the compiled class against the Python that it stands in for."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.cluster.replication import applying, frames
from app.cluster.replication.applying import Session, WholeApplying
from app.cluster.replication.frames import OpFields
from app.cluster.replication.staging import Staging
from app.storage import mutate
from tests.cluster.replication.parts import a_shared, a_view, entries_of
from tests.fast.test_writes import told
from tests.support.parts import examples
from tests.support.pieces import pieces

SLOTS = (7, 8, 9)


class Side:
    """A follower of a and b, of one kind: of slot 7 wholly, of 8 beside the copy in place, of 9 in place."""

    def __init__(self, which: str, *, evict: bool, filled: list[bytes]) -> None:
        self.shared = a_shared("c", a_view(5, "a", "bc"), evict=evict, pages=4)
        bases = (pieces("applying", which).ShortApplying, WholeApplying)

        class Follower(*bases):  # type: ignore[misc]
            make_op = OpFields

            def _had_no_room(follower, slot: int, session: Session) -> None:
                self.without_room.append(slot)

        self.without_room: list[int] = []
        self.follower: Any = Follower(self.shared)
        for slot, is_whole in zip(SLOTS, (True, False, False), strict=True):
            session = Session("a", 5, (4, 20), is_whole, None)
            for key in filled:
                self.shared.store.put(slot, key, b"old")
            if slot == 8:
                session.staging = Staging(self.shared.store, slot)
            self.follower.sessions[slot] = session

    def state(self) -> object:
        f, shared = self.follower, self.shared
        sessions = [
            (slot, s.primary, s.term, s.position, s.is_whole, s.staging and (s.staging.entries, s.staging.replies))
            for slot, s in f.sessions.items()
        ]
        at = {slot: s.position for slot, s in f.sessions.items()}
        replies = sorted(shared.replies.scan(0, shared.replies.bucket_count, (1 << 256) - 1))
        return (
            (sessions, [shared.positions[slot] for slot in SLOTS], f._unacknowledged, f.staged_bytes, shared.faults),
            ([entries_of(shared, slot) for slot in SLOTS], replies, shared.store.allowance_bytes),  # type: ignore[attr-defined]
            (told(shared.recent, at), self.without_room),
        )


ops = st.tuples(
    st.sampled_from([frames.PUT_OP, frames.PUT_OP, frames.PUT_OP, frames.REMOVE_OP, frames.WIPE_OP, frames.NOTE_OP]),
    st.sampled_from([7, 7, 7, 8, 9, 10]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([b"", b"m1", b"m2", b"m3", b"m4", bytes(16), bytes(64)]),
    st.sampled_from([b"k1", b"k2", bytes(32)]),
    st.sampled_from([5, 5, 5, 5, 6]),
    st.sampled_from([1, 1, 1, 1, 1, 0, 2]),
    st.sampled_from([0, 10, 9000]).map(bytes),
)
steps = st.one_of(st.lists(ops, max_size=4), st.binary(max_size=30), st.sampled_from(["view", "whole", "end"]))


def packed(drawn: list[Any], seqs: dict[int, int]) -> bytes:
    """A frame of ops that follow on each other, for the most part."""
    body = b""
    for kind, slot, code, name, key, term, step, blob in drawn:
        seqs[slot] = seq = seqs.get(slot, 20) + step
        key, blob = key if kind <= frames.REMOVE_OP else b"", blob if kind == frames.PUT_OP else b""
        body += frames.encode_op(kind, slot, code, name, key, term, seq, blob)
    return body


@examples(300)
@given(st.booleans(), st.sampled_from("aaab"), st.lists(steps, max_size=12))
def test_whatever_comes_is_applied_alike(evict: bool, peer: str, drawn: list[Any]) -> None:
    pieces("applying", "compiled")
    sides = [Side(which, evict=evict, filled=[b"k1"]) for which in ("pure", "compiled")]
    seqs: dict[int, int] = {}
    for step in drawn:
        body = packed(step, seqs) if isinstance(step, list) else step if isinstance(step, bytes) else b""
        for side in sides:
            if step == "view":
                side.shared.view = a_view(6, "b", "ac") if side.shared.view else None
            elif step == "whole":
                side.follower.sessions[9].is_whole = True
            elif step == "end":
                side.follower.sessions.pop(7, None)
        assert sides[0].follower.apply_ops(peer, body) == sides[1].follower.apply_ops(peer, body), step
        assert sides[0].state() == sides[1].state(), step


def test_a_session_is_as_in_python() -> None:
    for which in ("pure", "compiled"):
        session = pieces("applying", which).Session("a", 5, (4, 20), is_whole=True)
        assert (session.primary, session.term, session.position, session.staging) == ("a", 5, (4, 20), None)
        session.position, session.is_whole = (5, 21), False
        assert (session.position, session.is_whole) == ((5, 21), False)


def test_it_stands_in_for_the_whole_of_it() -> None:
    assert applying.Applying.apply_ops is pieces("applying", "compiled").ShortApplying.apply_ops
    assert mutate.Mutations is pieces("mutate", "compiled").Mutations
