"""Authenticated datagrams: who is believed, and what is not believed twice."""

import hmac
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.limits import COUNTER, INCARNATION, OUTBID_MAX
from app.peers.datagram_auth import FORGOTTEN_S, OVERHEAD_BYTES, BadDatagram, DatagramAuth, Verified
from app.wire.protocol import SERVERS_MAX

SECRET = b"a secret"


class Network:
    """Delivers at once, answers included, and keeps a record of all that was sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes: dict[str, DatagramAuth] = {}
        self.record: list[tuple[str, bytes]] = []  # receiver and payload

    def start(self, name: str, incarnation: int, secret: bytes = SECRET) -> DatagramAuth:
        self.nodes[name] = DatagramAuth(
            secret, name, [other for other in ("a", "b", "c") if other != name], incarnation
        )
        return self.nodes[name]

    def send(self, sender: str, receiver: str, body: bytes) -> list[bytes]:
        """The bodies that the receiver takes, of this and of what it sets off."""
        return self.deliver(receiver, self.nodes[sender].sign(receiver, body))

    def deliver(self, receiver: str, payload: bytes) -> list[bytes]:
        self.now += 1
        self.record.append((receiver, payload))
        verified = self.nodes[receiver].verify(payload, self.now)
        taken = [verified.body] if verified.body else []
        for answer in verified.answers:
            taken += self.deliver(verified.sender, answer)
        return taken


@pytest.fixture
def network() -> Network:
    network = Network()
    network.start("a", 100)
    network.start("b", 200)
    return network


def fault(auth: DatagramAuth, payload: bytes, now: float = 0.0) -> str:
    """Why a payload is not taken; nothing if it is."""
    try:
        verified = auth.verify(payload, now)
    except BadDatagram as bad:
        return bad.reason
    assert bool(verified.body) != bool(verified.fault)
    return verified.fault


def test_the_first_word_arrives_after_an_introduction(network: Network) -> None:
    assert network.send("a", "b", b"hello") == [b"hello"]
    assert len(network.record) == 3  # refused, introduction, once more
    assert network.send("a", "b", b"again") == [b"again"]
    assert network.send("b", "a", b"back") == [b"back"]
    assert len(network.record) == 5


def test_the_example_of_the_module() -> None:
    """As its docstring tells it, datagram by datagram."""
    a, b = DatagramAuth(SECRET, "a", ["b"], 100), DatagramAuth(SECRET, "b", ["a"], 200)
    first = a.sign("b", b"hello")
    at_b = b.verify(first, 0.001)
    assert (at_b.body, at_b.fault) == (b"", "other_incarnation")
    at_a = a.verify(at_b.answers[0], 0.002)
    assert (at_a.body, at_a.fault) == (b"", "")
    (second,) = at_a.answers
    assert b.verify(second, 0.003) == Verified("a", b"hello", [])
    assert fault(b, second, 0.009) == "replayed"
    b = DatagramAuth(SECRET, "b", ["a"], 250)
    at_b = b.verify(second, 0.5)
    assert (at_b.body, at_b.fault) == (b"", "other_incarnation")
    assert a.verify(at_b.answers[0], 0.501) == Verified("b", b"", [])
    assert b.verify(a.sign("b", b"on"), 0.55) == Verified("a", b"on", [])
    a = DatagramAuth(SECRET, "a", ["b"], 50)
    at_b = b.verify(a.sign("b", b"set back"), 0.6)
    (again,) = a.verify(at_b.answers[0], 0.601).answers
    assert b.verify(again, 0.602) == Verified("a", b"", [], "stale_sender")
    at_b = b.verify(a.sign("b", b"still set back"), 0.7)
    assert (at_b.body, at_b.fault) == (b"", "stale_sender")
    at_a = a.verify(at_b.answers[0], 0.701)
    assert a.incarnation == 101
    assert b.verify(at_a.answers[0], 0.702) == Verified("a", b"", [])
    assert b.verify(a.sign("b", b"heard"), 0.703) == Verified("a", b"heard", [])


def test_a_datagram_as_other_versions_of_the_program_make_it() -> None:
    key = hmac.digest(SECRET, b"kv datagrams 1", "sha256")
    signed = b"\x01\x01" + (100).to_bytes(8, "little") + bytes(8) + (1).to_bytes(8, "little") + b"a" + b"body"
    code = hmac.digest(key, b"\x01b" + signed, "sha256")[:16]
    assert DatagramAuth(SECRET, "a", ["b"], 100).sign("b", b"body") == signed + code


def test_overhead(network: Network) -> None:
    assert len(network.nodes["a"].sign("b", b"")) <= OVERHEAD_BYTES


def test_a_wrong_secret_is_refused(network: Network) -> None:
    other = DatagramAuth(b"another", "a", ["b"], 101)
    assert fault(network.nodes["b"], other.sign("b", b"x")) == "wrong_secret"


def test_every_bit_counts(network: Network) -> None:
    network.send("a", "b", b"hello")
    payload = network.nodes["a"].sign("b", b"body")
    for at in range(len(payload) * 8):
        forged = bytearray(payload)
        forged[at // 8] ^= 1 << at % 8
        with pytest.raises(BadDatagram):
            network.nodes["b"].verify(bytes(forged), 1e6)
    assert fault(network.nodes["b"], payload) == ""


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    for data in (junk, b"\x01" + junk, b"\x01\x01" + junk):
        with pytest.raises(BadDatagram):
            DatagramAuth(SECRET, "b", ["a"], 1).verify(data, 0.0)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "not_signed"), (b"\x08\x01", "not_signed"), (b"\x01", "malformed"), (b"\x01\xff" + bytes(60), "malformed")],
)
def test_reasons(network: Network, payload: bytes, reason: str) -> None:
    assert fault(network.nodes["b"], payload) == reason


def test_a_sender_without_an_incarnation_is_malformed(network: Network) -> None:
    """It would count as one that is new to us again and again."""
    nobody = DatagramAuth(SECRET, "a", ["b"], 1)
    nobody.incarnation = 0
    assert fault(network.nodes["b"], nobody.sign("b", b"")) == "malformed"


def test_a_sender_not_in_the_file_is_refused(network: Network) -> None:
    stranger = DatagramAuth(SECRET, "z", ["b"], 5)
    assert fault(network.nodes["b"], stranger.sign("b", b"x")) == "unknown_sender"


def test_what_was_meant_for_another_is_refused(network: Network) -> None:
    network.start("c", 300)
    network.send("a", "b", b"x")
    assert fault(network.nodes["c"], network.nodes["a"].sign("b", b"x")) == "wrong_secret"


def test_a_replay_is_refused(network: Network) -> None:
    network.send("a", "b", b"x")
    payload = network.nodes["a"].sign("b", b"once")
    assert fault(network.nodes["b"], payload) == ""
    assert fault(network.nodes["b"], payload) == "replayed"


@given(st.permutations(range(64)))
def test_the_order_does_not_matter_within_the_window(order: list[int]) -> None:
    network = Network()
    network.start("a", 100)
    network.start("b", 200)
    network.send("a", "b", b"x")
    payloads = [network.nodes["a"].sign("b", b"%d" % n) for n in range(64)]
    for n in order:
        assert fault(network.nodes["b"], payloads[n]) == ""
    for n in order:
        assert fault(network.nodes["b"], payloads[n]) == "replayed"


def test_the_order_does_not_matter_from_a_new_process_on(network: Network) -> None:
    network.send("b", "a", b"x")
    network.send("a", "b", b"x")
    a = network.start("a", 150)
    a.verify(network.nodes["b"].sign("a", b"for 100"), 5.0)
    (introduction,) = network.nodes["b"].verify(a.sign("b", b"to nobody known"), 6.0).answers
    a.verify(introduction, 7.0)
    early, late = a.sign("b", b"early"), a.sign("b", b"late")
    assert fault(network.nodes["b"], late) == ""
    assert fault(network.nodes["b"], early) == ""
    assert fault(network.nodes["b"], early) == "replayed"


@pytest.mark.parametrize(("later", "reason"), [(63, ""), (64, "replayed"), (1000, "replayed")])
def test_what_is_older_than_the_window_is_refused(network: Network, later: int, reason: str) -> None:
    network.send("a", "b", b"x")
    payload = network.nodes["a"].sign("b", b"late")
    for _ in range(later):
        last = network.nodes["a"].sign("b", b"y")
    assert fault(network.nodes["b"], last) == ""
    assert fault(network.nodes["b"], payload) == reason


def replays(network: Network, receiver: str) -> Iterator[list[bytes]]:
    for to, payload in list(network.record):
        if to == receiver:
            try:
                yield network.deliver(receiver, payload)
            except BadDatagram:
                yield []


def test_nothing_recorded_is_good_for_a_receiver_that_was_started_anew(network: Network) -> None:
    for n in range(5):
        network.send("a", "b", b"%d" % n)
        network.send("b", "a", b"%d" % n)
    network.start("b", 250)
    assert all(taken == [] for taken in replays(network, "b"))
    # The answers to the replays have told the peer already that it speaks to a new process.
    assert network.send("a", "b", b"now") == [b"now"]
    assert all(taken == [] for taken in replays(network, "b"))
    assert network.send("b", "a", b"fine") == [b"fine"]


def test_nothing_of_an_earlier_process_of_the_sender_is_good(network: Network) -> None:
    for n in range(5):
        network.send("a", "b", b"%d" % n)
    held_back = network.nodes["a"].sign("b", b"held back")
    network.start("a", 150)
    assert network.send("a", "b", b"new process") == [b"new process"]
    assert fault(network.nodes["b"], held_back) == "stale_sender"
    assert all(taken == [] for taken in replays(network, "b"))
    assert network.send("a", "b", b"still") == [b"still"]


def test_a_sender_whose_clock_was_set_back_is_heard_in_the_end(network: Network) -> None:
    network.send("a", "b", b"x")
    network.send("b", "a", b"x")
    network.start("a", 50)
    taken = [body for n in range(5) for body in network.send("a", "b", b"%d" % n)]
    assert b"4" in taken
    assert network.nodes["a"].incarnation > 100
    assert network.send("b", "a", b"back") == [b"back"]


def test_introductions_are_few(network: Network) -> None:
    junk = [network.nodes["a"].sign("b", b"x") for _ in range(100)]
    answers = [len(network.nodes["b"].verify(payload, 5.0 + n / 1000).answers) for n, payload in enumerate(junk)]
    assert 1 <= sum(answers) <= 6


def test_two_that_were_both_started_anew_do_not_chatter(network: Network) -> None:
    network.send("a", "b", b"x")
    network.start("a", 110)
    network.start("b", 210)
    network.record.clear()
    assert network.send("a", "b", b"y") == [b"y"]
    assert network.send("b", "a", b"z") == [b"z"]
    assert len(network.record) <= 5


def test_two_processes_raised_past_the_same_one_do_not_pass_for_each_other() -> None:
    """Each is restarted with its clock set back, and is told of the first one's incarnation before the other's."""
    draws = iter([7, 3])
    b = DatagramAuth(SECRET, "b", ["a"], 200)
    first = DatagramAuth(SECRET, "a", ["b"], 100)
    b.verify(first.sign("b", b"body"), 0.0)
    raised = []
    for incarnation in (50, 60):
        a = DatagramAuth(SECRET, "a", ["b"], incarnation, lambda: next(draws))
        for answer in b.verify(a.sign("b", b"body"), 1.0 + incarnation).answers:
            a.verify(answer, 0.0)
        raised.append(a.incarnation)
    assert raised[0] != raised[1]


@pytest.mark.parametrize("what", ["incarnation", "number"])
def test_who_knew_the_secret_and_has_gone_leaves_nobody_unheard(network: Network, what: str) -> None:
    """It has said the highest incarnation, or number, in a peer's name."""
    network.send("a", "b", b"x")
    network.send("b", "a", b"x")
    b = network.nodes["b"]
    liar = DatagramAuth(SECRET, "a", ["b"], OUTBID_MAX)
    liar.incarnation = INCARNATION.most if what == "incarnation" else 100
    known = liar._peers["b"]
    known.incarnation, known.sent = b.incarnation, COUNTER.most - 1
    assert network.deliver("b", liar.sign("b", b"lie")) == [b"lie"]
    assert fault(b, network.nodes["a"].sign("b", b"unheard"), network.now) in ("stale_sender", "replayed")
    assert b.incarnation == 200
    network.now += FORGOTTEN_S
    heard = [body for n in range(3) for body in network.send("a", "b", b"%d" % n)]
    assert heard[-1] == b"2"
    assert OUTBID_MAX > b.incarnation > 200
    assert network.send("b", "a", b"and back") == [b"and back"]
    assert all(taken == [] for taken in replays(network, "b"))


@pytest.mark.parametrize("field", ["sender", "receiver", "number"])
def test_numbers_out_of_range_are_refused_though_they_are_signed(network: Network, field: str) -> None:
    """One more would not fit."""
    a = network.nodes["a"]
    known = a._peers["b"]
    for above in (0, 1):
        known.incarnation, known.sent = 200, 0
        if field == "sender":
            a.incarnation = INCARNATION.most + above
        elif field == "receiver":
            known.incarnation = INCARNATION.most + above
        else:
            known.sent = COUNTER.most - 1 + above
        told = fault(network.nodes["b"], a.sign("b", b"x"))
        assert told == ("malformed" if above else "other_incarnation" if field == "receiver" else "")


def test_nobody_is_outbid_to_the_end_of_all_numbers(network: Network) -> None:
    network.send("a", "b", b"x")
    network.send("b", "a", b"x")
    a, b = network.nodes["a"], network.nodes["b"]
    a._peers["b"].incarnation = INCARNATION.most
    assert fault(b, a.sign("b", b"x")) == "other_incarnation"
    assert b.incarnation == 200
    a._peers["b"].incarnation = OUTBID_MAX
    assert fault(b, a.sign("b", b"x")) == "other_incarnation"
    assert b.incarnation == OUTBID_MAX + 1


NEW = b"the new secret of all"


def test_while_a_secret_is_replaced_all_hear_each_other(network: Network) -> None:
    """a and b go round; c is started anew in between, and takes the new one only."""
    a, b = network.nodes["a"], network.nodes["b"]

    def all_hear() -> bool:
        names = list(network.nodes)
        pairs = [(one, other) for one in names for other in names if one != other]
        for one, other in pairs:
            with suppress(BadDatagram):  # c does not take the old one: a and b have yet to hear it
                network.send(one, other, b"first contact")
        return all(network.send(one, other, b"body") == [b"body"] for one, other in pairs)

    assert all_hear()
    a.take_secrets([SECRET, NEW], is_new_used=False)
    assert all_hear()
    b.take_secrets([SECRET, NEW], is_new_used=False)
    network.start("c", 400, NEW)
    assert all_hear(), "who takes both answers in the one that it was spoken to in"
    a.take_secrets([NEW, SECRET], is_new_used=True)
    assert all_hear()
    b.take_secrets([NEW, SECRET], is_new_used=True)
    a.take_secrets([NEW], is_new_used=True)
    assert all_hear()
    b.take_secrets([NEW], is_new_used=True)
    assert all_hear()
    assert fault(b, DatagramAuth(SECRET, "a", ["b"], 500).sign("b", b"x")) == "wrong_secret"


def test_the_one_that_a_peer_used_counts_only_as_long_as_these_two_are_taken(network: Network) -> None:
    a, b = network.nodes["a"], network.nodes["b"]
    a.take_secrets([SECRET, NEW], is_new_used=False)
    b.take_secrets([NEW, SECRET], is_new_used=True)
    network.send("b", "a", b"first contact")
    assert network.send("b", "a", b"body") == [b"body"]
    a.take_secrets([SECRET, b"a third one, which b knows nothing of"], is_new_used=False)
    network.send("a", "b", b"first contact")
    assert network.send("a", "b", b"body") == [b"body"]


@pytest.mark.parametrize("was_taken", [False, True])
def test_what_a_peer_said_before_it_went_over_says_nothing_of_what_it_takes_now(
    network: Network, was_taken: bool
) -> None:
    """b takes the new one alone by now. Who holds back a datagram, or sends one once more, must not part the two."""
    a, b = network.nodes["a"], network.nodes["b"]
    network.send("b", "a", b"first contact")
    a.take_secrets([SECRET, NEW], is_new_used=False)
    record = b.sign("a", b"recorded")
    if was_taken:
        network.deliver("a", record)
    b.take_secrets([NEW], is_new_used=True)
    assert network.send("b", "a", b"body") == [b"body"]
    assert fault(a, record, network.now) == ("replayed" if was_taken else "")
    assert network.send("a", "b", b"body") == [b"body"]


def test_the_new_one_is_used_with_whoever_still_uses_the_old_one_too(network: Network) -> None:
    a, b = network.nodes["a"], network.nodes["b"]
    assert network.send("b", "a", b"first contact") == [b"first contact"]
    for is_new_used, told in ((False, ""), (True, "wrong_secret")):
        a.take_secrets([NEW, SECRET], is_new_used=is_new_used)
        assert network.send("b", "a", b"body") == [b"body"]
        assert fault(b, a.sign("b", b"back"), network.now) == told


def test_what_is_too_short_is_malformed(network: Network) -> None:
    b = network.nodes["b"]
    whole = DatagramAuth(SECRET, "", ["b"], 100).sign("b", b"")
    assert fault(b, whole) == "unknown_sender", "the shortest: a nameless one says nothing"
    for length in range(1, len(whole)):
        assert fault(b, whole[:length]) == "malformed"


def test_an_incarnation_is_raised_by_what_is_drawn_besides() -> None:
    a, b = DatagramAuth(SECRET, "a", ["b"], 100), DatagramAuth(SECRET, "b", ["a"], 50, lambda: 6)
    a._peers["b"].incarnation = 70
    b._peers["a"].incarnation = 100
    b.verify(a.sign("b", b"x"), 0.1)
    assert b.incarnation == 70 + 1 + 6
    known = b._peers["a"]
    known.taken_s, known.received = 0.0, 1 << 20
    a._peers["b"].incarnation = b.incarnation
    b.verify(a.sign("b", b"x"), FORGOTTEN_S + 0.1)
    assert b.incarnation == 77 + 1 + 6


def test_with_a_peer_that_was_none_for_a_while_the_numbers_go_on(network: Network) -> None:
    a, b = network.nodes["a"], network.nodes["b"]
    for number in range(3):
        assert network.send("a", "b", b"%d" % number) == [b"%d" % number]
    recorded = network.record[-1][1]
    a.change_peers(["c"])
    a.change_peers(["b", "c"])
    assert network.send("a", "b", b"3") == [b"3"]
    b.change_peers(["c"])
    with pytest.raises(BadDatagram, match="unknown_sender"):
        b.verify(recorded, network.now)
    b.change_peers(["a"])
    with pytest.raises(BadDatagram, match="replayed"):
        b.verify(recorded, network.now)


def test_of_those_that_are_peers_no_more_not_all_are_kept_in_mind() -> None:
    auth = DatagramAuth(SECRET, "a", ["b"], 1)
    for number in range(1000):
        auth.change_peers([f"x{number}"])
    assert len(auth._former) == 2 * SERVERS_MAX
    assert "b" not in auth._former
    assert "x998" in auth._former


def test_who_has_signed_is_told_of_a_stranger(network: Network) -> None:
    stranger = DatagramAuth(SECRET, "d", ["a"], 1)
    signed = stranger.sign("a", b"body")
    assert network.nodes["a"].stranger(signed) == "d"
    for payload, reason in (
        (signed[:-1] + bytes([signed[-1] ^ 1]), "wrong_secret"),
        (DatagramAuth(b"another", "d", ["a"], 1).sign("a", b"body"), "wrong_secret"),
        (DatagramAuth(SECRET, "d", ["b"], 1).sign("b", b"body"), "wrong_secret"),
        (b"", "not_signed"),
        (signed[:20], "malformed"),
    ):
        with pytest.raises(BadDatagram, match=reason):
            network.nodes["a"].stranger(payload)
