"""The secret that the nodes of a cluster share: where it comes from, and what is too weak to be one.

It is not guessed from what nodes send as long as it is random and long enough: whoever records a handshake can try
secrets on it at home, billions a second, so one that people make up, or a short one, is none. 16 bytes is the length
below which a node does not start; how random they are nobody can see from outside.

A secret that is read from a file may be replaced while the nodes run, in three rounds (`Secrets`): first each takes the
new one as well, then each uses it, then each takes no other. Rejected: to go over at once, which parts the nodes that
have from those that have not.

Both sources are read alike, so that nodes of which one has it from a variable and another from a file agree: one line
end at the end, which editors, `echo` and mounted files add, is no part of it.
"""

import os
from dataclasses import dataclass, field
from typing import Final

from app.config import files

# 128 bits if every one is random; base64 and hexadecimal text of that length still have 96 and 64.
SECRET_MIN_BYTES: Final = 16
# A file of more than 4 KiB is no secret.
SECRET_MAX_BYTES: Final = 4096
_HOW_TO: Final = "make one by `head -c 24 /dev/urandom | base64`"


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret that was read from a file."""

    secret: bytes = field(repr=False)
    path: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """Those that a node takes from others, the one that it uses itself first; without any it goes by addresses.

    `is_new_used`: False while a second one is there that the others may not take yet.
    """

    taken: tuple[bytes, ...] = field(default=(), repr=False)
    is_new_used: bool = True

    def reread(self, secret: bytes) -> "Secrets":
        """After the file was read again, and has this: a step further, if it is another one than that in use, or if
        there are two.

            file       before                          after
            b          takes a                         takes a and b, uses a
            b          takes a and b, uses a           takes b and a, uses b
            b          takes b and a, uses b           takes b
            a          takes a                         the same
        """
        assert self.taken, "a node that goes by addresses goes on so"
        if secret == self.taken[0]:
            return Secrets(self.taken[:1])
        if secret in self.taken:
            return Secrets((secret, self.taken[0]))
        return Secrets((self.taken[0], secret), is_new_used=False)

    def describe(self) -> str:
        """For the log."""
        if len(self.taken) < 2:
            return "one" if self.taken else "none"
        return "old_and_new_taken_new_used" if self.is_new_used else "old_and_new_taken_old_used"


def parse_secret(text: str) -> bytes:
    """The secret that a variable holds. ValueError if it is too short or too long."""
    return _checked(os.fsencode(text))


def read_secret(path: str, *, again: bool = False) -> SecretFile:
    """The secret that a file holds, or a pipe like that of the shell's <(...); `again`: see files.py. ValueError with
    what is wrong."""
    try:
        data = files.read(path, SECRET_MAX_BYTES + 3, again=again)  # a byte more than fits with its line end
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ValueError(f"can't read it: {error.strerror if isinstance(error, OSError) else error}") from None
    return SecretFile(_checked(data), path)


def _checked(data: bytes) -> bytes:
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) > SECRET_MAX_BYTES:
        raise ValueError(f"a secret has at most {SECRET_MAX_BYTES} bytes: {_HOW_TO}")
    size = len(secret.strip())  # white space around it is part of it, and makes it no harder to guess
    if size < SECRET_MIN_BYTES:
        raise ValueError(f"a secret has at least {SECRET_MIN_BYTES} bytes, and this one {size}: {_HOW_TO}")
    return secret
