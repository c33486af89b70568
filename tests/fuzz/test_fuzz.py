"""Every input of the corpus again, some seconds more of each target, and the fourth server's lies."""

import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import links, said
from tests.fuzz.choices import Drawn, FromBytes
from tests.fuzz.targets import TARGETS

SEED = 20_261_128
GUIDED_S = 12.0  # a target
INPUTS = [(name, file) for name in TARGETS for file in sorted((fuzz.CORPUS / name).iterdir())]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is refused here is refused thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_every_target_has_a_corpus() -> None:
    assert set(fuzz.NAMES) == set(TARGETS)
    assert {name for name, _ in INPUTS} == set(TARGETS)
    assert not [file for _, file in INPUTS if file.stat().st_size > fuzz.INPUT_MAX_BYTES]


@pytest.mark.parametrize(("name", "file"), INPUTS, ids=lambda part: part if isinstance(part, str) else part.name[:16])
def test_what_was_kept_does_no_harm(name: str, file: Path) -> None:
    TARGETS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_nor_does_anything_at_all(name: str) -> None:
    rng = Random(SEED)
    for data in (b"", b"\0", b"\xff" * 100, *(rng.randbytes(rng.choice((10, 100, 400))) for _ in range(20))):
        TARGETS[name](data)


@pytest.mark.skipif(not fuzz.is_possible(), reason=fuzz.WHY_NOT)
@pytest.mark.parametrize("name", TARGETS)
def test_guided(name: str) -> None:
    print(f"seed {SEED}")
    assert fuzz.fuzz(name, GUIDED_S, SEED) == 0


def test_lies_are_of_every_kind_sound_and_unsound() -> None:
    choices = Drawn(Random(SEED))
    truth = said.Truth(("a:1", "b:1"))
    seen = {(kind, said.is_sound_frame(kind, body)) for kind, body in (said.frame(choices, truth) for _ in range(9000))}
    assert {(kind, is_sound) for kind in said.KINDS for is_sound in (True, False)} <= seen
    messages = [said.message(choices, truth) for _ in range(2000)]
    assert {(message.kind, said.is_sound(message)) for message in messages} >= {(3, True), (3, False), (12, True)}


def test_choices_are_read_to_their_end_and_then_the_first() -> None:
    choices = FromBytes(b"\x05\x03abcd")
    assert (choices.number(7), choices.raw(100), choices.is_over) == (5, b"abc", False)
    assert (choices.number(200), choices.is_over) == (100, True)
    assert (choices.number(7), choices.raw(9), choices.number(0)) == (0, b"", 0)


def test_what_is_out_of_range_changes_nothing_that_clients_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other lies have a tool of their own: python -m tests.fuzz.links."""
    monkeypatch.setattr(links, "MODES", ("unsound",))
    monkeypatch.setattr(links, "LIES_S", 5.0)
    links.run(tmp_path, SEED, 0.0)
