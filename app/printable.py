r"""Text that others wrote, made fit to be shown on a terminal.

Keys, values, server names and sentences from nodes, lines of files and arguments may hold anything. Printed as they
are, they would move the cursor, set the terminal's title, answer in the user's name, turn the reading direction, or
pretend to be a line of their own. What counts as printable is Unicode's word (str.isprintable). Everything else is
written as an escape: control characters (C0, DEL, C1), line and paragraph separators, directions (U+202A to U+202E,
U+2066 to U+2069) and other invisible characters.

A backslash is left as it is, so that paths and patterns stay readable: whether `\n` was two characters or a line's end
can't be told from what is shown. Where it matters, programs print JSON, or the bytes themselves into a pipe.
"""

from typing import Final

_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str, keep: str = "") -> str:
    r"""The text with an escape (\n, \x1b, \u202e, \U000e0001) for each character that isn't printable, but for those in
    `keep`. A byte that wasn't UTF-8, which Python keeps as a lone surrogate (surrogateescape), is \x80 to \xff."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
