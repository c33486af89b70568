"""What is shown on a terminal holds nothing that a terminal would act on."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("greeting", "greeting"),
        (r"C:\new", r"C:\new"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x07\x08\x1b[31m\x7f", r"\x00\x07\x08\x1b[31m\x7f"),
        ("\x85\x9b31m", r"\u0085\u009b31m"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("a\u202egpj.exe\u2066", r"a\u202egpj.exe\u2066"),
        ("\U000e0001", r"\U000e0001"),
        ("\ud800", r"\ud800"),
        (b"a\xff\x9b".decode("utf-8", "surrogateescape"), r"a\xff\x9b"),
    ],
)
def test_what_a_terminal_would_act_on_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_is_to_be_kept_is_kept() -> None:
    assert printable("a\n\tb\r\x1b", keep="\n\t") == "a\n\tb\\r\\x1b"


@given(st.text(alphabet=st.characters()))
def test_nothing_else_comes_out(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()  # no lone surrogate is left


def test_every_control_and_direction_is_escaped() -> None:
    for code in range(0x110000):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert printable(char).startswith("\\"), hex(code)
            assert printable(char).isascii()
