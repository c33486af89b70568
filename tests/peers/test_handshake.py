"""The handshake's messages: what is accepted, and which mistake is told by which word."""

import hmac
from math import inf, nan

import pytest

from app.cluster.limits import CLOCK_MAX_S, INCARNATION
from app.peers.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Handshake, Refused

NONCE = b"n" * NONCE_BYTES
OTHER_NONCE = b"m" * NONCE_BYTES


def reason(shake: Handshake, greeting: bytes) -> str:
    try:
        shake.check(greeting)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(
    ("secret", "theirs", "expected"),
    [
        (None, None, ""),
        (b"one", b"one", ""),
        (b"one", b"two", ""),  # that is for the proof to find
        (b"one", None, "no_secret"),
        (None, b"one", "secret_needed"),
    ],
)
def test_both_or_none_have_a_secret(secret: bytes | None, theirs: bytes | None, expected: str) -> None:
    assert reason(Handshake(secret), Handshake(theirs).greeting(7, 1.5, NONCE)) == expected


def test_greetings() -> None:
    greeting = Handshake(None).greeting(7, 1.5, NONCE)
    assert len(greeting) == GREETING_BYTES
    checked = Handshake(None).check(greeting)
    assert (checked.incarnation, checked.stamp_s) == (7, 1.5)
    assert Handshake(None).hello(7, 1.5, NONCE, "a:1", "b:22") == greeting + b"\x03a:1\x04b:22"
    assert reason(Handshake(None), b"X" + greeting[1:]) == "malformed"
    assert reason(Handshake(None), greeting[:4] + b"\x01" + greeting[5:]) == "other_protocol"


def test_a_proof_is_good_for_one_side_one_secret_and_one_exchange() -> None:
    shake = Handshake(b"secret")
    hello, challenge = shake.hello(7, 1.5, NONCE, "a:1", "b:22"), shake.greeting(8, 2.5, OTHER_NONCE)
    proof = shake.proof("dialler", hello, challenge)
    assert len(proof) == PROOF_BYTES
    shake.check_proof("dialler", hello, challenge, proof)
    wrong = [
        (shake, "acceptor", hello, challenge, proof),
        (Handshake(b"Secret"), "dialler", hello, challenge, proof),
        (shake, "dialler", shake.hello(7, 1.5, OTHER_NONCE, "a:1", "b:22"), challenge, proof),
        (shake, "dialler", shake.hello(7, 1.5, NONCE, "c:1", "b:22"), challenge, proof),
        (shake, "dialler", shake.hello(7, 1.5, NONCE, "a:1", "c:22"), challenge, proof),
        (shake, "dialler", hello, shake.greeting(8, 2.5, NONCE), proof),
        (shake, "dialler", hello, shake.greeting(8, 9.5, OTHER_NONCE), proof),
        (shake, "dialler", hello, challenge, bytes(PROOF_BYTES)),
        (shake, "dialler", hello, challenge, proof[:-1] + bytes([proof[-1] ^ 1])),
    ]
    for checker, *given in wrong:
        with pytest.raises(Refused, match="wrong_secret"):
            checker.check_proof(*given)  # type: ignore[arg-type]


def test_without_a_secret_proofs_prove_nothing() -> None:
    shake = Handshake(None)
    shake.check_proof("dialler", b"hello", b"challenge", shake.proof("dialler", b"hello", b"challenge"))


def test_the_proof_as_other_versions_of_the_program_make_it() -> None:
    key = hmac.digest(b"secret", b"kv links 1", "sha256")
    proof = Handshake(b"secret").proof("dialler", b"hello", b"challenge")
    assert proof == hmac.digest(key, b"diallerhellochallenge", "sha256")
    assert Handshake(None).proof("dialler", b"hello", b"challenge") == bytes(PROOF_BYTES)


def test_names_have_a_bound() -> None:
    assert Handshake(None).hello(7, 1.5, NONCE, "a" * 255, "b").endswith(b"\xff" + b"a" * 255 + b"\x01b")
    with pytest.raises(AssertionError):
        Handshake(None).hello(7, 1.5, NONCE, "a" * 256, "b")


@pytest.mark.parametrize(
    ("incarnation", "stamp_s", "is_good"),
    [
        (INCARNATION.least, 0.0, True),
        (INCARNATION.most, CLOCK_MAX_S, True),
        (0, 0.0, False),
        (INCARNATION.most + 1, 0.0, False),
        (1, -1.0, False),
        (1, nan, False),
        (1, inf, False),
        (1, 2 * CLOCK_MAX_S, False),
    ],
)
def test_numbers_out_of_range_are_refused(incarnation: int, stamp_s: float, is_good: bool) -> None:
    shake = Handshake(None)
    greeting = shake.greeting(incarnation, stamp_s, bytes(NONCE_BYTES))
    if is_good:
        assert shake.check(greeting).stamp_s == stamp_s
    else:
        with pytest.raises(Refused, match="out_of_range"):
            shake.check(greeting)


def test_of_two_secrets_either_is_taken_and_the_first_is_used() -> None:
    both, old, new = Handshake(b"old"), Handshake(b"old"), Handshake(b"new")
    both.take([b"old", b"new"])
    given = ("dialler", b"hello", b"challenge")
    assert [both.check_proof(*given, one.proof(*given)) for one in (old, new)] == [0, 1]
    assert [both.proof(*given, which) for which in (0, 1)] == [old.proof(*given), new.proof(*given)]
    assert both.proof(*given) == old.proof(*given)
    assert Handshake(None).check_proof(*given, bytes(PROOF_BYTES)) == 0
    both.take([b"new"])
    assert both.proof(*given, 1) == new.proof(*given), "it was chosen when there were two"
    with pytest.raises(Refused, match="wrong_secret"):
        both.check_proof(*given, old.proof(*given))
