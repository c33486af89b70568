"""What is a cluster's secret and what is not, and whose file may be read by others."""

import os
import threading
from pathlib import Path

import pytest

from app.config.secret import SecretFile, Secrets, parse_secret, read_secret

SIXTEEN = b"0123456789abcdef"


def read(path: Path, content: bytes) -> SecretFile:
    path.write_bytes(content)
    return read_secret(str(path))


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (SIXTEEN, SIXTEEN),
        (SIXTEEN + b"\n", SIXTEEN),
        (SIXTEEN + b"\r\n", SIXTEEN),
        (SIXTEEN + b"\n\n", SIXTEEN + b"\n"),
        (b" " + SIXTEEN + b" ", b" " + SIXTEEN + b" "),
        (b"correct horse battery staple\n", b"correct horse battery staple"),
        (bytes(range(128, 144)), bytes(range(128, 144))),
        (b"x" * 4096 + b"\r\n", b"x" * 4096),
    ],
)
def test_a_variable_and_a_file_are_read_alike(tmp_path: Path, content: bytes, secret: bytes) -> None:
    assert parse_secret(os.fsdecode(content)) == secret
    assert read(tmp_path / "secret", content).secret == secret


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"", 0),
        (b"\n", 0),
        (b" " * 40, 0),
        (SIXTEEN[:15], 15),
        (SIXTEEN[:15] + b"\n", 15),
        (SIXTEEN[:15] + b"\n\n", 15),
        (b"  " + SIXTEEN[:15] + b"\t\r\n", 15),
        ("fünfzehn bytes".encode(), 15),
    ],
)
def test_less_than_16_bytes_are_none_and_white_space_around_does_not_count(
    tmp_path: Path, content: bytes, size: int
) -> None:
    with pytest.raises(ValueError, match=f"at least 16 bytes, and this one {size}: make one by"):
        parse_secret(os.fsdecode(content))
    with pytest.raises(ValueError, match=f"at least 16 bytes, and this one {size}: make one by"):
        read(tmp_path / "secret", content)


@pytest.mark.parametrize("content", [b"x" * 4097, b"x" * 4096 + b"\r\n\n", b"x" * 4096 + b"\r\nx", b"x" * (1 << 20)])
def test_more_than_4096_bytes_are_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        parse_secret(os.fsdecode(content))
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        read(tmp_path / "secret", content)


def test_what_is_wrong_is_said_without_the_secret(tmp_path: Path) -> None:
    for content in (b"swordfish", b"swordfish" * 1000):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
            read(tmp_path / "secret", content)
        assert "swordfish" not in str(caught.value)
    assert "0123456789" not in repr(read(tmp_path / "secret", SIXTEEN))


def test_a_pipe_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(SIXTEEN + b"\n",))
    writer.start()
    assert read_secret(str(path)) == SecretFile(SIXTEEN, str(path))
    writer.join()


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't read it: No such file or directory"):
        read_secret(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="can't read it: Is a directory"):
        read_secret(str(tmp_path))
    with pytest.raises(ValueError, match=r"can't read it: .*null"):
        read_secret("a\0b")


OLD, NEW, THIRD = b"the old one" * 2, b"the new one" * 2, b"another one" * 2


@pytest.mark.parametrize(
    ("before", "file", "after", "shown"),
    [
        (Secrets((OLD,)), OLD, Secrets((OLD,)), "one"),
        (Secrets((OLD,)), NEW, Secrets((OLD, NEW), is_new_used=False), "old_and_new_taken_old_used"),
        (Secrets((OLD, NEW), is_new_used=False), NEW, Secrets((NEW, OLD)), "old_and_new_taken_new_used"),
        (Secrets((NEW, OLD)), NEW, Secrets((NEW,)), "one"),
        (Secrets((OLD, NEW), is_new_used=False), OLD, Secrets((OLD,)), "one"),
        (Secrets((NEW, OLD)), OLD, Secrets((OLD, NEW)), "old_and_new_taken_new_used"),
        (Secrets((NEW, OLD)), THIRD, Secrets((NEW, THIRD), is_new_used=False), "old_and_new_taken_old_used"),
    ],
)
def test_a_secret_is_replaced_in_three_rounds(before: Secrets, file: bytes, after: Secrets, shown: str) -> None:
    assert before.reread(file) == after
    assert after.describe() == shown


def test_secrets_are_not_shown() -> None:
    assert "old" not in repr(Secrets((OLD, NEW)))
    assert Secrets().describe() == "none"
