"""How many bytes of answers an address gets: by a clock that is set, and draws that are repeated."""

import random

import pytest

from app.front.rate import BUCKETS, BURST_S, LOOK_MAX_BYTES, AnswerRate

VICTIM, OTHER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
MIB = 1 << 20
SEED = 20_260_402


class Exempt(dict[bytes, bool]):
    """Nobody, but who is named."""

    def __missing__(self, host: bytes) -> bool:
        return False


class Metered:
    """A rate, and the bytes of answers as a batch has them counted."""

    def __init__(self, bytes_per_s: int, exempt: dict[bytes, bool] | None = None) -> None:
        print(f"seed {SEED}")
        self.now_s = 1000.0
        self.rate = AnswerRate(
            bytes_per_s, exempt=Exempt(exempt or {}), now=lambda: self.now_s, random=random.Random(SEED).random
        )
        self._unseen = self.rate.next_look()

    def send(self, host: bytes, length: int) -> int:
        """How many looks have fallen on it."""
        self._unseen -= length
        looks = 0
        while self._unseen < 0:
            self._unseen += self.rate.next_look() + 1
            looks += 1
        if looks:
            self.rate.charge(host, looks)
        return looks

    def is_over(self, host: bytes) -> bool:
        is_over = self.rate.wait_s(host) > 0
        assert not is_over or self.rate.limits_until_s > self.now_s, "nobody would ask"
        return is_over

    def ask(self, host: bytes, seconds: float, length: int, per_s: int) -> int:
        """Answers of this length are asked for at this rate; how many bytes are sent in that time."""
        sent = 0
        for _ in range(int(seconds * per_s)):
            self.now_s += 1 / per_s
            if not self.is_over(host):
                self.send(host, length)
                sent += length
        return sent


@pytest.mark.parametrize("rate", [64 << 10, MIB, 16 * MIB])
@pytest.mark.parametrize("length", [200, 1500, 10_024])
def test_an_address_gets_its_rate_and_once_a_seconds_worth(rate: int, length: int) -> None:
    metered = Metered(rate)
    sent = metered.ask(VICTIM, 10.0, length, max(50, 3 * rate // length))
    assert 0.8 * 11 * rate < sent < 1.2 * 11 * rate + length


def test_an_address_below_its_rate_is_never_over_it() -> None:
    metered = Metered(MIB)
    assert metered.ask(VICTIM, 20.0, 10_000, 70) == 20 * 70 * 10_000


def test_another_address_is_not_charged() -> None:
    metered = Metered(MIB)
    for _ in range(500):
        metered.send(VICTIM, 10_000)
        metered.send(OTHER, 100)
    assert metered.is_over(VICTIM)
    assert not metered.is_over(OTHER)


def test_an_address_that_is_over_it_is_well_again_soon() -> None:
    metered = Metered(MIB)
    for _ in range(10_000):
        metered.send(VICTIM, 10_000)  # much more than it may
    assert 0.2 < metered.rate.wait_s(VICTIM) <= 0.25
    metered.now_s += 0.25
    assert not metered.is_over(VICTIM)
    assert metered.rate.limits_until_s <= metered.now_s


def test_many_addresses_that_are_forged_take_nothing_and_shut_nobody_out() -> None:
    """At the least rate, and with as many bytes as a node can send at all."""
    metered = Metered(64 << 10)
    for number in range(100_000):
        metered.send(number.to_bytes(4), 10_024)
        metered.now_s += 10_024 / 350e6
    assert len(metered.rate._empty_s) == BUCKETS
    shut_out = sum(metered.is_over((number + (1 << 31)).to_bytes(4)) for number in range(10_000))
    assert shut_out < 200, f"{shut_out} of 10,000 honest ones"


def test_who_is_exempt_gets_whatever_there_is() -> None:
    metered = Metered(64 << 10, {VICTIM: True})
    for _ in range(1000):
        metered.send(VICTIM, 10_000)
    assert not metered.is_over(VICTIM)


def test_all_of_a_customers_ipv6_addresses_count_together_and_mapped_ones_by_themselves() -> None:
    metered = Metered(MIB)
    prefix = bytes.fromhex("20010db8000100ff")
    for number in range(1000):
        metered.send(prefix + number.to_bytes(8), 10_000)
        metered.send(bytes(10) + b"\xff\xff" + number.to_bytes(4), 500)
    assert metered.is_over(prefix + b"whatever")
    assert not metered.is_over(bytes(10) + b"\xff\xff" + VICTIM)


def test_nobody_can_see_to_it_that_another_is_charged() -> None:
    """However large the answers, and in whatever order they come."""
    metered = Metered(16 * MIB)
    looks = {VICTIM: 0, OTHER: 0}
    for number in range(200_000):
        host = VICTIM if number % 7 else OTHER
        looks[host] += metered.send(host, 10_000)
    assert looks[OTHER] / looks[VICTIM] == pytest.approx(1 / 6, rel=0.1)


def test_looks_are_as_far_apart_as_they_stand_for() -> None:
    for rate, expected in ((64 << 10, 1 << 10), (1 << 40, LOOK_MAX_BYTES)):
        metered = Metered(rate)
        looks = [metered.rate.next_look() + 1 for _ in range(20_000)]
        assert sum(looks) / len(looks) == pytest.approx(expected, rel=0.02)
    assert BURST_S > 2 * LOOK_MAX_BYTES / (16 * MIB)
