"""Files read at the start and again: the second time nothing is waited for."""

import os
from pathlib import Path

import pytest

from app.config import files


def test_the_first_bytes_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    for again in (False, True):
        assert files.read(str(path), 3, again=again) == b"abc"


def test_a_pipe_can_not_be_read_again(tmp_path: Path) -> None:
    """One that nobody writes would be waited for, for ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="can't be read again") as caught:
        files.read(str(path), 3, again=True)
    assert caught.value.strerror


@pytest.mark.parametrize("again", [False, True])
def test_what_is_not_there_is_an_error(tmp_path: Path, again: bool) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "none"), 3, again=again)
    with pytest.raises(ValueError, match="null byte"):
        files.read("a\0b", 3, again=again)


@pytest.mark.parametrize(
    ("mode", "exposed"),
    [
        (0o400, None),
        (0o600, None),
        (0o640, None),  # a group is given to a file on purpose
        (0o660, None),
        (0o601, None),
        (0o604, "0604"),
        (0o602, "0602"),
        (0o644, "0644"),
        (0o444, "0444"),
    ],
)
def test_a_file_that_everybody_may_open_is_told(tmp_path: Path, mode: int, exposed: str | None) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    assert files.exposed_mode(str(path)) == exposed


def test_the_mode_of_what_is_no_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o666)
    assert files.exposed_mode(str(path)) is None
    assert files.exposed_mode(str(tmp_path / "none")) is None, "it is gone since it was read"
